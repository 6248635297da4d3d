#!/usr/bin/python3
"""Stands in for the programs `vllm`, `sglang` and `ollama` in their makers' images, which no registry gives here.

It computes nothing. It does what the programs do with what a Dockerfile gives them, and fails where they would: words
that their parser does not know, a model that is no folder with a checkpoint, a home or a cache that cannot be written.
It answers the addresses that a health check and a gateway ask, with one fixed sentence, and lets a running answer end
when it is told to stop.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NAME = Path(sys.argv[0]).name
LISTS = Path("/opt/stand-in/options.json")  # engine: {option: how many words follow}
SAID = "Lima is the capital of Peru."
running = threading.Semaphore(1000)


def parsed(words: list[str]) -> dict[str, str]:
    """Options and their values; one that is not known ends the program, as argparse would."""
    known, said, at = json.loads(LISTS.read_text())[NAME], {}, 0
    while at < len(words):
        name = words[at]
        if name not in known:
            sys.exit(f"{NAME}: error: unrecognized arguments: {name}")
        follows = known[name] in ("1", "+") or (
            known[name] in ("?", "*") and at + 1 < len(words) and not words[at + 1].startswith("--")
        )
        if follows and at + 1 == len(words):
            sys.exit(f"{NAME}: error: argument {name}: expected one argument")
        said[name] = words[at + 1] if follows else ""
        at += 2 if follows else 1
    return said


def checkpoint(path: str) -> None:
    """A folder with weights; anything else would be asked of the hub, which is off."""
    folder = Path(path)
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        sys.exit(f"{NAME}: {path} is no checkpoint, and HF_HUB_OFFLINE={os.environ.get('HF_HUB_OFFLINE')}")
    (folder / "config.json").read_bytes()


def written(folder: str) -> None:
    """A place for what is compiled; it must be there and be ours."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "kernel").write_text("compiled")


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    models: tuple[str, ...] = ()

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._say("text/plain", b"")

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            found = {"object": "list", "data": [{"id": one, "object": "model"} for one in self.models]}
            self._say("application/json", json.dumps(found).encode())
        else:
            self._say("text/plain", b"# nothing\n" if self.path == "/metrics" else b"ok")

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/api/pull":
            pulled(asked["model"])
            self._say("application/json", b'{"status":"success"}')
            return
        with running:
            if asked["model"] not in self.models:
                self._say("application/json", b'{"error":{"message":"no such model"}}', 404)
                return
            time.sleep(float(asked.get("user") or 0))
            message = {"role": "assistant", "content": SAID}
            answer = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
            self._say("application/json", json.dumps(answer).encode())

    def _say(self, kind: str, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def serve(host: str, port: int, models: list[str]) -> None:
    """Answer until told to stop; what runs then ends."""
    Answer.models = tuple(models)
    server = ThreadingHTTPServer((host, port), Answer)
    server.daemon_threads = False
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print("listening", flush=True)
    server.serve_forever(poll_interval=0.05)
    server.server_close()  # waits for the answers that run


def store() -> Path:
    return Path(os.environ.get("OLLAMA_MODELS") or Path.home() / ".ollama/models")


def pulled(name: str) -> None:
    """Weights as Ollama keeps them: a blob by its sum, and a manifest by the model's name."""
    content = f"weights of {name}".encode()
    blob = store() / "blobs" / f"sha256-{hashlib.sha256(content).hexdigest()}"
    manifest = store() / "manifests" / name
    for path, text in ((blob, content), (manifest, b"{}")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)


def ollama(words: list[str]) -> None:
    host, _, port = os.environ.get("OLLAMA_HOST", "127.0.0.1:11434").rpartition(":")
    url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    if words == ["serve"]:
        written(str(Path.home() / ".ollama"))  # its key pair (cmd.go, initializeKeypair): without it, it ends
        store().mkdir(parents=True, exist_ok=True)
        manifests = store() / "manifests"
        have = [str(one.relative_to(manifests)) for one in manifests.rglob("*") if one.is_file()]
        serve(host, int(port), have)
    elif words == ["ps"] or (words[:1] == ["pull"] and len(words) == 2):
        body = json.dumps({"model": words[1]}).encode() if words[0] == "pull" else None
        try:
            with urllib.request.urlopen(f"{url}/api/{words[0]}", body, timeout=4) as answer:
                answer.read()
        except OSError as error:
            sys.exit(f"Error: could not connect to ollama server: {error}")
    else:
        sys.exit(f"Error: unknown command {words}")


def main() -> None:
    words = sys.argv[1:]
    if NAME == "ollama":
        ollama(words)
        return
    if words[:1] != ["serve"]:
        sys.exit(f"{NAME}: error: argument subparser: invalid choice: {words[:1]}")
    model = words[1] if NAME == "vllm" else ""
    said = parsed(words[2 if model else 1 :])
    checkpoint(model or said["--model-path"])
    if drafts := said.get("--speculative-config"):
        checkpoint(json.loads(drafts)["model"])
    json.loads(said.get("--default-chat-template-kwargs", "{}"))
    written(os.environ.get("VLLM_CACHE_ROOT") or os.environ["TRITON_CACHE_DIR"])
    serve(said["--host"], int(said["--port"]), [said["--served-model-name"]])


main()
