"""How a database becomes one of ness.OS: platform (local only), migrations, queue, seed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import psycopg
from psycopg.rows import tuple_row

from nessos.db import connect
from nessos.errors import DatabaseError, StackError, from_psycopg
from nessos.jobs import queue
from nessos.settings import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SUPABASE: Final = ROOT / "supabase"
MIGRATIONS: Final = SUPABASE / "migrations"
SEED: Final = SUPABASE / "seed.sql"
MINIMUM_NODE: Final = 20
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")

_MIGRATION_NAME: Final = re.compile(r"^(\d{14})_\w+\.sql$")


def tool_environment(**more: str) -> dict[str, str]:
    """Give npm tools an environment in which they stay quiet.

    Args:
        more: Variables to add.

    Returns:
        A copy of this process's environment.
    """
    return {**os.environ, "DO_NOT_TRACK": "1", "SUPABASE_TELEMETRY_DISABLED": "1", **more}


def node() -> str:
    """Find Node, new enough.

    Returns:
        Its path.

    Raises:
        StackError: There is none, or it is too old.
    """
    way_out = f"install Node {MINIMUM_NODE} or newer"
    program = shutil.which("node")
    if program is None:
        raise StackError("Node is missing", way_out)
    done = subprocess.run([program, "--version"], check=False, capture_output=True, text=True)
    found = re.match(r"v(\d+)", done.stdout)
    if not found or int(found[1]) < MINIMUM_NODE:
        raise StackError(f"Node {done.stdout.strip() or '?'} is too old", way_out)
    return program


def migration_files() -> Mapping[str, Path]:
    """List the migrations of this checkout.

    Returns:
        Version → file, in order.
    """
    named = ((_MIGRATION_NAME.match(file.name), file) for file in sorted(MIGRATIONS.glob("*.sql")))
    return {match[1]: file for match, file in named if match}


def applied_migrations(connection: psycopg.Connection[Any]) -> Mapping[str, str]:
    """Read which migrations a database has.

    Args:
        connection: Its connection.

    Returns:
        Version → the text that was applied, without white space and semicolons.
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        exists = cursor.execute(
            "select to_regclass('supabase_migrations.schema_migrations') is not null"
        ).fetchone()
        if not exists or not exists[0]:
            return {}
        rows = cursor.execute(
            "select version, array_to_string(statements, '')"
            " from supabase_migrations.schema_migrations order by version"
        ).fetchall()
    return {version: condense(text or "") for version, text in rows}


def condense(text: str) -> str:
    """Strip what the Supabase CLI does not keep when it splits a file into statements.

    Args:
        text: SQL.

    Returns:
        The text without white space and semicolons: equal files stay equal.
    """
    return re.sub(r"[\s;]+", "", text)


def apply_platform(url: str) -> None:
    """Give an empty local database what hosted Supabase starts with. Repeatable.

    Args:
        url: The database.

    Raises:
        DatabaseError: A statement failed.
        StackError: Node or its packages are missing.
    """
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute((SUPABASE / "local" / "platform.sql").read_bytes())
    except psycopg.Error as error:
        raise from_psycopg(error) from error
    _run_tool(
        [node(), str(SUPABASE / "local" / "auth_schema.mjs")],
        "the tables of Auth could not be created",
        DATABASE_URL=url,
    )


def push(url: str, *, dry_run: bool = False) -> str:
    """Deploy to a database that has Supabase's roles and auth schema: migrations, then queue.

    Args:
        url: The database.
        dry_run: Only say what would be done.

    Returns:
        What was done, or would be, line by line.

    Raises:
        DatabaseError: A statement failed; its line is in the message.
        StackError: The Supabase CLI is missing.
    """
    before = _pending(url)
    supabase("db", "push", *(["--dry-run"] if dry_run else []), url=url)
    verb = "to be applied" if dry_run else "applied"
    lines = [f"{name} {verb}" for name in before] or ["migrations are current"]
    return "\n".join([*lines, queue.install(url, dry_run=dry_run)])


def supabase(*args: str, url: str) -> str:
    """Run the pinned Supabase CLI against any database.

    Args:
        args: The command and its options.
        url: The database.

    Returns:
        What it wrote to standard output.

    Raises:
        DatabaseError: It failed.
        StackError: It is not installed.
    """
    program = ROOT / "node_modules" / "supabase" / "dist" / "supabase.js"
    if not program.exists():
        raise StackError("the Supabase CLI is not installed", "npm ci")
    return _run_tool(
        [node(), str(program), *args, f"--workdir={ROOT}", f"--remote={url}", "--yes"],
        f"supabase {' '.join(args[:2])} failed",
        **({"PGSSLMODE": "disable"} if urlsplit(url).hostname in LOOPBACK else {}),
    )


def seed(url: str) -> bool:
    """Load the demo organisations into a database that has none.

    Args:
        url: The database.

    Returns:
        Whether anything was loaded.

    Raises:
        DatabaseError: A statement failed.
    """
    if not SEED.exists():
        return False
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            row = connection.execute("select to_regclass('public.organizations')").fetchone()
            if not row or row[0] is None:
                return False
            row = connection.execute("select exists (select from public.organizations)").fetchone()
            if row and row[0]:
                return False
            with connection.transaction():
                connection.execute(SEED.read_bytes())
            # The year of history is counted at once, not a minute later by the timetable.
            rollup = connection.execute("select to_regprocedure('app.rollup_events()')").fetchone()
            if rollup and rollup[0]:
                connection.execute("select app.rollup_events()")
            # What the timetable would do within a minute: the history is counted and sealed.
            connection.execute("select app.rollup_events(), app.seal_audit_log()")
            connection.execute("analyze")
    except psycopg.Error as error:
        raise from_psycopg(error) from error
    return True


def _pending(url: str) -> list[str]:
    with connect(url) as connection:
        applied = applied_migrations(connection)
    return [file.name for version, file in migration_files().items() if version not in applied]


def _run_tool(command: list[str], failure: str, **environment: str) -> str:
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=tool_environment(**environment),
        cwd=ROOT,
    )
    if done.returncode != 0:
        reason = _reason(done.stderr or done.stdout)
        if "--include-all" in reason:
            raise DatabaseError(
                "a migration is older than the last one applied",
                "local: nessos db reset; elsewhere: give the new file a newer version",
            )
        raise DatabaseError(f"{failure}: {reason}")
    return done.stdout


def _reason(text: str) -> str:
    """Shorten a tool's complaint: its decoration and the statement's text say nothing new."""
    lines = [line.strip(" │▲■●◇") for line in text.splitlines()]
    said = " ".join(line for line in lines if line and not line.startswith("Try rerunning"))
    said = said.partition("At statement:")[0].strip()
    return said.rpartition("Applying migration ")[2][:1000] or "no reason given"
