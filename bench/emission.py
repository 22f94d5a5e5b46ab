"""What it costs a write that its event is recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bench.measure import at_most, in_turn, median_ms
from bench.subject import become

if TYPE_CHECKING:
    import psycopg

    from bench.measure import Figure
    from bench.subject import Bench

_ONE: Final = """
insert into public.leads (org_id, name, email, company, message, origin_url, source)
values (%s, 'Ana Souza', 'ana@cliente.example', 'Cliente', 'Olá', 'https://tenant.example/contato',
    'site')
"""
_MANY: Final = """
insert into public.leads (org_id, name, email, company, message, origin_url, source)
select %s, 'Pessoa ' || n, 'pessoa-' || n || '@cliente.example', 'Cliente', 'Olá',
    'https://tenant.example/contato', 'import'
from generate_series(1, %s) as n
"""
_BULK_ROWS: Final = 100_000


def one_insert(bench: Bench) -> list[Figure]:
    """Compare a member's single insert with and without its event.

    Args:
        bench: Where.

    Returns:
        One figure.
    """
    bench.fill("leads")
    number = bench.tenants // 2
    asked = [bench.tenant(number)]
    with bench.owner() as owner, bench.owner() as writer, bench.member(number) as member:
        # The owner's insert has no policy to check, so the event weighs more: the harder measure.
        # It carries a person's claims, as the event's actor is looked up only then.
        become(writer, bench.person(number))
        writer.execute("reset role")
        by_owner = _with_and_without(owner, writer, asked)
        by_member = _with_and_without(owner, member, asked)
        events = _count(owner, "module_events")
    return [
        at_most(
            1.35,
            "one insert with its event",
            *by_owner,
            "trigger disabled",
            f"{events:,} events recorded; by a member under RLS {by_member[0]:.3f} ms against"
            f" {by_member[1]:.3f} ms, {by_member[0] / by_member[1]:.2f} x",
        )
    ]


def bulk_insert(bench: Bench) -> list[Figure]:
    """Compare 100,000 rows in one statement with and without their events.

    Args:
        bench: Where.

    Returns:
        One figure.
    """
    bench.fill("leads")
    rows = min(_BULK_ROWS, bench.rows)
    asked = [bench.tenant(1), rows]
    with bench.owner() as owner, bench.owner() as writer:
        bench.say(f"inserting {rows:,} rows at once, with events and without …")
        seconds = in_turn(
            {state: lambda: writer.execute(_MANY, asked) for state in ("enable", "disable")},
            rounds=3,
            before=lambda state: _switch(owner, state),
        )
        _switch(owner, "enable")
    value, baseline = median_ms(seconds["enable"]), median_ms(seconds["disable"])
    return [
        at_most(
            2.3,
            f"{rows:,} rows at once with their events",
            value,
            baseline,
            "trigger disabled",
            f"{value * 1000 / rows:.0f} µs a row against {baseline * 1000 / rows:.0f} µs,"
            " constraints, indexes and the history row of leads included",
        )
    ]


def _with_and_without(
    owner: psycopg.Connection[Any], writer: psycopg.Connection[Any], asked: list[Any]
) -> tuple[float, float]:
    seconds = in_turn(
        {state: lambda: writer.execute(_ONE, asked) for state in ("enable", "disable")},
        rounds=20,
        calls=100,
        warm_up=20,
        before=lambda state: _switch(owner, state),
    )
    _switch(owner, "enable")
    return median_ms(seconds["enable"]), median_ms(seconds["disable"])


def _switch(owner: psycopg.Connection[Any], state: str) -> None:
    owner.execute(f"alter table public.leads {state} trigger leads_70_emit", prepare=False)


def _count(owner: psycopg.Connection[Any], table: str) -> int:
    row = owner.execute(f"select count(*) from public.{table}").fetchone()
    assert row
    return int(row[0])
