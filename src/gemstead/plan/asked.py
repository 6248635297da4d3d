"""Whether a question to `plan` can be answered at all: every number within reason, each refusal with what to write.

Bounds are those of the models, of the engines, or of sense: beyond a hundred thousand cards nobody plans with this.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from gemstead.catalog import versions
from gemstead.catalog.models import ModelFacts
from gemstead.plan.capacity import DAYS
from gemstead.plan.placement import Media
from gemstead.plan.setup import CACHE_BYTES
from gemstead.refused import Reason, Refused

MOST_CARDS = 100_000
MOST_USERS = 1e9
MOST_PER_DAY = 100_000.0  # requests of one user
MOST_REQUESTS_PER_S = 1e6
MOST_DRAFTS = 16
LEAST_CONTEXT = 256
WIDEST = 64  # cards to a replica

# What each number is called, and the most it can be; None: any above 0.
NUMBERS: dict[str, tuple[str, float | None]] = {
    "users": ("users", MOST_USERS),
    "requests_per_s": ("requests a second in the busiest hour", MOST_REQUESTS_PER_S),
    "requests_per_user_day": ("requests of one user a day", MOST_PER_DAY),
    "longest_ttft_s": ("the aim for the first token", None),
    "longest_tpot_s": ("the aim for each further token", None),
    "usd_month": ("the budget", None),
}


def refused(message: str) -> Refused:
    """A refusal of the question."""
    return Refused(Reason.BAD_REQUEST, message, code="bad_plan")


def check_numbers(**said: float | None) -> None:
    """Refuse numbers of people, requests, lengths, aims and money that cannot be.

    Raises:
        Refused: BAD_REQUEST, naming the number and what it may be.
    """
    for name, value in said.items():
        if value is None:
            continue
        what, most = NUMBERS[name]
        if most is not None and not 0 <= value <= most:
            raise refused(f"{what} can be 0 to {most:,.0f}, not {value:g}")
        if most is None and not (math.isfinite(value) and value > 0):
            raise refused(f"{what} must be above 0, not {value:g}: leave it out where there is none")
    if said.get("users") and not said.get("requests_per_s") and not said.get("requests_per_user_day"):
        raise refused("users who ask nothing need no cards: say how many requests each makes a day")


def check_lengths(facts: ModelFacts, context: int, prompt: float, output: float, media: Media) -> None:
    """Refuse requests that the model does not read.

    Raises:
        Refused: BAD_REQUEST.
    """
    if not (math.isfinite(prompt) and math.isfinite(output)) or prompt < 1 or output < 1:
        raise refused("a usual request has at least one token in and one out")
    if prompt + output > facts.context_tokens:
        raise refused(f"{facts.title} reads {facts.context_tokens} tokens, not {int(prompt + output)}")
    if context and not LEAST_CONTEXT <= context <= facts.context_tokens:
        raise refused(
            f"{facts.title} reads {LEAST_CONTEXT} to {facts.context_tokens} tokens: context cannot be {context}"
        )
    if context and prompt + output > context:
        raise refused(
            f"a usual request of {int(prompt + output)} tokens is longer than the context of {context}"
        )
    counts = {"image": media.images, "video": media.videos, "audio": media.audios}
    if any(number < 0 for number in counts.values()):
        raise refused("a prompt holds no pictures (0) or some: their number cannot be below 0")
    missing = [kind for kind, number in counts.items() if number and kind not in facts.modalities]
    if missing:
        raise refused(f"{facts.title} takes no {' and no '.join(missing)}")
    longest = context or facts.context_tokens
    if media.images * media.image_tokens > longest:
        most = longest // media.image_tokens
        raise refused(
            f"{media.images} pictures of {media.image_tokens} tokens are longer than a request of {longest} tokens: "
            f"{most} would fill it"
        )


def check_choices(
    facts: ModelFacts,
    count: int | None,
    tp: int | None,
    drafting: int | None,
    headroom: float,
    spares: int,
    day: str | Sequence[float],
    kv_dtype: str,
    engine_version: str,
) -> None:
    """Refuse layouts and formats that no engine takes.

    Raises:
        Refused: BAD_REQUEST.
    """
    if count is not None and count < 1:
        raise refused("count must be 1 or more: how many cards are there?")
    if count is not None and count > MOST_CARDS:
        raise refused(f"count is {count}: this plans for up to {MOST_CARDS} cards")
    if tp is not None and (tp < 1 or (count is not None and tp > count)):
        raise refused(
            f"tp must be from 1 to the number of cards ({count}), not {tp}"
            if count
            else "tp must be 1 or more"
        )
    if tp is not None and facts.shape.heads % tp:
        able = [str(width) for width in range(1, WIDEST + 1) if facts.shape.heads % width == 0]
        raise refused(
            f"tp {tp}: {facts.title} has {facts.shape.heads} heads, which are split over {', '.join(able)} cards"
        )
    if drafting is not None and not 0 <= drafting <= MOST_DRAFTS:
        raise refused(f"a drafter writes 1 to {MOST_DRAFTS} tokens ahead, 0 switches it off: not {drafting}")
    if not 0 <= headroom < 1 or not 0 <= spares <= MOST_CARDS:
        raise refused("headroom is a share from 0 to below 1, and spares are 0 or more")
    if isinstance(day, str) and day not in DAYS:
        raise refused(f"day is one of {', '.join(DAYS)}, not `{day}`")
    if not isinstance(day, str) and (len(day) != 24 or min(day) < 0 or max(day) <= 0):
        raise refused("a day is 24 weights of zero or more, from midnight")
    if kv_dtype not in ("", "auto") and not kv_dtype.startswith(tuple(CACHE_BYTES)):
        raise refused(f"the cache has no format `{kv_dtype}`: auto, {', '.join(CACHE_BYTES)}")
    if engine_version and versions.parsed(engine_version) is None:
        raise refused(f"`{engine_version}` is no version: write it as the engine does, such as 0.32.0")
