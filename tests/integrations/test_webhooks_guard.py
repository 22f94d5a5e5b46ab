"""Addresses that tenants name: what lies inside is refused, and the connection goes to the address that was checked."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from nessos.webhooks.guard import Address, AddressRefusedError, Guard, GuardedTransport, is_outside
from tests.integrations.fakes.server import FakeServer

INSIDE = [
    "0.0.0.0",  # noqa: S104 - called, not bound
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.100.100.200",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.0.1",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "192.168.255.255",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:a9fe:a9fe::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fdff:ffff::1",
    "fe80::1",
    "fe80::1%1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]

OUTSIDE = [
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "100.128.0.1",
    "172.15.255.255",
    "172.32.0.1",
    "192.0.1.1",
    "198.17.255.255",
    "198.20.0.1",
    "223.255.255.255",
    "2001:4860:4860::8888",
    "2606:4700::1111",
    "2a02:ec80:300:ed1a::1",
    "2804:14c::1",
]


@pytest.mark.parametrize("address", INSIDE)
def test_an_address_that_is_not_of_the_internet_is_inside(address: str) -> None:
    assert not is_outside(ip_address(address))


@pytest.mark.parametrize("address", OUTSIDE)
def test_an_address_of_the_internet_is_outside(address: str) -> None:
    assert is_outside(ip_address(address))


@pytest.mark.parametrize(
    "host",
    ["localhost", "127.0.0.1", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "0.0.0.0", "::1"],  # noqa: S104 - not bound
)
def test_this_machine_is_refused_in_every_notation(host: str) -> None:
    with pytest.raises(AddressRefusedError):
        asyncio.run(Guard().addresses(host, 443))


def answers(*rounds: list[str]) -> tuple[Callable[[str, int], object], list[str]]:
    """Make a resolver that gives these answers in turn, the last one again and again, and what it was asked."""
    asked: list[str] = []

    async def resolve(host: str, _port: int) -> list[Address]:
        asked.append(host)
        return [ip_address(text) for text in rounds[min(len(asked), len(rounds)) - 1]]

    return resolve, asked


def test_one_address_inside_among_others_is_enough_to_refuse() -> None:
    resolve, _ = answers(["8.8.8.8", "10.0.0.1"])
    with pytest.raises(AddressRefusedError):
        asyncio.run(Guard((), resolve).addresses("hooks.rosto.example", 443))  # type: ignore[arg-type]


async def get(guard: Guard, url: str, *, times: int = 1) -> list[int | str]:
    """Call an address through the guard, each time on a new connection; gives status or error."""
    results: list[int | str] = []
    for _ in range(times):
        async with httpx.AsyncClient(transport=GuardedTransport(guard)) as client:
            try:
                results.append((await client.get(url)).status_code)
            except (AddressRefusedError, httpx.HTTPError) as error:
                results.append(type(error).__name__)
    return results


def test_a_name_that_leads_elsewhere_the_second_time_reaches_what_was_checked_or_nothing() -> None:
    with FakeServer() as public, inside_server(int(public.url.rpartition(":")[2])) as reached:
        port = int(public.url.rpartition(":")[2])
        resolve, asked = answers(["127.0.0.1"], ["127.0.0.2"])
        guard = Guard([ip_network("127.0.0.1/32")], resolve)  # type: ignore[arg-type]
        outcome = asyncio.run(get(guard, f"http://rebind.rosto.example:{port}/", times=3))
    assert outcome == [200, "AddressRefusedError", "AddressRefusedError"]
    # Looked up once per connection: there is no second answer between the check and the connection.
    assert asked == ["rebind.rosto.example"] * 3
    assert len(public.journal) == 1
    assert public.journal[0].headers["host"] == f"rebind.rosto.example:{port}"
    assert reached == []


@contextmanager
def inside_server(port: int) -> Iterator[list[str]]:
    """Listen on another address of this machine; gives who connected."""
    reached: list[str] = []
    with socket.create_server(("127.0.0.2", port)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, address = listener.accept()
                except OSError:
                    return
                reached.append(str(address))
                connection.close()

        threading.Thread(target=accept, daemon=True).start()
        yield reached


def test_without_networks_for_development_plain_http_is_refused_whatever_the_address() -> None:
    resolve, asked = answers(["8.8.8.8"])
    guard = Guard((), resolve)  # type: ignore[arg-type]
    assert asyncio.run(get(guard, "http://hooks.rosto.example/")) == ["AddressRefusedError"]
    assert asked == []


def test_a_name_that_leads_nowhere_is_no_connection() -> None:
    resolve, _ = answers([])
    guard = Guard((), resolve)  # type: ignore[arg-type]
    assert asyncio.run(get(guard, "https://hooks.rosto.example/")) == ["ConnectError"]


@contextmanager
def tls_server(folder: Path, name: str) -> Iterator[tuple[int, list[str | None]]]:
    """Answer 200 by TLS with a certificate for a name; gives the port and the names asked for."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    asked: list[str | None] = []
    context.sni_callback = lambda _socket, server_name, _context: asked.append(server_name)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                try:
                    with context.wrap_socket(connection, server_side=True) as tls:
                        tls.recv(65536)
                        tls.sendall(
                            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                        )
                except OSError:
                    continue

        threading.Thread(target=answer, daemon=True).start()
        yield listener.getsockname()[1], asked


@pytest.mark.parametrize(
    ("name", "outcome"), [("hooks.rosto.example", 200), ("other.rosto.example", "ConnectError")]
)
def test_tls_asks_for_and_insists_on_the_name_although_the_address_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, outcome: int | str
) -> None:
    with tls_server(tmp_path, "hooks.rosto.example") as (port, asked):
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        resolve, _ = answers(["127.0.0.1"])
        guard = Guard([ip_network("127.0.0.0/8")], resolve)  # type: ignore[arg-type]
        assert asyncio.run(get(guard, f"https://{name}:{port}/")) == [outcome]
    assert asked == [name]
