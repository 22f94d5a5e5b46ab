"""Acting as somebody: statements run under row level security, as a person, a visitor or an agent.

What a model asks for is done by the identity it works for, never by the worker's own.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from nessos.db import translated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from uuid import UUID

    import psycopg

    from nessos.jobs.entrypoint import Pool

    Connection = psycopg.AsyncConnection[dict[str, Any]]

_ROLES: Final = frozenset({"authenticated", "anon"})

_BECOME: Final = """
select
    set_config('request.jwt.claims', %s, true), set_config('request.headers', %s, true),
    set_config('statement_timeout', %s, true), set_config('role', %s, true)
"""
_WHO: Final = """
select
    current_setting('request.jwt.claims', true) as claims,
    current_setting('request.headers', true) as headers,
    current_setting('statement_timeout') as timeout,
    current_setting('role') as role
"""


def person_claims(person: UUID) -> dict[str, Any]:
    """Say who a signed-in person is.

    Args:
        person: The person.

    Returns:
        The claims of a token of his.
    """
    return {"sub": str(person), "role": "authenticated"}


def agent_claims(
    *, org_id: UUID, agent_id: UUID, contact: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Say which agent acts, and for whom.

    Args:
        org_id: The agent's organisation, the only one it is anything in.
        agent_id: The agent.
        contact: client_id, lead_id, session_id of the customer or visitor it serves; None when it
            works for the organisation itself.

    Returns:
        The claims. A customer, even one without any id, narrows what the agent reaches.
    """
    metadata: dict[str, Any] = {"agent_id": str(agent_id), "agent_org_id": str(org_id)}
    if contact is not None:
        metadata["agent_contact"] = dict(contact)
    return {"role": "authenticated", "app_metadata": metadata}


@asynccontextmanager
async def acting(
    pool: Pool,
    *,
    claims: Mapping[str, Any],
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 30,
) -> AsyncIterator[Connection]:
    """Act as the claims' role in one transaction.

    Args:
        pool: Connections to the database.
        claims: Of a request: role (authenticated or anon) and what belongs to it.
        headers: Of a request, names in lower case.
        timeout_s: Seconds a statement may take.

    Yields:
        The connection; what was done is committed at the end of the block, undone by an exception.

    Raises:
        DatabaseError: The database refused or does not answer.
    """
    with translated():
        async with (
            pool.connection() as connection,
            acting_on(connection, claims=claims, headers=headers, timeout_s=timeout_s),
        ):
            yield connection


@asynccontextmanager
async def acting_on(
    connection: Connection,
    *,
    claims: Mapping[str, Any],
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 30,
) -> AsyncIterator[None]:
    """Act as the claims' role for a part of a transaction, or for one of its own.

    Args:
        connection: A connection, inside a transaction or not.
        claims: As for `acting`.
        headers: As for `acting`.
        timeout_s: As for `acting`.

    Yields:
        Nothing; an exception undoes what the block did and leaves the transaction usable.

    Raises:
        ValueError: The claims name another role.
    """
    role = claims.get("role")
    if role not in _ROLES:
        raise ValueError(f"nobody acts as {role}")
    async with connection.transaction():
        before = await (await connection.execute(_WHO)).fetchone()
        await connection.execute(
            _BECOME,
            (
                json.dumps(dict(claims)),
                json.dumps(dict(headers or {})),
                f"{round(timeout_s * 1000)}ms",
                role,
            ),
        )
        yield
        # An exception does not come here: the savepoint's end takes the settings back.
        if before:
            await connection.execute(
                _BECOME,
                (
                    before["claims"] or "",
                    before["headers"] or "",
                    before["timeout"],
                    before["role"],
                ),
            )
