"""Our policy beside round robin on real engines: two embedded llama.cpp replicas, callers who share long prefixes.

    python -m benchmarks.traffic.real

Each round starts `gemstead serve --demo` anew with one policy and sends it the same calls at the same times: groups of
callers, each group with a long system prompt of its own, each call with a question of its own. What is
counted is what engines say (prompt tokens found in their caches) and what callers see (time to the first token). The
model is the demonstration model, whose prompts are read far quicker than a real one's: shares count, not seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median, quantiles
from typing import Any

import httpx2

POLICIES = ("", "round-robin")
REPLICAS, SLOTS, CONTEXT = 2, 4, 4096
PREFIX_WORDS, ANSWER_TOKENS = 300, 16
READY_S = 60.0


@dataclass(frozen=True, slots=True)
class Call:
    """One call to be sent."""

    at_s: float
    group: int
    question: str


@dataclass(frozen=True, slots=True)
class Done:
    """What came of it."""

    first_s: float
    prompt: int
    cached: int


def calls(count: int, rate: float, groups: int, seed: int) -> list[Call]:
    """Calls of random groups, as they come when nobody waits for another (Poisson)."""
    dice, at_s, made = Random(seed), 0.0, []
    for number in range(count):
        at_s += dice.expovariate(rate)
        made.append(Call(at_s, dice.randrange(groups), f"Question {number}: what is {dice.random()}?"))
    return made


def prefix(group: int) -> str:
    """A group's system prompt: no two have a beginning in common."""
    dice = Random(f"group {group}")
    words = " ".join(str(dice.randrange(10**4)) for _ in range(PREFIX_WORDS))
    return f"{group}: the handbook says {words}"


@contextmanager
def service(policy: str) -> Iterator[str]:
    """A service with that policy; its address."""
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        file = {
            "models": [
                {
                    "name": "gemma-4-e2b",
                    "replicas": REPLICAS,
                    "slots": SLOTS,
                    "context": CONTEXT,
                    "threads": 1,
                }
            ],
            "gateway": {"listen": "127.0.0.1:0", "keys": "off"},
            "admin": {"listen": "127.0.0.1:0"},
            "traffic": {"policy": policy},
            "state_dir": str(at / "state"),
        }
        (at / "gemstead.yaml").write_text(json.dumps(file), "utf-8")
        with (at / "out").open("wb") as out:
            running = subprocess.Popen(
                [sys.executable, "-m", "gemstead", "serve", "--demo"], cwd=at, stdout=out, stderr=out
            )
        try:
            yield _ready(at / "out", running)
        finally:
            running.send_signal(signal.SIGINT)
            running.wait(60)


def _ready(out: Path, running: subprocess.Popen[bytes]) -> str:
    until = time.monotonic() + READY_S
    while time.monotonic() < until and running.poll() is None:
        said = out.read_text("utf-8")
        if all(f"gemma-4-e2b-{number}: ready" in said for number in range(REPLICAS)):
            found = re.search(r"gateway on (http://[\d.:]+)", said)
            assert found, said
            return found[1]
        time.sleep(0.1)
    raise SystemExit(f"the service did not become ready:\n{out.read_text('utf-8')}")


async def sent(http: httpx2.AsyncClient, url: str, call: Call, began: float) -> Done:
    """One streamed call at its time."""
    await asyncio.sleep(max(0.0, began + call.at_s - time.monotonic()))
    body = {
        "model": "gemma-4-e2b",
        "messages": [
            {"role": "system", "content": prefix(call.group)},
            {"role": "user", "content": call.question},
        ],
        "max_tokens": ANSWER_TOKENS,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    start, first = time.monotonic(), 0.0
    usage: dict[str, Any] = {}
    async with http.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            raise SystemExit(f"{response.status_code}: {(await response.aread()).decode()}")
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            first = first or time.monotonic() - start
            usage = json.loads(line[6:]).get("usage") or usage
    details = usage.get("prompt_tokens_details") or {}
    return Done(first, usage["prompt_tokens"], details.get("cached_tokens") or 0)


async def load(url: str, todo: list[Call]) -> list[Done]:
    """All calls, each at its time."""
    limits = httpx2.Limits(max_connections=200)
    async with httpx2.AsyncClient(trust_env=False, timeout=60, limits=limits) as http:
        began = time.monotonic() + 0.1
        return await asyncio.gather(*(sent(http, url, call, began) for call in todo))


def row(policy: str, number: int, done: list[Done]) -> str:
    """One round, as a row of the table."""
    share = sum(one.cached for one in done) / sum(one.prompt for one in done)
    first = [one.first_s * 1000 for one in done]
    mean_prompt = sum(one.prompt for one in done) / len(done)
    return (
        f"| {policy or 'ours'} | {number} | {len(done)} | {mean_prompt:.0f} | {share:.1%} "
        f"| {median(first):.0f} | {quantiles(first, n=100)[94]:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--rate", type=float, default=10.0, help="calls a second")
    parser.add_argument("--groups", type=int, default=40, help="that share a prompt")
    given = parser.parse_args()
    print("| policy | round | calls | prompt tokens, mean | found in caches | TTFT p50, ms | p95, ms |")
    print("|---|---|---|---|---|---|---|")
    for number in range(1, given.rounds + 1):
        todo = calls(given.calls, given.rate, given.groups, number)
        for policy in POLICIES:
            with service(policy) as url:
                print(row(policy, number, asyncio.run(load(url, todo))), flush=True)
    print(f"load average at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
