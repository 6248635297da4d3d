"""The real engine with the demonstration model, from the command line: a restart under load, and a broken
quantisation that loads and answers quickly, and is sent back before a caller meets it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time

import httpx2
import pytest

from gemstead.embedded.demonstration import demonstration

FILE = """
models: [{{name: m, file: {file}, context: 2048, slots: 2, threads: 1}}]
gateway: {{listen: "127.0.0.1:0", keys: "off"}}
admin: {{listen: "127.0.0.1:0"}}
state_dir: {state}
hub: false
rollout: {{settle_s: 1}}
batch: {{enabled: false}}
"""
COMMAND = [sys.executable, "-c", "from gemstead.cli.main import entry; entry()"]
ASK = {"model": "m", "messages": [{"role": "user", "content": "What is the capital of Peru?"}]}


def broken(source, target):
    """The model with half of its weights scrambled: every block's scale is still a number."""
    data = bytearray(source.read_bytes())
    for at in range(len(data) // 2, len(data) - 3, 7):
        data[at] = (data[at] * 37 + 11) & 0x7F
    target.write_bytes(data)


class Served:
    def __init__(self, folder):
        self.folder = folder
        self.good, self.bad = folder / "good.gguf", folder / "bad.gguf"
        model = demonstration().path
        shutil.copy(model, self.good)
        broken(self.good, self.bad)
        self.write(self.good)
        self.log = (folder / "serve.log").open("w+")
        self.process = subprocess.Popen(
            [*COMMAND, "serve"],
            cwd=folder,
            stdout=self.log,
            stderr=self.log,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self.until("Ready after")
        self.url = re.search(r"gateway on (\S+),", self.said()).group(1)

    def write(self, file):
        text = FILE.format(file=file, state=self.folder / "state")
        (self.folder / "gemstead.yaml").write_text(text)

    def said(self):
        return (self.folder / "serve.log").read_text()

    def until(self, words, seconds=60):
        ends = time.monotonic() + seconds
        while words not in self.said():
            assert time.monotonic() < ends and self.process.poll() is None, self.said()
            time.sleep(0.1)

    def run(self, *words):
        return subprocess.run([*COMMAND, *words], cwd=self.folder, capture_output=True, text=True, timeout=90)


@pytest.fixture
def served(tmp_path):
    made = Served(tmp_path)
    yield made
    made.process.terminate()
    made.process.wait(30)
    made.log.close()


@pytest.mark.slow
def test_a_restart_under_load_and_a_broken_quantisation(served):
    answers, over = [], threading.Event()

    def calling():
        with httpx2.Client(trust_env=False, timeout=30) as http:
            while not over.is_set():
                answer = http.post(f"{served.url}/v1/chat/completions", json=ASK)
                text = answer.json()["choices"][0]["message"]["content"] if answer.status_code == 200 else ""
                answers.append((answer.status_code, "Lima" in text))

    callers = [threading.Thread(target=calling, daemon=True) for _ in range(2)]
    for thread in callers:
        thread.start()
    restarted = served.run("restart", "--wait")
    assert (restarted.returncode, "done" in restarted.stdout) == (0, True), restarted
    served.write(served.bad)
    began = time.monotonic()
    assert "replacing: m-0" in served.run("reload").stdout
    waited = served.run("rollout", "--wait")
    assert waited.returncode == 1
    assert "its answers are no language" in waited.stdout
    assert time.monotonic() - began < 60
    over.set()
    for thread in callers:
        thread.join(30)
    assert len(answers) > 10
    assert set(answers) == {(200, True)}, "every caller had the right answer all the time"
    shown = served.run("ps").stdout
    assert "was sent back, the old one stays" in shown
    assert "waits" in served.run("reload").stdout
