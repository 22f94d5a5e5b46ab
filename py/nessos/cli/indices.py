"""`nessos indices …`: compute and show the monthly indices."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any

import typer

from nessos.cli import organization, output
from nessos.cli.organization import OrgOption
from nessos.cli.output import JsonOption
from nessos.errors import PartialError

app = typer.Typer(help="Indices: one value per month and key.", no_args_is_help=True)

MonthOption = Annotated[
    datetime | None,
    typer.Option(formats=["%Y-%m"], help="The month, as 2026-03; the running one if left out."),
]


@app.command()
def compute(
    *,
    org: OrgOption = None,
    month: MonthOption = None,
    since: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m"], help="Compute every month from this one to --month."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Compute the indices of a month, or of several; any past month can be computed again."""
    from rich.console import Console
    from rich.progress import track

    from nessos.db import connect
    from nessos.target import resolve

    rows: list[dict[str, Any]] = []
    with connect(resolve().database_url.get_secret_value()) as connection:
        found = organization.find(connection, org)
        last = _month(connection, found["id"], month)
        months = [date(since.year, since.month, 1)] if since else [last]
        while months[-1] < last:
            year, number = divmod(months[-1].year * 12 + months[-1].month, 12)
            months.append(date(year, number + 1, 1))
        for period in track(
            months,
            description="computing",
            console=Console(stderr=True),
            transient=True,
            disable=len(months) == 1,
        ):
            rows += connection.execute(
                "select %s::date as month, index_key, value, error"
                " from public.compute_data_indices(%s, %s)",
                (period, found["id"], period),
            ).fetchall()
    failed = [row for row in rows if row["error"]]
    if json:
        output.as_json(rows)
    else:
        output.records(rows, title=f"Indices of {found['name']}")
    if failed:
        raise PartialError(
            f"{len(failed)} of {len(rows)} indices failed, {failed[0]['index_key']} first:"
            f" {failed[0]['error']}",
            "mend the cause and compute the month again",
        )


@app.command()
def show(
    *,
    org: OrgOption = None,
    key: Annotated[str | None, typer.Option(help="One index only.")] = None,
    months: Annotated[int, typer.Option(min=1, max=120, help="How many months, newest last.")] = 6,
    json: JsonOption = False,
) -> None:
    """Show the stored indices, a row per index and a column per month."""
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        found = organization.find(connection, org)
        rows = connection.execute(
            "select d.index_key, d.title, d.unit, i.period, i.value, i.metadata, i.computed_at"
            " from public.data_indices as i"
            " inner join public.index_definitions as d on d.index_key = i.index_key"
            " where i.org_id = %(org)s and (%(key)s::text is null or i.index_key = %(key)s)"
            " and i.period in (select distinct p.period from public.data_indices as p"
            "  where p.org_id = %(org)s order by p.period desc limit %(months)s)"
            " order by d.module, d.index_key, i.period",
            {"org": found["id"], "key": key, "months": months},
        ).fetchall()
    if json:
        output.as_json(rows)
        return
    periods = sorted({row["period"] for row in rows})
    values = {(row["index_key"], row["period"]): row["value"] for row in rows}
    titles = {row["index_key"]: (row["title"], row["unit"]) for row in rows}
    output.table(
        f"Indices of {found['name']}",
        ["index", "unit", *(f"{period:%Y-%m}" for period in periods)],
        [
            [title, unit, *(values.get((index_key, period)) for period in periods)]
            for index_key, (title, unit) in titles.items()
        ],
        right=[f"{period:%Y-%m}" for period in periods],
    )


def _month(connection: Any, org: Any, month: datetime | None) -> date:  # noqa: ANN401 - ids as given
    if month is not None:
        return date(month.year, month.month, 1)
    row = connection.execute("select app.month_start(app.org_today(%s)) as m", (org,)).fetchone()
    return row["m"]  # type: ignore[no-any-return]
