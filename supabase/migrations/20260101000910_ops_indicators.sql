-- Ops, indicators: measurements that outside systems send in, one by one or in batches, by API key.
-- Depends on: core, core_access, core_audit, events, contracts.
-- Asked for by: domain §5 ops (indicators), ness.OS's interface for ingesting them.

-- 1. Tables

create table public.indicators (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    source text not null
        constraint indicators_source_check check (source in ('Infra', 'Sec', 'Data', 'Custom')),
    contract_id uuid,
    metric_type text not null
        constraint indicators_metric_type_check check (length(metric_type) between 1 and 100),
    value numeric not null
        constraint indicators_value_check
            check (value > '-infinity' and value < 'infinity' and length(value::text) <= 50),
    unit text constraint indicators_unit_check check (length(unit) between 1 and 40),
    period date not null,
    metadata jsonb not null default '{}'
        constraint indicators_metadata_check
            check (jsonb_typeof(metadata) = 'object' and length(metadata::text) <= 10000),
    idempotency_key text not null
        constraint indicators_idempotency_key_check
            check (length(idempotency_key) between 1 and 200),
    created_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, idempotency_key),
    foreign key (org_id, contract_id) references public.contracts (org_id, id) deferrable
);
comment on table public.indicators is
    '[ops] Measurements that outside systems send in: availability, incidents, volumes. '
    'Written by the server only.';
comment on column public.indicators.contract_id is 'Null = concerns the whole organisation.';
comment on column public.indicators.unit is
    'Of value, as sent (%, GB, count …); null = a bare number.';
comment on column public.indicators.period is 'Day measured, or first day of a longer period.';
comment on column public.indicators.idempotency_key is
    'The sender''s name for this measurement; the same one is stored once.';
create index indicators_contract_id_idx
on public.indicators (org_id, contract_id, metric_type, period);
create index indicators_period_idx on public.indicators (org_id, period);

-- 2. Functions

create function app.store_indicator(org uuid, indicator jsonb, idempotency_key text)
returns jsonb
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_metric_type text := btrim(indicator ->> 'metric_type');
    v_metadata jsonb := coalesce(nullif(indicator -> 'metadata', 'null'), '{}');
    v_contract uuid;
    v_value numeric;
    v_id uuid;
    v_stored public.indicators;
begin
    if jsonb_typeof(indicator) is distinct from 'object' then
        perform app.raise_error(
            'bad_input', 'indicator: is not an object.', 'Send {"source", "metric_type", "value"}.'
        );
    end if;
    if not pg_catalog.pg_input_is_valid(coalesce(indicator ->> 'value', ''), 'numeric') then
        perform app.raise_error('bad_input', 'value: is not a number.', null);
    end if;
    if not (
        indicator ->> 'period' ~ '^\d{4}-\d{2}-\d{2}$'
        and pg_catalog.pg_input_is_valid(indicator ->> 'period', 'date')
    ) then
        perform app.raise_error('bad_input', 'period: is not a day.', 'Write it as 2026-03-31.');
    end if;
    if not pg_catalog.pg_input_is_valid(indicator ->> 'contract_id', 'uuid') then
        perform app.raise_error(
            'bad_input', 'contract_id: is not a UUID.', 'A contract''s number goes into contract.'
        );
    end if;
    v_value := (indicator ->> 'value')::numeric;
    if indicator ->> 'contract_id' is not null then
        select k.id into v_contract from public.contracts as k
        where k.org_id = store_indicator.org and k.id = (indicator ->> 'contract_id')::uuid;
    else
        select k.id into v_contract from public.contracts as k
        where k.org_id = store_indicator.org and k.number = indicator ->> 'contract';
    end if;
    if v_contract is null and coalesce(indicator ->> 'contract_id', indicator ->> 'contract')
        is not null
    then
        perform app.raise_error(
            'contract_not_found',
            case when indicator ->> 'contract_id' is null then 'contract' else 'contract_id' end
            || ': there is no such contract.',
            'contract_id is its id, contract its number.'
        );
    end if;
    insert into public.indicators as i (
        org_id, source, contract_id, metric_type, value, unit, period, metadata, idempotency_key
    ) values (
        store_indicator.org, indicator ->> 'source', v_contract, v_metric_type, v_value,
        indicator ->> 'unit',
        coalesce((indicator ->> 'period')::date, app.org_today(store_indicator.org)),
        v_metadata, store_indicator.idempotency_key
    )
    on conflict (org_id, idempotency_key) do nothing
    returning i.id into v_id;
    if v_id is not null then
        return jsonb_build_object('status', 'stored', 'id', v_id);
    end if;
    select i.* into v_stored from public.indicators as i
    where
        i.org_id = store_indicator.org
        and i.idempotency_key = store_indicator.idempotency_key;
    if (
        v_stored.source, v_stored.contract_id, v_stored.metric_type, v_stored.value,
        v_stored.unit, v_stored.period, v_stored.metadata
    ) is distinct from (
        indicator ->> 'source', v_contract, v_metric_type, v_value, indicator ->> 'unit',
        -- A day that was left out is the day the measurement first came in.
        coalesce((indicator ->> 'period')::date, v_stored.period), v_metadata
    ) then
        perform app.raise_error(
            'idempotency_key_reused',
            'idempotency_key: another measurement is stored under it.',
            'Repeat a measurement as it was; give another one its own key.'
        );
    end if;
    return jsonb_build_object('status', 'repeated', 'id', v_stored.id);
end;
$$;
comment on function app.store_indicator(uuid, jsonb, text) is
    'Stores one measurement under its key; the same again is no error. Returns status stored or '
    'repeated, and id. The detail of an error begins with the field. Errors: bad_input, '
    'contract_not_found, idempotency_key_reused, and the constraints of indicators.';

create function app.ingest_indicators(
    api_key text, indicators jsonb, idempotency_key text default null
) returns jsonb
language plpgsql
security definer
set search_path = ''
-- Who writes is the machine whose key it is, not the session that carried the key.
set "request.jwt.claims" = ''
as $$
declare
    v_org uuid := app.use_api_key(api_key, 'indicators:write');
    v_is_batch boolean := jsonb_typeof(indicators) is not distinct from 'array';
    v_batch jsonb := case when v_is_batch then indicators else jsonb_build_array(indicators) end;
    v_sent integer := jsonb_array_length(v_batch);
    v_item record;
    v_result jsonb;
    v_results jsonb[] := '{}';
    v_error text;
    v_detail text;
    v_hint text;
    v_constraint text;
    v_column text;
begin
    if v_sent > 1000 then
        perform app.raise_error(
            'batch_too_large', format('The batch has %s measurements.', v_sent),
            'Send up to 1000 at once.'
        );
    end if;
    if v_sent = 0 or length(ingest_indicators.idempotency_key) not between 1 and 190 then
        perform app.raise_error(
            'bad_input',
            case v_sent when 0 then 'indicators: is empty.'
                else 'idempotency_key: has 1 to 190 characters.' end,
            null
        );
    end if;
    -- In the order of their keys, so that two batches wait for each other and never in a circle.
    for v_item in
        select
            element.value, element.place,
            coalesce(
                element.value ->> 'idempotency_key',
                ingest_indicators.idempotency_key || '/' || (element.place - 1),
                gen_random_uuid()::text
            ) as key
        from jsonb_array_elements(v_batch) with ordinality as element (value, place)
        order by key, place
    loop
        begin
            v_result := app.store_indicator(v_org, v_item.value, v_item.key);
        exception
            when sqlstate 'PT400' or sqlstate 'PT404' or sqlstate 'PT409'
                or not_null_violation or check_violation
            then
                get stacked diagnostics
                    v_error = message_text, v_detail = pg_exception_detail,
                    v_hint = pg_exception_hint, v_constraint = constraint_name,
                    v_column = column_name;
                if v_constraint <> '' or v_column <> '' then
                    v_error := 'bad_input';
                    v_hint := 'See indicators in the data dictionary.';
                    v_detail := coalesce(
                        nullif(v_column, '') || ': is missing.',
                        (
                            select format('%s: is refused by %s.', a.attname,
                                replace(pg_get_constraintdef(c.oid), '::text', ''))
                            from pg_catalog.pg_constraint as c
                            inner join pg_catalog.pg_attribute as a
                                on c.conrelid = a.attrelid and a.attnum = any (c.conkey)
                            where
                                c.conrelid = 'public.indicators'::regclass
                                and c.conname = v_constraint
                        )
                    );
                end if;
                v_result := jsonb_build_object(
                    'status', 'rejected', 'error', v_error, 'field', split_part(v_detail, ':', 1),
                    'details', v_detail, 'hint', nullif(v_hint, '')
                );
        end;
        v_results[v_item.place] := jsonb_build_object('index', v_item.place - 1) || v_result;
    end loop;
    if v_is_batch then
        return (
            select jsonb_build_object(
                'ok', count(*) filter (where result ->> 'status' = 'rejected') = 0,
                'stored', count(*) filter (where result ->> 'status' = 'stored'),
                'repeated', count(*) filter (where result ->> 'status' = 'repeated'),
                'rejected', count(*) filter (where result ->> 'status' = 'rejected'),
                'results', to_jsonb(v_results)
            )
            from unnest(v_results) as result
        );
    elsif v_result ->> 'status' = 'rejected' then
        perform app.raise_error(v_error, v_detail, v_hint);
    end if;
    return jsonb_build_object('ok', true) || v_result;
end;
$$;
comment on function app.ingest_indicators(text, jsonb, text) is
    'Body of public.ingest_indicators.';

create function public.ingest_indicators(
    api_key text, indicators jsonb, idempotency_key text default null
) returns jsonb
language sql
set search_path = ''
as $$ select app.ingest_indicators(api_key, indicators, idempotency_key) $$;
comment on function public.ingest_indicators(text, jsonb, text) is
    'Stores one measurement {source, metric_type, value, contract_id or contract (its number), '
    'unit, period (today if left out), metadata, idempotency_key}, or an array of up to 1000, of '
    'the organisation whose key it is. A repeated idempotency_key is stored once; without one, '
    'the n-th takes <idempotency_key of the call>/<n>, else a new one. One: returns {ok, status, '
    'id}, or its error. An array: each is stored, repeated or rejected alone; returns {ok, '
    'stored, repeated, rejected, results: [{index, status, id | error, field, details, hint}]}. '
    'Anyone with a key. Errors: api_key_invalid, api_key_scope_missing, organization_suspended, '
    'organization_inactive, rate_limited, batch_too_large, bad_input, contract_not_found, '
    'idempotency_key_reused.';

-- 3. Triggers

create trigger indicators_70_emit
after insert or update or delete on public.indicators
for each row execute function app.emit_event(
    'ops', 'indicator', '', 'source', 'contract_id', 'metric_type', 'value', 'period'
);

-- 5. Access

select app.protect_table('public.indicators', 'ops', null, '{select}');

-- The key says whose measurements they are, whoever carries it.
grant execute on function
app.ingest_indicators(text, jsonb, text), public.ingest_indicators(text, jsonb, text)
to anon, authenticated, service_role;

-- 6. Reference rows

insert into app.error_keys (key, http, meaning) values
('idempotency_key_reused', 409, 'Something else is stored under the idempotency key.'),
('batch_too_large', 413, 'The batch has more rows than one call takes.');

insert into app.event_types (module, event_type, description, payload_keys) values
(
    'ops', 'indicator.created', 'A measurement came in.',
    '{source,contract_id,metric_type,value,period}'
),
(
    'ops', 'indicator.updated', 'A measurement was corrected.',
    '{source,contract_id,metric_type,value,period,changed}'
),
(
    'ops', 'indicator.deleted', 'A measurement was removed.',
    '{source,contract_id,metric_type,value,period}'
);
