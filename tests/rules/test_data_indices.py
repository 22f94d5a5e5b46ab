"""Data indices: what each counts, that a past month stays what it was, the data page, retention."""

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.people import (
    Connection,
    Org,
    World,
    as_analyst,
    as_member,
    as_worker,
    denied,
    refused,
    set_clock,
)
from tests.rules.test_fin import add, add_contract, add_costs, bill, configure, reconcile

# The world is made today; what it must have recorded (members, settings) is known from then on.
MARCH = date(2031, 3, 1)
KEYS = {
    "leads_mes", "contratos_ativos", "mrr_total", "leads_by_stage", "conversion_rate",
    "active_clients", "average_margin_pct", "negative_margins", "renewals_30", "renewals_90",
    "top5_share_pct", "index_exposure", "erp_billed", "erp_divergence", "applications", "open_gaps",
    "policy_acceptance_pct", "playbooks_reviewed_pct", "hours_logged",
}  # fmt: skip

Indices = dict[str, tuple[Any, dict[str, Any]]]  # value, metadata


def compute(db: Connection, org: Org, period: date = MARCH) -> Indices:
    """Compute a month; nothing may fail."""
    rows = db.execute(
        "select index_key, value, metadata, error from public.compute_data_indices(%s, %s)",
        (org.org, period),
    ).fetchall()
    assert [row for row in rows if row[3] is not None] == []
    return {row[0]: (row[1], row[2]) for row in rows}


def value(db: Connection, org: Org, key: str, period: date = MARCH) -> object:
    return compute(db, org, period)[key][0]


def add_lead(db: Connection, org: Org) -> UUID:
    return add(db, "leads", org, name="Ana Souza", email="ana@cliente.test")


def move_lead(db: Connection, lead: UUID, status: str) -> None:
    reason = "preço" if status == "lost" else None
    db.execute(
        "update public.leads set status = %s, lost_reason = %s where id = %s",
        (status, reason, lead),
    )


def add_hours(db: Connection, org: Org, start: str, end: str) -> UUID:
    """Log time of the ops member, on a contract that allows it."""
    person = org.member("ops")
    playbook = add(db, "playbooks", org, title=f"Base {uuid4()}")
    action = add(db, "service_actions", org, title=f"Job {uuid4()}")
    add(db, "service_action_playbooks", org, service_action_id=action, playbook_id=playbook)
    contract = add_contract(db, org, 0, starts_on=date.fromisoformat(start[:10]).replace(day=1))
    add(db, "contract_items", org, contract_id=contract, service_action_id=action)
    return add(
        db,
        "time_entries",
        org,
        user_id=person,
        contract_id=contract,
        service_action_id=action,
        started_at=start,
        ended_at=end,
    )


def solve(db: Connection, gap: UUID) -> None:
    for status in ("training", "solved"):
        db.execute("update public.training_gaps set status = %s where id = %s", (status, gap))


def publish(db: Connection, org: Org, policy: UUID, text: str) -> None:
    with as_member(db, org, "legal"):
        db.execute("select public.publish_policy(%s, %s)", (policy, text))


def accept(db: Connection, org: Org, role: str, policy: UUID) -> None:
    with as_member(db, org, role):
        db.execute("select public.accept_policy(%s)", (policy,))


class Company:
    """What an organisation did in March 2031, hour by hour."""

    def __init__(self, db: Connection, org: Org) -> None:
        self.db, self.org = db, org
        set_clock(db, "2031-01-10T12:00-03:00")
        self.old_lead = add_lead(db, org)
        self.contract = add_contract(
            db,
            org,
            1000,
            starts_on=date(2031, 1, 1),
            renews_on=date(2031, 4, 20),
            adjustment_index="IPCA",
        )
        self.other_contract = add_contract(
            db,
            org,
            3000,
            starts_on=date(2031, 1, 1),
            client_id=org.other_client,
            adjustment_index="none",
            ends_on=date(2031, 6, 20),
        )
        self.draft = add_contract(db, org, 500, status="draft", starts_on=date(2031, 5, 1))
        self.job = add(db, "public_jobs", org, slug="vaga", title="Analista")
        self.playbook = add(
            db, "playbooks", org, title="Revisado", status="published", review_every_days=60
        )
        self.stale = add(
            db, "playbooks", org, title="Vencido", status="published", review_every_days=30
        )
        self.policy = add(db, "policies", org, title="Senhas")
        publish(db, org, self.policy, "Primeira")
        accept(db, org, "people", self.policy)
        set_clock(db, "2031-03-02T12:00-03:00")
        db.execute(
            "update public.playbooks set last_reviewed_on = '2031-03-02' where id = %s",
            (self.playbook,),
        )
        self.won, self.lost, self.new = (add_lead(db, org) for _ in range(3))
        move_lead(db, self.won, "won")
        move_lead(db, self.lost, "lost")
        self.application = add(
            db,
            "job_applications",
            org,
            job_id=self.job,
            name="Bia Lima",
            email="bia@c.test",
            consent_at="2031-03-02T12:00-03:00",
        )
        self.gap = add(
            db, "training_gaps", org, user_id=org.member("ops"), playbook_id=self.playbook
        )
        self.metric = add_costs(db, org, self.contract, MARCH, labour_cost=1200)
        bill(db, org, 900, MARCH)
        set_clock(db, "2031-03-31T23:45-03:00")
        add_hours(db, org, "2031-03-31T23:15-03:00", "2031-03-31T23:45-03:00")
        move_lead(db, self.old_lead, "qualified")
        set_clock(db, "2031-04-01T04:00-03:00")


@pytest.fixture
def company(db: Connection, world: World) -> Company:
    return Company(db, world.a)


# --- What each index counts ----------------------------------------------------------------------


def test_every_index_is_defined_once_with_its_function(db: Connection) -> None:
    rows = db.execute(
        "select index_key, to_regprocedure(format('app.%I(uuid,date)', function)) is not null"
        " from public.index_definitions"
    ).fetchall()
    assert {row[0] for row in rows} == KEYS
    assert all(row[1] for row in rows)


@pytest.mark.usefixtures("company")
def test_a_month_is_computed_to_what_happened_in_it(db: Connection, world: World) -> None:
    got = compute(db, world.a)
    staff = 9  # owner to employee: neither the agent nor the portal client accepts policies
    assert {key: got[key][0] for key in got} == {
        "leads_mes": 3,
        "contratos_ativos": 3,  # one of them has no value: that of the hours
        "mrr_total": 4000,
        "leads_by_stage": 2,
        "conversion_rate": 50,
        "active_clients": 2,
        "average_margin_pct": 70,
        "negative_margins": 1,
        "renewals_30": 1000,
        "renewals_90": 4000,
        "top5_share_pct": 100,
        "index_exposure": 1000,
        "erp_billed": 900,
        "erp_divergence": -3100,
        "applications": 1,
        "open_gaps": 1,
        "policy_acceptance_pct": round(Decimal(100) / staff, 2),
        "playbooks_reviewed_pct": 50,
        "hours_logged": Decimal("0.50"),
    }
    assert got["leads_by_stage"][1]["stages"] == {
        "new": 1, "qualified": 1, "proposal": 0, "won": 1, "lost": 1,
    }  # fmt: skip
    assert got["index_exposure"][1]["by_index"] == {"IPCA": 1000, "none": 3000}
    assert all(isinstance(metadata["rows"], int) for _, metadata in got.values())
    assert db.execute(
        "select count(*), min(definition_version) from public.data_indices where period = %s",
        (MARCH,),
    ).fetchone() == (len(KEYS), 1)


def test_an_empty_organisation_has_zeros_and_nothing_to_divide(
    db: Connection, world: World
) -> None:
    set_clock(db, "2031-04-01T04:00-03:00")
    got = compute(db, world.b)
    nulls = {key for key in got if got[key][0] is None}
    assert nulls == {
        "conversion_rate",
        "average_margin_pct",
        "top5_share_pct",
        "erp_billed",
        "erp_divergence",
        "policy_acceptance_pct",
        "playbooks_reviewed_pct",
    }
    assert {got[key][0] for key in got if key not in nulls} == {0}


# --- A past month stays what it was --------------------------------------------------------------


def do(query: str, *names: str) -> Callable[[Company], object]:
    """Run a statement with ids of the company."""
    return lambda c: c.db.execute(query, [getattr(c, name) for name in names])


CHANGES: dict[str, Callable[[Company], object]] = {
    "a contract ends": do("update public.contracts set status = 'ended' where id = %s", "contract"),
    "a contract ends with a day of the past": do(
        "update public.contracts set status = 'ended', ends_on = '2031-03-10' where id = %s",
        "contract",
    ),
    "a contract is suspended": do(
        "update public.contracts set status = 'suspended' where id = %s", "contract"
    ),
    "a contract is cancelled": do(
        "update public.contracts set status = 'cancelled' where id = %s", "contract"
    ),
    "a value changes": do("update public.contracts set mrr = 7 where id = %s", "contract"),
    "a contract is renewed": do(
        "update public.contracts set renews_on = '2032-04-20' where id = %s", "contract"
    ),
    "a contract is extended": do(
        "update public.contracts set ends_on = '2033-06-20' where id = %s", "other_contract"
    ),
    "a contract gets another index": do(
        "update public.contracts set adjustment_index = 'IGPM' where id = %s", "contract"
    ),
    "a draft is signed": do("update public.contracts set status = 'active' where id = %s", "draft"),
    "a new contract begins": lambda c: add_contract(c.db, c.org, 999, starts_on=date(2031, 7, 1)),
    "a lead moves on": lambda c: move_lead(c.db, c.new, "won"),
    "a lost lead returns": lambda c: move_lead(c.db, c.lost, "qualified"),
    "a lead comes": lambda c: add_lead(c.db, c.org),
    "leads are deleted": do(
        "delete from public.leads where id in (%s, %s, %s, %s)", "won", "lost", "new", "old_lead"
    ),
    "an application is deleted": do(
        "delete from public.job_applications where id = %s", "application"
    ),
    "a gap is solved": lambda c: solve(c.db, c.gap),
    "a gap is deleted": do("delete from public.training_gaps where id = %s", "gap"),
    "a playbook is reviewed": do(
        "update public.playbooks set last_reviewed_on = '2031-07-14' where id = %s", "stale"
    ),
    "a playbook is archived": do(
        "update public.playbooks set status = 'archived' where id = %s", "stale"
    ),
    "a playbook is deleted": do("delete from public.playbooks where id = %s", "stale"),
    "a playbook is published": lambda c: add(
        c.db, "playbooks", c.org, title="Novo", status="published"
    ),
    "a policy is accepted": lambda c: accept(c.db, c.org, "ops", c.policy),
    "a policy gets a new text": lambda c: publish(c.db, c.org, c.policy, "Segunda"),
    "a policy is archived": do(
        "update public.policies set status = 'archived' where id = %s", "policy"
    ),
    "a policy is published": lambda c: publish(
        c.db, c.org, add(c.db, "policies", c.org, title="Mesa limpa"), "Texto"
    ),
    "a member leaves": lambda c: c.db.execute(
        "delete from public.memberships where org_id = %s and user_id = %s",
        (c.org.org, c.org.member("people")),
    ),
    "settings change": lambda c: configure(
        c.db,
        c.org,
        tax_pct=30,
        overhead_method="fixed_pct",
        overhead_pct=20,
        reconciliation_basis="received",
    ),
    "the organisation moves to another zone": lambda c: c.db.execute(
        "update public.organizations set time_zone = 'Asia/Tokyo' where id = %s", (c.org.org,)
    ),
    "time is logged": lambda c: add_hours(
        c.db, c.org, "2031-07-15T09:00-03:00", "2031-07-15T11:00-03:00"
    ),
    "costs of another month come": lambda c: add_costs(
        c.db, c.org, c.contract, date(2031, 7, 1), labour_cost=5
    ),
    "another month is billed": lambda c: bill(c.db, c.org, 1, date(2031, 6, 1)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_past_month_is_reproduced_exactly_after(
    db: Connection, world: World, company: Company, change: str
) -> None:
    before = compute(db, world.a)
    set_clock(db, "2031-07-15T12:00-03:00")
    CHANGES[change](company)
    after = compute(db, world.a)
    if change == "a contract ends with a day of the past":
        # Rentability is told that the past was otherwise; the book as recorded is not.
        for key in ("average_margin_pct", "negative_margins", "erp_divergence"):
            del before[key], after[key]
    assert after == before


def test_the_next_month_does_see_the_changes(
    db: Connection, world: World, company: Company
) -> None:
    db.execute("update public.contracts set status = 'ended' where id = %s", (company.contract,))
    move_lead(db, company.new, "won")
    set_clock(db, "2031-05-01T04:00-03:00")
    april = compute(db, world.a, date(2031, 4, 1))
    assert april["mrr_total"][0] == 3000
    assert april["renewals_30"][0] == 0
    assert april["conversion_rate"] == (100, {"rows": 1, "won": 1, "lost": 0})
    assert april["leads_by_stage"][0] == 1
    assert april["leads_mes"][0] == 0


def test_late_data_of_the_month_is_reflected(
    db: Connection, world: World, company: Company
) -> None:
    compute(db, world.a)
    set_clock(db, "2031-04-15T12:00-03:00")
    bill(db, world.a, 1000, MARCH)
    db.execute(
        "update public.performance_metrics set cloud_cost = 200 where id = %s", (company.metric,)
    )
    got = compute(db, world.a)
    assert (got["erp_billed"][0], got["erp_divergence"][0]) == (1000, -3000)
    assert got["average_margin_pct"][0] == 65


def test_a_contract_registered_later_counts_as_it_says(db: Connection, world: World) -> None:
    set_clock(db, "2031-07-01T12:00-03:00")
    add_contract(db, world.a, 1000, starts_on=date(2031, 2, 10))
    assert value(db, world.a, "mrr_total") == 1000
    assert value(db, world.a, "mrr_total", date(2031, 1, 1)) == 0


# --- Ends of months ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "month"),
    [
        ("2031-03-31T23:30-03:00", date(2031, 3, 1)),
        ("2031-04-01T00:00-03:00", date(2031, 4, 1)),
        ("2032-02-29T23:59:59-03:00", date(2032, 2, 1)),
        ("2031-12-31T23:30-03:00", date(2031, 12, 1)),
    ],
)
def test_the_month_is_cut_in_sao_paulo(
    db: Connection, world: World, moment: str, month: date
) -> None:
    set_clock(db, moment)
    add_lead(db, world.a)
    set_clock(db, "2033-01-01T12:00-03:00")
    year = [date(month.year, number, 1) for number in range(1, 13)]
    assert [value(db, world.a, "leads_mes", each) for each in year] == [
        int(each == month) for each in year
    ]


def test_hours_across_the_end_of_the_month_count_in_both(db: Connection, world: World) -> None:
    set_clock(db, "2031-04-01T12:00-03:00")
    add_hours(db, world.a, "2031-03-31T22:00-03:00", "2031-04-01T00:30-03:00")
    assert value(db, world.a, "hours_logged") == 2
    assert value(db, world.a, "hours_logged", date(2031, 4, 1)) == Decimal("0.50")


def test_a_change_on_the_last_evening_counts_for_the_month(db: Connection, world: World) -> None:
    set_clock(db, "2031-01-10T12:00-03:00")
    contract = add_contract(db, world.a, 1000, starts_on=date(2031, 1, 1))
    set_clock(db, "2031-03-31T23:30-03:00")
    db.execute("update public.contracts set mrr = 1500 where id = %s", (contract,))
    set_clock(db, "2031-04-01T00:30-03:00")
    db.execute("update public.contracts set mrr = 1700 where id = %s", (contract,))
    assert value(db, world.a, "mrr_total") == 1500


# --- Computing -----------------------------------------------------------------------------------


def test_computing_again_keeps_one_row_per_index(db: Connection, world: World) -> None:
    set_clock(db, "2031-04-01T04:00-03:00")
    assert compute(db, world.a) == compute(db, world.a)
    assert db.execute("select count(*) from public.data_indices").fetchone() == (len(KEYS),)


def test_an_index_that_fails_is_reported_and_stops_nothing(db: Connection, world: World) -> None:
    set_clock(db, "2031-04-01T04:00-03:00")
    compute(db, world.a)
    db.execute(
        "create or replace function app.index_mrr_total(org uuid, month date)"
        " returns table (value numeric, metadata jsonb) language sql stable set search_path = ''"
        " as $$ select 1 / (extract(year from month) - 2031), '{}'::jsonb $$"
    )
    rows = db.execute(
        "select index_key, error from public.compute_data_indices(%s, %s) where error is not null",
        (world.a.org, MARCH),
    ).fetchall()
    assert rows == [("mrr_total", "division by zero")]
    assert db.execute("select count(*) from public.data_indices").fetchone() == (len(KEYS),)
    with as_worker(db):
        row = db.execute("select app.compute_recent_indices(%s)", (world.a.org,)).fetchone()
    assert row is not None
    assert row[0]["failed"] == {
        f"2031-0{month}-01/mrr_total": "division by zero" for month in (3, 4)
    }
    assert row[0]["computed"] == 2 * (len(KEYS) - 1)
    failed = db.execute(
        "select payload -> 'failed' from public.module_events where event_type = 'indices.computed'"
    ).fetchall()
    assert (["mrr_total"],) in failed


def test_a_month_whose_source_is_gone_keeps_its_stored_value(db: Connection, world: World) -> None:
    set_clock(db, "2031-04-01T04:00-03:00")
    bill(db, world.a, 900, MARCH)
    compute(db, world.a)
    set_clock(db, "2034-05-01T04:00-03:00")
    with as_worker(db):
        db.execute("select app.run_retention()")
    errors = db.execute(
        "select index_key, error from public.compute_data_indices(%s, %s) where error is not null",
        (world.a.org, MARCH),
    ).fetchall()
    assert errors == [
        ("erp_billed", "index_source_expired"),
        ("erp_divergence", "index_source_expired"),
    ]
    assert db.execute(
        "select value from public.data_indices where index_key = 'erp_billed'"
    ).fetchone() == (900,)


def test_the_job_computes_the_month_before_and_the_running_one(
    db: Connection, world: World
) -> None:
    set_clock(db, "2031-04-01T04:00-03:00")
    with as_worker(db):
        row = db.execute("select app.compute_recent_indices(%s)", (world.a.org,)).fetchone()
    assert row == ({"computed": 2 * len(KEYS), "failed": {}},)
    assert db.execute(
        "select org_id, period from public.data_indices group by 1, 2 order by 1, 2"
    ).fetchall() == [(world.a.org, MARCH), (world.a.org, date(2031, 4, 1))]


def test_who_writes_data_computes_and_who_reads_it_reads(db: Connection, world: World) -> None:
    set_clock(db, "2031-04-01T04:00-03:00")
    for role in ("owner", "admin"):
        with as_member(db, world.a, role):
            compute(db, world.a)
    for role in ("director", "finance", "ops", "sales", "agent", "client"):
        with as_member(db, world.a, role), refused("not_allowed"):
            compute(db, world.a)
    for role in ("director", "finance", "ops"):
        with as_member(db, world.a, role):
            assert len(
                db.execute("select * from public.get_data_indices(%s)", (world.a.org,)).fetchall()
            ) == len(KEYS)
            db.execute("select public.get_data_dashboard_summary(%s)", (world.a.org,))
    with as_member(db, world.a, "sales"):
        assert (
            db.execute("select * from public.get_data_indices(%s)", (world.a.org,)).fetchall() == []
        )
        with refused("not_allowed"):
            db.execute("select public.get_data_dashboard_summary(%s)", (world.a.org,))
    with as_member(db, world.b, "owner"):
        assert db.execute("select count(*) from public.data_indices").fetchone() == (0,)
        with refused("not_allowed"):
            compute(db, world.a)
    with as_member(db, world.a, "owner"), denied():
        db.execute("update public.data_indices set value = 0")
    with as_analyst(db):
        assert db.execute("select count(*) from public.data_indices").fetchone() == (len(KEYS),)
    with refused("bad_input"):
        compute(db, world.a, date(2031, 5, 1))


def test_one_organisation_knows_nothing_of_another(
    db: Connection, world: World, company: Company
) -> None:
    alone = compute(db, world.b)
    assert {each[0] for each in alone.values()} <= {0, None}
    assert company.org == world.a


# --- Reading -------------------------------------------------------------------------------------


def test_indices_are_read_by_month_by_key_and_latest_first(db: Connection, world: World) -> None:
    set_clock(db, "2031-04-01T04:00-03:00")
    for month in (2, 3, 4):
        compute(db, world.a, date(2031, month, 1))

    def read(arguments: str) -> list[tuple[Any, ...]]:
        return db.execute(
            f"select period, index_key from public.get_data_indices(%s, {arguments})",
            (world.a.org,),
        ).fetchall()

    assert len(read("'2031-03-17'")) == len(KEYS)
    assert [row[0].month for row in read("null, 'mrr_total'")] == [4, 3, 2]
    assert read("null, null, 1") == [(date(2031, 4, 1), min(KEYS))]


def test_the_data_page_has_its_fields(db: Connection, world: World, company: Company) -> None:
    compute(db, world.a)
    db.execute(
        "insert into public.bcb_rates_snapshot (series, date, value)"
        " values ('433', '2031-02-01', 0.5)"
    )
    db.execute(
        "insert into public.event_aggregates (org_id, period, module, event_type, count)"
        " values (%s, '2031-03-02', 'growth', 'lead.created', 3)",
        (world.a.org,),
    )
    with as_member(db, world.a, "director"):
        row = db.execute("select public.get_data_dashboard_summary(%s)", (world.a.org,)).fetchone()
        count = db.execute("select count(*) from public.module_events").fetchone()
    assert row is not None
    assert count is not None
    got = row[0]
    assert set(got) == {
        "last_erp_revenue_period", "last_bcb_rates_date", "events_total", "event_aggregates_count",
        "recent_event_aggregates", "last_data_indices_period", "data_indices_count",
        "recent_data_indices",
    }  # fmt: skip
    assert got["last_erp_revenue_period"] == got["last_data_indices_period"] == "2031-03-01"
    assert got["last_bcb_rates_date"] == "2031-02-01"
    assert (got["events_total"], got["event_aggregates_count"]) == (count[0], 1)
    assert got["recent_event_aggregates"] == [
        {"period": "2031-03-02", "module": "growth", "event_type": "lead.created", "count": 3}
    ]
    assert got["data_indices_count"] == len(got["recent_data_indices"]) == len(KEYS)
    assert {row["index_key"]: row["value"] for row in got["recent_data_indices"]}[
        "mrr_total"
    ] == 4000
    assert company.org == world.a


# --- Retention -----------------------------------------------------------------------------------


def test_retention_removes_what_is_older_than_promised_and_nothing_else(
    db: Connection, world: World
) -> None:
    set_clock(db, "2031-03-15T12:00-03:00")
    for month in (date(2028, 2, 1), date(2028, 3, 1)):
        bill(db, world.a, 1, month)
    db.execute(
        "insert into public.bcb_rates_snapshot (series, date, value) values ('433', '1980-01-01', 1)"
    )
    for day in ("2029-02-28", "2029-03-01"):
        db.execute(
            "insert into public.bcb_sync_log (run_id, series, from_on, to_on, started_at)"
            " values (gen_random_uuid(), '433', %(day)s::date, %(day)s::date, %(day)s::date)",
            {"day": day},
        )
    db.execute(
        "insert into public.event_aggregates (org_id, period, module, event_type, count)"
        " values (%(org)s, '2029-02-28', 'growth', 'lead.created', 1),"
        " (%(org)s, '2029-03-01', 'growth', 'lead.created', 1)",
        {"org": world.a.org},
    )
    db.execute(
        "insert into app.rate_hits (bucket, hit_at) values"
        " ('x', '2031-03-14T11:59-03:00'), ('x', '2031-03-14T12:01-03:00')"
    )
    db.execute(
        "insert into app.cron_runs (job, scheduled_at, status, finished_at, rows)"
        " select 'events.rollup', day::timestamptz, status, finished, rows from (values"
        " ('2030-12-15T11:59-03:00', 'failed', now(), null),"
        " ('2030-12-15T12:01-03:00', 'failed', now(), null),"
        " ('2031-03-13T11:58-03:00', 'succeeded', now(), 0),"
        " ('2031-03-13T11:59-03:00', 'succeeded', now(), 1),"
        " ('2031-03-13T12:01-03:00', 'succeeded', now(), 0)) as v (day, status, finished, rows)"
    )
    db.execute(
        "insert into public.notifications (org_id, recipient_id, template, title, body, data, idempotency_key, created_at)"
        " select %s, %s, 'test', 'Teste', 'Teste', '{}', day, day::timestamptz"
        " from unnest(array['2030-02-28T12:00-03:00', '2030-03-01T12:00-03:00']) as day",
        (world.a.org, world.a.member("ops")),
    )
    db.execute(
        "insert into public.erp_sync_log (org_id, entity, status, started_at, finished_at)"
        " select %s, 'clients', 'succeeded', day::timestamptz, day::timestamptz"
        " from unnest(array['2028-02-29T12:00-03:00', '2028-03-01T12:00-03:00']) as day",
        (world.a.org,),
    )
    with as_worker(db):
        row = db.execute("select app.run_retention()").fetchone()
    assert row is not None
    counts = row[0]
    assert counts.pop("event_partitions") > 0
    assert counts == {
        "skipped": False, "erp_revenue_snapshot": 1, "erp_sync_log": 1, "bcb_sync_log": 1, "event_aggregates": 1,
        "rate_hits": 1, "notifications": 1, "cron_runs": 2, "webhook_deliveries": 0, "visitor_chats": 0, "ai_texts": 0, "event_retention_months": 24,
    }  # fmt: skip
    assert db.execute("select min(month) from public.erp_revenue_snapshot").fetchone() == (
        date(2028, 3, 1),
    )
    assert db.execute("select from_on from public.bcb_sync_log").fetchall() == [(date(2029, 3, 1),)]
    assert db.execute("select date from public.bcb_rates_snapshot").fetchall() == [
        (date(1980, 1, 1),)
    ]
    with as_member(db, world.a, "owner"), denied():
        db.execute("select app.run_retention()")


def test_the_longest_wish_decides_how_long_events_are_kept(db: Connection, world: World) -> None:
    db.execute("select app.ensure_event_partitions('2028-01-01', '2031-04-01')")
    configure(db, world.b, event_retention_months=36)
    with refused("setting_invalid"):
        configure(db, world.a, event_retention_months=12)
    set_clock(db, "2031-03-15T12:00-03:00")
    with as_worker(db):
        db.execute("select app.run_retention()")
    assert db.execute(
        "select min(relname) from pg_class join pg_inherits on oid = inhrelid"
        " where relname ~ '^module_events_[0-9]{6}$'"
    ).fetchone() == ("module_events_202803",)


def test_deleting_the_organisation_takes_its_records_along(db: Connection, world: World) -> None:
    set_clock(db, "2031-04-01T04:00-03:00")
    add_contract(db, world.b, 1000, starts_on=MARCH)
    bill(db, world.b, 10, MARCH)
    reconcile(db, world.b, MARCH)
    lead = add_lead(db, world.b)
    compute(db, world.b)
    db.execute("delete from public.leads where id = %s", (lead,))
    db.execute("delete from public.organizations where id = %s", (world.b.org,))
    for table in ("recorded_states", "data_indices", "reconciliation_alerts"):
        assert db.execute(
            f"select count(*) from public.{table} where org_id = %s", (world.b.org,)
        ).fetchone() == (0,)
