-- Jobs: the one door from a transaction to the queue.
-- Depends on: core; at run time on the queue's own schema pgqueuer, which nessos db push installs.
-- Asked for by: architecture §3 (transactional outbox), domain §1.

-- 2. Functions

create function app.enqueue(
    entrypoint text,
    payload jsonb,
    org uuid default null,
    dedupe_key text default null,
    delay interval default '0',
    priority integer default 0
) returns bigint
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_job bigint;
begin
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
        enqueue.priority, enqueue.entrypoint, convert_to(enqueue.payload::text, 'UTF8'),
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
        values (v_job, 'queued', enqueue.entrypoint, enqueue.priority);
    end if;
    return v_job;
end;
$$;
comment on function app.enqueue(text, jsonb, uuid, text, interval, integer) is
    'Writes a job in the caller''s transaction: it runs only if that commits. Higher priority '
    'runs first; delay counts from now. Returns the job''s id, or null when a job with this '
    'dedupe key is waiting or running. Errors: queue_missing.';

-- 5. Access

grant execute on function app.enqueue(text, jsonb, uuid, text, interval, integer) to service_role;
