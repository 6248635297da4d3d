"""What an engine is started with in a container: the files it needs, where they are, and its words with their reasons.

Every target asks here, so that a file that is fetched is the file that is looked for. The plan's launch line names
repositories of the hub; where files lie in the image or in a bucket it names their places instead.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from gemstead.refused import Reason, Refused
from gemstead.render.because import Because
from gemstead.render.deployment import ENGINE_PORT, Deployment, Pool
from gemstead.render.dockerfile import asks

CACHE = "/cache"
BAKED = "/models"
# Where each engine keeps what it compiles: kept between starts, a second start takes a minute instead of ten.
CACHES = {
    "HF_HOME": f"{CACHE}/hub",
    "VLLM_CACHE_ROOT": f"{CACHE}/vllm",
    "TRITON_CACHE_DIR": f"{CACHE}/triton",
    "FLASHINFER_WORKSPACE_BASE": f"{CACHE}/flashinfer",
    "LLAMA_CACHE": f"{CACHE}/llama.cpp",
    "OLLAMA_MODELS": f"{CACHE}/ollama",
}
CACHES_OF = {
    "vllm": ("HF_HOME", "VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "FLASHINFER_WORKSPACE_BASE"),
    "sglang": ("HF_HOME", "TRITON_CACHE_DIR", "FLASHINFER_WORKSPACE_BASE"),
    "llamacpp": ("HF_HOME", "LLAMA_CACHE"),
    "ollama": ("OLLAMA_MODELS",),
    "tgi": ("HF_HOME",),
    "tensorrt_llm": ("HF_HOME",),
    "transformers": ("HF_HOME", "TRITON_CACHE_DIR"),
}
# Words that are not the plan's: they come with the place of the weights.
REASONS = {
    "--model": "the file of the weights",
    "--mmproj": "what turns images into tokens: a file of its own, which is found by itself only beside the hub's",
    "--load-format": "weights stream from the bucket into memory, several files at once",
    "--model-loader-extra-config": "each card reads its own part",
    "--safetensors-load-strategy": "files are read ahead in order: a mounted bucket is slow where it is read in pieces",
}


def baked(deployment: Deployment, pool: Pool) -> bool:
    """Whether the pool's weights lie in its image."""
    return deployment.deploy.cache.kind == "image" or pool.setup.engine == "ollama"


def hub_files(pool: Pool) -> list[tuple[str, str]]:
    """(repository, file; empty for all of it) of what an engine reads from the hub; Ollama has a hub of its own."""
    setup, checkpoint = pool.setup, pool.setup.checkpoint
    if setup.engine == "ollama":
        return []
    found = [(checkpoint.repo, checkpoint.file)]
    if projector := _projector(pool):
        found.append((checkpoint.repo, projector))
    if setup.drafter and setup.engine in ("vllm", "sglang"):
        found.append((_drafter(pool), ""))
    return found


def all_files(pools: Sequence[Pool]) -> list[tuple[str, str]]:
    """`hub_files` of several pools, each once."""
    return list(dict.fromkeys(one for pool in pools for one in hub_files(pool)))


def launch_words(deployment: Deployment, pool: Pool) -> list[str]:
    """The launch line inside the image: the plan's, reading baked weights where they are."""
    if not baked(deployment, pool) or pool.setup.engine == "ollama":
        return list(pool.command.argv)
    return moved(pool, f"{BAKED}/", flat=True)


def moved(pool: Pool, lead: str, *, flat: bool = False) -> list[str]:
    """The launch line with weights under `lead`: folders by repository, or with `flat` a single file in it.

    Repositories are the checkpoint's and the drafter's, words of their own or in JSON; a drafter's name may begin with
    its checkpoint's.

    Raises:
        Refused: a GGUF repository of which no file is known.
    """
    checkpoint = pool.setup.checkpoint
    if pool.setup.engine == "llamacpp":
        return _by_file(pool, lead if flat else f"{lead}{checkpoint.repo}/")
    drafter = _drafter(pool)
    line = []
    for word in pool.command.argv:
        if word in (checkpoint.repo, drafter):
            line.append(lead + word)
        elif word.startswith("{"):
            line.append(word.replace(json.dumps(drafter), json.dumps(lead + drafter)))
        else:
            line.append(word)
    return line


def reasoned(pool: Pool, words: Sequence[str]) -> list[str | Because]:
    """The words, each option with its reason."""
    reasons = REASONS | {flag.name: flag.reason for flag in pool.command.flags}
    return [Because(word, reasons.pop(word)) if word in reasons else word for word in words]


def health_words(pool: Pool) -> list[str]:
    """The command whose exit code says whether the engine answers, made of what its image holds."""
    url = f"http://127.0.0.1:{ENGINE_PORT}/health"
    if pool.setup.engine == "llamacpp":
        return ["curl", "--fail", "--silent", "--max-time", "4", url]
    if pool.setup.engine == "ollama":
        return ["ollama", "ps"]
    return ["python3", "-c", asks(url)]


def caches(engine: str, *, inside: bool = False) -> dict[str, str]:
    """Variables that say where an engine keeps files; `inside`: its weights lie in its image.

    Ollama knows one folder for weights, and in an image that is not under /cache: a volume there would hide them, and
    keep those of the image before.
    """
    found = {name: CACHES[name] for name in CACHES_OF.get(engine, ("HF_HOME",))}
    return {**found, "OLLAMA_MODELS": BAKED} if inside and engine == "ollama" else found


def _by_file(pool: Pool, folder: str) -> list[str]:
    words = list(pool.command.argv)
    checkpoint = pool.setup.checkpoint
    if not checkpoint.file:
        raise Refused(
            Reason.BAD_REQUEST,
            f"{pool.name}: which file of {checkpoint.repo} is meant is not known, so it can lie in no image "
            "and no bucket: deploy.cache.kind: volume, or another models[].checkpoint",
        )
    at = words.index("--hf-repo")
    del words[at : at + 2]
    at = words.index("--hf-file")
    words[at : at + 2] = ["--model", f"{folder}{checkpoint.file}"]
    if projector := _projector(pool):
        words[at + 2 : at + 2] = ["--mmproj", f"{folder}{projector}"]
    return words


def _drafter(pool: Pool) -> str:
    return pool.setup.checkpoint.drafter or pool.setup.model.assistant.repo


def _projector(pool: Pool) -> str:
    """The file by which llama.cpp sees images, where they are wanted and its name is known; empty: none."""
    known = pool.setup.model.gguf
    wanted = pool.setup.engine == "llamacpp" and pool.placement.media.any
    return known.projector_file or "" if wanted and known.repo == pool.setup.checkpoint.repo else ""
