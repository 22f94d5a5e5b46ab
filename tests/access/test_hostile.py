"""What hostile people try: each test is an attack that once went through, or nearly did."""

from uuid import UUID, uuid4

import psycopg
import pytest

from tests.people import (
    Connection,
    World,
    add_person,
    as_agent,
    as_analyst,
    as_anon,
    as_member,
    as_person,
    denied,
    refused,
)


def invite(db: Connection, org: UUID, email: str, role: str) -> str:
    """Invite as whoever is acting, and return the token."""
    row = db.execute(
        "select public.invite_member(%s, %s, %s) ->> 'token'", (org, email, role)
    ).fetchone()
    assert row is not None
    return str(row[0])


def test_a_portal_client_does_not_reach_another_client_through_an_accomplice(
    db: Connection, world: World
) -> None:
    """The accomplice's organisation has a client with the very id of the victim, and links the portal client to it."""
    db.execute(
        "insert into public.contracts (org_id, client_id, title, starts_on) values (%s, %s, 'SOC', '2026-01-01')",
        (world.a.org, world.a.other_client),
    )
    with as_member(db, world.b, "owner"):
        db.execute(
            "insert into public.clients (org_id, id, name) values (%s, %s, 'Isca')",
            (world.b.org, world.a.other_client),
        )
    spy = world.a.member("client")
    db.execute(
        "insert into public.memberships (org_id, user_id, role, client_id) values (%s, %s, 'client', %s)",
        (world.b.org, spy, world.a.other_client),
    )
    with as_person(db, spy):
        seen = db.execute("select org_id, id from public.clients order by org_id, id").fetchall()
        assert (world.a.org, world.a.client) in seen
        assert (world.a.org, world.a.other_client) not in seen
        assert db.execute("select client_id from public.contracts").fetchall() == []


@pytest.mark.parametrize("end", ["removed", "demoted", "left"])
def test_an_invitation_ends_with_the_power_of_whoever_sent_it(
    db: Connection, world: World, end: str
) -> None:
    """An admin who is about to go invites himself back under a second address."""
    admin = world.a.member("admin")
    newcomer = add_person(db, uuid4(), "Segunda conta")
    with as_member(db, world.a, "admin"):
        token = invite(db, world.a.org, f"{newcomer}@people.test", "admin")
        if end == "left":
            db.execute("select public.leave_organization(%s)", (world.a.org,))
    with as_member(db, world.a, "owner"):
        if end == "removed":
            db.execute("select public.remove_member(%s, %s)", (world.a.org, admin))
        elif end == "demoted":
            db.execute("select public.set_member_role(%s, %s, 'sales')", (world.a.org, admin))
    with as_person(db, newcomer), refused("invitation_used"):
        db.execute("select public.accept_invitation(%s)", (token,))


def test_the_many_addresses_of_one_ipv6_line_share_a_limit(db: Connection) -> None:
    submit = "select public.submit_lead('alfa', 'Ana', 'ana@people.test', consent => true)"
    for number in range(5):
        with as_anon(db, f"2001:db8:1:2::{number}"):
            db.execute(submit)
    with as_anon(db, "2001:db8:1:2:ffff::1"), refused("rate_limited"):
        db.execute(submit)
    with as_anon(db, "2001:db8:1:3::1"):
        db.execute(submit)


def test_an_analyst_does_not_read_what_the_parameters_of_a_page_say(
    db: Connection, world: World
) -> None:
    db.execute(
        "insert into public.leads (org_id, name, email, origin_url) values"
        " (%s, 'Ana', 'ana@people.test', 'https://site.test/contato?email=ana@people.test')",
        (world.a.org,),
    )
    with as_analyst(db):
        assert db.execute("select source_page from public.leads").fetchall() == [("Contato",)]
        with denied():
            db.execute("select origin_url from public.leads")


def test_a_refusal_does_not_send_back_what_a_visitor_sent(db: Connection) -> None:
    with as_anon(db), refused("job_not_open") as answer:
        db.execute(
            "select public.submit_application('alfa', %s, 'Ana', 'ana@people.test', consent => true)",
            ("x" * 100_000,),
        )
    assert len(answer.detail) < 200


def test_an_agent_is_not_talked_into_telling_who_works_here(db: Connection, world: World) -> None:
    with as_agent(db, world.a):
        assert db.execute("select id from public.profiles").fetchall() == []
        with refused("not_found"):
            db.execute("select * from public.list_members(%s)", (world.a.org,))


def test_a_stranger_draws_no_number_of_an_organisation(db: Connection, world: World) -> None:
    """The number is drawn before the policies are asked: it must not tell whether there is such an organisation."""
    answers = []
    for org in (world.b.org, UUID(int=1)):
        with (
            pytest.raises(psycopg.ProgrammingError) as caught,
            db.transaction(),
            as_member(db, world.a, "sales"),
        ):
            db.execute("insert into proposals (org_id, title) values (%s, 'x')", (org,))
        answers.append((caught.value.diag.message_primary, caught.value.diag.message_detail))
    assert answers[0] == answers[1] == ("not_allowed", "You are not a member of this organisation.")


@pytest.mark.parametrize(
    ("table", "column", "rest"),
    [
        ("public_posts", "author_id", {"title": "x", "slug": "x"}),
        ("training_gaps", "detected_by", {}),
    ],
)
def test_nobody_is_named_who_is_not_a_member(
    db: Connection, world: World, table: str, column: str, rest: dict[str, str]
) -> None:
    values = {"org_id": world.a.org, **rest, column: world.b.member("legal")}
    if table == "training_gaps":
        playbook = db.execute(
            "insert into playbooks (org_id, title, slug) values (%s, 'x', 'x') returning id",
            (world.a.org,),
        ).fetchone()
        assert playbook is not None
        values |= {"user_id": world.a.member("ops"), "playbook_id": playbook[0]}
    with pytest.raises(psycopg.Error, match="user_not_member"), as_member(db, world.a, "owner"):
        db.execute(
            f"insert into {table} ({', '.join(values)}) values ({', '.join(['%s'] * len(values))})",
            list(values.values()),
        )


@pytest.mark.parametrize(
    ("table", "column", "title"),
    [
        ("tasks", "assignee_id", "title"),
        ("leads", "owner_id", "name"),
        ("contracts", "commercial_manager_id", "title"),
    ],
)
def test_a_stranger_does_not_learn_who_belongs_to_an_organisation(
    db: Connection, world: World, table: str, column: str, title: str
) -> None:
    """Guards run before the policies refuse: they say the same of a member and of somebody who is none."""
    answers = set()
    for person in (world.b.member("ops"), world.stranger):
        with (
            pytest.raises(psycopg.Error) as caught,
            db.transaction(),
            as_member(db, world.a, "owner"),
        ):
            db.execute(
                f"insert into {table} (org_id, {title}, {column}) values (%s, 'x', %s)",
                (world.b.org, person),
            )
        answers.add((caught.value.sqlstate, caught.value.diag.message_primary))
    assert len(answers) == 1
    assert answers.pop()[0] in {"42501", "PT403"}
