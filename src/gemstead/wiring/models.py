"""A model's name becomes files on this machine: the given file, the hub's, or the demonstration model.

The demonstration model stands in only where it was asked for (`--demo`) or where nobody chose a model and
the hub cannot be reached: a service whose file names a model never serves another one under that name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from gemstead.catalog import names, sources
from gemstead.catalog.models import ModelFacts
from gemstead.embedded.demonstration import demonstration
from gemstead.embedded.faults import MAGIC
from gemstead.operate.secrets.keeper import Keeper
from gemstead.operate.store.trouble import StoreTrouble
from gemstead.plan.values import ModelFile
from gemstead.spec.model import ModelSpec, Spec
from gemstead.wiring.library import Library
from gemstead.wiring.secrets import CannotRun


class Stopped(Exception):
    """Ctrl-C came while a model was being fetched."""


def model_files(
    spec: Spec,
    *,
    demo: bool,
    fetching: Callable[[str, int, int], None],
    say: Callable[[str], None],
    stopped: Callable[[], bool],
    environ: Any,
    secrets: Keeper | None = None,
) -> dict[str, ModelFile]:
    """The files of every model that runs here, by the model's name in the Spec. Blocks for as long as a download.

    Raises:
        CannotRun, StoreTrouble: a file cannot be had; the sentence says what to do.
        Stopped: `stopped()` became true.
    """

    def progress(name: str, done: int, total: int) -> None:
        if stopped():
            raise Stopped
        if name:
            fetching(name, done, total)

    library = Library.of(spec, environ, progress, say, secrets)
    local = {index: model for index, model in enumerate(spec.models) if not model.endpoints}
    if demo:
        return {model.name: demonstration() for model in local.values()}
    try:
        return {model.name: _file(index, model, library) for index, model in local.items()}
    except StoreTrouble as trouble:
        if trouble.kind != "offline" or "models" in spec.model_fields_set:
            raise
        why = str(trouble).partition(";")[0]
        say(f"{why}: serving the small demonstration model instead. It answers a few dozen fixed questions.")
        return {model.name: demonstration() for model in local.values()}


def _file(index: int, model: ModelSpec, library: Library) -> ModelFile:
    if model.file:
        path = _given(model.file, f"models[{index}].file")
        projector = _given(model.projector, f"models[{index}].projector") if model.projector else ""
        return ModelFile(str(path), str(projector), bytes=path.stat().st_size)
    facts = _facts(model)
    want = sources.of_gguf(facts.gguf, facts.licence)
    pulled = library.get(replace(want, files=want.files[:1]) if model.projector else want)
    path, vision = pulled.file(facts.gguf.file), facts.gguf.projector_file
    if model.projector:
        projector = _given(model.projector, f"models[{index}].projector")
    else:
        projector = pulled.file(vision) if vision else ""
    return ModelFile(str(path), str(projector), bytes=path.stat().st_size)


def _facts(model: ModelSpec) -> ModelFacts:
    return names.find(model.name)


def _given(path: str, where: str) -> Path:
    found = Path(path).expanduser().absolute()
    if not found.is_file():
        raise CannotRun(f"{where}: there is no file {found}")
    try:
        with found.open("rb") as file:
            begins = file.read(len(MAGIC))
    except OSError as error:
        raise CannotRun(f"{where}: {found} cannot be read ({error.strerror})") from None
    if begins != MAGIC:  # its engine would end and be started for ever, and a reload would take it
        raise CannotRun(f"{where}: {found} is no GGUF file; fetch it again, or name another")
    return found
