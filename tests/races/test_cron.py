"""Several runners at once: one run per job, organisation and fire time."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg

from cron.timetable import load
from nessos.settings import ROOT

RUNNERS = 3


@contextlib.contextmanager
def runners(url: str, count: int) -> Iterator[None]:
    """Start real runners at once and wait until each has looked what is due; stop them at the end."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", "from nessos.cli import main; main()", "cron", "run"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": url, "PYTHONPATH": str(ROOT / "py")},
        )
        for _ in range(count)
    ]
    try:
        for process in started:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            seen = next((line for line in lines if '"started"' in line), None)
            assert seen, f"a runner ended with {process.wait()}"
        yield
    finally:
        for process in started:
            process.terminate()
        assert [process.wait(timeout=30) for process in started] == [0] * count


def test_three_runners_that_come_back_at_once_fire_what_they_missed_once(own_db_url: str) -> None:
    names = [job.name for job in load().jobs]
    with psycopg.connect(own_db_url, autocommit=True) as db:
        db.execute("select app.follow_cron_jobs(%s)", (names,))
        db.execute("update app.cron_jobs set last_fire_at = now() - interval '40 days'")
        with runners(own_db_url, RUNNERS):
            fired: dict[str, int] = dict(
                db.execute(
                    "select job, count(*) from app.cron_runs group by job, scheduled_at"
                ).fetchall()
            )
            doubled = db.execute(
                "select job, org_id from app.cron_runs group by 1, 2 having count(*) > 1"
            ).fetchall()
            queued = db.execute(
                "select count(*), count(distinct dedupe_key) from pgqueuer.pgqueuer"
                " where dedupe_key like 'cron/%'"
            ).fetchone()
        orgs = db.execute("select cardinality(app.active_org_ids())").fetchone()
    assert orgs is not None
    # Nobody works here: a second fire time of a job that passes meanwhile finds the first one waiting.
    assert doubled == []
    assert fired == {
        job.name: orgs[0] if job.scope == "organization" else 1
        for job in load().jobs
        if not job.organizations
    }
    assert queued == (sum(fired.values()), sum(fired.values()))


def test_of_many_sessions_at_one_fire_time_exactly_one_fires(own_db_url: str) -> None:
    sessions = 16
    ready = threading.Barrier(sessions)

    def fire(number: int) -> list[int | None]:
        with psycopg.connect(own_db_url, autocommit=True) as db:
            answers = []
            for hour in range(10):
                ready.wait()
                row = db.execute(
                    "select app.fire_cron_job('a.job', timestamptz '2031-03-10 00:00Z' + %s * interval '1 hour',"
                    " 'cron.run_organization', app.active_org_ids())",
                    (hour,),
                ).fetchone()
                answers.append(row[0] if row else None)
                ready.wait()
                if number == 0:
                    db.execute("delete from pgqueuer.pgqueuer")
            return answers

    with ThreadPoolExecutor(sessions) as threads:
        rounds = list(zip(*threads.map(fire, range(sessions)), strict=True))
    with psycopg.connect(own_db_url) as db:
        stored = db.execute(
            "select count(*), count(distinct (org_id, scheduled_at)), count(distinct org_id) from app.cron_runs"
        ).fetchone()
    assert stored is not None
    runs, distinct, orgs = stored
    assert [sorted(answers, key=str) for answers in rounds] == [
        sorted([orgs, *[None] * (sessions - 1)], key=str)
    ] * 10
    assert runs == distinct == orgs * 10
