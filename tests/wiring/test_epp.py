"""A whole picker: its file or a pretend cluster on one side, a gRPC client that speaks like a gateway on the other."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

pytest.importorskip("grpc", reason="needs gemstead[epp]")
pytest.importorskip("envoy.service.ext_proc.v3", reason="needs gemstead[epp]")

import grpc
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gemstead.spec.epp import parse
from gemstead.spec.fault import SpecError
from gemstead.testing.cluster_watch import WatchedCluster
from gemstead.testing.engine import FakeEngine
from gemstead.wiring.epp import Picking, Ports
from gemstead.wiring.epp_sources import ClusterSource, FileSource

METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
KINDS = {
    "pools": "/apis/inference.networking.k8s.io/v1/namespaces/default/inferencepools",
    "pods": "/api/v1/namespaces/default/pods",
    "objectives": "/apis/llm-d.ai/v1alpha2/namespaces/default/inferenceobjectives",
    "old objectives": "/apis/inference.networking.x-k8s.io/v1alpha2/namespaces/default/inferenceobjectives",
    "rewrites": "/apis/llm-d.ai/v1alpha2/namespaces/default/inferencemodelrewrites",
}
LOCAL = 'listen: "127.0.0.1:0"\nhealth: "127.0.0.1:0"\nmetrics: "127.0.0.1:0"\ntls: off\nscrape_s: 0.1\n'


def pod(name: str, port_free_ip: str = "127.0.0.1", ready: str = "True") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {"app": "gemma"}},
        "status": {
            "podIP": port_free_ip,
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": ready}],
        },
    }


def pool(port: int) -> dict[str, Any]:
    spec = {"selector": {"matchLabels": {"app": "gemma"}}, "targetPorts": [{"number": port}]}
    return {"metadata": {"name": "gemma"}, "spec": spec}


async def pick(port: int, headers: dict[str, str] | None = None) -> Any:
    """The first answer to a small chat request."""
    head, body = ext_proc.ProcessingRequest(), ext_proc.ProcessingRequest()
    for name, value in {":method": "POST", ":path": "/v1/chat/completions", **(headers or {})}.items():
        header = head.request_headers.headers.headers.add()
        header.key, header.raw_value = name, value.encode()
    body.request_body.body = b'{"model":"gemma","messages":[{"role":"user","content":"hi"}]}'
    body.request_body.end_of_stream = True
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.stream_stream(METHOD)()
        await call.write(head.SerializeToString())
        await call.write(body.SerializeToString())
        said = ext_proc.ProcessingResponse.FromString(await call.read())
        call.cancel()
        return said


def destination(said: Any) -> str:
    for option in said.request_headers.response.header_mutation.set_headers:
        if option.header.key == "x-gateway-destination-endpoint":
            return option.header.raw_value.decode()
    return ""


@contextlib.asynccontextmanager
async def running(picking: Picking) -> AsyncIterator[Ports]:
    ports = await picking.start()
    try:
        yield ports
    finally:
        await picking.kill()


async def until(holds: Callable[[], bool], within_s: float = 15.0) -> None:
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.02)


async def health(port: int, service: str) -> int:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status


async def test_pods_of_a_pool_are_found_and_followed():
    async with FakeEngine() as engine, WatchedCluster(*KINDS.values()) as cluster:
        spec = parse(f"{LOCAL}pool: gemma\n", "epp.yaml")
        picking = Picking(spec, ClusterSource(spec, cluster.access))
        async with running(picking) as ports, httpx2.AsyncClient(trust_env=False) as http:
            await until(lambda: picking.desk.known)
            assert "no InferencePool gemma" in picking.source.trouble()
            assert (await pick(ports.grpc)).immediate_response.status.code == 503
            await cluster.put(KINDS["pods"], pod("a"))
            await cluster.put(KINDS["pods"], pod("b", "127.0.0.2", ready="False"))
            await cluster.put(KINDS["pools"], pool(engine.port))
            await until(lambda: picking.desk.ready == 1)
            assert destination(await pick(ports.grpc)) == f"127.0.0.1:{engine.port}"
            await cluster.put(KINDS["pods"], pod("b", "127.0.0.2"))
            await until(lambda: picking.desk.ready == 2)
            await cluster.delete(KINDS["pods"], "a")
            await until(lambda: [e.name for e in picking.desk.endpoints] == ["b"])
            assert destination(await pick(ports.grpc)) == f"127.0.0.2:{engine.port}"
            cluster.away = True
            await cluster.cut()
            await until(lambda: bool(picking.source.trouble()))
            assert destination(await pick(ports.grpc)) == f"127.0.0.2:{engine.port}", "what was known stays"
            page = (await http.get(f"http://127.0.0.1:{ports.http}/metrics")).text
            assert 'inference_pool_ready_pods{name="gemma"} 1' in page
            shown = (await http.get(f"http://127.0.0.1:{ports.http}/endpoints")).json()
            assert [one["name"] for one in shown] == ["b"]
            assert (await http.get(f"http://127.0.0.1:{ports.http}/readyz")).status_code == 200


async def test_objectives_and_rewrites_of_both_groups_count():
    async with FakeEngine() as engine, WatchedCluster(*KINDS.values()) as cluster:
        spec = parse(f"{LOCAL}pool: gemma\nobjectives: {{mine: critical}}\n", "epp.yaml")
        picking = Picking(spec, ClusterSource(spec, cluster.access))
        async with running(picking) as ports:
            await cluster.put(KINDS["pools"], pool(engine.port))
            await cluster.put(KINDS["pods"], pod("a"))
            reference = {"name": "gemma"}
            new = {"metadata": {"name": "chat"}, "spec": {"priority": 7, "poolRef": reference}}
            old = {"metadata": {"name": "batch"}, "spec": {"priority": -3, "poolRef": reference}}
            rule = {
                "matches": [{"model": {"type": "Exact", "value": "gemma"}}],
                "targets": [{"modelRewrite": "google/gemma-4-31B-it"}],
            }
            rewrite = {"metadata": {"name": "r"}, "spec": {"poolRef": reference, "rules": [rule]}}
            await cluster.put(KINDS["objectives"], new)
            await cluster.put(KINDS["old objectives"], old)
            await cluster.put(KINDS["rewrites"], rewrite)
            wanted = {"mine": 1, "chat": 7, "batch": -3}
            await until(lambda: picking.desk.rules.objectives == wanted and bool(picking.desk.rules.rewrites))
            await until(lambda: picking.desk.ready == 1)
            said = await pick(ports.grpc)
            headers = {
                o.header.key: o.header.raw_value
                for o in said.request_headers.response.header_mutation.set_headers
            }
            assert headers["x-gateway-model-name"] == b"google/gemma-4-31B-it"


async def test_a_files_endpoints_are_followed_and_a_broken_file_changes_nothing(tmp_path: Path):
    async with FakeEngine() as one, FakeEngine() as other:
        file = tmp_path / "endpoints.yaml"

        def write(*engines: FakeEngine) -> None:
            lines = "".join(f'- address: "127.0.0.1:{engine.port}"\n' for engine in engines)
            file.write_text(f"{LOCAL}endpoints:\n{lines}")

        write(one)
        spec = parse(file.read_text(), "endpoints.yaml")
        picking = Picking(spec, FileSource(spec, file, lambda: parse(file.read_text(), "endpoints.yaml")))
        async with running(picking) as ports:
            assert destination(await pick(ports.grpc)) == f"127.0.0.1:{one.port}"
            write(one, other)
            await until(lambda: picking.desk.ready == 2)
            file.write_text("endpoints: nothing\n")
            await until(lambda: bool(picking.source.trouble()))
            assert picking.desk.ready == 2
            await other.stop()
            await until(lambda: picking.desk.ready == 1)  # it no longer answers
            await other.start()
            await until(lambda: picking.desk.ready == 2)


async def test_what_engines_say_of_themselves_reaches_the_picker(tmp_path: Path):
    page = (
        "vllm:num_requests_running 3\nvllm:num_requests_waiting 2\nvllm:kv_cache_usage_perc 0.5\n"
        'vllm:cache_config_info{block_size="16",num_gpu_blocks="1000"} 1\n'
        'vllm:lora_requests_info{running_lora_adapters="a,b",waiting_lora_adapters="c"} 2\n'
        'vllm:lora_requests_info{running_lora_adapters="old",waiting_lora_adapters=""} 1\n'
    )
    async with FakeEngine() as engine:
        engine.metrics_text = page
        file = tmp_path / "endpoints.yaml"
        file.write_text(f'{LOCAL}endpoints: [{{address: "127.0.0.1:{engine.port}"}}]\n')
        spec = parse(file.read_text(), "endpoints.yaml")
        picking = Picking(spec, FileSource(spec, file, lambda: spec))
        async with running(picking):
            (endpoint,) = picking.desk.endpoints
            await until(lambda: endpoint.load is not None and endpoint.facts.kv_tokens == 16_000)
            load = endpoint.load
            assert load is not None
            assert (load.running, load.waiting, load.kv_used) == (3, 2, 0.5)
            assert picking.desk.adapters == {"a", "b", "c"}
            assert 'cache_utilization{name="pool"} 0.5' in picking.metrics()


async def test_the_command_listens_says_where_and_drains_on_a_signal(tmp_path: Path):
    async with FakeEngine() as engine:
        file = tmp_path / "endpoints.yaml"
        file.write_text(f'endpoints: [{{address: "127.0.0.1:{engine.port}"}}]\n')
        words = ["--file", str(file), "--plain"]
        for option in ("--listen", "--health", "--metrics"):
            words += [option, "127.0.0.1:0"]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gemstead",
            "epp",
            *words,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ},
        )
        try:
            assert process.stdout is not None
            line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
            numbers = [int(word.strip(",")) for word in line.split() if word.strip(",\n").isdigit()]
            assert destination(await pick(numbers[0])) == f"127.0.0.1:{engine.port}"
            serving = health_pb2.HealthCheckResponse.SERVING
            for service in ("liveness", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor"):
                assert await health(numbers[1], service) == serving
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 20) == 0
        finally:
            if process.returncode is None:
                process.kill()


async def test_whoever_may_not_read_the_older_group_picks_all_the_same():
    kinds = [path for name, path in KINDS.items() if name in ("pools", "pods")]
    async with FakeEngine() as engine, WatchedCluster(*kinds) as cluster:
        cluster.forbidden = True  # what is not installed is 403 there, and not 404
        spec = parse(f"{LOCAL}pool: gemma\n", "epp.yaml")
        picking = Picking(spec, ClusterSource(spec, cluster.access))
        async with running(picking) as ports:
            await until(lambda: picking.desk.known)
            await cluster.put(KINDS["pools"], pool(engine.port))
            await cluster.put(KINDS["pods"], pod("a"))
            await until(lambda: picking.desk.ready == 1)
            assert destination(await pick(ports.grpc)) == f"127.0.0.1:{engine.port}"
            assert not picking.source.trouble()


async def test_the_command_finds_a_cluster_by_its_kubeconfig_and_a_second_signal_shortens_the_end(
    tmp_path: Path,
):
    async with FakeEngine() as engine, WatchedCluster(*KINDS.values(), token="t") as cluster:
        await cluster.put(KINDS["pools"], pool(engine.port))
        await cluster.put(KINDS["pods"], pod("a"))
        config = tmp_path / "kubeconfig"
        config.write_text(
            "current-context: c\ncontexts: [{name: c, context: {cluster: k, user: u, namespace: default}}]\n"
            f'clusters: [{{name: k, cluster: {{server: "http://127.0.0.1:{cluster.port}"}}}}]\n'
            "users: [{name: u, user: {token: t}}]\n"
        )
        words = ["--pool", "gemma", "--kubeconfig", str(config), "--plain"]
        for option in ("--listen", "--health", "--metrics"):
            words += [option, "127.0.0.1:0"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gemstead", "epp", *words, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
            port = next(int(word) for word in line.replace(",", " ").split() if word.isdigit())
            async with asyncio.timeout(15):
                while destination(await pick(port)) != f"127.0.0.1:{engine.port}":
                    await asyncio.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            assert "finishing" in (await asyncio.wait_for(process.stdout.readline(), 10)).decode()
            assert destination(await pick(port)), "until gateways have heard of it, it takes calls"
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 4) == 0
        finally:
            if process.returncode is None:
                process.kill()


def test_what_is_rendered_for_a_cluster_is_taken():
    golden = Path(__file__).parents[1] / "golden" / "kubernetes"
    files = [file for file in golden.rglob("inference.yaml") if "picker.yaml: |" in file.read_text("utf-8")]
    assert files
    for file in files:
        for document in yaml.safe_load_all(file.read_text("utf-8")):
            if document and "picker.yaml" in (document.get("data") or {}):
                text = document["data"]["picker.yaml"]
                if "pool:" in text.partition("\n")[0]:  # llm-d's has another form
                    assert parse(text, "picker.yaml").pool


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("endpoints: [{address: gpu-1:8000}]", "endpoints[0].address: write an IP address"),
        ("endpoints: [{adress: '10.0.0.1:1'}]", "did you mean `address`?"),
        ("polcy: sticky", "did you mean `policy`?"),
        ("objectives: {a: urgent}", "objectives.a"),
        ("- 1", "does not hold fields"),
    ],
)
def test_a_wrong_file_is_refused_with_the_line_and_what_to_do(text: str, says: str):
    with pytest.raises(SpecError) as refused:
        parse(text, "epp.yaml")
    assert says in str(refused.value)
    assert str(refused.value).startswith("epp.yaml")
