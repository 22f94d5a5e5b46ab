"""Every error this package raises on purpose, and what the command line makes of it.

NessosError
├── UsageError                 the command was called wrongly (exit code 2)
├── PartialError               some of the work was done, some not (exit code 3)
├── StackError                 a part of the local stack cannot start or stop
├── CredentialsError           stored credentials cannot be opened
├── DatabaseError              the database cannot be reached or lacks something
│   └── RuleError              a rule of the database refused (SQLSTATE PT4xx)
└── UpstreamError              a service outside ness.OS failed
    ├── RetryError             try again, with back-off
    ├── WaitError              try again, not before a moment
    └── GiveUpError            trying again cannot help
        ├── NoProviderError    no provider of a language model is set up
        ├── BudgetError        the budget for language models is used up
        ├── RoutesDownError    every provider of a language model has failed
        └── AnswerError        a model answers, but not what was asked of it
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    import psycopg


class NessosError(Exception):
    """An expected failure: one line saying what, and the way out.

    Args:
        message: What happened, without a full stop.
        way_out: What the reader does about it.
    """

    exit_code = 1

    def __init__(self, message: str, way_out: str | None = None) -> None:
        self.message = message
        self.way_out = way_out
        super().__init__(message)

    def __str__(self) -> str:
        return f"{self.message} → {self.way_out}" if self.way_out else self.message


class UsageError(NessosError):
    """The command was called wrongly."""

    exit_code = 2


class PartialError(NessosError):
    """Some of the work was done and some was not."""

    exit_code = 3


class StackError(NessosError):
    """A part of the local stack cannot start or stop."""


class CredentialsError(NessosError):
    """Stored credentials cannot be opened: the key is not here, or the row was tampered with."""


class DatabaseError(NessosError):
    """The database cannot be reached, or lacks what was asked of it."""


class RuleError(DatabaseError):
    """A rule of the database refused the act (SQLSTATE `PT4xx`).

    Args:
        key: The stable key, one of `app.error_keys`.
        detail: The facts.
        hint: The way out.
        status: The HTTP status the same refusal has over REST.
    """

    def __init__(self, key: str, detail: str | None, hint: str | None, status: int = 400) -> None:
        self.key = key
        self.detail = detail
        self.hint = hint
        self.status = status
        super().__init__(f"{key}: {detail}" if detail else key, hint)


class UpstreamError(NessosError):
    """A service outside ness.OS failed.

    Attributes:
        is_uncertain: Whether the service may have done what was asked all the same.
    """

    is_uncertain = False


class RetryError(UpstreamError):
    """The same call may succeed later: try again with back-off."""


class WaitError(UpstreamError):
    """The service named a moment before which there is no use in trying.

    Args:
        message: What the service said.
        until: The moment, with a time zone.
        is_account_wide: Whether it means every call of the account, and so opens its circuit until
            then; else only the call that was made.
    """

    def __init__(self, message: str, until: datetime, *, is_account_wide: bool = True) -> None:
        self.until = until
        self.is_account_wide = is_account_wide
        super().__init__(message, f"try again after {until.isoformat(timespec='seconds')}")


class GiveUpError(UpstreamError):
    """The call is wrong or forbidden: trying again cannot help."""


class NoProviderError(GiveUpError):
    """No provider of a language model is set up for what was asked."""


class BudgetError(GiveUpError):
    """The budget for language models is used up; nothing was sent."""


class RoutesDownError(GiveUpError):
    """Every provider of a language model has failed; the admins have been told."""


class AnswerError(GiveUpError):
    """A language model answers, but not in the form that was asked of it."""


def from_psycopg(error: psycopg.Error) -> DatabaseError:
    """Translate what psycopg raised.

    Args:
        error: The driver's error.

    Returns:
        A `RuleError` for SQLSTATE `PT4xx`, else a `DatabaseError` with the server's first line, and
        the state unless the value that was given is at fault.
    """
    diag = error.diag
    state = error.sqlstate or ""
    message = diag.message_primary or str(error).strip().partition("\n")[0] or type(error).__name__
    if state.startswith("PT4") and state[2:].isdigit():
        return RuleError(message, diag.message_detail, diag.message_hint, int(state[2:]))
    if not state:
        return DatabaseError(
            f"the database does not answer: {message}",
            "check DATABASE_URL, or start the local stack with make up",
        )
    if state.startswith("22"):  # a value that is none of its type
        return DatabaseError(message, diag.message_hint)
    return DatabaseError(f"{message} (SQLSTATE {state})", diag.message_hint)
