"""What is said to a language model and what it answers, in the words of nobody's API."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from pydantic import ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import BaseModel

    from nessos.ai.masking import Mask

Finish = Literal["stop", "length", "tool_calls", "content_filter", "refusal"]


@dataclass(frozen=True)
class ToolCall:
    """What a model wants called.

    Attributes:
        id: Its name for the call; the result refers to it.
        name: The tool.
        arguments: JSON as the model wrote it: it may be broken, or hold what nobody asked for.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Message:
    """A turn of a conversation.

    Attributes:
        role: Who speaks.
        content: What is said.
        tool_calls: What the assistant wanted called; each needs its answer, of role tool.
        tool_call_id: Which call a tool's result answers.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True)
class Reply:
    """What a model answered.

    Attributes:
        text: The answer, or the words of a refusal; with a schema: JSON that follows it.
        tool_calls: What it wants called.
        finish: Why it ended; length: it was cut at max_tokens.
        model: Who answered, as the provider names it.
        call_id: Its row in `public.ai_calls`.
        prompt_tokens: Of all requests this took.
        completion_tokens: The same.
        cost_brl: The same.
    """

    text: str | None
    tool_calls: tuple[ToolCall, ...]
    finish: Finish
    model: str
    call_id: UUID
    prompt_tokens: int
    completion_tokens: int
    cost_brl: Decimal


@dataclass(frozen=True)
class Embeddings:
    """Vectors of texts.

    Attributes:
        model: By which; vectors of different models do not compare.
        vectors: One per text, of 1,536 numbers and length 1.
    """

    model: str
    vectors: list[list[float]]


def wire(message: Message, hide: Callable[[str], str]) -> dict[str, Any]:
    """Write a message as the providers read it.

    Args:
        message: The message.
        hide: What is done to each of its texts.

    Returns:
        An object of OpenAI's API.
    """
    wire: dict[str, Any] = {
        "role": message.role,
        "content": hide(clean(message.content)) if message.content is not None else None,
    }
    if message.tool_calls:
        wire["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": hide(clean(call.arguments))},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        wire["tool_call_id"] = message.tool_call_id
    return wire


def stored(reply: dict[str, Any], mask: Mask) -> Reply:
    """Make a reply again from what the ledger keeps of it.

    Args:
        reply: As `app.begin_ai_call` gives it.
        mask: The stand-ins of the conversation it answers.

    Returns:
        The reply; personal data that only the model knew of stays a stand-in.
    """
    output = reply["output"]
    return Reply(
        text=mask.restore(output["text"]) if output["text"] else output["text"],
        tool_calls=tuple(
            ToolCall(call["id"], call["name"], mask.restore(call["arguments"]))
            for call in output["tool_calls"]
        ),
        finish=output["finish"],
        model=reply["model"],
        call_id=UUID(reply["call_id"]),
        prompt_tokens=reply["prompt_tokens"],
        completion_tokens=reply["completion_tokens"],
        cost_brl=Decimal(str(reply["cost_brl"])),
    )


def find_mistake(reply: Reply, schema: type[BaseModel] | None) -> str | None:
    """Say what is wrong with an answer.

    Args:
        reply: The answer.
        schema: What it must follow.

    Returns:
        The mistake, in words; None when it follows the schema, or need not.
    """
    if schema is None or reply.tool_calls or reply.finish in {"refusal", "content_filter"}:
        return None
    try:
        schema.model_validate_json(reply.text or "")
    except ValidationError as error:
        places = [
            f"{'.'.join(map(str, one['loc'])) or 'answer'}: {one['msg']}"
            for one in error.errors(include_input=False, include_url=False)
        ]
        return "; ".join(places)[:1000]
    return None


def unfenced(text: str) -> str:
    """Give the JSON of an answer that may have put it between ``` and ```.

    Args:
        text: The answer.

    Returns:
        What stands between them.
    """
    inner = text.strip()
    if inner.startswith("```") and inner.endswith("```"):
        return inner[3:-3].removeprefix("json").strip()
    return inner


def clean(text: str) -> str:
    """Make a text one that can be stored and sent.

    Args:
        text: A text, maybe put together from fragments of JSON.

    Returns:
        The same without NUL; halves of a character are joined, or replaced when alone.
    """
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return joined.replace("\x00", "")


def to_json(value: object) -> str:
    """Write a value as JSON, its letters as they are.

    Args:
        value: The value.

    Returns:
        The JSON.
    """
    return json.dumps(value, ensure_ascii=False)
