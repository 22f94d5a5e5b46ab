"""A slice of the attack on the border, what it found once, and holes that it must find."""

import json
from collections.abc import Callable, Iterator

import pytest

from tests.cluster import Server
from tests.proof.border import BODIES, RAW, Border, Surface, Tally, attack, border_of

SEED = 20260101
EXAMPLES = 60


@pytest.fixture(scope="module")
def border(server: Server, world_template: str) -> Iterator[Border]:  # noqa: ARG001 - cloned inside
    """The running stack with its surfaces."""
    with border_of(server) as border:
        yield border


def test_hostile_bodies_are_refused_and_the_next_one_is_served(
    border: Border, proves: Callable[[str], None]
) -> None:
    assert len(border.surfaces) > 8
    sent = 0
    for surface in border.surfaces:
        tally = attack(border, surface, examples=EXAMPLES, number=SEED)
        assert tally.failures == []
        sent += tally.answered.total()
    assert border.unchecked() == []
    proves(f"border: {sent} hostile bodies to {len(border.surfaces)} surfaces refused or taken")


def test_whole_bodies_that_are_not_what_they_say_are_refused(border: Border) -> None:
    tally = Tally()
    wrong = {
        surface.name: (found, body[:80])
        for surface in border.surfaces
        for body in BODIES
        if (found := border.verdict(surface, body, tally))
    }
    assert wrong == {}


@pytest.mark.parametrize("raw", RAW, ids=lambda raw: raw[:8])
def test_a_value_no_encoder_would_write_is_refused(border: Border, raw: str) -> None:
    for surface in border.surfaces:
        for name in surface.valid():
            text = json.dumps(surface.valid() | {name: "RAW"}).replace('"RAW"', raw)
            assert border.verdict(surface, text.encode(), Tally()) is None, (surface.name, name)


def test_a_function_that_breaks_and_one_that_tells_internals_are_found(border: Border) -> None:
    holes = {
        "breaks": "begin if hole.word like '%''%' then raise 'x' using errcode = 'XX000'; end if; return 'ok'; end",
        "tells": "begin if hole.word <> '' then return 'read /usr/lib/hole.sql'; end if; return 'ok'; end",
    }
    surface = Surface("planted", "/rest/v1/rpc/hole", lambda: {"word": "a"})
    for name, body in holes.items():
        border.api.db.execute(
            "create or replace function public.hole(word text) returns text language plpgsql set search_path = ''"
            f" as $${body}$$; grant execute on function public.hole to anon; notify pgrst, 'reload schema'"
        )
        tallies = (attack(border, surface, examples=300, number=n) for n in range(10))
        assert any(tally.failures for tally in tallies), name
    border.api.db.execute("drop function public.hole")


def test_a_row_that_a_check_refuses_is_found(border: Border) -> None:
    db = border.api.db
    db.execute("alter table leads drop constraint leads_name_check")
    db.execute(
        "insert into leads (org_id, name, email) values (%s, '', 'x@y.example')",
        (border.company.id,),
    )
    db.execute("alter table leads add constraint leads_name_check check (name <> '') not valid")
    assert border.unchecked() == ["leads has rows that leads_name_check refuses"]
    db.execute("delete from leads where name = ''")
