"""A started gateway: asked for its first answer, paused while others are measured, weighed, and ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from benchmarks.gateway.processes import cpu_s, pss_bytes, rss_bytes, signal_tree, spawn, stop
from benchmarks.gateway.subjects import Launch, Place, Subject, free_port
from benchmarks.gateway.tools import MODEL

START_LIMIT_S = 90.0


class DidNotStart(Exception):
    """The gateway gave no good answer in time; the message holds the end of its log."""


class Gateway:
    """One subject, running. `start_s` is the time from the start of its process to its first whole answer."""

    def __init__(
        self, subject: Subject, folder: Path, engine_ports: list[int], cpus: frozenset[int], workers: int = 1
    ) -> None:
        """
        Raises:
            DidNotStart: it ended, or gave no answer with status 200 within START_LIMIT_S.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.subject, self.port, self._log = subject, free_port(), folder / "log"
        launch: Launch = subject.prepare(Place(folder, engine_ports, self.port, workers))
        self.key = launch.key
        began = time.monotonic()
        with self._log.open("wb") as log:
            self.processes: list[subprocess.Popen[bytes]] = [
                spawn(command, cpus, stdout=log, stderr=log, env={**os.environ, **launch.env}, cwd=folder)
                for command in launch.commands
            ]
        try:
            self._wait_for_an_answer(began + START_LIMIT_S)
        except BaseException:
            self.close()
            raise
        self.start_s = time.monotonic() - began

    def _wait_for_an_answer(self, until: float) -> None:
        answer = b"nothing"
        while time.monotonic() < until:
            if any(process.poll() is not None for process in self.processes):
                raise DidNotStart(f"{self.subject.name} ended at its start: {self.last_words()}")
            try:
                answer = ask(self.port, request(self.key))
            except OSError:
                answer = b"no connection"
            if answer.startswith(b"HTTP/1.1 200"):
                return
            time.sleep(0.005)
        raise DidNotStart(
            f"{self.subject.name} did not answer; last: {answer[:300]!r}; log: {self.last_words()}"
        )

    def last_words(self) -> str:
        return self._log.read_text(errors="replace")[-1500:]

    def pause(self) -> None:
        for process in self.processes:
            signal_tree(process, signal.SIGSTOP)

    def resume(self) -> None:
        for process in self.processes:
            signal_tree(process, signal.SIGCONT)

    def alive(self) -> bool:
        return all(process.poll() is None for process in self.processes)

    def cpu_s(self) -> float:
        return sum(cpu_s(process.pid) for process in self.processes)

    def cpu_each_s(self) -> list[float]:
        return [cpu_s(process.pid) for process in self.processes]

    def rss_bytes(self) -> int:
        return sum(rss_bytes(process.pid) for process in self.processes)

    def pss_bytes(self) -> int:
        return sum(pss_bytes(process.pid) for process in self.processes)

    def close(self) -> None:
        self.resume()
        for process in self.processes:
            stop(process)


def request(key: str, *, stream: bool = False, prompt: str = "Hello", headers: str = "") -> bytes:
    """A whole chat request as bytes. `headers`: further lines, each with its line end."""
    options = ',"stream":true,"stream_options":{"include_usage":true}' if stream else ""
    body = (
        f'{{"model":"{MODEL}","messages":[{{"role":"user","content":"{prompt}"}}],"max_tokens":1024{options}}}'
    ).encode()
    authorization = f"authorization: Bearer {key}\r\n" if key else ""
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"{authorization}{headers}content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def ask(port: int, data: bytes, timeout_s: float = 10.0) -> bytes:
    """What comes back first for one request on a connection of its own; b"" if the gateway just closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as wire:
        try:
            wire.sendall(data)
        except (BrokenPipeError, ConnectionResetError):  # refused before we had sent everything
            pass
        try:
            return wire.recv(65536)
        except ConnectionResetError:
            return b""
