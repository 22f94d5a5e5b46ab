"""Workflows among concurrent sessions: one decision counts, one worker does a step, one runner starts what is due."""

import json
import threading
from typing import Any

import psycopg
import pytest

from tests.people import World, as_member

STEPS: list[dict[str, Any]] = [
    {"id": "ask", "kind": "human_review", "title": "Decida", "reviewer": {"role": "sales"}},
    {"id": "task", "kind": "create_task", "title": "Ligar"},
]


def save(url: str, world: World, when: dict[str, str], steps: list[dict[str, Any]]) -> None:
    with psycopg.connect(url) as db:
        db.execute(
            "insert into public.workflows (org_id, key, name, definition) values (%s, 'fluxo', 'Fluxo', %s)",
            (world.a.org, json.dumps({"when": when, "then": steps})),
        )


def begin(url: str, world: World) -> str:
    """Start a run; give its id."""
    with psycopg.connect(url) as db:
        db.execute(
            "insert into public.leads (org_id, name, email) values (%s, 'Zé Lima', 'ze@lima.example')",
            (world.a.org,),
        )
        row = db.execute("select id from public.workflow_runs").fetchone()
        assert row
    return str(row[0])


def waiting_for_a_lock(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as db:
        while db.execute("select count(*) from pg_locks where not granted").fetchone() == (0,):
            pass


@pytest.mark.parametrize("second", ["approve", "refuse"])
def test_of_two_decisions_at_once_one_counts_and_the_other_is_told(
    own_db_url: str, world: World, second: str
) -> None:
    save(own_db_url, world, {"event": "growth.lead.created"}, STEPS)
    run = begin(own_db_url, world)
    with psycopg.connect(own_db_url) as db:
        db.execute("select app.run_workflow_step(%s, %s, 0, 1)", (world.a.org, run))
        row = db.execute("select id from public.workflow_reviews").fetchone()
        assert row
    answers: list[str] = []

    def decide() -> None:
        with psycopg.connect(own_db_url) as db, as_member(db, world.a, "sales"):
            try:
                db.execute("select public.decide_workflow_review(%s, %s)", (row[0], second))
                answers.append("decided")
            except psycopg.Error as error:
                answers.append(f"{error.sqlstate} {error.diag.message_primary}")
                db.rollback()

    with psycopg.connect(own_db_url) as first:
        with as_member(first, world.a, "sales"):
            first.execute("select public.decide_workflow_review(%s, 'approve')", (row[0],))
        other = threading.Thread(target=decide)
        other.start()
        waiting_for_a_lock(own_db_url)
        first.commit()
    other.join()
    assert answers == ["PT409 workflow_review_decided"]
    with psycopg.connect(own_db_url) as db:
        assert db.execute("select status from public.workflow_reviews").fetchall() == [
            ("approved",)
        ]
        jobs = db.execute(
            "select count(*) from pgqueuer.pgqueuer where convert_from(payload, 'UTF8')::jsonb ->> 'step' = '1'"
        ).fetchone()
        assert jobs == (1,)


def test_two_workers_at_one_step_do_it_once(own_db_url: str, world: World) -> None:
    save(own_db_url, world, {"event": "growth.lead.created"}, STEPS[1:])
    run = begin(own_db_url, world)
    said: list[str] = []

    def step(db: psycopg.Connection[Any]) -> None:
        answer = db.execute(
            "select app.run_workflow_step(%s, %s, 0, 1)", (world.a.org, run)
        ).fetchone()
        assert answer
        said.append(answer[0])

    def work() -> None:
        with psycopg.connect(own_db_url) as db:
            step(db)

    with psycopg.connect(own_db_url) as first:
        step(first)
        other = threading.Thread(target=work)
        other.start()
        waiting_for_a_lock(own_db_url)
        first.commit()
    other.join()
    assert said == ["completed task", "done before"]
    with psycopg.connect(own_db_url) as db:
        assert db.execute("select count(*) from public.tasks").fetchone() == (1,)


def test_two_runners_start_what_is_due_once(own_db_url: str, world: World) -> None:
    save(own_db_url, world, {"cron": "* * * * *"}, STEPS)
    with psycopg.connect(own_db_url) as db:
        db.execute("update public.workflows set next_due_at = app.now() - interval '1 hour'")
    with psycopg.connect(own_db_url) as one, psycopg.connect(own_db_url) as another:
        assert one.execute("select app.start_due_workflows()").fetchone() == (1,)
        assert another.execute("select app.start_due_workflows()").fetchone() == (0,)
        one.commit()
        assert another.execute("select app.start_due_workflows()").fetchone() == (0,)
    with psycopg.connect(own_db_url) as db:
        assert db.execute("select count(*) from public.workflow_runs").fetchone() == (1,)
