"""Reading and writing rows as a member: embeds over composite keys, filters, pages, writes."""

from typing import Any
from uuid import uuid4

import pytest
from postgrest import APIError, CountMethod

from tests.api.stack import Api, Company, Person


@pytest.fixture(scope="module")
def shop(api: Api) -> Company:
    """A company with two clients, three contracts and their items."""
    company = api.company("Loja")
    for number, name in enumerate(("Aurora Ltda", "Boreal SA")):
        client = company.insert(
            "clients",
            name=name,
            emails=[f"contato{number}@clientes.test"],
            segment=["varejo", None][number],
            address={"city": ["Recife", "Natal"][number]},
        )
        for position in range(number + 1):
            contract = company.insert(
                "contracts",
                client_id=client["id"],
                title=f"{name} {position}",
                status="active",
                mrr=[1500.5, 900, 99.99][number + position],
                starts_on="2026-01-01",
            )
            company.insert(
                "contract_items",
                contract_id=contract["id"],
                description=f"Item de {name} {position}",
                quantity=2,
                unit_price=10.25,
            )
    return company


@pytest.fixture(scope="module")
def director(shop: Company) -> Person:
    """A member who reads and writes everything here."""
    return shop.member("director")


def test_a_contract_comes_with_its_client_and_its_items(director: Person) -> None:
    rows = (
        director.client.table("contracts")
        .select("*, clients(name), contract_items(*)")
        .order("title")
        .execute()
        .data
    )
    assert [(row["title"], row["clients"]["name"]) for row in rows] == [
        ("Aurora Ltda 0", "Aurora Ltda"),
        ("Boreal SA 0", "Boreal SA"),
        ("Boreal SA 1", "Boreal SA"),
    ]
    assert [[item["description"] for item in row["contract_items"]] for row in rows] == [
        ["Item de Aurora Ltda 0"],
        ["Item de Boreal SA 0"],
        ["Item de Boreal SA 1"],
    ]


def test_clients_come_with_their_contracts_and_the_contracts_with_their_items(
    director: Person,
) -> None:
    rows = (
        director.client.table("clients")
        .select("name, contracts(title, contract_items(quantity))")
        .order("name", desc=True)
        .execute()
        .data
    )
    assert [(row["name"], len(row["contracts"])) for row in rows] == [
        ("Boreal SA", 2),
        ("Aurora Ltda", 1),
    ]
    assert rows[1]["contracts"] == [{"title": "Aurora Ltda 0", "contract_items": [{"quantity": 2}]}]


def test_an_inner_embed_filters_its_parents(director: Person) -> None:
    rows = (
        director.client.table("contracts")
        .select("title, clients!inner(name)")
        .eq("clients.name", "Aurora Ltda")
        .execute()
        .data
    )
    assert rows == [{"title": "Aurora Ltda 0", "clients": {"name": "Aurora Ltda"}}]


def test_two_ways_between_tables_are_told_apart_by_the_key(company: Company) -> None:
    lead = company.lead("Lia")
    for name, source in (("Da Lia", lead["id"]), ("De ninguém", None)):
        company.insert("clients", name=name, lead_id=source)
    leads = company.owner.client.table("leads")
    with pytest.raises(APIError) as error:
        leads.select("name, clients(name)").execute()
    assert error.value.code == "PGRST201"
    rows = leads.select("name, clients!clients_org_id_lead_id_fkey(name)").execute().data
    assert rows == [{"name": "Lia", "clients": [{"name": "Da Lia"}]}]
    company.owner.client.rpc(
        "convert_lead", {"lead": lead["id"], "document": "11444777000161"}
    ).execute()
    rows = leads.select("name, client:client_id(document)").execute().data
    assert rows == [{"name": "Lia", "client": {"document": "11444777000161"}}]


def test_a_key_under_a_unique_constraint_embeds_one_object(company: Company) -> None:
    case = company.insert("success_cases", title="Caso", slug="caso", summary="Resumo")
    company.owner.client.rpc("case_to_post", {"success_case": case["id"]}).execute()
    company.insert("success_cases", title="Outro", slug="outro")
    rows = (
        company.owner.client.table("success_cases")
        .select("slug, public_posts(title)")
        .order("slug")
        .execute()
        .data
    )
    assert rows == [
        {"slug": "caso", "public_posts": {"title": "Caso"}},
        {"slug": "outro", "public_posts": None},
    ]


def titles(query: Any) -> list[str]:
    return [row["title"] for row in query.order("title").execute().data]


def test_rows_are_chosen_by_filters(director: Person) -> None:
    contracts = director.client.table("contracts")
    assert titles(contracts.select("title").gte("mrr", 900)) == ["Aurora Ltda 0", "Boreal SA 0"]
    assert titles(contracts.select("title").ilike("title", "%boreal%1")) == ["Boreal SA 1"]
    assert titles(contracts.select("title").in_("mrr", [900, 99.99])) == [
        "Boreal SA 0",
        "Boreal SA 1",
    ]
    assert titles(contracts.select("title").or_("mrr.lt.100,title.eq.Aurora Ltda 0")) == [
        "Aurora Ltda 0",
        "Boreal SA 1",
    ]
    clients = director.client.table("clients")

    def names(query: Any) -> list[str]:
        return [row["name"] for row in query.order("name").execute().data]

    assert names(clients.select("name").contains("emails", ["contato1@clientes.test"])) == [
        "Boreal SA"
    ]
    assert names(clients.select("name").is_("segment", "null")) == ["Boreal SA"]
    assert names(clients.select("name").eq("address->>city", "Recife")) == ["Aurora Ltda"]
    assert names(clients.select("name").not_.eq("name", "Boreal SA")) == ["Aurora Ltda"]


def test_money_is_a_number_a_date_a_date_and_a_moment_iso_8601(director: Person) -> None:
    (row,) = (
        director.client.table("contracts").select("*").eq("title", "Aurora Ltda 0").execute().data
    )
    assert row["mrr"] == 1500.5
    assert row["starts_on"] == "2026-01-01"
    assert row["created_at"].endswith("+00:00")
    assert row["created_at"][10] == "T"
    assert row["ends_on"] is None
    assert row["auto_renews"] is False


def test_rows_are_ordered_with_empty_values_where_asked(director: Person) -> None:
    rows = director.client.table("clients").select("segment").order("segment", nullsfirst=True)
    assert [row["segment"] for row in rows.execute().data] == [None, "varejo"]


def test_pages_by_range_hold_every_row_once_and_count_them(shop: Company, director: Person) -> None:
    seen: list[str] = []
    for start in range(0, 4, 2):
        page = (
            director.client.table("contracts")
            .select("id", count=CountMethod.exact)
            .order("title")
            .order("id")
            .range(start, start + 1)
            .execute()
        )
        assert page.count == 3
        seen += [row["id"] for row in page.data]
    assert len(seen) == len(set(seen)) == 3
    answer = shop.owner.http.get(
        "/rest/v1/contracts?select=id&limit=2", headers={"prefer": "count=exact"}
    )
    assert (answer.status_code, answer.headers["content-range"]) == (206, "0-1/3")
    answer = shop.owner.http.get(
        "/rest/v1/contracts?select=id&offset=9", headers={"prefer": "count=exact"}
    )
    assert (answer.status_code, answer.json()["code"]) == (416, "PGRST103")


def test_pages_by_key_hold_every_row_once(director: Person) -> None:
    seen: list[str] = []
    last: dict[str, Any] | None = None
    while True:
        query = (
            director.client.table("contracts").select("id, mrr").order("mrr").order("id").limit(1)
        )
        if last:
            query = query.or_(f"mrr.gt.{last['mrr']},and(mrr.eq.{last['mrr']},id.gt.{last['id']})")
        page = query.execute().data
        if not page:
            break
        last = page[-1]
        seen += [row["id"] for row in page]
    assert len(seen) == len(set(seen)) == 3


def test_a_list_of_more_than_a_thousand_rows_says_how_many_there_are(
    api: Api, company: Company
) -> None:
    api.db.execute(
        "insert into public.clients (org_id, name) select %s, 'Cliente ' || n"
        " from generate_series(1, 1005) as n",
        (company.id,),
    )
    page = company.owner.client.table("clients").select("id", count=CountMethod.exact).execute()
    assert (len(page.data), page.count) == (1000, 1005)
    answer = company.owner.http.get("/rest/v1/clients?select=id", headers={"prefer": "count=exact"})
    assert (answer.status_code, answer.headers["content-range"]) == (206, "0-999/1005")
    answer = company.owner.http.head("/rest/v1/clients", headers={"prefer": "count=exact"})
    assert (answer.content, answer.headers["content-range"]) == (b"", "0-999/1005")


def test_a_row_is_inserted_changed_and_deleted(company: Company) -> None:
    leads = company.owner.client.table("leads")
    row = (
        leads.insert({"org_id": str(company.id), "name": "Lia", "email": "LIA@Leads.Test"})
        .execute()
        .data[0]
    )
    assert (row["email"], row["owner_id"]) == ("lia@leads.test", str(company.owner.id))
    changed = leads.update({"score": 80}).eq("id", row["id"]).execute().data[0]
    assert changed["score"] == 80
    assert changed["updated_at"] > row["updated_at"]
    assert leads.delete().eq("id", row["id"]).execute().data[0]["id"] == row["id"]
    assert leads.select("id").execute().data == []


def test_several_rows_are_inserted_or_none(company: Company) -> None:
    leads = company.owner.client.table("leads")
    row = {"org_id": str(company.id), "name": "Lia", "email": "l@leads.test"}
    with pytest.raises(APIError) as error:
        leads.insert([row, {**row, "score": 101}]).execute()
    assert error.value.code == "23514"
    assert leads.select("id").execute().data == []
    assert len(leads.insert([row, row]).execute().data) == 2


def test_an_upsert_changes_the_row_that_is_there(company: Company) -> None:
    clients = company.owner.client.table("clients")
    row = {"org_id": str(company.id), "document": "11444777000161", "name": "Aurora"}
    first = clients.upsert(row, on_conflict="org_id,document").execute().data[0]
    again = (
        clients.upsert({**row, "name": "Aurora Ltda"}, on_conflict="org_id,document")
        .execute()
        .data[0]
    )
    assert (again["id"], again["name"]) == (first["id"], "Aurora Ltda")
    clients.upsert(
        {**row, "name": "Outra"}, on_conflict="org_id,document", ignore_duplicates=True
    ).execute()
    assert [row["name"] for row in clients.select("name").execute().data] == ["Aurora Ltda"]


def test_the_view_of_inbound_leads_is_written_like_a_table(company: Company) -> None:
    inbound = company.owner.client.table("inbound_leads")
    row = (
        inbound.insert({"org_id": str(company.id), "name": "Lia", "email": "l@leads.test"})
        .execute()
        .data[0]
    )
    assert row["source"] == "site"
    inbound.update({"score": 5}).eq("id", row["id"]).execute()
    company.lead("De outra fonte")
    assert [(r["name"], r["score"]) for r in inbound.select("*").execute().data] == [("Lia", 5)]
    inbound.delete().eq("id", row["id"]).execute()
    assert inbound.select("id").execute().data == []


def test_one_row_is_asked_for_as_an_object(company: Company) -> None:
    lead = company.lead("Lia")
    leads = company.owner.client.table("leads")
    assert leads.select("name").eq("id", lead["id"]).single().execute().data == {"name": "Lia"}
    none = leads.select("name").eq("id", str(uuid4())).maybe_single().execute()
    assert none is None
    with pytest.raises(APIError) as error:
        leads.select("name").eq("id", str(uuid4())).single().execute()
    assert error.value.code == "PGRST116"


def test_the_rows_of_a_function_are_filtered_and_chosen(company: Company) -> None:
    company.member("sales")
    rows = (
        company.owner.client.rpc("list_members", {"org": str(company.id)})
        .select("role")
        .eq("role", "sales")
        .execute()
        .data
    )
    assert rows == [{"role": "sales"}]


def test_a_salesperson_reads_all_leads_of_his_own_and_no_other(company: Company) -> None:
    company.lead("Da Olga")
    sales = company.member("sales")
    own = (
        sales.client.table("leads")
        .insert({"org_id": str(company.id), "name": "Minha", "email": "m@leads.test"})
        .execute()
        .data[0]
    )
    assert own["owner_id"] == str(sales.id)
    rows = sales.client.table("leads").select("name").execute().data
    assert rows == [{"name": "Minha"}]
    assert (
        sales.client.table("leads").update({"score": 1}).eq("name", "Da Olga").execute().data == []
    )


def test_a_portal_client_sees_his_own_contracts_only(company: Company) -> None:
    mine, other = (company.insert("clients", name=name) for name in ("Meu", "Outro"))
    for client in (mine, other):
        company.insert(
            "contracts",
            client_id=client["id"],
            title=f"Contrato de {client['name']}",
            starts_on="2026-01-01",
        )
    portal = company.member("client", client_id=mine["id"])
    rows = portal.client.table("contracts").select("title, clients(name)").execute().data
    assert rows == [{"title": "Contrato de Meu", "clients": {"name": "Meu"}}]
    assert portal.client.table("leads").select("id").execute().data == []
