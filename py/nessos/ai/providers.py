"""The providers of language models: where each is, what it ignores, and what its faults mean.

All are spoken to through OpenAI's client, which each has a compatible address for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import httpx
import openai

from nessos.errors import GiveUpError, RetryError, UpstreamError, WaitError
from nessos.http import Provider, Rate, retry_after

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import SecretStr

    from nessos.http import Ending
    from nessos.settings import Settings

_QUOTA_PAUSE: Final = timedelta(minutes=10)
_TOO_MANY, _TIMEOUT, _CONFLICT, _SERVER_ERROR = 429, 408, 409, 500
_RESETS: Final = ("x-ratelimit-reset-requests", "x-ratelimit-reset-tokens")
_UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}


class QuotaError(WaitError):
    """The account has run out of money; only its owner can do something about it."""


@dataclass(frozen=True)
class Service:
    """A provider that is set up.

    Attributes:
        provider: Its numbers.
        url: Where it is, up to the version.
        key: What it is asked with.
        limit_name: The parameter that bounds an answer's length.
        has_response_format: Whether it keeps to a JSON schema by itself, or knows at least of one.
        needs_schema_in_words: Whether the schema is to be told in words, too.
    """

    provider: Provider
    url: str
    key: SecretStr | None
    limit_name: str = "max_tokens"
    has_response_format: bool = True
    needs_schema_in_words: bool = False

    def account(self, model: str) -> str:
        """Give what the provider counts by: the key, and the model.

        Args:
            model: The model.

        Returns:
            What identifies it; never logged.
        """
        return f"{self.url} {self.secret} {model}"

    @property
    def secret(self) -> str:
        """The key in plain text; a server that wants none is told so."""
        return self.key.get_secret_value() if self.key else "none"


def services(settings: Settings) -> dict[str, Service]:
    """Give the providers that are set up.

    Args:
        settings: The settings.

    Returns:
        By their names in `app.integration_providers`.
    """

    def provider(name: str) -> Provider:
        return Provider(
            name,
            rates=(Rate(settings.ai_requests_per_minute, 60),),
            timeout_s=settings.ai_timeout_s,
            attempts=2,
        )

    found: dict[str, Service] = {}
    if settings.compatible_url and settings.compatible_model:
        found["compatible"] = Service(
            provider("compatible"),
            settings.compatible_url,
            settings.compatible_api_key,
            needs_schema_in_words=True,
        )
    elif settings.compatible_url and settings.compatible_embedding_model:
        found["compatible"] = Service(
            provider("compatible"), settings.compatible_url, settings.compatible_api_key
        )
    if settings.openai_api_key:
        found["openai"] = Service(
            provider("openai"),
            settings.openai_url,
            settings.openai_api_key,
            # Reasoning models refuse the older name.
            limit_name="max_completion_tokens",
        )
    if settings.anthropic_api_key:
        found["anthropic"] = Service(
            provider("anthropic"),
            settings.anthropic_url,
            settings.anthropic_api_key,
            has_response_format=False,
            needs_schema_in_words=True,
        )
    if settings.gemini_api_key:
        found["gemini"] = Service(provider("gemini"), settings.gemini_url, settings.gemini_api_key)
    return found


def fault(error: Exception, ending: Ending, what: str) -> UpstreamError:
    """Say what a failure of OpenAI's client means.

    What the provider says in words is not repeated: it may quote the request, or the key.

    Args:
        error: What it raised.
        ending: Told of status and kind.
        what: Provider and operation, for the message.

    Returns:
        The error to raise.
    """
    result: UpstreamError
    match error:
        case openai.APITimeoutError():
            ending.error_kind = "timeout"
            result = RetryError(f"{what}: no answer in time")
            result.is_uncertain = not isinstance(
                error.__cause__, httpx.ConnectTimeout | httpx.PoolTimeout
            )
        case openai.APIConnectionError():
            ending.error_kind = "connection"
            result = RetryError(f"{what}: the connection broke")
            result.is_uncertain = not isinstance(error.__cause__, httpx.ConnectError)
        case openai.APIStatusError():
            ending.error_kind, ending.status = "status", error.status_code
            result = _by_status(error, what)
        case openai.APIError():
            result = _by_code(_detail(error.body), what)
        case openai.OpenAIError():
            result = GiveUpError(f"{what}: the request cannot be written")
        case _:
            result = RetryError(f"{what}: the answer cannot be read")
            result.is_uncertain = True
    return result


def _by_status(error: openai.APIStatusError, what: str) -> UpstreamError:
    status = error.status_code
    detail = _detail(error.body)
    what = f"{what}: HTTP {status} {_code(detail)}".rstrip()
    if _is_out_of_money(detail):
        return QuotaError(what, datetime.now(UTC) + _QUOTA_PAUSE)
    if status in {_TOO_MANY, _TIMEOUT, _CONFLICT} or status >= _SERVER_ERROR:
        headers = list(error.response.headers.multi_items())
        until = _moment(httpx.Response(status, headers=headers))
        result = WaitError(what, until) if until else RetryError(what)
        result.is_uncertain = status >= _SERVER_ERROR
        return result
    return GiveUpError(what)


def _by_code(detail: Mapping[str, Any], what: str) -> UpstreamError:
    """Judge an error that came inside a stream, under status 200."""
    what = f"{what}: the stream broke off {_code(detail)}".rstrip()
    if _is_out_of_money(detail):
        return QuotaError(what, datetime.now(UTC) + _QUOTA_PAUSE)
    result = RetryError(what)
    result.is_uncertain = True
    return result


def _detail(body: object) -> Mapping[str, Any]:
    """Give the error of a body: {"error": {…}}, {…}, or either in an array, as Gemini has it."""
    if isinstance(body, list) and body:
        body = body[0]
    if isinstance(body, dict):
        inner = body.get("error", body)
        return inner if isinstance(inner, dict) else body
    return {}


def _code(detail: Mapping[str, Any]) -> str:
    for name in ("code", "status", "type"):
        value = detail.get(name)
        if isinstance(value, str) and re.fullmatch(r"[A-Za-z_.-]{1,60}", value):
            return value
    return ""


def _is_out_of_money(detail: Mapping[str, Any]) -> bool:
    return "insufficient_quota" in (detail.get("code"), detail.get("type")) or (
        # Anthropic says so in words only, with status 400.
        "credit balance is too low" in str(detail.get("message"))
    )


def _moment(response: httpx.Response) -> datetime | None:
    """Read when to come back: retry-after-ms, Retry-After, or a limit's reset ("6m0s", "20ms")."""
    headers = response.headers
    now = datetime.now(UTC)
    text = headers.get("retry-after-ms", "")
    if text.isascii() and text.isdigit():
        return now + timedelta(milliseconds=min(int(text), 10**8))
    if response.status_code != _TOO_MANY or "retry-after" in headers:
        return retry_after(response)
    waits = [
        sum(float(number) * _UNITS[unit] for number, unit in parts)
        for name in _RESETS
        if headers.get(name.replace("reset", "remaining")) == "0"
        and (parts := re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", headers.get(name, "")))
    ]
    return now + timedelta(seconds=min(max(waits), 86400)) if waits else None
