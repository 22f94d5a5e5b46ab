"""`nessos org …`: found, invite, list; and how the other commands find the organisation meant."""

from __future__ import annotations

import json as json_module
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from nessos.cli import output
from nessos.cli.output import JsonOption
from nessos.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import psycopg

app = typer.Typer(help="Organisations: found, invite people, list.", no_args_is_help=True)

OrgOption = Annotated[
    str | None,
    typer.Option("--org", help="Slug or id; may be left out where there is only one."),
]


def find(connection: psycopg.Connection[dict[str, Any]], org: str | None) -> dict[str, Any]:
    """Find the organisation a command is about.

    Args:
        connection: The database.
        org: Slug or id; None where there is only one.

    Returns:
        Its id, slug, name and time_zone.

    Raises:
        UsageError: It does not exist, or several do and none was named.
    """
    rows = connection.execute(
        "select id, slug, name, time_zone from public.organizations"
        " where %(org)s::text is null or %(org)s in (slug, id::text) order by slug limit 20",
        {"org": org},
    ).fetchall()
    if len(rows) == 1:
        return rows[0]
    if rows:
        slugs = ", ".join(row["slug"] for row in rows)
        raise UsageError("several organisations are here", f"name one with --org: {slugs}")
    raise UsageError(
        f"there is no organisation {org}" if org else "there is no organisation",
        "see nessos org list",
    )


def find_owner(connection: psycopg.Connection[dict[str, Any]], org: Mapping[str, Any]) -> UUID:
    """Find an owner to act as.

    Args:
        connection: The database.
        org: The organisation, as `find` gives it.

    Returns:
        The Auth user's id of its first owner.

    Raises:
        UsageError: It has none.
    """
    row = connection.execute(
        "select user_id from public.memberships where org_id = %s and role = 'owner'"
        " order by created_at limit 1",
        (org["id"],),
    ).fetchone()
    if row is None:
        raise UsageError(f"{org['slug']} has no owner", "see nessos doctor")
    person: UUID = row["user_id"]
    return person


def find_member(
    connection: psycopg.Connection[dict[str, Any]], org: Mapping[str, Any], email: str | None
) -> UUID:
    """Find a member to act as.

    Args:
        connection: The database.
        org: The organisation, as `find` gives it.
        email: The member's address; None for the first owner.

    Returns:
        The Auth user's id.

    Raises:
        UsageError: Nobody of the organisation has this address.
    """
    if email is None:
        return find_owner(connection, org)
    row = connection.execute(
        "select m.user_id from public.memberships as m"
        " inner join auth.users as u on u.id = m.user_id"
        " where m.org_id = %s and lower(u.email) = lower(%s)",
        (org["id"], email),
    ).fetchone()
    if row is None:
        raise UsageError(f"{email} is no member of {org['slug']}", "see nessos org list")
    person: UUID = row["user_id"]
    return person


def act_as(connection: psycopg.Connection[dict[str, Any]], person: UUID) -> None:
    """Let the rest of the transaction run in a person's name, as over REST.

    Args:
        connection: A connection inside a transaction.
        person: The Auth user's id.
    """
    claims = json_module.dumps({"sub": str(person), "role": "authenticated"})
    connection.execute("select set_config('request.jwt.claims', %s, true)", (claims,))


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="The organisation's name.")],
    owner: Annotated[str, typer.Option("--owner", help="E-mail of its owner, who has signed up.")],
    *,
    slug: Annotated[
        str | None, typer.Option(help="Public address; made from the name if left out.")
    ] = None,
    cnpj: Annotated[str | None, typer.Option(help="CNPJ, with or without punctuation.")] = None,
    time_zone: Annotated[str, typer.Option(help="Zone of the tz database.")] = "America/Sao_Paulo",
    json: JsonOption = False,
) -> None:
    """Found an organisation in the name of a person who has signed up."""
    from nessos.db import connect
    from nessos.target import resolve

    url = resolve().database_url.get_secret_value()
    with connect(url, autocommit=False) as connection:
        person = connection.execute(
            "select id from auth.users where lower(email) = lower(%s)", (owner,)
        ).fetchone()
        if person is None:
            raise UsageError(f"nobody has signed up as {owner}", "sign up first, over Auth")
        act_as(connection, person["id"])
        row = connection.execute(
            "select id, slug, name from public.create_organization("
            "name => %s, slug => %s, cnpj => %s, time_zone => %s)",
            (name, slug, cnpj, time_zone),
        ).fetchone()
    if json:
        output.as_json(row)
    elif row:
        output.say(f"{row['name']} is {row['slug']} ({row['id']}), owned by {owner}")


@app.command()
def invite(
    email: Annotated[str, typer.Argument(help="Whom to invite.")],
    role: Annotated[str, typer.Argument(help="The role, one of public.roles.")],
    *,
    org: OrgOption = None,
    client: Annotated[
        UUID | None, typer.Option(help="The client, exactly for the role client.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Invite a person in the name of an owner; prints the token, which is shown only now."""
    from nessos.db import connect
    from nessos.target import resolve

    url = resolve().database_url.get_secret_value()
    with connect(url, autocommit=False) as connection:
        found = find(connection, org)
        act_as(connection, find_owner(connection, found))
        row = connection.execute(
            "select public.invite_member(%s, %s, %s, %s) as invitation",
            (found["id"], email, role, client),
        ).fetchone()
    invitation = row["invitation"] if row else {}
    if json:
        output.as_json(invitation)
    else:
        output.say(
            f"{invitation['email']} is invited to {found['slug']} as {invitation['role']} until"
            f" {invitation['expires_at']}\ntoken: {invitation['token']}"
        )


@app.command(name="list")
def list_organizations(*, json: JsonOption = False) -> None:
    """List the organisations with their members and what they hold."""
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        rows = connection.execute(
            "select o.slug, o.name, o.plan, o.status, o.time_zone, count(m.user_id) as members,"
            " o.created_at::date as since, o.id"
            " from public.organizations as o"
            " left join public.memberships as m on m.org_id = o.id"
            " group by o.id order by o.slug"
        ).fetchall()
    if json:
        output.as_json(rows)
    else:
        output.records(rows, title="Organisations")
