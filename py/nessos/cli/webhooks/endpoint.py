"""`nessos webhooks endpoint …`: receivers that are told of an organisation's events."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import typer

from nessos.cli import organization, output
from nessos.cli.organization import OrgOption
from nessos.cli.output import JsonOption, YesOption
from nessos.errors import NessosError, UsageError

app = typer.Typer(
    help="Endpoints: receivers that are told of an organisation's events.", no_args_is_help=True
)

EndpointArgument = Annotated[
    UUID, typer.Argument(help="Its id, as in nessos webhooks endpoint list.")
]

_LIST: Final = """
select
    e.id, e.url, array_agg(s.pattern order by s.pattern) as events,
    case
        when e.paused_at is not null then 'paused: ' || e.paused_reason
        when e.first_failure_at is not null then 'failing'
        else 'active'
    end as state,
    e.first_failure_at, e.last_success_at,
    (select count(*) from public.webhook_deliveries as d where d.org_id = e.org_id
        and d.endpoint_id = e.id and d.status in ('pending', 'delivering')) as waiting,
    e.description
from public.webhook_endpoints as e
left join public.event_subscriptions as s on s.org_id = e.org_id and s.endpoint_id = e.id
where e.org_id = %s
group by e.org_id, e.id
order by e.created_at
"""
_TEST: Final = """
select d.status, d.last_status_code, d.last_error from public.webhook_deliveries as d
where d.org_id = %s and d.id = %s
"""
_PATIENCE_S: Final = 40


@app.command()
def create(
    url: Annotated[str, typer.Argument(help="An https address with a public host name.")],
    *,
    event: Annotated[
        list[str], typer.Option(help="Pattern of events, as fin.contract.*; repeatable.")
    ],
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    org: OrgOption = None,
    json: JsonOption = False,
) -> None:
    """Have events posted to a receiver; prints its secret, which is shown only now."""
    _check_address(url)
    made = _call(
        "select public.create_webhook_endpoint(%(org)s, %(url)s, %(patterns)s, %(description)s)",
        org,
        {"url": url, "patterns": event, "description": description},
    )
    if json:
        output.as_json(made)
    else:
        output.say(f"endpoint {made['id']}\nsecret: {made['secret']}")


@app.command(name="list")
def list_endpoints(*, org: OrgOption = None, json: JsonOption = False) -> None:
    """List an organisation's endpoints, how they do and how much waits for them."""
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
def pause(endpoint: EndpointArgument, *, org: OrgOption = None, json: JsonOption = False) -> None:
    """Send nothing more to an endpoint; its events wait."""
    row = _call(
        "select to_jsonb(public.pause_webhook_endpoint(%(org)s, %(endpoint)s))",
        org,
        {"endpoint": endpoint},
    )
    if json:
        output.as_json(row)
    else:
        output.say(f"{endpoint} is paused ({row['paused_reason']}) since {row['paused_at']}")


@app.command()
def resume(
    endpoint: EndpointArgument,
    *,
    skip_backlog: Annotated[
        bool, typer.Option("--skip-backlog", help="Cancel what has waited instead of sending it.")
    ] = False,
    yes: YesOption = False,
    org: OrgOption = None,
    json: JsonOption = False,
) -> None:
    """Send to an endpoint again, at once and in order what has waited."""
    if skip_backlog and not yes and not typer.confirm(f"Cancel what waits for {endpoint}?"):
        raise UsageError("nothing was done", "leave out --skip-backlog to send what waits")
    row = _call(
        "select to_jsonb(public.resume_webhook_endpoint(%(org)s, %(endpoint)s, %(skip)s))",
        org,
        {"endpoint": endpoint, "skip": skip_backlog},
    )
    if json:
        output.as_json(row)
    else:
        output.say(f"{endpoint} is active")


@app.command()
def rotate(
    endpoint: EndpointArgument,
    *,
    grace_hours: Annotated[
        int, typer.Option(min=0, max=168, help="How long the old secret signs too; 0 if it leaked.")
    ] = 24,
    org: OrgOption = None,
    json: JsonOption = False,
) -> None:
    """Give an endpoint a new secret, which is shown only now; both sign for a while."""
    row = _call(
        "select public.rotate_webhook_secret(%(org)s, %(endpoint)s, %(grace)s)",
        org,
        {"endpoint": endpoint, "grace": grace_hours},
    )
    if json:
        output.as_json(row)
    else:
        output.say(f"secret: {row['secret']}\nthe one before signs until {row['previous_until']}")


@app.command()
def delete(
    endpoint: EndpointArgument,
    *,
    yes: YesOption = False,
    org: OrgOption = None,
) -> None:
    """Remove an endpoint with its deliveries and what waits for it."""
    if not yes and not typer.confirm(f"Remove {endpoint} and its deliveries?"):
        raise UsageError("nothing was done", "confirm, or give --yes")
    _call(
        "select public.delete_webhook_endpoint(%(org)s, %(endpoint)s)", org, {"endpoint": endpoint}
    )
    output.say(f"{endpoint} is removed")


@app.command(name="test")
def send_test(
    endpoint: EndpointArgument, *, org: OrgOption = None, json: JsonOption = False
) -> None:
    """Send a test to an endpoint, also to a paused one, and wait for the outcome."""
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        found = organization.find(connection, org)
        sent = connection.execute(
            "select public.send_test_webhook(%s, %s) as delivery", (found["id"], endpoint)
        ).fetchone()
        delivery = sent["delivery"] if sent else None
        until = time.monotonic() + _PATIENCE_S
        row: dict[str, Any] | None = None
        while time.monotonic() < until:
            row = connection.execute(_TEST, (found["id"], delivery)).fetchone()
            if row is None or row["status"] in {"delivered", "exhausted"}:
                break
            time.sleep(0.2)
    if row is None or row["status"] not in {"delivered", "exhausted"}:
        raise NessosError("no worker has sent the test yet", "nessos status")
    if json:
        output.as_json({"delivery": delivery, **row})
    elif row["status"] == "delivered":
        output.say(f"delivered: HTTP {row['last_status_code']}")
    if row["status"] == "exhausted":
        raise NessosError(f"the test failed: {row['last_error']}", "see the receiver's log")


def _call(statement: str, org: str | None, parameters: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        found = organization.find(connection, org)
        row = connection.execute(statement, {**parameters, "org": found["id"]}).fetchone()
    return next(iter(row.values())) if row else None


def _check_address(url: str) -> None:
    """Refuse what the worker would refuse; how an address is written, the database checks."""
    from nessos.settings import load
    from nessos.webhooks.guard import Guard

    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 443
    except ValueError:
        return
    if host is None:
        return
    try:
        asyncio.run(Guard(load().webhook_allowed_networks).addresses(host, port))
    except OSError:
        raise UsageError(f"{host} leads nowhere", "check the host name") from None
