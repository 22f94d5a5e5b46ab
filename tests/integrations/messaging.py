"""The services that carry messages, and a person of organisation a who is told something."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from nessos import credentials, settings
from nessos.http import client
from nessos.jobs.entrypoint import Task
from nessos.messaging.delivery import deliver
from tests.integrations.fakes import evolution, resend, twilio
from tests.integrations.fakes.evolution import FakeEvolution
from tests.integrations.fakes.resend import FakeResend
from tests.integrations.fakes.server import Answer, Seen, html
from tests.integrations.fakes.twilio import FakeTwilio
from tests.integrations.outside import open_pool
from tests.people import WORLD

ORG, PERSON = WORLD.a.org, WORLD.a.member("ops")
PHONE = "+5511988887777"
KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="


@dataclass
class Outside:
    """The three services, and the database of the test."""

    url: str
    db: psycopg.Connection[dict[str, Any]]
    whatsapp: FakeEvolution
    sms: FakeTwilio
    email: FakeResend

    def connect(self, *channels: str, **changes: str) -> None:
        """Connect the organisation to the services of these channels."""
        values: dict[str, dict[str, str]] = {
            "evolution": {
                "url": self.whatsapp.url,
                "api_key": evolution.API_KEY,
                "instance": evolution.INSTANCE,
            },
            "twilio": {
                "account_sid": twilio.ACCOUNT,
                "auth_token": twilio.TOKEN,
                "from": twilio.FROM,
            },
            "resend": {"api_key": resend.API_KEY, "from": f"Alfa <avisos@{resend.DOMAIN}>"},
        }
        providers = {"whatsapp": "evolution", "sms": "twilio", "email": "resend"}

        async def store() -> None:
            async with open_pool(self.url) as pool:
                for channel in channels:
                    provider = providers[channel]
                    fields = {**values[provider], **changes}
                    await credentials.store(pool, org_id=ORG, provider=provider, values=fields)

        asyncio.run(store())

    def tell(self) -> UUID:
        """Notify the person."""
        row = self.db.execute(
            "select app.notify(%s, %s, 'sync_failed', %s, %s, '/data') as id",
            (
                ORG,
                PERSON,
                json.dumps(
                    {
                        "system": "Omie",
                        "entity": "clients",
                        "started_at": "2026-03-10T08:00:00Z",
                        "error": "sem conexão",
                    }
                ),
                str(uuid4()),
            ),
        ).fetchone()
        assert row
        return UUID(str(row["id"]))

    def run(self, handle: Callable[[Task], Awaitable[Any]], payload: dict[str, Any]) -> Any:
        """Run a handler as the worker would."""

        async def job() -> Any:
            async with open_pool(self.url) as pool, client(pool) as http:
                return await handle(Task(1, "test", payload, ORG, None, 1, pool, http))

        return asyncio.run(job())

    def deliver(self, notification: UUID) -> Any:
        """Run the delivery once."""
        return self.run(deliver, {"notification_id": str(notification)})

    def jobs(self) -> int:
        """How many deliveries are in the queue."""
        row = self.db.execute(
            "select count(*) from pgqueuer.pgqueuer where entrypoint = 'notification.deliver'"
        ).fetchone()
        assert row
        return int(row["count"])

    def attempts(self, notification: UUID) -> dict[str, str]:
        """How each channel stands."""
        return {
            row["channel"]: row["error_key"] or row["status"]
            for row in self.db.execute(
                "select channel, status, error_key from public.notification_attempts"
                " where notification_id = %s and channel <> 'in_app'",
                (notification,),
            ).fetchall()
        }

    def pass_time(self, hours: int = 0) -> None:
        """Have earlier tries lie two minutes back, or some hours."""
        self.db.execute(
            "update public.notification_attempts set tried_at = tried_at - interval '2 minutes'"
        )
        with self.db.transaction():
            self.db.execute("set local session_replication_role = replica")
            self.db.execute(
                "update public.notification_attempts set created_at = created_at - make_interval(hours => %s)",
                (hours,),
            )
        self.db.execute("update app.circuit_breakers set failures = 0, half_open_at = null")

    def message_id(self, notification: UUID) -> str:
        """The provider's name for the message that was sent."""
        row = self.db.execute(
            "select provider_message_id from public.notification_attempts"
            " where notification_id = %s and provider_message_id is not null",
            (notification,),
        ).fetchone()
        assert row
        return str(row["provider_message_id"])


@contextlib.contextmanager
def open_outside(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outside]:
    """Start the services, and make the person one who can be reached at any hour."""
    with (
        FakeEvolution() as whatsapp,
        FakeTwilio() as sms,
        FakeResend() as email,
        psycopg.connect(url, autocommit=True, row_factory=dict_row) as db,
    ):
        monkeypatch.setenv("NESSOS_TWILIO_URL", sms.url)
        monkeypatch.setenv("NESSOS_RESEND_URL", email.url)
        monkeypatch.setenv("NESSOS_APP_URL", "https://app.example")
        monkeypatch.setenv("NESSOS_ENCRYPTION_KEYS", KEY)
        settings.load.cache_clear()
        db.execute("update public.profiles set phone = '(11) 98888-7777' where id = %s", (PERSON,))
        db.execute(
            "insert into public.notification_preferences (org_id, user_id, quiet_from, quiet_until) values (%s, %s, null, null)",
            (ORG, PERSON),
        )
        yield Outside(url, db, whatsapp, sms, email)
    settings.load.cache_clear()


def once_then_down(fake: FakeResend) -> Callable[[Seen], Answer]:
    """Return a handler that answers the first request and is broken afterwards."""
    return lambda seen: fake.handle(seen) if seen.number == 1 else html(502)


def sent(outside: Outside, channel: str) -> tuple[UUID, str]:
    """Send a notification by one channel; gives it and the message's id."""
    outside.connect(channel)
    notification = outside.tell()
    outside.deliver(notification)
    return notification, outside.message_id(notification)
