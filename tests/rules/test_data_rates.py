"""Rates of the Banco Central: storing, bank days, accumulation, exchange rates, the log of their synchronisation."""

import json
from datetime import date, timedelta
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.people import (
    Connection,
    World,
    as_analyst,
    as_anon,
    as_member,
    as_worker,
    denied,
    refused,
    set_clock,
)

DAY = timedelta(days=1)


def one(db: Connection, query: str, *parameters: object) -> Any:
    """Give the one row of a query, or its one value."""
    row = db.execute(query, parameters or None).fetchone()
    assert row
    return row[0] if len(row) == 1 else tuple(row)


def upsert(db: Connection, *rates: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Upsert rates as the worker; give the rows that changed."""
    with as_worker(db):
        rows = db.execute(
            "select series, date::text, value from public.upsert_bcb_rates(%s)"
            " order by series, date",
            (json.dumps(rates, default=str),),
        ).fetchall()
    return [tuple(row) for row in rows]


def publish(db: Connection, series: str, values: dict[date, object]) -> None:
    """Store values of a series."""
    with db.cursor() as cursor:
        cursor.executemany(
            "insert into public.bcb_rates_snapshot (series, date, value) values (%s, %s, %s)",
            [(series, day, value) for day, value in values.items()],
        )


def quote(db: Connection, currency: str, *days: str) -> None:
    """Store a closing quotation per day; its price is the day of the month."""
    for day in days:
        db.execute(
            "insert into public.bcb_rates_snapshot (series, date, buy, sell) values (%s, %s, %s, %s)",
            (currency, day, int(day[-2:]), int(day[-2:]) + 1),
        )


def bank_days(db: Connection, first: date, end: date) -> list[date]:
    """Give the bank days of [first, end)."""
    return [row[0] for row in db.execute("select app.value_days('daily', %s, %s)", (first, end))]


def accumulated(db: Connection, series: str, first: object, end: object) -> tuple[Any, ...]:
    """Accumulate; give factor, percent, how many values, the first and the last day."""
    answer: tuple[Any, ...] = one(
        db, "select * from public.accumulated(%s, %s, %s)", series, first, end
    )
    return answer


# --- Storing -------------------------------------------------------------------------------------


def test_rates_are_stored_exactly_as_the_decimal_text_they_come_in(db: Connection) -> None:
    changed = upsert(db, {"series": "433", "date": "2026-01-01", "value": "0.33000001"})
    assert changed == [("433", "2026-01-01", Decimal("0.33000001"))]


def test_only_new_and_revised_rates_are_answered(db: Connection) -> None:
    first = {"series": "433", "date": "2026-01-01", "value": "0.33"}
    second = {"series": "433", "date": "2026-02-01", "value": "0.70"}
    assert len(upsert(db, first, second)) == 2
    assert upsert(db, first, second) == []
    revised = upsert(db, first, second | {"value": "0.71"})
    assert revised == [("433", "2026-02-01", Decimal("0.71"))]


def test_created_and_revised_rates_are_told_apart(db: Connection) -> None:
    rate = {"series": "433", "date": "2026-01-01", "value": "0.33"}
    later = {"series": "433", "date": "2026-02-01", "value": "0.70"}
    query = "select date::text, is_new from public.upsert_bcb_rates(%s) order by date"
    assert db.execute(query, (json.dumps([rate]),)).fetchall() == [("2026-01-01", True)]
    both = json.dumps([rate | {"value": "0.34"}, later])
    assert db.execute(query, (both,)).fetchall() == [("2026-01-01", False), ("2026-02-01", True)]


def test_of_a_rate_given_twice_in_one_call_the_last_counts(db: Connection) -> None:
    rate = {"series": "189", "date": "2026-01-01"}
    changed = upsert(db, rate | {"value": "1"}, rate | {"value": "2"})
    assert changed == [("189", "2026-01-01", Decimal(2))]


def test_a_currency_has_buy_and_sell_instead_of_a_value(db: Connection) -> None:
    upsert(db, {"series": "USD", "date": "2026-01-05", "buy": 5.41, "sell": "5.42"})
    row = db.execute(
        "select value, buy, sell from public.bcb_rates_snapshot where series = 'USD'"
    ).fetchone()
    assert row == (None, Decimal("5.41"), Decimal("5.42"))


@pytest.mark.parametrize(
    "rates",
    [
        {"series": "433"},
        [{"series": "433", "date": "31/12/2025", "value": "1"}],
        [{"series": "433", "date": "2026-01-01", "value": "0,33"}],
        [{"series": "433", "date": "2026-01-01"}],
        [{"series": "", "date": "2026-01-01", "value": "1"}],
        [{"series": "7", "date": "2026-01-01", "value": "1"}],
        [{"series": "USD", "date": "2026-01-01", "buy": "0", "sell": "0"}],
        ["433"],
        None,
    ],
)
def test_malformed_rates_are_refused_whole(db: Connection, rates: object) -> None:
    with as_worker(db), refused("bad_input"):
        db.execute("select public.upsert_bcb_rates(%s)", (json.dumps(rates),))


def test_only_the_worker_writes_rates_and_everybody_signed_in_reads_them(
    db: Connection, world: World
) -> None:
    upsert(db, {"series": "433", "date": "2026-01-01", "value": "0.33"})
    for role in ("employee", "client", "owner"):
        with as_member(db, world.b, role):
            row = db.execute("select value from public.bcb_rates_snapshot").fetchone()
            assert row == (Decimal("0.33"),)
            with denied():
                db.execute("select public.upsert_bcb_rates('[]')")
            with denied():
                db.execute("update public.bcb_rates_snapshot set value = 9")
    with as_analyst(db):
        assert db.execute("select count(*) from public.bcb_rates_snapshot").fetchone() == (1,)
    with as_anon(db), denied():
        db.execute("select 1 from public.bcb_rates_snapshot")


def test_the_index_of_a_month_is_found_from_any_of_its_days(db: Connection) -> None:
    upsert(db, {"series": "433", "date": "2026-02-01", "value": "0.70"})
    row = db.execute(
        "select app.monthly_index('433', '2026-02-28'), app.monthly_index('433', '2026-03-01'),"
        " app.monthly_index('188', '2026-02-01')"
    ).fetchone()
    assert row == (Decimal("0.70"), None, None)


def test_an_index_of_a_contract_is_a_monthly_rate_of_the_catalogue(db: Connection) -> None:
    names = ("IPCA", "IGPM", "INPC", "fixed", "none", "CDI", "USD")
    got = [one(db, "select app.index_series(%s)", name) for name in names]
    assert got == ["433", "189", "188", None, None, None, None]


# --- Bank days -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("year", "easter"),
    [
        (1999, "1999-04-04"), (2000, "2000-04-23"), (2008, "2008-03-23"), (2011, "2011-04-24"),
        (2024, "2024-03-31"), (2026, "2026-04-05"), (2038, "2038-04-25"), (2100, "2100-03-28"),
    ],
)  # fmt: skip
def test_easter_is_where_the_calendar_has_it(db: Connection, year: int, easter: str) -> None:
    assert one(db, "select app.easter(%s)::text", year) == easter


def test_bank_days_are_those_of_the_national_calendar(db: Connection) -> None:
    holidays_2026 = [
        "2026-01-01", "2026-02-16", "2026-02-17", "2026-04-03", "2026-04-21", "2026-05-01",
        "2026-06-04", "2026-09-07", "2026-10-12", "2026-11-02", "2026-11-20", "2026-12-25",
    ]  # fmt: skip
    got = db.execute(
        "select d::date::text from generate_series(timestamp '2026-01-01', '2026-12-31', '1 day') d"
        " where extract(isodow from d) < 6 and not app.is_bank_day(d::date) order by 1"
    ).fetchall()
    assert [row[0] for row in got] == holidays_2026
    # Ash Wednesday and New Year's Eve are bank days; 20 November is a holiday since 2024.
    days = ("2026-02-18", "2026-12-31", "2023-11-20", "2024-11-20", "2026-11-21")
    got = [one(db, "select app.is_bank_day(%s)", day) for day in days]
    assert got == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("year", "days"), [(2019, 253), (2020, 251), (2021, 251), (2022, 251), (2023, 249)]
)
def test_a_year_has_as_many_bank_days_as_the_market_counts(
    db: Connection, year: int, days: int
) -> None:
    assert len(bank_days(db, date(year, 1, 1), date(year + 1, 1, 1))) == days


def test_the_previous_bank_day_skips_a_carnival(db: Connection) -> None:
    assert one(db, "select app.previous_bank_day('2026-02-18')::text") == "2026-02-13"


# --- Accumulation --------------------------------------------------------------------------------


def compounded(values: list[Decimal]) -> Fraction:
    """Compound percentages exactly."""
    factor = Fraction(1)
    for value in values:
        factor *= 1 + Fraction(value) / 100
    return factor


def test_a_daily_rate_compounds_over_the_bank_days_before_the_end(db: Connection) -> None:
    # Thursday to Wednesday: Friday is Good Friday, then the weekend.
    publish(
        db,
        "12",
        {
            date(2026, 4, 1): "0.9", date(2026, 4, 2): "0.055131", date(2026, 4, 6): "0.055131",
            date(2026, 4, 7): "0.05", date(2026, 4, 8): "0.9",
        },
    )  # fmt: skip
    got = accumulated(db, "CDI", "2026-04-02", "2026-04-08")
    exact = compounded([Decimal("0.055131"), Decimal("0.055131"), Decimal("0.05")])
    assert Fraction(got[0]) == exact
    assert got[1] == Decimal("0.16034754")
    assert got[2:] == (3, date(2026, 4, 2), date(2026, 4, 7))


def test_a_monthly_rate_compounds_over_closed_months_only(db: Connection) -> None:
    publish(db, "433", {date(2026, month, 1): str(month) for month in range(1, 6)})
    for first, end, months in (
        ("2026-01-01", "2026-04-01", [1, 2, 3]),
        ("2026-01-02", "2026-04-30", [2, 3]),
        ("2025-12-31", "2026-02-01", [1]),
        ("2026-01-31", "2026-03-01", [2]),
        ("2026-03-01", "2026-03-31", []),
        ("2026-03-15", "2026-03-15", []),
    ):
        got = accumulated(db, "IPCA", first, end)
        assert Fraction(got[0]) == compounded([Decimal(month) for month in months]), (first, end)
        assert got[2] == len(months)
    assert accumulated(db, "433", "2026-01-01", "2026-04-01")[0] == Decimal("1.061106")


def test_a_leap_day_counts_like_any_other(db: Connection) -> None:
    publish(db, "11", {date(2024, 2, 28): 1, date(2024, 2, 29): 2, date(2024, 3, 1): 4})
    got = accumulated(db, "SELIC_DAILY", "2024-02-28", "2024-03-01")
    assert (got[0], got[2], got[4]) == (Decimal("1.0302"), 2, date(2024, 2, 29))
    publish(db, "188", {date(2024, 2, 1): 1})
    assert accumulated(db, "INPC", "2024-01-30", "2024-03-01")[3] == date(2024, 2, 1)


def test_nothing_accumulates_in_no_time(db: Connection) -> None:
    assert accumulated(db, "CDI", "2026-04-02", "2026-04-02") == (1, 0, 0, None, None)
    assert accumulated(db, "CDI", "2026-04-04", "2026-04-06")[:3] == (1, 0, 0)


@pytest.mark.parametrize(
    ("series", "first", "end", "lacks"),
    [
        ("IPCA", "2026-01-01", "2026-07-01", "IPCA (series 433) lacks 2026-03, 2026-06."),
        ("ipca", "2026-02-01", "2026-05-01", "IPCA (series 433) lacks 2026-03."),
        ("433", "2025-11-01", "2026-03-01", "IPCA (series 433) lacks 2025-11 to 2025-12."),
        ("CDI", "2026-04-01", "2026-04-11", "CDI (series 12) lacks 2026-04-07 to 2026-04-10."),
        ("CDI", "2026-03-30", "2026-04-07", "CDI (series 12) lacks 2026-03-30 to 2026-03-31."),
    ],
)
def test_an_accumulation_is_refused_where_a_value_is_missing_and_names_it(
    db: Connection, series: str, first: str, end: str, lacks: str
) -> None:
    publish(db, "433", {date(2026, month, 1): 1 for month in (1, 2, 4, 5)})
    publish(db, "12", {date(2026, 4, day): 1 for day in (1, 2, 6)})
    with refused("index_values_missing") as answer:
        accumulated(db, series, first, end)
    assert answer.detail == lacks


def test_many_gaps_are_told_in_one_line(db: Connection) -> None:
    publish(db, "12", {date(2026, 6, day): 1 for day in (2, 8, 10, 12, 16, 18, 22)})
    with refused("index_values_missing") as answer:
        accumulated(db, "CDI", "2026-06-01", "2026-06-23")
    # 4 June is Corpus Christi: 3 to 5 June is one gap.
    assert answer.detail == (
        "CDI (series 12) lacks 2026-06-01, 2026-06-03 to 2026-06-05, 2026-06-09, 2026-06-11,"
        " 2026-06-15 and 2 periods more."
    )


@pytest.mark.parametrize("series", ["SELIC_TARGET", "432", "USD", "EUR"])
def test_a_level_does_not_accumulate(db: Connection, series: str) -> None:
    publish(db, "432", {date(2026, 4, day): 15 for day in range(1, 4)})
    with refused("series_not_a_rate") as answer:
        accumulated(db, series, "2026-04-01", "2026-04-02")
    assert answer.hint.endswith("CDI, IGPM, INPC, IPCA, IPCA_E, SELIC_DAILY")


@pytest.mark.parametrize(
    ("series", "first", "end", "key"),
    [
        ("TR", "2026-01-01", "2026-02-01", "series_not_found"),
        (None, "2026-01-01", "2026-02-01", "series_not_found"),
        ("IPCA", "2026-02-01", "2026-01-01", "bad_input"),
        ("IPCA", None, "2026-01-01", "bad_input"),
        ("IPCA", "2026-02-01", None, "bad_input"),
    ],
)
def test_a_question_that_is_none_is_refused(
    db: Connection, series: str | None, first: str | None, end: str | None, key: str
) -> None:
    with refused(key):
        db.execute("select public.accumulated(%s, %s, %s)", (series, first, end))


def test_signed_in_people_and_analysts_accumulate_and_visitors_do_not(
    db: Connection, world: World
) -> None:
    publish(db, "433", {date(2026, 1, 1): 1})
    quote(db, "USD", "2026-01-05")
    accumulate = "select factor from public.accumulated('IPCA', '2026-01-01', '2026-02-01')"
    convert = "select sell from public.exchange_rate('USD', '2026-01-05')"
    for actor in (as_member(db, world.a, "client"), as_analyst(db)):
        with actor:
            assert one(db, accumulate) == Decimal("1.01")
            assert one(db, convert) == 6
    for query in (accumulate, convert):
        with as_anon(db), denied():
            db.execute(query)


RATES = st.decimals(min_value=-5, max_value=20, places=8)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(first=st.dates(date(2001, 1, 1), date(2027, 1, 1)), rates=st.lists(RATES, max_size=60))
def test_any_accumulation_of_days_is_exact(
    db: Connection, first: date, rates: list[Decimal]
) -> None:
    days = bank_days(db, first, first + timedelta(days=110))[: len(rates)]
    end = days[-1] + DAY if days else first
    with db.transaction(force_rollback=True):
        publish(db, "12", dict(zip(days, rates, strict=True)))
        got = accumulated(db, "CDI", first, end)
    assert Fraction(got[0]) == compounded(rates)
    assert got[2] == len(rates)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    first=st.dates(date(1990, 1, 1), date(2030, 12, 31)),
    length=st.integers(0, 800),
    rates=st.lists(RATES, min_size=30, max_size=30),
)
def test_any_accumulation_of_months_is_exact_and_takes_whole_months(
    db: Connection, first: date, length: int, rates: list[Decimal]
) -> None:
    end = first + timedelta(days=length)
    months = [
        day.replace(day=1)
        for day in (first + timedelta(days=n) for n in range(length))
        if day.day == 1
    ]
    closed = [month for month, after in pairwise([*months, end.replace(day=1)]) if after > month]
    with db.transaction(force_rollback=True):
        publish(db, "189", dict(zip(closed, rates, strict=False)))
        got = accumulated(db, "IGPM", first, end)
    assert got[2] == len(closed)
    assert Fraction(got[0]) == compounded(rates[: len(closed)])


def test_twenty_years_of_days_accumulate_without_a_wrong_digit(db: Connection) -> None:
    days = bank_days(db, date(2006, 1, 1), date(2026, 1, 1))
    rates = [Decimal(40000 + place % 977) / 10**6 for place in range(len(days))]
    publish(db, "12", dict(zip(days, rates, strict=True)))
    got = accumulated(db, "CDI", "2006-01-01", "2026-01-01")
    assert got[2] == len(days) == 5022
    # Postgres keeps 16,383 decimal places; what lies beyond is all that may differ.
    exact = compounded(rates)
    assert abs(Fraction(got[0]) - exact) < Fraction(1, 10**16370)
    with localcontext(prec=60):
        assert got[1] == round((Decimal(exact.numerator) / exact.denominator - 1) * 100, 8)


# --- Exchange rates ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on", "quoted_on"),
    [
        ("2026-04-01", "2026-04-01"),
        ("2026-04-02", "2026-04-02"),
        ("2026-04-03", "2026-04-02"),
        ("2026-04-04", "2026-04-02"),
        ("2026-04-05", "2026-04-02"),
        ("2026-04-06", "2026-04-06"),
    ],
)
def test_on_a_day_without_a_quotation_the_last_bank_days_counts(
    db: Connection, on: str, quoted_on: str
) -> None:
    quote(db, "USD", "2026-04-01", "2026-04-02", "2026-04-06")
    quote(db, "EUR", "2026-04-05")
    day = int(quoted_on[-2:])
    got = one(db, "select quoted_on::text, buy, sell from public.exchange_rate('usd', %s)", on)
    assert got == (quoted_on, day, day + 1)


@pytest.mark.parametrize(
    ("now", "quoted_on"),
    [
        # Wednesday before the closing of 13:10, and late on Tuesday evening, which is Wednesday in UTC.
        ("2026-04-08T09:00-03:00", "2026-04-07"),
        ("2026-04-07T23:30-03:00", "2026-04-07"),
        ("2026-04-08T00:10-03:00", "2026-04-07"),
    ],
)
def test_before_todays_closing_yesterdays_quotation_counts(
    db: Connection, now: str, quoted_on: str
) -> None:
    quote(db, "EUR", "2026-04-06", "2026-04-07")
    set_clock(db, now)
    try:
        assert one(db, "select quoted_on::text from public.exchange_rate('EUR')") == quoted_on
    finally:
        set_clock(db, None)


@pytest.mark.parametrize(
    ("currency", "on", "key"),
    [
        ("USD", "2026-04-07", "exchange_rate_missing"),
        ("USD", "2026-03-01", "exchange_rate_missing"),
        ("EUR", "2026-04-06", "exchange_rate_missing"),
        ("USD", "2026-04-09", "bad_input"),
        ("GBP", "2026-04-06", "series_not_found"),
        ("IPCA", "2026-04-06", "series_not_found"),
    ],
)
def test_a_quotation_that_should_be_known_and_is_not_is_refused(
    db: Connection, currency: str, on: str, key: str
) -> None:
    quote(db, "USD", "2026-04-01", "2026-04-02", "2026-04-06")
    set_clock(db, "2026-04-08T23:30-03:00")
    try:
        with refused(key):
            db.execute("select public.exchange_rate(%s, %s)", (currency, on))
    finally:
        set_clock(db, None)


def test_what_is_too_old_for_today_is_refused_with_its_day(db: Connection) -> None:
    quote(db, "USD", "2026-04-01")
    set_clock(db, "2026-04-07T09:00-03:00")
    try:
        with refused("exchange_rate_missing") as answer:
            db.execute("select public.exchange_rate('USD')")
    finally:
        set_clock(db, None)
    assert answer.detail == (
        "The rate of USD on 2026-04-07 is not known; the last before it is of 2026-04-01."
    )


# --- The log of the synchronisation --------------------------------------------------------------


def start(
    db: Connection, run: UUID | None = None, since: str | None = None, *series: str
) -> dict[str, dict[str, Any]]:
    """Open a run as the worker; give its rows by series."""
    with as_worker(db):
        cursor = db.execute(
            "select l.* from app.start_bcb_sync(%s, %s, %s) as l",
            (run, since, list(series) or None),
        )
        names = [column.name for column in cursor.description or ()]
        return {row[1]: dict(zip(names, row, strict=True)) for row in cursor.fetchall()}


def store(db: Connection, run: UUID, series: str, up_to: object, *rates: dict[str, Any]) -> None:
    """Store a window as the worker."""
    with as_worker(db):
        db.execute(
            "select app.store_bcb_window(%s, %s, %s, %s)",
            (run, series, up_to, json.dumps([{"series": series, **rate} for rate in rates])),
        )


def log(db: Connection, run: UUID, series: str) -> tuple[Any, ...]:
    """Give what the log says of a series in a run."""
    row: tuple[Any, ...] = one(
        db,
        "select status, stored_to::text, rows_read, rows_created, rows_revised, error"
        " from public.bcb_sync_log where run_id = %s and series = %s",
        run,
        series,
    )
    return row


@pytest.fixture
def today(db: Connection) -> Any:
    """It is 23:30 of 31 March 2026 in São Paulo, and April in UTC."""
    set_clock(db, "2026-03-31T23:30-03:00")
    yield "2026-03-31"
    set_clock(db, None)


def test_a_run_goes_on_from_the_last_value_with_an_overlap(db: Connection, today: str) -> None:
    publish(db, "433", {date(2026, 2, 1): 1})
    publish(db, "12", {date(2026, 3, 27): 1})
    rows = start(db)
    assert len(rows) == 9
    assert {row["to_on"].isoformat() for row in rows.values()} == {today}
    got = {series: rows[series]["from_on"].isoformat() for series in ("433", "12", "189", "USD")}
    # Twelve months and thirty days again; a series without values begins with two years.
    assert got == {
        "433": "2025-02-01",
        "12": "2026-02-25",
        "189": "2024-03-01",
        "USD": "2024-03-31",
    }


@pytest.mark.usefixtures("today")
def test_a_backfill_begins_where_it_is_told_or_with_the_series(db: Connection) -> None:
    rows = start(db, None, "1995-06-15")
    got = {series: rows[series]["from_on"].isoformat() for series in ("433", "12", "432", "EUR")}
    assert got == {
        "433": "1995-06-01", "12": "1995-06-15", "432": "1999-03-05", "EUR": "1999-01-04",
    }  # fmt: skip
    with refused("bad_input"):
        start(db, None, "2026-04-01")
    with refused("series_not_found"):
        start(db, None, None, "IPCA", "TR")
    assert set(start(db, None, None, "ipca", "12")) == {"433", "12"}


@pytest.mark.usefixtures("today")
def test_each_window_counts_and_the_last_ends_the_series(db: Connection) -> None:
    publish(db, "12", {date(2006, 1, 2): 1, date(2006, 1, 3): 2})
    run = start(db, None, "2006-01-01", "CDI")["12"]["run_id"]
    known, revised = {"date": "2006-01-02", "value": "1"}, {"date": "2006-01-03", "value": "3"}
    store(db, run, "12", "2015-12-31", known, revised, {"date": "2006-01-04", "value": "4"})
    assert log(db, run, "12") == ("running", "2015-12-31", 3, 1, 1, None)
    with refused("bcb_window_stale"):
        store(db, run, "12", "2015-12-31", known)
    store(db, run, "12", "2026-03-31", {"date": "2026-03-31", "value": "5"})
    assert log(db, run, "12") == ("succeeded", "2026-03-31", 4, 2, 1, None)
    with refused("bcb_window_stale"):
        store(db, run, "12", "2026-03-31", known)
    with refused("bcb_sync_move_refused"):
        db.execute("update public.bcb_sync_log set status = 'running', finished_at = null")


@pytest.mark.usefixtures("today")
def test_what_a_window_brings_is_stored_with_its_mark_or_not_at_all(db: Connection) -> None:
    run = start(db, None, None, "CDI")["12"]["run_id"]
    good, bad = {"date": "2026-03-30", "value": "1"}, {"date": "2026-03-31", "value": "x"}
    with refused("bad_input"):
        store(db, run, "12", "2026-03-31", good, bad)
    assert one(db, "select count(*) from public.bcb_rates_snapshot") == 0
    assert log(db, run, "12")[:3] == ("running", None, 0)


@pytest.mark.usefixtures("today")
def test_a_backfill_cut_short_goes_on_where_it_was(db: Connection) -> None:
    run = start(db, None, "2006-01-01", "CDI", "IPCA")["12"]["run_id"]
    store(db, run, "12", "2015-12-31", {"date": "2006-01-02", "value": "1"})
    other = start(db, None, "2006-01-01", "CDI")["12"]
    assert other["run_id"] != run, "of other series"
    assert log(db, run, "433")[::5] == ("failed", "The process ended early.")
    again = start(db, None, "2006-01-01", "IPCA", "CDI")
    assert again["12"]["run_id"] == run
    assert [again[s]["stored_to"] for s in ("12", "433")] == [date(2015, 12, 31), None]
    assert {row["status"] for row in again.values()} == {"running"}
    for series in ("12", "433"):
        store(db, run, series, "2026-03-31")
    assert start(db, None, "2006-01-01", "CDI", "IPCA")["12"]["run_id"] != run, "it was done"


@pytest.mark.usefixtures("today")
def test_a_backfill_of_long_ago_begins_anew(db: Connection) -> None:
    run = start(db, None, "2006-01-01", "CDI")["12"]["run_id"]
    set_clock(db, "2026-04-02T10:00-03:00")
    assert start(db, None, "2006-01-01", "CDI")["12"]["run_id"] != run
    assert log(db, run, "12")[0] == "failed"


@pytest.mark.usefixtures("today")
def test_a_run_tried_again_does_only_what_has_failed(db: Connection) -> None:
    run = uuid4()
    start(db, run, None, "CDI", "IPCA")
    store(db, run, "433", "2026-03-31")
    with as_worker(db):
        db.execute("select app.fail_bcb_sync(%s, '12', %s)", (run, "x" * 3000))
    assert log(db, run, "12")[::5] == ("failed", "x" * 2000)
    rows = start(db, run, None, "CDI", "IPCA")
    assert {s: (r["status"], r["error"]) for s, r in rows.items()} == {
        "433": ("succeeded", None), "12": ("running", None),
    }  # fmt: skip


def test_the_status_of_a_series_is_its_last_value_and_its_last_run(
    db: Connection, world: World, today: str
) -> None:
    publish(db, "433", {date(2026, 1, 1): "0.33", date(2026, 2, 1): "0.70"})
    quote(db, "USD", "2026-03-30")
    run = start(db, None, None, "IPCA", "USD")["433"]["run_id"]
    store(db, run, "433", today)
    with as_worker(db):
        db.execute("select app.fail_bcb_sync(%s, 'USD', 'no answer')", (run,))
    query = (
        "select key, last_on::text, value, sell, sync_status, sync_error, is_late,"
        " synced_at is not null from public.bcb_series_status"
        " where key in ('IPCA', 'USD', 'EUR') order by key"
    )
    for actor in (as_member(db, world.b, "finance"), as_analyst(db)):
        with actor:
            assert db.execute(query).fetchall() == [
                ("EUR", None, None, None, None, None, True, False),
                ("IPCA", "2026-02-01", Decimal("0.70"), None, "succeeded", None, False, True),
                ("USD", "2026-03-30", None, Decimal(31), "failed", "no answer", False, False),
            ]


@pytest.mark.parametrize(
    ("now", "series", "last", "is_late"),
    [
        ("2026-04-15T12:00-03:00", "433", "2026-02-01", False),
        ("2026-04-16T12:00-03:00", "433", "2026-02-01", True),
        ("2026-04-16T12:00-03:00", "433", "2026-03-01", False),
        # Tuesday after Easter: the last bank day but one is Maundy Thursday.
        ("2026-04-07T12:00-03:00", "12", "2026-04-02", False),
        ("2026-04-07T23:30-03:00", "12", "2026-04-01", True),
        ("2026-04-08T00:30-03:00", "12", "2026-04-02", True),
    ],
)
def test_a_series_is_late_when_its_value_should_have_been_published(
    db: Connection, now: str, series: str, last: str, *, is_late: bool
) -> None:
    publish(db, series, {date.fromisoformat(last): 1})
    set_clock(db, now)
    try:
        query = "select is_late from public.bcb_series_status where series = %s"
        assert one(db, query, series) is is_late
    finally:
        set_clock(db, None)
