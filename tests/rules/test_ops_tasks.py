"""Tasks: who gets them, who sees them, what moves them."""

from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

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
from tests.rules.test_ops_playbooks import one


def add_task(db: Connection, org: Org, **values: object) -> UUID:
    """Insert a task as whoever the connection is; give its id, which only some may read."""
    task = uuid4()
    values = {"org_id": org.org, "id": task, "title": "Ligar para o cliente"} | values
    db.execute(
        f"insert into public.tasks ({', '.join(values)}) values ({', '.join(['%s'] * len(values))})",
        list(values.values()),
    )
    return task


def told(db: Connection, person: UUID) -> list[str]:
    return [
        row[0]
        for row in db.execute(
            "select body from public.notifications where recipient_id = %s and template = 'task_assigned'"
            " order by created_at, id",
            (person,),
        ).fetchall()
    ]


def mine(db: Connection, **arguments: Any) -> list[str]:
    call = ", ".join(f"{name} => %({name})s" for name in arguments)
    return [
        row[0]
        for row in db.execute(
            f"select title from public.list_my_tasks({call})", arguments
        ).fetchall()
    ]


def test_the_assignee_is_told_sees_the_task_and_completes_it(db: Connection, world: World) -> None:
    employee = world.a.member("employee")
    with as_member(db, world.a, "ops"):
        task = add_task(db, world.a, assignee_id=employee, due_on="2026-03-02")
    assert told(db, employee) == [
        'Você recebeu a tarefa "Ligar para o cliente", prazo em 02/03/2026.'
    ]
    with as_member(db, world.a, "employee"):
        assert mine(db, org=world.a.org) == ["Ligar para o cliente"]
        done = db.execute(
            "select status, completed_at is not null from public.complete_task(%s)", (task,)
        ).fetchone()
        assert done == ("done", True)
        assert mine(db) == []
        assert mine(db, is_open=False) == ["Ligar para o cliente"]
        again = one(db, "select status from public.complete_task(%s)", task)
        assert again == "done"
    events = db.execute(
        "select event_type from public.module_events where entity_id = %s order by event_type",
        (task,),
    ).fetchall()
    assert events == [("task.created",), ("task.done",)]


def test_other_colleagues_neither_see_nor_complete_it(db: Connection, world: World) -> None:
    task = add_task(db, world.a, assignee_id=world.a.member("employee"))
    for org, role in ((world.a, "sales"), (world.a, "finance"), (world.b, "owner")):
        with as_member(db, org, role):
            assert db.execute("select id from public.tasks").fetchall() == []
            with refused("task_not_found"):
                db.execute("select public.complete_task(%s)", (task,))
    with as_client(db, world.a), refused("task_not_found"):
        db.execute("select public.complete_task(%s)", (task,))


def test_whoever_has_only_his_own_tasks_gives_none_away(db: Connection, world: World) -> None:
    with as_member(db, world.a, "employee") as employee:
        task = add_task(db, world.a, assignee_id=employee)
        assert told(db, employee) == []
        with denied():
            add_task(db, world.a, assignee_id=world.a.member("sales"))
        with denied():
            add_task(db, world.a)
        with denied():
            db.execute(
                "update public.tasks set assignee_id = %s where id = %s",
                (world.a.member("sales"), task),
            )
        with denied():
            db.execute("delete from public.tasks where id = %s", (task,))


def test_a_task_handed_over_tells_the_next_person_each_time(db: Connection, world: World) -> None:
    sales, employee = world.a.member("sales"), world.a.member("employee")
    with as_member(db, world.a, "director"):
        set_clock(db, "2026-03-02 12:00+00")
        task = add_task(db, world.a, assignee_id=sales)
        for hour, person in ((13, employee), (14, sales)):
            set_clock(db, f"2026-03-02 {hour}:00+00")
            db.execute("update public.tasks set assignee_id = %s where id = %s", (person, task))
        db.execute("update public.tasks set priority = 'high' where id = %s", (task,))
    set_clock(db, None)
    assert (len(told(db, sales)), len(told(db, employee))) == (2, 1)


@pytest.mark.parametrize("who", ["client", "agent", "stranger", "foreign"])
def test_a_task_is_given_to_somebody_who_works_here(db: Connection, world: World, who: str) -> None:
    person = {
        "client": world.a.member("client"),
        "agent": world.a.member("agent"),
        "stranger": world.stranger,
        "foreign": world.b.member("ops"),
    }[who]
    with as_member(db, world.a, "owner"), refused("task_assignee_invalid"):
        add_task(db, world.a, assignee_id=person)


def test_whoever_leaves_leaves_his_tasks_to_be_handed_out(db: Connection, world: World) -> None:
    task = add_task(db, world.a, assignee_id=world.a.member("employee"))
    with as_member(db, world.a, "owner"):
        db.execute("select public.remove_member(%s, %s)", (world.a.org, world.a.member("employee")))
    assert one(db, "select assignee_id from public.tasks where id = %s", task) is None


def test_a_closed_task_is_reopened_and_not_moved_elsewhere(db: Connection, world: World) -> None:
    with as_member(db, world.a, "ops"):
        task = add_task(db, world.a)
        db.execute("update public.tasks set status = 'cancelled' where id = %s", (task,))
        with refused("task_move_refused"):
            db.execute("select public.complete_task(%s)", (task,))
        db.execute("update public.tasks set status = 'open' where id = %s", (task,))
        db.execute("update public.tasks set status = 'done' where id = %s", (task,))
        with refused("task_move_refused"):
            db.execute("update public.tasks set status = 'in_progress' where id = %s", (task,))
        db.execute("update public.tasks set status = 'open' where id = %s", (task,))
    assert one(db, "select completed_at from public.tasks where id = %s", task) is None


def test_an_agent_writes_a_task_in_its_own_name_and_reads_none(
    db: Connection, world: World
) -> None:
    with as_agent(db, world.a) as agent:
        task = add_task(db, world.a, created_by_agent=uuid4())
        assert db.execute("select id from public.tasks").fetchall() == []
    row = db.execute(
        "select created_by, created_by_agent from public.tasks where id = %s", (task,)
    ).fetchone()
    assert row == (None, agent)
    with as_member(db, world.a, "owner"):
        written = add_task(db, world.a, created_by_agent=agent)
        with refused("keys_are_immutable"):
            db.execute("update public.tasks set created_by_agent = null where id = %s", (task,))
    assert one(db, "select created_by_agent from public.tasks where id = %s", written) is None


def test_the_same_key_makes_one_task(db: Connection, world: World) -> None:
    create = "select app.create_task(%s, 'Renovar contrato', idempotency_key => 'renewal/1')"
    with as_worker(db):
        first, second = one(db, create, world.a.org), one(db, create, world.a.org)
        assert first == second
        one(db, create, world.b.org)
        assert db.execute("select org_id from public.tasks order by org_id").fetchall() == sorted(
            [(world.a.org,), (world.b.org,)]
        )
        with refused("bad_input"):
            db.execute("select app.create_task(%s, ' ')", (world.a.org,))
        with refused("bad_input"):
            db.execute("select app.create_task(%s, 'Ligar', entity_type => 'lead')", (world.a.org,))
    with as_member(db, world.a, "owner"), denied():
        db.execute(create, (world.a.org,))


def test_open_tasks_come_by_deadline_and_priority(db: Connection, world: World) -> None:
    sales = world.a.member("sales")
    for title, due, priority in (
        ("sem prazo", None, "urgent"),
        ("depois", "2026-04-01", "urgent"),
        ("hoje", "2026-03-01", "normal"),
        ("hoje, urgente", "2026-03-01", "urgent"),
    ):
        add_task(db, world.a, title=title, due_on=due, priority=priority, assignee_id=sales)
    with as_member(db, world.a, "sales"):
        assert mine(db) == ["hoje, urgente", "hoje", "depois", "sem prazo"]
        assert mine(db, max_rows=1) == ["hoje, urgente"]


@pytest.mark.parametrize(
    ("column", "value"),
    [("title", "x"), ("priority", "maximal"), ("entity_type", "lead"), ("status", "waiting")],
)
def test_a_task_that_makes_no_sense_is_refused(
    db: Connection, world: World, column: str, value: str
) -> None:
    with (
        as_member(db, world.a, "owner"),
        pytest.raises(psycopg.errors.CheckViolation),
        db.transaction(),
    ):
        add_task(db, world.a, **{column: value})
