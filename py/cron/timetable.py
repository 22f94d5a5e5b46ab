"""The timetable as data: what runs when, and for whom."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any, Final, Literal, get_args
from zoneinfo import ZoneInfo

from nessos.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Scope = Literal["installation", "organization"]

_CLOCK_CHANGE: Final = timedelta(hours=3)
"""No zone moves its clocks further."""

_SPANS: Final = tuple(timedelta(days=days) for days in (1 / 24, 2, 32, 367, 9 * 366))
"""How far back to look for the last fire time: an hour, a day, a month, a year, any 29 February."""


@dataclass(frozen=True)
class Job:
    """One line of the timetable.

    Attributes:
        name: Its name.
        when: Crontab expressions, minute to weekday.
        what: What it does, for people.
        scope: Once for the installation, or once for every organisation.
        function: A function of schema `app`; with scope organization it takes `org uuid`. None
            where `entrypoint` says what runs.
        entrypoint: The job of the queue that does the work.
        organizations: A function of schema `app` that gives the organisations concerned; None means
            every active one.
        time_zone: The time zone of `when`.
    """

    name: str
    when: tuple[str, ...]
    what: str
    scope: Scope
    function: str | None
    entrypoint: str
    organizations: str | None
    time_zone: str

    def needs(self) -> list[str]:
        """Name what the database must have for it.

        Returns:
            Functions with the types of their arguments, and the job of the queue.
        """
        arguments = "uuid" if self.scope == "organization" else ""
        return [
            self.entrypoint,
            *([f"app.{self.function}({arguments})"] if self.function else []),
            *([f"app.{self.organizations}()"] if self.organizations else []),
        ]

    def next_fire_time(self, after: datetime) -> datetime:
        """Say when it is due next.

        Args:
            after: A moment with a time zone.

        Returns:
            The first fire time later than that, in UTC.

        Raises:
            UsageError: It is never due.
        """
        after = after.astimezone(UTC)
        coming = [at for one in self.when for at in islice(self._fire_times(one, after), 1)]
        if not coming:
            raise UsageError(f"{self.name} is never due", "see py/cron/timetable.toml")
        return min(coming)

    def last_fire_time(self, now: datetime) -> datetime:
        """Say when it was due last.

        Args:
            now: A moment with a time zone.

        Returns:
            The last fire time that is not later than that, in UTC.

        Raises:
            UsageError: It has never been due.
        """
        now = now.astimezone(UTC)
        for span in _SPANS:
            past = [
                at
                for one in self.when
                for at in takewhile(lambda at: at <= now, self._fire_times(one, now - span))
            ]
            if past:
                return max(past)
        raise UsageError(f"{self.name} has never been due", "see py/cron/timetable.toml")

    def _fire_times(self, expression: str, after: datetime) -> Iterator[datetime]:
        """Give the fire times of one expression that are later than a moment.

        APScheduler's own trigger skips the hour that daylight saving removes and does not get past
        the hour that it repeats. So it counts here on a clock that never changes, and each reading
        of that clock is one moment: of a repeated hour the first, of a removed one as much later.
        Minutes of every hour are counted in UTC: they go on through both.
        """
        from apscheduler.triggers.cron import CronTrigger  # noqa: PLC0415 - help is instant

        trigger = CronTrigger.from_crontab(expression, timezone=UTC)
        is_hourly = expression.split()[1] == "*"
        zone = UTC if is_hourly else ZoneInfo(self.time_zone)
        reading = after.astimezone(zone).replace(tzinfo=UTC, fold=0)
        if not is_hourly:
            reading -= _CLOCK_CHANGE
        while reading := trigger.get_next_fire_time(None, reading + timedelta(microseconds=1)):
            moment = reading.replace(tzinfo=zone).astimezone(UTC)
            if moment > after:
                yield moment


@dataclass(frozen=True)
class Timetable:
    """All jobs.

    Attributes:
        jobs: The jobs, in the order of the file.
        time_zone: Whose hours the timetable means.
    """

    jobs: tuple[Job, ...]
    time_zone: str

    def job(self, name: str) -> Job:
        """Find a job.

        Args:
            name: Its name.

        Returns:
            The job.

        Raises:
            UsageError: There is none of this name.
        """
        for one in self.jobs:
            if one.name == name:
                return one
        raise UsageError(f"there is no job {name}", "nessos cron list")


@cache
def load() -> Timetable:
    """Read the timetable that is installed with this package.

    Returns:
        The timetable.

    Raises:
        UsageError: A line says too little, too much or the impossible.
    """
    return parse((files("cron") / "timetable.toml").read_text())


def parse(text: str) -> Timetable:
    """Read a timetable.

    Args:
        text: TOML, as in `timetable.toml`.

    Returns:
        The timetable.

    Raises:
        UsageError: A line says too little, too much or the impossible.
    """
    raw = tomllib.loads(text)
    jobs = tuple(_job(line, raw["time_zone"]) for line in raw["jobs"])
    names = [job.name for job in jobs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UsageError(f"{', '.join(sorted(twice))}: there are two of this name", None)
    return Timetable(jobs, raw["time_zone"])


def _job(line: Mapping[str, Any], time_zone: str) -> Job:
    name = line.get("name", "a line without a name")
    if missing := {"name", "when", "what", "scope"} - set(line):
        raise UsageError(f"{name}: {', '.join(sorted(missing))} is missing")
    if unknown := set(line) - set(Job.__dataclass_fields__) | {"time_zone"} & set(line):
        raise UsageError(f"{name}: {', '.join(sorted(unknown))} is not known")
    scope, function, entrypoint = line["scope"], line.get("function"), line.get("entrypoint")
    if scope not in get_args(Scope):
        raise UsageError(f"{name}: scope is {scope}", f"one of {', '.join(get_args(Scope))}")
    if (function is None) == (entrypoint is None):
        raise UsageError(f"{name}: name either a function or an entrypoint")
    if scope == "installation" and "organizations" in line:
        raise UsageError(f"{name}: organizations has no meaning for the installation")
    own = "cron.run" if scope == "installation" else "cron.run_organization"
    job = Job(
        name=name,
        when=tuple(line["when"]),
        what=line["what"],
        scope=scope,
        function=function,
        entrypoint=entrypoint or own,
        organizations=line.get("organizations"),
        time_zone=time_zone,
    )
    try:
        job.next_fire_time(datetime.now(UTC))
    except ValueError as error:
        raise UsageError(f"{name}: {' and '.join(job.when)} is no time", str(error)) from error
    for _, hour, *days in map(str.split, job.when):
        if hour == "*" and days != ["*", "*", "*"]:
            raise UsageError(f"{name}: every hour of some days", "name the hours, or run every day")
        if any(letter.isdigit() for letter in days[2]):
            # APScheduler counts them from Monday, everybody else from Sunday.
            raise UsageError(f"{name}: {days[2]}", "weekdays by name: mon … sun")
    return job
