"""A slice of the proof of upgrades and restores, and migrations whose damage it must find."""

from collections.abc import Callable, Iterator

import psycopg
import pytest

from tests.cluster import Server
from tests.proof.upgrades import broken_after_restore, climb, migrate, populated, restored


@pytest.fixture(scope="module")
def company_url(server: Server, world_template: str) -> Iterator[str]:  # noqa: ARG001 - cloned inside
    """A database with the demo companies and a row in every table."""
    with populated(server) as url:
        yield url


def test_every_migration_goes_over_a_companys_rows_where_projects_grant_everything(
    server: Server, company_url: str, proves: Callable[[str], None]
) -> None:
    steps, wrong = climb(server, company_url, "old")
    assert wrong == []
    longest = max(steps, key=lambda step: step.locked)
    proves(
        f"upgrades: {len(steps)} migrations over rows; longest lock {longest.name} on {longest.table}"
    )


def test_a_dump_is_restored_into_a_fresh_project_and_works(proves: Callable[[str], None]) -> None:
    suites = ("test_membership.py", "test_hostile.py")
    assert restored(18, lambda old, new: broken_after_restore(old, new, suites)) == []
    proves("restore: schema, rows, rollup, queue and two suites of access hold")


def test_a_migration_that_loses_rows_is_found(company_url: str) -> None:
    step = migrate(company_url, "planted", b"delete from public.chat_messages")
    assert step.lost == ("public.chat_messages",)


def test_a_migration_that_does_not_fit_the_rows_fails(company_url: str) -> None:
    with pytest.raises(psycopg.errors.NotNullViolation):
        migrate(company_url, "planted", b"alter table public.leads add column size text not null")


def test_a_migration_that_locks_out_those_at_work_is_measured(company_url: str) -> None:
    statements = b"lock table public.leads; select pg_sleep(0.5); alter table public.leads add column size text"
    step = migrate(company_url, "planted", statements)
    assert step.table == "leads"
    assert step.locked > 0.2
    assert step.waited > 0.2
