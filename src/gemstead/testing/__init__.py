"""Pretend engines and real gateways for tests, shipped and supported: yours may use them too.

Nothing here patches anything: a pretend engine is a server on a real loopback port, a gateway is a real
process.
"""

from __future__ import annotations

from gemstead.testing.answers import words
from gemstead.testing.engine import FakeEngine
from gemstead.testing.gateway import MadeKey, Worker, make_key, start_worker
from gemstead.testing.script import Script
from gemstead.testing.wire import Seen

__all__ = ["FakeEngine", "MadeKey", "Script", "Seen", "Worker", "make_key", "start_worker", "words"]
