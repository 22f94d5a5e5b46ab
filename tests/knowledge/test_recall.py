"""Search inside one organisation finds what is nearest, however small its share of all passages is."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.knowledge import tenants
from tests.people import Connection, add_person, as_person, named_id

BANDS = {"large": (1, 10_000), "medium": (2, 2000), "small": (20, 100)}


def organization(band: str, number: int) -> UUID:
    """Return the id of an organisation of a band."""
    return named_id("band", band, number)


@pytest.fixture(scope="module")
def owner(empty_db_url: str) -> Iterator[psycopg.Connection[Any]]:
    """The owner of a database with 16,000 passages of 23 organisations, each with one person of role ops."""
    with psycopg.connect(empty_db_url, autocommit=True) as connection:
        sizes = {}
        for band, (many, passages) in BANDS.items():
            for number in range(many):
                org = organization(band, number)
                sizes[org] = passages
                connection.execute(
                    "insert into organizations (id, name, slug) values (%s, %s, %s)",
                    (org, f"{band} {number}", f"{band}-{number}"),
                )
                connection.execute(
                    "insert into memberships (org_id, user_id, role) values (%s, %s, 'ops')",
                    (org, add_person(connection, named_id(org, "ops"), band)),
                )
        tenants.fill(connection, sizes)
        yield connection


def recall(owner: Connection, band: str) -> float:
    """Return how many of the ten nearest passages search has among its ten, as a member of the band's organisations."""
    hits = total = 0
    for number in range(min(BANDS[band][0], 4)):
        org = organization(band, number)
        for question in tenants.questions(owner, org, 12):
            exact = tenants.nearest(owner, org, question)
            with as_person(owner, named_id(org, "ops")):
                found = owner.execute(
                    "select id from app.knowledge_matches(%s, 'internal', 'nada', %s::extensions.halfvec, 50)"
                    " where vector_rank <= 10",
                    (org, question.vector),
                ).fetchall()
            hits += len({row[0] for row in found} & set(exact))
            total += len(exact)
    assert total >= 120
    return hits / total


@pytest.mark.parametrize("band", BANDS)
def test_search_finds_nearly_all_that_is_nearest(owner: Connection, band: str) -> None:
    assert recall(owner, band) >= 0.98


def test_a_walk_that_does_not_go_on_misses_passages(owner: Connection) -> None:
    walk = "function app.nearest_by_walk(text[], extensions.halfvec, integer)"
    with owner.transaction(force_rollback=True):
        owner.execute(f'alter {walk} set "hnsw.iterative_scan" = off')
        owner.execute(f'alter {walk} reset "hnsw.ef_search"')
        assert recall(owner, "medium") < 0.9


def test_a_search_that_does_not_name_the_organisation_misses_passages(owner: Connection) -> None:
    with owner.transaction(force_rollback=True):
        row = owner.execute(
            "select pg_get_functiondef('app.nearest_by_walk(text[], extensions.halfvec, integer)'::regprocedure)"
        ).fetchone()
        assert row is not None
        assert "c.scope = any(nearest_by_walk.scopes)" in row[0]
        owner.execute(row[0].replace("c.scope = any(nearest_by_walk.scopes)", "true"))
        assert recall(owner, "medium") < 0.9


def test_the_same_question_finds_the_same_the_first_the_sixth_and_the_fiftieth_time(
    owner: Connection,
) -> None:
    org = organization("large", 0)
    question = tenants.questions(owner, org, 1)[0]
    answers = []
    with as_person(owner, named_id(org, "ops")):
        for _ in range(50):
            rows = owner.execute(
                "select chunk_id, score from search_knowledge(%s, %s, %s::extensions.halfvec)",
                (org, question.words, question.vector),
                prepare=True,
            ).fetchall()
            answers.append(rows)
    assert answers[0]
    assert answers[5] == answers[0]
    assert answers[49] == answers[0]


def test_a_long_question_in_a_large_organisation_finds_the_passage_it_is_taken_from(
    owner: Connection,
) -> None:
    org = organization("large", 0)
    asked = tenants.questions(owner, org, 20)
    found = 0
    with as_person(owner, named_id(org, "ops")):
        for question in asked:
            contents = owner.execute(
                "select content from search_knowledge(%s, %s, p_limit => 10)", (org, question.words)
            ).fetchall()
            found += any(question.words in row[0].replace(".", "") for row in contents)
    assert found >= 18
