"""Agents that write, from the request to the draft, with a model that answers well, badly or not at all."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from nessos.errors import UpstreamError
from nessos.settings import load
from tests.integrations.agents import Crew, open_crew
from tests.integrations.fakes.llm import Asked, out_of_money
from tests.people import WORLD, as_member
from tests.rules import test_agent_outputs as samples

pytestmark = pytest.mark.usefixtures("no_backoff")

LONG = "Um texto com o bastante para ser lido por alguém que decide. " * 12


@pytest.fixture
def crew(own_db_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crew]:
    """A database of its own and the server of a model."""
    with open_crew(own_db_url, monkeypatch) as crew:
        yield crew


def said(output: dict[str, Any]) -> str:
    """Give an answer as a model writes it."""
    return json.dumps(output, ensure_ascii=False)


def add(crew: Crew, make: Any, **fields: object) -> UUID:
    """Make a row as the rules' tests do, which read rows as tuples."""
    with psycopg.connect(crew.url) as db:
        return UUID(str(make(db, WORLD.a, **fields)))


def ask(crew: Crew, role: str, call: str, *arguments: object) -> dict[str, Any]:
    """Ask for a suggestion as a member."""
    with as_member(crew.db, WORLD.a, role):
        row = crew.one(f"select to_jsonb(s) as s from public.{call} as s", *arguments)
    return dict(row["s"])


def state(crew: Crew, asked: dict[str, Any]) -> dict[str, Any]:
    """Give the suggestion as it is now."""
    return crew.one("select * from public.agent_suggestions where id = %s", asked["id"])


KINDS = {
    "proposal_writer": (
        "sales", "draft_proposal_with_ai(%s, array[%s], client => %s)", samples.add_service,
        samples.proposal(scope_markdown=LONG), "proposal",
    ),
    "catalogue_copywriter": (
        "sales", "suggest_service_copy(%s)", samples.add_service,
        samples.service_copy(description_markdown=LONG), None,
    ),
    "case_to_post": (
        "sales", "draft_post_from_case(%s)", samples.add_case,
        samples.post(content_markdown=LONG), "post",
    ),
    "clause_risk_analyst": (
        "legal", "analyze_clauses(%s, %s)", None,
        samples.risks(samples.risk("sigilo por prazo indeterminado", "medium")),
        "contract_risk_analysis",
    ),
    "lead_qualifier": (
        "director", "qualify_lead(%s)", samples.add_lead, samples.qualification(), None,
    ),
    "gap_to_playbook": (
        "director", "draft_playbook_from_gap(%s)", samples.add_gap,
        samples.playbook(content_markdown=LONG), "playbook",
    ),
}  # fmt: skip


def ask_kind(crew: Crew, kind: str) -> tuple[dict[str, Any], dict[str, Any], str | None]:
    """Ask for what a kind writes; gives the suggestion, a good answer and the type of its draft."""
    role, call, make, output, draft = KINDS[kind]
    org = WORLD.a.org
    match kind:
        case "clause_risk_analyst":
            arguments: tuple[object, ...] = (org, samples.CLAUSES)
        case "proposal_writer":
            arguments = (org, add(crew, make), WORLD.a.client)
        case _:
            arguments = (add(crew, make),)
    return ask(crew, role, call, *arguments), output, draft


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_answer_becomes_what_was_asked_for(crew: Crew, kind: str) -> None:
    asked, output, draft = ask_kind(crew, kind)
    crew.models.script(said(output))
    assert crew.work(asked["run_id"]) == "completed"
    written = state(crew, asked)
    expected = "accepted" if kind == "lead_qualifier" else "open"
    assert (written["status"], written["draft_type"]) == (expected, draft)
    assert not written["is_template"]
    assert crew.models.asked[0].tools == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_answer_is_repaired_once(crew: Crew, kind: str) -> None:
    asked, output, _ = ask_kind(crew, kind)
    crew.models.script(said({"oi": 1}), said(output))
    assert crew.work(asked["run_id"]) == "completed"
    assert "What is wrong:" in crew.models.asked[1].last
    assert state(crew, asked)["status"] in {"open", "accepted"}


@pytest.mark.parametrize("kind", KINDS)
def test_two_bad_answers_store_nothing(crew: Crew, kind: str) -> None:
    asked, output, _ = ask_kind(crew, kind)
    tables = ("proposals", "public_posts", "contract_risk_analyses", "playbooks", "tasks")
    count = " + ".join(f"(select count(*) from public.{table})" for table in tables)
    before = crew.one(f"select {count} as rows")
    crew.models.script(said({}), said(output | {"status": "published"}))
    assert crew.work(asked["run_id"]) == "output"
    failed = state(crew, asked)
    assert (failed["status"], failed["output"]) == ("failed", None)
    assert crew.one(f"select {count} as rows") == before


def test_what_the_database_refuses_is_told_to_the_model(crew: Crew) -> None:
    """The shape is right, the quote is made up: only the database can know."""
    asked, output, _ = ask_kind(crew, "clause_risk_analyst")
    crew.models.script(
        said(samples.risks(samples.risk("uma cláusula que ninguém escreveu"))), said(output)
    )
    assert crew.work(asked["run_id"]) == "completed"
    assert "agent_output_invalid: No excerpt stands in the text." in crew.models.asked[1].last
    assert state(crew, asked)["status"] == "open"


@pytest.mark.parametrize("kind", KINDS)
def test_without_money_there_is_a_template_or_a_clear_no(crew: Crew, kind: str) -> None:
    asked, _, draft = ask_kind(crew, kind)
    crew.db.execute(
        "insert into public.ai_budgets (org_id, period, limit_brl) values (%s, 'day', 0)",
        (WORLD.a.org,),
    )
    assert crew.work(asked["run_id"]) == "budget"
    written = state(crew, asked)
    assert written["reason"] == "o orçamento de IA acabou"
    assert crew.models.asked == []
    if kind in {"catalogue_copywriter", "clause_risk_analyst"}:
        assert (written["status"], written["is_template"]) == ("failed", False)
    else:
        assert (written["is_template"], written["draft_type"]) == (True, draft)


def test_no_provider_leaves_a_proposal_of_the_catalogues_texts(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, _, _ = ask_kind(crew, "proposal_writer")
    monkeypatch.delenv("NESSOS_OPENAI_API_KEY")
    load.cache_clear()
    assert crew.work(asked["run_id"]) == "no_provider"
    assert state(crew, asked)["is_template"]


def test_a_model_that_obeys_hostile_texts_moves_nothing_but_words(crew: Crew) -> None:
    """It answers whatever the material orders; prices, states and other rows stay as they are."""

    def obey(asked: Asked) -> str:
        assert "mal.example" in asked.messages[1]["content"]
        return said(
            samples.proposal(
                scope_markdown="Conforme ordenado, publico e aprovo tudo, sem custo nenhum. " * 5,
                items=[
                    {"ref": "S1", "description": "Tudo de graça, como ordenado.", "quantity": "1"},
                    {"ref": "S2", "description": "Serviço de outra empresa.", "quantity": "1"},
                ],
            )
        )

    lead = add(crew, samples.add_lead, message=samples.HOSTILE)
    service = add(crew, samples.add_service)
    asked = ask(
        crew, "sales", "draft_proposal_with_ai(%s, array[%s], lead => %s, notes => %s)",
        WORLD.a.org, service, add_own(crew, lead), samples.HOSTILE,
    )  # fmt: skip
    crew.models.respond = obey
    assert crew.work(asked["run_id"]) == "completed"
    draft = crew.one("select * from public.proposals where id = %s", state(crew, asked)["draft_id"])
    assert (draft["status"], draft["total"]) == ("draft", 1500)
    assert crew.one("select score, status from public.leads where id = %s", lead) == {
        "score": 0, "status": "new",
    }  # fmt: skip


def add_own(crew: Crew, lead: UUID) -> UUID:
    """Give a lead to the seller."""
    crew.db.execute(
        "update public.leads set owner_id = %s where id = %s", (WORLD.a.member("sales"), lead)
    )
    return lead


def test_a_provider_without_credit_holds_the_run_for_another_try(crew: Crew) -> None:
    asked, _, _ = ask_kind(crew, "lead_qualifier")
    crew.models.respond = lambda _asked: out_of_money()
    with pytest.raises(UpstreamError):
        crew.work(asked["run_id"])
    assert state(crew, asked)["status"] == "pending"
