"""Why the engine cannot start, in one sentence each, found before llama.cpp is loaded or read from what it said.

llama.cpp itself reports every failure to load as "Failed to init server"; the reason is only in its log.
"""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

from gemstead.embedded.options import Options
from gemstead.engines import llamacpp

MAGIC = b"GGUF"


class CannotStart(Exception):
    """One sentence for the user."""


def check(options: Options) -> None:
    """Nothing, when the machine, the files and the port are as they must be.

    Raises:
        CannotStart: saying what is wrong and what to do.
    """
    check_cpu(platform.machine(), _cpu_flags())
    _check_gguf(options.model, "model")
    if options.projector:
        _check_gguf(options.projector, "projector")
    if options.port:
        _check_port(options.host, options.port)


def explain(said: str, options: Options) -> str:
    """Why loading failed, from what llama.cpp wrote meanwhile."""
    events = [event for line in said.splitlines() if (event := llamacpp.read_log(line)) and event.fatal]
    if events:
        first = min(events, key=lambda event: llamacpp.FATAL.index(event.kind))
        return f"{options.model}: {first.sentence}"
    return f"{options.model}: llama.cpp could not load it; its own words are above"


def check_cpu(arch: str, flags: set[str]) -> None:
    """Nothing, when the engine's code runs on this CPU; `flags` empty: not known.

    The wheels for x86-64 are built for AVX2 and FMA without a fallback: an older CPU would die of SIGILL.

    Raises:
        CannotStart: naming what the CPU lacks.
    """
    if arch.lower() in ("x86_64", "amd64") and flags and not {"avx2", "fma"} <= flags:
        raise CannotStart(
            "this CPU has no AVX2 and FMA, which the embedded engine needs (Intel since 2013, AMD since 2015); "
            "on a virtual machine choose the CPU type `host`, or use `endpoints` of an engine elsewhere"
        )


def _cpu_flags() -> set[str]:
    """Lower-case CPU feature names; empty when they cannot be read."""
    try:
        if sys.platform == "darwin":
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.features", "machdep.cpu.leaf7_features"]
            text = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout  # noqa: S603
            return set(text.lower().split())
        with Path("/proc/cpuinfo").open(encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("flags"):
                    return set(line.partition(":")[2].split())
    except (OSError, subprocess.SubprocessError):
        pass
    return set()


def _check_gguf(path: str, what: str) -> None:
    try:
        with Path(path).open("rb") as file:
            start = file.read(4)
    except FileNotFoundError:
        raise CannotStart(f"{path}: there is no such {what} file") from None
    except IsADirectoryError:
        raise CannotStart(f"{path} is a folder; name the GGUF file in it") from None
    except OSError as error:
        raise CannotStart(f"{path}: the {what} cannot be read ({os.strerror(error.errno or 0)})") from None
    if start != MAGIC:
        raise CannotStart(f"{path} is not a GGUF file; delete it and fetch it again, or name another {what}")


def _check_port(host: str, port: int) -> None:
    """As llama.cpp's server would bind it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            raise CannotStart(f"cannot listen on {host}:{port}: {reason}; choose another port") from None
