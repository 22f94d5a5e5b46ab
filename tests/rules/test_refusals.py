"""Every check constraint refuses something that nothing else would have refused."""

from tests.people import Connection
from tests.rules.refusals import Check, accepted, checks, examples


def test_every_check_has_an_example_and_every_example_its_check(filled: Connection) -> None:
    assert set(checks(filled)) == set(examples())


def test_every_check_refuses_its_example(filled: Connection) -> None:
    wrong = {
        f"{check.table}.{check.name}": instead
        for check in examples()
        if (instead := accepted(filled, check))
    }
    assert not wrong


def test_without_its_check_the_example_is_stored(filled: Connection) -> None:
    check = Check("clients", "clients_name_check")
    with filled.transaction(force_rollback=True):
        filled.execute(f"alter table {check.table} drop constraint {check.name}")
        assert accepted(filled, check) == "it is stored"
