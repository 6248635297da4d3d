"""What a pick costs: microseconds of CPU for pick, charge, first token and settle, by the size of the pool.

    python -m benchmarks.traffic.pick [--calls 2000] [--in-flight 6]

The prompt has 4,000 tokens (16 KB); half of the calls belong to conversations that come back, so their prefix is held
somewhere, and all share the first block. `hash` is cutting the prompt into blocks (`prefix.chain`), once for each
call. Pools of one take the short way. CPU time is the process's own, so other load on the machine disturbs little.
"""

from __future__ import annotations

import argparse
import sys
from random import Random
from time import process_time

from gemstead.traffic import picker as module
from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint, EndpointFacts
from gemstead.traffic.picker import Picker
from gemstead.traffic.prefix import PrefixIndex, chain
from gemstead.traffic.roster import Roster

SIZES = (1, 8, 32, 64, 256)
PROMPT_BYTES = 16_384
IN_FLIGHT = 6  # calls for each endpoint


def pool(size: int) -> Roster:
    return Roster(
        Endpoint(
            EndpointFacts(name=f"e{n}", pool="m", host="127.0.0.1", port=1, kv_tokens=1_000_000, slots=256)
        )
        for n in range(size)
    )


def measure(size: int, calls: int, in_flight: int = IN_FLIGHT) -> tuple[float, float, float]:
    """Microseconds of CPU for one pick; for charge, first token and settle together; for hashing the prompt."""
    random, endpoints = Random(1), pool(size)
    picker = Picker(PrefixIndex(), random.randrange)
    shared = random.randbytes(1024)
    prompts = [shared + random.randbytes(PROMPT_BYTES - 1024) for _ in range(200)]
    began = process_time()
    prefixes = [chain(prompt) for prompt in prompts]
    hashing = (process_time() - began) / len(prompts)
    running: list[Call] = []
    picking = keeping = 0.0
    for number in range(calls + in_flight * size):
        now = number * 0.01
        place = random.randrange(200) if number % 2 else 0
        prefix = (
            prefixes[place] if number % 2 else (prefixes[0][0], *(random.getrandbits(60) for _ in range(15)))
        )
        call = Call("m", prompt_tokens=4096, prefix=prefix if size > 1 else ())
        start = process_time()
        chosen = picker.pick(call, endpoints, now)
        picked = process_time()
        picker.charge(chosen, call)
        running.append(call)
        if len(running) > in_flight * size:
            begun = running[-1 - size]  # as many are being read as there are engines, all others are answered
            assert begun.charged_to is not None
            picker.first_token(begun.charged_to, begun, now)
            done = running.pop(random.randrange(len(running) - 1 - size))
            at = done.charged_to
            assert at is not None
            picker.settle(at, done, True, now + 0.001, 200)
        if number >= in_flight * size:
            picking += picked - start
            keeping += process_time() - picked
    return picking / calls * 1e6, keeping / calls * 1e6, hashing * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--in-flight", type=int, default=IN_FLIGHT, help="calls for each endpoint")
    asked = parser.parse_args()
    how = "compiled" if (module.__file__ or "").endswith(".so") else "interpreted"
    sys.stdout.write(f"{how}, Python {sys.version.split()[0]}; microseconds of CPU\n")
    sys.stdout.write(f"{'endpoints':>9} {'pick':>8} {'books':>8} {'hash':>8}\n")
    for size in SIZES:
        picking, keeping, hashing = measure(size, asked.calls, asked.in_flight)
        sys.stdout.write(f"{size:>9} {picking:>8.1f} {keeping:>8.1f} {hashing:>8.1f}\n")


if __name__ == "__main__":
    main()
