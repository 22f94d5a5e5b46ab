"""Measure the budgets of ness.OS, each beside its baseline, and say which are kept.

Exit code 1 when one is not.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from bench import access, chat, emission, knowledge, omie, queue, rollup, stack
from bench.subject import Bench

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench.measure import Figure
    from nessos.local.postgres import Version

SUBJECTS: Final[Mapping[str, Callable[[Bench], list[Figure]]]] = {
    "list": access.with_tenant_filter,
    "list-all": access.without_tenant_filter,
    "insert": emission.one_insert,
    "bulk": emission.bulk_insert,
    "rollup": rollup.rollup,
    "job": queue.job_start,
    "jobs": queue.throughput,
    "fairness": queue.fairness,
    "scheduled": queue.scheduled,
    "omie": omie.synchronisation,
    "index": knowledge.indexing,
    "search": knowledge.search,
    "chat": chat.first_text,
    "stack": stack.stack,
}


def main(
    *,
    rows: Annotated[int, typer.Option(min=1000, help="Rows of the big tables.")] = 1_000_000,
    tenants: Annotated[int, typer.Option(min=2, help="Organisations they belong to.")] = 1000,
    pg: Annotated[int, typer.Option(help="Major version of Postgres, 16 or 18.")] = 16,
    only: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(SUBJECTS)}; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure the budgets side by side; exit code 1 when one is not kept."""
    version: Version
    if pg == 16:  # noqa: PLR2004 - a release
        version = 16
    elif pg == 18:  # noqa: PLR2004 - a release
        version = 18
    else:
        raise typer.BadParameter("16 or 18", param_hint="--pg")
    unknown = set(only or ()) - set(SUBJECTS)
    if unknown:
        raise typer.BadParameter(f"no such subject: {', '.join(unknown)}", param_hint="--only")
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="nessos-bench-", ignore_cleanup_errors=True) as folder:
        bench = Bench(Path(folder), version, rows, tenants, _say)
        with bench.running():
            for name, measure in SUBJECTS.items():
                if not only or name in only:
                    _say(f"· {name}")
                    figures += measure(bench)
    if as_json:
        print(json.dumps([asdict(one) for one in figures], indent=2, ensure_ascii=False))
    else:
        _show(figures, f"Postgres {pg}, {rows:,} rows, {tenants:,} tenants, {os.cpu_count()} cores")
    raise typer.Exit(1 if any(one.is_kept is False for one in figures) else 0)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _show(figures: list[Figure], title: str) -> None:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("what", "figure", "baseline", "is", "ratio", "budget", ""):
        table.add_column(
            column, justify="right" if column in {"figure", "baseline", "ratio"} else "left"
        )
    for one in figures:
        table.add_row(
            one.what,
            _amount(one.value, one.unit),
            _amount(one.baseline, one.unit),
            one.against,
            "" if one.ratio is None else f"{one.ratio:.2f} x",
            one.budget,
            {True: "kept", False: "MISSED", None: ""}[one.is_kept],
        )
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(table)
    for one in figures:
        for note in one.notes:
            console.print(f"{one.what}: {note}", style="dim", markup=False, soft_wrap=True)


def _amount(value: float, unit: str) -> str:
    digits = 0 if unit == "events" else 3 if value < 1 else 2 if value < 100 else 0  # noqa: PLR2004
    return f"{value:,.{digits}f} {unit}"


if __name__ == "__main__":
    typer.run(main)
