"""Every size of Gemma 4 on every kind of hardware, for every target: rendered, or refused with a sentence.

Whatever is rendered is what its reader takes. The tests of single targets look closer; this one looks everywhere.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml
from apiserver import faults as refused_by_the_cluster
from google_schemas import faults as refused_by_google
from helm_python import Chart, lint
from jsonschema import Draft7Validator

from gemstead.catalog.catalogue import built_in
from gemstead.refused import Refused
from gemstead.render import TARGETS, target
from gemstead.render.bundle import Bundle
from gemstead.render.deployment import Deployment
from gemstead.render.kubernetes import hardening
from gemstead.render.kubernetes.build import built
from gemstead.spec.model import Spec
from gemstead.wiring.deployment import deployment

SCHEMAS = Path(__file__).parents[1] / "data" / "schemas"
SIZES = ("gemma-4-e2b", "gemma-4-e4b", "gemma-4-12b", "gemma-4-26b-a4b", "gemma-4-31b")
HARDWARE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # -> (deploy.hardware, of the model)
    "a processor": ({}, {}),
    "one card": ({"gpu": "RTX PRO 6000", "count": 1}, {}),
    "eight cards": ({"gpu": "H100", "count": 8}, {}),
    "Intel's cards": ({"gpu": "Arc Pro B70", "count": 2}, {}),
    "two nodes": ({"gpu": "L4", "count": 8, "multi_node": True}, {"tensor_parallel": 8, "engine": "vllm"}),
}
CATALOGUE = built_in()


@cache
def planned(size: str, hardware: str) -> Deployment:
    cards, own = HARDWARE[hardware]
    file = {
        "models": [{"name": size, **own}],
        "deploy": {
            "host": "llm.acme.com",
            "registry": "ghcr.io/acme",
            "hardware": cards,
            "cloud": {"project": "acme-llm", "region": "europe-west4"},
            "kubernetes": {"cards_per_node": 4 if hardware == "two nodes" else 8,
                           "routes": {"proxies": ["10.129.0.0/23"]}},
            "options": {"git_url": "https://git.acme.com/llm.git"},
        },
    }  # fmt: skip
    return deployment(Spec.model_validate(file, strict=False), CATALOGUE)


def _cluster(bundle: Bundle, folder: Path) -> list[str]:
    found = built(bundle.files)
    return [fault for one in found for fault in refused_by_the_cluster(one)] + hardening.faults(found)


def _chart(bundle: Bundle, folder: Path) -> list[str]:
    for path, text in bundle.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, "utf-8")
    said = lint(str(folder))
    rendered = Chart.load(str(folder)).render({}, name="x", namespace="gemstead")
    found = [one for text in rendered.values() for one in yaml.safe_load_all(text) if one]
    errors = [str(one) for one in said["messages"] if one["severity"] >= 2]
    return errors + [fault for one in found for fault in refused_by_the_cluster(one)]


def _compose(bundle: Bundle, folder: Path) -> list[str]:
    schema = json.loads((SCHEMAS / "other" / "compose-spec.json").read_text("utf-8"))
    said = yaml.safe_load(bundle.files["compose.yaml"])
    return [one.message for one in Draft7Validator(schema).iter_errors(said)]


GOOGLE = {
    "service.yaml": "run.v1.Service",
    "cloudbuild.yaml": "cloudbuild.v1.Build",
    "weights.yaml": "cloudbuild.v1.Build",
    "model.yaml": "aiplatform.v1.UploadModelRequest",
    "endpoint.yaml": "aiplatform.v1.Endpoint",
    "deploy.yaml": "aiplatform.v1.DeployModelRequest",
}


def _google(bundle: Bundle, folder: Path) -> list[str]:
    found = []
    for path, text in bundle.files.items():
        if name := GOOGLE.get(path.rpartition("/")[2]):
            found += [f"{path}: {fault}" for fault in refused_by_google(name, yaml.safe_load(text))]
    return found


def _objects(bundle: Bundle, folder: Path) -> list[str]:
    texts = [text for path, text in bundle.files.items() if path.endswith(".yaml")]
    found = [one for text in texts for one in yaml.safe_load_all(text) if one]
    return [fault for one in found for fault in refused_by_the_cluster(one)]


READERS: dict[str, Callable[[Bundle, Path], list[str]]] = {
    "kubernetes": _cluster,
    "gke": _cluster,
    "helm": _chart,
    "compose": _compose,
    "cloudrun": _google,
    "vertex": _google,
    "gitops": _objects,
    "pipelines": lambda bundle, folder: _google(bundle, folder),
    "terraform": lambda bundle, folder: [],  # read below, as every file is
    "docker": lambda bundle, folder: [],
}
# What no target has to have: Cloud Run and Vertex AI lend few cards, and neither several nodes.
MAY_REFUSE = {"cloudrun", "vertex", "terraform"}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("hardware", HARDWARE)
def test_every_size_is_rendered_for_its_reader_or_refused_with_a_sentence(
    hardware: str, name: str, tmp_path: Path
) -> None:
    rendered = 0
    for size in SIZES:
        try:
            bundle = target(name).render(planned(size, hardware))
        except Refused as refusal:
            assert name in MAY_REFUSE, f"{size}: {refusal}"
            assert len(str(refusal)) > 30, refusal
            continue
        rendered += 1
        assert READERS[name](bundle, tmp_path / size) == []
        for path, text in bundle.files.items():
            _read(path, text)
    assert rendered or name in MAY_REFUSE
    assert rendered == len(SIZES) or hardware != "eight cards" or name != "vertex"


def _read(path: str, text: str) -> None:
    """Whether it can be read at all, by its ending."""
    if path.endswith((".yaml", ".yml")) and "templates/" not in path:
        assert list(yaml.safe_load_all(text)), path
    elif path.endswith(".json"):
        json.loads(text)
    elif path.endswith((".tf", ".hcl")):
        assert hcl2.load(io.StringIO(text)), path
    assert not re.search(r"(?m)^[\s-]*(?!clusterIP)[\w-]+: None$|Because\(", text), path


def test_every_target_has_a_reader() -> None:
    assert READERS.keys() == TARGETS.keys()
