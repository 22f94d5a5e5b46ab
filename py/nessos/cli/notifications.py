"""`nessos notifications …`: what people were told, how it reached them, and a trial."""

from __future__ import annotations

from typing import Annotated

import typer

from nessos.cli import organization, output
from nessos.cli.organization import OrgOption
from nessos.cli.output import JsonOption
from nessos.errors import UsageError

_LIST = """
select a.created_at, o.slug as org, n.template, p.full_name as recipient, a.channel, a.status,
    a.error_key, a.error_detail as detail
from public.notification_attempts as a
inner join public.notifications as n on n.org_id = a.org_id and n.id = a.notification_id
inner join public.organizations as o on o.id = a.org_id
inner join public.profiles as p on p.id = n.recipient_id
where (%(org)s::uuid is null or a.org_id = %(org)s) and (not %(failed)s or a.status = 'failed')
order by a.created_at desc, a.id limit %(lines)s
"""

app = typer.Typer(
    help="Notifications: what people were told, and how it reached them.", no_args_is_help=True
)


@app.command(name="list")
def list_attempts(
    *,
    org: OrgOption = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only channels that failed.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many.")] = 50,
    json: JsonOption = False,
) -> None:
    """List the latest attempts to reach somebody, each channel by itself."""
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        found = organization.find(connection, org)["id"] if org else None
        rows = connection.execute(
            _LIST, {"org": found, "failed": failed, "lines": lines}
        ).fetchall()
    if json:
        output.as_json(rows)
    else:
        output.records(rows, title="Notifications")


@app.command(name="test")
def send_test(
    email: Annotated[str, typer.Argument(help="Whom to notify: a member's e-mail address.")],
    *,
    org: OrgOption = None,
    json: JsonOption = False,
) -> None:
    """Send a member a notification that says it is a test, by all he has set."""
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        found = organization.find(connection, org)
        member = connection.execute(
            "select m.user_id from public.memberships as m inner join auth.users as u"
            " on u.id = m.user_id where m.org_id = %s and lower(u.email) = lower(%s)",
            (found["id"], email),
        ).fetchone()
        if member is None:
            raise UsageError(f"{email} is no member of {found['slug']}", "see nessos org list")
        row = connection.execute(
            "select app.notify(%s, %s, 'test', jsonb_build_object('sent_at', app.now()),"
            " gen_random_uuid()::text) as notification",
            (found["id"], member["user_id"]),
        ).fetchone()
        connected = connection.execute(
            "select c.provider from public.integration_credentials as c where c.org_id = %s"
            " and c.provider in ('evolution', 'twilio', 'resend') order by c.provider",
            (found["id"],),
        ).fetchall()
    if json:
        output.as_json(row)
    elif row:
        providers = ", ".join(one["provider"] for one in connected)
        way = f"the worker tries {providers}" if providers else "no other channel is connected"
        output.say(f"{row['notification']} is in the inbox of {email}; {way}")
