"""What the timetable fires: once per fire time, for whom, and how a run ends."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.people import (
    Connection,
    Org,
    World,
    as_anon,
    as_member,
    as_worker,
    denied,
    refused,
    set_clock,
)

FOUR, FIVE, SIX = (f"2031-03-10T0{hour}:00-03:00" for hour in (4, 5, 6))
JOB = "a.job"


def one(db: Connection, statement: str, *arguments: object) -> Any:
    row = db.execute(statement, arguments).fetchone()
    assert row is not None
    return row[0] if len(row) == 1 else row


def fire(db: Connection, at: str, *orgs: Org, entrypoint: str = "cron.run") -> int | None:
    """Fire the job as a runner does; without organisations, for the installation."""
    with as_worker(db):
        count: int | None = one(
            db,
            "select app.fire_cron_job(%s, %s, %s, %s)",
            JOB,
            at,
            entrypoint,
            [org.org for org in orgs] or None,
        )
    return count


def runs(db: Connection, columns: str = "org_id, scheduled_at, status") -> list[Any]:
    return db.execute(
        f"select {columns} from app.cron_runs order by scheduled_at, org_id"
    ).fetchall()


def begin(db: Connection, run: UUID) -> bool:
    with as_worker(db):
        return bool(one(db, "select app.begin_cron_run(%s)", run))


def end(db: Connection, run: UUID, error: str | None = None, *, is_final: bool = True) -> None:
    """Note how an attempt ended."""
    with as_worker(db):
        if error is None:
            db.execute("select app.finish_cron_run(%s, 7, 'seven')", (run,))
        else:
            db.execute("select app.fail_cron_run(%s, %s, %s)", (run, error, is_final))


def leave_queue(db: Connection, status: str | None = None) -> None:
    """Have the queue's jobs end, or be held."""
    if status:
        db.execute("update pgqueuer.pgqueuer set status = 'failed'")
    else:
        db.execute("delete from pgqueuer.pgqueuer")


# --- Firing --------------------------------------------------------------------------------------


def test_a_fire_time_is_fired_once_and_none_before_it_any_more(db: Connection) -> None:
    assert fire(db, FIVE) == 1
    assert [fire(db, at) for at in (FIVE, FOUR)] == [None, None]
    leave_queue(db)
    assert fire(db, SIX) == 1
    assert len(runs(db)) == 2


def test_a_run_and_its_job_are_written_together(db: Connection, world: World) -> None:
    assert fire(db, FOUR, world.a, world.b, entrypoint="cron.run_organization") == 2
    queued = {
        (UUID(str(payload["run_id"])), payload["job"], UUID(headers["org_id"]), number, priority)
        for payload, headers, number, priority in db.execute(
            "select convert_from(payload, 'UTF8')::jsonb, headers, id, priority from pgqueuer.pgqueuer"
        )
    }
    assert queued == {
        (run, JOB, org, number, 0) for run, org, number in runs(db, "id, org_id, queue_job_id")
    }
    assert [org for org, *_ in runs(db)] == sorted((world.a.org, world.b.org))


def test_a_job_that_the_catalogue_does_not_know_leaves_nothing_behind(db: Connection) -> None:
    with refused("job_type_unknown"):
        fire(db, FOUR, entrypoint="no.such_job")
    assert runs(db) == []
    assert fire(db, FOUR) == 1


def test_a_run_that_still_waits_or_works_lets_the_next_fire_time_pass(
    db: Connection, world: World
) -> None:
    fire(db, FOUR, world.a)
    db.execute("update pgqueuer.pgqueuer set status = 'picked'")
    assert fire(db, FIVE, world.a, world.b) == 1
    assert [(org, status) for org, _, status in runs(db)] == [
        (world.a.org, "queued"),
        (world.b.org, "queued"),
    ]


def test_jobs_run_for_active_organisations_only(db: Connection, world: World) -> None:
    everybody = one(db, "select app.active_org_ids()")
    assert {world.a.org, world.b.org} <= set(everybody)
    for org, status in ((world.a, "suspended"), (world.b, "inactive")):
        db.execute("update public.organizations set status = %s where id = %s", (status, org.org))
    assert set(one(db, "select app.active_org_ids()")) == set(everybody) - {
        world.a.org,
        world.b.org,
    }


def test_a_thousand_organisations_get_a_thousand_jobs_of_the_lowest_class(db: Connection) -> None:
    db.execute(
        "insert into public.organizations (name, slug)"
        " select 'Org ' || n, 'org-' || n from generate_series(1, 1000) as n"
    )
    orgs = one(db, "select app.active_org_ids()")
    assert one(
        db, "select app.fire_cron_job(%s, %s, 'cron.run_organization', %s)", JOB, FOUR, orgs
    ) == len(orgs)
    assert db.execute(
        "select priority, count(*), count(distinct headers ->> 'org_id') from pgqueuer.pgqueuer group by 1"
    ).fetchall() == [(0, len(orgs), len(orgs))]


def test_a_job_met_for_the_first_time_has_missed_nothing(db: Connection) -> None:
    fire(db, FOUR)
    set_clock(db, FIVE)
    with as_worker(db):
        follow = "select job, last_fire_at from app.follow_cron_jobs(%s) order by job"
        first = db.execute(follow, ([JOB, "new.job"],)).fetchall()
    set_clock(db, SIX)
    with as_worker(db):
        assert db.execute(follow, ([JOB, "new.job"],)).fetchall() == first
    set_clock(db, None)
    assert one(db, "select array[%s, %s]::timestamptz[]", FOUR, FIVE) == [at for _, at in first]


# --- Running -------------------------------------------------------------------------------------


def test_a_run_that_succeeds_says_how_much_it_wrote_and_how_long_it_took(db: Connection) -> None:
    fire(db, FOUR)
    [(run,)] = runs(db, "id")
    assert begin(db, run)
    end(db, run)
    assert runs(db, "status, attempts, rows, outcome, error, queue_job_id") == [
        ("succeeded", 1, 7, "seven", None, None)
    ]
    assert one(db, "select finished_at > started_at from app.cron_runs")


def test_a_run_that_fails_is_queued_until_no_attempt_is_left(db: Connection) -> None:
    fire(db, FOUR)
    [(run,)] = runs(db, "id")
    begin(db, run)
    end(db, run, "no answer\nof the server", is_final=False)
    assert runs(db, "status, attempts, error, finished_at") == [("queued", 1, "no answer", None)]
    begin(db, run)
    end(db, run, "no answer again")
    assert runs(db, "status, attempts, error, finished_at is not null, queue_job_id is null") == [
        ("failed", 2, "no answer again", True, False)
    ]


def test_a_run_tried_again_after_all_forgets_its_error(db: Connection) -> None:
    fire(db, FOUR)
    [(run,)] = runs(db, "id")
    begin(db, run)
    end(db, run, "no answer")
    assert begin(db, run)
    assert runs(db, "status, finished_at") == [("running", None)]
    end(db, run)
    assert runs(db, "status, attempts, error") == [("succeeded", 2, None)]


def test_a_run_whose_worker_died_begins_again_but_not_once_it_has_succeeded(
    db: Connection,
) -> None:
    fire(db, FOUR)
    [(run,)] = runs(db, "id")
    assert [begin(db, run), begin(db, run)] == [True, True]
    end(db, run)
    end(db, run, "told too late")
    assert not begin(db, run)
    assert runs(db, "status, attempts, error") == [("succeeded", 2, None)]


def test_a_run_of_an_organisation_that_is_gone_does_not_begin(db: Connection) -> None:
    assert not begin(db, uuid4())


def test_a_held_job_gives_way_to_the_next_run_of_its_kind(db: Connection, world: World) -> None:
    fire(db, FOUR, world.a, world.b)
    for run, org in runs(db, "id, org_id"):
        begin(db, run)
        end(db, run, "broken" if org == world.a.org else None)
    held = one(db, "select queue_job_id from app.cron_runs where org_id = %s", world.a.org)
    db.execute("delete from pgqueuer.pgqueuer where id <> %s", (held,))
    leave_queue(db, "failed")
    other = one(db, "select app.enqueue('event.job', '{}', %s)", world.a.org)
    db.execute("update pgqueuer.pgqueuer set status = 'failed' where id = %s", (other,))
    assert fire(db, FIVE, world.a) == 1
    fresh = one(db, "select queue_job_id from app.cron_runs where status = 'queued'")
    assert {row[0] for row in db.execute("select id from pgqueuer.pgqueuer")} == {other, fresh}
    assert (
        one(
            db,
            "select count(*) from pgqueuer.pgqueuer_log where job_id = %s and status = 'deleted'",
            held,
        )
        == 1
    )
    assert set(runs(db, "status, error, queue_job_id")) == {
        ("failed", "broken", None),
        ("succeeded", None, None),
        ("queued", None, fresh),
    }


@pytest.mark.parametrize("is_running", [False, True])
def test_a_run_whose_job_is_gone_from_the_queue_is_closed_by_the_next(
    db: Connection, *, is_running: bool
) -> None:
    fire(db, FOUR)
    if is_running:
        begin(db, runs(db, "id")[0][0])
    leave_queue(db)
    assert fire(db, FIVE) == 1
    assert runs(db, "status, error, finished_at is not null") == [
        ("failed", "The queue lost the job.", True),
        ("queued", None, False),
    ]


# --- Pauses --------------------------------------------------------------------------------------


def pause(db: Connection, act: str, org: Org | None = None) -> bool:
    with as_worker(db):
        return bool(one(db, f"select app.{act}_cron_job(%s, %s)", JOB, org and org.org))


def test_a_paused_job_is_passed_over_and_not_caught_up(db: Connection) -> None:
    assert [pause(db, "pause"), pause(db, "pause")] == [True, False]
    assert fire(db, FOUR) == 0
    assert [pause(db, "resume"), pause(db, "resume")] == [True, False]
    assert fire(db, FOUR) is None
    assert runs(db) == []
    assert fire(db, FIVE) == 1


def test_a_job_paused_for_one_organisation_runs_for_the_others(
    db: Connection, world: World
) -> None:
    pause(db, "pause", world.a)
    assert fire(db, FOUR, world.a, world.b) == 1
    assert [org for org, *_ in runs(db)] == [world.b.org]
    leave_queue(db)
    assert not pause(db, "resume")
    assert pause(db, "resume", world.a)
    assert fire(db, FIVE, world.a, world.b) == 2


def test_a_paused_job_still_runs_by_hand(db: Connection, world: World) -> None:
    pause(db, "pause")
    pause(db, "pause", world.a)
    by_hand = "select app.enqueue_cron_runs(%s, app.now(), 'cron.run', %s)"
    with as_worker(db):
        assert one(db, by_hand, JOB, [world.a.org]) == 1
        assert one(db, by_hand, JOB, [world.a.org]) == 0
    # By hand is not at a fire time: those of the timetable are still to come.
    assert one(db, "select count(*) from app.cron_jobs") == 0


# --- Access --------------------------------------------------------------------------------------


def test_who_administers_an_organisation_reads_its_runs_and_no_others(
    db: Connection, world: World
) -> None:
    fire(db, FOUR, world.a, world.b)
    leave_queue(db)
    fire(db, FIVE)
    for role in ("owner", "admin"):
        with as_member(db, world.a, role):
            assert db.execute("select org_id from public.cron_runs").fetchall() == [(world.a.org,)]
    for role in ("director", "employee", "client"):
        with as_member(db, world.a, role):
            assert one(db, "select count(*) from public.cron_runs") == 0
    with as_anon(db), denied():
        db.execute("select * from public.cron_runs")
    with as_worker(db):
        assert one(db, "select count(*) from public.cron_runs") == 3


def test_members_neither_fire_nor_write_runs(db: Connection, world: World) -> None:
    fire(db, FOUR, world.a)
    with as_member(db, world.a, "owner"):
        for call in (
            "app.fire_cron_job('a.job', now(), 'cron.run', null)",
            "app.enqueue_cron_runs('a.job', now(), 'cron.run', null)",
            "app.begin_cron_run(gen_random_uuid())",
            "app.finish_cron_run(gen_random_uuid(), 1, '')",
            "app.fail_cron_run(gen_random_uuid(), '', true)",
            "app.pause_cron_job('a.job', null)",
            "app.resume_cron_job('a.job', null)",
            "app.follow_cron_jobs('{}')",
            "app.active_org_ids()",
        ):
            with denied():
                db.execute(f"select {call}")
        with denied():
            db.execute("update public.cron_runs set status = 'succeeded'")
        with denied():
            db.execute("delete from app.cron_runs")
