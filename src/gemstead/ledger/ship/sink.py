"""What every receiver of audit records has in common: how it is described, and how it can refuse.

A sink's `send` takes a batch and returns when the receiver *has* it. It raises `Later` when the same records should
be sent again, and answers with the records that the receiver will never take: those are set aside with the reason, and
the rest goes on. A record may reach a receiver twice (we died before we wrote down that it had it): its `uid` tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from gemstead.ledger.ship.forms import Shipped


class SinkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A receiver. The fields are those of `audit.ship` in the file, the token read."""

    name: str
    to: str
    url: str
    form: str = "ocsf"
    token: str = ""
    index: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""
    endpoint: str = ""
    region: str = "us-east-1"
    acknowledge: bool = True
    batch: int = 500
    every_s: float = 1.0
    timeout_s: float = 30.0

    def __repr__(self) -> str:  # holds a secret
        return f"SinkSettings({self.name} {self.to})"


class ShipSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the shipping process is told."""

    audit: str  # path of audit.db
    sinks: tuple[SinkSettings, ...] = ()
    store: str = ""  # URL of the store that several gateways share; "": the file alone
    holder: str = ""  # what this gateway is called there, and nobody else
    lease_s: float = 15.0  # how long others wait for a gateway that says nothing

    def __repr__(self) -> str:  # holds secrets
        return f"ShipSettings({self.audit} -> {', '.join(sink.name for sink in self.sinks)})"


class Later(Exception):
    """The receiver did not take the batch, and may take it later. The text is for the operator and has no content.

    `retry_after_s`: what the receiver asked for.
    """

    def __init__(self, why: str, retry_after_s: float | None = None) -> None:
        super().__init__(why)
        self.retry_after_s = retry_after_s


class TooLarge(Exception):
    """The receiver takes no batch of that size: send fewer."""


Unwanted = list[tuple[int, str]]  # the places of records that will never be taken, and why


class Sink(Protocol):
    """A way to a receiver."""

    def send(self, batch: Sequence[Shipped]) -> Unwanted:
        """Hand over a batch; what the receiver will never take.

        Raises:
            Later: it has to be sent again, as a whole.
            TooLarge: it has to be sent in parts.
        """

    def close(self) -> None: ...
