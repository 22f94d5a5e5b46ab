"""The rows of the world: two organisations, a member per role, two clients each, and people outside of both."""

import psycopg

from tests.people import ANALYST_LOGIN, ROLES, WORLD, Connection, Org, add_person


def create_world(url: str) -> None:
    """Write the world into a freshly migrated database."""
    with psycopg.connect(url) as db:
        for org in (WORLD.a, WORLD.b):
            create_organization(db, org)
        for name in ("removed", "stranger", "platform_admin"):
            add_person(db, getattr(WORLD, name), name)
        db.execute(
            "insert into public.platform_admins (user_id) values (%s)", (WORLD.platform_admin,)
        )
        _create_analyst(db)


def create_organization(db: Connection, org: Org) -> None:
    """Insert an organisation with a member per role and two clients."""
    db.execute(
        "insert into public.organizations (id, name, slug) values (%s, %s, %s)",
        (org.org, f"{org.slug.title()} Serviços Ltda", org.slug),
    )
    if db.execute("select to_regclass('public.clients') is not null").fetchone() == (True,):
        for client, name in ((org.client, "Cliente"), (org.other_client, "Outro cliente")):
            db.execute(
                "insert into public.clients (org_id, id, name) values (%s, %s, %s)",
                (org.org, client, f"{name} da {org.slug.title()}"),
            )
    for role in ROLES:
        person = add_person(db, org.member(role), f"{role.title()} {org.slug.title()}")
        db.execute(
            "insert into public.memberships (org_id, user_id, role, client_id) values (%s, %s, %s, %s)",
            (org.org, person, role, org.client if role == "client" else None),
        )


def _create_analyst(db: Connection) -> None:
    # Roles belong to the server, not to the database, and so outlive a clone.
    db.execute(f"drop role if exists {ANALYST_LOGIN}")
    db.execute(f"create role {ANALYST_LOGIN} login in role analyst")
    db.execute(
        "insert into app.analyst_grants (login, org_id) values (%s, %s)",
        (ANALYST_LOGIN, WORLD.a.org),
    )
