"""Agents: what a row of theirs may say, who may call what, and that nothing is rewritten."""

import json
from typing import Any
from uuid import UUID

import pytest

from tests.people import Connection, World, as_agent, as_member, as_worker, denied, refused
from tests.rules.test_ops_playbooks import one


def add_agent(db: Connection, world: World, key: str = "ajudante", **columns: Any) -> UUID:
    """Make an agent of the kind custom, with what its kind gives it."""
    values = {"name": "Ajudante", **columns}
    return UUID(
        str(
            one(
                db,
                f"insert into public.agents (org_id, kind, key, {', '.join(values)})"
                f" values (%s, 'custom', %s, {', '.join(['%s'] * len(values))}) returning id",
                world.a.org,
                key,
                *values.values(),
            )
        )
    )


def add_grant(db: Connection, world: World, **columns: Any) -> None:
    """Write a line of grants."""
    values = {"tool": "qualify_lead", "mode": "automatic", **columns}
    db.execute(
        f"insert into public.agent_tool_grants (org_id, {', '.join(values)})"
        f" values (%s, {', '.join(['%s'] * len(values))})",
        (world.a.org, *values.values()),
    )


def mode(db: Connection, world: World, agent: UUID, tool: str = "qualify_lead") -> Any:
    return one(db, "select mode from app.agent_grant(%s, %s, %s)", world.a.org, agent, tool)


def test_an_agent_takes_from_its_kind_what_it_does_not_say(db: Connection, world: World) -> None:
    with as_member(db, world.a, "director"):
        row = db.execute(
            "insert into public.agents (org_id, kind) values (%s, 'custom')"
            " returning key, name, autonomy, max_turns, daily_token_limit, is_active",
            (world.a.org,),
        ).fetchone()
    assert row == ("custom", "Agente próprio", "approval", 8, 200000, True)


@pytest.mark.parametrize(
    "config",
    [
        [],
        {"max_minutes": 15},
        {"max_minutes": 0.5},
        {"max_minutes": "10"},
        {"max_output_tokens": 63},
        {"max_output_tokens": None},
        {"temperature": 1},
    ],
)
def test_config_takes_known_keys_within_bounds(
    db: Connection, world: World, config: object
) -> None:
    with refused("agent_config_invalid"):
        add_agent(db, world, config=json.dumps(config))
    right = add_agent(db, world, config=json.dumps({"max_minutes": 14, "max_output_tokens": 64}))
    assert one(db, "select config from public.agents where id = %s", right)


def test_agents_do_not_answer_to_each_other_in_a_circle(db: Connection, world: World) -> None:
    first = add_agent(db, world, "um")
    second = add_agent(db, world, "dois", parent_id=first)
    third = add_agent(db, world, "tres", parent_id=second)
    with refused("agent_parent_invalid"):
        db.execute("update public.agents set parent_id = %s where id = %s", (third, first))


def test_a_grant_names_a_tool_and_an_argument_of_it(db: Connection, world: World) -> None:
    agent = add_agent(db, world)
    with refused("agent_grant_invalid"):
        add_grant(db, world, agent_id=agent, tool="drop_table")
    with refused("agent_grant_invalid"):
        add_grant(db, world, agent_id=agent, threshold_argument="total", threshold_amount=1)
    add_grant(db, world, agent_id=agent, threshold_argument="score", threshold_amount=1)
    assert mode(db, world, agent) == "automatic"


def test_the_agents_line_counts_before_its_kinds_and_that_before_the_shipped_one(
    db: Connection, world: World
) -> None:
    agent = add_agent(db, world)
    assert mode(db, world, agent) is None
    db.execute(
        "insert into app.agent_kind_grants (kind, tool, mode) values ('custom', 'qualify_lead', 'automatic')"
    )
    assert mode(db, world, agent) == "automatic"
    add_grant(db, world, kind="custom", mode="denied")
    assert mode(db, world, agent) == "denied"
    add_grant(db, world, agent_id=agent, mode="approval")
    assert mode(db, world, agent) == "approval"


def test_the_same_key_starts_one_run(db: Connection, world: World) -> None:
    add_agent(db, world)
    with as_member(db, world.a, "admin"):
        runs = {
            one(
                db,
                "select public.run_agent(%s, 'ajudante', '{}', null, 'pedido-1')",
                world.a.org,
            )
            for _ in range(2)
        }
        other = one(db, "select public.run_agent(%s, 'ajudante', '{}')", world.a.org)
    assert (len(runs), other in runs) == (1, False)
    jobs = "select count(*) from pgqueuer.pgqueuer where entrypoint = 'agent.run'"
    assert one(db, jobs) == 2


def test_a_shipped_kind_is_there_as_soon_as_it_is_run(db: Connection, world: World) -> None:
    with as_member(db, world.a, "director"):
        assert one(db, "select public.run_agent(%s, 'custom', '{}')", world.a.org)
        with refused("agent_not_found"):
            db.execute("select public.run_agent(%s, 'ninguem', '{}')", (world.a.org,))
        kinds = [row[0] for row in db.execute("select kind from public.list_agent_kinds()")]
    assert "custom" in kinds
    made = "select key from public.agents where org_id = %s and kind = 'custom'"
    assert one(db, made, world.a.org) == "custom"


@pytest.mark.parametrize("given", ["[]", "null", json.dumps({"a": "a" * 100_001})])
def test_the_input_of_a_run_is_an_object_of_a_bounded_size(
    db: Connection, world: World, given: str
) -> None:
    with as_member(db, world.a, "owner"), refused("bad_input"):
        db.execute("select public.run_agent(%s, 'custom', %s)", (world.a.org, given))


def test_an_agent_starts_no_run_and_decides_nothing(db: Connection, world: World) -> None:
    with as_agent(db, world.a):
        with refused("not_allowed"):
            db.execute("select public.run_agent(%s, 'custom', '{}')", (world.a.org,))
        with denied():
            db.execute("select app.start_agent_run(%s, 'custom', '{}')", (world.a.org,))
        assert one(db, "select count(*) from public.list_agent_approvals(%s)", world.a.org) == 0


def test_a_decision_is_approve_or_refuse_of_an_approval_that_exists(
    db: Connection, world: World
) -> None:
    nothing = "00000000-0000-4000-8000-000000000000"
    decide = "select public.decide_agent_approval(%s, %s, %s)"
    with as_member(db, world.a, "owner"):
        with refused("bad_input"):
            db.execute(decide, (world.a.org, nothing, "maybe"))
        with refused("agent_approval_not_found"):
            db.execute(decide, (world.a.org, nothing, "approve"))
        with refused("not_allowed"):
            db.execute(decide, (world.b.org, nothing, "approve"))


def test_nobody_rewrites_what_happened(db: Connection, world: World) -> None:
    run = one(db, "select app.start_agent_run(%s, 'custom', '{}')", world.a.org)
    one(db, "select app.next_agent_step(%s, %s)", world.a.org, run)
    assert one(db, "select app.store_agent_message(%s, %s, 0, 'Oi')", world.a.org, run)
    with refused("append_only"):
        db.execute("update public.agent_steps set content = 'Outro'")
    for statement in (
        "update public.agent_runs set status = 'completed'",
        "delete from public.agent_steps",
        "delete from public.agent_approvals",
    ):
        with as_worker(db), denied():
            db.execute(statement)
        with as_member(db, world.a, "owner"), denied():
            db.execute(statement)


def test_a_run_that_does_not_exist_has_no_next_step(db: Connection, world: World) -> None:
    with refused("agent_run_not_found"):
        db.execute("select app.next_agent_step(%s, gen_random_uuid())", (world.a.org,))


def test_a_run_of_another_organisation_is_not_seen(db: Connection, world: World) -> None:
    run = one(db, "select app.start_agent_run(%s, 'custom', '{}')", world.a.org)
    with as_member(db, world.b, "owner"):
        assert one(db, "select count(*) from public.agent_runs where id = %s", run) == 0
    with refused("agent_run_not_found"):
        db.execute("select app.next_agent_step(%s, %s)", (world.b.org, run))


def test_what_an_event_caused_tells_of_it(db: Connection, world: World) -> None:
    event = "11111111-1111-4111-8111-111111111111"
    db.execute("select set_config('app.causation_id', %s, true)", (event,))
    run = one(db, "select app.start_agent_run(%s, 'custom', '{}')", world.a.org)
    payload = one(
        db,
        "select convert_from(payload, 'UTF8')::jsonb from pgqueuer.pgqueuer"
        " where entrypoint = 'agent.run'",
    )
    assert payload == {"agent_run_id": str(run), "event_id": event}


def test_an_organisation_begins_with_an_agent_of_each_kind_with_room_for_its_answers(
    db: Connection,
) -> None:
    org = one(
        db, "insert into organizations (name, slug) values ('Nova', 'nova-empresa') returning id"
    )
    kinds = db.execute(
        "select k.kind, s.max_output_tokens from app.agent_kinds k left join app.suggestion_kinds s using (kind)"
        " where k.kind <> 'custom' order by 1"
    ).fetchall()
    assert any(room for _, room in kinds)
    assert (
        kinds
        == db.execute(
            "select kind, (config ->> 'max_output_tokens')::integer from agents where org_id = %s order by 1",
            (org,),
        ).fetchall()
    )
