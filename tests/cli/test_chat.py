"""`nessos chat`: asking as a member and as a visitor, with no worker and no provider."""

import json
from typing import Any

import psycopg
import pytest

from nessos.knowledge.passages import cut
from tests.cli.test_commands import answer, run


@pytest.fixture(scope="module")
def indexed_url(seeded_url: str) -> str:
    """The demo companies, with the passages of all that is published."""
    with psycopg.connect(seeded_url) as db:
        for org, document, digest, text in db.execute(
            "select d.org_id, d.id, d.content_hash, v.content from knowledge_documents d"
            " join app.knowledge_versions v on (v.org_id, v.document_id, v.version)"
            " = (d.org_id, d.id, d.version)"
        ).fetchall():
            chunks = [
                {
                    "ordinal": number,
                    "heading_path": one.heading_path,
                    "start_char": one.start,
                    "end_char": one.end,
                }
                for number, one in enumerate(cut(text), 1)
            ]
            db.execute(
                "select app.store_knowledge_chunks(%s, %s, %s, null, %s)",
                (org, document, digest, json.dumps(chunks)),
            )
    return seeded_url


@pytest.mark.parametrize("who", [("--public",), (), ("--as", "employee@vigia.example")])
def test_both_companies_answer_what_is_public(indexed_url: str, who: tuple[str, ...]) -> None:
    done = run(
        indexed_url, "chat", "Em quanto tempo respondem a um incidente crítico?", "--org", "vigia",
        *who,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "primeira resposta em até 15 minutos" in done.stdout
    assert "[1] Em quanto tempo vocês respondem a um incidente?" in done.stdout
    assert "no worker is running: answering here" in done.stderr


def test_a_visitor_is_not_told_what_a_member_is(indexed_url: str) -> None:
    question = ("chat", "Quem autoriza o isolamento de um servidor de cliente?", "--org", "vigia")
    told = answer(indexed_url, *question, "--as", "employee@vigia.example")
    assert (told["status"], told["kind"]) == ("done", "excerpt")
    assert "gestor técnico do contrato" in told["content"]
    public = answer(indexed_url, *question, "--public")
    assert "gestor técnico" not in json.dumps(public, ensure_ascii=False)


def test_a_conversation_goes_on(indexed_url: str) -> None:
    first: dict[str, Any] = answer(
        indexed_url, "chat", "Qual o prazo de um vídeo institucional?", "--org", "claquete",
        "--public",
    )  # fmt: skip
    assert "30 dias corridos" in first["content"]
    more = ("--session", first["session_id"], "--token", first["token"])
    second = answer(
        indexed_url, "chat", "E o pacote de redes sociais?", "--org", "claquete", "--public", *more
    )
    assert second["session_id"] == first["session_id"]
    assert "oito vídeos verticais" in second["content"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--as", "nobody@vigia.example"), "is no member"),
        (("--public", "--as", "owner@vigia.example"), "exclude each other"),
        (("--public", "--session", "0c5c8a3e-8f5c-4a0a-9d6e-000000000001"), "--token"),
    ],
)
def test_a_wrong_call_is_told(indexed_url: str, options: tuple[str, ...], said: str) -> None:
    done = run(indexed_url, "chat", "Qual o horário?", "--org", "vigia", *options)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_refusal_is_one_line(indexed_url: str) -> None:
    session = "0c5c8a3e-8f5c-4a0a-9d6e-000000000001"
    done = run(indexed_url, "chat", "Oi, tudo bem?", "--org", "vigia", "--session", session)
    assert done.returncode == 1
    assert "not_found" in done.stderr
    empty = run(indexed_url, "chat", "  ", "--org", "vigia")
    assert "bad_input" in empty.stderr
