"""`nessos knowledge …` in the terminal."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from nessos.settings import ROOT
from tests.integrations.fakes.llm import FakeModels, overloaded, plug_in
from tests.people import WORLD

MANUAL = "# Manual da central\n\n## Erros\n\nE01: linha ausente.\n\n## Limpeza\n\nUse um pano seco."


@dataclass
class Terminal:
    """The command line on a database of its own."""

    url: str
    folder: Path
    models: FakeModels

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run `nessos knowledge` to its end."""
        return subprocess.run(
            [sys.executable, "-m", "nessos", "knowledge", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": self.url, "PYTHONPATH": str(ROOT / "py")},
        )

    def json(self, *arguments: str) -> Any:
        """Run a command that prints JSON."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def file(self, name: str, text: str) -> str:
        """Write a file; gives its path."""
        (self.folder / name).write_text(text)
        return str(self.folder / name)


@pytest.fixture
def terminal(
    own_db_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Terminal]:
    """A terminal, with a provider of embeddings."""
    with FakeModels() as models:
        plug_in(monkeypatch, models, "openai")
        yield Terminal(own_db_url, tmp_path, models)


def test_a_file_is_added_indexed_found_and_removed(terminal: Terminal) -> None:
    path = terminal.file("central.md", MANUAL)
    added = terminal.json("add", path, "--org", "alfa", "--module", "fin")
    assert (added["title"], added["module"], added["audience"]) == (
        "Manual da central", "fin", "internal",
    )  # fmt: skip
    done = terminal.run("index", "--org", "alfa")
    assert (done.returncode, done.stdout.strip()) == (0, "1 documents indexed")
    assert done.stderr.splitlines()[-1] == "1/1 documents"
    found = terminal.json("search", "qual o erro E01?", "--org", "alfa")
    assert found["mode"] == "hybrid"
    assert found["hits"][0]["heading_path"] == "Manual da central › Erros"  # noqa: RUF001
    table = terminal.run("search", "erro E01", "--org", "alfa").stdout
    assert "E01: linha ausente." in table
    assert terminal.run("search", "erro E01", "--org", "alfa", "--public").stdout == "nothing\n"
    assert terminal.run("remove", "central.md", "--org", "alfa", "--yes").returncode == 0
    assert terminal.json("search", "erro E01", "--org", "alfa")["hits"] == []


def test_a_file_of_the_same_name_is_replaced(terminal: Terminal) -> None:
    first = terminal.json("add", terminal.file("a.md", "um"), "--org", "alfa")
    second = terminal.json("add", terminal.file("a.md", "dois"), "--org", "alfa", "--public")
    assert (first["id"], second["audience"]) == (second["id"], "public")


def test_a_dry_run_stores_nothing(terminal: Terminal) -> None:
    terminal.run("add", terminal.file("a.md", "um"), "--org", "alfa", "--dry-run")
    assert terminal.json("status", "--org", "alfa") == {"documents": [], "waiting": []}


def test_a_member_who_may_not_read_the_module_finds_nothing(terminal: Terminal) -> None:
    terminal.run("add", terminal.file("central.md", MANUAL), "--org", "alfa", "--module", "fin")
    terminal.run("index", "--org", "alfa")
    for role, count in (("finance", 1), ("employee", 0)):
        email = f"{WORLD.a.member(role)}@people.test"
        hits = terminal.json("search", "erro E01", "--org", "alfa", "--as", email)["hits"]
        assert len(hits) == count


def test_status_tells_what_waits_and_what_failed(terminal: Terminal) -> None:
    terminal.run("add", terminal.file("a.md", "um"), "--org", "alfa")
    status = terminal.json("status", "--org", "alfa")
    assert [(one["source_type"], one["status"]) for one in status["documents"]] == [("file", "pending")]  # fmt: skip
    terminal.models.vector_faults.extend(overloaded() for _ in range(9))
    done = terminal.run("index", "--org", "alfa")
    assert done.returncode == 3
    assert "1 documents failed, one of them for:" in done.stderr
    (waiting,) = terminal.json("status", "--org", "alfa")["waiting"]
    assert waiting["status"] == "failed"
    assert waiting["error"].startswith("no vectors: ")
    assert "no vectors" in terminal.run("status", "--org", "alfa").stdout


def test_a_provider_that_fails_leaves_the_search_by_text(terminal: Terminal) -> None:
    terminal.run("add", terminal.file("central.md", MANUAL), "--org", "alfa")
    terminal.run("index", "--org", "alfa")
    terminal.models.vector_faults.extend(overloaded() for _ in range(9))
    done = terminal.run("search", "erro E01", "--org", "alfa", "--json")
    assert done.returncode == 0
    assert "searched by text only: " in done.stderr
    found = json.loads(done.stdout)
    assert found["mode"] == "text"
    assert found["hits"][0]["heading_path"] == "Manual da central › Erros"  # noqa: RUF001


def test_index_may_leave_the_work_to_the_worker(terminal: Terminal) -> None:
    terminal.run("add", terminal.file("a.md", "um"), "--org", "alfa")
    terminal.run("index", "--org", "alfa")
    with psycopg.connect(terminal.url, autocommit=True) as db:
        db.execute("delete from pgqueuer.pgqueuer")
        done = terminal.run("index", "--org", "alfa", "--all", "--enqueue")
        assert done.stdout.strip() == "1 documents enqueued"
        waiting = db.execute(
            "select count(*) from app.waiting_jobs where entrypoint = 'knowledge.index'"
        ).fetchone()
    assert waiting == (1,)


def test_the_search_is_measured_by_a_file_of_questions(terminal: Terminal) -> None:
    terminal.run("add", terminal.file("central.md", MANUAL), "--org", "alfa")
    terminal.run("index", "--org", "alfa")
    questions = terminal.file(
        "q.jsonl", '{"question": "o que é E01?", "relevant": ["Manual da central"]}\n'
    )
    measured = terminal.json("eval", questions, "--org", "alfa")
    assert measured["questions"] == 1
    assert [(one["way"], one["mrr"]) for one in measured["scores"]] == [
        ("text", 1.0), ("vector", 1.0), ("hybrid", 1.0),
    ]  # fmt: skip
    assert "recall@10" in terminal.run("eval", questions, "--org", "alfa").stdout


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("not json", "line 1 of q.jsonl is no question"),
        ('{"question": "x"}', "line 1 of q.jsonl is no question"),
        ('{"question": " ", "relevant": ["a"]}', "line 1 of q.jsonl asks nothing"),
        ("", "q.jsonl holds no question"),
    ],
)
def test_a_file_that_holds_no_questions_is_refused(
    terminal: Terminal, content: str, words: str
) -> None:
    done = terminal.run("eval", terminal.file("q.jsonl", content), "--org", "alfa")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert words in done.stderr
