"""Two ways of building the database give the same schema: all at once when empty, and step by step over a company's rows."""

import re
import subprocess
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from nessos.local import database
from nessos.local.postgres import binaries
from tests.access.matrix import PLACES
from tests.access.rows import Rows
from tests.cluster import Server
from tests.people import Connection


def schema_of(server: Server, url: str) -> list[str]:
    """Return the statements that make a database's schemas, but for the tools' own."""
    done = subprocess.run(
        [
            str(binaries(server.cluster.version) / "pg_dump"),
            "--schema-only",
            *(f"--exclude-schema={schema}" for schema in ("supabase_migrations", "pgqueuer")),
            f"--dbname={url}",
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    lines = re.sub(r"(?m)^(--.*|\\(un)?restrict .*|)\n", "", done.stdout)
    return sorted(lines.split(";\n"))


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


def tables_of(db: Connection) -> dict[str, list[str]]:
    """Return the columns that can be written, of every table but the partitions."""
    return dict(
        db.execute(
            "select n.nspname || '.' || c.relname, array_agg(a.attname::text order by a.attnum)"
            " from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid"
            " where n.nspname in ('auth', 'public', 'app') and c.relkind in ('r', 'p') and not c.relispartition"
            " and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' group by 1"
        ).fetchall()
    )


def parents_of(db: Connection) -> dict[str, set[str]]:
    """Return the tables that each table's foreign keys point at."""
    parents: dict[str, set[str]] = {}
    for child, parent in db.execute(
        "select k.conrelid::regclass::text, n.nspname || '.' || c.relname from pg_constraint k"
        " join pg_class c on c.oid = k.confrelid join pg_namespace n on n.oid = c.relnamespace where k.contype = 'f'"
    ).fetchall():
        parents.setdefault(child if "." in child else f"public.{child}", set()).add(parent)
    return parents


def carry_over(source: Connection, target: Connection, filled: set[str]) -> None:
    """Copy the rows of every table that has come into being, once all that they refer to has."""
    target.execute("set session_replication_role = replica")
    known, parents, present = tables_of(source), parents_of(source), tables_of(target)
    for table, columns in present.items():
        if table in filled or table not in known or not parents.get(table, set()) <= set(present):
            continue
        filled.add(table)
        name = sql.Identifier(*table.split("."))
        listed = sql.SQL(", ").join(map(sql.Identifier, (c for c in columns if c in known[table])))
        with (
            source.cursor().copy(
                sql.SQL("copy (select {} from {}) to stdout").format(listed, name)
            ) as out,
            target.cursor().copy(sql.SQL("copy {} ({}) from stdin").format(name, listed)) as into,
        ):
            for part in out:
                into.write(part)
    target.execute("set session_replication_role = origin")


def test_migrations_one_by_one_over_a_companys_rows_give_the_schema_of_one_push(
    server: Server, populated_url: str, bare_url: str, empty_db_url: str
) -> None:
    with psycopg.connect(empty_db_url) as deployed:
        filled = {  # reference rows, which the migrations bring themselves
            table
            for table in tables_of(deployed)
            if deployed.execute(
                sql.SQL("select exists (select from {})").format(sql.Identifier(*table.split(".")))
            ).fetchone()
            == (True,)
        }
    with (
        psycopg.connect(populated_url) as source,
        psycopg.connect(bare_url, autocommit=True) as target,
    ):
        for file in database.migration_files().values():
            target.execute(file.read_bytes())
            carry_over(source, target, filled)
        for table in tables_of(source):
            counts = [
                db.execute(
                    sql.SQL("select count(*) from {}").format(sql.Identifier(*table.split(".")))
                ).fetchone()
                for db in (source, target)
            ]
            assert counts[0] == counts[1], table
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
