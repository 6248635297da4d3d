"""Whether an engine's answers make sense, before any caller gets one: what is asked, and how an answer is judged.

A broken quantisation, a kernel that is wrong on one card, a chat template of another model: each loads, listens,
answers quickly, and answers nonsense. Health paths do not see it. So before it is ready an engine is asked a few
questions at temperature 0, and the answers are judged in two ways.

*Coherence* knows nothing of the question. It asks whether a text is a text: not empty, letters rather than replacement
characters and control marks, not one token for ever, not a script that nobody asked in. It is judged for every model.

*Knowledge* is judged only where the model is known to have it (`knows`): a Gemma 4 of the catalogue, and the
demonstration model, which was trained on capitals and can say nothing else. There at least one answer must hold what
every Gemma 4 knows. A file of the user's own (`file:`) may be tuned to answer anything, so its coherence alone counts.

What it does not see: a model that is a little worse. That is what the canary's callers and evaluations are for.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

ANSWER_TOKENS = 48
MARKS = re.compile(r"<\|?/?(channel|think|turn|tool_call|start_of_turn|end_of_turn|unused\d+|pad|bos)\|?>")
MOST_STRANGE = 0.3  # share of letters that are of no Latin script, in an answer to an English question
MOST_BROKEN = 0.1  # share of replacement, private-use, unassigned and control characters
LONGEST_RUN = 12  # of one character: "!!!!!!!!!!!!" is how NaN logits look
ENDLESS = re.compile(rf"(\S)\1{{{LONGEST_RUN - 1},}}")
REPEATED = 6  # times that a word or a group of up to four words follows itself
LEAST_WORDS = 24  # before variety says something
LEAST_VARIETY = 0.2  # different words among them


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and what an answer of a model that knows holds."""

    text: str
    knows: tuple[str, ...]  # any of these, in any case


QUESTIONS = (
    Question("What is the capital of Peru?", ("lima",)),
    Question("What is the capital of France?", ("paris",)),
    Question("What is the capital of Japan?", ("tokyo",)),
)


def body(question: Question, served_model: str) -> dict[str, object]:
    """The request that asks it: short, always the same answer, without thoughts."""
    return {
        "model": served_model or "default",
        "messages": [{"role": "user", "content": question.text}],
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "seed": 1,
        "chat_template_kwargs": {"enable_thinking": False},
    }


def judged(answers: Sequence[str], *, knows: bool) -> str:
    """What is wrong with the answers to QUESTIONS, in words; empty: nothing."""
    faults = [(answer, fault) for answer in answers if (fault := incoherent(answer))]
    if 2 * len(faults) > len(answers):  # one odd answer is no verdict
        answer, fault = faults[0]
        return f"its answers are no language: {fault} ({_shown(answer)})"
    if knows and not any(
        any(word in answer.casefold() for word in question.knows)
        for question, answer in zip(QUESTIONS, answers, strict=True)
    ):
        return (
            f"it knows none of {len(QUESTIONS)} capitals that this model knows; it said {_shown(answers[0])}"
        )
    return ""


def incoherent(answer: str) -> str:
    """Why a text is none, in words; empty: it is one."""
    text = MARKS.sub("", answer).strip()
    if not text:
        return "empty" if not answer.strip() else "nothing but control marks"
    letters = [c for c in text if c.isalpha()]
    broken = sum(
        (unicodedata.category(c) in ("Co", "Cn", "Cc") and c not in "\n\t\r") or c == "\ufffd" for c in text
    )
    if broken > MOST_BROKEN * len(text):
        return "broken characters"
    if not letters and not any(c.isdigit() for c in text):
        return "no letters"
    if ENDLESS.search(text):
        return "one character for ever"
    if sum(not _latin(c) for c in letters) > MOST_STRANGE * len(letters):
        return "a script that nobody asked in"
    return _repeating(text.casefold().split())


def lengths(context_tokens: int, compiles: bool) -> tuple[int, ...]:
    """Prompt lengths, in tokens, that an engine is warmed with.

    One that compiles kernels or captures graphs for each shape (`compiles`) is given short, middle and long prompts, so
    that no caller waits for the compiler; for others one prompt fills the caches of the system.
    """
    wanted = (16, 256, 1024, 4096) if compiles else (16,)
    return tuple(length for length in wanted if length * 2 <= max(context_tokens, 2048))


def warming(tokens: int, served_model: str) -> dict[str, object]:
    """A request with a prompt of about so many tokens, streamed as most calls are."""
    return {
        "model": served_model or "default",
        "messages": [{"role": "user", "content": " ".join(["river"] * max(tokens - 8, 1))}],
        "max_tokens": 8,
        "temperature": 0,
        "stream": True,
        "chat_template_kwargs": {"enable_thinking": False},
    }


def _latin(character: str) -> bool:
    return character.isascii() or unicodedata.name(character, "").startswith("LATIN")


def _repeating(words: Sequence[str]) -> str:
    for size in range(1, 5):
        run = 1
        for at in range(size, len(words) - size + 1, size):
            same = words[at : at + size] == words[at - size : at]
            run = run + 1 if same else 1
            if run >= REPEATED:
                return "the same words over and over"
    if len(words) >= LEAST_WORDS and len(Counter(words)) < LEAST_VARIETY * len(words):
        return "the same few words over and over"
    return ""


def _shown(answer: str) -> str:
    return repr(answer.strip()[:60])
