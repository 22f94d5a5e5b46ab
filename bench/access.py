"""What row level security costs a list of 50, and what the other forms of a policy would cost."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import psycopg

from bench.measure import at_least, at_most, in_turn, median_ms, p95_ms, within
from bench.subject import plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.measure import Figure
    from bench.subject import Bench

# What PostgREST makes of GET /leads?order=created_at.desc&limit=50, with &org_id=eq.… and without.
_AS_REST: Final = """
with pgrst_source as (
    select public.leads.* from public.leads {}
    order by public.leads.created_at desc limit 50 offset 0
)

select
    null::bigint as total_result_set, count(_postgrest_t) as page_total,
    coalesce(json_agg(_postgrest_t), '[]') as body
from (select * from pgrst_source) as _postgrest_t
"""
_OF_A_TENANT: Final = _AS_REST.format("where public.leads.org_id = %s")
_OF_ALL: Final = _AS_REST.format("")
_BARE: Final = "select * from public.leads where org_id = %s order by created_at desc limit 50"

_SUBQUERY: Final = """
org_id in (select m.org_id from public.memberships as m where m.user_id = (select auth.uid()))
"""
_PER_ROW: Final = "app.bench_is_member(org_id)"
_HELPER: Final = """
create or replace function app.bench_is_member(org uuid) returns boolean
language sql stable security definer set search_path = ''
as $$
    select exists (
        select from public.memberships as m where m.org_id = org and m.user_id = auth.uid()
    )
$$;
grant execute on function app.bench_is_member(uuid) to authenticated
"""
_LONGEST_S: Final = 60


def with_tenant_filter(bench: Bench) -> list[Figure]:
    """Compare a member's list of his tenant with the owner's.

    Args:
        bench: Where.

    Returns:
        One figure.
    """
    bench.fill("leads")
    number = bench.tenants // 2
    asked: list[object] = [bench.tenant(number)]
    with bench.owner() as owner, bench.member(number) as member:

        def compare(query: str) -> tuple[float, float]:
            seconds = in_turn(
                {
                    "member": lambda: member.execute(query, asked).fetchall(),
                    "owner": lambda: owner.execute(query, asked).fetchall(),
                },
                rounds=20,
                calls=50,
                warm_up=10,
            )
            return median_ms(seconds["member"]), median_ms(seconds["owner"])

        as_rest, bare = compare(_OF_A_TENANT), compare(_BARE)
        alone = f"{bare[0]:.3f} ms against {bare[1]:.3f} ms, {bare[0] / bare[1]:.2f} x"
        notes = [
            f"as PostgREST asks; the select alone, without its JSON: {alone}",
            f"member: {plan(member, _OF_A_TENANT, asked)}",
            f"owner: {plan(owner, _OF_A_TENANT, asked)}",
        ]
    return [
        at_most(
            1.5,
            "list of 50 under RLS, tenant named",
            *as_rest,
            "the owner without RLS",
            *notes,
        )
    ]


def without_tenant_filter(bench: Bench) -> list[Figure]:
    """Compare the house form of a policy with the two forms most guides recommend.

    Args:
        bench: Where.

    Returns:
        Three figures: time, gain over the subquery form, gain over the helper per row.
    """
    bench.fill("leads")
    number = bench.tenants // 2
    with bench.owner() as owner, bench.member(number) as member:
        owner.execute(_HELPER, prepare=False)

        def ask() -> None:
            row = member.execute(_OF_ALL).fetchone()
            assert row
            assert row[1] == min(50, bench.rows // bench.tenants)

        def ask_as_owner() -> None:
            owner.execute(_OF_A_TENANT, [bench.tenant(number)]).fetchall()

        house, owned, subquery = [], [], []
        for _ in range(5):
            seconds = in_turn(
                {"house": ask, "owner": ask_as_owner}, rounds=1, calls=100, warm_up=10
            )
            house += seconds["house"]
            owned += seconds["owner"]
            with _policy(owner, _SUBQUERY):
                subquery += in_turn({"in": ask}, rounds=1, calls=5, warm_up=1)["in"]
        notes = [f"house: {plan(member, _OF_ALL, [])}"]
        with _policy(owner, _SUBQUERY):
            notes.append(f"in (select …): {plan(member, _OF_ALL, [])}")
        bench.say("asking once with a helper per row …")
        with _policy(owner, _PER_ROW):
            per_row, note = _once(member)
        notes.append(f"helper per row: {note}")
    slow, fast = median_ms(subquery), median_ms(house)
    return [
        within(
            (10, "ms"),
            "list of 50 under RLS, no tenant named, p95",
            p95_ms(house),
            p95_ms(owned),
            "the owner, told the tenant",
            *notes,
        ),
        at_least(10, "the same, median", fast, slow, "policy with in (select …)"),
        at_least(0, "the same, median", fast, per_row * 1000, "policy with a helper per row"),
    ]


@contextlib.contextmanager
def _policy(owner: psycopg.Connection[Any], form: str) -> Iterator[None]:
    """Put another form in the place of the policy, for the length of a block."""
    row = owner.execute(
        "select qual from pg_policies where tablename = 'leads' and policyname = 'leads_select'"
    ).fetchone()
    assert row
    owner.execute(f"alter policy leads_select on public.leads using ({form})", prepare=False)
    try:
        yield
    finally:
        owner.execute(f"alter policy leads_select on public.leads using ({row[0]})", prepare=False)


def _once(member: psycopg.Connection[Any]) -> tuple[float, str]:
    """Run the slow form once, and no longer than a minute."""
    member.execute(f"set statement_timeout = '{_LONGEST_S}s'")
    try:
        seconds = in_turn({"": lambda: member.execute(_OF_ALL).fetchall()}, rounds=1)[""]
        return seconds[0], plan(member, _OF_ALL, [])
    except psycopg.errors.QueryCanceled:
        return float(_LONGEST_S), f"given up after {_LONGEST_S} s"
    finally:
        member.execute("reset statement_timeout")
