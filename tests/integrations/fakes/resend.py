"""Resend as its page describes it: e-mails with idempotency keys, errors by name, signed webhooks."""

import base64
import hashlib
import hmac
import json
import time
from collections import deque
from typing import Any
from uuid import uuid4

from tests.integrations.fakes.server import Answer, FakeServer, Seen

API_KEY = "re_fake_0123456789"
DOMAIN = "example.com"


class FakeResend(FakeServer):
    """The service.

    Attributes:
        mails: Every mail it has sent, by id.
        lost: Answers given instead of the true one, each once, after a mail was sent.
        quota: Name of the quota that is used up, if one is.
    """

    def __init__(self) -> None:
        super().__init__(self.handle)
        self.mails: dict[str, dict[str, Any]] = {}
        self.lost: deque[Answer] = deque()
        self.quota: str | None = None
        self._keys: dict[str, tuple[bytes, str]] = {}

    def handle(self, seen: Seen) -> Answer:
        """Answer a request."""
        if seen.headers.get("authorization") != f"Bearer {API_KEY}":
            return _error(401, "restricted_api_key", "This API key is restricted.")
        if seen.method == "POST" and seen.path == "/emails":
            return self._send(seen)
        if seen.method == "GET" and (mail := self.mails.get(seen.path.removeprefix("/emails/"))):
            return Answer(body={"object": "email", **mail})
        return _error(404, "not_found", "Email not found")

    def _send(self, seen: Seen) -> Answer:
        key = seen.headers.get("idempotency-key")
        if key in self._keys:
            body, mail_id = self._keys[key]
            if body == seen.body:
                return Answer(body={"id": mail_id})
        if refusal := self._refusal(key, seen.json):
            return refusal
        mail_id = str(uuid4())
        self.mails[mail_id] = {
            "id": mail_id,
            "created_at": "2026-07-14T12:00:00.000Z",
            "last_event": "sent",
            **seen.json,
        }
        if key is not None:
            self._keys[key] = (seen.body, mail_id)
        return self.lost.popleft() if self.lost else Answer(body={"id": mail_id})

    def _refusal(self, key: str | None, mail: dict[str, Any]) -> Answer | None:
        missing = [name for name in ("from", "to", "subject") if not mail.get(name)]
        refusals = {
            (400, "invalid_idempotency_key"): len(key or "") > 256,
            (409, "invalid_idempotent_request"): key in self._keys,
            (429, self.quota): self.quota is not None,
            (422, "missing_required_field"): missing,
            (403, "validation_error"): not str(mail.get("from")).endswith(f"@{DOMAIN}>"),
            (422, "validation_error"): not all(
                isinstance(tag, dict) for tag in mail.get("tags", [])
            ),
        }
        for (status, name), applies in refusals.items():
            if applies:
                return _error(status, str(name), f"Refused: {name}.")
        return None

    def forget_keys(self) -> None:
        """Do what a day does."""
        self._keys.clear()

    def event(self, kind: str, mail_id: str, **data: Any) -> bytes:
        """Return the body of a webhook about a mail: its tags are an object there."""
        mail = self.mails[mail_id]
        return json.dumps(
            {
                "type": kind,
                "created_at": "2026-07-14T12:00:01.000Z",
                "data": {
                    "email_id": mail_id,
                    "created_at": mail["created_at"],
                    "from": mail["from"],
                    "to": mail["to"],
                    "subject": mail["subject"],
                    "tags": {tag["name"]: tag["value"] for tag in mail.get("tags", [])},
                    **data,
                },
            }
        ).encode()


def sign(
    body: bytes, *secrets: str, message_id: str = "msg_1", at: int | None = None
) -> dict[str, str]:
    """Sign a webhook as Svix does, with each secret: two during a rotation."""
    timestamp = str(int(time.time()) if at is None else at)
    signed = f"{message_id}.{timestamp}.".encode() + body
    signatures = [
        base64.b64encode(
            hmac.digest(base64.b64decode(secret.removeprefix("whsec_")), signed, hashlib.sha256)
        ).decode()
        for secret in secrets
    ]
    return {
        "svix-id": message_id,
        "svix-timestamp": timestamp,
        "svix-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def _error(status: int, name: str, message: str) -> Answer:
    return Answer(status, {"statusCode": status, "name": name, "message": message})


def rate_limited() -> Answer:
    """Return the answer to the third request of a second."""
    answer = _error(429, "rate_limit_exceeded", "Too many requests.")
    answer.headers = {"Retry-After": "1", "ratelimit-limit": "2", "ratelimit-remaining": "0"}
    return answer
