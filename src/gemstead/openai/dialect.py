"""How an engine's OpenAI differs from the one that callers see here.

One outward form holds for all engines: thoughts are in `reasoning_content`, outside `content`, in messages and in
streams; whether a model thinks is said by `chat_template_kwargs.enable_thinking` or by `reasoning_effort`, and by the
file where a request says nothing; a stream ends with one `[DONE]`. A `Dialect` says in what an engine departs from
that. `evening.py` makes good for it, and only for calls that need it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dialect:
    """One engine's departures; the default is an engine that has none."""

    reasoning: str = (
        "reasoning_content"  # the field in which it puts thoughts, and takes those of earlier turns
    )
    thinking: str = "kwargs"  # where a request tells it to think: "kwargs" (the chat template's) or "effort"
    thinks: bool = False  # whether it thinks when neither its start nor a request says so
    marks: bool = False  # marks of the model's own, such as `<|channel>`, may leak into `content`
    indexes: bool = True  # its Responses events carry `output_index` and `content_index`
    done: bool = True  # its streams end with `[DONE]`

    @property
    def plain(self) -> bool:
        """Whether nothing has to be done."""
        return self == PLAIN


PLAIN = Dialect()
