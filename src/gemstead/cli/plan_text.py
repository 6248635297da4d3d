"""A proposal in words: what to run, why, the alternatives in one table, the launch line; or all of it as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from gemstead.cli.tables import show
from gemstead.engines.flag import Command
from gemstead.plan.api import Option, Proposal
from gemstead.plan.throughput import Range

HEADINGS = (
    "",
    "weights",
    "engine",
    "card",
    "cards",
    "context",
    "at once",
    "ttft",
    "tpot",
    "tok/s",
    "$/h",
    "$/M",
    "remark",
)

MOST_LINES = 8  # launch lines that are shown; `--json` has all


def show_text(proposal: Proposal, commands: Sequence[Command], *, explain: bool) -> None:
    """Print the proposal."""
    chosen, setup = proposal.chosen, proposal.chosen.setup
    if chosen.memory.fits:
        groups = f"{chosen.replicas} replica{'s' * (chosen.replicas != 1)} of {setup.tp} x {setup.accelerator.name}"
        spare = f", {chosen.spares} of them spare" if chosen.spares else ""
        print(f"{setup.model.title} ({setup.checkpoint.repo}): {groups}{spare}, {setup.engine}")
        print(f"  {_memory(proposal)}")
        print(f"  alone: {_ms(chosen.alone.tpot_s)} ms a token, first token in {_s(chosen.alone.ttft_s)} s")
        tokens = _whole(chosen.full.tokens_per_s.times(chosen.replicas))
        most = f"{setup.at_once} at once each: {tokens} tokens a second"
        print(f"  {most} in all, {_ms(chosen.full.tpot_s)} ms a token")
        if chosen.capacity:
            sized = chosen.capacity
            print(
                f"  busiest hour: {sized.requests_per_s:.2f} requests a second, {sized.in_air:.0f} in the air, "
                f"{sized.load:.0%} of what {sized.replicas - sized.spares} replica(s) can do"
            )
        print(_money(proposal.best))
        if proposal.against_api:
            print(f"  {proposal.against_api.verdict}")
    for said in (*chosen.reasons, *chosen.notes, *proposal.notes):
        print(f"- {said}")
    if len(proposal.options) > 1:
        print()
        show(HEADINGS, [_row(one, one is proposal.best) for one in proposal.options])
    if explain:
        _explain(proposal)
    if commands:
        print()
        _launch(commands)
        if chosen.hosts > 1:
            print(f"the same on each of {chosen.hosts} hosts")
        for said in dict.fromkeys(note for command in commands for note in command.notes):
            print(f"- known: {said}")
        if explain:
            _explain_flags(commands[0])


def _launch(commands: Sequence[Command]) -> None:
    """The first line whole, and of the others what differs."""
    first = commands[0]
    print(first.shell())
    for after in first.afterwards:
        print(" ".join(after))
    for other in commands[1:MOST_LINES]:
        env = [f"{name}={value}" for name, value in other.env.items() if first.env.get(name) != value]
        flags = [" ".join(flag.words) for flag in other.flags if flag not in first.flags]
        print(f"the same with {' '.join([*env, *flags])}")
    if len(commands) > MOST_LINES:
        print(f"and {len(commands) - MOST_LINES} more, each with the next cards and port")


def as_json(proposal: Proposal, commands: Sequence[Command]) -> dict[str, Any]:
    """The proposal for programs. Bytes, seconds, tokens and US dollars."""
    chosen = proposal.chosen
    return {
        "model": proposal.model.name,
        "meets": proposal.best.meets,
        "count": proposal.count,
        "hosts": chosen.hosts,  # `launch` is for each of them
        "chosen": _option_json(proposal.best),
        "alternatives": [_option_json(one) for one in proposal.others],
        "against_api": asdict(proposal.against_api) if proposal.against_api else None,
        "reasons": [*chosen.reasons],
        "notes": [*chosen.notes, *proposal.notes],
        "memory": [asdict(line) for line in chosen.memory.lines],
        "launch": [
            {
                "argv": list(command.argv),
                "env": command.env,
                "afterwards": [list(after) for after in command.afterwards],
                "notes": list(command.notes),
                "flags": [asdict(flag) for flag in command.flags],
            }
            for command in commands
        ],
    }


def _option_json(option: Option) -> dict[str, Any]:
    layout, setup = option.layout, option.layout.setup
    return {
        "checkpoint": setup.checkpoint.repo,
        "format": setup.checkpoint.format,
        "engine": setup.engine,
        "version": setup.version or None,
        "accelerator": setup.accelerator.id,
        "tensor_parallel": setup.tp,
        "replicas": layout.replicas,
        "spares": layout.spares,
        "replicas_short": layout.short,
        "cards_idle": layout.cards_idle,
        "fits": layout.memory.fits,
        "comfortable": layout.comfortable,
        "meets": option.meets,
        "context_tokens": setup.length,
        "largest_context_tokens": layout.memory.largest_context,
        "concurrency_at_context": layout.memory.concurrency(setup.length),
        "requests_at_once": setup.at_once,
        "batched_tokens": setup.in_steps_of,
        "draft_tokens": layout.drafting.tokens,
        "spare_bytes": layout.memory.spare_bytes,
        "kv_pool_bytes": layout.memory.kv_pool_bytes,
        "used_bytes": layout.memory.used_bytes,
        "alone": {"ttft_s": asdict(layout.alone.ttft_s), "tpot_s": asdict(layout.alone.tpot_s)},
        "full": {
            "tpot_s": asdict(layout.full.tpot_s),
            "tokens_per_s": asdict(layout.full.tokens_per_s.times(max(layout.replicas, 0))),
        },
        "usd_hour": option.bill.usd_hour if option.bill else None,
        "usd_per_million_output": option.cost.usd_per_million_output if option.cost else None,
        "verdict": layout.memory.verdict(),
    }


def _row(option: Option, chosen: bool) -> tuple[object, ...]:
    layout, setup = option.layout, option.layout.setup
    fits = layout.memory.fits and layout.replicas > 0
    why = "" if fits else (layout.memory.faults[0] if layout.memory.faults else "does not fit")
    if fits and layout.short:
        why = f"{layout.short} short"
    elif fits and option.over_budget:
        why = "over budget"
    elif fits and not layout.meets:
        why = "misses an aim"
    elif fits and not layout.comfortable:
        why = "tight"
    return (
        ">" if chosen else "",
        setup.checkpoint.bits,
        setup.engine,
        setup.accelerator.id,
        f"{layout.replicas} x {setup.tp}" if fits else "-",
        setup.length if fits else layout.memory.largest_context,
        setup.at_once if fits else None,
        f"{layout.alone.ttft_s.likely:.2f} s" if fits else "-",
        f"{layout.alone.tpot_s.likely * 1000:.1f} ms" if fits else "-",
        round(layout.tokens_per_s) if fits else None,
        f"{option.bill.usd_hour:.2f}" if option.bill else None,
        f"{option.cost.usd_per_million_output:.2f}" if option.cost else None,
        why,
    )


def _memory(proposal: Proposal) -> str:
    memory = proposal.chosen.memory
    return (
        f"memory of a card: {_gib(memory.used_bytes)} of {_gib(memory.card_bytes)} used, {_gib(memory.weights_bytes)} "
        f"of it weights; the longest request may have {memory.largest_context} tokens"
    )


def _money(option: Option) -> str:
    if option.bill is None:
        return "  no price is known"
    per = (
        f", ${option.cost.usd_per_million_output:.2f} for a million output tokens at that load"
        if option.cost
        else ""
    )
    return f"  ${option.bill.usd_hour:.2f} an hour, ${option.bill.usd_month:,.0f} a month{per}"


def _explain(proposal: Proposal) -> None:
    """Every number of the memory, with its formula."""
    memory = proposal.chosen.memory
    print("\nmemory of one card")
    rows = [(line.name, _gib(line.bytes), line.formula, line.source) for line in memory.lines]
    pool = ("cache", _gib(memory.kv_pool_bytes), "what is left of the share that the engine takes", "")
    need = ("needed", _gib(memory.needed_bytes), "for one longest request", "")
    show(("", "size", "how it comes about", "source"), [*rows, pool, need])


def _explain_flags(command: Command) -> None:
    """Every flag, with why and where that is written."""
    print("\nflags")
    values = [(flag.name, " ".join(flag.words[1:]), flag.reason, flag.source) for flag in command.flags]
    values += [(one.name, one.value, one.reason, one.source) for one in command.variables]
    show(("flag", "value", "why", "source"), values)


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"


def _ms(span: Range) -> str:
    return f"{span.likely * 1000:.0f} ({span.low * 1000:.0f} to {span.high * 1000:.0f})"


def _s(span: Range) -> str:
    return f"{span.likely:.2f} ({span.low:.2f} to {span.high:.2f})"


def _whole(span: Range) -> str:
    return f"{span.likely:,.0f} ({span.low:,.0f} to {span.high:,.0f})"
