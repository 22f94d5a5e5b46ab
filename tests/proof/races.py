"""Races: every interleaving of the catalogue over and over, and the other tests of what runs at once.

A race that holds by luck fails in one of the rounds; one that could not fail is found by its broken variant, which each
round plays as well.
"""

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from nessos.settings import ROOT
from tests.proof.section import Run, Section, Table
from tests.races.catalogue import CATALOGUE
from tests.races.race import Race

ROUNDS: Final = 10


def prove(run: Run) -> Section:
    """Play the whole catalogue ten times, and run everything else in tests/races once."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "races.xml")
        run.say(f"  {len(CATALOGUE)} races in {ROUNDS} rounds")
        subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "tests/races", "-q", f"--rounds={ROUNDS}"),
                *("-n", str(run.processes), "--dist", "load", f"--junitxml={report}"),
            ],
            cwd=ROOT,
            check=False,
            stdout=subprocess.DEVNULL,
        )
        if not report.exists():
            return Section(
                title="Races", summary="not played", is_kept=False, failures=("pytest has written no report",)
            )  # fmt: skip
        # Our own report of a moment ago, not something received.
        return judge(ET.parse(report).iter("testcase"))  # noqa: S314


@dataclass
class _Tally:
    """What became of a race: plays by outcome, also broken and broken one after the other, and what gave it away."""

    played: Counter[bool] = field(default_factory=Counter)
    broken: Counter[bool] = field(default_factory=Counter)
    in_turn: Counter[bool] = field(default_factory=Counter)
    noticed: str = ""


def judge(cases: Iterable[ET.Element], races: Collection[Race] = CATALOGUE.values()) -> Section:
    """Tell from the cases of a report whether every race has held and every broken variant was noticed."""
    tallies = {race.name: _Tally() for race in races}
    others: Counter[bool] = Counter()
    failures: list[str] = []
    for case in cases:
        properties = {
            one.get("name"): one.get("value", "") for one in case.iterfind("properties/property")
        }
        has_passed = case.find("failure") is None and case.find("error") is None
        if (name := properties.get("race")) is not None:
            tallies[name].played[has_passed] += 1
        elif (name := properties.get("broken")) is not None:
            tallies[name].broken[has_passed] += 1
            tallies[name].noticed = properties.get("noticed", tallies[name].noticed)
        elif (name := properties.get("in turn")) is not None:
            tallies[name].in_turn[has_passed] += 1
        else:
            others[has_passed] += 1
        if not has_passed:
            failures.append(_failure(case))
    failures += [
        f"{race.name}: not played in this run"
        for race in races
        for tally in [tallies[race.name]]
        if not (tally.played and tally.broken and (tally.in_turn or not race.is_of_meeting))
    ]
    plays = sum((tally.played for tally in tallies.values()), Counter[bool]())
    broken = sum((tally.broken for tally in tallies.values()), Counter[bool]())
    in_turn = sum((tally.in_turn for tally in tallies.values()), Counter[bool]())
    return Section(
        title="Races",
        summary=(
            f"{len(tallies)} interleavings of two or three sessions: {_of(plays)} plays held,"
            f" {_of(broken)} of their broken variants were noticed, {_of(in_turn)} of which hold where the sessions"
            f" do not meet; {_of(others)} other tests at once"
        ),
        is_kept=not failures and others[True] > 0,
        tables=(
            Table(
                caption="Races",
                columns=("race", "sessions", "orders", "what holds", "held", "without", "noticed", "by", "in turn"),
                rows=tuple(
                    (
                        race.name, race.sessions, ", ".join(race.orders), race.holds, _of(tallies[race.name].played),
                        race.guard, _of(tallies[race.name].broken), tallies[race.name].noticed,
                        _of(tallies[race.name].in_turn) if race.is_of_meeting else "",
                    )
                    for race in races
                ),
            ),
        ),
        failures=tuple(failures),
    )  # fmt: skip


def _of(counts: Counter[bool]) -> str:
    return f"{counts[True]} of {counts.total()}"


def _failure(case: ET.Element) -> str:
    problem = case.find("failure")
    problem = case.find("error") if problem is None else problem
    words = "" if problem is None else problem.get("message", "").partition("\n")[0]
    file = case.get("classname", "").replace(".", "/") + ".py"
    return f"{case.get('name')}: {words} (again: .venv/bin/pytest '{file}::{case.get('name')}' --rounds={ROUNDS})"
