"""Snapshots: ERP rows and their clients, gaps, what may be read by whom."""

from uuid import UUID

import psycopg
import pytest

from tests.people import (
    Connection,
    Org,
    World,
    as_member,
    as_worker,
    denied,
    refused,
)

TABLES = ("erp_sync_log", "erp_revenue_snapshot", "erp_receivables", "data_gaps")


def bill(db: Connection, org: Org, code: int, value: str, basis: str = "issued") -> UUID:
    """Store a month of ERP revenue as the worker; give its id."""
    with as_worker(db):
        row = db.execute(
            "insert into public.erp_revenue_snapshot (org_id, month, omie_codigo, basis, value)"
            " values (%s, '2026-01-01', %s, %s, %s) returning id",
            (org.org, code, basis, value),
        ).fetchone()
    assert row
    return UUID(str(row[0]))


def linked_client(db: Connection, row: UUID) -> UUID | None:
    """Give the client an ERP row is linked to."""
    found = db.execute(
        "select client_id from public.erp_revenue_snapshot where id = %s", (row,)
    ).fetchone()
    assert found
    client: UUID | None = found[0]
    return client


def test_one_row_stands_per_month_client_and_basis(db: Connection, world: World) -> None:
    bill(db, world.a, 77, "100")
    bill(db, world.a, 77, "90", basis="received")
    bill(db, world.b, 77, "5")
    with pytest.raises(psycopg.errors.UniqueViolation), db.transaction():
        bill(db, world.a, 77, "1")


def test_erp_rows_follow_the_code_of_the_client(db: Connection, world: World) -> None:
    early = bill(db, world.a, 6289000111, "100")
    foreign = bill(db, world.b, 6289000111, "100")
    assert linked_client(db, early) is None
    code = "update public.clients set omie_codigo = %s where org_id = %s and id = %s"
    db.execute(code, (6289000111, world.a.org, world.a.client))
    assert linked_client(db, early) == world.a.client
    assert linked_client(db, bill(db, world.a, 6289000111, "1", "received")) == world.a.client
    assert linked_client(db, foreign) is None
    db.execute(code, (None, world.a.org, world.a.client))
    assert linked_client(db, early) is None


def test_a_settled_title_has_nothing_open(db: Connection, world: World) -> None:
    insert = (
        "insert into public.erp_receivables"
        " (org_id, title_number, omie_codigo, due_on, amount, paid, open, status)"
        " values (%s, 1, 7, '2026-01-20', 100, %s, %s, %s)"
    )
    with pytest.raises(psycopg.errors.CheckViolation, match="settled_check"), db.transaction():
        db.execute(insert, (world.a.org, 60, 40, "paid"))
    db.execute(insert, (world.a.org, 60, 40, "partial"))


def test_snapshots_are_read_by_those_the_matrix_names_and_written_by_no_client(
    db: Connection, world: World
) -> None:
    bill(db, world.a, 77, "100")
    bill(db, world.b, 77, "100")
    for role, seen in {"finance": 1, "ops": 1, "sales": 0, "client": 0, "agent": 0}.items():
        with as_member(db, world.a, role):
            row = db.execute("select count(*) from public.erp_revenue_snapshot").fetchone()
            assert row == (seen,), role
    with as_member(db, world.a, "owner"):
        for table in TABLES:
            with denied():
                db.execute(f"insert into public.{table} (org_id) values (%s)", (world.a.org,))
            with denied():
                db.execute(f"delete from public.{table}")


def test_a_finished_synchronisation_is_not_reopened(db: Connection, world: World) -> None:
    db.execute(
        "insert into public.erp_sync_log (org_id, entity) values (%s, 'revenue')", (world.a.org,)
    )
    db.execute("update public.erp_sync_log set status = 'succeeded', finished_at = app.now()")
    with refused("erp_sync_move_refused"):
        db.execute("update public.erp_sync_log set status = 'running', finished_at = null")
    events = db.execute(
        "select event_type from public.module_events where entity_type = 'erp_sync' order by 1"
    ).fetchall()
    assert events == [("erp_sync.created",), ("erp_sync.succeeded",)]


def test_a_gap_is_solved_and_may_come_back_but_not_twice(db: Connection, world: World) -> None:
    db.execute(
        "insert into public.data_gaps (org_id, dataset, period)"
        " values (%s, 'erp_revenue_snapshot', '2026-01-01')",
        (world.a.org,),
    )
    db.execute("update public.data_gaps set status = 'solved', solved_at = app.now()")
    db.execute("update public.data_gaps set status = 'open', solved_at = null")
    db.execute("delete from app.allowed_moves where machine = 'data_gaps'")
    with refused("data_gap_move_refused"):
        db.execute("update public.data_gaps set status = 'solved', solved_at = app.now()")
