"""The synchronisation of the rates: window by window, each stored with its mark in one transaction.

What is to be read, and what a run that ended early has left, is the database's to say
(`app.start_bcb_sync`). A series that fails does not keep the others back.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import psycopg
import structlog
from psycopg.types.json import Jsonb

from nessos.bcb.client import windows
from nessos.db import translated
from nessos.errors import RuleError, UpstreamError, WaitError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from datetime import date
    from uuid import UUID

    from nessos.bcb.client import Bank
    from nessos.errors import NessosError
    from nessos.jobs.entrypoint import Pool

    Connection = psycopg.AsyncConnection[dict[str, Any]]

log: structlog.stdlib.BoundLogger = structlog.get_logger("nessos.bcb")

_LOCK: Final = "select pg_try_advisory_lock(hashtextextended('app.sync_bcb', 0)) as is_ours"
_UNLOCK: Final = "select pg_advisory_unlock(hashtextextended('app.sync_bcb', 0))"
_START: Final = """
select l.*, s.key, s.source
from app.start_bcb_sync(%s, %s, %s) as l
inner join public.bcb_series as s on s.series = l.series
order by s.source desc, s.key
"""
_STORE: Final = "select app.store_bcb_window(%s, %s, %s, %s)"
_FAIL: Final = "select app.fail_bcb_sync(%s, %s, %s)"
_RESULT: Final = """
select
    s.key, s.series, l.from_on, l.to_on, l.rows_read as seen, l.rows_created as created,
    l.rows_revised as revised, l.rows_read - l.rows_created - l.rows_revised as unchanged,
    s.last_on, coalesce(s.value, s.sell) as last_value, s.unit, s.is_late, l.status, l.error
from public.bcb_sync_log as l
inner join public.bcb_series_status as s on s.series = l.series
where l.run_id = %s
order by s.source desc, s.key
"""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        lines: Per series: key, series, from_on, to_on, how many values were seen, created, revised
            and unchanged, the last value with its day, status and error.
        failures: What each series that failed has failed for, by key.
    """

    lines: list[dict[str, Any]]
    failures: dict[str, NessosError]


@dataclass(frozen=True)
class _Run:
    """One run at work.

    Attributes:
        connection: Holds the lock; the run's statements go over it.
        bank: The Banco Central.
        since: First day asked for.
        report: Told of every window.
    """

    connection: Connection
    bank: Bank
    since: date | None
    report: Callable[[str], None]

    async def carry_out(self, row: dict[str, Any]) -> NessosError | None:
        """Read a series window by window, and store each; gives what it failed for."""
        try:
            for first, last in _windows(row):
                await self._store(row, last, await self._read(row, first, last))
        except (UpstreamError, RuleError) as error:
            await self._fail(row, error)
            return error
        return None

    async def rehearse(self, row: dict[str, Any]) -> tuple[NessosError | None, dict[str, Any]]:
        """Read a series and compare it with what is stored; gives failure and result."""
        failure: NessosError | None = None
        answers: list[tuple[date, list[dict[str, str]]]] = []
        try:
            for first, last in _windows(row):
                answers.append((last, await self._read(row, first, last)))
        except UpstreamError as error:
            failure = error
        # Only now, so that no transaction is open while the Banco Central thinks.
        async with self.connection.transaction(force_rollback=True):
            await _fetch(self.connection, _START, row["run_id"], self.since, [row["series"]])
            try:
                async with self.connection.transaction():
                    for last, rates in answers:
                        await self._store(row, last, rates)
            except RuleError as error:
                failure = error
            if failure:
                await self._fail(row, failure)
            return failure, (await _fetch(self.connection, _RESULT, row["run_id"]))[0]

    async def _read(self, row: dict[str, Any], first: date, last: date) -> list[dict[str, str]]:
        self.report(f"{row['key']} {first} to {last}")
        return await self.bank.read(
            source=row["source"], series=row["series"], first=first, last=last
        )

    async def _store(self, row: dict[str, Any], last: date, rates: list[dict[str, str]]) -> None:
        with translated():
            await self.connection.execute(
                _STORE, (row["run_id"], row["series"], last, Jsonb(rates))
            )

    async def _fail(self, row: dict[str, Any], error: NessosError) -> None:
        log.warning("series not synchronised", series=row["key"], error=error.message)
        await self.connection.execute(_FAIL, (row["run_id"], row["series"], error.message))


def _silent(_done: int, _total: int, _what: str) -> None:
    """Report nothing."""


async def synchronize(  # noqa: PLR0913 - what a run can be told
    *,
    pool: Pool,
    bank: Bank,
    run: UUID | None = None,
    since: date | None = None,
    series: Sequence[str] | None = None,
    dry_run: bool = False,
    report: Callable[[int, int, str], None] = _silent,
) -> Outcome:
    """Read what is new or revised, and store it.

    Args:
        pool: Connections to the database.
        bank: The Banco Central.
        run: The run to open, or to go on with; None for a new one, or for the backfill of the same
            `since` that ended early within a day.
        since: First day to read; None: from the last stored value of each series, with an overlap.
        series: Keys or codes; None for all.
        dry_run: Read and compare, store nothing.
        report: Told before each window how many are done, of how many, and what comes; and at the
            end.

    Returns:
        The outcome; a series that failed has stored the windows before.

    Raises:
        WaitError: Another process synchronises the rates.
        RuleError: A series does not exist, or `since` lies in the future.
        DatabaseError: The database cannot be reached.
    """
    with translated():
        async with _alone(pool) as connection:
            # A run with a name of its own: a rehearsal takes up nothing that was left unfinished.
            wanted = (uuid4() if dry_run else run, since, list(series) if series else None)
            async with connection.transaction(force_rollback=dry_run):
                plan = await _fetch(connection, _START, *wanted)
            total = sum(len(list(_windows(row))) for row in plan)
            places = count()
            this = _Run(
                connection, bank, since, lambda what: report(min(next(places), total), total, what)
            )
            lines: list[dict[str, Any]] = []
            failures: dict[str, NessosError] = {}
            for row in plan:
                if dry_run:
                    failure, line = await this.rehearse(row)
                    lines.append(line)
                else:
                    failure = await this.carry_out(row)
                if failure:
                    failures[row["key"]] = failure
            report(total, total, "done")
            if not dry_run and plan:
                lines = await _fetch(connection, _RESULT, plan[0]["run_id"])
            return Outcome(lines, failures)


def _windows(row: dict[str, Any]) -> Iterator[tuple[date, date]]:
    """Give the windows of a series that its run still has to read."""
    stored_to = row["stored_to"]
    return windows(
        source=row["source"],
        first=stored_to + timedelta(days=1) if stored_to else row["from_on"],
        last=row["to_on"],
    )


@asynccontextmanager
async def _alone(pool: Pool) -> AsyncIterator[Connection]:
    """Give a connection that holds the lock of the synchronisation."""
    async with pool.connection() as connection:
        if not (await _fetch(connection, _LOCK))[0]["is_ours"]:
            raise WaitError(
                "bcb: another process synchronises the rates",
                datetime.now(UTC) + timedelta(minutes=2),
            )
        try:
            yield connection
        finally:
            try:
                await connection.execute(_UNLOCK)
            except psycopg.Error:
                # Not back into the pool with the lock.
                await connection.close()


async def _fetch(connection: Connection, query: str, *parameters: object) -> list[dict[str, Any]]:
    return await (await connection.execute(query, parameters)).fetchall()
