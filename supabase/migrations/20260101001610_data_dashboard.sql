-- Data dashboard: computing and reading the indices, the data page, retention.
-- Depends on: core, core_access, events, cron, data_snapshots, data_indices.
-- Asked for by: ness-os-data-massa "O que foi implementado", domain §4 and §6 (indices, retention).

-- 2. Functions: computing

create function app.compute_data_indices(org uuid, period date)
returns table (index_key text, value numeric, metadata jsonb, error text)
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_period date := app.month_start(compute_data_indices.period);
    v_definition public.index_definitions;
    v_failed text[] := '{}';
begin
    perform app.require_access(compute_data_indices.org, 'data', 'write');
    if v_period is null or v_period > app.org_today(compute_data_indices.org) then
        perform app.raise_error('bad_input', 'period is missing or has not begun.', null);
    end if;
    perform pg_advisory_xact_lock(
        hashtextextended('compute_data_indices/' || compute_data_indices.org, 0)
    );
    for v_definition in select d.* from public.index_definitions as d order by d.index_key loop
        index_key := v_definition.index_key;
        value := null;
        metadata := null;
        error := null;
        begin
            execute format(
                'select i.value, i.metadata from app.%I($1, $2) as i', v_definition.function
            )
            into strict value, metadata
            using compute_data_indices.org, v_period;
            insert into public.data_indices as i (
                org_id, period, index_key, value, metadata, definition_version
            ) values (
                compute_data_indices.org, v_period, v_definition.index_key, value, metadata,
                v_definition.version
            )
            on conflict on constraint data_indices_pkey do update set
                value = excluded.value, metadata = excluded.metadata,
                definition_version = excluded.definition_version, computed_at = app.now();
        exception when others then
            -- One index that fails is reported; its stored value and the others stand.
            error := sqlerrm;
            v_failed := v_failed || v_definition.index_key;
        end;
        return next;
    end loop;
    perform app.record_event(
        compute_data_indices.org, 'data', 'indices.computed', 'data_indices', null,
        jsonb_build_object('period', v_period, 'failed', to_jsonb(v_failed))
    );
end;
$$;
comment on function app.compute_data_indices(uuid, date) is
    'Body of public.compute_data_indices; definer because indices have no other writer and count '
    'rows of every module.';

create function public.compute_data_indices(org uuid, period date)
returns table (index_key text, value numeric, metadata jsonb, error text)
language sql
set search_path = ''
as $$ select * from app.compute_data_indices(org, period) $$;
comment on function public.compute_data_indices(uuid, date) is
    'Computes and stores every index of the month a day lies in, past or running; again gives the '
    'same. error tells of an index that failed and was left as it stood. Needs data write. Errors: '
    'not_allowed, bad_input.';

create function app.compute_recent_indices(org uuid) returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_month date := app.month_start(app.org_today(org));
    v_computed integer;
    v_failed jsonb;
begin
    select
        count(*) filter (where c.error is null),
        coalesce(
            jsonb_object_agg(format('%s/%s', m.month, c.index_key), c.error)
            filter (where c.error is not null), '{}'
        )
    into v_computed, v_failed
    from unnest(array[(v_month - interval '1 month')::date, v_month]) as m (month)
    cross join lateral app.compute_data_indices(compute_recent_indices.org, m.month) as c;
    return jsonb_build_object('computed', v_computed, 'failed', v_failed);
end;
$$;
comment on function app.compute_recent_indices(uuid) is
    'Job: the month before and the running one. Returns {computed, failed}; failed maps '
    'month/index to its error.';

-- 2. Functions: reading

create function public.get_data_indices(
    org uuid, period date default null, index_key text default null, max_rows integer default 100
) returns setof public.data_indices
language sql
stable
set search_path = ''
as $$
    select i.*
    from public.data_indices as i
    where
        i.org_id = get_data_indices.org
        and (
            get_data_indices.period is null
            or i.period = app.month_start(get_data_indices.period)
        )
        and (
            get_data_indices.index_key is null or i.index_key = get_data_indices.index_key
        )
    order by i.period desc, i.index_key
    limit least(greatest(get_data_indices.max_rows, 1), 1000)
$$;
comment on function public.get_data_indices(uuid, date, text, integer) is
    'Stored indices of a month, of a key, or the latest max_rows (at most 1000), newest first.';

create function public.get_data_dashboard_summary(org uuid) returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
    perform app.require_access(get_data_dashboard_summary.org, 'data', 'read');
    return jsonb_build_object(
        'last_erp_revenue_period', (
            select max(s.month) from public.erp_revenue_snapshot as s
            where s.org_id = get_data_dashboard_summary.org
        ),
        'last_bcb_rates_date', (select max(b.date) from public.bcb_rates_snapshot as b),
        'events_total', (
            select count(*) from public.module_events as e
            where e.org_id = get_data_dashboard_summary.org
        ),
        'event_aggregates_count', (
            select count(*) from public.event_aggregates as a
            where a.org_id = get_data_dashboard_summary.org
        ),
        'recent_event_aggregates', coalesce(
            (
                select jsonb_agg(to_jsonb(a) - '{org_id,updated_at}'::text[])
                from public.get_event_aggregates(get_data_dashboard_summary.org, null, 10) as a
            ), '[]'
        ),
        'last_data_indices_period', (
            select max(i.period) from public.data_indices as i
            where i.org_id = get_data_dashboard_summary.org
        ),
        'data_indices_count', (
            select count(*) from public.data_indices as i
            where i.org_id = get_data_dashboard_summary.org
        ),
        'recent_data_indices', coalesce(
            (
                select
                    jsonb_agg(
                        to_jsonb(i) - '{org_id,metadata,definition_version}'::text[]
                        || jsonb_build_object('title', d.title, 'unit', d.unit)
                        order by i.period desc, i.index_key
                    )
                from public.get_data_indices(get_data_dashboard_summary.org, null, null, 20) as i
                inner join public.index_definitions as d on d.index_key = i.index_key
            ), '[]'
        )
    );
end;
$$;
comment on function public.get_data_dashboard_summary(uuid) is
    'What the data page shows: last ERP revenue period and BCB date, events and aggregates with '
    'the latest 10, indices with the latest 20. Errors: not_allowed.';

-- 2. Functions: retention

create function app.run_retention() returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_month date := app.month_start(app.org_today(null));
    v_revenue bigint;
    v_erp_syncs bigint;
    v_syncs bigint;
    v_aggregates bigint;
    v_hits bigint;
    v_notifications bigint;
    v_runs bigint;
    v_webhooks bigint;
    v_chats bigint;
    v_ai_texts bigint;
    v_partitions integer;
    v_months integer;
begin
    if not pg_try_advisory_xact_lock(hashtextextended('app.run_retention', 0)) then
        return jsonb_build_object('skipped', true);
    end if;
    delete from public.erp_revenue_snapshot as s where s.month < v_month - interval '36 months';
    get diagnostics v_revenue = row_count;
    delete from public.erp_sync_log as l where l.started_at < v_month - interval '36 months';
    get diagnostics v_erp_syncs = row_count;
    delete from public.bcb_sync_log as b where b.started_at < v_month - interval '24 months';
    get diagnostics v_syncs = row_count;
    delete from public.event_aggregates as a where a.period < v_month - interval '24 months';
    get diagnostics v_aggregates = row_count;
    delete from app.rate_hits as h where h.hit_at < app.now() - interval '1 day';
    get diagnostics v_hits = row_count;
    delete from public.notifications as n where n.created_at < v_month - interval '12 months';
    get diagnostics v_notifications = row_count;
    -- A job of every minute mostly finds nothing to do.
    delete from app.cron_runs as r
    where
        r.scheduled_at < app.now() - interval '90 days'
        or (
            r.scheduled_at < app.now() - interval '2 days'
            and r.status = 'succeeded' and r.rows = 0
        );
    get diagnostics v_runs = row_count;
    v_webhooks := app.remove_old_webhook_deliveries();
    v_chats := app.remove_old_visitor_chats();
    v_ai_texts := app.forget_ai_calls();
    -- A partition holds the events of everybody: it stays as long as anybody wants it.
    select coalesce(max((app.org_setting(o.id, 'event_retention_months'))::integer), 24)
    into v_months
    from public.organizations as o;
    v_partitions := app.drop_event_partitions(
        (v_month - make_interval(months => v_months))::date
    );
    return jsonb_build_object(
        'skipped', false, 'erp_revenue_snapshot', v_revenue, 'erp_sync_log', v_erp_syncs,
        'bcb_sync_log', v_syncs, 'event_aggregates', v_aggregates, 'rate_hits', v_hits,
        'notifications', v_notifications, 'cron_runs', v_runs, 'webhook_deliveries', v_webhooks,
        'visitor_chats', v_chats, 'ai_texts', v_ai_texts, 'event_partitions', v_partitions,
        'event_retention_months', v_months
    );
end;
$$;
comment on function app.run_retention() is
    'Job: removes revenue snapshots and the log of ERP runs beyond 36 months, syncs of rates and '
    'aggregates beyond 24, events beyond the longest event_retention_months, notifications beyond '
    '12 months, rate hits beyond a day, runs of the timetable beyond 90 days, those that found '
    'nothing to do beyond two, deliveries to webhook endpoints beyond webhook_retention_days, '
    'conversations of visitors beyond chat_visitor_retention_days, texts of calls of language '
    'models beyond 90 days and the calls beyond 24 months. Returns what it removed.';

-- 5. Access

grant execute on function
app.compute_data_indices(uuid, date), public.compute_data_indices(uuid, date),
public.get_data_indices(uuid, date, text, integer), public.get_data_dashboard_summary(uuid)
to authenticated, service_role;
grant execute on function app.compute_recent_indices(uuid), app.run_retention() to service_role;

-- 6. Reference rows

insert into app.setting_definitions (
    key, kind, minimum, maximum, choices, default_value, description
) values
(
    'event_retention_months', 'integer', 24, 120, null, '24',
    'Months events are kept at least; the longest of all organisations decides.'
);

insert into app.event_types (module, event_type, description, payload_keys) values
('data', 'indices.computed', 'The indices of a month were computed.', '{period,failed}');
