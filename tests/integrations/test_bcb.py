"""The Banco Central, asked over HTTP: every trap of its two services, and a synchronisation that loses nothing."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from urllib.parse import unquote
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nessos.bcb import client, jobs, sync
from nessos.bcb.client import Bank, windows
from nessos.errors import DatabaseError, GiveUpError, RetryError, RuleError, WaitError
from nessos.jobs.entrypoint import Task
from nessos.settings import ROOT
from tests.integrations.fakes import bcb as fake
from tests.integrations.fakes.server import Answer, FakeServer, html
from tests.integrations.outside import open_http, open_pool

NOW = datetime(2026, 7, 15, 16, 0)  # noqa: DTZ001 - Brasília's clock, a Wednesday
TODAY = NOW.date()
SERIES = {"11", "12", "432", "433", "10764", "189", "188", "USD", "EUR"}

Reader = psycopg.Connection[dict[str, Any]]

pytestmark = pytest.mark.usefixtures("no_backoff")


@contextmanager
def service(
    now: datetime = NOW, *, first: date = date(2024, 1, 1)
) -> Iterator[tuple[FakeServer, fake.Bank]]:
    """Run the Banco Central at a moment, with values from a day on."""
    bank = fake.Bank(now)
    bank.publish(first)
    with FakeServer(bank) as server:
        yield server, bank


def read(
    url: str, server: FakeServer, series: str, first: object, last: object = TODAY
) -> list[dict[str, str]]:
    """Read a window of a series."""

    async def run() -> list[dict[str, str]]:
        async with open_http(url) as http:
            return await Bank(http, server.url, f"{server.url}/ptax").read(
                source="ptax" if series.isalpha() else "sgs",
                series=series,
                first=date.fromisoformat(str(first)),
                last=date.fromisoformat(str(last)),
            )

    return asyncio.run(run())


def synchronize(
    url: str, server: FakeServer, *, now: datetime = NOW, **wanted: Any
) -> tuple[dict[str, dict[str, Any]], dict[str, Exception]]:
    """Synchronise as a worker whose clock shows `now` in São Paulo; gives the lines by series, and the failures."""

    async def run() -> sync.Outcome:
        async with open_pool(url, now=f"{now.isoformat()}-03:00") as pool, open_http(url) as http:
            bank = Bank(http, server.url, f"{server.url}/ptax")
            return await sync.synchronize(pool=pool, bank=bank, **wanted)

    outcome = asyncio.run(run())
    return {line["series"]: line for line in outcome.lines}, dict(outcome.failures)


def stored(reader: Reader, series: str) -> dict[date, Any]:
    """Give what is stored of a series: the value, or buy and sell."""
    rows = reader.execute(
        "select date, value, buy, sell from public.bcb_rates_snapshot where series = %s order by date",
        (series,),
    ).fetchall()
    return {
        row["date"]: row["value"] if row["buy"] is None else (row["buy"], row["sell"])
        for row in rows
    }


def asked(server: FakeServer, series: str) -> list[tuple[str, str]]:
    """Give first and last day of every call for a series, as they were written."""
    calls = []
    for seen in server.journal:
        if f".{series}/" in seen.path:
            calls.append((seen.query["dataInicial"][0], seen.query["dataFinal"][0]))
        elif seen.query.get("@moeda", ["'USD'"]) == [f"'{series}'"] and "/ptax/" in seen.path:
            calls.append((seen.query["@dataInicial"][0], seen.query["@dataFinalCotacao"][0]))
    return calls


@pytest.fixture
def url(db_url: str) -> str:
    """The module's database, without the rates and the open circuits of earlier tests."""
    with psycopg.connect(db_url) as connection:
        connection.execute(
            "truncate public.bcb_rates_snapshot, public.bcb_sync_log, app.circuit_breakers,"
            " app.call_slots"
        )
    return db_url


# --- The fake is what the page says ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "holds"),
    [
        ("12/dados?formato=json&dataInicial=13/07/2026&dataFinal=15/07/2026", 200, '"valor": "0.0'),
        ("12/dados?formato=json&dataInicial=11/07/2026&dataFinal=12/07/2026", 404, "Value(s) not found"),
        ("999/dados?formato=json&dataInicial=13/07/2026", 404, "Value(s) not found"),
        ("12/dados?formato=json", 406, "10 anos"),
        ("12/dados?formato=json&dataInicial=15/07/2016&dataFinal=15/07/2026", 406, "10 anos"),
        ("12/dados?formato=json&dataInicial=16/07/2016&dataFinal=15/07/2026", 200, "valor"),
        ("433/dados?formato=json&dataInicial=01/01/1990", 200, "valor"),
        ("12/dados?formato=json&dataInicial=2026-07-13", 400, "SGSNegocioException"),
        ("12/dados/ultimos/20?formato=json", 200, "valor"),
        ("12/dados/ultimos/21?formato=json", 400, "deve ser 20"),
        ("432/dados/ultimos/1?formato=json", 200, '"24/08/2026"'),
        ("12/dados?dataInicial=13/07/2026", 200, "<?xml"),
    ],
)  # fmt: skip
def test_the_fake_of_sgs_answers_like_the_real_one(path: str, status: int, holds: str) -> None:
    with service() as (server, _):
        answer = httpx.get(f"{server.url}/dados/serie/bcdata.sgs.{path}")
    assert answer.status_code == status
    assert (
        holds in json.dumps(answer.json(), ensure_ascii=False)
        if "xml" not in holds
        else answer.text
    )


@pytest.mark.parametrize(
    ("call", "status", "rows"),
    [
        ("CotacaoDolarDia(dataCotacao=@dataCotacao)?@dataCotacao='07-15-2026'&$format=json", 200, 1),
        ("CotacaoDolarDia(dataCotacao=@dataCotacao)?@dataCotacao='07-12-2026'&$format=json", 200, 0),
        ("CotacaoDolarDia(dataCotacao=@dataCotacao)?@dataCotacao='15/07/2026'&$format=json", 400, None),
        ("CotacaoDolarDia(dataCotacao=@dataCotacao)?%2540dataCotacao='07-15-2026'&$format=json", 400, None),
        ("CotacaoDolarDia(dataCotacao=@dataCotacao)?@dataCotacao='07-15-2026'", 200, None),
        ("CotacaoMoedaDia(moeda=@moeda,dataCotacao=@dataCotacao)?@moeda='EUR'&@dataCotacao='07-15-2026'&$format=json", 200, 5),
    ],
)  # fmt: skip
def test_the_fake_of_ptax_answers_like_the_real_one(
    call: str, status: int, rows: int | None
) -> None:
    with service() as (server, _):
        answer = httpx.get(f"{server.url}/ptax/{call}")
    assert answer.status_code == status
    if rows is not None:
        assert len(answer.json()["value"]) == rows
    elif status == 200:
        assert answer.text.startswith("<?xml")


# --- Windows --------------------------------------------------------------------------------------


@given(
    source=st.sampled_from(["sgs", "ptax"]),
    first=st.dates(date(1980, 1, 1), date(2040, 1, 1)),
    length=st.integers(0, 20000),
)
def test_windows_follow_on_each_other_and_end_before_their_anniversary(
    source: str, first: date, length: int
) -> None:
    last = first + timedelta(days=length)
    cut = list(windows(source=source, first=first, last=last))
    assert [one[0] for one in cut] == [first, *(one[1] + timedelta(days=1) for one in cut[:-1])]
    assert cut[-1][1] == last
    years = {"sgs": 10, "ptax": 1}[source]
    for start, end in cut:
        assert start <= end < start + timedelta(days=years * 366)
        assert (end.year - start.year, end.month, end.day) < (years, start.month, start.day)


def test_windows_of_ten_years_are_those_of_the_manual() -> None:
    cut = windows(source="sgs", first=date(2015, 1, 1), last=date(2026, 7, 15))
    assert [f"{first}..{last}" for first, last in cut] == [
        "2015-01-01..2024-12-31",
        "2025-01-01..2026-07-15",
    ]
    leap = windows(source="sgs", first=date(2004, 2, 29), last=date(2014, 3, 1))
    assert [f"{first}..{last}" for first, last in leap] == [
        "2004-02-29..2014-02-27",
        "2014-02-28..2014-03-01",
    ]


def test_no_window_of_a_backfill_is_refused(url: str) -> None:
    with service(first=date(2005, 1, 1)) as (server, _):
        lines, failures = synchronize(url, server, since=date(2006, 1, 1), series=["CDI"])
    assert failures == {}
    assert asked(server, "12") == [
        ("01/01/2006", "31/12/2015"),
        ("01/01/2016", "31/12/2025"),
        ("01/01/2026", "15/07/2026"),
    ]
    assert lines["12"]["seen"] == lines["12"]["created"] > 5000


def test_a_window_that_is_refused_all_the_same_is_halved(url: str) -> None:
    with service() as (server, bank):
        server.faults.append(Answer(406, {"error": fake.TEN_YEARS}))
        rates = read(url, server, "12", "2026-07-01", "2026-07-14")
    assert [rate["date"] for rate in rates] == [
        day.isoformat() for day in bank.series["12"] if day >= date(2026, 7, 1)
    ]
    assert asked(server, "12")[1:] == [("01/07/2026", "07/07/2026"), ("08/07/2026", "14/07/2026")]


# --- SGS ------------------------------------------------------------------------------------------


def test_values_come_as_the_text_they_were_published_as(url: str) -> None:
    with service() as (server, bank):
        bank.series["12"] = {date(2026, 7, 13): "0.05513100", date(2026, 7, 14): "0.00000007"}
        rates = read(url, server, "12", "2026-07-13")
    assert [rate["value"] for rate in rates] == ["0.05513100", "0.00000007"]
    assert rates[0] == {"series": "12", "date": "2026-07-13", "value": "0.05513100"}


def test_a_weekend_and_a_month_not_published_are_empty_not_errors(url: str) -> None:
    with service() as (server, _):
        assert read(url, server, "12", "2026-07-11", "2026-07-12") == []
        assert read(url, server, "433", "2026-07-01") == []
    assert len(server.journal) == 2


def test_values_that_are_none_and_unknown_keys_are_passed_over(url: str) -> None:
    rows = [
        {"data": "01/07/2026", "datafim": "01/08/2026", "valor": "0.1"},
        {"data": "02/07/2026", "valor": ""},
        {"data": "03/07/2026", "valor": None},
        {"data": "06/07/2026", "valor": " "},
    ]
    with FakeServer(lambda _: Answer(200, rows)) as server:
        assert read(url, server, "12", "2026-07-01") == [
            {"series": "12", "date": "2026-07-01", "value": "0.1"}
        ]


def test_the_target_of_the_selic_is_asked_up_to_today_and_never_stored_of_tomorrow(
    url: str, reader: Reader
) -> None:
    with service() as (server, bank):
        assert max(bank.series["432"]) > TODAY
        synchronize(url, server, series=["SELIC_TARGET"])
        assert asked(server, "432")[-1][1] == "15/07/2026"
        # Should it answer more than it was asked for, that is left out too.
        future = [
            {"data": f"{TODAY + timedelta(days=n):%d/%m/%Y}", "valor": "15"} for n in range(9)
        ]
        server.faults.append(Answer(200, future))
        synchronize(url, server, series=["SELIC_TARGET"])
    assert max(stored(reader, "432")) == TODAY


@pytest.mark.parametrize(
    "fault",
    [
        html(200),
        html(404),
        html(403),
        html(502),
        Answer(200, "<?xml version='1.0'?><SERIES/>", {"Content-Type": "application/xml"}),
        Answer(200, {"erro": {"statusCode": 500, "detail": "?"}}),
        Answer(200, '[{"data":"01/07/2026",', {"Content-Type": "application/json"}),
        Answer(200, "[]", {"Content-Type": "text/html"}),
        Answer(429),
        Answer(500, {"erro": {"statusCode": 500, "detail": "?"}}),
        Answer(504),
        Answer(200, "[" + " " * 4096 + "]", {"Content-Type": "application/json"}, cut="within"),
        Answer(cut="before"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("series", ["12", "EUR"])
def test_what_is_no_answer_is_asked_again(url: str, series: str, fault: Answer) -> None:
    with service() as (server, _):
        server.faults.extend([fault, fault])
        rates = read(url, server, series, "2026-07-13", "2026-07-14")
    assert [rate["date"] for rate in rates] == ["2026-07-13", "2026-07-14"]
    assert len(server.journal) == 3


@pytest.mark.parametrize("body", [{"value": [{"valor": "1"}]}, [{"valor": "1"}]])
def test_each_service_answers_in_its_own_shape_or_not_at_all(url: str, body: object) -> None:
    series = "12" if isinstance(body, dict) else "EUR"
    with FakeServer(lambda _: Answer(200, body)) as server, pytest.raises(RetryError):
        read(url, server, series, "2026-07-13")
    assert len(server.journal) == 4


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Answer(400, {"erro": {"statusCode": 400, "detail": "deve ser 20"}}), "HTTP 400: deve ser 20"),
        (Answer(400, {"error": "janela inválida"}), "HTTP 400: janela inválida"),
        (Answer(404, {"codigo": 404, "mensagem": "?"}), "HTTP 404: None"),
        (Answer(200, [{"data": "2026-07-01", "valor": "1"}]), "a row of 12 cannot be read"),
        (Answer(200, [{"data": "01/07/2026", "valor": "0,33"}]), "a row of 12 cannot be read"),
        (Answer(200, [{"valor": "1"}]), "a row of 12 cannot be read"),
        (Answer(200, ["x"]), "a row of 12 cannot be read"),
    ],
)  # fmt: skip
def test_what_would_fail_again_is_given_up(url: str, fault: Answer, says: str) -> None:
    with FakeServer(lambda _: fault) as server, pytest.raises(GiveUpError) as caught:
        read(url, server, "12", "2026-07-01")
    assert says in str(caught.value)
    assert len(server.journal) == 1


def test_when_the_bank_says_when_it_is_not_asked_before(url: str) -> None:
    with service() as (server, _):
        server.faults.append(Answer(429, headers={"Retry-After": "120"}))
        with pytest.raises(WaitError):
            read(url, server, "12", "2026-07-01")
    assert len(server.journal) == 1


def test_an_answer_may_take_a_minute(url: str) -> None:
    assert client._SGS.timeout_s >= 60
    assert client._PTAX.timeout_s >= 60
    with service() as (server, _):
        server.faults.append(Answer(200, [], delay_s=0.3))
        assert read(url, server, "12", "2026-07-13") == []


# --- PTAX -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", " PTAX"])
@pytest.mark.parametrize("currency", ["USD", "EUR"])
def test_of_five_bulletins_a_day_the_closing_is_taken(url: str, currency: str, suffix: str) -> None:
    with service() as (server, bank):
        bank.suffix = suffix
        quotes = bank.quotes[currency] = {date(2026, 7, 14): "5.12345678", TODAY: "5.1000"}
        rates = read(url, server, currency, "2026-07-14")
    assert [(rate["date"], rate["buy"]) for rate in rates] == [
        (day.isoformat(), buy) for day, buy in quotes.items()
    ]
    assert [rate["sell"] for rate in rates] == ["5.12405678", "5.1006"]


def test_the_address_arrives_as_the_manual_writes_it(url: str) -> None:
    with service() as (server, _):
        read(url, server, "EUR", "2026-07-01", "2026-07-14")
        seen = server.journal[0]
    assert unquote(seen.path) == seen.path == (
        "/ptax/CotacaoMoedaPeriodo"
        "(moeda=@moeda,dataInicial=@dataInicial,dataFinalCotacao=@dataFinalCotacao)"
    )  # fmt: skip
    assert seen.query == {
        "@moeda": ["'EUR'"],
        "@dataInicial": ["'07-01-2026'"],
        "@dataFinalCotacao": ["'07-14-2026'"],
        "$format": ["json"],
    }


@pytest.mark.parametrize("currency", ["USD", "EUR"])
def test_weekends_and_mornings_bring_no_quotation_and_no_zero(
    url: str, reader: Reader, currency: str
) -> None:
    morning = datetime(2026, 7, 13, 13, 9)  # noqa: DTZ001 - Brasília's clock, a Monday
    with service(morning) as (server, _):
        assert read(url, server, currency, "2026-07-11", "2026-07-13") == []
        lines, failures = synchronize(url, server, now=morning, series=[currency])
    assert failures == {}
    assert max(stored(reader, currency)) == date(2026, 7, 10) == lines[currency]["last_on"]
    assert all(buy > 0 for buy, _ in stored(reader, currency).values())
    assert {day.weekday() for day in stored(reader, currency)} == set(range(5))
    query = "select quoted_on from public.exchange_rate(%s)"
    reader.execute("select set_config('app.now', '2026-07-13T13:09-03:00', false)")
    row = reader.execute(query, (currency,)).fetchone()
    assert row == {"quoted_on": date(2026, 7, 10)}


def test_after_the_closing_todays_quotation_is_there(url: str, reader: Reader) -> None:
    noon = datetime(2026, 7, 13, 13, 30)  # noqa: DTZ001 - Brasília's clock
    with service(noon) as (server, bank):
        synchronize(url, server, now=noon, series=["USD"])
        quoted = bank.quotes["USD"][noon.date()]
    assert stored(reader, "USD")[noon.date()][0] == Decimal(quoted)


# --- The synchronisation --------------------------------------------------------------------------


def test_a_first_run_reads_two_years_of_every_series_and_a_second_finds_nothing_new(
    url: str, reader: Reader
) -> None:
    with service() as (server, bank):
        first, failures = synchronize(url, server)
        assert failures == {}
        assert set(first) == SERIES
        second, _ = synchronize(url, server)
    for series, line in first.items():
        assert line["seen"] == line["created"] == len(stored(reader, series)) > 0
        assert (line["revised"], line["unchanged"], line["status"]) == (0, 0, "succeeded")
        assert line["from_on"] == date(2024, 7, 1 if line["unit"] == "% a.m." else 15)
        again = second[series]
        assert (again["created"], again["revised"]) == (0, 0)
        assert again["unchanged"] == again["seen"] > 0
        assert again["last_on"] == line["last_on"] == max(stored(reader, series))
        assert not again["is_late"]
    assert stored(reader, "433") == {
        day: Decimal(value) for day, value in bank.series["433"].items() if day >= date(2024, 7, 1)
    }
    assert stored(reader, "12") == {
        day: Decimal(value) for day, value in bank.series["12"].items() if day >= date(2024, 7, 15)
    }


def test_a_series_and_window_is_one_call(url: str) -> None:
    with service() as (server, _):
        synchronize(url, server)
    calls = [(seen.path, tuple(map(tuple, seen.query.values()))) for seen in server.journal]
    assert len(calls) == len(set(calls)) == 7 + 2 * 3
    assert server.most_at_once() == 1


def test_revised_values_replace_the_old_and_only_they_are_written(url: str, reader: Reader) -> None:
    with service() as (server, bank):
        synchronize(url, server, series=["IPCA"])
        before = reader.execute(
            "select date, xmin::text from public.bcb_rates_snapshot order by date"
        ).fetchall()
        revised = sorted(bank.series["433"])[-3]
        bank.series["433"][revised] = "9.87"
        lines, _ = synchronize(url, server, series=["IPCA"])
        after = reader.execute(
            "select date, xmin::text from public.bcb_rates_snapshot order by date"
        ).fetchall()
    line = lines["433"]
    assert (line["created"], line["revised"], line["unchanged"]) == (0, 1, line["seen"] - 1)
    assert stored(reader, "433")[revised] == Decimal("9.87")
    assert [old["date"] for old, new in zip(before, after, strict=True) if old != new] == [revised]


def test_at_half_past_eleven_at_night_it_is_still_today_in_brasilia(
    url: str, reader: Reader
) -> None:
    night = datetime(2026, 6, 30, 23, 30)  # noqa: DTZ001 - Brasília's clock; July in UTC
    with service(night) as (server, _):
        synchronize(url, server, now=night, series=["CDI", "USD", "SELIC_TARGET"])
    assert {asked(server, series)[-1][1] for series in ("12", "432")} == {"30/06/2026"}
    assert asked(server, "USD")[-1][1] == "'06-30-2026'"
    assert max(stored(reader, "432")) == max(stored(reader, "USD")) == date(2026, 6, 30)


def test_on_a_leap_day_two_years_begin_on_the_last_of_february(url: str) -> None:
    leap = datetime(2028, 2, 29, 14, 0)  # noqa: DTZ001 - Brasília's clock
    with service(leap, first=date(2025, 1, 1)) as (server, _):
        lines, failures = synchronize(url, server, now=leap, series=["CDI", "IPCA"])
    assert failures == {}
    assert lines["12"]["from_on"] == date(2026, 2, 28)
    assert lines["433"]["from_on"] == date(2026, 2, 1)


def test_a_series_that_fails_does_not_keep_the_others_back(url: str, reader: Reader) -> None:
    with service() as (server, bank):

        def broken(seen: Any) -> Answer:
            return html() if ".433/" in seen.path else bank(seen)

        server.handler = broken
        lines, failures = synchronize(url, server)
        assert list(failures) == ["IPCA"]
        assert isinstance(failures["IPCA"], RetryError)
        assert {line["status"] for series, line in lines.items() if series != "433"} == {
            "succeeded"
        }
        assert (lines["433"]["status"], lines["433"]["last_on"]) == ("failed", None)
        assert "HTTP 200 without data" in lines["433"]["error"]
        assert stored(reader, "189")
        server.handler = bank
        lines, failures = synchronize(url, server)
    assert failures == {}
    assert lines["433"]["created"] > 0


def test_the_last_good_value_stays_when_the_bank_is_down(url: str, reader: Reader) -> None:
    with service() as (server, _):
        synchronize(url, server, series=["CDI"])
        good = stored(reader, "12")
        server.handler = lambda _: html()
        later = NOW + timedelta(hours=1)
        _, failures = synchronize(url, server, now=later, series=["CDI"])
    assert list(failures) == ["CDI"]
    assert stored(reader, "12") == good
    row = reader.execute(
        "select last_on, value, sync_status from public.bcb_series_status where key = 'CDI'"
    ).fetchone()
    assert row == {"last_on": max(good), "value": good[max(good)], "sync_status": "failed"}


def test_a_rehearsal_counts_and_stores_nothing(url: str, reader: Reader) -> None:
    with service() as (server, bank):
        synchronize(url, server, series=["IPCA"])
        bank.series["433"][max(bank.series["433"])] = "9.87"
        lines, failures = synchronize(url, server, dry_run=True, since=date(2025, 1, 1))
    assert failures == {}
    assert set(lines) == SERIES
    assert lines["433"]["revised"] == 1
    assert lines["12"]["created"] == lines["12"]["seen"] > 300
    assert stored(reader, "12") == {}
    assert Decimal("9.87") not in stored(reader, "433").values()
    assert reader.execute("select count(*) as n from public.bcb_sync_log").fetchone() == {"n": 1}


def test_a_question_about_nothing_is_refused_before_anybody_is_asked(url: str) -> None:
    with service() as (server, _):
        for wanted in ({"series": ["TR"]}, {"since": date(2026, 7, 16)}):
            with pytest.raises(RuleError):
                synchronize(url, server, **wanted)
    assert server.journal == []


def test_only_one_process_synchronises(url: str) -> None:
    with service() as (server, _), psycopg.connect(url, autocommit=True) as other:
        other.execute("select pg_advisory_lock(hashtextextended('app.sync_bcb', 0))")
        with pytest.raises(WaitError, match="another process"):
            synchronize(url, server)
        assert server.journal == []
        other.execute("select pg_advisory_unlock(hashtextextended('app.sync_bcb', 0))")
        assert synchronize(url, server, series=["IPCA"])[1] == {}
        # The lock is given back with the connection.
        locks = other.execute(
            "select count(*) from pg_locks where locktype = 'advisory'"
        ).fetchone()
        assert locks == (0,)


def test_a_backfill_that_was_killed_goes_on_where_it_was(url: str, reader: Reader) -> None:
    command = [sys.executable, "-c", "from nessos.cli import main; main()",
               "sync", "bcb", "--since", "2006-01-01", "--series", "CDI", "--series", "USD"]  # fmt: skip
    with service(first=date(2005, 1, 1)) as (server, _):
        held = threading.Event()

        def slow(seen: Any) -> Answer:
            answer: Answer = server_bank(seen)
            if "01/01/2016" in str(seen.query) and not held.is_set():
                answer.until = held
            return answer

        server_bank, server.handler = server.handler, slow
        environment = {
            **os.environ, "DATABASE_URL": url, "PYTHONPATH": str(ROOT / "py"),
            "NESSOS_BCB_SGS_URL": server.url, "NESSOS_BCB_PTAX_URL": f"{server.url}/ptax",
            "PGOPTIONS": f"-c app.now={NOW.isoformat()}-03:00",
        }  # fmt: skip
        first = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        server.wait_for(2)
        first.send_signal(signal.SIGKILL)
        first.wait()
        held.set()
        assert len(stored(reader, "12")) > 2000
        before = len(server.journal)
        second = subprocess.run(
            [*command, "--json"],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert second.returncode == 0, second.stderr
        windows_read = asked(server, "12")
        lines = {line["key"]: line for line in json.loads(second.stdout)}
    assert windows_read.count(("01/01/2006", "31/12/2015")) == 1
    assert len(server.journal) - before == 2 + 21
    assert lines["CDI"]["seen"] == lines["CDI"]["created"] == len(stored(reader, "12")) > 5000
    assert lines["USD"]["seen"] == len(stored(reader, "USD")) > 5000
    assert second.stderr.startswith("0/23 CDI 2016-01-01 to 2025-12-31\n1/23 CDI 2026-01-01")


def test_a_run_whose_database_went_away_goes_on_when_it_is_back(url: str, reader: Reader) -> None:
    run = uuid4()
    with service() as (server, bank):

        def cut(seen: Any) -> Answer:
            if ".433/" in seen.path and len(asked(server, "433")) == 1:
                reader.execute(
                    "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'"
                )
            return bank(seen)

        server.handler = cut
        with pytest.raises(DatabaseError, match="terminating connection"):
            synchronize(url, server, run=run)
        before = reader.execute(
            "select status, count(*) as n from public.bcb_sync_log group by 1 order by 1"
        ).fetchall()
        assert before == [{"status": "running", "n": 6}, {"status": "succeeded", "n": 3}]
        assert stored(reader, "433") == {}
        server.handler = bank
        server.journal.clear()
        lines, failures = synchronize(url, server, run=run)
    assert failures == {}
    assert {line["status"] for line in lines.values()} == {"succeeded"}
    # CDI, IGP-M and INPC had been read.
    assert {series for series in SERIES if asked(server, series)} == SERIES - {"12", "189", "188"}


# --- What accumulates from it ---------------------------------------------------------------------


def test_twenty_years_of_synchronised_rates_accumulate_exactly(url: str, reader: Reader) -> None:
    with service(first=date(2005, 1, 1)) as (server, bank):
        _, failures = synchronize(url, server, since=date(2006, 1, 1), series=["CDI", "IPCA"])
    assert failures == {}
    for key, code in (("CDI", "12"), ("IPCA", "433")):
        row = reader.execute(
            "select * from public.accumulated(%s, '2006-01-01', '2026-06-01')", (key,)
        ).fetchone()
        assert row
        values = [
            value
            for day, value in bank.series[code].items()
            if date(2006, 1, 1) <= day < date(2026, 6, 1)
        ]
        exact = Fraction(1)
        for value in values:
            exact *= 1 + Fraction(value) / 100
        assert row["value_count"] == len(values) > 200
        assert abs(Fraction(row["factor"]) - exact) < Fraction(1, 10**16000)


def test_a_contract_is_adjusted_by_what_was_synchronised(url: str, reader: Reader) -> None:
    with service() as (server, bank):
        synchronize(url, server)
    reader.execute("select set_config('app.now', '2026-07-15T16:00-03:00', false)")
    contract = reader.execute(
        "insert into public.contracts (org_id, client_id, title, starts_on, mrr, status,"
        " adjustment_index) select c.org_id, c.id, 'Monitoramento', '2025-01-01', 1000, 'active',"
        " 'IGPM' from public.clients as c limit 1 returning id"
    ).fetchone()
    assert contract
    row = reader.execute(
        "select * from public.adjust_contract(%s, '2026-06-01')", (contract["id"],)
    ).fetchone()
    assert row
    months = [date(2025, month, 1) for month in range(6, 13)]
    months += [date(2026, month, 1) for month in range(1, 6)]
    exact = Fraction(1)
    for month in months:
        exact *= 1 + Fraction(bank.series["189"][month]) / 100
    assert Fraction(row["factor"]) == exact
    lines = reader.execute(
        "select month, value from public.contract_adjustment_lines order by position"
    ).fetchall()
    assert [(line["month"], line["value"]) for line in lines] == [
        (month, Decimal(bank.series["189"][month])) for month in months
    ]


# --- The job --------------------------------------------------------------------------------------


def run_job(
    url: str, server: FakeServer, monkeypatch: pytest.MonkeyPatch, run: UUID | None = None
) -> str:
    """Run the job's handler once, as the worker does."""
    monkeypatch.setattr(jobs, "bank", lambda http: Bank(http, server.url, f"{server.url}/ptax"))

    async def work() -> str:
        async with (
            open_pool(url, now=f"{NOW.isoformat()}-03:00") as pool,
            open_http(url) as http,
        ):
            payload = {"run_id": str(run)} if run else {}
            return await jobs.synchronize_rates(
                Task(1, "sync.bcb", payload, None, None, 1, pool, http)
            )

    return asyncio.run(work())


def test_the_job_says_what_was_new(
    url: str, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service() as (server, _):
        said = run_job(url, server, monkeypatch)
        count = reader.execute("select count(*) as n from public.bcb_rates_snapshot").fetchone()
        assert count
        assert said == f"{count['n']} values created, 0 revised"
        assert run_job(url, server, monkeypatch) == "0 values created, 0 revised"


def test_the_job_tried_again_asks_only_for_what_has_failed(
    url: str, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = uuid4()
    with service() as (server, bank):
        server.handler = lambda seen: html(503) if ".12/" in seen.path else bank(seen)
        with pytest.raises(RetryError, match="CDI not synchronised"):
            run_job(url, server, monkeypatch, run)
        server.handler = bank
        server.journal.clear()
        run_job(url, server, monkeypatch, run)
        assert len(server.journal) == len(asked(server, "12")) == 1
    states = reader.execute(
        "select count(*) as n, bool_and(status = 'succeeded') as all_well"
        " from public.bcb_sync_log where run_id = %s",
        (run,),
    ).fetchone()
    assert states == {"n": 9, "all_well": True}


def test_the_job_is_held_or_waits_as_the_failure_says(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = Answer(400, {"erro": {"statusCode": 400, "detail": "?"}})
    later = Answer(429, headers={"Retry-After": "120"})
    with service() as (server, bank):
        server.handler = lambda seen: refusal if ".12/" in seen.path else bank(seen)
        with pytest.raises(GiveUpError, match="CDI not synchronised"):
            run_job(url, server, monkeypatch)
        server.handler = lambda seen: later if "Dolar" in seen.path else bank(seen)
        with pytest.raises(WaitError, match="USD"):
            run_job(url, server, monkeypatch)


# --- The command ----------------------------------------------------------------------------------


def command(url: str, server: FakeServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `nessos sync bcb`."""
    return subprocess.run(
        [sys.executable, "-c", "from nessos.cli import main; main()", "sync", "bcb", *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={
            **os.environ,
            "DATABASE_URL": url,
            "PYTHONPATH": str(ROOT / "py"),
            "NESSOS_BCB_SGS_URL": server.url,
            "NESSOS_BCB_PTAX_URL": f"{server.url}/ptax",
            "PGOPTIONS": f"-c app.now={NOW.isoformat()}-03:00",
        },
    )


def test_the_command_shows_a_line_per_series_with_its_last_value(url: str) -> None:
    with service() as (server, bank):
        done = command(url, server, "--since", "2026-06-01", "--series", "ipca", "--series", "USD")
        assert done.returncode == 0, done.stderr
        lines = [line.split() for line in done.stdout.splitlines()]
        assert ["IPCA", "2026-06-01", "2026-07-15", "1", "1", "0", "0"] in [
            line[:7] for line in lines
        ]
        closing = Decimal(bank.quotes["USD"][TODAY]) + Decimal("0.0006")
        usd = next(line for line in lines if line[:1] == ["USD"])
        assert usd[-3:] == [f"{closing.normalize():f}", "BRL", "2026-07-15"]
        assert "0/2 " in done.stderr
        rehearsed = command(url, server, "--dry-run", "--series", "EUR", "--json")
        assert json.loads(rehearsed.stdout)[0]["created"] > 0


def test_the_command_ends_with_three_when_a_series_failed_and_names_it(url: str) -> None:
    with service() as (server, bank):
        refusal = Answer(400, {"erro": {"statusCode": 400, "detail": "Data inválida"}})
        server.handler = lambda seen: refusal if ".12/" in seen.path else bank(seen)
        done = command(url, server, "--json")
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == (
        "error: 1 of 9 series failed (CDI), CDI for: bcb: HTTP 400: Data inválida"
        " → what had come is stored; run it again"
    )
    lines = {line["key"]: line["status"] for line in json.loads(done.stdout)}
    assert lines.pop("CDI") == "failed"
    assert set(lines.values()) == {"succeeded"}


def test_the_command_refuses_a_series_that_does_not_exist(url: str) -> None:
    with service() as (server, _):
        done = command(url, server, "--series", "TR")
    assert done.returncode == 1
    assert "There is no series TR." in done.stderr
    assert "SELIC_DAILY" in done.stderr
