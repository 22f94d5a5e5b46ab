"""The worker: takes jobs of its latency classes from the queue and runs them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import psycopg
import structlog

from nessos import logs
from nessos.errors import DatabaseError, from_psycopg
from nessos.http import client
from nessos.jobs import connections, queue
from nessos.jobs.catalogue import entrypoints
from nessos.jobs.executor import Executor, Shift
from nessos.jobs.watch import Metrics, serve

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pgqueuer.core.qm import QueueManager

    from nessos.jobs.entrypoint import Entrypoint, Pool

log: structlog.stdlib.BoundLogger = structlog.get_logger("nessos.worker")

CLASSES: Final = ("high_priority", "default", "low_priority")
"""The latency classes of `app.job_types`."""

_POLL: Final = timedelta(seconds=5)
"""How long an idle worker trusts in being notified."""

_FAREWELL_S: Final = 4.0
"""How long returning what is not done may take."""

_IDLE_S: Final = 1.0
_BUSY_S: Final = 0.1
"""How often a worker looks for what waits: when nothing is due, and when more is than fits."""

_CLASSES: Final = "select t.entrypoint, t.latency_class from app.job_types as t"
_RECOVER: Final = "select app.recover_jobs(%s)"
_RELEASE: Final = "select is_more from app.release_waiting_jobs(%(entrypoints)s)"
_IS_DRAINED: Final = """
select not exists (
    select from pgqueuer.pgqueuer as q
    where q.entrypoint = any(%(entrypoints)s)
        and (
            q.status = 'picked'
            -- An attempt that is to come soon is waited for.
            or (q.status = 'queued' and q.execute_after < now() + interval '1 minute')
        )
) and not exists (
    select from app.waiting_jobs as w
    where w.entrypoint = any(%(entrypoints)s) and w.due_at <= app.now()
) as is_drained
"""


@dataclass(frozen=True)
class Options:
    """How a worker works.

    Attributes:
        classes: The latency classes it takes jobs of.
        concurrency: How many jobs at the same time.
        drain: Stop when nothing is ready any more.
        grace_s: How long jobs may finish once it was asked to stop; then they go back to the queue.
        heartbeat_s: After how long without a sign of life its jobs run elsewhere.
        address: Where it answers probes; None for not at all.
    """

    classes: Sequence[str] = CLASSES
    concurrency: int = 10
    drain: bool = False
    grace_s: float = 25.0
    heartbeat_s: float = 30.0
    address: tuple[str, int] | None = None


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

    line = connections.Line(url, name="worker")
    await line.open()
    async with (
        contextlib.aclosing(line),
        # Two more for the worker itself.
        connections.pool(url, size=options.concurrency + 2) as pool,
        client(pool) as http,
        contextlib.AsyncExitStack() as exits,
    ):
        shift = Shift(pool, http, Metrics())
        manager = QueueManager(queue.queries(line, limit=options.concurrency))
        await _register(manager, shift, options, known)
        _stop_on_signals(manager, shift, options.grace_s)
        if options.address:
            exits.enter_context(serve(options.address, shift.metrics, partial(_ask, pool)))
        keeper = asyncio.create_task(_keep(pool, options, manager))
        exits.callback(keeper.cancel)
        log.info("started", entry_points=len(manager.entrypoint_registry), queues=options.classes)
        await manager.run(
            dequeue_timeout=_POLL,
            batch_size=options.concurrency,
            heartbeat_timeout=timedelta(seconds=options.heartbeat_s),
        )
    log.info("stopped")


async def _keep(pool: Pool, options: Options, manager: QueueManager) -> None:
    """Do what all workers do for all: release what waits, recover what a dead one held."""
    known = {"entrypoints": [str(name) for name in manager.entrypoint_registry]}
    while True:
        is_more = False
        try:
            async with pool.connection() as connection:
                await connection.execute(_RECOVER, [timedelta(seconds=options.heartbeat_s)])
                row = await (await connection.execute(_RELEASE, known)).fetchone()
                is_more = bool(row and row["is_more"])
                if options.drain:
                    row = await (await connection.execute(_IS_DRAINED, known)).fetchone()
                    if row and row["is_drained"]:
                        manager.shutdown.set()
        except psycopg.Error as error:
            log.warning("queue not kept", error=str(error).strip())
        await asyncio.sleep(_BUSY_S if is_more or options.drain else _IDLE_S)


async def _ask(pool: Pool, question: str) -> list[dict[str, Any]]:
    async with pool.connection() as connection:
        return await (await connection.execute(question.encode())).fetchall()


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


def _stop_on_signals(manager: QueueManager, shift: Shift, grace_s: float) -> None:
    """Have the first signal finish what runs, a second one return it at once."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if manager.shutdown.is_set():
            shift.end()
            return
        log.info("stopping", running=len(shift.running))
        manager.shutdown.set()
        loop.call_later(grace_s, shift.end)
        # What does not let go, a thread or a dead connection, does not keep the worker. Jobs still
        # in hand run again elsewhere when their heartbeat has been missed.
        loop.call_later(grace_s + _FAREWELL_S, os._exit, 0)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
