"""A real HTTP server in a thread whose answers are a Python function, with the faults of real services.

with FakeServer(lambda seen: Answer(body={"ok": True})) as server:
    server.faults.append(Answer(503, headers={"Retry-After": "7"}))   # before the function is asked
    ... call server.url ...
    assert server.journal[0].json == {"amount": 1}
"""

import contextlib
import json
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit


@dataclass
class Seen:
    """A request as it arrived; names of headers are in lower case."""

    number: int
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    began_at: float = field(default_factory=time.monotonic)
    ended_at: float | None = None

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def form(self) -> dict[str, list[str]]:
        """The body as a form."""
        return parse_qs(self.body.decode(), keep_blank_values=True)


@dataclass
class Answer:
    """What the server does with a request.

    Attributes:
        status: The HTTP status.
        body: JSON of anything but text and bytes, which go as they are.
        headers: Further headers.
        delay_s: Waits so long before it answers.
        until: Waits for this event before it answers, or for the server's end.
        cut: Breaks the connection: "before" the answer, or "within" its body.
    """

    status: int = 200
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0
    until: threading.Event | None = None
    cut: str | None = None

    def encoded(self) -> tuple[bytes, str]:
        """Return the body's bytes and its content type."""
        if isinstance(self.body, bytes):
            return self.body, "application/octet-stream"
        if isinstance(self.body, str):
            return self.body.encode(), "text/plain; charset=utf-8"
        return json.dumps(self.body).encode(), "application/json"


def html(status: int = 200) -> Answer:
    """Return the page that proxies and overloaded services answer with, whatever was asked."""
    page = "<!DOCTYPE html><html><body><h1>Service Temporarily Unavailable</h1></body></html>"
    return Answer(status, page, {"Content-Type": "text/html"})


Handler = Callable[[Seen], Answer]


class FakeServer:
    """The server, running within a `with` block.

    Attributes:
        journal: Every request, in the order of arrival.
        faults: Answers given first, each once, before the handler is asked.
    """

    def __init__(self, handler: Handler | None = None) -> None:
        self.handler = handler or (lambda _: Answer(body={}))
        self.journal: list[Seen] = []
        self.faults: deque[Answer] = deque()
        self.stopped = threading.Event()
        self._arrived = threading.Condition()
        self._server = _Server(("127.0.0.1", 0), _request_handler(self))

    @property
    def url(self) -> str:
        """The server's address, without a slash at the end."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def wait_for(self, number: int, timeout_s: float = 30) -> Seen:
        """Wait until so many requests have arrived; gives the last of them."""
        with self._arrived:
            came = self._arrived.wait_for(lambda: len(self.journal) >= number, timeout_s)
            assert came, f"{len(self.journal)} of {number} requests came within {timeout_s} s"
            return self.journal[number - 1]

    def most_at_once(self) -> int:
        """Return how many requests were under way at the same moment, at most."""
        moments = sorted(
            [(seen.began_at, 1) for seen in self.journal]
            + [(seen.ended_at, -1) for seen in self.journal if seen.ended_at is not None]
        )
        now = most = 0
        for _, change in moments:
            now += change
            most = max(most, now)
        return most

    def most_within(self, period_s: float) -> int:
        """Return how many requests arrived within any period of this length, at most."""
        arrivals = sorted(seen.began_at for seen in self.journal)
        return max(
            (sum(1 for at in arrivals[i:] if at < start + period_s) for i, start in enumerate(arrivals)),
            default=0,
        )  # fmt: skip

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()

    @contextlib.contextmanager
    def _record(self, request: BaseHTTPRequestHandler) -> Iterator[Seen]:
        address = urlsplit(request.path)
        body = request.rfile.read(int(request.headers.get("content-length") or 0))
        with self._arrived:
            seen = Seen(
                number=len(self.journal) + 1,
                method=request.command,
                path=address.path,
                query=parse_qs(address.query, keep_blank_values=True),
                headers={name.lower(): value for name, value in request.headers.items()},
                body=body,
            )
            self.journal.append(seen)
            self._arrived.notify_all()
        try:
            yield seen
        finally:
            seen.ended_at = time.monotonic()

    def _answer(self, seen: Seen) -> Answer:
        with self._arrived:
            answer = self.faults.popleft() if self.faults else None
        answer = answer or self.handler(seen)
        if answer.until is not None:
            while not answer.until.wait(0.02) and not self.stopped.is_set():
                pass
        if answer.delay_s:
            self.stopped.wait(answer.delay_s)
        return answer


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: callers that die are part of the tests."""


def _request_handler(fake: FakeServer) -> type[BaseHTTPRequestHandler]:
    class RequestHandler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_any(self) -> None:
            with fake._record(self) as seen:
                answer = fake._answer(seen)
                # Before the answer leaves: whoever has it may send the next request at once.
                seen.ended_at = time.monotonic()
                self._send(answer)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815 - names of http.server

        def _send(self, answer: Answer) -> None:
            if answer.cut == "before":
                self._reset()
                return
            body, kind = answer.encoded()
            self.send_response(answer.status)
            for name, value in {"Content-Type": kind, **answer.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if answer.cut == "within":
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                self._reset()
            elif self.command != "HEAD":
                self.wfile.write(body)

        def _reset(self) -> None:
            self.close_connection = True
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in http.server
            """Say nothing."""

    return RequestHandler
