"""Three times what a pool can do, through a real gateway process: what the others feel, what gets done, what it holds.

    python -m benchmarks.traffic.overload_live                 # 0.6, 1 and 3 times, and 2,000 streams at once
    python -m benchmarks.traffic.overload_live --seconds 20 --seeds 2

Engines are pretended with the pace of the simulator's (`testing/batching.py`) and run, like the callers, in this
process; the gateway is a worker process of its own. Four tenants send six tenths of what the engines can do (as the
simulator works it out), a fifth, the abusive one, sends the rest. All prompts are of the tenants' apps: a beginning in
common, and a rest of its own. Calls are given up after `BEGIN_S` in the queue.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean

from msgspec.structs import replace

from gemstead.ledger.keys import Grant
from gemstead.simulate.report import quantile
from gemstead.simulate.trial import capacity
from gemstead.simulate.workload import Request, Workload
from gemstead.testing.batching import SMALL, BatchingEngine
from gemstead.testing.gateway import MadeKey, make_key
from gemstead.testing.peer import post
from gemstead.testing.stack import Stack, start_stack
from gemstead.traffic.queue import QueueBounds

ENGINES, BEGIN_S = 3, 0.5
OTHERS, ABUSER, OTHERS_LOAD = ("a", "b", "c", "d"), "abuser", 0.6
SHARED, OWN, ANSWER = 256, 200, 40  # tokens, means; a word of the prompt is a token
TTFT_S, TPOT_S = 1.0, 0.04  # good: of engines whose step takes 8 to 15 ms
STREAMS = 2000
SMALL_WIDE = dataclasses.replace(SMALL, most_running=256)


@dataclass(frozen=True, slots=True)
class Done:
    """What one call got. Seconds; `first_s` below zero: nothing."""

    tenant: str
    first_s: float
    end_s: float
    tokens: int

    @property
    def is_good(self) -> bool:
        per_token = (self.end_s - self.first_s) / max(self.tokens - 1, 1)
        return 0.0 <= self.first_s <= TTFT_S and per_token <= TPOT_S


def able() -> float:
    """Calls a second that the engines get done, by the simulator."""
    dice = Random("able")
    requests = []
    for number in range(2000):
        own, answer = _lengths(dice)
        shared = tuple(hash((app, n)) for app in (dice.randrange(5),) for n in range(SHARED // 64))
        requests.append(Request(number * 0.1, SHARED + own, answer, shared))
    return capacity(Workload("calls", tuple(requests), 64), (SMALL,) * ENGINES)


def _lengths(dice: Random) -> tuple[int, int]:
    return max(1, int(dice.expovariate(1 / OWN))), max(2, int(dice.expovariate(1 / ANSWER)))


def body(tenant: str, dice: Random) -> tuple[bytes, int]:
    """A request of this tenant's, and the tokens of its answer. Words of three letters: four bytes a token."""
    own, answer = _lengths(dice)
    app = Random(f"app {tenant}")
    words = [f"{app.randrange(1000):03}" for _ in range(SHARED)]
    words += [f"{dice.randrange(1000):03}" for _ in range(own)]
    messages = [{"role": "user", "content": " ".join(words)}]
    ask = {"model": "m", "messages": messages, "max_tokens": answer, "stream": True}
    return post(ask), answer


async def one(stack: Stack, key: MadeKey, tenant: str, dice: Random) -> Done:
    """One call on a connection of its own."""
    raw, tokens = body(tenant, dice)
    head, _, rest = raw.partition(b"\r\n")
    began = time.monotonic()
    async with await stack.peer(within_s=120.0) as peer:
        await peer.send(head + f"\r\nAuthorization: Bearer {key.secret}\r\n".encode() + rest)
        if (await peer.head()).status != 200:
            return Done(tenant, -1.0, -1.0, tokens)
        await peer.chunk()
        first_s = time.monotonic() - began
        while await peer.chunk():
            pass
        return Done(tenant, first_s, time.monotonic() - began, tokens)


async def load(
    stack: Stack, keys: dict[str, MadeKey], rates: dict[str, float], seconds: float, seed: int
) -> list[Done]:
    """Send at these rates, at random moments."""
    due: list[tuple[float, str]] = []
    dice = Random(seed)
    for tenant, rate in rates.items():
        at = 0.0
        while (at := at + dice.expovariate(rate)) < seconds:
            due.append((at, tenant))
    tasks = []
    began = time.monotonic()
    for at, tenant in sorted(due):
        if (wait_s := began + at - time.monotonic()) > 0:
            await asyncio.sleep(wait_s)
        tasks.append(asyncio.create_task(one(stack, keys[tenant], tenant, dice)))
    return await asyncio.gather(*tasks)


def line(times: float, rows: Sequence[list[Done]], seconds: float) -> tuple[str, float, float]:
    """A line of the table, the others' p99 and the good calls a second."""
    p50, p99, good, others_good, refused = [], [], [], [], []
    for row in rows:
        others = [each for each in row if each.tenant != ABUSER]
        first = sorted(each.first_s for each in others if each.first_s >= 0)
        p50.append(quantile(first, 0.5))
        p99.append(quantile(first, 0.99))
        good.append(sum(each.is_good for each in row) / seconds)
        others_good.append(sum(each.is_good for each in others) / len(others))
        refused.append(sum(each.first_s < 0 for each in others) / len(others))
    text = (
        f"{times:.1f}x  others: p50 {fmean(p50):.3f} s, p99 {fmean(p99):.3f} s ({min(p99):.3f} to {max(p99):.3f}), "
        f"refused {fmean(refused):.1%}, goodput {fmean(others_good):.1%};  all: {fmean(good):.1f} good a second"
    )
    return text, fmean(p99), fmean(good)


async def crowd(folder: Path, seconds: float, seeds: int) -> None:
    """The three loads."""
    rate = able()
    print(f"{ENGINES} engines, {rate:.0f} calls a second")
    keys = {tenant: make_key(folder, Grant(tenant=tenant)) for tenant in (*OTHERS, ABUSER)}
    found = {}
    for times in (OTHERS_LOAD, 1.0, 3.0):
        rows = []
        for seed in range(seeds):
            async with AsyncExitStack() as opened:
                engines = [await opened.enter_async_context(BatchingEngine()) for _ in range(ENGINES)]
                facts = tuple(
                    replace(
                        engine.facts(f"e{place}", pool="m"), slots=SMALL.most_running, kv_tokens=SMALL.kv_tokens,
                        prefill_tokens_s=SMALL.prefill_tokens_per_s, decode_step_s=SMALL.base_s,
                        decode_step_slot_s=SMALL.each_s,
                    )
                    for place, engine in enumerate(engines)
                )  # fmt: skip
                at = Path(tempfile.mkdtemp(dir=folder))
                stack = await opened.enter_async_context(
                    start_stack(
                        folder=at, endpoints=facts, keys_required=True, keys_path=keys["a"].keys_path,
                        pepper=keys["a"].pepper, queue=QueueBounds(), aims={"": BEGIN_S},
                    )
                )  # fmt: skip
                each = OTHERS_LOAD * rate / len(OTHERS)
                rates = dict.fromkeys(OTHERS, each)
                if times > OTHERS_LOAD:
                    rates[ABUSER] = (times - OTHERS_LOAD) * rate
                await load(stack, keys, rates, 3.0, 1000 + seed)  # warms caches and rates
                rows.append(await load(stack, keys, rates, seconds, seed))
        text, *found[times] = line(times, rows, seconds)
        print(text, flush=True)
    (p99, good), (p99_over, good_over) = found[1.0], found[3.0]
    print(f"3x over 1x: p99 {p99_over / p99 - 1:+.1%}, goodput {good_over / good:.1%}")


async def streams(folder: Path) -> None:
    """Two thousand streams at once."""
    ask = json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 40, "stream": True}
    )
    raw = post(json.loads(ask))
    async with AsyncExitStack() as opened:
        engines = [await opened.enter_async_context(BatchingEngine(SMALL_WIDE)) for _ in range(ENGINES)]
        facts = tuple(
            replace(engine.facts(f"e{place}", pool="m"), slots=SMALL_WIDE.most_running)
            for place, engine in enumerate(engines)
        )
        stack = await opened.enter_async_context(start_stack(folder=folder, endpoints=facts))
        before = stack.resident_bytes()
        began = time.monotonic()
        peers = [await stack.peer(within_s=120.0) for _ in range(STREAMS)]
        for peer in peers:
            await peer.send(raw)
        most, statuses = 0, []
        for peer in peers:
            answer = await peer.answer()
            statuses.append(answer.status == 200 and answer.body.rstrip().endswith(b"data: [DONE]"))
            most = max(most, stack.resident_bytes())
            peer.close()
        took = time.monotonic() - began
        await stack.quiet()
        after = stack.resident_bytes()
        print(
            f"{STREAMS} streams at once: {sum(statuses)} answered whole, {STREAMS - sum(statuses)} not, in "
            f"{took:.1f} s; the worker's memory {before / 2**20:.0f} MiB before, at most {most / 2**20:.0f}, "
            f"{after / 2**20:.0f} after"
        )


def main(arguments: Sequence[str]) -> int:
    """Print a line for each load, and one for the streams."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.traffic.overload_live")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(crowd(Path(folder), given.seconds, given.seeds))
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(streams(Path(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
