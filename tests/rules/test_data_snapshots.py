"""Snapshots: rates of the Banco Central, ERP rows and their clients, what may be read by whom."""

import json
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.people import (
    Connection,
    Org,
    World,
    as_analyst,
    as_anon,
    as_member,
    as_worker,
    denied,
    refused,
)

TABLES = ("erp_sync_log", "erp_revenue_snapshot", "erp_receivables", "data_gaps")


def upsert(db: Connection, *rates: dict[str, Any]) -> list[tuple[str, str, Decimal | None]]:
    """Upsert rates as the worker; give the rows that changed."""
    with as_worker(db):
        rows = db.execute(
            "select series, date::text, value from public.upsert_bcb_rates(%s)"
            " order by series, date",
            (json.dumps(rates),),
        ).fetchall()
    return [tuple(row) for row in rows]


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


def test_rates_are_stored_exactly_as_the_decimal_text_they_come_in(db: Connection) -> None:
    changed = upsert(db, {"series": "433", "date": "2026-01-01", "value": "0.33000001"})
    assert changed == [("433", "2026-01-01", Decimal("0.33000001"))]


def test_only_new_and_revised_rates_are_answered(db: Connection) -> None:
    first = {"series": "433", "date": "2026-01-01", "value": "0.33"}
    second = {"series": "433", "date": "2026-02-01", "value": "0.70"}
    assert len(upsert(db, first, second)) == 2
    assert upsert(db, first, second) == []
    revised = upsert(db, first, second | {"value": "0.71"})
    assert revised == [("433", "2026-02-01", Decimal("0.71"))]


def test_of_a_rate_given_twice_in_one_call_the_last_counts(db: Connection) -> None:
    rate = {"series": "189", "date": "2026-01-01"}
    changed = upsert(db, rate | {"value": "1"}, rate | {"value": "2"})
    assert changed == [("189", "2026-01-01", Decimal(2))]


def test_a_currency_has_buy_and_sell_instead_of_a_value(db: Connection) -> None:
    upsert(db, {"series": "USD", "date": "2026-01-05", "buy": 5.41, "sell": "5.42"})
    row = db.execute(
        "select value, buy, sell from public.bcb_rates_snapshot where series = 'USD'"
    ).fetchone()
    assert row == (None, Decimal("5.41"), Decimal("5.42"))


@pytest.mark.parametrize(
    "rates",
    [
        {"series": "433"},
        [{"series": "433", "date": "31/12/2025", "value": "1"}],
        [{"series": "433", "date": "2026-01-01", "value": "0,33"}],
        [{"series": "433", "date": "2026-01-01"}],
        [{"series": "", "date": "2026-01-01", "value": "1"}],
        ["433"],
        None,
    ],
)
def test_malformed_rates_are_refused_whole(db: Connection, rates: object) -> None:
    with as_worker(db), refused("bad_input"):
        db.execute("select public.upsert_bcb_rates(%s)", (json.dumps(rates),))


def test_only_the_worker_writes_rates_and_everybody_signed_in_reads_them(
    db: Connection, world: World
) -> None:
    upsert(db, {"series": "433", "date": "2026-01-01", "value": "0.33"})
    for role in ("employee", "client", "owner"):
        with as_member(db, world.b, role):
            row = db.execute("select value from public.bcb_rates_snapshot").fetchone()
            assert row == (Decimal("0.33"),)
            with denied():
                db.execute("select public.upsert_bcb_rates('[]')")
            with denied():
                db.execute("update public.bcb_rates_snapshot set value = 9")
    with as_analyst(db):
        assert db.execute("select count(*) from public.bcb_rates_snapshot").fetchone() == (1,)
    with as_anon(db), denied():
        db.execute("select 1 from public.bcb_rates_snapshot")


def test_the_index_of_a_month_is_found_from_any_of_its_days(db: Connection) -> None:
    upsert(db, {"series": "433", "date": "2026-02-01", "value": "0.70"})
    row = db.execute(
        "select app.monthly_index('433', '2026-02-28'), app.monthly_index('433', '2026-03-01'),"
        " app.monthly_index('188', '2026-02-01')"
    ).fetchone()
    assert row == (Decimal("0.70"), None, None)


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
