"""The real worker, with jobs that only note when they start."""

from __future__ import annotations

import asyncio
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


async def wait(task: Task) -> None:
    """Note how long a job has waited, and take a hundredth of a second.

    Args:
        task: The job.
    """
    waited = time.time() - task.payload["asked_at"]
    async with task.pool.connection() as connection:
        await connection.execute(
            "insert into bench.waits (tenant, seconds) values (%s, %s)",
            [task.payload["tenant"], waited],
        )
    await asyncio.sleep(0.01)


async def nothing(_task: Task) -> None:
    """Do nothing."""


if __name__ == "__main__":
    worker.run(
        os.environ["DATABASE_URL"],
        options=worker.Options(drain="BENCH_DRAIN" in os.environ),
        known=[
            Entrypoint("bench.start", start),
            Entrypoint("bench.wait", wait),
            Entrypoint("bench.nothing", nothing),
        ],
    )
