"""`nessos db …`: deploy, reset, seed, inspect."""

from __future__ import annotations

import json as json_module
import os
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nessos.cli import output
from nessos.cli.output import DryRunOption, JsonOption, YesOption
from nessos.errors import UsageError
from nessos.settings import load

if TYPE_CHECKING:
    import psycopg

app = typer.Typer(help="The database: deploy, reset, seed, check.", no_args_is_help=True)

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--database-url", help="The database; DATABASE_URL, or the local one, if left out."
    ),
]


@app.command()
def push(*, dry_run: DryRunOption = False, database_url: UrlOption = None) -> None:
    """Deploy: the migrations by the Supabase CLI, then the queue's schema. Repeatable.

    The database needs Supabase's roles and its schema auth, as every Supabase project has.
    """
    from nessos.db import connect
    from nessos.local import database

    url = _url(database_url)
    output.say(database.push(url, dry_run=dry_run))
    if not dry_run:
        with connect(url) as connection:
            connection.execute("notify pgrst, 'reload schema'")


@app.command()
def reset(*, yes: YesOption = False) -> None:
    """Drop the local database and build it anew, demo companies included."""
    from nessos.local.stack import Stack
    from nessos.target import resolve

    target = resolve()
    if not target.is_local:
        raise UsageError("db reset works on the local stack only", "unset DATABASE_URL")
    if not yes:
        typer.confirm("Everything in the local database will be lost. Go on?", abort=True)
    Stack(load(), say=output.progress).reset_database()
    output.say("the local database is new")


@app.command()
def seed(*, database_url: UrlOption = None) -> None:
    """Load the demo companies into a database that has no organisation."""
    from nessos.local import database

    loaded = database.seed(_url(database_url))
    output.say("demo companies loaded" if loaded else "nothing to do: there are organisations")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def psql(context: typer.Context) -> None:
    """Open psql; every argument is passed on: nessos db psql -c 'select 1'."""
    from nessos.local.postgres import binaries

    program = binaries() / "psql"
    url = _url(None)
    # The password stays out of the process list; the address alone is an argument.
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    parts = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    password = parts.pop("password", None)
    environment = {**os.environ, **({"PGPASSWORD": str(password)} if password else {})}
    os.execve(  # noqa: S606 - becoming psql is the point
        program, [str(program), make_conninfo(**parts), *context.args], environment
    )


@app.command()
def check(
    *,
    json: JsonOption = False,
    advisors: Annotated[
        bool, typer.Option(help="Also run the advisors of the Supabase CLI.")
    ] = True,
    database_url: UrlOption = None,
) -> None:
    """Compare schema and files, check grants and row level security, run the advisors.

    Exit code 1 when there is something.
    """
    from nessos.checks import doctor
    from nessos.db import connect

    url = _url(database_url)
    with connect(url) as connection:
        found = [*doctor.schema(connection), *doctor.catalog(connection)]
    rows = [{"part": one.part, "finding": one.what, "remedy": one.remedy} for one in found]
    if advisors:
        rows += _advisors(url)
    _report(rows, json=json)


@app.command(name="shard-check")
def shard_check(*, json: JsonOption = False, database_url: UrlOption = None) -> None:
    """Prove from the catalog that every table is ready to be sharded by organisation.

    Exit code 1 when one is not.
    """
    from nessos.db import connect

    with connect(_url(database_url)) as connection:
        rows = _shard_findings(connection)
    _report(rows, json=json)


def _shard_findings(connection: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    laws = (files("nessos.checks") / "shard.sql").read_bytes()
    return list(connection.execute(laws).fetchall())


def _advisors(url: str) -> list[dict[str, Any]]:
    from nessos.local import database

    said = database.supabase(
        "db", "advisors", "--level=warn", "--fail-on=none", "--output-format=json", url=url
    )
    results = json_module.loads(said[said.index("{") :])["results"]
    return [
        {"part": one["name"], "finding": one["detail"], "remedy": one["remediation"]}
        for one in results
    ]


def _report(rows: list[dict[str, Any]], *, json: bool) -> None:
    if json:
        output.as_json(rows)
    elif rows:
        output.records(rows)
    else:
        output.say("nothing found")
    raise typer.Exit(1 if rows else 0)


def _url(database_url: str | None) -> str:
    from nessos.target import resolve

    return database_url or resolve().database_url.get_secret_value()
