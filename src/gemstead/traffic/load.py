"""What an engine last said about itself. A module of its own, because it must not be compiled: it is decoded from a
message, and mypyc keeps no annotation such as `int | None`, so that every worker would refuse every message.
"""

from __future__ import annotations

import msgspec


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """An engine's figures. Missing ones are None: they are never a silent zero."""

    at: float  # monotonic seconds of the scrape
    running: int | None = None
    waiting: int | None = None
    kv_used: float | None = None  # a share, 0 to 1
    adapters: tuple[str, ...] | None = None  # LoRA adapters that are loaded now
