"""Reading Omie into the database: its lists page by page, then what they say chunk by chunk.

Pages are kept in `app.erp_sync_rows`, so that memory stays flat; what becomes of them is the
business of the functions in `data_erp`. Nothing else is written before the lists are read.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

import psycopg
import structlog
from psycopg import sql
from psycopg.types.json import Jsonb

from nessos.errors import GiveUpError, NessosError, RetryError, RuleError, WaitError, from_psycopg
from nessos.omie import client, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from uuid import UUID

    from nessos.jobs.entrypoint import Pool
    from nessos.omie.client import Listing, Omie

    Connection = psycopg.AsyncConnection[dict[str, Any]]
    Tell = Callable[[str, int, int], object]

log: structlog.stdlib.BoundLogger = structlog.get_logger("nessos.omie")

Entity = Literal["clients", "services", "receivables", "revenue"]
Mode = Literal["incremental", "full"]

ENTITIES: Final[tuple[Entity, ...]] = ("clients", "services", "receivables", "revenue")
"""In the order that has clients before what belongs to them."""

COUNTS: Final = (
    "seen", "created", "updated", "unchanged", "skipped", "deactivated", "failed",
)  # fmt: skip

_CHUNK: Final = 1000
_CONFIRMED_AT_ONCE: Final = 50
_REPORT_EVERY_S: Final = 2.0
_FAILURES: Final = 100
_MOVED: Final = "the lists changed while they were read: nothing was taken for vanished"


class StrangerError(GiveUpError):
    """The application is not the one that was read before: another company's, perhaps."""


@dataclass(frozen=True)
class Reading:
    """One list to be read.

    Attributes:
        name: Its list in `app.erp_sync_rows`.
        listing: The method.
        row: What is needed of a row.
        filters: Which rows.
    """

    name: str
    listing: Listing
    row: Callable[[object], rows.Row]
    filters: Mapping[str, str]


async def synchronise(  # noqa: PLR0913 - what a run is made of
    pool: Pool,
    omie: Omie,
    *,
    run_id: UUID,
    entity: Entity,
    mode: Mode = "incremental",
    month: date | None = None,
    is_dry_run: bool = False,
    tell: Tell = lambda _name, _done, _total: None,
) -> dict[str, Any]:
    """Read one entity.

    Args:
        pool: Connections to the database, autocommit.
        omie: The organisation's application.
        run_id: What this belongs to; the same again is not held off by itself.
        entity: What to read.
        mode: incremental reads what has changed since the run before, and becomes full where there
            was none; full also finds what has vanished, and reads twelve months of revenue.
            Services are always read whole.
        month: Any day of the month of revenue, or of the last one; the month before if None.
        is_dry_run: Do all of it in a transaction that is rolled back.
        tell: Is told of progress: the list, rows read, rows there are.

    Returns:
        The row of `erp_sync_log`.

    Raises:
        RuleError: erp_sync_refused, erp_sync_cooldown or erp_sync_running.
        StrangerError: A full run met nothing of what is known; nothing was merged.
        UpstreamError: Omie failed; the run is marked failed.
    """
    async with pool.connection() as connection:
        run: _Run | None = None
        try:
            async with (
                connection.transaction(force_rollback=True)
                if is_dry_run
                else contextlib.nullcontext()
            ):
                started = await _one(
                    connection,
                    "select * from app.start_erp_sync(%s, %s, %s, %s, %s)",
                    omie.org_id, run_id, entity,
                    "full" if entity == "services" else mode, month,
                )  # fmt: skip
                run = _Run(connection, omie, started, tell)
                return await run.run()
        except BaseException as error:
            raised = from_psycopg(error) if isinstance(error, psycopg.Error) else error
            if not (run.is_closed if run else isinstance(raised, RuleError)):
                # The run's lock goes with the connection; the next finds the run dead.
                await connection.close()
            raise raised from error


@dataclass
class _Run:
    """A run under way."""

    connection: Connection
    omie: Omie
    row: dict[str, Any]
    tell: Tell
    numbers: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, str]] = field(default_factory=list)
    reported_at: float = field(default_factory=time.monotonic)
    last_code: str = ""
    is_closed: bool = False

    async def run(self) -> dict[str, Any]:
        """Work, and close the run however that ends."""
        try:
            trouble = await self.work()
        except Exception as error:
            said = from_psycopg(error) if isinstance(error, psycopg.Error) else error
            text = str(said) if isinstance(said, NessosError) else type(said).__name__
            with contextlib.suppress(psycopg.Error):
                await self.finish(
                    "failed", text, said.until if isinstance(said, WaitError) else None
                )
            raise
        is_whole = trouble is None and not self.numbers["failed"]
        return await self.finish("succeeded" if is_whole else "partial", trouble)

    async def finish(
        self, status: str, error: str | None, not_before: object = None
    ) -> dict[str, Any]:
        """Close the run."""
        finished = await _one(
            self.connection,
            "select * from app.finish_erp_sync(%s, %s, %s, %s, %s, %s)",
            *self.key, status, self.counts, error, not_before,
        )  # fmt: skip
        self.is_closed = True
        log.info(
            "synchronised", entity=finished["entity"], org_id=str(finished["org_id"]),
            mode=finished["mode"], status=finished["status"],
            **{name: finished[name] for name in COUNTS},
        )  # fmt: skip
        return finished

    @property
    def key(self) -> tuple[UUID, UUID]:
        """Organisation and id of the run."""
        return self.row["org_id"], self.row["id"]

    @property
    def counts(self) -> Jsonb:
        """The counts as the database's functions take them."""
        return Jsonb({name: self.numbers[name] for name in COUNTS} | {"failures": self.failures})

    async def work(self) -> str | None:
        """Read the lists and merge them; gives what was left undone."""
        entity, is_full = self.row["entity"], self.row["mode"] == "full"
        is_whole = True
        for reading in await self.readings():
            is_whole = await self.read(reading) and is_whole
        self.numbers["seen"] = self.numbers["failed"]
        if entity == "revenue":
            if not is_whole:
                raise RetryError("Omie's lists changed while they were read")
            self.add(await self.ask("merge_erp_revenue", self.row["started_at"]))
            return None
        must_find_vanished = is_full and is_whole and entity != "services"
        if must_find_vanished and await self.ask("is_erp_stranger"):
            raise StrangerError(
                f"none of the {entity} known here is in this application of Omie",
                "nessos integrations set omie; if the company has moved: docs/operator.md",
            )
        if must_find_vanished and entity == "clients":
            await self.confirm_vanished()
        await self.merge()
        if must_find_vanished:
            self.numbers["deactivated"] += await self.remove_vanished()
        return None if is_whole else _MOVED

    async def readings(self) -> list[Reading]:
        """Say which lists tell of the entity."""
        since, month = self.row["since"], self.row["month"]
        match self.row["entity"]:
            case "clients":
                return [
                    Reading(
                        "clients", client.CLIENTS, rows.client, _from("filtrar_por_data", since)
                    )
                ]
            case "services":
                return [Reading("services", client.SERVICES, rows.service, {})]
            case "revenue":
                return _revenue(since, month)
            case _:
                today = await _one(
                    self.connection, "select app.org_today(%s) as day", self.row["org_id"]
                )
                return _receivables(since, today["day"])

    async def read(self, reading: Reading) -> bool:
        """Read a list to its end; says whether all its rows were met."""
        # Pages are cut anew for each request. When a row leaves a list that is being read, the next
        # page begins one row late: then fewer are met than there were, and the list is read once
        # more, in pages of another size, since the same request again would be refused.
        for size in (client.PAGE_SIZE, client.PAGE_SIZE - 1):
            codes: set[str] = set()
            nameless = most = 0
            async for page in self.omie.pages(reading.listing, reading.filters, size=size):
                read = [reading.row(raw) for raw in page.rows]
                known = len(codes)
                staged = await self.ask("stage_erp_rows", reading.name, json.dumps(read))
                codes.update(row["code"] for row in read)
                self.last_code = read[-1]["code"]
                nameless += len(staged["failures"])
                most = max(most, page.total)
                if size == client.PAGE_SIZE:
                    self.add({"failed": len(staged["failures"]), **staged})
                self.numbers["seen"] += staged["new"]
                self.tell(reading.name, len(codes), page.total)
                await self.report()
                if len(codes) == known:
                    break  # a page beyond the last may be the first one again
            if len(codes) + max(nameless - 1, 0) >= most:
                return True
        return False

    async def confirm_vanished(self) -> None:
        """Ask for the clients not met, by code: a row that is there was only skipped."""
        cursor = await self.connection.execute(
            "select app.vanished_erp_clients(%s, %s) as code", self.key
        )
        codes = [row["code"] for row in await cursor.fetchall()]
        for start in range(0, len(codes), _CONFIRMED_AT_ONCE):
            # One that is there beside them: an empty answer would count as an error at Omie.
            asked = [*codes[start : start + _CONFIRMED_AT_ONCE], self.last_code]
            wanted = {"clientesPorCodigo": [{"codigo_cliente_omie": code} for code in asked]}
            async for page in self.omie.pages(client.CLIENTS, wanted):
                found = [rows.client(raw) for raw in page.rows]
                await self.ask("stage_erp_rows", "clients", json.dumps(found))

    async def merge(self) -> None:
        """Take the staged rows into the tables."""
        after: int | None = 0
        while after is not None:
            answer = await self.ask(
                f"merge_erp_{self.row['entity']}", self.row["started_at"], after, _CHUNK
            )
            self.add(answer)
            after = answer["after"]
            await self.report()

    async def remove_vanished(self) -> int:
        """Take leave of the rows that Omie has no more; gives how many."""
        if self.row["entity"] == "receivables":
            removed = await self.ask("cancel_vanished_erp_receivables", self.row["started_at"])
        else:
            row = await _one(
                self.connection,
                "select app.deactivate_erp_clients(%s,"
                " array(select app.vanished_erp_clients(%s, %s)), %s) as answer",
                self.row["org_id"], *self.key, self.row["started_at"],
            )  # fmt: skip
            removed = row["answer"]
        return int(removed)

    async def ask(self, function: str, *arguments: object) -> Any:  # noqa: ANN401 - JSON
        """Call a function of the run."""
        call = sql.SQL("select {}({}) as answer").format(
            sql.Identifier("app", function),
            sql.SQL(", ").join(sql.Placeholder() * (2 + len(arguments))),
        )
        return (await _one(self.connection, call, *self.key, *arguments))["answer"]

    def add(self, answer: Mapping[str, Any]) -> None:
        """Add the counts of a step."""
        for name in COUNTS:
            self.numbers[name] += answer.get(name, 0)
        self.failures = (self.failures + answer["failures"])[:_FAILURES]

    async def report(self) -> None:
        """Write down how far the run is, now and then."""
        if time.monotonic() - self.reported_at >= _REPORT_EVERY_S:
            await self.ask("report_erp_sync", self.counts)
            self.reported_at = time.monotonic()


def _receivables(since: date | None, today: date) -> list[Reading]:
    # By code: a title that changes while the list is read does not move in it.
    titles = Reading(
        "titles",
        client.TITLES,
        rows.title,
        {**_from("filtrar_por_data", since), "ordenar_por": "CODIGO"},
    )
    # Without cTpLancamento the list also has write-offs and bank entries, and counts twice.
    of_titles = {"cTpLancamento": "CR"}
    if since is None:
        return [titles, Reading("movements", client.MOVEMENTS, rows.movement, of_titles)]
    recent = (today.replace(day=1) - timedelta(days=1)).replace(day=1)
    return [
        titles,
        *(
            Reading("movements", client.MOVEMENTS, rows.movement, {**of_titles, name: _day(day)})
            for name, day in (("dDtAltDe", since), ("dDtPagtoDe", recent))
        ),
    ]


def _revenue(first: date, month: date) -> list[Reading]:
    # All months at once: each empty list would count as an error at Omie, and ten block the method.
    last = (month.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)
    # The titles' filtrar_por_emissao_* may filter the day of change; these mean what they say.
    return [
        Reading(
            "issued",
            client.MOVEMENTS,
            rows.issued,
            {"cTpLancamento": "CR", "dDtEmisDe": _day(first), "dDtEmisAte": _day(last)},
        ),
        Reading(
            "receipts",
            client.MOVEMENTS,
            rows.receipt,
            {"cTpLancamento": "BXCR", "dDtPagtoDe": _day(first), "dDtPagtoAte": _day(last)},
        ),
        # The list of movements calls a title paid that was cancelled after payment.
        Reading(
            "cancelled",
            client.TITLES,
            rows.cancelled,
            {
                "filtrar_por_status": "CANCELADO",
                **_from("filtrar_por_data", first),
                "ordenar_por": "CODIGO",
            },
        ),
    ]


def _from(name: str, day: date | None) -> dict[str, str]:
    return {f"{name}_de": _day(day)} if day else {}


def _day(day: date) -> str:
    return f"{day:%d/%m/%Y}"


async def _one(
    connection: Connection, query: str | sql.Composed, *arguments: object
) -> dict[str, Any]:
    # A query here is a constant, or composed of names of functions.
    row = await (await connection.execute(query, arguments)).fetchone()
    if row is None:
        raise AssertionError("a function answers with a row")
    return row
