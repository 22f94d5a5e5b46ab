"""The executed access matrix: every relation, every actor, every verb, on rows of his own, of others and of strangers."""

from collections.abc import Callable, Iterator
from dataclasses import replace

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

everybody = pytest.mark.parametrize("actor", ACTORS, ids=lambda actor: actor.name)


@pytest.fixture(scope="module")
def matrix(db_url: str) -> Iterator[Matrix]:
    """The matrix over a database with three rows in every table: mine, another's, and another tenant's."""
    with psycopg.connect(db_url) as connection:
        matrix = Matrix(connection)
        for place in PLACES:
            matrix.rows.fill(place)
        connection.commit()
        yield matrix
        connection.rollback()


@pytest.fixture
def scene(
    matrix: Matrix, actor: Actor, record_property: Callable[[str, object], None]
) -> Iterator[Matrix]:
    """The same, with the rows of place `mine` about the actor; undone afterwards."""
    matrix.make_mine(actor)
    before = matrix.cells
    yield matrix
    record_property("cells", matrix.cells - before)
    matrix.db.rollback()


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


@everybody
def test_rows_an_actor_reads_are_those_his_role_may_read(scene: Matrix, actor: Actor) -> None:
    wrong = []
    for relation in scene.relations:
        scene.cells += 1
        if modules := EXCEPTIONS.get(relation.label, {}).get("computed"):
            wrong += _computed(scene, relation, actor, modules)
            continue
        condition = scene.expected(relation, "select", actor)
        expected = (
            DENIED if condition == DENIED else _rows_where(scene.db, scene, relation, condition)
        )
        seen = _seen(scene.db, scene, relation, actor)
        if seen != expected:
            wrong.append(f"{relation.label}: expected {_size(expected)}, saw {_size(seen)}")
    assert not wrong, "\n" + "\n".join(wrong)


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


@everybody
def test_rows_an_actor_changes_or_deletes_are_those_his_role_may_write(
    scene: Matrix, actor: Actor
) -> None:
    wrong = []
    for relation in scene.relations:
        for verb in ("update", "delete"):
            condition = scene.expected(relation, verb, actor)
            visible = scene.expected(relation, "select", actor)
            table = scene.table(relation)
            made = (
                {p.name: scene.rows.made.get((table.name, p.name)) for p in PLACES} if table else {}
            )
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
    assert not wrong, "\n" + "\n".join(wrong)


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


@everybody
def test_rows_an_actor_adds_are_those_his_role_may_write(scene: Matrix, actor: Actor) -> None:
    wrong = []
    for relation in scene.relations:
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
                wrong.append(
                    f"insert {relation.label} ({place.name}): expected {expected}, got {got}"
                )
    assert not wrong, "\n" + "\n".join(wrong)


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


@everybody
def test_writes_that_read_nothing_touch_no_more_rows(scene: Matrix, actor: Actor) -> None:
    """A write without a where clause is not narrowed by what its author may read: the write policy stands alone."""
    wrong = []
    for relation in scene.relations:
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
    assert not wrong, "\n" + "\n".join(wrong)


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


@everybody
def test_no_actor_moves_a_row_to_another_tenant_or_another_person(
    scene: Matrix, actor: Actor
) -> None:
    """Policy and guard each refuse it; a platform admin, who is at home everywhere, meets the guard alone."""
    wrong = []
    for name, table in scene.rows.tables.items():
        relation = Relation("public", name.removeprefix("public."), is_view=False)
        condition = scene.expected(relation, "update", actor)
        if condition == DENIED or "org_id" not in table.columns:
            continue
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
                wrong.append(f"{name}.{column}: the policy says {alone}")
            together, count = attempt(scene.db, actor, statement)
            scene.cells += 2
            if together == "ok" and count:
                wrong.append(f"{name}.{column}: {count} rows moved")
    assert not wrong, "\n" + "\n".join(wrong)


def _may_update(scene: Matrix, relation: Relation, column: str) -> bool:
    row = scene.db.execute(
        "select has_column_privilege('authenticated', %s, %s, 'update')",
        (f"{relation.schema}.{relation.name}", column),
    ).fetchone()
    return row is not None and bool(row[0])


@pytest.mark.parametrize(
    "actor",
    [actor for actor in ACTORS if actor.audience != "signed_in"],
    ids=lambda actor: actor.name,
)
def test_columns_a_visitor_or_an_analyst_reads_are_those_granted(
    scene: Matrix, actor: Actor
) -> None:
    wrong = []
    for relation in scene.relations:
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
    assert not wrong, "\n" + "\n".join(wrong)


def test_every_exception_names_a_relation_and_has_a_reason(matrix: Matrix) -> None:
    labels = {relation.label for relation in matrix.relations}
    assert set(EXCEPTIONS) <= labels
    assert [label for label, exception in EXCEPTIONS.items() if not exception.get("why")] == []
    stated = {"why", "like", "where", "verbs", "columns", "computed", "narrow", *VERBS}
    assert [label for label, exception in EXCEPTIONS.items() if not set(exception) <= stated] == []


def test_every_public_relation_is_protected_or_stated(matrix: Matrix) -> None:
    known = set(matrix.protections) | set(EXCEPTIONS)
    assert [
        r.label for r in matrix.relations if r.schema == "public" and r.label not in known
    ] == []


def test_every_tenant_table_has_its_three_rows(matrix: Matrix) -> None:
    tenants = [name for name, table in matrix.rows.tables.items() if "org_id" in table.columns]
    assert [
        (n, p.name) for n in tenants for p in PLACES if (n, p.name) not in matrix.rows.made
    ] == []
