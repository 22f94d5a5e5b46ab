"""Mutations of the database's rules, one by one, read from the catalog of a migrated database.

Each takes one rule away: a policy, a grant's absence, a guard, a check, a key's tenant. A suite that stays green without the
rule would not notice its loss.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.people import Connection
from tests.rules import refusals

# The parts of a policy's expression that name organisations, as Postgres shows them.
_TENANT_PART = re.compile(
    r"\((?:org_id|id) (?:= ANY|<> ALL) \(\( ?SELECT app\.\w+_ids\([^()]*\) AS \w+\)::uuid\[\]\)\)"
)
_API_ROLES = ("anon", "authenticated")
_VERBS = ("select", "insert", "update", "delete")


@dataclass(frozen=True)
class Mutation:
    """One rule taken away.

    Attributes:
        kind: What is done to it.
        target: The rule.
        table: The table or function it belongs to, which says what tests are about it.
        statement: SQL that does it.
        function: What a trigger calls; it says so as well.
    """

    kind: str
    target: str
    table: str
    statement: str
    function: str = ""

    @property
    def name(self) -> str:
        """The kind and the rule."""
        return f"{self.kind}: {self.target}"


Generator = Callable[[Connection], Iterator[Mutation]]
GENERATORS: dict[str, Generator] = {}


def _kind(generate: Generator) -> Generator:
    GENERATORS[generate.__name__] = generate
    return generate


def of(db: Connection) -> list[Mutation]:
    """Return every mutation of a database, in the order of the catalog."""
    return [mutation for generate in GENERATORS.values() for mutation in generate(db)]


@_kind
def policies(db: Connection) -> Iterator[Mutation]:
    """Drop each policy; relax its using and its check to true; take the tenant out of it."""
    for schema, table, policy, using, check in db.execute(
        "select schemaname, tablename, policyname, qual, with_check from pg_policies"
        " where schemaname in ('public', 'app', 'storage') order by 1, 2, 3"
    ).fetchall():
        name, on = f"{table}.{policy}", f'{policy} on {schema}."{table}"'
        yield Mutation("drop policy", name, table, f"drop policy {on}")
        for word, expression in (("using", using), ("with check", check)):
            if expression in (None, "true"):
                continue
            yield Mutation(f"{word} true", name, table, f"alter policy {on} {word} (true)")
            for part in _TENANT_PART.finditer(expression):
                bare = f"{expression[: part.start()]}true{expression[part.end() :]}"
                if part[0] != expression:
                    yield Mutation(
                        f"{word} without tenant", f"{name}@{part.start()}", table, f"alter policy {on} {word} ({bare})"
                    )  # fmt: skip


@_kind
def grants(db: Connection) -> Iterator[Mutation]:
    """Grant each verb on each table and view to visitors and members where it is not granted."""
    for schema, table, role, verb in db.execute(
        "select n.nspname, c.relname, r.name, v.name from pg_class c"
        " join pg_namespace n on n.oid = c.relnamespace"
        " cross join unnest(%s::text[]) r (name) cross join unnest(%s::text[]) v (name)"
        " where n.nspname = 'public' and c.relkind in ('r', 'p', 'v') and not c.relispartition"
        " and not has_table_privilege(r.name, c.oid, v.name) order by 2, 3, 4",
        (list(_API_ROLES), list(_VERBS)),
    ).fetchall():
        yield Mutation(
            "grant", f"{verb} on {table} to {role}", table, f'grant {verb} on {schema}."{table}" to {role}'
        )  # fmt: skip


@_kind
def row_level_security(db: Connection) -> Iterator[Mutation]:
    """Switch row level security off, and no longer force it, table by table."""
    for schema, table, on, forced in db.execute(
        "select n.nspname, c.relname, c.relrowsecurity, c.relforcerowsecurity from pg_class c"
        " join pg_namespace n on n.oid = c.relnamespace where n.nspname = 'public'"
        " and c.relkind in ('r', 'p') and not c.relispartition order by 2"
    ).fetchall():
        if on:
            yield Mutation(
                "no row level security", table, table, f'alter table {schema}."{table}" disable row level security'
            )  # fmt: skip
        if forced:
            yield Mutation(
                "row level security not forced", table, table,
                f'alter table {schema}."{table}" no force row level security',
            )  # fmt: skip


@_kind
def views(db: Connection) -> Iterator[Mutation]:
    """Let each view run with its owner's rights."""
    for (view,) in db.execute(
        "select c.relname from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind = 'v'"
        " order by 1"
    ).fetchall():
        yield Mutation(
            "security_invoker off", view, view, f'alter view public."{view}" set (security_invoker = false)'
        )  # fmt: skip


@_kind
def functions(db: Connection) -> Iterator[Mutation]:
    """Take the fixed search path from each function."""
    for signature, name in db.execute(
        "select p.oid::regprocedure::text, p.proname from pg_proc p"
        " where p.pronamespace in (select oid from pg_namespace where nspname in ('public', 'app', 'agent_tools'))"
        " and p.proconfig::text like '%search_path%' and not exists ("
        " select from pg_depend d where d.objid = p.oid and d.deptype = 'e') order by 1"
    ).fetchall():
        yield Mutation(
            "search_path off", signature, name, f"alter function {signature} reset search_path"
        )


@_kind
def triggers(db: Connection) -> Iterator[Mutation]:
    """Drop each trigger: guards, events, audit, synchronisation."""
    for schema, table, trigger, function in db.execute(
        "select n.nspname, c.relname, t.tgname, t.tgfoid::regproc::text from pg_trigger t"
        " join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace"
        " where not t.tgisinternal and t.tgparentid = 0 and n.nspname in ('public', 'app') order by 2, 3"
    ).fetchall():
        kind = {"app.emit_event": "drop emission", "app.audit_row": "drop audit"}.get(
            function, "drop trigger"
        )
        yield Mutation(
            kind, trigger, table, f'drop trigger {trigger} on {schema}."{table}"', function
        )


@_kind
def checks(db: Connection) -> Iterator[Mutation]:
    """Drop each check constraint."""
    for check in refusals.checks(db):
        schema, _, name = check.table.rpartition(".")
        yield Mutation(
            "drop check", f"{check.table}.{check.name}", name,
            f'alter table {schema or "public"}."{name}" drop constraint "{check.name}"',
        )  # fmt: skip


@_kind
def keys(db: Connection) -> Iterator[Mutation]:
    """Take org_id out of each foreign key and out of each unique constraint."""
    for table, constraint, definition, parent, parent_columns in db.execute(
        "select k.conrelid::regclass::text, k.conname, pg_get_constraintdef(k.oid), k.confrelid::regclass::text,"
        " array(select a.attname::text from unnest(k.confkey) with ordinality u (n, i)"
        " join pg_attribute a on a.attrelid = k.confrelid and a.attnum = u.n where a.attname <> 'org_id' order by i)"
        " from pg_constraint k where k.contype = 'f' and k.conparentid = 0"
        " and k.connamespace in ('public'::regnamespace, 'app'::regnamespace) and cardinality(k.conkey) > 1"
        " and pg_get_constraintdef(k.oid) like 'FOREIGN KEY (org_id, %' order by 1, 2"
    ).fetchall():
        columns = ", ".join(parent_columns)
        single = definition.replace("(org_id, ", "(")
        yield Mutation(
            "key without tenant", f"{table}.{constraint}", table.rpartition(".")[2],
            f'create unique index on {parent} ({columns}); alter table {table} drop constraint "{constraint}",'
            f' add constraint "{constraint}" {single}',
        )  # fmt: skip
    for table, index, definition in db.execute(
        "select i.indrelid::regclass::text, i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid) from pg_index i"
        " join pg_class c on c.oid = i.indrelid where i.indisunique and not c.relispartition"
        " and c.relnamespace in ('public'::regnamespace, 'app'::regnamespace)"
        " and not exists (select from pg_constraint k where k.conindid = i.indexrelid)"
        " and pg_get_indexdef(i.indexrelid) ~ '[(]org_id, ' order by 1, 2"
    ).fetchall():
        yield Mutation(
            "unique without tenant", f"{table}.{index}", table.rpartition(".")[2],
            f"drop index {index}; {definition.replace('(org_id, ', '(')}",
        )  # fmt: skip
    for table, constraint, definition in db.execute(
        "select k.conrelid::regclass::text, k.conname, pg_get_constraintdef(k.oid) from pg_constraint k"
        " where k.contype = 'u' and k.conparentid = 0"
        " and k.connamespace in ('public'::regnamespace, 'app'::regnamespace)"
        " and pg_get_constraintdef(k.oid) ~ '[(]org_id, ' order by 1, 2"
    ).fetchall():
        yield Mutation(
            "unique without tenant", f"{table}.{constraint}", table.rpartition(".")[2],
            f'alter table {table} drop constraint "{constraint}" cascade, add constraint "{constraint}"'
            f" {definition.replace('(org_id, ', '(')}",
        )  # fmt: skip


@_kind
def calls(db: Connection) -> Iterator[Mutation]:
    """Let visitors and members call each function that is closed to them."""
    for signature, role in db.execute(
        "select p.oid::regprocedure::text, r.name from pg_proc p cross join unnest(%s::text[]) r (name)"
        " where p.pronamespace in ('public'::regnamespace, 'app'::regnamespace) and p.prokind = 'f'"
        " and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)"
        " and not has_function_privilege(r.name, p.oid, 'execute') and not exists ("
        " select from pg_depend d where d.objid = p.oid and d.deptype = 'e') order by 1, 2",
        (list(_API_ROLES),),
    ).fetchall():
        yield Mutation(
            "grant execute", f"{signature} to {role}", signature, f"grant execute on function {signature} to {role}"
        )  # fmt: skip


@_kind
def agents(db: Connection) -> Iterator[Mutation]:
    """Let agents write, and read, each module that the matrix keeps from them."""
    for module, verb in db.execute(
        "select m.module, v.verb from (select distinct module from public.role_permissions) m"
        " cross join (values ('read'), ('write')) v (verb)"
        " left join public.role_permissions p on p.role = 'agent' and p.module = m.module"
        " where case v.verb when 'read' then p.read_scope else p.write_scope end is distinct from 'all'"
        " order by 1, 2"
    ).fetchall():
        yield Mutation(
            f"agents {verb}", module, "role_permissions",
            f"update public.role_permissions set {verb}_scope = 'all' where role = 'agent' and module = '{module}'",
        )  # fmt: skip
