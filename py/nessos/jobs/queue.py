"""The queue's own schema (pgqueuer, in schema `pgqueuer`): install, upgrade, state."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import class_row, scalar_row

from nessos.errors import from_psycopg

if TYPE_CHECKING:
    from pgqueuer.ports.driver import Driver
    from pgqueuer.queries import Queries

SCHEMA: Final = "pgqueuer"

LATE_S: Final = 300.0
"""A ready job that waits longer is a sign that too few workers run, or none of its class."""

_BACKLOG: Final = """
select
    coalesce(sum(ready), 0)::bigint as ready,
    coalesce(sum(later), 0)::bigint as later,
    coalesce(sum(running), 0)::bigint as running,
    coalesce(sum(held), 0)::bigint as held,
    coalesce(extract(epoch from max(oldest_wait) filter (where ready > 0)), 0)::float8
        as oldest_wait_s,
    array_agg(entrypoint order by entrypoint) filter (where latency_class is null) as unknown
from app.queue_state()
"""


def queries(driver: Driver, *, limit: int | None = None) -> Queries:
    """Bind pgqueuer's statements to our schema, whatever the environment says.

    Args:
        driver: The connection.
        limit: How many jobs a worker may hold at once.

    Returns:
        The statements.
    """
    # Imported here: the command line must start fast.
    from pgqueuer.adapters.persistence import qb  # noqa: PLC0415
    from pgqueuer.domain.settings import DBSettings  # noqa: PLC0415

    from nessos.jobs.owned import OwnedQueries  # noqa: PLC0415

    settings = DBSettings(db_schema=SCHEMA)
    return OwnedQueries(
        driver,
        limit=limit,
        qbe=qb.QueryBuilderEnvironment(settings),
        qbq=qb.QueryQueueBuilder(settings),
        qbs=qb.QuerySchedulerBuilder(settings),
    )


def release() -> str:
    """Name the installed pgqueuer, as the comment of its schema does.

    Returns:
        `pgqueuer <version>`.
    """
    return f"pgqueuer {version('pgqueuer')}"


def installed(connection: psycopg.Connection[Any]) -> str | None:
    """Read which pgqueuer a database's queue schema is of.

    Args:
        connection: The database.

    Returns:
        `pgqueuer <version>`; None when there is no queue schema.
    """
    with connection.cursor(row_factory=scalar_row) as cursor:
        found: str | None = cursor.execute(
            "select obj_description(to_regnamespace(%s), 'pg_namespace')", [SCHEMA]
        ).fetchone()
    return found


@dataclass(frozen=True)
class Backlog:
    """What there is to say of the queue as a whole.

    Attributes:
        ready: Jobs that are due and wait for a worker.
        later: Jobs that are not due.
        running: Jobs that a worker holds.
        held: Jobs that failed for good.
        oldest_wait_s: How long the first of the ready ones has been due.
        unknown: Names of jobs outside the catalogue, which no worker takes; None if there is none.
    """

    ready: int
    later: int
    running: int
    held: int
    oldest_wait_s: float
    unknown: list[str] | None

    @property
    def is_late(self) -> bool:
        """Whether a ready job waits longer than any worker at work would let it."""
        return self.ready > 0 and self.oldest_wait_s > LATE_S

    def __str__(self) -> str:
        parts = [
            f"{count} {name}"
            for name in ("ready", "later", "running", "held")
            if (count := getattr(self, name))
        ]
        if self.ready:
            parts.append(f"the oldest for {self.oldest_wait_s:.0f} s")
        return ", ".join(parts) or "empty"


def backlog(connection: psycopg.Connection[Any]) -> Backlog | None:
    """Read the state of the queue.

    Args:
        connection: The database.

    Returns:
        Its sums; None when the migrations that give them are not applied.
    """
    with connection.cursor(row_factory=scalar_row) as cursor:
        if not cursor.execute("select to_regproc('app.queue_state') is not null").fetchone():
            return None
    with connection.cursor(row_factory=class_row(Backlog)) as cursor:
        return cursor.execute(_BACKLOG).fetchone()


def install(url: str, *, dry_run: bool = False) -> str:
    """Bring the queue's schema to what the installed pgqueuer declares. Repeatable.

    Args:
        url: The database.
        dry_run: Only say what would be done.

    Returns:
        One line: what was done, or would be.

    Raises:
        DatabaseError: A statement failed.
    """
    return asyncio.run(_install(url, dry_run=dry_run))


def pending(url: str) -> list[str]:
    """Say what the queue's schema lacks.

    Args:
        url: The database.

    Returns:
        Statements that `install` would run; empty when it is current.

    Raises:
        DatabaseError: The database does not answer.
    """
    return asyncio.run(_pending(url))


async def _install(url: str, *, dry_run: bool) -> str:
    from pgqueuer.adapters.drivers.psycopg import PsycopgDriver  # noqa: PLC0415 - as above

    try:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            statements = queries(PsycopgDriver(connection))
            if not await statements.schema_is_installed():
                if dry_run:
                    return "queue schema: to be installed"
                await statements.install()
                await _mark(connection)
                return "queue schema installed"
            if dry_run:
                plan = await statements.plan_upgrade()
                return f"queue schema: {len(plan.statements)} statements to run"
            plan = await statements.apply_upgrade()
            await _mark(connection)
            return f"queue schema is current ({len(plan.statements)} statements run)"
    except psycopg.Error as error:
        raise from_psycopg(error) from error


async def _mark(connection: psycopg.AsyncConnection) -> None:
    """Write into the database which pgqueuer its schema is of, and add what it leaves open."""
    # Held jobs are listed per organisation, beside however many that wait.
    await connection.execute(
        sql.SQL(
            "create index if not exists pgqueuer_failed_idx on {} (id) where status = 'failed'"
        ).format(sql.Identifier(SCHEMA, "pgqueuer"))
    )
    # Its trigger function resolves names in the caller's search_path, which a caller may set.
    await connection.execute(
        sql.SQL("alter function {}() set search_path = ''").format(
            sql.Identifier(SCHEMA, "fn_pgqueuer_changed")
        )
    )
    await connection.execute(
        sql.SQL("comment on schema {} is {}").format(sql.Identifier(SCHEMA), sql.Literal(release()))
    )


async def _pending(url: str) -> list[str]:
    from pgqueuer.adapters.drivers.psycopg import PsycopgDriver  # noqa: PLC0415 - as above

    try:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            statements = queries(PsycopgDriver(connection))
            if not await statements.schema_is_installed():
                return ["install the queue's schema"]
            plan = await statements.plan_upgrade()
            return [str(statement) for statement in plan.statements]
    except psycopg.Error as error:
        raise from_psycopg(error) from error
