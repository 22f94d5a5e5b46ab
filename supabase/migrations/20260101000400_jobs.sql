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
    description text not null
);
comment on table app.job_types is
    '[jobs] Catalogue of jobs: one outside it is refused. Each module lists its own; the worker '
    'declares retries, time limit and concurrency of each.';
comment on column app.job_types.latency_class is
    'high_priority: somebody waits for it; low_priority: reports and analytics; default: the rest.';

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

-- 5. Access

grant execute on function app.enqueue(text, jsonb, uuid, text, interval) to service_role;

alter table app.job_types enable row level security;
create policy job_types_select on app.job_types for select
to authenticated, service_role, analyst using (true);
grant select on app.job_types to authenticated, service_role, analyst;

-- 6. Reference rows

insert into app.error_keys (key, http, meaning) values
('job_type_unknown', 422, 'The job is not in the catalogue app.job_types.');
