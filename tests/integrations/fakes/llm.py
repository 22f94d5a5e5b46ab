"""A server of language models that speaks OpenAI's API, with the faults of those who do.

with FakeModels() as models:
    models.script("Olá!", call("find_client", '{"name": "Ana"}'), fault_500())   # one after the other
    models.respond = lambda asked: f"Você disse: {asked.last}"                   # or always by a function
    ... NESSOS_OPENAI_URL = models.url + "/v1"
    assert models.asked[0].messages[-1]["content"] == "..."
"""

import base64
import hashlib
import json
import math
import random
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import pytest

from nessos.settings import load
from tests.integrations.fakes.server import Answer, FakeServer, Seen

DIMENSIONS = 1536
DATED = {
    "gpt-4o": "gpt-4o-2024-08-06",
    "gpt-4o-mini": "gpt-4o-mini-2024-07-18",
    "claude-sonnet-5": "claude-sonnet-5-20260601",
}


@dataclass(frozen=True)
class Call:
    """A call of a tool that the model wants; `arguments` goes as it is, broken or not."""

    name: str
    arguments: str
    id: str = "call_1"


@dataclass(frozen=True)
class Say:
    """What the model answers.

    Attributes:
        text: Its words; None for null.
        calls: What it wants called.
        finish: Why it ends; None: by what it says.
        refusal: What it says instead of an answer.
        model: What it calls itself; None: the dated name of the model asked.
        usage: Tokens of prompt and answer; None: counted from the words. `False`: it does not say.
        cached: How many of the prompt's it knew.
        pieces: In how many pieces a stream brings it.
        cut: A stream ends here, after so many pieces, without finish and [DONE].
        error: A stream breaks off with this error, after so many pieces.
    """

    text: str | None = None
    calls: tuple[Call, ...] = ()
    finish: str | None = None
    refusal: str | None = None
    model: str | None = None
    usage: tuple[int, int] | bool | None = None
    cached: int = 0
    pieces: int = 3
    cut: int | None = None
    error: tuple[int, dict[str, Any]] | None = None


@dataclass(frozen=True)
class Asked:
    """A request as the model sees it."""

    seen: Seen
    body: dict[str, Any]

    @property
    def model(self) -> str:
        """The model asked."""
        return str(self.body["model"])

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation."""
        return list(self.body["messages"])

    @property
    def last(self) -> str:
        """What was said last."""
        return str(self.messages[-1]["content"] or "")

    @property
    def tools(self) -> list[str]:
        """Names of the tools offered."""
        return [tool["function"]["name"] for tool in self.body.get("tools", [])]


Response = str | Call | Say | Answer | Sequence[Call]


@dataclass
class FakeModels(FakeServer):
    """The server.

    Attributes:
        respond: Answers whatever no script answers.
        asked: Every request to complete a conversation.
        embedded: The texts of every request to embed.
        vector: Makes the vector of a text.
        vector_faults: Answers to requests to embed, given first, each once.
    """

    respond: Callable[[Asked], Response] = field(default=lambda _: "Certo.")
    asked: list[Asked] = field(default_factory=list)
    embedded: list[list[str]] = field(default_factory=list)
    vector: Callable[[str], list[float]] = field(default_factory=lambda: vector_of)
    vector_faults: deque[Answer | Callable[[list[list[float]]], list[list[float]]]] = field(
        default_factory=deque
    )

    def __post_init__(self) -> None:
        """Start as a server."""
        super().__init__(self.handle)
        self._script: deque[Response | Callable[[Asked], Response]] = deque()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        """End, and have nobody take a setting that names this server for the truth."""
        super().__exit__(kind, error, trace)
        load.cache_clear()

    def script(self, *responses: Response | Callable[[Asked], Response]) -> None:
        """Say what is answered next, one after the other; then `respond` is asked again."""
        self._script.extend(responses)

    def handle(self, seen: Seen) -> Answer:
        """Answer a request."""
        if not seen.headers.get("authorization", "").startswith("Bearer "):
            return fault(401, "invalid_api_key", "invalid_request_error")
        path = seen.path.rsplit("/v1", 1)[-1]
        if path.endswith("/chat/completions"):
            return self._complete(seen)
        if path.endswith("/embeddings"):
            return self._embed(seen)
        return fault(404, "unknown_url")

    def _complete(self, seen: Seen) -> Answer:
        asked = Asked(seen, seen.json)
        self.asked.append(asked)
        if problem := _problem(asked.body):
            return fault(400, "invalid_value", message=problem)
        response = self._script.popleft() if self._script else self.respond
        if callable(response):
            response = response(asked)
        if isinstance(response, Answer):
            return response
        say = _say(response)
        return stream(asked, say) if asked.body.get("stream") else whole(asked, say)

    def _embed(self, seen: Seen) -> Answer:
        body = seen.json
        texts = [body["input"]] if isinstance(body["input"], str) else list(body["input"])
        self.embedded.append(texts)
        if not texts or len(texts) > 2048 or not all(texts):
            return fault(400, "invalid_value", message="input must not be empty")
        vectors = [self.vector(text) for text in texts]
        if self.vector_faults:
            what = self.vector_faults.popleft()
            if isinstance(what, Answer):
                return what
            vectors = what(vectors)
        is_packed = body.get("encoding_format") == "base64"
        data = [
            {"object": "embedding", "index": index, "embedding": _packed(one) if is_packed else one}
            for index, one in enumerate(vectors)
        ]
        tokens = sum(_tokens(text) for text in texts)
        data.reverse()  # the order is that of `index`, which need not be theirs
        return Answer(
            body={
                "object": "list",
                "data": data,
                "model": body["model"],
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            },
            headers={"x-request-id": f"req_{seen.number}"},
        )


def call(name: str, arguments: str | dict[str, Any], call_id: str = "call_1") -> Call:
    """Give a call of a tool; a dictionary becomes JSON."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return Call(name, text, call_id)


def fault(  # noqa: PLR0913 - the parts of an error
    status: int,
    code: str | None = None,
    kind: str = "invalid_request_error",
    *,
    message: str = "A fault of a fake.",
    headers: dict[str, str] | None = None,
    is_array: bool = False,
) -> Answer:
    """Give an error as OpenAI words it; in an array, as Gemini does."""
    error = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return Answer(
        status, [error] if is_array else error, {"x-request-id": "req_fault", **(headers or {})}
    )


def rate_limited(**headers: str) -> Answer:
    """Give the 429 that passes by waiting."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return fault(429, "rate_limit_exceeded", "requests", headers=given)


def out_of_money() -> Answer:
    """Give the 429 that does not."""
    return fault(429, "insufficient_quota", "insufficient_quota")


def overloaded(status: int = 500) -> Answer:
    """Give a fault of the server's own."""
    return fault(status, None, "server_error")


def whole(asked: Asked, say: Say) -> Answer:
    """Answer at once."""
    message: dict[str, Any] = {"role": "assistant", "content": say.text, "refusal": say.refusal}
    if say.calls:
        message["tool_calls"] = [
            {"id": one.id, "type": "function",
             "function": {"name": one.name, "arguments": one.arguments}}
            for one in say.calls
        ]  # fmt: skip
    body = {
        "id": f"chatcmpl-{asked.seen.number}",
        "object": "chat.completion",
        "created": 1784030400,
        "model": say.model or DATED.get(asked.model, asked.model),
        "choices": [
            {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(say)}
        ],
        "system_fingerprint": "fp_fake",
    }
    if say.usage is not False:
        body["usage"] = _usage(asked, say)
    return Answer(body=body, headers={"x-request-id": f"req_{asked.seen.number}"})


def stream(asked: Asked, say: Say) -> Answer:
    """Answer piece by piece."""
    lines = [": ping\n\n"]
    fragments = list(_fragments(say))
    for number, delta in enumerate(fragments):
        if say.cut == number:
            break
        if say.error and say.error[0] == number:
            lines.append(f"data: {json.dumps({'error': say.error[1]})}\n\n")
            break
        lines.append(_chunk(asked, say, [{"index": 0, "delta": delta, "finish_reason": None}]))
    else:
        lines.append(_chunk(asked, say, [{"index": 0, "delta": {}, "finish_reason": _finish(say)}]))
        if say.usage is not False and (asked.body.get("stream_options") or {}).get("include_usage"):
            lines.append(_chunk(asked, say, [], usage=_usage(asked, say)))
        lines.append("data: [DONE]\n\n")
    return Answer(
        body="".join(lines).encode(),
        headers={
            "Content-Type": "text/event-stream",
            "x-request-id": f"req_{asked.seen.number}",
        },
    )


def vector_of(text: str) -> list[float]:
    """Give the vector of a text: of length 1, the same in every run, in no relation to its sense."""
    source = random.Random(hashlib.sha256(text.encode()).digest())  # noqa: S311 - not a secret
    numbers = [source.gauss(0, 1) for _ in range(DIMENSIONS)]
    length = math.sqrt(sum(number * number for number in numbers))
    return [struct.unpack("<f", struct.pack("<f", number / length))[0] for number in numbers]


def plug_in(monkeypatch: pytest.MonkeyPatch, models: FakeModels, *providers: str) -> None:
    """Have the settings point the providers (openai alone, if none is named) at the server."""
    for name in ("OPENAI", "ANTHROPIC", "GEMINI", "COMPATIBLE"):
        monkeypatch.delenv(f"NESSOS_{name}_API_KEY", raising=False)
    for name in ("URL", "MODEL", "EMBEDDING_MODEL"):
        monkeypatch.delenv(f"NESSOS_COMPATIBLE_{name}", raising=False)
    for name in providers or ("openai",):
        upper = name.upper()
        # Each has an account, and so a breaker, of its own.
        monkeypatch.setenv(f"NESSOS_{upper}_API_KEY", f"sk-fake-{name}")
        monkeypatch.setenv(f"NESSOS_{upper}_URL", f"{models.url}/{name}/v1")
        if name == "compatible":
            monkeypatch.setenv("NESSOS_COMPATIBLE_MODEL", "own-model")
    load.cache_clear()


def _say(response: Any) -> Say:
    if isinstance(response, Say):
        return response
    if isinstance(response, str):
        return Say(response)
    if isinstance(response, Call):
        return Say(calls=(response,))
    return Say(calls=tuple(replace(one, id=f"call_{n}") for n, one in enumerate(response, 1)))


def _problem(body: dict[str, Any]) -> str | None:
    """Say what OpenAI would refuse in a request."""
    open_calls: set[str] = set()
    for message in body["messages"]:
        if message["role"] == "tool":
            if message.get("tool_call_id") not in open_calls:
                return "a tool message answers no call"
            open_calls.discard(message["tool_call_id"])
            continue
        if open_calls:
            return "a call has no answer"
        open_calls = {one["id"] for one in message.get("tool_calls") or ()}
    if open_calls:
        return "a call has no answer"
    if body["model"].startswith(("gpt-5", "o1", "o3")) and (
        "max_tokens" in body or body.get("temperature", 1) != 1
    ):
        return "unsupported_parameter"
    return None


def _fragments(say: Say) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": ""}
    for piece in _pieces(say.text, say.pieces):
        yield {"content": piece}
    if say.refusal:
        yield {"refusal": say.refusal}
    started = False
    for index, one in enumerate(say.calls):
        yield {"tool_calls": [{"index": index, "id": one.id, "type": "function",
                               "function": {"name": one.name, "arguments": ""}}]}  # fmt: skip
        started = True
    if started:
        parts = [_pieces(one.arguments, say.pieces) for one in say.calls]
        # Fragments of several calls come mixed.
        for turn in range(max(map(len, parts))):
            for index, pieces in enumerate(parts):
                if turn < len(pieces):
                    yield {"tool_calls": [{"index": index,
                                           "function": {"arguments": pieces[turn]}}]}  # fmt: skip


def _pieces(text: str | None, count: int) -> list[str]:
    if not text:
        return []
    size = max(1, -(-len(text) // count))
    return [text[start : start + size] for start in range(0, len(text), size)]


def _chunk(
    asked: Asked, say: Say, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None
) -> str:
    body = {
        "id": f"chatcmpl-{asked.seen.number}",
        "object": "chat.completion.chunk",
        "created": 1784030400,
        "model": say.model or DATED.get(asked.model, asked.model),
        "choices": choices,
        "usage": usage,
        "obfuscation": "x7",
    }
    return f"data: {json.dumps(body)}\n\n"


def _finish(say: Say) -> str:
    return say.finish or ("tool_calls" if say.calls else "stop")


def _usage(asked: Asked, say: Say) -> dict[str, Any]:
    counted = (
        sum(_tokens(str(message.get("content") or "")) for message in asked.messages),
        _tokens(say.text or "") + sum(_tokens(one.arguments) for one in say.calls),
    )
    prompt, completion = say.usage if isinstance(say.usage, tuple) else counted
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": say.cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def _tokens(text: str) -> int:
    return -(-len(text) // 4)


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
