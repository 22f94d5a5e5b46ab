"""A process that asks language models as a worker does: python -m tests.integrations.asker '<JSON of a Plan>'.

Prints a line of JSON per call when it has ended: "answered", or the kind of the error.
"""

import asyncio
import json
import sys
from dataclasses import asdict, dataclass
from uuid import UUID

from nessos import logs
from nessos.ai.gateway import Gateway, Message
from nessos.errors import BudgetError, WaitError
from nessos.http import client
from tests.integrations.outside import open_pool


@dataclass
class Plan:
    """What the process does: `calls` calls at the same time, each under a key if `key` is given."""

    database: str
    org: str
    calls: int = 1
    key: str | None = None

    def text(self) -> str:
        """Return the plan as the argument of the process."""
        return json.dumps(asdict(self))


async def run(plan: Plan) -> None:
    """Make the calls."""
    async with open_pool(plan.database) as pool, client(pool) as http:
        gateway = Gateway(pool, http)

        async def ask() -> None:
            try:
                await gateway.complete(
                    org_id=UUID(plan.org),
                    purpose="scoring",
                    messages=[Message("user", "Quanto vale?")],
                    max_tokens=1000,
                    idempotency_key=plan.key,
                )
                said = "answered"
            except (BudgetError, WaitError) as error:
                said = "budget" if isinstance(error, BudgetError) else "wait"
            print(json.dumps(said), flush=True)  # noqa: T201 - the answer

        await asyncio.gather(*(ask() for _ in range(plan.calls)))


if __name__ == "__main__":
    logs.configure()
    asyncio.run(run(Plan(**json.loads(sys.argv[1]))))
