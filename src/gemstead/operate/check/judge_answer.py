"""Judging answers: plain, streamed, thinking, structured, with a picture, and what usage says about them.

Every function here is given replies and returns a `Verdict`; none asks anything. What each looks for has
been seen going wrong in public trackers of engines and gateways that serve Gemma 4: thoughts in the answer,
streams that lose pieces, usage that is absent or zero, schemas that are ignored.
"""

from __future__ import annotations

import json
import re

from gemstead.operate.check.questions import CITY_SCHEMA, EXPECTED
from gemstead.operate.check.reply import Fields, Reply, Turn, message_of, read_stream, turn_of, usage_of
from gemstead.operate.check.verdict import Verdict, failed, passed, skipped

# Control tokens of Gemma 4's chat format, and the thought marks of other models that a wrong parser leaves.
LEAK = re.compile(r"<\|?/?(channel|think|turn|tool_call|tool_response|tool|start_of_turn|end_of_turn)\|?>")

# llama.cpp: "image input is not supported ... mmproj"; vLLM: "At most 0 image(s) may be provided".
NO_IMAGES = re.compile(r"mmproj|image|multimodal|vision", re.IGNORECASE)

WRONG_TEMPLATE = (
    "The chat template or the parsers do not fit the model: use the model file's own template, and start "
    "the engine with its Gemma 4 parsers (vLLM: --reasoning-parser gemma4 --tool-call-parser gemma4; "
    "llama.cpp: a current build with --jinja)."
)
WRONG_MODEL = (
    "See that the model file is the instruction-tuned one (-it) and is whole (`gemstead logs` shows how it "
    "was loaded); a broken quantisation answers fluently and wrongly."
)


def not_served(reply: Reply) -> Verdict | None:
    """A verdict when the request was not answered at all; else None."""
    if reply.status == 200 and not reply.cut:
        return None
    if reply.cut:
        return failed("The connection ended before the answer did.", "Look at `gemstead logs` for a crash.")
    if reply.status in (401, 403):
        return failed(
            f"The key was not accepted ({reply.status}: {reply.says}).", "Give a valid key with --key-file."
        )
    if reply.status == 429:
        return failed(
            f"The key's limit is reached ({reply.says.rstrip('.')}).",
            "Check with a key that has a higher limit.",
        )
    if reply.status == 503:
        return failed(
            f"The service is busy or not ready ({reply.status}: {reply.says}).",
            "See `gemstead ps`, then try again.",
        )
    return failed(
        f"The request was refused with {reply.status}: {reply.says.rstrip('.')}.", "See `gemstead logs`."
    )


def leak_in(text: str) -> str:
    """The first control mark that stands in text meant for the reader; empty when there is none."""
    found = LEAK.search(text)
    return found.group() if found else ""


def plain(reply: Reply) -> Verdict:
    """A whole answer to "What is the capital of Peru?"."""
    if trouble := not_served(reply):
        return trouble
    turn = message_of(reply)
    if mark := leak_in(turn.text):
        return failed(f"The answer holds the control mark {mark}.", WRONG_TEMPLATE)
    if not turn.text.strip():
        return failed("The answer is empty.", WRONG_TEMPLATE)
    if EXPECTED.lower() not in turn.text.lower():
        return failed(f"Asked for the capital of Peru, it said {turn.text[:80]!r}.", WRONG_MODEL)
    if missing := [name for name in ("id", "object", "created", "model") if not reply.fields.get(name)]:
        return failed(f"The answer lacks {', '.join(missing)}.", "Some clients need them: update the engine.")
    if turn.finish != "stop":
        return failed(f"finish_reason is {turn.finish or 'missing'}, not stop.", WRONG_TEMPLATE)
    return passed(f"{turn.text.strip()[:80]}")


def streamed(stream_reply: Reply, whole: Reply) -> Verdict:
    """The same question as a stream; it must say the same as the whole answer."""
    if trouble := not_served(stream_reply):
        return trouble
    stream = read_stream(stream_reply)
    if stream.faults:
        return failed(
            f"The stream is not well formed: {stream.faults[0]}.",
            "Update the engine, or see what sits in between.",
        )
    turn, expected = turn_of(stream), message_of(whole).text
    if mark := leak_in(turn.text):
        return failed(f"The stream holds the control mark {mark}.", WRONG_TEMPLATE)
    if not turn.finish:
        return failed("No chunk carries a finish_reason.", "Clients wait for it: update the engine.")
    if turn.text == expected:
        return passed(f"{len(stream.chunks)} chunks, [DONE], the same text as the whole answer.")
    if not expected or is_part(turn.text, expected):
        return failed(
            f"The stream lost text: {turn.text[:80]!r} instead of {expected[:80]!r}.", "Update the engine."
        )
    if EXPECTED.lower() not in turn.text.lower():
        return failed(f"The stream said {turn.text[:80]!r}, the whole answer {expected[:80]!r}.", WRONG_MODEL)
    return passed("Well formed; worded otherwise than the whole answer, as engines under load may do.")


def is_part(text: str, whole: str) -> bool:
    """Whether `text` is `whole` with some letters left out."""
    letters = iter(whole)
    return len(text) < len(whole) and all(letter in letters for letter in text)


def usage(whole: Reply, stream_with: Reply, stream_without: Reply) -> Verdict:
    """Token counts: in a whole answer, in a stream that asked for them, and absent from one that did not."""
    for reply in (whole, stream_with, stream_without):
        if trouble := not_served(reply):
            return trouble
    told = usage_of(whole.fields)
    if fault := _usage_fault(told, message_of(whole)):
        return failed(
            f"The whole answer's usage is wrong: {fault}.", "Bills and limits rest on it: update the engine."
        )
    stream = read_stream(stream_with)
    if not stream.chunks or not (last := usage_of(stream.chunks[-1])):
        return failed(
            "A stream with include_usage does not end with usage.",
            "Update the engine: stream_options is ignored.",
        )
    if stream.chunks[-1].get("choices") != []:
        return failed(
            "The chunk with the usage has choices; OpenAI's has an empty list.",
            "Strict clients fail on it: update the engine.",
        )
    if fault := _usage_fault(last, turn_of(stream)):
        return failed(
            f"The stream's usage is wrong: {fault}.", "Bills and limits rest on it: update the engine."
        )
    if last["prompt_tokens"] != told["prompt_tokens"]:
        return failed(
            f"The same prompt counts {told['prompt_tokens']} tokens whole, {last['prompt_tokens']} streamed.",
            "Bills and limits rest on it: update the engine.",
        )
    if any(chunk.get("choices") == [] for chunk in read_stream(stream_without).chunks):
        return failed(
            "A stream that did not ask for usage has a chunk without choices.",
            "Clients that index choices[0] fail on it.",
        )
    return passed(f"{told['prompt_tokens']} tokens in, {told['completion_tokens']} out; the stream agrees.")


def _usage_fault(told: Fields, turn: Turn) -> str:
    counts = [told.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
    if not all(isinstance(count, int) for count in counts):
        return f"it lacks a count ({json.dumps(told)[:80]})"
    prompt, output, total = (int(count or 0) for count in counts)
    if prompt < 3 or output < 1:
        return f"{prompt} tokens in and {output} out cannot be"
    if total != prompt + output:
        return f"{prompt} and {output} do not make {total}"
    if output > len(turn.text + turn.thought) + 16:
        return f"{output} tokens for {len(turn.text)} letters cannot be"
    return ""


def thinking_off(reply: Reply) -> Verdict:
    """No thought anywhere when thinking is off."""
    if trouble := not_served(reply):
        return trouble
    turn = message_of(reply)
    if turn.thought.strip():
        return failed("Thinking is off, and yet the answer carries a thought.", WRONG_TEMPLATE)
    if mark := leak_in(turn.text):
        return failed(f"Thinking is off, and yet the answer holds {mark}.", WRONG_TEMPLATE)
    if turn.text.lstrip().lower().startswith("thought\n"):
        return failed("A thought stands in the answer, its marks stripped.", WRONG_TEMPLATE)
    return passed("No thought, no control mark.")


def thinking_on(whole: Reply, stream_reply: Reply) -> Verdict:
    """A thought, and outside the answer, whole and streamed."""
    for reply in (whole, stream_reply):
        if trouble := not_served(reply):
            return trouble
    for way, turn in (("whole", message_of(whole)), ("streamed", turn_of(read_stream(stream_reply)))):
        if mark := leak_in(turn.text + turn.thought):
            return failed(f"The {way} answer holds {mark}.", WRONG_TEMPLATE)
        if turn.text.lstrip().lower().startswith("thought\n"):
            return failed(f"The thought stands in the {way} answer, its marks stripped.", WRONG_TEMPLATE)
        if turn.finish == "length":
            return skipped("It was still thinking after 1,024 tokens.")
        if not turn.thought.strip():
            return skipped(
                "The model answered without thinking, or the engine does not switch thinking per request."
            )
        if turn.thought.strip() in turn.text:
            return failed(f"The thought is repeated in the {way} answer.", WRONG_TEMPLATE)
        if not turn.text.strip():
            return failed(f"The {way} answer is empty: all of it went into the thought.", WRONG_TEMPLATE)
    return passed("The thought is kept apart from the answer, whole and streamed.")


def structured(reply: Reply) -> Verdict:
    """An answer bound to a JSON schema."""
    if trouble := not_served(reply):
        return trouble
    turn = message_of(reply)
    remedy = "The engine ignores response_format: use one with guided decoding (llama.cpp, vLLM, SGLang)."
    if turn.finish == "length":
        return failed(
            "The answer did not end within 256 tokens.",
            "Update the engine: its grammar lets the answer run on.",
        )
    try:
        value = json.loads(turn.text)
    except ValueError:
        return failed(f"The answer is not JSON: {turn.text[:80]!r}.", remedy)
    if fault := schema_fault(value):
        return failed(f"The answer breaks the schema: {fault}.", remedy)
    return passed(json.dumps(value))


def schema_fault(value: object) -> str:
    """What in `value` breaks `CITY_SCHEMA`; empty when nothing does."""
    if not isinstance(value, dict):
        return "it is not an object"
    expected: Fields = CITY_SCHEMA["properties"]
    if set(value) != set(expected):
        return f"its fields are {sorted(value)}"
    for name, rule in expected.items():
        if "enum" in rule and value[name] not in rule["enum"]:
            return f"{name} is {value[name]!r}"
        if rule["type"] == "boolean" and not isinstance(value[name], bool):
            return f"{name} is {value[name]!r}"
    return ""


def image(reply: Reply, text_tokens: int) -> Verdict:
    """A question with a picture; `text_tokens` is what a short question without one counts."""
    if reply.status >= 400 and NO_IMAGES.search(reply.says):
        return skipped(
            f"This model takes no images here ({reply.says}).", "Give its projector file as `projector`."
        )
    if trouble := not_served(reply):
        return trouble
    told = usage_of(reply.fields).get("prompt_tokens", 0)
    if told < text_tokens + 16:
        return failed(
            f"The picture was dropped: {told} tokens in, a question without it has {text_tokens}.",
            "An engine without a projector must refuse images, not ignore them: see `gemstead logs`.",
        )
    text = message_of(reply).text
    if mark := leak_in(text):
        return failed(f"The answer holds the control mark {mark}.", WRONG_TEMPLATE)
    return passed(f"{told} tokens with the picture; it said {text.strip()[:60]!r}.")


def drafting(drafted: int | None, accepted: int | None) -> Verdict:
    """How many tokens of the draft model were taken. Below one in five something is wrong: pairs of the same
    family take half and more (published: 0.52 to 0.90); a wrong pair took 0.2 % (vLLM issue 41789)."""
    if not drafted or accepted is None:
        return skipped("No draft model is at work.")
    share = accepted / drafted
    if share < 0.2:
        return failed(
            f"Only {accepted} of {drafted} drafted tokens were taken ({share:.0%}).",
            "The draft model does not fit: use the assistant made for this very model, quantised alike.",
        )
    return passed(f"{accepted} of {drafted} drafted tokens were taken ({share:.0%}).")
