"""Webhooks out when a worker dies: what was sent and not noted is sent again with the same id, and never by two at once."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from nessos.settings import ROOT
from tests.integrations.fakes.server import Answer, FakeServer
from tests.people import World

_PATIENCE_S = 60


@contextlib.contextmanager
def worker(url: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker of its own, as an operator does; it is killed at the end."""
    environment = {
        **os.environ,
        "DATABASE_URL": url,
        "NESSOS_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
    }
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "nessos", "worker"], env=environment, stderr=file, cwd=ROOT
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def until(db: psycopg.Connection[Any], query: str, *parameters: object) -> dict[str, Any]:
    """Ask until there is a row."""
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        row: dict[str, Any] | None = db.execute(query, parameters).fetchone()
        if row is not None:
            return row
    pytest.fail(f"no row within {_PATIENCE_S} s: {query}")


def test_a_worker_killed_between_sending_and_noting_costs_a_second_copy_with_the_same_id(
    own_db_url: str, world: World, tmp_path: Path
) -> None:
    log, answered = tmp_path / "worker.log", threading.Event()
    with (
        FakeServer(lambda seen: Answer(until=answered if seen.number == 1 else None)) as receiver,
        psycopg.connect(own_db_url, autocommit=True, row_factory=dict_row) as db,
    ):
        db.execute(
            "select public.create_webhook_endpoint(%s, %s, array['data.*'])",
            (world.a.org, receiver.url),
        )
        with worker(own_db_url, log) as first:
            event = until(
                db,
                "select app.record_event(%s, 'data', 'event_aggregates.drifted', 'event_aggregates', null) as id",
                world.a.org,
            )["id"]
            # The receiver has it; the worker dies before it hears so.
            receiver.wait_for(1, _PATIENCE_S)
            first.send_signal(signal.SIGKILL)
            first.wait()
        answered.set()
        assert db.execute("select status from public.webhook_deliveries").fetchall() == [
            {"status": "delivering"}
        ]
        # Half a minute passes: the claim lapses and the queue misses the dead worker's heartbeat.
        db.execute("update public.webhook_deliveries set claim_expires_at = app.now()")
        db.execute("update pgqueuer.pgqueuer set heartbeat = heartbeat - interval '5 minutes'")
        with worker(own_db_url, log):
            receiver.wait_for(2, _PATIENCE_S)
            until(db, "select from public.webhook_deliveries where status = 'delivered'")
        attempts = db.execute("select status_code from public.webhook_attempts").fetchall()
    one, two = receiver.journal
    assert one.headers["webhook-id"] == two.headers["webhook-id"] == str(event)
    assert one.body == two.body
    assert attempts == [{"status_code": 200}]
