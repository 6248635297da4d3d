"""Calls to engines that no client waits for: a mirrored copy of a call, and the second copy of a late one (hedge).

Both are exchanges without a client: they are driven by their engine's socket and by the sweep, and say nothing to
anybody. Whatever happens to them, the call that they were made for goes on as if they were not there.

    Mirrored   sends the same request to another model, reads and counts the answer, throws it away, and leaves an
               audit record of its own, because it costs what any call costs. It is never sent to an engine that has
               no room, and only so many run at once.
    Second     sends the same request to an idle endpoint when the first one is late. Whoever answers first carries the
               call on, the other is aborted. There is one record, the first one's.
"""

from __future__ import annotations

import sys
import traceback
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from gemstead.gateway.exchange import WHOLE, Exchange
from gemstead.gateway.reply import found_tokens
from gemstead.openai.meter import Meter
from gemstead.refused import Refused
from gemstead.traffic.admission import endpoint_room
from gemstead.traffic.retry import copy_of

if TYPE_CHECKING:
    from gemstead.gateway.upstream import UpstreamConnection
    from gemstead.traffic.endpoint import Endpoint

MOST_MIRRORED = 64  # copies of one worker on their way


class Apart(Exchange):
    """An exchange beside another one."""

    apart = True

    def __init__(self, first: Exchange) -> None:
        super().__init__(first.gate, first.client, first.method, first.url, first.headers, True, first.path)
        self.first = first
        self.request, self.body, self.caller = first.request, first.body, first.caller
        self.rerouted = first.rerouted

    def begin_at(self, endpoint: Endpoint) -> None:
        """Send it there."""
        gate, call, now = self.gate, self.call, monotonic()
        assert call is not None
        self.endpoint = endpoint
        gate.picker.charge(endpoint, call)
        gate.running.add(self)
        self.last_at = now
        self.overdue_at = self.total_at = now + gate.settings.deadlines.total_s
        line = gate.lines[endpoint.facts.name]
        if (up := line.take()) is not None:
            self.forward(up)
        else:
            self.connecting = gate.loop.create_task(self.connect(line))

    def forward(self, up: UpstreamConnection) -> None:
        super().forward(up)
        up.transport.resume_reading()  # however slowly the first one's client reads

    def over(self, ok: bool | None) -> None:
        """It has ended: give back what was taken."""
        if self.done:
            return
        self.done = True
        self.stop_engine()
        gate, now = self.gate, monotonic()
        self.record.seconds = now - self.began_at
        self.count_tokens()
        if self.call is not None and self.endpoint is not None:
            record = self.record
            tokens = record.output_tokens if record.tokens_from else -1
            gate.picker.settle(self.endpoint, self.call, ok, now, tokens, found_tokens(self.call, record))
        gate.running.discard(self)
        if gate.waitroom.waiting and self.call is not None:
            gate.waitroom.next_ones(self.call.model)

    def wants_whole(self) -> bool:
        return False

    def reframe(self) -> None:
        """Nobody reads the chunks."""

    def fail(self, refusal: Refused, *, ok: bool | None = None) -> None:
        self.record.outcome = refusal.reason.value
        self.over(ok)

    def upstream_lost(self, up: UpstreamConnection, why: str, *, stale: bool = False) -> None:
        self.up = None
        self.failed(why, stale=stale)

    def failed(self, why: str, *, stale: bool = False) -> None:
        self.record.reason = f"{self.record.reason}; {why}"
        self.record.outcome = "upstream_failed"
        self.over(None if stale else False)

    def overdue(self, now: float) -> None:
        if now >= self.overdue_at:
            self.stop_engine()
            self.failed("no answer in time")


class Mirrored(Apart):
    """A copy for another model."""

    def start(self, pool: str) -> None:
        """Send it, if there is room.

        Raises:
            Refused: no endpoint of that model can take it.
        """
        gate, first = self.gate, self.first
        assert first.call is not None and self.request is not None
        self.call = call = self.describe(self.request, pool)
        call.priority = -1
        call.streams = False  # its engine's silence is nobody's concern
        self.rerouted = True
        endpoint = self.picked(call)
        if endpoint_room(endpoint, monotonic(), -1, gate.settings.workers) <= 0:
            return
        record, theirs = self.record, first.record
        record.route, record.stream, record.model, record.pool = (
            theirs.route,
            theirs.stream,
            theirs.model,
            pool,
        )
        record.tenant, record.app, record.user, record.key_id = (
            theirs.tenant,
            theirs.app,
            theirs.user,
            theirs.key_id,
        )
        record.prompt_hash, record.bytes_in, record.attempts = theirs.prompt_hash, theirs.bytes_in, 1
        record.reason = f"mirror of {theirs.call_id}"
        record.endpoint, record.version = endpoint.facts.name, endpoint.facts.version
        gate.mirrored += 1
        self.begin_at(endpoint)

    def upstream_head(
        self, up: UpstreamConnection, status: int, headers: dict[bytes, bytes], length: int
    ) -> None:
        self.status = self.record.status = status
        self.answer = (status, b"", WHOLE)
        content = headers.get(b"content-type", b"")
        if content.startswith(b"text/event-stream"):
            self.meter = Meter(self.dialect)
        else:
            self.whole = []

    def upstream_body(self, data: bytes, payload: bytes) -> None:
        now = monotonic()
        if self.first_at == 0.0:
            self.first_at = now
            assert self.endpoint is not None and self.call is not None
            self.gate.picker.first_token(self.endpoint, self.call, now)
        self.last_at = now
        self.overdue_at = min(now + self.gate.settings.deadlines.between_tokens_s, self.total_at)
        if self.meter is not None:
            self.meter.feed(payload)
        elif self.whole is not None and self.body_bytes < 4 << 20:
            self.whole.append(payload)
            self.body_bytes += len(payload)

    def upstream_done(self, up: UpstreamConnection) -> None:
        self.up = None
        if self.meter is not None:
            self.meter.close()
        ok = self.status < 500
        self.record.outcome = "served" if self.status < 400 else "upstream_refused"
        self.over(ok)

    def over(self, ok: bool | None) -> None:
        if not self.done:
            super().over(ok)
            self.gate.mirrored -= 1
            self.gate.remember(self.record)


def mirror(exchange: Exchange, pool: str) -> None:
    """Send a copy of a call to `pool`, if that is easily done. Nothing that goes wrong here reaches the call."""
    if exchange.gate.mirrored >= MOST_MIRRORED:
        return
    copy = Mirrored(exchange)
    try:
        copy.start(pool)
    except Refused:
        return
    except Exception:  # as the docstring says
        sys.stderr.write(traceback.format_exc())
        if copy.endpoint is not None:
            copy.over(None)


class Second(Apart):
    """A second copy of a call that is late."""

    def start(self, endpoint: Endpoint) -> None:
        """Send it there."""
        first = self.first
        assert first.call is not None
        self.call = copy_of(first.call)
        first.second, first.hedged = self, True
        first.record.attempts += 1
        self.gate.figures.hedges.add(1)
        self.record.call_id = first.record.call_id
        self.begin_at(endpoint)
        self.overdue_at = inf  # the first one's time is the call's

    def upstream_head(
        self, up: UpstreamConnection, status: int, headers: dict[bytes, bytes], length: int
    ) -> None:
        if status >= 400:
            up.drop()
            self.up = None
            self.failed(f"status {status}")
            return
        first, call, endpoint = self.first, self.call, self.endpoint
        assert call is not None and endpoint is not None
        self.done = True  # its books are the first one's from now on
        self.gate.running.discard(self)
        first.carried_on(call, endpoint, up, self.need)
        first.upstream_head(up, status, headers, length)

    def over(self, ok: bool | None) -> None:
        if not self.done:
            super().over(ok)
            self.first.second_lost()

    def give_way(self) -> None:
        """The first one has been answered, or has ended: this one is aborted."""
        self.first.second = None
        super().over(None)
