"""How every part of a ness.OS is, local or hosted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from nessos.db import connect
from nessos.errors import DatabaseError
from nessos.jobs import queue
from nessos.local import database
from nessos.settings import load

if TYPE_CHECKING:
    from collections.abc import Mapping

    import psycopg

    from nessos.target import Target

STALE_S: Final = 60
"""A worker or runner silent towards the database for longer is not well, in seconds."""

_HEARTBEATS: Final = """
select
    application_name as name,
    count(*) as processes,
    min(extract(epoch from clock_timestamp() - coalesce(state_change, backend_start))) as age_s
from pg_stat_activity
where application_name in ('nessos worker', 'nessos cron')
group by application_name
"""


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        name: Which.
        is_healthy: Whether it is well.
        detail: What was seen, in words.
    """

    name: str
    is_healthy: bool
    detail: str


@dataclass(frozen=True)
class SchemaState:
    """The migrations of a database against the files of this checkout.

    Attributes:
        applied: Versions the database has.
        pending: Files it lacks.
        unknown: Versions without a file here.
        edited: Files that changed after they had been applied.
    """

    applied: list[str]
    pending: list[str]
    unknown: list[str]
    edited: list[str]

    @property
    def is_current(self) -> bool:
        """Whether database and files agree."""
        return not (self.pending or self.unknown or self.edited)

    def __str__(self) -> str:
        """Say it in words."""
        latest = self.applied[-1] if self.applied else "nothing applied"
        words = [
            f"{len(names)} {what}"
            for names, what in (
                (self.pending, "pending"),
                (self.unknown, "without a file here"),
                (self.edited, "edited after being applied"),
            )
            if names
        ]
        return f"{latest}, {', '.join(words) or 'as the files'}"


def check(target: Target) -> list[Part]:
    """Ask every part how it is.

    Args:
        target: Which ness.OS.

    Returns:
        The parts, in the order they depend on each other.
    """
    parts: list[Part] = []
    try:
        with connect(target.database_url.get_secret_value(), name="status") as connection:
            row = connection.execute("show server_version").fetchone() or {}
            parts += [
                Part("postgres", is_healthy=True, detail=str(row.get("server_version"))),
                _schema(connection),
                _queue(connection),
                *_heartbeats(connection),
            ]
    except DatabaseError as error:
        parts.append(Part("postgres", is_healthy=False, detail=error.message))
        parts += [Part(name, is_healthy=False, detail="unknown") for name in ("schema", "queue")]
        parts += [Part(name, is_healthy=False, detail="unknown") for name in ("worker", "cron")]
    parts += _addresses(target)
    return [*parts, *_memory()] if target.is_local else parts


def schema_state(connection: psycopg.Connection[Any]) -> SchemaState:
    """Compare a database's migrations with the files.

    Args:
        connection: The database.

    Returns:
        The comparison.
    """
    applied = database.applied_migrations(connection)
    files = database.migration_files()
    return SchemaState(
        applied=list(applied),
        pending=[file.name for version, file in files.items() if version not in applied],
        unknown=[version for version in applied if version not in files],
        edited=[
            file.name
            for version, file in files.items()
            if version in applied and applied[version] != database.condense(file.read_text())
        ],
    )


def heartbeats(connection: psycopg.Connection[Any]) -> Mapping[str, Mapping[str, Any]]:
    """Find the workers and cron runners that are connected, and when they last spoke.

    Args:
        connection: The database.

    Returns:
        `nessos worker` and `nessos cron` → number of processes and seconds since the last word.
    """
    return {row["name"]: row for row in connection.execute(_HEARTBEATS)}


def _schema(connection: psycopg.Connection[Any]) -> Part:
    state = schema_state(connection)
    return Part("schema", state.is_current, str(state))


def _queue(connection: psycopg.Connection[Any]) -> Part:
    found = queue.installed(connection)
    if found is None:
        return Part("queue", is_healthy=False, detail="not installed")
    if found != queue.release():
        return Part("queue", is_healthy=False, detail=f"{found}, but {queue.release()} is here")
    backlog = queue.backlog(connection)
    if backlog is None:
        return Part("queue", is_healthy=False, detail=f"{found}, without the module jobs")
    return Part("queue", not backlog.is_late, f"{found}, {backlog}")


def _heartbeats(connection: psycopg.Connection[Any]) -> list[Part]:
    found = heartbeats(connection)
    parts = []
    for name in ("worker", "cron"):
        beat = found.get(f"nessos {name}")
        if beat is None:
            parts.append(Part(name, is_healthy=False, detail="not running"))
            continue
        age = float(beat["age_s"] or 0)
        detail = f"{beat['processes']} running, heartbeat {age:.0f} s ago"
        parts.append(Part(name, age < STALE_S, detail))
    return parts


def _addresses(target: Target) -> list[Part]:
    names = ("rest", "auth", "functions")
    if not target.supabase_url:
        return [Part(name, is_healthy=False, detail="SUPABASE_URL is not set") for name in names]
    import httpx  # noqa: PLC0415 - heavy, and needed here only

    base = target.supabase_url.rstrip("/")
    key = {"apikey": target.publishable_key.get_secret_value()}
    # The root of REST is for the secret key: 403 shows that it answers and knows the key.
    wanted = {
        "rest": (f"{base}/rest/v1/", {200, 403}),
        "auth": (f"{base}/auth/v1/health", {200}),
        "functions": (f"{base}/functions/v1/health", {200}),
    }
    parts = []
    with httpx.Client(timeout=10, headers=key) as client:
        for name, (url, good) in wanted.items():
            try:
                code = client.get(url).status_code
            except httpx.HTTPError as error:
                parts.append(Part(name, is_healthy=False, detail=f"{base}: {error}"))
                continue
            detail = f"{base}/{name}/v1" if code in good else f"{url} answers {code}"
            parts.append(Part(name, code in good, detail))
    return parts


def _memory() -> list[Part]:
    from nessos.local.stack import Stack  # noqa: PLC0415 - a hosted ness.OS has no local stack

    resident = Stack(load()).resident_mb()
    return [Part("memory", is_healthy=True, detail=f"{resident:.0f} MB resident")]
