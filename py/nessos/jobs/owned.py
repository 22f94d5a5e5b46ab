"""pgqueuer's statements about a job in hand, restricted to whoever holds it.

pgqueuer finishes, retries and keeps alive a job by its number alone. A worker that was cut off and
comes back would then finish a job that another has taken over meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import structlog
from pgqueuer.queries import Queries
from pydantic_core import to_json

from nessos import logs

if TYPE_CHECKING:
    from pgqueuer.models import Job, TracebackRecord
    from pgqueuer.ports.repository import EntrypointExecutionParameter
    from pgqueuer.types import JOB_STATUS, JobId, QueueEntrypoint, QueueManagerId

log: structlog.stdlib.BoundLogger = structlog.get_logger("nessos.worker")

_NEVER: Final = timedelta(days=36500)

_END: Final = """
with ends as (
    select * from unnest($1::bigint[], $2::pgqueuer.pgqueuer_status[], $3::jsonb[], $4::uuid[])
        as e (id, status, traceback, holder)
),

deleted as (
    delete from pgqueuer.pgqueuer as q using ends as e
    where q.id = e.id and q.status = 'picked' and q.queue_manager_id = e.holder
        and e.status <> 'failed'
    returning q.id, q.entrypoint, q.priority
),

held as (
    update pgqueuer.pgqueuer as q
    set status = 'failed', updated = now(), queue_manager_id = null
    from ends as e
    where q.id = e.id and q.status = 'picked' and q.queue_manager_id = e.holder
        and e.status = 'failed'
    returning q.id, q.entrypoint, q.priority
)

insert into pgqueuer.pgqueuer_log (job_id, status, entrypoint, priority, traceback)
select e.id, e.status, d.entrypoint, d.priority, e.traceback
from (select * from deleted union all select * from held) as d inner join ends as e on e.id = d.id
"""

_RETURN: Final = """
with returned as (
    update pgqueuer.pgqueuer as q
    set
        status = 'queued', execute_after = now() + $3, attempts = $4, headers = $5,
        updated = now(), queue_manager_id = null
    where q.id = $1 and q.status = 'picked' and q.queue_manager_id = $2
    returning q.id, q.entrypoint, q.priority
),

-- The queue tells its workers of inserts and deletes only.
told as (delete from pgqueuer.pgqueuer as q where q.id is null)

insert into pgqueuer.pgqueuer_log (job_id, status, entrypoint, priority, traceback)
select r.id, 'queued', r.entrypoint, r.priority, $6::jsonb from returned as r
"""

_BEAT: Final = """
update pgqueuer.pgqueuer set heartbeat = now()
where id = any($1::bigint[]) and status = 'picked' and queue_manager_id = $2
"""


@dataclass
class OwnedQueries(Queries):
    """The statements of one worker.

    Attributes:
        limit: How many jobs it may hold at once.
        holder: The worker, as the queue names it; known from its first fetch.
    """

    limit: int | None = None
    holder: QueueManagerId | None = field(default=None, init=False)

    async def dequeue(
        self,
        batch_size: int,
        entrypoints: dict[QueueEntrypoint, EntrypointExecutionParameter],
        queue_manager_id: QueueManagerId,
        global_concurrency_limit: int | None,  # noqa: ARG002 - pgqueuer's must be twice the batch
        heartbeat_timeout: timedelta,  # noqa: ARG002 - silent workers: app.recover_jobs
    ) -> list[Job]:
        """Take jobs that are due."""
        self.holder = queue_manager_id
        return await super().dequeue(batch_size, entrypoints, queue_manager_id, self.limit, _NEVER)

    async def log_jobs(
        self, job_status: list[tuple[Job, JOB_STATUS, TracebackRecord | None]]
    ) -> None:
        """Note how jobs have ended."""
        await self.driver.execute(
            _END,
            [job.id for job, _, _ in job_status],
            [status for _, status, _ in job_status],
            [_clean(trace) for _, _, trace in job_status],
            [job.queue_manager_id for job, _, _ in job_status],
        )

    async def retry_job(
        self, job: Job, delay: timedelta, traceback_record: TracebackRecord | None
    ) -> None:
        """Put a job back, with the attempts and headers it has now."""
        arguments = (
            job.id,
            job.queue_manager_id,
            delay,
            job.attempts,
            to_json(job.headers or {}).decode(),
            _clean(traceback_record),
        )
        said = await self.driver.execute(_RETURN, *arguments)
        if said.endswith(" 0"):
            log.warning("job taken over by another worker", job=job.id)

    async def update_heartbeat(self, job_ids: list[JobId]) -> None:
        """Show that jobs are being worked on."""
        await self.driver.execute(_BEAT, list(set(job_ids)), self.holder)


def _clean(trace: TracebackRecord | None) -> str | None:
    """Take what no log may hold out of a failure's words."""
    if trace is None:
        return None
    return trace.model_copy(
        update={
            "exception_message": logs.clean(trace.exception_message),
            "traceback": logs.clean(trace.traceback),
        }
    ).model_dump_json()
