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


def test_a_playbook_is_found_by_its_tasks(db: Connection, world: World) -> None:
    playbook = publish_playbook(db, world.a.org, "Troca de câmera", "Siga a ordem das tarefas.")
    db.execute(
        "insert into playbook_tasks (org_id, playbook_id, title, minutes) values (%s, %s, 'Medir a voltagem', 5)",
        (world.a.org, playbook),
    )
    index_all(db)
    with as_member(db, world.a, "ops"):
        assert found(db, world.a.org, "voltagem") == ["Troca de câmera"]
    db.execute("update playbook_tasks set title = 'Conferir o aterramento'")
    index_all(db)
    with as_member(db, world.a, "ops"):
        assert found(db, world.a.org, "voltagem") == []
        assert found(db, world.a.org, "aterramento") == ["Troca de câmera"]


def test_a_policy_is_found_by_its_latest_text(db: Connection, world: World) -> None:
    row = db.execute(
        "insert into policies (org_id, title) values (%s, 'Segurança') returning id", (world.a.org,)
    ).fetchone()
    assert row is not None
    for text in ("Crachás são pessoais.", "Biometria na portaria."):
        with as_member(db, world.a, "legal"):
            db.execute("select publish_policy(%s, %s)", (row[0], text))
        index_all(db)
    with as_member(db, world.a, "legal"):
        assert found(db, world.a.org, "crachás") == []
        assert found(db, world.a.org, "biometria") == ["Segurança"]
