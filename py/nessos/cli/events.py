"""`nessos events …`: the log of what happened, and its daily counts."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Annotated, Any

import typer

from nessos.cli import organization, output
from nessos.cli.organization import OrgOption
from nessos.cli.output import JsonOption

_FINISHED = """
select e.occurred_at, o.slug as org, e.module, e.event_type, e.actor_kind, e.entity_id, e.payload
from public.module_events as e inner join public.organizations as o on o.id = e.org_id
where (%(org)s::uuid is null or e.org_id = %(org)s)
and e.xid >= %(from)s::xid8 and e.xid < %(to)s::xid8
order by e.occurred_at desc limit %(lines)s
"""

app = typer.Typer(help="Events: count, recount, follow.", no_args_is_help=True)


@app.command()
def rollup(*, json: JsonOption = False) -> None:
    """Add the events of all finished transactions to the daily counts, each exactly once."""
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        row = connection.execute("select app.rollup_events() as counted").fetchone()
    if json:
        output.as_json(row)
    elif row:
        output.say(f"{row['counted']} events counted")


@app.command()
def recount(
    day: Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"], help="The day, as 2026-03-31.")],
    *,
    json: JsonOption = False,
) -> None:
    """Count one day anew and show where the stored counts had drifted."""
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        rows = connection.execute(
            "select o.slug as org, r.module, r.event_type, r.counted, r.drift"
            " from public.aggregate_module_events_for_period(%s) as r"
            " inner join public.organizations as o on o.id = r.org_id"
            " order by o.slug, r.module, r.event_type",
            (day.date(),),
        ).fetchall()
    if json:
        output.as_json(rows)
    else:
        output.records(rows, title=f"Events of {day.date()}")


@app.command()
def tail(
    *,
    org: OrgOption = None,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, help="How many to start with.")
    ] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    json: JsonOption = False,
) -> None:
    """Show the latest events; with --follow, every later one as its transaction ends."""
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        wanted: dict[str, Any] = {
            "org": organization.find(connection, org)["id"] if org else None,
            "from": "0",
            "lines": lines,
        }
        while True:
            # Followed by finished transactions, not by a number: a late commit is never missed.
            row = connection.execute(
                "select pg_snapshot_xmin(pg_current_snapshot())::text as horizon"
            ).fetchone()
            wanted["to"] = row["horizon"] if row else "0"
            _show(connection.execute(_FINISHED, wanted).fetchall()[::-1], json=json)
            if not follow:
                return
            wanted |= {"from": wanted["to"], "lines": None}
            time.sleep(1)


def _show(rows: list[dict[str, Any]], *, json: bool) -> None:
    for row in rows:
        if json:
            output.as_json(row)
        else:
            output.say(
                f"{row['occurred_at'].astimezone():%Y-%m-%d %H:%M:%S}  {row['org']:<12}"
                f" {row['module'] + ' ' + row['event_type']:<34} {row['actor_kind']:<8}"
                f" {row['entity_id'] or ''}"
            )
