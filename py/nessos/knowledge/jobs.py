"""The jobs `knowledge.index`, one per text, and `knowledge.sweep` for what slipped."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from nessos.ai.gateway import Gateway
from nessos.errors import GiveUpError, NessosError, RuleError, UpstreamError, WaitError
from nessos.jobs.entrypoint import INTEGRATION, Entrypoint, Task
from nessos.knowledge.index import index_document, index_text_only

_SWEEP: Final = "select app.sweep_knowledge(%s) as found"


async def index(task: Task) -> str:
    """Index the document that the job names. When that is given up, its text at least.

    Args:
        task: The job: document_id and the content_hash it was enqueued for.

    Returns:
        What was done.

    Raises:
        GiveUpError: The job names no document.
    """
    if task.org_id is None:
        raise GiveUpError("the job names no organisation")
    document_id = UUID(str(task.payload["document_id"]))
    asked_hash = str(task.payload["content_hash"])
    try:
        return await index_document(
            task.pool,
            Gateway(task.pool, task.http),
            org_id=task.org_id,
            document_id=document_id,
            asked_hash=asked_hash,
        )
    except Exception as error:
        if not _comes_back_soon(task, error):
            await index_text_only(
                task.pool,
                org_id=task.org_id,
                document_id=document_id,
                asked_hash=asked_hash,
                error=_said(error),
            )
        raise


async def sweep(task: Task) -> str:
    """Enqueue what slipped, and what is of another model than the current one.

    Args:
        task: The job.

    Returns:
        How many were found.
    """
    model = await Gateway(task.pool, task.http).embedding_model()
    async with task.pool.connection() as connection:
        row = await (await connection.execute(_SWEEP, (model,))).fetchone()
    return f"{row['found'] if row else 0} documents enqueued"


def _comes_back_soon(task: Task, error: Exception) -> bool:
    if isinstance(error, GiveUpError | RuleError | WaitError):
        return False
    return INTEGRATION.delay(task.attempt) is not None


def _said(error: Exception) -> str:
    """Say why in words without internals: those of services outside are ours."""
    if isinstance(error, UpstreamError):
        return f"no vectors: {error.message}"
    return "no vectors: " + (str(error) if isinstance(error, NessosError) else "internal error")


ENTRYPOINTS: Final = (
    # A text of two million characters takes some thirty calls.
    Entrypoint("knowledge.index", index, timeout_s=600),
    Entrypoint("knowledge.sweep", sweep),
)
"""Once per text; the timetable sweeps."""
