"""The demo companies: complete, plausible, and the ground on which the analyst's queries run."""

import re
from collections.abc import Iterator
from uuid import UUID

import psycopg
import pytest

from nessos.settings import ROOT
from tests.people import Connection, as_analyst, refused

QUERIES = re.findall(
    r"^```sql\n(.*?)^```",
    (ROOT / "docs" / "analyst.md").read_text(),
    flags=re.MULTILINE | re.DOTALL,
)


@pytest.fixture(scope="module")
def seeded(seeded_url: str) -> Iterator[Connection]:
    with psycopg.connect(seeded_url) as connection:
        yield connection
        connection.rollback()


@pytest.fixture(params=["vigia", "claquete"])
def org(request: pytest.FixtureRequest, seeded: Connection) -> UUID:
    row = seeded.execute(
        "select id from organizations where slug = %s", (request.param,)
    ).fetchone()
    assert row is not None
    return UUID(str(row[0]))


def count(db: Connection, query: str, org: UUID) -> int:
    row = db.execute(f"select count(*) from {query}", {"org": org}).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize(
    ("query", "at_least"),
    [
        ("leads where org_id = %(org)s", 60),
        ("clients where org_id = %(org)s and app.is_valid_document(document)", 25),
        ("contracts where org_id = %(org)s", 30),
        ("playbooks where org_id = %(org)s and estimated_minutes > 0", 8),
        ("service_actions where org_id = %(org)s and total_cost > 0", 6),
        ("time_entries where org_id = %(org)s", 500),
        ("performance_metrics where org_id = %(org)s and hours_worked > 0", 100),
        ("public_posts where org_id = %(org)s and status = 'published'", 4),
        ("public_jobs where org_id = %(org)s and is_open", 2),
        ("policies where org_id = %(org)s and status = 'published'", 3),
        ("(select distinct period from data_indices where org_id = %(org)s) as m", 12),
        ("(select distinct index_key from data_indices where org_id = %(org)s) as k", 16),
        ("(select distinct occurred_on from module_events where org_id = %(org)s) as d", 200),
    ],
)
def test_each_demo_company_has_a_year_of_history(
    seeded: Connection, org: UUID, query: str, at_least: int
) -> None:
    assert count(seeded, query, org) >= at_least


def test_there_are_contracts_and_leads_in_every_state(seeded: Connection, org: UUID) -> None:
    for table in ("contracts", "leads"):
        states = {
            row[0]
            for row in seeded.execute(f"select status from {table} where org_id = %s", (org,))
        }
        known = {
            row[0]
            for row in seeded.execute(
                "select from_state from app.allowed_moves where machine = %s"
                " union select to_state from app.allowed_moves where machine = %s",
                (table, table),
            )
        }
        assert states == known


def test_there_is_one_login_per_role(seeded: Connection, org: UUID) -> None:
    roles = seeded.execute(
        "select m.role, u.email from memberships as m"
        " inner join auth.users as u on u.id = m.user_id"
        " inner join organizations as o on o.id = m.org_id where o.id = %s",
        (org,),
    ).fetchall()
    known = {row[0] for row in seeded.execute("select role from roles")}
    assert {role for role, _ in roles} == known
    assert all(email.startswith(f"{role}@") for role, email in roles)


def test_nothing_in_the_demo_lies_in_the_future(seeded: Connection, org: UUID) -> None:
    row = seeded.execute(
        "select max(occurred_at) <= now() + interval '1 day' from module_events where org_id = %s",
        (org,),
    ).fetchone()
    assert row == (True,)


def test_loading_the_demo_twice_gives_the_same_rows(seeded: Connection, empty_db_url: str) -> None:
    fingerprint = (
        "select md5(string_agg(md5(to_jsonb(c)::text), '' order by c.org_id, c.number))"
        " from (select org_id, number, mrr, status, starts_on from contracts) as c"
    )
    with psycopg.connect(empty_db_url) as again:
        again.execute((ROOT / "supabase" / "seed.sql").read_bytes())
        assert again.execute(fingerprint).fetchone() == seeded.execute(fingerprint).fetchone()


def test_the_guide_for_analysts_has_queries() -> None:
    assert len(QUERIES) >= 5


@pytest.mark.parametrize("query", QUERIES)
def test_an_analyst_can_run_the_queries_of_the_guide(seeded: Connection, query: str) -> None:
    login = "analyst_of_the_guide"
    with seeded.transaction(force_rollback=True):
        seeded.execute(f"create role {login} login in role analyst")
        seeded.execute(
            "select app.grant_analyst(%s, id) from organizations where slug = 'vigia'", (login,)
        )
        seeded.execute("select app.rollup_events()")
        with as_analyst(seeded, login):
            rows = seeded.execute(query.encode()).fetchall()
        assert rows
        with as_analyst(seeded, login):
            orgs = seeded.execute("select count(distinct org_id) from contracts").fetchone()
    assert orgs == (1,)


def test_an_organisation_can_be_deleted_whole_and_leaves_the_other_untouched(
    seeded: Connection,
) -> None:
    tables = [
        row[0]
        for row in seeded.execute(
            "select table_name from app.protected_tables where table_name not in ('audit_log', 'audit_seals')"
        )
    ]

    def held() -> dict[str, dict[UUID, int]]:
        return {
            table: dict(
                seeded.execute(f"select org_id, count(*) from {table} group by 1").fetchall()
            )
            for table in tables
        }

    with seeded.transaction(force_rollback=True):
        before = held()
        row = seeded.execute("select id from organizations where slug = 'vigia'").fetchone()
        assert row is not None
        # Keys between its tables are deferrable for this: the cascade takes them in no useful order.
        seeded.execute("set constraints all deferred")
        seeded.execute("delete from organizations where id = %s", row)
        seeded.execute("set constraints all immediate")
        after = held()
    gone = row[0]
    assert sum(gone in counts for counts in before.values()) > 40
    for table, counts in before.items():
        assert after[table] == {org: n for org, n in counts.items() if org != gone}, table


def test_an_analysts_login_is_read_only_and_its_queries_end(seeded: Connection) -> None:
    with seeded.transaction(force_rollback=True):
        seeded.execute("create role analyst_new login in role analyst")
        seeded.execute("select app.grant_analyst('analyst_new', id) from organizations limit 1")
        row = seeded.execute(
            "select setconfig from pg_db_role_setting where setrole = 'analyst_new'::regrole"
        ).fetchone()
    assert row is not None
    assert sorted(row[0]) == ["default_transaction_read_only=on", "statement_timeout=60s"]


@pytest.mark.parametrize("login", ["nobody_here", "service_role", "postgres"])
def test_only_logins_of_the_group_are_granted_to_analysts(seeded: Connection, login: str) -> None:
    with refused("bad_input", seeded):
        seeded.execute("select app.grant_analyst(%s, id) from organizations limit 1", (login,))
