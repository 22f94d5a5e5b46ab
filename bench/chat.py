"""The chat: what is left of the wait for an answer when the model takes no time."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import httpx

from bench.measure import Figure, median_ms, p95_ms, within
from bench.subject import become
from tests.integrations.fakes.llm import Asked, FakeModels

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

    from bench.subject import Bench

_DOCUMENTS: Final = 500
_QUESTIONS: Final = 50
_WARM_UP: Final = 5

_FILL: Final = """
insert into public.knowledge_questions (org_id, question, answer_markdown)
select
    %(org)s, 'Como funciona o serviço número ' || n || '?',
    'O serviço número ' || n || ' funciona de segunda a sexta e responde em até ' || n || ' horas.'
from generate_series(1, %(documents)s) as n
"""
_INDEX: Final = """
select count(app.store_knowledge_chunks(
    d.org_id, d.id, d.content_hash, 'text-embedding-3-small',
    jsonb_build_array(jsonb_build_object(
        'ordinal', 1, 'heading_path', '', 'start_char', 0, 'end_char', length(v.content)
    ))
))
from public.knowledge_documents as d
inner join app.knowledge_versions as v
    on v.org_id = d.org_id and v.document_id = d.id and v.version = d.version
where d.org_id = %(org)s
"""


def first_text(bench: Bench) -> list[Figure]:
    """Measure from the question to the first text in the row, with a model that answers at once.

    Args:
        bench: Where.

    Returns:
        One figure.
    """
    models = FakeModels(respond=_answer)
    with bench.owner() as owner, models, _worker(bench, models):
        given = {"org": bench.tenant(1), "documents": _DOCUMENTS}
        owner.execute(_FILL, given)
        owner.execute("delete from pgqueuer.pgqueuer where entrypoint <> 'chat.answer'")
        owner.execute(_INDEX, given)
        owner.execute("analyze public.knowledge_chunks, public.knowledge_documents")
        with bench.owner() as member:
            become(member, bench.person(1))
            seconds = [
                _ask(owner, member, bench, number) for number in range(-_WARM_UP, _QUESTIONS)
            ]
        bare = [_post(models) for _ in range(_QUESTIONS)]
    return [
        within(
            (250, "ms"),
            "chat: question to first text, without the model, p95",
            p95_ms(seconds[_WARM_UP:]),
            p95_ms(bare),
            "one request to the same model that takes no time",
            f"{_QUESTIONS} questions, {_DOCUMENTS} documents,"
            f" median {median_ms(seconds[_WARM_UP:]):.1f} ms",
        )
    ]


def _answer(asked: Asked) -> str:
    first = json.loads(asked.last)["trechos"][0]
    citations = [{"passage": first["id"], "quote": first["texto"]}]
    return json.dumps({"action": "answer", "text": first["texto"], "citations": citations})


def _ask(
    owner: psycopg.Connection[Any], member: psycopg.Connection[Any], bench: Bench, number: int
) -> float:
    """Ask, wait for the answer, and give the seconds until its first text."""
    question = f"Em quanto tempo responde o serviço número {number + _WARM_UP + 1}?"
    row = member.execute(
        "select public.ask(null, %s, null, %s) ->> 'answer_id'", (question, bench.tenant(1))
    ).fetchone()
    assert row
    deadline = time.monotonic() + 60
    while True:
        answer = owner.execute(
            "select status, extract(epoch from first_text_at - created_at)"
            " from public.chat_messages where id = %s",
            row,
        ).fetchone()
        assert answer
        if answer[0] not in {"pending", "streaming"}:
            assert answer[0] == "done", answer
            return float(answer[1])
        if time.monotonic() > deadline:
            raise TimeoutError("the worker does not answer")
        time.sleep(0.01)


def _post(models: FakeModels) -> float:
    asked = models.asked[0]
    started = time.perf_counter()
    httpx.post(
        f"{models.url}/openai/v1/chat/completions",
        json=asked.body,
        headers={"authorization": "Bearer sk-fake"},
    ).raise_for_status()
    return time.perf_counter() - started


@contextlib.contextmanager
def _worker(bench: Bench, models: FakeModels) -> Iterator[None]:
    """Run the real worker, with the fake for a provider."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("NESSOS_")},
        "DATABASE_URL": bench.url,
        "NESSOS_OPENAI_API_KEY": "sk-fake",
        "NESSOS_OPENAI_URL": f"{models.url}/openai/v1",
    }
    worker = subprocess.Popen(
        [sys.executable, "-m", "nessos", "worker"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        worker.terminate()
        worker.wait(timeout=60)
