"""The real worker with one more entry point, which notes when a job starts."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from nessos.jobs import worker
from nessos.jobs.entrypoint import Entrypoint

if TYPE_CHECKING:
    from nessos.jobs.entrypoint import Task


async def start(task: Task) -> None:
    """Note when a job starts.

    Args:
        task: The job.
    """
    started = time.time()
    async with task.pool.connection() as connection:
        await connection.execute(
            "update bench.asked set started_at = to_timestamp(%s) where id = %s",
            [started, task.payload["id"]],
        )


if __name__ == "__main__":
    worker.run(
        os.environ["DATABASE_URL"],
        options=worker.Options(),
        known=[Entrypoint("bench.start", start)],
    )
