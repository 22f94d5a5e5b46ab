"""`nessos integrations …`: services outside: connect, disconnect, watch, rotate the key."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from nessos.cli import organization, output
from nessos.cli.given import read_json_from_stdin
from nessos.cli.organization import OrgOption
from nessos.cli.output import DryRunOption, JsonOption, YesOption
from nessos.errors import PartialError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

app = typer.Typer(
    help="Services outside: connect, disconnect, watch, rotate the key.", no_args_is_help=True
)

_HEALTH: Final = """
select
    p.provider, p.title, coalesce(h.state, 'unknown') as state,
    coalesce(h.breaker, 'closed') as breaker, h.half_open_at as open_until,
    coalesce(h.calls, 0) as calls, coalesce(h.errors, 0) as errors, h.last_success_at,
    h.account_hash as account
from app.integration_providers as p
left join app.integration_health() as h on h.provider = p.provider
order by p.provider, h.account_hash
"""
_UNDER_OTHER_KEYS: Final = "select count(*) from public.integration_credentials where key_id <> %s"

ProviderArgument = Annotated[
    str, typer.Argument(help="evolution, github, omie, resend or twilio.", metavar="PROVIDER")
]


@app.command(name="set")
def set_credentials(
    provider: ProviderArgument, *, org: OrgOption = None, json: JsonOption = False
) -> None:
    """Connect a provider, or replace its credentials.

    Asks for each field; away from a terminal it reads a JSON object of fields from standard input.
    Nothing secret stands on a command line, where others could read it.
    """
    from nessos import credentials
    from nessos.db import connect
    from nessos.target import resolve

    ring = credentials.key_ring()
    with connect(resolve().database_url.get_secret_value()) as connection:
        found = organization.find(connection, org)
        fields = credentials.check(provider=provider, values=_given(provider))
        sealed = ring.seal(org_id=found["id"], provider=provider, values=fields)
        connection.execute(credentials.STORE, (found["id"], provider, *sealed))
    if json:
        output.as_json({"org": found["slug"], "provider": provider, "fields": sorted(fields)})
    else:
        output.say(f"{provider} is connected for {found['slug']}: {', '.join(sorted(fields))}")


@app.command()
def remove(provider: ProviderArgument, *, org: OrgOption = None, yes: YesOption = False) -> None:
    """Disconnect a provider: its credentials are deleted."""
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        found = organization.find(connection, org)
        if not yes:
            if not sys.stdin.isatty():
                raise UsageError("this deletes credentials", "say --yes")
            typer.confirm(f"Delete the credentials of {found['slug']} for {provider}?", abort=True)
        row = connection.execute(
            "select app.remove_credentials(%s, %s) as removed", (found["id"], provider)
        ).fetchone()
    is_removed = bool(row and row["removed"])
    output.say(f"{provider} {'is disconnected' if is_removed else 'was not connected'}")


@app.command()
def status(
    *,
    org: Annotated[
        str | None, typer.Option("--org", help="What one organisation has connected: slug or id.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show how each provider is: breaker, calls and errors of the last hour, last success.

    Exit code 1 when one is down.
    """
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        if org:
            found = organization.find(connection, org)
            rows = connection.execute(
                "select * from public.list_integrations(%s)", (found["id"],)
            ).fetchall()
        else:
            rows = connection.execute(_HEALTH).fetchall()
    if json:
        output.as_json(rows)
    else:
        output.records(rows)
    raise typer.Exit(1 if any(row["state"] == "down" for row in rows) else 0)


@app.command()
def rotate(*, dry_run: DryRunOption = False, json: JsonOption = False) -> None:
    """Put all credentials under the first key of NESSOS_ENCRYPTION_KEYS.

    Each row is its own act: stop it where you like and run it again. Exit code 3 when rows could
    not be opened; they stay as they are.
    """
    from rich.console import Console
    from rich.progress import track

    from nessos import credentials
    from nessos.db import connect
    from nessos.target import resolve

    ring = credentials.key_ring()
    with connect(resolve().database_url.get_secret_value()) as connection:
        total = connection.execute(_UNDER_OTHER_KEYS, (ring.first,)).fetchone()
        rows = list(
            track(
                credentials.rotate(connection, ring, dry_run=dry_run),
                description="rotating",
                total=total["count"] if total else 0,
                console=Console(stderr=True),
                disable=not sys.stderr.isatty(),
            )
        )
    errors = [row.error for row in rows if row.error]
    for error in errors:
        output.progress(error)
    done = len(rows) - len(errors)
    if json:
        output.as_json({"key_id": ring.first, "rotated": done, "failed": len(errors)})
    else:
        output.say(f"{done} {'would be' if dry_run else 'are'} put under the key {ring.first}")
    if errors:
        raise PartialError(f"{len(errors)} could not be opened", "see above, then run it again")


def _given(provider: str) -> Mapping[str, str]:
    """Ask for the fields of a provider, or read them from standard input."""
    from nessos import credentials

    if not sys.stdin.isatty():
        given = read_json_from_stdin(what="standard input", way_out="pipe a JSON object of texts")
        if not isinstance(given, dict) or not all(isinstance(v, str) for v in given.values()):
            raise UsageError("standard input is not a JSON object of texts")
        return given
    asked = credentials.PROVIDERS.get(provider)
    if asked is None:
        return {}
    values = {}
    for name, field in asked.model_fields.items():
        known = field.alias or name
        values[known] = typer.prompt(
            known if field.is_required() else f"{known} (may be left out)",
            default=None if field.is_required() else "",
            show_default=False,
            hide_input=known in asked.secret,
        )
    return values
