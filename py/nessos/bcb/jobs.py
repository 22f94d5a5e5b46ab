"""The job `sync.bcb`: the rates of the whole installation, twice a day by the timetable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import UUID

from nessos.bcb.client import Bank
from nessos.bcb.sync import synchronize
from nessos.errors import GiveUpError, RetryError, WaitError
from nessos.jobs.entrypoint import Entrypoint
from nessos.settings import load

if TYPE_CHECKING:
    from nessos.http import Http
    from nessos.jobs.entrypoint import Task


def bank(http: Http) -> Bank:
    """Give the Banco Central where the settings say it is.

    Args:
        http: The client of services outside.

    Returns:
        The Banco Central.
    """
    settings = load()
    return Bank(http, settings.bcb_sgs_url, settings.bcb_ptax_url)


async def synchronize_rates(task: Task) -> str:
    """Read what is new or revised. Tried again, it goes on with the series that failed.

    Args:
        task: The job.

    Returns:
        How much was new.

    Raises:
        WaitError: The Banco Central cannot be asked before a moment, or another process asks it.
        RetryError: A series failed and may work later.
        GiveUpError: Series failed, and will again.
    """
    given = task.payload.get("run_id")
    outcome = await synchronize(
        pool=task.pool, bank=bank(task.http), run=UUID(str(given)) if given else None
    )
    if failures := list(outcome.failures.values()):
        words = f"{', '.join(outcome.failures)} not synchronised: {failures[0].message}"
        moments = [error.until for error in failures if isinstance(error, WaitError)]
        if moments:
            raise WaitError(words, max(moments))
        if any(isinstance(error, RetryError) for error in failures):
            raise RetryError(words)
        raise GiveUpError(words)
    created, revised = (
        sum(line[what] for line in outcome.lines) for what in ("created", "revised")
    )
    return f"{created} values created, {revised} revised"


ENTRYPOINTS: Final = (
    # The Banco Central may take a minute for an answer, and is asked ten times.
    Entrypoint("sync.bcb", synchronize_rates, timeout_s=1800, concurrency=1),
)
