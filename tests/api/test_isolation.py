"""One organisation learns nothing of another over HTTP, whatever the verb."""

from typing import Any
from uuid import uuid4

import pytest

from tests.api.stack import Api, Company, Person


@pytest.fixture(scope="module")
def victim(api: Api) -> Company:
    """A company with a lead, a client, a contract and an item."""
    company = api.company("Vítima Segredos")
    lead = company.lead("Segredo Lead")
    client = company.insert("clients", name="Segredo Cliente", lead_id=lead["id"])
    contract = company.insert(
        "contracts",
        client_id=client["id"],
        title="Segredo Contrato",
        starts_on="2026-01-01",
        mrr=77,
    )
    company.insert(
        "contract_items",
        contract_id=contract["id"],
        description="Segredo Item",
        unit_price=1,
    )
    return company


@pytest.fixture(scope="module")
def other(api: Api) -> Company:
    """Another company, whose owner may do everything in it."""
    return api.company("Curiosa")


def ids(victim: Company) -> dict[str, str]:
    return {
        table: victim.owner.client.table(table).select("id").execute().data[0]["id"]
        for table in ("leads", "clients", "contracts", "contract_items")
    }


def tenant_relations(api: Api) -> list[str]:
    rows = api.db.execute(
        "select c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'org_id'"
        " where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v') order by 1"
    ).fetchall()
    return [str(row[0]) for row in rows]


def test_no_relation_shows_a_row_of_another_organisation(
    api: Api, victim: Company, other: Company
) -> None:
    relations = tenant_relations(api)
    assert len(relations) > 40
    seen = set()
    for relation in relations:
        path = f"/rest/v1/{relation}?org_id=eq.{victim.id}&limit=1"
        answer = other.owner.http.get(path)
        assert answer.is_error or answer.json() == [], relation
        if victim.owner.http.get(path).json():
            seen.add(relation)
    assert seen >= {"leads", "clients", "contracts", "contract_items", "memberships"}


def test_counts_and_filters_tell_nothing_either(victim: Company, other: Company) -> None:
    for query in ("", f"?org_id=eq.{victim.id}", "?name=like.Segredo*", "?email=not.is.null"):
        answer = other.owner.http.head(f"/rest/v1/leads{query}", headers={"prefer": "count=exact"})
        assert answer.headers["content-range"] == "*/0"


def test_an_embed_crosses_no_border(api: Api, victim: Company) -> None:
    other = api.company()
    # A client of ours with the very id that a client of theirs has: keys are composite, so it may be.
    client = ids(victim)["clients"]
    other.insert("clients", id=client, name="Nossa Cliente")
    rows = (
        other.owner.client.table("clients")
        .select(
            "name, contracts(title, contract_items(description)), leads!leads_client_id_fkey(name)"
        )
        .execute()
        .data
    )
    assert rows == [{"name": "Nossa Cliente", "contracts": [], "leads": []}]
    theirs = victim.owner.client.table("contracts").select("title, clients(name)").execute().data
    assert theirs == [{"title": "Segredo Contrato", "clients": {"name": "Segredo Cliente"}}]


def test_a_member_of_both_sees_each_row_with_its_own(api: Api, victim: Company) -> None:
    other = api.company()
    both = api.person("Ambas")
    for company in (victim, other):
        api.db.execute(
            "insert into public.memberships (org_id, user_id, role) values (%s, %s, 'director')",
            (company.id, both.id),
        )
    other.insert("clients", id=ids(victim)["clients"], name="Nossa Cliente")
    rows = both.client.table("contracts").select("title, clients(name)").execute().data
    assert rows == [{"title": "Segredo Contrato", "clients": {"name": "Segredo Cliente"}}]
    hinted = (
        both.client.table("contracts")
        .select("title, client:clients!contracts_org_id_client_id_fkey(name)")
        .execute()
        .data
    )
    assert hinted == [{"title": "Segredo Contrato", "client": {"name": "Segredo Cliente"}}]


def test_nothing_of_another_organisation_is_written(victim: Company, other: Company) -> None:
    http, keys = other.owner.http, ids(victim)
    lead = {"org_id": str(victim.id), "name": "Intrusa", "email": "i@leads.test"}
    answer = http.post("/rest/v1/leads", json=lead)
    assert (answer.status_code, answer.json()["code"]) == (403, "42501")
    answer = http.post(
        "/rest/v1/leads?on_conflict=org_id,id",
        json={**lead, "id": keys["leads"]},
        headers={"prefer": "resolution=merge-duplicates"},
    )
    assert (answer.status_code, answer.json()["code"]) == (403, "42501")
    for table, key in keys.items():
        prefer = {"prefer": "return=representation"}
        change = {"created_by": str(other.owner.id)}
        assert http.patch(f"/rest/v1/{table}?id=eq.{key}", json=change, headers=prefer).json() == []
        assert http.delete(f"/rest/v1/{table}?id=eq.{key}", headers=prefer).json() == []
    # A row of ours that points to theirs: the composite key finds nothing there.
    answer = http.post(
        "/rest/v1/contracts",
        json={
            "org_id": str(other.id),
            "client_id": keys["clients"],
            "title": "Ponte",
            "starts_on": "2026-01-01",
        },
    )
    assert (answer.status_code, answer.json()["code"]) == (409, "23503")
    # Nor is a row of ours moved over.
    mine = other.lead("Minha")
    answer = http.patch(f"/rest/v1/leads?id=eq.{mine['id']}", json={"org_id": str(victim.id)})
    assert answer.status_code in {403, 422}
    names = victim.owner.client.table("leads").select("name").execute().data
    assert names == [{"name": "Segredo Lead"}]


def calls(victim: Company) -> list[tuple[str, dict[str, Any]]]:
    org, keys = {"org": str(victim.id)}, ids(victim)
    return [
        ("list_members", org),
        ("update_organization", {**org, "name": "Tomada"}),
        ("invite_member", {**org, "email": "i@people.test", "role": "owner"}),
        ("set_member_role", {**org, "member": str(victim.owner.id), "role": "employee"}),
        ("remove_member", {**org, "member": str(victim.owner.id)}),
        ("leave_organization", org),
        ("create_api_key", {**org, "name": "x", "scopes": ["indicators:write"]}),
        ("verify_audit_chain", org),
        ("get_data_dashboard_summary", org),
        ("compute_data_indices", {**org, "period": "2026-01-01"}),
        ("convert_lead", {"lead": keys["leads"], "document": "11444777000161"}),
        ("change_contract_mrr", {"contract": keys["contracts"], "mrr": 1, "reason": "x"}),
        ("set_service_actions", {**org, "service": str(uuid4()), "service_actions": []}),
    ]


def test_functions_do_nothing_for_another_organisation(victim: Company, other: Company) -> None:
    for function, arguments in calls(victim):
        answer = other.owner.http.post(f"/rest/v1/rpc/{function}", json=arguments)
        assert answer.status_code in {403, 404}, (function, answer.text)
        assert "Segredo" not in answer.text
    for function in ("get_event_aggregates", "get_data_indices"):
        answer = other.owner.http.post(f"/rest/v1/rpc/{function}", json={"org": str(victim.id)})
        assert answer.json() == [], function
    row = victim.owner.client.table("organizations").select("name").execute().data
    assert row == [{"name": "Vítima Segredos"}]


def test_people_of_another_organisation_are_not_seen(victim: Company, other: Company) -> None:
    profiles = other.owner.client.table("profiles").select("id").execute().data
    assert str(victim.owner.id) not in {row["id"] for row in profiles}
    slugs = other.owner.client.table("organizations").select("slug").execute().data
    assert slugs == [{"slug": other.slug}]


def test_whoever_belongs_nowhere_sees_nothing(api: Api) -> None:
    stranger: Person = api.person("Ninguém")
    for relation in tenant_relations(api):
        answer = stranger.http.get(f"/rest/v1/{relation}?limit=1")
        assert answer.is_error or answer.json() == [], relation
