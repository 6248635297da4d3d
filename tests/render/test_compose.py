"""Compose: what is written is valid by Compose's schema, hardened at every service, and pins each card once."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from gemstead.catalog.catalogue import built_in
from gemstead.render import target
from gemstead.render.bundle import Bundle
from gemstead.spec.model import Spec
from gemstead.wiring.deployment import deployment

SCHEMAS = Path(__file__).parents[1] / "data" / "schemas" / "other"
TLS = {"certificate": "/etc/tls/tls.crt", "key": "/etc/tls/tls.key"}
FILES: dict[str, dict[str, Any]] = {
    "no file": {},
    "one card": {"deploy": {"hardware": {"gpu": "L4", "count": 1}}},
    "eight cards": {"models": [{"name": "gemma-4-31b"}], "deploy": {"hardware": {"gpu": "H100", "count": 8}}},
    "two models": {
        "models": [{"name": "gemma-4-31b"}, {"name": "gemma-4-e4b"}],
        "deploy": {"hardware": {"gpu": "RTX PRO 6000", "count": 4}, "hub_token": "env:HF_TOKEN"},
        "gateway": {"listen": ":4367", "tls": TLS},
    },
    "amd": {"models": [{"name": "gemma-4-26b"}], "deploy": {"hardware": {"gpu": "MI300X", "count": 2}}},
    "intel": {"models": [{"name": "gemma-4-26b"}], "deploy": {"hardware": {"gpu": "B70", "count": 2}}},
    "ollama": {
        "models": [{"name": "gemma-4-e4b", "engine": "ollama"}],
        "deploy": {"hardware": {"gpu": "L4", "count": 1}},
    },
    "several gateways": {
        "ledger": {"store": "env:GEMSTEAD_STORE_URL", "secret": "env:GEMSTEAD_STORE_SECRET"},
        "deploy": {"gateways": 3},
    },
    "not ours": {"models": [{"name": "mine", "endpoints": [{"url": "http://10.0.0.5:8000"}]}]},
}


def bundle(file: dict[str, Any]) -> Bundle:
    return target("compose").render(deployment(Spec.model_validate(file, strict=False), built_in()))


def composed(file: dict[str, Any]) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(bundle(file).files["compose.yaml"])
    return read


def test_what_the_file_refers_to_reaches_the_gateway_as_files_and_nobody_else() -> None:
    file = {"ledger": {"store": "env:GEMSTEAD_STORE_URL", "secret": "env:GEMSTEAD_STORE_SECRET"}}
    made, names = composed(file), ["GEMSTEAD_STORE_SECRET", "GEMSTEAD_STORE_URL"]
    assert {name: made["secrets"][name] for name in names} == {name: {"environment": name} for name in names}
    holders = {
        service
        for service, one in made["services"].items()
        if set(names) & {str(key) for key in one.get("secrets", [])}
    }
    assert holders == {"gateway"} and made["services"]["gateway"]["secrets"] == names
    assert all(f"{name}=\n" in bundle(file).files[".env.example"] for name in names)
    said = yaml.safe_load(bundle(file).files["gateway/gemstead.yaml"])["ledger"]
    assert said["store"] == "file:/run/secrets/GEMSTEAD_STORE_URL"


@pytest.mark.parametrize("name", FILES)
def test_it_is_valid_by_the_schema_of_compose(name: str) -> None:
    schema = json.loads((SCHEMAS / "compose-spec.json").read_text("utf-8"))
    found = [
        f"{'/'.join(map(str, one.path))}: {one.message}"
        for one in Draft7Validator(schema).iter_errors(composed(FILES[name]))
    ]
    assert not found


@pytest.mark.parametrize("name", FILES)
def test_every_service_of_ours_is_hardened(name: str) -> None:
    for service, said in composed(FILES[name])["services"].items():
        assert "ALL" in said["cap_drop"] and "no-new-privileges:true" in said["security_opt"], service
        assert (
            "privileged" not in said and said.get("network_mode") != "host" and said.get("ipc") != "host"
        ), service
        if "profiles" not in said:
            assert said["read_only"] is True and said["user"] == "10001:0", service


@pytest.mark.parametrize("name", FILES)
def test_only_the_gateway_is_reached_from_outside_and_engines_reach_nobody(name: str) -> None:
    read = composed(FILES[name])
    assert read["networks"]["engines"]["internal"] is True
    for service, said in read["services"].items():
        if said["networks"] == ["engines"]:
            assert "ports" not in said, service
        if "profiles" in said:
            assert all(port.startswith("127.0.0.1:") for port in said.get("ports", [])), service


@pytest.mark.parametrize("name", FILES)
def test_no_card_is_given_twice(name: str) -> None:
    cards = [
        card
        for said in composed(FILES[name])["services"].values()
        if "profiles" not in said
        for device in said.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
        for card in device["device_ids"]
    ]
    assert len(cards) == len(set(cards))
    if name == "eight cards":
        assert sorted(cards) == [str(one) for one in range(8)]


@pytest.mark.parametrize("name", FILES)
def test_the_gateway_knows_every_engine_by_its_service(name: str) -> None:
    made = bundle(FILES[name])
    spec = Spec.model_validate(yaml.safe_load(made.files["gateway/gemstead.yaml"]), strict=False)
    services = yaml.safe_load(made.files["compose.yaml"])["services"]
    named = {
        one.url.removeprefix("http://").partition(":")[0] for model in spec.models for one in model.endpoints
    }
    engines = {name for name, said in services.items() if said["networks"] == ["engines"]}
    assert engines == named - {"10.0.0.5"}


def test_without_tls_only_this_host_may_call() -> None:
    assert composed(FILES["one card"])["services"]["gateway"]["ports"] == [
        "${GEMSTEAD_LISTEN:-127.0.0.1:4367}:4367"
    ]
    ports = composed(FILES["two models"])["services"]["gateway"]["ports"]
    assert ports == ["${GEMSTEAD_LISTEN:-0.0.0.0:4367}:4367"]


@pytest.mark.parametrize(
    ("program", "words", "file"),
    [
        ("promtool", ["check", "config", "--syntax-only"], "prometheus/prometheus.yml"),
        ("promtool", ["check", "rules"], "prometheus/alerts.yaml"),
        ("amtool", ["check-config"], "alertmanager/alertmanager.yml"),
    ],
)
def test_prometheus_own_tools_take_its_files(
    program: str, words: list[str], file: str, tmp_path: Path
) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed (Debian: prometheus, prometheus-alertmanager)")
    for path, text in bundle(FILES["eight cards"]).files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, "utf-8")
    done = subprocess.run(
        [program, *words, file], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_alertmanagers_file_is_valid_by_its_schema() -> None:
    schema = json.loads((SCHEMAS / "prometheus-alertmanager.json").read_text("utf-8"))
    read = yaml.safe_load(bundle({}).files["alertmanager/alertmanager.yml"])
    assert not list(Draft7Validator(schema).iter_errors(read))


def test_a_store_comes_along_for_who_has_none_and_only_gateways_reach_it() -> None:
    made = composed(FILES["several gateways"])
    postgres = made["services"]["postgres"]
    assert postgres["profiles"] == ["postgres"] and "ports" not in postgres
    assert postgres["volumes"] == ["postgres:/var/lib/postgresql/data"] and "postgres" in made["volumes"]
    assert made["networks"]["store"] == {"internal": True}
    there = {name for name, one in made["services"].items() if "store" in one["networks"]}
    assert there == {"postgres", "gateway", "gateway-2", "gateway-3"}
    assert made["secrets"]["POSTGRES_PASSWORD"] == {"environment": "POSTGRES_PASSWORD"}
    assert "@postgres/gemstead" in bundle(FILES["several gateways"]).files[".env.example"]
    assert "postgres" not in composed({})["services"] and "store" not in composed({})["networks"]


def test_gateways_before_one_store_have_a_disk_a_name_and_a_port_each() -> None:
    made = composed(FILES["several gateways"])
    several = {name: one for name, one in made["services"].items() if name.startswith("gateway")}
    assert len(several) == 3 and {one["hostname"] for one in several.values()} == set(several)
    disks = [
        volume
        for one in several.values()
        for volume in one["volumes"]
        if volume.endswith(":/var/lib/gemstead")
    ]
    assert len(set(disks)) == 3 and {disk.partition(":")[0] for disk in disks} <= set(made["volumes"])
    assert len({one["ports"][0] for one in several.values()}) == 3
    scraped = yaml.safe_load(bundle(FILES["several gateways"]).files["prometheus/prometheus.yml"])
    assert "gateway-3:4368" in str(scraped)


def test_without_a_store_there_is_one_gateway_and_that_is_said() -> None:
    made = bundle({"deploy": {"gateways": 3}})
    assert [name for name in yaml.safe_load(made.files["compose.yaml"])["services"] if "gateway" in name] == [
        "gateway"
    ]
    assert any("ledger.store" in note for note in made.notes)
