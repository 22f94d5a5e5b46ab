"""Fixtures: the run's Postgres, a fresh copy of the database per module, and a world of two organisations in it."""

import itertools
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import psycopg
import pytest

from nessos.local import postgres
from nessos.settings import ROOT
from tests import people
from tests.cluster import Server, end_run, new_run_folder
from tests.people import WORLD, Connection, World
from tests.world import create_world

# Plain asserts outside of test files, which have to say what they found; before anybody imports them.
pytest.register_assert_rewrite("tests.races.catalogue")

TEMPLATE, WORLD_TEMPLATE = "nessos_template", "nessos_world"
_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --pg, the major version of Postgres to test on."""
    parser.addoption(
        "--pg", type=int, choices=(16, 18), default=18, help="Postgres to test on (default 18)"
    )


@pytest.fixture(scope="session")
def run_folder() -> Iterator[Path]:
    """The folder of this process's servers, which are stopped at its end."""
    folder = new_run_folder()
    yield folder
    end_run(folder)


def pytest_report_header(config: pytest.Config) -> str:
    """Say which Postgres the run is on."""
    return f"postgres: {config.getoption('--pg')}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Repeat what the slices of the proofs found, a line each."""
    lines = sorted(
        line
        for report in terminalreporter.getreports("passed")
        for name, line in report.user_properties
        if name == "proof"
    )
    if lines:
        terminalreporter.section("proof")
        for line in lines:
            terminalreporter.write_line(str(line))


@pytest.fixture
def proves(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Say in a line, at the end of the run, what a slice of a proof has found."""
    return partial(record_property, "proof")


@pytest.fixture(scope="session")
def pg_version(request: pytest.FixtureRequest) -> Literal[16, 18]:
    """The major version of Postgres this run is on."""
    return 16 if request.config.getoption("--pg") == 16 else 18


@pytest.fixture(scope="session")
def server(run_folder: Path, pg_version: Literal[16, 18]) -> Server:
    """This process's Postgres server."""
    return Server(run_folder, pg_version)


@pytest.fixture(scope="session")
def template(server: Server) -> str:
    """The name of the sealed database as `nessos db push` builds it: no organisation in it."""
    return server.template(TEMPLATE, postgres.build_database)


@pytest.fixture(scope="session")
def world_template(server: Server, template: str) -> str:
    """The name of the sealed database that also holds the world."""
    return server.template(
        WORLD_TEMPLATE,
        lambda cluster, name: create_world(cluster.create_database(name, template=template)),
    )


def clone_of(server: Server, template: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """Give the address of a copy of a template, named after who asked."""
    asker = re.sub(r"\W+", "_", request.node.name.lower())[-30:]
    with server.clone(template, f"t_{next(_numbers)}_{asker}") as url:
        yield url


@pytest.fixture(scope="module")
def db_url(server: Server, world_template: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The owner's connection string of this module's database; what a test commits there stays for the module."""
    yield from clone_of(server, world_template, request)


@pytest.fixture
def own_db_url(
    server: Server, world_template: str, request: pytest.FixtureRequest
) -> Iterator[str]:
    """The connection string of a database that only this test sees."""
    yield from clone_of(server, world_template, request)


@pytest.fixture(scope="module")
def empty_db_url(server: Server, template: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The connection string of a database as deployed: migrated, without the world."""
    yield from clone_of(server, template, request)


@pytest.fixture(scope="session")
def seeded_template(server: Server, template: str) -> str:
    """The name of the sealed database that holds the demo companies."""

    def build(cluster: postgres.Cluster, name: str) -> None:
        url = cluster.create_database(name, template=template)
        with psycopg.connect(url) as connection:
            connection.execute((ROOT / "supabase" / "seed.sql").read_bytes())

    return server.template("nessos_seeded", build)


@pytest.fixture(scope="module")
def seeded_url(
    server: Server, seeded_template: str, request: pytest.FixtureRequest
) -> Iterator[str]:
    """The connection string of this module's database with the demo companies."""
    yield from clone_of(server, seeded_template, request)


@pytest.fixture(scope="module")
def _module_connection(db_url: str) -> Iterator[Connection]:
    with psycopg.connect(db_url) as connection:
        yield connection
        connection.rollback()


@pytest.fixture
def db(_module_connection: Connection) -> Iterator[Connection]:
    """The owner's connection to the module's database; whatever the test does is rolled back at its end."""
    connection: psycopg.Connection[Any] = _module_connection
    people.open_connections.append(connection)
    try:
        yield connection
    finally:
        people.open_connections.remove(connection)
        connection.rollback()


@pytest.fixture(scope="session")
def world() -> World:
    """Two organisations, `a` and `b`, with a member per role and two clients each, and people outside of both."""
    return WORLD
