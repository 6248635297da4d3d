"""Mutual TLS between the gateway and engines by cert-manager alone, where there is no mesh.

    Issuer NAME-engines-root (signs itself) ── CA NAME-engines-ca ── Issuer NAME-engines
                    engines: a server's certificate each   gateway, Prometheus: a client's

The CA is the deployment's own: an engine accepts whomever it signed, so that nobody else may have a certificate of it.
vLLM asks callers for one. SGLang (0.5.11) and llama.cpp's server (b9500) have no switch for that: they show theirs,
which the gateway checks, and the network policies alone say who may call. Others speak no TLS. The gateway reads new
certificates as they come, vLLM and SGLang too; llama.cpp's server reads its own once, so that it lasts for a year.
"""

from __future__ import annotations

from typing import Any

from gemstead.refused import Reason, Refused
from gemstead.render.because import Because
from gemstead.render.deployment import ENGINE_PORT, Deployment, Pool
from gemstead.render.kubernetes.objects import ENGINE, GATEWAY, Object, engine_name, made

AT_GATEWAY, AT_ENGINE = "/etc/gemstead-engines", "/etc/gemstead-engine"
CA, CERTIFICATE, KEY = (f"{AT_ENGINE}/{file}" for file in ("ca.crt", "tls.crt", "tls.key"))
ASKS_CALLERS = ("vllm",)
ABLE = ("vllm", "sglang", "llamacpp")


def wanted(deployment: Deployment) -> bool:
    """Whether certificates are what engines are guarded by."""
    return deployment.deploy.kubernetes.engine_tls == "cert-manager"


def checked(deployment: Deployment) -> None:
    """Nothing, where it can be had.

    Raises:
        Refused: something asked for does not go together with it.
    """
    kubernetes = deployment.deploy.kubernetes
    if not wanted(deployment):
        return
    if kubernetes.mesh != "off":
        why = f"the mesh encrypts already: leave it out, or mesh: {kubernetes.mesh}"
    elif kubernetes.routes and kubernetes.routes.inference:
        why = "an inference Gateway calls engines itself, without a certificate: use mesh, or inference.picker: off"
    elif kubernetes.monitoring == "google":
        why = "Google's collector has no certificate for the engines: use monitoring: prometheus-operator, or a mesh"
    elif unable := [pool for pool in deployment.pools if pool.setup.engine not in ABLE]:
        why = f"{unable[0].setup.engine} ({unable[0].name}) speaks no TLS: use mesh: istio or linkerd"
    else:
        return
    raise Refused(Reason.BAD_REQUEST, f"deploy.kubernetes.engine_tls: {why}")


def notes(deployment: Deployment) -> list[str]:
    """What a user should know of it."""
    if not wanted(deployment):
        return []
    lax = [pool for pool in deployment.pools if pool.setup.engine not in ASKS_CALLERS]
    found = [
        f"{pool.name}: {pool.setup.engine} shows its certificate and asks callers for none; who may call it is said by "
        "the network policies alone. vLLM asks, and a mesh does for every engine"
        for pool in lax
    ]
    return found + [
        f"{pool.name}: llama.cpp reads its certificate at its start: restart it within a year "
        f"(kubectl rollout restart deployment/{engine_name(deployment, pool)})"
        for pool in lax
        if pool.setup.engine == "llamacpp"
    ]


def objects(deployment: Deployment) -> list[Object]:
    """The deployment's own CA, and everybody's certificate."""
    if not wanted(deployment):
        return []
    name = f"{deployment.name}-engines"
    found = [
        _issuer(deployment, f"{name}-root", {"selfSigned": {}}),
        _authority(deployment),
        _issuer(deployment, name, {"ca": {"secretName": f"{name}-ca"}}),
        _client(deployment, "gateway", GATEWAY),
    ]
    if deployment.deploy.kubernetes.monitoring == "prometheus-operator":
        found.append(_client(deployment, "watcher", ENGINE))
    return found


def of_pool(deployment: Deployment, pool: Pool) -> list[Object]:
    """The certificate of a pool's engines."""
    if not wanted(deployment):
        return []
    asks = pool.setup.engine in ASKS_CALLERS
    usages = (
        Because(["server auth", "client auth"], "it asks callers for one, and its own probes are callers")
        if asks
        else ["server auth"]
    )
    fixed = pool.setup.engine == "llamacpp"
    return [
        _leaf(
            deployment,
            f"{engine_name(deployment, pool)}-tls",
            ENGINE,
            usages,
            pool=pool,
            names=_names(deployment, pool),
            duration=Because("8760h", "it is read at the engine's start only") if fixed else "2160h",
        )
    ]


def words(deployment: Deployment, pool: Pool) -> list[Any]:
    """What is added to an engine's launch line."""
    if not wanted(deployment):
        return []
    if pool.setup.engine == "llamacpp":
        return [
            Because("--ssl-cert-file", "the gateway checks whom it speaks to"), CERTIFICATE, "--ssl-key-file", KEY,
        ]  # fmt: skip
    found: list[Any] = [
        Because("--ssl-certfile", "the gateway checks whom it speaks to"), CERTIFICATE, "--ssl-keyfile", KEY,
        Because("--enable-ssl-refresh", "reads what cert-manager renews"),
    ]  # fmt: skip
    if pool.setup.engine in ASKS_CALLERS:
        found += [
            "--ssl-ca-certs",
            CA,
            Because("--ssl-cert-reqs", "2: who has no certificate of this CA is no caller"),
        ]
        found.append("2")
    return found


def endpoint(deployment: Deployment) -> Object:
    """What the gateway's file says of each engine's TLS."""
    if not wanted(deployment):
        return {}
    files = {"ca": "ca.crt", "certificate": "tls.crt", "key": "tls.key"}
    return {"tls": {name: f"{AT_GATEWAY}/{file}" for name, file in files.items()}}


def url(deployment: Deployment, pool: Pool) -> str:
    """Where the gateway finds a pool's engines."""
    scheme = "https" if wanted(deployment) else "http"
    return f"{scheme}://{engine_name(deployment, pool)}:{ENGINE_PORT}"


def gateway_mount(deployment: Deployment) -> tuple[list[Object], list[Object]]:
    """(volumes, mounts) of the gateway's certificate."""
    return _mount(deployment, f"{deployment.name}-engines-gateway", AT_GATEWAY)


def engine_mount(deployment: Deployment, pool: Pool) -> tuple[list[Object], list[Object]]:
    """(volumes, mounts) of an engine's certificate."""
    return _mount(deployment, f"{engine_name(deployment, pool)}-tls", AT_ENGINE)


def asked(deployment: Deployment, pool: Pool, path: str, body: bytes = b"", within_s: int = 4) -> list[str]:
    """A command that asks the engine beside it over TLS, and fails unless it answers well."""
    if pool.setup.engine == "llamacpp":
        name = engine_name(deployment, pool)
        data = ["-H", "content-type: application/json", "--data", body.decode()] if body else []
        return ["curl", "--fail", "--silent", "--max-time", str(within_s), "--cacert", CA, "--resolve",
                f"{name}:{ENGINE_PORT}:127.0.0.1", *data, f"https://{name}:{ENGINE_PORT}{path}"]  # fmt: skip
    more = f", {body!r}, {{'content-type': 'application/json'}}" if body else ""
    program = (
        f"import ssl, urllib.request as r; c = ssl.create_default_context(cafile={CA!r}); c.check_hostname = False; "
        f"c.load_cert_chain({CERTIFICATE!r}, {KEY!r}); "
        f"r.urlopen(r.Request('https://127.0.0.1:{ENGINE_PORT}{path}'{more}), timeout={within_s}, context=c)"
    )
    return ["python3", "-c", program]


def scraped(deployment: Deployment) -> Object:
    """How Prometheus calls an engine."""
    if not wanted(deployment):
        return {}
    secret = f"{deployment.name}-engines-watcher"
    return {
        "scheme": "https",
        "tlsConfig": {
            "ca": {"secret": {"name": secret, "key": "ca.crt"}},
            "cert": {"secret": {"name": secret, "key": "tls.crt"}},
            "keySecret": {"name": secret, "key": "tls.key"},
            "serverName": Because(f"{deployment.name}-engines", "a name that every engine's certificate has"),
        },
    }


def _names(deployment: Deployment, pool: Pool) -> list[str]:
    namespace, name = deployment.deploy.namespace, engine_name(deployment, pool)
    services = [name, f"{name}-preview"] if deployment.deploy.kubernetes.rollouts == "blue-green" else [name]
    whole = [f"{one}{end}" for one in services for end in ("", f".{namespace}", f".{namespace}.svc")]
    return [*whole, f"{deployment.name}-engines"]


def _issuer(deployment: Deployment, name: str, spec: Object) -> Object:
    return made("cert-manager.io/v1", "Issuer", name, deployment, component=ENGINE, spec=spec)


def _authority(deployment: Deployment) -> Object:
    name = f"{deployment.name}-engines"
    return made(
        "cert-manager.io/v1", "Certificate", f"{name}-ca", deployment, component=ENGINE,
        spec={
            "isCA": True,
            "commonName": f"{name}-ca",
            "secretName": f"{name}-ca",
            "duration": "87600h",
            "renewBefore": "17520h",
            "privateKey": {
                "algorithm": "ECDSA",
                "size": 256,
                "rotationPolicy": Because("Never", "what it signed stays valid while the CA itself is renewed"),
            },
            "issuerRef": _ref(f"{name}-root"),
        },
    )  # fmt: skip


def _client(deployment: Deployment, who: str, component: str) -> Object:
    name = f"{deployment.name}-engines-{who}"
    return _leaf(deployment, name, component, ["client auth"], names=[f"{deployment.name}-{who}"])


def _leaf(
    deployment: Deployment,
    name: str,
    component: str,
    usages: Any,
    *,
    names: list[str],
    pool: Pool | None = None,
    duration: Any = "2160h",
) -> Object:
    return made(
        "cert-manager.io/v1", "Certificate", name, deployment, component=component, pool=pool,
        spec={
            "secretName": name,
            "dnsNames": names,
            "duration": duration,
            "renewBefore": "720h",
            "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
            "usages": usages,
            "issuerRef": _ref(f"{deployment.name}-engines"),
        },
    )  # fmt: skip


def _ref(name: str) -> Object:
    return {"kind": "Issuer", "name": name, "group": "cert-manager.io"}


def _mount(deployment: Deployment, secret: str, path: str) -> tuple[list[Object], list[Object]]:
    if not wanted(deployment):
        return [], []
    held = {"name": "engine-tls", "secret": {"secretName": secret, "defaultMode": 0o440}}
    return [held], [{"name": "engine-tls", "mountPath": path, "readOnly": True}]
