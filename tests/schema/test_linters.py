"""The two published linters of row level security find nothing outside of what pgrls.toml explains."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import psycopg
import pytest

from nessos.local.database import node, tool_environment
from nessos.settings import ROOT

SUPABASE = ROOT / "node_modules" / "supabase" / "dist" / "supabase.js"


def advisors(url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [node(), str(SUPABASE), "db", "advisors", f"--remote={url}", "--type", "all", "--level", "warn",
         "--fail-on", "warn", "--yes"],
        check=False, capture_output=True, text=True, env=tool_environment(), cwd=ROOT, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def pgrls(url: str, config: Path | None) -> tuple[int, list[dict[str, Any]]]:
    program = shutil.which("pgrls") or str(Path(sys.executable).with_name("pgrls"))
    done = subprocess.run(
        [program, "lint", "--database-url", url, "--format", "json", "--schemas", "public,app",
         *(["--config", str(config)] if config else [])],
        check=False, capture_output=True, text=True, cwd="/",
    )  # fmt: skip
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)["violations"]


def test_the_advisors_of_supabase_find_nothing(empty_db_url: str) -> None:
    done = advisors(empty_db_url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout + done.stderr


def test_the_advisors_of_supabase_would_find_a_table_without_row_level_security(
    own_db_url: str,
) -> None:
    with psycopg.connect(own_db_url) as db:
        db.execute("alter table public.leads disable row level security")
    done = advisors(own_db_url)
    assert done.returncode != 0
    assert "leads" in done.stdout + done.stderr


def test_pgrls_finds_nothing_without_a_reason(empty_db_url: str) -> None:
    status, violations = pgrls(empty_db_url, ROOT / "pgrls.toml")
    loud = [f"{v['rule_id']} {v['location']}" for v in violations if v["severity"] != "info"]
    assert status == 0, "\n".join(loud)
    assert not loud


def test_pgrls_would_find_a_policy_that_lets_everybody_in(own_db_url: str) -> None:
    with psycopg.connect(own_db_url) as db:
        db.execute("alter policy leads_select on public.leads using (true)")
    status, violations = pgrls(own_db_url, ROOT / "pgrls.toml")
    assert status != 0
    assert "public.leads.leads_select" in {v["location"] for v in violations}


@pytest.fixture(scope="module")
def unexcused(empty_db_url: str) -> set[tuple[str, str]]:
    # A rule about indexes names them behind the table, and is excused by table.
    return {(v["rule_id"], v["location"].partition(" (")[0]) for v in pgrls(empty_db_url, None)[1]}


def test_every_exception_of_pgrls_is_needed(unexcused: set[tuple[str, str]]) -> None:
    lint = tomllib.loads((ROOT / "pgrls.toml").read_text())["lint"]
    stated = {
        (rule, place) for rule, settings in lint["rules"].items() for place in settings["allowlist"]
    }
    assert sorted(stated - unexcused) == []
    assert sorted(set(lint["disable"]) - {rule for rule, _ in unexcused}) == []


SECTIONS = ("Tables", "Functions", "Triggers", "Views", "Access", "Reference rows")


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "supabase" / "migrations").glob("*.sql")),
    ids=lambda path: path.stem[15:],
)
def test_a_migration_opens_with_its_header_and_numbers_its_sections(path: Path) -> None:
    text = path.read_text()
    head, _, body = text.partition("\n\n")
    assert "\n-- Depends on: " in head
    assert "\n-- Asked for by: " in head
    titles = re.findall(r"^-- (?:(\d)\W+)?(" + "|".join(SECTIONS) + r")\b", body, re.MULTILINE)
    sections = dict(titles)
    assert sections
    assert sections == {str(SECTIONS.index(name) + 1): name for name in sections.values()}
    assert re.findall(r"^-- \d(?!\. )", body, re.MULTILINE) == []
