"""A `gemstead serve` that tests drive: started from a file, asked over HTTP, seen as its operator sees it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2

GEMSTEAD = [sys.executable, "-m", "gemstead"]
MODEL = "gemma-4-31b"


def environment(**more: str) -> dict[str, str]:
    """Ours without its own settings; one thread an engine, or two replicas wait for one another on two processors."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GEMSTEAD_")}
    # The first constrained answer would start a C++ compiler for minutes.
    tame = {"OMP_NUM_THREADS": "1", "TORCH_COMPILE_DISABLE": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    return {**kept, **tame, **more}


def until(holds: Callable[[], Any], seconds: float, told: Callable[[], str] = lambda: "") -> Any:
    """What `holds()` returns once it is true.

    Raises:
        AssertionError: it was not, within that time.
    """
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not within {seconds} s\n{told()}"
        time.sleep(0.1)
    return found


class Service:
    """A running service in a folder of its own."""

    def __init__(self, folder: Path, text: str, *, engines: Path) -> None:
        self.folder, self.state = folder, folder / "state"
        self.file = folder / "gemstead.yaml"
        self.file.write_text(text)
        self.state.mkdir()
        (self.state / "engines").symlink_to(engines)
        self._output = folder / "serve.out"

    def __enter__(self) -> Service:
        words = ["serve", "--set", f"state_dir={self.state}", "--set", "gateway.keys=off"]
        words += ["--set", "gateway.listen=127.0.0.1:0", "--set", "admin.listen=127.0.0.1:0"]
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [*GEMSTEAD, *words],
                cwd=self.folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(90)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise AssertionError("`gemstead serve` did not end within 90 s of SIGTERM") from None

    def gemstead(self, *words: str, within_s: float = 120) -> subprocess.CompletedProcess[str]:
        command = [*GEMSTEAD, *words, "--set", f"state_dir={self.state}"]
        return subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=within_s, env=environment()
        )

    def status(self) -> dict[str, Any]:
        done = self.gemstead("ps", "--json")
        return json.loads(done.stdout) if done.returncode == 0 else {"endpoints": []}

    def endpoints(self) -> list[dict[str, Any]]:
        return [one for one in self.status()["endpoints"] if one["engine"] != "external"]

    def ready_count(self) -> int:
        return sum(one["ready"] for one in self.endpoints())

    def wait_ready(self, *, replicas: int, within_s: float) -> None:
        until(
            lambda: (self.state / "running.json").exists() or self.process.poll() is not None, 30, self.told
        )
        assert self.process.poll() is None, self.told()
        card = json.loads((self.state / "running.json").read_text())
        self.url, self.admin = card["gateway"], card["admin"]
        until(lambda: self.ready_count() == replicas, within_s, self.told)

    def told(self) -> str:
        """What the service and its engines said last, for a test that fails."""
        said = [self._output.read_text(errors="replace")[-3000:]]
        said += [json.dumps(one) for one in self.endpoints()] if self.process.poll() is None else []
        for log in sorted((self.state / "logs").glob("*.log")):
            said.append(f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-12:]))
        return "\n".join(said)

    def client(self, seconds: float = 120) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, trust_env=False, timeout=seconds)

    def ask(self, text: str, **more: Any) -> dict[str, Any]:
        """The answer to one question, whole."""
        with self.client() as client:
            answer = client.post("/v1/chat/completions", json=question(text, **more))
        assert answer.status_code == 200, answer.text
        return answer.json()

    def metric(self, endpoint: dict[str, Any], name: str) -> float:
        """The sum of an engine's own metric over its labels."""
        with httpx2.Client(trust_env=False, timeout=10) as client:
            text = client.get(f"http://{endpoint['address']}/metrics").text
        values = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        assert values, f"{name} is not among the metrics"
        return sum(map(float, values))


def question(text: str, **more: Any) -> dict[str, Any]:
    base = {
        "model": MODEL,
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": 64,
    }
    return {**base, **more}


def pieces(client: httpx2.Client, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The chunks of a stream, up to its [DONE].

    Raises:
        AssertionError: it was refused, or ended without one.
    """
    with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as answer:
        assert answer.status_code == 200, answer.read().decode()
        for line in answer.iter_lines():
            if line == "data: [DONE]":
                return
            if line.startswith("data: "):
                yield json.loads(line[6:])
    raise AssertionError("the stream ended without [DONE]")


class Load:
    """Callers who ask again and again until told to stop; what came back is counted."""

    def __init__(self, service: Service, callers: int) -> None:
        self._service, self._stop = service, threading.Event()
        self.served = 0
        self.failed: list[str] = []
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(place,)) for place in range(callers)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(180)
        assert not any(thread.is_alive() for thread in self._threads), "a caller still waits for its answer"

    def _run(self, place: int) -> None:
        with self._service.client(180) as client:
            while not self._stop.is_set():
                try:
                    said = self._one(client, stream=place % 2 == 0)
                except Exception as problem:
                    said = f"{type(problem).__name__}: {problem}"
                with self._lock:
                    self.served += not said
                    if said:
                        self.failed.append(said)
                if said:
                    time.sleep(0.2)

    def _one(self, client: httpx2.Client, *, stream: bool) -> str:
        """What was wrong with one answer; empty: nothing."""
        body = question("Count to 30", max_tokens=48)
        if stream:
            chunks = list(pieces(client, body))
            errors = [chunk["error"] for chunk in chunks if "error" in chunk]
            return f"error in the stream: {errors}" if errors else ""
        answer = client.post("/v1/chat/completions", json=body)
        return "" if answer.status_code == 200 else f"{answer.status_code} {answer.text[:300]}"
