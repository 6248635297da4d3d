"""GitOps: a repository that holds the rendered files is what runs, kept so by Argo CD or by Flux.

Both are pointed at the folder that `render kubernetes` (Kustomize) or `render helm` wrote. They make again what was
changed by hand and remove what is no longer rendered; the models' volume and the keys are kept out of that. New images
are looked for and written into the one file on a branch of their own (`gitops_images.py`), which somebody reviews.

`deploy.options`: `git_url` (needed), `git_branch` (main), `git_path` (deploy/kubernetes), `clusters` for one
application on several clusters: `name=url,...`, each with the overlay of that name where there is one, or
`environment/name=url,...`, from the branch of that environment, to which `render pipelines` promotes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from gemstead.refused import Reason, Refused
from gemstead.render import gitops_images
from gemstead.render.because import Because
from gemstead.render.bundle import HEAD, Bundle
from gemstead.render.deployment import Deployment
from gemstead.render.yamltext import document, stream

CLUSTER = re.compile(
    r"((?P<environment>[a-z0-9][a-z0-9._-]*)/)?(?P<name>[a-z0-9][a-z0-9-]*)=(?P<url>https://\S+)"
)
SUMMARY = "GitOps: Argo CD application and application set, Flux kustomization and Helm release"


def render(deployment: Deployment) -> Bundle:
    """What keeps a cluster equal to a repository.

    Raises:
        Refused: nobody has said which repository.
    """
    files = {
        "argocd/application.yaml": document(_application(deployment), head=HEAD),
        "argocd/project.yaml": document(_project(deployment), head=HEAD),
        "flux/source.yaml": document(_source(deployment), head=HEAD),
        "flux/kustomization.yaml": document(_kustomization(deployment), head=HEAD),
        "flux/helmrelease.yaml": document(_helm_release(deployment), head=HEAD),
        "README.md": _readme(deployment),
    }
    if looked_for := gitops_images.objects(deployment, _branch(deployment)):
        files["flux/images.yaml"] = stream(looked_for, head=HEAD)
    if clusters(deployment):
        files["argocd/applicationset.yaml"] = document(_application_set(deployment), head=HEAD)
    return Bundle("gitops", files, deployment.notes)


@dataclass(frozen=True, slots=True)
class Cluster:
    """One cluster that the application runs on."""

    name: str
    url: str
    environment: str = ""  # the branch that it follows; empty: the one of `git_branch`


def clusters(deployment: Deployment) -> tuple[Cluster, ...]:
    """The clusters of `deploy.options.clusters`.

    Raises:
        Refused: it is not written as `name=url` or `environment/name=url`.
    """
    found = []
    for one in filter(None, (part.strip() for part in _option(deployment, "clusters", "").split(","))):
        match = CLUSTER.fullmatch(one)
        if match is None:
            raise Refused(
                Reason.BAD_REQUEST,
                f"deploy.options.clusters: `{one[:80]}` is not name=https://address or environment/name=https://address",
            )
        found.append(Cluster(match["name"], match["url"], match["environment"] or ""))
    return tuple(found)


def _option(deployment: Deployment, name: str, default: str) -> str:
    return str(deployment.deploy.options.get(name, default))


def _repository(deployment: Deployment) -> str:
    url = _option(deployment, "git_url", "")
    if not url:
        raise Refused(
            Reason.BAD_REQUEST,
            "deploy.options.git_url: say which repository holds the rendered files, such as https://git.acme.com/llm.git",
        )
    return url


def _branch(deployment: Deployment) -> str:
    return _option(deployment, "git_branch", "main")


def _path(deployment: Deployment) -> str:
    return _option(deployment, "git_path", "deploy/kubernetes")


# Argo CD.


def _application_spec(deployment: Deployment, server: str, path: str, branch: str = "") -> dict[str, Any]:
    revision = branch or _branch(deployment)
    return {
        "project": deployment.name,
        "source": {"repoURL": _repository(deployment), "targetRevision": revision, "path": path},
        "destination": {"server": server, "namespace": deployment.deploy.namespace},
        "syncPolicy": {
            "automated": {
                "prune": Because(True, "what is no longer rendered is removed"),
                "selfHeal": Because(True, "what was changed by hand is made as it was"),
            },
            "syncOptions": [
                "CreateNamespace=true",
                Because("ServerSideApply=true", "several owners of one object do not overwrite each other"),
                Because("PruneLast=true", "the new runs before the old is removed"),
            ],
            "retry": {"limit": 5, "backoff": {"duration": "30s", "factor": 2, "maxDuration": "10m"}},
        },
        "ignoreDifferences": Because(
            [{"group": "apps", "kind": "Deployment", "jsonPointers": ["/spec/replicas"]}],
            "how many there are is the autoscaler's to say",
        ),
    }


def _application(deployment: Deployment) -> dict[str, Any]:
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Application",
        "metadata": {"name": deployment.name, "namespace": "argocd"},
        "spec": _application_spec(deployment, "https://kubernetes.default.svc", _path(deployment)),
    }


def _project(deployment: Deployment) -> dict[str, Any]:
    servers = ["https://kubernetes.default.svc", *(one.url for one in clusters(deployment))]
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "AppProject",
        "metadata": {"name": deployment.name, "namespace": "argocd"},
        "spec": {
            "description": "What Gemstead's applications may touch",
            "sourceRepos": [_repository(deployment)],
            "destinations": [
                {"server": server, "namespace": deployment.deploy.namespace} for server in servers
            ],
            "clusterResourceWhitelist": Because(
                [{"group": "", "kind": "Namespace"}, {"group": "scheduling.k8s.io", "kind": "PriorityClass"}],
                "of what belongs to no namespace, only these",
            ),
            "orphanedResources": {"warn": True},
        },
    }


def _application_set(deployment: Deployment) -> dict[str, Any]:
    overlays = {one.name for one in deployment.deploy.kubernetes.regions}
    elements = []
    for one in clusters(deployment):
        there = one.name in overlays
        path = f"{_path(deployment)}/overlays/{one.name}" if there else _path(deployment)
        why = "its overlay" if there else "it is no region of the file, so it gets the bundle as it is"
        elements.append(
            {
                "name": f"{one.environment.replace('.', '-').replace('_', '-')}-{one.name}".lstrip("-"),
                "url": one.url,
                "branch": one.environment or _branch(deployment),
                "path": Because(path, why),
            }
        )
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "ApplicationSet",
        "metadata": {"name": deployment.name, "namespace": "argocd"},
        "spec": {
            "goTemplate": True,
            "goTemplateOptions": Because(
                ["missingkey=error"], "a name that is misspelt makes no application"
            ),
            "generators": [{"list": {"elements": elements}}],
            "template": {
                "metadata": {"name": f"{deployment.name}-{{{{.name}}}}"},
                "spec": _application_spec(deployment, "{{.url}}", "{{.path}}", "{{.branch}}"),
            },
        },
    }


# Flux.


def _source(deployment: Deployment) -> dict[str, Any]:
    return {
        "apiVersion": "source.toolkit.fluxcd.io/v1",
        "kind": "GitRepository",
        "metadata": {"name": deployment.name, "namespace": "flux-system"},
        "spec": {"interval": "1m", "url": _repository(deployment), "ref": {"branch": _branch(deployment)}},
    }


def _reference(deployment: Deployment) -> dict[str, str]:
    return {"kind": "GitRepository", "name": deployment.name}


def _wait(deployment: Deployment) -> Because:
    slowest = max(deployment.pools, key=lambda pool: pool.startup.allowance_s, default=None)
    if slowest is None:
        return Because("10m0s", "no engine of ours starts")
    minutes = -(-slowest.startup.allowance_s // 60) + 10
    return Because(
        f"{minutes}m0s", f"{slowest.name}: {slowest.startup.reason}; ten minutes more for a machine to come"
    )


def _kustomization(deployment: Deployment) -> dict[str, Any]:
    return {
        "apiVersion": "kustomize.toolkit.fluxcd.io/v1",
        "kind": "Kustomization",
        "metadata": {"name": deployment.name, "namespace": "flux-system"},
        "spec": {
            "interval": "10m",
            "path": f"./{_path(deployment)}",
            "prune": Because(True, "what is no longer rendered is removed"),
            "wait": True,
            "timeout": _wait(deployment),
            "targetNamespace": deployment.deploy.namespace,
            "sourceRef": _reference(deployment),
        },
    }


def _helm_release(deployment: Deployment) -> dict[str, Any]:
    return {
        "apiVersion": "helm.toolkit.fluxcd.io/v2",
        "kind": "HelmRelease",
        "metadata": {"name": deployment.name, "namespace": "flux-system"},
        "spec": {
            "suspend": Because(
                True, "the Kustomization does the same; set this to false and remove that to use the chart"
            ),
            "interval": "10m",
            "timeout": _wait(deployment),
            "targetNamespace": deployment.deploy.namespace,
            "install": {"createNamespace": True, "remediation": {"retries": 3}},
            "upgrade": {
                "remediation": {
                    "retries": 3,
                    "strategy": Because("rollback", "a release that does not become ready is taken back"),
                }
            },
            "chart": {"spec": {"chart": "./deploy/helm", "sourceRef": _reference(deployment)}},
        },
    }


def _readme(deployment: Deployment) -> str:
    several = (
        "`argocd/applicationset.yaml` puts it on each of the clusters that the file names.\n"
        if clusters(deployment)
        else ""
    )
    newer = _newer(deployment) if gitops_images.images(deployment) else ""
    return f"""# GitOps

Made by `gemstead render gitops`: the repository is what runs.

```console
$ gemstead render kubernetes --out {_path(deployment)} && git add {_path(deployment)} && git commit && git push
$ kubectl apply -f argocd/project.yaml -f argocd/application.yaml      # with Argo CD
$ kubectl apply -f flux/source.yaml -f flux/kustomization.yaml         # or with Flux
```

{several}Take one of the two, not both. **Verify**: `argocd app get {deployment.name}`, `flux get kustomizations`, then
`gemstead check`. **Back**: `git revert`. **Remove**: delete the Application (its finalizer, if you set one, removes
what it made) or the Kustomization.
{newer}"""


def _newer(deployment: Deployment) -> str:
    return f"""
## Newer images

`flux/images.yaml` (Flux's image controllers) looks for corrected images and writes them into `gemstead.yaml`, on the
branch `{gitops_images.BRANCH}`, where this stands:

```yaml
{gitops_images.marked(deployment)}
```

Then render again on that branch (`render pipelines` has a workflow that does) and merge what you have reviewed. The
GitRepository needs a key that may push.
"""
