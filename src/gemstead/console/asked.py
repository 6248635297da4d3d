"""What a route of the admin API is asked, how it answers, and who is remembered to have asked.

A route is a function of what was asked, run in a thread, for it may look into files and databases; or a coroutine. What
it takes is said in `forms.py`; a request that is otherwise is refused here, with a sentence. Whatever goes wrong is
answered in one form: `{"error": sentence}`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from inspect import iscoroutinefunction
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gemstead.console.door import OWNER, no
from gemstead.console.forms import BODIES, QUERIES, Form, Nothing
from gemstead.ledger import acts
from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.granting import Unfit
from gemstead.ledger.key import UnknownKey
from gemstead.ledger.log import AuditLog
from gemstead.refused import Refused
from gemstead.traffic.caller import Caller

BODY_MOST = 65_536  # bytes
BODIES_MOST = {"POST /admin/audit/hash-prompt": 4 << 20}  # a prompt, with what JSON makes of it


class Wrong(Exception):
    """This is not answered, with a status and a sentence that says why."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. `form`: of the type that `forms.py` says; `path`: what stands in the address."""

    caller: Caller
    client: str
    form: Any
    path: dict[str, str]


def answering(route: str, act: Callable[[Asked], Any]) -> Callable[[Request], Any]:
    """The endpoint of a route such as `GET /admin/keys`. `act` gives what JSON can say, or a Response."""

    async def endpoint(request: Request) -> Response:
        try:
            asked = Asked(
                caller=request.state.caller,
                client=request.client.host if request.client else "",
                form=await form_of(request, route),
                path=dict(request.path_params),
            )
            if iscoroutinefunction(act):
                return told(await act(asked))
            return told(await asyncio.to_thread(act, asked))
        except Refused as refusal:
            return no(refusal)
        except Wrong as wrong:
            return told({"error": str(wrong)}, wrong.status)
        except LedgerTrouble as trouble:
            return told({"error": str(trouble)}, status_of(trouble))

    return endpoint


def told(value: Any, status: int = 200) -> Response:
    """The value as JSON; a Response as it is."""
    if isinstance(value, Response):
        return value
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def status_of(trouble: LedgerTrouble) -> int:
    """The status that says what kind of trouble it is."""
    if isinstance(trouble, UnknownKey):
        return 404
    if isinstance(trouble, Unfit):
        return 400
    # By name, so that nothing of a store's driver is loaded here.
    return 503 if type(trouble).__name__ == "StoreAway" else 409


async def form_of(request: Request, route: str) -> Form:
    """What the request holds: its query where the route takes one, its body where it takes that.

    Raises:
        Wrong: 400, it is not as the route takes it; 413, it is too large.
    """
    if (kind := QUERIES.get(route)) is not None:
        given = request.query_params.multi_items()
        if len(dict(given)) < len(given):
            raise Wrong(400, "a name stands twice in the query")
        return _converted(dict(given), kind)
    if request.method in ("GET", "HEAD", "DELETE"):
        return Nothing()
    body, most = b"", BODIES_MOST.get(route, BODY_MOST)
    async for piece in request.stream():
        body += piece
        if len(body) > most:
            raise Wrong(413, f"the body is larger than {most} bytes")
    try:
        return msgspec.json.decode(body or b"{}", type=BODIES.get(route, Nothing))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Wrong(400, _sentence(error)) from None


def _converted(given: dict[str, str], kind: type[Form]) -> Form:
    try:
        for text in given.values():
            text.encode()
        return msgspec.convert(given, kind, strict=False)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Wrong(400, _sentence(error)) from None


def _sentence(error: Exception) -> str:
    if isinstance(error, msgspec.ValidationError):
        return str(error).replace("`$.", "`").replace(" - at `$`", "")
    return "this is no JSON object in UTF-8"


def moment(said: str | float | None, otherwise: float, name: str = "since") -> float:
    """Unix seconds of a moment as `forms.Moment` has it.

    Raises:
        Wrong: 400, it is none.
    """
    if said is None or said == "":
        return otherwise
    try:
        when = float(said)
    except ValueError:
        try:
            date = datetime.fromisoformat(str(said))
            when = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            raise Wrong(400, f"`{name}` is no moment: Unix seconds or 2026-11-21T12:00 is wanted") from None
    if not -1e12 < when < 1e12:
        raise Wrong(400, f"`{name}` is no moment of this age")
    return when


@contextmanager
def asked_for() -> Iterator[None]:
    """Within it trouble is the asker's: 400."""
    try:
        yield
    except LedgerTrouble as trouble:
        raise Wrong(400, str(trouble)) from None


class Witness:
    """Writes into the audit log who did what at the admin port."""

    def __init__(self, log: AuditLog) -> None:
        self.log = log

    def saw(
        self,
        asked: Asked,
        action: str,
        target: str,
        detail: Mapping[str, Any],
        *,
        tenant: str = "",
        outcome: str = "done",
    ) -> None:
        """Remember an act that has been done. `tenant`: whose it is; "": the asker's.

        Raises:
            LedgerTrouble: it cannot be written down.
        """
        caller = asked.caller
        one = acts.new_act(
            action,
            target,
            actor=actor_of(caller),
            role=",".join(caller.roles),
            tenant=tenant or ("" if caller is OWNER else caller.tenant),
            client=asked.client,
            outcome=outcome,
            detail={**detail, "by": caller.key_id},
        )
        try:
            self.log.remember(one)
        except LedgerTrouble as trouble:
            said = f"this is done, and could not be written into the audit log: {trouble}"
            raise LedgerTrouble(said) from None

    def tried(
        self, asked: Asked, action: str, target: str, detail: Mapping[str, Any], outcome: str = "done"
    ) -> None:
        """Remember that something was looked at; a log that cannot be written now may be looked at all the same."""
        with suppress(LedgerTrouble):
            self.saw(asked, action, target, detail, outcome=outcome)


def actor_of(caller: Caller | None) -> str:
    """Who acted, as acts name them."""
    if caller is None:
        return "unknown"
    if caller is OWNER:
        return acts.local_actor()
    return (
        f"key:{caller.key_id}" if caller.key_id.startswith("gms_") else f"user:{caller.user or caller.key_id}"
    )
