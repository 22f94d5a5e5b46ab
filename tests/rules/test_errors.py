"""Every registered error is reached by a test that names it, and means one thing."""

import re
from pathlib import Path

from tests.people import Connection
from tests.schema.laws import registered_keys, trigger_arguments

QUOTED = re.compile(r"""["']([a-z][a-z0-9_]+)["']""")


def named_in_tests() -> set[str]:
    """Collect the words that tests expect: in refused(…), as a parameter, or in an answer."""
    return {
        word
        for file in Path(__file__).parents[1].rglob("test_*.py")
        for word in QUOTED.findall(file.read_text())
    }


def test_every_error_is_reached_by_a_test(db: Connection) -> None:
    # tests/rules/test_machines.py tries every pair of states and compares this key.
    moves = {
        f"{entity}_move_refused" for entity, *_ in trigger_arguments(db, "app.guard_move").values()
    }
    assert sorted(registered_keys(db) - named_in_tests() - moves) == []


def test_every_expected_error_is_registered(db: Connection) -> None:
    expected = {
        key
        for file in Path(__file__).parents[1].rglob("test_*.py")
        for key in re.findall(r"""refused\(\s*["']([a-z0-9_]+)["']""", file.read_text())
    }
    assert sorted(expected - registered_keys(db)) == []


def test_errors_use_the_statuses_of_the_house_and_no_other(db: Connection) -> None:
    used = {row[0] for row in db.execute("select distinct http from app.error_keys").fetchall()}
    assert used <= {400, 401, 403, 404, 409, 413, 422, 429, 500}


def test_the_name_of_an_error_agrees_with_its_status(db: Connection) -> None:
    wrong = db.execute(
        "select key, http from app.error_keys where key like '%\\_not\\_found' and http <> 404"
        " or key like '%\\_move\\_refused' and http <> 409 or http = 404 and key !~ 'not_(found|open)$'"
    ).fetchall()
    assert wrong == []


def test_every_error_says_what_it_means(db: Connection) -> None:
    assert (
        db.execute(
            "select key from app.error_keys where meaning !~ '[.]$' or length(meaning) < 12"
        ).fetchall()
        == []
    )
