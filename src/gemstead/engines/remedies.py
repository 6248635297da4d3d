"""What to do about an engine that failed, in one sentence: the nearest fix that we know of.

First what the engine's own log line suggests (its adapter knows), then the ledger of known-bad combinations for exactly
this engine, version and launch line, then what usually helps against the cause, with the setting's present value.
"""

from __future__ import annotations

from collections.abc import Sequence

from gemstead.catalog.known_bad import SEVERITIES, consult, given
from gemstead.engines.diagnosis import Cause

# What a cause has to do with a ledger entry: words of its symptom.
SYMPTOMS = {
    Cause.MEMORY: ("memory",),
    Cause.NONSENSE: ("gibberish", "wrong", "nonsense"),
    Cause.HANG: ("wait", "hang", "hung", "never"),
    Cause.SLOW_START: ("start", "minutes", "compil"),
    Cause.CRASH: ("crash", "fail", "cannot", "error", "not known", "refuse"),
    Cause.FILES: ("load", "knows no", "does not know", "cannot"),
}
# Settings that take memory, in the order in which lowering them costs least.
SMALLER = (
    ("--max-num-batched-tokens", "`--max-num-batched-tokens`"),
    ("--chunked-prefill-size", "`--chunked-prefill-size`"),
    ("--max-num-seqs", "`--max-num-seqs` (`slots`)"),
    ("--max-model-len", "`--max-model-len` (`context`)"),
    ("--context", "`context`"),
    ("--ctx-size", "`--ctx-size` (`context`)"),
)
USUAL = {
    Cause.MEMORY: "choose a smaller `context`, fewer `slots`, or a smaller model or quantisation; "
    "`gemstead plan` shows what fits",
    Cause.CRASH: "see its last lines with `gemstead logs`; if it comes again, use another version of the engine",
    Cause.KILLED: "somebody ended it, or a container's memory limit did; it is started again",
    Cause.HANG: "it is started again; if it comes again, use another version of the engine",
    Cause.SILENT: "it is started again; see that the machine is not starved of processor or memory",
    Cause.SLOW_START: "raise `supervise.start_s`, or see in `gemstead logs` what it waits for (a download, a compiler)",
    Cause.ERRORS: "see its last lines with `gemstead logs`; another checkpoint, chat template or version may help",
    Cause.NONSENSE: "use another checkpoint or quantisation of the model; if its answers are as they should be, "
    "set `supervise.check: warn`",
    Cause.FILES: "see that the model's files are whole and made for this engine; fetch them again, or choose others",
    Cause.PORT: "another port is tried; if you fixed the port, free it",
    Cause.PROCESSOR: "this engine is not built for this processor; use another engine, or another machine",
    Cause.PROGRAM: "see that the engine is installed and on the PATH (`gemstead doctor`)",
}
assert set(USUAL) == set(Cause), "every cause has a remedy"


def remedy(
    cause: Cause, engine: str, version: str = "", argv: Sequence[str] = (), *, suggested: str = ""
) -> str:
    """What to do, as a sentence without a full stop. `suggested`: what the adapter read in the log."""
    if suggested:
        return suggested
    words = SYMPTOMS.get(cause, ())
    for entry in consult(engine, version, flags=list(argv[1:])) if words else ():
        serious = SEVERITIES.index(entry.severity) <= SEVERITIES.index("slow")
        if serious and any(word in entry.symptom.casefold() for word in words):
            return f"{entry.remedy} (known: {entry.symptom})"
    if cause is Cause.MEMORY:
        flags = given(list(argv[1:]))
        for flag, named in SMALLER:
            if (value := flags.get(flag, "")).isdigit() and int(value) > 1:
                return f"lower {named}, now {value}, to {int(value) // 2}; or {USUAL[cause]}"
    return USUAL[cause]
