"""What counting events exactly once costs over counting them at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bench.measure import Figure, at_most, in_turn, median_ms

if TYPE_CHECKING:
    import psycopg

    from bench.subject import Bench

_GROUP_BY: Final = """
select count(*), sum(g.count) from (
    select e.org_id, e.occurred_on, e.module, e.event_type, count(*) as count
    from public.module_events as e
    where e.xid >= '0'::xid8 and e.xid < %s::xid8
    group by e.org_id, e.occurred_on, e.module, e.event_type
) as g
"""
_HORIZON: Final = "select pg_snapshot_xmin(pg_current_snapshot())::text"
_ROLLUP: Final = "select app.rollup_events()"
_DRIFT: Final = """
with recounted as (
    select e.org_id, e.occurred_on as period, e.module, e.event_type, count(*) as count
    from public.module_events as e
    group by e.org_id, e.occurred_on, e.module, e.event_type
)

select coalesce(sum(abs(coalesce(r.count, 0) - coalesce(a.count, 0))), 0)
from recounted as r
full join public.event_aggregates as a using (org_id, period, module, event_type)
"""


def rollup(bench: Bench) -> list[Figure]:
    """Compare the rollup of all events with one plain group by over them, and recount.

    Args:
        bench: Where.

    Returns:
        Two figures: time and drift.
    """
    with bench.owner() as owner:
        owner.execute("truncate public.module_events, public.event_aggregates")
        bench.fill("module_events")
        # The rollup writes and so runs in one process: the group by gets one process, too.
        owner.execute("set max_parallel_workers_per_gather = 0")
        horizon = _one(owner, _HORIZON)
        row = owner.execute(_GROUP_BY, [horizon]).fetchone()
        assert row
        groups, events = row
        assert events == bench.rows
        seconds = in_turn(
            {
                "first": lambda: _roll_up(owner, events),
                "again": lambda: _roll_up(owner, events),
                "group by": lambda: owner.execute(_GROUP_BY, [horizon]).fetchone(),
            },
            rounds=9,
            before=lambda name: _rewind(owner, keep_counts=name == "again"),
        )
        _rewind(owner, keep_counts=False)
        _roll_up(owner, events)
        drift = int(_one(owner, _DRIFT))
    baseline, again = median_ms(seconds["group by"]), median_ms(seconds["again"])
    return [
        at_most(
            1.2,
            f"rollup of {events:,} events",
            median_ms(seconds["first"]),
            baseline,
            "one plain group by",
            f"a day of {bench.tenants:,} tenants, {groups:,} counts; into counts that are there"
            f" already {again:.0f} ms, {again / baseline:.2f} x",
        ),
        Figure("drift of the rollup", drift, "events", 0, "a recount", None, "0", drift == 0),
    ]


def _roll_up(owner: psycopg.Connection[Any], events: int) -> None:
    assert _one(owner, _ROLLUP) == events


def _one(owner: psycopg.Connection[Any], query: str) -> Any:  # noqa: ANN401 - any column
    row = owner.execute(query).fetchone()
    assert row
    return row[0]


def _rewind(owner: psycopg.Connection[Any], *, keep_counts: bool) -> None:
    """Put the watermark before the first event; the counts go, or start the next rollup's."""
    if not keep_counts:
        owner.execute("truncate public.event_aggregates")
    owner.execute("vacuum (analyze) public.event_aggregates")
    # A rollup of nothing, so that the timed one does not pay for what the lines above unsettled.
    owner.execute("update app.rollup_state set counted_below = pg_current_xact_id()")
    owner.execute(_ROLLUP)
    owner.execute("update app.rollup_state set counted_below = '0'::xid8")
