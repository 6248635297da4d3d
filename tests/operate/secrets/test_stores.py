"""The stores, each against a server that speaks its protocol on loopback.

AWS: moto's server. Vault, Google and Kubernetes: a server that gives the answers that their documentation shows
(developer.hashicorp.com/vault/api-docs/auth/approle, /auth/kubernetes, /secret/kv/kv-v2;
cloud.google.com/secret-manager/docs/reference/rest; kubernetes.io/docs/reference/kubernetes-api), and refuses what
they refuse. Read on 2026-11-21.
"""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gemstead.operate.secrets.keeper import Keeper
from gemstead.operate.secrets.reference import NoSecret
from gemstead.spec.secrets import SecretsSpec


class Server:
    """A server that answers from a table and keeps what it was asked."""

    def __init__(self, answer):
        self.asked: list[tuple[str, str, dict]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _do(self):
                length = int(self.headers.get("content-length") or 0)
                raw = self.rfile.read(length)
                body = json.loads(raw) if raw.startswith(b"{") else {}
                outer.asked.append((self.command, self.path, body))
                status, said = answer(self.command, self.path, body, self.headers)
                data = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = _do  # noqa: N815

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server():
    made = []

    def make(answer) -> Server:
        made.append(Server(answer))
        return made[-1]

    yield make
    for one in made:
        one.close()


class VaultWords:
    """What a Vault with one secret says. Tokens can be made worthless."""

    def __init__(self):
        self.tokens: list[str] = []
        self.value = "s3cr3t-one"

    def __call__(self, method, path, body, headers):
        if path == "/v1/auth/approle/login":
            if body != {"role_id": "rid", "secret_id": "sid"}:
                return 400, {"errors": ["invalid role or secret ID"]}
            return self._token()
        if path == "/v1/auth/k8s-a/login":
            if body != {"role": "gemstead", "jwt": "pod.jwt.x"}:
                return 403, {"errors": ["permission denied"]}
            return self._token()
        if headers.get("x-vault-token") not in self.tokens:
            return 403, {"errors": ["permission denied"]}
        if path == "/v1/kv/data/gemstead/engines":
            fields = {"token": self.value, "number": 7}
            return 200, {"data": {"data": fields, "metadata": {"version": 3, "deletion_time": ""}}}
        return 404, {"errors": []}

    def _token(self):
        self.tokens = [f"hvs.{len(self.tokens)}{id(self) % 97}"]
        return 200, {"auth": {"client_token": self.tokens[0], "lease_duration": 3600, "renewable": True}}


def vault_spec(url: str, **more) -> SecretsSpec:
    return SecretsSpec(
        vault={"address": url, "role_id": "env:RID", "secret_id": "env:SID", **more}, refresh_s=60.0
    )


ENVIRON = {"RID": "rid", "SID": "sid"}


def test_vault_by_approle_logs_in_once_and_again_when_its_token_is_worthless(server):
    words = VaultWords()
    at = server(words)
    now = [0.0]
    kept = Keeper(vault_spec(at.url), ENVIRON, clock=lambda: now[0])
    assert kept.get("vault:kv/gemstead/engines#token") == "s3cr3t-one"
    assert kept.get("vault:kv/gemstead/engines#token") == "s3cr3t-one"
    assert [path for _, path, _ in at.asked] == ["/v1/auth/approle/login", "/v1/kv/data/gemstead/engines"]
    words.tokens, words.value = [], "s3cr3t-two"
    now[0] = 61.0
    assert kept.changed() == ["vault:kv/gemstead/engines#token"]
    assert kept.get("vault:kv/gemstead/engines#token") == "s3cr3t-two"


def test_vault_by_kubernetes(server, tmp_path):
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_text("pod.jwt.x")
    at = server(VaultWords())
    spec = vault_spec(
        at.url, auth="kubernetes", mount="k8s-a", role="gemstead", token_file=str(tmp_path / "token")
    )
    assert Keeper(spec, {}).get("vault:kv/gemstead/engines#token") == "s3cr3t-one"


@pytest.mark.parametrize(
    ("reference", "environ", "said"),
    [
        ("vault:kv/nothing#token", ENVIRON, "no such secret"),
        ("vault:kv/gemstead/engines#nope", ENVIRON, "has no text field nope; its fields: number, token"),
        ("vault:kv/gemstead/engines#number", ENVIRON, "no text field"),
        ("vault:kv/gemstead/engines#token", {"RID": "rid", "SID": "wrong"}, "InvalidRequest"),
        ("vault:kv/gemstead/engines#token", {"RID": "rid"}, "SID is not set"),
    ],
)
def test_what_vault_refuses_is_a_sentence_without_a_secret(server, reference, environ, said):
    at = server(VaultWords())
    with pytest.raises(NoSecret, match=said) as refused:
        Keeper(vault_spec(at.url), environ).get(reference)
    assert "s3cr3t" not in str(refused.value) and "wrong" not in str(refused.value)


def test_a_store_that_is_down_is_no_reason_to_stop(server):
    words = VaultWords()
    at = server(words)
    now, told = [0.0], []
    kept = Keeper(vault_spec(at.url), ENVIRON, clock=lambda: now[0], trouble=told.append)
    kept.get("vault:kv/gemstead/engines#token")
    at.close()
    now[0] = 61.0
    assert kept.get("vault:kv/gemstead/engines#token") == "s3cr3t-one"
    assert len(told) == 1 and "last value stays" in told[0] and "s3cr3t" not in told[0]


def google(method, path, body, headers):
    if path == "/token":
        return 200, {"access_token": "ya29.t", "expires_in": 3600, "token_type": "Bearer"}
    if headers.get("authorization") != "Bearer ya29.t":
        return 401, {"error": {"code": 401}}
    if path == "/v1/projects/p/secrets/s/versions/latest:access":
        return 200, {"payload": {"data": base64.b64encode(b'{"token":"g-secret"}').decode()}}
    return 404, {"error": {"code": 404, "status": "NOT_FOUND"}}


def test_google_as_a_service_account(server, tmp_path, monkeypatch):
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    at = server(google)
    pem = rsa.generate_private_key(65537, 2048).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    account = {"type": "service_account", "client_email": "a@p", "token_uri": f"{at.url}/token"}
    (tmp_path / "key.json").write_text(json.dumps({**account, "private_key": pem.decode()}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    kept = Keeper(SecretsSpec(gcp={"endpoint": at.url}), {})
    assert kept.get("gcp-sm:projects/p/secrets/s#token") == "g-secret"
    with pytest.raises(NoSecret, match="no such secret or version"):
        kept.get("gcp-sm:projects/p/secrets/other")


def cluster(method, path, body, headers):
    if headers.get("authorization") != "Bearer sa-token":
        return 401, {"kind": "Status", "code": 401}
    if path == "/api/v1/namespaces/here/secrets/engines":
        return 200, {"kind": "Secret", "data": {"token": base64.b64encode(b"k-secret\n").decode()}}
    if path.startswith("/api/v1/namespaces/other/"):
        return 403, {"kind": "Status", "code": 403}
    return 404, {"kind": "Status", "code": 404}


def test_kubernetes_as_the_pods_account(server, tmp_path):
    (tmp_path / "token").write_text("sa-token")
    (tmp_path / "namespace").write_text("here")
    at = server(cluster)
    spec = SecretsSpec(kubernetes={"address": at.url, "account": str(tmp_path)})
    kept = Keeper(spec, {})
    assert kept.get("k8s:engines#token") == kept.get("k8s:here/engines#token") == "k-secret"
    with pytest.raises(NoSecret, match="give it a Role"):
        kept.get("k8s:other/engines#token")
    with pytest.raises(NoSecret, match="no Secret nope in here"):
        kept.get("k8s:nope#token")
    with pytest.raises(NoSecret, match="this is no Pod"):
        Keeper(SecretsSpec(), {}).get("k8s:a#b")


def test_aws_against_moto(monkeypatch):
    import boto3
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    for name in ("AWS_PROFILE", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        url = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
        client = boto3.client("secretsmanager", region_name="eu-central-1", endpoint_url=url)
        client.create_secret(Name="plain", SecretString="a-secret")
        client.create_secret(Name="team/engines", SecretString='{"token":"b-secret"}')
        kept = Keeper(SecretsSpec(aws={"region": "eu-central-1", "endpoint": url}), {})
        assert kept.get("aws-sm:plain") == "a-secret"
        assert kept.get("aws-sm:team/engines#token") == "b-secret"
        with pytest.raises(NoSecret, match="no such secret in this region"):
            kept.get("aws-sm:nothing")
        with pytest.raises(NoSecret, match="no JSON object"):
            kept.get("aws-sm:plain#token")
    finally:
        server.stop()
