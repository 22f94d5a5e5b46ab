"""The mutation score: how many of the rules of the database, taken away one by one, the suite notices.

What looks at the catalog or at rows inside one transaction is asked first: the laws, the refusals of checks, the callers of
functions. What none of them notices is tried by the tests that name its table, in a process of their own, on copies of the
database that lack the rule.
"""

import contextlib
import functools
import multiprocessing
import random
import re
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
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
from tests.proof.prepared import PreparedServer, prepare, run_tests
from tests.proof.section import Run, Section, Table
from tests.rules import audit, refusals
from tests.schema.laws import LAWS
from tests.schema.test_laws import EXCEPTIONS

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
    chosen = [mutation for mutation in catalogue() if run.only in mutation.name]
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
    killers = Counter(
        result.by.partition(": ")[0] for result in results if result.verdict == "killed"
    )
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
            f"{result.verdict}: {result.mutation.name} {result.by} ({result.mutation.statement});"
            f" again: python -m tests.proof mutations --only '{result.mutation.target}'"
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
    verdict, by = _judge(server, stage, mutation)
    return Result(mutation, verdict, by, round(time.monotonic() - started, 1))


def _judge(server: Server, stage: Stage, mutation: Mutation) -> tuple[Verdict, str]:
    if mutation.name in EQUIVALENT:
        return "equivalent", EQUIVALENT[mutation.name]
    with psycopg.connect(stage.url) as db:
        try:
            db.execute(mutation.statement.encode())
        except psycopg.errors.UniqueViolation:
            # Rows of the suite's two organisations hold the same value: they would not any more.
            is_theirs = mutation.kind == "unique without tenant"
            return ("killed", "rows of two organisations") if is_theirs else ("invalid", "")
        except psycopg.Error as error:
            return "invalid", str(error).splitlines()[0]
        noticed = next((by for look in WITNESSES if (by := look(db, mutation, stage))), None)
        db.rollback()
    return ("killed", noticed) if noticed else _judge_by_tests(server, mutation)


def _judge_by_tests(server: Server, mutation: Mutation) -> tuple[Verdict, str]:
    for suite in suites_of(mutation):
        code = _run(server, mutation, suite)
        if code == pytest.ExitCode.TESTS_FAILED and _run(server, NEUTRAL, suite) == 0:
            return "killed", suite
        if code != pytest.ExitCode.OK:
            return "invalid", f"{suite} ends with exit code {code}"
    return "survived", ""


# Changes nothing: whoever notices it notices anything.
NEUTRAL: Final = Mutation(
    "none", "none", "clients", "comment on table public.clients is '[contracts] .'"
)


def _law(db: Connection, mutation: Mutation, stage: Stage) -> str | None:
    del mutation, stage
    broken = (
        name for name, check in LAWS.items() if set(check(db)) != set(EXCEPTIONS.get(name, {}))
    )
    return next((f"law: {name.replace('_', ' ')}" for name in broken), None)


def _refusal(db: Connection, mutation: Mutation, stage: Stage) -> str | None:
    del stage
    if mutation.kind != "drop check":
        return None
    table, _, name = mutation.target.rpartition(".")
    return "a refusal" if refusals.accepted(db, refusals.Check(table, name)) else None


def _audit(db: Connection, mutation: Mutation, stage: Stage) -> str | None:
    del stage
    is_missed = mutation.kind == "drop audit" and audit.unrecorded(db, mutation.table)
    return "what is audited" if is_missed else None


def _roles(db: Connection, mutation: Mutation, stage: Stage) -> str | None:
    del stage
    is_wrong = mutation.table == "role_permissions" and test_roles.deviations(db)
    return "the matrix of roles" if is_wrong else None


def _callers(db: Connection, mutation: Mutation, stage: Stage) -> str | None:
    del stage
    is_called = mutation.kind == "grant execute" and any(
        test_functions.wrong_callers(db, function)
        for schema in ("public", "app")
        for function in test_functions.functions(db, schema)
        if function.signature == mutation.table
    )
    return "who may call a function" if is_called else None


def _cell(db: Connection, mutation: Mutation, stage: Stage) -> str | None:
    """Execute every cell of the matrix that lies in the mutation's relation."""
    if mutation.kind not in OF_ACCESS:
        return None
    matrix = Matrix(db)
    matrix.rows.made = stage.made
    for relation in matrix.relations:
        if relation.name != mutation.table:
            continue
        for actor in ACTORS:
            with db.transaction(force_rollback=True):
                matrix.make_mine(actor)
                if any(cell(matrix, relation, actor) for cell in CELLS.values()):
                    return "a cell of the access matrix"
    return None


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
# The quickest first.
WITNESSES: Final = (_law, _refusal, _callers, _roles, _audit, _cell)


@functools.cache
def _sources() -> dict[str, str]:
    folders = ("rules", "knowledge", "access")
    in_place = ("test_refusals.py", "test_audit.py", "test_matrix.py", "test_functions.py")
    return {
        str(path.relative_to(ROOT)): path.read_text()
        for folder in folders
        for path in sorted((ROOT / "tests" / folder).glob("test_*.py"))
        if path.name not in in_place
    }


def suites_of(mutation: Mutation) -> list[str]:
    """Return up to six test files: first those called like what a trigger does, then by how often they name the table."""
    name = mutation.table.rpartition(".")[2]
    words = set(re.findall(r"[a-z]+", mutation.function.removeprefix("app.")))
    ranks = {
        path: (
            bool(words & set(re.findall(r"[a-z]+", Path(path).stem))),
            len(re.findall(rf"\b{re.escape(name)}\b", text)),
        )
        for path, text in _sources().items()
    }
    named = [path for path, rank in ranks.items() if any(rank)]
    return sorted(named, key=lambda path: ranks[path], reverse=True)[:6]


class MutatedServer(PreparedServer):
    """A prepared server whose clones have one mutation."""

    def __init__(self, server: Server, mutation: Mutation) -> None:
        super().__init__(server)
        self.mutation = mutation

    @contextlib.contextmanager
    def clone(self, template: str, name: str) -> Iterator[str]:
        """Give a copy of a template without the rule."""
        with super().clone(template, name) as url:
            with psycopg.connect(url) as db:
                db.execute(self.mutation.statement.encode())
            yield url


def _run(server: Server, mutation: Mutation, suite: str) -> int:
    """Run tests on copies without the rule; gives pytest's exit code."""
    return run_tests(MutatedServer(server, mutation), suite)
