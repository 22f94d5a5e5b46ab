"""The ledger of language models, their prices, and budgets, on a clock that is set."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg.types.json import Jsonb

from tests.people import Connection, World, as_member, denied, refused, set_clock

START = datetime(2026, 3, 10, 15, tzinfo=UTC)
ANSWER = {"text": "Certo.", "tool_calls": [], "finish": "stop"}


@pytest.fixture
def ledger(db: Connection, world: World) -> Iterator["Ledger"]:
    """The ledger of organisation a, at noon in São Paulo of 10 March, a dollar at R$ 5."""
    set_clock(db, START)
    db.execute(
        "insert into public.bcb_rates_snapshot (series, date, buy, sell) values ('USD', '2026-03-09', 4.99, 5)"
    )
    yield Ledger(db, world.a.org)
    set_clock(db, None)


class Ledger:
    """Calls of gpt-4o by one organisation: R$ 0.0125 per 1,000 tokens sent, R$ 0.05 per 1,000 written."""

    def __init__(self, db: Connection, org: UUID) -> None:
        self.db, self.org = db, org

    def begin(
        self, *, agent: UUID | None = None, prompt: int = 0, written: int = 20_000, key: str | None = None,
        lease_s: float = 100,
    ) -> tuple[str, UUID]:  # fmt: skip
        """Ask for a call that may cost R$ 1; gives the verdict and its id."""
        call = uuid4()
        verdict, reply = self.one(
            "select verdict, reply from app.begin_ai_call(%s, %s, 'scoring', 'openai', 'gpt-4o', %s, %s, %s, %s, %s, %s, %s)",
            (self.org, call, agent, prompt, prompt, written, lease_s, key, Jsonb([])),
        )
        return verdict, UUID(reply["call_id"]) if reply else call

    def settle(  # noqa: PLR0913 - what there is to say
        self, call: UUID, *, written: int = 20_000, prompt: int = 0, cached: int = 0, status: str = "succeeded",
        served: str | None = "gpt-4o-2024-08-06",
    ) -> Decimal:  # fmt: skip
        """Book a call that has cost R$ 1; gives what it has cost."""
        (cost,) = self.one(
            "select app.settle_ai_call(%s, %s, %s, %s, 'req_1', %s, %s, %s, false, 900, %s, null)",
            (self.org, call, status, served, prompt, cached, written, Jsonb(ANSWER)),
        )
        return Decimal(cost)

    def spend(self, times: int = 1, **options: Any) -> None:
        """Make calls that cost R$ 1 each."""
        for _ in range(times):
            verdict, call = self.begin(**options)
            assert verdict == "go"
            self.settle(call)

    def budget(self, limit: int | str, period: str = "day", agent: UUID | None = None) -> UUID:
        """Set a budget."""
        (row,) = self.one(
            "insert into public.ai_budgets (org_id, period, limit_brl, agent_id) values (%s, %s, %s, %s) returning id",
            (self.org, period, limit, agent),
        )
        return UUID(str(row))

    def status(self, budget: UUID) -> tuple[Any, Any]:
        """Return what is spent and reserved."""
        spent, reserved = self.one(
            "select spent_brl, reserved_brl from public.ai_budget_status where budget_id = %s",
            (budget,),
        )
        return spent, reserved

    def told(self, template: str) -> int:
        """Return how often an admin was told something."""
        (count,) = self.one(
            "select count(*) from public.notifications where org_id = %s and template = %s and recipient_id ="
            " (select user_id from public.memberships where org_id = %s and role = 'admin')",
            (self.org, template, self.org),
        )
        return int(count)

    def one(self, statement: str, parameters: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        """Return the one row of a statement."""
        row = self.db.execute(statement, parameters).fetchone()
        assert row is not None
        return tuple(row)


def test_only_known_purposes_have_routes(db: Connection) -> None:
    with refused("ai_purpose_unknown") as answer:
        db.execute("select * from app.find_ai_routes('poetry')")
    assert "reasoning" in answer.hint


def test_the_routes_are_those_of_the_design_in_its_order(db: Connection) -> None:
    rows = db.execute(
        "select r.purpose, array_agg(m.provider order by r.ordinal) from public.ai_routes as r"
        " join public.ai_models as m using (model) group by r.purpose"
    ).fetchall()
    assert dict(rows) == {
        "reasoning": ["anthropic", "openai", "gemini"],
        "scoring": ["openai", "anthropic", "gemini"],
        "extraction": ["openai", "gemini"],
        "long_context": ["gemini", "openai"],
        "embedding": ["openai"],
    }


def test_an_answer_that_is_no_longer_kept_is_not_asked_for_again(ledger: Ledger) -> None:
    ledger.spend(key="k")
    ledger.db.execute("update public.ai_calls set input = null, output = null")
    with refused("ai_answer_forgotten"):
        ledger.begin(key="k")


# --- Prices ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "served", "day", "tokens", "usd"),
    [
        ("gpt-4o", "gpt-4o-2024-08-06", "2026-03-10", (1_000_000, 0, 0), "2.5"),
        ("gpt-4o", "gpt-4o-2024-08-06", "2026-03-10", (1_000_000, 400_000, 100_000), "3.0"),
        ("gpt-4o-mini", "gpt-4o-mini-2024-07-18", "2026-03-10", (1_000_000, 0, 1_000_000), "0.75"),
        ("gpt-4o", "gpt-4o-mini-2024-07-18", "2026-03-10", (1_000_000, 0, 0), "0.15"),
        ("gpt-4o", "something-else", "2026-03-10", (1_000_000, 0, 0), "2.5"),
        ("gpt-4o", None, "2026-03-10", (1_000_000, 0, 0), "2.5"),
        ("own-model", "own-model", "2026-03-10", (1_000_000, 0, 1_000_000), "0"),
        ("claude-sonnet-5", "claude-sonnet-5-20260601", "2026-08-31", (0, 0, 1_000_000), "10"),
        ("claude-sonnet-5", "claude-sonnet-5-20260601", "2026-09-01", (0, 0, 1_000_000), "15"),
        ("gemini-2.5-pro", "gemini-2.5-pro", "2026-03-10", (200_000, 0, 0), "0.25"),
        ("gemini-2.5-pro", "gemini-2.5-pro", "2026-03-10", (200_001, 0, 0), "0.5000025"),
        ("claude-haiku-4-5", "claude-haiku-4-5", "2026-03-10", (1_000_000, 1_000_000, 0), "1"),
    ],
)  # fmt: skip
def test_a_call_is_priced_by_the_model_that_served_it_on_that_day(  # noqa: PLR0913, PLR0917 - the columns of the table
    db: Connection, asked: str, served: str | None, day: str, tokens: tuple[int, int, int], usd: str
) -> None:
    row = db.execute(
        "select app.price_ai_call(%s, %s, %s, %s, %s, %s)", (asked, served, day, *tokens)
    ).fetchone()
    assert row is not None
    assert row[0] == Decimal(usd)


def test_a_cost_keeps_the_rate_it_was_converted_with(ledger: Ledger) -> None:
    _, call = ledger.begin()
    assert ledger.settle(call) == 1
    assert ledger.one("select cost_usd, ptax from public.ai_calls where id = %s", (call,)) == (
        Decimal("0.2"), Decimal(5),
    )  # fmt: skip


def test_an_old_rate_is_better_than_none(ledger: Ledger) -> None:
    set_clock(ledger.db, START + timedelta(days=20))
    _, call = ledger.begin()
    assert ledger.settle(call) == 1


def test_without_any_rate_the_setting_counts_and_no_rate_is_noted(ledger: Ledger) -> None:
    ledger.db.execute("delete from public.bcb_rates_snapshot")
    ledger.db.execute(
        """update public.organizations set settings = '{"ai_usd_brl": 7}' where id = %s""", (ledger.org,)
    )  # fmt: skip
    _, call = ledger.begin()
    assert ledger.settle(call) == Decimal("1.4")
    assert ledger.one("select ptax from public.ai_calls where id = %s", (call,)) == (None,)


# --- Budgets --------------------------------------------------------------------------------------


def test_what_a_call_may_cost_is_reserved_before_and_settled_after(ledger: Ledger) -> None:
    budget = ledger.budget(10)
    _, call = ledger.begin(prompt=80_000)
    assert ledger.status(budget) == (0, 2)
    ledger.settle(call, written=10_000)
    assert ledger.status(budget) == (Decimal("0.5"), 0)


def test_settling_twice_books_once(ledger: Ledger) -> None:
    budget = ledger.budget(10)
    _, call = ledger.begin()
    assert [ledger.settle(call), ledger.settle(call, written=40_000)] == [1, 1]
    assert ledger.status(budget) == (1, 0)


def test_at_the_limit_nothing_begins_and_what_is_under_way_is_waited_for(ledger: Ledger) -> None:
    budget = ledger.budget(3)
    ledger.spend(2)
    verdict, call = ledger.begin()
    assert verdict == "go"
    assert ledger.begin()[0] == "wait"
    ledger.settle(call, written=0)
    assert ledger.begin()[0] == "go"
    assert ledger.status(budget) == (2, 1)


def test_a_used_up_budget_refuses_until_its_period_is_over(ledger: Ledger) -> None:
    ledger.budget(2)
    ledger.spend(2)
    assert ledger.begin()[0] == "limit"
    # 23:59 in São Paulo, then midnight.
    set_clock(ledger.db, datetime(2026, 3, 11, 2, 59, tzinfo=UTC))
    assert ledger.begin()[0] == "limit"
    set_clock(ledger.db, datetime(2026, 3, 11, 3, 0, tzinfo=UTC))
    assert ledger.begin()[0] == "go"


def test_a_month_is_cut_in_the_organisations_time_zone(ledger: Ledger) -> None:
    ledger.db.execute(
        "update public.organizations set time_zone = 'Asia/Tokyo' where id = %s", (ledger.org,)
    )
    ledger.budget(1, "month")
    set_clock(ledger.db, datetime(2026, 3, 31, 14, 59, tzinfo=UTC))
    ledger.spend()
    assert ledger.begin()[0] == "limit"
    set_clock(ledger.db, datetime(2026, 3, 31, 15, 0, tzinfo=UTC))
    assert ledger.begin()[0] == "go"
    (day,) = ledger.one("select max(charged_on) from public.ai_calls")
    assert day == date(2026, 4, 1)


def test_a_call_is_booked_on_the_day_it_began(ledger: Ledger) -> None:
    budget = ledger.budget(10)
    _, call = ledger.begin()
    set_clock(ledger.db, START + timedelta(days=1))
    ledger.spend()
    ledger.settle(call)
    rows = ledger.db.execute(
        "select starts_on, spent_brl, reserved_brl from public.ai_budget_periods where budget_id = %s order by 1",
        (budget,),
    ).fetchall()
    assert rows == [(date(2026, 3, 10), 1, 0), (date(2026, 3, 11), 1, 0)]


def test_a_budget_counts_what_was_spent_and_reserved_before_it_was_set(ledger: Ledger) -> None:
    ledger.spend(2)
    _, call = ledger.begin()
    day, month = ledger.budget(10), ledger.budget(10, "month")
    ledger.spend()
    assert ledger.status(day) == ledger.status(month) == (3, 1)
    ledger.settle(call)
    assert ledger.status(day) == ledger.status(month) == (4, 0)


def test_an_agents_budget_stops_that_agent_alone(ledger: Ledger) -> None:
    one, other = uuid4(), uuid4()
    ledger.budget(1, agent=one)
    whole = ledger.budget(3)
    ledger.spend(agent=one)
    assert ledger.begin(agent=one)[0] == "limit"
    ledger.spend(agent=other)
    ledger.spend()
    assert ledger.status(whole) == (3, 0)
    assert ledger.begin(agent=other)[0] == "limit"


def test_a_budget_of_nothing_sends_nothing(ledger: Ledger) -> None:
    ledger.budget(0)
    assert ledger.begin()[0] == "limit"


def test_another_organisations_calls_are_not_counted(ledger: Ledger, world: World) -> None:
    budget = ledger.budget(10)
    Ledger(ledger.db, world.b.org).spend(3)
    assert ledger.begin()[0] == "go"
    assert ledger.status(budget) == (0, 1)


def test_a_raised_limit_counts_at_once(ledger: Ledger) -> None:
    budget = ledger.budget(1)
    ledger.spend()
    assert ledger.begin()[0] == "limit"
    ledger.db.execute("update public.ai_budgets set limit_brl = 2 where id = %s", (budget,))
    assert ledger.begin()[0] == "go"


# --- Telling --------------------------------------------------------------------------------------


def test_admins_are_told_once_that_a_budget_is_nearly_used_up(ledger: Ledger) -> None:
    ledger.budget(10)
    ledger.spend(7)
    assert ledger.told("ai_budget_alert") == 0
    ledger.spend()
    assert ledger.told("ai_budget_alert") == 1
    ledger.spend()
    assert ledger.told("ai_budget_alert") == 1
    set_clock(ledger.db, START + timedelta(days=1))
    ledger.spend(8)
    assert ledger.told("ai_budget_alert") == 2


def test_admins_are_told_once_a_day_that_it_cost_120_pct_of_the_daily_plan(ledger: Ledger) -> None:
    # 31 days: the plan is R$ 5 a day.
    ledger.budget(155, "month")
    ledger.spend(5)
    assert ledger.told("ai_plan_exceeded") == 0
    ledger.spend(2)
    assert ledger.told("ai_plan_exceeded") == 1
    set_clock(ledger.db, START + timedelta(days=1))
    ledger.spend(5)
    assert ledger.told("ai_plan_exceeded") == 1
    ledger.spend()
    assert ledger.told("ai_plan_exceeded") == 2


def test_a_failure_is_told_once_a_day(ledger: Ledger) -> None:
    for _ in range(2):
        ledger.one("select app.tell_ai_failure(%s, 'ai_unavailable', 'scoring')", (ledger.org,))
    assert ledger.told("ai_unavailable") == 1


# --- Keys and crashes -----------------------------------------------------------------------------


def test_the_same_key_is_answered_and_paid_once(ledger: Ledger) -> None:
    budget = ledger.budget(10)
    verdict, call = ledger.begin(key="k")
    assert verdict == "go"
    assert ledger.begin(key="k")[0] == "wait"
    ledger.settle(call)
    assert ledger.begin(key="k") == ("done", call)
    assert ledger.status(budget) == (1, 0)


def test_a_key_is_answered_even_when_the_budget_is_used_up(ledger: Ledger) -> None:
    ledger.budget(1)
    ledger.spend(key="k")
    assert ledger.begin(key="k")[0] == "done"
    assert ledger.begin(key="other")[0] == "limit"


@pytest.mark.parametrize("status", ["failed", "rejected"])
def test_a_key_whose_call_brought_no_answer_is_asked_again(ledger: Ledger, status: str) -> None:
    _, call = ledger.begin(key="k")
    ledger.settle(call, status=status)
    assert ledger.begin(key="k")[0] == "go"


def test_a_key_of_another_organisation_is_another(ledger: Ledger, world: World) -> None:
    ledger.spend(key="k")
    assert Ledger(ledger.db, world.b.org).begin(key="k")[0] == "go"


def test_the_timetable_gives_back_what_a_dead_process_reserved(ledger: Ledger) -> None:
    budget = ledger.budget(10)
    _, call = ledger.begin(prompt=80_000, lease_s=60)
    assert ledger.one("select app.repair_ai_calls()") == (0,)
    set_clock(ledger.db, START + timedelta(seconds=60))
    assert ledger.one("select app.repair_ai_calls()") == (1,)
    # The provider has most likely read the prompt.
    assert ledger.status(budget) == (1, 0)
    assert ledger.one("select status, is_estimated from public.ai_calls where id = %s", (call,)) == ("lost", True)  # fmt: skip


def test_the_next_call_need_not_wait_for_the_timetable(ledger: Ledger) -> None:
    ledger.budget(1)
    ledger.begin(lease_s=60, key="k")
    assert ledger.begin()[0] == "wait"
    set_clock(ledger.db, START + timedelta(seconds=60))
    assert ledger.begin(key="k")[0] == "go"


def test_a_process_that_was_only_slow_puts_its_lost_call_right(ledger: Ledger) -> None:
    budget = ledger.budget(10)
    _, call = ledger.begin(prompt=80_000, lease_s=60, key="k")
    set_clock(ledger.db, START + timedelta(seconds=60))
    ledger.spend(key="k")
    assert ledger.settle(call, prompt=160_000, written=0) == 2
    assert ledger.status(budget) == (3, 0)


def test_texts_are_kept_90_days_and_numbers_two_years(ledger: Ledger) -> None:
    ledger.spend()
    set_clock(ledger.db, START + timedelta(days=89))
    ledger.spend()
    set_clock(ledger.db, START + timedelta(days=91))
    assert ledger.one("select app.forget_ai_calls()") == (1,)
    assert ledger.one("select count(*), count(output), sum(cost_brl) from public.ai_calls") == (2, 1, 2)  # fmt: skip
    set_clock(ledger.db, START + timedelta(days=900))
    ledger.db.execute("select app.run_retention()")
    assert ledger.one("select count(*) from public.ai_calls") == (0,)


# --- Access ---------------------------------------------------------------------------------------


def test_directors_set_budgets_and_others_do_not_see_them(ledger: Ledger, world: World) -> None:
    with as_member(ledger.db, world.a, "director"):
        ledger.budget(5)
    with as_member(ledger.db, world.a, "sales"):
        assert ledger.one("select count(*) from public.ai_budgets") == (0,)
        with denied():
            ledger.budget(5, "month")


def test_nobody_of_an_organisation_changes_models_prices_and_routes(db: Connection, world: World) -> None:  # fmt: skip
    with as_member(db, world.a, "owner"):
        for statement in (
            "update public.ai_model_prices set input_usd = 0",
            "delete from public.ai_routes",
            "update public.ai_models set context_tokens = 1",
        ):
            with denied():
                db.execute(statement)


def test_usage_sums_up_what_was_spent_per_day_and_model(ledger: Ledger, world: World) -> None:
    ledger.spend(2)
    _, call = ledger.begin()
    ledger.settle(call, status="failed", written=0, served=None)
    ledger.begin()
    with as_member(ledger.db, world.a, "director"):
        rows = ledger.db.execute(
            "select used_on, model, calls, failed, completion_tokens, cost_brl from public.ai_usage order by model"
        ).fetchall()
    assert rows == [
        (date(2026, 3, 10), "gpt-4o", 1, 1, 0, 0),
        (date(2026, 3, 10), "gpt-4o-2024-08-06", 2, 0, 40_000, 2),
    ]
