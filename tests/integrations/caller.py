"""A process that calls a service as a worker does: python -m tests.integrations.caller '<JSON of a Plan>'.

Prints a line of JSON per call when it has ended.
"""

import asyncio
import json
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

from nessos import logs
from nessos.errors import UpstreamError
from nessos.http import Http, Provider, Rate
from tests.integrations.outside import open_http


@dataclass
class Plan:
    """What the process does: `calls` calls, `at_once` of them at the same time."""

    database: str
    url: str
    calls: int = 1
    at_once: int = 1
    now: str | None = None
    rates: list[tuple[int, float]] = field(default_factory=list)
    attempts: int = 1
    max_wait_s: float = 60
    options: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """Return the plan as the argument of the process."""
        return json.dumps(asdict(self))


async def run(plan: Plan) -> None:
    """Make the calls."""
    provider = Provider(
        "webhook",
        rates=tuple(Rate(*rate) for rate in plan.rates),
        attempts=plan.attempts,
        max_wait_s=plan.max_wait_s,
    )
    left = iter(range(plan.calls))

    async def caller(http: Http) -> None:
        for _ in left:
            try:
                answer = await http.request(provider, "GET", plan.url, **plan.options)
                said: object = answer.status_code
            except UpstreamError as error:
                said = f"{_kind(error)}: {error.message}"
            print(json.dumps(said), flush=True)  # noqa: T201 - the answer

    async with open_http(plan.database, now=plan.now) as http:
        await asyncio.gather(*(caller(http) for _ in range(plan.at_once)))


def _kind(error: UpstreamError) -> str:
    """Name the error as its receiver knows it, not a private kind of it."""
    return next(kind.__name__ for kind in type(error).__mro__ if not kind.__name__.startswith("_"))


if __name__ == "__main__":
    logs.configure()
    asyncio.run(run(Plan(**json.loads(sys.argv[1]))))
