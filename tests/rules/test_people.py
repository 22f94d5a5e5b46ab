"""People: jobs and applications, training gaps, 360-degree feedback."""

import itertools
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.people import (
    WORLD,
    Connection,
    Org,
    World,
    as_agent,
    as_analyst,
    as_anon,
    as_client,
    as_member,
    as_person,
    as_worker,
    denied,
    named_id,
    refused,
    set_clock,
)

STAFF = ("owner", "admin", "director", "sales", "ops", "finance", "legal", "people", "employee")
STAGES = ("received", "screening", "interview", "offer", "hired", "rejected", "withdrawn")
FORWARD = {
    "received": "screening",
    "screening": "interview",
    "interview": "offer",
    "offer": "hired",
}
CV = "{org}/0b0e6a52-4c5e-4a68-9d1e-0f3a5cf0a001.pdf"


def one(db: Connection, query: str, *parameters: object) -> Any:
    row = db.execute(query, parameters).fetchone()
    return row[0] if row and len(row) == 1 else row


def insert(db: Connection, table: str, fields: dict[str, object]) -> UUID:
    columns = ", ".join(fields)
    values = ", ".join(["%s"] * len(fields))
    row = db.execute(
        f"insert into public.{table} ({columns}) values ({values}) returning id",
        tuple(fields.values()),
    ).fetchone()
    assert row
    identifier: UUID = row[0]
    return identifier


def add_job(db: Connection, org: Org, slug: str = "analista-soc", *, is_open: bool = True) -> UUID:
    job: UUID = one(
        db,
        "insert into public.public_jobs (org_id, slug, title, is_open) values (%s, %s,"
        " 'Analista', %s) returning id",
        org.org,
        slug,
        is_open,
    )
    return job


def apply(db: Connection, org: Org, job: str = "analista-soc", **fields: object) -> Any:
    fields = {"name": "Ana Lima", "email": "ana@exemplo.com", "consent": True} | fields
    named = ", ".join(f"{name} => %({name})s" for name in fields)
    row = db.execute(
        f"select public.submit_application(org_slug => %(org)s, job_slug => %(job)s, {named})",
        {"org": org.slug, "job": job} | fields,
    ).fetchone()
    assert row
    return row[0]


def applications(db: Connection) -> int:
    return int(one(db, "select count(*) from public.job_applications"))


def events(db: Connection, entity: str) -> list[tuple[str, str]]:
    return db.execute(
        "select event_type, actor_kind from public.module_events where entity_type = %s order by"
        " xid, occurred_at",
        (entity,),
    ).fetchall()


# Jobs


def test_a_visitor_sees_open_jobs_without_the_contract_and_no_closed_one(
    db: Connection, world: World
) -> None:
    add_job(db, world.a)
    add_job(db, world.a, "vaga-fechada", is_open=False)
    with as_anon(db):
        assert db.execute("select org_id, slug from public.open_jobs").fetchall() == [
            (world.a.org, "analista-soc")
        ]
        with denied():
            db.execute("select contract_id from public.public_jobs")
        with denied():
            db.execute("update public.public_jobs set title = 'x'")


def test_a_closed_job_disappears_from_the_site(db: Connection, world: World) -> None:
    job = add_job(db, world.a)
    with as_member(db, world.a, "people"):
        db.execute("update public.public_jobs set is_open = false where id = %s", (job,))
    with as_anon(db):
        assert db.execute("select * from public.open_jobs").fetchall() == []
        with refused("job_not_open"):
            apply(db, world.a)


def test_an_inactive_organization_shows_no_jobs_and_takes_no_applications(
    db: Connection, world: World
) -> None:
    add_job(db, world.a)
    db.execute("update public.organizations set status = 'inactive' where id = %s", (world.a.org,))
    with as_anon(db):
        assert db.execute("select * from public.open_jobs").fetchall() == []
        with refused("job_not_open"):
            apply(db, world.a)


def test_a_suspended_organization_shows_its_jobs_but_takes_no_applications(
    db: Connection, world: World
) -> None:
    add_job(db, world.a)
    db.execute("update public.organizations set status = 'suspended' where id = %s", (world.a.org,))
    with as_anon(db):
        assert len(db.execute("select * from public.open_jobs").fetchall()) == 1
        with refused("organization_suspended"):
            apply(db, world.a)


def test_jobs_emit_created_updated_and_deleted(db: Connection, world: World) -> None:
    with as_member(db, world.a, "people"):
        job = add_job(db, world.a)
        db.execute("update public.public_jobs set is_open = false where id = %s", (job,))
        db.execute("delete from public.public_jobs where id = %s", (job,))
    assert sorted(events(db, "job")) == [
        ("job.created", "user"),
        ("job.deleted", "user"),
        ("job.updated", "user"),
    ]


# Applications


def test_a_visitor_applies_and_gets_only_a_receipt(db: Connection, world: World) -> None:
    add_job(db, world.a)
    with as_anon(db):
        answer = apply(
            db,
            world.a,
            name="  Ana \n Lima ",
            email="Ana@Exemplo.com",
            linkedin_url="https://www.linkedin.com/in/ana-lima",
            message="Olá",
            cv_path=CV.format(org=world.a.org),
            website=" ",
        )
        assert list(answer) == ["receipt"]
        with denied():
            db.execute("select * from public.job_applications")
    row = db.execute(
        "select id::text, org_id, name, email, linkedin_url, message, cv_path, stage, consent_at"
        " is not null"
        " from public.job_applications"
    ).fetchone()
    assert row == (
        answer["receipt"],
        world.a.org,
        "Ana Lima",
        "ana@exemplo.com",
        "https://www.linkedin.com/in/ana-lima",
        "Olá",
        CV.format(org=world.a.org),
        "received",
        True,
    )
    assert events(db, "job_application") == [("job_application.created", "visitor")]


def test_the_event_of_an_application_carries_no_personal_data(db: Connection, world: World) -> None:
    job = add_job(db, world.a)
    with as_anon(db):
        apply(db, world.a)
    payload = one(
        db, "select payload from public.module_events where entity_type = 'job_application'"
    )
    assert payload == {"job_id": str(job), "stage": "received"}


def test_an_application_needs_only_name_email_and_consent(db: Connection, world: World) -> None:
    add_job(db, world.a)
    with as_anon(db):
        apply(db, world.a, linkedin_url="", message=" ", cv_path="")
    assert one(db, "select linkedin_url, message, cv_path from public.job_applications") == (
        None,
        None,
        None,
    )


def test_a_missing_consent_is_refused_with_its_own_key(db: Connection, world: World) -> None:
    add_job(db, world.a)
    with as_anon(db):
        with refused("application_consent_required") as answer:
            db.execute(
                "select public.submit_application('alfa', 'analista-soc', 'Ana Lima',"
                " 'ana@exemplo.com')"
            )
        assert answer.status == 422
        for consent in (False, None):
            with refused("application_consent_required"):
                apply(db, world.a, consent=consent)
    assert applications(db) == 0


def test_the_honeypot_answers_a_receipt_and_stores_nothing(db: Connection, world: World) -> None:
    add_job(db, world.a)
    with as_anon(db):
        first = apply(db, world.a, website="https://spam.example")
        second = apply(db, world.a, website="x", consent=False, email="not an e-mail")
    assert UUID(first["receipt"]) != UUID(second["receipt"])
    assert applications(db) == 0
    assert events(db, "job_application") == []


def test_one_person_applies_once_per_job(db: Connection, world: World) -> None:
    add_job(db, world.a)
    add_job(db, world.a, "pleno")
    add_job(db, world.b)
    with as_anon(db):
        apply(db, world.a)
        with refused("application_already_received") as answer:
            apply(db, world.a, email=" ANA@exemplo.COM ", message="de novo")
        assert answer.status == 409
        apply(db, world.a, "pleno")
        apply(db, world.b)
    assert applications(db) == 3
    assert one(db, "select count(*) from public.job_applications where message is not null") == 0


def test_the_table_itself_keeps_one_application_per_job_and_email(
    db: Connection, world: World
) -> None:
    job = add_job(db, world.a)
    insert = (
        "insert into public.job_applications (org_id, job_id, name, email, consent_at)"
        " values (%s, %s, 'Ana', %s, now())"
    )
    with as_member(db, world.a, "people"):
        db.execute(insert, (world.a.org, job, "ana@exemplo.com"))
        with pytest.raises(psycopg.errors.UniqueViolation), db.transaction():
            db.execute(insert, (world.a.org, job, "Ana@exemplo.com"))


def test_five_applications_per_ten_minutes_and_address(db: Connection, world: World) -> None:
    for number in range(7):
        add_job(db, world.a, f"vaga-{number}")
    set_clock(db, "2026-03-02T10:00:00-03:00")
    with as_anon(db, "203.0.113.7"):
        for number in range(5):
            apply(db, world.a, f"vaga-{number}")
        with refused("rate_limited") as answer:
            apply(db, world.a, "vaga-5")
        assert answer.status == 429
    with as_anon(db, "203.0.113.8"):
        apply(db, world.a, "vaga-5")
    set_clock(db, "2026-03-02T10:10:01-03:00")
    with as_anon(db, "203.0.113.7"):
        apply(db, world.a, "vaga-6")
    set_clock(db, None)


@pytest.mark.parametrize(
    ("field", "value", "key"),
    [
        ("name", "A", "application_name_invalid"),
        ("name", None, "application_name_invalid"),
        ("email", "ana@", "application_email_invalid"),
        ("email", None, "application_email_invalid"),
        ("linkedin_url", "http://www.linkedin.com/in/ana", "application_linkedin_invalid"),
        (
            "linkedin_url",
            "https://linkedin.com.evil.example/in/ana",
            "application_linkedin_invalid",
        ),
        (
            "linkedin_url",
            "https://evil.example/linkedin.com/in/ana",
            "application_linkedin_invalid",
        ),
        ("linkedin_url", "https://notlinkedin.com/in/ana", "application_linkedin_invalid"),
        ("linkedin_url", "javascript:alert(1)", "application_linkedin_invalid"),
        ("cv_path", "cv.pdf", "application_cv_invalid"),
        ("cv_path", "{other}/0b0e6a52-4c5e-4a68-9d1e-0f3a5cf0a001.pdf", "application_cv_invalid"),
        ("cv_path", "{org}/0b0e6a52-4c5e-4a68-9d1e-0f3a5cf0a001.exe", "application_cv_invalid"),
        ("cv_path", "{org}/0b0e6a52-4c5e-4a68-9d1e-0f3a5cf0a001.pdf.exe", "application_cv_invalid"),
        (
            "cv_path",
            "{org}/../x/0b0e6a52-4c5e-4a68-9d1e-0f3a5cf0a001.pdf",
            "application_cv_invalid",
        ),
        ("message", "x" * 5001, "bad_input"),
    ],
)
def test_a_malformed_application_is_refused(
    db: Connection, world: World, field: str, value: str | None, key: str
) -> None:
    add_job(db, world.a)
    value = value.format(org=world.a.org, other=world.b.org) if value else value
    fields: dict[str, Any] = {field: value}
    with as_anon(db), refused(key):
        apply(db, world.a, **fields)
    assert applications(db) == 0


def test_unknown_organizations_and_jobs_look_the_same(db: Connection, world: World) -> None:
    add_job(db, world.a)
    with as_anon(db):
        for org, job in (
            (Org("nobody"), "analista-soc"),
            (world.a, "outra"),
            (world.b, "analista-soc"),
        ):
            with refused("job_not_open") as answer:
                apply(db, org, job)
            assert answer.status == 404


def test_two_simultaneous_applications_of_one_person_give_one(
    own_db_url: str, world: World
) -> None:
    with psycopg.connect(own_db_url) as first, psycopg.connect(own_db_url) as second:
        add_job(first, world.a)
        first.commit()
        with as_anon(first, "203.0.113.21"):
            apply(first, world.a)
        second.execute("set lock_timeout = '200ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable), as_anon(second, "203.0.113.22"):
            apply(second, world.a)
        second.rollback()
        first.commit()
        with as_anon(second, "203.0.113.22"), refused("application_already_received", second):
            apply(second, world.a)


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(STAGES, 2)))
def test_an_application_moves_only_along_its_stages(
    db: Connection, world: World, before: str, after: str
) -> None:
    job = add_job(db, world.a)
    row = one(
        db,
        "insert into public.job_applications (org_id, job_id, name, email, consent_at, stage)"
        " values (%s, %s, 'Ana', 'ana@exemplo.com', now(), %s) returning id",
        world.a.org,
        job,
        before,
    )
    allowed = before in FORWARD and after in {FORWARD[before], "rejected", "withdrawn"}
    move = "update public.job_applications set stage = %s where id = %s"
    with as_member(db, world.a, "people"):
        if allowed:
            db.execute(move, (after, row))
        else:
            with refused("job_application_move_refused"):
                db.execute(move, (after, row))
    assert (f"job_application.{after}", "user") in events(db, "job_application") or not allowed


def test_applications_are_for_people_and_management_only(db: Connection, world: World) -> None:
    add_job(db, world.a)
    with as_anon(db):
        apply(db, world.a)
    seen = {}
    for role in STAFF:
        with as_member(db, world.a, role):
            seen[role] = applications(db)
    assert {role for role, count in seen.items() if count} == {
        "owner",
        "admin",
        "director",
        "people",
    }
    for actor in (as_client(db, world.a), as_agent(db, world.a), as_member(db, world.b, "owner")):
        with actor:
            assert applications(db) == 0


# Training gaps


def add_playbook(db: Connection, org: Org) -> UUID:
    playbook: UUID = one(
        db,
        "insert into public.playbooks (org_id, title, slug) values (%s, 'Resposta', %s)"
        " returning id",
        org.org,
        f"p-{uuid4()}",
    )
    return playbook


def add_gap(db: Connection, org: Org, person: UUID, playbook: UUID, **fields: object) -> UUID:
    fields = {"org_id": org.org, "user_id": person, "playbook_id": playbook} | fields
    return insert(db, "training_gaps", fields)


def test_an_employee_sees_the_own_gaps_and_changes_none(db: Connection, world: World) -> None:
    playbook = add_playbook(db, world.a)
    own = add_gap(db, world.a, world.a.member("employee"), playbook)
    add_gap(db, world.a, world.a.member("ops"), playbook)
    with as_member(db, world.a, "employee"):
        assert db.execute("select id from public.training_gaps").fetchall() == [(own,)]
        assert db.execute("update public.training_gaps set status = 'training'").rowcount == 0
    with as_member(db, world.a, "people"):
        assert one(db, "select count(*) from public.training_gaps") == 2


def test_a_gap_needs_a_playbook_and_a_member(db: Connection, world: World) -> None:
    playbook, foreign = add_playbook(db, world.a), add_playbook(db, world.b)
    with as_member(db, world.a, "people"):
        with pytest.raises(psycopg.errors.NotNullViolation), db.transaction():
            db.execute(
                "insert into public.training_gaps (org_id, user_id) values (%s, %s)",
                (world.a.org, world.a.member("ops")),
            )
        with pytest.raises(psycopg.errors.ForeignKeyViolation), db.transaction():
            add_gap(db, world.a, world.a.member("ops"), foreign)
        with refused("user_not_member"):
            add_gap(db, world.a, world.stranger, playbook)


def test_a_gap_goes_from_open_to_training_to_solved(db: Connection, world: World) -> None:
    gap = add_gap(db, world.a, world.a.member("ops"), add_playbook(db, world.a))
    move = "update public.training_gaps set status = %s where id = %s"
    set_clock(db, "2030-05-05T12:00:00Z")
    with as_member(db, world.a, "people"):
        with refused("training_gap_move_refused"):
            db.execute(move, ("solved", gap))
        db.execute(move, ("training", gap))
        with refused("training_gap_move_refused"):
            db.execute(move, ("open", gap))
        assert one(db, "select solved_at from public.training_gaps") is None
        db.execute(move, ("solved", gap))
        for state in ("open", "training"):
            with refused("training_gap_move_refused"):
                db.execute(move, (state, gap))
        db.execute("update public.training_gaps set solved_at = '2031-01-01' where id = %s", (gap,))
    assert (
        str(one(db, "select (solved_at at time zone 'UTC')::date from public.training_gaps"))
        == "2030-05-05"
    )
    set_clock(db, None)
    assert {event for event, _ in events(db, "training_gap")} >= {
        "training_gap.created",
        "training_gap.training",
        "training_gap.solved",
    }


# Feedback


def add_cycle(
    db: Connection, org: Org, *, name: str = "2026", status: str = "open", **fields: object
) -> UUID:
    fields = {
        "org_id": org.org,
        "name": name,
        "criteria": ["entrega"],
        "starts_on": "2026-01-01",
        "ends_on": "2026-03-31",
    } | fields
    cycle = insert(db, "feedback_cycles", fields)
    for state in {"draft": [], "open": ["open"], "closed": ["open", "closed"]}[status]:
        set_status(db, cycle, state)
    return cycle


def set_status(db: Connection, cycle: UUID, status: str) -> None:
    db.execute("update public.feedback_cycles set status = %s where id = %s", (status, cycle))


def rate(
    db: Connection,
    cycle: UUID,
    who: tuple[str, str],
    score: int,
    criterion: str = "entrega",
) -> None:
    """Have a member (by role, or a further colleague by name) score the employee in a relation."""
    org, (rater, relation) = WORLD.a, who
    person = org.member(rater) if rater in STAFF else add_colleague(db, org, rater)
    with as_person(db, person):
        db.execute(
            "select public.submit_feedback_360(%s, %s, %s, %s, %s, %s, %s)",
            (
                org.org,
                cycle,
                org.member("employee"),
                relation,
                criterion,
                score,
                f"palavras {score}",
            ),
        )


def add_colleague(db: Connection, org: Org, name: str) -> UUID:
    person = named_id(org.org, "colleague", name)
    db.execute(
        "insert into auth.users (id, email) values (%s, %s) on conflict do nothing",
        (person, f"{person}@people.test"),
    )
    db.execute(
        "insert into public.memberships (org_id, user_id, role) values (%s, %s, 'employee') on"
        " conflict do nothing",
        (org.org, person),
    )
    return person


def result(
    db: Connection, org: Org, cycle: UUID
) -> dict[tuple[str | None, str | None], tuple[int, float]]:
    with as_member(db, org, "employee"):
        rows = db.execute(
            "select criterion, relation, rater_count, average from"
            " public.get_feedback_360_result(%s, %s, %s)",
            (org.org, cycle, org.member("employee")),
        ).fetchall()
    return {
        (criterion, relation): (count, float(average))
        for criterion, relation, count, average in rows
    }


def test_no_average_below_three_raters_besides_the_subject(db: Connection, world: World) -> None:
    cycle = add_cycle(db, world.a)
    rate(db, cycle, ("employee", "self"), 5)
    rate(db, cycle, ("director", "manager"), 4)
    rate(db, cycle, ("ops", "peer"), 2)
    set_status(db, cycle, "closed")
    assert result(db, world.a, cycle) == {}


def test_the_average_weighs_relations_and_scales_up_when_one_is_absent(
    db: Connection, world: World
) -> None:
    cycle = add_cycle(db, world.a)
    for rater, relation, score in (
        ("employee", "self", 5),
        ("director", "manager", 4),
        ("ops", "peer", 2),
        ("sales", "peer", 3),
    ):
        rate(db, cycle, (rater, relation), score)
    set_status(db, cycle, "closed")
    # (15 * 5 + 40 * 4 + 25 * 2.5) / (15 + 40 + 25) = 3.71875
    assert result(db, world.a, cycle) == {(None, None): (3, 3.7), ("entrega", None): (3, 3.7)}


def test_all_four_relations_weigh_15_40_25_20(db: Connection, world: World) -> None:
    cycle = add_cycle(db, world.a)
    for rater, relation, score in (
        ("employee", "self", 1),
        ("director", "manager", 5),
        ("ops", "peer", 1),
        ("sales", "internal_client", 2),
    ):
        rate(db, cycle, (rater, relation), score)
    set_status(db, cycle, "closed")
    # 0.15 * 1 + 0.40 * 5 + 0.25 * 1 + 0.20 * 2 = 2.8
    assert result(db, world.a, cycle)[None, None] == (3, 2.8)


def shown_relations(db: Connection, org: Org, groups: dict[str, int]) -> set[str]:
    cycle = add_cycle(db, org, name=f"c {sorted(groups.items())}")
    for relation, size in groups.items():
        for number in range(size):
            rate(db, cycle, (f"{relation} {number}", relation), 1 + number % 5)
    set_status(db, cycle, "closed")
    return {relation for _, relation in result(db, org, cycle) if relation}


@pytest.mark.parametrize(
    ("groups", "shown"),
    [
        ({"manager": 1, "peer": 3, "internal_client": 3}, {"internal_client"}),
        ({"manager": 1, "peer": 3}, set()),
        ({"manager": 1, "peer": 5, "internal_client": 2}, {"peer"}),
        ({"peer": 4}, {"peer"}),
        ({"peer": 3, "internal_client": 3}, {"peer", "internal_client"}),
        ({"manager": 3, "peer": 4, "internal_client": 5}, {"manager", "peer", "internal_client"}),
        ({"manager": 2, "peer": 2, "internal_client": 2}, set()),
    ],
)
def test_a_relation_is_shown_apart_only_if_the_rest_hides_three(
    db: Connection, world: World, groups: dict[str, int], shown: set[str]
) -> None:
    assert shown_relations(db, world.a, groups) == shown


def test_a_criterion_with_fewer_raters_is_left_out_of_the_total(
    db: Connection, world: World
) -> None:
    cycle = add_cycle(db, world.a, criteria=["entrega", "lideranca"])
    for rater in ("director", "ops", "sales"):
        rate(db, cycle, (rater, "peer"), 4)
    rate(db, cycle, ("ops", "peer"), 1, criterion="lideranca")
    set_status(db, cycle, "closed")
    assert result(db, world.a, cycle) == {
        (None, None): (3, 4.0),
        ("entrega", None): (3, 4.0),
        ("entrega", "peer"): (3, 4.0),
    }


def test_there_is_no_result_before_the_cycle_is_closed(db: Connection, world: World) -> None:
    cycle = add_cycle(db, world.a)
    for rater in ("director", "ops", "sales"):
        rate(db, cycle, (rater, "peer"), 4)
    for role in ("employee", "people", "owner"):
        with as_member(db, world.a, role), refused("feedback_cycle_not_closed"):
            db.execute(
                "select * from public.get_feedback_360_result(%s, %s, %s)",
                (world.a.org, cycle, world.a.member("employee")),
            )


def test_a_result_is_for_the_subject_and_people_only(db: Connection, world: World) -> None:
    cycle = add_cycle(db, world.a, status="closed")
    for function in ("get_feedback_360_result", "list_feedback_360_comments"):
        query = f"select * from public.{function}(%s, %s, %s)"
        parameters = (world.a.org, cycle, world.a.member("employee"))
        for role in ("owner", "admin", "director", "people", "employee"):
            with as_member(db, world.a, role):
                db.execute(query, parameters)
        for role in ("sales", "ops", "finance", "legal"):
            with as_member(db, world.a, role), refused("not_allowed"):
                db.execute(query, parameters)
        for actor in (
            as_client(db, world.a),
            as_member(db, world.b, "people"),
            as_agent(db, world.a),
        ):
            with actor, refused("not_allowed"):
                db.execute(query, parameters)
        with as_anon(db), denied():
            db.execute(query, parameters)
        with as_member(db, world.a, "people"), refused("feedback_cycle_not_found"):
            db.execute(query, (world.a.org, uuid4(), world.a.member("employee")))


def test_nobody_reads_the_scores_of_others_whatever_the_role(db: Connection, world: World) -> None:
    cycle = add_cycle(db, world.a)
    rate(db, cycle, ("ops", "peer"), 2)
    rate(db, cycle, ("sales", "peer"), 3)
    for role in STAFF:
        with as_member(db, world.a, role) as person:
            raters = db.execute("select rater_id from public.feedback_360").fetchall()
        assert raters == ([(person,)] if role in {"ops", "sales"} else []), role
    for actor in (as_client(db, world.a), as_agent(db, world.a), as_member(db, world.b, "owner")):
        with actor:
            assert db.execute("select * from public.feedback_360").fetchall() == []
    assert (
        db.execute(
            "select from public.module_events where entity_type like 'feedback_360%'"
        ).fetchall()
        == []
    )
    assert (
        db.execute("select from public.audit_log where table_name like 'feedback_360%'").fetchall()
        == []
    )


def test_scores_are_written_through_the_function_only(db: Connection, world: World) -> None:
    cycle = add_cycle(db, world.a)
    with as_member(db, world.a, "people") as person, denied():
        db.execute(
            "insert into public.feedback_360 (org_id, cycle_id, subject_id, rater_id, relation,"
            " criterion, score)"
            " values (%s, %s, %s, %s, 'peer', 'entrega', 5)",
            (world.a.org, cycle, world.a.member("employee"), person),
        )
    with as_member(db, world.a, "ops"):
        for statement in (
            "update public.feedback_360 set score = 1",
            "delete from public.feedback_360",
        ):
            with denied():
                db.execute(statement)


def test_an_analyst_reads_no_score_and_no_name_of_a_candidate(db: Connection, world: World) -> None:
    add_job(db, world.a)
    add_job(db, world.b)
    with as_anon(db):
        apply(db, world.a)
        apply(db, world.b)
    rate(db, add_cycle(db, world.a), ("ops", "peer"), 2)
    with as_analyst(db):
        query = "select org_id, stage from public.job_applications"
        assert db.execute(query).fetchall() == [(world.a.org, "received")]
        for column in ("name", "email", "linkedin_url", "cv_path", "message"):
            with denied():
                db.execute(f"select {column} from public.job_applications")
        with denied():
            db.execute("select score from public.feedback_360")


def test_a_score_stays_with_its_cycle_subject_and_rater(db: Connection, world: World) -> None:
    cycle = add_cycle(db, world.a)
    rate(db, cycle, ("ops", "peer"), 2)
    set_clock(db, "2031-01-01T00:00:00Z")
    with as_worker(db):
        for change in (
            f"subject_id = '{world.a.member('sales')}'",
            f"rater_id = '{world.a.member('sales')}'",
            f"org_id = '{world.b.org}'",
            "id = gen_random_uuid()",
            "cycle_id = gen_random_uuid()",
            "created_at = now() - interval '1 day'",
        ):
            with refused("keys_are_immutable"):
                db.execute(f"update public.feedback_360 set {change}")
        db.execute("update public.feedback_360 set score = 3")
        assert one(db, "select extract(year from updated_at) from public.feedback_360") == 2031
    set_clock(db, None)


def test_a_cycle_emits_its_moves(db: Connection, world: World) -> None:
    with as_member(db, world.a, "people"):
        cycle = add_cycle(db, world.a, status="closed")
        db.execute("update public.feedback_cycles set name = 'Ciclo' where id = %s", (cycle,))
        db.execute("delete from public.feedback_cycles where id = %s", (cycle,))
    assert {event.split(".")[1] for event, _ in events(db, "feedback_cycle")} == {
        "created",
        "open",
        "closed",
        "updated",
        "deleted",
    }


def test_scoring_again_replaces_the_score(db: Connection, world: World) -> None:
    cycle = add_cycle(db, world.a)
    rate(db, cycle, ("ops", "peer"), 2)
    rate(db, cycle, ("ops", "peer"), 5)
    assert db.execute("select score from public.feedback_360").fetchall() == [(5,)]


def test_self_is_for_oneself_and_only_for_oneself(db: Connection, world: World) -> None:
    cycle = add_cycle(db, world.a)
    with refused("feedback_relation_invalid"):
        rate(db, cycle, ("employee", "peer"), 5)
    with refused("feedback_relation_invalid"):
        rate(db, cycle, ("ops", "self"), 5)
    with refused("feedback_relation_invalid"):
        rate(db, cycle, ("ops", "friend"), 5)
    insert = (
        "insert into public.feedback_360 (org_id, cycle_id, subject_id, rater_id, relation,"
        " criterion, score)"
        " values (%s, %s, %s, %s, %s, 'entrega', 5)"
    )
    employee, ops = world.a.member("employee"), world.a.member("ops")
    for rater, relation in ((employee, "peer"), (ops, "self")):
        with as_worker(db), pytest.raises(psycopg.errors.CheckViolation), db.transaction():
            db.execute(insert, (world.a.org, cycle, employee, rater, relation))


def test_a_rater_has_one_relation_to_a_subject(db: Connection, world: World) -> None:
    cycle = add_cycle(db, world.a, criteria=["entrega", "lideranca"])
    rate(db, cycle, ("ops", "peer"), 5)
    with refused("feedback_relation_invalid"):
        rate(db, cycle, ("ops", "manager"), 5, criterion="lideranca")


def test_feedback_needs_an_open_cycle_a_known_criterion_and_a_score_from_1_to_5(
    db: Connection, world: World
) -> None:
    for status in ("draft", "closed"):
        cycle = add_cycle(db, world.a, name=status, status=status)
        with refused("feedback_cycle_not_open"):
            rate(db, cycle, ("ops", "peer"), 3)
    with refused("feedback_cycle_not_found"):
        rate(db, uuid4(), ("ops", "peer"), 3)
    cycle = add_cycle(db, world.a)
    with refused("feedback_criterion_unknown"):
        rate(db, cycle, ("ops", "peer"), 3, criterion="Entrega")
    for score in (0, 6):
        with refused("feedback_score_invalid"):
            rate(db, cycle, ("ops", "peer"), score)


def test_only_colleagues_rate_and_are_rated(db: Connection, world: World) -> None:
    cycle = add_cycle(db, world.a)
    call = "select public.submit_feedback_360(%s, %s, %s, 'peer', 'entrega', 3)"
    subject = (world.a.org, cycle, world.a.member("employee"))
    for actor in (as_client(db, world.a), as_member(db, world.b, "ops")):
        with actor, refused("not_allowed"):
            db.execute(call, subject)
    for nobody in (as_worker(db), as_agent(db, world.a)):
        with nobody, refused("not_signed_in"):
            db.execute(call, subject)
    with as_member(db, world.a, "ops"):
        for outsider in (world.a.member("client"), world.b.member("ops"), world.stranger):
            with refused("user_not_member"):
                db.execute(call, (world.a.org, cycle, outsider))


def test_a_suspended_organization_takes_no_feedback_an_inactive_one_shows_none(
    db: Connection, world: World
) -> None:
    cycle = add_cycle(db, world.a)
    status = "update public.organizations set status = %s where id = %s"
    db.execute(status, ("suspended", world.a.org))
    with refused("organization_suspended"):
        rate(db, cycle, ("ops", "peer"), 3)
    db.execute(status, ("inactive", world.a.org))
    with as_member(db, world.a, "ops"), refused("organization_inactive"):
        db.execute("select * from public.list_feedback_cycles(%s)", (world.a.org,))


def test_every_colleague_lists_the_cycles_that_are_not_drafts(db: Connection, world: World) -> None:
    add_cycle(db, world.a, name="rascunho", status="draft")
    cycle = add_cycle(db, world.a)
    for role in STAFF:
        with as_member(db, world.a, role):
            rows = db.execute(
                "select cycle_id, status from public.list_feedback_cycles(%s)", (world.a.org,)
            ).fetchall()
        assert rows == [(cycle, "open")]
    with as_client(db, world.a), refused("not_allowed"):
        db.execute("select * from public.list_feedback_cycles(%s)", (world.a.org,))


def test_comments_come_without_names_from_three_raters_up(db: Connection, world: World) -> None:
    query = "select criterion, comment from public.list_feedback_360_comments(%s, %s, %s)"
    for number, raters in enumerate((("ops", "sales"), ("ops", "sales", "director"))):
        cycle = add_cycle(db, world.a, name=f"ciclo {number}")
        rate(db, cycle, ("employee", "self"), 5)
        for score, rater in enumerate(raters, 1):
            rate(db, cycle, (rater, "peer"), score)
        set_status(db, cycle, "closed")
        with as_member(db, world.a, "employee") as person:
            rows = db.execute(query, (world.a.org, cycle, person)).fetchall()
        assert (
            sorted(rows)
            == [("entrega", f"palavras {n}") for n in range(1, 4)][: 3 if len(raters) == 3 else 0]
        )


@pytest.mark.parametrize(
    "weights", [(15, 40, 25, 21), (60, 20, 10, 10), (-5, 50, 30, 25), (0, 51, 25, 24)]
)
def test_weights_sum_to_100_and_none_outweighs_the_rest(
    db: Connection, world: World, weights: tuple[int, int, int, int]
) -> None:
    names = (
        "self_weight_pct",
        "manager_weight_pct",
        "peer_weight_pct",
        "internal_client_weight_pct",
    )
    fields: dict[str, Any] = dict(zip(names, weights, strict=True))
    with (
        as_member(db, world.a, "people"),
        pytest.raises(psycopg.errors.CheckViolation),
        db.transaction(),
    ):
        add_cycle(db, world.a, status="draft", **fields)


def test_weights_do_not_make_one_raters_score_the_average(db: Connection, world: World) -> None:
    """The subject knows his own score, and 50 of the other 51 per cent would be the manager's."""
    cycle = add_cycle(
        db,
        world.a,
        self_weight_pct=49,
        manager_weight_pct=50,
        peer_weight_pct=1,
        internal_client_weight_pct=0,
    )
    rate(db, cycle, ("employee", "self"), 3)
    rate(db, cycle, ("director", "manager"), 1)
    rate(db, cycle, ("sales", "peer"), 5)
    rate(db, cycle, ("ops", "peer"), 5)
    set_status(db, cycle, "closed")
    assert result(db, world.a, cycle) == {}


def test_criteria_and_weights_are_fixed_once_a_cycle_is_open(db: Connection, world: World) -> None:
    cycle = add_cycle(db, world.a, status="draft")
    with as_member(db, world.a, "people"):
        for state in ("draft", "open", "closed"):
            if state != "draft":
                set_status(db, cycle, state)
            for change in (
                "peer_weight_pct = 20, internal_client_weight_pct = 25",
                "criteria = '{outra}'",
            ):
                statement = f"update public.feedback_cycles set {change} where id = %s"
                if state == "draft":
                    with db.transaction(force_rollback=True):
                        assert db.execute(statement, (cycle,)).rowcount == 1
                else:
                    with refused("feedback_cycle_fixed"):
                        db.execute(statement, (cycle,))


def test_a_cycle_goes_from_draft_to_open_to_closed(db: Connection, world: World) -> None:
    with as_member(db, world.a, "people"):
        with refused("feedback_cycle_move_refused"):
            db.execute(
                "insert into public.feedback_cycles (org_id, name, starts_on, ends_on, status)"
                " values (%s, 'x1', '2026-01-01', '2026-02-01', 'open')",
                (world.a.org,),
            )
        allowed = {("draft", "open"), ("open", "closed")}
        for number, (before, after) in enumerate(
            itertools.permutations(("draft", "open", "closed"), 2)
        ):
            cycle = add_cycle(db, world.a, name=f"ciclo {number}", status=before)
            if (before, after) in allowed:
                set_status(db, cycle, after)
            else:
                with refused("feedback_cycle_move_refused"):
                    set_status(db, cycle, after)
