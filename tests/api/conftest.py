"""Fixtures: the real gateway on a clone of the database, once per worker."""

import os
from collections.abc import Iterator

import psycopg
import pytest

from tests.api.stack import Api, Company, Running
from tests.cluster import Server


@pytest.fixture(scope="session")
def running(server: Server, world_template: str) -> Iterator[Running]:
    """The parts of the stack, on a database that all API tests of this worker share."""
    name = f"t_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}_api"
    with (
        server.clone(world_template, name) as url,
        Running(url, server.cluster.url(name, user="authenticator")) as parts,
    ):
        yield parts


@pytest.fixture(scope="session")
def api(running: Running) -> Iterator[Api]:
    """The gateway, and the owner's connection to its database."""
    running.start("gateway")
    with psycopg.connect(running.database_url, autocommit=True) as db:
        yield running.api(db)


@pytest.fixture(scope="module")
def functions(running: Running, api: Api) -> Iterator[Api]:
    """The gateway with the functions server behind it."""
    running.start("functions")
    yield api
    running.stop("functions")


@pytest.fixture
def company(api: Api) -> Company:
    """An organisation of this test alone, founded over HTTP."""
    return api.company()
