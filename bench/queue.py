"""How long a job waits for an idle worker when a trigger has enqueued it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from bench.measure import in_turn, median_ms, p95_ms, within

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

    from bench.measure import Figure
    from bench.subject import Bench

_ASKS: Final = 300
_TABLES: Final = """
create schema bench;
insert into app.job_types (entrypoint, latency_class, description)
values ('bench.start', 'default', 'Notes when it starts.');
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


@contextlib.contextmanager
def _worker(bench: Bench) -> Iterator[None]:
    log = bench.folder / "worker.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker"],
            env={**os.environ, "DATABASE_URL": bench.url},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            yield
        except TimeoutError as error:
            error.add_note(log.read_text(errors="replace")[-2000:])
            raise
        finally:
            process.terminate()
            process.wait(timeout=30)


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
