"""The real worker, as a process of its own, with jobs that a test directs through the provider."""

import os
from typing import Any

import httpx

from nessos import settings
from nessos.errors import GiveUpError, RetryError
from nessos.jobs import worker
from nessos.jobs.entrypoint import Entrypoint, RetryPolicy, Task
from nessos.jobs.owned import OwnedQueries

PROVIDER = os.environ["PROVIDER_URL"]


async def ask(path: str, key: str = "") -> str:
    """Ask the provider; it may take its time."""
    async with httpx.AsyncClient(timeout=600) as client:
        answer = await client.post(f"{PROVIDER}/{path}", headers={"idempotency-key": key})
    return answer.text


async def work(task: Task) -> str:
    """Have one effect on the world, under a key that is the same in every attempt."""
    match await ask("before"):
        case "retry":
            raise RetryError("told to try again")
        case "give up":
            raise GiveUpError("told to give up")
    await ask("effect", f"job-{task.job_id}")
    return await ask("after")


async def nothing(_task: Task) -> None:
    """Do nothing."""


fetch = OwnedQueries.dequeue


async def fetch_and_ask(self: OwnedQueries, *args: Any, **named: Any) -> Any:
    """Take jobs, and stop at a point when there are any."""
    jobs = await fetch(self, *args, **named)
    if jobs:
        await ask("fetched")
    return jobs


if __name__ == "__main__":
    OwnedQueries.dequeue = fetch_and_ask  # type: ignore[method-assign]
    chosen = settings.load()
    worker.run(
        os.environ["DATABASE_URL"],
        options=worker.Options(
            concurrency=chosen.worker_concurrency,
            grace_s=chosen.worker_grace_s,
            heartbeat_s=chosen.worker_heartbeat_s,
            address=(chosen.worker_host, chosen.worker_port) if chosen.worker_port else None,
        ),
        known=[
            Entrypoint("test.work", work, retry=RetryPolicy((0.1, 0.1))),
            Entrypoint("test.nothing", nothing),
        ],
    )
