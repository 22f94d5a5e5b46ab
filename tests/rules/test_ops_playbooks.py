"""Ops, the knowledge: totals that are always true, order, versions, reviews, files."""

import contextlib
import random
import threading
import tomllib
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.people import (
    Connection,
    Org,
    World,
    as_agent,
    as_client,
    as_member,
    as_worker,
    denied,
    refused,
    set_clock,
)

ROOT = Path(__file__).parents[2]

Number = Decimal | int


def one(db: Connection, query: str, *values: object) -> Any:
    """Give the one value (or the one row) a statement returns."""
    row = db.execute(query, values).fetchone()
    assert row is not None
    return row[0] if len(row) == 1 else row


def add_playbook(db: Connection, org: Org, **columns: object) -> UUID:
    """Insert a playbook and give its id."""
    return add(db, "playbooks", org, **{"title": f"Playbook {uuid4()}", **columns})


def add_task(db: Connection, org: Org, playbook: UUID, **columns: object) -> UUID:
    """Insert a task and give its id."""
    return add(db, "playbook_tasks", org, playbook_id=playbook, **{"title": "Passo", **columns})


def add_action(db: Connection, org: Org, *playbooks: UUID, **columns: object) -> UUID:
    """Insert a service action made of these playbooks and give its id."""
    action = add(db, "service_actions", org, **{"title": f"Job {uuid4()}", **columns})
    for playbook in playbooks:
        link(db, org, action, playbook)
    return action


def link(db: Connection, org: Org, action: UUID, playbook: UUID) -> UUID:
    """Make a playbook part of a service action."""
    return add(db, "service_action_playbooks", org, service_action_id=action, playbook_id=playbook)


def add(db: Connection, table: str, org: Org, **columns: object) -> UUID:
    """Insert a row and give its id."""
    names, marks = ", ".join(columns), ", ".join(["%s"] * len(columns))
    row = one(
        db,
        f"insert into public.{table} (org_id, {names}) values (%s, {marks}) returning id",
        org.org,
        *columns.values(),
    )
    assert isinstance(row, UUID)
    return row


def estimate(db: Connection, playbook: UUID) -> tuple[int, Number]:
    """Give a playbook's minutes and cost."""
    minutes, cost = one(
        db,
        "select estimated_minutes, estimated_cost from public.playbooks where id = %s",
        playbook,
    )
    return minutes, cost


def totals(db: Connection, action: UUID) -> tuple[int, Number]:
    """Give a service action's minutes and cost."""
    minutes, cost = one(
        db, "select total_minutes, total_cost from public.service_actions where id = %s", action
    )
    return minutes, cost


def order(db: Connection, playbook: UUID) -> list[UUID]:
    """Give a playbook's tasks in their order."""
    rows = db.execute(
        "select id from public.playbook_tasks where playbook_id = %s order by sort_order",
        (playbook,),
    )
    return [row[0] for row in rows]


WRONG_TOTALS = """
    with playbook as (
        select
            p.org_id, p.id, p.title,
            case when p.is_manual_estimate then p.estimated_minutes
                else coalesce((
                    select sum(t.minutes) from public.playbook_tasks t
                    where (t.org_id, t.playbook_id) = (p.org_id, p.id)), 0) end as minutes,
            case when p.is_manual_estimate then p.estimated_cost
                else coalesce((
                    select sum(t.cost) from public.playbook_tasks t
                    where (t.org_id, t.playbook_id) = (p.org_id, p.id)), 0) end as cost,
            p.estimated_minutes, p.estimated_cost
        from public.playbooks p
    ),
    action as (
        select
            a.id, a.title, a.total_minutes, a.total_cost,
            round(coalesce(sum(p.minutes), 0) * a.complexity_factor) as minutes,
            round(coalesce(sum(p.cost), 0) * a.complexity_factor, 2) as cost
        from public.service_actions a
        left join public.service_action_playbooks l
            on (l.org_id, l.service_action_id) = (a.org_id, a.id)
        left join playbook p on (p.org_id, p.id) = (l.org_id, l.playbook_id)
        group by a.org_id, a.id, a.title, a.total_minutes, a.total_cost, a.complexity_factor
    )
    select title, estimated_minutes, minutes, estimated_cost, cost from playbook
    where (estimated_minutes, estimated_cost) is distinct from (minutes, cost)
    union all
    select title, total_minutes, minutes, total_cost, cost from action
    where (total_minutes, total_cost) is distinct from (minutes, cost)
"""


def assert_totals_are_true(db: Connection) -> None:
    """Recompute every total of the database from the rows below."""
    assert db.execute(WRONG_TOTALS).fetchall() == []


def test_totals_follow_a_task_through_playbook_and_action(db: Connection, world: World) -> None:
    playbook = add_playbook(db, world.a)
    other = add_playbook(db, world.a, is_manual_estimate=True, estimated_minutes=10)
    action = add_action(db, world.a, playbook, other, complexity_factor="1.50")
    assert totals(db, action) == (15, 0)
    task = add_task(db, world.a, playbook, minutes=30, cost="99.99")
    assert estimate(db, playbook) == (30, Decimal("99.99"))
    assert totals(db, action) == (60, Decimal("149.99"))  # 149.985 rounds up
    db.execute("update public.playbook_tasks set minutes = 50, cost = null where id = %s", (task,))
    assert (estimate(db, playbook), totals(db, action)) == ((50, 0), (90, 0))
    db.execute("delete from public.playbook_tasks where id = %s", (task,))
    assert (estimate(db, playbook), totals(db, action)) == ((0, 0), (15, 0))


def test_totals_follow_a_link_to_another_playbook(db: Connection, world: World) -> None:
    short, long = (add_playbook(db, world.a) for _ in range(2))
    add_task(db, world.a, short, minutes=10)
    add_task(db, world.a, long, minutes=90)
    action = add_action(db, world.a, short)
    assert totals(db, action)[0] == 10
    db.execute("update public.service_action_playbooks set playbook_id = %s", (long,))
    assert totals(db, action)[0] == 90
    other = add_action(db, world.a)
    db.execute("update public.service_action_playbooks set service_action_id = %s", (other,))
    assert (totals(db, action)[0], totals(db, other)[0]) == (0, 90)


def test_totals_follow_the_complexity(db: Connection, world: World) -> None:
    playbook = add_playbook(db, world.a)
    add_task(db, world.a, playbook, minutes=41)
    action = add_action(db, world.a, playbook)
    db.execute("update public.service_actions set complexity_factor = 1.25")
    assert totals(db, action) == (51, 0)


def test_a_task_moved_to_another_playbook_counts_there_and_goes_to_its_end(
    db: Connection, world: World
) -> None:
    source, target = add_playbook(db, world.a), add_playbook(db, world.a)
    task = add_task(db, world.a, source, minutes=30)
    there = add_task(db, world.a, target, minutes=5, title="Outro passo")
    action = add_action(db, world.a, source)
    db.execute("update public.playbook_tasks set playbook_id = %s where id = %s", (target, task))
    assert (estimate(db, source), estimate(db, target)) == ((0, 0), (35, 0))
    assert totals(db, action) == (0, 0)
    assert order(db, target) == [there, task]


def test_a_manual_estimate_stands_until_it_is_given_up(db: Connection, world: World) -> None:
    playbook = add_playbook(db, world.a, is_manual_estimate=True, estimated_minutes=90)
    action = add_action(db, world.a, playbook)
    add_task(db, world.a, playbook, minutes=30)
    assert (estimate(db, playbook), totals(db, action)) == ((90, 0), (90, 0))
    db.execute("update public.playbooks set is_manual_estimate = false where id = %s", (playbook,))
    assert (estimate(db, playbook), totals(db, action)) == ((30, 0), (30, 0))
    db.execute(
        "update public.playbooks set is_manual_estimate = true, estimated_cost = 7 where id = %s",
        (playbook,),
    )
    assert (estimate(db, playbook), totals(db, action)) == ((30, 7), (30, 7))


def test_a_deleted_playbook_leaves_no_trace_in_the_actions(db: Connection, world: World) -> None:
    kept, gone = add_playbook(db, world.a), add_playbook(db, world.a)
    add_task(db, world.a, kept, minutes=5)
    add_task(db, world.a, gone, minutes=30)
    action = add_action(db, world.a, kept, gone)
    assert totals(db, action) == (35, 0)
    db.execute("delete from public.playbooks where id = %s", (gone,))
    assert totals(db, action) == (5, 0)
    assert one(db, "select count(*) from public.playbook_tasks where playbook_id = %s", gone) == 0


def test_one_statement_over_many_playbooks_updates_each_action_once(
    db: Connection, world: World
) -> None:
    playbooks = [add_playbook(db, world.a) for _ in range(5)]
    action = add_action(db, world.a, *playbooks)
    db.execute(
        "insert into public.playbook_tasks (org_id, playbook_id, title, minutes)"
        " select p.org_id, p.id, 'Passo ' || n, n from public.playbooks p, generate_series(1, 4) n"
        " where p.id = any (%s)",
        (playbooks,),
    )
    assert totals(db, action) == (50, 0)
    assert_totals_are_true(db)
    updates = one(
        db,
        "select count(*) from public.module_events"
        " where entity_id = %s and event_type = 'service_action.updated' and payload ->> 'changed'"
        " like %s",
        action,
        "%total_minutes%",
    )
    assert updates == 1


Step = tuple[str, int, int, int, Decimal]
STEPS = st.tuples(
    st.sampled_from(
        [
            "add task", "change task", "move task", "delete task", "reorder", "add playbook",
            "delete playbook", "manual", "derived", "add action", "delete action", "link",
            "unlink", "relink", "complexity", "bulk change", "swap actions",
        ]
    ),
    st.integers(0, 2**16),
    st.integers(0, 2**16),
    st.integers(0, 600),
    st.decimals(0, 5000, places=2),
)  # fmt: skip


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(STEPS, max_size=25))
def test_totals_equal_a_recomputation_after_any_operations(
    db: Connection, world: World, steps: list[Step]
) -> None:
    with db.transaction(force_rollback=True):
        for _ in range(3):
            add_task(db, world.a, add_playbook(db, world.a), minutes=7, cost="1.11")
        add_action(db, world.a)
        for step in steps:
            take_step(db, world.a, step)
            assert_totals_are_true(db)


def pick(db: Connection, table: str, number: int) -> UUID | None:
    """Give some row's id, the same for the same number, or null."""
    rows = db.execute(f"select id from public.{table} order by created_at, id").fetchall()
    return rows[number % len(rows)][0] if rows else None


def take_step(db: Connection, org: Org, step: Step) -> None:  # noqa: C901, PLR0912
    """Do one random operation as the organisation's operations manager."""
    what, first, second, minutes, cost = step
    playbook, task = pick(db, "playbooks", first), pick(db, "playbook_tasks", second)
    action = pick(db, "service_actions", second)
    joint = pick(db, "service_action_playbooks", second)
    with as_member(db, org, "ops"):
        match what:
            case "add task" if playbook:
                add_task(db, org, playbook, title=f"Passo {uuid4()}", minutes=minutes, cost=cost)
            case "change task":
                db.execute(
                    "update public.playbook_tasks set minutes = %s, cost = %s where id = %s",
                    (None if first % 3 == 0 else minutes, cost, task),
                )
            case "move task" if playbook:
                db.execute(
                    "update public.playbook_tasks set playbook_id = %s, slug = id::text"
                    " where id = %s",
                    (playbook, task),
                )
            case "delete task":
                db.execute("delete from public.playbook_tasks where id = %s", (task,))
            case "reorder" if playbook:
                tasks = order(db, playbook)
                random.Random(second).shuffle(tasks)  # noqa: S311 (any order will do)
                db.execute("select public.reorder_playbook_tasks(%s, %s)", (playbook, tasks))
                assert order(db, playbook) == tasks
            case "add playbook":
                add_playbook(db, org)
            case "delete playbook":
                db.execute("delete from public.playbooks where id = %s", (playbook,))
            case "manual":
                db.execute(
                    "update public.playbooks set is_manual_estimate = true,"
                    " estimated_minutes = %s, estimated_cost = %s where id = %s",
                    (minutes, cost, playbook),
                )
            case "derived":
                db.execute("update public.playbooks set is_manual_estimate = false")
            case "add action":
                add_action(db, org, complexity_factor=1 + Decimal(minutes) / 600)
            case "delete action":
                db.execute("delete from public.service_actions where id = %s", (action,))
            case "link" if playbook and action:
                db.execute(
                    "insert into public.service_action_playbooks"
                    " (org_id, service_action_id, playbook_id) values (%s, %s, %s)"
                    " on conflict (org_id, service_action_id, playbook_id) do nothing",
                    (org.org, action, playbook),
                )
            case "unlink":
                db.execute("delete from public.service_action_playbooks where id = %s", (joint,))
            case "relink" if playbook and joint:
                db.execute(
                    "update public.service_action_playbooks l set playbook_id = %s"
                    " where l.id = %s and not exists (select from"
                    " public.service_action_playbooks o where o.playbook_id = %s"
                    " and o.service_action_id = l.service_action_id)",
                    (playbook, joint, playbook),
                )
            case "complexity":
                db.execute(
                    "update public.service_actions set complexity_factor = %s where id = %s",
                    (1 + Decimal(minutes) / 600, action),
                )
            case "bulk change":
                db.execute("update public.playbook_tasks set minutes = coalesce(minutes, 0) + 1")
            case "swap actions" if action:
                db.execute(
                    "update public.service_action_playbooks l set service_action_id = %s"
                    " where not exists (select from public.service_action_playbooks o"
                    " where o.service_action_id = %s) and l.id = %s",
                    (action, action, joint),
                )


def test_deleting_the_organisation_takes_everything_with_it(db: Connection, world: World) -> None:
    playbook = add_playbook(db, world.a)
    add_task(db, world.a, playbook, minutes=5)
    add_action(db, world.a, playbook)
    add(
        db, "assets", world.a, playbook_id=playbook, title="Capa", size_bytes=1,
        path=f"{world.a.org}/capa.png", media_type="image/png",
    )  # fmt: skip
    db.execute("delete from public.organizations where id = %s", (world.a.org,))
    for table in ("playbooks", "playbook_tasks", "service_actions", "service_action_playbooks"):
        assert one(db, f"select count(*) from public.{table}") == 0


def test_two_sessions_that_add_tasks_at_once_leave_a_true_total(db_url: str, world: World) -> None:
    with psycopg.connect(db_url, autocommit=True) as setup:
        playbooks = [add_playbook(setup, world.a) for _ in range(2)]
        actions = [add_action(setup, world.a, *playbooks) for _ in range(2)]

    def add_tasks(number: int) -> None:
        with psycopg.connect(db_url, autocommit=True) as session:
            for turn in range(15):
                playbook = playbooks[(number + turn) % 2]
                if turn % 5 == 4:
                    session.execute(
                        "update public.service_actions set complexity_factor = %s where id = %s",
                        (Decimal(100 + turn + number) / 100, actions[turn % 2]),
                    )
                add_task(session, world.a, playbook, title=f"{number} {turn}", minutes=1)

    threads = [threading.Thread(target=add_tasks, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with psycopg.connect(db_url) as check:
        assert_totals_are_true(check)
        assert sum(estimate(check, playbook)[0] for playbook in playbooks) == 90


def test_opposite_moves_of_tasks_do_not_lock_each_other_out(db_url: str, world: World) -> None:
    with psycopg.connect(db_url, autocommit=True) as setup:
        playbooks = [add_playbook(setup, world.a) for _ in range(2)]
        tasks = [
            add_task(setup, world.a, playbooks[number], title=f"Passo {number}", minutes=1)
            for number in range(2)
        ]
    failures: list[Exception] = []

    def move(number: int) -> None:
        try:
            with psycopg.connect(db_url, autocommit=True) as session:
                for turn in range(40):
                    session.execute(
                        "update public.playbook_tasks set playbook_id = %s where id = %s",
                        (playbooks[(number + turn + 1) % 2], tasks[number]),
                    )
        except psycopg.Error as error:
            failures.append(error)

    threads = [threading.Thread(target=move, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with psycopg.connect(db_url) as check:
        assert_totals_are_true(check)


@contextlib.contextmanager
def waiting(url: str, act: Callable[[Connection], object]) -> Iterator[None]:
    """Run an act in another session, which must come to wait for a lock before the block runs."""

    def run() -> None:
        with psycopg.connect(url, autocommit=True) as session:
            act(session)

    thread = threading.Thread(target=run)
    thread.start()
    with psycopg.connect(url, autocommit=True) as watch:
        query = (
            "select count(*) from pg_stat_activity"
            " where wait_event_type = 'Lock' and datname = current_database()"
        )
        while thread.is_alive() and one(watch, query) == 0:
            thread.join(0.01)
    assert thread.is_alive()
    yield
    thread.join()


@pytest.mark.parametrize("place", [0, 7])
def test_a_link_made_while_the_playbook_changes_sees_the_change(
    db_url: str, world: World, place: int
) -> None:
    with psycopg.connect(db_url, autocommit=True) as setup:
        playbook, action = add_playbook(setup, world.a), add_action(setup, world.a)

    def make_link(quick: Connection) -> None:
        add(
            quick, "service_action_playbooks", world.a,
            service_action_id=action, playbook_id=playbook, sort_order=place,
        )  # fmt: skip

    with psycopg.connect(db_url) as slow:
        add_task(slow, world.a, playbook, minutes=30)
        with waiting(db_url, make_link):
            slow.commit()
        assert totals(slow, action) == (30, 0)


def test_two_tasks_changed_alike_at_once_both_count(db_url: str, world: World) -> None:
    with psycopg.connect(db_url, autocommit=True) as setup:
        playbook = add_playbook(setup, world.a)
        tasks = [add_task(setup, world.a, playbook, minutes=10) for _ in range(2)]

    def double(session: Connection, task: UUID) -> None:
        session.execute("update public.playbook_tasks set minutes = 20 where id = %s", (task,))

    with psycopg.connect(db_url) as slow:
        double(slow, tasks[0])
        with waiting(db_url, lambda quick: double(quick, tasks[1])):
            slow.commit()
        assert estimate(slow, playbook) == (40, 0)


@pytest.mark.parametrize("column", ["estimated_minutes", "estimated_cost"])
def test_the_estimate_of_a_playbook_with_tasks_cannot_be_typed(
    db: Connection, world: World, column: str
) -> None:
    playbook = add_playbook(db, world.a)
    add_task(db, world.a, playbook, minutes=30, cost=10)
    with as_member(db, world.a, "owner"):
        with refused("totals_are_derived"):
            db.execute(f"update public.playbooks set {column} = 5 where id = %s", (playbook,))
        with refused("totals_are_derived"):
            add_playbook(db, world.a, **{column: 5})
    assert estimate(db, playbook) == (30, 10)


@pytest.mark.parametrize("column", ["total_minutes", "total_cost"])
def test_the_totals_of_an_action_cannot_be_typed(db: Connection, world: World, column: str) -> None:
    action = add_action(db, world.a)
    with as_member(db, world.a, "owner"):
        with refused("totals_are_derived"):
            db.execute(f"update public.service_actions set {column} = 5 where id = %s", (action,))
        with refused("totals_are_derived"):
            add_action(db, world.a, **{column: 5})


def test_the_version_grows_with_the_content_only_and_cannot_be_typed(
    db: Connection, world: World
) -> None:
    playbook = add_playbook(db, world.a, content_markdown="# Um")
    version = "select version from public.playbooks where id = %s"
    with as_member(db, world.a, "ops"):
        db.execute("update public.playbooks set title = 'Novo', content_markdown = '# Um'")
        assert one(db, version, playbook) == 1
        db.execute("update public.playbooks set content_markdown = '# Dois'")
        assert one(db, version, playbook) == 2
        with refused("playbook_version_is_derived"):
            db.execute("update public.playbooks set version = 9")
        with refused("playbook_version_is_derived"):
            add_playbook(db, world.a, version=3)
    assert one(db, version, playbook) == 2


@pytest.mark.parametrize(
    ("minutes", "cost", "stands"),
    [(None, None, False), (-1, None, False), (None, -1, False), (0, None, True), (None, 0, True)],
)
def test_a_task_has_minutes_or_a_cost(
    db: Connection, world: World, minutes: int | None, cost: int | None, *, stands: bool
) -> None:
    playbook = add_playbook(db, world.a)
    if stands:
        add_task(db, world.a, playbook, minutes=minutes, cost=cost)
        return
    with pytest.raises(psycopg.errors.CheckViolation):
        add_task(db, world.a, playbook, minutes=minutes, cost=cost)


@pytest.mark.parametrize("factor", ["0.99", "2.01"])
def test_complexity_lies_between_one_and_two(db: Connection, world: World, factor: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        add_action(db, world.a, complexity_factor=factor)


def test_tasks_without_a_place_follow_each_other_and_get_distinct_slugs(
    db: Connection, world: World
) -> None:
    playbook = add_playbook(db, world.a, title="Resposta a incidente às 3h")
    slug = one(db, "select slug from public.playbooks where id = %s", playbook)
    assert slug == "resposta-a-incidente-as-3h"
    db.execute(
        "insert into public.playbook_tasks (org_id, playbook_id, title, minutes)"
        " select %s, %s, 'Revisão', n from generate_series(1, 3) n",
        (world.a.org, playbook),
    )
    rows = db.execute(
        "select sort_order, slug from public.playbook_tasks where playbook_id = %s order by 1",
        (playbook,),
    ).fetchall()
    assert rows == [(1, "revisao"), (2, "revisao-2"), (3, "revisao-3")]


def test_tasks_are_reordered_in_one_call_and_totals_stay(db: Connection, world: World) -> None:
    playbook = add_playbook(db, world.a)
    tasks = [add_task(db, world.a, playbook, minutes=n) for n in range(4)]
    wanted = [tasks[2], tasks[0], tasks[3], tasks[1]]
    with as_member(db, world.a, "ops"):
        rows = db.execute(
            "select id, sort_order from public.reorder_playbook_tasks(%s, %s)", (playbook, wanted)
        ).fetchall()
    assert rows == [(task, place) for place, task in enumerate(wanted, 1)]
    assert estimate(db, playbook) == (6, 0)


@pytest.mark.parametrize("fault", ["missing", "twice", "foreign"])
def test_an_order_that_does_not_name_each_task_once_is_refused(
    db: Connection, world: World, fault: str
) -> None:
    playbook, other = add_playbook(db, world.a), add_playbook(db, world.a)
    tasks = [add_task(db, world.a, playbook, minutes=1) for _ in range(3)]
    foreign = add_task(db, world.a, other, minutes=1)
    wrong = {
        "missing": tasks[:2],
        "twice": [*tasks, tasks[0]],
        "foreign": [*tasks[:2], foreign],
    }[fault]
    with as_member(db, world.a, "ops"), refused("playbook_tasks_mismatch"):
        db.execute("select public.reorder_playbook_tasks(%s, %s)", (playbook, wrong))
    assert order(db, playbook) == tasks


def test_playbooks_of_an_action_are_reordered_in_one_call(db: Connection, world: World) -> None:
    playbooks = [add_playbook(db, world.a) for _ in range(3)]
    action = add_action(db, world.a, *playbooks)
    call = "select playbook_id, sort_order from public.reorder_service_action_playbooks(%s, %s)"
    with as_member(db, world.a, "ops"):
        rows = db.execute(call, (action, playbooks[::-1])).fetchall()
        assert rows == [(playbook, place) for place, playbook in enumerate(playbooks[::-1], 1)]
        with refused("service_action_playbooks_mismatch"):
            db.execute(call, (action, playbooks[:2]))
        with refused("service_action_not_found"):
            db.execute(call, (uuid4(), playbooks))


def test_readers_and_strangers_can_neither_reorder_nor_review(db: Connection, world: World) -> None:
    playbook = add_playbook(db, world.a)
    action = add_action(db, world.a, playbook)
    calls = (
        ("select public.reorder_playbook_tasks(%s, '{}')", playbook, "playbook_not_found"),
        ("select public.mark_playbook_reviewed(%s)", playbook, "playbook_not_found"),
        (
            "select public.reorder_service_action_playbooks(%s, '{}')",
            action,
            "service_action_not_found",
        ),
    )
    for call, target, unknown in calls:
        with as_member(db, world.a, "employee"), refused("not_allowed"):
            db.execute(call, (target,))
        with as_member(db, world.b, "ops"), refused(unknown):
            db.execute(call, (target,))


def test_a_review_is_due_from_its_day_on_in_the_organisations_time_zone(
    db: Connection, world: World
) -> None:
    set_clock(db, "2026-03-01T12:00:00-03:00")
    db.execute("delete from public.playbooks")
    due = add_playbook(db, world.a, status="published", review_every_days=30)
    add_playbook(db, world.a, status="draft", review_every_days=30)
    add_playbook(db, world.a, status="published")
    add_playbook(db, world.b, status="published", review_every_days=30)

    def listed() -> list[UUID]:
        with as_member(db, world.a, "employee"):
            rows = db.execute("select id from public.list_playbooks_due(%s)", (world.a.org,))
            return [row[0] for row in rows]

    set_clock(db, "2026-03-30T23:30:00-03:00")  # the 31st in UTC
    assert listed() == []
    set_clock(db, "2026-03-31T00:00:00-03:00")
    assert listed() == [due]
    with as_member(db, world.a, "ops"):
        assert (
            one(db, "select (public.mark_playbook_reviewed(%s)).last_reviewed_on::text", due)
            == "2026-03-31"
        )
    assert listed() == []


def test_a_review_in_the_future_is_refused(db: Connection, world: World) -> None:
    set_clock(db, "2026-03-31T23:30:00-03:00")
    playbook = add_playbook(db, world.a, last_reviewed_on="2026-03-31")
    with refused("playbook_review_in_future"):
        db.execute(
            "update public.playbooks set last_reviewed_on = '2026-04-01' where id = %s",
            (playbook,),
        )


@pytest.mark.parametrize(
    ("start", "end", "allowed"),
    [
        ("draft", "published", True),
        ("published", "archived", True),
        ("published", "draft", True),
        ("archived", "draft", True),
        ("archived", "published", False),
    ],
)
def test_a_playbook_moves_between_its_states(
    db: Connection, world: World, start: str, end: str, *, allowed: bool
) -> None:
    playbook = add_playbook(db, world.a, status=start)
    with as_member(db, world.a, "ops"):
        if not allowed:
            with refused("playbook_move_refused"):
                db.execute("update public.playbooks set status = %s", (end,))
            return
        db.execute("update public.playbooks set status = %s where id = %s", (end, playbook))
    events = db.execute(
        "select event_type from public.module_events where entity_id = %s order by event_type",
        (playbook,),
    ).fetchall()
    assert events == sorted([("playbook.created",), (f"playbook.{end}",)])


def test_employees_read_the_knowledge_and_others_do_not_see_it(
    db: Connection, world: World
) -> None:
    playbook = add_playbook(db, world.a)
    count = "select count(*) from public.playbooks where id = %s"
    with as_member(db, world.a, "employee"):
        assert one(db, count, playbook) == 1
        with denied():
            add_playbook(db, world.a)
        assert db.execute("update public.playbooks set title = 'x'").rowcount == 0
    for actor in (
        as_member(db, world.b, "owner"),
        as_client(db, world.a),
        as_agent(db, world.a),
    ):
        with actor:
            assert one(db, count, playbook) == 0
    with as_worker(db):
        assert one(db, count, playbook) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"path": "other/capa.png"},
        {"path": "{org}/../capa.png"},
        {"path": "{org}/"},
        {"media_type": "text/html"},
        {"size_bytes": 10 * 1024 * 1024 + 1},
        {"size_bytes": 0},
    ],
)
def test_a_file_outside_the_buckets_rules_is_not_registered(
    db: Connection, world: World, change: dict[str, object]
) -> None:
    good: dict[str, object] = {
        "title": "Capa",
        "path": "{org}/marca/capa.png",
        "media_type": "image/png",
        "size_bytes": 10 * 1024 * 1024,
    }

    def register(columns: dict[str, object]) -> None:
        columns["path"] = str(columns["path"]).format(org=world.a.org)
        add(db, "assets", world.a, **columns)

    with as_member(db, world.a, "ops"):
        register(dict(good))
        with pytest.raises(psycopg.errors.CheckViolation), db.transaction():
            register({**good, "path": "{org}/other.png", **change})


def test_the_types_of_files_are_those_of_the_bucket(db: Connection) -> None:
    bucket = tomllib.loads((ROOT / "supabase/config.toml").read_text())["storage"]["buckets"][
        "os-assets"
    ]
    allowed = one(
        db,
        "select array(select m[1] from regexp_matches(pg_get_constraintdef(oid),"
        " '''([^'']+)''', 'g') as m order by 1) from pg_constraint"
        " where conname = 'assets_media_type_check'",
    )
    assert sorted(bucket["allowed_mime_types"]) == allowed
