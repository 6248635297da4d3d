"""The gateway's images: slim, and distroless. The request path is compiled while they are built.

What is in them is said exactly: every package with its version and checksum (`locks/`, in the wheel beside this file),
so that the same files give the same image. They are installed before Gemstead is, and lie in a layer of their own: a
new version of Gemstead changes one layer of a few megabytes. Nobody's build tools, and no pip, are in the image.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

from gemstead.render.deployment import ADMIN_PORT, GATEWAY_PORT, Deployment
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

PYTHON_IMAGE = "python:3.11-slim-bookworm"
DEBIAN_IMAGE, DISTROLESS_IMAGE = "debian:bookworm-slim", "gcr.io/distroless/python3-debian12:nonroot"
STATE = "/var/lib/gemstead"
SOURCE = """What the gateway's image is built from, when it is not a release.

From a checkout of Gemstead, with FOLDER standing for this folder:

    git archive --prefix=gemstead/ -o FOLDER/gemstead.tar.gz HEAD

A source archive's request path is compiled while the image is built; a wheel (gemstead-*.whl) is installed as it is.
"""
# Extras of the project, and what in the one file needs them. See pyproject.toml.
SECRETS = {"vault:": "vault", "aws-sm:": "aws", "gcp-sm:": "gcp"}


def files(deployment: Deployment, *, bare: bool = True) -> dict[str, str]:
    """The folder that the gateway's image is built in, by path; `bare`: also the one without a shell."""
    found = {
        "gateway/.dockerignore": "*\n!requirements.txt\n!build.txt\n!source\n",
        "gateway/Dockerfile": slim(deployment),
    }
    found |= {f"gateway/{name}": text for name, text in inputs(deployment).items()}
    if bare:
        found["gateway/Dockerfile.distroless"] = distroless(deployment)
    return found


def inputs(deployment: Deployment) -> dict[str, str]:
    """What the steps of `installed` copy, by path beside the Dockerfile."""
    return {
        "build.txt": _lock("build"),
        "requirements.txt": _together(_needed(deployment)),
        "source/README": SOURCE,
    }


def slim(deployment: Deployment) -> str:
    """On Debian's slim image, with a shell."""
    build = [
        Step(
            f"FROM {deployment.image(PYTHON_IMAGE)} AS build",
            "Built with what the gateway is tested with; nothing of this stage is kept but what is copied below.",
        ),
        Step(
            run(
                "apt-get update",
                "apt-get install -y --no-install-recommends gcc libc6-dev",
                "rm -rf /var/lib/apt/lists/*",
            ),
            "A compiler, for the request path: compiled it takes a third less CPU. Debian's security fixes are "
            "wanted as they come, so no version is pinned.\nhadolint ignore=DL3008",
        ),
        *installed(deployment, "python"),
    ]
    serve = [
        Step(f"FROM {deployment.image(PYTHON_IMAGE)}"),
        Step(
            run(
                f"useradd --uid {USER} --gid 0 --no-create-home --home-dir {STATE} --shell /usr/sbin/nologin gemstead",
                f"install -d -o {USER} -g 0 -m 0770 {STATE} /cache /etc/gemstead",
            ),
            "Group 0, so that platforms which choose a user of their own (OpenShift) can write there too. A new volume "
            "takes its owner from the folder that it is laid over, so /cache is here as well.",
        ),
        *copied(),
        Step(
            labels(
                image_labels(
                    deployment,
                    "gemstead-gateway",
                    "The gateway of Gemstead",
                    base=deployment.image(PYTHON_IMAGE),
                )
            )
        ),
        *_serving("/opt/gemstead/bin/python"),
    ]
    return dockerfile(build, serve)


def distroless(deployment: Deployment) -> str:
    """Without a shell: Python, the gateway, and nothing else."""
    build = [
        Step(
            f"FROM {deployment.image(DEBIAN_IMAGE)} AS build",
            "Debian's own Python, because the distroless image holds the same.",
        ),
        Step(
            run(
                "apt-get update",
                "apt-get install -y --no-install-recommends python3-pip python3-venv python3-dev gcc libc6-dev",
                "rm -rf /var/lib/apt/lists/*",
                f"install -d -o {USER} -g 0 -m 0770 /state",
            ),
            "hadolint ignore=DL3008",
        ),
        *installed(deployment, "python3"),
    ]
    serve = [
        Step(
            f"FROM {deployment.image(DISTROLESS_IMAGE)}",
            "No shell, no package manager: there is nothing to run but the gateway.",
        ),
        Step(f"COPY --from=build --chown={USER}:0 /state {STATE}"),
        *copied(),
        Step(
            labels(
                image_labels(
                    deployment,
                    "gemstead-gateway",
                    "The gateway of Gemstead, without a shell",
                    base=deployment.image(DISTROLESS_IMAGE),
                )
            )
        ),
        *_serving("/opt/gemstead/bin/python3"),
    ]
    return dockerfile(build, serve)


def installed(deployment: Deployment, python: str) -> Iterator[Step]:
    """Steps that leave the gateway's packages in /opt/gemstead and the gateway, compiled, in /gemstead."""
    exact = "--no-deps --require-hashes --only-binary :all:"
    inside = f"{python} -m pip --python /opt/gemstead/bin/{python} install"
    yield Step(environment({"PIP_NO_CACHE_DIR": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}))
    yield Step("COPY build.txt requirements.txt /locks/")
    yield Step(
        run(
            f"{python} -m pip install {exact} --target /build -r /locks/build.txt",
            f"{python} -m venv --without-pip /opt/gemstead",
            f"{inside} {exact} -r /locks/requirements.txt",
        ),
        "Exact versions, each with its checksum. They change seldom: this layer is kept while Gemstead changes.",
    )
    yield Step(
        f"ARG GEMSTEAD=gemstead=={deployment.version}",
        "What is installed: a release, or what lies in source/, as its README says.",
    )
    yield Step("COPY source /source")
    yield Step(
        'RUN set -- /source/gemstead*.*; [ -e "$1" ] || set -- "$GEMSTEAD"; \\\n'
        "    HATCH_BUILD_HOOK_ENABLE_MYPYC=1 PYTHONPATH=/build \\\n"
        f"    {inside} \\\n"
        '    --no-deps --no-build-isolation --no-binary gemstead --prefix /gemstead "$1"',
        "Compiled here, with the tools above.",
    )


def copied() -> Iterator[Step]:
    """Steps that take both from the stage `build`."""
    yield Step("COPY --from=build /opt/gemstead /opt/gemstead", "What Gemstead stands on: changes seldom.")
    yield Step("COPY --from=build /gemstead /opt/gemstead", "Gemstead: the layer that a new version changes.")


def _needed(deployment: Deployment) -> list[str]:
    """Lists of packages that this file's gateway needs."""
    spec, routes = deployment.spec, deployment.deploy.kubernetes.routes
    said = spec.model_dump(mode="json", exclude_defaults=True, exclude={"deploy"})
    texts = tuple(_texts(said))
    found = {extra for start, extra in SECRETS.items() if any(text.startswith(start) for text in texts)}
    if routes and routes.inference and routes.inference.picker == "gemstead":
        found.add("epp")
    if said.get("limits", {}).get("store") or said.get("traffic", {}).get("sharing"):
        found.add("shared")
    if said.get("ledger", {}).get("store"):
        found.add("postgres")
    if any(text.startswith("s3://") for text in texts):
        found.add("s3")
    return ["serve", *(f"serve-{extra}" for extra in sorted(found))]


def _together(names: list[str]) -> str:
    """The lists one after another, each package once."""
    text, there = "", set[str]()
    for name in names:
        head, *blocks = re.split(r"(?m)^(?=[a-z0-9-]+==)", _lock(name))
        fresh = [block for block in blocks if block.partition("==")[0] not in there]
        there.update(block.partition("==")[0] for block in fresh)
        text += head + "".join(fresh)
    return text


def _texts(value: Any) -> Iterator[str]:
    """Every text in a nest of mappings and lists."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def locked(package: str) -> str:
    """The version of a package that the gateway's image holds."""
    lines = (line.partition(" ")[0] for line in _lock("serve").splitlines())
    return next(line for line in lines if line.startswith(f"{package}==")).partition("==")[2]


def _lock(name: str) -> str:
    return resources.files("gemstead.render").joinpath(f"locks/{name}.txt").read_text("utf-8")


def _serving(python: str) -> Iterator[Step]:
    yield Step(
        environment(
            {
                "PATH": "/opt/gemstead/bin:/usr/local/bin:/usr/bin:/bin",
                "PYTHONUNBUFFERED": "1",
                "PYTHONDONTWRITEBYTECODE": "1",
                "HOME": STATE,
                "GEMSTEAD_CONFIG": "/etc/gemstead/gemstead.yaml",
            }
        )
    )
    yield Step(f"USER {USER}:0")
    yield Step(f"WORKDIR {STATE}")
    yield Step(f"VOLUME {STATE}", "Keys and records: what must survive the container.")
    yield Step(f"EXPOSE {GATEWAY_PORT} {ADMIN_PORT}")
    yield Step("STOPSIGNAL SIGTERM", "Stops accepting, lets running answers end, writes every record.")
    yield Step(
        "HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \\\n  "
        + exec_form(
            "CMD",
            [
                python,
                "-c",
                asks(f"http://127.0.0.1:{ADMIN_PORT}/healthz"),
            ],
        ),
        "Alive, not ready: whether a model answers is /readyz, and no reason to restart the gateway.",
    )
    yield Step(exec_form("ENTRYPOINT", [python, "-m", "gemstead", "serve"]))
