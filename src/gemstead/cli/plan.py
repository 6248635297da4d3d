"""`gemstead plan`: what to run on these cards, or on this machine, and what else there is. Offline, in an instant.

With nothing said it plans for the cards that are here, or for the processor. The file's first model counts where there
is a file; else the largest model that fits well.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemstead.cli.trouble import USAGE, Trouble

if TYPE_CHECKING:
    from gemstead.catalog.accelerators import Accelerator
    from gemstead.catalog.catalogue import Catalogue
    from gemstead.plan.api import Proposal
    from gemstead.plan.from_log import Correction

LARGEST_FIRST = ("31B", "26B-A4B", "12B", "E4B", "E2B")


def add(subparsers: Any) -> None:
    from gemstead.cli import plan_forecast
    from gemstead.cli.options import add_common

    parser = subparsers.add_parser(
        "plan",
        description="Work out what to run: memory, replicas, flags, speed and cost, with the alternatives in one "
        "table. Without options: for this machine.",
    )
    parser.add_argument("--model", metavar="NAME", help="such as 31B or google/gemma-4-E4B-it")
    parser.add_argument(
        "--gpu", metavar="NAME", help="such as H100, L4, `RTX PRO 6000`, or a slice h100-sxm/1g.20gb"
    )
    parser.add_argument(
        "--count", type=int, metavar="N", help="cards at hand (default: 1, or as many as needed)"
    )
    load = parser.add_argument_group("traffic")
    load.add_argument("--users", type=float, default=0, metavar="N", help="people who use it")
    load.add_argument(
        "--rps", type=float, default=0, metavar="N", help="requests a second in the busiest hour"
    )
    load.add_argument(
        "--per-day", type=float, default=20, metavar="N", help="requests of one user a day (20)"
    )
    load.add_argument("--day", default="office", metavar="SHAPE", help="office, consumer or flat")
    load.add_argument(
        "--input", type=float, default=1024, metavar="N", help="tokens of a usual prompt (1024)"
    )
    load.add_argument("--output", type=float, default=256, metavar="N", help="tokens of a usual answer (256)")
    load.add_argument(
        "--context", type=_tokens, default=0, metavar="N", help="tokens of the longest request (32k)"
    )
    load.add_argument(
        "--images", type=int, default=0, metavar="N", help="pictures that a prompt may hold (0)"
    )
    load.add_argument("--ttft", type=float, metavar="S", help="aim: seconds to the first token")
    load.add_argument("--tpot", type=float, metavar="MS", help="aim: milliseconds for each further token")
    how = parser.add_argument_group("choices")
    how.add_argument("--weights", default="", metavar="FORM", help="BF16, FP8, INT4, NVFP4, or a repository")
    how.add_argument("--kv", default="auto", metavar="FORMAT", help="format of the cache, such as fp8")
    how.add_argument("--engine", default="", metavar="NAME", help="vllm, sglang, llamacpp, ollama, ...")
    how.add_argument(
        "--engine-version", default="", metavar="V", help="such as 0.32.0 (default: newest known)"
    )
    how.add_argument("--tp", type=int, metavar="N", help="cards to a replica")
    how.add_argument(
        "--draft", type=int, metavar="N", help="tokens to draft ahead; 0: off (default: where it helps)"
    )
    how.add_argument("--spares", type=int, default=1, metavar="N", help="replicas that may be down (1)")
    how.add_argument(
        "--headroom", type=float, default=0.35, metavar="SHARE", help="kept free at the busiest (0.35)"
    )
    how.add_argument("--budget", type=float, metavar="USD", help="most that it may cost a month")
    how.add_argument("--thinking", action="store_true", help="think when a request does not say")
    out = parser.add_argument_group("what to show")
    out.add_argument(
        "--explain", action="store_true", help="every number and every flag, with reason and source"
    )
    out.add_argument("--write", action="store_true", help="write the chosen plan into the file's `models`")
    out.add_argument(
        "--plot",
        metavar="FILE",
        help="draw one replica's speed and cost against load, or the forecast (.svg, .png)",
    )
    out.add_argument("--from-log", metavar="FILE", help="learn from an engine's start-up log on this machine")
    plan_forecast.add(parser)
    add_common(parser)
    parser.set_defaults(run=show)


def show(args: argparse.Namespace) -> int:
    """Exit code 0 when something fits as asked, else 1."""
    if args.from_log:
        from gemstead.cli.plan_log import learn

        return learn(args)
    if args.forecast is not None:
        from gemstead.cli import plan_forecast

        if args.write:
            raise Trouble("--write: a forecast is not written; write the plan without --forecast", code=USAGE)
        return plan_forecast.show(args)
    if args.plot:
        from gemstead.cli import picture

        picture.check(args.plot)
    proposal, commands = _startable(_dated(propose(args)), args)
    if args.json:
        from gemstead.cli.plan_text import as_json

        print(json.dumps(as_json(proposal, commands), indent=2, ensure_ascii=False))
    else:
        from gemstead.cli.plan_text import show_text

        show_text(proposal, commands, explain=args.explain)
    if args.plot:
        _plot(proposal, args.plot)
    if args.write:
        from gemstead.cli.plan_write import write

        print(write(args, proposal, commands))
    return 0 if proposal.best.meets else 1


def propose(args: argparse.Namespace, instead: Mapping[str, Any] | None = None) -> Proposal:
    """The proposal for the options; `instead`: arguments of `plan` that take the place of what the options say.

    Raises:
        Refused: a name or a number that cannot be.
    """
    from gemstead.operate.catalogue import load
    from gemstead.plan.api import plan
    from gemstead.plan.placement import Media

    catalogue = load(os.environ)
    card, count = cards(args, catalogue, demand=bool((instead or {}).get("requests_per_s")))
    asked: dict[str, Any] = {
        "users": args.users,
        "requests_per_s": args.rps,
        "requests_per_user_day": args.per_day,
        "prompt_tokens": args.input,
        "output_tokens": args.output,
        "context": args.context,
        "day": args.day,
        "longest_ttft_s": args.ttft,
        "longest_tpot_s": None if args.tpot is None else args.tpot / 1000,
        "engine": args.engine,
        "engine_version": args.engine_version,
        "weights": args.weights,
        "kv_dtype": args.kv,
        "tp": args.tp,
        "drafting": args.draft,
        "media": Media(images=args.images),
        "headroom": args.headroom,
        "spares": args.spares,
        "usd_month": args.budget,
        "catalogue": catalogue,
        "corrections": _learnt(args),
    }
    asked |= instead or {}
    if args.model:
        return plan(args.model, card, count, **asked)
    return _largest(card, count, asked, _of_file(args))


def _learnt(args: argparse.Namespace) -> tuple[Correction, ...]:
    """What this machine's start-up logs taught; nothing where none was read."""
    from gemstead.operate import calibration

    if args.config or args.overrides or Path("gemstead.yaml").exists():
        from gemstead.cli.options import read_spec
        from gemstead.wiring.files import state_dir

        return calibration.load(state_dir(read_spec(args), os.environ).path)
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return calibration.load(Path(base).expanduser() / "gemstead")  # as `state_dir`, without reading a file


def _largest(card: Accelerator, count: int | None, asked: dict[str, Any], named: str) -> Proposal:
    """The proposal for the file's model; else for the largest model that meets everything."""
    from gemstead.plan.api import plan
    from gemstead.refused import Refused

    named = named or _for_processor(card)
    if named:
        return plan(named, card, count, **asked)
    last: Refused | None = None
    for size in LARGEST_FIRST:
        try:
            found = plan(size, card, count, **{**asked, "compare": False})
        except Refused as refused:
            last = refused
            continue
        if found.best.meets and found.chosen.comfortable and _quick_enough(found):
            return plan(size, card, count, **asked)
    if last is not None and size == LARGEST_FIRST[-1]:
        raise last
    return plan(LARGEST_FIRST[-1], card, count, **asked)


def _for_processor(card: Accelerator) -> str:
    """What `gemstead init` would choose for this machine's processor; empty for cards."""
    if card.vendor != "cpu":
        return ""
    from gemstead.operate.probe import cpus
    from gemstead.plan.first_model import fit

    return fit(card.memory_bytes, cpus()).facts.name


def _quick_enough(found: Proposal) -> bool:
    """Whether a lone reader gets words as fast as people read: some 8 tokens a second."""
    return found.chosen.alone.tpot_s.likely <= 0.125


def cards(
    args: argparse.Namespace, catalogue: Catalogue, demand: bool = False
) -> tuple[Accelerator, int | None]:
    """The card and how many: as said, else what is in this machine, else its processor.

    With a demand and no number said it is as many as are needed.
    """
    if args.gpu:
        needed = demand or args.users or args.rps
        return catalogue.accelerator(
            args.gpu
        ), args.count if args.count is not None else None if needed else 1
    card, count = _here(catalogue)
    return card, count if args.count is None else args.count


def _here(catalogue: Catalogue) -> tuple[Accelerator, int]:
    """The cards of this machine, the most frequent kind; without any its processor, with the memory that it has."""
    from gemstead.catalog.accelerators import with_memory
    from gemstead.operate.doctor import read
    from gemstead.operate.doctor.probe import run
    from gemstead.operate.probe import machine
    from gemstead.refused import Refused

    for tool, reader in ((read.NVIDIA, read.nvidia), (read.AMD, read.amd)):
        answer = run(tool, 5.0)
        found = reader(answer.out) if answer.code == 0 else None
        if not found or not found.cards:
            continue
        (name, memory), count = Counter((one.name, one.memory_mib) for one in found.cards).most_common(1)[0]
        try:
            card = catalogue.accelerator(name)
        except Refused:
            message = f"this machine's {name} is not in the catalogue; name a card near it with --gpu"
            raise Trouble(message, code=USAGE) from None
        return (with_memory(card, memory) if memory else card), count
    here = machine()
    server = here.memory_bytes > 96 << 30
    return with_memory(catalogue.accelerator("cpu-server" if server else "cpu"), here.memory_bytes >> 20), 1


def _of_file(args: argparse.Namespace) -> str:
    """The catalogue's name of the file's first model; empty without a file, or when it is not a Gemma 4 we know."""
    from gemstead.catalog.check import facts_of
    from gemstead.cli.options import file_of, read_spec

    if file_of(args) is None:
        return ""
    facts = facts_of(read_spec(args).models[0])
    return facts.name if facts else ""


def _dated(proposal: Proposal) -> Proposal:
    """The proposal with a warning when the prices that it rests on are old."""
    import datetime
    from dataclasses import replace

    from gemstead.catalog.prices import staleness
    from gemstead.operate.catalogue import load

    card = proposal.chosen.setup.accelerator
    prices = load(os.environ).rents_of(card.parent or card.id)
    old = staleness(prices, datetime.datetime.now(datetime.UTC).date())
    return replace(proposal, notes=(*proposal.notes, old)) if old else proposal


def _startable(proposal: Proposal, args: argparse.Namespace) -> tuple[Proposal, list[Any]]:
    """The proposal whose chosen option is one that is known to start, and its launch lines.

    What the ledger or the version speaks against is passed over, with a note; the next that fits takes its place.

    Raises:
        Refused: nothing that fits can be started; why the first cannot.
    """
    from dataclasses import replace

    from gemstead.refused import Refused

    first: Refused | None = None
    options, notes = list(proposal.options), list(proposal.notes)
    for option in options:
        if not option.layout.memory.fits or not option.layout.replicas:
            continue
        rest = tuple(one for one in options if one is not option)
        # A figure of the first choice says nothing about another.
        against = proposal.against_api if option is proposal.best else None
        tried = replace(proposal, best=option, others=rest, against_api=against, notes=tuple(notes))
        try:
            return tried, _commands(tried, args)
        except Refused as refused:
            first = first or refused
            setup = option.layout.setup
            notes.append(
                f"passed over: {setup.checkpoint.format} in {setup.engine}, because of {refused.message}"
            )
    if first is not None:
        raise first
    return proposal, []


def _commands(proposal: Proposal, args: argparse.Namespace) -> list[Any]:
    """The launch line of every replica.

    Raises:
        Refused: the version does not know a flag, or is known not to start like this.
    """
    from gemstead.engines.commands import launch_command
    from gemstead.operate.catalogue import load

    chosen = proposal.chosen
    # Every host is started alike, so the lines of one are all.
    placements = chosen.placements(proposal.traffic.media, thinking=args.thinking, most=chosen.on_host)
    catalogue = load(os.environ)
    return [launch_command(placement, catalogue) for placement in placements]


def _plot(proposal: Proposal, name: str) -> None:
    """One replica from one request to twice its limit, drawn."""
    from gemstead.cli import picture
    from gemstead.plan.chart import load_chart
    from gemstead.plan.throughput import estimate

    best, traffic = proposal.best, proposal.traffic
    layout, setup = best.layout, best.layout.setup
    if not layout.memory.fits or not layout.replicas:
        raise Trouble("--plot: nothing fits, so there is nothing to draw")
    loads = [1 << power for power in range((2 * setup.at_once).bit_length())]
    drafts, most = layout.drafting.tokens, setup.at_once
    points = [
        estimate(setup, load, traffic.prompt_tokens, traffic.output_tokens, drafts, most_running=most)
        for load in loads
    ]
    each = best.bill.usd_hour / layout.replicas if best.bill else None
    title = f"{setup.model.title} {setup.checkpoint.bits} on {setup.tp} x {setup.accelerator.id}"
    picture.write(name, load_chart(points, each, title))


def _tokens(text: str) -> int:
    """A number of tokens: 32768, 32k, 256K."""
    number = text.strip().lower()
    try:
        return int(float(number[:-1]) * 1024) if number.endswith("k") else int(number)
    except ValueError:
        raise argparse.ArgumentTypeError(f"`{text}` is no number of tokens; write 32768 or 32k") from None
