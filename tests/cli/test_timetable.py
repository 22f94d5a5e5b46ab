"""The timetable: its lines, its hours, and that every line runs on a database with the demo companies."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import psycopg
import pytest
from psycopg import sql

from cron.runner import Trigger, organizations
from cron.timetable import Job, load, parse
from nessos.errors import UsageError
from nessos.jobs.catalogue import entrypoints

SAO_PAULO, NEW_YORK = "America/Sao_Paulo", "America/New_York"
LINE = """
name = "a.job"
when = ["0 4 * * *"]
what = "works"
scope = "installation"
function = "work"
"""


def timetable(line: str, zone: str = SAO_PAULO) -> str:
    return f'time_zone = "{zone}"\n[[jobs]]\n{line}'


def job(when: str, zone: str) -> Job:
    return parse(timetable(LINE.replace("0 4 * * *", when), zone)).jobs[0]


def fire_times(when: str, zone: str, since: str, until: str) -> list[str]:
    """Give the fire times of a span of local days, as the wall clock shows them, and their offsets."""
    line, local = job(when, zone), ZoneInfo(zone)
    moment = datetime.fromisoformat(since).replace(tzinfo=local) - timedelta(seconds=1)
    end = datetime.fromisoformat(until).replace(tzinfo=local)
    times = []
    while (moment := line.next_fire_time(moment)) < end.astimezone(UTC):
        # What is due at a moment is what was due last at that moment, and a little later.
        assert line.last_fire_time(moment) == moment
        assert line.last_fire_time(moment + timedelta(seconds=59)) == moment
        times.append(f"{moment.astimezone(local):%d %H:%M %z}")
    return times


def test_the_hours_are_those_of_sao_paulo() -> None:
    zone = ZoneInfo(SAO_PAULO)
    late = datetime(2026, 3, 31, 23, 30, tzinfo=zone)
    compute = load().job("indices.compute")
    assert compute.next_fire_time(late) == datetime(2026, 4, 1, 4, tzinfo=zone)
    assert compute.next_fire_time(datetime(2026, 4, 1, 4, tzinfo=zone)) == datetime(
        2026, 4, 1, 4, 10, tzinfo=zone
    )
    assert compute.last_fire_time(late) == datetime(2026, 3, 31, 4, 10, tzinfo=zone)


def test_at_half_past_eleven_of_a_month_s_last_evening_it_is_still_that_day() -> None:
    assert fire_times("30 23 31 * *", SAO_PAULO, "2026-01-01", "2026-06-01") == [
        *("31 23:30 -0300", "31 23:30 -0300", "31 23:30 -0300")
    ]
    assert job("30 23 31 * *", SAO_PAULO).next_fire_time(
        datetime(2026, 3, 31, 23, 0, tzinfo=UTC)
    ) == datetime(2026, 4, 1, 2, 30, tzinfo=UTC)


def test_a_leap_day_is_found_from_both_sides_also_over_a_century_without_one() -> None:
    line = job("0 4 29 feb *", SAO_PAULO)
    before, after = (datetime(year, 2, 29, 7, tzinfo=UTC) for year in (2096, 2104))
    assert line.next_fire_time(before) == after
    assert line.last_fire_time(after - timedelta(seconds=1)) == before


@pytest.mark.parametrize(
    ("when", "zone", "since", "until", "expected"),
    [
        # Clocks forward: 02:00 became 03:00. What was to run in the hour that is not, runs as much later.
        ("30 2 * * *", NEW_YORK, "2026-03-07", "2026-03-10",
         ["07 02:30 -0500", "08 03:30 -0400", "09 02:30 -0400"]),
        ("0 3 * * *", NEW_YORK, "2026-03-08", "2026-03-09", ["08 03:00 -0400"]),
        # Midnight itself was missing in São Paulo.
        ("15 0 * * *", SAO_PAULO, "2018-11-03", "2018-11-06",
         ["03 00:15 -0300", "04 01:15 -0200", "05 00:15 -0200"]),
        # Clocks back: 02:00 became 01:00. What is to run at half past one runs the first time only.
        ("30 1 * * *", NEW_YORK, "2026-10-31", "2026-11-03",
         ["31 01:30 -0400", "01 01:30 -0400", "02 01:30 -0500"]),
        ("30 23 * * *", SAO_PAULO, "2019-02-15", "2019-02-18",
         ["15 23:30 -0200", "16 23:30 -0200", "17 23:30 -0300"]),
        # What runs in every hour runs in the missing one never, in the repeated one twice.
        ("*/30 * * * *", NEW_YORK, "2026-03-08T01:00", "2026-03-08T04:00",
         ["08 01:00 -0500", "08 01:30 -0500", "08 03:00 -0400", "08 03:30 -0400"]),
        ("*/30 * * * *", NEW_YORK, "2026-11-01T01:00", "2026-11-01T02:30",
         ["01 01:00 -0400", "01 01:30 -0400", "01 01:00 -0500", "01 01:30 -0500", "01 02:00 -0500"]),
    ],
)  # fmt: skip
def test_a_job_runs_once_where_daylight_saving_removes_or_repeats_its_hour(
    when: str, zone: str, since: str, until: str, expected: list[str]
) -> None:
    assert fire_times(when, zone, since, until) == expected


def test_apscheduler_is_told_the_next_fire_time_not_each_that_was_slept_through() -> None:
    trigger = Trigger(job("* * * * *", SAO_PAULO))
    asleep, awake = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, 12, 0, 30, tzinfo=UTC)
    assert trigger.get_next_fire_time(None, asleep) == asleep + timedelta(minutes=1)
    assert trigger.get_next_fire_time(asleep, awake) == awake + timedelta(seconds=30)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (LINE.replace("scope", "scop"), "scope is missing"),
        (LINE + 'color = "red"', "color is not known"),
        (LINE.replace("installation", "planet"), "scope is planet"),
        (LINE + 'entrypoint = "sync.all"', "either a function or an entrypoint"),
        (LINE.replace("function", "organizations"), "either a function or an entrypoint"),
        (LINE + 'organizations = "some"', "no meaning for the installation"),
        (LINE.replace("0 4 * * *", "0 4 * *"), "is no time"),
        (LINE.replace("0 4 * * *", "0 25 * * *"), "is no time"),
        (LINE.replace("0 4 * * *", "0 4 31 feb *"), "never due"),
        (LINE.replace("0 4 * * *", "0 * 1 * *"), "name the hours"),
        (LINE.replace("0 4 * * *", "0 4 * * 0"), "weekdays by name"),
        (LINE + "[[jobs]]" + LINE, "a.job: there are two of this name"),
    ],
)
def test_a_line_that_cannot_be_meant_is_refused(line: str, words: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse(timetable(line))
    assert words in str(refusal.value)


@pytest.fixture(scope="module")
def seeded(seeded_url: str) -> Iterator[psycopg.Connection]:
    """The demo companies, 500 days from now."""
    with psycopg.connect(seeded_url, autocommit=True) as db:
        db.execute("select set_config('app.now', (now() + interval '500 days')::text, false)")
        yield db


@pytest.mark.parametrize("line", load().jobs, ids=lambda line: line.name)
def test_a_line_of_the_timetable_finds_what_it_names_in_the_database(
    seeded: psycopg.Connection, line: Job
) -> None:
    there = {
        name
        for (name,) in seeded.execute(
            "select p.oid::regprocedure::text from pg_proc as p"
            " where p.pronamespace = 'app'::regnamespace"
            " union all select entrypoint from app.job_types"
        )
    }
    assert set(line.needs()) <= there
    assert line.entrypoint in {one.name for one in entrypoints()}


@pytest.mark.parametrize(
    "line", [line for line in load().jobs if line.function], ids=lambda line: line.name
)
def test_a_function_of_the_timetable_runs_and_can_run_again(
    seeded: psycopg.Connection, line: Job
) -> None:
    function = sql.Identifier("app", line.function or "")
    whom = sql.SQL("select unnest({})").format(organizations(line))
    orgs = [org for (org,) in seeded.execute(whom)] if line.scope == "organization" else [None]
    for org in orgs:
        call = sql.SQL("select {}({})").format(function, org or sql.SQL(""))
        (first,), (second,) = (seeded.execute(call).fetchone() or (None,) for _ in range(2))
        # What it counts is what it wrote, or what it did as an object; there is less to do the second time.
        assert isinstance(first, int | dict)
        assert not isinstance(first, int) or 0 <= second <= first
