"""`nessos webhooks deliveries` and `resend`: what was sent to endpoints, and sending it again."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final
from uuid import UUID

import typer

from nessos.cli import organization, output
from nessos.cli.organization import OrgOption
from nessos.cli.output import DryRunOption, JsonOption, YesOption
from nessos.errors import UsageError

_LIST: Final = """
select
    d.created_at, d.event_type, d.entity_key as entity, d.status, d.attempts,
    d.last_status_code as http, d.last_error as error,
    case when d.status = 'pending' then d.next_attempt_at end as next_attempt, d.delivered_at,
    d.endpoint_id as endpoint, d.event_id as event
from public.webhook_deliveries as d
where
    d.org_id = %(org)s and (%(endpoint)s::uuid is null or d.endpoint_id = %(endpoint)s)
    and (%(status)s::text is null or d.status = %(status)s)
order by d.created_at desc, d.sequence desc
limit %(lines)s
"""
_RESEND: Final = """
select public.replay_webhook_deliveries(
    %(org)s, %(endpoint)s, %(from)s, %(to)s, %(events)s, %(statuses)s
) as deliveries
"""
_MOMENTS: Final = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]


class Status(StrEnum):
    """What a delivery can be."""

    pending = "pending"
    delivering = "delivering"
    delivered = "delivered"
    exhausted = "exhausted"
    cancelled = "cancelled"


class Ended(StrEnum):
    """What can be sent again."""

    delivered = "delivered"
    exhausted = "exhausted"
    cancelled = "cancelled"


def register(app: typer.Typer) -> None:
    """Add the commands.

    Args:
        app: `nessos webhooks`.
    """
    app.command()(deliveries)
    app.command()(resend)


def deliveries(
    *,
    endpoint: Annotated[UUID | None, typer.Option(help="Only to this endpoint.")] = None,
    status: Annotated[Status | None, typer.Option(help="Only those in this state.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many.")] = 50,
    org: OrgOption = None,
    json: JsonOption = False,
) -> None:
    """List what was sent to endpoints or waits to be, the latest first."""
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        wanted: dict[str, Any] = {
            "org": organization.find(connection, org)["id"],
            "endpoint": endpoint,
            "status": status,
            "lines": lines,
        }
        rows = connection.execute(_LIST, wanted).fetchall()
    if json:
        output.as_json(rows)
    else:
        output.records(rows)


def resend(
    endpoint: Annotated[UUID, typer.Argument(help="To which endpoint.")],
    *,
    since: Annotated[
        datetime | None,
        typer.Option("--from", formats=_MOMENTS, help="Events from this moment on (UTC)."),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option("--to", formats=_MOMENTS, help="… up to before this one.")
    ] = None,
    event: Annotated[list[UUID] | None, typer.Option(help="One event; repeatable.")] = None,
    status: Annotated[
        list[Ended] | None, typer.Option(help="Only those in this state; repeatable.")
    ] = None,
    org: OrgOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Send deliveries once more: same id, same bytes, in order."""
    from nessos.db import connect
    from nessos.target import resolve

    if not event and (since is None or until is None):
        raise UsageError("what to send is not said", "give --from and --to, or --event")
    with connect(resolve().database_url.get_secret_value(), autocommit=False) as connection:
        # A moment without a zone is meant in UTC.
        connection.execute("set local timezone = 'UTC'")
        wanted: dict[str, Any] = {
            "org": organization.find(connection, org)["id"],
            "endpoint": endpoint,
            "from": since,
            "to": until,
            "events": event or None,
            "statuses": [str(one) for one in status or Ended],
        }
        row = connection.execute(_RESEND, wanted).fetchone() or {}
        number = row.get("deliveries", 0)
        if dry_run or (
            number and not yes and not typer.confirm(f"Send {number} deliveries again?")
        ):
            connection.rollback()
            row["is_done"] = False
        else:
            row["is_done"] = True
    if json:
        output.as_json(row)
    else:
        output.say(f"{number} deliveries {'will be sent again' if row['is_done'] else 'match'}")
