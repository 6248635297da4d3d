"""An engine's image: its makers' own, a user without rights, places for its caches, and the plan's launch line.

With `deploy.cache.kind: image`, and for Ollama always, the weights lie in the image: the largest layer, below all that
changes more often. Elsewhere they are on a volume, and the image is the same for every model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from gemstead.catalog.engine_versions import engine_facts
from gemstead.render.deployment import ENGINE_PORT, Deployment, Pool
from gemstead.render.docker_gateway import PYTHON_IMAGE, locked
from gemstead.render.dockerfile import (
    USER,
    Step,
    asks,
    dockerfile,
    environment,
    exec_form,
    image_labels,
    labels,
    run,
)

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


def caches(engine: str, *, inside: bool = False) -> dict[str, str]:
    """Variables that say where an engine keeps files; `inside`: its weights lie in its image.

    Ollama knows one folder for weights, and in an image that is not under /cache: a volume there would hide them, and
    keep those of the image before.
    """
    found = {name: CACHES[name] for name in CACHES_OF.get(engine, ("HF_HOME",))}
    return {**found, "OLLAMA_MODELS": BAKED} if inside and engine == "ollama" else found


def baked(deployment: Deployment, pool: Pool) -> bool:
    """Whether the pool's weights lie in its image."""
    return deployment.deploy.cache.kind == "image" or pool.setup.engine == "ollama"


def engine_dockerfile(deployment: Deployment, pool: Pool) -> str:
    """The image of a pool's engine, with the plan's launch line."""
    setup = pool.setup
    title = engine_facts(setup.engine).title
    last = [
        Step(f"FROM {pool.image.reference}", pool.image.reason),
        Step(
            labels(image_labels(deployment, f"gemstead-{pool.name}", f"{setup.model.title} in {title}", pool))
        ),
        Step("USER 0", "To make the user below; the engine itself never is root."),
        Step(
            run(
                f"useradd --uid {USER} --gid 0 --no-create-home --home-dir {CACHE} --shell /usr/sbin/nologin gemstead",
                f"install -d -o {USER} -g 0 -m 0770 {CACHE}",
            ),
            "A user with a name: PyTorch asks for it, and fails for a number without one.",
        ),
    ]
    first = list(_weights_stage(deployment, pool)) if baked(deployment, pool) else []
    if first:
        last.append(
            Step(
                f"COPY --from=weights --chown={USER}:0 /weights {BAKED}",
                "The largest layer, before everything that changes more often.",
            )
        )
    places = caches(setup.engine, inside=bool(first))
    home, why = CACHE, "Weights and compiled kernels outlive the container when /cache is a volume."
    if setup.engine == "ollama":
        home, why = "/tmp", "Ollama makes a key in its home as it starts, and ends where it cannot."  # noqa: S108
    if first and setup.engine != "ollama":
        places["HF_HUB_OFFLINE"] = "1"
    variables = {one.name: one.value for one in pool.command.variables}
    last += [
        Step(
            environment({"HOME": home, "USER": "gemstead", **places}),
            why,
        ),
        *(
            [
                Step(
                    environment(variables),
                    "; ".join(f"{one.name}: {one.reason}" for one in pool.command.variables),
                )
            ]
            if variables
            else []
        ),
        Step(f"USER {USER}:0"),
        Step(f"WORKDIR {CACHE}"),
        Step(f"EXPOSE {ENGINE_PORT}"),
        Step("STOPSIGNAL SIGTERM"),
        Step(_health(pool), pool.startup.reason),
        *(Step(f"# {flag.name}: {flag.reason}") for flag in pool.command.flags),
        Step(exec_form("ENTRYPOINT", launch_words(deployment, pool))),
    ]
    return dockerfile(first, last) if first else dockerfile(last)


def launch_words(deployment: Deployment, pool: Pool) -> list[str]:
    """The launch line inside the image: the plan's, reading baked weights where they are."""
    words = list(pool.command.argv)
    if not baked(deployment, pool) or pool.setup.engine == "ollama":
        return words
    checkpoint = pool.setup.checkpoint
    if pool.setup.engine == "llamacpp":
        at = words.index("--hf-repo")
        del words[at : at + 2]
        at = words.index("--hf-file")
        words[at : at + 2] = ["--model", f"{BAKED}/{checkpoint.file}"]
        return words
    return moved(pool, f"{BAKED}/")


def moved(pool: Pool, lead: str) -> list[str]:
    """The launch line with `lead` before each repository, the checkpoint's and the drafter's: words of their own, or in
    JSON. A drafter's name may begin with its checkpoint's."""
    checkpoint = pool.setup.checkpoint
    drafter = checkpoint.drafter or pool.setup.model.assistant.repo
    line = []
    for word in pool.command.argv:
        if word in (checkpoint.repo, drafter):
            line.append(lead + word)
        elif word.startswith("{"):
            line.append(word.replace(json.dumps(drafter), json.dumps(lead + drafter)))
        else:
            line.append(word)
    return line


def _weights_stage(deployment: Deployment, pool: Pool) -> Iterator[Step]:
    setup = pool.setup
    checkpoint = setup.checkpoint
    if setup.engine == "ollama":
        names = [after[-1] for after in pool.command.afterwards]
        pulls = " && ".join(f"ollama pull {name}" for name in names)
        yield Step(
            f"FROM {pool.image.reference} AS weights",
            "Pulled while the image is built, so that a cold start reads a disk and asks nobody.",
        )
        yield Step(environment({"OLLAMA_MODELS": "/weights", "OLLAMA_HOST": "127.0.0.1:11434"}))
        yield Step(
            run("(ollama serve & serving=$!", "until ollama ps; do sleep 1; done", pulls, 'kill "$serving")')
        )
        return
    yield Step(
        f"FROM {deployment.image(PYTHON_IMAGE)} AS weights",
        "Fetched while the image is built; the token is mounted for this step and lies in no layer.",
    )
    yield Step(run(f"pip install --no-cache-dir 'huggingface-hub=={locked('huggingface-hub')}'"))
    wanted = [(checkpoint.repo, checkpoint.file)]
    if setup.drafter and setup.engine in ("vllm", "sglang"):
        wanted.append((checkpoint.drafter or setup.model.assistant.repo, ""))
    for repo, file in wanted:
        to = "/weights" if file else f"/weights/{repo}"
        yield Step(
            "RUN --mount=type=secret,id=hf_token HF_TOKEN_PATH=/run/secrets/hf_token \\\n    "
            + f"hf download {repo} {file + ' ' if file else ''}--local-dir {to}"
        )


def health_words(pool: Pool) -> list[str]:
    """The command whose exit code says whether the engine answers, made of what its image holds."""
    url = f"http://127.0.0.1:{ENGINE_PORT}/health"
    if pool.setup.engine == "llamacpp":
        return ["curl", "--fail", "--silent", "--max-time", "4", url]
    if pool.setup.engine == "ollama":
        return ["ollama", "ps"]
    return ["python3", "-c", asks(url)]


def _health(pool: Pool) -> str:
    return (
        f"HEALTHCHECK --interval=10s --timeout=5s --start-period={pool.startup.allowance_s}s --retries=6 \\\n  "
        f"CMD {json.dumps(health_words(pool))}"
    )
