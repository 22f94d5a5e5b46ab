"""The gateway while something happens to it."""

from concurrent.futures import ThreadPoolExecutor

from tests.api.stack import Api, Company


def test_a_reload_of_the_schema_loses_no_request(api: Api, company: Company) -> None:
    def ask(number: int) -> int:
        if number % 40 == 20:
            api.db.execute("notify pgrst, 'reload schema'")
        return company.owner.http.get("/rest/v1/leads?limit=1").status_code

    company.lead()
    with ThreadPoolExecutor(6) as threads:
        assert set(threads.map(ask, range(120))) == {200}


def test_a_browser_of_any_origin_may_ask_and_read_the_count(api: Api, company: Company) -> None:
    with api.http(company.owner.token) as http:
        preflight = http.options(
            "/rest/v1/leads",
            headers={
                "origin": "https://app.example",
                "access-control-request-method": "PATCH",
                "access-control-request-headers": "apikey, authorization, prefer",
            },
        )
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-headers"] == "apikey, authorization, prefer"
        assert "PATCH" in preflight.headers["access-control-allow-methods"]
        answer = http.get("/rest/v1/leads", headers={"origin": "https://app.example"})
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "content-range" in answer.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in answer.headers


def test_every_answer_names_its_request(api: Api) -> None:
    with api.http() as http:
        given = http.get("/rest/v1/published_posts", headers={"x-request-id": "from-the-browser"})
        odd = http.get("/rest/v1/published_posts", headers={"x-request-id": "a b\tc" * 50})
    assert given.headers["x-request-id"] == "from-the-browser"
    assert len(odd.headers["x-request-id"]) == 36


def test_the_request_stands_in_the_event_it_caused(company: Company) -> None:
    company.owner.http.post(
        "/rest/v1/leads",
        json={"org_id": str(company.id), "name": "Lia", "email": "l@leads.test"},
        headers={"x-request-id": "request-of-lia"},
    )
    rows = company.owner.client.table("module_events").select("event_type, request_id").execute()
    assert {"event_type": "lead.created", "request_id": "request-of-lia"} in rows.data
