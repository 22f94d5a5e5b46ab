"""The process whose speed and memory bench.omie measures.

Called with `fetch` (read the pages and drop them) or `sync`, the API's address and the
organisation; the application's key and secret come from standard input.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

from nessos import http, logs
from nessos.jobs import connections
from nessos.omie import client, sync


async def _run(what: str, address: str, org: str, key: str, secret: str) -> dict[str, float]:
    totals: dict[str, float] = {"pages": 0, "created": 0, "unchanged": 0}
    async with (
        connections.pool(os.environ["DATABASE_URL"], size=4, name="bench") as pool,
        http.client(pool) as calls,
    ):
        omie = client.Omie(
            http=calls,
            url=address,
            app_key=key,
            app_secret=secret,
            org_id=UUID(org),
            provider=replace(client.OMIE, rates=()),
        )
        if what == "fetch":
            for listing, filters in (
                (client.CLIENTS, {}),
                (client.TITLES, {"ordenar_por": "CODIGO"}),
                (client.MOVEMENTS, {"cTpLancamento": "CR"}),
            ):
                async for _ in omie.pages(listing, filters):
                    totals["pages"] += 1
            return totals
        run_id = uuid4()
        async with pool.connection() as connection:
            await connection.execute("update public.erp_sync_log set next_at = null")
        for entity in ("clients", "receivables"):
            row = await sync.synchronise(pool, omie, run_id=run_id, entity=entity, mode="full")
            for name in ("created", "unchanged"):
                totals[name] += row[name]
    return totals


def main() -> None:
    """Read, and print what it took."""
    logs.configure(level=logging.WARNING)
    what, address, org = sys.argv[1:]
    key, secret = json.loads(sys.stdin.read())
    started = time.perf_counter()
    totals = asyncio.run(_run(what, address, org, key, secret))
    totals["seconds"] = time.perf_counter() - started
    # Of this program alone: ru_maxrss would be that of the process it was forked from.
    status = Path("/proc/self/status").read_text()
    totals["peak_mb"] = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    print(json.dumps(totals))


if __name__ == "__main__":
    main()
