"""Two ways of building the database give the same schema: all at once when empty, and step by step over a company's rows."""

from collections.abc import Iterator

import psycopg
import pytest

from nessos.local import database
from tests.access.matrix import PLACES
from tests.access.rows import Rows
from tests.cluster import Server
from tests.schema.building import carry_over, count_rows, schema_of, tables_of


@pytest.fixture(scope="module")
def populated_url(db_url: str) -> str:
    """A database with the demo companies, and with a row in every table besides."""
    with psycopg.connect(db_url) as db:
        rows = Rows(db)
        for place in PLACES:
            rows.fill(place)
        if database.SEED.exists():
            db.execute(database.SEED.read_bytes())
    return db_url


@pytest.fixture
def bare_url(server: Server) -> Iterator[str]:
    """A database as hosted Supabase gives it: no migration yet."""
    name = "t_one_by_one"
    url = server.cluster.create_database(name)
    database.apply_platform(url)
    yield url
    server.cluster.drop_database(name)


def test_migrations_one_by_one_over_a_companys_rows_give_the_schema_of_one_push(
    server: Server, populated_url: str, bare_url: str, empty_db_url: str
) -> None:
    with psycopg.connect(empty_db_url) as deployed:
        filled = {  # reference rows, which the migrations bring themselves
            table for table in tables_of(deployed) if count_rows(deployed, table)
        }
    with (
        psycopg.connect(populated_url) as source,
        psycopg.connect(bare_url, autocommit=True) as target,
    ):
        for file in database.migration_files().values():
            target.execute(file.read_bytes())
            carry_over(source, target, filled)
        for table in tables_of(source):
            assert count_rows(source, table) == count_rows(target, table), table
    assert schema_of(server, bare_url) == schema_of(server, empty_db_url)


def test_a_second_push_changes_nothing(server: Server, own_db_url: str) -> None:
    before = schema_of(server, own_db_url)
    database.push(own_db_url)
    assert schema_of(server, own_db_url) == before


def test_the_comparison_notices_a_difference(
    server: Server, own_db_url: str, empty_db_url: str
) -> None:
    with psycopg.connect(own_db_url) as db:
        db.execute("revoke select on public.leads from authenticated")
    assert schema_of(server, own_db_url) != schema_of(server, empty_db_url)
