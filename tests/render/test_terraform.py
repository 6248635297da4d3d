"""Terraform: it is read, what is named exists, and nothing stands open."""

from __future__ import annotations

import io
import re
from typing import Any

import hcl2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.catalog.catalogue import built_in
from gemstead.refused import Refused
from gemstead.render import target
from gemstead.render.bundle import Bundle
from gemstead.render.hcl import Block, document
from gemstead.spec.model import Spec
from gemstead.wiring.deployment import deployment

FILES: dict[str, dict[str, Any]] = {
    "no card": {"models": [{"name": "gemma-4-e2b"}]},
    "eight": {"models": [{"name": "gemma-4-31b"}], "deploy": {"hardware": {"gpu": "H100", "count": 8}}},
    "spot": {
        "models": [{"name": "gemma-4-12b"}],
        "deploy": {"hardware": {"gpu": "L4", "count": 4, "spot": True}},
    },
    "two": {
        "models": [{"name": "gemma-4-31b"}, {"name": "gemma-4-e4b"}],
        "deploy": {
            "hardware": {"gpu": "H100", "count": 4},
            "cloud": {"project": "acme-llm", "region": "europe-west4"},
        },
    },
}


def bundle(name: str) -> Bundle:
    return target("terraform").render(deployment(Spec.model_validate(FILES[name], strict=False), built_in()))


def text(name: str) -> str:
    return "\n".join(body for path, body in bundle(name).files.items() if path.endswith(".tf"))


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_read(name: str) -> None:
    for path, body in bundle(name).files.items():
        if path.endswith(".tf"):
            assert hcl2.load(io.StringIO(body)), path


@pytest.mark.parametrize("name", FILES)
def test_what_is_named_exists(name: str) -> None:
    body = text(name)
    resources = {
        f"{kind}.{label}" for kind, label in re.findall(r'^resource "(\w+)" "(\w+)"', body, re.MULTILINE)
    }
    variables = set(re.findall(r'^variable "(\w+)"', body, re.MULTILINE))
    assert set(re.findall(r"\b(google_\w+\.\w+)", body)) <= resources
    assert set(re.findall(r"\bvar\.(\w+)", body)) <= variables
    assert len(resources) == len(re.findall(r"^resource ", body, re.MULTILINE)), "two resources of one name"


@pytest.mark.parametrize("name", FILES)
def test_nothing_stands_open(name: str) -> None:
    body = text(name)
    assert (
        "0.0.0.0/0" not in body
        and "allUsers" not in body
        and "roles/owner" not in body
        and "roles/editor" not in body
    )
    for wanted in (
        "enable_private_nodes    = true",
        'public_access_prevention    = "enforced"',
        "workload_identity_config",
        "master_authorized_networks_config",
        "private_ip_google_access = true",
        "enable_secure_boot",
    ):
        assert wanted in body, wanted
    assert body.count("public_access_prevention") == body.count('resource "google_storage_bucket" ')


def test_pools_hold_the_cards_of_the_plan_and_go_down_to_nothing() -> None:
    body = bundle("eight").files["pools.tf"]
    block = body[body.index('"gemma_4_31b"') :]
    assert 'machine_type    = "a3-highgpu-2g"' in block, "two cards to a replica"
    assert re.search(r"total_min_node_count = 0\n\s+total_max_node_count = 4\n", block)
    spot = bundle("spot").files["pools.tf"]
    assert len(re.findall(r"spot += true", spot)) == 1 and "gemma_4_12b_spot" in spot
    assert 'resource "google_container_node_pool" "general"' in bundle("no card").files["pools.tf"]


def test_a_card_that_google_does_not_rent_is_refused() -> None:
    file = {"models": [{"name": "gemma-4-31b"}], "deploy": {"hardware": {"gpu": "MI300X", "count": 1}}}
    with pytest.raises(Refused, match="rents no machine"):
        target("terraform").render(deployment(Spec.model_validate(file, strict=False), built_in()))


@given(
    st.dictionaries(
        st.from_regex(r"[a-z_]{1,12}", fullmatch=True),
        st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=20),
        min_size=1,
        max_size=4,
    )
)
def test_a_string_is_read_back_and_never_a_template(body: dict[str, str]) -> None:
    read = hcl2.load(io.StringIO(document([Block("locals", body=body)])))["locals"][0]
    for name, said in body.items():
        if "\\" in said or '"' in said:
            continue  # the reader keeps its escapes
        assert str(read[name]).strip('"') == said.replace("${", "$${").replace("%{", "%%{").strip('"')
