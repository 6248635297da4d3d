"""The checks, in order: ask, then hand what came back to a judge.

Nothing is judged here. A check that would keep a slow machine busy for more than `PATIENCE_S` is left out unless
it is asked for (`long`), and says so.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from gemstead.operate.check import judge_answer, judge_door, judge_tools, questions
from gemstead.operate.check.client import Client, SilentError, UnreachableError
from gemstead.operate.check.reply import Fields, Reply, usage_of
from gemstead.operate.check.verdict import Verdict, failed, skipped

PATIENCE_S = 60.0  # longest that one check may keep the engine busy unless `long` is asked for
LONG_PROMPT = 8000  # tokens; the length at which users first met prompts that were cut silently
LARGEST = 262_144  # tokens; the largest context of any Gemma 4 (31B and 26B-A4B)


@dataclass(frozen=True, slots=True)
class Finding:
    """A check's name, its verdict, and how long it took."""

    name: str
    verdict: Verdict
    seconds: float


@dataclass(slots=True)
class Visit:
    """What the checks of one run share, so that nothing is asked twice."""

    client: Client
    model: str
    long: bool
    listed: Reply
    names: list[str]
    limit: int | None = None
    _whole: Reply | None = field(default=None, repr=False)

    def whole(self) -> Reply:
        """The whole answer to the capital question."""
        if self._whole is None:
            self._whole = self.client.chat(questions.ask(self.model, questions.CAPITAL))
        return self._whole


def begin(client: Client, model: str = "", *, long: bool = False) -> Visit:
    """What a run starts from: the list of models, and the one to check (`model`, else the first listed).

    Raises:
        UnreachableError: nothing answers at all.
    """
    listed = client.get("/v1/models")
    names = judge_door.model_names(listed)
    chosen = model or (names[0] if names else "")
    limit = judge_door.limit_in_models(listed, chosen) or client.target.contexts.get(chosen)
    return Visit(client, chosen, long, listed, names, limit)


def run(visit: Visit) -> Iterator[Finding]:
    """Each check's finding as soon as it is known."""
    yield Finding("models", judge_door.models(visit.listed), visit.listed.seconds)
    if not visit.model:
        return
    for name, check in CHECKS.items():
        began = time.monotonic()
        try:
            verdict = check(visit)
        except SilentError as error:
            yield Finding(
                name, failed(str(error), "The other checks were left out."), time.monotonic() - began
            )
            return
        except UnreachableError as error:
            verdict = failed(str(error), "If it answered before, it may have crashed: see `gemstead logs`.")
        yield Finding(name, verdict, time.monotonic() - began)


def _plain(visit: Visit) -> Verdict:
    return judge_answer.plain(visit.whole())


def _streamed(visit: Visit) -> Verdict:
    reply = visit.client.stream(questions.ask(visit.model, questions.CAPITAL))
    return judge_answer.streamed(reply, visit.whole())


def _usage(visit: Visit) -> Verdict:
    fields = questions.ask(visit.model, questions.CAPITAL)
    return judge_answer.usage(
        visit.whole(), visit.client.stream(fields, with_usage=True), visit.client.stream(fields)
    )


def _tool_call(visit: Visit) -> Verdict:
    fields = questions.ask(visit.model, questions.WEATHER, most=128, tools=[questions.GET_WEATHER])
    return judge_tools.one_call(visit.client.chat(fields), visit.client.stream(fields))


def _parallel_tools(visit: Visit) -> Verdict:
    return judge_tools.two_calls(visit.client.chat(questions.both_tools(visit.model)))


def _tool_result(visit: Visit) -> Verdict:
    return judge_tools.tool_result(visit.client.chat(questions.tool_result(visit.model)))


def _thinking_off(visit: Visit) -> Verdict:
    return judge_answer.thinking_off(visit.whole())


def _thinking_on(visit: Visit) -> Verdict:
    fields = questions.thinking(visit.model)
    return judge_answer.thinking_on(visit.client.chat(fields), visit.client.stream(fields))


def _structured(visit: Visit) -> Verdict:
    return judge_answer.structured(visit.client.chat(questions.structured(visit.model)))


def _too_long(visit: Visit) -> Verdict:
    """A prompt of 8,000 tokens, or of more where 8,000 fit. Each word is one token or more.

    Refusing costs a sound engine nothing. Where the context is not known, the prompt is longer than any Gemma 4
    can read, and the refusal tells the context.
    """
    limit = visit.limit or LARGEST
    words = LONG_PROMPT if limit < LONG_PROMPT else int(limit * 1.02) + 64
    reply = visit.client.chat(questions.ask(visit.model, questions.with_secret(words), most=24))
    visit.limit = visit.limit or judge_door.limit_in_error(reply)
    return judge_door.too_long(reply, words, visit.limit)


def _edge(visit: Visit) -> Verdict:
    if visit.limit is None:
        return skipped("The service does not say how long its context is.")
    filler = _measure(visit)
    if filler is None:
        return skipped("Prompt tokens cannot be counted: the usage of answers lacks them.")
    seconds = visit.limit / filler.tokens_per_s
    if seconds > PATIENCE_S and not visit.long:
        return skipped(f"It would take about {seconds / 60:.0f} minutes here.", "Run it with --long.")
    replies = {count: _exactly(visit, filler, count) for count in _around(visit.limit)}
    return judge_door.edge(visit.limit, replies)


def _around(limit: int) -> tuple[int, int, int]:
    return limit - 1, limit, limit + 1


@dataclass(slots=True)
class _Filler:
    """How many tokens a prompt of n filler words has: `around` + n. Measured, because templates differ."""

    word: str
    around: int
    tokens_per_s: float


def _measure(visit: Visit) -> _Filler | None:
    """A word that counts as one token, and the tokens around it; None when there is none such."""
    for word in ("river", "the", "one", "water"):
        short, longer = (_ask_filled(visit, words, word) for words in (8, 136))
        before, after = (usage_of(reply.fields).get("prompt_tokens") for reply in (short, longer))
        if not isinstance(before, int) or not isinstance(after, int):
            return None
        if after - before == 128:
            return _Filler(word, before - 8, 128 / max(longer.seconds, 0.001))
    return None


def _exactly(visit: Visit, filler: _Filler, tokens: int) -> Reply:
    return _ask_filled(visit, tokens - filler.around, filler.word)


def _ask_filled(visit: Visit, words: int, word: str) -> Reply:
    return visit.client.chat(questions.ask(visit.model, questions.filled(words, word), most=1))


def _unknown_model(visit: Visit) -> Verdict:
    reply = visit.client.chat(questions.ask("gemma-4-9b-not-a-model", questions.CAPITAL, most=1))
    return judge_door.unknown_model(reply, visit.names)


def _keys(visit: Visit) -> Verdict:
    fields = questions.ask(visit.model, questions.CAPITAL, most=1)
    without = visit.client.chat(fields, key="")
    wrong = visit.client.chat(fields, key="gs-this-key-was-never-made")
    return judge_door.keys(without, wrong, loopback=visit.client.target.loopback)


def _image(visit: Visit) -> Verdict:
    if judge_door.takes_images(visit.listed, visit.model) is False:
        return skipped("This model is served for text only.")
    text_tokens = usage_of(visit.whole().fields).get("prompt_tokens") or 0
    return judge_answer.image(visit.client.chat(questions.image(visit.model)), int(text_tokens))


def _drafting(visit: Visit) -> Verdict:
    """From the answer itself where the engine says so (llama.cpp), else from the engine's metrics."""
    counting = visit.client.chat(questions.ask(visit.model, questions.COUNT, most=128))
    timings: Fields = counting.fields.get("timings") or {}
    if timings.get("draft_n"):
        return judge_answer.drafting(timings["draft_n"], timings.get("draft_n_accepted"))
    texts = "\n".join(visit.client.read_metrics(url) for url in visit.client.target.metrics_urls)
    return judge_answer.drafting(*(_sum(texts, name) for name in ("draft_tokens", "accepted_tokens")))


def _sum(metrics: str, name: str) -> int | None:
    """The sum over all engines of `...spec_decode_num_<name>_total`; None when no engine has it."""
    lines = re.findall(
        rf"^\S*spec_decode_(?:num_)?{name}_total(?:{{[^}}]*}})? ([0-9.e+]+)", metrics, re.MULTILINE
    )
    return int(sum(map(float, lines))) if lines else None


CHECKS: dict[str, Callable[[Visit], Verdict]] = {
    "plain answer": _plain,
    "streamed answer": _streamed,
    "usage": _usage,
    "tool call": _tool_call,
    "parallel tools": _parallel_tools,
    "tool result": _tool_result,
    "thinking off": _thinking_off,
    "thinking on": _thinking_on,
    "JSON schema": _structured,
    "prompt too long": _too_long,
    "context edge": _edge,
    "unknown model": _unknown_model,
    "keys": _keys,
    "image": _image,
    "draft model": _drafting,
}
