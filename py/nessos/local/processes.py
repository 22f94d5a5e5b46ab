"""What the stack has started: a lock that says who runs it, and a record of every process.

A record holds the process id and its start time, so that a number the system has given to another
program since is never touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
from dataclasses import asdict, dataclass
from typing import IO, TYPE_CHECKING

import psutil

from nessos.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Record:
    """One process of ours.

    Attributes:
        name: Which part it is.
        pid: Its process id.
        created: When it started, in seconds since 1970, as the system tells it.
    """

    name: str
    pid: int
    created: float

    @staticmethod
    def of(name: str, pid: int) -> Record:
        """Describe a running process.

        Args:
            name: Which part it is.
            pid: Its process id.

        Returns:
            The record.
        """
        return Record(name, pid, psutil.Process(pid).create_time())

    def process(self) -> psutil.Process | None:
        """Find the process.

        Returns:
            It, when it still runs and is the same one.
        """
        with contextlib.suppress(psutil.Error):
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.created) < 1
            if same and found.status() != psutil.STATUS_ZOMBIE:
                return found
        return None


@dataclass(frozen=True)
class State:
    """What `.nessos/state.json` says.

    Attributes:
        supervisor: Who runs the stack.
        services: What it has started.
        is_ready: Whether everything was healthy.
    """

    supervisor: Record
    services: tuple[Record, ...] = ()
    is_ready: bool = False

    def write(self, home: Path) -> None:
        """Keep it.

        Args:
            home: The stack's folder.
        """
        new = home / "state.json.new"
        new.write_text(json.dumps(asdict(self), indent=2))
        new.rename(home / "state.json")


def read_state(home: Path) -> State | None:
    """Read what was started last.

    Args:
        home: The stack's folder.

    Returns:
        The state; None when there is none, or it is unreadable.
    """
    try:
        raw = json.loads((home / "state.json").read_text())
        return State(
            supervisor=Record(**raw["supervisor"]),
            services=tuple(Record(**one) for one in raw["services"]),
            is_ready=bool(raw["is_ready"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def forget_state(home: Path) -> None:
    """Remove the record: nothing of it runs any more.

    Args:
        home: The stack's folder.
    """
    (home / "state.json").unlink(missing_ok=True)


def is_locked(home: Path) -> bool:
    """Say whether somebody runs the stack.

    Args:
        home: The stack's folder.

    Returns:
        True while its lock is held; the system frees it when the holder dies, however it dies.
    """
    if not (home / "lock").exists():
        return False
    with (home / "lock").open("a") as handle:
        return not _try_lock(handle)


@contextlib.contextmanager
def lock(home: Path) -> Iterator[None]:
    """Be the one who runs the stack, for the length of a block.

    Args:
        home: The stack's folder.

    Yields:
        Nothing.

    Raises:
        StackError: Somebody else is.
    """
    with (home / "lock").open("a") as handle:
        if not _try_lock(handle):
            state = read_state(home)
            who = f" (process {state.supervisor.pid})" if state else ""
            raise StackError(f"the stack is already running{who}", "nessos status, or make down")
        yield


def stop(records: Iterable[Record], *, patience_s: float = 8) -> None:
    """Stop processes and what they started, politely first.

    Args:
        records: Which.
        patience_s: How long the polite way may take.
    """
    processes = [process for process in (record.process() for record in records) if process]
    family = [member for process in processes for member in (process, *_children(process))]
    for process in processes:
        with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
            _signal(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(family, timeout=patience_s)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=2)


def resident_mb(records: Iterable[Record]) -> float:
    """Measure the memory of processes and what they started.

    Args:
        records: Which.

    Returns:
        The sum of their resident sets in MB; shared pages count once per process.
    """
    resident: dict[int, int] = {}
    for record in records:
        if (process := record.process()) is None:
            continue
        for member in (process, *_children(process)):
            with contextlib.suppress(psutil.Error):
                resident[member.pid] = member.memory_info().rss
    return sum(resident.values()) / 1024 / 1024


def _children(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return process.children(recursive=True)
    return []


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    # Each service leads its own group; a process that does not is signalled alone.
    if os.getpgid(process.pid) == process.pid:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)


def _try_lock(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
