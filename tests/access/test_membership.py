"""Access follows the membership table at once, and the state of the organisation."""

import json

import psycopg
import pytest

from tests.access.matrix import MINE, replica
from tests.access.rows import Rows
from tests.people import (
    Connection,
    World,
    acting,
    as_agent,
    as_anon,
    as_client,
    as_member,
    as_person,
    denied,
    refused,
)


def count(db: Connection, table: str) -> int:
    row = db.execute(f"select count(*) from public.{table}").fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture
def lead(db: Connection, world: World) -> None:
    """One lead in each organisation, owned by its salesperson."""
    for org in (world.a, world.b):
        db.execute(
            "insert into public.leads (org_id, name, email, owner_id) values (%s, 'Ana', 'ana@people.test', %s)",
            (org.org, org.member("sales")),
        )


@pytest.mark.usefixtures("lead")
def test_a_removed_member_is_denied_on_the_next_request(db: Connection, world: World) -> None:
    with as_member(db, world.a, "director"):
        assert count(db, "leads") == 1
    with as_member(db, world.a, "admin"):
        db.execute("select public.remove_member(%s, %s)", (world.a.org, world.a.member("director")))
    with as_member(db, world.a, "director"):
        assert count(db, "leads") == 0
        with denied():
            db.execute(
                "insert into public.leads (org_id, name, email) values (%s, 'Bia', 'bia@people.test')",
                (world.a.org,),
            )


@pytest.mark.usefixtures("lead")
def test_a_changed_role_counts_on_the_next_request(db: Connection, world: World) -> None:
    with as_member(db, world.a, "finance"):
        assert count(db, "leads") == 0
    with as_member(db, world.a, "owner"):
        db.execute(
            "select public.set_member_role(%s, %s, 'director')",
            (world.a.org, world.a.member("finance")),
        )
    with as_member(db, world.a, "finance"):
        assert count(db, "leads") == 1


@pytest.mark.usefixtures("lead")
def test_a_role_in_the_token_is_not_believed(db: Connection, world: World) -> None:
    forged = {
        "role": "authenticated",
        "user_role": "owner",
        "org_id": str(world.a.org),
        "user_metadata": {
            "role": "owner",
            "agent_id": str(world.stranger),
            "agent_org_id": str(world.a.org),
        },
    }
    with as_person(db, world.stranger, **forged):
        assert count(db, "leads") == 0
        assert count(db, "organizations") == 0


@pytest.mark.usefixtures("lead")
def test_an_agent_reaches_only_the_organisation_of_its_claims(db: Connection, world: World) -> None:
    with as_agent(db, world.a):
        assert db.execute("select distinct org_id from public.leads").fetchall() == [(world.a.org,)]
        with denied():
            db.execute(
                "insert into public.leads (org_id, name, email) values (%s, 'Bia', 'bia@people.test')",
                (world.a.org,),
            )


@pytest.mark.usefixtures("lead")
def test_agent_claims_replace_the_memberships_of_the_person_behind_them(
    db: Connection, world: World
) -> None:
    metadata = {"agent_id": str(world.a.member("owner")), "agent_org_id": str(world.a.org)}
    with as_person(db, world.b.member("owner"), app_metadata=metadata):
        assert db.execute("select distinct org_id from public.leads").fetchall() == [(world.a.org,)]
        assert count(db, "memberships") == 0


@pytest.fixture
def contracts(db: Connection, world: World) -> None:
    """A contract of each client of each organisation."""
    for org in (world.a, world.b):
        for client in (org.client, org.other_client):
            db.execute(
                "insert into public.contracts (org_id, client_id, title, starts_on) values (%s, %s, 'SOC', '2026-01-01')",
                (org.org, client),
            )


@pytest.mark.usefixtures("lead", "contracts")
def test_an_agent_serving_a_customer_reads_what_the_customer_could(
    db: Connection, world: World
) -> None:
    with as_agent(db, world.a, contact={"client_id": world.a.client}):
        assert db.execute("select org_id, client_id from public.contracts").fetchall() == [
            (world.a.org, world.a.client)
        ]
        assert db.execute("select id from public.clients").fetchall() == [(world.a.client,)]
        assert count(db, "leads") == 0
        assert count(db, "profiles") == 0
        row = db.execute(
            "select app.org_ids('crm', 'read'), app.org_ids('sdr', 'write'), app.readable_scopes()"
        ).fetchone()
        assert row is not None
        assert row[:2] == ([], [])
        assert set(row[2]) <= {f"{world.a.org}/public"}


@pytest.mark.usefixtures("lead", "contracts")
@pytest.mark.parametrize("contact", [{}, {"lead_id": "2c1f9d4e-1111-4111-8111-111111111111"}])
def test_an_agent_serving_a_visitor_reads_no_row(
    db: Connection, world: World, contact: dict[str, str]
) -> None:
    with as_agent(db, world.a, contact=contact):
        for table in ("leads", "clients", "contracts", "memberships", "organizations", "profiles"):
            assert count(db, table) == 0, table


@pytest.mark.usefixtures("lead", "contracts")
def test_a_contact_of_another_organisation_opens_nothing(db: Connection, world: World) -> None:
    with as_agent(db, world.a, contact={"client_id": world.b.client}):
        assert count(db, "contracts") == 0
        assert count(db, "clients") == 0


@pytest.mark.usefixtures("lead", "contracts")
def test_no_line_of_an_organisations_own_opens_a_module_to_whoever_talks_to_its_agent(
    db: Connection, world: World
) -> None:
    with as_member(db, world.a, "admin"):
        db.execute(
            "insert into public.org_role_permissions (org_id, role, module, read_scope, write_scope)"
            " select %s, role, module, 'all', 'all' from unnest(array['agent', 'client']) role,"
            " unnest(array['crm', 'contracts', 'fin', 'ops']) module",
            (world.a.org,),
        )
    with as_agent(db, world.a):
        assert count(db, "contracts") == 2
    with as_agent(db, world.a, contact={"client_id": world.a.client}):
        assert count(db, "leads") == 0
        assert count(db, "contracts") == 0
        row = db.execute("select app.readable_scopes()").fetchone()
        assert row is not None
        assert set(row[0]) <= {f"{world.a.org}/public"}


MALFORMED: list[object] = ["", "x", "' or true --", 7, True, [], {}, {"a": 1}, "0" * 400]


@pytest.mark.usefixtures("lead", "contracts")
@pytest.mark.parametrize("wrong", MALFORMED, ids=repr)
@pytest.mark.parametrize("key", ["agent_id", "agent_org_id", "agent_contact", "client_id"])
def test_an_agent_whose_claims_are_malformed_reaches_nothing_and_learns_nothing(
    db: Connection, world: World, key: str, wrong: object
) -> None:
    metadata: dict[str, object] = {
        "agent_id": str(world.a.member("agent")),
        "agent_org_id": str(world.a.org),
    }
    if key == "client_id":
        metadata["agent_contact"] = {"client_id": wrong}
    else:
        metadata[key] = wrong
    # Somebody's token stands behind it: what is malformed must not fall back to him.
    with as_person(db, world.a.member("owner"), app_metadata=metadata):
        for table in ("leads", "clients", "contracts", "memberships", "module_events"):
            assert count(db, table) == 0, table
        row = db.execute("select app.readable_scopes(), app.client_ids()").fetchone()
        assert row is not None
        assert set(row[0]) <= {f"{world.a.org}/public"}
        assert row[1] == []
        with denied():
            db.execute(
                "insert into public.leads (org_id, name, email) values (%s, 'Bia', 'bia@people.test')",
                (world.a.org,),
            )


def test_an_agent_names_nobody_else_as_creator(db: Connection, world: World) -> None:
    db.execute(
        "insert into public.org_role_permissions (org_id, role, module, read_scope, write_scope)"
        " values (%s, 'agent', 'crm', 'all', 'all')",
        (world.a.org,),
    )
    with as_agent(db, world.a):
        row = db.execute(
            "insert into public.leads (org_id, name, email, created_by) values (%s, 'Bia', 'bia@people.test', %s)"
            " returning created_by",
            (world.a.org, world.a.member("owner")),
        ).fetchone()
    assert row == (None,)


@pytest.mark.usefixtures("lead")
def test_an_organisation_replaces_a_line_of_the_matrix_for_itself_only(
    db: Connection, world: World
) -> None:
    with as_member(db, world.a, "admin"):
        db.execute(
            "insert into public.org_role_permissions (org_id, role, module, read_scope, write_scope)"
            " values (%s, 'ops', 'crm', 'all', 'none'), (%s, 'director', 'crm', 'none', 'none')",
            (world.a.org, world.a.org),
        )
    for org, role, seen in (
        (world.a, "ops", 1),
        (world.b, "ops", 0),
        (world.a, "director", 0),
        (world.b, "director", 1),
    ):
        with as_member(db, org, role):
            assert count(db, "leads") == seen


def test_nobody_but_owners_and_admins_writes_lines_of_the_matrix(
    db: Connection, world: World
) -> None:
    for role in ("director", "sales", "employee", "client"):
        with as_member(db, world.a, role), denied():
            db.execute(
                "insert into public.org_role_permissions (org_id, role, module, read_scope, write_scope)"
                " values (%s, %s, 'fin', 'all', 'all')",
                (world.a.org, role),
            )


def test_owners_and_admins_cannot_be_cut_by_a_line_of_the_matrix(
    db: Connection, world: World
) -> None:
    with (
        as_member(db, world.a, "admin"),
        pytest.raises(psycopg.errors.CheckViolation),
        db.transaction(),
    ):
        db.execute(
            "insert into public.org_role_permissions (org_id, role, module, read_scope, write_scope)"
            " values (%s, 'owner', 'crm', 'none', 'none')",
            (world.a.org,),
        )


@pytest.mark.usefixtures("lead")
def test_a_suspended_organisation_is_read_and_not_written(db: Connection, world: World) -> None:
    db.execute("update public.organizations set status = 'suspended' where id = %s", (world.a.org,))
    with as_member(db, world.a, "owner"):
        assert count(db, "leads") == 1
        with refused("organization_suspended"):
            db.execute(
                "insert into public.leads (org_id, name, email) values (%s, 'Bia', 'bia@people.test')",
                (world.a.org,),
            )
        with refused("organization_suspended"):
            db.execute("update public.leads set score = 10")
        with refused("organization_suspended"):
            db.execute(
                "select public.invite_member(%s, 'novo@people.test', 'sales')", (world.a.org,)
            )


@pytest.mark.usefixtures("lead")
def test_an_inactive_organisation_answers_403(db: Connection, world: World) -> None:
    db.execute("update public.organizations set status = 'inactive' where id = %s", (world.a.org,))
    with as_member(db, world.a, "owner"), refused("organization_inactive") as answer:
        count(db, "leads")
    assert answer.status == 403
    with as_member(db, world.b, "owner"):
        assert count(db, "leads") == 1


def test_the_pages_of_an_inactive_organisation_are_not_served(db: Connection, world: World) -> None:
    db.execute(
        "insert into public.static_pages (org_id, slug, title, content_markdown, is_published, published_at)"
        " values (%s, 'termos', 'Termos', '# Termos', true, app.now())",
        (world.a.org,),
    )
    with as_anon(db):
        assert count(db, "published_pages") == 1
    db.execute("update public.organizations set status = 'inactive' where id = %s", (world.a.org,))
    with as_anon(db):
        assert count(db, "published_pages") == 0


@pytest.mark.usefixtures("lead")
@pytest.mark.parametrize("role_here", ["sales", "director"])
@pytest.mark.parametrize("role_there", ["sales", "director"])
def test_a_closed_organisation_does_not_lock_its_members_out_of_another(
    db: Connection, world: World, role_here: str, role_there: str
) -> None:
    person = world.a.member(role_here)
    db.execute(
        "insert into public.memberships (org_id, user_id, role) values (%s, %s, %s)",
        (world.b.org, person, role_there),
    )
    db.execute("update public.organizations set status = 'inactive' where id = %s", (world.b.org,))
    with as_person(db, person):
        assert db.execute("select org_id from public.leads").fetchall() == [(world.a.org,)]


def test_a_portal_client_sees_his_contracts_and_no_other_clients(
    db: Connection, world: World
) -> None:
    for client in (world.a.client, world.a.other_client):
        db.execute(
            "insert into public.contracts (org_id, client_id, title, number, starts_on) values (%s, %s, 'SOC', %s, '2026-01-01')",
            (world.a.org, client, str(client)[:8]),
        )
    for client in (world.a.client, world.a.other_client):
        with as_client(db, world.a, client):
            assert db.execute("select client_id from public.contracts").fetchall() == [(client,)]
            assert db.execute("select id from public.clients").fetchall() == [(client,)]
            assert count(db, "memberships") == 0


def test_nobody_reads_a_partition_directly(db: Connection) -> None:
    row = db.execute("select relname from pg_class where relispartition limit 1").fetchone()
    assert row is not None
    for role in ("anon", "authenticated", "service_role", "analyst"):
        with denied(), acting(db, role, {"role": role}):
            db.execute(f"select * from partitions.{row[0]}")


def test_a_platform_admin_acts_everywhere_and_only_the_database_makes_one(
    db: Connection, world: World
) -> None:
    with as_person(db, world.platform_admin):
        assert count(db, "organizations") == 2
    with as_member(db, world.a, "owner"), denied():
        db.execute(
            "insert into public.platform_admins (user_id) values (%s)", (world.a.member("owner"),)
        )


def test_a_visitor_reads_and_writes_no_table_of_people(db: Connection) -> None:
    tables = [
        row[0] for row in db.execute("select table_name from app.protected_tables").fetchall()
    ]
    assert json.dumps(tables).count("leads") >= 1
    with as_anon(db):
        for table in ("leads", "memberships", "clients", "contracts"):
            with denied():
                count(db, table)


def test_a_person_who_has_left_does_not_even_see_what_he_asked_for(
    db: Connection, world: World
) -> None:
    rows = Rows(db)
    rows.fill(MINE)
    query = "select count(*) from agent_suggestions"
    person = world.a.member("sales")
    with replica(db):
        db.execute("update agent_suggestions set created_by = %s, module = 'crm'", (person,))
    with as_person(db, person):
        assert db.execute(query).fetchone() == (1,)
    with replica(db):
        db.execute("delete from memberships where user_id = %s", (person,))
    with as_person(db, person):
        assert db.execute(query).fetchone() == (0,)
