"""Sessions that enqueue, retry and release the same jobs at once."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.jobs import add_job_type
from tests.people import Connection, World
from tests.races.sessions import open_stage

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


@pytest.mark.parametrize("ending", ["commit", "rollback"])
@pytest.mark.parametrize(
    ("first", "second"), [("0", "1 day"), ("1 day", "0"), ("1 day", "1 day"), ("0", "0")]
)
def test_a_dedupe_key_holds_between_transactions_that_do_not_see_each_other(
    url: str, first: str, second: str, ending: str
) -> None:
    with open_stage(url) as stage:
        answers = stage.meet(
            *(
                stage.owner("select app.enqueue('test.echo', '{}', null, 'k', %s)", delay)
                for delay in (first, second)
            ),
            first_gives_up=ending == "rollback",
        )
        assert answers[0] is not None
        assert (answers[1] is None) == (ending == "commit")
        assert stage.one(EVERYTHING) == 1


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


@pytest.mark.parametrize("delay", ["0", "1 day"])
def test_a_retry_and_a_new_job_with_its_key_never_both_run(
    url: str, observer: Connection, world: World, delay: str
) -> None:
    job = hold(observer, world)
    with open_stage(url) as stage:
        given = stage.meet(
            stage.owner("select app.retry_held_job(%s)", job),
            stage.owner("select app.enqueue('test.echo', '{}', null, 'k', %s)", delay),
        )
        assert given == [job, None]
        assert stage.one(EVERYTHING) == 1


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
