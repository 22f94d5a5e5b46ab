"""Webhooks out among concurrent sessions: who records an event waits neither for a worker nor for another writer."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from tests.people import Connection, World

RECORD = "select app.record_event(%s, 'data', 'event_aggregates.drifted', 'event_aggregates', gen_random_uuid())"
CLAIM = "select delivery_id from app.claim_webhook_deliveries(%s, %s)"


@contextmanager
def impatient(url: str) -> Iterator[Connection]:
    """Open a session that fails where it would have to wait for a lock."""
    with psycopg.connect(url, options="-c lock_timeout=200ms") as connection:
        yield connection


def endpoint(url: str, world: World) -> str:
    """Make an endpoint with one delivery waiting."""
    with psycopg.connect(url) as db:
        row = db.execute(
            "select public.create_webhook_endpoint(%s, 'https://hooks.rosto.example/', array['data.*']) ->> 'id'",
            (world.a.org,),
        ).fetchone()
        assert row
        db.execute(RECORD, (world.a.org,))
    return str(row[0])


def test_writers_wait_for_neither_each_other_nor_a_worker_that_looks(
    own_db_url: str, world: World
) -> None:
    target = endpoint(own_db_url, world)
    with (
        impatient(own_db_url) as worker,
        impatient(own_db_url) as one,
        impatient(own_db_url) as another,
    ):
        assert len(worker.execute(CLAIM, (world.a.org, target)).fetchall()) == 1
        one.execute(RECORD, (world.a.org,))
        another.execute(RECORD, (world.a.org,))
        worker.commit()
        # Nor does the worker wait for a writer who has not come to an end.
        assert worker.execute(CLAIM, (world.a.org, target)).fetchall() == []
        worker.commit()
        another.commit()
        one.commit()
        assert len(worker.execute(CLAIM, (world.a.org, target)).fetchall()) == 2


def test_two_workers_that_look_at_once_take_turns_and_claim_nothing_twice(
    own_db_url: str, world: World
) -> None:
    target = endpoint(own_db_url, world)
    with impatient(own_db_url) as one, impatient(own_db_url) as another:
        assert len(one.execute(CLAIM, (world.a.org, target)).fetchall()) == 1
        try:
            another.execute(CLAIM, (world.a.org, target))
        except psycopg.errors.LockNotAvailable:
            another.rollback()
        else:
            raise AssertionError("the second did not wait for the first")
        one.commit()
        assert another.execute(CLAIM, (world.a.org, target)).fetchall() == []
