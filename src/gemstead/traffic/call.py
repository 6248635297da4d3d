"""The facts of one request that decisions need, and nothing else of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gemstead.traffic.endpoint import Endpoint


class Call:
    """One request, as the picker, limits and budgets see it.

    A plain class and no dataclass: one is made for every request, and compiled code fills in a plain one ten times
    faster.

    Args:
        model: the pool's name, after aliases.
        priority: below zero may be shed.
        prompt_tokens: estimated before the engine has counted.
        most_tokens: prompt plus the most that may be generated.
        prefix: chained block hashes of the prompt, first block first (traffic/prefix.py).
        block_tokens: tokens in each of these blocks: BLOCK_TOKENS of the gateway's own hashing.
        adapter: LoRA adapter that the call wants; empty: none.
        session: conversation or agent run, where the caller says so; for policies that stick to it.
        tried: endpoints that already failed this call.
        hits: leading blocks that endpoints have seen, by name; for scorers.
        streams: the answer comes in pieces, so an engine's silence means something.
    """

    __slots__ = (
        "adapter",
        "ahead_tokens",
        "block_tokens",
        "booked",
        "charged_at",
        "charged_kv",
        "charged_to",
        "charged_tokens",
        "due_s",
        "expected_output",
        "first_at",
        "first_calls",
        "first_read",
        "hit_tokens",
        "hits",
        "known_turn",
        "midway_tokens",
        "model",
        "most_tokens",
        "prefix",
        "priority",
        "prompt_tokens",
        "session",
        "stop_tokens",
        "streams",
        "tenant",
        "tried",
        "turn",
        "unlearned_s",
        "was_first",
    )

    def __init__(
        self,
        model: str,
        tenant: str = "default",
        priority: int = 0,
        prompt_tokens: int = 0,
        most_tokens: int = 0,
        prefix: tuple[int, ...] = (),
        block_tokens: int = 256,
        adapter: str = "",
        session: str = "",
        tried: tuple[str, ...] = (),
        hits: Mapping[str, int] | None = None,
        streams: bool = True,
    ) -> None:
        self.model = model
        self.tenant = tenant
        self.priority = priority
        self.prompt_tokens = prompt_tokens
        self.most_tokens = most_tokens
        self.prefix = prefix
        self.block_tokens = block_tokens
        self.adapter = adapter
        self.session = session
        self.tried = tried
        self.hits = hits
        self.streams = streams
        # What the picker found and booked; nobody else writes these.
        self.expected_output = 0.0  # tokens
        self.hit_tokens = 0  # of the prompt, that the picked endpoint is expected to find
        self.midway_tokens = 0  # of the prompt, that it has seen beyond where an older one ended
        self.stop_tokens = 0  # of the prompt, up to there
        self.charged_to: Endpoint | None = None  # the endpoint that counts this call as in flight
        self.charged_tokens = 0  # prefill tokens booked there and not yet given back
        self.booked = False  # more than its tokens: what the picker needs where there is a choice
        self.charged_kv = 0  # KV tokens booked there
        self.charged_at = 0.0
        self.ahead_tokens = -1.0  # prefill that stood before the first token then; below zero: not known
        self.was_first = False  # nothing else was waiting there to be read
        self.turn = 0  # of the prefix index, when it was charged
        # In which the end of what is cached was last sent there, and surely read; -1: not known.
        self.known_turn = -1
        self.unlearned_s = 0.0  # to the first token; how much was read for it is told at the end
        self.due_s = 0.0  # the time to the first token that was expected then
        self.first_at = -1.0  # when the first token came
        self.first_calls = 0  # in flight at that time
        self.first_read = 0  # prompt tokens that the endpoint had read by then

    def __repr__(self) -> str:
        return f"Call({self.model} of {self.tenant}, {self.prompt_tokens} prompt tokens)"
