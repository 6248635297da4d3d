"""Who may do what: rights, the roles that hold them, and the right that each act needs.

A *right* is one thing that can be done. A *role* is a set of rights. An *act* is a route of the gateway, a route of
the admin port or a verb of the command line, and each has exactly one rule here: the right that it needs, or
`OPEN`. What has no rule is done by nobody; tests hold every route and verb to having one, and
docs/reference/roles.md is made from these tables.

The six roles keep duties apart. An `auditor` reads everything that was recorded and sees no secret, makes no call
and changes nothing. An `operator` runs the service and sees neither keys nor who used it for what. A `developer`
calls models and sees his own. A `viewer` sees that it runs. A `service` is a program that calls models. Nobody but
an `admin` gives rights away.

Roles of a user's own are made of the same rights (`identity.roles`), so nothing new can be granted by mistake.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

OPEN = ""  # needs no right: nothing is told or done that anyone may not know or do

RIGHTS: dict[str, str] = {
    "inference": "call models",
    "models.list": "see which models there are",
    "batch": "keep files and have batches of requests answered",
    "usage.own": "see what one has used oneself",
    "usage.all": "see what others have used",
    "audit.read": "read, verify and export the audit log and its reports",
    "audit.manage": "set holds, delete what is past its time, change the keys of hashes, ship records",
    "status.read": "see what runs, its logs and the state of the machine",
    "metrics.read": "read metrics",
    "config.read": "read the file, plans, and what is rendered from it",
    "config.apply": "put a changed file in force",
    "fleet.operate": "restart, scale, roll out, put to sleep; install engines and models",
    "service.run": "start and stop the service",
    "keys.own": "make, rotate and revoke keys of one's own",
    "keys.list": "see everybody's keys and their rights, never the secrets",
    "keys.manage": "make, rotate and revoke everybody's keys",
    "tokens.revoke": "have tokens and certificates refused",
    "secrets.check": "try whether secrets can be read, without seeing them",
    "store.manage": "move, back up and restore the ledger",
    "identity.manage": "set the break-glass password",
}

_SEES = frozenset({"models.list", "status.read", "metrics.read"})
ROLES: dict[str, frozenset[str]] = {
    "admin": frozenset(RIGHTS),
    "operator": _SEES
    | {"config.read", "config.apply", "fleet.operate", "service.run", "secrets.check", "store.manage"},
    "developer": frozenset({"inference", "models.list", "batch", "usage.own", "keys.own"}),
    "auditor": _SEES | {"audit.read", "usage.own", "usage.all", "keys.list", "config.read"},
    "viewer": _SEES,
    "service": frozenset({"inference", "models.list", "batch", "usage.own"}),
}
ROLE_SAYS: dict[str, str] = {
    "admin": "may do everything, and alone decides who may do what",
    "operator": "runs the service; sees no keys and nobody's usage",
    "developer": "calls models, with keys of his own; sees his own usage",
    "auditor": "reads all that was recorded; changes nothing, calls nothing, sees no secret",
    "viewer": "sees that it runs",
    "service": "a program that calls models",
}
# What whoever makes keys may give without having it: what programs and their makers do, which governs nobody.
GIVEN_FREELY: frozenset[str] = ROLES["developer"] | ROLES["service"]
assert set(ROLES) == set(ROLE_SAYS), "every role is explained"
assert all(rights <= RIGHTS.keys() for rights in ROLES.values()), "roles hold rights that exist"

# What callers ask of the gateway; the first part of a path that fits counts, a longer one before a shorter.
GATEWAY_RULES: dict[str, str] = {
    "/": OPEN,
    "/healthz": OPEN,
    "/readyz": OPEN,
    "/v1/models": "models.list",
    "/v1/chat/completions": "inference",
    "/v1/completions": "inference",
    "/v1/embeddings": "inference",
    "/v1/responses": "inference",
    "/v1/messages": "inference",
    "/v1/messages/count_tokens": "inference",
    "/tokenize": "inference",
    "/detokenize": "inference",
    "/v1/files": "batch",
    "/v1/batches": "batch",
}

# The admin port, by method and route as the console writes it.
ADMIN_RULES: dict[str, str] = {
    "GET /healthz": OPEN,
    "GET /readyz": OPEN,
    "GET /metrics": "metrics.read",  # open to anyone unless the file says otherwise (admin.metrics)
    "GET /admin/status": "status.read",
    "GET /admin/openapi.json": OPEN,  # routes and their rules, nothing of this service
    "POST /admin/reload": "config.apply",
    "POST /admin/stop": "service.run",
    "POST /admin/models/{model:path}/{verb}": "fleet.operate",
    "GET /admin/whoami": OPEN,  # to whoever is known
    "GET /admin/keys/own": "keys.own",
    "POST /admin/keys/own": "keys.own",
    "POST /admin/keys/own/{id}/rotate": "keys.own",
    "DELETE /admin/keys/own/{id}": "keys.own",
    "GET /admin/usage/own": "usage.own",
    "GET /admin/keys": "keys.list",
    "POST /admin/keys": "keys.manage",
    "DELETE /admin/keys": "keys.manage",
    "GET /admin/keys/{id}": "keys.list",
    "DELETE /admin/keys/{id}": "keys.manage",
    "POST /admin/keys/{id}/rotate": "keys.manage",
    "GET /admin/denials": "keys.list",
    "POST /admin/denials": "tokens.revoke",
    "DELETE /admin/denials": "tokens.revoke",
    "GET /admin/roles": "config.read",
    "GET /admin/access-review": "audit.read",
    "POST /admin/access-review": "audit.read",  # that it was reviewed, by whoever did
    "GET /admin/compliance/{framework}": "audit.read",
    "POST /admin/secrets/check": "secrets.check",
    "GET /admin/usage": "usage.all",
    "GET /admin/audit": "audit.read",
    "GET /admin/audit/calls/{id}": "audit.read",
    "GET /admin/audit/verify": "audit.read",
    "POST /admin/audit/verify": "audit.read",  # against checkpoints that were kept elsewhere
    "GET /admin/audit/export": "audit.read",
    "GET /admin/audit/key": "audit.read",
    "POST /admin/audit/key/rotate": "audit.manage",
    "POST /admin/audit/checkpoint": "audit.read",
    "GET /admin/audit/holds": "audit.read",
    "POST /admin/audit/holds": "audit.manage",
    "DELETE /admin/audit/holds/{id}": "audit.manage",
    "POST /admin/audit/prune": "audit.manage",
    "GET /admin/audit/ship": "audit.read",
    "GET /admin/audit/ship/{sink}/refused": "audit.read",
    "POST /admin/audit/ship/{sink}/replay": "audit.manage",
    "GET /admin/audit/hash-keys": "audit.read",
    "POST /admin/audit/hash-keys": "audit.manage",
    "DELETE /admin/audit/hash-keys/{id}": "audit.manage",
    "POST /admin/audit/hash-prompt": "audit.read",
    "GET /admin/limits": "usage.all",
    "POST /admin/limits/reset": "keys.manage",
    "GET /admin/login": OPEN,
    "GET /admin/login/{issuer}": OPEN,
    "GET /admin/callback": OPEN,
    "POST /admin/login": OPEN,
    "PUT /admin/password": "identity.manage",
    "POST /admin/password": OPEN,  # it asks for the present password itself
    "POST /admin/logout": OPEN,
}

# The command line, by verb and what follows it. A verb of several acts may have one rule for those not named.
VERB_RULES: dict[str, str] = {
    "access-review": "audit.read",
    "admin": "identity.manage",
    "apply": "config.apply",
    "audit": "audit.read",
    "audit hold": "audit.manage",
    "audit hold list": "audit.read",
    "audit prune": "audit.manage",
    "audit rotate-hash-key": "audit.manage",
    "audit rotate-signing-key": "audit.manage",
    "audit ship": "audit.manage",
    "audit ship refused": "audit.read",
    "audit ship status": "audit.read",
    "backup": "store.manage",
    "batch": "batch",
    "bench": "inference",
    "catalog": OPEN,
    "check": "inference",
    "comply": "audit.read",
    "config": "config.read",
    "db": "store.manage",
    "deny": "tokens.revoke",
    "deny list": "keys.list",
    "diff": "config.read",
    "doctor": "status.read",
    "engines": "fleet.operate",
    "engines list": "status.read",
    "epp": "service.run",
    "init": OPEN,
    "keys": "keys.manage",
    "keys list": "keys.list",
    "keys show": "keys.list",
    "limits": "usage.all",
    "limits reset": "keys.manage",
    "login": OPEN,
    "logout": OPEN,
    "logs": "status.read",
    "models": "fleet.operate",
    "models list": "status.read",
    "models show": "status.read",
    "models verify": "status.read",
    "plan": "config.read",
    "ps": "status.read",
    "reload": "config.apply",
    "render": "config.read",
    "restart": "fleet.operate",
    "restore": "store.manage",
    "roles": OPEN,
    "rollout": "fleet.operate",
    "routes": "usage.all",
    "run": "inference",
    "scale": "fleet.operate",
    "schema": OPEN,
    "secrets": "secrets.check",
    "serve": "service.run",
    "simulate": OPEN,
    "sleep": "fleet.operate",
    "stop": "service.run",
    "usage": "usage.all",
    "validate": OPEN,
    "version": OPEN,
    "wake": "fleet.operate",
    "whoami": OPEN,
}
for _rules in (GATEWAY_RULES, ADMIN_RULES, VERB_RULES):
    assert all(right == OPEN or right in RIGHTS for right in _rules.values()), "rules name rights that exist"


class Roles:
    """The six roles and those of the file. `own`: by name, the roles that it extends and the rights it adds.

    A name that is no role holds nothing. Roles of the file may extend only those before them.
    """

    def __init__(self, own: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] | None = None) -> None:
        self.by_name: dict[str, frozenset[str]] = dict(ROLES)
        for name, (extends, adds) in (own or {}).items():
            inherited = [self.by_name.get(other, frozenset()) for other in extends]
            self.by_name[name] = frozenset(RIGHTS.keys() & set().union(adds, *inherited))
        self._known: dict[tuple[str, ...], frozenset[str]] = {}

    def rights(self, roles: tuple[str, ...]) -> frozenset[str]:
        """All that the holder of these roles may do."""
        found = self._known.get(roles)
        if found is None:
            found = frozenset().union(*(self.by_name.get(role, frozenset()) for role in roles))
            if len(self._known) >= 4096:  # tokens may name any number of combinations
                self._known.clear()
            self._known[roles] = found
        return found

    def beyond(self, giver: tuple[str, ...], given: tuple[str, ...]) -> list[str]:
        """The rights in `given` that the holder of the roles `giver` may not give to anybody; [] is as it should be.

        Whoever may make keys, and is no admin, could else make one for an admin and be one.
        """
        return sorted(self.rights(given) - GIVEN_FREELY - self.rights(giver))

    def those_with(self, right: str) -> list[str]:
        """The roles that hold a right."""
        return [name for name, rights in self.by_name.items() if right in rights]

    def only_known(self, names: Iterable[str]) -> tuple[str, ...]:
        """The names that are roles here, each once and in order."""
        return tuple(dict.fromkeys(name for name in names if name in self.by_name))


def gateway_right(path: str) -> str | None:
    """The right that a path of the gateway needs; None when it has no rule, and nobody may ask for it."""
    found = GATEWAY_RULES.get(path)
    if found is not None:
        return found
    end = path.rfind("/")
    while end > 0:
        if (found := GATEWAY_RULES.get(path[:end])) is not None:
            return found
        end = path.rfind("/", 0, end)
    return None


def admin_right(method: str, route: str) -> str | None:
    """The right that a route of the admin port needs; None: it has no rule."""
    return ADMIN_RULES.get(f"{'GET' if method == 'HEAD' else method} {route}")


def verb_right(words: Iterable[str]) -> str | None:
    """The right that a verb with its further words needs; None: it has no rule."""
    path = list(words)
    while path:
        if (found := VERB_RULES.get(" ".join(path))) is not None:
            return found
        path.pop()
    return None
