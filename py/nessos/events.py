"""Events: the jobs that their subscriptions ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nessos.jobs.entrypoint import Entrypoint

if TYPE_CHECKING:
    from nessos.jobs.entrypoint import Task

_ENQUEUE: Final = """
select app.enqueue_subscribed_job(
    org => %(org_id)s, subscription => %(subscription_id)s, event => %(event_id)s,
    occurred_at => %(occurred_at)s
) as job
"""


async def enqueue_subscribed_job(task: Task) -> str:
    """Put the job that a subscription names into the queue.

    Args:
        task: Its payload names the subscription and the event.

    Returns:
        Which job.
    """
    async with task.pool.connection() as connection:
        cursor = await connection.execute(_ENQUEUE, {**task.payload, "org_id": task.org_id})
        row = await cursor.fetchone()
    return f"job {row['job']}" if row and row["job"] else "nothing to do"


ENTRYPOINTS: Final = (Entrypoint("event.job", enqueue_subscribed_job),)
