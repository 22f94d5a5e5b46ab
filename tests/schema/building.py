"""How databases are built and compared: schemas as text, rows carried from one to another as its tables come into being."""

import re
import subprocess

from psycopg import sql

from nessos.local.postgres import binaries
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


def count_rows(db: Connection, table: str) -> int:
    """Return how many rows a table, named with its schema, has."""
    name = sql.Identifier(*table.split("."))
    row = db.execute(sql.SQL("select count(*) from {}").format(name)).fetchone()
    assert row is not None
    return int(row[0])
