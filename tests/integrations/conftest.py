"""Fixtures of the tests of services outside."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import stamina
from psycopg.rows import dict_row


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
