"""Webhooks out against a real receiver: what arrives, how often, in which order, and what an outage of a day does."""

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from nessos.http import client
from nessos.jobs.entrypoint import Task
from nessos.settings import ROOT, load
from nessos.webhooks.outbound import deliver
from tests.integrations.fakes.server import Answer, FakeServer, Seen
from tests.integrations.outside import open_pool
from tests.people import Org, World

Reader = psycopg.Connection[dict[str, Any]]

KIND = ("data", "event_aggregates.drifted")


@pytest.fixture(autouse=True)
def _local_receivers(monkeypatch: pytest.MonkeyPatch, reader: Reader) -> Iterator[None]:
    """Let events be sent to this machine, as a developer does; no receiver outlives its test."""
    monkeypatch.setenv("NESSOS_WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8")
    load.cache_clear()
    yield
    load.cache_clear()
    reader.execute("delete from public.webhook_endpoints")


def endpoint(db: Reader, org: Org, url: str, *patterns: str) -> dict[str, str]:
    """Make an endpoint as the operator; give its id and secret."""
    row = db.execute(
        "select public.create_webhook_endpoint(%s, %s, %s) as made",
        (org.org, url, list(patterns or ["data.*"])),
    ).fetchone()
    assert row
    made: dict[str, str] = row["made"]
    return made


def record(db: Reader, org: Org, entity: UUID | None = None, number: int = 0) -> UUID:
    """Record an event; give its id."""
    row = db.execute(
        "select app.record_event(%s, %s, %s, 'event_aggregates', %s, %s) as id",
        (org.org, *KIND, entity, json.dumps({"drift": number})),
    ).fetchone()
    assert row
    event: UUID = row["id"]
    return event


def work(url: str, org: Org, target: str, *, now: datetime | None = None) -> str:
    """Do what the job webhook.deliver does, at this moment of the clock."""

    async def run() -> str:
        async with (
            open_pool(url, now=now.isoformat() if now else None) as pool,
            client(pool) as http,
        ):
            return await deliver(
                Task(
                    job_id=1, entrypoint="webhook.deliver", payload={"endpoint_id": target},
                    org_id=org.org, request_id=None, attempt=1, pool=pool, http=http,
                )
            )  # fmt: skip

    return asyncio.run(run())


def delivery(db: Reader, event: UUID) -> dict[str, Any]:
    """Give an event's one delivery."""
    row = db.execute(
        "select * from public.webhook_deliveries where event_id = %s", (event,)
    ).fetchone()
    assert row
    return row


def test_what_arrives_is_signed_and_verified_by_the_library(
    db_url: str, reader: Reader, world: World
) -> None:
    with FakeServer() as receiver:
        made = endpoint(reader, world.a, f"{receiver.url}/in?token=1")
        event = record(reader, world.a, uuid4(), 7)
        assert work(db_url, world.a, made["id"]) == "1 attempts"
    (seen,) = receiver.journal
    assert (seen.method, seen.path, seen.query) == ("POST", "/in", {"token": ["1"]})
    assert seen.headers["content-type"] == "application/json"
    assert seen.headers["webhook-id"] == str(event)
    told = Webhook(made["secret"]).verify(seen.body, seen.headers)
    assert told["data"]["payload"] == {"drift": 7}
    stored = delivery(reader, event)
    assert stored["status"] == "delivered"
    assert stored["payload"].encode() == seen.body
    with pytest.raises(WebhookVerificationError):
        Webhook(made["secret"]).verify(seen.body + b" ", seen.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "A" * 43 + "=").verify(seen.body, seen.headers)


def test_the_guide_for_receivers_shows_what_arrives_and_verifies_it(
    db_url: str, reader: Reader, world: World
) -> None:
    guide = (ROOT / "docs" / "webhooks.md").read_text()
    ((shown,), (code,)) = (
        re.findall(rf"^```{kind}\n(.*?)^```", guide, re.MULTILINE | re.DOTALL)
        for kind in ("json", "python")
    )
    with FakeServer() as receiver:
        made = endpoint(reader, world.a, receiver.url)
        record(reader, world.a, uuid4())
        work(db_url, world.a, made["id"])
    (request,) = receiver.journal
    scope: dict[str, Any] = {"secret": made["secret"], "request": request}
    exec(code, scope)  # noqa: S102 - the guide's own lines
    shown = json.loads(shown)
    assert (list(shown), list(shown["data"])) == (
        list(scope["event"]),
        list(scope["event"]["data"]),
    )


def test_in_a_rotation_both_the_old_and_the_new_secret_verify(
    db_url: str, reader: Reader, world: World
) -> None:
    with FakeServer() as receiver:
        made = endpoint(reader, world.a, receiver.url)
        row = reader.execute(
            "select public.rotate_webhook_secret(%s, %s) as made", (world.a.org, made["id"])
        ).fetchone()
        assert row
        record(reader, world.a)
        work(db_url, world.a, made["id"])
    (seen,) = receiver.journal
    assert len(seen.headers["webhook-signature"].split(" ")) == 2
    for secret in (made["secret"], row["made"]["secret"]):
        assert Webhook(secret).verify(seen.body, seen.headers)


def test_a_second_attempt_has_the_same_id_and_the_same_bytes(
    db_url: str, reader: Reader, world: World
) -> None:
    with FakeServer() as receiver:
        receiver.faults.append(Answer(500))
        made = endpoint(reader, world.a, receiver.url)
        event = record(reader, world.a)
        work(db_url, world.a, made["id"])
        reader.execute(
            "update public.webhook_deliveries set next_attempt_at = app.now() where event_id = %s",
            (event,),
        )
        reader.execute(
            "update public.webhook_endpoints set next_probe_at = null where id = %s", (made["id"],)
        )
        work(db_url, world.a, made["id"])
    first, second = receiver.journal
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    attempts = reader.execute(
        "select a.status_code, a.error from public.webhook_attempts as a"
        " join public.webhook_deliveries as d on d.id = a.delivery_id where d.event_id = %s order by a.attempted_at",
        (event,),
    ).fetchall()
    assert attempts == [
        {"status_code": 500, "error": "HTTP 500"},
        {"status_code": 200, "error": None},
    ]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(302, headers={"Location": "/elsewhere"}), "HTTP 302"),
        (Answer(304), "HTTP 304"),
        (Answer(404), "HTTP 404"),
        (Answer(cut="before"), "the connection broke (ReadError)"),
    ],
)
def test_anything_but_2xx_is_a_failure_and_redirects_are_not_followed(
    db_url: str, reader: Reader, world: World, answer: Answer, error: str
) -> None:
    with FakeServer(lambda _: answer) as receiver:
        made = endpoint(reader, world.a, receiver.url)
        event = record(reader, world.a)
        work(db_url, world.a, made["id"])
    assert [seen.path for seen in receiver.journal] == ["/"]
    stored = delivery(reader, event)
    assert (stored["status"], stored["last_error"]) == ("pending", error)


def test_an_answer_without_end_is_read_for_a_few_kilobytes_only(
    db_url: str, reader: Reader, world: World
) -> None:
    with FakeServer(lambda _: Answer(200, b"secret " * 10_000_000)) as receiver:
        made = endpoint(reader, world.a, receiver.url)
        event = record(reader, world.a)
        work(db_url, world.a, made["id"])
    assert delivery(reader, event)["status"] == "delivered"
    (call,) = reader.execute(
        "select bytes from public.outbound_calls where provider = 'webhook' order by called_at desc limit 1"
    ).fetchall()
    assert 0 < call["bytes"] < 200_000
    kept = reader.execute(
        "select to_jsonb(a)::text as row from public.webhook_attempts as a"
    ).fetchall()
    assert not any("secret" in row["row"] for row in kept)


def test_a_receiver_that_asks_for_time_gets_it(db_url: str, reader: Reader, world: World) -> None:
    with FakeServer(lambda _: Answer(429, headers={"Retry-After": "3600"})) as receiver:
        made = endpoint(reader, world.a, receiver.url)
        event = record(reader, world.a)
        work(db_url, world.a, made["id"])
    stored = delivery(reader, event)
    wait = stored["next_attempt_at"] - stored["first_attempt_at"]
    assert timedelta(hours=1) <= wait < timedelta(hours=1, minutes=1)


@contextmanager
def strict(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work as in production: nothing that lies inside is called."""
    monkeypatch.delenv("NESSOS_WEBHOOK_ALLOWED_NETWORKS")
    load.cache_clear()
    yield


def test_in_production_this_machine_is_not_called(
    db_url: str, reader: Reader, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeServer() as receiver, strict(monkeypatch):
        made = endpoint(reader, world.a, receiver.url)
        event = record(reader, world.a)
        work(db_url, world.a, made["id"])
    assert receiver.journal == []
    stored = delivery(reader, event)
    assert (stored["status"], stored["last_error"]) == ("pending", "the address is not https")


def test_a_proxy_of_the_environment_is_no_way_around(
    db_url: str, reader: Reader, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeServer() as proxy, FakeServer() as receiver:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
            monkeypatch.setenv(name.lower(), proxy.url)
        made = endpoint(reader, world.a, receiver.url)
        event = record(reader, world.a)
        work(db_url, world.a, made["id"])
    assert proxy.journal == []
    assert [seen.headers["webhook-id"] for seen in receiver.journal] == [str(event)]


def test_two_workers_never_send_a_delivery_at_the_same_time_and_a_receiver_gets_five_at_most(
    db_url: str, reader: Reader, world: World
) -> None:
    with FakeServer(lambda _: Answer(delay_s=0.05)) as receiver:
        made = endpoint(reader, world.a, receiver.url)
        events = [record(reader, world.a, uuid4()) for _ in range(40)]

        async def both() -> None:
            async with open_pool(db_url) as pool, client(pool) as http:
                task = Task(
                    job_id=1, entrypoint="webhook.deliver", payload={"endpoint_id": made["id"]},
                    org_id=world.a.org, request_id=None, attempt=1, pool=pool, http=http,
                )  # fmt: skip
                await asyncio.gather(*(deliver(task) for _ in range(4)))

        asyncio.run(both())
        ids = [seen.headers["webhook-id"] for seen in receiver.journal]
    assert sorted(ids) == sorted(map(str, events))
    assert receiver.most_at_once() <= 5


def test_nothing_is_under_way_for_longer_than_its_claim(
    db_url: str, reader: Reader, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nessos.webhooks.outbound._CLAIM_S", 0.5)
    with FakeServer(lambda _: Answer(until=threading.Event())) as receiver:
        made = endpoint(reader, world.a, receiver.url)
        event = record(reader, world.a)
        work(db_url, world.a, made["id"])
        stored = delivery(reader, event)
    assert (stored["status"], stored["last_error"]) == ("pending", "no answer in time")


def test_a_slow_receiver_makes_room_for_others_after_a_turn(
    db_url: str, reader: Reader, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nessos.webhooks.outbound._TURN_S", 0)
    with FakeServer() as receiver:
        made = endpoint(reader, world.a, receiver.url)
        for _ in range(8):
            record(reader, world.a, uuid4())
        reader.execute("delete from pgqueuer.pgqueuer")
        assert work(db_url, world.a, made["id"]) == "5 attempts"
    jobs = reader.execute(
        "select convert_from(payload, 'UTF8')::jsonb ->> 'endpoint_id' as endpoint from pgqueuer.pgqueuer"
        " where entrypoint = 'webhook.deliver'"
    ).fetchall()
    assert [job["endpoint"] for job in jobs] == [made["id"]]


class Outage:
    """A receiver that is down for a while and takes down what it has received."""

    def __init__(self) -> None:
        self.is_down = False
        self.taken: list[tuple[str, str, int]] = []

    def __call__(self, seen: Seen) -> Answer:
        """Answer a request."""
        if self.is_down:
            return Answer(503)
        data = seen.json["data"]
        self.taken.append((seen.headers["webhook-id"], data["entity_id"], data["payload"]["drift"]))
        return Answer()


class Clock:
    """Hours that pass at once: the next job of the queue is due as soon as somebody looks."""

    def __init__(self, url: str, org: Org) -> None:
        self.url, self.org = url, org
        self.now = datetime(2026, 3, 10, 12, tzinfo=UTC)
        self.attempts = 0

    def record(self, entity: UUID, number: int) -> UUID:
        """Record an event at this moment."""
        with psycopg.connect(
            self.url,
            autocommit=True,
            row_factory=dict_row,
            options=f"-c app.now={self.now.isoformat()}",
        ) as db:
            return record(db, self.org, entity, number)

    def pass_until(self, moment: datetime) -> None:
        """Run every job of webhooks out that is due up to this moment, each at its hour."""
        with psycopg.connect(self.url, autocommit=True, row_factory=dict_row) as db:
            while job := self._next(db, moment):
                # A job takes a second, during which what is due at once becomes due.
                self.now = max(self.now, job["due_at"]) + timedelta(seconds=1)
                said = work(self.url, self.org, job["endpoint"], now=self.now)
                self.attempts += int(said.split()[0])
        self.now = moment

    def _next(self, db: Reader, moment: datetime) -> dict[str, Any] | None:
        """Take the job that is due next, up to a moment, from those that run now and those that wait."""
        return db.execute(
            "with queued as (select id, convert_from(payload, 'UTF8')::jsonb as payload,"
            "  %(now)s + greatest(execute_after - clock_timestamp(), '0') as due_at"
            "  from pgqueuer.pgqueuer where entrypoint = 'webhook.deliver'),"
            " next as (select * from (select id, payload, due_at from queued union all"
            "  select id, payload, due_at from app.waiting_jobs where entrypoint = 'webhook.deliver') as j"
            "  where due_at <= %(moment)s order by due_at, id limit 1),"
            " left_queue as (delete from pgqueuer.pgqueuer as q using next as n where q.id = n.id),"
            " left_wait as (delete from app.waiting_jobs as w using next as n where w.id = n.id)"
            " select payload ->> 'endpoint_id' as endpoint, due_at from next",
            {"now": self.now, "moment": moment},
        ).fetchone()


def test_an_outage_of_a_day_loses_nothing_doubles_nothing_and_keeps_the_order(
    own_db_url: str, world: World
) -> None:
    outage, clock = Outage(), Clock(own_db_url, world.a)
    start, entities = clock.now, [uuid4() for _ in range(7)]
    sent: list[tuple[str, str, int]] = []

    def happen(number: int) -> None:
        # Of entities, one after the other; the last event is of one that nothing waits for.
        entity = entities[number % 6] if number < 49 else entities[6]
        sent.append((str(clock.record(entity, number)), str(entity), number))

    with (
        FakeServer(outage) as receiver,
        psycopg.connect(own_db_url, autocommit=True, row_factory=dict_row) as db,
    ):
        made = endpoint(db, world.a, receiver.url)
        happen(0)
        clock.pass_until(start + timedelta(minutes=1))
        assert outage.taken == sent
        outage.is_down = True
        for number in range(1, 49):
            happen(number)
            clock.pass_until(start + timedelta(minutes=1 + 29.5 * number))
        assert outage.taken == sent[:1]
        assert clock.now - start < timedelta(hours=24)
        outage.is_down = False
        happen(49)
        clock.pass_until(clock.now + timedelta(minutes=16))
        (target,) = db.execute(
            "select paused_at, first_failure_at from public.webhook_endpoints where id = %s",
            (made["id"],),
        ).fetchall()
        states = db.execute("select distinct status from public.webhook_deliveries").fetchall()
    assert target == {"paused_at": None, "first_failure_at": None}
    assert states == [{"status": "delivered"}]
    assert sorted(outage.taken) == sorted(sent)
    for entity in map(str, entities):
        numbers = [number for _, of, number in outage.taken if of == entity]
        assert numbers == sorted(numbers)
    # It was probed, not flooded: at most every quarter of the time it had failed.
    assert len(receiver.journal) < len(sent) + 150


def test_after_more_than_a_day_it_is_paused_and_resumed_with_everything_in_order(
    own_db_url: str, world: World
) -> None:
    outage, clock = Outage(), Clock(own_db_url, world.a)
    start, entity = clock.now, uuid4()
    with (
        FakeServer(outage) as receiver,
        psycopg.connect(own_db_url, autocommit=True, row_factory=dict_row) as db,
    ):
        made = endpoint(db, world.a, receiver.url)
        outage.is_down = True
        sent = [str(clock.record(entity, number)) for number in range(5)]
        clock.pass_until(start + timedelta(hours=30))
        (target,) = db.execute(
            "select paused_reason, paused_at from public.webhook_endpoints where id = %s",
            (made["id"],),
        ).fetchall()
        assert target["paused_reason"] == "failing"
        assert timedelta(hours=24) <= target["paused_at"] - start < timedelta(hours=24, minutes=20)
        before = len(receiver.journal)
        outage.is_down = False
        sent += [str(clock.record(entity, 5))]
        clock.pass_until(start + timedelta(days=9))
        assert len(receiver.journal) == before
        db.execute("select set_config('app.now', %s, false)", (clock.now.isoformat(),))
        db.execute("select public.resume_webhook_endpoint(%s, %s)", (world.a.org, made["id"]))
        clock.pass_until(clock.now + timedelta(minutes=1))
        assert [taken[0] for taken in outage.taken] == sent
        replayed = db.execute(
            "select public.replay_webhook_deliveries(%s, %s, %s, %s) as number",
            (world.a.org, made["id"], start, start + timedelta(days=1)),
        ).fetchone()
        assert replayed == {"number": 5}
        clock.pass_until(clock.now + timedelta(minutes=1))
    assert [taken[0] for taken in outage.taken] == [*sent, *sent[:5]]
