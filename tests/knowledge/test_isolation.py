"""What search never shows: another organisation, another module, a withdrawn document, to nobody it is not for."""

import json
from collections.abc import Iterator

import psycopg
import pytest

from tests.access.actors import ACTORS, Actor
from tests.knowledge import golden
from tests.people import WORLD, Connection, Org, as_member

VECTOR = "[1" + ",0" * 1535 + "]"
MODULES = ("ops", "gov", "knowledge", "fin", "legal", "people", "public")
CANARIES = [f"canario{module}{org.slug}" for org in (WORLD.a, WORLD.b) for module in MODULES]
GONE = [f"canariosumido{org.slug}" for org in (WORLD.a, WORLD.b)]


def index_everything(db: Connection) -> None:
    """Store every document as one passage, all with the same vector."""
    for org, document, digest, length in db.execute(
        "select d.org_id, d.id, d.content_hash, length(v.content) from knowledge_documents d join app.knowledge_versions v"
        " on v.org_id = d.org_id and v.document_id = d.id and v.version = d.version where d.status = 'pending'"
    ).fetchall():
        chunk = [{"ordinal": 1, "heading_path": "", "start_char": 0, "end_char": length, "embedding": VECTOR}]  # fmt: skip
        stored = db.execute(
            "select app.store_knowledge_chunks(%s, %s, %s, 'a-model', %s)",
            (org, document, digest, json.dumps(chunk)),
        ).fetchone()
        assert stored == (True,)


def release_canaries(db: Connection, org: Org) -> None:
    """Publish a canary per module, and one that is withdrawn again."""
    db.execute(
        "insert into playbooks (org_id, title, content_markdown, status) values"
        " (%(org)s, 'Playbook', 'canarioops' || %(slug)s, 'published'), (%(org)s, 'Sumido', 'canariosumido' || %(slug)s, 'published')",
        {"org": org.org, "slug": org.slug},
    )
    db.execute("insert into policies (org_id, title) values (%s, 'Política')", (org.org,))
    with as_member(db, org, "owner"):
        db.execute(
            "select publish_policy(id, 'canariogov' || %s) from policies where org_id = %s",
            (org.slug, org.org),
        )
    db.execute(
        "insert into knowledge_questions (org_id, question, answer_markdown) values (%s, 'Pergunta', 'canarioknowledge' || %s)",
        (org.org, org.slug),
    )
    db.execute(
        "insert into static_pages (org_id, slug, title, content_markdown, is_published, published_at)"
        " values (%s, 'termos', 'Página', 'canariopublic' || %s, true, app.now())",
        (org.org, org.slug),
    )
    for module in ("fin", "legal", "people"):
        db.execute(
            "insert into knowledge_files (org_id, title, file_name, content_text, module)"
            " values (%(org)s, 'Arquivo', %(module)s || '.md', 'canario' || %(module)s || %(slug)s, %(module)s)",
            {"org": org.org, "module": module, "slug": org.slug},
        )


@pytest.fixture(scope="module")
def aviary(db_url: str) -> Iterator[Connection]:
    """A database with canaries of both organisations, all indexed, some withdrawn after."""
    with psycopg.connect(db_url) as db:
        for org in (WORLD.a, WORLD.b):
            release_canaries(db, org)
        index_everything(db)
        db.execute("update playbooks set status = 'archived' where title = 'Sumido'")
        yield db
        db.rollback()


def readable(db: Connection, actor: Actor) -> set[str]:
    """Say by the matrix of roles which canaries are for the actor."""
    if actor.kind in {"anon", "stranger"}:
        return set()
    modules = {
        module
        for (module,) in db.execute(
            "select module from role_permissions where role = %s and read_scope = 'all'", (actor.role,)
        ).fetchall()
    } | {"public"}  # fmt: skip
    if actor.kind == "agent" and actor.role == "client":
        modules = {"public"}
    orgs = (WORLD.a, WORLD.b)
    if actor.org is not None:
        orgs = tuple(org for org in orgs if org.org == actor.org)  # type: ignore[assignment]
    return {f"canario{module}{org.slug}" for module in modules & set(MODULES) for org in orgs}


def caught(db: Connection, org: Org, audience: str) -> set[str]:
    """Search by every canary's name, and by the vector that all share; gives which came out."""
    contents = {
        content
        for canary in [*CANARIES, *GONE]
        for (content,) in db.execute(
            "select content from search_knowledge(%s, %s, %s::text::extensions.halfvec, 50, %s)",
            (org.org, canary, VECTOR, audience),
        ).fetchall()
    }
    return {canary for canary in [*CANARIES, *GONE] if any(canary in one for one in contents)}


@pytest.mark.parametrize(
    "actor", [actor for actor in ACTORS if actor.kind != "analyst"], ids=lambda actor: actor.name
)
@pytest.mark.parametrize("org", [WORLD.a, WORLD.b], ids=lambda org: org.slug)
def test_search_gives_everybody_what_the_matrix_gives_and_no_more(
    aviary: Connection, actor: Actor, org: Org
) -> None:
    public = {f"canariopublic{org.slug}"}
    mine = {one for one in readable(aviary, actor) if one.endswith(org.slug)}
    with actor.acting(aviary):
        internal = caught(aviary, org, "internal")
        for_visitors = caught(aviary, org, "public")
    assert internal == (public if actor.kind == "anon" else mine)
    assert for_visitors == (public if actor.kind == "anon" else mine & public)


@pytest.mark.parametrize("actor", ACTORS, ids=lambda actor: actor.name)
def test_no_table_shows_what_search_does_not(aviary: Connection, actor: Actor) -> None:
    expected = readable(aviary, actor)
    if actor.kind == "anon":
        expected = {one for one in CANARIES if one.startswith("canariopublic")}
    with actor.acting(aviary):
        try:
            with aviary.transaction():
                rows = aviary.execute("select content from knowledge_chunks").fetchall()
        except psycopg.errors.InsufficientPrivilege:
            assert actor.kind == "analyst"
            return
        with pytest.raises(psycopg.errors.InsufficientPrivilege), aviary.transaction():
            aviary.execute("select content from app.knowledge_versions")
    if actor.kind != "analyst":
        assert {content for (content,) in rows} == expected


def test_the_roles_of_the_issue(aviary: Connection) -> None:
    def seen(role: str) -> set[str]:
        with as_member(aviary, WORLD.a, role):
            return caught(aviary, WORLD.a, "internal")

    assert "canarioopsalfa" in seen("employee")
    assert "canarioopsalfa" not in seen("finance")
    assert "canariofinalfa" in seen("finance")
    assert "canariofinalfa" not in seen("employee")
    assert seen("client") == {"canariopublicalfa"}


WITHDRAWALS = {
    "playbook": ["update playbooks set status = 'archived'", "delete from playbooks"],
    "post": ["update public_posts set status = 'draft'", "delete from public_posts"],
    "case": ["update success_cases set is_published = false", "delete from success_cases"],
    "service": ["update services_catalog set is_active = false", "delete from services_catalog"],
    "policy": ["update policies set status = 'archived'"],
    "page": ["update static_pages set is_published = false", "delete from static_pages"],
    "qa": ["update knowledge_questions set is_active = false", "delete from knowledge_questions"],
    "file": ["delete from knowledge_files"],
}
TITLES = {"service": "name", "qa": "question"}


@pytest.mark.parametrize(
    ("source", "statement"),
    [(source, one) for source, many in WITHDRAWALS.items() for one in many],
)
def test_what_is_unpublished_or_deleted_is_gone_in_the_same_transaction(
    golden_db: Connection, source: str, statement: str
) -> None:
    document = next(one for one in golden.documents() if one.source_type == source)
    question = f"{document.title} {document.text}"[:500]
    with golden_db.transaction(force_rollback=True):
        with as_member(golden_db, WORLD.a, "owner"):
            assert titles(golden_db, question)[0] == document.title
        if source == "playbook":
            golden_db.execute("set local session_replication_role = replica")
            golden_db.execute("delete from service_action_playbooks")
            golden_db.execute("set local session_replication_role = origin")
        golden_db.execute(
            f"{statement} where {TITLES.get(source, 'title')} = %s", (document.title,)
        )
        with as_member(golden_db, WORLD.a, "owner"):
            assert document.title not in titles(golden_db, question)
        left = golden_db.execute(
            "select status, (select count(*) from knowledge_chunks c where c.document_id = d.id)"
            " from knowledge_documents d where title = %s and source_type = %s",
            (document.title, source),
        ).fetchall()
        assert left == [("withdrawn", 0)]


def titles(db: Connection, question: str) -> list[str]:
    """Search; gives titles."""
    return [
        title
        for (title,) in db.execute(
            "select title from search_knowledge(%s, %s, null, 50)", (WORLD.a.org, question)
        ).fetchall()
    ]


@pytest.fixture(scope="module")
def golden_db(db_url: str, aviary: Connection) -> Connection:
    """The database with the golden documents, too, indexed."""
    del db_url
    aviary.execute("delete from static_pages where slug = 'termos'")
    golden.publish(aviary, WORLD.a)
    index_everything(aviary)
    return aviary


def test_questions_and_answers_are_kept_by_who_may_write_knowledge(aviary: Connection) -> None:
    with as_member(aviary, WORLD.a, "admin"):
        row = aviary.execute(
            "insert into knowledge_questions (org_id, question, answer_markdown, audience)"
            " values (%s, 'Vocês atendem sábado?', 'Sim, até meio-dia.', 'public') returning id",
            (WORLD.a.org,),
        ).fetchone()
        assert row is not None
        aviary.execute(
            "update knowledge_questions set answer_markdown = 'Só em dias úteis.' where id = %s",
            row,
        )
    with as_member(aviary, WORLD.a, "sales"), pytest.raises(psycopg.errors.InsufficientPrivilege):  # noqa: SIM117
        with aviary.transaction():
            aviary.execute(
                "insert into knowledge_questions (org_id, question, answer_markdown) values (%s, 'E domingo?', 'Não.')",
                (WORLD.a.org,),
            )
    versions = aviary.execute(
        "select v.content from app.knowledge_versions v join knowledge_documents d on d.id = v.document_id"
        " where d.source_id = %s",
        row,
    ).fetchall()
    assert versions == [("Só em dias úteis.",)]
    with as_member(aviary, WORLD.a, "admin"):
        aviary.execute("delete from knowledge_questions where id = %s", row)
    status = aviary.execute("select status from knowledge_documents where source_id = %s", row)
    assert status.fetchone() == ("withdrawn",)
