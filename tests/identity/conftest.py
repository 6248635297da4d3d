"""A real OpenID provider, installed once into a cache folder and started by the tests that want one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx2
import pytest

PINNED = "oidc-provider@9.13.3"
SCRIPT = Path(__file__).parents[1] / "data" / "oidc" / "provider.mjs"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gemstead" / "tests" / "oidc"


@dataclass
class OpenIdProvider:
    issuer: str
    process: subprocess.Popen

    def do(self, word: str) -> None:
        """Tell it to rotate its keys, hide them, or show them again."""
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        assert json.loads(self.process.stdout.readline()) == {"done": word}

    def machine_token(self, **more) -> str:
        asked = {"grant_type": "client_credentials", "resource": "urn:gemstead", **more}
        answer = httpx2.post(
            f"{self.issuer}/token", data=asked, auth=("machine", "of-the-machine"), trust_env=False
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["access_token"]


@pytest.fixture(scope="session")
def package() -> Path:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs node and npm (Debian: nodejs npm)")
    entry = CACHE / "node_modules" / "oidc-provider" / "lib" / "index.js"
    if not entry.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(CACHE), PINNED],
            capture_output=True,
            text=True,
            timeout=180,
        )
        if done.returncode:
            pytest.skip(f"npm cannot install {PINNED}: {done.stderr[-300:]}")
    return entry


@pytest.fixture
def provider(package):
    process = subprocess.Popen(
        ["node", str(SCRIPT)],
        env={**os.environ, "OIDC_PROVIDER": str(package), "NODE_NO_WARNINGS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        port = json.loads(process.stdout.readline())["port"]
        yield OpenIdProvider(f"http://127.0.0.1:{port}", process)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


class _Form(HTMLParser):
    """The first form of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action, self.fields, self.found = "", {}, False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        said = dict(attrs)
        if tag == "form" and not self.found:
            self.found, self.action = True, said.get("action", "")
        elif tag in ("input", "button") and self.found and said.get("name"):
            self.fields.setdefault(said["name"], said.get("value") or "")


def browse(url: str, user: str, *, until: str) -> str:
    """What a person does in a browser: sign in, agree. Returns the address that starts with `until`, unvisited."""
    with httpx2.Client(trust_env=False, timeout=10) as browser:
        answer = browser.get(url)
        for _ in range(20):
            if answer.is_redirect:
                url = urljoin(str(answer.url), answer.headers["location"])
                if url.startswith(until):
                    return url
                answer = browser.get(url)
                continue
            form = _Form(answer.text)
            if not form.found:
                return answer.text
            fields = {**form.fields}
            if "login" in fields:
                fields |= {"login": user, "password": "any"}
            fields.pop("abort", None)
            answer = browser.post(urljoin(str(answer.url), form.action), data=fields)
    raise AssertionError(f"no end: {answer.url} {answer.text[:500]}")


@pytest.fixture
def sign_in():
    return browse


def gemstead(*words, env=None, **how):
    """The command line, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "gemstead", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
        **how,
    )


def port_of(url: str) -> int:
    return urlsplit(url).port or 80
