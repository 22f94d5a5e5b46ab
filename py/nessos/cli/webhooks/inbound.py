"""`nessos webhooks list`, `show` and `replay`: what outside services have sent."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

import typer

from nessos.cli import organization, output
from nessos.cli.organization import OrgOption
from nessos.cli.output import DryRunOption, JsonOption, YesOption
from nessos.errors import NessosError, PartialError, UsageError

if TYPE_CHECKING:
    import psycopg

_FIND: Final = """
select
    e.received_at, o.slug as org, e.provider, e.account, e.status, e.attempts,
    e.byte_count as bytes, e.outcome, e.id
from public.webhook_events as e inner join public.organizations as o on o.id = e.org_id
where
    (%(org)s::uuid is null or e.org_id = %(org)s)
    and (%(provider)s::text is null or e.provider = %(provider)s)
    and (%(status)s::text is null or e.status = %(status)s)
    and (%(since)s::timestamptz is null or e.received_at >= %(since)s)
    and (%(until)s::timestamptz is null or e.received_at < %(until)s)
order by e.received_at desc
limit %(lines)s
"""
_SHOW: Final = """
select e.*, o.slug as org, b.body from public.webhook_events as e
inner join public.organizations as o on o.id = e.org_id
left join app.webhook_bodies as b on b.org_id = e.org_id and b.webhook_event_id = e.id
where e.id = %s
"""
_REPLAY: Final = """
select app.replay_webhook_event(e.org_id, e.id) as job from public.webhook_events as e
where e.id = %s
"""
_MOMENTS: Final = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]


class Status(StrEnum):
    """What an event can be."""

    received = "received"
    processed = "processed"
    ignored = "ignored"
    failed = "failed"
    rejected = "rejected"


ProviderOption = Annotated[str | None, typer.Option(help="Only what this provider sent.")]
StatusOption = Annotated[Status | None, typer.Option(help="Only those in this state.")]
SinceOption = Annotated[
    datetime | None,
    typer.Option("--since", formats=_MOMENTS, help="Received from this moment on (UTC)."),
]
UntilOption = Annotated[
    datetime | None, typer.Option("--until", formats=_MOMENTS, help="… up to before this one.")
]


def register(app: typer.Typer) -> None:
    """Add the commands.

    Args:
        app: `nessos webhooks`.
    """
    app.command(name="list")(list_events)
    app.command()(show)
    app.command()(replay)


def list_events(
    *,
    provider: ProviderOption = None,
    status: StatusOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many.")] = 50,
    org: OrgOption = None,
    json: JsonOption = False,
) -> None:
    """List what outside services sent and what became of it, the latest first."""
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value(), autocommit=False) as connection:
        wanted = {"provider": provider, "status": status, "since": since, "until": until}
        rows = _find(connection, org, **wanted, lines=lines)
    if json:
        output.as_json(rows)
    else:
        output.records(rows)


def show(
    event: Annotated[UUID, typer.Argument(help="Its id, as in nessos webhooks list.")],
    *,
    json: JsonOption = False,
) -> None:
    """Show one event with its headers and body, which may name people."""
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        row = connection.execute(_SHOW, (event,)).fetchone()
    if row is None:
        raise UsageError(f"there is no webhook event {event}", "see nessos webhooks list")
    row["body"] = None if row["body"] is None else bytes(row["body"]).decode(errors="replace")
    if json:
        output.as_json(row)
    else:
        body = row.pop("body")
        output.table(None, ["field", "value"], row.items())
        output.say(body or "")


def replay(
    events: Annotated[
        list[UUID] | None, typer.Argument(help="Their ids, as in nessos webhooks list.")
    ] = None,
    *,
    provider: ProviderOption = None,
    status: StatusOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    org: OrgOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Have events processed again, named ones or those of a time; rejected ones never are."""
    from nessos.db import connect, translated
    from nessos.errors import RuleError
    from nessos.target import resolve

    if not events and since is None:
        raise UsageError("what to replay is not said", "name events, or give --since")
    refused: list[str] = []
    with connect(resolve().database_url.get_secret_value(), autocommit=False) as connection:
        wanted = {"provider": provider, "status": status, "since": since, "until": until}
        chosen = events or [
            row["id"]
            for row in reversed(_find(connection, org, **wanted, lines=None))
            if row["status"] != Status.rejected
        ]
        question = f"Process {len(chosen)} events again?"
        is_agreed = not dry_run and (yes or not chosen or typer.confirm(question))
        for event in chosen if is_agreed else ():
            try:
                with translated(), connection.transaction():
                    if connection.execute(_REPLAY, (event,)).fetchone() is None:
                        refused.append(f"{event}: not_found")
            except RuleError as error:
                refused.append(f"{event}: {error.key}")
    replayed = len(chosen) - len(refused) if is_agreed else 0
    if json:
        output.as_json({"chosen": len(chosen), "replayed": replayed, "refused": refused})
    else:
        output.say(f"{replayed} of {len(chosen)} events will be processed again")
    if refused:
        failure = PartialError if replayed else NessosError
        raise failure(f"not replayed: {', '.join(refused)}", "see nessos webhooks list")


def _find(
    connection: psycopg.Connection[dict[str, Any]], org: str | None, **wanted: object
) -> list[dict[str, Any]]:
    # A moment without a zone is meant in UTC.
    connection.execute("set local timezone = 'UTC'")
    found = organization.find(connection, org)["id"] if org else None
    return connection.execute(_FIND, {**wanted, "org": found}).fetchall()
