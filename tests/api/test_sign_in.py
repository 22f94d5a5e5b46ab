"""Sign-up, sign-in and tokens over HTTP, and what a caller cannot claim about himself."""

import base64
import hmac
import json
import time
from typing import Any
from uuid import uuid4

import pytest
from supabase_auth.errors import AuthApiError, AuthWeakPasswordError

from tests.api.stack import PASSWORD, Api, Company
from tests.people import World


def claims_of(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    claims: dict[str, Any] = json.loads(
        base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    )
    return claims


def sign(claims: dict[str, Any], secret: str, algorithm: str = "HS256") -> str:
    def encode(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    head = encode(json.dumps({"alg": algorithm, "typ": "JWT"}).encode())
    body = encode(json.dumps(claims).encode())
    signature = hmac.digest(secret.encode(), f"{head}.{body}".encode(), "sha256")
    return f"{head}.{body}.{encode(signature) if algorithm != 'none' else ''}"


def test_whoever_signs_up_is_signed_in_and_has_a_profile(api: Api) -> None:
    person = api.person("Beatriz")
    rows = person.client.table("profiles").select("id, full_name").execute().data
    assert rows == [{"id": str(person.id), "full_name": "Beatriz"}]


def test_signing_in_takes_the_right_password(api: Api) -> None:
    person, elsewhere = api.person(), api.client()
    answer = elsewhere.auth.sign_in_with_password({"email": person.email, "password": PASSWORD})
    assert answer.user is not None
    assert answer.user.id == str(person.id)
    rows = elsewhere.table("profiles").select("id").execute().data
    assert rows == [{"id": str(person.id)}]


def test_a_wrong_password_and_an_unknown_address_get_the_same_answer(api: Api) -> None:
    person = api.person()
    answers = []
    for email in (person.email, f"nobody-{uuid4().hex}@people.test"):
        with pytest.raises(AuthApiError) as error:
            api.client().auth.sign_in_with_password({"email": email, "password": "wrong-password"})
        answers.append((error.value.status, error.value.code, error.value.message))
    assert answers[0] == answers[1]
    assert answers[0][:2] == (400, "invalid_credentials")


def test_a_short_password_is_refused(api: Api) -> None:
    with pytest.raises(AuthWeakPasswordError) as error:
        api.client().auth.sign_up({"email": f"{uuid4().hex}@people.test", "password": "short"})
    assert (error.value.status, error.value.code) == (422, "weak_password")


def test_an_address_is_signed_up_once(api: Api) -> None:
    person = api.person()
    with pytest.raises(AuthApiError) as error:
        api.client().auth.sign_up({"email": person.email, "password": "another-password"})
    assert (error.value.status, error.value.code) == (422, "user_already_exists")


def test_a_refreshed_session_goes_on(api: Api) -> None:
    person = api.person()
    session = person.client.auth.get_session()
    assert session is not None
    fresh = person.client.auth.refresh_session().session
    assert fresh is not None
    assert fresh.refresh_token != session.refresh_token
    assert api.http(fresh.access_token).get("/rest/v1/profiles").json()[0]["id"] == str(person.id)


def test_an_invented_refresh_token_is_refused(api: Api) -> None:
    with pytest.raises(AuthApiError) as error:
        api.client().auth.refresh_session("aaaaaaaaaaaa")
    assert error.value.status == 400


def test_signing_out_ends_the_session(api: Api) -> None:
    person = api.person()
    session = person.client.auth.get_session()
    assert session is not None
    person.client.auth.sign_out()
    with pytest.raises(AuthApiError) as error:
        api.client().auth.refresh_session(session.refresh_token)
    assert error.value.status == 400
    assert person.http.get("/auth/v1/user").status_code in {401, 403}
    assert person.client.table("profiles").select("id")  # the client itself goes on as a visitor


def test_without_a_key_nothing_is_served(api: Api) -> None:
    with api.http() as http:
        del http.headers["apikey"]
        for path in ("/rest/v1/leads", "/rest/v1/published_posts", "/rest/v1/rpc/submit_lead"):
            answer = http.get(path)
            assert answer.status_code == 401, path
            assert "internal" not in answer.text


def test_an_unknown_key_is_refused(api: Api) -> None:
    with api.http() as http:
        answer = http.get("/rest/v1/published_posts", headers={"apikey": "sb_publishable_guess"})
    assert answer.status_code == 401


@pytest.mark.parametrize("role", ["authenticated", "service_role", "postgres"])
@pytest.mark.parametrize(("secret", "algorithm"), [("another secret" * 3, "HS256"), ("", "none")])
def test_a_token_that_the_server_did_not_sign_is_refused(
    api: Api, company: Company, role: str, secret: str, algorithm: str
) -> None:
    forged = sign(
        {"sub": str(company.owner.id), "role": role, "exp": time.time() + 3600}, secret, algorithm
    )
    with api.http(forged) as http:
        answer = http.get("/rest/v1/organizations")
    assert answer.status_code == 401
    assert company.slug not in answer.text


def test_an_expired_token_is_refused(api: Api, company: Company) -> None:
    old = {**claims_of(company.owner.token), "exp": int(time.time()) - 60}
    fresh = {**old, "exp": int(time.time()) + 60}
    with api.http(sign(old, api.jwt_secret)) as http:
        assert http.get("/rest/v1/organizations").status_code == 401
    with api.http(sign(fresh, api.jwt_secret)) as http:
        assert http.get("/rest/v1/organizations").json()[0]["slug"] == company.slug


@pytest.mark.parametrize("role", ["postgres", "authenticator", "analyst", "pg_read_all_data"])
def test_even_a_signed_token_takes_no_other_role_of_the_database(api: Api, role: str) -> None:
    token = sign({"sub": str(uuid4()), "role": role, "exp": time.time() + 3600}, api.jwt_secret)
    with api.http(token) as http:
        answer = http.get("/rest/v1/leads")
    assert answer.status_code in {401, 403}, answer.text


def agent_claims(world: World) -> dict[str, Any]:
    return {"agent_id": str(world.a.member("agent")), "agent_org_id": str(world.a.org)}


def test_nobody_makes_himself_an_agent_at_sign_up(api: Api, world: World) -> None:
    forged = agent_claims(world)
    with api.http() as http:
        answer = http.post(
            "/auth/v1/signup",
            json={
                "email": f"{uuid4().hex}@people.test",
                "password": PASSWORD,
                "data": {**forged, "app_metadata": forged, "role": "service_role"},
                "app_metadata": forged,
                "user_metadata": forged,
                "raw_app_meta_data": forged,
                "role": "service_role",
                "aud": "service_role",
            },
        ).json()
    is_no_agent(api, answer["access_token"])


def test_nobody_makes_himself_an_agent_later(api: Api, world: World) -> None:
    forged = agent_claims(world)
    person = api.person()
    person.http.put(
        "/auth/v1/user",
        json={
            "data": {**forged, "app_metadata": forged},
            "app_metadata": forged,
            "raw_app_meta_data": forged,
            "role": "service_role",
        },
    )
    fresh = person.client.auth.refresh_session().session
    assert fresh is not None
    is_no_agent(api, fresh.access_token)


def is_no_agent(api: Api, token: str) -> None:
    claims = claims_of(token)
    assert claims["role"] == "authenticated"
    assert not {"agent_id", "agent_org_id"} & set(claims["app_metadata"])
    with api.http(token) as http:
        assert http.get("/rest/v1/organizations").json() == []
        assert http.get("/rest/v1/leads").json() == []


def test_an_agent_is_one_by_what_only_the_server_writes(
    api: Api, company: Company, world: World
) -> None:
    """The control of the two above: with the claims in place the same requests do show rows."""
    company.lead("Lia")
    person = api.person()
    api.db.execute(
        "update auth.users set raw_app_meta_data = raw_app_meta_data || %s where id = %s",
        (
            json.dumps({"agent_id": str(person.id), "agent_org_id": str(company.id)}),
            person.id,
        ),
    )
    session = person.client.auth.refresh_session().session
    assert session is not None
    with api.http(session.access_token) as http:
        assert [row["name"] for row in http.get("/rest/v1/leads").json()] == ["Lia"]
        assert http.get(f"/rest/v1/leads?org_id=eq.{world.a.org}").json() == []


@pytest.mark.parametrize("schema", ["app", "auth", "partitions", "pgqueuer", "pg_catalog"])
def test_only_the_public_schema_is_served(company: Company, schema: str) -> None:
    for headers in ({"accept-profile": schema}, {"content-profile": schema}):
        for method, path in (("GET", "/rest/v1/users"), ("POST", "/rest/v1/rpc/rollup_events")):
            answer = company.owner.http.request(method, path, headers=headers)
            assert answer.status_code in {404, 406}, (method, headers, answer.text)
