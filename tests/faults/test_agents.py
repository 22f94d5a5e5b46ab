"""Workers that are killed between and inside the steps of an agent's run: nothing lost, nothing twice."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from nessos.settings import ROOT
from tests.faults.provider import PATIENCE_S
from tests.faults.test_worker import HEARTBEAT_S, until
from tests.integrations.agents import ORG, Crew, create, open_crew
from tests.integrations.fakes.llm import Asked, Response

SETTINGS = {"NESSOS_WORKER_HEARTBEAT_S": str(HEARTBEAT_S), "NESSOS_WORKER_PORT": ""}


@pytest.fixture
def crew(own_db_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crew]:
    """An agent that may create tasks."""
    with open_crew(own_db_url, monkeypatch) as crew:
        crew.grant(crew.add(), "create_task")
        yield crew


@contextlib.contextmanager
def worker(crew: Crew) -> Iterator[subprocess.Popen[bytes]]:
    """Run the real worker on the database; at the end it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "nessos", "worker"],
        cwd=ROOT,
        env={
            **os.environ,
            **SETTINGS,
            "DATABASE_URL": crew.url,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'py'}",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class Gate:
    """Keeps the model from answering until the test says so."""

    def __init__(self, says: Response) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self._says = says

    def __call__(self, _: Asked) -> Response:
        """Answer when the gate is opened."""
        self.reached.set()
        self.opened.wait(2 * PATIENCE_S)
        return self._says


def waits_for_lock(crew: Crew) -> bool:
    """Whether a statement of the worker waits for what the test holds."""
    return bool(crew.one("select count(*) from pg_locks where not granted")["count"])


@pytest.mark.parametrize(
    "moment", ["thinking", "storing the turn", "inside the tool", "thinking again", "completing"]
)
def test_a_run_whose_worker_is_killed_goes_on_and_its_tool_has_one_effect(
    crew: Crew, moment: str
) -> None:
    def respond(asked: Asked) -> Any:
        return "Feito." if asked.messages[-1]["role"] == "tool" else create()

    crew.models.respond = respond
    first, second = Gate(create()), Gate("Feito.")
    if moment in {"thinking", "storing the turn"}:
        crew.models.script(first)
    elif moment in {"thinking again", "completing"}:
        crew.models.script(create(), second)
    run = crew.start()
    with contextlib.ExitStack() as held:
        lock = held.enter_context(psycopg.connect(crew.url, row_factory=dict_row))
        if moment == "inside the tool":
            lock.execute("lock table public.tasks in share mode")
        victim = held.enter_context(worker(crew))
        if moment == "inside the tool":
            until(lambda: waits_for_lock(crew))
        else:
            gate = first if moment in {"thinking", "storing the turn"} else second
            assert gate.reached.wait(PATIENCE_S)
            if moment in {"storing the turn", "completing"}:
                lock.execute("select from public.agent_runs where id = %s for update", (run,))
                gate.opened.set()
                until(lambda: waits_for_lock(crew))
        victim.kill()
        victim.wait()
        lock.rollback()
        for gate in (first, second):
            gate.opened.set()
    with worker(crew):
        until(lambda: crew.run(run)["status"] == "completed")
    assert crew.tasks() == ["Ligar para a cliente"]
    assert crew.outcomes(run) == [("create_task", "done")]
    assert (crew.run(run)["turns"], crew.run(run)["answer"]) == (2, "Feito.")


def test_an_approval_survives_the_worker_and_is_done_once_by_the_next(crew: Crew) -> None:
    crew.db.execute("update public.agent_tool_grants set mode = 'approval'")
    crew.models.script(create())
    run = crew.start()
    with worker(crew) as victim:
        until(lambda: crew.run(run)["status"] == "waiting")
        victim.kill()
        victim.wait()
    crew.decide(crew.approval(run)["id"])
    with psycopg.connect(crew.url) as lock:
        lock.execute("lock table public.tasks in share mode")
        with worker(crew) as second:
            until(lambda: waits_for_lock(crew))
            second.kill()
            second.wait()
        lock.rollback()
    assert crew.tasks() == []
    with worker(crew):
        until(lambda: crew.run(run)["status"] == "completed")
    assert crew.tasks() == ["Ligar para a cliente"]
    decided = "select count(*) from public.agent_approvals where org_id = %s"
    assert crew.one(decided, ORG)["count"] == 1
