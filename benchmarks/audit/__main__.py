"""Writes records for some seconds through the product's own Writer, then verifies the chain.

`--rate` puts so many a second, as a gateway would (default: as fast as they are taken, held below 50,000 in memory).
Says records a second of wall time (from the first one written to the close, and while they were put), how many waited
in memory at most, and microseconds of CPU of this process for each, with and without the sealing, and
the same for verification. With `--processes` several write one file at once.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

from gemstead.ledger import audittable, chain
from gemstead.ledger.acts import checkpoint
from gemstead.ledger.audit import AuditRecord
from gemstead.ledger.proof import verify
from gemstead.ledger.signing import Signer, known_keys
from gemstead.ledger.writer import Writer


def record(name: str, number: int) -> AuditRecord:
    """A served call, as a gateway writes it."""
    return AuditRecord(
        call_id=f"req_{name}{number:08x}",
        began=time.time(),
        route="/v1/chat/completions",
        tenant="acme",
        app="assistant",
        user="u1234",
        key_id="gms_abcdefgh",
        client="10.1.2.3",
        model="gemma-4-e2b",
        pool="gemma-4-e2b",
        endpoint="gemma-4-e2b-0",
        version="3d1f4a",
        prompt_hash="hmac-sha256:1:" + "ab" * 32,
        stream=True,
        attempts=1,
        prompt_tokens=512,
        cached_tokens=128,
        output_tokens=200,
        tokens_from="engine",
        bytes_in=2400,
        bytes_out=31000,
        first_token_s=0.25,
        seconds=3.5,
        status=200,
        outcome="served",
    )


def write(path: Path, name: str, seconds: float, rate: float, told: multiprocessing.Queue) -> None:
    """Put records for so long; tells how many, the wall and the CPU time."""
    writer = Writer(path)
    writer.put(record(name, 0))
    while not writer.written:  # the file is made, and its writer runs
        time.sleep(0.001)
    began, cpu, put = time.monotonic(), time.process_time(), 1
    making, most_held = 0.0, 0
    while (now := time.monotonic() - began) < seconds:
        if (rate and put > now * rate) or writer.held > 50_000:
            most_held = max(most_held, writer.held)
            time.sleep(0.001)
            continue
        at = time.thread_time()
        for _ in range(100):
            put += 1
            one = record(name, put)
            writer.put(one)
        making += time.thread_time() - at
    steady = (writer.written - 1) / (time.monotonic() - began)
    unwritten = writer.close(within_s=60)
    wall, cpu = time.monotonic() - began, time.process_time() - cpu - making
    told.put((put - unwritten, wall, cpu, steady, most_held))


def without_sealing(count: int) -> float:
    """Microseconds of CPU that sealing one record takes."""
    rows = [record("x", number) for number in range(count)]
    at = time.process_time()
    texts = [audittable.sealed(one)[1] for one in rows]
    chain.links(b"\0" * 32, 0, texts)
    sealing = time.process_time() - at
    at = time.process_time()
    for one in rows:
        audittable.row(one)
    return (sealing - (time.process_time() - at)) / count * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.audit", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument(
        "--rate", type=float, default=0.0, help="records a second of each process (0: all it can)"
    )
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "audit.db"
        told: multiprocessing.Queue = multiprocessing.Queue()
        work = [
            multiprocessing.Process(target=write, args=(path, f"{n:x}", args.seconds, args.rate, told))
            for n in range(args.processes)
        ]
        for process in work:
            process.start()
        results = [told.get() for _ in work]
        for process in work:
            process.join()
        count, wall, cpu = sum(r[0] for r in results), max(r[1] for r in results), sum(r[2] for r in results)
        signer = Signer(Path(folder) / "audit.key")
        checkpoint(path, signer, time.time())
        size = path.stat().st_size
        at, cpu_at = time.monotonic(), time.process_time()
        found = verify(path, known_keys(Path(folder) / "audit.key"))
        verifying, verifying_cpu = time.monotonic() - at, time.process_time() - cpu_at
    assert found.fault is None and found.vouched == count, found
    said = {
        "records": count,
        "records_per_s": round(count / wall),
        "while_putting_per_s": round(sum(r[3] for r in results)),
        "most_held": max(r[4] for r in results),
        "writing_cpu_us": round(cpu / count * 1e6, 1),
        "of_it_sealing_us": round(without_sealing(20_000), 1),
        "bytes_per_record": round(size / count),
        "verified_per_s": round(count / verifying),
        "verifying_cpu_us": round(verifying_cpu / count * 1e6, 1),
        "load": os.getloadavg()[0],
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main()
