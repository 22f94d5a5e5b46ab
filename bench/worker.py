"""The real worker with one more entry point, which notes when a job starts."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

from nessos.jobs import worker

if TYPE_CHECKING:
    from pgqueuer.core.qm import QueueManager
    from pgqueuer.models import Job

    from nessos.jobs.worker import Pool


def register(manager: QueueManager, pool: Pool) -> None:
    """Give the queue the entry point `bench.start`.

    Args:
        manager: The queue.
        pool: Connections to the database.
    """

    @manager.entrypoint("bench.start", accepts_context=False)
    async def start(job: Job) -> None:
        started = time.time()
        async with pool.connection() as connection:
            await connection.execute(
                "update bench.asked set started_at = to_timestamp(%s) where id = %s",
                [started, json.loads(job.payload or b"{}")["id"]],
            )


if __name__ == "__main__":
    worker.REGISTRARS.append(register)
    worker.run(os.environ["DATABASE_URL"])
