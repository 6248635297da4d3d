"""How grpcio is set before it is loaded, because it reads its environment once.

grpcio 1.85 runs its sockets on its "event engine", which passes each message through more threads than its older
poller: without it a call costs a fifth to a quarter less CPU, and one call at a time up to a third (docs/epp.md).
Handlers for forks are of no use to a process that never forks. Whoever has set these variables is left to it; a grpcio
that no longer knows an experiment says so in one line and goes on.
"""

from __future__ import annotations

from collections.abc import MutableMapping

EXPERIMENTS = "-event_engine_listener,-event_engine_client,-event_engine_callback_cq"


def prepare(environ: MutableMapping[str, str]) -> None:
    """Set what is not set. Call it before anything imports grpcio."""
    environ.setdefault("GRPC_EXPERIMENTS", EXPERIMENTS)
    environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
