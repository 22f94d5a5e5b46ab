"""The two services of the Banco Central as they behave, traps included.

SGS (`/dados/serie/bcdata.sgs.{code}/dados`): values are texts; an empty window is 404 with JSON; a daily series takes at
most ten years (406, in another shape of error), `ultimos` at most 20 values (400); the target of the Selic is known into
the future. PTAX (`/ptax/<function>(…)`): dates are MM-DD-YYYY in quotes; five bulletins a day, the last of which closes
it; nothing on weekends, holidays and before today's closing; JSON only where it is asked for.

Pages of HTML, refusals and slow or cut answers are the server's `faults`.
"""

import re
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from typing import Any

from dateutil.easter import easter

from tests.integrations.fakes.server import Answer, Seen

Values = dict[date, str]

DAY = timedelta(days=1)
JSON, XML = "application/json;charset=UTF-8", "application/xml;charset=UTF-8"
DAILY = {"432", "11", "12", "1178", "4389", "1", "10813", "21619"}
CLOSING = time(13, 10)
BULLETINS = ((time(10, 8, 22), "Abertura"), (time(11, 10, 5), "Intermediário"), (time(12, 11), "Intermediário"),
             (time(13, 0, 1), "Intermediário"), (CLOSING, "Fechamento"))  # fmt: skip
FRACTIONS = (".54", ".5", ".543", "")
TEN_YEARS = "O sistema aceita uma janela de consulta de, no máximo, 10 anos em séries de periodicidade diária"


def is_bank_day(day: date) -> bool:
    """Say whether the market works on a day, by ANBIMA's list of holidays."""
    sunday = easter(day.year)
    moving = {sunday - 48 * DAY, sunday - 47 * DAY, sunday - 2 * DAY, sunday + 60 * DAY}
    fixed = {(1, 1), (4, 21), (5, 1), (9, 7), (10, 12), (11, 2), (11, 15), (12, 25)}
    if day.year >= 2024:
        fixed.add((11, 20))
    return day.weekday() < 5 and (day.month, day.day) not in fixed and day not in moving


def days(first: date, last: date) -> Iterable[date]:
    """Give the days from first to last."""
    return (first + n * DAY for n in range((last - first).days + 1))


class Bank:
    """The handler of a `FakeServer`, and what the Banco Central knows.

    Attributes:
        now: Brasília's clock.
        series: Values by code in SGS and day.
        quotes: Closing rate to buy by currency and day; selling costs 0.0006 more.
        suffix: What newer closings add to the word Fechamento.
    """

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.series: dict[str, Values] = {}
        self.quotes: dict[str, Values] = {"USD": {}, "EUR": {}}
        self.suffix = ""

    def publish(self, first: date) -> None:
        """Know plausible values of every series from a day on: what today shows, and the target some weeks more."""
        today = self.now.date()
        worked = [day for day in days(first, today) if is_bank_day(day)]
        for code, base in (("11", 55131), ("12", 54266)):
            # Of today only tomorrow.
            self.series[code] = {
                day: f"0.{base - day.toordinal() % 997:06}" for day in worked if day < today
            }
        self.series["432"] = {
            day: f"{10 + day.year % 5}.25" for day in days(first, today + 40 * DAY)
        }
        months = [day for day in days(first.replace(day=1), today) if day.day == 1]
        for code, base in (("433", 40), ("10764", 41), ("189", 60), ("188", 38)):
            # A month's index is known around day 10 of the next.
            self.series[code] = {
                month: f"{(base - month.toordinal() % 90) / 100:.2f}"
                for month in months
                if (month + 40 * DAY).replace(day=10) <= today
            }
        for currency, base in (("USD", 5), ("EUR", 6)):
            self.quotes[currency] = {
                day: f"{base}.{day.toordinal() % 9000 + 1000}"
                for day in worked
                if day < today or self.now.time() >= CLOSING
            }

    def __call__(self, seen: Seen) -> Answer:
        """Answer a request."""
        if match := re.fullmatch(
            r"/dados/serie/bcdata\.sgs\.(\d+)/dados(?:/ultimos/(\d+))?", seen.path
        ):
            return self._sgs(match[1], match[2], seen)
        if match := re.fullmatch(r"/ptax/(\w+)\((.*)\)", seen.path):
            return self._ptax(match[1], match[2], seen)
        return Answer(404, "<html><body>Not Found</body></html>", {"Content-Type": "text/html"})

    # --- SGS ---

    def _sgs(self, code: str, count: str | None, seen: Seen) -> Answer:
        if seen.query.get("formato") != ["json"]:
            return Answer(200, "<?xml version='1.0'?><SERIES/>", {"Content-Type": XML})
        values = self.series.get(code, {})
        if count is not None:
            if int(count) > 20:
                return _fault(
                    400,
                    "br.gov.bcb.pec.sgs.comum.excecoes.SGSNegocioException:"
                    " A quantidade máxima de valores deve ser 20",
                )
            chosen = sorted(values)[-int(count) :]
            return self._values(values, chosen)
        try:
            first, last = (
                _brazilian(seen.query.get(name)) for name in ("dataInicial", "dataFinal")
            )
        except ValueError:
            return _fault(
                400, "br.gov.bcb.pec.sgs.comum.excecoes.SGSNegocioException: Data inválida"
            )
        if code in DAILY:
            end = last or self.now.date()
            if first is None or end >= _ten_years_after(first):
                body = {
                    "error": TEN_YEARS,
                    "message": TEN_YEARS,
                    "syntax": "dataInicial=dd/MM/aaaa",
                }
                return Answer(406, body, {"Content-Type": JSON})
        chosen = [day for day in values if (first or date.min) <= day <= (last or date.max)]
        return self._values(values, chosen)

    @staticmethod
    def _values(values: Values, chosen: list[date]) -> Answer:
        if not chosen:
            return _fault(404, "Value(s) not found")
        body = [{"data": f"{day:%d/%m/%Y}", "valor": values[day]} for day in sorted(chosen)]
        return Answer(200, body, {"Content-Type": JSON})

    # --- PTAX ---

    def _ptax(self, function: str, arguments: str, seen: Seen) -> Answer:
        names = {
            "CotacaoDolarDia": ("dataCotacao",),
            "CotacaoDolarPeriodo": ("dataInicial", "dataFinalCotacao"),
            "CotacaoMoedaDia": ("moeda", "dataCotacao"),
            "CotacaoMoedaPeriodo": ("moeda", "dataInicial", "dataFinalCotacao"),
        }.get(function)
        if names is None or arguments != ",".join(f"{name}=@{name}" for name in names):
            return Answer(404, {"codigo": 404, "mensagem": "Function não encontrada"})
        given = [
            re.fullmatch(r"'([^']*)'", value[0])
            for value in (seen.query.get(f"@{name}", [""]) for name in names)
        ]
        try:
            values = [match[1] for match in given if match]
            dates = [_american(text) for text in values[-2 if "Periodo" in function else -1 :]]
            currency = values[0] if "Moeda" in function else "USD"
            assert len(values) == len(names)
        except (ValueError, IndexError, AssertionError):
            return Answer(400, {"codigo": 400, "mensagem": "Parâmetro inválido"})
        if seen.query.get("$format") != ["json"]:
            return Answer(200, "<?xml version='1.0'?><feed/>", {"Content-Type": XML})
        rows = [
            row
            for day in days(dates[0], dates[-1])
            for row in self._bulletins(currency, day, "Moeda" in function)
        ]
        context = f'"@odata.context":"https://was-p.bcnet.bcb.gov.br/olinda/servico/PTAX/versao/v1/odata$metadata#_{function}"'
        # Written by hand: the numbers are JSON numbers with all their digits.
        body = f'{{{context},"value":[{",".join(rows)}]}}'
        return Answer(200, body, {"Content-Type": "application/json;odata.metadata=minimal"})

    def _bulletins(self, currency: str, day: date, has_all: bool) -> list[str]:  # noqa: FBT001
        buy = self.quotes.get(currency, {}).get(day)
        before = self.quotes.get(currency, {}).get(day - DAY, "5.0000")
        rows = []
        for moment, kind in BULLETINS:
            is_closing = moment == CLOSING
            if datetime.combine(day, moment) > self.now or (is_closing and buy is None):
                continue
            if not is_bank_day(day) or not (has_all or is_closing):
                continue
            price = buy if is_closing and buy else f"{before}1"
            at = f"{day} {moment:%H:%M:%S}{FRACTIONS[day.day % 4]}"
            row = (
                f'"cotacaoCompra":{price},"cotacaoVenda":{_dearer(price)},"dataHoraCotacao":"{at}"'
            )
            if has_all:
                name = f"{kind}{self.suffix}" if is_closing else kind
                row = f'"paridadeCompra":1.0881,"paridadeVenda":1.0883,{row},"tipoBoletim":"{name}"'
            rows.append(f"{{{row}}}")
        return rows


def _dearer(price: str) -> str:
    whole, fraction = price.split(".")
    return f"{whole}.{int(fraction) + 6 * 10 ** (len(fraction) - 4):0{len(fraction)}}"


def _fault(status: int, detail: str) -> Answer:
    body: dict[str, Any] = {"erro": {"statusCode": status, "detail": detail}}
    return Answer(status, body, {"Content-Type": JSON})


def _brazilian(given: list[str] | None) -> date | None:
    return datetime.strptime(given[0], "%d/%m/%Y").date() if given else None  # noqa: DTZ007


def _american(text: str) -> date:
    return datetime.strptime(text, "%m-%d-%Y").date()  # noqa: DTZ007


def _ten_years_after(day: date) -> date:
    return date(day.year + 10, day.month, 28 if (day.month, day.day) == (2, 29) else day.day)
