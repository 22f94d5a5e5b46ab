"""The client of services outside on a pool as the worker has it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from nessos.http import Http, client

if TYPE_CHECKING:
    from nessos.jobs.entrypoint import Pool


@asynccontextmanager
async def open_pool(url: str, *, now: str | None = None, size: int = 10) -> AsyncIterator[Pool]:
    """Open a pool as the worker does; `now` sets the clock of app.now() on all its connections."""
    kwargs: dict[str, Any] = {"autocommit": True, "row_factory": dict_row}
    if now:
        kwargs["options"] = f"-c app.now={now}"
    pool: Pool = AsyncConnectionPool(url, min_size=0, max_size=size, kwargs=kwargs, open=False)
    async with pool:
        yield pool


@asynccontextmanager
async def open_http(url: str, *, now: str | None = None) -> AsyncIterator[Http]:
    """Open the client on a pool of its own."""
    async with open_pool(url, now=now) as pool, client(pool) as http:
        yield http
