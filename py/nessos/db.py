"""The direct door to the database: psycopg 3, with our errors."""

from __future__ import annotations

import json
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads

from nessos.errors import from_psycopg

if TYPE_CHECKING:
    from collections.abc import Iterator

APPLICATION = "nessos"
"""Prefix of `application_name`: `nessos worker`, `nessos cron`, … are found by it."""

KEEPALIVE: Final[dict[str, Any]] = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}
"""For connections that last: a peer that has vanished without a word is noticed after 25 s."""


@contextmanager
def translated() -> Iterator[None]:
    """Raise our errors instead of psycopg's inside the block.

    Yields:
        Nothing.

    Raises:
        DatabaseError: The database refused or does not answer.
    """
    try:
        yield
    except psycopg.Error as error:
        raise from_psycopg(error) from error


@contextmanager
def connect(
    url: str, *, name: str = "cli", timeout_s: int = 10, autocommit: bool = True
) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    """Open a connection for the length of a block.

    Rows come as dictionaries, fractions inside JSON as Decimal.

    Args:
        url: The database.
        name: What connects; seen in `pg_stat_activity`.
        timeout_s: How long to wait for the server.
        autocommit: Whether each statement is its own transaction.

    Yields:
        The connection.

    Raises:
        DatabaseError: The database refused or does not answer.
    """
    with (
        translated(),
        psycopg.connect(
            url,
            autocommit=autocommit,
            connect_timeout=timeout_s,
            application_name=f"{APPLICATION} {name}",
            row_factory=dict_row,
        ) as connection,
    ):
        set_json_loads(partial(json.loads, parse_float=Decimal), connection)
        yield connection
