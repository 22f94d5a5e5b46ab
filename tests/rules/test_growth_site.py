"""The site: catalogue lock and totals, publication, what visitors see."""

import json
import threading
import time
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.people import (
    Connection,
    Org,
    World,
    as_anon,
    as_member,
    as_worker,
    denied,
    refused,
    set_clock,
)


def one(db: Connection, query: str, *values: object) -> Any:
    """Return the first column of the only row."""
    row = db.execute(query, values).fetchone()
    assert row is not None, f"no row: {query}"
    return row[0]


def add_playbook(
    db: Connection, org: Org, minutes: int = 60, cost: float = 100, status: str = "published"
) -> UUID:
    playbook = one(
        db,
        "insert into public.playbooks (org_id, title, slug, content_markdown)"
        " values (%s, 'Como fazer', %s, '# x') returning id",
        org.org,
        f"p-{uuid4()}",
    )
    db.execute(
        "insert into public.playbook_tasks (org_id, playbook_id, title, minutes, cost)"
        " values (%s, %s, 'Passo', %s, %s)",
        (org.org, playbook, minutes, cost),
    )
    if status != "draft":
        db.execute("update public.playbooks set status = %s where id = %s", (status, playbook))
    return UUID(str(playbook))


def add_action(db: Connection, org: Org, *playbooks: UUID) -> UUID:
    action = one(
        db,
        "insert into public.service_actions (org_id, title, slug) values (%s, 'Ação', %s)"
        " returning id",
        org.org,
        f"a-{uuid4()}",
    )
    for playbook in playbooks:
        db.execute(
            "insert into public.service_action_playbooks (org_id, service_action_id, playbook_id)"
            " values (%s, %s, %s)",
            (org.org, action, playbook),
        )
    return UUID(str(action))


def add_service(
    db: Connection, org: Org, *actions: UUID, active: bool = False, price: float | None = None
) -> UUID:
    service = one(
        db,
        "insert into public.services_catalog (org_id, name, slug, base_price, technical_scope)"
        " values (%s, 'Vigilância', %s, %s, 'segredo') returning id",
        org.org,
        f"s-{uuid4()}",
        price,
    )
    for action in actions:
        link(db, org, service, action)
    if active:
        db.execute("update public.services_catalog set is_active = true where id = %s", (service,))
        settle(db)
    return UUID(str(service))


def link(db: Connection, org: Org, service: object, action: UUID) -> None:
    db.execute(
        "insert into public.services_catalog_actions (org_id, service_id, service_action_id)"
        " values (%s, %s, %s)",
        (org.org, service, action),
    )


def settle(db: Connection) -> None:
    """Run the deferred checks as a commit would."""
    db.execute("set constraints all immediate")
    db.execute("set constraints all deferred")


def totals(db: Connection, service: UUID) -> tuple[int, float, float]:
    row = db.execute(
        "select total_minutes, total_cost, effective_price from public.services_catalog"
        " where id = %s",
        (service,),
    ).fetchone()
    assert row is not None
    return row[0], float(row[1]), float(row[2])


# The catalogue lock


def test_a_service_without_an_action_is_not_activated(db: Connection, world: World) -> None:
    service = add_service(db, world.a)
    with refused("catalogue_locked") as answer:
        db.execute("update public.services_catalog set is_active = true where id = %s", (service,))
        settle(db)
    assert answer.status == 422
    assert "Vigilância" in answer.detail


def test_a_service_whose_playbook_is_only_a_draft_is_not_activated(
    db: Connection, world: World
) -> None:
    service = add_service(
        db, world.a, add_action(db, world.a, add_playbook(db, world.a, status="draft"))
    )
    with refused("catalogue_locked"):
        db.execute("update public.services_catalog set is_active = true where id = %s", (service,))
        settle(db)


def test_a_service_born_active_needs_its_links_by_the_end_of_the_transaction(
    db: Connection, world: World
) -> None:
    action = add_action(db, world.a, add_playbook(db, world.a))
    insert = (
        "insert into public.services_catalog (org_id, name, slug, is_active)"
        " values (%s, 'Serviço', %s, true) returning id"
    )
    service = one(db, insert, world.a.org, f"s-{uuid4()}")
    link(db, world.a, service, action)
    settle(db)
    with refused("catalogue_locked"):
        db.execute(insert, (world.a.org, f"s-{uuid4()}"))
        settle(db)


LINKS, STEPS = "public.services_catalog_actions", "public.service_action_playbooks"
BREAKERS = {
    "the link to its action is removed": f"delete from {LINKS}"
    " where service_action_id = %(action)s",
    "the link goes to another action": f"update {LINKS} set service_action_id = %(empty)s"
    " where service_action_id = %(action)s",
    "the action is deleted": "delete from public.service_actions where id = %(action)s",
    "the playbook leaves the action": f"delete from {STEPS} where playbook_id = %(playbook)s",
    "the action's link goes to a draft": f"update {STEPS} set playbook_id = %(draft)s"
    " where playbook_id = %(playbook)s",
    "the playbook is unpublished": "update public.playbooks set status = 'draft'"
    " where id = %(playbook)s",
    "the playbook is archived": "update public.playbooks set status = 'archived'"
    " where id = %(playbook)s",
    "the playbook is deleted": "delete from public.playbooks where id = %(playbook)s",
}


@pytest.mark.parametrize("breaker", BREAKERS)
def test_an_active_service_keeps_its_last_published_playbook_when(
    db: Connection, world: World, breaker: str
) -> None:
    playbook, draft = add_playbook(db, world.a), add_playbook(db, world.a, status="draft")
    action, empty = add_action(db, world.a, playbook), add_action(db, world.a)
    service = add_service(db, world.a, action, active=True)
    values = {"action": action, "empty": empty, "playbook": playbook, "draft": draft}
    with as_member(db, world.a, "admin"), refused("catalogue_locked"):
        assert db.execute(BREAKERS[breaker], values).rowcount == 1
        settle(db)
    # Once the service is out of the catalogue the same act is free.
    db.execute("update public.services_catalog set is_active = false where id = %s", (service,))
    assert db.execute(BREAKERS[breaker], values).rowcount == 1
    settle(db)


def test_who_cannot_see_the_catalogue_cannot_break_it_either(db: Connection, world: World) -> None:
    playbook = add_playbook(db, world.a)
    add_service(db, world.a, add_action(db, world.a, playbook), active=True)
    with as_member(db, world.a, "ops"), refused("catalogue_locked"):
        assert one(db, "select count(*) from public.services_catalog") == 0
        db.execute("update public.playbooks set status = 'archived' where id = %s", (playbook,))
        settle(db)


def test_one_published_playbook_of_several_is_enough(db: Connection, world: World) -> None:
    first, second = add_playbook(db, world.a), add_playbook(db, world.a)
    add_service(
        db, world.a, add_action(db, world.a, first), add_action(db, world.a, second), active=True
    )
    db.execute("update public.playbooks set status = 'archived' where id = %s", (first,))
    settle(db)
    with refused("catalogue_locked"):
        db.execute("update public.playbooks set status = 'archived' where id = %s", (second,))
        settle(db)


def test_the_lock_of_one_organisation_does_not_bind_another(db: Connection, world: World) -> None:
    add_service(db, world.a, add_action(db, world.a, add_playbook(db, world.a)), active=True)
    playbook = add_playbook(db, world.b)
    db.execute("update public.playbooks set status = 'archived' where id = %s", (playbook,))
    settle(db)


def test_a_whole_organisation_with_an_active_service_can_be_deleted(
    db: Connection, world: World
) -> None:
    add_service(db, world.b, add_action(db, world.b, add_playbook(db, world.b)), active=True)
    db.execute("delete from public.organizations where id = %s", (world.b.org,))
    settle(db)
    assert (
        one(db, "select count(*) from public.services_catalog where org_id = %s", world.b.org) == 0
    )


@pytest.mark.parametrize(
    "isolation", [psycopg.IsolationLevel.READ_COMMITTED, psycopg.IsolationLevel.REPEATABLE_READ]
)
@pytest.mark.parametrize("activation_first", [True, False])
def test_of_activating_and_unpublishing_at_once_only_one_succeeds(
    own_db_url: str, world: World, isolation: psycopg.IsolationLevel, *, activation_first: bool
) -> None:
    with psycopg.connect(own_db_url) as db:
        # The organisation has checked its catalogue before: the row to queue at exists already.
        add_service(db, world.a, add_action(db, world.a, add_playbook(db, world.a)), active=True)
        playbook = add_playbook(db, world.a)
        service = add_service(db, world.a, add_action(db, world.a, playbook))
    acts = [
        ("update public.services_catalog set is_active = true where id = %s", service),
        ("update public.playbooks set status = 'archived' where id = %s", playbook),
    ]
    if not activation_first:
        acts.reverse()
    with psycopg.connect(own_db_url) as first, psycopg.connect(own_db_url) as second:
        first.isolation_level = second.isolation_level = isolation
        # Both act and neither sees the other's act; the second commits while the first holds on.
        first.execute(acts[0][0], (acts[0][1],))
        second.execute(acts[1][0], (acts[1][1],))
        settle(first)
        answer: list[str] = []

        def finish() -> None:
            try:
                second.commit()
                answer.append("done")
            except psycopg.Error as error:
                answer.append(str(error.diag.message_primary))

        thread = threading.Thread(target=finish)
        thread.start()
        wait_for_lock(own_db_url, second.info.backend_pid)
        first.commit()
        thread.join(10)
    expected = (
        "catalogue_locked"
        if isolation is psycopg.IsolationLevel.READ_COMMITTED
        else "could not serialize"
    )
    assert [a for a in answer if a.startswith(expected)], answer
    with psycopg.connect(own_db_url) as db:
        broken = one(
            db,
            "select s.is_active and p.status <> 'published'"
            " from public.services_catalog s, public.playbooks p where s.id = %s and p.id = %s",
            service,
            playbook,
        )
    assert broken is False


def wait_for_lock(url: str, pid: int) -> None:
    """Return when this session waits for a lock."""
    with psycopg.connect(url, autocommit=True) as watcher:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if one(
                watcher,
                "select coalesce(wait_event_type = 'Lock', false) from pg_stat_activity"
                " where pid = %s",
                pid,
            ):
                return
        pytest.fail("the session never waited")


# Totals


def test_a_service_costs_the_sum_of_its_actions_at_every_change_of_any_level(
    db: Connection, world: World
) -> None:
    first, second = add_playbook(db, world.a, 60, 100), add_playbook(db, world.a, 30, 50)
    a1, a2 = add_action(db, world.a, first), add_action(db, world.a, second)
    service = add_service(db, world.a, a1)
    assert totals(db, service) == (60, 100, 100)
    link(db, world.a, service, a2)
    assert totals(db, service) == (90, 150, 150)
    db.execute(
        "update public.playbook_tasks set minutes = 10, cost = 20 where playbook_id = %s", (second,)
    )
    assert totals(db, service) == (70, 120, 120)
    db.execute("update public.service_actions set complexity_factor = 1.5 where id = %s", (a1,))
    assert totals(db, service) == (100, 170, 170)
    db.execute(
        "update public.services_catalog_actions set sort_order = 9 where service_action_id = %s",
        (a1,),
    )
    assert totals(db, service) == (100, 170, 170)
    db.execute(
        f"update {LINKS} set service_action_id = %s where service_action_id = %s",
        (add_action(db, world.a), a2),
    )
    assert totals(db, service) == (90, 150, 150)
    db.execute("delete from public.playbooks where id = %s", (first,))
    assert totals(db, service) == (0, 0, 0)
    db.execute("delete from public.services_catalog_actions where service_id = %s", (service,))
    assert totals(db, service) == (0, 0, 0)


def test_a_base_price_is_the_price_whatever_the_actions_cost(db: Connection, world: World) -> None:
    service = add_service(
        db, world.a, add_action(db, world.a, add_playbook(db, world.a, 60, 100)), price=990
    )
    assert totals(db, service) == (60, 100, 990)
    db.execute("update public.services_catalog set base_price = null where id = %s", (service,))
    assert totals(db, service) == (60, 100, 100)


def test_totals_of_a_service_cannot_be_typed(db: Connection, world: World) -> None:
    service = add_service(db, world.a, add_action(db, world.a, add_playbook(db, world.a)))
    with refused("totals_are_derived"):
        db.execute("update public.services_catalog set total_cost = 1 where id = %s", (service,))


def test_a_playbook_changed_by_who_cannot_see_services_still_moves_their_totals(
    db: Connection, world: World
) -> None:
    playbook = add_playbook(db, world.a, 60, 100)
    service = add_service(db, world.a, add_action(db, world.a, playbook))
    with as_member(db, world.a, "ops"):
        db.execute(
            "update public.playbook_tasks set minutes = 5, cost = 7 where playbook_id = %s",
            (playbook,),
        )
    assert totals(db, service) == (5, 7, 7)


def test_linking_an_action_while_its_cost_changes_loses_neither(
    own_db_url: str, world: World
) -> None:
    with psycopg.connect(own_db_url) as db:
        playbook = add_playbook(db, world.a, 60, 100)
        action, service = add_action(db, world.a, playbook), add_service(db, world.a)
    with psycopg.connect(own_db_url) as linker, psycopg.connect(own_db_url) as changer:
        link(linker, world.a, service, action)

        def change() -> None:
            changer.execute(
                "update public.playbook_tasks set cost = 70 where playbook_id = %s", (playbook,)
            )
            changer.commit()

        thread = threading.Thread(target=change)
        thread.start()
        wait_for_lock(own_db_url, changer.info.backend_pid)
        linker.commit()
        thread.join(10)
    with psycopg.connect(own_db_url) as db:
        assert totals(db, service) == (60, 70, 70)


def test_set_service_actions_replaces_the_last_link_of_an_active_service(
    db: Connection, world: World
) -> None:
    old, new, other = (add_action(db, world.a, add_playbook(db, world.a)) for _ in range(3))
    service = add_service(db, world.a, old, active=True)
    with as_member(db, world.a, "sales"):
        db.execute(
            "select * from public.set_service_actions(%s, %s, %s)",
            (world.a.org, service, [new, other]),
        )
        settle(db)
        rows = db.execute(
            f"select service_action_id from {LINKS} where service_id = %s order by sort_order",
            (service,),
        ).fetchall()
    assert [row[0] for row in rows] == [new, other]
    with as_member(db, world.a, "sales"), refused("catalogue_locked"):
        db.execute("select * from public.set_service_actions(%s, %s, '{}')", (world.a.org, service))
        settle(db)


def test_set_service_actions_is_for_those_who_write_growth_and_for_services_that_exist(
    db: Connection, world: World
) -> None:
    service = add_service(db, world.a)
    with as_member(db, world.a, "ops"), refused("not_allowed"):
        db.execute("select * from public.set_service_actions(%s, %s, '{}')", (world.a.org, service))
    with as_member(db, world.b, "admin"), refused("service_not_found"):
        db.execute("select * from public.set_service_actions(%s, %s, '{}')", (world.b.org, service))


# Content of a service's page

GOOD_CONTENT = {
    "hero": {"title": "Vigia 24h", "subtitle": "Sempre", "image": "/img/hero.png"},
    "whyItMatters": {"text": "Porque importa"},
    "useCases": [{"title": "Bancos", "description": "…"}],
    "metrics": [{"label": "SLA", "value": "99,9 %"}],
    "process": [{"title": "Diagnóstico"}],
    "cta": {"label": "Fale conosco", "href": "/contato"},
}


def test_content_with_all_six_sections_is_stored(db: Connection, world: World) -> None:
    service = add_service(db, world.a)
    db.execute(
        "update public.services_catalog set content_json = %s where id = %s",
        (json.dumps(GOOD_CONTENT), service),
    )
    assert (
        one(db, "select content_json from public.services_catalog where id = %s", service)
        == GOOD_CONTENT
    )


@pytest.mark.parametrize(
    "content",
    [
        [],
        None,
        {"footer": {}},
        {"hero": {}},
        {"hero": {"title": " "}},
        {"hero": {"title": "x", "image": "javascript:alert(1)"}},
        {"hero": {"title": "x", "html": "<b>"}},
        {"whyItMatters": "text"},
        {"useCases": {"title": "x"}},
        {"useCases": [{"description": "x"}]},
        {"metrics": [{"label": "SLA", "value": 99}]},
        {"process": ["step"]},
        {"process": [{"title": "x"}] * 51},
        {"cta": {"label": "x", "href": "javascript:alert(1)"}},
        {"cta": {"label": "x", "href": "//evil.example"}},
        {"cta": {"label": "x"}},
    ],
)
def test_content_of_another_shape_is_refused(db: Connection, world: World, content: object) -> None:
    service = add_service(db, world.a)
    with pytest.raises(psycopg.errors.CheckViolation), db.transaction():
        db.execute(
            "update public.services_catalog set content_json = %s where id = %s",
            (json.dumps(content), service),
        )


# Posts, cases, pages


def add_post(db: Connection, org: Org, **columns: object) -> UUID:
    row = {
        "org_id": org.org,
        "title": "Notícia",
        "slug": f"n-{uuid4()}",
        "content_markdown": "texto",
        **columns,
    }
    names, marks = ", ".join(row), ", ".join(["%s"] * len(row))
    return UUID(
        str(
            one(
                db,
                f"insert into public.public_posts ({names}) values ({marks}) returning id",
                *row.values(),
            )
        )
    )


def published_at(db: Connection, post: UUID) -> str | None:
    moment: str | None = one(
        db,
        "select to_char(published_at at time zone 'UTC', 'MM-DD HH24:MI')"
        " from public.public_posts where id = %s",
        post,
    )
    return moment


def test_the_moment_of_first_publication_never_changes(db: Connection, world: World) -> None:
    post = add_post(db, world.a)
    assert published_at(db, post) is None
    for moment, status in (
        ("2026-03-01T12:00Z", "published"),
        ("2026-03-02T12:00Z", "draft"),
        ("2026-03-03T12:00Z", "published"),
    ):
        set_clock(db, moment)
        db.execute("update public.public_posts set status = %s where id = %s", (status, post))
        assert published_at(db, post) == "03-01 12:00"
    for value in ("2020-01-01T00:00Z", None):
        with refused("published_at_fixed"):
            db.execute(
                "update public.public_posts set published_at = %s where id = %s", (value, post)
            )
    set_clock(db, None)


def test_a_draft_has_no_moment_of_publication_and_an_import_may_keep_its_own(
    db: Connection, world: World
) -> None:
    assert published_at(db, add_post(db, world.a, published_at="2020-01-01T00:00Z")) is None
    assert (
        published_at(
            db, add_post(db, world.a, status="published", published_at="2020-01-01T00:00Z")
        )
        == "01-01 00:00"
    )


def test_a_scheduled_post_has_a_moment_and_a_published_one_a_text(
    db: Connection, world: World
) -> None:
    for bad in (
        {"status": "scheduled"},
        {"status": "published", "content_markdown": " "},
        {"slug": "Não é"},
    ):
        with pytest.raises(psycopg.errors.CheckViolation), db.transaction():
            add_post(db, world.a, **bad)


def test_a_published_post_is_not_scheduled(db: Connection, world: World) -> None:
    post = add_post(db, world.a, status="published")
    with refused("post_move_refused"):
        db.execute(
            "update public.public_posts set status = 'scheduled', publish_at = now() where id = %s",
            (post,),
        )


def test_the_job_publishes_what_is_due_once_and_leaves_the_rest(
    db: Connection, world: World
) -> None:
    due = add_post(db, world.a, status="scheduled", publish_at="2026-03-01T12:00Z")
    later = add_post(db, world.a, status="scheduled", publish_at="2026-03-01T12:01Z")
    foreign = add_post(db, world.b, status="scheduled", publish_at="2026-03-01T11:00Z")
    db.execute("update public.organizations set status = 'suspended' where id = %s", (world.b.org,))
    set_clock(db, "2026-03-01T12:00Z")
    with as_worker(db):
        assert one(db, "select app.org_ids_with_due_posts()") == [world.a.org]
        job = "select app.publish_scheduled_posts(%s)"
        assert [one(db, job, world.a.org) for _ in range(2)] == [1, 0]
        assert one(db, "select app.org_ids_with_due_posts()") == []
    set_clock(db, None)
    states = dict(
        db.execute(
            "select id, status from public.public_posts where id = any(%s)",
            ([due, later, foreign],),
        ).fetchall()
    )
    assert states == {due: "published", later: "scheduled", foreign: "scheduled"}
    assert (
        one(
            db,
            "select count(*) from public.module_events"
            " where event_type = 'post.published' and entity_id = %s",
            due,
        )
        == 1
    )


def add_case(db: Connection, org: Org, **columns: object) -> UUID:
    row = {
        "org_id": org.org,
        "title": "Banco protegido",
        "slug": f"c-{uuid4()}",
        "raw_data": "segredo do cliente",
        "summary": "Resumo",
        "content_markdown": "Conteúdo",
        **columns,
    }
    names, marks = ", ".join(row), ", ".join(["%s"] * len(row))
    return UUID(
        str(
            one(
                db,
                f"insert into public.success_cases ({names}) values ({marks}) returning id",
                *row.values(),
            )
        )
    )


def test_cases_emit_the_events_of_the_requirement(db: Connection, world: World) -> None:
    case = add_case(db, world.a)
    db.execute("update public.success_cases set summary = 'Outro' where id = %s", (case,))
    rows = db.execute(
        "select module, event_type, payload from public.module_events where entity_id = %s", (case,)
    ).fetchall()
    assert sorted(row[:2] for row in rows) == [
        ("growth", "case.created"),
        ("growth", "case.updated"),
    ]
    assert "segredo" not in str(rows)


def test_a_case_is_published_only_with_summary_and_content(db: Connection, world: World) -> None:
    with pytest.raises(psycopg.errors.CheckViolation), db.transaction():
        add_case(db, world.a, is_published=True, content_markdown=None)


def test_a_client_is_named_only_with_the_day_of_his_consent(db: Connection, world: World) -> None:
    with pytest.raises(psycopg.errors.CheckViolation), db.transaction():
        add_case(db, world.a, public_client_name="Banco X")
    add_case(db, world.a, public_client_name="Banco X", client_consented_on="2026-01-01")


def test_a_case_gives_one_draft_post_without_its_raw_data(db: Connection, world: World) -> None:
    case = add_case(db, world.a, slug="banco")
    add_post(db, world.a, slug="banco")
    with as_member(db, world.a, "sales") as person:
        first = db.execute(
            "select id, slug, status, content_markdown, author_id from public.case_to_post(%s)",
            (case,),
        ).fetchone()
        second = db.execute("select id from public.case_to_post(%s)", (case,)).fetchone()
    assert first is not None
    assert second is not None
    assert first[1:] == ("banco-2", "draft", "Resumo\n\nConteúdo", person)
    assert second[0] == first[0]


def test_a_case_becomes_a_post_only_for_who_may_write_it(db: Connection, world: World) -> None:
    case = add_case(db, world.a)
    with as_member(db, world.b, "admin"), refused("case_not_found"):
        db.execute("select public.case_to_post(%s)", (case,))
    db.execute(
        "insert into public.org_role_permissions (org_id, role, module, read_scope, write_scope)"
        " values (%s, 'ops', 'growth', 'all', 'none')",
        (world.a.org,),
    )
    with as_member(db, world.a, "ops"), refused("not_allowed"):
        db.execute("select public.case_to_post(%s)", (case,))


def test_fixed_pages_are_the_six_of_the_site(db: Connection, world: World) -> None:
    for slug in ("privacidade", "termos", "lgpd", "cookies", "compliance", "certificacoes"):
        db.execute(
            "insert into public.static_pages (org_id, slug, title) values (%s, %s, 'Página')",
            (world.a.org, slug),
        )
    with pytest.raises(psycopg.errors.CheckViolation), db.transaction():
        db.execute(
            "insert into public.static_pages (org_id, slug, title) values (%s, 'sobre', 'Página')",
            (world.a.org,),
        )


# What visitors see


def test_a_visitor_reads_active_services_without_price_cost_and_scope(
    db: Connection, world: World
) -> None:
    shown = add_service(
        db, world.a, add_action(db, world.a, add_playbook(db, world.a)), active=True
    )
    add_service(db, world.a)
    with as_anon(db):
        cursor = db.execute(
            "select * from public.public_services where org_id = %s", (world.a.org,)
        )
        columns = {column.name for column in cursor.description or []}
        assert [row[1] for row in cursor.fetchall()] == [shown]
        assert not columns & {
            "base_price",
            "technical_scope",
            "total_cost",
            "total_minutes",
            "effective_price",
        }
        for column in (
            "base_price",
            "technical_scope",
            "total_cost",
            "total_minutes",
            "effective_price",
        ):
            with denied(db):
                db.execute(f"select {column} from public.services_catalog")


def test_a_visitor_reads_only_what_is_published(db: Connection, world: World) -> None:
    post = add_post(db, world.a, status="published")
    add_post(db, world.a)
    add_post(db, world.a, status="scheduled", publish_at="2020-01-01T00:00Z")
    case = add_case(db, world.a, is_published=True, client_id=world.a.client)
    add_case(db, world.a)
    db.execute(
        "insert into public.static_pages (org_id, slug, title, content_markdown, is_published)"
        " values (%(org)s, 'lgpd', 'LGPD', 'x', true), (%(org)s, 'termos', 'Termos', 'x', false)",
        {"org": world.a.org},
    )
    with as_anon(db):
        assert [
            row[0] for row in db.execute("select id from public.published_posts").fetchall()
        ] == [post]
        assert db.execute(
            "select id, public_client_name from public.published_cases"
        ).fetchall() == [(case, None)]
        assert [
            row[0] for row in db.execute("select slug from public.published_pages").fetchall()
        ] == ["lgpd"]
        assert one(db, "select count(*) from public.public_posts where status <> 'published'") == 0
        for column in ("raw_data", "client_id", "contract_id", "client_consented_on"):
            with denied(db):
                db.execute(f"select {column} from public.success_cases")
        for table in ("brand_assets", "services_catalog_actions"):
            with denied(db):
                db.execute(f"select * from public.{table}")


def test_an_inactive_organisation_shows_nothing(db: Connection, world: World) -> None:
    add_post(db, world.a, status="published")
    add_service(db, world.a, add_action(db, world.a, add_playbook(db, world.a)), active=True)
    db.execute("update public.organizations set status = 'inactive' where id = %s", (world.a.org,))
    with as_anon(db):
        for view in ("public_services", "published_posts", "published_cases", "published_pages"):
            assert one(db, f"select count(*) from public.{view}") == 0
        with refused("organization_not_found"):
            db.execute("select public.get_organization_profile('alfa')")


def test_a_visitor_reads_one_public_profile_by_its_slug(db: Connection, world: World) -> None:
    db.execute(
        "update public.organizations set vertical = 'segurança',"
        ' settings = settings || \'{"site_tagline": "Sempre alerta"}\' where id = %s',
        (world.a.org,),
    )
    with as_anon(db):
        profile = one(db, "select public.get_organization_profile('alfa')")
        assert set(profile) == {"id", "name", "slug", "vertical", "locale", "settings"}
        assert (profile["id"], profile["slug"], profile["vertical"]) == (
            str(world.a.org),
            "alfa",
            "segurança",
        )
        assert profile["settings"]["site_tagline"] == "Sempre alerta"
        assert all(key.startswith("site_") for key in profile["settings"])
        for nobody in ("nobody", "", "%", None):
            with refused("organization_not_found") as answer:
                db.execute("select public.get_organization_profile(%s)", (nobody,))
            assert answer.status == 404
        with denied(db):
            db.execute("select slug from public.organizations")


def test_a_member_of_another_organisation_sees_nothing_of_the_drafts(
    db: Connection, world: World
) -> None:
    add_post(db, world.a)
    add_case(db, world.a)
    add_service(db, world.a)
    with as_member(db, world.b, "admin"):
        for table in ("public_posts", "success_cases", "services_catalog"):
            assert one(db, f"select count(*) from public.{table}") == 0
