"""Knowledge: what search covers follows what is published, and shows each person only what he may read."""

import json

from tests.people import Connection, World, as_member


def publish_playbook(db: Connection, org: object, title: str, text: str) -> str:
    """Publish a playbook and index it as one passage; gives its id."""
    row = db.execute(
        "insert into playbooks (org_id, title, content_markdown, status) values (%s, %s, %s, 'published') returning id",
        (org, title, text),
    ).fetchone()
    assert row is not None
    index_all(db)
    return str(row[0])


def index_all(db: Connection) -> None:
    """Do the index job's work for every document that waits: one passage each, no vector."""
    for org, document, digest, length in db.execute(
        "select d.org_id, d.id, d.content_hash, length(v.content) from knowledge_documents d join app.knowledge_versions v"
        " on v.org_id = d.org_id and v.document_id = d.id and v.version = d.version where d.status = 'pending'"
    ).fetchall():
        chunk = [{"ordinal": 1, "heading_path": "", "start_char": 0, "end_char": length}]
        stored = db.execute(
            "select app.store_knowledge_chunks(%s, %s, %s, null, %s)",
            (org, document, digest, json.dumps(chunk)),
        ).fetchone()
        assert stored == (True,)


def found(db: Connection, org: object, question: str, audience: str = "internal") -> list[str]:
    """Return the titles that search gives, best first."""
    return [
        row[0]
        for row in db.execute(
            "select title from search_knowledge(%s, %s, p_audience => %s)",
            (org, question, audience),
        ).fetchall()
    ]


def test_a_published_playbook_is_found_and_gone_once_archived(db: Connection, world: World) -> None:
    playbook = publish_playbook(
        db, world.a.org, "Troca de câmera", "Desligue a energia antes de trocar a câmera."
    )
    with as_member(db, world.a, "ops"):
        assert found(db, world.a.org, "como trocar câmeras?") == ["Troca de câmera"]
    db.execute("update playbooks set status = 'archived' where id = %s", (playbook,))
    with as_member(db, world.a, "ops"):
        assert found(db, world.a.org, "como trocar câmeras?") == []
    assert db.execute("select count(*) from knowledge_chunks").fetchone() == (0,)
