"""What outside services send over HTTP: checked, stored as it came, answered, processed by a job."""

import base64
import hashlib
import hmac
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import httpx
import jwt as pyjwt
import pytest

from nessos.credentials import STORE, KeyRing
from nessos.local.database import tool_environment
from nessos.settings import ROOT
from tests.api.stack import Api, Company, Running

SECRET = "It's a Secret to Everybody"  # noqa: S105 - of GitHub's documentation
SVIX = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TWILIO = "12345"
PUSH = {
    "ref": "refs/heads/main",
    "before": "6113728f27ae82c7b1a177c8d03f9e96e0adf246",
    "after": "76ae82c7b1a177c8d03f9e96e0adf2466113728f",
    "commits": [],
    "repository": {"full_name": "acme/app"},
}


class Source:
    """An address of a company that a provider sends to."""

    def __init__(
        self,
        company: Company,
        ring: KeyRing,
        provider: str,
        credentials: dict[str, str] | None = None,
    ) -> None:
        self.company, self.api, self.provider = company, company.api, provider
        made = company.owner.client.rpc(
            "create_webhook_source", {"org": str(company.id), "provider": provider}
        ).execute()
        self.id, self.path, self.token = made.data["id"], made.data["path"], made.data["token"]
        if credentials:
            sealed = ring.seal(org_id=company.id, provider=provider, values=credentials)
            self.api.db.execute(STORE, (company.id, provider, *sealed))

    def post(self, body: bytes, path: str | None = None, **headers: str) -> httpx.Response:
        """Send a body to the address, or to another."""
        with httpx.Client(base_url=self.api.url, timeout=30) as http:
            return http.post(path or self.path, content=body, headers=headers)

    def events(self, columns: str = "event_key, status") -> list[tuple[Any, ...]]:
        """Read what has been stored for the company."""
        return self.api.db.execute(
            f"select {columns} from public.webhook_events where org_id = %s"
            " order by received_at, event_key",
            (self.company.id,),
        ).fetchall()

    def bodies(self) -> list[bytes]:
        """Read the stored bodies."""
        rows = self.api.db.execute(
            "select body from app.webhook_bodies where org_id = %s", (self.company.id,)
        )
        return [bytes(body) for (body,) in rows]

    def jobs(self) -> int:
        """Count the jobs that wait."""
        row = self.api.db.execute(
            "select count(*) from pgqueuer.pgqueuer where entrypoint = 'webhook.process'"
            " and headers ->> 'org_id' = %s",
            (str(self.company.id),),
        ).fetchone()
        assert row is not None
        return int(row[0])


@pytest.fixture
def ring(running: Running, functions: Api) -> KeyRing:
    """The keys that the functions have."""
    assert functions.url == running.url
    return KeyRing.parse(running.keys.encryption)


def by_github(body: bytes, key: str = SECRET, **more: str) -> dict[str, str]:
    signature = hmac.new(key.encode(), body, hashlib.sha256).hexdigest()
    return {
        "content-type": "application/json",
        "x-github-event": "push",
        "x-github-delivery": str(uuid4()),
        "x-hub-signature-256": f"sha256={signature}",
        **more,
    }


def by_resend(
    body: bytes, *, message: str = "msg_1", age: float = 0, secret: str = SVIX
) -> dict[str, str]:
    timestamp = str(int(time.time() - age))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{message}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return {
        "content-type": "application/json",
        "svix-id": message,
        "svix-timestamp": timestamp,
        "svix-signature": f"v1,{signature}",
    }


def by_twilio(url: str, form: dict[str, str] | None = None, token: str = TWILIO) -> dict[str, str]:
    text = url + "".join(name + value for name, value in sorted((form or {}).items()))
    signature = hmac.new(token.encode(), text.encode(), hashlib.sha1).digest()
    return {
        "content-type": "application/x-www-form-urlencoded" if form else "application/json",
        "x-twilio-signature": base64.b64encode(signature).decode(),
    }


@pytest.fixture
def github(company: Company, ring: KeyRing) -> Source:
    """An address for GitHub."""
    return Source(company, ring, "github", {"webhook_secret": SECRET})


# What is taken


def test_a_signed_delivery_is_stored_as_it_came_and_answered(github: Source) -> None:
    body = json.dumps(PUSH, indent=3).encode() + b"\n"
    headers = by_github(
        body,
        authorization="Bearer secret-1",
        cookie="secret-2",
        apikey=github.api.publishable_key,
        **{"x-secret": "secret-3", "user-agent": "GitHub-Hookshot/1"},
    )
    answer = github.post(body, **headers)
    assert (answer.status_code, answer.json()) == (200, {"status": "received"})
    assert github.bodies() == [body]
    ((key, status, kept, size),) = github.events("event_key, status, headers, byte_count")
    assert (key, status, size) == (headers["x-github-delivery"], "received", len(body))
    assert kept["x-github-event"] == "push"
    assert kept["user-agent"] == "GitHub-Hookshot/1"
    assert kept["x-hub-signature-256"] == headers["x-hub-signature-256"]
    assert not [word for word in ("secret-", "cookie", "authorization", "apikey")
                if word in json.dumps(kept)]  # fmt: skip
    assert github.jobs() == 1


def test_both_content_types_of_github_are_signed_over_the_raw_body(github: Source) -> None:
    body = urlencode({"payload": json.dumps(PUSH)}).encode()
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert github.post(body, **by_github(body, **form)).status_code == 200
    assert github.bodies() == [body]


def test_a_repeated_delivery_is_answered_alike_and_does_nothing(github: Source) -> None:
    body = json.dumps(PUSH).encode()
    headers = by_github(body)
    answers = [github.post(body, **headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert [answer.json()["status"] for answer in answers] == ["received", "repeated", "repeated"]
    assert (len(github.events()), github.jobs()) == (1, 1)


def test_one_delivery_sent_at_once_by_many_is_processed_once(github: Source) -> None:
    body = json.dumps(PUSH).encode()
    headers = by_github(body)
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: github.post(body, **headers), range(20)))
    assert [answer.status_code for answer in answers] == [200] * 20
    assert (len(github.events()), github.jobs()) == (1, 1)
    done = subprocess.run(
        [sys.executable, "-m", "nessos", "worker", "--drain"],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=tool_environment(DATABASE_URL=github.api.database_url, PYTHONPATH=str(ROOT / "py")),
    )
    assert done.returncode == 0, done.stderr
    assert github.events("status, attempts, outcome") == [
        ("processed", 1, "push to refs/heads/main of acme/app")
    ]
    recorded = github.api.db.execute(
        "select payload ->> 'repository' from module_events"
        " where org_id = %s and event_type = 'repository.pushed'",
        (github.company.id,),
    ).fetchall()
    assert recorded == [("acme/app",)]


def test_resend_is_believed_within_five_minutes(company: Company, ring: KeyRing) -> None:
    source = Source(company, ring, "resend", {"webhook_secret": SVIX})
    body = b'{"type": "email.delivered"}'
    assert source.post(body, **by_resend(body)).json() == {"status": "received"}
    assert source.post(body, **by_resend(body, age=200)).json() == {"status": "repeated"}
    rotating = by_resend(body, message="msg_2")
    other = by_resend(body, message="msg_2", secret="whsec_" + "QUJD" * 8)["svix-signature"]
    rotating["svix-signature"] = f"{other} {rotating['svix-signature']}"
    assert source.post(body, **rotating).json() == {"status": "received"}
    for age in (400, -400, 86400):
        assert source.post(body, **by_resend(body, message="msg_3", age=age)).status_code == 401
    assert (
        source.events("event_key, status, outcome")[2:]
        == [("msg_3", "rejected", "timestamp out of window")] * 3
    )
    assert source.jobs() == 2


def test_twilio_signs_the_public_address_and_takes_xml(company: Company, ring: KeyRing) -> None:
    source = Source(company, ring, "twilio", {"auth_token": TWILIO})
    form = {"MessageSid": "SM1", "MessageStatus": "delivered", "To": "+551191234", "Nova": "ação"}
    url = f"{source.api.url}{source.path}"
    answer = source.post(urlencode(form).encode(), **by_twilio(url, form))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/xml")
    assert answer.text.endswith("<Response/>")
    again = source.post(urlencode(form).encode(), **by_twilio(url, form))
    assert again.status_code == 200
    with_query = f"{source.path}?attempt=1&b=%20"
    changed = form | {"MessageStatus": "sent"}
    headers = by_twilio(f"{source.api.url}{with_query}", changed)
    assert source.post(urlencode(changed).encode(), with_query, **headers).status_code == 200
    assert source.post(urlencode(changed).encode(), **headers).status_code == 401
    body = b'{"a": 1}'
    hashed = f"{source.path}?bodySHA256={hashlib.sha256(body).hexdigest()}"
    headers = by_twilio(f"{source.api.url}{hashed}")
    assert source.post(body, hashed, **headers).status_code == 200
    assert source.post(body + b" ", hashed, **headers).status_code == 401
    assert [status for _, status in source.events()].count("received") == 3


def test_evolution_comes_with_its_token_its_secret_or_the_address_alone(
    company: Company, ring: KeyRing
) -> None:
    body = b'{"event": "messages.update", "data": {}}'
    instance = {"url": "https://e.test", "api_key": "k", "instance": "i"}
    bare = Source(company, ring, "evolution", instance)
    appended = f"{bare.path}/messages-update"
    assert bare.post(body, appended).json() == {"status": "received"}
    assert bare.post(body).json() == {"status": "repeated"}
    secret = Source(
        company.api.company(), ring, "evolution", {**instance, "webhook_secret": "s-1"}
    )  # fmt: skip
    assert secret.post(body).status_code == 401
    assert secret.post(body, **{"x-webhook-secret": "s-2"}).status_code == 401
    assert secret.post(body, **{"x-webhook-secret": "s-1"}).status_code == 200
    key = "0123456789abcdef0123456789abcdef"
    token = Source(
        company.api.company(), ring, "evolution", {**instance, "webhook_jwt_key": key}
    )  # fmt: skip

    def bearer(age: float = 0, key: str = key, algorithm: str = "HS256") -> dict[str, str]:
        issued = int(time.time() - age)
        claims = {"iat": issued, "exp": issued + 600, "app": "evolution", "action": "webhook"}
        return {"authorization": f"Bearer {pyjwt.encode(claims, key, algorithm=algorithm)}"}

    assert token.post(body).status_code == 401
    assert token.post(body, **bearer(key="f" * 32)).status_code == 401
    assert token.post(body, **bearer(age=600 + 1860)).status_code == 401
    assert token.post(body, **bearer(algorithm="HS512", key=key * 2)).status_code == 401
    assert token.post(body, **bearer(age=600 + 1700)).json() == {"status": "received"}
    assert "Bearer" not in str(token.events("headers"))


def test_omie_is_known_by_its_message_id_and_its_ping_is_taken(
    company: Company, ring: KeyRing
) -> None:
    source = Source(company, ring, "omie")
    assert source.post(b'{"ping":"omie"}').status_code == 200
    told = {"messageId": "m-1", "topic": "OrdemServico.Faturada", "appKey": "1"}
    for body in (json.dumps(told), json.dumps(told, indent=1)):
        assert source.post(body.encode()).status_code == 200
    ping = "sha256:" + hashlib.sha256(b'{"ping":"omie"}').hexdigest()
    assert sorted(source.events()) == [("m-1", "received"), (ping, "received")]


# What is refused


@pytest.mark.parametrize(
    "headers",
    [
        {"x-hub-signature-256": ""},
        {"x-hub-signature-256": "sha256=" + "0" * 64},
        {"x-hub-signature-256": "sha1=" + "0" * 40, "x-hub-signature": "sha1=" + "0" * 40},
    ],
)
def test_a_wrong_signature_is_refused_kept_and_never_processed(
    github: Source, headers: dict[str, str]
) -> None:
    body = json.dumps(PUSH).encode()
    good = by_github(body)
    answer = github.post(body, **good | headers)
    assert (answer.status_code, answer.json()["message"]) == (401, "webhook_refused")
    assert github.events() == [(good["x-github-delivery"], "rejected")]
    assert github.jobs() == 0
    # A forgery under the id of a delivery to come does not keep that out.
    assert github.post(body, **good).json() == {"status": "received"}


def test_another_body_another_secret_or_none_is_refused(
    github: Source, company: Company, ring: KeyRing
) -> None:
    body = json.dumps(PUSH).encode()
    assert github.post(body + b" ", **by_github(body)).status_code == 401
    assert github.post(body, **by_github(body, key="guess")).status_code == 401
    unset = Source(company.api.company(), ring, "github")
    assert unset.post(body, **by_github(body, key="x")).status_code == 401
    assert unset.events("outcome") == [("no webhook_secret is stored",)]
    assert github.jobs() + unset.jobs() == 0


def test_a_guessed_token_is_answered_like_a_wrong_signature(github: Source, ring: KeyRing) -> None:
    body = json.dumps(PUSH).encode()
    omie = Source(github.api.company(), ring, "omie")
    wrong = github.post(body, **by_github(body, key="guess"))
    guesses = [
        github.post(body, path, **by_github(body))
        for path in (
            f"{github.path[:-1]}0" if github.path[-1] != "0" else f"{github.path[:-1]}1",
            github.path.upper().replace(
                "/FUNCTIONS/V1/WEBHOOK/GITHUB/", "/functions/v1/webhook/github/"
            ),
            "/functions/v1/webhook/github/x",
            "/functions/v1/webhook/github/%00",
            "/functions/v1/webhook/github/'%20or%20true",
            f"/functions/v1/webhook/github/{omie.token}",
            omie.path.replace("hook_", "hook_0"),
            github.path.replace("/github/", "/omie/"),
            github.path.replace("/github/", "/evolution/"),
        )
    ]
    for guess in guesses:
        assert (guess.status_code, guess.json()) == (wrong.status_code, wrong.json())
        assert set(guess.headers) == set(wrong.headers)
    github.company.owner.client.rpc(
        "revoke_webhook_source", {"org": str(github.company.id), "webhook_source": github.id}
    ).execute()
    revoked = github.post(body, **by_github(body))
    assert (revoked.status_code, revoked.json()) == (wrong.status_code, wrong.json())
    assert (len(github.events()), github.jobs()) == (1, 0)


def test_unknown_providers_and_paths_and_other_methods(github: Source) -> None:
    body = json.dumps(PUSH).encode()
    for path in (
        "/functions/v1/webhook",
        "/functions/v1/webhook/github",
        "/functions/v1/webhook/github/",
        f"/functions/v1/webhook/asaas/{github.token}",
        f"/functions/v1/webhook/constructor/{github.token}",
        f"{github.path}/more",
        f"/functions/v1/webhook/{github.token}",
    ):
        assert github.post(body, path, **by_github(body)).status_code == 404, path
    with httpx.Client(base_url=github.api.url) as http:
        for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"):
            answer = http.request(method, github.path)
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST"), method
    assert github.events() == []


def test_a_large_delivery_is_taken_up_to_the_limit(github: Source) -> None:
    body = b'{"ref": "' + b"x" * (5 * 1024 * 1024 - 11) + b'"}'
    assert len(body) == 5 * 1024 * 1024
    assert github.post(body, **by_github(body)).status_code == 200
    assert github.bodies() == [body]
    too_large = body + b" "
    answer = github.post(too_large, **by_github(too_large))
    assert (answer.status_code, answer.json()["message"]) == (413, "payload_too_large")
    assert len(github.events()) == 1


def test_hostile_bodies_and_headers_are_stored_or_refused_and_break_nothing(
    company: Company, ring: KeyRing
) -> None:
    omie = Source(company, ring, "omie")
    for body in (
        b"",
        b"\0" * 10,
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"messageId": "\\u0000"}',
        b'{"messageId": {"a": 1}}',
        b'{"messageId": "' + b"m" * 5000 + b'"}',
        b'{"__proto__": {"messageId": "p"}}',
        b"null",
    ):
        answer = omie.post(body, **{"x-github-event": "e" * 5000})
        assert (answer.status_code, answer.json()) == (200, {"status": "received"}), body[:30]
    assert all(key.startswith("sha256:") for key, _ in omie.events())
    assert {len(headers["x-github-event"]) for (headers,) in omie.events("headers")} == {1000}


def test_refused_deliveries_fill_no_disk_and_do_not_keep_out_good_ones(github: Source) -> None:
    body = json.dumps(PUSH).encode()
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(
            lambda _: github.post(body, **by_github(body, key="guess")).status_code, range(80)
        )
        assert set(answers) == {401}
    # Those that come at once may all see the last free place.
    assert 50 <= len(github.events()) < 50 + 8
    assert github.post(body, **by_github(body)).status_code == 200


def test_a_source_too_busy_is_429_and_told_how_long_to_wait(github: Source) -> None:
    github.api.db.execute(
        "update public.webhook_sources set rate_per_minute = 2 where id = %s", (github.id,)
    )
    body = json.dumps(PUSH).encode()
    answers = [github.post(body, **by_github(body)) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 60
    assert (len(github.events()), github.jobs()) == (2, 2)


@pytest.mark.usefixtures("github")
def test_one_organisation_never_receives_for_another(company: Company, ring: KeyRing) -> None:
    other = Source(company.api.company(), ring, "github", {"webhook_secret": "another secret"})
    body = json.dumps(PUSH).encode()
    assert other.post(body, **by_github(body)).status_code == 401
    moved = company.api.db.execute(
        "select ciphertext, key_id from integration_credentials where org_id = %s", (company.id,)
    ).fetchone()
    assert moved is not None
    # Credentials copied from another row do not open: nothing is believed, the provider tries again.
    company.api.db.execute(
        "update integration_credentials set ciphertext = %s, key_id = %s where org_id = %s",
        (*moved, other.company.id),
    )
    answer = other.post(body, **by_github(body))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert "credential" not in answer.text
    assert [status for _, status in other.events()] == ["rejected"]


@pytest.fixture
def broken(running: Running, github: Source) -> Iterator[Source]:
    """An address whose project has lost its REST interface."""
    running.stop("gateway")
    yield github
    running.start("gateway")


def test_without_the_database_the_provider_is_told_to_try_again(
    running: Running, broken: Source
) -> None:
    body = json.dumps(PUSH).encode()
    address = f"http://127.0.0.1:{running._stack.settings.functions_port}"
    path = broken.path.removeprefix("/functions/v1")
    with httpx.Client(base_url=address) as http:
        answer = http.post(path, content=body, headers=by_github(body))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert answer.json()["message"] == "unavailable"
