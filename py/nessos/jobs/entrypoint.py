"""What a job is to the worker: its handler, how often it is tried, how long it may take."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from uuid import UUID

    import psycopg
    from psycopg_pool import AsyncConnectionPool

    from nessos.http import Http

    Pool = AsyncConnectionPool[psycopg.AsyncConnection[dict[str, Any]]]


@dataclass(frozen=True)
class RetryPolicy:
    """How long to wait before each further attempt; when no wait is left, the job is held.

    Attributes:
        delays_s: Seconds before the second, third … attempt.
    """

    delays_s: tuple[float, ...]

    def delay(self, attempt: int) -> timedelta | None:
        """Say when to try again.

        Args:
            attempt: The attempt that has failed; 1 is the first.

        Returns:
            The wait, spread by a fifth either way so that failures of one moment do not come back
            in one moment; None when the job is to be held.
        """
        if attempt > len(self.delays_s):
            return None
        spread = random.uniform(0.8, 1.2)  # noqa: S311 - not a secret
        return timedelta(seconds=self.delays_s[attempt - 1] * spread)


MESSAGE: Final = RetryPolicy((1, 5, 25))
"""For messages to people (RENUM's document)."""

INTEGRATION: Final = RetryPolicy((2, 4, 8, 16, 30))
"""For calls of other services: 2 s doubled each time, at most 30 s (Somos' document)."""


@dataclass(frozen=True)
class Task:
    """One job as its handler sees it.

    Attributes:
        job_id: Its number in the queue.
        entrypoint: What kind of job it is.
        payload: What it was enqueued with.
        org_id: The organisation it works for; None for the installation.
        request_id: Correlation id of the request that caused it.
        attempt: 1 for the first.
        pool: Connections to the database: autocommit, rows as dictionaries.
        http: The client for services outside.
    """

    job_id: int
    entrypoint: str
    payload: Mapping[str, Any]
    org_id: UUID | None
    request_id: str | None
    attempt: int
    pool: Pool
    http: Http


@dataclass(frozen=True)
class Entrypoint:
    """A kind of job. Its latency class stands in `app.job_types`, which lists the same names.

    A handler raises `RetryError` or anything unexpected to be tried again by the policy,
    `WaitError` to be tried again not before a moment, which is no attempt but is done for a day at
    most, `GiveUpError` or `RuleError` to be held at once.

    Attributes:
        name: Its name in the queue, `<concern>.<what>`.
        handle: What does the work; gives a word for the log. It may run twice: a worker can die
            between the effect and the note of it.
        retry: When to try again.
        timeout_s: The handler is cancelled after this many seconds, which counts as a failure.
        concurrency: How many at once in the whole installation; 0 as many as there are.
    """

    name: str
    handle: Callable[[Task], Awaitable[str | None]]
    retry: RetryPolicy = INTEGRATION
    timeout_s: float = 60
    concurrency: int = 0
