"""The jobs of the timetable, `cron.<name>`: each calls one SQL function."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from psycopg import sql

from cron.timetable import load
from nessos.errors import GiveUpError
from nessos.jobs.entrypoint import Entrypoint

if TYPE_CHECKING:
    from nessos.jobs.entrypoint import Task

_FIND_FUNCTION: Final = """
select exists (
    select from pg_proc as p
    where p.pronamespace = to_regnamespace('app') and p.proname = %s
        and p.prokind = 'f' and p.pronargs = p.pronargdefaults
) as is_there
"""


def entrypoints() -> tuple[Entrypoint, ...]:
    """Give an entry point for every job of the timetable.

    Returns:
        The entry points.
    """
    return tuple(
        Entrypoint(job.entrypoint, partial(_call, job.function), timeout_s=1800, concurrency=1)
        for job in load().jobs
    )


async def _call(function: str, task: Task) -> str:
    async with task.pool.connection() as connection:
        found = await (await connection.execute(_FIND_FUNCTION, [function])).fetchone()
        if not found or not found["is_there"]:
            raise GiveUpError(f"function app.{function}() does not exist", "nessos db push")
        call = sql.SQL("select {}() as said").format(sql.Identifier("app", function))
        row = await (await connection.execute(call)).fetchone()
    return str(row["said"]) if row else "nothing"
