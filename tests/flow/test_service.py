"""`gemstead serve` as users run it: a process, the real engine, the demonstration model."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

QUESTION = {"messages": [{"role": "user", "content": "What is the capital of Peru?"}], "model": "gemma-4-e2b"}
COUNT = {"messages": [{"role": "user", "content": "Count to 50"}], "model": "gemma-4-e2b", "stream": True}

pytestmark = pytest.mark.live


class Service:
    def __init__(self, folder: Path, *options: str, demo=True, file: str | None = None, **env: str) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.options = ["--set", f"state_dir={self.state}"]
        if file is not None:
            (folder / "gemstead.yaml").write_text(file)
        free = ["--set", "gateway.listen=127.0.0.1:0", "--set", "admin.listen=127.0.0.1:0"]
        self.output = folder / "serve.out"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*GEMSTEAD, "serve", *(["--demo"] if demo else []), *self.options, *free, *options],
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(**env),
            )

    @property
    def said(self) -> str:
        return self.output.read_text()

    def find(self, pattern: str, seconds: float = 30.0) -> str:
        wait_until(lambda: re.search(pattern, self.said) or self.process.poll() is not None, seconds)
        found = re.search(pattern, self.said)
        assert found, self.said
        return found[1] if found.groups() else found[0]

    def ready(self) -> Service:
        self.find("Ready after")
        self.key = self.find(r"only now: +(gms_\w+)")
        self.url = self.find(r"gateway on (http://\S+?),")
        self.admin = self.find(r"admin on (http://\S+)")
        return self

    def gemstead(self, *words: str) -> subprocess.CompletedProcess[str]:
        return gemstead(*words, *self.options, cwd=self.folder)

    def status(self) -> dict:
        return json.loads(self.gemstead("ps", "--json").stdout)

    def pids(self) -> list[int]:
        status = self.status()
        return [one["pid"] for one in (*status["endpoints"], *status["workers"])]

    def http(self) -> httpx2.Client:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx2.Client(base_url=self.url, headers=headers, trust_env=False, timeout=30)


GEMSTEAD = [sys.executable, "-m", "gemstead"]


def environment(**more: str) -> dict[str, str]:
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("GEMSTEAD", "HF_"))}
    return {**keep, "PYTHONUNBUFFERED": "1", **more}


def gemstead(*words: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*GEMSTEAD, *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(**more),
        stdin=subprocess.DEVNULL,
    )


def wait_until(holds, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "too late"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextmanager
def serving(folder: Path, *options: str, **more):
    service = Service(folder, *options, **more)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            service.process.send_signal(signal.SIGTERM)
            try:
                service.process.wait(20)
            except subprocess.TimeoutExpired:
                service.process.kill()
        service.process.wait()


def test_from_nothing_to_a_governed_answer(tmp_path):
    with serving(tmp_path) as service:
        service.ready()
        assert "the demonstration model" in service.said
        curl = next(line.strip() for line in service.said.splitlines() if line.strip().startswith("curl "))
        pasted = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, timeout=30)
        assert "Lima" in json.loads(pasted.stdout)["choices"][0]["message"]["content"]
        python = next(line.strip() for line in service.said.splitlines() if "python3 -c" in line)
        line = python.replace("python3", f"{sys.executable} -I -S", 1)  # nothing but Python
        pasted = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
        assert "Lima" in pasted.stdout
        assert "Lima" in service.gemstead("run", "What is the capital of Peru?").stdout
        assert httpx2.get(f"{service.admin}/readyz").json() == {
            "ready": True,
            "models": {"gemma-4-e2b": True},
        }
        assert 'outcome="served"} ' in httpx2.get(f"{service.admin}/metrics").text
        assert service.gemstead("stop").returncode == 0
        assert service.process.wait(10) == 0


def test_a_second_one_says_that_the_first_runs(tmp_path):
    with serving(tmp_path) as service:
        service.ready()
        second = service.gemstead("serve", "--demo")
        assert second.returncode == 1
        assert f"already running: pid {service.process.pid}, gateway {service.url}" in second.stderr
        port = service.url.rpartition(":")[2]
        other = gemstead(
            *("serve", "--demo", "--set", f"state_dir={tmp_path / 'other'}"),
            *("--set", f"gateway.listen=127.0.0.1:{port}", "--set", "admin.listen=127.0.0.1:0"),
            cwd=tmp_path,
        )
        assert other.returncode == 1
        assert "another program has this port" in other.stderr
        assert "--set gateway.listen=" in other.stderr


def test_nothing_survives_kill_9_and_it_starts_again(tmp_path):
    with serving(tmp_path) as service:
        pids = service.ready().pids()
        assert len(pids) == 2
        service.process.kill()
        service.process.wait()
        wait_until(lambda: not any(alive(pid) for pid in pids), 2)
        assert service.gemstead("ps").returncode == 1
        with serving(tmp_path) as again:
            again.find("Ready after")
            assert "Calls need a key" in again.said, "the first key is shown once"


def test_ctrl_c_finishes_what_runs(tmp_path):
    with serving(tmp_path) as service:
        pids = service.ready().pids()
        with service.http() as http, http.stream("POST", "/v1/chat/completions", json=COUNT) as response:
            lines = response.iter_lines()
            next(lines)
            service.process.send_signal(signal.SIGINT)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert service.process.wait(10) == 0
        assert not any(alive(pid) for pid in pids)


def test_an_engine_that_dies_or_hangs_is_restarted(tmp_path):
    watch = ("--set", "supervise.hang_s=2", "--set", "supervise.backoff_s=0.1")
    with serving(tmp_path, *watch) as service, service.ready().http() as http:
        long = {**COUNT, "ignore_eos": True, "max_tokens": 7000, "stream": False}
        assert http.post("/v1/chat/completions", json=long).status_code == 200, "long work is no hang"
        assert service.status()["endpoints"][0]["restarts"] == 0
        os.kill(service.status()["endpoints"][0]["pid"], signal.SIGKILL)
        wait_until(lambda: service.status()["endpoints"][0]["restarts"] == 1)
        wait_until(lambda: service.status()["endpoints"][0]["ready"])
        os.kill(service.status()["endpoints"][0]["pid"], signal.SIGSTOP)
        with pytest.raises(httpx2.TimeoutException):
            http.post("/v1/chat/completions", json=QUESTION, timeout=1.5)
        wait_until(lambda: service.status()["endpoints"][0]["restarts"] == 2)
        wait_until(lambda: service.status()["endpoints"][0]["ready"])
        assert "Lima" in http.post("/v1/chat/completions", json=QUESTION).text


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_process_of_a_service_leaves_a_dump_or_runs_short_of_files(tmp_path):
    with serving(tmp_path) as service:
        service.ready()
        for pid in (service.process.pid, *service.pids()):
            limits = Path(f"/proc/{pid}/limits").read_text()
            assert re.search(r"Max core file size +0 +0 ", limits), pid
            soft, hard = re.search(r"Max open files +(\d+) +(\d+)", limits).groups()
            assert int(soft) >= min(int(hard), 65_536), pid


def test_a_changed_file_is_applied_and_a_bad_one_is_not(tmp_path):
    with serving(tmp_path, file="limits: {concurrent: 9}\n") as service, service.ready().http() as http:
        file = tmp_path / "gemstead.yaml"
        file.write_text("limits: {concurrant: 9}\n")
        refused = service.gemstead("reload")
        assert refused.returncode == 2
        assert "gemstead.yaml:1 limits.concurrant" in refused.stderr
        assert http.post("/v1/chat/completions", json=QUESTION).status_code == 200
        file.write_text("models: [{name: gemma-4-e2b, aliases: [assistant], replicas: 2}]\n")
        service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: sum(one["ready"] for one in service.status()["endpoints"]) == 2)
        named = http.post("/v1/chat/completions", json={**QUESTION, "model": "assistant"})
        assert named.status_code == 200
        assert service.gemstead("reload").stdout == "nothing has changed\n"
        other = tmp_path / "other.yaml"
        other.write_text("limits: {concurrent: 9}\n")
        said = service.gemstead("reload", "-c", str(other)).stdout
        assert f"note: the service goes by {file}; {other} was not read" in said
        file.write_text("models: [{name: gemma-4-e2b, context: 2048}]\nrollout: {settle_s: 1}\n")
        assert "replacing: gemma-4-e2b" in service.gemstead("reload").stdout
        busy = service.gemstead("reload")
        assert busy.returncode == 1
        assert "the file was not read: gemma-4-e2b is still being changed" in busy.stderr


def test_without_a_network_the_demonstration_model_stands_in_and_says_so(tmp_path):
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf")}
    named = gemstead(
        *("serve", "gemma4:e4b", "--set", f"state_dir={tmp_path / 's'}"),
        *("--set", "gateway.listen=127.0.0.1:0", "--set", "admin.listen=127.0.0.1:0"),
        cwd=tmp_path,
        **nowhere,
    )
    assert named.returncode == 1
    assert "cannot be reached" in named.stderr
    assert "--demo" in named.stderr
    with serving(tmp_path, demo=False, **nowhere) as service:
        service.find("serving the small demonstration model instead")
        service.ready()


def test_a_state_folder_that_cannot_be_one_is_said_with_what_to_do(tmp_path):
    file = tmp_path / "file"
    file.touch()
    refused = gemstead("serve", "--demo", "--set", f"state_dir={file}", cwd=tmp_path)
    assert refused.returncode == 1
    assert str(file) in refused.stderr
    assert "--set state_dir=" in refused.stderr


def test_ctrl_c_does_not_wait_for_a_hub_that_says_nothing(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hub = {"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}", "HF_HOME": str(tmp_path / "hf")}
        with serving(tmp_path, demo=False, **hub) as service:
            service.find("gateway on")
            connection, _ = silent.accept()
            service.process.send_signal(signal.SIGINT)
            assert service.process.wait(2.5) == 130, "the hub's own time is 4 s and more"
            connection.close()
