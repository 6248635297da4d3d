"""The real service for client tests: `gemstead serve --demo` on free ports, in a folder of its own.

To run these tests against a service that is already there, name it: `LIVE_URL` (and `LIVE_KEY`).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

START_S = 60.0
LISTEN = ("--set", "gateway.listen=127.0.0.1:0", "--set", "admin.listen=127.0.0.1:0")


@dataclass(frozen=True)
class Service:
    """Where the service is, and a key that opens it."""

    url: str
    key: str
    model: str
    admin: str = ""  # empty: not ours to ask
    state: Path | None = None

    @property
    def v1(self) -> str:
        return self.url + "/v1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.live)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    if url := os.environ.get("LIVE_URL"):
        key = os.environ.get("LIVE_KEY", "")
        yield Service(url, key, first_model(url, key))
        return
    folder = tmp_path_factory.mktemp("service")
    state, log = folder / "state", folder / "serve.log"
    words = ("serve", "--demo", *LISTEN, "--set", f"state_dir={state}")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gemstead.cli.main", *words],
            cwd=folder,
            env={name: value for name, value in os.environ.items() if not name.startswith("GEMSTEAD_")},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        card = wait_ready(process, state / "running.json", log)
        key = make_key(state)
        yield Service(card["gateway"], key, first_model(card["gateway"], key), card["admin"], state)
    finally:
        end(process)


def wait_ready(process: subprocess.Popen[bytes], card_path: Path, log: Path) -> dict[str, str]:
    """The running service's card, once a model answers."""
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        try:
            card: dict[str, str] = json.loads(card_path.read_text())
            with urllib.request.urlopen(card["admin"] + "/readyz", timeout=5):
                return card
        except (OSError, ValueError, urllib.error.URLError):
            time.sleep(0.05)
    pytest.fail(f"`gemstead serve --demo` did not become ready:\n{log.read_text()}")


def make_key(state: Path) -> str:
    """A key of a tenant of our own."""
    from gemstead.ledger.keys import Grant, open_keys
    from gemstead.ledger.secrets import secret_at

    store = open_keys(state / "keys.db", secret_at(state / "pepper"))
    return store.create(Grant(tenant="live-tests"), now=time.time()).secret


def first_model(url: str, key: str) -> str:
    request = urllib.request.Request(url + "/v1/models", headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(json.load(answer)["data"][0]["id"])


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop the service; its supervisor takes everything else with it."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        pytest.fail("`gemstead serve` did not end within 30 s of SIGTERM")


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """A folder with `node/`'s packages installed, kept between runs; tests that need it are skipped without npm."""
    source = Path(__file__).parent / "node"
    wanted = (source / "package.json").read_text()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gemstead-tests" / "node"
    cache.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "client.mjs", cache)
    if (cache / "installed.json").exists() and (cache / "installed.json").read_text() == wanted:
        return cache
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("npm or node is not installed")
    (cache / "package.json").write_text(wanted)
    words = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--silent"]
    try:
        done = subprocess.run(words, cwd=cache, capture_output=True, text=True, timeout=180)
    except subprocess.TimeoutExpired:
        pytest.skip("npm install took more than three minutes")
    if done.returncode != 0:
        pytest.skip(f"npm install failed (no network?): {done.stderr[-300:]}")
    (cache / "installed.json").write_text(wanted)
    return cache
