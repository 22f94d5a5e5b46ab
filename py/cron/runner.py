"""The runner: at each job's hour, its runs in the queue.

What is due is asked of the database: its clock, and how far each job is. So a runner that was down,
or whose database was away, catches up the last fire time that it missed; and of several runners
one fires.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from typing import TYPE_CHECKING, Any, Final

import psycopg
import structlog
from apscheduler.executors.debug import DebugExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.interval import IntervalTrigger
from psycopg import sql
from psycopg.rows import scalar_row

from cron.timetable import load
from nessos import logs
from nessos.db import APPLICATION, KEEPALIVE, translated

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from cron.timetable import Job, Timetable

log: structlog.stdlib.BoundLogger = structlog.get_logger("nessos.cron")

HEARTBEAT_S: Final = 10
"""How often the runner looks whether anything is due that it has missed, in seconds."""

_PROGRESS: Final = """
select j.job, j.last_fire_at, app.now() as now from app.follow_cron_jobs(%s) as j
"""


class Trigger(BaseTrigger):  # type: ignore[misc] # APScheduler has no types
    """Tells APScheduler when a job is due next.

    Args:
        job: The job.
    """

    def __init__(self, job: Job) -> None:
        self._job = job

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime:
        """Give the next fire time; what has passed meanwhile is one fire time.

        Args:
            previous: The last one it was asked for.
            now: The moment.

        Returns:
            The first after both.
        """
        return self._job.next_fire_time(max(previous or now, now))


class Runner:
    """Fires what is due.

    Args:
        url: The database.
        timetable: The jobs.
    """

    def __init__(self, url: str, timetable: Timetable) -> None:
        self._url = url
        self._timetable = timetable
        self._connection: psycopg.Connection | None = None

    def fire_due(self) -> None:
        """Fire each job whose fire time has come since the last one it was fired for.

        A database that does not answer is asked again with the next heartbeat.
        """
        try:
            connection = self._connect()
            names = [job.name for job in self._timetable.jobs]
            for name, last_fire_at, now in connection.execute(_PROGRESS, [names]).fetchall():
                job = self._timetable.job(name)
                if job.next_fire_time(last_fire_at) <= now:
                    self._fire(connection, job, job.last_fire_time(now))
        except psycopg.OperationalError as error:
            log.warning("the database does not answer", error=str(error).strip())
            self.close()
        except psycopg.Error as error:
            log.error("the timetable cannot be followed", error=error.diag.message_primary)  # noqa: TRY400 - the database's words say it

    def close(self) -> None:
        """Disconnect."""
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                self._connection.close()
            self._connection = None

    def _fire(self, connection: psycopg.Connection, job: Job, at: datetime) -> None:
        statement = sql.SQL("select app.fire_cron_job(%s, %s, %s, {})").format(organizations(job))
        said = log.bind(job=job.name, scheduled_at=at.isoformat())
        try:
            row = connection.execute(statement, [job.name, at, job.entrypoint]).fetchone()
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            # The others are fired; this one is tried again with the next heartbeat.
            said.error("job not fired", error=error.diag.message_primary)
            return
        if row and row[0]:
            said.info("job fired", runs=row[0])

    def _connect(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                self._url, autocommit=True, application_name=f"{APPLICATION} cron", **KEEPALIVE
            )
        return self._connection


def organizations(job: Job, org: UUID | None = None) -> sql.Composable:
    """Say for whom a job runs.

    Args:
        job: The job.
        org: Only for this organisation; None for all that it concerns.

    Returns:
        An array of SQL; null for a job of the installation.
    """
    if job.scope == "installation":
        return sql.NULL
    if org is not None:
        return sql.SQL("array[{}]::uuid[]").format(org)
    return sql.SQL("{}()").format(sql.Identifier("app", job.organizations or "active_org_ids"))


def run(url: str) -> None:
    """Run the timetable until a signal says stop.

    Args:
        url: The database.
    """
    logs.configure()
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    timetable = load()
    runner = Runner(url, timetable)
    scheduler = BackgroundScheduler(
        executors={"default": DebugExecutor()},  # runs in its thread: one look at a time
        timezone=timetable.time_zone,
        job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1},
    )
    for job in timetable.jobs:
        scheduler.add_job(runner.fire_due, Trigger(job), id=job.name)
    scheduler.add_job(runner.fire_due, IntervalTrigger(seconds=HEARTBEAT_S), id="heartbeat")

    # A look that has begun is finished: stopping APScheduler inside of one would break it.
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    runner.fire_due()
    log.info("started", jobs=len(timetable.jobs), time_zone=timetable.time_zone)
    scheduler.start()
    stop.wait()
    scheduler.shutdown()
    runner.close()
    log.info("stopped")


def fire(connection: psycopg.Connection[Any], job: Job, *, org: UUID | None = None) -> int:
    """Fire a job now, by hand: pauses are no matter.

    Args:
        connection: The database.
        job: The job.
        org: Only for this organisation; None for all that it concerns.

    Returns:
        How many runs were put into the queue: one whose run before is waiting or running gets none.

    Raises:
        DatabaseError: The queue cannot be reached, or refuses.
    """
    statement = sql.SQL("select app.enqueue_cron_runs(%s, app.now(), %s, {})").format(
        organizations(job, org)
    )
    with translated(), connection.cursor(row_factory=scalar_row) as cursor:
        runs: int = cursor.execute(statement, [job.name, job.entrypoint]).fetchone() or 0
    return runs
