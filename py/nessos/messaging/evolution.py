"""WhatsApp over an Evolution API server.

It has no idempotency key: before a message whose end is not known is sent again, the chat is looked
through for it.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from nessos.errors import GiveUpError, UpstreamError
from nessos.http import Provider, by_status
from nessos.messaging.message import Receipt, RefusedError

if TYPE_CHECKING:
    from uuid import UUID

    import httpx

    from nessos.http import Http
    from nessos.messaging.message import Credentials, Message, SentMessage

_CLOCK_SKEW: Final = timedelta(minutes=2)
_PAGE: Final = 50
_STATUSES: Final = ("ERROR", "PENDING", "SERVER_ACK", "DELIVERY_ACK", "READ", "PLAYED")
_RANK: Final = {status: rank for rank, status in enumerate(_STATUSES)}
_BRAZILIAN_MOBILE: Final = re.compile(r"(55\d\d)9(\d{8})")


def judge(response: httpx.Response) -> UpstreamError | None:
    """Tell refusals of one message from faults of the service; the rest goes by status."""
    if not isinstance(by_status(response), GiveUpError):
        return None
    try:
        said = response.json()["response"]["message"]
    except (ValueError, TypeError, KeyError):
        return None
    said = said if isinstance(said, list) else [said]
    if any(isinstance(one, dict) and one.get("exists") is False for one in said):
        return RefusedError("not_on_channel", "evolution: the number is not on WhatsApp")
    words = "; ".join(str(one) for one in said)
    return RefusedError("provider_refused", f"evolution: {response.status_code}: {words}")


PROVIDER: Final = Provider(name="evolution", timeout_s=15, attempts=1, judge=judge)


class Evolution:
    """WhatsApp."""

    async def send(self, http: Http, credentials: Credentials, message: Message) -> str | None:
        """Send a text, once: Evolution does not notice a repeated call."""
        response = await _call(
            http,
            credentials,
            message.org_id,
            "message/sendText",
            # With the country, always: Evolution adds none, and reads 31 as the Netherlands.
            {"number": message.address.removeprefix("+"), "text": message.text},
        )
        return str(response.json()["key"]["id"])

    async def find(self, http: Http, credentials: Credentials, message: Message) -> list[str]:
        """Look for the message in the person's chat since its first try."""
        since = (message.first_tried_at - _CLOCK_SKEW).timestamp()
        return [
            str(found["key"]["id"])
            for found in await _messages(http, credentials, message.org_id, message.address)
            if _text(found) == message.text and int(found["messageTimestamp"]) >= since
        ]

    async def ask(self, http: Http, credentials: Credentials, sent: SentMessage) -> Receipt | None:
        """Ask what became of a text."""
        for found in await _messages(http, credentials, sent.org_id, sent.address):
            if found["key"]["id"] == sent.message_id:
                known = [str(update.get("status")) for update in found.get("MessageUpdate") or ()]
                latest = max(known, key=lambda status: _RANK.get(status, -1), default="")
                return receipt(latest)
        return None


def jids(phone: str) -> tuple[str, ...]:
    """Name the chats a phone may have.

    Args:
        phone: In E.164 form.

    Returns:
        One; two for a Brazilian mobile phone, whose ninth digit WhatsApp has for some and not for
        others.
    """
    numbers = [phone.removeprefix("+")]
    if mobile := _BRAZILIAN_MOBILE.fullmatch(numbers[0]):
        numbers.append(mobile[1] + mobile[2])
    return tuple(f"{number}@s.whatsapp.net" for number in numbers)


def receipt(status: str | int) -> Receipt | None:
    """Translate a message's status.

    Args:
        status: As Evolution names or numbers it.

    Returns:
        What it tells; None while the message has not left.
    """
    if isinstance(status, int):
        status = _STATUSES[status] if 0 <= status < len(_STATUSES) else ""
    match status:
        case "SERVER_ACK":
            return Receipt("sent")
        case "DELIVERY_ACK":
            return Receipt("delivered")
        case "READ" | "PLAYED":
            return Receipt("read")
        case "ERROR":
            return Receipt("failed", "undelivered", "WhatsApp reported an error")
    return None


async def _messages(
    http: Http, credentials: Credentials, org_id: UUID, phone: str
) -> list[dict[str, Any]]:
    """Read the latest messages of ours to a phone."""
    messages: list[dict[str, Any]] = []
    for jid in jids(phone):
        response = await _call(
            http,
            credentials,
            org_id,
            "chat/findMessages",
            {"where": {"key": {"remoteJid": jid, "fromMe": True}}, "page": 1, "offset": _PAGE},
        )
        messages += response.json()["messages"]["records"]
    return [one for one in messages if one["key"].get("fromMe") is True]


def _text(message: dict[str, Any]) -> str | None:
    content = message.get("message") or {}
    text = content.get("conversation") or (content.get("extendedTextMessage") or {}).get("text")
    return text if isinstance(text, str) else None


async def _call(
    http: Http, credentials: Credentials, org_id: UUID, path: str, body: dict[str, Any]
) -> httpx.Response:
    server = credentials["url"].get_secret_value().rstrip("/")
    instance = credentials["instance"].get_secret_value()
    api_key = credentials["api_key"].get_secret_value()
    return await http.request(
        PROVIDER,
        "POST",
        f"{server}/{path}/{quote(instance, safe='')}",
        account=f"{server}/{instance}/{api_key}",
        org_id=org_id,
        operation=path,
        is_retryable=path.startswith("chat/"),
        headers={"apikey": api_key},
        json=body,
    )
