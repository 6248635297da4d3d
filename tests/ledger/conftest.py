from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "counters"))

from servers import postgres_bin, postgres_server, until

from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.postgres.link import linked
from gemstead.ledger.postgres.schema import upgrade


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


NUMBERS = itertools.count(1)


@pytest.fixture
def empty_url(postgres_url):
    """A database of the test's own, with nothing in it."""
    name = f"test_{next(NUMBERS)}"
    with linked(postgres_url) as link:
        link.do(f"CREATE DATABASE {name}")
    yield postgres_url.replace("/postgres", f"/{name}")
    with linked(postgres_url) as link:
        link.do(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def store_url(empty_url):
    """A store that is ready to use."""
    upgrade(empty_url)
    return empty_url
