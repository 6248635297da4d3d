"""Every secret that the file can name is read by one keeper, wherever it leads."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gemstead.operate.secrets.keeper import Keeper
from gemstead.spec.identity import IdentitySpec
from gemstead.spec.load import load
from gemstead.spec.model import Spec
from gemstead.spec.part import Secret
from gemstead.spec.secrets import _marked, references
from gemstead.wiring.auditing import Auditor
from gemstead.wiring.entrance import Entrance
from gemstead.wiring.files import StateDir
from gemstead.wiring.identity import provider
from gemstead.wiring.library import place_of
from gemstead.wiring.password import PasswordFile
from gemstead.wiring.secrets import resolver

FILE = {
    "models": [{"name": "m", "endpoints": [{"url": "http://127.0.0.1:9", "api_key": "k8s:all#engine"}]}],
    "limits": {"store": "k8s:all#limits"},
    "ledger": {"store": "k8s:all#store", "secret": "k8s:all#seal"},
    "audit": {
        "ship": [{"name": "siem", "to": "splunk", "url": "https://s.example", "token": "k8s:all#siem"}]
    },
    "identity": {
        "issuers": [
            {
                "name": "corp",
                "issuer": "https://id.example",
                "audience": ["gemstead"],
                "bearer": "k8s:all#bearer",
                "login": {"client_id": "gemstead", "client_secret": "k8s:all#client"},
            }
        ]
    },
    "store": {"token": "k8s:all#hub"},
    "deploy": {"hub_token": "k8s:all#deploy"},
    "secrets": {"refresh_s": 300.0},
}
NAMES = ("engine", "limits", "store", "seal", "siem", "bearer", "client", "hub", "deploy")


@pytest.fixture
def cluster(tmp_path):
    """A Kubernetes API that knows one Secret, and the file that names nothing else."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            found = self.path.endswith("/secrets/all")
            data = {name: base64.b64encode(f"secret-{name}".encode()).decode() for name in NAMES}
            said = json.dumps({"data": data}).encode()
            self.send_response(200 if found else 404)
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    (tmp_path / "token").write_text("pod")
    (tmp_path / "namespace").write_text("ml")
    address = f"http://127.0.0.1:{server.server_port}"
    kubernetes = {"address": address, "account": str(tmp_path)}
    (tmp_path / "gemstead.yaml").write_text(json.dumps(FILE | {"secrets": {"kubernetes": kubernetes}}))
    yield load((tmp_path / "gemstead.yaml").read_text()).spec
    server.shutdown()
    server.server_close()


def marked(part, seen=()):
    """Every field of the file's form that holds a reference, without indexes."""
    for name, field in part.model_fields.items():
        if any(isinstance(mark, Secret) for mark in field.metadata) or _marked(field.annotation):
            yield (part.__name__, name)
        for inner in _inner(field.annotation):
            if inner not in seen:
                yield from marked(inner, (*seen, inner))


def _inner(annotation):
    from typing import get_args

    from pydantic import BaseModel

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for one in get_args(annotation):
        yield from _inner(one)


def test_the_file_above_names_a_secret_wherever_one_can_be_named(cluster):
    """Those of Vault itself, which can only be local, are left out."""
    fields = {name for part, name in marked(Spec) if part != "VaultSecretsSpec"}
    assert {where.rpartition(".")[2] for where, _ in references(cluster)} == fields
    assert len(list(references(cluster))) == len(NAMES)


async def test_each_is_read_by_the_keeper(cluster, tmp_path):
    read = resolver({}, Keeper(cluster.secrets, {}))
    [issuer] = cluster.identity.issuers
    assert provider(issuer, read).bearer() == "secret-bearer"

    entrance = Entrance(None, PasswordFile(tmp_path / "admin.password"), tmp_path / "audit.db", read)
    entrance._spec = IdentitySpec(issuers=(issuer,))
    _, us = await entrance._login("corp")
    assert us.client_secret == "secret-client"

    auditor = Auditor(StateDir(tmp_path, tmp_path), lambda name: None, print)
    [sink] = auditor.sinks(cluster, read)
    assert sink.token == "secret-siem"
    assert place_of(cluster, {"HF_TOKEN": "other"}, Keeper(cluster.secrets, {})).hub.token == "secret-hub"
    assert place_of(Spec(), {"HF_TOKEN": "other"}).hub.token == "other"


def test_check_reads_each_and_prints_none(cluster, tmp_path, capsys):
    from gemstead.cli.main import main

    code = main(["secrets", "check", "--config", str(tmp_path / "gemstead.yaml"), "--json"])
    said = capsys.readouterr().out
    assert code == 0, said
    assert [one["reference"] for one in json.loads(said)] == [one for _, one in references(cluster)]
    assert "secret-" not in said
