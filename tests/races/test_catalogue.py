"""Every race of the catalogue in each of its orders, and its broken variant, which the same assertions must notice."""

from collections.abc import Callable

import pytest

from tests.races.catalogue import CATALOGUE
from tests.races.race import Race
from tests.races.sessions import open_stage

Record = Callable[[str, object], None]


@pytest.mark.usefixtures("round_number")
@pytest.mark.parametrize(
    ("race", "order"),
    [
        pytest.param(race, order, id=race.name + (f", {order}" if len(race.orders) > 1 else ""))
        for race in CATALOGUE.values()
        for order in race.orders
    ],
)
def test_race(db_url: str, record_property: Record, race: Race, order: str) -> None:
    record_property("race", race.name)
    with open_stage(db_url) as stage:
        race.play(stage, order)


@pytest.mark.usefixtures("round_number")
@pytest.mark.parametrize("race", [pytest.param(race, id=race.name) for race in CATALOGUE.values()])
def test_its_broken_variant_fails(db_url: str, record_property: Record, race: Race) -> None:
    record_property("broken", race.name)
    with (
        open_stage(db_url) as stage,
        race.without(stage.db),
        pytest.raises(AssertionError) as noticed,
    ):
        race.play(stage, race.broken_in)
    record_property("noticed", str(noticed.value).splitlines()[0])


@pytest.mark.parametrize(
    "race",
    [pytest.param(race, id=race.name) for race in CATALOGUE.values() if race.is_of_meeting],
)
def test_its_broken_variant_holds_one_after_the_other(
    db_url: str, record_property: Record, race: Race
) -> None:
    record_property("in turn", race.name)
    with open_stage(db_url, in_turn=True) as stage, race.without(stage.db):
        race.play(stage, race.broken_in)


def test_there_are_races_enough(proves: Callable[[str], None]) -> None:
    orders = sum(len(race.orders) for race in CATALOGUE.values())
    assert len(CATALOGUE) >= 24
    in_turn = sum(race.is_of_meeting for race in CATALOGUE.values())
    proves(
        f"races: {len(CATALOGUE)} interleavings of real sessions in {orders} orders, each noticed without its guard,"
        f" {in_turn} of them only where the sessions meet"
    )
