"""Any interleaving of what enqueues, takes, ends, loses, recovers, retries and discards jobs: nothing is stuck or lost."""

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any, ClassVar
from uuid import uuid4

import psycopg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from pgqueuer.adapters.drivers.psycopg import PsycopgDriver
from pgqueuer.models import Job
from pgqueuer.ports.repository import EntrypointExecutionParameter
from pgqueuer.types import QueueEntrypoint, QueueManagerId

from nessos.jobs import queue
from tests.jobs import add_job_type

ENTRYPOINTS = {QueueEntrypoint("test.echo"): EntrypointExecutionParameter(concurrency_limit=0)}
SILENCE = "30 s"
KEYS = st.sampled_from([None, "a", "b", "c"])


class Worker:
    """A worker as the database sees it, which does nothing by itself."""

    def __init__(self, connection: psycopg.AsyncConnection) -> None:
        self.id = QueueManagerId(uuid4())
        self.queries = queue.queries(PsycopgDriver(connection), limit=3)
        self.jobs: list[Job] = []


class Jobs(RuleBasedStateMachine):
    """Two workers and everybody who may meddle."""

    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.accepted = 0
        self.ended = 0

    def do(self, act: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await act

        return self.runner.run(wait())

    def one(self, query: str, *parameters: Any) -> Any:
        row = self.db.execute(query, parameters).fetchone()
        assert row is not None
        return row[0]

    @initialize()
    def begin(self) -> None:
        self.db = psycopg.connect(self.url, autocommit=True)
        self.db.execute(
            "truncate pgqueuer.pgqueuer, pgqueuer.pgqueuer_log, app.waiting_jobs, app.job_slices"
        )
        connection = self.do(psycopg.AsyncConnection.connect(self.url, autocommit=True))
        self.connection = connection
        self.workers = [Worker(connection), Worker(connection)]

    @rule(key=KEYS, delay=st.sampled_from(["0", "0", "1 hour"]))
    def enqueue(self, key: str | None, delay: str) -> None:
        job = self.one("select app.enqueue('test.echo', '{}', null, %s, %s)", key, delay)
        self.accepted += job is not None

    @rule(keys=st.lists(KEYS, max_size=5))
    def enqueue_many(self, keys: list[str | None]) -> None:
        self.accepted += self.one(
            "select app.enqueue_bulk('test.echo', %s::jsonb[], null, %s::text[])",
            ["{}"] * len(keys), keys,
        )  # fmt: skip

    @rule()
    def an_hour_passes(self) -> None:
        self.db.execute("update app.waiting_jobs set due_at = due_at - interval '1 hour'")
        self.db.execute(
            "update pgqueuer.pgqueuer set execute_after = execute_after - interval '1 hour'"
        )

    @rule(size=st.integers(1, 4))
    def release(self, size: int) -> None:
        self.db.execute("select app.release_waiting_jobs('{test.echo}', %s)", (size,))

    @rule(number=st.integers(0, 1))
    def fetch(self, number: int) -> None:
        worker = self.workers[number]
        worker.jobs += self.do(
            worker.queries.dequeue(2, ENTRYPOINTS, worker.id, None, timedelta(seconds=30))
        )

    @rule(number=st.integers(0, 1), how=st.sampled_from(["successful", "failed"]))
    def end(self, number: int, how: Any) -> None:
        worker = self.workers[number]
        if worker.jobs:
            job = worker.jobs.pop(0)
            holds, before = self.holds(worker, job), self.row(job)
            self.do(worker.queries.log_jobs([(job, how, None)]))
            if not holds:
                assert self.row(job) == before
            elif how == "successful":
                assert self.row(job) is None
                self.ended += 1

    @rule(number=st.integers(0, 1), seconds=st.sampled_from([0, 20]))
    def come_back(self, number: int, seconds: int) -> None:
        worker = self.workers[number]
        if worker.jobs:
            job = worker.jobs.pop()
            holds, before = self.holds(worker, job), self.row(job)
            job.attempts += 1
            self.do(worker.queries.retry_job(job, timedelta(seconds=seconds), None))
            assert holds or self.row(job) == before

    @rule(number=st.integers(0, 1))
    def beat(self, number: int) -> None:
        worker = self.workers[number]
        self.do(worker.queries.update_heartbeat([job.id for job in worker.jobs]))

    @rule(number=st.integers(0, 1))
    def die(self, number: int) -> None:
        self.workers[number] = Worker(self.connection)

    @rule()
    def recover(self) -> None:
        # As if all had been silent: those that live lose their jobs and do not know it.
        self.db.execute("update pgqueuer.pgqueuer set heartbeat = heartbeat - interval '1 minute'")
        self.db.execute("select app.recover_jobs(%s)", (SILENCE,))

    @rule(retry=st.booleans())
    def decide(self, retry: bool) -> None:  # noqa: FBT001 - hypothesis draws it
        held = self.db.execute(
            "select id from pgqueuer.pgqueuer where status = 'failed' order by id limit 1"
        ).fetchone()
        if held is None:
            return
        if not retry:
            self.db.execute("select app.discard_held_job(%s, 'enough')", held)
            self.ended += 1
            return
        try:
            self.db.execute("select app.retry_held_job(%s)", held)
        except psycopg.Error as error:
            assert error.diag.message_primary == "failed_task_superseded"  # noqa: PT017

    def holds(self, worker: Worker, job: Job) -> bool:
        row = self.row(job)
        return row is not None and row[:2] == ("picked", worker.id)

    def row(self, job: Job) -> Any:
        return self.db.execute(
            "select status::text, queue_manager_id, attempts, execute_after, headers"
            " from pgqueuer.pgqueuer where id = %s",
            (job.id,),
        ).fetchone()

    def left(self) -> int:
        number: int = self.one(
            "select (select count(*) from pgqueuer.pgqueuer) + (select count(*) from app.waiting_jobs)"
        )
        return number

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        if hasattr(self, "db"):
            assert self.left() == self.accepted - self.ended

    @invariant()
    def a_key_is_given_once(self) -> None:
        if hasattr(self, "db"):
            assert self.one(
                "select count(dedupe_key) - count(distinct dedupe_key) from (select dedupe_key from app.waiting_jobs"
                " union all select dedupe_key from pgqueuer.pgqueuer where status <> 'failed') as k"
            ) == 0  # fmt: skip

    def teardown(self) -> None:
        """Let the workers work: everything ends."""
        if hasattr(self, "db"):
            for _ in range(self.left() + 1):
                self.an_hour_passes()
                self.recover()
                self.release(size=4)
                self.decide(retry=False)
                for worker in self.workers:
                    worker.jobs.clear()
                    self.fetch(self.workers.index(worker))
                    while worker.jobs:
                        self.end(self.workers.index(worker), "successful")
            assert (self.left(), self.ended) == (0, self.accepted)
            self.do(self.connection.close())
            self.db.close()
        self.runner.close()


def test_no_interleaving_leaves_a_job_stuck_or_lost(db_url: str) -> None:
    with psycopg.connect(db_url) as connection:
        add_job_type(connection, "test.echo")
    Jobs.url = db_url
    run_state_machine_as_test(
        Jobs,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
