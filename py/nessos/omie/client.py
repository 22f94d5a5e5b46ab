"""The API of Omie: one envelope, two ways of paging, faults at any HTTP status.

The application's key and secret travel in the body: no body is logged, and no error quotes one.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from nessos.errors import GiveUpError, RetryError, UpstreamError, WaitError
from nessos.http import Provider, Rate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from uuid import UUID

    import httpx

    from nessos.http import Http


Json = Mapping[str, Any]

PAGE_SIZE: Final = 100
"""Several methods give no more than 100 rows a page, and do not say so."""

_REDUNDANT_S: Final = 60
"""The same request within this time is an error, also when its first answer was lost."""

_CONCURRENT_S: Final = 7
_MISUSE_S: Final = 1800
_LONGEST_NAP_S: Final = 90
"""A longer wait is for the job, which gives its place to another, not for the call."""

_TRIES: Final = 4
_ZONE: Final = ZoneInfo("America/Sao_Paulo")
_TOO_EARLY, _TOO_MANY = 425, 429


class EmptyError(GiveUpError):
    """There are no rows on the page: Omie calls that a fault (Client-5113, at HTTP 500)."""


class NotFoundError(GiveUpError):
    """There is no such row."""


class DuplicateError(GiveUpError):
    """The row is there already, under a code that the message names."""


def judge(response: httpx.Response) -> UpstreamError | None:
    """Read the fault out of an answer, before anybody looks at its status.

    Args:
        response: The answer.

    Returns:
        What is wrong with it; None leaves the verdict to the status.
    """
    body = _parse(response.content)
    if response.status_code == _TOO_EARLY:
        return _misuse(response.text)
    if body is None:
        return None if response.is_redirect else RetryError("Omie's answer is no JSON")
    code = str(body.get("faultcode") or "")
    text = str(body.get("faultstring") or "")
    if code or text:
        return _fault(code, text)
    if response.status_code == _TOO_MANY:
        return WaitError("Omie: too many requests", _later(_REDUNDANT_S))
    status = str(body.get("codigo_status", body.get("cCodStatus", "0"))).strip()
    if status not in {"", "0"}:
        said = body.get("descricao_status", body.get("cDescStatus", ""))
        return GiveUpError(f"Omie refuses (status {status[:20]}): {_quotable(str(said))}")
    return None


OMIE: Final = Provider(
    name="omie",
    # Per key and method. Per address Omie takes 960 a minute: what four methods may at most.
    rates=(Rate(requests=240, per_s=60),),
    timeout_s=30,
    # The same body again at once would be an error of its own: Omie waits below.
    attempts=1,
    max_wait_s=60,
    judge=judge,
)


@dataclass(frozen=True)
class Paging:
    """How a family of methods names its pages.

    Attributes:
        page: Number of the page, from 1; asked.
        size: Rows of a page; asked.
        pages: How many pages there are; answered.
        total: How many rows there are; answered.
    """

    page: str
    size: str
    pages: str
    total: str


_FAMILY_A: Final = Paging(
    "pagina", "registros_por_pagina", "total_de_paginas", "total_de_registros"
)
_FAMILY_B: Final = Paging("nPagina", "nRegPorPagina", "nTotPaginas", "nTotRegistros")


@dataclass(frozen=True)
class Listing:
    """A method that lists.

    Attributes:
        path: Where it is; without the slash at its end Omie redirects, and a POST is lost.
        method: Its name.
        rows: Under which name the rows are answered.
        paging: How it is paged.
    """

    path: str
    method: str
    rows: str
    paging: Paging


CLIENTS: Final = Listing("geral/clientes/", "ListarClientes", "clientes_cadastro", _FAMILY_A)
TITLES: Final = Listing(
    "financas/contareceber/", "ListarContasReceber", "conta_receber_cadastro", _FAMILY_A
)
MOVEMENTS: Final = Listing("financas/mf/", "ListarMovimentos", "movimentos", _FAMILY_B)
SERVICES: Final = Listing("servicos/servico/", "ListarCadastroServico", "cadastros", _FAMILY_B)
"""Not on Omie's list of endpoints that we hold, but used so by its other clients."""


@dataclass(frozen=True)
class Page:
    """One page of a list.

    Attributes:
        number: From 1.
        pages: How many there are, by this answer.
        total: How many rows there are, by this answer.
        rows: The rows; fractions as Decimal.
    """

    number: int
    pages: int
    total: int
    rows: list[Any]


@dataclass(frozen=True)
class Omie:
    """One application of Omie.

    Attributes:
        http: The client for services outside.
        url: Where the API is.
        app_key: The application.
        app_secret: Its secret.
        org_id: The organisation it belongs to.
        provider: Omie's numbers.
        sleep: Lets time pass between two tries.
        say: Is told why a call waits.
    """

    http: Http
    url: str
    app_key: str
    app_secret: str
    org_id: UUID
    provider: Provider = OMIE
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    say: Callable[[str], object] = str

    async def call(self, *, path: str, method: str, param: Json) -> dict[str, Any]:
        """Call a method that reads, and wait as Omie asks for, within reason.

        Args:
            path: Where the method is, with the slash at its end.
            method: Its name.
            param: Its parameters; one that Omie does not know is an error there.

        Returns:
            The answer; fractions as Decimal.

        Raises:
            EmptyError: The page has no rows.
            NotFoundError: There is no such row.
            RetryError: Omie does not answer, or not as it should.
            WaitError: Omie asks to wait for long.
            GiveUpError: The call is wrong, or the key is.
        """
        for left in reversed(range(_TRIES)):
            try:
                response = await self.http.request(
                    self.provider,
                    "POST",
                    f"{self.url}/{path}",
                    # Rates, locks and blocks of Omie are per key and method.
                    account=f"{self.app_key}/{self.app_secret}/{method}",
                    org_id=self.org_id,
                    operation=method,
                    is_retryable=True,
                    serialize=method,
                    json={
                        "call": method,
                        "app_key": self.app_key,
                        "app_secret": self.app_secret,
                        "param": [param],
                    },
                )
            except WaitError as error:
                wait_s = (error.until - datetime.now(UTC)).total_seconds()
                if not left or wait_s > _LONGEST_NAP_S:
                    raise
                said = error.message
            except RetryError as error:
                if not left:
                    raise
                # Omie may have seen the request: the same again within a minute is redundant.
                wait_s, said = _REDUNDANT_S + 1, error.message
            else:
                return _parse(response.content) or {}
            self.say(f"{said}: {method} goes on in {max(wait_s, 0):.0f} s")
            await self.sleep(max(wait_s, 0))
        raise AssertionError("the last try returns or raises")

    async def pages(
        self, listing: Listing, filters: Json, *, size: int = PAGE_SIZE
    ) -> AsyncIterator[Page]:
        """Read a list to its end, page by page: as many as the answers say there are.

        Args:
            listing: Which.
            filters: Parameters beside those of the page.
            size: Rows of a page, 100 at most.

        Yields:
            The pages that have rows.

        Raises:
            UpstreamError: As `call`.
        """
        paging, number = listing.paging, 1
        while True:
            param = {**filters, paging.page: number, paging.size: size}
            try:
                body = await self.call(path=listing.path, method=listing.method, param=param)
            except EmptyError:
                return
            rows = body.get(listing.rows) or []
            if not isinstance(rows, list) or not rows:
                return
            page = Page(number, _count(body, paging.pages), _count(body, paging.total), rows)
            yield page
            if number >= page.pages:
                return
            number += 1


def _fault(code: str, text: str) -> UpstreamError:
    found = re.search(r"Client-(\d+)", code)
    number = int(found[1]) if found else None
    said = f"Omie {code.removeprefix('SOAP-ENV:') or 'fault'}: {_quotable(text)}"
    if wait := _wait(number, code, text, said):
        return wait
    if kind := _KINDS.get(number or 0):
        return kind(said)
    if "já cadastrad" in text.lower():
        return DuplicateError(said)
    if "chave de acesso" in text.lower():
        return GiveUpError(said, "nessos integrations set omie")
    return GiveUpError(said) if number else RetryError(said)


_KINDS: Final[Mapping[int, type[GiveUpError]]] = {
    5113: EmptyError,
    101: NotFoundError,
    103: NotFoundError,
    105: NotFoundError,
    5002: NotFoundError,
    102: DuplicateError,
}


def _wait(number: int | None, code: str, text: str, said: str) -> WaitError | None:
    lower = text.lower()
    if "MISUSE" in code or "api bloqueada" in lower:
        return _misuse(text)
    if "too many requests" in lower:
        return WaitError(said, _later(_REDUNDANT_S))
    until = None
    if number == 6 or "redundan" in lower:  # noqa: PLR2004 - Omie's number
        until = _later(_seconds(text, _REDUNDANT_S))
    elif number == 1880 or "sendo executada" in lower:  # noqa: PLR2004 - Omie's number
        until = _later(_CONCURRENT_S)
    elif number in {8020, 1100}:
        until = _named_time(text)
    return WaitError(said, until, is_account_wide=False) if until else None


def _misuse(text: str) -> WaitError:
    # Each call during the block makes it longer: the circuit stays open until then.
    return WaitError("Omie has blocked the method for misuse", _later(_seconds(text, _MISUSE_S)))


def _seconds(text: str, default: int) -> int:
    found = re.search(r"(\d{1,5})\s*segundo", text)
    return int(found[1]) + 1 if found else default


def _named_time(text: str) -> datetime:
    """Read the time of day Omie names; its clock is São Paulo's."""
    found = re.search(r"(\d{2}):(\d{2}):(\d{2})", text)
    if not found:
        return _later(_CONCURRENT_S)
    now = datetime.now(_ZONE)
    hour, minute, second = (int(part) for part in found.groups())
    try:
        moment = now.replace(hour=hour, minute=minute, second=second, microsecond=0)
    except ValueError:
        return _later(_CONCURRENT_S)
    if now - moment > timedelta(hours=12):
        moment += timedelta(days=1)
    return max(moment.astimezone(UTC), _later(1))


def _later(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def _quotable(text: str) -> str:
    """Shorten what Omie says, without the documents it likes to quote."""
    return re.sub(r"\d[\d./-]{9,}\d", "…", text.removeprefix("ERROR: "))[:200]


def _parse(content: bytes) -> dict[str, Any] | None:
    try:
        body = json.loads(content, parse_float=Decimal)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _count(body: Json, name: str) -> int:
    try:
        return int(body.get(name) or 0)
    except (TypeError, ValueError):
        return 0
