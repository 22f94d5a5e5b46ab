"""The gateway to language models: what is asked, what is made of each answer and fault, what is booked."""

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from pydantic import BaseModel

from nessos.ai.gateway import Gateway, Message, Reply, ToolCall
from nessos.errors import (
    AnswerError,
    BudgetError,
    GiveUpError,
    NoProviderError,
    RetryError,
    RoutesDownError,
    WaitError,
)
from nessos.http import client
from nessos.settings import load
from tests.integrations.fakes.llm import (
    Call,
    FakeModels,
    Say,
    call,
    fault,
    out_of_money,
    overloaded,
    plug_in,
    rate_limited,
    vector_of,
)
from tests.integrations.fakes.server import Answer, html
from tests.integrations.outside import open_pool
from tests.people import World

Reader = psycopg.Connection[dict[str, Any]]
Scene = Callable[[Gateway], Coroutine[Any, Any, Any]]

pytestmark = pytest.mark.usefixtures("no_backoff")
CPF = "529.982.247-25"


@dataclass
class House:
    """An organisation of its own database, and the server its models are on."""

    url: str
    org: UUID
    models: FakeModels
    monkeypatch: pytest.MonkeyPatch
    told: list[str] = field(default_factory=list)

    def plug(self, *providers: str, **settings: str) -> None:
        """Set providers up."""
        for name, value in settings.items():
            self.monkeypatch.setenv(f"NESSOS_{name}", value)
        plug_in(self.monkeypatch, self.models, *providers)

    def play(self, scene: Scene) -> Any:
        """Run a scene with a gateway as the worker has it."""

        async def run() -> Any:
            async with open_pool(self.url) as pool, client(pool) as http:
                return await scene(Gateway(pool, http))

        return asyncio.run(run())

    def complete(self, content: str = "Olá", *, purpose: str = "scoring", **options: Any) -> Reply:
        """Ask once."""
        given = {"messages": [Message("user", content)], **options}
        return self.play(lambda it: it.complete(org_id=self.org, purpose=purpose, **given))  # type: ignore[no-any-return]

    def stream(self, content: str = "Olá", **options: Any) -> Reply:
        """Ask once, and take the answer as it comes."""

        async def listen(text: str) -> None:
            self.told.append(text)

        return self.complete(content, on_text=listen, **options)

    def embed(self, *texts: str) -> Any:
        """Embed once."""
        return self.play(lambda it: it.embed(org_id=self.org, texts=texts))

    def rows(self, statement: str = "select * from public.ai_calls order by created_at") -> list[dict[str, Any]]:  # fmt: skip
        """Return rows of the database."""
        with psycopg.connect(self.url, row_factory=psycopg.rows.dict_row) as connection:
            return connection.execute(statement).fetchall()

    def tell(self, statement: str, *parameters: object) -> None:
        """Change the database."""
        with psycopg.connect(self.url) as connection:
            connection.execute(statement, parameters)

    @property
    def ledger(self) -> list[tuple[str, str]]:
        """Provider and status of every call."""
        return [(row["provider"], row["status"]) for row in self.rows()]

    @property
    def notices(self) -> list[str]:
        """What the admin was told."""
        return [
            row["template"]
            for row in self.rows(
                "select n.template from public.notifications as n join public.memberships as m"
                " on m.org_id = n.org_id and m.user_id = n.recipient_id and m.role = 'admin' order by n.created_at"
            )
        ]


_FORGET = """
with calls as (delete from public.ai_calls), budgets as (delete from public.ai_budgets),
notices as (delete from public.notifications), logged as (delete from app.outbound_calls)
update public.organizations set settings = '{}' where id = %s
"""


@pytest.fixture
def house(db_url: str, world: World, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Organisation a, with OpenAI set up."""
    with FakeModels() as models:
        house = House(db_url, world.a.org, models, monkeypatch)
        house.tell(_FORGET, house.org)
        house.plug("openai")
        yield house


class Verdict(BaseModel):
    """What a scoring answers."""

    score: int
    reason: str


GOOD = '{"score": 7, "reason": "bom"}'


# --- Answers --------------------------------------------------------------------------------------


def test_an_answer_comes_with_its_tokens_and_its_cost(house: House) -> None:
    house.models.script(Say("Bom dia.", usage=(1000, 200), cached=400))
    reply = house.complete("Olá", max_tokens=50)
    assert (reply.text, reply.finish, reply.model) == ("Bom dia.", "stop", "gpt-4o-2024-08-06")
    assert (reply.prompt_tokens, reply.completion_tokens) == (1000, 200)
    # 600 at 2.50, 400 at 1.25 and 200 at 10, per million in USD, at R$ 6 as no PTAX is known.
    assert reply.cost_brl == Decimal("0.024")
    (row,) = house.rows()
    assert (row["id"], row["status"], row["cached_tokens"], row["is_estimated"]) == (reply.call_id, "succeeded", 400, False)  # fmt: skip
    assert (row["request_id"], row["cost_usd"], row["ptax"]) == ("req_1", Decimal("0.004"), None)
    (asked,) = house.models.asked
    assert asked.body == {
        "model": "gpt-4o", "max_completion_tokens": 50, "temperature": 0.0,
        "messages": [{"role": "user", "content": "Olá"}],
    }  # fmt: skip


def test_a_conversation_with_tools_goes_as_the_providers_want_it(house: House) -> None:
    tool = {"name": "find_client", "description": "Acha.", "parameters": {"type": "object"}}
    house.models.script(
        [Call("find_client", '{"name": "Ana"}'), Call("find_client", '{"name": "Bia"}')]
    )
    first = house.complete("Quem é Ana?", tools=[tool])
    assert first.finish == "tool_calls"
    assert first.text is None
    assert first.tool_calls == (
        ToolCall("call_1", "find_client", '{"name": "Ana"}'),
        ToolCall("call_2", "find_client", '{"name": "Bia"}'),
    )
    house.models.script("Ana é cliente.")
    conversation = [
        Message("system", "Responda."),
        Message("user", "Quem é Ana?"),
        Message("assistant", None, first.tool_calls),
        Message("tool", '{"id": 1}', tool_call_id="call_1"),
        Message("tool", "null", tool_call_id="call_2"),
    ]
    assert house.complete(messages=conversation, tools=[tool]).text == "Ana é cliente."
    assert house.models.asked[1].body["tools"] == [{"type": "function", "function": tool}]
    assert house.models.asked[1].messages[2] == {
        "role": "assistant", "content": None, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "find_client", "arguments": '{"name": "Ana"}'}},
            {"id": "call_2", "type": "function", "function": {"name": "find_client", "arguments": '{"name": "Bia"}'}},
        ],
    }  # fmt: skip


@pytest.mark.parametrize("is_streamed", [False, True])
def test_broken_arguments_are_handed_on_as_they_are(house: House, is_streamed: bool) -> None:  # noqa: FBT001
    house.models.script(call("find_client", '{"name": "An'))
    reply = house.stream() if is_streamed else house.complete()
    assert reply.tool_calls == (ToolCall("call_1", "find_client", '{"name": "An'),)


@pytest.mark.parametrize(
    ("said", "text", "finish"),
    [
        (Say(None), None, "stop"),
        (Say("Era uma v", finish="length"), "Era uma v", "length"),
        (Say(refusal="Não posso."), "Não posso.", "refusal"),
        (Say(None, finish="content_filter"), None, "content_filter"),
        (Say(calls=(Call("x", "{}"),), finish="stop"), None, "tool_calls"),
        (Say("Sim.", finish="eos"), "Sim.", "stop"),
    ],
)
@pytest.mark.parametrize("is_streamed", [False, True])
def test_every_way_to_end_is_told(
    house: House, said: Say, text: str | None, finish: str, is_streamed: bool  # noqa: FBT001
) -> None:  # fmt: skip
    house.models.script(said)
    reply = house.stream() if is_streamed else house.complete()
    assert (reply.text, reply.finish) == (text, finish)


def test_tokens_that_are_not_told_are_estimated(house: House) -> None:
    house.models.script(Say("x" * 400, usage=False))
    reply = house.complete("y" * 400)
    assert reply.completion_tokens == 100
    assert 100 <= reply.prompt_tokens <= 150
    assert house.rows()[0]["is_estimated"]


@pytest.mark.parametrize("is_streamed", [False, True])
def test_what_no_database_stores_does_no_harm(house: House, is_streamed: bool) -> None:  # noqa: FBT001
    house.models.script(Say("a\x00b \ud83d\ude00 \ud83d fim", pieces=20, model="m\x00"))
    reply = (house.stream if is_streamed else house.complete)(content="olá\x00 \ud83d")
    assert reply.text == "ab \U0001f600 \ufffd fim"
    assert house.ledger == [("openai", "succeeded")]
    assert house.models.asked[0].last == "olá \ufffd"


# --- Streams --------------------------------------------------------------------------------------


def test_a_stream_tells_all_of_the_text_so_far_and_its_usage(house: House) -> None:
    house.models.script(Say("um dois três", usage=(10, 5)))
    reply = house.stream()
    assert house.told == ["um d", "um dois ", "um dois três"]
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("um dois três", 10, 5)
    assert house.rows()[0]["request_id"] == "req_1"
    assert house.models.asked[0].body["stream_options"] == {"include_usage": True}


def test_fragments_of_calls_are_put_together_by_their_index(house: House) -> None:
    house.models.script([Call("a", '{"n": 1, "text": "um"}'), Call("b", '{"n": 2}')])
    reply = house.stream()
    assert [(one.name, one.arguments) for one in reply.tool_calls] == [
        ("a", '{"n": 1, "text": "um"}'), ("b", '{"n": 2}'),
    ]  # fmt: skip


def test_a_stream_without_usage_is_estimated(house: House) -> None:
    house.models.script(Say("x" * 40, usage=False))
    assert house.stream().completion_tokens == 10
    assert house.rows()[0]["is_estimated"]


@pytest.mark.parametrize(
    "broken",
    [
        Say("um dois três", cut=2),
        Say("um dois três", error=(2, {"message": "x", "type": "server_error", "code": None})),
    ],
)
def test_a_stream_that_breaks_off_is_no_answer_and_starts_anew(house: House, broken: Say) -> None:
    house.models.script(broken, "Tudo.")
    assert house.stream().text == "Tudo."
    assert house.told[0] == "um d"
    assert house.told[-1] == "Tudo."
    (row,) = house.rows()
    assert (row["status"], row["is_estimated"]) == ("succeeded", True)


def test_a_stream_that_always_breaks_off_is_a_failure_that_is_paid_for(house: House) -> None:
    house.models.respond = lambda _: Say("um dois três", cut=2)
    with pytest.raises(RoutesDownError):
        house.stream()
    (row,) = house.rows()
    assert (row["status"], row["completion_tokens"], row["served_model"]) == ("failed", 2, None)
    assert row["cost_brl"] > 0


def test_a_stream_that_falls_silent_is_given_up(house: House) -> None:
    house.plug("openai", AI_SILENCE_S="0.2")
    house.models.script(Answer(until=house.models.stopped), "Depois.")
    assert house.stream().text == "Depois."


def test_a_listener_that_fails_ends_the_call_and_it_is_booked(house: House) -> None:
    async def fail(_: str) -> None:
        raise KeyError("gone")

    with pytest.raises(RuntimeError, match="on_text failed"):
        house.complete(on_text=fail)
    assert house.ledger == [("openai", "failed")]


# --- Faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "once",
    [
        overloaded(500), overloaded(502), overloaded(503), overloaded(529), html(200), html(502), Answer(body={}),
        Answer(body={"choices": []}), Answer(body=None), rate_limited(retry_after_ms="20"), rate_limited(),
        rate_limited(x_ratelimit_remaining_requests="0", x_ratelimit_reset_requests="20ms"), fault(409), fault(408),
        Answer(cut="before"), fault(429, is_array=True), fault(503, "UNAVAILABLE", is_array=True),
    ],
    ids=range(17),
)  # fmt: skip
def test_what_may_pass_is_tried_again_on_the_same_route(house: House, once: Answer) -> None:
    house.models.script(once, "Agora sim.")
    assert house.complete().text == "Agora sim."
    assert house.ledger == [("openai", "succeeded")]


def test_an_answer_that_does_not_come_is_given_up(house: House) -> None:
    house.plug("openai", AI_TIMEOUT_S="0.3")
    house.models.script(Answer(until=house.models.stopped), "Depois.")
    assert house.complete().text == "Depois."
    assert house.rows()[0]["is_estimated"]


@pytest.mark.parametrize(
    "refusal",
    [
        fault(400, "context_length_exceeded"), fault(401, "invalid_api_key"), fault(403, "unsupported_country"),
        fault(404, "model_not_found"), fault(422, "invalid"), fault(400, "INVALID_ARGUMENT", is_array=True),
    ],
    ids=range(6),
)  # fmt: skip
def test_what_cannot_pass_goes_to_the_next_route_at_once(house: House, refusal: Answer) -> None:
    house.plug("openai", "anthropic")
    house.models.script(refusal, "Eu posso.")
    reply = house.complete()
    assert (reply.text, reply.model) == ("Eu posso.", "claude-sonnet-5-20260601")
    assert house.ledger == [("openai", "failed"), ("anthropic", "succeeded")]
    assert house.rows()[0]["cost_brl"] == 0
    assert house.notices == []


def test_an_account_without_money_is_not_tried_again_and_its_owner_is_told(house: House) -> None:
    house.plug("openai", "anthropic")
    house.models.script(out_of_money(), "Eu posso.", "Eu de novo.")
    assert [house.complete().text, house.complete().text] == ["Eu posso.", "Eu de novo."]
    assert [asked.seen.path.split("/")[1] for asked in house.models.asked] == ["openai", "anthropic", "anthropic"]  # fmt: skip
    assert house.notices == ["ai_quota_exhausted"]


def test_anthropic_says_so_in_words(house: House) -> None:
    house.plug("openai", "anthropic")
    low = fault(400, None, message="Your credit balance is too low to access the Anthropic API.")
    house.models.script(low, "Eu posso.")
    assert house.complete(purpose="reasoning").text == "Eu posso."
    assert house.notices == ["ai_quota_exhausted"]


def test_when_every_route_is_down_the_job_is_held_and_the_admins_are_told_once(house: House) -> None:  # fmt: skip
    house.plug("openai", "anthropic", "gemini")
    house.models.respond = lambda _: overloaded()
    for _ in range(2):
        with pytest.raises(RoutesDownError) as caught:
            house.complete()
        assert isinstance(caught.value, GiveUpError)
    assert house.ledger[:3] == [("openai", "failed"), ("anthropic", "failed"), ("gemini", "failed")]
    assert house.notices == ["ai_unavailable"]


def test_nothing_of_key_and_request_stands_in_an_error(house: House) -> None:
    house.models.respond = lambda _: fault(401, "invalid_api_key", message=f"Incorrect key sk-fake-openai. {CPF}")  # fmt: skip
    with pytest.raises(RoutesDownError) as caught:
        house.complete()
    assert "invalid_api_key" in str(caught.value)
    assert "sk-fake" not in str(caught.value) + str(house.rows())
    assert CPF not in str(caught.value) + str(house.rows())


def test_two_gateways_share_the_breaker(house: House) -> None:
    house.plug("openai", "anthropic")
    house.models.respond = lambda asked: (
        overloaded() if "/openai/" in asked.seen.path else "Eu posso."
    )
    for _ in range(3):
        assert house.complete().text == "Eu posso."
    to_openai = [asked for asked in house.models.asked if "/openai/" in asked.seen.path]
    assert len(to_openai) == 5  # the fifth failure has opened it
    assert house.complete().text == "Eu posso."
    assert len([asked for asked in house.models.asked if "/openai/" in asked.seen.path]) == 5


def test_routes_that_are_merely_busy_are_waited_for(house: House) -> None:
    house.plug("openai", AI_REQUESTS_PER_MINUTE="1")
    assert house.complete().text == "Certo."
    with pytest.raises(WaitError):
        house.complete()
    assert house.notices == []


def test_a_limit_or_an_open_circuit_is_waited_for_and_then_found_out_about(house: House) -> None:
    house.models.script(rate_limited(retry_after="30"))
    for _ in range(2):
        with pytest.raises(WaitError):
            house.complete()
    assert len(house.models.asked) == 1
    assert house.notices == []
    house.tell("update app.circuit_breakers set half_open_at = now() where half_open_at > now()")
    assert house.complete().text == "Certo."


def test_a_conversation_longer_than_a_models_context_goes_to_one_that_takes_it(house: House) -> None:  # fmt: skip
    house.plug("openai", "gemini")
    assert house.complete("x" * 600_000).model == "gemini-2.5-pro"
    assert len(house.models.asked) == 1
    house.plug("openai")
    with pytest.raises(GiveUpError, match="longer than its context"):
        house.complete("x" * 600_000)
    assert house.notices == []


def test_without_a_key_nothing_is_asked(house: House) -> None:
    house.plug("anthropic")

    async def scene(gateway: Gateway) -> list[bool]:
        return [await gateway.has_provider(purpose=one) for one in ("reasoning", "embedding")]

    assert house.play(scene) == [True, False]
    with pytest.raises(NoProviderError):
        house.embed("texto")
    with pytest.raises(NoProviderError):
        house.complete(purpose="extraction")
    assert house.models.journal == []


def test_calls_are_logged_without_their_bodies(house: House) -> None:
    house.complete(f"CPF {CPF}")
    (row,) = house.rows("select provider, operation, outcome, status from app.outbound_calls")
    assert row == {"provider": "openai", "operation": "chat gpt-4o", "outcome": "ok", "status": 200}


# --- Schemas --------------------------------------------------------------------------------------


def test_a_schema_is_told_in_the_way_the_provider_knows(house: House) -> None:
    house.plug("openai", "anthropic")
    house.models.respond = lambda _: GOOD
    assert Verdict.model_validate_json(house.complete(schema=Verdict).text or "").score == 7
    house.complete(schema=Verdict, purpose="reasoning")
    openai, anthropic = (asked.body for asked in house.models.asked)
    assert openai["response_format"]["json_schema"]["schema"] == Verdict.model_json_schema()
    assert len(openai["messages"]) == 1
    assert "response_format" not in anthropic
    assert json.dumps(Verdict.model_json_schema()) in anthropic["messages"][0]["content"]
    assert "max_tokens" in anthropic


def test_json_between_fences_is_json(house: House) -> None:
    house.models.script(f"```json\n{GOOD}\n```")
    assert house.complete(schema=Verdict).text == GOOD


def test_an_answer_that_does_not_follow_the_schema_is_given_back_once(house: House) -> None:
    house.models.script(Say('{"score": "alto"}', usage=(10, 10)), Say(GOOD, usage=(20, 10)))
    reply = house.complete(schema=Verdict)
    assert reply.text == GOOD
    assert (reply.prompt_tokens, reply.completion_tokens) == (30, 20)
    assert [status for _, status in house.ledger] == ["rejected", "succeeded"]
    assert reply.cost_brl == sum(row["cost_brl"] for row in house.rows())
    assert [message["role"] for message in house.models.asked[1].messages] == ["user", "assistant", "user"]  # fmt: skip
    assert "score" in house.models.asked[1].last


def test_one_that_is_wrong_again_goes_to_the_next_route_and_then_is_an_error(house: House) -> None:
    house.plug("openai", "anthropic")
    house.models.script("não", "não", GOOD)
    assert house.complete(schema=Verdict).model.startswith("claude")
    house.models.respond = lambda _: "não"
    with pytest.raises(AnswerError):
        house.complete(schema=Verdict)
    assert house.notices == []


def test_an_answer_cut_short_is_not_asked_for_again(house: House) -> None:
    house.models.script(Say('{"score": 7, "rea', finish="length"))
    with pytest.raises(AnswerError, match="cut at 5 tokens"):
        house.complete(schema=Verdict, max_tokens=5)
    assert len(house.models.asked) == 1


@pytest.mark.parametrize("said", [Say(refusal="Não posso."), call("find_client", "{}")])
def test_refusals_and_calls_need_not_follow_the_schema(house: House, said: Any) -> None:
    house.models.script(said)
    assert house.complete(schema=Verdict).finish in {"refusal", "tool_calls"}


# --- Personal data --------------------------------------------------------------------------------


def test_a_provider_sees_stand_ins_and_the_answer_has_the_data_back(house: House) -> None:
    house.models.script(
        "Seu CPF [CPF_1], e-mail [EMAIL_1].", call("find_client", {"cpf": "[CPF_1]"})
    )
    content = f"CPF {CPF}, a@b.com.br"
    assert house.complete(content).text == f"Seu CPF {CPF}, e-mail a@b.com.br."
    assert house.complete(content).tool_calls[0].arguments == json.dumps({"cpf": CPF})
    assert [asked.last for asked in house.models.asked] == ["CPF [CPF_1], [EMAIL_1]"] * 2
    stored = json.dumps([(row["input"], row["output"]) for row in house.rows()])
    assert CPF not in stored
    assert "a@b.com.br" not in stored


def test_stand_ins_come_back_in_a_stream_although_it_cuts_them(house: House) -> None:
    house.models.script(Say("Olá [CPF_1]!", pieces=12), call("f", {"cpf": "[CPF_1]"}))
    assert house.stream(content=CPF).text == f"Olá {CPF}!"
    assert {text.split("[")[0] for text in house.told} == set(house.told)
    assert house.told[-2:] == [f"Olá {CPF}", f"Olá {CPF}!"]
    assert house.stream(content=CPF).tool_calls[0].arguments == json.dumps({"cpf": CPF})


def test_results_and_calls_of_earlier_turns_are_hidden_too(house: House) -> None:
    house.complete(
        messages=[
            Message("user", "Ache."),
            Message("assistant", None, (ToolCall("c1", "f", json.dumps({"cpf": CPF})),)),
            Message("tool", f'{{"phone": "(11) 98765-4321", "cpf": "{CPF}"}}', tool_call_id="c1"),
        ]
    )
    body = house.models.asked[0].seen.body.decode()
    assert CPF not in body
    assert "98765" not in body


def test_an_organisation_may_say_otherwise_but_the_ledger_stays_redacted(house: House) -> None:
    house.tell(
        """update public.organizations set settings = '{"ai_masking": false}' where id = %s""", house.org
    )  # fmt: skip
    house.models.respond = lambda asked: f"Recebi {asked.last}"
    assert house.complete(CPF).text == f"Recebi {CPF}"
    assert house.embed(CPF).model == "text-embedding-3-small"
    assert house.models.embedded == [[CPF]]
    assert CPF not in json.dumps([(row["input"], row["output"]) for row in house.rows()])


# --- Embeddings -----------------------------------------------------------------------------------


def test_texts_become_vectors_in_their_order(house: House) -> None:
    embeddings = house.embed("um", f"cpf {CPF}", "três")
    assert embeddings.model == "text-embedding-3-small"
    assert embeddings.vectors == [vector_of("um"), vector_of("cpf [CPF_1]"), vector_of("três")]
    assert house.models.journal[0].json["encoding_format"] == "base64"
    (row,) = house.rows()
    assert (row["status"], row["completion_tokens"], row["is_estimated"]) == ("succeeded", 0, False)
    assert (row["input"], row["output"]) == (None, None)


def test_many_texts_go_in_requests_a_provider_takes(house: House) -> None:
    texts = [f"texto {number}" for number in range(600)]
    assert house.embed(*texts).vectors[599] == vector_of("texto 599")
    assert [len(batch) for batch in house.models.embedded] == [512, 88]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda vectors: vectors[:-1],
        lambda vectors: [*vectors, vectors[0]],
        lambda vectors: [vector[:512] for vector in vectors],
        lambda vectors: [vectors[0], vectors[1] * 2],
        lambda vectors: [[0.0] * 1536 for _ in vectors],
    ],
    ids=["too few", "too many", "too short", "too long", "no direction"],
)
def test_vectors_that_are_not_what_was_asked_are_refused(house: House, spoil: Any) -> None:
    house.models.vector_faults.append(spoil)
    with pytest.raises(GiveUpError):
        house.embed("um", "dois")
    assert house.ledger == [("openai", "failed")]
    assert house.rows()[0]["prompt_tokens"] > 0


def test_a_fault_of_the_server_is_tried_again_and_then_left_to_the_job(house: House) -> None:
    house.models.vector_faults.extend([overloaded()])
    assert len(house.embed("um").vectors) == 1
    house.models.vector_faults.extend([overloaded()] * 2)
    with pytest.raises(RetryError):
        house.embed("um")


def test_an_empty_text_is_refused_before_it_is_sent(house: House) -> None:
    with pytest.raises(GiveUpError, match="empty"):
        house.embed("um", " ")
    assert house.models.journal == []


# --- A server of one's own ------------------------------------------------------------------------


def test_a_compatible_server_is_asked_first_and_costs_nothing(house: House) -> None:
    house.plug("openai", "compatible")
    reply = house.complete()
    assert (reply.model, reply.cost_brl) == ("own-model", Decimal(0))
    house.models.script(overloaded(), overloaded(), "Eu posso.")
    assert house.complete().model == "gpt-4o-2024-08-06"
    # It was not asked to embed.
    assert house.embed("um").model == "text-embedding-3-small"


def test_a_compatible_server_may_embed_with_fewer_numbers(house: House) -> None:
    house.plug("openai", "compatible")
    house.monkeypatch.setenv("NESSOS_COMPATIBLE_EMBEDDING_MODEL", "own-embedder")
    load.cache_clear()
    house.models.vector = lambda _: [3.0, 4.0]
    embeddings = house.embed("um")
    assert embeddings.model == "own-embedder"
    assert embeddings.vectors == [[0.6, 0.8, *[0.0] * 1534]]
    house.models.vector = lambda _: [1.0] * 1537
    with pytest.raises(GiveUpError, match="1537 numbers"):
        house.embed("um")


# --- Budgets and keys -----------------------------------------------------------------------------


def test_at_the_limit_nothing_is_sent(house: House) -> None:
    house.tell("insert into public.ai_budgets (org_id, period, limit_brl) values (%s, 'day', 0.01)", house.org)  # fmt: skip
    house.models.respond = lambda _: Say("Caro.", usage=(1000, 200))
    house.complete()
    with pytest.raises(BudgetError):
        house.complete()
    with pytest.raises(BudgetError):
        house.embed("um")
    assert len(house.models.journal) == 1
    assert house.notices == ["ai_budget_alert"]


def test_the_same_key_is_answered_once_and_with_the_same_words(house: House) -> None:
    house.models.script("O CPF [CPF_1].", call("f", {"cpf": "[CPF_1]"}))
    first = house.complete(CPF, idempotency_key="turn 1")
    assert house.complete(CPF, idempotency_key="turn 1") == first
    second = house.complete(CPF, idempotency_key="turn 2")
    assert house.complete(CPF, idempotency_key="turn 2") == second
    assert second.tool_calls[0].arguments == json.dumps({"cpf": CPF})
    assert len(house.models.asked) == 2


def test_a_key_is_answered_by_what_was_mended(house: House) -> None:
    house.models.script("não", GOOD)
    first = house.complete(schema=Verdict, idempotency_key="k")
    again = house.complete(schema=Verdict, idempotency_key="k")
    assert (again.text, again.call_id) == (first.text, first.call_id)
    assert len(house.models.asked) == 2


def test_a_key_whose_call_is_under_way_is_waited_for(house: House) -> None:
    release = threading.Event()
    house.models.script(Answer(until=release), "Pronto.")

    async def scene(gateway: Gateway) -> str | None:
        async def ask() -> Reply:
            return await gateway.complete(
                org_id=house.org, purpose="scoring", messages=[Message("user", "Olá")], idempotency_key="k"
            )  # fmt: skip

        first = asyncio.create_task(ask())
        await asyncio.to_thread(house.models.wait_for, 1)
        with pytest.raises(WaitError):
            await ask()
        release.set()
        return (await first).text

    assert house.play(scene) == "Pronto."


def test_a_call_nobody_waits_for_any_more_is_settled(house: House) -> None:
    house.tell("insert into public.ai_budgets (org_id, period, limit_brl) values (%s, 'day', 1)", house.org)  # fmt: skip
    house.models.script(Answer(until=house.models.stopped))

    async def scene(gateway: Gateway) -> None:
        task = asyncio.create_task(
            gateway.complete(org_id=house.org, purpose="scoring", messages=[Message("user", "Olá")])
        )
        await asyncio.to_thread(house.models.wait_for, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    house.play(scene)
    assert house.ledger == [("openai", "failed")]
    (budget,) = house.rows("select reserved_brl, spent_brl > 0 as is_spent from public.ai_budget_periods")  # fmt: skip
    assert budget == {"reserved_brl": 0, "is_spent": True}


def test_an_unknown_agent_may_ask_and_is_named_in_the_ledger(house: House) -> None:
    agent = uuid4()
    house.complete(agent_id=agent)
    assert house.rows()[0]["agent_id"] == agent
