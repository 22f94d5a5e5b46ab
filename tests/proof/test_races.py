"""The proof of races would tell: of a play that failed, of a broken variant that did not, of a race never played."""

from xml.etree import ElementTree as ET

import pytest

from tests.proof.races import judge
from tests.proof.suites import Case, read_cases
from tests.races.catalogue import CATALOGUE

HELD = '<testcase name="a"><properties><property name="race" value="{0}"/></properties></testcase>'
NOTICED = (
    '<testcase name="b"><properties><property name="broken" value="{0}"/>'
    '<property name="noticed" value="assert 2 == 1"/></properties></testcase>'
)
IN_TURN = (
    '<testcase name="d"><properties><property name="in turn" value="{0}"/></properties></testcase>'
)
LOST = HELD.replace("</testcase>", '<failure message="assert 2 == 1"/></testcase>')
UNNOTICED = (
    '<testcase name="b"><properties><property name="broken" value="{0}"/></properties>'
    '<failure message="DID NOT RAISE"/></testcase>'
)
OTHER = '<testcase name="c"/>'
RACES = list(CATALOGUE.values())[:2]


def cases(*lines: str) -> list[Case]:
    """Read the cases of a report with these lines for each of two races."""
    text = "".join(line.format(race.name) for race in RACES for line in lines)
    return read_cases(ET.fromstring(f"<suite>{text}</suite>"))  # noqa: S314 - written above


def test_races_that_hold_and_are_noticed_without_their_guard_keep_the_proof() -> None:
    section = judge(cases(HELD, HELD, NOTICED, IN_TURN, OTHER), RACES)
    assert (section.is_kept, section.failures) == (True, ())
    assert section.summary.startswith(
        "2 interleavings of two or three sessions: 4 of 4 plays held, 2 of 2 of their broken"
    )
    assert [(row[4], row[6], row[7]) for row in section.tables[0].rows] == [
        ("2 of 2", "1 of 1", "assert 2 == 1")
    ] * 2


@pytest.mark.parametrize(
    "lines",
    [
        (HELD, LOST, NOTICED, IN_TURN, OTHER),
        (HELD, UNNOTICED, IN_TURN, OTHER),
        (HELD, IN_TURN, OTHER),
        (NOTICED, IN_TURN, OTHER),
        (HELD, NOTICED, OTHER),
        (HELD, NOTICED, IN_TURN, OTHER.replace("/>", "><error/></testcase>")),
        (HELD, NOTICED, IN_TURN),
    ],
    ids=[
        *("lost", "unnoticed", "never broken", "never played", "never in turn"),
        *("another fails", "nothing else ran"),
    ],
)
def test_anything_less_does_not(lines: tuple[str, ...]) -> None:
    assert not judge(cases(*lines), RACES).is_kept
