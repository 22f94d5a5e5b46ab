"""The timetable: every job is there, and runs on a database with the demo companies."""

from datetime import datetime
from zoneinfo import ZoneInfo

import psycopg
import pytest
from psycopg import sql

from cron.timetable import Job, load


def test_names_of_jobs_are_unique() -> None:
    assert len({job.name for job in load().jobs}) == len(load().jobs) > 9


def test_the_hours_are_those_of_sao_paulo() -> None:
    zone = ZoneInfo("America/Sao_Paulo")
    late = datetime(2026, 3, 31, 23, 30, tzinfo=zone)
    assert load().job("indices.compute").next_fire_time(late) == datetime(
        2026, 4, 1, 4, tzinfo=zone
    )


@pytest.mark.parametrize("job", load().jobs, ids=lambda job: job.name)
def test_a_job_of_the_timetable_runs_and_can_run_again(seeded_url: str, job: Job) -> None:
    count = sql.SQL("select count(*) from app.{}()").format(sql.Identifier(job.function))
    with psycopg.connect(seeded_url, autocommit=True) as db:
        db.execute("select set_config('app.now', (now() + interval '500 days')::text, false)")
        first, second = (db.execute(count).fetchone() for _ in range(2))
    assert first is not None
    assert second is not None
    # A job that gives rows gives what it did: nothing is left for the second run.
    assert second[0] <= first[0] <= 1 or second[0] == 0
