"""JSON that somebody gives a command: a file, an option or standard input."""

from __future__ import annotations

import json
import sys
from typing import Any

from nessos.errors import UsageError


def read_json(text: str | bytes, *, what: str, way_out: str) -> Any:  # noqa: ANN401 - JSON
    """Read JSON as Postgres would take it.

    Args:
        text: What was given.
        what: What it is, for the error.
        way_out: What to do about it.

    Returns:
        The value.

    Raises:
        UsageError: It is not JSON, not UTF-8, nested too deep, or has a null byte or half a letter.
    """
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise UsageError(f"{what} is nested too deep", way_out) from None
    except ValueError as error:
        raise UsageError(f"{what} is no JSON: {error}", way_out) from None
    if "\\u0000" in json.dumps(value):
        raise UsageError(f"{what} has a null byte", way_out)
    return value


def read_json_from_stdin(*, what: str, way_out: str) -> Any:  # noqa: ANN401 - JSON
    """Read JSON from standard input, whatever the terminal's encoding; see `read_json`."""
    return read_json(sys.stdin.buffer.read(), what=what, way_out=way_out)
