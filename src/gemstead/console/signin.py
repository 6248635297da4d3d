"""Signing in at the admin port with a browser: at an issuer of the file, or with the break-glass password.

At an issuer it is the authorization code with PKCE, bound to the browser that began by a cookie; the provider's answer
is verified by `wiring/entrance.py`. The password is for the day when no issuer answers: it is slow to try (argon2id),
tries are limited, every use is written into the audit log, and once used it must be changed within half a day.
"""

from __future__ import annotations

import html
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from gemstead.console.asked import Asked, actor_of, answering
from gemstead.console.door import OWNER, Door, no
from gemstead.console.forms import SetPassword
from gemstead.refused import Reason, Refused
from gemstead.traffic.caller import Caller

ATTEMPT_S = 600.0
ATTEMPTS_MOST = 200
FORM_MOST = 4096  # bytes
BREAK_GLASS = Caller(key_id="break-glass", user="break-glass", roles=("admin",))
_ATTEMPT = "gemstead_attempt"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"


class SignIn(Protocol):
    """What stands behind the pages."""

    def issuers(self) -> list[str]:
        """Those at which people can sign in."""

    async def begin(self, issuer: str, redirect: str) -> Any:
        """An attempt, with its `url` and `state`. Raises Refused."""

    async def finish(self, issuer: str, attempt: Any, query: str, client: str = "") -> Caller:
        """Who has signed in. Raises Refused."""

    def has_password(self) -> bool: ...
    async def password(self, given: str, client: str) -> bool:
        """Whether the password is right and need not be changed; False: it must be. Raises Refused."""

    async def change_password(self, given: str, new: str, client: str) -> None:
        """Raises Refused."""

    async def set_password(self, new: str, actor: str, client: str) -> None:
        """Raises Refused."""


@dataclass(frozen=True, slots=True)
class _Begun:
    issuer: str
    attempt: Any
    until: float


class Pages:
    """The routes of signing in and out."""

    def __init__(self, door: Door, behind: SignIn, clock: Callable[[], float]) -> None:
        self._door, self._behind, self._clock = door, behind, clock
        self._begun: dict[str, _Begun] = {}  # by what the browser's cookie holds

    def routes(self) -> list[Route]:
        return [
            Route("/admin/login", self.page),
            Route("/admin/login", self.password, methods=["POST"]),
            Route("/admin/login/{issuer}", self.begin),
            Route("/admin/callback", self.callback),
            Route("/admin/password", self.change, methods=["POST"]),
            Route("/admin/password", answering("PUT /admin/password", self.set), methods=["PUT"]),
            Route("/admin/logout", self.logout, methods=["POST"]),
            Route("/admin/whoami", self.whoami),
        ]

    async def page(self, request: Request) -> Response:
        rows = "".join(
            f'<p><a href="/admin/login/{html.escape(name)}">Sign in at {html.escape(name)}</a></p>'
            for name in self._behind.issuers()
        )
        if self._behind.has_password():
            rows += (
                '<form method="post"><p><label>Break-glass password <input type="password" name="password" '
                'autocomplete="current-password"></label> <button>Sign in</button></p></form>'
            )
        body = rows or "<p>Nobody can sign in here: the file names no issuer (identity.issuers.login).</p>"
        page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Gemstead</title><h1>Gemstead</h1>{body}'
        return HTMLResponse(
            page, headers={"content-security-policy": _POLICY, "referrer-policy": "no-referrer"}
        )

    async def begin(self, request: Request) -> Response:
        issuer = request.path_params["issuer"]
        try:
            attempt = await self._behind.begin(issuer, self._door.origin(request) + "/admin/callback")
        except Refused as refusal:
            return no(refusal)
        now = self._clock()
        self._begun = {name: one for name, one in self._begun.items() if now < one.until}
        while len(self._begun) >= ATTEMPTS_MOST:
            del self._begun[next(iter(self._begun))]
        name = secrets.token_urlsafe(32)
        self._begun[name] = _Begun(issuer, attempt, now + ATTEMPT_S)
        answer = RedirectResponse(attempt.url, 302)
        answer.set_cookie(
            _ATTEMPT,
            name,
            max_age=int(ATTEMPT_S),
            path="/admin",
            secure=self._door.secure,
            httponly=True,
            samesite="lax",
        )
        return answer

    async def callback(self, request: Request) -> Response:
        begun = self._begun.pop(request.cookies.get(_ATTEMPT, ""), None)
        if begun is None or self._clock() >= begun.until:
            return no(
                Refused(
                    Reason.FORBIDDEN,
                    "this sign-in was not begun in this browser, or too long ago: begin again",
                )
            )
        try:
            caller = await self._behind.finish(
                begun.issuer, begun.attempt, request.url.query, _address(request)
            )
        except Refused as refusal:
            return no(refusal)
        answer = RedirectResponse("/admin/whoami", 303)
        answer.delete_cookie(_ATTEMPT, path="/admin", secure=self._door.secure, httponly=True, samesite="lax")
        self._door.open_session(answer, caller)
        return answer

    async def password(self, request: Request) -> Response:
        try:
            self._door.check_origin(request)
            given = await _form(request, "password")
            lasting = await self._behind.password(given["password"], _address(request))
        except Refused as refusal:
            return no(refusal)
        answer = JSONResponse({"user": BREAK_GLASS.user, "must_change": not lasting})
        self._door.open_session(answer, BREAK_GLASS, must_change=not lasting)
        return answer

    async def change(self, request: Request) -> Response:
        """A new password, for whoever knows the present one."""
        try:
            self._door.check_origin(request)
            given = await _form(request, "password", "new")
            await self._behind.change_password(given["password"], given["new"], _address(request))
        except Refused as refusal:
            return no(refusal)
        self._door.close_all(BREAK_GLASS.user)
        return JSONResponse({"changed": True})

    async def set(self, asked: Asked) -> Any:
        """A new password, set by an admin, whatever the present one is."""
        form: SetPassword = asked.form
        await self._behind.set_password(form.new, actor_of(asked.caller), asked.client)
        self._door.close_all(BREAK_GLASS.user)
        return {"set": True}

    async def logout(self, request: Request) -> Response:
        try:
            self._door.check_origin(request)
        except Refused as refusal:
            return no(refusal)
        answer = JSONResponse({"signed_out": True})
        self._door.close_session(request, answer)
        return answer

    async def whoami(self, request: Request) -> Response:
        """Who the visitor is to us, whatever roles they have."""
        try:
            caller = self._door.visitor(request)
        except Refused as refusal:
            return no(refusal)
        rights = sorted(self._door.roles.rights(caller.roles))
        return JSONResponse({**told(caller), "rights": rights})


def told(caller: Caller) -> dict[str, Any]:
    """A caller, as people may see themselves."""
    names = ("tenant", "app", "user") if caller is not OWNER else ("user",)
    return {
        **{name: getattr(caller, name) for name in names},
        "roles": list(caller.roles),
        "id": caller.key_id,
    }


async def _form(request: Request, *names: str) -> dict[str, str]:
    """The fields of a small form or JSON object."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > FORM_MOST:
            raise Refused(Reason.BAD_REQUEST, "the form is too large")
    import json
    from urllib.parse import parse_qs

    found: dict[str, Any]
    try:
        if request.headers.get("content-type", "").startswith("application/json"):
            found = json.loads(body)
        else:
            found = {
                name: values[0]
                for name, values in parse_qs(body.decode("utf-8"), strict_parsing=True).items()
            }
        given = {name: str(found[name]) for name in names}
        for text in given.values():
            text.encode()  # half a character, written as an escape, is no text
        return given
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Refused(Reason.BAD_REQUEST, f"a form with {' and '.join(names)} is wanted") from None


def _address(request: Request) -> str:
    return request.client.host if request.client else ""
