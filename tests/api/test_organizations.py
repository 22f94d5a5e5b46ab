"""Founding, inviting, joining, leaving; and that a change counts on the next request."""

from uuid import uuid4

import pytest

from tests.api.stack import Api, Company, Person, refused


def invite(company: Company, email: str, role: str = "sales") -> str:
    answer = company.owner.client.rpc(
        "invite_member", {"org": str(company.id), "email": email, "role": role}
    ).execute()
    token: str = answer.data["token"]
    return token


def accept(person: Person, token: str) -> None:
    person.client.rpc("accept_invitation", {"token": token}).execute()


def test_the_founder_is_the_owner(company: Company) -> None:
    (row,) = company.owner.client.rpc("list_my_organizations", {}).execute().data
    assert (row["id"], row["slug"], row["role"]) == (str(company.id), company.slug, "owner")


def test_a_taken_slug_is_refused(api: Api, company: Company) -> None:
    with refused("slug_taken", "PT409") as answer:
        api.person().client.rpc(
            "create_organization", {"name": "Outra", "slug": company.slug}
        ).execute()
    assert answer.hint == "Choose another slug."


def test_a_visitor_founds_nothing(api: Api) -> None:
    answer = api.http().post("/rest/v1/rpc/create_organization", json={"name": "Minha"})
    assert answer.status_code == 401


def test_an_invited_person_joins_with_the_role_of_the_invitation(
    api: Api, company: Company
) -> None:
    guest = api.person("Gil")
    assert guest.client.table("organizations").select("id").execute().data == []
    accept(guest, invite(company, guest.email.upper(), "director"))
    (row,) = guest.client.rpc("list_my_organizations", {}).execute().data
    assert (row["id"], row["role"]) == (str(company.id), "director")
    members = company.owner.client.rpc("list_members", {"org": str(company.id)}).execute().data
    assert {(row["full_name"], row["role"]) for row in members} == {
        ("Olga", "owner"),
        ("Gil", "director"),
    }


def test_an_invitation_is_for_one_address(api: Api, company: Company) -> None:
    guest, thief = api.person(), api.person()
    token = invite(company, guest.email)
    with refused("invitation_foreign", "PT403"):
        accept(thief, token)
    assert thief.client.rpc("list_my_organizations", {}).execute().data == []
    accept(guest, token)


def test_an_invitation_is_used_once(api: Api, company: Company) -> None:
    guest = api.person()
    token = invite(company, guest.email)
    accept(guest, token)
    with refused("invitation_used", "PT409"):
        accept(guest, token)


def test_a_replaced_invitation_is_used_up(api: Api, company: Company) -> None:
    guest = api.person()
    first, second = invite(company, guest.email), invite(company, guest.email)
    with refused("invitation_used"):
        accept(guest, first)
    accept(guest, second)


def test_an_invitation_expires(api: Api, company: Company) -> None:
    guest = api.person()
    token = invite(company, guest.email)
    api.db.execute(
        "update public.invitations set expires_at = now() - interval '1 second' where org_id = %s",
        (company.id,),
    )
    with refused("invitation_expired", "PT422"):
        accept(guest, token)


def test_an_invented_invitation_is_not_found(api: Api) -> None:
    with refused("invitation_not_found", "PT404"):
        accept(api.person(), uuid4().hex)


def test_only_owners_and_admins_invite(company: Company) -> None:
    director = company.member("director")
    with refused("not_allowed", "PT403"):
        director.client.rpc(
            "invite_member", {"org": str(company.id), "email": "x@people.test", "role": "sales"}
        ).execute()
    assert director.client.table("invitations").select("*").execute().data == []


def test_the_token_of_an_invitation_is_shown_once(company: Company) -> None:
    token = invite(company, "guest@people.test")
    (row,) = company.owner.client.table("invitations").select("*").execute().data
    assert row["email"] == "guest@people.test"
    assert token not in str(row)


def test_the_last_owner_stays(company: Company) -> None:
    with refused("last_owner", "PT409"):
        company.owner.client.rpc("leave_organization", {"org": str(company.id)}).execute()


def test_a_removed_member_is_denied_on_the_next_request_with_the_same_token(
    company: Company,
) -> None:
    company.lead()
    director = company.member("director")
    assert len(director.http.get("/rest/v1/leads").json()) == 1
    company.owner.client.rpc(
        "remove_member", {"org": str(company.id), "member": str(director.id)}
    ).execute()
    assert director.http.get("/rest/v1/leads").json() == []
    assert director.http.get("/rest/v1/organizations").json() == []
    answer = director.http.post(
        "/rest/v1/leads", json={"org_id": str(company.id), "name": "Lia", "email": "l@leads.test"}
    )
    assert (answer.status_code, answer.json()["code"]) == (403, "42501")
    answer = director.http.post("/rest/v1/rpc/list_members", json={"org": str(company.id)})
    assert (answer.status_code, answer.json()["message"]) == (404, "not_found")


def test_a_changed_role_counts_on_the_next_request_with_the_same_token(company: Company) -> None:
    company.lead()
    person = company.member("finance")
    assert person.http.get("/rest/v1/leads").json() == []
    company.owner.client.rpc(
        "set_member_role",
        {"org": str(company.id), "member": str(person.id), "role": "director"},
    ).execute()
    assert len(person.http.get("/rest/v1/leads").json()) == 1


@pytest.fixture(scope="module")
def operator(api: Api) -> Person:
    """The operator of the installation."""
    person = api.person("Operadora")
    api.db.execute("insert into public.platform_admins (user_id) values (%s)", (person.id,))
    return person


def set_status(operator: Person, company: Company, status: str) -> None:
    operator.client.rpc(
        "set_organization_status", {"org": str(company.id), "status": status}
    ).execute()


def test_a_suspended_organisation_is_read_and_not_written(
    api: Api, company: Company, operator: Person
) -> None:
    lead = company.lead()
    set_status(operator, company, "suspended")
    http = company.owner.http
    assert [row["id"] for row in http.get("/rest/v1/leads").json()] == [lead["id"]]
    writes = (
        http.patch(f"/rest/v1/leads?id=eq.{lead['id']}", json={"score": 10}),
        http.post(
            "/rest/v1/leads",
            json={"org_id": str(company.id), "name": "Bia", "email": "b@leads.test"},
        ),
        http.delete(f"/rest/v1/leads?id=eq.{lead['id']}"),
        http.post(
            "/rest/v1/rpc/invite_member",
            json={"org": str(company.id), "email": "x@people.test", "role": "sales"},
        ),
    )
    for answer in writes:
        assert (answer.status_code, answer.json()["message"]) == (403, "organization_suspended")
    with refused("organization_suspended"):
        api.visitor().rpc(
            "submit_lead",
            {"org_slug": company.slug, "name": "Lia", "email": "l@leads.test", "consent": True},
        ).execute()
    set_status(operator, company, "active")
    assert http.patch(f"/rest/v1/leads?id=eq.{lead['id']}", json={"score": 10}).is_success


def test_an_inactive_organisation_answers_403(api: Api, company: Company, operator: Person) -> None:
    company.lead()
    set_status(operator, company, "inactive")
    answer = company.owner.http.get("/rest/v1/leads")
    assert (answer.status_code, answer.json()["message"]) == (403, "organization_inactive")
    (row,) = company.owner.client.rpc("list_my_organizations", {}).execute().data
    assert row["status"] == "inactive"
    with refused("organization_not_found", "PT404"):
        api.visitor().rpc("get_organization_profile", {"org_slug": company.slug}).execute()


def test_nobody_but_the_operator_changes_the_status(company: Company) -> None:
    with refused("not_allowed", "PT403"):
        set_status(company.owner, company, "suspended")
