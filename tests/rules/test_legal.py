"""Legal: documents with versions, contract risk, compliance."""

import itertools
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.people import (
    Connection,
    Org,
    World,
    as_agent,
    as_anon,
    as_client,
    as_member,
    as_worker,
    denied,
    refused,
)

STATES = ("ok", "gap", "pending")


def insert(db: Connection, table: str, org: Org, **fields: object) -> UUID:
    fields = {"org_id": org.org} | fields
    columns = ", ".join(fields)
    values = ", ".join(["%s"] * len(fields))
    row = db.execute(
        f"insert into public.{table} ({columns}) values ({values}) returning id",
        tuple(fields.values()),
    ).fetchone()
    assert row
    identifier: UUID = row[0]
    return identifier


def add_contract(db: Connection, org: Org) -> UUID:
    return insert(
        db,
        "contracts",
        org,
        number=f"C-{uuid4()}",
        client_id=org.client,
        title="SOC",
        starts_on="2026-01-01",
    )


def add_doc(db: Connection, org: Org, **fields: object) -> UUID:
    fields = {"doc_type": "nda", "title": "NDA", "file_path": f"{org.org}/nda-1.pdf"} | fields
    return insert(db, "legal_docs", org, **fields)


def add_analysis(db: Connection, org: Org, score: str) -> UUID:
    return insert(db, "contract_risk_analyses", org, contract_id=add_contract(db, org), score=score)


def events(db: Connection, entity: str) -> list[str]:
    rows = db.execute(
        "select event_type from public.module_events where module = 'legal' and entity_type = %s"
        " order by 1",
        (entity,),
    ).fetchall()
    return [row[0].split(".")[1] for row in rows]


def versions(db: Connection, doc: UUID) -> list[tuple[int, str, str | None]]:
    return db.execute(
        "select version, file_path, note from public.legal_doc_versions where doc_id = %s order"
        " by version",
        (doc,),
    ).fetchall()


def test_another_file_is_a_new_version_and_the_earlier_stays(db: Connection, world: World) -> None:
    org = world.a
    with as_member(db, org, "legal") as person:
        doc = add_doc(db, org, contract_id=add_contract_as_owner(db, org), version=7)
        db.execute(
            "update public.legal_docs set title = 'Acordo', version = 9 where id = %s", (doc,)
        )
        assert versions(db, doc) == [(1, f"{org.org}/nda-1.pdf", None)]
        db.execute(
            "update public.legal_docs set file_path = %s, note = 'prazo' where id = %s",
            (f"{org.org}/nda-2.pdf", doc),
        )
        assert versions(db, doc) == [
            (1, f"{org.org}/nda-1.pdf", None),
            (2, f"{org.org}/nda-2.pdf", "prazo"),
        ]
        assert db.execute(
            "select version from public.legal_docs where id = %s", (doc,)
        ).fetchone() == (2,)
        assert db.execute(
            "select distinct created_by from public.legal_doc_versions"
        ).fetchall() == [(person,)]
    assert events(db, "legal_doc") == ["created", "updated", "updated"]


def add_contract_as_owner(db: Connection, org: Org) -> UUID:
    with as_member(db, org, "owner"):
        return add_contract(db, org)


def test_versions_are_written_by_nobody_and_changed_by_nobody(db: Connection, world: World) -> None:
    doc = add_doc(db, world.a)
    with as_member(db, world.a, "legal"):
        added = (
            "insert into public.legal_doc_versions (org_id, doc_id, version, file_path)"
            f" values ('{world.a.org}', '{doc}', 9, 'x')"
        )
        for statement in (
            added,
            "update public.legal_doc_versions set note = 'x'",
            "delete from public.legal_doc_versions",
        ):
            with denied():
                db.execute(statement)
    with as_worker(db), refused("append_only"):
        db.execute("update public.legal_doc_versions set file_path = 'x'")
    with as_member(db, world.a, "legal"):
        db.execute("delete from public.legal_docs where id = %s", (doc,))
    assert versions(db, doc) == []


@pytest.mark.parametrize(
    "path", ["nda.pdf", "{other}/nda.pdf", "{org}", "{org}/", "{org}/../{other}/nda.pdf"]
)
def test_a_file_lies_in_the_folder_of_the_organization(
    db: Connection, world: World, path: str
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        add_doc(db, world.a, file_path=path.format(org=world.a.org, other=world.b.org))


@pytest.mark.parametrize(
    ("score", "verdict"),
    [
        ("0", "approved"),
        ("2.99", "approved"),
        ("3", "with_reservations"),
        ("7", "with_reservations"),
        ("7.01", "blocked"),
        ("10", "blocked"),
    ],
)
def test_the_verdict_follows_from_the_score(
    db: Connection, world: World, score: str, verdict: str
) -> None:
    analysis = add_analysis(db, world.a, score)
    query = "select verdict from public.contract_risk_analyses where id = %s"
    assert db.execute(query, (analysis,)).fetchone() == (verdict,)


def test_a_score_is_0_to_10_and_the_verdict_cannot_be_written(db: Connection, world: World) -> None:
    for score in ("-0.01", "10.01"):
        with pytest.raises(psycopg.errors.CheckViolation), db.transaction():
            add_analysis(db, world.a, score)
    add_analysis(db, world.a, "9")
    with pytest.raises(psycopg.errors.GeneratedAlways):
        db.execute("update public.contract_risk_analyses set verdict = 'approved'")


def test_a_corrected_score_emits_the_new_verdict(db: Connection, world: World) -> None:
    analysis = add_analysis(db, world.a, "8")
    with as_member(db, world.a, "legal"):
        for score in ("5", "1", "2", "9"):
            db.execute(
                "update public.contract_risk_analyses set score = %s where id = %s",
                (score, analysis),
            )
        db.execute("delete from public.contract_risk_analyses where id = %s", (analysis,))
    assert events(db, "contract_risk_analysis") == [
        "approved",
        "blocked",
        "created",
        "deleted",
        "updated",
        "with_reservations",
    ]


def test_clauses_belong_to_an_analysis_of_the_same_organization(
    db: Connection, world: World
) -> None:
    own, foreign = add_analysis(db, world.a, "8"), add_analysis(db, world.b, "8")
    clause = {
        "clause_type": "multa",
        "excerpt": "Multa de 100%",
        "severity": "high",
        "suggestion": "20%",
    }
    with as_member(db, world.a, "legal"):
        insert(db, "contract_risk_clauses", world.a, analysis_id=own, **clause)
        for analysis, changes, error in (
            (foreign, {}, psycopg.errors.ForeignKeyViolation),
            (own, {"severity": "extreme"}, psycopg.errors.CheckViolation),
            (own, {"excerpt": " \n"}, psycopg.errors.CheckViolation),
        ):
            with pytest.raises(error), db.transaction():
                insert(
                    db, "contract_risk_clauses", world.a, analysis_id=analysis, **(clause | changes)
                )
        db.execute("update public.contract_risk_clauses set severity = 'low'")
        db.execute("delete from public.contract_risk_analyses where id = %s", (own,))
        assert db.execute("select * from public.contract_risk_clauses").fetchall() == []
    assert events(db, "contract_risk_clause") == ["created", "deleted", "updated"]


def test_the_frameworks_are_seeded_and_read_by_every_signed_in_person(
    db: Connection, world: World
) -> None:
    query = "select key from public.compliance_frameworks order by key"
    for actor in (as_member(db, world.a, "employee"), as_client(db, world.b)):
        with actor:
            assert db.execute(query).fetchall() == [("clt",), ("lgpd",), ("marco_civil",)]
    with as_anon(db), denied():
        db.execute(query)
    with as_member(db, world.a, "owner"), denied():
        db.execute("update public.compliance_frameworks set name = 'x'")


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(STATES, 2)))
def test_a_check_may_go_back_and_forth_and_emits_it(
    db: Connection, world: World, before: str, after: str
) -> None:
    with as_member(db, world.a, "legal"):
        check = insert(
            db,
            "compliance_checks",
            world.a,
            framework_key="lgpd",
            requirement="Registro de operações",
            status=before,
            evidence="ROPA 2026",
        )
        db.execute("update public.compliance_checks set status = %s where id = %s", (after, check))
    assert events(db, "compliance_check") == sorted(["created", after])


def test_a_requirement_is_met_only_with_evidence(db: Connection, world: World) -> None:
    check = insert(
        db, "compliance_checks", world.a, framework_key="clt", requirement="Controle de jornada"
    )
    for change in ("status = 'ok'", "status = 'ok', evidence = ' '"):
        with pytest.raises(psycopg.errors.CheckViolation), db.transaction():
            db.execute(f"update public.compliance_checks set {change} where id = %s", (check,))
    db.execute(
        "update public.compliance_checks set status = 'ok', evidence = 'Ponto' where id = %s",
        (check,),
    )


def test_a_requirement_stands_once_per_framework_and_playbook(db: Connection, world: World) -> None:
    insert(db, "compliance_checks", world.a, framework_key="clt", requirement="Controle de jornada")
    insert(db, "compliance_checks", world.b, framework_key="clt", requirement="Controle de jornada")
    with pytest.raises(psycopg.errors.UniqueViolation):
        insert(
            db, "compliance_checks", world.a, framework_key="clt", requirement="Controle de jornada"
        )


def test_legal_is_for_legal_owners_and_admins_and_never_for_the_portal(
    db: Connection, world: World
) -> None:
    add_doc(db, world.a, contract_id=add_contract(db, world.a))
    analysis = add_analysis(db, world.a, "4")
    insert(
        db,
        "contract_risk_clauses",
        world.a,
        analysis_id=analysis,
        clause_type="foro",
        excerpt="Foro",
        severity="low",
    )
    insert(db, "compliance_checks", world.a, framework_key="lgpd", requirement="Encarregado")
    tables = (
        "legal_docs",
        "legal_doc_versions",
        "contract_risk_analyses",
        "contract_risk_clauses",
        "compliance_checks",
    )

    def visible() -> set[int]:
        return {len(db.execute(f"select id from public.{table}").fetchall()) for table in tables}

    for role in ("owner", "admin", "legal"):
        with as_member(db, world.a, role):
            assert visible() == {1}, role
    others = ("director", "sales", "ops", "finance", "people", "employee")
    for actor in (
        *(as_member(db, world.a, role) for role in others),
        as_client(db, world.a),
        as_agent(db, world.a),
        as_member(db, world.b, "legal"),
    ):
        with actor:
            assert visible() == {0}


def test_documents_and_analyses_are_audited(db: Connection, world: World) -> None:
    with as_member(db, world.a, "legal"):
        doc = add_doc(db, world.a)
        db.execute("update public.legal_docs set title = 'Outro' where id = %s", (doc,))
    add_analysis(db, world.a, "4")
    rows = db.execute(
        "select table_name, action from public.audit_log where table_name in ('legal_docs',"
        " 'contract_risk_analyses')"
        " order by 1, 2"
    ).fetchall()
    assert rows == [
        ("contract_risk_analyses", "insert"),
        ("legal_docs", "insert"),
        ("legal_docs", "update"),
    ]
