"""`nessos ai`: what language models cost, which there are, budgets."""

from uuid import uuid4

import psycopg
import pytest

from tests.cli.test_commands import answer, run


def call(url: str, *, purpose: str = "scoring", agent: str | None = None, brl: str = "1.5") -> None:
    """Write a call of today into the ledger."""
    with psycopg.connect(url) as db:
        db.execute(
            "insert into public.ai_calls (org_id, agent_id, purpose, provider, model, served_model, status, settled_at,"
            " prompt_tokens, completion_tokens, cost_usd, cost_brl, charged_on, prompt_estimate, expires_at)"
            " select id, %s, %s, 'openai', 'gpt-4o', 'gpt-4o-2024-08-06', 'succeeded', now(), 1000, 200, 0.3, %s,"
            " app.org_today(id), 1000, now() from public.organizations where slug = 'vigia'",
            (agent, purpose, brl),
        )


def test_usage_is_summed_up_by_what_one_asks(seeded_url: str) -> None:
    agent = str(uuid4())
    call(seeded_url)
    call(seeded_url, agent=agent)
    call(seeded_url, purpose="reasoning", agent=agent)
    (day,) = answer(seeded_url, "ai", "usage", "--org", "vigia")
    assert (day["org"], day["calls"], day["prompt_tokens"], day["cost_brl"]) == ("vigia", 3, 3000, 4.5)  # fmt: skip
    by_agent = answer(seeded_url, "ai", "usage", "--by", "agent")
    assert {row["agent"]: row["calls"] for row in by_agent} == {agent: 2, None: 1}
    by_purpose = answer(seeded_url, "ai", "usage", "--by", "purpose")
    assert {row["purpose"]: row["calls"] for row in by_purpose} == {"scoring": 2, "reasoning": 1}
    assert answer(seeded_url, "ai", "usage", "--since", "2100-01-01") == []
    assert "gpt-4o-2024-08-06" in run(seeded_url, "ai", "usage", "--by", "model").stdout


def test_a_budget_is_set_changed_shown_and_removed(seeded_url: str) -> None:
    company = ("--org", "claquete")
    assert answer(seeded_url, "ai", "budget", *company) == []
    answer(seeded_url, "ai", "budget", "set", "day", "20,50", *company)
    answer(seeded_url, "ai", "budget", "set", "month", "300", *company, "--alert", "60")
    answer(seeded_url, "ai", "budget", "set", "month", "400", *company)
    rows = answer(seeded_url, "ai", "budget", *company)
    assert [(row["period"], row["limit_brl"], row["alert_pct"], row["spent_brl"]) for row in rows] == [
        ("day", 20.5, 80, 0), ("month", 400, 60, 0),
    ]  # fmt: skip
    assert "400.00" in run(seeded_url, "ai", "budget", *company).stdout
    unsure = run(seeded_url, "ai", "budget", "remove", "month", *company)
    assert (unsure.returncode, "say --yes" in unsure.stderr) == (2, True)
    assert run(seeded_url, "ai", "budget", "remove", "month", *company, "--yes").returncode == 0
    assert run(seeded_url, "ai", "budget", "remove", "month", *company, "--yes").returncode == 2
    assert [row["period"] for row in answer(seeded_url, "ai", "budget", *company)] == ["day"]


@pytest.mark.parametrize("amount", ["viel", "1.234", "NaN", "1e99999"])
def test_what_is_no_amount_is_refused_in_one_line(seeded_url: str, amount: str) -> None:
    done = run(seeded_url, "ai", "budget", "set", "day", amount, "--org", "vigia")
    assert done.returncode in {1, 2}
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_models_are_shown_by_route_with_what_is_set_up(
    seeded_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NESSOS_OPENAI_API_KEY", "sk-fake")
    monkeypatch.setenv("NESSOS_COMPATIBLE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("NESSOS_COMPATIBLE_MODEL", "own-model")
    rows = answer(seeded_url, "ai", "models")
    assert (rows[0]["model"], rows[0]["provider"]) == ("own-model", "compatible")
    scoring = [(r["model"], r["is_set_up"]) for r in rows if r["purpose"] == "scoring"]
    assert scoring == [("gpt-4o", True), ("claude-sonnet-5", False), ("gemini-2.5-pro", False)]
    assert "sk-fake" not in run(seeded_url, "ai", "models").stdout
