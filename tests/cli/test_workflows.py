"""`nessos workflows`: saved, run, approved and tried again, as separate processes."""

import json
from pathlib import Path

import psycopg

from tests.cli.test_commands import answer, run

VIGIA = ("--org", "vigia")
TASK = {"id": "task", "kind": "create_task", "title": "Ligar"}
REVIEW = {"id": "ask", "kind": "human_review", "title": "Decida", "reviewer": {"module": "crm"}}


def write(folder: Path, *steps: object) -> str:
    file = folder / "ligar.json"
    file.write_text(json.dumps({"when": {"event": "growth.lead.created"}, "then": steps}))
    return str(file)


def add_lead(url: str) -> None:
    with psycopg.connect(url) as db:
        db.execute(
            "insert into public.leads (org_id, name, email) select id, 'Zé Lima', 'ze@lima.example' from public.organizations where slug = 'vigia'"
        )


def work(url: str) -> None:
    done = run(url, "worker", "--drain")
    assert done.returncode == 0, done.stderr


def test_a_workflow_is_saved_run_approved_and_logged(seeded_url: str, tmp_path: Path) -> None:
    file = write(tmp_path, REVIEW, TASK)
    assert answer(seeded_url, "workflows", "validate", file, *VIGIA) == []
    assert answer(seeded_url, "workflows", "save", file, *VIGIA)["version"] == 1
    add_lead(seeded_url)
    work(seeded_url)
    (review,) = answer(seeded_url, "workflows", "reviews", *VIGIA)
    decided = run(seeded_url, "workflows", "approve", review["id"], *VIGIA)
    assert decided.returncode == 0, decided.stderr
    again = run(seeded_url, "workflows", "refuse", review["id"], *VIGIA)
    assert (again.returncode, "workflow_review_decided" in again.stderr) == (1, True)
    work(seeded_url)
    (one,) = answer(seeded_url, "workflows", "runs", "--workflow", "ligar", *VIGIA)
    assert one["status"] == "completed"
    steps = answer(seeded_url, "workflows", "log", one["run"], *VIGIA)
    assert [(step["step"], step["status"]) for step in steps] == [
        ("ask", "waiting"),
        ("ask", "completed"),
        ("task", "completed"),
    ]
    retried = run(seeded_url, "workflows", "retry", one["run"], *VIGIA)
    assert "workflow_run_not_retryable" in retried.stderr


def test_what_is_wrong_is_named(seeded_url: str, tmp_path: Path) -> None:
    file = write(tmp_path, {**TASK, "tittle": "x"})
    wrong = run(seeded_url, "workflows", "validate", file, "--json", *VIGIA)
    assert wrong.returncode == 1
    assert json.loads(wrong.stdout) == [
        {"step": "task", "field": "tittle", "problem": "is not a field of create_task"}
    ]
    (tmp_path / "x.json").write_text("{")
    assert run(seeded_url, "workflows", "save", str(tmp_path / "x.json"), *VIGIA).returncode == 2


def test_a_template_is_installed_paused_and_resumed(seeded_url: str) -> None:
    keys = [row["key"] for row in answer(seeded_url, "workflows", "templates")]
    assert keys == ["case-published", "contract-renewal", "lead-qualified"]
    answer(seeded_url, "workflows", "install", "contract-renewal", *VIGIA)
    for command, state in (("pause", "paused: manual"), ("resume", "active")):
        done = run(seeded_url, "workflows", command, "contract-renewal", *VIGIA)
        assert done.returncode == 0, done.stderr
        rows = {row["key"]: row for row in answer(seeded_url, "workflows", "list", *VIGIA)}
        assert rows["contract-renewal"]["state"] == state
    shown = run(seeded_url, "workflows", "show", "contract-renewal", *VIGIA)
    assert json.loads(shown.stdout)["definition"]["when"] == {"event": "fin.contract.renewal_near"}
    assert run(seeded_url, "workflows", "pause", "nenhum", *VIGIA).returncode == 2
