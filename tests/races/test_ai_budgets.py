"""Budgets of language models among many processes: all together pass a limit by less than one call."""

import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from nessos.settings import ROOT
from tests.integrations.asker import Plan
from tests.integrations.fakes.llm import FakeModels, Say
from tests.integrations.fakes.server import Answer
from tests.people import World

PRICE = Decimal("0.06")
"""What a call costs: 1,000 tokens written by gpt-4o at USD 10 per million, a dollar at R$ 6."""


@pytest.fixture
def models() -> Iterator[FakeModels]:
    with FakeModels() as models:
        models.respond = lambda _: Say("Sete.", usage=(0, 1000))
        yield models


class Company:
    """Organisation a, and processes that ask for it."""

    def __init__(self, url: str, world: World, models: FakeModels) -> None:
        self.url, self.org = url, world.a.org
        self.environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'py'}:{ROOT}",
            "NESSOS_OPENAI_API_KEY": "sk-fake",
            "NESSOS_OPENAI_URL": f"{models.url}/v1",
            "NESSOS_AI_REQUESTS_PER_MINUTE": "1000",
            "NESSOS_AI_TIMEOUT_S": "60",
        }

    def limit(self, brl: Decimal) -> None:
        """Set the budget of the day."""
        with psycopg.connect(self.url) as db:
            db.execute(
                "insert into public.ai_budgets (org_id, period, limit_brl) values (%s, 'day', %s)", (self.org, brl)
            )  # fmt: skip

    def start(self, calls: int, key: str | None = None) -> subprocess.Popen[str]:
        """Start a process that asks."""
        plan = Plan(self.url, str(self.org), calls, key)
        return subprocess.Popen(
            [sys.executable, "-m", "tests.integrations.asker", plan.text()],
            env=self.environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def one(self, statement: str) -> tuple[Any, ...]:
        """Return the one row of a statement."""
        with psycopg.connect(self.url) as db:
            row = db.execute(statement).fetchone()
        assert row is not None
        return tuple(row)


@pytest.fixture
def company(own_db_url: str, world: World, models: FakeModels) -> Company:
    return Company(own_db_url, world, models)


def ends(processes: list[subprocess.Popen[str]]) -> Counter[str]:
    """Return how the calls of processes ended."""
    said: Counter[str] = Counter()
    for process in processes:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        said.update(json.loads(line) for line in out.splitlines() if line.startswith('"'))
    return said


def test_200_calls_at_once_pass_the_limit_by_less_than_one_call(
    company: Company, models: FakeModels
) -> None:
    limit = PRICE * 40
    company.limit(limit)
    said = ends([company.start(50) for _ in range(4)])
    assert sum(said.values()) == 200
    assert said["answered"] == len(models.asked) > 0
    (spent, reserved) = company.one("select spent_brl, reserved_brl from public.ai_budget_periods")
    assert reserved == 0
    assert spent == said["answered"] * PRICE
    assert spent < limit + PRICE
    # Whoever comes until the rest is spent is served, and then nobody is.
    while said["answered"] < 40:
        said += ends([company.start(20)])
    assert ends([company.start(20)]) == {"budget": 20}
    (spent, total) = company.one(
        "select (select spent_brl from public.ai_budget_periods), (select sum(cost_brl) from public.ai_calls)"
    )
    assert limit <= spent == total < limit + PRICE


def test_what_a_killed_process_reserved_is_given_back(company: Company, models: FakeModels) -> None:
    company.limit(PRICE * 3)
    models.script(Answer(until=models.stopped))
    process = company.start(1, key="turn")
    try:
        models.wait_for(1)
    finally:
        process.kill()
        process.communicate()
    assert company.one("select status from public.ai_calls") == ("reserved",)
    (reserved,) = company.one("select reserved_brl from public.ai_budget_periods")
    assert reserved > PRICE
    assert ends([company.start(1, key="turn")]) == {"wait": 1}
    # The lease has run out: the same key is asked again, and its first call is a lost one.
    with psycopg.connect(company.url) as db:
        db.execute("update public.ai_calls set expires_at = now()")
    assert ends([company.start(1, key="turn")]) == {"answered": 1}
    assert company.one("select array_agg(status order by created_at) from public.ai_calls") == (["lost", "succeeded"],)  # fmt: skip
    (reserved, spent) = company.one("select reserved_brl, spent_brl from public.ai_budget_periods")
    assert reserved == 0
    assert PRICE <= spent < PRICE * 2


def test_one_key_asked_by_many_processes_is_answered_and_paid_once(
    company: Company, models: FakeModels
) -> None:
    said = ends([company.start(10, key="turn") for _ in range(3)])
    assert set(said) <= {"answered", "wait"}
    assert said["answered"] >= 1
    assert len(models.asked) == 1
    assert company.one("select count(*), sum(cost_brl) from public.ai_calls") == (1, PRICE)


def test_a_budget_set_while_calls_are_under_way_counts_them(
    company: Company, models: FakeModels
) -> None:
    models.script(Answer(until=models.stopped))
    process = company.start(1)
    with contextlib.ExitStack() as stack:
        stack.callback(process.communicate)
        stack.callback(process.kill)
        models.wait_for(1)
        company.limit(PRICE * 100)
        assert ends([company.start(2)]) == {"answered": 2}
        (spent, reserved) = company.one(
            "select spent_brl, reserved_brl from public.ai_budget_periods"
        )
        assert spent == PRICE * 2
        assert reserved > PRICE
