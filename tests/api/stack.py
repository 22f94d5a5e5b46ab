"""The running stack of the API tests: the real gateway on a clone of the database, and its callers."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, Self
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from postgrest import APIError
from supabase.lib.client_options import SyncClientOptions

from nessos.local import database, processes
from nessos.local.postgres import free_port
from nessos.local.stack import Service, Stack, _services
from nessos.settings import ROOT, Settings
from supabase import create_client
from tests.people import Connection

HERE = Path(__file__).parent
PASSWORD = "correct-horse-battery"  # noqa: S105 - of people who exist for one test
_addresses = count(2)


def new_address() -> str:
    """Give a loopback address that nobody has called from yet: rate limits go by it."""
    number = next(_addresses)
    return f"127.{os.getpid() % 200 + 20}.{number // 250}.{number % 250 + 2}"


@dataclass(frozen=True)
class Api:
    """A running gateway, and the owner's connection to the database behind it."""

    url: str
    publishable_key: str
    secret_key: str
    jwt_secret: str
    database_url: str
    log: Path
    db: Connection

    # supabase-py types every answer as JSON of any shape; hence Any, here and below.
    def client(self, key: str | None = None, address: str | None = None) -> Any:
        """Make a supabase-py client that calls from this address."""
        transport = httpx.HTTPTransport(local_address=address or "127.0.0.1")
        options = SyncClientOptions(
            httpx_client=httpx.Client(transport=transport, timeout=20), auto_refresh_token=False
        )
        return create_client(self.url, key or self.publishable_key, options=options)

    def visitor(self) -> Any:
        """Make the client of a visitor whom the rate limits do not know yet."""
        return self.client(address=new_address())

    def http(self, token: str | None = None, *, address: str | None = None) -> httpx.Client:
        """Make a plain HTTP client with the publishable key and, where given, a person's token."""
        return httpx.Client(
            base_url=self.url,
            headers={
                "apikey": self.publishable_key,
                **({"authorization": f"Bearer {token}"} if token else {}),
            },
            transport=httpx.HTTPTransport(local_address=address or "127.0.0.1"),
            timeout=20,
        )

    def person(self, name: str = "Ana") -> "Person":
        """Sign somebody up over HTTP; the client is signed in."""
        email = f"{name.lower()}-{uuid4().hex[:12]}@people.test"
        client = self.client()
        answer = client.auth.sign_up(
            {"email": email, "password": PASSWORD, "options": {"data": {"full_name": name}}}
        )
        assert answer.user is not None
        assert answer.session is not None
        return Person(self, client, UUID(answer.user.id), email, answer.session.access_token)

    def company(self, name: str = "Companhia") -> "Company":
        """Have somebody sign up and found an organisation."""
        owner = self.person("Olga")
        row = owner.client.rpc(
            "create_organization", {"name": name, "slug": f"org-{uuid4().hex[:12]}"}
        ).execute()
        return Company(self, UUID(row.data["id"]), row.data["slug"], owner)

    def run_script(self, script: Path | str) -> str:
        """Run JavaScript, a file or a text, that uses supabase-js; gives what it printed."""
        text = script if isinstance(script, str) else None
        done = subprocess.run(
            [
                database.node(),
                *([str(script)] if text is None else ["--input-type=module", "-"]),
            ],
            check=False,
            capture_output=True,
            text=True,
            input=text,
            cwd=ROOT,
            timeout=60,
            env=database.tool_environment(
                SUPABASE_URL=self.url, SUPABASE_PUBLISHABLE_KEY=self.publishable_key
            ),
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout


@dataclass(frozen=True)
class Person:
    """Somebody who has signed up."""

    api: Api
    client: Any
    id: UUID
    email: str
    token: str

    @cached_property
    def http(self) -> httpx.Client:
        """Plain HTTP with this person's token."""
        return self.api.http(self.token)


@dataclass(frozen=True)
class Company:
    """An organisation with its founder."""

    api: Api
    id: UUID
    slug: str
    owner: Person

    def member(self, role: str, *, client_id: UUID | None = None) -> Person:
        """Have somebody sign up and be a member with this role."""
        person = self.api.person(role.title())
        self.api.db.execute(
            "insert into public.memberships (org_id, user_id, role, client_id) values (%s, %s, %s, %s)",
            (self.id, person.id, role, client_id),
        )
        return person

    def insert(self, table: str, **values: Any) -> dict[str, Any]:
        """Insert a row of this organisation over HTTP, as its founder."""
        answer = self.owner.client.table(table).insert({"org_id": str(self.id), **values}).execute()
        row: dict[str, Any] = answer.data[0]
        return row

    def lead(self, name: str = "Lia", **values: Any) -> dict[str, Any]:
        """Insert a lead of this organisation over HTTP, as its founder."""
        return self.insert("leads", name=name, email=f"{uuid4().hex[:8]}@leads.test", **values)


class Refused:
    """What the API answered to an act that it refused."""

    key: str | None = None
    code: str | None = None
    details: str | None = None
    hint: str | None = None


@contextlib.contextmanager
def refused(key: str, code: str | None = None) -> Iterator[Refused]:
    """Expect the block to be refused by the API with this message (and code)."""
    answer = Refused()
    with pytest.raises(APIError) as caught:
        yield answer
    error = caught.value
    answer.key, answer.code = error.message, error.code
    answer.details, answer.hint = error.details, error.hint
    assert answer.key == key, f"expected {key}, got {error}"
    assert code is None or answer.code == code, f"expected {code}, got {error}"


class Running:
    """Parts of the stack as `nessos up` starts them, on a database and ports of their own."""

    def __init__(self, database_url: str, rest_url: str) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="nessos-api-"))
        stack = Stack(
            Settings(home=self.home, gateway_port=free_port(), functions_port=free_port())
        )
        self.url, self.keys = stack.gateway_url, stack.keys
        self.database_url = database_url
        where = {
            "DATABASE_URL": database_url,
            "SUPABASE_DB_URL": database_url,
            "NESSOS_OWNER_URL": database_url,
            "NESSOS_REST_URL": rest_url,
        }
        self._stack = stack
        self._services = {
            service.name: Service(
                service.name,
                service.command,
                {
                    **service.environment,
                    **{k: v for k, v in where.items() if k in service.environment},
                },
                service.health,
                service.kind,
            )
            for service in _services(stack, database.node())
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._services:
            self.stop(name)
        shutil.rmtree(self.home, ignore_errors=True)

    def start(self, name: str) -> None:
        """Start one part and wait until it is healthy."""
        service = self._services[name]
        self._stack._start(service)
        deadline = time.monotonic() + 30
        while not self._stack.is_healthy(service):
            assert service.process is not None
            if service.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the {name} does not start: {self.log(name).read_text()}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                service.process.wait(timeout=0.05)

    def stop(self, name: str) -> None:
        """Stop one part, if it runs."""
        process = self._services[name].process
        if process and process.poll() is None:
            processes.stop([processes.Record.of(name, process.pid)])
            process.wait()

    def log(self, name: str) -> Path:
        """Give the log of one part."""
        return self._stack._log(self._services[name])

    def api(self, db: psycopg.Connection[Any]) -> Api:
        """Describe the running gateway."""
        return Api(
            self.url,
            self.keys.publishable.get_secret_value(),
            self.keys.secret.get_secret_value(),
            self.keys.jwt.get_secret_value(),
            self.database_url,
            self.log("gateway"),
            db,
        )
