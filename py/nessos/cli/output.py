"""How commands speak: tables and JSON to standard output, progress to standard error."""

from __future__ import annotations

import json
import sys
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


def progress(message: str) -> None:
    """Tell what is going on.

    Args:
        message: One line.
    """
    print(message, file=sys.stderr, flush=True)  # noqa: T201 - this is where it goes


def say(message: str = "") -> None:
    """Print a result.

    Args:
        message: One line, or more.
    """
    print(message, flush=True)  # noqa: T201 - this is where it goes


def as_json(value: object) -> None:
    """Print a value as JSON.

    Args:
        value: What to print; money keeps its digits, moments are ISO 8601.
    """
    say(json.dumps(value, indent=2, ensure_ascii=False, default=_plain))


def table(
    title: str | None,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Sequence[str] = (),
) -> None:
    """Print a table; outside a terminal it is as wide as its content.

    Args:
        title: Its title.
        columns: The headings.
        rows: The cells.
        right: The columns to align right.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 1000, highlight=False)
    grid = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")
    for column in columns:
        grid.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(_cell(value) for value in row))
    console.print(grid)


def records(rows: Sequence[Mapping[str, Any]], *, title: str | None = None) -> None:
    """Print rows of a query as a table.

    Args:
        rows: The rows, all with the same keys.
        title: The table's title.
    """
    if not rows:
        say("nothing")
        return
    numeric = [
        name
        for name in rows[0]
        if any(isinstance(row[name], int | float | Decimal) for row in rows)
        and not any(isinstance(row[name], str) for row in rows)
    ]
    table(
        title,
        [name.replace("_", " ") for name in rows[0]],
        [list(row.values()) for row in rows],
        right=[name.replace("_", " ") for name in numeric],
    )


def _cell(value: object) -> str:
    from rich.markup import escape

    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, dict | list):
        return escape(json.dumps(value, ensure_ascii=False, default=_plain))
    return escape(str(value))


def _plain(value: object) -> object:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Decimal):
        return (
            int(value)
            if value == value.to_integral_value() and value.as_tuple().exponent == 0
            else float(value)
        )
    raise TypeError(f"{type(value).__name__} has no JSON form")
