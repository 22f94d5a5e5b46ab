"""Who acts in the access matrix, and what the matrix of roles says of them."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from tests.people import (
    WORLD,
    Connection,
    as_agent,
    as_analyst,
    as_anon,
    as_person,
)

A, B = WORLD.a, WORLD.b
NOBODY = UUID(int=0)


@dataclass(frozen=True)
class Actor:
    """Somebody who asks the database, seen from organisation a."""

    name: str
    kind: str
    person: UUID = NOBODY
    org: UUID | None = None
    role: str | None = None
    client: UUID | None = None

    @property
    def database_role(self) -> str:
        """The role his requests run as."""
        return {"anon": "anon", "analyst": "analyst"}.get(self.kind, "authenticated")

    @property
    def audience(self) -> str:
        """The word that stands for him in exceptions.toml."""
        return self.database_role if self.kind in {"anon", "analyst"} else "signed_in"

    @contextlib.contextmanager
    def acting(self, db: Connection) -> Iterator[None]:
        """Act as him for the length of a block."""
        if self.kind == "anon":
            context: contextlib.AbstractContextManager[object] = as_anon(db)
        elif self.kind == "analyst":
            context = as_analyst(db)
        elif self.kind == "agent":
            contact = {"client_id": self.client} if self.role == "client" else None
            context = as_agent(db, A, contact=contact)
        else:
            context = as_person(db, self.person)
        with context:
            yield


MEMBERS = ("owner", "admin", "director", "sales", "ops", "finance", "legal", "people", "employee")
ACTORS = [
    Actor("anon", "anon"),
    *(Actor(role, "member", A.member(role), A.org, role) for role in MEMBERS),
    Actor("client", "member", A.member("client"), A.org, "client", A.client),
    Actor("agent", "agent", org=A.org, role="agent"),
    # Of the matrix it has what the customer it talks to has in the portal.
    Actor("agent serving a contact", "agent", org=A.org, role="client", client=A.client),
    Actor("agent serving a visitor", "agent", org=A.org, role="client"),
    Actor("owner of another organisation", "member", B.member("owner"), B.org, "owner"),
    Actor(
        "client of another organisation", "member", B.member("client"), B.org, "client", B.client
    ),
    Actor("removed member", "stranger", WORLD.removed),
    Actor("stranger", "stranger", WORLD.stranger),
    Actor("platform admin", "platform admin", WORLD.platform_admin, None, "owner"),
    Actor("analyst", "analyst", NOBODY, A.org),
]
