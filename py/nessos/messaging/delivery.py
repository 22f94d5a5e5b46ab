"""The jobs that tell people: sending on one channel, asking after silent messages, events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import structlog

from nessos import credentials
from nessos.errors import GiveUpError, RetryError, WaitError
from nessos.jobs.entrypoint import MESSAGE, Entrypoint
from nessos.messaging.evolution import Evolution
from nessos.messaging.message import Message, RefusedError, SentMessage
from nessos.messaging.receipts import note
from nessos.messaging.render import render
from nessos.messaging.resend import Resend
from nessos.messaging.twilio import Twilio
from nessos.settings import load

if TYPE_CHECKING:
    from nessos.jobs.entrypoint import Task
    from nessos.messaging.message import Channel, Credentials

log: structlog.stdlib.BoundLogger = structlog.get_logger("nessos.messaging")

CHANNELS: Final[dict[str, tuple[str, Channel]]] = {
    "whatsapp": ("evolution", Evolution()),
    "sms": ("twilio", Twilio()),
    "email": ("resend", Resend()),
}
"""Per channel the provider, as `app.channel_provider` names it, and what speaks to it."""

_SETTLED: Final = timedelta(minutes=1)
"""A message sent by a call that broke is listed by its provider after this time; no call lasts as
long. `app.claim_notification_attempt` counts with the same."""


async def deliver(task: Task) -> str:
    """Send a notification on its next channel.

    The intent is in the database before the call, the outcome after it. A worker that dies between
    leaves an attempt that the next run asks the provider about before it sends again. A channel
    that fails for good hands over to the next one in the transaction that notes it.
    """
    org_id = organization(task)
    claim = await _one(
        task,
        "select app.claim_notification_attempt(%s, %s) as claim",
        org_id,
        task.payload["notification_id"],
    )
    match claim["verdict"]:
        case "wait":
            raise WaitError(
                "quiet hours, or an earlier call may be running", _moment(claim["not_before"])
            )
        case "done":
            return "nothing to send"
    attempt = UUID(claim["attempt_id"])
    provider, channel = CHANNELS[claim["channel"]]
    words = render(claim["channel"], claim, app_url=load().app_url)
    message = Message(
        org_id=org_id,
        attempt_id=attempt,
        address=claim["address"],
        template=claim["template"],
        text=words.text,
        subject=words.subject,
        html=words.html,
        first_tried_at=_moment(claim["first_tried_at"]),
    )
    try:
        keys = await credentials.read(task.pool, org_id=org_id, provider=provider)
        if keys is None:
            raise RefusedError("provider_refused", f"{provider} is not connected any more")
        sent = await _find(task, claim, keys, message) or await channel.send(
            task.http, keys, message
        )
    except GiveUpError as error:
        return await _fail(task, claim, error)
    except (RetryError, WaitError) as error:
        if not error.is_uncertain:
            await _run(task, "select app.release_notification_attempt(%s, %s)", org_id, attempt)
        # A channel that is down hands over; the last one is waited for, and held for an operator.
        is_spent = claim["tries"] > len(MESSAGE.delays_s)
        if claim["has_other"] and (is_spent or isinstance(error, WaitError)):
            return await _fail(task, claim, error)
        if error.is_uncertain and not is_spent and claim["channel"] != "email":
            raise WaitError(error.message, datetime.now(UTC) + _SETTLED) from error
        raise
    await _run(task, "select app.note_notification_sent(%s, %s, %s)", org_id, attempt, sent)
    return f"sent by {claim['channel']}"


async def poll(task: Task) -> str:
    """Ask the providers after messages of which no receipt has come."""
    org_id = organization(task)
    async with task.pool.connection() as connection:
        cursor = await connection.execute("select * from app.list_silent_attempts(%s)", (org_id,))
        silent = await cursor.fetchall()
    moved = 0
    for row in silent:
        provider, channel = CHANNELS[row["channel"]]
        keys = await credentials.read(task.pool, org_id=org_id, provider=provider)
        if keys is None:
            continue
        sent = SentMessage(
            org_id, row["channel"], row["provider_message_id"], address=row["address"]
        )
        try:
            receipt = await channel.ask(task.http, keys, sent)
        except GiveUpError as error:
            log.info("message not known", channel=row["channel"], error=error.message)
            continue
        if receipt is not None:
            moved += await note(task.pool, sent, receipt) == "moved"
    return f"{moved} of {len(silent)} moved"


async def tell_event(task: Task) -> str:
    """Tell the people a subscription names of an event."""
    told = await _one(
        task,
        "select app.notify_event(%s, %s, %s, %s)",
        organization(task),
        task.payload["subscription_id"],
        task.payload["event_id"],
        task.payload["occurred_at"],
    )
    return f"{told} people told"


def organization(task: Task) -> UUID:
    """Name the organisation of a job that has one.

    Args:
        task: The job.

    Returns:
        Its organisation.

    Raises:
        GiveUpError: It has none.
    """
    if task.org_id is None:
        raise GiveUpError(f"{task.entrypoint} needs an organisation")
    return task.org_id


async def _find(
    task: Task, claim: dict[str, Any], keys: Credentials, message: Message
) -> str | None:
    """Name the message that an earlier try has sent, if its end is not known and it has."""
    if claim["last_tried_at"] is None:
        return None
    found = await CHANNELS[claim["channel"]][1].find(task.http, keys, message)
    # The same words may have been sent for another notification.
    picked: str | None = await _one(
        task, "select app.pick_message(%s, %s, %s)", message.org_id, claim["channel"], found
    )
    return picked


async def _fail(task: Task, claim: dict[str, Any], error: Exception) -> str:
    """Note that a channel has failed for good."""
    refused = error if isinstance(error, RefusedError) else None
    unavailable = "provider_refused" if isinstance(error, GiveUpError) else "provider_unavailable"
    await _run(
        task,
        "select app.fail_notification_attempt(%s, %s, %s, %s, %s)",
        task.org_id,
        UUID(claim["attempt_id"]),
        refused.error_key if refused else unavailable,
        str(error),
        refused.undeliverable if refused else None,
    )
    return f"{claim['channel']} failed"


async def _one(task: Task, statement: str, *parameters: object) -> Any:  # noqa: ANN401 - JSON
    async with task.pool.connection() as connection:
        row = await (await connection.execute(statement, parameters)).fetchone()
    return next(iter(row.values())) if row else None


async def _run(task: Task, statement: str, *parameters: object) -> None:
    await _one(task, statement, *parameters)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


ENTRYPOINTS: Final = (
    Entrypoint("notification.deliver", deliver, retry=MESSAGE, timeout_s=55),
    Entrypoint("notification.poll", poll, timeout_s=300),
    Entrypoint("event.notification", tell_event),
)
