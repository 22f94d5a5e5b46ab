"""The public chat over HTTP: asking, waiting, server-sent events, limits, leads, hostile bodies."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from tests.api.stack import Api, Company, new_address
from tests.people import Org
from tests.rules.test_chat import Chat, add_document

QUOTE = "das 8h às 18h"
PATH = "/functions/v1/chat"


class Owned(Org):
    """An organisation founded over HTTP, for the helpers of the rules' tests."""

    def __init__(self, company: Company) -> None:
        super().__init__(company.slug)
        object.__setattr__(self, "id", company.id)

    @property
    def org(self) -> UUID:
        """Its id."""
        found: UUID = self.id  # type: ignore[attr-defined]
        return found


class Visitor:
    """Somebody on the company's site."""

    def __init__(self, company: Company, address: str | None = None) -> None:
        self.company = company
        self.db = company.api.db
        self.org = Owned(company)
        self.http = company.api.http(address=address or new_address())
        self.known: dict[str, str] = {}

    def post(self, path: str = "", body: object = None, **headers: str) -> httpx.Response:
        """Send a body, as JSON unless it is bytes already."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"content-type": "application/json", "prefer": "wait=0", **headers}
        return self.http.post(PATH + path, content=content, headers=sent)

    def ask(self, question: str = "Qual o horário?", **headers: str) -> httpx.Response:
        """Ask, going on with the conversation that was begun."""
        answer = self.post("", self.question(question), **headers)
        if answer.is_success:
            found = answer.json()
            self.known = {
                "session": found["session"],
                "token": found.get("token") or self.known["token"],
            }
        return answer

    def question(self, question: str) -> dict[str, str]:
        """Give the body of a question."""
        return {"organization": self.company.slug, "question": question, **self.known}

    def read(self, message: str | None = None, **headers: str) -> httpx.Response:
        """Read a message, or the conversation."""
        query = {"session": self.known["session"], **({"message": message} if message else {})}
        sent = {"x-chat-token": self.known["token"], **headers}
        return self.http.get(PATH, params=query, headers=sent)

    def pending(self, message: str) -> Chat:
        """Take a pending answer on, as a worker does."""
        return Chat(self.db, self.org, UUID(message), UUID(int=0))

    def answer(self, message: str, *, quote: str = QUOTE, streamed: str = "") -> str:
        """Answer as a worker does."""
        chat = self.pending(message)
        chat.begin()
        chat.show(add_document(self.db, self.org, audience="public").chunk)
        if streamed:
            chat.stream(streamed)
        return chat.finish((1, quote))


@pytest.fixture
def visitor(functions: Api, company: Company) -> Visitor:
    """A visitor from an address of his own, of a company of this test alone."""
    assert functions.url == company.api.url
    return Visitor(company)


def events(answer: httpx.Response) -> Iterator[tuple[str, Any]]:
    """Read server-sent events, one after the other."""
    name = ""
    for line in answer.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def test_a_visitor_asks_and_polls_for_the_answer(visitor: Visitor) -> None:
    asked = visitor.ask()
    assert asked.status_code == 202, asked.text
    body = asked.json()
    assert body["token"].startswith("chat_")
    assert (body["message"]["status"], asked.headers["retry-after"]) == ("pending", "1")
    message = body["message"]["id"]
    assert visitor.read(message).status_code == 202
    assert visitor.answer(message) == "answer"
    done = visitor.read(message)
    assert (done.status_code, done.headers["cache-control"]) == (200, "no-store")
    found = done.json()["message"]
    assert (found["status"], found["kind"], found["content"]) == (
        "done", "answer", "Atendemos das 8h às 18h.",
    )  # fmt: skip
    (citation,) = found["citations"]
    assert citation["quote"] == QUOTE
    assert set(citation) == {
        "number", "source_type", "title", "url", "heading", "quote", "start_char", "end_char",
    }  # fmt: skip
    assert found["invitation"]["url"] == "/contato"
    conversation = visitor.read().json()
    assert [one["role"] for one in conversation["messages"]] == ["user", "assistant"]
    assert "token" not in conversation
    second = visitor.ask("E aos domingos?").json()
    assert "token" not in second
    assert second["session"] == visitor.known["session"]


def test_whoever_waits_gets_the_answer_at_once(visitor: Visitor) -> None:
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(visitor.ask, prefer="wait=20")
        row = None
        while row is None:
            row = visitor.db.execute(
                "select id from chat_messages where org_id = %s and status = 'pending'",
                (visitor.company.id,),
            ).fetchone()
        visitor.answer(str(row[0]))
        answer = asked.result()
    assert answer.status_code == 200
    assert answer.json()["message"]["content"] == "Atendemos das 8h às 18h."


def test_an_answer_comes_piece_by_piece(visitor: Visitor) -> None:
    with visitor.http.stream(
        "POST", PATH, json=visitor.question("Qual o horário?"),
        headers={"accept": "text/event-stream"},
    ) as stream:  # fmt: skip
        assert stream.status_code == 200
        assert stream.headers["content-type"].startswith("text/event-stream")
        heard = events(stream)
        name, started = next(heard)
        assert (name, set(started)) == ("started", {"session", "token", "message"})
        chat = visitor.pending(started["message"])
        chat.begin()
        chat.show(add_document(visitor.db, visitor.org, audience="public").chunk)
        chat.stream("Atendemos")
        assert next(heard) == ("token", {"from": 0, "text": "Atendemos"})
        chat.stream("Atendemos das 8h")
        assert next(heard) == ("token", {"from": 9, "text": " das 8h"})
        chat.finish((1, QUOTE))
        assert next(heard) == ("token", {"from": 16, "text": " às 18h."})
        name, citations = next(heard)
        assert (name, [one["quote"] for one in citations]) == ("citations", [QUOTE])
        name, done = next(heard)
        assert (name, done["status"], done["content"]) == (
            "done", "done", "Atendemos das 8h às 18h.",
        )  # fmt: skip
        assert list(heard) == []
    visitor.known = {"session": started["session"], "token": started["token"]}
    again = visitor.read(started["message"], accept="text/event-stream")
    assert [name for name, _ in events(again)] == ["started", "token", "citations", "done"]


def test_what_was_streamed_without_a_source_is_replaced(visitor: Visitor) -> None:
    with visitor.http.stream(
        "POST", PATH, json=visitor.question("Qual o horário?"),
        headers={"accept": "text/event-stream"},
    ) as stream:  # fmt: skip
        heard = events(stream)
        _, started = next(heard)
        chat = visitor.pending(started["message"])
        chat.begin()
        chat.stream("Nunca fechamos")
        text = next(heard)[1]["text"]
        assert chat.finish((1, "inventado por inteiro")) == "abstain"
        name, change = next(heard)
        text = text[: change["from"]] + change["text"]
        name, done = next(heard)
        assert (name, done["status"], done["content"]) == ("done", "abstained", text)
        assert "Nunca" not in text.split()
        assert done["citations"] == []


def test_whoever_leaves_a_stream_leaves_nothing_broken(visitor: Visitor) -> None:
    with visitor.http.stream(
        "POST", PATH, json=visitor.question("Qual o horário?"),
        headers={"accept": "text/event-stream"},
    ) as stream:  # fmt: skip
        _, started = next(events(stream))
    visitor.known = {"session": started["session"], "token": started["token"]}
    assert visitor.answer(started["message"]) == "answer"
    assert visitor.read(started["message"]).status_code == 200


def test_one_question_at_a_time_and_the_same_key_once(visitor: Visitor) -> None:
    first = visitor.ask().json()
    refused = visitor.ask("E?", **{"idempotency-key": "k"})
    assert (refused.status_code, refused.json()["message"]) == (409, "answer_pending")
    visitor.answer(first["message"]["id"])
    ids = {visitor.ask("E?", **{"idempotency-key": "k"}).json()["message"]["id"] for _ in range(2)}
    assert len(ids) == 1
    other = visitor.ask("Outra?", **{"idempotency-key": "k"})
    assert (other.status_code, other.json()["message"]) == (409, "idempotency_key_reused")


def test_nobody_reads_or_goes_on_with_somebody_elses_conversation(
    visitor: Visitor, functions: Api
) -> None:
    message = visitor.ask().json()["message"]["id"]
    stranger = Visitor(functions.company())
    stranger.ask()
    for token in (stranger.known["token"], "x", "chat_" + "0" * 64):
        answer = visitor.read(message, **{"x-chat-token": token})
        assert (answer.status_code, answer.json()["message"]) == (404, "not_found")
        with_events = visitor.read(
            message, **{"x-chat-token": token, "accept": "text/event-stream"}
        )
        assert "content" not in with_events.text
    for known in (
        {"session": visitor.known["session"], "token": stranger.known["token"]},
        {"session": str(uuid4()), "token": visitor.known["token"]},
    ):
        answer = visitor.post("", {**visitor.question("Oi?"), **known})
        assert answer.status_code == 404
    answer = visitor.post("", {**visitor.question("Oi?"), "organization": stranger.company.slug})
    assert answer.status_code == 404
    rest = visitor.company.api.visitor()
    for table in ("chat_sessions", "chat_messages"):
        with pytest.raises(Exception, match="42501"):
            rest.table(table).select("*").execute()


def test_twenty_questions_a_minute_per_address(visitor: Visitor) -> None:
    for number in range(20):
        visitor.known = {}
        answer = visitor.ask(**{"x-forwarded-for": f"198.51.100.{number}"})
        assert answer.status_code == 202, number
    visitor.known = {}
    refused = visitor.ask(**{"x-forwarded-for": "198.51.100.200", "cf-connecting-ip": "1.1.1.1"})
    assert (refused.status_code, refused.json()["message"]) == (429, "rate_limited")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert Visitor(visitor.company).ask().status_code == 202


def test_a_visitor_leaves_his_data_once(visitor: Visitor) -> None:
    visitor.ask("Quanto custa?")
    data = {**visitor.known, "name": "Lia Prado", "phone": "(11) 98765-4321", "consent": True}
    for wrong, key in (
        ({"consent": False}, "lead_consent_required"),
        ({"consent": None}, "lead_consent_required"),
        ({"phone": None}, "lead_invalid"),
        ({"name": ""}, "lead_invalid"),
    ):
        refused = visitor.post("/lead", {**data, **wrong})
        assert (refused.status_code, refused.json()["message"]) == (422, key)
    other = Visitor(visitor.company)
    other.known = visitor.known
    receipts = {other.post("/lead", data).json()["receipt"] for _ in range(2)}
    assert len(receipts) == 1
    assert visitor.db.execute(
        "select id::text, source, phone, email from leads where org_id = %s", (visitor.company.id,)
    ).fetchall() == [(receipts.pop(), "chat", "(11) 98765-4321", None)]
    assert visitor.read().json()["has_lead"] is True


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"question=1",
        b"\xff\xfe{}",
        b"null",
        b"[]",
        b'"text"',
        b"7",
        b"[" * 30_000,
        b'{"question": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"organization": "\\u0000", "question": "x"}',
        b'{"organization": "\\ud800", "question": "x"}',
        {"question": "Oi?", "organization": 7},
        {"question": ["Oi?"], "organization": "x"},
        {"question": None, "organization": "x"},
        {"question": " ", "organization": "x"},
        {"question": "x" * 2001, "organization": "x"},
        {"question": "Oi?", "organization": "x", "session": "x", "token": "y"},
        {"question": "Oi?", "organization": "x", "session": str(uuid4())},
        {"question": "Oi?", "organization": "x", "token": "y"},
        {"question": "Oi?", "organization": "x", "session": {"a": 1}, "token": 1},
        {"__proto__": {"question": "Oi?"}, "organization": "x"},
    ],
)
def test_a_hostile_body_is_400_and_nothing_breaks(visitor: Visitor, body: object) -> None:
    for path in ("", "/lead"):
        answer = visitor.post(path, body)
        assert (answer.status_code, answer.json()["message"]) == (400, "bad_input"), answer.text
    events_asked = visitor.post("", body, accept="text/event-stream")
    assert events_asked.status_code == 400


def test_what_is_not_there_too_large_or_of_another_kind(visitor: Visitor) -> None:
    body = {"organization": "nobody-here", "question": "Oi?"}
    assert visitor.post("", body).status_code == 404
    assert visitor.post("", {**body, "organization": None}).status_code == 404
    assert visitor.post("/other", body).status_code == 404
    assert visitor.post("", b'{"question": "' + b"x" * 70_000 + b'"}').status_code == 413
    assert visitor.post("", body, **{"content-type": "text/plain"}).status_code == 415
    assert visitor.http.put(PATH).status_code == 405
    assert visitor.http.get(PATH + "/lead").status_code == 405
    for query in ("", "?session=x", f"?session={uuid4()}", f"?session={uuid4()}&message=1"):
        assert visitor.http.get(PATH + query).status_code == 400
    unknown = visitor.http.get(f"{PATH}?session={uuid4()}", headers={"x-chat-token": "x"})
    assert unknown.status_code == 404


def test_pages_of_any_site_may_call_it(visitor: Visitor) -> None:
    asked = {
        "origin": "https://site.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type, x-chat-token",
    }
    preflight = visitor.http.options(PATH, headers=asked)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert "x-chat-token" in preflight.headers["access-control-allow-headers"]
    for answer in (visitor.ask(origin="https://site.example"), visitor.post("", b"{")):
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers


def test_a_member_asks_over_rest_and_follows_the_answer(company: Company) -> None:
    employee = company.member("employee")
    asked = employee.client.rpc(
        "ask", {"p_session": None, "p_question": "Qual o horário?", "p_org": str(company.id)}
    ).execute()
    answer = asked.data["answer_id"]
    visitor = Visitor(company)
    row = employee.client.rpc("get_answer", {"p_message": answer}).execute().data
    assert row["status"] == "pending"
    assert visitor.answer(answer) == "answer"
    row = employee.client.rpc("get_answer", {"p_message": answer}).execute().data
    assert (row["status"], row["citations"][0]["quote"]) == ("done", QUOTE)
    listed = (
        employee.client.table("chat_sessions").select("title, chat_messages(role)").execute().data
    )
    assert [(one["title"], len(one["chat_messages"])) for one in listed] == [("Qual o horário?", 2)]
