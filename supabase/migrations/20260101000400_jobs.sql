-- Jobs: the one door from a transaction to the queue.
-- Depends on: core; at run time on the queue's own schema pgqueuer, which nessos db push installs.
-- Asked for by: architecture §3 (transactional outbox), domain §1.

-- 1. Tables

create table app.job_types (
    entrypoint text primary key constraint job_types_entrypoint_check
        check (entrypoint ~ '^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$'),
    latency_class text not null constraint job_types_latency_class_check
        check (latency_class in ('high_priority', 'default', 'low_priority')),
    priority integer not null generated always as (
        case latency_class when 'high_priority' then 20 when 'default' then 10 else 0 end
    ) stored,
    is_subscribable boolean not null default false,
    description text not null
);
comment on table app.job_types is
    '[jobs] Catalogue of jobs: one outside it is refused. Each module lists its own; the worker '
    'declares retries, time limit and concurrency of each.';
comment on column app.job_types.latency_class is
    'high_priority: somebody waits for it; low_priority: reports and analytics; default: the rest.';

comment on column app.job_types.is_subscribable is
    'An organisation''s event subscription may ask for it: it takes what '
    'app.enqueue_subscribed_job gives it and does nothing an admin of the organisation may not do.';

-- 2. Functions

create function app.enqueue(
    entrypoint text,
    payload jsonb,
    org uuid default null,
    dedupe_key text default null,
    delay interval default '0'
) returns bigint
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_job bigint;
    v_priority integer := (
        select t.priority from app.job_types as t where t.entrypoint = enqueue.entrypoint
    );
begin
    if v_priority is null then
        perform app.raise_error(
            'job_type_unknown', format('%s is not in the catalogue.', enqueue.entrypoint),
            'Add it to app.job_types in the module''s migration.'
        );
    end if;
    if to_regclass('pgqueuer.pgqueuer') is null then
        perform app.raise_error(
            'queue_missing',
            'The schema pgqueuer is not installed.',
            'Run: nessos db push'
        );
    end if;
    insert into pgqueuer.pgqueuer (priority, entrypoint, payload, execute_after, headers,
        dedupe_key, status)
    values (
        v_priority, enqueue.entrypoint, convert_to(enqueue.payload::text, 'UTF8'),
        clock_timestamp() + enqueue.delay,
        jsonb_strip_nulls(jsonb_build_object('org_id', enqueue.org, 'request_id',
            app.request_id())),
        enqueue.dedupe_key, 'queued'
    )
    on conflict (dedupe_key) where status in ('queued', 'picked')
        and dedupe_key is not null do nothing
    returning id into v_job;
    if v_job is not null then
        insert into pgqueuer.pgqueuer_log (job_id, status, entrypoint, priority)
        values (v_job, 'queued', enqueue.entrypoint, v_priority);
    end if;
    return v_job;
end;
$$;
comment on function app.enqueue(text, jsonb, uuid, text, interval) is
    'Writes a job in the caller''s transaction: it runs only if that commits. delay counts from '
    'now. Returns the job''s id, or null when a job with this dedupe key is waiting or running. '
    'Errors: job_type_unknown, queue_missing.';

create function app.enqueue_subscribed_job(
    org uuid, subscription uuid, event uuid, occurred_at timestamptz
) returns bigint
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_subscription public.event_subscriptions;
    v_event public.module_events;
    v_causes integer;
begin
    select * into v_subscription from public.event_subscriptions as s
    where s.org_id = org and s.id = subscription and s.handler = 'job' and s.is_active;
    if not found then
        return null;
    end if;
    select * into v_event from public.module_events as e
    where e.org_id = org and e.id = event
        and e.occurred_at = enqueue_subscribed_job.occurred_at;
    if not found then
        return null;
    end if;
    with recursive causes as (
        select v_event.causation_id as id, 1 as number
        where v_event.causation_id is not null
        union all
        select e.causation_id, c.number + 1
        from causes as c
        inner join public.module_events as e on e.org_id = org and e.id = c.id
        where e.causation_id is not null and c.number < 10
    )

    select count(*) into v_causes from causes as c;
    if v_causes >= 10 then
        perform app.raise_error(
            'event_loop',
            format('%s is the tenth event in a row that caused the next.', v_event.event_type),
            'Narrow the pattern of one of the subscriptions.'
        );
    end if;
    return app.enqueue(
        v_subscription.config ->> 'entrypoint',
        jsonb_build_object(
            'subscription_id', subscription, 'event_id', event,
            'occurred_at', v_event.occurred_at, 'module', v_event.module,
            'event_type', v_event.event_type, 'entity_type', v_event.entity_type,
            'entity_id', v_event.entity_id, 'payload', v_event.payload
        ),
        org, 'subscribed/' || subscription || '/' || event
    );
end;
$$;
comment on function app.enqueue_subscribed_job(uuid, uuid, uuid, timestamptz) is
    'Job event.job: enqueues what a subscription names, with the event. Null when the subscription '
    'is gone or rests. Errors: event_loop.';

create function app.guard_subscribed_job() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    if not exists (
        select from app.job_types as t
        where t.entrypoint = new.config ->> 'entrypoint' and t.is_subscribable
    ) then
        perform app.raise_error(
            'job_not_subscribable',
            format('%s is no job that a subscription may ask for.',
                coalesce(new.config ->> 'entrypoint', 'config.entrypoint')),
            'See app.job_types: is_subscribable.'
        );
    end if;
    return new;
end;
$$;
comment on function app.guard_subscribed_job() is
    'Trigger: a subscription with the handler job names a job that is open to subscriptions. '
    'Errors: job_not_subscribable.';

-- 3. Triggers

create trigger event_subscriptions_10_guard_job
before insert or update of handler, config on public.event_subscriptions
for each row when (new.handler = 'job')
execute function app.guard_subscribed_job();

-- 5. Access

grant execute on function
app.enqueue(text, jsonb, uuid, text, interval),
app.enqueue_subscribed_job(uuid, uuid, uuid, timestamptz)
to service_role;

alter table app.job_types enable row level security;
create policy job_types_select on app.job_types for select
to authenticated, service_role, analyst using (true);
grant select on app.job_types to authenticated, service_role, analyst;

-- 6. Reference rows

insert into app.error_keys (key, http, meaning) values
('event_loop', 422, 'Events and the jobs they ask for cause each other without end.'),
('job_not_subscribable', 422, 'No event subscription may ask for this job.'),
('job_type_unknown', 422, 'The job is not in the catalogue app.job_types.');

insert into app.job_types (entrypoint, latency_class, description) values
('event.job', 'default', 'Enqueues the job an event subscription names.');
