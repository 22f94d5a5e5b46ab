"""Agent tools: what a model is told of them, what they are held against, and what they never do."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from nessos.settings import ROOT
from tests.people import (
    WORLD,
    Connection,
    Org,
    World,
    as_agent,
    as_anon,
    as_member,
    as_worker,
    denied,
    refused,
    set_clock,
)
from tests.rules.test_crm import add_lead
from tests.rules.test_ops_playbooks import one
from tests.schema.laws import LAWS


def call(db: Connection, tool: str, **arguments: Any) -> Any:
    """Call a tool as whoever is acting."""
    given = {
        key: str(value) if isinstance(value, UUID) else value for key, value in arguments.items()
    }
    return one(db, "select app.call_agent_tool(%s, %s)", tool, Jsonb(given))


def schema(db: Connection, tool: str) -> Any:
    return one(db, "select parameters from app.agent_tool_catalog() where tool = %s", tool)


def set_key(db: Connection, key: str) -> None:
    db.execute("select set_config('app.idempotency_key', %s, true)", (key,))


# --- What a model is told --------------------------------------------------------------------------


def test_the_schema_of_a_tool_comes_of_its_function(db: Connection) -> None:
    found = schema(db, "draft_proposal")
    assert found["required"] == ["title", "items", "total"]
    assert found["additionalProperties"] is False
    assert found["properties"]["total"] == {
        "type": "number",
        "minimum": 0,
        "description": "Sum of quantity × unit price of all items, BRL per month; must be exact.",  # noqa: RUF001
    }
    items = found["properties"]["items"]
    assert (items["type"], items["minItems"], items["maxItems"]) == ("array", 1, 50)
    assert items["items"]["required"] == ["service"]
    assert items["items"]["properties"]["quantity"] == {
        "type": "number", "minimum": 0.1, "maximum": 100000, "description": "Default 1.",
    }  # fmt: skip
    task = schema(db, "create_task")["properties"]
    assert task["priority"]["enum"] == ["low", "normal", "high", "urgent"]
    assert (task["due_on"]["type"], task["due_on"]["format"]) == ("string", "date")
    assert (task["client"]["type"], task["client"]["format"]) == ("string", "uuid")
    assert (task["title"]["minLength"], task["title"]["maxLength"]) == (2, 200)
    lead = schema(db, "qualify_lead")["properties"]
    assert lead["is_qualified"]["type"] == "boolean"
    assert lead["score"] == {
        "type": "integer", "minimum": 0, "maximum": 100,
        "description": "0 to 100; higher is likelier to buy.",
    }  # fmt: skip


def test_the_schema_of_every_type_a_tool_may_take(db: Connection) -> None:
    db.execute("create domain agent_tools.probe_name as text check (value in ('a', 'it''s'))")
    db.execute("create domain agent_tools.probe_rate as numeric check (value > 0 and value < 1)")
    db.execute(
        "create function agent_tools.probe(a text[], b jsonb, c timestamptz, d bigint, e agent_tools.probe_name,"
        " f agent_tools.probe_rate, g boolean default true) returns jsonb language sql as 'select ''{}''::jsonb'"
    )
    db.execute(
        "comment on function agent_tools.probe is '[ai] [outward] Tries.\na: First.\nb: Second.'"
    )
    row = db.execute(
        "select description, module, is_outward, is_writing, parameters from app.agent_tool_catalog() where tool = 'probe'"
    ).fetchone()
    assert row is not None
    assert row[:4] == ("Tries.", "ai", True, True)
    assert row[4]["properties"] == {
        "a": {"type": "array", "items": {"type": "string"}, "description": "First."},
        "b": {"type": "object", "description": "Second."},
        "c": {"type": "string", "format": "date-time"},
        "d": {"type": "integer"},
        "e": {"type": "string", "enum": ["a", "it's"]},
        "f": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        "g": {"type": "boolean"},
    }
    assert row[4]["required"] == ["a", "b", "c", "d", "e", "f"]


def test_the_example_of_the_guide_is_a_tool_that_keeps_the_laws(
    db: Connection, world: World
) -> None:
    guide = (Path(ROOT) / "docs" / "agents.md").read_text()
    example = guide.partition("## Writing a tool")[2].partition("```sql\n")[2].partition("```")[0]
    db.execute(
        "create function app.rate_agent_supplier(uuid, integer, text) returns jsonb language sql"
        " set search_path = '' as $$ select jsonb_build_object('stars', $2) $$;"
        " grant execute on function app.rate_agent_supplier(uuid, integer, text) to authenticated"
    )
    db.execute(example)
    for name, check in LAWS.items():
        if name.startswith(("a_tool_", "tools_are")):
            assert check(db) == [], name
    with as_agent(db, world.a):
        assert call(db, "rate_supplier", supplier=uuid4(), stars=5) == {"stars": 5}
        with refused("tool_arguments_invalid"):
            call(db, "rate_supplier", supplier=uuid4(), stars=6)


def test_tools_that_reach_somebody_say_so(db: Connection) -> None:
    outward = db.execute("select tool from app.agent_tool_catalog() where is_outward").fetchall()
    reading = db.execute(
        "select tool from app.agent_tool_catalog() where not is_writing order by 1"
    ).fetchall()
    assert outward == [("notify_member",)]
    assert [row[0] for row in reading] == ["find_client", "list_contracts", "search_knowledge"]


def test_an_organisation_that_closes_a_module_to_agents_is_offered_no_tool_of_it(
    db: Connection, world: World
) -> None:
    offered = "select tool from app.agent_tool_schemas(%s, %s)"
    agent = one(
        db,
        "insert into public.agents (org_id, kind, key) values (%s, 'custom', 'ajudante') returning id",
        world.a.org,
    )
    assert db.execute(offered, (world.b.org, agent)).fetchall() == []
    assert "create_lead" in {row[0] for row in db.execute(offered, (world.a.org, agent)).fetchall()}
    db.execute(
        "insert into public.org_role_permissions (org_id, role, module, read_scope, write_scope)"
        " values (%s, 'agent', 'sdr', 'none', 'none')",
        (world.a.org,),
    )
    after = {row[0] for row in db.execute(offered, (world.a.org, agent)).fetchall()}
    assert "create_lead" not in after
    assert "find_client" in after
    with as_agent(db, world.a), refused("not_allowed"):
        call(db, "create_lead", name="Ana Souza", email="ana@cliente.com.br")


# --- Arguments -------------------------------------------------------------------------------------

LEAD = {"name": "Ana Souza", "email": "ana@cliente.com.br"}
GOOD_ID = "2c1f9d4e-1111-4111-8111-111111111111"
WRONG: list[tuple[str, object, str]] = [
    ("create_lead", {"name": "Ana Souza"}, "email is missing"),
    ("create_lead", {"name": "Ana Souza", "email": None}, "email is missing"),
    ("create_lead", {**LEAD, "org_id": GOOD_ID}, "org_id is no argument"),
    ("create_lead", {**LEAD, "name') --": 1}, "is no argument"),
    ("create_lead", {**LEAD, "name": 7}, "name does not fit"),
    ("create_lead", {**LEAD, "name": ["Ana"]}, "name does not fit"),
    ("create_lead", {**LEAD, "name": {"$ne": ""}}, "name does not fit"),
    ("create_lead", {**LEAD, "name": "A"}, "name does not fit"),
    ("create_lead", {**LEAD, "name": "A" * 121}, "name does not fit"),
    ("create_lead", {**LEAD, "email": "ana"}, "email does not fit"),
    ("create_lead", {**LEAD, "consent": "true"}, "consent does not fit"),
    ("create_lead", {**LEAD, "message": "x" * 40000}, "longer than 32 kB"),
    ("create_lead", {**LEAD, "message": "x" * 8001}, "message does not fit"),
    ("create_lead", [LEAD], "is an object"),
    ("create_lead", "create_lead", "is an object"),
    ("create_lead", None, "is an object"),
    ("qualify_lead", {"lead": GOOD_ID, "score": 101, "is_qualified": True}, "score does not fit"),
    ("qualify_lead", {"lead": GOOD_ID, "score": -1, "is_qualified": True}, "score does not fit"),
    ("qualify_lead", {"lead": GOOD_ID, "score": 1.5, "is_qualified": True}, "score does not fit"),
    ("qualify_lead", {"lead": GOOD_ID, "score": "50", "is_qualified": True}, "score does not fit"),
    ("qualify_lead", {"lead": GOOD_ID, "score": 10**30, "is_qualified": True}, "score does not fit"),
    ("qualify_lead", {"lead": "1", "score": 1, "is_qualified": True}, "lead does not fit"),
    ("qualify_lead", {"lead": f"{{{GOOD_ID}}}", "score": 1, "is_qualified": True}, "lead does not fit"),
    ("create_task", {"title": "Ligar", "due_on": "today"}, "due_on does not fit"),
    ("create_task", {"title": "Ligar", "due_on": "infinity"}, "due_on does not fit"),
    ("create_task", {"title": "Ligar", "due_on": "2026-02-30"}, "due_on does not fit"),
    ("create_task", {"title": "Ligar", "priority": "max"}, "priority does not fit"),
    ("create_task", {"title": "  "}, "title does not fit"),
    ("create_task", {"title": "A\t\n"}, "title does not fit"),
    ("create_task", {"title": "Ligar\x01"}, "title has control characters"),
    ("find_client", {"query": "ana", "max_results": 21}, "max_results does not fit"),
    ("draft_proposal", {"title": "SOC", "items": {}, "total": 1}, "items is a list"),
    ("draft_proposal", {"title": "SOC", "items": [], "total": 1}, "items has from 1 to 50 items"),
    ("draft_proposal", {"title": "SOC", "items": [1], "total": 1}, "items[] is an object"),
    ("draft_proposal", {"title": "SOC", "items": [{}], "total": 1}, "items[].service is missing"),
    (
        "draft_proposal",
        {"title": "SOC", "items": [{"service": GOOD_ID, "org_id": GOOD_ID}], "total": 1},
        "items[].org_id is no argument",
    ),
    (
        "draft_proposal",
        {"title": "SOC", "items": [{"service": GOOD_ID, "quantity": 0}], "total": 1},
        "items[].quantity does not fit",
    ),
    ("draft_proposal", {"title": "SOC", "items": [{"service": GOOD_ID}] * 51, "total": 1}, "1 to 50"),
    ("draft_proposal", {"title": "SOC", "items": [{"service": GOOD_ID}], "total": -1}, "total does not fit"),
    ("draft_proposal", {"title": "SOC", "items": [{"service": GOOD_ID}], "total": 1e15}, "total does not fit"),
]  # fmt: skip


@pytest.mark.parametrize(("tool", "arguments", "problem"), WRONG)
def test_arguments_that_do_not_fit_the_catalog_are_refused_in_words(
    db: Connection, world: World, tool: str, arguments: object, problem: str
) -> None:
    with as_agent(db, world.a), refused("tool_arguments_invalid") as answer:
        db.execute("select app.call_agent_tool(%s, %s)", (tool, Jsonb(arguments)))
    assert answer.status == 422
    assert problem in answer.detail
    assert len(answer.detail) < 600
    assert one(db, "select count(*) from public.leads") == 0


def test_a_text_with_a_nul_never_becomes_arguments(db: Connection, world: World) -> None:
    with (
        as_agent(db, world.a),
        pytest.raises(psycopg.errors.UntranslatableCharacter),
        db.transaction(),
    ):
        db.execute(
            "select app.call_agent_tool('create_lead', %s::jsonb)",
            (json.dumps({**LEAD, "message": "a\0b"}),),
        )


TEXTS = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=300),
    st.sampled_from(
        ["", "  ", "\x01\x02", "\u200b\u200b", "'; drop", "{}", "null", "NaN", "%", "\\"]
    ),
)
WILD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
IDS = st.sampled_from([str(WORLD.a.client), str(WORLD.b.client), GOOD_ID])
ARGUMENTS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "create_lead": {
        "name": TEXTS, "email": st.just("ana@cliente.com.br") | TEXTS, "phone": TEXTS, "company": TEXTS,
        "message": TEXTS, "consent": st.booleans(),
    },
    "create_task": {
        "title": TEXTS, "description": TEXTS, "due_on": st.dates().map(str) | TEXTS, "priority": TEXTS,
        "client": IDS, "lead": IDS, "assignee": IDS,
    },
    "draft_proposal": {
        "title": TEXTS, "client": IDS, "lead": IDS, "scope": TEXTS, "total": st.floats(0, 1e13),
        "items": st.lists(
            st.fixed_dictionaries({"service": IDS}, optional={"quantity": st.floats(-1, 1e6), "description": TEXTS}),
            max_size=3,
        ),
    },
    "find_client": {"query": TEXTS, "max_results": st.integers()},
    "search_knowledge": {"query": TEXTS},
    "notify_member": {"message": TEXTS, "recipient": TEXTS, "client": IDS},
    "qualify_lead": {"lead": IDS, "score": st.integers(-5, 105), "is_qualified": st.booleans()},
}  # fmt: skip


@pytest.mark.parametrize("tool", ARGUMENTS)
@pytest.mark.parametrize("contact", [None, {"client_id": WORLD.a.client}, {"session_id": GOOD_ID}])
def test_whatever_a_model_writes_is_done_or_refused_in_words(
    db: Connection, world: World, tool: str, contact: dict[str, object] | None
) -> None:
    needed = set(one(db, "select parameters -> 'required' from app.agent_tool_catalog(%s)", tool))
    fitting = st.fixed_dictionaries(
        {key: value for key, value in ARGUMENTS[tool].items() if key in needed},
        optional={key: value for key, value in ARGUMENTS[tool].items() if key not in needed},
    )

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(fitting | st.dictionaries(st.sampled_from(sorted(ARGUMENTS[tool])) | TEXTS, WILD))
    def check(arguments: dict[str, object]) -> None:
        try:
            with db.transaction(force_rollback=True), as_agent(db, world.a, contact=contact):
                answer = one(db, "select app.call_agent_tool(%s, %s)", tool, Jsonb(arguments))
        except psycopg.Error as error:
            answer = error.sqlstate
        assert isinstance(answer, dict) or str(answer).startswith("PT4"), answer

    check()


@pytest.mark.parametrize("tool", ["", "drop_table", "search_knowledge; select 1", "app.create_task", "CREATE_LEAD"])  # fmt: skip
def test_a_tool_that_is_not_in_the_schema_is_refused(
    db: Connection, world: World, tool: str
) -> None:
    with as_agent(db, world.a), refused("tool_unknown"):
        call(db, tool)


def test_values_are_bound_and_never_read_as_sql(db: Connection, world: World) -> None:
    text = "x'); delete from public.leads; --"
    with as_agent(db, world.a):
        call(db, "create_lead", **LEAD, message=text, company="$1 %s {} \\")
    row = db.execute("select message, company from public.leads").fetchone()
    assert row == (text, "$1 %s {} \\")


# --- Who calls -------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["owner", "sales", "agent", "client"])
def test_a_person_has_no_tools(db: Connection, world: World, role: str) -> None:
    with as_member(db, world.a, role):
        for tool, arguments in (
            ("create_lead", LEAD),
            ("find_client", {"query": "cliente"}),
            ("create_task", {"title": "Ligar"}),
            ("notify_member", {"message": "Oi, tudo bem?"}),
        ):
            with refused("not_allowed"):
                call(db, tool, **arguments)
        assert call(db, "list_contracts") == {"contracts": []}
    with as_worker(db), refused("not_allowed"):
        call(db, "create_lead", **LEAD)
    with as_anon(db), denied():
        call(db, "create_lead", **LEAD)


def test_the_api_does_not_serve_the_schema_of_the_tools() -> None:
    config = (Path(ROOT) / "supabase" / "config.toml").read_text()
    assert "agent_tools" not in config


@pytest.mark.parametrize("state", ["suspended", "inactive"])
def test_agents_of_a_closed_organisation_write_nothing(
    db: Connection, world: World, state: str
) -> None:
    db.execute("update public.organizations set status = %s where id = %s", (state, world.a.org))
    with as_agent(db, world.a), refused(f"organization_{state}"):
        call(db, "create_lead", **LEAD)


# --- The same call twice ---------------------------------------------------------------------------


def test_the_same_call_under_one_key_is_done_once_and_answered_alike(
    db: Connection, world: World
) -> None:
    with as_agent(db, world.a):
        set_key(db, "run/1/0")
        first = call(db, "create_task", title="Ligar")
        assert call(db, "create_task", title="Ligar") == first
        with refused("idempotency_key_reused"):
            call(db, "create_task", title="Ligar de novo")
        with refused("idempotency_key_reused"):
            call(db, "notify_member", message="Ligar")
        set_key(db, "run/1/1")
        assert call(db, "create_task", title="Ligar") != first
    with as_agent(db, world.b):
        set_key(db, "run/1/0")
        assert call(db, "create_task", title="Outra") != first
    assert one(db, "select count(*) from public.tasks") == 3


def test_what_is_kept_of_calls_is_forgotten_after_30_days(db: Connection, world: World) -> None:
    set_clock(db, "2026-03-01 12:00+00")
    with as_agent(db, world.a):
        set_key(db, "run/1/0")
        call(db, "create_task", title="Ligar")
    set_clock(db, "2026-03-31 11:00+00")
    assert one(db, "select app.forget_tool_results()") == 0
    set_clock(db, "2026-03-31 13:00+00")
    assert one(db, "select app.forget_tool_results()") == 1
    set_clock(db, None)


# --- search_knowledge, find_client, list_contracts -------------------------------------------------


def add_question(db: Connection, org: Org, question: str, audience: str) -> None:
    db.execute(
        "insert into public.knowledge_questions (org_id, question, answer_markdown, audience) values (%s, %s, %s, %s)",
        (org.org, question, f"Resposta de {question}", audience),
    )
    for document, content_hash, content in db.execute(
        "select d.id, d.content_hash, v.content from public.knowledge_documents d join app.knowledge_versions v"
        " on (v.org_id, v.document_id, v.version) = (d.org_id, d.id, d.version) where d.org_id = %s and d.status = 'pending'",
        (org.org,),
    ).fetchall():
        db.execute(
            "select app.store_knowledge_chunks(%s, %s, %s, null, %s)",
            (
                org.org,
                document,
                content_hash,
                Jsonb(
                    [{"ordinal": 1, "heading_path": "", "start_char": 0, "end_char": len(content)}]
                ),
            ),
        )


def test_an_agent_searches_what_whom_it_works_for_may_read(db: Connection, world: World) -> None:
    add_question(db, world.a, "firewall interno", "internal")
    add_question(db, world.a, "firewall público", "public")
    add_question(db, world.b, "firewall alheio", "public")
    with as_agent(db, world.a):
        found = call(db, "search_knowledge", query="firewall")["passages"]
    assert {passage["title"] for passage in found} == {"firewall interno", "firewall público"}
    assert set(found[0]) == {"passage", "document", "title", "heading", "url", "text"}
    for contact in ({"client_id": world.a.client}, {}):
        with as_agent(db, world.a, contact=contact):
            found = call(db, "search_knowledge", query="firewall")["passages"]
        assert {passage["title"] for passage in found} == {"firewall público"}


def test_find_client_shows_names_and_no_address_of_anybody(db: Connection, world: World) -> None:
    db.execute(
        "update public.clients set document = '11222333000181', emails = '{segredo@cliente.com.br}',"
        " phones = '{+5511999990000}' where org_id = %s and id = %s",
        (world.a.org, world.a.client),
    )
    with as_agent(db, world.a):
        found = call(db, "find_client", query="CLIENTE da alfa")["clients"]
        assert {client["name"] for client in found} == {"Cliente da Alfa", "Outro cliente da Alfa"}
        assert call(db, "find_client", query="cliente", max_results=1)["clients"] == found[:1]
        by_document = call(db, "find_client", query="11.222.333/0001-81")["clients"]
        assert [client["client"] for client in by_document] == [str(world.a.client)]
        assert call(db, "find_client", query="%%") == {"clients": []}
        assert call(db, "find_client", query="beta") == {"clients": []}
    text = json.dumps([found, by_document])
    for secret in ("segredo", "99999", "11222333"):
        assert secret not in text


def test_an_agent_serving_a_client_finds_nobody_but_him(db: Connection, world: World) -> None:
    with as_agent(db, world.a, contact={"client_id": world.a.client}):
        found = call(db, "find_client", query="cliente")["clients"]
        assert [client["client"] for client in found] == [str(world.a.client)]
    for contact in ({}, {"client_id": world.b.client}, {"lead_id": uuid4()}):
        with as_agent(db, world.a, contact=contact):
            assert call(db, "find_client", query="cliente") == {"clients": []}


def add_contract(db: Connection, org: Org, client: UUID, title: str) -> UUID:
    return UUID(
        str(
            one(
                db,
                "insert into public.contracts (org_id, client_id, title, starts_on, mrr) values (%s, %s, %s, '2026-01-01', 1500)"
                " returning id",
                org.org,
                client,
                title,
            )
        )
    )


def test_list_contracts_shows_the_contacts_own_and_others_only_where_opened(
    db: Connection, world: World
) -> None:
    add_contract(db, world.a, world.a.client, "SOC")
    add_contract(db, world.a, world.a.other_client, "NOC")
    add_contract(db, world.b, world.b.client, "LGPD")
    with as_agent(db, world.a, contact={"client_id": world.a.client}):
        own = call(db, "list_contracts")["contracts"]
        assert [(c["title"], c["status"], c["monthly_value_brl"]) for c in own] == [
            ("SOC", "rascunho", 1500)
        ]
        assert call(db, "list_contracts", client=world.a.other_client) == {"contracts": []}
        assert call(db, "list_contracts", status="active") == {"contracts": []}
    with as_agent(db, world.a):
        assert call(db, "list_contracts") == {"contracts": []}
    db.execute(
        "insert into public.org_role_permissions (org_id, role, module, read_scope, write_scope)"
        " values (%s, 'agent', 'contracts', 'all', 'none')",
        (world.a.org,),
    )
    with as_agent(db, world.a):
        assert len(call(db, "list_contracts")["contracts"]) == 2
        assert len(call(db, "list_contracts", max_results=1)["contracts"]) == 1
        assert call(db, "list_contracts", client=world.b.client) == {"contracts": []}


# --- create_lead, qualify_lead ---------------------------------------------------------------------


def test_an_agent_registers_a_lead_once_per_person(db: Connection, world: World) -> None:
    with as_agent(db, world.a) as agent:
        first = call(db, "create_lead", **LEAD, phone="(11) 99999-0000", company="Alfa")
        again = call(db, "create_lead", name="Outra", email="ANA@cliente.com.br")
    assert first["is_new"]
    assert again == {"lead": first["lead"], "is_new": False}
    row = db.execute(
        "select org_id, name, source, consent_at, created_by from public.leads"
    ).fetchall()
    assert row == [(world.a.org, "Ana Souza", "sdr", None, None)]
    event = db.execute(
        "select actor_id, actor_kind from public.module_events where event_type = 'lead.created'"
    ).fetchall()
    assert event == [(agent, "agent")]


def test_a_visitor_is_registered_once_per_session_with_his_consent(
    db: Connection, world: World
) -> None:
    known = add_lead(db, world.a, email="ana@cliente.com.br", name="Ana de verdade")
    session = uuid4()
    with as_agent(db, world.a, contact={"session_id": session}):
        with refused("lead_consent_required"):
            call(db, "create_lead", **LEAD)
        first = call(db, "create_lead", **LEAD, consent=True)
        # That somebody with this address is known is nothing a visitor learns.
        assert first["is_new"]
        assert first["lead"] != str(known)
        second = call(db, "create_lead", name="Bia Lima", email="bia@x.com.br", consent=True)
        assert second == {"lead": first["lead"], "is_new": False}
    with as_agent(db, world.a, contact={"session_id": uuid4()}):
        assert call(db, "create_lead", **LEAD, consent=True)["lead"] != first["lead"]
    for contact in ({}, {"session_id": "x"}):
        with as_agent(db, world.a, contact=contact), refused("not_allowed"):
            call(db, "create_lead", **LEAD, consent=True)
    assert one(db, "select count(*) from public.leads where consent_at is not null") == 2


def test_a_lead_is_qualified_forwards_only(db: Connection, world: World) -> None:
    lead = add_lead(db, world.a)
    with as_agent(db, world.a):
        assert call(db, "qualify_lead", lead=lead, score=80, is_qualified=True) == {
            "lead": str(lead), "score": 80, "status": "qualificado",
        }  # fmt: skip
        assert (
            call(db, "qualify_lead", lead=lead, score=20, is_qualified=False)["status"]
            == "qualificado"
        )
    db.execute("update public.leads set status = 'won' where id = %s", (lead,))
    with as_agent(db, world.a), refused("lead_move_refused"):
        call(db, "qualify_lead", lead=lead, score=1, is_qualified=True)
    assert db.execute("select score, status from public.leads").fetchone() == (20, "won")


def test_an_agent_serving_a_contact_qualifies_nobody_else(db: Connection, world: World) -> None:
    mine, other, foreign = add_lead(db, world.a), add_lead(db, world.a), add_lead(db, world.b)
    session = uuid4()
    with as_agent(db, world.a, contact={"lead_id": mine}):
        call(db, "qualify_lead", lead=mine, score=70, is_qualified=False)
        for lead in (other, foreign, uuid4()):
            with refused("lead_not_found"):
                call(db, "qualify_lead", lead=lead, score=99, is_qualified=True)
    with as_agent(db, world.a, contact={"session_id": session}):
        lead = call(db, "create_lead", **LEAD, consent=True)["lead"]
        call(db, "qualify_lead", lead=lead, score=60, is_qualified=True)
        with refused("lead_not_found"):
            call(db, "qualify_lead", lead=mine, score=99, is_qualified=True)
    with as_agent(db, world.a), refused("lead_not_found"):
        call(db, "qualify_lead", lead=foreign, score=99, is_qualified=True)
    scores = db.execute("select id, score, status from public.leads").fetchall()
    assert set(scores) == {
        (mine, 70, "new"), (other, 0, "new"), (foreign, 0, "new"), (UUID(lead), 60, "qualified"),
    }  # fmt: skip


# --- draft_proposal --------------------------------------------------------------------------------


def add_service(
    db: Connection, org: Org, name: str = "SOC", *, price: int = 1000, is_active: bool = True
) -> UUID:
    """Insert a service past the catalogue lock, which is another test's matter."""
    db.execute("set local session_replication_role = replica")
    service = one(
        db,
        "insert into public.services_catalog (org_id, name, slug, base_price, total_minutes, is_active)"
        " values (%s, %s, %s, %s, 60, %s) returning id",
        org.org, name, f"s-{uuid4()}", price, is_active,
    )  # fmt: skip
    db.execute("set local session_replication_role = origin")
    return UUID(str(service))


def draft(db: Connection, service: UUID, total: float, **more: Any) -> Any:
    item = {"service": str(service), **more.pop("item", {})}
    return call(db, "draft_proposal", title="SOC gerenciado", items=[item], total=total, **more)


def test_an_agent_drafts_a_proposal_and_a_person_sends_it(db: Connection, world: World) -> None:
    service = add_service(db, world.a)
    lead = add_lead(db, world.a, owner_id=world.a.member("sales"))
    with as_agent(db, world.a) as agent:
        answer = draft(db, service, 2400, lead=lead, item={"quantity": 2, "unit_price": 1200})
    assert answer["status"] == "rascunho"
    assert answer["total_brl_per_month"] == 2400
    row = db.execute(
        "select id, status, total, lead_id, owner_id, sent_at from public.proposals"
    ).fetchall()
    assert row == [(UUID(answer["proposal"]), "draft", 2400, lead, world.a.member("sales"), None)]
    actors = db.execute(
        "select distinct actor_id, actor_kind from public.module_events where entity_type like 'proposal%'"
    ).fetchall()
    assert actors == [(agent, "agent")]


def test_a_total_that_is_not_the_sum_drafts_nothing(db: Connection, world: World) -> None:
    service = add_service(db, world.a)
    with as_agent(db, world.a), refused("proposal_total_differs") as answer:
        draft(db, service, 1, client=world.a.client)
    assert "1000.00" in answer.detail
    assert one(db, "select count(*) from public.proposals") == 0


def test_a_proposal_is_for_one_party_and_of_active_services_of_the_organisation(
    db: Connection, world: World
) -> None:
    service, closed, foreign = (
        add_service(db, world.a),
        add_service(db, world.a, "Velho", is_active=False),
        add_service(db, world.b),
    )
    with as_agent(db, world.a):
        with refused("tool_arguments_invalid"):
            draft(db, service, 1000)
        with refused("tool_arguments_invalid"):
            draft(db, service, 1000, client=world.a.client, lead=uuid4())
        with refused("client_not_found"):
            draft(db, service, 1000, client=world.b.client)
        with refused("lead_not_found"):
            draft(db, service, 1000, lead=add_lead_as_owner(db, world.b))
        for wrong in (closed, foreign, uuid4()):
            with refused("service_not_found"):
                draft(db, wrong, 1000, client=world.a.client)
    assert one(db, "select count(*) from public.proposals") == 0


def add_lead_as_owner(db: Connection, org: Org) -> UUID:
    """Insert a lead past the policies of whoever is acting."""
    role = one(db, "select current_setting('role')")
    db.execute("set local role none")
    lead = add_lead(db, org)
    db.execute("select set_config('role', %s, true)", (role,))
    return lead


def test_amounts_beyond_all_money_are_refused(db: Connection, world: World) -> None:
    item = {"quantity": 100_000, "unit_price": 999_999_999_999}
    service = add_service(db, world.a)
    with as_agent(db, world.a), refused("tool_arguments_invalid"):
        draft(db, service, 1000, client=world.a.client, item=item)


def test_an_agent_serving_a_contact_drafts_for_him_at_the_prices_of_the_catalogue(
    db: Connection, world: World
) -> None:
    service = add_service(db, world.a)
    with as_agent(db, world.a, contact={"client_id": world.a.client}):
        with refused("not_allowed"):
            draft(db, service, 1, client=world.a.client, item={"unit_price": 1})
        with refused("client_not_found"):
            draft(db, service, 1000, client=world.a.other_client)
        draft(db, service, 1000, client=world.a.client)
    assert db.execute("select client_id, total, status from public.proposals").fetchall() == [
        (world.a.client, 1000, "draft")
    ]


# --- create_task, notify_member --------------------------------------------------------------------


def test_a_task_goes_to_whom_the_agent_names_or_who_answers_for_the_account(
    db: Connection, world: World
) -> None:
    lead = add_lead(db, world.a, owner_id=world.a.member("sales"))
    with as_agent(db, world.a) as agent:
        call(db, "create_task", title="Ligar", lead=lead, due_on="2026-03-02", priority="high")
        call(db, "create_task", title="Revisar", assignee=world.a.member("legal"))
        assert call(db, "create_task", title="Ver")["is_assigned"] is False
        with refused("task_assignee_invalid"):
            call(db, "create_task", title="Ver", assignee=world.b.member("owner"))
        with refused("lead_not_found"):
            call(db, "create_task", title="Ver", lead=uuid4())
        with refused("client_not_found"):
            call(db, "create_task", title="Ver", client=world.b.client)
    rows = db.execute(
        "select title, assignee_id, entity_type, entity_id, created_by_agent, org_id from public.tasks order by title"
    ).fetchall()
    assert rows == [
        ("Ligar", world.a.member("sales"), "lead", lead, agent, world.a.org),
        ("Revisar", world.a.member("legal"), None, None, agent, world.a.org),
        ("Ver", None, None, None, agent, world.a.org),
    ]


def test_a_contact_makes_tasks_about_himself_and_for_nobody_of_his_choice(
    db: Connection, world: World
) -> None:
    contract = add_contract(db, world.a, world.a.client, "SOC")
    db.execute("set local session_replication_role = replica")
    db.execute(
        "update public.contracts set status = 'active', commercial_manager_id = %s where id = %s",
        (world.a.member("director"), contract),
    )
    db.execute("set local session_replication_role = origin")
    with as_agent(db, world.a, contact={"client_id": world.a.client}):
        with refused("not_allowed"):
            call(db, "create_task", title="Ligar", assignee=world.a.member("owner"))
        with refused("client_not_found"):
            call(db, "create_task", title="Ligar", client=world.a.other_client)
        for _ in range(5):
            call(db, "create_task", title="Retornar contato")
        with refused("rate_limited"):
            call(db, "create_task", title="Retornar contato")
    rows = db.execute(
        "select distinct assignee_id, entity_type, entity_id from public.tasks"
    ).fetchall()
    assert rows == [(world.a.member("director"), "client", world.a.client)]


def recipients(db: Connection) -> set[UUID]:
    return {
        row[0]
        for row in db.execute(
            "select recipient_id from public.notifications where template = 'agent_message'"
        ).fetchall()
    }


def test_an_agent_tells_who_answers_for_the_account_or_an_area(
    db: Connection, world: World
) -> None:
    lead = add_lead(db, world.a, owner_id=world.a.member("sales"))
    with as_agent(db, world.a):
        assert call(db, "notify_member", message="Lead quer proposta", lead=lead) == {"told": 1}
        assert recipients_as_owner(db) == {world.a.member("sales")}
        call(db, "notify_member", message="Fatura em aberto", recipient="finance")
        with refused("lead_not_found"):
            call(db, "notify_member", message="Lead quer", lead=uuid4())
        with refused("tool_arguments_invalid"):
            call(db, "notify_member", message="Oi, tudo bem?", recipient="ana@cliente.com.br")
    assert recipients(db) == {
        world.a.member(role) for role in ("sales", "owner", "admin", "finance")
    }


def recipients_as_owner(db: Connection) -> set[UUID]:
    role = one(db, "select current_setting('role')")
    db.execute("set local role none")
    found = recipients(db)
    db.execute("select set_config('role', %s, true)", (role,))
    return found


def test_a_contact_makes_an_agent_tell_only_a_few_times(db: Connection, world: World) -> None:
    with as_agent(db, world.a, contact={"client_id": world.a.client}):
        for _ in range(3):
            call(db, "notify_member", message="O cliente quer falar com alguém")
        with refused("rate_limited"):
            call(db, "notify_member", message="O cliente quer falar com alguém")
    assert recipients(db) <= {
        world.a.member(role) for role in ("owner", "admin", "director", "sales")
    }
