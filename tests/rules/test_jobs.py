"""Jobs: what waits, in what order it is released, and what becomes of those that failed for good."""

import json
from typing import Any
from uuid import UUID

import pytest

from nessos.jobs.catalogue import entrypoints
from tests.jobs import add_job_type
from tests.people import (
    Connection,
    Org,
    World,
    as_agent,
    as_member,
    as_worker,
    denied,
    named_id,
    refused,
)


@pytest.fixture(autouse=True)
def job_types(db: Connection) -> None:
    """Two jobs that no worker knows."""
    add_job_type(db, "test.echo")
    add_job_type(db, "test.other")


def one(db: Connection, query: str, *parameters: Any) -> Any:
    """Give the first cell of the answer."""
    row = db.execute(query, parameters).fetchone()
    assert row is not None
    return row[0]


def enqueue(
    db: Connection, key: str | None = None, delay: str = "0", org: UUID | None = None
) -> int | None:
    """Enqueue one job; give its number."""
    job: int | None = one(db, "select app.enqueue('test.echo', '{}', %s, %s, %s)", org, key, delay)
    return job


def bulk(db: Connection, org: UUID | None, number: int, entrypoint: str = "test.echo") -> int:
    """Enqueue many jobs of an organisation; give how many."""
    payloads = [json.dumps({"n": n}) for n in range(number)]
    jobs: int = one(db, "select app.enqueue_bulk(%s, %s::jsonb[], %s)", entrypoint, payloads, org)
    return jobs


def release(db: Connection, size: int = 200) -> int:
    """Release what waits; give how much."""
    released: int = one(
        db,
        "select released from app.release_waiting_jobs('{test.echo,test.other}', %s)",
        size,
    )
    return released


def queued(db: Connection) -> list[tuple[Any, ...]]:
    """Give the jobs of the queue in the order a worker takes them."""
    return db.execute(
        "select entrypoint, headers ->> 'org_id', convert_from(payload, 'UTF8')::jsonb, priority"
        " from pgqueuer.pgqueuer where status = 'queued' order by priority desc, id"
    ).fetchall()


def start(db: Connection, number: int) -> None:
    """Take the first jobs out of the queue, as a worker that has done them."""
    db.execute(
        "delete from pgqueuer.pgqueuer where id in"
        " (select id from pgqueuer.pgqueuer where status = 'queued' order by priority desc, id limit %s)",
        (number,),
    )


def hold(
    db: Connection,
    org: Org | None,
    *,
    key: str | None = None,
    error: str = "provider says no",
    payload: str = "{}",
) -> int:
    """Put a held job into the queue, as a worker leaves it; give its number."""
    job: int = one(
        db,
        "insert into pgqueuer.pgqueuer (priority, entrypoint, payload, headers, dedupe_key, status, attempts)"
        " values (10, 'test.echo', convert_to(%s, 'UTF8'), jsonb_strip_nulls(jsonb_build_object('org_id', %s::uuid,"
        " 'deaths', 2)), %s, 'failed', 2) returning id",
        payload, org and org.org, key,
    )  # fmt: skip
    db.execute(
        "insert into pgqueuer.pgqueuer_log (job_id, status, entrypoint, priority, traceback)"
        " values (%s, 'failed', 'test.echo', 10, jsonb_build_object('exception_message', %s::text))",
        (job, error),
    )
    return job


def test_the_worker_and_the_database_know_the_same_jobs(db: Connection) -> None:
    rows = db.execute("select entrypoint from app.job_types where entrypoint not like 'test.%'")
    assert sorted(entry.name for entry in entrypoints()) == sorted(row[0] for row in rows)


def test_a_job_far_ahead_waits_outside_of_the_queue_until_it_is_due(
    db: Connection, world: World
) -> None:
    job = enqueue(db, delay="2 hours", org=world.a.org)
    assert job is not None
    assert (queued(db), release(db)) == ([], 0)
    db.execute("select set_config('app.now', (now() + interval '119 minutes')::text, true)")
    assert release(db) == 0
    db.execute("select set_config('app.now', (now() + interval '121 minutes')::text, true)")
    assert release(db) == 1
    assert queued(db) == [("test.echo", str(world.a.org), {}, 9)]
    assert one(db, "select count(*) from app.waiting_jobs") == 0
    assert one(db, "select bool_and(execute_after <= clock_timestamp()) from pgqueuer.pgqueuer")


@pytest.mark.parametrize("delay", ["0", "1 minute"])
def test_a_job_of_the_next_minute_is_in_the_queue(db: Connection, delay: str) -> None:
    assert enqueue(db, delay=delay) is not None
    assert len(queued(db)) == 1


@pytest.mark.parametrize(("first", "second"), [("0", "1 day"), ("1 day", "0"), ("1 day", "1 day")])
def test_a_dedupe_key_holds_wherever_the_job_waits(db: Connection, first: str, second: str) -> None:
    assert enqueue(db, "k", first) is not None
    assert enqueue(db, "k", second) is None
    assert enqueue(db, "other", second) is not None
    assert one(
        db,
        "select count(*) from (select dedupe_key from app.waiting_jobs"
        " union all select dedupe_key from pgqueuer.pgqueuer) as k where dedupe_key = 'k'",
    ) == 1  # fmt: skip


def test_bulk_work_leaves_out_what_waits_already(db: Connection, world: World) -> None:
    enqueue(db, "a")
    enqueue(db, "b", "1 day")
    many = "select app.enqueue_bulk('test.echo', %s::jsonb[], %s, %s)"
    payloads = ["{}"] * 5
    assert one(db, many, payloads, world.a.org, ["a", "b", "c", "c", None]) == 2
    assert one(db, many, payloads, world.a.org, ["a", "b", "c", "c", None]) == 1
    assert one(db, many, [], world.a.org, None) == 0


@pytest.mark.parametrize(("payloads", "keys"), [(["{}"], ["a", "b"]), (["{}", None], None)])
def test_bulk_work_with_gaps_is_refused(
    db: Connection, payloads: list[str | None], keys: list[str] | None
) -> None:
    with refused("bad_input"):
        db.execute("select app.enqueue_bulk('test.echo', %s::jsonb[], null, %s)", (payloads, keys))
    with refused("job_type_unknown"):
        db.execute("select app.enqueue_bulk('test.unknown', '{}')")


def test_bulk_work_is_released_in_slices_in_which_organisations_take_turns(
    db: Connection, world: World
) -> None:
    bulk(db, world.a.org, 1000)
    bulk(db, world.b.org, 3)
    bulk(db, None, 2)
    assert release(db, 10) == 9
    assert [org for _, org, _, _ in queued(db)].count(str(world.a.org)) == 4
    assert [org for _, org, _, _ in queued(db)].count(str(world.b.org)) == 3
    assert [payload["n"] for _, org, payload, _ in queued(db) if org == str(world.a.org)] == [
        0, 1, 2, 3,
    ]  # fmt: skip
    assert len({org for _, org, _, _ in queued(db)[:3]}) == 3
    assert release(db, 10) == 0
    start(db, 6)
    assert release(db, 10) == 7
    assert [org for _, org, _, _ in queued(db)].count(str(world.a.org)) > 7


def test_with_many_organisations_the_next_slice_goes_on_where_the_last_ended(
    db: Connection,
) -> None:
    orgs = sorted(named_id("many", n) for n in range(9))
    for org in orgs:
        db.execute(
            "insert into organizations (id, name, slug) values (%s, 'Muitas', %s)",
            (org, f"m-{org}"),
        )
        bulk(db, org, 5)
    served: list[str] = []
    for _ in range(9):
        assert release(db, 4) == 4
        served += [org for _, org, _, _ in queued(db)]
        start(db, 4)
    assert {served.count(str(org)) for org in orgs} == {4}


def test_single_jobs_go_before_bulk_work_of_their_class_but_not_for_ever(
    db: Connection, world: World
) -> None:
    bulk(db, world.a.org, 2)
    release(db)
    enqueue(db, org=world.b.org)
    assert [priority for *_, priority in queued(db)] == [10, 9, 9]
    db.execute("update pgqueuer.pgqueuer set created = created - interval '11 s'")
    release(db)
    assert [(org, priority) for _, org, _, priority in queued(db)] == [
        (str(world.a.org), 10), (str(world.a.org), 10), (str(world.b.org), 10),
    ]  # fmt: skip


def test_a_kind_of_job_that_gets_on_slowly_does_not_keep_others_waiting(
    db: Connection, world: World
) -> None:
    bulk(db, world.a.org, 50)
    assert release(db, 10) == 10
    bulk(db, world.b.org, 5, "test.other")
    assert release(db, 10) == 5


def test_jobs_that_wait_for_a_provider_do_not_fill_the_slice(db: Connection, world: World) -> None:
    bulk(db, world.a.org, 20)
    release(db, 10)
    db.execute("update pgqueuer.pgqueuer set execute_after = now() + interval '1 hour'")
    assert release(db, 10) == 10


def test_only_the_kinds_asked_for_are_released(db: Connection, world: World) -> None:
    bulk(db, world.a.org, 1)
    ask = "select released, is_more from app.release_waiting_jobs(%s)"
    assert db.execute(ask, (["test.other"],)).fetchone() == (0, False)
    assert db.execute(ask, (["test.echo"],)).fetchone() == (1, False)
    bulk(db, world.a.org, 500)
    assert db.execute(ask, (["test.echo"],)).fetchone() == (199, True)


def test_waiting_jobs_of_an_organisation_that_is_gone_go_with_it(db: Connection) -> None:
    bulk(db, named_id("gone"), 3)
    assert release(db) == 0
    assert (queued(db), one(db, "select count(*) from app.waiting_jobs")) == ([], 0)


def test_jobs_of_a_silent_worker_come_back_and_its_death_is_counted(db: Connection) -> None:
    for age in ("40 s", "20 s"):
        db.execute(
            "insert into pgqueuer.pgqueuer (priority, entrypoint, status, heartbeat, queue_manager_id)"
            " values (10, 'test.echo', 'picked', now() - %s::interval, gen_random_uuid())",
            (age,),
        )
    assert [one(db, "select app.recover_jobs('30 s')") for _ in range(2)] == [1, 0]
    row = db.execute(
        "select headers ->> 'deaths', queue_manager_id, attempts from pgqueuer.pgqueuer where status = 'queued'"
    ).fetchone()
    assert row == ("1", None, 0)


def test_an_admin_sees_the_failed_tasks_of_his_organisation_without_their_contents(
    db: Connection, world: World
) -> None:
    lead = named_id("lead")
    job = hold(
        db, world.a, error="refused\nDETAIL: more",
        payload=json.dumps({"lead_id": str(lead), "email": "ana@cliente.example", "n": 7}),
    )  # fmt: skip
    hold(db, world.b)
    hold(db, None)
    with as_member(db, world.a, "admin"):
        rows = db.execute(
            "select id, entrypoint, attempts, error, subject from failed_tasks(%s)", (world.a.org,)
        ).fetchall()
    assert rows == [(job, "test.echo", 3, "refused", {"lead_id": str(lead)})]


def test_failed_tasks_page_by_key(db: Connection, world: World) -> None:
    jobs = [hold(db, world.a) for _ in range(3)]
    page = "select array_agg(id) from failed_tasks(%s, %s, 2)"
    with as_member(db, world.a, "owner"):
        assert one(db, page, world.a.org, 0) == jobs[:2]
        assert one(db, page, world.a.org, jobs[1]) == jobs[2:]


@pytest.mark.parametrize("role", ["director", "ops", "employee", "client"])
def test_others_neither_see_nor_decide(db: Connection, world: World, role: str) -> None:
    job = hold(db, world.a)
    with as_member(db, world.a, role):
        with refused("not_allowed"):
            db.execute("select failed_tasks(%s)", (world.a.org,))
        with refused("failed_task_not_found"):
            db.execute("select retry_failed_task(%s)", (job,))
        with refused("failed_task_not_found"):
            db.execute("select discard_failed_task(%s, 'x')", (job,))


@pytest.mark.parametrize("org", ["b", None])
def test_a_held_job_of_another_or_of_the_installation_is_not_there(
    db: Connection, world: World, org: str | None
) -> None:
    job = hold(db, getattr(world, org) if org else None)
    with as_member(db, world.a, "owner"):
        with refused("failed_task_not_found"):
            db.execute("select retry_failed_task(%s)", (job,))
        with refused("failed_task_not_found"):
            db.execute("select discard_failed_task(%s, 'x')", (job,))
        with denied():
            db.execute("select app.retry_held_job(%s)", (job,))


def test_a_retried_task_has_all_its_attempts_again_and_tells_who_did_it(
    db: Connection, world: World
) -> None:
    job = hold(db, world.a, key="k")
    with as_member(db, world.a, "admin") as admin:
        assert one(db, "select retry_failed_task(%s)", job) == job
        with refused("failed_task_not_found"):
            db.execute("select retry_failed_task(%s)", (job,))
    row = db.execute(
        "select status::text, attempts, headers from pgqueuer.pgqueuer where id = %s", (job,)
    ).fetchone()
    assert row == ("queued", 0, {"org_id": str(world.a.org)})
    audit = db.execute(
        "select actor_id, action, changes from audit_log where table_name = 'failed_tasks'"
    ).fetchall()
    assert audit == [(admin, "update", {"status": ["failed", "queued"]})]
    assert one(
        db, "select payload from module_events where event_type = 'failed_task.retried'"
    ) == {"job_id": job, "entrypoint": "test.echo"}


@pytest.mark.parametrize("delay", ["0", "1 day"])
def test_a_task_whose_work_another_job_does_is_not_retried(
    db: Connection, world: World, delay: str
) -> None:
    job = hold(db, world.a, key="k")
    enqueue(db, "k", delay)
    with as_member(db, world.a, "admin"), refused("failed_task_superseded"):
        db.execute("select retry_failed_task(%s)", (job,))
    assert one(db, "select status::text from pgqueuer.pgqueuer where id = %s", job) == "failed"


def test_a_discarded_task_is_gone_and_the_reason_stays(db: Connection, world: World) -> None:
    job = hold(db, world.a)
    with as_member(db, world.a, "admin") as admin:
        for reason in ("", " ", None, "x" * 501):
            with refused("bad_input"):
                db.execute("select discard_failed_task(%s, %s)", (job, reason))
        assert one(db, "select discard_failed_task(%s, 'Cliente saiu')", job) == job
        with refused("failed_task_not_found"):
            db.execute("select discard_failed_task(%s, 'Cliente saiu')", (job,))
    assert one(db, "select count(*) from pgqueuer.pgqueuer where id = %s", job) == 0
    audit = db.execute(
        "select actor_id, action, changes ->> 'reason' from audit_log where table_name = 'failed_tasks'"
    ).fetchall()
    assert audit == [(admin, "delete", '[null, "Cliente saiu"]')]
    assert one(
        db, "select count(*) from module_events where event_type = 'failed_task.discarded'"
    ) == 1  # fmt: skip


def test_an_operator_decides_on_jobs_of_the_installation_too(db: Connection) -> None:
    retried, discarded = hold(db, None), hold(db, None)
    with as_worker(db):
        assert one(db, "select app.retry_held_job(%s)", retried) == retried
        assert one(db, "select app.discard_held_job(%s, 'obsolete')", discarded) == discarded


def test_an_agent_decides_nothing(db: Connection, world: World) -> None:
    job = hold(db, world.a)
    with as_agent(db, world.a), refused("failed_task_not_found"):
        db.execute("select retry_failed_task(%s)", (job,))


def test_the_state_of_the_queue_counts_both_places(db: Connection, world: World) -> None:
    enqueue(db)
    enqueue(db, delay="30 s")
    enqueue(db, delay="1 day")
    bulk(db, world.a.org, 3)
    hold(db, world.a)
    db.execute(
        "insert into pgqueuer.pgqueuer (priority, entrypoint, status) values (0, 'nobody.knows', 'queued')"
    )
    rows = db.execute(
        "select latency_class, entrypoint, ready, later, running, held from app.queue_state()"
        " where ready + held > 0"
    ).fetchall()
    assert rows == [("default", "test.echo", 4, 2, 0, 1), (None, "nobody.knows", 1, 0, 0, 0)]


def test_the_log_of_the_queue_is_kept_for_a_fortnight_and_as_long_as_a_job_is_held(
    db: Connection, world: World
) -> None:
    held = hold(db, world.a)
    gone = enqueue(db)
    start(db, 1)
    recent = enqueue(db)
    db.execute(
        "update pgqueuer.pgqueuer_log set created = created - interval '15 days' where job_id <> %s",
        (recent,),
    )
    assert one(db, "select app.clean_job_log() ->> 'pgqueuer_log'") == "1"
    left = db.execute("select distinct job_id from pgqueuer.pgqueuer_log").fetchall()
    assert {row[0] for row in left} == {held, recent} != {gone}
