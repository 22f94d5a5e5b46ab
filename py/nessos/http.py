"""One client for every service outside: patient, polite, and of one mind with all other processes.

Providers only declare their numbers. What all processes must agree on is kept in Postgres and asked
in one statement before a call and one after it: the circuit breaker of the account (five failures
open it for 60 seconds, then one probe decides), its rates, who calls one at a time, and the log of
calls. Both statements are their own transactions, so that poolers of any kind may stand between.

No address, header or body is logged: keys travel in them.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID, uuid4

import httpx
import psycopg
import stamina
import structlog
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

from nessos import __version__
from nessos.db import translated
from nessos.errors import GiveUpError, RetryError, UpstreamError, WaitError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from nessos.jobs.entrypoint import Pool

Answer = TypeVar("Answer")

log: structlog.stdlib.BoundLogger = structlog.get_logger("nessos.http")

RETRYABLE: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
"""Methods of which a second call does no more than the first (RFC 9110, 9.2.2)."""

_LEASE_MARGIN_S: Final = 5.0
"""Between the moment a call gives up and the moment others may count it as lost."""

_CONNECT_S: Final = 10.0
_LONGEST_OPERATION: Final = 100
_REQUEST_TIMEOUT, _TOO_EARLY, _TOO_MANY = 408, 425, 429
_NOT_MODIFIED: Final = 304
_BEGIN: Final = "select verdict, wait_s from app.begin_call(%s, %s, %s, %s, %s)"
_END: Final = (
    "select app.end_call(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s::bigint, %s, %s)"
)


@dataclass(frozen=True)
class Rate:
    """How much a provider takes from one account.

    Attributes:
        requests: So many …
        per_s: … in any period of so many seconds; 0: at the same time.
    """

    requests: int
    per_s: float


@dataclass(frozen=True)
class Provider:
    """What there is to know about a service before it is called.

    Attributes:
        name: Its name in `app.integration_providers`.
        rates: What it takes from one account, all processes together.
        timeout_s: A call is given up after this many seconds, body included.
        attempts: How often a call that may be repeated is tried before the error is raised.
        max_wait_s: How long a call waits for its turn, or as the provider asks; beyond that it
            raises `WaitError` at once, and a job gives its place to another.
        max_bytes: The largest body that is read.
        judge: Looks at an answer before its status does, for faults at HTTP 200 and the like;
            None, or its answer None, leaves the verdict to `by_status`. An error it gives that is
            not the provider's failure (nothing found) is a `GiveUpError`.
        transport: Makes the connections instead of httpx's own; it may refuse an address by raising
            `GiveUpError`.
    """

    name: str
    rates: tuple[Rate, ...] = ()
    timeout_s: float = 30
    attempts: int = 3
    max_wait_s: float = 10
    max_bytes: int = 32 * 1024 * 1024
    judge: Callable[[httpx.Response], UpstreamError | None] | None = None
    transport: Callable[[], httpx.AsyncBaseTransport] | None = None


@dataclass(frozen=True)
class _Call:
    """One call, whatever the number of attempts."""

    provider: Provider
    account: str
    gates: Jsonb
    org_id: UUID | None
    method: str
    operation: str
    timeout_s: float
    is_retryable: bool
    idempotency_hash: str | None = None


@dataclass(frozen=True)
class _Request:
    """What is sent."""

    request: httpx.Request
    auth: httpx.Auth | tuple[str, str] | None


@dataclass
class Ending:
    """How an attempt ended, for the log.

    Attributes:
        outcome: As `app.outbound_calls` has it.
        error_kind: The same.
        status: HTTP status; None without an answer.
        bytes: Of the answer's body.
        block_s: For how long the account may not be called.
    """

    outcome: str = "cancelled"
    error_kind: str | None = None
    status: int | None = None
    bytes: int | None = None
    block_s: float | None = None


class Http:
    """The client of one process. Use `client` to make one.

    Args:
        pool: Connections to the database.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._clients: dict[Callable[[], httpx.AsyncBaseTransport] | None, httpx.AsyncClient] = {}

    async def request(  # noqa: PLR0913 - the parts of a request, as httpx names them
        self,
        provider: Provider,
        method: str,
        url: str,
        *,
        account: str = "",
        org_id: UUID | None = None,
        operation: str = "",
        is_retryable: bool | None = None,
        idempotency_key: str | None = None,
        timeout_s: float | None = None,
        serialize: str | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str | int | float | bool | None] | None = None,
        json: object | None = None,
        data: Mapping[str, Any] | None = None,
        content: bytes | str | None = None,
        auth: httpx.Auth | tuple[str, str] | None = None,
    ) -> httpx.Response:
        """Call a service, as often as it takes and is allowed.

        Redirects are not followed and cookies are not kept.

        Args:
            provider: The service.
            method: The HTTP method.
            url: The address.
            account: Whose rates and breaker these are: what identifies the caller at the provider,
                only its hash is kept. Give the identifier together with its secret, lest somebody
                who knows another's identifier spoils the other's breaker.
            org_id: In whose name; None for the installation.
            operation: What is asked, in the provider's words, for the log: one of a few, no secret.
            is_retryable: Whether a second call does no harm; None: by method, or when there is an
                idempotency key. A request that never left is tried again in any case.
            idempotency_key: Sent as `Idempotency-Key`; its hash is logged.
            timeout_s: Seconds for one attempt, body included; the provider's when None.
            serialize: One at a time per provider, account and this word, over all processes.
            headers: Headers.
            params: The query.
            json: A body, sent as JSON.
            data: A body, sent as a form.
            content: A body, sent as it is.
            auth: User and password, or an httpx way of signing.

        Returns:
            The answer, read to its end.

        Raises:
            RetryError: The call may succeed later. `is_uncertain` says whether the service may have
                done what was asked.
            WaitError: There is no use in trying before a moment: the provider said so, the breaker
                is open, or the turn of this call would come too late.
            GiveUpError: The call is wrong or forbidden.
            DatabaseError: The database cannot be asked.
        """
        method = method.upper()
        if is_retryable is None:
            is_retryable = method in RETRYABLE or idempotency_key is not None
        client = self.connections(provider)
        all_headers = dict(headers or {})
        if idempotency_key is not None:
            all_headers["Idempotency-Key"] = idempotency_key
        try:
            request = client.build_request(
                method, url, headers=all_headers, params=params, json=json, data=data,
                content=content,
            )  # fmt: skip
        except (httpx.InvalidURL, ValueError, TypeError):
            raise GiveUpError(f"{provider.name}: the request cannot be written") from None
        call = _call(
            provider, method=method, account=account, org_id=org_id, operation=operation,
            timeout_s=timeout_s, is_retryable=is_retryable, serialize=serialize,
            idempotency_key=idempotency_key,
        )  # fmt: skip
        sent = _Request(request, auth)
        return await self._repeat(call, lambda number: self._attempt(call, sent, number))

    async def perform(  # noqa: PLR0913 - as request
        self,
        provider: Provider,
        act: Callable[[Ending], Awaitable[Answer]],
        *,
        account: str = "",
        org_id: UUID | None = None,
        operation: str = "",
        is_retryable: bool = True,
    ) -> Answer:
        """Have somebody else's client make a call: permits, breaker, retries and log are ours.

        Args:
            provider: The service.
            act: Makes the call, over `connections`, and raises an `UpstreamError` where that fails;
                may say of the ending what it knows: status, bytes and kind of the error.
            account: As `request` has it, like all that follows.
            org_id: In whose name.
            operation: What is asked.
            is_retryable: Whether a second call does no harm.

        Returns:
            What `act` gives.

        Raises:
            RetryError: The call may succeed later.
            WaitError: There is no use in trying before a moment.
            GiveUpError: The call is wrong or forbidden.
            DatabaseError: The database cannot be asked.
        """
        call = _call(
            provider, method="POST", account=account, org_id=org_id, operation=operation,
            timeout_s=None, is_retryable=is_retryable, serialize=None, idempotency_key=None,
        )  # fmt: skip

        async def attempt(number: int) -> Answer:
            async with self._permitted(call, number) as (ending, asked_at):
                try:
                    async with asyncio.timeout_at(asked_at + call.timeout_s):
                        answer = await act(ending)
                except TimeoutError as caught:
                    raise _translate(call, caught, ending) from None
                except UpstreamError as error:
                    ending.error_kind = ending.error_kind or "fault"
                    _end_by(ending, error)
                    raise
                ending.outcome = "ok"
                return answer

        return await self._repeat(call, attempt)

    def connections(self, provider: Provider) -> httpx.AsyncClient:
        """Give the connections for a provider: those of its transport.

        Args:
            provider: The service.

        Returns:
            The client, closed with this one.
        """
        if provider.transport not in self._clients:
            self._clients[provider.transport] = httpx.AsyncClient(
                transport=provider.transport() if provider.transport else None,
                # A proxy of the environment would go around a transport that looks at addresses.
                trust_env=provider.transport is None,
                headers={"User-Agent": f"nessos/{__version__}"},
                timeout=httpx.Timeout(None, connect=_CONNECT_S),
                # One account's cookies are not another's.
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            )
        return self._clients[provider.transport]

    async def close(self) -> None:
        """Close all connections to services outside."""
        for client in self._clients.values():
            await client.aclose()

    async def _repeat(self, call: _Call, attempt: Callable[[int], Awaitable[Answer]]) -> Answer:
        async for trial in stamina.retry_context(
            on=lambda error: _again(call, error),
            attempts=call.provider.attempts,
            timeout=None,
            wait_initial=0.5,
            wait_max=call.provider.max_wait_s,
        ):
            with trial:
                return await attempt(trial.num)
        raise AssertionError("stamina raises the last error")

    @asynccontextmanager
    async def _permitted(self, call: _Call, number: int) -> AsyncIterator[tuple[Ending, float]]:
        """Take the permits of an attempt, give them back at its end, and log it.

        Yields:
            The ending, to be filled in; the moment (of the loop's clock) before asking.
        """
        call_id = uuid4()
        asked_at = await self._admit(call, call_id)
        sent_at = asyncio.get_running_loop().time()
        ending = Ending()
        try:
            yield ending, asked_at
        finally:
            duration_ms = round((asyncio.get_running_loop().time() - sent_at) * 1000)
            # What holds permits is given back even while the worker is being stopped.
            await asyncio.shield(self._end(call, call_id, number, ending, duration_ms))

    async def _attempt(self, call: _Call, sent: _Request, number: int) -> httpx.Response:
        async with self._permitted(call, number) as (ending, asked_at):
            try:
                response = await self._send(call, sent, asked_at + call.timeout_s)
            except Exception as caught:  # noqa: BLE001 - each becomes one of ours
                raise _translate(call, caught, ending) from None
            ending.status, ending.bytes = response.status_code, len(response.content)
            ending.outcome, ending.error_kind = "give_up", "fault"  # should the judge itself fail
            error = call.provider.judge(response) if call.provider.judge else None
            ending.error_kind = "fault" if error else None
            if error is None and (error := by_status(response)):
                ending.error_kind = "status"
                error.message = f"{call.provider.name} {call.operation}: {error.message}"
            _end_by(ending, error)
            if error:
                raise error
            return response

    async def _admit(self, call: _Call, call_id: UUID) -> float:
        """Wait until the call may be made; gives the moment (of the loop's clock) before asking."""
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        parameters = (
            call_id, call.provider.name, call.account, call.gates,
            call.timeout_s + _LEASE_MARGIN_S,
        )  # fmt: skip
        patience_s = 0.05
        while True:
            asked_at = loop.time()
            with translated():
                async with self._pool.connection() as connection:
                    cursor = connection.cursor(row_factory=tuple_row)
                    row = await (await cursor.execute(_BEGIN, parameters)).fetchone()
            verdict, wait_s = row or ("busy", 0.0)
            if verdict == "go":
                return asked_at
            wait_s = max(wait_s, patience_s) * random.uniform(1, 1.1)  # noqa: S311 - not a secret
            patience_s = min(patience_s * 2, 1)
            if asked_at + wait_s > began_at + call.provider.max_wait_s:
                log.info(
                    "call not made", provider=call.provider.name, operation=call.operation,
                    account=call.account, org_id=call.org_id, verdict=verdict,
                    wait_s=round(wait_s, 3),
                )  # fmt: skip
                raise _NotMadeError(
                    f"{call.provider.name} {call.operation}: {_REASONS[verdict]}",
                    datetime.now(UTC) + timedelta(seconds=wait_s),
                )
            await asyncio.sleep(wait_s)

    async def _send(self, call: _Call, sent: _Request, deadline: float) -> httpx.Response:
        """Send the request and read the answer, up to a moment of the loop's clock."""
        if asyncio.get_running_loop().time() >= deadline:
            raise httpx.PoolTimeout("the permits are about to lapse")
        async with asyncio.timeout_at(deadline):
            answer = await self.connections(call.provider).send(
                sent.request, auth=sent.auth, stream=True
            )
            try:
                body = bytearray()
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > call.provider.max_bytes:
                        raise _TooLargeError(
                            f"{call.provider.name} {call.operation}: the answer is larger than"
                            f" {call.provider.max_bytes} bytes"
                        )
            finally:
                await answer.aclose()
        # The body is decoded now.
        plain = {"content-encoding", "content-length", "transfer-encoding"}
        headers = [(k, v) for k, v in answer.headers.multi_items() if k not in plain]
        return httpx.Response(
            answer.status_code, headers=headers, content=bytes(body), request=answer.request
        )

    async def _end(
        self, call: _Call, call_id: UUID, attempt: int, ending: Ending, duration_ms: int
    ) -> None:
        """Give permits back, move the breaker, write the log. The answer counts more than this."""
        log.info(
            "call made", provider=call.provider.name, operation=call.operation,
            account=call.account, org_id=call.org_id, method=call.method, attempt=attempt,
            outcome=ending.outcome, error_kind=ending.error_kind, status=ending.status,
            duration_ms=duration_ms, bytes=ending.bytes,
        )  # fmt: skip
        try:
            async with self._pool.connection() as connection:
                await connection.execute(
                    _END,
                    (
                        call_id, call.provider.name, call.account, call.gates, call.org_id,
                        call.method, call.operation, attempt, ending.outcome,
                        ending.error_kind, ending.status, duration_ms, ending.bytes,
                        call.idempotency_hash, ending.block_s,
                    ),
                )  # fmt: skip
        except psycopg.Error as error:
            log.warning("call not recorded", provider=call.provider.name, error=str(error))


class _NotMadeError(WaitError):
    """The call's turn would come too late; nothing was sent."""


class _TooLargeError(GiveUpError):
    """The answer is larger than the provider's limit."""


_REASONS: Final = {
    "open": "the circuit is open",
    "probing": "one call is finding out whether it works again",
    "busy": "the rate is used up",
}


@asynccontextmanager
async def client(pool: Pool) -> AsyncIterator[Http]:
    """Open the client of a process.

    Args:
        pool: Connections to the database.

    Yields:
        The client.
    """
    http = Http(pool)
    try:
        yield http
    finally:
        await http.close()


def by_status(response: httpx.Response) -> UpstreamError | None:
    """Judge an answer by its status alone.

    Args:
        response: The answer.

    Returns:
        None for success; `WaitError` where it names a moment (Retry-After), else `RetryError` for
        408, 425, 429 and 5xx; `GiveUpError` for a redirect and every other refusal.
    """
    status = response.status_code
    message = f"HTTP {status}"
    if response.is_success or status == _NOT_MODIFIED:
        return None
    if status in {_REQUEST_TIMEOUT, _TOO_EARLY, _TOO_MANY} or response.is_server_error:
        until = retry_after(response)
        error = WaitError(message, until) if until else RetryError(message)
        error.is_uncertain = response.is_server_error
        return error
    return GiveUpError(message)


def retry_after(response: httpx.Response) -> datetime | None:
    """Read the header Retry-After, in seconds or as a date.

    Args:
        response: The answer.

    Returns:
        The moment by our clock, whatever the provider's clock says; None without one to come.
    """
    text = response.headers.get("retry-after", "").strip()
    now = datetime.now(UTC)
    if text.isascii() and text.isdigit():
        wait = timedelta(seconds=min(int(text), 10**8))
    else:
        try:
            moment = parsedate_to_datetime(text)
            theirs = parsedate_to_datetime(response.headers["date"])
        except (ValueError, TypeError, KeyError):
            try:
                moment, theirs = parsedate_to_datetime(text), now
            except (ValueError, TypeError):
                return None
        if moment.tzinfo is None or theirs.tzinfo is None:
            return None
        wait = moment - theirs
    return now + wait if wait > timedelta(0) else None


def _again(call: _Call, error: Exception) -> bool | float:
    """Say whether, and after how many seconds where that is not left to the back-off."""
    if not isinstance(error, RetryError | WaitError):
        return False
    if not call.is_retryable and not isinstance(error, _NeverLeftError):
        return False
    if isinstance(error, _NotMadeError):
        return False
    if isinstance(error, WaitError):
        wait_s = (error.until - datetime.now(UTC)).total_seconds()
        return max(wait_s, 0.0) if wait_s <= call.provider.max_wait_s else False
    return True


class _NeverLeftError(RetryError):
    """No connection: the request has not reached the service."""


def _translate(call: _Call, caught: Exception, ending: Ending) -> Exception:
    """Turn what httpx raised into an error of ours that quotes no part of the request."""
    what = f"{call.provider.name} {call.operation}"
    error: UpstreamError
    match caught:
        case _TooLargeError():
            ending.error_kind, error = "size", caught
        case UpstreamError():  # of a transport that looks at addresses
            ending.error_kind, error = "refused", caught
        case httpx.ConnectTimeout() | httpx.PoolTimeout():
            ending.error_kind = "timeout"
            error = _NeverLeftError(f"{what}: no connection in time")
        case httpx.ConnectError():
            ending.error_kind, error = "connection", _NeverLeftError(f"{what}: no connection")
        case TimeoutError() | httpx.TimeoutException():
            ending.error_kind = "timeout"
            error = RetryError(f"{what}: no answer within {call.timeout_s:g} s")
            error.is_uncertain = True
        case httpx.UnsupportedProtocol() | httpx.LocalProtocolError() | httpx.InvalidURL():
            ending.error_kind = "refused"
            error = GiveUpError(f"{what}: the request cannot be sent")
        case httpx.RequestError():
            ending.error_kind = "connection"
            error = RetryError(f"{what}: the connection broke ({type(caught).__name__})")
            error.is_uncertain = True
        case _:
            ending.outcome, ending.error_kind = "retry", "connection"
            return caught
    ending.outcome = _outcome(error)
    return error


def _outcome(error: UpstreamError | None) -> str:
    match error:
        case None:
            return "ok"
        case WaitError():
            return "wait"
        case RetryError():
            return "retry"
        case _:
            return "give_up"


def _end_by(ending: Ending, error: UpstreamError | None) -> None:
    ending.outcome = _outcome(error)
    if isinstance(error, WaitError) and error.is_account_wide:
        ending.block_s = (error.until - datetime.now(UTC)).total_seconds()


def _call(  # noqa: PLR0913 - what there is to know of a call
    provider: Provider,
    *,
    method: str,
    account: str,
    org_id: UUID | None,
    operation: str,
    timeout_s: float | None,
    is_retryable: bool,
    serialize: str | None,
    idempotency_key: str | None,
) -> _Call:
    gates = [
        {"gate": f"{rate.requests} in {rate.per_s:g} s", "slots": rate.requests,
         "per_s": rate.per_s}
        for rate in provider.rates
    ]  # fmt: skip
    if serialize is not None:
        gates.append({"gate": f"one {serialize}", "slots": 1, "per_s": 0})
    return _Call(
        provider=provider,
        account=_digest(f"{provider.name}/{account}"),
        gates=Jsonb(gates),
        org_id=org_id,
        method=method,
        operation=operation[:_LONGEST_OPERATION],
        timeout_s=timeout_s or provider.timeout_s,
        is_retryable=is_retryable,
        idempotency_hash=_digest(idempotency_key) if idempotency_key is not None else None,
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
