"""The path of the demo, from the visitor to the index, over HTTP."""

from uuid import uuid4

from tests.api.stack import Api


def test_a_visitors_lead_is_seen_counted_and_an_index_and_no_other_company_knows(
    api: Api,
) -> None:
    vigia, claquete = api.company("Vigia"), api.company("Claquete")
    email = f"{uuid4().hex[:10]}@leads.test"

    # A visitor sends the form of the site …
    receipt = (
        api.visitor()
        .rpc(
            "submit_lead",
            {
                "org_slug": vigia.slug,
                "name": "Rita Visitante",
                "email": email,
                "origin_url": "https://vigia.example/s/soc",
                "consent": True,
            },
        )
        .execute()
        .data["receipt"]
    )

    # … a member sees the lead under row level security …
    director = vigia.member("director")
    (lead,) = director.client.table("inbound_leads").select("id, email, source_page").execute().data
    assert lead == {"id": receipt, "email": email, "source_page": "Soluções"}

    # … its event is written, and counted by the worker's rollup …
    (event,) = (
        director.client.table("module_events")
        .select("module, event_type, entity_id, actor_kind, occurred_on")
        .eq("entity_id", receipt)
        .execute()
        .data
    )
    assert (event["module"], event["event_type"], event["actor_kind"]) == (
        "growth",
        "lead.created",
        "visitor",
    )
    api.db.execute("select app.rollup_events()")
    aggregates = director.client.rpc("get_event_aggregates", {"org": str(vigia.id)}).execute().data
    assert [
        (row["period"], row["count"]) for row in aggregates if row["event_type"] == "lead.created"
    ] == [(event["occurred_on"], 1)]

    # … the indices of the month are computed by whoever may …
    computed = (
        vigia.owner.client.rpc(
            "compute_data_indices", {"org": str(vigia.id), "period": event["occurred_on"]}
        )
        .execute()
        .data
    )
    assert len(computed) >= 16
    assert {row["index_key"]: row["value"] for row in computed}["leads_mes"] == 1
    (index,) = (
        director.client.rpc("get_data_indices", {"org": str(vigia.id), "index_key": "leads_mes"})
        .execute()
        .data
    )
    assert (index["period"][:7], index["value"]) == (event["occurred_on"][:7], 1)
    dashboard = (
        director.client.rpc("get_data_dashboard_summary", {"org": str(vigia.id)}).execute().data
    )
    assert dashboard["events_total"] >= 1
    assert dashboard["data_indices_count"] >= 1

    # … and another company sees nothing of it.
    http = claquete.owner.http
    for relation in ("leads", "inbound_leads", "module_events", "event_aggregates", "data_indices"):
        rows = http.get(f"/rest/v1/{relation}?org_id=eq.{vigia.id}").json()
        assert rows == [], relation
    for function in ("get_event_aggregates", "get_data_indices"):
        assert http.post(f"/rest/v1/rpc/{function}", json={"org": str(vigia.id)}).json() == []
    answer = http.post("/rest/v1/rpc/get_data_dashboard_summary", json={"org": str(vigia.id)})
    assert (answer.status_code, answer.json()["message"]) == (403, "not_allowed")
    assert email not in http.get("/rest/v1/leads").text
