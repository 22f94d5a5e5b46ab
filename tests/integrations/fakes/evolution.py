"""An Evolution API server as its page describes it, as far as sending goes: chats, guards, receipts."""

import json
import re
import time
from collections import deque
from typing import Any

from tests.integrations.fakes.server import Answer, FakeServer, Seen

API_KEY = "fake-evolution-key"
INSTANCE = "atendimento"
_BRAZILIAN = re.compile(r"(55)(\d\d)9(\d{8})")


class FakeEvolution(FakeServer):
    """The server.

    Attributes:
        messages: Every message it has sent, oldest first.
        strangers: Numbers that are not on WhatsApp.
        lost: Answers given instead of the true one, each once, after a message was sent.
    """

    def __init__(self) -> None:
        super().__init__(self.handle)
        self.messages: list[dict[str, Any]] = []
        self.strangers: set[str] = set()
        self.lost: deque[Answer] = deque()

    def handle(self, seen: Seen) -> Answer:
        """Answer a request. Whether the instance exists is asked before the key."""
        area, action, instance = [*seen.path.strip("/").split("/"), "", ""][:3]
        if instance != INSTANCE:
            return _error(404, f'The "{instance}" instance does not exist')
        if seen.headers.get("apikey") != API_KEY:
            return _error(401, "Unauthorized")
        match (seen.method, area, action):
            case ("POST", "message", "sendText"):
                return self._send(seen)
            case ("POST", "chat", "findMessages"):
                return self._find(seen)
            case ("GET", "instance", "connectionState"):
                return Answer(body={"instance": {"instanceName": INSTANCE, "state": "open"}})
        return _error(404, f"Cannot {seen.method} {seen.path}")

    def _send(self, seen: Seen) -> Answer:
        given = seen.json
        if not isinstance(given.get("text"), str):  # what version 1 took
            return _error(400, ['instance requires property "text"'])
        jid = jid_of(given["number"])
        if given["number"] in self.strangers:
            return _error(400, [{"jid": jid, "exists": False, "number": given["number"]}])
        message = {
            "key": {
                "remoteJid": jid,
                "fromMe": True,
                "id": f"3EB0C0FFEE{len(self.messages) + 1:04d}",
            },
            "pushName": "Você",
            "status": "PENDING",
            "message": {"conversation": given["text"]},
            "contextInfo": None,
            "messageType": "conversation",
            "messageTimestamp": int(time.time()),
            "instanceId": "fake",
            "source": "web",
        }
        self.messages.append(message)
        delay_s = given.get("delay", 0) / 1000
        return self.lost.popleft() if self.lost else Answer(201, message, delay_s=delay_s)

    def _find(self, seen: Seen) -> Answer:
        jid = seen.json["where"]["key"].get("remoteJid")
        found = [
            {**one, "MessageUpdate": [{"status": one["status"]}]}
            for one in reversed(self.messages)
            if jid in (None, one["key"]["remoteJid"])
        ]
        size = seen.json.get("offset") or 50
        return Answer(
            body={
                "messages": {
                    "total": len(found),
                    "pages": -(-len(found) // size),
                    "currentPage": 1,
                    "records": found[:size],
                }
            }
        )


def jid_of(number: str) -> str:
    """Name the chat of a number: some Brazilian ones lose their ninth digit, none gets a country."""
    digits = re.sub(r"\D", "", number)
    mobile = _BRAZILIAN.fullmatch(digits)
    if mobile and int(mobile[2]) >= 31 and mobile[3][0] >= "7":
        digits = mobile[1] + mobile[2] + mobile[3]
    return f"{digits}@s.whatsapp.net"


def update(message_id: str, status: str | int, **more: Any) -> bytes:
    """Return the body of a receipt: the message's id is `keyId`; `messageId` is another one."""
    return json.dumps(
        {
            "event": "messages.update",
            "instance": INSTANCE,
            "data": {
                "keyId": message_id,
                "remoteJid": "551188887777@s.whatsapp.net",
                "fromMe": True,
                "participant": None,
                "status": status,
                "instanceId": "fake",
                "messageId": "cm-database-id",
                **more,
            },
            "destination": "https://app.example/wh",
            "date_time": "2026-07-14T09:30:00.000Z",
            "sender": "5511900000000@s.whatsapp.net",
            "server_url": "https://evo.example",
            "apikey": None,
        }
    ).encode()


def _error(status: int, message: object) -> Answer:
    names = {400: "Bad Request", 401: "Unauthorized", 404: "Not Found"}
    return Answer(
        status,
        {
            "status": status,
            "error": names[status],
            "response": {"message": message if isinstance(message, list) else [message]},
        },
    )
