"""One embedded Postgres per test run, shared by every xdist worker, with sealed template databases.

The process that starts pytest owns the run's folder and stops the server at its end; workers find the folder through the
environment. Whoever first needs the server or a template makes it, under a file lock.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import psycopg
from psycopg import sql

from nessos.local.postgres import THROWAWAY, Cluster

RUN_FOLDER_VARIABLE = "NESSOS_TEST_RUN"
SETTINGS = {
    **THROWAWAY,
    "max_wal_size": "2GB",
    "checkpoint_timeout": "30min",
    "autovacuum": "off",
    "log_min_messages": "fatal",
}


def new_run_folder() -> Path:
    """Make this run's folder and name it in the environment, so that the workers find it."""
    folder = Path(tempfile.mkdtemp(prefix=f"nessos-tests-{os.getpid()}-"))
    os.environ[RUN_FOLDER_VARIABLE] = str(folder)
    return folder


def end_run(folder: Path) -> None:
    """Stop the servers of this run and remove its folder."""
    for version in (16, 18):
        if (folder / f"pg{version}").exists():
            Cluster(folder / f"pg{version}", version).remove()
    shutil.rmtree(folder, ignore_errors=True)
    os.environ.pop(RUN_FOLDER_VARIABLE, None)


class Server:
    """The run's Postgres of one major version, and its sealed templates."""

    def __init__(self, folder: Path, version: Literal[16, 18]) -> None:
        self.folder = folder
        self.cluster = Cluster(folder / f"pg{version}", version, settings=SETTINGS)
        with self._lock():
            self.cluster.start()

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        with (self.folder / "lock").open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def template(self, name: str, build: Callable[[Cluster, str], object]) -> str:
        """Have a database built once per run and sealed, so that it can be cloned.

        Args:
            name: The database.
            build: Creates it, given the server and the name.

        Returns:
            The name.

        Raises:
            RuntimeError: Building it failed, here or in another worker.
        """
        with self._lock():
            done, failed = self.folder / f"{name}.done", self.folder / f"{name}.failed"
            if failed.exists():
                raise RuntimeError(failed.read_text())
            if not done.exists():
                try:
                    build(self.cluster, name)
                except BaseException as error:
                    failed.write_text(f"the database {name} could not be built: {error}")
                    raise
                with psycopg.connect(self.cluster.url(), autocommit=True) as connection:
                    connection.execute(
                        sql.SQL("alter database {} with allow_connections false").format(
                            sql.Identifier(name)
                        )
                    )
                done.touch()
        return name

    @contextlib.contextmanager
    def clone(self, template: str, name: str) -> Iterator[str]:
        """Give the address of a copy of a template, for the length of a block."""
        with psycopg.connect(self.cluster.url(), autocommit=True) as connection:
            connection.execute(
                sql.SQL("create database {} template {}").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )
        yield self.cluster.url(name)
        self.cluster.drop_database(name)
