"""What a worker makes of one job, and what its handler can rely on."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.types.json import Jsonb

from nessos import events
from nessos.errors import GiveUpError, RetryError, RuleError, WaitError
from nessos.jobs import worker
from nessos.jobs.entrypoint import Entrypoint, RetryPolicy, Task
from tests.jobs import add_job_type
from tests.people import Connection, World

AT_ONCE = RetryPolicy((0, 0))


@pytest.fixture
def db(db_url: str) -> Iterator[Connection]:
    """The owner's connection; the queue is empty."""
    with psycopg.connect(db_url, autocommit=True) as connection:
        add_job_type(connection, "test.echo", is_subscribable=True)
        connection.execute("truncate pgqueuer.pgqueuer, pgqueuer.pgqueuer_log, app.waiting_jobs")
        connection.execute("delete from event_subscriptions")
        yield connection


class Handler:
    """Does in turn what it is told, and remembers the jobs it got."""

    def __init__(self, *acts: Callable[[Task], Any]) -> None:
        self.acts = list(acts)
        self.tasks: list[Task] = []

    async def __call__(self, task: Task) -> str | None:
        self.tasks.append(task)
        if self.acts:
            said = self.acts.pop(0)(task)
            if asyncio.iscoroutine(said):
                await said
        return "done"

    def work(self, url: str, **terms: Any) -> None:
        """Run a worker until nothing is ready."""
        entrypoint = Entrypoint("test.echo", self, retry=AT_ONCE)
        worker.run(
            url,
            options=worker.Options(drain=True),
            known=[replace(entrypoint, **terms), *events.ENTRYPOINTS],
        )


def fail(error: BaseException) -> Callable[[Task], None]:
    """Make an act that raises."""

    def act(_task: Task) -> None:
        raise error

    return act


def enqueue(db: Connection, payload: object = None, org: UUID | None = None) -> int:
    row = db.execute(
        "select app.enqueue('test.echo', %s, %s)", (Jsonb({} if payload is None else payload), org)
    ).fetchone()
    assert row is not None
    return int(row[0])


def held(db: Connection) -> list[tuple[Any, ...]]:
    return db.execute("select attempts, error from app.failed_jobs(null, 0, 10)").fetchall()


def test_a_handler_knows_its_job_and_the_database_for_whom_it_works(
    db: Connection, db_url: str, world: World
) -> None:
    async def record(task: Task) -> None:
        async with task.pool.connection() as connection:
            await connection.execute(
                "select app.record_event(%s, 'data', 'event_aggregates.drifted', 'event_aggregates', null)",
                (task.org_id,),
            )

    handler = Handler(record)
    db.execute("select set_config('app.request_id', 'request-7', false)")
    event = "00000000-0000-0000-0000-000000000007"
    job = enqueue(db, {"event_id": event, "n": 1}, world.a.org)
    db.execute("select set_config('app.request_id', '', false)")
    handler.work(db_url)
    task = handler.tasks[0]
    assert (task.job_id, task.entrypoint, task.attempt) == (job, "test.echo", 1)
    assert (task.payload, task.org_id, task.request_id) == (
        {"event_id": event, "n": 1}, world.a.org, "request-7",
    )  # fmt: skip
    row = db.execute(
        "select request_id, causation_id::text, actor_kind from module_events"
        " where event_type = 'event_aggregates.drifted'"
    ).fetchone()
    assert row == ("request-7", event, "system")


def test_a_failing_job_is_tried_by_its_policy_and_then_held(db: Connection, db_url: str) -> None:
    handler = Handler(*(fail(RetryError(f"no {n}")) for n in range(3)))
    enqueue(db)
    handler.work(db_url)
    assert [task.attempt for task in handler.tasks] == [1, 2, 3]
    assert held(db) == [(3, "no 2")]


@pytest.mark.parametrize("error", [GiveUpError("never"), RuleError("never", None, None)])
def test_what_cannot_succeed_is_held_at_once(db: Connection, db_url: str, error: Exception) -> None:
    enqueue(db)
    Handler(fail(error)).work(db_url)
    assert held(db) == [(1, "never")]


def test_a_refusal_of_the_database_is_one_too(db: Connection, db_url: str) -> None:
    async def ask(task: Task) -> None:
        async with task.pool.connection() as connection:
            await connection.execute("select app.enqueue('nobody.knows', '{}')")

    enqueue(db)
    Handler(ask).work(db_url)
    assert held(db)[0][0] == 1
    assert held(db)[0][1].startswith("job_type_unknown: nobody.knows is not in the catalogue.")


def test_a_job_that_waits_comes_back_not_before_its_moment_and_loses_no_attempt(
    db: Connection, db_url: str
) -> None:
    until = datetime.now(UTC) + timedelta(seconds=1)
    handler = Handler(*(fail(WaitError("later", until)) for _ in range(2)))
    moments: list[datetime] = []
    handler.acts.append(lambda _task: moments.append(datetime.now(UTC)))
    enqueue(db)
    handler.work(db_url)
    assert {task.attempt for task in handler.tasks} == {1}
    assert moments[0] >= until
    assert held(db) == []


def test_a_job_that_is_told_to_wait_for_more_than_a_day_is_held(
    db: Connection, db_url: str
) -> None:
    job = enqueue(db)
    db.execute(
        "update pgqueuer.pgqueuer set headers = headers || jsonb_build_object('waits_since', now() - interval '25 hours')"
        " where id = %s",
        (job,),
    )
    Handler(fail(WaitError("later", datetime.now(UTC)))).work(db_url)
    assert held(db)[0][1].startswith("later")


def test_a_job_beyond_its_time_limit_is_stopped_and_tried_again(
    db: Connection, db_url: str
) -> None:
    stopped: list[bool] = []

    async def hang(_task: Task) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.append(True)
            raise

    enqueue(db)
    handler = Handler(hang)
    handler.work(db_url, timeout_s=0.1)
    assert (stopped, len(handler.tasks), held(db)) == ([True], 2, [])


def test_a_handler_that_cancels_itself_loses_no_job(db: Connection, db_url: str) -> None:
    enqueue(db)
    handler = Handler(*(fail(asyncio.CancelledError()) for _ in range(3)))
    handler.work(db_url)
    assert held(db) == [(3, "the handler cancelled itself")]


@pytest.mark.parametrize("payload", [[], "text", 7])
def test_a_job_that_cannot_be_read_is_held(db: Connection, db_url: str, payload: object) -> None:
    enqueue(db, payload)
    Handler().work(db_url)
    assert held(db) == [(1, "the job's payload is not a JSON object")]


def test_secrets_in_an_error_are_not_stored(db: Connection, db_url: str) -> None:
    enqueue(db)
    Handler(fail(GiveUpError("no ana@cliente.example with nos_0123abc"))).work(db_url)
    assert held(db) == [(1, "no [redacted] with [redacted]")]
    row = db.execute(
        "select count(*) from pgqueuer.pgqueuer_log where traceback::text ~ 'ana@|nos_'"
    ).fetchone()
    assert row == (0,)


def test_a_subscribed_job_runs_with_the_event_that_matched(
    db: Connection, db_url: str, world: World
) -> None:
    db.execute(
        "insert into event_subscriptions (org_id, pattern, handler, config)"
        """ values (%s, 'data.event_aggregates.*', 'job', '{"entrypoint": "test.echo"}')""",
        (world.a.org,),
    )
    row = db.execute(
        "select app.record_event(%s, 'data', 'event_aggregates.drifted', 'event_aggregates', null, '{\"drift\": 3}')",
        (world.a.org,),
    ).fetchone()
    assert row is not None
    handler = Handler()
    handler.work(db_url)
    (task,) = handler.tasks
    assert (task.org_id, task.payload["event_id"]) == (world.a.org, str(row[0]))
    assert (task.payload["event_type"], task.payload["payload"]) == (
        "event_aggregates.drifted", {"drift": 3},
    )  # fmt: skip


def test_bulk_work_is_drained_to_the_end(db: Connection, db_url: str) -> None:
    db.execute(
        "select app.enqueue_bulk('test.echo', array(select jsonb_build_object('n', n) from generate_series(1, 700) n))"
    )
    handler = Handler()
    handler.work(db_url)
    assert sorted(task.payload["n"] for task in handler.tasks) == list(range(1, 701))
