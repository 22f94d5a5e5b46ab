-- Contracts in time: changes of value, yearly adjustment with its exact factors, alerts.
-- Depends on: core, core_access, core_audit, events, notify, data_rates, contracts.
-- Asked for by: domain §5 (contracts), §6 (contracts.alerts).

-- 1. Tables

create table public.contract_adjustments (
    org_id uuid not null,
    id uuid not null default gen_random_uuid(),
    contract_id uuid not null,
    month date not null
        constraint contract_adjustments_month_check check (month = app.month_start(month)),
    adjustment_index text not null
        constraint contract_adjustments_index_check
            check (adjustment_index in ('IPCA', 'IGPM', 'INPC', 'fixed')),
    factor numeric not null constraint contract_adjustments_factor_check check (factor > 0),
    accumulated_pct numeric(10, 4) not null,
    mrr_before numeric(14, 2) not null,
    mrr_after numeric(14, 2) not null,
    explanation text not null,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    primary key (org_id, id),
    unique (org_id, contract_id, month),
    foreign key (org_id, contract_id) references public.contracts (org_id, id) on delete cascade
);
comment on table public.contract_adjustments is
    '[contracts] One row per adjustment of a contract''s monthly value. Written by '
    'adjust_contract only.';
comment on column public.contract_adjustments.month is
    'First day of the month the new value counts from.';
comment on column public.contract_adjustments.factor is
    'What the value was multiplied by: the exact product of (1 + value / 100) of the lines, not '
    'rounded.';
comment on column public.contract_adjustments.accumulated_pct is
    '(factor - 1) × 100, rounded for reading.';
comment on column public.contract_adjustments.mrr_after is
    'mrr_before × factor, rounded half up to the cent, BRL.';
comment on column public.contract_adjustments.explanation is
    'The account given to the client, pt-BR.';

create table public.contract_adjustment_lines (
    org_id uuid not null,
    id uuid not null default gen_random_uuid(),
    adjustment_id uuid not null,
    position integer not null
        constraint contract_adjustment_lines_position_check check (position between 1 and 12),
    series text not null,
    month date not null,
    value numeric(18, 8) not null,
    primary key (org_id, id),
    unique (org_id, adjustment_id, position),
    foreign key (org_id, adjustment_id)
    references public.contract_adjustments (org_id, id) on delete cascade
);
comment on table public.contract_adjustment_lines is
    '[contracts] The twelve index values of an adjustment as they stood on that day; none for a '
    'fixed percentage.';
comment on column public.contract_adjustment_lines.position is '1 is the oldest month.';
comment on column public.contract_adjustment_lines.series is
    'SGS code of the index at the Banco Central.';
comment on column public.contract_adjustment_lines.month is
    'First day of the month the value belongs to.';
comment on column public.contract_adjustment_lines.value is
    'Percent of the month, exactly as published.';

create table public.contract_alerts (
    org_id uuid not null,
    id uuid not null default gen_random_uuid(),
    contract_id uuid not null,
    kind text not null
        constraint contract_alerts_kind_check check (kind in ('renewal', 'end')),
    due_on date not null,
    days_before integer not null
        constraint contract_alerts_days_before_check check (days_before in (90, 60, 30)),
    created_at timestamptz not null default app.now(),
    primary key (org_id, id),
    constraint contract_alerts_once_key unique (org_id, contract_id, kind, due_on, days_before),
    foreign key (org_id, contract_id) references public.contracts (org_id, id) on delete cascade
);
comment on table public.contract_alerts is
    '[contracts] Warnings that a contract in force renews or ends soon; each kind, day and '
    'threshold once.';
comment on column public.contract_alerts.due_on is 'Day of renewal or last day of the contract.';
comment on column public.contract_alerts.days_before is
    'Threshold passed: 90, 60 or 30 days. A contract first seen late gets only the nearest one.';
create index contract_alerts_due_on_idx on public.contract_alerts (org_id, due_on);

-- 2. Functions: words of an explanation

create function app.format_number_br(value numeric, places integer) returns text
language sql
immutable
set search_path = ''
as $$
    select translate(
        to_char(
            round(value, places),
            'FM999,999,999,999,990' || case when places > 0 then '.' else '' end
            || repeat('0', places)
        ),
        ',.', '.,'
    )
$$;
comment on function app.format_number_br(numeric, integer) is
    'A number as it is written in Brazil: 1.234,56.';

create function app.format_month_br(day date) returns text
language sql
immutable
set search_path = ''
as $$
    select format(
        '%s/%s',
        ('{jan,fev,mar,abr,mai,jun,jul,ago,set,out,nov,dez}'::text[])[extract(month from day)],
        extract(year from day)
    )
$$;
comment on function app.format_month_br(date) is 'The month of a day as people write it: mar/2026.';

-- 2. Functions: changes of the monthly value

create function app.set_contract_mrr(
    org uuid, contract uuid, mrr numeric, reason text, effective_on date
)
returns public.contracts
language plpgsql
set search_path = ''
as $$
declare
    v_row public.contracts;
begin
    perform set_config('app.mrr_reason', reason, true);
    perform set_config('app.mrr_effective_on', effective_on::text, true);
    update public.contracts as c set mrr = set_contract_mrr.mrr
    where c.org_id = org and c.id = contract
    returning * into v_row;
    perform set_config('app.mrr_reason', '', true);
    perform set_config('app.mrr_effective_on', '', true);
    return v_row;
end;
$$;
comment on function app.set_contract_mrr(uuid, uuid, numeric, text, date) is
    'Writes contracts.mrr so that its history carries this reason and first day; under the '
    'caller''s own rights.';

create function public.change_contract_mrr(
    contract uuid, mrr numeric, reason text, effective_on date default null
) returns public.contracts
language plpgsql
set search_path = ''
as $$
declare
    v_contract public.contracts;
    v_reason text := app.clean_text(reason, 500);
    v_day date;
begin
    select * into v_contract from public.contracts as c where c.id = contract;
    if v_contract.id is null then
        perform app.raise_error('contract_not_found', 'There is no such contract.', null);
    end if;
    perform app.require_access(v_contract.org_id, 'contracts', 'write');
    v_day := coalesce(effective_on, app.org_today(v_contract.org_id));
    if v_reason is null or coalesce(mrr, -1) < 0 then
        perform app.raise_error(
            'bad_input', 'A reason and a value of at least 0 are needed.', null
        );
    elsif v_day > app.org_today(v_contract.org_id) then
        perform app.raise_error(
            'bad_input', 'effective_on lies in the future.', 'Change the value on that day.'
        );
    end if;
    return app.set_contract_mrr(v_contract.org_id, v_contract.id, round(mrr, 2), v_reason, v_day);
end;
$$;
comment on function public.change_contract_mrr(uuid, numeric, text, date) is
    'Changes the monthly value (BRL) of a contract with a reason and the first day it counts '
    '(today or earlier). Errors: contract_not_found, not_allowed, bad_input, contract_closed.';

create function app.index_series(adjustment_index text) returns text
language sql
stable
set search_path = ''
as $$
    select s.series from public.bcb_series as s
    where s.key = adjustment_index and s.kind = 'rate' and s.frequency = 'monthly'
$$;
comment on function app.index_series(text) is
    'SGS code of a price index at the Banco Central; null for fixed and none.';

create function app.adjust_contract(org uuid, contract uuid, month date)
returns public.contract_adjustments
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_contract public.contracts;
    v_row public.contract_adjustments;
    v_month date := app.month_start(month);
    v_first date := (app.month_start(month) - interval '12 months')::date;
    v_last date := (app.month_start(month) - interval '1 month')::date;
    v_series text;
    v_days date[];
    v_values numeric[];
    v_factor numeric;
begin
    perform app.require_access(org, 'contracts', 'write');
    select * into v_contract from public.contracts as c
    where c.org_id = org and c.id = contract
    for update;
    if v_contract.id is null then
        perform app.raise_error('contract_not_found', 'There is no such contract.', null);
    elsif v_month is null then
        perform app.raise_error(
            'bad_input', 'month is missing.', 'Give the month the new value counts from.'
        );
    elsif v_contract.status not in ('active', 'suspended') then
        perform app.raise_error(
            'contract_not_adjustable', format('The contract is %s.', v_contract.status),
            'Only a running contract is adjusted.'
        );
    elsif v_contract.adjustment_index = 'none' then
        perform app.raise_error(
            'contract_without_index', 'The contract has no adjustment index.',
            'Choose IPCA, IGPM, INPC or fixed.'
        );
    elsif v_month > app.org_today(org) then
        perform app.raise_error(
            'adjustment_in_future', 'The month has not begun.', 'Adjust once it has.'
        );
    elsif exists (
        select from public.contract_adjustments as a
        where a.org_id = org and a.contract_id = contract and a.month = v_month
    ) then
        perform app.raise_error(
            'contract_already_adjusted',
            format('%s has been adjusted.', to_char(v_month, 'YYYY-MM')),
            'See contract_adjustments.'
        );
    end if;

    v_series := app.index_series(v_contract.adjustment_index);
    if v_series is null then
        v_factor := 1 + v_contract.fixed_adjustment_pct * 0.01;
    else
        -- The twelve months that end the month before: for March, last year's March to February.
        -- Read once, so that the lines are what the factor was made of.
        select array_agg(p.date), array_agg(p.value) into v_days, v_values
        from app.period_values(v_series, v_first, v_month) as p;
        v_factor := app.compound(v_values);
    end if;

    insert into public.contract_adjustments as a (
        org_id, contract_id, month, adjustment_index, factor, accumulated_pct, mrr_before,
        mrr_after, explanation
    ) values (
        org, contract, v_month, v_contract.adjustment_index, trim_scale(v_factor),
        (v_factor - 1) * 100,
        v_contract.mrr, round(v_contract.mrr * v_factor, 2),
        format(
            'Reajuste de %s %s: %s %%. Valor mensal de R$ %s para R$ %s.',
            app.format_month_br(v_month),
            case when v_series is null then 'pelo percentual fixo do contrato' else format(
                'pelo %s acumulado em 12 meses (%s a %s)',
                replace(v_contract.adjustment_index, 'IGPM', 'IGP-M'),
                app.format_month_br(v_first), app.format_month_br(v_last)
            ) end,
            app.format_number_br((v_factor - 1) * 100, 4),
            app.format_number_br(v_contract.mrr, 2),
            app.format_number_br(v_contract.mrr * v_factor, 2)
        )
    )
    returning a.* into v_row;
    insert into public.contract_adjustment_lines (
        org_id, adjustment_id, position, series, month, value
    )
    select org, v_row.id, given.place, v_series, given.day, given.value
    from unnest(v_days, v_values) with ordinality as given (day, value, place);
    perform app.set_contract_mrr(org, contract, v_row.mrr_after, v_row.explanation, v_month);
    return v_row;
end;
$$;
comment on function app.adjust_contract(uuid, uuid, date) is
    'Body of public.adjust_contract; adjustments have no other writer, so it runs as the owner '
    'after checking the caller.';

create function public.adjust_contract(contract uuid, month date)
returns public.contract_adjustments
language plpgsql
set search_path = ''
as $$
declare
    v_org uuid := (select c.org_id from public.contracts as c where c.id = contract);
begin
    if v_org is null then
        perform app.raise_error('contract_not_found', 'There is no such contract.', null);
    end if;
    return app.adjust_contract(v_org, contract, month);
end;
$$;
comment on function public.adjust_contract(uuid, date) is
    'Adjusts a contract''s monthly value from a month on, by its index over the twelve months '
    'that end the month before (compound; a negative sum lowers the value). Errors: '
    'contract_not_found, not_allowed, contract_not_adjustable, contract_without_index, '
    'adjustment_in_future, contract_already_adjusted, index_values_missing.';

-- 2. Functions: alerts

create function app.notify_contract_alert(
    org uuid, contract uuid, kind text, due_on date, days_before integer
) returns void
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_template text := case kind when 'renewal' then 'contract_renewal_near' else 'contract_end_near' end;
    v_key text := format('contract_alert/%s/%s/%s/%s', contract, kind, due_on, days_before);
    v_link text := '/contracts/' || contract;
    v_contract record;
    v_data jsonb;
    v_manager uuid;
begin
    select c.*, k.name as client_name into v_contract
    from public.contracts as c
    inner join public.clients as k on c.org_id = k.org_id and c.client_id = k.id
    where c.org_id = notify_contract_alert.org and c.id = contract;
    v_data := jsonb_build_object(
        'number', v_contract.number, 'contract', v_contract.title,
        'client', v_contract.client_name, 'due_on', due_on,
        'days_left', due_on - app.org_today(org), 'mrr', v_contract.mrr
    );
    perform app.notify_role(org, 'contracts', 'write', v_template, v_data, v_key, v_link);
    -- The contract's managers, where they still are members; who has been told is not told twice.
    for v_manager in
        select m.user_id from public.memberships as m
        where
            m.org_id = notify_contract_alert.org
            and m.user_id in (v_contract.commercial_manager_id, v_contract.technical_manager_id)
        order by m.user_id
    loop
        perform app.notify(org, v_manager, v_template, v_data, v_key, v_link);
    end loop;
end;
$$;
comment on function app.notify_contract_alert(uuid, uuid, text, date, integer) is
    'Tells of an alert whoever may write contracts, and the contract''s managers, each once.';

create function app.raise_contract_alerts(org uuid) returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_today date := app.org_today(org);
    v_alert record;
    v_payload jsonb;
    v_renewal integer := 0;
    v_end integer := 0;
begin
    for v_alert in
        with near as (
            select
                c.id as contract_id, due.kind, due.due_on, due.due_on - v_today as days_left,
                case
                    when due.due_on - v_today <= 30 then 30
                    when due.due_on - v_today <= 60 then 60
                    else 90
                end as days_before
            from public.contracts as c
            cross join lateral (
                values ('renewal', c.renews_on), ('end', c.ends_on)
            ) as due (kind, due_on)
            where
                c.org_id = org and due.due_on between v_today and v_today + 90
                and app.is_in_force(c.status, c.starts_on, c.ends_on, v_today)
        ),
        stored as (
            insert into public.contract_alerts (org_id, contract_id, kind, due_on, days_before)
            select org, n.contract_id, n.kind, n.due_on, n.days_before
            from near as n
            order by n.contract_id, n.kind
            on conflict on constraint contract_alerts_once_key do nothing
            returning contract_id, kind
        )
        select n.*
        from near as n
        inner join stored as s on s.contract_id = n.contract_id and s.kind = n.kind
    loop
        v_payload := jsonb_build_object(
            'due_on', v_alert.due_on, 'days_left', v_alert.days_left,
            'days_before', v_alert.days_before
        );
        if v_alert.kind = 'renewal' then
            v_renewal := v_renewal + 1;
            perform app.record_event(
                org, 'fin', 'contract.renewal_near', 'contract', v_alert.contract_id, v_payload
            );
        else
            v_end := v_end + 1;
            perform app.record_event(
                org, 'fin', 'contract.end_near', 'contract', v_alert.contract_id, v_payload
            );
        end if;
        perform app.notify_contract_alert(
            org, v_alert.contract_id, v_alert.kind, v_alert.due_on, v_alert.days_before
        );
    end loop;
    return jsonb_build_object('renewal', v_renewal, 'end', v_end);
end;
$$;
comment on function app.raise_contract_alerts(uuid) is
    'Job: raises the alerts due today, as events and notifications; returns how many of each '
    'kind.';

-- 3. Triggers

create trigger contract_adjustments_70_emit
after insert on public.contract_adjustments
for each row execute function app.emit_event(
    'fin', 'contract_adjustment', '',
    'contract_id', 'month', 'adjustment_index', 'accumulated_pct', 'mrr_before', 'mrr_after'
);

create trigger contract_adjustments_80_audit
after insert or update or delete on public.contract_adjustments
for each row execute function app.audit_row();

-- 5. Access

select app.protect_table('public.contract_adjustments', 'contracts', null, '{select}');
select app.protect_table('public.contract_adjustment_lines', 'contracts', null, '{select}');
select app.protect_table('public.contract_alerts', 'contracts', null, '{select}');

grant execute on function
app.format_number_br(numeric, integer), app.format_month_br(date), app.index_series(text),
app.set_contract_mrr(uuid, uuid, numeric, text, date),
public.change_contract_mrr(uuid, numeric, text, date),
app.adjust_contract(uuid, uuid, date), public.adjust_contract(uuid, date)
to authenticated, service_role;
grant execute on function app.raise_contract_alerts(uuid) to service_role;

-- 6. Reference rows

insert into app.error_keys (key, http, meaning) values
('contract_not_adjustable', 409, 'Only an active or suspended contract is adjusted.'),
('contract_without_index', 422, 'The contract has no adjustment index.'),
('adjustment_in_future', 422, 'A contract is adjusted from a month that has begun.'),
('contract_already_adjusted', 409, 'The contract has been adjusted for this month.');

insert into app.event_types (module, event_type, description, payload_keys) values
(
    'fin', 'contract_adjustment.created', 'A contract''s monthly value was adjusted.',
    '{contract_id,month,adjustment_index,accumulated_pct,mrr_before,mrr_after}'
),
(
    'fin', 'contract.renewal_near', 'A contract renews within 90, 60 or 30 days.',
    '{due_on,days_left,days_before}'
),
(
    'fin', 'contract.end_near', 'A contract ends within 90, 60 or 30 days.',
    '{due_on,days_left,days_before}'
);
