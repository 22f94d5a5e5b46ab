"""The rollup under concurrent writers, beside a reader that follows a sequence and must lose events."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import psycopg

from tests.people import World

WRITERS = 32
EVENTS = 200_000
RECORD = (
    "select count(app.record_event(%s, 'data', 'event_aggregates.drifted', 'event_aggregates', null, '{}',"
    " now() - interval '1 day' * (random() * 40)::integer)) from generate_series(1, %s)"
)


def write(url: str, orgs: list[UUID], number: int, share: int) -> int:
    """Record `share` events in transactions of random size and length; a fifth roll back. Give how many committed."""
    chance = random.Random(number)  # noqa: S311 - a reproducible schedule, not a secret
    committed = tried = 0
    with psycopg.connect(url) as connection:
        while tried < share:
            size = min(chance.randint(1, 400), share - tried)
            connection.execute(RECORD, (chance.choice(orgs), size))
            tried += size
            if chance.random() < 0.3:
                connection.execute("select pg_sleep(%s)", (chance.random() * 0.2,))
            if chance.random() < 0.2:
                connection.rollback()
            else:
                connection.commit()
                committed += size
    return committed


def follow_until(done: threading.Event, url: str) -> int:
    """Read the log as many do, by `number > last`; give how many events were seen."""
    last = seen = 0
    with psycopg.connect(url, autocommit=True) as connection:
        while True:
            finished = done.is_set()
            fresh, last = connection.execute(
                "select count(*), coalesce(max(number), %(last)s) from module_events where number > %(last)s",
                {"last": last},
            ).fetchone() or (0, last)
            seen += fresh
            if finished:
                return int(seen)


def roll_up_until(done: threading.Event, url: str) -> int:
    """Run the rollup over and over; give how many events it said it counted."""
    counted = 0
    with psycopg.connect(url, autocommit=True) as connection:
        while True:
            finished = done.is_set()
            counted += connection.execute("select app.rollup_events()").fetchone()[0]  # type: ignore[index]
            if finished:
                return int(counted)


def test_the_rollup_counts_every_committed_event_once_where_a_sequence_reader_loses_some(
    own_db_url: str, world: World
) -> None:
    orgs = [world.a.org, world.b.org]
    with psycopg.connect(own_db_url, autocommit=True) as connection:
        # What the log deliberately does not have: a number that grows with each insert, for the control reader.
        connection.execute("alter table public.module_events add column number bigserial")
        connection.execute("create index on public.module_events (number)")
        before = connection.execute(
            "select app.rollup_events(), count(*) from module_events"
        ).fetchone()
        assert before is not None
    done = threading.Event()
    with ThreadPoolExecutor(WRITERS + 3) as threads:
        follower = threads.submit(follow_until, done, own_db_url)
        rollups = [threads.submit(roll_up_until, done, own_db_url) for _ in range(2)]
        writers = [
            threads.submit(write, own_db_url, orgs, n, EVENTS // WRITERS) for n in range(WRITERS)
        ]
        try:
            committed = sum(writer.result() for writer in writers)
        finally:
            done.set()
        counted = sum(rollup.result() for rollup in rollups)
        followed = follower.result() - before[1]
    with psycopg.connect(own_db_url, autocommit=True) as connection:
        stored, aggregated = connection.execute(
            "select (select count(*) from module_events), (select sum(count) from event_aggregates)"
        ).fetchone() or (None, None)
        days = connection.execute("select distinct period from event_aggregates").fetchall()
        drift = sum(
            abs(row[0])
            for (day,) in days
            for row in connection.execute(
                "select drift from aggregate_module_events_for_period(%s)", (day,)
            )
        )
    assert committed > EVENTS // 2
    assert (counted, stored, aggregated) == (
        committed,
        committed + before[1],
        committed + before[1],
    )
    assert drift == 0
    assert len(days) > 30
    assert followed < committed, "the control must lose events, or the test proves nothing"
