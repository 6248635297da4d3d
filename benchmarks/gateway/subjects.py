"""The gateways that are compared, and how each is started: its command, its settings, its best known form.

Every subject gets the same sixteen addresses of one mock engine, one worker or thread, and upstream
keep-alive. Peers run in their plain mode: no key (LiteLLM will not start without one), no limits, no log.
Gemstead runs as it would be deployed: keys, limits, prefix scoring, audit to SQLite and metrics.

`prepare` writes what a subject needs into its own folder and returns a `Launch`; nothing here starts anything.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gateway.peers import PEERS, VENVS, compiled_python, system_program
from benchmarks.gateway.tools import MODEL, CannotRun

UNLIMITED = 1_000_000_000  # a limit that is checked at every call and never reached


@dataclass(frozen=True)
class Place:
    """Where one subject runs."""

    folder: Path
    engine_ports: Sequence[int]
    port: int
    workers: int = 1


@dataclass(frozen=True)
class Launch:
    """What to run. With several commands, each is a worker that shares the port."""

    commands: Sequence[Sequence[str]]
    key: str = ""
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    name: str
    about: str
    prepare: Callable[[Place], Launch]
    missing: Callable[[], str]  # "" if it can run here, otherwise what to do
    named_only: bool = False  # left out unless asked for by name
    slow: bool = False  # saturates early: only the scenarios that say so are run
    body_limit: int = 0  # the limit that its settings below state, in bytes; 0: not stated


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# ---- Gemstead ----


def _gemstead(place: Place) -> Launch:
    return _worker(place, str(compiled_python()))


def _gemstead_pure(place: Place) -> Launch:
    return _worker(place, sys.executable)


def _worker(place: Place, python: str) -> Launch:
    import msgspec

    from gemstead.gateway.settings import GatewaySettings, Pool
    from gemstead.ledger.keys import Grant, open_keys
    from gemstead.traffic.caller import RateLimit
    from gemstead.traffic.endpoint import EndpointFacts

    pepper, keys = "5e" * 32, place.folder / "keys.db"
    key = (
        open_keys(keys, bytes.fromhex(pepper))
        .create(Grant(tenant="bench", app="load"), now=time.time())
        .secret
    )
    settings = GatewaySettings(
        port=place.port,
        workers=place.workers,
        pools=(Pool(name=MODEL),),
        endpoints=tuple(
            EndpointFacts(name=f"engine-{n}", pool=MODEL, host="127.0.0.1", port=port)
            for n, port in enumerate(place.engine_ports)
        ),
        keys_path=str(keys),
        ledger_path=str(place.folder / "ledger.db"),
        hash_key="a7" * 32,
        pepper=pepper,
        limit=RateLimit(
            requests_per_minute=UNLIMITED, tokens_per_minute=UNLIMITED * 1000, concurrent=UNLIMITED
        ),
    )
    path = place.folder / "settings.json"
    path.write_bytes(msgspec.json.encode(settings))
    command = [python, "-I", "-m", "gemstead.gateway.worker", "--settings", str(path)]
    return Launch([command] * place.workers, key=key)


def _gemstead_serve(place: Place) -> Launch:
    """The whole service from its file: head, supervision and console beside the workers."""
    file = place.folder / "gemstead.yaml"
    urls = [{"url": f"http://127.0.0.1:{port}", "dialect": "vllm"} for port in place.engine_ports]
    spec = {
        "models": [{"name": MODEL, "endpoints": urls}],
        "gateway": {"listen": f"127.0.0.1:{place.port}", "workers": place.workers},
        "admin": {"listen": f"127.0.0.1:{free_port()}"},
        "limits": {
            "requests_per_minute": UNLIMITED,
            "tokens_per_minute": UNLIMITED * 1000,
            "concurrent": UNLIMITED,
        },
        "state_dir": str(place.folder / "state"),
        "hub": False,
    }
    file.write_text(json.dumps(spec))  # JSON is YAML
    gemstead = [sys.executable, "-m", "gemstead"]
    made = subprocess.run(
        [*gemstead, "keys", "create", "--json", "-c", str(file)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise CannotRun(f"gemstead-serve: {made.stderr}")
    return Launch([[*gemstead, "serve", "-c", str(file)]], key=json.loads(made.stdout)["key"])


def _no_gemstead() -> str:
    from importlib.util import find_spec

    try:
        found = find_spec("gemstead.gateway.worker")
    except ModuleNotFoundError:
        found = None
    return "" if found else "Gemstead is not installed here: make bench, or pip install -e ."


# ---- nginx, HAProxy, Envoy ----


def _nginx(place: Place) -> Launch:
    servers = "".join(f"server 127.0.0.1:{port};" for port in place.engine_ports)
    temporary = "".join(
        f"{name}_temp_path {place.folder}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""
    (place.folder / "nginx.conf").write_text(f"""
daemon off; worker_processes {place.workers}; {user} pid {place.folder}/pid; error_log {place.folder}/error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off; {temporary} tcp_nodelay on; keepalive_requests 1000000000;
  client_max_body_size 64m; client_body_buffer_size 1m;
  upstream engines {{ {servers} keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{place.port} backlog=4096;
    location / {{
      proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 600s;
    }}
  }}
}}
""")
    return Launch(
        [[system_program("nginx"), "-c", f"{place.folder}/nginx.conf", "-e", f"{place.folder}/error.log"]]
    )


def _haproxy(place: Place) -> Launch:
    servers = "\n".join(f"  server e{n} 127.0.0.1:{port}" for n, port in enumerate(place.engine_ports))
    (place.folder / "haproxy.cfg").write_text(f"""
global
  maxconn 8000
  nbthread {place.workers}
defaults
  mode http
  option http-no-delay
  option abortonclose
  http-reuse always
  timeout connect 5s
  timeout client 600s
  timeout server 600s
frontend front
  bind 127.0.0.1:{place.port} backlog 4096
  default_backend engines
backend engines
  balance roundrobin
{servers}
""")
    return Launch([[system_program("haproxy"), "-q", "-f", f"{place.folder}/haproxy.cfg"]])


_ENVOY_TYPE = "type.googleapis.com/envoy.extensions.filters."


def _envoy(place: Place) -> Launch:
    def socket_address(port: int) -> dict[str, object]:
        return {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}

    manager = {
        "@type": _ENVOY_TYPE + "network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "stream_idle_timeout": "600s",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "engines", "timeout": "0s"}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                },
            }
        ],
    }
    endpoints = [{"endpoint": socket_address(port)} for port in place.engine_ports]
    high = [
        {
            "priority": "DEFAULT",
            "max_connections": 10000,
            "max_pending_requests": 10000,
            "max_requests": 10000,
        }
    ]
    config = {
        "static_resources": {
            "listeners": [
                {
                    "name": "in",
                    **socket_address(place.port),
                    "filter_chains": [
                        {
                            "filters": [
                                {
                                    "name": "envoy.filters.network.http_connection_manager",
                                    "typed_config": manager,
                                }
                            ]
                        }
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "engines",
                    "type": "STATIC",
                    "connect_timeout": "5s",
                    "circuit_breakers": {"thresholds": high},
                    "load_assignment": {
                        "cluster_name": "engines",
                        "endpoints": [{"lb_endpoints": endpoints}],
                    },
                }
            ],
        }
    }
    (place.folder / "envoy.json").write_text(json.dumps(config))
    command = [
        _in_venv("envoy", "envoy"),
        "-c",
        f"{place.folder}/envoy.json",
        "--concurrency",
        str(place.workers),
    ]
    return Launch([[*command, "--disable-hot-restart", "--log-level", "error"]])


# ---- routers and gateways from PyPI ----


def _router(name: str, place: Place) -> Launch:
    urls = [f"http://127.0.0.1:{port}" for port in place.engine_ports]
    command = [_in_venv(name, name), *(["launch"] if name == "sglang-router" else [])]
    command += [
        "--host",
        "127.0.0.1",
        "--port",
        str(place.port),
        "--policy",
        "round_robin",
        "--log-level",
        "error",
    ]
    return Launch([[*command, "--prometheus-port", str(free_port()), "--worker-urls", *urls]])


def _litellm(place: Place) -> Launch:
    key = "sk-benchmark"
    models = [
        {
            "model_name": MODEL,
            "litellm_params": {
                "model": f"openai/{MODEL}",
                "api_base": f"http://127.0.0.1:{port}/v1",
                "api_key": "x",
            },
        }
        for port in place.engine_ports
    ]
    config = {
        "model_list": models,
        "general_settings": {"master_key": key},
        "litellm_settings": {"num_retries": 0},
    }
    (place.folder / "litellm.yaml").write_text(json.dumps(config))  # JSON is YAML
    command = [
        _in_venv("litellm", "litellm"),
        "--config",
        f"{place.folder}/litellm.yaml",
        "--host",
        "127.0.0.1",
    ]
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "DO_NOT_TRACK": "1"}
    return Launch(
        [[*command, "--port", str(place.port), "--num_workers", "1", "--telemetry", "False"]], key, env
    )


def _asgi(place: Place) -> Launch:
    command = [
        _in_venv("asgi", "granian"),
        "--interface",
        "asgi",
        "--host",
        "127.0.0.1",
        "--port",
        str(place.port),
    ]
    env = {"ENGINES": " ".join(f"http://127.0.0.1:{port}" for port in place.engine_ports)}
    app = [
        "--no-ws",
        "--workers",
        "1",
        "--log-level",
        "error",
        "--working-dir",
        str(Path(__file__).parent),
        "plain_asgi:app",
    ]
    return Launch([[*command, *app]], env=env)


def _in_venv(name: str, program: str) -> str:
    return str(VENVS / name / "bin" / program)


def _not_installed(name: str) -> Callable[[], str]:
    def missing() -> str:
        wanted = VENVS / name / "bin" / PEERS[name].program
        return "" if wanted.exists() else f"not installed: python -m benchmarks.gateway install {name}"

    return missing


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject(
            "gemstead",
            "one worker, compiled; keys, limits, prefix scoring, audit to SQLite, metrics",
            _gemstead,
            lambda: (
                "" if compiled_python().exists() else "run: python -m benchmarks.gateway install gemstead"
            ),
            body_limit=33_554_432,
        ),
        Subject(
            "gemstead-pure",
            "the same, not compiled, run by this interpreter",
            _gemstead_pure,
            _no_gemstead,
            named_only=True,
            body_limit=33_554_432,
        ),
        Subject(
            "gemstead-serve",
            "the same from `gemstead serve`: head, supervision and console included",
            _gemstead_serve,
            _no_gemstead,
            named_only=True,
            body_limit=33_554_432,
        ),
        Subject(
            "nginx",
            "plain reverse proxy, proxy_buffering off",
            _nginx,
            lambda: "" if system_program("nginx") else "not installed: apt-get install nginx-light",
            body_limit=64 << 20,
        ),
        Subject(
            "haproxy",
            "plain reverse proxy, http-no-delay, abortonclose",
            _haproxy,
            lambda: "" if system_program("haproxy") else "not installed: apt-get install haproxy",
        ),
        Subject("envoy", "static route, no filters", _envoy, _not_installed("envoy")),
        Subject(
            "vllm-router", "round robin", lambda p: _router("vllm-router", p), _not_installed("vllm-router")
        ),
        Subject(
            "sglang-router",
            "round robin",
            lambda p: _router("sglang-router", p),
            _not_installed("sglang-router"),
        ),
        Subject("asgi", "40-line ASGI app, aiohttp client, granian", _asgi, _not_installed("asgi")),
        Subject(
            "litellm", "proxy with a master key, no database", _litellm, _not_installed("litellm"), slow=True
        ),
    )
}
