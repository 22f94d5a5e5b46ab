"""Webhooks out in the database: who may name a receiver and where, what is written down, claimed, tried again and given up."""

import json
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.people import (
    Connection,
    Org,
    World,
    as_member,
    as_worker,
    denied,
    refused,
    set_clock,
)

URL = "https://hooks.rosto.example/in"
START = "2026-03-10T12:00:00Z"
KIND = ("data", "event_aggregates.drifted")


def one(db: Connection, query: str, *parameters: Any) -> Any:
    """Give the first column of the first row."""
    row = db.execute(query, parameters).fetchone()
    return row[0] if row else None


def endpoint(
    db: Connection, org: Org, *patterns: str, url: str = URL, role: str = "admin"
) -> dict[str, Any]:
    """Make an endpoint as a member; give its id and its secret."""
    with as_member(db, org, role):
        made: dict[str, Any] = one(
            db,
            "select public.create_webhook_endpoint(%s, %s, %s)",
            org.org,
            url,
            list(patterns or ["*"]),
        )
    return made


def record(db: Connection, org: Org, entity: UUID | None = None, **payload: Any) -> UUID:
    """Record an event of an entity; give its id."""
    event: UUID = one(
        db,
        "select app.record_event(%s, %s, %s, 'event_aggregates', %s, %s)",
        org.org,
        *KIND,
        entity,
        json.dumps(payload),
    )
    return event


def claim(db: Connection, org: Org, target: Any) -> list[tuple[Any, ...]]:
    """Claim what is due, as the worker."""
    with as_worker(db):
        return db.execute(
            "select delivery_id, message_id, attempt, secrets from app.claim_webhook_deliveries(%s, %s)",
            (org.org, target),
        ).fetchall()


def note(  # noqa: PLR0913 - the parts of an outcome
    db: Connection,
    org: Org,
    claimed: tuple[Any, ...],
    *,
    status: int | None = 200,
    error: str | None = None,
    retry_after_s: int | None = None,
) -> str:
    """Note how an attempt went, as the worker."""
    with as_worker(db):
        said: str = one(
            db,
            "select app.note_webhook_attempt(%s, %s, %s, %s, %s, 12, %s)",
            org.org,
            claimed[0],
            claimed[2],
            status,
            error or (None if status and 200 <= status < 300 else f"HTTP {status}"),
            retry_after_s,
        )
    return said


def shift(db: Connection, by: str) -> None:
    """Move the clock forward from where it is."""
    set_clock(db, one(db, "select (app.now() + %s::interval)::text", by))


def state(db: Connection, event: UUID) -> str:
    """Give the state of an event's one delivery."""
    said: str = one(db, "select status from public.webhook_deliveries where event_id = %s", event)
    return said


def reason(db: Connection, target: Any) -> str | None:
    """Give why an endpoint is paused."""
    said: str | None = one(
        db, "select paused_reason from public.webhook_endpoints where id = %s", target
    )
    return said


# --- Endpoints -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.rosto.example",
        "https://hooks.rosto.example/a/b?c=d&e=%20",
        "https://HOOKS.rosto.example:8443/",
        "https://xn--bcher-kva.example/in",
        "http://127.0.0.1:9000/in",
        "http://localhost/in",
    ],
)
def test_a_receiver_is_a_public_name_by_https_or_the_developers_own_machine(
    db: Connection, world: World, url: str
) -> None:
    made = endpoint(db, world.a, url=url)
    assert one(db, "select url from public.webhook_endpoints where id = %s", made["id"]) == url


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        "hooks.rosto.example",
        "ftp://hooks.rosto.example/",
        "http://hooks.rosto.example/in",
        "http://127.0.0.2/in",
        "http://localhost.rosto.example/in",
        "https://localhost/in",
        "https://printer/in",
        "https://db.internal/in",
        "https://printer.local/in",
        "https://10.in-addr.arpa/in",
        "https://127.0.0.1/in",
        "https://2130706433/in",
        "https://0x7f000001/in",
        "https://0177.0.0.1/in",
        "https://127.1/in",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/in",
        "https://[::ffff:127.0.0.1]/in",
        "https://user@hooks.rosto.example/in",
        "https://user:secret@hooks.rosto.example/in",
        "https://hooks.rosto.example@10.0.0.1/in",
        "https://hooks.rosto.example\\@10.0.0.1/in",
        "https://hooks.rosto.example/in#part",
        "https://hooks.rosto.example/with space",
        "https://hooks.rosto.example/line\nHost: x",
        "https://hooks.rosto.example:22/in",
        "https://hooks.rosto.example:25/in",
        "https://hooks.rosto.example:0/in",
        "https://hooks.rosto.example:99999/in",
        "https://hooks..example/in",
        "https://-hooks.rosto.example/in",
        "https://bücher.example/in",
        "https://hooks.rosto.example/" + "a" * 2000,
    ],
)
def test_an_address_that_is_not_a_receivers_is_refused(
    db: Connection, world: World, url: str | None
) -> None:
    with as_member(db, world.a, "admin"), refused("webhook_url_refused"):
        db.execute("select public.create_webhook_endpoint(%s, %s, array['*'])", (world.a.org, url))


@pytest.mark.parametrize("patterns", [[], ["fin"], ["%"], [None], ["*"] * 51])
def test_a_malformed_list_of_patterns_is_refused(
    db: Connection, world: World, patterns: list[str]
) -> None:
    with as_member(db, world.a, "admin"), refused("bad_input"):
        db.execute(
            "select public.create_webhook_endpoint(%s, %s, %s)", (world.a.org, URL, patterns)
        )


def test_a_pattern_that_no_event_can_match_is_refused_by_name(db: Connection, world: World) -> None:
    with as_member(db, world.a, "admin"), refused("webhook_pattern_unknown") as answer:
        db.execute(
            "select public.create_webhook_endpoint(%s, %s, array['*', 'fin.contrat.*'])",
            (world.a.org, URL),
        )
    assert "fin.contrat.*" in answer.detail


def test_an_organisation_has_at_most_fifty_endpoints(db: Connection, world: World) -> None:
    db.execute(
        "insert into public.webhook_endpoints (org_id, url) select %s, %s from generate_series(1, 49)",
        (world.a.org, URL),
    )
    endpoint(db, world.a)
    with as_member(db, world.a, "admin"), refused("webhook_endpoint_limit"):
        db.execute("select public.create_webhook_endpoint(%s, %s, array['*'])", (world.a.org, URL))
    endpoint(db, world.b)


def test_a_changed_endpoint_keeps_what_is_not_given(db: Connection, world: World) -> None:
    made = endpoint(db, world.a, "fin.*", "data.*")
    with as_member(db, world.a, "admin"):
        db.execute(
            "select public.update_webhook_endpoint(%s, %s, description => 'ERP', patterns => array['data.*', 'growth.lead.*'])",
            (world.a.org, made["id"]),
        )
        row = db.execute(
            "select e.url, e.description, array_agg(s.pattern order by s.pattern) from webhook_endpoints e"
            " join event_subscriptions s on s.endpoint_id = e.id where e.id = %s group by 1, 2",
            (made["id"],),
        ).fetchone()
    assert row == (URL, "ERP", ["data.*", "growth.lead.*"])


ACTS = [
    "pause_webhook_endpoint(%s, %s)",
    "resume_webhook_endpoint(%s, %s)",
    "rotate_webhook_secret(%s, %s)",
    "send_test_webhook(%s, %s)",
    "update_webhook_endpoint(%s, %s, 'https://thief.example/')",
    "delete_webhook_endpoint(%s, %s)",
    "replay_webhook_deliveries(%s, %s, '2020-01-01', '2030-01-01')",
]


@pytest.mark.parametrize("act", ACTS)
def test_another_organisations_endpoint_cannot_be_reached(
    db: Connection, world: World, act: str
) -> None:
    theirs = endpoint(db, world.b)["id"]
    with as_member(db, world.a, "owner"):
        with refused("not_found"):
            db.execute(f"select public.{act}", (world.a.org, theirs))
        with refused("not_allowed"):
            db.execute(f"select public.{act}", (world.b.org, theirs))


def test_a_subscription_cannot_name_another_organisations_endpoint(
    db: Connection, world: World
) -> None:
    theirs = endpoint(db, world.b)["id"]
    with (
        as_member(db, world.a, "owner"),
        pytest.raises(psycopg.errors.ForeignKeyViolation),
        db.transaction(),
    ):
        db.execute(
            "insert into event_subscriptions (org_id, pattern, handler, endpoint_id) values (%s, '*', 'webhook', %s)",
            (world.a.org, theirs),
        )


@pytest.mark.parametrize("role", ["owner", "admin", "director", "employee", "agent", "client"])
def test_nobody_reads_a_secret_and_only_admins_read_what_was_sent(
    db: Connection, world: World, role: str
) -> None:
    endpoint(db, world.a)
    record(db, world.a)
    sees = 1 if role in {"owner", "admin"} else 0
    with as_member(db, world.a, role):
        for table in ("webhook_endpoints", "webhook_deliveries"):
            assert one(db, f"select count(*) from {table} where org_id = %s", world.a.org) >= sees
            assert bool(one(db, f"select count(*) from {table}")) == bool(sees)
        with denied():
            db.execute("select * from app.webhook_secrets")
        with denied():
            db.execute("update webhook_endpoints set url = 'https://thief.example/'")
        with denied():
            db.execute("select * from app.claim_webhook_deliveries(%s, %s)", (world.a.org, uuid4()))
    with as_member(db, world.b, "owner"):
        assert one(db, "select count(*) from webhook_deliveries") == 0


def test_neither_the_audit_log_nor_an_event_shows_an_address_or_a_secret(
    db: Connection, world: World
) -> None:
    made = endpoint(db, world.a, url="https://hooks.rosto.example/token-1234")
    with as_member(db, world.a, "admin"):
        db.execute(
            "select public.update_webhook_endpoint(%s, %s, 'https://hooks.rosto.example/token-5678')",
            (world.a.org, made["id"]),
        )
        db.execute("select public.rotate_webhook_secret(%s, %s)", (world.a.org, made["id"]))
    told = str(
        db.execute(
            "select changes from public.audit_log where org_id = %(org)s"
            " union all select payload from public.module_events where org_id = %(org)s"
            " union all select payload::jsonb from public.webhook_deliveries where org_id = %(org)s",
            {"org": world.a.org},
        ).fetchall()
    )
    assert "webhook_endpoints" in str(
        db.execute(
            "select table_name from public.audit_log where org_id = %s", (world.a.org,)
        ).fetchall()
    )
    assert "token-" not in told
    assert "whsec_" not in told


# --- What is written down ------------------------------------------------------------------------


def test_an_event_is_written_down_once_per_endpoint_in_its_own_transaction(
    db: Connection, world: World
) -> None:
    both = endpoint(db, world.a, "data.*", "*")["id"]
    other = endpoint(db, world.a, "data.event_aggregates.*")["id"]
    endpoint(db, world.a, "fin.*")
    with db.transaction(force_rollback=True):
        lost = record(db, world.a)
    event = record(db, world.a, uuid4(), drift=2)
    record(db, world.b)
    rows = db.execute(
        "select endpoint_id, event_id from public.webhook_deliveries where event_type = 'data.event_aggregates.drifted'"
    ).fetchall()
    assert sorted(rows) == sorted([(UUID(both), event), (UUID(other), event)])
    assert lost not in {row[1] for row in rows}


def test_the_payload_names_the_event_and_its_entity(db: Connection, world: World) -> None:
    endpoint(db, world.a, "data.*")
    entity = uuid4()
    set_clock(db, START)
    record(db, world.a, entity, period="2026-03-09", drift=2)
    payload = one(db, "select payload from public.webhook_deliveries")
    assert list(json.loads(payload)) == ["type", "timestamp", "data"]
    assert json.loads(payload) == {
        "type": "data.event_aggregates.drifted",
        "timestamp": "2026-03-10T12:00:00Z",
        "data": {
            "org_id": str(world.a.org),
            "entity_type": "event_aggregates",
            "entity_id": str(entity),
            "payload": {"period": "2026-03-09", "drift": 2},
        },
    }


def test_a_transaction_of_many_events_asks_for_one_job(db: Connection, world: World) -> None:
    target = endpoint(db, world.a, "data.*")["id"]
    for _ in range(20):
        record(db, world.a)
    jobs = db.execute(
        "select convert_from(payload, 'UTF8')::jsonb ->> 'endpoint_id', headers ->> 'org_id'"
        " from pgqueuer.pgqueuer where entrypoint = 'webhook.deliver'"
    ).fetchall()
    assert jobs == [(target, str(world.a.org))]


# --- Claims: order and number ---------------------------------------------------------------------


def test_a_later_event_of_an_entity_waits_for_the_earlier_and_others_pass(
    db: Connection, world: World
) -> None:
    target = endpoint(db, world.a, "data.*")["id"]
    set_clock(db, START)
    first, second = uuid4(), uuid4()
    events = [record(db, world.a, entity) for entity in (first, first, first, second)]
    claimed = claim(db, world.a, target)
    assert [row[1] for row in claimed] == [events[0], events[3]]
    assert claim(db, world.a, target) == []
    note(db, world.a, claimed[0], status=500)
    note(db, world.a, claimed[1])
    assert claim(db, world.a, target) == []
    shift(db, "10 seconds")
    again = claim(db, world.a, target)
    assert [(row[1], row[2]) for row in again] == [(events[0], 2)]
    note(db, world.a, again[0])
    for event in events[1:3]:
        (row,) = claim(db, world.a, target)
        assert row[1] == event
        note(db, world.a, row)


def test_a_long_queue_of_one_entity_does_not_hide_another(db: Connection, world: World) -> None:
    target = endpoint(db, world.a, "data.*")["id"]
    busy = uuid4()
    queue = [record(db, world.a, busy) for _ in range(250)]
    other = record(db, world.a, uuid4())
    assert [row[1] for row in claim(db, world.a, target)] == [queue[0]]
    assert [row[1] for row in claim(db, world.a, target)] == [other]


def test_five_deliveries_of_an_endpoint_are_under_way_at_most(db: Connection, world: World) -> None:
    target = endpoint(db, world.a, "data.*")["id"]
    for _ in range(8):
        record(db, world.a, uuid4())
    claimed = claim(db, world.a, target)
    assert len(claimed) == 5
    assert claim(db, world.a, target) == []
    note(db, world.a, claimed[0])
    assert len(claim(db, world.a, target)) == 1


def test_a_claim_of_a_dead_worker_is_taken_over_and_his_late_word_counts_only_if_good(
    db: Connection, world: World
) -> None:
    target = endpoint(db, world.a, "data.*")["id"]
    set_clock(db, START)
    events = [record(db, world.a, uuid4()) for _ in range(2)]
    dead = claim(db, world.a, target)
    shift(db, "31 seconds")
    taken = claim(db, world.a, target)
    assert [(row[1], row[2]) for row in taken] == [(event, 2) for event in events]
    assert note(db, world.a, dead[0], status=503) == "late"
    assert state(db, events[0]) == "delivering"
    assert note(db, world.a, dead[1]) == "delivered"
    assert note(db, world.a, taken[1], status=503) == "late"
    assert state(db, events[1]) == "delivered"


def test_what_is_due_later_is_looked_at_then(db: Connection, world: World) -> None:
    target = endpoint(db, world.a, "data.*")["id"]
    set_clock(db, START)
    record(db, world.a)
    (row,) = claim(db, world.a, target)
    note(db, world.a, row, status=500, retry_after_s=600)
    assert claim(db, world.a, target) == []
    due = db.execute(
        "select payload ->> 'endpoint_id', due_at - app.now() from app.waiting_jobs where entrypoint = 'webhook.deliver'"
    ).fetchall()
    assert due == [(target, timedelta(minutes=10))]


def test_a_delivery_that_was_not_sent_is_given_back_without_an_attempt(
    db: Connection, world: World
) -> None:
    target = endpoint(db, world.a, "data.*")["id"]
    set_clock(db, START)
    event = record(db, world.a)
    (row,) = claim(db, world.a, target)
    with as_worker(db):
        db.execute(
            "select app.return_webhook_delivery(%s, %s, %s, 60)", (world.a.org, row[0], row[2])
        )
    record(db, world.a, uuid4())
    assert claim(db, world.a, target) == []
    shift(db, "61 seconds")
    assert (event, 1) in [(row[1], row[2]) for row in claim(db, world.a, target)]


# --- Attempts -------------------------------------------------------------------------------------


def test_a_refused_delivery_is_tried_for_about_a_day_and_then_exhausted_while_others_pass(
    db: Connection, world: World
) -> None:
    target = endpoint(db, world.a, "data.*")["id"]
    entity = uuid4()
    set_clock(db, START)
    refused_event, behind = record(db, world.a, entity), record(db, world.a, entity)
    waits, last = [], one(db, "select app.now()")
    while state(db, refused_event) != "exhausted":
        # A receiver that takes everything else: it is not failing.
        record(db, world.a, uuid4())
        for row in claim(db, world.a, target):
            note(db, world.a, row, status=500 if row[1] == refused_event else 200)
            if row[1] == refused_event:
                waits.append((one(db, "select app.now()") - last).total_seconds())
                last = one(db, "select app.now()")
        shift(db, "1 minute")
    assert len(waits) == 8
    for wait, due in zip(waits[1:], (5, 300, 1800, 7200, 18000, 36000, 36000), strict=True):
        assert due <= wait <= due * 1.1 + 120
    assert reason(db, target) is None
    told = db.execute(
        "select payload from public.module_events where event_type = 'webhook_delivery.exhausted'"
    ).fetchall()
    assert told == [({"endpoint_id": target, "event_id": str(refused_event)},)]
    assert [row[1] for row in claim(db, world.a, target)] == [behind]


def test_a_receiver_that_fails_for_a_day_is_paused_and_nothing_is_exhausted(
    db: Connection, world: World
) -> None:
    target = endpoint(db, world.a, "data.*")["id"]
    set_clock(db, START)
    events = [record(db, world.a, uuid4()) for _ in range(12)]
    attempts = 0
    while reason(db, target) is None:
        for row in claim(db, world.a, target):
            attempts += 1
            note(db, world.a, row, status=503)
        shift(db, "5 minutes")
    assert reason(db, target) == "failing"
    failed_for = one(
        db,
        "select paused_at - first_failure_at from public.webhook_endpoints where id = %s",
        target,
    )
    assert 24 <= failed_for.total_seconds() / 3600 < 25
    assert {state(db, event) for event in events} == {"pending"}
    assert attempts < 12 * 9
    shift(db, "3 days")
    assert claim(db, world.a, target) == []
    told = db.execute(
        "select recipient_id, title from public.notifications where template = 'webhook_endpoint_paused'"
    ).fetchall()
    assert sorted(told) == sorted(
        (world.a.member(role), "Webhook pausado: hooks.rosto.example")
        for role in ("owner", "admin")
    )
    assert (
        one(
            db,
            "select payload ->> 'reason' from public.module_events where event_type = 'webhook_endpoint.paused'",
        )
        == "failing"
    )


def test_a_failing_receiver_is_probed_with_one_delivery_and_left_alone_in_between(
    db: Connection, world: World
) -> None:
    target = endpoint(db, world.a, "data.*")["id"]
    set_clock(db, START)
    for _ in range(9):
        record(db, world.a, uuid4())
    for row in claim(db, world.a, target):
        note(db, world.a, row, status=503)
    shift(db, "1 hour")
    (probe,) = claim(db, world.a, target)
    note(db, world.a, probe, status=503)
    shift(db, "14 minutes")
    assert claim(db, world.a, target) == []
    shift(db, "2 minutes")
    (probe,) = claim(db, world.a, target)
    note(db, world.a, probe)
    # It works again: what failed in the outage does not wait for its own next attempt.
    assert len(claim(db, world.a, target)) == 5


def test_a_receiver_that_is_gone_is_paused_at_once(db: Connection, world: World) -> None:
    target = endpoint(db, world.a, "data.*")["id"]
    event = record(db, world.a)
    (row,) = claim(db, world.a, target)
    assert note(db, world.a, row, status=410) == "pending"
    assert (reason(db, target), state(db, event)) == ("gone", "pending")


def test_a_receiver_is_left_alone_as_long_as_it_asks_but_no_longer_than_a_day(
    db: Connection, world: World
) -> None:
    target = endpoint(db, world.a, "data.*")["id"]
    set_clock(db, START)
    record(db, world.a)
    (row,) = claim(db, world.a, target)
    note(db, world.a, row, status=429, retry_after_s=10**9)
    shift(db, "23 hours 59 minutes")
    assert claim(db, world.a, target) == []
    shift(db, "2 minutes")
    assert len(claim(db, world.a, target)) == 1


# --- Pause, resume, rotate, replay, test ----------------------------------------------------------


def test_what_waited_in_a_pause_is_sent_in_order_after_it(db: Connection, world: World) -> None:
    target = endpoint(db, world.a, "data.*")["id"]
    entity = uuid4()
    with as_member(db, world.a, "admin"):
        db.execute("select public.pause_webhook_endpoint(%s, %s)", (world.a.org, target))
    events = [record(db, world.a, entity) for _ in range(3)]
    assert claim(db, world.a, target) == []
    with as_member(db, world.a, "admin"):
        db.execute("select public.resume_webhook_endpoint(%s, %s)", (world.a.org, target))
    got = []
    while claimed := claim(db, world.a, target):
        got += [row[1] for row in claimed]
        for row in claimed:
            note(db, world.a, row)
    assert got == events


def test_what_waited_may_be_skipped_and_replayed_later(db: Connection, world: World) -> None:
    target = endpoint(db, world.a, "data.*")["id"]
    events = [record(db, world.a, uuid4()) for _ in range(3)]
    with as_member(db, world.a, "admin"):
        db.execute("select public.pause_webhook_endpoint(%s, %s)", (world.a.org, target))
        db.execute("select public.resume_webhook_endpoint(%s, %s, true)", (world.a.org, target))
    assert [state(db, event) for event in events] == ["cancelled"] * 3
    assert claim(db, world.a, target) == []
    with as_member(db, world.a, "admin"):
        replayed = one(
            db,
            "select public.replay_webhook_deliveries(%s, %s, events => %s)",
            world.a.org,
            target,
            events[:2],
        )
    assert replayed == 2
    assert {row[1] for row in claim(db, world.a, target)} == set(events[:2])


def test_a_replay_takes_the_range_and_the_states_named(db: Connection, world: World) -> None:
    target = endpoint(db, world.a, "data.*")["id"]
    events = []
    for hour in range(4):
        set_clock(db, f"2026-03-10T{12 + hour}:00:00Z")
        events.append(record(db, world.a, uuid4()))
        (row,) = claim(db, world.a, target)
        note(db, world.a, row)
    db.execute(
        "update public.webhook_deliveries set status = 'exhausted', delivered_at = null where event_id = %s",
        (events[2],),
    )
    replay = "select public.replay_webhook_deliveries(%s, %s, '2026-03-10T13:00Z', '2026-03-10T15:00Z', statuses => %s)"
    with as_member(db, world.a, "admin"):
        assert one(db, replay, world.a.org, target, ["exhausted"]) == 1
        assert one(db, replay, world.a.org, target, ["delivered", "exhausted", "cancelled"]) == 1
    assert {row[1] for row in claim(db, world.a, target)} == {events[1], events[2]}


@pytest.mark.parametrize(
    "arguments",
    [
        "null, null",
        "'2026-01-01', null",
        "'2026-01-01', '2026-02-01', null, array['pending']",
        "'2026-01-01', '2026-02-01', null, null",
    ],
)
def test_a_replay_without_limits_or_of_what_has_not_ended_is_refused(
    db: Connection, world: World, arguments: str
) -> None:
    target = endpoint(db, world.a)["id"]
    with as_member(db, world.a, "admin"), refused("bad_input"):
        db.execute(
            f"select public.replay_webhook_deliveries(%s, %s, {arguments})", (world.a.org, target)
        )


def test_both_secrets_sign_for_the_grace_period_and_then_the_new_one_alone(
    db: Connection, world: World
) -> None:
    made = endpoint(db, world.a, "data.*")
    set_clock(db, START)
    rotate = "select public.rotate_webhook_secret(%s, %s, %s)"
    with as_member(db, world.a, "admin"):
        second = one(db, rotate, world.a.org, made["id"], 24)["secret"]

    def signing() -> list[str]:
        record(db, world.a, uuid4())
        (claimed,) = claim(db, world.a, made["id"])
        note(db, world.a, claimed)
        return list(claimed[3])

    assert signing() == [second, made["secret"]]
    shift(db, "23 hours")
    assert signing() == [second, made["secret"]]
    with as_member(db, world.a, "admin"):
        third = one(db, rotate, world.a.org, made["id"], 1)["secret"]
    assert signing() == [third, second]
    shift(db, "61 minutes")
    assert signing() == [third]
    with as_member(db, world.a, "admin"):
        fourth = one(db, rotate, world.a.org, made["id"], 0)["secret"]
        with refused("bad_input"):
            db.execute(rotate, (world.a.org, made["id"], 169))
    assert signing() == [fourth]


def test_a_test_goes_out_once_also_to_a_paused_endpoint_and_changes_nothing_else(
    db: Connection, world: World
) -> None:
    target = endpoint(db, world.a, "data.*")["id"]
    waiting = record(db, world.a)
    with as_member(db, world.a, "admin"):
        db.execute("select public.pause_webhook_endpoint(%s, %s)", (world.a.org, target))
        delivery = one(db, "select public.send_test_webhook(%s, %s)", world.a.org, target)
    (row,) = claim(db, world.a, target)
    assert row[0] == delivery
    assert note(db, world.a, row, status=500) == "exhausted"
    assert state(db, waiting) == "pending"
    assert (
        one(db, "select first_failure_at from public.webhook_endpoints where id = %s", target)
        is None
    )
    with as_member(db, world.a, "admin"):
        for _ in range(9):
            db.execute("select public.send_test_webhook(%s, %s)", (world.a.org, target))
        with refused("rate_limited"):
            db.execute("select public.send_test_webhook(%s, %s)", (world.a.org, target))


def test_an_inactive_organisation_sends_nothing(db: Connection, world: World) -> None:
    target = endpoint(db, world.a, "data.*")["id"]
    record(db, world.a)
    db.execute("update public.organizations set status = 'inactive' where id = %s", (world.a.org,))
    assert claim(db, world.a, target) == []


def test_a_removed_endpoint_takes_its_deliveries_and_secrets_along(
    db: Connection, world: World
) -> None:
    target = endpoint(db, world.a, "data.*")["id"]
    record(db, world.a)
    (row,) = claim(db, world.a, target)
    with as_member(db, world.a, "admin"):
        db.execute("select public.delete_webhook_endpoint(%s, %s)", (world.a.org, target))
    assert note(db, world.a, row) == "deleted"
    for table in ("public.webhook_deliveries", "app.webhook_secrets"):
        assert one(db, f"select count(*) from {table} where endpoint_id = %s", target) == 0
    record(db, world.a)


# --- What runs by itself ---------------------------------------------------------------------------


def test_old_deliveries_are_removed_after_the_organisations_days(
    db: Connection, world: World
) -> None:
    endpoint(db, world.a, "data.*")
    endpoint(db, world.b, "data.*")
    db.execute(
        """update public.organizations set settings = '{"webhook_retention_days": 7}' where id = %s""",
        (world.b.org,),
    )
    set_clock(db, START)
    kept, removed = record(db, world.a), record(db, world.b)
    shift(db, "8 days")
    with as_worker(db):
        assert one(db, "select app.remove_old_webhook_deliveries()") == 1
    left = {row[0] for row in db.execute("select event_id from public.webhook_deliveries")}
    assert kept in left
    assert removed not in left


def test_an_endpoint_whose_job_was_lost_is_looked_at_again(db: Connection, world: World) -> None:
    target = endpoint(db, world.a, "data.*")["id"]
    paused = endpoint(db, world.a, "data.*")["id"]
    set_clock(db, START)
    record(db, world.a)
    with as_member(db, world.a, "admin"):
        db.execute("select public.pause_webhook_endpoint(%s, %s)", (world.a.org, paused))
    db.execute("delete from pgqueuer.pgqueuer")
    shift(db, "5 minutes")
    with as_worker(db):
        assert one(db, "select app.wake_webhook_endpoints()") == 1
    job = one(
        db, "select convert_from(payload, 'UTF8')::jsonb ->> 'endpoint_id' from pgqueuer.pgqueuer"
    )
    assert job == target
