"""The queue: how soon a job starts, how many are done, who waits for whom, what waiting costs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import psycopg
from pgqueuer.adapters.drivers.psycopg import PsycopgDriver
from pgqueuer.ports.repository import EntrypointExecutionParameter
from pgqueuer.types import QueueEntrypoint, QueueManagerId

from bench.measure import Figure, at_most, in_turn, median_ms, p95_ms, within
from nessos.jobs import queue

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.subject import Bench

_ASKS: Final = 300
_JOBS: Final = 10_000
_BULK: Final = 100_000
_TENANTS: Final = 100
_EACH: Final = 10
_FETCHES: Final = 200
_SCHEDULED: Final = 1_000_000

_TYPES: Final = """
insert into app.job_types (entrypoint, latency_class, description)
select 'bench.' || name, 'default', 'Of the bench.'
from unnest('{start,wait,nothing}'::text[]) as name
on conflict do nothing
"""
_TABLES: Final = """
create schema bench;
create table bench.asked (
    id integer primary key, asked_at timestamptz not null, started_at timestamptz
);
create table bench.called (id integer primary key);

create function bench.ask() returns trigger language plpgsql as $$
begin
    perform app.enqueue('bench.start', jsonb_build_object('id', new.id));
    return null;
end;
$$;
create trigger asked_70_ask after insert on bench.asked for each row execute function bench.ask();

create function bench.call() returns trigger language plpgsql as $$
begin
    perform pg_notify('bench', new.id::text);
    return null;
end;
$$;
create trigger called_70_call after insert on bench.called
for each row execute function bench.call()
"""


def job_start(bench: Bench) -> list[Figure]:
    """Measure from just before the insert that enqueues to the first line of the job.

    Args:
        bench: Where.

    Returns:
        One figure.
    """
    with bench.owner() as owner, bench.owner() as listener:
        owner.execute(_TYPES)
        owner.execute(_TABLES, prepare=False)
        listener.execute("listen bench")
        with _worker(bench):
            for number in range(-10, 0):
                _ask(owner, number)
            for number in range(_ASKS):
                _ask(owner, number)
        seconds = [
            float(row[0])
            for row in owner.execute(
                "select extract(epoch from started_at - asked_at) from bench.asked where id >= 0"
            )
        ]
        numbers = iter(range(10 * _ASKS))

        def call() -> None:
            owner.execute("insert into bench.called (id) values (%s)", [next(numbers)])
            assert next(listener.notifies(timeout=5, stop_after=1), None)

        bare = in_turn({"notify": call}, rounds=1, calls=_ASKS, warm_up=10)["notify"]
    return [
        within(
            (100, "ms"),
            "trigger enqueues to job starts, idle worker, p95",
            p95_ms(seconds),
            p95_ms(bare),
            "a bare notify by trigger is heard",
            f"{_ASKS} jobs, median {median_ms(seconds):.1f} ms,"
            f" longest {max(seconds) * 1000:.0f} ms",
        )
    ]


def throughput(bench: Bench) -> list[Figure]:
    """Measure how many jobs that do nothing one worker does.

    Args:
        bench: Where.

    Returns:
        One figure; its baseline is the least a queue in Postgres can do.
    """
    with bench.owner() as owner:
        owner.execute(_TYPES)
        enqueue = "select count(app.enqueue('bench.nothing', '{}')) from generate_series(1, %s)"
        owner.execute("truncate pgqueuer.pgqueuer, pgqueuer.pgqueuer_log")
        owner.execute(enqueue, [_JOBS])
        with _worker(bench, BENCH_DRAIN="1") as process:
            process.wait(timeout=300)
        row = owner.execute(
            "select count(*) / extract(epoch from max(created) - min(created))"
            " from pgqueuer.pgqueuer_log where status = 'successful'"
        ).fetchone()
        assert row
        done = float(row[0])
        owner.execute(enqueue, [_JOBS])
        started = time.perf_counter()
        while owner.execute(
            "delete from pgqueuer.pgqueuer where id in (select id from pgqueuer.pgqueuer"
            " where status = 'queued' order by priority desc, id limit 10 for update skip locked)"
        ).rowcount:
            pass
        bare = _JOBS / (time.perf_counter() - started)
    return [
        Figure(
            "jobs that do nothing, one worker, ten at a time",
            done,
            "jobs/s",
            bare,
            "ten at a time taken by one delete",
            done / bare,
            "≥ 1000 jobs/s",
            done >= 1000,  # noqa: PLR2004 - the budget
            [f"{_JOBS:,} jobs"],
        )
    ]


def fairness(bench: Bench) -> list[Figure]:
    """Measure what others wait for while one tenant has bulk work, and on an idle system.

    Args:
        bench: Where.

    Returns:
        Two figures: the others' work is bulk work as well; it is single jobs.
    """
    figures = []
    with bench.owner() as owner:
        owner.execute(_TYPES)
        owner.execute(
            "create schema if not exists bench;"
            " create table bench.waits (tenant integer, seconds double precision)",
            prepare=False,
        )
        for kind in ("bulk", "single"):
            waits = {}
            for is_busy in (False, True):
                owner.execute("truncate pgqueuer.pgqueuer, app.waiting_jobs, app.job_slices")
                if is_busy:
                    _enqueue_bulk(bench, owner, 1, _BULK)
                with _worker(bench):
                    _until(
                        owner, "select exists (select from bench.waits)" if is_busy else _LISTENS
                    )
                    owner.execute("truncate bench.waits")
                    enqueue = _enqueue_bulk if kind == "bulk" else _enqueue_single
                    with owner.transaction():
                        for tenant in range(2, _TENANTS + 1):
                            enqueue(bench, owner, tenant, _EACH)
                    others = (_TENANTS - 1) * _EACH
                    _until(
                        owner,
                        f"select count(*) = {others} from bench.waits where tenant > 1",
                    )
                row = owner.execute(
                    "select avg(seconds), max(seconds) from bench.waits where tenant > 1"
                ).fetchone()
                assert row
                waits[is_busy] = row
            figures.append(
                at_most(
                    2,
                    f"{_TENANTS - 1} tenants with {_EACH} {kind} jobs wait while one has {_BULK:,}",
                    1000 * waits[True][0],
                    1000 * waits[False][0],
                    "the same on an idle system",
                    f"the longest {waits[True][1]:.2f} s, idle {waits[False][1]:.2f} s;"
                    " a job takes 10 ms, ten run at a time",
                )
            )
    return figures


def scheduled(bench: Bench) -> list[Figure]:
    """Measure a fetch beside a million jobs that are for later.

    Args:
        bench: Where.

    Returns:
        One figure.
    """
    with bench.owner() as owner:
        owner.execute(_TYPES)
        owner.execute("truncate pgqueuer.pgqueuer, app.waiting_jobs, app.job_slices")
        without = asyncio.run(_fetch(bench))
        bench.say(f"scheduling {_SCHEDULED:,} jobs …")
        for tenant in range(1, 11):
            owner.execute(
                "select app.enqueue_bulk('bench.nothing', array_fill('{}'::jsonb, array[%s]), %s,"
                " null, '30 days')",
                [_SCHEDULED // 10, bench.tenant(tenant)],
            )
        owner.execute("vacuum (analyze) app.waiting_jobs")
        beside = asyncio.run(_fetch(bench))
        release = in_turn(
            {"": lambda: owner.execute("select app.release_waiting_jobs('{bench.nothing}')")},
            rounds=1,
            calls=_FETCHES,
            warm_up=10,
        )[""]
        owner.execute("truncate app.waiting_jobs")
    return [
        at_most(
            1.5,
            f"fetching a job beside {_SCHEDULED:,} scheduled, p95",
            p95_ms(beside),
            p95_ms(without),
            "the same beside none",
            f"{_FETCHES} fetches; to look for what is due takes {p95_ms(release):.1f} ms, p95",
        )
    ]


async def _fetch(bench: Bench) -> list[float]:
    """Enqueue a job and take it, over and over; give the seconds that taking took."""
    seconds = []
    types = {
        QueueEntrypoint(f"bench.{name}"): EntrypointExecutionParameter(0)
        for name in ("start", "wait", "nothing")
    }
    worker = QueueManagerId(uuid4())
    async with await psycopg.AsyncConnection.connect(bench.url, autocommit=True) as connection:
        statements = queue.queries(PsycopgDriver(connection), limit=10)
        for _ in range(_FETCHES):
            await connection.execute("select app.enqueue('bench.nothing', '{}')")
            started = time.perf_counter()
            jobs = await statements.dequeue(10, types, worker, None, timedelta(seconds=30))
            seconds.append(time.perf_counter() - started)
            assert len(jobs) == 1
            await statements.log_jobs([(jobs[0], "successful", None)])
    return seconds


_LISTENS: Final = (
    "select exists (select from pg_stat_activity where application_name = 'nessos worker listen')"
)


def _enqueue_bulk(bench: Bench, owner: psycopg.Connection[Any], tenant: int, number: int) -> None:
    payload = json.dumps({"tenant": tenant, "asked_at": time.time()})
    owner.execute(
        "select app.enqueue_bulk('bench.wait', array_fill(%s::jsonb, array[%s]), %s)",
        [payload, number, bench.tenant(tenant)],
    )


def _enqueue_single(bench: Bench, owner: psycopg.Connection[Any], tenant: int, number: int) -> None:
    payload = json.dumps({"tenant": tenant, "asked_at": time.time()})
    owner.execute(
        "select count(app.enqueue('bench.wait', %s, %s)) from generate_series(1, %s)",
        [payload, bench.tenant(tenant), number],
    )


def _until(owner: psycopg.Connection[Any], question: str) -> None:
    deadline = time.monotonic() + 300
    while True:
        row = owner.execute(question).fetchone()
        if row and row[0]:
            return
        if time.monotonic() > deadline:
            raise TimeoutError("the worker does not get on")
        time.sleep(0.02)


@contextlib.contextmanager
def _worker(bench: Bench, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    log = bench.folder / "worker.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker"],
            env={**os.environ, "DATABASE_URL": bench.url, **environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        except TimeoutError as error:
            error.add_note(log.read_text(errors="replace")[-2000:])
            raise
        finally:
            process.terminate()
            process.wait(timeout=60)


def _ask(owner: psycopg.Connection[Any], number: int) -> None:
    """Enqueue by trigger, wait until the job has started, and let the worker come to rest."""
    owner.execute(
        "insert into bench.asked (id, asked_at) values (%s, to_timestamp(%s))",
        [number, time.time()],
    )
    deadline = time.monotonic() + 60
    while True:
        row = owner.execute(
            "select started_at is not null from bench.asked where id = %s", [number]
        ).fetchone()
        if row and row[0]:
            break
        if time.monotonic() > deadline:
            raise TimeoutError("the worker does not start the job")
        time.sleep(0.01)
    # Not in step with any timer of the worker.
    time.sleep(0.02 + number % 7 * 0.01)
