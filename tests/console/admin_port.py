"""The admin port as `gemstead serve` makes it, but for the head: real keys, real sign-in, real counters, a real log."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import time
from functools import cache
from pathlib import Path

from gemstead.console.app import console
from gemstead.console.signin import Pages
from gemstead.gateway.settings import GatewaySettings
from gemstead.ledger.keys import Grant, KeyBook, open_keys
from gemstead.ledger.log import SqliteLog
from gemstead.spec.model import Spec
from gemstead.traffic.budget import Rule, RuleBook, terms
from gemstead.traffic.caller import Caller, RateLimit
from gemstead.traffic.window import Ask, Batch
from gemstead.wiring.counters import LimitStore
from gemstead.wiring.entrance import Entrance, door_of
from gemstead.wiring.files import StateDir
from gemstead.wiring.limitpages import limit_routes
from gemstead.wiring.password import PasswordFile
from gemstead.wiring.policy import Policy
from gemstead.wiring.policy import pages as policy_pages

PEPPER = bytes(32)
PASSWORD = "a long enough phrase"
ROLES = ("admin", "operator", "developer", "auditor", "viewer", "service")
RULES = RuleBook(rules=(Rule(name="r", tokens_per_day=1000),))
TOKEN = "right"  # of the state folder


class Head:
    """A service that does nothing, and answers in the forms of the real one."""

    def ready(self):
        return {"m": True}

    def status(self):
        return {"endpoints": []}

    async def metrics(self):
        return "up 1\n"

    async def reload(self):
        return {"refused": ["line 1"]}

    async def ask(self, verb, model, **how):
        return {"refused": ["no"]} if model == "m" else {"done": f"{verb} {model!r}"}

    def stop(self, *, now):
        pass


class Port:
    """One service's admin port, in a folder of its own. `roles`: of the file, beside the six."""

    def __init__(self, roles=()):
        self.folder = Path(tempfile.mkdtemp(prefix="gemstead-api-"))
        atexit.register(shutil.rmtree, self.folder, True)
        (self.folder / "pepper").write_text(PEPPER.hex())
        self.keys = open_keys(self.folder / "keys.db", PEPPER)
        self.log = SqliteLog(self.folder / "audit.db")
        self.password = PasswordFile(self.folder / "admin.password")
        self.password.path.write_bytes(kept())
        login = {"client_id": "gemstead", "client_secret": "env:SET"}
        issuer = {"name": "corp", "issuer": "http://127.0.0.1:9", "audience": ("gemstead",), "login": login}
        self.spec = Spec.model_validate(
            {
                "identity": {"issuers": (issuer,), "roles": tuple(roles)},
                "audit": {
                    "retention": ({"keep_days": 3000},),
                    "ship": ({"name": "siem", "to": "otlp", "url": "http://127.0.0.1:9"},),
                },
            }
        )
        self.secrets = {name: self.secret(name) for name in ROLES}
        audit = self.folder / "audit.db"
        book = KeyBook(self.folder / "keys.db", PEPPER)
        self.entrance = Entrance(
            book, self.password, audit, lambda reference, where: "", touch=self.keys.touch
        )
        self.entrance.configure(self.spec.identity, {})
        self.door = door_of(self.spec, TOKEN, self.entrance)
        state = StateDir(self.folder, self.folder)
        self.policy = Policy(state, lambda: self.spec, self.keys, self.log, Head().reload, {"SET": "s3cr3t"})
        pages = [
            *Pages(self.door, self.entrance, time.time).routes(),
            *policy_pages(self.policy, self.door),
            *limit_routes(counters()),
        ]
        self.app = console(Head(), TOKEN, self.door, pages)

    def secret(self, *roles):
        """A new key's."""
        return self.keys.create(Grant(roles=roles, user=roles[0]), now=time.time()).secret


@cache
def kept():
    """What is kept of the password: to make it is slow, as it should be."""
    with tempfile.TemporaryDirectory() as folder:
        made = PasswordFile(Path(folder) / "admin.password")
        made.set(PASSWORD, time.time())
        return made.path.read_bytes()


def counters():
    """Where something has been counted."""
    store = LimitStore(GatewaySettings(rulebook=RULES), print)
    caps = terms(RULES, RateLimit(), Caller(key_id="k"), "m").caps
    store.apply(Batch("w", 1, [Ask(cap, 10, 1) for cap in caps], []))
    return store
