"""Supabase clients: where the caller acts as a person, or as the server, over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nessos.target import Target
    from supabase import Client


def visitor(target: Target) -> Client:
    """Make a client that is nobody until it signs in.

    Args:
        target: The project.

    Returns:
        A client with the publishable key.
    """
    from supabase import create_client  # noqa: PLC0415 - heavy, and most commands do without

    return create_client(target.supabase_url, target.publishable_key.get_secret_value())


def server(target: Target) -> Client:
    """Make a client that passes row level security.

    Args:
        target: The project.

    Returns:
        A client with the secret key.
    """
    from supabase import create_client  # noqa: PLC0415 - heavy, and most commands do without

    return create_client(target.supabase_url, target.secret_key.get_secret_value())
