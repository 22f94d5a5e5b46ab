"""Operators' commands against a database with the demo companies, as separate processes."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from typing import Any

import psycopg
import pytest

from nessos.settings import ROOT


def run(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command on this database and give what it printed."""
    return subprocess.run(
        [sys.executable, "-c", "from nessos.cli import main; main()", *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": url, "PYTHONPATH": str(ROOT / "py")},
    )


def answer(url: str, *arguments: str) -> Any:
    """Run a command that must succeed, with --json, and give the answer."""
    done = run(url, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_org_list_shows_every_organisation_with_its_members(seeded_url: str) -> None:
    rows = answer(seeded_url, "org", "list")
    assert [(row["slug"], row["members"]) for row in rows][:2] == [("claquete", 11), ("vigia", 11)]


def test_org_create_and_invite_act_in_a_persons_name(seeded_url: str) -> None:
    made = answer(seeded_url, "org", "create", "Padaria do Zé", "--owner", "employee@vigia.example")
    assert made["slug"] == "padaria-do-ze"
    invitation = answer(
        seeded_url, "org", "invite", "nova@padaria.example", "sales", "--org", "padaria-do-ze"
    )
    with psycopg.connect(seeded_url) as db:
        row = db.execute(
            "select i.created_by = u.id, i.token_hash = sha256(convert_to(%s, 'UTF8'))"
            " from invitations as i, auth.users as u where i.id = %s and u.email = %s",
            (invitation["token"], invitation["id"], "employee@vigia.example"),
        ).fetchone()
    assert row == (True, True)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("report", "cfo", "--org", "nowhere"), 2, "there is no organisation nowhere"),
        (("report", "cfo"), 2, "several organisations"),
        (("org", "create", "X Y", "--owner", "nobody@x.example"), 2, "nobody has signed up"),
        (("org", "create", "Vigia", "--owner", "owner@vigia.example"), 1, "slug_taken"),
        (("org", "invite", "a@b.co", "emperor", "--org", "vigia"), 1, "role_unknown"),
        (("indices", "compute", "--org", "vigia", "--month", "March"), 2, "Invalid value"),
        (("notifications", "test", "x@y.example", "--org", "vigia"), 2, "is no member of vigia"),
        (("events", "recount", "yesterday"), 2, "Invalid value"),
    ],
)
def test_a_mistake_is_one_clear_line_with_the_right_exit_code(
    seeded_url: str, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = run(seeded_url, *arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_database_that_does_not_answer_is_one_line_with_the_way_out() -> None:
    done = run("postgresql://postgres@127.0.0.1:9/nowhere", "org", "list")
    assert done.returncode == 1
    assert done.stderr.startswith("error: the database does not answer")
    assert len(done.stderr.strip().splitlines()) == 1


def test_rollup_then_recount_finds_no_drift(seeded_url: str) -> None:
    counted = answer(seeded_url, "events", "rollup")["counted"]
    assert answer(seeded_url, "events", "rollup")["counted"] == 0
    with psycopg.connect(seeded_url) as db:
        day = db.execute("select max(period)::text, sum(count) from event_aggregates").fetchone()
    assert day is not None
    assert day[1] >= counted
    rows = answer(seeded_url, "events", "recount", day[0])
    assert rows
    assert {row["drift"] for row in rows} == {0}


def test_tail_shows_the_latest_events_of_one_organisation(seeded_url: str) -> None:
    done = run(seeded_url, "events", "tail", "--org", "vigia", "--lines", "7")
    lines = done.stdout.splitlines()
    assert len(lines) == 7
    assert all(" vigia " in line for line in lines)
    assert lines == sorted(lines, key=lambda line: line[:19])


def test_indices_are_computed_for_a_span_of_months_and_shown(seeded_url: str) -> None:
    with psycopg.connect(seeded_url) as db:
        row = db.execute(
            "select to_char(now() - interval '4 months', 'YYYY-MM'),"
            " to_char(now() - interval '2 months', 'YYYY-MM'), (select count(*) from index_definitions)"
        ).fetchone()
    assert row is not None
    since, month, definitions = row
    rows = answer(
        seeded_url, "indices", "compute", "--org", "vigia", "--since", since, "--month", month
    )
    assert len(rows) == 3 * definitions
    assert not [row for row in rows if row["error"]]
    shown = answer(seeded_url, "indices", "show", "--org", "vigia", "--key", "mrr_total")
    assert len({row["period"] for row in shown}) == 6
    assert all(row["value"] > 0 for row in shown)


def test_the_cfo_report_has_the_figures_of_the_month(seeded_url: str) -> None:
    summary = answer(seeded_url, "report", "cfo", "--org", "vigia")
    assert summary["mrr"] > 0
    assert summary["contracts"] >= summary["active_clients"] > 0
    table = run(seeded_url, "report", "cfo", "--org", "vigia").stdout
    assert "active clients" in table
    assert re.search(r"renewals 90 brl +\d+\.\d\d ", table)
    text = run(seeded_url, "report", "cfo", "--org", "vigia", "--csv").stdout
    assert text.startswith("\ufeffIndicador;Valor\n")
    assert len(text.splitlines()) > len(summary)


@pytest.mark.parametrize("name", ["mrr", "rentability", "reconciliation", "lifecycle"])
def test_every_report_comes_as_table_json_and_csv(seeded_url: str, name: str) -> None:
    month: tuple[str, ...] = ()
    if name in {"rentability", "reconciliation"}:
        with psycopg.connect(seeded_url) as db:
            row = db.execute("select to_char(now() - interval '1 month', 'YYYY-MM')").fetchone()
        assert row is not None
        month = ("--month", row[0])
    rows = answer(seeded_url, "report", name, "--org", "vigia", *month)
    text = run(seeded_url, "report", name, "--org", "vigia", *month, "--csv").stdout
    lines = list(csv.reader(io.StringIO(text.removeprefix("\ufeff")), delimiter=";"))
    table = run(seeded_url, "report", name, "--org", "vigia", *month).stdout
    assert text.startswith("\ufeff")
    assert len(lines) - 1 == len(rows) > 10
    assert "Vigia Segurança Gerenciada" in table


def test_an_operator_tries_a_person_and_sees_how_it_went(seeded_url: str) -> None:
    with psycopg.connect(seeded_url) as db:
        row = db.execute(
            "select u.email from auth.users u join public.memberships m on m.user_id = u.id"
            " join public.organizations o on o.id = m.org_id where o.slug = 'vigia' and m.role = 'owner'"
        ).fetchone()
    assert row
    said = run(seeded_url, "notifications", "test", row[0], "--org", "vigia").stdout
    assert f"is in the inbox of {row[0]}; no other channel is connected" in said
    told = answer(seeded_url, "notifications", "list", "--org", "vigia", "--lines", "1")
    assert [(one["template"], one["channel"], one["status"]) for one in told] == [
        ("test", "in_app", "delivered")
    ]
    assert answer(seeded_url, "notifications", "list", "--org", "vigia", "--failed") == []
