"""Webhooks, inbound: the job that processes what came, GitHub's processor, replays."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any, cast
from uuid import UUID, uuid4

import psycopg
import pytest

from nessos.errors import GiveUpError, RetryError
from nessos.jobs import connections
from nessos.jobs.entrypoint import Task
from nessos.webhooks import inbound
from tests.people import Connection, World
from tests.rules.test_ops_playbooks import one
from tests.rules.test_webhooks_inbound import add_source, receive

PUSH = {
    "ref": "refs/heads/feature/x",
    "before": "6113728f27ae82c7b1a177c8d03f9e96e0adf246",
    "after": "76ae82c7b1a177c8d03f9e96e0adf2466113728f",
    "created": False,
    "deleted": False,
    "forced": True,
    "commits": [{"id": "76ae", "message": "fix: x", "author": {"email": "ana@example.com"}}],
    "head_commit": {"id": "76ae82c7b1a177c8d03f9e96e0adf2466113728f"},
    "repository": {"full_name": "acme/app", "pushed_at": 1784030400, "owner": {"login": "acme"}},
    "pusher": {"name": "ana", "email": "ana@example.com"},
}
PULL_REQUEST = {
    "action": "closed",
    "number": 42,
    "pull_request": {
        "number": 42, "state": "closed", "title": "Add X", "body": None, "merged": True,
        "merge_commit_sha": "76ae82c7b1a177c8d03f9e96e0adf2466113728f",
        "user": None,
        "head": {"label": "ana:feature/x", "ref": "feature/x", "sha": "aaa", "repo": None},
        "base": {"ref": "main", "sha": "bbb", "repo": {"full_name": "acme/app"}},
    },
    "repository": {"full_name": "acme/app", "pushed_at": "2026-07-14T12:00:00Z"},
}  # fmt: skip


class Worker:
    """A worker's handler on a database of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.db = psycopg.connect(url, autocommit=True)
        self.org = World().a
        self.source = add_source(self.db, self.org)

    def receive(self, body: bytes, **headers: str) -> UUID:
        """Receive an event of GitHub; gives its id."""
        key = str(uuid4())
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        assert receive(self.db, self.source, key, body, headers=names) == "received"
        event = one(self.db, "select id from webhook_events where event_key = %s", key)
        assert isinstance(event, UUID)
        return event

    def process(self, event: UUID, times: int = 1) -> list[str]:
        """Run the job, several times at once; gives what each said."""

        async def run() -> list[str]:
            async with connections.pool(self.url, size=4) as pool:
                task = Task(
                    job_id=1,
                    entrypoint="webhook.process",
                    payload={"webhook_event_id": str(event)},
                    org_id=self.org.org,
                    request_id=None,
                    attempt=1,
                    pool=pool,
                    http=cast("Any", None),
                )
                return await asyncio.gather(*(inbound.process(task) for _ in range(times)))

        return asyncio.run(run())

    def state(self, event: UUID) -> tuple[Any, ...]:
        """Give status, attempts and outcome of an event."""
        row = self.db.execute(
            "select status, attempts, outcome from webhook_events where id = %s", (event,)
        ).fetchone()
        assert row is not None
        return tuple(row)

    def recorded(self, event: UUID) -> list[tuple[Any, ...]]:
        """Give the module events that came of an event."""
        return self.db.execute(
            "select module, event_type, payload from module_events where entity_id = %s", (event,)
        ).fetchall()


@pytest.fixture(scope="module")
def worker(db_url: str) -> Iterator[Worker]:
    """A worker's handler, and a source of organisation a."""
    worker = Worker(db_url)
    yield worker
    worker.db.close()


def github(name: str, payload: object) -> dict[str, Any]:
    return {
        "body": json.dumps(payload).encode(),
        "content_type": "application/json",
        "x_github_event": name,
    }


def test_a_push_becomes_an_event_without_a_word_about_people(worker: Worker) -> None:
    event = worker.receive(**github("push", PUSH))
    assert worker.process(event) == ["push to refs/heads/feature/x of acme/app"]
    expected = {
        "repository": "acme/app",
        "ref": "refs/heads/feature/x",
        "before": PUSH["before"],
        "after": PUSH["after"],
        "commits": 1,
        "is_forced": True,
        "is_created": False,
        "is_deleted": False,
    }
    assert worker.recorded(event) == [("ops", "repository.pushed", expected)]
    assert worker.state(event)[:2] == ("processed", 1)
    keys = one(worker.db, "select payload_keys from app.event_types"
               " where event_type = 'repository.pushed'")  # fmt: skip
    assert set(keys) == set(expected)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"before": "0" * 40}, {"is_created": True, "is_deleted": False}),
        (
            {"after": "0" * 40, "commits": [], "head_commit": None},
            {"is_deleted": True, "commits": 0},
        ),
        ({"ref": "refs/tags/v1.0"}, {"ref": "refs/tags/v1.0"}),
        ({"commits": [{}] * 2048}, {"commits": 2048}),
    ],
)
def test_branches_and_tags_come_and_go(
    worker: Worker, change: dict[str, Any], expected: dict[str, Any]
) -> None:
    event = worker.receive(**github("push", PUSH | change))
    worker.process(event)
    ((_, _, payload),) = worker.recorded(event)
    assert payload | expected == payload


def test_a_form_holds_the_same_payload(worker: Worker) -> None:
    body = b"payload=%7B%22ref%22%3A+%22refs%2Fheads%2Fmain%22%2C" + (
        b"%22before%22%3A%22" + b"1" * 40 + b"%22%2C%22after%22%3A%22" + b"2" * 40
        + b"%22%2C%22repository%22%3A%7B%22full_name%22%3A%22acme%2Fapp%22%7D%7D"
    )  # fmt: skip
    event = worker.receive(
        body, content_type="application/x-www-form-urlencoded", x_github_event="push"
    )
    assert worker.process(event) == ["push to refs/heads/main of acme/app"]


@pytest.mark.parametrize(
    ("action", "merged", "event_type"),
    [
        ("closed", True, "pull_request.merged"),
        ("closed", False, "pull_request.closed"),
        ("closed", None, "pull_request.closed"),
        ("opened", False, "pull_request.opened"),
        ("reopened", False, "pull_request.opened"),
        ("synchronize", False, None),
        ("labeled", False, None),
        ("merged", True, None),
    ],
)
def test_merged_is_closed_with_merged_true(
    worker: Worker, action: str, merged: object, event_type: str | None
) -> None:
    request = {**cast("dict[str, Any]", PULL_REQUEST["pull_request"]), "merged": merged}
    event = worker.receive(
        **github("pull_request", {**PULL_REQUEST, "action": action, "pull_request": request})
    )
    worker.process(event)
    recorded = worker.recorded(event)
    assert [found for _, found, _ in recorded] == ([event_type] if event_type else [])
    assert worker.state(event)[0] == ("processed" if event_type else "ignored")
    for _, found, payload in recorded:
        keys = one(
            worker.db, "select payload_keys from app.event_types where event_type = %s", found
        )
        assert set(payload) == set(keys)
        assert (payload["repository"], payload["number"], payload["is_fork"]) == (
            "acme/app",
            42,
            True,
        )
        assert "ana" not in json.dumps(payload)


@pytest.mark.parametrize(
    ("head", "is_fork"),
    [({"full_name": "acme/app"}, False), ({"full_name": "ana/app"}, True), (None, True)],
)
def test_a_fork_is_another_repository_or_a_deleted_one(
    worker: Worker, head: object, is_fork: object
) -> None:
    request = cast("dict[str, Any]", PULL_REQUEST["pull_request"])
    changed = {**request, "head": {"ref": "x", "repo": head}, "merge_commit_sha": None}
    event = worker.receive(**github("pull_request", {**PULL_REQUEST, "pull_request": changed}))
    worker.process(event)
    ((_, _, payload),) = worker.recorded(event)
    assert (payload["is_fork"], payload["merge_commit"]) == (is_fork, None)


@pytest.mark.parametrize("name", ["ping", "star", "", "x" * 900])
def test_other_events_are_ignored(worker: Worker, name: str) -> None:
    event = worker.receive(**github(name, {"zen": "…", "hook_id": 1}))
    worker.process(event)
    assert worker.state(event)[0] == "ignored"
    assert worker.recorded(event) == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        json.dumps({**PUSH, "ref": "refs/heads/\0"}).encode(),
        json.dumps({**PUSH, "before": "x"}).encode(),
        json.dumps({**PUSH, "repository": None}).encode(),
        json.dumps({**PUSH, "ref": "r" * 600}).encode(),
        b'{"ref": "\xff"}',
    ],
)
def test_what_github_never_sends_is_held_and_says_where(worker: Worker, body: bytes) -> None:
    event = worker.receive(body, content_type="application/json", x_github_event="push")
    with pytest.raises(GiveUpError, match="the payload of push is unknown"):
        worker.process(event)
    status, attempts, outcome = worker.state(event)
    assert (status, attempts) == ("failed", 1)
    assert outcome.startswith("the payload of push is unknown: ")


def test_an_event_processed_twice_and_replayed_has_one_effect(worker: Worker) -> None:
    event = worker.receive(**github("push", PUSH))
    assert len(worker.process(event, times=4)) == 4
    assert len(worker.recorded(event)) == 1
    assert worker.process(event) == ["nothing left to do"]
    replay = "select app.replay_webhook_event(%s, %s)"
    # Its first job still waits: nobody has taken it from the queue.
    assert one(worker.db, replay, worker.org.org, event) is None
    worker.db.execute("delete from pgqueuer.pgqueuer")
    assert one(worker.db, replay, worker.org.org, event)
    assert worker.state(event)[0] == "received"
    assert worker.process(event) == ["push to refs/heads/feature/x of acme/app"]
    assert len(worker.recorded(event)) == 1
    assert worker.state(event)[0] == "processed"


def failing(error: Exception) -> inbound.Processor:
    async def process(_task: Task, _event: inbound.InboundEvent) -> str:
        await asyncio.sleep(0)
        raise error

    return process


def saying(word: str | None) -> inbound.Processor:
    async def process(_task: Task, event: inbound.InboundEvent) -> str | None:
        await asyncio.sleep(0)
        assert isinstance(event.body, bytes)
        return word

    return process


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (saying("3 rows"), ("processed", "3 rows")),
        (saying(None), ("processed", "done")),
        (saying("ignored"), ("ignored", "ignored")),
        (saying("ignored: ping"), ("ignored", "ignored: ping")),
        (
            saying("rejected: appKey of another app"),
            ("rejected", "rejected: appKey of another app"),
        ),
        (saying("ignoredness"), ("processed", "ignoredness")),
        (failing(RetryError("busy", "wait")), ("failed", "busy → wait")),
        (failing(ValueError("ana@example.com")), ("failed", "ValueError")),
    ],
)
def test_what_a_processor_says_becomes_the_state(
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
    processor: inbound.Processor,
    expected: tuple[str, str],
) -> None:
    monkeypatch.setattr(inbound, "PROCESSORS", {"github": processor})
    event = worker.receive(b"{}")
    if expected[0] == "failed":
        with pytest.raises((RetryError, ValueError)):
            worker.process(event)
    else:
        worker.process(event)
    assert worker.state(event)[::2] == expected


def test_a_failed_event_is_processed_by_the_next_attempt(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = worker.receive(**github("push", PUSH))
    with monkeypatch.context() as patch:
        patch.setattr(inbound, "PROCESSORS", {"github": failing(RetryError("busy"))})
        for _ in range(2):
            with pytest.raises(RetryError):
                worker.process(event)
    assert worker.state(event) == ("failed", 2, "busy")
    worker.process(event)
    assert worker.state(event)[:2] == ("processed", 3)


def test_a_processor_cut_off_leaves_the_event_failed(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def process(_task: Task, _event: inbound.InboundEvent) -> str:
        raise asyncio.CancelledError

    monkeypatch.setattr(inbound, "PROCESSORS", {"github": process})
    event = worker.receive(b"{}")
    with pytest.raises(asyncio.CancelledError):
        worker.process(event)
    assert worker.state(event) == ("failed", 1, "interrupted")


def test_an_event_that_is_gone_is_no_failure(worker: Worker) -> None:
    assert worker.process(uuid4()) == ["nothing left to do"]


def test_every_provider_that_may_send_has_its_processor(db: Connection) -> None:
    check = one(
        db,
        "select pg_get_constraintdef(oid) from pg_constraint"
        " where conname = 'webhook_sources_provider_check'",
    )
    known = set(re.findall(r"'(\w+)'::text", str(check)))
    assert set(inbound.PROCESSORS) == known
