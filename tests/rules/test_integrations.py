"""Breakers, permits, the log of calls and the health of services outside, on a clock that is set."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg.types.json import Jsonb

from tests.people import (
    Connection,
    World,
    as_anon,
    as_member,
    as_worker,
    denied,
    refused,
    set_clock,
)

START = datetime(2026, 3, 2, 12, tzinfo=UTC)
_accounts = itertools.count(1)


class Account:
    """An account at a provider, called from the seconds after START that `at` sets."""

    def __init__(self, db: Connection, provider: str = "omie") -> None:
        self.db, self.provider = db, provider
        self.hash = f"{next(_accounts):016x}"
        self.at(0)

    def at(self, seconds: float) -> "Account":
        """Set the clock."""
        set_clock(self.db, START + timedelta(seconds=seconds))
        return self

    def begin(self, *gates: tuple[str, int, float], call: UUID | None = None, lease_s: float = 35) -> tuple[str, float]:  # fmt: skip
        """Ask whether a call may be made; gives the verdict and the wait."""
        row = self.db.execute(
            "select verdict, wait_s from app.begin_call(%s, %s, %s, %s, %s)",
            (call or uuid4(), self.provider, self.hash, gates_of(gates), lease_s),
        ).fetchone()
        assert row is not None
        return row[0], row[1]

    def end(  # noqa: PLR0913 - what there is to say
        self, outcome: str, *gates: tuple[str, int, float], call: UUID | None = None, org: UUID | None = None,
        block_s: float | None = None, status: int | None = None, error_kind: str | None = None,
    ) -> None:  # fmt: skip
        """Say how a call ended."""
        self.db.execute(
            "select app.end_call(%s, %s, %s, %s, %s, 'POST', 'ListarOS', 1, %s, %s, %s, 120, 10, null, %s)",
            (call or uuid4(), self.provider, self.hash, gates_of(gates), org, outcome, error_kind, status, block_s),
        )  # fmt: skip

    def fail(self, times: int) -> "Account":
        """Let calls fail."""
        for _ in range(times):
            self.end("retry")
        return self


def gates_of(gates: tuple[tuple[str, int, float], ...]) -> Jsonb:
    return Jsonb([{"gate": g, "slots": n, "per_s": per} for g, n, per in gates])


@pytest.fixture
def account(db: Connection) -> Iterator[Account]:
    yield Account(db)
    set_clock(db, None)


# --- Breaker --------------------------------------------------------------------------------------


def test_four_failures_leave_the_breaker_closed_and_the_fifth_opens_it(account: Account) -> None:
    assert account.fail(4).begin() == ("go", 0)
    assert account.fail(1).begin() == ("open", 60)
    assert account.at(59).begin() == ("open", 1)


@pytest.mark.parametrize("answer", ["ok", "give_up"])
def test_an_answer_in_between_begins_the_count_anew(account: Account, answer: str) -> None:
    account.fail(4).end(answer)
    assert account.fail(4).begin() == ("go", 0)
    assert account.fail(1).begin() == ("open", 60)


def test_a_call_that_was_cancelled_counts_neither_way(account: Account) -> None:
    account.fail(4).end("cancelled")
    assert account.begin() == ("go", 0)
    assert account.fail(1).begin() == ("open", 60)


@pytest.mark.parametrize("answer", ["ok", "give_up"])
def test_after_a_minute_one_call_probes_and_its_answer_closes(
    account: Account, answer: str
) -> None:
    probe = uuid4()
    account.fail(5).at(60)
    assert account.begin(call=probe) == ("go", 0)
    assert account.begin() == ("probing", 0)
    account.end(answer, call=probe)
    assert account.begin() == account.begin() == ("go", 0)
    assert account.fail(4).begin() == ("go", 0)


def test_a_probe_that_fails_opens_for_another_minute(account: Account) -> None:
    probe = uuid4()
    account.fail(5).at(61).begin(call=probe)
    account.end("retry", call=probe)
    assert account.begin() == ("open", 60)
    assert account.at(121).begin() == ("go", 0)


def test_a_probe_that_is_cancelled_leaves_the_next_call_to_probe(account: Account) -> None:
    probe = uuid4()
    account.fail(5).at(60).begin(call=probe)
    account.end("cancelled", call=probe)
    assert [account.begin(), account.begin()] == [("go", 0), ("probing", 0)]


def test_a_probe_whose_process_died_is_followed_by_another_after_its_lease(
    account: Account,
) -> None:
    account.fail(5).at(60).begin(lease_s=35)
    assert account.at(94.9).begin() == ("probing", 0)
    assert [account.at(95).begin(), account.begin()] == [("go", 0), ("probing", 0)]


@pytest.mark.parametrize("late", ["ok", "retry", "give_up"])
def test_calls_under_way_when_it_opened_do_not_move_an_open_breaker(
    account: Account, late: str
) -> None:
    account.fail(5).at(30).end(late)
    assert account.begin() == ("open", 30)
    account.at(60).begin(call=(probe := uuid4()))
    account.end(late)
    assert account.begin() == ("probing", 0)
    account.end("ok", call=probe)
    assert account.begin() == ("go", 0)


def test_a_wait_asked_of_the_account_opens_for_as_long_and_the_longest_counts(
    account: Account,
) -> None:
    account.end("wait", block_s=1789)
    assert account.begin() == ("open", 1789)
    account.at(10).end("wait", block_s=60)
    assert account.begin() == ("open", 1779)
    account.end("wait", block_s=1800)
    assert account.begin() == ("open", 1800)
    account.end("ok")
    assert account.begin() == ("open", 1800)
    assert [account.at(1810).begin(), account.begin()] == [("go", 0), ("probing", 0)]


def test_a_wait_asked_of_the_probe_keeps_it_open(account: Account) -> None:
    probe = uuid4()
    account.fail(5).at(60).begin(call=probe)
    account.end("wait", call=probe, block_s=10)
    assert account.begin() == ("open", 10)


def test_a_wait_that_means_this_call_only_is_an_answer(account: Account) -> None:
    account.fail(4).end("wait")
    assert account.begin() == ("go", 0)
    assert account.fail(4).begin() == ("go", 0)


def test_nobody_can_block_an_account_for_longer_than_a_day(account: Account) -> None:
    account.end("wait", block_s=10**9)
    assert account.begin() == ("open", 86400)


def test_the_breaker_of_one_account_is_not_another_s(account: Account, db: Connection) -> None:
    account.fail(5)
    assert Account(db).begin() == ("go", 0)


def test_a_busy_account_is_not_written_for_each_call(account: Account, db: Connection) -> None:
    def version() -> Any:
        return db.execute(
            "select ctid, last_success_at from app.circuit_breakers where account_hash = %s",
            (account.hash,),
        ).fetchone()

    account.end("ok")
    before = version()
    account.at(0.9).end("ok")
    assert version() == before
    account.at(1.1).end("ok")
    assert version() != before


def test_a_provider_outside_of_the_catalogue_is_not_called(db: Connection) -> None:
    with refused("provider_unknown", db):
        Account(db, "nowhere").begin()


# --- Permits --------------------------------------------------------------------------------------


def test_a_rate_lets_so_many_through_and_counts_from_the_end_of_each_call(account: Account) -> None:
    gate = ("2 in 60 s", 2, 60)
    first, second = uuid4(), uuid4()
    assert [account.begin(gate, call=first), account.begin(gate, call=second)] == [("go", 0)] * 2
    # Both are under way: the earliest moment another could follow is a period from now.
    assert account.begin(gate) == ("busy", 60)
    account.at(5).end("ok", gate, call=first)
    account.at(7).end("ok", gate, call=second)
    assert account.at(64).begin(gate) == ("busy", 1)
    assert account.at(65).begin(gate) == ("go", 0)
    assert account.begin(gate) == ("busy", 2)


def test_of_several_rates_each_holds_and_a_refused_call_takes_nothing(account: Account) -> None:
    wide, narrow = ("10 in 60 s", 10, 60), ("1 in 1 s", 1, 1)
    call = uuid4()
    assert account.begin(wide, narrow, call=call) == ("go", 0)
    for _ in range(20):
        assert account.begin(wide, narrow) == ("busy", 1)
    account.end("ok", wide, narrow, call=call)
    for second in range(1, 10):
        call = uuid4()
        assert account.at(second).begin(wide, narrow, call=call) == ("go", 0)
        account.end("ok", wide, narrow, call=call)
    assert account.at(10).begin(wide, narrow) == ("busy", 50)


def test_one_at_a_time_is_free_as_soon_as_the_call_ends(account: Account) -> None:
    gate, call = ("one ListarOS", 1, 0), uuid4()
    assert account.begin(gate, call=call) == ("go", 0)
    assert account.begin(gate) == ("busy", 0)
    assert account.begin(("one ListarClientes", 1, 0)) == ("go", 0)
    account.end("give_up", gate, call=call)
    assert account.begin(gate) == ("go", 0)


def test_the_permit_of_a_process_that_died_comes_free_after_its_lease(account: Account) -> None:
    turn, rate = ("one ListarOS", 1, 0), ("1 in 60 s", 1, 60)
    account.begin(turn, rate, lease_s=35)
    assert account.at(34).begin(turn)[0] == "busy"
    assert account.at(35).begin(turn) == ("go", 0)
    # Whether its request was sent is not known: the period counts from the lease's end.
    assert account.at(94).begin(rate)[0] == "busy"
    assert account.at(95).begin(rate) == ("go", 0)


def test_a_call_that_ends_after_its_lease_does_not_free_the_turn_of_another(
    account: Account,
) -> None:
    gate, late, other = ("one ListarOS", 1, 0), uuid4(), uuid4()
    account.begin(gate, call=late, lease_s=35)
    assert account.at(36).begin(gate, call=other) == ("go", 0)
    account.end("ok", gate, call=late)
    assert account.begin(gate)[0] == "busy"
    account.end("ok", gate, call=other)
    assert account.begin(gate) == ("go", 0)


def test_a_rate_that_was_lowered_holds_at_once(account: Account) -> None:
    for _ in range(3):
        account.begin(("rate", 3, 60))
    assert account.begin(("rate", 2, 60))[0] == "busy"


def test_an_open_breaker_takes_no_permits(account: Account) -> None:
    gate = ("1 in 60 s", 1, 60)
    account.fail(5).begin(gate)
    assert account.at(60).begin(gate) == ("go", 0)


def test_a_probe_that_finds_no_permit_is_not_the_probe(account: Account) -> None:
    gate, call = ("one ListarOS", 1, 0), uuid4()
    account.begin(gate, call=call, lease_s=100)
    account.fail(5)
    assert account.at(60).begin(gate)[0] == "busy"
    assert account.begin() == ("go", 0)


# --- Log and credentials --------------------------------------------------------------------------


def test_an_admin_reads_the_calls_of_his_organisation_and_nobody_writes_them(
    account: Account, db: Connection, world: World
) -> None:
    for org in (world.a.org, world.b.org, None):
        account.end("ok", org=org, status=200)
    count = "select count(*) from public.outbound_calls"
    for role, seen in (("owner", 1), ("admin", 1), ("director", 0), ("finance", 0), ("client", 0)):
        with as_member(db, world.a, role):
            assert db.execute(count).fetchone() == (seen,), role
    with as_anon(db), denied(db):
        db.execute(count)
    for write in ("delete from public.outbound_calls", "update app.outbound_calls set bytes = 0"):
        with as_member(db, world.a, "owner"), denied(db):
            db.execute(write)
        with as_worker(db), denied(db):
            db.execute(write)


def test_a_401_marks_the_credentials_and_a_success_takes_the_mark_away(
    account: Account, db: Connection, world: World
) -> None:
    db.execute("select app.store_credentials(%s, 'omie', %s, '0123abcd')", (world.a.org, b"x" * 40))
    status = "select status from public.integration_credentials where org_id = %s"

    def now() -> Any:
        row = db.execute(status, (world.a.org,)).fetchone()
        return row and row[0]

    account.end("give_up", org=world.a.org, status=403)
    account.end("give_up", org=world.b.org, status=401)
    assert now() == "connected"
    account.end("give_up", org=world.a.org, status=401)
    assert now() == "rejected"
    account.end("retry", org=world.a.org, status=500)
    assert now() == "rejected"
    account.end("ok", org=world.a.org, status=200)
    account.end("ok", org=world.a.org, status=200)
    assert now() == "connected"
    rows = db.execute(
        "select event_type from public.module_events where org_id = %s and payload ->> 'provider' = 'omie'"
        " and event_type in ('integration.rejected', 'integration.accepted') order by event_type",
        (world.a.org,),
    ).fetchall()
    assert rows == [("integration.accepted",), ("integration.rejected",)]


def test_a_call_in_the_name_of_an_organisation_erased_meanwhile_gives_its_permits_back(
    account: Account,
) -> None:
    gate, call = ("one ListarOS", 1, 0), uuid4()
    account.begin(gate, call=call)
    account.end("ok", gate, call=call, org=uuid4())
    assert account.begin(gate) == ("go", 0)


def test_calls_are_forgotten_after_thirty_days_and_slots_after_one(
    account: Account, db: Connection
) -> None:
    day = 86400
    call = uuid4()
    account.begin(("1 in 60 s", 1, 60), call=call)
    account.end("ok", ("1 in 60 s", 1, 60), call=call)
    account.at(29 * day).end("ok")
    gone = Account(db).fail(5)
    account.at(29 * day)
    count = "select count(*) from app.outbound_calls where account_hash = %s"
    slots = "select count(*) from app.call_slots where account_hash = %s"
    db.execute("select app.forget_calls()")
    assert db.execute(count, (account.hash,)).fetchone() == (2,)
    assert db.execute(slots, (account.hash,)).fetchone() == (0,)
    account.at(30 * day + 61)
    assert db.execute("select app.forget_calls()").fetchone() == (6,)
    assert db.execute(count, (account.hash,)).fetchone() == (1,)
    known = "select account_hash from app.circuit_breakers where account_hash in (%s, %s)"
    assert db.execute(known, (account.hash, gone.hash)).fetchall() == [(account.hash,)]


# --- Health ---------------------------------------------------------------------------------------


def health(db: Connection, provider: str = "omie") -> tuple[Any, ...]:
    row = db.execute(
        "select state, breaker, error_rate from public.get_integration_health() where provider = %s",
        (provider,),
    ).fetchone()
    assert row is not None
    return tuple(row)


@pytest.mark.parametrize(
    ("oks", "errors", "expected"),
    [
        (0, 0, ("unknown", "closed", None)),
        (9, 1, ("up", "closed", 0.1)),
        (8, 1, ("degraded", "closed", 0.111)),
        (1, 1, ("degraded", "closed", 0.5)),
        (1, 2, ("down", "closed", 0.667)),
        (9, 5, ("down", "open", 0.357)),
    ],
)
def test_health_follows_the_last_hour_and_the_breaker(
    account: Account, db: Connection, oks: int, errors: int, expected: tuple[Any, ...]
) -> None:
    for _ in range(oks):
        account.end("ok")
    account.fail(errors)
    state, breaker, rate = health(db)
    assert (state, breaker, None if rate is None else float(rate)) == expected
    account.at(3601)
    assert health(db)[2] is None


def test_a_half_open_breaker_is_down_until_its_probe_has_an_answer_or_nobody_calls_any_more(
    account: Account, db: Connection
) -> None:
    account.fail(5).at(60)
    assert health(db) == ("down", "half_open", 1)
    account.at(4000)
    assert health(db) == ("unknown", "half_open", None)
    account.begin(call=(probe := uuid4()))
    account.end("ok", call=probe)
    assert health(db) == ("up", "closed", 0)


def test_one_account_of_several_that_is_down_makes_the_provider_degraded(
    account: Account, db: Connection
) -> None:
    Account(db).end("ok")
    account.fail(5)
    assert health(db)[:2] == ("degraded", "open")


def test_refusals_for_our_own_mistakes_are_no_errors_of_the_provider(
    account: Account, db: Connection
) -> None:
    for _ in range(3):
        account.end("give_up", status=404)
    assert health(db) == ("up", "closed", 0)


def test_the_public_answer_names_no_account_no_organisation_and_no_customer_s_server(
    account: Account, db: Connection, world: World
) -> None:
    account.end("ok", org=world.a.org)
    Account(db, "webhook").end("ok", org=world.a.org)
    with as_worker(db):
        cursor = db.execute("select * from public.get_integration_health()")
    assert [column.name for column in cursor.description or []] == [
        "provider", "title", "state", "breaker", "error_rate", "last_success_at",
    ]  # fmt: skip
    assert [row[0] for row in cursor.fetchall()] == [
        "anthropic", "bcb", "evolution", "gemini", "github", "omie", "openai", "resend", "twilio",
    ]  # fmt: skip


def test_an_organisation_sees_how_its_own_calls_went(
    account: Account, db: Connection, world: World
) -> None:
    account.end("ok", org=world.a.org)
    account.end("retry", org=world.a.org)
    for _ in range(4):
        Account(db).end("retry", org=world.b.org)
    Account(db, "webhook").fail(5).end("retry", org=world.b.org)
    shown = (
        "select state, breaker, calls, errors, last_success_at from public.list_integrations(%s)"
        " where provider = %s"
    )
    with as_member(db, world.a, "admin"):
        row = db.execute(shown, (world.a.org, "omie")).fetchone()
        assert row == ("degraded", "closed", 2, 1, START - timedelta(milliseconds=120))
        assert db.execute(shown, (world.a.org, "webhook")).fetchone() is None
        with refused("not_allowed", db):
            db.execute(shown, (world.b.org, "omie"))
    with as_member(db, world.b, "admin"):
        assert db.execute(shown, (world.b.org, "omie")).fetchone() == ("down", "closed", 4, 4, None)
        assert db.execute(shown, (world.b.org, "webhook")).fetchone() == (
            "down",
            "open",
            1,
            1,
            None,
        )
