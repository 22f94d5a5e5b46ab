"""Acting as somebody on the worker's connections: whose rows are seen, and what is left afterwards."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from psycopg import AsyncConnection
from psycopg.errors import QueryCanceled, UniqueViolation

from nessos.ai.acting import acting, acting_on, agent_claims, person_claims
from nessos.errors import DatabaseError, RuleError
from tests.integrations.outside import open_pool
from tests.people import WORLD, member_id

A, B = WORLD.a, WORLD.b
Act = Callable[[Any], Awaitable[Any]]

WHO = "select current_user as role, app.claims() as claims, current_setting('statement_timeout') as timeout"


def run(url: str, act: Act) -> Any:
    """Do something with a pool."""

    async def main() -> Any:
        async with open_pool(url) as pool:
            return await act(pool)

    return asyncio.run(main())


async def rows(connection: AsyncConnection[Any], statement: str, *values: object) -> Any:
    """Fetch what a statement gives."""
    return await (await connection.execute(statement, values)).fetchall()


def test_a_person_sees_the_rows_of_his_roles_and_nothing_else(db_url: str) -> None:
    async def act(pool: Any) -> list[list[Any]]:
        seen = []
        for person in (A.member("admin"), A.member("employee"), B.member("admin")):
            async with acting(pool, claims=person_claims(person)) as connection:
                found = await rows(connection, "select distinct org_id from public.clients")
                seen.append([row["org_id"] for row in found])
        return seen

    assert run(db_url, act) == [[A.org], [], [B.org]]


def test_a_visitor_reads_no_tenants_row(db_url: str) -> None:
    async def act(pool: Any) -> Any:
        async with acting(pool, claims={"role": "anon"}) as connection:
            return await rows(connection, "select id from public.clients")

    with pytest.raises(DatabaseError, match="permission denied"):
        run(db_url, act)


def test_an_agent_acts_in_its_own_organisation(db_url: str) -> None:
    async def act(pool: Any) -> Any:
        claims = agent_claims(org_id=A.org, agent_id=member_id(A, "agent"))
        async with acting(pool, claims=claims) as connection:
            return await rows(
                connection, "select app.agent_id() as agent, app.org_ids('sdr', 'write') as orgs"
            )

    assert run(db_url, act) == [{"agent": member_id(A, "agent"), "orgs": [A.org]}]


@pytest.mark.parametrize("role", ["service_role", "postgres", None])
def test_nobody_acts_as_the_worker(db_url: str, role: str | None) -> None:
    async def act(pool: Any) -> None:
        async with acting(pool, claims={"role": role}):
            pytest.fail("nothing refused this")

    with pytest.raises(ValueError, match="nobody acts as"):
        run(db_url, act)


def test_a_part_of_a_transaction_is_acted_and_the_rest_is_the_workers_again(db_url: str) -> None:
    async def act(pool: Any) -> tuple[Any, ...]:
        claims = person_claims(A.member("sales"))
        async with pool.connection() as connection, connection.transaction():
            before = await rows(connection, WHO)
            async with acting_on(connection, claims=claims, timeout_s=1.5):
                inside = await rows(connection, WHO)
            after = await rows(connection, WHO)
            with pytest.raises(UniqueViolation):
                async with acting_on(connection, claims=claims):
                    raise UniqueViolation
            failed = await rows(connection, WHO)
        return before, inside, after, failed

    before, inside, after, failed = run(db_url, act)
    assert before == after == failed
    assert inside == [
        {"role": "authenticated", "claims": person_claims(A.member("sales")), "timeout": "1500ms"}
    ]


def test_what_an_exception_ends_is_undone(db_url: str) -> None:
    async def act(pool: Any) -> Any:
        with pytest.raises(RuleError, match="bad_input"):
            await rename(pool)
        async with pool.connection() as connection:
            return await rows(connection, "select id from public.clients where name = 'Outro'")

    async def rename(pool: Any) -> None:
        async with acting(pool, claims=person_claims(A.member("admin"))) as connection:
            await connection.execute(
                "update public.clients set name = 'Outro' where org_id = %s", (A.org,)
            )
            await connection.execute("select app.raise_error('bad_input')")

    assert run(db_url, act) == []


def test_a_statement_that_takes_too_long_is_ended(db_url: str) -> None:
    async def act(pool: Any) -> None:
        async with acting(pool, claims={"role": "anon"}, timeout_s=0.05) as connection:
            await connection.execute("select pg_sleep(60)")

    with pytest.raises(DatabaseError) as raised:
        run(db_url, act)
    assert isinstance(raised.value.__cause__, QueryCanceled)
