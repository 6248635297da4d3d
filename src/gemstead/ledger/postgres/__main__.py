"""The process that keeps a gateway in step with the store: `python -m gemstead.ledger.postgres --control-fd N`.

The head tells it what to do in JSON lines, and hears how it stands. When the head is gone it brings what is on disk
into the store, for `LAST_S` at most, and goes too: what is not there then waits for the next start.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading

import msgspec

from gemstead.ledger.postgres.beside import Beside
from gemstead.ledger.postgres.settings import Finish, ToHead, ToProcess

LAST_S = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="gemstead.ledger.postgres", description="Keeps a store in step.")
    parser.add_argument("--control-fd", type=int, required=True)
    sock = socket.socket(fileno=parser.parse_args().control_fd)
    lock = threading.Lock()

    def say(word: ToHead) -> None:
        with lock:
            try:
                sock.sendall(msgspec.json.encode(word) + b"\n")
            except OSError:
                pass  # the head has gone, and so shall we

    beside: Beside | None = None
    within_s = LAST_S
    decoder = msgspec.json.Decoder(ToProcess)
    with sock.makefile("rb") as lines:
        try:
            for line in lines:
                word = decoder.decode(line)
                if isinstance(word, Finish):
                    within_s = word.within_s
                    break
                if beside is None:
                    beside = Beside(word, say)
                else:
                    beside.follow(word)
        except (OSError, KeyboardInterrupt):
            pass
        if beside is not None and not beside.finish(within_s):
            sys.stderr.write("the store does not have every audit record yet: the rest waits on this disk\n")
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
