-- AI gateway: language models, their prices and routes; the ledger of calls; budgets that hold.
-- Depends on: core, core_access, core_audit, events, integrations, data_rates, notify.
-- Asked for by: ai.md §3, domain §5 (ai), RENUM's and ness.OS' documents (providers, cost).

-- 1. Tables

create table public.ai_models (
    model text primary key constraint ai_models_model_check check (length(model) between 1 and 200),
    provider text not null references app.integration_providers (provider),
    kind text not null constraint ai_models_kind_check check (kind in ('chat', 'embedding')),
    context_tokens integer not null constraint ai_models_context_check check (context_tokens > 0),
    has_temperature boolean not null default true,
    dimensions integer constraint ai_models_dimensions_check check (dimensions > 0),
    constraint ai_models_vector_check check ((kind = 'embedding') = (dimensions is not null))
);
comment on table public.ai_models is
    '[ai] Language models that may be called, by the name their provider knows them by. Global: '
    'operators write it at the database.';
comment on column public.ai_models.context_tokens is 'The longest conversation it takes.';
comment on column public.ai_models.has_temperature is
    'False for reasoning models, which refuse the parameter.';
comment on column public.ai_models.dimensions is 'Numbers of a vector; null for chat.';
create index ai_models_provider_idx on public.ai_models (provider);

create table public.ai_model_prices (
    model text not null references public.ai_models (model) on delete cascade,
    valid_from date not null,
    above_tokens integer not null default 0
        constraint ai_model_prices_above_check check (above_tokens >= 0),
    input_usd numeric(12, 6) not null
        constraint ai_model_prices_input_check check (input_usd >= 0),
    cached_usd numeric(12, 6) constraint ai_model_prices_cached_check check (cached_usd >= 0),
    output_usd numeric(12, 6) not null
        constraint ai_model_prices_output_check check (output_usd >= 0),
    primary key (model, valid_from, above_tokens)
);
comment on table public.ai_model_prices is
    '[ai] What a model costs, USD per million tokens, from a day on. Global. A model without a '
    'price costs nothing: a server of one''s own.';
comment on column public.ai_model_prices.above_tokens is
    'Counts for calls whose prompt is longer; long ones are dearer at some providers.';
comment on column public.ai_model_prices.cached_usd is
    'Of prompt tokens the provider knew; null: as input.';

create table public.ai_routes (
    purpose text not null constraint ai_routes_purpose_check check (
        purpose in ('reasoning', 'scoring', 'extraction', 'long_context', 'embedding')
    ),
    ordinal integer not null constraint ai_routes_ordinal_check check (ordinal > 0),
    model text not null references public.ai_models (model),
    temperature numeric(3, 2) constraint ai_routes_temperature_check
        check (temperature between 0 and 2),
    primary key (purpose, ordinal),
    constraint ai_routes_model_key unique (purpose, model)
);
comment on table public.ai_routes is
    '[ai] Which models are asked for a purpose, in this order, until one answers. Global. For '
    'embedding the first whose provider is set up counts alone: vectors of two models do not '
    'compare.';
comment on column public.ai_routes.temperature is 'Null: the provider''s own.';
create index ai_routes_model_idx on public.ai_routes (model);

create table public.ai_calls (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    agent_id uuid,
    purpose text not null,
    provider text not null references app.integration_providers (provider),
    model text not null,
    served_model text,
    status text not null default 'reserved' constraint ai_calls_status_check
        check (status in ('reserved', 'succeeded', 'rejected', 'failed', 'lost')),
    request_id text,
    prompt_tokens integer not null default 0, -- never negative: cached_tokens is not
    cached_tokens integer not null default 0
        constraint ai_calls_cached_check check (cached_tokens between 0 and prompt_tokens),
    completion_tokens integer not null default 0
        constraint ai_calls_completion_check check (completion_tokens >= 0),
    is_estimated boolean not null default false,
    cost_usd numeric(16, 8) not null default 0
        constraint ai_calls_cost_usd_check check (cost_usd >= 0),
    cost_brl numeric(16, 8) not null default 0
        constraint ai_calls_cost_brl_check check (cost_brl >= 0),
    ptax numeric(18, 8),
    reserved_brl numeric(16, 8) not null default 0
        constraint ai_calls_reserved_check check (reserved_brl >= 0),
    charged_on date not null,
    latency_ms integer,
    input jsonb,
    output jsonb,
    error text constraint ai_calls_error_check check (length(error) <= 500),
    idempotency_key text constraint ai_calls_idempotency_key_check
        check (length(idempotency_key) between 1 and 200),
    prompt_estimate integer not null,
    expires_at timestamptz not null,
    created_at timestamptz not null default app.now(),
    settled_at timestamptz,
    primary key (org_id, id),
    constraint ai_calls_settled_check check ((status = 'reserved') = (settled_at is null))
);
comment on table public.ai_calls is
    '[ai] The ledger: one row per request to a provider, with what it has cost. A fallback or a '
    'second try for a right answer is a row of its own. Written by app.begin_ai_call and '
    'app.settle_ai_call only; texts are kept 90 days, numbers 24 months.';
comment on column public.ai_calls.agent_id is
    'The agent that asked; null where none did. Not a foreign key: the ledger outlives agents.';
comment on column public.ai_calls.model is 'As it was asked for.';
comment on column public.ai_calls.served_model is
    'As the provider says, often with a date; null without an answer.';
comment on column public.ai_calls.status is
    'reserved: under way; rejected: an answer that does not follow its schema; lost: the process '
    'that sent it has died.';
comment on column public.ai_calls.request_id is 'The provider''s name for the request.';
comment on column public.ai_calls.cached_tokens is 'Of the prompt''s, those the provider knew.';
comment on column public.ai_calls.is_estimated is
    'The provider did not say how many tokens, at least of one attempt.';
comment on column public.ai_calls.ptax is
    'BRL per USD, sold, that the cost was converted with; null: none was known, and the setting '
    'ai_usd_brl was taken.';
comment on column public.ai_calls.reserved_brl is
    'More than it can cost; holds the budgets while it is under way.';
comment on column public.ai_calls.charged_on is
    'The organisation''s day it began; its budgets'' periods are those of this day.';
comment on column public.ai_calls.latency_ms is 'From reservation to settlement.';
comment on column public.ai_calls.input is
    '[pii] Messages, with stand-ins for CPF, CNPJ, card, e-mail, telephone; null for embeddings.';
comment on column public.ai_calls.output is '[pii] The answer, as input.';
comment on column public.ai_calls.idempotency_key is
    'The caller''s name for what he asks: it is answered and paid for once.';
comment on column public.ai_calls.prompt_estimate is 'Tokens, where the provider does not say.';
comment on column public.ai_calls.expires_at is
    'When its process counts as dead, should it not have settled.';
create unique index ai_calls_idempotency_key_idx on public.ai_calls (org_id, idempotency_key)
where status in ('reserved', 'succeeded');
create index ai_calls_expires_at_idx on public.ai_calls (org_id, expires_at)
where status = 'reserved';
create index ai_calls_charged_on_idx on public.ai_calls (org_id, charged_on, agent_id);
create index ai_calls_created_at_idx on public.ai_calls (created_at);
create index ai_calls_provider_idx on public.ai_calls (provider);

create table public.ai_budgets (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    agent_id uuid,
    period text not null
        constraint ai_budgets_period_check check (period in ('day', 'month')),
    limit_brl numeric(14, 2) not null constraint ai_budgets_limit_check check (limit_brl >= 0),
    alert_pct integer not null default 80
        constraint ai_budgets_alert_check check (alert_pct between 1 and 100),
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    constraint ai_budgets_once_key unique nulls not distinct (org_id, agent_id, period)
);
comment on table public.ai_budgets is
    '[ai] What an organisation lets language models cost, in BRL per day or month of its time '
    'zone. At the limit nothing is sent; a limit of 0 sends nothing at all.';
comment on column public.ai_budgets.agent_id is
    'Counts for this agent''s calls; null: for all calls of the organisation.';
comment on column public.ai_budgets.alert_pct is
    'At this part of the limit the admins are told, once per period.';

create table public.ai_budget_periods (
    org_id uuid not null,
    budget_id uuid not null,
    starts_on date not null,
    spent_brl numeric(16, 8) not null default 0,
    reserved_brl numeric(16, 8) not null default 0,
    day_on date not null,
    day_spent_brl numeric(16, 8) not null default 0,
    primary key (org_id, budget_id, starts_on),
    foreign key (org_id, budget_id) references public.ai_budgets (org_id, id) on delete cascade
);
comment on table public.ai_budget_periods is
    '[ai] What has been spent of a budget in a period, and what is reserved by calls under way. '
    'Made from the ledger when the period''s first call begins, and kept in step with it.';
comment on column public.ai_budget_periods.starts_on is 'First day of the period.';
comment on column public.ai_budget_periods.day_on is
    'The day day_spent_brl is of; for the daily plan of a monthly budget.';

-- 2. Functions: models, routes and prices

create function app.find_ai_routes(purpose text) returns table (
    model text, provider text, kind text, temperature numeric, context_tokens integer
)
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    return query
    select m.model, m.provider, m.kind,
        case when m.has_temperature then r.temperature end, m.context_tokens
    from public.ai_routes as r
    inner join public.ai_models as m on r.model = m.model
    where r.purpose = find_ai_routes.purpose
    order by r.ordinal;
    if not found then
        perform app.raise_error(
            'ai_purpose_unknown', format('Models are not asked for %s.', find_ai_routes.purpose),
            'One of: ' || (
                select string_agg(distinct r.purpose, ', ' order by r.purpose)
                from public.ai_routes as r
            )
        );
    end if;
end;
$$;
comment on function app.find_ai_routes(text) is
    'The models of a purpose, the first to be asked first. Errors: ai_purpose_unknown.';

create function app.price_ai_call(
    asked text, served text, on_date date, prompt integer, cached integer, completion integer
) returns numeric
language sql
stable
security definer
set search_path = ''
as $$
    select coalesce((
        select (
            (prompt - cached)::numeric * p.input_usd
            + cached * coalesce(p.cached_usd, p.input_usd)
            + completion * p.output_usd
        ) / 1000000
        from public.ai_model_prices as p
        where
            p.valid_from <= on_date and (p.above_tokens = 0 or p.above_tokens < prompt)
            and (starts_with(served, p.model) or p.model = asked)
        -- The name a model is served by carries a date; that of another one it may begin with, too.
        order by
            starts_with(served, p.model) desc nulls last, length(p.model) desc,
            p.valid_from desc, p.above_tokens desc
        limit 1
    ), 0)
$$;
comment on function app.price_ai_call(text, text, date, integer, integer, integer) is
    'What a call costs in USD: by the longest name of a model that the served one begins with, '
    'else by the one asked for; 0 without a price. (prompt - cached) × in + cached × cached in + '
    'completion × out; tokens of reasoning are in completion.';

create function app.ai_exchange_rate() returns numeric
language sql
stable
security definer
set search_path = ''
as $$
    select r.sell from public.bcb_rates_snapshot as r
    where r.series = 'USD' and r.date <= app.org_today(null) and r.sell is not null
    order by r.date desc
    limit 1
$$;
comment on function app.ai_exchange_rate() is
    'BRL per USD, sold, of the last PTAX closing that is known, however old: a cost is booked '
    'when it arises; null when none is.';

-- 2. Functions: budgets

create function app.lock_ai_budgets(org uuid) returns void
language sql
volatile
set search_path = ''
as $$ select pg_advisory_xact_lock(hashtextextended('app.ai_budgets/' || org, 0)) $$;
comment on function app.lock_ai_budgets(uuid) is
    'One at a time per organisation, up to the transaction''s end: what is read of budgets and '
    'ledger under it is true.';

create function app.ai_period_start(period text, day date) returns date
language sql
immutable
set search_path = ''
as $$ select case period when 'month' then app.month_start(day) else day end $$;
comment on function app.ai_period_start(text, date) is 'First day of the period a day lies in.';

create function app.open_ai_budget_periods(org uuid, agent uuid, day date)
returns setof public.ai_budget_periods
language plpgsql
volatile
security definer
set search_path = ''
as $$
#variable_conflict use_column
begin
    insert into public.ai_budget_periods (
        org_id, budget_id, starts_on, spent_brl, reserved_brl, day_on, day_spent_brl
    )
    select
        b.org_id, b.id, app.ai_period_start(b.period, open_ai_budget_periods.day),
        coalesce(sum(c.cost_brl), 0),
        coalesce(sum(c.reserved_brl) filter (where c.status = 'reserved'), 0),
        open_ai_budget_periods.day,
        coalesce(sum(c.cost_brl) filter (where c.charged_on = open_ai_budget_periods.day), 0)
    from public.ai_budgets as b
    left join public.ai_calls as c
        on b.org_id = c.org_id
        and (b.agent_id is null or b.agent_id = c.agent_id)
        and c.charged_on >= app.ai_period_start(b.period, open_ai_budget_periods.day)
        and (
            c.charged_on = open_ai_budget_periods.day
            or (b.period = 'month' and app.month_start(c.charged_on)
                = app.month_start(open_ai_budget_periods.day))
        )
    where
        b.org_id = open_ai_budget_periods.org
        and (b.agent_id is null or b.agent_id = open_ai_budget_periods.agent)
        and not exists (
            select from public.ai_budget_periods as p
            where
                p.org_id = b.org_id and p.budget_id = b.id
                and p.starts_on = app.ai_period_start(b.period, open_ai_budget_periods.day)
        )
    group by b.org_id, b.id, b.period;
    return query
    select p.*
    from public.ai_budget_periods as p
    inner join public.ai_budgets as b on p.org_id = b.org_id and p.budget_id = b.id
    where
        b.org_id = open_ai_budget_periods.org
        and (b.agent_id is null or b.agent_id = open_ai_budget_periods.agent)
        and p.starts_on = app.ai_period_start(b.period, open_ai_budget_periods.day);
end;
$$;
comment on function app.open_ai_budget_periods(uuid, uuid, date) is
    'The periods of all budgets that a call of this day counts for; one that is not there yet is '
    'made from the ledger. Under app.lock_ai_budgets.';

create function app.book_ai_call(
    org uuid, agent uuid, day date, reserved numeric, spent numeric
) returns void
language sql
volatile
security definer
set search_path = ''
as $$
    update public.ai_budget_periods as p
    set
        reserved_brl = p.reserved_brl + book_ai_call.reserved,
        spent_brl = p.spent_brl + book_ai_call.spent,
        day_on = greatest(p.day_on, book_ai_call.day),
        day_spent_brl = case
            when p.day_on = book_ai_call.day then p.day_spent_brl + book_ai_call.spent
            when p.day_on < book_ai_call.day then book_ai_call.spent
            else p.day_spent_brl
        end
    from public.ai_budgets as b
    where
        b.org_id = book_ai_call.org and b.org_id = p.org_id and b.id = p.budget_id
        and (b.agent_id is null or b.agent_id = book_ai_call.agent)
        and p.starts_on = app.ai_period_start(b.period, book_ai_call.day)
$$;
comment on function app.book_ai_call(uuid, uuid, date, numeric, numeric) is
    'Adds to what is reserved and spent in the periods that a call of this day counts for. Under '
    'app.lock_ai_budgets.';

create function app.tell_ai_budgets(org uuid, agent uuid, day date) returns void
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
    v_row record;
begin
    for v_row in
        select
            b.id, b.period, b.limit_brl, b.alert_pct, p.starts_on, p.spent_brl,
            case when b.period = 'month' and p.day_on = tell_ai_budgets.day
                then p.day_spent_brl end as day_spent_brl,
            b.limit_brl / extract(day from (p.starts_on + interval '1 month' - interval '1 day'))
                as plan_brl
        from public.ai_budgets as b
        inner join public.ai_budget_periods as p on b.org_id = p.org_id and b.id = p.budget_id
        where
            b.org_id = tell_ai_budgets.org and b.limit_brl > 0
            and (b.agent_id is null or b.agent_id = tell_ai_budgets.agent)
            and p.starts_on = app.ai_period_start(b.period, tell_ai_budgets.day)
        order by b.id
    loop
        if v_row.spent_brl * 100 >= v_row.limit_brl * v_row.alert_pct then
            perform app.notify_role(
                org, 'admin', 'write', 'ai_budget_alert',
                jsonb_build_object(
                    'spent', round(v_row.spent_brl, 2), 'limit', v_row.limit_brl,
                    'used_pct', trunc(v_row.spent_brl * 100 / v_row.limit_brl),
                    'period', case v_row.period when 'day' then 'do dia' else 'do mês' end
                ),
                format('ai_budget_alert/%s/%s', v_row.id, v_row.starts_on), '/ai/usage'
            );
        end if;
        if v_row.day_spent_brl * 100 >= v_row.plan_brl * 120 then
            perform app.notify_role(
                org, 'admin', 'write', 'ai_plan_exceeded',
                jsonb_build_object(
                    'spent', round(v_row.day_spent_brl, 2), 'plan', round(v_row.plan_brl, 2),
                    'used_pct', trunc(v_row.day_spent_brl * 100 / v_row.plan_brl)
                ),
                format('ai_plan_exceeded/%s/%s', v_row.id, tell_ai_budgets.day), '/ai/usage'
            );
        end if;
    end loop;
end;
$$;
comment on function app.tell_ai_budgets(uuid, uuid, date) is
    'Tells the admins, once per period, that a budget is nearly used up; once per day, that a '
    'day has cost 120 % of its even part of a monthly one.';

-- 2. Functions: calls

create function app.begin_ai_call(
    org uuid,
    call uuid,
    purpose text,
    provider text,
    model text,
    agent uuid,
    prompt_bound integer,
    prompt_estimate integer,
    max_tokens integer,
    lease_s double precision,
    idempotency_key text,
    input jsonb
) returns table (
    verdict text, wait_s double precision, reason text, is_masking boolean, reply jsonb
)
language plpgsql
volatile
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_day date := app.org_today(org);
    v_same public.ai_calls;
    v_period record;
    v_reserved numeric := app.price_ai_call(
        begin_ai_call.model, null, app.org_today(null), prompt_bound, 0, max_tokens
    ) * coalesce(app.ai_exchange_rate(), (app.org_setting(org, 'ai_usd_brl'))::numeric);
begin
    perform app.lock_ai_budgets(org);
    perform app.release_ai_calls(org);
    if begin_ai_call.idempotency_key is not null then
        select c.* into v_same from public.ai_calls as c
        where
            c.org_id = org and c.idempotency_key = begin_ai_call.idempotency_key
            and c.status in ('reserved', 'succeeded');
        if v_same.status = 'succeeded' and v_same.output is not null then
            return query select
                'done', 0::double precision, null::text, null::boolean,
                jsonb_build_object(
                    'call_id', v_same.id, 'model', coalesce(v_same.served_model, v_same.model),
                    'prompt_tokens', v_same.prompt_tokens,
                    'completion_tokens', v_same.completion_tokens,
                    'cost_brl', v_same.cost_brl, 'output', v_same.output
                );
            return;
        elsif v_same.status = 'reserved' then
            return query select
                'wait',
                least(
                    greatest(extract(epoch from v_same.expires_at - app.now()), 1), 15
                )::double precision,
                'another call with the same key is under way', null::boolean, null::jsonb;
            return;
        elsif v_same.status = 'succeeded' then
            perform app.raise_error(
                'ai_answer_forgotten', 'What was answered under this key is no longer kept.',
                'Ask under another key.'
            );
        end if;
    end if;
    for v_period in
        select b.period, b.limit_brl, b.agent_id, p.spent_brl, p.reserved_brl
        from app.open_ai_budget_periods(org, agent, v_day) as p
        inner join public.ai_budgets as b on p.org_id = b.org_id and p.budget_id = b.id
        order by (p.spent_brl >= b.limit_brl) desc
    loop
        if v_period.spent_brl >= v_period.limit_brl then
            return query select
                'limit', null::double precision,
                format(
                    'R$ %s of the %s''s R$ %s%s', round(v_period.spent_brl, 2), v_period.period,
                    v_period.limit_brl,
                    case when v_period.agent_id is not null then ' for this agent' else '' end
                ),
                null::boolean, null::jsonb;
            return;
        elsif v_period.spent_brl + v_period.reserved_brl >= v_period.limit_brl then
            return query select
                'wait', 2::double precision, 'calls under way may use up the budget',
                null::boolean, null::jsonb;
            return;
        end if;
    end loop;
    insert into public.ai_calls (
        org_id, id, agent_id, purpose, provider, model, reserved_brl, charged_on, input,
        idempotency_key, prompt_estimate, expires_at
    )
    values (
        org, call, agent, begin_ai_call.purpose, begin_ai_call.provider, begin_ai_call.model,
        v_reserved, v_day, begin_ai_call.input, begin_ai_call.idempotency_key,
        begin_ai_call.prompt_estimate, app.now() + make_interval(secs => lease_s)
    );
    perform app.book_ai_call(org, agent, v_day, v_reserved, 0);
    return query select
        'go', 0::double precision, null::text,
        (app.org_setting(org, 'ai_masking'))::boolean, null::jsonb;
end;
$$;
comment on function app.begin_ai_call(
    uuid, uuid, text, text, text, uuid, integer, integer, integer, double precision, text, jsonb
) is
    'Reserves what a request may cost at most, before it is sent. prompt_bound: bytes of what is '
    'sent, of which a token has at least one. verdict: go; done: the key has been answered, with '
    'reply; limit: a budget is used up, for the reason given; wait: ask again after wait_s. Calls '
    'are let through while spent and reserved are below the limit, so that all together pass it '
    'by less than one call. Errors: ai_answer_forgotten.';

create function app.settle_ai_call(
    org uuid,
    call uuid,
    status text,
    served_model text,
    request_id text,
    prompt_tokens integer,
    cached_tokens integer,
    completion_tokens integer,
    is_estimated boolean,
    latency_ms integer,
    output jsonb,
    error text
) returns numeric
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
    v_call public.ai_calls;
    v_ptax numeric := app.ai_exchange_rate();
    v_usd numeric;
    v_brl numeric;
begin
    perform app.lock_ai_budgets(org);
    select c.* into v_call from public.ai_calls as c where c.org_id = org and c.id = call
    for update;
    if v_call.id is null then
        return null; -- the organisation has been erased in between
    elsif v_call.status not in ('reserved', 'lost') then
        return v_call.cost_brl;
    end if;
    v_usd := round(app.price_ai_call(
        v_call.model, settle_ai_call.served_model, app.org_today(null), prompt_tokens,
        cached_tokens, completion_tokens
    ), 8);
    v_brl := round(v_usd * coalesce(v_ptax, (app.org_setting(org, 'ai_usd_brl'))::numeric), 8);
    perform app.book_ai_call(
        org, v_call.agent_id, v_call.charged_on,
        case v_call.status when 'reserved' then -v_call.reserved_brl else 0 end,
        v_brl - v_call.cost_brl
    );
    update public.ai_calls as c
    set
        status = settle_ai_call.status,
        -- Another has answered the key while this one counted as lost.
        idempotency_key = case when v_call.status = 'reserved' then c.idempotency_key end,
        served_model = settle_ai_call.served_model, request_id = settle_ai_call.request_id,
        prompt_tokens = settle_ai_call.prompt_tokens,
        cached_tokens = settle_ai_call.cached_tokens,
        completion_tokens = settle_ai_call.completion_tokens,
        is_estimated = settle_ai_call.is_estimated, cost_usd = v_usd, cost_brl = v_brl,
        ptax = v_ptax, latency_ms = settle_ai_call.latency_ms, output = settle_ai_call.output,
        error = left(settle_ai_call.error, 500), settled_at = app.now()
    where c.org_id = org and c.id = call;
    perform app.tell_ai_budgets(org, v_call.agent_id, v_call.charged_on);
    return v_brl;
end;
$$;
comment on function app.settle_ai_call(
    uuid, uuid, text, text, text, integer, integer, integer, boolean, integer, jsonb, text
) is
    'Books what a request has cost and gives its reservation back; tells the admins where a '
    'budget is nearly used up. Settling twice changes nothing; one that counted as lost is put '
    'right. Returns BRL; null for an organisation that is gone.';

create function app.release_ai_calls(org uuid) returns integer
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
    v_call public.ai_calls;
    v_ptax numeric;
    v_usd numeric;
    v_brl numeric;
    v_released integer := 0;
begin
    for v_call in
        select c.* from public.ai_calls as c
        where
            c.org_id = release_ai_calls.org and c.status = 'reserved'
            and c.expires_at <= app.now()
        order by c.id
        for update
    loop
        v_ptax := app.ai_exchange_rate();
        v_usd := round(app.price_ai_call(
            v_call.model, null, app.org_today(null), v_call.prompt_estimate, 0, 0
        ), 8);
        v_brl := round(v_usd * coalesce(v_ptax, (app.org_setting(org, 'ai_usd_brl'))::numeric), 8);
        perform app.book_ai_call(
            org, v_call.agent_id, v_call.charged_on, -v_call.reserved_brl, v_brl
        );
        update public.ai_calls as c
        set
            status = 'lost', prompt_tokens = c.prompt_estimate, is_estimated = true,
            cost_usd = v_usd, cost_brl = v_brl, ptax = v_ptax, settled_at = app.now(),
            error = 'The process that sent it has died.'
        where c.org_id = v_call.org_id and c.id = v_call.id;
        v_released := v_released + 1;
    end loop;
    return v_released;
end;
$$;
comment on function app.release_ai_calls(uuid) is
    'Gives back what calls of dead processes have reserved. The provider has most likely read '
    'what was sent: that is booked. Under app.lock_ai_budgets. Returns how many.';

create function app.repair_ai_calls() returns bigint
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
    v_org uuid;
    v_released bigint := 0;
begin
    for v_org in
        select distinct c.org_id from public.ai_calls as c
        where c.status = 'reserved' and c.expires_at <= app.now()
        order by c.org_id
    loop
        perform app.lock_ai_budgets(v_org);
        v_released := v_released + app.release_ai_calls(v_org);
    end loop;
    return v_released;
end;
$$;
comment on function app.repair_ai_calls() is
    'Job: gives back what calls of dead processes have reserved. Returns how many.';

create function app.tell_ai_failure(org uuid, template text, subject text) returns integer
language sql
volatile
security definer
set search_path = ''
as $$
    select app.notify_role(
        org, 'admin', 'write', tell_ai_failure.template,
        jsonb_build_object('subject', tell_ai_failure.subject),
        format('%s/%s', tell_ai_failure.template, app.org_today(org)), '/ai/usage'
    )
$$;
comment on function app.tell_ai_failure(uuid, text, text) is
    'Tells the admins, once a day, that no model answers (ai_unavailable), or that an account at '
    'a provider has run out of money (ai_quota_exhausted). Returns how many were told.';

create function app.forget_ai_calls() returns bigint
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
    v_texts bigint;
begin
    update public.ai_calls as c set input = null, output = null
    where
        c.created_at < app.now() - interval '90 days'
        and (c.input is not null or c.output is not null);
    get diagnostics v_texts = row_count;
    delete from public.ai_calls as c
    where c.created_at < app.month_start(app.org_today(null)) - interval '24 months';
    delete from public.ai_budget_periods as p
    where p.starts_on < app.month_start(app.org_today(null)) - interval '24 months';
    return v_texts;
end;
$$;
comment on function app.forget_ai_calls() is
    'Removes texts of calls older than 90 days, and calls older than 24 months. Returns of how '
    'many the texts.';

-- 3. Triggers

create trigger ai_budgets_70_emit
after insert or update or delete on public.ai_budgets
for each row execute function app.emit_event('ai', 'ai_budget', '', 'period', 'limit_brl');

create trigger ai_budgets_80_audit
after insert or update or delete on public.ai_budgets
for each row execute function app.audit_row();

-- 4. Views

create view public.ai_usage with (security_invoker = true) as
select
    c.org_id,
    c.charged_on as used_on,
    c.agent_id,
    c.purpose,
    coalesce(c.served_model, c.model) as model,
    count(*) as calls,
    count(*) filter (where c.status in ('failed', 'lost')) as failed,
    sum(c.prompt_tokens) as prompt_tokens,
    sum(c.cached_tokens) as cached_tokens,
    sum(c.completion_tokens) as completion_tokens,
    sum(c.cost_usd) as cost_usd,
    sum(c.cost_brl) as cost_brl,
    round(avg(c.latency_ms)) as latency_ms
from public.ai_calls as c
where c.status <> 'reserved'
group by c.org_id, c.charged_on, c.agent_id, c.purpose, coalesce(c.served_model, c.model);
comment on view public.ai_usage is
    '[ai] Use and cost of language models per organisation, day, agent, purpose and model.';

create view public.ai_budget_status with (security_invoker = true) as
select
    b.org_id,
    b.id as budget_id,
    b.agent_id,
    b.period,
    b.limit_brl,
    b.alert_pct,
    app.ai_period_start(b.period, app.org_today(b.org_id)) as starts_on,
    coalesce(p.spent_brl, 0) as spent_brl,
    coalesce(p.reserved_brl, 0) as reserved_brl,
    round(coalesce(p.spent_brl, 0) * 100 / nullif(b.limit_brl, 0), 1) as used_pct
from public.ai_budgets as b
left join public.ai_budget_periods as p
    on
        b.org_id = p.org_id and b.id = p.budget_id
        and p.starts_on = app.ai_period_start(b.period, app.org_today(b.org_id));
comment on view public.ai_budget_status is
    '[ai] Each budget with what has been spent and reserved in the running period; a period in '
    'which no call has begun yet shows nothing spent.';

-- 5. Access

select app.protect_table('public.ai_calls', 'ai', null, '{select}');
select app.protect_table('public.ai_budgets', 'ai', null);
select app.protect_table('public.ai_budget_periods', 'ai', null, '{select}');

-- What has no org_id is written out by hand.
alter table public.ai_models enable row level security;
alter table public.ai_models force row level security;
alter table public.ai_model_prices enable row level security;
alter table public.ai_model_prices force row level security;
alter table public.ai_routes enable row level security;
alter table public.ai_routes force row level security;
create policy ai_models_select on public.ai_models for select to authenticated using (true);
create policy ai_models_select_analyst on public.ai_models for select to analyst using (true);
create policy ai_model_prices_select on public.ai_model_prices for select
to authenticated using (true);
create policy ai_model_prices_select_analyst on public.ai_model_prices for select
to analyst using (true);
create policy ai_routes_select on public.ai_routes for select to authenticated using (true);
create policy ai_routes_select_analyst on public.ai_routes for select to analyst using (true);
grant select on public.ai_models, public.ai_model_prices, public.ai_routes
to authenticated, service_role, analyst;
grant select on public.ai_usage, public.ai_budget_status to authenticated, service_role;

grant execute on function app.ai_period_start(text, date) to authenticated, service_role;
grant execute on function
app.find_ai_routes(text),
app.begin_ai_call(
    uuid, uuid, text, text, text, uuid, integer, integer, integer, double precision, text, jsonb
),
app.settle_ai_call(
    uuid, uuid, text, text, text, integer, integer, integer, boolean, integer, jsonb, text
),
app.repair_ai_calls(), app.tell_ai_failure(uuid, text, text)
to service_role;

-- 6. Reference rows

insert into app.integration_providers (provider, title, has_credentials, is_service) values
('openai', 'OpenAI', false, true),
('anthropic', 'Anthropic', false, true),
('gemini', 'Google Gemini', false, true),
('compatible', 'Servidor de modelos próprio', false, false);

insert into public.ai_models (
    model, provider, kind, context_tokens, has_temperature, dimensions
) values
('gpt-4o', 'openai', 'chat', 128000, true, null),
('gpt-4o-mini', 'openai', 'chat', 128000, true, null),
('gpt-4.1', 'openai', 'chat', 1047576, true, null),
('gpt-4.1-mini', 'openai', 'chat', 1047576, true, null),
('gpt-5', 'openai', 'chat', 400000, false, null),
('gpt-5-mini', 'openai', 'chat', 400000, false, null),
('gpt-5-nano', 'openai', 'chat', 400000, false, null),
('claude-sonnet-4-5', 'anthropic', 'chat', 200000, true, null),
('claude-sonnet-5', 'anthropic', 'chat', 200000, true, null),
('claude-haiku-4-5', 'anthropic', 'chat', 200000, true, null),
('claude-opus-4-5', 'anthropic', 'chat', 200000, true, null),
('gemini-2.5-pro', 'gemini', 'chat', 1048576, true, null),
('gemini-2.5-flash', 'gemini', 'chat', 1048576, true, null),
('gemini-2.5-flash-lite', 'gemini', 'chat', 1048576, true, null),
('text-embedding-3-small', 'openai', 'embedding', 8191, false, 1536);

insert into public.ai_model_prices (
    model, valid_from, above_tokens, input_usd, cached_usd, output_usd
) values
('gpt-4o', '2026-01-01', 0, 2.50, 1.25, 10.00),
('gpt-4o-mini', '2026-01-01', 0, 0.15, 0.075, 0.60),
('gpt-4.1', '2026-01-01', 0, 2.00, null, 8.00),
('gpt-4.1-mini', '2026-01-01', 0, 0.40, null, 1.60),
('gpt-5', '2026-01-01', 0, 1.25, null, 10.00),
('gpt-5-mini', '2026-01-01', 0, 0.25, null, 2.00),
('gpt-5-nano', '2026-01-01', 0, 0.05, null, 0.40),
('claude-sonnet-4-5', '2026-01-01', 0, 3.00, null, 15.00),
('claude-sonnet-4-5', '2026-01-01', 200000, 6.00, null, 22.50),
('claude-sonnet-5', '2026-01-01', 0, 2.00, null, 10.00),
('claude-sonnet-5', '2026-09-01', 0, 3.00, null, 15.00),
('claude-haiku-4-5', '2026-01-01', 0, 1.00, null, 5.00),
('claude-opus-4-5', '2026-01-01', 0, 5.00, null, 25.00),
('gemini-2.5-pro', '2026-01-01', 0, 1.25, null, 10.00),
('gemini-2.5-pro', '2026-01-01', 200000, 2.50, null, 15.00),
('gemini-2.5-flash', '2026-01-01', 0, 0.30, null, 2.50),
('gemini-2.5-flash-lite', '2026-01-01', 0, 0.10, null, 0.40),
('text-embedding-3-small', '2026-01-01', 0, 0.02, null, 0);

insert into public.ai_routes (purpose, ordinal, model, temperature) values
('reasoning', 1, 'claude-sonnet-5', null),
('reasoning', 2, 'gpt-4o', null),
('reasoning', 3, 'gemini-2.5-pro', null),
('scoring', 1, 'gpt-4o', 0),
('scoring', 2, 'claude-sonnet-5', 0),
('scoring', 3, 'gemini-2.5-pro', 0),
('extraction', 1, 'gpt-4o-mini', 0),
('extraction', 2, 'gemini-2.5-flash', 0),
('long_context', 1, 'gemini-2.5-pro', null),
('long_context', 2, 'gpt-4o', null),
('embedding', 1, 'text-embedding-3-small', null);

insert into app.setting_definitions (key, kind, minimum, maximum, default_value, description) values
(
    'ai_masking', 'boolean', null, null, 'true',
    'Whether providers of language models see stand-ins for personal data (CPF, CNPJ, cards, '
    'e-mail, telephone).'
),
(
    'ai_usd_brl', 'number', 0.01, 100, '6',
    'BRL per USD that costs of language models are converted with while no PTAX is known.'
);

insert into app.error_keys (key, http, meaning) values
('ai_purpose_unknown', 422, 'Language models are not asked for this purpose.'),
('ai_answer_forgotten', 409, 'The call was answered, but its answer is no longer kept.');

insert into app.event_types (module, event_type, description, payload_keys) values
('ai', 'ai_budget.created', 'A budget for language models was set.', '{period,limit_brl}'),
('ai', 'ai_budget.updated', 'A budget was changed.', '{period,limit_brl,changed}'),
('ai', 'ai_budget.deleted', 'A budget was removed.', '{period,limit_brl}');

insert into app.notification_templates (
    template, category, description, title, body, variables
) values
(
    'ai_budget_alert', 'ai', 'A budget for language models is nearly, or all, used up.',
    'IA: {used_pct} % do orçamento {period}',
    'Os modelos de linguagem já custaram {spent} dos {limit} {period} ({used_pct} %). No limite, '
    'os agentes deixam de chamá-los.',
    '{"spent": "money", "limit": "money", "used_pct": "integer", "period": "text"}'
),
(
    'ai_plan_exceeded', 'ai', 'A day has cost more than its part of the monthly budget.',
    'IA: gasto do dia acima do previsto',
    'Hoje os modelos de linguagem já custaram {spent}, {used_pct} % do previsto por dia ({plan}) '
    'no orçamento do mês.',
    '{"spent": "money", "plan": "money", "used_pct": "integer"}'
),
(
    'ai_unavailable', 'ai', 'No provider of language models answers.',
    'IA fora do ar: {subject}',
    'Nenhum modelo de linguagem respondeu ({subject}). As tarefas paradas podem ser tentadas de '
    'novo quando o serviço voltar.',
    '{"subject": "text"}'
),
(
    'ai_quota_exhausted', 'ai', 'An account at a provider of language models is out of money.',
    'IA: saldo esgotado em {subject}',
    'A conta no provedor {subject} está sem saldo. Recarregue-a; até lá, outros provedores '
    'respondem.',
    '{"subject": "text"}'
);
