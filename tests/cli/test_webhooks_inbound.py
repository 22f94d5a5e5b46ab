"""`nessos webhooks source`, `list`, `show` and `replay`."""

import base64
import json
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.cli.test_commands import answer, run


@pytest.fixture(scope="module")
def source(seeded_url: str) -> dict[str, Any]:
    """An address for GitHub of the demo company vigia."""
    made: dict[str, Any] = answer(
        seeded_url, "webhooks", "source", "create", "github", "--org", "vigia"
    )
    return made


def receive(url: str, source: dict[str, Any], *, rejection: str | None = None) -> UUID:
    """Receive an event; gives its id."""
    key = str(uuid4())
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(
            "select public.receive_webhook('github', %s, %s, %s, %s, %s)",
            (
                source["token"],
                key,
                Jsonb({"x-github-event": "ping"}),
                base64.b64encode('{"zen": "ação"}'.encode()).decode(),
                rejection,
            ),
        )
        row = db.execute("select id from webhook_events where event_key = %s", (key,)).fetchone()
    assert row is not None
    event: UUID = row[0]
    return event


def set_state(url: str, event: UUID, status: str, received_at: str | None = None) -> None:
    """Have an event processed, or received at another moment."""
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("delete from pgqueuer.pgqueuer")
        db.execute(
            "update webhook_events set status = %s, received_at = coalesce(%s, received_at)"
            " where id = %s",
            (status, received_at, event),
        )


def test_the_address_of_a_source_is_printed_once(seeded_url: str, source: dict[str, Any]) -> None:
    assert source["url"].endswith(f"/functions/v1/webhook/github/{source['token']}")
    done = run(seeded_url, "webhooks", "source", "create", "omie", "--org", "vigia")
    assert done.returncode == 0, done.stderr
    assert "/functions/v1/webhook/omie/hook_" in done.stdout
    receive(seeded_url, source)
    receive(seeded_url, source, rejection="signature wrong")
    rows = answer(seeded_url, "webhooks", "source", "list", "--org", "vigia")
    assert [(row["provider"], row["received"], row["rejected"]) for row in rows] == [
        ("github", 1, 1),
        ("omie", 0, 0),
    ]
    assert source["token"] not in json.dumps(rows)
    assert run(
        seeded_url, "webhooks", "source", "revoke", rows[1]["id"], "--org", "vigia", "--yes"
    ).returncode == 0  # fmt: skip
    rows = answer(seeded_url, "webhooks", "source", "list", "--org", "vigia")
    assert [row["revoked_at"] is None for row in rows] == [True, False]


def test_what_came_is_listed_and_shown(seeded_url: str, source: dict[str, Any]) -> None:
    event = receive(seeded_url, source)
    rows = answer(seeded_url, "webhooks", "list", "--org", "vigia", "--provider", "github")
    assert rows[0]["id"] == str(event)
    assert (rows[0]["status"], rows[0]["attempts"]) == ("received", 0)
    assert answer(seeded_url, "webhooks", "list", "--provider", "omie") == []
    refused = answer(seeded_url, "webhooks", "list", "--status", "rejected")
    assert {row["outcome"] for row in refused} == {"signature wrong"}
    shown = answer(seeded_url, "webhooks", "show", str(event))
    assert (shown["body"], shown["headers"]) == ('{"zen": "ação"}', {"x-github-event": "ping"})
    done = run(seeded_url, "webhooks", "show", str(event))
    assert "ação" in done.stdout


def test_named_events_are_replayed_and_refused_ones_never(
    seeded_url: str, source: dict[str, Any]
) -> None:
    good, bad = receive(seeded_url, source), receive(seeded_url, source, rejection="wrong")
    set_state(seeded_url, good, "processed")
    done = run(seeded_url, "webhooks", "replay", str(good), str(bad), "--yes", "--json")
    assert done.returncode == 3
    assert "webhook_event_move_refused" in done.stderr
    assert json.loads(done.stdout)["replayed"] == 1
    with psycopg.connect(seeded_url) as db:
        assert db.execute(
            "select e.status, count(q.id) from webhook_events as e, pgqueuer.pgqueuer as q"
            " where e.id = %s and q.dedupe_key = 'webhook.process/' || e.id group by 1",
            (good,),
        ).fetchall() == [("received", 1)]
    unknown = run(seeded_url, "webhooks", "replay", str(uuid4()), "--yes")
    assert (unknown.returncode, "not_found" in unknown.stderr) == (1, True)


def test_events_of_a_time_are_replayed(seeded_url: str, source: dict[str, Any]) -> None:
    inside, outside = receive(seeded_url, source), receive(seeded_url, source)
    set_state(seeded_url, inside, "failed", "2026-01-10 12:00+00")
    set_state(seeded_url, outside, "failed", "2026-01-11 00:00+00")
    span = ("--since", "2026-01-10T12:00", "--until", "2026-01-11", "--provider", "github")
    looked = answer(seeded_url, "webhooks", "replay", *span, "--dry-run")
    assert looked == {"chosen": 1, "replayed": 0, "refused": []}
    done = answer(seeded_url, "webhooks", "replay", *span, "--yes")
    assert done == {"chosen": 1, "replayed": 1, "refused": []}
    states = {
        row["id"]: row["status"] for row in answer(seeded_url, "webhooks", "list", "-n", "500")
    }
    assert (states[str(inside)], states[str(outside)]) == ("received", "failed")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("replay",), 2, "what to replay is not said"),
        (("replay", "x"), 2, "Invalid value"),
        (("list", "--status", "lost"), 2, "Invalid value"),
        (("show", "00000000-0000-0000-0000-000000000000"), 2, "there is no webhook event"),
        (("source", "create", "asaas", "--org", "vigia"), 1, "bad_input"),
        (("source", "create", "github"), 2, "several organisations"),
        (("source", "revoke", "00000000-0000-0000-0000-000000000000", "--org", "vigia", "--yes"),
         1, "not_found"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_clear_line(
    seeded_url: str, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = run(seeded_url, "webhooks", *arguments)
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
