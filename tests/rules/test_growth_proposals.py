"""Proposals: numbers, locked content, versions, acceptance; NPS and upsell alerts."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.people import (
    WORLD,
    Connection,
    Org,
    World,
    as_client,
    as_member,
    as_worker,
    denied,
    refused,
    set_clock,
)
from tests.rules.test_growth_site import (
    add_action,
    add_playbook,
    add_service,
    one,
    wait_for_lock,
)

CNPJ = "11222333000181"
PROPOSAL = "insert into public.proposals (org_id, client_id, title) values (%s, %s, 'Vigilância')"


def add_lead(db: Connection, org: Org) -> UUID:
    return UUID(
        str(
            one(
                db,
                "insert into public.leads (org_id, name, email, company)"
                " values (%s, 'Ana', 'ana@example.com', 'Ana Ltda') returning id",
                org.org,
            )
        )
    )


def add_proposal(
    db: Connection, org: Org, *items: tuple[UUID, float, float], lead: UUID | None = None
) -> UUID:
    """Draft a proposal with items (service, quantity, unit price)."""
    proposal = one(
        db,
        "insert into public.proposals (org_id, client_id, lead_id, title)"
        " values (%s, %s, %s, 'Vigilância') returning id",
        org.org,
        None if lead else org.client,
        lead,
    )
    for service, quantity, price in items:
        add_item(db, org, proposal, service, quantity, price)
    return UUID(str(proposal))


def add_item(  # noqa: PLR0913, PLR0917 (a row has so many columns)
    db: Connection,
    org: Org,
    proposal: object,
    service: UUID,
    quantity: float = 1,
    price: float | None = None,
) -> UUID:
    return UUID(
        str(
            one(
                db,
                "insert into public.proposal_items"
                " (org_id, proposal_id, service_id, quantity, unit_price)"
                " values (%s, %s, %s, %s, %s) returning id",
                org.org,
                proposal,
                service,
                quantity,
                price,
            )
        )
    )


def live_service(db: Connection, org: Org, costs: Sequence[float] = (100,)) -> UUID:
    """Add an active service of the catalogue with one action per cost."""
    actions = [add_action(db, org, add_playbook(db, org, 60, cost)) for cost in costs]
    return add_service(db, org, *actions, active=True)


def move(db: Connection, proposal: UUID, *states: str) -> None:
    for state in states:
        db.execute("update public.proposals set status = %s where id = %s", (state, proposal))


def sent(db: Connection, org: Org, *, lead: UUID | None = None, price: float = 500) -> UUID:
    proposal = add_proposal(db, org, (live_service(db, org), 1, price), lead=lead)
    move(db, proposal, "review", "sent")
    return proposal


def column(db: Connection, name: str, proposal: object) -> Any:
    return one(db, f"select {name} from public.proposals where id = %s", proposal)


# Numbers and versions


def test_numbers_count_up_per_organisation_and_year(db: Connection, world: World) -> None:
    set_clock(db, "2026-12-31T23:30:00-03:00")
    numbers = [column(db, "number", add_proposal(db, org)) for org in (world.a, world.a, world.b)]
    set_clock(db, "2027-01-01T00:30:00-03:00")
    numbers.append(column(db, "number", add_proposal(db, world.a)))
    set_clock(db, None)
    assert numbers == ["PROP-2026-001", "PROP-2026-002", "PROP-2026-001", "PROP-2027-001"]


def test_a_number_cannot_be_chosen_or_changed(db: Connection, world: World) -> None:
    set_clock(db, "2026-03-01T12:00:00-03:00")
    proposal = one(
        db,
        "insert into public.proposals (org_id, client_id, title, number, version)"
        " values (%s, %s, 'Vigilância', 'PROP-2020-777', 9) returning id",
        world.a.org,
        world.a.client,
    )
    set_clock(db, None)
    assert (column(db, "number", proposal), column(db, "version", proposal)) == ("PROP-2026-001", 1)
    for change in ("number = 'X'", "version = 2"):
        with refused("proposal_locked"):
            db.execute(f"update public.proposals set {change} where id = %s", (proposal,))


def test_twenty_concurrent_writers_leave_no_gap_and_no_double(
    own_db_url: str, world: World
) -> None:
    writers, rounds = 20, 5
    start = threading.Barrier(writers)

    def write(writer: int) -> int:
        kept = 0
        with psycopg.connect(own_db_url) as session:
            start.wait()
            for turn in range(rounds):
                session.execute(PROPOSAL, (world.a.org, world.a.client))
                if (writer + turn) % 3 == 0:
                    session.rollback()
                else:
                    session.commit()
                    kept += 1
        return kept

    with ThreadPoolExecutor(writers) as pool:
        kept = sum(pool.map(write, range(writers)))
    with psycopg.connect(own_db_url) as db:
        rows = db.execute("select split_part(number, '-', 3)::int from public.proposals").fetchall()
    assert 0 < kept < writers * rounds
    assert sorted(row[0] for row in rows) == list(range(1, kept + 1))


def test_a_proposal_is_never_deleted_by_a_member(db: Connection, world: World) -> None:
    proposal = add_proposal(db, world.a)
    with as_member(db, world.a, "owner"), denied(db):
        db.execute("delete from public.proposals where id = %s", (proposal,))


def test_a_proposal_is_valid_for_thirty_days_of_its_organisation(
    db: Connection, world: World
) -> None:
    set_clock(db, "2026-03-31T23:30:00-03:00")
    proposal = add_proposal(db, world.a)
    set_clock(db, None)
    assert str(column(db, "valid_until", proposal)) == "2026-04-30"


def test_a_proposal_is_for_somebody_and_begins_as_draft(db: Connection, world: World) -> None:
    with pytest.raises(psycopg.errors.CheckViolation), db.transaction():
        db.execute(PROPOSAL, (world.a.org, None))
    with refused("proposal_move_refused"):
        db.execute(
            "insert into public.proposals (org_id, client_id, title, status)"
            " values (%s, %s, 'Vigilância', 'sent')",
            (world.a.org, world.a.client),
        )
    with refused("user_not_member"):
        db.execute(
            "insert into public.proposals (org_id, client_id, title, owner_id)"
            " values (%s, %s, 'Vigilância', %s)",
            (world.a.org, world.a.client, world.stranger),
        )


# Items and totals


def test_an_item_takes_name_price_and_minutes_from_its_service(
    db: Connection, world: World
) -> None:
    service, proposal = live_service(db, world.a, (100, 50)), add_proposal(db, world.a)
    item = add_item(db, world.a, proposal, service, 2)
    row = db.execute(
        "select description, unit_price, minutes, amount from public.proposal_items where id = %s",
        (item,),
    ).fetchone()
    assert row == ("Vigilância", Decimal("150.00"), 120, Decimal("300.00"))


def test_totals_follow_every_change_of_the_items(db: Connection, world: World) -> None:
    service = live_service(db, world.a)
    proposal, other = (
        add_proposal(db, world.a, (service, 1, 100), (service, 0.5, 99.99)),
        add_proposal(db, world.a),
    )

    def totals(of: UUID) -> tuple[str, int]:
        return str(column(db, "total", of)), column(db, "total_minutes", of)

    assert totals(proposal) == ("150.00", 90)
    db.execute("update public.proposal_items set quantity = 2 where unit_price = 100")
    assert totals(proposal) == ("250.00", 150)
    db.execute("update public.proposal_items set proposal_id = %s where unit_price = 100", (other,))
    assert (totals(proposal), totals(other)) == (("50.00", 30), ("200.00", 120))
    db.execute("delete from public.proposal_items where proposal_id = %s", (proposal,))
    assert totals(proposal) == ("0.00", 0)
    with refused("totals_are_derived"):
        db.execute("update public.proposals set total = 1 where id = %s", (other,))


def test_a_quantity_below_a_tenth_and_a_negative_price_are_refused(
    db: Connection, world: World
) -> None:
    service, proposal = live_service(db, world.a), add_proposal(db, world.a)
    for quantity, price in ((0.05, 1), (1, -1)):
        with pytest.raises(psycopg.errors.CheckViolation), db.transaction():
            add_item(db, world.a, proposal, service, quantity, price)


# Sending and the lock on what was sent


def test_what_is_sent_has_items_of_active_services_and_is_still_valid(
    db: Connection, world: World
) -> None:
    empty, idle = (
        add_proposal(db, world.a),
        add_proposal(db, world.a, (add_service(db, world.a), 1, 10)),
    )
    late = add_proposal(db, world.a, (live_service(db, world.a), 1, 10))
    db.execute("update public.proposals set valid_until = '2020-01-01' where id = %s", (late,))
    for proposal, reason in ((empty, "no item"), (idle, "not active"), (late, "2020-01-01")):
        move(db, proposal, "review")
        with refused("proposal_incomplete") as answer:
            move(db, proposal, "sent")
        assert reason in answer.detail


@pytest.mark.parametrize(
    "state", ["sent", "negotiation", "refused", "expired", "cancelled", "accepted"]
)
def test_content_is_locked_once_it_was_sent(db: Connection, world: World, state: str) -> None:
    proposal, service = sent(db, world.a), live_service(db, world.a)
    if state != "sent":
        move(db, proposal, state)
    for change in (
        "title = 'Outro título'",
        "scope = 'x'",
        "assumptions = 'x'",
        "valid_until = valid_until + 1",
        "starts_on = '2030-01-01'",
    ):
        with refused("proposal_locked"):
            db.execute(f"update public.proposals set {change} where id = %s", (proposal,))
    with refused("proposal_locked"):
        db.execute(
            "update public.proposals set client_id = %s where id = %s",
            (world.a.other_client, proposal),
        )
    with refused("proposal_locked"):
        add_item(db, world.a, proposal, service)
    for act in (
        "update public.proposal_items set quantity = 3",
        "delete from public.proposal_items",
    ):
        with refused("proposal_locked"):
            db.execute(f"{act} where proposal_id = %s", (proposal,))
    draft = add_proposal(db, world.a, (service, 1, 1))
    with refused("proposal_locked"):
        db.execute(
            "update public.proposal_items set proposal_id = %s where proposal_id = %s",
            (proposal, draft),
        )
    # Who answers for it, and why it was refused, is no content.
    db.execute(
        "update public.proposals set owner_id = %s, refusal_reason = 'preço' where id = %s",
        (world.a.member("sales"), proposal),
    )


def test_an_item_added_while_the_proposal_is_being_sent_is_refused(
    own_db_url: str, world: World
) -> None:
    with psycopg.connect(own_db_url) as db:
        service = live_service(db, world.a)
        proposal = add_proposal(db, world.a, (service, 1, 10))
        move(db, proposal, "review")
    answer: list[str] = []
    with psycopg.connect(own_db_url) as sender, psycopg.connect(own_db_url) as editor:
        move(sender, proposal, "sent")

        def edit() -> None:
            try:
                add_item(editor, world.a, proposal, service)
            except psycopg.Error as error:
                answer.append(str(error.diag.message_primary))

        thread = threading.Thread(target=edit)
        thread.start()
        wait_for_lock(own_db_url, editor.info.backend_pid)
        sender.commit()
        thread.join(10)
    assert answer == ["proposal_locked"]


def test_moves_outside_the_machine_are_refused(db: Connection, world: World) -> None:
    proposal = add_proposal(db, world.a, (live_service(db, world.a), 1, 10))
    for state in ("sent", "accepted", "negotiation"):
        with refused("proposal_move_refused"):
            move(db, proposal, state)
    move(db, proposal, "cancelled")
    with refused("proposal_move_refused"):
        move(db, proposal, "draft")


# Versions


def test_a_revision_is_the_next_version_with_the_same_number_and_items(
    db: Connection, world: World
) -> None:
    proposal = sent(db, world.a, price=500)
    with as_member(db, world.a, "sales"):
        new = one(db, "select (public.revise_proposal(%s)).id", proposal)
        assert one(db, "select (public.revise_proposal(%s)).id", proposal) == new
    assert (column(db, "version", new), column(db, "status", new)) == (2, "draft")
    assert column(db, "number", new) == column(db, "number", proposal)
    assert column(db, "total", new) == Decimal("500.00")
    assert (column(db, "status", proposal), column(db, "decided_at is not null", proposal)) == (
        "cancelled",
        True,
    )


def test_a_revision_of_a_refused_one_leaves_it_refused(db: Connection, world: World) -> None:
    proposal = sent(db, world.a)
    move(db, proposal, "refused")
    db.execute("select public.revise_proposal(%s)", (proposal,))
    assert column(db, "status", proposal) == "refused"


def test_a_draft_or_an_accepted_proposal_is_not_revised(db: Connection, world: World) -> None:
    with refused("proposal_not_revisable"):
        db.execute("select public.revise_proposal(%s)", (add_proposal(db, world.a),))
    accepted = sent(db, world.a)
    move(db, accepted, "accepted")
    with refused("proposal_not_revisable"):
        db.execute("select public.revise_proposal(%s)", (accepted,))


def test_a_number_has_one_open_version_even_when_written_by_hand(
    db: Connection, world: World
) -> None:
    proposal = sent(db, world.a)
    with pytest.raises(psycopg.errors.UniqueViolation), db.transaction():
        db.execute(
            "insert into public.proposals (org_id, client_id, title, previous_id)"
            " values (%s, %s, 'Vigilância', %s)",
            (world.a.org, world.a.client, proposal),
        )


# Acceptance


def contract_items(db: Connection, contract: UUID) -> list[tuple[Decimal, Decimal]]:
    return db.execute(
        "select quantity, unit_price from public.contract_items where contract_id = %s"
        " order by unit_price, id",
        (contract,),
    ).fetchall()


def test_an_accepted_proposal_is_a_draft_contract_with_its_items(
    db: Connection, world: World
) -> None:
    set_clock(db, "2026-03-10T12:00:00-03:00")
    three, free = live_service(db, world.a, (100, 100, 100)), live_service(db, world.a, (0, 0))
    uneven = live_service(db, world.a, (10, 30))
    proposal = add_proposal(db, world.a, (three, 2, 100), (free, 1, 0.01), (uneven, 1, 400))
    db.execute("update public.proposals set starts_on = '2026-04-01' where id = %s", (proposal,))
    move(db, proposal, "review", "sent", "negotiation")
    with as_member(db, world.a, "director"):
        row = db.execute(
            "select id, status, mrr, client_id, title, starts_on::text, included_hours, proposal_id"
            " from public.accept_proposal(%s)",
            (proposal,),
        ).fetchone()
        again = one(db, "select id from public.accept_proposal(%s)", proposal)
    set_clock(db, None)
    assert row is not None
    assert row[1:] == (
        "draft",
        Decimal("600.01"),
        world.a.client,
        "Vigilância",
        "2026-04-01",
        Decimal("10.00"),
        proposal,
    )
    assert again == row[0]
    assert one(db, "select count(*) from public.contracts where proposal_id = %s", proposal) == 1
    items = contract_items(db, row[0])
    assert sum(quantity * price for quantity, price in items) == Decimal("600.01")
    prices = [str(price) for _quantity, price in items]
    assert prices == ["0.00", "0.01", "33.33", "33.33", "33.34", "100.00", "300.00"]
    assert column(db, "status", proposal) == "accepted"


def test_a_proposal_accepted_by_its_status_gets_its_contract_too(
    db: Connection, world: World
) -> None:
    proposal = sent(db, world.a)
    with as_member(db, world.a, "admin"):
        move(db, proposal, "accepted")
    assert one(db, "select mrr from public.contracts where proposal_id = %s", proposal) == 500


def test_who_sells_but_may_not_write_contracts_does_not_accept(
    db: Connection, world: World
) -> None:
    proposal = sent(db, world.a)
    with as_member(db, world.a, "sales"):
        with refused("not_allowed"):
            db.execute("select public.accept_proposal(%s)", (proposal,))
        with refused("not_allowed"):
            move(db, proposal, "accepted")
        move(db, proposal, "negotiation")


def test_accepting_converts_the_lead_once(db: Connection, world: World) -> None:
    lead = add_lead(db, world.a)
    proposal = sent(db, world.a, lead=lead)
    with as_member(db, world.a, "admin"):
        with refused("proposal_without_client"):
            db.execute("select public.accept_proposal(%s)", (proposal,))
        with refused("client_document_invalid"):
            db.execute("select public.accept_proposal(%s, '123')", (proposal,))
        client = one(db, "select client_id from public.accept_proposal(%s, %s)", proposal, CNPJ)
        assert (
            one(db, "select client_id from public.accept_proposal(%s, %s)", proposal, CNPJ)
            == client
        )
    assert one(db, "select document from public.clients where id = %s", client) == CNPJ
    assert one(db, "select status from public.leads where id = %s", lead) == "won"
    assert column(db, "client_id", proposal) == client
    # A second proposal to the same lead finds the client by itself.
    second = sent(db, world.a, lead=lead)
    with as_member(db, world.a, "admin"):
        assert one(db, "select client_id from public.accept_proposal(%s)", second) == client


def test_a_proposal_is_accepted_on_its_last_day_and_not_after(db: Connection, world: World) -> None:
    set_clock(db, "2026-03-01T12:00:00-03:00")
    first, second = sent(db, world.a), sent(db, world.a)
    set_clock(db, "2026-03-31T23:59:00-03:00")
    db.execute("select public.accept_proposal(%s)", (first,))
    set_clock(db, "2026-04-01T00:00:00-03:00")
    with refused("proposal_expired"):
        db.execute("select public.accept_proposal(%s)", (second,))
    set_clock(db, None)


def test_what_was_not_sent_is_not_accepted(db: Connection, world: World) -> None:
    lead = add_lead(db, world.a)
    proposal = add_proposal(db, world.a, (live_service(db, world.a), 1, 10), lead=lead)
    with refused("proposal_move_refused"):
        db.execute("select public.accept_proposal(%s, %s)", (proposal, CNPJ))
    assert one(db, "select status from public.leads where id = %s", lead) == "new"


def test_a_foreign_or_unknown_proposal_is_not_found(db: Connection, world: World) -> None:
    proposal = sent(db, world.a)
    with as_member(db, world.b, "admin"):
        for act in ("accept_proposal", "revise_proposal"):
            for what in (proposal, uuid4()):
                with refused("proposal_not_found"):
                    db.execute(f"select public.{act}(%s)", (what,))


def test_a_deleted_draft_contract_is_not_made_again_in_silence(
    db: Connection, world: World
) -> None:
    proposal = sent(db, world.a)
    move(db, proposal, "accepted")
    db.execute("delete from public.contracts where proposal_id = %s", (proposal,))
    with refused("contract_not_found"):
        db.execute("select public.accept_proposal(%s)", (proposal,))


def test_a_contract_linked_to_the_proposal_by_hand_is_its_contract(
    db: Connection, world: World
) -> None:
    proposal, contract = sent(db, world.a), add_contract(db, world.a)
    db.execute("update public.contracts set proposal_id = %s where id = %s", (proposal, contract))
    assert one(db, "select id from public.accept_proposal(%s)", proposal) == contract
    assert one(db, "select count(*) from public.contracts where proposal_id = %s", proposal) == 1


@pytest.mark.parametrize("act", ["accept_proposal", "revise_proposal"])
def test_the_same_act_twice_at_once_is_done_once(own_db_url: str, world: World, act: str) -> None:
    with psycopg.connect(own_db_url) as db:
        proposal = sent(db, world.a)
    second: list[UUID] = []
    query = f"select id from public.{act}(%s)"
    with psycopg.connect(own_db_url) as mine, psycopg.connect(own_db_url) as other:
        first = one(mine, query, proposal)

        def repeat() -> None:
            second.append(one(other, query, proposal))
            other.commit()

        thread = threading.Thread(target=repeat)
        thread.start()
        wait_for_lock(own_db_url, other.info.backend_pid)
        mine.commit()
        thread.join(10)
    assert second == [first]


def test_events_tell_the_life_of_a_proposal(db: Connection, world: World) -> None:
    proposal = sent(db, world.a)
    move(db, proposal, "accepted")
    events = db.execute(
        "select distinct event_type from public.module_events"
        " where entity_id = %s and module = 'growth'",
        (proposal,),
    ).fetchall()
    assert {event[0].split(".")[1] for event in events} == {
        "created",
        "updated",
        "review",
        "sent",
        "accepted",
    }


# The job that expires


def test_the_job_expires_open_proposals_the_day_after_their_last(
    db: Connection, world: World
) -> None:
    set_clock(db, "2026-03-01T12:00:00-03:00")
    open_one, draft, foreign = sent(db, world.a), add_proposal(db, world.a), sent(db, world.b)
    negotiated = sent(db, world.a)
    move(db, negotiated, "negotiation")
    db.execute(
        "update public.organizations set time_zone = 'Asia/Tokyo' where id = %s", (world.b.org,)
    )
    # 31 March 23:30 in São Paulo, 1 April in Tokyo.
    set_clock(db, "2026-03-31T23:30:00-03:00")
    job = "select app.expire_proposals(%s)"
    with as_worker(db):
        assert (one(db, job, world.a.org), one(db, job, world.b.org)) == (0, 1)
    set_clock(db, "2026-04-01T00:00:00-03:00")
    with as_worker(db):
        assert (one(db, job, world.a.org), one(db, job, world.a.org)) == (2, 0)
    set_clock(db, None)
    states = [column(db, "status", each) for each in (open_one, negotiated, foreign, draft)]
    assert states == ["expired", "expired", "expired", "draft"]


# Access


def test_the_portal_and_other_areas_see_no_proposal(db: Connection, world: World) -> None:
    sent(db, world.a)
    db.execute(
        "insert into public.client_nps (org_id, client_id, score) values (%s, %s, 9)",
        (world.a.org, world.a.client),
    )
    for table in ("proposals", "proposal_items", "client_nps"):
        with as_client(db, world.a):
            assert one(db, f"select count(*) from public.{table}") == 0
        with as_member(db, world.a, "ops"):
            assert one(db, f"select count(*) from public.{table}") == 0
        with as_member(db, world.a, "sales"):
            assert one(db, f"select count(*) from public.{table}") == 1


# NPS and upsell


def add_contract(  # noqa: PLR0913 (a row has so many columns)
    db: Connection,
    org: Org,
    hours: float | None = 100,
    storage: float | None = None,
    *,
    client: UUID | None = None,
    status: str = "active",
) -> UUID:
    return UUID(
        str(
            one(
                db,
                "insert into public.contracts (org_id, client_id, title, status, mrr,"
                " included_hours, storage_included_gb, starts_on)"
                " values (%s, %s, 'Contrato', %s, 1000, %s, %s, '2026-01-01') returning id",
                org.org,
                client or org.client,
                status,
                hours,
                storage,
            )
        )
    )


def work(db: Connection, org: Org, contract: UUID, hours: float, month: str = "2026-03-01") -> None:
    db.execute(
        "insert into public.performance_metrics (org_id, contract_id, month, hours_worked, source)"
        " values (%s, %s, %s, %s, 'manual')"
        " on conflict (org_id, contract_id, month)"
        " do update set hours_worked = excluded.hours_worked",
        (org.org, contract, month, hours),
    )


def store(db: Connection, org: Org, contract: UUID, gigabytes: float, day: str) -> None:
    db.execute(
        "insert into public.indicators (org_id, source, contract_id, metric_type, value, unit,"
        " period, idempotency_key) values (%s, 'Infra', %s, 'storage_gb', %s, 'GB', %s, %s)",
        (org.org, contract, gigabytes, day, str(uuid4())),
    )


def answer_nps(db: Connection, org: Org, score: int, day: str) -> None:
    db.execute(
        "insert into public.client_nps (org_id, client_id, score, answered_on)"
        " values (%s, %s, %s, %s)",
        (org.org, org.client, score, day),
    )


def raised(db: Connection) -> set[tuple[UUID, str]]:
    """Run the job as the worker on 20 March 2026; what it raised."""
    alerts = "select contract_id, kind from public.upsell_alerts"
    before = set(db.execute(alerts).fetchall())
    set_clock(db, "2026-03-20T08:00:00-03:00")
    with as_worker(db):
        count = one(db, "select app.raise_upsell_alerts(%s)", WORLD.a.org)
    set_clock(db, None)
    new = set(db.execute(alerts).fetchall()) - before
    assert len(new) == count
    return new


def test_alerts_are_raised_beyond_ninety_percent_of_hours_and_eighty_of_storage_once(
    db: Connection, world: World
) -> None:
    at, beyond, full = (add_contract(db, world.a, 100, 50) for _ in range(3))
    work(db, world.a, at, 90)
    work(db, world.a, beyond, 90.01)
    store(db, world.a, at, 40, "2026-03-10")
    store(db, world.a, full, 10, "2026-03-01")
    store(db, world.a, full, 40.5, "2026-03-19")
    store(db, world.a, beyond, 50, "2026-02-28")
    assert raised(db) == {(beyond, "hours"), (full, "storage")}
    assert raised(db) == set()
    assert one(
        db, "select used_pct from public.upsell_alerts where contract_id = %s", full
    ) == Decimal("81.00")
    work(db, world.a, at, 91)
    assert raised(db) == {(at, "hours")}
    events = one(
        db, "select count(*) from public.module_events where event_type = 'upsell_alert.created'"
    )
    assert events == 3


@pytest.mark.parametrize(
    ("answers", "is_raised"),
    [
        ([(7, "2026-03-01")], True),
        ([(6, "2026-03-01")], False),
        ([(6, "2026-01-01"), (7, "2026-03-01")], True),
        ([(6, "2026-03-01"), (10, "2026-01-01")], False),
    ],
)
def test_the_last_answer_of_the_client_decides_whether_he_is_left_alone(
    db: Connection, world: World, answers: list[tuple[int, str]], *, is_raised: bool
) -> None:
    contract = add_contract(db, world.a)
    work(db, world.a, contract, 99)
    for score, day in answers:
        answer_nps(db, world.a, score, day)
    assert raised(db) == ({(contract, "hours")} if is_raised else set())


def test_no_alert_for_a_contract_out_of_force_or_without_a_limit(
    db: Connection, world: World
) -> None:
    for hours, status in ((100, "draft"), (None, "active"), (0, "active")):
        work(db, world.a, add_contract(db, world.a, hours, hours, status=status), 500)
    assert raised(db) == set()


def test_an_answer_is_dated_today_unless_it_says_so_and_never_in_the_future(
    db: Connection, world: World
) -> None:
    set_clock(db, "2026-03-31T23:30:00-03:00")
    insert = (
        "insert into public.client_nps (org_id, client_id, score)"
        " values (%s, %s, 9) returning answered_on::text"
    )
    assert one(db, insert, world.a.org, world.a.client) == "2026-03-31"
    with refused("nps_in_future"):
        answer_nps(db, world.a, 9, "2026-04-01")
    set_clock(db, None)
    with pytest.raises(psycopg.errors.CheckViolation), db.transaction():
        answer_nps(db, world.a, 11, "2026-01-01")


def test_people_answer_alerts_and_neither_write_nor_change_them(
    db: Connection, world: World
) -> None:
    contract = add_contract(db, world.a)
    work(db, world.a, contract, 99)
    assert raised(db)
    with as_member(db, world.a, "sales"):
        db.execute("update public.upsell_alerts set status = 'contacted'")
        with denied(db):
            db.execute("update public.upsell_alerts set used = 1")
        with denied(db):
            db.execute("delete from public.upsell_alerts")
        with denied(db):
            db.execute(
                "insert into public.upsell_alerts"
                " (org_id, contract_id, month, kind, used, included)"
                " values (%s, %s, '2026-03-01', 'storage', 9, 10)",
                (world.a.org, contract),
            )
        with refused("upsell_alert_move_refused"):
            db.execute("update public.upsell_alerts set status = 'open'")
        db.execute("update public.upsell_alerts set status = 'converted'")
