"""A race: an interleaving with a name, what holds after it in every order, and the guard without which that breaks."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from tests.people import Connection
from tests.races.sessions import Stage

Unguard = Callable[[Connection], AbstractContextManager[None]]
Play = Callable[[Stage, str], None]

BOTH_COMMIT, FIRST_GIVES_UP = "both commit", "the first gives up"


@dataclass(frozen=True)
class Race:
    """An interleaving of real sessions.

    Attributes:
        name: What happens at once.
        holds: What is true afterwards.
        sessions: How many take part.
        orders: The orders it is tried in.
        without: The broken variant: takes the guard away for the length of a block.
        guard: What it takes away, in words.
        broken_in: The order in which the broken variant must fail.
        is_of_meeting: Whether the broken variant holds where nobody meets: without its guard the acts are still right
            one after the other. Not so where the guard is a key that a second act must find, too, or where the race is
            about what happens in the middle of a transaction.
        play: Sets the scene, has the sessions meet and asserts what holds.
    """

    name: str
    holds: str
    sessions: int
    orders: tuple[str, ...]
    without: Unguard
    guard: str
    broken_in: str
    is_of_meeting: bool
    play: Play


CATALOGUE: Final[dict[str, Race]] = {}


def race(  # noqa: PLR0913 - what there is to say of a race
    name: str,
    *,
    holds: str,
    guard: str,
    without: Unguard,
    orders: tuple[str, ...] = (BOTH_COMMIT,),
    broken_in: str | None = None,
    sessions: int = 2,
    is_of_meeting: bool = True,
) -> Callable[[Play], Play]:
    """Put an interleaving into the catalogue."""

    def put(play: Play) -> Play:
        assert name not in CATALOGUE, f"twice in the catalogue: {name}"
        CATALOGUE[name] = Race(
            name,
            holds,
            sessions,
            orders,
            without,
            guard,
            broken_in or orders[0],
            is_of_meeting,
            play,
        )
        return play

    return put


# Taking guards away, for the length of a block


def rewritten(function: str, *changes: tuple[str, str]) -> Unguard:
    """Make a function anew with other words in its body; each must stand there."""

    @contextmanager
    def unguard(db: Connection) -> Iterator[None]:
        row = db.execute("select pg_get_functiondef(%s::regprocedure)", (function,)).fetchone()
        assert row is not None
        body: str = row[0]
        for words, others in changes:
            if words not in body:
                raise LookupError(f"{function} does not say: {words}")
            body = body.replace(words, others)
        db.execute(body.encode())
        try:
            yield
        finally:
            db.execute(row[0].encode())

    return unguard


def executed(statements: str, *, undo: str) -> Unguard:
    """Change the schema."""

    @contextmanager
    def unguard(db: Connection) -> Iterator[None]:
        db.execute(statements.encode())
        try:
            yield
        finally:
            db.execute(undo.encode())

    return unguard


def all_of(*unguards: Unguard) -> Unguard:
    """Take several guards away that hold the same."""

    @contextmanager
    def unguard(db: Connection) -> Iterator[None]:
        with ExitStack() as exits:
            for one in unguards:
                exits.enter_context(one(db))
            yield

    return unguard
