"""The gateway's images: slim, and distroless. The request path is compiled while they are built."""

from __future__ import annotations

from collections.abc import Iterator

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


def slim(deployment: Deployment) -> str:
    """On Debian's slim image, with a shell."""
    build = [
        Step(
            f"FROM {PYTHON_IMAGE} AS build",
            "Built with what the gateway is tested with; nothing of this stage but /opt/gemstead is kept.",
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
        *_installed(deployment, "python"),
    ]
    serve = [
        Step(f"FROM {PYTHON_IMAGE}"),
        Step(labels(image_labels(deployment, "gemstead-gateway", "The gateway of Gemstead"))),
        Step(
            run(
                f"useradd --uid {USER} --gid 0 --no-create-home --home-dir {STATE} --shell /usr/sbin/nologin gemstead",
                f"install -d -o {USER} -g 0 -m 0770 {STATE} /cache /etc/gemstead",
            ),
            "Group 0, so that platforms which choose a user of their own (OpenShift) can write there too. A new volume "
            "takes its owner from the folder that it is laid over, so /cache is here as well.",
        ),
        Step(
            "COPY --from=build /opt/gemstead /opt/gemstead",
            "The layer that changes with a new version; those above stay.",
        ),
        *_serving("/opt/gemstead/bin/python"),
    ]
    return dockerfile(build, serve)


def distroless(deployment: Deployment) -> str:
    """Without a shell: Python, the gateway, and nothing else."""
    build = [
        Step(
            f"FROM {DEBIAN_IMAGE} AS build",
            "Debian's own Python, because the distroless image holds the same.",
        ),
        Step(
            run(
                "apt-get update",
                "apt-get install -y --no-install-recommends python3-venv python3-dev gcc libc6-dev",
                "rm -rf /var/lib/apt/lists/*",
                f"install -d -o {USER} -g 0 -m 0770 /state",
            ),
            "hadolint ignore=DL3008",
        ),
        *_installed(deployment, "python3"),
    ]
    serve = [
        Step(
            f"FROM {DISTROLESS_IMAGE}",
            "No shell, no package manager: there is nothing to run but the gateway.",
        ),
        Step(
            labels(image_labels(deployment, "gemstead-gateway", "The gateway of Gemstead, without a shell"))
        ),
        Step(f"COPY --from=build --chown={USER}:0 /state {STATE}"),
        Step("COPY --from=build /opt/gemstead /opt/gemstead"),
        *_serving("/opt/gemstead/bin/python3"),
    ]
    return dockerfile(build, serve)


def _installed(deployment: Deployment, python: str) -> Iterator[Step]:
    routes = deployment.deploy.kubernetes.routes
    extras = "[epp]" if routes and routes.inference and routes.inference.picker == "gemstead" else ""
    wheel = f'"$(ls /wheels/gemstead-*.whl){extras}"' if extras else "/wheels/gemstead-*.whl"
    yield Step(
        f"ARG GEMSTEAD=gemstead{extras}=={deployment.version}",
        "What is installed: a release, or the wheel that lies in wheels/ (`pip wheel . --no-deps -w wheels`).",
    )
    yield Step("COPY wheel[s] /wheels")
    yield Step(
        environment(
            {
                "HATCH_BUILD_HOOK_ENABLE_MYPYC": "1",
                "PIP_NO_CACHE_DIR": "1",
                "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            }
        )
    )
    yield Step(
        run(
            f"{python} -m venv /opt/gemstead",
            f'if ls /wheels/gemstead-*.whl 2>/dev/null; then set -- {wheel}; else set -- "$GEMSTEAD"; fi',
            '/opt/gemstead/bin/pip install "$@"',
            "/opt/gemstead/bin/pip uninstall -y pip setuptools",
        ),
        "What is not needed to serve is taken out again.",
    )


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
