"""Servers whose templates are built before anybody asks, and tests run on them in a process of their own."""

import os

import pytest

from nessos.local import postgres
from tests import conftest
from tests.cluster import Server
from tests.world import create_world


def prepare(server: Server) -> None:
    """Build the templates that tests clone."""
    server.template(conftest.TEMPLATE, postgres.build_database)
    server.template(
        conftest.WORLD_TEMPLATE,
        lambda cluster, name: create_world(
            cluster.create_database(name, template=conftest.TEMPLATE)
        ),
    )


class PreparedServer(Server):
    """A running server that holds the templates already."""

    def __init__(self, server: Server) -> None:
        self.cluster = server.cluster

    def template(self, name: str, build: object) -> str:  # noqa: ARG002 - it is built
        """Name a template."""
        return name


def run_tests(server: PreparedServer, *paths: str) -> int:
    """Run test files on a server in a process of their own.

    Args:
        server: What they take for the server of their run.
        paths: The files.

    Returns:
        The exit code of pytest.
    """
    child = os.fork()
    if child == 0:
        setattr(conftest, "Server", lambda *_: server)  # noqa: B010 - seen by the fixture
        quiet = ("-x", "-o", "addopts=", "-p", "no:terminal", "-p", "no:cacheprovider")
        os._exit(int(pytest.main([*quiet, "-p", "no:xdist", *paths])))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)
