-- Data indices: monthly figures of every organisation, reproducible for any past month.
-- Depends on: every module before it; states as recorded come from fin.
-- Asked for by: ness-os-data-massa "Phase 2", domain §4, issue 2 §3.

-- 1. Tables

create table public.index_definitions (
    index_key text primary key
        constraint index_definitions_index_key_check check (index_key ~ '^[a-z][a-z0-9_]*$'),
    module text not null,
    title text not null,
    unit text not null
        constraint index_definitions_unit_check
            check (unit in ('count', 'BRL', 'percent', 'hours')),
    grain text not null default 'month'
        constraint index_definitions_grain_check check (grain in ('month')),
    description text not null,
    version integer not null default 1
        constraint index_definitions_version_check check (version >= 1),
    function text not null unique
);
comment on table public.index_definitions is
    '[data] What each index means and how it is computed; the same for every organisation.';
comment on column public.index_definitions.title is 'Name shown to people, pt-BR.';
comment on column public.index_definitions.version is
    'Grows when the meaning changes; every stored value carries the version it was computed by.';
comment on column public.index_definitions.function is
    'Function in the schema app: (org uuid, month date) returns (value numeric, metadata jsonb).';

create table public.data_indices (
    org_id uuid not null references public.organizations (id) on delete cascade,
    period date not null
        constraint data_indices_period_check check (period = app.month_start(period)),
    index_key text not null references public.index_definitions (index_key),
    value numeric,
    metadata jsonb not null default '{}',
    definition_version integer not null,
    computed_at timestamptz not null default app.now(),
    primary key (org_id, period, index_key)
);
comment on table public.data_indices is
    '[data] Value of each index per month. Written by compute_data_indices; computing a month '
    'again gives the same unless data of that month arrived late.';
comment on column public.data_indices.period is 'First day of the month.';
comment on column public.data_indices.value is
    'In the unit of the definition; null where there was nothing to measure.';
comment on column public.data_indices.metadata is 'rows (how many were counted) and the inputs.';
comment on column public.data_indices.computed_at is 'When it was computed last.';
create index data_indices_index_key_idx on public.data_indices (index_key);

-- 2. Functions: what a past month is computed from

create function app.index_day(org uuid, month date) returns date
language sql
stable
set search_path = ''
as $$ select least(app.month_end(month), greatest(app.org_today(org), app.month_start(month))) $$;
comment on function app.index_day(uuid, date) is
    'Day a month''s book is read on: its last day, or today in the running month.';

create function app.index_range(org uuid, month date) returns tstzrange
language sql
stable
set search_path = ''
as $$
    select tstzrange(
        app.month_start(index_range.month)::timestamp at time zone z.zone,
        (app.month_start(index_range.month) + interval '1 month') at time zone z.zone
    )
    from app.month_zone(index_range.org, index_range.month) as z (zone)
$$;
comment on function app.index_range(uuid, date) is
    'The moments of a month in the zone the organisation had when it ended.';

create function app.states_at(org uuid, entity_type text, moment timestamptz)
returns table (entity_id uuid, state jsonb)
language sql
stable
set search_path = ''
as $$
    select l.entity_id, l.state
    from (
        select distinct on (s.entity_id) s.entity_id, s.state
        from public.recorded_states as s
        where
            s.org_id = states_at.org and s.entity_type = states_at.entity_type
            and s.recorded_at < states_at.moment
        order by s.entity_id, s.position desc
    ) as l
    where l.state is not null
$$;
comment on function app.states_at(uuid, text, timestamptz) is
    'Rows of a kind that existed just before a moment, as they were then.';

create function app.record_removal() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_row jsonb := to_jsonb(old);
begin
    if exists (select from public.organizations as o where o.id = old.org_id) then
        insert into public.recorded_states (
            org_id, entity_type, entity_id, position, state, recorded_at
        )
        select
            old.org_id, 'removed_' || tg_table_name, old.id, 1,
            jsonb_object_agg(given.name, v_row -> given.name), app.now()
        from unnest(tg_argv[0:]) as given (name)
        on conflict do nothing;
    end if;
    return null;
end;
$$;
comment on function app.record_removal() is
    'Trigger after delete (columns…): keeps the columns'' values, so that past months still count '
    'the row.';

create function app.record_lead_removal() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    if exists (select from public.organizations as o where o.id = old.org_id) then
        insert into public.recorded_states (
            org_id, entity_type, entity_id, position, state, recorded_at
        )
        select
            old.org_id, 'removed_leads', old.id, 1,
            jsonb_build_object(
                'created_at', old.created_at,
                'statuses', coalesce(
                    jsonb_agg(
                        jsonb_build_object('status', h.status, 'changed_at', h.changed_at)
                        order by h.position
                    ), '[]'
                )
            ),
            app.now()
        from public.lead_status_history as h
        where h.org_id = old.org_id and h.lead_id = old.id
        on conflict do nothing;
    end if;
    return old;
end;
$$;
comment on function app.record_lead_removal() is
    'Trigger before delete: keeps when a lead came and which statuses it took, nothing personal.';

create function app.leads_at(org uuid, moment timestamptz)
returns table (lead_id uuid, created_at timestamptz, status text, since timestamptz)
language sql
stable
set search_path = ''
as $$
    with statuses as (
        select l.id, l.created_at, h.status, h.changed_at, h.position
        from public.leads as l
        inner join public.lead_status_history as h on h.org_id = l.org_id and h.lead_id = l.id
        where l.org_id = leads_at.org
        union all
        select
            s.entity_id, (s.state ->> 'created_at')::timestamptz, h.item ->> 'status',
            (h.item ->> 'changed_at')::timestamptz, h.place::integer
        from public.recorded_states as s
        cross join lateral jsonb_array_elements(s.state -> 'statuses')
            with ordinality as h (item, place)
        where
            s.org_id = leads_at.org and s.entity_type = 'removed_leads'
            and s.recorded_at >= leads_at.moment
    )

    select distinct on (s.id) s.id, s.created_at, s.status, s.changed_at
    from statuses as s
    where s.changed_at < leads_at.moment
    order by s.id, s.position desc
$$;
comment on function app.leads_at(uuid, timestamptz) is
    'Leads that existed just before a moment with the status they had then and since when; also '
    'those deleted since.';

create function app.require_source(org uuid, month date, months integer) returns void
language plpgsql
stable
set search_path = ''
as $$
begin
    if app.month_start(month)
        < app.month_start(app.org_today(org)) - make_interval(months => months)
    then
        perform app.raise_error(
            'index_source_expired',
            format('The source of %s has passed its retention.', to_char(month, 'YYYY-MM')),
            'The stored value stands.'
        );
    end if;
end;
$$;
comment on function app.require_source(uuid, date, integer) is
    'Raises index_source_expired for a month whose source is kept for fewer months than it is old.';

-- 2. Functions: one per index

create function app.index_leads_mes(org uuid, month date)
returns table (value numeric, metadata jsonb)
language sql
stable
set search_path = ''
as $$
    select count(*)::numeric, jsonb_build_object('rows', count(*))
    from (
        select l.created_at from public.leads as l where l.org_id = index_leads_mes.org
        union all
        select (s.state ->> 'created_at')::timestamptz
        from public.recorded_states as s
        where s.org_id = index_leads_mes.org and s.entity_type = 'removed_leads'
    ) as came
    where came.created_at <@ app.index_range(index_leads_mes.org, index_leads_mes.month)
$$;
comment on function app.index_leads_mes(uuid, date) is 'Index leads_mes; see index_definitions.';

create function app.index_leads_by_stage(org uuid, month date)
returns table (value numeric, metadata jsonb)
language sql
stable
set search_path = ''
as $$
    with stages as (
        select stage.name, count(l.lead_id) as leads
        from unnest('{new,qualified,proposal,won,lost}'::text[]) as stage (name)
        left join app.leads_at(
            index_leads_by_stage.org,
            upper(app.index_range(index_leads_by_stage.org, index_leads_by_stage.month))
        ) as l on l.status = stage.name
        group by stage.name
    )

    select
        sum(s.leads) filter (where s.name not in ('won', 'lost')),
        jsonb_build_object('rows', sum(s.leads), 'stages', jsonb_object_agg(s.name, s.leads))
    from stages as s
$$;
comment on function app.index_leads_by_stage(uuid, date) is
    'Index leads_by_stage; see index_definitions.';

create function app.index_conversion_rate(org uuid, month date)
returns table (value numeric, metadata jsonb)
language sql
stable
set search_path = ''
as $$
    select
        round(100.0 * count(*) filter (where l.status = 'won') / nullif(count(*), 0), 2),
        jsonb_build_object(
            'rows', count(*), 'won', count(*) filter (where l.status = 'won'),
            'lost', count(*) filter (where l.status = 'lost')
        )
    from app.index_range(index_conversion_rate.org, index_conversion_rate.month) as r (range)
    cross join lateral app.leads_at(index_conversion_rate.org, upper(r.range)) as l
    where l.status in ('won', 'lost') and l.since <@ r.range
$$;
comment on function app.index_conversion_rate(uuid, date) is
    'Index conversion_rate; see index_definitions.';

create function app.index_contratos_ativos(org uuid, month date)
returns table (value numeric, metadata jsonb)
language sql
stable
set search_path = ''
as $$
    select
        count(b.contract_id)::numeric,
        jsonb_build_object('rows', count(b.contract_id), 'day', d.day)
    from app.index_day(index_contratos_ativos.org, index_contratos_ativos.month) as d (day)
    left join lateral app.contract_book(index_contratos_ativos.org, d.day) as b on true
    group by d.day
$$;
comment on function app.index_contratos_ativos(uuid, date) is
    'Index contratos_ativos; see index_definitions.';

create function app.index_mrr_total(org uuid, month date)
returns table (value numeric, metadata jsonb)
language sql
stable
set search_path = ''
as $$
    select
        coalesce(sum(b.mrr), 0),
        jsonb_build_object('rows', count(b.contract_id), 'day', d.day)
    from app.index_day(index_mrr_total.org, index_mrr_total.month) as d (day)
    left join lateral app.contract_book(index_mrr_total.org, d.day) as b on true
    group by d.day
$$;
comment on function app.index_mrr_total(uuid, date) is 'Index mrr_total; see index_definitions.';

create function app.index_active_clients(org uuid, month date)
returns table (value numeric, metadata jsonb)
language sql
stable
set search_path = ''
as $$
    select
        count(distinct b.client_id)::numeric,
        jsonb_build_object('rows', count(b.contract_id), 'day', d.day)
    from app.index_day(index_active_clients.org, index_active_clients.month) as d (day)
    left join lateral app.contract_book(index_active_clients.org, d.day) as b on true
    group by d.day
$$;
comment on function app.index_active_clients(uuid, date) is
    'Index active_clients; see index_definitions.';

create function app.index_average_margin_pct(org uuid, month date)
returns table (value numeric, metadata jsonb)
language sql
stable
set search_path = ''
as $$
    select
        round(100 * sum(r.margin) / nullif(sum(r.revenue), 0), 2),
        jsonb_build_object(
            'rows', count(*), 'revenue', coalesce(sum(r.revenue), 0),
            'margin', coalesce(sum(r.margin), 0)
        )
    from app.rentability(index_average_margin_pct.org, index_average_margin_pct.month) as r
$$;
comment on function app.index_average_margin_pct(uuid, date) is
    'Index average_margin_pct; see index_definitions.';

create function app.index_negative_margins(org uuid, month date)
returns table (value numeric, metadata jsonb)
language sql
stable
set search_path = ''
as $$
    select
        (count(*) filter (where r.margin < 0))::numeric,
        jsonb_build_object(
            'rows', count(*), 'loss', coalesce(-sum(r.margin) filter (where r.margin < 0), 0)
        )
    from app.rentability(index_negative_margins.org, index_negative_margins.month) as r
$$;
comment on function app.index_negative_margins(uuid, date) is
    'Index negative_margins; see index_definitions.';

create function app.index_renewals_30(org uuid, month date)
returns table (value numeric, metadata jsonb)
language sql
stable
set search_path = ''
as $$
    select r.mrr, jsonb_build_object('rows', r.contracts, 'day', d.day)
    from app.index_day(index_renewals_30.org, index_renewals_30.month) as d (day)
    cross join lateral app.renewals(index_renewals_30.org, d.day, 30) as r
$$;
comment on function app.index_renewals_30(uuid, date) is
    'Index renewals_30; see index_definitions.';

create function app.index_renewals_90(org uuid, month date)
returns table (value numeric, metadata jsonb)
language sql
stable
set search_path = ''
as $$
    select r.mrr, jsonb_build_object('rows', r.contracts, 'day', d.day)
    from app.index_day(index_renewals_90.org, index_renewals_90.month) as d (day)
    cross join lateral app.renewals(index_renewals_90.org, d.day, 90) as r
$$;
comment on function app.index_renewals_90(uuid, date) is
    'Index renewals_90; see index_definitions.';

create function app.index_top5_share_pct(org uuid, month date)
returns table (value numeric, metadata jsonb)
language sql
stable
set search_path = ''
as $$
    select
        app.top_share_pct(index_top5_share_pct.org, d.day, 5),
        jsonb_build_object(
            'rows', count(distinct b.client_id), 'mrr', coalesce(sum(b.mrr), 0), 'day', d.day
        )
    from app.index_day(index_top5_share_pct.org, index_top5_share_pct.month) as d (day)
    left join lateral app.contract_book(index_top5_share_pct.org, d.day) as b on true
    group by d.day
$$;
comment on function app.index_top5_share_pct(uuid, date) is
    'Index top5_share_pct; see index_definitions.';

create function app.index_index_exposure(org uuid, month date)
returns table (value numeric, metadata jsonb)
language sql
stable
set search_path = ''
as $$
    select
        coalesce(sum(b.mrr) filter (where b.adjustment_index in ('IPCA', 'IGPM', 'INPC')), 0),
        jsonb_build_object(
            'rows', count(b.contract_id), 'day', d.day,
            'by_index', app.index_exposure(index_index_exposure.org, d.day)
        )
    from app.index_day(index_index_exposure.org, index_index_exposure.month) as d (day)
    left join lateral app.contract_book(index_index_exposure.org, d.day) as b on true
    group by d.day
$$;
comment on function app.index_index_exposure(uuid, date) is
    'Index index_exposure; see index_definitions.';

create function app.index_erp_billed(org uuid, month date)
returns table (value numeric, metadata jsonb)
language plpgsql
stable
set search_path = ''
as $$
declare
    v_basis text := app.org_setting_on(org, 'reconciliation_basis', app.month_end(month)) #>> '{}';
begin
    perform app.require_source(org, month, 36);
    return query
    select
        case
            when app.is_erp_month_known(index_erp_billed.org, index_erp_billed.month)
            then coalesce(sum(s.value), 0)
        end,
        jsonb_build_object('rows', count(*), 'basis', v_basis)
    from public.erp_revenue_snapshot as s
    where
        s.org_id = index_erp_billed.org and s.basis = v_basis
        and s.month = app.month_start(index_erp_billed.month);
end;
$$;
comment on function app.index_erp_billed(uuid, date) is 'Index erp_billed; see index_definitions.';

create function app.index_erp_divergence(org uuid, month date)
returns table (value numeric, metadata jsonb)
language plpgsql
stable
set search_path = ''
as $$
begin
    perform app.require_source(org, month, 36);
    return query
    select
        b.value - c.revenue,
        jsonb_build_object(
            'rows', c.contracts, 'billed', b.value, 'revenue', c.revenue,
            'basis', b.metadata -> 'basis'
        )
    from app.index_erp_billed(index_erp_divergence.org, index_erp_divergence.month) as b
    cross join (
        select count(*) as contracts, coalesce(sum(v.revenue), 0) as revenue
        from app.contract_revenue(index_erp_divergence.org, index_erp_divergence.month) as v
    ) as c;
end;
$$;
comment on function app.index_erp_divergence(uuid, date) is
    'Index erp_divergence; see index_definitions.';

create function app.index_applications(org uuid, month date)
returns table (value numeric, metadata jsonb)
language sql
stable
set search_path = ''
as $$
    select count(*)::numeric, jsonb_build_object('rows', count(*))
    from (
        select a.created_at from public.job_applications as a
        where a.org_id = index_applications.org
        union all
        select (s.state ->> 'created_at')::timestamptz
        from public.recorded_states as s
        where s.org_id = index_applications.org and s.entity_type = 'removed_job_applications'
    ) as came
    where came.created_at <@ app.index_range(index_applications.org, index_applications.month)
$$;
comment on function app.index_applications(uuid, date) is
    'Index applications; see index_definitions.';

create function app.index_open_gaps(org uuid, month date)
returns table (value numeric, metadata jsonb)
language sql
stable
set search_path = ''
as $$
    with cut as (
        select upper(app.index_range(index_open_gaps.org, index_open_gaps.month)) as moment
    ),

    gaps as (
        select g.severity, g.detected_at, g.solved_at
        from public.training_gaps as g
        where g.org_id = index_open_gaps.org
        union all
        select
            s.state ->> 'severity', (s.state ->> 'detected_at')::timestamptz,
            (s.state ->> 'solved_at')::timestamptz
        from public.recorded_states as s
        inner join cut on s.recorded_at >= cut.moment
        where s.org_id = index_open_gaps.org and s.entity_type = 'removed_training_gaps'
    )

    select count(*)::numeric, jsonb_build_object('rows', count(*))
    from gaps as g
    inner join cut
        on g.detected_at < cut.moment and (g.solved_at is null or g.solved_at >= cut.moment)
$$;
comment on function app.index_open_gaps(uuid, date) is 'Index open_gaps; see index_definitions.';

create function app.index_policy_acceptance_pct(org uuid, month date)
returns table (value numeric, metadata jsonb)
language sql
stable
set search_path = ''
as $$
    with cut as materialized (
        select upper(
            app.index_range(index_policy_acceptance_pct.org, index_policy_acceptance_pct.month)
        ) as moment
    ),

    policies as (
        select distinct on (v.policy_id) v.policy_id, v.version
        from cut
        inner join public.policy_versions as v
            on v.org_id = index_policy_acceptance_pct.org and v.published_at < cut.moment
        inner join app.states_at(index_policy_acceptance_pct.org, 'policy', cut.moment) as s
            on s.entity_id = v.policy_id and s.state ->> 'status' <> 'archived'
        order by v.policy_id, v.version desc
    ),

    colleagues as (
        select s.entity_id as user_id
        from cut
        cross join lateral app.states_at(
            index_policy_acceptance_pct.org, 'membership', cut.moment
        ) as s
        where s.state ->> 'role' not in ('client', 'agent')
    ),

    asked as (
        select
            exists (
                select from public.policy_acceptances as a
                where
                    a.org_id = index_policy_acceptance_pct.org and a.policy_id = p.policy_id
                    and a.version = p.version and a.user_id = c.user_id
                    and a.accepted_at < cut.moment
            ) as is_accepted
        from policies as p
        cross join colleagues as c
        cross join cut
    )

    select
        round(100.0 * count(*) filter (where a.is_accepted) / nullif(count(*), 0), 2),
        jsonb_build_object(
            'rows', count(*), 'accepted', count(*) filter (where a.is_accepted),
            'policies', (select count(*) from policies),
            'people', (select count(*) from colleagues)
        )
    from asked as a
$$;
comment on function app.index_policy_acceptance_pct(uuid, date) is
    'Index policy_acceptance_pct; see index_definitions.';

create function app.index_playbooks_reviewed_pct(org uuid, month date)
returns table (value numeric, metadata jsonb)
language sql
stable
set search_path = ''
as $$
    select
        round(100.0 * count(*) filter (where b.is_on_time) / nullif(count(*), 0), 2),
        jsonb_build_object('rows', count(*), 'on_time', count(*) filter (where b.is_on_time))
    from (
        select
            coalesce(
                (s.state ->> 'last_reviewed_on')::date + (s.state ->> 'review_every_days')::integer
                > d.day, true
            ) as is_on_time
        from app.index_day(
            index_playbooks_reviewed_pct.org, index_playbooks_reviewed_pct.month
        ) as d (day)
        cross join lateral app.states_at(
            index_playbooks_reviewed_pct.org, 'playbook',
            app.day_end(index_playbooks_reviewed_pct.org, d.day)
        ) as s
        where s.state ->> 'status' = 'published'
    ) as b
$$;
comment on function app.index_playbooks_reviewed_pct(uuid, date) is
    'Index playbooks_reviewed_pct; see index_definitions.';

create function app.index_hours_logged(org uuid, month date)
returns table (value numeric, metadata jsonb)
language sql
stable
set search_path = ''
as $$
    select
        round(
            coalesce(
                sum(
                    extract(
                        epoch from least(e.ended_at, upper(r.range))
                        - greatest(e.started_at, lower(r.range))
                    )
                ), 0
            ) / 3600, 2
        ),
        jsonb_build_object('rows', count(*), 'people', count(distinct e.user_id))
    from app.index_range(index_hours_logged.org, index_hours_logged.month) as r (range)
    inner join public.time_entries as e
        on
            e.org_id = index_hours_logged.org
            and e.started_at < upper(r.range) and e.ended_at > lower(r.range)
$$;
comment on function app.index_hours_logged(uuid, date) is
    'Index hours_logged; see index_definitions.';

-- 3. Triggers

create trigger leads_60_record_removal
before delete on public.leads
for each row execute function app.record_lead_removal();

create trigger job_applications_60_record_removal
after delete on public.job_applications
for each row execute function app.record_removal('created_at');

create trigger training_gaps_60_record_removal
after delete on public.training_gaps
for each row execute function app.record_removal('detected_at', 'solved_at', 'severity');

create trigger playbooks_60_record
after insert or update of status, last_reviewed_on, review_every_days or delete
on public.playbooks
for each row execute function
app.record_state('playbook', 'status', 'last_reviewed_on', 'review_every_days');

create trigger policies_60_record
after insert or update of status or delete on public.policies
for each row execute function app.record_state('policy', 'status');

create trigger memberships_60_record
after insert or update of role or delete on public.memberships
for each row execute function app.record_state('membership', 'role');

-- 5. Access

select app.protect_table('public.data_indices', 'data', null, '{select}');
-- Written by compute_data_indices, by nobody else.
revoke insert, update, delete on public.data_indices from service_role;

alter table public.index_definitions enable row level security;
alter table public.index_definitions force row level security;
create policy index_definitions_select on public.index_definitions for select
to authenticated using (true);
create policy index_definitions_select_analyst on public.index_definitions for select
to analyst using (true);
grant select on public.index_definitions to authenticated, service_role, analyst;

-- 6. Reference rows

insert into app.error_keys (key, http, meaning) values
('index_source_expired', 422, 'The data the index is made of has passed its retention.');

insert into public.index_definitions (
    index_key, module, title, unit, description, function
) values
(
    'leads_mes', 'crm', 'Leads no mês', 'count',
    'Leads created in the month, deleted ones included.', 'index_leads_mes'
),
(
    'leads_by_stage', 'crm', 'Leads por etapa', 'count',
    'Leads in the funnel (new, qualified, proposal) at the end of the month by their recorded '
    'status; metadata.stages has every stage.', 'index_leads_by_stage'
),
(
    'conversion_rate', 'crm', 'Taxa de conversão', 'percent',
    'Of the leads decided in the month (won or lost, as they stood at its end), the share won; '
    'null without any.', 'index_conversion_rate'
),
(
    'contratos_ativos', 'contracts', 'Contratos ativos', 'count',
    'Contracts in force on the last day of the month as recorded by then; later changes do not '
    'count, a contract registered later counts as it says.', 'index_contratos_ativos'
),
(
    'mrr_total', 'contracts', 'MRR total', 'BRL',
    'Monthly value of the contracts of contratos_ativos on that day.', 'index_mrr_total'
),
(
    'active_clients', 'contracts', 'Clientes ativos', 'count',
    'Clients with at least one of the contracts of contratos_ativos.', 'index_active_clients'
),
(
    'average_margin_pct', 'fin', 'Margem média', 'percent',
    'All margin over all revenue of the month (contract_rentability). Costs and values entered '
    'late for the month are reflected.', 'index_average_margin_pct'
),
(
    'negative_margins', 'fin', 'Contratos com margem negativa', 'count',
    'Contracts that lost money in the month (contract_rentability). Costs and values entered late '
    'for the month are reflected.', 'index_negative_margins'
),
(
    'renewals_30', 'contracts', 'Renovações em 30 dias', 'BRL',
    'Monthly value of the contracts of contratos_ativos that renew or end within 30 days of the '
    'last day, by the dates recorded then.', 'index_renewals_30'
),
(
    'renewals_90', 'contracts', 'Renovações em 90 dias', 'BRL',
    'The same within 90 days.', 'index_renewals_90'
),
(
    'top5_share_pct', 'contracts', 'Concentração nos 5 maiores clientes', 'percent',
    'Share of the five largest clients in mrr_total; null without any.', 'index_top5_share_pct'
),
(
    'index_exposure', 'contracts', 'Exposição a índices', 'BRL',
    'Part of mrr_total adjusted by IPCA, IGP-M or INPC, by the terms recorded then; '
    'metadata.by_index has every index.', 'index_index_exposure'
),
(
    'erp_billed', 'data', 'Faturado no ERP', 'BRL',
    'Revenue of the ERP for the month on the basis reconciliation_basis. A snapshot revised later '
    'is reflected; computable for 36 months; null while the ERP has not told of the month.',
    'index_erp_billed'
),
(
    'erp_divergence', 'fin', 'Divergência com o ERP', 'BRL',
    'erp_billed minus the contracts'' revenue by days in force; positive: more was billed; null as '
    'erp_billed. Late data is reflected; computable for 36 months.', 'index_erp_divergence'
),
(
    'applications', 'people', 'Candidaturas no mês', 'count',
    'Applications received in the month, deleted ones included.', 'index_applications'
),
(
    'open_gaps', 'people', 'Lacunas de treinamento abertas', 'count',
    'Training gaps detected by the end of the month and not solved by then.', 'index_open_gaps'
),
(
    'policy_acceptance_pct', 'gov', 'Aceite de políticas', 'percent',
    'Of all pairs of a colleague and a published policy at the end of the month, the share whose '
    'then current version was accepted by then; null without any.', 'index_policy_acceptance_pct'
),
(
    'playbooks_reviewed_pct', 'ops', 'Playbooks revisados em dia', 'percent',
    'Of the playbooks published at the end of the month, the share not due for review by the dates '
    'recorded then; without a review interval a playbook is on time.',
    'index_playbooks_reviewed_pct'
),
(
    'hours_logged', 'ops', 'Horas registradas', 'hours',
    'Hours of ended time entries inside the month; an entry across its end counts with its part. '
    'Time entered late for the month is reflected.', 'index_hours_logged'
);
