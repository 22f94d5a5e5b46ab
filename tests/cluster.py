"""One embedded Postgres per test process, with sealed template databases.

Processes do not share a server: the rollup and the seals wait for the oldest transaction of the whole server, and another
process's test would hold them back.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import psycopg
from psycopg import sql

from nessos.local.postgres import THROWAWAY, Cluster

SETTINGS = {
    **THROWAWAY,
    "max_wal_size": "2GB",
    "checkpoint_timeout": "30min",
    "autovacuum": "off",
    "log_min_messages": "fatal",
}


def new_run_folder() -> Path:
    """Make the folder of this process's servers."""
    return Path(tempfile.mkdtemp(prefix=f"nessos-tests-{os.getpid()}-"))


def end_run(folder: Path) -> None:
    """Stop the servers of this process and remove their folder."""
    for version in (16, 18):
        if (folder / f"pg{version}").exists():
            Cluster(folder / f"pg{version}", version).remove()
    shutil.rmtree(folder, ignore_errors=True)


class Server:
    """This process's Postgres of one major version, and its sealed templates."""

    def __init__(self, folder: Path, version: Literal[16, 18]) -> None:
        self.cluster = Cluster(folder / f"pg{version}", version, settings=SETTINGS)
        self.cluster.start()

    def template(self, name: str, build: Callable[[Cluster, str], object]) -> str:
        """Build a database and seal it, so that it can be cloned.

        Args:
            name: The database.
            build: Creates it, given the server and the name.

        Returns:
            The name.
        """
        build(self.cluster, name)
        with psycopg.connect(self.cluster.url(), autocommit=True) as connection:
            connection.execute(
                sql.SQL("alter database {} with allow_connections false").format(
                    sql.Identifier(name)
                )
            )
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
