"""The plan as files: one module per target, each with a name, a sentence, and `render(deployment) -> Bundle`.

A target decides nothing that the plan has decided already and reads nothing but the `Deployment`. The same deployment
gives the same bytes, so that what is rendered can be reviewed, committed and compared.
"""

from __future__ import annotations

from importlib import import_module
from typing import Protocol

from gemstead.refused import Reason, Refused
from gemstead.render.bundle import Bundle
from gemstead.render.deployment import Deployment
from gemstead.spec.fault import nearest


class Target(Protocol):
    """What every target's module has."""

    SUMMARY: str

    def render(self, deployment: Deployment) -> Bundle: ...


# Name as people type it -> module in this package. Imported when asked for.
TARGETS: dict[str, str] = {
    "docker": "docker",
    "compose": "compose",
    "cloudrun": "cloudrun",
    "vertex": "vertex",
    "kubernetes": "kubernetes",
    "helm": "helm",
    "gke": "gke",
    "terraform": "terraform",
    "pipelines": "pipelines",
    "gitops": "gitops",
}


def target(name: str) -> Target:
    """The target of that name.

    Raises:
        Refused: there is none, with the nearest.
    """
    if name not in TARGETS:
        close = nearest(name[:64], TARGETS)
        hint = f" Did you mean `{close}`?" if close else ""
        raise Refused(
            Reason.BAD_REQUEST, f"There is no target `{name[:64]}`.{hint} Known: {', '.join(TARGETS)}."
        )
    found: Target = import_module(f"gemstead.render.{TARGETS[name]}")
    return found
