from __future__ import annotations

import shutil

import pytest
from servers import Server, redis_server


@pytest.fixture(scope="session")
def redis_url():
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with redis_server() as server:
        yield server.url


@pytest.fixture
def redis_that_fails():
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with redis_server() as server:
        yield server


__all__ = ["Server"]
