"""Workers that are killed between any two steps of a workflow, and a delay across restarts of worker and database."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import psycopg
import pytest

from nessos.local.postgres import THROWAWAY, Cluster, build_database
from nessos.settings import ROOT
from tests.faults.test_worker import until
from tests.people import WORLD, Connection
from tests.world import create_world

STEPS = 5


@pytest.fixture(scope="module")
def cluster(run_folder: Path, pg_version: Literal[16, 18]) -> Iterator[Cluster]:
    """A server of this module's own, which may crash."""
    settings = {**THROWAWAY, "synchronous_commit": "on", "max_connections": "60"}
    server = Cluster(run_folder / "workflows", pg_version, settings=settings)
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="module")
def url(cluster: Cluster) -> str:
    """Its database, with the world."""
    url = build_database(cluster, "workflows")
    create_world(url)
    return url


@pytest.fixture
def start(url: str) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Start workers; whatever is left of them at the end is killed."""
    workers: list[subprocess.Popen[bytes]] = []

    def run() -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "DATABASE_URL": url,
            "NESSOS_WORKER_HEARTBEAT_S": "2",
            "NESSOS_WORKER_PORT": "",
        }
        workers.append(
            subprocess.Popen(
                [sys.executable, "-m", "nessos", "worker"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        return workers[-1]

    yield run
    for one in workers:
        one.kill()
        one.wait()


def ask(url: str, query: str) -> Any:
    try:
        with psycopg.connect(url) as db:
            row = db.execute(query).fetchone()
    except psycopg.OperationalError:
        return None
    return row and row[0]


def begin(db: Connection, *steps: dict[str, Any]) -> None:
    db.execute("delete from public.workflows")
    db.execute("delete from public.tasks")
    db.execute("truncate pgqueuer.pgqueuer, app.waiting_jobs")
    db.execute(
        "insert into public.workflows (org_id, key, name, definition) values (%s, 'fluxo', 'Fluxo', %s)",
        (WORLD.a.org, json.dumps({"when": {"event": "growth.lead.created"}, "then": steps})),
    )
    db.execute(
        "insert into public.leads (org_id, name, email) values (%s, 'Zé Lima', 'ze@lima.example')",
        (WORLD.a.org,),
    )


DONE = "select count(*) from public.workflow_run_steps where status = 'completed'"
STATE = "select status from public.workflow_runs"
STUCK = "from pg_locks where not granted and relation = 'public.tasks'::regclass"


def test_a_worker_killed_in_and_after_every_step_loses_nothing_and_repeats_nothing(
    url: str, start: Callable[[], subprocess.Popen[bytes]]
) -> None:
    with psycopg.connect(url) as db:
        begin(
            db,
            *({"id": f"t{n}", "kind": "create_task", "title": f"Passo {n}"} for n in range(STEPS)),
        )
    for step in range(STEPS):
        for is_undone in (True, False):
            # The step stands half done before this lock when its worker dies: once its transaction
            # is undone, once it is committed and nobody is there to note the end of the job.
            with psycopg.connect(url) as gate:
                gate.execute("lock table public.tasks in share mode")
                victim = start()
                until(lambda: ask(url, f"select count(*) {STUCK}"))
                victim.kill()
                victim.wait()
                if is_undone:
                    gate.execute(f"select pg_terminate_backend(pid) {STUCK}")
                    until(lambda: not ask(url, f"select count(*) {STUCK}"))
            if is_undone:
                assert ask(url, DONE) == step
        until(lambda: ask(url, f"select ({DONE}) = {step + 1}"))  # noqa: B023
    start()
    until(lambda: ask(url, STATE) == "completed")
    until(
        lambda: ask(
            url,
            "select not exists (select from pgqueuer.pgqueuer where entrypoint = 'workflow.step')",
        )
    )
    with psycopg.connect(url) as db:
        assert db.execute("select title from public.tasks order by created_at").fetchall() == [
            (f"Passo {n}",) for n in range(STEPS)
        ]
        assert db.execute(
            "select step, attempt from public.workflow_run_steps order by step"
        ).fetchall() == [(n, 1) for n in range(STEPS)]


def test_a_delay_outlives_worker_and_database(
    cluster: Cluster, url: str, start: Callable[[], subprocess.Popen[bytes]]
) -> None:
    with psycopg.connect(url) as db:
        begin(
            db,
            {"id": "wait", "kind": "delay", "for": "12 seconds"},
            {"id": "task", "kind": "create_task", "title": "Depois"},
        )
    first = start()
    until(lambda: ask(url, STATE) == "waiting")
    first.kill()
    first.wait()
    pid = cluster.pid
    assert pid is not None
    os.kill(pid, signal.SIGQUIT)
    until(lambda: not cluster.is_running())
    cluster.start()
    assert ask(url, STATE) == "waiting"
    start()
    until(lambda: ask(url, STATE) == "completed")
    assert ask(url, "select count(*) from public.tasks") == 1
    early = "select s.occurred_at < r.created_at + interval '12 seconds' from public.workflow_run_steps as s join public.workflow_runs as r on r.id = s.run_id where s.step_id = 'task'"
    assert ask(url, early) is False
