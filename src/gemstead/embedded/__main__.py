"""`python -m gemstead.embedded --model FILE ...`: one llama.cpp server in a process of its own.

In order: check, load, serve, drain. Prints one line of JSON on stdout once the model is loaded and the port is
open; whatever stops it before that is one sentence on stderr and exit code 1. SIGTERM and Ctrl-C let running
requests end (`--drain-s`); while the model loads they end it at once.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from typing import Any

from gemstead.embedded import drain, leash
from gemstead.embedded.faults import CannotStart, check, explain
from gemstead.embedded.options import Options, parse
from gemstead.embedded.witness import Witness

_BUSY = re.compile(r"^llamacpp:requests_(?:processing|deferred) (\d+)", re.MULTILINE)


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to end; the exit code."""
    options = parse(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)  # also inside the native call that loads
    try:
        check(options)
        server = load(options)
    except CannotStart as reason:
        print(f"gemstead: cannot start the engine: {reason}", file=sys.stderr)  # noqa: T201
        return 1
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    host, port = _address(server)
    print(json.dumps({"listening": {"host": host, "port": port, "pid": os.getpid()}}), flush=True)  # noqa: T201
    os.read(wake, 1)
    return finish(server, host, port, options.drain_s)


def load(options: Options) -> Any:
    """A running server with its model loaded.

    Raises:
        CannotStart: saying why not.
    """
    witness = Witness(options.model)
    leash.hold(options.leash_fd)
    failed: str | None = None
    try:
        import xllamacpp

        from gemstead.embedded.parameters import FieldGone, fill

        params = xllamacpp.CommonParams()
        fill(params, options, os.environ.get(options.api_key_env, ""), xllamacpp)
        return xllamacpp.Server(params)
    except ImportError as error:
        failed = f"the xllamacpp package cannot be loaded ({error}); reinstall gemstead"
    except FieldGone as gone:
        failed = (
            f"the installed xllamacpp has no parameter {gone}; install the version that gemstead asks for"
        )
    except (RuntimeError, MemoryError):
        pass
    finally:
        said = witness.dismiss()
    raise CannotStart(failed or explain(said, options))


def finish(server: Any, host: str, port: int, within_s: float) -> int:
    """Take nothing new, let what runs end, leave with code 0; a second signal leaves at once."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    drain.close_door(host, port)
    if not drain.wait_until_idle(lambda: _busy(server), within_s):
        print(f"gemstead: requests were still running after {within_s:g} s", file=sys.stderr)  # noqa: T201
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # llama.cpp's own teardown adds nothing and can wait for idle connections


def _busy(server: Any) -> int:
    return sum(int(count) for count in _BUSY.findall(server.handle_metrics()))


def _address(server: Any) -> tuple[str, int]:
    host, _, port = str(server.listening_address).rpartition("//")[2].rpartition(":")
    return host.strip("[]"), int(port)


if __name__ == "__main__":
    sys.exit(main())
