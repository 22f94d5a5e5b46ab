"""The processes of the local stack, as `nessos status` sees them."""

import os
from decimal import Decimal

from nessos.cli.stack import _amount
from nessos.local.processes import Record, resident_mb


def test_a_process_counts_once_however_often_it_is_named() -> None:
    own = Record.of("supervisor", os.getpid())
    once, twice = resident_mb([own]), resident_mb([own, own])
    assert 0 < once < 10_000
    assert twice < 1.5 * once


def test_what_has_ended_or_is_another_process_now_counts_nothing() -> None:
    assert resident_mb([Record("worker", os.getpid(), created=1.0)]) == 0


def test_the_dashboard_groups_thousands_of_money_as_the_database_gives_it() -> None:
    assert _amount(Decimal("387200.00"), "BRL") == "387,200.00"
    assert _amount(20, "count") == "20"
