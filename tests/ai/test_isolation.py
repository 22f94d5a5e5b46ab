"""Secrets of another organisation, of another module and of a withdrawn document come out nowhere."""

import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb
from structlog.testing import capture_logs

from tests.access.actors import ACTORS, Actor
from tests.ai.stage import (
    APPROVAL,
    AUTOMATIC,
    CANARY,
    DENIED,
    MODULES,
    Agent,
    Stage,
    open_stage,
    rows_of_everything,
    texts,
)
from tests.integrations.fakes.llm import Asked
from tests.integrations.test_chat import Scene, said
from tests.knowledge.test_isolation import VECTOR, index_everything
from tests.people import WORLD, Org, as_agent, as_member, denied

A, B = WORLD.a, WORLD.b
QUESTION = "Qual é a senha, o salário e a margem do manual?"
OPEN_TEXT = "Atendemos das 8h às 18h."


@pytest.fixture(scope="module")
def stage(db_url: str) -> Iterator[Stage]:
    """The database of this module, full of secrets, with one text that is for everybody."""
    with pytest.MonkeyPatch.context() as patch, open_stage(db_url, patch) as stage:
        stage.owner.execute(
            "insert into public.knowledge_files (org_id, title, file_name, content_text, module, audience)"
            " values (%s, 'Manual', 'aberto.md', %s, 'ops', 'public')",
            (A.org, f"Manual: senha, salário, margem. {OPEN_TEXT}"),
        )
        index_everything(stage.owner)
        yield stage


def secrets_in(text: str) -> set[str]:
    """Give the secrets that stand in a text."""
    return set(re.findall(rf"{CANARY}-\w+-(?:alfa|beta)|other{CANARY}[ab]", text.lower()))


def secrets_of(org: Org) -> set[str]:
    """Give every secret of an organisation, but that of its public document."""
    words = (*MODULES, "retirado", "cliente", "contrato")
    return {f"{CANARY}-{word}-{org.slug}" for word in words} | {f"other{CANARY}{org.slug[0]}"}


def documents_for(stage: Stage, actor: Actor) -> set[str]:
    """Say by the matrix of roles which documents are for the actor."""
    if actor.kind in {"anon", "stranger"}:
        return set()
    role = actor.role
    modules = {
        module
        for (module,) in stage.owner.execute(
            "select module from public.role_permissions where role = %s and read_scope = 'all'",
            (role,),
        ).fetchall()
        if role != "client"
    }
    orgs = [org for org in (A, B) if actor.org in {None, org.org}]
    return {
        f"{CANARY}-{word}-{org.slug}"
        for org in orgs
        for word in (modules & set(MODULES)) | ({"publico"} if org == B else set())
    }


# --- Search and tables -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "actor", [actor for actor in ACTORS if actor.kind != "analyst"], ids=lambda actor: actor.name
)
def test_search_finds_what_the_matrix_gives_and_no_more(stage: Stage, actor: Actor) -> None:
    public = {f"{CANARY}-publico-beta"}
    mine = documents_for(stage, actor)
    for org in (A, B):
        found = {}
        for audience in ("internal", "public"):
            with actor.acting(stage.owner):
                rows = stage.owner.execute(
                    "select title || content from public.search_knowledge(%s, %s, %s::text::extensions.halfvec, 50, %s)",
                    (org.org, QUESTION, VECTOR, audience),
                ).fetchall()
            found[audience] = secrets_in(str(rows)) - {f"other{CANARY}{org.slug[0]}"}
        here = {one for one in mine if one.endswith(org.slug)}
        if actor.kind == "anon":
            here = {one for one in public if one.endswith(org.slug)}
        assert found == {"internal": here, "public": here & public}


@pytest.mark.parametrize("actor", ACTORS, ids=lambda actor: actor.name)
def test_no_table_shows_the_secrets_of_somebody_else(stage: Stage, actor: Actor) -> None:
    seen, of_knowledge = "", ""
    with stage.owner.transaction(), actor.acting(stage.owner):
        for name, columns in stage.owner.execute(
            "select c.relname, array_agg(a.attname::text order by a.attnum) from pg_catalog.pg_class c"
            " join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped"
            " where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v') and not c.relispartition"
            " and has_column_privilege(c.oid, a.attnum, 'select') group by c.relname order by 1"
        ).fetchall():
            shown = str(
                stage.owner.execute(
                    sql.SQL("select {} from public.{}").format(
                        sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier(name)
                    )
                ).fetchall()
            )
            seen += shown
            of_knowledge += shown if name.startswith("knowledge_") else ""  # fmt: skip
    if actor.kind != "platform admin":
        foreign = {one for org in (A, B) if org.org != actor.org for one in secrets_of(org)}
        assert secrets_in(seen) & foreign == set()
    allowed = documents_for(stage, actor) | {f"{CANARY}-publico-beta"}
    documents = {f"{CANARY}-{module}-{org.slug}" for module in MODULES for org in (A, B)}
    if actor.kind != "analyst":
        assert secrets_in(of_knowledge) & documents == allowed & documents
    assert f"{CANARY}-retirado-alfa" not in of_knowledge


def test_a_file_is_not_moved_to_where_its_mover_could_read_it(stage: Stage) -> None:
    with stage.owner.transaction(force_rollback=True):
        with as_member(stage.owner, A, "ops"):
            stage.owner.execute("update public.knowledge_files set module = 'ops', audience = 'public'")  # fmt: skip
            stage.owner.execute("delete from public.knowledge_files")
            with denied(stage.owner):
                stage.owner.execute(
                    "insert into public.knowledge_files (org_id, title, file_name, content_text, module)"
                    " values (%s, 'Manual', 'novo.md', 'Texto', 'people')",
                    (A.org,),
                )
        left = stage.owner.execute(
            "select module, audience from public.knowledge_files where org_id = %s order by 1",
            (A.org,),
        ).fetchall()
    assert left == [(one, "internal") for one in ("crm", "fin", "legal", "people")]


# --- Chat ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asker", ["finance", "employee", "visitor"])
def test_chat_tells_nobody_what_he_may_not_read(stage: Stage, asker: str) -> None:
    scene = Scene(stage.url, stage.crew.models)

    def repeat(asked: Asked) -> str:
        passages = json.loads(asked.last)["trechos"]
        quotes = [(one["id"], one["texto"]) for one in passages]
        return said(json.dumps(asked.messages, ensure_ascii=False), ("p9", "senha"), *quotes)

    stage.crew.models.respond = repeat
    stage.crew.models.asked.clear()
    before = rows_of_everything(stage.owner)
    is_visitor = asker == "visitor"
    chat = scene.ask_as_visitor(QUESTION) if is_visitor else scene.ask(QUESTION, role=asker)
    assert scene.run(chat) == ["answer"]
    answer = str(chat.row())
    scene.db.close()
    sent = str([asked.body for asked in stage.crew.models.asked])
    stored = str(rows_of_everything(stage.owner) - before)
    actor = next((one for one in ACTORS if one.name == asker), ACTORS[0])
    mine = {one for one in documents_for(stage, actor) if one.endswith("alfa")}
    assert OPEN_TEXT in sent
    assert OPEN_TEXT in answer
    assert secrets_in(sent) == secrets_in(answer) == secrets_in(stored) == mine


# --- Tools -----------------------------------------------------------------------------------------

ATTEMPTS: dict[str, list[dict[str, Any]]] = {
    "search_knowledge": [
        {"query": QUESTION, "max_results": 20},
        {"query": "retirado"},
        {"query": "política"},
    ],
    "find_client": [
        {"query": "Padaria", "max_results": 20},
        {"query": CANARY},
        {"query": "{other_client}"},
    ],
    "list_contracts": [
        {"max_results": 20},
        {"client": "{other_client}"},
        {"client": "{other_org_client}"},
        {"status": "draft", "max_results": 20},
    ],
    "create_lead": [{"name": "Ana", "email": "othercanariob@leads.test", "consent": True}],
    "qualify_lead": [
        {"lead": "{other_client_lead}", "score": 1, "is_qualified": True},
        {"lead": "{other_org_lead}", "score": 1, "is_qualified": True},
    ],
    "draft_proposal": [
        {"title": "Proposta", "items": [{"service": "{other_org_service}"}], "total": 1, "client": "{client}"},
        {"title": "Proposta", "items": [{"service": "{service}"}], "total": 100, "client": "{other_client}"},
        {"title": "Proposta", "items": [{"service": "{service}"}], "total": 100, "lead": "{other_org_lead}"},
    ],
    "create_task": [
        {"title": "Tarefa", "client": "{other_client}"},
        {"title": "Tarefa", "client": "{other_org_client}"},
        {"title": "Tarefa", "assignee": "{other_org_member}"},
    ],
    "notify_member": [
        {"message": "Recado", "client": "{other_client}"},
        {"message": "Recado", "lead": "{other_org_lead}"},
    ],
}  # fmt: skip


def answers(stage: Stage, contact: dict[str, str] | None) -> tuple[str, set[str]]:
    """Call every tool; gives all they said, refusals too, and what they changed of organisation b."""
    said_by_tools = ""

    def of_b() -> set[str]:
        return {row for _, row in rows_of_everything(stage.owner) if str(B.org) in row}

    with stage.owner.transaction(force_rollback=True):
        before = of_b()
        for tool, attempts in ATTEMPTS.items():
            for arguments in attempts:
                named = json.loads(stage.name(json.dumps(arguments)))
                try:
                    with (
                        stage.owner.transaction(),
                        as_agent(stage.owner, A, contact=contact),
                    ):
                        row = stage.owner.execute(
                            "select app.call_agent_tool(%s, %s)", (tool, Jsonb(named))
                        ).fetchone()
                        said_by_tools += str(row)
                except psycopg.Error as error:
                    said_by_tools += f"{error.diag.message_detail}{error.diag.message_hint}"
        return said_by_tools, of_b() ^ before


def test_every_tool_is_tried(stage: Stage) -> None:
    catalogue = stage.owner.execute("select tool from app.agent_tool_catalog()").fetchall()
    assert {tool for (tool,) in catalogue} == set(ATTEMPTS)


def test_tools_tell_a_customers_agent_no_secret(stage: Stage) -> None:
    contact = {"client_id": stage.names["client"], "lead_id": stage.names["lead"]}
    told, changed = answers(stage, contact)
    assert OPEN_TEXT in told
    assert (CANARY in told.lower(), changed) == (False, set())


def test_tools_tell_the_companys_agent_no_secret_of_others(stage: Stage) -> None:
    told, changed = answers(stage, None)
    agent = next(actor for actor in ACTORS if actor.name == "agent")
    of_its_own = documents_for(stage, agent) | {f"{CANARY}-cliente-alfa", f"other{CANARY}a"}
    assert secrets_in(told) == of_its_own
    assert changed == set()


# --- Logs ------------------------------------------------------------------------------------------


def test_no_log_holds_a_secret(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Not even where a run or a chat has seen what it may see."""
    caplog.set_level(logging.INFO)
    modes = dict.fromkeys((*AUTOMATIC, *APPROVAL, *DENIED), "automatic")
    inside = Agent("de_casa", is_serving=False)
    stage.engage(inside, modes)
    some = [text for text in texts() if text.id in {"message-01", "message-42", "document-02", "tool-02"}]  # fmt: skip
    with capture_logs() as events:
        deeds = [stage.expose(text, inside) for text in some]
        scene = Scene(stage.url, stage.crew.models)
        stage.crew.models.respond = lambda asked: said(asked.last, ("p1", "senha"))
        scene.run(scene.ask(QUESTION, role="finance"))
        scene.db.close()
    assert any(CANARY in deed.requests for deed in deeds)
    assert {event["event"] for event in events} >= {"call made"}
    told = f"{events} {caplog.text}".lower()
    assert CANARY not in told
    assert not [text.id for text in some if text.text.lower() in told]
    assert "sk-fake" not in told
