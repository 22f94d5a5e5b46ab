"""The two services of the Banco Central: SGS for series, PTAX for exchange rates.

Both are public and know no key. Both also answer a page of HTML at status 200 when something in
front of them has its say, so that an answer counts only when its body is what was asked for.
Numbers stay decimal from the wire to the database.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from nessos.errors import GiveUpError, RetryError, UpstreamError
from nessos.http import Provider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

    from nessos.http import Http

_DAY: Final = timedelta(days=1)
_NOT_FOUND, _NOT_ACCEPTABLE, _TOO_MANY = 404, 406, 429
_YEARS: Final = {"sgs": 10, "ptax": 1}
"""The longest window of a call: SGS refuses more than ten years of days; PTAX names no limit, but a
year of its five bulletins a day is a body of some 300 kB."""


class _EmptyError(GiveUpError):
    """There is no value in the window: a weekend, a month that is not published yet."""


class _WindowError(GiveUpError):
    """The window is longer than the service takes."""


def windows(*, source: str, first: date, last: date) -> Iterator[tuple[date, date]]:
    """Cut a period into windows that one call may ask for, the oldest first.

    Args:
        source: `sgs` or `ptax`.
        first: First day.
        last: Last day.

    Yields:
        First and last day of each: consecutive, none overlaps another, each ends before its
        anniversary.
    """
    while first <= last:
        year = first.year + _YEARS[source]
        # The anniversary of 29 February is 28 February.
        day = min(first.day, 28) if first.month == 2 else first.day  # noqa: PLR2004 - February
        end = min(date(year, first.month, day) - _DAY, last)
        yield first, end
        first = end + _DAY


@dataclass(frozen=True)
class Bank:
    """The Banco Central.

    Attributes:
        http: The client of services outside.
        sgs_url: Where SGS is.
        ptax_url: Where PTAX is, up to the name of the function.
    """

    http: Http
    sgs_url: str
    ptax_url: str

    async def read(
        self, *, source: str, series: str, first: date, last: date
    ) -> list[dict[str, str]]:
        """Read the values of a series in a window.

        Args:
            source: `sgs` or `ptax`.
            series: The code in SGS, or the currency.
            first: First day of the window.
            last: Last day; what is known of later days is left out.

        Returns:
            As `public.upsert_bcb_rates` takes them: series, date, and value or buy and sell.

        Raises:
            RetryError: It may work later.
            WaitError: It will not work before a moment.
            GiveUpError: The question is refused, or the answer cannot be read.
        """
        ask = self._read_sgs if source == "sgs" else self._read_ptax
        try:
            rates = await ask(series, first, last)
        except _EmptyError:
            return []
        except _WindowError:
            if first == last:
                raise
            middle = first + (last - first) // 2
            return [
                *await self.read(source=source, series=series, first=first, last=middle),
                *await self.read(source=source, series=series, first=middle + _DAY, last=last),
            ]
        return [rate for rate in rates if first.isoformat() <= rate["date"] <= last.isoformat()]

    async def _read_sgs(self, series: str, first: date, last: date) -> list[dict[str, str]]:
        # With an end of today at the latest: the target of the Selic (432) is known until the next
        # meeting of the Copom.
        answer = await self.http.request(
            _SGS,
            "GET",
            f"{self.sgs_url}/dados/serie/bcdata.sgs.{series}/dados",
            account="sgs",
            operation=f"bcdata.sgs.{series}",
            params={
                "formato": "json",
                "dataInicial": f"{first:%d/%m/%Y}",
                "dataFinal": f"{last:%d/%m/%Y}",
            },
        )
        return _parse(series, _sgs_rate, _sgs_rows(_body(answer)))

    async def _read_ptax(self, series: str, first: date, last: date) -> list[dict[str, str]]:
        # Of the dollar there is the closing only, of other currencies five bulletins a day.
        function, names, values = (
            ("CotacaoDolarPeriodo", "", "")
            if series == "USD"
            else ("CotacaoMoedaPeriodo", "moeda=@moeda,", f"@moeda='{series}'&")
        )
        # The address is written out: @, $ and quotes must arrive as they are, not encoded twice.
        answer = await self.http.request(
            _PTAX,
            "GET",
            f"{self.ptax_url}/{function}"
            f"({names}dataInicial=@dataInicial,dataFinalCotacao=@dataFinalCotacao)"
            f"?{values}@dataInicial='{first:%m-%d-%Y}'&@dataFinalCotacao='{last:%m-%d-%Y}'"
            "&$format=json",
            account="ptax",
            operation=function,
        )
        return _parse(series, _ptax_rate, _ptax_rows(_body(answer)))


def _body(response: httpx.Response) -> Any:  # noqa: ANN401 - JSON
    """Give the answer's JSON, its fractions as Decimal; None when it is none."""
    if "json" not in response.headers.get("content-type", ""):
        return None
    try:
        return json.loads(response.content, parse_float=Decimal, parse_int=Decimal)
    except ValueError:
        return None


def _sgs_rows(body: Any) -> list[Any] | None:  # noqa: ANN401 - JSON
    return body if isinstance(body, list) else None


def _ptax_rows(body: Any) -> list[Any] | None:  # noqa: ANN401 - JSON
    return _sgs_rows(body.get("value")) if isinstance(body, dict) else None


def _sgs_rate(row: dict[str, Any]) -> dict[str, str] | None:
    """Read {"data": "01/07/2026", "valor": "0.055131"}; None where there is no value."""
    if not (row["valor"] or "").strip():
        return None
    day, month, year = row["data"].split("/")
    return {
        "date": date(int(year), int(month), int(day)).isoformat(),
        "value": f"{Decimal(row['valor']):f}",
    }


def _ptax_rate(row: dict[str, Any]) -> dict[str, str] | None:
    """Read a bulletin; None where it is not the closing one, Fechamento or Fechamento PTAX."""
    if not row.get("tipoBoletim", "Fechamento").startswith("Fechamento"):
        return None
    return {
        # Brasília's clock, without a zone.
        "date": date.fromisoformat(row["dataHoraCotacao"][:10]).isoformat(),
        "buy": f"{row['cotacaoCompra']:f}",
        "sell": f"{row['cotacaoVenda']:f}",
    }


def _parse(
    series: str,
    read: Callable[[dict[str, Any]], dict[str, str] | None],
    rows: list[Any] | None,
) -> list[dict[str, str]]:
    try:
        rates = [read(row) for row in rows or []]
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise GiveUpError(
            f"bcb: a row of {series} cannot be read ({type(error).__name__})"
        ) from error
    return [{"series": series, **rate} for rate in rates if rate]


def _judge(
    response: httpx.Response, *, rows: Callable[[Any], list[Any] | None]
) -> UpstreamError | None:
    status = response.status_code
    if status == _TOO_MANY or response.is_server_error:
        return None
    body = _body(response)
    if response.is_success and rows(body) is not None:
        return None
    if response.is_success or not isinstance(body, dict):
        return RetryError(f"bcb: HTTP {status} without data", "see whether its services are up")
    # {"erro": {"statusCode": …, "detail": "…"}} at 400 and 404, {"error": "…"} at 406.
    fault = body.get("erro") or body.get("error")
    detail = str(fault.get("detail") if isinstance(fault, dict) else fault)[:300]
    message = f"bcb: HTTP {status}: {detail}"
    if status == _NOT_FOUND and "not found" in detail:
        return _EmptyError(message)
    if status == _NOT_ACCEPTABLE:
        return _WindowError(message)
    return GiveUpError(message)


_SGS: Final = Provider("bcb", timeout_s=90, attempts=4, judge=partial(_judge, rows=_sgs_rows))
_PTAX: Final = Provider("bcb", timeout_s=90, attempts=4, judge=partial(_judge, rows=_ptax_rows))
