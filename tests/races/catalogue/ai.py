"""What answers and acts: budgets of models, agents, conversations, workflows."""

import json
from collections.abc import Mapping
from uuid import UUID, uuid4

from psycopg.types.json import Jsonb

from tests.people import Connection, as_agent
from tests.races.race import BOTH_COMMIT, FIRST_GIVES_UP, all_of, race, rewritten
from tests.races.sessions import Act, Stage
from tests.rules import test_agent_outputs as outputs

# Budgets


@race(
    "a budget reserved by many",
    holds="as many calls begin as the budget is good for",
    guard="budgets of an organisation are read and booked one at a time",
    without=rewritten(
        "app.lock_ai_budgets(uuid)",
        ("pg_advisory_xact_lock(hashtextextended('app.ai_budgets/' || org, 0))", "null::void"),
    ),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
    sessions=3,
)
def reserve_three(stage: Stage, order: str) -> None:
    # Whatever a dollar costs, a call of gpt-4o that may write 10,000 tokens costs more than is left.
    begin = (
        "select verdict from app.begin_ai_call(%s, gen_random_uuid(), 'scoring', 'openai', 'gpt-4o', null,"
        " 0, 0, 10000, 100, null, '[]')"
    )
    stage.db.execute(
        "insert into public.ai_budgets (org_id, period, limit_brl) values (%s, 'month', 0.1)",
        (stage.a.org,),
    )
    # The period is there: what is raced for is its row.
    stage.owner("select count(*) from app.open_ai_budget_periods(%s, null, app.org_today(%s))",
                stage.a.org, stage.a.org)(stage.db)  # fmt: skip
    reserve = stage.worker(begin, stage.a.org)
    answers = stage.meet(*[reserve] * 3, first_gives_up=order == FIRST_GIVES_UP)
    kept = answers[1:] if order == FIRST_GIVES_UP else answers
    assert kept.count("go") == 1
    assert kept.count("wait") == len(kept) - 1


# Agents


def approval(stage: Stage) -> UUID:
    """Have an agent wait for an approval of a call; gives the approval."""
    [agent, run] = [uuid4(), uuid4()]
    stage.db.execute(
        "insert into public.agents (org_id, id, kind, key, name) values (%s, %s, 'custom', 'ajudante', 'Ajudante')",
        (stage.a.org, agent),
    )
    stage.db.execute(
        "insert into public.agent_runs (org_id, id, agent_id, input, status) values (%s, %s, %s, '{}', 'waiting')",
        (stage.a.org, run, agent),
    )
    made: UUID = stage.one(
        "insert into public.agent_approvals (org_id, run_id, agent_id, turn, call_index, tool, module, arguments,"
        " cause, expires_at) values (%s, %s, %s, 1, 0, 'create_task', 'ops', '{}', 'grant', now() + interval '1 hour')"
        " returning id",
        stage.a.org,
        run,
        agent,
    )
    return made


@race(
    "an approval decided twice",
    holds="the first decision counts and the run goes on once; the other person is told",
    guard="the run and its approval are locked before the state is read",
    without=rewritten(
        "app.decide_agent_approval(uuid, uuid, text, text)", ("for no key update", "")
    ),
    orders=("approved first", "refused first", FIRST_GIVES_UP),
)
def decide_approval(stage: Stage, order: str) -> None:
    waits = approval(stage)
    decide = "select (public.decide_agent_approval(%s, %s, %s)).status"
    acts = [
        stage.member(role, decide, stage.a.org, waits, decision)
        for role, decision in (("owner", "approve"), ("admin", "refuse"))
    ]
    if order == "refused first":
        acts.reverse()
    answers = stage.meet(*acts, first_gives_up=order == FIRST_GIVES_UP)
    status = "approved" if order == "approved first" else "refused"
    if order == FIRST_GIVES_UP:
        assert answers[1] == status
    else:
        assert answers == [status, "agent_approval_decided"]
    assert stage.one("select status from public.agent_approvals where id = %s", waits) == status
    assert jobs(stage, "agent.run") == 1


def jobs(stage: Stage, entrypoint: str) -> int:
    """Count the organisation's jobs of a kind in the queue."""
    return int(
        stage.one(
            "select count(*) from pgqueuer.pgqueuer where entrypoint = %s and headers ->> 'org_id' = %s",
            entrypoint,
            str(stage.a.org),
        )
    )


@race(
    "one call of a tool made by two workers",
    holds="it is done once, and both are given its answer",
    guard="calls with one key take turns",
    without=rewritten(
        "app.recall_tool_result(text, jsonb)",
        (
            "perform pg_advisory_xact_lock(hashtextextended('agent_tool/' || v_org || '/' || v_key, 0));",
            "",
        ),
    ),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def call_twice(stage: Stage, order: str) -> None:
    def call(db: Connection) -> str:
        with as_agent(db, stage.a):
            db.execute("select set_config('app.idempotency_key', 'run/1/0', true)")
            row = db.execute(
                """select app.call_agent_tool('create_task', '{"title": "Ligar"}')"""
            ).fetchone()
        assert row
        return json.dumps(row[0])

    first, second = stage.meet(call, call, first_gives_up=order == FIRST_GIVES_UP)
    assert stage.one("select count(*) from public.tasks where org_id = %s", stage.a.org) == 1
    assert first == second or order == FIRST_GIVES_UP


@race(
    "one run of an agent started twice",
    holds="it is started once, and both are given it",
    guard="the key of a run is unique in its organisation",
    without=rewritten(
        "app.start_agent_run(uuid, text, jsonb, jsonb, text)",
        (
            "start_agent_run.idempotency_key, v_causation::uuid",
            "gen_random_uuid()::text, v_causation::uuid",
        ),
    ),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
    is_of_meeting=False,
)
def start_twice(stage: Stage, order: str) -> None:
    stage.db.execute(
        "insert into public.agents (org_id, kind, key, name) values (%s, 'custom', 'ajudante', 'Ajudante')",
        (stage.a.org,),
    )
    start = stage.member(
        "director",
        """select public.run_agent(%s, 'ajudante', '{"pedido": "x"}', null, 'k')""",
        stage.a.org,
    )
    first, second = stage.meet(start, start, first_gives_up=order == FIRST_GIVES_UP)
    assert stage.rows("select id from public.agent_runs where org_id = %s", stage.a.org) == [
        (second,)
    ]
    assert first == second or order == FIRST_GIVES_UP
    assert jobs(stage, "agent.run") == 1


# Conversations


def ask(stage: Stage, question: str, key: str | None = None, session: UUID | None = None) -> Act:
    """Ask as an employee; gives the id of the answer to come."""
    return stage.member(
        "employee",
        "select public.ask(%s, %s, %s, %s) ->> 'answer_id'",
        session,
        question,
        key,
        stage.a.org,
    )


@race(
    "one question asked twice",
    holds="it is asked once, and both wait for one answer",
    guard="questions with one key take turns",
    without=rewritten(
        "app.asked_before(uuid, uuid, uuid, text, text)",
        ("perform pg_advisory_xact_lock(", "perform hashtextextended('', 0), ("),
    ),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def ask_twice(stage: Stage, order: str) -> None:
    asked = ask(stage, "Qual o horário?", "k")
    first, second = stage.meet(asked, asked, first_gives_up=order == FIRST_GIVES_UP)
    assert stage.rows(
        "select id::text from public.chat_messages where org_id = %s and role = 'assistant'",
        stage.a.org,
    ) == [(second,)]
    assert first == second or order == FIRST_GIVES_UP


@race(
    "two questions asked at once in one conversation",
    holds="the second is told to wait for the answer to the first",
    guard="the lock on the conversation",
    without=rewritten("app.add_question(uuid, uuid, text, text)", ("for update", "")),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def ask_two(stage: Stage, order: str) -> None:
    asked = "select public.ask_as_visitor(%s, %s, %s, %s, null, %s)"
    first = stage.worker(asked, stage.a.slug, "Quanto custa?", None, None, stage.address())(
        stage.db
    )
    session, token = first["session_id"], first["token"]
    stage.db.execute(
        "update public.chat_messages set status = 'done' where session_id = %s", (session,)
    )
    answers = stage.meet(
        # From two addresses, which share no limit that would keep them apart.
        *(
            stage.worker(
                f"{asked} is not null", stage.a.slug, question, session, token, stage.address()
            )
            for question in ("Qual o horário?", "E aos domingos?")
        ),
        first_gives_up=order == FIRST_GIVES_UP,
    )
    assert answers == [True, True if order == FIRST_GIVES_UP else "answer_pending"]
    assert (
        stage.one("select count(*) from public.chat_messages where session_id = %s", session) == 4
    )


@race(
    "an answer finished by two workers",
    holds="the first one's answer stands; the other is told that it is another's",
    guard="the answer is locked before its state is read",
    without=rewritten(
        "app.finish_answer(uuid, uuid, integer, text, text, jsonb, text, integer, integer, numeric)",
        ("for update", ""),
    ),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def finish_twice(stage: Stage, order: str) -> None:
    answer = ask(stage, "Qual o horário?")(stage.db)
    attempt = stage.worker("select attempt from app.begin_answer(%s, %s)", stage.a.org, answer)(
        stage.db
    )
    finish = "select app.finish_answer(%s, %s, %s, %s, null, '[]', %s, 1, 1, 0)"
    answers = stage.meet(
        *(
            stage.worker(finish, stage.a.org, answer, attempt, action, action)
            for action in ("handoff", "abstain")
        ),
        first_gives_up=order == FIRST_GIVES_UP,
    )
    assert answers == ["handoff", "abstain" if order == FIRST_GIVES_UP else "superseded"]
    assert stage.rows("select status, model from public.chat_messages where id = %s", answer) == [
        ("abstained", "abstain") if order == FIRST_GIVES_UP else ("done", "handoff")
    ]


# Workflows

REVIEW = {"id": "ask", "kind": "human_review", "title": "Decida", "reviewer": {"role": "sales"}}
TASK = {"id": "task", "kind": "create_task", "title": "Ligar"}


def begin(stage: Stage, *steps: Mapping[str, object]) -> UUID:
    """Have a lead start a run with these steps; gives the run."""
    stage.db.execute(
        "insert into public.workflows (org_id, key, name, definition) values (%s, 'fluxo', 'Fluxo', %s)",
        (stage.a.org, Jsonb({"when": {"event": "growth.lead.created"}, "then": steps})),
    )
    stage.db.execute(
        "insert into public.leads (org_id, name, email) values (%s, 'Zé Lima', 'ze@lima.example')",
        (stage.a.org,),
    )
    run: UUID = stage.one("select id from public.workflow_runs where org_id = %s", stage.a.org)
    return run


STEP = "select app.run_workflow_step(%s, %s, 0, 1)"


@race(
    "a workflow resumed twice",
    holds="its step is done once; the other worker finds it done",
    guard="the lock on the run",
    without=rewritten(
        "app.run_workflow_step(uuid, uuid, integer, integer)", ("for no key update", "")
    ),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def step_twice(stage: Stage, order: str) -> None:
    run = begin(stage, TASK)
    step = stage.worker(STEP, stage.a.org, run)
    answers = stage.meet(step, step, first_gives_up=order == FIRST_GIVES_UP)
    assert answers[1] == ("completed task" if order == FIRST_GIVES_UP else "done before")
    assert stage.one("select count(*) from public.tasks where org_id = %s", stage.a.org) == 1


def review(stage: Stage) -> tuple[UUID, UUID]:
    """Have a run wait for a review; gives both."""
    run = begin(stage, REVIEW, TASK)
    stage.worker(STEP, stage.a.org, run)(stage.db)
    return run, stage.one("select id from public.workflow_reviews where org_id = %s", stage.a.org)


DECIDE = "select (public.decide_workflow_review(%s, %s)).status"
DECIDE_SIGNATURE = "app.decide_workflow_review(uuid, text, text)"


@race(
    "a review of a workflow decided by two",
    holds="the first decision counts and the run goes on once; the other person is told",
    guard="the lock on the run, and the decision takes only what is pending",
    without=rewritten(
        DECIDE_SIGNATURE,
        ("for no key update", ""),
        ("and v.status = 'pending'", ""),
    ),
    orders=("approved first", "refused first", FIRST_GIVES_UP),
)
def decide_review(stage: Stage, order: str) -> None:
    run, waits = review(stage)
    acts = [stage.member("sales", DECIDE, waits, decision) for decision in ("approve", "refuse")]
    if order == "refused first":
        acts.reverse()
    answers = stage.meet(*acts, first_gives_up=order == FIRST_GIVES_UP)
    status = "approved" if order == "approved first" else "refused"
    if order == FIRST_GIVES_UP:
        assert answers[1] == status
    else:
        assert answers == [status, "workflow_review_decided"]
    assert stage.one("select status from public.workflow_reviews where id = %s", waits) == status
    assert stage.one("select status from public.workflow_runs where id = %s", run) == (
        "running" if status == "approved" else "cancelled"
    )


@race(
    "a workflow cancelled while its review is decided",
    holds="the first act counts and the other is refused",
    guard="both lock the run first",
    without=all_of(
        rewritten(DECIDE_SIGNATURE, ("for no key update", "")),
        rewritten("app.locked_workflow_run(uuid)", ("for no key update", "")),
    ),
    orders=("decided first", "cancelled first"),
)
def cancel_decided(stage: Stage, order: str) -> None:
    run, waits = review(stage)
    cancel = stage.member("director", "select (public.cancel_workflow_run(%s)).status", run)
    decide = stage.member("sales", DECIDE, waits, "refuse")
    if order == "cancelled first":
        assert stage.meet(cancel, decide) == ["cancelled", "workflow_review_decided"]
    else:
        assert stage.meet(decide, cancel) == ["refused", "workflow_run_ended"]
    review_is = stage.one("select status from public.workflow_reviews where id = %s", waits)
    assert review_is == ("cancelled" if order == "cancelled first" else "refused")


@race(
    "what is due started by two runners",
    holds="started once; the other runner passes it over without waiting",
    guard="a runner claims the workflow with its fire time",
    without=rewritten("app.start_due_workflows()", ("for no key update of w skip locked", "")),
    is_of_meeting=False,
)
def start_due(stage: Stage, _: str) -> None:
    stage.db.execute(
        "insert into public.workflows (org_id, key, name, definition) values (%s, 'fluxo', 'Fluxo', %s)",
        (stage.a.org, Jsonb({"when": {"cron": "* * * * *"}, "then": [TASK]})),
    )
    stage.db.execute(
        "update public.workflows set next_due_at = app.now() - interval '1 hour' where org_id = %s",
        (stage.a.org,),
    )
    start = stage.worker("select app.start_due_workflows()")
    one, another = stage.session("one"), stage.session("another")
    assert one.run(start) >= 1
    another.start(start)
    held = another.waits_for()
    one.commit()
    another.finish()
    another.commit()
    assert not held
    assert (
        stage.one("select count(*) from public.workflow_runs where org_id = %s", stage.a.org) == 1
    )


# What agents write


@race(
    "one suggestion asked for twice",
    holds="an agent writes it once, and both are given it",
    guard="requests for one kind of suggestion take turns, and the lock on the lead",
    without=all_of(
        rewritten("public.qualify_lead(uuid)", ("for no key update", "")),
        rewritten(
            "app.start_suggestion(uuid, text, jsonb)",
            ("perform pg_advisory_xact_lock(", "perform hashtextextended('', 0), ("),
        ),
    ),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def suggest_twice(stage: Stage, order: str) -> None:
    lead = stage.one(
        "insert into public.leads (org_id, name, email, message) values (%s, 'Zé', 'ze@lima.example', 'Backup?')"
        " returning id",
        stage.a.org,
    )
    qualify = stage.member("director", "select (public.qualify_lead(%s)).id", lead)
    first, second = stage.meet(qualify, qualify, first_gives_up=order == FIRST_GIVES_UP)
    assert stage.rows("select id from public.agent_suggestions where org_id = %s", stage.a.org) == [
        (second,)
    ]
    assert first == second or order == FIRST_GIVES_UP


@race(
    "a suggestion accepted while it is rejected",
    holds="the first decision counts, and what it does is done; the other person is told",
    guard="the lock on the suggestion",
    without=rewritten(
        "app.decide_agent_suggestion(uuid, uuid, text, text)", ("for no key update", "")
    ),
    orders=("accepted first", "rejected first", FIRST_GIVES_UP),
)
def decide_suggestion(stage: Stage, order: str) -> None:
    with stage.db.transaction():
        service = outputs.add_service(stage.db, stage.a)
        asked = outputs.ask(stage.db, stage.a, "sales", "suggest_service_copy(%s)", service)
        written = outputs.answer(stage.db, asked, outputs.service_copy())
    acts = [
        stage.member(
            "director",
            f"select (public.{verb}_agent_suggestion(%s, %s)).status",
            stage.a.org,
            written["id"],
        )
        for verb in ("accept", "reject")
    ]
    if order == "rejected first":
        acts.reverse()
    answers = stage.meet(*acts, first_gives_up=order == FIRST_GIVES_UP)
    status = "accepted" if order == "accepted first" else "rejected"
    if order == FIRST_GIVES_UP:
        assert answers[1] == status
    else:
        assert answers == [status, "suggestion_not_open"]
    assert outputs.state(stage.db, written)["status"] == status
