"""Which ness.OS a command works on: the one named in the environment, or the local stack."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import SecretStr

from nessos.errors import UsageError
from nessos.local.keys import Keys
from nessos.settings import Settings, load


@dataclass(frozen=True)
class Target:
    """One ness.OS.

    Attributes:
        database_url: Its database.
        supabase_url: Its project.
        publishable_key: The key a frontend uses; empty when not given.
        secret_key: The key that passes row level security; empty when not given.
        encryption_keys: What credentials are encrypted with; empty when not given.
        is_local: Whether it is the stack of this checkout.
    """

    database_url: SecretStr
    supabase_url: str
    publishable_key: SecretStr
    secret_key: SecretStr
    encryption_keys: SecretStr
    is_local: bool


def resolve(settings: Settings | None = None) -> Target:
    """Find the target: DATABASE_URL and its companions if set, else the local stack.

    Args:
        settings: The settings; read from the environment when None.

    Returns:
        The target.

    Raises:
        UsageError: Neither is there.
    """
    settings = settings or load()
    keys = Keys.read(settings.home)
    local_database = keys.owner_url(settings.postgres_port) if keys else None
    local_url = f"http://127.0.0.1:{settings.gateway_port}"
    if settings.database_url and settings.database_url.get_secret_value() != local_database:
        nothing = SecretStr("")
        return Target(
            database_url=settings.database_url,
            supabase_url=settings.supabase_url or "",
            publishable_key=settings.supabase_publishable_key or nothing,
            secret_key=settings.supabase_secret_key or nothing,
            encryption_keys=settings.encryption_keys or nothing,
            is_local=False,
        )
    if keys is None or local_database is None:
        raise UsageError(
            "there is no local stack here and DATABASE_URL is not set",
            "make up, or set the variables of .env.example",
        )
    return Target(
        database_url=SecretStr(local_database),
        supabase_url=local_url,
        publishable_key=keys.publishable,
        secret_key=keys.secret,
        encryption_keys=settings.encryption_keys or keys.encryption,
        is_local=True,
    )
