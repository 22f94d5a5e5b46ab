"""Fin, the management part: revenue of a month, margins, reconciliation, summary, reports."""

import csv
import io
from datetime import date, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from tests.people import (
    Connection,
    Org,
    World,
    as_client,
    as_member,
    as_worker,
    denied,
    refused,
    set_clock,
)

MARCH = date(2026, 3, 1)
MONEY = st.decimals(min_value=0, max_value=99999, places=2)
PER_EXAMPLE = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def add(db: Connection, table: str, org: Org, **columns: object) -> UUID:
    names = ["org_id", *columns]
    row = db.execute(
        f"insert into public.{table} ({', '.join(names)})"
        f" values ({', '.join(['%s'] * len(names))}) returning id",
        [org.org, *columns.values()],
    ).fetchone()
    assert row is not None
    return UUID(str(row[0]))


def add_contract(db: Connection, org: Org, mrr: object = 1000, **columns: object) -> UUID:
    values = {
        "client_id": org.client,
        "title": "Suporte",
        "status": "active",
        "starts_on": date(2026, 1, 1),
        **columns,
    }
    return add(db, "contracts", org, mrr=mrr, **values)


def add_costs(
    db: Connection, org: Org, contract: UUID, month: date = MARCH, **costs: object
) -> UUID:
    values = {"hours_worked": 0, "source": "manual", **costs}
    return add(db, "performance_metrics", org, contract_id=contract, month=month, **values)


def configure(db: Connection, org: Org, **values: object) -> None:
    with as_member(db, org, "admin"):
        db.execute(
            "select public.update_organization(%s, settings => %s)",
            (org.org, Jsonb(values)),
        )


def rentability(db: Connection, org: Org, month: date = MARCH) -> dict[UUID, dict[str, Any]]:
    cursor = db.execute("select * from public.contract_rentability(%s, %s)", (org.org, month))
    assert cursor.description is not None
    names = [column.name for column in cursor.description]
    rows = [dict(zip(names, row, strict=True)) for row in cursor]
    return {row["contract_id"]: row for row in rows}


def revenue(db: Connection, org: Org, contract: UUID, month: date = MARCH) -> Decimal | None:
    row = rentability(db, org, month).get(contract)
    return row["revenue"] if row else None


def summary(db: Connection, org: Org, month: date | None = None) -> dict[str, Any]:
    row = db.execute("select public.get_cfo_summary(%s, %s)", (org.org, month)).fetchone()
    assert row is not None
    return dict(row[0])


# --- Revenue of a month --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("period", "month", "expected"),
    [
        (("2026-01-01", None), "2026-03-01", "3100.00"),
        (("2026-03-16", None), "2026-03-01", "1600.00"),
        (("2026-03-31", None), "2026-03-01", "100.00"),
        (("2026-01-01", "2026-03-01"), "2026-03-01", "100.00"),
        (("2026-03-10", "2026-03-12"), "2026-03-31", "300.00"),
        (("2028-02-29", "2028-02-29"), "2028-02-01", "106.90"),
        (("2026-04-01", None), "2026-03-01", None),
        (("2026-01-01", "2026-02-28"), "2026-03-01", None),
    ],
)
def test_revenue_counts_the_days_in_force(
    db: Connection,
    world: World,
    period: tuple[str, str | None],
    month: str,
    expected: str | None,
) -> None:
    contract = add_contract(db, world.a, 3100, starts_on=period[0], ends_on=period[1])
    got = revenue(db, world.a, contract, date.fromisoformat(month))
    assert got == (Decimal(expected) if expected else None)


def test_a_change_of_value_inside_the_month_counts_from_its_day(
    db: Connection, world: World
) -> None:
    set_clock(db, "2026-01-05T12:00-03:00")
    contract = add_contract(db, world.a, 3100)
    set_clock(db, "2026-03-11T12:00-03:00")
    db.execute("update public.contracts set mrr = 6200 where id = %s", (contract,))
    assert revenue(db, world.a, contract) == Decimal("5200.00")  # 10 days of 100, 21 of 200
    assert revenue(db, world.a, contract, date(2026, 2, 1)) == Decimal("3100.00")


def test_a_change_at_half_past_eleven_at_night_in_sao_paulo_counts_in_the_month_that_ends(
    db: Connection, world: World
) -> None:
    set_clock(db, "2026-01-05T12:00-03:00")
    contract = add_contract(db, world.a, 3100)
    set_clock(db, "2026-03-31T23:30-03:00")
    db.execute("update public.contracts set mrr = 6200 where id = %s", (contract,))
    assert revenue(db, world.a, contract) == Decimal("3200.00")


def test_ending_or_suspending_a_contract_leaves_the_months_before_as_they_were(
    db: Connection, world: World
) -> None:
    set_clock(db, "2026-01-05T12:00-03:00")
    ended, suspended = add_contract(db, world.a, 3100), add_contract(db, world.a, 3100)
    before = rentability(db, world.a, date(2026, 2, 1))
    set_clock(db, "2026-03-11T12:00-03:00")
    db.execute("update public.contracts set status = 'ended' where id = %s", (ended,))
    db.execute("update public.contracts set status = 'suspended' where id = %s", (suspended,))
    assert rentability(db, world.a, date(2026, 2, 1)) == before
    assert revenue(db, world.a, ended) == Decimal("1000.00")
    assert revenue(db, world.a, suspended) == Decimal("1000.00")


@PER_EXAMPLE
@given(mrr=MONEY, first=st.integers(2, 31))
def test_two_stretches_of_a_month_add_up_to_the_month(
    db: Connection, world: World, mrr: Decimal, first: int
) -> None:
    with db.transaction(force_rollback=True):
        cut = date(2026, 3, first)
        one = add_contract(db, world.a, mrr, ends_on=cut - timedelta(days=1))
        two = add_contract(db, world.a, mrr, starts_on=cut)
        whole = add_contract(db, world.a, mrr)
        rows = rentability(db, world.a)
        assert rows[whole]["revenue"] == mrr
        assert abs(rows[one]["revenue"] + rows[two]["revenue"] - mrr) <= Decimal("0.01")
        assert rows[one]["days_in_force"] + rows[two]["days_in_force"] == 31


# --- Margins -------------------------------------------------------------------------------------


def test_margin_is_one_month_of_revenue_less_one_month_of_cost(
    db: Connection, world: World
) -> None:
    configure(db, world.a, overhead_method="fixed_pct", overhead_pct=10, tax_pct=6.5)
    contract = add_contract(db, world.a, 1000)
    for month in (1, 2, 3):
        add_costs(
            db,
            world.a,
            contract,
            date(2026, month, 1),
            hours_worked=10,
            labour_cost=300,
            cloud_cost=50,
            other_cost=25,
        )
    with as_member(db, world.a, "finance"):
        row = rentability(db, world.a, date(2026, 12, 15))[contract]
        assert (row["period"], row["revenue"], row["labour_cost"]) == (date(2026, 12, 1), 1000, 0)
        row = rentability(db, world.a)[contract]
    # The settings were made after March: March keeps its own, none.
    assert (row["overhead_cost"], row["tax"], row["margin"]) == (0, 0, Decimal("625.00"))
    assert row["margin_pct"] == Decimal("62.50")


def test_settings_count_from_the_month_they_were_made_in(db: Connection, world: World) -> None:
    set_clock(db, "2031-01-05T12:00-03:00")
    contract = add_contract(db, world.a, 1000, starts_on=date(2031, 1, 1))
    set_clock(db, "2031-03-31T23:30-03:00")
    configure(db, world.a, overhead_method="fixed_pct", overhead_pct=10, tax_pct=6.5)
    assert rentability(db, world.a, date(2031, 2, 1))[contract]["margin"] == 1000
    row = rentability(db, world.a, date(2031, 3, 1))[contract]
    assert (row["overhead_cost"], row["tax"]) == (100, 65)
    assert (row["margin"], row["margin_pct"]) == (835, Decimal("83.50"))


def test_costs_without_revenue_make_a_loss_without_a_percentage(
    db: Connection, world: World
) -> None:
    contract = add_contract(db, world.a, 0)
    add_costs(db, world.a, contract, labour_cost=80)
    row = rentability(db, world.a)[contract]
    assert (row["margin"], row["margin_pct"]) == (-80, None)


@PER_EXAMPLE
@given(
    parts=st.lists(st.tuples(MONEY, st.decimals(0, 300, places=2)), min_size=1, max_size=7),
    amount=MONEY,
    method=st.sampled_from(["revenue", "hours"]),
)
def test_shares_of_overhead_add_up_to_the_cent(
    db: Connection, world: World, parts: list[tuple[Decimal, Decimal]], amount: Decimal, method: str
) -> None:
    with db.transaction(force_rollback=True):
        set_clock(db, "2031-03-10T12:00-03:00")
        configure(db, world.a, overhead_method=method, overhead_monthly_brl=float(amount))
        month = date(2031, 3, 1)
        for mrr, hours in parts:
            contract = add_contract(db, world.a, mrr, starts_on=month)
            add_costs(db, world.a, contract, month, hours_worked=hours)
        rows = rentability(db, world.a, month).values()
        something = any(mrr or (hours and method == "hours") for mrr, hours in parts)
        assert sum(row["overhead_cost"] for row in rows) == (amount if something else 0)
        assert all(row["overhead_cost"] >= 0 for row in rows)
        set_clock(db, None)


def test_overhead_is_shared_by_hours_where_the_organisation_says_so(
    db: Connection, world: World
) -> None:
    set_clock(db, "2031-03-10T12:00-03:00")
    configure(db, world.a, overhead_method="hours", overhead_monthly_brl=400)
    month = date(2031, 3, 1)
    few, many = (add_contract(db, world.a, 1000, starts_on=month) for _ in range(2))
    add_costs(db, world.a, few, month, hours_worked=10)
    add_costs(db, world.a, many, month, hours_worked=30)
    rows = rentability(db, world.a, month)
    assert (rows[few]["overhead_cost"], rows[many]["overhead_cost"]) == (100, 300)


def test_budget_is_compared_with_the_actual_cost(db: Connection, world: World) -> None:
    playbook = add(db, "playbooks", world.a, title="Base")
    add(db, "playbook_tasks", world.a, playbook_id=playbook, title="Passo", cost=120)
    action = add(db, "service_actions", world.a, title="Job")
    add(db, "service_action_playbooks", world.a, service_action_id=action, playbook_id=playbook)
    contract, bare = add_contract(db, world.a), add_contract(db, world.a)
    add(db, "contract_items", world.a, contract_id=contract, service_action_id=action, quantity=2)
    add(
        db,
        "contract_items",
        world.a,
        contract_id=contract,
        description="Licença",
        quantity=1,
        unit_price=60,
    )
    add_costs(db, world.a, contract, labour_cost=200, cloud_cost=25)
    add_costs(db, world.a, bare, labour_cost=10)
    query = (
        "select budget, actual, variance, efficiency_pct from public.v_contract_budget_vs_actual"
        " where contract_id = %s and month = %s"
    )
    with as_member(db, world.a, "finance"):  # finance does not read ops, and still sees the budget
        assert db.execute(query, (contract, MARCH)).fetchone() == (300, 225, 75, 25)
        assert db.execute(query, (bare, MARCH)).fetchone() == (0, 10, -10, None)
    for role in ("sales", "employee", "client", "legal"):
        with as_member(db, world.a, role):
            assert db.execute(query, (contract, MARCH)).fetchone() is None


# --- Who may see it ------------------------------------------------------------------------------

READERS = ("owner", "admin", "director", "finance")
CALLS = (
    "select * from public.contract_rentability(%s)",
    "select public.get_cfo_summary(%s)",
    "select * from public.report_mrr_by_client(%s)",
    "select * from public.report_rentability(%s)",
    "select * from public.report_reconciliation(%s)",
    "select * from public.report_lifecycle(%s)",
    "select * from public.report_erp_revenue(%s)",
    "select public.export_report_csv(%s, 'rentability')",
)


@pytest.mark.parametrize("call", CALLS)
def test_only_those_who_read_fin_see_figures(db: Connection, world: World, call: str) -> None:
    for role in READERS:
        with as_member(db, world.a, role):
            db.execute(call, (world.a.org,))
    for role in ("sales", "ops", "legal", "people", "employee", "agent", "client"):
        with as_member(db, world.a, role), refused("not_allowed"):
            db.execute(call, (world.a.org,))
    with as_member(db, world.b, "owner"), refused("not_allowed"):
        db.execute(call, (world.a.org,))


def test_a_line_of_the_matrix_that_gives_fin_alone_does_not_give_half_a_margin(
    db: Connection, world: World
) -> None:
    db.execute(
        "insert into public.org_role_permissions (org_id, role, module, read_scope, write_scope)"
        " values (%s, 'people', 'fin', 'all', 'none')",
        (world.a.org,),
    )
    with as_member(db, world.a, "people"), refused("not_allowed"):
        rentability(db, world.a)


def test_a_portal_client_sees_no_margin_and_no_alert(db: Connection, world: World) -> None:
    set_clock(db, "2026-04-02T12:00-03:00")
    add_contract(db, world.a, 1000)
    bill(db, world.a, 500)
    reconcile(db, world.a)
    with as_client(db, world.a):
        for table in ("reconciliation_alerts", "recorded_states", "v_contract_budget_vs_actual"):
            assert db.execute(f"select count(*) from public.{table}").fetchone() == (0,)


# --- Reconciliation ------------------------------------------------------------------------------


def bill(  # noqa: PLR0913, PLR0917 (the columns of a snapshot)
    db: Connection,
    org: Org,
    value: object,
    month: date = MARCH,
    code: int = 7001,
    basis: str = "issued",
) -> None:
    db.execute(
        "update public.clients set omie_codigo = %s where org_id = %s and id = %s",
        (code, org.org, org.client),
    )
    db.execute(
        "insert into public.erp_revenue_snapshot (org_id, month, omie_codigo, basis, value)"
        " values (%s, %s, %s, %s, %s)"
        " on conflict (org_id, month, omie_codigo, basis) do update set value = excluded.value",
        (org.org, month, code, basis, value),
    )


def reconcile(db: Connection, org: Org, month: date = MARCH) -> list[tuple[Any, ...]]:
    return db.execute(
        "select status, mrr, billed, difference, resolution from public.reconcile_erp(%s, %s)",
        (org.org, month),
    ).fetchall()


@pytest.fixture
def april(db: Connection) -> None:
    set_clock(db, "2026-04-02T12:00-03:00")


@pytest.mark.usefixtures("april")
@pytest.mark.parametrize(
    ("mrr", "billed", "is_alert"),
    [
        (1000, 950, False),
        (1000, "949.99", True),
        (1000, "1050.01", True),
        (2000, 1900, False),
        (2000, "1899.99", True),
        (100, 50, False),
        (100, "49.99", True),
        (0, 50, False),
        (0, "50.01", True),
    ],
)
def test_an_alert_needs_more_than_five_percent_and_more_than_fifty_reais(
    db: Connection, world: World, mrr: int, billed: object, *, is_alert: bool
) -> None:
    add_contract(db, world.a, mrr)
    bill(db, world.a, billed)
    assert bool(reconcile(db, world.a)) is is_alert


@pytest.mark.usefixtures("april")
def test_reconciling_again_changes_nothing_and_a_gone_difference_solves_the_alert(
    db: Connection, world: World
) -> None:
    add_contract(db, world.a, 1000)
    bill(db, world.a, 500)
    opened = [("open", 1000, 500, -500, None)]
    assert reconcile(db, world.a) == opened
    assert reconcile(db, world.a) == opened
    count = "select event_type from public.module_events where entity_type = 'reconciliation_alert'"
    assert db.execute(count).fetchall() == [("reconciliation_alert.created",)]
    bill(db, world.a, 980)
    assert reconcile(db, world.a) == [("solved", 1000, 980, -20, "gone")]
    bill(db, world.a, 500)
    assert reconcile(db, world.a) == opened


@pytest.mark.usefixtures("april")
def test_a_person_acknowledges_and_accepts_a_difference(db: Connection, world: World) -> None:
    add_contract(db, world.a, 1000)
    bill(db, world.a, 500)
    with as_member(db, world.a, "finance"):
        reconcile(db, world.a)
        row = db.execute("select id from public.reconciliation_alerts").fetchone()
        assert row is not None
        take = "select status from public.acknowledge_reconciliation_alert(%s, 'vou ver')"
        accept = "select status, note from public.accept_reconciliation_alert(%s, %s)"
        assert db.execute(take, row).fetchone() == ("acknowledged",)
        assert db.execute(take, row).fetchone() == ("acknowledged",)
        with refused("bad_input"):
            db.execute(accept, (row[0], " "))
        assert db.execute(accept, (row[0], "desconto")).fetchone() == ("solved", "desconto")
        with refused("reconciliation_alert_move_refused"):
            db.execute(take, row)
        assert reconcile(db, world.a) == [("solved", 1000, 500, -500, "accepted")]
    bill(db, world.a, 400)
    assert reconcile(db, world.a) == [("open", 1000, 400, -600, None)]
    for role in ("director", "sales"):
        with as_member(db, world.a, role), refused("not_allowed"):
            reconcile(db, world.a)
    with as_member(db, world.a, "sales"), refused("reconciliation_alert_not_found"):
        db.execute(take, row)
    with as_member(db, world.a, "finance"), denied():
        db.execute("update public.reconciliation_alerts set status = 'solved'")


@pytest.mark.usefixtures("april")
def test_nothing_is_compared_before_the_erp_has_told_of_the_month(
    db: Connection, world: World
) -> None:
    add_contract(db, world.a, 1000)
    with refused("erp_month_unknown"):
        reconcile(db, world.a)
    with refused("bad_input"):
        reconcile(db, world.a, date(2026, 5, 1))
    add(
        db,
        "erp_sync_log",
        world.a,
        entity="revenue",
        month=MARCH,
        status="succeeded",
        finished_at="2026-04-02T12:00-03:00",
    )
    assert reconcile(db, world.a) == [("open", 1000, 0, -1000, None)]


@pytest.mark.usefixtures("april")
def test_the_job_reconciles_the_month_before_once_the_erp_has_told_of_it(
    db: Connection, world: World
) -> None:
    for org in (world.a, world.b):
        add_contract(db, org, 1000)
    bill(db, world.b, 10)
    with as_worker(db):
        for org, count in ((world.a, 0), (world.b, 1)):
            row = db.execute("select app.reconcile_erp_last_month(%s)", (org.org,)).fetchone()
            assert row == (count,)
    assert db.execute(
        "select org_id, month, billed from public.reconciliation_alerts"
    ).fetchall() == [(world.b.org, MARCH, 10)]


def test_the_basis_of_reconciliation_is_a_setting(db: Connection, world: World) -> None:
    set_clock(db, "2031-03-20T12:00-03:00")
    configure(db, world.a, reconciliation_basis="received")
    add_contract(db, world.a, 1000, starts_on=date(2031, 3, 1))
    bill(db, world.a, 1000, date(2031, 3, 1))
    bill(db, world.a, 700, date(2031, 3, 1), basis="received")
    assert reconcile(db, world.a, date(2031, 3, 1)) == [("open", 1000, 700, -300, None)]


@pytest.mark.usefixtures("april")
def test_a_billing_of_nobody_is_in_the_report(db: Connection, world: World) -> None:
    bill(db, world.a, 900)
    db.execute("update public.clients set omie_codigo = null where org_id = %s", (world.a.org,))
    rows = db.execute(
        "select client_name, omie_codigo, billed, is_divergent, alert_status"
        " from public.report_reconciliation(%s, %s)",
        (world.a.org, MARCH),
    ).fetchall()
    assert rows == [(None, 7001, 900, True, None)]


# --- Summary and reports -------------------------------------------------------------------------


@pytest.fixture
def company(db: Connection, world: World) -> tuple[UUID, UUID]:
    """Two contracts in force in March 2026, a renewal in 30 and an end in 90 days of its end."""
    set_clock(db, "2026-01-05T12:00-03:00")
    one = add_contract(
        db, world.a, 1000, title="=2+5", renews_on=date(2026, 4, 30), adjustment_index="IPCA"
    )
    two = add_contract(
        db,
        world.a,
        3000,
        client_id=world.a.other_client,
        ends_on=date(2026, 6, 29),
        adjustment_index="none",
    )
    add_costs(db, world.a, one, labour_cost=1200)
    set_clock(db, "2026-03-31T23:30-03:00")
    bill(db, world.a, 900)
    reconcile(db, world.a)
    return one, two


@pytest.mark.usefixtures("company")
def test_the_summary_has_the_month_in_figures(db: Connection, world: World) -> None:
    with as_member(db, world.a, "director"):
        got = summary(db, world.a)
        assert got == summary(db, world.a, date(2026, 3, 15))
    assert {key: got[key] for key in got if key != "last_syncs"} == {
        "month": "2026-03-01",
        "as_of": "2026-03-31",
        "mrr": 4000,
        "contracts": 2,
        "active_clients": 2,
        "revenue": 4000,
        "margin": 2800,
        "average_margin_pct": 70,
        "negative_margins": 1,
        "renewals_30_brl": 1000,
        "renewals_30_contracts": 1,
        "renewals_90_brl": 4000,
        "renewals_90_contracts": 2,
        "top5_share_pct": 100,
        "index_exposure": {"IPCA": 1000, "none": 3000},
        "erp_billed": 900,
        "erp_delta": -3100,
        "open_reconciliation_alerts": 2,
        "budget": 0,
        "actual": 1200,
        "budget_variance": -1200,
        "budget_efficiency_pct": None,
    }
    assert set(got["last_syncs"]) == {"bcb"}


def test_the_summary_of_an_empty_organisation_divides_by_nothing(
    db: Connection, world: World
) -> None:
    got = summary(db, world.b)
    assert (got["mrr"], got["average_margin_pct"], got["top5_share_pct"]) == (0, None, None)
    assert (got["erp_billed"], got["erp_delta"]) == (None, None)


def test_the_summary_of_a_past_month_stays_when_contracts_change_today(
    db: Connection, world: World, company: tuple[UUID, UUID]
) -> None:
    before = summary(db, world.a, MARCH)
    set_clock(db, "2026-05-20T12:00-03:00")
    one, two = company
    db.execute(
        "update public.contracts set mrr = 9, renews_on = '2027-04-30', adjustment_index = 'IGPM'"
        " where id = %s",
        (one,),
    )
    db.execute(
        "update public.contracts set status = 'ended', ends_on = '2026-05-20' where id = %s", (two,)
    )
    assert summary(db, world.a, MARCH) == before


@pytest.mark.usefixtures("company")
def test_reports_answer_rows(db: Connection, world: World) -> None:
    with as_member(db, world.a, "finance"):
        assert db.execute(
            "select client_id, contracts, mrr, share_pct from public.report_mrr_by_client(%s, %s)",
            (world.a.org, date(2026, 3, 31)),
        ).fetchall() == [
            (world.a.other_client, 1, 3000, 75),
            (world.a.client, 1, 1000, 25),
        ]
        assert db.execute(
            "select is_in_force, notice_by, days_to_end, days_to_renewal"
            " from public.report_lifecycle(%s)",
            (world.a.org,),
        ).fetchall() == [
            (True, date(2026, 3, 31), None, 30),
            (True, date(2026, 5, 30), 90, None),
        ]
        assert db.execute(
            "select month, omie_codigo, issued, received from public.report_erp_revenue(%s)",
            (world.a.org,),
        ).fetchall() == [(MARCH, 7001, 900, 0)]


@pytest.mark.usefixtures("company")
def test_csv_is_what_a_brazilian_spreadsheet_reads_and_runs_nothing(
    db: Connection, world: World
) -> None:
    row = db.execute(
        "select public.export_report_csv(%s, 'rentability', %s)", (world.a.org, MARCH)
    ).fetchone()
    assert row is not None
    text = row[0]
    assert text.startswith("\ufeffMês;Contrato;Título;Cliente;")
    lines = list(csv.reader(io.StringIO(text.removeprefix("\ufeff")), delimiter=";"))
    assert len(lines) == 3
    assert lines[1][2] == "'=2+5"
    assert lines[1][-2:] == ["-200,00", "-20,00"]
    assert "\r\n" in text


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("=1+1", "'=1+1"),
        ("+55 11", "'+55 11"),
        ("-x", "'-x"),
        ("@sum", "'@sum"),
        ("\tx", "'\tx"),
        ('a;"b"', '"a;""b"""'),
        ("a\nb", '"a\nb"'),
        (1234.5, "1234,5"),
        (-7, "-7"),
        (True, "sim"),
        (None, ""),
        ("São João", "São João"),
    ],
)
def test_a_cell_is_written_so_that_it_stays_what_it_is(
    db: Connection, cell: object, expected: str
) -> None:
    assert db.execute("select app.csv_cell(%s)", (Jsonb(cell),)).fetchone() == (expected,)


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
        | st.sampled_from(
            ["=1+1", "+1", "-1", "@a", "\t=1", "\r=1", "\uff1d1", '"=1', 'a;"b"\r\nc', "'="]
        ),
        min_size=1,
        max_size=30,
    )
)
def test_no_text_is_a_formula_and_every_text_comes_back(db: Connection, texts: list[str]) -> None:
    rows = [{"a": text, "b": "x"} for text in texts]
    answer = db.execute(
        "select app.to_csv(array['a', 'b'], array['A', 'B'], %s)", (Jsonb(rows),)
    ).fetchone()
    assert answer is not None
    _, *lines = csv.reader(io.StringIO(answer[0].removeprefix("\ufeff"), newline=""), delimiter=";")
    assert len(lines) == len(texts)
    for (cell, _), text in zip(lines, texts, strict=True):
        assert cell in {text, f"'{text}"}
        assert not cell.startswith(
            ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
        )


def test_the_summary_exports_every_figure_of_it(db: Connection, world: World) -> None:
    row = db.execute(
        "select public.get_cfo_summary(%s, %s), public.export_report_csv(%s, 'cfo', %s)",
        (world.a.org, MARCH, world.a.org, MARCH),
    ).fetchone()
    assert row is not None
    summary, text = row
    lines = list(csv.reader(io.StringIO(text.removeprefix("\ufeff")), delimiter=";"))
    parts = [max(len(figure), 1) if isinstance(figure, dict) else 1 for figure in summary.values()]
    assert len(lines) - 1 == sum(parts) >= 23
    assert ["Mês", "2026-03-01"] in lines
    assert ["MRR", f"{summary['mrr']:.2f}".replace(".", ",")] in [
        [name, value if "," in value else f"{value},00"] for name, value in lines
    ]


def test_every_report_exports_a_heading_even_without_rows(db: Connection, world: World) -> None:
    for report in ("mrr_by_client", "rentability", "reconciliation", "lifecycle", "erp_revenue"):
        row = db.execute(
            "select public.export_report_csv(%s, %s)", (world.b.org, report)
        ).fetchone()
        assert row is not None
        assert row[0].count("\r\n") == 1
        assert row[0].count(";") >= 4
    with refused("report_unknown"):
        db.execute("select public.export_report_csv(%s, 'tudo')", (world.b.org,))


def test_states_are_recorded_once_and_never_rewritten(db: Connection, world: World) -> None:
    contract = add_contract(db, world.a)
    query = (
        "select position, state ->> 'renews_on' from public.recorded_states"
        " where entity_id = %s order by 1"
    )
    db.execute("update public.contracts set renews_on = '2027-01-01' where id = %s", (contract,))
    db.execute("update public.contracts set renews_on = '2027-01-01' where id = %s", (contract,))
    assert db.execute(query, (contract,)).fetchall() == [(1, None), (2, "2027-01-01")]
    with refused("append_only"):
        db.execute("update public.recorded_states set state = null")
    with as_worker(db), denied():
        db.execute("delete from public.recorded_states")
