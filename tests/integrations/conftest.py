"""Fixtures of the tests of services outside."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import stamina
from psycopg.rows import dict_row

from tests.integrations.messaging import Outside, open_outside
from tests.integrations.omie import Connected, connected


@pytest.fixture
def no_backoff() -> Iterator[None]:
    """Repeat at once: how often is asserted, not when."""
    with stamina.set_testing(True, attempts=100, cap=True):
        yield


@pytest.fixture
def reader(db_url: str) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    """A connection that sees what was committed."""
    with psycopg.connect(db_url, autocommit=True, row_factory=dict_row) as connection:
        yield connection


@pytest.fixture
def outside(own_db_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outside]:
    """The services that carry messages, and a person who can be reached at any hour."""
    with open_outside(own_db_url, monkeypatch) as outside:
        yield outside


@pytest.fixture
def omie(own_db_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connected]:
    """Organisation a and a fake of Omie of its own."""
    with connected(own_db_url, monkeypatch) as it:
        yield it
