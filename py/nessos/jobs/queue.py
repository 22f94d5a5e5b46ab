"""The queue's own schema (pgqueuer, in schema `pgqueuer`): install, upgrade, state."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import psycopg

from nessos.errors import from_psycopg

if TYPE_CHECKING:
    from pgqueuer.queries import Queries

SCHEMA: Final = "pgqueuer"


def queries(connection: psycopg.AsyncConnection) -> Queries:
    """Bind pgqueuer's statements to our schema, whatever the environment says.

    Args:
        connection: An autocommit connection.

    Returns:
        The statements.
    """
    # Imported here: the command line must start fast.
    from pgqueuer.adapters.drivers.psycopg import PsycopgDriver  # noqa: PLC0415
    from pgqueuer.adapters.persistence import qb  # noqa: PLC0415
    from pgqueuer.domain.settings import DBSettings  # noqa: PLC0415
    from pgqueuer.queries import Queries  # noqa: PLC0415

    settings = DBSettings(db_schema=SCHEMA)
    return Queries(
        PsycopgDriver(connection),
        qbe=qb.QueryBuilderEnvironment(settings),
        qbq=qb.QueryQueueBuilder(settings),
        qbs=qb.QuerySchedulerBuilder(settings),
    )


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
    try:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            statements = queries(connection)
            if not await statements.schema_is_installed():
                if not dry_run:
                    await statements.install()
                return "queue schema installed" if not dry_run else "queue schema: to be installed"
            if dry_run:
                plan = await statements.plan_upgrade()
                return f"queue schema: {len(plan.statements)} statements to run"
            plan = await statements.apply_upgrade()
            return f"queue schema upgraded ({len(plan.statements)} statements)"
    except psycopg.Error as error:
        raise from_psycopg(error) from error


async def _pending(url: str) -> list[str]:
    try:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            statements = queries(connection)
            if not await statements.schema_is_installed():
                return ["install the queue's schema"]
            plan = await statements.plan_upgrade()
            return [str(statement) for statement in plan.statements]
    except psycopg.Error as error:
        raise from_psycopg(error) from error
