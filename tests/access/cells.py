"""The cells of the access matrix, executed: what an actor may do with a relation, compared with what is expected.

Each function returns what is wrong, in words.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import psycopg
import pytest
from psycopg import sql

from tests.access.actors import ACTORS, A, Actor
from tests.access.matrix import (
    DENIED,
    EXCEPTIONS,
    MINE,
    PLACES,
    REFUSED,
    VERBS,
    Matrix,
    Relation,
    answer,
    attempt,
    where,
)
from tests.access.rows import Place
from tests.people import Connection


def _rows_where(
    db: Connection, matrix: Matrix, relation: Relation, condition: str
) -> set[tuple[object, ...]]:
    columns = sql.SQL(", ").join(map(sql.Identifier, matrix.key(relation)))
    query = sql.SQL("select {} from {} t where {}").format(
        columns, matrix.base(relation), sql.SQL(condition)
    )
    return set(db.execute(query).fetchall())


def _seen(
    db: Connection, matrix: Matrix, relation: Relation, actor: Actor
) -> set[tuple[object, ...]] | str:
    columns = sql.SQL(", ").join(map(sql.Identifier, matrix.key(relation)))
    try:
        with db.transaction(force_rollback=True), actor.acting(db):
            return set(
                db.execute(
                    sql.SQL("select {} from {}").format(columns, relation.identifier)
                ).fetchall()
            )
    except psycopg.errors.InsufficientPrivilege:
        return DENIED


def misread(scene: Matrix, relation: Relation, actor: Actor) -> list[str]:
    """Compare the rows an actor reads with those his role may read."""
    scene.cells += 1
    if modules := EXCEPTIONS.get(relation.label, {}).get("computed"):
        return _computed(scene, relation, actor, modules)
    condition = scene.expected(relation, "select", actor)
    expected = DENIED if condition == DENIED else _rows_where(scene.db, scene, relation, condition)
    seen = _seen(scene.db, scene, relation, actor)
    if seen == expected:
        return []
    return [f"{relation.label}: expected {_size(expected)}, saw {_size(seen)}"]


def _computed(scene: Matrix, relation: Relation, actor: Actor, modules: list[str]) -> list[str]:
    """Compare what an actor sees of a view over several tables with all that stands there of his organisations."""
    scopes = {scene.scope(actor, module, "select") for module in modules}
    query = sql.SQL("select to_jsonb(t) ->> 'org_id', to_jsonb(t)::text from {} t").format(
        relation.identifier
    )
    rows = scene.db.execute(query).fetchall()
    assert {row[0] for row in rows} == {str(place.org) for place in PLACES}, (
        f"{relation.label} is empty: help with rows.toml"
    )
    try:
        with scene.db.transaction(force_rollback=True), actor.acting(scene.db):
            seen = set(scene.db.execute(query).fetchall())
    except psycopg.errors.InsufficientPrivilege:
        return [] if actor.audience != "signed_in" else [f"{relation.label}: denied"]
    expected = {
        row for row in rows if scopes == {"all"} and (actor.org is None or row[0] == str(actor.org))
    }
    if "none" not in scopes and "own" in scopes:
        return (
            [f"{relation.label}: rows of another tenant"]
            if {row[0] for row in seen} - {str(actor.org)}
            else []
        )
    return (
        []
        if seen == expected
        else [f"{relation.label}: expected {_size(expected)}, saw {_size(seen)}"]
    )


def _size(rows: set[tuple[object, ...]] | str) -> str:
    return rows if isinstance(rows, str) else f"{len(rows)} rows"


def miswritten(scene: Matrix, relation: Relation, actor: Actor) -> list[str]:
    """Compare the rows an actor changes or deletes with those his role may write."""
    wrong = []
    for verb in ("update", "delete"):
        condition = scene.expected(relation, verb, actor)
        visible = scene.expected(relation, "select", actor)
        table = scene.table(relation)
        made = {p.name: scene.rows.made.get((table.name, p.name)) for p in PLACES} if table else {}
        for place in PLACES:
            row = made.get(place.name)
            if row is None:
                finder: sql.Composable = sql.SQL("true")
                if place is not MINE:
                    continue
            else:
                finder = where(scene.key(relation), row)
            if condition == DENIED:
                expected = DENIED
            elif row is None:
                found = _rows_where(scene.db, scene, relation, f"({condition}) and ({visible})")
                expected = "done" if found else "nothing"
            else:
                reach = sql.SQL("select 1 from {} t where {} and ({}) and ({})").format(
                    scene.base(relation), finder, sql.SQL(condition), sql.SQL(visible)
                )  # fmt: skip
                expected = "done" if scene.db.execute(reach).fetchone() else "nothing"
            got = answer(scene.db, actor, _write(scene, relation, verb, actor, finder))
            scene.cells += 1
            if got != expected:
                wrong.append(
                    f"{verb} {relation.label} ({place.name}): expected {expected}, got {got}"
                )
    return wrong


def _write(
    scene: Matrix, relation: Relation, verb: str, actor: Actor, finder: sql.Composable
) -> sql.Composed:
    if verb == "delete":
        return sql.SQL("delete from {} where {}").format(relation.identifier, finder)
    row = scene.db.execute(
        "select a.attname from pg_attribute a where a.attrelid = to_regclass(%(r)s) and a.attnum > 0 and not a.attisdropped"
        " and a.attgenerated = '' order by has_column_privilege(%(who)s, a.attrelid, a.attnum, 'update') desc,"
        " a.attname <> 'updated_at' desc, a.attnum desc limit 1",
        {"r": f"{relation.schema}.{relation.name}", "who": actor.database_role},
    ).fetchone()
    assert row is not None
    return sql.SQL("update {0} set {1} = {1} where {2}").format(
        relation.identifier, sql.Identifier(row[0]), finder
    )


def misadded(scene: Matrix, relation: Relation, actor: Actor) -> list[str]:
    """Compare the rows an actor adds with those his role may write."""
    wrong = []
    condition = scene.expected(relation, "insert", actor)
    table = scene.table(relation)
    for place in PLACES:
        if table is None or "org_id" not in table.columns:
            statement: sql.Composed = sql.SQL("insert into {} default values").format(
                relation.identifier
            )
            if place is not MINE:
                continue
            expected = DENIED
            if condition != DENIED:
                pytest.fail(
                    f"{relation.label}: say in exceptions.toml that it cannot be inserted into"
                )
        else:
            about = place if place is not MINE or actor.org != MINE.org else _about(actor)
            values = scene.rows.values(table, about, label="-added")
            if relation.is_view:
                columns = _columns(scene, relation)
                values = {name: value for name, value in values.items() if name in columns}
            statement = sql.SQL("insert into {} ({}) values ({})").format(
                relation.identifier,
                sql.SQL(", ").join(map(sql.Identifier, values)),
                sql.SQL(", ").join(values.values()),
            )
            expected = DENIED
            if condition != DENIED:
                fits = scene.db.execute(
                    sql.SQL("select ({}), ({}) from (select {}) t").format(
                        sql.SQL(condition),
                        sql.SQL(scene.narrowed(relation, "insert", actor)),
                        sql.SQL(", ").join(
                            sql.SQL("({})::{} as {}").format(
                                value, sql.SQL(table.columns[name].type), sql.Identifier(name)
                            )
                            for name, value in scene.rows.values(
                                table, about, label="-added"
                            ).items()
                        ),
                    )
                ).fetchone()
                assert fits is not None
                expected = DENIED if not fits[0] else "done" if fits[1] else REFUSED
        got = answer(scene.db, actor, statement)
        scene.cells += 1
        if got != expected:
            wrong.append(f"insert {relation.label} ({place.name}): expected {expected}, got {got}")
    return wrong


def _about(actor: Actor) -> Place:
    return replace(MINE, person=actor.person, client=actor.client or MINE.client)


def _columns(scene: Matrix, relation: Relation) -> set[str]:
    return {
        row[0]
        for row in scene.db.execute(
            "select attname from pg_attribute where attrelid = to_regclass(%s) and attnum > 0",
            (f"{relation.schema}.{relation.name}",),
        ).fetchall()
    }


def overwritten(scene: Matrix, relation: Relation, actor: Actor) -> list[str]:
    """Count the rows a write without a where clause touches: not narrowed by what its author may read, the write policy stands alone."""
    wrong = []
    for verb in ("update", "delete"):
        condition = scene.expected(relation, verb, actor)
        if condition == DENIED or relation.is_view:
            continue
        statement = (
            sql.SQL("delete from {}").format(relation.identifier)
            if verb == "delete"
            else sql.SQL("update {} set {}").format(
                relation.identifier, _assignment(scene, relation, actor)
            )
        )
        expected = len(_rows_where(scene.db, scene, relation, condition))
        got = attempt(scene.db, actor, statement, triggers=False)
        scene.cells += 1
        if got != ("ok", expected):
            wrong.append(f"{verb} {relation.label}: expected {expected} rows, got {got}")
    return wrong


def _assignment(scene: Matrix, relation: Relation, actor: Actor) -> sql.Composable:
    """Write an assignment that reads nothing and breaks no constraint, to a column the actor may update."""
    column = scene.db.execute(
        "select a.attname, a.attnotnull from pg_attribute a"
        " where a.attrelid = to_regclass(%(r)s) and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''"
        " and has_column_privilege(%(who)s, a.attrelid, a.attnum, 'update')"
        " and (not a.attnotnull or a.atttypid = 'timestamptz'::regtype) order by a.attnotnull,"
        " exists (select from pg_constraint k where k.conrelid = a.attrelid and a.attnum = any (k.conkey)),"
        " exists (select from pg_index i where i.indrelid = a.attrelid and a.attnum = any (i.indkey)) limit 1",
        {"r": f"{relation.schema}.{relation.name}", "who": actor.database_role},
    ).fetchone()
    if column is None:  # only the state may be changed
        return sql.SQL("status = 'dismissed'")
    value = sql.SQL("now()" if column[1] else "null")
    return sql.SQL("{} = {}").format(sql.Identifier(column[0]), value)


def moved(scene: Matrix, relation: Relation, actor: Actor) -> list[str]:
    """Move rows to another tenant or another person: policy and guard each refuse it.

    A platform admin, who is at home everywhere, meets the guard alone.
    """
    wrong = []
    table = scene.rows.tables.get(f"{relation.schema}.{relation.name}")
    if table is None or "org_id" not in table.columns:
        return []
    condition = scene.expected(relation, "update", actor)
    if condition == DENIED:
        return []
    is_reachable = bool(_rows_where(scene.db, scene, relation, condition))
    moves: dict[str, object] = {
        "org_id": next(place.org for place in PLACES if place.org != actor.org)
    }
    protection = scene.protections[relation.name]
    if protection.own_column and scene.scope(actor, protection.module, "update") == "own":
        moves[protection.own_column] = A.member("director")
    for column, target in moves.items():
        if not _may_update(scene, relation, column):
            continue
        statement = sql.SQL("update {} set {} = {}").format(
            table.identifier, sql.Identifier(column), sql.Literal(target)
        )
        alone, _ = attempt(scene.db, actor, statement, triggers=False)
        if alone != DENIED and is_reachable and actor.kind != "platform admin":
            wrong.append(f"{relation.label}.{column}: the policy says {alone}")
        together, count = attempt(scene.db, actor, statement)
        scene.cells += 2
        if together == "ok" and count:
            wrong.append(f"{relation.label}.{column}: {count} rows moved")
    return wrong


def _may_update(scene: Matrix, relation: Relation, column: str) -> bool:
    row = scene.db.execute(
        "select has_column_privilege('authenticated', %s, %s, 'update')",
        (f"{relation.schema}.{relation.name}", column),
    ).fetchone()
    return row is not None and bool(row[0])


def miscolumned(scene: Matrix, relation: Relation, actor: Actor) -> list[str]:
    """Compare the columns a visitor or an analyst reads with those granted."""
    wrong = []
    if actor.audience == "signed_in":
        return []
    granted = scene.expected(relation, "select", actor) != DENIED
    stated = EXCEPTIONS.get(relation.label, {}).get("columns", {}).get(actor.audience)
    if EXCEPTIONS.get(relation.label, {}).get("computed"):
        granted = False
    for column, is_personal in scene.db.execute(
        "select attname, coalesce(col_description(attrelid, attnum), '') like '[pii]%%' from pg_attribute"
        " where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped",
        (f"{relation.schema}.{relation.name}",),
    ).fetchall():
        expected = granted and (column in stated if stated is not None else not is_personal)
        outcome, _ = attempt(
            scene.db,
            actor,
            sql.SQL("select {} from {} limit 0").format(
                sql.Identifier(column), relation.identifier
            ),
        )
        if (outcome == "ok") != expected:
            wrong.append(f"{relation.label}.{column}: expected {expected}, got {outcome}")
    return wrong


def overgranted(scene: Matrix, relation: Relation, actor: Actor) -> list[str]:
    """Find verbs and columns granted to an actor's role that nobody of it has a use for."""
    wrong = []
    for verb in VERBS:
        granted = scene.granted_columns(relation, actor.database_role, verb)
        is_computed = "computed" in EXCEPTIONS.get(relation.label, {}) and verb == "select"
        if is_computed and actor.audience == "signed_in":
            continue
        if granted and not any(
            scene.expected(relation, verb, other) != DENIED
            for other in ACTORS
            if other.database_role == actor.database_role
        ):
            wrong.append(
                f"{verb} on {relation.label} is granted to {actor.database_role} for nothing"
            )
        columns = EXCEPTIONS.get(relation.label, {}).get("columns", {})
        stated = columns.get(actor.audience if verb == "select" else verb)
        if stated is not None and granted and actor.audience != "analyst":
            wrong += [
                f"{verb} on {relation.label}.{column}: granted or stated, not both"
                for column in granted ^ set(stated)
            ]
    return wrong


Cells = Callable[[Matrix, Relation, Actor], list[str]]
CELLS: Final[dict[str, Cells]] = {
    "rows an actor reads are those his role may read": misread,
    "rows an actor changes or deletes are those his role may write": miswritten,
    "rows an actor adds are those his role may write": misadded,
    "writes that read nothing touch no more rows": overwritten,
    "no actor moves a row to another tenant or another person": moved,
    "nothing is granted beyond what is stated": overgranted,
    "columns a visitor or an analyst reads are those granted": miscolumned,
}
