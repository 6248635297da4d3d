"""How many tokens a prompt has, before anybody has counted.

An estimate is good enough for what it is used for: to hold tokens of a limit until the engine reports the
real figure, and to weigh a long prompt against a short one. The gateway does not tokenize: that would cost
more than everything else it does for a small request, and the engine does it anyway.
"""

from __future__ import annotations

from typing import Final

# Bytes of UTF-8 text in one token, rounded to the figure that llm-d's router uses too (its approximate prefix
# producer, 2026-08: about 4 bytes per token) and that OpenAI gives for English ("1 token ~= 4 chars",
# help.openai.com/en/articles/4936856).
BYTES_PER_TOKEN: Final = 4
# Set aside for an answer when nobody said how long it may get, in tokens. The rest is settled at the end.
ANSWER_TOKENS: Final = 1024


def prompt_tokens(prompt: bytes | bytearray | memoryview) -> int:
    """Estimated tokens of a prompt of UTF-8 text, rounded up; only its length in bytes counts."""
    return -(-len(prompt) // BYTES_PER_TOKEN)


def tokens_to_hold(prompt_tokens: int, answer_most: int | None) -> int:
    """Tokens to set aside at admission: the prompt, and the answer as far as it can be foreseen.

    `answer_most` is the caller's own cap (`max_tokens`), which counts up to `ANSWER_TOKENS`: callers send
    huge caps out of habit, and what is used beyond the hold is charged when the call is settled.
    """
    return prompt_tokens + (ANSWER_TOKENS if answer_most is None else min(answer_most, ANSWER_TOKENS))
