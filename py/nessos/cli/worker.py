"""`nessos worker`."""

from __future__ import annotations

from typing import Annotated

import typer

from nessos.settings import load


def register(app: typer.Typer) -> None:
    """Add the command.

    Args:
        app: The command line.
    """
    app.command()(worker)


def worker(
    *,
    drain: Annotated[
        bool, typer.Option("--drain", help="Stop when the queue is empty instead of waiting.")
    ] = False,
) -> None:
    """Take jobs from the queue and run them, until stopped."""
    from nessos.jobs.worker import run
    from nessos.target import resolve

    settings = load()
    target = resolve(settings)
    run(
        target.database_url.get_secret_value(),
        concurrency=settings.worker_concurrency,
        drain=drain,
    )
