"""Ops, the work done: timers, own entries, metrics per contract and month."""

import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

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
    as_person,
    as_worker,
    denied,
    refused,
    set_clock,
)
from tests.rules.test_ops_playbooks import Number, add, one

SAO_PAULO = ZoneInfo("America/Sao_Paulo")


@dataclass(frozen=True)
class Work:
    """A contract in force with one service action of one playbook with one task."""

    org: Org
    contract: UUID
    action: UUID
    playbook: UUID
    task: UUID


def add_contract(db: Connection, org: Org, **columns: object) -> UUID:
    """Insert a contract, in force from 2025 on unless told otherwise."""
    values = {"title": "Suporte", "status": "active", "starts_on": "2025-01-01", **columns}
    return add(db, "contracts", org, client_id=org.client, **values)


def create_work(db: Connection, org: Org) -> Work:
    """Insert what an entry needs, and give every member a rate of R$ 100."""
    playbook = add(db, "playbooks", org, title=f"Playbook {uuid4()}")
    task = add(db, "playbook_tasks", org, playbook_id=playbook, title="Passo", minutes=5)
    action = add(db, "service_actions", org, title=f"Job {uuid4()}")
    add(db, "service_action_playbooks", org, service_action_id=action, playbook_id=playbook)
    contract = add_contract(db, org)
    add(db, "contract_items", org, contract_id=contract, service_action_id=action)
    db.execute("update public.memberships set hourly_rate = 100 where org_id = %s", (org.org,))
    return Work(org, contract, action, playbook, task)


@pytest.fixture
def work(db: Connection, world: World) -> Work:
    """Work of organisation a, at noon of 31 March 2026 in São Paulo."""
    set_clock(db, "2026-03-31T12:00:00-03:00")
    return create_work(db, world.a)


def add_entry(db: Connection, work: Work, start: str, end: str | None, **columns: object) -> UUID:
    """Insert an entry of the acting person; times are of March 2026 in São Paulo."""
    values = {
        "contract_id": work.contract,
        "service_action_id": work.action,
        "started_at": moment(start),
        "ended_at": moment(end) if end else None,
        **columns,
    }
    return add(db, "time_entries", work.org, **values)


def moment(text: str) -> datetime:
    """Read `31 23:30` as that moment of March 2026 in São Paulo; a full date stands for itself."""
    full = text if len(text) > len("31 23:30") else f"2026-03-{text}"
    return datetime.fromisoformat(full).replace(tzinfo=SAO_PAULO)


def start(db: Connection, work: Work, *more: object) -> UUID:
    """Start the acting person's timer."""
    marks = ", ".join(["%s"] * (2 + len(more)))
    call = f"select (public.start_timer({marks})).id"
    entry = one(db, call, work.contract, work.action, *more)
    assert isinstance(entry, UUID)
    return entry


def stop(db: Connection, work: Work) -> tuple[UUID, Number, Number]:
    """Stop the acting person's timer; gives entry, minutes and rate."""
    call = "select id, minutes, hourly_rate from public.stop_timer(%s)"
    entry, minutes, rate = one(db, call, work.org.org)
    return entry, minutes, rate


def metric(db: Connection, work: Work, month: str) -> tuple[Number, Number, str] | None:
    """Give hours, labour cost and source of the contract's metrics of a month."""
    return db.execute(
        "select hours_worked, labour_cost, source from public.performance_metrics"
        " where contract_id = %s and month = %s",
        (work.contract, month),
    ).fetchone()


def sync(db: Connection, org: Org, month: str) -> int:
    """Sum the month's entries."""
    written = one(db, "select public.sync_performance_metrics(%s, %s)", org.org, month)
    assert isinstance(written, int)
    return written


# Timer


def test_an_employee_who_cannot_read_contracts_times_his_work(db: Connection, work: Work) -> None:
    with as_member(db, work.org, "employee") as person:
        assert one(db, "select count(*) from public.contracts") == 0
        targets = db.execute(
            "select contract_id, service_action_id from public.list_timer_targets(%s)",
            (work.org.org,),
        ).fetchall()
        assert targets == [(work.contract, work.action)]
        entry = start(db, work, work.playbook, work.task, "Plantão")
        set_clock(db, "2026-03-31T12:47:30-03:00")
        assert stop(db, work) == (entry, Decimal("47.50"), 100)
        assert one(db, "select user_id from public.time_entries where id = %s", entry) == person


def test_only_one_timer_runs_per_person(db: Connection, work: Work) -> None:
    with as_member(db, work.org, "employee"):
        start(db, work)
        with refused("timer_already_running"):
            start(db, work)
    with as_member(db, work.org, "sales"):
        start(db, work)


def test_a_timer_that_does_not_run_cannot_be_stopped(db: Connection, work: Work) -> None:
    with as_member(db, work.org, "ops"):
        start(db, work)
    with as_member(db, work.org, "employee"), refused("timer_not_running"):
        stop(db, work)
    with as_member(db, work.org, "ops"):
        stop(db, work)
        with refused("timer_not_running"):
            stop(db, work)


@pytest.mark.parametrize("turn", range(5))
def test_of_two_sessions_that_start_a_timer_at_once_one_wins(
    own_db_url: str, world: World, turn: int
) -> None:
    del turn
    with psycopg.connect(own_db_url, autocommit=True) as setup:
        work = create_work(setup, world.a)
    barrier, answers = threading.Barrier(2), []

    def race() -> None:
        with psycopg.connect(own_db_url, autocommit=True) as session:
            barrier.wait()
            try:
                with as_member(session, world.a, "employee"):
                    start(session, work)
                answers.append("started")
            except psycopg.Error as error:
                answers.append(f"{error.sqlstate} {error.diag.message_primary}")

    threads = [threading.Thread(target=race) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == ["PT409 timer_already_running", "started"]


def test_two_sessions_cannot_enter_overlapping_time_at_once(own_db_url: str, world: World) -> None:
    with psycopg.connect(own_db_url, autocommit=True) as setup:
        work = create_work(setup, world.a)
    answers: list[str] = []

    def enter() -> None:
        with psycopg.connect(own_db_url, autocommit=True) as session:
            set_clock(session, "2026-03-31T12:00:00-03:00")
            try:
                with as_member(session, world.a, "employee"):
                    add_entry(session, work, "31 10:30", "31 11:30")
                answers.append("entered")
            except psycopg.Error as error:
                answers.append(str(error.diag.message_primary))

    with psycopg.connect(own_db_url) as slow:
        set_clock(slow, "2026-03-31T12:00:00-03:00")
        with as_member(slow, world.a, "employee"):
            add_entry(slow, work, "31 10:00", "31 11:00")
        thread = threading.Thread(target=enter)
        thread.start()
        with psycopg.connect(own_db_url, autocommit=True) as watch:
            while thread.is_alive() and not one(
                watch, "select count(*) from pg_locks where locktype = 'advisory' and not granted"
            ):
                thread.join(0.01)
        slow.commit()
        thread.join()
    assert answers == ["time_entry_overlaps"]


def test_a_visitor_or_an_agent_or_a_client_has_no_timer(db: Connection, work: Work) -> None:
    with as_worker(db), refused("not_signed_in"):
        start(db, work)
    with as_agent(db, work.org), refused("not_signed_in"):
        start(db, work)
    with as_client(db, work.org), refused("contract_not_found"):
        start(db, work)


def test_a_contract_of_another_organisation_is_not_found(
    db: Connection, world: World, work: Work
) -> None:
    with as_member(db, world.b, "owner"):
        assert (
            db.execute("select * from public.list_timer_targets(%s)", (work.org.org,)).fetchall()
            == []
        )
        with refused("contract_not_found"):
            start(db, work)
        with denied():  # by the policy; the guards tell him nothing
            add_entry(db, work, "31 10:00", "31 11:00")


# What an entry may name


@pytest.mark.parametrize(
    ("columns", "started", "stands"),
    [
        ({"starts_on": "2026-03-31"}, "31 00:00", True),
        ({"starts_on": "2026-03-31"}, "30 23:30", False),
        ({"ends_on": "2026-03-30"}, "30 23:30", True),
        ({"ends_on": "2026-03-30"}, "31 00:00", False),
        ({"status": "draft"}, "31 10:00", False),
    ],
)
def test_the_contract_is_in_force_on_the_local_day_the_work_began(
    db: Connection, work: Work, columns: dict[str, str], started: str, *, stands: bool
) -> None:
    contract = add_contract(db, work.org, **columns)
    add(db, "contract_items", work.org, contract_id=contract, service_action_id=work.action)
    with as_member(db, work.org, "employee"):
        if stands:
            add_entry(db, work, started, "31 11:00", contract_id=contract)
            return
        with refused("contract_not_in_force"):
            add_entry(db, work, started, "31 11:00", contract_id=contract)


def test_an_entry_names_parts_that_belong_together(db: Connection, work: Work) -> None:
    other = create_work(db, work.org)
    with as_member(db, work.org, "employee"):
        with refused("service_action_not_in_contract"):
            start(db, Work(work.org, work.contract, other.action, work.playbook, work.task))
        with refused("playbook_not_in_service_action"):
            start(db, work, other.playbook)
        with refused("task_not_in_playbook"):
            start(db, work, work.playbook, other.task)
        with refused("task_not_in_playbook"):
            start(db, work, None, work.task)
        entry = start(db, work, work.playbook, work.task)
        with refused("playbook_not_in_service_action"):
            db.execute(
                "update public.time_entries set playbook_id = %s, playbook_task_id = null",
                (other.playbook,),
            )
        db.execute("update public.time_entries set playbook_id = null")
        assert (
            one(db, "select playbook_task_id from public.time_entries where id = %s", entry) is None
        )


def test_an_entry_survives_its_playbook_and_a_later_change_of_the_contract(
    db: Connection, work: Work
) -> None:
    with as_member(db, work.org, "employee"):
        entry = start(db, work, work.playbook, work.task)
    db.execute("delete from public.playbooks where id = %s", (work.playbook,))
    db.execute("delete from public.contract_items where contract_id = %s", (work.contract,))
    set_clock(db, "2026-03-31T13:00:00-03:00")
    with as_member(db, work.org, "employee"):
        assert stop(db, work)[:2] == (entry, 60)
    assert one(
        db, "select playbook_id, playbook_task_id from public.time_entries where id = %s", entry
    ) == (None, None)


# Own entries


def test_nobody_enters_time_for_somebody_else(db: Connection, work: Work) -> None:
    for role in ("employee", "ops", "owner"):
        with as_member(db, work.org, role), refused("time_entry_not_own"):
            add_entry(db, work, "31 10:00", "31 11:00", user_id=work.org.member("sales"))
    with as_member(db, work.org, "employee"):
        entry = add_entry(db, work, "31 10:00", "31 11:00")
    with as_member(db, work.org, "owner"), refused("time_entry_not_own"):
        db.execute(
            "update public.time_entries set user_id = %s where id = %s",
            (work.org.member("owner"), entry),
        )


def test_the_worker_enters_time_of_members_only(db: Connection, world: World, work: Work) -> None:
    with as_worker(db):
        add_entry(db, work, "31 10:00", "31 11:00", user_id=world.a.member("employee"))
        with refused("user_not_member"):
            add_entry(db, work, "31 10:00", "31 11:00", user_id=world.b.member("employee"))


def test_people_see_their_own_entries_and_rates_only(db: Connection, work: Work) -> None:
    with as_member(db, work.org, "ops"):
        entry = add_entry(db, work, "31 10:00", "31 11:00")
    count = "select count(*) from public.time_entries where id = %s"
    for role in ("employee", "sales", "legal", "people"):
        with as_member(db, work.org, role):
            assert one(db, count, entry) == 0
            assert db.execute("update public.time_entries set note = 'x'").rowcount == 0
            assert db.execute("delete from public.time_entries").rowcount == 0
            assert one(db, "select count(*) from public.performance_metrics") == 0
    for role in ("owner", "admin", "director", "ops", "finance"):
        with as_member(db, work.org, role):
            assert one(db, count, entry) == 1
    with as_analyst(db), denied():
        db.execute("select hourly_rate from public.time_entries")


def test_the_rate_is_copied_once_and_cannot_be_typed(db: Connection, work: Work) -> None:
    with as_member(db, work.org, "employee"):
        entry = add_entry(db, work, "31 10:00", "31 11:00", hourly_rate=9999)
    rate = "select hourly_rate from public.time_entries where id = %s"
    db.execute("update public.memberships set hourly_rate = 150")
    assert one(db, rate, entry) == 100
    for role in ("employee", "owner"):
        with as_member(db, work.org, role), refused("time_entry_rate_is_fixed"):
            db.execute("update public.time_entries set hourly_rate = 9999")
    db.execute("update public.memberships set hourly_rate = null")
    with as_member(db, work.org, "employee"):
        assert one(db, rate, add_entry(db, work, "31 11:00", "31 11:30")) == 0


def test_minutes_cannot_be_typed(db: Connection, work: Work) -> None:
    with as_member(db, work.org, "employee"):
        entry = add_entry(db, work, "31 10:00", "31 10:20")
        with pytest.raises(psycopg.errors.GeneratedAlways), db.transaction():
            db.execute("update public.time_entries set minutes = 500")
        assert one(db, "select minutes from public.time_entries where id = %s", entry) == 20


@pytest.mark.parametrize(
    ("begin", "end", "stands"),
    [
        ("31 09:00", "31 10:00", True),
        ("31 11:00", "31 11:30", True),
        ("31 09:00", "31 10:01", False),
        ("31 10:59", "31 11:30", False),
        ("31 10:20", "31 10:40", False),
        ("31 09:00", "31 11:30", False),
        ("31 10:00", "31 11:00", False),
        ("31 09:00", None, False),
        ("31 11:00", None, True),
    ],
)
def test_own_entries_do_not_overlap(
    db: Connection, work: Work, begin: str, end: str | None, *, stands: bool
) -> None:
    with as_member(db, work.org, "employee"):
        add_entry(db, work, "31 10:00", "31 11:00")
        if not stands:
            with refused("time_entry_overlaps"):
                add_entry(db, work, begin, end)
        else:
            add_entry(db, work, begin, end)
    with as_member(db, work.org, "sales"):
        add_entry(db, work, begin, end)


def test_moving_an_entry_onto_another_is_refused_and_moving_all_at_once_is_not(
    db: Connection, work: Work
) -> None:
    with as_member(db, work.org, "employee"):
        add_entry(db, work, "31 08:00", "31 09:00")
        second = add_entry(db, work, "31 09:00", "31 10:00")
        with refused("time_entry_overlaps"):
            db.execute(
                "update public.time_entries set started_at = %s where id = %s",
                (moment("31 08:59"), second),
            )
        db.execute(
            "update public.time_entries set started_at = started_at + interval '30 minutes',"
            " ended_at = ended_at + interval '30 minutes'"
        )
        with refused("time_entry_overlaps"):
            db.execute("update public.time_entries set ended_at = ended_at + interval '1 minute'")


def test_time_is_not_entered_before_it_is_worked(db: Connection, work: Work) -> None:
    with as_member(db, work.org, "employee"):
        with refused("time_entry_in_future"):
            add_entry(db, work, "31 11:30", "31 12:01")
        with refused("time_entry_in_future"):
            add_entry(db, work, "31 12:01", None)
        with pytest.raises(psycopg.errors.CheckViolation), db.transaction():
            add_entry(db, work, "31 11:30", "31 11:00")


SPAN = st.tuples(st.integers(0, 300), st.integers(0, 60))


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(spans=st.lists(SPAN, max_size=12))
def test_exactly_the_entries_that_overlap_no_earlier_one_are_taken(
    db: Connection, work: Work, spans: list[tuple[int, int]]
) -> None:
    midnight = moment("30 00:00")
    taken: list[tuple[datetime, datetime]] = []
    with db.transaction(force_rollback=True), as_member(db, work.org, "employee"):
        for offset, length in spans:
            begin = midnight + timedelta(minutes=offset)
            end = begin + timedelta(minutes=length)
            overlaps = any(begin < b and a < end for a, b in taken)
            try:
                with db.transaction():
                    add(
                        db, "time_entries", work.org, contract_id=work.contract,
                        service_action_id=work.action, started_at=begin, ended_at=end,
                    )  # fmt: skip
                answer = "taken"
                taken.append((begin, end))
            except psycopg.Error as error:
                answer = str(error.diag.message_primary)
            assert answer == ("time_entry_overlaps" if overlaps else "taken")


# Metrics


def test_an_entry_across_the_months_end_counts_in_each_month_with_its_part(
    db: Connection, work: Work
) -> None:
    set_clock(db, "2026-04-01T12:00:00-03:00")
    with as_member(db, work.org, "employee"):
        add_entry(db, work, "31 23:30", "2026-04-01 00:45")
    with as_member(db, work.org, "ops"):
        assert sync(db, work.org, "2026-03-17") == 1
        assert sync(db, work.org, "2026-04-01") == 1
        assert sync(db, work.org, "2026-05-01") == 0
    assert metric(db, work, "2026-03-01") == (Decimal("0.50"), 50, "timer")
    assert metric(db, work, "2026-04-01") == (Decimal("0.75"), 75, "timer")


def test_months_are_cut_in_the_time_zone_of_the_organisation(db: Connection, work: Work) -> None:
    set_clock(db, "2026-04-01T12:00:00-03:00")
    with as_member(db, work.org, "employee"):
        add_entry(db, work, "31 23:30", "2026-04-01 00:00")  # all of it April in UTC
    with as_worker(db):
        sync(db, work.org, "2026-03-01")
        assert sync(db, work.org, "2026-04-01") == 0
    assert metric(db, work, "2026-03-01") == (Decimal("0.50"), 50, "timer")
    assert metric(db, work, "2026-04-01") is None
    db.execute(
        "update public.organizations set time_zone = 'Europe/Lisbon' where id = %s",
        (work.org.org,),
    )
    with as_worker(db):
        sync(db, work.org, "2026-03-01")
        sync(db, work.org, "2026-04-01")
    assert metric(db, work, "2026-03-01") == (0, 0, "timer")
    assert metric(db, work, "2026-04-01") == (Decimal("0.50"), 50, "timer")


def test_a_running_timer_counts_when_it_is_stopped_and_a_deleted_entry_no_longer(
    db: Connection, work: Work
) -> None:
    with as_member(db, work.org, "employee"):
        start(db, work)
    set_clock(db, "2026-03-31T13:00:00-03:00")
    with as_worker(db):
        assert sync(db, work.org, "2026-03-01") == 0
    with as_member(db, work.org, "employee"):
        stop(db, work)
    with as_worker(db):
        assert sync(db, work.org, "2026-03-01") == 1
        assert sync(db, work.org, "2026-03-01") == 0
    assert metric(db, work, "2026-03-01") == (1, 100, "timer")
    with as_member(db, work.org, "employee"):
        db.execute("delete from public.time_entries")
    with as_worker(db):
        assert sync(db, work.org, "2026-03-01") == 1
    assert metric(db, work, "2026-03-01") == (0, 0, "timer")


def test_typed_hours_are_not_overwritten_until_given_back_to_the_timer(
    db: Connection, work: Work
) -> None:
    with as_member(db, work.org, "employee"):
        add_entry(db, work, "31 10:00", "31 11:00")
    with as_member(db, work.org, "ops"):
        sync(db, work.org, "2026-03-01")
        db.execute("update public.performance_metrics set cloud_cost = 12.34, sla_achieved = 99.5")
        assert metric(db, work, "2026-03-01") == (1, 100, "timer")
        db.execute("update public.performance_metrics set hours_worked = 40")
        assert metric(db, work, "2026-03-01") == (40, 100, "manual")
        assert sync(db, work.org, "2026-03-01") == 0
        assert metric(db, work, "2026-03-01") == (40, 100, "manual")
        db.execute("update public.performance_metrics set source = 'timer'")
        assert metric(db, work, "2026-03-01") == (1, 100, "timer")
    costs = one(db, "select cloud_cost, other_cost from public.performance_metrics")
    assert costs == (Decimal("12.34"), 0)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"cloud_cost": 5}, (1, 100, "timer")),
        ({"hours_worked": 8}, (8, 0, "manual")),
        ({"labour_cost": 8, "source": "timer"}, (0, 8, "manual")),
        ({"source": "manual"}, (0, 0, "manual")),
    ],
)
def test_a_new_row_is_manual_when_hours_or_labour_are_typed(
    db: Connection, work: Work, columns: dict[str, object], expected: tuple[object, ...]
) -> None:
    with as_member(db, work.org, "employee"):
        add_entry(db, work, "31 10:00", "31 11:00")
    with as_member(db, work.org, "ops"):
        add(
            db, "performance_metrics", work.org,
            contract_id=work.contract, month="2026-03-01", **columns,
        )  # fmt: skip
    assert metric(db, work, "2026-03-01") == expected


def test_a_contract_has_one_row_per_month_that_begins_on_its_first_day(
    db: Connection, work: Work
) -> None:
    def insert(month: str) -> None:
        add(db, "performance_metrics", work.org, contract_id=work.contract, month=month)

    insert("2026-03-01")
    with pytest.raises(psycopg.errors.UniqueViolation), db.transaction():
        insert("2026-03-01")
    with pytest.raises(psycopg.errors.CheckViolation):
        insert("2026-03-02")


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    parts=st.lists(
        st.tuples(st.integers(1, 4000), st.integers(1, 50000), st.integers(0, 20000)), max_size=8
    )
)
def test_the_months_parts_add_up_to_the_entries(
    db: Connection, work: Work, parts: list[tuple[int, int, int]]
) -> None:
    set_clock(db, "2026-06-15T12:00:00-03:00")
    expected: dict[str, list[Decimal]] = {}
    begin = datetime(2026, 3, 30, tzinfo=UTC)
    with db.transaction(force_rollback=True):
        for gap, length, cents in parts:
            rate = Decimal(cents) / 100
            begin += timedelta(seconds=gap)
            end = begin + timedelta(seconds=length)
            db.execute("update public.memberships set hourly_rate = %s", (rate,))
            with as_member(db, work.org, "employee"):
                add(
                    db, "time_entries", work.org, contract_id=work.contract,
                    service_action_id=work.action, started_at=begin, ended_at=end,
                )  # fmt: skip
            for month, first, last in (
                ("2026-03-01", "2026-03-01", "2026-04-01"),
                ("2026-04-01", "2026-04-01", "2026-05-01"),
            ):
                inside = min(end, moment(f"{last} 00:00")) - max(begin, moment(f"{first} 00:00"))
                seconds = Decimal(int(inside.total_seconds()))
                if seconds > 0:
                    sums = expected.setdefault(month, [Decimal(0), Decimal(0)])
                    sums[0] += seconds
                    sums[1] += seconds * rate
            begin = end
        with as_worker(db):
            for month in ("2026-03-01", "2026-04-01"):
                sync(db, work.org, month)
        for month in ("2026-03-01", "2026-04-01"):
            stored = metric(db, work, month)
            if month not in expected:
                assert stored is None
                continue
            assert stored
            seconds, money = expected[month]
            assert abs(stored[0] - seconds / 3600) <= Decimal("0.005")
            assert abs(stored[1] - money / 3600) <= Decimal("0.005")


def test_only_who_may_write_all_time_syncs(db: Connection, world: World, work: Work) -> None:
    for actor in (
        as_member(db, work.org, "employee"),
        as_member(db, work.org, "finance"),
        as_member(db, world.b, "owner"),
    ):
        with actor, refused("not_allowed"):
            sync(db, work.org, "2026-03-01")


def test_the_job_syncs_the_running_and_the_previous_month(db: Connection, work: Work) -> None:
    with as_member(db, work.org, "employee"):
        add_entry(db, work, "2026-02-28 23:30", "01 00:30")
        add_entry(db, work, "2026-01-31 23:30", "2026-02-01 00:30")
    job = "select app.sync_recent_performance_metrics(%s)"
    with as_worker(db):
        assert [one(db, job, work.org.org) for _ in range(2)] == [2, 0]
    assert metric(db, work, "2026-03-01") == (Decimal("0.50"), 50, "timer")
    assert metric(db, work, "2026-02-01") == (1, 100, "timer")
    assert metric(db, work, "2026-01-01") is None
    with as_member(db, work.org, "owner"), denied():
        db.execute(job, (work.org.org,))


def test_changes_of_metrics_and_entries_are_audited_without_the_rate(
    db: Connection, work: Work
) -> None:
    with as_member(db, work.org, "employee"):
        entry = add_entry(db, work, "31 10:00", "31 11:00")
    with as_member(db, work.org, "ops") as person:
        db.execute("delete from public.time_entries where id = %s", (entry,))
    actor, changes = one(
        db, "select actor_id, changes from public.audit_log where row_id = %s", str(entry)
    )
    assert (actor, changes["hourly_rate"]) == (person, ["***", "***"])
    with as_member(db, work.org, "employee"):
        add_entry(db, work, "31 10:00", "31 11:00")
    with as_worker(db):
        sync(db, work.org, "2026-03-01")
    assert (
        one(
            db,
            "select changes -> 'labour_cost' ->> 1 from public.audit_log"
            " where table_name = 'performance_metrics'",
        )
        == "100.00"
    )


def test_a_person_without_membership_enters_nothing(
    db: Connection, world: World, work: Work
) -> None:
    with as_person(db, world.stranger), refused("contract_not_found"):
        start(db, work)
