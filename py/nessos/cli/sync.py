"""`nessos sync …`: fetch now what the timetable fetches at its hours."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nessos.cli import organization, output
from nessos.cli.organization import OrgOption
from nessos.cli.output import DryRunOption, JsonOption
from nessos.errors import NessosError, PartialError, UpstreamError, UsageError

if TYPE_CHECKING:
    from nessos.bcb.sync import Outcome
    from nessos.http import Http
    from nessos.jobs.entrypoint import Pool
    from nessos.omie.sync import Entity, Mode

app = typer.Typer(help="Fetch data from services outside.", no_args_is_help=True)


@app.command()
def bcb(
    *,
    since: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"],
            help="Read from this day on, as 2006-01-01; begun twice, it goes on where it stopped."
            " If left out: from the last stored values, the latest of them again.",
        ),
    ] = None,
    series: Annotated[
        list[str] | None,
        typer.Option(help="One series, by key or code: IPCA, CDI, USD …; may be repeated."),
    ] = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Read the rates of the Banco Central, and store what is new or revised."""
    import asyncio

    from nessos.bcb.jobs import bank
    from nessos.bcb.sync import synchronize

    async def run(report: Callable[[int, int, str], None]) -> Outcome:
        async with services() as (pool, http):
            return await synchronize(
                pool=pool,
                bank=bank(http),
                since=since.date() if since else None,
                series=series,
                dry_run=dry_run,
                report=report,
            )

    with progress_bar() as report:
        outcome = asyncio.run(run(report))
    if json:
        output.as_json(outcome.lines)
    else:
        output.table(
            "Rates of the Banco Central" + (" (nothing stored)" if dry_run else ""),
            ["series", "from", "to", "seen", "created", "revised", "unchanged", "last value", "of"],
            [
                [
                    line["key"], line["from_on"], line["to_on"], line["seen"], line["created"],
                    line["revised"], line["unchanged"],
                    _number(line["last_value"], line["unit"]),
                    f"{line['last_on'] or ''}{' (late)' if line['is_late'] else ''}",
                ]
                for line in outcome.lines
            ],
            right=["seen", "created", "revised", "unchanged", "last value"],
        )  # fmt: skip
    if outcome.failures:
        key, error = next(iter(outcome.failures.items()))
        raise PartialError(
            f"{len(outcome.failures)} of {len(outcome.lines)} series failed"
            f" ({', '.join(outcome.failures)}), {key} for: {error.message}",
            "what had come is stored; run it again",
        )


@app.command()
def omie(
    *,
    org: OrgOption = None,
    entity: Annotated[
        list[str] | None,
        typer.Option(help="clients, services, receivables or revenue; may be repeated."),
    ] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Read everything, twelve months of revenue, what has vanished."
        ),
    ] = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Read what has changed in the ERP: clients, services, titles, revenue of last month.

    Not more often than every five minutes, and not while Omie asks to wait.
    """
    import asyncio

    from nessos.db import connect
    from nessos.omie.sync import ENTITIES
    from nessos.target import resolve

    if unknown := set(entity or ()) - set(ENTITIES):
        raise UsageError(f"there is no {min(unknown)}", f"one of {', '.join(ENTITIES)}")
    with connect(resolve().database_url.get_secret_value()) as connection:
        found = organization.find(connection, org)
    wanted = [one for one in ENTITIES if not entity or one in entity]
    with progress_bar() as report:
        rows, failures = asyncio.run(
            _read_omie(
                found, wanted, mode="full" if full else "incremental", dry_run=dry_run,
                report=report,
            )
        )  # fmt: skip
    if json:
        output.as_json(rows)
    elif rows:
        _show_runs(rows, f"{found['name']} from Omie" + (" (nothing stored)" if dry_run else ""))
    if failures:
        what, error = next(iter(failures.items()))
        if not rows:
            raise error
        raise PartialError(
            f"{what} failed: {error.message}", "what had come is stored; run it again"
        )
    if any(row["status"] == "partial" for row in rows):
        raise PartialError(
            "some rows could not be taken",
            "mend them in Omie: they are read again when they change, or with --full",
        )


async def _read_omie(
    org: Mapping[str, Any],
    wanted: Sequence[Entity],
    *,
    mode: Mode,
    dry_run: bool,
    report: Callable[[int, int, str], None],
) -> tuple[list[dict[str, Any]], dict[str, NessosError]]:
    """Read one entity after the other; gives the rows of the log, and what Omie refused."""
    from dataclasses import replace
    from uuid import uuid4

    from nessos.omie import jobs
    from nessos.omie.sync import StrangerError, synchronise

    run_id = uuid4()
    rows: list[dict[str, Any]] = []
    failures: dict[str, NessosError] = {}
    async with services() as (pool, http):
        app = await jobs.connect(http, pool, org["id"])
        if app is None:
            raise UsageError(
                f"{org['slug']} is not connected with Omie",
                f"nessos integrations set omie --org {org['slug']}",
            )
        for entity in wanted:
            try:
                row = await synchronise(
                    pool,
                    replace(app, say=output.progress),
                    run_id=run_id,
                    entity=entity,
                    mode=mode,
                    is_dry_run=dry_run,
                    tell=lambda what, done, total: report(done, total, what),
                )
            except StrangerError:
                raise
            except UpstreamError as error:
                # Omie's limits are per method: the others may still be read.
                failures[entity] = error
            else:
                rows.append(row)
    return rows, failures


def _show_runs(rows: list[dict[str, Any]], title: str) -> None:
    from nessos.omie.sync import COUNTS

    output.table(
        title,
        ["what", "mode", "status", *COUNTS],
        [
            [
                f"{row['entity']} {row['month']:%Y-%m}" if row["month"] else row["entity"],
                row["mode"],
                row["status"],
                *(row[name] for name in COUNTS),
            ]
            for row in rows
        ],
        right=COUNTS,
    )
    for row in rows:
        if row["error"]:
            output.say(f"{row['entity']}: {row['error']}")
    failed = [(row["entity"], one["row"], one["reason"]) for row in rows for one in row["failures"]]
    if failed:
        output.table("Rows that failed", ["what", "code in Omie", "reason"], failed)


def _number(value: Decimal | None, unit: str) -> str | None:
    return None if value is None else f"{value.normalize():f} {unit}"


@asynccontextmanager
async def services() -> AsyncIterator[tuple[Pool, Http]]:
    """Open the database and the client of services outside for a command.

    Yields:
        Connections to the database, and the client.
    """
    import logging

    from nessos import logs
    from nessos.http import client
    from nessos.jobs import connections
    from nessos.target import resolve

    logs.configure(level=logging.WARNING)
    url = resolve().database_url.get_secret_value()
    async with connections.pool(url, size=4, name="cli") as pool, client(pool) as http:
        yield pool, http


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int, str], None]]:
    """Show on standard error how far something is; plain lines outside a terminal.

    Yields:
        To be called with how much is done, of how much, and what comes.
    """
    if not sys.stderr.isatty():
        yield lambda done, total, what: output.progress(f"{done}/{total} {what}")
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, what: bar.update(
            task, completed=done, total=total, description=what
        )
