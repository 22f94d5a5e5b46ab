"""Every block of shell in the integrators' guide runs, and prints what it says it prints."""

import re
import subprocess

from nessos.local.database import tool_environment
from nessos.settings import ROOT
from tests.api.stack import Api, Company
from tests.api.test_ingest import Machine

GUIDE = ROOT / "docs" / "integrations.md"


def blocks() -> list[str]:
    """Give the blocks of shell."""
    return re.findall(r"^```sh\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_guide_runs_and_prints_what_it_says(functions: Api, company: Company) -> None:
    script = "\n".join(blocks())
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        check=False,
        capture_output=True,
        text=True,
        env=tool_environment(SUPABASE_URL=functions.url, API_KEY=Machine(company).key),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == re.findall(r"^# → (.*)", script, re.MULTILINE)


def test_no_block_of_another_form_of_shell_escapes() -> None:
    assert set(re.findall(r"^```(\w+)", GUIDE.read_text(), re.MULTILINE)) == {"sh"}
    assert len(blocks()) >= 3
