"""A worker killed inside and after every kind of step: each effect is there once, whatever died when."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.faults.test_agents import worker
from tests.faults.test_worker import until
from tests.integrations.agents import ORG, Crew, open_crew
from tests.people import WORLD, as_member

HOOK = "https://hooks.rosto.example/"
# A row of a step waits while the test holds (4, twice its place, and one when it is done): the order in which
# they come. The note that a job of a step is over waits while it holds (5, its place).
GATES = """
create function app.hold_step() returns trigger language plpgsql as $$
begin
    perform pg_advisory_xact_lock(4, 2 * new.step + (new.status = 'completed')::integer);
    return new;
end $$;
create trigger workflow_run_steps_99_hold before insert on public.workflow_run_steps
for each row execute function app.hold_step();
create function app.hold_job() returns trigger language plpgsql as $$
begin
    perform pg_advisory_xact_lock(5, (convert_from(old.payload, 'UTF8')::jsonb ->> 'step')::integer);
    return old;
end $$;
create trigger pgqueuer_99_hold before delete on pgqueuer.pgqueuer
for each row when (old.entrypoint = 'workflow.step') execute function app.hold_job();
"""
HELD = "select pid from pg_locks where locktype = 'advisory' and not granted and classid = %s and objid = %s and database = (select oid from pg_database where datname = current_database())"


@pytest.fixture
def crew(own_db_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crew]:
    """An agent, its model, and gates at every step."""
    with open_crew(own_db_url, monkeypatch) as crew:
        crew.add()
        crew.db.execute(GATES)
        yield crew


@contextlib.contextmanager
def killed(crew: Crew, gate: tuple[int, int], *closed: int) -> Iterator[None]:
    """Let a worker come to a gate, and end it and its connections there; what may come next is closed."""
    with psycopg.connect(crew.url) as holder:
        for key in (gate, *((4, place) for place in closed)):
            holder.execute("select pg_advisory_xact_lock(%s, %s)", key)
        with worker(crew) as victim:
            until(lambda: crew.db.execute(HELD, gate).fetchone())
            yield
            victim.kill()
            victim.wait()
        # What a dead client has asked for is not finished in its name.
        crew.db.execute(
            "select pg_terminate_backend(pid) from pg_locks"
            " where not granted and locktype = 'advisory' and classid in (4, 5)"
        )


def states(crew: Crew, step: int) -> list[str]:
    """What is written of a step."""
    rows = crew.db.execute(
        "select status from public.workflow_run_steps where step = %s order by status desc", (step,)
    )
    return [row["status"] for row in rows.fetchall()]


def test_every_kind_of_step_has_its_effect_once_wherever_workers_die(crew: Crew) -> None:
    endpoint = crew.one(
        "select public.create_webhook_endpoint(%s, %s, array['data.*']) ->> 'id' as id", ORG, HOOK
    )["id"]
    steps: list[dict[str, Any]] = [
        {"id": "tell", "kind": "notify", "to": {"role": "sales"}, "title": "Lead", "text": "Novo"},
        {"id": "task", "kind": "create_task", "title": "Ligar"},
        {"id": "send", "kind": "webhook", "endpoint": endpoint},
        {"id": "wait", "kind": "delay", "for": "1 second"},
        {"id": "ask", "kind": "agent", "agent": "ajudante", "input": {"pedido": "Diga oi"}},
        {"id": "decide", "kind": "human_review", "title": "Siga?", "reviewer": {"role": "sales"}},
        {
            "id": "give", "kind": "function", "function": "assign_lead",
            "arguments": {"lead_id": {"$": "event.entity_id"}, "person_id": str(WORLD.a.member("sales"))},
        },
    ]  # fmt: skip
    crew.models.respond = lambda _asked: "Oi."
    crew.db.execute(
        "insert into public.workflows (org_id, key, name, definition) values (%s, 'fluxo', 'Fluxo', %s)",
        (ORG, json.dumps({"when": {"event": "growth.lead.created"}, "then": steps})),
    )
    crew.one(
        "insert into public.leads (org_id, name, email) values (%s, 'Zé', 'ze@lima.example') returning id",
        ORG,
    )
    for place, step in enumerate(steps):
        begun, done = 2 * place, 2 * place + 1
        if step["kind"] in {"delay", "agent", "human_review"}:
            with killed(crew, (4, begun)):
                assert states(crew, place) == []
            with killed(crew, (5, place), done):
                until(lambda place=place: states(crew, place) == ["waiting"])  # type: ignore[misc]
        if step["kind"] == "human_review":
            with as_member(crew.db, ORG, "sales"):
                crew.one(
                    "select (public.decide_workflow_review(id, 'approve')).status from public.list_workflow_reviews(%s)",
                    ORG,
                )
            continue
        with killed(crew, (4, done)):
            assert "completed" not in states(crew, place)
        assert "completed" not in states(crew, place)
        with killed(crew, (5, place), done + 1, done + 2):
            until(lambda place=place: "completed" in states(crew, place))  # type: ignore[misc]
    with worker(crew):
        until(lambda: crew.one("select status from public.workflow_runs")["status"] == "completed")
    counted = crew.db.execute(
        "select step_id, count(*) as times from public.workflow_run_steps where status = 'completed' group by step_id"
    ).fetchall()
    assert {row["step_id"]: row["times"] for row in counted} == {step["id"]: 1 for step in steps}
    effects = crew.one(
        "select (select count(*) from public.notifications where template = 'workflow_message') as told,"
        " (select count(*) from public.tasks) as tasks,"
        " (select count(*) from public.webhook_deliveries) as sent,"
        " (select count(*) from public.agent_runs) as agents,"
        " (select count(*) from public.workflow_reviews) as reviews,"
        " (select max(attempt) from public.workflow_run_steps) as attempts,"
        " (select count(*) from public.module_events where event_type = 'workflow_run.completed') as ends"
    )
    assert set(effects.values()) == {1}, effects
    assert crew.one("select owner_id from public.leads")["owner_id"] == WORLD.a.member("sales")
