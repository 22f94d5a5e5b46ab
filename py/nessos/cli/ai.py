"""`nessos ai …`: language models: what they have cost, which there are, budgets."""

from __future__ import annotations

import sys
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final
from uuid import UUID

import typer

from nessos.cli import organization, output
from nessos.cli.organization import OrgOption
from nessos.cli.output import JsonOption, YesOption
from nessos.errors import UsageError

if TYPE_CHECKING:
    from datetime import date

app = typer.Typer(help="Language models: use and cost, models, budgets.", no_args_is_help=True)
budget = typer.Typer(help="What an organisation lets language models cost.", no_args_is_help=False)
app.add_typer(budget, name="budget", invoke_without_command=True)

_USAGE: Final = """
select
    o.slug as org,
    case when %(by)s = 'day' then u.used_on end as day,
    case when %(by)s = 'agent' then u.agent_id end as agent,
    case when %(by)s = 'purpose' then u.purpose end as purpose,
    case when %(by)s = 'model' then u.model end as model,
    sum(u.calls) as calls, sum(u.failed) as failed, sum(u.prompt_tokens) as prompt_tokens,
    sum(u.cached_tokens) as cached_tokens, sum(u.completion_tokens) as completion_tokens,
    sum(u.cost_usd) as cost_usd, sum(u.cost_brl) as cost_brl
from public.ai_usage as u
inner join public.organizations as o on o.id = u.org_id
where
    (%(org)s::uuid is null or u.org_id = %(org)s)
    and u.used_on >= coalesce(%(since)s::date, app.month_start(app.org_today(u.org_id)))
group by 1, 2, 3, 4, 5
order by 1, 2 nulls last, cost_brl desc
"""
_MODELS: Final = """
select
    r.purpose, r.ordinal as place, m.model, m.provider, m.context_tokens as context,
    trim_scale(p.input_usd) as input_usd,
    trim_scale(coalesce(p.cached_usd, p.input_usd)) as cached_usd,
    trim_scale(p.output_usd) as output_usd
from public.ai_models as m
left join public.ai_routes as r on r.model = m.model
left join lateral (
    select * from public.ai_model_prices as p
    where p.model = m.model and p.valid_from <= app.org_today(null) and p.above_tokens = 0
    order by p.valid_from desc limit 1
) as p on true
order by r.purpose nulls last, r.ordinal, m.provider, m.model
"""
_BUDGETS: Final = """
select s.period, s.agent_id as agent, s.limit_brl, s.alert_pct, s.starts_on, s.spent_brl,
    s.reserved_brl, s.used_pct
from public.ai_budget_status as s
where s.org_id = %s
order by s.agent_id nulls first, s.period
"""
_SET: Final = """
insert into public.ai_budgets as b (org_id, agent_id, period, limit_brl, alert_pct)
values (%(org)s, %(agent)s, %(period)s, %(limit)s, coalesce(%(alert)s, 80))
on conflict on constraint ai_budgets_once_key do update
set limit_brl = excluded.limit_brl, alert_pct = coalesce(%(alert)s, b.alert_pct)
returning b.period, b.agent_id as agent, b.limit_brl, b.alert_pct
"""
_REMOVE: Final = """
delete from public.ai_budgets as b
where b.org_id = %s and b.agent_id is not distinct from %s and b.period = %s
returning b.limit_brl
"""
_LARGEST: Final = 10**12


class Grouping(StrEnum):
    """What use is summed up by."""

    DAY = "day"
    AGENT = "agent"
    PURPOSE = "purpose"
    MODEL = "model"


class Period(StrEnum):
    """What a budget is for."""

    DAY = "day"
    MONTH = "month"


AgentOption = Annotated[
    UUID | None, typer.Option("--agent", help="An agent's id; all calls if left out.")
]
PeriodArgument = Annotated[Period, typer.Argument(help="day or month.")]


@app.command()
def usage(
    *,
    org: Annotated[
        str | None, typer.Option("--org", help="Slug or id; every organisation if left out.")
    ] = None,
    by: Annotated[Grouping, typer.Option("--by", help="What to sum up by.")] = Grouping.DAY,
    since: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="First day; that of the month if left out."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show use and cost of language models per organisation, and day, agent, purpose or model."""
    from nessos.db import connect
    from nessos.target import resolve

    first: date | None = since.date() if since else None
    with connect(resolve().database_url.get_secret_value()) as connection:
        found = organization.find(connection, org)["id"] if org else None
        rows = connection.execute(_USAGE, {"org": found, "by": by.value, "since": first}).fetchall()
    unused = {one.value for one in Grouping} - {by.value}
    shown = [{name: row[name] for name in row if name not in unused} for row in rows]
    if json:
        output.as_json(shown)
    else:
        output.records(
            [
                {
                    **row,
                    "cost_usd": round(row["cost_usd"], 4),
                    "cost_brl": round(row["cost_brl"], 2),
                }
                for row in shown
            ],
            title="Use of language models",
        )


@app.command()
def models(*, json: JsonOption = False) -> None:
    """Show which models are asked for what, in which order, and whether they are set up.

    Prices are of today, in USD per million tokens.
    """
    from nessos.ai.providers import services
    from nessos.db import connect
    from nessos.settings import load
    from nessos.target import resolve

    settings = load()
    known = services(settings)
    with connect(resolve().database_url.get_secret_value()) as connection:
        rows = [
            {**row, "is_set_up": row["provider"] in known}
            for row in connection.execute(_MODELS).fetchall()
        ]
    if "compatible" in known:
        own = (settings.compatible_model, settings.compatible_embedding_model)
        rows = [
            {**dict.fromkeys(rows[0]), "purpose": purpose, "place": 0, "model": model,
             "provider": "compatible", "is_set_up": True}
            for purpose, model in zip(("all but embedding", "embedding"), own, strict=True)
            if model
        ] + rows  # fmt: skip
    if json:
        output.as_json(rows)
    else:
        output.records(rows, title="Language models")


@budget.callback()
def list_budgets(
    context: typer.Context, *, org: OrgOption = None, json: JsonOption = False
) -> None:
    """Show the budgets and what is spent of them in the running period."""
    from nessos.db import connect
    from nessos.target import resolve

    if context.invoked_subcommand:
        return
    with connect(resolve().database_url.get_secret_value()) as connection:
        found = organization.find(connection, org)
        rows = connection.execute(_BUDGETS, (found["id"],)).fetchall()
    if json:
        output.as_json(rows)
    else:
        output.records(
            [
                {**row, "spent_brl": round(row["spent_brl"], 2),
                 "reserved_brl": round(row["reserved_brl"], 2)}
                for row in rows
            ],
            title=f"{found['name']}: budgets for language models",
        )  # fmt: skip


@budget.command(name="set")
def set_budget(
    period: PeriodArgument,
    limit: Annotated[str, typer.Argument(help="BRL; 0 lets nothing be sent.", metavar="BRL")],
    *,
    org: OrgOption = None,
    agent: AgentOption = None,
    alert: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="Percent at which admins are told; 80 at first."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Set a budget, or change it. At the limit no model is called until the period is over."""
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        found = organization.find(connection, org)
        row = connection.execute(
            _SET,
            {"org": found["id"], "agent": agent, "period": period.value, "limit": _money(limit),
             "alert": alert},
        ).fetchone()  # fmt: skip
    if json:
        output.as_json(row)
    elif row:
        whose = f"agent {agent} of {found['slug']}" if agent else found["slug"]
        output.say(f"{whose}: R$ {row['limit_brl']} per {period.value}")


@budget.command()
def remove(
    period: PeriodArgument,
    *,
    org: OrgOption = None,
    agent: AgentOption = None,
    yes: YesOption = False,
) -> None:
    """Remove a budget: nothing stops these calls any more."""
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        found = organization.find(connection, org)
        if not yes:
            if not sys.stdin.isatty():
                raise UsageError("this removes a limit of cost", "say --yes")
            typer.confirm(f"Remove the budget per {period.value} of {found['slug']}?", abort=True)
        row = connection.execute(_REMOVE, (found["id"], agent, period.value)).fetchone()
    if row is None:
        raise UsageError("there is no such budget", "see nessos ai budget")
    output.say(
        f"{found['slug']}: the budget of R$ {row['limit_brl']} per {period.value} is removed"
    )


def _money(text: str) -> Decimal:
    """Read an amount, as 150, 150.50 or 150,50.

    Raises:
        UsageError: It is none.
    """
    try:
        value = Decimal(text.replace(",", "."))
    except ArithmeticError:
        value = Decimal(-1)
    if not value.is_finite() or not 0 <= value < _LARGEST or value != round(value, 2):
        raise UsageError(f"{text} is no amount in BRL", "as 150 or 150.50")
    return value
