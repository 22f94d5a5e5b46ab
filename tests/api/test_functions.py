"""Edge functions behind the gateway's address."""

from tests.api.stack import Api


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
