"""`nessos workflows …`: what is done when something happens, what was done, what waits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from nessos.cli import organization, output
from nessos.cli.given import read_json
from nessos.cli.organization import OrgOption
from nessos.cli.output import JsonOption, YesOption
from nessos.errors import NessosError, UsageError

app = typer.Typer(
    help="Workflows: what is done when something happens, what was done, what waits.",
    no_args_is_help=True,
)

FileArgument = Annotated[
    Path, typer.Argument(help="A definition in JSON.", exists=True, dir_okay=False)
]
KeyArgument = Annotated[str, typer.Argument(help="Its key, as in nessos workflows list.")]
RunArgument = Annotated[str, typer.Argument(help="Id, as in nessos workflows runs.")]
ReviewArgument = Annotated[str, typer.Argument(help="Id, as in nessos workflows reviews.")]
ByOption = Annotated[
    str | None, typer.Option("--by", help="E-mail of the person who decides; else an owner.")
]
LinesOption = Annotated[int, typer.Option("--lines", "-n", min=1, help="How many.")]

_LIST: Final = """
select w.key, w.name, coalesce(w.definition #>> '{when,event}', w.definition ->> 'when') as starts,
    w.version, case when w.is_active then 'active' else 'paused: ' || w.paused_reason end as state,
    w.next_due_at, count(r.id) as runs, count(r.id) filter (where r.status = 'failed') as failed,
    count(r.id) filter (where r.status = 'waiting') as waiting
from public.workflows as w
left join public.workflow_runs as r
    on r.org_id = w.org_id and r.workflow_id = w.id
    and r.created_at > app.now() - interval '30 days'
where w.org_id = %(org)s group by w.org_id, w.id order by w.key
"""
_SHOW: Final = """
select w.key, w.name, w.version, w.is_active, w.paused_reason, w.runs_per_hour, w.owner_id,
    w.failures_in_row, w.next_due_at, w.definition
from public.workflows as w where w.org_id = %(org)s and w.key = %(key)s
"""
_SAVE: Final = """
insert into public.workflows as w (org_id, key, name, definition)
values (%(org)s, %(key)s, coalesce(%(name)s, %(key)s), %(definition)s)
on conflict (org_id, key) do update
set definition = excluded.definition, name = coalesce(%(name)s, w.name)
returning w.key, w.name, w.version, w.is_active
"""
_RUNS: Final = """
select r.created_at, r.id as run, w.key as workflow, r.version, r.status,
    v.definition -> 'then' -> r.step ->> 'id' as step, r.attempt, r.due_at,
    r.error_key as error, r.error as detail
from public.workflow_runs as r
inner join public.workflows as w on w.org_id = r.org_id and w.id = r.workflow_id
inner join public.workflow_versions as v
    on v.org_id = r.org_id and v.workflow_id = r.workflow_id and v.version = r.version
where r.org_id = %(org)s and (%(key)s::text is null or w.key = %(key)s)
    and (%(status)s::text is null or r.status = %(status)s)
order by r.created_at desc, r.id limit %(lines)s
"""
_LOG: Final = """
select s.occurred_at, s.step_id as step, s.kind, s.attempt, s.status, s.output,
    s.error_key as error, s.error as detail
from public.workflow_run_steps as s
where s.org_id = %(org)s and s.run_id::text = %(run)s
order by s.step, s.attempt, s.status desc
"""
_REVIEWS: Final = """
select v.created_at, v.id, w.key as workflow, v.title, v.data,
    coalesce(v.person_id::text, v.role, v.module) as reviewer, v.status, v.expires_at
from public.workflow_reviews as v
inner join public.workflow_runs as r on r.org_id = v.org_id and r.id = v.run_id
inner join public.workflows as w on w.org_id = r.org_id and w.id = r.workflow_id
where v.org_id = %(org)s and (%(every)s or v.status = 'pending')
order by v.created_at desc, v.id limit %(lines)s
"""
_ACTIVE: Final = """
update public.workflows as w set is_active = %(is_active)s
where w.org_id = %(org)s and w.key = %(key)s returning w.key, w.is_active, w.next_due_at
"""


@app.command(name="list")
def list_workflows(*, org: OrgOption = None, json: JsonOption = False) -> None:
    """List workflows with their runs of 30 days."""
    _print(_ask(_LIST, org), json=json, title="Workflows")


@app.command()
def show(key: KeyArgument, *, org: OrgOption = None) -> None:
    """Print a workflow and its definition, as JSON."""
    rows = _ask(_SHOW, org, key=key)
    if not rows:
        raise UsageError(f"there is no workflow {key}", "see nessos workflows list")
    output.as_json(rows[0])


@app.command()
def validate(file: FileArgument, *, org: OrgOption = None, json: JsonOption = False) -> None:
    """Say what is wrong with a definition; nothing is saved."""
    rows = _ask(
        "select * from app.workflow_problems(%(definition)s, %(org)s)", org, definition=_read(file)
    )
    if json:
        output.as_json(rows)
    elif rows:
        output.records(rows)
    else:
        output.say("nothing is wrong with it")
    if rows:
        raise NessosError(f"{file} has {len(rows)} problems", "correct the fields named")


@app.command()
def save(
    file: FileArgument,
    *,
    key: Annotated[str | None, typer.Option(help="Its key; else the file's name.")] = None,
    name: Annotated[str | None, typer.Option(help="Its name, for people.")] = None,
    org: OrgOption = None,
    json: JsonOption = False,
) -> None:
    """Save a definition: a new workflow, or a new version of the one with this key."""
    (row,) = _ask(_SAVE, org, key=key or file.stem, name=name, definition=_read(file))
    if json:
        output.as_json(row)
    else:
        output.say(f"{row['key']} is saved as version {row['version']}")


@app.command()
def templates(*, json: JsonOption = False) -> None:
    """List the workflows that ship."""
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        rows = connection.execute(
            "select t.key, t.name, t.description from app.workflow_templates as t order by t.key"
        ).fetchall()
    _print(rows, json=json, title="Templates")


@app.command()
def install(key: KeyArgument, *, org: OrgOption = None, json: JsonOption = False) -> None:
    """Copy a shipped workflow into an organisation; one that is there is left as it is."""
    (row,) = _ask(
        "select w.key, w.name, w.version, w.is_active"
        " from public.install_workflow_template(%(org)s, %(key)s) as w",
        org,
        key=key,
    )
    if json:
        output.as_json(row)
    else:
        output.say(f"{row['key']} is here, version {row['version']}")


@app.command()
def runs(
    *,
    workflow: Annotated[str | None, typer.Option(help="Only of this workflow.")] = None,
    status: Annotated[str | None, typer.Option(help="Only in this state.")] = None,
    lines: LinesOption = 50,
    org: OrgOption = None,
    json: JsonOption = False,
) -> None:
    """List runs, the latest first."""
    _print(_ask(_RUNS, org, key=workflow, status=status, lines=lines), json=json, title="Runs")


@app.command()
def log(run: RunArgument, *, org: OrgOption = None, json: JsonOption = False) -> None:
    """Show what became of every step of a run."""
    _print(_ask(_LOG, org, run=run), json=json, title="Steps")


@app.command()
def reviews(
    *,
    every: Annotated[bool, typer.Option("--all", help="Those decided on, too.")] = False,
    lines: LinesOption = 50,
    org: OrgOption = None,
    json: JsonOption = False,
) -> None:
    """List what waits for a person."""
    _print(_ask(_REVIEWS, org, every=every, lines=lines), json=json, title="Reviews")


@app.command()
def approve(
    review: ReviewArgument,
    *,
    by: ByOption = None,
    reason: Annotated[str | None, typer.Option(help="Why.")] = None,
    org: OrgOption = None,
) -> None:
    """Approve what a run waits for; it goes on."""
    _decide(org, review, "approve", by, reason)


@app.command()
def refuse(
    review: ReviewArgument,
    *,
    by: ByOption = None,
    reason: Annotated[str | None, typer.Option(help="Why.")] = None,
    org: OrgOption = None,
) -> None:
    """Refuse what a run waits for; it takes its other way, or is cancelled."""
    _decide(org, review, "refuse", by, reason)


@app.command()
def cancel(run: RunArgument, *, org: OrgOption = None, yes: YesOption = False) -> None:
    """End a run where it is; what it has done stays done."""
    if not yes and not typer.confirm(f"Cancel {run}?"):
        raise typer.Abort
    _ask("select public.cancel_workflow_run(%(run)s::uuid)", org, run=run)
    output.say(f"{run} is cancelled")


@app.command()
def retry(run: RunArgument, *, org: OrgOption = None) -> None:
    """Do the step a run failed at once more, and go on."""
    _ask("select public.retry_workflow_run(%(run)s::uuid)", org, run=run)
    output.say(f"{run} goes on")


@app.command()
def pause(key: KeyArgument, *, org: OrgOption = None) -> None:
    """Start no more runs of a workflow; those that run go on."""
    _set_active(org, key, is_active=False)


@app.command()
def resume(key: KeyArgument, *, org: OrgOption = None) -> None:
    """Let a paused workflow react again, to what happens from now on."""
    _set_active(org, key, is_active=True)


def _ask(statement: str, org: str | None, **values: object) -> list[dict[str, Any]]:
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        found = organization.find(connection, org)
        return connection.execute(statement.encode(), {**values, "org": found["id"]}).fetchall()


def _print(rows: list[dict[str, Any]], *, json: bool, title: str) -> None:
    if json:
        output.as_json(rows)
    else:
        output.records(rows, title=title)


def _read(file: Path) -> object:
    from psycopg.types.json import Jsonb

    return Jsonb(read_json(file.read_bytes(), what=str(file), way_out="see docs/workflows.md"))


def _decide(
    org: str | None, review: str, decision: str, by: str | None, reason: str | None
) -> None:
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value(), autocommit=False) as connection:
        found = organization.find(connection, org)
        person = organization.find_owner(connection, found)
        if by is not None:
            row = connection.execute(
                "select m.user_id from public.memberships as m inner join auth.users as u"
                " on u.id = m.user_id where m.org_id = %s and lower(u.email) = lower(%s)",
                (found["id"], by),
            ).fetchone()
            if row is None:
                raise UsageError(f"{by} is no member of {found['slug']}", "see nessos org list")
            person = row["user_id"]
        organization.act_as(connection, person)
        connection.execute(
            "select public.decide_workflow_review(%s::uuid, %s, %s)", (review, decision, reason)
        )
    output.say(f"{review} is {'approved' if decision == 'approve' else 'refused'}")


def _set_active(org: str | None, key: str, *, is_active: bool) -> None:
    if not _ask(_ACTIVE, org, key=key, is_active=is_active):
        raise UsageError(f"there is no workflow {key}", "see nessos workflows list")
    output.say(f"{key} is {'active' if is_active else 'paused'}")
