"""The steps of workflows: each job has the database do one, with the job of the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nessos.jobs.entrypoint import Entrypoint

if TYPE_CHECKING:
    from nessos.jobs.entrypoint import Task

_STEP: Final = """
select app.run_workflow_step(
    org => %(org_id)s, run => %(workflow_run_id)s, step => %(step)s, attempt => %(attempt)s
) as said
"""


async def run_step(task: Task) -> str:
    """Do a step of a run; one that was done before is left alone.

    Args:
        task: Its payload names the run, the step and the attempt.

    Returns:
        What came of it.
    """
    async with task.pool.connection() as connection:
        cursor = await connection.execute(_STEP, {**task.payload, "org_id": task.org_id})
        row = await cursor.fetchone()
    return str(row["said"]) if row else ""


ENTRYPOINTS: Final = (Entrypoint("workflow.step", run_step),)
