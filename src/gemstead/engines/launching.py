"""From a planned replica to the process that runs it: what all engines have in common.

An engine's line comes from `commands` with a reason for every flag. Here it gets what only a start needs: the words of
the installation before it, the user's own flags over it, adapters, a key that nobody else knows, its processors.
An adapter's `launch` says what is its own (`Words`) and calls `start`.

In a container the engine listens on all of the container's addresses, of which only a port on the host's loopback is
published; cards are given by the container tool, and inside they are counted anew, so nothing else pins them.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from gemstead.engines.flag import Command, Flag, Variable
from gemstead.engines.installed import Installed
from gemstead.engines.surroundings import PINS
from gemstead.plan.placement import Placement
from gemstead.plan.values import Card, Launch, Replica
from gemstead.refused import Reason, Refused

UNTOLD = ("ollama", "tgi", "tensorrt_llm")  # no option says whether they think by default
BY_UUID = ("llamacpp", "ollama", "transformers")
ANYWHERE = "0.0.0.0"  # inside a container only


@dataclass(frozen=True, slots=True)
class Words:
    """What one engine adds to its planned line."""

    key_variable: str = ""  # the variable in which it reads the key that it asks for; empty: it has none
    key_flag: str = ""  # the option instead, which other users of the machine can read
    served_model: str = ""  # the name that it answers to
    health_path: str = "/health"
    metrics_path: str = "/metrics"
    more: tuple[Flag, ...] = ()
    variables: tuple[Variable, ...] = ()
    afterwards: tuple[tuple[str, ...], ...] = ()  # each begins with the engine's program
    loads: tuple[tuple[str, dict[str, object]], ...] = ()
    adapters: dict[str, str] = field(default_factory=dict)  # loaded when calls name them: paths by name
    kv_events: str = ""  # ZeroMQ addresses of what it says of its prefix cache, and says again
    kv_replay: str = ""


def start(
    replica: Replica, installed: Installed | None, api_key: str, own: Callable[[Placement], Words]
) -> Launch:
    """The process that runs a replica.

    Args:
        replica: with a placement.
        installed: the engine that is to run it; None: the one on the PATH, whatever its version is.
        api_key: that the engine shall ask for; engines that know none are reached by loopback alone.
        own: what the engine adds, for the placement as it will be.

    Raises:
        Refused: UNSUPPORTED, when the engine's version does not know a flag or is known not to start like this.
    """
    from gemstead.engines.commands import COMMANDS, launch_command
    from gemstead.engines.flaglist import FILES, check

    published = _placed(replica, installed)
    launch_command(published)  # known faults are told by a checkpoint's published name
    placement = _with_path(published, replica.model.path)
    said = own(placement)
    command = COMMANDS[replica.engine](placement)
    flags = [*command.flags, *said.more]
    variables = [*command.variables, *said.variables]
    if api_key and said.key_variable:
        variables.append(Variable(said.key_variable, api_key, "only the gateway is answered", ""))
    if api_key and said.key_flag:
        flags.append(Flag(said.key_flag, api_key, "only the gateway is answered", ""))
    variables += _pins(placement)
    command = replace(command, flags=_over(flags, replica.flags), variables=tuple(variables))
    if command.engine in FILES:
        check(command)
    for flag in command.flags:
        if installed and flag.name in installed.lacks:
            raise Refused(
                Reason.UNSUPPORTED, f"the installed {installed.engine} {installed.version} has no {flag.name}"
            )
    env = command.env
    argv = _argv(command, installed, replica, placement, env)
    setup = placement.setup
    return Launch(
        name=replica.name,
        pool=replica.pool,
        engine=replica.engine,
        argv=argv,
        host=replica.host,
        port=replica.port,
        env={name: value for name, value in env.items() if not (_boxed(installed) and name in PINS)},
        health_path=said.health_path,
        metrics_path=said.metrics_path,
        served_model=said.served_model,
        version=published.setup.checkpoint.repo,
        context_tokens=setup.length,
        slots=setup.at_once,
        api_key=api_key if said.key_variable or said.key_flag else "",
        start_s=replica.start_s,
        cpus=replica.cpus,
        afterwards=tuple((*_program(command, installed), *words[1:]) for words in said.afterwards),
        loads=said.loads,
        kv_tokens=replica.kv_tokens,
        adapters=said.adapters,
        adapters_most=replica.adapters_most,
        kv_events=said.kv_events,
        kv_replay=said.kv_replay,
        foreseen=replica.foreseen,
        draft_tokens=setup.draft_tokens if setup.drafter else 0,
        thinking=replica.thinking,
        thinking_set=replica.engine not in UNTOLD,
        engine_version=setup.version,
    )


def _placed(replica: Replica, installed: Installed | None) -> Placement:
    """The placement with what only a start knows: the version that runs, the port, how its cards are named."""
    placement = replica.placement
    if placement is None:
        raise Refused(Reason.UNSUPPORTED, f"{replica.name} was not planned for {replica.engine}")
    setup = placement.setup
    if installed is not None:
        setup = setup.with_(version=installed.version)
    host = ANYWHERE if _boxed(installed) else replica.host
    devices = (
        tuple(device(card, replica.engine, setup.version) for card in replica.cards) or placement.devices
    )
    return replace(placement, setup=setup, port=replica.port, host=host, devices=devices)


def _with_path(placement: Placement, path: str) -> Placement:
    """The same with its weights where they lie on this machine."""
    setup = placement.setup
    if not path:
        return placement
    return replace(placement, setup=setup.with_(checkpoint=replace(setup.checkpoint, repo=path)))


def device(card: Card, engine: str, version: str) -> str:
    """How an engine is told which card is meant: its UUID, which no reordering changes, where the engine reads one.

    vLLM took every entry of CUDA_VISIBLE_DEVICES for a number (vllm-project/vllm#41848) until it had `--device-ids`
    (#45026). SGLang, TGI and TensorRT-LLM count cards by number in places of their own.

    Raises:
        Refused: UNSUPPORTED, for a slice that the version cannot be told of.
    """
    from gemstead.engines.flaglist import flag_list

    reads = engine in BY_UUID or (engine == "vllm" and "--device-ids" in flag_list("vllm", version).known)
    if card.is_slice and engine == "vllm" and not reads:
        message = f"vLLM {version} cannot run on a MIG slice (vllm-project/vllm#41848); use 0.26 or newer"
        raise Refused(Reason.UNSUPPORTED, message)
    by_uuid = card.vendor == "nvidia" and card.uuid and (reads or card.is_slice)
    return card.uuid if by_uuid else str(card.index)


def _pins(placement: Placement) -> list[Variable]:
    """What makes a card's number mean the same to CUDA as to nvidia-smi, and pins Intel's cards."""
    vendor = placement.setup.accelerator.vendor
    if not placement.devices:
        return []
    if vendor == "nvidia" and all(one.isdigit() for one in placement.devices):
        why = "cards are counted as nvidia-smi counts them; CUDA's own order is the fastest first"
        return [
            Variable("CUDA_DEVICE_ORDER", "PCI_BUS_ID", why, "CUDA programming guide, environment variables")
        ]
    if vendor == "intel":
        return [
            Variable("ZE_AFFINITY_MASK", ",".join(placement.devices), "its cards and no others", "Level Zero")
        ]
    return []


def _boxed(installed: Installed | None) -> bool:
    return installed is not None and installed.runner == "container"


def _over(planned: list[Flag], said: tuple[str, ...]) -> tuple[Flag, ...]:
    """The planned flags with the user's own over them: one that was planned is replaced where it stands."""
    flags = {flag.name: flag for flag in planned}
    for text in said:
        name, _, rest = (
            text.replace("=", " ", 1).partition(" ") if "=" in text.split(" ", 1)[0] else text.partition(" ")
        )
        value: str | tuple[str, ...] | None
        if rest.lstrip().startswith(("{", "[")):  # JSON keeps its quotes
            value = rest.strip()
        else:
            words = tuple(shlex.split(rest))
            value = None if not words else words[0] if len(words) == 1 else words
        opposite = f"--no-{name[2:]}" if not name.startswith("--no-") else f"--{name[5:]}"
        flags.pop(opposite, None)
        flags[name] = Flag(name, value, "said in the file", "gemstead.yaml")
    return tuple(flags.values())


def _program(command: Command, installed: Installed | None) -> tuple[str, ...]:
    return installed.argv_prefix if installed else command.program[:1]


def _argv(
    command: Command,
    installed: Installed | None,
    replica: Replica,
    placement: Placement,
    env: dict[str, str],
) -> tuple[str, ...]:
    """All words: the installation's, the engine's own positional ones, the flags."""
    prefix = _program(command, installed)
    if _boxed(installed):
        from gemstead.engines import container

        drafter = placement.setup.checkpoint.drafter
        paths = [
            replica.model.path,
            replica.model.projector,
            drafter,
            *(one.path for one in replica.adapters),
        ]
        prefix = container.fill(
            prefix,
            name=replica.name,
            port=replica.port,
            vendor=placement.setup.accelerator.vendor,
            devices=placement.devices,
            env=tuple(name for name in env if name not in PINS),
            mounts=[container.Mount(path) for path in paths if path.startswith("/")],
        )
    return (*prefix, *command.argv[1:])
