"""The process that sends audit records away: `python -m gemstead.ledger.ship --control-fd N`.

The head tells it what to do in one JSON line of `ShipSettings`, and again at each reload; it says what troubles it, one
JSON text a line. When the head is gone it goes too: what is not sent waits in the ledger.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading

import msgspec

from gemstead.ledger.ship.run import started
from gemstead.ledger.ship.sink import ShipSettings


def main() -> None:
    parser = argparse.ArgumentParser(prog="gemstead.ledger.ship", description="Sends audit records away.")
    parser.add_argument("--control-fd", type=int, required=True)
    sock = socket.socket(fileno=parser.parse_args().control_fd)
    try:
        os.nice(5)
    except OSError:
        pass
    lock = threading.Lock()

    def tell(sentence: str) -> None:
        sys.stderr.write(f"{sentence}\n")
        with lock:
            try:
                sock.sendall(msgspec.json.encode(sentence) + b"\n")
            except OSError:
                pass  # the head has gone, and so shall we

    shipping = None
    with sock.makefile("rb") as lines:
        try:
            for line in lines:
                settings = msgspec.json.decode(line, type=ShipSettings)
                if shipping is not None:
                    shipping.stop()
                shipping = started(settings, tell)
        except (OSError, KeyboardInterrupt):
            pass
    if shipping is not None:
        shipping.stop()
    os._exit(0)


if __name__ == "__main__":
    main()
