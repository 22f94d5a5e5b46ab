"""Laws of the catalog: each is a query whose rows are the offenders.

A law is the statement that returns no row. What may break one stands, with its reason, in laws.toml.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

from tests.people import Connection

LAWS: dict[str, Callable[[Connection], list[str]]] = {}

API_SCHEMAS = ("public", "app")
VISITORS = ("anon", "authenticated", "analyst")

# Relations and functions that the migrations made: extensions look after their own.
_OWN = "not exists (select from pg_depend d where d.objid = {}.oid and d.deptype = 'e')"
_TABLES = (
    "select c.oid, n.nspname as schema, c.relname as name, c.relkind, c.relowner, c.relacl,"
    " c.relrowsecurity, c.relforcerowsecurity, c.reloptions, c.relispartition"
    " from pg_class c join pg_namespace n on n.oid = c.relnamespace"
    f" where n.nspname in ('public', 'app', 'partitions') and {_OWN.format('c')}"
)
_TENANT = (
    "select c.oid, n.nspname as schema, c.relname as name, a.attnum as org_attnum, a.attnotnull"
    " from pg_class c join pg_namespace n on n.oid = c.relnamespace"
    " join pg_attribute a on a.attrelid = c.oid and a.attname = 'org_id' and not a.attisdropped"
    " where n.nspname = 'public' and c.relkind in ('r', 'p') and not c.relispartition"
)
_FUNCTIONS = (
    "select p.oid, n.nspname as schema, p.proname as name, p.oid::regprocedure::text as signature,"
    " p.prosecdef, p.proconfig, p.proacl, p.proowner, p.prorettype, p.prosrc"
    " from pg_proc p join pg_namespace n on n.oid = p.pronamespace"
    f" where n.nspname in ('public', 'app') and {_OWN.format('p')}"
)


def law(check: Callable[[Connection], Iterable[str]]) -> Callable[[Connection], list[str]]:
    """Register a law under its name."""

    def offenders(db: Connection) -> list[str]:
        return sorted(set(check(db)))

    LAWS[check.__name__] = offenders
    return offenders


def _ask(db: Connection, query: str, *parameters: Any) -> list[str]:
    return [row[0] for row in db.execute(query, parameters or None).fetchall()]


# --- Row level security and grants ---------------------------------------------------------------


@law
def every_public_table_has_row_level_security_on_and_forced(db: Connection) -> list[str]:
    return _ask(
        db,
        f"select t.name from ({_TABLES}) t where t.schema = 'public' and t.relkind in ('r', 'p')"
        " and not (t.relrowsecurity and t.relforcerowsecurity)",
    )


@law
def every_table_a_visitor_can_name_has_row_level_security(db: Connection) -> list[str]:
    return _ask(
        db,
        f"select t.schema || '.' || t.name from ({_TABLES}) t, unnest(array['anon', 'authenticated', 'analyst']) r"
        " where t.relkind in ('r', 'p', 'm') and not t.relrowsecurity"
        " and has_schema_privilege(r, t.schema, 'usage') and has_any_column_privilege(r, t.oid, 'select')",
    )


@law
def nothing_is_granted_to_everybody(db: Connection) -> list[str]:
    return [
        *_ask(
            db,
            f"select t.schema || '.' || t.name from ({_TABLES}) t,"
            " aclexplode(coalesce(t.relacl, acldefault(case t.relkind when 'S' then 'S' else 'r' end::\"char\","
            " t.relowner))) a where a.grantee = 0",
        ),
        *_ask(
            db,
            f"select f.signature from ({_FUNCTIONS}) f,"
            " aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) a where a.grantee = 0",
        ),
        *_ask(
            db,
            "select t.schema || '.' || t.name || '.' || c.attname"
            f" from ({_TABLES}) t join pg_attribute c on c.attrelid = t.oid, aclexplode(c.attacl) a"
            " where a.grantee = 0",
        ),
        *_ask(
            db,
            "select 'schema ' || n.nspname from pg_namespace n,"
            " aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a"
            " where n.nspname in ('app', 'partitions') and a.grantee = 0",
        ),
        *_ask(
            db,
            "select 'create in schema ' || n.nspname from pg_namespace n, unnest(array['anon', 'authenticated',"
            " 'service_role', 'analyst']) r"
            " where n.nspname in ('public', 'app', 'partitions') and has_schema_privilege(r, n.oid, 'create')",
        ),
    ]


@law
def what_a_migration_creates_next_is_granted_to_nobody(db: Connection) -> list[str]:
    with db.transaction(force_rollback=True):
        offenders = []
        for schema in API_SCHEMAS:
            db.execute(f"create table {schema}.law_probe (id bigint generated always as identity)")
            db.execute(
                f"create function {schema}.law_probe() returns int language sql as 'select 1'"
            )
            for role in VISITORS:
                offenders += _ask(
                    db,
                    "select what from (values"
                    " ('table', has_table_privilege(%(r)s, %(s)s || '.law_probe', 'select, insert, update, delete')),"
                    " ('sequence', has_sequence_privilege(%(r)s, %(s)s || '.law_probe_id_seq', 'usage, select, update')),"
                    " ('function', has_function_privilege(%(r)s, %(s)s || '.law_probe()', 'execute'))"
                    ") v (what, granted) where granted".replace("%(r)s", f"'{role}'").replace(
                        "%(s)s", f"'{schema}'"
                    ),
                )
                offenders[:] = [o if " " in o else f"{o} in {schema} to {role}" for o in offenders]
        return offenders


@law
def tables_are_granted_verb_by_verb_and_never_truncate_references_trigger(
    db: Connection,
) -> list[str]:
    return _ask(
        db,
        f"select t.schema || '.' || t.name || ' ' || lower(a.privilege_type) || ' to ' || a.grantee::regrole from ({_TABLES}) t, aclexplode(t.relacl) a"
        " where t.relkind <> 'S' and a.grantee in (select oid from pg_roles where rolname in ('anon', 'authenticated',"
        " 'analyst')) and (a.privilege_type not in ('SELECT', 'INSERT', 'UPDATE', 'DELETE') or a.is_grantable)",
    )


@law
def a_visitor_is_only_granted_select(db: Connection) -> list[str]:
    return _ask(
        db,
        f"select t.schema || '.' || t.name || ' ' || p from ({_TABLES}) t, unnest(array['insert', 'update', 'delete']) p"
        " where t.relkind <> 'S' and (has_table_privilege('anon', t.oid, p)"
        " or p <> 'delete' and has_any_column_privilege('anon', t.oid, p))",
    )


@law
def no_sequence_is_granted(db: Connection) -> list[str]:
    return _ask(
        db,
        f"select t.schema || '.' || t.name from ({_TABLES}) t, unnest(array['anon', 'authenticated', 'analyst']) r"
        " where case when t.relkind = 'S' then has_sequence_privilege(r, t.oid, 'usage, select, update') end",
    )


@law
def partitions_are_reached_by_nobody(db: Connection) -> list[str]:
    return [
        *_ask(
            db,
            f"select t.schema || '.' || t.name from ({_TABLES}) t where t.relispartition and t.schema <> 'partitions'",
        ),
        *_ask(
            db,
            "select 'schema to ' || r from unnest(array['anon', 'authenticated', 'analyst', 'service_role']) r"
            " where has_schema_privilege(r, 'partitions', 'usage')",
        ),
        *_ask(
            db,
            f"select t.schema || '.' || t.name || ' ' || r from ({_TABLES}) t, unnest(array['anon', 'authenticated', 'analyst',"
            " 'service_role']) r where t.schema = 'partitions' and t.relkind in ('r', 'p')"
            " and (has_any_column_privilege(r, t.oid, 'select, insert, update') or has_table_privilege(r, t.oid, 'delete'))",
        ),
    ]


@law
def an_analyst_is_granted_no_personal_data(db: Connection) -> list[str]:
    return _ask(
        db,
        f"select t.name || '.' || a.attname from ({_TABLES}) t join pg_attribute a on a.attrelid = t.oid and a.attnum > 0"
        " where t.schema in ('public', 'app') and t.relkind in ('r', 'p', 'v', 'm')"
        " and col_description(t.oid, a.attnum) like '[pii]%%'"
        " and has_column_privilege('analyst', t.oid, a.attnum, 'select')".replace("%%", "%"),
    )


@law
def an_analyst_only_reads(db: Connection) -> list[str]:
    return _ask(
        db,
        f"select t.schema || '.' || t.name from ({_TABLES}) t where t.relkind in ('r', 'p', 'v') and"
        " (has_any_column_privilege('analyst', t.oid, 'insert, update') or has_table_privilege('analyst', t.oid, 'delete'))",
    )


# --- Policies ------------------------------------------------------------------------------------

_COLUMN, _MODULE = r"[a-z_]+", r"(?P<module>[a-z]+)"


def normalize_expression(text: str) -> str:
    """Write a policy's expression as Postgres shows it, without line breaks, casts to text and capitals."""
    return (
        re.sub(r"\s+", " ", text)
        .strip()
        .lower()
        .replace("::text", "")
        .replace("( select", "(select")
    )


def policy_forms(action: str) -> dict[str, re.Pattern[str]]:
    """Return the allowed forms of access.md for an action, read or write."""
    orgs = "(org_id = any ((select app.{0}('MODULE', '" + action + "') as {0})::uuid[]))"
    tenant, own = orgs.format("org_ids"), orgs.format("own_org_ids")
    caller = "(org_id = any ((select app.caller_org_ids() as caller_org_ids)::uuid[]))"
    person = "(COLUMN = (select auth.uid() as uid))"
    portal = "(COLUMN = any ((select app.client_ids() as client_ids)::uuid[]))"
    texts = {
        "tenant": tenant,
        "own": f"({caller} and ({tenant} or ({own} and {person})))",
        "portal": f"({caller} and ({tenant} or ({own} and {portal})))",
        # Rows of one table that belong to different modules carry what a reader needs of the matrix.
        "scope": "(scope = any ((select app.readable_scopes() as readable_scopes)[]))",
    }
    return {
        name: re.compile(
            re.escape(text)
            .replace("MODULE", _MODULE, 1)
            .replace("MODULE", "(?P=module)")
            .replace("COLUMN", _COLUMN)
        )
        for name, text in texts.items()
    }


VISITOR_FORM = re.compile(
    r"\(.+ and "
    + re.escape("(org_id <> all ((select app.inactive_org_ids() as inactive_org_ids)::uuid[]))")
    + r"\)"
)
ANALYST_FORM = re.compile(
    re.escape("(org_id = any ((select app.analyst_org_ids() as analyst_org_ids)::uuid[]))")
)

_POLICIES = (
    "select c.relname as table, p.polname as name, n.nspname as schema, p.polpermissive,"
    " case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete'"
    " else 'all' end as command,"
    " array(select coalesce(r.rolname, 'public') from unnest(p.polroles) o left join pg_roles r on r.oid = o)::text[] as roles,"
    " pg_get_expr(p.polqual, p.polrelid) as qual, pg_get_expr(p.polwithcheck, p.polrelid) as with_check"
    " from pg_policy p join pg_class c on c.oid = p.polrelid join pg_namespace n on n.oid = c.relnamespace"
)


def policies(db: Connection, schema: str = "public") -> list[dict[str, Any]]:
    """Return every policy of a schema."""
    cursor = db.execute(f"{_POLICIES} where n.nspname = '{schema}' order by 1, 2")
    names = [column.name for column in cursor.description or []]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


@law
def policies_take_only_the_forms_of_the_access_design(db: Connection) -> list[str]:
    offenders = []
    for policy in policies(db):
        label = f"{policy['table']}.{policy['name']}"
        forms = policy_forms("read" if policy["command"] == "select" else "write")
        for expression in filter(None, (policy["qual"], policy["with_check"])):
            text = normalize_expression(expression)
            if policy["roles"] == ["anon"]:
                fits = policy["command"] == "select" and bool(VISITOR_FORM.fullmatch(text))
            elif policy["roles"] == ["analyst"]:
                fits = policy["command"] == "select" and bool(ANALYST_FORM.fullmatch(text))
            else:
                fits = any(form.fullmatch(text) for form in forms.values())
            if not fits:
                offenders.append(label)
    return offenders


@law
def policies_are_named_after_table_and_command_and_serve_one_command(db: Connection) -> list[str]:
    suffix = {"anon": "_public", "analyst": "_analyst", "authenticated": ""}
    return [
        f"{p['table']}.{p['name']}"
        for p in policies(db)
        if not p["polpermissive"]
        or p["command"] == "all"
        or len(p["roles"]) != 1
        or p["roles"][0] not in suffix
        or p["name"] != f"{p['table']}_{p['command']}{suffix[p['roles'][0]]}"
    ]


@law
def no_role_has_two_policies_for_one_command(db: Connection) -> list[str]:
    seen: set[tuple[str, ...]] = set()
    offenders = []
    for schema in API_SCHEMAS:
        for p in policies(db, schema):
            for role in p["roles"]:
                key = (schema, p["table"], p["command"], role)
                if key in seen or (*key[:2], "all", role) in seen:
                    offenders.append(f"{p['table']}.{p['name']}")
                seen.add(key)
    return offenders


@law
def inserts_and_updates_are_checked(db: Connection) -> list[str]:
    return [
        f"{p['table']}.{p['name']}"
        for p in policies(db)
        if p["command"] in {"insert", "update", "all"} and p["with_check"] is None
    ]


@law
def no_policy_stands_without_its_grant_nor_a_grant_without_its_policy(db: Connection) -> list[str]:
    stated = {(p["table"], p["command"], role) for p in policies(db) for role in p["roles"]}
    granted = {
        tuple(row)
        for row in db.execute(
            f"select t.name, p, r from ({_TABLES}) t, unnest(array['select', 'insert', 'update', 'delete']) p,"
            " unnest(array['anon', 'authenticated', 'analyst']) r"
            " where t.schema = 'public' and t.relkind in ('r', 'p') and case when p = 'delete' then"
            " has_table_privilege(r, t.oid, p) else has_any_column_privilege(r, t.oid, p) end"
        ).fetchall()
    }
    return [
        *(f"{t}: {c} is granted to {r} without a policy" for t, c, r in granted - stated),
        *(f"{t}: {c} has a policy for {r} without a grant" for t, c, r in stated - granted),
    ]


@law
def views_run_with_the_rights_of_their_reader(db: Connection) -> list[str]:
    return _ask(
        db,
        f"select t.schema || '.' || t.name from ({_TABLES}) t where t.relkind = 'v'"
        " and not coalesce(t.reloptions @> array['security_invoker=true'], false)"
        f" union all select t.schema || '.' || t.name from ({_TABLES}) t where t.relkind = 'm' and t.schema = 'public'",
    )


# --- Tenant keys (and so: ready to be sharded by org_id) ------------------------------------------


@law
def every_public_table_belongs_to_a_tenant(db: Connection) -> list[str]:
    return _ask(
        db,
        f"select t.name from ({_TABLES}) t where t.schema = 'public' and t.relkind in ('r', 'p')"
        f" and t.oid not in (select x.oid from ({_TENANT}) x where x.attnotnull)",
    )


@law
def the_primary_key_of_a_tenant_table_starts_with_the_tenant(db: Connection) -> list[str]:
    return _ask(
        db,
        f"select t.name from ({_TENANT}) t left join pg_index i on i.indrelid = t.oid and i.indisprimary"
        " where i.indrelid is null or i.indkey[0] <> t.org_attnum or i.indnkeyatts < 2",
    )


@law
def no_unique_of_a_tenant_table_spans_tenants(db: Connection) -> list[str]:
    return _ask(
        db,
        f"select i.indexrelid::regclass::text from ({_TENANT}) t join pg_index i on i.indrelid = t.oid"
        " where (i.indisunique or i.indisexclusion) and i.indkey[0] <> t.org_attnum",
    )


@law
def foreign_keys_between_tenant_tables_carry_the_tenant(db: Connection) -> list[str]:
    return _ask(
        db,
        f"select k.conname || ' on ' || c.name from pg_constraint k join ({_TENANT}) c on c.oid = k.conrelid"
        f" join ({_TENANT}) p on p.oid = k.confrelid where k.contype = 'f' and k.conparentid = 0 and not exists ("
        "  select from generate_subscripts(k.conkey, 1) i"
        "  where k.conkey[i] = c.org_attnum and k.confkey[i] = p.org_attnum)",
    )


@law
def deleting_a_row_never_takes_the_tenant_from_another(db: Connection) -> list[str]:
    return _ask(
        db,
        f"select k.conname || ' on ' || c.name from pg_constraint k join ({_TENANT}) c on c.oid = k.conrelid"
        " where k.contype = 'f' and k.confdeltype in ('n', 'd')"
        " and (k.confdelsetcols is null or c.org_attnum = any (k.confdelsetcols)) and c.org_attnum = any (k.conkey)"
        f" union all select k.conname || ' on ' || c.name from pg_constraint k join ({_TENANT}) c on c.oid = k.conrelid"
        " where k.contype = 'f' and k.confupdtype <> 'a'",
    )


@law
def no_sequence_is_shared_between_tenants(db: Connection) -> list[str]:
    return _ask(
        db,
        f"select t.name || '.' || a.attname from ({_TENANT}) t join pg_attribute a on a.attrelid = t.oid and a.attnum > 0"
        " left join pg_attrdef d on d.adrelid = t.oid and d.adnum = a.attnum"
        " where a.attidentity <> '' or pg_get_expr(d.adbin, d.adrelid) like '%nextval(%'",
    )


@law
def partitions_have_one_level(db: Connection) -> list[str]:
    return _ask(
        db,
        "select c.oid::regclass::text from pg_class c where c.relispartition and c.relkind = 'p'",
    )


@law
def the_queue_is_free_of_foreign_keys(db: Connection) -> list[str]:
    return _ask(
        db,
        "select k.conname || ' on ' || k.conrelid::regclass from pg_constraint k"
        " join pg_class c on c.oid in (k.conrelid, k.confrelid) join pg_namespace n on n.oid = c.relnamespace"
        " where k.contype = 'f' and n.nspname = 'pgqueuer'",
    )


@law
def nobody_updates_the_keys_of_a_tenant_row(db: Connection) -> list[str]:
    return _ask(
        db,
        f"select t.name from ({_TENANT}) t where not exists (select from pg_trigger g where g.tgrelid = t.oid and not g.tgisinternal and g.tgenabled in ('O', 'A')"
        " and g.tgname = t.name || '_10_guard_keys')",
    )


def _without_trigger(db: Connection, column: str, function: str) -> list[str]:
    """Return the tables of public that have a column and no trigger that looks after it."""
    return _ask(
        db,
        "select c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid"
        " where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition"
        " and a.attname = %s and not exists (select from pg_trigger g where g.tgrelid = c.oid"
        " and g.tgfoid = %s::regproc and g.tgenabled in ('O', 'A'))",
        column,
        function,
    )


@law
def the_time_of_a_change_is_the_databases(db: Connection) -> list[str]:
    return _without_trigger(db, "updated_at", "app.touch")


@law
def nobody_names_somebody_else_as_creator(db: Connection) -> list[str]:
    return _without_trigger(db, "created_by", "app.stamp_creator")


@law
def whoever_a_client_names_is_a_member(db: Connection) -> list[str]:
    """A foreign key to people knows no tenant: it would tell whether somebody exists, and name strangers."""
    return _ask(
        db,
        "select k.conrelid::regclass || '.' || a.attname from pg_constraint k"
        " join pg_attribute a on a.attrelid = k.conrelid and a.attnum = any (k.conkey)"
        " where k.contype = 'f' and k.confrelid = 'public.profiles'::regclass and k.conparentid = 0"
        " and (has_column_privilege('authenticated', k.conrelid, a.attnum, 'insert')"
        "  or has_column_privilege('authenticated', k.conrelid, a.attnum, 'update'))"
        " and not exists (select from pg_trigger g where g.tgrelid = k.conrelid and g.tgenabled in ('O', 'A')"
        "  and g.tgfoid = 'app.guard_member'::regproc and position(a.attname in encode(g.tgargs, 'escape')) = 1)",
    )


# --- Functions and triggers -----------------------------------------------------------------------


@law
def every_function_fixes_an_empty_search_path(db: Connection) -> list[str]:
    return _ask(
        db,
        f"select f.signature from ({_FUNCTIONS}) f where not coalesce(f.proconfig @> array['search_path=\"\"'], false)",
    )


@law
def no_function_a_client_calls_runs_as_its_owner(db: Connection) -> list[str]:
    return _ask(
        db, f"select f.signature from ({_FUNCTIONS}) f where f.schema = 'public' and f.prosecdef"
    )


@law
def trigger_functions_live_outside_of_the_api(db: Connection) -> list[str]:
    return _ask(
        db,
        f"select f.signature from ({_FUNCTIONS}) f"
        " where f.schema = 'public' and f.prorettype in ('trigger'::regtype, 'event_trigger'::regtype)",
    )


@law
def every_public_function_can_be_called_by_somebody(db: Connection) -> list[str]:
    return _ask(
        db,
        f"select f.signature from ({_FUNCTIONS}) f where f.schema = 'public' and not exists ("
        "  select from unnest(array['anon', 'authenticated', 'service_role']) r where has_function_privilege(r, f.oid, 'execute'))",
    )


@law
def the_worker_may_call_what_a_client_may(db: Connection) -> list[str]:
    return _ask(
        db,
        f"select f.signature from ({_FUNCTIONS}) f where has_function_privilege('authenticated', f.oid, 'execute')"
        " and not has_function_privilege('service_role', f.oid, 'execute') and f.schema = 'public'",
    )


@law
def triggers_are_named_after_their_table_and_place(db: Connection) -> list[str]:
    return _ask(
        db,
        f"select t.name || ': ' || g.tgname from ({_TABLES}) t join pg_trigger g on g.tgrelid = t.oid"
        " where not g.tgisinternal and g.tgparentid = 0"
        " and g.tgname !~ ('^' || t.name || '_(1\\d|50|5\\d|6\\d|7\\d|80|8\\d|90|9\\d)_[a-z_]+$')",
    )


# --- Keys, indexes, types, names, comments -------------------------------------------------------


@law
def every_foreign_key_has_an_index(db: Connection) -> list[str]:
    return _ask(
        db,
        "select k.conname || ' on ' || k.conrelid::regclass from pg_constraint k join pg_class c on c.oid = k.conrelid"
        " join pg_namespace n on n.oid = c.relnamespace"
        " where k.contype = 'f' and k.conparentid = 0 and n.nspname in ('public', 'app') and not exists ("
        "  select from pg_index i where i.indrelid = k.conrelid and i.indisvalid"
        "  and (i.indpred is null or pg_get_expr(i.indpred, i.indrelid) ~ '^\\(\\w+ IS NOT NULL\\)$')"
        "  and (select count(*) from unnest(k.conkey) a where a = any ((i.indkey::int2[])[0:cardinality(k.conkey) - 1]))"
        "      = cardinality(k.conkey))",
    )


@law
def no_two_indexes_are_the_same(db: Connection) -> list[str]:
    return _ask(
        db,
        f"select i.indexrelid::regclass::text from ({_TABLES}) t join pg_index i on i.indrelid = t.oid"
        " join pg_index j on j.indrelid = i.indrelid and j.indexrelid < i.indexrelid and j.indkey = i.indkey"
        " and j.indclass = i.indclass and j.indoption = i.indoption"
        " and coalesce(pg_get_expr(j.indpred, j.indrelid), '') = coalesce(pg_get_expr(i.indpred, i.indrelid), '')"
        " and coalesce(pg_get_expr(j.indexprs, j.indrelid), '') = coalesce(pg_get_expr(i.indexprs, i.indrelid), '')"
        " where not t.relispartition",
    )


@law
def every_table_view_and_function_has_a_comment(db: Connection) -> list[str]:
    return [
        *_ask(
            db,
            f"select t.schema || '.' || t.name from ({_TABLES}) t where t.relkind in ('r', 'p', 'v', 'm')"
            " and not t.relispartition and coalesce(obj_description(t.oid, 'pg_class'), '') = ''",
        ),
        *_ask(
            db,
            f"select f.signature from ({_FUNCTIONS}) f where coalesce(obj_description(f.oid, 'pg_proc'), '') = ''",
        ),
    ]


@law
def the_comment_of_a_table_begins_with_its_module(db: Connection) -> list[str]:
    return _ask(
        db,
        f"select t.schema || '.' || t.name from ({_TABLES}) t where t.relkind in ('r', 'p', 'v', 'm')"
        " and t.schema in ('public', 'app') and not t.relispartition"
        " and coalesce(obj_description(t.oid, 'pg_class'), '') !~ '^\\[(core|events|jobs|notify|crm|ops|growth|contracts|fin|people|legal|gov|data|time|knowledge|chat|ai|tasks|workflows)\\] '",
    )


@law
def columns_avoid_types_that_lose_money_time_or_text(db: Connection) -> list[str]:
    return _ask(
        db,
        f"select t.name || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod) from ({_TABLES}) t"
        " join pg_attribute a on a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped"
        " where t.relkind in ('r', 'p') and not t.relispartition and a.atttypid in ('timestamp'::regtype, 'time with time zone'::regtype, 'money'::regtype,"
        " 'real'::regtype, 'double precision'::regtype, 'varchar'::regtype, 'bpchar'::regtype, 'json'::regtype)"
        " or t.relkind in ('r', 'p') and a.attname ~ '_(brl|cost|price|amount)$|^(mrr|revenue|cost)$'"
        " and a.atttypid = 'numeric'::regtype and a.atttypmod = -1",
    )


@law
def names_keep_to_the_rules(db: Connection) -> list[str]:
    return [
        *_ask(
            db,
            f"select t.name || ': check ' || k.conname from ({_TABLES}) t join pg_constraint k on k.conrelid = t.oid"
            " where k.contype = 'c' and not t.relispartition and k.conname !~ ('^' || t.name || '_[a-z0-9_]+_check\\d*$')",
        ),
        *_ask(
            db,
            f"select t.name || ': index ' || x.relname from ({_TABLES}) t join pg_index i on i.indrelid = t.oid"
            " join pg_class x on x.oid = i.indexrelid where not t.relispartition and not t.schema = 'partitions'"
            " and not exists (select from pg_constraint k where k.conindid = i.indexrelid and k.contype in ('p', 'u', 'x'))"
            " and x.relname !~ ('^' || t.name || '_[a-z0-9_]+_(idx|key)$')",
        ),
        *_ask(
            db,
            f"select t.name || '.' || a.attname from ({_TABLES}) t join pg_attribute a on a.attrelid = t.oid and a.attnum > 0"
            " and not a.attisdropped where t.relkind in ('r', 'p') and not t.relispartition and ("
            "  a.atttypid = 'timestamptz'::regtype and a.attname !~ '_at$'"
            "  or a.atttypid = 'boolean'::regtype and a.attname !~ '^(is|has|auto)_|^(renews|auto_renews|consent)'"
            "  or a.attname ~ '_at$' and a.atttypid <> 'timestamptz'::regtype)",
        ),
    ]


# --- Tools of agents ------------------------------------------------------------------------------

_TOOLS = (
    "select p.oid, p.proname as name, p.oid::regprocedure::text as signature, p.prosecdef, p.proconfig, p.proretset,"
    " p.prorettype, p.pronargs, p.proargnames, p.proargtypes, p.proallargtypes, p.provariadic, p.proacl, p.proowner,"
    " obj_description(p.oid, 'pg_proc') as comment from pg_proc p where p.pronamespace = 'agent_tools'::regnamespace"
)


@law
def a_tool_takes_named_arguments_of_known_types_and_answers_jsonb(db: Connection) -> list[str]:
    return _ask(
        db,
        f"select t.signature from ({_TOOLS}) t where t.prorettype <> 'jsonb'::regtype or t.proretset"
        " or t.provariadic <> 0 or t.proallargtypes is not null"
        " or cardinality(array_remove(coalesce(t.proargnames, '{}'), '')) <> t.pronargs"
        " or exists (select from unnest(t.proargtypes::oid[]) a where app.type_schema(a) is null)"
        f" or 1 < (select count(*) from ({_TOOLS}) o where o.name = t.name)",
    )


@law
def a_tool_says_module_purpose_and_every_argument(db: Connection) -> list[str]:
    return _ask(
        db,
        f"select t.signature from ({_TOOLS}) t where t.comment is null"
        " or t.comment !~ '^\\[[a-z]+\\] (\\[outward\\] )?[A-Z]'"
        " or substring(t.comment from '^\\[([a-z]+)\\]') not in (select module from public.role_permissions)"
        " or exists (select from unnest(t.proargnames) a where t.comment !~ ('\\n' || a || ': \\S'))"
        " or exists (select from regexp_split_to_table(t.comment, '\\n') with ordinality l (line, place)"
        "  where l.place > 1 and coalesce(substring(l.line from '^([a-z_]+): '), '') <> all (t.proargnames))",
    )


@law
def a_tool_runs_with_the_rights_of_the_agent(db: Connection) -> list[str]:
    return _ask(
        db,
        f"select t.signature from ({_TOOLS}) t where t.prosecdef"
        " or not coalesce(t.proconfig @> array['search_path=\"\"'], false)",
    )


@law
def tools_are_called_by_agents_and_the_worker_alone(db: Connection) -> list[str]:
    return [
        *_ask(
            db,
            f"select t.signature from ({_TOOLS}) t where array(select a.grantee::regrole::text"
            " from aclexplode(coalesce(t.proacl, acldefault('f', t.proowner))) a where a.grantee <> t.proowner order by 1)"
            " <> array['authenticated', 'service_role']",
        ),
        *_ask(
            db,
            "select 'schema to ' || a.grantee::regrole from pg_namespace n,"
            " aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a where n.nspname = 'agent_tools'"
            " and (a.privilege_type, a.grantee::regrole::text) not in"
            " (('USAGE', 'authenticated'), ('USAGE', 'service_role')) and a.grantee <> n.nspowner",
        ),
    ]


# --- Errors, events, machines --------------------------------------------------------------------

RAISED = re.compile(r"raise_error\s*\(\s*'([a-z0-9_]+)'\s*[,)]")
RAISED_BY_PREFIX = re.compile(r"raise_error\s*\(\s*'([a-z0-9_]+)'\s*\|\|")
RAISED_BY_CASE = re.compile(r"raise_error\s*\(\s*case\b(.*?)\bend\b", re.DOTALL)
RAISED_TYPO = re.compile(r"\braise\s+(?:exception|sqlstate)", re.IGNORECASE)


def sources(db: Connection) -> dict[str, str]:
    """Return the body of every function in public and app, without its comments."""
    return {
        signature: re.sub(r"--[^\n]*", "", body or "")
        for signature, body in db.execute(
            f"select f.signature, coalesce(nullif(f.prosrc, ''), pg_get_functiondef(f.oid)) from ({_FUNCTIONS}) f"
        ).fetchall()
    }


def raised_keys(db: Connection) -> set[str]:
    """Return every error key that some function raises, the ones made by guard_move triggers included."""
    raised: set[str] = set()
    for body in sources(db).values():
        raised.update(RAISED.findall(body))
        for prefix in RAISED_BY_PREFIX.findall(body):
            raised.update(key for key in registered_keys(db) if key.startswith(prefix))
        for branches in RAISED_BY_CASE.findall(body):
            raised.update(re.findall(r"\b(?:then|else)\s+'([a-z0-9_]+)'", branches))
    return raised | {
        f"{entity}_move_refused" for entity, *_ in trigger_arguments(db, "app.guard_move").values()
    }


def registered_keys(db: Connection) -> set[str]:
    """Return every error key of app.error_keys."""
    return set(_ask(db, "select key from app.error_keys"))


def trigger_arguments(db: Connection, function: str) -> dict[tuple[str, str], list[str]]:
    """Return the arguments of every trigger of this function, by table and trigger."""
    return {
        (table, trigger): [part.decode() for part in bytes(arguments).split(b"\0")[:-1]]
        for table, trigger, arguments in db.execute(
            "select c.relname, g.tgname, g.tgargs from pg_trigger g join pg_class c on c.oid = g.tgrelid"
            " where not g.tgisinternal and g.tgparentid = 0"
            " and g.tgfoid in (select oid from pg_proc p where p.pronamespace::regnamespace || '.' || p.proname = %s)",
            (function,),
        ).fetchall()
    }


@law
def every_error_key_that_is_raised_is_registered(db: Connection) -> Iterable[str]:
    return raised_keys(db) - registered_keys(db)


@law
def every_registered_error_key_is_raised(db: Connection) -> Iterable[str]:
    return registered_keys(db) - raised_keys(db)


@law
def errors_are_raised_in_one_place(db: Connection) -> list[str]:
    return [
        signature
        for signature, body in sources(db).items()
        if RAISED_TYPO.search(body) and not signature.startswith("app.raise_error(")
    ]


@law
def every_state_machine_is_guarded_and_every_guard_has_its_moves(db: Connection) -> list[str]:
    guarded = {table for table, _ in trigger_arguments(db, "app.guard_move")}
    machines = set(_ask(db, "select distinct machine from app.allowed_moves"))
    return [
        *(f"{table} is guarded and has no moves" for table in guarded - machines),
        *(f"{machine} has moves and no guard" for machine in machines - guarded),
    ]


@law
def the_states_of_a_machine_are_those_of_its_check(db: Connection) -> list[str]:
    offenders = []
    for (table, _), arguments in trigger_arguments(db, "app.guard_move").items():
        checked = states_of(db, table, arguments[1])
        moved = set(
            _ask(db, "select from_state from app.allowed_moves where machine = %s union"
                     " select to_state from app.allowed_moves where machine = %s", table, table)
        )  # fmt: skip
        offenders += [f"{table}: {state} has moves but is no state" for state in moved - checked]
        offenders += [f"{table}: {state} has no moves" for state in checked - moved]
    return offenders


def states_of(db: Connection, table: str, column: str) -> set[str]:
    """Return the values that a column's check lists."""
    checks = _ask(
        db,
        "select pg_get_constraintdef(k.oid) from pg_constraint k join pg_attribute a on a.attrelid = k.conrelid"
        " and k.conkey = array[a.attnum] where k.contype = 'c' and k.conrelid = to_regclass('public.' || %s)"
        " and a.attname = %s",
        table,
        column,
    )
    return {
        value
        for check in checks
        if "ANY" in check
        for value in re.findall(r"'([^']*)'::text", check)
    }


def emitted_events(db: Connection) -> dict[str, set[str]]:
    """Return every event type that some trigger or function writes, and where it comes from."""
    emitted: dict[str, set[str]] = {}
    kinds = {
        (table, trigger): kind
        for table, trigger, kind in db.execute(
            "select c.relname, g.tgname, g.tgtype from pg_trigger g join pg_class c on c.oid = g.tgrelid"
        ).fetchall()
    }
    for (table, trigger), (module, entity, state, *_) in trigger_arguments(
        db, "app.emit_event"
    ).items():
        kind = kinds[table, trigger]
        words = set()
        if kind & 4:
            words.add("created")
        if kind & 8:
            words.add("deleted")
        if kind & 16:
            words.add("updated")
            if state:
                moves = _ask(
                    db, "select distinct to_state from app.allowed_moves where machine = %s", table
                )
                words |= set(moves) or states_of(db, table, state)
        for word in words:
            emitted.setdefault(f"{module}.{entity}.{word}", set()).add(trigger)
    written = re.compile(r"record_event\s*\(\s*[^,]+,\s*'([a-z_]+)'\s*,\s*'([a-z_.]+)'")
    for signature, body in sources(db).items():
        for module, event_type in written.findall(body):
            emitted.setdefault(f"{module}.{event_type}", set()).add(signature)
    return emitted


def registered_events(db: Connection) -> set[str]:
    """Return every event type of the catalogue."""
    return set(_ask(db, "select module || '.' || event_type from app.event_types"))


@law
def every_event_that_is_emitted_is_in_the_catalogue(db: Connection) -> list[str]:
    return [
        f"{event} from {', '.join(sorted(origin))}"
        for event, origin in emitted_events(db).items()
        if event not in registered_events(db)
    ]


@law
def every_event_of_the_catalogue_is_emitted(db: Connection) -> Iterable[str]:
    return registered_events(db) - set(emitted_events(db))


@law
def events_carry_no_personal_data_and_only_their_columns(db: Connection) -> list[str]:
    offenders = []
    for (table, trigger), (_module, _entity, _state, *columns) in trigger_arguments(
        db, "app.emit_event"
    ).items():
        comments = dict(
            db.execute(
                "select a.attname, coalesce(col_description(a.attrelid, a.attnum), '') from pg_attribute a"
                " where a.attrelid = to_regclass('public.' || %s) and a.attnum > 0 and not a.attisdropped",
                (table,),
            ).fetchall()
        )
        offenders += [
            f"{trigger}: {column}"
            for column in columns
            if column not in comments or comments[column].startswith("[pii]")
        ]
    return offenders


@law
def the_catalogue_names_the_payload_of_every_event(db: Connection) -> list[str]:
    keys = dict(
        db.execute(
            "select module || '.' || event_type, payload_keys::text[] from app.event_types"
        ).fetchall()
    )
    emitted = emitted_events(db)
    offenders = []
    for (_table, trigger), (module, entity, state, *columns) in trigger_arguments(
        db, "app.emit_event"
    ).items():
        every = {*columns, *([state] if state else [])}
        for event, payload in keys.items():
            if event.startswith(f"{module}.{entity}.") and trigger in emitted.get(event, ()):
                updates = not event.endswith((".created", ".deleted"))
                wrong = (every | ({"changed"} if updates else set())) ^ set(payload or [])
                offenders += [f"{event}: {key} in payload or payload_keys only" for key in wrong]
    return offenders
