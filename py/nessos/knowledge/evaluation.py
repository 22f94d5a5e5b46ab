"""How well search answers a set of questions: by text, by meaning, and both together."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from nessos.errors import UsageError
from nessos.knowledge.index import checked
from nessos.knowledge.search import fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path
    from uuid import UUID

    from nessos.knowledge.index import Embedder
    from nessos.knowledge.search import Audience, Connection, Hit

Way = Literal["text", "vector", "hybrid"]

WAYS: Final[tuple[Way, ...]] = ("text", "vector", "hybrid")

CUTS: Final = (1, 3, 5, 10)
"""Numbers of documents that recall is given at."""

_DEPTH: Final = 50
_BATCH: Final = 100


@dataclass(frozen=True)
class Question:
    """A question of the set.

    Attributes:
        text: As somebody asks it.
        relevant: The documents that answer it, by title or id.
    """

    text: str
    relevant: frozenset[str]


@dataclass(frozen=True)
class Score:
    """How one way of searching did over all questions.

    Attributes:
        way: text, vector or hybrid.
        recall: Share of the relevant documents among the first 1, 3, 5 and 10.
        mrr: Mean of one divided by the place of the first relevant document, of the first 10.
        ndcg: Discounted gain of the first 10, 1 where the relevant ones stand first.
    """

    way: Way
    recall: dict[int, float]
    mrr: float
    ndcg: float


def read(path: Path) -> list[Question]:
    """Read a set of questions.

    Args:
        path: A file with a JSON object a line: question, and relevant, a list of titles or ids.

    Returns:
        The questions.

    Raises:
        UsageError: A line is something else, or there is none.
    """
    questions = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            given = json.loads(line)
            text, relevant = given["question"], frozenset(map(str, given["relevant"]))
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(
                f"line {number} of {path.name} is no question",
                'a line is {"question": "…", "relevant": ["title or id of a document"]}',
            ) from error
        if not isinstance(text, str) or not text.strip() or not relevant:
            raise UsageError(f"line {number} of {path.name} asks nothing or wants nothing")
        questions.append(Question(text, relevant))
    if not questions:
        raise UsageError(f"{path.name} holds no question")
    return questions


async def evaluate(  # noqa: PLR0913 - what it takes, by keyword
    connection: Connection,
    embedder: Embedder,
    questions: Sequence[Question],
    *,
    org_id: UUID,
    audience: Audience = "internal",
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Score]:
    """Ask every question each way, as whom the connection acts for.

    Args:
        connection: Its role and claims say who asks.
        embedder: Who makes the questions' vectors; without a model only text is measured.
        questions: The questions.
        org_id: The organisation.
        audience: Whether to search what is public only.
        report: Told how many questions are done, of how many.

    Returns:
        A score per way.
    """
    vectors: list[str | None] = [None] * len(questions)
    ways = WAYS if await embedder.embedding_model() is not None else WAYS[:1]
    if len(ways) > 1:
        vectors = []
        for start in range(0, len(questions), _BATCH):
            texts = [one.text for one in questions[start : start + _BATCH]]
            answer = await embedder.embed(org_id=org_id, texts=texts)
            vectors += checked(answer.vectors, len(texts))
    found: dict[Way, list[list[bool]]] = {way: [] for way in ways}
    for number, (question, vector) in enumerate(zip(questions, vectors, strict=True), start=1):
        for way in ways:
            hits = await fetch(
                connection,
                org_id=org_id,
                query=question.text,
                vector=None if way == "text" else vector,
                limit=_DEPTH,
                audience=audience,
            )
            if way == "vector":
                near = (hit for hit in hits if hit.vector_rank is not None)
                hits = tuple(sorted(near, key=lambda hit: hit.vector_rank or 0))
            found[way].append([_fits(hit, question) for hit in _documents(hits)])
        report(number, len(questions))
    return [_score(way, found[way], questions) for way in ways]


def _documents(hits: Iterable[Hit]) -> Iterator[Hit]:
    """Give the best passage of each document: documents are what was judged."""
    seen = set()
    for hit in hits:
        if hit.document_id not in seen:
            seen.add(hit.document_id)
            yield hit


def _fits(hit: Hit, question: Question) -> bool:
    return bool({hit.title, str(hit.document_id)} & question.relevant)


def _score(way: Way, found: Sequence[Sequence[bool]], questions: Sequence[Question]) -> Score:
    wanted = [len(question.relevant) for question in questions]
    count = len(questions)
    last = CUTS[-1]
    return Score(
        way,
        recall={
            cut: sum(sum(one[:cut]) / all_ for one, all_ in zip(found, wanted, strict=True)) / count
            for cut in CUTS
        },
        mrr=sum(1 / (one[:last].index(True) + 1) for one in found if True in one[:last]) / count,
        ndcg=sum(
            _gain(one[:last]) / _gain([True] * min(all_, last))
            for one, all_ in zip(found, wanted, strict=True)
        )
        / count,
    )


def _gain(places: Sequence[bool]) -> float:
    return sum(1 / math.log2(place + 1) for place, fits in enumerate(places, start=1) if fits)
