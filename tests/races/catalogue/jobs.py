"""What works by itself: events counted, jobs, the timetable, webhooks, calls to services, notifications."""

import base64
import json
from uuid import UUID, uuid4

from tests.jobs import add_job_type
from tests.people import as_member
from tests.races.race import BOTH_COMMIT, FIRST_GIVES_UP, all_of, race, rewritten
from tests.races.sessions import Stage

# Events


@race(
    "the rollup by two workers",
    holds="every event is counted once",
    guard="the lock on how far the rollup is",
    without=rewritten("app.rollup_events()", ("for update", "")),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def roll_up_twice(stage: Stage, order: str) -> None:
    count = stage.owner("select app.rollup_events()")
    count(stage.db)
    stage.db.execute(
        "select count(app.record_event(%s, 'data', 'event_aggregates.drifted', 'event_aggregates', null))"
        " from generate_series(1, 10)",
        (stage.a.org,),
    )
    stage.meet(count, count, first_gives_up=order == FIRST_GIVES_UP)
    # What a session that was still open kept the others from counting.
    count(stage.db)
    counted = "select sum(count) from public.event_aggregates where org_id = %s"
    stored = "select count(*) from public.module_events where org_id = %s"
    assert stage.one(counted, stage.a.org) == stage.one(stored, stage.a.org)


@race(
    "partitions made by two",
    holds="each is made once, and the second has nothing to do",
    guard="makers of partitions take turns",
    without=rewritten(
        "app.ensure_event_partitions(date, date)",
        ("perform pg_advisory_xact_lock(hashtextextended('app.ensure_event_partitions', 0));", ""),
    ),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def make_partitions(stage: Stage, order: str) -> None:
    # Half a year nobody has made partitions of yet, from the one after the last there is on.
    first = stage.one(
        "select (to_date(max(right(c.relname, 6)), 'YYYYMM') + interval '1 month')::date from pg_class as c"
        " where c.relname ~ '^module_events_\\d{6}$'"
    )
    make = stage.owner(
        "select app.ensure_event_partitions(%s::date, (%s::date + interval '5 months')::date)",
        first,
        first,
    )
    made = stage.meet(make, make, first_gives_up=order == FIRST_GIVES_UP)
    assert made == [6, 6 if order == FIRST_GIVES_UP else 0]


@race(
    "the audit trail sealed by two",
    holds="one chain without a gap: the second leaves it to the first",
    guard="one session seals at a time",
    without=rewritten(
        "app.seal_audit_log()",
        ("not pg_try_advisory_xact_lock(hashtextextended('app.seal_audit_log', 0))", "false"),
    ),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def seal_twice(stage: Stage, order: str) -> None:
    seal = stage.worker("select app.seal_audit_log() > 0")
    assert stage.meet(seal, seal, first_gives_up=order == FIRST_GIVES_UP) == [True, False]
    seal(stage.db)
    assert stage.rows("select problem from public.verify_audit_chain(%s)", stage.a.org) == []


# Jobs


def hold(stage: Stage) -> int:
    """Put a job into the queue that has failed for good; gives its number."""
    add_job_type(stage.db, "test.echo")
    number: int = stage.one(
        "insert into pgqueuer.pgqueuer (priority, entrypoint, headers, dedupe_key, status)"
        " values (10, 'test.echo', jsonb_build_object('org_id', %s::uuid), %s, 'failed') returning id",
        stage.a.org,
        str(uuid4()),
    )
    return number


RETRY = "select public.retry_failed_task(%s)"


@race(
    "a failed task retried by two",
    holds="it is put back once; the second is told that it is gone",
    guard="the lock on the held job",
    without=rewritten("app.retry_held_job(bigint)", ("for update", "")),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def retry_twice(stage: Stage, order: str) -> None:
    job = hold(stage)
    answers = stage.meet(
        stage.member("admin", RETRY, job),
        stage.member("owner", RETRY, job),
        first_gives_up=order == FIRST_GIVES_UP,
    )
    assert answers == [job, job if order == FIRST_GIVES_UP else "failed_task_not_found"]
    decided = (
        "select count(*) from public.audit_log where org_id = %s and table_name = 'failed_tasks'"
    )
    assert stage.one(decided, stage.a.org) == 1


@race(
    "a failed task retried while it is discarded",
    holds="the first decision counts, the other is told that the task is gone",
    guard="the lock on the held job",
    without=all_of(
        rewritten("app.retry_held_job(bigint)", ("for update", "")),
        rewritten("app.discard_held_job(bigint, text)", ("for update", "")),
    ),
    orders=("retried first", "discarded first"),
)
def retry_discarded(stage: Stage, order: str) -> None:
    job = hold(stage)
    retry = stage.member("admin", RETRY, job)
    discard = stage.member("owner", "select public.discard_failed_task(%s, 'Basta')", job)
    acts = (retry, discard) if order == "retried first" else (discard, retry)
    assert stage.meet(*acts) == [job, "failed_task_not_found"]
    left = stage.one("select count(*) from pgqueuer.pgqueuer where id = %s", job)
    assert left == (1 if order == "retried first" else 0)


@race(
    "one key enqueued by two",
    holds="one job, be it now or later",
    guard="the key is unique among what waits and what runs",
    without=rewritten(
        "app.enqueue(text, jsonb, uuid, text, interval)",
        ("enqueue.dedupe_key", "enqueue.dedupe_key || gen_random_uuid()"),
    ),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
    is_of_meeting=False,
)
def enqueue_twice(stage: Stage, order: str) -> None:
    add_job_type(stage.db, "test.echo")
    key = str(uuid4())
    enqueue = stage.owner("select app.enqueue('test.echo', '{}', null, %s, '0') is not null", key)
    answers = stage.meet(enqueue, enqueue, first_gives_up=order == FIRST_GIVES_UP)
    assert answers == [True, order == FIRST_GIVES_UP]


@race(
    "a job of the timetable fired by three runners",
    holds="fired once for a fire time: the others find it done",
    guard="a fire time is looked at and moved forward in one statement",
    without=rewritten(
        "app.fire_cron_job(text, timestamp with time zone, text, uuid[])",
        ("where j.last_fire_at < excluded.last_fire_at", ""),
        (
            "insert into app.cron_jobs",
            """if exists (
                select from app.cron_jobs as j
                where j.job = fire_cron_job.job and j.last_fire_at >= fire_cron_job.scheduled_at
            ) then
                return null;
            end if;
            insert into app.cron_jobs""",
        ),
    ),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
    sessions=3,
)
def fire_three_times(stage: Stage, order: str) -> None:
    fire = stage.owner(
        "select app.fire_cron_job(%s, '2031-03-10', 'cron.run_organization', array[%s::uuid])",
        f"race.{stage.a.slug}",
        stage.a.org,
    )
    answers = stage.meet(fire, fire, fire, first_gives_up=order == FIRST_GIVES_UP)
    assert sorted(answers[1:], key=str) == ([1, None] if order == FIRST_GIVES_UP else [None, None])
    assert answers[0] == 1
    assert stage.one("select count(*) from app.cron_runs where org_id = %s", stage.a.org) == 1


# Webhooks


def receive(stage: Stage) -> UUID:
    """Receive a push of GitHub; gives the event's id."""
    with stage.db.transaction(), as_member(stage.db, stage.a, "owner"):
        source = stage.one("select public.create_webhook_source(%s, 'github', 'main')", stage.a.org)
    body = base64.b64encode(b"{}").decode()
    receive = "select public.receive_webhook('github', %s, 'push-1', '{}', %s, null)"
    stage.worker(receive, source["token"], body)(stage.db)
    event: UUID = stage.one("select id from public.webhook_events where org_id = %s", stage.a.org)
    return event


@race(
    "a webhook processed by two workers",
    holds="what it says is recorded once",
    guard="the lock on the webhook event",
    without=rewritten("app.has_webhook_effect(uuid, uuid)", ("for update", "")),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def process_twice(stage: Stage, order: str) -> None:
    event = receive(stage)
    process = stage.worker(
        "select app.record_push(%s, %s, 'alfa/site', 'main', %s, %s, 1, false)",
        stage.a.org, event, "0" * 40, "1" * 40,
    )  # fmt: skip
    stage.meet(process, process, first_gives_up=order == FIRST_GIVES_UP)
    assert stage.rows(
        "select event_type from public.module_events where org_id = %s and entity_id = %s",
        stage.a.org,
        event,
    ) == [("repository.pushed",)]


@race(
    "a webhook delivery claimed by two workers",
    holds="one sends it, the other finds nothing to send",
    guard="the lock on the endpoint",
    without=rewritten("app.claim_webhook_deliveries(uuid, uuid)", ("for no key update of e", "")),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def claim_twice(stage: Stage, order: str) -> None:
    with stage.db.transaction(), as_member(stage.db, stage.a, "admin"):
        endpoint = stage.one(
            "select public.create_webhook_endpoint(%s, 'https://hooks.rosto.example/', '{data.*}') ->> 'id'",
            stage.a.org,
        )
    stage.db.execute(
        "select app.record_event(%s, 'data', 'event_aggregates.drifted', 'event_aggregates', %s)",
        (stage.a.org, uuid4()),
    )
    claim = stage.worker(
        "select count(*) from app.claim_webhook_deliveries(%s, %s)", stage.a.org, endpoint
    )
    answers = stage.meet(claim, claim, first_gives_up=order == FIRST_GIVES_UP)
    assert answers == [1, 1 if order == FIRST_GIVES_UP else 0]


# Calls to services


def gate(stage: Stage) -> tuple[str, str]:
    """Give an account of a service and its one permit at a time."""
    return stage.a.slug, json.dumps([{"gate": "turn", "slots": 1, "per_s": 0}])


BEGIN_CALL = "select verdict from app.begin_call(gen_random_uuid(), 'omie', %s, %s, 30)"


@race(
    "the one permit of a service asked for by two processes",
    holds="one calls, the other is told to wait",
    guard="a permit is locked when it is found",
    without=rewritten("app.find_slot(text, text, text, integer)", ("for update skip locked", "")),
    orders=(BOTH_COMMIT,),
)
def share_permit(stage: Stage, _: str) -> None:
    account, gates = gate(stage)
    # The permit is made on first use.
    stage.owner("select app.find_slot('omie', %s, 'turn', 1)", account)(stage.db)
    begin = stage.owner(BEGIN_CALL, account, gates)
    assert sorted(stage.meet(begin, begin)) == ["busy", "go"]


@race(
    "a breaker found half open by two processes",
    holds="one call probes, the other is refused",
    guard="the probe is taken by compare and set",
    without=rewritten(
        "app.begin_call(uuid, text, text, jsonb, double precision)",
        (
            "b.half_open_at <= v_now and (b.probe_lost_at is null or b.probe_lost_at <= v_now)",
            "true",
        ),
    ),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def probe_twice(stage: Stage, order: str) -> None:
    account = stage.a.slug
    stage.db.execute(
        "insert into app.circuit_breakers (provider, account_hash, failures, half_open_at)"
        " values ('omie', %s, 5, now() - interval '1 second')",
        (account,),
    )
    begin = stage.owner(BEGIN_CALL, account, "[]")
    answers = stage.meet(begin, begin, first_gives_up=order == FIRST_GIVES_UP)
    assert answers == ["go", "go" if order == FIRST_GIVES_UP else "probing"]


@race(
    "a limit per visitor reached by two requests",
    holds="one of them is let through",
    guard="requests that count together take turns",
    without=rewritten(
        "app.rate_limit(text, integer, interval)",
        ("perform pg_advisory_xact_lock(hashtextextended(rate_limit.bucket, 0));", ""),
    ),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def reach_limit(stage: Stage, order: str) -> None:
    hit = stage.owner("select 'through' from app.rate_limit(%s, 1, '1 minute')", stage.a.slug)
    answers = stage.meet(hit, hit, first_gives_up=order == FIRST_GIVES_UP)
    assert answers == ["through", "through" if order == FIRST_GIVES_UP else "rate_limited"]


@race(
    "credentials replaced while they are put under a new key",
    holds="what a person has stored last is what is kept",
    guard="a rotation compares and sets in one statement",
    without=rewritten(
        "app.rotate_credentials(uuid, text, bytea, bytea, text)",
        ("and c.ciphertext = old_ciphertext", ""),
        (
            "update public.integration_credentials",
            """if not exists (
                select from public.integration_credentials as c
                where c.org_id = org and c.ciphertext = old_ciphertext
            ) then
                return false;
            end if;
            update public.integration_credentials""",
        ),
    ),
    orders=("stored first", "rotated first"),
)
def rotate_replaced(stage: Stage, order: str) -> None:
    store = "select (app.store_credentials(%s, 'omie', %s, 'aaaaaaaa')).provider"
    old, new, rotated = (word * 30 for word in (b"o", b"n", b"r"))
    stage.worker(store, stage.a.org, old)(stage.db)
    replace = stage.worker(store, stage.a.org, new)
    rotate = stage.worker(
        "select app.rotate_credentials(%s, 'omie', %s, %s, 'bbbbbbbb')", stage.a.org, old, rotated
    )
    if order == "stored first":
        assert stage.meet(replace, rotate) == ["omie", False]
    else:
        assert stage.meet(rotate, replace) == [True, "omie"]
    kept = stage.one(
        "select ciphertext from public.integration_credentials where org_id = %s", stage.a.org
    )
    assert kept == new


# Notifications


@race(
    "one notification sent twice",
    holds="the person has it once, and both are given it",
    guard="the key of a notification is unique per person",
    without=rewritten(
        "app.notify(uuid, uuid, text, jsonb, text, text)",
        (
            "notify.link, notify.idempotency_key\n    from",
            "notify.link, gen_random_uuid()::text\n    from",
        ),
    ),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
    is_of_meeting=False,
)
def notify_twice(stage: Stage, order: str) -> None:
    data = {
        "system": "Omie",
        "entity": "clients",
        "started_at": "2026-03-10T08:00:00Z",
        "error": "x",
    }
    tell = stage.worker(
        "select app.notify(%s, %s, 'sync_failed', %s, 'omie/1')",
        stage.a.org,
        stage.a.member("ops"),
        json.dumps(data),
    )
    first, second = stage.meet(tell, tell, first_gives_up=order == FIRST_GIVES_UP)
    assert stage.rows("select id from public.notifications where org_id = %s", stage.a.org) == [
        (second,)
    ]
    assert first == second or order == FIRST_GIVES_UP
