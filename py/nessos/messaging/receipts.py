"""Writing down what became of a message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from nessos.jobs.entrypoint import Pool
    from nessos.messaging.message import Receipt, SentMessage

_NOTE: Final = "select app.note_notification_receipt(%s, %s, %s, %s, %s, %s, %s, %s) as answer"


async def note(pool: Pool, message: SentMessage, receipt: Receipt) -> str:
    """Write down what became of a message.

    Args:
        pool: Connections to the database.
        message: The message.
        receipt: What became of it.

    Returns:
        What `app.note_notification_receipt` says: moved, kept, unknown or early.
    """
    words = (
        message.org_id,
        message.channel,
        message.message_id,
        receipt.status,
        message.attempt_id,
        receipt.error_key,
        receipt.detail,
        receipt.undeliverable,
    )
    async with pool.connection() as connection:
        row = await (await connection.execute(_NOTE, words)).fetchone()
    return str(row["answer"]) if row else "unknown"
