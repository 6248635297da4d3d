from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from servers import Server, postgres_bin, postgres_server, redis_server


@pytest.fixture(scope="session")
def redis_url():
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with redis_server() as server:
        yield server.url


@pytest.fixture(scope="session")
def postgres_url():
    if postgres_bin() is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres_server() as server:
        yield server.url


@pytest.fixture
def redis_that_fails():
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with redis_server() as server:
        yield server


__all__ = ["Server"]
