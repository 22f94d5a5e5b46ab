"""Files and standard input that are not what they say: the command line answers with one line, never a traceback."""

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nessos.cli import main
from nessos.settings import load
from tests.proof.border import BODIES, NASTY, RAW

VIGIA = ("--org", "vigia")
CONTENTS = [
    *BODIES,
    *(text.encode("utf-8", "surrogatepass") for text in NASTY),
    *(f'{{"app_key": {raw}, "when": {raw}, "then": {raw}}}'.encode() for raw in RAW),
    *(raw.encode() for raw in RAW),
    b"%PDF-1.7\n" + b"1 0 obj << /Length 99999999999 >> stream\n" * 50,
    b"%PDF-1.7\n%%EOF",
]
COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "a definition to validate": (".json", ("workflows", "validate", "FILE", *VIGIA)),
    "a definition to save": (".json", ("workflows", "save", "FILE", *VIGIA)),
    "a Markdown file": (".md", ("knowledge", "add", "FILE", *VIGIA)),
    "a text file": (".txt", ("knowledge", "add", "FILE", *VIGIA)),
    "a PDF": (".pdf", ("knowledge", "add", "FILE", *VIGIA)),
    "credentials": ("", ("integrations", "set", "omie", *VIGIA)),
    "the input of an agent": ("", ("agents", "run", "lead_qualifier", "--input", "-", *VIGIA)),
}

Cli = Callable[..., tuple[int, str]]


@pytest.fixture
def cli(
    seeded_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Cli:
    """The command line in this process; gives exit code and standard error."""
    monkeypatch.setenv("DATABASE_URL", seeded_url)
    monkeypatch.setenv("NESSOS_ENCRYPTION_KEYS", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
    load.cache_clear()

    def call(*arguments: str, stdin: bytes = b"") -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["nessos", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().err

    return call


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_no_file_of_its_kind_is_refused_in_one_line(
    cli: Cli, command: str, tmp_path: Path
) -> None:
    ending, arguments = COMMANDS[command]
    file = tmp_path / f"given{ending}"
    for content in CONTENTS:
        file.write_bytes(content)
        given = tuple(str(file) if one == "FILE" else one for one in arguments)
        code, said = cli(*given, stdin=content)
        assert code in {0, 1, 2}, (content[:80], said)
        assert code == 0 or re.search(r"^error: .+", said, re.MULTILINE), (content[:80], said)
        assert "Traceback" not in said


@pytest.mark.parametrize("text", ["", "nobody", "'; drop table leads; --", "x" * 3000, "\u202e"])
def test_an_id_or_a_name_that_is_none_is_refused_in_one_line(cli: Cli, text: str) -> None:
    for arguments in (
        ("workflows", "approve", text, *VIGIA),
        ("agents", "approve", text, *VIGIA, "--yes"),
        ("agents", "log", text, *VIGIA),
        ("workflows", "show", text, *VIGIA),
        ("knowledge", "remove", text, *VIGIA, "--yes"),
        ("org", "create", text),
    ):
        code, said = cli(*arguments)
        assert code in {0, 1, 2}, (arguments, said)
        assert "Traceback" not in said
        assert "SQLSTATE" not in said, (arguments, said)
