"""The fastest way in which an engine that is installed here can read the weights that lie here.

`engines/loading.py` decides; here the storage is looked at and the packages beside the engine are read off its virtual
environment. An engine in a container or on the PATH of unknown make keeps its own loader, and so does one whose loader
the file names itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gemstead.engines.installed import Installed
from gemstead.engines.loading import FAST, STREAMER, Weights, loading
from gemstead.operate.store.storage import kind_of
from gemstead.plan.values import Launch, Replica

CHOSEN = ("--load-format", "--safetensors-load-strategy", "--model-loader-extra-config")
ENGINES = ("vllm", "sglang")  # the others have one way to load


def with_loader(
    launch: Launch, planned: Replica, installed: Installed | None, storage: Callable[[Path], str] = kind_of
) -> Launch:
    """The launch with options for the loader that suits, if another than the engine's own does.

    `storage` says on what kind of storage a path lies.
    """
    placement, path = planned.placement, Path(planned.model.path)
    if (
        installed is None
        or placement is None
        or installed.runner == "container"
        or planned.engine not in ENGINES
    ):
        return launch
    if not planned.model.path or any(word.partition("=")[0] in CHOSEN for word in launch.argv):
        return launch
    setup = placement.setup
    weights = Weights(
        planned.model.bytes or setup.checkpoint.weights_bytes, storage(path), gguf=path.suffix == ".gguf"
    )
    vendor = setup.accelerator.vendor
    choice = loading(
        planned.engine, weights, installed=packages(installed), vendor=vendor, tensor_parallel=setup.tp
    )
    return replace(launch, argv=(*launch.argv, *choice.flags))


def packages(installed: Installed) -> dict[str, str]:
    """Versions of the loaders beside an engine's program; empty when it is in no virtual environment."""
    program = Path(installed.argv_prefix[0]) if installed.argv_prefix else Path()
    root = (program.resolve() if program.is_symlink() else program).parent.parent
    found: dict[str, str] = {}
    for name in (STREAMER, FAST):
        for place in root.glob(f"lib/python3*/site-packages/{name.replace('-', '_')}-*.dist-info"):
            found[name] = place.name.removesuffix(".dist-info").rpartition("-")[2]
    return found
