"""Every law of the catalog holds, and every law can fail."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.people import Connection
from tests.schema.laws import LAWS
from tests.schema.offences import OFFENCES

EXCEPTIONS: dict[str, dict[str, str]] = tomllib.loads(
    Path(__file__).with_name("laws.toml").read_text()
)


@pytest.fixture(scope="module")
def connection(empty_db_url: str) -> Iterator[Connection]:
    """A connection to the database as deployed."""
    with psycopg.connect(empty_db_url) as connection:
        yield connection
        connection.rollback()


@pytest.fixture
def catalog(connection: Connection) -> Iterator[Connection]:
    """The same, with whatever a test does undone."""
    yield connection
    connection.rollback()


@pytest.mark.parametrize("name", LAWS)
def test_law(catalog: Connection, name: str) -> None:
    offenders, excused = set(LAWS[name](catalog)), EXCEPTIONS.get(name, {})
    assert sorted(offenders - set(excused)) == [], "these break the law"
    assert sorted(set(excused) - offenders) == [], "these exceptions are no longer needed"


def test_every_exception_belongs_to_a_law_and_has_a_reason() -> None:
    assert set(EXCEPTIONS) <= set(LAWS)
    assert all(reason for reasons in EXCEPTIONS.values() for reason in reasons.values())


@pytest.mark.parametrize("name", LAWS)
def test_law_can_fail(catalog: Connection, name: str) -> None:
    before = set(LAWS[name](catalog))
    assert OFFENCES[name], "no offence against this law is written down"
    for offence in OFFENCES[name]:
        with catalog.transaction(force_rollback=True):
            catalog.execute(offence)
            assert set(LAWS[name](catalog)) - before, f"the law does not notice: {offence}"
