"""SMS over Twilio.

Twilio has no idempotency key: a call that timed out may have sent. Before a message whose end is
not known is sent again, the account's messages to that number are looked through for it.
"""

from __future__ import annotations

from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from nessos.errors import GiveUpError, UpstreamError
from nessos.http import Provider, by_status
from nessos.messaging.message import Receipt, RefusedError
from nessos.settings import load

if TYPE_CHECKING:
    from uuid import UUID

    import httpx

    from nessos.http import Http
    from nessos.messaging.message import Credentials, Message, SentMessage

_CLOCK_SKEW: Final = timedelta(minutes=2)
_PAGE: Final = 50
_UNDELIVERABLE: Final = {
    21211: "invalid",  # no phone number
    21614: "invalid",  # no mobile number
    21610: "opt_out",  # answered STOP
    30005: "invalid",  # unknown to its network
    30006: "invalid",  # a landline
}


def judge(response: httpx.Response) -> UpstreamError | None:
    """Tell refusals of one message from faults of the service; the rest goes by status."""
    if not isinstance(by_status(response), GiveUpError):
        return None
    try:
        body = response.json()
        code, message = int(body["code"]), str(body["message"])
    except (ValueError, TypeError, KeyError):
        return None
    return RefusedError(
        "address_undeliverable" if code in _UNDELIVERABLE else "provider_refused",
        f"twilio: {code}: {message}",
        _UNDELIVERABLE.get(code),
    )


PROVIDER: Final = Provider(name="twilio", timeout_s=15, attempts=1, judge=judge)


class Twilio:
    """SMS."""

    async def send(self, http: Http, credentials: Credentials, message: Message) -> str | None:
        """Send an SMS, once: Twilio does not notice a repeated call."""
        sender = credentials["from"].get_secret_value()
        form = {
            "To": message.address,
            "MessagingServiceSid" if sender.startswith("MG") else "From": sender,
            "Body": message.text,
        }
        if callback := credentials.get("status_callback"):
            form["StatusCallback"] = callback.get_secret_value()
        response = await _call(
            http,
            credentials,
            org_id=message.org_id,
            operation="messages.create",
            method="POST",
            path="Messages.json",
            data=form,
        )
        return str(response.json()["sid"])

    async def find(self, http: Http, credentials: Credentials, message: Message) -> list[str]:
        """Look for the message among those to its number since its first try."""
        # Not by DateSent: a message that is still queued has none.
        response = await _call(
            http,
            credentials,
            org_id=message.org_id,
            operation="messages.list",
            method="GET",
            path="Messages.json",
            params={"To": message.address, "PageSize": _PAGE},
        )
        since = message.first_tried_at - _CLOCK_SKEW
        return [
            str(found["sid"])
            for found in response.json()["messages"]
            if found["to"] == message.address
            and found["body"] == message.text
            and found["direction"].startswith("outbound")
            and parsedate_to_datetime(found["date_created"]) >= since
        ]

    async def ask(self, http: Http, credentials: Credentials, sent: SentMessage) -> Receipt | None:
        """Ask what became of an SMS."""
        response = await _call(
            http,
            credentials,
            org_id=sent.org_id,
            operation="messages.get",
            method="GET",
            path=f"Messages/{sent.message_id}.json",
        )
        body = response.json()
        return receipt(str(body["status"]), body.get("error_code"))


def receipt(status: str, error_code: str | int | None) -> Receipt | None:
    """Translate a message's status.

    Args:
        status: As Twilio names it.
        error_code: Why it failed, if it did.

    Returns:
        What it tells; None while the message has not left.
    """
    match status:
        case "sent" | "delivered" | "read":
            return Receipt(status)
        case "undelivered" | "failed" | "canceled":
            code = str(error_code or "")
            reason = _UNDELIVERABLE.get(int(code)) if code.isdecimal() else None
            return Receipt("failed", "undelivered", f"twilio: {status} {code}".rstrip(), reason)
    return None


async def _call(  # noqa: PLR0913 - a call, its caller and its body
    http: Http,
    credentials: Credentials,
    *,
    org_id: UUID,
    operation: str,
    method: str,
    path: str,
    **words: Any,  # noqa: ANN401 - what a request carries
) -> httpx.Response:
    account = credentials["account_sid"].get_secret_value()
    token = credentials["auth_token"].get_secret_value()
    return await http.request(
        PROVIDER,
        method,
        f"{load().twilio_url}/2010-04-01/Accounts/{account}/{path}",
        account=f"{account}/{token}",
        org_id=org_id,
        operation=operation,
        auth=(account, token),
        **words,
    )
