"""Google's APIs from a recording: each request has to be the next one of it, word for word, and gets its answer.

A recording is a list of exchanges as JSON (`recorded`). Where a request is another one than the recording has, it is
refused with both, so that whoever changed what is sent sees it. What Secret Manager keeps is not recorded (records hold
the time of day): its requests are, in order, and it answers from what it was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gemstead.testing.google_vertex import no
from gemstead.testing.googleapi import Exchange, GoogleApi

Object = dict[str, Any]
KEPT = "kept apart"


class GoogleReplay(GoogleApi):
    """Use as `GoogleApi`; `left` is what was not asked for, `strange` what was asked and is not in the recording."""

    def __init__(self, recording: Sequence[Object], secrets: tuple[str, ...] = ()) -> None:
        super().__init__(secrets)
        self.left = list(recording)
        self.strange: list[str] = []

    def found(self, method: str, path: str, query: dict[str, str], body: Object) -> tuple[int, Object] | None:
        asked = _request(Exchange(method, path, query, body))
        wanted = {name: self.left[0][name] for name in asked} if self.left else {}
        if asked != wanted:
            self.strange.append(f"asked {asked}, but the recording goes on with {wanted or 'nothing'}")
            return no(400, self.strange[-1])
        next_ = self.left.pop(0)
        if "/secrets/" in path:
            return super().found(method, path, query, body)
        return int(next_["status"]), next_["answer"]


def recorded(exchanges: Sequence[Exchange]) -> list[Object]:
    """The recording of what was exchanged."""
    return [
        {**_request(one), "status": one.status, "answer": KEPT if "/secrets/" in one.path else one.answer}
        for one in exchanges
    ]


def _request(one: Exchange) -> Object:
    body: Any = KEPT if "/secrets/" in one.path and one.body else one.body
    return {"method": one.method, "path": one.path, "query": one.query, "body": body}
