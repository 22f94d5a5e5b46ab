"""Governance: versions of policies only on change, and the evidence of acceptance."""

import hashlib
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.people import (
    Connection,
    Org,
    World,
    acting,
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

STAFF = ("owner", "admin", "director", "sales", "ops", "finance", "legal", "people", "employee")
TEXT = "# Política\n\nNão compartilhe senhas."


def one(db: Connection, query: str, *parameters: object) -> Any:
    row = db.execute(query, parameters).fetchone()
    return row[0] if row and len(row) == 1 else row


def add_policy(db: Connection, org: Org, title: str = "Segurança") -> UUID:
    policy: UUID = one(
        db,
        "insert into public.policies (org_id, title) values (%s, %s) returning id",
        org.org,
        title,
    )
    return policy


def publish(db: Connection, org: Org, policy: UUID, text: str = TEXT) -> int:
    with as_member(db, org, "legal"):
        return int(one(db, "select (public.publish_policy(%s, %s)).version", policy, text))


def accept(db: Connection, policy: UUID, expected_hash: str | None = None) -> UUID:
    row: UUID = one(db, "select (public.accept_policy(%s, %s)).id", policy, expected_hash)
    return row


def pending(db: Connection, org: Org) -> list[tuple[UUID, int]]:
    return db.execute(
        "select policy_id, version from public.list_pending_policies(%s)", (org.org,)
    ).fetchall()


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def browsing(db: Connection, person: UUID, address: str, agent: str) -> Iterator[None]:
    headers = {"x-forwarded-for": f"6.6.6.6, {address}", "user-agent": agent}
    with acting(db, "authenticated", {"sub": str(person), "role": "authenticated"}, headers):
        yield


# Versions


def test_a_new_version_is_made_only_when_the_text_changed(db: Connection, world: World) -> None:
    policy = add_policy(db, world.a)
    assert publish(db, world.a, policy) == 1
    for same in (TEXT, f"\n {TEXT}\n\n", TEXT.replace("\n", "\r\n")):
        assert publish(db, world.a, policy, same) == 1
    assert publish(db, world.a, policy, TEXT + "!") == 2
    assert publish(db, world.a, policy, TEXT) == 3
    rows = db.execute(
        "select version, content_hash from public.policy_versions where policy_id = %s order by 1",
        (policy,),
    ).fetchall()
    assert rows == [(1, digest(TEXT)), (2, digest(TEXT + "!")), (3, digest(TEXT))]
    assert one(db, "select version, content_markdown from public.current_policies") == (3, TEXT)


def test_publishing_an_archived_policy_with_the_same_text_brings_it_back(
    db: Connection, world: World
) -> None:
    policy = add_policy(db, world.a)
    publish(db, world.a, policy)
    with as_member(db, world.a, "legal"):
        db.execute("update public.policies set status = 'archived'")
        assert db.execute("select * from public.current_policies").fetchall() == []
    assert publish(db, world.a, policy) == 1
    assert one(db, "select status from public.policies") == "published"


def test_only_those_who_write_gov_publish(db: Connection, world: World) -> None:
    policy = add_policy(db, world.a)
    call = "select public.publish_policy(%s, 'x')"
    for role in ("director", "sales", "ops", "finance", "people", "employee"):
        with as_member(db, world.a, role), refused("not_allowed"):
            db.execute(call, (policy,))
    for actor in (as_client(db, world.a), as_agent(db, world.a), as_member(db, world.b, "legal")):
        with actor, refused("policy_not_found"):
            db.execute(call, (policy,))
    with as_anon(db), denied():
        db.execute(call, (policy,))
    with as_member(db, world.a, "legal"), refused("policy_not_found"):
        db.execute(call, (uuid4(),))
    with as_worker(db):
        assert one(db, "select (public.publish_policy(%s, 'x')).version", policy) == 1


def test_a_policy_is_not_published_without_a_text(db: Connection, world: World) -> None:
    policy = add_policy(db, world.a)
    with as_member(db, world.a, "legal"):
        for text in (None, "", " \r\n "):
            with refused("policy_without_text"):
                db.execute("select public.publish_policy(%s, %s)", (policy, text))
        with refused("policy_without_text"):
            db.execute("update public.policies set status = 'published'")


@pytest.mark.parametrize(
    ("before", "after"), list(itertools.permutations(("draft", "published", "archived"), 2))
)
def test_a_policy_moves_only_as_listed(
    db: Connection, world: World, before: str, after: str
) -> None:
    policy = add_policy(db, world.a)
    if before != "draft":
        publish(db, world.a, policy)
    with as_member(db, world.a, "legal"):
        if before == "archived":
            db.execute("update public.policies set status = 'archived'")
        if after == "draft":
            with refused("policy_move_refused"):
                db.execute("update public.policies set status = 'draft'")
        elif (before, after) == ("draft", "published"):
            db.execute("select public.publish_policy(%s, 'x')", (policy,))
        else:
            db.execute("update public.policies set status = %s", (after,))


def test_a_policy_begins_as_draft(db: Connection, world: World) -> None:
    for status in ("published", "archived"):
        with as_member(db, world.a, "legal"), refused("policy_move_refused"):
            db.execute(
                "insert into public.policies (org_id, title, status) values (%s, 'Xis', %s)",
                (world.a.org, status),
            )


def test_versions_and_acceptances_are_never_changed(db: Connection, world: World) -> None:
    policy = add_policy(db, world.a)
    publish(db, world.a, policy)
    with as_member(db, world.a, "employee"):
        accept(db, policy)
    changes = (
        "update public.policy_versions set content_markdown = 'x'",
        "delete from public.policy_versions",
        "update public.policy_acceptances set accepted_at = now()",
        "delete from public.policy_acceptances",
    )
    for change in changes:
        with as_worker(db), refused("append_only"):
            db.execute(change)
        for role in ("owner", "legal", "employee"):
            with as_member(db, world.a, role), denied():
                db.execute(change)
    with (
        as_member(db, world.a, "legal"),
        pytest.raises(psycopg.errors.ForeignKeyViolation),
        db.transaction(),
    ):
        db.execute("delete from public.policies")


def test_evidence_goes_only_together_with_its_organization(db: Connection, world: World) -> None:
    policy = add_policy(db, world.a)
    publish(db, world.a, policy)
    with as_member(db, world.a, "employee"):
        accept(db, policy)
    db.execute("delete from public.organizations where id = %s", (world.a.org,))
    assert one(db, "select count(*) from public.policy_acceptances") == 0


def test_two_who_publish_at_once_make_consecutive_versions(own_db_url: str, world: World) -> None:
    with psycopg.connect(own_db_url) as first, psycopg.connect(own_db_url) as second:
        policy = add_policy(first, world.a)
        first.commit()
        assert publish(first, world.a, policy, "um") == 1
        second.execute("set lock_timeout = '200ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            publish(second, world.a, policy, "dois")
        second.rollback()
        first.commit()
        assert publish(second, world.a, policy, "dois") == 2


# Acceptance


def test_an_acceptance_holds_version_hash_address_browser_and_moment(
    db: Connection, world: World
) -> None:
    policy = add_policy(db, world.a)
    publish(db, world.a, policy)
    set_clock(db, "2026-03-02T10:00:00-03:00")
    with browsing(db, world.a.member("employee"), "203.0.113.9", "Firefox/140"):
        accept(db, policy, digest(TEXT))
    set_clock(db, None)
    row = one(
        db,
        "select policy_id, version, content_hash, user_id, address, user_agent, accepted_at ="
        " '2026-03-02T13:00:00Z'"
        " from public.policy_acceptances",
    )
    assert row == (
        policy,
        1,
        digest(TEXT),
        world.a.member("employee"),
        "203.0.113.9",
        "Firefox/140",
        True,
    )


def test_accepting_twice_gives_the_first_acceptance(db: Connection, world: World) -> None:
    policy = add_policy(db, world.a)
    publish(db, world.a, policy)
    with browsing(db, world.a.member("employee"), "203.0.113.9", "Firefox/140"):
        first = accept(db, policy)
    with browsing(db, world.a.member("employee"), "203.0.113.10", "Chrome/150"):
        assert accept(db, policy) == first
    assert one(db, "select count(*), min(user_agent) from public.policy_acceptances") == (
        1,
        "Firefox/140",
    )


def test_a_new_version_is_to_be_accepted_again_an_unchanged_one_is_not(
    db: Connection, world: World
) -> None:
    policy = add_policy(db, world.a)
    with as_member(db, world.a, "employee"):
        assert pending(db, world.a) == []
    publish(db, world.a, policy)
    with as_member(db, world.a, "employee"):
        assert pending(db, world.a) == [(policy, 1)]
        accept(db, policy)
        assert pending(db, world.a) == []
    publish(db, world.a, policy)
    with as_member(db, world.a, "employee"):
        assert pending(db, world.a) == []
    publish(db, world.a, policy, "Outro texto")
    with as_member(db, world.a, "employee"):
        assert pending(db, world.a) == [(policy, 2)]
        accept(db, policy)
        assert pending(db, world.a) == []
    assert one(db, "select count(*) from public.policy_acceptances") == 2


def test_every_colleague_reads_and_accepts_whatever_his_role(db: Connection, world: World) -> None:
    policy = add_policy(db, world.a)
    publish(db, world.a, policy)
    for role in STAFF:
        with as_member(db, world.a, role):
            row = one(
                db,
                "select content_markdown, content_hash from public.list_pending_policies(%s)",
                world.a.org,
            )
            assert row == (TEXT, digest(TEXT))
            accept(db, policy)
    assert one(db, "select count(distinct user_id) from public.policy_acceptances") == len(STAFF)


def test_nobody_else_accepts(db: Connection, world: World) -> None:
    policy = add_policy(db, world.a)
    publish(db, world.a, policy)
    with as_client(db, world.a), refused("not_allowed"):
        accept(db, policy)
    with as_agent(db, world.a), refused("policy_not_found"):
        accept(db, policy)
    for person in (world.stranger, world.removed, world.platform_admin, world.b.member("legal")):
        with as_person(db, person):
            with refused("policy_not_found"):
                accept(db, policy)
            with refused("not_allowed"):
                pending(db, world.a)
    with as_anon(db), denied():
        accept(db, policy)
    with as_worker(db), refused("policy_not_found"):
        accept(db, policy)


def test_a_draft_or_archived_policy_is_not_accepted(db: Connection, world: World) -> None:
    policy = add_policy(db, world.a)
    with as_member(db, world.a, "employee"), refused("policy_not_published"):
        accept(db, policy)
    publish(db, world.a, policy)
    with as_member(db, world.a, "legal"):
        db.execute("update public.policies set status = 'archived'")
    with as_member(db, world.a, "employee"):
        assert pending(db, world.a) == []
        with refused("policy_not_published"):
            accept(db, policy)


def test_a_text_that_changed_under_the_reader_is_not_accepted(db: Connection, world: World) -> None:
    policy = add_policy(db, world.a)
    publish(db, world.a, policy)
    publish(db, world.a, policy, "Outro texto")
    with as_member(db, world.a, "employee"):
        with refused("policy_text_changed"):
            accept(db, policy, digest(TEXT))
        accept(db, policy, digest("Outro texto"))


def test_no_client_writes_evidence_by_hand(db: Connection, world: World) -> None:
    policy = add_policy(db, world.a)
    publish(db, world.a, policy)
    for role in ("owner", "legal", "employee"):
        with as_member(db, world.a, role) as person, denied():
            db.execute(
                "insert into public.policy_acceptances (org_id, policy_id, version,"
                " content_hash, user_id)"
                " values (%s, %s, 1, %s, %s)",
                (world.a.org, policy, digest(TEXT), person),
            )
    with as_worker(db), pytest.raises(psycopg.errors.ForeignKeyViolation), db.transaction():
        db.execute(
            "insert into public.policy_acceptances (org_id, policy_id, version, content_hash,"
            " user_id)"
            " values (%s, %s, 1, 'another hash', %s)",
            (world.a.org, policy, world.a.member("ops")),
        )


def test_a_colleague_sees_the_own_acceptance_those_who_write_gov_all(
    db: Connection, world: World
) -> None:
    policy = add_policy(db, world.a)
    publish(db, world.a, policy)
    for role in ("ops", "employee"):
        with as_member(db, world.a, role):
            accept(db, policy)
    for role in STAFF:
        with as_member(db, world.a, role) as person:
            seen = {
                row[0]
                for row in db.execute("select user_id from public.policy_acceptances").fetchall()
            }
        everybody = {world.a.member("ops"), world.a.member("employee")}
        assert seen == (
            everybody if role in {"owner", "admin", "legal"} else everybody & {person}
        ), role
    for actor in (as_client(db, world.a), as_agent(db, world.a), as_member(db, world.b, "legal")):
        with actor:
            assert db.execute("select * from public.policy_acceptances").fetchall() == []


def test_the_report_counts_accepted_and_pending_colleagues(db: Connection, world: World) -> None:
    policy, second = add_policy(db, world.a), add_policy(db, world.a, "Trabalho remoto")
    add_policy(db, world.a, "Rascunho")
    foreign = add_policy(db, world.b)
    publish(db, world.b, foreign)
    publish(db, world.a, policy)
    for role in ("ops", "employee", "legal"):
        with as_member(db, world.a, role):
            accept(db, policy)
    publish(db, world.a, second)
    db.execute("delete from public.memberships where user_id = %s", (world.a.member("ops"),))
    with as_member(db, world.a, "employee"):
        rows = db.execute(
            "select title, version, accepted, pending, acceptance_pct::text"
            " from public.get_policy_acceptance_report(%s)",
            (world.a.org,),
        ).fetchall()
    assert rows == [("Segurança", 1, 2, 6, "25.0"), ("Trabalho remoto", 1, 0, 8, "0.0")]
    publish(db, world.a, policy, "Outro texto")
    with as_member(db, world.a, "legal"):
        rows = db.execute(
            "select version, accepted, pending from public.get_policy_acceptance_report(%s)",
            (world.a.org,),
        ).fetchall()
    assert rows[0] == (2, 0, 8)


def test_the_report_is_for_colleagues_only(db: Connection, world: World) -> None:
    for actor in (as_client(db, world.a), as_agent(db, world.a), as_member(db, world.b, "legal")):
        with actor, refused("not_allowed"):
            db.execute("select * from public.get_policy_acceptance_report(%s)", (world.a.org,))


def test_a_suspended_organization_is_read_not_accepted(db: Connection, world: World) -> None:
    policy = add_policy(db, world.a)
    publish(db, world.a, policy)
    status = "update public.organizations set status = %s where id = %s"
    db.execute(status, ("suspended", world.a.org))
    with as_member(db, world.a, "employee"):
        assert pending(db, world.a) == [(policy, 1)]
        with refused("organization_suspended"):
            accept(db, policy)
    db.execute(status, ("inactive", world.a.org))
    with as_member(db, world.a, "employee"), refused("organization_inactive"):
        pending(db, world.a)


def test_publishing_and_accepting_emit_and_are_audited(db: Connection, world: World) -> None:
    policy = add_policy(db, world.a)
    publish(db, world.a, policy)
    with browsing(db, world.a.member("employee"), "203.0.113.9", "Firefox/140"):
        accept(db, policy)
    with as_member(db, world.a, "legal"):
        db.execute("update public.policies set status = 'archived'")
    found = {
        row[0]
        for row in db.execute("select event_type from public.module_events where module = 'gov'")
    }
    assert found == {
        "policy.created",
        "policy.published",
        "policy.archived",
        "policy_version.created",
        "policy_acceptance.created",
    }
    payload = one(
        db,
        "select payload::text || changes::text from public.module_events cross join"
        " public.audit_log"
        " where event_type = 'policy_acceptance.created' and table_name = 'policy_acceptances'",
    )
    assert "203.0.113.9" not in payload
    assert "Firefox" not in payload
    assert one(db, "select count(*) from public.audit_log where table_name = 'policies'") == 3
