"""A database in which every rule has rows to look at."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.access.matrix import PLACES
from tests.access.rows import Rows
from tests.people import Connection


@pytest.fixture(scope="module")
def filled(db_url: str) -> Iterator[Connection]:
    """A connection to the module's database, with rows in every tenant table that are gone at its end."""
    with psycopg.connect(db_url) as connection:
        rows = Rows(connection)
        for place in PLACES:
            rows.fill(place)
        yield connection
        connection.rollback()
