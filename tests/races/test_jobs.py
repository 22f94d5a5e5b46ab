"""Sessions that enqueue, retry and release the same jobs at once."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.jobs import add_job_type
from tests.people import Connection, World, as_member

EVERYTHING = (
    "select count(*) from (select dedupe_key from app.waiting_jobs"
    " union all select dedupe_key from pgqueuer.pgqueuer) as k"
)


@pytest.fixture
def url(db_url: str) -> str:
    """A database with a job that no worker knows, and an empty queue."""
    with psycopg.connect(db_url) as connection:
        add_job_type(connection, "test.echo")
        connection.execute("truncate pgqueuer.pgqueuer, app.waiting_jobs, app.job_slices")
    return db_url


@pytest.fixture
def observer(url: str) -> Iterator[Connection]:
    """Somebody who looks on."""
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def one(db: Connection, query: str, *parameters: Any) -> Any:
    row = db.execute(query, parameters).fetchone()
    assert row is not None
    return row[0]


def while_it_waits(observer: Connection, act: Callable[[], Any], then: Callable[[], Any]) -> Any:
    """Start an act that must wait for a lock, do something else meanwhile, and give the act's result."""
    with ThreadPoolExecutor(1) as thread:
        waiting: Future[Any] = thread.submit(act)
        while not one(observer, "select count(*) from pg_locks where not granted"):
            assert not waiting.done(), f"did not wait: {waiting.exception() or waiting.result()}"
        then()
        return waiting.result()


@pytest.mark.parametrize("ending", ["commit", "rollback"])
@pytest.mark.parametrize(
    ("first", "second"), [("0", "1 day"), ("1 day", "0"), ("1 day", "1 day"), ("0", "0")]
)
def test_a_dedupe_key_holds_between_transactions_that_do_not_see_each_other(
    url: str, observer: Connection, first: str, second: str, ending: str
) -> None:
    enqueue = "select app.enqueue('test.echo', '{}', null, 'k', %s)"
    with psycopg.connect(url) as one_side, psycopg.connect(url, autocommit=True) as other_side:
        assert one(one_side, enqueue, first) is not None
        job = while_it_waits(
            observer,
            lambda: one(other_side, enqueue, second),
            getattr(one_side, ending),
        )
    assert (job is None) == (ending == "commit")
    assert one(observer, EVERYTHING) == 1


def test_a_key_is_given_once_however_many_ask_at_once(url: str, observer: Connection) -> None:
    ready = threading.Barrier(8)

    def ask(number: int) -> int:
        with psycopg.connect(url, autocommit=True) as connection:
            ready.wait()
            return sum(
                one(
                    connection,
                    "select app.enqueue('test.echo', '{}', null, 'k' || %s, %s)",
                    key,
                    "1 day" if (key + number) % 2 else "0",
                )
                is not None
                for key in range(100)
            )

    with ThreadPoolExecutor(8) as threads:
        given = sum(threads.map(ask, range(8)))
    assert given == one(observer, EVERYTHING) == 100


def hold(db: Connection, world: World) -> int:
    job: int = one(
        db,
        "insert into pgqueuer.pgqueuer (priority, entrypoint, headers, dedupe_key, status)"
        " values (10, 'test.echo', jsonb_build_object('org_id', %s::uuid), 'k', 'failed') returning id",
        world.a.org,
    )
    return job


@pytest.mark.parametrize(
    "decision", ["select retry_failed_task(%s)", "select discard_failed_task(%s, 'enough')"]
)
def test_of_two_who_decide_on_a_held_job_at_once_one_wins_and_the_other_is_told(
    url: str, observer: Connection, world: World, decision: str
) -> None:
    job = hold(observer, world)
    with psycopg.connect(url) as first, psycopg.connect(url) as second:

        def decide() -> str | None:
            try:
                with as_member(second, world.a, "owner"):
                    second.execute("select retry_failed_task(%s)", (job,))
            except psycopg.Error as error:
                return f"{error.sqlstate} {error.diag.message_primary}"
            return None

        with as_member(first, world.a, "admin"):
            assert one(first, decision, job) == job
        answer = while_it_waits(observer, decide, first.commit)
    assert answer == "PT404 failed_task_not_found"
    decided = "select count(*) from audit_log where table_name = 'failed_tasks' and row_id = %s"
    assert one(observer, decided, str(job)) == 1


@pytest.mark.parametrize("delay", ["0", "1 day"])
def test_a_retry_and_a_new_job_with_its_key_never_both_run(
    url: str, observer: Connection, world: World, delay: str
) -> None:
    job = hold(observer, world)
    with psycopg.connect(url) as first, psycopg.connect(url, autocommit=True) as second:
        first.execute("select app.retry_held_job(%s)", (job,))
        given = while_it_waits(
            observer,
            lambda: one(second, "select app.enqueue('test.echo', '{}', null, 'k', %s)", delay),
            first.commit,
        )
    assert given is None
    assert one(observer, EVERYTHING) == 1


def test_workers_that_release_at_once_release_every_job_once(
    url: str, observer: Connection
) -> None:
    observer.execute(
        "select app.enqueue_bulk('test.echo', array_fill('{}'::jsonb, '{3000}'), null,"
        " array(select 'k' || n from generate_series(1, 3000) as n))"
    )
    done = threading.Event()

    def work() -> int:
        taken = 0
        with psycopg.connect(url, autocommit=True) as connection:
            while not done.is_set():
                connection.execute("select app.release_waiting_jobs('{test.echo}', 100)")
                taken += connection.execute(
                    "delete from pgqueuer.pgqueuer where id in (select id from pgqueuer.pgqueuer"
                    " where status = 'queued' limit 50 for update skip locked)"
                ).rowcount
        return taken

    with ThreadPoolExecutor(4) as threads:
        workers = [threads.submit(work) for _ in range(4)]
        while one(observer, EVERYTHING):
            assert not any(worker.done() for worker in workers)
        done.set()
    assert sum(worker.result() for worker in workers) == 3000
