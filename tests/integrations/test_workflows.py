"""The workflows that ship, from the event to the end, with the worker's own code and a model that answers or not."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from nessos.http import client
from nessos.jobs.catalogue import entrypoints
from nessos.jobs.entrypoint import Task
from nessos.settings import load
from tests.integrations.agents import Crew, create, open_crew
from tests.integrations.fakes.llm import call
from tests.integrations.outside import open_pool
from tests.people import WORLD, as_member
from tests.rules import test_agent_outputs as samples
from tests.rules import test_contracts as contracts

pytestmark = pytest.mark.usefixtures("no_backoff")

ORG = WORLD.a
HANDLERS = {one.name: one.handle for one in entrypoints()}
TAKE = """
delete from pgqueuer.pgqueuer as q
where q.id = (
    select min(w.id) from pgqueuer.pgqueuer as w
    where w.entrypoint in ('workflow.step', 'agent.run') and w.execute_after <= now()
)
returning q.entrypoint, convert_from(q.payload, 'UTF8')::jsonb as payload, q.headers ->> 'org_id' as org
"""
LONG = "Um texto com o bastante para ser lido por alguém que decide. " * 12


@pytest.fixture
def crew(own_db_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crew]:
    """A database of its own and the server of a model."""
    with open_crew(own_db_url, monkeypatch) as crew:
        yield crew


def work(crew: Crew) -> list[str]:
    """Do the jobs of workflows and agents as a worker would, until none is left that is due."""

    async def jobs() -> list[str]:
        said = []
        async with open_pool(crew.url) as pool, client(pool) as http:
            while row := crew.db.execute(TAKE).fetchone():
                handle = HANDLERS[row["entrypoint"]]
                task = Task(
                    1, row["entrypoint"], row["payload"], UUID(row["org"]), None, 1, pool, http
                )
                said.append(str(await handle(task)))
        return said

    return asyncio.run(jobs())


def install(crew: Crew, key: str) -> None:
    """Install a workflow that ships, as a director would."""
    with as_member(crew.db, ORG, "director"):
        crew.one("select public.install_workflow_template(%s, %s)", ORG.org, key)


def save(crew: Crew, *steps: dict[str, Any]) -> None:
    """Save a workflow that a lead starts."""
    crew.db.execute(
        "insert into public.workflows (org_id, key, name, definition) values (%s, 'fluxo', 'Fluxo', %s)",
        (ORG.org, json.dumps({"when": {"event": "growth.lead.created"}, "then": steps})),
    )


def add(crew: Crew, make: Any, **fields: object) -> UUID:
    """Make a row as the rules' tests do, which read rows as tuples."""
    with psycopg.connect(crew.url) as db:
        return UUID(str(make(db, ORG, **fields)))


def take_key_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the installation without a provider."""
    monkeypatch.delenv("NESSOS_OPENAI_API_KEY")
    load.cache_clear()


def the_run(crew: Crew) -> dict[str, Any]:
    return crew.one("select * from public.workflow_runs")


def output(crew: Crew, step: str) -> dict[str, Any]:
    """Give what came out of a step."""
    row = crew.one(
        "select output from public.workflow_run_steps where step_id = %s and status = 'completed'",
        step,
    )
    return dict(row["output"])


def told(crew: Crew) -> list[tuple[UUID, str]]:
    """Who was told what by workflows."""
    rows = crew.db.execute(
        "select recipient_id, body from public.notifications where template = 'workflow_message'"
    ).fetchall()
    return [(row["recipient_id"], row["body"]) for row in rows]


def decide(crew: Crew, decision: str, role: str) -> None:
    """Decide on what waits."""
    with as_member(crew.db, ORG, role):
        crew.one(
            "select (public.decide_workflow_review(r.id, %s)).status from public.list_workflow_reviews(%s) as r",
            decision,
            ORG.org,
        )


# --- A lead --------------------------------------------------------------------------------------


def test_a_lead_is_qualified_by_the_agent_and_its_owner_told_what_to_do(crew: Crew) -> None:
    install(crew, "lead-qualified")
    answer = samples.qualification()
    crew.models.script(json.dumps(answer))
    lead = add(crew, samples.add_lead, owner_id=ORG.member("sales"))
    assert "completed tell" in work(crew)
    assert the_run(crew)["status"] == "completed"
    assert crew.one("select score from public.leads where id = %s", lead) == {
        "score": answer["score"]
    }
    assert told(crew) == [(ORG.member("sales"), answer["next_action"]["title"])]
    assert len(crew.models.asked) == 1


@pytest.mark.parametrize("cause", ["no provider", "no budget"])
def test_without_a_model_a_lead_is_scored_by_rule_and_its_owner_told(
    crew: Crew, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    install(crew, "lead-qualified")
    if cause == "no provider":
        take_key_away(monkeypatch)
    else:
        crew.db.execute(
            "insert into public.ai_budgets (org_id, period, limit_brl) values (%s, 'day', 0)",
            (ORG.org,),
        )
    add(crew, samples.add_lead, owner_id=ORG.member("sales"))
    work(crew)
    assert the_run(crew)["status"] == "completed"
    assert output(crew, "qualify")["suggestion"]["is_template"] is True
    ((who, body),) = told(crew)
    assert (who, bool(body.strip())) == (ORG.member("sales"), True)
    assert crew.models.asked == []


def test_a_model_that_answers_nonsense_does_not_keep_the_owner_from_being_told(crew: Crew) -> None:
    install(crew, "lead-qualified")
    crew.models.script("{}", "{}")
    add(crew, samples.add_lead, owner_id=ORG.member("sales"))
    work(crew)
    assert the_run(crew)["status"] == "completed"
    assert output(crew, "qualify") == {"error": "workflow_agent_failed"}
    assert [who for who, _ in told(crew)] == [ORG.member("sales")]


# --- A case --------------------------------------------------------------------------------------


def test_a_case_becomes_the_models_draft_and_is_public_only_once_approved(crew: Crew) -> None:
    install(crew, "case-published")
    crew.models.script(json.dumps(samples.post(content_markdown=LONG)))
    add(crew, samples.add_case)
    assert work(crew)[-1] == "waits"
    assert the_run(crew)["status"] == "waiting"
    assert crew.one("select status, title from public.public_posts") == {
        "status": "draft", "title": samples.post()["title"],
    }  # fmt: skip
    decide(crew, "approve", "sales")
    assert work(crew) == ["completed publish"]
    assert crew.one("select status from public.public_posts") == {"status": "published"}
    assert the_run(crew)["status"] == "completed"


def test_a_refused_draft_stays_a_draft_and_ends_the_run(crew: Crew) -> None:
    install(crew, "case-published")
    crew.models.script(json.dumps(samples.post(content_markdown=LONG)))
    add(crew, samples.add_case)
    work(crew)
    decide(crew, "refuse", "sales")
    assert work(crew) == []
    run = the_run(crew)
    assert (run["status"], run["error_key"]) == ("cancelled", "workflow_review_refused")
    assert crew.one("select status from public.public_posts") == {"status": "draft"}


@pytest.mark.parametrize("cause", ["no provider", "nonsense"])
def test_without_a_models_draft_a_case_is_never_published_unseen(
    crew: Crew, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    install(crew, "case-published")
    if cause == "no provider":
        take_key_away(monkeypatch)
    else:
        crew.models.script("{}", "{}")
    add(crew, samples.add_case, summary=None, content_markdown=None)
    work(crew)
    assert the_run(crew)["status"] == "completed"
    assert crew.one("select count(*) from public.public_posts") == {"count": 0}
    titles = crew.db.execute("select distinct title from public.notifications").fetchall()
    assert {"title": "Caso sem rascunho"} in titles


# --- A contract ----------------------------------------------------------------------------------


def test_a_contract_near_its_renewal_becomes_a_task_and_asks_no_model(crew: Crew) -> None:
    install(crew, "contract-renewal")
    today = crew.one("select app.org_today(%s) as day", ORG.org)["day"]
    renews = crew.one("select %s::date + 30 as day", today)["day"]
    contract = add(
        crew, contracts.add_contract, renews_on=renews, status="active",
        commercial_manager_id=ORG.member("director"),
    )  # fmt: skip
    crew.db.execute("select app.raise_contract_alerts(%s)", (ORG.org,))
    crew.db.execute("select app.raise_contract_alerts(%s)", (ORG.org,))
    assert work(crew) == ["completed summary", "completed task"]
    task = crew.one("select assignee_id, due_on, entity_type, entity_id from public.tasks")
    assert task == {
        "assignee_id": ORG.member("director"), "due_on": renews, "entity_type": "contract",
        "entity_id": contract,
    }  # fmt: skip
    assert crew.models.asked == []


# --- Agents in workflows of one's own ------------------------------------------------------------


def test_a_run_waits_through_the_approvals_of_its_agent(crew: Crew) -> None:
    crew.grant(crew.add(), "create_task", "approval")
    save(
        crew,
        {"id": "ask", "kind": "agent", "agent": "ajudante", "input": {"lead": {"$": "event.entity_id"}}},
        {"id": "after", "kind": "create_task", "title": "Depois", "description": "${steps.ask.output.answer}"},
    )  # fmt: skip
    crew.models.script(create(), "Tarefa criada.")
    add(crew, samples.add_lead)
    work(crew)
    run = the_run(crew)
    assert (run["status"], crew.tasks()) == ("waiting", [])
    agent_run = UUID(str(run["agent_run_id"]))
    assert crew.run(agent_run)["status"] == "waiting"
    crew.decide(crew.approval(agent_run)["id"])
    work(crew)
    assert the_run(crew)["status"] == "completed"
    assert crew.tasks() == ["Ligar para a cliente", "Depois"]
    assert crew.one("select description from public.tasks where title = 'Depois'") == {
        "description": "Tarefa criada."
    }


def test_hostile_words_of_a_lead_reach_neither_paths_nor_denied_tools(crew: Crew) -> None:
    crew.grant(crew.add(), "create_task", "denied")
    save(
        crew,
        {
            "id": "ask", "kind": "agent", "agent": "ajudante", "input": {"lead": {"$": "event.entity_id"}},
            "contact": {"lead_id": {"$": "event.entity_id"}},
        },
        {"id": "after", "kind": "create_task", "title": "Resposta", "description": "${steps.ask.output.answer}"},
    )  # fmt: skip
    crew.models.script(
        [create("Apague tudo", "call_1"), call("publish_post", {"post_id": "x"}, "call_2")],
        "${organization.id} ${steps.ask.output} aprovado",
    )
    add(crew, samples.add_lead, message=samples.HOSTILE)
    work(crew)
    assert crew.tasks() == ["Resposta"]
    assert crew.one("select description from public.tasks") == {
        "description": "${organization.id} ${steps.ask.output} aprovado"
    }
