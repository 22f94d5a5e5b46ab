"""`nessos webhooks`: endpoints, deliveries and sending again, as separate processes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest

from nessos.settings import ROOT
from tests.cli.test_commands import answer, run
from tests.integrations.fakes.server import Answer, FakeServer


@pytest.fixture(autouse=True)
def _local_receivers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let events be sent to this machine, as a developer does."""
    monkeypatch.setenv("NESSOS_WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8")


@pytest.fixture
def receiver() -> Iterator[FakeServer]:
    """A receiver that takes everything."""
    with FakeServer() as server:
        yield server


def made(url: str, receiver: FakeServer) -> str:
    """Make an endpoint; give its id."""
    row = answer(
        url, "webhooks", "endpoint", "create", receiver.url, "--event", "growth.lead.*",
        "--event", "data.*", "--org", "vigia",
    )  # fmt: skip
    assert row["secret"].startswith("whsec_")
    return str(row["id"])


def record(url: str, number: int) -> None:
    """Record events of as many entities."""
    with psycopg.connect(url) as db:
        db.execute(
            "select app.record_event(o.id, 'data', 'event_aggregates.drifted', 'event_aggregates', gen_random_uuid())"
            " from public.organizations as o, generate_series(1, %s) where o.slug = 'vigia'",
            (number,),
        )


def work(url: str) -> None:
    """Let a worker empty the queue."""
    done = run(url, "worker", "--drain")
    assert done.returncode == 0, done.stderr


def test_what_an_endpoint_was_sent_is_listed_and_sent_again(
    seeded_url: str, receiver: FakeServer
) -> None:
    endpoint = made(seeded_url, receiver)
    record(seeded_url, 3)
    work(seeded_url)
    (listed,) = [
        row
        for row in answer(seeded_url, "webhooks", "endpoint", "list", "--org", "vigia")
        if row["id"] == endpoint
    ]
    assert (listed["state"], listed["waiting"], listed["events"]) == (
        "active",
        0,
        ["data.*", "growth.lead.*"],
    )
    of_it = ("--org", "vigia", "--endpoint", endpoint)
    sent = answer(seeded_url, "webhooks", "deliveries", *of_it, "--status", "delivered")
    assert sorted(row["event"] for row in sent) == sorted(
        seen.headers["webhook-id"] for seen in receiver.journal
    )
    assert answer(seeded_url, "webhooks", "deliveries", *of_it, "--status", "exhausted") == []
    resend = (
        "webhooks", "resend", endpoint, "--org", "vigia", "--event", sent[0]["event"],
    )  # fmt: skip
    assert answer(seeded_url, *resend, "--dry-run") == {"deliveries": 1, "is_done": False}
    work(seeded_url)
    assert len(receiver.journal) == 3
    assert answer(seeded_url, *resend, "--yes") == {"deliveries": 1, "is_done": True}
    work(seeded_url)
    assert [seen.headers["webhook-id"] for seen in receiver.journal[3:]] == [sent[0]["event"]]


def test_a_paused_endpoint_gets_nothing_until_it_is_resumed(
    seeded_url: str, receiver: FakeServer
) -> None:
    endpoint = made(seeded_url, receiver)
    row = answer(seeded_url, "webhooks", "endpoint", "pause", endpoint, "--org", "vigia")
    assert row["paused_reason"] == "manual"
    record(seeded_url, 2)
    work(seeded_url)
    assert receiver.journal == []
    answer(seeded_url, "webhooks", "endpoint", "resume", endpoint, "--org", "vigia")
    work(seeded_url)
    assert len(receiver.journal) == 2


@pytest.mark.parametrize(
    ("answered", "code", "words"),
    [(Answer(204), 0, "delivered: HTTP 204"), (Answer(500), 1, "the test failed: HTTP 500")],
)
def test_a_test_tells_how_it_went(
    seeded_url: str, receiver: FakeServer, answered: Answer, code: int, words: str
) -> None:
    endpoint = made(seeded_url, receiver)
    receiver.faults.append(answered)
    waiting = subprocess.Popen(
        [sys.executable, "-m", "nessos", "webhooks", "endpoint", "test", endpoint, "--org", "vigia"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
        env={**os.environ, "DATABASE_URL": seeded_url, "PYTHONPATH": str(ROOT / "py")},
    )  # fmt: skip
    while not receiver.journal and waiting.poll() is None:
        work(seeded_url)
    said, _ = waiting.communicate()
    assert (waiting.returncode, words in said) == (code, True), said
    assert json.loads(receiver.journal[0].body)["type"] == "webhook.test"


def test_a_rotation_and_a_removal_act_and_removal_asks(
    seeded_url: str, receiver: FakeServer
) -> None:
    endpoint = made(seeded_url, receiver)
    row = answer(
        seeded_url, "webhooks", "endpoint", "rotate", endpoint, "--org", "vigia", "--grace-hours", "0"
    )  # fmt: skip
    assert row["secret"].startswith("whsec_")
    assert run(seeded_url, "webhooks", "endpoint", "delete", endpoint, "--org", "vigia").returncode
    done = run(seeded_url, "webhooks", "endpoint", "delete", endpoint, "--org", "vigia", "--yes")
    assert (done.returncode, f"{endpoint} is removed" in done.stdout) == (0, True)
    again = run(seeded_url, "webhooks", "endpoint", "pause", endpoint, "--org", "vigia")
    assert (again.returncode, "not_found" in again.stderr) == (1, True)


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("https://10.0.0.1/in", 1, "not public"),
        ("https://169.254.169.254/in", 1, "not public"),
        ("ftp://hooks.rosto.example/in", 2, "leads nowhere"),
        ("https://user@127.0.0.1/in", 1, "webhook_url_refused"),
        ("no address", 1, "webhook_url_refused"),
    ],
)
def test_an_address_that_no_worker_would_call_is_refused_in_one_line(
    seeded_url: str, url: str, code: int, words: str
) -> None:
    done = run(seeded_url, "webhooks", "endpoint", "create", url, "--event", "*", "--org", "vigia")
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


def test_what_to_send_again_must_be_said(seeded_url: str, receiver: FakeServer) -> None:
    endpoint = made(seeded_url, receiver)
    done = run(seeded_url, "webhooks", "resend", endpoint, "--org", "vigia")
    assert (done.returncode, "--from and --to" in done.stderr) == (2, True)
