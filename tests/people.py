"""The people of the tests, and how a test acts as one of them.

Every id is derived from its name, so that a test can name a person of an organisation without asking the database.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid5

import psycopg
import pytest
from psycopg.pq import TransactionStatus

Connection = psycopg.Connection[Any]

NAMESPACE = UUID("6e657373-4f53-4000-8000-000000000000")
ROLES = (
    "owner",
    "admin",
    "director",
    "sales",
    "ops",
    "finance",
    "legal",
    "people",
    "employee",
    "agent",
    "client",
)
VISITOR_ADDRESS = "203.0.113.1"


def named_id(*words: object) -> UUID:
    """Return the id that belongs to these words, the same in every run."""
    return uuid5(NAMESPACE, "/".join(str(word) for word in words))


@dataclass(frozen=True)
class Org:
    """One organisation of the world, with one member per role and two clients."""

    slug: str

    @property
    def org(self) -> UUID:
        """The organisation's id."""
        return named_id("organization", self.slug)

    @property
    def client(self) -> UUID:
        """The client that the member with role client is linked to."""
        return named_id(self.org, "client")

    @property
    def other_client(self) -> UUID:
        """A second client of the same organisation, linked to nobody."""
        return named_id(self.org, "other client")

    def member(self, role: str) -> UUID:
        """Return the id of the member with this role."""
        return member_id(self.org, role)


@dataclass(frozen=True)
class World:
    """Two organisations that must not see each other, and people outside of both."""

    a: Org = Org("alfa")
    b: Org = Org("beta")

    @property
    def removed(self) -> UUID:
        """A person who was a member of both and no longer is."""
        return named_id("person", "removed")

    @property
    def stranger(self) -> UUID:
        """A person who signed up and belongs to no organisation."""
        return named_id("person", "stranger")

    @property
    def platform_admin(self) -> UUID:
        """The operator of the installation; member of no organisation."""
        return named_id("person", "platform admin")


WORLD = World()


def org_id(org: Org | UUID | str) -> UUID:
    """Return the id, given the organisation or its id."""
    return org.org if isinstance(org, Org) else UUID(str(org))


def member_id(org: Org | UUID | str, role: str) -> UUID:
    """Return the id of the organisation's member with this role."""
    return named_id(org_id(org), "member", role)


def default_client(org: Org | UUID | str) -> UUID:
    """Return the client that the organisation's member with role client is linked to."""
    return named_id(org_id(org), "client")


@contextlib.contextmanager
def acting(
    db: Connection, role: str, claims: dict[str, Any] | None, headers: dict[str, str] | None = None
) -> Iterator[None]:
    """Run the block as a database role with these request claims and headers, then be the owner again."""
    if db.info.transaction_status == TransactionStatus.IDLE and db.autocommit:
        with db.transaction(), acting(db, role, claims, headers):
            yield
        return
    previous = db.execute(
        "select current_setting('role') as role, current_setting('request.jwt.claims', true) as claims,"
        " current_setting('request.headers', true) as headers"
    ).fetchone()
    assert previous is not None
    _become(db, role, json.dumps(claims) if claims is not None else "", json.dumps(headers or {}))
    try:
        yield
    finally:
        # In a failed transaction nothing can be said any more; the savepoint around it restores the settings.
        if db.info.transaction_status == TransactionStatus.INTRANS:
            _become(db, *(tuple(previous.values()) if isinstance(previous, dict) else previous))


def _become(db: Connection, role: str, claims: str | None, headers: str | None) -> None:
    db.execute(
        "select set_config('request.jwt.claims', %s, true), set_config('request.headers', %s, true),"
        " set_config('role', %s, true)",
        (claims or "", headers or "", role),
    )


@contextlib.contextmanager
def as_person(db: Connection, person: UUID | str, **claims: Any) -> Iterator[UUID]:
    """Act as a signed-in person, whatever his memberships."""
    person = UUID(str(person))
    with acting(db, "authenticated", {"sub": str(person), "role": "authenticated", **claims}):
        yield person


@contextlib.contextmanager
def as_member(db: Connection, org: Org | UUID | str, role: str) -> Iterator[UUID]:
    """Act as the organisation's member with this role; gives his id."""
    with as_person(db, member_id(org, role)) as person:
        yield person


@contextlib.contextmanager
def as_anon(db: Connection, address: str = VISITOR_ADDRESS) -> Iterator[None]:
    """Act as a visitor from this address."""
    with acting(db, "anon", {"role": "anon"}, {"x-forwarded-for": address}):
        yield


@contextlib.contextmanager
def as_client(
    db: Connection, org: Org | UUID | str, client: UUID | str | None = None
) -> Iterator[UUID]:
    """Act as the portal client; with `client`, as a person linked to that client (made if need be); gives his id."""
    org, client = org_id(org), UUID(str(client)) if client else default_client(org)
    person = (
        member_id(org, "client")
        if client == default_client(org)
        else named_id(org, "portal", client)
    )
    if person != member_id(org, "client"):
        add_person(db, person, f"Portal {client}")
        db.execute(
            "insert into public.memberships (org_id, user_id, role, client_id) values (%s, %s, 'client', %s)"
            " on conflict do nothing",
            (org, person, client),
        )
    with as_person(db, person):
        yield person


@contextlib.contextmanager
def as_agent(
    db: Connection,
    org: Org | UUID | str,
    *,
    contact: Mapping[str, object] | None = None,
    **claims: Any,
) -> Iterator[UUID]:
    """Act as an AI agent of the organisation, known by claims that only the server sets; gives its id.

    `contact` (client_id, lead_id, session_id) is the customer or visitor it talks to; without it, it works for the company.
    """
    agent = member_id(org, "agent")
    metadata: dict[str, Any] = {"agent_id": str(agent), "agent_org_id": str(org_id(org)), **claims}
    if contact is not None:
        metadata["agent_contact"] = {
            key: None if value is None else str(value) for key, value in contact.items()
        }
    with acting(db, "authenticated", {"role": "authenticated", "app_metadata": metadata}):
        yield agent


@contextlib.contextmanager
def as_worker(db: Connection) -> Iterator[None]:
    """Act as the worker: service_role, no person."""
    with acting(db, "service_role", {"role": "service_role"}):
        yield


ANALYST_LOGIN = "analyst_alfa"


@contextlib.contextmanager
def as_analyst(db: Connection, login: str = ANALYST_LOGIN) -> Iterator[str]:
    """Act as an analyst's own login, which is granted organisation a."""
    db.execute("select set_config('session_authorization', %s, true)", (login,))
    try:
        with acting(db, "none", None):
            yield login
    finally:
        if db.info.transaction_status == TransactionStatus.INTRANS:
            db.execute("reset session authorization")


def add_person(db: Connection, person: UUID, name: str) -> UUID:
    """Sign a person up, as the owner of the database (twice changes nothing)."""
    db.execute(
        "insert into auth.users (id, email, raw_user_meta_data) values (%s, %s, %s) on conflict do nothing",
        (person, f"{person}@people.test", json.dumps({"full_name": name})),
    )
    return person


open_connections: list[Connection] = []


@contextlib.contextmanager
def refused(key: str, db: Connection | None = None) -> Iterator[SimpleNamespace]:
    """Expect the block to be refused with this error key; what it did is undone. Gives detail, hint and status.

    `db` is only needed for a connection other than that of the fixture.
    """
    db = db or open_connections[-1]
    answer = SimpleNamespace(detail=None, hint=None, status=None)
    try:
        with db.transaction():
            yield answer
            pytest.fail(f"nothing refused this; expected {key}")
    except psycopg.Error as error:
        state, message = error.sqlstate or "", error.diag.message_primary
        if (state[:2], message) != ("PT", key):
            pytest.fail(f"expected {key}, got {state} {message}: {error.diag.message_detail}")
        answer.detail, answer.hint, answer.status = (
            error.diag.message_detail,
            error.diag.message_hint,
            int(state[2:]),
        )


@contextlib.contextmanager
def denied(db: Connection | None = None) -> Iterator[None]:
    """Expect the block to be refused by a missing grant or by a policy's check (42501); what it did is undone."""
    db = db or open_connections[-1]
    with pytest.raises(psycopg.errors.InsufficientPrivilege), db.transaction():
        yield


def set_clock(db: Connection, moment: datetime | str | None) -> None:
    """Set what app.now() answers on this connection; None gives the real clock back."""
    db.execute("select set_config('app.now', %s, false)", ("" if moment is None else str(moment),))
