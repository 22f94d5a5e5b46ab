"""`nessos agents …`: who they are, what they did, what waits for a decision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from nessos.cli import organization, output
from nessos.cli.given import read_json, read_json_from_stdin
from nessos.cli.organization import OrgOption
from nessos.cli.output import DryRunOption, JsonOption, YesOption
from nessos.errors import NessosError, UsageError

if TYPE_CHECKING:
    from uuid import UUID

    import psycopg

    Connection = psycopg.Connection[dict[str, Any]]

app = typer.Typer(
    help="AI agents: who they are, what they did, what waits for a decision.", no_args_is_help=True
)

ApprovalArgument = Annotated[str, typer.Argument(help="Id, as in nessos agents approvals.")]
ReasonOption = Annotated[
    str | None, typer.Option("--reason", help="Why; the agent is told when it is refused.")
]

_LIST: Final = """
select o.slug as org, coalesce(a.key, k.kind) as agent, k.kind, coalesce(a.name, k.name) as name,
    coalesce(a.autonomy, k.autonomy) as autonomy, a.is_active, spent.runs, spent.tokens,
    spent.cost_brl
from public.organizations as o
cross join app.agent_kinds as k
left join public.agents as a on a.org_id = o.id and a.kind = k.kind
left join lateral (
    select count(*) as runs, coalesce(sum(r.prompt_tokens + r.completion_tokens), 0) as tokens,
        round(coalesce(sum(r.cost_brl), 0), 2) as cost_brl
    from public.agent_runs as r
    where r.org_id = a.org_id and r.agent_id = a.id
        and r.created_at >= app.now() - interval '30 days'
) as spent on a.id is not null
where o.id = %(org)s order by 2
"""
_RUNS: Final = """
select r.created_at, r.id as run, a.key as agent, r.status, r.reason, r.turns,
    r.prompt_tokens + r.completion_tokens as tokens, round(r.cost_brl, 4) as cost_brl
from public.agent_runs as r
inner join public.agents as a on a.org_id = r.org_id and a.id = r.agent_id
where r.org_id = %(org)s order by r.created_at desc, r.id limit %(lines)s
"""
_RUN: Final = """
select r.id as run, a.key as agent, r.status, r.reason, r.detail, r.input, r.contact, r.answer,
    r.output, r.turns, r.prompt_tokens, r.completion_tokens, r.cost_brl, r.worked_ms,
    r.created_at, r.created_by, r.started_at, r.finished_at
from public.agent_runs as r
inner join public.agents as a on a.org_id = r.org_id and a.id = r.agent_id
where r.org_id = %s and r.id::text = %s
"""
_STEPS: Final = """
select s.ordinal, s.kind, s.tool, s.arguments, s.outcome, s.content, s.tool_calls, s.model,
    s.prompt_tokens, s.completion_tokens, s.cost_brl, s.duration_ms, s.created_at,
    p.id as approval, p.status as approval_status, p.decided_by, p.decided_at, p.decision_reason
from public.agent_steps as s
left join public.agent_approvals as p on p.org_id = s.org_id and p.run_id = s.run_id
    and p.turn = s.turn and p.call_index = s.call_index
where s.org_id = %s and s.run_id = %s order by s.ordinal
"""
_APPROVALS: Final = """
select p.id, a.key as agent, p.tool, p.module, p.arguments, p.cause, p.status, p.created_at,
    p.expires_at, p.run_id as run
from public.agent_approvals as p
inner join public.agents as a on a.org_id = p.org_id and a.id = p.agent_id
where p.org_id = %(org)s and (%(every)s or p.status = 'pending')
order by p.created_at desc, p.id limit %(lines)s
"""
_WIDEST: Final = 300


@app.command(name="list")
def list_agents(*, org: OrgOption = None, json: JsonOption = False) -> None:
    """List agents and the kinds there could be, with what they used in 30 days."""
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        found = organization.find(connection, org)
        rows = connection.execute(_LIST, {"org": found["id"]}).fetchall()
    if json:
        output.as_json(rows)
    else:
        output.records(rows, title="Agents")


@app.command()
def run(
    agent: Annotated[str, typer.Argument(help="Key or kind, as in nessos agents list.")],
    *,
    org: OrgOption = None,
    given: Annotated[
        str, typer.Option("--input", help="A JSON object; - reads it from standard input.")
    ] = "{}",
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until it ends or needs a decision.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Have an agent work; a running worker does it."""
    from psycopg.types.json import Jsonb

    from nessos.db import connect
    from nessos.target import resolve

    way_out = """as --input '{"tema": "…"}'"""
    value = (
        read_json_from_stdin(what="--input", way_out=way_out)
        if given == "-"
        else read_json(given, what="--input", way_out=way_out)
    )
    with connect(resolve().database_url.get_secret_value()) as connection:
        found = organization.find(connection, org)
        row = connection.execute(
            "select app.start_agent_run(%s, %s, %s) as run", (found["id"], agent, Jsonb(value))
        ).fetchone()
        if row is None:
            raise AssertionError("app.start_agent_run gives a row")
        started: UUID = row["run"]
        state = _wait(connection, found["id"], started) if wait else None
    if json:
        output.as_json(state or {"run": started})
    elif state is None:
        output.say(f"{started} is in the queue; see nessos agents log {started}")
    else:
        reason = f" ({state['reason']})" if state["reason"] else ""
        output.say(f"{started} {state['status']}{reason}")
        if state["answer"]:
            output.say(state["answer"])
    if state and state["status"] == "failed":
        raise NessosError(f"the run failed: {state['reason']}", f"see nessos agents log {started}")


@app.command()
def approvals(
    *,
    org: OrgOption = None,
    every: Annotated[bool, typer.Option("--all", help="Those decided on, too.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many.")] = 50,
    json: JsonOption = False,
) -> None:
    """List the calls that wait for a decision."""
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        found = organization.find(connection, org)
        rows = connection.execute(
            _APPROVALS, {"org": found["id"], "every": every, "lines": lines}
        ).fetchall()
    if json:
        output.as_json(rows)
    else:
        output.records(rows, title="Approvals")


@app.command()
def approve(
    approval: ApprovalArgument,
    *,
    org: OrgOption = None,
    reason: ReasonOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Have a call done exactly as it is stored."""
    _decide(approval, "approve", org=org, reason=reason, dry_run=dry_run, yes=yes, json=json)


@app.command()
def refuse(
    approval: ApprovalArgument,
    *,
    org: OrgOption = None,
    reason: ReasonOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Have a call not done; the agent goes on with that answer."""
    _decide(approval, "refuse", org=org, reason=reason, dry_run=dry_run, yes=yes, json=json)


@app.command()
def log(
    run_id: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="Id of a run; the latest runs if left out."),
    ] = None,
    *,
    org: OrgOption = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many runs.")] = 20,
    json: JsonOption = False,
) -> None:
    """Show the latest runs, or all that happened in one: turns, calls, arguments, results, cost."""
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        found = organization.find(connection, org)
        if run_id is None:
            rows = connection.execute(_RUNS, {"org": found["id"], "lines": lines}).fetchall()
            if json:
                output.as_json(rows)
            else:
                output.records(rows, title="Runs")
            return
        row = connection.execute(_RUN, (found["id"], run_id)).fetchone()
        if row is None:
            raise UsageError(f"there is no run {run_id}", "see nessos agents log")
        steps = connection.execute(_STEPS, (found["id"], row["run"])).fetchall()
    if json:
        output.as_json({**row, "steps": steps})
    else:
        _print(row, steps)


def _print(run: dict[str, Any], steps: list[dict[str, Any]]) -> None:
    reason = f" ({run['reason']})" if run["reason"] else ""
    output.say(
        f"{run['agent']} {run['status']}{reason}: {run['turns']} turns,"
        f" {run['prompt_tokens']} + {run['completion_tokens']} tokens,"
        f" R$ {run['cost_brl']:.4f}, {run['worked_ms']} ms"
    )
    if run["detail"]:
        output.say(run["detail"])
    output.table(
        None,
        ("#", "what", "arguments", "result", "tokens", "R$", "ms"),
        [
            (
                step["ordinal"],
                _what(step),
                "" if step["arguments"] is None else _short(step["arguments"]),
                _short(step["content"] or ", ".join(c["name"] for c in step["tool_calls"])),
                step["prompt_tokens"] + step["completion_tokens"] or "",
                f"{step['cost_brl']:.4f}" if step["cost_brl"] else "",
                step["duration_ms"],
            )
            for step in steps
        ],
        right=("#", "tokens", "R$", "ms"),
    )


def _what(step: dict[str, Any]) -> str:
    if step["kind"] != "call":
        return str(step["model"] or step["kind"])
    decided = f", {step['approval_status']}" if step["approval"] else ""
    return f"{step['tool']}: {step['outcome']}{decided}"


def _short(value: object) -> str:
    from json import dumps

    words = value if isinstance(value, str) else dumps(value, ensure_ascii=False, default=str)
    return words if len(words) <= _WIDEST else f"{words[:_WIDEST]} …"


def _wait(connection: Connection, org: UUID, run: UUID) -> dict[str, Any]:
    """Look at a run until it rests."""
    import time

    said = None
    while True:
        row = connection.execute(_RUN, (org, str(run))).fetchone()
        if row is None:
            raise UsageError(f"there is no run {run}", "see nessos agents log")
        if row["status"] not in {"queued", "running"}:
            return row
        if row["status"] != said:
            said = row["status"]
            output.progress(f"{run} {said} …")
        time.sleep(0.3)


def _decide(
    approval: str,
    decision: str,
    *,
    org: str | None,
    reason: str | None,
    dry_run: bool,
    yes: bool,
    json: bool,
) -> None:
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        found = organization.find(connection, org)
        call = connection.execute(
            "select p.id, a.key as agent, p.tool, p.arguments, p.status"
            " from public.agent_approvals as p"
            " inner join public.agents as a on a.org_id = p.org_id and a.id = p.agent_id"
            " where p.org_id = %s and p.id::text = %s",
            (found["id"], approval),
        ).fetchone()
        if call is None:
            raise UsageError(f"there is no approval {approval}", "see nessos agents approvals")
        if not json:
            output.say(f"{call['agent']} → {call['tool']} {_short(call['arguments'])}")
        if dry_run:
            if json:
                output.as_json(call)
            return
        if not yes and not typer.confirm(f"{decision.capitalize()} this call?"):
            raise UsageError("nothing was done", "confirm, or give --yes")
        row = connection.execute(
            "select id, status, decided_at from app.decide_agent_approval(%s, %s, %s, %s)",
            (found["id"], call["id"], decision, reason),
        ).fetchone()
    if json:
        output.as_json(row)
    elif row:
        output.say(f"{row['id']} {row['status']}")
