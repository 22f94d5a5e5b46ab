"""What a visitor can do over HTTP: read what is published, send a lead or an application, nothing else."""

import re
import tomllib
from typing import Any
from uuid import uuid4

import httpx
import pytest
from postgrest import APIError

from tests.api.stack import HERE, Api, Company, new_address, refused

# What search_knowledge reads with a visitor's rights: documents that anybody may read, and their passages.
SEARCHED = {"knowledge_chunks", "knowledge_documents"}
PUBLIC_VIEWS = {
    "open_jobs",
    "published_cases",
    "published_pages",
    "published_posts",
    "public_services",
}
SPOOFED = (
    "x-forwarded-for",
    "x-real-ip",
    "cf-connecting-ip",
    "true-client-ip",
    "fastly-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
)


def lead_of(company: Company, /, **values: Any) -> dict[str, Any]:
    return {
        "org_slug": company.slug,
        "name": "Lia Visitante",
        "email": f"{uuid4().hex[:10]}@leads.test",
        "consent": True,
        **values,
    }


def stored(company: Company, table: str = "leads") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = company.owner.client.table(table).select("*").execute().data
    return rows


def test_a_lead_is_answered_with_a_receipt_and_a_member_sees_it(api: Api, company: Company) -> None:
    sent = lead_of(
        company,
        company="Padaria  Sol",
        phone="11 91234-5678",
        message="Quero um orçamento.",
        origin_url="https://vigia.example/contato?utm_source=x",
    )
    answer = api.visitor().rpc("submit_lead", sent).execute().data
    assert set(answer) == {"receipt"}
    (row,) = stored(company)
    assert row["id"] == answer["receipt"]
    assert (row["name"], row["email"], row["company"]) == (
        sent["name"],
        sent["email"],
        "Padaria Sol",
    )
    assert (row["source"], row["source_page"], row["status"]) == ("site", "Contato", "new")
    assert row["consent_at"] is not None
    assert row["created_by"] is None


def test_a_visitor_reads_no_lead_back(api: Api, company: Company) -> None:
    visitor = api.visitor()
    receipt = visitor.rpc("submit_lead", lead_of(company)).execute().data["receipt"]
    for relation in ("leads", "inbound_leads", "lead_status_history", "module_events"):
        with pytest.raises(APIError) as error:
            visitor.table(relation).select("*").execute()
        assert error.value.code == "42501", relation
    with api.http() as http:
        answer = http.get(f"/rest/v1/leads?select=id&id=eq.{receipt}")
    assert (answer.status_code, receipt in answer.text) == (401, False)


def test_the_sixth_lead_in_ten_minutes_from_one_address_is_refused(
    api: Api, company: Company
) -> None:
    visitor = api.visitor()
    for _ in range(5):
        visitor.rpc("submit_lead", lead_of(company)).execute()
    with refused("rate_limited", "PT429") as answer:
        visitor.rpc("submit_lead", lead_of(company)).execute()
    assert re.fullmatch(r"Try again in \d+ s\.", answer.hint or "")
    assert len(stored(company)) == 5
    api.visitor().rpc("submit_lead", lead_of(company)).execute()
    assert len(stored(company)) == 6


def test_invented_addresses_do_not_evade_the_limit(api: Api, company: Company) -> None:
    with api.http(address=new_address()) as http:
        answers = [
            http.post(
                "/rest/v1/rpc/submit_lead",
                json=lead_of(company),
                headers={
                    **dict.fromkeys(SPOOFED, f"198.51.100.{number}"),
                    "forwarded": f"for=198.51.100.{number}",
                },
            ).status_code
            for number in range(7)
        ]
    assert answers == [200, 200, 200, 200, 200, 429, 429]
    buckets = api.db.execute(
        "select bucket from app.rate_hits where bucket like '%198.51.100%'"
    ).fetchall()
    assert buckets == []


def test_the_limit_ends_with_its_window(api: Api, company: Company) -> None:
    address = new_address()
    visitor = api.client(address=address)
    for _ in range(5):
        visitor.rpc("submit_lead", lead_of(company)).execute()
    api.db.execute(
        "update app.rate_hits set hit_at = hit_at - interval '10 minutes' where bucket = %s",
        (f"submit_lead:{address}",),
    )
    visitor.rpc("submit_lead", lead_of(company)).execute()
    assert len(stored(company)) == 6


def test_refused_leads_do_not_use_up_the_limit(api: Api, company: Company) -> None:
    visitor = api.visitor()
    for _ in range(6):
        with refused("lead_consent_required"):
            visitor.rpc("submit_lead", lead_of(company, consent=False)).execute()
    visitor.rpc("submit_lead", lead_of(company)).execute()
    assert len(stored(company)) == 1


def test_the_trap_for_robots_answers_and_stores_nothing(api: Api, company: Company) -> None:
    answer = (
        api.visitor().rpc("submit_lead", lead_of(company, website="https://spam.test")).execute()
    )
    assert set(answer.data) == {"receipt"}
    assert stored(company) == []


@pytest.mark.parametrize("consent", [False, None, ...])
def test_without_consent_no_lead_is_stored(api: Api, company: Company, consent: object) -> None:
    sent = lead_of(company, consent=consent)
    if consent is ...:
        del sent["consent"]
    with refused("lead_consent_required", "PT422"):
        api.visitor().rpc("submit_lead", sent).execute()
    assert stored(company) == []


@pytest.mark.parametrize(
    ("values", "key", "code"),
    [
        ({"email": "lia at leads"}, "lead_invalid", "PT422"),
        ({"email": None}, "lead_invalid", "PT422"),
        ({"name": " "}, "lead_invalid", "PT422"),
        ({"message": "x" * 4001}, "bad_input", "PT400"),
        ({"org_slug": "no-such-company"}, "not_found", "PT404"),
    ],
)
def test_a_faulty_lead_is_refused(
    api: Api, company: Company, values: dict[str, Any], key: str, code: str
) -> None:
    with refused(key, code):
        api.visitor().rpc("submit_lead", lead_of(company, **values)).execute()
    assert stored(company) == []


@pytest.fixture
def job(company: Company) -> dict[str, Any]:
    """An open job of the company, and a closed one beside it."""
    company.insert("public_jobs", slug="fechada", title="Fechada", is_open=False)
    return company.insert("public_jobs", slug="analista", title="Analista de SOC", is_open=True)


def application_of(company: Company, /, **values: Any) -> dict[str, Any]:
    return {
        "org_slug": company.slug,
        "job_slug": "analista",
        "name": "Caio Candidato",
        "email": f"{uuid4().hex[:10]}@cv.test",
        "linkedin_url": "https://www.linkedin.com/in/caio",
        "cv_path": f"{company.id}/{uuid4()}.pdf",
        "consent": True,
        **values,
    }


def test_an_application_reaches_the_people_who_hire(
    api: Api, company: Company, job: dict[str, Any]
) -> None:
    visitor, sent = api.visitor(), application_of(company)
    answer = visitor.rpc("submit_application", sent).execute().data
    assert set(answer) == {"receipt"}
    (row,) = stored(company, "job_applications")
    assert (row["id"], row["job_id"], row["stage"]) == (answer["receipt"], job["id"], "received")
    with refused("application_already_received", "PT409"):
        visitor.rpc("submit_application", {**sent, "email": sent["email"].upper()}).execute()
    with pytest.raises(APIError) as error:
        visitor.table("job_applications").select("id").execute()
    assert error.value.code == "42501"


@pytest.mark.usefixtures("job")
@pytest.mark.parametrize(
    ("values", "key", "code"),
    [
        ({"job_slug": "fechada"}, "job_not_open", "PT404"),
        ({"job_slug": "outra"}, "job_not_open", "PT404"),
        ({"consent": False}, "application_consent_required", "PT422"),
        ({"email": "caio"}, "application_email_invalid", "PT422"),
        ({"linkedin_url": "javascript:alert(1)"}, "application_linkedin_invalid", "PT422"),
        ({"cv_path": "../../etc/passwd"}, "application_cv_invalid", "PT422"),
    ],
)
def test_a_faulty_application_is_refused(
    api: Api, company: Company, values: dict[str, Any], key: str, code: str
) -> None:
    with refused(key, code):
        api.visitor().rpc("submit_application", application_of(company, **values)).execute()
    assert stored(company, "job_applications") == []


@pytest.mark.usefixtures("job")
def test_the_sixth_application_from_one_address_is_refused(api: Api, company: Company) -> None:
    visitor = api.visitor()
    visitor.rpc("submit_application", application_of(company, website="spam")).execute()
    for _ in range(4):
        visitor.rpc("submit_application", application_of(company)).execute()
    with refused("rate_limited", "PT429"):
        visitor.rpc("submit_application", application_of(company)).execute()
    assert len(stored(company, "job_applications")) == 4


@pytest.fixture(scope="module")
def site(api: Api) -> Company:
    """A company with something published and something not, of each kind."""
    company = api.company("Vitrine")
    # The price and the technical scope stand beside the rest of the row on purpose.
    service = {
        "technical_scope": "segredo técnico",
        "base_price": 4321.09,
        "summary": "Vigilância de redes.",
    }
    playbook = company.insert("playbooks", title="Plantão", content_markdown="# Plantão")
    company.owner.client.table("playbooks").update({"status": "published"}).eq(
        "id", playbook["id"]
    ).execute()
    action = company.insert("service_actions", title="Monitorar")
    company.insert(
        "service_action_playbooks",
        service_action_id=action["id"],
        playbook_id=playbook["id"],
        sort_order=1,
    )
    active = company.insert("services_catalog", name="SOC", slug="soc", **service)
    company.insert(
        "services_catalog_actions", service_id=active["id"], service_action_id=action["id"]
    )
    company.owner.client.table("services_catalog").update({"is_active": True}).eq(
        "id", active["id"]
    ).execute()
    company.insert("services_catalog", name="Rascunho", slug="rascunho", **service)
    text = {"content_markdown": "# Texto", "title": "Título"}
    company.insert("public_posts", slug="publicado", status="published", tags=["soc"], **text)
    company.insert("public_posts", slug="minuta", **text)
    case = {**text, "summary": "Resumo", "raw_data": "segredo do cliente"}
    company.insert("success_cases", slug="caso", is_published=True, **case)
    company.insert("success_cases", slug="caso-minuta", **case)
    company.insert("static_pages", slug="privacidade", is_published=True, **text)
    company.insert("static_pages", slug="termos", **text)
    company.insert("public_jobs", slug="aberta", title="Aberta")
    company.insert("public_jobs", slug="fechada", title="Fechada", is_open=False)
    return company


@pytest.mark.parametrize(
    ("view", "slugs"),
    [
        ("public_services", ["soc"]),
        ("published_posts", ["publicado"]),
        ("published_cases", ["caso"]),
        ("published_pages", ["privacidade"]),
        ("open_jobs", ["aberta"]),
    ],
)
def test_a_visitor_sees_what_is_published_and_only_that(
    api: Api, site: Company, view: str, slugs: list[str]
) -> None:
    visitor = api.client()
    rows = visitor.table(view).select("*").eq("org_id", str(site.id)).execute().data
    assert [row["slug"] for row in rows] == slugs
    assert "segredo" not in str(rows)
    assert "4321" not in str(rows)


def test_a_service_shows_neither_price_nor_technical_scope(api: Api, site: Company) -> None:
    visitor = api.client()
    row = visitor.table("public_services").select("*").eq("slug", "soc").limit(1).execute().data[0]
    hidden = {"base_price", "effective_price", "total_cost", "total_minutes", "technical_scope"}
    assert not hidden & set(row)
    for column in sorted(hidden):
        for relation in ("public_services", "services_catalog"):
            with pytest.raises(APIError) as error:
                visitor.table(relation).select(column).eq("org_id", str(site.id)).execute()
            assert error.value.code in {"42703", "42501"}, (relation, column)
    # Nor do filters and orders tell what may not be read.
    for query in ("base_price=gt.4000", "order=base_price", "technical_scope=like.*segredo*"):
        answer = api.http().get(f"/rest/v1/services_catalog?select=slug&{query}")
        assert answer.status_code == 401, query


def test_the_profile_of_an_organisation_is_read_by_its_slug(api: Api, site: Company) -> None:
    site.owner.client.rpc(
        "update_organization",
        {"org": str(site.id), "settings": {"site_tagline": "Olhos abertos"}},
    ).execute()
    profile = api.client().rpc("get_organization_profile", {"org_slug": site.slug}).execute().data
    assert profile["id"] == str(site.id)
    assert profile["settings"]["site_tagline"] == "Olhos abertos"
    assert set(profile) == {"id", "name", "slug", "vertical", "locale", "settings"}
    with refused("organization_not_found", "PT404"):
        api.client().rpc("get_organization_profile", {"org_slug": "no-such-company"}).execute()


def test_the_pages_of_an_inactive_organisation_are_not_served(api: Api) -> None:
    company = api.company()
    company.insert("public_jobs", slug="aberta", title="Aberta")
    query = f"/rest/v1/open_jobs?org_id=eq.{company.id}"
    with api.http() as http:
        assert len(http.get(query).json()) == 1
        api.db.execute(
            "update public.organizations set status = 'inactive' where id = %s", (company.id,)
        )
        assert http.get(query).json() == []


def relations(api: Api) -> list[tuple[str, str, bool]]:
    """Name, first column, and whether rows can be inserted, changed and deleted at all."""
    rows = api.db.execute(
        "select c.relname, a.attname, pg_relation_is_updatable(c.oid, false) & 28 = 28"
        " from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum = 1"
        " where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')"
        " order by c.relname"
    ).fetchall()
    return [(str(name), str(column), bool(writable)) for name, column, writable in rows]


@pytest.mark.usefixtures("site")
def test_a_visitor_reads_no_relation_but_the_published_views(api: Api) -> None:
    with api.http() as http:
        answers = {name: http.get(f"/rest/v1/{name}?limit=3") for name, *_ in relations(api)}
    assert len(answers) > 50
    readable = PUBLIC_VIEWS | SEARCHED
    assert {name for name, answer in answers.items() if answer.is_success} == readable
    assert all(answers[name].json() for name in PUBLIC_VIEWS)
    for name, answer in answers.items():
        if name not in readable:
            assert (answer.status_code, answer.json()["code"]) == (401, "42501"), name


@pytest.mark.usefixtures("site")
def test_a_visitor_writes_no_relation(api: Api) -> None:
    with api.http() as http:
        for name, column, is_writable in relations(api):
            path = f"/rest/v1/{name}"
            for answer in (
                http.post(path, json={column: str(uuid4())}),
                http.patch(f"{path}?{column}=not.is.null", json={column: str(uuid4())}),
                http.delete(f"{path}?{column}=not.is.null"),
            ):
                allowed = {401} if is_writable else {401, 500}
                assert answer.status_code in allowed, (name, answer.request.method, answer.text)


def test_a_visitor_calls_no_function_but_those_of_the_site(api: Api) -> None:
    table = tomllib.loads((HERE.parent / "access" / "functions.toml").read_text())["public"]
    rows = api.db.execute(
        "select p.proname, coalesce(p.proargnames[:p.pronargs - p.pronargdefaults], '{}')"
        " from pg_proc p where p.pronamespace = 'public'::regnamespace and p.prorettype <> 'trigger'::regtype"
    ).fetchall()
    assert len(rows) > 30
    with api.http(address=new_address()) as http:
        answers: dict[str, httpx.Response] = {
            name: http.post(f"/rest/v1/rpc/{name}", json=dict.fromkeys(arguments))
            for name, arguments in rows
        }
    open_to_visitors = {
        name
        for name, answer in answers.items()
        if not (answer.status_code == 401 and answer.json()["code"] == "42501")
    }
    assert open_to_visitors == {name for name, line in table.items() if line["who"] == "anyone"}
