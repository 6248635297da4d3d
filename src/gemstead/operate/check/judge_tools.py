"""Judging tool calls: one, two at once, and the turn after."""

from __future__ import annotations

import json

from gemstead.operate.check.judge_answer import WRONG_TEMPLATE, leak_in, not_served
from gemstead.operate.check.questions import EXPECTED
from gemstead.operate.check.reply import Fields, Reply, Turn, message_of, read_stream, turn_of
from gemstead.operate.check.verdict import Verdict, failed, passed, skipped


def one_call(whole: Reply, stream_reply: Reply) -> Verdict:
    """A call of `get_weather` for Lima, whole and streamed."""
    for reply in (whole, stream_reply):
        if trouble := not_served(reply):
            return trouble
    stream = read_stream(stream_reply)
    if stream.faults:
        return failed(f"The stream is not well formed: {stream.faults[0]}.", "Update the engine.")
    for way, turn in (("whole", message_of(whole)), ("streamed", turn_of(stream))):
        if fault := call_fault(turn, {"get_weather"}):
            return failed(f"The {way} answer: {fault}.", WRONG_TEMPLATE)
        if not turn.calls:
            return failed(f"The {way} answer calls no tool; it said {turn.text[:80]!r}.", WRONG_TEMPLATE)
        location = json.loads(turn.calls[0]["function"]["arguments"]).get("location")
        if EXPECTED.lower() not in str(location).lower():
            return failed(f"The {way} call asks about {location!r}, not {EXPECTED}.", WRONG_TEMPLATE)
        if turn.finish != "tool_calls":
            return failed(
                f"The {way} call has finish_reason {turn.finish or 'missing'}, not tool_calls.",
                WRONG_TEMPLATE,
            )
    return passed('get_weather({"location": "Lima"}), whole and streamed.')


def two_calls(reply: Reply) -> Verdict:
    """Two tools in one turn. Whether to call both is the model's choice; that each call is usable is not."""
    if trouble := not_served(reply):
        return trouble
    turn = message_of(reply)
    if turn.finish == "length":
        return skipped("The model did not end its calls within 128 tokens; it cannot be judged by that.")
    if fault := call_fault(turn, {"get_weather", "get_time"}):
        return failed(f"The answer: {fault}.", WRONG_TEMPLATE)
    if len(turn.calls) < 2:
        did = f"called {turn.calls[0]['function']['name']} alone" if turn.calls else "answered in words"
        return skipped(f"The model {did}, which it may.")
    if len({call.get("id") for call in turn.calls}) < len(turn.calls):
        return failed("Two calls share one id.", "Results cannot be matched to calls: update the engine.")
    return passed(f"{len(turn.calls)} calls with ids of their own.")


def tool_result(reply: Reply) -> Verdict:
    """The turn after a tool said "sunny"."""
    if trouble := not_served(reply):
        return trouble
    turn = message_of(reply)
    if mark := leak_in(turn.text):
        return failed(f"The answer holds the control mark {mark}.", WRONG_TEMPLATE)
    if turn.calls:
        return failed("Given the tool's result, the model called again instead of answering.", WRONG_TEMPLATE)
    if "sunny" not in turn.text.lower():
        return failed(f"Told that it is sunny, it said {turn.text[:80]!r}.", WRONG_TEMPLATE)
    return passed(turn.text.strip()[:80])


def call_fault(turn: Turn, known: set[str]) -> str:
    """What makes the calls of a turn unusable; empty when they are fine or there are none."""
    if mark := leak_in(turn.text):
        return f"a call stands in the text ({mark})"
    for call in turn.calls:
        if fault := _one_fault(call, known):
            return fault
    return ""


def _one_fault(call: Fields, known: set[str]) -> str:
    function = call.get("function")
    if not isinstance(function, dict) or function.get("name") not in known:
        return f"it calls {(function or {}).get('name')!r}, which was not offered"
    if not call.get("id"):
        return "a call has no id"
    try:
        arguments = json.loads(function.get("arguments"))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return f"the arguments are not JSON text: {str(function.get('arguments'))[:80]}"
    return "" if isinstance(arguments, dict) else f"the arguments are not an object: {arguments!r}"
