"""What every subject measures on: one database with many tenants, filled on demand."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

import psycopg
from psycopg import sql

from nessos.local.postgres import Cluster, Version, build_database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SETTINGS: Final = {
    "shared_buffers": "512MB",
    "max_connections": "60",
    "work_mem": "16MB",
    "maintenance_work_mem": "256MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
    "jit": "off",
    # A slow disk would hide what the code costs, and a background task would hit one variant only.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
}

_TENANTS: Final = """
insert into public.organizations (id, name, slug)
select md5('tenant ' || n)::uuid, 'Tenant ' || n, 'tenant-' || n from generate_series(1, %s) as n
"""

_PEOPLE: Final = """
with people as (
    insert into auth.users (id, email)
    select md5('person ' || n)::uuid, 'person-' || n || '@tenant.example'
    from generate_series(1, %s) as n
    returning id
)

select count(*) from people
"""

_MEMBERS: Final = """
insert into public.memberships (org_id, user_id, role)
select md5('tenant ' || n)::uuid, md5('person ' || n)::uuid, 'admin'
from generate_series(1, %s) as n
"""

_LEADS: Final = """
insert into public.leads (
    org_id, id, name, email, company, phone, message, origin_url, source, status, score,
    owner_id, created_at, updated_at, lost_reason
)
select
    md5('tenant ' || 1 + n %% %s)::uuid, md5('lead ' || n)::uuid, 'Pessoa ' || n,
    'pessoa-' || n || '@cliente.example', 'Cliente ' || n %% 9973, '+55 11 9' || n,
    'Gostaria de uma proposta para o site e o escritório, por favor.',
    'https://tenant.example/contato', 'site',
    (array['new', 'qualified', 'proposal', 'won', 'lost'])[1 + n %% 5], n %% 101,
    case when n %% 3 = 0 then md5('person ' || 1 + n %% %s)::uuid end,
    moment.at, moment.at, case when n %% 5 = 4 then 'Preço' end
from generate_series(1, %s) as n
cross join lateral (
    select timestamptz '2026-01-01 00:00-03'
        + n::bigint * 7919 %% 31536000 * interval '1 second' as at
) as moment
"""

_EVENT_TYPES: Final = 8
_EVENTS: Final = """
insert into public.module_events (
    org_id, id, module, event_type, entity_type, entity_id, actor_id, actor_kind, payload,
    request_id, occurred_at, occurred_on
)
select
    tenant.id, md5('event ' || n)::uuid, kind.module, kind.event_type,
    'lead', md5('lead ' || n)::uuid, tenant.admin, 'user',
    jsonb_build_object(
        'source', 'site', 'source_page', 'Contato', 'owner_id', tenant.admin, 'score', n %% 101,
        'status', 'qualified', 'changed', '["status"]'::jsonb
    ),
    md5('request ' || n)::uuid::text, moment.at, (moment.at at time zone 'America/Sao_Paulo')::date
from generate_series(1, %s) as n
inner join (
    select t.module, t.event_type, row_number() over (order by t.module, t.event_type) as number
    from app.event_types as t
    where t.module = 'growth' and t.event_type like 'lead.%%'
) as kind on kind.number = 1 + n / %s %% %s
cross join lateral (
    select
        md5('tenant ' || 1 + n %% %s)::uuid as id, md5('person ' || 1 + n %% %s)::uuid as admin
) as tenant
cross join lateral (
    select (date_trunc('day', now() at time zone 'America/Sao_Paulo') - interval '1 day')
        at time zone 'America/Sao_Paulo' + n %% 86400 * interval '1 second' as at
) as moment
"""


@dataclass
class Bench:
    """A database to measure on.

    Attributes:
        folder: A folder of this run, removed at its end.
        version: Major version of Postgres.
        rows: Rows of the big tables.
        tenants: Organisations they belong to.
        say: Where progress goes.
    """

    folder: Path
    version: Version
    rows: int
    tenants: int
    say: Callable[[str], object]
    url: str = ""
    _filled: set[str] = field(default_factory=set)

    @contextlib.contextmanager
    def running(self) -> Iterator[Bench]:
        """Start the server for the length of a block; the database is built on first use.

        Yields:
            Itself.
        """
        self._cluster = Cluster(self.folder / "postgres", self.version, settings=SETTINGS)
        try:
            yield self
        finally:
            self._cluster.remove()

    def owner(self) -> psycopg.Connection[Any]:
        """Connect as the owner, whom row level security does not touch.

        Returns:
            An autocommit connection that prepares every statement.
        """
        self._build()
        connection = psycopg.connect(self.url, autocommit=True)
        connection.prepare_threshold = 0
        return connection

    def member(self, tenant: int) -> psycopg.Connection[Any]:
        """Connect as the admin of one tenant, the way REST does: a role and claims.

        Args:
            tenant: Number of the tenant, from 1.

        Returns:
            An autocommit connection that prepares every statement.
        """
        connection = self.owner()
        become(connection, self.person(tenant))
        return connection

    def tenant(self, number: int) -> UUID:
        """Give the key of a tenant.

        Args:
            number: Its number, from 1.

        Returns:
            Its org_id.
        """
        return self._key(f"tenant {number}")

    def person(self, number: int) -> UUID:
        """Give the key of a tenant's admin.

        Args:
            number: The tenant's number, from 1.

        Returns:
            The person.
        """
        return self._key(f"person {number}")

    def fill(self, table: Literal["leads", "module_events"]) -> None:
        """Have a table hold its rows, once per run. Triggers rest; constraints do not.

        Args:
            table: Which.
        """
        if table in self._filled:
            return
        with self.owner() as connection:
            self.say(f"filling {table} with {self.rows:,} rows of {self.tenants:,} tenants …")
            connection.execute("set session_replication_role = replica")
            if table == "leads":
                connection.execute(_LEADS, [self.tenants, self.tenants, self.rows])
            else:
                connection.execute(
                    _EVENTS,
                    [self.rows, self.tenants, _EVENT_TYPES, self.tenants, self.tenants],
                )
            # Events are counted soon after they were written, before any vacuum.
            command = "vacuum (analyze) {}" if table == "leads" else "analyze {}"
            connection.execute(sql.SQL(command).format(sql.Identifier("public", table)))
        self._filled.add(table)

    def _build(self) -> None:
        if self.url:
            return
        self.say(f"starting Postgres {self.version} and building the database …")
        self._cluster.start()
        self.url = build_database(self._cluster, "bench")
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in (_TENANTS, _PEOPLE, _MEMBERS):
                connection.execute(statement, [self.tenants])
            connection.execute("analyze")

    @staticmethod
    def _key(text: str) -> UUID:
        # The digest the statements above take, too.
        return UUID(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest())


def become(connection: psycopg.Connection[Any], person: UUID) -> None:
    """Act as a signed-in person from here on.

    Args:
        connection: Whose session.
        person: Who.
    """
    claims = json.dumps({"sub": str(person), "role": "authenticated"})
    connection.execute("select set_config('request.jwt.claims', %s, false)", [claims])
    connection.execute("set role authenticated")


def plan(connection: psycopg.Connection[Any], query: str, arguments: list[object]) -> str:
    """Summarise how a query is executed.

    Args:
        connection: Who asks.
        query: The query.
        arguments: Its arguments.

    Returns:
        Its scans with rows and the buffers it touched.
    """
    row = connection.execute(
        "explain (analyze, buffers, format json) " + query, arguments, prepare=False
    ).fetchone()
    assert row
    top = row[0][0]["Plan"]
    buffers = top["Shared Hit Blocks"] + top["Shared Read Blocks"]
    return f"{' + '.join(_scans(top))}; {buffers:,} buffers"


def _scans(node: dict[str, Any]) -> list[str]:
    own = []
    if place := node.get("Index Name") or node.get("Relation Name"):
        seen = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        own = [f"{node['Node Type']} {place} ({seen:,.0f} rows)"]
    return [*own, *(scan for child in node.get("Plans", []) for scan in _scans(child))]
