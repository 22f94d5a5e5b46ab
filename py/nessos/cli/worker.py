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
    queues: Annotated[
        str | None,
        typer.Option(
            help="Latency classes to take jobs of, separated by commas:"
            " high_priority, default, low_priority. All if not given."
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="Jobs at the same time; NESSOS_WORKER_CONCURRENCY if not given."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Answer /health and /metrics here; NESSOS_WORKER_PORT if not given, 0 for not"
            " at all.",
        ),
    ] = None,
    drain: Annotated[
        bool, typer.Option("--drain", help="Stop when nothing is ready instead of waiting.")
    ] = False,
) -> None:
    """Take jobs from the queue and run them, until stopped."""
    from nessos.jobs.worker import CLASSES, Options, run
    from nessos.target import resolve

    settings = load()
    classes = tuple(name.strip() for name in queues.split(",")) if queues else CLASSES
    if unknown := set(classes) - set(CLASSES):
        raise typer.BadParameter(
            f"no such class: {', '.join(sorted(unknown))}", param_hint="--queues"
        )
    listen = settings.worker_port if port is None else port
    run(
        resolve(settings).database_url.get_secret_value(),
        options=Options(
            classes=classes,
            concurrency=concurrency or settings.worker_concurrency,
            drain=drain,
            grace_s=settings.worker_grace_s,
            heartbeat_s=settings.worker_heartbeat_s,
            address=(settings.worker_host, listen) if listen else None,
        ),
    )
