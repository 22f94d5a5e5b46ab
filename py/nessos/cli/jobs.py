"""`nessos jobs list`, `failed`, `retry` and `discard`."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from nessos.cli import output
from nessos.cli.organization import OrgOption
from nessos.cli.output import DryRunOption, JsonOption, YesOption

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

    Connection = psycopg.Connection[dict[str, Any]]

app = typer.Typer(
    help="The queue: what is in it, and jobs that failed for good.", no_args_is_help=True
)

EntrypointOption = Annotated[
    str | None, typer.Option("--entrypoint", help="Only jobs of this kind.")
]
IdsArgument = Annotated[list[int] | None, typer.Argument(help="Numbers, as in nessos jobs failed.")]
EveryOption = Annotated[
    bool, typer.Option("--all", help="All held jobs, of --org and --entrypoint if given.")
]

_PAGE: Final = 1000


@app.command(name="list")
def list_jobs(
    *,
    every: Annotated[
        bool, typer.Option("--all", help="Kinds of jobs of which there are none, too.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show how many jobs of each kind are ready, for later, running and held."""
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        rows = connection.execute(
            "select entrypoint, latency_class, ready, later, running, held,"
            " case when ready > 0 then round(extract(epoch from oldest_wait), 1) end"
            " as oldest_wait_s from app.queue_state() as q"
            " where %s or q.ready + q.later + q.running + q.held > 0",
            [every],
        ).fetchall()
    if json:
        output.as_json(rows)
    else:
        output.records(rows)


@app.command()
def failed(
    *, org: OrgOption = None, entrypoint: EntrypointOption = None, json: JsonOption = False
) -> None:
    """List the jobs that failed for good; without --org those of all, and of the installation."""
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        rows = _held(connection, org, entrypoint)
    if json:
        output.as_json(rows)
    else:
        output.records([{**row, "subject": row["subject"] or None} for row in rows])


@app.command()
def retry(
    ids: IdsArgument = None,
    *,
    every: EveryOption = False,
    org: OrgOption = None,
    entrypoint: EntrypointOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Put held jobs back into the queue, with all their attempts."""
    with _chosen("retry", ids, every=every, org=org, entrypoint=entrypoint) as (connection, jobs):
        if not dry_run and jobs and not yes:
            typer.confirm(f"Retry {len(jobs)} jobs?", abort=True)
        statement = None if dry_run else "select app.retry_held_job(%(id)s)"
        results = [_decide(connection, job, statement) for job in jobs]
    _tell(results, json=json)


@app.command()
def discard(
    ids: IdsArgument = None,
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why; it stays in the audit log.")],
    every: EveryOption = False,
    org: OrgOption = None,
    entrypoint: EntrypointOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Give held jobs up."""
    with _chosen("discard", ids, every=every, org=org, entrypoint=entrypoint) as (connection, jobs):
        if not dry_run and jobs and not yes:
            typer.confirm(f"Discard {len(jobs)} jobs?", abort=True)
        statement = None if dry_run else "select app.discard_held_job(%(id)s, %(reason)s)"
        results = [_decide(connection, job, statement, reason=reason) for job in jobs]
    _tell(results, json=json)


@contextmanager
def _chosen(
    act: str, ids: list[int] | None, *, every: bool, org: str | None, entrypoint: str | None
) -> Iterator[tuple[Connection, list[int]]]:
    """Connect, and find the jobs a command is about."""
    from nessos.db import connect
    from nessos.errors import UsageError
    from nessos.target import resolve

    if bool(ids) == every:
        raise UsageError("name jobs, or all of them with --all", "see nessos jobs failed")
    if ids and (org or entrypoint):
        raise UsageError("--org and --entrypoint go with --all", f"nessos jobs {act} --all …")
    with connect(resolve().database_url.get_secret_value()) as connection:
        yield connection, ids or [row["id"] for row in _held(connection, org, entrypoint)]


def _decide(
    connection: Connection, job: int, statement: str | None, **arguments: str
) -> dict[str, object]:
    """Do one thing to a held job and say what became of it: a refusal stops no other."""
    import psycopg

    from nessos.errors import RuleError, from_psycopg

    if statement is None:
        return {"job": job, "result": "would be done"}
    try:
        connection.execute(statement, {**arguments, "id": job})
    except psycopg.Error as error:
        refusal = from_psycopg(error)
        if isinstance(refusal, RuleError):
            return {"job": job, "result": refusal.key}
        raise
    return {"job": job, "result": "done"}


def _tell(results: list[dict[str, object]], *, json: bool) -> None:
    from nessos.errors import DatabaseError, PartialError

    if json:
        output.as_json(results)
    else:
        output.records(results)
    refused = sum(row["result"] not in {"done", "would be done"} for row in results)
    if refused:
        failure = DatabaseError if refused == len(results) else PartialError
        raise failure(f"{refused} of {len(results)} refused", "see nessos jobs failed")


def _held(connection: Connection, org: str | None, entrypoint: str | None) -> list[dict[str, Any]]:
    """Read the held jobs, however many."""
    from nessos.cli.organization import find

    org_id = find(connection, org)["id"] if org else None
    held: list[dict[str, Any]] = []
    after = 0
    while True:
        page = connection.execute(
            "select f.id, o.slug as org, f.entrypoint, f.failed_at, f.attempts, f.error, f.subject"
            " from app.failed_jobs(%s, %s, %s) as f"
            " left join public.organizations as o on o.id = f.org_id order by f.id",
            [org_id, after, _PAGE],
        ).fetchall()
        held += [row for row in page if entrypoint in {None, row["entrypoint"]}]
        if len(page) < _PAGE:
            return held
        after = page[-1]["id"]
