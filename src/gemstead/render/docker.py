"""Docker images: the gateway (slim and distroless), and one for each pool's engine.

All of them run as a user without rights, on a root file system that may be read-only: what is written goes to `/cache`
(weights, compiled kernels), `/var/lib/gemstead` (keys, records) and `/tmp`. `docker-bake.hcl` builds them all, with a
list of what is in them (SBOM) and how they came about (provenance).
"""

from __future__ import annotations

import json

from gemstead.render.bundle import Bundle
from gemstead.render.compose_cards import BY_PATH, FIRST_NODE
from gemstead.render.deployment import ENGINE_PORT, GATEWAY_PORT, Deployment, Pool
from gemstead.render.docker_engine import engine_dockerfile
from gemstead.render.docker_gateway import STATE
from gemstead.render.docker_gateway import files as gateway_files
from gemstead.render.images import content
from gemstead.render.launch import CACHE, baked

SUMMARY = "images: the gateway, and each pool's engine, as Dockerfiles and one docker-bake.hcl"


def render(deployment: Deployment) -> Bundle:
    """The images of a deployment."""
    files = {
        "README.md": _readme(deployment),
        "docker-bake.hcl": _bake(deployment),
        **gateway_files(deployment),
    }
    for pool in deployment.pools:
        files[f"engine-{pool.name}/Dockerfile"] = engine_dockerfile(deployment, pool)
        files[f"engine-{pool.name}/.dockerignore"] = "*\n"
    unpinned = [pool.image.reference for pool in deployment.pools if not pool.image.pinned]
    notes = tuple(f"{one} is pinned by tag only: gemstead render --pin" for one in dict.fromkeys(unpinned))
    return Bundle("docker", files, (*deployment.notes, *notes))


def image_names(deployment: Deployment) -> dict[str, str]:
    """Tags of the images that are built, by the folder of their Dockerfile."""
    return {"gateway": gateway_name(deployment)} | {
        f"engine-{pool.name}": engine_name(deployment, pool) for pool in deployment.pools
    }


def gateway_name(deployment: Deployment, *, bare: bool = False) -> str:
    """The gateway's image; its tag says what it is built from, so that what was tested under it stays what it was."""
    texts = gateway_files(deployment, bare=bare)
    end = "-distroless" if bare else ""
    return f"{_lead(deployment)}gemstead-gateway:{deployment.version}-{content(*texts.values())}{end}"


def engine_name(deployment: Deployment, pool: Pool) -> str:
    """The image of a pool's engine, in the same way."""
    inside = content(engine_dockerfile(deployment, pool))
    return f"{_lead(deployment)}gemstead-{pool.name}:{deployment.version}-{inside}"


def _lead(deployment: Deployment) -> str:
    registry = deployment.deploy.registry.rstrip("/")
    return f"{registry}/" if registry else ""


def targets(deployment: Deployment) -> list[tuple[str, str, str, str]]:
    """(name, folder, Dockerfile, tag) of all that docker-bake.hcl builds."""
    found = [(folder, folder, "Dockerfile", tag) for folder, tag in image_names(deployment).items()]
    bare = gateway_name(deployment, bare=True)
    found.insert(1, ("gateway-distroless", "gateway", "Dockerfile.distroless", bare))
    return found


def _bake(deployment: Deployment) -> str:
    blocks = []
    all_of_them = targets(deployment)
    group = ", ".join(json.dumps(name) for name, *_ in all_of_them)
    blocks.append(
        "# Made by gemstead render docker. Build all: docker buildx bake\n"
        f'group "default" {{\n  targets = [{group}]\n}}\n'
    )
    for name, folder, file, tag in all_of_them:
        weights = any(f"engine-{pool.name}" == name and baked(deployment, pool) for pool in deployment.pools)
        secret = '  secret     = ["id=hf_token,env=HF_TOKEN"]\n' if weights else ""
        blocks.append(
            f'target "{name}" {{\n  context    = "{folder}"\n  dockerfile = "{file}"\n  tags       = ["{tag}"]\n'
            f"{secret}"
            "  # what is in the image, and how it came about, travel with it\n"
            '  attest     = ["type=sbom", "type=provenance,mode=max"]\n}\n'
        )
    return "\n".join(blocks)


def _readme(deployment: Deployment) -> str:
    names = image_names(deployment)
    rows = "\n".join(f"| `{folder}/` | `{tag}` |" for folder, tag in names.items())
    pools = "\n".join(_run_line(names, pool) for pool in deployment.pools)
    return f"""# Images

Made by `gemstead render docker`.

| folder | image |
|---|---|
{rows}

Build them all with what is in them and how they came about (SBOM, provenance): `docker buildx bake`. One of them:
`docker build gateway`, or `podman build --format docker gateway` (without `--format` Podman drops the health check).
The gateway is installed from a release; to build it from a checkout, put it into `gateway/source/`, as the README there
says.

Run, on a read-only root file system, as a user without rights:

```console
{pools}
$ docker run --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \\
    -p 127.0.0.1:{GATEWAY_PORT}:{GATEWAY_PORT} -v gemstead:{STATE} -v ./gemstead.yaml:/etc/gemstead/gemstead.yaml:ro \\
    {names["gateway"]}
```

`gemstead render compose` writes all of that, with networks and monitoring, as one file.
"""


def _cards(pool: Pool) -> str:
    """The words that give a container its cards: `--gpus` is NVIDIA's, others' are device files of some group."""
    if not pool.needs.gpus:
        return ""
    vendor = pool.setup.accelerator.vendor
    if vendor not in ("amd", "intel"):
        return f" --gpus {pool.needs.gpus}"
    nodes = [f"/dev/dri/renderD{FIRST_NODE + n}" for n in range(pool.needs.gpus)]
    words = "".join(f" --device {one}" for one in (["/dev/kfd"] if vendor == "amd" else []) + nodes)
    words += f" -v {BY_PATH}:{BY_PATH}:ro" if vendor == "intel" else ""
    return f" \\\n    {words.strip()} --group-add $(stat -c %g {nodes[0]})"


def _run_line(names: dict[str, str], pool: Pool) -> str:
    gpus = _cards(pool)
    shm = f" --shm-size {pool.needs.shm_gib.value}g" if pool.needs.gpus else ""
    return (
        f"$ docker run --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges{gpus}{shm} \\\n"
        f"    -p 127.0.0.1:{ENGINE_PORT}:{ENGINE_PORT} -v gemstead-cache:{CACHE} {names[f'engine-{pool.name}']}"
    )
