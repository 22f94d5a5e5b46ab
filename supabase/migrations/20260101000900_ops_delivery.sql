-- Ops, the work done: time entries with a timer, metrics per contract and month.
-- Depends on: core, core_access, core_audit, events, ops_playbooks, contracts.
-- Asked for by: domain §5 ops and §6 metrics.sync, access.md (own time entries).

-- 1. Tables

create table public.performance_metrics (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    contract_id uuid not null,
    month date not null
        constraint performance_metrics_month_check check (month = app.month_start(month)),
    hours_worked numeric(10, 2) not null default 0
        constraint performance_metrics_hours_worked_check check (hours_worked >= 0),
    labour_cost numeric(14, 2) not null default 0
        constraint performance_metrics_labour_cost_check check (labour_cost >= 0),
    cloud_cost numeric(14, 2) not null default 0
        constraint performance_metrics_cloud_cost_check check (cloud_cost >= 0),
    other_cost numeric(14, 2) not null default 0
        constraint performance_metrics_other_cost_check check (other_cost >= 0),
    sla_achieved numeric(5, 2)
        constraint performance_metrics_sla_achieved_check check (sla_achieved between 0 and 100),
    source text not null default 'timer'
        constraint performance_metrics_source_check check (source in ('timer', 'manual')),
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, contract_id, month),
    foreign key (org_id, contract_id) references public.contracts (org_id, id) deferrable
);
comment on table public.performance_metrics is
    '[ops] What a contract took in a month: hours, costs and the service level reached.';
comment on column public.performance_metrics.month is
    'First day of the month, cut in the organisation''s time zone.';
comment on column public.performance_metrics.hours_worked is
    'Source timer: hours of the ended time entries inside the month. Manual: as typed.';
comment on column public.performance_metrics.labour_cost is
    'BRL. Source timer: hours × hourly_rate of each entry. Manual: as typed.';
comment on column public.performance_metrics.cloud_cost is
    'BRL, typed; the timer never touches it.';
comment on column public.performance_metrics.other_cost is
    'BRL, typed; the timer never touches it.';
comment on column public.performance_metrics.sla_achieved is
    'Percent of the agreed service level that was reached, 0 to 100; null = not measured.';
comment on column public.performance_metrics.source is
    'Where hours and labour come from. Typing either makes the row manual, which the timer leaves '
    'alone; setting it back to timer sums the entries again.';
create index performance_metrics_month_idx on public.performance_metrics (org_id, month);

create table public.time_entries (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    user_id uuid not null default auth.uid() references public.profiles (id),
    contract_id uuid not null,
    service_action_id uuid not null,
    playbook_id uuid,
    playbook_task_id uuid,
    started_at timestamptz not null default app.now(),
    ended_at timestamptz,
    minutes numeric(12, 2) generated always as (
        round(extract(epoch from ended_at - started_at) / 60, 2)
    ) stored,
    hourly_rate numeric(14, 2) not null default 0,
    note text constraint time_entries_note_check check (length(note) <= 2000),
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    foreign key (org_id, contract_id) references public.contracts (org_id, id) deferrable,
    foreign key (org_id, service_action_id)
    references public.service_actions (org_id, id) deferrable,
    foreign key (org_id, playbook_id)
    references public.playbooks (org_id, id) on delete set null (playbook_id),
    foreign key (org_id, playbook_task_id)
    references public.playbook_tasks (org_id, id) on delete set null (playbook_task_id),
    constraint time_entries_period_check check (ended_at >= started_at)
);
comment on table public.time_entries is
    '[ops] Who worked when for which contract. A person enters his own time, never twice at once.';
comment on column public.time_entries.user_id is 'Who worked; only he himself creates the entry.';
comment on column public.time_entries.service_action_id is 'One of the contract''s items.';
comment on column public.time_entries.playbook_id is
    'The playbook followed, one of the service action''s; null = none, or since deleted.';
comment on column public.time_entries.playbook_task_id is
    'The task done, one of the playbook''s; null = none, or since deleted.';
comment on column public.time_entries.ended_at is 'Null = the timer is running.';
comment on column public.time_entries.minutes is 'Derived from start and end; null while running.';
comment on column public.time_entries.hourly_rate is
    '[pii] BRL per hour, copied from the membership when the entry was made; 0 = no rate known.';
comment on column public.time_entries.note is '[pii] Free text about what was done.';
create unique index time_entries_running_idx on public.time_entries (org_id, user_id)
where ended_at is null;
create index time_entries_user_id_idx on public.time_entries (org_id, user_id, started_at);
create index time_entries_profile_idx on public.time_entries (user_id);
create index time_entries_contract_id_idx on public.time_entries (org_id, contract_id, started_at);
create index time_entries_started_at_idx on public.time_entries (org_id, started_at);
create index time_entries_service_action_id_idx
on public.time_entries (org_id, service_action_id);
create index time_entries_playbook_id_idx on public.time_entries (org_id, playbook_id);
create index time_entries_playbook_task_id_idx on public.time_entries (org_id, playbook_task_id);

-- 2. Functions: time entries

create function app.lock_time_entries(org uuid, person uuid) returns void
language sql
set search_path = ''
as $$
    select pg_advisory_xact_lock(hashtextextended('time_entries/' || org || '/' || person, 0))
$$;
comment on function app.lock_time_entries(uuid, uuid) is
    'Makes writers of one person''s time in one organisation wait for each other until commit.';

create function app.derive_time_entry() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    if (tg_op = 'INSERT' and new.user_id <> auth.uid())
        or (tg_op = 'UPDATE' and new.user_id <> old.user_id)
    then
        perform app.raise_error(
            'time_entry_not_own',
            'The entry names somebody else.',
            'People enter their own time; ask the person to do it.'
        );
    end if;
    if tg_op = 'INSERT' then
        new.hourly_rate := coalesce(
            (
                select m.hourly_rate from public.memberships as m
                where m.org_id = new.org_id and m.user_id = new.user_id
            ),
            0
        );
    elsif new.hourly_rate <> old.hourly_rate then
        perform app.raise_error(
            'time_entry_rate_is_fixed',
            'The rate of an entry was copied from the membership when the entry was made.',
            'A new rate holds for new entries; delete the entry and enter it again.'
        );
    elsif new.playbook_id is null and old.playbook_id is not null then
        new.playbook_task_id := null;
    end if;
    if (new.started_at, new.ended_at) is distinct from (old.started_at, old.ended_at) then
        if greatest(new.started_at, new.ended_at) > app.now() then
            perform app.raise_error(
                'time_entry_in_future',
                format('It is %s.', app.now()),
                'Enter time when it has been worked.'
            );
        end if;
        perform app.lock_time_entries(new.org_id, new.user_id);
        if new.ended_at is null and exists (
            select from public.time_entries as e
            where
                e.org_id = new.org_id and e.user_id = new.user_id
                and e.ended_at is null and e.id <> new.id
        ) then
            perform app.raise_error(
                'timer_already_running', 'One timer runs per person.', 'Call stop_timer first.'
            );
        end if;
    end if;
    return new;
end;
$$;
comment on function app.derive_time_entry() is
    'Trigger: own entries only, rate copied once, nothing in the future, one running timer. '
    'Definer: reads the rate, which the person need not be able to see.';

create function app.check_time_entry() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_day date := (new.started_at at time zone app.org_time_zone(new.org_id))::date;
    v_other public.time_entries;
begin
    if (new.contract_id, new.started_at) is distinct from (old.contract_id, old.started_at)
        and not app.is_contract_in_force(new.org_id, new.contract_id, v_day)
    then
        perform app.raise_error(
            'contract_not_in_force',
            format('The contract is not in force on %s.', v_day),
            'Choose a contract that is active on that day.'
        );
    end if;
    if (new.contract_id, new.service_action_id)
        is distinct from (old.contract_id, old.service_action_id)
        and not exists (
            select from public.contract_items as i
            where
                i.org_id = new.org_id and i.contract_id = new.contract_id
                and i.service_action_id = new.service_action_id
        )
    then
        perform app.raise_error(
            'service_action_not_in_contract',
            'No item of the contract is this service action.',
            'Choose one of the contract''s items, or add it to the contract.'
        );
    end if;
    if new.playbook_id is not null
        and (new.service_action_id, new.playbook_id)
        is distinct from (old.service_action_id, old.playbook_id)
        and not exists (
            select from public.service_action_playbooks as l
            where
                l.org_id = new.org_id and l.service_action_id = new.service_action_id
                and l.playbook_id = new.playbook_id
        )
    then
        perform app.raise_error(
            'playbook_not_in_service_action',
            'The service action is not made of this playbook.',
            'Choose one of its playbooks, or none.'
        );
    end if;
    if new.playbook_task_id is not null
        and (new.playbook_id, new.playbook_task_id)
        is distinct from (old.playbook_id, old.playbook_task_id)
        and not exists (
            select from public.playbook_tasks as t
            where
                t.org_id = new.org_id and t.playbook_id = new.playbook_id
                and t.id = new.playbook_task_id
        )
    then
        perform app.raise_error(
            'task_not_in_playbook',
            'The task is not one of the playbook''s.',
            'Choose the playbook and one of its tasks, or no task.'
        );
    end if;
    if (new.started_at, new.ended_at) is distinct from (old.started_at, old.ended_at) then
        -- Entries do not overlap each other, so of those that begin before this one ends
        -- the last to begin is the last to end.
        select e.* into v_other from public.time_entries as e
        where
            e.org_id = new.org_id and e.user_id = new.user_id and e.id <> new.id
            and e.started_at < coalesce(new.ended_at, 'infinity')
        order by e.started_at desc, e.ended_at desc nulls first
        limit 1;
        if coalesce(v_other.ended_at, 'infinity') > new.started_at and v_other.id is not null then
            perform app.raise_error(
                'time_entry_overlaps',
                format('An entry from %s to %s exists.', v_other.started_at, v_other.ended_at),
                'Change either of the two.'
            );
        end if;
    end if;
    return null;
end;
$$;
comment on function app.check_time_entry() is
    'Trigger, after the row so that policies have spoken and all rows of the statement are there: '
    'contract in force, parts that belong together, no overlap. Definer: a person who may enter '
    'time need not be able to read contracts.';

create function app.timer_org(contract uuid) returns uuid
language sql
stable
security definer
set search_path = ''
as $$
    select c.org_id from public.contracts as c
    where
        c.id = timer_org.contract
        and c.org_id = any (app.org_ids('time', 'write') || app.own_org_ids('time', 'write'))
    limit 1
$$;
comment on function app.timer_org(uuid) is
    'Organisation of a contract, if the caller may enter time there; else null. '
    'Definer: a person who may enter time need not be able to read contracts.';

create function public.start_timer(
    contract uuid,
    service_action uuid,
    playbook uuid default null,
    playbook_task uuid default null,
    note text default null
) returns public.time_entries
language plpgsql
set search_path = ''
as $$
declare
    v_org uuid;
    v_entry public.time_entries;
begin
    if auth.uid() is null then
        perform app.raise_error('not_signed_in', 'A timer belongs to a person.', 'Sign in.');
    end if;
    v_org := app.timer_org(start_timer.contract);
    if v_org is null then
        perform app.raise_error(
            'contract_not_found', format('No contract %s.', start_timer.contract)
        );
    end if;
    insert into public.time_entries (
        org_id, contract_id, service_action_id, playbook_id, playbook_task_id, note
    )
    values (
        v_org, start_timer.contract, start_timer.service_action, start_timer.playbook,
        start_timer.playbook_task, app.clean_text(start_timer.note, 2000)
    )
    returning * into v_entry;
    return v_entry;
end;
$$;
comment on function public.start_timer(uuid, uuid, uuid, uuid, text) is
    'Starts the caller''s timer on a service action of a contract in force today. Errors: '
    'not_signed_in, contract_not_found, contract_not_in_force, service_action_not_in_contract, '
    'playbook_not_in_service_action, task_not_in_playbook, timer_already_running, '
    'time_entry_overlaps.';

create function public.stop_timer(org uuid) returns public.time_entries
language plpgsql
set search_path = ''
as $$
declare
    v_entry public.time_entries;
begin
    update public.time_entries as e set ended_at = app.now()
    where e.org_id = stop_timer.org and e.user_id = auth.uid() and e.ended_at is null
    returning e.* into v_entry;
    if v_entry.id is null then
        perform app.raise_error(
            'timer_not_running', 'You have no running timer here.', 'Call start_timer.'
        );
    end if;
    return v_entry;
end;
$$;
comment on function public.stop_timer(uuid) is
    'Stops the caller''s running timer in the organisation and returns the entry. '
    'Errors: timer_not_running.';

create function app.list_timer_targets(org uuid)
returns table (
    contract_id uuid, contract_number text, contract_title text,
    service_action_id uuid, service_action_title text
)
language sql
stable
security definer
set search_path = ''
as $$
    select c.id, c.number, c.title, a.id, a.title
    from public.contracts as c
    inner join public.service_actions as a on c.org_id = a.org_id
    where
        c.org_id = list_timer_targets.org
        and c.org_id = any (app.org_ids('time', 'write') || app.own_org_ids('time', 'write'))
        and exists (
            select from public.contract_items as i
            where
                i.org_id = c.org_id and i.contract_id = c.id and i.service_action_id = a.id
        )
        and app.is_contract_in_force(c.org_id, c.id, app.org_today(c.org_id))
    order by c.title, c.id, a.title, a.id
$$;
comment on function app.list_timer_targets(uuid) is 'Body of public.list_timer_targets.';

create function public.list_timer_targets(org uuid)
returns table (
    contract_id uuid, contract_number text, contract_title text,
    service_action_id uuid, service_action_title text
)
language sql
stable
set search_path = ''
as $$ select * from app.list_timer_targets(org) $$;
comment on function public.list_timer_targets(uuid) is
    'What the caller may start a timer on today: contracts in force with their service actions, '
    'without values; for people who may enter time but not read contracts.';

-- 2. Functions: metrics

create function app.month_range(org uuid, month date) returns tstzrange
language sql
stable
set search_path = ''
as $$
    select tstzrange(
        app.month_start(month_range.month)::timestamp at time zone app.org_time_zone(org),
        (app.month_start(month_range.month) + interval '1 month')
        at time zone app.org_time_zone(org)
    )
$$;
comment on function app.month_range(uuid, date) is
    'The moments of the month a day lies in, cut in the organisation''s time zone.';

create function app.timer_totals(org uuid, contract uuid, month date)
returns table (hours numeric, cost numeric)
language sql
stable
set search_path = ''
as $$
    select
        round(coalesce(sum(part.seconds), 0) / 3600, 2),
        round(coalesce(sum(part.seconds * part.hourly_rate), 0) / 3600, 2)
    from (
        select
            e.hourly_rate,
            extract(
                epoch from least(e.ended_at, upper(r.range)) - greatest(e.started_at, lower(r.range))
            ) as seconds
        from app.month_range(timer_totals.org, timer_totals.month) as r (range)
        inner join public.time_entries as e
            on
                e.org_id = timer_totals.org and e.contract_id = timer_totals.contract
                and e.started_at < upper(r.range) and e.ended_at > lower(r.range)
    ) as part
$$;
comment on function app.timer_totals(uuid, uuid, date) is
    'Hours and cost (BRL) of the ended time entries of a contract in a month; an entry across the '
    'month''s end counts in each month with its part.';

create function app.derive_performance_metric() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_is_typed boolean := (new.hours_worked, new.labour_cost)
    is distinct from (coalesce(old.hours_worked, 0), coalesce(old.labour_cost, 0));
begin
    if v_is_typed and new.source = 'timer' and coalesce(old.source, 'timer') = 'timer' then
        new.source := 'manual';
    end if;
    if new.source = 'timer' then
        select t.hours, t.cost into new.hours_worked, new.labour_cost
        from app.timer_totals(new.org_id, new.contract_id, new.month) as t;
    end if;
    return new;
end;
$$;
comment on function app.derive_performance_metric() is
    'Trigger: typed hours or labour make a row manual; a timer row has what the entries add up to. '
    'Definer: a total does not depend on who writes.';

create function public.sync_performance_metrics(org uuid, month date) returns integer
language plpgsql
set search_path = ''
as $$
declare
    v_month date := app.month_start(sync_performance_metrics.month);
    v_range tstzrange := app.month_range(org, v_month);
    v_inserted integer;
    v_updated integer;
begin
    perform app.require_access(sync_performance_metrics.org, 'time', 'write');
    perform pg_advisory_xact_lock(
        hashtextextended('sync_performance_metrics/' || sync_performance_metrics.org, 0)
    );
    insert into public.performance_metrics (org_id, contract_id, month)
    select distinct e.org_id, e.contract_id, v_month
    from public.time_entries as e
    where
        e.org_id = sync_performance_metrics.org
        and e.started_at < upper(v_range) and e.ended_at > lower(v_range)
    order by e.contract_id
    on conflict on constraint performance_metrics_org_id_contract_id_month_key do nothing;
    get diagnostics v_inserted = row_count;

    perform from public.performance_metrics as p
    where
        p.org_id = sync_performance_metrics.org and p.month = v_month and p.source = 'timer'
    order by p.id
    for no key update;
    -- The trigger of the table sums the entries; setting the source again asks for it.
    update public.performance_metrics as p set source = 'timer'
    from public.performance_metrics as s
    cross join lateral app.timer_totals(s.org_id, s.contract_id, s.month) as t
    where
        s.org_id = sync_performance_metrics.org and s.month = v_month
        and p.org_id = s.org_id and p.id = s.id and p.source = 'timer'
        and (p.hours_worked, p.labour_cost) is distinct from (t.hours, t.cost);
    get diagnostics v_updated = row_count;
    return v_inserted + v_updated;
end;
$$;
comment on function public.sync_performance_metrics(uuid, date) is
    'Sums the time entries of the month a day lies in into performance_metrics; manual rows stay. '
    'Returns how many rows it wrote. Errors: not_allowed.';

create function app.sync_recent_performance_metrics(org uuid) returns integer
language plpgsql
set search_path = ''
as $$
declare
    v_month date := app.month_start(app.org_today(org));
begin
    return public.sync_performance_metrics(org, (v_month - interval '1 month')::date)
        + public.sync_performance_metrics(org, v_month);
end;
$$;
comment on function app.sync_recent_performance_metrics(uuid) is
    'Job: syncs the running and the previous month. Returns how many rows were written.';

-- 3. Triggers

create trigger time_entries_50_derive
before insert or update on public.time_entries
for each row execute function app.derive_time_entry();
-- After the question whose entry it is, so that nobody learns who else is a member where.
create trigger time_entries_51_guard_member
before insert on public.time_entries
for each row execute function app.guard_member('user_id');
create trigger time_entries_60_check
after insert or update on public.time_entries
for each row execute function app.check_time_entry();
create trigger time_entries_70_emit
after insert or update or delete on public.time_entries
for each row execute function app.emit_event(
    'ops', 'time_entry', '', 'contract_id', 'service_action_id', 'minutes'
);
create trigger time_entries_80_audit
after update or delete on public.time_entries
for each row execute function app.audit_row();

create trigger performance_metrics_50_derive
before insert or update of hours_worked, labour_cost, source, contract_id, month
on public.performance_metrics
for each row execute function app.derive_performance_metric();
create trigger performance_metrics_70_emit
after insert or update or delete on public.performance_metrics
for each row execute function app.emit_event(
    'ops', 'performance_metric', '', 'contract_id', 'month', 'source'
);
create trigger performance_metrics_80_audit
after insert or update or delete on public.performance_metrics
for each row execute function app.audit_row();

-- 5. Access

select app.protect_table('public.performance_metrics', 'time', null);
select app.protect_table('public.time_entries', 'time', 'user_id');

grant execute on function
public.start_timer(uuid, uuid, uuid, uuid, text),
public.stop_timer(uuid),
public.list_timer_targets(uuid),
public.sync_performance_metrics(uuid, date)
to authenticated, service_role;
grant execute on function
app.timer_org(uuid),
app.list_timer_targets(uuid),
app.month_range(uuid, date),
app.timer_totals(uuid, uuid, date)
to authenticated, service_role;
grant execute on function app.sync_recent_performance_metrics(uuid) to service_role;

-- 6. Reference rows

insert into app.error_keys (key, http, meaning) values
('time_entry_not_own', 403, 'People enter their own time only, and an entry keeps its person.'),
('timer_already_running', 409, 'The person has a running timer in this organisation.'),
('timer_not_running', 409, 'The person has no running timer in this organisation.'),
('contract_not_in_force', 422, 'The contract is not in force on the day the work began.'),
('service_action_not_in_contract', 422, 'No item of the contract is this service action.'),
('playbook_not_in_service_action', 422, 'The service action is not made of this playbook.'),
('task_not_in_playbook', 422, 'The task is not one of the playbook''s.'),
('time_entry_in_future', 422, 'Time is entered when it has been worked.'),
('time_entry_overlaps', 422, 'The person has another entry in the same time.'),
('time_entry_rate_is_fixed', 422, 'The rate of an entry is not changed.');

insert into app.event_types (module, event_type, description, payload_keys) values
(
    'ops', 'time_entry.created', 'A timer was started or time entered.',
    '{contract_id,service_action_id,minutes}'
),
(
    'ops', 'time_entry.updated', 'A timer was stopped or an entry changed.',
    '{contract_id,service_action_id,minutes,changed}'
),
(
    'ops', 'time_entry.deleted', 'A time entry was removed.',
    '{contract_id,service_action_id,minutes}'
),
(
    'ops', 'performance_metric.created', 'A contract got metrics for a month.',
    '{contract_id,month,source}'
),
(
    'ops', 'performance_metric.updated', 'Metrics of a contract and month changed.',
    '{contract_id,month,source,changed}'
),
(
    'ops', 'performance_metric.deleted', 'Metrics of a contract and month were removed.',
    '{contract_id,month,source}'
);
