-- Tasks: what somebody has to do by a day, whether a person, an agent or a workflow asked for it.
-- Depends on: core, core_access, core_audit, events, notify, crm, contracts.
-- Asked for by: ai design §4 (create task) and §5 (create_task), issue 4.

-- 1. Tables

create table public.tasks (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    title text not null
        constraint tasks_title_check check (length(btrim(title)) between 2 and 200),
    description text
        constraint tasks_description_check check (length(description) <= 10000),
    assignee_id uuid,
    due_on date,
    status text not null default 'open'
        constraint tasks_status_check
            check (status in ('open', 'in_progress', 'done', 'cancelled')),
    priority text not null default 'normal'
        constraint tasks_priority_check check (priority in ('low', 'normal', 'high', 'urgent')),
    entity_type text
        constraint tasks_entity_type_check check (entity_type ~ '^[a-z][a-z0-9_]{1,59}$'),
    entity_id uuid,
    completed_at timestamptz,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    created_by_agent uuid,
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    foreign key (org_id, assignee_id) references public.memberships (org_id, user_id)
    on delete set null (assignee_id),
    constraint tasks_entity_check check ((entity_type is null) = (entity_id is null)),
    constraint tasks_completed_check check ((status = 'done') = (completed_at is not null))
);
comment on table public.tasks is
    '[ops] What somebody has to do. Assigned to one person or still to nobody; cancelled, never '
    'deleted. Whoever leaves the organisation leaves his tasks unassigned.';
comment on column public.tasks.title is 'One line, pt-BR.';
comment on column public.tasks.assignee_id is
    'Member who does it, and sees it whatever his role; null = to be handed out.';
comment on column public.tasks.due_on is
    'Last day, in the organisation''s time zone; null = no deadline.';
comment on column public.tasks.entity_type is
    'Table of the row it is about, in the singular (contract, lead, proposal …), as in events.';
comment on column public.tasks.completed_at is 'Present exactly while the task is done; derived.';
comment on column public.tasks.created_by_agent is
    'AI agent that wrote it; null = a person or the system. Stamped by the database.';
create index tasks_assignee_idx on public.tasks (org_id, assignee_id, due_on)
where status in ('open', 'in_progress');
create index tasks_assignee_id_idx on public.tasks (org_id, assignee_id);
create index tasks_entity_idx on public.tasks (org_id, entity_type, entity_id);
create index tasks_created_at_idx on public.tasks (org_id, created_at desc);

-- 2. Functions

create function app.guard_task_assignee() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    if not app.is_outsider(new.org_id) and not exists (
        select from public.memberships as m
        where
            m.org_id = new.org_id and m.user_id = new.assignee_id
            and m.role not in ('client', 'agent')
    ) then
        perform app.raise_error(
            'task_assignee_invalid', 'A task is done by somebody who works in the organisation.',
            'Name a member, or nobody.'
        );
    end if;
    return new;
end;
$$;
comment on function app.guard_task_assignee() is
    'Trigger: whoever a task is given to is a member, neither a portal client nor an agent.';

create function app.derive_task() returns trigger
language plpgsql
set search_path = ''
as $$
begin
    if tg_op = 'INSERT' then
        new.created_by_agent := app.agent_id();
    end if;
    new.completed_at := case
        when new.status <> 'done' then null
        when tg_op = 'UPDATE' and old.status = 'done' then old.completed_at
        else app.now()
    end;
    return new;
end;
$$;
comment on function app.derive_task() is
    'Trigger: stamps the agent that writes a task, and when it was done.';

create function app.notify_task() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    perform app.notify(
        new.org_id, new.assignee_id, 'task_assigned',
        jsonb_build_object(
            'title', new.title,
            'due', coalesce('prazo em ' || to_char(new.due_on, 'DD/MM/YYYY'), 'sem prazo')
        ),
        format('task_assigned/%s/%s', new.id, new.updated_at), '/tasks/' || new.id
    );
    return null;
end;
$$;
comment on function app.notify_task() is
    'Trigger: tells the person a task was given to, unless he took it himself.';

create function app.create_task(
    org uuid,
    title text,
    description text default null,
    assignee uuid default null,
    due_on date default null,
    priority text default 'normal',
    entity_type text default null,
    entity_id uuid default null,
    idempotency_key text default null
) returns uuid
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_id uuid := coalesce(md5('task/' || create_task.idempotency_key)::uuid, gen_random_uuid());
begin
    begin
        insert into public.tasks as t (
            org_id, id, title, description, assignee_id, due_on, priority, entity_type, entity_id
        ) values (
            create_task.org, v_id, app.clean_text(create_task.title, 200),
            app.clean_text(create_task.description, 10000), create_task.assignee,
            create_task.due_on, create_task.priority, create_task.entity_type,
            create_task.entity_id
        )
        on conflict on constraint tasks_pkey do nothing;
    exception when check_violation or not_null_violation then
        perform app.raise_error(
            'bad_input',
            'A task has a title, a priority, and both type and id of what it is about, or neither.',
            null
        );
    end;
    return v_id;
end;
$$;
comment on function app.create_task(uuid, text, text, uuid, date, text, text, uuid, text) is
    'Writes a task for workflows and agents, whose right was asked for before; its id comes of the '
    'key, so that the same key gives the same task. Errors: bad_input, task_assignee_invalid.';

create function public.list_my_tasks(
    org uuid default null, is_open boolean default true, max_rows integer default 50
) returns setof public.tasks
language sql
stable
set search_path = ''
as $$
    select t.* from public.tasks as t
    where
        t.assignee_id = (select auth.uid())
        and (list_my_tasks.org is null or t.org_id = list_my_tasks.org)
        and (t.status in ('open', 'in_progress')) = list_my_tasks.is_open
    order by
        case when list_my_tasks.is_open then t.due_on end nulls last,
        array_position('{urgent,high,normal,low}', t.priority),
        t.created_at desc, t.id
    limit least(greatest(max_rows, 1), 1000)
$$;
comment on function public.list_my_tasks(uuid, boolean, integer) is
    'The caller''s own tasks, of one organisation or of all: open ones by deadline and priority, '
    'or closed ones, newest first. At most 1000.';

create function public.complete_task(task uuid) returns public.tasks
language plpgsql
set search_path = ''
as $$
declare
    v_task public.tasks;
begin
    update public.tasks as t set status = 'done'
    where t.id = complete_task.task and t.status <> 'done'
    returning t.* into v_task;
    if v_task.id is null then
        select t.* into v_task from public.tasks as t
        where t.id = complete_task.task and t.status = 'done';
    end if;
    if v_task.id is null then
        perform app.raise_error('task_not_found', 'There is no such task.', null);
    end if;
    return v_task;
end;
$$;
comment on function public.complete_task(uuid) is
    'Marks a task as done; twice changes nothing. The assignee, or whoever writes tasks. Errors: '
    'task_not_found, task_move_refused.';

-- 3. Triggers

create trigger tasks_10_guard_assignee
before insert or update of assignee_id on public.tasks
for each row when (new.assignee_id is not null)
execute function app.guard_task_assignee();
create trigger tasks_10_guard_origin
before update on public.tasks
for each row when (old.created_by_agent is distinct from new.created_by_agent)
execute function app.guard_keys();
create trigger tasks_10_guard_status
before update of status on public.tasks
for each row when (old.status is distinct from new.status)
execute function app.guard_move('task', 'status');
create trigger tasks_50_derive
before insert or update on public.tasks
for each row execute function app.derive_task();
create trigger tasks_70_emit
after insert or update or delete on public.tasks
for each row execute function app.emit_event(
    'tasks', 'task', 'status', 'priority', 'assignee_id', 'due_on', 'entity_type', 'entity_id'
);
create trigger tasks_75_notify
after insert on public.tasks
for each row when (
    new.status in ('open', 'in_progress') and new.assignee_id is not null
    and new.assignee_id is distinct from auth.uid()
)
execute function app.notify_task();
create trigger tasks_75_notify_assignee
after update of assignee_id on public.tasks
for each row when (
    new.status in ('open', 'in_progress') and new.assignee_id is not null
    and new.assignee_id is distinct from old.assignee_id
    and new.assignee_id is distinct from auth.uid()
)
execute function app.notify_task();
create trigger tasks_80_audit
after insert or update or delete on public.tasks
for each row execute function app.audit_row();

-- 5. Access

select app.protect_table('public.tasks', 'tasks', 'assignee_id', '{select,insert,update}');

grant execute on function
app.create_task(uuid, text, text, uuid, date, text, text, uuid, text)
to service_role;
grant execute on function
public.list_my_tasks(uuid, boolean, integer), public.complete_task(uuid)
to authenticated, service_role;

-- 6. Reference rows

insert into app.error_keys (key, http, meaning) values
('task_not_found', 404, 'There is no such task, or the caller may not change it.'),
('task_move_refused', 409, 'A task cannot go from its state to the one asked for.'),
('task_assignee_invalid', 422, 'A task is given to somebody who works in the organisation.');

insert into app.allowed_moves (machine, from_state, to_state) values
('tasks', 'open', 'in_progress'),
('tasks', 'open', 'done'),
('tasks', 'open', 'cancelled'),
('tasks', 'in_progress', 'open'),
('tasks', 'in_progress', 'done'),
('tasks', 'in_progress', 'cancelled'),
('tasks', 'done', 'open'),
('tasks', 'cancelled', 'open');

insert into app.event_types (module, event_type, description, payload_keys)
select
    'tasks' as module,
    'task.' || e.name as event_type,
    e.description,
    '{priority,assignee_id,due_on,entity_type,entity_id,status}'::text[]
    || case when e.name not in ('created', 'deleted') then '{changed}'::text[] else '{}' end
        as payload_keys
from (
    values
    ('created', 'A task was written.'),
    ('open', 'A task was taken up again.'),
    ('in_progress', 'Somebody began a task.'),
    ('done', 'A task was completed.'),
    ('cancelled', 'A task was given up.'),
    ('updated', 'A task changed.'),
    ('deleted', 'A task was removed.')
) as e (name, description);

insert into app.notification_templates (
    template, category, description, title, body, variables
) values
(
    'task_assigned', 'tasks', 'A task was given to somebody.', 'Nova tarefa: {title}',
    'Você recebeu a tarefa "{title}", {due}.', '{"title": "text", "due": "text"}'
);
