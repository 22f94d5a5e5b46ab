"""Workers that are killed, cut off, suspended or stopped at any point, and databases that are restarted."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import psycopg
import pytest

from nessos.jobs import worker
from nessos.local.postgres import THROWAWAY, Cluster, build_database, free_port
from nessos.settings import ROOT, Settings
from tests.faults.provider import PATIENCE_S, Provider, provider
from tests.jobs import add_job_type
from tests.people import Connection

HEARTBEAT_S = 2


@pytest.fixture(scope="module")
def cluster(run_folder: Path, pg_version: Literal[16, 18]) -> Iterator[Cluster]:
    """A server of this module's own, which may crash: what it has committed is on disk."""
    settings = {**THROWAWAY, "synchronous_commit": "on", "max_connections": "60"}
    server = Cluster(run_folder / "faults", pg_version, settings=settings)
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="module")
def url(cluster: Cluster) -> str:
    """Its database."""
    url = build_database(cluster, "faults")
    with psycopg.connect(url) as connection:
        add_job_type(connection, "test.work")
        add_job_type(connection, "test.nothing")
    return url


@pytest.fixture
def db(url: str) -> Iterator[Connection]:
    """The owner's connection; the queue is empty."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("truncate pgqueuer.pgqueuer, pgqueuer.pgqueuer_log, app.waiting_jobs")
        yield connection


@pytest.fixture
def outside() -> Iterator[Provider]:
    """The service whose effects are counted."""
    with provider() as service:
        yield service


@dataclass(frozen=True)
class Running:
    """A worker's process and its log."""

    process: subprocess.Popen[bytes]
    log: Path

    def says(self, words: str) -> bool:
        """Say whether a message is in the log."""
        return words in self.log.read_text()

    def kill(self) -> None:
        """Let it die without a word."""
        self.process.kill()
        self.process.wait()


Start = Callable[..., Running]


@pytest.fixture
def start(url: str, outside: Provider, tmp_path: Path) -> Iterator[Start]:
    """Start workers; whatever is left of them at the end is killed."""
    workers: list[Running] = []

    def run(**environment: str) -> Running:
        log = tmp_path / f"worker-{len(workers)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.worker"],
                cwd=ROOT,
                env={
                    **os.environ,
                    "DATABASE_URL": url,
                    "PROVIDER_URL": outside.url,
                    "PYTHONPATH": f"{ROOT}:{ROOT / 'py'}",
                    "NESSOS_WORKER_HEARTBEAT_S": str(HEARTBEAT_S),
                    "NESSOS_WORKER_PORT": "",
                    **environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        workers.append(Running(process, log))
        return workers[-1]

    yield run
    for one in workers:
        one.process.send_signal(signal.SIGCONT)
        one.kill()


def until(is_so: Callable[[], object]) -> None:
    """Wait until something is so, for as long as an interrupted job may take to run again."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, "this never became so"
        time.sleep(0.02)


def one(db: Connection, query: str, *parameters: Any) -> Any:
    row = db.execute(query, parameters).fetchone()
    assert row is not None
    return row[0]


def enqueue(db: Connection, entrypoint: str = "test.work") -> int:
    job: int = one(db, "select app.enqueue(%s, '{}')", entrypoint)
    return job


def status(db: Connection, job: int) -> str | None:
    row = db.execute("select status::text from pgqueuer.pgqueuer where id = %s", (job,)).fetchone()
    return row and row[0]


def endings(db: Connection, job: int) -> list[str]:
    return [
        row[0]
        for row in db.execute(
            "select status::text from pgqueuer.pgqueuer_log where job_id = %s"
            " and status not in ('queued', 'picked')",
            (job,),
        )
    ]


def crash(cluster: Cluster) -> None:
    """Have Postgres die at once, connections and all, and start it again."""
    pid = cluster.pid
    assert pid is not None
    os.kill(pid, signal.SIGQUIT)
    until(lambda: not cluster.is_running())
    cluster.start()


POINTS = ("fetched", "before", "after", "retry", "shutdown")


@pytest.mark.parametrize("moment", [*POINTS, *(f"{point} and crash" for point in POINTS)])
def test_a_job_whose_worker_is_killed_ends_with_one_effect(
    cluster: Cluster, db: Connection, outside: Provider, start: Start, moment: str
) -> None:
    point = moment.split(maxsplit=1)[0]
    url = cluster.url(db.info.dbname)
    kept = outside.keep_at({"retry": "before", "shutdown": "before"}.get(point, point))
    victim = start()
    job = enqueue(db)
    kept.wait()
    with contextlib.ExitStack() as exits:
        if point == "retry":
            # The write of the retry waits for this lock.
            lock = psycopg.connect(url)
            exits.callback(lock.close)
            lock.execute("select from pgqueuer.pgqueuer where id = %s for update", (job,))
            kept.release("retry")
            until(lambda: one(db, "select count(*) from pg_locks where not granted"))
        if point == "shutdown":
            victim.process.send_signal(signal.SIGTERM)
            until(lambda: victim.says("stopping"))
        victim.kill()
        if moment.endswith("crash"):
            crash(cluster)
    kept.release()
    start()
    with psycopg.connect(url, autocommit=True) as again:
        until(lambda: endings(again, job))
        assert endings(again, job) == ["successful"]
        assert status(again, job) is None
    assert outside.effects == [f"job-{job}"]
    assert outside.calls[f"job-{job}"] == (2 if point == "after" else 1)


def test_the_default_settings_run_the_jobs_of_a_killed_worker_again_within_a_minute() -> None:
    silence = Settings(_env_file=None).worker_heartbeat_s  # type: ignore[call-arg]
    assert silence + worker._IDLE_S + worker._POLL.total_seconds() < 60


def test_a_worker_outlives_a_crash_of_postgres_and_does_nothing_twice(
    cluster: Cluster, db: Connection, outside: Provider, start: Start
) -> None:
    before, after = outside.keep_at("before"), outside.keep_at("after")
    running = start()
    job = enqueue(db)
    before.wait()
    before.release()
    after.wait()
    crash(cluster)
    after.release()
    with psycopg.connect(cluster.url(db.info.dbname), autocommit=True) as again:
        until(lambda: endings(again, job))
        second = enqueue(again)
        until(lambda: endings(again, second))
        assert endings(again, job) == endings(again, second) == ["successful"]
    assert running.process.poll() is None
    assert outside.effects == [f"job-{job}", f"job-{second}"]
    assert set(outside.calls.values()) == {1}


def test_a_worker_whose_connections_are_cut_goes_on(
    db: Connection, outside: Provider, start: Start
) -> None:
    running = start()
    for _ in range(3):
        job = enqueue(db)
        until(partial(endings, db, job))
        db.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name like 'nessos %%' and datname = current_database()"
        )
    assert running.process.poll() is None
    assert len(outside.effects) == 3


def test_a_worker_that_was_suspended_does_not_touch_what_another_has_taken_over(
    db: Connection, outside: Provider, start: Start
) -> None:
    first, second = outside.keep_at("before"), outside.keep_at("before")
    suspended = start()
    job = enqueue(db)
    first.wait()
    suspended.process.send_signal(signal.SIGSTOP)
    start()
    second.wait()
    holder = one(db, "select queue_manager_id from pgqueuer.pgqueuer where id = %s", job)
    suspended.process.send_signal(signal.SIGCONT)
    first.release("give up")
    # The suspended one goes on with other jobs when it is through with this.
    others = [enqueue(db, "test.nothing") for _ in range(20)]
    until(lambda: all(endings(db, one) for one in others))
    assert one(db, "select queue_manager_id from pgqueuer.pgqueuer where id = %s", job) == holder
    assert (status(db, job), endings(db, job)) == ("picked", [])
    second.release()
    until(lambda: endings(db, job))
    assert endings(db, job) == ["successful"]
    assert outside.effects == [f"job-{job}"]


def test_a_job_that_kills_its_workers_is_held_in_the_end(db: Connection, start: Start) -> None:
    job = enqueue(db)
    db.execute("""update pgqueuer.pgqueuer set headers = '{"deaths": 5}' where id = %s""", (job,))
    start()
    until(lambda: endings(db, job))
    assert (status(db, job), endings(db, job)) == ("failed", ["failed"])
    assert one(db, "select error from app.failed_jobs(null, 0, 10)") == (
        "5 workers died while they ran it"
    )


def test_a_stopped_worker_finishes_what_it_runs_and_leaves_the_rest(
    db: Connection, outside: Provider, start: Start
) -> None:
    kept = outside.keep_at("before")
    running = start(NESSOS_WORKER_CONCURRENCY="1")
    job = enqueue(db)
    kept.wait()
    running.process.send_signal(signal.SIGTERM)
    left = enqueue(db)
    kept.release()
    assert running.process.wait(PATIENCE_S) == 0
    assert (endings(db, job), status(db, left)) == (["successful"], "queued")


@pytest.mark.parametrize("how", ["after its grace", "at the second signal"])
def test_a_stopped_worker_returns_what_it_does_not_finish_and_counts_no_attempt(
    db: Connection, outside: Provider, start: Start, how: str
) -> None:
    kept = outside.keep_at("before")
    running = start(NESSOS_WORKER_GRACE_S="0.1" if how == "after its grace" else "25")
    job = enqueue(db)
    kept.wait()
    running.process.send_signal(signal.SIGTERM)
    if how == "at the second signal":
        until(lambda: running.says("stopping"))
        running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(PATIENCE_S) == 0
    assert (status(db, job), one(db, "select attempts from pgqueuer.pgqueuer")) == ("queued", 0)
    start()
    until(lambda: endings(db, job))
    assert outside.effects == [f"job-{job}"]


def test_one_job_at_a_time_is_one(db: Connection, outside: Provider, start: Start) -> None:
    kept = outside.keep_at("before")
    jobs = [enqueue(db) for _ in range(3)]
    start(NESSOS_WORKER_CONCURRENCY="1")
    kept.wait()
    assert [status(db, job) for job in jobs] == ["picked", "queued", "queued"]
    kept.release()
    until(lambda: all(endings(db, job) for job in jobs))


def test_a_job_is_tried_again_by_its_policy_and_then_held_with_the_reason(
    db: Connection, outside: Provider, start: Start
) -> None:
    for _ in range(3):
        outside.keep_at("before").release("retry")
    job = enqueue(db)
    start()
    until(lambda: endings(db, job))
    assert (status(db, job), endings(db, job)) == ("failed", ["failed"])
    assert db.execute("select attempts, error from app.failed_jobs(null, 0, 10)").fetchall() == [
        (3, "told to try again")
    ]
    db.execute("select app.retry_held_job(%s)", (job,))
    until(lambda: len(endings(db, job)) > 1)
    assert (endings(db, job), outside.effects) == (["failed", "successful"], [f"job-{job}"])


def test_a_job_that_can_never_succeed_is_held_at_once(
    db: Connection, outside: Provider, start: Start
) -> None:
    outside.keep_at("before").release("give up")
    job = enqueue(db)
    start()
    until(lambda: endings(db, job))
    assert db.execute("select attempts, error from app.failed_jobs(null, 0, 10)").fetchall() == [
        (1, "told to give up")
    ]


def test_a_long_transaction_that_enqueues_does_not_stop_the_queue(
    url: str, db: Connection, start: Start
) -> None:
    with psycopg.connect(url) as long:
        for delay in ("0", "1 hour"):
            long.execute(
                "select app.enqueue('test.nothing', '{}', null, 'long' || %s, %s)", (delay, delay)
            )
        long.execute("select app.enqueue_bulk('test.nothing', array_fill('{}'::jsonb, '{50}'))")
        start()
        db.execute("select app.enqueue_bulk('test.nothing', array_fill('{}'::jsonb, '{500}'))")
        singles = [enqueue(db, "test.nothing") for _ in range(100)]
        done = "select count(*) from pgqueuer.pgqueuer_log where status = 'successful'"
        until(lambda: one(db, done) == 600)
        assert all(endings(db, job) for job in singles)
        long.commit()
        until(lambda: one(db, done) == 651)
    assert one(db, "select count(*) from app.waiting_jobs") == 1


def test_a_probe_is_told_how_the_worker_is_and_prometheus_what_it_does(
    cluster: Cluster, db: Connection, outside: Provider, start: Start
) -> None:
    port = free_port()
    running = start(NESSOS_WORKER_PORT=str(port))

    def ask(path: str) -> tuple[int, str]:
        try:
            with urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()
        except URLError:
            return 0, ""

    until(lambda: ask("/health")[0] == 200)
    job = enqueue(db)
    until(lambda: endings(db, job))
    outside.keep_at("before").release("give up")
    held = enqueue(db)
    until(lambda: endings(db, held))
    enqueue_later = "select app.enqueue('test.work', '{}', delay => '1 hour')"
    db.execute(enqueue_later)
    status_code, text = ask("/metrics")
    assert status_code == 200
    for line in (
        'nessos_jobs_ended_total{entrypoint="test.work",outcome="done"} 1.0',
        'nessos_jobs_ended_total{entrypoint="test.work",outcome="held"} 1.0',
        'nessos_job_seconds_count{entrypoint="test.work"} 2.0',
        'nessos_queue_jobs{entrypoint="test.work",latency_class="default",state="held"} 1.0',
        'nessos_queue_jobs{entrypoint="test.work",latency_class="default",state="later"} 1.0',
        'nessos_queue_oldest_wait_seconds{entrypoint="test.work",latency_class="default"} 0.0',
    ):
        assert line in text.splitlines()
    assert ask("/other")[0] == 404
    cluster.stop()
    assert ask("/health")[0] == 503
    cluster.start()
    until(lambda: ask("/health")[0] == 200)
    assert running.process.poll() is None
