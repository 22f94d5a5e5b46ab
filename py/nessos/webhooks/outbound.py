"""Webhooks out: signs and sends what the database has written down, and notes how it went.

What is due, in which order, how often and until when, the database decides. The form is that of
Standard Webhooks (https://www.standardwebhooks.com).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from standardwebhooks.webhooks import Webhook

from nessos.errors import GiveUpError, RetryError, UpstreamError, WaitError
from nessos.http import Provider, retry_after
from nessos.jobs.entrypoint import Entrypoint
from nessos.settings import load
from nessos.webhooks.guard import Guard, GuardedTransport

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    import httpx

    from nessos.jobs.entrypoint import Task

_TURN_S: Final = 5.0
"""After so long a receiver that has more to get makes room for others."""

_CLAIM_S: Final = 25.0
"""Nothing is under way for longer after its claim; five seconds later it may be another's."""

_CLAIM: Final = """
select delivery_id, message_id, attempt, url, payload, secrets
from app.claim_webhook_deliveries(%s, %s)
"""
_NOTE: Final = "select app.note_webhook_attempt(%s, %s, %s, %s, %s, %s, %s)"
_RETURN: Final = "select app.return_webhook_delivery(%s, %s, %s, %s)"
_AGAIN: Final = (
    "select app.wake_webhook_endpoint(%s, %s, app.now() + make_interval(secs => %s::numeric))"
)


class AnswerError(UpstreamError):
    """The receiver did not answer 2xx.

    Args:
        response: What it answered.
    """

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        super().__init__(f"HTTP {response.status_code}")


class RefusedError(AnswerError, GiveUpError):
    """It does not take this delivery."""


class FailedError(AnswerError, RetryError):
    """It does not work, which its circuit breaker counts."""


def _judge(response: httpx.Response) -> AnswerError | None:
    if response.is_success:
        return None
    return FailedError(response) if response.is_server_error else RefusedError(response)


def _transport() -> GuardedTransport:
    return GuardedTransport(Guard(load().webhook_allowed_networks))


RECEIVER: Final = Provider(
    "webhook", timeout_s=15, attempts=1, max_wait_s=0, judge=_judge, transport=_transport
)
"""Any receiver: an answer of 2xx within 15 seconds, or the database says when to try again."""


@dataclass(frozen=True)
class Delivery:
    """A delivery that this process alone may send for now.

    Attributes:
        delivery_id: Its id.
        message_id: What the receiver knows it by, the same in every attempt.
        attempt: 1 for the first.
        url: Where to.
        payload: The body.
        secrets: What it is signed with: the current secret, in a rotation the one before, too.
    """

    delivery_id: UUID
    message_id: UUID
    attempt: int
    url: str
    payload: str
    secrets: Sequence[str]


@dataclass(frozen=True)
class Outcome:
    """How an attempt went.

    Attributes:
        status_code: HTTP status; None without an answer.
        error: Why it failed; None if it did not.
        retry_after_s: How long the receiver wants to be left alone; None if it did not say.
    """

    status_code: int | None = None
    error: str | None = None
    retry_after_s: int | None = None


def headers(delivery: Delivery, *, sent_at: datetime) -> dict[str, str]:
    """Write the headers a receiver checks a delivery by.

    Args:
        delivery: The delivery.
        sent_at: The moment of the attempt, with a time zone.

    Returns:
        Id, moment and a signature per secret, as Standard Webhooks has them.
    """
    message = str(delivery.message_id)
    return {
        "content-type": "application/json",
        "webhook-id": message,
        "webhook-timestamp": str(int(sent_at.timestamp())),
        "webhook-signature": " ".join(
            Webhook(secret).sign(message, sent_at.astimezone(UTC), delivery.payload)
            for secret in delivery.secrets
        ),
    }


async def deliver(task: Task) -> str:
    """Send what is due to an endpoint, up to five deliveries at the same time.

    Args:
        task: Its payload names the endpoint.

    Returns:
        How many attempts were made.
    """
    endpoint = task.payload["endpoint_id"]
    began, attempts = time.monotonic(), 0
    clock = asyncio.get_running_loop().time
    while True:
        until = clock() + _CLAIM_S
        claimed = await _claim(task, endpoint)
        if not claimed:
            break
        # Each is sent and noted, whatever becomes of the others.
        ended = await asyncio.gather(
            *(_send(task, endpoint, delivery, until) for delivery in claimed),
            return_exceptions=True,
        )
        for error in ended:
            if isinstance(error, BaseException):
                raise error
        attempts += len(claimed)
        took = time.monotonic() - began
        if took > _TURN_S:
            async with task.pool.connection() as connection:
                await connection.execute(_AGAIN, (task.org_id, endpoint, took))
            break
    return f"{attempts} attempts"


async def _claim(task: Task, endpoint: str) -> list[Delivery]:
    async with task.pool.connection() as connection:
        cursor = await connection.execute(_CLAIM, (task.org_id, endpoint))
        return [Delivery(**row) for row in await cursor.fetchall()]


async def _send(task: Task, endpoint: str, delivery: Delivery, until: float) -> None:
    began = time.monotonic()
    try:
        async with asyncio.timeout_at(until):
            outcome = await _post(task, endpoint, delivery)
    except TimeoutError:
        outcome = Outcome(error="no answer in time")
    except WaitError as error:  # it was not sent: the circuit is open
        wait_s = (error.until - datetime.now(UTC)).total_seconds()
        async with task.pool.connection() as connection:
            await connection.execute(
                _RETURN, (task.org_id, delivery.delivery_id, delivery.attempt, wait_s)
            )
        return
    noted = (
        task.org_id, delivery.delivery_id, delivery.attempt, outcome.status_code, outcome.error,
        round((time.monotonic() - began) * 1000), outcome.retry_after_s,
    )  # fmt: skip
    async with task.pool.connection() as connection:
        await connection.execute(_NOTE, noted)


async def _post(task: Task, endpoint: str, delivery: Delivery) -> Outcome:
    try:
        response = await task.http.request(
            RECEIVER,
            "POST",
            delivery.url,
            account=endpoint,
            org_id=task.org_id,
            operation="deliver",
            is_retryable=False,
            headers=headers(delivery, sent_at=datetime.now(UTC)),
            content=delivery.payload.encode(),
        )
    except AnswerError as error:
        asked = retry_after(error.response)
        return Outcome(
            error.response.status_code,
            str(error),
            int((asked - datetime.now(UTC)).total_seconds()) + 1 if asked else None,
        )
    except (RetryError, GiveUpError) as error:
        return Outcome(error=error.message.removeprefix("webhook deliver: "))
    return Outcome(response.status_code)


ENTRYPOINTS: Final = (Entrypoint("webhook.deliver", deliver, timeout_s=60, concurrency=5),)
