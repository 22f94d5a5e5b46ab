"""What an operator sees of the queue and does about jobs that failed for good."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from nessos.checks.doctor import _queue
from nessos.jobs import queue
from tests.cli.test_commands import answer, run
from tests.jobs import add_job_type
from tests.people import Connection, World


@pytest.fixture
def db(db_url: str) -> Iterator[Connection]:
    """The owner's connection; two held jobs of organisation a, one of the installation."""
    with psycopg.connect(db_url, autocommit=True) as connection:
        add_job_type(connection, "test.echo")
        connection.execute("truncate pgqueuer.pgqueuer, app.waiting_jobs, app.job_slices")
        yield connection


def hold(db: Connection, world: World | None, key: str | None = None) -> int:
    row = db.execute(
        "insert into pgqueuer.pgqueuer (priority, entrypoint, payload, headers, dedupe_key, status)"
        " values (10, 'test.echo', '{}', jsonb_strip_nulls(jsonb_build_object('org_id', %s::uuid)), %s, 'failed')"
        " returning id",
        (world and world.a.org, key),
    ).fetchone()
    assert row is not None
    return int(row[0])


def statuses(db: Connection) -> dict[int, str]:
    return dict(db.execute("select id, status::text from pgqueuer.pgqueuer").fetchall())


def test_the_list_shows_each_kind_of_job_there_is(
    db: Connection, db_url: str, world: World
) -> None:
    hold(db, world)
    db.execute("select app.enqueue('test.echo', '{}')")
    db.execute("select app.enqueue('test.echo', '{}', delay => '1 day')")
    rows = answer(db_url, "jobs", "list")
    assert [(row["entrypoint"], row["ready"], row["later"], row["held"]) for row in rows] == [
        ("test.echo", 1, 1, 1)
    ]
    assert rows[0]["oldest_wait_s"] >= 0
    assert {"event.job", "test.echo"} <= {
        row["entrypoint"] for row in answer(db_url, "jobs", "list", "--all")
    }
    assert "oldest wait s" in run(db_url, "jobs", "list").stdout


def test_failed_jobs_are_listed_by_organisation_and_kind(
    db: Connection, db_url: str, world: World
) -> None:
    jobs = [hold(db, world), hold(db, None)]
    assert [(row["id"], row["org"]) for row in answer(db_url, "jobs", "failed")] == [
        (jobs[0], "alfa"), (jobs[1], None),
    ]  # fmt: skip
    assert [row["id"] for row in answer(db_url, "jobs", "failed", "--org", "alfa")] == jobs[:1]
    assert answer(db_url, "jobs", "failed", "--org", "beta") == []
    assert answer(db_url, "jobs", "failed", "--entrypoint", "event.job") == []


def test_jobs_are_retried_by_number_or_all_and_each_tells_its_result(
    db: Connection, db_url: str, world: World
) -> None:
    first, superseded, third = hold(db, world), hold(db, world, "k"), hold(db, None)
    db.execute("select app.enqueue('test.echo', '{}', null, 'k')")
    dry = answer(db_url, "jobs", "retry", "--all", "--org", "alfa", "--dry-run")
    assert [row["job"] for row in dry] == [first, superseded]
    done = run(db_url, "jobs", "retry", str(first), "--yes")
    assert (done.returncode, statuses(db)[first]) == (0, "queued")
    again = run(db_url, "jobs", "retry", str(first), "--yes")
    assert (again.returncode, "failed_task_not_found" in again.stdout) == (1, True)
    rest = run(db_url, "jobs", "retry", "--all", "--yes")
    assert rest.returncode == 3
    assert "1 of 2 refused" in rest.stderr
    assert (statuses(db)[superseded], statuses(db)[third]) == ("failed", "queued")


def test_jobs_are_discarded_with_a_reason(db: Connection, db_url: str, world: World) -> None:
    job = hold(db, world)
    assert run(db_url, "jobs", "discard", str(job), "--yes").returncode == 2
    assert run(db_url, "jobs", "discard", str(job), "--reason", " ", "--yes").returncode == 1
    assert run(db_url, "jobs", "discard", str(job), "--reason", "obsolete").returncode == 1
    assert statuses(db) == {job: "failed"}
    assert run(db_url, "jobs", "discard", str(job), "--reason", "obsolete", "--yes").returncode == 0
    assert statuses(db) == {}
    assert db.execute(
        "select changes -> 'reason' ->> 1 from audit_log where row_id = %s", (str(job),)
    ).fetchone() == ("obsolete",)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("jobs", "retry"), "name jobs"),
        (("jobs", "retry", "1", "--all"), "name jobs"),
        (("jobs", "retry", "1", "--org", "alfa"), "go with --all"),
        (("jobs", "retry", "--all", "--org", "nowhere"), "there is no organisation nowhere"),
        (("worker", "--queues", "urgent"), "no such class"),
        (("worker", "--concurrency", "0"), "Invalid value"),
    ],
)
def test_a_mistake_names_the_way_out(
    db: Connection, db_url: str, arguments: tuple[str, ...], words: str
) -> None:
    assert statuses(db) == {}
    done = run(db_url, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_takes_only_the_jobs_of_its_classes(db: Connection, db_url: str) -> None:
    add_job_type(db, "test.late", latency_class="low_priority")
    kept = db.execute("select app.enqueue('test.late', '{}')").fetchone()
    rollup = db.execute(
        "select app.enqueue('event.job', jsonb_build_object('subscription_id', gen_random_uuid(),"
        " 'event_id', gen_random_uuid(), 'occurred_at', now()), (select id from organizations limit 1))"
    ).fetchone()
    assert run(db_url, "worker", "--drain", "--queues", "low_priority").returncode in {0, None}
    assert kept is not None
    assert rollup is not None
    assert statuses(db) == {kept[0]: "queued", rollup[0]: "queued"}
    done = run(db_url, "worker", "--drain", "--queues", "high_priority, default")
    assert done.returncode == 0, done.stderr
    assert statuses(db) == {kept[0]: "queued"}


def test_doctor_tells_of_held_late_and_unknown_jobs(db: Connection, world: World) -> None:
    with psycopg.connect(db.info.dsn, row_factory=psycopg.rows.dict_row) as operator:
        assert _queue(operator) == []
        assert str(queue.backlog(operator)) == "empty"
        hold(db, world)
        db.execute(
            "insert into pgqueuer.pgqueuer (priority, entrypoint, status, execute_after)"
            " values (0, 'nobody.knows', 'queued', now() - interval '10 minutes')"
        )
        operator.commit()
        found: list[Any] = [(one.what, one.remedy) for one in _queue(operator)]
        assert ("1 jobs are held", "nessos jobs failed") in found
        assert any(what.startswith("a job has been ready for 600 s") for what, _ in found)
        assert any("nobody.knows" in what for what, _ in found)
        assert str(queue.backlog(operator)) == "1 ready, 1 held, the oldest for 600 s"
