"""The command line of `python -m gemstead.embedded`, as one value."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LEVELS = {"error": 1, "warning": 2, "info": 3, "debug": 4}  # llama.cpp's verbosity, common/log.h


@dataclass(frozen=True, slots=True)
class Options:
    """How one engine process is to run. `context` is per request; the cache holds `context * slots`."""

    model: str
    projector: str = ""
    host: str = "127.0.0.1"
    port: int = 0
    context: int = 8192
    slots: int = 4
    threads: int = 1
    thinking: bool = False
    embeddings: bool = True
    alias: str = "gemma-4"
    api_key_env: str = "GEMSTEAD_ENGINE_KEY"
    prompt_cache_mib: int = 256
    drain_s: float = 60.0
    leash_fd: int = -1
    log_level: str = "info"


def parse(arguments: Sequence[str] | None = None) -> Options:
    """The options of a command line; exits with code 2 and a sentence when they make no sense."""
    parser = argparse.ArgumentParser("python -m gemstead.embedded", allow_abbrev=False)
    add = parser.add_argument
    add("--model", required=True, help="path of the GGUF file")
    add("--projector", default="", help="path of its mmproj GGUF, for images")
    add("--host", default="127.0.0.1")
    add("--port", type=_within(0, 65_535), default=0, help="0 takes a free one")
    add("--context", type=_within(64, 1_048_576), default=8192, help="tokens of one request")
    add("--slots", type=_within(1, 256), default=4, help="requests at once")
    add("--threads", type=_within(1, 512), default=1)
    add("--thinking", choices=("on", "off"), default="off", help="when a request does not say")
    add("--embeddings", choices=("on", "off"), default="on")
    add("--alias", default="gemma-4", help="the name that answers carry")
    add(
        "--api-key-env",
        default="GEMSTEAD_ENGINE_KEY",
        help="environment variable that holds the bearer token",
    )
    add(
        "--prompt-cache-mib", type=_within(0, 1_048_576), default=256, help="memory for prompts of idle slots"
    )
    add("--drain-s", type=float, default=60.0, help="for running requests to end after SIGTERM")
    add("--leash-fd", type=int, default=-1, help="end when this pipe closes")
    add("--log-level", choices=tuple(LEVELS), default="info")
    given = vars(parser.parse_args(arguments))
    return Options(
        **{**given, "thinking": given["thinking"] == "on", "embeddings": given["embeddings"] == "on"}
    )


def _within(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not least <= (value := int(text)) <= most:
            raise argparse.ArgumentTypeError(f"{value} is not within {least} to {most}")
        return value

    number.__name__ = "whole number"
    return number
