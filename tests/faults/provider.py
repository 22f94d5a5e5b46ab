"""A service outside: it does what it is asked once per idempotency key, and can make its callers wait."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATIENCE_S = 300  # a machine that does much else besides is slow, not wrong
"""The longest a test waits for anything: what an interrupted job may take to run again."""


@dataclass
class Point:
    """A place on a job's way where the first who comes is kept."""

    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    says: str = "go"

    def wait(self) -> None:
        """Wait until somebody stands here."""
        assert self.reached.wait(PATIENCE_S), "nobody came"

    def release(self, says: str = "go") -> None:
        """Let him go on, and tell him something."""
        self.says = says
        self.released.set()


@dataclass
class Provider:
    """The service.

    Attributes:
        url: Its address.
        calls: How often each key came.
        effects: The keys for which something was done, one entry per effect.
    """

    url: str = ""
    calls: Counter[str] = field(default_factory=Counter)
    effects: list[str] = field(default_factory=list)
    _points: dict[str, list[Point]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def keep_at(self, name: str) -> Point:
        """Keep the next who comes to a point; of several calls each keeps one."""
        point = Point()
        with self._lock:
            self._points.setdefault(name, []).append(point)
        return point

    def answer(self, path: str, key: str) -> str:
        """Answer one request."""
        if path == "/effect":
            with self._lock:
                if not self.calls[key]:
                    self.effects.append(key)
                self.calls[key] += 1
            return "done"
        with self._lock:
            points = self._points.get(path.removeprefix("/"), [])
            point = points.pop(0) if points else None
        if point is None:
            return "go"
        point.reached.set()
        point.released.wait(2 * PATIENCE_S)
        return point.says


@contextmanager
def provider() -> Iterator[Provider]:
    """Run the service for the length of a block."""
    service = Provider()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = service.answer(self.path, self.headers.get("idempotency-key", "")).encode()
            try:
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                return  # the caller is dead

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        service.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield service
        finally:
            for points in service._points.values():
                for point in points:
                    point.release()
            server.shutdown()
