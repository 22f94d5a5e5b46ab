"""The tests that stand beside the functions, written for Deno: signatures, credentials, hostile JSON."""

import subprocess
import sys
from pathlib import Path

import pytest

from nessos.local.database import tool_environment
from nessos.settings import ROOT

FUNCTIONS = ROOT / "supabase" / "functions"
DENO = Path(sys.executable).parent / "deno"
FILES = sorted(file.relative_to(FUNCTIONS) for file in FUNCTIONS.rglob("*_test.ts"))


@pytest.mark.parametrize("file", FILES, ids=str)
def test_the_tests_of_a_function_pass(file: Path) -> None:
    done = subprocess.run(
        [str(DENO), "test", "--quiet", "--allow-env", "--config", "deno.json", str(file)],
        check=False,
        capture_output=True,
        text=True,
        cwd=FUNCTIONS,
        env=tool_environment(NO_COLOR="1"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 passed" not in done.stdout


def test_there_are_tests() -> None:
    assert {file.parent.name for file in FILES} >= {"_shared", "chat"}
