"""What the database knows of the demo companies: their logins and the dashboard of the first."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID  # noqa: TC003 - a field of a data class

import psycopg

from nessos.db import connect

PASSWORD: Final = "nessos-demo"  # noqa: S105 - public on purpose, as seed.sql says

_LOGINS: Final = """
select o.id, o.name, u.id as user_id, u.email, m.role
from public.organizations as o
inner join public.memberships as m on m.org_id = o.id
inner join auth.users as u on u.id = m.user_id
where u.email like '%.example'
order by o.created_at, o.name desc, m.role <> 'owner', m.role, u.email
"""


@dataclass(frozen=True)
class Login:
    """One person who can sign in.

    Attributes:
        user_id: The person.
        email: What to type.
        role: What the person is there.
    """

    user_id: UUID
    email: str
    role: str


@dataclass(frozen=True)
class Organization:
    """One demo company.

    Attributes:
        id: Its key.
        name: Its name.
        logins: Its members with reserved addresses.
    """

    id: UUID
    name: str
    logins: list[Login]


def organizations(url: str) -> list[Organization]:
    """List the demo companies: those with members at reserved addresses (`.example`).

    Args:
        url: The database.

    Returns:
        The companies; none when the schema is not there.
    """
    found: dict[UUID, Organization] = {}
    with connect(url) as connection:
        row = connection.execute("select to_regclass('public.memberships') as there").fetchone()
        if not row or row["there"] is None:
            return []
        for row in connection.execute(_LOGINS):
            one = found.setdefault(row["id"], Organization(row["id"], row["name"], []))
            one.logins.append(Login(row["user_id"], row["email"], row["role"]))
    return list(found.values())


def dashboard(url: str, organization: Organization) -> dict[str, Any]:
    """Ask for a company's dashboard as one of its members would see it.

    Args:
        url: The database.
        organization: Whose.

    Returns:
        What `get_data_dashboard_summary` says; empty when it is not there or refuses.
    """
    person = organization.logins[0]
    claims = json.dumps({"sub": str(person.user_id), "role": "authenticated"})
    with connect(url) as connection:
        try:
            with connection.transaction(force_rollback=True):
                connection.execute("set local role authenticated")
                connection.execute("select set_config('request.jwt.claims', %s, true)", [claims])
                row = connection.execute(
                    "select to_jsonb(d) as summary from public.get_data_dashboard_summary(%s) as d",
                    [organization.id],
                ).fetchone()
        except psycopg.Error:
            return {}
    summary = row["summary"] if row else None
    return summary if isinstance(summary, dict) else {}
