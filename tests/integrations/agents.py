"""An agent of organisation a, the server of its model, and a worker that does its jobs one by one."""

import asyncio
import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import dict_row

from nessos.ai.run import work
from nessos.http import client
from nessos.jobs.entrypoint import Task
from tests.integrations.fakes.llm import Call, FakeModels, call, plug_in
from tests.integrations.outside import open_pool
from tests.people import WORLD, as_member

ORG = WORLD.a.org


@dataclass
class Crew:
    """The database, the model's server, and what a test does with an agent."""

    url: str
    db: psycopg.Connection[dict[str, Any]]
    models: FakeModels

    def add(self, *, key: str = "ajudante", **columns: Any) -> UUID:
        """Make an agent of the kind custom; automatic, unless told otherwise."""
        values = {"autonomy": "automatic", **columns}
        names = ", ".join(values)
        row = self.one(
            f"insert into public.agents (org_id, kind, key, name, {names})"
            f" values (%s, 'custom', %s, 'Ajudante', {', '.join(['%s'] * len(values))}) returning id",
            ORG,
            key,
            *values.values(),
        )
        return UUID(str(row["id"]))

    def grant(self, agent: UUID, tool: str, mode: str = "automatic", **columns: Any) -> None:
        """Give it a tool."""
        names = "".join(f", {name}" for name in columns)
        self.db.execute(
            f"insert into public.agent_tool_grants (org_id, agent_id, tool, mode{names})"
            f" values (%s, %s, %s, %s{', %s' * len(columns)})",
            (ORG, agent, tool, mode, *columns.values()),
        )

    def start(self, *, key: str = "ajudante", person: str = "director", **arguments: Any) -> UUID:
        """Have a member start a run."""
        with as_member(self.db, ORG, person):
            row = self.one(
                "select public.run_agent(%s, %s, %s, %s) as run",
                ORG,
                key,
                json.dumps(arguments.get("input", {"pedido": "Crie a tarefa"})),
                json.dumps(arguments["contact"]) if "contact" in arguments else None,
            )
        return UUID(str(row["run"]))

    def work(self, run: UUID) -> str:
        """Do the run's job, as a worker would."""

        async def job() -> Any:
            async with open_pool(self.url) as pool, client(pool) as http:
                payload = {"agent_run_id": str(run)}
                return await work(Task(1, "agent.run", payload, ORG, None, 1, pool, http))

        return str(asyncio.run(job()))

    def decide(
        self, approval: UUID, decision: str = "approve", *, person: str = "owner"
    ) -> dict[str, Any]:
        """Have a member decide."""
        with as_member(self.db, ORG, person):
            return self.one(
                "select * from public.decide_agent_approval(%s, %s, %s, 'Porque sim')",
                ORG,
                approval,
                decision,
            )

    def approval(self, run: UUID) -> dict[str, Any]:
        """Give the approval the run has asked for last."""
        return self.one(
            "select * from public.agent_approvals where run_id = %s order by turn desc, call_index desc limit 1",
            run,
        )

    def run(self, run: UUID) -> dict[str, Any]:
        """Give the run's row."""
        return self.one("select * from public.agent_runs where id = %s", run)

    def outcomes(self, run: UUID) -> list[tuple[str, str]]:
        """Say what came of each call."""
        return [
            (row["tool"], row["outcome"])
            for row in self.db.execute(
                "select tool, outcome from public.agent_steps where run_id = %s and kind = 'call' order by ordinal",
                (run,),
            ).fetchall()
        ]

    def tasks(self) -> list[str]:
        """Titles of the tasks there are of agents."""
        rows = self.db.execute(
            "select title from public.tasks where org_id = %s order by created_at, title", (ORG,)
        )
        return [row["title"] for row in rows.fetchall()]

    def results(self) -> list[Any]:
        """What the model was told of its calls, in its last turn."""
        return [
            json.loads(message["content"].removeprefix("<dados>").removesuffix("</dados>"))
            for message in self.models.asked[-1].messages
            if message["role"] == "tool"
        ]

    def jobs(self) -> int:
        """How many jobs of runs are in the queue."""
        return int(
            self.one(
                "select count(*) from pgqueuer.pgqueuer where entrypoint = 'agent.run' and status = 'queued'"
            )["count"]
        )

    def one(self, statement: str, *values: object) -> dict[str, Any]:
        """Fetch one row."""
        row = self.db.execute(statement, values or None).fetchone()
        assert row
        return row


def create(title: str = "Ligar para a cliente", call_id: str = "call_1", **more: Any) -> Call:
    """Give the call of a tool that writes."""
    return call("create_task", {"title": title, **more}, call_id)


def calls(*titles: str) -> Sequence[Call]:
    """Give several calls in one turn."""
    return [create(title, f"call_{number}") for number, title in enumerate(titles)]


@contextlib.contextmanager
def open_crew(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crew]:
    """Start the model's server and point the settings at it."""
    with (
        FakeModels() as models,
        psycopg.connect(url, autocommit=True, row_factory=dict_row) as db,
    ):
        plug_in(monkeypatch, models)
        yield Crew(url, db, models)
