"""What refusals look like over HTTP: key, status, facts and way out, never what is inside."""

import json
import re
from typing import Any
from uuid import uuid4

import httpx
import pytest

from nessos.settings import ROOT
from tests.api.stack import Api, Company, new_address, refused

NOWHERE = "9f7f0000-0000-4000-8000-000000000000"


def error_of(answer: httpx.Response) -> tuple[int, str]:
    body = answer.json()
    assert set(body) == {"code", "message", "details", "hint"}, body
    return answer.status_code, body["message"]


def test_a_rule_answers_with_its_key_status_facts_and_way_out(company: Company) -> None:
    lead = company.lead("Lia")
    company.owner.client.table("leads").update({"status": "won"}).eq("id", lead["id"]).execute()
    answer = company.owner.http.patch(f"/rest/v1/leads?id=eq.{lead['id']}", json={"status": "new"})
    assert answer.status_code == 409
    assert answer.json() == {
        "code": "PT409",
        "message": "lead_move_refused",
        "details": "A lead cannot go from won to new.",
        "hint": "Allowed from here: nothing.",
    }


@pytest.mark.parametrize(
    ("function", "arguments", "refusal"),
    [
        ("create_organization", {"name": "x"}, (400, "bad_input")),
        ("set_organization_status", {"org": NOWHERE, "status": "active"}, (403, "not_allowed")),
        ("convert_lead", {"lead": NOWHERE, "document": "1"}, (404, "lead_not_found")),
        ("list_members", {"org": NOWHERE}, (404, "not_found")),
        ("accept_invitation", {"token": "x"}, (404, "invitation_not_found")),
    ],
)
def test_the_refusal_of_a_function_has_the_status_of_its_key(
    api: Api,
    company: Company,
    function: str,
    arguments: dict[str, Any],
    refusal: tuple[int, str],
) -> None:
    answer = company.owner.http.post(f"/rest/v1/rpc/{function}", json=arguments)
    assert error_of(answer) == refusal
    known = api.db.execute("select http, key from app.error_keys").fetchall()
    assert refusal in known


def test_a_rule_that_is_checked_at_the_end_of_the_transaction_answers_like_the_others(
    company: Company,
) -> None:
    service = company.insert("services_catalog", name="SOC", slug="soc")
    with refused("catalogue_locked", "PT422") as answer:
        company.owner.client.table("services_catalog").update({"is_active": True}).eq(
            "id", service["id"]
        ).execute()
    assert answer.details == "Active without a published playbook: SOC."
    rows = company.owner.client.table("services_catalog").select("is_active").execute().data
    assert rows == [{"is_active": False}]


@pytest.mark.parametrize(
    ("values", "status", "code"),
    [
        ({"score": 101}, 400, "23514"),
        ({"name": None}, 400, "23502"),
        ({"score": "many"}, 400, "22P02"),
        ({"client_id": NOWHERE}, 409, "23503"),
        ({"status": "no-such-status"}, 400, "23514"),
        ({"no_such_column": 1}, 400, "PGRST204"),
        ({"source_page": "Blog"}, 400, "428C9"),
        ({"owner_id": NOWHERE}, 422, "PT422"),
        ({"org_id": NOWHERE}, 403, "42501"),
    ],
)
def test_a_row_that_breaks_a_constraint_is_the_callers_mistake(
    company: Company, values: dict[str, Any], status: int, code: str
) -> None:
    row = {"org_id": str(company.id), "name": "Lia", "email": "l@leads.test", **values}
    answer = company.owner.http.post("/rest/v1/leads", json=row)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


def test_a_second_row_under_a_unique_key_is_a_conflict(company: Company) -> None:
    row = {"org_id": str(company.id), "document": "11444777000161", "name": "Aurora"}
    company.owner.http.post("/rest/v1/clients", json=row)
    answer = company.owner.http.post("/rest/v1/clients", json=row)
    assert (answer.status_code, answer.json()["code"]) == (409, "23505")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "no_such_table", 404, "PGRST205"),
        ("POST", "rpc/no_such_function", 404, "PGRST202"),
        ("GET", "leads?select=no_such_column", 400, "42703"),
        ("GET", "leads?select=name,playbooks(title)", 400, "PGRST200"),
        ("GET", "leads?id=eq.abc", 400, "22P02"),
        ("GET", "leads?score=foo.1", 400, "PGRST100"),
        ("GET", "leads?order=score.sideways", 400, "PGRST100"),
    ],
)
def test_a_request_that_cannot_be_understood_says_why(
    company: Company, method: str, path: str, status: int, code: str
) -> None:
    answer = company.owner.http.request(
        method, f"/rest/v1/{path}", json={} if method == "POST" else None
    )
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


INTERNALS = re.compile(
    r"node_modules|\.m?js\b|\.ts\b|\.sql\b|\bat .*:\d+:\d+|PostgresError|Error:|kysely|\bselect\b.+\bfrom\b"
    r"|\binsert into\b|PL/pgSQL|SECURITY DEFINER|stack|127\.0\.0\.1:\d+|postgresql://|authenticator"
    r"|sb_secret|" + re.escape(str(ROOT)),
    re.IGNORECASE | re.DOTALL,
)
DEEP = "[" * 5000 + "]" * 5000
HOSTILE: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "leads?select=(", {}),
    ("GET", "leads?select=*,clients(*,contracts(*,clients(*,contracts(*))))", {}),
    ("GET", "leads?select=name,clients!no_such_key(name)", {}),
    ("GET", "leads?id=eq.'; drop table leads; --", {}),
    ("GET", "leads?name=match.(", {}),
    ("GET", "leads?name=like.*%00*", {}),
    ("GET", "leads?name=eq.%ff%fe", {}),
    ("GET", "leads?score=eq.99999999999999999999", {}),
    ("GET", "leads?limit=-1", {}),
    ("GET", "leads?limit=99999999999999999999", {}),
    ("GET", "leads?offset=99999999999999999999", {}),
    ("GET", "leads?or=(name.eq.x", {}),
    ("GET", "leads?and=(or(or(or(or(", {}),
    ("GET", "leads?order=name.desc.nullsfirst.again", {}),
    ("GET", "leads?select=score.sum()", {}),
    ("GET", "leads?select=name::regclass", {}),
    ("GET", "leads?select=name::no_such_type", {}),
    ("GET", "leads", {"headers": {"range": "9-1"}}),
    ("GET", "leads", {"headers": {"range": "x-y"}}),
    ("GET", "leads", {"headers": {"accept": "application/vnd.pgrst.plan+json"}}),
    ("GET", "leads", {"headers": {"accept": "text/no-such-format"}}),
    ("GET", "leads", {"headers": {"accept-profile": "pg_catalog"}}),
    ("GET", "rpc/rollup_events", {}),
    ("GET", "rpc/submit_lead?org_slug=x&name=y&email=z", {}),
    ("GET", "rpc/pg_sleep?seconds=1", {}),
    ("GET", "%2e%2e/%2e%2e/storage/v1/bucket", {}),
    ("POST", "rpc/submit_lead", {"content": "{"}),
    ("POST", "rpc/submit_lead", {"content": DEEP}),
    ("POST", "rpc/submit_lead", {"json": {"org_slug": "a\0b", "name": "x", "email": "y"}}),
    ("POST", "rpc/submit_lead", {"json": [1, 2]}),
    ("POST", "rpc/submit_lead", {"json": {"org_slug": {}, "name": [], "email": 1}}),
    ("POST", "rpc/list_members", {"json": {"org": "abc"}}),
    ("POST", "rpc/list_members", {"json": {"org": None}}),
    ("POST", "rpc/get_data_indices", {"json": {"org": NOWHERE, "max_rows": "many"}}),
    ("POST", "leads", {"content": "{"}),
    ("POST", "leads", {"json": "text"}),
    ("POST", "leads", {"json": [[]]}),
    ("POST", "leads", {"json": {"name": {"a": 1}, "org_id": 5}}),
    ("POST", "leads", {"json": {"": 1}}),
    ("POST", "leads", {"content": "a,b\n1", "headers": {"content-type": "text/csv"}}),
    ("POST", "leads", {"content": "x", "headers": {"content-type": "image/png"}}),
    ("POST", "leads?on_conflict=nothing", {"json": {"name": "x"}}),
    ("PATCH", "leads?id=eq." + NOWHERE, {"json": {"id": "x"}}),
    ("PATCH", "leads", {"json": {}}),
    ("DELETE", "leads?no=eq.1", {}),
    ("PUT", "leads", {"json": {}}),
    ("OPTIONS", "leads", {}),
    ("TRACE", "leads", {}),
]


@pytest.fixture(scope="module")
def asker(api: Api) -> Company:
    """A company of this module, which asks for odd things."""
    return api.company()


@pytest.mark.parametrize(
    ("method", "path", "more"),
    HOSTILE,
    ids=[f"{method} {path}"[:60] for method, path, _ in HOSTILE],
)
def test_odd_requests_get_an_answer_that_shows_nothing_of_the_inside(
    api: Api, asker: Company, method: str, path: str, more: dict[str, Any]
) -> None:
    with api.http(asker.owner.token, address=new_address()) as http:
        answer = http.request(method, f"/rest/v1/{path}", **more)
    assert answer.status_code < 500, answer.text
    assert not INTERNALS.search(answer.text), answer.text
    if answer.status_code >= 400:
        assert set(answer.json()) >= {"code", "message"}, answer.text


AUTH: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "signup", {"content": "{"}),
    ("POST", "signup", {"json": {}}),
    ("POST", "signup", {"json": {"email": ["x"], "password": {}}}),
    ("POST", "signup", {"json": {"email": "x@people.test", "password": "x" * 5000}}),
    ("POST", "token", {"json": {}}),
    ("POST", "token?grant_type=refresh_token", {"json": {"refresh_token": {}}}),
    ("POST", "token?grant_type=no_such", {"json": {}}),
    ("POST", "recover", {"json": {"email": "'; drop table auth.users; --"}}),
    ("POST", "verify", {"json": {"type": "signup", "token": "x", "email": "x"}}),
    ("GET", "verify?token=x&type=signup&redirect_to=https://evil.test", {}),
    ("GET", "authorize?provider=no_such", {}),
    ("GET", "user", {}),
    ("PUT", "user", {"json": {"password": "x"}}),
    ("GET", "admin/users", {}),
    ("POST", "admin/users", {"json": {"email": "x@people.test"}}),
    ("GET", "settings", {}),
    ("GET", "no_such_page", {}),
]


@pytest.mark.parametrize(
    ("method", "path", "more"), AUTH, ids=[f"{method} {path}"[:60] for method, path, _ in AUTH]
)
def test_odd_requests_to_auth_get_an_answer_that_shows_nothing_of_the_inside(
    api: Api, method: str, path: str, more: dict[str, Any]
) -> None:
    with api.http() as http:
        answer = http.request(method, f"/auth/v1/{path}", **more)
    assert answer.status_code < 500, answer.text
    assert not INTERNALS.search(answer.text), answer.text
    assert "evil.test" not in answer.headers.get("location", "")


def test_what_goes_wrong_inside_is_told_to_the_log_and_not_to_the_caller(
    api: Api, company: Company
) -> None:
    # A function that is broken on purpose, as a migration gone wrong would leave it.
    api.db.execute(
        "create function public.broken_on_purpose() returns integer language plpgsql"
        " set search_path = '' as $$ begin raise sqlstate 'XX001' using"
        " message = 'page 7 of /var/lib/secret/base is torn'; end $$;"
        " grant execute on function public.broken_on_purpose() to authenticated;"
        " notify pgrst, 'reload schema'"
    )
    request_id = uuid4().hex
    try:
        answer = call_until_known(company, "broken_on_purpose", request_id)
    finally:
        api.db.execute("drop function public.broken_on_purpose(); notify pgrst, 'reload schema'")
    assert answer.status_code == 500
    assert answer.json() == {
        "code": "internal_error",
        "message": "Something went wrong on our side.",
        "details": None,
        "hint": f"Ask about request {request_id}.",
    }
    assert answer.headers["x-request-id"] == request_id
    assert any(request_id in line and "torn" in line for line in api.log.read_text().splitlines())


def call_until_known(company: Company, function: str, request_id: str) -> httpx.Response:
    for _ in range(200):
        answer = company.owner.http.post(
            f"/rest/v1/rpc/{function}", json={}, headers={"x-request-id": request_id}
        )
        if answer.status_code != 404:
            break
    return answer


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(company: Company) -> None:
    answer = company.owner.http.post("/rest/v1/leads", content=b" " * (11 * 1024 * 1024) + b"[]")
    assert error_of(answer) == (413, "The body exceeds 10 MB.")


def test_an_unknown_address_says_which_there_are(api: Api) -> None:
    with api.http() as http:
        answer = http.get("/storage/v1/bucket")
    assert answer.status_code == 404
    assert "/rest/v1" in json.dumps(answer.json())
