"""Who stands at the admin port, and whether they may do what they ask for.

Four things let somebody in: the token in the state folder (whoever can read that folder owns the service), an API key
or a signed token whose roles suffice, and the cookie of a sign-in with a browser. Every route has one rule in
`traffic/roles.py`; a route without one is nobody's, and so is a request whose roles do not hold the right.

A cookie is sent by a browser whether its user meant it or not, so what changes something is taken from a browser only
when it says that it comes from our own pages (`Sec-Fetch-Site`, else `Origin`). A session is kept here, in memory: it
ends after a while, at sign-out, when the service ends, and when what it rests on is denied.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gemstead.refused import Reason, Refused
from gemstead.traffic.caller import Caller
from gemstead.traffic.roles import OPEN, Roles, admin_right

OWNER = Caller(key_id="state-folder", user="owner", roles=("admin",))
SESSIONS_MOST = 1000
STATUS = {Reason.UNAUTHENTICATED: 401, Reason.FORBIDDEN: 403, Reason.BAD_REQUEST: 400}
_SAFE_METHODS = ("GET", "HEAD")
_SAID = "this needs the token of the state folder, a key or a sign-in; use `gemstead ps`, `reload` or `stop`"

Identify = Callable[[bytes, str], Caller]  # from an Authorization header and an address; raises Refused


def nobody(authorization: bytes, client: str) -> Caller:
    """Where only the state folder's token lets in."""
    raise Refused(Reason.UNAUTHENTICATED, _SAID)


@dataclass(frozen=True, slots=True)
class Session:
    """A sign-in. `must_change`: nothing may be done but to change the password."""

    caller: Caller
    since: float
    until: float
    must_change: bool = False


class Door:
    """Lets visitors in. `clock` gives Unix seconds; `still` says whether somebody who signed in then still counts."""

    def __init__(
        self,
        token: str,
        clock: Callable[[], float],
        *,
        identify: Identify = nobody,
        still: Callable[[Caller, float], bool] = lambda caller, since: True,
        url: str = "",
        session_s: float = 28_800.0,
        open_metrics: bool = True,
    ) -> None:
        self.roles = Roles()
        # told of each request that changes something: who (None: unknown), method, path, query, address, status
        self.acted: Callable[[Caller | None, str, str, str, str, int], None] = lambda *asked: None
        self.identify, self.still = identify, still
        self.session_s, self.open_metrics, self.url = session_s, open_metrics, url
        self._token, self._clock = token.encode(), clock
        self._sessions: dict[bytes, Session] = {}

    @property
    def secure(self) -> bool:
        """Whether browsers reach us over TLS, by a proxy that the file names."""
        return self.url.startswith("https://")

    @property
    def cookie(self) -> str:
        return "__Host-gemstead" if self.secure else "gemstead_session"

    def origin(self, request: Request) -> str:
        """Our address as the browser knows it."""
        return self.url.rstrip("/") or f"{request.url.scheme}://{request.url.netloc}"

    def visitor(self, request: Request) -> Caller:
        """Who asks.

        Raises:
            Refused: nobody who is known, or a browser on behalf of another page.
        """
        given = request.headers.get("authorization", "").encode()
        if given:
            if hmac.compare_digest(given.removeprefix(b"Bearer "), self._token):
                return OWNER
            return self.identify(given, request.client.host if request.client else "")
        session = self.session(request)
        if session is None:
            raise Refused(Reason.UNAUTHENTICATED, _SAID)
        if session.must_change:
            raise Refused(Reason.FORBIDDEN, "the password must be changed first: POST /admin/password")
        self.check_origin(request)
        return session.caller

    def check_origin(self, request: Request) -> None:
        """Whether a browser asks on behalf of a page of ours.

        Raises:
            Refused: FORBIDDEN, another page made it ask.
        """
        if request.method in _SAFE_METHODS:
            return
        site = request.headers.get("sec-fetch-site")
        ours = (
            site in ("same-origin", "none") if site else request.headers.get("origin") == self.origin(request)
        )
        if not ours:
            raise Refused(Reason.FORBIDDEN, "this was asked for by a page that is not of this service")

    def session(self, request: Request) -> Session | None:
        """The sign-in that the request's cookie stands for."""
        now = self._clock()
        found = self._sessions.get(_hash(request.cookies.get(self.cookie, "")))
        if found is None or now >= found.until or not self.still(found.caller, found.since):
            return None
        return found

    def open_session(self, response: Response, caller: Caller, *, must_change: bool = False) -> None:
        """Remember a sign-in, and give the browser its cookie."""
        now = self._clock()
        self._sessions = {name: one for name, one in self._sessions.items() if now < one.until}
        while len(self._sessions) >= SESSIONS_MOST:
            del self._sessions[next(iter(self._sessions))]
        name = secrets.token_urlsafe(32)
        self._sessions[_hash(name)] = Session(caller, now, now + self.session_s, must_change)
        response.set_cookie(
            self.cookie,
            name,
            max_age=int(self.session_s),
            path="/",
            secure=self.secure,
            httponly=True,
            samesite="lax",
        )

    def close_session(self, request: Request, response: Response) -> None:
        self._sessions.pop(_hash(request.cookies.get(self.cookie, "")), None)
        response.delete_cookie(self.cookie, path="/", secure=self.secure, httponly=True, samesite="lax")

    def close_all(self, user: str) -> None:
        """End every sign-in of a user."""
        self._sessions = {name: one for name, one in self._sessions.items() if one.caller.user != user}

    def close_signed_in(self) -> None:
        """End every sign-in at an issuer: what the file believes has changed, so they sign in anew."""
        self._sessions = {name: one for name, one in self._sessions.items() if ":" not in one.caller.key_id}

    def guarded(self, route: Route) -> Route:
        """The route behind its rule. Who asks is in `request.state.caller`."""
        inner = route.endpoint

        async def endpoint(request: Request) -> Response:
            right = admin_right(request.method, route.path)
            if route.path == "/metrics" and self.open_metrics:
                right = OPEN
            caller: Caller | None = None
            try:
                if right is None:
                    raise Refused(Reason.FORBIDDEN, f"nobody may ask for {route.path}: it has no rule")
                if right:
                    request.state.caller = caller = self.visitor(request)
                    self._check(caller, right)
                answer: Response = await inner(request)
            except Refused as refusal:
                answer = no(refusal)
            if right and request.method not in _SAFE_METHODS:
                client = request.client.host if request.client else ""
                url = request.url
                self.acted(caller, request.method, url.path, url.query, client, answer.status_code)
            answer.headers.setdefault("cache-control", "no-store")
            answer.headers.setdefault("x-content-type-options", "nosniff")
            return answer

        return Route(route.path, endpoint, methods=list(route.methods or ("GET",)))

    def _check(self, caller: Caller, right: str) -> None:
        if right not in self.roles.rights(caller.roles):
            held, needed = ", ".join(caller.roles) or "none", " or ".join(self.roles.those_with(right))
            raise Refused(Reason.FORBIDDEN, f"your roles ({held}) do not let you do this: it takes {needed}")


def no(refusal: Refused) -> Response:
    """A refusal as the admin port says it."""
    return JSONResponse({"error": refusal.message}, STATUS.get(refusal.reason, 503))


def _hash(name: str) -> bytes:
    return sha256(name.encode()).digest()
