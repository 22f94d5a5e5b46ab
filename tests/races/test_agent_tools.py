"""One call of a tool that two workers make at once."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg

from tests.people import World, as_agent

CALLERS = 8


def test_one_call_made_by_many_at_once_is_done_once(own_db_url: str, world: World) -> None:
    together = threading.Barrier(CALLERS)

    def call(_: int) -> Any:
        with psycopg.connect(own_db_url) as db, as_agent(db, world.a):
            db.execute("select set_config('app.idempotency_key', 'run/1/0', true)")
            together.wait(30)
            row = db.execute(
                """select app.call_agent_tool('create_task', '{"title": "Ligar"}')"""
            ).fetchone()
            assert row is not None
            return json.dumps(row[0])

    with ThreadPoolExecutor(CALLERS) as threads:
        answers = list(threads.map(call, range(CALLERS)))
    assert len(set(answers)) == 1
    with psycopg.connect(own_db_url) as db:
        assert db.execute("select count(*) from public.tasks").fetchone() == (1,)
        assert db.execute("select count(*) from app.agent_tool_results").fetchone() == (1,)


def test_a_call_that_was_undone_leaves_its_key_free(own_db_url: str, world: World) -> None:
    with psycopg.connect(own_db_url) as db:
        for title in ("Ligar", "Escrever"):
            with as_agent(db, world.a):
                db.execute("select set_config('app.idempotency_key', 'run/1/0', true)")
                db.execute(
                    "select app.call_agent_tool('create_task', %s)", (json.dumps({"title": title}),)
                )
            if title == "Ligar":
                db.rollback()
        assert db.execute("select title from public.tasks").fetchall() == [("Escrever",)]
