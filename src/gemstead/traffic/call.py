"""The facts of one request that decisions need, and nothing else of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Call:
    """One request, as the picker, limits and budgets see it."""

    model: str  # the pool's name, after aliases
    tenant: str = "default"
    priority: int = 0  # below zero may be shed
    prompt_tokens: int = 0  # estimated before the engine has counted
    most_tokens: int = 0  # prompt plus the most that may be generated
    prefix: tuple[int, ...] = ()  # chained block hashes of the prompt, first block first (traffic/prefix.py)
    tried: tuple[str, ...] = ()  # endpoints that already failed this call
