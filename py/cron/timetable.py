"""The timetable as data."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from nessos.errors import UsageError

if TYPE_CHECKING:
    from apscheduler.triggers.base import BaseTrigger


@dataclass(frozen=True)
class Job:
    """One line of the timetable.

    Attributes:
        name: Its name; the queue knows it as `cron.<name>`.
        when: Crontab expressions, minute to weekday.
        function: A function of schema `app` without arguments.
        what: What it does, for people.
        time_zone: The time zone of `when`.
    """

    name: str
    when: tuple[str, ...]
    function: str
    what: str
    time_zone: str

    @property
    def entrypoint(self) -> str:
        """Its name in the queue."""
        return f"cron.{self.name}"

    def triggers(self) -> list[BaseTrigger]:
        """Give APScheduler's triggers, one per expression.

        Returns:
            The triggers.
        """
        from apscheduler.triggers.cron import CronTrigger  # noqa: PLC0415 - the worker does without

        return [CronTrigger.from_crontab(one, timezone=self.time_zone) for one in self.when]

    def next_fire_time(self, after: datetime | None = None) -> datetime:
        """Say when it is due next.

        Args:
            after: A moment with a time zone; now when None.

        Returns:
            The moment.
        """
        now = after or datetime.now(ZoneInfo(self.time_zone))
        due: list[datetime] = [one.get_next_fire_time(None, now) for one in self.triggers()]
        return min(due)


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
    """
    raw = tomllib.loads((files("cron") / "timetable.toml").read_text())
    zone = raw["time_zone"]
    return Timetable(
        tuple(
            Job(one["name"], tuple(one["when"]), one["function"], one["what"], zone)
            for one in raw["jobs"]
        ),
        zone,
    )
