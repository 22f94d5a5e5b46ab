"""Searching the knowledge as the caller on a connection: both ways, or by text alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import structlog

from nessos.errors import UpstreamError
from nessos.knowledge.index import checked

if TYPE_CHECKING:
    from uuid import UUID

    import psycopg

    from nessos.knowledge.index import Embedder

    Connection = psycopg.AsyncConnection[dict[str, Any]]

Audience = Literal["internal", "public"]

log: structlog.stdlib.BoundLogger = structlog.get_logger("nessos.knowledge")

_SEARCH: Final = """
select
    chunk_id, document_id, title, url, source_type, heading_path, content, score, text_rank,
    vector_rank
from public.search_knowledge(%s, %s, %s::text::extensions.halfvec, %s, %s)
"""


@dataclass(frozen=True)
class Hit:
    """A passage that fits the question.

    Attributes:
        chunk_id: The passage.
        document_id: Its document.
        title: The document's title.
        url: Path of its page on the site; None where only members read it.
        source_type: playbook, post, case, service, policy, page, qa or file.
        heading_path: The headings it stands under.
        content: Its text.
        score: Of the fusion, the higher the better; comparable within one search only.
        text_rank: Its place by full text, from 1; None if it was not among the first.
        vector_rank: Its place by nearness of meaning.
    """

    chunk_id: UUID
    document_id: UUID
    title: str
    url: str | None
    source_type: str
    heading_path: str
    content: str
    score: float
    text_rank: int | None
    vector_rank: int | None


@dataclass(frozen=True)
class Results:
    """What a search gives.

    Attributes:
        hits: The passages, best first.
        mode: hybrid, or text when no vector of the question could be had.
        problem: Why a provider that is connected gave none.
    """

    hits: tuple[Hit, ...]
    mode: Literal["hybrid", "text"]
    problem: str | None = None


async def search(  # noqa: PLR0913 - what it takes, by keyword
    connection: Connection,
    embedder: Embedder,
    *,
    org_id: UUID,
    query: str,
    limit: int = 8,
    audience: Audience = "internal",
) -> Results:
    """Find passages for a question, as whom the connection acts for.

    A provider that fails costs the search its sense of meaning, not its answer.

    Args:
        connection: Its role and claims say who asks.
        embedder: Who makes the question's vector.
        org_id: The organisation.
        query: The question.
        limit: How many passages at most, up to 50.
        audience: Whether to search what is public only.

    Returns:
        The passages.

    Raises:
        RuleError: `bad_input`, for a blank question.
    """
    vector, problem = await vector_of(embedder, org_id=org_id, query=query)
    return Results(
        hits=await fetch(
            connection, org_id=org_id, query=query, vector=vector, limit=limit, audience=audience
        ),
        mode="text" if vector is None else "hybrid",
        problem=problem,
    )


async def vector_of(
    embedder: Embedder, *, org_id: UUID, query: str
) -> tuple[str | None, str | None]:
    """Make the vector of a question; without a transaction, since the provider may take long.

    Args:
        embedder: Who makes it.
        org_id: On whose budget.
        query: The question.

    Returns:
        The vector as pgvector writes it, and why a provider that is connected gave none.
    """
    if not query.strip() or await embedder.embedding_model() is None:
        return None, None
    try:
        answer = await embedder.embed(org_id=org_id, texts=[query])
        return checked(answer.vectors, 1)[0], None
    except UpstreamError as error:
        log.warning("search by text only", org_id=str(org_id), error=error.message)
        return None, error.message


async def fetch(  # noqa: PLR0913 - what it takes, by keyword
    connection: Connection,
    *,
    org_id: UUID,
    query: str,
    vector: str | None,
    limit: int = 8,
    audience: Audience = "internal",
) -> tuple[Hit, ...]:
    """Find passages, given the question's vector.

    Args:
        connection: Its role and claims say who asks.
        org_id: The organisation.
        query: The question.
        vector: As pgvector writes it; None for full text alone.
        limit: How many passages at most.
        audience: Whether to search what is public only.

    Returns:
        The passages, best first.
    """
    cursor = await connection.execute(_SEARCH, (org_id, query, vector, limit, audience))
    return tuple(Hit(**{**row, "score": float(row["score"])}) for row in await cursor.fetchall())
