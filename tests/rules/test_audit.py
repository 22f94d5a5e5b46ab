"""Every change of people's rights, of money and contracts, of policies leaves a line in the audit log."""

import pytest

from tests.people import Connection
from tests.rules.audit import TABLES, unrecorded


@pytest.mark.parametrize("table", TABLES)
def test_what_is_added_changed_and_deleted_is_recorded(filled: Connection, table: str) -> None:
    assert unrecorded(filled, table) == []


def test_a_table_without_its_audit_is_noticed(filled: Connection) -> None:
    with filled.transaction(force_rollback=True):
        filled.execute("drop trigger contracts_80_audit on contracts")
        assert unrecorded(filled, "contracts") == ["insert", "update", "delete"]
