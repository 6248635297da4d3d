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
    dockerfile,
    environment,
    exec_form,
    image_labels,
    labels,
    run,
)
from gemstead.render.launch import BAKED, CACHE, baked, caches, health_words, hub_files, launch_words


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


def _weights_stage(deployment: Deployment, pool: Pool) -> Iterator[Step]:
    if pool.setup.engine == "ollama":
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
    for repo, file in hub_files(pool):
        to = "/weights" if file else f"/weights/{repo}"
        yield Step(
            "RUN --mount=type=secret,id=hf_token HF_TOKEN_PATH=/run/secrets/hf_token \\\n    "
            + f"hf download {repo} {file + ' ' if file else ''}--local-dir {to}"
        )


def _health(pool: Pool) -> str:
    return (
        f"HEALTHCHECK --interval=10s --timeout=5s --start-period={pool.startup.allowance_s}s --retries=6 \\\n  "
        f"CMD {json.dumps(health_words(pool))}"
    )
