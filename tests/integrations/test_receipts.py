"""What the services report of messages: in any order, twice, too early, or about somebody else's."""

import json
import threading
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from nessos.errors import RetryError, WaitError
from nessos.messaging import webhooks
from nessos.messaging.webhooks import NOTHING
from nessos.webhooks.inbound import InboundEvent
from tests.integrations.fakes import evolution, twilio
from tests.integrations.fakes.server import Answer, html
from tests.integrations.messaging import ORG, PHONE, Outside, once_then_down, sent

pytestmark = pytest.mark.usefixtures("no_backoff")


def receive(outside: Outside, provider: str, body: bytes) -> Any:
    """Take a webhook as the worker would."""
    process = {
        "resend": webhooks.from_resend,
        "twilio": webhooks.from_twilio,
        "evolution": webhooks.from_evolution,
    }[provider]
    event = InboundEvent(uuid4(), ORG, provider, {}, body, datetime.now(UTC))
    return outside.run(lambda task: process(task, event), {})


def test_receipts_of_resend(outside: Outside) -> None:
    notification, mail = sent(outside, "email")
    said = [
        receive(outside, "resend", outside.email.event(f"email.{kind}", mail))
        for kind in ("delivery_delayed", "delivered", "sent", "opened", "delivered")
    ]
    assert said == [NOTHING, "moved", *["ignored: kept"] * 3]
    assert outside.attempts(notification) == {"email": "delivered"}


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        ("bounced", {"bounce": {"type": "Permanent", "subType": "General"}}, "hard_bounce"),
        ("bounced", {"bounce": {"type": "Transient", "subType": "MailboxFull"}}, None),
        ("failed", {"failed": {"reason": "reached_daily_quota"}}, None),
        ("suppressed", {"suppressed": {"reason": "previous_bounce"}}, "hard_bounce"),
        ("suppressed", {"suppressed": {"reason": "previous_complaint"}}, "complaint"),
    ],
)
def test_failures_of_resend(
    outside: Outside, kind: str, data: dict[str, Any], reason: str | None
) -> None:
    notification, mail = sent(outside, "email")
    assert receive(outside, "resend", outside.email.event(f"email.{kind}", mail, **data)) == "moved"
    assert outside.attempts(notification)["email"] in {"undelivered", "address_undeliverable"}
    rows = outside.db.execute("select reason from public.undeliverable_addresses").fetchall()
    assert rows == ([{"reason": reason}] if reason else [])


def test_a_receipt_finds_a_mail_whose_answer_was_lost_by_its_tag(outside: Outside) -> None:
    outside.connect("email")
    outside.email.lost.append(html(502))
    outside.email.handler = once_then_down(outside.email)
    notification = outside.tell()
    with pytest.raises(RetryError):
        outside.deliver(notification)
    (mail,) = outside.email.mails
    assert receive(outside, "resend", outside.email.event("email.delivered", mail)) == "moved"
    assert outside.attempts(notification) == {"email": "delivered"}
    assert outside.deliver(notification) == "nothing to send"


def test_receipts_of_twilio_out_of_order_and_doubled(outside: Outside) -> None:
    notification, sid = sent(outside, "sms")
    said = [
        receive(outside, "twilio", twilio.callback(sid, status))
        for status in ("sending", "delivered", "sent", "delivered", "queued")
    ]
    assert said == [NOTHING, "moved", "ignored: kept", "ignored: kept", NOTHING]
    assert outside.attempts(notification) == {"sms": "delivered"}


def test_an_undelivered_sms_goes_on_by_mail(outside: Outside) -> None:
    outside.connect("email")
    notification, sid = sent(outside, "sms")
    body = twilio.callback(sid, "undelivered", ErrorCode="30006")
    assert receive(outside, "twilio", body) == "moved"
    assert receive(outside, "twilio", body) == "ignored: kept"
    assert outside.jobs() == 2
    assert outside.deliver(notification) == "sent by email"
    rows = outside.db.execute("select address, reason from public.undeliverable_addresses")
    assert rows.fetchall() == [{"address": PHONE, "reason": "invalid"}]


def test_stop_closes_and_start_opens_an_address(outside: Outside) -> None:
    outside.connect("sms", "email")
    stop = f"From=%2B{PHONE[1:]}&To=%2B15005550006&Body=PARE&OptOutType=STOP".encode()
    assert receive(outside, "twilio", stop) == "opted out"
    notification = outside.tell()
    outside.db.execute("update public.notification_preferences set channels = '{sms,email}'")
    assert outside.deliver(notification) == "sent by email"
    assert outside.attempts(notification)["sms"] == "address_undeliverable"
    receive(outside, "twilio", stop.replace(b"STOP", b"START"))
    assert outside.deliver(outside.tell()) == "sent by sms"


@pytest.mark.parametrize(
    "words", [("READ", "SERVER_ACK", "DELIVERY_ACK", "PENDING", "DELETED"), (4, 2, 3, 1, 9)]
)
def test_receipts_of_evolution(outside: Outside, words: tuple[str | int, ...]) -> None:
    notification, key = sent(outside, "whatsapp")
    said = [receive(outside, "evolution", evolution.update(key, word)) for word in words]
    assert said == ["moved", "ignored: kept", "ignored: kept", NOTHING, NOTHING]
    assert outside.attempts(notification) == {"whatsapp": "read"}


def test_of_several_receipts_the_one_that_moved_says_what_became_of_them(outside: Outside) -> None:
    notification, key = sent(outside, "whatsapp")
    several = json.loads(evolution.update(key, "READ"))
    several["data"] = [several["data"], {**several["data"], "keyId": "3A00AA11"}]
    assert receive(outside, "evolution", json.dumps(several).encode()) == "moved"
    assert outside.attempts(notification) == {"whatsapp": "read"}


def test_receipts_of_other_peoples_messages_are_ignored(outside: Outside) -> None:
    notification, key = sent(outside, "whatsapp")
    assert receive(outside, "evolution", evolution.update("3A00AA11", "READ")) == "ignored: unknown"
    assert receive(outside, "evolution", evolution.update(key, "READ", fromMe=False)) == NOTHING
    assert receive(outside, "twilio", twilio.callback("SM404", "delivered")) == "ignored: unknown"
    assert receive(outside, "twilio", b"From=%2B1&Body=oi&MessageSid=SM1") == NOTHING
    assert receive(outside, "resend", b'{"type": "contact.created", "data": {}}') == NOTHING
    assert receive(outside, "resend", b'{"type": "email.bounced", "data": null}') == NOTHING
    assert outside.attempts(notification) == {"whatsapp": "sent"}


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[1]", b"\xff", b"[" * 100_000, b'{"event": "messages.update"}']
)
def test_a_body_that_makes_no_sense_is_ignored(outside: Outside, body: bytes) -> None:
    for provider in ("resend", "evolution", "twilio"):
        assert receive(outside, provider, body) == NOTHING


def test_a_receipt_that_overtakes_the_note_of_the_sending_waits(outside: Outside) -> None:
    outside.connect("sms")
    gate = threading.Event()
    outside.sms.lost.append(Answer(201, {"sid": f"SM{1:032d}"}, until=gate))
    notification = outside.tell()
    delivery = threading.Thread(target=outside.deliver, args=(notification,))
    delivery.start()
    outside.sms.wait_for(1)
    body = twilio.callback(f"SM{1:032d}", "delivered")
    with pytest.raises(WaitError):
        receive(outside, "twilio", body)
    gate.set()
    delivery.join()
    assert receive(outside, "twilio", body) == "moved"
