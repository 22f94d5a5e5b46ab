"""Nobody calls a tool of agents over HTTP: neither their schema nor the machinery is served."""

import httpx
import pytest

from tests.api.stack import Api

LEAD = {"name": "Ana Souza", "email": "ana@cliente.com.br"}


@pytest.mark.parametrize("schema", [None, "agent_tools", "app", "public"])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("create_lead", LEAD),
        (
            "create_agent_lead",
            {**LEAD, "phone": None, "company": None, "message": None, "consent": True},
        ),
        ("call_agent_tool", {"tool": "create_lead", "arguments": LEAD}),
        ("agent_tool_schemas", {"org": None, "agent": None}),
    ],
)
def test_tools_are_not_served(
    api: Api, schema: str | None, function: str, arguments: dict[str, object]
) -> None:
    company = api.company()
    profile = {"Content-Profile": schema, "Accept-Profile": schema} if schema else {}
    for http in (company.owner.http, api.http()):
        with http:
            answer: httpx.Response = http.post(
                f"/rest/v1/rpc/{function}", json=arguments, headers=profile
            )
        assert 400 <= answer.status_code < 500, answer.text
    rows = api.db.execute("select count(*) from public.leads where org_id = %s", (company.id,))
    assert rows.fetchone() == (0,)
