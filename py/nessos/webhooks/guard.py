"""Connections to addresses that tenants name: only to hosts that lie outside.

A name is resolved once, every address it leads to is checked, and the connection is made to a
checked address. Nothing looks the name up again in between, so that a name cannot lead elsewhere
when it counts. TLS and the header Host keep the name.
"""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Any, Final

import httpcore
import httpx

from nessos.errors import GiveUpError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_ANSWER_BYTES: Final = 4096

_INSIDE: Final = tuple(
    ip_network(network)
    for network in (
        # IANA's special-purpose addresses (RFC 6890 and its registry): not on the Internet, or not
        # one host.
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared by the customers of a carrier; a cloud's metadata, too
        "127.0.0.0/8",
        "169.254.0.0/16",  # link local; the metadata of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "168.63.129.16/32",  # the host of an Azure machine: a public address that leads inside
        # Of IPv6 only 2000::/3 is the Internet. In it, what stands for an IPv4 address (Teredo,
        # 6to4) or for no host:
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
    )
)
_INTERNET: Final = IPv6Network("2000::/3")


class AddressRefusedError(GiveUpError):
    """The host does not lie outside."""


def is_outside(address: Address) -> bool:
    """Say whether an address is one of the Internet.

    Args:
        address: The address.

    Returns:
        False for private, shared, local, multicast, documentation and metadata addresses, and for
        IPv6 addresses that stand for an IPv4 address.
    """
    if address.version == 6 and address not in _INTERNET:  # noqa: PLR2004 - a version
        return False
    return not any(address in network for network in _INSIDE)


async def resolve(host: str, port: int) -> list[Address]:
    """Ask the system for the addresses of a host.

    Args:
        host: Its name, or an address in any notation the system takes.
        port: The port.

    Returns:
        The addresses.

    Raises:
        OSError: The name leads nowhere.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ip_address(entry[4][0]) for entry in found]


class Guard:
    """Decides where a connection may go.

    Args:
        allowed: Networks that are called although they lie inside; for development.
        resolver: How names are resolved.

    Attributes:
        is_strict: Whether no network is allowed for development.
    """

    def __init__(
        self,
        allowed: Iterable[Network] = (),
        resolver: Callable[[str, int], Awaitable[list[Address]]] = resolve,
    ) -> None:
        self._allowed = tuple(allowed)
        self.is_strict = not self._allowed
        self._resolver = resolver

    async def addresses(self, host: str, port: int) -> list[Address]:
        """Resolve a host and check where it leads.

        Args:
            host: The host.
            port: The port.

        Returns:
            Its addresses, all of which may be called.

        Raises:
            AddressRefusedError: One of them may not be.
            OSError: The name leads nowhere.
        """
        found = await self._resolver(host, port)
        if not all(self._is_allowed(address) or is_outside(address) for address in found):
            raise AddressRefusedError("the host name leads to an address that is not public")
        return found

    def _is_allowed(self, address: Address) -> bool:
        return any(address in network for network in self._allowed)


class GuardedTransport(httpx.AsyncHTTPTransport):
    """httpx's transport, connecting only where the guard lets it; plain HTTP only for development.

    Args:
        guard: The guard.
    """

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard
        # httpx has no argument for the part of httpcore that opens connections.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            max_connections=100,
            max_keepalive_connections=20,
            keepalive_expiry=5,
            network_backend=_Backend(guard),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request.

        Args:
            request: The request.

        Returns:
            The answer.

        Raises:
            AddressRefusedError: The host does not lie outside, or is not called by TLS.
        """
        if request.url.scheme != "https" and self._guard.is_strict:
            raise AddressRefusedError("the address is not https")
        response = await super().handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 - for the type
        response.stream = _Beginning(response.stream)
        return response


class _Beginning(httpx.AsyncByteStream):
    """The first few kilobytes of an answer: nobody is made to read more."""

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            yield chunk
            size += len(chunk)
            if size > _ANSWER_BYTES:
                return

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Backend(httpcore.AsyncNetworkBackend):
    """Opens connections to checked addresses."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        local_address: str | None = None,
        socket_options: Any = None,  # noqa: ANN401 - as above
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._guard.addresses(host, port)
        except TimeoutError:
            raise httpcore.ConnectTimeout from None
        except OSError:
            addresses = []
        failure: Exception = httpcore.ConnectError("the host name leads nowhere")
        for address in addresses:
            try:
                return await self._backend.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def sleep(self, seconds: float) -> None:
        await self._backend.sleep(seconds)
