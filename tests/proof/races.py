"""Races: every interleaving of the catalogue over and over, and the other tests of what runs at once.

A race that holds by luck fails in one of the rounds; one that could not fail is found by its broken variant, which each
round plays as well.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from tests.proof.section import Run, Section, Table
from tests.proof.suites import Case, cases
from tests.races.catalogue import CATALOGUE
from tests.races.race import Race

ROUNDS: Final = 10


def prove(run: Run) -> Section:
    """Play the whole catalogue ten times, and run everything else in tests/races once."""
    run.say(f"  {len(CATALOGUE)} races in {ROUNDS} rounds")
    return judge(cases(run, "tests/races", f"--rounds={ROUNDS}", spread="load"))


@dataclass
class _Tally:
    """What became of a race: plays by outcome, also broken and broken one after the other, and what gave it away."""

    played: Counter[bool] = field(default_factory=Counter)
    broken: Counter[bool] = field(default_factory=Counter)
    in_turn: Counter[bool] = field(default_factory=Counter)
    noticed: str = ""


def judge(ran: Iterable[Case], races: Collection[Race] = CATALOGUE.values()) -> Section:
    """Tell from a run whether every race has held and every broken variant was noticed."""
    tallies = {race.name: _Tally() for race in races}
    others: Counter[bool] = Counter()
    failures: list[str] = []
    for case in ran:
        has_passed = not case.failure
        if (name := case.properties.get("race")) is not None:
            tallies[name].played[has_passed] += 1
        elif (name := case.properties.get("broken")) is not None:
            tallies[name].broken[has_passed] += 1
            tallies[name].noticed = case.properties.get("noticed", tallies[name].noticed)
        elif (name := case.properties.get("in turn")) is not None:
            tallies[name].in_turn[has_passed] += 1
        else:
            others[has_passed] += 1
        if not has_passed:
            failures.append(case.again)
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
