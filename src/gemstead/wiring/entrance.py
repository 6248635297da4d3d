"""Who gets in at the admin port: the same keys and tokens as at the gateway, and people who sign in with a browser.

The head has a keyring of its own, told of issuers' keys like any worker. What is denied there is denied here at the
same moment. Every sign-in, and every use and change of the break-glass password, is an act in the audit log.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx2

from gemstead.console.door import Door
from gemstead.gateway.issuers import Came, Identity, Signing
from gemstead.gateway.keyring import Keyring
from gemstead.gateway.tokens import TokenBook
from gemstead.ledger import acts
from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.keys import KeyBook, open_keys
from gemstead.ledger.secrets import secret_at
from gemstead.operate import oidc
from gemstead.refused import Reason, Refused
from gemstead.spec.identity import IdentitySpec, IssuerSpec
from gemstead.spec.model import Spec
from gemstead.traffic.caller import Caller
from gemstead.traffic.roles import Roles
from gemstead.wiring.files import StateDir
from gemstead.wiring.identity import Keeper, identity, provider
from gemstead.wiring.ledger import password_file
from gemstead.wiring.password import DAY_S, BadPassword, PasswordFile, Tries, judge
from gemstead.wiring.secrets import CannotRun, Resolve

TOUCH_S = 60.0


class Entrance:
    """Identifies visitors of the admin port. Use from one event loop."""

    def __init__(
        self,
        book: KeyBook,
        password: PasswordFile,
        audit: Path,
        secret: Resolve,
        ask: Callable[[str], None] = lambda issuer: None,
        say: Callable[[str], None] = lambda sentence: None,
        seen: Callable[[Came], None] = lambda came: None,
        touch: Callable[[Mapping[str, float]], None] = lambda used: None,
    ) -> None:
        self._book, self._file, self._audit, self._secret = book, password, audit, secret
        self._ask, self._say, self._seen = ask, say, seen
        self._spec = IdentitySpec()
        self._tokens: TokenBook | None = None
        self._keyring = Keyring(book)
        self._touch, self._touching = touch, False
        self._tries, self._one_at_a_time = Tries(password.tries), asyncio.Lock()

    def configure(self, spec: IdentitySpec, signing: Mapping[str, Signing]) -> None:
        """Believe the issuers of this file."""
        made: Identity = identity(spec)
        self._spec = spec
        ask = lambda issuer, kid: self._ask(issuer)  # noqa: E731
        self._tokens = TokenBook(made, ask=ask, seen=self._seen) if made.issuers else None
        self._keyring = Keyring(self._book, b"", self._tokens)
        self.learn(signing)

    def learn(self, signing: Mapping[str, Signing]) -> None:
        if self._tokens is not None:
            self._tokens.learn(signing)

    def identify(self, authorization: bytes, client: str) -> Caller:
        """Whose key or token this is. Raises Refused."""
        caller = self._keyring.identify(authorization, None, time.time(), client)
        if not self._touching:
            self._touching = True
            asyncio.get_running_loop().call_later(TOUCH_S, self._remember_use)
        return caller

    def _remember_use(self) -> None:
        self._touching = False
        if used := self._book.used():
            asyncio.get_running_loop().run_in_executor(None, self._write_use, used)

    def end(self) -> None:
        """Write down what is still to be written."""
        if used := self._book.used():
            self._write_use(used)

    def _write_use(self, used: Mapping[str, float]) -> None:
        """When keys were last used here, so that an access review does not take them for unused."""
        try:
            self._touch(used)
        except LedgerTrouble as trouble:
            self._say(f"when keys were last used at the admin port could not be written down: {trouble}")

    def still(self, caller: Caller, since: float) -> bool:
        """Whether somebody who signed in then has not been denied since."""
        now = time.time()
        issuer, colon, subject = caller.key_id.partition(":")
        return not colon or not self._book.denied(now).denies(issuer, subject, "", since, now)

    # Signing in at an issuer.

    def issuers(self) -> list[str]:
        return [one.name for one in self._spec.issuers if one.login is not None]

    async def begin(self, issuer: str, redirect: str) -> oidc.Attempt:
        spec, us = await self._login(issuer)
        try:
            async with oidc.client(at := provider(spec, self._secret)) as http:
                return oidc.begin(await oidc.discover(at, http), us, redirect)
        except (oidc.ProviderTrouble, CannotRun) as trouble:
            raise Refused(Reason.INTERNAL, f"sign-in at {issuer} does not work now: {trouble}") from None

    async def finish(self, issuer: str, attempt: Any, query: str, client: str = "") -> Caller:
        spec, us = await self._login(issuer)
        try:
            async with oidc.client(at := provider(spec, self._secret)) as http:
                document = await oidc.discover(at, http)
                code = oidc.code_of(attempt, query, document)
                tokens = await oidc.redeem(document, us, attempt, code, http)
                oidc.check_id_token(tokens, document, us, attempt, time.time())
        except (oidc.ProviderTrouble, CannotRun, httpx2.HTTPError) as trouble:
            raise Refused(Reason.UNAUTHENTICATED, f"sign-in at {issuer} failed: {trouble}") from None
        token = tokens["id_token" if spec.token == "id" else "access_token"]  # noqa: S105
        caller = self.identify(b"Bearer " + str(token).encode(), "")
        roles, said = ",".join(caller.roles), {"user": caller.user, "roles": list(caller.roles)}
        await self._remember("admin.login", caller.key_id, said, client, tenant=caller.tenant, role=roles)
        return caller

    async def _login(self, issuer: str) -> tuple[IssuerSpec, oidc.Client]:
        spec = next((one for one in self._spec.issuers if one.name == issuer and one.login), None)
        if spec is None or spec.login is None:
            raise Refused(Reason.FORBIDDEN, f"nobody signs in at {issuer[:64]!r} here")
        where = f"identity.issuers ({issuer}).login.client_secret"
        try:
            secret = await asyncio.to_thread(self._secret, spec.login.client_secret, where)
        except CannotRun as trouble:
            raise Refused(Reason.INTERNAL, str(trouble)) from None
        return spec, client_of(spec, secret)

    # The break-glass password.

    def has_password(self) -> bool:
        return self._file.exists()

    async def password(self, given: str, client: str) -> bool:
        async with self._one_at_a_time:  # each try takes 64 MiB and a quarter of a second
            kept = await self._try(given, client)
            now = time.time()
            lasting = judge(kept, now, self._spec.password_days * DAY_S)
            if lasting:
                await asyncio.to_thread(self._file.used, kept, now)
        self._say(f"somebody signed in with the break-glass password from {client or 'this machine'}")
        return lasting

    async def change_password(self, given: str, new: str, client: str) -> None:
        async with self._one_at_a_time:
            await self._try(given, client)
            try:
                await asyncio.to_thread(self._file.set, new, time.time())
            except (BadPassword, OSError, LedgerTrouble) as trouble:
                raise Refused(Reason.FORBIDDEN, str(trouble)) from None
        await self._remember("admin.password.change", "break-glass", None, client)

    async def set_password(self, new: str, actor: str, client: str) -> None:
        """A new password by somebody who may set it without knowing the present one."""
        async with self._one_at_a_time:
            try:
                await asyncio.to_thread(self._file.set, new, time.time())
            except (BadPassword, OSError, LedgerTrouble) as trouble:
                raise Refused(Reason.FORBIDDEN, str(trouble)) from None
        self._say(f"{actor} has set the break-glass password from {client or 'this machine'}")
        await self._remember("admin.password.change", actor, {"set": True}, client)

    async def _try(self, given: str, client: str) -> Any:
        if (wait_s := await asyncio.to_thread(self._begin_try)) > 0:
            raise Refused(
                Reason.FORBIDDEN,
                f"too many wrong passwords: try again in {wait_s / 60:.0f} min, or set a new one on the machine",
            )
        try:
            kept = await asyncio.to_thread(self._file.matches, given)
        except BadPassword as trouble:
            raise Refused(Reason.FORBIDDEN, str(trouble)) from None
        if kept is None:
            self._tries.failed(time.time())
            await self._remember("admin.login.failed", "break-glass", None, client, outcome="refused")
            raise Refused(Reason.UNAUTHENTICATED, "this is not the password")
        await asyncio.to_thread(self._tries.right)
        await self._remember("admin.login", "break-glass", None, client)
        return kept

    def _begin_try(self) -> float:
        return self._tries.begin(time.time(), self._file.set_at() or 0.0)

    async def _remember(self, action: str, actor: str, detail: Any, client: str, **fields: str) -> None:
        """An act that cannot be written down does not happen."""
        act = acts.new_act(action, "admin port", actor=actor, detail=detail, client=client, **fields)
        try:
            await asyncio.to_thread(acts.remember, self._audit, act)
        except LedgerTrouble as trouble:
            raise Refused(
                Reason.LEDGER_UNAVAILABLE, f"this cannot be recorded, so it is not done: {trouble}"
            ) from None


def client_of(spec: IssuerSpec, secret: str) -> oidc.Client:
    """Us, as this issuer knows us."""
    assert spec.login is not None
    return oidc.Client(spec.login.client_id, secret, spec.login.scopes, spec.login.resource)


def entrance(
    spec: Spec,
    folder: StateDir,
    secret: Resolve,
    keeper: Keeper,
    say: Callable[[str], None],
    seen: Callable[[Came], None] = lambda came: None,
) -> Entrance:
    """Who gets in at the admin port of a service with this state folder, which has these keys of issuers."""
    book = KeyBook(folder.keys, secret_at(folder.pepper))
    made = Entrance(
        book,
        password_file(folder),
        folder.audit,
        secret,
        ask=keeper.unknown_key,
        say=say,
        seen=seen,
        touch=open_keys(folder.keys, b"").touch,
    )
    made.configure(spec.identity, keeper.signing)
    keeper.listeners.append(made.learn)
    return made


def door_of(spec: Spec, token: str, made: Entrance) -> Door:
    """The admin port's door, as the file has it."""
    door = Door(token, time.time, identify=made.identify, still=made.still)
    reopen(door, spec)
    return door


def reopen(door: Door, spec: Spec, before: Spec | None = None) -> None:
    """The file has changed: its roles, and how long a sign-in holds. Who signed in by other rules does so anew."""
    if before is not None and before.identity != spec.identity:
        door.close_signed_in()
    door.roles = Roles(identity(spec.identity).roles)
    door.url, door.session_s = spec.admin.url or "", spec.identity.session_s
    door.open_metrics = spec.admin.metrics == "open"
