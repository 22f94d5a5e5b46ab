"""The executed access matrix: every relation, every actor, every verb, on rows of his own, of others and of strangers."""

from collections.abc import Callable, Iterator

import psycopg
import pytest

from tests.access.actors import ACTORS, Actor
from tests.access.cells import CELLS
from tests.access.matrix import EXCEPTIONS, PLACES, VERBS, Matrix


@pytest.fixture(scope="module")
def matrix(db_url: str) -> Iterator[Matrix]:
    """The matrix over a database with three rows in every table: mine, another's, and another tenant's."""
    with psycopg.connect(db_url) as connection:
        matrix = Matrix(connection)
        for place in PLACES:
            matrix.rows.fill(place)
        connection.commit()
        yield matrix
        connection.rollback()


@pytest.fixture
def scene(
    matrix: Matrix, actor: Actor, record_property: Callable[[str, object], None]
) -> Iterator[Matrix]:
    """The same, with the rows of place `mine` about the actor; undone afterwards."""
    matrix.make_mine(actor)
    before = matrix.cells
    yield matrix
    record_property("cells", matrix.cells - before)
    matrix.db.rollback()


@pytest.mark.parametrize("actor", ACTORS, ids=lambda actor: actor.name)
@pytest.mark.parametrize("rule", CELLS)
def test_cells(scene: Matrix, actor: Actor, rule: str) -> None:
    wrong = [one for relation in scene.relations for one in CELLS[rule](scene, relation, actor)]
    assert not wrong, "\n" + "\n".join(wrong)


def test_every_exception_names_a_relation_and_has_a_reason(matrix: Matrix) -> None:
    labels = {relation.label for relation in matrix.relations}
    assert set(EXCEPTIONS) <= labels
    assert [label for label, exception in EXCEPTIONS.items() if not exception.get("why")] == []
    stated = {"why", "like", "where", "verbs", "columns", "computed", "narrow", *VERBS}
    assert [label for label, exception in EXCEPTIONS.items() if not set(exception) <= stated] == []


def test_every_public_relation_is_protected_or_stated(matrix: Matrix) -> None:
    known = set(matrix.protections) | set(EXCEPTIONS)
    assert [
        r.label for r in matrix.relations if r.schema == "public" and r.label not in known
    ] == []


def test_every_tenant_table_has_its_three_rows(matrix: Matrix) -> None:
    tenants = [name for name, table in matrix.rows.tables.items() if "org_id" in table.columns]
    assert [
        (n, p.name) for n in tenants for p in PLACES if (n, p.name) not in matrix.rows.made
    ] == []
