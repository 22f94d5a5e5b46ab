"""Twilio as its page describes it: forms in, JSON out, no idempotency, errors by code, callbacks."""

import base64
import hashlib
import hmac
from collections import deque
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import urlencode

from tests.integrations.fakes.server import Answer, FakeServer, Seen

ACCOUNT = "AC00000000000000000000000000000000"
TOKEN = "fake-auth-token"  # noqa: S105 - of a fake
FROM = "+15005550006"
INVALID, LANDLINE, STOPPED = "+15005550001", "+15005550009", "+15005550004"
_GSM = set(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    "ÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_REFUSED = {
    INVALID: (21211, "The 'To' number is not a valid phone number."),
    LANDLINE: (21614, "'To' number is not a valid mobile number"),
    STOPPED: (21610, "Attempt to send to unsubscribed recipient"),
}


class FakeTwilio(FakeServer):
    """The service.

    Attributes:
        messages: Every message it has taken, by sid, oldest first.
        lost: Answers given instead of the true one, each once, after a message was taken.
    """

    def __init__(self) -> None:
        super().__init__(self.handle)
        self.messages: dict[str, dict[str, Any]] = {}
        self.lost: deque[Answer] = deque()

    def handle(self, seen: Seen) -> Answer:
        """Answer a request."""
        basic = base64.b64encode(f"{ACCOUNT}:{TOKEN}".encode()).decode()
        if seen.headers.get("authorization") != f"Basic {basic}":
            return _error(401, 20003, "Authenticate")
        path = seen.path.removeprefix(f"/2010-04-01/Accounts/{ACCOUNT}/")
        if path == "Messages.json" and seen.method == "POST":
            return self._create(seen)
        if path == "Messages.json":
            return self._list(seen)
        message = self.messages.get(path.removeprefix("Messages/").removesuffix(".json"))
        return Answer(body=message) if message else _error(404, 20404, "Not found")

    def _create(self, seen: Seen) -> Answer:
        if seen.headers.get("content-type") != "application/x-www-form-urlencoded":
            return _error(400, 21604, "A 'To' phone number is required.")
        form = {name: values[0] for name, values in seen.form.items()}
        to, body = form.get("To", ""), form.get("Body", "")
        if to in _REFUSED or not to.startswith("+"):
            return _error(400, *_REFUSED.get(to, _REFUSED[INVALID]))
        service = form.get("MessagingServiceSid")
        if service is None and form.get("From") != FROM:
            return _error(400, 21606, "The From number is not usable.")
        if len(body) > 1600:
            return _error(400, 21617, "The concatenated message body exceeds the 1600 limit")
        sid = f"SM{len(self.messages) + 1:032d}"
        self.messages[sid] = {
            "sid": sid,
            "account_sid": ACCOUNT,
            "to": to,
            "from": None if service else FROM,
            "messaging_service_sid": service,
            "body": body,
            "status": "accepted" if service else "queued",
            "direction": "outbound-api",
            "num_segments": str(segments(body)),
            "num_media": "0",
            "price": None,
            "price_unit": "USD",
            "error_code": None,
            "error_message": None,
            "date_created": format_datetime(datetime.now(UTC)),
            "date_sent": None,
            "uri": f"/2010-04-01/Accounts/{ACCOUNT}/Messages/{sid}.json",
        }
        return self.lost.popleft() if self.lost else Answer(201, self.messages[sid])

    def _list(self, seen: Seen) -> Answer:
        size = int(seen.query.get("PageSize", ["50"])[0])
        to = seen.query.get("To", [None])[0]
        found = [one for one in self.messages.values() if to in (None, one["to"])]
        return Answer(
            body={
                "messages": found[::-1][:size],
                "page": 0,
                "page_size": size,
                "next_page_uri": None,
            }
        )


def segments(body: str) -> int:
    """Count the messages a body is cut into."""
    extended = sum(letter in "^{}\\[~]|€" for letter in body)
    if all(letter in _GSM or letter in "^{}\\[~]|€" for letter in body):
        length, single, part = len(body) + extended, 160, 153
    else:
        length, single, part = len(body.encode("utf-16-le")) // 2, 70, 67
    return 1 if length <= single else -(-length // part)


def callback(sid: str, status: str, **more: str) -> bytes:
    """Return the form of a status callback."""
    return urlencode(
        {
            "MessageSid": sid,
            "SmsSid": sid,
            "MessageStatus": status,
            "SmsStatus": status,
            "To": "+5511988887777",
            "From": FROM,
            "AccountSid": ACCOUNT,
            "ApiVersion": "2010-04-01",
            **more,
        }
    ).encode()


def sign(url: str, form: dict[str, str], token: str = TOKEN) -> str:
    """Sign a callback over the public address it is sent to."""
    text = url + "".join(name + form[name] for name in sorted(form))
    return base64.b64encode(hmac.digest(token.encode(), text.encode(), hashlib.sha1)).decode()


def _error(status: int, code: int, message: str) -> Answer:
    return Answer(
        status,
        {
            "code": code,
            "message": message,
            "more_info": f"https://www.twilio.com/docs/errors/{code}",
            "status": status,
        },
    )


def busy() -> Answer:
    """Return the answer to too many requests at once."""
    return _error(429, 20429, "Too Many Requests")
