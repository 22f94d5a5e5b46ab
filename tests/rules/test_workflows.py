"""Workflows: definitions that can be meant, steps done once, people who decide, chains that end."""

import json
from datetime import datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from tests.people import (
    Connection,
    Org,
    World,
    as_agent,
    as_member,
    as_person,
    denied,
    refused,
    set_clock,
)

LEAD: dict[str, Any] = {"when": {"event": "growth.lead.created"}}
TASK = {"id": "task", "kind": "create_task", "title": "Ligar para o lead"}
REVIEW = {"id": "review", "kind": "human_review", "title": "Decida", "reviewer": {"role": "sales"}}


def save(db: Connection, org: Org, *steps: dict[str, Any], key: str = "fluxo", **more: Any) -> UUID:
    """Save a workflow that an event of a lead starts."""
    row = db.execute(
        "insert into public.workflows (org_id, key, name, definition, owner_id) values (%s, %s, 'Fluxo', %s, %s) returning id",
        (org.org, key, json.dumps({**LEAD, **more, "then": steps}), org.member("director")),
    ).fetchone()
    assert row
    return UUID(str(row[0]))


def lead(db: Connection, org: Org) -> UUID:
    """Write a lead, which is an event."""
    row = db.execute(
        "insert into public.leads (org_id, name, email) values (%s, 'Zé Lima', 'ze@lima.example') returning id",
        (org.org,),
    ).fetchone()
    assert row
    return UUID(str(row[0]))


def work(db: Connection) -> list[str]:
    """Do what workers would until nothing is left that is not for later; give what they said."""
    said = []
    while row := db.execute(
        "delete from pgqueuer.pgqueuer as q where q.id = (select min(id) from pgqueuer.pgqueuer where entrypoint = 'workflow.step')"
        " returning convert_from(q.payload, 'UTF8')::jsonb, q.headers ->> 'org_id'"
    ).fetchone():
        payload, org = row
        answer = db.execute(
            "select app.run_workflow_step(%s, %s, %s, %s)",
            (org, payload["workflow_run_id"], payload["step"], payload["attempt"]),
        ).fetchone()
        assert answer
        said.append(answer[0])
        # A worker's transaction ends here.
        db.execute("select set_config('app.causation_id', '', true)")
    return said


def runs(db: Connection) -> list[tuple[Any, ...]]:
    return db.execute(
        "select status, error_key from public.workflow_runs order by created_at, id"
    ).fetchall()


def outputs(db: Connection) -> dict[str, Any]:
    return dict(
        db.execute(
            "select step_id, output from public.workflow_run_steps where status = 'completed'"
        ).fetchall()
    )


def review_of(db: Connection) -> UUID:
    row = db.execute(
        "select id from public.workflow_reviews order by created_at desc limit 1"
    ).fetchone()
    assert row
    return UUID(str(row[0]))


def decide(db: Connection, review: UUID, decision: str = "approve") -> None:
    db.execute("select public.decide_workflow_review(%s, %s, 'li')", (review, decision))


# --- Definitions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "step", "field", "problem"),
    [
        ([], None, "then", "must be a list of 1 to 50 steps"),
        ([{"id": "a", "kind": "dance"}], "a", "kind", "must be one of agent"),
        ([{"id": "A b", "kind": "delay"}], "A b", "id", "must be a name"),
        ([TASK, TASK], "task", "id", "of its own"),
        ([{"id": "a", "kind": "delay"}], "a", "for", "until instead"),
        ([{"id": "a", "kind": "delay", "for": "soon"}], "a", "for", "must be a duration"),
        ([{**TASK, "tittle": "x"}], "task", "tittle", "is not a field of create_task"),
        ([{"id": "a", "kind": "create_task"}], "a", "title", "is missing"),
        ([{**TASK, "next": "gone"}], "task", "next", "must name a later step"),
        ([{**TASK, "title": "${steps.later.output.x}"}], "task", "title", "nothing known here"),
        ([{**TASK, "entity_id": {"$": "secrets.key"}}], "task", "entity_id", "nothing known"),
        ([{"id": "a", "kind": "function", "function": "now"}], "a", "function", "not a function"),
        (
            [{"id": "a", "kind": "function", "function": "case_facts", "arguments": {"x": 1}}],
            "a", "arguments", "lacks case_id",
        ),
        ([{"id": "a", "kind": "agent", "agent": "nobody", "input": {}}], "a", "agent", "exist"),
        ([{**REVIEW, "reviewer": {"role": "king"}}], "review", "reviewer", "does not exist"),
        (
            [{"id": "a", "kind": "condition", "if": [{"value": 1, "equals": 1, "less": 2}]}],
            "a", "if", "condition 1 must have exactly one",
        ),
        ([{**TASK, "retry": {"attempts": 99, "wait": "1 day"}}], "task", "retry", "attempts"),
    ],
)  # fmt: skip
def test_a_definition_that_cannot_be_meant_is_refused_by_step_and_field(  # noqa: PLR0913, PLR0917
    db: Connection, world: World, steps: list[Any], step: str | None, field: str, problem: str
) -> None:
    definition = json.dumps({**LEAD, "then": steps})
    found = db.execute(
        "select * from public.validate_workflow(%s, %s)", (definition, world.a.org)
    ).fetchall()
    assert [row for row in found if (row[0], row[1]) == (step, field) and problem in row[2]], found
    with refused("workflow_invalid") as answer:
        save(db, world.a, *steps)
    assert answer.detail


@pytest.mark.parametrize(
    "when",
    [
        None, {}, {"event": "growth.leed.created"}, {"event": "workflows.*"}, {"cron": "* * *"},
        {"cron": "0 9 1 * mon"}, {"cron": "61 * * * *"}, {"cron": "0 0 30 feb *"}, {"every": "week", "at": "09:00"},
        {"every": "day", "at": "24:00"}, {"every": "month", "on": 32, "at": "09:00"},
    ],
)  # fmt: skip
def test_a_beginning_that_never_comes_is_refused(db: Connection, world: World, when: Any) -> None:
    with refused("workflow_invalid"):
        save(db, world.a, TASK, when=when)


def test_the_shipped_templates_can_be_meant_and_are_installed_once(
    db: Connection, world: World
) -> None:
    keys = [row[0] for row in db.execute("select key from app.workflow_templates").fetchall()]
    assert len(keys) == 3
    with as_member(db, world.a, "director"):
        first = [
            db.execute(
                "select (public.install_workflow_template(%s, %s)).id", (world.a.org, key)
            ).fetchone()
            for key in keys
        ]
        again = [
            db.execute(
                "select (public.install_workflow_template(%s, %s)).id", (world.a.org, key)
            ).fetchone()
            for key in keys
        ]
        with refused("workflow_template_not_found"):
            db.execute("select public.install_workflow_template(%s, 'x')", (world.a.org,))
    assert first == again
    with as_member(db, world.a, "ops"), refused("not_allowed"):
        db.execute("select public.install_workflow_template(%s, %s)", (world.a.org, keys[0]))


def test_a_run_keeps_the_version_it_began_with(db: Connection, world: World) -> None:
    workflow = save(db, world.a, TASK)
    lead(db, world.a)
    db.execute(
        "update public.workflows set definition = jsonb_set(definition, '{then,0,title}', '\"Outro\"') where id = %s",
        (workflow,),
    )
    work(db)
    assert db.execute("select title from public.tasks").fetchall() == [("Ligar para o lead",)]
    assert db.execute("select version from public.workflows").fetchall() == [(2,)]


# --- Values and conditions -----------------------------------------------------------------------

CONTEXT = {
    "organization": {"time_zone": "America/Sao_Paulo"},
    "event": {"event_type": "lead.updated", "payload": {"score": 70, "name": "João ${run.id}", "owner_id": None, "changed": ["score"], "due_on": "2026-03-01"}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"$": "event.payload.score"}, 70),
        ({"$": "event.payload.owner_id"}, None),
        ({"$": "event.payload.owner_id", "default": "x"}, "x"),
        ({"$": "event.payload.nothing", "default": 1}, 1),
        ("Olá ${event.payload.name}: ${event.payload.score} $ {x}${event.payload.owner_id}", "Olá João ${run.id}: 70 $ {x}"),
        ([{"a": {"$": "event.payload.changed"}}, {}, []], [{"a": ["score"]}, {}, []]),
    ],
)  # fmt: skip
def test_values_come_from_the_context_and_are_never_read_again(
    db: Connection, value: Any, expected: Any
) -> None:
    row = db.execute(
        "select app.resolve_workflow_value(%s, %s)", (json.dumps(value), json.dumps(CONTEXT))
    ).fetchone()
    assert row == (expected,)


def test_a_value_that_is_missing_is_refused_by_its_path(db: Connection) -> None:
    for value in ({"$": "event.payload.nothing"}, "${event.payload.nothing}"):
        with refused("workflow_path_missing") as answer:
            db.execute(
                "select app.resolve_workflow_value(%s, %s)",
                (json.dumps(value), json.dumps(CONTEXT)),
            )
        assert "event.payload.nothing" in answer.detail


SCORE = {"value": {"$": "event.payload.score"}}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({**SCORE, "equals": 70}, True), ({**SCORE, "equals": "70"}, False), ({**SCORE, "greater": 69.5}, True),
        ({**SCORE, "greater": 70}, False), ({**SCORE, "less": 9}, False), ({**SCORE, "less": 100}, True),
        ({**SCORE, "in": [1, 70]}, True), ({**SCORE, "less": "abc"}, False), ({**SCORE, "equals": 70, "not": True}, False),
        ({"value": "${event.payload.name}", "contains": "JOAO"}, True),
        ({"value": {"$": "event.payload.changed"}, "contains": "score"}, True),
        ({"value": {"$": "event.payload.no"}, "equals": None}, True), ({"value": {"$": "event.payload.no"}, "greater": 1}, False),
        ({"changed": "score"}, True), ({"changed": "name"}, False),
        ({"value": {"$": "event.payload.due_on"}, "elapsed": "2 days"}, True),
        ({"value": {"$": "event.payload.due_on"}, "elapsed": "3 days"}, False),
        ({"value": {"$": "event.payload.due_on"}, "less": "2026-03-02"}, True), ({"value": "soon", "elapsed": "1 day"}, False),
    ],
)  # fmt: skip
def test_conditions(db: Connection, condition: Any, expected: bool) -> None:  # noqa: FBT001
    set_clock(db, "2026-03-03T23:30:00-03:00")
    try:
        row = db.execute(
            "select app.are_workflow_conditions_met(%s, %s)",
            (json.dumps([condition]), json.dumps(CONTEXT)),
        ).fetchone()
    finally:
        set_clock(db, None)
    assert row == (expected,)


# --- Steps ---------------------------------------------------------------------------------------


def test_an_event_starts_a_workflow_in_its_transaction_and_each_step_is_done_once(
    db: Connection, world: World
) -> None:
    save(
        db, world.a,
        {"id": "tell", "kind": "notify", "to": {"role": "sales"}, "title": "Lead", "text": "Veio de\n${event.payload.source}"},
        {**TASK, "description": "Aviso a ${steps.tell.output.told}", "entity_type": "lead", "entity_id": {"$": "event.entity_id"}, "due_in_days": 3},
    )  # fmt: skip
    lead(db, world.b)
    assert runs(db) == []
    about = lead(db, world.a)
    assert runs(db) == [("pending", None)]
    assert work(db) == ["completed tell", "completed task"]
    assert runs(db) == [("completed", None)]
    assert db.execute(
        "select body from public.notifications where template = 'workflow_message'"
    ).fetchall() == [("Veio de\nmanual",)]
    assert db.execute(
        "select description, entity_id, due_on - app.org_today(org_id) from public.tasks"
    ).fetchall() == [("Aviso a 1", about, 3)]
    run = db.execute("select id from public.workflow_runs").fetchone()
    assert run
    again = db.execute(
        "select app.run_workflow_step(%s, %s, 0, 1)", (world.a.org, run[0])
    ).fetchone()
    assert again == ("done before",)
    with refused("append_only"):
        db.execute("update public.workflow_run_steps set output = '{}'")


def test_what_a_workflow_causes_names_the_event_that_caused_it(
    db: Connection, world: World
) -> None:
    save(db, world.a, TASK)
    lead(db, world.a)
    work(db)
    assert db.execute(
        "select c.event_type from public.module_events e join public.module_events c on c.id = e.causation_id where e.event_type = 'task.created'"
    ).fetchall() == [("lead.created",)]  # fmt: skip


def test_conditions_decide_whether_it_starts_and_which_way_it_goes(
    db: Connection, world: World
) -> None:
    way: list[dict[str, Any]] = [
        {"id": "hot", "kind": "condition", "if": [{"value": {"$": "event.payload.score"}, "greater": 50}], "else": "cold"},
        {**TASK, "id": "call", "next": "end"},
        {**TASK, "id": "cold", "title": "Nutrir"},
    ]  # fmt: skip
    save(db, world.a, *way)
    save(
        db,
        world.a,
        TASK,
        key="nunca",
        **{"if": [{"value": {"$": "event.payload.source"}, "equals": "site"}]},
    )
    lead(db, world.a)
    work(db)
    assert db.execute("select title from public.tasks").fetchall() == [("Nutrir",)]
    assert runs(db) == [("completed", None)]


def test_a_delay_ends_when_it_is_over_and_not_before(db: Connection, world: World) -> None:
    set_clock(db, "2026-03-31T23:30:00-03:00")
    try:
        save(db, world.a, {"id": "wait", "kind": "delay", "for": "1 month"}, TASK)
        lead(db, world.a)
        assert work(db) == ["waits"]
        due = db.execute("select due_at from public.workflow_runs").fetchone()
        assert due == (datetime(2026, 4, 30, 23, 30, tzinfo=ZoneInfo("America/Sao_Paulo")),)
        run = db.execute("select org_id, id, step, attempt from public.workflow_runs").fetchone()
        assert db.execute("select app.run_workflow_step(%s, %s, %s, %s)", run).fetchone() == (
            "waiting",
        )
        set_clock(db, "2026-04-30T23:30:00-03:00")
        db.execute("select app.release_waiting_jobs('{workflow.step}')")
        assert work(db) == ["completed wait", "completed task"]
    finally:
        set_clock(db, None)


def test_a_step_that_a_rule_refuses_fails_the_run_and_can_be_tried_again(
    db: Connection, world: World
) -> None:
    step = {
        "id": "publish",
        "kind": "function",
        "function": "publish_post",
        "arguments": {"post_id": {"$": "event.entity_id"}},
    }
    save(db, world.a, step, TASK)
    lead(db, world.a)
    assert work(db) == ["failed: not_found"]
    assert runs(db) == [("failed", "not_found")]
    with as_member(db, world.a, "director"):
        db.execute("select public.retry_workflow_run(id) from public.workflow_runs")
    assert work(db) == ["failed: not_found"]
    assert db.execute(
        "select attempt, status from public.workflow_run_steps order by attempt"
    ).fetchall() == [(1, "failed"), (2, "failed")]


def test_an_error_is_passed_over_where_the_step_says_so(db: Connection, world: World) -> None:
    step = {
        "id": "publish",
        "kind": "function",
        "function": "publish_post",
        "arguments": {"post_id": "x"},
        "on_error": "continue",
        "retry": {"attempts": 2, "wait": "1 second"},
    }
    save(db, world.a, step, TASK)
    lead(db, world.a)
    assert work(db) == [
        "to be tried again: workflow_step_error",
        "failed, goes on: workflow_step_error",
        "completed task",
    ]


def test_nobody_to_tell_and_no_moment_are_refused_by_name(db: Connection, world: World) -> None:
    save(
        db,
        world.a,
        {
            "id": "m",
            "kind": "message",
            "client": str(world.a.other_client),
            "title": "Oi",
            "text": "Olá",
        },
    )
    save(
        db,
        world.a,
        {"id": "d", "kind": "delay", "until": {"$": "event.payload.source"}},
        key="espera",
    )
    lead(db, world.a)
    work(db)
    assert {error for _, error in runs(db)} == {"workflow_no_recipient", "workflow_value_invalid"}


def test_a_message_reaches_the_people_of_a_client(db: Connection, world: World) -> None:
    save(
        db,
        world.a,
        {"id": "m", "kind": "message", "client": str(world.a.client), "title": "Oi", "text": "Olá"},
    )
    lead(db, world.a)
    work(db)
    assert db.execute(
        "select recipient_id from public.notifications where template = 'workflow_message'"
    ).fetchall() == [(world.a.member("client"),)]


def test_a_webhook_is_written_as_a_delivery(db: Connection, world: World) -> None:
    row = db.execute(
        "select public.create_webhook_endpoint(%s, 'https://hooks.rosto.example/', array['data.*']) ->> 'id'",
        (world.a.org,),
    ).fetchone()
    assert row
    step = {
        "id": "send",
        "kind": "webhook",
        "endpoint": row[0],
        "data": {"lead": {"$": "event.entity_id"}},
    }
    save(db, world.a, step)
    about = lead(db, world.a)
    work(db)
    sent = db.execute(
        "select payload::jsonb #>> '{data,payload,lead}' from public.webhook_deliveries"
    ).fetchall()
    assert sent == [(str(about),)]
    with refused("workflow_invalid"):
        save(db, world.b, step)


# --- People --------------------------------------------------------------------------------------


def test_a_review_waits_for_whom_it_names_and_goes_on_once(db: Connection, world: World) -> None:
    save(db, world.a, REVIEW, TASK)
    lead(db, world.a)
    assert work(db) == ["waits"]
    review = review_of(db)
    for person in (world.a.member("finance"), world.b.member("sales"), world.stranger):
        with as_person(db, person), refused("not_found"):
            decide(db, review)
    with as_agent(db, world.a), refused("not_found"):
        decide(db, review)
    with refused("not_found"):
        decide(db, review)
    with as_member(db, world.a, "sales"):
        assert (
            len(
                db.execute(
                    "select * from public.list_workflow_reviews(%s)", (world.a.org,)
                ).fetchall()
            )
            == 1
        )
        with refused("bad_input"):
            decide(db, review, "maybe")
        decide(db, review)
        with refused("workflow_review_decided") as answer:
            decide(db, review, "refuse")
        assert answer.status == 409
    assert work(db) == ["completed task"]
    assert outputs(db)["review"]["decision"] == "approved"


@pytest.mark.parametrize(
    ("more", "ending"),
    [({}, ("cancelled", "workflow_review_refused")), ({"on_refuse": "task"}, ("completed", None))],
)
def test_a_refusal_takes_its_way(
    db: Connection, world: World, more: dict[str, str], ending: Any
) -> None:
    save(db, world.a, {**REVIEW, **more}, {"id": "w", "kind": "delay", "for": "1 day"}, TASK)
    lead(db, world.a)
    work(db)
    review = review_of(db)
    with as_member(db, world.a, "sales"):
        decide(db, review, "refuse")
    work(db)
    assert runs(db) == [ending]


def test_a_review_that_nobody_decides_expires(db: Connection, world: World) -> None:
    save(db, world.a, {**REVIEW, "expires_after": "2 days"}, TASK)
    lead(db, world.a)
    work(db)
    review = review_of(db)
    try:
        set_clock(db, "2099-01-01T00:00:00Z")
        with as_member(db, world.a, "sales"), refused("workflow_review_decided"):
            decide(db, review)
        db.execute("select app.release_waiting_jobs('{workflow.step}')")
        work(db)
    finally:
        set_clock(db, None)
    assert runs(db) == [("cancelled", "workflow_review_expired")]


def test_a_cancelled_run_does_nothing_more(db: Connection, world: World) -> None:
    save(db, world.a, REVIEW, TASK)
    lead(db, world.a)
    work(db)
    review = review_of(db)
    with as_member(db, world.a, "ops"), refused("not_allowed"):
        db.execute("select public.cancel_workflow_run(id) from public.workflow_runs")
    with as_member(db, world.a, "admin"):
        db.execute("select public.cancel_workflow_run(id) from public.workflow_runs")
        with refused("workflow_run_ended"):
            db.execute("select public.cancel_workflow_run(id) from public.workflow_runs")
        with refused("workflow_run_not_retryable"):
            db.execute("select public.retry_workflow_run(id) from public.workflow_runs")
    with as_member(db, world.a, "sales"), refused("workflow_review_decided"):
        decide(db, review)
    assert runs(db) == [("cancelled", "workflow_cancelled")]


def test_what_steps_hold_is_for_who_writes_workflows(db: Connection, world: World) -> None:
    save(db, world.a, TASK)
    lead(db, world.a)
    work(db)
    with as_member(db, world.a, "ops"):
        assert db.execute("select count(*) from public.workflow_runs").fetchone() == (1,)
        assert db.execute("select count(*) from public.workflow_run_steps").fetchone() == (0,)
    with as_member(db, world.a, "director"):
        assert db.execute("select count(*) from public.workflow_run_steps").fetchone() == (1,)
        with denied():
            db.execute("delete from public.workflow_runs")


# --- Limits --------------------------------------------------------------------------------------


def test_workflows_that_cause_each_other_end_after_five(db: Connection, world: World) -> None:
    save(db, world.a, TASK, key="eco", when={"event": "tasks.task.created"})
    db.execute("insert into public.tasks (org_id, title) values (%s, 'Primeira')", (world.a.org,))
    work(db)
    assert runs(db).count(("completed", None)) == 5
    assert runs(db).count(("cancelled", "workflow_too_deep")) == 1
    assert db.execute("select count(*) from public.tasks").fetchone() == (6,)


def test_runs_beyond_the_limit_per_hour_are_written_down_and_do_nothing(
    db: Connection, world: World
) -> None:
    workflow = save(db, world.a, TASK)
    db.execute("update public.workflows set runs_per_hour = 2 where id = %s", (workflow,))
    for _ in range(4):
        lead(db, world.a)
    work(db)
    assert sorted(runs(db), key=str) == sorted(
        [("completed", None)] * 2 + [("cancelled", "workflow_rate_limited")] * 2, key=str
    )
    with as_member(db, world.a, "owner"):
        db.execute(
            "select public.retry_workflow_run(id) from public.workflow_runs where status = 'cancelled'"
        )
    work(db)
    assert runs(db) == [("completed", None)] * 4


def test_ten_failures_in_a_row_pause_a_workflow_and_tell_its_owner(
    db: Connection, world: World
) -> None:
    workflow = save(db, world.a, {**TASK, "title": "${event.payload.gone}"})
    for _ in range(11):
        lead(db, world.a)
        work(db)
    assert db.execute(
        "select is_active, paused_reason from public.workflows where id = %s", (workflow,)
    ).fetchone() == (False, "failing")
    assert len(runs(db)) == 10
    assert db.execute(
        "select recipient_id from public.notifications where template = 'workflow_paused'"
    ).fetchall() == [(world.a.member("director"),)]
    db.execute("update public.workflows set is_active = true where id = %s", (workflow,))
    assert db.execute("select paused_reason, failures_in_row from public.workflows").fetchone() == (
        None,
        0,
    )


# --- Schedules -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "zone", "after", "due"),
    [
        ({"every": "day", "at": "23:30"}, "America/Sao_Paulo", "2026-03-10T23:30:00-03:00", "2026-03-11T23:30:00-03:00"),
        ({"every": "month", "on": 31, "at": "23:30"}, "America/Sao_Paulo", "2026-01-31T23:30:00-03:00", "2026-02-28T23:30:00-03:00"),
        ({"every": "week", "on": "mon", "at": "09:00"}, "America/Sao_Paulo", "2026-03-09T12:00:00Z", "2026-03-16T12:00:00Z"),
        ({"cron": "*/15 9-10 * * mon-fri"}, "UTC", "2026-03-13T10:45:00Z", "2026-03-16T09:00:00Z"),
        ({"cron": "0 0 29 feb *"}, "UTC", "2026-03-01T00:00:00Z", "2028-02-29T00:00:00Z"),
        ({"every": "day", "at": "00:30"}, "America/Sao_Paulo", "2018-11-03T12:00:00-03:00", "2018-11-04T01:30:00-02:00"),
        ({"every": "day", "at": "23:30"}, "America/Sao_Paulo", "2019-02-16T23:30:00-03:00", "2019-02-17T23:30:00-03:00"),
    ],
)  # fmt: skip
def test_a_schedule_follows_the_clock_of_the_organisation(
    db: Connection, schedule: Any, zone: str, after: str, due: str
) -> None:
    row = db.execute(
        "select app.next_workflow_time(%s, %s, %s::timestamptz)",
        (json.dumps(schedule), zone, after),
    ).fetchone()
    assert row == (datetime.fromisoformat(due),)


def test_a_schedule_starts_its_workflow_once_and_catches_up_the_last_fire_time(
    db: Connection, world: World
) -> None:
    try:
        set_clock(db, "2026-03-10T12:00:00-03:00")
        save(db, world.a, TASK, when={"every": "day", "at": "23:30"})
        assert db.execute("select app.start_due_workflows()").fetchone() == (0,)
        set_clock(db, "2026-03-14T08:00:00-03:00")
        assert db.execute("select app.start_due_workflows()").fetchone() == (1,)
        assert db.execute("select app.start_due_workflows()").fetchone() == (0,)
        assert db.execute("select scheduled_at from public.workflow_runs").fetchall() == [
            (datetime.fromisoformat("2026-03-13T23:30:00-03:00"),)
        ]
        db.execute(
            "update public.organizations set time_zone = 'America/Manaus' where id = %s",
            (world.a.org,),
        )
        assert db.execute("select next_due_at from public.workflows").fetchone() == (
            datetime.fromisoformat("2026-03-14T23:30:00-04:00"),
        )
    finally:
        set_clock(db, None)


def test_a_changed_definition_reacts_to_its_new_event_and_a_paused_one_to_none(
    db: Connection, world: World
) -> None:
    def patterns() -> list[Any]:
        return db.execute(
            "select pattern from public.event_subscriptions where workflow_id = %s", (workflow,)
        ).fetchall()

    workflow = save(db, world.a, TASK)
    assert patterns() == [("growth.lead.created",)]
    db.execute(
        "update public.workflows set definition = jsonb_set(definition, '{when,event}', '\"growth.lead.won\"') where id = %s",
        (workflow,),
    )
    assert patterns() == [("growth.lead.won",)]
    db.execute(
        "update public.workflows set is_active = false, paused_reason = 'manual' where id = %s",
        (workflow,),
    )
    assert patterns() == []


def test_a_workflow_works_for_a_member(db: Connection, world: World) -> None:
    workflow = save(db, world.a, TASK)
    with refused("user_not_member"):
        db.execute(
            "update public.workflows set owner_id = %s where id = %s",
            (world.b.member("director"), workflow),
        )


# --- Agents and the shipped workflows ------------------------------------------------------------


def end_agent(db: Connection, org: Org, reason: str) -> None:
    """Have the agent that was started come to an end as its worker would end it."""
    db.execute("update public.agent_runs set status = 'running' where status = 'queued'")
    db.execute(
        "select app.end_agent_run(%s, id, %s, 'sem resposta') from public.agent_runs where status = 'running'",
        (org.org, reason),
    )


def install(db: Connection, org: Org, key: str) -> None:
    db.execute("select public.install_workflow_template(%s, %s)", (org.org, key))


def test_an_agent_that_fails_fails_the_run_and_a_retry_asks_another_one(
    db: Connection, world: World
) -> None:
    step = {"id": "q", "kind": "agent", "agent": "lead_qualifier", "input": {"lead_id": {"$": "event.entity_id"}}}  # fmt: skip
    save(db, world.a, step, TASK)
    lead(db, world.a)
    assert work(db) == ["waits"]
    end_agent(db, world.a, "turns")
    assert work(db) == ["failed: workflow_agent_failed"]
    assert runs(db) == [("failed", "workflow_agent_failed")]
    with as_member(db, world.a, "owner"):
        db.execute("select public.retry_workflow_run(id) from public.workflow_runs")
    assert work(db) == ["waits"]
    assert db.execute("select count(*) from public.agent_runs").fetchone() == (2,)


def test_a_lead_is_qualified_and_its_owner_told_without_a_provider_too(
    db: Connection, world: World
) -> None:
    install(db, world.a, "lead-qualified")
    db.execute(
        "insert into public.leads (org_id, name, email, owner_id) values (%s, 'Zé Lima', 'ze@lima.example', %s)",
        (world.a.org, world.a.member("sales")),
    )
    assert work(db) == ["waits"]
    end_agent(db, world.a, "no_provider")
    assert work(db) == ["completed qualify", "completed tell"]
    assert outputs(db)["qualify"]["suggestion"]["is_template"] is True
    told = db.execute(
        "select recipient_id, body from public.notifications where template = 'workflow_message'"
    ).fetchall()
    action = outputs(db)["qualify"]["suggestion"]["output"]["next_action"]["title"]
    assert told == [(world.a.member("sales"), action)]


def write_case(db: Connection, org: Org, content: str | None) -> None:
    install(db, org, "case-published")
    db.execute(
        "insert into public.success_cases (org_id, title, slug, raw_data, summary, content_markdown)"
        " values (%s, 'Migração sem parada', 'migracao', 'De 9 para 2 horas.', %s, %s)",
        (org.org, content and "Menos espera para quem atende.", content),
    )
    assert work(db) == ["completed facts", "completed is_new", "waits"]
    end_agent(db, org, "no_provider")


def test_a_case_becomes_a_draft_and_is_published_once_a_person_approves(
    db: Connection, world: World
) -> None:
    write_case(db, world.a, "A equipe mudou o atendimento de lugar. " * 20)
    assert work(db) == ["completed draft", "completed has_draft", "waits"]
    assert db.execute("select status from public.public_posts").fetchall() == [("draft",)]
    review = review_of(db)
    with as_member(db, world.a, "sales"):
        decide(db, review)
    assert work(db) == ["completed publish"]
    assert db.execute("select status from public.public_posts").fetchall() == [("published",)]
    db.execute("update public.success_cases set raw_data = raw_data || ' Mais.'")
    assert work(db) == ["completed facts", "completed is_new"]


def test_a_case_of_which_no_draft_was_made_is_handed_to_people(
    db: Connection, world: World
) -> None:
    write_case(db, world.a, None)
    assert work(db) == ["completed draft", "completed has_draft", "completed by_hand"]
    assert db.execute("select count(*) from public.public_posts").fetchone() == (0,)


def test_a_contract_near_its_renewal_becomes_a_task_with_a_summary(
    db: Connection, world: World
) -> None:
    install(db, world.a, "contract-renewal")
    row = db.execute(
        "insert into public.contracts (org_id, client_id, title, mrr, starts_on, renews_on, status, commercial_manager_id)"
        " values (%s, %s, 'Suporte', 1500, app.org_today(%s) - 300, app.org_today(%s) + 60, 'draft', %s) returning id",
        (world.a.org, world.a.client, world.a.org, world.a.org, world.a.member("director")),
    ).fetchone()
    assert row
    db.execute("update public.contracts set status = 'active' where id = %s", (row[0],))
    db.execute("select app.raise_contract_alerts(%s)", (world.a.org,))
    assert work(db) == ["completed summary", "completed task"]
    ((title, text, entity, assignee),) = db.execute(
        "select title, description, entity_id, assignee_id from public.tasks"
    ).fetchall()
    assert title.startswith("Renovar o contrato ")
    assert "R$ 1.500,00" in text
    assert "Dias: 60." in text
    assert (entity, assignee) == (row[0], world.a.member("director"))


def test_a_lead_without_owner_is_given_to_a_person(db: Connection, world: World) -> None:
    step = {"id": "give", "kind": "function", "function": "assign_lead", "arguments": {"lead_id": {"$": "event.entity_id"}, "person_id": str(world.a.member("sales"))}}  # fmt: skip
    save(db, world.a, step)
    lead(db, world.a)
    work(db)
    assert db.execute("select owner_id from public.leads").fetchall() == [
        (world.a.member("sales"),)
    ]


def test_an_event_of_another_pattern_starts_nothing_whoever_subscribes(
    db: Connection, world: World
) -> None:
    workflow = save(db, world.a, TASK)
    db.execute(
        "update public.event_subscriptions set pattern = '*' where workflow_id = %s", (workflow,)
    )
    db.execute("insert into public.tasks (org_id, title) values (%s, 'Outra')", (world.a.org,))
    assert runs(db) == []
    lead(db, world.a)
    assert runs(db) == [("pending", None)]
    db.execute("update public.workflows set is_active = false where id = %s", (workflow,))
    lead(db, world.a)
    assert len(runs(db)) == 1
