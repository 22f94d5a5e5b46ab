"""What services outside have sent: the job that processes it, each provider by its processor.

The function `webhook` has checked the signature and stored the request as it came; see
`public.webhook_events`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import psycopg

from nessos.errors import GiveUpError, RuleError, UpstreamError, from_psycopg
from nessos.jobs.entrypoint import Entrypoint, Task
from nessos.messaging import webhooks as messaging
from nessos.omie import webhook as omie
from nessos.webhooks import github

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True)
class InboundEvent:
    """One request of a provider.

    Attributes:
        id: Of the row in `webhook_events`.
        org_id: The organisation whose address it came to.
        provider: Who sent it.
        headers: Those that were kept, names in lower case.
        body: Its bytes.
        received_at: When it came.
    """

    id: UUID
    org_id: UUID
    provider: str
    headers: Mapping[str, str]
    body: bytes
    received_at: datetime

    def json_object(self) -> dict[str, Any] | None:
        """Read the body as JSON; fractions come as Decimal.

        Returns:
            The object; None where it is anything else, or nested beyond reason.
        """
        try:
            value = json.loads(self.body, parse_float=Decimal)
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None


IGNORED: Final = "ignored"
REJECTED: Final = "rejected"

Processor = Callable[[Task, InboundEvent], Awaitable[str | None]]
"""Does what an event asks for and says what that was, in a few words without personal data.

The first word `ignored` says that there was nothing to do, `rejected` that the sender is not who he
says he is (`rejected: appKey of another app`). It may be called twice for one event, and again by a
replay.
"""

PROCESSORS: Final[Mapping[str, Processor]] = {
    "evolution": messaging.from_evolution,
    "github": github.process,
    "omie": omie.process,
    "resend": messaging.from_resend,
    "twilio": messaging.from_twilio,
}
"""The processor of each provider that `webhook_sources` knows."""

_START: Final = "select * from app.start_webhook_event(%s, %s)"
_FINISH: Final = "select app.finish_webhook_event(%s, %s, %s, %s)"


async def process(task: Task) -> str:
    """Process a webhook event.

    Args:
        task: Its payload names the event.

    Returns:
        What was done.

    Raises:
        GiveUpError: The event cannot be processed, ever.
        RetryError: It could not be processed now.
    """
    if task.org_id is None:
        raise GiveUpError("a webhook event belongs to an organisation")
    event_id = UUID(str(task.payload["webhook_event_id"]))
    async with task.pool.connection() as connection:
        row = await (await connection.execute(_START, [task.org_id, event_id])).fetchone()
    if row is None:
        return "nothing left to do"
    event = InboundEvent(id=event_id, org_id=task.org_id, **row)
    try:
        said = await _processor(event)(task, event) or "done"
    except asyncio.CancelledError:
        await _finish(task, event, "failed", "interrupted")
        raise
    except Exception as error:
        await _finish(task, event, "failed", _reason(error))
        raise
    word = said.partition(":")[0]
    await _finish(task, event, word if word in {IGNORED, REJECTED} else "processed", said)
    return said


def _processor(event: InboundEvent) -> Processor:
    found = PROCESSORS.get(event.provider)
    if found is None:
        raise GiveUpError(f"nothing processes what {event.provider} sends")
    return found


def _reason(error: Exception) -> str:
    """Say why in words of ours: those of an unexpected error may quote what was sent."""
    if isinstance(error, psycopg.Error):
        error = from_psycopg(error)
    ours = isinstance(error, RuleError | UpstreamError)
    return str(error) if ours else type(error).__name__


async def _finish(task: Task, event: InboundEvent, status: str, said: str) -> None:
    async with task.pool.connection() as connection:
        await connection.execute(_FINISH, [event.org_id, event.id, status, said])


ENTRYPOINTS: Final = (Entrypoint("webhook.process", process),)
