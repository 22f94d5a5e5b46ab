"""The ledger of calls: what a request may cost is reserved before it is sent, and settled after."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

from psycopg.types.json import Jsonb

from nessos.ai.draft import BYTES_PER_TOKEN, Bill
from nessos.db import translated
from nessos.errors import BudgetError, UpstreamError, WaitError

if TYPE_CHECKING:
    from nessos.http import Provider
    from nessos.jobs.entrypoint import Pool

_BEGIN: Final = "select * from app.begin_ai_call(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
_SETTLE: Final = "select app.settle_ai_call(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) as cost"
_TELL: Final = "select app.tell_ai_failure(%s, %s, %s)"


class PendingError(WaitError):
    """Another call has to end first."""


@dataclass
class Booking:
    """One request in the ledger.

    Attributes:
        id: Its row in `public.ai_calls`.
        org_id: For whom.
        is_masking: Whether the provider sees stand-ins.
        estimate: Tokens of the prompt, where the provider does not count.
        bill: What it has used.
        model: Who served it.
        request_id: The provider's name for it.
    """

    id: UUID
    org_id: UUID
    is_masking: bool
    estimate: int
    bill: Bill = field(default_factory=Bill)
    model: str | None = None
    request_id: str | None = None
    _began_at: float = field(default_factory=time.monotonic)

    @property
    def latency_ms(self) -> int:
        """Milliseconds since the reservation."""
        return round((time.monotonic() - self._began_at) * 1000)


@dataclass(frozen=True)
class Ledger:
    """The ledger.

    Attributes:
        pool: Connections to the database.
    """

    pool: Pool

    async def begin(  # noqa: PLR0913 - a row of the ledger
        self,
        *,
        provider: Provider,
        model: str,
        org_id: UUID,
        agent_id: UUID | None,
        purpose: str,
        size: int,
        max_tokens: int,
        key: str | None,
        input_: list[dict[str, Any]] | None,
    ) -> Booking | dict[str, Any]:
        """Reserve what a request may cost.

        Args:
            provider: The provider.
            model: The model asked.
            org_id: For whom.
            agent_id: The agent that asks.
            purpose: What for.
            size: Bytes of what is sent.
            max_tokens: The answer's greatest length.
            key: The idempotency key.
            input_: What is sent, redacted.

        Returns:
            The booking; or the answer there is already for the key.

        Raises:
            BudgetError: The budget is used up.
            WaitError: It may be, when the calls under way have ended.
        """
        call_id = uuid4()
        lease_s = provider.attempts * (provider.timeout_s + 2 * provider.max_wait_s) + 5
        estimate = size // BYTES_PER_TOKEN + 1
        with translated():
            async with self.pool.connection() as connection:
                cursor = await connection.execute(
                    _BEGIN,
                    (
                        org_id, call_id, purpose, provider.name, model, agent_id,
                        provider.attempts * size, estimate, provider.attempts * max_tokens,
                        lease_s, key,
                        Jsonb(input_) if input_ is not None else None,
                    ),
                )  # fmt: skip
                row = await cursor.fetchone()
        if row is None:
            raise AssertionError("app.begin_ai_call gives a row")
        match row["verdict"]:
            case "done":
                return dict(row["reply"])
            case "limit":
                raise BudgetError(
                    f"the budget for language models is used up: {row['reason']}",
                    "raise it with nessos ai budget set, or wait for the next period",
                )
            case "wait":
                until = datetime.now(UTC) + timedelta(seconds=float(row["wait_s"]))
                raise PendingError(f"language models: {row['reason']}", until)
            case _:
                return Booking(call_id, org_id, row["is_masking"], estimate)

    async def settle(
        self, booking: Booking, status: str, output: object, error: str | None = None
    ) -> Decimal:
        """Book what a request has cost.

        Args:
            booking: The request.
            status: As `public.ai_calls` has it.
            output: The answer, redacted.
            error: What it failed for.

        Returns:
            The cost in BRL.
        """
        bill = booking.bill
        with translated():
            async with self.pool.connection() as connection:
                cursor = await connection.execute(
                    _SETTLE,
                    (
                        booking.org_id, booking.id, status, booking.model, booking.request_id,
                        bill.prompt, bill.cached, bill.completion, bill.is_estimated,
                        booking.latency_ms,
                        Jsonb(output) if output is not None else None, error,
                    ),
                )  # fmt: skip
                row = await cursor.fetchone()
        return Decimal(row["cost"]) if row and row["cost"] is not None else Decimal(0)

    async def fail(self, booking: Booking, error: BaseException) -> Decimal:
        """Book a request that has failed.

        Args:
            booking: The request.
            error: What for.

        Returns:
            What it has cost all the same, in BRL.
        """
        message = error.message if isinstance(error, UpstreamError) else type(error).__name__
        return await self.settle(booking, "failed", None, message)

    async def tell(self, org_id: UUID, template: str, subject: str) -> None:
        """Tell the admins of a failure, once a day.

        Args:
            org_id: Whose.
            template: `ai_unavailable` or `ai_quota_exhausted`.
            subject: Purpose, or provider.
        """
        with translated():
            async with self.pool.connection() as connection:
                await connection.execute(_TELL, (org_id, template, subject))
