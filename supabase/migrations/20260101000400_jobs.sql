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

create table app.waiting_jobs (
    id bigint primary key,
    org_id uuid,
    turn uuid not null generated always as (
        coalesce(org_id, '00000000-0000-0000-0000-000000000000')
    ) stored,
    entrypoint text not null,
    payload jsonb not null,
    headers jsonb not null,
    dedupe_key text,
    due_at timestamptz not null,
    created_at timestamptz not null default app.now()
);
comment on table app.waiting_jobs is
    '[jobs] Jobs that are not for now: far ahead, or bulk work. app.release_waiting_jobs puts them '
    'into the queue when they are due, in slices in which organisations take turns.';
comment on column app.waiting_jobs.id is
    'From the sequence of the queue, so that a number names one job. In the queue it gets the next '
    'number: it stands behind what came before it.';
comment on column app.waiting_jobs.turn is
    'Whose turn it is when the job goes: the organisation; zeros for the installation.';
create index waiting_jobs_turn_idx on app.waiting_jobs (entrypoint, turn, due_at, id);
create index waiting_jobs_due_at_idx on app.waiting_jobs (entrypoint, due_at);
create unique index waiting_jobs_dedupe_key_idx on app.waiting_jobs (dedupe_key)
where dedupe_key is not null;

create table app.job_slices (
    entrypoint text primary key,
    jobs bigint[] not null default '{}',
    last_turn uuid not null default '00000000-0000-0000-0000-000000000000'
);
comment on table app.job_slices is
    '[jobs] What was last released from waiting_jobs, per kind of job. Its row is the lock of who '
    'releases.';
comment on column app.job_slices.jobs is 'Numbers in the queue of the jobs not seen to start yet.';
comment on column app.job_slices.last_turn is
    'Whose turn was the last; the next slice goes on after it.';

-- 2. Functions: into the queue

create function app.require_job_type(entrypoint text) returns app.job_types
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
    v_type app.job_types;
begin
    select * into v_type from app.job_types as t where t.entrypoint = require_job_type.entrypoint;
    if not found then
        perform app.raise_error(
            'job_type_unknown', format('%s is not in the catalogue.', require_job_type.entrypoint),
            'Add it to app.job_types in the module''s migration.'
        );
    elsif to_regclass('pgqueuer.pgqueuer') is null then
        perform app.raise_error(
            'queue_missing',
            'The schema pgqueuer is not installed.',
            'Run: nessos db push'
        );
    end if;
    return v_type;
end;
$$;
comment on function app.require_job_type(text) is
    'The catalogue''s line of a job. Errors: job_type_unknown, queue_missing.';

create function app.job_headers(org uuid) returns jsonb
language sql
stable
set search_path = ''
as $$
    select jsonb_strip_nulls(jsonb_build_object('org_id', org, 'request_id', app.request_id()))
$$;
comment on function app.job_headers(uuid) is
    'What a job knows of where it comes from: the organisation and the request.';

create function app.keep_waiting(
    kind app.job_types, payloads jsonb[], org uuid, dedupe_keys text[], due_at timestamptz
) returns bigint[]
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_sequence regclass := pg_get_serial_sequence('pgqueuer.pgqueuer', 'id');
    v_headers jsonb := app.job_headers(org);
    v_jobs bigint[];
    v_keys text[];
    v_free text[];
begin
    with asked as (
        select a.payload, a.dedupe_key, a.number
        from unnest(payloads, dedupe_keys) with ordinality as a (payload, dedupe_key, number)
        where not exists (
            select from pgqueuer.pgqueuer as q
            where q.dedupe_key = a.dedupe_key and q.status in ('queued', 'picked')
        )
    ),

    kept as (
        insert into app.waiting_jobs as w (
            id, org_id, entrypoint, payload, headers, dedupe_key, due_at
        )
        select
            nextval(v_sequence), org, kind.entrypoint, a.payload, v_headers, a.dedupe_key,
            keep_waiting.due_at
        from asked as a order by a.number
        on conflict (dedupe_key) where dedupe_key is not null do nothing
        returning w.id, w.dedupe_key
    )

    select
        coalesce(array_agg(k.id order by k.id), '{}'),
        array_agg(k.dedupe_key) filter (where k.dedupe_key is not null)
    into v_jobs, v_keys
    from kept as k;
    if v_keys is null then
        return v_jobs;
    end if;
    -- A key may be on its way into the queue in a transaction we do not see. Putting it there for
    -- a moment waits for that one to end, and has the next wait for us.
    with marks as (
        insert into pgqueuer.pgqueuer as q (priority, entrypoint, dedupe_key, status)
        select 0, kind.entrypoint, k.dedupe_key, 'queued' from unnest(v_keys) as k (dedupe_key)
        on conflict (dedupe_key) where status in ('queued', 'picked')
            and dedupe_key is not null do nothing
        returning q.dedupe_key
    )

    select array_agg(m.dedupe_key) into v_free from marks as m;
    delete from pgqueuer.pgqueuer as q
    where q.dedupe_key = any(v_free) and q.status = 'queued';
    with refused as (
        delete from app.waiting_jobs as w
        where w.dedupe_key = any(v_keys) and w.dedupe_key = any(v_free) is not true
        returning w.id
    )

    select array(select j.id from unnest(v_jobs) as j (id) except select r.id from refused as r)
    into v_jobs;
    return v_jobs;
end;
$$;
comment on function app.keep_waiting(app.job_types, jsonb[], uuid, text[], timestamptz) is
    'Puts jobs among the waiting ones, except those whose dedupe key waits or runs already. '
    'Returns their numbers.';

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
    v_type app.job_types := app.require_job_type(enqueue.entrypoint);
    v_job bigint;
begin
    if enqueue.delay > interval '1 minute' then
        return (app.keep_waiting(
            v_type, array[enqueue.payload], enqueue.org, array[enqueue.dedupe_key],
            app.now() + enqueue.delay
        ))[1];
    end if;
    if exists (select from app.waiting_jobs as w where w.dedupe_key = enqueue.dedupe_key) then
        return null;
    end if;
    insert into pgqueuer.pgqueuer (priority, entrypoint, payload, execute_after, headers,
        dedupe_key, status)
    values (
        v_type.priority, v_type.entrypoint, convert_to(enqueue.payload::text, 'UTF8'),
        clock_timestamp() + enqueue.delay, app.job_headers(enqueue.org), enqueue.dedupe_key,
        'queued'
    )
    on conflict (dedupe_key) where status in ('queued', 'picked')
        and dedupe_key is not null do nothing
    returning id into v_job;
    if v_job is null then
        return null;
    end if;
    -- The insert may have waited for app.keep_waiting to mark the key.
    if exists (select from app.waiting_jobs as w where w.dedupe_key = enqueue.dedupe_key) then
        delete from pgqueuer.pgqueuer as q where q.id = v_job;
        return null;
    end if;
    insert into pgqueuer.pgqueuer_log (job_id, status, entrypoint, priority)
    values (v_job, 'queued', v_type.entrypoint, v_type.priority);
    return v_job;
end;
$$;
comment on function app.enqueue(text, jsonb, uuid, text, interval) is
    'Writes a job in the caller''s transaction: it runs only if that commits. delay counts from '
    'now; more than a minute is waited for in app.waiting_jobs. Returns the job''s number, or null '
    'when a job with this dedupe key is waiting or running. Errors: job_type_unknown, '
    'queue_missing.';

create function app.enqueue_bulk(
    entrypoint text,
    payloads jsonb[],
    org uuid default null,
    dedupe_keys text[] default null,
    delay interval default '0'
) returns integer
language plpgsql
security definer
set search_path = ''
as $$
begin
    if cardinality(enqueue_bulk.dedupe_keys) <> cardinality(enqueue_bulk.payloads)
        or array_position(enqueue_bulk.payloads, null) is not null then
        perform app.raise_error(
            'bad_input', 'Bulk work has a payload for each job, and a dedupe key for each or none.',
            null
        );
    end if;
    return cardinality(app.keep_waiting(
        app.require_job_type(enqueue_bulk.entrypoint), enqueue_bulk.payloads, enqueue_bulk.org,
        enqueue_bulk.dedupe_keys, app.now() + enqueue_bulk.delay
    ));
end;
$$;
comment on function app.enqueue_bulk(text, jsonb[], uuid, text[], interval) is
    'Writes many jobs of one kind in the caller''s transaction. They stand behind single jobs of '
    'their class and take turns with those of other organisations. Returns how many: those whose '
    'dedupe key is waiting or running are left out. Errors: job_type_unknown, queue_missing, '
    'bad_input.';

-- 2. Functions: what workers call every second

create function app.release_jobs_of_type(kind app.job_types, slice integer) returns integer
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_zeros constant uuid := '00000000-0000-0000-0000-000000000000';
    v_slice app.job_slices;
    v_left bigint[];
    v_room integer;
    v_turns uuid[] := '{}';
    v_turn uuid;
    v_is_second_round boolean := false;
    v_released bigint[];
begin
    insert into app.job_slices (entrypoint) values (kind.entrypoint) on conflict do nothing;
    select * into v_slice from app.job_slices as s where s.entrypoint = kind.entrypoint
    for update skip locked;
    if not found then
        return 0; -- another worker is at it
    end if;
    v_left := array(
        select q.id from pgqueuer.pgqueuer as q
        where q.id = any(v_slice.jobs) and q.status = 'queued' and q.attempts = 0
            and q.execute_after <= clock_timestamp()
    );
    -- Single jobs go first, but not for ever.
    update pgqueuer.pgqueuer as q set priority = kind.priority
    where q.id = any(v_left) and q.status = 'queued' and q.priority < kind.priority
        and q.created < clock_timestamp() - interval '10 seconds';
    v_room := slice - cardinality(v_left);
    -- Half a slice at a time, or each call would look at every organisation for a few jobs.
    if v_room * 2 < slice then
        return 0;
    end if;
    v_turn := v_slice.last_turn;
    while cardinality(v_turns) < v_room loop
        select w.turn into v_turn from app.waiting_jobs as w
        where w.entrypoint = kind.entrypoint and w.turn > v_turn
        order by w.turn limit 1;
        if not found then
            exit when v_is_second_round;
            v_is_second_round := true;
            v_turn := v_zeros; -- the first turn, which none is smaller than
        elsif v_is_second_round and v_turn > v_slice.last_turn then
            exit;
        end if;
        if exists (
            select from app.waiting_jobs as w
            where w.entrypoint = kind.entrypoint and w.turn = v_turn and w.due_at <= app.now()
        ) then
            v_turns := v_turns || v_turn;
        end if;
    end loop;
    with due as (
        select w.id, t.number, row_number() over (partition by w.turn order by w.due_at, w.id) as round
        from unnest(v_turns) with ordinality as t (turn, number)
        cross join lateral (
            select j.id, j.turn, j.due_at from app.waiting_jobs as j
            where j.entrypoint = kind.entrypoint and j.turn = t.turn and j.due_at <= app.now()
            order by j.due_at, j.id
            limit 1 + (v_room - 1) / greatest(cardinality(v_turns), 1)
        ) as w
    ),

    gone as (
        delete from app.waiting_jobs as w using due as d where w.id = d.id
        returning w.org_id, w.payload, w.headers, w.dedupe_key, d.number, d.round
    ),

    released as (
        insert into pgqueuer.pgqueuer as q (
            priority, entrypoint, payload, headers, dedupe_key, status
        )
        select
            kind.priority - 1, kind.entrypoint, convert_to(g.payload::text, 'UTF8'), g.headers,
            g.dedupe_key, 'queued'
        from gone as g
        where g.org_id is null
            or exists (select from public.organizations as o where o.id = g.org_id)
        order by g.round, g.number
        on conflict (dedupe_key) where status in ('queued', 'picked')
            and dedupe_key is not null do nothing
        returning q.id, q.entrypoint, q.priority
    ),

    logged as (
        insert into pgqueuer.pgqueuer_log (job_id, status, entrypoint, priority)
        select r.id, 'queued', r.entrypoint, r.priority from released as r
    )

    select coalesce(array_agg(r.id), '{}') into v_released from released as r;
    update app.job_slices as s
    set jobs = v_left || v_released, last_turn = coalesce(v_turns[cardinality(v_turns)], last_turn)
    where s.entrypoint = kind.entrypoint;
    return cardinality(v_released);
end;
$$;
comment on function app.release_jobs_of_type(app.job_types, integer) is
    'The share of one kind of job in app.release_waiting_jobs.';

create function app.release_waiting_jobs(entrypoints text[], slice integer default 200)
returns table (released integer, is_more boolean)
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_type app.job_types;
begin
    released := 0;
    for v_type in
        select t.* from app.job_types as t
        where t.entrypoint = any(entrypoints)
            and (
                exists (
                    select from app.waiting_jobs as w
                    where w.entrypoint = t.entrypoint and w.due_at <= app.now()
                )
                or exists (
                    select from app.job_slices as s
                    where s.entrypoint = t.entrypoint and s.jobs <> '{}'
                )
            )
        order by t.entrypoint
    loop
        released := released + app.release_jobs_of_type(v_type, slice);
    end loop;
    is_more := exists (
        select from app.waiting_jobs as w
        where w.entrypoint = any(entrypoints) and w.due_at <= app.now()
    );
    return next;
end;
$$;
comment on function app.release_waiting_jobs(text[], integer) is
    'Puts waiting jobs of these kinds that are due into the queue: of each as many as there is '
    'room for in a slice, organisations taking turns, one step behind single jobs of the class. '
    'What has not started after ten seconds is raised to them. Those of an organisation that is '
    'gone go with it. Returns how many, and whether more are due than there is room for; what '
    'another worker is releasing is left to it.';

create function app.recover_jobs(silence interval) returns integer
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_recovered integer;
begin
    with lost as (
        select q.id from pgqueuer.pgqueuer as q
        where q.status = 'picked' and q.heartbeat < clock_timestamp() - silence
        order by q.id
        for update skip locked
    ),

    recovered as (
        update pgqueuer.pgqueuer as q
        set
            status = 'queued', queue_manager_id = null, updated = now(), execute_after = now(),
            headers = coalesce(q.headers, '{}') || jsonb_build_object(
                'deaths', coalesce((q.headers ->> 'deaths')::integer, 0) + 1
            )
        from lost as l
        where q.id = l.id
        returning q.id, q.entrypoint, q.priority
    ),

    logged as (
        insert into pgqueuer.pgqueuer_log (job_id, status, entrypoint, priority)
        select r.id, 'queued', r.entrypoint, r.priority from recovered as r
    )

    select count(*) into v_recovered from recovered as r;
    if v_recovered > 0 then
        -- The queue tells its workers of inserts and deletes only.
        delete from pgqueuer.pgqueuer as q where q.id is null;
    end if;
    return v_recovered;
end;
$$;
comment on function app.recover_jobs(interval) is
    'Puts jobs whose worker has been silent for so long back into the queue, counting its death. '
    'Returns how many.';

-- 2. Functions: retention

create function app.clean_job_log() returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_entries bigint;
    v_counts bigint;
    v_slices bigint;
begin
    -- The entries of a job that is still there say why it is held.
    delete from pgqueuer.pgqueuer_log as l
    where l.created < clock_timestamp() - interval '14 days'
        and not exists (select from pgqueuer.pgqueuer as q where q.id = l.job_id);
    get diagnostics v_entries = row_count;
    delete from pgqueuer.pgqueuer_statistics as s
    where s.created < clock_timestamp() - interval '90 days';
    get diagnostics v_counts = row_count;
    delete from app.job_slices as s
    where not exists (select from app.job_types as t where t.entrypoint = s.entrypoint);
    get diagnostics v_slices = row_count;
    return jsonb_build_object('pgqueuer_log', v_entries, 'pgqueuer_statistics', v_counts,
        'job_slices', v_slices);
end;
$$;
comment on function app.clean_job_log() is
    'Job: removes what the queue logged more than 14 days ago, its counts beyond 90. Returns what '
    'it removed.';

-- 2. Functions: events

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
app.enqueue_bulk(text, jsonb[], uuid, text[], interval),
app.enqueue_subscribed_job(uuid, uuid, uuid, timestamptz),
app.release_waiting_jobs(text[], integer), app.recover_jobs(interval), app.clean_job_log()
to service_role;

alter table app.waiting_jobs enable row level security;
alter table app.job_slices enable row level security;

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
