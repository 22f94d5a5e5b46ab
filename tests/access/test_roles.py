"""The matrix of roles as it ships, against the words of the documents."""

import psycopg
import pytest

from tests.people import ROLES, Connection

# Somos, "Matriz de Permissões por Módulo"; a client's R and RW end at the client's own rows.
DOCUMENT = """
            admin  director  sales  agent  client
hunter      RW     RW        R      RW     -
sdr         RW     RW        R      RW     -
crm         RW     RW        RW*    R      -
contracts   RW     RW        R      -      R*
projects    RW     RW        R      -      R*
fin         RW     R         -      -      R*
inventory   RW     RW        R      -      -
suppliers   RW     RW        R      -      -
budgets     RW     RW        RW     RW     R*
content     RW     RW        R      RW     R*
social      RW     RW        R      RW     -
people      RW     R         -      -      -
intel       RW     RW        R      RW     -
analytics   RW     RW        R      R      R*
mobile      RW     RW        RW     -      RW*
"""
SCOPES = {
    "RW": ("all", "all"),
    "R": ("all", "none"),
    "RW*": ("own", "own"),
    "R*": ("own", "none"),
    "-": ("none", "none"),
}
# What machines and customers have of the modules that the document does not know: all else is closed to them.
FURTHER = {
    ("agent", "knowledge"): ("all", "none"),
    ("agent", "tasks"): ("none", "all"),
    ("client", "notify"): ("own", "own"),
}


def stated() -> dict[tuple[str, str], tuple[str, str]]:
    """Return what the document says of each role and module."""
    head, *lines = (line.split() for line in DOCUMENT.strip().splitlines())
    return {
        (role, line[0]): SCOPES[word]
        for line in lines
        for role, word in zip(head, line[1:], strict=True)
    }


def shipped(db: Connection) -> dict[tuple[str, str], tuple[str, str]]:
    """Return the matrix of the database: what a role reads and writes of a module."""
    return {
        (role, module): (read, write)
        for role, module, read, write in db.execute(
            "select role, module, read_scope, write_scope from public.role_permissions"
        ).fetchall()
    }


def deviations(db: Connection) -> list[str]:
    """Return where the matrix gives more or less than the documents say."""
    matrix, document = shipped(db), stated()
    modules = {module for _, module in matrix}
    expected = document | {
        (role, module): FURTHER.get((role, module), SCOPES["-"])
        for role in ("agent", "client")
        for module in modules
        if (role, module) not in document
    }
    expected |= {("owner", module): matrix["admin", module] for module in modules}
    return [
        f"{role} {module}: {matrix.get((role, module), SCOPES['-'])}, not {scopes}"
        for (role, module), scopes in expected.items()
        if matrix.get((role, module), SCOPES["-"]) != scopes
    ]


def test_the_matrix_is_the_one_of_the_documents(db: Connection) -> None:
    assert deviations(db) == []


def test_every_role_has_its_line_in_every_module(db: Connection) -> None:
    matrix = shipped(db)
    assert {role for role, _ in matrix} == set(ROLES)


@pytest.mark.parametrize("role", ["agent", "client"])
def test_one_right_more_is_noticed(db: Connection, role: str) -> None:
    db.execute(
        "update role_permissions set write_scope = 'all' where role = %s and module = 'fin'",
        (role,),
    )
    assert [one.split(":")[0] for one in deviations(db)] == [f"{role} fin"]


def test_a_scope_is_one_of_three(db: Connection) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        db.execute("update role_permissions set write_scope = 'some'")
