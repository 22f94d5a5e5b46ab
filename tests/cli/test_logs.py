"""What the worker and the runner log: fields, JSON, and nothing that is secret or personal."""

import json
import subprocess
import sys

import pytest

from nessos.logs import REDACTED, redact
from nessos.settings import ROOT

PROGRAM = """
import logging, structlog
from nessos import logs
logs.configure()
structlog.get_logger("nessos.test").info("job done", job="events.rollup", duration_ms=7)
logging.getLogger("library").warning("no answer from postgresql://ana:geheim@db.example/x")
"""


def test_outside_a_terminal_each_line_is_json_with_constant_message_and_fields() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True,
        env={"PYTHONPATH": str(ROOT / "py")},
    )  # fmt: skip
    own, library = (json.loads(line) for line in done.stderr.splitlines())
    assert own.pop("timestamp").endswith("Z")
    assert own == {
        "event": "job done", "job": "events.rollup", "duration_ms": 7, "level": "info",
        "logger": "nessos.test",
    }  # fmt: skip
    assert library["logger"] == "library"
    assert library["event"] == f"no answer from postgresql://{REDACTED}@db.example/x"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("password", "x"),
        ("api_key", "x"),
        ("email", "ana@vigia.example"),
        ("document", "11222333000181"),
        ("said", "ana.b@vigia.example"),
        ("said", "nos_0123abc"),
        ("said", "sb_secret_0123"),
        ("said", "eyJhbGciOiJI.eyJzdWIi.c2ln"),
    ],
)
def test_secrets_and_personal_data_are_not_logged(field: str, value: str) -> None:
    assert redact(None, "info", {field: value}) == {field: REDACTED}


def test_what_is_neither_secret_nor_personal_is_logged() -> None:
    event = {"event": "job done", "org_id": "7", "duration_ms": 3, "said": "{'counted': 2}"}
    assert redact(None, "info", dict(event)) == event
