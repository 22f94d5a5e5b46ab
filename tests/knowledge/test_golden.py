"""The golden set: search by text and meaning together is ahead of either, for a member under row level security."""

import asyncio

import psycopg
import pytest

from nessos.ai.acting import acting, person_claims
from nessos.knowledge.evaluation import Score, Way, evaluate
from nessos.knowledge.index import index_document
from tests.integrations.outside import open_pool
from tests.knowledge import golden
from tests.people import WORLD


@pytest.fixture(scope="module")
def scores(db_url: str) -> dict[Way, Score]:
    """How each way of searching did."""
    with psycopg.connect(db_url, autocommit=True) as db:
        golden.publish(db, WORLD.a)
        documents = db.execute("select id, title from knowledge_documents").fetchall()
    assert sorted(title for _, title in documents) == sorted(
        document.title for document in golden.documents()
    )

    async def run() -> list[Score]:
        recorded = golden.Recorded()
        async with open_pool(db_url) as pool:
            for document, _ in documents:
                await index_document(pool, recorded, org_id=WORLD.a.org, document_id=document)
            owner = person_claims(WORLD.a.member("owner"))
            async with acting(pool, claims=owner) as connection:
                return await evaluate(connection, recorded, golden.questions(), org_id=WORLD.a.org)

    return {score.way: score for score in asyncio.run(run())}


def test_the_set_is_large_enough_to_tell() -> None:
    titles = {document.title for document in golden.documents()}
    questions = golden.questions()
    assert len(titles) >= 60
    assert len({question.text for question in questions}) >= 120
    assert set().union(*(question.relevant for question in questions)) <= titles


@pytest.mark.parametrize("other", ["text", "vector"])
def test_hybrid_search_is_ahead_of_either(scores: dict[Way, Score], other: Way) -> None:
    hybrid, single = scores["hybrid"], scores[other]
    assert hybrid.recall[5] > single.recall[5]
    assert hybrid.mrr > single.mrr
    assert hybrid.ndcg > single.ndcg


def test_no_way_of_searching_falls_behind_what_it_was(scores: dict[Way, Score]) -> None:
    assert scores["text"].ndcg > 0.86
    assert scores["vector"].ndcg > 0.63
    assert scores["hybrid"].recall[5] > 0.915
    assert scores["hybrid"].ndcg > 0.87
