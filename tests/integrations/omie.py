"""An organisation connected with the fake of Omie, and how a test has it synchronised."""

import asyncio
import base64
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from nessos import credentials, http, settings
from nessos.jobs.entrypoint import Task
from nessos.omie import sync
from nessos.omie.client import OMIE, Omie
from nessos.omie.jobs import ENTRYPOINTS
from nessos.omie.sync import Entity, Mode
from nessos.settings import ROOT
from tests.integrations.fakes.omie import FakeOmie
from tests.integrations.outside import open_pool
from tests.people import WORLD

Answer = TypeVar("Answer")


@dataclass
class Connected:
    """Organisation a of the world, connected with an application of Omie.

    Attributes:
        url: The database.
        address: Where the fake serves.
        fake: Omie.
        org_id: The organisation.
        waits: How long calls have waited for Omie, in seconds; the fake's clock went on meanwhile.
    """

    url: str
    address: str
    fake: FakeOmie
    waits: list[float]
    org_id: UUID = WORLD.a.org

    def run(self, work: Callable[[Omie, Any], Awaitable[Answer]]) -> Answer:
        """Let an application and a pool of connections do something."""

        async def go() -> Answer:
            async with self._open() as (omie, pool):
                return await work(omie, pool)

        return asyncio.run(go())

    def sync(
        self,
        entity: Entity,
        mode: Mode = "incremental",
        *,
        month: date | None = None,
        is_dry_run: bool = False,
        run_id: UUID | None = None,
    ) -> dict[str, Any]:
        """Synchronise, a minute later than anything before; gives the row of the log."""
        self.fake.clock.advance(61)
        return self.run(
            lambda omie, pool: sync.synchronise(
                pool,
                omie,
                run_id=run_id or uuid4(),
                entity=entity,
                mode=mode,
                month=month,
                is_dry_run=is_dry_run,
            )
        )

    def connect(self, org_id: UUID | None = None) -> None:
        """Store the application's credentials for the organisation, or for another."""
        values = {"app_key": self.fake.app_key, "app_secret": self.fake.app_secret}

        async def store() -> None:
            async with open_pool(self.url) as pool:
                await credentials.store(
                    pool, org_id=org_id or self.org_id, provider="omie", values=values
                )

        asyncio.run(store())

    def job(self, name: str, *, number: int = 1, run_id: UUID | None = None) -> str | None:
        """Run a job as the worker does, a minute later than anything before."""
        self.fake.clock.advance(61)
        handle = next(one.handle for one in ENTRYPOINTS if one.name == name)

        async def go() -> str | None:
            async with open_pool(self.url) as pool, http.client(pool) as client:
                return await handle(
                    Task(
                        job_id=number,
                        entrypoint=name,
                        payload={"run_id": str(run_id)} if run_id else {},
                        org_id=self.org_id,
                        request_id=None,
                        attempt=1,
                        pool=pool,
                        http=client,
                    )
                )

        return asyncio.run(go())

    def command(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start `nessos sync omie` as a process of its own."""
        self.fake.clock.advance(61)
        return subprocess.Popen(
            [sys.executable, "-m", "nessos", "sync", "omie", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": self.url, "PYTHONPATH": str(ROOT / "py")},
        )

    def rest(self) -> None:
        """Let the organisation's cooldown pass."""
        self.execute("update public.erp_sync_log set next_at = null")

    def rows(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        """Ask the database as its owner."""
        with psycopg.connect(self.url, row_factory=dict_row, autocommit=True) as db:
            return db.execute(query.encode(), arguments).fetchall()

    def execute(self, statement: str, *arguments: object) -> None:
        """Change the database as its owner."""
        with psycopg.connect(self.url, autocommit=True) as db:
            db.execute(statement.encode(), arguments)

    @contextlib.asynccontextmanager
    async def _open(self) -> AsyncIterator[tuple[Omie, Any]]:
        async def sleep(seconds: float) -> None:
            self.waits.append(seconds)
            self.fake.clock.advance(seconds)

        async with open_pool(self.url, size=4) as pool, http.client(pool) as client:
            yield (
                Omie(
                    http=client,
                    url=self.address,
                    app_key=self.fake.app_key,
                    app_secret=self.fake.app_secret,
                    org_id=self.org_id,
                    provider=replace(OMIE, rates=()),
                    sleep=sleep,
                ),
                pool,
            )


@contextlib.contextmanager
def connected(url: str, environment: pytest.MonkeyPatch) -> Iterator[Connected]:
    """Serve a fake for the length of a block; the environment names it and has a key ring."""
    fake = FakeOmie()
    with fake.serving() as address:
        environment.setenv("NESSOS_OMIE_URL", address)
        environment.setenv("NESSOS_ENCRYPTION_KEYS", base64.b64encode(bytes(32)).decode())
        settings.load.cache_clear()
        yield Connected(url=url, address=address, fake=fake, waits=[])
    environment.undo()
    settings.load.cache_clear()
