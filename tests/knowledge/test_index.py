"""Indexing with the real queue and a provider of embeddings: what is paid for, what is thrown away, what is found again."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import dict_row

from nessos import http
from nessos.errors import RetryError
from nessos.jobs import worker
from nessos.jobs.entrypoint import Task
from nessos.knowledge import jobs
from tests.integrations.fakes.llm import FakeModels, fault, overloaded, plug_in, vector_of
from tests.integrations.outside import open_pool
from tests.people import WORLD, as_member

MODEL = "text-embedding-3-small"

pytestmark = pytest.mark.usefixtures("no_backoff")


@dataclass
class House:
    """Organisation a of its own database, and the server that makes vectors."""

    url: str
    models: FakeModels
    monkeypatch: pytest.MonkeyPatch
    org: UUID = WORLD.a.org

    def rows(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        """Ask the database as its owner."""
        with psycopg.connect(self.url, row_factory=dict_row, autocommit=True) as db:
            return db.execute(query.encode(), arguments).fetchall()

    def tell(self, statement: str, *arguments: object) -> None:
        """Change the database as its owner."""
        with psycopg.connect(self.url, autocommit=True) as db:
            db.execute(statement.encode(), arguments)

    def publish(self, text: str, title: str = "Troca de câmera") -> UUID:
        """Publish a playbook; gives its id."""
        row = self.rows(
            "insert into playbooks (org_id, title, content_markdown, status)"
            " values (%s, %s, %s, 'published') returning id",
            self.org, title, text,
        )  # fmt: skip
        playbook: UUID = row[0]["id"]
        return playbook

    def edit(self, playbook: UUID, text: str) -> None:
        """Change its text."""
        self.tell("update playbooks set content_markdown = %s where id = %s", text, playbook)

    def work(self) -> None:
        """Let a worker do what is due."""
        worker.run(self.url, options=worker.Options(drain=True), known=jobs.ENTRYPOINTS)

    def pass_a_minute(self) -> None:
        """Have everything that waits a minute in the queue be due."""
        self.tell("update pgqueuer.pgqueuer set execute_after = now() where status = 'queued'")

    def document(self) -> dict[str, Any]:
        """Give the one document."""
        (row,) = self.rows(
            "select id, version, status, error, embedding_model, content_hash, indexed_hash"
            " from knowledge_documents"
        )
        return row

    def passages(self) -> list[dict[str, Any]]:
        """Give its passages."""
        return self.rows(
            "select version, heading_path, content, embedding is not null as has_vector"
            " from knowledge_chunks order by ordinal"
        )

    def found(self, question: str) -> list[str]:
        """Search as a member; gives passages."""
        with psycopg.connect(self.url) as db, as_member(db, WORLD.a, "ops"):
            return [
                row[0]
                for row in db.execute(
                    "select content from search_knowledge(%s, %s)", (self.org, question)
                ).fetchall()
            ]

    def run(self, *, attempt: int = 1) -> str:
        """Run the job of the document's current text once."""
        document = self.document()

        async def go() -> str:
            async with open_pool(self.url) as pool, http.client(pool) as client:
                return await jobs.index(
                    Task(
                        job_id=1,
                        entrypoint="knowledge.index",
                        payload={
                            "document_id": str(document["id"]),
                            "content_hash": document["content_hash"],
                        },
                        org_id=self.org,
                        request_id=None,
                        attempt=attempt,
                        pool=pool,
                        http=client,
                    )
                )

        return asyncio.run(go())

    def sweep(self, model: str | None = None) -> int:
        """Sweep; gives how many were found."""
        (row,) = self.rows("select app.sweep_knowledge(%s) as found", model)
        found: int = row["found"]
        return found


@pytest.fixture
def house(own_db_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """An organisation with a provider of embeddings."""
    with FakeModels() as models:
        plug_in(monkeypatch, models, "openai")
        yield House(own_db_url, models, monkeypatch)


# --- What is paid for ------------------------------------------------------------------------------


def test_a_hundred_edits_within_a_minute_cost_two_calls_at_most(house: House) -> None:
    playbook = house.publish("Texto número 0.")
    house.work()
    for number in range(1, 101):
        house.edit(playbook, f"Texto número {number}.")
    house.pass_a_minute()
    house.work()
    assert len(house.models.embedded) == 2
    assert [one["content"] for one in house.passages()] == ["Texto número 100."]
    document = house.document()
    assert (document["status"], document["embedding_model"]) == ("indexed", MODEL)
    assert document["indexed_hash"] == document["content_hash"]
    assert house.rows("select from pgqueuer.pgqueuer where entrypoint = 'knowledge.index'") == []


def test_texts_that_were_never_indexed_are_not_kept(house: House) -> None:
    playbook = house.publish("Texto número 0.")
    house.work()
    for number in range(1, 11):
        house.edit(playbook, f"Texto número {number}.")
    kept = house.rows("select content from app.knowledge_versions order by version")
    assert [row["content"] for row in kept] == ["Texto número 0.", "Texto número 10."]


def test_who_edits_without_a_pause_is_indexed_once_a_minute_all_the_same(house: House) -> None:
    playbook = house.publish("Texto número 0.")
    house.work()
    house.edit(playbook, "Texto número 1.")
    house.edit(playbook, "Texto número 2.")
    house.tell("update knowledge_documents set indexed_at = app.now() - interval '1 minute'")
    # The job of text 1 is due, that of text 2 not yet.
    house.tell(
        "update pgqueuer.pgqueuer set execute_after = now()"
        " where id = (select min(id) from pgqueuer.pgqueuer where entrypoint = 'knowledge.index')"
    )
    house.tell(
        "update pgqueuer.pgqueuer set execute_after = now() + interval '2 minutes'"
        " where id = (select max(id) from pgqueuer.pgqueuer where entrypoint = 'knowledge.index')"
    )
    house.work()
    assert [one["content"] for one in house.passages()] == ["Texto número 2."]


def test_passages_that_did_not_change_are_not_paid_for_again(house: House) -> None:
    playbook = house.publish("## Antes\n\nLeve a lente.\n\n## Depois\n\nAnote a série.")
    house.work()
    house.edit(playbook, "## Antes\n\nLeve a lente.\n\n## Depois\n\nFotografe a fiação.")
    house.pass_a_minute()
    house.work()
    assert [len(texts) for texts in house.models.embedded] == [2, 1]
    assert house.models.embedded[1] == ["Troca de câmera\nDepois\nFotografe a fiação."]
    assert all(one["has_vector"] for one in house.passages())


def test_a_long_text_is_embedded_a_hundred_passages_a_call(house: House) -> None:
    house.publish("\n\n".join(f"## Parte {number}\n\nPasso {number}." for number in range(150)))
    house.work()
    assert [len(texts) for texts in house.models.embedded] == [100, 50]
    assert len(house.passages()) == 150


def test_a_text_that_comes_back_is_neither_cut_nor_paid_for_again(house: House) -> None:
    playbook = house.publish("O primeiro texto.")
    house.work()
    house.edit(playbook, "O segundo texto.")
    house.edit(playbook, "O primeiro texto.")
    assert house.document()["status"] == "indexed"
    house.pass_a_minute()
    house.work()
    assert len(house.models.embedded) == 1


# --- What is thrown away ---------------------------------------------------------------------------


def meanwhile(house: House, statement: str, *arguments: object) -> None:
    """Have this happen once, while the provider makes vectors."""

    def vector(text: str) -> list[float]:
        house.models.vector = vector_of
        house.tell(statement, *arguments)
        return vector_of(text)

    house.models.vector = vector


def test_a_late_result_for_an_old_text_changes_nothing(house: House) -> None:
    playbook = house.publish("O primeiro texto.")
    house.work()
    house.edit(playbook, "O segundo texto.")
    meanwhile(
        house,
        "update playbooks set content_markdown = 'O terceiro texto.' where id = %s",
        playbook,
    )
    assert house.run() == "outdated: the text changed meanwhile"
    assert [one["content"] for one in house.passages()] == ["O primeiro texto."]
    assert house.document()["status"] == "pending"
    house.pass_a_minute()
    house.work()
    assert [one["content"] for one in house.passages()] == ["O terceiro texto."]


def test_a_document_withdrawn_while_it_is_indexed_stays_withdrawn(house: House) -> None:
    playbook = house.publish("O primeiro texto.")
    meanwhile(house, "update playbooks set status = 'archived' where id = %s", playbook)
    house.work()
    assert house.document()["status"] == "withdrawn"
    assert house.passages() == []
    assert house.rows("select from pgqueuer.pgqueuer where entrypoint = 'knowledge.index'") == []


# --- Without a provider, and with one that fails ---------------------------------------------------


def test_without_a_provider_the_text_is_found(house: House) -> None:
    plug_in(house.monkeypatch, house.models, "anthropic")
    house.publish("Desligue a energia antes.")
    house.work()
    document = house.document()
    assert (document["status"], document["embedding_model"]) == ("indexed", None)
    assert house.found("como desligar a energia?") == ["Desligue a energia antes."]
    assert house.models.journal == []


def test_once_there_is_a_provider_the_sweep_has_vectors_made(house: House) -> None:
    plug_in(house.monkeypatch, house.models, "anthropic")
    house.publish("Desligue a energia antes.")
    house.work()
    plug_in(house.monkeypatch, house.models, "openai")
    house.tell("select app.enqueue('knowledge.sweep', '{}')")
    house.work()
    assert house.document()["embedding_model"] == MODEL
    assert [one["has_vector"] for one in house.passages()] == [True]


def test_a_provider_that_is_overloaded_is_asked_again(house: House) -> None:
    house.publish("Desligue a energia antes.")
    house.models.vector_faults.extend(overloaded() for _ in range(3))
    with pytest.raises(RetryError):
        house.run()
    assert (house.document()["status"], house.passages()) == ("pending", [])
    assert house.run() == "1 passages, 1 embedded"


def test_when_the_last_attempt_fails_the_text_is_found_and_the_reason_told(house: House) -> None:
    playbook = house.publish("Desligue a energia antes.")
    house.models.vector_faults.extend(overloaded() for _ in range(3))
    with pytest.raises(RetryError):
        house.run(attempt=6)
    document = house.document()
    assert (document["status"], document["embedding_model"]) == ("failed", None)
    assert document["error"].startswith("no vectors: ")
    assert house.found("energia") == ["Desligue a energia antes."]
    house.edit(playbook, "Desligue a energia e espere.")
    assert (house.document()["status"], house.document()["error"]) == ("pending", None)
    house.pass_a_minute()
    house.work()
    assert house.document()["status"] == "indexed"


@pytest.mark.parametrize(
    "wrong",
    [
        fault(400, "invalid_value"),
        lambda vectors: [*vectors, vectors[0]],
        lambda vectors: [vector[:3] for vector in vectors],
        lambda vectors: [[0.0] * len(vector) for vector in vectors],
    ],
    ids=["refusal", "one too many", "too short", "of no direction"],
)
def test_what_is_no_answer_has_the_job_held_at_once(house: House, wrong: Any) -> None:
    house.publish("Desligue a energia antes.")
    house.models.vector_faults.append(wrong)
    house.work()
    assert house.document()["status"] == "failed"
    held = house.rows("select status from pgqueuer.pgqueuer where entrypoint = 'knowledge.index'")
    assert [row["status"] for row in held] == ["failed"]
    assert house.found("energia") == ["Desligue a energia antes."]


# --- What slipped ----------------------------------------------------------------------------------


def test_the_sweep_finds_what_lost_its_job_and_nothing_else(house: House) -> None:
    house.publish("O primeiro texto.")
    assert house.sweep() == 0, "it has been pending for less than five minutes"
    house.tell("delete from pgqueuer.pgqueuer")
    house.tell("alter table knowledge_documents disable trigger knowledge_documents_90_touch")
    house.tell("update knowledge_documents set updated_at = app.now() - interval '6 minutes'")
    assert house.sweep() == 1
    assert house.sweep() == 0, "its job waits already"
    house.tell("select app.release_waiting_jobs(array['knowledge.index'])")
    house.work()
    assert house.document()["status"] == "indexed"
    assert house.sweep(MODEL) == 0
    assert house.sweep("another-model") == 1


def test_the_sweep_tries_what_failed_again_after_a_day(house: House) -> None:
    house.publish("O primeiro texto.")
    house.models.vector_faults.append(fault(400, "invalid_value"))
    house.work()
    assert house.sweep(MODEL) == 0
    house.tell("alter table knowledge_documents disable trigger knowledge_documents_90_touch")
    house.tell("update knowledge_documents set updated_at = app.now() - interval '25 hours'")
    assert house.sweep(MODEL) == 1
    house.work()
    assert (house.document()["status"], house.document()["error"]) == ("indexed", None)


def test_the_sweep_leaves_suspended_organisations_alone(house: House) -> None:
    house.publish("O primeiro texto.")
    house.tell("delete from pgqueuer.pgqueuer")
    house.tell("alter table knowledge_documents disable trigger knowledge_documents_90_touch")
    house.tell("update knowledge_documents set updated_at = app.now() - interval '6 minutes'")
    house.tell("update organizations set status = 'suspended' where id = %s", house.org)
    assert house.sweep() == 0


def test_a_reset_makes_what_failed_or_everything_pending(house: House) -> None:
    house.publish("O primeiro texto.")
    house.work()
    assert house.rows("select app.reset_knowledge(%s, %s)", house.org, MODEL) == []
    assert len(house.rows("select app.reset_knowledge(%s, 'another')", house.org)) == 1
    house.run()
    everything = house.rows("select app.reset_knowledge(%s, %s, true) as id", house.org, MODEL)
    assert [row["id"] for row in everything] == [house.document()["id"]]
    assert house.document()["status"] == "pending"
    assert house.found("primeiro texto") == ["O primeiro texto."], "it is found meanwhile"
    assert house.run() == "1 passages, 0 embedded"
