"""The local stack: how soon it is healthy again, and how REST answers eight clients at once."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import httpx
import psycopg

from bench.measure import median_ms, p95_ms, within
from nessos.local.postgres import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from bench.measure import Figure
    from bench.subject import Bench

    _Client = tuple[Callable[[], object], Callable[[], object]]

_CLIENTS: Final = 8
_REQUESTS: Final = 100
_LEADS: Final = 1000
_COLUMNS: Final = "id,name,email,company,status,score,owner_id,created_at"
_PASSWORD: Final = "bench-password"  # noqa: S105 - of a stack that lives for a minute


def stack(bench: Bench) -> list[Figure]:
    """Start a stack of its own twice, and ask its REST address.

    Args:
        bench: Where its folder goes.

    Returns:
        Two figures.
    """
    environment = _environment(bench.folder / "stack")
    bench.say("starting a stack for the first time …")
    with _stack(environment) as first_s:
        pass
    bench.say("starting it for the second time …")
    with _stack(environment) as second_s:
        bench.say(f"asking REST with {_CLIENTS} clients …")
        answers, direct = _ask(environment)
    return [
        within((15, "s"), "second start of the stack", second_s, first_s, "its first start"),
        within(
            (200, "ms"),
            f"REST list of 50, {_CLIENTS} clients, p95",
            p95_ms(answers),
            p95_ms(direct),
            "the same on direct connections",
            f"{len(answers):,} requests, median {median_ms(answers):.0f} ms",
        ),
    ]


def _environment(home: Path) -> dict[str, str]:
    """Describe a stack beside whatever runs on this machine."""
    home.parent.mkdir(exist_ok=True)
    others = {name: value for name, value in os.environ.items() if not name.startswith("SUPABASE_")}
    others.pop("DATABASE_URL", None)
    return {
        **others,
        "NESSOS_HOME": str(home),
        "NESSOS_POSTGRES_PORT": str(free_port()),
        "NESSOS_GATEWAY_PORT": str(free_port()),
        "NESSOS_FUNCTIONS_PORT": str(free_port()),
    }


def _nessos(environment: Mapping[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "nessos", *arguments],
        check=False,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"nessos {' '.join(arguments)}: {done.stderr.strip()[-500:]}")
    return done.stdout


@contextlib.contextmanager
def _stack(environment: Mapping[str, str]) -> Iterator[float]:
    """Run the stack for the length of a block.

    Yields:
        Seconds until it was healthy.
    """
    started = time.monotonic()
    try:
        _nessos(environment, "up", "--detach")
        yield time.monotonic() - started
    finally:
        _nessos(environment, "down")


def _ask(environment: Mapping[str, str]) -> tuple[list[float], list[float]]:
    said = _nessos(environment, "env").splitlines()
    values = dict(shlex.split(line)[-1].split("=", 1) for line in said)
    key, gateway = values["SUPABASE_PUBLISHABLE_KEY"], values["SUPABASE_URL"]
    with httpx.Client(base_url=gateway, headers={"apikey": key}, timeout=30) as visitor:
        person = {"email": f"bench-{os.getpid()}@bench.example", "password": _PASSWORD}
        session = _json(visitor.post("/auth/v1/signup", json=person))
        if "access_token" not in session:
            session = _json(
                visitor.post("/auth/v1/token", params={"grant_type": "password"}, json=person)
            )
        headers = {"apikey": key, "authorization": f"Bearer {session['access_token']}"}
        organization = _json(
            visitor.post(
                "/rest/v1/rpc/create_organization",
                json={"name": "Bench", "slug": f"bench-{os.getpid()}"},
                headers=headers,
            )
        )
    if isinstance(organization, list):
        organization = organization[0]
    org = str(organization["id"]) if isinstance(organization, dict) else str(organization)
    _fill(values["DATABASE_URL"], org)

    query = {"select": _COLUMNS, "order": "created_at.desc", "limit": "50", "org_id": f"eq.{org}"}
    claims = json.dumps({"sub": session["user"]["id"], "role": "authenticated"})

    def over_rest() -> _Client:
        client = httpx.Client(base_url=gateway, headers=headers, timeout=30)

        def ask() -> None:
            assert len(_json(client.get("/rest/v1/leads", params=query))) == 50  # noqa: PLR2004

        return ask, client.close

    def directly() -> _Client:
        connection = psycopg.connect(values["DATABASE_URL"])

        def ask() -> None:
            with connection.transaction():
                connection.execute("set local role authenticated")
                connection.execute("select set_config('request.jwt.claims', %s, true)", [claims])
                rows = connection.execute(
                    f"select {_COLUMNS} from public.leads where org_id = %s"
                    " order by created_at desc limit 50",
                    [org],
                ).fetchall()
                assert len(rows) == 50  # noqa: PLR2004 - a page

        return ask, connection.close

    return _at_once(over_rest), _at_once(directly)


def _json(answer: httpx.Response) -> Any:  # noqa: ANN401 - JSON has no type
    if not answer.is_success:
        raise RuntimeError(f"{answer.request.url}: {answer.status_code} {answer.text[:300]}")
    return answer.json()


def _fill(url: str, org: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(
            "insert into public.leads (org_id, name, email, company, source)"
            " select %s, 'Pessoa ' || n, 'pessoa-' || n || '@cliente.example', 'Cliente', 'import'"
            " from generate_series(1, %s) as n",
            [org, _LEADS],
        )


def _at_once(
    open_client: Callable[[], tuple[Callable[[], object], Callable[[], object]]],
) -> list[float]:
    """Let eight clients ask at the same time, each one question after the other."""
    seconds: list[float] = []
    failures: list[Exception] = []
    start = threading.Barrier(_CLIENTS)

    def work() -> None:
        ask, close = open_client()
        try:
            for _ in range(5):
                ask()
            start.wait(timeout=60)
            for _ in range(_REQUESTS):
                began = time.perf_counter()
                ask()
                seconds.append(time.perf_counter() - began)
        except Exception as error:  # noqa: BLE001 - raised below, in the thread that waits
            failures.append(error)
            start.abort()
        finally:
            close()

    threads = [threading.Thread(target=work) for _ in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return seconds
