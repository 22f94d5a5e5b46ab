"""Delivery and what is owed: contracts, time, policies, reconciliation, files of the knowledge."""

import json
from uuid import UUID

from tests.people import Connection
from tests.races.race import BOTH_COMMIT, FIRST_GIVES_UP, Unguard, all_of, race, rewritten
from tests.races.sessions import Stage
from tests.rules import test_contracts as contracts
from tests.rules import test_fin as fin
from tests.rules import test_gov as gov
from tests.rules import test_ops_delivery as delivery
from tests.rules import test_ops_playbooks as playbooks
from tests.rules import test_people as people

# Contracts

ADJUST = "select (public.adjust_contract(%s, '2026-01-01')).mrr_after::float"


@race(
    "a contract adjusted twice",
    holds="adjusted once; the second is told so",
    guard="the lock on the contract",
    without=rewritten("app.adjust_contract(uuid, uuid, date)", ("for update", "")),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def adjust_twice(stage: Stage, order: str) -> None:
    contract = contracts.add_contract(
        stage.db, stage.a, status="active", adjustment_index="fixed", fixed_adjustment_pct=10
    )
    adjust = stage.member("finance", ADJUST, contract)
    answers = stage.meet(adjust, adjust, first_gives_up=order == FIRST_GIVES_UP)
    assert answers[1] == (1100 if order == FIRST_GIVES_UP else "contract_already_adjusted")
    assert stage.one("select mrr from public.contracts where id = %s", contract) == 1100


@race(
    "a contract adjusted while its value changes",
    holds="both count, the second on top of the first",
    guard="the adjustment reads the value under the lock of the contract",
    without=rewritten("app.adjust_contract(uuid, uuid, date)", ("for update", "")),
    orders=("changed first", "adjusted first"),
)
def adjust_changed(stage: Stage, order: str) -> None:
    contract = contracts.add_contract(
        stage.db, stage.a, status="active", adjustment_index="fixed", fixed_adjustment_pct=10
    )
    adjust = stage.member("finance", ADJUST, contract)
    change = stage.member(
        "finance",
        "select (public.change_contract_mrr(%s, 2000, 'Mais um posto')).mrr::float",
        contract,
    )
    acts = (change, adjust) if order == "changed first" else (adjust, change)
    stage.meet(*acts)
    assert stage.one("select mrr from public.contracts where id = %s", contract) == (
        2200 if order == "changed first" else 2000
    )


@race(
    "an item added to a contract while it ends",
    holds="the item is in before the end, or refused",
    guard="the item locks its contract before it reads its state",
    without=rewritten("app.guard_contract_item()", ("for share", "")),
    orders=("ended first", "added first"),
)
def add_to_ended(stage: Stage, order: str) -> None:
    work = delivery.create_work(stage.db, stage.a)
    action = playbooks.add(stage.db, "service_actions", stage.a, title="Outra")
    end = stage.member(
        "director",
        "update public.contracts set status = 'ended' where id = %s returning status",
        work.contract,
    )
    add = stage.member(
        "director",
        "insert into public.contract_items (org_id, contract_id, service_action_id) values (%s, %s, %s)"
        " returning 'added'",
        stage.a.org,
        work.contract,
        action,
    )
    if order == "ended first":
        assert stage.meet(end, add) == ["ended", "contract_closed"]
    else:
        assert stage.meet(add, end) == ["added", "ended"]
    items = stage.one(
        "select count(*) from public.contract_items where contract_id = %s", work.contract
    )
    assert items == (1 if order == "ended first" else 2)


# Time

NO_TURNS_IN_TIME = rewritten(
    "app.lock_time_entries(uuid, uuid)",
    (
        "pg_advisory_xact_lock(hashtextextended('time_entries/' || org || '/' || person, 0))",
        "null::void",
    ),
)


@race(
    "a timer started twice",
    holds="one runs; the second start is told so",
    guard="writers of one person's time take turns",
    without=NO_TURNS_IN_TIME,
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def start_twice(stage: Stage, order: str) -> None:
    work = delivery.create_work(stage.db, stage.a)
    start = stage.member(
        "employee", "select 'started' from public.start_timer(%s, %s)", work.contract, work.action
    )
    answers = stage.meet(start, start, first_gives_up=order == FIRST_GIVES_UP)
    assert answers[1] == ("started" if order == FIRST_GIVES_UP else "timer_already_running")
    assert (
        stage.one(
            "select count(*) from public.time_entries where org_id = %s and ended_at is null",
            stage.a.org,
        )
        == 1
    )


@race(
    "time entered twice over the same minutes",
    holds="no two entries of a person overlap",
    guard="writers of one person's time take turns",
    without=NO_TURNS_IN_TIME,
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def enter_twice(stage: Stage, order: str) -> None:
    work = delivery.create_work(stage.db, stage.a)
    enter = (
        "insert into public.time_entries (org_id, contract_id, service_action_id, started_at, ended_at)"
        " values (%s, %s, %s, %s, %s) returning 'entered'"
    )
    answers = stage.meet(
        *(
            stage.member(
                "employee", enter, stage.a.org, work.contract, work.action,
                f"2026-03-02T{hour}:00Z", f"2026-03-02T{hour + 2}:00Z",
            )
            for hour in (12, 13)
        ),
        first_gives_up=order == FIRST_GIVES_UP,
    )  # fmt: skip
    assert answers[1] == ("entered" if order == FIRST_GIVES_UP else "time_entry_overlaps")


# Policies

PUBLISH = "select (public.publish_policy(%s, %s)).version"


@race(
    "a policy accepted while a new version is published",
    holds="whoever has read the old text accepts it before, or is told that it has changed",
    guard="the acceptance locks the policy before it reads the version",
    without=rewritten("app.accept_policy(uuid, text)", ("for share of p", "")),
    orders=("published first", "accepted first"),
)
def accept_published(stage: Stage, order: str) -> None:
    with stage.db.transaction():
        policy = gov.add_policy(stage.db, stage.a)
        gov.publish(stage.db, stage.a, policy)
    known = stage.one(
        "select content_hash from public.policy_versions where policy_id = %s", policy
    )
    publish = stage.member("legal", PUBLISH, policy, "Um novo texto.")
    accept = stage.member(
        "employee", "select (public.accept_policy(%s, %s)).version", policy, known
    )
    if order == "published first":
        assert stage.meet(publish, accept) == [2, "policy_text_changed"]
    else:
        assert stage.meet(accept, publish) == [1, 2]


@race(
    "one text of a policy published twice",
    holds="one version",
    guard="the lock on the policy",
    without=rewritten("app.publish_policy(uuid, uuid, text)", ("for no key update", "")),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def publish_twice(stage: Stage, order: str) -> None:
    with stage.db.transaction():
        policy = gov.add_policy(stage.db, stage.a)
    publish = stage.member("legal", PUBLISH, policy, "Um texto.")
    assert stage.meet(publish, publish, first_gives_up=order == FIRST_GIVES_UP) == [1, 1]
    assert stage.rows(
        "select version from public.policy_versions where policy_id = %s", policy
    ) == [(1,)]


# Feedback


@race(
    "two criteria of a colleague rated at once",
    holds="a rater has one relation to whom he rates",
    guard="ratings of one person by one rater take turns",
    without=rewritten("app.guard_feedback_360()", ("perform pg_advisory_xact_lock(", "perform (")),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def rate_twice(stage: Stage, order: str) -> None:
    cycle = people.add_cycle(stage.db, stage.a, criteria=["entrega", "clareza"])
    rate = "select (public.submit_feedback_360(%s, %s, %s, %s, %s, 3)).relation"
    answers = stage.meet(
        *(
            stage.member(
                "employee", rate, stage.a.org, cycle, stage.a.member("ops"), relation, criterion
            )
            for relation, criterion in (("manager", "entrega"), ("peer", "clareza"))
        ),
        first_gives_up=order == FIRST_GIVES_UP,
    )
    assert answers[1] == ("peer" if order == FIRST_GIVES_UP else "feedback_relation_invalid")


@race(
    "feedback written while its cycle is closed",
    holds="it is written before, or refused",
    guard="whoever writes locks the cycle before he reads its state",
    without=rewritten("app.guard_feedback_360()", ("for share", "")),
    orders=("closed first", "written first"),
)
def rate_closed(stage: Stage, order: str) -> None:
    cycle = people.add_cycle(stage.db, stage.a)
    close = stage.member(
        "people",
        "update public.feedback_cycles set status = 'closed' where id = %s returning status",
        cycle,
    )
    rate = stage.member(
        "employee",
        "select (public.submit_feedback_360(%s, %s, %s, 'peer', 'entrega', 3)).relation",
        stage.a.org,
        cycle,
        stage.a.member("ops"),
    )
    if order == "closed first":
        assert stage.meet(close, rate) == ["closed", "feedback_cycle_not_open"]
    else:
        assert stage.meet(rate, close) == ["peer", "closed"]


# Playbooks


def action_of(stage: Stage, *minutes: int) -> tuple[UUID, list[UUID]]:
    """Add an action and a playbook of one task for each of these minutes, unlinked; gives them."""
    action = playbooks.add(stage.db, "service_actions", stage.a, title="Ronda")
    made = []
    for number in minutes:
        made.append(playbooks.add_playbook(stage.db, stage.a))
        playbooks.add_task(stage.db, stage.a, made[-1], minutes=number)
    return action, made


LINK = (
    "insert into public.service_action_playbooks (org_id, service_action_id, playbook_id) values (%s, %s, %s)"
    " returning sort_order"
)


@race(
    "two playbooks linked to one action at once",
    holds="one comes after the other, and the action takes as long as both",
    guard="whoever places a playbook locks the action",
    without=rewritten("app.place_service_action_playbook()", ("for no key update", "")),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def link_two(stage: Stage, order: str) -> None:
    action, made = action_of(stage, 20, 30)
    answers = stage.meet(
        *(stage.member("ops", LINK, stage.a.org, action, playbook) for playbook in made),
        first_gives_up=order == FIRST_GIVES_UP,
    )
    assert answers == [1, 1 if order == FIRST_GIVES_UP else 2]
    assert stage.one("select total_minutes from public.service_actions where id = %s", action) == (
        30 if order == FIRST_GIVES_UP else 50
    )


@race(
    "a playbook linked while its tasks change",
    holds="the action takes as long as the playbook takes now",
    guard="whoever links a playbook locks it",
    without=all_of(
        rewritten("app.place_service_action_playbook()", ("for share", "")),
        rewritten("app.follow_service_action_playbooks()", ("for share", "")),
    ),
    orders=("changed first", "linked first"),
)
def link_changed(stage: Stage, order: str) -> None:
    action, [playbook] = action_of(stage, 20)
    change = stage.member(
        "ops",
        "update public.playbook_tasks set minutes = 45 where playbook_id = %s returning 'changed'",
        playbook,
    )
    link = stage.member("ops", LINK, stage.a.org, action, playbook)
    stage.meet(*((change, link) if order == "changed first" else (link, change)))
    assert stage.one("select total_minutes from public.service_actions where id = %s", action) == 45


# Reconciliation


@race(
    "a difference to the ERP accepted twice",
    holds="the first explanation stands",
    guard="the lock on the alert",
    without=rewritten(
        "app.answer_reconciliation_alert(uuid, uuid, text, text)", ("for update", "")
    ),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def accept_difference(stage: Stage, order: str) -> None:
    with stage.db.transaction():
        contracts.add_contract(stage.db, stage.a, status="active")
        fin.bill(stage.db, stage.a, 400)
        fin.reconcile(stage.db, stage.a)
    alert = stage.one("select id from public.reconciliation_alerts where org_id = %s", stage.a.org)
    accept = "select (public.accept_reconciliation_alert(%s, %s)).note"
    notes = ("Faturado em abril", "Cortesia")
    answers = stage.meet(
        *(stage.member("finance", accept, alert, note) for note in notes),
        first_gives_up=order == FIRST_GIVES_UP,
    )
    stands = notes[order == FIRST_GIVES_UP]
    assert answers == [notes[0], stands]
    assert stage.one("select note from public.reconciliation_alerts where id = %s", alert) == stands


# Knowledge


def publish_playbook(stage: Stage) -> tuple[UUID, UUID, str, int]:
    """Publish a playbook; gives it, its document, and hash and length of the text to index."""
    row = stage.db.execute(
        "insert into public.playbooks (org_id, title, content_markdown, status)"
        " values (%s, 'Troca', 'Desligue a energia antes.', 'published') returning id",
        (stage.a.org,),
    ).fetchone()
    assert row
    [(document, digest, length)] = stage.rows(
        "select d.id, d.content_hash, length(v.content) from public.knowledge_documents as d"
        " join app.knowledge_versions as v on v.org_id = d.org_id and v.document_id = d.id and v.version = d.version"
        " where d.org_id = %s and d.source_id = %s",
        stage.a.org,
        row[0],
    )
    return row[0], document, digest, length


STORE = "select app.store_knowledge_chunks(%s, %s, %s, null, %s)"


def checked_before(condition: str) -> Unguard:
    """Store passages when this held a moment before."""
    return rewritten(
        "app.store_knowledge_chunks(uuid, uuid, text, text, jsonb)",
        (f"and {condition}", ""),
        (
            "update public.knowledge_documents",
            f"""if not exists (
                select from public.knowledge_documents as d
                where d.org_id = store_knowledge_chunks.org and d.id = store_knowledge_chunks.document
                    and {condition}
            ) then
                return false;
            end if;
            update public.knowledge_documents""",
        ),
    )


def chunks(length: int) -> str:
    """Give the text as one passage."""
    return json.dumps([{"ordinal": 1, "heading_path": "", "start_char": 0, "end_char": length}])


@race(
    "a document withdrawn while it is indexed",
    holds="nothing of a withdrawn document is found",
    guard="whether the document is withdrawn is asked by the statement that stores",
    without=checked_before("d.status <> 'withdrawn'"),
    orders=("withdrawn first", "indexed first"),
)
def withdraw_indexed(stage: Stage, order: str) -> None:
    playbook, document, digest, length = publish_playbook(stage)
    withdraw = stage.member(
        "director",
        "update public.playbooks set status = 'archived' where id = %s returning status",
        playbook,
    )
    store = stage.worker(STORE, stage.a.org, document, digest, chunks(length))
    acts = (withdraw, store) if order == "withdrawn first" else (store, withdraw)
    stage.meet(*acts)
    assert stage.rows(
        "select d.status, count(c.id) from public.knowledge_documents as d"
        " left join public.knowledge_chunks as c on c.org_id = d.org_id and c.document_id = d.id"
        " where d.id = %s group by d.id, d.status",
        document,
    ) == [("withdrawn", 0)]


@race(
    "a document edited twice while it is indexed",
    holds="passages of an older text are not stored under the new one",
    guard="what the text is now is asked by the statement that stores",
    without=checked_before("d.content_hash = store_knowledge_chunks.content_hash"),
    orders=("edited first", "indexed first"),
)
def edit_indexed(stage: Stage, order: str) -> None:
    playbook, document, digest, length = publish_playbook(stage)
    edit = "update public.playbooks set content_markdown = %s where id = %s"
    edits = [
        stage.member("director", edit, text, playbook) for text in ("Outro texto.", "Mais um.")
    ]

    def edit_twice(db: Connection) -> None:
        for one in edits:
            one(db)

    store = stage.worker(STORE, stage.a.org, document, digest, chunks(length))
    stage.meet(*((edit_twice, store) if order == "edited first" else (store, edit_twice)))
    assert stage.rows(
        "select d.status from public.knowledge_documents as d where d.id = %s", document
    ) == [("pending",)]
    stale = stage.one(
        "select count(*) from public.knowledge_chunks as c join public.knowledge_documents as d"
        " on d.org_id = c.org_id and d.id = c.document_id where d.id = %s and c.version = d.version",
        document,
    )
    assert stale == 0


RENAME = "update public.playbook_tasks set title = %s where id = %s returning 'written'"


def add_tasks(stage: Stage, playbook: UUID) -> list[UUID]:
    """Give a playbook two tasks."""
    return [
        playbooks.add(
            stage.db, "playbook_tasks", stage.a, playbook_id=playbook, title=title, minutes=5
        )
        for title in ("Abrir", "Fechar")
    ]


def known_text(stage: Stage, playbook: UUID) -> str:
    """Give the text that search knows of a playbook."""
    text: str = stage.one(
        "select v.content from app.knowledge_versions as v join public.knowledge_documents as d"
        " on d.org_id = v.org_id and d.id = v.document_id and d.version = v.version where d.source_id = %s",
        playbook,
    )
    return text


@race(
    "two parts of a document changed at once",
    holds="the document that search knows says what both have written",
    guard="who refreshes a document locks it, and the whole, before he reads its source",
    without=all_of(
        rewritten("app.refresh_knowledge_document(text, uuid, uuid)", ("for no key update", "")),
        rewritten("app.sync_knowledge()", ("for no key update", "")),
    ),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def change_parts(stage: Stage, order: str) -> None:
    playbook, *_ = publish_playbook(stage)
    titles = ("Desligar", "Religar")
    answers = stage.meet(
        *(
            stage.member("director", RENAME, title, task)
            for title, task in zip(titles, add_tasks(stage, playbook), strict=True)
        ),
        first_gives_up=order == FIRST_GIVES_UP,
    )
    assert answers == ["written", "written"]
    text = known_text(stage, playbook)
    assert [word in text for word in titles] == [order == BOTH_COMMIT, True]


@race(
    "a part of a document changed while it is published",
    holds="the document that search knows says what has been written",
    guard="who changes a part locks the whole",
    without=rewritten("app.sync_knowledge()", ("for no key update", "")),
    orders=("published first", "changed first"),
)
def change_published(stage: Stage, order: str) -> None:
    playbook = playbooks.add(
        stage.db, "playbooks", stage.a, title="Troca", content_markdown="Desligue antes."
    )
    publish = stage.member(
        "director",
        "update public.playbooks set status = 'published' where id = %s returning 'written'",
        playbook,
    )
    change = stage.member("director", RENAME, "Religar", add_tasks(stage, playbook)[0])
    acts = (publish, change) if order == "published first" else (change, publish)
    assert stage.meet(*acts) == ["written", "written"]
    assert "Religar" in known_text(stage, playbook)
