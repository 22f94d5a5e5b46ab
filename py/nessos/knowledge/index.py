"""Indexing a document: its text is cut into passages, which are stored with their vectors.

Without a provider of embeddings the passages are stored for full text alone. Vectors of passages
that have not changed are kept: only what is new is paid for.
"""

from __future__ import annotations

import asyncio
import json
import math
from typing import TYPE_CHECKING, Any, Final, Protocol

from nessos.errors import RetryError
from nessos.knowledge.passages import Passage, cut

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from nessos.jobs.entrypoint import Pool

DIMENSIONS: Final = 1536
"""Of every vector; a shorter one is filled with zeros, which keeps its angles."""

_BATCH: Final = 100

_DUE: Final = """
select t.title, t.content, t.content_hash
from app.due_knowledge_text(%s, %s, %s, %s) as t
"""
_KEPT: Final = """
select d.title, c.heading_path, c.content, c.embedding::text as vector
from public.knowledge_chunks as c
inner join public.knowledge_documents as d on d.org_id = c.org_id and d.id = c.document_id
where c.org_id = %s and c.document_id = %s and d.embedding_model = %s and c.embedding is not null
"""
_STORE: Final = "select app.store_knowledge_chunks(%s, %s, %s, %s, %s::jsonb) as is_stored"
_FAIL: Final = "select app.fail_knowledge_document(%s, %s, %s, %s)"


class Vectors(Protocol):
    """What a provider answers: `nessos.ai.gateway.Embeddings`."""

    @property
    def model(self) -> str:
        """The model that served."""

    @property
    def vectors(self) -> Sequence[Sequence[float]]:
        """One per text, in their order."""


class Embedder(Protocol):
    """Who makes vectors of texts: `nessos.ai.gateway.Gateway`, or recorded ones in a test."""

    async def embedding_model(self) -> str | None:
        """Name the model it would ask; None when no provider is connected."""

    async def embed(self, *, org_id: UUID, texts: Sequence[str]) -> Vectors:
        """Make a vector of each text."""


def embedded_text(title: str, heading_path: str, content: str) -> str:
    """Give the text of a passage that its vector is made of.

    Args:
        title: The document's title.
        heading_path: The headings it stands under.
        content: The passage.

    Returns:
        The passage under its title and headings, which say what it is about.
    """
    return "\n".join(filter(None, (title, heading_path, content)))


async def index_document(
    pool: Pool,
    embedder: Embedder,
    *,
    org_id: UUID,
    document_id: UUID,
    asked_hash: str | None = None,
) -> str:
    """Bring the passages of a document to its current text and the current model.

    Args:
        pool: Connections to the database.
        embedder: Who makes vectors.
        org_id: The organisation.
        document_id: The document.
        asked_hash: The text a job was enqueued for; None to index in any case.

    Returns:
        What was done, for the log.

    Raises:
        RetryError: The provider failed, or answered something else than vectors.
        UpstreamError: The provider refuses.
    """
    model = await embedder.embedding_model()
    text = await _row(pool, _DUE, (org_id, document_id, asked_hash, model))
    if text is None:
        return "nothing to do"
    title, content = text["title"], text["content"]
    passages = await asyncio.to_thread(cut, content)
    vectors: list[str | None] = [None] * len(passages)
    asked = 0
    if model is not None:
        wanted = [
            embedded_text(title, one.heading_path, content[one.start : one.end]) for one in passages
        ]
        known = await _kept(pool, org_id, document_id, model)
        new = list(dict.fromkeys(one for one in wanted if one not in known))
        asked = len(new)
        for start in range(0, asked, _BATCH):
            batch = new[start : start + _BATCH]
            answer = await embedder.embed(org_id=org_id, texts=batch)
            if answer.model != model:
                if start or known:
                    # The model changed on the way, or a fallback served: vectors of two do not mix.
                    raise RetryError(f"{answer.model} answered in the place of {model}")
                model = answer.model
            known.update(zip(batch, checked(answer.vectors, len(batch)), strict=True))
        vectors = [known[one] for one in wanted]
    stored = await store(
        pool, org_id=org_id, document_id=document_id, content_hash=text["content_hash"],
        passages=passages, model=model, vectors=vectors,
    )  # fmt: skip
    if not stored:
        return "outdated: the text changed meanwhile"
    return f"{len(passages)} passages, {asked} embedded"


async def index_text_only(
    pool: Pool, *, org_id: UUID, document_id: UUID, asked_hash: str | None, error: str
) -> None:
    """Make a document findable by its text, and note why it has no vectors.

    Args:
        pool: Connections to the database.
        org_id: The organisation.
        document_id: The document.
        asked_hash: The text its job was enqueued for.
        error: Why, in words that members may read.
    """
    # Passages of the current text, if there are some, keep the vectors they have.
    text = await _row(pool, _DUE, (org_id, document_id, asked_hash, None))
    if text is not None:
        passages = await asyncio.to_thread(cut, text["content"])
        await store(
            pool, org_id=org_id, document_id=document_id, content_hash=text["content_hash"],
            passages=passages, model=None, vectors=[None] * len(passages),
        )  # fmt: skip
    content_hash = text["content_hash"] if text else asked_hash
    async with pool.connection() as connection:
        await connection.execute(_FAIL, (org_id, document_id, content_hash, error))


async def store(  # noqa: PLR0913 - what it takes, by keyword
    pool: Pool,
    *,
    org_id: UUID,
    document_id: UUID,
    content_hash: str,
    passages: Sequence[Passage],
    model: str | None,
    vectors: Sequence[str | None],
) -> bool:
    """Replace the passages of a document.

    Args:
        pool: Connections to the database.
        org_id: The organisation.
        document_id: The document.
        content_hash: The text they were cut from.
        passages: The passages.
        model: Model of the vectors; None without.
        vectors: One per passage, as pgvector writes them; None where there is none.

    Returns:
        False when the text is another by now, and nothing was stored.
    """
    chunks = [
        {
            "ordinal": number,
            "heading_path": one.heading_path,
            "start_char": one.start,
            "end_char": one.end,
            "embedding": vector,
        }
        for number, (one, vector) in enumerate(zip(passages, vectors, strict=True), start=1)
    ]
    row = await _row(pool, _STORE, (org_id, document_id, content_hash, model, json.dumps(chunks)))
    return bool(row and row["is_stored"])


def checked(vectors: Sequence[Sequence[float]], expected: int) -> list[str]:
    """Check what a provider answered.

    Args:
        vectors: Its vectors.
        expected: How many were asked for.

    Returns:
        The vectors as pgvector reads them.

    Raises:
        RetryError: There are more or fewer, or one is no direction of 1,536 dimensions.
    """
    if len(vectors) != expected:
        raise RetryError(f"{len(vectors)} vectors came for {expected} texts")
    return [_written(vector) for vector in vectors]


def _written(vector: Sequence[float]) -> str:
    length = math.hypot(*vector)
    if not 0 < len(vector) <= DIMENSIONS or not math.isfinite(length) or length == 0:
        raise RetryError(f"a vector of {len(vector)} numbers points nowhere")
    numbers = [f"{number / length:.5g}" for number in vector]
    return f"[{','.join(numbers + ['0'] * (DIMENSIONS - len(numbers)))}]"


async def _kept(pool: Pool, org_id: UUID, document_id: UUID, model: str) -> dict[str, str]:
    """Give the vectors a document has of this model, by the text they were made of."""
    async with pool.connection() as connection:
        cursor = await connection.execute(_KEPT, (org_id, document_id, model))
        return {
            embedded_text(row["title"], row["heading_path"], row["content"]): row["vector"]
            async for row in cursor
        }


async def _row(pool: Pool, statement: str, arguments: tuple[object, ...]) -> dict[str, Any] | None:
    async with pool.connection() as connection:
        return await (await connection.execute(statement, arguments)).fetchone()
