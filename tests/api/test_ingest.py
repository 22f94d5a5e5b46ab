"""Measurements over HTTP: the function `ingest`, and the same rules over REST."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.api.stack import Api, Company, refused


class Machine:
    """A machine with a key of an organisation."""

    def __init__(self, company: Company, *, rate: int = 1000) -> None:
        self.company = company
        row = company.owner.client.rpc(
            "create_api_key",
            {
                "org": str(company.id),
                "name": "Zabbix",
                "scopes": ["indicators:write"],
                "rate_per_minute": rate,
            },
        ).execute()
        self.id: str = row.data["id"]
        self.key: str = row.data["key"]

    def post(self, body: object, **headers: str) -> httpx.Response:
        """Send a body, as JSON unless it is bytes already."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"x-api-key": self.key, "content-type": "application/json", **headers}
        with httpx.Client(base_url=self.company.api.url, timeout=30) as http:
            return http.post("/functions/v1/ingest", content=content, headers=sent)

    def stored(self, columns: str = "count(*)") -> list[tuple[Any, ...]]:
        """Read what has been stored for its organisation."""
        return self.company.api.db.execute(
            f"select {columns} from public.indicators where org_id = %s", (self.company.id,)
        ).fetchall()


@pytest.fixture
def machine(functions: Api, company: Company) -> Machine:
    """A machine of a company of this test alone."""
    assert functions.url == company.api.url
    return Machine(company)


def measured(**more: object) -> dict[str, object]:
    return {"source": "Infra", "metric_type": "uptime_pct", "value": 99.9, **more}


def test_the_payload_of_the_requirement_is_taken_with_either_header(machine: Machine) -> None:
    payload = measured(period="2025-02-01", metadata={"environment": "prod"})
    for headers in (
        {},
        {"x-api-key": "", "authorization": f"Bearer {machine.key}"},
        {"authorization": f"Bearer {machine.company.api.publishable_key}"},
        {"content-type": "application/json; charset=utf-8"},
    ):
        given = {name: value for name, value in headers.items() if value}
        if "x-api-key" in headers:
            with httpx.Client(base_url=machine.company.api.url) as http:
                answer = http.post("/functions/v1/ingest", json=payload, headers=given)
        else:
            answer = machine.post(payload, **given)
        assert answer.status_code == 200, answer.text
        assert set(answer.json()) == {"ok", "status", "id"}
        assert answer.json()["ok"] is True
    assert machine.stored() == [(4,)]


def test_numbers_keep_all_their_digits(machine: Machine) -> None:
    text = b'{"source": "Data", "metric_type": "total", "value": 12345678901234567.8901}'
    assert machine.post(text).status_code == 200
    # The local gateway reads numbers as JavaScript does; PostgREST passes them on.
    assert str(machine.stored("value")[0][0]).startswith("1234567890123456")
    quoted = b'{"source": "Data", "metric_type": "total", "value": "0.12345678901234567890"}'
    assert machine.post(quoted).status_code == 200
    assert "0.12345678901234567890" in {str(value) for (value,) in machine.stored("value")}


def test_a_batch_is_answered_measurement_by_measurement(machine: Machine) -> None:
    batch = [measured(idempotency_key="a"), measured(value="x"), measured(idempotency_key="a")]
    answer = machine.post(batch)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["ok"], body["stored"], body["repeated"], body["rejected"]) == (False, 1, 1, 1)
    assert [(r["index"], r["status"], r.get("error"), r.get("field")) for r in body["results"]] == [
        (0, "stored", None, None),
        (1, "rejected", "bad_input", "value"),
        (2, "repeated", None, None),
    ]


def test_a_request_sent_again_with_its_key_stores_nothing_twice(machine: Machine) -> None:
    batch = [measured(), measured(value=98)]
    first, again = (machine.post(batch, **{"idempotency-key": "run-1"}).json() for _ in range(2))
    assert (first["stored"], again["repeated"]) == (2, 2)
    assert [r["id"] for r in first["results"]] == [r["id"] for r in again["results"]]
    other = machine.post(measured(value=1), **{"idempotency-key": "run-1"})
    assert (other.status_code, other.json()["message"]) == (409, "idempotency_key_reused")


def test_one_request_sent_at_once_by_many_is_stored_once(machine: Machine) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(
                lambda _: machine.post(measured(), **{"idempotency-key": "same"}).json(), range(16)
            )
        )
    assert sorted(answer["status"] for answer in answers) == ["repeated"] * 15 + ["stored"]
    assert machine.stored() == [(1,)]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (measured(source="Other"), "source"),
        (measured(value=None), "value"),
        (measured(period="2026-13-01"), "period"),
        (measured(metadata=[1]), "metadata"),
        (measured(unit="a\0b"), "unit"),
        (measured(metadata={"deep": {"er": ["a\0"]}}), "metadata.deep.er[0]"),
        (measured(unit="\ud800"), "unit"),
        ([measured(), measured(unit="\0")], "[1].unit"),
        (json.loads("[" * 30 + "]" * 30), "[0][0][0][0]"),
        ([], "indicators"),
        ("text", "indicator"),
        (None, "indicator"),
    ],
)
def test_what_is_malformed_is_400_and_named(machine: Machine, body: object, field: str) -> None:
    answer = machine.post(body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["message"] == "bad_input"
    assert answer.json()["details"].startswith(f"{field}: ")
    assert machine.stored() == [(0,)]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"source=Infra",
        b"\xff\xfe",
        b'{"source": NaN}',
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"source": "Infra", "metric_type": "m", "value": 1e99999}',
    ],
)
def test_a_hostile_body_is_400_and_nothing_breaks(machine: Machine, body: bytes) -> None:
    answer = machine.post(body)
    assert (answer.status_code, answer.json()["message"]) == (400, "bad_input"), answer.text
    assert machine.post(measured()).status_code == 200


def test_without_a_good_key_nothing_is_taken(machine: Machine) -> None:
    api = machine.company.api
    with httpx.Client(base_url=api.url) as http:
        for headers in (
            {},
            {"authorization": "Basic eDp5"},
            {"authorization": f"Bearer {api.publishable_key}"},
            {"authorization": f"Bearer {machine.company.owner.token}"},
            {"authorization": f"Bearer {machine.key}", "x-api-key": "wrong"},
            {"x-api-key": f"{machine.key}0"},
            {"x-api-key": machine.key.upper()},
            {"x-api-key": "' or true --"},
        ):
            answer = http.post("/functions/v1/ingest", json=measured(), headers=headers)
            assert answer.status_code == 401, headers
            assert answer.json()["message"] in {"api_key_missing", "api_key_invalid"}
            assert answer.headers["www-authenticate"] == "Bearer"
            assert machine.key not in answer.text
    machine.company.owner.client.rpc(
        "revoke_api_key", {"org": str(machine.company.id), "api_key": machine.id}
    ).execute()
    assert machine.post(measured()).status_code == 401
    assert machine.stored() == [(0,)]


def test_other_methods_and_media_types_are_refused(machine: Machine) -> None:
    with httpx.Client(base_url=machine.company.api.url) as http:
        for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS"):
            answer = http.request(
                method, "/functions/v1/ingest", headers={"x-api-key": machine.key}
            )
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST"), method
    for media_type in ("text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""):
        answer = machine.post(measured(), **{"content-type": media_type})
        assert answer.status_code == 415, media_type


def test_too_much_is_413(machine: Machine) -> None:
    many = machine.post([measured() for _ in range(1001)])
    assert (many.status_code, many.json()["message"]) == (413, "batch_too_large")
    large = machine.post(b'{"source": "' + b"x" * (2 * 1024 * 1024) + b'"}')
    assert (large.status_code, large.json()["message"]) == (413, "payload_too_large")
    assert machine.post([measured() for _ in range(1000)]).json()["stored"] == 1000


def test_a_body_of_unknown_length_is_read_as_far_as_it_may_be(machine: Machine) -> None:
    headers = {"x-api-key": machine.key, "content-type": "application/json"}
    pieces = [b'{"source": "Infra", "metric_type": "m", ', b'"value": 2}']
    endless = [b'{"source": "' + b"x" * 1024 * 1024] * 3
    with httpx.Client(base_url=machine.company.api.url, timeout=30) as http:
        for content, status in ((pieces, 200), (endless, 413)):
            answer = http.post("/functions/v1/ingest", content=iter(content), headers=headers)
            assert answer.status_code == status, answer.text


def test_a_key_too_busy_is_429_and_told_how_long_to_wait(functions: Api, company: Company) -> None:
    busy, calm = Machine(company, rate=2), Machine(company)
    assert [busy.post(measured()).status_code for _ in range(3)] == [200, 200, 429]
    refusal = busy.post(measured())
    assert refusal.json()["message"] == "rate_limited"
    assert 1 <= int(refusal.headers["retry-after"]) <= 60
    assert calm.post(measured()).status_code == 200
    assert functions.db.execute(
        "select count(*) from public.indicators where org_id = %s", (company.id,)
    ).fetchone() == (3,)


def test_a_suspended_organisation_takes_nothing(machine: Machine) -> None:
    machine.company.api.db.execute(
        "update public.organizations set status = 'suspended' where id = %s",
        (machine.company.id,),
    )
    answer = machine.post(measured())
    assert (answer.status_code, answer.json()["message"]) == (403, "organization_suspended")


def test_the_same_rules_hold_over_rest(machine: Machine) -> None:
    visitor = machine.company.api.client()
    answer = visitor.rpc(
        "ingest_indicators",
        {
            "api_key": machine.key,
            "indicators": [measured(), measured(source="?")],
            "idempotency_key": "r",
        },
    ).execute()
    assert [result["status"] for result in answer.data["results"]] == ["stored", "rejected"]
    with refused("bad_input", "PT400") as refusal:
        visitor.rpc(
            "ingest_indicators", {"api_key": machine.key, "indicators": measured(source="?")}
        ).execute()
    assert (refusal.details or "").startswith("source: ")
    with refused("api_key_invalid", "PT401"):
        visitor.rpc("ingest_indicators", {"api_key": "x", "indicators": measured()}).execute()
    with refused("batch_too_large", "PT413"):
        visitor.rpc(
            "ingest_indicators",
            {"api_key": machine.key, "indicators": [measured() for _ in range(1001)]},
        ).execute()


def test_a_key_writes_to_its_own_organisation_only(functions: Api, machine: Machine) -> None:
    other = functions.company()
    client = other.insert("clients", name="Outra", document="11444777000161")
    contract = other.insert(
        "contracts", client_id=client["id"], title="Alheio", starts_on="2026-01-01"
    )
    answer = machine.post(measured(contract_id=contract["id"]))
    assert (answer.status_code, answer.json()["message"]) == (404, "contract_not_found")
    assert answer.json()["field"] == "contract_id"
    assert machine.post(measured(org_id=str(other.id), id=str(uuid4()))).status_code == 200
    assert [org for (org,) in machine.stored("org_id")] == [machine.company.id]
