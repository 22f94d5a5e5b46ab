"""Builds a valid row of any table from the catalog: types, checks and foreign keys; rows.toml says the rest.

A row is made for a `Place`: an organisation, and in it the person and the client the row is about. Rows that others refer to
are found by that place, so that every foreign key stays inside the tenant.
"""

import json
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg import sql

from tests.people import Connection, named_id

HINTS: dict[str, dict[str, str]] = tomllib.loads(Path(__file__).with_name("rows.toml").read_text())


@dataclass(frozen=True)
class Place:
    """Where a row belongs, and whom it is about."""

    name: str
    org: UUID
    person: UUID
    client: UUID


@dataclass(frozen=True)
class Column:
    """A column as the catalog knows it."""

    name: str
    type: str
    kind: str
    is_required: bool
    has_default: bool
    is_generated: bool


@dataclass
class Table:
    """A table as the catalog knows it."""

    name: str
    columns: dict[str, Column] = field(default_factory=dict)
    key: list[str] = field(default_factory=list)
    foreign: list[tuple[str, list[str], list[str]]] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)

    @property
    def identifier(self) -> sql.Identifier:
        """The qualified name."""
        return sql.Identifier(*self.name.split("."))

    def allowed_values(self, column: str) -> list[str]:
        """Return the values a check lists for a column."""
        for check in self.checks:
            listed = re.match(
                rf"CHECK \(\(\(?{column}\)?(?:::\w+)? = ANY \(ARRAY\[(.*)\]\)\)\)$", check
            )
            if listed:
                return re.findall(r"'([^']*)'::text", listed[1])
            if only := re.match(rf"CHECK \(\({column} = '([^']*)'::text\)\)$", check):
                return [only[1]]
        return []


def read_tables(db: Connection) -> dict[str, Table]:
    """Read the tables of public and of auth.users, parents first."""
    tables: dict[str, Table] = {}
    for (name,) in db.execute(
        "select n.nspname || '.' || c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = 'public' and c.relkind in ('r', 'p') and not c.relispartition order by 1"
    ).fetchall():
        table = tables[name] = Table(name)
        for row in db.execute(
            "select a.attname, format_type(a.atttypid, null), t.typtype::text, a.attnotnull,"
            " a.atthasdef or a.attidentity <> '', a.attgenerated <> '' or a.attidentity = 'a'"
            " from pg_attribute a join pg_type t on t.oid = a.atttypid"
            " where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped order by a.attnum",
            (name,),
        ).fetchall():
            table.columns[row[0]] = Column(*row)
        for kind, keys, parent, parent_keys, definition in db.execute(
            "select k.contype::text, array(select attname::text from unnest(k.conkey) with ordinality u (n, i)"
            "  join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.n order by i),"
            " (select n.nspname || '.' || c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = k.confrelid),"
            " array(select attname::text from unnest(k.confkey) with ordinality u (n, i)"
            "  join pg_attribute a on a.attrelid = k.confrelid and a.attnum = u.n order by i),"
            " pg_get_constraintdef(k.oid) from pg_constraint k where k.conrelid = %s::regclass order by k.conname",
            (name,),
        ).fetchall():
            if kind == "p":
                table.key = keys
            elif kind == "f" and keys != ["org_id"]:
                table.foreign.append((parent, keys, parent_keys))
            elif kind == "c":
                table.checks.append(definition)
    return _parents_first(tables)


def _parents_first(tables: dict[str, Table]) -> dict[str, Table]:
    ordered: dict[str, Table] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in ordered or name not in tables or name in path:
            return
        for parent, keys, _ in tables[name].foreign:
            # An optional reference may close a circle; a required one decides the order.
            if any(tables[name].columns[key].is_required for key in keys if key != "org_id"):
                visit(parent, (*path, name))
        for parent, _, _ in tables[name].foreign:
            visit(parent, (*path, name))
        ordered[name] = tables[name]

    for name in tables:
        visit(name, ())
    return ordered


class Rows:
    """The rows made so far, and how to make another."""

    def __init__(self, db: Connection) -> None:
        self.db = db
        self.tables = read_tables(db)
        self.made: dict[tuple[str, str], dict[str, Any]] = {}

    def fill(self, place: Place) -> None:
        """Make one row of every tenant table for this place, and one of every other table that has none."""
        for name, table in self.tables.items():
            if (name, place.name) in self.made or not (
                "org_id" in table.columns or self._is_empty(table)
            ):
                continue
            self.insert(table, self.values(table, place), place)

    def _is_empty(self, table: Table) -> bool:
        query = sql.SQL("select not exists (select from {})").format(table.identifier)
        return self.db.execute(query).fetchone() == (True,)

    def insert(self, table: Table, values: dict[str, Any], place: Place) -> dict[str, Any]:
        """Insert one row as the owner with triggers off, and remember it for the place."""
        with self.db.transaction():
            self.db.execute("set local session_replication_role = replica")
            columns = sql.SQL(", ").join(map(sql.Identifier, values))
            statement = sql.SQL(
                "insert into {} ({}) values ({}) on conflict ({}) do nothing"
            ).format(
                table.identifier,
                columns,
                sql.SQL(", ").join(values.values()),
                sql.SQL(", ").join(map(sql.Identifier, table.key)),
            )
            self.db.execute(statement)
            self.db.execute("set local session_replication_role = origin")
            where = sql.SQL(" and ").join(
                sql.SQL("{} = {}").format(sql.Identifier(key), values[key])
                for key in table.key
                if key in values
            )
            row = self.db.execute(
                sql.SQL("select to_jsonb(t) from {} t where {}").format(table.identifier, where)
            ).fetchone()
        assert row is not None, (
            f"{table.name}: the row for {place.name} could not be made; help with rows.toml"
        )
        made: dict[str, Any] = row[0]
        self.made[table.name, place.name] = made
        return made

    def values(self, table: Table, place: Place, *, label: str = "") -> dict[str, sql.Composable]:
        """Give the SQL of every column a valid row needs; `label` tells a second row of the place from the first."""
        hints = {**HINTS.get("*", {}), **HINTS.get(table.name.removeprefix("public."), {})}
        values: dict[str, sql.Composable] = {}
        words = {
            "org": place.org,
            "person": place.person,
            "client": place.client,
            "label": f"{place.name}{label}".replace(" ", "-"),
        }
        for column in table.columns.values():
            if column.is_generated:
                continue
            if column.name in hints:
                text = hints[column.name]
                for word, value in words.items():
                    text = text.replace(f":{word}", f"'{value}'")
                if text != "default":
                    values[column.name] = sql.SQL(text)
            elif column.name == "org_id":
                values["org_id"] = sql.Literal(str(place.org))
            elif column.name == "id":
                values["id"] = sql.Literal(str(named_id(table.name, place.name, label)))
            elif (value := self._reference(table, column, place)) is not None:
                values[column.name] = sql.Literal(value)
            elif column.is_required and not column.has_default:
                values[column.name] = self._invent(table, column, str(words["label"]))
        return values

    def _reference(self, table: Table, column: Column, place: Place) -> str | None:
        for parent, keys, parent_keys in table.foreign:
            if column.name not in keys or parent == table.name:
                continue
            if parent == "public.profiles":
                return str(place.person)
            if parent == "public.clients" and column.name != "org_id":
                return str(place.client)
            row = self.made.get((parent, place.name))
            if row is not None:
                return str(row[parent_keys[keys.index(column.name)]])
            if (
                column.is_required
                and parent in self.tables
                and "org_id" not in self.tables[parent].columns
            ):
                found = self.db.execute(
                    sql.SQL("select {}::text from {} limit 1").format(
                        sql.Identifier(parent_keys[keys.index(column.name)]),
                        sql.Identifier(*parent.split(".")),
                    )
                ).fetchone()
                return found[0] if found else None
        return None

    @staticmethod
    def _invent(table: Table, column: Column, label: str) -> sql.Composable:
        if allowed := table.allowed_values(column.name):
            return sql.Literal(allowed[0])
        name, kind = column.name, column.type
        if kind == "text":
            return sql.Literal(Rows._invent_text(name, label))
        simple = {
            "uuid": str(named_id(table.name, label, name)),
            "boolean": False,
            "date": "2026-01-01",
            "timestamp with time zone": "2026-01-15T12:00:00-03:00",
            "jsonb": json.dumps({}),
            "bytea": "\\x00",
            "interval": "1 day",
        }
        if kind in {"integer", "bigint", "smallint", "numeric"}:
            return sql.Literal(1)
        value = "{}" if kind.endswith("[]") else simple.get(kind, label)
        return sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(kind))

    @staticmethod
    def _invent_text(name: str, label: str) -> str:
        if name.endswith("email"):
            return f"{label}@rows.test"
        if name.endswith("_markdown"):
            return f"# {label}"
        return f"https://rows.test/{label}" if name.endswith("url") else label
