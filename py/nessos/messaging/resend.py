"""E-mail over Resend.

A send carries an idempotency key, the attempt's id, which Resend keeps for 24 hours; the same body
goes with it, because another body under a known key is refused. The attempt's id also travels as a
tag, so that a receipt finds an attempt whose answer was lost.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from nessos.errors import GiveUpError, RetryError, UpstreamError
from nessos.http import Provider, Rate, by_status
from nessos.messaging.message import Receipt, RefusedError
from nessos.settings import load

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx

    from nessos.http import Http
    from nessos.messaging.message import Credentials, Message, SentMessage

TAG: Final = "attempt"

_KEY_LIFE: Final = timedelta(hours=23)
"""Resend forgets a key after 24 hours and would send again; an hour is left for queues."""

_QUOTA: Final = frozenset({"daily_quota_exceeded", "monthly_quota_exceeded"})


class _KnownKeyError(GiveUpError):
    """A mail went out under this key, in other words: a name or a template has changed since."""


def judge(response: httpx.Response) -> UpstreamError | None:
    """Tell refusals of one mail from faults of the service; the rest goes by status."""
    try:
        body = response.json()
    except ValueError:  # a page of the network in front of it
        body = None
    name = str(body.get("name")) if isinstance(body, dict) else ""
    if name == "concurrent_idempotent_requests":
        error = RetryError("resend: the same mail is being sent")
        error.is_uncertain = True
        return error
    if name == "invalid_idempotent_request":
        return _KnownKeyError("resend: another mail was sent under this key")
    if name in _QUOTA:
        return RefusedError("quota_exceeded", f"resend: {name}")
    if isinstance(body, dict) and isinstance(by_status(response), GiveUpError):
        return RefusedError(
            "provider_refused", f"resend: {response.status_code} {name}: {body.get('message')}"
        )
    return None


PROVIDER: Final = Provider(
    name="resend", rates=(Rate(requests=2, per_s=1),), timeout_s=15, attempts=2, judge=judge
)
"""Two requests a second per team."""


class Resend:
    """E-mail."""

    async def send(self, http: Http, credentials: Credentials, message: Message) -> str | None:
        """Send an e-mail; again with the same attempt sends it once."""
        try:
            response = await http.request(
                PROVIDER,
                "POST",
                f"{load().resend_url}/emails",
                account=credentials["api_key"].get_secret_value(),
                org_id=message.org_id,
                operation="emails.send",
                idempotency_key=f"notification/{message.attempt_id}",
                headers=_headers(credentials),
                json={
                    "from": credentials["from"].get_secret_value(),
                    "to": [message.address],
                    "subject": message.subject,
                    "text": message.text,
                    "html": message.html,
                    "tags": [
                        {"name": TAG, "value": str(message.attempt_id)},
                        {"name": "template", "value": message.template},
                    ],
                },
            )
        except _KnownKeyError:
            return None
        return str(response.json()["id"])

    async def find(
        self,
        http: Http,  # noqa: ARG002 - as of every channel
        credentials: Credentials,  # noqa: ARG002
        message: Message,
    ) -> list[str]:
        """Sending again is safe as long as Resend knows the key; later nobody can say."""
        if datetime.now(UTC) - message.first_tried_at > _KEY_LIFE:
            raise RefusedError("outcome_unknown", "resend: the idempotency key has expired")
        return []

    async def ask(self, http: Http, credentials: Credentials, sent: SentMessage) -> Receipt | None:
        """Ask what became of an e-mail."""
        response = await http.request(
            PROVIDER,
            "GET",
            f"{load().resend_url}/emails/{sent.message_id}",
            account=credentials["api_key"].get_secret_value(),
            org_id=sent.org_id,
            operation="emails.get",
            headers=_headers(credentials),
        )
        return receipt(str(response.json().get("last_event")), {})


def receipt(event: str, data: Mapping[str, Any]) -> Receipt | None:
    """Translate an event of an e-mail.

    Args:
        event: Its name, without the prefix `email.`.
        data: Its data.

    Returns:
        What it tells; None when nothing. An opened mail is not a read one, because mail programs
        and scanners fetch pictures and follow links by themselves; but it has arrived.
    """
    match event:
        case "sent":
            return Receipt("sent")
        case "delivered" | "opened" | "clicked":
            return Receipt("delivered")
        case "complained":
            return Receipt(None, undeliverable="complaint")
        case "failed" | "bounced" | "suppressed":
            return _failure(event, data)
    return None


def _failure(event: str, data: Mapping[str, Any]) -> Receipt:
    told = data.get("bounce" if event == "bounced" else event)
    told = told if isinstance(told, dict) else {}
    undeliverable = None
    if told.get("reason") == "previous_complaint":
        undeliverable = "complaint"
    elif event == "suppressed" or told.get("type") == "Permanent":
        undeliverable = "hard_bounce"
    words = [told.get(name) for name in ("type", "subType", "reason", "message")]
    return Receipt(
        "failed",
        "address_undeliverable" if event == "suppressed" else "undelivered",
        f"resend: {event}: {', '.join(str(word) for word in words if word)}",
        undeliverable,
    )


def _headers(credentials: Credentials) -> dict[str, str]:
    return {"Authorization": f"Bearer {credentials['api_key'].get_secret_value()}"}
