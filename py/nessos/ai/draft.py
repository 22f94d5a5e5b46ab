"""An answer while it comes, and what it costs in tokens. What servers send is not validated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, cast

from openai.types.chat import ChatCompletion

from nessos.ai.conversation import clean

BYTES_PER_TOKEN: Final = 4
"""What a text is taken for where the provider does not count; of one of its tokens at least 1."""


@dataclass
class Draft:
    """An answer while it comes."""

    model: str | None = None
    request_id: str | None = None
    text: str = ""
    refusal: str = ""
    calls: dict[int, dict[str, str]] = field(default_factory=dict)
    slots: dict[int, int] = field(default_factory=dict)
    finish: str | None = None
    usage: Any = None

    def written(self) -> int:
        """Estimate the tokens written so far."""
        arguments = "".join(part["name"] + part["arguments"] for part in self.calls.values())
        return estimate(self.text + self.refusal + arguments)

    def add(self, part: Any, *, is_fragment: bool = False) -> None:  # noqa: ANN401 - not validated
        """Take a message, or a fragment of one."""
        self.text += part.content or ""
        self.refusal += getattr(part, "refusal", None) or ""
        for place, call in enumerate(part.tool_calls or ()):
            known = self._slot(call.index if is_fragment else place, call.id)
            # Id and name come whole, in the first fragment; some servers repeat them.
            known["id"] = known["id"] or call.id or ""
            if call.function:
                known["name"] = known["name"] or call.function.name or ""
                known["arguments"] += call.function.arguments or ""

    def _slot(self, index: int | None, call_id: str | None) -> dict[str, str]:
        """Find the call a fragment belongs to: by its index, which some servers leave at 0."""
        slot = self.slots.get(index or 0)
        if slot is None or (call_id and self.calls[slot]["id"] not in ("", call_id)):
            slot = self.slots[index or 0] = len(self.calls)
            self.calls[slot] = {"id": "", "name": "", "arguments": ""}
        return self.calls[slot]

    def take(self, answer: object) -> None:
        """Read an answer that has come whole.

        Raises:
            TypeError: It is none.
        """
        if not isinstance(answer, ChatCompletion) or not answer.choices:
            raise TypeError
        self.model, self.request_id = answer.model, answer._request_id  # noqa: SLF001 - documented
        self.usage = answer.usage
        choice = answer.choices[0]
        self.add(choice.message)
        # A server may leave it out.
        self.finish = cast("str | None", choice.finish_reason) or "stop"

    def end(self) -> None:
        """Make what has come storable, now that all of it has."""
        self.model = clean(str(self.model or ""))[:200]
        self.text, self.refusal = clean(self.text), clean(self.refusal)
        for call in self.calls.values():
            call.update({name: clean(text) for name, text in call.items()})


@dataclass
class Bill:
    """What one request has used.

    Attributes:
        prompt: Tokens sent.
        cached: Of them, those the provider knew.
        completion: Tokens written.
        is_estimated: Whether the provider did not say.
    """

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    is_estimated: bool = False

    def add_estimate(self, prompt: int, completion: int) -> None:
        """Count what a provider is taken to have done before it failed."""
        self.prompt += prompt
        self.completion += completion
        self.is_estimated = True

    def add_usage(self, usage: Any, prompt: int, completion: int | None) -> None:  # noqa: ANN401
        """Count what the provider says; what it does not is estimated. None: nothing is written."""
        said = getattr(usage, "prompt_tokens", None)
        if not isinstance(said, int) or said < 0:
            self.add_estimate(prompt, completion or 0)
            return
        self.prompt += said
        known = getattr(getattr(usage, "prompt_tokens_details", None), "cached_tokens", None)
        self.cached += min(known, said) if isinstance(known, int) and known > 0 else 0
        if completion is not None:
            written = getattr(usage, "completion_tokens", None)
            if isinstance(written, int) and written >= 0:
                self.completion += written
            else:
                self.add_estimate(0, completion)


def estimate(text: str) -> int:
    """Estimate a text's tokens.

    Args:
        text: The text.

    Returns:
        How many, rounded up.
    """
    return -(-len(text.encode(errors="replace")) // BYTES_PER_TOKEN)
