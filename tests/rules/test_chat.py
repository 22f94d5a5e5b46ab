"""Chat: who may ask, one answer at a time, which quotes count, what becomes of visitors and their data."""

import json
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from tests.people import (
    Connection,
    Org,
    World,
    as_anon,
    as_client,
    as_member,
    as_person,
    as_worker,
    denied,
    refused,
    set_clock,
)
from tests.rules.test_ops_playbooks import one

TEXT = (
    "# Suporte\n\nO suporte atende de segunda a sexta, das 8h às 18h.\n\n"
    "Chamados críticos são atendidos em até 15 minutos, inclusive aos  domingos."
)


def add_document(
    db: Connection, org: Org, text: str = TEXT, *, audience: str = "internal"
) -> SimpleNamespace:
    """Publish a question and answer with one passage, as its index job would; gives document and chunk."""
    source = one(
        db,
        "insert into knowledge_questions (org_id, question, answer_markdown, audience)"
        " values (%s, %s, %s, %s) returning id",
        org.org, f"Como é o suporte? {uuid4()}", text, audience,
    )  # fmt: skip
    document, content_hash = cast(
        "tuple[UUID, str]",
        db.execute(
            "select id, content_hash from knowledge_documents where source_id = %s", (source,)
        ).fetchone(),
    )
    chunks = [{"ordinal": 1, "heading_path": "Suporte", "start_char": 0, "end_char": len(text)}]
    assert one(
        db, "select app.store_knowledge_chunks(%s, %s, %s, null, %s)",
        org.org, document, content_hash, json.dumps(chunks),
    )  # fmt: skip
    chunk = one(db, "select id from knowledge_chunks where document_id = %s", document)
    return SimpleNamespace(source=source, id=document, chunk=chunk, text=text)


@dataclass
class Chat:
    """A question on its way to an answer."""

    db: Connection
    org: Org
    answer: UUID
    session: UUID
    attempt: int = 0

    def begin(self) -> dict[str, Any] | None:
        """Take the answer on as a worker does."""
        with as_worker(self.db):
            cursor = self.db.execute(
                "select to_jsonb(b) from app.begin_answer(%s, %s) as b", (self.org.org, self.answer)
            )
            row = cursor.fetchone()
        self.attempt = row[0]["attempt"] if row else self.attempt
        return cast("dict[str, Any]", row[0]) if row else None

    def show(self, *chunks: UUID) -> list[tuple[Any, ...]]:
        """Note what was found; gives what the model is shown."""
        with as_worker(self.db):
            return self.db.execute(
                "select number, heading, content from app.note_passages(%s, %s, %s, %s)",
                (self.org.org, self.answer, self.attempt, list(chunks)),
            ).fetchall()

    def stream(self, content: str) -> bool:
        """Show the answer so far."""
        with as_worker(self.db):
            return bool(
                one(
                    self.db, "select app.stream_answer(%s, %s, %s, %s)",
                    self.org.org, self.answer, self.attempt, content,
                )
            )  # fmt: skip

    def finish(self, *quotes: tuple[object, object], action: str = "answer") -> str:
        """End the answer with these quotes (passage, quote)."""
        given = [{"passage": passage, "quote": quote} for passage, quote in quotes]
        with as_worker(self.db):
            said = one(
                self.db,
                "select app.finish_answer(%s, %s, %s, %s, 'Atendemos das 8h às 18h.', %s, 'm', 10, 5, 0.01)",
                self.org.org, self.answer, self.attempt, action, json.dumps(given),
            )  # fmt: skip
        return cast("str", said)

    def row(self, columns: str = "status, kind, content, citations") -> tuple[Any, ...]:
        """Read the answer."""
        row = self.db.execute(
            f"select {columns} from chat_messages where id = %s", (self.answer,)
        ).fetchone()
        assert row is not None
        return tuple(row)


def ask(  # noqa: PLR0913 - what may be asked
    db: Connection,
    org: Org,
    question: str = "Qual o horário do suporte?",
    *,
    role: str = "employee",
    session: UUID | None = None,
    key: str | None = None,
) -> Chat:
    """Ask as a member."""
    with as_member(db, org, role):
        ids = cast(
            "dict[str, str]",
            one(db, "select public.ask(%s, %s, %s, %s)", session, question, key, org.org),
        )
    return Chat(db, org, UUID(ids["answer_id"]), UUID(ids["session_id"]))


def ask_as_visitor(
    db: Connection, org: Org, question: str = "Qual o horário?", **more: Any
) -> dict[str, Any]:
    """Ask as the function chat does; `more` is session, token, key, address, organization."""
    with as_worker(db):
        return cast(
            "dict[str, Any]",
            one(
                db, "select public.ask_as_visitor(%s, %s, %s, %s, %s, %s)",
                more.get("organization", org.slug), question, more.get("session"),
                more.get("token"), more.get("key"), more.get("address", "203.0.113.9"),
            ),
        )  # fmt: skip


def answered(db: Connection, org: Org, **more: Any) -> Chat:
    """Ask, and have it answered with a quote that holds."""
    document = add_document(db, org)
    chat = ask(db, org, **more)
    assert chat.begin()
    chat.show(document.chunk)
    assert chat.finish((1, "das 8h às 18h")) == "answer"
    return chat


# Asking


def test_a_question_and_its_pending_answer_are_stored_with_the_job(
    db: Connection, world: World
) -> None:
    chat = ask(db, world.a, "  Qual o\n horário?\x07 ")
    assert db.execute(
        "select position, role, content, status, user_id from chat_messages where session_id = %s"
        " order by position", (chat.session,),
    ).fetchall() == [
        (1, "user", "Qual o\n horário?", "done", world.a.member("employee")),
        (2, "assistant", "", "pending", world.a.member("employee")),
    ]  # fmt: skip
    assert one(db, "select title from chat_sessions where id = %s", chat.session) == (
        "Qual o horário?"
    )
    assert db.execute(
        "select convert_from(payload, 'UTF8')::jsonb ->> 'message_id', priority"
        " from pgqueuer.pgqueuer where entrypoint = 'chat.answer'"
    ).fetchall() == [(str(chat.answer), 20)]
    assert one(
        db, "select payload from module_events where event_type = 'question.asked'"
    ) == {"channel": "internal"}  # fmt: skip


@pytest.mark.parametrize("question", [None, "", " \n\t", "x" * 2001, "\x01\x02"])
def test_a_question_has_1_to_2000_characters(
    db: Connection, world: World, question: str | None
) -> None:
    with refused("bad_input"):
        ask(db, world.a, cast("str", question))
    assert ask(db, world.a, "x" * 2000).row()[0] == "pending"


def test_a_conversation_answers_one_question_at_a_time(db: Connection, world: World) -> None:
    chat = ask(db, world.a)
    with refused("answer_pending") as answer:
        ask(db, world.a, "E aos domingos?", session=chat.session)
    assert answer.status == 409
    assert ask(db, world.a, "E aos domingos?").session != chat.session
    chat.begin()
    assert chat.finish(action="abstain") == "abstain"
    assert ask(db, world.a, "E aos domingos?", session=chat.session).session == chat.session


def test_the_same_idempotency_key_gives_the_same_ids(db: Connection, world: World) -> None:
    chat = ask(db, world.a, key="k-1")
    again = ask(db, world.a, key="k-1")
    assert (again.session, again.answer) == (chat.session, chat.answer)
    assert ask(db, world.a, key="k-1", session=chat.session).answer == chat.answer
    assert ask(db, world.a, key="k-1", role="ops").answer != chat.answer
    with refused("idempotency_key_reused"):
        ask(db, world.a, "Outra pergunta", key="k-1")
    other = ask(db, world.a, key="k-2")
    with refused("idempotency_key_reused"):
        ask(db, world.a, key="k-1", session=other.session)
    assert one(db, "select count(*) from chat_sessions") == 3


def test_only_members_whose_role_may_chat_ask_and_only_in_their_own_conversations(
    db: Connection, world: World
) -> None:
    chat = ask(db, world.a)
    for role in ("owner", "ops"):
        with refused("not_found"):
            ask(db, world.a, session=chat.session, role=role)
    with as_client(db, world.a), refused("not_allowed"):
        db.execute("select public.ask(null, 'Oi, tudo bem?', null, %s)", (world.a.org,))
    with as_person(db, world.removed), refused("not_allowed"):
        db.execute("select public.open_chat(%s)", (world.a.org,))
    with as_member(db, world.b, "owner"), refused("not_allowed"):
        db.execute("select public.open_chat(%s)", (world.a.org,))
    with as_member(db, world.a, "owner"), refused("bad_input"):
        db.execute("select public.ask(null, 'Oi, tudo bem?')")
    with as_anon(db), denied():
        db.execute("select public.ask(null, 'Oi', null, %s)", (world.a.org,))
    db.execute("update organizations set status = 'suspended' where id = %s", (world.a.org,))
    with refused("organization_suspended"):
        ask(db, world.a)


def test_a_person_asks_sixty_times_a_minute(db: Connection, world: World) -> None:
    set_clock(db, "2026-03-31T12:00:00-03:00")
    for _ in range(60):
        ask(db, world.a)
    with refused("rate_limited"):
        ask(db, world.a)
    assert ask(db, world.a, role="ops").row()[0] == "pending"
    set_clock(db, None)


def test_a_member_reads_and_deletes_his_own_conversations_and_owners_read_all(
    db: Connection, world: World
) -> None:
    chat = answered(db, world.a)
    ask_as_visitor(db, world.a)
    ask(db, world.b)
    counts = {}
    for role in ("employee", "ops", "owner", "admin", "client"):
        with as_member(db, world.a, role):
            counts[role] = (
                one(db, "select count(*) from chat_sessions"),
                one(db, "select count(*) from chat_messages"),
            )
    assert counts == {
        "employee": (1, 2), "ops": (0, 0), "owner": (2, 4), "admin": (2, 4), "client": (0, 0),
    }  # fmt: skip
    with as_member(db, world.a, "owner"):
        assert db.execute("delete from chat_sessions").rowcount == 0
        with denied():
            db.execute("update chat_messages set content = 'x'")
        assert one(db, "select (public.get_answer(%s)).status", chat.answer) == "done"
    with as_member(db, world.a, "ops"), refused("not_found"):
        db.execute("select public.get_answer(%s)", (chat.answer,))
    with as_member(db, world.a, "employee"):
        assert db.execute("delete from chat_sessions").rowcount == 1
    assert one(db, "select count(*) from app.chat_passages") == 0


# Citations


@pytest.mark.parametrize(
    ("quote", "stored"),
    [
        ("das 8h às 18h", "das 8h às 18h"),
        ("  das\n8h\tàs   18h ", "das 8h às 18h"),
        ("inclusive aos domingos.", "inclusive aos  domingos."),
        ("inclusive\u00a0aos domingos", "inclusive aos  domingos"),
        ("18h. Chamados críticos são", "18h.\n\nChamados críticos são"),
    ],
)
def test_a_quote_counts_whatever_its_white_space(
    db: Connection, world: World, quote: str, stored: str
) -> None:
    document = add_document(db, world.a)
    chat = ask(db, world.a)
    chat.begin()
    assert chat.show(document.chunk) == [(1, "Suporte", TEXT)]
    assert chat.finish((1, quote)) == "answer"
    status, kind, content, citations = chat.row()
    assert (status, kind, content) == ("done", "answer", "Atendemos das 8h às 18h.")
    (citation,) = citations
    assert (citation["number"], citation["quote"]) == (1, stored)
    assert TEXT[citation["start_char"] : citation["end_char"]] == stored
    assert citation["document_id"] == str(document.id)
    assert (citation["version"], citation["heading"], citation["source_type"]) == (
        1,
        "Suporte",
        "qa",
    )


@pytest.mark.parametrize(
    "quote",
    [
        "o suporte funciona aos feriados",
        "DAS 8H ÀS 18H",
        "das 8h as 18h",
        "das 8h às 1.h",
        "8h às",
        "das(.*)18h|x",
        "das 8h [à]s 18h",
        "***:das 8h às 18h",
        "",
        None,
        7,
        ["das 8h às 18h"],
        "das 8h às 18h " + "x" * 3000,
    ],
)
def test_what_does_not_stand_in_the_passage_is_no_source(
    db: Connection, world: World, quote: object
) -> None:
    document = add_document(db, world.a)
    chat = ask(db, world.a)
    chat.begin()
    chat.show(document.chunk)
    assert chat.stream("Atendemos aos feriados")
    assert chat.row("status, content") == ("streaming", "Atendemos aos feriados")
    assert chat.finish((1, quote)) == "abstain"
    status, kind, content, citations = chat.row()
    assert (status, kind, citations) == ("abstained", None, [])
    assert content == one(db, "select app.chat_sentence('abstained')")


def test_made_up_quotes_are_dropped_and_the_others_stay(db: Connection, world: World) -> None:
    document = add_document(db, world.a)
    chat = ask(db, world.a)
    chat.begin()
    chat.show(document.chunk)
    quotes = [
        (1, "inventado do começo ao fim"), (1, "das 8h às 18h"), (2, "das 8h às 18h"),
        ("x", "das 8h às 18h"), (None, "das 8h às 18h"), (1, "das 8h  às 18h"),
        (1, "Chamados críticos"),
    ]  # fmt: skip
    assert chat.finish(*quotes) == "answer"
    assert [(c["number"], c["quote"]) for c in chat.row()[3]] == [
        (1, "das 8h às 18h"),
        (2, "Chamados críticos"),
    ]
    assert one(
        db, "select payload from module_events where event_type = 'answer.done'"
    ) == {"channel": "internal", "kind": "answer", "citations": 2}  # fmt: skip


def test_a_passage_that_was_not_shown_for_this_answer_is_no_source(
    db: Connection, world: World
) -> None:
    shown, other = add_document(db, world.a), add_document(db, world.a, "Os preços são de tabela.")
    foreign = add_document(db, world.b, "Segredo da outra empresa.")
    chat = ask(db, world.a)
    chat.begin()
    assert [number for number, *_ in chat.show(shown.chunk, foreign.chunk)] == [1]
    assert (
        chat.finish((1, "Os preços são de tabela."), (2, "Segredo da outra empresa.")) == "abstain"
    )
    assert other.chunk != shown.chunk


def test_a_document_withdrawn_or_closed_meanwhile_is_no_source(
    db: Connection, world: World
) -> None:
    kept, withdrawn = add_document(db, world.a), add_document(db, world.a, "Texto que some depois.")
    chat = ask(db, world.a)
    chat.begin()
    assert len(chat.show(kept.chunk, withdrawn.chunk)) == 2
    db.execute(
        "update knowledge_questions set is_active = false where id = %s", (withdrawn.source,)
    )
    assert chat.finish((2, "Texto que some depois."), (1, "das 8h às 18h")) == "answer"
    assert [c["document_id"] for c in chat.row()[3]] == [str(kept.id)]
    second = ask(db, world.a)
    second.begin()
    second.show(kept.chunk)
    db.execute(
        "insert into org_role_permissions (org_id, role, module, read_scope, write_scope)"
        " values (%s, 'employee', 'knowledge', 'none', 'none')", (world.a.org,),
    )  # fmt: skip
    assert second.finish((1, "das 8h às 18h")) == "abstain"


def test_an_edited_document_is_cited_in_the_version_that_was_shown(
    db: Connection, world: World
) -> None:
    document = add_document(db, world.a)
    chat = ask(db, world.a)
    chat.begin()
    chat.show(document.chunk)
    db.execute(
        "update knowledge_questions set answer_markdown = 'Atendemos sempre.' where id = %s",
        (document.source,),
    )
    assert chat.finish((1, "das 8h às 18h")) == "answer"
    assert chat.row()[3][0]["version"] == 1


def test_a_visitor_is_never_shown_what_is_internal(db: Connection, world: World) -> None:
    public, internal = add_document(db, world.a, audience="public"), add_document(db, world.a)
    ids = ask_as_visitor(db, world.a)
    chat = Chat(db, world.a, UUID(ids["answer_id"]), UUID(ids["session_id"]))
    begun = chat.begin()
    assert begun
    assert (begun["person"], begun["audience"]) == (None, "public")
    assert len(chat.show(internal.chunk, public.chunk)) == 1
    db.execute(
        "update knowledge_questions set audience = 'internal' where id = %s", (public.source,)
    )
    assert chat.finish((1, "das 8h às 18h")) == "abstain"


def test_an_excerpt_is_made_of_its_quotes(db: Connection, world: World) -> None:
    document = add_document(db, world.a)
    chat = ask(db, world.a)
    chat.begin()
    chat.show(document.chunk)
    assert chat.finish((1, "das 8h às 18h.\n\nChamados"), (1, "inventado aqui"), action="excerpt")
    status, kind, content, citations = chat.row()
    assert (status, kind, len(citations)) == ("done", "excerpt", 1)
    intro = one(db, "select app.chat_sentence('excerpt')")
    assert content.startswith(f"{intro}\n\n> das 8h às 18h.\n> \n> Chamados\n\n— Como é o suporte?")
    assert content.endswith("[1]")


# How answers end


def test_an_answer_that_was_begun_again_belongs_to_the_later_worker(
    db: Connection, world: World
) -> None:
    document = add_document(db, world.a)
    chat = ask(db, world.a)
    assert chat.begin()
    chat.show(document.chunk)
    assert chat.stream("Metade de uma")
    dead = Chat(db, world.a, chat.answer, chat.session, chat.attempt)
    assert chat.begin()
    assert chat.row("status, content, attempts") == ("streaming", "", 2)
    assert not dead.stream("Metade de uma resposta")
    assert dead.finish((1, "das 8h às 18h")) == "superseded"
    chat.show(document.chunk)
    assert chat.finish((1, "das 8h às 18h")) == "answer"
    assert chat.begin() is None
    assert not chat.stream("Mais")
    assert one(db, "select count(*) from chat_messages") == 2
    with refused("chat_message_move_refused"):
        db.execute("update chat_messages set status = 'pending' where id = %s", (chat.answer,))


def test_whoever_was_removed_meanwhile_is_refused_before_and_after_the_model(
    db: Connection, world: World
) -> None:
    document = add_document(db, world.a)
    before, after = ask(db, world.a), ask(db, world.a)
    after.begin()
    after.show(document.chunk)
    db.execute("delete from memberships where user_id = %s", (world.a.member("employee"),))
    assert before.begin() is None
    assert after.finish((1, "das 8h às 18h")) == "refused"
    for chat in (before, after):
        assert chat.row()[:3] == ("failed", None, one(db, "select app.chat_sentence('refused')"))
    assert one(db, "select current_setting('request.jwt.claims', true)") == ""


def test_the_last_turns_that_were_answered_are_handed_on_within_limits(
    db: Connection, world: World
) -> None:
    document = add_document(db, world.a)
    session = None
    for number in range(8):
        chat = ask(db, world.a, f"Pergunta {number}", session=session)
        session = chat.session
        begun = chat.begin()
        chat.show(document.chunk)
        chat.finish((1, "das 8h às 18h"), action="abstain" if number == 5 else "answer")
    assert begun
    assert [turn["question"] for turn in begun["history"]] == [
        f"Pergunta {number}" for number in (1, 2, 3, 4, 6)
    ]
    long = ask(db, world.a, "x" * 2000, session=session)
    long.begin()
    long.show(document.chunk)
    long.finish((1, "das 8h às 18h"))
    db.execute("update chat_messages set content = repeat('y', 5000) where id = %s", (long.answer,))
    begun = ask(db, world.a, session=session).begin()
    assert begun
    assert sum(len(turn["question"]) + len(turn["answer"]) for turn in begun["history"]) <= 6000
    assert [len(turn["answer"]) for turn in begun["history"]][-1] == 1000


def test_a_member_who_wants_a_person_is_passed_on_and_the_admins_are_told_once(
    db: Connection, world: World
) -> None:
    chat = ask(db, world.a, "Quero falar com alguém")
    chat.begin()
    assert chat.finish(action="handoff") == "handoff"
    assert chat.row()[:3] == (
        "done",
        "handoff",
        one(db, "select app.chat_sentence('handoff_internal')"),
    )
    assert one(db, "select status from chat_sessions where id = %s", chat.session) == "handed_off"
    assert db.execute(
        "select recipient_id, body from notifications where template = 'chat_handoff' order by 1"
    ).fetchall() == sorted(
        (
            world.a.member(role),
            "Employee Alfa pediu uma resposta de uma pessoa: Quero falar com alguém",
        )
        for role in ("owner", "admin")
    )
    ids = ask_as_visitor(db, world.a)
    visitor = Chat(db, world.a, UUID(ids["answer_id"]), UUID(ids["session_id"]))
    visitor.begin()
    assert visitor.finish(action="handoff") == "handoff"
    assert "formulário de contato" in visitor.row()[2]
    assert one(db, "select count(*) from notifications where template = 'chat_handoff'") == 2


def test_an_answer_that_no_job_is_at_any_more_has_failed(db: Connection, world: World) -> None:
    chat, waiting, fresh = ask(db, world.a), ask(db, world.a), ask(db, world.a)
    chat.begin()
    chat.stream("Metade")
    db.execute("update pgqueuer.pgqueuer set status = 'failed' where dedupe_key like %s",
        (f"%{chat.answer}",))  # fmt: skip
    db.execute("delete from pgqueuer.pgqueuer where dedupe_key like %s", (f"%{fresh.answer}",))
    db.execute("alter table chat_messages disable trigger chat_messages_90_touch")
    db.execute("update chat_messages set updated_at = now() - interval '3 minutes' where id <> %s",
        (fresh.answer,))  # fmt: skip
    with as_worker(db):
        assert one(db, "select app.fail_abandoned_answers()") == 1
        assert one(db, "select app.fail_abandoned_answers()") == 0
    assert chat.row()[:3] == ("failed", None, one(db, "select app.chat_sentence('failed')"))
    assert (waiting.row("status"), fresh.row("status")) == (("pending",), ("pending",))


# Visitors


def test_a_visitor_goes_on_with_his_token_and_with_no_other(db: Connection, world: World) -> None:
    first = ask_as_visitor(db, world.a)
    token, session = first["token"], first["session_id"]
    assert token not in str(db.execute("select * from chat_sessions").fetchall())
    other = ask_as_visitor(db, world.a, organization=str(world.a.org).upper())
    read = "select public.get_visitor_answer(%s, %s, %s)"
    with as_worker(db):
        message = cast("dict[str, Any]", one(db, read, session, token, first["answer_id"]))
        assert (message["status"], message["invitation"]) == ("pending", None)
        chat = cast(
            "dict[str, Any]", one(db, "select public.get_visitor_chat(%s, %s)", session, token)
        )
        assert [m["role"] for m in chat["messages"]] == ["user", "assistant"]
        for wrong in (
            (session, other["token"], first["answer_id"]),
            (session, "", first["answer_id"]),
            (session, None, first["answer_id"]),
            (session, token, other["answer_id"]),
            (uuid4(), token, first["answer_id"]),
        ):
            with refused("not_found"):
                db.execute(read, wrong)
    for more in (
        {"token": other["token"]},
        {"token": None},
        {"token": token, "organization": "beta"},
    ):
        with refused("not_found"):
            ask_as_visitor(db, world.a, session=session, **more)
    with refused("answer_pending"):
        ask_as_visitor(db, world.a, session=session, token=token)
    db.execute("update chat_messages set status = 'abstained' where id = %s", (first["answer_id"],))
    again = {
        json.dumps(ask_as_visitor(db, world.a, "E?", session=session, token=token, key="k"))
        for _ in range(2)
    }
    assert len(again) == 1
    assert json.loads(again.pop())["token"] is None
    with as_worker(db):
        done = cast("dict[str, Any]", one(db, read, session, token, first["answer_id"]))
    assert done["invitation"]["url"] == "/contato"
    for call in (
        "get_visitor_chat(null, null)",
        "ask_as_visitor('alfa', 'x', null, null, null, '')",
    ):
        with as_member(db, world.a, "owner"), denied():
            db.execute(f"select public.{call}")


def test_visitors_ask_twenty_times_a_minute_from_one_address(db: Connection, world: World) -> None:
    set_clock(db, "2026-03-31T12:00:00-03:00")
    for number in range(20):
        ask_as_visitor(db, world.a, address=f"2001:db8:1:2::{number}")
    with refused("rate_limited") as answer:
        ask_as_visitor(db, world.a, address="2001:db8:1:2:ffff::1")
    assert answer.hint == "Try again in 60 s."
    for address in ("2001:db8:1:3::1", "unknown", "::ffff:203.0.113.5", "1.2.3.4, 5.6.7.8"):
        assert ask_as_visitor(db, world.a, address=address)
    set_clock(db, "2026-03-31T12:01:01-03:00")
    assert ask_as_visitor(db, world.a, address="2001:db8:1:2::1")
    set_clock(db, None)


def test_only_an_organisation_that_is_served_has_a_public_chat(
    db: Connection, world: World
) -> None:
    for name in ("nobody", "", None, "alfa' or true --", str(uuid4())):
        with refused("organization_not_found"):
            ask_as_visitor(db, world.a, organization=name)
    for status, key in (
        ("suspended", "organization_suspended"),
        ("inactive", "organization_not_found"),
    ):
        db.execute("update organizations set status = %s where id = %s", (status, world.a.org))
        with refused(key):
            ask_as_visitor(db, world.a)


def submit_lead(db: Connection, chat: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Leave data in a visitor's conversation."""
    given = {"name": "Lia Prado", "email": "Lia@Leads.test", "consent": True, **more}
    with as_worker(db):
        return cast(
            "dict[str, Any]",
            one(
                db, "select public.submit_chat_lead(%s, %s, %s, %s, %s, %s, %s, %s, %s, '203.0.113.7')",
                chat["session_id"], more.get("token", chat["token"]), given["name"], given["email"],
                given.get("phone"), given.get("company"), given.get("message"), None,
                given["consent"],
            ),
        )  # fmt: skip


def test_a_visitor_who_leaves_his_data_becomes_a_lead_once(db: Connection, world: World) -> None:
    chat = ask_as_visitor(db, world.a, "Quanto custa?")
    receipt = submit_lead(db, chat)["receipt"]
    assert submit_lead(db, chat, name="Outra Pessoa")["receipt"] == receipt
    assert db.execute(
        "select id::text, name, email, source, message, consent_at is not null from leads"
    ).fetchall() == [
        (receipt, "Lia Prado", "lia@leads.test", "chat", "Pelo chat: Quanto custa?", True)
    ]
    assert one(db, "select lead_id::text from chat_sessions") == receipt
    assert one(db, "select count(*) from module_events where event_type = 'lead.created'") == 1


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"consent": False}, "lead_consent_required"),
        ({"consent": None}, "lead_consent_required"),
        ({"name": "L"}, "lead_invalid"),
        ({"email": "lia"}, "lead_invalid"),
        ({"email": None}, "lead_invalid"),
        ({"email": None, "phone": "12"}, "lead_invalid"),
        ({"name": "x" * 200}, "bad_input"),
        ({"token": "chat_0"}, "not_found"),
    ],
)
def test_a_lead_needs_a_name_a_contact_and_consent(
    db: Connection, world: World, given: dict[str, Any], key: str
) -> None:
    chat = ask_as_visitor(db, world.a)
    with refused(key):
        submit_lead(db, chat, **given)
    assert submit_lead(db, chat, email=None, phone="(11) 98765-4321")["receipt"]


def test_conversations_of_visitors_are_removed_when_their_time_is_over(
    db: Connection, world: World
) -> None:
    own, visitor, other = ask(db, world.a), ask_as_visitor(db, world.a), ask_as_visitor(db, world.b)
    submit_lead(db, visitor)
    db.execute(
        "update organizations set settings = '{\"chat_visitor_retention_days\": 10}' where id = %s",
        (world.a.org,),
    )
    db.execute("update chat_sessions set last_message_at = now() - interval '20 days'")
    with as_worker(db):
        assert one(db, "select app.remove_old_visitor_chats()") == 1
    left = {row[0] for row in db.execute("select id from chat_sessions").fetchall()}
    assert left == {own.session, UUID(other["session_id"])}
    assert one(db, "select count(*) from leads") == 1
