"""Pages and types that are written from the source are as the source says."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nessos import reference
from nessos.settings import ROOT

PAGES = sorted(path.relative_to(ROOT) for path in reference.pages(""))


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_a_generated_file_is_current(empty_db_url: str, path: Path) -> None:
    page: Callable[[], str] = reference.pages(empty_db_url)[ROOT / path]
    assert (ROOT / path).read_text(encoding="utf-8") == page(), "run: make reference"
