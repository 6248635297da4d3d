"""From a Spec to the engine processes that this machine will run: threads, slots, context, and whether it fits.

Memory of one llama.cpp process with `s` slots of `c` tokens each, on a CPU:

    file + projector + s * (growing * c + windowed * (window + BATCH)) + checkpoints + compute

*growing* is what full-attention layers keep of every token, *windowed* what sliding layers keep of the last
`window + BATCH` (each rounded up to 256 cells; read off llama.cpp's own report, build 11549). Each checkpoint is one
more copy of a slot's window, without the batch. *compute* is our allowance for work buffers, the larger part of
which is one batch of scores over a vocabulary of 262,144 words. Shapes come from the catalogue; a GGUF that only
the file knows is planned with its size alone, and a note says so. A share of the machine's memory is left to the
system and the gateway.
"""

from __future__ import annotations

from collections.abc import Mapping

from gemstead.catalog import names
from gemstead.catalog.models import ModelFacts, models
from gemstead.plan.values import Foreseen, Machine, ModelFile, Plan, Replica
from gemstead.refused import Reason, Refused
from gemstead.spec.model import ModelSpec, Spec

BATCH = 512  # tokens worked on at once (embedded/parameters.py)
CHECKPOINTS = 2  # per slot (embedded/parameters.py)
CELLS = 256  # llama.cpp rounds a slot's context up to this
COMPUTE_BYTES = 1 << 30  # allowance; 512 MiB of it is BATCH * 262144 * 4 bytes of scores
PROMPT_CACHE_BYTES = 256 << 20  # embedded/options.py
SYSTEM_BYTES = 1 << 30  # the system, the gateway and the supervisor
SHARE = 0.9  # of the machine's memory that is ever planned for
MOST_CONTEXT = 32_768  # when the file does not say: longer is for those who ask for it
LEAST_CONTEXT = 2_048
MOST_SLOTS = 4
DEMONSTRATION_CONTEXT = 8_192
DEMONSTRATION_SLOTS = 4


def plan(spec: Spec, machine: Machine, files: Mapping[str, ModelFile]) -> Plan:
    """The engine processes for the models of `spec` that run here; `files` by the name in the spec.

    Raises:
        Refused: UNSUPPORTED, when a model does not fit the memory, with the nearest that does.
    """
    local = [model for model in spec.models if not model.endpoints]
    replicas: list[Replica] = []
    notes: list[str] = []
    left = int(machine.memory_bytes * SHARE) - SYSTEM_BYTES
    processes = sum(model.replicas for model in local)
    for number, model in enumerate(local):
        later = sum(_least(other, files[other.name]) * other.replicas for other in local[number + 1 :])
        fitted, said, used = _fit(model, files[model.name], machine, left - later, processes, spec)
        replicas += fitted
        notes += said
        left -= used
    return Plan(tuple(replicas), tuple(notes))


def needed_bytes(facts: ModelFacts | None, file: ModelFile, context: int, slots: int) -> int:
    """Memory of one engine process, in bytes."""
    if file.demonstration:
        return 128 << 20  # 33 to 52 MB measured 2026-11, with room
    projector = facts.gguf.projector_bytes if facts and file.projector else 0
    return file.bytes + projector + COMPUTE_BYTES + PROMPT_CACHE_BYTES + slots * slot_bytes(facts, context)


def slot_bytes(facts: ModelFacts | None, context: int) -> int:
    """Keys and values of one slot at full length, with its checkpoints, at 16 bits."""
    if facts is None:
        return 0
    window = min(_cells(facts.window_tokens + BATCH), _cells(context))
    windowed = facts.windowed_cache_bytes_per_token * (window + CHECKPOINTS * facts.window_tokens)
    return facts.cache_bytes_per_token * _cells(context) + windowed


def _fit(
    model: ModelSpec, file: ModelFile, machine: Machine, room: int, processes: int, spec: Spec
) -> tuple[list[Replica], list[str], int]:
    facts, pool = _facts(model), pool_name(model)
    each = room // model.replicas
    context, slots = _shape(model, facts, file, each, machine)
    need = needed_bytes(facts, file, context, slots)
    if need > each:
        raise Refused(Reason.UNSUPPORTED, _too_large(model, facts, file, need, room, machine))
    threads = model.threads or _threads(file, machine.cpus, processes)
    replicas = [
        Replica(
            name=f"{pool}-{number}",
            pool=pool,
            engine="embedded",
            model=file,
            context_tokens=context,
            slots=slots,
            threads=threads,
            host="127.0.0.1",
            port=0,
            thinking=model.thinking,
            start_s=spec.supervise.start_s,
            foreseen=Foreseen(kv_tokens=slots * context),
        )
        for number in range(model.replicas)
    ]
    return replicas, _notes(model, pool, facts, file, replicas[0], need), need * model.replicas


def _shape(
    model: ModelSpec, facts: ModelFacts | None, file: ModelFile, room: int, machine: Machine
) -> tuple[int, int]:
    """Context and slots: what was asked for; else the most slots, then the longest context, that fit."""
    if file.demonstration:
        context = min(model.context or DEMONSTRATION_CONTEXT, DEMONSTRATION_CONTEXT)
        return _cells(context), model.slots or DEMONSTRATION_SLOTS
    most = min(MOST_CONTEXT, facts.context_tokens) if facts else LEAST_CONTEXT * 4
    slots = [model.slots] if model.slots else _slots(machine.cpus)
    contexts = [_cells(model.context)] if model.context else _halves(most)
    shapes = [(context, count) for count in slots for context in contexts]
    return next((s for s in shapes if needed_bytes(facts, file, *s) <= room), shapes[-1])


def _slots(cpus: int) -> list[int]:
    """Slot counts to try, most first: requests at once share the CPU, so few CPUs want few."""
    return list(range(max(2, min(MOST_SLOTS, cpus // 2)), 0, -1))


def _halves(most: int) -> list[int]:
    contexts = [most]
    while contexts[-1] // 2 >= LEAST_CONTEXT:
        contexts.append(contexts[-1] // 2)
    return contexts


def _threads(file: ModelFile, cpus: int, processes: int) -> int:
    """Threads of one process: one CPU stays the gateway's when there are more than two.

    The demonstration model gets one: with more, its threads wait for each other (measured: up to 15 times slower).
    """
    if file.demonstration:
        return 1
    return max(1, (cpus - 1 if cpus > 2 else cpus) // max(processes, 1))


def _notes(
    model: ModelSpec, pool: str, facts: ModelFacts | None, file: ModelFile, replica: Replica, need: int
) -> list[str]:
    if file.demonstration:
        notes = [f"{pool} is answered by the demonstration model: real architecture, toy knowledge"]
        if model.context and model.context > DEMONSTRATION_CONTEXT:
            notes.append(f"the demonstration model holds {DEMONSTRATION_CONTEXT} tokens, not {model.context}")
        return notes
    shape = f"{replica.slots} at once, {replica.context_tokens} tokens each, {replica.threads} threads"
    notes = [f"{pool}: {shape}; about {_gib(need)} of memory for each of {model.replicas}"]
    if model.context and replica.context_tokens != model.context:
        notes.append(
            f"{pool}: context {model.context} is rounded up to {replica.context_tokens}, a multiple of {CELLS}"
        )
    if not model.context and facts and replica.context_tokens < min(MOST_CONTEXT, facts.context_tokens):
        notes.append(
            f"{pool}: context is {replica.context_tokens} because of the memory; fewer `slots` allow more"
        )
    if facts is None:
        notes.append(
            f"{pool}: not in the catalogue, so its cache is not counted; set `context` and `slots` with care"
        )
    return notes


def _too_large(
    model: ModelSpec, facts: ModelFacts | None, file: ModelFile, need: int, room: int, machine: Machine
) -> str:
    asked = f" with context {model.context}" if model.context else ""
    copies = f" {model.replicas} times" if model.replicas > 1 else ""
    start = (
        f"{model.name}{asked} needs about {_gib(need)} of memory{copies} and {_gib(max(room, 0))} of this machine's "
        f"{_gib(machine.memory_bytes)} can be used"
    )
    for slots in sorted({model.slots or 1, 1}, reverse=True):
        if facts and (shorter := _longest(facts, file, room // model.replicas, slots)):
            return f"{start}; it fits with `context: {shorter}` and `slots: {slots}`"
    smaller = [f for f in models() if _least_of(f) <= room // model.replicas and f is not facts]
    below = [f for f in smaller if facts is None or f.gguf.bytes < facts.gguf.bytes]
    if below:
        nearest = max(below, key=lambda f: f.gguf.bytes)
        return f"{start}; the nearest that fits is {nearest.name}"
    return f"{start}; no Gemma 4 fits: use `endpoints` of an engine elsewhere, or `gemstead serve --demo`"


def _longest(facts: ModelFacts, file: ModelFile, room: int, slots: int) -> int | None:
    fits = [c for c in _halves(facts.context_tokens) if needed_bytes(facts, file, c, slots) <= room]
    return max(fits, default=None)


def _least(model: ModelSpec, file: ModelFile) -> int:
    """The least memory that a model further down the file will want."""
    context = _cells(model.context) if model.context else LEAST_CONTEXT
    return needed_bytes(_facts(model), file, context, model.slots or 1)


def _least_of(facts: ModelFacts) -> int:
    return needed_bytes(facts, ModelFile("", bytes=facts.gguf.bytes), LEAST_CONTEXT, 1)


def _facts(model: ModelSpec) -> ModelFacts | None:
    try:
        return names.find(model.name)
    except Refused:
        return None


def pool_name(model: ModelSpec) -> str:
    """What the model is called inside: the catalogue's name, else the user's own."""
    facts = _facts(model)
    return facts.name if facts else model.name


def _cells(tokens: int) -> int:
    return -(-tokens // CELLS) * CELLS


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
