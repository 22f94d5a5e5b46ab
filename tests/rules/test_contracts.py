"""Clients and contracts: states, numbers, in force, value, adjustment, alerts, conversion."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from decimal import ROUND_HALF_UP, Decimal, localcontext
from math import prod
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.people import (
    Connection,
    Org,
    World,
    as_agent,
    as_analyst,
    as_client,
    as_member,
    as_worker,
    denied,
    refused,
    set_clock,
)

STATES = ("draft", "active", "suspended", "ended", "cancelled")
MOVES = {
    ("draft", "active"),
    ("draft", "cancelled"),
    ("active", "suspended"),
    ("active", "ended"),
    ("active", "cancelled"),
    ("suspended", "active"),
    ("suspended", "ended"),
    ("suspended", "cancelled"),
}
WAY = {
    "draft": [],
    "active": ["active"],
    "suspended": ["active", "suspended"],
    "ended": ["active", "ended"],
    "cancelled": ["cancelled"],
}
CNPJ, CPF = "11222333000181", "52998224725"
SERIES = {"IPCA": "433", "IGPM": "189", "INPC": "188"}


def one(db: Connection, query: str, *parameters: object) -> Any:
    """Give the one row of a query, or its one value."""
    row = db.execute(query, parameters or None).fetchone()
    assert row
    return row[0] if len(row) == 1 else row


def add(db: Connection, table: str, **values: object) -> UUID:
    """Insert a row; give its id."""
    places = ", ".join(["%s"] * len(values))
    row: UUID = one(
        db,
        f"insert into public.{table} ({', '.join(values)}) values ({places}) returning id",
        *values.values(),
    )
    return row


def add_contract(db: Connection, org: Org, **values: object) -> UUID:
    """Insert a contract of the organisation's client; give its id."""
    defaults = {
        "org_id": org.org,
        "client_id": org.client,
        "title": "Monitoramento",
        "starts_on": "2025-01-01",
        "mrr": 1000,
    }
    return add(db, "contracts", **defaults | values)


def move(db: Connection, contract: UUID, status: str) -> None:
    """Set the status of a contract."""
    db.execute("update public.contracts set status = %s where id = %s", (status, contract))


def in_force(db: Connection, org: Org, contract: UUID, day: str) -> bool:
    """Say whether the contract is in force on the day, by every form of the rule."""
    answers = one(
        db,
        "select app.is_contract_in_force(%s, %s, %s), app.is_contract_in_force(%s, %s),"
        " exists (select from app.contracts_in_force(%s, %s) where contract_id = %s)",
        *(org.org, contract, day, contract, day, org.org, day, contract),
    )
    assert len(set(answers)) == 1, answers
    return bool(answers[0])


def publish(db: Connection, index: str, first: str, *values: object) -> None:
    """Publish monthly values of an index from a month on."""
    for place, value in enumerate(values):
        db.execute(
            "insert into public.bcb_rates_snapshot (series, date, value)"
            " values (%s, %s::date + make_interval(months => %s), %s)",
            (SERIES[index], first, place, value),
        )


# --- Clients -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("11.222.333/0001-81", CNPJ),
        ("529.982.247-25", CPF),
        ("12.abc.345/01de-35", "12ABC34501DE35"),
    ],
)
def test_a_document_is_kept_without_punctuation(
    db: Connection, world: World, typed: str, kept: str
) -> None:
    client = add(db, "clients", org_id=world.a.org, name="ACME", document=typed)
    assert one(db, "select document from public.clients where id = %s", client) == kept


def test_a_wrong_document_is_refused(db: Connection, world: World) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="clients_document_check"):
        add(db, "clients", org_id=world.a.org, name="ACME", document="11222333000182")


def test_a_document_is_unique_in_its_organisation_only(db: Connection, world: World) -> None:
    add(db, "clients", org_id=world.a.org, name="ACME", document=CNPJ)
    add(db, "clients", org_id=world.b.org, name="ACME", document=CNPJ)
    with pytest.raises(psycopg.errors.UniqueViolation):
        add(db, "clients", org_id=world.a.org, name="Outra", document="11.222.333/0001-81")


def test_every_e_mail_of_a_client_is_valid(db: Connection, world: World) -> None:
    add(db, "clients", org_id=world.a.org, name="ACME", emails=["a@b.com", "c@d.com"])
    with pytest.raises(psycopg.errors.CheckViolation, match="clients_emails_check"):
        add(db, "clients", org_id=world.a.org, name="ACME", emails=["a@b.com", "c@d"])


def test_a_client_turns_inactive_and_active_again_with_an_event_each(
    db: Connection, world: World
) -> None:
    for status in ("inactive", "active"):
        db.execute("update public.clients set status = %s where id = %s", (status, world.a.client))
    events = db.execute(
        "select event_type from public.module_events where entity_id = %s and module = 'contracts'"
        " and event_type <> 'client.created'",
        (world.a.client,),
    ).fetchall()
    assert sorted(events) == [("client.active",), ("client.inactive",)]
    db.execute("delete from app.allowed_moves where machine = 'clients'")
    with refused("client_move_refused"):
        db.execute("update public.clients set status = 'inactive' where id = %s", (world.a.client,))


def test_a_portal_login_belongs_to_a_client_that_exists(db: Connection, world: World) -> None:
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        db.execute(
            "update public.memberships set client_id = %s where org_id = %s and role = 'client'",
            (world.b.client, world.a.org),
        )


# --- Access --------------------------------------------------------------------------------------


def test_a_portal_client_sees_himself_and_his_contracts_and_changes_nothing(
    db: Connection, world: World
) -> None:
    own = add_contract(db, world.a, status="active")
    other = add_contract(db, world.a, client_id=world.a.other_client, status="active")
    add(
        db,
        "contract_items",
        org_id=world.a.org,
        contract_id=own,
        description="Custo interno",
        unit_price=10,
    )
    with as_client(db, world.a):
        assert db.execute("select id from public.contracts").fetchall() == [(own,)]
        assert db.execute("select id from public.clients").fetchall() == [(world.a.client,)]
        for table in ("contract_items", "contract_mrr_history", "contract_status_history"):
            assert one(db, f"select count(*) from public.{table}") == 0, table
        assert db.execute("update public.contracts set title = 'Outro'").rowcount == 0
        with denied():
            add_contract(db, world.a)
        with refused("contract_not_found"):
            db.execute("select public.adjust_contract(%s, '2026-01-01')", (other,))
        with refused("not_allowed"):
            db.execute("select public.adjust_contract(%s, '2026-01-01')", (own,))
        with refused("not_allowed"):
            db.execute("select public.change_contract_mrr(%s, 1, 'Desconto')", (own,))


def test_contracts_are_read_and_written_as_the_matrix_says(db: Connection, world: World) -> None:
    contract = add_contract(db, world.a)
    readers = {"owner": 1, "director": 1, "finance": 1, "sales": 1, "ops": 1, "legal": 1}
    writers = {"owner": 1, "director": 1, "finance": 1}
    for role in (*readers, "employee", "people"):
        with as_member(db, world.a, role):
            assert one(db, "select count(*) from public.contracts") == readers.get(role, 0), role
            changed = db.execute("update public.contracts set notice_days = 45").rowcount
            assert changed == writers.get(role, 0), role
            for table in ("contract_mrr_history", "contract_adjustments", "contract_alerts"):
                with denied():
                    db.execute(f"delete from public.{table}")
    with as_agent(db, world.a):
        assert one(db, "select count(*) from public.contracts") == 0
    with as_member(db, world.b, "owner"):
        assert one(db, "select count(*) from public.contracts") == 0
        assert one(db, "select app.is_contract_in_force(%s, '2026-01-01')", contract) is False
        with refused("contract_not_found"):
            db.execute("select public.adjust_contract(%s, '2026-01-01')", (contract,))


def test_an_outsider_learns_and_spends_nothing_by_the_helpers(db: Connection, world: World) -> None:
    contract = add_contract(db, world.a, status="active")
    with as_member(db, world.b, "owner"):
        answer = one(
            db,
            "select app.contract_mrr_on(%s, %s, '2026-01-01'),"
            " app.contract_status_on(%s, %s, '2026-01-01')",
            *(world.a.org, contract) * 2,
        )
        assert answer == (None, None)
        with denied():
            db.execute("select app.next_number(%s, 'contract', 'CTR')", (world.a.org,))


def test_a_portal_client_knows_what_is_in_force_today(db: Connection, world: World) -> None:
    contract = add_contract(db, world.a, status="active")
    with as_client(db, world.a):
        assert in_force(db, world.a, contract, "2026-01-01")


def test_an_analyst_reads_contracts_but_not_who_the_client_is(db: Connection, world: World) -> None:
    add_contract(db, world.a)
    with as_analyst(db):
        assert one(db, "select count(mrr) from public.contracts") == 1
        with denied():
            db.execute("select document from public.clients")


def test_managers_are_members(db: Connection, world: World) -> None:
    for column in ("commercial_manager_id", "technical_manager_id"):
        with refused("user_not_member"):
            add_contract(db, world.a, **{column: world.b.member("ops")})


def test_a_contract_cannot_point_at_another_tenant_s_client(db: Connection, world: World) -> None:
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        add_contract(db, world.a, client_id=world.b.client)


# --- Numbers -------------------------------------------------------------------------------------


def test_contracts_are_numbered_per_organisation_and_year(db: Connection, world: World) -> None:
    numbers = []
    for org, moment in (
        (world.a, "2025-12-31T23:30:00-03:00"),
        (world.a, "2025-12-31T23:40:00-03:00"),
        (world.b, "2025-12-31T23:45:00-03:00"),
        (world.a, "2026-01-01T00:10:00-03:00"),
    ):
        set_clock(db, moment)
        contract = add_contract(db, org, number="CTR-0000-999")
        numbers.append(one(db, "select number from public.contracts where id = %s", contract))
    set_clock(db, None)
    assert numbers == ["CTR-2025-001", "CTR-2025-002", "CTR-2025-001", "CTR-2026-001"]


def test_the_thousandth_number_has_four_digits(db: Connection, world: World) -> None:
    set_clock(db, "2026-05-01T12:00:00-03:00")
    db.execute("insert into app.number_counters values (%s, 'proposal', 2026, 999)", (world.a.org,))
    assert (
        one(db, "select app.next_number(%s, 'proposal', 'PROP')", world.a.org) == "PROP-2026-1000"
    )
    set_clock(db, None)


def test_the_number_does_not_change(db: Connection, world: World) -> None:
    contract = add_contract(db, world.a)
    with refused("contract_number_fixed"):
        db.execute("update public.contracts set number = 'X' where id = %s", (contract,))


def test_numbers_stay_gapless_under_twenty_writers_of_which_some_roll_back(
    own_db_url: str, world: World
) -> None:
    start = threading.Barrier(20)

    def write(writer: int) -> None:
        with psycopg.connect(own_db_url) as connection:
            start.wait()
            for turn in range(3):
                add_contract(connection, world.a)
                connection.rollback() if (writer + turn) % 3 == 0 else connection.commit()

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(write, range(20)))
    with psycopg.connect(own_db_url) as connection:
        numbers = [
            int(number.rsplit("-", 1)[1])
            for (number,) in connection.execute("select number from public.contracts").fetchall()
        ]
    assert sorted(numbers) == list(range(1, 41))


# --- States --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(STATES, 2)))
def test_a_contract_moves_as_its_machine_says(
    db: Connection, world: World, before: str, after: str
) -> None:
    contract = add_contract(db, world.a)
    for status in WAY[before]:
        move(db, contract, status)
    if (before, after) in MOVES:
        move(db, contract, after)
        newest = one(
            db,
            "select status from public.contract_status_history where contract_id = %s"
            " order by position desc limit 1",
            contract,
        )
        assert newest == after
        events = (
            "select count(*) from public.module_events where entity_id = %s and event_type = %s"
        )
        assert one(db, events, contract, f"contract.{after}") >= 1
    else:
        with refused("contract_move_refused") as answer:
            move(db, contract, after)
        assert answer.status == 409


@pytest.mark.parametrize("status", ["suspended", "ended", "cancelled"])
def test_a_contract_begins_as_draft_or_active(db: Connection, world: World, status: str) -> None:
    with refused("contract_first_status_refused"):
        add_contract(db, world.a, status=status, ends_on="2026-01-01")
    add_contract(db, world.a, status="active")


def test_an_open_ended_contract_ends_on_the_day_it_is_ended(db: Connection, world: World) -> None:
    set_clock(db, "2026-03-31T23:30:00-03:00")
    contract = add_contract(db, world.a, status="active")
    move(db, contract, "ended")
    set_clock(db, None)
    ends_on = one(db, "select ends_on from public.contracts where id = %s", contract)
    assert ends_on == date(2026, 3, 31)
    with pytest.raises(psycopg.errors.CheckViolation, match="contracts_ended_check"):
        db.execute("update public.contracts set ends_on = null where id = %s", (contract,))


def test_only_drafts_are_deleted(db: Connection, world: World) -> None:
    draft, cancelled, active = (add_contract(db, world.a) for _ in range(3))
    move(db, cancelled, "cancelled")
    move(db, active, "active")
    for contract in (cancelled, active):
        with refused("contract_not_deletable"):
            db.execute("delete from public.contracts where id = %s", (contract,))
    assert db.execute("delete from public.contracts where id = %s", (draft,)).rowcount == 1


def test_an_organisation_goes_with_all_its_contracts(db: Connection, world: World) -> None:
    contract = add_contract(db, world.a, status="active")
    add(
        db,
        "contract_items",
        org_id=world.a.org,
        contract_id=contract,
        description="x",
        unit_price=1,
    )
    move(db, contract, "ended")
    db.execute("delete from public.organizations where id = %s", (world.a.org,))
    assert one(db, "select count(*) from public.contracts where org_id = %s", world.a.org) == 0


def test_only_a_draft_moves_to_another_client(db: Connection, world: World) -> None:
    contract = add_contract(db, world.a)
    change = "update public.contracts set client_id = %s where id = %s"
    db.execute(change, (world.a.other_client, contract))
    move(db, contract, "active")
    with refused("contract_client_fixed"):
        db.execute(change, (world.a.client, contract))


def test_value_and_items_of_a_closed_contract_do_not_change(db: Connection, world: World) -> None:
    contract = add_contract(db, world.a)
    values = {"org_id": world.a.org, "contract_id": contract, "description": "x", "unit_price": 1}
    item = add(db, "contract_items", **values)
    move(db, contract, "cancelled")
    with refused("contract_closed"):
        db.execute("update public.contracts set mrr = 1 where id = %s", (contract,))
    with refused("contract_closed"):
        add(db, "contract_items", **values)
    with refused("contract_closed"):
        db.execute("update public.contract_items set quantity = 2 where id = %s", (item,))
    with refused("contract_closed"):
        db.execute("delete from public.contract_items where id = %s", (item,))
    db.execute("update public.contracts set title = 'Cancelado' where id = %s", (contract,))


@pytest.mark.parametrize(
    ("values", "constraint"),
    [
        ({"ends_on": "2024-12-31"}, "contracts_period_check"),
        ({"renews_on": "2024-12-31"}, "contracts_renewal_check"),
        ({"adjustment_index": "fixed"}, "contracts_fixed_check"),
        ({"mrr": -1}, "contracts_mrr_check"),
        ({"adjustment_month": 13}, "contracts_adjustment_month_check"),
        ({"due_day": 32}, "contracts_due_day_check"),
    ],
)
def test_a_contract_is_consistent(
    db: Connection, world: World, values: dict[str, Any], constraint: str
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match=constraint):
        add_contract(db, world.a, **values)


@pytest.mark.parametrize(
    ("values", "constraint"),
    [
        ({"quantity": Decimal("0.09"), "unit_price": 1}, "contract_items_quantity_check"),
        ({"unit_price": -1}, "contract_items_unit_price_check"),
        ({"unit_price": None}, "contract_items_what_check"),
    ],
)
def test_an_item_has_a_quantity_and_a_price(
    db: Connection, world: World, values: dict[str, Any], constraint: str
) -> None:
    contract = add_contract(db, world.a)
    fixed = {"org_id": world.a.org, "contract_id": contract, "description": "Plantão"}
    add(db, "contract_items", **fixed, quantity=Decimal("0.1"), unit_price=0)
    with pytest.raises(psycopg.errors.CheckViolation, match=constraint):
        add(db, "contract_items", **fixed | values)


def test_an_item_stays_with_its_contract(db: Connection, world: World) -> None:
    first, second = add_contract(db, world.a), add_contract(db, world.a)
    add(db, "contract_items", org_id=world.a.org, contract_id=first, description="x", unit_price=1)
    with refused("keys_are_immutable"):
        db.execute("update public.contract_items set contract_id = %s", (second,))


def test_contracts_and_items_are_audited(db: Connection, world: World) -> None:
    contract = add_contract(db, world.a)
    db.execute("update public.contracts set mrr = 1200 where id = %s", (contract,))
    changes = one(
        db,
        "select changes from public.audit_log where table_name = 'contracts' and action = 'update'"
        " and row_id = %s",
        str(contract),
    )
    assert changes == {"mrr": [1000.00, 1200.00]}


# --- In force ------------------------------------------------------------------------------------


def test_a_contract_is_in_force_from_its_first_to_its_last_day(
    db: Connection, world: World
) -> None:
    contract = add_contract(
        db, world.a, status="active", starts_on="2026-02-01", ends_on="2026-02-28"
    )
    days = ("2026-01-31", "2026-02-01", "2026-02-28", "2026-03-01")
    assert [in_force(db, world.a, contract, day) for day in days] == [False, True, True, False]


def test_a_draft_is_never_in_force_and_its_activation_counts_from_the_start(
    db: Connection, world: World
) -> None:
    set_clock(db, "2026-03-10T12:00:00-03:00")
    contract = add_contract(db, world.a, starts_on="2026-01-01")
    assert not in_force(db, world.a, contract, "2026-03-10")
    move(db, contract, "active")
    set_clock(db, None)
    assert in_force(db, world.a, contract, "2026-01-01")
    assert not in_force(db, world.a, contract, "2025-12-31")


def test_a_suspension_is_a_hole_and_an_end_leaves_the_past_in_force(
    db: Connection, world: World
) -> None:
    contract = add_contract(db, world.a, status="active", starts_on="2026-01-01")
    for day, status in (
        ("2026-02-10", "suspended"),
        ("2026-02-20", "active"),
        ("2026-03-05", "ended"),
    ):
        set_clock(db, f"{day}T00:10:00-03:00")
        move(db, contract, status)
    set_clock(db, None)
    expected = {
        "2026-02-09": True,
        "2026-02-10": False,
        "2026-02-19": False,
        "2026-02-20": True,
        "2026-03-04": True,
        "2026-03-05": False,
        "2026-06-01": False,
    }
    assert {day: in_force(db, world.a, contract, day) for day in expected} == expected


def test_the_value_of_contracts_in_force_is_that_of_the_day(db: Connection, world: World) -> None:
    set_clock(db, "2026-03-10T12:00:00-03:00")
    contract = add_contract(db, world.a, status="active", mrr=1000)
    db.execute("select public.change_contract_mrr(%s, 1500.005, 'Mais postos')", (contract,))
    set_clock(db, None)
    value = "select mrr from app.contracts_in_force(%s, %s)"
    assert one(db, value, world.a.org, "2026-03-09") == Decimal("1000.00")
    assert one(db, value, world.a.org, "2026-03-10") == Decimal("1500.01")


# --- Value over time -----------------------------------------------------------------------------


def history(db: Connection, contract: UUID) -> list[Any]:
    """Give the contract's values, oldest first."""
    return db.execute(
        "select mrr_before, mrr_after, effective_on, reason from public.contract_mrr_history"
        " where contract_id = %s order by position",
        (contract,),
    ).fetchall()


def test_every_change_of_value_has_its_day_and_reason(db: Connection, world: World) -> None:
    set_clock(db, "2026-03-10T12:00:00-03:00")
    contract = add_contract(db, world.a, mrr=1000)
    db.execute("update public.contracts set mrr = 1100 where id = %s", (contract,))
    move(db, contract, "active")
    with as_member(db, world.a, "finance"):
        db.execute(
            "select public.change_contract_mrr(%s, 1200, 'Desconto retirado', '2026-02-15')",
            (contract,),
        )
        db.execute("update public.contracts set mrr = 1300 where id = %s", (contract,))
        # A day before the last change is moved up to it: the history never runs back.
        db.execute(
            "select public.change_contract_mrr(%s, 1400, 'Ajuste', '2026-01-01')", (contract,)
        )
        db.execute(
            "update public.contracts set title = 'Mesmo valor', mrr = 1400 where id = %s",
            (contract,),
        )
    set_clock(db, None)
    assert history(db, contract) == [
        (None, 1000, None, "Valor inicial"),
        (1000, 1100, None, "Alteração da minuta"),
        (1100, 1200, date(2026, 2, 15), "Desconto retirado"),
        (1200, 1300, date(2026, 3, 10), "Alteração do valor"),
        (1300, 1400, date(2026, 3, 10), "Ajuste"),
    ]


def test_a_change_of_value_needs_a_reason_and_a_day_that_has_come(
    db: Connection, world: World
) -> None:
    contract = add_contract(db, world.a, status="active")
    for arguments in (
        (contract, 1, " ", None),
        (contract, -1, "Desconto", None),
        (contract, None, "Desconto", None),
        (contract, 1, "Desconto", "9999-01-01"),
    ):
        with refused("bad_input"):
            db.execute("select public.change_contract_mrr(%s, %s, %s, %s)", arguments)


# --- Adjustment ----------------------------------------------------------------------------------

TWELVE = [
    Decimal(text)
    for text in (
        *("0.56", "0.43", "0.26", "0.24", "0.26", "-0.11"),
        *("0.48", "0.09", "0.18", "0.33", "0.33000001", "0.70"),
    )
]


def expected_value(mrr: Decimal, values: list[Decimal]) -> tuple[Decimal, Decimal]:
    """Compute factor and value in exact arithmetic, independently of the database."""
    with localcontext() as context:
        context.prec = 200
        factor = prod((1 + value / 100 for value in values), start=Decimal(1))
        return factor, (mrr * factor).quantize(Decimal("0.01"), ROUND_HALF_UP)


def adjusted(db: Connection, contract: UUID, month: str | None) -> dict[str, Any]:
    """Adjust the contract; give the adjustment."""
    cursor = db.execute("select * from public.adjust_contract(%s, %s)", (contract, month))
    row = cursor.fetchone()
    assert row
    assert cursor.description
    return dict(zip((column.name for column in cursor.description), row, strict=True))


@pytest.mark.parametrize("index", list(SERIES))
def test_an_adjustment_compounds_the_twelve_months_that_end_the_month_before(
    db: Connection, world: World, index: str
) -> None:
    # February 2025 and March 2026 lie outside of the twelve of an adjustment in March 2026.
    publish(db, index, "2025-02-01", 50, *TWELVE, 50)
    contract = add_contract(
        db, world.a, status="active", mrr=Decimal("10000.00"), adjustment_index=index
    )
    set_clock(db, "2026-03-31T23:30:00-03:00")
    with as_member(db, world.a, "finance"):
        row = adjusted(db, contract, "2026-03-17")
    set_clock(db, None)
    factor, value = expected_value(Decimal(10000), TWELVE)
    assert (row["factor"], row["mrr_before"], row["mrr_after"]) == (factor, 10000, value)
    assert row["month"] == date(2026, 3, 1)
    assert one(db, "select mrr from public.contracts where id = %s", contract) == value
    lines = db.execute(
        "select series, month, value from public.contract_adjustment_lines where adjustment_id = %s"
        " order by position",
        (row["id"],),
    ).fetchall()
    assert [line[2] for line in lines] == TWELVE
    assert (lines[0][:2], lines[-1][:2]) == (
        (SERIES[index], date(2025, 3, 1)),
        (SERIES[index], date(2026, 2, 1)),
    )
    assert history(db, contract)[-1] == (10000, value, date(2026, 3, 1), row["explanation"])


def test_the_explanation_is_written_for_a_brazilian_reader(db: Connection, world: World) -> None:
    publish(db, "IGPM", "2025-01-01", *[1] * 12)
    contract = add_contract(
        db, world.a, status="active", mrr=Decimal("12345.60"), adjustment_index="IGPM"
    )
    row = adjusted(db, contract, "2026-01-01")
    assert row["explanation"] == (
        "Reajuste de jan/2026 pelo IGP-M acumulado em 12 meses (jan/2025 a dez/2025): 12,6825 %."
        " Valor mensal de R$ 12.345,60 para R$ 13.911,33."
    )


def test_a_fixed_adjustment_has_no_lines(db: Connection, world: World) -> None:
    contract = add_contract(
        db,
        world.a,
        status="active",
        mrr=Decimal("99.99"),
        adjustment_index="fixed",
        fixed_adjustment_pct=Decimal("5.5"),
    )
    row = adjusted(db, contract, "2026-01-01")
    assert (row["mrr_after"], row["factor"]) == (Decimal("105.49"), Decimal("1.055"))
    assert "percentual fixo do contrato: 5,5000 %" in row["explanation"]
    assert one(db, "select count(*) from public.contract_adjustment_lines") == 0


def test_deflation_lowers_the_value(db: Connection, world: World) -> None:
    publish(db, "IGPM", "2025-01-01", *[Decimal("-0.5")] * 12)
    contract = add_contract(db, world.a, status="active", adjustment_index="IGPM")
    factor, value = expected_value(Decimal(1000), [Decimal("-0.5")] * 12)
    row = adjusted(db, contract, "2026-01-01")
    assert (row["factor"], row["mrr_after"]) == (factor, value)
    assert row["mrr_after"] < 1000


@pytest.mark.parametrize("missing", [0, 5, 11])
def test_an_adjustment_without_all_twelve_is_refused_and_names_the_missing(
    db: Connection, world: World, missing: int
) -> None:
    publish(db, "IPCA", "2025-01-01", *TWELVE)
    db.execute(
        "delete from public.bcb_rates_snapshot"
        " where date = '2025-01-01'::date + make_interval(months => %s)",
        (missing,),
    )
    contract = add_contract(db, world.a, status="active")
    with refused("index_values_missing") as answer:
        adjusted(db, contract, "2026-01-01")
    assert answer.detail == f"IPCA (series 433) lacks 2025-{missing + 1:02}."
    assert len(history(db, contract)) == 1


def test_an_adjustment_is_refused_twice_for_a_month(db: Connection, world: World) -> None:
    publish(db, "IPCA", "2025-01-01", *TWELVE, 1)
    contract = add_contract(db, world.a, status="active")
    adjusted(db, contract, "2026-01-01")
    with refused("contract_already_adjusted"):
        adjusted(db, contract, "2026-01-31")
    assert one(db, "select count(*) from public.contract_adjustments") == 1


def test_two_adjustments_at_once_give_one(own_db_url: str, world: World) -> None:
    with psycopg.connect(own_db_url) as connection:
        publish(connection, "IPCA", "2025-01-01", *[1] * 12)
        contract = add_contract(connection, world.a, status="active")
    start = threading.Barrier(4)

    def adjust(_: int) -> str:
        with psycopg.connect(own_db_url) as connection:
            start.wait()
            try:
                connection.execute("select public.adjust_contract(%s, '2026-01-01')", (contract,))
            except psycopg.Error as error:
                return error.diag.message_primary or ""
        return "adjusted"

    with ThreadPoolExecutor(4) as pool:
        answers = sorted(pool.map(adjust, range(4)))
    assert answers == ["adjusted", *["contract_already_adjusted"] * 3]
    with psycopg.connect(own_db_url) as connection:
        assert one(connection, "select mrr from public.contracts") == Decimal("1126.83")


@pytest.mark.parametrize(
    ("values", "status", "key"),
    [
        ({"adjustment_index": "none"}, "active", "contract_without_index"),
        ({}, "draft", "contract_not_adjustable"),
        ({}, "ended", "contract_not_adjustable"),
        ({}, "cancelled", "contract_not_adjustable"),
    ],
)
def test_only_a_running_contract_with_an_index_is_adjusted(
    db: Connection, world: World, values: dict[str, Any], status: str, key: str
) -> None:
    publish(db, "IPCA", "2025-01-01", *TWELVE)
    contract = add_contract(db, world.a, **values)
    for step in WAY[status]:
        move(db, contract, step)
    with refused(key):
        adjusted(db, contract, "2026-01-01")


def test_a_month_that_has_not_begun_is_not_adjusted(db: Connection, world: World) -> None:
    contract = add_contract(
        db, world.a, status="active", adjustment_index="fixed", fixed_adjustment_pct=5
    )
    set_clock(db, "2026-03-31T23:30:00-03:00")
    with refused("adjustment_in_future"):
        adjusted(db, contract, "2026-04-01")
    with refused("bad_input"):
        adjusted(db, contract, None)
    with as_worker(db):
        adjusted(db, contract, "2026-03-01")
    set_clock(db, None)


def test_sales_and_strangers_adjust_nothing(db: Connection, world: World) -> None:
    contract = add_contract(db, world.a, status="active")
    with as_member(db, world.a, "sales"), refused("not_allowed"):
        adjusted(db, contract, "2026-01-01")
    with as_member(db, world.b, "owner"), refused("not_allowed"):
        db.execute("select app.adjust_contract(%s, %s, '2026-01-01')", (world.a.org, contract))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    mrr=st.decimals(min_value=0, max_value=Decimal("9999999.99"), places=2),
    values=st.lists(st.decimals(min_value=-5, max_value=20, places=8), min_size=12, max_size=12),
)
def test_any_adjustment_is_exact_to_the_cent(
    db: Connection, world: World, mrr: Decimal, values: list[Decimal]
) -> None:
    with db.transaction(force_rollback=True):
        publish(db, "INPC", "2025-01-01", *values)
        contract = add_contract(db, world.a, status="active", mrr=mrr, adjustment_index="INPC")
        row = adjusted(db, contract, "2026-01-01")
        assert (row["factor"], row["mrr_after"]) == expected_value(mrr, values)


# --- Alerts --------------------------------------------------------------------------------------


def alerts(db: Connection) -> list[Any]:
    """Give every alert, in order of threshold."""
    return db.execute(
        "select kind, due_on::text, days_before from public.contract_alerts"
        " order by kind, days_before desc"
    ).fetchall()


def run_alerts(db: Connection, org: Org, day: str) -> tuple[int, int]:
    """Run the daily job of an organisation on a day."""
    set_clock(db, f"{day}T08:00:00-03:00")
    with as_worker(db):
        answer = one(db, "select app.raise_contract_alerts(%s)", org.org)
    set_clock(db, None)
    return answer["renewal"], answer["end"]


def test_renewal_and_end_are_announced_at_90_60_and_30_days_once_each(
    db: Connection, world: World
) -> None:
    contract = add_contract(
        db, world.a, status="active", ends_on="2026-06-30", renews_on="2026-06-30"
    )
    found = {
        day: run_alerts(db, world.a, day)
        for day in (
            *("2026-03-31", "2026-04-01", "2026-04-02", "2026-04-30", "2026-05-01"),
            *("2026-05-30", "2026-05-31", "2026-06-30", "2026-07-01"),
        )
    }
    assert {day for day, counts in found.items() if counts == (1, 1)} == {
        "2026-04-01",
        "2026-05-01",
        "2026-05-31",
    }
    assert sum(sum(counts) for counts in found.values()) == 6
    assert alerts(db) == [
        (kind, "2026-06-30", days) for kind in ("end", "renewal") for days in (90, 60, 30)
    ]
    events = db.execute(
        "select event_type, count(*), min((payload ->> 'days_left')::int) from public.module_events"
        " where entity_id = %s and event_type like '%%_near' group by 1 order by 1",
        (contract,),
    ).fetchall()
    assert events == [("contract.end_near", 3, 30), ("contract.renewal_near", 3, 30)]


def test_a_contract_seen_late_is_announced_once_at_the_nearest_threshold(
    db: Connection, world: World
) -> None:
    add_contract(db, world.a, status="active", ends_on="2026-06-30")
    assert run_alerts(db, world.a, "2026-06-10") == (0, 1)
    assert alerts(db) == [("end", "2026-06-30", 30)]


def test_a_moved_renewal_is_announced_anew(db: Connection, world: World) -> None:
    contract = add_contract(db, world.a, status="active", renews_on="2026-06-30")
    assert run_alerts(db, world.a, "2026-06-10") == (1, 0)
    db.execute("update public.contracts set renews_on = '2026-07-05' where id = %s", (contract,))
    assert run_alerts(db, world.a, "2026-06-11") == (1, 0)


def test_only_contracts_in_force_are_announced(db: Connection, world: World) -> None:
    add_contract(db, world.a, ends_on="2026-06-30")
    add_contract(db, world.a, status="active", starts_on="2026-06-20", ends_on="2026-06-30")
    move(db, add_contract(db, world.a, status="active", ends_on="2026-06-30"), "suspended")
    add_contract(db, world.b, status="active", ends_on="2026-06-30")
    assert run_alerts(db, world.a, "2026-06-10") == (0, 0)


def test_members_do_not_run_the_job(db: Connection, world: World) -> None:
    with as_member(db, world.a, "owner"), denied():
        db.execute("select app.raise_contract_alerts(%s)", (world.a.org,))


# --- Conversion ----------------------------------------------------------------------------------


def add_lead(db: Connection, org: Org, **values: object) -> UUID:
    """Insert a lead; give its id."""
    defaults = {
        "org_id": org.org,
        "name": "Ana Souza",
        "email": "ana@acme.com.br",
        "company": "ACME Ltda",
        "phone": "11 98888-7777",
    }
    return add(db, "leads", **defaults | values)


def convert(db: Connection, lead: UUID, document: str | None, **more: object) -> dict[str, Any]:
    """Convert the lead; give the answer."""
    named = "".join(f", {name} => %s" for name in more)
    answer = one(db, f"select public.convert_lead(%s, %s{named})", lead, document, *more.values())
    assert set(answer) == {"lead_id", "client_id", "contract_id", "is_new_client"}
    return dict(answer)


def test_a_lead_becomes_a_client_and_is_won(db: Connection, world: World) -> None:
    lead = add_lead(db, world.a, status="lost", lost_reason="Preço")
    with as_member(db, world.a, "director"):
        answer = convert(db, lead, "11.222.333/0001-81", trade_name="ACME")
    assert answer["is_new_client"] is True
    assert answer["contract_id"] is None
    client = one(
        db,
        "select id::text, name, trade_name, document, emails, phones, lead_id from public.clients"
        " where document = %s",
        CNPJ,
    )
    assert client == (
        answer["client_id"],
        "ACME Ltda",
        "ACME",
        CNPJ,
        ["ana@acme.com.br"],
        ["11 98888-7777"],
        lead,
    )
    state = one(
        db,
        "select status, lost_reason, client_id::text from public.leads where id = %s",
        lead,
    )
    assert state == ("won", None, answer["client_id"])


def test_a_conversion_may_open_one_draft_contract_and_again_gives_the_same(
    db: Connection, world: World
) -> None:
    set_clock(db, "2026-03-31T23:30:00-03:00")
    lead = add_lead(db, world.a, owner_id=world.a.member("sales"))
    first = convert(db, lead, CNPJ, contract_title="SOC 24x7", contract_mrr=2500)
    again = convert(db, lead, CNPJ, contract_title="Outro título", contract_mrr=9)
    set_clock(db, None)
    assert again == first | {"is_new_client": False}
    contract = one(
        db,
        "select id::text, title, status, mrr, starts_on, commercial_manager_id"
        " from public.contracts",
    )
    assert contract == (
        first["contract_id"],
        "SOC 24x7",
        "draft",
        2500,
        date(2026, 3, 31),
        world.a.member("sales"),
    )
    assert one(db, "select count(*) from public.clients where document = %s", CNPJ) == 1


def test_a_second_lead_finds_the_client_by_document(db: Connection, world: World) -> None:
    client = add(db, "clients", org_id=world.a.org, name="Já cliente", document=CNPJ)
    lead = add_lead(db, world.a)
    answer = convert(db, lead, "11222333/0001-81", client_name="Ignorado")
    assert (answer["client_id"], answer["is_new_client"]) == (str(client), False)
    assert one(db, "select name, lead_id from public.clients where id = %s", client) == (
        "Já cliente",
        lead,
    )
    convert(db, add_lead(db, world.a), CNPJ)
    assert one(db, "select lead_id from public.clients where id = %s", client) == lead


def test_a_converted_lead_keeps_its_document(db: Connection, world: World) -> None:
    lead = add_lead(db, world.a)
    convert(db, lead, CNPJ)
    with refused("lead_already_converted"):
        convert(db, lead, CPF)


@pytest.mark.parametrize("document", ["11222333000182", "", None, "abc"])
def test_a_conversion_needs_a_valid_document(
    db: Connection, world: World, document: str | None
) -> None:
    lead = add_lead(db, world.a)
    with refused("client_document_invalid"):
        convert(db, lead, document)
    assert one(db, "select status from public.leads where id = %s", lead) == "new"


def test_a_conversion_needs_both_modules_and_a_lead_in_sight(db: Connection, world: World) -> None:
    lead = add_lead(db, world.a, owner_id=world.a.member("sales"))
    with as_member(db, world.a, "sales"), refused("not_allowed"):
        convert(db, lead, CNPJ)
    with as_member(db, world.a, "finance"), refused("lead_not_found"):
        convert(db, lead, CNPJ)
    with as_member(db, world.b, "owner"), refused("lead_not_found"):
        convert(db, lead, CNPJ)
    db.execute(
        "insert into public.org_role_permissions values (%s, 'director', 'crm', 'all', 'none')",
        (world.a.org,),
    )
    with as_member(db, world.a, "director"), refused("not_allowed"):
        convert(db, lead, CNPJ)


def test_conversions_at_once_give_one_client_and_one_contract(
    own_db_url: str, world: World
) -> None:
    with psycopg.connect(own_db_url) as connection:
        leads = [add_lead(connection, world.a) for _ in range(2)]
    start = threading.Barrier(8)

    def work(place: int) -> dict[str, Any]:
        with psycopg.connect(own_db_url) as connection:
            start.wait()
            return convert(connection, leads[place % 2], CNPJ, contract_title="SOC")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(work, range(8)))
    assert len({answer["client_id"] for answer in answers}) == 1
    assert sorted(answer["is_new_client"] for answer in answers) == [*[False] * 7, True]
    assert len({answer["contract_id"] for answer in answers}) == 2
    with psycopg.connect(own_db_url) as connection:
        assert one(connection, "select count(*) from public.contracts") == 2


# --- Events --------------------------------------------------------------------------------------


def test_the_life_of_a_contract_is_told_in_events(db: Connection, world: World) -> None:
    contract = add_contract(db, world.a)
    db.execute("update public.contracts set title = 'SOC' where id = %s", (contract,))
    for status in ("active", "suspended", "active", "ended"):
        move(db, contract, status)
    draft = add_contract(db, world.a)
    db.execute("delete from public.contracts where id = %s", (draft,))
    events = db.execute(
        "select event_type, count(*) from public.module_events where module = 'fin'"
        " group by 1 order by 1"
    ).fetchall()
    assert events == [
        ("contract.active", 2),
        ("contract.created", 2),
        ("contract.deleted", 1),
        ("contract.ended", 1),
        ("contract.suspended", 1),
        ("contract.updated", 1),
    ]
