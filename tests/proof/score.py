"""The mutation score: how many of the rules taken away one by one the suite notices."""

import contextlib

import multiprocessing
import os
import random
import re


import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from typing import Literal

import psycopg
import pytest

from nessos.local import postgres
from nessos.settings import ROOT
from tests import conftest
from tests.cluster import Server, end_run, new_run_folder
from tests.proof import mutations
from tests.proof.mutations import Mutation
from tests.schema.laws import LAWS
from tests.schema.test_laws import EXCEPTIONS
from tests.world import create_world

ACCESS = ("tests/access/test_matrix.py", "tests/access/test_functions.py")
Verdict = Literal["killed", "survived", "invalid"]


@dataclass(frozen=True)
class Result:
    """What became of a mutation; by is the suite that noticed, or why it could not be done."""

    name: str
    verdict: Verdict
    by: str
    seconds: float


class MutatedServer(Server):
    """The process's server, whose clones have one mutation."""

    def __init__(self, server: Server, mutation: Mutation) -> None:
        self.cluster = server.cluster
        self.mutation = mutation

    def template(self, name: str, build: object) -> str:  # noqa: ARG002 - built before the fork
        """Name a template, which the process has built already."""
        return name

    @contextlib.contextmanager
    def clone(self, template: str, name: str) -> Iterator[str]:
        """Give a copy of a template without the rule."""
        with super().clone(template, name) as url:
            with psycopg.connect(url) as db:
                db.execute(self.mutation.statement)  # type: ignore[call-overload]
            yield url


def broken_law(url: str, mutation: Mutation) -> str | None:
    """Return the first law of the catalog that the mutation breaks, and undo it."""
    with psycopg.connect(url) as db:
        db.execute(mutation.statement)  # type: ignore[call-overload]
        broken = next(
            (
                name
                for name, check in LAWS.items()
                if set(check(db)) != set(EXCEPTIONS.get(name, {}))
            ),
            None,
        )
        db.rollback()
    return broken


def suites_of(mutation: Mutation) -> list[list[str]]:
    """Return the test files that could notice, the likeliest first, in groups to run one after the other."""
    named: list[tuple[int, str]] = []
    for path in sorted((ROOT / "tests" / "rules").glob("test_*.py")):
        count = len(re.findall(rf"\b{re.escape(mutation.table)}\b", path.read_text()))
        if count:
            named.append((-count, str(path.relative_to(ROOT))))
    rules = [path for _, path in sorted(named)]
    rest = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "tests" / "rules").glob("test_*.py"))
        if str(path.relative_to(ROOT)) not in rules
    ]
    access = [[path] for path in ACCESS]
    return [*([path] for path in rules), *access, rest]


def _try(server: Server, url: str, mutation: Mutation) -> Result:
    started = time.monotonic()

    def result(verdict: Verdict, by: str = "") -> Result:
        return Result(mutation.name, verdict, by, round(time.monotonic() - started, 1))

    try:
        law = broken_law(url, mutation)
    except psycopg.Error as error:
        return result("invalid", str(error).splitlines()[0])
    if law:
        return result("killed", f"law {law}")
    for suite in suites_of(mutation):
        if suite and not _is_green(server, mutation, suite):
            return result("killed", suite[0] if len(suite) == 1 else "another rule")
    return result("survived")


def _is_green(server: Server, mutation: Mutation, suite: Sequence[str]) -> bool:
    """Run tests in a process of their own, on copies without the rule."""
    child = os.fork()
    if child == 0:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        conftest.Server = lambda *_: MutatedServer(server, mutation)  # type: ignore[misc,assignment]
        code = pytest.main(
            ["-x", "-q", "-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:xdist", *suite]
        )
        os._exit(int(code))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == pytest.ExitCode.OK


def _work(part: Sequence[Mutation], results: "multiprocessing.Queue[Result | None]") -> None:
    folder = new_run_folder()
    try:
        server = Server(folder, 18)
        prepare(server)
        with Server.clone(server, conftest.TEMPLATE, "m_laws") as url:
            for mutation in part:
                results.put(_try(server, url, mutation))
    finally:
        end_run(folder)
        results.put(None)


def prepare(server: Server) -> None:
    """Build the templates that tests clone."""
    server.template(conftest.TEMPLATE, postgres.build_database)
    server.template(
        conftest.WORLD_TEMPLATE,
        lambda cluster, name: create_world(
            cluster.create_database(name, template=conftest.TEMPLATE)
        ),
    )


def catalogue() -> list[Mutation]:
    """Return every mutation of the database as the migrations build it."""
    folder = new_run_folder()
    try:
        server = Server(folder, 18)
        server.template(conftest.TEMPLATE, postgres.build_database)
        with Server.clone(server, conftest.TEMPLATE, "m_list") as url, psycopg.connect(url) as db:
            return mutations.of(db)
    finally:
        end_run(folder)


def run(chosen: Sequence[Mutation], *, processes: int = 2) -> Iterator[Result]:
    """Try mutations in several processes, each with its own server.

    Yields:
        A result per mutation, as they come.
    """
    results: multiprocessing.Queue[Result | None] = multiprocessing.Queue()
    shuffled = random.Random(0).sample(chosen, len(chosen))  # even work for each process
    workers = [
        multiprocessing.Process(target=_work, args=(shuffled[part::processes], results))
        for part in range(processes)
    ]
    for worker in workers:
        worker.start()
    running = len(workers)
    while running:
        result = results.get()
        if result is None:
            running -= 1
        else:
            yield result
    for worker in workers:
        worker.join()
