"""The runner: at each job's hour, one row in the queue.

Two runners may run at once: whoever comes second finds in the queue's log that this hour's job has
been queued already. A runner that cannot reach the database keeps what is due until it can.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

import psycopg
import structlog
from apscheduler.events import EVENT_JOB_EXECUTED, JobExecutionEvent
from apscheduler.executors.base import BaseExecutor
from apscheduler.schedulers.blocking import BlockingScheduler
from apscheduler.triggers.interval import IntervalTrigger

from cron.timetable import Job, load
from nessos import logs
from nessos.db import APPLICATION, translated

if TYPE_CHECKING:
    from types import FrameType

log: structlog.stdlib.BoundLogger = structlog.get_logger("nessos.cron")

HEARTBEAT_S: Final = 10
"""How often the runner shows the database that it lives, in seconds."""

_CLOCK_SKEW: Final = timedelta(seconds=30)

_ENQUEUE: Final = """
select app.enqueue(
    entrypoint => %(entrypoint)s,
    payload => %(payload)s::jsonb,
    dedupe_key => %(dedupe_key)s
)
"""

_ENQUEUE_ONCE: Final = (
    _ENQUEUE
    + """
where not exists (
    select from pgqueuer.pgqueuer_log as l
    where l.entrypoint = %(entrypoint)s and l.status = 'queued' and l.created >= %(since)s
)
"""
)


@dataclass(frozen=True)
class _Due:
    """One job at one hour."""

    job: Job
    fire_time: datetime

    def parameters(self) -> dict[str, object]:
        at = self.fire_time.isoformat(timespec="seconds")
        return {
            "entrypoint": self.job.entrypoint,
            "payload": json.dumps({"job": self.job.name, "fire_time": at}),
            "dedupe_key": f"{self.job.entrypoint}@{at}",
            "since": self.fire_time - _CLOCK_SKEW,
        }


class Enqueuer(BaseExecutor):  # type: ignore[misc] # APScheduler has no types
    """APScheduler's executor that runs nothing: it writes into the queue, with the exact hour.

    Args:
        url: The database.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._connection: psycopg.Connection | None = None
        self._due: list[_Due] = []

    def beat(self) -> None:
        """Show that the runner lives, and queue what could not be queued before."""
        try:
            connection = self._connect()
            connection.execute("select 1")
            while self._due:
                self._enqueue(connection, self._due[0])
                self._due.pop(0)
        except psycopg.OperationalError as error:
            log.warning("the database does not answer", error=str(error).strip())
            self._disconnect()

    def shutdown(self, wait: bool = True) -> None:  # noqa: ARG002, FBT001, FBT002 - APScheduler's
        """Close the connection."""
        self._disconnect()

    def _do_submit_job(self, job: Any, run_times: list[datetime]) -> None:  # noqa: ANN401 - untyped
        if isinstance(job.args[0], Job):
            self._due.append(_Due(job.args[0], run_times[-1]))
        self.beat()
        events = [JobExecutionEvent(EVENT_JOB_EXECUTED, job.id, None, at) for at in run_times]
        self._run_job_success(job.id, events)

    def _enqueue(self, connection: psycopg.Connection, due: _Due) -> None:
        try:
            with connection.transaction():
                # Two runners at once: one looks and writes, then the other.
                connection.execute(
                    "select pg_advisory_xact_lock(hashtextextended('nessos cron', 0))"
                )
                row = connection.execute(_ENQUEUE_ONCE, due.parameters()).fetchone()
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            log.error("job not queued", job=due.job.name, error=error.diag.message_primary)  # noqa: TRY400 - the database's words say it
            return
        number = row[0] if row else None
        log.info("job queued" if number else "job queued before", job=due.job.name, id=number)

    def _connect(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                self._url,
                autocommit=True,
                connect_timeout=10,
                application_name=f"{APPLICATION} cron",
            )
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                self._connection.close()
            self._connection = None


def run(url: str) -> None:
    """Run the timetable until a signal says stop.

    Args:
        url: The database.
    """
    logs.configure()
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    timetable = load()
    enqueuer = Enqueuer(url)
    scheduler = BlockingScheduler(
        executors={"default": enqueuer},
        timezone=timetable.time_zone,
        job_defaults={"coalesce": True, "misfire_grace_time": 3600, "max_instances": 1},
    )
    for job in timetable.jobs:
        for number, trigger in enumerate(job.triggers()):
            scheduler.add_job(_nothing, trigger, args=[job], id=f"{job.name}/{number}")
    scheduler.add_job(_nothing, IntervalTrigger(seconds=HEARTBEAT_S), args=[None], id="heartbeat")

    def stop(_number: int, _frame: FrameType | None) -> None:
        scheduler.shutdown(wait=False)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    enqueuer.beat()
    log.info("started", jobs=len(timetable.jobs), time_zone=timetable.time_zone)
    scheduler.start()


def fire(url: str, name: str) -> int | None:
    """Put one job into the queue now.

    Args:
        url: The database.
        name: The job's name.

    Returns:
        The queue's number for it; None when the same second has one already.

    Raises:
        UsageError: There is no such job.
        DatabaseError: The queue cannot be reached.
    """
    timetable = load()
    due = _Due(timetable.job(name), datetime.now(ZoneInfo(timetable.time_zone)))
    with translated(), psycopg.connect(url, application_name=f"{APPLICATION} cli") as connection:
        row = connection.execute(_ENQUEUE, due.parameters()).fetchone()
    return row[0] if row else None


def _nothing(_job: Job | None) -> None:
    """Stand for the work, which the worker does."""
    time.sleep(0)
