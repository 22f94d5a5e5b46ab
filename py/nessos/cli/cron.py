"""`nessos cron run`, `list` and `fire`."""

from __future__ import annotations

from typing import Annotated

import typer

from nessos.cli import output
from nessos.cli.output import JsonOption

app = typer.Typer(help="The timetable: what runs when.", no_args_is_help=True)


@app.command()
def run() -> None:
    """Put every job into the queue at its hour, until stopped."""
    from cron.runner import run as run_timetable
    from nessos.target import resolve

    run_timetable(resolve().database_url.get_secret_value())


@app.command(name="list")
def list_jobs(*, json: JsonOption = False) -> None:
    """Show the timetable and when each job is due next."""
    from cron.timetable import load

    rows = [
        {
            "job": job.name,
            "when": " and ".join(job.when),
            "next": job.next_fire_time(),
            "function": f"app.{job.function}()",
            "what": job.what,
        }
        for job in load().jobs
    ]
    if json:
        output.as_json(rows)
    else:
        output.records(rows)


@app.command()
def fire(
    job: Annotated[str, typer.Argument(help="The job's name, as in nessos cron list.")],
    *,
    json: JsonOption = False,
) -> None:
    """Put one job into the queue now."""
    from cron.runner import fire as fire_now
    from nessos.target import resolve

    number = fire_now(resolve().database_url.get_secret_value(), job)
    if json:
        output.as_json({"job": job, "id": number})
    else:
        output.say(f"{job} is job {number} of the queue")
