from __future__ import annotations

import itertools

import pytest

from gemstead.ledger.postgres.link import linked
from gemstead.ledger.postgres.schema import upgrade

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
