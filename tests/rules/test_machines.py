"""Every state machine, read from the catalog: each pair of states is tried, and exactly the listed moves pass.

Whether a move needs more than being listed is the business of the module's own tests: here the guard is asked, with the
other triggers off.
"""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from tests.access.matrix import MINE, Matrix
from tests.people import Connection
from tests.schema.laws import states_of, trigger_arguments


@pytest.fixture(scope="module")
def matrix(db_url: str) -> Iterator[Matrix]:
    """A database with a row in every table."""
    with psycopg.connect(db_url) as connection:
        matrix = Matrix(connection)
        matrix.rows.fill(MINE)
        connection.commit()
        yield matrix
        connection.rollback()


@pytest.fixture
def db(matrix: Matrix) -> Iterator[Connection]:
    """Its connection; undone after the test."""
    yield matrix.db
    matrix.db.rollback()


def machines(db: Connection) -> dict[str, tuple[str, str, str]]:
    """Return trigger, entity and state column of every machine."""
    return {
        table: (trigger, *arguments)  # type: ignore[misc]
        for (table, trigger), arguments in trigger_arguments(db, "app.guard_move").items()
    }


def test_there_are_machines(db: Connection) -> None:
    assert {"leads", "contracts", "playbooks", "proposals", "job_applications"} <= set(machines(db))


def test_exactly_the_listed_moves_pass_the_guard(db: Connection) -> None:
    wrong, tried = [], 0
    for machine, (trigger, entity, column) in machines(db).items():
        name = sql.Identifier(column)
        states = sorted(states_of(db, machine, column))
        listed = set(
            db.execute(
                "select from_state, to_state from app.allowed_moves where machine = %s", (machine,)
            ).fetchall()
        )
        for before in states:
            for after in (state for state in states if state != before):
                tried += 1
                outcome = _move(db, machine, name, trigger, (before, after))
                expected = "passed" if (before, after) in listed else f"PT409 {entity}_move_refused"
                if outcome != expected:
                    wrong.append(
                        f"{machine}: {before} -> {after}: expected {expected}, got {outcome}"
                    )
    assert not wrong, "\n" + "\n".join(wrong)
    assert tried > 100


def _move(
    db: Connection, machine: str, column: sql.Identifier, trigger: str, move: tuple[str, str]
) -> str:
    table = sql.Identifier("public", machine)
    checks = db.execute(
        sql.SQL(
            "select conname from pg_constraint where contype = 'c' and conrelid = {}::regclass"
        ).format(sql.Literal(table.as_string()))
    ).fetchall()
    try:
        with db.transaction(force_rollback=True):
            for (check,) in checks:  # what else a state asks of its row is another rule
                db.execute(
                    sql.SQL("alter table {} drop constraint {}").format(
                        table, sql.Identifier(check)
                    )
                )
            db.execute(sql.SQL("alter table {} disable trigger user").format(table))
            db.execute(sql.SQL("update {} set {} = {}").format(table, column, sql.Literal(move[0])))
            db.execute(
                sql.SQL("alter table {} enable trigger {}").format(table, sql.Identifier(trigger))
            )
            db.execute(sql.SQL("update {} set {} = {}").format(table, column, sql.Literal(move[1])))
            return "passed"
    except psycopg.Error as error:
        return f"{error.sqlstate} {error.diag.message_primary}"
    raise AssertionError


def test_a_refusal_names_what_may_follow(db: Connection) -> None:
    db.execute("set local session_replication_role = replica")
    db.execute("update public.leads set status = 'won'")
    db.execute("set local session_replication_role = origin")
    with pytest.raises(psycopg.Error) as error, db.transaction():
        db.execute("update public.leads set status = 'new'")
    assert error.value.diag.message_primary == "lead_move_refused"
    assert "won" in (error.value.diag.message_detail or "")
    assert "nothing" in (error.value.diag.message_hint or "")


def test_every_state_a_row_may_be_made_in_leads_somewhere_or_is_an_end(db: Connection) -> None:
    """No state is an island: each is reached from the first one, which is the default."""
    islands = []
    for machine, (_trigger, _entity, column) in machines(db).items():
        default = db.execute(
            "select (regexp_match(pg_get_expr(d.adbin, d.adrelid), '''([a-z_]+)'''))[1] from pg_attrdef d"
            " join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum"
            " where d.adrelid = to_regclass('public.' || %s) and a.attname = %s",
            (machine, column),
        ).fetchone()
        assert default, f"{machine} has no first state"
        reached, edge = {default[0]}, {default[0]}
        while edge:
            edge = {
                row[0]
                for row in db.execute(
                    "select to_state from app.allowed_moves where machine = %s and from_state = any (%s)",
                    (machine, list(edge)),
                ).fetchall()
            } - reached
            reached |= edge
        islands += [f"{machine}: {state}" for state in states_of(db, machine, column) - reached]
    assert islands == []
