"""Edge functions behind the gateway's address."""

from datetime import UTC, datetime
from uuid import uuid4

import httpx

from tests.api.stack import Api, Company


def test_while_the_functions_server_is_down_the_gateway_says_so(api: Api) -> None:
    with api.http() as http:
        answer = http.get("/functions/v1/health")
    assert (answer.status_code, answer.json()["code"]) == (502, "functions_down")
    assert "127.0.0.1" not in answer.text


def test_a_function_is_served_with_and_without_supabase_py(functions: Api) -> None:
    with functions.http() as http:
        assert http.get("/functions/v1/health").json()["status"] == "ok"
    answer = functions.client().functions.invoke("health", {"responseType": "json"})
    assert answer["status"] == "ok"


def test_an_unknown_function_is_not_found(functions: Api) -> None:
    with functions.http() as http:
        for name in ("no-such-function", "../local/functions.ts", "_shared", ""):
            answer = http.get(f"/functions/v1/{name}")
            assert answer.status_code in {200, 404}, name
            assert answer.status_code == 404 or set(answer.json()) == {"status", "functions"}


def test_anybody_may_ask_how_the_services_outside_are_and_learns_nothing_of_organisations(
    functions: Api, company: Company
) -> None:
    account = uuid4().hex[:16]
    for outcome in ["ok"] * 4 + ["retry"]:
        functions.db.execute(
            "select app.end_call(gen_random_uuid(), 'omie', %s, '[]', %s, 'POST', 'ListarOS', 1, %s,"
            " null, 200, 5, 10, null, null)",
            (account, company.id, outcome),
        )
    with httpx.Client(base_url=functions.url) as http:
        answer = http.get("/functions/v1/health/integrations")
        assert http.get("/functions/v1/health/elsewhere").status_code == 404
    assert answer.headers["cache-control"] == "public, max-age=10"
    found = {one["provider"]: one for one in answer.json()["integrations"]}
    omie = found["omie"]
    assert datetime.fromisoformat(omie.pop("last_success_at")) <= datetime.now(UTC)
    assert omie == {
        "provider": "omie", "title": "Omie", "state": "degraded", "breaker": "closed", "error_rate": 0.2,
    }  # fmt: skip
    assert found["bcb"]["state"] == "unknown"
    assert "webhook" not in found
    for secret in (account, str(company.id), company.slug):
        assert secret not in answer.text


def test_health_over_rest_is_the_worker_s_only(functions: Api, company: Company) -> None:
    with functions.http(company.owner.token) as http:
        assert http.post("/rest/v1/rpc/get_integration_health").status_code == 403
        own = http.post("/rest/v1/rpc/list_integrations", json={"org": str(company.id)})
        assert {row["status"] for row in own.json()} == {"not_connected"}
        hidden = http.get("/rest/v1/integration_credentials?select=ciphertext")
        assert (hidden.status_code, hidden.json()["code"]) == (403, "42501")
        assert http.get("/rest/v1/integration_credentials?select=provider").json() == []
