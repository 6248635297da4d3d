"""Where engines find the model's files, and who puts them there.

    volume         a shared volume (ReadWriteMany): a Job fetches and checks everything once, engines read it only
    bucket-fuse    a bucket mounted as a folder (GKE's GCS FUSE driver), tuned so that large files load fast
    bucket-stream  the engine streams its weights from the bucket
    image          in the engine's image; with `model_image`, in an image that is mounted as a volume

Compiled kernels are kept apart from weights and may be written by the engine: they make the second start a minute.
Weights may not: a changed weight is an attack or a fault. An engine waits until the Job has checked every byte.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from gemstead.render.because import Because, plain
from gemstead.render.deployment import Deployment, Pool
from gemstead.render.dockerfile import USER
from gemstead.render.kubernetes.objects import MODELS, Object, made, pod_security, restricted, selector
from gemstead.render.launch import BAKED, CACHE, CACHES, all_files, baked, caches, launch_words, moved

MODELS_CLAIM = "models"
SECRETS = "/run/secrets/gemstead"
HUB = CACHES["HF_HOME"]
# Mount options of the GCS FUSE driver for weights (Google's tuning guide: 1,200 s became 35 s for 141 GB).
FUSE = (
    "implicit-dirs,metadata-cache:ttl-secs:-1,metadata-cache:negative-ttl-secs:0,"
    "metadata-cache:stat-cache-max-size-mb:-1,metadata-cache:type-cache-max-size-mb:-1,"
    "file-cache:max-size-mb:-1,file-cache:cache-file-for-range-read:true,"
    "file-cache:enable-parallel-downloads:true,read_ahead_kb=1024"
)


def kind(deployment: Deployment, pool: Pool) -> str:
    """Where this pool's weights come from: as `deploy.cache.kind`, or `model-image`."""
    if baked(deployment, pool):
        return "image"
    if deployment.deploy.kubernetes.model_image:
        return "model-image"
    chosen = str(deployment.deploy.cache.kind)
    if chosen == "bucket-stream" and pool.setup.engine != "vllm":
        return "volume"  # only vLLM's streamer is known to read Gemma 4
    return chosen


def wanted(deployment: Deployment) -> list[tuple[str, str]]:
    """(repository, file or "") of all that the volume must hold, in order."""
    return all_files([pool for pool in deployment.pools if kind(deployment, pool) == "volume"])


def mark(deployment: Deployment) -> str:
    """The file that is there once everything is fetched and checked."""
    digest = hashlib.sha256(json.dumps(wanted(deployment)).encode()).hexdigest()[:12]
    return f"{HUB}/.gemstead-{digest}"


def words(deployment: Deployment, pool: Pool) -> list[str]:
    """The launch line, with weights where this pool finds them."""
    where = kind(deployment, pool)
    if where in ("volume", "image"):
        return launch_words(deployment, pool)
    if where == "bucket-stream":
        line = moved(pool, f"{bucket_url(deployment)}/")
        line += ["--load-format", "runai_streamer"]
        return line + (["--model-loader-extra-config", '{"distributed":true}'] if pool.setup.tp > 1 else [])
    return moved(pool, f"{BAKED}/")


def bucket_url(deployment: Deployment) -> str:
    """The bucket with its scheme; Google's unless said otherwise."""
    bucket = deployment.deploy.cache.bucket.rstrip("/") or "gemstead-models"
    return bucket if "://" in bucket else f"gs://{bucket}"


def variables(deployment: Deployment, pool: Pool) -> Object:
    """Environment of an engine that has to do with files."""
    found: Object = {"HOME": CACHE, "USER": "gemstead"}
    found |= caches(pool.setup.engine, inside=kind(deployment, pool) == "image")
    if pool.setup.engine != "ollama":
        found["HF_HUB_OFFLINE"] = Because("1", "everything is there already; the engine asks nobody")
    return found


def volumes(deployment: Deployment, pool: Pool) -> tuple[list[Object], list[Object]]:
    """(volumes, mounts) of an engine's pod for files, shared memory and /tmp."""
    where = kind(deployment, pool)
    shm = pool.needs.shm_gib
    held: list[Object] = [
        {"name": "tmp", "emptyDir": {"sizeLimit": "8Gi"}},
        {
            "name": "shm",
            "emptyDir": {"medium": "Memory", "sizeLimit": Because(f"{shm.value}Gi", shm.reason)},
        },
    ]
    mounts: list[Object] = [
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
    ]
    if where == "image" and pool.setup.engine == "ollama":
        held.append({"name": "home", "emptyDir": {"sizeLimit": "2Gi"}})
        mounts.append({"name": "home", "mountPath": f"{CACHE}/.ollama"})
        return held, mounts
    if where == "volume":
        held.append({"name": "models", "persistentVolumeClaim": {"claimName": _claim(deployment)}})
        mounts += [
            {"name": "models", "mountPath": CACHE, "subPath": f"compiled/{pool.name}"},
            {"name": "models", "mountPath": HUB, "subPath": "hub", "readOnly": True},
        ]
        return held, mounts
    held.append({"name": "compiled", "emptyDir": {"sizeLimit": "20Gi"}})
    mounts.append({"name": "compiled", "mountPath": CACHE})
    if where == "bucket-fuse":
        attributes = {
            "bucketName": bucket_url(deployment).removeprefix("gs://"),
            "mountOptions": Because(FUSE, "Google's tuning for weights: 35 s instead of 1,200 s for 141 GB"),
        }
        csi = {"driver": "gcsfuse.csi.storage.gke.io", "readOnly": True, "volumeAttributes": attributes}
        held.append({"name": "weights", "csi": csi})
        mounts.append({"name": "weights", "mountPath": BAKED, "readOnly": True})
    elif where == "model-image":
        image = {"reference": deployment.deploy.kubernetes.model_image, "pullPolicy": "IfNotPresent"}
        held.append({"name": "weights", "image": image})
        mounts.append({"name": "weights", "mountPath": BAKED, "readOnly": True})
    return held, mounts


def waiting(deployment: Deployment, pool: Pool) -> list[Object]:
    """The init container that waits for the Job, where there is one."""
    if kind(deployment, pool) != "volume":
        return []
    program = (
        "import pathlib, time\n"
        f"mark = pathlib.Path({mark(deployment)!r})\n"
        "while not mark.exists():\n"
        "    print('waiting until all files are there and checked:', mark, flush=True)\n"
        "    time.sleep(10)\n"
    )
    return [
        {
            "name": "wait-for-models",
            "image": Because(deployment.gateway.reference, deployment.gateway.reason),
            "imagePullPolicy": "IfNotPresent",
            "command": ["/opt/gemstead/bin/python", "-c", program],
            "securityContext": restricted(),
            "resources": small("100m", "64Mi"),
            "volumeMounts": [{"name": "models", "mountPath": HUB, "subPath": "hub", "readOnly": True}],
        }
    ]


def token_key(deployment: Deployment) -> str:
    """The key of the Secret that holds the hub's token; empty without one."""
    token = deployment.deploy.hub_token or ""
    return token.removeprefix("env:") if token.startswith("env:") else "HF_TOKEN" if token else ""


def secret_volume(deployment: Deployment, keys: list[str]) -> Object:
    """These keys of the Secret as files, which show in no description of the pod and follow when they change."""
    items = [{"key": key, "path": key} for key in keys]
    said = {"secretName": f"{deployment.name}-secrets", "defaultMode": 0o440, "items": items}
    return {"name": "secrets", "secret": said}


def small(cpu: str, memory: str, storage: str = "64Mi") -> Object:
    """Requests and limits of a small container."""
    asked = {"cpu": cpu, "memory": memory, "ephemeral-storage": storage}
    return {"requests": asked, "limits": dict(asked)}


def objects(deployment: Deployment) -> list[Object]:
    """The volume, and the Job that fills it; none when weights come another way."""
    files = wanted(deployment)
    if not files:
        return []
    return [_volume(deployment), _job(deployment, files)]


def _claim(deployment: Deployment) -> str:
    return f"{deployment.name}-{MODELS_CLAIM}"


def _volume(deployment: Deployment) -> Object:
    cache = deployment.deploy.cache
    disks = [int(pool.needs.disk_gib.value) for pool in deployment.pools]
    size = Because(cache.size_gib, "as the file says") if cache.size_gib else Because(
        sum(disks), "; ".join(f"{pool.name}: {pool.needs.disk_gib.reason}" for pool in deployment.pools)
    )  # fmt: skip
    spec: Object = {
        "accessModes": Because(
            ["ReadWriteMany"], "every engine on every node reads it; its storage class must offer that"
        ),
        "resources": {"requests": {"storage": Because(f"{size.value}Gi", size.reason)}},
    }
    if cache.storage_class:
        spec["storageClassName"] = cache.storage_class
    return made("v1", "PersistentVolumeClaim", _claim(deployment), deployment, component=MODELS, spec=spec)


def _job(deployment: Deployment, files: list[tuple[str, str]]) -> Object:
    environment: list[Any] = [
        {"name": "HF_HOME", "value": HUB},
        {"name": "HOME", "value": "/tmp"},  # noqa: S108
    ]
    held: list[Any] = [
        {"name": "models", "persistentVolumeClaim": {"claimName": _claim(deployment)}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "512Mi"}},
    ]
    mounts: list[Any] = [
        {"name": "models", "mountPath": HUB, "subPath": "hub"},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
    ]
    if key := token_key(deployment):
        held.append(secret_volume(deployment, [key]))
        mounts.append({"name": "secrets", "mountPath": SECRETS, "readOnly": True})
    program = (
        "import os, pathlib, subprocess, sys\n"
        f"token = pathlib.Path('{SECRETS}/{key or 'HF_TOKEN'}')\n"
        "own = {'HF_TOKEN': token.read_text().strip()} if token.exists() else {}\n"
        "def gemstead(*words):\n"
        "    subprocess.run([sys.executable, '-m', 'gemstead', *words], check=True, env={**os.environ, **own})\n"
        f"for repo, file in {files!r}:\n"
        "    gemstead('models', 'pull', repo, *(['--include', file] if file else []))\n"
        "gemstead('models', 'verify')\n"
        f"pathlib.Path({mark(deployment)!r}).touch()\n"
    )
    container = {
        "name": "models",
        "image": Because(deployment.gateway.reference, deployment.gateway.reason),
        "imagePullPolicy": "IfNotPresent",
        "command": Because(
            ["/opt/gemstead/bin/python", "-c", program],
            "fetches, compares every file's SHA-256 with the hub's, and only then lets engines begin",
        ),
        "env": environment,
        "securityContext": restricted(),
        "resources": small("2", "4Gi", "1Gi"),
        "volumeMounts": mounts,
    }
    pod: Object = {
        "serviceAccountName": f"{deployment.name}-models",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "OnFailure",
        "securityContext": pod_security(USER),
        "containers": [container],
        "volumes": held,
    }
    spec: Object = {
        "backoffLimit": Because(20, "what came is kept, so another try goes on from there"),
        "template": {"metadata": _unmeshed(deployment), "spec": pod},
    }
    return made(
        "batch/v1",
        "Job",
        Because(
            f"{deployment.name}-models-{_digest(spec)}-{image_digest(deployment.gateway.reference)}",
            "a Job cannot be changed: with other files or another version it is another one",
        ),
        deployment,
        component=MODELS,
        spec=spec,
    )


def _digest(spec: Object) -> str:
    """Of all of a Job but its image, which Helm's values may change."""
    said = plain(spec)
    for container in said["template"]["spec"]["containers"]:
        del container["image"]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:8]


def image_digest(reference: str) -> str:
    """What a Job's name says of its image; Helm works out the same (`sha256sum | trunc 6`)."""
    return hashlib.sha256(reference.encode()).hexdigest()[:6]


def _unmeshed(deployment: Deployment) -> Object:
    """A Job's pod ends; a mesh's proxy beside it would not."""
    found: Object = {"labels": selector(deployment, MODELS)}
    if deployment.deploy.kubernetes.mesh == "istio":
        found["labels"]["sidecar.istio.io/inject"] = "false"
    return found
