"""What a desk is told. Not to be compiled: mypyc takes no `msgspec.field` as a default."""

from __future__ import annotations

import msgspec

from gemstead.traffic.queue import QueueBounds


class DeskSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a desk is told."""

    pool: str = "pool"
    fallbacks: int = 1  # further addresses behind the picked one; 0 for gateways that read only one
    body_bytes: int = 32 << 20  # of a request
    media: str = "refuse"  # addresses of media in requests; or "engine": the engine may fetch them
    queue: QueueBounds = msgspec.field(default_factory=lambda: QueueBounds(starting_wait_s=0.0))
