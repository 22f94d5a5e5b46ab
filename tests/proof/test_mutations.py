"""A slice of the mutation score, and a mutation that changes nothing, which nobody may notice."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import psycopg
import pytest

from tests.cluster import Server
from tests.people import Connection
from tests.proof import mutations
from tests.proof.mutations import GENERATORS, Mutation
from tests.proof.score import (
    EQUIVALENT,
    NEUTRAL,
    WITNESSES,
    Result,
    Stage,
    attempt,
    filled,
    section,
)

SAMPLE = 60


@pytest.fixture(scope="module")
def stage(server: Server, world_template: str) -> Iterator[Stage]:  # noqa: ARG001 - filled clones it
    """A database with rows in every tenant table."""
    with filled(server) as stage:
        yield stage


@pytest.fixture
def catalogued(stage: Stage) -> Iterator[Connection]:
    """A connection to it."""
    with psycopg.connect(stage.url) as connection:
        yield connection
        connection.rollback()


def test_a_sample_of_the_mutations_is_noticed(
    server: Server, stage: Stage, catalogued: Connection, proves: Callable[[str], None]
) -> None:
    everything = mutations.of(catalogued)
    catalogued.rollback()
    total = len(everything)
    assert total > 3000
    # Those that need tests of their own take seconds each: one of them, the others are for the proof.
    [guard] = [one for one in everything if one.target == "contracts_10_guard_delete"]
    everything = [one for one in everything if one.kind != "drop trigger"]
    kinds = {mutation.kind for mutation in everything}
    draw = random.Random(1)  # noqa: S311 - the same sample each time
    draw.shuffle(everything)
    of_each_kind = [next(one for one in everything if one.kind == kind) for kind in sorted(kinds)]
    sample = [guard, *of_each_kind, *everything[: SAMPLE - len(kinds)]]
    results = [attempt(server, stage, mutation) for mutation in sample]
    assert [(one.mutation.name, one.verdict, one.by) for one in results if one.verdict not in {"killed", "equivalent"}] == []  # fmt: skip
    proves(f"mutations: {len(results)} of {total:,} tried, all noticed")


def test_a_mutation_that_changes_nothing_survives(server: Server, stage: Stage) -> None:
    result = attempt(server, stage, replace(NEUTRAL, table="feedback_cycles"))
    assert (result.verdict, result.by) == ("survived", "")


@pytest.mark.parametrize("look", WITNESSES)
def test_no_witness_sees_what_is_not_there(
    stage: Stage, look: Callable[[Connection, Mutation, Stage], str | None]
) -> None:
    with psycopg.connect(stage.url) as db:
        for kind in ("drop audit", "drop check", "grant execute", "drop policy", "agents write"):
            idle = Mutation(kind, "clients.clients_name_check", "contracts", "")
            assert look(db, idle, stage) is None
        db.rollback()


def test_what_cannot_be_applied_is_not_counted(server: Server, stage: Stage) -> None:
    mutation = Mutation("drop check", "nothing", "clients", "alter table clients drop constraint x")
    result = attempt(server, stage, mutation)
    assert result.verdict == "invalid"
    assert not section([result]).is_kept


def test_a_survivor_below_the_floor_is_a_failure() -> None:
    results = [Result(NEUTRAL, "killed", "x", 0)] * 90 + [Result(NEUTRAL, "survived", "", 0)]
    assert not section(results).is_kept
    assert "98.90%" in section(results).summary


def test_every_equivalent_mutation_exists_and_has_a_reason(catalogued: Connection) -> None:
    names = {mutation.name for mutation in mutations.of(catalogued)}
    assert set(EQUIVALENT) <= names
    assert all(EQUIVALENT.values())
    assert len(GENERATORS) > 8
