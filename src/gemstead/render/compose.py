"""Docker Compose: everything on one host, each engine pinned to its own cards.

    callers ── gateway ── engines (no way out) ── cache volume ── models (fetches once, then ends)
                  └── Prometheus, Alertmanager, Grafana, DCGM exporter: profile `monitoring`

Engines live on a network that leads nowhere: they are reached by the gateway alone and reach nobody, so their weights
are fetched beforehand by `models`, the one service that may go out. A replica is a service of its own, because Compose
pins cards to services, and because the gateway wants to know each one.
"""

from __future__ import annotations

from typing import Any

from gemstead.render import compose_cards, compose_watching
from gemstead.render.because import Because
from gemstead.render.bundle import Bundle
from gemstead.render.deployment import ADMIN_PORT, ENGINE_PORT, GATEWAY_PORT, Deployment, Pool
from gemstead.render.docker_gateway import STATE
from gemstead.render.dockerfile import USER, asks
from gemstead.render.gatewayfile import from_files, gateway_file, secret_names
from gemstead.render.launch import CACHE, CACHES, all_files, caches, health_words, reasoned
from gemstead.render.yamltext import document

SUMMARY = "one host: engines pinned to their cards, the gateway, and monitoring as a profile"
HEAD = """Made by gemstead render compose from gemstead.yaml; change that file and render again.
Start: docker compose up -d     With monitoring: docker compose --profile monitoring up -d"""
SECRETS = "/run/secrets"


POSTGRES = "postgres:17.6-bookworm"
PORTS_APART = 100  # of several gateways' ports on the host


def render(deployment: Deployment) -> Bundle:
    """The folder of a deployment on one host."""
    seats = list(compose_cards.seats(deployment))
    services: dict[str, Any] = {}
    if any(pool.setup.engine != "ollama" for pool in deployment.pools):
        services["models"] = _models(deployment)
    for name, pool, cards in seats:
        services[name] = _engine(pool, cards, "models" in services)
    doors = gateways(deployment)
    for place, name in enumerate(doors):
        services[name] = _gateway(deployment, [one for one, _, _ in seats], place)
    if shared(deployment):
        services["postgres"] = _postgres(deployment)
    services |= compose_watching.watchers(deployment, [name for name, _, _ in seats])
    compose = {
        "name": deployment.name,
        "services": services,
        "networks": {
            "outside": {},
            "engines": {"internal": Because(True, "engines reach nobody, and only the gateway reaches them")},
            "monitoring": {},
            **({"store": {"internal": True}} if shared(deployment) else {}),
        },
        "volumes": {
            **{_state(name): {} for name in doors},
            **{name: {} for name in ("cache", "prometheus", "grafana")},
            **({"postgres": {}} if shared(deployment) else {}),
        },
        "secrets": _secrets(deployment),
    }
    urls = {
        pool.name: [f"http://{name}:{ENGINE_PORT}" for name, of, _ in seats if of is pool]
        for pool in deployment.pools
    }
    files = {
        "compose.yaml": document({key: value for key, value in compose.items() if value}, head=HEAD),
        "gateway/gemstead.yaml": from_files(gateway_file(deployment, urls, state_dir=STATE), SECRETS),
        ".env.example": _env(deployment),
        "README.md": _readme(deployment, seats),
        **compose_watching.settings(deployment, doors, [name for name, _, _ in seats]),
    }
    return Bundle("compose", files, (*deployment.notes, *_notes(deployment)))


def shared(deployment: Deployment) -> bool:
    """Whether keys and records are in PostgreSQL, so that there may be several gateways."""
    return deployment.spec.ledger.store is not None


def gateways(deployment: Deployment) -> list[str]:
    """Services of the gateways: one, or as many as `deploy.gateways` says where they share a store.

    Each is a service and no replica of one: it has its own disk, for records that the store does not have yet, its own
    name in the store, and its own port.
    """
    said = deployment.deploy.gateways if "gateways" in deployment.deploy.model_fields_set else 1
    return ["gateway", *(f"gateway-{n}" for n in range(2, said + 1))] if shared(deployment) else ["gateway"]


def _state(gateway: str) -> str:
    return gateway.replace("gateway", "state")


def _notes(deployment: Deployment) -> list[str]:
    if not shared(deployment):
        wanted = deployment.deploy.gateways > 1 and "gateways" in deployment.deploy.model_fields_set
        why = "one gateway is rendered: its keys and records are a file, which one process writes; for several name "
        return [why + "ledger.store, a PostgreSQL"] if wanted else []
    found = [
        "ledger.store is a PostgreSQL of yours, or the one of the profile `postgres`, as .env says; back it up"
    ]
    if len(gateways(deployment)) > 1:
        found.append("several gateways have a port each: put a load balancer that asks /readyz before them")
    return found


def _postgres(deployment: Deployment) -> dict[str, Any]:
    """A store for who has none. Reached by gateways alone; what it holds outlives the container."""
    return {
        "image": "${POSTGRES_IMAGE:-" + deployment.image(POSTGRES) + "}",
        **_hardened(),
        "profiles": ["postgres"],
        "user": Because("999:999", "`postgres` in its makers' image"),
        "tmpfs": ["/tmp", "/var/run/postgresql:uid=999,gid=999"],  # noqa: S108
        "environment": {
            "POSTGRES_USER": "gemstead",
            "POSTGRES_DB": "gemstead",
            "POSTGRES_PASSWORD_FILE": f"{SECRETS}/POSTGRES_PASSWORD",
            "POSTGRES_INITDB_ARGS": Because("--data-checksums", "a disk that loses bits is noticed"),
        },
        "secrets": ["POSTGRES_PASSWORD"],
        "volumes": ["postgres:/var/lib/postgresql/data"],
        "networks": ["store"],
        "shm_size": Because("256mb", "Docker's 64 MB are too few for its parallel queries"),
        "stop_grace_period": Because("60s", "it ends its connections and writes a checkpoint"),
        "healthcheck": {
            "test": ["CMD", "pg_isready", "--username", "gemstead", "--quiet"],
            "interval": "10s",
            "timeout": "5s",
            "retries": 6,
            "start_period": "60s",
        },
        "ulimits": {"core": Because(0, "a core file would hold records")},
    }


def _secrets(deployment: Deployment) -> dict[str, Any]:
    """What .env holds and containers get as files: in no environment, so in no `docker inspect`."""
    found = {name: {"environment": name} for name in (*secret_names(deployment), "GRAFANA_PASSWORD")}
    if shared(deployment):
        found["POSTGRES_PASSWORD"] = {"environment": "POSTGRES_PASSWORD"}
    return found | ({"hf_token": {"environment": "HF_TOKEN"}} if deployment.deploy.hub_token else {})


def _hardened() -> dict[str, Any]:
    return {
        "user": f"{USER}:0",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "tmpfs": ["/tmp"],  # noqa: S108
        "restart": "unless-stopped",
    }


def _models(deployment: Deployment) -> dict[str, Any]:
    """Fetches every checkpoint and drafter once. Made from the gateway's image, which holds the hub's client."""
    program = (
        "import pathlib\n"
        "from huggingface_hub import snapshot_download as fetch\n"
        "secret = pathlib.Path('/run/secrets/hf_token')\n"
        "token = secret.read_text().strip() if secret.exists() else None\n"
        f"for repo, file in {all_files(deployment.pools)!r}:\n"
        "    fetch(repo, allow_patterns=file or None, token=token)\n"
        "    print('fetched', repo, flush=True)\n"
    )
    return {
        "image": Because(_gateway_image(deployment), deployment.gateway.reason),
        **_hardened(),
        "restart": "on-failure",
        "entrypoint": ["/opt/gemstead/bin/python", "-c", program],
        "environment": {"HF_HOME": CACHES["HF_HOME"], "HOME": CACHE},
        **({"secrets": ["hf_token"]} if deployment.deploy.hub_token else {}),
        "volumes": [f"cache:{CACHE}"],
        "networks": ["outside"],
    }


def _engine(pool: Pool, cards: tuple[str, ...], fetched: bool) -> dict[str, Any]:
    setup = pool.setup
    environment: dict[str, Any] = {"HOME": CACHE, "USER": "gemstead"}
    environment |= caches(setup.engine)
    if fetched and setup.engine != "ollama":
        environment["HF_HUB_OFFLINE"] = Because(
            "1", "`models` has fetched everything; the engine asks nobody"
        )
    environment |= {one.name: Because(one.value, one.reason) for one in pool.command.variables}
    service: dict[str, Any] = {
        "image": Because(pool.image.reference, pool.image.reason),
        **_hardened(),
        "entrypoint": [word.replace("$", "$$") for word in pool.command.program],  # Compose's own variables
        "command": reasoned(pool, pool.command.argv[len(pool.command.program) :]),
        "environment": environment,
        "volumes": [f"cache:{CACHE}"],
        "networks": ["engines"],
        "healthcheck": {
            "test": ["CMD", *health_words(pool)],
            "interval": "10s",
            "timeout": "5s",
            "retries": 6,
            "start_period": Because(f"{pool.startup.allowance_s}s", pool.startup.reason),
        },
        "stop_grace_period": Because(f"{pool.drain_s.value}s", pool.drain_s.reason),
        "shm_size": Because(f"{pool.needs.shm_gib.value}gb", pool.needs.shm_gib.reason),
        "ulimits": {"core": Because(0, "a core file would hold prompts")},
        **_resources(pool, cards),
    }
    given = compose_cards.given(pool, cards)
    service |= given | {"volumes": service["volumes"] + given.get("volumes", [])}
    if fetched and setup.engine != "ollama":
        service["depends_on"] = {"models": {"condition": "service_completed_successfully"}}
    return service


def _resources(pool: Pool, cards: tuple[str, ...]) -> dict[str, Any]:
    limits = {
        "cpus": Because(str(pool.needs.cpus.value), pool.needs.cpus.reason),
        "memory": Because(f"{pool.needs.memory_gib.value}g", pool.needs.memory_gib.reason),
    }
    return {"deploy": {"resources": {"limits": limits, **compose_cards.reservation(pool, cards)}}}


def _gateway_image(deployment: Deployment) -> str:
    return "${GEMSTEAD_IMAGE:-" + deployment.gateway.reference + "}"


def _gateway(deployment: Deployment, engines: list[str], place: int) -> dict[str, Any]:
    tls = deployment.spec.gateway.tls
    longest = max((pool.longest_answer_s for pool in deployment.pools), default=60)
    name = gateways(deployment)[place]
    volumes = [f"{_state(name)}:{STATE}", "./gateway/gemstead.yaml:/etc/gemstead/gemstead.yaml:ro"]
    if tls is not None:
        paths = [tls.certificate, tls.key] + ([tls.client_ca] if tls.client_ca else [])
        volumes += [f"{path}:{path}:ro" for path in paths]
    address = "0.0.0.0" if tls is not None else "127.0.0.1"
    why = (
        "callers come over TLS" if tls is not None else "without TLS only this host may call: set gateway.tls"
    )
    variable = f"GEMSTEAD_LISTEN_{place + 1}" if place else "GEMSTEAD_LISTEN"
    port = GATEWAY_PORT + PORTS_APART * place
    called = {"hostname": Because(name, "its name in the store, also after it was made anew")}
    return {
        "image": Because(_gateway_image(deployment), deployment.gateway.reason),
        **_hardened(),
        **(called if shared(deployment) else {}),
        "ports": [Because("${" + f"{variable}:-{address}:{port}" + "}" + f":{GATEWAY_PORT}", why)],
        "volumes": volumes,
        "networks": ["outside", "engines", "monitoring", *(["store"] if shared(deployment) else [])],
        "healthcheck": {
            "test": [
                "CMD",
                "/opt/gemstead/bin/python",
                "-c",
                asks(f"http://127.0.0.1:{ADMIN_PORT}/healthz"),
            ],
            "interval": "10s",
            "timeout": "5s",
            "retries": 3,
            "start_period": "30s",
        },
        "stop_grace_period": Because(
            f"{longest + 30}s", f"the longest answer may take {longest} s, and 30 s to end"
        ),
        "ulimits": {"core": 0, "nofile": Because(65536, "two sockets to a call")},
        **({"secrets": names} if (names := secret_names(deployment)) else {}),
        **({"depends_on": engines} if engines else {}),
    }


# Monitoring.


def _env(deployment: Deployment) -> str:
    token = (
        "# Token of the model hub, as deploy.hub_token says:\nHF_TOKEN=\n"
        if deployment.deploy.hub_token
        else ""
    )
    own = "".join(f"{name}=\n" for name in secret_names(deployment))
    token += f"# What gemstead.yaml refers to; the gateway gets each as a file:\n{own}" if own else ""
    if shared(deployment):
        name = str(deployment.spec.ledger.store).removeprefix("env:")
        token += (
            "# A database of yours is named by its URL above. For the one that comes along: a password without signs\n"
            "# that URLs need (openssl rand -hex 24), and `docker compose --profile postgres up -d`.\n"
            f"# {name}=postgresql://gemstead:THE_PASSWORD@postgres/gemstead\n# POSTGRES_PASSWORD=THE_PASSWORD\n"
        )
    group = compose_cards.settings(deployment)
    needed = "only the profile `monitoring` needs something: GRAFANA_PASSWORD"
    if group:
        needed = f"{compose_cards.GROUP} has to be said; the profile `monitoring` needs GRAFANA_PASSWORD"
    return f"""# Copy to .env and fill in. To start, {needed}.
{group}{token}# Password of Grafana's user `admin`:
# GRAFANA_PASSWORD=
# Where callers connect, `address:port` of this host:
# GEMSTEAD_LISTEN=127.0.0.1:4367
"""


def _readme(deployment: Deployment, seats: list[tuple[str, Pool, tuple[str, ...]]]) -> str:
    rows = "\n".join(
        f"| `{name}` | {pool.setup.model.title} | {', '.join(cards) or 'processor'} | `{pool.setup.checkpoint.repo}` |"
        for name, pool, cards in seats
    )
    return f"""# {deployment.name} on one host

Made by `gemstead render compose`.

| service | model | cards | weights |
|---|---|---|---|
{rows}

```console
$ cp .env.example .env                                # then fill it in
$ docker compose up -d                                # fetches the models once, then starts everything
$ docker compose exec gateway gemstead keys create    # shows the key once
$ docker compose exec gateway gemstead check          # a dozen real requests
$ docker compose --profile monitoring up -d           # Grafana on 127.0.0.1:3000
```

Change: render again, look at `gemstead diff compose`, then `docker compose up -d`. Back: check the old files out and
`docker compose up -d`. Remove: `docker compose --profile monitoring down`; with `--volumes` also keys, records and
weights.
"""
