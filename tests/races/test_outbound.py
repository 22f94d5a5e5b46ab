"""Four processes that call one account of a service: its rate, its breaker and its turns are one."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from nessos.errors import DatabaseError, WaitError
from nessos.http import Http, Provider
from nessos.settings import ROOT
from tests.integrations.caller import Plan
from tests.integrations.fakes.server import Answer, FakeServer, Seen
from tests.integrations.outside import open_http, open_pool

PROCESSES = 4
NOON, AFTER_A_MINUTE = "2026-03-02T12:00:00Z", "2026-03-02T12:01:01Z"

Process = subprocess.Popen[str]


@contextmanager
def callers(plan: Plan, *, number: int = PROCESSES) -> Iterator[list[Process]]:
    """Run processes that all follow the plan, until the end of the block at the latest."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.integrations.caller", plan.text()],
            cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )
        for _ in range(number)
    ]  # fmt: skip
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def lines(process: Process, number: int) -> list[Any]:
    """Wait for so many calls of a process to end; gives what became of each."""
    assert process.stdout is not None
    return [json.loads(process.stdout.readline()) for _ in range(number)]


def run(plan: Plan) -> list[Any]:
    """Run the processes to their end; gives what became of each call."""
    with callers(plan) as started:
        return [line for process in started for line in lines(process, plan.calls)]


def test_no_period_ever_sees_more_calls_than_any_rate_lets_through(db_url: str) -> None:
    with FakeServer() as server:
        said = run(
            Plan(db_url, server.url, calls=12, at_once=6, rates=[(5, 0.4), (8, 1.0)],
                 options={"account": "rated"})
        )  # fmt: skip
    assert said == [200] * 48
    assert len(server.journal) == 48
    assert server.most_within(0.4) <= 5
    assert server.most_within(1.0) <= 8


def test_without_a_rate_the_same_processes_are_faster(db_url: str) -> None:
    with FakeServer() as server:
        run(Plan(db_url, server.url, calls=12, at_once=6, options={"account": "free"}))
    assert server.most_within(1.0) > 8, (
        "the control must break the rate, or the test above proves nothing"
    )


def test_one_at_a_time_holds_over_processes(db_url: str) -> None:
    with FakeServer(lambda _: Answer(delay_s=0.01)) as server:
        said = run(
            Plan(db_url, server.url, calls=6, at_once=3, options={"account": "turns", "serialize": "ListarOS"})
        )  # fmt: skip
        assert (said, server.most_at_once()) == ([200] * 24, 1)


def test_without_turns_the_same_processes_overlap(db_url: str) -> None:
    met = Event()

    def answer(seen: Seen) -> Answer:
        if seen.number >= 2:
            met.set()
        return Answer(until=met)

    with FakeServer(answer) as server:
        run(Plan(db_url, server.url, calls=6, at_once=3, options={"account": "no turns"}))
        assert server.most_at_once() > 1


def test_other_words_and_other_accounts_have_turns_of_their_own(db_url: str) -> None:
    met = Event()

    def answer(seen: Seen) -> Answer:
        if seen.number == 3:
            met.set()
        return Answer(until=met)

    async def calls(url: str) -> list[int]:
        async with open_http(db_url) as http:
            answers = await asyncio.gather(
                http.request(Provider("webhook"), "GET", url, account="one", serialize="A"),
                http.request(Provider("webhook"), "GET", url, account="one", serialize="B"),
                http.request(Provider("webhook"), "GET", url, account="two", serialize="A"),
            )
        return [one.status_code for one in answers]

    with FakeServer(answer) as server:
        assert asyncio.run(calls(server.url)) == [200] * 3


def test_the_fifth_failure_opens_the_breaker_for_all_and_one_call_probes_it(db_url: str) -> None:
    answered = Event()
    plan = Plan(db_url, "", calls=10, now=NOON, max_wait_s=0, options={"account": "broken"})

    with FakeServer(lambda _: Answer(503)) as server:
        plan.url = server.url
        with callers(plan) as started:
            said = [lines(process, 10) for process in started]
        # Those already under way when the fifth failed, one per process, are all that came besides.
        assert 5 <= len(server.journal) <= 5 + PROCESSES - 1
    assert sum(one.startswith("RetryError") for each in said for one in each) == len(server.journal)
    assert [each[-1] for each in said] == ["WaitError: webhook : the circuit is open"] * PROCESSES

    with FakeServer(lambda _: Answer(until=answered)) as server:
        plan.url, plan.now, plan.calls, plan.at_once = server.url, AFTER_A_MINUTE, 5, 5
        with callers(plan) as started:
            server.wait_for(1)
            # The probe hangs in one of the processes; everybody else's calls are refused at once.
            refused = [each for process in started for each in lines(process, 4)]
            assert (
                refused
                == ["WaitError: webhook : one call is finding out whether it works again"] * 16
            )
            assert len(server.journal) == 1
            answered.set()
            last = [each for process in started for each in lines(process, 1)]
        assert last.count(200) >= 1
        assert set(last) <= {200, refused[0]}


def test_after_the_probe_s_success_all_calls_pass_again(own_db_url: str) -> None:
    with FakeServer() as server:
        server.faults.extend(Answer(500) for _ in range(5))
        plan = Plan(own_db_url, server.url, calls=5, now=NOON, max_wait_s=0)
        with callers(plan, number=1) as started:
            lines(started[0], 5)
        plan.now, plan.calls = AFTER_A_MINUTE, 1
        with callers(plan, number=1) as started:
            assert lines(started[0], 1) == [200]
        plan.calls = 5
        assert run(plan) == [200] * 20
    assert len(server.journal) == 5 + 1 + 20


def test_the_turn_of_a_process_that_is_killed_comes_free_with_its_lease(db_url: str) -> None:
    never = Event()
    options: dict[str, Any] = {"account": "killed", "serialize": "ListarClientes", "timeout_s": 20}

    async def call(url: str, now: str) -> int:
        provider = Provider("webhook", max_wait_s=0)
        async with open_http(db_url, now=now) as http:
            return (await http.request(provider, "GET", url, **options)).status_code

    with FakeServer() as server:
        server.faults.append(Answer(until=never))
        plan = Plan(db_url, server.url, now=NOON, options=options)
        with callers(plan, number=1) as started:
            server.wait_for(1)
            started[0].send_signal(signal.SIGKILL)
            started[0].wait()
        with pytest.raises(WaitError):
            asyncio.run(call(server.url, "2026-03-02T12:00:24Z"))
        assert len(server.journal) == 1
        assert asyncio.run(call(server.url, "2026-03-02T12:00:25Z")) == 200
        never.set()


def test_a_call_that_is_cancelled_gives_its_turn_back_at_once(db_url: str) -> None:
    options: dict[str, Any] = {"account": "cancelled", "serialize": "ListarClientes"}

    async def calls(server: FakeServer) -> int:
        provider = Provider("webhook", max_wait_s=0)
        async with open_http(db_url, now=NOON) as http:
            first = asyncio.create_task(
                http.request(provider, "GET", server.url, operation="cut", **options)
            )
            await asyncio.to_thread(server.wait_for, 1)
            first.cancel()
            await asyncio.wait([first])
            return (await http.request(provider, "GET", server.url, **options)).status_code

    with FakeServer() as server:
        server.faults.append(Answer(until=server.stopped))
        assert asyncio.run(calls(server)) == 200
    with psycopg.connect(db_url, row_factory=dict_row) as db:
        row = db.execute(
            "select outcome, error_kind, status from app.outbound_calls where operation = 'cut'"
        ).fetchone()
    assert row == {"outcome": "cancelled", "error_kind": None, "status": None}


def test_an_answer_is_not_lost_when_the_database_cannot_note_it(own_db_url: str) -> None:
    def hang_up(_: Seen) -> Answer:
        with psycopg.connect(own_db_url, autocommit=True) as db:
            db.execute("alter function app.note_outcome rename to elsewhere")
        return Answer(body="done")

    async def call(url: str) -> str:
        async with open_http(own_db_url) as http:
            return (await http.request(Provider("webhook"), "POST", url)).text

    with FakeServer(hang_up) as server:
        assert asyncio.run(call(server.url)) == "done"


def test_while_the_database_is_away_nothing_is_sent(db_url: str) -> None:
    async def call(url: str) -> None:
        async with open_pool(db_url) as pool:
            http = Http(pool)
            await pool.close()
            await http.request(Provider("webhook"), "GET", url)

    with FakeServer() as server:
        with pytest.raises(DatabaseError):
            asyncio.run(call(server.url))
        assert server.journal == []
