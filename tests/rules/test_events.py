"""Events: catalogue, actors, partitions, rollup, recount, subscriptions."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.jobs import add_job_type
from tests.people import (
    Connection,
    Org,
    World,
    as_agent,
    as_anon,
    as_member,
    as_worker,
    denied,
    refused,
    set_clock,
)

KIND = ("data", "event_aggregates.drifted")


def record(db: Connection, org: Org, *, at: str | None = None) -> Any:
    """Record one event and give its id."""
    row = db.execute(
        "select app.record_event(%s, %s, %s, 'event_aggregates', null, '{}', coalesce(%s::timestamptz, app.now()))",
        (org.org, *KIND, at),
    ).fetchone()
    assert row
    return row[0]


def counts(db: Connection, org: Org) -> dict[str, int]:
    """Give the aggregated counts of the organisation's drift events by day."""
    rows = db.execute(
        "select period, count from public.event_aggregates where org_id = %s and event_type = %s",
        (org.org, KIND[1]),
    ).fetchall()
    return {str(period): count for period, count in rows}


def committed(url: str, org: Org, *moments: str) -> None:
    """Record events that are committed, so that the rollup may pass them."""
    with psycopg.connect(url) as connection:
        for moment in moments:
            record(connection, org, at=moment)


def test_an_event_outside_the_catalogue_is_refused(db: Connection, world: World) -> None:
    with refused("event_type_unknown"):
        db.execute("select app.record_event(%s, 'data', 'nobody.knows', 'x', null)", (world.a.org,))


def test_a_client_can_neither_write_nor_change_nor_delete_events(
    db: Connection, world: World
) -> None:
    record(db, world.a)
    with as_member(db, world.a, "owner"):
        with denied():
            db.execute(
                "insert into module_events (org_id, module, event_type, entity_type, actor_kind, occurred_on)"
                " values (%s, 'data', 'x.y', 'x', 'user', now())",
                (world.a.org,),
            )
        with denied():
            db.execute("update module_events set payload = '{}'")
        with denied():
            db.execute("delete from module_events")


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role", "analyst"])
def test_a_partition_cannot_be_reached_directly(db: Connection, role: str) -> None:
    name = db.execute(
        "select inhrelid::regclass::text from pg_inherits where inhparent = 'public.module_events'::regclass limit 1"
    ).fetchone()
    assert name
    with denied(), db.transaction():
        db.execute(f"set local role {role}")
        db.execute(f"select count(*) from {name[0]}")


def test_partitions_are_made_three_months_ahead_and_hold_their_months(own_db_url: str) -> None:
    with psycopg.connect(own_db_url, autocommit=True) as db:
        set_clock(db, "2033-11-30T23:30:00-03:00")
        assert db.execute(
            "select app.ensure_event_partitions(), app.ensure_event_partitions()"
        ).fetchone() == (4, 0)
        names = db.execute(
            "select relname from pg_class where relname between 'module_events_203312' and 'module_events_203403'"
            " and relkind = 'r' order by 1"
        ).fetchall()
    assert [name for (name,) in names] == [
        f"module_events_{month}" for month in (203312, 203401, 203402, 203403)
    ]


@pytest.mark.parametrize("moment", ["1998-05-01T12:00:00Z", "2199-01-01T12:00:00Z"])
def test_an_event_older_or_newer_than_every_partition_is_stored_and_counted(
    own_db_url: str, world: World, moment: str
) -> None:
    committed(own_db_url, world.a, moment)
    with psycopg.connect(own_db_url) as db:
        db.execute("select app.rollup_events()")
        assert counts(db, world.a) == {moment[:10]: 1}
        where = db.execute(
            "select tableoid::regclass::text from module_events where event_type = %s", (KIND[1],)
        )
        assert where.fetchall() == [("partitions.module_events_default",)]
        month = moment[:7] + "-01"
        db.execute("select app.ensure_event_partitions(%s, %s)", (month, month))
        where = db.execute(
            "select tableoid::regclass::text from module_events where event_type = %s", (KIND[1],)
        )
        assert where.fetchall() == [(f"partitions.module_events_{moment[:4]}{moment[5:7]}",)]


def test_a_late_event_lands_in_its_own_day_of_the_organisations_time_zone(
    own_db_url: str, world: World
) -> None:
    committed(own_db_url, world.a, "2026-03-31T23:30:00-03:00", "2026-04-01T00:10:00-03:00")
    with psycopg.connect(own_db_url) as db:
        db.execute("select app.rollup_events()")
        assert counts(db, world.a) == {"2026-03-31": 1, "2026-04-01": 1}
    committed(own_db_url, world.a, "2026-03-31T12:00:00-03:00")
    with psycopg.connect(own_db_url) as db:
        db.execute("select app.rollup_events()")
        assert counts(db, world.a) == {"2026-03-31": 2, "2026-04-01": 1}


def test_the_rollup_waits_for_a_transaction_that_is_still_running(
    own_db_url: str, world: World
) -> None:
    with (
        psycopg.connect(own_db_url) as slow,
        psycopg.connect(own_db_url, autocommit=True) as worker,
    ):
        worker.execute("select app.rollup_events()")
        record(slow, world.a, at="2026-05-05T12:00:00Z")
        committed(own_db_url, world.a, "2026-05-06T12:00:00Z")
        assert worker.execute("select app.rollup_events()").fetchone() == (0,)
        slow.commit()
        assert worker.execute("select app.rollup_events()").fetchone() == (2,)


def test_the_recount_equals_the_rollup_and_repairs_a_wrong_count(
    own_db_url: str, world: World
) -> None:
    committed(own_db_url, world.a, "2026-05-05T12:00:00Z", "2026-05-05T13:00:00Z")
    with psycopg.connect(own_db_url, autocommit=True) as db:
        db.execute("select app.rollup_events()")
        recount = (
            "select counted, drift from public.aggregate_module_events_for_period('2026-05-05')"
        )
        assert db.execute(recount).fetchall() == [(2, 0)]
        db.execute("update public.event_aggregates set count = 7 where period = '2026-05-05'")
        assert db.execute(recount).fetchall() == [(2, -5)]
        assert counts(db, world.a) == {"2026-05-05": 2}


def test_drift_found_by_the_nightly_recount_is_reported_as_an_event(
    own_db_url: str, world: World
) -> None:
    committed(own_db_url, world.b, "2026-05-05T12:00:00-03:00")
    with psycopg.connect(own_db_url, autocommit=True) as db:
        db.execute("select app.rollup_events()")
        db.execute("update public.event_aggregates set count = 3 where period = '2026-05-05'")
        set_clock(db, "2026-05-06T03:00:00-03:00")
        db.execute("select app.recount_events_yesterday()")
        told = db.execute(
            "select org_id, payload from module_events where event_type = %s and occurred_at > '2026-05-06'",
            (KIND[1],),
        ).fetchall()
    assert told == [(world.b.org, {"period": "2026-05-05", "drift": 2})]


def test_after_a_restore_into_another_cluster_every_event_is_counted_once(
    own_db_url: str, world: World
) -> None:
    committed(own_db_url, world.a, "2026-05-05T12:00:00Z", "2026-05-06T12:00:00Z")
    with psycopg.connect(own_db_url, autocommit=True) as db:
        db.execute("select app.rollup_events()")
        before = counts(db, world.a)
        # A restored dump brings transaction ids and a watermark of the cluster it came from.
        db.execute("update app.rollup_state set cluster = 'elsewhere', counted_below = '900000000'")
        db.execute(
            "update public.module_events set xid = '800000000' where occurred_on = '2026-05-06'"
        )
        db.execute("select app.rollup_events()")
        assert counts(db, world.a) == before
    committed(own_db_url, world.a, "2026-05-06T13:00:00Z")
    with psycopg.connect(own_db_url, autocommit=True) as db:
        db.execute("select app.rollup_events()")
        assert counts(db, world.a) == {**before, "2026-05-06": 2}


@pytest.mark.parametrize(
    ("kind", "actor"),
    [
        ("user", lambda db, org: as_member(db, org, "sales")),
        ("client", lambda db, org: as_member(db, org, "client")),
        ("agent", as_agent),
        ("visitor", lambda db, org: as_anon(db)),  # noqa: ARG005 - a visitor has no organisation
        ("system", lambda db, org: as_worker(db)),  # noqa: ARG005 - nor has the worker
    ],
)
def test_an_event_names_who_acted(
    db: Connection,
    world: World,
    kind: str,
    actor: Callable[[Connection, Org], AbstractContextManager[object]],
) -> None:
    with actor(db, world.a):
        claims = db.execute("select current_setting('request.jwt.claims')").fetchone()
    # The owner may record for anybody; only the claims say in whose name.
    db.execute("select set_config('request.jwt.claims', %s, true)", claims)
    event = record(db, world.a)
    db.execute("select set_config('request.jwt.claims', '', true)")
    stored = db.execute("select actor_kind from module_events where id = %s", (event,)).fetchone()
    assert stored == (kind,)


def test_a_subscription_enqueues_a_job_in_the_same_transaction_for_matching_events_only(
    db: Connection, world: World
) -> None:
    subscribe = (
        "insert into event_subscriptions (org_id, pattern, handler, config)"
        """ values (%s, %s, 'job', '{"entrypoint": "test.echo"}')"""
    )
    add_job_type(db, "test.echo", is_subscribable=True)
    with as_member(db, world.a, "admin"):
        db.execute(subscribe, (world.a.org, "data.event_aggregates.*"))
        db.execute(subscribe, (world.a.org, "fin.contract.*"))
    event = record(db, world.a)
    record(db, world.b)
    jobs = db.execute(
        "select entrypoint, payload, headers from pgqueuer.pgqueuer where entrypoint like 'event.%'"
    ).fetchall()
    assert [
        (entrypoint, json.loads(bytes(payload))["event_id"], headers["org_id"])
        for entrypoint, payload, headers in jobs
    ] == [("event.job", str(event), str(world.a.org))]


@pytest.mark.parametrize(
    "pattern", ["fin", "fin.contract", "Fin.*", "fin.*.created", "%", "fin.contract.%"]
)
def test_a_malformed_subscription_pattern_is_refused(
    db: Connection, world: World, pattern: str
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation), db.transaction():
        db.execute(
            "insert into event_subscriptions (org_id, pattern, handler, config)"
            """ values (%s, %s, 'notification', '{"template": "event", "role": "sales"}')""",
            (world.a.org, pattern),
        )


def test_workflows_cannot_be_subscribed_to_until_there_are_any(
    db: Connection, world: World
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation), db.transaction():
        db.execute(
            "insert into event_subscriptions (org_id, pattern, handler) values (%s, '*', 'workflow')",
            (world.a.org,),
        )


@pytest.mark.parametrize("config", ["{}", '{"entrypoint": "test.closed"}', '{"entrypoint": "x"}'])
def test_a_subscription_may_ask_only_for_a_job_that_is_open_to_subscriptions(
    db: Connection, world: World, config: str
) -> None:
    add_job_type(db, "test.closed")
    with as_member(db, world.a, "admin"), refused("job_not_subscribable"):
        db.execute(
            "insert into event_subscriptions (org_id, pattern, handler, config) values (%s, '*', 'job', %s)",
            (world.a.org, config),
        )


def subscribe_job(db: Connection, org: Org, pattern: str = "data.event_aggregates.*") -> UUID:
    """Subscribe a job that is open to subscriptions; give the subscription."""
    add_job_type(db, "test.echo", is_subscribable=True)
    row = db.execute(
        "insert into event_subscriptions (org_id, pattern, handler, config)"
        """ values (%s, %s, 'job', '{"entrypoint": "test.echo"}') returning id""",
        (org.org, pattern),
    ).fetchone()
    assert row is not None
    return UUID(str(row[0]))


def subscribed_job(db: Connection, org: Org, subscription: UUID, event: UUID) -> int | None:
    """Do what the job event.job does; give the job it enqueued."""
    row = db.execute(
        "select app.enqueue_subscribed_job(%s, %s, %s, (select occurred_at from module_events where id = %s))",
        (org.org, subscription, event, event),
    ).fetchone()
    return None if row is None else row[0]


def test_a_subscribed_job_gets_the_event(db: Connection, world: World) -> None:
    subscription = subscribe_job(db, world.a)
    event = record(db, world.a)
    job = subscribed_job(db, world.a, subscription, event)
    row = db.execute(
        "select entrypoint, convert_from(payload, 'UTF8')::jsonb, headers ->> 'org_id'"
        " from pgqueuer.pgqueuer where id = %s",
        (job,),
    ).fetchone()
    assert row is not None
    assert (row[0], row[2]) == ("test.echo", str(world.a.org))
    assert row[1]["event_id"] == str(event)
    assert row[1]["event_type"] == "event_aggregates.drifted"
    assert subscribed_job(db, world.a, subscription, event) is None


def test_a_subscription_that_rests_or_belongs_to_another_enqueues_nothing(
    db: Connection, world: World
) -> None:
    subscription = subscribe_job(db, world.a)
    event = record(db, world.a)
    assert subscribed_job(db, world.b, subscription, event) is None
    db.execute("update event_subscriptions set is_active = false where id = %s", (subscription,))
    assert subscribed_job(db, world.a, subscription, event) is None


def test_events_that_cause_each_other_without_end_are_stopped(db: Connection, world: World) -> None:
    subscription = subscribe_job(db, world.a)
    event = record(db, world.a)
    for _ in range(9):
        assert subscribed_job(db, world.a, subscription, event) is not None
        db.execute("select set_config('app.causation_id', %s, true)", (str(event),))
        event = record(db, world.a)
    assert subscribed_job(db, world.a, subscription, event) is not None
    db.execute("select set_config('app.causation_id', %s, true)", (str(event),))
    event = record(db, world.a)
    with refused("event_loop"):
        subscribed_job(db, world.a, subscription, event)


def test_a_job_needs_the_queue_and_the_error_names_the_remedy(db: Connection) -> None:
    db.execute("alter schema pgqueuer rename to gone")
    with refused("queue_missing") as answer:
        db.execute("select app.enqueue('event.job', '{}')")
    assert "nessos db push" in answer.hint


def test_enqueue_takes_the_priority_of_the_class_and_one_job_per_dedupe_key(
    db: Connection, world: World
) -> None:
    add_job_type(db, "test.urgent", latency_class="high_priority")
    enqueue = "select app.enqueue('test.urgent', '{\"a\": 1}', %s, 'only-one', '30 s')"
    first, second = (db.execute(enqueue, (world.a.org,)).fetchone() for _ in range(2))
    assert first is not None
    assert first[0] is not None
    assert second == (None,)
    job = db.execute(
        "select priority, convert_from(payload, 'UTF8')::jsonb, headers ->> 'org_id',"
        " execute_after > now() + interval '29 s', status::text from pgqueuer.pgqueuer where id = %s",
        first,
    ).fetchone()
    assert job == (20, {"a": 1}, str(world.a.org), True, "queued")


def test_a_job_of_a_rolled_back_transaction_never_existed(db: Connection) -> None:
    with db.transaction(force_rollback=True):
        db.execute("select app.enqueue('event.job', '{}')")
    assert db.execute(
        "select count(*) from pgqueuer.pgqueuer where entrypoint = 'event.job'"
    ).fetchone() == (0,)


def test_a_job_outside_the_catalogue_is_refused(db: Connection) -> None:
    with refused("job_type_unknown"):
        db.execute("select app.enqueue('test.unknown', '{}')")


@pytest.mark.parametrize("role", ["owner", "employee"])
def test_clients_cannot_enqueue_or_roll_up(db: Connection, world: World, role: str) -> None:
    with as_member(db, world.a, role):
        with denied():
            db.execute("select app.enqueue('event.job', '{}')")
        with denied():
            db.execute("select app.rollup_events()")


def test_aggregates_are_read_by_those_who_read_data_and_by_nobody_else(
    db: Connection, world: World
) -> None:
    db.execute(
        "insert into event_aggregates values (%s, '2026-01-01', 'data', 'x.y', 3)", (world.a.org,)
    )
    read = "select count from public.get_event_aggregates(%s, '2026-01-01')"
    with as_member(db, world.a, "finance"):
        assert db.execute(read, (world.a.org,)).fetchall() == [(3,)]
    for org, role in ((world.a, "sales"), (world.b, "owner")):
        with as_member(db, org, role):
            assert db.execute(read, (world.a.org,)).fetchall() == []
