"""The worker: takes jobs from the queue and runs them.

A job of the timetable (`cron.<name>`) is one SQL function; entry points of other modules are added
to `REGISTRARS`. A failing job is tried again with back-off by the queue itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import psycopg
import structlog
from psycopg import sql
from psycopg_pool import AsyncConnectionPool

from cron.timetable import Job as TimetableJob
from cron.timetable import load as load_timetable
from nessos import logs
from nessos.db import APPLICATION
from nessos.errors import DatabaseError, from_psycopg
from nessos.jobs import queue

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pgqueuer.core.executors import AbstractEntrypointExecutor, EntrypointExecutorParameters
    from pgqueuer.core.qm import QueueManager
    from pgqueuer.models import Job

    Pool = AsyncConnectionPool[psycopg.AsyncConnection]
    Registrar = Callable[[QueueManager, Pool], None]

log: structlog.stdlib.BoundLogger = structlog.get_logger("nessos.worker")

_MAX_ATTEMPTS: Final = 5
_FIND_FUNCTION: Final = """
select exists (
    select from pg_proc as p
    where p.pronamespace = to_regnamespace('app') and p.proname = %s
        and p.prokind = 'f' and p.pronargs = p.pronargdefaults
)
"""


def run(url: str, *, concurrency: int = 10, drain: bool = False) -> None:
    """Work until a signal says stop.

    Args:
        url: The database.
        concurrency: How many jobs at the same time.
        drain: Stop when the queue is empty.

    Raises:
        DatabaseError: The database does not answer, or has no queue.
    """
    from pgqueuer.errors import FailingListenerError  # noqa: PLC0415 - the command line starts fast

    logs.configure()
    try:
        asyncio.run(_run(url, concurrency=concurrency, drain=drain))
    except psycopg.Error as error:
        raise from_psycopg(error) from error
    except FailingListenerError as error:
        raise DatabaseError("the database has stopped sending notifications", "restart") from error
    except RuntimeError as error:
        if "missing" not in str(error):
            raise
        raise DatabaseError("the queue's schema is missing or old", "nessos db push") from error


async def run_function(pool: Pool, job: TimetableJob) -> str:
    """Call the SQL function of a job of the timetable.

    Args:
        pool: Connections to the database.
        job: The job.

    Returns:
        What the function said.

    Raises:
        DatabaseError: The function is not there.
        psycopg.Error: It failed.
    """
    async with pool.connection() as connection:
        found = await (await connection.execute(_FIND_FUNCTION, [job.function])).fetchone()
        if not found or not found[0]:
            raise DatabaseError(f"function app.{job.function}() does not exist", "nessos db push")
        call = sql.SQL("select {}()").format(sql.Identifier("app", job.function))
        row = await (await connection.execute(call)).fetchone()
    return str(row[0]) if row else "nothing"


def register_timetable(manager: QueueManager, pool: Pool) -> None:
    """Give the queue an entry point for every job of the timetable.

    Args:
        manager: The queue.
        pool: Connections to the database.
    """
    for job in load_timetable().jobs:
        # A timetable's job comes again: what failed for good stays in the queue's log only.
        manager.entrypoint(
            job.entrypoint,
            concurrency_limit=1,
            accepts_context=False,
            on_failure="delete",
            executor_factory=retrying,
        )(_call(pool, job))


def retrying(parameters: EntrypointExecutorParameters) -> AbstractEntrypointExecutor:
    """Have the queue try a failing job again: 1, 2, 4 … seconds later, five times.

    Args:
        parameters: The entry point.

    Returns:
        Its executor.
    """
    from pgqueuer.core.executors import (  # noqa: PLC0415 - the command line must start fast
        DatabaseRetryEntrypointExecutor,
    )

    return DatabaseRetryEntrypointExecutor(parameters, max_attempts=_MAX_ATTEMPTS)


REGISTRARS: list[Registrar] = [register_timetable]
"""What puts entry points into the worker; other modules append theirs."""


def _call(pool: Pool, job: TimetableJob) -> Callable[[Job], Awaitable[None]]:
    async def call(_job: Job) -> None:
        started = time.monotonic()
        try:
            said = await run_function(pool, job)
        except Exception as error:
            log.error("job failed", job=job.name, error=str(error))  # noqa: TRY400 - the queue keeps the trace
            raise
        duration = round((time.monotonic() - started) * 1000)
        log.info("job done", job=job.name, said=said, duration_ms=duration)

    return call


async def _run(url: str, *, concurrency: int, drain: bool) -> None:
    from pgqueuer.core.qm import QueueManager  # noqa: PLC0415 - the command line must start fast
    from pgqueuer.domain.types import QueueExecutionMode  # noqa: PLC0415

    connection, listener = [
        await psycopg.AsyncConnection.connect(
            url, autocommit=True, connect_timeout=10, application_name=f"{APPLICATION} {name}"
        )
        for name in ("worker", "worker listen")
    ]
    pool: Pool = AsyncConnectionPool(
        url,
        min_size=0,
        max_size=concurrency,
        max_idle=60,
        kwargs={"autocommit": True, "application_name": f"{APPLICATION} job"},
        open=False,
    )
    async with connection, listener, pool:
        manager = QueueManager(queue.queries(connection, listener))
        for register in REGISTRARS:
            register(manager, pool)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, manager.shutdown.set)
        log.info("started", entry_points=len(manager.entrypoint_registry))
        with contextlib.suppress(asyncio.CancelledError):
            await manager.run(
                batch_size=max(1, concurrency // 2),
                max_concurrent_tasks=max(2, concurrency),
                mode=QueueExecutionMode.drain if drain else QueueExecutionMode.continuous,
                dequeue_timeout=timedelta(seconds=30),
                shutdown_on_listener_failure=True,
            )
