"""Judging the door: the list of models, names that do not exist, keys that do not hold, prompts too long.

What counts is that a "no" is explicit. A server that serves an unknown model under the name that was asked
for, or cuts the beginning off a prompt that does not fit, answers 200 and is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gemstead.operate.check.judge_answer import not_served
from gemstead.operate.check.questions import SECRET
from gemstead.operate.check.reply import Fields, Reply, message_of, usage_of
from gemstead.operate.check.verdict import Verdict, failed, passed, skipped


def models(reply: Reply) -> Verdict:
    """The list of models."""
    if trouble := not_served(reply):
        return trouble
    names = model_names(reply)
    if not names:
        return failed("/v1/models lists no model.", "Clients choose from it: see `gemstead ps`.")
    return passed(", ".join(names[:5]))


def model_names(reply: Reply) -> list[str]:
    data = reply.fields.get("data")
    entries = data if isinstance(data, list) else []
    return [entry["id"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]


def unknown_model(reply: Reply, names: Sequence[str]) -> Verdict:
    """A name that no model has."""
    if reply.status == 200:
        return failed(
            "A model that does not exist was served under its name.",
            "Put the gateway before the engine: it checks names.",
        )
    if reply.status != 404:
        return failed(
            f"An unknown model gave {reply.status}, not 404: {reply.says}.",
            "Clients tell the cases apart by status.",
        )
    if not reply.error.get("message"):
        return failed(
            "The 404 has no error object.", "Clients show its message: update the engine or gateway."
        )
    if not any(name in str(reply.error["message"]) for name in names):
        return failed(
            f"The 404 does not say which models there are: {reply.says}",
            "Call through the gateway: it lists them.",
        )
    return passed(f"404: {reply.says[:120]}")


def keys(without: Reply, wrong: Reply, *, loopback: bool) -> Verdict:
    """A request without a key and one with a key that does not exist."""
    if without.status == 200:
        if loopback:
            return skipped("Calls without a key are served; only this machine can make them.")
        return failed(
            "Calls without a key are served, on an address that others can reach.",
            "Set `gateway.keys: required`.",
        )
    for which, reply in (("no", without), ("a wrong", wrong)):
        if reply.status != 401:
            return failed(
                f"A call with {which} key gave {reply.status}, not 401: {reply.says}.",
                "Clients tell the cases apart by status.",
            )
        if not reply.error.get("message"):
            return failed(f"The 401 for {which} key has no error object.", "Clients show its message.")
    return passed("401 without a key and with a wrong one.")


LIMIT_NAMES = ("context_length", "context_tokens", "max_model_len", "context_window", "max_context_length")
LIMIT_WORDS = (
    re.compile(r"context (?:size|length|window)[^0-9]{0,24}(\d[\d,]*) ?tokens"),
    re.compile(r"\((\d[\d,]*) tokens\)[^0-9]*$"),
    re.compile(r"(?:at most|limit of|allows?) (\d[\d,]*)(?: tokens)?"),
)


def limit_in_models(reply: Reply, model: str) -> int | None:
    """The context that /v1/models states for a model, in tokens; None when it does not."""
    for entry in reply.fields.get("data") or ():
        if not isinstance(entry, dict) or entry.get("id") != model:
            continue
        meta = entry.get("meta") if isinstance(entry.get("meta"), dict) else {}
        for value in (*(entry.get(name) for name in LIMIT_NAMES), (meta or {}).get("n_ctx")):
            if isinstance(value, int) and value > 0:
                return value
    return None


def limit_in_error(reply: Reply) -> int | None:
    """The context that a refusal states, in tokens; None when it does not."""
    stated = reply.error.get("n_ctx")
    if isinstance(stated, int) and stated > 0:
        return stated
    for words in LIMIT_WORDS:
        if found := words.search(reply.says):
            return int(found.group(1).replace(",", ""))
    return None


CUT = (
    "The context is overrun silently: turn off context shifting or truncation in the engine, or call through "
    "the gateway."
)


def too_long(reply: Reply, sent_tokens: int, limit: int | None) -> Verdict:
    """A prompt of `sent_tokens`, more than the context holds, with a secret in its first line."""
    if reply.status == 200:
        return _answered(reply, sent_tokens, limit)
    if reply.status not in (400, 413):
        return failed(
            f"A prompt that is too long gave {reply.status}, not 400: {reply.says}.",
            "Clients retry a 5xx and fail again.",
        )
    if not reply.error.get("message"):
        return failed(f"The {reply.status} has no error object.", "Clients show its message.")
    return passed(f"{sent_tokens:,} tokens: {reply.status}, {reply.says[:120]}")


def _answered(reply: Reply, sent_tokens: int, limit: int | None) -> Verdict:
    """What an answer to a prompt that is too long means: cut, or read whole after all."""
    read = usage_of(reply.fields).get("prompt_tokens")
    if not isinstance(read, int) or read < sent_tokens or SECRET not in message_of(reply).text:
        room = f"{limit:,} fit" if limit else "they cannot fit"
        return failed(
            f"{sent_tokens:,} tokens were answered ({read} read) where {room}: the start was cut.", CUT
        )
    if limit:
        return failed(
            f"{read:,} tokens were read where the context is said to be {limit:,}.", "Correct the context."
        )
    return skipped(f"All of {read:,} tokens were read: the context is larger than any Gemma 4 has.")


def edge(limit: int, replies: dict[int, Reply]) -> Verdict:
    """Prompts of exactly limit - 1, limit and limit + 1 tokens, each with room for one token of answer.

    One less than the limit must be served in full. The limit itself may be refused (there is no room for an
    answer) or served in full. One more must be refused.
    """
    below, at, above = (replies[limit + step] for step in (-1, 0, 1))
    if trouble := not_served(below):
        return failed(
            f"A prompt of {limit - 1:,} tokens, one less than the context, was not served: {trouble.sentence}",
            "The gateway counts otherwise than the engine, or the context is divided among slots: see `gemstead ps`.",
        )
    told: Fields = usage_of(below.fields)
    if told.get("prompt_tokens") != limit - 1:
        return failed(f"Of {limit - 1:,} tokens {told.get('prompt_tokens')} were read.", CUT)
    if at.status == 200 and usage_of(at.fields).get("prompt_tokens") != limit:
        return failed(f"Of {limit:,} tokens {usage_of(at.fields).get('prompt_tokens')} were read.", CUT)
    for step, reply in ((0, at), (1, above)):
        if reply.status == 200 and step == 0:
            continue
        if reply.status != 400:
            return failed(f"A prompt of {limit + step:,} tokens gave {reply.status}, not 400.", CUT)
    how = "served" if at.status == 200 else "refused"
    return passed(f"{limit - 1:,} tokens served, {limit:,} {how}, {limit + 1:,} refused.")


def takes_images(reply: Reply, model: str) -> bool | None:
    """What /v1/models says about pictures; None when it says nothing."""
    for entry in reply.fields.get("data") or ():
        if not isinstance(entry, dict) or entry.get("id") != model:
            continue
        architecture = entry.get("architecture")
        stated = (architecture if isinstance(architecture, dict) else entry).get("input_modalities")
        if isinstance(stated, list):
            return "image" in stated
    return None
