"""The races there are, by what they are about."""

from tests.races.catalogue import ai, jobs, members, sales, work
from tests.races.race import CATALOGUE

__all__ = ["CATALOGUE", "ai", "jobs", "members", "sales", "work"]
