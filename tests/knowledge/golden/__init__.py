"""The golden set: documents of a security company, and questions with the documents that answer them."""

import base64
import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from nessos.knowledge.evaluation import Question, read
from tests.people import Connection, Org, as_member

HERE = Path(__file__).parent
QUESTIONS = HERE / "questions.jsonl"
MODEL = "all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Document:
    """A document of the set."""

    key: str
    source_type: str
    title: str
    text: str


def documents() -> list[Document]:
    """Read the documents."""
    return [
        Document(**json.loads(line))
        for line in (HERE / "documents.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def questions() -> list[Question]:
    """Read the questions."""
    return read(QUESTIONS)


INSERTS = {
    "playbook": "insert into playbooks (org_id, title, content_markdown, status) values (%(org)s, %(title)s, %(text)s, 'published')",
    "post": "insert into public_posts (org_id, title, slug, content_markdown, status, published_at)"
    " values (%(org)s, %(title)s, %(key)s, %(text)s, 'published', app.now())",
    "case": "insert into success_cases (org_id, title, slug, summary, content_markdown, is_published, published_at)"
    " select %(org)s, %(title)s, %(key)s, split_part(%(text)s, '. ', 1) || '.', substr(%(text)s, strpos(%(text)s, '. ') + 2), true, app.now()",
    "service": "with s as (insert into services_catalog (org_id, name, slug, summary, is_active)"
    " values (%(org)s, %(title)s, %(key)s, %(text)s, true) returning org_id, id)"
    " insert into services_catalog_actions (org_id, service_id, service_action_id) select s.org_id, s.id, %(action)s from s",
    "policy": "insert into policies (org_id, title) values (%(org)s, %(title)s)",
    "page": "insert into static_pages (org_id, title, slug, content_markdown, is_published, published_at)"
    " values (%(org)s, %(title)s, replace(%(key)s, 'pagina-', ''), %(text)s, true, app.now())",
    "qa": "insert into knowledge_questions (org_id, question, answer_markdown) values (%(org)s, %(title)s, %(text)s)",
    "file": "insert into knowledge_files (org_id, title, file_name, content_text) values (%(org)s, %(title)s, %(key)s || '.md', %(text)s)",
}


def publish(db: Connection, org: Org) -> None:
    """Write the documents where an organisation writes them, published, as its owner of the database."""
    action = uuid4()
    with db.transaction():
        for document in documents():
            db.execute(
                INSERTS[document.source_type],
                {"org": org.org, "action": action, **document.__dict__},
            )
            if document.source_type == "policy":
                with as_member(db, org, "owner"):
                    db.execute(
                        "select publish_policy(id, %s) from policies where org_id = %s and title = %s",
                        (document.text, org.org, document.title),
                    )
            if document.source_type == "playbook" and document.key == documents()[0].key:
                db.execute(
                    "insert into service_actions (org_id, id, title) values (%s, %s, 'Atendimento')",
                    (org.org, action),
                )
                db.execute(
                    "insert into service_action_playbooks (org_id, service_action_id, playbook_id)"
                    " select p.org_id, %s, p.id from playbooks p where p.org_id = %s limit 1",
                    (action, org.org),
                )


@dataclass(frozen=True)
class Answer:
    """Vectors and their model."""

    model: str
    vectors: list[list[float]]


class Recorded:
    """Gives the vectors a real model made of the set's texts; knows no others."""

    def __init__(self) -> None:
        self.vectors = {
            given["text"]: given["vector"]
            for line in (HERE / "vectors.jsonl").read_text().splitlines()
            for given in (json.loads(line),)
        }

    async def embedding_model(self) -> str | None:
        """Name the model."""
        return MODEL

    async def embed(self, *, org_id: UUID, texts: Sequence[str]) -> Answer:
        """Look the texts up."""
        del org_id
        return Answer(MODEL, [self._vector(text) for text in texts])

    def _vector(self, text: str) -> list[float]:
        written = self.vectors.get(digest(text))
        assert written, (
            f"no vector was recorded of {text[:60]!r}: see tests/knowledge/golden/README.md"
        )
        return [number for (number,) in struct.iter_unpack("<e", base64.b64decode(written))]


def digest(text: str) -> str:
    """Give the name under which a text's vector is recorded."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def written(vector: Sequence[float]) -> str:
    """Write a vector as it is recorded: half floats, base64."""
    return base64.b64encode(struct.pack(f"<{len(vector)}e", *vector)).decode()
