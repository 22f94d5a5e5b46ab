"""What the access matrix expects, and what the database answers, cell by cell.

A cell is an actor, a relation, a verb and a row. What is expected comes from the matrix of roles (`public.role_permissions`),
from what `app.protect_table` was told (`app.protected_tables`), and from exceptions.toml; never from the policies themselves.
"""

import contextlib
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from tests.access.actors import A, Actor, B
from tests.access.rows import HINTS, Place, Rows, Table
from tests.people import Connection

EXCEPTIONS: dict[str, dict[str, Any]] = tomllib.loads(
    Path(__file__).with_name("exceptions.toml").read_text()
)
VERBS = ("select", "insert", "update", "delete")
DENIED = "denied"  # no grant: 42501 before any row is looked at
REFUSED = "refused"  # the policies let it pass, a rule answered 401, 403 or 404
REFUSED_STATUS = ("PT401", "PT403", "PT404")

MINE = Place("mine", A.org, A.member("sales"), A.client)
OTHER = Place("other", A.org, A.member("legal"), A.other_client)
FOREIGN = Place("foreign", B.org, B.member("sales"), B.client)
PLACES = (MINE, OTHER, FOREIGN)


@dataclass(frozen=True)
class Relation:
    """A table or view that somebody could ask for."""

    schema: str
    name: str
    is_view: bool

    @property
    def label(self) -> str:
        """Its name in exceptions.toml: without the schema if it is public."""
        return self.name if self.schema == "public" else f"{self.schema}.{self.name}"

    @property
    def identifier(self) -> sql.Identifier:
        """Its qualified name."""
        return sql.Identifier(self.schema, self.name)


@dataclass(frozen=True)
class Protection:
    """What app.protect_table was told of a table."""

    module: str
    own_column: str | None
    commands: tuple[str, ...]


class Matrix:
    """The expectations, read from the data of a database."""

    def __init__(self, db: Connection) -> None:
        self.db = db
        self.cells = 0  # looked at so far
        self.rows = Rows(db)
        self.relations = [
            Relation(*row)
            for row in db.execute(
                "select n.nspname, c.relname, c.relkind in ('v', 'm') from pg_class c join pg_namespace n on n.oid = c.relnamespace"
                " where c.relkind in ('r', 'p', 'v', 'm') and (n.nspname in ('public', 'app', 'partitions', 'pgqueuer',"
                " 'supabase_migrations') or n.nspname = 'auth') order by 1, 2"
            ).fetchall()
        ]
        self.protections = {
            name: Protection(module, own, tuple(commands))
            for name, module, own, commands in db.execute(
                "select table_name, module, own_column, commands from app.protected_tables"
            ).fetchall()
        }
        self.scopes: dict[tuple[str, str], dict[str, str]] = {
            (role, module): {"read": read, "write": write}
            for role, module, read, write in db.execute(
                "select role, module, read_scope, write_scope from public.role_permissions"
            ).fetchall()
        }

    def scope(self, actor: Actor, module: str, verb: str) -> str:
        """Return none, own or all: how much of a module the actor's role reads or writes."""
        if actor.role is None:
            return "none"
        scopes = self.scopes.get((actor.role, module), {"read": "none", "write": "none"})
        return scopes["read" if verb == "select" else "write"]

    def expected(self, relation: Relation, verb: str, actor: Actor) -> str:
        """Return DENIED, or the SQL condition of the rows for which the verb is expected to work."""
        exception = EXCEPTIONS.get(relation.label, {})
        stated = exception.get(verb, {})
        if actor.audience in stated:
            return self._bind(stated[actor.audience], actor)
        if "like" in exception:  # a view over rows of one table
            base = self.expected(Relation("public", exception["like"], False), verb, actor)
            is_closed = (
                verb not in exception["verbs"] or base == DENIED or actor.audience == "analyst"
            )
            return DENIED if is_closed else f"({base}) and ({exception['where']})"
        protection = self.protections.get(relation.name) if relation.schema == "public" else None
        if protection is None or actor.audience == "anon" or verb not in protection.commands:
            return DENIED
        if actor.audience == "analyst":
            return f"org_id = '{actor.org}'" if verb == "select" else DENIED
        return self._by_role(protection, verb, actor)

    def _by_role(self, protection: Protection, verb: str, actor: Actor) -> str:
        scope = self.scope(actor, protection.module, verb)
        if scope == "all":
            return "true" if actor.kind == "platform admin" else f"org_id = '{actor.org}'"
        if scope == "own" and protection.own_column:
            is_portal = protection.own_column in {"client_id", "id"}
            if own := actor.client if is_portal else actor.person:
                is_own = f"{protection.own_column} = '{own}'"
                at_home = actor.kind == "platform admin"
                return is_own if at_home else f"org_id = '{actor.org}' and {is_own}"
        return "false"

    def narrowed(self, relation: Relation, verb: str, actor: Actor) -> str:
        """Return the condition under which a rule, not a policy, lets the actor's write pass."""
        return self._bind(
            EXCEPTIONS.get(relation.label, {}).get("narrow", {}).get(verb, "true"), actor
        )

    def granted_columns(self, relation: Relation, role: str, verb: str) -> set[str]:
        """Return the columns on which a verb is granted to a role: all of them, for a verb that knows no columns."""
        if verb == "delete":
            privilege = "has_table_privilege(%(role)s, a.attrelid, 'delete')"
        else:
            privilege = "has_column_privilege(%(role)s, a.attrelid, a.attnum, %(verb)s)"
        return {
            row[0]
            for row in self.db.execute(
                f"select a.attname from pg_attribute a where a.attrelid = to_regclass(%(name)s) and a.attnum > 0"
                f" and not a.attisdropped and {privilege}",
                {"role": role, "name": f"{relation.schema}.{relation.name}", "verb": verb},
            ).fetchall()
        }

    def orgs(self, actor: Actor, module: str, action: str, scope: str) -> str:
        """Return the organisations in which the actor has exactly this scope, as an SQL array."""
        fits = self.scope(actor, module, "select" if action == "read" else "write") == scope
        orgs = (
            [actor.org] if actor.org else [A.org, B.org] if actor.kind == "platform admin" else []
        )
        return f"'{{{','.join(map(str, orgs if fits else []))}}}'::uuid[]"

    def _bind(self, condition: str, actor: Actor) -> str:
        condition = re.sub(
            r":orgs\((\w+), (\w+), (\w+)\)",
            lambda match: self.orgs(actor, *match.groups()),
            condition,
        )
        is_staff = actor.kind == "member" and actor.role not in {None, "client"}
        words = {
            ":person": f"'{actor.person}'::uuid",
            ":org": f"'{actor.org}'::uuid" if actor.org else "null::uuid",
            ":client": f"'{actor.client}'::uuid" if actor.client else "null::uuid",
            ":role": f"'{actor.role or 'none'}'",
            ":is_staff": str(is_staff).lower(),
            ":is_platform_admin": str(actor.kind == "platform admin").lower(),
        }
        for word, value in words.items():
            condition = condition.replace(word, value)
        return condition

    def key(self, relation: Relation) -> list[str]:
        """Return the columns that tell the rows of a relation apart."""
        exception = EXCEPTIONS.get(relation.label, {})
        if "like" in exception:
            return self.rows.tables[f"public.{exception['like']}"].key
        if (table := self.rows.tables.get(f"{relation.schema}.{relation.name}")) is not None:
            return table.key
        return [
            row[0]
            for row in self.db.execute(
                "select a.attname from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)"
                " where i.indisprimary and i.indrelid = to_regclass(%s)",
                (f"{relation.schema}.{relation.name}",),
            ).fetchall()
        ] or [
            self.db.execute(
                "select attname from pg_attribute where attrelid = to_regclass(%s) and attnum = 1",
                (f"{relation.schema}.{relation.name}",),
            ).fetchone()[0]  # type: ignore[index]
        ]

    def base(self, relation: Relation) -> sql.Identifier:
        """Return the table in which the rows of a relation stand."""
        exception = EXCEPTIONS.get(relation.label, {})
        return (
            sql.Identifier("public", exception["like"])
            if "like" in exception
            else relation.identifier
        )

    def table(self, relation: Relation) -> Table | None:
        """Return what is known of the table a relation's rows stand in."""
        exception = EXCEPTIONS.get(relation.label, {})
        return self.rows.tables.get(f"{relation.schema}.{exception.get('like', relation.name)}")

    def make_mine(self, actor: Actor) -> None:
        """Make the rows of place `mine` about the actor, wherever they are about a person."""
        if actor.kind != "member" or actor.org != A.org:
            return
        for name, table in self.rows.tables.items():
            made = self.rows.made.get((name, MINE.name))
            hinted = HINTS.get(table.name.removeprefix("public."), {})
            columns = {
                key
                for parent, keys, parent_keys in table.foreign
                for key, target in zip(keys, parent_keys, strict=True)
                if (parent, target)
                in {("public.profiles", "id"), ("public.memberships", "user_id")}
                and key not in hinted
                and key not in table.key
            }
            if made is None or not columns:
                continue
            with replica(self.db):
                self.db.execute(
                    sql.SQL("update {} set {} where {}").format(
                        table.identifier,
                        sql.SQL(", ").join(
                            sql.SQL("{} = {}").format(
                                sql.Identifier(c), sql.Literal(str(actor.person))
                            )
                            for c in sorted(columns)
                        ),
                        where(table.key, made),
                    )
                )


@contextlib.contextmanager
def replica(db: Connection) -> Iterator[None]:
    """Switch triggers and foreign keys off for a block; row level security stays on."""
    db.execute("set local session_replication_role = replica")
    yield
    if db.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS:
        db.execute("set local session_replication_role = origin")


def where(key: list[str], row: dict[str, Any]) -> sql.Composed:
    """Write the condition that finds a row by its key."""
    return sql.SQL(" and ").join(
        sql.SQL("{} = {}").format(sql.Identifier(column), sql.Literal(str(row[column])))
        for column in key
    )


NO_SUCH_ACT = ("55000", "0A000", "44000")  # a view that takes no writes, or not this row


def attempt(
    db: Connection, actor: Actor, statement: sql.Composed, *, triggers: bool = True
) -> tuple[str, int]:
    """Run a statement as the actor and undo it.

    Returns:
        `ok` and the number of rows; or `denied`, or the SQLSTATE that stopped it.
    """
    try:
        with db.transaction(force_rollback=True):
            if not triggers:
                db.execute("set local session_replication_role = replica")
            with actor.acting(db):
                return "ok", db.execute(statement).rowcount
    except psycopg.Error as error:
        state = error.sqlstate or "?"
        return (DENIED if state == "42501" or state in NO_SUCH_ACT else state), 0
    raise AssertionError


def answer(db: Connection, actor: Actor, statement: sql.Composed) -> str:
    """Say what access answers to a write: done, nothing (no such row), denied by grant or policy, refused by a rule.

    A constraint or a guard that stops the write would hide the answer of the policies: then they are asked alone, with
    triggers off; constraints are looked at after the policies.
    """
    outcome, count = attempt(db, actor, statement)
    if outcome in {"ok", DENIED}:
        return DENIED if outcome == DENIED else "done" if count else "nothing"
    alone, count = attempt(db, actor, statement, triggers=False)
    if alone == DENIED:
        return DENIED
    if alone == "ok" and not count:
        return "nothing"
    return REFUSED if outcome in REFUSED_STATUS else "done"
