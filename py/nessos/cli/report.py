"""`nessos report …`: the figures of an organisation, as a table, JSON or CSV."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from psycopg import sql

from nessos.cli import organization, output
from nessos.cli.organization import OrgOption
from nessos.cli.output import JsonOption

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date
    from uuid import UUID

    import psycopg

app = typer.Typer(help="Reports of an organisation.", no_args_is_help=True)

CsvOption = Annotated[
    bool, typer.Option("--csv", help="Print CSV: UTF-8 with byte order mark, semicolons.")
]
MonthOption = Annotated[
    datetime | None,
    typer.Option(formats=["%Y-%m"], help="The month, as 2026-03; the running one if left out."),
]


@app.command()
def cfo(
    *,
    org: OrgOption = None,
    month: MonthOption = None,
    csv: CsvOption = False,
    json: JsonOption = False,
) -> None:
    """Show the month in one page: revenue, margins, renewals, exposure, reconciliation."""
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        found = organization.find(connection, org)
        day = month.date() if month else None
        if csv:
            _export(connection, found["id"], "cfo", day)
            return
        row = connection.execute(
            "select public.get_cfo_summary(%s, %s) as summary", (found["id"], day)
        ).fetchone()
    summary: Mapping[str, Any] = row["summary"] if row else {}
    if json:
        output.as_json(summary)
        return
    figures: list[tuple[str, object]] = []
    for name, value in summary.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        figures += [(f"{name.replace('_', ' ')} {part}".strip(), figure) for part, figure in parts]
    output.table(
        f"{found['name']}, {summary['month'][:7]}",
        ["figure", "value"],
        [figure for figure in figures if figure[0] != "month"],
        right=["value"],
    )


@app.command()
def mrr(*, org: OrgOption = None, csv: CsvOption = False, json: JsonOption = False) -> None:
    """Show the monthly value in force per client, and each client's share."""
    _report("report_mrr_by_client", "mrr_by_client", org, None, csv=csv, json=json)


@app.command()
def rentability(
    *,
    org: OrgOption = None,
    month: MonthOption = None,
    csv: CsvOption = False,
    json: JsonOption = False,
) -> None:
    """Show each contract's revenue of the month against its cost of the month."""
    _report("report_rentability", "rentability", org, month, csv=csv, json=json)


@app.command()
def reconciliation(
    *,
    org: OrgOption = None,
    month: MonthOption = None,
    csv: CsvOption = False,
    json: JsonOption = False,
) -> None:
    """Show contracted against billed per client, with the alerts."""
    _report("report_reconciliation", "reconciliation", org, month, csv=csv, json=json)


@app.command()
def lifecycle(*, org: OrgOption = None, csv: CsvOption = False, json: JsonOption = False) -> None:
    """Show every contract with its period, renewal and notice."""
    _report("report_lifecycle", "lifecycle", org, None, csv=csv, json=json)


def _report(
    function: str, name: str, org: str | None, month: datetime | None, *, csv: bool, json: bool
) -> None:
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        found = organization.find(connection, org)
        day = month.date() if month else None
        if csv:
            _export(connection, found["id"], name, day)
            return
        arguments = sql.SQL("%s") if name == "lifecycle" else sql.SQL("%s, %s")
        rows = connection.execute(
            sql.SQL("select * from public.{}({})").format(sql.Identifier(function), arguments),
            (found["id"],) if name == "lifecycle" else (found["id"], day),
        ).fetchall()
    if json:
        output.as_json(rows)
        return
    shown = [
        {column: value for column, value in row.items() if not column.endswith("_id")}
        for row in rows
    ]
    output.records(shown, title=f"{found['name']}: {name.replace('_', ' ')}")


def _export(
    connection: psycopg.Connection[dict[str, Any]], org: UUID, name: str, day: date | None
) -> None:
    row = connection.execute(
        "select public.export_report_csv(%s, %s, %s) as text", (org, name, day)
    ).fetchone()
    sys.stdout.buffer.write(str((row or {})["text"]).encode())
