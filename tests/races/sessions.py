"""Sessions that meet: each runs a statement until it has ended or waits for a lock, and only then the next one moves.

Nothing here waits for a time: whether a statement has ended is known to its thread, whether it waits to Postgres.
"""

import itertools
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from ipaddress import ip_address
from typing import Any, Final
from uuid import UUID

import psycopg

from tests.people import Connection, Org, add_person, as_agent, as_person, as_worker, named_id
from tests.world import create_organization

Act = Callable[[Connection], Any]

# A circle of waits is broken soon; a statement that nobody ends fails instead of hanging.
OPTIONS: Final = "-c deadlock_timeout=50ms -c statement_timeout=60s -c client_min_messages=error"
_numbers = itertools.count(1)


class StuckError(Exception):
    """A statement waits for a session that has nothing more to do before it."""


class Session:
    """A session of its own, in a transaction that stays open until `commit` or `roll_back`."""

    def __init__(self, name: str, connection: Connection, stage: "Stage") -> None:
        self.name = name
        self.pid = connection.info.backend_pid
        self._connection = connection
        self._stage = stage
        self._thread = ThreadPoolExecutor(1, name)
        self._statement: Future[Any] | None = None

    def close(self) -> None:
        """End the session."""
        self._thread.shutdown(cancel_futures=True)
        self._connection.close()

    @property
    def is_busy(self) -> bool:
        """Whether a statement is under way, be it that it waits."""
        return self._statement is not None and not self._statement.done()

    def start(self, act: Act) -> None:
        """Begin a statement; it has ended or waits for a lock when this returns."""
        if self.is_busy:
            raise StuckError(f"{self.name} is at another statement")
        self._statement = self._thread.submit(self._do, act)
        self._stage.settle()

    def waits_for(self) -> frozenset[str]:
        """Give the names of the sessions whose locks its statement waits for; none when it has ended."""
        if not self.is_busy:
            return frozenset()
        pids = self._stage.one("select pg_blocking_pids(%s)", self.pid)
        return self._stage.names(pids)

    def finish(self) -> Any:
        """Give what the statement has answered, or the key or SQLSTATE of its refusal, once it has ended."""
        if self._statement is None:
            raise StuckError(f"{self.name} has not begun")
        while self.is_busy:
            holders = self.waits_for()
            if holders and not any(self._stage.sessions[name].is_busy for name in holders):
                raise StuckError(f"{self.name} waits for {', '.join(sorted(holders))}")
        return self._statement.result()

    def run(self, act: Act) -> Any:
        """Run a statement to its end."""
        self.start(act)
        return self.finish()

    def commit(self) -> Any:
        """Commit; gives the refusal of a deferred check, else None."""
        return self.run(Connection.commit)

    def roll_back(self) -> None:
        """Undo all it did."""
        self.run(Connection.rollback)

    def _do(self, act: Act) -> Any:
        try:
            return act(self._connection)
        except psycopg.Error as error:
            self._connection.rollback()
            return refusal(error)


class Stage:
    """An organisation of its own, the database's owner who sees what is committed, and the sessions that meet."""

    def __init__(self, db: Connection, url: str, exits: ExitStack, *, in_turn: bool) -> None:
        self.db = db
        self.in_turn = in_turn
        self.a = Org(f"race-{next(_numbers)}")
        create_organization(db, self.a)
        self.sessions: dict[str, Session] = {}
        self._url = url
        self._exits = exits

    def session(self, name: str) -> Session:
        """Open a session."""
        session = Session(name, psycopg.connect(self._url, options=OPTIONS), self)
        self._exits.callback(session.close)
        self.sessions[name] = session
        return session

    def one(self, query: str, *values: object) -> Any:
        """Give the first column of the first row, as everybody sees it by now."""
        row = self.db.execute(query, values or None).fetchone()
        assert row is not None, f"no row: {query}"
        return row[0]

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Give the rows, as everybody sees them by now."""
        return self.db.execute(query, values or None).fetchall()

    def names(self, pids: Collection[int]) -> frozenset[str]:
        """Name the sessions of these processes; one that is not of the stage by its number."""
        known = {session.pid: session.name for session in self.sessions.values()}
        return frozenset(known.get(pid, str(pid)) for pid in pids)

    def settle(self) -> None:
        """Return when every statement under way has ended or waits for a lock."""
        for session in self.sessions.values():
            while session.is_busy and not session.waits_for():
                pass

    def meet(self, *acts: Act, first_gives_up: bool = False) -> list[Any]:
        """Have a session do each act, all in open transactions at once, and end them in this order.

        Where an act or the commit behind it must wait, whoever it waits for is ended first.

        Args:
            acts: What each of them does in its transaction.
            first_gives_up: The first one rolls back instead of committing.

        Returns:
            What each was answered, or the key or SQLSTATE of its refusal, be it by a deferred check.
        """
        sessions = [self.session(f"session {number}") for number in range(1, len(acts) + 1)]
        answers: dict[str, Any] = {}
        if self.in_turn:
            for session, act in zip(sessions, acts, strict=True):
                answers[session.name] = session.run(act)
                if first_gives_up and session is sessions[0]:
                    session.roll_back()
                elif (refused := session.commit()) is not None:
                    answers[session.name] = refused
            return list(answers.values())
        for session, act in zip(sessions, acts, strict=True):
            session.start(act)
        ending: list[Session] = []
        while len(ending) < len(sessions):
            ready = [one for one in sessions if one not in ending and not one.is_busy]
            if ready:
                session = ready[0]
                answers[session.name] = session.finish()
                gives_up = first_gives_up and session is sessions[0]
                session.start(Connection.rollback if gives_up else Connection.commit)
                ending.append(session)
            else:
                # Each waits for another: Postgres breaks the circle.
                self.settle()
        for session in sessions:
            refused = session.finish()
            answers[session.name] = answers[session.name] if refused is None else refused
        return [answers[session.name] for session in sessions]

    def person(self, name: str) -> UUID:
        """Sign somebody up who belongs to no organisation."""
        return add_person(self.db, named_id(self.a.org, "person", name), name)

    @staticmethod
    def address() -> str:
        """Give the address of a visitor who has not been here before."""
        return str(ip_address("198.18.0.0") + next(_numbers))

    # Who does what

    def owner(self, query: str, *values: object) -> Act:
        """Run a query as the owner of the database, as jobs do."""
        return lambda db: _answer(db, query, values)

    def worker(self, query: str, *values: object) -> Act:
        """Run a query as the worker."""
        return self._as(as_worker, query, values)

    def member(self, role: str, query: str, *values: object) -> Act:
        """Run a query as the organisation's member with this role."""
        return self.as_person(self.a.member(role), query, *values)

    def as_person(self, who: UUID, query: str, *values: object) -> Act:
        """Run a query as a signed-in person."""
        return self._as(lambda db: as_person(db, who), query, values)

    def as_agent(self, query: str, *values: object) -> Act:
        """Run a query as the organisation's agent."""
        return self._as(lambda db: as_agent(db, self.a), query, values)

    @staticmethod
    def _as(
        become: Callable[[Connection], AbstractContextManager[object]],
        query: str,
        values: tuple[object, ...],
    ) -> Act:
        def act(db: Connection) -> Any:
            with become(db):
                return _answer(db, query, values)

        return act


@contextmanager
def open_stage(url: str, *, in_turn: bool = False) -> Iterator[Stage]:
    """Open a stage in a database; its sessions end with the block.

    Args:
        url: The database.
        in_turn: What is said to meet comes one after the other, for comparison.
    """
    with ExitStack() as exits:
        db = exits.enter_context(psycopg.connect(url, autocommit=True))
        yield Stage(db, url, exits, in_turn=in_turn)


def refusal(error: psycopg.Error) -> str:
    """Name an error: by its key where the database raised it on purpose, else by its SQLSTATE."""
    state = error.sqlstate or "none"
    key = error.diag.message_primary
    return key if key and state.startswith("PT") else state


def _answer(db: Connection, query: str, values: tuple[object, ...]) -> Any:
    cursor = db.execute(query, values or None)
    row = cursor.fetchone() if cursor.description else None
    return row[0] if row else None
