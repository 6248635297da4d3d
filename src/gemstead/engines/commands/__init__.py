"""Launch lines: a placement in the words of its engine, one file per engine.

Each file has `command(placement) -> Command`, in which every flag has its reason and its source. `launch_command` is
what others call: it asks for the version's age, holds the line against the version's own flag list, and consults the
ledger of known-bad combinations before anything is handed out.

What no line here ever says: `--dtype float16` (the weights are bfloat16), environment variables that an engine does not
read, `--trust-remote-code`, `--attention-backend` (the engine chooses by layer), an address that others can reach.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gemstead.catalog.catalogue import Catalogue, built_in
from gemstead.catalog.engine_versions import engine_facts
from gemstead.catalog.known_bad import consult
from gemstead.engines.commands import (
    embedded,
    llamacpp,
    ollama,
    sglang,
    tensorrt_llm,
    tgi,
    transformers,
    vllm,
)
from gemstead.engines.flag import Command
from gemstead.engines.flaglist import FILES, check
from gemstead.plan.placement import Placement
from gemstead.refused import Reason, Refused

COMMANDS: dict[str, Callable[[Placement], Command]] = {
    "vllm": vllm.command,
    "sglang": sglang.command,
    "llamacpp": llamacpp.command,
    "ollama": ollama.command,
    "transformers": transformers.command,
    "tgi": tgi.command,
    "tensorrt_llm": tensorrt_llm.command,
    "embedded": embedded.command,
}


def launch_command(placement: Placement, catalogue: Catalogue | None = None) -> Command:
    """How the replica is started, checked: its flags are known to the version, and nothing certain speaks against it.

    `catalogue` has the engines and the ledger that are asked: whoever has read the user's own facts hands them in;
    the built-in ones when None.

    Raises:
        Refused: UNSUPPORTED, when the version is too old, does not know a flag, or is known not to start like this.
    """
    setup = placement.setup
    known_here = catalogue or built_in()
    facts = engine_facts(setup.engine, known_here.engines)
    fault = setup.checkpoint.fault_on(setup.accelerator)
    if fault:
        raise Refused(Reason.UNSUPPORTED, f"{setup.checkpoint.repo} {fault}")
    features = ("mtp",) if setup.drafter else ()
    if too_old := facts.fault_of(setup.version, setup.model.size, features):
        raise Refused(Reason.UNSUPPORTED, too_old)
    line = COMMANDS[setup.engine](placement)
    notes = list(line.notes)
    if facts.status != "supported":
        notes.append(
            f"{facts.title} is {facts.status} for Gemma 4: {facts.notes[0] if facts.notes else 'no evidence'}"
        )
    if setup.engine in FILES:
        known = check(line)
        if setup.version and not known.exact:
            notes.append(
                f"flags are checked against {facts.title} {known.read}, the nearest version that was read"
            )
    return replace(line, notes=tuple(notes + _ledger(placement, line, known_here)))


def _ledger(placement: Placement, line: Command, catalogue: Catalogue) -> list[str]:
    """What the ledger says that does not stop the launch.

    Raises:
        Refused: UNSUPPORTED, for an entry that certainly stops it.
    """
    setup = placement.setup
    version = setup.version or engine_facts(setup.engine, catalogue.engines).latest_seen
    words = [word for flag in line.flags for word in flag.words]
    met = consult(
        setup.engine,
        version,
        setup.model,
        setup.accelerator,
        words,
        checkpoint=setup.checkpoint,
        env=line.env,
        among=catalogue.known_bad,
    )
    for entry in met:
        if entry.blocks:
            raise Refused(Reason.UNSUPPORTED, f"{setup.engine} {version}: {entry}")
    if setup.engine == "embedded":
        return []  # how it is started is ours, and allows for them
    return [str(entry) for entry in met if entry.severity != "note"]
