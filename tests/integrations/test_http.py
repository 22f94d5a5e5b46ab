"""One call of a service outside: which answers are tried again, what is raised, what is written down."""

import asyncio
import gzip
import json
import re
import socket
import subprocess
import sys
import traceback
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest

from nessos.errors import GiveUpError, RetryError, UpstreamError, WaitError
from nessos.http import Provider, by_status, retry_after
from nessos.settings import ROOT
from tests.integrations.caller import Plan
from tests.integrations.fakes.server import Answer, FakeServer, html
from tests.integrations.outside import open_http
from tests.people import World

Reader = psycopg.Connection[dict[str, Any]]

pytestmark = pytest.mark.usefixtures("no_backoff")


def call(
    db_url: str, server: FakeServer, method: str = "GET", *, provider: Provider | None = None, **options: Any
) -> httpx.Response:  # fmt: skip
    """Make one call, each in an account of its own unless one is named."""

    async def run() -> httpx.Response:
        async with open_http(db_url) as http:
            return await http.request(
                provider or Provider("webhook"), method, f"{server.url}/path", **{"account": server.url, **options}
            )  # fmt: skip

    return asyncio.run(run())


def test_an_answer_comes_back_whole(db_url: str) -> None:
    with FakeServer(lambda seen: Answer(body={"got": seen.query})) as server:
        answer = call(db_url, server, params={"page": 2})
    assert (answer.status_code, answer.json()) == (200, {"got": {"page": ["2"]}})
    assert re.match(r"nessos/\d", server.journal[0].headers["user-agent"])


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(db_url: str, status: int) -> None:
    with FakeServer() as server:
        server.faults.extend([Answer(status), Answer(status)])
        assert call(db_url, server).status_code == 200
    assert len(server.journal) == 3


def test_after_the_last_attempt_the_error_is_raised(db_url: str) -> None:
    with FakeServer(lambda _: Answer(503)) as server, pytest.raises(RetryError) as caught:
        call(db_url, server, operation="list")
    assert len(server.journal) == 3
    assert "webhook list: HTTP 503" in str(caught.value)


@pytest.mark.parametrize("status", [301, 302, 400, 401, 403, 404, 409, 422])
def test_what_cannot_pass_is_not_tried_again(db_url: str, status: int) -> None:
    elsewhere = {"Location": "http://127.0.0.1:9/"} if status < 400 else {}
    with (
        FakeServer(lambda _: Answer(status, headers=elsewhere)) as server,
        pytest.raises(GiveUpError),
    ):
        call(db_url, server)
    assert len(server.journal) == 1


@pytest.mark.parametrize(
    ("method", "options", "attempts"),
    [
        ("GET", {}, 3),
        ("PUT", {}, 3),
        ("DELETE", {}, 3),
        ("POST", {}, 1),
        ("PATCH", {}, 1),
        ("POST", {"idempotency_key": "k-1"}, 3),
        ("POST", {"is_retryable": True}, 3),
        ("GET", {"is_retryable": False}, 1),
    ],
)
def test_only_what_does_no_harm_twice_is_sent_twice(
    db_url: str, method: str, options: dict[str, Any], attempts: int
) -> None:
    with FakeServer(lambda _: Answer(500)) as server, pytest.raises(RetryError) as caught:
        call(db_url, server, method, account=f"{server.url}{method}{options}", **options)
    assert len(server.journal) == attempts
    assert caught.value.is_uncertain


def test_the_idempotency_key_is_the_same_in_every_attempt(db_url: str) -> None:
    with FakeServer() as server:
        server.faults.append(Answer(502))
        call(db_url, server, "POST", idempotency_key="order-7", json={"amount": 1})
    assert [seen.headers["idempotency-key"] for seen in server.journal] == ["order-7"] * 2
    assert [seen.json for seen in server.journal] == [{"amount": 1}] * 2


@pytest.mark.parametrize("cut", ["before", "within"])
def test_a_broken_connection_is_tried_again_and_uncertain(db_url: str, cut: str) -> None:
    with FakeServer() as server:
        server.faults.append(Answer(body="x" * 1000, cut=cut))
        assert call(db_url, server).status_code == 200
        server.faults.append(Answer(body="x" * 1000, cut=cut))
        with pytest.raises(RetryError) as caught:
            call(db_url, server, "POST")
    assert caught.value.is_uncertain
    assert len(server.journal) == 3


def test_an_answer_that_does_not_come_in_time_is_given_up(db_url: str) -> None:
    with FakeServer() as server:
        server.faults.append(Answer(until=server.stopped))
        with pytest.raises(RetryError, match="no answer within") as caught:
            call(db_url, server, "POST", timeout_s=0.2)
    assert caught.value.is_uncertain


def test_an_answer_larger_than_the_limit_is_not_read(db_url: str) -> None:
    provider = Provider("webhook", max_bytes=1000)
    with FakeServer(lambda _: Answer(body="x" * 1001)) as server:
        with pytest.raises(GiveUpError, match="larger than 1000 bytes"):
            call(db_url, server, provider=provider)
        assert len(server.journal) == 1


def test_the_judge_looks_at_the_body_before_the_status_does(db_url: str) -> None:
    def judge(response: httpx.Response) -> UpstreamError | None:
        if response.headers["content-type"] == "text/html":
            return RetryError("a page instead of data")
        fault = response.json().get("faultstring")
        return GiveUpError(fault) if fault else None

    provider = Provider("webhook", judge=judge)
    with FakeServer() as server:
        server.faults.append(html(200))
        assert call(db_url, server, provider=provider).json() == {}
        server.faults.append(Answer(500, {"faultstring": "unknown tag"}))
        with pytest.raises(GiveUpError, match="unknown tag"):
            call(db_url, server, provider=provider)
        server.faults.extend([Answer(503, {})] * 3)
        with pytest.raises(RetryError, match="503"):
            call(db_url, server, provider=provider)
    assert len(server.journal) == 6


def test_a_judge_that_fails_itself_is_a_bug_and_not_the_provider_s_failure(
    db_url: str, reader: Reader
) -> None:
    def judge(response: httpx.Response) -> UpstreamError | None:
        raise KeyError(response.text)

    with FakeServer() as server, pytest.raises(KeyError):
        call(db_url, server, provider=Provider("webhook", judge=judge), operation="judged" * 20)
    rows = reader.execute(
        "select outcome, error_kind from app.outbound_calls where operation like 'judged%'"
    ).fetchall()
    assert rows == [{"outcome": "give_up", "error_kind": "fault"}]


def test_cookies_of_one_call_are_not_sent_with_the_next(db_url: str) -> None:
    async def run(server: FakeServer) -> None:
        async with open_http(db_url) as http:
            for _ in range(2):
                await http.request(Provider("webhook"), "GET", server.url)

    with FakeServer(lambda _: Answer(headers={"Set-Cookie": "session=1"})) as server:
        asyncio.run(run(server))
    assert ["cookie" in seen.headers for seen in server.journal] == [False, False]


def answer_with(**headers: str) -> httpx.Response:
    return httpx.Response(429, headers={k.replace("_", "-"): v for k, v in headers.items()})


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (answer_with(retry_after="120"), 120),
        (answer_with(retry_after="Fri, 06 Mar 2026 12:02:00 GMT", date="Fri, 06 Mar 2026 12:00:00 GMT"), 120),
        (answer_with(retry_after="0"), None),
        (answer_with(retry_after="soon"), None),
        (answer_with(retry_after="-5"), None),
        (answer_with(retry_after="Fri, 06 Mar 2020 12:02:00 GMT"), None),
        (answer_with(retry_after="Fri, 06 Mar 2026 12:02:00", date="Fri, 06 Mar 2026 12:00:00 GMT"), None),
        (answer_with(), None),
    ],
)  # fmt: skip
def test_retry_after_is_read_as_seconds_or_as_a_date_by_the_provider_s_clock(
    answer: httpx.Response, seconds: int | None
) -> None:
    before = datetime.now(UTC)
    until = retry_after(answer)
    if seconds is None:
        assert until is None
        assert type(by_status(answer)) is RetryError
    else:
        assert until is not None
        wait = timedelta(seconds=seconds)
        assert before + wait <= until <= datetime.now(UTC) + wait
        assert isinstance(by_status(answer), WaitError)


def test_every_attempt_is_written_down_without_secrets(
    db_url: str, world: World, reader: Reader, capsys: pytest.CaptureFixture[str]
) -> None:
    secrets = ("geheim-key", "geheim-token", "geheim-body", "geheim-user", "geheim-idem")
    with FakeServer(lambda _: Answer(body="answer")) as server:
        server.faults.append(Answer(500, "geheim-answer"))
        call(
            db_url, server, "POST", org_id=world.a.org, operation="send", account=f"{server.url}geheim-user",
            idempotency_key="geheim-idem", params={"app_key": "geheim-key"}, json={"x": "geheim-body"},
            headers={"Authorization": "Bearer geheim-token"},
        )  # fmt: skip
    rows = reader.execute(
        "select * from public.outbound_calls where org_id = %s and operation = 'send' order by attempt",
        (world.a.org,),
    ).fetchall()
    assert [
        (r["provider"], r["method"], r["attempt"], r["outcome"], r["error_kind"], r["status"], r["bytes"])
        for r in rows
    ] == [
        ("webhook", "POST", 1, "retry", "status", 500, 13),
        ("webhook", "POST", 2, "ok", None, 200, 6),
    ]  # fmt: skip
    assert len({r["account_hash"] for r in rows}) == len({r["idempotency_hash"] for r in rows}) == 1
    said = capsys.readouterr()
    assert "call made" in said.out + said.err
    for secret in (*secrets, "geheim-answer", server.url):
        assert secret not in str(rows) + said.out + said.err


def test_calls_in_nobody_s_name_are_written_down_without_one(db_url: str, reader: Reader) -> None:
    with FakeServer() as server:
        call(db_url, server, provider=Provider("bcb"), operation="series")
    found = reader.execute(
        "select org_id, provider, outcome from app.outbound_calls where operation = 'series'"
    ).fetchall()
    assert found == [{"org_id": None, "provider": "bcb", "outcome": "ok"}]


def test_a_block_of_the_account_is_raised_and_keeps_the_next_call_from_being_sent(
    db_url: str,
) -> None:
    with FakeServer(lambda _: Answer(425, headers={"Retry-After": "1789"})) as server:
        before = datetime.now(UTC)
        with pytest.raises(WaitError) as caught:
            call(db_url, server)
        assert before + timedelta(seconds=1789) <= caught.value.until
        with pytest.raises(WaitError, match="the circuit is open") as again:
            call(db_url, server)
        assert caught.value.until - timedelta(seconds=60) < again.value.until
        assert len(server.journal) == 1


def test_a_wait_that_is_short_is_waited_for_within_the_call(db_url: str) -> None:
    def judge(response: httpx.Response) -> UpstreamError | None:
        if response.json().get("busy"):
            soon = datetime.now(UTC) + timedelta(milliseconds=100)
            return WaitError("being processed", soon, is_account_wide=False)
        return None

    with FakeServer(lambda _: Answer(body={})) as server:
        server.faults.extend([Answer(body={"busy": True})] * 2)
        assert call(db_url, server, provider=Provider("webhook", judge=judge)).json() == {}
        assert len(server.journal) == 3
        server.faults.append(Answer(body={"busy": True}))
        with pytest.raises(WaitError, match="being processed"):
            call(db_url, server, "POST", provider=Provider("webhook", judge=judge))
    assert len(server.journal) == 4


class ClosedDoor(httpx.AsyncBaseTransport):
    """Lets nobody out."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise GiveUpError(f"{request.url.host}: the address is private")


def test_a_transport_may_refuse_an_address(db_url: str, reader: Reader) -> None:
    with FakeServer() as server, pytest.raises(GiveUpError, match="the address is private"):
        call(
            db_url, server, provider=Provider("webhook", transport=ClosedDoor), operation="guarded"
        )
    assert server.journal == []
    rows = reader.execute(
        "select outcome, error_kind, status, attempt from app.outbound_calls where operation = 'guarded'"
    ).fetchall()
    assert rows == [{"outcome": "give_up", "error_kind": "refused", "status": None, "attempt": 1}]


def test_a_proxy_of_the_environment_does_not_go_around_a_transport(
    db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeServer() as proxy, FakeServer() as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        with pytest.raises(GiveUpError, match="the address is private"):
            call(db_url, server, provider=Provider("webhook", transport=ClosedDoor))
        assert (proxy.journal, server.journal) == ([], [])


@pytest.mark.parametrize("url", ["nowhere://host/", "http://[::1", "", "/path", "http://h\n/"])
def test_an_address_that_is_none_is_given_up_without_being_quoted(db_url: str, url: str) -> None:
    async def run() -> None:
        async with open_http(db_url) as http:
            await http.request(Provider("webhook"), "GET", f"{url}?token=geheim", account=url)

    with pytest.raises(GiveUpError) as caught:
        asyncio.run(run())
    assert "geheim" not in str(caught.value)


def test_a_header_that_cannot_be_sent_is_given_up_without_being_quoted(db_url: str) -> None:
    header = {"Authorization": "Bearer geheim\r\nX: 1"}
    with FakeServer() as server, pytest.raises(GiveUpError) as caught:
        call(db_url, server, headers=header)
    assert "geheim" not in "".join(traceback.format_exception(caught.value))


def test_a_host_that_refuses_connections_is_tried_again_even_for_a_post(db_url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens

        async def run() -> None:
            async with open_http(db_url) as http:
                await http.request(
                    Provider("webhook"), "POST", f"http://127.0.0.1:{taken.getsockname()[1]}/",
                    account="refusing", operation="refusing",
                )  # fmt: skip

        with pytest.raises(RetryError, match="no connection") as caught:
            asyncio.run(run())
    assert not caught.value.is_uncertain
    with psycopg.connect(db_url) as db:
        rows = db.execute(
            "select attempt, error_kind from app.outbound_calls where operation = 'refusing' order by attempt"
        ).fetchall()
    assert rows == [(1, "connection"), (2, "connection"), (3, "connection")]


def test_a_compressed_answer_is_read_and_its_limit_is_that_of_its_content(db_url: str) -> None:
    packed = gzip.compress(b"x" * 100_000)
    with FakeServer(lambda _: Answer(body=packed, headers={"Content-Encoding": "gzip"})) as server:
        assert call(db_url, server).text == "x" * 100_000
        with pytest.raises(GiveUpError, match="larger"):
            call(db_url, server, provider=Provider("webhook", max_bytes=50_000))


def test_the_log_of_a_process_tells_of_the_call_and_not_of_its_address(db_url: str) -> None:
    with FakeServer() as server:
        plan = Plan(db_url, f"{server.url}/geheim?app_key=geheim", options={"operation": "list"})
        done = subprocess.run(
            [sys.executable, "-m", "tests.integrations.caller", plan.text()],
            cwd=ROOT, check=True, capture_output=True, text=True,
        )  # fmt: skip
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert [
        (line["event"], line["provider"], line["operation"], line["status"]) for line in told
    ] == [("call made", "webhook", "list", 200)]
    assert "geheim" not in done.stderr
