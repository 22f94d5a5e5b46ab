-- Fin, the management part: what a contract earns in a month; states as they were recorded.
-- Depends on: core, core_access, core_audit, events, data_snapshots, contracts, ops_delivery.
-- Asked for by: domain §5 (fin), issue 2 §4.

-- 1. Tables

create table public.recorded_states (
    org_id uuid not null references public.organizations (id) on delete cascade,
    entity_type text not null,
    entity_id uuid not null,
    position integer not null,
    state jsonb,
    recorded_at timestamptz not null,
    primary key (org_id, entity_type, entity_id, position)
);
comment on table public.recorded_states is
    '[data] What was known of a row at any moment: terms of contracts, settings, reviews of '
    'playbooks, roles. Written by trigger; past months are computed from it, not from today.';
comment on column public.recorded_states.entity_type is
    'contract, organization, playbook, policy, membership (entity_id: the person); removed_<table> '
    'for what past months need of a deleted row.';
comment on column public.recorded_states.position is 'Order of the records of one entity, from 1.';
comment on column public.recorded_states.state is
    'Column → value, never personal data; null from the moment the row was deleted.';
comment on column public.recorded_states.recorded_at is
    'When the state began to be known; of a first state, created_at of the row.';
create index recorded_states_recorded_at_idx
on public.recorded_states (org_id, entity_type, recorded_at);

-- 2. Functions: states as they were recorded

create function app.record_state() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_row jsonb := case when tg_op = 'DELETE' then to_jsonb(old) else to_jsonb(new) end;
    v_org uuid := coalesce(v_row ->> 'org_id', v_row ->> 'id')::uuid;
    v_entity uuid := coalesce(v_row ->> 'id', v_row ->> 'user_id')::uuid;
    v_last public.recorded_states;
    v_state jsonb;
begin
    if tg_op = 'DELETE' then
        -- When the organisation itself goes, its records go with it.
        if not exists (select from public.organizations as o where o.id = v_org) then
            return null;
        end if;
    else
        select jsonb_object_agg(given.name, v_row -> given.name) into v_state
        from unnest(tg_argv[1:]) as given (name);
    end if;
    -- The row's own lock makes its writers queue up, so positions never collide.
    select s.* into v_last from public.recorded_states as s
    where s.org_id = v_org and s.entity_type = tg_argv[0] and s.entity_id = v_entity
    order by s.position desc
    limit 1;
    if v_last.org_id is null or v_last.state is distinct from v_state then
        insert into public.recorded_states (
            org_id, entity_type, entity_id, position, state, recorded_at
        ) values (
            v_org, tg_argv[0], v_entity, coalesce(v_last.position, 0) + 1, v_state,
            case when tg_op = 'INSERT' and v_last.org_id is null
                then (v_row ->> 'created_at')::timestamptz else app.now() end
        );
    end if;
    return null;
end;
$$;
comment on function app.record_state() is
    'Trigger (entity type, columns…): appends the columns'' values to recorded_states when they '
    'changed, null when the row is deleted.';

create function app.recorded_state(
    org uuid, entity_type text, entity_id uuid, moment timestamptz
) returns jsonb
language sql
stable
security definer
set search_path = ''
as $$
    select s.state
    from public.recorded_states as s
    where
        s.org_id = recorded_state.org
        and s.entity_type = recorded_state.entity_type
        and s.entity_id = recorded_state.entity_id
    order by
        s.recorded_at < recorded_state.moment desc,
        case when s.recorded_at < recorded_state.moment then -s.position else s.position end
    limit 1
$$;
comment on function app.recorded_state(uuid, text, uuid, timestamptz) is
    'What was known of a row just before a moment; of a row registered later, its first state.';

create function app.month_zone(org uuid, month date) returns text
language sql
stable
set search_path = ''
as $$
    select coalesce(
        app.recorded_state(
            org, 'organization', org,
            (app.month_start(month_zone.month) + interval '1 month') at time zone 'UTC'
        ) ->> 'time_zone',
        app.org_time_zone(org)
    )
$$;
comment on function app.month_zone(uuid, date) is
    'Zone in which a month is cut: the organisation''s as it was when the month ended.';

create function app.day_end(org uuid, day date) returns timestamptz
language sql
stable
set search_path = ''
as $$
    select (day_end.day + 1)::timestamp at time zone app.month_zone(day_end.org, day_end.day)
$$;
comment on function app.day_end(uuid, date) is
    'The moment a day of the organisation ends, the first of the next day.';

create function app.org_setting_on(org uuid, key text, day date) returns jsonb
language sql
stable
security definer
set search_path = ''
as $$
    select coalesce(
        app.recorded_state(org, 'organization', org, app.day_end(org, day))
        #> array['settings', org_setting_on.key],
        (
            select d.default_value from app.setting_definitions as d
            where d.key = org_setting_on.key
        )
    )
$$;
comment on function app.org_setting_on(uuid, text, date) is
    'A setting of the organisation as it stood at the end of a day, or its default.';

create function app.month_end(month date) returns date
language sql
immutable
set search_path = ''
as $$ select (app.month_start(month_end.month) + interval '1 month')::date - 1 $$;
comment on function app.month_end(date) is 'Last day of the month a day lies in.';

-- 2. Functions: the book of contracts and the revenue of a month

create function app.contract_book(org uuid, day date)
returns table (
    contract_id uuid, client_id uuid, mrr numeric, ends_on date, renews_on date,
    adjustment_index text
)
language sql
stable
set search_path = ''
as $$
    with cut as materialized (
        select app.day_end(contract_book.org, contract_book.day) as moment
    )

    select
        c.id, c.client_id,
        -- What was recorded by then; of a contract registered later, what it says of the day.
        coalesce(
            (
                select h.mrr_after
                from public.contract_mrr_history as h
                where
                    h.org_id = c.org_id and h.contract_id = c.id and h.changed_at < cut.moment
                    and (h.effective_on is null or h.effective_on <= contract_book.day)
                order by h.position desc
                limit 1
            ),
            app.contract_mrr_on(c.org_id, c.id, contract_book.day)
        ),
        (terms.state ->> 'ends_on')::date, (terms.state ->> 'renews_on')::date,
        terms.state ->> 'adjustment_index'
    from public.contracts as c
    cross join cut
    cross join lateral (
        select app.recorded_state(c.org_id, 'contract', c.id, cut.moment) as state
    ) as terms
    cross join lateral (
        select coalesce(
            (
                select h.status
                from public.contract_status_history as h
                where
                    h.org_id = c.org_id and h.contract_id = c.id and h.changed_at < cut.moment
                    and (h.effective_on is null or h.effective_on <= contract_book.day)
                order by h.position desc
                limit 1
            ),
            app.contract_status_on(c.org_id, c.id, contract_book.day)
        ) as status
    ) as known
    where
        c.org_id = contract_book.org
        and app.is_in_force(
            known.status, (terms.state ->> 'starts_on')::date, (terms.state ->> 'ends_on')::date,
            contract_book.day
        )
$$;
comment on function app.contract_book(uuid, date) is
    'Contracts in force on a day with value and terms, as recorded by the end of that day: later '
    'changes, even those dated back, do not alter it. A contract registered later counts as it '
    'says. As far as the caller may read contracts.';

create function app.contract_revenue(org uuid, month date)
returns table (contract_id uuid, client_id uuid, days_in_force integer, revenue numeric)
language sql
stable
set search_path = ''
as $$
    with bounds as (
        select
            app.month_start(contract_revenue.month) as first_day,
            app.month_end(contract_revenue.month) as last_day
    ),

    -- Days on which anything about the contract may change; between two of them nothing does.
    turns as (
        select distinct c.id, c.client_id, c.starts_on, c.ends_on, b.last_day, turn.day
        from public.contracts as c
        cross join bounds as b
        cross join lateral (
            select b.first_day
            union all
            select c.starts_on
            union all
            select c.ends_on + 1
            union all
            select h.effective_on from public.contract_status_history as h
            where h.org_id = c.org_id and h.contract_id = c.id
            union all
            select h.effective_on from public.contract_mrr_history as h
            where h.org_id = c.org_id and h.contract_id = c.id
        ) as turn (day)
        where
            c.org_id = contract_revenue.org
            and c.starts_on <= b.last_day and (c.ends_on is null or c.ends_on >= b.first_day)
            and turn.day between b.first_day and b.last_day
    ),

    stretches as (
        select
            t.*,
            coalesce(lead(t.day) over (partition by t.id order by t.day), t.last_day + 1) - t.day
                as days
        from turns as t
    )

    select
        s.id, s.client_id, sum(s.days)::integer,
        round(
            sum(s.days * app.contract_mrr_on(contract_revenue.org, s.id, s.day))
            / extract(day from s.last_day), 2
        )
    from stretches as s
    where
        app.is_in_force(
            app.contract_status_on(contract_revenue.org, s.id, s.day), s.starts_on, s.ends_on, s.day
        )
    group by s.id, s.client_id, s.last_day
$$;
comment on function app.contract_revenue(uuid, date) is
    'Revenue (BRL) of each contract in the month a day lies in: for every day in force, that '
    'day''s mrr divided by the days of the month; rounded once. As far as the caller may read '
    'contracts.';

-- 2. Functions: rentability

create function app.require_finance_reader(org uuid) returns void
language plpgsql
stable
set search_path = ''
as $$
declare
    v_module text;
begin
    -- Half a margin is worse than none: whoever lacks one of its parts is refused.
    foreach v_module in array '{fin,contracts,time,data}'::text[] loop
        perform app.require_access(require_finance_reader.org, v_module, 'read');
    end loop;
end;
$$;
comment on function app.require_finance_reader(uuid) is
    'Raises not_allowed unless the caller reads fin and all that margins are made of: contracts, '
    'time and data.';

create function app.rentability(org uuid, month date)
returns table (
    contract_id uuid, client_id uuid, days_in_force integer, revenue numeric,
    hours_worked numeric, labour_cost numeric, cloud_cost numeric, other_cost numeric,
    overhead_cost numeric, tax numeric, total_cost numeric, margin numeric, margin_pct numeric
)
language sql
stable
set search_path = ''
as $$
    with rules as materialized (
        select
            app.org_setting_on(r.org, 'overhead_method', r.day) #>> '{}' as method,
            (app.org_setting_on(r.org, 'overhead_monthly_brl', r.day))::numeric as amount,
            (app.org_setting_on(r.org, 'overhead_pct', r.day))::numeric as overhead_pct,
            (app.org_setting_on(r.org, 'tax_pct', r.day))::numeric as tax_pct
        from (select rentability.org as org, app.month_end(rentability.month) as day) as r
    ),

    parts as (
        select
            c.id as contract_id, c.client_id,
            coalesce(v.days_in_force, 0) as days_in_force,
            coalesce(v.revenue, 0) as revenue,
            coalesce(p.hours_worked, 0) as hours_worked,
            coalesce(p.labour_cost, 0) as labour_cost,
            coalesce(p.cloud_cost, 0) as cloud_cost,
            coalesce(p.other_cost, 0) as other_cost
        from public.contracts as c
        left join app.contract_revenue(rentability.org, rentability.month) as v
            on v.contract_id = c.id
        left join public.performance_metrics as p
            on
                p.org_id = c.org_id and p.contract_id = c.id
                and p.month = app.month_start(rentability.month)
        where
            c.org_id = rentability.org
            and (v.contract_id is not null or p.contract_id is not null)
    ),

    weights as (
        select
            p.*, r.*,
            case
                when r.method = 'hours' and sum(p.hours_worked) over () > 0 then p.hours_worked
                else p.revenue
            end as weight
        from parts as p
        cross join rules as r
    ),

    sums as (
        select
            w.*,
            sum(w.weight) over (order by w.contract_id) as weight_so_far,
            sum(w.weight) over () as weight_of_all
        from weights as w
    ),

    costs as (
        select
            s.*,
            -- Each share is what the rounded running total grows by, so that they add up exactly.
            case
                when s.method = 'fixed_pct' then round(s.revenue * s.overhead_pct / 100, 2)
                when s.weight_of_all > 0 then
                    round(s.amount * s.weight_so_far / s.weight_of_all, 2)
                    - round(s.amount * (s.weight_so_far - s.weight) / s.weight_of_all, 2)
                else 0
            end as overhead_cost,
            round(s.revenue * s.tax_pct / 100, 2) as tax
        from sums as s
    )

    select
        c.contract_id, c.client_id, c.days_in_force, c.revenue, c.hours_worked, c.labour_cost,
        c.cloud_cost, c.other_cost, c.overhead_cost, c.tax, t.total, c.revenue - t.total,
        round(100 * (c.revenue - t.total) / nullif(c.revenue, 0), 2)
    from costs as c
    cross join lateral (
        select c.labour_cost + c.cloud_cost + c.other_cost + c.overhead_cost + c.tax as total
    ) as t
$$;
comment on function app.rentability(uuid, date) is
    'Body of public.contract_rentability, as far as the caller may read contracts and metrics.';

create function public.contract_rentability(org uuid, month date default null)
returns table (
    contract_id uuid, number text, title text, client_id uuid, client_name text, period date,
    days_in_force integer, revenue numeric, hours_worked numeric, labour_cost numeric,
    cloud_cost numeric, other_cost numeric, overhead_cost numeric, tax numeric,
    total_cost numeric, margin numeric, margin_pct numeric
)
language plpgsql
stable
set search_path = ''
as $$
declare
    v_month date := app.month_start(
        coalesce(contract_rentability.month, app.org_today(contract_rentability.org))
    );
begin
    perform app.require_finance_reader(contract_rentability.org);
    return query
    select
        r.contract_id, c.number, c.title, r.client_id, k.name, v_month, r.days_in_force, r.revenue,
        r.hours_worked, r.labour_cost, r.cloud_cost, r.other_cost, r.overhead_cost, r.tax,
        r.total_cost, r.margin, r.margin_pct
    from app.rentability(contract_rentability.org, v_month) as r
    inner join public.contracts as c
        on c.org_id = contract_rentability.org and c.id = r.contract_id
    inner join public.clients as k on k.org_id = c.org_id and k.id = c.client_id
    order by r.margin_pct nulls first, c.number;
end;
$$;
comment on function public.contract_rentability(uuid, date) is
    'One month of revenue against one month of cost, per contract in force or with costs in the '
    'month a day lies in (default: the running one), worst margin first. Overhead by the settings '
    'overhead_method, overhead_monthly_brl and overhead_pct, taxes by tax_pct, each as it stood at '
    'the end of the month; by hours, a month without hours is shared by revenue. margin_pct is '
    'null without revenue. Errors: not_allowed.';

create function app.contract_budget(org uuid, contract uuid) returns numeric
language sql
stable
security definer
set search_path = ''
as $$
    select coalesce(sum(round(i.quantity * coalesce(i.unit_price, a.total_cost), 2)), 0)
    from public.contract_items as i
    left join public.service_actions as a on a.org_id = i.org_id and a.id = i.service_action_id
    where i.org_id = contract_budget.org and i.contract_id = contract_budget.contract
$$;
comment on function app.contract_budget(uuid, uuid) is
    'Monthly budget (BRL) of a contract: its items, an item without price at the estimated cost of '
    'its service action. Definer: who reads the contract need not read ops.';

-- 3. Triggers

create trigger organizations_60_record
after insert or update of settings, time_zone on public.organizations
for each row execute function app.record_state('organization', 'settings', 'time_zone');

create trigger contracts_60_record_terms
after insert or update of starts_on, ends_on, renews_on, adjustment_index or delete
on public.contracts
for each row execute function
app.record_state('contract', 'starts_on', 'ends_on', 'renews_on', 'adjustment_index');

create trigger recorded_states_10_append_only
before update or truncate on public.recorded_states
for each statement execute function app.refuse_change();

-- 4. Views

create view public.v_contract_budget_vs_actual
with (security_invoker = true) as
with costed as (
    select
        m.org_id,
        m.contract_id,
        m.month,
        app.contract_budget(m.org_id, m.contract_id) as budget,
        m.labour_cost + m.cloud_cost + m.other_cost as actual
    from public.performance_metrics as m
)

select
    k.org_id,
    k.contract_id,
    c.number,
    c.title,
    c.client_id,
    k.month,
    k.budget,
    k.actual,
    k.budget - k.actual as variance,
    round((1 - k.actual / nullif(k.budget, 0)) * 100, 2) as efficiency_pct
from costed as k
inner join public.contracts as c on k.org_id = c.org_id and k.contract_id = c.id;
comment on view public.v_contract_budget_vs_actual is
    '[fin] Per contract and month with metrics: the budget of its items against the actual cost, '
    'BRL. For those who read contracts and time.';
comment on column public.v_contract_budget_vs_actual.variance is 'Positive: below budget.';
comment on column public.v_contract_budget_vs_actual.efficiency_pct is
    '(1 - actual / budget) × 100; null without a budget.';

-- 5. Access

select app.protect_table('public.recorded_states', 'data', null, '{select}');
-- Records are what past months are computed from: not even the worker rewrites them.
revoke insert, update, delete on public.recorded_states from service_role;
grant select on public.v_contract_budget_vs_actual to authenticated, service_role;

grant execute on function
app.recorded_state(uuid, text, uuid, timestamptz), app.month_zone(uuid, date),
app.day_end(uuid, date), app.month_end(date), app.org_setting_on(uuid, text, date),
app.contract_book(uuid, date), app.contract_revenue(uuid, date),
app.require_finance_reader(uuid), app.rentability(uuid, date), app.contract_budget(uuid, uuid),
public.contract_rentability(uuid, date)
to authenticated, service_role;

-- 6. Reference rows

insert into app.setting_definitions (
    key, kind, minimum, maximum, choices, default_value, description
) values
(
    'overhead_method', 'choice', null, null, '{revenue,hours,fixed_pct}', '"revenue"',
    'How overhead is shared among contracts: overhead_monthly_brl by revenue or by hours, or '
    'overhead_pct of each contract''s revenue.'
),
(
    'overhead_monthly_brl', 'number', 0, 1000000000, null, '0',
    'Overhead of a month to share among contracts, BRL.'
),
(
    'overhead_pct', 'number', 0, 100, null, '0',
    'Overhead as percent of revenue, for the method fixed_pct.'
),
('tax_pct', 'number', 0, 100, null, '0', 'Taxes on revenue, percent.');
