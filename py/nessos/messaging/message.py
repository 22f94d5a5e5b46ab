"""What a channel is given, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from nessos.errors import GiveUpError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID

    from pydantic import SecretStr

    from nessos.http import Http

    Credentials = Mapping[str, SecretStr]


@dataclass(frozen=True)
class Message:
    """One message to one person on one channel.

    Attributes:
        org_id: The organisation it is sent for.
        attempt_id: Its name in `notification_attempts`, the same at every try.
        address: Phone in E.164 form, or e-mail address.
        template: What it tells, for the provider's statistics.
        text: The words.
        subject: The line above them; e-mail only.
        html: The same words laid out; e-mail only.
        first_tried_at: When the first try began.
    """

    org_id: UUID
    attempt_id: UUID
    address: str
    template: str
    text: str
    first_tried_at: datetime
    subject: str = ""
    html: str = ""


class RefusedError(GiveUpError):
    """The channel will never carry the message.

    Args:
        error_key: Why: one of the keys of `notification_attempts.error_key`.
        message: What the provider said.
        undeliverable: Why the address is not to be used again, if so: a reason of
            `undeliverable_addresses`.
    """

    def __init__(self, error_key: str, message: str, undeliverable: str | None = None) -> None:
        self.error_key = error_key
        self.undeliverable = undeliverable
        super().__init__(message)


@dataclass(frozen=True)
class SentMessage:
    """A message a provider has taken, as it speaks of it.

    Attributes:
        org_id: The organisation it was sent for.
        channel: The channel it went by.
        message_id: The provider's name for it.
        address: Phone in E.164 form, or e-mail address; empty where the provider does not say.
        attempt_id: Our own name for it, where the provider hands it back.
    """

    org_id: UUID
    channel: str
    message_id: str
    address: str = ""
    attempt_id: UUID | None = None


@dataclass(frozen=True)
class Receipt:
    """What became of a message.

    Attributes:
        status: The status of `notification_attempts` it has reached; None where it only tells
            something about the address.
        error_key: Why it failed.
        detail: What the provider said of the failure.
        undeliverable: As of `RefusedError`.
    """

    status: str | None
    error_key: str | None = None
    detail: str | None = None
    undeliverable: str | None = None


class Channel(Protocol):
    """A service that carries messages."""

    async def send(self, http: Http, credentials: Credentials, message: Message) -> str | None:
        """Send a message.

        Args:
            http: The client for services outside.
            credentials: The organisation's, by field.
            message: The message.

        Returns:
            The provider's name for it; None where it does not say.

        Raises:
            RefusedError: The provider will never take it.
            RetryError: The provider failed; `is_uncertain` says whether it may have sent it.
            WaitError: The same; not before a moment.
        """
        ...

    async def find(self, http: Http, credentials: Credentials, message: Message) -> list[str]:
        """Look whether an earlier try, whose end nobody knows, has sent the message.

        Args:
            http: The client for services outside.
            credentials: The organisation's, by field.
            message: The message.

        Returns:
            The provider's names for what it has sent since the first try to this address in these
            words; none when nothing was sent, or sending again is safe.

        Raises:
            RefusedError: Nobody can say any more, or the provider does not answer such questions.
            RetryError: The provider failed.
            WaitError: The same; not before a moment.
        """
        ...

    async def ask(self, http: Http, credentials: Credentials, sent: SentMessage) -> Receipt | None:
        """Ask what became of a message.

        Args:
            http: The client for services outside.
            credentials: The organisation's, by field.
            sent: The message.

        Returns:
            What the provider knows; None when that is nothing new.

        Raises:
            RefusedError: The provider does not know it.
            RetryError: The provider failed.
            WaitError: The same; not before a moment.
        """
        ...
