"""What becomes of a job that the queue has handed out: done, tried again, returned or held."""

from __future__ import annotations

import asyncio
import json
import random
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

import psycopg
import structlog
from pgqueuer.errors import RetryRequested

from nessos.errors import GiveUpError, NessosError, RuleError, WaitError, from_psycopg
from nessos.jobs import runs
from nessos.jobs.entrypoint import Task

if TYPE_CHECKING:
    from pgqueuer.models import Job

    from nessos.http import Http
    from nessos.jobs.entrypoint import Entrypoint, Pool
    from nessos.jobs.watch import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger("nessos.worker")

current: ContextVar[Task | None] = ContextVar("current", default=None)
"""The job whose handler runs here."""

_PATIENCE: Final = timedelta(days=1)
"""How long a job may be told to wait, time after time, before it is held."""

_DEATHS: Final = 5
"""How many workers may die while they run a job before it is held."""

_LAST_WORDS_S: Final = 5.0


@dataclass
class Shift:
    """What the handlers of one worker share, and how they are sent home.

    Attributes:
        pool: Connections to the database.
        http: The client for services outside.
        metrics: What is counted.
        running: The handlers at work.
        is_over: Whether jobs go back to the queue instead of being run.
    """

    pool: Pool
    http: Http
    metrics: Metrics
    running: set[asyncio.Task[str | None]] = field(default_factory=set)
    is_over: bool = False

    def end(self) -> None:
        """Have every job that is not done go back to the queue."""
        self.is_over = True
        for work in self.running:
            work.cancel()


@dataclass
class Executor:
    """Runs the jobs of one entry point.

    Attributes:
        entrypoint: Which.
        shift: What its handlers share.
    """

    entrypoint: Entrypoint
    shift: Shift

    async def execute(self, job: Job) -> None:
        """Run a job.

        Args:
            job: The job. What the queue is to remember when it comes back is written into it:
                attempts and headers.

        Raises:
            RetryRequested: It comes back: now, by its policy, or at the moment it waits for.
            Exception: It is held, for the reason this gives.
        """
        started = time.monotonic()
        said = log.bind(entrypoint=job.entrypoint, job=job.id, attempt=job.attempts + 1)
        task = None
        try:
            task = _task(job, self.shift)
            said = said.bind(org_id=task.org_id and str(task.org_id), request_id=task.request_id)
            _refuse_deadly(job)
            result = await self._run(task) if await runs.begin(task) else "done before"
            await runs.finish(task, result)
        except asyncio.CancelledError:
            # The queue would take a cancelled job for one that nobody wants any more.
            self._count(job, started, "returned")
            said.info("job returned")
            raise RetryRequested(reason="the worker stops") from None
        except Exception as raised:
            error = from_psycopg(raised) if isinstance(raised, psycopg.Error) else raised
            trace = None if isinstance(error, NessosError) else error
            wait = self._wait(job, error)
            if task is not None:
                await runs.fail(task, error, is_final=wait is None)
            self._count(job, started, _outcome(error, wait))
            if wait is None:
                said.error("job held", error=str(error), exc_info=trace)
                raise error from raised
            said.warning(
                "job to be tried again",
                error=str(error),
                in_s=round(wait.total_seconds(), 1),
                exc_info=trace,
            )
            raise RetryRequested(wait, f"{type(error).__name__}: {error}") from raised
        self._count(job, started, "done")
        duration = round((time.monotonic() - started) * 1000)
        said.info("job done", result=result, duration_ms=duration)

    def _count(self, job: Job, started: float, outcome: str) -> None:
        self.shift.metrics.ended.labels(job.entrypoint, outcome).inc()
        self.shift.metrics.seconds.labels(job.entrypoint).observe(time.monotonic() - started)

    async def _run(self, task: Task) -> str | None:
        async def handle() -> str | None:
            current.set(task)
            return await self.entrypoint.handle(task)

        if self.shift.is_over:
            raise asyncio.CancelledError
        work = asyncio.create_task(handle())
        self.shift.running.add(work)
        try:
            done, _ = await asyncio.wait({work}, timeout=self.entrypoint.timeout_s)
            if done and work.cancelled() and not self.shift.is_over:
                raise RuntimeError("the handler cancelled itself")
            if done:
                return work.result()
            work.cancel()
            # A handler that does not let go is left behind.
            await asyncio.wait({work}, timeout=_LAST_WORDS_S)
            raise TimeoutError(f"not done after {self.entrypoint.timeout_s:g} s")
        finally:
            work.cancel()
            self.shift.running.discard(work)

    def _wait(self, job: Job, error: Exception) -> timedelta | None:
        """Say how long a failed job waits, and note in it what counts; None when it is held."""
        if isinstance(error, GiveUpError | RuleError):
            return None
        headers = dict(job.headers or {})
        now = datetime.now(UTC)
        if isinstance(error, WaitError):
            since = headers.setdefault("waits_since", now.isoformat())
            job.headers = headers
            if now - datetime.fromisoformat(str(since)) > _PATIENCE:
                return None
            # Those who wait for one moment do not come back in one moment.
            spread = random.uniform(0, 1)  # noqa: S311 - not a secret
            return max(error.until - now, timedelta(0)) + timedelta(seconds=spread)
        headers.pop("waits_since", None)
        job.headers = headers
        job.attempts += 1
        return self.entrypoint.retry.delay(job.attempts)


def _outcome(error: Exception, wait: timedelta | None) -> str:
    if wait is None:
        return "held"
    return "waiting" if isinstance(error, WaitError) else "retried"


def _task(job: Job, shift: Shift) -> Task:
    """Read a job.

    Raises:
        GiveUpError: It cannot be read.
    """
    headers = job.headers or {}
    try:
        payload = json.loads(job.payload or b"{}")
        org = headers.get("org_id")
        org_id = UUID(str(org)) if org else None
    except ValueError as error:
        raise GiveUpError(f"the job cannot be read: {error}") from error
    if not isinstance(payload, dict):
        raise GiveUpError("the job's payload is not a JSON object")
    request = headers.get("request_id")
    return Task(
        job_id=job.id,
        entrypoint=job.entrypoint,
        payload=payload,
        org_id=org_id,
        request_id=str(request) if request else None,
        attempt=job.attempts + 1,
        pool=shift.pool,
        http=shift.http,
    )


def _refuse_deadly(job: Job) -> None:
    """Run no job that keeps ending workers.

    Raises:
        GiveUpError: It has been the death of too many.
    """
    deaths = (job.headers or {}).get("deaths", 0)
    if isinstance(deaths, int) and deaths >= _DEATHS:
        raise GiveUpError(f"{deaths} workers died while they ran it")
