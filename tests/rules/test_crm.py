"""Leads: where they come from, what moves them, and the door a visitor comes in by."""

import itertools
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.people import (
    Connection,
    Org,
    World,
    as_agent,
    as_analyst,
    as_anon,
    as_client,
    as_member,
    denied,
    refused,
    set_clock,
)

STATES = ("new", "qualified", "proposal", "won", "lost")
FORM = {"org_slug": "alfa", "name": "Ana Souza", "email": "ana@cliente.com.br", "consent": True}


def submit(db: Connection, **fields: object) -> UUID:
    """Send the contact form; give the receipt."""
    names = [name for name, value in fields.items() if value is not ...]
    call = ", ".join(f"{name} => %({name})s" for name in names)
    row = db.execute(f"select public.submit_lead({call}) as answer", fields).fetchone()
    assert row
    assert set(row[0]) == {"receipt"}
    return UUID(row[0]["receipt"])


def stored(db: Connection, org: Org, columns: str = "count(*)") -> Any:
    """Give these columns of the organisation's one lead, or of their aggregate."""
    row = db.execute(f"select {columns} from public.leads where org_id = %s", (org.org,)).fetchone()
    return row if row and len(row) > 1 else row and row[0]


def add_lead(db: Connection, org: Org, **values: object) -> UUID:
    """Insert a lead as whoever the connection is; give its id."""
    values = {"org_id": org.org, "name": "Bia Lima", "email": "bia@cliente.com.br"} | values
    places = ", ".join(["%s"] * len(values))
    row = db.execute(
        f"insert into public.leads ({', '.join(values)}) values ({places}) returning id",
        list(values.values()),
    ).fetchone()
    assert row
    return UUID(str(row[0]))


@pytest.mark.parametrize(
    ("url", "page"),
    [
        (None, "Site"),
        ("", "Site"),
        ("   ", "Site"),
        ("/contato", "Contato"),
        ("https://vigia.example/en/Contact-us?x=1", "Contato"),
        ("/solucoes/soc", "Soluções"),
        ("https://vigia.example/solucao", "Soluções"),
        ("/s/monitoramento", "Soluções"),
        ("https://vigia.example/s/monitoramento", "Soluções"),
        ("/blog/ransomware", "Blog"),
        ("https://vigia.example/casos/banco#fim", "Casos"),
        ("/blog/contato", "Contato"),
        ("/casos/blog", "Blog"),
        ("/", "Outros"),
        ("https://vigia.example", "Outros"),
        ("/precos/s/", "Outros"),
        ("/sobre?utm_campaign=blog", "Outros"),
        ("https://contato.example/sobre", "Outros"),
    ],
)
def test_the_source_page_is_the_first_rule_that_the_path_meets(
    db: Connection, url: str | None, page: str
) -> None:
    assert db.execute("select app.lead_source_page(%s)", (url,)).fetchone() == (page,)


def test_a_visitor_s_lead_is_stored_whole_with_the_moment_of_consent(
    db: Connection, world: World
) -> None:
    set_clock(db, "2026-03-31T23:30:00-03:00")
    with as_anon(db):
        receipt = submit(
            db,
            **FORM | {"name": "  Ana\tSouza ", "email": " Ana@Cliente.com.br "},
            company="Souza & Filhos",
            phone="(11) 98888-7777",
            message="Olá,\nquero um orçamento.\x07",
            origin_url="https://alfa.example/solucoes/soc",
            website="",
        )
    set_clock(db, None)
    columns = "id, name, email, company, phone, message, source, source_page, status, owner_id"
    assert stored(db, world.a, columns) == (
        receipt,
        "Ana Souza",
        "ana@cliente.com.br",
        "Souza & Filhos",
        "(11) 98888-7777",
        "Olá,\nquero um orçamento.",
        "site",
        "Soluções",
        "new",
        None,
    )
    assert stored(db, world.a, "consent_at = '2026-03-31T23:30:00-03:00'") is True
    assert stored(db, world.b) == 0


def test_a_visitor_s_lead_is_an_event_of_a_visitor_without_personal_data(db: Connection) -> None:
    with as_anon(db):
        receipt = submit(db, **FORM)
    row = db.execute(
        "select module, event_type, actor_kind, payload::text from public.module_events"
        " where entity_id = %s",
        (receipt,),
    ).fetchone()
    assert row
    assert row[:3] == ("growth", "lead.created", "visitor")
    assert "ana" not in row[3].lower()


def test_everything_after_the_e_mail_is_optional_but_consent(db: Connection, world: World) -> None:
    with as_anon(db):
        submit(db, **FORM)
        for consent in (False, None, ...):
            with refused("lead_consent_required") as answer:
                submit(db, **FORM | {"consent": consent})
            assert answer.status == 422
    assert stored(db, world.a) == 1


@pytest.mark.parametrize("name", ["A", "", "  ", None, "\x01\x02A"])
def test_a_name_has_two_characters(db: Connection, name: str | None) -> None:
    with as_anon(db), refused("lead_invalid") as answer:
        submit(db, **FORM | {"name": name})
    assert "name" in answer.detail


@pytest.mark.parametrize("email", ["", None, "ana", "ana@", "ana@cliente", "a b@c.de", "@c.de"])
def test_an_e_mail_address_is_valid(db: Connection, email: str | None) -> None:
    with as_anon(db), refused("lead_invalid") as answer:
        submit(db, **FORM | {"email": email})
    assert "email" in answer.detail


@pytest.mark.parametrize(
    ("field", "length"),
    [("name", 121), ("company", 161), ("phone", 41), ("message", 4001), ("origin_url", 2001)],
)
def test_texts_are_limited(db: Connection, field: str, length: int) -> None:
    with as_anon(db):
        with refused("bad_input"):
            submit(db, **FORM | {field: "x" * length})
        submit(db, **FORM | {field: "x" * (length - 1)})


def test_a_filled_honeypot_gets_a_receipt_and_stores_nothing(db: Connection, world: World) -> None:
    with as_anon(db):
        first = submit(db, **FORM, website="http://spam.example")
        second = submit(db, **FORM, website="http://spam.example")
    assert first != second
    assert stored(db, world.a) == 0


def test_an_address_sends_five_in_ten_minutes(db: Connection, world: World) -> None:
    set_clock(db, "2026-03-10T10:00:00-03:00")
    with as_anon(db, "203.0.113.7"):
        for _ in range(4):
            submit(db, **FORM)
        submit(db, **FORM, website="a robot counts too")
        with refused("rate_limited") as answer:
            submit(db, **FORM)
    assert answer.status == 429
    with as_anon(db, "203.0.113.8"):
        submit(db, **FORM)
    set_clock(db, "2026-03-10T10:10:01-03:00")
    with as_anon(db, "203.0.113.7"):
        submit(db, **FORM)
    set_clock(db, None)
    assert stored(db, world.a) == 6


def test_an_unknown_and_an_inactive_organisation_answer_alike(db: Connection, world: World) -> None:
    db.execute("update public.organizations set status = 'inactive' where id = %s", (world.b.org,))
    answers = []
    for slug in ("nowhere", "beta", None):
        with as_anon(db), refused("not_found") as answer:
            submit(db, **FORM | {"org_slug": slug})
        answers.append((answer.status, answer.detail, answer.hint))
    assert len(set(answers)) == 1
    assert answers[0][0] == 404


def test_a_suspended_organisation_takes_no_leads(db: Connection, world: World) -> None:
    db.execute("update public.organizations set status = 'suspended' where id = %s", (world.a.org,))
    with as_anon(db), refused("organization_suspended") as answer:
        submit(db, **FORM)
    assert answer.status == 403


def test_a_visitor_reads_and_writes_no_lead_directly(db: Connection) -> None:
    with as_anon(db):
        submit(db, **FORM)
        for statement in (
            "select 1 from public.leads",
            "select 1 from public.inbound_leads",
            "select 1 from public.lead_status_history",
            "insert into public.leads (name) values ('x')",
            "insert into public.inbound_leads (name) values ('x')",
        ):
            with denied():
                db.execute(statement)


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(STATES, 2)))
def test_a_lead_moves_anywhere_but_out_of_won(
    db: Connection, world: World, before: str, after: str
) -> None:
    lead = add_lead(db, world.a, status=before, lost_reason="Preço" if before == "lost" else None)
    move = "update public.leads set status = %s, lost_reason = %s where id = %s"
    values = (after, "Preço" if after == "lost" else None, lead)
    if before == "won":
        with refused("lead_move_refused") as answer:
            db.execute(move, values)
        assert answer.status == 409
    else:
        db.execute(move, values)
        assert stored(db, world.a, "status") == after


def test_a_lost_lead_carries_a_reason_until_it_comes_back(db: Connection, world: World) -> None:
    lead = add_lead(db, world.a)
    for reason in (None, " "):
        with pytest.raises(psycopg.errors.CheckViolation), db.transaction():
            db.execute(
                "update public.leads set status = 'lost', lost_reason = %s where id = %s",
                (reason, lead),
            )
    db.execute(
        "update public.leads set status = 'lost', lost_reason = 'Preço' where id = %s", (lead,)
    )
    db.execute("update public.leads set status = 'qualified' where id = %s", (lead,))
    assert stored(db, world.a, "status, lost_reason") == ("qualified", None)
    with pytest.raises(psycopg.errors.CheckViolation), db.transaction():
        add_lead(db, world.a, lost_reason="Preço")


@pytest.mark.parametrize("score", [-1, 101])
def test_a_score_lies_between_0_and_100(db: Connection, world: World, score: int) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        add_lead(db, world.a, score=score)


def test_every_status_of_a_lead_is_kept_with_its_moment(db: Connection, world: World) -> None:
    set_clock(db, "2026-01-10T10:00:00-03:00")
    lead = add_lead(db, world.a)
    set_clock(db, "2026-02-10T10:00:00-03:00")
    db.execute("update public.leads set status = 'proposal' where id = %s", (lead,))
    set_clock(db, "2026-03-10T10:00:00-03:00")
    db.execute("update public.leads set status = 'won' where id = %s", (lead,))
    db.execute("update public.leads set score = 90 where id = %s", (lead,))
    set_clock(db, None)
    row = db.execute(
        "select array_agg(h.status || to_char(h.changed_at, ' MM-DD') order by h.position)"
        " from public.lead_status_history as h where h.lead_id = %s",
        (lead,),
    ).fetchone()
    assert row == (["new 01-10", "proposal 02-10", "won 03-10"],)


def test_sales_see_and_change_their_own_leads_only(db: Connection, world: World) -> None:
    theirs = add_lead(db, world.a, owner_id=world.a.member("director"))
    with as_member(db, world.a, "sales") as person:
        own = add_lead(db, world.a)
        assert db.execute("select id, owner_id from public.leads").fetchall() == [(own, person)]
        assert db.execute("update public.leads set score = 5").rowcount == 1
        with denied():
            add_lead(db, world.a, owner_id=world.a.member("director"))
    with as_member(db, world.a, "director"):
        assert db.execute("select count(*) from public.leads").fetchone() == (2,)
        db.execute("update public.leads set owner_id = null where id = %s", (theirs,))
    with as_member(db, world.b, "owner"):
        assert db.execute("select count(*) from public.leads").fetchone() == (0,)


def test_roles_outside_of_crm_see_no_lead_and_an_agent_only_reads(
    db: Connection, world: World
) -> None:
    add_lead(db, world.a)
    with as_agent(db, world.a):
        assert db.execute("select count(*) from public.leads").fetchone() == (1,)
        assert db.execute("update public.leads set score = 1").rowcount == 0
    for role in ("ops", "finance", "legal", "people", "employee"):
        with as_member(db, world.a, role):
            assert db.execute("select count(*) from public.leads").fetchone() == (0,), role
    with as_client(db, world.a):
        assert db.execute("select count(*) from public.leads").fetchone() == (0,)


def test_the_owner_of_a_lead_is_a_member(db: Connection, world: World) -> None:
    with refused("user_not_member"):
        add_lead(db, world.a, owner_id=world.b.member("sales"))


def test_an_analyst_reads_leads_without_the_person(db: Connection, world: World) -> None:
    add_lead(db, world.a)
    add_lead(db, world.b)
    with as_analyst(db):
        assert db.execute("select status, score from public.leads").fetchall() == [("new", 0)]
        for column in ("name", "email", "phone", "message"):
            with denied():
                db.execute(f"select {column} from public.leads")


def test_inbound_leads_shows_and_takes_only_those_of_the_site(db: Connection, world: World) -> None:
    add_lead(db, world.a, source="referral")
    with as_member(db, world.a, "admin"):
        assert db.execute("select count(*) from public.inbound_leads").fetchone() == (0,)
        row = db.execute(
            "insert into public.inbound_leads (org_id, name, email, origin_url)"
            " values (%s, 'Caio', 'caio@cliente.com.br', '/blog/x')"
            " returning id, source, source_page",
            (world.a.org,),
        ).fetchone()
        assert row
        assert row[1:] == ("site", "Blog")
        with pytest.raises(psycopg.errors.WithCheckOptionViolation), db.transaction():
            db.execute("update public.inbound_leads set source = 'manual'")
        assert db.execute("update public.inbound_leads set status = 'qualified'").rowcount == 1
        assert db.execute("delete from public.inbound_leads").rowcount == 1
    assert stored(db, world.a, "source") == "referral"


def test_every_change_of_a_lead_is_an_event(db: Connection, world: World) -> None:
    lead = add_lead(db, world.a)
    db.execute("update public.leads set score = 50 where id = %s", (lead,))
    db.execute(
        "update public.leads set status = 'lost', lost_reason = 'Preço' where id = %s", (lead,)
    )
    db.execute("update public.leads set status = 'new' where id = %s", (lead,))
    db.execute("delete from public.leads where id = %s", (lead,))
    events = db.execute(
        "select event_type from public.module_events where entity_id = %s and module = 'growth'",
        (lead,),
    ).fetchall()
    assert sorted(events) == [
        ("lead.created",),
        ("lead.deleted",),
        ("lead.lost",),
        ("lead.new",),
        ("lead.updated",),
    ]
