"""Ways to the same database: each migration over a company's rows while people work, old and new grants, dump and restore."""

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import psycopg

from nessos.local import database
from nessos.local.postgres import Cluster, binaries
from nessos.settings import ROOT
from tests import conftest
from tests.access.matrix import PLACES
from tests.access.rows import Rows
from tests.cluster import Server, end_run, new_run_folder
from tests.people import ANALYST_LOGIN, WORLD, as_member
from tests.proof.prepared import PreparedServer, prepare, run_tests
from tests.proof.section import Run, Section, Table
from tests.schema.building import carry_over, count_rows, schema_of, tables_of

VERSIONS: Final[tuple[Literal[16, 18], ...]] = (16, 18)
# Until 2026 a Supabase project granted what a migration creates to everybody; newer ones do not.
GRANTS: Final[Mapping[str, str]] = {
    "new": "",
    "old": "alter default privileges in schema public grant all on tables to anon, authenticated, service_role;"
    "alter default privileges in schema public grant all on functions to anon, authenticated, service_role;"
    "alter default privileges in schema public grant all on sequences to anon, authenticated, service_role;",
}
STRONG: Final = ("AccessExclusiveLock", "ExclusiveLock", "ShareRowExclusiveLock", "ShareLock")
ACCESS: Final = (
    "test_matrix.py",
    "test_functions.py",
    "test_membership.py",
    "test_roles.py",
    "test_hostile.py",
)


@dataclass(frozen=True)
class Step:
    """One migration over rows.

    Attributes:
        name: The file.
        seconds: How long it took.
        locked: How long it held a strong lock on a table that was there before, in seconds.
        table: The table it was held on the longest.
        waited: The longest that a client at work waited meanwhile, in seconds.
        lost: Tables that have fewer rows than before.
    """

    name: str
    seconds: float
    locked: float
    table: str
    waited: float
    lost: tuple[str, ...]


@dataclass
class Load:
    """Clients who read and write while a migration runs."""

    url: str
    longest: float = 0
    acts: int = 0
    _done: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Work until told to stop, with whatever tables there are."""
        with psycopg.connect(self.url, autocommit=True) as db:
            db.execute("set lock_timeout = '30s'")
            while not self._done.is_set():
                started = time.monotonic()
                self._act(db)
                self.longest = max(self.longest, time.monotonic() - started)
                self.acts += 1
                self._done.wait(0.001)

    def _act(self, db: psycopg.Connection[Any]) -> None:
        row = db.execute("select to_regclass('public.leads') is not null").fetchone()
        if row == (False,):
            return
        with db.transaction(), as_member(db, WORLD.a, "owner"):
            db.execute("select count(*) from public.leads where org_id = %s", (WORLD.a.org,))
            db.execute(
                "update public.leads set score = (score + 1) %% 100 where org_id = %s and id = ("
                " select l.id from public.leads l where l.org_id = %s order by l.id limit 1)",
                (WORLD.a.org, WORLD.a.org),
            )

    def stop(self) -> None:
        """Tell it to end."""
        self._done.set()


@contextmanager
def at_work(url: str, many: int = 2) -> Iterator[list[Load]]:
    """Have clients work for the length of a block."""
    loads = [Load(url) for _ in range(many)]
    threads = [threading.Thread(target=load.run) for load in loads]
    for thread in threads:
        thread.start()
    try:
        yield loads
    finally:
        for load in loads:
            load.stop()
        for thread in threads:
            thread.join()


@dataclass
class Watch:
    """Looks at the locks of one backend, over and over.

    Attributes:
        held: Per table, from when on a strong lock on it was seen; until the end, as a migration is one transaction.
    """

    url: str
    pid: int
    tables: Sequence[int]
    held: dict[str, float] = field(default_factory=dict)
    _done: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Look until told to stop."""
        with psycopg.connect(self.url, autocommit=True) as db:
            while not self._done.is_set():
                for (table,) in db.execute(
                    "select relation::regclass::text from pg_locks where pid = %s and granted and mode = any (%s)"
                    " and relation = any (%s)",
                    (self.pid, list(STRONG), list(self.tables)),
                ).fetchall():
                    self.held.setdefault(table, time.monotonic())
                self._done.wait(0.001)

    def stop(self) -> None:
        """Tell it to end."""
        self._done.set()


def migrate(url: str, name: str, statements: bytes) -> Step:
    """Apply one migration to a database while people work on it.

    Args:
        url: The owner's connection string.
        name: The migration.
        statements: Its text.

    Returns:
        What it did to rows and clients.
    """
    with psycopg.connect(url, autocommit=True) as db:
        before = {table: count_rows(db, table) for table in tables_of(db)}
        tables = [
            row[0]
            for row in db.execute(
                "select c.oid::bigint from pg_class c join pg_namespace n on n.oid = c.relnamespace"
                " where n.nspname in ('public', 'app') and c.relkind in ('r', 'p')"
            ).fetchall()
        ]
        watch = Watch(url, db.info.backend_pid, tables)
        watcher = threading.Thread(target=watch.run)
        watcher.start()
        with at_work(url) as loads:
            started = time.monotonic()
            try:
                db.execute(statements)
            finally:
                ended = time.monotonic()
                watch.stop()
                watcher.join()
        table, since = min(watch.held.items(), key=lambda held: held[1], default=("", ended))
        lost = tuple(
            table
            for table, count in before.items()
            if table not in tables_of(db) or count_rows(db, table) < count
        )
    longest = max(load.longest for load in loads)
    return Step(name, ended - started, ended - since, table, longest, lost)


def climb(server: Server, source_url: str, grants: str) -> tuple[list[Step], list[str]]:
    """Build a database migration by migration, with the rows of another as soon as their tables are there.

    Args:
        server: Where it is built.
        source_url: A database of the same release with rows in it.
        grants: Of `GRANTS`.

    Returns:
        The steps, and where the database differs from the one it grew up to be.
    """
    url = server.cluster.create_database("u_climb")
    database.apply_platform(url)
    steps: list[Step] = []
    with psycopg.connect(source_url) as source, psycopg.connect(url, autocommit=True) as target:
        if GRANTS[grants]:
            target.execute(GRANTS[grants].encode())
        filled = _reference_tables(server)
        for file in database.migration_files().values():
            steps.append(migrate(url, file.stem, file.read_bytes()))
            carry_over(source, target, filled)
        wrong = [f"{step.name} loses rows of {table}" for step in steps for table in step.lost]
        wrong += [
            f"{table} has other rows than it had"
            for table in tables_of(source)
            if table.startswith(("public.", "auth."))
            and count_rows(source, table) > count_rows(target, table)
        ]
    defaults = [line for line in schema_of(server, url) if "DEFAULT PRIVILEGES" not in line]
    expected = [line for line in schema_of(server, source_url) if "DEFAULT PRIVILEGES" not in line]
    wrong += [f"the schema differs: {line[:120]}" for line in set(defaults) ^ set(expected)]
    server.cluster.drop_database("u_climb")
    return steps, wrong


def _reference_tables(server: Server) -> set[str]:
    """Return the tables whose rows the migrations bring themselves."""
    with (
        server.clone(conftest.TEMPLATE, "u_reference") as url,
        psycopg.connect(url) as db,
    ):
        return {table for table in tables_of(db) if count_rows(db, table)}


@contextmanager
def populated(server: Server) -> Iterator[str]:
    """Give a database with the demo companies and a row in every table."""
    with server.clone(conftest.WORLD_TEMPLATE, "u_populated") as url:
        with psycopg.connect(url) as db:
            rows = Rows(db)
            for place in PLACES:
                rows.fill(place)
            db.execute(database.SEED.read_bytes())
        yield url


def restore(old: Server, new: Server, template: str) -> None:
    """Move a database into a fresh project by the commands of the operator's guide.

    Args:
        old: The server it is dumped from.
        new: A server of the same release that has never seen it.
        template: The database, sealed again under the same name.
    """
    guide = (ROOT / "docs" / "operator.md").read_text()
    [commands] = [
        block for block in re.findall(r"```sh\n(.*?)```", guide, re.DOTALL) if "pg_restore" in block
    ]
    path = f"{binaries(old.cluster.version)}:{Path(sys.executable).parent}:{os.environ['PATH']}"

    def fresh(cluster: Cluster, name: str) -> None:
        target = cluster.create_database(name)
        database.apply_platform(target)
        with tempfile.TemporaryDirectory() as folder, old.clone(template, "u_dumped") as source:
            where = {"OLD": source, "NEW": target, "DUMP": f"{folder}/nessos.dump"}
            done = subprocess.run(
                ["sh", "-euc", commands],
                check=False,
                capture_output=True,
                text=True,
                cwd=ROOT,
                env={**os.environ, **where, "PATH": path},
            )
        assert done.returncode == 0, done.stderr[-2000:]

    new.template(template, fresh)


def restored(version: Literal[16, 18], act: Callable[[Server, PreparedServer], Any]) -> Any:
    """Build, dump and restore the databases of the suite, and do something with both servers."""
    folders = [new_run_folder(), new_run_folder()]
    try:
        old, new = (Server(folder, version) for folder in folders)
        prepare(old)
        for template in (conftest.TEMPLATE, conftest.WORLD_TEMPLATE):
            restore(old, new, template)
        with psycopg.connect(new.cluster.url(), autocommit=True) as db:
            db.execute(f"create role {ANALYST_LOGIN} login in role analyst")
        return act(old, PreparedServer(new))
    finally:
        for folder in folders:
            end_run(folder)


def broken_after_restore(old: Server, new: PreparedServer, suites: Sequence[str]) -> list[str]:
    """Return what does not hold in the restored databases."""
    with (
        old.clone(conftest.WORLD_TEMPLATE, "u_before") as before,
        new.clone(conftest.WORLD_TEMPLATE, "u_after") as after,
    ):
        wrong = [
            f"the schema differs: {line[:120]}"
            for line in set(schema_of(old, before)) ^ set(schema_of(new, after))
        ]
        with psycopg.connect(before) as one, psycopg.connect(after, autocommit=True) as two:
            wrong += [
                f"{table} has other rows"
                for table in tables_of(one)
                if count_rows(one, table) != count_rows(two, table)
            ]
            wrong += _does_not_work(two)
    wrong += [
        f"tests/access/{suite} fails"
        for suite in suites
        if run_tests(new, f"tests/access/{suite}") != 0
    ]
    return wrong


def _does_not_work(db: psycopg.Connection[Any]) -> list[str]:
    """Have a member write, the event be counted and a job be queued."""
    with db.transaction(), as_member(db, WORLD.a, "owner"):
        db.execute(
            "insert into public.leads (org_id, name, email) values (%s, 'Lia', 'lia@restored.example')",
            (WORLD.a.org,),
        )
    checks = {
        "no event is counted": "select app.rollup_events() > 0",
        "the queue takes no job": "select app.enqueue((select min(entrypoint) from app.job_types), '{}', null, null, interval '0') > 0",
        "nothing is counted of the new lead": "select sum(count) > 0 from public.event_aggregates"
        f" where org_id = '{WORLD.a.org}'",
    }
    return [
        what for what, query in checks.items() if db.execute(query.encode()).fetchone() != (True,)
    ]


def prove(run: Run) -> Section:
    """Climb on both versions and both grants, and restore on both versions."""
    rows: list[tuple[str | int | float, ...]] = []
    longest: tuple[float, str] = (0, "")
    failures: list[str] = []
    for version in VERSIONS:
        folder = new_run_folder()
        try:
            server = Server(folder, version)
            prepare(server)
            with populated(server) as url:
                for grants in GRANTS:
                    run.say(f"  Postgres {version}, {grants} grants")
                    steps, wrong = climb(server, url, grants)
                    failures += [f"Postgres {version}, {grants} grants: {one}" for one in wrong]
                    for step in steps:
                        rows.append((step.name, version, grants, *_figures(step)))
                        longest = max(longest, (step.locked, f"{step.name} on {step.table}"))
        finally:
            end_run(folder)
        run.say(f"  Postgres {version}, dump and restore")
        wrong = restored(version, lambda old, new: broken_after_restore(old, new, ACCESS))
        failures += [f"Postgres {version}, restored: {one}" for one in wrong]
    return Section(
        title="Upgrades and restores",
        summary=f"{len(rows)} migrations over rows under load, Postgres 16 and 18, old and new grants; longest strong lock"
        f" {longest[0] * 1000:.0f} ms ({longest[1]}); two restores passed the access suite"
        if not failures
        else f"{len(failures)} differences",
        is_kept=not failures,
        tables=(
            Table(
                caption="Each migration over a company's rows, with clients at work",
                columns=(
                    "migration",
                    "Postgres",
                    "grants",
                    "took ms",
                    "strong lock ms",
                    "on",
                    "client waited ms",
                ),
                rows=tuple(rows),
            ),
        ),
        failures=tuple(failures),
    )


def _figures(step: Step) -> tuple[str | int, ...]:
    return (
        round(step.seconds * 1000),
        round(step.locked * 1000),
        step.table,
        round(step.waited * 1000),
    )
