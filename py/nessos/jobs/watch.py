"""What a worker tells those who watch it: health for probes, metrics for Prometheus."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

# The format, its escaping and its buckets are the library's; it needs no other.
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    State = Sequence[Mapping[str, Any]]

_QUESTIONS: Final = {
    "/health": "select 1",
    # Counts everything that waits: for a scrape, not for a probe.
    "/metrics": "select * from app.queue_state()",
}
_STATE: Final = ("ready", "later", "running", "held")
_PATIENCE_S: Final = 5.0


class Metrics:
    """What one worker has done since it started."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.ended = Counter(
            "nessos_jobs_ended",
            "How attempts ended: done, retried, waiting, returned, held.",
            ["entrypoint", "outcome"],
            registry=self._registry,
        )
        self.seconds = Histogram(
            "nessos_job_seconds",
            "How long an attempt took.",
            ["entrypoint"],
            buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900),
            registry=self._registry,
        )

    def text(self, state: State) -> bytes:
        """Write the metrics down.

        Args:
            state: The rows of `app.queue_state()`.

        Returns:
            Prometheus' text format.
        """
        queue = CollectorRegistry()
        jobs = Gauge(
            "nessos_queue_jobs",
            "Jobs in the queue, of all workers: ready, later, running, held.",
            ["latency_class", "entrypoint", "state"],
            registry=queue,
        )
        wait = Gauge(
            "nessos_queue_oldest_wait_seconds",
            "How long the first of the ready jobs has been due.",
            ["latency_class", "entrypoint"],
            registry=queue,
        )
        for row in state:
            labels = (row["latency_class"] or "none", row["entrypoint"])
            for name in _STATE:
                jobs.labels(*labels, name).set(row[name])
            oldest = row["oldest_wait"]
            wait.labels(*labels).set(oldest.total_seconds() if oldest else 0)
        return generate_latest(self._registry) + generate_latest(queue)


@contextlib.contextmanager
def serve(
    address: tuple[str, int], metrics: Metrics, ask: Callable[[str], Awaitable[State]]
) -> Iterator[None]:
    """Answer `/health` and `/metrics` for the length of a block, from a thread of its own.

    A worker is well when its loop turns and the database answers it.

    Args:
        address: Host and port.
        metrics: What is told.
        ask: Asks the database a question and gives the rows, on the loop of the caller.

    Yields:
        Nothing.
    """
    loop = asyncio.get_running_loop()

    async def patiently(question: str) -> State:
        return await asyncio.wait_for(ask(question), _PATIENCE_S)

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "nessos", ""

        def do_GET(self) -> None:
            if self.path not in _QUESTIONS:
                self._answer(404, b"not found\n", "text/plain")
                return
            asked = asyncio.run_coroutine_threadsafe(patiently(_QUESTIONS[self.path]), loop)
            try:
                state = asked.result(_PATIENCE_S + 1)
            except Exception as error:  # noqa: BLE001 - whatever it is, the worker is not well
                asked.cancel()
                self._answer(503, f"{type(error).__name__}\n".encode(), "text/plain")
                return
            if self.path == "/health":
                self._answer(200, b"ok\n", "text/plain")
            else:
                self._answer(200, metrics.text(state), CONTENT_TYPE_LATEST)

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Probes are not worth a line."""

    with ThreadingHTTPServer(address, Handler) as server:
        threading.Thread(target=server.serve_forever, name="watch", daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()
