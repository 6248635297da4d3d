"""Why an engine ended, told apart from its exit, its last words and the kernel's count; and what to do."""

from __future__ import annotations

import pytest

from gemstead.engines.diagnosis import Cause, diagnose
from gemstead.engines.reading import LogEvent
from gemstead.engines.remedies import remedy

NO_MEMORY = LogEvent("memory", "the card has not enough memory for it", fatal=True)
LOADING = LogEvent("loading", "loading the model", fatal=False)
BROKEN = LogEvent("corrupt", "the file is damaged", fatal=True)


@pytest.mark.parametrize(
    ("code", "said", "kills", "wrapped", "cause", "why"),
    [
        (-9, (), 1, False, Cause.MEMORY, "ended by the system, which had no memory left (SIGKILL)"),
        (137, (), 1, True, Cause.MEMORY, "ended by the system, which had no memory left (SIGKILL)"),
        (-9, (), 0, False, Cause.KILLED, "ended by signal 9 (SIGKILL)"),
        (137, (), 0, False, Cause.CRASH, "exited with code 137"),
        (1, (LOADING, NO_MEMORY), 0, False, Cause.MEMORY, "exited with code 1: the card has not enough memory for it"),
        (-6, (BROKEN, NO_MEMORY), 0, False, Cause.MEMORY, "crashed, ended by signal 6 (SIGABRT): the card has"),
        (1, (BROKEN,), 0, False, Cause.FILES, "exited with code 1: the file is damaged"),
        (139, (), 0, True, Cause.CRASH, "crashed, ended by signal 11 (SIGSEGV)"),
        (-4, (), 0, False, Cause.PROCESSOR, "ended by signal 4 (SIGILL)"),
        (127, (), 0, True, Cause.PROGRAM, "exited with code 127"),
        (0, (), 5, False, Cause.CRASH, "exited with code 0"),
    ],
)  # fmt: skip
def test_how_it_ended(code, said, kills, wrapped, cause, why):
    found = diagnose(code, said, memory_kills=kills, wrapped=wrapped)
    assert found.cause is cause
    assert found.why.startswith(why)


def test_the_nearest_fix_is_named():
    line = ["vllm", "serve", "m", "--max-num-batched-tokens", "8192"]
    assert remedy(Cause.MEMORY, "vllm", "0.32.0", line).startswith(
        "lower `--max-num-batched-tokens`, now 8192, to 4096"
    )
    diffusion = remedy(Cause.FILES, "vllm", "0.18.0", ["vllm", "serve"])
    assert diffusion.startswith("use 0.21 or newer")
    assert "gibberish" in remedy(Cause.NONSENSE, "vllm", "0.32.0") or "another checkpoint" in remedy(
        Cause.NONSENSE, "vllm", "0.32.0"
    )
    assert remedy(Cause.CRASH, "vllm", suggested="use the blue one") == "use the blue one"
    assert all(remedy(cause, "embedded") for cause in Cause)
