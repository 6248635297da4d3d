"""What the batch process is told, and what it says: plain values, one JSON object per line over a socket pair.

Head to batch process: `BatchSettings` (first), `Room` (each second), `StoreAt` (a reload), `Stop`. Batch process to
head: `Trouble`.
"""

from __future__ import annotations

import msgspec


class BatchSettings(msgspec.Struct, frozen=True, kw_only=True, tag="settings"):
    path: str  # folder of files and results
    gateway: str  # base address of the gateway's inner door
    secret: str  # shared with the gateway, both ways
    concurrency: int = 32
    priority: int = -1
    window_s: int = 86_400  # longest completion window
    file_bytes: int = 200 << 20
    lines: int = 50_000
    retries: int = 3
    retention_s: int = 30 * 86_400
    store: str = ""  # URL of the store that several gateways share; "": files of this one alone
    store_secret: str = ""
    holder: str = (
        ""  # what this gateway is called there, and nobody else: its name, a slash, and something random
    )
    lease_s: float = 10.0  # how long others wait for a gateway that says nothing
    store_bytes: int = 20 << 30  # most of all files in the store
    call_s: float = 3700.0  # for one line; beyond the gateway's own longest time for a call

    def __repr__(self) -> str:  # holds a secret
        return f"BatchSettings({self.path} -> {self.gateway})"


class Room(msgspec.Struct, tag="room"):
    """By pool: its slots, and the calls in flight there, ours among them."""

    pools: dict[str, tuple[int, int]]


class StoreAt(msgspec.Struct, tag="store"):
    """The store's address or secret is another."""

    url: str
    secret: str

    def __repr__(self) -> str:  # holds secrets
        return "StoreAt()"


class Stop(msgspec.Struct, tag="stop"):
    """Begin no line, finish what is on its way, and go."""

    within_s: float = 30.0


class Trouble(msgspec.Struct, tag="trouble"):
    """Something an operator should see."""

    message: str


class Listening(msgspec.Struct, tag="listening"):
    host: str
    port: int
    pid: int


ToBatch = BatchSettings | Room | StoreAt | Stop
ToHead = Trouble | Listening
