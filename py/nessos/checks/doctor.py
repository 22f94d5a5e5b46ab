"""What is wrong with a ness.OS, and what to do about each finding."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from nessos.checks import status
from nessos.db import connect
from nessos.errors import DatabaseError, UsageError
from nessos.jobs import queue
from nessos.local.keys import FILE
from nessos.settings import load

if TYPE_CHECKING:
    import psycopg

    from nessos.target import Target

_PUSH: Final = "nessos db push"
_KEYS_IN_USE: Final = """
select c.key_id, count(*) as count from public.integration_credentials as c
group by c.key_id order by c.key_id
"""
_CALLABLE: Final = """
select p.oid::regprocedure::text as name from pg_proc as p
where p.pronamespace = to_regnamespace('app')
union all
select t.entrypoint from app.job_types as t
"""
_FAILED: Final = """
select r.job, count(*) as count, min(r.error) as error
from app.cron_runs as r
where r.status = 'failed' and r.scheduled_at = (
    select max(l.scheduled_at) from app.cron_runs as l where l.job = r.job
)
group by r.job order by r.job
"""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        part: Where.
        what: What.
        remedy: What to do.
    """

    part: str
    what: str
    remedy: str


def examine(target: Target) -> list[Finding]:
    """Look at everything.

    Args:
        target: Which ness.OS.

    Returns:
        What is wrong; nothing when all is well.
    """
    start = "make up" if target.is_local else "start the container of worker and cron"
    found = _secrets(target)
    try:
        with connect(target.database_url.get_secret_value(), name="doctor") as connection:
            behind = schema(connection)
            found += [*behind, *catalog(connection), *_queue(connection)]
            found += [] if behind else [*_timetable(connection), *_credentials(connection, target)]
            found += _heartbeats(connection, start)
    except DatabaseError as error:
        remedy = "make up" if target.is_local else (error.way_out or "check DATABASE_URL")
        found.append(Finding("postgres", error.message, remedy))
    remedy = "make up" if target.is_local else "check SUPABASE_URL and the keys"
    found += [
        Finding(part.name, part.detail, remedy)
        for part in status._addresses(target)  # noqa: SLF001 - the same question
        if not part.is_healthy
    ]
    return found


def schema(connection: psycopg.Connection[Any]) -> list[Finding]:
    """Compare the migrations of a database with the files.

    Args:
        connection: The database.

    Returns:
        What differs.
    """
    state = status.schema_state(connection)
    reset = "nessos db reset, or undo the edit and write a new migration"
    return [
        *(Finding("schema", f"{name} is not applied", _PUSH) for name in state.pending),
        *(
            Finding("schema", f"migration {one} has no file here", "git pull, or the right branch")
            for one in state.unknown
        ),
        *(
            Finding("schema", f"{name} was edited after it was applied", reset)
            for name in state.edited
        ),
    ]


def catalog(connection: psycopg.Connection[Any]) -> list[Finding]:
    """Check grants, row level security and roles (doctor.sql).

    Args:
        connection: The database.

    Returns:
        What breaks a law.
    """
    laws = (files("nessos.checks") / "doctor.sql").read_bytes()
    return [Finding(**row) for row in connection.execute(laws)]


def _queue(connection: psycopg.Connection[Any]) -> list[Finding]:
    found = queue.installed(connection)
    if found is None:
        return [Finding("queue", "the schema pgqueuer is not installed", _PUSH)]
    if found != queue.release():
        return [Finding("queue", f"the schema is of {found}, not {queue.release()}", _PUSH)]
    backlog = queue.backlog(connection)
    if backlog is None:
        return []  # its migration is pending, which is a finding
    findings = []
    if backlog.held:
        findings.append(Finding("queue", f"{backlog.held} jobs are held", "nessos jobs failed"))
    if backlog.is_late:
        late = f"a job has been ready for {backlog.oldest_wait_s:.0f} s"
        findings.append(Finding("queue", late, "nessos jobs list; run more workers of its class"))
    if backlog.unknown:
        unknown = f"no worker knows {', '.join(backlog.unknown)}"
        findings.append(Finding("queue", unknown, f"{_PUSH}, or deploy the release that does"))
    return findings


def _timetable(connection: psycopg.Connection[Any]) -> list[Finding]:
    from cron.timetable import load as load_timetable  # noqa: PLC0415 - needed here only

    there = {row["name"] for row in connection.execute(_CALLABLE)}
    missing = [
        Finding("cron", f"{job.name} needs {name}, which does not exist", _PUSH)
        for job in load_timetable().jobs
        for name in job.needs()
        if name not in there
    ]
    failed = [
        Finding(
            "cron",
            f"{row['job']} failed for {row['count']} in its last run: {row['error']}",
            f"nessos cron runs {row['job']} --failed",
        )
        for row in connection.execute(_FAILED)
    ]
    return [*missing, *failed]


def _credentials(connection: psycopg.Connection[Any], target: Target) -> list[Finding]:
    from nessos.credentials import KeyRing  # noqa: PLC0415 - needed here only

    used = {row["key_id"]: row["count"] for row in connection.execute(_KEYS_IN_USE)}
    if not used and not target.encryption_keys.get_secret_value():
        return []
    try:
        ring = KeyRing.parse(target.encryption_keys)
    except UsageError as error:
        return [Finding("credentials", error.message, error.way_out or "see .env.example")]
    found = []
    for key_id, count in used.items():
        what = f"{count} are under the key {key_id}, which is not"
        if key_id not in ring.keys:
            remedy = "add the key, or store them again: nessos integrations set"
            found.append(Finding("credentials", f"{what} in NESSOS_ENCRYPTION_KEYS", remedy))
        elif key_id != ring.first:
            found.append(Finding("credentials", f"{what} the first", "nessos integrations rotate"))
    return found


def _heartbeats(connection: psycopg.Connection[Any], start: str) -> list[Finding]:
    beats = status.heartbeats(connection)
    found = []
    for name, command in (("worker", "nessos worker"), ("cron", "nessos cron run")):
        beat = beats.get(f"nessos {name}")
        if beat is None:
            found.append(Finding(name, "is not running", f"{start} ({command})"))
        elif (age := float(beat["age_s"] or 0)) > status.STALE_S:
            found.append(Finding(name, f"last heartbeat {age:.0f} s ago", f"restart {command}"))
    return found


def _secrets(target: Target) -> list[Finding]:
    found = []
    if target.is_local:
        file = load().home / FILE
        if file.exists() and stat.S_IMODE(file.stat().st_mode) & 0o077:
            found.append(Finding("secrets", f"{file} can be read by others", f"chmod 600 {file}"))
        return found
    values = {
        "SUPABASE_URL": target.supabase_url,
        "SUPABASE_PUBLISHABLE_KEY": target.publishable_key.get_secret_value(),
        "SUPABASE_SECRET_KEY": target.secret_key.get_secret_value(),
    }
    found += [
        Finding("secrets", f"{name} is not set", "see .env.example")
        for name, value in values.items()
        if not value
    ]
    if values["SUPABASE_PUBLISHABLE_KEY"].startswith("sb_secret_"):
        found.append(
            Finding(
                "secrets", "SUPABASE_PUBLISHABLE_KEY holds a secret key", "swap the two, rotate it"
            )
        )
    return found
