"""The worker's side of the timetable: its SQL functions are called here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from psycopg import sql

from cron.timetable import load
from nessos.errors import GiveUpError, UsageError
from nessos.jobs.entrypoint import Entrypoint

if TYPE_CHECKING:
    from nessos.jobs.entrypoint import Task

_FINISH: Final = "select app.finish_cron_run(%s, %s, %s)"


async def call_function(task: Task) -> str:
    """Call the SQL function of a job of the timetable, and write with it what came of it.

    Args:
        task: Its payload names the job; the function stands in the timetable.

    Returns:
        What the function said.

    Raises:
        GiveUpError: The timetable has no such job any more.
        psycopg.Error: The function failed.
    """
    try:
        job = load().job(str(task.payload.get("job")))
    except UsageError as error:
        raise GiveUpError(error.message, error.way_out) from error
    if job.function is None or (job.scope == "organization") != (task.org_id is not None):
        raise GiveUpError(f"{job.name} is another kind of job now", "nessos cron fire")
    arguments = [] if task.org_id is None else [task.org_id]
    statement = sql.SQL("select {}({}) as said").format(
        sql.Identifier("app", job.function), sql.SQL(", ").join(map(sql.Literal, arguments))
    )
    async with task.pool.connection() as connection, connection.transaction():
        row = await (await connection.execute(statement)).fetchone()
        said: Any = row and row["said"]
        rows = said if isinstance(said, int) else None
        outcome = None if rows is not None or not said else _text(said)
        await connection.execute(_FINISH, [task.payload.get("run_id"), rows, outcome])
    return f"{job.name}: {_text(said)}"


def _text(said: object) -> str:
    return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False, default=str)


ENTRYPOINTS: Final = (
    Entrypoint("cron.run", call_function, timeout_s=900),
    # An organisation's share of the nightly work leaves the worker's other hands free.
    Entrypoint("cron.run_organization", call_function, timeout_s=300, concurrency=4),
)
