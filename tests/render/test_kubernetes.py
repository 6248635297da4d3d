"""Kubernetes: whatever the plan, a strict API server takes every object, and they fit each other."""

from __future__ import annotations

import argparse
import copy
import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from apiserver import SCHEMAS, faults
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from gemstead.catalog.catalogue import built_in
from gemstead.cli import models
from gemstead.refused import Refused
from gemstead.render import target
from gemstead.render.bundle import Bundle
from gemstead.render.deployment import Deployment
from gemstead.render.kubernetes import hardening
from gemstead.render.kubernetes.build import built
from gemstead.spec import epp
from gemstead.spec.load import parse
from gemstead.spec.model import Spec
from gemstead.wiring.deployment import deployment

Object = dict[str, Any]


def file(gpu: str = "", count: int | None = None, model: str = "gemma-4-31b", **more: Any) -> Object:
    """One model on some cards; `kubernetes`, `spot`, ... go where they belong."""
    hardware: Object = {"gpu": gpu} | ({"count": count} if count else {})
    hardware |= {name: more.pop(name) for name in ("spot", "multi_node") if name in more}
    own = {name: more.pop(name) for name in ("tensor_parallel", "engine", "aliases") if name in more}
    return {"models": [{"name": model, **own}], "deploy": {"hardware": hardware, **more}}


HOST = {"host": "llm.acme.com"}
INFERENCE = {"flavour": "istio", "inference": {}}
STORE = {"ledger": {"store": "env:GEMSTEAD_STORE_URL", "secret": "env:GEMSTEAD_STORE_SECRET"}}
POSTGRES = {"namespace": "postgres", "labels": {"cnpg.io/cluster": "gemstead"}}
EVERYTHING = {
    "scaling": "keda",
    "monitoring": "prometheus-operator",
    "mesh": "istio",
    "issuer": "letsencrypt",
    "secret_store": "vault",
    "hours": [{"timezone": "Europe/Berlin", "replicas": 3}],
    "callers": ["10.0.0.0/8"],
    "runtime_class": "nvidia",
    "node_selector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
    "routes": {"canary": "gemstead-next", "mirror": "gemstead-shadow", **INFERENCE},
}
FILES: dict[str, Object] = {
    "no file": {},
    "e2b on a processor": file(model="gemma-4-e2b"),
    "e4b on an L4": file("L4", 1, "gemma-4-e4b"),
    "12b on an L40S": file("L40S", 1, "gemma-4-12b"),
    "26b on two": file("RTX PRO 6000", 2, "gemma-4-26b"),
    "31b on eight": file("H100", 8),
    "31b over two nodes": file(
        "L4", 8, multi_node=True, tensor_parallel=8, kubernetes={"cards_per_node": 4}
    ),
    "sglang over two nodes": file(
        "L4", 8, multi_node=True, tensor_parallel=8, engine="sglang", kubernetes={"cards_per_node": 4, "scaling": "hpa"}
    ),
    "amd": file("MI300X", 2, "gemma-4-26b"),
    "tpu": file("TPU v6e", 8),
    "mig": file("h100-sxm/2g.20gb", 3, "gemma-4-e4b"),
    "dra": file("H100", 4, kubernetes={"devices": "dra"}),
    "dra mig": file("h100-sxm/2g.20gb", 3, "gemma-4-e4b", kubernetes={"devices": "dra"}),
    "spot": file("H100", 8, spot=True),
    "ollama": file("L4", 1, "gemma-4-e4b", engine="ollama"),
    "llama.cpp": file("L4", 1, "gemma-4-e4b", engine="llamacpp"),
    "hpa": file("H100", 8, kubernetes={"scaling": "hpa", "most_replicas": 6}),
    "everything": file("H100", 8, aliases=["assistant"], hub_token="env:HF_TOKEN", kubernetes=EVERYTHING, **HOST),
    "linkerd, google's monitoring": file("H100", 8, kubernetes={"mesh": "linkerd", "monitoring": "google"}),
    "engine certificates": file("H100", 8, kubernetes={
        "engine_tls": "cert-manager", "issuer": "letsencrypt", "monitoring": "prometheus-operator"}, **HOST),
    "engine certificates, llama.cpp": file(
        "L4", 1, "gemma-4-e4b", engine="llamacpp", kubernetes={"engine_tls": "cert-manager"}
    ),
    "engine certificates, sglang": file(
        "L4", 8, multi_node=True, tensor_parallel=8, engine="sglang",
        kubernetes={"cards_per_node": 4, "engine_tls": "cert-manager"},
    ),
    "canary": file("H100", 8, kubernetes={"rollouts": "canary"}),
    "blue-green": file("H100", 8, kubernetes={"rollouts": "blue-green", "scaling": "keda"}),
    "bucket, mounted": file("H100", 8, cache={"kind": "bucket-fuse", "bucket": "acme-models"}),
    "bucket, streamed": file("H100", 8, cache={"kind": "bucket-stream", "bucket": "s3://acme-models"}),
    "weights in an image": file("H100", 8, registry="ghcr.io/acme", cache={"kind": "image"}),
    "weights as a volume image": file("H100", 8, kubernetes={"model_image": "ghcr.io/acme/gemma:1"}),
    "envoy gateway": file("H100", 8, kubernetes={"routes": {}, "issuer": "le"}, **HOST),
    "kgateway, llm-d": file(
        "H100", 8, kubernetes={"routes": {"flavour": "kgateway", "inference": {"picker": "llm-d"}}}, **HOST
    ),
    "gke": file("H100", 8, spot=True, kubernetes={"routes": {
        "flavour": "gke", "proxies": ["10.1.0.0/23"], "inference": {
        "objects": "inference.networking.x-k8s.io", "failure": "FailOpen"}, "armor": {
        "template": "projects/acme/locations/europe-west4/templates/strict"}}, "monitoring": "google"},
        **HOST),
    "several gateways": STORE | file("H100", 8, gateways=3, kubernetes={"stores": [POSTGRES]}),
    "several gateways, scaled": STORE | file(
        "H100", 8, kubernetes={"scaling": "keda", "mesh": "istio", "secret_store": "vault", "stores": [
            {"addresses": ["10.0.7.4/32"]}, {"namespace": "redis", "port": 6379}]},
    ),
    "gke, several gateways": STORE | file("H100", 8, cloud={"project": "acme"}, kubernetes={
        "scaling": "hpa", "monitoring": "google", "stores": [{"addresses": ["10.0.7.4/32"]}],
        "routes": {"flavour": "gke", "proxies": ["10.1.0.0/23"]}}, **HOST),
    "two models": {
        "models": [{"name": "gemma-4-31b"}, {"name": "gemma-4-e4b", "aliases": ["small"]},
                   {"name": "mine", "endpoints": [{"url": "https://10.0.0.5", "api_key": "env:MINE_KEY"}]}],
        "deploy": {"hardware": {"gpu": "RTX PRO 6000", "count": 4}, "hub_token": "env:HF_TOKEN"},
        "gateway": {"listen": ":4367", "tls": {"certificate": "/a.crt", "key": "/a.key", "client_ca": "/c"}},
    },
    "gke, two models": {
        "models": [{"name": "gemma-4-31b"}, {"name": "gemma-4-e4b"}],
        "deploy": {"hardware": {"gpu": "H100", "count": 8}, **HOST,
                   "kubernetes": {"routes": {"flavour": "gke", "proxies": ["10.1.0.0/23"], "inference": {}}}},
    },
    "regions": file(
        "H100", 8, cache={"kind": "image"},
        kubernetes={"regions": [{"name": "us-east", "replicas": 2, "registry": "registry.us.acme.com"},
                                {"name": "burst", "burst": True, "url": "https://burst.acme.com",
                                 "api_key": "env:BURST_KEY"},
                                {"name": "eu", "sovereign": True, "registry": "registry.eu.acme.com"}]},
    ),
}  # fmt: skip


CATALOGUE = built_in()
_MADE: dict[str, Bundle] = {}  # the same bytes every time (test_golden.py), so once is enough


def made(said: Object) -> Deployment:
    return deployment(Spec.model_validate(said, strict=False), CATALOGUE)


def bundle(said: Object, name: str = "kubernetes") -> Bundle:
    key = json.dumps([said, name])
    if key not in _MADE:
        _MADE[key] = target(name).render(made(said))
    return _MADE[key]


def objects(said: Object, folder: str = "") -> list[Object]:
    return copy.deepcopy(_built(json.dumps(said), folder))


@cache
def _built(said: str, folder: str) -> list[Object]:
    return built(bundle(json.loads(said)).files, folder)


def of(found: list[Object], kind: str) -> list[Object]:
    return [one for one in found if one["kind"] == kind]


def pods(found: list[Object]) -> list[tuple[str, Object]]:
    """(name, pod spec) of everything that makes pods."""
    rows = []
    for one in found:
        spec = one.get("spec", {})
        name = f"{one['kind']}/{one['metadata']['name']}"
        if "template" in spec and "spec" in spec["template"]:
            rows.append((name, spec["template"]["spec"]))
        for part in ("leaderTemplate", "workerTemplate"):
            if part in spec.get("leaderWorkerTemplate", {}):
                rows.append((f"{name}/{part}", spec["leaderWorkerTemplate"][part]["spec"]))
    return rows


@pytest.mark.parametrize("name", FILES)
def test_a_strict_server_takes_every_object(name: str) -> None:
    found = [fault for one in objects(FILES[name]) for fault in faults(one)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("region", ["us-east", "burst", "eu"])
def test_a_strict_server_takes_every_object_of_every_overlay(region: str) -> None:
    found = [fault for one in objects(FILES["regions"], f"overlays/{region}") for fault in faults(one)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", FILES)
def test_kustomizations_are_valid_by_their_schema(name: str) -> None:
    schema = json.loads((SCHEMAS / "other" / "kustomization.json").read_text("utf-8"))
    for path, text in bundle(FILES[name]).files.items():
        if path.endswith("kustomization.yaml"):
            assert not list(Draft7Validator(schema).iter_errors(yaml.safe_load(text))), path


@pytest.mark.parametrize("folder", ["", "overlays/us-east", "overlays/burst", "overlays/eu"])
def test_kubectl_builds_the_same(folder: str, tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    files = bundle(FILES["regions"]).files
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, "utf-8")
    words = ["kubectl", "kustomize", str(tmp_path / folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)

    def key(one: Object) -> tuple[str, str]:
        return one["kind"], one["metadata"]["name"]

    theirs = sorted((one for one in yaml.safe_load_all(done.stdout) if one), key=key)
    assert theirs == sorted(built(files, folder), key=key)


@pytest.mark.parametrize("name", FILES)
def test_objects_fit_each_other(name: str) -> None:
    found = objects(FILES[name])
    keys = [(one["kind"], one["metadata"]["name"]) for one in found]
    assert len(keys) == len(set(keys))
    assert all(len(name) <= 63 for _, name in keys)
    labels = dict(pod_labels(found))
    for one in of(found, "Service") + of(found, "PodDisruptionBudget"):
        wanted = one["spec"]["selector"]
        wanted = wanted.get("matchLabels", wanted)
        wanted = {key: value for key, value in wanted.items() if not key.startswith("leaderworkerset")}
        assert any(wanted.items() <= said.items() for said in labels.values()), one["metadata"]["name"]
    accounts = {one["metadata"]["name"] for one in of(found, "ServiceAccount")}
    priorities = {one["metadata"]["name"] for one in of(found, "PriorityClass")}
    claims = {one["metadata"]["name"] for one in of(found, "PersistentVolumeClaim")} | {"state"}
    for who, pod in pods(found):
        assert pod["serviceAccountName"] in accounts, who
        assert pod.get("priorityClassName") in {None, *priorities}, who
        held = {volume["name"] for volume in pod["volumes"]} | ({"state"} if "StatefulSet" in who else set())
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= held, who
        used = [
            one["persistentVolumeClaim"]["claimName"]
            for one in pod["volumes"]
            if "persistentVolumeClaim" in one
        ]
        assert set(used) <= claims, who


def pod_labels(found: list[Object]) -> list[tuple[str, Object]]:
    rows = []
    for one in found:
        spec = one.get("spec", {})
        group = spec.get("leaderWorkerTemplate", {})
        for template in (spec.get("template"), group.get("leaderTemplate"), group.get("workerTemplate")):
            if template and "containers" in template.get("spec", {}):
                rows.append((one["metadata"]["name"], template["metadata"]["labels"]))
    return rows


@pytest.mark.parametrize("name", FILES)
def test_the_gateway_reads_its_file_and_knows_every_engine(name: str) -> None:
    found = objects(FILES[name])
    text = next(one for one in of(found, "ConfigMap") if one["metadata"]["name"].endswith("-gateway"))
    spec = parse(text["data"]["gemstead.yaml"])
    found_here = [
        one for model in spec.models for one in model.endpoints if one.tls or "https:" not in one.url
    ]
    hosts = {one.url.split("//")[1].partition(":")[0] for one in found_here}
    engines = {
        one["metadata"]["name"]
        for one in of(found, "Service")
        if one["metadata"]["labels"]["app.kubernetes.io/component"] == "engine"
        and not one["metadata"]["name"].endswith("-preview")
    }
    assert hosts == engines
    assert all(one.discover == "dns" for one in found_here)


def test_secrets_are_files_that_the_gateway_reads_and_no_environment() -> None:
    found = objects(FILES["two models"])
    text = next(one for one in of(found, "ConfigMap"))["data"]["gemstead.yaml"]
    assert "file:/run/secrets/gemstead/MINE_KEY" in text and "env:" not in text
    gateway = dict(pods(found))["StatefulSet/gemstead-gateway"]
    (volume,) = (one for one in gateway["volumes"] if one["name"] == "secrets")
    assert volume["secret"]["items"] == [{"key": "MINE_KEY", "path": "MINE_KEY"}]
    job = next(pod for who, pod in pods(found) if who.startswith("Job/"))
    (volume,) = (one for one in job["volumes"] if one["name"] == "secrets")
    assert volume["secret"]["items"] == [{"key": "HF_TOKEN", "path": "HF_TOKEN"}]
    assert "secretKeyRef" not in json.dumps(found)


def test_google_gets_inference_pools_unless_they_are_switched_off() -> None:
    said = FILES["gke"]["deploy"]["kubernetes"]["routes"]
    for routes, there in (
        ({"proxies": said["proxies"]}, True),
        ({**said, "inference": {"picker": "off"}}, False),
    ):
        found = built(bundle(file("H100", 8, kubernetes={"routes": routes}, **HOST), "gke").files)
        assert bool(of(found, "InferencePool")) is there
        assert len(of(found, "Gateway")) == 1 + there


def test_in_either_mesh_engines_accept_the_gateway_s_identity_only() -> None:
    istio = next(one for one in of(objects(FILES["everything"]), "AuthorizationPolicy"))["spec"]
    (rule,) = istio["rules"]
    assert "cluster.local/ns/gemstead/sa/gemstead-gateway" in rule["from"][0]["source"]["principals"]
    found = objects(FILES["linkerd, google's monitoring"])
    (server,), (who,), (policy,) = (
        of(found, kind) for kind in ("Server", "MeshTLSAuthentication", "AuthorizationPolicy")
    )
    assert server["spec"]["accessPolicy"] == "deny" and server["spec"]["port"] == 8000
    assert policy["spec"]["targetRef"]["name"] == server["metadata"]["name"]
    accounts = {one["name"] for one in who["spec"]["identityRefs"] if one["kind"] == "ServiceAccount"}
    assert accounts == {"gemstead-gateway"}
    assert accounts <= {one["metadata"]["name"] for one in of(found, "ServiceAccount")}


def container_of(found: list[Object]) -> Object:
    return next(pod for who, pod in pods(found) if "gemma" in who)["containers"][0]


def test_by_certificates_alone_engines_accept_whom_their_own_ca_signed() -> None:
    found = objects(FILES["engine certificates"])
    made = {one["metadata"]["name"]: one["spec"] for one in of(found, "Certificate")}
    own = {name: one for name, one in made.items() if one["issuerRef"]["kind"] == "Issuer"}
    assert set(own) == {
        "gemstead-engines-ca",
        "gemstead-engines-gateway",
        "gemstead-engines-watcher",
        "gemstead-gemma-4-31b-tls",
    }
    assert own["gemstead-engines-gateway"]["usages"] == ["client auth"]
    issuers = {one["metadata"]["name"]: one["spec"] for one in of(found, "Issuer")}
    assert issuers["gemstead-engines"]["ca"]["secretName"] == own["gemstead-engines-ca"]["secretName"]
    engine = container_of(found)
    line = engine["command"]
    assert line[line.index("--ssl-cert-reqs") + 1] == "2" and "--enable-ssl-refresh" in line
    (mount,) = (one for one in engine["volumeMounts"] if one["name"] == "engine-tls")
    assert line[line.index("--ssl-ca-certs") + 1] == mount["mountPath"] + "/ca.crt"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        compile(engine[probe]["exec"]["command"][2], probe, "exec")  # the kubelet has no certificate to show
    (endpoint,) = (
        parse(of(found, "ConfigMap")[0]["data"]["gemstead.yaml"], "gemstead.yaml").models[0].endpoints
    )
    assert endpoint.url == "https://gemstead-gemma-4-31b:8000"
    assert "gemstead-gemma-4-31b" in own["gemstead-gemma-4-31b-tls"]["dnsNames"]
    gateway = of(found, "StatefulSet")[0]["spec"]["template"]["spec"]
    (mounted,) = (one for one in gateway["containers"][0]["volumeMounts"] if one["name"] == "engine-tls")
    assert endpoint.tls is not None and endpoint.tls.key == mounted["mountPath"] + "/tls.key"
    (held,) = (one for one in gateway["volumes"] if one["name"] == "engine-tls")
    assert held["secret"]["secretName"] == own["gemstead-engines-gateway"]["secretName"]
    (scraped,) = of(found, "ServiceMonitor")[0]["spec"]["endpoints"]
    assert scraped["tlsConfig"]["serverName"] in own["gemstead-gemma-4-31b-tls"]["dnsNames"]
    assert scraped["tlsConfig"]["keySecret"]["name"] == own["gemstead-engines-watcher"]["secretName"]


def test_an_engine_that_asks_no_caller_is_said_to_ask_none() -> None:
    made = bundle(FILES["engine certificates, llama.cpp"])
    line = container_of(built(made.files))["command"]
    assert line[line.index("--ssl-cert-file") + 1].endswith("tls.crt") and "--ssl-cert-reqs" not in line
    assert any("asks callers for none" in note for note in made.notes)
    assert any("rollout restart" in note for note in made.notes)
    assert not any("asks callers" in note for note in bundle(FILES["engine certificates"]).notes)


@pytest.mark.parametrize(
    ("more", "kubernetes", "said"),
    [
        ({}, {"mesh": "istio"}, "mesh encrypts already"),
        ({}, {"monitoring": "google"}, "Google's collector"),
        ({}, {"routes": INFERENCE}, "inference Gateway"),
        ({"engine": "ollama"}, {}, "speaks no TLS"),
    ],
)
def test_what_cannot_be_had_with_engine_certificates_is_refused(
    more: Object, kubernetes: Object, said: str
) -> None:
    with pytest.raises(Refused, match=said):
        bundle(
            file(
                "L4",
                1,
                "gemma-4-e4b",
                kubernetes={"engine_tls": "cert-manager", **kubernetes},
                **more,
                **HOST,
            )
        )


def gateway_spec(folder: str) -> Spec:
    found = objects(FILES["regions"], folder)
    text = next(one for one in of(found, "ConfigMap"))["data"]["gemstead.yaml"]
    return parse(text, "gemstead.yaml")


def test_what_has_no_room_goes_to_the_burst_cluster_and_comes_to_no_ring() -> None:
    here = gateway_spec("overlays/us-east")
    assert {one.name for one in here.models} == {"gemma-4-31b", "gemma-4-31b-burst"}
    (route,) = here.routes
    assert route.when.models == ("gemma-4-31b",) and route.fallback == ("gemma-4-31b-burst",)
    (there,) = next(one for one in here.models if one.name == "gemma-4-31b-burst").endpoints
    assert (there.url, there.region, there.served_model) == ("https://burst.acme.com", "burst", "gemma-4-31b")
    for folder in (
        "overlays/burst",
        "overlays/eu",
    ):  # the one is the other cluster, the other must not send anything out
        alone = gateway_spec(folder)
        assert {one.name for one in alone.models} == {"gemma-4-31b"} and not alone.routes
    marks = {
        folder: of(objects(FILES["regions"], folder), "StatefulSet")[0]["spec"]["template"]["metadata"][
            "annotations"
        ]
        for folder in ("overlays/us-east", "overlays/burst")
    }
    assert marks["overlays/us-east"] != marks["overlays/burst"]


def stateful(said: Object) -> Object:
    (found,) = of(objects(said), "StatefulSet")
    return found["spec"]


def test_several_gateways_share_a_store_and_keep_a_disk_each() -> None:
    spec = stateful(FILES["several gateways"])
    assert spec["replicas"] == 3
    assert spec["podManagementPolicy"] == "Parallel" and spec["updateStrategy"]["type"] == "RollingUpdate"
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    pod = spec["template"]["spec"]
    assert {one["topologyKey"] for one in pod["topologySpreadConstraints"]} == {
        "topology.kubernetes.io/zone", "kubernetes.io/hostname",
    }  # fmt: skip
    assert pod["terminationGracePeriodSeconds"] > 600 and pod["containers"][0]["lifecycle"]["preStop"]
    said = yaml.safe_load(
        next(one for one in of(objects(FILES["several gateways"]), "ConfigMap"))["data"]["gemstead.yaml"]
    )
    assert said["ledger"]["store"] == "file:/run/secrets/gemstead/GEMSTEAD_STORE_URL"
    assert "batch" not in said  # batches are in the store as well
    assert "postgresql://" not in json.dumps(objects(FILES["several gateways"]))


def test_from_one_gateway_to_several_is_an_apply() -> None:
    """Only what the API server lets change in a StatefulSet differs."""
    one, many = stateful(FILES["31b on eight"]), stateful(FILES["several gateways"])
    may = {
        "replicas",
        "template",
        "updateStrategy",
        "minReadySeconds",
        "persistentVolumeClaimRetentionPolicy",
    }
    assert {name for name in one.keys() | many.keys() if one.get(name) != many.get(name)} <= may
    assert one["replicas"] == 1


def test_a_large_spool_has_a_disk_that_holds_it() -> None:
    said = copy.deepcopy(FILES["several gateways"])
    said["ledger"]["spool_mib"] = 30_000
    (claim,) = stateful(said)["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "32Gi"


def test_gateways_reach_what_they_share_and_nothing_more() -> None:
    policies = of(objects(FILES["several gateways, scaled"]), "NetworkPolicy")
    rules = next(one for one in policies if one["metadata"]["name"] == "gemstead-gateway")["spec"]["egress"]
    assert {
        "to": [{"ipBlock": {"cidr": "10.0.7.4/32"}}],
        "ports": [{"port": 5432, "protocol": "TCP"}],
    } in rules
    redis = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "redis"}}}
    assert {"to": [redis], "ports": [{"port": 6379, "protocol": "TCP"}]} in rules
    engines = next(one for one in policies if one["metadata"]["name"] == "gemstead-engines")
    assert "5432" not in json.dumps(engines)
    (secret,) = of(objects(FILES["several gateways, scaled"]), "ExternalSecret")
    assert {one["secretKey"] for one in secret["spec"]["data"]} == {
        "GEMSTEAD_STORE_URL",
        "GEMSTEAD_STORE_SECRET",
    }


def test_the_number_of_gateways_follows_their_processors() -> None:
    found = objects(FILES["several gateways, scaled"])
    scaler = next(one for one in of(found, "HorizontalPodAutoscaler"))["spec"]
    assert scaler["scaleTargetRef"]["kind"] == "StatefulSet"
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 8)
    assert scaler["metrics"][0]["resource"]["name"] == "cpu"
    assert "replicas" not in stateful(FILES["several gateways, scaled"])  # the autoscaler's to say
    assert not [
        one
        for one in of(objects(FILES["hpa"]), "HorizontalPodAutoscaler")
        if "gateway" in str(one["spec"]["scaleTargetRef"])
    ]


def test_several_gateways_are_told_what_they_do_not_share() -> None:
    notes = " ".join(bundle(FILES["several gateways"]).notes)
    assert "traffic.sharing" in notes and "batch" not in notes
    assert "ledger.store" in " ".join(bundle(file("H100", 8, gateways=2)).notes)


def test_pods_in_google_s_cluster_act_as_the_accounts_that_terraform_makes() -> None:
    said = file("H100", 8, cloud={"project": "acme", "region": "europe-west4"},
                kubernetes={"routes": {"proxies": ["10.1.0.0/23"]}}, **HOST)  # fmt: skip
    found = built(bundle(said, "gke").files)
    accounts = {
        one["metadata"]["name"]: one["metadata"].get("annotations", {}) for one in of(found, "ServiceAccount")
    }
    at = "acme.iam.gserviceaccount.com"
    assert accounts["gemstead-gateway"] == {"iam.gke.io/gcp-service-account": f"gemstead-gateway@{at}"}
    assert accounts["gemstead-engine"] == {"iam.gke.io/gcp-service-account": f"gemstead-engines@{at}"}
    assert accounts["gemstead-models"] == {}
    ground = "".join(target("terraform").render(made(said)).files.values())
    for name in ("gateway", "engine"):
        assert f"[${{var.namespace}}/${{var.name}}-{name}]" in ground
    assert "${var.name}-engines" in ground and "${var.name}-gateway" in ground


def test_the_gateway_reaches_google_only_when_the_file_names_something_there() -> None:
    def ways_out(said: Object) -> list[Object]:
        found = built(bundle(said, "gke").files)
        policy = next(
            one for one in of(found, "NetworkPolicy") if one["metadata"]["name"] == "gemstead-gateway"
        )
        return [to for rule in policy["spec"]["egress"] for to in rule["to"] if "ipBlock" in to]

    said = file("H100", 8, kubernetes={"routes": {"proxies": ["10.1.0.0/23"]}}, **HOST)
    assert not ways_out(said)
    said["models"].append(
        {"name": "mine", "endpoints": [{"url": "http://10.0.0.5:80", "api_key": "gcp-sm:acme/key"}]}
    )
    assert {"ipBlock": {"cidr": "169.254.169.254/32"}} in ways_out(said)


def test_google_s_autoscaler_reads_one_series_of_all_gateways() -> None:
    said = file("H100", 8, kubernetes={"scaling": "hpa", "routes": {"proxies": ["10.1.0.0/23"]}}, **HOST)
    found = built(bundle(said, "gke").files)
    (scaler,) = of(found, "HorizontalPodAutoscaler")
    (outside,) = (one["external"] for one in scaler["spec"]["metrics"] if one["type"] == "External")
    (rule,) = (
        one for group in of(found, "Rules")[0]["spec"]["groups"] for one in group["rules"] if "record" in one
    )
    assert outside["metric"]["name"] == f"prometheus.googleapis.com|{rule['record']}|gauge"
    assert rule["expr"] == "max by (model) (gemstead_desired_replicas)"
    assert outside["metric"]["selector"]["matchLabels"] == {"metric.labels.model": "gemma-4-31b"}
    assert not [fault for one in found for fault in faults(one)]


def test_several_models_are_told_apart_by_what_bodies_say() -> None:
    assert len(of(objects(FILES["gke, two models"]), "GCPRoutingExtension")) == 1
    assert not of(objects(FILES["gke"]), "GCPRoutingExtension")  # one model: no body has to be read
    said = {**FILES["gke, two models"], "deploy": {**FILES["gke, two models"]["deploy"], "kubernetes": {
        "routes": {"inference": {}}}}}  # fmt: skip
    assert any("X-Gateway-Model-Name" in note for note in bundle(said).notes)


def test_the_picker_reads_its_file() -> None:
    found = [
        one
        for one in of(objects(FILES["everything"]), "ConfigMap")
        if one["metadata"]["name"].endswith("-picker")
    ]
    read = epp.parse(found[0]["data"]["picker.yaml"], "picker.yaml")
    assert read.pool == "gemstead-gemma-4-31b" and read.engine == "vllm" and read.endpoints is None


@pytest.mark.parametrize(
    "name", ["e2b on a processor", "31b on eight", "ollama", "amd", "mig", "tpu", "31b over two nodes"]
)
def test_an_engine_is_given_the_time_its_start_takes(name: str) -> None:
    for pool in made(FILES[name]).pools:
        found = dict(pods(objects(FILES[name])))
        container = next(pod for who, pod in found.items() if pool.name in who)["containers"][0]
        start = container["startupProbe"]
        assert start["periodSeconds"] * start["failureThreshold"] >= pool.startup.allowance_s >= 300


@pytest.mark.parametrize(
    ("name", "more", "less"),
    [
        ("31b on eight", 0, 1),  # four replicas of two cards take all eight
        ("e4b on an L4", 0, 1),  # one replica on the only card: there is a gap, and the reason says so
        ("e2b on a processor", 1, 0),
        ("spot", 0, 1),
    ],
)
def test_an_update_asks_for_no_more_cards_than_there_are(name: str, more: int, less: int) -> None:
    workload = of(objects(FILES[name]), "Deployment")[0]
    assert workload["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": more, "maxUnavailable": less}


def test_spare_cards_are_used_for_updates() -> None:
    said = file("H100", 8)
    said["models"][0]["replicas"] = 3
    assert of(objects(said), "Deployment")[0]["spec"]["strategy"]["rollingUpdate"] == {
        "maxSurge": 1,
        "maxUnavailable": 0,
    }


def test_a_replica_over_nodes_is_one_group_that_starts_and_ends_together() -> None:
    group = of(objects(FILES["31b over two nodes"]), "LeaderWorkerSet")[0]["spec"]["leaderWorkerTemplate"]
    assert group["size"] == 2 and group["restartPolicy"] == "RecreateGroupOnPodRestart"
    leader, worker = (group[f"{part}Template"]["spec"]["containers"][0] for part in ("leader", "worker"))
    assert leader["resources"]["limits"]["nvidia.com/gpu"] == "4"
    assert "--headless" in worker["command"] and "--headless" not in leader["command"]
    assert "ports" not in worker and "readinessProbe" not in worker
    assert "$(LWS_LEADER_ADDRESS)" in leader["command"]


@pytest.mark.parametrize(
    ("name", "resource"),
    [
        ("amd", "amd.com/gpu"),
        ("tpu", "google.com/tpu"),
        ("mig", "nvidia.com/mig-2g.20gb"),
        ("12b on an L40S", "nvidia.com/gpu"),
    ],
)
def test_cards_are_asked_for_by_their_makers_name(name: str, resource: str) -> None:
    container = next(pod for who, pod in pods(objects(FILES[name])) if "gemma" in who)["containers"][0]
    assert int(container["resources"]["limits"][resource]) >= 1


def test_cards_by_claim_are_not_asked_for_twice() -> None:
    found = objects(FILES["dra"])
    pod = next(pod for who, pod in pods(found) if "gemma" in who)
    assert not [one for one in pod["containers"][0]["resources"]["limits"] if "gpu" in one]
    assert (
        pod["resourceClaims"][0]["resourceClaimTemplateName"]
        == of(found, "ResourceClaimTemplate")[0]["metadata"]["name"]
    )


@pytest.mark.parametrize("name", ["hpa", "everything"])
def test_nothing_scales_by_how_busy_a_card_is(name: str) -> None:
    found = of(objects(FILES[name]), "HorizontalPodAutoscaler") + of(objects(FILES[name]), "ScaledObject")
    assert found
    text = json.dumps(found)
    assert "utilization" not in text.lower().replace("kv_cache", "") and "DCGM" not in text
    assert (
        "waiting" in text
        and "running" in text
        and "kv_cache_usage" in text
        and re.search(r"gemstead_(desired_replicas|queue_waiting)", text)
    )
    assert not any("replicas" in one["spec"] for one in of(objects(FILES[name]), "Deployment") if "gemma" in
                   one["metadata"]["name"] and "picker" not in one["metadata"]["name"])  # fmt: skip


def test_a_sovereign_region_has_no_way_out() -> None:
    found = objects(FILES["regions"], "overlays/eu")
    open_ = [rule for one in of(found, "NetworkPolicy") for rule in one["spec"].get("egress", [])
             if any(to.get("ipBlock", {}).get("cidr") == "0.0.0.0/0" for to in rule.get("to", []))]  # fmt: skip
    assert not open_
    for who, pod in pods(found):
        assert pod["nodeSelector"]["topology.kubernetes.io/region"] == "eu", who
        assert all(one["image"].startswith("registry.eu.acme.com/") for one in pod["containers"]), who


def test_a_region_that_bursts_starts_at_nothing() -> None:
    found = objects(FILES["regions"], "overlays/burst")
    assert {one["spec"]["replicas"] for one in of(found, "Deployment")} == {0}


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (file("L4", 8, tensor_parallel=8, kubernetes={"cards_per_node": 4}), "multi_node"),
        (file("H100", 8, kubernetes={"hours": [{}]}), "keda"),
        (file("H100", 8, kubernetes={"routes": {}}), "deploy.host"),
        (file("H100", 8, kubernetes={"routes": {"flavour": "gke"}}, **HOST), "proxy-only"),
        (STORE | file("H100", 8), "deploy.kubernetes.stores"),
        ({"limits": {"store": "env:REDIS_URL"}} | file("H100", 8), "limits.store: the network"),
        (file("H100", 8, kubernetes={"regions": [{"name": "eu", "sovereign": True}]}), "registry"),
        (file("H100", 8, kubernetes={"regions": [{"name": "e", "sovereign": True, "registry": "r"}]}), "model_image"),
        (file("H100", 8, kubernetes={"routes": {"armor": {"template": "projects/a/locations/b/templates/c"}}}, **HOST),
         "Model Armor"),
        (file("L4", 1, "gemma-4-e4b", engine="ollama", kubernetes={"routes": {"inference": {}}}, **HOST), "Ollama"),
        ({**file("H100", 8), "deploy": {"name": "a" * 41}}, "at most 40"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_with_what_to_do(said: Object, why: str) -> None:
    with pytest.raises(Refused, match=why):
        bundle(said)


def test_weights_are_found_where_they_were_put() -> None:
    mounted = next(pod for who, pod in pods(objects(FILES["bucket, mounted"])) if "gemma" in who)[
        "containers"
    ][0]
    assert mounted["command"][2] == "/models/google/gemma-4-31B-it"
    assert any('"/models/google/gemma-4-31B-it-assistant"' in word for word in mounted["command"])
    streamed = next(pod for who, pod in pods(objects(FILES["bucket, streamed"])) if "gemma" in who)[
        "containers"
    ][0]
    assert streamed["command"][2] == "s3://acme-models/google/gemma-4-31B-it"
    assert streamed["command"][streamed["command"].index("--load-format") + 1] == "runai_streamer"
    volume = next(pod for who, pod in pods(objects(FILES["31b on eight"])) if "gemma" in who)
    job = of(objects(FILES["31b on eight"]), "Job")[0]["spec"]["template"]["spec"]["containers"][0][
        "command"
    ][2]
    mark = volume["initContainers"][0]["command"][2].split("'")[1]
    assert mark in job and "'models', 'verify'" in job


def test_another_job_has_another_name() -> None:
    names = set()
    for more in (
        {},
        {"hub_token": "env:HF_TOKEN"},
        {"registry": "ghcr.io/acme"},
        {"kubernetes": {"mesh": "istio"}},
    ):
        names.add(of(objects(file("H100", 8, **more)), "Job")[0]["metadata"]["name"])
    assert len(names) == 4


def test_programs_in_pods_are_python() -> None:
    for name in ("31b on eight", "two models"):
        for who, pod in pods(objects(FILES[name])):
            for container in [*pod.get("initContainers", []), *pod["containers"]]:
                probe = container.get("startupProbe", {}).get("exec", {}).get("command", [])
                for words in (container.get("command", []), probe):
                    if "-c" in words:
                        compile(words[words.index("-c") + 1], who, "exec")


def test_the_job_says_words_that_gemstead_knows() -> None:
    parser = argparse.ArgumentParser()
    models.add(parser.add_subparsers())
    assert parser.parse_args(["models", "pull", "google/gemma-4-31B-it", "--include", "*.gguf"]).include == [
        "*.gguf"
    ]
    assert parser.parse_args(["models", "verify"])


def test_alerts_are_rules_for_prometheus(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    rule = of(objects(FILES["everything"]), "PrometheusRule")[0]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule["spec"]), "utf-8")
    done = subprocess.run(["promtool", "check", "rules", str(tmp_path / "rules.yaml")], capture_output=True, text=True,
                          timeout=60, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(
    model=st.sampled_from(["gemma-4-e2b", "gemma-4-e4b", "gemma-4-12b", "gemma-4-26b", "gemma-4-31b"]),
    card=st.sampled_from([("", None), ("L40S", 4), ("H100", 8), ("MI300X", 4), ("B70", 4), ("B200", None)]),
    spot=st.booleans(),
    kubernetes=st.fixed_dictionaries(
        {
            "scaling": st.sampled_from(["off", "hpa", "keda"]),
            "monitoring": st.sampled_from(["off", "prometheus-operator", "google"]),
            "mesh": st.sampled_from(["off", "istio", "linkerd"]),
            "issuer": st.sampled_from(["", "letsencrypt"]),
            "rollouts": st.sampled_from(["off", "canary", "blue-green"]),
            "devices": st.sampled_from(["plugin", "dra"]),
            "routes": st.one_of(
                st.none(),
                st.fixed_dictionaries(
                    {
                        "flavour": st.sampled_from(["gke", "istio", "kgateway", "envoy-gateway"]),
                        "proxies": st.just(["10.129.0.0/23"]),
                        "inference": st.sampled_from([None, {}, {"picker": "llm-d"}]),
                    }
                ),
            ),
        }
    ),
    target_name=st.sampled_from(["kubernetes", "gke"]),
)
def test_whatever_is_combined_a_strict_server_takes_it_and_it_is_hardened(
    model: str, card: tuple[str, int | None], spot: bool, kubernetes: Object, target_name: str
) -> None:
    if target_name == "gke" and kubernetes["routes"]:
        kubernetes = {**kubernetes, "routes": {**kubernetes["routes"], "flavour": "gke"}}
    if target_name == "gke" and not kubernetes["routes"]:
        kubernetes = {**kubernetes, "routes": {"proxies": ["10.129.0.0/23"]}}
    kubernetes = {name: value for name, value in kubernetes.items() if value is not None}
    found = built(bundle(file(*card, model, spot=spot, kubernetes=kubernetes, **HOST), target_name).files)
    wrong = [fault for one in found for fault in faults(one)] + hardening.faults(found)
    assert not wrong, "\n".join(wrong)
