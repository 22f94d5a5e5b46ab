"""`nessos webhooks source …`: addresses that outside services send to."""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

import typer

from nessos.cli import organization, output
from nessos.cli.organization import OrgOption
from nessos.cli.output import JsonOption, YesOption
from nessos.errors import UsageError

app = typer.Typer(help="Sources: addresses that outside services send to.", no_args_is_help=True)

_LIST: Final = """
select
    s.provider, s.account, s.token_prefix || '…' as token, s.created_at, s.last_used_at,
    s.revoked_at,
    (select count(*) from public.webhook_events as e where e.org_id = s.org_id
        and e.source_id = s.id and e.status <> 'rejected') as received,
    (select count(*) from public.webhook_events as e where e.org_id = s.org_id
        and e.source_id = s.id and e.status = 'rejected') as rejected,
    s.id
from public.webhook_sources as s
where s.org_id = %s
order by s.provider, s.account, s.created_at
"""


@app.command()
def create(
    provider: Annotated[str, typer.Argument(help="evolution, github, omie, resend or twilio.")],
    *,
    account: Annotated[
        str, typer.Option(help="Which account at the provider, in your words.")
    ] = "main",
    org: OrgOption = None,
    json: JsonOption = False,
) -> None:
    """Make an address for a provider to send to, in the name of an owner; shown only now."""
    from nessos.db import connect
    from nessos.settings import load
    from nessos.target import resolve

    target = resolve()
    with connect(target.database_url.get_secret_value(), autocommit=False) as connection:
        found = organization.find(connection, org)
        organization.act_as(connection, organization.find_owner(connection, found))
        row = connection.execute(
            "select public.create_webhook_source(%s, %s, %s) as source",
            (found["id"], provider, account),
        ).fetchone()
    made = row["source"] if row else {}
    made["url"] = (load().public_url or target.supabase_url).rstrip("/") + made["path"]
    if json:
        output.as_json(made)
    else:
        output.say(f"{made['provider']} ({made['account']}) of {found['slug']}: {made['id']}")
        output.say(made["url"])


@app.command(name="list")
def list_sources(*, org: OrgOption = None, json: JsonOption = False) -> None:
    """List an organisation's addresses and how much came by them in the last 30 days."""
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        found = organization.find(connection, org)
        rows = connection.execute(_LIST, (found["id"],)).fetchall()
    if json:
        output.as_json(rows)
    else:
        output.records(rows)


@app.command()
def revoke(
    source: Annotated[UUID, typer.Argument(help="Its id, as in nessos webhooks source list.")],
    *,
    org: OrgOption = None,
    yes: YesOption = False,
) -> None:
    """End an address at once, in the name of an owner; what came by it stays."""
    from nessos.db import connect
    from nessos.target import resolve

    if not yes and not typer.confirm(f"Refuse whatever is sent to {source} from now on?"):
        raise UsageError("nothing was done", "confirm, or give --yes")
    with connect(resolve().database_url.get_secret_value(), autocommit=False) as connection:
        found = organization.find(connection, org)
        organization.act_as(connection, organization.find_owner(connection, found))
        connection.execute("select public.revoke_webhook_source(%s, %s)", (found["id"], source))
    output.say(f"{source} is revoked")
