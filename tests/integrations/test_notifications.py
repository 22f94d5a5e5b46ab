"""A notification on its way: the cascade, each service's traps, workers that die."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from nessos.errors import RetryError, WaitError
from nessos.messaging.delivery import poll
from nessos.messaging.evolution import jids
from nessos.settings import ROOT
from tests.integrations.fakes import resend, twilio
from tests.integrations.fakes.server import Answer, html
from tests.integrations.messaging import ORG, PERSON, PHONE, Outside, once_then_down, sent

pytestmark = pytest.mark.usefixtures("no_backoff")

# --- The cascade ---------------------------------------------------------------------------------


def test_without_a_provider_it_is_in_the_inbox_and_no_job_exists(outside: Outside) -> None:
    notification = outside.tell()
    assert (outside.attempts(notification), outside.jobs()) == ({}, 0)


def test_the_first_channel_that_takes_it_is_the_only_one(outside: Outside) -> None:
    outside.connect("whatsapp", "sms", "email")
    notification = outside.tell()
    assert outside.deliver(notification) == "sent by whatsapp"
    assert outside.deliver(notification) == "nothing to send"
    (message,) = outside.whatsapp.messages
    assert message["key"]["remoteJid"] == "5511988887777@s.whatsapp.net"
    assert "sem conexão" in message["message"]["conversation"]
    assert "https://app.example/data" in message["message"]["conversation"]
    assert (outside.sms.messages, outside.email.mails) == ({}, {})
    assert outside.attempts(notification) == {"whatsapp": "sent"}
    assert outside.message_id(notification) == message["key"]["id"]


def test_each_channel_that_refuses_hands_over_to_the_next(outside: Outside) -> None:
    outside.connect("whatsapp", "sms", "email")
    outside.whatsapp.strangers.add(PHONE.removeprefix("+"))
    outside.db.execute(
        "update public.profiles set phone = %s where id = %s", (twilio.STOPPED, PERSON)
    )
    outside.whatsapp.strangers.add(twilio.STOPPED.removeprefix("+"))
    notification = outside.tell()
    said = [outside.deliver(notification) for _ in range(4)]
    assert said == ["whatsapp failed", "sms failed", "sent by email", "nothing to send"]
    assert outside.attempts(notification) == {
        "whatsapp": "not_on_channel",
        "sms": "address_undeliverable",
        "email": "sent",
    }
    assert outside.jobs() == 3
    rows = outside.db.execute("select channel, address, reason from public.undeliverable_addresses")
    assert [tuple(row.values()) for row in rows.fetchall()] == [("sms", twilio.STOPPED, "opt_out")]
    second = outside.tell()
    outside.deliver(second)
    calls = len(outside.sms.journal)
    assert outside.deliver(second) == "sent by email"
    assert len(outside.sms.journal) == calls


@pytest.mark.parametrize(
    ("phone", "reason"), [(twilio.INVALID, "invalid"), (twilio.LANDLINE, "invalid")]
)
def test_a_phone_that_takes_no_sms_is_not_tried_again(
    outside: Outside, phone: str, reason: str
) -> None:
    outside.connect("sms")
    outside.db.execute("update public.profiles set phone = %s where id = %s", (phone, PERSON))
    outside.deliver(outside.tell())
    rows = outside.db.execute("select reason from public.undeliverable_addresses").fetchall()
    assert rows == [{"reason": reason}]
    assert outside.deliver(outside.tell()) == "nothing to send"


def test_a_channel_that_stays_down_hands_over_after_the_last_try(outside: Outside) -> None:
    outside.connect("whatsapp", "email")
    outside.whatsapp.faults.extend([html(502)] * 8)
    notification = outside.tell()
    for _ in range(3):
        with pytest.raises(WaitError):
            outside.deliver(notification)
        outside.pass_time()
        outside.whatsapp.faults.clear()
        outside.whatsapp.handler = lambda seen: (
            html(502) if "sendText" in seen.path else outside.whatsapp.handle(seen)
        )
    assert outside.deliver(notification) == "whatsapp failed"
    assert outside.deliver(notification) == "sent by email"
    assert outside.attempts(notification) == {"whatsapp": "provider_unavailable", "email": "sent"}


def test_an_open_circuit_hands_over_at_once(outside: Outside) -> None:
    outside.connect("whatsapp", "email")
    outside.whatsapp.handler = lambda _: html(503)
    for _ in range(5):
        with contextlib.suppress(WaitError):
            outside.deliver(outside.tell())
    calls = len(outside.whatsapp.journal)
    notification = outside.tell()
    assert outside.deliver(notification) == "whatsapp failed"
    assert len(outside.whatsapp.journal) == calls
    assert outside.deliver(notification) == "sent by email"


def test_the_last_channel_is_not_given_up_but_held_for_an_operator(outside: Outside) -> None:
    outside.connect("email")
    outside.email.handler = lambda _: html(502)
    notification = outside.tell()
    for _ in range(6):
        with pytest.raises((RetryError, WaitError)):
            outside.deliver(notification)
        outside.pass_time()
    assert outside.attempts(notification) == {"email": "queued"}
    outside.email.handler = outside.email.handle
    assert outside.deliver(notification) == "sent by email"


def test_a_provider_that_was_disconnected_meanwhile_hands_over(outside: Outside) -> None:
    outside.connect("sms", "email")
    notification = outside.tell()
    outside.sms.faults.append(twilio.busy())
    with pytest.raises(RetryError):
        outside.deliver(notification)
    outside.db.execute("delete from public.integration_credentials where provider = 'twilio'")
    assert outside.deliver(notification) == "sms failed"
    assert outside.deliver(notification) == "sent by email"


@pytest.mark.parametrize("change", ["api_key", "instance"])
def test_a_wrong_key_or_instance_of_evolution_is_a_refusal(outside: Outside, change: str) -> None:
    outside.connect("whatsapp", **{change: "wrong"})
    notification = outside.tell()
    assert outside.deliver(notification) == "whatsapp failed"
    assert outside.attempts(notification) == {"whatsapp": "provider_refused"}


# --- Resend --------------------------------------------------------------------------------------


def test_a_mail_carries_its_key_its_tags_and_both_forms(outside: Outside) -> None:
    outside.connect("email")
    notification = outside.tell()
    outside.deliver(notification)
    (mail,) = outside.email.mails.values()
    assert mail["to"] == [f"{PERSON}@people.test"]
    assert mail["subject"] == "Falha na sincronização com Omie"
    assert "sem conexão" in mail["text"]
    assert "sem conexão" in mail["html"]
    attempt = mail["tags"][0]["value"]
    assert outside.email.journal[0].headers["idempotency-key"] == f"notification/{attempt}"


def test_a_mail_whose_answer_was_lost_is_sent_once(outside: Outside) -> None:
    outside.connect("email")
    outside.email.lost.extend([Answer(cut="before"), html(502)])
    notification = outside.tell()
    with contextlib.suppress(RetryError):
        outside.deliver(notification)
    assert outside.deliver(notification) in {"sent by email", "nothing to send"}
    assert len(outside.email.mails) == 1
    assert outside.message_id(notification) in outside.email.mails


def test_a_mail_in_flight_elsewhere_is_tried_again(outside: Outside) -> None:
    outside.connect("email")
    notification = outside.tell()
    outside.email.faults.extend(
        [Answer(409, {"name": "concurrent_idempotent_requests", "message": "in progress"})] * 2
    )
    with pytest.raises(RetryError):
        outside.deliver(notification)
    assert outside.deliver(notification) == "sent by email"


def test_a_mail_whose_words_changed_between_two_tries_counts_as_sent(outside: Outside) -> None:
    outside.connect("email")
    outside.email.lost.extend([html(502)] * 2)
    notification = outside.tell()
    outside.email.faults.append(Answer(200, "not json"))
    with contextlib.suppress(RetryError, ValueError):
        outside.deliver(notification)
    outside.email.faults.clear()
    with contextlib.suppress(RetryError):
        outside.deliver(notification)
    outside.db.execute("update public.organizations set name = 'Outro nome' where id = %s", (ORG,))
    outside.deliver(notification)
    assert len(outside.email.mails) == 1
    assert outside.attempts(notification) == {"email": "sent"}


def test_a_key_older_than_a_day_is_never_used_again(outside: Outside) -> None:
    outside.connect("email")
    outside.email.lost.append(html(502))
    outside.email.handler = once_then_down(outside.email)
    notification = outside.tell()
    with pytest.raises(RetryError):
        outside.deliver(notification)
    outside.email.handler = outside.email.handle
    outside.email.forget_keys()
    outside.pass_time(hours=24)
    assert outside.deliver(notification) == "email failed"
    assert outside.attempts(notification) == {"email": "outcome_unknown"}
    assert len(outside.email.mails) == 1


def test_a_used_up_quota_is_no_reason_to_wait(outside: Outside) -> None:
    outside.connect("email")
    outside.email.quota = "daily_quota_exceeded"
    notification = outside.tell()
    assert outside.deliver(notification) == "email failed"
    assert outside.attempts(notification) == {"email": "quota_exceeded"}


def test_the_rate_limit_is_waited_for(outside: Outside) -> None:
    outside.connect("email")
    outside.email.faults.append(resend.rate_limited())
    assert outside.deliver(outside.tell()) == "sent by email"


def test_an_unverified_domain_is_a_refusal(outside: Outside) -> None:
    outside.connect("email", **{"from": "Alfa <a@evil.example>"})
    notification = outside.tell()
    assert outside.deliver(notification) == "email failed"
    row = outside.db.execute(
        "select error_detail from public.notification_attempts where channel = 'email'"
    ).fetchone()
    assert row == {"error_detail": "resend: 403 validation_error: Refused: validation_error."}


# --- Twilio and Evolution have no idempotency key --------------------------------------------------


@pytest.mark.parametrize("channel", ["sms", "whatsapp"])
@pytest.mark.parametrize("fault", [Answer(cut="before"), Answer(cut="within"), html(502)])
def test_a_message_whose_answer_was_lost_is_found_not_sent_again(
    outside: Outside, channel: str, fault: Answer
) -> None:
    outside.connect(channel)
    fake = getattr(outside, channel)
    fake.lost.append(fault)
    notification = outside.tell()
    with pytest.raises(WaitError):
        outside.deliver(notification)
    with pytest.raises(WaitError):  # it may not be listed yet
        outside.deliver(notification)
    outside.pass_time()
    assert outside.deliver(notification) == f"sent by {channel}"
    assert len(fake.messages) == 1
    assert outside.attempts(notification) == {channel: "sent"}


@pytest.mark.parametrize("channel", ["sms", "whatsapp"])
def test_a_call_that_never_arrived_is_repeated(outside: Outside, channel: str) -> None:
    outside.connect(channel)
    fake = getattr(outside, channel)
    first = outside.tell()
    assert outside.deliver(first) == f"sent by {channel}"
    second = outside.tell()
    fake.faults.append(Answer(cut="before"))
    with pytest.raises(WaitError):
        outside.deliver(second)
    outside.pass_time()
    # The first message, in the same words, is another notification's.
    assert outside.deliver(second) == f"sent by {channel}"
    assert len(fake.messages) == 2
    assert outside.message_id(first) != outside.message_id(second)


def test_a_call_that_was_refused_for_now_is_repeated_without_asking(outside: Outside) -> None:
    outside.connect("sms")
    notification = outside.tell()
    outside.sms.faults.append(twilio.busy())
    with pytest.raises(RetryError):
        outside.deliver(notification)
    assert outside.deliver(notification) == "sent by sms"
    assert [seen.method for seen in outside.sms.journal] == ["POST", "POST"]


def test_an_sms_is_a_form_in_the_cheap_alphabet(outside: Outside) -> None:
    outside.connect("sms")
    outside.deliver(outside.tell())
    (message,) = outside.sms.messages.values()
    assert (message["to"], message["num_segments"]) == (PHONE, "1")
    assert "sem conexao" in message["body"]


def test_an_sms_names_where_its_receipts_go_and_may_go_by_a_messaging_service(
    outside: Outside,
) -> None:
    outside.connect("sms", **{"from": "MG01", "status_callback": "https://app.example/hook"})
    assert outside.deliver(outside.tell()) == "sent by sms"
    form = outside.sms.journal[0].form
    assert form["MessagingServiceSid"] == ["MG01"]
    assert form["StatusCallback"] == ["https://app.example/hook"]
    assert "From" not in form


def test_a_whatsapp_chat_is_found_with_and_without_the_ninth_digit(outside: Outside) -> None:
    assert jids("+5531999998888") == (
        "5531999998888@s.whatsapp.net",
        "553199998888@s.whatsapp.net",
    )
    assert jids("+14158675309") == ("14158675309@s.whatsapp.net",)
    outside.connect("whatsapp")
    outside.db.execute(
        "update public.profiles set phone = '31 99999-8888' where id = %s", (PERSON,)
    )
    outside.whatsapp.lost.append(Answer(cut="before"))
    notification = outside.tell()
    with pytest.raises(WaitError):
        outside.deliver(notification)
    outside.pass_time()
    assert outside.deliver(notification) == "sent by whatsapp"
    assert len(outside.whatsapp.messages) == 1


# --- A worker that dies --------------------------------------------------------------------------

WORKER = """
import asyncio, sys
from uuid import UUID
from nessos.http import client
from nessos.jobs.entrypoint import Task
from nessos.messaging.delivery import deliver
from tests.integrations.outside import open_pool

async def main():
    url, org, notification = sys.argv[1:]
    async with open_pool(url) as pool, client(pool) as http:
        await deliver(Task(1, "notification.deliver", {"notification_id": notification}, UUID(org), None, 1, pool, http))

asyncio.run(main())
"""


@pytest.mark.parametrize("channel", ["whatsapp", "sms", "email"])
@pytest.mark.parametrize("moment", ["after the effect", "before the effect"])
def test_a_worker_killed_before_it_noted_the_effect_sends_once(
    outside: Outside, channel: str, moment: str
) -> None:
    outside.connect(channel)
    fake = getattr(outside, channel)
    gate = threading.Event()
    (fake.lost if moment == "after the effect" else fake.faults).append(Answer(503, until=gate))
    notification = outside.tell()
    with _worker(outside, notification) as process:
        fake.wait_for(1)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    gate.set()
    assert outside.attempts(notification) == {channel: "queued"}
    outside.pass_time()
    assert outside.deliver(notification) == f"sent by {channel}"
    assert len(fake.mails if channel == "email" else fake.messages) == 1
    assert outside.attempts(notification) == {channel: "sent"}


def test_the_worker_delivers_what_a_subscription_asks_for(outside: Outside) -> None:
    outside.connect("email")
    outside.db.execute(
        "insert into public.event_subscriptions (org_id, pattern, handler, config)"
        " values (%s, 'growth.lead.created', 'notification', %s)",
        (ORG, json.dumps({"template": "event", "title": "Chegou um lead", "user": str(PERSON)})),
    )
    outside.db.execute(
        "insert into public.leads (org_id, name, email) values (%s, 'Rita', 'rita@leads.test')",
        (ORG,),
    )
    for _ in range(2):  # the second run finds the delivery that the first one's job has caused
        done = subprocess.run(
            [sys.executable, "-m", "nessos", "worker", "--drain"],
            env={**os.environ, "DATABASE_URL": outside.url},
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
    (mail,) = outside.email.mails.values()
    assert mail["subject"] == "Chegou um lead"
    assert mail["to"] == [f"{PERSON}@people.test"]
    assert outside.jobs() == 0


@contextlib.contextmanager
def _worker(outside: Outside, notification: UUID) -> Iterator[subprocess.Popen[bytes]]:
    path = os.pathsep.join((str(ROOT), str(Path(ROOT) / "py")))
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, outside.url, str(ORG), str(notification)],
        env={**os.environ, "PYTHONPATH": path},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


# --- Messages that nobody reports of ---------------------------------------------------------------


def test_silent_messages_are_asked_after(outside: Outside) -> None:
    told = {channel: sent(outside, channel) for channel in ("email",)}
    outside.db.execute("delete from public.integration_credentials")
    told |= {channel: sent(outside, channel) for channel in ("sms",)}
    outside.db.execute("delete from public.integration_credentials")
    told |= {channel: sent(outside, channel) for channel in ("whatsapp",)}
    outside.connect("email", "sms")
    outside.email.mails[told["email"][1]]["last_event"] = "delivered"
    outside.sms.messages[told["sms"][1]].update(status="undelivered", error_code=30003)
    outside.whatsapp.messages[0]["status"] = "READ"
    assert outside.run(poll, {}) == "0 of 0 moved"
    outside.db.execute(
        "update public.notification_attempts set sent_at = sent_at - interval '2 hours'"
    )
    assert outside.run(poll, {}) == "3 of 3 moved"
    assert [outside.attempts(told[channel][0])[channel] for channel in told] == [
        "delivered",
        "undelivered",
        "read",
    ]
    assert outside.run(poll, {}) == "0 of 0 moved"
