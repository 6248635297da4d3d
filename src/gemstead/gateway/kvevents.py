"""A worker's ears at engines that say what their prefix caches store and drop (vLLM's KV events, over ZeroMQ).

One `Ear` for each endpoint that publishes. What messages mean is decided in `traffic/kvevents.py` and
`traffic/kvprompts.py`; here sockets are read, what was missed is asked for again, and what an engine has dropped is
taken out of the prefix index. While it is heard, an endpoint's index is exact: the guess of how much its cache holds is
only an upper bound. While it is not, the guess holds as for any other engine.

    at first       messages from number 0 on are asked for, so that what was stored before us is known
    a gap          what is missing is asked for; what cannot be had any more means that nothing is known: begin anew
    a low number   the engine has begun anew: its cache is empty

ZeroMQ reconnects by itself. Each worker of a gateway listens for itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gemstead.gateway.place import Place
from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import EndpointFacts
from gemstead.traffic.kvevents import BadEvent, decode, sequence
from gemstead.traffic.kvprompts import Ended, Follow, Prompts
from gemstead.traffic.picker import Picker

PLACE_S = 0.3  # after a call's end: its events are on their way until then
REPLAY_S = 2.0  # of silence, after which what was missed is given up (llm-d's router waits as long)
AGAIN_S = 5.0  # between two attempts
LOOK_S = 1.0
HELD = 10_000  # messages that wait for us at most
WHAT = ("messages", "replayed", "gaps", "restarts", "placed", "unplaced")


def zmq_address(host: str, port: int | None) -> str:
    """Where ZeroMQ connects to; "" for no port."""
    if port is None:
        return ""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


class Ear:
    """At one endpoint. `run` goes on until it is cancelled."""

    def __init__(self, facts: EndpointFacts, gate: Place, picker: Picker, context: Any) -> None:
        self.facts = facts
        self.counts = dict.fromkeys(WHAT, 0)
        self.prompts = Prompts()
        self.live = False
        self._gate, self._picker, self._context = gate, picker, context
        self._follow = Follow()

    def ended(self, call_id: str, call: Call, prompt_tokens: int, output_tokens: int) -> None:
        """A call has ended there: its prompt is placed when its events have come."""
        if call.prefix:
            ended = Ended(
                call_id, call.prefix, call.prompt_tokens, call.block_tokens, prompt_tokens, output_tokens
            )
            self._gate.loop.call_later(PLACE_S, self._place, ended)

    def _place(self, ended: Ended) -> None:
        placed, gone = self.prompts.ended(ended)
        self.counts["placed" if placed else "unplaced"] += 1
        self._picker.index.drop(self.facts.name, gone)

    def anew(self) -> None:
        """Nothing is known of its cache any more."""
        self.prompts.clear()
        self._follow = Follow()
        self._picker.forget(self.facts.name)

    async def run(self) -> None:
        """Listen, and listen again where that failed."""
        try:
            while True:
                with suppress(OSError, ValueError):
                    await self._listen()
                self._set(False)
                await asyncio.sleep(AGAIN_S)
        finally:
            self._set(False)

    async def _listen(self) -> None:
        import zmq

        socket = self._context.socket(zmq.SUB)
        try:
            socket.linger = 0
            socket.rcvhwm = HELD
            socket.subscribe(b"")
            socket.connect(self.facts.kv_events)
            await self._catch_up(None)
            self._set(True)
            while True:
                frames = await socket.recv_multipart()
                with suppress(BadEvent):
                    await self._heard(sequence(frames[-2]), frames[-1])
        finally:
            socket.close()

    async def _heard(self, number: int, payload: bytes) -> None:
        self.counts["messages"] += 1
        told = self._follow.told(number)
        if told == Follow.ANEW:
            self.counts["restarts"] += 1
            self.anew()
            told = self._follow.told(number)
        if told == Follow.GAP:
            await self._catch_up(number)
            if self._follow.next != number:
                if self._follow.next > number:
                    return  # it was said again
                self.counts["gaps"] += 1
                self.anew()
            self._follow.go_on(number)
        self._take(payload)

    def _take(self, payload: bytes) -> None:
        _, events, _ = decode(payload)
        gone, cleared = self.prompts.take(events)
        if cleared:
            self._picker.forget(self.facts.name)
        self._picker.index.drop(self.facts.name, gone)

    async def _catch_up(self, before: int | None) -> None:
        """Have what comes next said again, up to (not with) the message `before`."""
        if not self.facts.kv_replay:
            return
        import zmq

        socket = self._context.socket(zmq.DEALER)
        try:
            socket.linger = 0
            socket.connect(self.facts.kv_replay)
            await socket.send_multipart((b"", self._follow.next.to_bytes(8, "big")))
            while True:
                frames = await asyncio.wait_for(socket.recv_multipart(), REPLAY_S)
                number = sequence(frames[-2])
                if number >= 1 << 63:  # -1: that was all
                    return
                if before is not None and number >= before:
                    continue
                if self._follow.told(number) == Follow.IN_ORDER:
                    self.counts["replayed"] += 1
                    self._take(frames[-1])
                elif before is None and not self.prompts.blocks:  # the oldest that it remembers
                    self._follow.go_on(number)
                    self._take(frames[-1])
        except (TimeoutError, BadEvent):
            return
        finally:
            socket.close()

    def _set(self, live: bool) -> None:
        self.live = live
        if (endpoint := self._gate.endpoints.get(self.facts.name)) is not None:
            endpoint.exact = self if live else None


class Ears:
    """All of a worker's. `look` is called a few times a second."""

    def __init__(self, gate: Place, trouble: Callable[[str], None]) -> None:
        self._gate, self._trouble = gate, trouble
        self._ears: dict[str, tuple[Ear, asyncio.Task[None]]] = {}
        self._context: Any = None
        self._of: object = None
        self._deaf = False

    def look(self) -> None:
        """Listen to whoever publishes now and is ready; show what is heard."""
        for ear, _ in self._ears.values():
            self._gate.figures.kv_events(ear.facts.name, ear.live, ear.prompts.prompts, ear.counts)
        wanted = {
            name: endpoint.facts
            for name, endpoint in self._gate.endpoints.items()
            if endpoint.facts.kv_events and endpoint.facts.ready
        }
        for name in list(self._ears):
            ear, task = self._ears[name]
            facts = wanted.get(name)
            if facts is None or (facts.kv_events, facts.kv_replay) != (
                ear.facts.kv_events,
                ear.facts.kv_replay,
            ):
                task.cancel()
                del self._ears[name]
                self._gate.figures.kv_events(name, False, 0, ear.counts)
        for name, facts in wanted.items():
            if name not in self._ears and self._can_hear():
                assert isinstance(self._gate.picker, Picker)
                ear = Ear(facts, self._gate, self._gate.picker, self._context)
                self._ears[name] = (ear, self._gate.loop.create_task(ear.run()))

    def _can_hear(self) -> bool:
        if self._deaf or not isinstance(self._gate.picker, Picker):
            return False
        if self._context is None:
            try:
                import zmq.asyncio
            except ImportError:
                self._deaf = True
                self._trouble(
                    "engines say what their caches hold, and this gateway cannot hear it without pyzmq: "
                    "`pip install 'gemstead[kv-events]'`"
                )
                return False
            self._context = zmq.asyncio.Context(io_threads=1)
        return True

    async def finish(self) -> None:
        """Listen no more."""
        tasks = [task for _, task in self._ears.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        if self._context is not None:
            self._context.destroy(linger=0)
