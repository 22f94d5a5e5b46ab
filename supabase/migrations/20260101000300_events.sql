-- Events: the append-only log of what happened, its subscriptions, and the exactly-once daily
-- counts.
-- Depends on: core, core_access. Subscriptions enqueue through app.enqueue (jobs) and
-- app.queue_webhook (webhooks out) and start app.start_workflow_by_event at run time.
-- Asked for by: ness-os-data-massa (module_events, event_aggregates), domain §4, architecture §4.4.

-- 1. Tables

create table app.event_types (
    module text not null,
    event_type text not null constraint event_types_event_type_check
        check (event_type ~ '^[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*$'),
    description text not null,
    payload_keys text[] not null default '{}',
    primary key (module, event_type)
);
comment on table app.event_types is '[events] Catalogue of events: an event outside it is refused.';
comment on column app.event_types.payload_keys is
    'Exactly the keys of the payload; changed names the columns an update has changed.';

create table public.module_events (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    module text not null,
    event_type text not null,
    entity_type text not null,
    entity_id uuid,
    actor_id uuid,
    actor_kind text not null constraint module_events_actor_kind_check
        check (actor_kind in ('user', 'client', 'agent', 'system', 'visitor')),
    payload jsonb not null default '{}',
    request_id text,
    causation_id uuid,
    schema_version integer not null default 1,
    occurred_at timestamptz not null default app.now(),
    occurred_on date not null,
    xid xid8 not null default pg_current_xact_id(),
    primary key (org_id, id, occurred_at)
) partition by range (occurred_at);
comment on table public.module_events is
    '[events] What happened in every module, in monthly partitions. Append only; never a whole '
    'row, never personal data.';
comment on column public.module_events.occurred_on is
    'Day of occurred_at in the organisation''s time zone when it was stored; what aggregates '
    'count by.';
comment on column public.module_events.causation_id is
    'Event whose handling caused this one; null for acts of people.';
comment on column public.module_events.xid is
    'Transaction that wrote the event; the rollup reads only below the oldest running one.';
create index module_events_xid_idx on public.module_events (xid);
create index module_events_occurred_at_idx on public.module_events (org_id, occurred_at);
create index module_events_entity_idx on public.module_events (org_id, entity_type, entity_id,
    occurred_at);

create table partitions.module_events_default partition of public.module_events default;
alter table partitions.module_events_default enable row level security;
alter table partitions.module_events_default force row level security;
comment on table partitions.module_events_default is
    '[events] Events older or newer than every monthly partition, so that nothing is refused.';

create table public.event_subscriptions (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    pattern text not null constraint event_subscriptions_pattern_check
        check (pattern ~ '^(\*|[a-z]+\.(\*|[a-z][a-z0-9_]*\.(\*|[a-z][a-z0-9_]*)))$'),
    handler text not null constraint event_subscriptions_handler_check
        check (handler in ('webhook', 'notification', 'job', 'workflow')),
    endpoint_id uuid,
    workflow_id uuid,
    config jsonb not null default '{}'
        constraint event_subscriptions_config_check check (jsonb_typeof(config) = 'object'),
    is_active boolean not null default true,
    like_pattern text not null generated always as (
        replace(replace(pattern, '_', '\_'), '*', '%')
    ) stored,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    constraint event_subscriptions_endpoint_check
        check ((handler = 'webhook') = (endpoint_id is not null)),
    constraint event_subscriptions_workflow_check
        check ((handler = 'workflow') = (workflow_id is not null))
);
comment on table public.event_subscriptions is
    '[events] Who is told of which events: a match enqueues the job event.<handler> in the '
    'emitting transaction, writes the delivery to a webhook endpoint, or starts a workflow.';
comment on column public.event_subscriptions.endpoint_id is
    'The receiver, exactly for handler webhook: a row of webhook_endpoints.';
comment on column public.event_subscriptions.workflow_id is
    'What is started, exactly for handler workflow: a row of workflows, which keeps this one.';
comment on column public.event_subscriptions.pattern is
    'module.entity.change with * for the rest, as fin.contract.* or *.';
create index event_subscriptions_active_idx on public.event_subscriptions (org_id) where is_active;

create table public.event_aggregates (
    org_id uuid not null references public.organizations (id) on delete cascade,
    period date not null,
    module text not null,
    event_type text not null,
    count bigint not null constraint event_aggregates_count_check check (count >= 0),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, period, module, event_type)
) with (fillfactor = 80);
comment on table public.event_aggregates is
    '[events] Events per day (in the organisation''s time zone), module and type. Written by the '
    'rollup and the recount only.';

create table app.rollup_state (
    is_only boolean primary key default true constraint rollup_state_is_only_check check (is_only),
    counted_below xid8 not null,
    cluster text not null,
    rolled_up_at timestamptz
);
comment on table app.rollup_state is
    '[events] How far the rollup has counted: every event of a transaction below counted_below.';
comment on column app.rollup_state.cluster is
    'System identifier of the database cluster counted_below belongs to; another one means a '
    'restored dump.';

-- 2. Functions: partitions

create function app.ensure_event_partitions(from_month date, to_month date) returns integer
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_month date := app.month_start(from_month);
    v_name text;
    v_made integer := 0;
begin
    perform pg_advisory_xact_lock(hashtextextended('app.ensure_event_partitions', 0));
    while v_month <= to_month loop
        v_name := 'module_events_' || to_char(v_month, 'YYYYMM');
        if to_regclass('partitions.' || v_name) is null then
            execute format('create table partitions.%I (like public.module_events including all)',
                v_name);
            execute format('alter table partitions.%I enable row level security', v_name);
            execute format('alter table partitions.%I force row level security', v_name);
            -- Events that came before their partition lie in the default one: they move with their
            -- month.
            execute format(
                'with moved as (delete from partitions.module_events_default where occurred_at >= '
                '%1$L and occurred_at < %2$L returning *) '
                'insert into partitions.%3$I select * from moved',
                v_month::timestamp at time zone 'UTC',
                    (v_month + interval '1 month') at time zone 'UTC', v_name
            );
            execute format(
                'alter table public.module_events attach partition partitions.%I for values from '
                '(%L) to (%L)',
                v_name, v_month::timestamp at time zone 'UTC',
                    (v_month + interval '1 month') at time zone 'UTC'
            );
            execute format('comment on table partitions.%I is %L', v_name,
                '[events] Events of one month, UTC.');
            v_made := v_made + 1;
        end if;
        v_month := v_month + interval '1 month';
    end loop;
    return v_made;
end;
$$;
comment on function app.ensure_event_partitions(date, date) is
    'Makes the missing monthly partitions of module_events, moving events out of the default '
    'partition. Returns how many were made.';

create function app.ensure_event_partitions() returns integer
language sql
security definer
set search_path = ''
as $$
    select app.ensure_event_partitions(
        (app.now() at time zone 'UTC')::date,
            ((app.now() at time zone 'UTC') + interval '3 months')::date
    )
$$;
comment on function app.ensure_event_partitions() is
    'Job: partitions of this month and the three to come.';

create function app.drop_event_partitions(older_than date) returns integer
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_name text;
    v_dropped integer := 0;
begin
    for v_name in
        select c.relname from pg_catalog.pg_inherits as i
            inner join pg_catalog.pg_class as c on c.oid = i.inhrelid
        where
            i.inhparent = 'public.module_events'::regclass and c.relname ~ '^module_events_\d{6}$'
            and to_date(right(c.relname, 6),
                'YYYYMM') + interval '1 month' <= app.month_start(older_than)
    loop
        execute format('drop table partitions.%I', v_name);
        v_dropped := v_dropped + 1;
    end loop;
    delete from partitions.module_events_default as e
        where e.occurred_at < app.month_start(older_than)::timestamp at time zone 'UTC';
    return v_dropped;
end;
$$;
comment on function app.drop_event_partitions(date) is
    'Drops the monthly partitions that end before the month of the given day. Returns how many.';

-- 2. Functions: recording

create function app.record_event(
    org uuid,
    module text,
    event_type text,
    entity_type text,
    entity_id uuid,
    payload jsonb default '{}',
    occurred_at timestamptz default app.now()
) returns uuid
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_id uuid := gen_random_uuid();
    v_claims jsonb := app.claims();
    v_agent uuid;
    v_person uuid;
    v_known record;
    v_subscription record;
begin
    if v_claims is not null then
        v_agent := app.agent_id();
        v_person := auth.uid();
    end if;
    -- This runs for every row written: claims are read once, all lookups are one statement.
    select
        coalesce(o.time_zone, 'America/Sao_Paulo') as time_zone, m.role as person_role,
        exists (
            select from public.event_subscriptions as s where s.org_id = org and s.is_active
        ) as has_subscriptions
    into v_known
    from app.event_types as t
    left join public.organizations as o on o.id = org
    left join public.memberships as m on m.org_id = org and m.user_id = v_person
    where t.module = record_event.module and t.event_type = record_event.event_type;
    if not found then
        perform app.raise_error(
            'event_type_unknown', format('%s %s is not in the catalogue.', record_event.module,
                record_event.event_type),
            'Add it to app.event_types in the module''s migration.'
        );
    end if;
    insert into public.module_events (
        org_id, id, module, event_type, entity_type, entity_id, actor_id, actor_kind, payload,
        request_id, causation_id, occurred_at, occurred_on
    ) values (
        org, v_id, record_event.module, record_event.event_type, record_event.entity_type,
            record_event.entity_id,
        coalesce(v_agent, v_person),
        case
            when v_claims is null or v_claims ->> 'role' = 'service_role' then 'system'
            when v_agent is not null then 'agent'
            when v_person is null then 'visitor'
            when v_known.person_role = 'client' then 'client'
            else 'user'
        end,
        record_event.payload, app.request_id(),
        nullif(current_setting('app.causation_id', true), '')::uuid, record_event.occurred_at,
        (record_event.occurred_at at time zone v_known.time_zone)::date
    );
    if not v_known.has_subscriptions then
        return v_id;
    end if;
    for v_subscription in
        select s.id, s.handler, s.endpoint_id, s.workflow_id from public.event_subscriptions as s
        where
            s.org_id = org and s.is_active
            and (record_event.module || '.' || record_event.event_type) like s.like_pattern
    loop
        if v_subscription.handler = 'webhook' then
            perform app.queue_webhook(
                org, v_subscription.endpoint_id, v_id,
                record_event.module || '.' || record_event.event_type, record_event.entity_type,
                record_event.entity_id, record_event.payload, record_event.occurred_at
            );
            continue;
        elsif v_subscription.handler = 'workflow' then
            perform app.start_workflow_by_event(org, v_subscription.workflow_id, v_id,
                record_event.occurred_at);
            continue;
        end if;
        perform app.enqueue(
            'event.' || v_subscription.handler,
            jsonb_build_object('subscription_id', v_subscription.id, 'event_id', v_id,
                'occurred_at', record_event.occurred_at),
            org, v_subscription.id || '/' || v_id
        );
    end loop;
    return v_id;
end;
$$;
comment on function app.record_event(uuid, text, text, text, uuid, jsonb, timestamptz) is
    'Appends one catalogued event and enqueues its subscribers, in the caller''s transaction. '
    'Errors: event_type_unknown, queue_missing.';

create function app.emit_event() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_entity text := tg_argv[1];
    v_state text := nullif(tg_argv[2], '');
    v_old jsonb;
    v_row jsonb;
    v_change text;
    v_payload jsonb := '{}';
    v_changed text[];
    v_number integer;
begin
    if tg_op = 'INSERT' then
        v_row := to_jsonb(new);
        v_change := 'created';
    elsif tg_op = 'DELETE' then
        -- A cascade from the organisation itself: nobody is left to tell.
        if not exists (select from public.organizations as o where o.id = old.org_id) then
            return null;
        end if;
        v_row := to_jsonb(old);
        v_change := 'deleted';
    else
        v_old := to_jsonb(old);
        v_row := to_jsonb(new);
        select array_agg(cell.key order by cell.key) into v_changed
        from jsonb_each(v_row) as cell (key, value)
        where cell.key <> 'updated_at' and cell.value is distinct from v_old -> cell.key;
        if v_changed is null then
            return null;
        end if;
        v_change := case when v_state = any (v_changed) then v_row ->> v_state else 'updated' end;
        v_payload := jsonb_build_object('changed', to_jsonb(v_changed));
    end if;
    for v_number in 3 .. tg_nargs - 1 loop
        v_payload := v_payload || jsonb_build_object(tg_argv[v_number], v_row -> tg_argv[v_number]);
    end loop;
    if v_state is not null then
        v_payload := v_payload || jsonb_build_object(v_state, v_row -> v_state);
    end if;
    perform app.record_event(
        (v_row ->> 'org_id')::uuid, tg_argv[0], v_entity || '.' || v_change, v_entity,
            (v_row ->> 'id')::uuid, v_payload
    );
    return null;
end;
$$;
comment on function app.emit_event() is
    'Trigger (module, entity, state column or empty, payload columns…): records <entity>.created, '
    '.<new state>, .updated or .deleted.';

-- 2. Functions: counting

create function app.rollup_events() returns bigint
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_horizon xid8;
    v_cluster text := (select c.system_identifier::text from pg_control_system() as c);
    v_state app.rollup_state;
    v_now timestamptz := app.now();
    v_counted bigint;
begin
    select * into v_state from app.rollup_state for update;
    if v_state.cluster <> v_cluster then
        -- A dump restored into another cluster: its transaction ids mean nothing here. Count every
        -- day anew.
        return app.recount_everything(v_cluster);
    end if;
    -- Taken after the lock, so that it never runs behind another rollup. Every transaction below it
    -- has ended: what it wrote is visible, and nothing more will come.
    v_horizon := pg_snapshot_xmin(pg_current_snapshot());
    -- Executed by text, so that it is planned for its number of events: a kept plan would take the
    -- way of a quiet minute (an index) for a million events, too.
    execute $rollup$
        with counted as (
            select e.org_id, e.occurred_on, e.module, e.event_type, count(*) as count
            from public.module_events as e
            where e.xid >= $1 and e.xid < $2
            group by e.org_id, e.occurred_on, e.module, e.event_type
        ),

        stored as (
            insert into public.event_aggregates as a (
                org_id, period, module, event_type, count, updated_at
            )
            select c.org_id, c.occurred_on, c.module, c.event_type, c.count, $3 from counted as c
            on conflict (org_id, period, module, event_type) do update
            set count = a.count + excluded.count, updated_at = excluded.updated_at
        )

        select coalesce(sum(c.count), 0) from counted as c
    $rollup$ into v_counted using v_state.counted_below, v_horizon, v_now;
    update app.rollup_state set counted_below = v_horizon, rolled_up_at = v_now;
    return v_counted;
end;
$$;
comment on function app.rollup_events() is
    'Job: adds the events of all transactions ended since the last run to event_aggregates, each '
    'exactly once. Returns how many.';

create function app.recount_everything(cluster text) returns bigint
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_counted bigint;
begin
    lock table public.module_events in share row exclusive mode;
    update public.module_events set xid = '0'::xid8;
    delete from public.event_aggregates;
    with counted as (
        insert into public.event_aggregates (org_id, period, module, event_type, count)
        select e.org_id, e.occurred_on, e.module, e.event_type, count(*)
        from public.module_events as e
        group by e.org_id, e.occurred_on, e.module, e.event_type
        returning count
    )

    select coalesce(sum(c.count), 0) into v_counted from counted as c;
    update app.rollup_state
    set counted_below = pg_current_xact_id(), cluster = recount_everything.cluster,
        rolled_up_at = app.now();
    return v_counted;
end;
$$;
comment on function app.recount_everything(text) is
    'After a dump was restored into another cluster: counts all stored events anew and starts the '
    'watermark there.';

create function app.recount_events(period date)
returns table (org_id uuid, module text, event_type text, counted bigint, drift bigint)
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
begin
    -- The state's row lock keeps the rollup out; only what it has passed is counted, so that
    -- neither counts twice.
    perform from app.rollup_state for update;
    return query
    with fresh as (
        select e.org_id, e.module, e.event_type, count(*) as count
        from public.module_events as e
        where
            e.occurred_on = recount_events.period
            -- No zone is further than a day from UTC: the bounds leave out the other months'
            -- partitions.
            and e.occurred_at >= (recount_events.period - 1)::timestamp at time zone 'UTC'
            and e.occurred_at < (recount_events.period + 2)::timestamp at time zone 'UTC'
            and e.xid < (select s.counted_below from app.rollup_state as s)
        group by e.org_id, e.module, e.event_type
    ),

    stored as (
        select a.org_id, a.module, a.event_type, a.count from public.event_aggregates as a
        where a.period = recount_events.period
    ),

    -- A day without any event left has passed its retention: its aggregates are kept as they are.
    compared as (
        select
            coalesce(f.org_id, s.org_id) as org_id,
            coalesce(f.module, s.module) as module,
            coalesce(f.event_type, s.event_type) as event_type,
            coalesce(f.count, 0) as counted,
            coalesce(f.count, 0) - coalesce(s.count, 0) as drift
        from fresh as f
        full join stored as s on s.org_id = f.org_id and s.module = f.module
            and s.event_type = f.event_type
        where exists (select from fresh)
    ),

    written as (
        insert into public.event_aggregates as a (org_id, period, module, event_type, count)
        select c.org_id, recount_events.period, c.module, c.event_type, c.counted
        from compared as c where c.drift <> 0
        on conflict (org_id, period, module, event_type) do update
        set count = excluded.count, updated_at = app.now()
    )

    select c.org_id, c.module, c.event_type, c.counted, c.drift
    from compared as c order by c.org_id, c.module, c.event_type;
end;
$$;
comment on function app.recount_events(date) is
    'Body of public.aggregate_module_events_for_period.';

create function public.aggregate_module_events_for_period(period date)
returns table (org_id uuid, module text, event_type text, counted bigint, drift bigint)
language sql
set search_path = ''
as $$ select * from app.recount_events(period) $$;
comment on function public.aggregate_module_events_for_period(date) is
    'Counts one day anew for every organisation and stores the counts; drift is the new count '
    'minus the old, 0 when rollup and recount agree. Worker only.';

create function app.recount_events_yesterday() returns bigint
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_drifted record;
    v_counted bigint := 0;
begin
    for v_drifted in
        select r.org_id, sum(r.counted) as counted, sum(abs(r.drift)) as drift
        from app.recount_events((app.now() at time zone 'America/Sao_Paulo')::date - 1) as r
        group by r.org_id order by r.org_id
    loop
        v_counted := v_counted + v_drifted.counted;
        if v_drifted.drift <> 0 then
            perform app.record_event(
                v_drifted.org_id, 'data', 'event_aggregates.drifted', 'event_aggregates', null,
                jsonb_build_object('period',
                    (app.now() at time zone 'America/Sao_Paulo')::date - 1, 'drift',
                    v_drifted.drift)
            );
        end if;
    end loop;
    return v_counted;
end;
$$;
comment on function app.recount_events_yesterday() is
    'Job: recounts yesterday; organisations whose rollup had drifted get the event data '
    'event_aggregates.drifted. Returns the events counted.';

create function public.get_event_aggregates(org uuid, period date default null,
    max_rows integer default 50)
returns setof public.event_aggregates
language sql
stable
set search_path = ''
as $$
    select a.* from public.event_aggregates as a
    where a.org_id = get_event_aggregates.org
        and (get_event_aggregates.period is null or a.period = get_event_aggregates.period)
    order by a.period desc, a.count desc, a.module, a.event_type
    limit least(greatest(max_rows, 1), 1000)
$$;
comment on function public.get_event_aggregates(uuid, date, integer) is
    'Daily counts of one day, or the latest max_rows (at most 1000), newest first.';

-- 3. Triggers

create trigger event_subscriptions_80_audit
after insert or update or delete on public.event_subscriptions
for each row execute function app.audit_row();

-- 5. Access

select app.protect_table('public.module_events', 'data', null, '{select}');
select app.protect_table('public.event_aggregates', 'data', null, '{select}');
-- Its only writers set updated_at themselves, for thousands of rows at a time.
drop trigger event_aggregates_90_touch on public.event_aggregates;
select app.protect_table('public.event_subscriptions', 'admin', null);
-- Events and counts are written by app.record_event and the rollup, by nobody else.
revoke insert, update, delete on public.module_events, public.event_aggregates from service_role;

alter table app.event_types enable row level security;
alter table app.rollup_state enable row level security;
create policy event_types_select on app.event_types for select
to authenticated, service_role, analyst using (true);
grant select on app.event_types to authenticated, service_role, analyst;

grant execute on function
app.rollup_events(), app.recount_events(date), app.recount_events_yesterday(),
app.ensure_event_partitions(),
app.record_event(uuid, text, text, text, uuid, jsonb, timestamptz),
public.aggregate_module_events_for_period(date)
to service_role;
grant execute on function public.get_event_aggregates(uuid, date, integer) to authenticated,
    service_role;

-- 6. Reference rows

insert into app.rollup_state (counted_below, cluster)
select
    '0'::xid8 as counted_below,
    c.system_identifier::text as cluster
from pg_control_system() as c;

do $$
begin
    perform app.ensure_event_partitions(
        (now() - interval '13 months')::date, (now() + interval '3 months')::date
    );
end;
$$;

insert into app.event_types (module, event_type, description, payload_keys) values
(
    'data', 'event_aggregates.drifted', 'Rollup and recount of a day differed; the recount stands.',
    '{period,drift}'
);
