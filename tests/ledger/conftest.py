from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "counters"))

from servers import postgres_bin, postgres_server, until

from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.postgres.link import linked


def reachable(url: str) -> bool:
    try:
        with linked(url) as link:
            return bool(link.value("SELECT 1"))
    except LedgerTrouble:
        return False


@pytest.fixture(scope="session")
def postgres_url():
    if postgres_bin() is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres_server() as server:
        until(lambda: reachable(server.url), "PostgreSQL lets nobody in")
        yield server.url
