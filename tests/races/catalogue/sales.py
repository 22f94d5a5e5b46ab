"""From the first contact to the contract: leads, the catalogue, proposals, numbers."""

from typing import Any
from uuid import UUID

from tests.people import Connection
from tests.races.race import BOTH_COMMIT, FIRST_GIVES_UP, all_of, race, rewritten
from tests.races.sessions import Act, Stage
from tests.rules import test_contracts as contracts
from tests.rules import test_growth_proposals as proposals
from tests.rules import test_growth_site as site

CNPJ = "11.222.333/0001-81"

# Numbers

COUNTED = rewritten(
    "app.next_number(uuid, text, text)",
    (
        """insert into app.number_counters as c (org_id, kind, year, last)
    values (org, next_number.kind, v_year, 1)
    on conflict on constraint number_counters_pkey do update set last = c.last + 1
    returning c.last into v_last;""",
        """v_last := 1 + greatest(
        (select count(*) from public.proposals as p where p.org_id = org),
        (select count(*) from public.contracts as c where c.org_id = org)
    );""",
    ),
)
ADD_PROPOSAL = (
    "insert into public.proposals (org_id, client_id, title) values (%s, %s, 'Vigilância')"
    " returning split_part(number, '-', 3)"
)
ADD_CONTRACT = (
    "insert into public.contracts (org_id, client_id, title, starts_on)"
    " values (%s, %s, 'Vigilância', '2026-01-01') returning split_part(number, '-', 3)"
)


def numbers(stage: Stage, order: str, add: Act) -> list[str]:
    """Have three add at once, the first of whom may give up."""
    answers = stage.meet(add, add, add, first_gives_up=order == FIRST_GIVES_UP)
    return answers[1:] if order == FIRST_GIVES_UP else answers


@race(
    "proposal numbers",
    holds="one after the other without a gap, also when a writer gives up",
    guard="the counter is a locked row, not the number of rows there are",
    without=COUNTED,
    orders=(FIRST_GIVES_UP, BOTH_COMMIT),
    sessions=3,
)
def number_proposals(stage: Stage, order: str) -> None:
    given = numbers(
        stage, order, stage.member("director", ADD_PROPOSAL, stage.a.org, stage.a.client)
    )
    assert sorted(given) == ["001", "002", "003"][: len(given)]


@race(
    "contract numbers",
    holds="one after the other without a gap, also when a writer gives up",
    guard="the counter is a locked row, not the number of rows there are",
    without=COUNTED,
    orders=(FIRST_GIVES_UP, BOTH_COMMIT),
    sessions=3,
)
def number_contracts(stage: Stage, order: str) -> None:
    given = numbers(
        stage, order, stage.member("director", ADD_CONTRACT, stage.a.org, stage.a.client)
    )
    assert sorted(given) == ["001", "002", "003"][: len(given)]


# Leads

CONVERT = (
    "select public.convert_lead(%s, %s, contract_title => 'Vigilância', contract_mrr => 500)"
    " ->> 'contract_id'"
)
CONVERT_SIGNATURE = "public.convert_lead(uuid, text, text, text, text, numeric, date)"


@race(
    "a lead converted twice",
    holds="one client, one contract, and both are told the same",
    guard="the lock on the lead",
    without=rewritten(CONVERT_SIGNATURE, ("for update", "")),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def convert_twice(stage: Stage, order: str) -> None:
    lead = contracts.add_lead(stage.db, stage.a)
    with stage.db.transaction():
        # It is a client already: what is new is the contract.
        contracts.convert(stage.db, lead, CNPJ)
    convert = stage.member("director", CONVERT, lead, CNPJ)
    first, second = stage.meet(convert, convert, first_gives_up=order == FIRST_GIVES_UP)
    made = stage.rows("select id::text from public.contracts where lead_id = %s", lead)
    assert made == [(second,)]
    assert first == second or order == FIRST_GIVES_UP


@race(
    "two leads of one company converted at once",
    holds="one client with two contracts",
    guard="the conversion that finds the document taken takes that client",
    without=rewritten(
        CONVERT_SIGNATURE,
        (
            "values (\n            v_lead.org_id,\n            coalesce(",
            "select\n            v_lead.org_id,\n            coalesce(",
        ),
        (
            """v_lead.id
        )
        on conflict on constraint clients_org_id_document_key do nothing""",
            """v_lead.id
        where not exists (
            select from public.clients as o
            where o.org_id = v_lead.org_id and o.document = v_document
        )""",
        ),
    ),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def convert_two(stage: Stage, order: str) -> None:
    leads = [contracts.add_lead(stage.db, stage.a) for _ in range(2)]
    stage.meet(
        *(stage.member("director", CONVERT, lead, CNPJ) for lead in leads),
        first_gives_up=order == FIRST_GIVES_UP,
    )
    assert stage.rows(
        "select count(distinct c.client_id), count(*) from public.contracts as c where lead_id = any (%s)",
        leads,
    ) == [(1, 1 if order == FIRST_GIVES_UP else 2)]


# Proposals


def sent(stage: Stage) -> UUID:
    """Send a proposal to a client."""
    with stage.db.transaction():
        return proposals.sent(stage.db, stage.a)


LOCKED_PROPOSAL = rewritten("app.locked_proposal(uuid)", ("for no key update", ""))
CONTRACT_BY_THE_ACT = all_of(
    rewritten(
        "app.decide_proposal()", ("new.client_id := app.open_proposal_contract(new);", "null;")
    ),
    rewritten(
        "public.accept_proposal(uuid, text)",
        # The parts it copies are open to the trigger, not to whoever accepts.
        (" LANGUAGE plpgsql\n", " LANGUAGE plpgsql\n SECURITY DEFINER\n"),
        (
            "update public.proposals as p set status = 'accepted'",
            """v_proposal.client_id := app.open_proposal_contract(v_proposal);
        update public.proposals as p set status = 'accepted', client_id = v_proposal.client_id""",
        ),
    ),
)
ACCEPT = "select (public.accept_proposal(%s)).id::text"
REVISE = "select (public.revise_proposal(%s)).id::text"


@race(
    "a proposal revised twice",
    holds="one next version, and both are given it",
    guard="the lock on the proposal",
    without=LOCKED_PROPOSAL,
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def revise_twice(stage: Stage, order: str) -> None:
    revise = stage.member("director", REVISE, sent(stage))
    first, second = stage.meet(revise, revise, first_gives_up=order == FIRST_GIVES_UP)
    assert stage.rows(
        "select id::text from public.proposals where org_id = %s and version = 2", stage.a.org
    ) == [(second,)]
    assert first == second or order == FIRST_GIVES_UP


@race(
    "a proposal accepted twice",
    holds="one contract, and both are given it",
    guard="the contract comes with the change of the row, not with the act, and the act locks",
    without=all_of(LOCKED_PROPOSAL, CONTRACT_BY_THE_ACT),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def accept_twice(stage: Stage, order: str) -> None:
    accept = stage.member("director", ACCEPT, sent(stage))
    first, second = stage.meet(accept, accept, first_gives_up=order == FIRST_GIVES_UP)
    assert stage.rows("select id::text from public.contracts where org_id = %s", stage.a.org) == [
        (second,)
    ]
    assert first == second or order == FIRST_GIVES_UP


@race(
    "a proposal accepted while it is revised",
    holds="the first act counts and the other is refused: a contract or a new version, never both",
    guard="the lock on the proposal",
    without=LOCKED_PROPOSAL,
    orders=("accepted first", "revised first"),
)
def accept_revised(stage: Stage, order: str) -> None:
    proposal = sent(stage)
    accept, revise = (stage.member("director", call, proposal) for call in (ACCEPT, REVISE))
    if order == "accepted first":
        assert stage.meet(accept, revise)[1] == "proposal_not_revisable"
    else:
        assert stage.meet(revise, accept)[1] == "proposal_move_refused"
    assert stage.rows(
        "select (select count(*) from public.contracts where org_id = %s),"
        " (select max(version) from public.proposals where org_id = %s)",
        stage.a.org,
        stage.a.org,
    ) == [(1, 1) if order == "accepted first" else (0, 2)]


@race(
    "an item added while the proposal is sent",
    holds="what was sent is what is stored: the item is in before, or refused",
    guard="the item locks its proposal before it reads its state",
    without=rewritten("app.guard_proposal_item()", ("for no key update", "")),
    orders=("sent first", "added first"),
)
def add_to_sent(stage: Stage, order: str) -> None:
    with stage.db.transaction():
        service = proposals.live_service(stage.db, stage.a)
        proposal = proposals.add_proposal(stage.db, stage.a, (service, 1, 500))
        proposals.move(stage.db, proposal, "review")
    send = stage.member(
        "director",
        "update public.proposals set status = 'sent' where id = %s returning status",
        proposal,
    )
    add = stage.member(
        "sales",
        "insert into public.proposal_items (org_id, proposal_id, service_id, unit_price)"
        " values (%s, %s, %s, 70) returning 'added'",
        stage.a.org,
        proposal,
        service,
    )
    if order == "sent first":
        assert stage.meet(send, add) == ["sent", "proposal_locked"]
    else:
        assert stage.meet(add, send) == ["added", "sent"]
    assert stage.one("select total from public.proposals where id = %s", proposal) == (
        500 if order == "sent first" else 570
    )


@race(
    "a proposal that expires while it is accepted",
    holds="the job passes over what somebody is deciding on",
    guard="the job claims only what nobody holds",
    without=rewritten(
        "app.expire_proposals(uuid)",
        ("for no key update skip locked", ""),
    ),
    is_of_meeting=False,
)
def expire_accepted(stage: Stage, _: str) -> None:
    proposal = sent(stage)
    decider, job = stage.session("decider"), stage.session("job")
    assert decider.run(stage.member("director", ACCEPT, proposal))
    expire = stage.owner(
        "select app.expire_proposals(%s) from set_config('app.now', '2040-01-01', true)",
        stage.a.org,
    )
    job.start(expire)
    held = job.waits_for()
    decider.commit()
    job.finish()
    job.commit()
    assert not held
    assert stage.one("select status from public.proposals where id = %s", proposal) == "accepted"


# The catalogue and the site


def checked(act: Act) -> Act:
    """Run an act and, as its commit would, the checks that are left for the end, but stop before the commit."""

    def checked_act(db: Connection) -> Any:
        answer = act(db)
        db.execute("set constraints all immediate")
        return answer

    return checked_act


@race(
    "the catalogue lock from both ends",
    holds="no active service without a published playbook: whoever commits second is refused",
    guard="who checks the catalogue queues up",
    without=rewritten(
        "app.check_catalogue()",
        (
            "select o.id from public.organizations as o where o.id = v_org",
            "select o.id from public.organizations as o where o.id = v_org and false",
        ),
    ),
    orders=("archived first", "activated first"),
)
def lock_catalogue(stage: Stage, order: str) -> None:
    with stage.db.transaction():
        playbook = site.add_playbook(stage.db, stage.a)
        service = site.add_service(stage.db, stage.a, site.add_action(stage.db, stage.a, playbook))
    archive = stage.member(
        "director",
        "update public.playbooks set status = 'archived' where id = %s returning 'done'",
        playbook,
    )
    activate = stage.member(
        "director",
        "update public.services_catalog set is_active = true where id = %s returning 'done'",
        service,
    )
    acts = (archive, activate) if order == "archived first" else (activate, archive)
    assert stage.meet(*map(checked, acts)) == ["done", "catalogue_locked"]
    assert (
        stage.one(
            "select s.is_active and p.status <> 'published' from public.services_catalog as s, public.playbooks as p"
            " where s.id = %s and p.id = %s",
            service,
            playbook,
        )
        is False
    )


@race(
    "a service linked while its action's totals change",
    holds="the service costs what its actions cost now",
    guard="who links an action locks it",
    without=rewritten("app.lock_service_action()", ("for share", "")),
    orders=("changed first", "linked first"),
)
def link_changed(stage: Stage, order: str) -> None:
    with stage.db.transaction():
        playbook = site.add_playbook(stage.db, stage.a, 60, 100)
        action, service = (
            site.add_action(stage.db, stage.a, playbook),
            site.add_service(stage.db, stage.a),
        )
    change = stage.member(
        "director",
        "update public.playbook_tasks set cost = 250 where playbook_id = %s returning 'changed'",
        playbook,
    )
    link = stage.member(
        "director",
        "insert into public.services_catalog_actions (org_id, service_id, service_action_id)"
        " values (%s, %s, %s) returning 'linked'",
        stage.a.org,
        service,
        action,
    )
    acts = (change, link) if order == "changed first" else (link, change)
    assert sorted(stage.meet(*acts)) == ["changed", "linked"]
    assert site.totals(stage.db, service)[1] == 250


@race(
    "the actions of a service set by two",
    holds="the service has exactly what the second has set",
    guard="the lock on the service",
    without=rewritten("public.set_service_actions(uuid, uuid, uuid[])", ("for no key update", "")),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def set_actions(stage: Stage, order: str) -> None:
    with stage.db.transaction():
        service = site.add_service(stage.db, stage.a)
        actions = [site.add_action(stage.db, stage.a) for _ in range(2)]
    stage.meet(
        *(
            stage.member(
                "director",
                "select count(*) from public.set_service_actions(%s, %s, %s)",
                stage.a.org,
                service,
                [action],
            )
            for action in actions
        ),
        first_gives_up=order == FIRST_GIVES_UP,
    )
    assert stage.rows(
        "select service_action_id from public.services_catalog_actions where service_id = %s",
        service,
    ) == [(actions[1],)]


@race(
    "a success case made a post twice",
    holds="one post, and both are given it",
    guard="the lock on the case",
    without=rewritten("public.case_to_post(uuid)", ("for no key update", "")),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def post_twice(stage: Stage, order: str) -> None:
    with stage.db.transaction():
        case = site.add_case(stage.db, stage.a)
    post = stage.member("director", "select (public.case_to_post(%s)).id::text", case)
    first, second = stage.meet(post, post, first_gives_up=order == FIRST_GIVES_UP)
    assert stage.rows("select id::text from public.public_posts where case_id = %s", case) == [
        (second,)
    ]
    assert first == second or order == FIRST_GIVES_UP


# The chat of the site


@race(
    "a lead captured twice from one chat",
    holds="one lead, and both are given its receipt",
    guard="the lock on the conversation",
    without=rewritten(
        "public.submit_chat_lead(uuid, text, text, text, text, text, text, text, boolean, text)",
        ("for update", ""),
    ),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def capture_twice(stage: Stage, order: str) -> None:
    with stage.db.transaction():
        chat = stage.one(
            "select public.ask_as_visitor(%s, 'Quanto custa?', null, null, null, %s)",
            stage.a.slug,
            stage.address(),
        )
    capture = (
        "select public.submit_chat_lead(%s, %s, 'Lia Prado', 'lia@leads.test', null, null, null, null, true, %s)"
        " ->> 'receipt'"
    )
    first, second = stage.meet(
        # From two addresses, which share no limit that would keep them apart.
        *(
            stage.worker(capture, chat["session_id"], chat["token"], stage.address())
            for _ in range(2)
        ),
        first_gives_up=order == FIRST_GIVES_UP,
    )
    assert stage.rows(
        "select id::text from public.leads where org_id = %s and source = 'chat'", stage.a.org
    ) == [(second,)]
    assert first == second or order == FIRST_GIVES_UP
