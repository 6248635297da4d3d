"""`gemstead login --device` where a provider refuses, is late, or answers oddly: one sentence, nobody signed in."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gemstead.cli.main import main

PENDING = (400, {"error": "authorization_pending"})
TOKENS = (200, {"access_token": "a.b.c", "token_type": "Bearer", "expires_in": 300})


class Provider(BaseHTTPRequestHandler):
    """Answers the polls for a token one after the other, the last one for ever."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        at = f"http://127.0.0.1:{self.server.server_port}"
        ways = {"token_endpoint": f"{at}/token", "device_authorization_endpoint": f"{at}/device"}
        self.say(200, {"issuer": at, "jwks_uri": f"{at}/jwks", **ways})

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/device":
            shown = {"device_code": "d", "user_code": "ABCD", "verification_uri": "https://id.example/device"}
            self.say(200, shown | self.server.shown)
            return
        self.server.polls += 1
        answers = self.server.answers
        self.say(*answers[min(self.server.polls, len(answers)) - 1])

    def say(self, status, fields):
        body = json.dumps(fields).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def provider(*answers, **shown):
    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        server.answers, server.shown, server.polls = answers, shown, 0
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("answers", "shown", "code", "said"),
    [
        ((PENDING, PENDING, TOKENS), {"interval": 0}, 0, "signed in at corp"),
        ((PENDING, (400, {"error": "access_denied"})), {"interval": 0}, 1, "access_denied"),
        (((400, {"error": "expired_token"}),), {"interval": 0}, 1, "expired_token"),
        ((PENDING,), {"interval": 0.1, "expires_in": 1}, 1, "nobody entered the code in time"),
        ((PENDING,), {"interval": 0, "expires_in": -1, "user_code": 5}, 1, "without a code to show"),
        (((200, {"access_token": "x"}),), {"interval": 0}, 1, "without a bearer token"),
        (((200, ["nonsense"]),), {"interval": 0, "expires_in": "soon"}, 1, "/token"),
    ],
)
def test_a_sign_in_by_code_ends_well_or_in_one_sentence(
    tmp_path, monkeypatch, capsys, answers, shown, code, said
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with provider(*answers, **shown) as server:
        (tmp_path / "gemstead.yaml").write_text(
            f"identity: {{issuers: [{{name: corp, issuer: 'http://127.0.0.1:{server.server_port}', audience: [g], "
            "login: {client_id: cli}}]}\n"
        )
        assert main(["login", "--device"]) == code
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err
    assert (tmp_path / "config" / "gemstead" / "login.json").exists() is (code == 0)
