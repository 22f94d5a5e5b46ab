"""What the providers report of messages: webhooks, in any order and any number of times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl
from uuid import UUID

from nessos.errors import WaitError
from nessos.messaging import evolution, resend, twilio
from nessos.messaging.message import SentMessage
from nessos.messaging.receipts import note

if TYPE_CHECKING:
    from nessos.jobs.entrypoint import Task
    from nessos.messaging.message import Receipt
    from nessos.webhooks.inbound import InboundEvent

NOTHING: Final = "ignored: nothing about a message of ours"

_PATIENCE: Final = timedelta(seconds=15)


async def from_resend(task: Task, event: InboundEvent) -> str:
    """Take an event of Resend: what became of an e-mail."""
    body = event.json_object() or {}
    prefix, _, name = str(body.get("type")).partition(".")
    data = body.get("data")
    receipt = resend.receipt(name, data) if prefix == "email" and isinstance(data, dict) else None
    if receipt is None or not isinstance(data, dict):
        return NOTHING
    tags = data.get("tags")
    attempt = _uuid(tags.get(resend.TAG)) if isinstance(tags, dict) else None
    message = SentMessage(event.org_id, "email", str(data.get("email_id")), attempt_id=attempt)
    return await _take(task, message, receipt)


async def from_twilio(task: Task, event: InboundEvent) -> str:
    """Take a status callback of Twilio, or a person's STOP or START."""
    form = dict(parse_qsl(event.body.decode("utf-8", "replace"), keep_blank_values=True))
    sender, sid = form.get("From"), form.get("MessageSid")
    match form.get("OptOutType"):
        case "STOP":
            mark = "select app.mark_undeliverable(%s, 'sms', %s, 'opt_out')"
            await _run(task, mark, event.org_id, sender)
            return "opted out"
        case "START":
            lift = "select app.lift_opt_out(%s, 'sms', %s)"
            await _run(task, lift, event.org_id, sender)
            return "opted in"
    receipt = twilio.receipt(form.get("MessageStatus", ""), form.get("ErrorCode"))
    if receipt is None or sid is None:
        return NOTHING
    return await _take(task, SentMessage(event.org_id, "sms", sid), receipt)


async def from_evolution(task: Task, event: InboundEvent) -> str:
    """Take a receipt of Evolution; its other events are not about our messages."""
    body = event.json_object() or {}
    data = body.get("data")
    said = NOTHING
    if body.get("event") != "messages.update":
        return said
    for update in data if isinstance(data, list) else [data]:
        if not isinstance(update, dict) or update.get("fromMe") is not True:
            continue
        status = update.get("status")
        receipt = evolution.receipt(status) if isinstance(status, str | int) else None
        if receipt is not None:
            message = SentMessage(event.org_id, "whatsapp", str(update.get("keyId")))
            answer = await _take(task, message, receipt)
            # One that moved says what became of the event, whatever stands beside it.
            said = answer if said != "moved" else said
    return said


async def _take(task: Task, message: SentMessage, receipt: Receipt) -> str:
    answer = await note(task.pool, message, receipt)
    if answer == "early":
        # The call that sent the message has not come back: its id is not known yet.
        raise WaitError("the message is being sent", datetime.now(UTC) + _PATIENCE)
    return answer if answer == "moved" else f"ignored: {answer}"


async def _run(task: Task, statement: str, *parameters: object) -> None:
    async with task.pool.connection() as connection:
        await connection.execute(statement, parameters)


def _uuid(text: object) -> UUID | None:
    try:
        return UUID(str(text))
    except ValueError:
        return None
