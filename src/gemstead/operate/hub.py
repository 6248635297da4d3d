"""The model hub's own variables: where it is, who we are there, and where its cache is.

HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT and HF_HUB_OFFLINE mean what they mean to every other program that uses
the hub. Fetching is the store's (`operate.store`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Hub:
    """Where models come from and where they are kept."""

    cache: Path
    endpoint: str
    token: str | None = field(repr=False)
    offline: bool

    @staticmethod
    def of(environ: Mapping[str, str]) -> Hub:
        """As the hub's own variables say."""
        xdg = environ.get("XDG_CACHE_HOME") or "~/.cache"
        home = Path(environ.get("HF_HOME") or f"{xdg}/huggingface").expanduser()
        cache = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE")
        return Hub(
            cache=Path(cache).expanduser() if cache else home / "hub",
            endpoint=(environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/"),
            token=environ.get("HF_TOKEN") or None,
            offline=environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"),
        )
