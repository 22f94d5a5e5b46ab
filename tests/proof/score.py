"""The mutation score: how many of the rules of the database, taken away one by one, the suite notices.

What looks at the catalog or at rows inside one transaction is asked first: the laws, the refusals of checks, the callers of
functions. What none of them notices is tried by the tests that name its table, in a process of their own, on copies of the
database that lack the rule.
"""

import contextlib
import functools
import multiprocessing
import os
import random
import re
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import psycopg
import pytest

from nessos.local import postgres
from nessos.settings import ROOT
from tests import conftest
from tests.access import test_functions, test_roles
from tests.access.actors import ACTORS
from tests.access.cells import CELLS
from tests.access.matrix import PLACES, Matrix
from tests.access.rows import Rows
from tests.cluster import Server, end_run, new_run_folder
from tests.people import Connection
from tests.proof import mutations
from tests.proof.mutations import Mutation
from tests.proof.section import Run, Section, Table
from tests.rules import audit, refusals
from tests.schema.laws import LAWS
from tests.schema.test_laws import EXCEPTIONS
from tests.world import create_world

Verdict = Literal["killed", "survived", "invalid", "equivalent"]
FLOOR: Final = 0.99
# Mutations that change nothing anybody could see, each with its reason.
EQUIVALENT: Final[dict[str, str]] = tomllib.loads(
    Path(__file__).with_name("equivalent.toml").read_text()
)


@dataclass(frozen=True)
class Result:
    """What became of a mutation; by is who noticed it, or why it could not be done."""

    mutation: Mutation
    verdict: Verdict
    by: str
    seconds: float


def prove(run: Run) -> Section:
    """Try every mutation of the database as the migrations build it."""
    chosen = catalogue()
    results: list[Result] = []
    for result in score(chosen, run.processes):
        results.append(result)
        if result.verdict in {"survived", "invalid"}:
            run.say(f"  {result.verdict}: {result.mutation.name} {result.by}")
        if len(results) % 100 == 0:
            run.say(f"  {len(results):,} of {len(chosen):,}")
    return section(results)


def section(results: Sequence[Result]) -> Section:
    """Say how many were noticed, by kind and by whom, and which were not."""
    count = Counter(result.verdict for result in results)
    applied = count["killed"] + count["survived"]
    value = count["killed"] / applied if applied else 0
    kinds: dict[str, Counter[str]] = {}
    for result in results:
        kinds.setdefault(result.mutation.kind, Counter())[result.verdict] += 1
    killers = Counter(result.by for result in results if result.verdict == "killed")
    order = ("killed", "survived", "equivalent", "invalid")
    return Section(
        title="Mutation score of the database's rules",
        summary=f"{count['killed']:,} of {applied:,} mutations noticed: {value:.2%};"
        f" {count['equivalent']} equivalent, {count['invalid']} could not be applied",
        is_kept=value >= FLOOR and not count["invalid"],
        tables=(
            Table(
                caption="By kind",
                columns=("kind", *order),
                rows=tuple((kind, *(by[one] for one in order)) for kind, by in kinds.items()),
            ),
            Table(
                caption="By who noticed",
                columns=("who", "noticed"),
                rows=tuple(killers.most_common()),
            ),
        ),
        failures=tuple(
            f"{result.verdict}: {result.mutation.name} {result.by} ({result.mutation.statement})"
            for result in results
            if result.verdict in {"survived", "invalid"}
        ),
    )


def catalogue() -> list[Mutation]:
    """Return every mutation of the database as the migrations build it."""
    folder = new_run_folder()
    try:
        server = Server(folder, 18)
        server.template(conftest.TEMPLATE, postgres.build_database)
        with server.clone(conftest.TEMPLATE, "m_list") as url, psycopg.connect(url) as db:
            return mutations.of(db)
    finally:
        end_run(folder)


def score(chosen: Sequence[Mutation], processes: int) -> Iterator[Result]:
    """Try mutations in several processes, each with its own server.

    Yields:
        A result per mutation, as they come.
    """
    results: multiprocessing.Queue[Result | None] = multiprocessing.Queue()
    shuffled = random.Random(0).sample(chosen, len(chosen))  # noqa: S311 - even work for each
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


def _work(part: Sequence[Mutation], results: "multiprocessing.Queue[Result | None]") -> None:
    folder = new_run_folder()
    try:
        server = Server(folder, 18)
        prepare(server)
        with filled(server) as stage:
            for mutation in part:
                results.put(attempt(server, stage, mutation))
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


@dataclass(frozen=True)
class Stage:
    """A database with rows in every tenant table, and which those are."""

    url: str
    made: dict[tuple[str, str], dict[str, Any]]


@contextlib.contextmanager
def filled(server: Server) -> Iterator[Stage]:
    """Give a database with rows in every tenant table."""
    with server.clone(conftest.WORLD_TEMPLATE, "m_filled") as url:
        with psycopg.connect(url) as db:
            rows = Rows(db)
            for place in PLACES:
                rows.fill(place)
        yield Stage(url, rows.made)


def attempt(server: Server, stage: Stage, mutation: Mutation) -> Result:
    """Take a rule away and see who notices.

    Args:
        server: Holds the templates of `prepare`.
        stage: Of `filled`; left as it is.
        mutation: What to do.
    """
    started = time.monotonic()

    def result(verdict: Verdict, by: str = "") -> Result:
        return Result(mutation, verdict, by, round(time.monotonic() - started, 1))

    if mutation.name in EQUIVALENT:
        return result("equivalent", EQUIVALENT[mutation.name])
    try:
        noticed = _in_place(stage, mutation)
    except psycopg.errors.UniqueViolation:  # a unique that spans tenants
        return result("killed", "rows of two organisations")
    except psycopg.Error as error:
        return result("invalid", str(error).splitlines()[0])
    if noticed:
        return result("killed", noticed)
    for suite in suites_of(mutation):
        if not _is_green(server, mutation, suite):
            return result("killed", suite)
    return result("survived")


def _in_place(stage: Stage, mutation: Mutation) -> str | None:
    """Return who notices the mutation inside one transaction, which is undone."""
    with psycopg.connect(stage.url) as db:
        db.execute(mutation.statement.encode())
        noticed = next(
            (name for name, notices in WITNESSES.items() if notices(db, mutation, stage)), None
        )
        db.rollback()
    return noticed


def _breaks_a_law(db: Connection, mutation: Mutation, stage: Stage) -> bool:
    del mutation, stage
    return any(set(check(db)) != set(EXCEPTIONS.get(name, {})) for name, check in LAWS.items())


def _is_not_refused(db: Connection, mutation: Mutation, stage: Stage) -> bool:
    del stage
    if mutation.kind != "drop check":
        return False
    table, _, name = mutation.target.rpartition(".")
    return refusals.accepted(db, refusals.Check(table, name)) is not None


def _is_unrecorded(db: Connection, mutation: Mutation, stage: Stage) -> bool:
    del stage
    return mutation.kind == "drop audit" and bool(audit.unrecorded(db, mutation.table))


def _deviates_from_the_documents(db: Connection, mutation: Mutation, stage: Stage) -> bool:
    del stage
    return mutation.table == "role_permissions" and bool(test_roles.deviations(db))


def _reaches_other_rows(db: Connection, mutation: Mutation, stage: Stage) -> bool:
    """Execute every cell of the matrix that lies in the mutation's relation."""
    if mutation.kind not in OF_ACCESS:
        return False
    matrix = Matrix(db)
    matrix.rows.made = stage.made
    for relation in matrix.relations:
        if relation.name != mutation.table:
            continue
        for actor in ACTORS:
            with db.transaction(force_rollback=True):
                matrix.make_mine(actor)
                if any(cell(matrix, relation, actor) for cell in CELLS.values()):
                    return True
    return False


def _is_called_by_others(db: Connection, mutation: Mutation, stage: Stage) -> bool:
    del stage
    return mutation.kind == "grant execute" and any(
        test_functions.wrong_callers(db, function)
        for schema in ("public", "app")
        for function in test_functions.functions(db, schema)
        if function.signature == mutation.table
    )


OF_ACCESS: Final = frozenset(
    (
        "drop policy",
        "using true",
        "with check true",
        "using without tenant",
        "with check without tenant",
        "grant",
        "no row level security",
        "security_invoker off",
    )
)
WITNESSES: Final[dict[str, Callable[[Connection, Mutation, Stage], bool]]] = {
    "a law of the catalog": _breaks_a_law,
    "a refusal of a check": _is_not_refused,
    "who may call a function": _is_called_by_others,
    "the matrix of roles": _deviates_from_the_documents,
    "what is audited": _is_unrecorded,
    "a cell of the access matrix": _reaches_other_rows,
}


@functools.cache
def _sources() -> dict[str, str]:
    folders = ("rules", "access", "knowledge")
    return {
        str(path.relative_to(ROOT)): path.read_text()
        for folder in folders
        for path in sorted((ROOT / "tests" / folder).glob("test_*.py"))
    }


def suites_of(mutation: Mutation) -> list[str]:
    """Return the test files that could notice: those that name its table most often, then those of access."""
    name = mutation.table.rpartition(".")[2]
    named = {
        path: count
        for path, text in _sources().items()
        if (count := len(re.findall(rf"\b{re.escape(name)}\b", text)))
    }
    access = [path for path in ACCESS if path not in named]
    return [*sorted(named, key=lambda path: -named[path]), *access]


ACCESS: Final = ("tests/access/test_matrix.py", "tests/access/test_membership.py")


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
                db.execute(self.mutation.statement.encode())
            yield url


def _is_green(server: Server, mutation: Mutation, suite: str) -> bool:
    """Run tests in a process of their own, on copies without the rule."""
    child = os.fork()
    if child == 0:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        setattr(conftest, "Server", lambda *_: MutatedServer(server, mutation))  # noqa: B010 - seen by the fixture
        options = ["-x", "-q", "-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:xdist"]
        os._exit(int(pytest.main([*options, suite])))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == pytest.ExitCode.OK
