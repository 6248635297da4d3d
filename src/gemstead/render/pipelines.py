"""Pipelines that keep what is shipped equal to what the file says: GitHub Actions, and Cloud Build.

On every change they check the file, render each target, and fail when what is committed is not what would be rendered,
so nobody edits a rendered file by hand. Then images are built with a list of what is in them and scanned, and the
bundle is promoted from one environment to the next by a pull request, which somebody approves. Once a day the live
cluster is compared with the bundle: drift is an issue, not a surprise. No step holds a key: both log in by the
identity of their run (OIDC).

`deploy.options`: `environments` ("staging,production"), `target` (what is shipped, default kubernetes).
"""

from __future__ import annotations

from typing import Any

from gemstead.render.because import Because
from gemstead.render.bundle import Bundle
from gemstead.render.deployment import Deployment
from gemstead.render.gitops_images import BRANCH
from gemstead.render.yamltext import document

SUMMARY = "GitHub Actions and Cloud Build: check, render, scan, promote, watch for drift"
HEAD = "Made by gemstead render pipelines from gemstead.yaml; change that file and render again."
PYTHON = "3.11"
TRIVY = "aquasec/trivy:0.65.0"
HADOLINT = "hadolint/hadolint:v2.12.0-alpine"
SEVERE = "--exit-code 1 --severity HIGH,CRITICAL"
# Actions are pinned by major version here; pin them by commit with your own updater.
CHECKOUT, SETUP, LOGIN, BUILDX = (
    "actions/checkout@v4",
    "actions/setup-python@v5",
    "docker/login-action@v3",
    "docker/setup-buildx-action@v3",
)
BAKE = "docker/bake-action@v5"


def render(deployment: Deployment) -> Bundle:
    """The pipelines of a deployment."""
    target = str(deployment.deploy.options.get("target", "kubernetes"))
    environments = [
        one.strip()
        for one in str(deployment.deploy.options.get("environments", "staging,production")).split(",")
        if one.strip()
    ]
    files = {
        ".github/workflows/gemstead.yaml": document(_workflow(deployment, target, environments), head=HEAD),
        ".github/workflows/gemstead-drift.yaml": document(
            _drift(deployment, target, environments[-1]), head=HEAD
        ),
        ".github/workflows/gemstead-images.yaml": document(_newer(deployment, target), head=HEAD),
        "cloudbuild.yaml": document(_cloud_build(deployment, target), head=HEAD),
        "README.md": _readme(target, environments),
    }
    return Bundle("pipelines", files, deployment.notes)


def _install(deployment: Deployment) -> dict[str, Any]:
    return {"name": "Install Gemstead", "run": f"python -m pip install gemstead=={deployment.version}"}


def _checked(deployment: Deployment, target: str) -> list[dict[str, Any]]:
    return [
        {"uses": CHECKOUT},
        {
            "uses": SETUP,
            "with": {"python-version": Because(PYTHON, "the version that Gemstead is tested with")},
        },
        _install(deployment),
        {"name": "Check the file", "run": "gemstead validate gemstead.yaml"},
        {
            "name": "What is committed is what would be rendered",
            "run": f"gemstead diff docker && gemstead diff {target}",
        },
    ]


def _workflow(deployment: Deployment, target: str, environments: list[str]) -> dict[str, Any]:
    jobs: dict[str, Any] = {
        "check": {
            "runs-on": "ubuntu-24.04",
            "timeout-minutes": 15,
            "steps": [*_checked(deployment, target), _lint(deployment), _scan_config(deployment, target)],
        },
        "images": {
            "needs": "check",
            "if": "github.ref == 'refs/heads/main'",
            "runs-on": "ubuntu-24.04",
            "timeout-minutes": 120,
            "permissions": {
                "contents": "read",
                "packages": "write",
                "id-token": "write",
                "attestations": "write",
            },
            "steps": [
                {"uses": CHECKOUT},
                {"uses": BUILDX},
                {
                    "uses": LOGIN,
                    "with": {
                        "registry": _registry(deployment),
                        "username": "${{ github.actor }}",
                        "password": "${{ secrets.GITHUB_TOKEN }}",
                    },
                },
                {
                    "name": "Which images the registry does not have yet",
                    "id": "missing",
                    "run": Because(
                        _missing(deployment),
                        "a tag says its content: what is there is not built again, which immutable tags would refuse",
                    ),
                },
                {
                    "name": "Build, with what is in each image and how it came about",
                    "if": "steps.missing.outputs.targets != ''",
                    "uses": BAKE,
                    "with": {
                        "workdir": "deploy/docker",
                        "targets": "${{ steps.missing.outputs.targets }}",
                        "push": True,
                    },
                },
                *(
                    {
                        "name": f"Scan {tag}",
                        "run": Because(
                            _scan_image(deployment, tag),
                            "a hole that has a fix ends the run; one without a fix is nothing to wait for",
                        ),
                    }
                    for tag in _tags(deployment)
                ),
            ],
        },
    }
    before = "images"
    for environment in environments:
        jobs[f"promote-{environment}"] = {
            "needs": before,
            "runs-on": "ubuntu-24.04",
            "timeout-minutes": 60,
            "environment": Because(environment, "its protection rules say who has to approve"),
            "permissions": {"contents": "write", "pull-requests": "write"},
            "steps": [
                {"uses": CHECKOUT, "with": {"fetch-depth": 0}},
                {
                    "name": f"Open a pull request from main to {environment}",
                    "env": {"GH_TOKEN": "${{ secrets.GITHUB_TOKEN }}"},
                    "run": (
                        f"git diff --quiet origin/{environment} -- deploy gemstead.yaml && exit 0\n"
                        f"gh pr create --base {environment} --head main --title 'Promote to {environment}' "
                        "--body 'What changes is in deploy/.' || gh pr list "
                        f"--base {environment} --head main --state open --json url --jq '.[0].url' | grep ."
                    ),
                },
            ],
        }
        before = f"promote-{environment}"
    return {
        "name": "gemstead",
        "on": {"push": {"branches": ["main"]}, "pull_request": {}},
        "permissions": Because({"contents": "read"}, "each job asks for the rest that it needs"),
        "concurrency": {
            "group": "gemstead-${{ github.ref }}",
            "cancel-in-progress": Because(False, "a push that is half done is worse than a slow one"),
        },
        "jobs": jobs,
    }


def _drift(deployment: Deployment, target: str, environment: str) -> dict[str, Any]:
    return {
        "name": "gemstead drift",
        "on": {"schedule": [{"cron": "17 5 * * *"}], "workflow_dispatch": {}},
        "permissions": {"contents": "read", "issues": "write", "id-token": "write"},
        "jobs": {
            "drift": {
                "runs-on": "ubuntu-24.04",
                "timeout-minutes": 15,
                "environment": environment,
                "steps": [
                    {"uses": CHECKOUT, "with": {"ref": environment}},
                    {"uses": SETUP, "with": {"python-version": PYTHON}},
                    _install(deployment),
                    {
                        "name": "Compare what runs with what was rendered",
                        "env": {
                            "KUBECONFIG_CONTENT": "${{ secrets.KUBECONFIG_READONLY }}",
                            "GH_TOKEN": "${{ secrets.GITHUB_TOKEN }}",
                        },
                        "run": (
                            "umask 077 && printf '%s' \"$KUBECONFIG_CONTENT\" > kubeconfig\n"
                            f"KUBECONFIG=kubeconfig gemstead apply {target} --dry-run > drift.txt && exit 0\n"
                            'gh issue create --title "What runs is not what was rendered" --body-file drift.txt\nexit 1'
                        ),
                    },
                ],
            }
        },
    }


def _newer(deployment: Deployment, target: str) -> dict[str, Any]:
    """What Flux's image automation leaves to do: it writes newer images into the file, and they are rendered here."""
    return {
        "name": "gemstead images",
        "on": {"push": {"branches": [BRANCH]}},
        "permissions": {"contents": "write", "pull-requests": "write"},
        "jobs": {
            "render": {
                "runs-on": "ubuntu-24.04",
                "timeout-minutes": 15,
                "steps": [
                    *_checked(deployment, target)[:3],
                    {
                        "name": "Render for the images that the file names now",
                        "env": {"GH_TOKEN": "${{ secrets.GITHUB_TOKEN }}"},
                        "run": (
                            "gemstead validate gemstead.yaml\n"
                            f"gemstead render docker && gemstead render {target}\n"
                            "git add deploy && git diff --cached --quiet && exit 0\n"
                            "git -c user.name=gemstead -c user.email=gemstead@users.noreply.localhost "
                            "commit -m 'Render for newer images' && git push\n"
                            f"gh pr create --base main --head {BRANCH} --title 'Newer images' "
                            "--body 'What changes is in deploy/.' || true"
                        ),
                    },
                ],
            }
        },
    }


def _cloud_build(deployment: Deployment, target: str) -> dict[str, Any]:
    python = deployment.image(f"python:{PYTHON}-slim-bookworm")
    install = f"pip install --quiet gemstead=={deployment.version}"
    steps: list[dict[str, Any]] = [
        {
            "id": "check",
            "name": python,
            "entrypoint": "bash",
            "args": [
                "-ceu",
                f"{install}\ngemstead validate gemstead.yaml\ngemstead diff docker\ngemstead diff {target}",
            ],
        },
        {
            "id": "lint",
            "name": deployment.image(HADOLINT),
            "entrypoint": "sh",
            "args": [
                "-ceu",
                "find deploy -name 'Dockerfile*' -exec hadolint --failure-threshold warning {} +",
            ],
        },
        {
            "id": "scan-config",
            "name": deployment.image(TRIVY),
            "args": ["config", "--exit-code", "1", "--severity", "HIGH,CRITICAL", f"deploy/{target}"],
        },
    ]
    for folder, tag in _folders(deployment).items():
        steps.append(
            {
                "id": f"build-{folder}",
                "name": "gcr.io/cloud-builders/docker",
                "entrypoint": "bash",
                "args": Because(
                    ["-ceu", f"docker pull {tag} || docker build --tag {tag} deploy/docker/{folder}"],
                    "a tag says its content: what is there already is not built, and pushed, a second time",
                ),
            }
        )
        steps.append(
            {
                "id": f"scan-{folder}",
                "name": deployment.image(TRIVY),
                "args": Because(
                    ["image", "--exit-code", "1", "--ignore-unfixed", "--severity", "HIGH,CRITICAL", tag],
                    "a hole that has a fix ends the build",
                ),
            }
        )
    return {
        "steps": steps,
        "images": Because(_tags(deployment), "pushed only when every step has passed"),
        "options": {
            "machineType": "E2_HIGHCPU_8",
            "requestedVerifyOption": Because("VERIFIED", "signed provenance for each image"),
            "logging": "CLOUD_LOGGING_ONLY",
        },
        "timeout": "7200s",
    }


def _lint(deployment: Deployment) -> dict[str, Any]:
    return {
        "name": "Lint the images' Dockerfiles",
        "run": "find deploy -name 'Dockerfile*' -print0 | xargs -0 -r docker run --rm "
        f'-v "$PWD:/src:ro" -w /src {deployment.image(HADOLINT)} hadolint --failure-threshold warning',
    }


def _scan_config(deployment: Deployment, target: str) -> dict[str, Any]:
    return {
        "name": "Scan what was rendered",
        "run": f'docker run --rm -v "$PWD:/src:ro" {deployment.image(TRIVY)} config {SEVERE} '
        f"/src/deploy/{target}",
    }


def _missing(deployment: Deployment) -> str:
    """A script that names the targets of docker-bake.hcl whose image is not in the registry."""
    from gemstead.render.docker import targets

    lines = ["found=''"]
    lines += [
        f'docker buildx imagetools inspect {tag} > /dev/null 2>&1 || found="$found,{name}"'
        for name, _, _, tag in targets(deployment)
    ]
    return "\n".join([*lines, 'echo "targets=${found#,}" >> "$GITHUB_OUTPUT"'])


def _scan_image(deployment: Deployment, tag: str) -> str:
    socket = "/var/run/docker.sock"
    scanner = deployment.image(TRIVY)
    return f"docker run --rm -v {socket}:{socket} {scanner} image --ignore-unfixed {SEVERE} {tag}"


def _folders(deployment: Deployment) -> dict[str, str]:
    from gemstead.render.docker import image_names

    return image_names(deployment)


def _tags(deployment: Deployment) -> list[str]:
    return list(_folders(deployment).values())


def _registry(deployment: Deployment) -> str:
    return deployment.deploy.registry.partition("/")[0] or "ghcr.io"


def _readme(target: str, environments: list[str]) -> str:
    path = " to ".join(environments)
    return f"""# Pipelines

Made by `gemstead render pipelines`: copy `.github/` to the root of your repository, or give `cloudbuild.yaml` to a
trigger.

1. *check*: the file is valid, and `deploy/` is what would be rendered from it; Dockerfiles are linted, the bundle is
   scanned.
2. *images*: built with a list of what is in them and how they came about, scanned, pushed.
3. *promote*: a pull request from main to {path}, one after the other; each is an environment whose rules say who
   approves.
4. *drift*, once a day: what runs is compared with what was rendered (`gemstead apply {target} --dry-run`); a difference
   opens an issue. It takes a kubeconfig that may only read, as the secret `KUBECONFIG_READONLY`.
5. *images*: what Flux's image automation (`gemstead render gitops`) wrote into the file is rendered, and becomes a pull
   request.

Set `deploy.options.environments` and `deploy.options.target` in the file for other names.
"""
