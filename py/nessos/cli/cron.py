"""`nessos cron …`: the timetable, its runner and its runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

import typer

from nessos.cli import organization, output
from nessos.cli.output import JsonOption
from nessos.errors import UsageError

if TYPE_CHECKING:
    import psycopg

    from cron.timetable import Job

app = typer.Typer(help="The timetable: what runs when.", no_args_is_help=True)

JobArgument = Annotated[str, typer.Argument(help="The job's name, as in nessos cron list.")]
OneOrgOption = Annotated[
    str | None, typer.Option("--org", help="Only this organisation: its slug or id.")
]

_STATES: Final = """
select
    t.job, l.scheduled_at as last_run,
    (
        select string_agg(s.count || ' ' || s.status, ', ' order by s.status)
        from (
            select r.status, count(*) as count from app.cron_runs as r
            where r.job = t.job and r.scheduled_at = l.scheduled_at
            group by r.status
        ) as s
    ) as runs,
    exists (select from app.cron_pauses as p where p.job = t.job and p.org_id is null) as is_paused,
    array(
        select o.slug from app.cron_pauses as p
        inner join public.organizations as o on o.id = p.org_id
        where p.job = t.job order by o.slug
    ) as paused_for
from unnest(%s::text[]) as t (job)
cross join lateral (
    select max(r.scheduled_at) as scheduled_at from app.cron_runs as r where r.job = t.job
) as l
"""

_RUNS: Final = """
select
    r.job, o.slug as org, r.scheduled_at, r.status, r.attempts, r.started_at,
    extract(epoch from r.finished_at - r.started_at) as seconds, r.rows, r.outcome, r.error
from app.cron_runs as r left join public.organizations as o on o.id = r.org_id
where
    (%(job)s::text is null or r.job = %(job)s)
    and (%(org)s::uuid is null or r.org_id = %(org)s)
    and (not %(failed)s or r.status = 'failed')
order by r.scheduled_at desc, r.job, o.slug limit %(lines)s
"""


@app.command()
def run() -> None:
    """Put every job into the queue at its hour, until stopped."""
    from cron.runner import run as run_timetable
    from nessos.target import resolve

    run_timetable(resolve().database_url.get_secret_value())


@app.command(name="list")
def list_jobs(*, json: JsonOption = False) -> None:
    """Show each job: when it is due next, how its last run went, whether it is paused."""
    from datetime import UTC, datetime
    from zoneinfo import ZoneInfo

    from cron.timetable import load
    from nessos.db import connect
    from nessos.target import resolve

    timetable = load()
    zone, now = ZoneInfo(timetable.time_zone), datetime.now(UTC)
    with connect(resolve().database_url.get_secret_value()) as connection:
        names = [job.name for job in timetable.jobs]
        states = {row["job"]: row for row in connection.execute(_STATES, [names])}
    rows = []
    for job in timetable.jobs:
        state = states[job.name]
        rows.append(
            {
                "job": job.name,
                "scope": job.scope,
                "when": " and ".join(job.when),
                "next": None if state["is_paused"] else job.next_fire_time(now).astimezone(zone),
                "last_run": state["last_run"] and state["last_run"].astimezone(zone),
                "runs": state["runs"],
                "paused": state["is_paused"] or state["paused_for"],
                "what": job.what,
            }
        )
    if json:
        output.as_json(rows)
    else:
        output.records(
            [
                row | {"paused": "yes" if row["paused"] is True else ", ".join(row["paused"])}
                for row in rows
            ]
        )


@app.command()
def runs(
    job: Annotated[str | None, typer.Argument(help="Only this job.")] = None,
    *,
    org: OneOrgOption = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only those that failed.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many at most.")] = 50,
    json: JsonOption = False,
) -> None:
    """Show the latest runs: when each was due, how it went, what it did."""
    from cron.timetable import load
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        wanted = {
            "job": load().job(job).name if job else None,
            "org": organization.find(connection, org)["id"] if org else None,
            "failed": failed,
            "lines": lines,
        }
        rows = connection.execute(_RUNS, wanted).fetchall()
    if json:
        output.as_json(rows)
    else:
        output.records(rows)


@app.command()
def fire(job: JobArgument, *, org: OneOrgOption = None, json: JsonOption = False) -> None:
    """Run a job now: for the installation, or for all its organisations, or for one."""
    from cron.runner import fire as fire_now
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        found, org_id = _find(connection, job, org)
        count = fire_now(connection, found, org=org_id)
    if json:
        output.as_json({"job": found.name, "runs": count})
    elif count:
        output.say(f"{found.name}: {count} in the queue; see nessos cron runs")
    else:
        output.say(f"{found.name}: nothing to run, or its run before is waiting or running")


@app.command()
def pause(job: JobArgument, *, org: OneOrgOption = None) -> None:
    """Have the timetable pass a job over, altogether or for one organisation."""
    words = ("paused", "was paused")
    _set_pause("select app.pause_cron_job(%s, %s) as done", job, org, words)


@app.command()
def resume(job: JobArgument, *, org: OneOrgOption = None) -> None:
    """End a pause; what was passed over meanwhile is not caught up."""
    _set_pause(
        "select app.resume_cron_job(%s, %s) as done", job, org, ("resumed", "was not paused")
    )


def _set_pause(statement: str, job: str, org: str | None, words: tuple[str, str]) -> None:
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        found, org_id = _find(connection, job, org)
        row = connection.execute(statement, (found.name, org_id)).fetchone()
    whose = f" for {org}" if org else ""
    output.say(f"{found.name}{whose} {words[0] if row and row['done'] else words[1]}")


def _find(
    connection: psycopg.Connection[dict[str, Any]], job: str, org: str | None
) -> tuple[Job, UUID | None]:
    from cron.timetable import load

    found = load().job(job)
    if org is None:
        return found, None
    if found.scope == "installation":
        raise UsageError(f"{found.name} runs for the installation", "leave --org out")
    return found, organization.find(connection, org)["id"]
