"""What `cron_runs` says of a job that the timetable has fired; other jobs are not its business."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import psycopg
import structlog

if TYPE_CHECKING:
    from nessos.jobs.entrypoint import Pool, Task

log: structlog.stdlib.BoundLogger = structlog.get_logger("nessos.worker")

_BEGIN: Final = "select app.begin_cron_run(%s) as begins"
_FINISH: Final = "select app.finish_cron_run(%s, %s, %s)"
_FAIL: Final = "select app.fail_cron_run(%s, %s, %s)"


async def begin(task: Task) -> bool:
    """Note that an attempt begins.

    Args:
        task: The job.

    Returns:
        Whether there is anything to do: not when the worker died between the note that the run has
        succeeded and the end of its job.
    """
    row = await _note(task.pool, _BEGIN, [task.payload.get("run_id")])
    return row is None or bool(row["begins"])


async def finish(task: Task, said: str | None) -> None:
    """Note that the run has succeeded, unless the handler has done so itself.

    Args:
        task: The job.
        said: What its handler said.
    """
    await _note(task.pool, _FINISH, [task.payload.get("run_id"), None, said])


async def fail(task: Task, error: Exception, *, is_final: bool) -> None:
    """Note that an attempt has failed. A database that is away does not hear of it.

    Args:
        task: The job.
        error: Why.
        is_final: Whether the job is held.
    """
    said = str(error) or type(error).__name__
    try:
        await _note(task.pool, _FAIL, [task.payload.get("run_id"), said, is_final])
    except psycopg.Error as lost:
        log.warning("run not noted", job=task.job_id, error=str(lost).strip())


async def _note(pool: Pool, statement: str, arguments: list[object]) -> dict[str, Any] | None:
    if arguments[0] is None:
        return None
    async with pool.connection() as connection:
        return await (await connection.execute(statement, arguments)).fetchone()
