"""What the audit log has to hold: a line for every change of people's rights, of money and contracts, of policies."""

from typing import Final

import psycopg

from tests.people import Connection

AUDITED: Final = {
    "people and their rights": (
        "organizations",
        "memberships",
        "invitations",
        "org_role_permissions",
        "api_keys",
        "integration_credentials",
        "webhook_endpoints",
        "webhook_sources",
        "event_subscriptions",
        "workflows",
        "agents",
        "agent_tool_grants",
        "agent_approvals",
    ),
    "money and contracts": (
        "contracts",
        "contract_items",
        "contract_adjustments",
        "contract_risk_analyses",
        "proposals",
        "proposal_items",
        "performance_metrics",
        "time_entries",
        "tasks",
        "reconciliation_alerts",
        "ai_budgets",
    ),
    "policies": ("policies", "policy_acceptances", "legal_docs"),
}
TABLES: Final = tuple(table for tables in AUDITED.values() for table in tables)
# Acts that need no line: hours are logged all day, an acceptance is never changed.
UNRECORDED: Final = {"time_entries": ("insert",), "policy_acceptances": ("update",)}
# The change that is tried, where counters and times of use change without a line.
CHANGES: Final = {
    "api_keys": "revoked_at = now()",
    "webhook_sources": "revoked_at = now()",
    "webhook_endpoints": "url = url || '/moved'",
    "workflows": "name = name || '!'",
}


def unrecorded(db: Connection, table: str) -> list[str]:
    """Insert, change and delete a row with nothing but the audit looking on, and undo it.

    Args:
        db: A connection of the owner to a database with a row in every tenant table.
        table: One of `TABLES`.

    Returns:
        The acts that left no line, or one too many.
    """
    found: list[str] = []
    change = CHANGES.get(table, "created_at = created_at - interval '1 day'")
    with db.transaction(force_rollback=True):
        db.execute("set local session_replication_role = replica")
        try:
            with db.transaction():
                db.execute(f"alter table {table} enable always trigger {table}_80_audit")
        except psycopg.errors.UndefinedObject:
            return ["insert", "update", "delete"]
        row = db.execute(f"select ctid from {table} limit 1").fetchone()
        assert row is not None, f"{table} is empty"
        db.execute(
            f"create temporary table taken on commit drop as select * from {table} where ctid = %s",
            row,
        )
        columns = _columns(db, table)
        for act, statement in {
            "delete": f"delete from {table} where ctid = '{row[0]}'",
            "insert": f"insert into {table} ({columns}) select {columns} from taken",
            "update": f"update {table} set {change} where ctid = (select max(ctid) from {table})",
        }.items():
            before = _lines(db, table, act)
            db.execute(statement)
            if _lines(db, table, act) != before + (act not in UNRECORDED.get(table, ())):
                found.append(act)
    return found


def _columns(db: Connection, table: str) -> str:
    return ", ".join(
        row[0]
        for row in db.execute(
            "select quote_ident(attname) from pg_attribute where attrelid = %s::regclass and attnum > 0"
            " and not attisdropped and attgenerated = '' order by attnum",
            (table,),
        ).fetchall()
    )


def _lines(db: Connection, table: str, act: str) -> int:
    row = db.execute(
        "select count(*) from public.audit_log where table_name = %s and action = %s", (table, act)
    ).fetchone()
    assert row is not None
    return int(row[0])
