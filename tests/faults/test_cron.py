"""The runner without its database, and the runs of jobs that fail, are interrupted or name what is not theirs."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import psycopg
import pytest
from psycopg import sql

from cron import jobs
from cron.runner import Runner, fire
from cron.timetable import load, parse
from nessos.errors import GiveUpError, RetryError
from nessos.jobs import worker
from nessos.jobs.entrypoint import Entrypoint, RetryPolicy, Task
from tests.cluster import Server
from tests.jobs import add_job_type
from tests.people import Connection, World

AT_ONCE = RetryPolicy((0, 0))
TIMETABLE = parse("""
time_zone = "America/Sao_Paulo"

[[jobs]]
name = "nightly"
when = ["0 4 * * *"]
scope = "organization"
function = "raise_contract_alerts"
what = "works by night"

[[jobs]]
name = "broken"
when = ["0 4 * * *"]
scope = "organization"
function = "raise_contract_alerts"
organizations = "no_such_function"
what = "names what is not there"

[[jobs]]
name = "hourly"
when = ["0 * * * *"]
scope = "installation"
function = "rollup_events"
what = "works by day"
""")


@pytest.fixture
def owner(own_db_url: str) -> Iterator[Connection]:
    """A database of its own, with two organisations and an empty queue."""
    with psycopg.connect(own_db_url, autocommit=True) as connection:
        connection.execute("delete from pgqueuer.pgqueuer")
        yield connection


def runs(db: Connection, columns: str) -> list[Any]:
    return db.execute(
        f"select {columns} from app.cron_runs order by scheduled_at, job, org_id"
    ).fetchall()


# --- The runner ----------------------------------------------------------------------------------


@pytest.fixture
def runner(own_db_url: str) -> Iterator[Runner]:
    runner = Runner(own_db_url, TIMETABLE)
    yield runner
    runner.close()


def look(runner: Runner, owner: Connection, moment: str) -> None:
    """Let the runner look what is due, at a moment of the database's clock."""
    name = sql.Identifier(owner.info.dbname)
    owner.execute(sql.SQL("alter database {} set app.now = {}").format(name, moment))
    runner.close()
    runner.fire_due()


def test_a_runner_that_was_down_catches_up_the_last_fire_time_of_each_job(
    owner: Connection, runner: Runner, world: World
) -> None:
    look(runner, owner, "2031-03-10T03:59:59-03:00")
    assert runs(owner, "job") == []
    look(runner, owner, "2031-03-13T12:30-03:00")
    expected = [
        ("nightly", world.a.org, "2031-03-13T04:00-03:00"),
        ("nightly", world.b.org, "2031-03-13T04:00-03:00"),
        ("hourly", None, "2031-03-13T12:00-03:00"),
    ]
    assert sorted(runs(owner, "job, org_id, scheduled_at"), key=str) == sorted(
        ((job, org, datetime.fromisoformat(at)) for job, org, at in expected), key=str
    )
    look(runner, owner, "2031-03-13T12:59:59-03:00")
    assert len(runs(owner, "job")) == 3


def test_a_job_that_cannot_be_fired_stops_no_other_and_is_fired_once_it_can(
    owner: Connection, runner: Runner
) -> None:
    look(runner, owner, "2031-03-10T03:00-03:00")
    look(runner, owner, "2031-03-10T04:00-03:00")
    assert {job for (job,) in runs(owner, "job")} == {"nightly", "hourly"}
    owner.execute(
        "create function app.no_such_function() returns uuid[] language sql set search_path = ''"
        " as $$ select app.active_org_ids() $$"
    )
    look(runner, owner, "2031-03-10T04:30-03:00")
    assert owner.execute("select count(*) from app.cron_runs where job = 'broken'").fetchone() == (
        2,
    )


def test_a_runner_whose_database_is_away_goes_on_and_catches_up(
    owner: Connection, runner: Runner, server: Server
) -> None:
    look(runner, owner, "2031-03-10T03:00-03:00")
    with psycopg.connect(server.cluster.url(), autocommit=True) as other:
        name = sql.Identifier(owner.info.dbname)
        door = sql.SQL("alter database {} with allow_connections {}")
        other.execute(door.format(name, False))
        other.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = %s and application_name = 'nessos cron'",
            (owner.info.dbname,),
        )
        # The first look finds its connection cut, the second none to be had.
        for _ in range(2):
            runner.fire_due()
        other.execute(door.format(name, True))
    look(runner, owner, "2031-03-12T04:05-03:00")
    assert {str(at) for (at,) in runs(owner, "scheduled_at at time zone 'UTC'")} == {
        "2031-03-12 07:00:00"
    }


def test_a_runner_before_the_first_push_waits_for_the_schema(
    owner: Connection, runner: Runner
) -> None:
    owner.execute("alter schema app rename to later")
    runner.fire_due()
    owner.execute("alter schema later rename to app")
    look(runner, owner, "2031-03-10T03:00-03:00")
    look(runner, owner, "2031-03-10T05:00-03:00")
    assert len(runs(owner, "job")) == 3


# --- The worker ----------------------------------------------------------------------------------


def drain(url: str, *known: Entrypoint) -> None:
    """Work until the queue is empty, trying what fails three times without waiting."""
    known = known or jobs.ENTRYPOINTS
    worker.run(
        url,
        options=worker.Options(drain=True),
        known=[replace(one, retry=AT_ONCE) for one in known],
    )


def fire_now(owner: Connection, job: str) -> int:
    return fire(owner, load().job(job))


def test_one_organisation_that_fails_stops_no_other(
    own_db_url: str, owner: Connection, world: World
) -> None:
    owner.execute(
        f"create function app.break_a() returns trigger language plpgsql set search_path = '' as $$"
        f" begin if new.org_id = '{world.a.org}' then raise 'no room' using detail = 'at all'; end if;"
        " return new; end $$"
    )
    owner.execute(
        "create trigger module_events_50_break before insert on public.module_events"
        " for each row execute function app.break_a()"
    )
    assert fire_now(owner, "indices.compute") == 2
    drain(own_db_url)
    found = {org: rest for org, *rest in runs(owner, "org_id, status, attempts, error")}
    assert found[world.b.org] == ["succeeded", 1, None]
    status, attempts, error = found[world.a.org]
    assert (status, attempts) == ("failed", 3)
    assert error.startswith("no room")
    assert owner.execute("select status::text from pgqueuer.pgqueuer").fetchall() == [("failed",)]


def test_the_run_and_the_work_of_a_function_are_one_transaction(
    own_db_url: str, owner: Connection, world: World
) -> None:
    # The run cannot be written: then nothing of the work is, either.
    owner.execute(
        "alter table app.cron_runs add constraint cron_runs_no_check check (rows is null)"
    )
    owner.execute(
        "select app.record_event(%s, 'data', 'event_aggregates.drifted', 'event_aggregates', null, '{}')",
        (world.a.org,),
    )
    fire_now(owner, "events.rollup")
    drain(own_db_url)
    assert owner.execute("select count(*) from public.event_aggregates").fetchone() == (0,)
    assert runs(owner, "status, attempts") == [("failed", 3)]
    owner.execute("alter table app.cron_runs drop constraint cron_runs_no_check")
    fire_now(owner, "events.rollup")
    drain(own_db_url)
    [(status, rows)] = owner.execute(
        "select status, rows from app.cron_runs where status <> 'failed'"
    ).fetchall()
    assert status == "succeeded"
    assert rows > 0


def test_the_run_of_any_entry_point_is_recorded_around_its_handler(
    own_db_url: str, owner: Connection, world: World
) -> None:
    add_job_type(owner, "probe.work")
    tried: list[tuple[str, int]] = []

    async def work(task: Task) -> str:
        tried.append((str(task.org_id), task.attempt))
        if task.org_id == world.a.org:
            raise GiveUpError("wrong key", "set it again")
        if task.attempt < 3:
            raise RetryError("busy")
        return "12 rows seen"

    owner.execute(
        "select app.fire_cron_job('probe', now(), 'probe.work', %s)",
        ([world.a.org, world.b.org],),
    )
    drain(own_db_url, Entrypoint("probe.work", work))
    assert sorted(tried) == sorted(
        [(str(world.a.org), 1), *((str(world.b.org), number) for number in (1, 2, 3))]
    )
    assert {
        org: rest for org, *rest in runs(owner, "org_id, status, attempts, outcome, error")
    } == {
        world.a.org: ["failed", 1, None, "wrong key → set it again"],
        world.b.org: ["succeeded", 3, "12 rows seen", None],
    }


def test_a_run_that_had_succeeded_when_its_worker_died_is_not_done_again(
    own_db_url: str, owner: Connection
) -> None:
    add_job_type(owner, "probe.work")
    done = 0

    async def work(_: Task) -> None:
        nonlocal done
        done += 1

    owner.execute("select app.fire_cron_job('probe', now(), 'probe.work', null)")
    [(run,)] = runs(owner, "id")
    owner.execute("select app.begin_cron_run(%s), app.finish_cron_run(%s, 1, null)", (run, run))
    drain(own_db_url, Entrypoint("probe.work", work))
    assert done == 0
    assert owner.execute("select count(*) from pgqueuer.pgqueuer").fetchone() == (0,)
    assert runs(owner, "status, rows, attempts") == [("succeeded", 1, 1)]


@pytest.mark.parametrize(
    ("job", "is_for_organisation"),
    [("pg_sleep", False), ("contracts.alerts", False), ("events.rollup", True)],
)
def test_a_payload_calls_nothing_but_the_function_of_its_line(
    own_db_url: str, owner: Connection, world: World, job: str, *, is_for_organisation: bool
) -> None:
    orgs = [world.a.org] if is_for_organisation else None
    owner.execute("select app.fire_cron_job(%s, now(), 'cron.run', %s)", (job, orgs))
    drain(own_db_url)
    [(status, attempts, error)] = runs(owner, "status, attempts, error")
    assert (status, attempts) == ("failed", 1)
    assert job in error
