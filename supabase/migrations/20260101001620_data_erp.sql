-- ERP synchronisation: what Omie lists is staged page by page, then merged chunk by chunk into
-- clients, service actions, titles and monthly revenue; what its webhooks tell goes the same way.
-- Depends on: core, jobs, integrations, data_snapshots, ops_playbooks, contracts, reconciliation.
-- Asked for by: domain §5 (data) and §6, ness-os-data-massa (erp_revenue_snapshot), Omie's API.

-- 1. Tables

create unlogged table app.erp_sync_rows (
    org_id uuid not null references public.organizations (id) on delete cascade,
    sync_id uuid not null,
    list text not null constraint erp_sync_rows_list_check check (
        list in (
            'clients', 'services', 'titles', 'movements', 'issued', 'receipts', 'cancelled'
        )
    ),
    code bigint not null,
    body jsonb not null,
    primary key (org_id, sync_id, list, code)
);
comment on table app.erp_sync_rows is
    '[data] Rows a running synchronisation has read and not yet finished with; personal data. '
    'Unlogged: a crash of the server ends the run anyway, and the next one reads anew.';
-- Nobody analyses a table that is empty between runs: a planner that knows nothing of it takes a
-- whole list for one row and a join by its code for the same price as one without. Where rows are
-- looked up here, a limit leaves it no choice.
comment on column app.erp_sync_rows.list is
    'clients, services, titles: the registers. movements: titles with what was paid. Of revenue: '
    'issued (titles), receipts (write-offs), cancelled (titles that do not count).';
comment on column app.erp_sync_rows.code is 'Omie''s code of the row.';
comment on column app.erp_sync_rows.body is
    'What is needed of the row, in the words of Omie.';

-- 2. Functions: reading what Omie writes (plpgsql where it runs for every row, as app.now)

create function app.omie_code(value text) returns bigint
language plpgsql
immutable
set search_path = ''
as $$
begin
    return case when value ~ '^[1-9]\d{0,17}$' then value::bigint end;
end;
$$;
comment on function app.omie_code(text) is
    'A code of Omie; null for 0, which means none there, and for anything else that is none.';

create function app.omie_date(value text) returns date
language plpgsql
stable
set search_path = ''
as $$
declare
    v_iso text := case
        when value ~ '^\d{2}/\d{2}/\d{4}$'
            then right(value, 4) || '-' || substr(value, 4, 2) || '-' || left(value, 2)
        when value ~ '^\d{4}-\d{2}-\d{2}(T|$)' then left(value, 10)
    end;
begin
    return case when pg_catalog.pg_input_is_valid(v_iso, 'date') then v_iso::date end;
end;
$$;
comment on function app.omie_date(text) is
    'A day as lists (31/12/2026) or webhooks (2026-12-31T00:00:00-03:00) write it: the day on '
    'that calendar, whatever the zone. Null when it is none.';

create function app.omie_amount(value text) returns numeric
language plpgsql
immutable
set search_path = ''
as $$
begin
    return case when value ~ '^-?\d{1,12}(\.\d{1,20})?$' then round(value::numeric, 2) end;
end;
$$;
comment on function app.omie_amount(text) is 'An amount of money, BRL; null when it is none.';

create function app.omie_title_status(value text) returns text
language plpgsql
immutable
set search_path = ''
as $$
begin
    -- The same status is EMABERTO as a filter, A VENCER in a list, A vencer in a webhook.
    return case regexp_replace(upper(app.normalize(value)), '[^A-Z]', '', 'g')
        when 'EMABERTO' then 'open'
        when 'AVENCER' then 'open'
        when 'VENCEHOJE' then 'open'
        when 'ATRASADO' then 'open'
        when 'PAGTOPARCIAL' then 'partial'
        when 'RECEBIDO' then 'paid'
        when 'LIQUIDADO' then 'paid'
        when 'PAGO' then 'paid'
        when 'CANCELADO' then 'cancelled'
    end;
end;
$$;
comment on function app.omie_title_status(text) is
    'Status of a title as erp_receivables has it; null for a word that is not known.';

-- 2. Functions: a run

create function app.next_erp_sync_at(org uuid, run uuid) returns timestamptz
language sql
stable
security definer
set search_path = ''
as $$
    select max(l.next_at) from public.erp_sync_log as l
    where
        l.org_id = next_erp_sync_at.org and l.run_id <> next_erp_sync_at.run
        and l.next_at > app.now()
$$;
comment on function app.next_erp_sync_at(uuid, uuid) is
    'When the organisation may be synchronised by this run; null: now. A run does not wait for '
    'itself: it goes on to the next entity, and may be tried again.';

create function app.start_erp_sync(
    org uuid, run uuid, entity text, mode text, month date default null
) returns public.erp_sync_log
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_status text := (select o.status from public.organizations as o where o.id = org);
    v_next_at timestamptz := app.next_erp_sync_at(org, run);
    v_month date := case when entity = 'revenue' then app.month_start(
        coalesce(start_erp_sync.month, (app.org_today(org) - interval '1 month')::date)
    ) end;
    v_since date;
    v_row public.erp_sync_log;
begin
    if v_status is distinct from 'active' then
        perform app.raise_error(
            'erp_sync_refused', 'The organisation is not active.', 'Activate it first.'
        );
    elsif v_next_at is not null then
        perform app.raise_error(
            'erp_sync_cooldown',
            'The ERP was asked a moment ago.',
            'Not before ' || date_trunc('second', v_next_at at time zone app.org_time_zone(org))
                || ' (time of the organisation).'
        );
    elsif not pg_try_advisory_lock(hashtextextended('erp_sync/' || org || '/' || entity, 0)) then
        perform app.raise_error(
            'erp_sync_running', format('%s are being synchronised.', entity),
            'Wait until that has ended.'
        );
    end if;

    -- The lock is ours: whatever still calls itself running has died.
    delete from app.erp_sync_rows as r
    using public.erp_sync_log as l
    where
        l.org_id = org and l.entity = start_erp_sync.entity and l.status = 'running'
        and r.org_id = l.org_id and r.sync_id = l.id;
    update public.erp_sync_log as l
    set status = 'failed', error = 'interrupted: its process ended', finished_at = app.now()
    where l.org_id = org and l.entity = start_erp_sync.entity and l.status = 'running';

    if entity = 'revenue' then
        v_since := v_month
            - case mode when 'full' then interval '11 months' else interval '0' end;
    elsif mode = 'incremental' then
        select (max(l.started_at) at time zone app.org_time_zone(org))::date - 2 into v_since
        from public.erp_sync_log as l
        where
            l.org_id = org and l.entity = start_erp_sync.entity
            and (l.status = 'succeeded' or (l.status = 'partial' and l.error is null));
    end if;
    insert into public.erp_sync_log (org_id, run_id, entity, mode, since, month)
    values (
        org, run, start_erp_sync.entity,
        case when v_since is null then 'full' else mode end, v_since, v_month
    )
    returning * into v_row;
    return v_row;
end;
$$;
comment on function app.start_erp_sync(uuid, uuid, text, text, date) is
    'Opens a run of one entity and takes its lock for the session: finish_erp_sync gives it back, '
    'a dead process loses it. A run left over is marked failed. An incremental one without a '
    'run before is a full one. Errors: erp_sync_refused, erp_sync_cooldown, erp_sync_running.';

create function app.report_erp_sync(org uuid, sync uuid, counts jsonb) returns void
language sql
security definer
set search_path = ''
as $$
    update public.erp_sync_log as l set
        seen = c.seen, created = c.created, updated = c.updated, unchanged = c.unchanged,
        skipped = c.skipped, deactivated = c.deactivated, failed = c.failed,
        failures = (
            select coalesce(jsonb_agg(f.item order by f.place), '[]')
            from jsonb_array_elements(c.failures) with ordinality as f (item, place)
            where f.place <= 100
        )
    from jsonb_to_record(counts) as c (
        seen integer, created integer, updated integer, unchanged integer, skipped integer,
        deactivated integer, failed integer, failures jsonb
    )
    where l.org_id = report_erp_sync.org and l.id = report_erp_sync.sync
$$;
comment on function app.report_erp_sync(uuid, uuid, jsonb) is
    'Writes down how far a run has come: the columns of erp_sync_log by name.';

create function app.finish_erp_sync(
    org uuid,
    sync uuid,
    status text,
    counts jsonb,
    error text default null,
    not_before timestamptz default null
) returns public.erp_sync_log
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_status text := finish_erp_sync.status;
    v_error text := left(finish_erp_sync.error, 2000);
    v_this_month date := app.month_start(app.org_today(org));
    v_month date;
    v_row public.erp_sync_log;
begin
    perform app.report_erp_sync(org, sync, counts);
    delete from app.erp_sync_rows as r where r.org_id = org and r.sync_id = sync;
    if v_status <> 'failed' then
        begin
            for v_month in
                select coalesce(l.month, (v_this_month - interval '1 month')::date)
                from public.erp_sync_log as l where l.org_id = org and l.id = sync
                union
                select a.month
                from public.erp_sync_log as l
                inner join public.reconciliation_alerts as a
                    on a.org_id = l.org_id and a.month between l.since and l.month
                where l.org_id = org and l.id = sync
                order by 1
            loop
                if v_month < v_this_month and app.is_erp_month_known(org, v_month) then
                    perform app.reconcile_erp(org, v_month);
                end if;
            end loop;
        exception when others then
            -- What was read stays; the run tells what could not be compared.
            v_status := 'partial';
            v_error := left('reconciliation: ' || sqlerrm, 2000);
        end;
    end if;
    update public.erp_sync_log as l set
        status = v_status, error = v_error, finished_at = app.now(),
        next_at = greatest(app.now() + interval '5 minutes', not_before)
    where l.org_id = org and l.id = sync
    returning l.* into v_row;
    perform pg_advisory_unlock(hashtextextended('erp_sync/' || org || '/' || v_row.entity, 0));
    return v_row;
end;
$$;
comment on function app.finish_erp_sync(uuid, uuid, text, jsonb, text, timestamptz) is
    'Closes a run: counts, staged rows, lock. Unless it failed, the month before is compared anew; '
    'of revenue the month read, and those of the months before it that have alerts.';

create function app.stage_erp_rows(org uuid, sync uuid, list text, rows jsonb) returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_new integer;
begin
    with given as (
        select distinct on (app.omie_code(element.item ->> 'code'))
            app.omie_code(element.item ->> 'code') as code, element.item - 'code' as body
        from jsonb_array_elements(rows) with ordinality as element (item, place)
        where app.omie_code(element.item ->> 'code') is not null
        order by app.omie_code(element.item ->> 'code'), element.place desc
    ),

    stored as (
        insert into app.erp_sync_rows as r (org_id, sync_id, list, code, body)
        select org, sync, stage_erp_rows.list, g.code, g.body from given as g
        on conflict on constraint erp_sync_rows_pkey do update set body = excluded.body
        returning r.xmax = 0 as is_new
    )

    select count(*) filter (where s.is_new) into v_new from stored as s;
    return jsonb_build_object('new', v_new, 'failures', (
        select coalesce(jsonb_agg(jsonb_build_object(
            'row', left(coalesce(element.item ->> 'code', ''), 40), 'reason', 'code_invalid'
        )), '[]')
        from jsonb_array_elements(rows) as element (item)
        where app.omie_code(element.item ->> 'code') is null
    ));
end;
$$;
comment on function app.stage_erp_rows(uuid, uuid, text, jsonb) is
    'Keeps a page of a list until it is merged: [{code, …}]; a row met again is replaced. Returns '
    '{new, failures}: how many were not there before, and those without a code.';

create function app.is_erp_stranger(org uuid, sync uuid) returns boolean
language sql
stable
security definer
set search_path = ''
as $$
    with known as (
        select l.org_id, l.id as sync_id, array['clients'] as lists, c.omie_codigo as code
        from public.erp_sync_log as l
        inner join public.clients as c on c.org_id = l.org_id
        where
            l.org_id = is_erp_stranger.org and l.id = is_erp_stranger.sync
            and l.entity = 'clients' and c.omie_codigo is not null and c.omie_inactive_at is null
        union all
        select l.org_id, l.id, array['titles', 'movements'], e.title_number
        from public.erp_sync_log as l
        inner join public.erp_receivables as e on e.org_id = l.org_id
        where
            l.org_id = is_erp_stranger.org and l.id = is_erp_stranger.sync
            and l.entity = 'receivables' and e.vanished_at is null
    )

    select
        exists (select from known)
        and exists (
            select from app.erp_sync_rows as r
            where r.org_id = is_erp_stranger.org and r.sync_id = is_erp_stranger.sync
        )
        and not exists (
            select from known as k
            cross join lateral (
                select r.code from unnest(k.lists) as l (list)
                cross join lateral (
                    select r.code from app.erp_sync_rows as r
                    where
                        r.org_id = k.org_id and r.sync_id = k.sync_id and r.list = l.list
                        and r.code = k.code
                    limit 1
                ) as r
                limit 1
            ) as met
        )
$$;
comment on function app.is_erp_stranger(uuid, uuid) is
    'Whether a full reading, before it is merged, has met none of all the clients, or titles, that '
    'are known from the ERP: then it is the ERP of another company.';

create function app.merge_answer(
    after bigint,
    seen bigint,
    created bigint,
    updated bigint,
    skipped bigint,
    failures jsonb
) returns jsonb
language sql
immutable
set search_path = ''
as $$
    select jsonb_build_object(
        'after', after, 'seen', seen, 'created', created, 'updated', updated,
        'unchanged', seen - created - updated - skipped - jsonb_array_length(failures),
        'skipped', skipped, 'failed', jsonb_array_length(failures), 'failures', failures
    )
$$;
comment on function app.merge_answer(bigint, bigint, bigint, bigint, bigint, jsonb) is
    'What a merge tells: its counts, and the last code it took (null: there was none left).';

-- 2. Functions: clients

create function app.joined(first text[], second text[], most integer) returns text[]
language sql
immutable
set search_path = ''
as $$
    select coalesce(array_agg(u.value order by u.place), '{}')
    from (
        select e.value, min(e.place) as place
        from unnest(first || second) with ordinality as e (value, place)
        group by e.value
        order by min(e.place)
        limit most
    ) as u
$$;
comment on function app.joined(text[], text[], integer) is
    'The elements of both lists in order, each once, no more than most.';

create function app.erp_client_rows(org uuid, sync uuid, after bigint, size integer)
returns table (
    code bigint, name text, trade_name text, document text, emails text[], phones text[],
    address jsonb, is_inactive boolean, is_supplier boolean, client_id uuid, reason text
)
language sql
stable
security definer
set search_path = ''
as $$
    with given as (
        select
            r.code,
            left(
                btrim(coalesce(nullif(btrim(r.body ->> 'name'), ''), r.body ->> 'trade_name')), 200
            ) as name,
            left(nullif(btrim(r.body ->> 'trade_name'), ''), 200) as trade_name,
            app.normalize_document(r.body ->> 'document') as document,
            array(
                select e.address
                from regexp_split_to_table(r.body ->> 'email', '[;,\s]+') as e (address)
                where app.is_valid_email(e.address)
                limit 20
            ) as emails,
            array(
                select left(btrim(p.phone), 30)
                from jsonb_array_elements_text(r.body -> 'phones') as p (phone)
                where p.phone ~ '\d'
                limit 20
            ) as phones,
            case
                when length(r.body ->> 'address') <= 3000 then r.body -> 'address' else '{}'
            end as address,
            coalesce(r.body ->> 'inactive' = 'S', false) as is_inactive,
            (
                select
                    coalesce(bool_or(app.normalize(t.tag) like 'fornecedor%'), false)
                    and not coalesce(bool_or(app.normalize(t.tag) like 'cliente%'), false)
                from jsonb_array_elements_text(r.body -> 'tags') as t (tag)
            ) as is_supplier
        from app.erp_sync_rows as r
        where
            r.org_id = erp_client_rows.org and r.sync_id = erp_client_rows.sync
            and r.list = 'clients' and r.code > erp_client_rows.after
        order by r.code
        limit erp_client_rows.size
    ),

    matched as (
        select
            g.*,
            by_code.id as id_by_code,
            by_document.id as id_by_document,
            by_document.omie_codigo is null
            or by_document.omie_codigo = g.code
            or by_document.omie_inactive_at is not null as is_free,
            -- Of rows with one document the one already known has it, else the active, the older.
            row_number() over (
                partition by g.document order by by_code.id is null, g.is_inactive, g.code
            ) as turn
        from given as g
        left join public.clients as by_code
            on by_code.org_id = erp_client_rows.org and by_code.omie_codigo = g.code
        left join public.clients as by_document
            on by_document.org_id = erp_client_rows.org and by_document.document = g.document
    )

    select
        m.code, m.name, m.trade_name, m.document, m.emails, m.phones, m.address, m.is_inactive,
        m.is_supplier and m.id_by_code is null, coalesce(m.id_by_code, m.id_by_document),
        case
            when m.is_supplier and m.id_by_code is null then null
            when length(m.name) >= 2 is not true then 'name_missing'
            when not app.is_valid_document(m.document) then 'document_invalid'
            when m.document is not null and m.turn > 1 then 'document_taken'
            when m.id_by_document is not null and m.id_by_code is not null
                and m.id_by_document <> m.id_by_code then 'document_taken'
            when m.id_by_document is not null and m.id_by_code is null and not m.is_free
                then 'document_taken'
        end
    from matched as m
$$;
comment on function app.erp_client_rows(uuid, uuid, bigint, integer) is
    'The next rows of the register after a code, each with the client it is (by code, then by '
    'document; a document whose own code has left the ERP is free for the new one), or with why '
    'it cannot be taken. A supplier that is no customer is marked, unless we know it as a client.';

create function app.merge_erp_clients(
    org uuid, sync uuid, moment timestamptz, after bigint, size integer
) returns jsonb
language sql
security definer
set search_path = ''
as $$
    with given as materialized (
        select * from app.erp_client_rows(org, sync, after, size)
    ),

    changed as (
        update public.clients as c set
            omie_codigo = t.omie_codigo, name = t.name, trade_name = t.trade_name,
            document = t.document, emails = t.emails, phones = t.phones, address = t.address,
            status = t.status, omie_inactive_at = t.omie_inactive_at
        from (
            select
                k.id, g.code as omie_codigo, g.name,
                coalesce(g.trade_name, k.trade_name) as trade_name,
                coalesce(g.document, k.document) as document,
                app.joined(g.emails, k.emails, 20) as emails,
                app.joined(g.phones, k.phones, 20) as phones,
                k.address || g.address as address,
                case
                    when g.is_inactive and k.omie_inactive_at is null then 'inactive'
                    when not g.is_inactive and k.omie_inactive_at is not null then 'active'
                    else k.status
                end as status,
                case
                    when g.is_inactive then coalesce(k.omie_inactive_at, merge_erp_clients.moment)
                end as omie_inactive_at
            from given as g
            inner join public.clients as k
                on k.org_id = merge_erp_clients.org and k.id = g.client_id
            where g.reason is null and not g.is_supplier
        ) as t
        where
            c.org_id = merge_erp_clients.org and c.id = t.id
            and (
                c.omie_codigo, c.name, c.trade_name, c.document, c.emails, c.phones, c.address,
                c.status, c.omie_inactive_at
            ) is distinct from (
                t.omie_codigo, t.name, t.trade_name, t.document, t.emails, t.phones, t.address,
                t.status, t.omie_inactive_at
            )
        returning c.id
    ),

    added as (
        insert into public.clients (
            org_id, name, trade_name, document, emails, phones, address, omie_codigo, status,
            omie_inactive_at
        )
        select
            merge_erp_clients.org, g.name, g.trade_name, g.document, g.emails, g.phones,
            g.address, g.code, case when g.is_inactive then 'inactive' else 'active' end,
            case when g.is_inactive then merge_erp_clients.moment end
        from given as g
        where g.client_id is null and g.reason is null and not g.is_supplier
        order by g.code
        on conflict do nothing
        returning omie_codigo
    ),

    refused as (
        select g.code, coalesce(g.reason, 'document_taken') as reason
        from given as g
        where
            g.reason is not null
            or (
                g.client_id is null and not g.is_supplier
                and g.code not in (select a.omie_codigo from added as a)
            )
    )

    select app.merge_answer(
        max(g.code), count(*), (select count(*) from added), (select count(*) from changed),
        count(*) filter (where g.is_supplier),
        coalesce(
            (
                select jsonb_agg(
                    jsonb_build_object('row', r.code::text, 'reason', r.reason) order by r.code
                )
                from refused as r
            ), '[]'
        )
    )
    from given as g
$$;
comment on function app.merge_erp_clients(uuid, uuid, timestamptz, bigint, integer) is
    'Takes the next rows of the register into clients. The ERP has the word on name, document and '
    'address; its e-mail and phone come first, those people added stay. The status changes only '
    'when it changes in the ERP.';

create function app.vanished_erp_clients(org uuid, sync uuid) returns setof bigint
language sql
stable
security definer
set search_path = ''
as $$
    select c.omie_codigo
    from public.erp_sync_log as l
    inner join public.clients as c on c.org_id = l.org_id
    where
        l.org_id = vanished_erp_clients.org and l.id = vanished_erp_clients.sync
        and c.omie_codigo is not null and c.omie_inactive_at is null
        and c.updated_at < l.started_at
        and exists (
            select from app.erp_sync_rows as r
            where r.org_id = l.org_id and r.sync_id = l.id and r.list = 'clients'
        )
        and (
            select r.code from app.erp_sync_rows as r
            where
                r.org_id = l.org_id and r.sync_id = l.id and r.list = 'clients'
                and r.code = c.omie_codigo
            limit 1
        ) is null
    order by c.omie_codigo
$$;
comment on function app.vanished_erp_clients(uuid, uuid) is
    'Codes of clients, unchanged since the run began, that a full reading of the register has not '
    'met. A register without anybody is not believed.';

create function app.deactivate_erp_clients(org uuid, codes bigint[], moment timestamptz)
returns integer
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_count integer;
begin
    update public.clients as c
    set status = 'inactive', omie_inactive_at = deactivate_erp_clients.moment
    where
        c.org_id = deactivate_erp_clients.org and c.omie_codigo = any (codes)
        and c.omie_inactive_at is null;
    get diagnostics v_count = row_count;
    return v_count;
end;
$$;
comment on function app.deactivate_erp_clients(uuid, bigint[], timestamptz) is
    'Makes clients inactive that the ERP has no more. Returns how many.';

-- 2. Functions: services

create function app.merge_erp_services(
    org uuid, sync uuid, moment timestamptz, after bigint, size integer
) returns jsonb
language sql
security definer
set search_path = ''
as $$
    with given as materialized (
        select
            r.code,
            left(btrim(r.body ->> 'title'), 200) as title,
            a.id as action_id,
            r.body ->> 'inactive' = 'S' and a.id is null as is_skipped,
            -- Two services of one name: the second's slug carries its code.
            case
                when
                    row_number() over (
                        partition by app.slugify(r.body ->> 'title') order by r.code
                    ) > 1
                    or exists (
                        select from public.service_actions as o
                        where
                            o.org_id = merge_erp_services.org
                            and o.slug = left(app.slugify(r.body ->> 'title'), 100)
                    )
                    then left(app.slugify(r.body ->> 'title'), 80) || '-' || r.code
                else ''
            end as slug
        from app.erp_sync_rows as r
        left join lateral (
            select s.id
            from public.service_actions as s
            where
                s.org_id = merge_erp_services.org
                and (
                    s.omie_servico_id = r.code::text
                    or (
                        s.omie_servico_id is null
                        and s.slug = left(app.slugify(r.body ->> 'title'), 100)
                    )
                )
            order by s.omie_servico_id nulls last
            limit 1
        ) as a on true
        where
            r.org_id = merge_erp_services.org and r.sync_id = merge_erp_services.sync
            and r.list = 'services' and r.code > merge_erp_services.after
        order by r.code
        limit merge_erp_services.size
    ),

    sound as (
        select g.*, row_number() over (partition by g.action_id order by g.code) as turn
        from given as g
        where not g.is_skipped and g.title <> ''
    ),

    changed as (
        update public.service_actions as s
        set title = n.title, omie_servico_id = n.code::text
        from sound as n
        where
            s.org_id = merge_erp_services.org and s.id = n.action_id and n.turn = 1
            and (s.title, s.omie_servico_id) is distinct from (n.title, n.code::text)
        returning s.id
    ),

    added as (
        insert into public.service_actions (org_id, title, slug, omie_servico_id)
        select merge_erp_services.org, n.title, n.slug, n.code::text
        from sound as n
        where n.action_id is null or n.turn > 1
        order by n.code
        returning id
    )

    select app.merge_answer(
        max(g.code), count(*), (select count(*) from added), (select count(*) from changed),
        count(*) filter (where g.is_skipped),
        coalesce(
            jsonb_agg(
                jsonb_build_object('row', g.code::text, 'reason', 'title_missing') order by g.code
            ) filter (where not g.is_skipped and g.title <> '' is not true), '[]'
        )
    )
    from given as g
$$;
comment on function app.merge_erp_services(uuid, uuid, timestamptz, bigint, integer) is
    'Takes the next rows of the register of services into service actions: by their code, then by '
    'the slug of their title; the title follows the ERP. An inactive service is not taken up.';

-- 2. Functions: titles

create function app.erp_receivable_rows(org uuid, sync uuid, after bigint, size integer)
returns table (
    code bigint, reference text, omie_codigo bigint, document text, issued_on date, due_on date,
    amount numeric, paid numeric, open numeric, status text, paid_on date, reason text
)
language sql
stable
security definer
set search_path = ''
as $$
    with told as (
        select
            c.code, t.body as title, m.body as movement, e.paid as known_paid,
            e.document as known_document,
            e.paid_on as known_paid_on, e.status as known_status, e.issued_on, e.due_on,
            e.omie_codigo, e.reference, e.vanished_at
        from (
            (
                select r.code from app.erp_sync_rows as r
                where
                    r.org_id = erp_receivable_rows.org and r.sync_id = erp_receivable_rows.sync
                    and r.list = 'titles' and r.code > erp_receivable_rows.after
                order by r.code limit erp_receivable_rows.size
            )
            union
            (
                select r.code from app.erp_sync_rows as r
                where
                    r.org_id = erp_receivable_rows.org and r.sync_id = erp_receivable_rows.sync
                    and r.list = 'movements' and r.code > erp_receivable_rows.after
                order by r.code limit erp_receivable_rows.size
            )
            order by code
            limit erp_receivable_rows.size
        ) as c
        left join lateral (
            select r.body from app.erp_sync_rows as r
            where
                r.org_id = erp_receivable_rows.org and r.sync_id = erp_receivable_rows.sync
                and r.list = 'titles' and r.code = c.code
            limit 1
        ) as t on true
        left join lateral (
            select r.body from app.erp_sync_rows as r
            where
                r.org_id = erp_receivable_rows.org and r.sync_id = erp_receivable_rows.sync
                and r.list = 'movements' and r.code = c.code
            limit 1
        ) as m on true
        left join public.erp_receivables as e
            on e.org_id = erp_receivable_rows.org and e.title_number = c.code
    ),

    typed as materialized (
        select
            t.code, t.known_paid, t.known_paid_on, t.known_status, t.known_document,
            t.vanished_at,
            t.movement is not null as has_movement,
            coalesce(
                nullif(left(btrim(coalesce(t.title, t.movement) ->> 'reference'), 120), ''),
                t.reference
            ) as reference,
            coalesce(
                app.omie_code(t.title ->> 'client'), app.omie_code(t.movement ->> 'client'),
                t.omie_codigo
            ) as omie_codigo,
            coalesce(app.normalize_document(t.movement ->> 'document'), t.known_document)
                as document,
            coalesce(
                app.omie_date(t.title ->> 'issued_on'), app.omie_date(t.movement ->> 'issued_on'),
                t.issued_on
            ) as issued_on,
            app.omie_date(coalesce(t.title, t.movement) ->> 'due_on') as due_on,
            app.omie_amount(coalesce(t.title, t.movement) ->> 'amount') as amount,
            t.title ->> 'status' as word,
            app.omie_title_status(t.title ->> 'status') as title_status,
            app.omie_title_status(t.movement ->> 'status') as movement_status,
            coalesce(t.movement ->> 'settled' = 'S', false) as is_settled,
            app.omie_amount(t.movement ->> 'paid') as paid,
            app.omie_amount(t.movement ->> 'open') as open,
            app.omie_date(t.movement ->> 'paid_on') as paid_on
        from told as t
    ),

    judged as (
        select
            t.*,
            case
                when 'cancelled' in (t.title_status, t.movement_status) then 'cancelled'
                -- The list of movements calls a title paid that was cancelled after payment.
                when t.title_status is null and t.known_status = 'cancelled'
                    and t.vanished_at is null then 'cancelled'
                when not t.has_movement then t.title_status
                when t.is_settled or (t.open = 0 and t.paid > 0) then 'paid'
                when t.paid > 0 then 'partial'
                else 'open'
            end as status
        from typed as t
    ),

    settled as (
        select
            j.*,
            case
                when j.has_movement then j.paid
                when j.status = j.known_status then j.known_paid
                when j.status = 'paid' then j.amount
                when j.status = 'cancelled' then coalesce(j.known_paid, 0)
                else 0
            end as paid_sum
        from judged as j
    )

    select
        s.code, s.reference, s.omie_codigo,
        case
            when s.document = s.known_document or app.is_valid_document(s.document)
                then s.document
        end,
        s.issued_on, s.due_on, s.amount, s.paid_sum,
        case
            when s.status in ('paid', 'cancelled') then 0
            when s.has_movement then s.open
            else greatest(s.amount - s.paid_sum, 0)
        end,
        s.status,
        case
            when s.has_movement then case when s.paid > 0 then s.paid_on end
            when s.status in (s.known_status, 'cancelled') then s.known_paid_on
        end,
        case
            when s.omie_codigo is null then 'client_missing'
            when s.due_on is null then 'due_date_invalid'
            when s.amount >= 0 is not true then 'amount_invalid'
            when s.has_movement and (s.paid >= 0 and s.open >= 0) is not true
                then 'payment_invalid'
            when s.word <> '' and s.title_status is null or s.status is null
                then 'status_unknown'
        end
    from settled as s
$$;
comment on function app.erp_receivable_rows(uuid, uuid, bigint, integer) is
    'The next titles after a code as they stand now: the register has client, dates, amount and '
    'cancellation, the list of movements what was paid and when. A title without a movement keeps '
    'what is known of its payment unless its status says otherwise. With why one cannot be taken.';

create function app.merge_erp_receivables(
    org uuid, sync uuid, moment timestamptz, after bigint, size integer
) returns jsonb
language sql
security definer
set search_path = ''
as $$
    with given as materialized (
        select * from app.erp_receivable_rows(org, sync, after, size)
    ),

    changed as (
        select g.*
        from given as g
        left join public.erp_receivables as e
            on e.org_id = merge_erp_receivables.org and e.title_number = g.code
        where
            g.reason is null
            and (
                e.title_number is null or e.vanished_at is not null
                or (
                    e.reference, e.omie_codigo, e.document, e.issued_on, e.due_on, e.amount,
                    e.paid, e.open, e.status, e.paid_on
                ) is distinct from (
                    g.reference, g.omie_codigo, g.document, g.issued_on, g.due_on, g.amount,
                    g.paid, g.open, g.status, g.paid_on
                )
            )
    ),

    stored as (
        insert into public.erp_receivables as e (
            org_id, title_number, reference, omie_codigo, document, issued_on, due_on, amount,
            paid, open, status, paid_on, synced_at
        )
        select
            merge_erp_receivables.org, c.code, c.reference, c.omie_codigo, c.document,
            c.issued_on, c.due_on, c.amount, c.paid, c.open, c.status, c.paid_on,
            merge_erp_receivables.moment
        from changed as c
        order by c.code
        on conflict on constraint erp_receivables_org_id_title_number_key do update set
            reference = excluded.reference, omie_codigo = excluded.omie_codigo,
            document = excluded.document, issued_on = excluded.issued_on,
            due_on = excluded.due_on, amount = excluded.amount, paid = excluded.paid,
            open = excluded.open, status = excluded.status, paid_on = excluded.paid_on,
            vanished_at = null, synced_at = excluded.synced_at
        where e.synced_at <= excluded.synced_at
        returning e.xmax = 0 as is_new
    )

    select app.merge_answer(
        max(g.code), count(*), (select count(*) from stored as s where s.is_new),
        (select count(*) from stored as s where not s.is_new), 0,
        coalesce(
            jsonb_agg(
                jsonb_build_object('row', g.code::text, 'reason', g.reason) order by g.code
            ) filter (where g.reason is not null), '[]'
        )
    )
    from given as g
$$;
comment on function app.merge_erp_receivables(uuid, uuid, timestamptz, bigint, integer) is
    'Takes the next staged titles into erp_receivables. moment: when the ERP said so; a title '
    'that was told of later stays as it is.';

create function app.cancel_vanished_erp_receivables(org uuid, sync uuid, moment timestamptz)
returns integer
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_count integer;
begin
    update public.erp_receivables as e
    set status = 'cancelled', open = 0, vanished_at = app.now(), synced_at = moment
    where
        e.org_id = cancel_vanished_erp_receivables.org and e.vanished_at is null
        and e.synced_at <= moment
        and exists (
            select from app.erp_sync_rows as r
            where r.org_id = e.org_id and r.sync_id = cancel_vanished_erp_receivables.sync
        )
        and (
            select r.code from app.erp_sync_rows as r
            where
                r.org_id = e.org_id and r.sync_id = cancel_vanished_erp_receivables.sync
                and r.list = 'titles' and r.code = e.title_number
            limit 1
        ) is null
        and (
            select r.code from app.erp_sync_rows as r
            where
                r.org_id = e.org_id and r.sync_id = cancel_vanished_erp_receivables.sync
                and r.list = 'movements' and r.code = e.title_number
            limit 1
        ) is null;
    get diagnostics v_count = row_count;
    return v_count;
end;
$$;
comment on function app.cancel_vanished_erp_receivables(uuid, uuid, timestamptz) is
    'After both lists were read whole: titles in neither are cancelled, unless there was none at '
    'all. Returns how many.';

-- 2. Functions: revenue

create function app.erp_revenue_lines(org uuid, sync uuid)
returns table (
    code bigint, basis text, omie_codigo bigint, month date, amount numeric, is_counted boolean,
    reason text
)
language sql
stable
security definer
set search_path = ''
as $$
    with lines as (
        select
            r.code,
            case r.list when 'issued' then 'issued' else 'received' end as basis,
            case r.list
                when 'issued' then r.code else app.omie_code(r.body ->> 'title')
            end as title_number,
            app.omie_code(r.body ->> 'client') as omie_codigo,
            app.omie_date(r.body ->> 'day') as day,
            app.omie_amount(r.body ->> 'amount') as amount,
            coalesce(nullif(r.body ->> 'nature', ''), 'R') = 'R'
            and app.omie_title_status(r.body ->> 'status') is distinct from 'cancelled' as is_ours,
            l.since, l.month as until
        from public.erp_sync_log as l
        inner join app.erp_sync_rows as r
            on r.org_id = l.org_id and r.sync_id = l.id and r.list in ('issued', 'receipts')
        where l.org_id = erp_revenue_lines.org and l.id = erp_revenue_lines.sync
    )

    select
        x.code, x.basis, x.omie_codigo, app.month_start(x.day), x.amount,
        x.is_ours and app.month_start(x.day) between x.since and x.until
        and (
            select r.code from app.erp_sync_rows as r
            where
                r.org_id = erp_revenue_lines.org and r.sync_id = erp_revenue_lines.sync
                and r.list = 'cancelled' and r.code = x.title_number
            limit 1
        ) is null
        and (
            select e.status from public.erp_receivables as e
            where e.org_id = erp_revenue_lines.org and e.title_number = x.title_number
            limit 1
        ) is distinct from 'cancelled',
        case
            when not x.is_ours then null
            when x.day is null then 'date_invalid'
            when x.omie_codigo is null then 'client_missing'
            when x.amount is null then 'amount_invalid'
        end
    from lines as x
$$;
comment on function app.erp_revenue_lines(uuid, uuid) is
    'Titles issued and receipts that a run has read: each with the basis it counts on, its month '
    'by its own date, and whether it counts: not outside of the months asked for, nor of a '
    'cancelled title.';

create function app.merge_erp_revenue(org uuid, sync uuid, moment timestamptz) returns jsonb
language sql
security definer
set search_path = ''
as $$
    with lines as materialized (
        select * from app.erp_revenue_lines(org, sync)
    ),

    totals as materialized (
        select x.omie_codigo, x.month, x.basis, sum(x.amount) as value
        from lines as x
        where x.is_counted and x.reason is null
        group by x.omie_codigo, x.month, x.basis
        having sum(x.amount) <> 0
    ),

    stored as (
        insert into public.erp_revenue_snapshot as s (
            org_id, month, omie_codigo, basis, value, synced_at
        )
        select
            merge_erp_revenue.org, t.month, t.omie_codigo, t.basis, t.value,
            merge_erp_revenue.moment
        from totals as t
        order by t.month, t.omie_codigo, t.basis
        on conflict on constraint erp_revenue_snapshot_org_id_month_omie_codigo_basis_key
        do update set value = excluded.value, synced_at = excluded.synced_at
        where s.value is distinct from excluded.value
        returning s.xmax = 0 as is_new
    ),

    removed as (
        delete from public.erp_revenue_snapshot as s
        using public.erp_sync_log as l
        where
            l.org_id = merge_erp_revenue.org and l.id = merge_erp_revenue.sync
            and s.org_id = l.org_id and s.month between l.since and l.month
            and not exists (
                select from totals as t
                where
                    t.omie_codigo = s.omie_codigo and t.month = s.month and t.basis = s.basis
            )
        returning s.id
    ),

    refused as (
        select x.code, x.reason from lines as x where x.reason is not null
    )

    select jsonb_build_object(
        'seen', (select count(*) from lines),
        'created', (select count(*) from stored as s where s.is_new),
        'updated', (select count(*) from stored as s where not s.is_new),
        'unchanged', (select count(*) from totals) - (select count(*) from stored),
        'skipped', (
            select count(*) from lines as x where not x.is_counted and x.reason is null
        ),
        'deactivated', (select count(*) from removed),
        'failed', (select count(*) from refused),
        'failures', (
            select coalesce(jsonb_agg(
                jsonb_build_object('row', r.code::text, 'reason', r.reason) order by r.code
            ), '[]') from refused as r
        )
    )
$$;
comment on function app.merge_erp_revenue(uuid, uuid, timestamptz) is
    'Replaces the snapshot of the months asked for, both bases, by the sums per client and month '
    'of what was read.';

-- 2. Functions: what webhooks tell

create function app.apply_erp_news(org uuid, list text, rows jsonb, told_at timestamptz)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_sync uuid := gen_random_uuid();
    v_staged jsonb;
    v_answer jsonb;
begin
    if told_at <= (
        select max(l.started_at) from public.erp_sync_log as l
        where
            l.org_id = apply_erp_news.org and l.entity = 'receivables'
            and (l.status = 'succeeded' or (l.status = 'partial' and l.error is null))
    ) then
        return jsonb_build_object('superseded', true);
    end if;
    v_staged := app.stage_erp_rows(org, v_sync, apply_erp_news.list, rows);
    v_answer := app.merge_erp_receivables(org, v_sync, told_at, 0, jsonb_array_length(rows));
    delete from app.erp_sync_rows as r where r.org_id = apply_erp_news.org and r.sync_id = v_sync;
    return v_answer || jsonb_build_object(
        'superseded', false, 'failures', (v_answer -> 'failures') || (v_staged -> 'failures')
    );
end;
$$;
comment on function app.apply_erp_news(uuid, text, jsonb, timestamptz) is
    'Takes titles or movements that a webhook told of, unless a synchronisation has begun since. '
    'Returns the counts of the merge and superseded.';

create function app.cancel_removed_erp_receivables(
    org uuid, codes bigint[], told_at timestamptz
) returns integer
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_count integer;
begin
    update public.erp_receivables as e
    set status = 'cancelled', open = 0, vanished_at = app.now(), synced_at = told_at
    where
        e.org_id = cancel_removed_erp_receivables.org and e.title_number = any (codes)
        and e.vanished_at is null and e.synced_at <= told_at;
    get diagnostics v_count = row_count;
    return v_count;
end;
$$;
comment on function app.cancel_removed_erp_receivables(uuid, bigint[], timestamptz) is
    'Cancels titles that the ERP says it has deleted. Returns how many.';

create function app.omie_org_ids() returns uuid[]
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    return array(
        select o.id from public.organizations as o
        inner join public.integration_credentials as c on c.org_id = o.id
        where o.status = 'active' and c.provider = 'omie'
        order by o.id
    );
end;
$$;
comment on function app.omie_org_ids() is
    'Active organisations that are connected with Omie: those the timetable synchronises.';

-- 5. Access

alter table app.erp_sync_rows enable row level security;

grant execute on function
app.next_erp_sync_at(uuid, uuid), app.start_erp_sync(uuid, uuid, text, text, date),
app.report_erp_sync(uuid, uuid, jsonb),
app.finish_erp_sync(uuid, uuid, text, jsonb, text, timestamptz),
app.stage_erp_rows(uuid, uuid, text, jsonb), app.is_erp_stranger(uuid, uuid),
app.merge_erp_clients(uuid, uuid, timestamptz, bigint, integer),
app.vanished_erp_clients(uuid, uuid), app.deactivate_erp_clients(uuid, bigint[], timestamptz),
app.merge_erp_services(uuid, uuid, timestamptz, bigint, integer),
app.merge_erp_receivables(uuid, uuid, timestamptz, bigint, integer),
app.cancel_vanished_erp_receivables(uuid, uuid, timestamptz),
app.merge_erp_revenue(uuid, uuid, timestamptz),
app.apply_erp_news(uuid, text, jsonb, timestamptz),
app.cancel_removed_erp_receivables(uuid, bigint[], timestamptz), app.omie_org_ids()
to service_role;

-- 6. Reference rows

insert into app.job_types (entrypoint, latency_class, description) values
('sync.omie.clients', 'low_priority', 'Reads changed clients and all services of the ERP.'),
('sync.omie.receivables', 'low_priority', 'Reads changed titles and recent payments of the ERP.'),
('sync.omie.revenue', 'low_priority', 'Reads the revenue of the month before from the ERP.'),
('sync.omie.full', 'low_priority', 'Reads everything of the ERP and finds what has vanished.');

insert into app.error_keys (key, http, meaning) values
('erp_sync_refused', 409, 'Of an organisation that is not active nothing is synchronised.'),
('erp_sync_running', 409, 'The same entity is being synchronised by another process.'),
('erp_sync_cooldown', 429, 'The ERP was asked a moment ago, or has asked to wait.');
