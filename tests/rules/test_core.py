"""Organisations, people, invitations, roles, API keys, the audit chain, documents and the clock."""

import hashlib
import re
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb
from validate_docbr import CNPJ, CPF

from tests.people import (
    Connection,
    World,
    add_person,
    as_agent,
    as_anon,
    as_client,
    as_member,
    as_person,
    as_worker,
    denied,
    refused,
    set_clock,
)


def one(db: Connection, query: str, *parameters: Any) -> Any:
    """Return the first column of the only row."""
    row = db.execute(query, parameters or None).fetchone()
    assert row is not None
    return row[0]


@pytest.fixture(scope="module")
def db_session(db_url: str) -> Iterator[Connection]:
    """A connection for properties that change nothing."""
    with psycopg.connect(db_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def newcomer(db: Connection) -> UUID:
    """Somebody who has just signed up."""
    return add_person(db, uuid4(), "Nina Nova")


def email_of(person: UUID) -> str:
    return f"{person}@people.test"


# --- People and organisations --------------------------------------------------------------------


def test_signing_up_makes_a_profile_with_the_name_given(db: Connection, newcomer: UUID) -> None:
    assert one(db, "select full_name from public.profiles where id = %s", newcomer) == "Nina Nova"


def test_whoever_creates_an_organisation_owns_it(db: Connection, newcomer: UUID) -> None:
    with as_person(db, newcomer):
        org, slug = db.execute(
            "select id, slug from public.create_organization('Padaria São João', cnpj => '11.222.333/0001-81')"
        ).fetchone()  # type: ignore[misc]
        assert slug == "padaria-sao-joao"
        assert db.execute("select id, role from public.list_my_organizations()").fetchall() == [
            (org, "owner")
        ]
        assert one(db, "select cnpj from public.organizations") == "11222333000181"


def test_an_organisation_is_not_created_with_bad_words(db: Connection, newcomer: UUID) -> None:
    with as_person(db, newcomer):
        for arguments in (
            "'A'",
            "'Padaria', slug => 'Não É Slug'",
            "'Padaria', cnpj => '11222333000182'",
            f"'{'x' * 201}'",
        ):
            with refused("bad_input"):
                db.execute(f"select public.create_organization({arguments})")
        with refused("time_zone_unknown"):
            db.execute("select public.create_organization('Padaria', time_zone => 'America/Lua')")


def test_a_slug_belongs_to_one_organisation(db: Connection, world: World, newcomer: UUID) -> None:
    with as_person(db, newcomer), refused("slug_taken"):
        db.execute("select public.create_organization('Alfa', slug => %s)", (world.a.slug,))


def test_creating_organisations_is_limited(db: Connection, newcomer: UUID) -> None:
    with as_person(db, newcomer):
        for number in range(20):
            db.execute("select public.create_organization(%s)", (f"Empresa {number}",))
        with refused("rate_limited"):
            db.execute("select public.create_organization('Empresa 21')")


def test_only_signed_in_people_create_and_accept(db: Connection, world: World) -> None:
    with as_anon(db), denied():
        db.execute("select public.create_organization('Padaria')")
    with as_agent(db, world.a):
        for call in (
            "create_organization('Padaria')",
            "accept_invitation('x')",
            f"leave_organization('{world.a.org}')",
        ):
            with refused("not_signed_in"):
                db.execute(f"select public.{call}")


def test_settings_follow_their_definitions(db: Connection, world: World) -> None:
    definitions = db.execute(
        "select key, kind, minimum, maximum, choices, default_value from app.setting_definitions order by key"
    ).fetchall()
    assert definitions, "no module defines a setting"
    with as_member(db, world.a, "admin"):
        for key, kind, _minimum, maximum, _choices, default in definitions:
            query = "select (public.update_organization(%s, settings => jsonb_build_object(%s::text, %s::jsonb))).settings -> %s"
            good = Jsonb(default)
            assert one(db, query, world.a.org, key, good, key) == default
            bad = {"text": 1, "boolean": "sim", "choice": "?"}.get(kind, "x")
            with refused("setting_invalid"):
                one(db, query, world.a.org, key, Jsonb(bad), key)
            if maximum is not None and kind in {"number", "integer"}:
                with refused("setting_invalid"):
                    one(
                        db,
                        query,
                        world.a.org,
                        key,
                        Jsonb(float(maximum) + 1),
                        key,
                    )
        with refused("setting_invalid"):
            db.execute(
                "select public.update_organization(%s, settings => '{\"unheard_of\": 1}')",
                (world.a.org,),
            )


def test_an_update_changes_what_is_given_and_null_returns_a_setting_to_its_default(
    db: Connection, world: World
) -> None:
    key, default = db.execute(
        "select key, default_value from app.setting_definitions limit 1"
    ).fetchone()  # type: ignore[misc]
    value = Jsonb({key: default})
    with as_member(db, world.a, "owner"):
        name = one(db, "select name from public.organizations")
        db.execute(
            "select public.update_organization(%s, vertical => 'Segurança', settings => %s)",
            (world.a.org, value),
        )
        assert db.execute("select name, vertical, settings from public.organizations").fetchone() == (
            name, "Segurança", {key: default},
        )  # fmt: skip
        db.execute(
            "select public.update_organization(%s, settings => %s)",
            (world.a.org, Jsonb({key: None})),
        )
        assert one(db, "select settings from public.organizations") == {}
        with refused("bad_input"):
            db.execute("select public.update_organization(%s, cnpj => '1')", (world.a.org,))
        with refused("bad_input"):
            db.execute(
                "select public.update_organization(%s, locale => 'português')", (world.a.org,)
            )


def test_only_an_operator_closes_an_organisation(db: Connection, world: World) -> None:
    with as_member(db, world.a, "owner"), refused("not_allowed"):
        db.execute("select public.set_organization_status(%s, 'active')", (world.a.org,))
    with as_person(db, world.platform_admin):
        with refused("bad_input"):
            db.execute("select public.set_organization_status(%s, 'asleep')", (world.a.org,))
        with refused("not_found"):
            db.execute("select public.set_organization_status(gen_random_uuid(), 'inactive')")
        assert (
            one(
                db,
                "select (public.set_organization_status(%s, 'inactive', 'pro')).plan",
                world.a.org,
            )
            == "pro"
        )
    with as_member(db, world.a, "owner"):
        assert db.execute("select status from public.list_my_organizations()").fetchall() == [
            ("inactive",)
        ]


# --- Invitations ---------------------------------------------------------------------------------


def invite(db: Connection, world: World, email: str, role: str = "sales", **more: Any) -> str:
    """Invite as the owner of organisation a, and return the token."""
    with as_member(db, world.a, "owner"):
        answer = one(
            db,
            "select public.invite_member(%s, %s, %s, client_id => %s, valid_for => %s)",
            world.a.org,
            email,
            role,
            more.get("client"),
            more.get("valid_for", "7 days"),
        )
    assert answer["role"] == role
    return str(answer["token"])


def test_an_invitation_makes_its_addressee_a_member_once(
    db: Connection, world: World, newcomer: UUID
) -> None:
    token = invite(db, world, email_of(newcomer).upper())
    with as_person(db, newcomer):
        assert db.execute("select org_id, role, invited_by from public.accept_invitation(%s)", (token,)).fetchone() == (
            world.a.org, "sales", world.a.member("owner"),
        )  # fmt: skip
        with refused("invitation_used"):
            db.execute("select public.accept_invitation(%s)", (token,))


def test_only_the_hash_of_a_token_is_stored(db: Connection, world: World, newcomer: UUID) -> None:
    token = invite(db, world, email_of(newcomer))
    stored = db.execute("select to_jsonb(i)::text, token_hash from public.invitations i").fetchall()
    assert [token in text for text, _ in stored] == [False]
    assert stored[0][1] == hashlib.sha256(token.encode()).digest()


def test_an_invitation_is_for_its_address_only(
    db: Connection, world: World, newcomer: UUID
) -> None:
    token = invite(db, world, email_of(newcomer))
    with as_person(db, world.stranger), refused("invitation_foreign"):
        db.execute("select public.accept_invitation(%s)", (token,))


def test_an_unknown_token_is_not_found(db: Connection, newcomer: UUID) -> None:
    with as_person(db, newcomer), refused("invitation_not_found"):
        db.execute("select public.accept_invitation('nada')")


@pytest.mark.parametrize(
    ("moment", "key"), [("+6 days 23:59", None), ("+7 days", "invitation_expired")]
)
def test_an_invitation_ends_at_its_moment(
    db: Connection, world: World, newcomer: UUID, moment: str, key: str | None
) -> None:
    set_clock(db, "2026-03-31T23:30:00-03:00")
    token = invite(db, world, email_of(newcomer))
    set_clock(
        db,
        one(
            db,
            "select timestamptz '2026-03-31T23:30:00-03:00' + %s::interval",
            moment,
        ),
    )
    with as_person(db, newcomer):
        if key is None:
            assert one(db, "select role from public.accept_invitation(%s)", token) == "sales"
        else:
            with refused(key):
                db.execute("select public.accept_invitation(%s)", (token,))


def test_a_new_invitation_replaces_an_open_one(
    db: Connection, world: World, newcomer: UUID
) -> None:
    first, second = (invite(db, world, email_of(newcomer)) for _ in range(2))
    with as_person(db, newcomer):
        with refused("invitation_used"):
            db.execute("select public.accept_invitation(%s)", (first,))
        assert one(db, "select role from public.accept_invitation(%s)", second) == "sales"


def test_whoever_is_a_member_is_not_invited_again(db: Connection, world: World) -> None:
    with as_member(db, world.a, "owner"), refused("member_exists"):
        db.execute(
            "select public.invite_member(%s, %s, 'ops')",
            (world.a.org, email_of(world.a.member("sales"))),
        )


def test_whoever_became_a_member_meanwhile_keeps_his_role(
    db: Connection, world: World, newcomer: UUID
) -> None:
    token = invite(db, world, email_of(newcomer), "admin")
    db.execute(
        "insert into public.memberships (org_id, user_id, role) values (%s, %s, 'sales')",
        (world.a.org, newcomer),
    )
    with as_person(db, newcomer), refused("member_exists"):
        db.execute("select public.accept_invitation(%s)", (token,))
    assert one(db, "select role from public.memberships where user_id = %s", newcomer) == "sales"


@pytest.mark.parametrize("inviter", ["director", "sales", "people", "employee", "client"])
def test_only_owners_and_admins_invite(db: Connection, world: World, inviter: str) -> None:
    with as_member(db, world.a, inviter), refused("not_allowed"):
        db.execute(
            "select public.invite_member(%s, 'novo@people.test', 'employee')", (world.a.org,)
        )


def test_an_admin_invites_admins_and_not_owners(db: Connection, world: World) -> None:
    with as_member(db, world.a, "admin"):
        assert (
            one(
                db,
                "select public.invite_member(%s, 'novo@people.test', 'admin') ->> 'role'",
                world.a.org,
            )
            == "admin"
        )
        with refused("not_allowed"):
            db.execute(
                "select public.invite_member(%s, 'novo@people.test', 'owner')", (world.a.org,)
            )


def test_an_invitation_needs_an_address_a_known_role_and_a_client_for_a_client(
    db: Connection, world: World
) -> None:
    with as_member(db, world.a, "owner"):
        for email, role, client, valid_for in (
            ("sem-arroba", "sales", None, "1 day"),
            ("novo@people.test", "client", None, "1 day"),
            ("novo@people.test", "sales", world.a.client, "1 day"),
            ("novo@people.test", "sales", None, "31 days"),
            ("novo@people.test", "sales", None, "1 minute"),
        ):
            with refused("bad_input"):
                db.execute(
                    "select public.invite_member(%s, %s, %s, %s, %s)",
                    (world.a.org, email, role, client, valid_for),
                )
        with refused("role_unknown"):
            db.execute(
                "select public.invite_member(%s, 'novo@people.test', 'king')", (world.a.org,)
            )


def test_a_client_of_another_organisation_is_not_invited_to(db: Connection, world: World) -> None:
    with as_member(db, world.a, "owner"), pytest.raises(psycopg.Error) as error, db.transaction():
        db.execute(
            "select public.invite_member(%s, 'novo@people.test', 'client', client_id => %s)",
            (world.a.org, world.b.client),
        )
    assert error.value.sqlstate in {"23503", "PT404", "PT422"}


def test_an_invited_client_reaches_the_portal_of_his_client(
    db: Connection, world: World, newcomer: UUID
) -> None:
    token = invite(db, world, email_of(newcomer), "client", client=world.a.other_client)
    with as_person(db, newcomer):
        db.execute("select public.accept_invitation(%s)", (token,))
        assert db.execute("select id from public.clients").fetchall() == [(world.a.other_client,)]


def test_a_suspended_organisation_takes_no_new_members(
    db: Connection, world: World, newcomer: UUID
) -> None:
    token = invite(db, world, email_of(newcomer))
    db.execute("update public.organizations set status = 'suspended' where id = %s", (world.a.org,))
    with as_person(db, newcomer), refused("organization_suspended"):
        db.execute("select public.accept_invitation(%s)", (token,))


# --- Roles ---------------------------------------------------------------------------------------


def test_an_organisation_keeps_its_last_owner(db: Connection, world: World) -> None:
    owner = world.a.member("owner")
    with as_member(db, world.a, "owner"):
        with refused("last_owner"):
            db.execute("select public.leave_organization(%s)", (world.a.org,))
        with refused("last_owner"):
            db.execute("select public.remove_member(%s, %s)", (world.a.org, owner))
        with refused("last_owner"):
            db.execute("select public.set_member_role(%s, %s, 'admin')", (world.a.org, owner))
        db.execute(
            "select public.set_member_role(%s, %s, 'owner')", (world.a.org, world.a.member("admin"))
        )
        db.execute("select public.leave_organization(%s)", (world.a.org,))
    assert (
        one(
            db,
            "select count(*) from public.memberships where org_id = %s and user_id = %s",
            world.a.org,
            owner,
        )
        == 0
    )


def test_an_organisation_is_deleted_with_its_last_owner(db: Connection, world: World) -> None:
    db.execute("delete from public.organizations where id = %s", (world.a.org,))
    assert one(db, "select count(*) from public.memberships where org_id = %s", world.a.org) == 0


@pytest.mark.parametrize("role", ["director", "sales", "employee", "client"])
def test_nobody_raises_himself(db: Connection, world: World, role: str) -> None:
    with as_member(db, world.a, role), refused("not_allowed"):
        db.execute(
            "select public.set_member_role(%s, %s, 'owner')", (world.a.org, world.a.member(role))
        )


def test_an_admin_does_not_make_himself_owner(db: Connection, world: World) -> None:
    with as_member(db, world.a, "admin"), refused("self_promotion_refused"):
        db.execute(
            "select public.set_member_role(%s, %s, 'owner')", (world.a.org, world.a.member("admin"))
        )


def test_an_admin_neither_makes_owners_nor_removes_admins(db: Connection, world: World) -> None:
    second = world.a.member("director")
    db.execute(
        "update public.memberships set role = 'admin' where org_id = %s and user_id = %s",
        (world.a.org, second),
    )
    with as_member(db, world.a, "admin"):
        with refused("not_allowed"):
            db.execute(
                "select public.set_member_role(%s, %s, 'owner')",
                (world.a.org, world.a.member("sales")),
            )
        for call in ("remove_member(%s, %s)", "set_member_role(%s, %s, 'sales')"):
            for person in (second, world.a.member("owner")):
                with refused("not_allowed"):
                    db.execute(f"select public.{call}", (world.a.org, person))
        db.execute("select public.remove_member(%s, %s)", (world.a.org, world.a.member("sales")))
    with as_member(db, world.a, "owner"):
        db.execute("select public.remove_member(%s, %s)", (world.a.org, second))
    left = {
        row[0]
        for row in db.execute(
            "select user_id from public.memberships where org_id = %s", (world.a.org,)
        )
    }
    assert not {second, world.a.member("sales")} & left


def test_a_person_gives_up_a_role_of_his_own(db: Connection, world: World) -> None:
    with as_member(db, world.a, "admin"):
        assert one(
            db, "select role from public.set_member_role(%s, %s, 'employee')", world.a.org, world.a.member("admin")
        ) == "employee"  # fmt: skip


def test_a_member_of_another_organisation_is_not_found(db: Connection, world: World) -> None:
    with as_member(db, world.a, "owner"):
        for call in ("set_member_role(%s, %s, 'sales')", "remove_member(%s, %s)"):
            with refused("not_found"):
                db.execute(f"select public.{call}", (world.a.org, world.b.member("sales")))
        for call in (
            "leave_organization(%s)",
            "list_members(%s)",
            "update_organization(%s, name => 'Minha')",
        ):
            with refused("not_found"):
                db.execute(f"select * from public.{call}", (world.b.org,))


def test_a_role_changes_with_a_client_exactly_for_clients(db: Connection, world: World) -> None:
    member = world.a.member("sales")
    with as_member(db, world.a, "owner"):
        for arguments in (
            "'client'",
            "'ops', client_id => gen_random_uuid()",
            "'ops', hourly_rate => -1",
        ):
            with refused("bad_input"):
                db.execute(
                    f"select public.set_member_role(%s, %s, {arguments})", (world.a.org, member)
                )
        with refused("role_unknown"):
            db.execute("select public.set_member_role(%s, %s, 'king')", (world.a.org, member))
        assert (
            one(
                db,
                "select hourly_rate from public.set_member_role(%s, %s, 'ops', hourly_rate => 80)",
                world.a.org,
                member,
            )
            == 80
        )
        assert (
            one(
                db,
                "select hourly_rate from public.set_member_role(%s, %s, 'sales')",
                world.a.org,
                member,
            )
            == 80
        )


def test_the_directory_shows_names_and_no_rates_to_staff_and_not_to_clients(
    db: Connection, world: World
) -> None:
    with as_member(db, world.a, "employee"):
        cursor = db.execute("select * from public.list_members(%s)", (world.a.org,))
        assert "hourly_rate" not in [column.name for column in cursor.description or []]
        assert len(cursor.fetchall()) == one(
            db, "select count(*) from app.colleague_ids() c, unnest(c)"
        )
    with as_client(db, world.a), refused("not_found"):
        db.execute("select * from public.list_members(%s)", (world.a.org,))


# --- API keys ------------------------------------------------------------------------------------


def test_a_key_is_shown_once_and_stored_as_its_hash(db: Connection, world: World) -> None:
    with as_member(db, world.a, "admin"):
        answer = one(
            db, "select public.create_api_key(%s, 'Zabbix', '{indicators:write}')", world.a.org
        )
    stored, digest = db.execute(
        "select to_jsonb(k)::text, key_hash from public.api_keys k"
    ).fetchone()  # type: ignore[misc]
    assert answer["key"] not in stored
    assert answer["key"].startswith(answer["key_prefix"])
    assert digest == hashlib.sha256(answer["key"].encode()).digest()
    assert (
        one(
            db,
            "select count(*) from public.audit_log where changes::text like %s",
            f"%{digest.hex()}%",
        )
        == 0
    )


def test_a_key_needs_a_name_known_scopes_a_future_end_and_a_sane_rate(
    db: Connection, world: World
) -> None:
    with as_member(db, world.a, "owner"):
        for arguments in (
            "'', '{indicators:write}'",
            "'Zabbix', '{}'",
            "'Zabbix', '{all}'",
            "'Zabbix', '{indicators:write}', expires_at => app.now()",
            "'Zabbix', '{indicators:write}', rate_per_minute => 0",
        ):
            with refused("bad_input"):
                db.execute(f"select public.create_api_key(%s, {arguments})", (world.a.org,))


def test_a_key_is_revoked_once_and_for_all(db: Connection, world: World) -> None:
    with as_member(db, world.a, "owner"):
        key = one(
            db,
            "select public.create_api_key(%s, 'Zabbix', '{indicators:write}') ->> 'id'",
            world.a.org,
        )
        set_clock(db, "2026-05-01T10:00:00-03:00")
        db.execute("select public.revoke_api_key(%s, %s)", (world.a.org, key))
        first = one(db, "select revoked_at from public.api_keys")
        set_clock(db, "2026-05-02T10:00:00-03:00")
        db.execute("select public.revoke_api_key(%s, %s)", (world.a.org, key))
        assert one(db, "select revoked_at from public.api_keys") == first
        with refused("not_found"):
            db.execute("select public.revoke_api_key(%s, gen_random_uuid())", (world.a.org,))
    with as_member(db, world.a, "director"), refused("not_allowed"):
        db.execute(
            "select public.create_api_key(%s, 'Zabbix', '{indicators:write}')", (world.a.org,)
        )


# --- Audit ---------------------------------------------------------------------------------------


def test_the_audit_tells_who_changed_what(db: Connection, world: World) -> None:
    with as_member(db, world.a, "owner"):
        db.execute(
            "select public.set_member_role(%s, %s, 'ops', hourly_rate => 90)",
            (world.a.org, world.a.member("sales")),
        )
        row = db.execute(
            "select actor_id, action, changes from public.audit_log where table_name = 'memberships' and row_id = %s"
            " order by occurred_at desc limit 1",
            (str(world.a.member("sales")),),
        ).fetchone()
    assert row == (
        world.a.member("owner"),
        "update",
        {"role": ["sales", "ops"], "hourly_rate": [None, 90]},
    )


def test_the_audit_masks_personal_data(db: Connection, world: World) -> None:
    invite(db, world, "segredo@people.test")
    changes = one(db, "select changes from public.audit_log where table_name = 'invitations'")
    assert changes["email"] == changes["token_hash"] == ["***", "***"]


@pytest.mark.parametrize("table", ["audit_log", "audit_seals"])
def test_nobody_alters_the_audit(db: Connection, world: World, table: str) -> None:
    statements = (
        f"update public.{table} set xid = xid",
        f"delete from public.{table}",
        f"truncate public.{table}",
    )
    for statement in statements:
        with refused("append_only"):
            db.execute(statement)
        with as_worker(db), refused("append_only") if "truncate" in statement else denied():
            db.execute(statement)
        with as_member(db, world.a, "owner"), denied():
            db.execute(statement)


def seal(db: Connection) -> int:
    """Seal until nothing is left: transactions of other databases of the server hold the watermark back for a while."""
    sealed, deadline = 0, time.monotonic() + 30
    while time.monotonic() < deadline:
        sealed += int(one(db, "select app.seal_audit_log()"))
        if one(db, "select count(*) from public.audit_log") == one(
            db, "select count(*) from public.audit_seals"
        ):
            return sealed
    pytest.fail("the audit log is not sealed within 30 s")


def problems(db: Connection, org: UUID) -> list[str]:
    return [
        row[0]
        for row in db.execute(
            "select problem from public.verify_audit_chain(%s)", (org,)
        ).fetchall()
    ]


def test_the_chain_finds_altered_missing_inserted_and_forged_rows(
    own_db_url: str, world: World
) -> None:
    with psycopg.connect(own_db_url, autocommit=True) as db:
        assert seal(db) > 0
        with as_member(db, world.a, "owner"):
            db.execute(
                "select public.update_organization(%s, vertical => 'Segurança')", (world.a.org,)
            )
        assert seal(db) == 1
        assert seal(db) == 0
        assert problems(db, world.a.org) == []
        third = "(org_id, {0}) = (select org_id, {1} from public.audit_seals where org_id = '{2}' and seal_number = 3)"
        row = third.format("id", "audit_id", world.a.org)
        sealed = third.format("seal_number", "seal_number", world.a.org)
        forged = (
            "insert into public.audit_log (org_id, table_name, row_id, action, changes, xid)"
            f" select '{world.a.org}', 'memberships', 'x', 'update', '{{}}', min(xid) from public.audit_seals"
        )
        for tampering, found in (
            (f"update public.audit_log set actor_id = gen_random_uuid() where {row}", {"altered"}),
            (
                f"update public.audit_log set occurred_at = occurred_at - interval '1 s' where {row}",
                {"altered"},
            ),
            (f"delete from public.audit_log where {row}", {"missing"}),
            (f"delete from public.audit_seals where {sealed}", {"chain_broken", "inserted"}),
            (
                f"update public.audit_seals set row_hash = sha256('x') where {sealed}",
                {"chain_broken"},
            ),
            (forged, {"inserted"}),
        ):
            with db.transaction(force_rollback=True):
                db.execute("set local session_replication_role = replica")
                assert db.execute(tampering).rowcount == 1
                assert found <= set(problems(db, world.a.org)), tampering
                assert problems(db, world.b.org) == []
        assert problems(db, world.a.org) == []


def test_a_seal_waits_for_every_earlier_transaction(own_db_url: str, world: World) -> None:
    def rename(db: Connection, name: str) -> None:
        db.execute("update public.organizations set name = %s where id = %s", (name, world.b.org))

    with psycopg.connect(own_db_url) as slow, psycopg.connect(own_db_url, autocommit=True) as db:
        seal(db)
        slow.execute("update public.organizations set name = 'Lenta' where id = %s", (world.a.org,))
        rename(db, "Rápida")
        assert one(db, "select app.seal_audit_log()") == 0
        slow.commit()
        assert seal(db) == 2
        assert problems(db, world.a.org) == problems(db, world.b.org) == []


def test_only_those_who_administer_verify_the_chain(db: Connection, world: World) -> None:
    with as_member(db, world.a, "director"), refused("not_allowed"):
        problems(db, world.a.org)
    with as_member(db, world.a, "admin"):
        assert problems(db, world.a.org) == []


# --- Keys of rows --------------------------------------------------------------------------------


def test_the_keys_of_a_row_stay(db: Connection, world: World) -> None:
    lead = one(
        db,
        "insert into public.leads (org_id, name, email) values (%s, 'Ana', 'ana@people.test') returning id",
        world.a.org,
    )
    with as_member(db, world.a, "owner"):
        for change in (
            "id = gen_random_uuid()",
            f"org_id = '{world.b.org}'",
            "created_at = created_at - interval '1 s'",
            f"created_by = '{world.a.member('sales')}'",
        ):
            with refused("keys_are_immutable"):
                db.execute(f"update public.leads set {change} where id = %s", (lead,))


def test_the_creator_of_a_row_is_whoever_created_it(db: Connection, world: World) -> None:
    with as_member(db, world.a, "director") as director:
        assert one(
            db,
            "insert into public.leads (org_id, name, email, created_by) values (%s, 'Ana', 'ana@people.test', %s) returning created_by",
            world.a.org,
            world.a.member("sales"),
        ) == director  # fmt: skip


def test_an_owner_of_a_row_is_a_member_of_its_organisation(db: Connection, world: World) -> None:
    for person in (world.b.member("sales"), world.stranger):
        with as_member(db, world.a, "director"), refused("user_not_member"):
            db.execute(
                "insert into public.leads (org_id, name, email, owner_id) values (%s, 'Ana', 'ana@people.test', %s)",
                (world.a.org, person),
            )


# --- Errors --------------------------------------------------------------------------------------


def test_an_error_carries_its_status_key_detail_and_hint(db: Connection) -> None:
    with refused("rate_limited") as answer:
        db.execute("select app.raise_error('rate_limited', 'More than 5.', 'Wait.')")
    assert (answer.status, answer.detail, answer.hint) == (429, "More than 5.", "Wait.")


def test_an_unregistered_error_is_a_bug(db: Connection) -> None:
    with (
        pytest.raises(psycopg.errors.RaiseException, match="unheard_of is not registered"),
        db.transaction(),
    ):
        db.execute("select app.raise_error('unheard_of')")


def test_a_missing_queue_names_the_way_out(db: Connection) -> None:
    with db.transaction(force_rollback=True):
        db.execute("drop schema pgqueuer cascade")
        with refused("queue_missing") as answer:
            db.execute("select app.enqueue('event.job', '{}')")
    assert "nessos db push" in f"{answer.detail} {answer.hint}"


# --- Clock ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "zone", "today"),
    [
        ("2026-03-31T23:30:00-03:00", "America/Sao_Paulo", "2026-03-31"),
        ("2026-03-31T23:30:00-03:00", "UTC", "2026-04-01"),
        ("2026-04-01T00:30:00-03:00", "America/Rio_Branco", "2026-03-31"),
        ("2028-02-29T12:00:00-03:00", "America/Sao_Paulo", "2028-02-29"),
    ],
)
def test_today_is_the_organisations_day(
    db: Connection, world: World, moment: str, zone: str, today: str
) -> None:
    db.execute("update public.organizations set time_zone = %s where id = %s", (zone, world.a.org))
    set_clock(db, moment)
    assert one(db, "select app.org_today(%s)::text", world.a.org) == today


def test_without_a_test_the_clock_is_the_real_one(db: Connection) -> None:
    assert one(db, "select app.now() = now()")
    set_clock(db, "2026-03-31T23:30:00-03:00")
    assert not one(db, "select app.now() = now()")
    set_clock(db, None)
    assert one(db, "select app.now() = now()")


# --- CPF, CNPJ and other texts --------------------------------------------------------------------

CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def check_digits(base: str, sizes: tuple[int, int]) -> str:
    """Compute both check digits as Receita Federal describes: weights 2 to `size`, letters by ASCII code minus 48."""
    for size in sizes:
        weights = [2 + place % (size - 1) for place in range(len(base))]
        total = sum(
            (ord(c) - 48) * weight for c, weight in zip(reversed(base), weights, strict=True)
        )
        base += str((11 - total % 11) % 11 % 10 if total % 11 > 1 else 0)
    return base


@given(st.text("0123456789", min_size=9, max_size=9))
@settings(max_examples=200, deadline=None)
def test_a_cpf_is_valid_with_its_check_digits_and_no_other(
    db_session: Connection, base: str
) -> None:
    right = check_digits(base, (11, 12))
    wrong = right[:9] + f"{(int(right[9:]) + 1) % 100:02d}"
    same = len(set(right)) == 1
    assert one(db_session, "select app.is_valid_cpf(%s)", right) is not same
    assert one(db_session, "select app.is_valid_cpf(%s)", wrong) is False
    assert CPF().validate(right) is not same


@given(st.text(CHARACTERS, min_size=12, max_size=12))
@settings(max_examples=200, deadline=None)
def test_a_cnpj_is_valid_with_its_check_digits_letters_too(
    db_session: Connection, base: str
) -> None:
    right = check_digits(base, (9, 9))
    wrong = right[:12] + f"{(int(right[12:]) + 1) % 100:02d}"
    if len(set(right)) > 1:
        assert one(db_session, "select app.is_valid_cnpj(%s)", right) is True
    assert one(db_session, "select app.is_valid_cnpj(%s)", wrong) is False
    assert one(db_session, "select app.is_valid_cnpj(%s)", right.lower()) is (
        right.isdigit() and len(set(right)) > 1
    )


@given(st.sampled_from([CPF(), CNPJ()]), st.data())
@settings(max_examples=100, deadline=None)
def test_documents_of_the_library_are_valid_here_and_the_reverse(
    db_session: Connection, library: CPF | CNPJ, data: st.DataObject
) -> None:
    made = library.generate()
    assert (
        one(
            db_session,
            "select app.is_valid_document(app.normalize_document(%s))",
            library.mask(made),
        )
        is True
    )
    place = data.draw(st.integers(0, len(made) - 1))
    changed = (
        made[:place]
        + str((int(made[place]) + data.draw(st.integers(1, 9))) % 10)
        + made[place + 1 :]
    )
    assert one(db_session, "select app.is_valid_document(%s)", changed) is library.validate(changed)


def test_the_example_of_the_alphanumeric_cnpj_is_valid(db: Connection) -> None:
    assert one(db, "select app.is_valid_cnpj(app.normalize_document('12.ABC.345/01DE-35'))") is True
    assert (
        one(db, "select app.is_valid_cnpj(app.normalize_document('12.ABC.345/01DE-36'))") is False
    )


@pytest.mark.parametrize(
    "value",
    [
        "",
        "1",
        "00000000000",
        "11111111111",
        "0" * 14,
        "A" * 12 + "00",
        "123456789012345",
        "529.982.247-25",
    ],
)
def test_what_is_no_document_is_refused(db: Connection, value: str) -> None:
    assert one(db, "select app.is_valid_document(%s)", value) is False


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_a_slug_made_of_any_text_is_a_slug_or_empty(db_session: Connection, text: str) -> None:
    slug = one(db_session, "select app.slugify(%s)", text.replace("\0", "")[:110])
    assert slug == "" or re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug)
    assert slug == "" or one(db_session, "select app.is_slug(%s)", slug)


@pytest.mark.parametrize(
    "value", ["ana@people.test", "a.b+c@sub.people.com.br", "o'neil@people.test"]
)
def test_addresses_that_people_have_are_valid(db: Connection, value: str) -> None:
    assert one(db, "select app.is_valid_email(%s)", value) is True


@pytest.mark.parametrize(
    "value", ["", "ana", "ana@", "@people.test", "ana@people", "a na@people.test", "ana@people..test", ".ana@people.test",
              "ana@people.test\nbcc: x@y.z", "a" * 65 + "@people.test", "ana@-people.test"],
)  # fmt: skip
def test_what_is_no_address_is_refused(db: Connection, value: str) -> None:
    assert one(db, "select app.is_valid_email(%s)", value) is False


# --- Rate limit ----------------------------------------------------------------------------------


def test_a_rate_limit_slides(db: Connection) -> None:
    for minute in range(5):
        set_clock(db, f"2026-03-31T10:0{minute}:00-03:00")
        db.execute("select app.rate_limit('porta', 5, '10 minutes')")
    with refused("rate_limited"):
        db.execute("select app.rate_limit('porta', 5, '10 minutes')")
    db.execute("select app.rate_limit('outra porta', 5, '10 minutes')")
    set_clock(db, "2026-03-31T10:09:59-03:00")
    with refused("rate_limited"):
        db.execute("select app.rate_limit('porta', 5, '10 minutes')")
    set_clock(db, "2026-03-31T10:10:00-03:00")
    db.execute("select app.rate_limit('porta', 5, '10 minutes')")
    with refused("rate_limited"):
        db.execute("select app.rate_limit('porta', 5, '10 minutes')")


def test_what_a_role_and_the_settings_were_is_kept(db: Connection, world: World) -> None:
    """Indices of a past month count by what was true then."""

    def kept(entity: object) -> list[Any]:
        return [
            row[0]
            for row in db.execute(
                "select state from public.recorded_states where org_id = %s and entity_id = %s order by position",
                (world.a.org, entity),
            ).fetchall()
        ]

    person = world.a.member("sales")
    db.execute(
        "update memberships set role = 'ops' where org_id = %s and user_id = %s",
        (world.a.org, person),
    )
    db.execute("delete from memberships where org_id = %s and user_id = %s", (world.a.org, person))
    assert kept(person) == [{"role": "sales"}, {"role": "ops"}, None]
    db.execute(
        "update organizations set time_zone = 'America/Manaus' where id = %s", (world.a.org,)
    )
    assert [state["time_zone"] for state in kept(world.a.org)] == [
        "America/Sao_Paulo",
        "America/Manaus",
    ]
