"""Keys and passwords of the local stack: made once, kept in `.nessos/keys.json`, never logged."""

from __future__ import annotations

import base64
import json
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import SecretStr

from nessos.errors import StackError

if TYPE_CHECKING:
    from pathlib import Path

FILE = "keys.json"
_FIELDS = (
    "publishable", "secret", "jwt", "owner_password", "rest_password", "encryption",
)  # fmt: skip


@dataclass(frozen=True)
class Keys:
    """What the parts of one local stack know each other by.

    Attributes:
        publishable: The key of frontends.
        secret: The key of servers.
        jwt: Signs the sessions of Auth.
        owner_password: Of the database's owner `postgres`.
        rest_password: Of `authenticator`, the role requests to REST arrive as.
        encryption: Encrypts the credentials of organisations; as NESSOS_ENCRYPTION_KEYS.
    """

    publishable: SecretStr
    secret: SecretStr
    jwt: SecretStr
    owner_password: SecretStr
    rest_password: SecretStr
    encryption: SecretStr

    @staticmethod
    def read(home: Path) -> Keys | None:
        """Read the keys.

        Args:
            home: The stack's folder.

        Returns:
            The keys; None when there are none yet.

        Raises:
            StackError: The file is damaged.
        """
        file = home / FILE
        if not file.exists():
            return None
        try:
            values = json.loads(file.read_text())
            return Keys(**{name: SecretStr(str(values[name])) for name in _FIELDS})
        except (ValueError, KeyError, TypeError) as error:
            raise StackError(f"{file} is damaged", f"delete {home} to start afresh") from error

    @staticmethod
    def ensure(home: Path) -> Keys:
        """Read the keys, or make them in a folder without data.

        Args:
            home: The stack's folder.

        Returns:
            The keys.

        Raises:
            StackError: The file is damaged, or lost beside data that need it.
        """
        found = Keys.read(home)
        if found:
            return found
        if (home / "data" / "PG_VERSION").exists():
            raise StackError(
                f"{home / FILE} is lost, and the data beside it cannot be opened without",
                f"restore it, or delete {home} to start afresh",
            )
        values = {
            "publishable": f"sb_publishable_{secrets.token_urlsafe(24)}",
            "secret": f"sb_secret_{secrets.token_urlsafe(24)}",
            "jwt": secrets.token_hex(32),
            "owner_password": secrets.token_hex(16),
            "rest_password": secrets.token_hex(16),
            "encryption": base64.b64encode(secrets.token_bytes(32)).decode(),
        }
        handle = os.open(home / f"{FILE}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            json.dump(values, file, indent=2)
        (home / f"{FILE}.new").rename(home / FILE)
        return Keys(**{name: SecretStr(value) for name, value in values.items()})

    def owner_url(self, port: int) -> str:
        """Give the database's address for its owner.

        Args:
            port: Where it listens.

        Returns:
            A URL with the password.
        """
        secret = self.owner_password.get_secret_value()
        return f"postgresql://postgres:{secret}@127.0.0.1:{port}/postgres"

    def rest_url(self, port: int) -> str:
        """Give the database's address for requests to REST.

        Args:
            port: Where it listens.

        Returns:
            A URL with the password.
        """
        secret = self.rest_password.get_secret_value()
        return f"postgresql://authenticator:{secret}@127.0.0.1:{port}/postgres"
