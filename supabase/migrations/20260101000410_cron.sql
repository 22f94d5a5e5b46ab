-- Cron: what the timetable has fired, for whom, and how each run ended.
-- Depends on: core, core_access, jobs; at run time on the queue's own schema pgqueuer.
-- Asked for by: domain §6; Ness OS documents (cron of events, indices, ERP, BCB), Somos' jobs.

-- 1. Tables

create table app.cron_jobs (
    job text primary key,
    last_fire_at timestamptz not null
);
comment on table app.cron_jobs is
    '[jobs] How far each job of the timetable is: its fire times up to last_fire_at are done with.';
comment on column app.cron_jobs.last_fire_at is
    'Fire time last fired (also when a pause let nothing run); at first the moment a runner met '
    'the job. A later fire time that has passed is caught up, the last one only.';

create table app.cron_pauses (
    id uuid not null default gen_random_uuid() primary key,
    job text not null,
    org_id uuid references public.organizations (id) on delete cascade,
    paused_at timestamptz not null default app.now(),
    constraint cron_pauses_once_key unique nulls not distinct (job, org_id)
);
comment on table app.cron_pauses is
    '[jobs] Jobs of the timetable that do not run until resumed.';
comment on column app.cron_pauses.org_id is
    'Paused for this organisation; null = altogether.';
create index cron_pauses_org_id_idx on app.cron_pauses (org_id) where org_id is not null;

create table app.cron_runs (
    id uuid not null default gen_random_uuid() primary key,
    job text not null,
    org_id uuid references public.organizations (id) on delete cascade,
    scheduled_at timestamptz not null,
    status text not null default 'queued' constraint cron_runs_status_check
        check (status in ('queued', 'running', 'succeeded', 'failed')),
    attempts integer not null default 0,
    started_at timestamptz,
    finished_at timestamptz,
    rows bigint,
    outcome text,
    error text,
    queue_job_id bigint,
    constraint cron_runs_once_key unique nulls not distinct (job, scheduled_at, org_id),
    constraint cron_runs_finished_check
        check ((finished_at is not null) = (status in ('succeeded', 'failed')))
);
comment on table app.cron_runs is
    '[jobs] One row per job of the timetable, organisation and fire time, whatever the number of '
    'runners. Clients read public.cron_runs.';
comment on column app.cron_runs.org_id is
    'The organisation it works for; null = the installation.';
comment on column app.cron_runs.scheduled_at is
    'The fire time; for a run by hand the moment it was asked for.';
comment on column app.cron_runs.status is
    'queued: waits for a worker, also between two attempts; error then tells of the last one.';
comment on column app.cron_runs.started_at is 'Of the last attempt.';
comment on column app.cron_runs.rows is 'Rows the job says it wrote; null where it does not count.';
comment on column app.cron_runs.outcome is 'What else the job said of its work.';
comment on column app.cron_runs.error is 'First line of the last error; null once succeeded.';
comment on column app.cron_runs.queue_job_id is
    'Its job in the queue while that waits, runs or is held; null once succeeded or superseded.';
create index cron_runs_org_id_idx on app.cron_runs (org_id, scheduled_at) where org_id is not null;
create index cron_runs_unfinished_idx on app.cron_runs (job, org_id) where queue_job_id is not null;
create index cron_runs_scheduled_at_idx on app.cron_runs (scheduled_at);

-- 2. Functions: firing

create function app.active_org_ids() returns uuid[]
language sql
stable
security definer
set search_path = ''
as $$
    select array(select o.id from public.organizations as o where o.status = 'active' order by o.id)
$$;
comment on function app.active_org_ids() is
    'The organisations jobs run for. Jobs write: a suspended organisation is left out, too.';

create function app.follow_cron_jobs(jobs text[]) returns setof app.cron_jobs
language plpgsql
security definer
set search_path = ''
as $$
begin
    insert into app.cron_jobs (job, last_fire_at)
    select missing.job, app.now()
    from (
        select unnest(follow_cron_jobs.jobs) as job
        except
        select j.job from app.cron_jobs as j
    ) as missing
    order by missing.job
    on conflict do nothing;
    return query
    select j.* from app.cron_jobs as j where j.job = any(follow_cron_jobs.jobs);
end;
$$;
comment on function app.follow_cron_jobs(text[]) is
    'How far each of these jobs is. One never met before has missed nothing: it starts now.';

create function app.enqueue_cron_runs(
    job text, scheduled_at timestamptz, entrypoint text, orgs uuid[]
) returns integer
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_org uuid;
    v_run uuid;
    v_queue_job bigint;
    v_left_over bigint[];
    v_runs integer := 0;
begin
    foreach v_org in array coalesce(enqueue_cron_runs.orgs, array[null::uuid]) loop
        v_run := gen_random_uuid();
        v_queue_job := app.enqueue(
            enqueue_cron_runs.entrypoint,
            jsonb_build_object('job', enqueue_cron_runs.job, 'run_id', v_run),
            v_org,
            format('cron/%s/%s', enqueue_cron_runs.job, v_org)
        );
        -- The run before is still at it: two at once would only be in each other's way.
        continue when v_queue_job is null;
        -- Earlier jobs of this kind neither wait nor run, or the queue had refused this one: they
        -- are held, and the new one takes their place, or they are gone.
        v_left_over := array(
            select r.queue_job_id from app.cron_runs as r
            where
                r.job = enqueue_cron_runs.job and r.queue_job_id is not null
                and (r.org_id = v_org or (r.org_id is null and v_org is null))
        );
        if v_left_over <> '{}' then
            with superseded as (
                delete from pgqueuer.pgqueuer as q
                where q.id = any(v_left_over) and q.status = 'failed'
                returning q.id, q.entrypoint, q.priority
            )

            insert into pgqueuer.pgqueuer_log (job_id, status, entrypoint, priority)
            select s.id, 'deleted', s.entrypoint, s.priority from superseded as s;
            update app.cron_runs as r set
                status = 'failed',
                finished_at = coalesce(r.finished_at, app.now()),
                error = coalesce(r.error, 'The queue lost the job.'),
                queue_job_id = null
            where r.job = enqueue_cron_runs.job and r.queue_job_id = any(v_left_over);
        end if;
        insert into app.cron_runs (id, job, org_id, scheduled_at, queue_job_id)
        values (
            v_run, enqueue_cron_runs.job, v_org, enqueue_cron_runs.scheduled_at, v_queue_job
        );
        v_runs := v_runs + 1;
    end loop;
    return v_runs;
end;
$$;
comment on function app.enqueue_cron_runs(text, timestamptz, text, uuid[]) is
    'Puts a job into the queue, once per organisation (null = for the installation), and a row '
    'into cron_runs for each; one whose run before is waiting or running gets none. A held job of '
    'an earlier run is superseded. Returns how many. Errors: job_type_unknown, queue_missing.';

create function app.fire_cron_job(
    job text, scheduled_at timestamptz, entrypoint text, orgs uuid[]
) returns integer
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
begin
    -- Of several runners the first passes here, the others wait for it and find it done.
    insert into app.cron_jobs as j (job, last_fire_at)
    values (fire_cron_job.job, fire_cron_job.scheduled_at)
    on conflict (job) do update set last_fire_at = excluded.last_fire_at
    where j.last_fire_at < excluded.last_fire_at;
    if not found then
        return null;
    elsif exists (
        select from app.cron_pauses as p where p.job = fire_cron_job.job and p.org_id is null
    ) then
        return 0;
    end if;
    return app.enqueue_cron_runs(
        fire_cron_job.job,
        fire_cron_job.scheduled_at,
        fire_cron_job.entrypoint,
        case when fire_cron_job.orgs is not null then array(
            select o.org_id from unnest(fire_cron_job.orgs) as o (org_id)
            except
            select p.org_id from app.cron_pauses as p where p.job = fire_cron_job.job
            order by org_id
        ) end
    );
end;
$$;
comment on function app.fire_cron_job(text, timestamptz, text, uuid[]) is
    'A job of the timetable at its fire time: enqueues its runs in the same transaction, without '
    'what is paused. Returns how many; null when this or a later fire time has been fired.';

-- 2. Functions: running

create function app.begin_cron_run(run uuid) returns boolean
language plpgsql
security definer
set search_path = ''
as $$
begin
    update app.cron_runs as r set
        status = 'running', attempts = r.attempts + 1, started_at = app.now(), finished_at = null
    where r.id = run and r.status <> 'succeeded';
    return found;
end;
$$;
comment on function app.begin_cron_run(uuid) is
    'An attempt of a run begins, also after its worker died or it was held. False when there is '
    'nothing to do: it has succeeded before, or its organisation is gone.';

create function app.finish_cron_run(run uuid, rows bigint, outcome text) returns void
language sql
security definer
set search_path = ''
as $$
    -- app.now() is the start of the transaction, in which the work may have been done.
    update app.cron_runs as r set
        status = 'succeeded',
        finished_at = app.now() + (clock_timestamp() - now()),
        rows = finish_cron_run.rows,
        outcome = left(finish_cron_run.outcome, 2000),
        error = null,
        queue_job_id = null
    where r.id = run and r.status = 'running'
$$;
comment on function app.finish_cron_run(uuid, bigint, text) is
    'A run has succeeded; nothing changes when that stands there already.';

create function app.fail_cron_run(run uuid, error text, is_final boolean) returns void
language sql
security definer
set search_path = ''
as $$
    update app.cron_runs as r set
        status = case when is_final then 'failed' else 'queued' end,
        finished_at = case when is_final then app.now() end,
        error = left(split_part(fail_cron_run.error, E'\n', 1), 1000)
    where r.id = run and r.status = 'running'
$$;
comment on function app.fail_cron_run(uuid, text, boolean) is
    'An attempt of a run has failed; is_final: there will be no other by itself.';

-- 2. Functions: pauses

create function app.pause_cron_job(job text, org uuid) returns boolean
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
begin
    insert into app.cron_pauses (job, org_id)
    values (pause_cron_job.job, pause_cron_job.org)
    on conflict on constraint cron_pauses_once_key do nothing;
    return found;
end;
$$;
comment on function app.pause_cron_job(text, uuid) is
    'The timetable passes this job over, for an organisation or (null) altogether. What runs or '
    'waits goes on. False when it was paused before.';

create function app.resume_cron_job(job text, org uuid) returns boolean
language plpgsql
security definer
set search_path = ''
as $$
begin
    delete from app.cron_pauses as p
    where
        p.job = resume_cron_job.job
        and (p.org_id = resume_cron_job.org or (p.org_id is null and resume_cron_job.org is null));
    return found;
end;
$$;
comment on function app.resume_cron_job(text, uuid) is
    'Ends a pause, of an organisation or (null) altogether; fire times that passed meanwhile are '
    'not caught up. False when there was none.';

-- 4. Views

create view public.cron_runs with (security_invoker = true) as
select
    r.org_id,
    r.id,
    r.job,
    r.scheduled_at,
    r.status,
    r.attempts,
    r.started_at,
    r.finished_at,
    r.rows,
    r.outcome,
    r.error
from app.cron_runs as r;
comment on view public.cron_runs is
    '[jobs] Runs of the timetable for the organisations whose administration the caller reads. '
    'The columns are those of app.cron_runs.';

-- 5. Access

alter table app.cron_jobs enable row level security;
alter table app.cron_pauses enable row level security;
alter table app.cron_runs enable row level security;
create policy cron_runs_select on app.cron_runs for select to authenticated
using (org_id = any((select app.org_ids('admin', 'read'))::uuid[]));
grant select on app.cron_runs, public.cron_runs to authenticated, service_role;

grant execute on function
app.active_org_ids(), app.follow_cron_jobs(text[]),
app.fire_cron_job(text, timestamptz, text, uuid[]),
app.enqueue_cron_runs(text, timestamptz, text, uuid[]),
app.begin_cron_run(uuid), app.finish_cron_run(uuid, bigint, text),
app.fail_cron_run(uuid, text, boolean),
app.pause_cron_job(text, uuid), app.resume_cron_job(text, uuid)
to service_role;

-- 6. Reference rows

insert into app.job_types (entrypoint, latency_class, description) values
('cron.run', 'default', 'Calls a SQL function of the timetable for the installation.'),
(
    'cron.run_organization', 'low_priority',
    'Calls a SQL function of the timetable for one organisation.'
);
