"""What the check constraints refuse, one example each."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.people import Connection

EXAMPLES: dict[str, dict[str, dict[str, str]]] = tomllib.loads(
    Path(__file__).with_name("refusals.toml").read_text()
)


@dataclass(frozen=True)
class Check:
    """A check constraint; the table is qualified unless it is public."""

    table: str
    name: str


def checks(db: Connection) -> list[Check]:
    """Return the check constraints of tables, by table and name.

    Those of generated columns are left out: they say what the expression gives, and nobody can write anything else.
    """
    return [
        Check(*row)
        for row in db.execute(
            "select case n.nspname when 'public' then '' else n.nspname || '.' end || c.relname, k.conname"
            " from pg_constraint k join pg_class c on c.oid = k.conrelid join pg_namespace n on n.oid = c.relnamespace"
            " where k.contype = 'c' and n.nspname in ('public', 'app') and not c.relispartition"
            " and exists (select from pg_attribute a where a.attrelid = c.oid and a.attnum = any (k.conkey) and a.attgenerated = '')"
            " order by 1, 2"
        ).fetchall()
    ]


def examples() -> Iterator[Check]:
    """Yield every constraint that has an example."""
    for table, constraints in EXAMPLES.items():
        for name in constraints:
            yield Check(table, name)


def accepted(db: Connection, check: Check) -> str | None:
    """Write what a constraint refuses, triggers and foreign keys aside, and undo it.

    Args:
        db: A connection of the owner to a database with a row in every tenant table.
        check: The constraint.

    Returns:
        What happened instead of the refusal; None if the constraint refused.
    """
    values = EXAMPLES[check.table][check.name]
    table = check.table if "." in check.table else f"public.{check.table}"
    try:
        with db.transaction(force_rollback=True):
            db.execute("set local session_replication_role = replica")
            place = db.execute(
                f"select tableoid, ctid from {table} order by 1, 2 limit 1"
            ).fetchone()
            if place is None:
                db.execute(
                    f"insert into {table} ({', '.join(values)}) values ({', '.join(values.values())})"
                )
            else:
                db.execute(
                    f"update {table} set {', '.join(f'{name} = {value}' for name, value in values.items())}"
                    " where (tableoid, ctid) = (%s, %s)",
                    place,
                )
    except psycopg.errors.CheckViolation as error:
        found = error.diag.constraint_name
        return None if found == check.name else f"{found} refuses it"
    except psycopg.Error as error:
        return str(error).splitlines()[0]
    return "it is stored"
