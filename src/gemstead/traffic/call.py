"""The facts of one request that decisions need, and nothing else of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gemstead.traffic.endpoint import Endpoint


@dataclass(slots=True, eq=False)
class Call:
    """One request, as the picker, limits and budgets see it."""

    model: str  # the pool's name, after aliases
    tenant: str = "default"
    priority: int = 0  # below zero may be shed
    prompt_tokens: int = 0  # estimated before the engine has counted
    most_tokens: int = 0  # prompt plus the most that may be generated
    prefix: tuple[int, ...] = ()  # chained block hashes of the prompt, first block first (traffic/prefix.py)
    block_tokens: int = 256  # tokens in each of these blocks: BLOCK_TOKENS of the gateway's own hashing
    adapter: str = ""  # LoRA adapter that the call wants; empty: none
    session: str = ""  # conversation or agent run, where the caller says so; for policies that stick to it
    tried: tuple[str, ...] = ()  # endpoints that already failed this call
    hits: Mapping[str, int] | None = None  # leading blocks that endpoints have seen, by name; for scorers
    streams: bool = True  # the answer comes in pieces, so an engine's silence means something
    # What the picker found and booked; nobody else writes these.
    expected_output: float = 0.0  # tokens
    hit_tokens: int = 0  # of the prompt, that the picked endpoint has seen
    charged_to: Endpoint | None = None  # the endpoint that counts this call as in flight
    charged_tokens: int = 0  # prefill tokens booked there and not yet given back
    booked: bool = False  # more than its tokens: what the picker needs where there is a choice
    charged_kv: int = 0  # KV tokens booked there
    charged_at: float = 0.0
    ahead_tokens: float = (
        -1.0
    )  # prefill that stood before the first token at that time; below zero: not known
    was_first: bool = False  # nothing else was waiting there to be read
    turn: int = 0  # of the prefix index, when it was charged
    known_turn: int = (
        -1
    )  # in which the end of what is cached was last sent there, and surely read; -1: not known
    unlearned_s: float = 0.0  # to the first token; how much was read for it is told at the end
    due_s: float = 0.0  # the time to the first token that was expected then
    first_at: float = -1.0  # when the first token came
    first_calls: int = 0  # in flight at that time
    first_read: int = 0  # prompt tokens that the endpoint had read by then
