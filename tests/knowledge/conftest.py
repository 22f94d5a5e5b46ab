"""Fixtures of the tests of knowledge."""

from tests.integrations.conftest import no_backoff

__all__ = ["no_backoff"]
