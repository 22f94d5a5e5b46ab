"""Every function: who may call it, and that it shows and changes nothing without the right to."""

import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.access.actors import ACTORS, A, Actor
from tests.access.matrix import MINE, PLACES, Matrix
from tests.people import Connection, acting

LINES: dict[str, Any] = tomllib.loads(Path(__file__).with_name("functions.toml").read_text())
PUBLIC: dict[str, dict[str, str]] = LINES["public"]
APP: dict[str, str] = {name: group["who"] for group in LINES["app"] for name in group["functions"]}
OPEN = {name for group in LINES["app"] if group.get("is_open") for name in group["functions"]}
ARGUMENTS: dict[str, str] = LINES["arguments"]

AUDIENCES = {
    "anyone": {"anon", "authenticated", "service_role"},
    "signed_in": {"authenticated", "service_role"},
    "reader": {"authenticated", "service_role", "analyst"},
    "worker": {"service_role"},
}


@dataclass(frozen=True)
class Function:
    """A function as the catalog knows it."""

    schema: str
    name: str
    signature: str
    names: tuple[str, ...]
    types: tuple[str, ...]
    defaults: int

    @property
    def identifier(self) -> sql.Identifier:
        """Its qualified name."""
        return sql.Identifier(self.schema, self.name)


@pytest.fixture(scope="module")
def matrix(db_url: str) -> Iterator[Matrix]:
    """A database with rows in every table."""
    with psycopg.connect(db_url) as connection:
        matrix = Matrix(connection)
        for place in PLACES:
            matrix.rows.fill(place)
        connection.execute(
            "insert into pgqueuer.pgqueuer (id, priority, entrypoint, headers, status)"
            " values (1, 0, 'event.job', jsonb_build_object('org_id', %s::uuid), 'failed')",
            (A.org,),
        )
        connection.commit()
        yield matrix
        connection.rollback()


def functions(db: Connection, schema: str) -> list[Function]:
    """Return the functions of a schema that can be called (no trigger functions)."""
    return [
        Function(schema, row[0], row[1], tuple(row[2] or ()), tuple(row[3]), row[4])
        for row in db.execute(
            "select p.proname, p.oid::regprocedure::text,"
            " (select array_agg(n order by i) from unnest(p.proargnames) with ordinality u (n, i) where i <= p.pronargs),"
            " array(select format_type(t, null) from unnest(p.proargtypes::oid[]) with ordinality u (t, i) order by i),"
            " p.pronargdefaults from pg_proc p"
            " where p.pronamespace = %s::regnamespace and p.prokind = 'f' and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)"
            " order by 2",
            (schema,),
        ).fetchall()
    ]


def _may_call(db: Connection, role: str, function: Function) -> bool:
    """Call with nulls as a database role: anything but a missing grant means that it may be called."""
    call = sql.SQL("select {}({})").format(
        function.identifier, sql.SQL(", ").join(sql.SQL("null::" + kind) for kind in function.types)
    )  # fmt: skip
    claims = (
        {"role": role, "sub": str(A.member("employee"))}
        if role == "authenticated"
        else {"role": role}
    )
    try:
        with db.transaction(force_rollback=True), acting(db, role, claims):
            db.execute(call)
    except psycopg.errors.InsufficientPrivilege as error:
        # A type of an extension or of a tool stops who may not use it before the function does.
        refusals = (
            f"permission denied for function {function.name}",
            "for schema extensions",
            "for schema agent_tools",
        )
        return not any(refusal in str(error) for refusal in refusals)
    except psycopg.Error:
        pass
    return True


def wrong_callers(db: Connection, function: Function) -> list[str]:
    """Return the database roles that may call a function against its line, or may not.

    The call alone does not tell: behind a grant too many the function that does the work may refuse by the same name, and a
    strict function of nulls is never called.
    """
    roles = {"anon", "authenticated", "analyst"}
    if function.name in PUBLIC:
        expected = AUDIENCES[PUBLIC[function.name]["who"]]
        if function.schema == "public":
            roles.add("service_role")
    else:
        expected = set(APP.get(function.name, "").split())
    return sorted(
        role
        for role in roles
        if _is_granted(db, role, function) != (role in expected)
        or (role in expected and not _may_call(db, role, function))
    )


def _is_granted(db: Connection, role: str, function: Function) -> bool:
    row = db.execute(
        "select has_function_privilege(%s, %s::regprocedure, 'execute')", (role, function.signature)
    ).fetchone()
    return row == (True,)


@pytest.mark.parametrize("schema", ["public", "app"])
def test_functions_are_called_by_whom_their_line_says(
    matrix: Matrix, schema: str, record_property: Callable[[str, object], None]
) -> None:
    found = functions(matrix.db, schema)
    record_property("cells", len(found) * (4 if schema == "public" else 3))
    wrong = {
        function.signature: roles
        for function in found
        if (roles := wrong_callers(matrix.db, function))
    }
    assert not wrong


def test_every_function_of_the_api_has_its_line_and_every_line_its_function(matrix: Matrix) -> None:
    assert {function.name for function in functions(matrix.db, "public")} == set(PUBLIC)
    assert {
        line for line in APP if line not in {f.name for f in functions(matrix.db, "app")}
    } == set()
    assert [group for group in LINES["app"] if not group.get("why")] == []
    assert len(APP) == sum(len(group["functions"]) for group in LINES["app"])


def _has(matrix: Matrix, actor: Actor, needs: str) -> bool | None:
    """Say whether the actor has in organisation a what a function needs; None if only for his own rows."""
    if actor.kind == "platform admin":
        return None if needs in {"member", "staff"} else True
    if actor.org != A.org or actor.role is None:
        return False
    if needs == "platform":
        return False
    if needs == "member":
        return actor.kind == "member"
    if needs == "staff":
        return False if actor.role == "client" else None
    answers = []
    for need in needs.split(", "):
        module, action = need.split()
        scope = matrix.scope(actor, module, "select" if action == "read" else action)
        answers.append({"none": False, "own": None, "all": True}[scope])
    return False if False in answers else None if None in answers else True


def _call(matrix: Matrix, function: Function) -> sql.Composed:
    given = []
    for position, (name, kind) in enumerate(zip(function.names, function.types, strict=True)):
        if name in ARGUMENTS:
            text = (
                ARGUMENTS[name]
                .replace(":organizations", f"'{A.org}'")
                .replace(":member", f"'{A.member('ops')}'")
            )
            text = re.sub(r":([a-z_]\w+)", lambda match: _key(matrix, match[1]), text)
            given.append(
                sql.SQL("{} => ({})::{}").format(sql.Identifier(name), sql.SQL(text), sql.SQL(kind))
            )
        elif position < len(function.types) - function.defaults:
            given.append(sql.SQL("{} => null::{}").format(sql.Identifier(name), sql.SQL(kind)))
    return sql.SQL("select * from {}({})").format(function.identifier, sql.SQL(", ").join(given))


def _key(matrix: Matrix, table: str) -> str:
    row = matrix.rows.made.get((f"public.{table}", MINE.name))
    return f"'{row['id']}'::uuid" if row else f":{table}"


def _everything(matrix: Matrix) -> list[tuple[Any, ...]]:
    """Take a fingerprint of all that organisation a owns."""
    parts = [
        f"select '{name}', md5(string_agg(t::text, chr(10) order by t::text)) from {name} t where org_id = '{A.org}'"
        for name, table in matrix.rows.tables.items()
        if "org_id" in table.columns
    ]
    parts.append(
        f"select 'organizations', md5(t::text) from public.organizations t where id = '{A.org}'"
    )
    return matrix.db.execute(" union all ".join(parts) + " order by 1").fetchall()


def _shows(rows: list[tuple[Any, ...]]) -> bool:
    """Say whether an answer tells anything."""
    return any(value not in (None, False, "", 0, [], {}, "()") for row in rows for value in row)


@pytest.mark.parametrize("actor", ACTORS, ids=lambda actor: actor.name)
def test_a_function_shows_and_changes_only_what_the_caller_may(
    matrix: Matrix, actor: Actor, record_property: Callable[[str, object], None]
) -> None:
    wrong = []
    called = [f for f in functions(matrix.db, "public") if "needs" in PUBLIC[f.name]]
    record_property("cells", len(called))
    with matrix.db.transaction(force_rollback=True):
        before = _everything(matrix)
        for function in called:
            line = PUBLIC[function.name]
            has = _has(matrix, actor, line["needs"])
            try:
                with matrix.db.transaction(force_rollback=True):
                    with actor.acting(matrix.db):
                        rows = matrix.db.execute(_call(matrix, function)).fetchall()
                    changed = _everything(matrix) != before
            except psycopg.Error as error:
                outcome = f"{error.sqlstate} {error.diag.message_primary}"
                if has and error.sqlstate in {"42501", "PT401", "PT403"}:
                    wrong.append(f"{function.name}: refused with {outcome}")
                if not has and has is not None and (error.sqlstate or "")[:2] not in {"PT", "42"}:
                    wrong.append(f"{function.name}: not refused but broken, {outcome}")
                continue
            if has is False and (changed or _shows(rows)):
                wrong.append(
                    f"{function.name}: {'changed rows' if changed else f'answered {rows}'}"
                )
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    "actor",
    [a for a in ACTORS if a.org != A.org and a.kind != "platform admin"],
    ids=lambda actor: actor.name,
)
def test_a_helper_tells_outsiders_nothing_of_the_organisation(matrix: Matrix, actor: Actor) -> None:
    wrong = []
    with matrix.db.transaction(force_rollback=True):
        before = _everything(matrix)
        for function in functions(matrix.db, "app"):
            if (
                function.name in OPEN
                or "org" not in function.names
                or actor.database_role not in APP.get(function.name, "")
            ):
                continue
            try:
                with matrix.db.transaction(force_rollback=True):
                    with actor.acting(matrix.db):
                        rows = matrix.db.execute(_call(matrix, function)).fetchall()
                    if _everything(matrix) != before or _shows(rows):
                        wrong.append(f"{function.name}: {rows}")
            except psycopg.Error:
                continue
    assert not wrong, "\n" + "\n".join(wrong)
