"""`nessos agents list`, `run`, `approvals`, `approve`, `refuse` and `log`."""

import json
from typing import Any

import psycopg
import pytest

from tests.cli.test_commands import answer, run

VIGIA = ("--org", "vigia")


@pytest.fixture
def waiting(seeded_url: str) -> dict[str, Any]:
    """A call of an agent of the demo company vigia that waits for a decision."""
    started = answer(seeded_url, "agents", "run", "custom", *VIGIA, "--input", '{"a": "<b>"}')
    turn = {
        "content": None,
        "tool_calls": [
            {"id": "call_1", "name": "create_task", "arguments": '{"title": "Ligar [para] Ana"}'}
        ],
        "finish": "tool_calls",
        "model": "gpt-4o",
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "cost_brl": "0.0123",
        "duration_ms": 5,
    }
    with psycopg.connect(seeded_url, autocommit=True) as db:
        db.execute(
            "insert into public.agent_tool_grants (org_id, kind, tool, mode)"
            " select id, 'custom', 'create_task', 'approval' from public.organizations"
            " where slug = 'vigia' on conflict do nothing"
        )
        for statement, *values in (
            ("select app.next_agent_step(o.id, %s)", started["run"]),
            (
                "select app.store_agent_turn(o.id, %s, 0, %s)",
                started["run"],
                json.dumps(turn),
            ),
            ("select app.open_agent_call(o.id, %s, 1, 0)", started["run"]),
        ):
            db.execute(f"{statement} from public.organizations as o where slug = 'vigia'", values)
    rows = answer(seeded_url, "agents", "approvals", *VIGIA)
    return next(row for row in rows if row["run"] == started["run"])


def test_list_shows_agents_and_the_kinds_there_could_be(seeded_url: str) -> None:
    rows = answer(seeded_url, "agents", "list", *VIGIA)
    assert "custom" in {row["kind"] for row in rows}


def test_a_call_is_shown_as_stored_and_approved_once(
    seeded_url: str, waiting: dict[str, Any]
) -> None:
    assert waiting["arguments"] == {"title": "Ligar [para] Ana"}
    dry = run(seeded_url, "agents", "approve", waiting["id"], *VIGIA, "--dry-run")
    assert (dry.returncode, "Ligar [para] Ana" in dry.stdout) == (0, True)
    done = answer(seeded_url, "agents", "approve", waiting["id"], *VIGIA, "--yes")
    assert done["status"] == "approved"
    again = run(seeded_url, "agents", "refuse", waiting["id"], *VIGIA, "--yes")
    assert again.returncode == 1
    assert "agent_approval_decided" in again.stderr
    assert waiting["id"] not in {
        row["id"] for row in answer(seeded_url, "agents", "approvals", *VIGIA)
    }


def test_a_refusal_is_kept_with_its_reason(seeded_url: str, waiting: dict[str, Any]) -> None:
    done = answer(
        seeded_url, "agents", "refuse", waiting["id"], *VIGIA, "--yes", "--reason", "Agora não"
    )
    assert done["status"] == "refused"
    with psycopg.connect(seeded_url, autocommit=True) as db:
        db.execute(
            "select app.open_agent_call(org_id, run_id, turn, call_index)"
            " from public.agent_approvals where id = %s",
            (waiting["id"],),
        )
    shown = answer(seeded_url, "agents", "log", waiting["run"], *VIGIA)
    assert [step["kind"] for step in shown["steps"]] == ["turn", "call"]
    call = shown["steps"][1]
    assert (call["outcome"], call["decision_reason"]) == ("rejected", "Agora não")
    table = run(seeded_url, "agents", "log", waiting["run"], *VIGIA)
    for words in ("gpt-4o", "create_task: rejected, refused", "Ligar [para] Ana", "0.0123"):
        assert words in table.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "custom", "--input", "{"), "no JSON"),
        (("approve", "nada", "--yes"), "there is no approval nada"),
        (("log", "nada"), "there is no run nada"),
    ],
)
def test_what_does_not_exist_is_a_wrong_call(
    seeded_url: str, arguments: tuple[str, ...], words: str
) -> None:
    done = run(seeded_url, "agents", *arguments, *VIGIA)
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr


def test_an_unknown_agent_is_refused_by_the_database(seeded_url: str) -> None:
    done = run(seeded_url, "agents", "run", "ninguem", *VIGIA)
    assert (done.returncode, "agent_not_found" in done.stderr) == (1, True)
