"""The running stack gives nobody a right that no migration gives."""

from typing import Any

import psycopg

from tests.api.stack import Api
from tests.cluster import Server
from tests.people import Connection

# Every right on every object outside the system's schemas, row level security, policies, roles.
RIGHTS = """
with own as (
    select oid, nspname from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'
)
select 'schema', n.nspname, nspacl::text from pg_namespace x join own n using (oid)
union all
select 'relation', n.nspname || '.' || c.relname,
    concat_ws(' ', relacl::text, relrowsecurity, relforcerowsecurity, array_to_string(reloptions, ','))
from pg_class c join own n on n.oid = c.relnamespace
union all
select 'column', n.nspname || '.' || c.relname || '.' || a.attname, attacl::text
from pg_attribute a join pg_class c on c.oid = a.attrelid join own n on n.oid = c.relnamespace
where attacl is not null
union all
select 'function', n.nspname || '.' || p.oid::regprocedure, concat_ws(' ', proacl::text, prosecdef, proconfig::text)
from pg_proc p join own n on n.oid = p.pronamespace
union all
select 'default', concat_ws(' ', defaclrole::regrole, n.nspname, defaclobjtype), defaclacl::text
from pg_default_acl d left join own n on n.oid = d.defaclnamespace
union all
select 'policy', polrelid::regclass || ' ' || polname,
    concat_ws(' ', polcmd, polroles::regrole[]::text, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
from pg_policy
union all
select 'role', r.rolname, concat_ws(
    ' ', rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls, rolconfig::text
)
from pg_roles r where rolname in ('anon', 'authenticated', 'service_role', 'authenticator', 'analyst')
union all
select 'member', concat_ws(' ', roleid::regrole, member::regrole), concat_ws(' ', admin_option)
from pg_auth_members
"""


def rights(db: Connection) -> set[tuple[Any, ...]]:
    return set(db.execute(RIGHTS).fetchall())


def test_after_traffic_of_every_kind_all_rights_are_those_of_the_migrations(
    api: Api, server: Server, world_template: str
) -> None:
    company = api.company()
    company.lead()
    company.member("sales").client.table("leads").select("*").execute()
    api.visitor().rpc(
        "submit_lead",
        {"org_slug": company.slug, "name": "Lia", "email": "l@leads.test", "consent": True},
    ).execute()
    api.client().table("published_posts").select("*").execute()
    api.client(api.secret_key).table("leads").select("*").limit(1).execute()
    with api.http() as http:
        http.get("/rest/v1/")
        http.get("/rest/v1/leads")
    with server.clone(world_template, "t_rights_as_migrated") as url, psycopg.connect(url) as fresh:
        migrated = rights(fresh)
    running = rights(api.db)
    assert running - migrated == set()
    assert migrated - running == set()


def test_a_right_too_many_would_be_noticed(server: Server, world_template: str) -> None:
    with server.clone(world_template, "t_rights_control") as url, psycopg.connect(url) as db:
        before = rights(db)
        for spoil in (
            "grant select on public.leads to anon",
            "grant select (name) on public.leads to anon",
            "grant execute on function app.rollup_events() to authenticated",
            "alter default privileges in schema public grant select on tables to anon",
            "alter table public.leads no force row level security",
            "alter table public.leads disable row level security",
            "create policy open on public.leads for select to anon using (true)",
            "alter view public.inbound_leads set (security_invoker = false)",
            "grant service_role to authenticated",
        ):
            with db.transaction(force_rollback=True):
                db.execute(spoil)
                assert rights(db) - before, spoil


def test_the_gateway_asks_the_database_as_nobody_in_particular(api: Api) -> None:
    rows = api.db.execute(
        "select distinct usename from pg_stat_activity"
        " where datname = current_database() and application_name = 'nessos gateway rest'"
    ).fetchall()
    assert rows == [("authenticator",)]
    row = api.db.execute(
        "select rolsuper, rolbypassrls, rolinherit from pg_roles where rolname = 'authenticator'"
    ).fetchone()
    assert row == (False, False, False)
