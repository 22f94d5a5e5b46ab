"""The worker: takes jobs of its latency classes from the queue and runs them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import psycopg
import structlog

from nessos import logs
from nessos.errors import DatabaseError, from_psycopg
from nessos.jobs import connections, queue
from nessos.jobs.catalogue import entrypoints
from nessos.jobs.executor import Executor, Shift

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pgqueuer.core.qm import QueueManager

    from nessos.http import Http
    from nessos.jobs.entrypoint import Entrypoint, Pool

log: structlog.stdlib.BoundLogger = structlog.get_logger("nessos.worker")

CLASSES: Final = ("high_priority", "default", "low_priority")
"""The latency classes of `app.job_types`."""

_POLL: Final = timedelta(seconds=5)
"""How long an idle worker trusts in being notified."""

_GRACE_S: Final = 25.0
"""How long jobs may finish after the worker was asked to stop; then they go back to the queue."""

_LIMIT_S: Final = 29.0

_CLASSES: Final = "select t.entrypoint, t.latency_class from app.job_types as t"


@dataclass(frozen=True)
class Options:
    """How a worker works.

    Attributes:
        classes: The latency classes it takes jobs of.
        concurrency: How many jobs at the same time.
        drain: Stop when the queue is empty.
    """

    classes: Sequence[str] = CLASSES
    concurrency: int = 10
    drain: bool = False


def run(url: str, *, options: Options, known: Iterable[Entrypoint] | None = None) -> None:
    """Work until a signal says stop.

    Args:
        url: The database.
        options: How.
        known: The entry points; those of the catalogue when None.

    Raises:
        DatabaseError: The database does not answer at the start, or has no queue.
    """
    logs.configure()
    # The executor tells how a job went, with fields.
    logging.getLogger("pgqueuer").addFilter(
        lambda record: not str(record.msg).startswith("Exception while processing")
    )
    try:
        asyncio.run(_run(url, options, tuple(entrypoints() if known is None else known)))
    except psycopg.Error as error:
        raise from_psycopg(error) from error
    except RuntimeError as error:
        if "missing" not in str(error):
            raise
        raise DatabaseError("the queue's schema is missing or old", "nessos db push") from error


async def _run(url: str, options: Options, known: Sequence[Entrypoint]) -> None:
    from pgqueuer.core.qm import QueueManager  # noqa: PLC0415 - the command line must start fast
    from pgqueuer.domain.types import QueueExecutionMode  # noqa: PLC0415

    line = connections.Line(url, name="worker")
    await line.open()
    async with (
        contextlib.aclosing(line),
        connections.pool(url, size=options.concurrency + 2) as pool,
        _http(pool) as http,
    ):
        manager = QueueManager(queue.queries(line))
        shift = Shift(pool, http)
        await _register(manager, shift, options, known)
        _stop_on_signals(manager, shift)
        log.info("started", entry_points=len(manager.entrypoint_registry), queues=options.classes)
        await manager.run(
            dequeue_timeout=_POLL,
            batch_size=max(1, options.concurrency // 2),
            max_concurrent_tasks=max(2, options.concurrency),
            mode=QueueExecutionMode.drain if options.drain else QueueExecutionMode.continuous,
        )
    log.info("stopped")


def _http(pool: Pool) -> contextlib.AbstractAsyncContextManager[Http]:
    try:
        from nessos.http import client  # noqa: PLC0415 - as above
    except ModuleNotFoundError:
        return contextlib.nullcontext()
    return client(pool)


async def _register(
    manager: QueueManager, shift: Shift, options: Options, known: Sequence[Entrypoint]
) -> None:
    """Give the queue the entry points of the worker's classes."""
    async with shift.pool.connection() as connection:
        cursor = await connection.execute(_CLASSES)
        classes = {row["entrypoint"]: row["latency_class"] async for row in cursor}
    for one in known:
        if one.name not in classes:
            log.error("entry point not in app.job_types", entrypoint=one.name)
        elif classes[one.name] in options.classes:
            manager.entrypoint(
                one.name,
                concurrency_limit=one.concurrency,
                accepts_context=False,
                on_failure="hold",
            )(Executor(one, shift).execute)


def _stop_on_signals(manager: QueueManager, shift: Shift) -> None:
    """Have the first signal finish what runs, a second one return it at once."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if manager.shutdown.is_set():
            shift.end()
            return
        log.info("stopping", running=len(shift.running))
        manager.shutdown.set()
        loop.call_later(_GRACE_S, shift.end)
        # What does not let go, a thread or a dead connection, does not keep the worker. Jobs still
        # in hand run again elsewhere when their heartbeat has been missed.
        loop.call_later(_LIMIT_S, os._exit, 0)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
