"""gRPC's health service (`grpc.health.v1.Health`), as gateways and Kubernetes' probes ask for it.

Its messages are one field each, so they are written and read here: a service's name, and a status.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gemstead.gateway.epp.link import NOT_FOUND, OK, Stream

CHECK: Final = "/grpc.health.v1.Health/Check"
WATCH: Final = "/grpc.health.v1.Health/Watch"
SERVING: Final = b"\x08\x01"  # field 1, a varint
NOT_SERVING: Final = b"\x08\x02"
UNKNOWN: Final = b"\x08\x03"


class Health:
    """What is said of each service, and who wants to hear of changes."""

    def __init__(self, said: Mapping[str, bool]) -> None:
        self._said = dict(said)
        self._watching: set[Watching] = set()

    def tell(self, said: Mapping[str, bool]) -> None:
        """From now on this holds."""
        before, self._said = self._said, dict(said)
        for one in list(self._watching):
            if before.get(one.name) != self._said.get(one.name):
                one.stream.say([self.status(one.name) or UNKNOWN])

    def status(self, name: str) -> bytes | None:
        """A response about one service; None: it is unknown."""
        if (well := self._said.get(name)) is None:
            return None
        return SERVING if well else NOT_SERVING

    def watch(self, one: Watching, on: bool) -> None:
        (self._watching.add if on else self._watching.discard)(one)


class Checking:
    """One question."""

    def __init__(self, health: Health, stream: Stream) -> None:
        self._health, self.stream = health, stream

    def message(self, raw: bytes) -> None:
        if (status := self._health.status(service_name(raw))) is None:
            self.stream.end(NOT_FOUND, "unknown service")
        else:
            self.stream.say([status])
            self.stream.end(OK)

    def ended(self) -> None:
        self.stream.end(OK)

    def gone(self) -> None: ...


class Watching:
    """Somebody who is told at once, and whenever it changes, until they go."""

    def __init__(self, health: Health, stream: Stream) -> None:
        self._health, self.stream = health, stream
        self.name = ""

    def message(self, raw: bytes) -> None:
        self.name = service_name(raw)
        self._health.watch(self, True)
        self.stream.say([self._health.status(self.name) or UNKNOWN])

    def ended(self) -> None: ...
    def gone(self) -> None:
        self._health.watch(self, False)


def service_name(raw: bytes) -> str:
    """The name in a `HealthCheckRequest`: field 1, a string shorter than 128 bytes; "" if there is none."""
    if len(raw) < 2 or raw[0] != 0x0A or raw[1] > 0x7F:
        return ""
    return raw[2 : 2 + raw[1]].decode("utf-8", "replace")
