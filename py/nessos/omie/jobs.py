"""Jobs of the worker that read Omie; the timetable names them, and webhooks ask for them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid5

from nessos import credentials, settings
from nessos.errors import GiveUpError, RuleError, WaitError
from nessos.jobs.entrypoint import Entrypoint, Task
from nessos.omie import sync
from nessos.omie.client import Omie

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nessos.http import Http
    from nessos.jobs.entrypoint import Pool
    from nessos.omie.sync import Entity, Mode


_JOBS: Final = UUID("5f6f6d69-6553-4000-8000-000000000000")
_PARALLEL_S: Final = 60

_DONE: Final = """
select true from public.erp_sync_log as l
where
    l.org_id = %s and l.run_id = %s and l.entity = %s and l.status in ('succeeded', 'partial')
limit 1
"""


async def connect(http: Http, pool: Pool, org_id: UUID) -> Omie | None:
    """Open the application of Omie that an organisation is connected with.

    Args:
        http: The client for services outside.
        pool: Connections to the database.
        org_id: The organisation.

    Returns:
        Its application; None when it is not connected.

    Raises:
        CredentialsError: Its credentials cannot be opened.
    """
    values = await credentials.read(pool, org_id=org_id, provider="omie")
    if values is None:
        return None
    return Omie(
        http=http,
        url=settings.load().omie_url.rstrip("/"),
        app_key=values["app_key"].get_secret_value(),
        app_secret=values["app_secret"].get_secret_value(),
        org_id=org_id,
    )


def _job(mode: Mode, *entities: Entity) -> Callable[[Task], Awaitable[str | None]]:
    async def handle(task: Task) -> str | None:
        if task.org_id is None:
            raise GiveUpError("the job names no organisation")
        omie = await connect(task.http, task.pool, task.org_id)
        if omie is None:
            return "not connected"
        given = task.payload.get("run_id")
        run_id = UUID(str(given)) if given else uuid5(_JOBS, str(task.job_id))
        return ", ".join([await _take(task, omie, run_id, entity, mode) for entity in entities])

    return handle


async def _take(task: Task, omie: Omie, run_id: UUID, entity: Entity, mode: Mode) -> str:
    # A job that is run again goes on where it stopped.
    async with task.pool.connection() as connection:
        if await (await connection.execute(_DONE, (task.org_id, run_id, entity))).fetchone():
            return f"{entity} done before"
    try:
        row = await sync.synchronise(task.pool, omie, run_id=run_id, entity=entity, mode=mode)
    except RuleError as error:
        if error.key == "erp_sync_running":
            until = datetime.now(UTC) + timedelta(seconds=_PARALLEL_S)
            raise WaitError(str(error), until) from error
        if error.key == "erp_sync_cooldown":
            raise WaitError(str(error), await _next_at(task, run_id)) from error
        if error.key == "erp_sync_refused":
            return f"{entity} not read: the organisation is not active"
        raise
    return f"{entity} {row['status']}: {row['seen']} seen"


async def _next_at(task: Task, run_id: UUID) -> datetime:
    async with task.pool.connection() as connection:
        cursor = await connection.execute(
            "select app.next_erp_sync_at(%s, %s) as at", (task.org_id, run_id)
        )
        row = await cursor.fetchone()
    at: datetime | None = row["at"] if row else None
    return at or datetime.now(UTC)


_TIMEOUT_S: Final = 3 * 3600.0

# Together at most 960 requests a minute of one address, since each keeps to 240.
ENTRYPOINTS: Final = tuple(
    Entrypoint(name=f"sync.omie.{name}", handle=handle, timeout_s=_TIMEOUT_S, concurrency=1)
    for name, handle in (
        ("clients", _job("incremental", "clients", "services")),
        ("receivables", _job("incremental", "receivables")),
        ("revenue", _job("incremental", "revenue")),
        ("full", _job("full", *sync.ENTITIES)),
    )
)
"""Of one organisation each; several of them may be at it at once, a list of one application not."""
