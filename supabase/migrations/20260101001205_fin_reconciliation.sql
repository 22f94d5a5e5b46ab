-- Fin reconciliation: contracted against billed, per client and month, with alerts.
-- Depends on: core, core_access, core_audit, events, data_snapshots, contracts, fin.
-- Asked for by: domain §5 (fin), issue 2 §4.

-- 1. Tables

create table public.reconciliation_alerts (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    client_id uuid not null,
    month date not null
        constraint reconciliation_alerts_month_check check (month = app.month_start(month)),
    basis text not null
        constraint reconciliation_alerts_basis_check check (basis in ('issued', 'received')),
    mrr numeric(14, 2) not null,
    billed numeric(14, 2) not null,
    difference numeric(14, 2) not null generated always as (billed - mrr) stored,
    status text not null default 'open'
        constraint reconciliation_alerts_status_check
            check (status in ('open', 'acknowledged', 'solved')),
    resolution text
        constraint reconciliation_alerts_resolution_check
            check (resolution in ('gone', 'accepted')),
    note text constraint reconciliation_alerts_note_check check (length(note) <= 1000),
    acknowledged_at timestamptz,
    solved_at timestamptz,
    created_at timestamptz not null default app.now(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, client_id, month),
    foreign key (org_id, client_id) references public.clients (org_id, id) on delete cascade,
    constraint reconciliation_alerts_solved_check
        check ((status = 'solved') = (solved_at is not null and resolution is not null))
);
comment on table public.reconciliation_alerts is
    '[fin] Clients whose month was billed otherwise than contracted: |billed - mrr| above 5 % of '
    'the mrr and above R$ 50. Written by reconcile_erp; people acknowledge or accept.';
comment on column public.reconciliation_alerts.basis is 'Which revenue of the ERP was compared.';
comment on column public.reconciliation_alerts.mrr is
    'BRL contracted for the month, by days in force; as of the last reconciliation.';
comment on column public.reconciliation_alerts.billed is
    'BRL in the ERP for the month; as of the last reconciliation.';
comment on column public.reconciliation_alerts.difference is
    'BRL billed beyond the contracts; negative when too little was billed.';
comment on column public.reconciliation_alerts.resolution is
    'gone: the difference disappeared; accepted: a person accepted it. Set exactly while solved.';
comment on column public.reconciliation_alerts.note is '[pii] What the person who took it wrote.';
create index reconciliation_alerts_month_idx on public.reconciliation_alerts (org_id, month);
create index reconciliation_alerts_live_idx on public.reconciliation_alerts (org_id)
where status <> 'solved';

-- 2. Functions

create function app.reconciliation(org uuid, month date)
returns table (
    client_id uuid, client_name text, omie_codigo bigint, basis text, mrr numeric, billed numeric,
    difference numeric, tolerance numeric, is_divergent boolean
)
language sql
stable
set search_path = ''
as $$
    with rule as materialized (
        select app.org_setting_on(
            reconciliation.org, 'reconciliation_basis', app.month_end(reconciliation.month)
        ) #>> '{}' as basis
    ),

    contracted as (
        select v.client_id, sum(v.revenue) as mrr
        from app.contract_revenue(reconciliation.org, reconciliation.month) as v
        group by v.client_id
    ),

    billed as (
        select s.omie_codigo, sum(s.value) as value
        from public.erp_revenue_snapshot as s
        inner join rule on s.basis = rule.basis
        where
            s.org_id = reconciliation.org
            and s.month = app.month_start(reconciliation.month)
        group by s.omie_codigo
    ),

    known as (
        select k.id, k.name, k.omie_codigo
        from public.clients as k where k.org_id = reconciliation.org
    ),

    compared as (
        select
            k.id, k.name, coalesce(k.omie_codigo, b.omie_codigo) as omie_codigo,
            coalesce(c.mrr, 0) as mrr, coalesce(b.value, 0) as billed
        from known as k
        full join billed as b on b.omie_codigo = k.omie_codigo
        left join contracted as c on c.client_id = k.id
        where c.client_id is not null or b.omie_codigo is not null
    )

    select
        c.id, c.name, c.omie_codigo, rule.basis, c.mrr, c.billed, c.billed - c.mrr,
        round(t.tolerance, 2), abs(c.billed - c.mrr) > t.tolerance
    from compared as c
    cross join rule
    cross join lateral (select greatest(c.mrr * 0.05, 50) as tolerance) as t
$$;
comment on function app.reconciliation(uuid, date) is
    'Contracted against billed per client and month, and billings whose code belongs to no client '
    '(client_id null). Divergent above both 5 % of the mrr and R$ 50. As far as the caller reads.';

create function app.is_erp_month_known(org uuid, month date) returns boolean
language sql
stable
set search_path = ''
as $$
    select
        exists (
            select from public.erp_revenue_snapshot as s
            where
                s.org_id = is_erp_month_known.org
                and s.month = app.month_start(is_erp_month_known.month)
        )
        or exists (
            select from public.erp_sync_log as l
            where
                l.org_id = is_erp_month_known.org and l.entity = 'revenue'
                and app.month_start(is_erp_month_known.month)
                between coalesce(l.since, l.month) and l.month
                and l.status = 'succeeded'
        )
$$;
comment on function app.is_erp_month_known(uuid, date) is
    'Whether the ERP has told anything of the month''s revenue; without it nothing is compared.';

create function app.reconcile_erp(org uuid, month date)
returns setof public.reconciliation_alerts
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_month date := app.month_start(reconcile_erp.month);
begin
    perform app.require_access(reconcile_erp.org, 'fin', 'write');
    if v_month is null or v_month > app.org_today(reconcile_erp.org) then
        perform app.raise_error('bad_input', 'month is missing or has not begun.', null);
    elsif not app.is_erp_month_known(reconcile_erp.org, v_month) then
        perform app.raise_error(
            'erp_month_unknown',
            format('The ERP has no revenue of %s.', to_char(v_month, 'YYYY-MM')),
            'Synchronise the revenue of the ERP first.'
        );
    end if;
    perform pg_advisory_xact_lock(hashtextextended('reconcile_erp/' || reconcile_erp.org, 0));

    insert into public.reconciliation_alerts as a (org_id, client_id, month, basis, mrr, billed)
    select reconcile_erp.org, r.client_id, v_month, r.basis, r.mrr, r.billed
    from app.reconciliation(reconcile_erp.org, v_month) as r
    where r.is_divergent and r.client_id is not null
    order by r.client_id
    on conflict on constraint reconciliation_alerts_org_id_client_id_month_key do update set
        basis = excluded.basis, mrr = excluded.mrr, billed = excluded.billed,
        status = case when a.status = 'solved' then 'open' else a.status end,
        acknowledged_at = case when a.status <> 'solved' then a.acknowledged_at end,
        resolution = null, solved_at = null
    where
        (a.basis, a.mrr, a.billed) is distinct from (excluded.basis, excluded.mrr, excluded.billed)
        or a.resolution = 'gone';

    update public.reconciliation_alerts as a set
        basis = s.basis, mrr = s.mrr, billed = s.billed,
        status = 'solved', resolution = 'gone', solved_at = app.now()
    from (
        select
            o.id, coalesce(r.mrr, 0) as mrr, coalesce(r.billed, 0) as billed,
            coalesce(r.basis, o.basis) as basis
        from public.reconciliation_alerts as o
        left join app.reconciliation(reconcile_erp.org, v_month) as r on r.client_id = o.client_id
        where
            o.org_id = reconcile_erp.org and o.month = v_month and o.status <> 'solved'
            and r.is_divergent is not true
    ) as s
    where a.org_id = reconcile_erp.org and a.id = s.id;

    return query
    select a.* from public.reconciliation_alerts as a
    where a.org_id = reconcile_erp.org and a.month = v_month
    order by abs(a.difference) desc, a.id;
end;
$$;
comment on function app.reconcile_erp(uuid, date) is
    'Body of public.reconcile_erp; definer because alerts have no other writer.';

create function public.reconcile_erp(org uuid, month date)
returns setof public.reconciliation_alerts
language sql
set search_path = ''
as $$ select * from app.reconcile_erp(org, month) $$;
comment on function public.reconcile_erp(uuid, date) is
    'Compares the month''s contracts with the ERP: opens alerts, refreshes them, solves those '
    'whose difference is gone; again changes nothing. An accepted difference stays solved until it '
    'changes. Returns the month''s alerts. Errors: not_allowed, bad_input, erp_month_unknown.';

create function app.reconcile_erp_last_month(org uuid) returns integer
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_month date := app.month_start(app.month_start(app.org_today(org)) - 1);
begin
    if not app.is_erp_month_known(org, v_month) then
        return 0;
    end if;
    return (select count(*) from app.reconcile_erp(org, v_month));
end;
$$;
comment on function app.reconcile_erp_last_month(uuid) is
    'Job: reconciles the month before, once the ERP has told of it. Returns how many alerts the '
    'month has.';

create function app.answer_reconciliation_alert(org uuid, alert uuid, status text, note text)
returns public.reconciliation_alerts
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_note text := app.clean_text(answer_reconciliation_alert.note, 1000);
    v_row public.reconciliation_alerts;
begin
    perform app.require_access(answer_reconciliation_alert.org, 'fin', 'write');
    select * into v_row from public.reconciliation_alerts as a
    where a.org_id = answer_reconciliation_alert.org and a.id = alert
    for update;
    if v_row.status = answer_reconciliation_alert.status then
        return v_row;
    end if;
    update public.reconciliation_alerts as a set
        status = answer_reconciliation_alert.status,
        note = coalesce(v_note, a.note),
        acknowledged_at = coalesce(a.acknowledged_at, app.now()),
        solved_at = case when answer_reconciliation_alert.status = 'solved' then app.now() end,
        resolution = case when answer_reconciliation_alert.status = 'solved' then 'accepted' end
    where a.org_id = answer_reconciliation_alert.org and a.id = alert
    returning a.* into v_row;
    return v_row;
end;
$$;
comment on function app.answer_reconciliation_alert(uuid, uuid, text, text) is
    'Body of acknowledge_reconciliation_alert and accept_reconciliation_alert.';

create function public.acknowledge_reconciliation_alert(alert uuid, note text default null)
returns public.reconciliation_alerts
language plpgsql
set search_path = ''
as $$
declare
    v_org uuid := (select a.org_id from public.reconciliation_alerts as a where a.id = alert);
begin
    if v_org is null then
        perform app.raise_error('reconciliation_alert_not_found', null, null);
    end if;
    return app.answer_reconciliation_alert(v_org, alert, 'acknowledged', note);
end;
$$;
comment on function public.acknowledge_reconciliation_alert(uuid, text) is
    'Somebody has taken the alert up; again returns it unchanged. Errors: not_allowed, '
    'reconciliation_alert_not_found, reconciliation_alert_move_refused.';

create function public.accept_reconciliation_alert(alert uuid, note text)
returns public.reconciliation_alerts
language plpgsql
set search_path = ''
as $$
declare
    v_org uuid := (select a.org_id from public.reconciliation_alerts as a where a.id = alert);
begin
    if v_org is null then
        perform app.raise_error('reconciliation_alert_not_found', null, null);
    elsif note ~ '\S' is not true then
        perform app.raise_error(
            'bad_input', 'note is missing.', 'Say why the difference is right.'
        );
    end if;
    return app.answer_reconciliation_alert(v_org, alert, 'solved', note);
end;
$$;
comment on function public.accept_reconciliation_alert(uuid, text) is
    'Solves an alert by explaining its difference; it opens again only when the difference '
    'changes. Errors: not_allowed, bad_input, reconciliation_alert_not_found.';

-- 3. Triggers

create trigger reconciliation_alerts_10_guard_status
before update of status on public.reconciliation_alerts
for each row when (old.status is distinct from new.status)
execute function app.guard_move('reconciliation_alert', 'status');

create trigger reconciliation_alerts_70_emit
after insert or update or delete on public.reconciliation_alerts
for each row execute function app.emit_event(
    'fin', 'reconciliation_alert', 'status', 'client_id', 'month', 'mrr', 'billed', 'resolution'
);

create trigger reconciliation_alerts_80_audit
after insert or update or delete on public.reconciliation_alerts
for each row execute function app.audit_row();

-- 5. Access

select app.protect_table('public.reconciliation_alerts', 'fin', null, '{select}');

grant execute on function
app.reconciliation(uuid, date), app.is_erp_month_known(uuid, date), app.reconcile_erp(uuid, date),
app.answer_reconciliation_alert(uuid, uuid, text, text), public.reconcile_erp(uuid, date),
public.acknowledge_reconciliation_alert(uuid, text), public.accept_reconciliation_alert(uuid, text)
to authenticated, service_role;
grant execute on function app.reconcile_erp_last_month(uuid) to service_role;

-- 6. Reference rows

insert into app.setting_definitions (
    key, kind, minimum, maximum, choices, default_value, description
) values
(
    'reconciliation_basis', 'choice', null, null, '{issued,received}', '"issued"',
    'Which revenue of the ERP contracts are reconciled with.'
);

insert into app.error_keys (key, http, meaning) values
('erp_month_unknown', 422, 'The ERP has not told of the month''s revenue.'),
('reconciliation_alert_not_found', 404, 'There is no such alert, or the caller may not see it.'),
(
    'reconciliation_alert_move_refused', 409,
    'The alert cannot take this status from the one it has.'
);

insert into app.allowed_moves (machine, from_state, to_state) values
('reconciliation_alerts', 'open', 'acknowledged'),
('reconciliation_alerts', 'open', 'solved'),
('reconciliation_alerts', 'acknowledged', 'solved'),
('reconciliation_alerts', 'solved', 'open');

insert into app.event_types (module, event_type, description, payload_keys) values
(
    'fin', 'reconciliation_alert.created',
    'A client''s month was billed otherwise than contracted.',
    '{client_id,month,mrr,billed,resolution,status}'
),
(
    'fin', 'reconciliation_alert.open', 'A solved difference is back or has changed.',
    '{client_id,month,mrr,billed,resolution,status,changed}'
),
(
    'fin', 'reconciliation_alert.acknowledged', 'Somebody took a difference up.',
    '{client_id,month,mrr,billed,resolution,status,changed}'
),
(
    'fin', 'reconciliation_alert.solved', 'A difference is gone or was accepted.',
    '{client_id,month,mrr,billed,resolution,status,changed}'
),
(
    'fin', 'reconciliation_alert.updated', 'The amounts of a difference changed.',
    '{client_id,month,mrr,billed,resolution,status,changed}'
),
(
    'fin', 'reconciliation_alert.deleted', 'An alert was removed with its client.',
    '{client_id,month,mrr,billed,resolution,status}'
);
