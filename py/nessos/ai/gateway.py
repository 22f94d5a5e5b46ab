"""The one door to language models: routes, budgets, the ledger, masking of personal data.

A call goes along the routes of its purpose (`public.ai_routes`) until a provider answers. Before
each request its cost is reserved, after it what it has cost is booked (`app.begin_ai_call`,
`app.settle_ai_call`); a request that could pass the organisation's budget is not sent.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import httpx
import openai
import structlog
from openai import AsyncOpenAI
from openai.types import CreateEmbeddingResponse

from nessos.ai.conversation import (
    Embeddings,
    Finish,
    Message,
    Reply,
    ToolCall,
    clean,
    find_mistake,
    stored,
    to_json,
    unfenced,
    wire,
)
from nessos.ai.draft import BYTES_PER_TOKEN, Bill, Draft
from nessos.ai.ledger import Booking, Ledger, PendingError
from nessos.ai.masking import Mask
from nessos.ai.providers import QuotaError, fault, services
from nessos.db import translated
from nessos.errors import (
    AnswerError,
    BudgetError,
    GiveUpError,
    NoProviderError,
    RetryError,
    RoutesDownError,
    UpstreamError,
    WaitError,
)
from nessos.settings import load

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from uuid import UUID

    from pydantic import BaseModel

    from nessos.ai.providers import Service
    from nessos.http import Ending, Http
    from nessos.jobs.entrypoint import Pool

__all__ = ["DIMENSIONS", "Embeddings", "Finish", "Gateway", "Message", "Reply", "ToolCall"]

log: structlog.stdlib.BoundLogger = structlog.get_logger("nessos.ai")

DIMENSIONS: Final = 1536
"""Of every vector that is kept."""

_FINISHES: Final[dict[str, Finish]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
_BATCH_TEXTS, _BATCH_BYTES = 512, 300_000
_ROUNDING: Final = 1e-4
_NULL: Final = Decimal(0)

_ROUTES: Final = "select * from app.find_ai_routes(%s)"


@dataclass(frozen=True)
class _Route:
    """One way for a purpose.

    Attributes:
        service: The provider.
        model: The model.
        temperature: What it is asked with; None: the provider's own.
        context_tokens: The longest conversation it takes; None where that is not known.
    """

    service: Service
    model: str
    temperature: float | None = None
    context_tokens: int | None = None

    @property
    def name(self) -> str:
        return f"{self.service.provider.name} {self.model}"


@dataclass
class _Work:
    """One `complete`, whatever the number of requests.

    Attributes:
        org_id: For whom.
        agent_id: Which agent asks.
        purpose: What for.
        tools: As the provider is told of them.
        schema: What the answer must follow.
        max_tokens: Its greatest length.
        key: The idempotency key.
        on_text: Told of the text so far.
        mask: The stand-ins.
        messages: What is sent, with stand-ins.
        open_messages: The same without.
        bill: What earlier requests have used.
        cost_brl: What they have cost.
    """

    org_id: UUID
    agent_id: UUID | None
    purpose: str
    tools: list[dict[str, Any]]
    schema: type[BaseModel] | None
    max_tokens: int
    key: str | None
    on_text: Callable[[str], Awaitable[None]] | None
    mask: Mask
    messages: list[dict[str, Any]]
    open_messages: list[dict[str, Any]]
    bill: Bill = field(default_factory=Bill)
    cost_brl: Decimal = _NULL


class _TooLongError(GiveUpError):
    """The conversation is longer than the model's context."""


class Gateway:
    """The door of one process.

    Args:
        pool: Connections to the database.
        http: The client of services outside.
    """

    def __init__(self, pool: Pool, http: Http) -> None:
        self._pool = pool
        self._http = http
        self._ledger = Ledger(pool)

    async def complete(  # noqa: PLR0913 - what a model can be told
        self,
        *,
        org_id: UUID,
        purpose: str,
        messages: Sequence[Message],
        agent_id: UUID | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        schema: type[BaseModel] | None = None,
        max_tokens: int = 1024,
        idempotency_key: str | None = None,
        on_text: Callable[[str], Awaitable[None]] | None = None,
    ) -> Reply:
        """Have a model go on with a conversation.

        Args:
            org_id: For whom, and on whose budget.
            purpose: One of `public.ai_routes`.
            messages: The conversation.
            agent_id: The agent that asks, if one does.
            tools: What the model may want called: name, description, parameters (JSON Schema).
            schema: What the answer must follow; one that does not is given back once to be mended.
                Calls of tools and refusals are not held against it.
            max_tokens: The answer's greatest length.
            idempotency_key: The same key is answered, and paid for, once.
            on_text: Has the answer streamed: called with all of the text so far. It may start
                anew, when a provider breaks off and another takes over.

        Returns:
            The answer.

        Raises:
            NoProviderError: No provider is set up.
            BudgetError: The budget is used up; nothing was sent.
            WaitError: Calls under way may use up the budget, or no route may be asked yet.
            RoutesDownError: All routes have failed; the organisation's admins have been told.
            AnswerError: The answers do not follow the schema.
            RuleError: There is no such purpose.
            DatabaseError: The database cannot be asked.
        """
        routes = await self._routes(purpose)
        mask = Mask.of(
            text
            for message in messages
            for text in (message.content, *(call.arguments for call in message.tool_calls))
        )
        work = _Work(
            org_id=org_id,
            agent_id=agent_id,
            purpose=purpose,
            tools=[{"type": "function", "function": dict(tool)} for tool in tools],
            schema=schema,
            max_tokens=max_tokens,
            key=idempotency_key,
            on_text=on_text,
            mask=mask,
            messages=[wire(message, mask.hide) for message in messages],
            open_messages=[wire(message, lambda text: text) for message in messages],
        )
        failures: dict[str, UpstreamError] = {}
        for route in routes:
            try:
                return await self._answer(route, work)
            except (BudgetError, PendingError):
                raise
            except UpstreamError as error:
                failures[route.name] = error
                log.warning(
                    "route failed", purpose=purpose, model=route.model, org_id=str(org_id),
                    provider=route.service.provider.name, error=error.message,
                )  # fmt: skip
                if isinstance(error, QuotaError):
                    await self._ledger.tell(
                        org_id, "ai_quota_exhausted", route.service.provider.name
                    )
        raise await self._all_failed(org_id, purpose, failures)

    async def embed(
        self, *, org_id: UUID, texts: Sequence[str], purpose: str = "embedding"
    ) -> Embeddings:
        """Turn texts into vectors.

        There is no fallback: vectors of two models do not compare.

        Args:
            org_id: For whom, and on whose budget.
            texts: The texts, none of them empty.
            purpose: One of `public.ai_routes`.

        Returns:
            The vectors, in the order of the texts.

        Raises:
            NoProviderError: No provider is set up.
            BudgetError: The budget is used up; nothing was sent.
            RetryError: It may work later.
            WaitError: It will not work before a moment.
            GiveUpError: The texts are refused, or the vectors are not of this size.
            DatabaseError: The database cannot be asked.
        """
        route = (await self._routes(purpose))[0]
        if any(not text.strip() for text in texts):
            raise GiveUpError("an empty text has no vector")
        texts = [clean(text) for text in texts]
        mask = Mask.of(texts)
        vectors: list[list[float]] = []
        for batch in _batches(texts):
            hidden = [mask.hide(text) for text in batch]
            vectors += await self._embed_batch(route, org_id, purpose, batch, hidden)
        return Embeddings(route.model, vectors)

    async def has_provider(self, *, purpose: str) -> bool:
        """Say whether there is any provider for a purpose.

        Args:
            purpose: One of `public.ai_routes`.

        Returns:
            Whether one is set up; not whether it answers.

        Raises:
            RuleError: There is no such purpose.
            DatabaseError: The database cannot be asked.
        """
        try:
            return bool(await self._routes(purpose))
        except NoProviderError:
            return False

    async def embedding_model(self) -> str | None:
        """Name the model that `embed` asks.

        Returns:
            The model; None when no provider is set up.

        Raises:
            DatabaseError: The database cannot be asked.
        """
        try:
            return (await self._routes("embedding"))[0].model
        except NoProviderError:
            return None

    async def _routes(self, purpose: str) -> list[_Route]:
        """Give the routes whose provider is set up, the first first.

        Raises:
            NoProviderError: There is none.
        """
        settings = load()
        known = services(settings)
        with translated():
            async with self._pool.connection() as connection:
                rows = await (await connection.execute(_ROUTES, (purpose,))).fetchall()
        routes = [
            _Route(
                known[row["provider"]],
                row["model"],
                float(row["temperature"]) if row["temperature"] is not None else None,
                row["context_tokens"],
            )
            for row in rows
            if row["provider"] in known
        ]
        is_embedding = any(row["kind"] == "embedding" for row in rows)
        own = settings.compatible_embedding_model if is_embedding else settings.compatible_model
        if own and "compatible" in known:
            routes.insert(0, _Route(known["compatible"], own))
        if not routes:
            raise NoProviderError(
                f"no provider is set up for {purpose}",
                "set NESSOS_OPENAI_API_KEY, or another of .env.example's language models",
            )
        return routes

    async def _answer(self, route: _Route, work: _Work) -> Reply:
        """Ask one route; an answer that does not follow the schema is given back once."""
        reply = await self._request(route, work, work.messages, work.open_messages)
        mistake = find_mistake(reply, work.schema)
        if mistake is None:
            return reply
        if reply.finish == "length":
            raise AnswerError(f"{route.name}: the answer was cut at {work.max_tokens} tokens")
        mended = [
            {"role": "assistant", "content": reply.text or ""},
            {
                "role": "user",
                "content": "Your answer does not follow the JSON schema. Answer again, with"
                f" nothing but JSON that does. What is wrong: {mistake}",
            },
        ]
        hidden = [{**part, "content": work.mask.hide(part["content"])} for part in mended]
        reply = await self._request(
            route, work, work.messages + hidden, work.open_messages + mended
        )
        if mistake := find_mistake(reply, work.schema):
            raise AnswerError(f"{route.name}: the answer does not follow its schema")
        return reply

    async def _request(
        self,
        route: _Route,
        work: _Work,
        messages: list[dict[str, Any]],
        open_messages: list[dict[str, Any]],
    ) -> Reply:
        """Reserve, send, settle."""
        size = max(
            len(to_json(_body(route, work, sent)).encode()) for sent in (messages, open_messages)
        )
        if route.context_tokens and size // BYTES_PER_TOKEN > route.context_tokens:
            raise _TooLongError(f"{route.name}: the conversation is longer than its context")
        booking = await self._ledger.begin(
            provider=route.service.provider, model=route.model, org_id=work.org_id,
            agent_id=work.agent_id, purpose=work.purpose,
            size=size, max_tokens=work.max_tokens, key=work.key, input_=messages,
        )  # fmt: skip
        if isinstance(booking, dict):
            return stored(booking, work.mask)
        draft = Draft()
        try:
            draft = await self._http.perform(
                route.service.provider,
                lambda ending: self._ask(
                    route, work, messages if booking.is_masking else open_messages, booking, ending
                ),
                account=route.service.account(route.model),
                org_id=work.org_id,
                operation=f"chat {route.model}",
            )
            reply = _reply(draft, booking, work)
        except BaseException as error:
            work.cost_brl += await asyncio.shield(self._ledger.fail(booking, error))
            raise
        status = "rejected" if find_mistake(reply, work.schema) else "succeeded"
        output = {
            "text": work.mask.hide(reply.text) if reply.text else reply.text,
            "tool_calls": [
                {"id": call.id, "name": call.name, "arguments": work.mask.hide(call.arguments)}
                for call in reply.tool_calls
            ],
            "finish": reply.finish,
        }
        work.cost_brl += await asyncio.shield(self._ledger.settle(booking, status, output))
        work.bill.prompt += booking.bill.prompt
        work.bill.completion += booking.bill.completion
        return replace(
            reply,
            prompt_tokens=work.bill.prompt,
            completion_tokens=work.bill.completion,
            cost_brl=work.cost_brl,
        )

    async def _ask(
        self,
        route: _Route,
        work: _Work,
        messages: list[dict[str, Any]],
        booking: Booking,
        ending: Ending,
    ) -> Draft:
        """Send one request and read its answer."""
        service = route.service
        draft = Draft()
        try:
            create: Any = self._client(service).chat.completions.create
            body = _body(route, work, messages)
            if work.on_text:
                timeout = httpx.Timeout(load().ai_silence_s, connect=10)
                stream = await create(
                    **body, timeout=timeout, stream=True, stream_options={"include_usage": True}
                )
                await self._read(stream, draft, work, booking)
            else:
                draft.take(await create(**body, timeout=service.provider.timeout_s))
            ending.status = 200
        except UpstreamError as error:
            _count_lost(booking, draft, error)
            raise
        except (openai.OpenAIError, ValueError, TypeError, AttributeError, KeyError) as caught:
            failure = fault(caught, ending, f"{service.provider.name} chat {route.model}")
            _count_lost(booking, draft, failure)
            raise failure from None
        except BaseException:
            # Nobody waits for the answer any more; what was written is paid for.
            booking.bill.add_estimate(booking.estimate, draft.written())
            raise
        draft.end()
        booking.model, booking.request_id = draft.model, draft.request_id
        booking.bill.add_usage(draft.usage, booking.estimate, draft.written())
        return draft

    async def _read(
        self, stream: openai.AsyncStream[Any], draft: Draft, work: _Work, booking: Booking
    ) -> None:
        draft.request_id = stream.response.headers.get("x-request-id")
        async with stream:
            async for chunk in stream:
                draft.model = chunk.model or draft.model
                draft.usage = chunk.usage or draft.usage
                if not chunk.choices:
                    continue
                choice = chunk.choices[0]
                draft.finish = choice.finish_reason or draft.finish
                if choice.delta is None:
                    continue
                draft.add(choice.delta, is_fragment=True)
                if choice.delta.content and work.on_text:
                    text = clean(draft.text)
                    if booking.is_masking:
                        text = work.mask.restore(text, is_partial=draft.finish is None)
                    try:
                        await work.on_text(text)
                    except (ValueError, TypeError, AttributeError, KeyError) as error:
                        raise RuntimeError("on_text failed") from error
        if draft.finish is None:
            cut = RetryError(f"{work.purpose}: the stream was cut")
            cut.is_uncertain = True
            raise cut

    async def _embed_batch(
        self, route: _Route, org_id: UUID, purpose: str, texts: list[str], hidden: list[str]
    ) -> list[list[float]]:
        size = sum(len(text.encode()) for text in hidden)
        booking = await self._ledger.begin(
            provider=route.service.provider, model=route.model, org_id=org_id,
            agent_id=None, purpose=purpose, size=size, max_tokens=0,
            key=None, input_=None,
        )  # fmt: skip
        if isinstance(booking, dict):
            raise AssertionError("a call without a key is answered by nobody else")  # noqa: TRY004
        sent = hidden if booking.is_masking else texts
        try:
            vectors = await self._http.perform(
                route.service.provider,
                lambda ending: self._ask_vectors(route, sent, booking, ending),
                account=route.service.account(route.model),
                org_id=org_id,
                operation=f"embed {route.model}",
            )
        except BaseException as error:
            await asyncio.shield(self._ledger.fail(booking, error))
            if isinstance(error, QuotaError):
                await self._ledger.tell(org_id, "ai_quota_exhausted", route.service.provider.name)
            raise
        await asyncio.shield(self._ledger.settle(booking, "succeeded", None))
        return vectors

    async def _ask_vectors(
        self, route: _Route, texts: list[str], booking: Booking, ending: Ending
    ) -> list[list[float]]:
        service = route.service
        what = f"{service.provider.name} embed {route.model}"
        try:
            answer = await self._client(service).embeddings.create(
                model=route.model, input=texts, timeout=service.provider.timeout_s
            )
            if not isinstance(answer, CreateEmbeddingResponse):
                raise TypeError  # noqa: TRY301 - a page instead of JSON
            vectors = [
                list(map(float, one.embedding))
                for one in sorted(answer.data, key=lambda one: one.index)
            ]
            numbers = sorted(one.index for one in answer.data)
        except (openai.OpenAIError, ValueError, TypeError, AttributeError, KeyError) as caught:
            failure = fault(caught, ending, what)
            if failure.is_uncertain:
                booking.bill.add_estimate(booking.estimate, 0)
            raise failure from None
        except asyncio.CancelledError:
            booking.bill.add_estimate(booking.estimate, 0)
            raise
        ending.status = 200
        booking.model = clean(str(answer.model))[:200]
        booking.bill.add_usage(answer.usage, booking.estimate, None)
        if numbers != list(range(len(texts))):
            raise GiveUpError(f"{what}: {len(vectors)} vectors for {len(texts)} texts")
        sizes = {len(vector) for vector in vectors}
        own = service.provider.name == "compatible"
        if len(sizes) != 1 or not (sizes == {DIMENSIONS} or (own and max(sizes) < DIMENSIONS)):
            raise GiveUpError(
                f"{what}: vectors of {', '.join(map(str, sorted(sizes)))} numbers",
                f"use a model with {DIMENSIONS}, or a server of yours with fewer",
            )
        # Zeros behind a vector change no cosine.
        return [_unit(vector) + [0.0] * (DIMENSIONS - len(vector)) for vector in vectors]

    def _client(self, service: Service) -> AsyncOpenAI:
        connections: Any = self._http.connections(service.provider)
        return AsyncOpenAI(
            api_key=service.secret,
            base_url=service.url,
            max_retries=0,
            http_client=connections,
        )

    async def _all_failed(
        self, org_id: UUID, purpose: str, failures: dict[str, UpstreamError]
    ) -> UpstreamError:
        """Say what it means that no route has answered, and tell the admins if they are down."""
        errors = list(failures.values())
        waits = [e for e in errors if isinstance(e, WaitError) and not isinstance(e, QuotaError)]
        if len(waits) == len(errors):
            # Busy, limited, or a circuit that is open: whoever tries next will find out.
            return min(waits, key=lambda one: one.until)
        if all(isinstance(error, AnswerError | _TooLongError) for error in errors):
            return errors[-1]
        await self._ledger.tell(org_id, "ai_unavailable", purpose)
        return RoutesDownError(
            f"no model answers for {purpose}: "
            + "; ".join(dict.fromkeys(error.message for error in errors)),
            "see nessos integrations status, then nessos jobs retry",
        )


def _body(route: _Route, work: _Work, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Write a request, with what its provider takes."""
    service = route.service
    body: dict[str, Any] = {
        "model": route.model,
        "messages": messages,
        service.limit_name: work.max_tokens,
    }
    if route.temperature is not None:
        body["temperature"] = route.temperature
    if work.tools:
        body["tools"] = work.tools
    if work.schema is None:
        return body
    schema = _schema(work.schema)
    if service.has_response_format:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": work.schema.__name__, "schema": schema},
        }
    if service.needs_schema_in_words:
        words = f"Answer with nothing but JSON that follows this JSON schema: {to_json(schema)}"
        body["messages"] = [{"role": "system", "content": words}, *messages]
    return body


def _reply(draft: Draft, booking: Booking, work: _Work) -> Reply:
    """Make a reply, with personal data where it belongs."""
    restore = work.mask.restore if booking.is_masking else str
    calls = tuple(
        ToolCall(part["id"] or f"call_{number}", part["name"], restore(part["arguments"]))
        for number, part in draft.calls.items()
    )
    finish: Finish = _FINISHES.get(draft.finish or "stop", "stop")
    if finish == "stop" and calls:
        finish = "tool_calls"
    text = restore(draft.text) if draft.text else None
    if text and work.schema:
        text = unfenced(text)
    if draft.refusal and not text:
        text, finish = restore(draft.refusal), "refusal"
    return Reply(
        text=text,
        tool_calls=calls,
        finish=finish,
        model=draft.model or "",
        call_id=booking.id,
        prompt_tokens=booking.bill.prompt,
        completion_tokens=booking.bill.completion,
        cost_brl=_NULL,
    )


def _count_lost(booking: Booking, draft: Draft, error: UpstreamError) -> None:
    """Count what a provider may have done, and bills, although its answer has not come."""
    if error.is_uncertain or draft.text or draft.calls:
        booking.bill.add_estimate(booking.estimate, draft.written())


def _schema(schema: type[BaseModel] | None) -> dict[str, Any] | None:
    return schema.model_json_schema() if schema else None


def _batches(texts: Sequence[str]) -> list[list[str]]:
    """Cut texts into requests that stay below every provider's limits."""
    batches: list[list[str]] = []
    size = 0
    for text in texts:
        length = len(text.encode())
        if not batches or len(batches[-1]) == _BATCH_TEXTS or size + length > _BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(text)
        size += length
    return batches


def _unit(vector: list[float]) -> list[float]:
    """Give a vector the length 1, which not every server does."""
    length = math.sqrt(sum(number * number for number in vector))
    if not math.isfinite(length) or length == 0:
        raise GiveUpError("a vector has no direction")
    return vector if abs(length - 1) < _ROUNDING else [number / length for number in vector]
