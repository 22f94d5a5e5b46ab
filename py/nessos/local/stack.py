"""The supervisor of the local stack: starts the parts in order, keeps them alive, stops all."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal
from urllib.error import URLError
from urllib.request import urlopen

import psutil
import psycopg
from psycopg import sql

from nessos import __version__
from nessos.errors import StackError, from_psycopg
from nessos.jobs import queue
from nessos.local import database, processes
from nessos.local.keys import Keys
from nessos.local.postgres import SMALL, Cluster, is_port_taken, port_holder
from nessos.settings import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType

    from nessos.settings import Settings

_PATIENCE_WITH_A_PART: Final = 8
"""How often in a row a part may die before the stack gives up."""

HealthKind = Literal["http", "heartbeat"]


class Stopped(BaseException):
    """Somebody asked the stack to stop (Ctrl-C, `make down`, a closed terminal)."""


@dataclass
class Service:
    """One part that runs as a process of its own.

    Attributes:
        name: Its name, also of its log file.
        command: The program and its arguments.
        environment: What it needs to know; secrets go here, never on the command line.
        health: How it shows that it is well: an address, or the name of its database connection.
        kind: Which of the two `health` is.
    """

    name: str
    command: list[str]
    environment: Mapping[str, str]
    health: str
    kind: HealthKind
    process: subprocess.Popen[bytes] | None = None
    deaths: int = 0
    started_at: float = 0.0


@dataclass
class Stack:
    """The local stack of one checkout.

    Attributes:
        settings: Ports and folders.
        say: Where progress goes.
    """

    settings: Settings
    say: Callable[[str], None] = field(default=lambda _: None)

    def __post_init__(self) -> None:
        """Make the folder and its keys known."""
        self.home: Path = self.settings.home
        self._services: list[Service] = []

    @property
    def keys(self) -> Keys:
        """The keys, made on first use."""
        return Keys.ensure(self.home)

    @property
    def cluster(self) -> Cluster:
        """The embedded Postgres."""
        return Cluster(
            self.home / "data",
            port=self.settings.postgres_port,
            settings=SMALL,
            password=self.keys.owner_password.get_secret_value(),
        )

    def resident_mb(self) -> float:
        """Measure the memory of the running stack, Postgres included.

        Returns:
            MB; 0 when nothing runs.
        """
        state = processes.read_state(self.home)
        running = [state.supervisor, *state.services] if state else []
        if (pid := self.cluster.pid) is not None and psutil.pid_exists(pid):
            running.append(processes.Record.of("postgres", pid))
        return processes.resident_mb(running)

    @property
    def owner_url(self) -> str:
        """The database's address for its owner."""
        return self.keys.owner_url(self.settings.postgres_port)

    @property
    def gateway_url(self) -> str:
        """The address of REST, Auth and functions."""
        return f"http://127.0.0.1:{self.settings.gateway_port}"

    def run(self, on_ready: Callable[[Stack], None]) -> None:
        """Start everything, tell when it is healthy, and stay until asked to stop.

        Args:
            on_ready: Called once, when every part is healthy.

        Raises:
            StackError: A part cannot start, or keeps dying. Nothing is left running.
        """
        node = database.node()
        self.home.mkdir(mode=0o711, parents=True, exist_ok=True)
        with processes.lock(self.home):
            _stop_on_signals()
            try:
                self._clean_up()
                self._check_ports()
                self._record()
                self._start_database()
                self._start_services(node)
                self._record(is_ready=True)
                on_ready(self)
                self._supervise()
            except (Stopped, KeyboardInterrupt):
                self.say("stopping …")
            finally:
                _ignore_signals()
                self._stop()

    def prepare_database(self) -> None:
        """Bring the running database to what this checkout describes: platform to seed."""
        self._prepare_platform()
        if self._schema_differs():
            self.say("applying migrations …")
            database.push(self.owner_url)
        if database.seed(self.owner_url):
            self.say("demo companies loaded")

    def down(self) -> bool:
        """Stop the stack from elsewhere; whatever a dead supervisor left behind, too.

        Returns:
            Whether anything ran.

        Raises:
            StackError: The supervisor does not stop.
        """
        state = processes.read_state(self.home)
        if not self.home.exists() or (state is None and not processes.is_locked(self.home)):
            return self._stop_database()
        if processes.is_locked(self.home):
            if state is None or (supervisor := state.supervisor.process()) is None:
                raise StackError("the stack is just starting", "try again in a moment")
            supervisor.terminate()
            deadline = time.monotonic() + 60
            while processes.is_locked(self.home) or state.supervisor.process():
                if time.monotonic() > deadline:
                    raise StackError(
                        f"the stack (process {supervisor.pid}) does not stop",
                        f"kill -9 {supervisor.pid}, then make down",
                    )
                time.sleep(0.1)
            return True
        with processes.lock(self.home):
            return self._clean_up()

    def reset_database(self) -> None:
        """Drop the database and build it anew: platform, migrations, queue, seed.

        Raises:
            StackError: Postgres cannot start.
        """
        started_here = not self.cluster.is_running()
        if started_here:
            with processes.lock(self.home):
                self.cluster.start(timeout_s=int(self.settings.start_timeout_s))
        try:
            (self.home / "platform").unlink(missing_ok=True)
            maintenance = self.owner_url.rpartition("/")[0] + "/template1"
            try:
                with psycopg.connect(maintenance, autocommit=True) as connection:
                    connection.execute("drop database postgres with (force)")
                    connection.execute("create database postgres")
            except psycopg.Error as error:
                raise from_psycopg(error) from error
            self.prepare_database()
        finally:
            if started_here:
                self._stop_database()

    def _stop_database(self) -> bool:
        if not (self.home / "data" / "postmaster.pid").exists():
            return False
        cluster = Cluster(self.home / "data")
        running = cluster.is_running()
        cluster.stop()
        return running

    def _clean_up(self) -> bool:
        """Stop what an earlier start left behind when it was killed."""
        state = processes.read_state(self.home)
        left = [one for one in (state.services if state else ()) if one.process()]
        processes.stop(left)
        ran = self._stop_database()
        processes.forget_state(self.home)
        if left or ran:
            self.say("stopped what an earlier start had left running")
        return bool(left or ran)

    def _check_ports(self) -> None:
        ports = {
            "postgres": self.settings.postgres_port,
            "gateway": self.settings.gateway_port,
            "functions": self.settings.functions_port,
        }
        for name, port in ports.items():
            if is_port_taken(port):
                raise StackError(
                    f"port {port} ({name}) is taken by another program",
                    f"stop it ({port_holder(port)}), or set NESSOS_{name.upper()}_PORT",
                )

    def _start_database(self) -> None:
        if not self.cluster.is_initialised:
            self.say("creating the database …")
        self.cluster.start(timeout_s=int(self.settings.start_timeout_s))
        try:
            with psycopg.connect(self.owner_url, connect_timeout=10):
                pass
        except psycopg.Error as error:
            raise StackError(
                f"the data of {self.cluster.data_dir} cannot be opened:"
                f" {str(error).strip().rpartition('FATAL:')[2].strip()}",
                f"restore a copy, or delete {self.home} to start afresh",
            ) from error
        self.prepare_database()

    def _prepare_platform(self) -> None:
        """Apply what hosted Supabase would give; skipped while its files stay the same."""
        files = (
            database.SUPABASE / "local" / "platform.sql",
            ROOT / "node_modules" / "@supabase" / "lite" / "package.json",
        )
        print_ = hashlib.sha256(__version__.encode())
        for file in files:
            print_.update(file.read_bytes())
        mark = self.home / "platform"
        if mark.exists() and mark.read_text() == print_.hexdigest():
            return
        self.say("preparing the platform …")
        database.apply_platform(self.owner_url)
        try:
            with psycopg.connect(self.owner_url, autocommit=True) as connection:
                connection.execute(
                    sql.SQL("alter role authenticator password {}").format(
                        sql.Literal(self.keys.rest_password.get_secret_value())
                    )
                )
        except psycopg.Error as error:
            raise from_psycopg(error) from error
        mark.write_text(print_.hexdigest())

    def _schema_differs(self) -> bool:
        """Whether a migration or the queue's schema is missing, without starting a tool."""
        try:
            with psycopg.connect(self.owner_url, autocommit=True) as connection:
                applied = database.applied_migrations(connection)
                queue_release = queue.installed(connection)
        except psycopg.Error as error:
            raise from_psycopg(error) from error
        files = database.migration_files()
        edited = [
            name
            for name, file in files.items()
            if name in applied and applied[name] != database.condense(file.read_text())
        ]
        if edited:
            self.say(
                f"warning: {files[edited[0]].name} was edited after it had been applied"
                " → nessos db reset"
            )
        return bool(set(files) - set(applied)) or queue_release != queue.release()

    def _start_services(self, node: str) -> None:
        self._services = _services(self, node)
        for service in self._services:
            self._start(service)
        self._record()
        deadline = time.monotonic() + self.settings.start_timeout_s
        waiting = list(self._services)
        while waiting:
            waiting = [service for service in waiting if not self.is_healthy(service)]
            for service in waiting:
                if service.process and service.process.poll() is not None:
                    raise StackError(
                        f"the {service.name} stopped while starting: {self._last_words(service)}",
                        f"see {self._log(service)}",
                    )
                if time.monotonic() > deadline:
                    raise StackError(
                        f"the {service.name} is not healthy after"
                        f" {self.settings.start_timeout_s:.0f} s",
                        f"see {self._log(service)}",
                    )
            if waiting:
                time.sleep(0.1)

    def is_healthy(self, service: Service) -> bool:
        """Ask a part how it is.

        Args:
            service: Which.

        Returns:
            Whether it answered well.
        """
        if service.kind == "http":
            try:
                with urlopen(service.health, timeout=2) as answer:  # noqa: S310 - our own address
                    return bool(answer.status == 200)  # noqa: PLR2004 - what health means
            except (URLError, OSError):
                return False
        try:
            with psycopg.connect(self.owner_url, autocommit=True, connect_timeout=5) as connection:
                row = connection.execute(
                    "select exists (select from pg_stat_activity where application_name = %s)",
                    [service.health],
                ).fetchone()
                return bool(row and row[0])
        except psycopg.Error:
            return False

    def _start(self, service: Service) -> None:
        log = self._log(service)
        log.parent.mkdir(mode=0o700, exist_ok=True)
        if service.deaths == 0 and log.exists():
            log.replace(log.with_suffix(".log.1"))
        with log.open("ab") as out:
            service.process = subprocess.Popen(
                service.command,
                cwd=ROOT,
                env=database.tool_environment(**service.environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        service.started_at = time.monotonic()

    def _supervise(self) -> None:
        last_look = time.monotonic()
        while True:
            time.sleep(0.5)
            for service in self._services:
                self._revive(service)
            if time.monotonic() - last_look > 5:  # noqa: PLR2004 - seconds
                last_look = time.monotonic()
                pid = self.cluster.pid
                if pid is None or not _exists(pid):
                    raise StackError("Postgres has stopped", f"see {self.cluster.log}; make up")

    def _revive(self, service: Service) -> None:
        if service.process is None or service.process.poll() is None:
            return
        alive_s = time.monotonic() - service.started_at
        if alive_s > 60:  # noqa: PLR2004 - seconds; it was well in between
            service.deaths = 0
        if alive_s < min(2.0**service.deaths, 10):
            return
        service.deaths += 1
        if service.deaths > _PATIENCE_WITH_A_PART:
            raise StackError(
                f"the {service.name} keeps stopping: {self._last_words(service)}",
                f"see {self._log(service)}",
            )
        self.say(f"the {service.name} stopped; starting it again")
        self._start(service)
        self._record(is_ready=True)

    def _record(self, *, is_ready: bool = False) -> None:
        processes.State(
            supervisor=processes.Record.of("supervisor", os.getpid()),
            services=tuple(self._running()),
            is_ready=is_ready,
        ).write(self.home)

    def _running(self) -> list[processes.Record]:
        return [
            processes.Record.of(service.name, service.process.pid)
            for service in self._services
            if service.process and service.process.poll() is None
        ]

    def _stop(self) -> None:
        processes.stop(self._running())
        for service in self._services:
            if service.process:
                service.process.wait()
        self._stop_database()
        processes.forget_state(self.home)

    def _log(self, service: Service) -> Path:
        return self.home / "logs" / f"{service.name}.log"

    def _last_words(self, service: Service) -> str:
        lines = self._log(service).read_text(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "without a word")


def _services(stack: Stack, node: str) -> list[Service]:
    settings, keys = stack.settings, stack.keys
    project = tomllib.loads((database.SUPABASE / "config.toml").read_text())
    shared = {
        "DATABASE_URL": stack.owner_url,
        "SUPABASE_URL": stack.gateway_url,
        "SUPABASE_PUBLISHABLE_KEY": keys.publishable.get_secret_value(),
        "SUPABASE_SECRET_KEY": keys.secret.get_secret_value(),
        "NESSOS_FUNCTIONS_PORT": str(settings.functions_port),
    }
    ring = settings.encryption_keys or keys.encryption
    trusted = {**shared, "NESSOS_ENCRYPTION_KEYS": ring.get_secret_value()}
    gateway = {
        **shared,
        "NESSOS_GATEWAY_PORT": str(settings.gateway_port),
        "NESSOS_OWNER_URL": stack.owner_url,
        "NESSOS_REST_URL": keys.rest_url(settings.postgres_port),
        "NESSOS_JWT_SECRET": keys.jwt.get_secret_value(),
        "NESSOS_BODY_LIMIT_MB": str(settings.body_limit_mb),
        "NESSOS_PROJECT": json.dumps({name: project[name] for name in ("api", "auth")}),
    }
    functions = {
        **trusted,
        "SUPABASE_DB_URL": stack.owner_url,
        "NESSOS_PUBLIC_URL": settings.public_url or stack.gateway_url,
        "NESSOS_WEBHOOK_LIMIT_MB": str(settings.webhook_limit_mb),
        "DENO_NO_UPDATE_CHECK": "1",
    }
    local = database.SUPABASE / "local"
    deno = Path(sys.executable).parent / "deno"
    nessos = [sys.executable, "-m", "nessos"]
    return [
        Service(
            "gateway",
            [node, "--max-semi-space-size=2", str(local / "gateway.mjs")],
            gateway,
            f"{stack.gateway_url}/health",
            "http",
        ),
        Service(
            "functions",
            [
                str(deno) if deno.exists() else "deno",
                "run",
                "--quiet",
                f"--config={database.SUPABASE / 'functions' / 'deno.json'}",
                "--allow-net",
                "--allow-env",
                f"--allow-read={database.SUPABASE}",
                str(local / "functions.ts"),
            ],
            functions,
            f"http://127.0.0.1:{settings.functions_port}/",
            "http",
        ),
        Service("worker", [*nessos, "worker"], trusted, "nessos worker", "heartbeat"),
        Service("cron", [*nessos, "cron", "run"], trusted, "nessos cron", "heartbeat"),
    ]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _stop_on_signals() -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Stopped

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
