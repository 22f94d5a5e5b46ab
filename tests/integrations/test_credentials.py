"""Credentials of organisations: what is stored, who can open it, and how the key is rotated."""

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

import psycopg
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr

from nessos import credentials, settings
from nessos.credentials import PROVIDERS, KeyRing, check
from nessos.errors import CredentialsError, UsageError
from nessos.settings import ROOT
from tests.integrations.outside import open_pool
from tests.people import Connection, World, as_member, denied, refused

Reader = psycopg.Connection[dict[str, Any]]

OLD, NEW = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
OMIE = {"app_key": "38333295000", "app_secret": "geheim-omie"}
VALID: Mapping[str, Mapping[str, str]] = {
    "evolution": {"url": "http://10.0.0.4:8080", "api_key": "k", "instance": "vigia"},
    "github": {"webhook_secret": "s"},
    "omie": OMIE,
    "resend": {"api_key": "re_1", "from": "Vigia <ola@vigia.example>", "webhook_secret": "whsec_AA=="},
    "twilio": {"account_sid": "AC1", "auth_token": "t", "from": "+5511987654321"},
}  # fmt: skip


def ring(*keys: str) -> KeyRing:
    return KeyRing.parse(SecretStr(",".join(keys)))


@pytest.fixture(autouse=True)
def _own_key(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("NESSOS_ENCRYPTION_KEYS", OLD)
    settings.load.cache_clear()
    yield
    monkeypatch.undo()
    settings.load.cache_clear()


def store(url: str, org: UUID, provider: str, values: Mapping[str, str]) -> None:
    async def run() -> None:
        async with open_pool(url) as pool:
            await credentials.store(pool, org_id=org, provider=provider, values=values)

    asyncio.run(run())


def read(url: str, org: UUID, provider: str) -> dict[str, str] | None:
    async def run() -> dict[str, SecretStr] | None:
        async with open_pool(url) as pool:
            return await credentials.read(pool, org_id=org, provider=provider)

    found = asyncio.run(run())
    assert "geheim" not in repr(found)
    return None if found is None else {k: v.get_secret_value() for k, v in found.items()}


def events(reader: Reader, org: UUID) -> list[tuple[str, str]]:
    rows = reader.execute(
        "select event_type, payload ->> 'provider' as provider from public.module_events"
        " where org_id = %s and event_type like 'integration.%%' order by occurred_at",
        (org,),
    ).fetchall()
    return [(row["event_type"], row["provider"]) for row in rows]


def nessos(
    url: str, *arguments: str, given: object = None, keys: str = OLD
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nessos", "integrations", *arguments],
        check=False, capture_output=True, text=True, cwd=ROOT, input=json.dumps(given),
        env={**os.environ, "DATABASE_URL": url, "PYTHONPATH": str(ROOT / "py"), "NESSOS_ENCRYPTION_KEYS": keys},
    )  # fmt: skip


def test_what_was_stored_comes_back_for_the_same_organisation_and_provider_only(
    own_db_url: str, world: World
) -> None:
    store(own_db_url, world.a.org, "omie", OMIE)
    assert read(own_db_url, world.a.org, "omie") == OMIE
    assert read(own_db_url, world.b.org, "omie") is None
    assert read(own_db_url, world.a.org, "twilio") is None


def test_a_row_copied_to_another_organisation_or_provider_does_not_open(
    own_db_url: str, world: World
) -> None:
    store(own_db_url, world.a.org, "omie", OMIE)
    copy = (
        "insert into public.integration_credentials (org_id, provider, ciphertext, key_id)"
        " select %s, %s, ciphertext, key_id from public.integration_credentials where org_id = %s"
        " and provider = 'omie'"
    )
    with psycopg.connect(own_db_url) as db:
        db.execute(copy, (world.b.org, "omie", world.a.org))
        db.execute(copy, (world.a.org, "github", world.a.org))
    for org, provider in ((world.b.org, "omie"), (world.a.org, "github")):
        with pytest.raises(CredentialsError, match="changed or come from elsewhere"):
            read(own_db_url, org, provider)
    assert read(own_db_url, world.a.org, "omie") == OMIE


@pytest.mark.parametrize("place", [0, 12, -1])
def test_a_changed_byte_anywhere_is_noticed(place: int, world: World) -> None:
    sealed, key_id = ring(OLD).seal(org_id=world.a.org, provider="omie", values=OMIE)
    changed = bytearray(sealed)
    changed[place] ^= 1
    with pytest.raises(CredentialsError):
        ring(OLD).open(
            org_id=world.a.org, provider="omie", ciphertext=bytes(changed), key_id=key_id
        )


def test_the_format_is_the_one_the_edge_functions_read(world: World) -> None:

    sealed, key_id = ring(OLD).seal(org_id=world.a.org, provider="omie", values=OMIE)
    plain = AESGCM(bytes([1]) * 32).decrypt(
        sealed[:12], sealed[12:], f"{world.a.org}/omie".encode()
    )
    assert json.loads(plain) == OMIE
    assert key_id == "72cd6e84"  # sha256 of 32 bytes 01
    again, _ = ring(OLD).seal(org_id=world.a.org, provider="omie", values=OMIE)
    assert sealed[:12] != again[:12]


def test_the_first_key_encrypts_and_all_decrypt(world: World) -> None:
    place: Any = {"org_id": world.a.org, "provider": "omie"}
    sealed, key_id = ring(OLD).seal(**place, values=OMIE)
    assert ring(NEW, OLD).open(**place, ciphertext=sealed, key_id=key_id) == OMIE
    assert ring(NEW, OLD).seal(**place, values=OMIE)[1] == ring(NEW).first
    with pytest.raises(CredentialsError, match="not in NESSOS_ENCRYPTION_KEYS"):
        ring(NEW).open(**place, ciphertext=sealed, key_id=key_id)


@pytest.mark.parametrize("text", ["", "  ", "short", "AAAA", f"{OLD},", f"{OLD[:-4]}"])
def test_a_key_ring_that_is_malformed_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="NESSOS_ENCRYPTION_KEYS") as caught:
        KeyRing.parse(SecretStr(text))
    assert "openssl rand -base64 32" in str(caught.value)


@pytest.mark.parametrize("provider", sorted(VALID))
def test_what_each_provider_asks_for_is_taken(provider: str) -> None:
    values = {name: f" {value} " for name, value in VALID[provider].items()}
    assert check(provider=provider, values=values) == VALID[provider]


@pytest.mark.parametrize(
    ("provider", "change", "words"),
    [
        ("omie", {"app_key": "x-geheim"}, "app_key: must be a number"),
        ("omie", {"app_secret": ""}, "app_secret: Field required"),
        ("omie", {"app_secret": "geheim\nX-Header: 1"}, "app_secret: must be one line"),
        ("omie", {"geheim": "1"}, "geheim: Extra inputs are not permitted"),
        ("resend", {"from": "geheim"}, "from: must be address"),
        ("resend", {"webhook_secret": "geheim"}, "webhook_secret: must be Resend's"),
        ("twilio", {"from": "11987654321"}, "from: must be a number as"),
        ("twilio", {"account_sid": "SK1"}, "account_sid: must be Twilio's"),
        ("evolution", {"url": "ftp://host"}, "url: must be an address"),
        ("evolution", {"url": "https://user:geheim@host"}, "url: must be an address"),
        ("nowhere", {}, "nowhere is not connected with credentials"),
    ],
)
def test_what_is_wrong_is_said_by_field_and_without_the_value(
    provider: str, change: dict[str, str], words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        check(provider=provider, values={**VALID.get(provider, {}), **change})
    assert words in str(caught.value)
    assert "geheim" not in str(caught.value).replace("geheim: Extra", "")


def test_python_and_the_catalogue_know_the_same_providers(db: Connection) -> None:
    rows = db.execute(
        "select provider from app.integration_providers where has_credentials order by provider"
    ).fetchall()
    assert [row[0] for row in rows] == sorted(PROVIDERS) == sorted(VALID)


def test_an_admin_sees_that_a_provider_is_connected_and_nobody_sees_with_what(
    own_db_url: str, world: World
) -> None:
    store(own_db_url, world.a.org, "omie", OMIE)
    with psycopg.connect(own_db_url) as db:
        for role in ("owner", "admin"):
            with as_member(db, world.a, role):
                row = db.execute(
                    "select provider, status, key_id from public.integration_credentials"
                ).fetchall()
                assert row == [("omie", "connected", ring(OLD).first)]
                listed = db.execute(
                    "select provider, status from public.list_integrations(%s)", (world.a.org,)
                ).fetchall()
                assert dict(listed) == {
                    "evolution": "not_connected", "github": "not_connected", "omie": "connected",
                    "resend": "not_connected", "twilio": "not_connected",
                }  # fmt: skip
                for columns in ("ciphertext", "*"):
                    with denied(db):
                        db.execute(f"select {columns} from public.integration_credentials")
        with as_member(db, world.a, "finance"):
            rows = db.execute("select provider from public.integration_credentials").fetchall()
            assert rows == []


def test_the_audit_log_and_the_events_tell_of_it_without_the_values(
    own_db_url: str, world: World
) -> None:
    store(own_db_url, world.a.org, "omie", OMIE)
    store(own_db_url, world.a.org, "omie", {**OMIE, "app_secret": "geheim-2"})
    with psycopg.connect(own_db_url, autocommit=True) as db:
        db.execute("select app.remove_credentials(%s, 'omie')", (world.a.org,))
        rows = db.execute(
            "select action, changes from public.audit_log where table_name = 'integration_credentials'"
            " order by occurred_at"
        ).fetchall()
    assert [action for action, _ in rows] == ["insert", "update", "delete"]
    assert [changes["ciphertext"] for _, changes in rows] == [["***", "***"]] * 3
    with psycopg.connect(own_db_url, row_factory=psycopg.rows.dict_row) as reader:
        assert events(reader, world.a.org) == [
            ("integration.connected", "omie"),
            ("integration.replaced", "omie"),
            ("integration.removed", "omie"),
        ]


def test_the_command_line_connects_shows_and_disconnects(own_db_url: str, world: World) -> None:
    done = nessos(own_db_url, "set", "omie", "--org", "alfa", given=OMIE)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "omie is connected for alfa: app_key, app_secret\n"
    assert read(own_db_url, world.a.org, "omie") == OMIE
    shown = nessos(own_db_url, "status", "--org", "alfa", "--json")
    states = {row["provider"]: row["status"] for row in json.loads(shown.stdout)}
    assert states["omie"] == "connected"
    unsure = nessos(own_db_url, "remove", "omie", "--org", "alfa")
    assert (unsure.returncode, "say --yes" in unsure.stderr) == (2, True)
    removed = nessos(own_db_url, "remove", "omie", "--org", "alfa", "--yes")
    assert removed.stdout == "omie is disconnected\n"
    assert read(own_db_url, world.a.org, "omie") is None


@pytest.mark.parametrize("given", [None, ["app_key"], {"app_key": 1}])
def test_standard_input_that_is_no_object_of_texts_is_refused(db_url: str, given: object) -> None:
    done = nessos(db_url, "set", "omie", "--org", "alfa", given=given)
    assert (done.returncode, "not a JSON object of texts" in done.stderr) == (2, True)


def test_a_rotation_puts_every_row_under_the_first_key_and_can_be_run_again(
    own_db_url: str, world: World
) -> None:
    for org in (world.a.org, world.b.org):
        for provider, values in VALID.items():
            store(own_db_url, org, provider, values)
    both = f"{NEW},{OLD}"
    dry = nessos(own_db_url, "rotate", "--dry-run", "--json", keys=both)
    new = ring(NEW).first
    assert json.loads(dry.stdout) == {"key_id": new, "rotated": 10, "failed": 0}
    with psycopg.connect(own_db_url, row_factory=psycopg.rows.dict_row, autocommit=True) as db:
        # Stopped after three rows: what is done stays done.
        for _, done in zip(range(3), credentials.rotate(db, ring(NEW, OLD)), strict=False):
            assert done.error is None
        before = db.execute(
            "select count(*) as old from public.integration_credentials where key_id <> %s", (new,)
        ).fetchone()
        assert before == {"old": 7}
        assert json.loads(nessos(own_db_url, "rotate", "--json", keys=both).stdout)["rotated"] == 7
        again = nessos(own_db_url, "rotate", "--json", keys=both)
        assert json.loads(again.stdout)["rotated"] == 0
        changed = events(db, world.a.org)
        stored = db.execute(
            "select bool_and(stored_at = created_at) as kept from public.integration_credentials"
        ).fetchone()
    assert changed.count(("integration.rotated", "omie")) == 1
    assert stored == {"kept": True}
    with psycopg.connect(own_db_url, row_factory=psycopg.rows.dict_row) as db:
        for row in db.execute(
            "select org_id, provider, ciphertext, key_id from public.integration_credentials"
        ):
            assert ring(NEW).open(**row) == VALID[row["provider"]]


def test_a_rotation_leaves_what_it_cannot_open_and_says_so(own_db_url: str, world: World) -> None:
    store(own_db_url, world.a.org, "omie", OMIE)
    done = nessos(own_db_url, "rotate", keys=NEW)
    assert done.returncode == 3
    assert f"under the key {ring(OLD).first}" in done.stderr
    assert read(own_db_url, world.a.org, "omie") == OMIE


def test_a_rotation_does_not_undo_what_was_stored_meanwhile(own_db_url: str, world: World) -> None:
    store(own_db_url, world.a.org, "omie", OMIE)
    with psycopg.connect(own_db_url, row_factory=psycopg.rows.dict_row, autocommit=True) as db:
        row = db.execute("select * from public.integration_credentials").fetchone()
        assert row is not None
        newer = {**OMIE, "app_secret": "newer"}
        store(own_db_url, world.a.org, "omie", newer)
        sealed = ring(NEW).seal(org_id=world.a.org, provider="omie", values=OMIE)
        answer = db.execute(
            "select app.rotate_credentials(%s, 'omie', %s, %s, %s) as rotated",
            (world.a.org, row["ciphertext"], *sealed),
        ).fetchone()
    assert answer == {"rotated": False}
    assert read(own_db_url, world.a.org, "omie") == newer


def test_only_a_provider_of_the_catalogue_that_asks_for_credentials_can_be_stored(
    db: Connection, world: World
) -> None:
    for provider in ("nowhere", "bcb"):
        with refused("provider_unknown", db):
            db.execute(
                "select app.store_credentials(%s, %s, %s, '00000000')",
                (world.a.org, provider, b"x" * 40),
            )


def test_doctor_names_keys_that_are_missing_or_no_longer_the_first(
    own_db_url: str, world: World
) -> None:
    store(own_db_url, world.a.org, "omie", OMIE)
    old = ring(OLD).first

    def findings(keys: str) -> list[dict[str, str]]:
        done = subprocess.run(
            [sys.executable, "-m", "nessos", "doctor", "--json"],
            check=False, capture_output=True, text=True, cwd=ROOT,
            env={**os.environ, "DATABASE_URL": own_db_url, "PYTHONPATH": str(ROOT / "py"), "NESSOS_ENCRYPTION_KEYS": keys},
        )  # fmt: skip
        return [one for one in json.loads(done.stdout) if one["part"] == "credentials"]

    assert findings(OLD) == []
    assert [one["finding"] for one in findings(f"{NEW},{OLD}")] == [
        f"1 are under the key {old}, which is not the first"
    ]
    assert [one["finding"] for one in findings(NEW)] == [
        f"1 are under the key {old}, which is not in NESSOS_ENCRYPTION_KEYS"
    ]
    assert findings("")[0]["finding"] == "NESSOS_ENCRYPTION_KEYS is not set"
