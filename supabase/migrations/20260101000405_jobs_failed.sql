-- Jobs that failed for good: seen, retried and given up by the organisation's admins or by
-- operators; and the state of the queue for those who watch it.
-- Depends on: core_audit, events, jobs.
-- Asked for by: RENUM (failed_tasks), AuZap (dead letters).

-- 2. Functions: held jobs

create function app.failed_jobs(org uuid, after bigint, max_rows integer)
returns table (
    id bigint, org_id uuid, entrypoint text, failed_at timestamptz, attempts integer, error text,
    subject jsonb
)
language plpgsql
stable
security definer
set search_path = ''
as $$
#variable_conflict use_column
begin
    return query
    select
        q.id, (q.headers ->> 'org_id')::uuid, q.entrypoint, q.updated, q.attempts + 1,
        left(split_part(l.error, e'\n', 1), 500),
        (
            select coalesce(jsonb_object_agg(cell.key, cell.value), '{}')
            from jsonb_each_text(
                case when convert_from(q.payload, 'UTF8') is json object
                    then convert_from(q.payload, 'UTF8')::jsonb end
            ) as cell (key, value)
            where cell.value ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
        )
    from pgqueuer.pgqueuer as q
    left join lateral (
        select g.traceback ->> 'exception_message' as error from pgqueuer.pgqueuer_log as g
        where g.job_id = q.id and g.status = 'failed'
        order by g.created desc, g.id desc limit 1
    ) as l on true
    where q.status = 'failed' and q.id > after
        and (failed_jobs.org is null or q.headers ->> 'org_id' = failed_jobs.org::text)
    order by q.id
    limit least(greatest(max_rows, 1), 1000);
end;
$$;
comment on function app.failed_jobs(uuid, bigint, integer) is
    'Held jobs of one organisation, or of all and of the installation. Of the payload only what is '
    'a key: the rest may be somebody''s data.';

create function app.failed_tasks(org uuid, after bigint, max_rows integer)
returns table (
    id bigint, entrypoint text, failed_at timestamptz, attempts integer, error text, subject jsonb
)
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    perform app.require_access(org, 'admin', 'read');
    return query
    select f.id, f.entrypoint, f.failed_at, f.attempts, f.error, f.subject
    from app.failed_jobs(org, after, max_rows) as f where f.org_id = org;
end;
$$;
comment on function app.failed_tasks(uuid, bigint, integer) is 'Body of public.failed_tasks.';

create function public.failed_tasks(org uuid, after bigint default 0, max_rows integer default 50)
returns table (
    id bigint, entrypoint text, failed_at timestamptz, attempts integer, error text, subject jsonb
)
language sql
stable
set search_path = ''
as $$ select * from app.failed_tasks(org, after, max_rows) $$;
comment on function public.failed_tasks(uuid, bigint, integer) is
    'Jobs of the organisation that failed for good and wait for a decision, oldest first; the next '
    'page begins after the last id. error: first line of the last failure; subject: the keys the '
    'job is about, of its payload the only part that is shown. Who reads admin. Errors: '
    'not_allowed.';

create function app.require_failed_task(job bigint) returns void
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
    v_org uuid := (
        select (q.headers ->> 'org_id')::uuid from pgqueuer.pgqueuer as q
        where q.id = job and q.status = 'failed'
    );
begin
    -- Whoever does not see it is not told that it is there.
    if v_org is null or not (
        app.can_access(v_org, 'admin', 'read') or current_setting('role', true) = 'service_role'
        or app.claims() is null
    ) then
        perform app.raise_error(
            'failed_task_not_found', format('No job %s is held.', job),
            'Somebody may have retried or discarded it: see failed_tasks.'
        );
    end if;
    perform app.require_access(v_org, 'admin', 'write');
end;
$$;
comment on function app.require_failed_task(bigint) is
    'Raises unless the caller may decide on this held job of his organisation. Errors: '
    'failed_task_not_found, not_allowed.';

create function app.note_held_job(job bigint, decision text, changes jsonb) returns void
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_org uuid;
    v_entrypoint text;
begin
    select (q.headers ->> 'org_id')::uuid, q.entrypoint into v_org, v_entrypoint
    from pgqueuer.pgqueuer as q where q.id = job;
    if v_org is null or not exists (select from public.organizations as o where o.id = v_org) then
        return;
    end if;
    insert into public.audit_log (org_id, actor_id, table_name, row_id, action, changes, request_id)
    values (
        v_org, coalesce(app.agent_id(), auth.uid()), 'failed_tasks', job::text,
        case decision when 'discarded' then 'delete' else 'update' end, changes, app.request_id()
    );
    if decision = 'discarded' then
        perform app.record_event(
            v_org, 'jobs', 'failed_task.discarded', 'failed_task', null,
            jsonb_build_object('job_id', job, 'entrypoint', v_entrypoint)
        );
    else
        perform app.record_event(
            v_org, 'jobs', 'failed_task.retried', 'failed_task', null,
            jsonb_build_object('job_id', job, 'entrypoint', v_entrypoint)
        );
    end if;
end;
$$;
comment on function app.note_held_job(bigint, text, jsonb) is
    'Writes what was decided on a held job of an organisation into its audit log and its events.';

create function app.retry_held_job(job bigint) returns bigint
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_job record;
begin
    select q.id, q.dedupe_key into v_job from pgqueuer.pgqueuer as q
    where q.id = job and q.status = 'failed'
    for update;
    if not found then
        perform app.raise_error(
            'failed_task_not_found', format('No job %s is held.', job),
            'Somebody may have retried or discarded it: see failed_tasks.'
        );
    end if;
    begin
        update pgqueuer.pgqueuer as q
        set
            status = 'queued', attempts = 0, execute_after = clock_timestamp(), updated = now(),
            headers = q.headers - 'deaths' - 'waits_since'
        where q.id = job;
    exception when unique_violation then
        v_job.id := null;
    end;
    if v_job.id is null
        or exists (select from app.waiting_jobs as w where w.dedupe_key = v_job.dedupe_key) then
        perform app.raise_error(
            'failed_task_superseded',
            format('Another job does the work of job %s: it is waiting or running.', job),
            'Let that one be done, then retry or discard this.'
        );
    end if;
    -- The queue tells its workers of inserts and deletes only.
    delete from pgqueuer.pgqueuer as q where q.id is null;
    perform app.note_held_job(job, 'retried', '{"status": ["failed", "queued"]}');
    insert into pgqueuer.pgqueuer_log (job_id, status, entrypoint, priority)
    select q.id, 'queued', q.entrypoint, q.priority from pgqueuer.pgqueuer as q where q.id = job;
    return job;
end;
$$;
comment on function app.retry_held_job(bigint) is
    'Puts a held job back into the queue with all its attempts. Returns its number. Operators. '
    'Errors: failed_task_not_found, failed_task_superseded.';

create function app.discard_held_job(job bigint, reason text) returns bigint
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_reason text := app.clean_text(reason, 500);
begin
    if v_reason is null then
        perform app.raise_error(
            'bad_input', 'A job is discarded for a reason.', 'Say why, in at most 500 characters.'
        );
    end if;
    perform from pgqueuer.pgqueuer as q where q.id = job and q.status = 'failed' for update;
    if not found then
        perform app.raise_error(
            'failed_task_not_found', format('No job %s is held.', job),
            'Somebody may have retried or discarded it: see failed_tasks.'
        );
    end if;
    perform app.note_held_job(job, 'discarded', jsonb_build_object(
        'status', jsonb_build_array('failed', null), 'reason', jsonb_build_array(null, v_reason)
    ));
    with discarded as (
        delete from pgqueuer.pgqueuer as q where q.id = job
        returning q.id, q.entrypoint, q.priority
    )

    insert into pgqueuer.pgqueuer_log (job_id, status, entrypoint, priority)
    select d.id, 'deleted', d.entrypoint, d.priority from discarded as d;
    return job;
end;
$$;
comment on function app.discard_held_job(bigint, text) is
    'Gives a held job up. Returns its number. Operators. Errors: failed_task_not_found, bad_input.';

create function app.retry_failed_task(id bigint) returns bigint
language plpgsql
security definer
set search_path = ''
as $$
begin
    perform app.require_failed_task(retry_failed_task.id);
    return app.retry_held_job(retry_failed_task.id);
end;
$$;
comment on function app.retry_failed_task(bigint) is 'Body of public.retry_failed_task.';

create function public.retry_failed_task(id bigint) returns bigint
language sql
set search_path = ''
as $$ select app.retry_failed_task(id) $$;
comment on function public.retry_failed_task(bigint) is
    'Runs a held job of the organisation again, with all its attempts. Of two callers one does it, '
    'the other gets failed_task_not_found. Who writes admin. Errors: failed_task_not_found, '
    'failed_task_superseded (another job with the same dedupe key is waiting or running), '
    'not_allowed.';

create function app.discard_failed_task(id bigint, reason text) returns bigint
language plpgsql
security definer
set search_path = ''
as $$
begin
    perform app.require_failed_task(discard_failed_task.id);
    return app.discard_held_job(discard_failed_task.id, discard_failed_task.reason);
end;
$$;
comment on function app.discard_failed_task(bigint, text) is 'Body of public.discard_failed_task.';

create function public.discard_failed_task(id bigint, reason text) returns bigint
language sql
set search_path = ''
as $$ select app.discard_failed_task(id, reason) $$;
comment on function public.discard_failed_task(bigint, text) is
    'Gives a held job of the organisation up; who and why stand in the audit log. Who writes '
    'admin. Errors: failed_task_not_found, bad_input, not_allowed.';

-- 2. Functions: for those who watch

create function app.queue_state()
returns table (
    latency_class text, entrypoint text, ready bigint, later bigint, running bigint, held bigint,
    oldest_wait interval
)
language plpgsql
stable
security definer
set search_path = ''
as $$
#variable_conflict use_column
begin
    return query
    with counts as (
        select
            q.entrypoint,
            count(*) filter (where q.status = 'queued' and q.execute_after <= clock_timestamp())
                as ready,
            count(*) filter (where q.status = 'queued' and q.execute_after > clock_timestamp())
                as later,
            count(*) filter (where q.status = 'picked') as running,
            count(*) filter (where q.status = 'failed') as held,
            min(q.execute_after) filter (where q.status = 'queued') as due_at
        from pgqueuer.pgqueuer as q group by q.entrypoint
    ),

    waiting as (
        select
            w.entrypoint,
            count(*) filter (where w.due_at <= app.now()) as ready,
            count(*) filter (where w.due_at > app.now()) as later,
            min(w.due_at) as due_at
        from app.waiting_jobs as w group by w.entrypoint
    )

    select
        t.latency_class, coalesce(t.entrypoint, c.entrypoint),
        coalesce(c.ready, 0) + coalesce(w.ready, 0), coalesce(c.later, 0) + coalesce(w.later, 0),
        coalesce(c.running, 0), coalesce(c.held, 0),
        greatest(clock_timestamp() - least(c.due_at, w.due_at), '0')
    from app.job_types as t
    full join counts as c on c.entrypoint = t.entrypoint
    left join waiting as w on w.entrypoint = t.entrypoint
    order by t.priority desc nulls last, 2;
end;
$$;
comment on function app.queue_state() is
    'Jobs of every kind by what becomes of them: ready and waiting for a worker, for later, '
    'running, held; oldest_wait is how long the first of the ready ones has been due. Without a '
    'class: not in the catalogue, so that no worker takes it.';

-- 5. Access

grant execute on function
app.failed_jobs(uuid, bigint, integer), app.retry_held_job(bigint),
app.discard_held_job(bigint, text), app.queue_state()
to service_role;
grant execute on function
app.failed_tasks(uuid, bigint, integer), public.failed_tasks(uuid, bigint, integer),
app.retry_failed_task(bigint), public.retry_failed_task(bigint),
app.discard_failed_task(bigint, text), public.discard_failed_task(bigint, text)
to authenticated, service_role;

-- 6. Reference rows

insert into app.error_keys (key, http, meaning) values
('failed_task_not_found', 404, 'There is no such held job, or the caller may not decide on it.'),
('failed_task_superseded', 409, 'Another job with the dedupe key of the held one is at work.');

insert into app.event_types (module, event_type, description, payload_keys) values
(
    'jobs', 'failed_task.retried', 'A job that had failed for good is tried again.',
    '{job_id,entrypoint}'
),
(
    'jobs', 'failed_task.discarded', 'A job that had failed for good is given up.',
    '{job_id,entrypoint}'
);
