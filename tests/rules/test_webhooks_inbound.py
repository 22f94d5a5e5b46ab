"""Webhooks, inbound: sources, and what they send, stored once and as it came."""

import base64
import threading
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import psycopg
from psycopg.types.json import Jsonb

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
from tests.rules.test_ops_playbooks import one


def add_source(
    db: Connection, org: Org, provider: str = "github", account: str = "main"
) -> SimpleNamespace:
    with as_member(db, org, "owner"):
        made = one(
            db, "select public.create_webhook_source(%s, %s, %s)", org.org, provider, account
        )
    return SimpleNamespace(**cast("dict[str, Any]", made))


def receive(
    db: Connection, source: SimpleNamespace, key: str, body: bytes = b"{}", **more: Any
) -> str:
    """Store a webhook as the function does; `more` is headers and rejection."""
    with as_worker(db):
        return str(
            one(
                db,
                "select public.receive_webhook(%s, %s, %s, %s, %s, %s)",
                source.provider,
                source.token,
                key,
                Jsonb(more.get("headers", {})),
                base64.b64encode(body).decode(),
                more.get("rejection"),
            )
        )


def events(db: Connection, columns: str = "event_key, status") -> list[tuple[Any, ...]]:
    return db.execute(
        f"select {columns} from public.webhook_events order by received_at, event_key"
    ).fetchall()


def jobs(db: Connection) -> list[tuple[Any, ...]]:
    return db.execute(
        "select convert_from(payload, 'UTF8')::jsonb ->> 'webhook_event_id', headers ->> 'org_id'"
        " from pgqueuer.pgqueuer where entrypoint = 'webhook.process' order by id"
    ).fetchall()


# Sources


def test_the_token_of_a_source_is_shown_once_and_only_its_hash_kept(
    db: Connection, world: World
) -> None:
    source = add_source(db, world.a, "omie", " matriz ")
    assert source.path == f"/functions/v1/webhook/omie/{source.token}"
    row = db.execute("select s::text, account, token_hash, token_prefix from webhook_sources s")
    text, account, token_hash, prefix = cast("tuple[Any, ...]", row.fetchone())
    assert source.token not in text
    assert (account, prefix) == ("matriz", source.token[:12])
    assert one(db, "select sha256(convert_to(%s, 'UTF8'))", source.token) == token_hash
    other = add_source(db, world.a)
    assert other.token != source.token
    for provider, account in (("asaas", "main"), ("github", "  "), ("github", "x" * 101)):
        with refused("bad_input"):
            add_source(db, world.a, provider, account)
    with as_member(db, world.a, "director"), refused("not_allowed"):
        db.execute("select public.create_webhook_source(%s, 'github')", (world.a.org,))
    with as_member(db, world.a, "admin"), denied():
        db.execute("select public.get_webhook_credentials('github', 'x')")
    assert (
        one(db, "select count(*) from public.audit_log where table_name = 'webhook_sources'") == 2
    )


def test_a_revoked_source_receives_nothing_more(db: Connection, world: World) -> None:
    source = add_source(db, world.a)
    assert receive(db, source, "1") == "received"
    with as_member(db, world.a, "admin"):
        for _ in range(2):
            db.execute("select public.revoke_webhook_source(%s, %s)", (world.a.org, source.id))
        with refused("not_found"):
            db.execute("select public.revoke_webhook_source(%s, %s)", (world.a.org, uuid4()))
    with as_member(db, world.b, "owner"), refused("not_found"):
        db.execute("select public.revoke_webhook_source(%s, %s)", (world.b.org, source.id))
    assert receive(db, source, "2") == "unknown"
    assert events(db) == [("1", "received")]


def test_a_token_stands_for_its_provider_in_an_organisation_that_is_served(
    db: Connection, world: World
) -> None:
    source = add_source(db, world.a)
    asked = "select public.get_webhook_credentials(%s, %s)"
    with as_worker(db):
        assert one(db, asked, "github", source.token) == {
            "org_id": str(world.a.org),
            "key_id": None,
            "ciphertext": None,
        }
        for provider, token in (
            ("omie", source.token),
            ("github", source.token[:-1]),
            ("github", ""),
        ):
            assert one(db, asked, provider, token) is None
            stranger = SimpleNamespace(provider=provider, token=token)
            assert receive(db, stranger, "1") == "unknown"
    db.execute(
        "insert into public.integration_credentials (org_id, provider, ciphertext, key_id)"
        " values (%s, 'github', %s, '0123abcd'), (%s, 'github', %s, '4567abcd')",
        (world.a.org, b"a" * 40, world.b.org, b"b" * 40),
    )
    with as_worker(db):
        assert one(db, asked, "github", source.token)["ciphertext"] == "YWFh" * 13 + "YQ=="
    for status, answer in (("suspended", "received"), ("inactive", "unknown")):
        db.execute(
            "update public.organizations set status = %s where id = %s", (status, world.a.org)
        )
        assert receive(db, source, status) == answer


# Receiving


def test_what_is_received_is_kept_byte_for_byte_and_enqueued_with_it(
    db: Connection, world: World
) -> None:
    source = add_source(db, world.a)
    body = bytes(range(256)) * 3
    assert receive(db, source, "d-1", body, headers={"x-github-event": "push"}) == "received"
    ((event, *rest),) = events(db, "id, org_id, provider, account, headers, byte_count, attempts")
    assert rest == [world.a.org, "github", "main", {"x-github-event": "push"}, 768, 0]
    assert one(db, "select body from app.webhook_bodies where webhook_event_id = %s", event) == body
    assert jobs(db) == [(str(event), str(world.a.org))]
    assert one(db, "select last_used_at is not null from public.webhook_sources")


def test_the_same_event_is_received_once_per_provider_and_account(
    db: Connection, world: World
) -> None:
    first = add_source(db, world.a)
    successor = add_source(db, world.a)
    other_account = add_source(db, world.a, account="other")
    other_provider = add_source(db, world.a, "omie")
    other_org = add_source(db, world.b)
    assert receive(db, first, "d-1") == "received"
    assert receive(db, first, "d-1", b"another body") == "repeated"
    assert receive(db, successor, "d-1") == "repeated"
    for source in (other_account, other_provider, other_org):
        assert receive(db, source, "d-1") == "received"
    assert len(jobs(db)) == 4


def test_one_event_sent_at_once_by_many_is_received_once(own_db_url: str) -> None:
    with psycopg.connect(own_db_url, autocommit=True) as db:
        source = add_source(db, World().a)
        answers: list[str] = []

        def send() -> None:
            with psycopg.connect(own_db_url, autocommit=True) as connection:
                answers.append(receive(connection, source, "d-1"))

        threads = [threading.Thread(target=send) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers) == ["received"] + ["repeated"] * 11
        assert len(jobs(db)) == 1


def test_what_is_refused_is_kept_for_the_operator_within_bounds_and_blocks_nothing(
    db: Connection, world: World
) -> None:
    set_clock(db, "2026-03-31T12:00:00-03:00")
    source = add_source(db, world.a)
    large = b"x" * 200_000
    for _ in range(60):
        assert receive(db, source, "d-1", large, rejection="signature wrong") == "rejected"
    assert db.execute(
        "select status, outcome, byte_count, count(*) from webhook_events group by 1, 2, 3"
    ).fetchall() == [("rejected", "signature wrong", 200_000, 50)]
    assert one(db, "select max(octet_length(body)) from app.webhook_bodies") == 65536
    assert jobs(db) == []
    assert receive(db, source, "d-1") == "received"
    assert receive(db, source, "d-1", rejection="signature wrong") == "rejected"
    assert one(db, "select last_used_at is not null from public.webhook_sources")
    set_clock(db, "2026-04-01T12:00:01-03:00")
    receive(db, source, "d-2", rejection="signature wrong")
    assert one(db, "select count(*) from webhook_events where status = 'rejected'") == 51
    event = one(db, "select id from webhook_events where event_key = 'd-2'")
    with as_worker(db):
        assert db.execute(
            "select * from app.start_webhook_event(%s, %s)", (world.a.org, event)
        ).fetchall() == []  # fmt: skip
        with refused("webhook_event_move_refused"):
            db.execute("select app.replay_webhook_event(%s, %s)", (world.a.org, event))


def test_a_source_takes_so_many_a_minute(db: Connection, world: World) -> None:
    set_clock(db, "2026-03-31T12:00:00-03:00")
    source, other = add_source(db, world.a), add_source(db, world.a, "omie")
    db.execute("update public.webhook_sources set rate_per_minute = 2 where id = %s", (source.id,))
    # Whoever knows the address but not the secret takes nothing from the provider's share.
    receive(db, source, "d-0", rejection="signature wrong")
    assert [receive(db, source, f"d-{number}") for number in (1, 2)] == ["received"] * 2
    with refused("rate_limited") as answer:
        receive(db, source, "d-3")
    assert answer.hint == "Try again in 60 s."
    assert receive(db, other, "d-3") == "received"
    set_clock(db, "2026-03-31T12:01:00-03:00")
    assert receive(db, source, "d-3") == "received"


def test_admins_see_what_came_and_nobody_but_the_worker_its_body(
    db: Connection, world: World
) -> None:
    source = add_source(db, world.a)
    receive(db, source, "d-1")
    for org, role, seen in (
        (world.a, "admin", 1), (world.a, "director", 0), (world.a, "employee", 0),
        (world.b, "owner", 0),
    ):  # fmt: skip
        with as_member(db, org, role):
            for table in ("webhook_events", "webhook_sources"):
                assert one(db, f"select count(*) from public.{table}") == seen, (role, table)
            with denied():
                db.execute("select * from app.webhook_bodies")
            for write in (
                "update webhook_events set status = 'ignored'",
                "delete from webhook_events",
                "update webhook_sources set rate_per_minute = 1",
            ):
                with denied():
                    db.execute(write)


def test_events_are_removed_after_30_days_with_their_bodies_unless_they_wait(
    db: Connection, world: World
) -> None:
    set_clock(db, "2026-03-01T12:00:00-03:00")
    source = add_source(db, world.a)
    for key in ("waiting", "done", "failed"):
        receive(db, source, key)
    receive(db, source, "rejected", rejection="signature wrong")
    db.execute("update webhook_events set status = 'processed' where event_key = 'done'")
    db.execute("update webhook_events set status = 'failed' where event_key = 'failed'")
    set_clock(db, "2026-03-02T12:00:00-03:00")
    receive(db, source, "later")
    db.execute("update webhook_events set status = 'processed' where event_key = 'later'")
    set_clock(db, "2026-03-31T12:00:01-03:00")
    with as_worker(db):
        assert one(db, "select app.delete_old_webhook_events()") == 3
    assert events(db, "event_key") == [("waiting",), ("later",)]
    assert one(db, "select count(*) from app.webhook_bodies") == 2


def test_an_organisation_goes_with_its_webhooks(db: Connection, world: World) -> None:
    source = add_source(db, world.a)
    receive(db, source, "d-1")
    db.execute("delete from public.webhook_sources where id = %s", (source.id,))
    assert one(db, "select count(*) from app.webhook_bodies") == 0
