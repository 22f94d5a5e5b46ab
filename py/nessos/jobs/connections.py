"""The worker's connections: they outlive a restart of the database."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import psycopg
import structlog
from pgqueuer.core.tm import TaskManager, cancel_and_wait
from psycopg import AsyncRawCursor, sql
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from nessos.db import APPLICATION, KEEPALIVE
from nessos.jobs.executor import current

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pgqueuer.ports.driver import NotifyCallback

    from nessos.jobs.entrypoint import Pool

    Connection = psycopg.AsyncConnection[dict[str, Any]]

Answer = TypeVar("Answer")

log: structlog.stdlib.BoundLogger = structlog.get_logger("nessos.worker")

_LONGEST_PAUSE_S: Final = 5.0
_LOST: Final = (psycopg.OperationalError, psycopg.InterfaceError)

_TELL: Final = """
select
    set_config('app.request_id', %s, false),
    set_config('app.causation_id', %s, false)
"""


def pool(url: str, *, size: int, name: str = "job") -> Pool:
    """Make the connections that handlers use; each knows whose job it works for.

    Args:
        url: The database.
        size: How many at most.
        name: What connects; seen in `pg_stat_activity`.

    Returns:
        A pool, not yet open: autocommit, rows as dictionaries.
    """
    return AsyncConnectionPool(
        url,
        min_size=0,
        max_size=size,
        max_idle=60,
        check=_tell,
        kwargs={
            "autocommit": True,
            "row_factory": dict_row,
            "application_name": f"{APPLICATION} {name}",
            **KEEPALIVE,
        },
        open=False,
    )


async def _tell(connection: Connection) -> None:
    """Tell the database for which request and event it works; a dead connection is found out."""
    task = current.get()
    event = task.payload.get("event_id") if task else None
    await connection.execute(_TELL, [(task and task.request_id) or "", str(event or "")])


class Line:
    """pgqueuer's driver: one connection for statements and one for listening.

    With a single one, pgqueuer would hold it for up to a second while it listens, and an idle
    worker would start a job that late. A statement whose connection breaks is sent again on a new
    one: those of the queue can be repeated.

    Args:
        url: The database.
        name: What connects; seen in `pg_stat_activity`.
    """

    def __init__(self, url: str, *, name: str) -> None:
        self._url = url
        self._name = f"{APPLICATION} {name}"
        self._connection: Connection | None = None
        self._opening = asyncio.Lock()
        self._callbacks: dict[str, list[NotifyCallback]] = {}
        self._ears: asyncio.Task[None] | None = None
        self._listens = asyncio.Event()
        self._entered = 0
        self.shutdown = asyncio.Event()
        self.tm = TaskManager()

    @property
    def is_open(self) -> bool:
        """Whether both connections stand."""
        return bool(self._connection and not self._connection.closed and self._listens.is_set())

    async def open(self) -> None:
        """Connect for the first time.

        Raises:
            psycopg.Error: The database does not answer.
        """
        self._connection = await self._connect(self._name)

    async def aclose(self) -> None:
        """Disconnect."""
        if self._connection:
            await self._connection.close()

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        """Run a statement that gives rows.

        Args:
            query: The statement, with $1, $2 …
            args: Its arguments.

        Returns:
            The rows.
        """

        async def rows(cursor: AsyncRawCursor[dict[str, Any]]) -> list[dict[str, object]]:
            return await cursor.fetchall()

        return await self._send(query, args, rows)

    async def execute(self, query: str, *args: object) -> str:
        """Run a statement.

        Args:
            query: The statement, with $1, $2 …
            args: Its arguments.

        Returns:
            What the server said of it.
        """

        async def status(cursor: AsyncRawCursor[dict[str, Any]]) -> str:
            return cursor.statusmessage or ""

        return await self._send(query, args, status)

    async def notify(self, channel: str, payload: str) -> None:
        """Send a notification.

        Args:
            channel: Where.
            payload: What.
        """
        await self.execute("select pg_notify($1, $2)", channel, payload)

    async def add_listener(self, channel: str, callback: NotifyCallback) -> None:
        """Listen to a channel from here on, whatever happens to the connection.

        Args:
            channel: Which.
            callback: Gets every payload.
        """
        self._callbacks.setdefault(channel, []).append(callback)
        if self._ears is None:
            self._ears = asyncio.create_task(self._listen())
        await self._listens.wait()

    async def __aenter__(self) -> Self:
        self._entered += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        # The queue enters its driver more than once.
        self._entered -= 1
        if self._entered == 0 and self._ears:
            self.shutdown.set()
            await cancel_and_wait(self._ears)
            self._ears = None
            self._callbacks.clear()
            self._listens.clear()

    async def _send(
        self,
        query: str,
        arguments: tuple[object, ...],
        answer: Callable[[AsyncRawCursor[dict[str, Any]]], Awaitable[Answer]],
    ) -> Answer:
        pause = 0.0
        while True:
            connection = await self._standing()
            try:
                async with AsyncRawCursor(connection, row_factory=dict_row) as cursor:
                    await cursor.execute(query, arguments or None)
                    return await answer(cursor)
            except _LOST as error:
                if not connection.closed:
                    raise
                log.warning("connection lost", error=str(error).strip())
            await asyncio.sleep(pause)
            pause = _longer(pause)

    async def _standing(self) -> Connection:
        """Give the connection, opened anew if need be, however long that takes."""
        pause = 0.0
        async with self._opening:
            while self._connection is None or self._connection.closed:
                await asyncio.sleep(pause)
                pause = _longer(pause)
                with contextlib.suppress(*_LOST):
                    self._connection = await self._connect(self._name)
                    log.info("connected")
            return self._connection

    async def _listen(self) -> None:
        pause = 0.0
        while True:
            try:
                async with await self._connect(f"{self._name} listen") as connection:
                    for channel in self._callbacks:
                        await connection.execute(
                            sql.SQL("listen {}").format(sql.Identifier(channel))
                        )
                    self._listens.set()
                    pause = 0.0
                    async for note in connection.notifies():
                        for callback in self._callbacks.get(note.channel, []):
                            callback(note.payload)
            except _LOST as error:
                log.warning("listening interrupted", error=str(error).strip())
            self._listens.clear()
            await asyncio.sleep(pause)
            pause = _longer(pause)

    async def _connect(self, name: str) -> Connection:
        return await psycopg.AsyncConnection.connect(
            self._url,
            autocommit=True,
            row_factory=dict_row,
            application_name=name,
            **KEEPALIVE,
        )


def _longer(pause: float) -> float:
    return min(max(0.1, 2 * pause), _LONGEST_PAUSE_S)
