-- Workflow runs: what a workflow does, step by step, each step once.
-- Depends on: workflows, events, jobs, cron, notify, webhooks_outbound, agents, agent_outputs,
-- ops_tasks, growth_site, contracts, crm.
-- Asked for by: ai design §5.

-- 1. Tables

create table public.workflow_runs (
    org_id uuid not null,
    id uuid not null default gen_random_uuid(),
    workflow_id uuid not null,
    version integer not null,
    status text not null default 'pending' constraint workflow_runs_status_check
        check (
            status in ('pending', 'running', 'waiting', 'completed', 'failed', 'cancelled')
        ),
    event_id uuid,
    event_occurred_at timestamptz,
    scheduled_at timestamptz,
    depth integer not null default 1,
    step integer not null default 0,
    attempt integer not null default 1,
    due_at timestamptz,
    agent_run_id uuid,
    error_key text,
    error text,
    started_at timestamptz,
    finished_at timestamptz,
    created_at timestamptz not null default app.now(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, workflow_id, event_id),
    unique (org_id, workflow_id, scheduled_at),
    foreign key (org_id, workflow_id, version)
    references public.workflow_versions (org_id, workflow_id, version) on delete cascade,
    constraint workflow_runs_cause_check check (num_nonnulls(event_id, scheduled_at) = 1),
    constraint workflow_runs_finished_check
        check ((status in ('completed', 'failed', 'cancelled')) = (finished_at is not null))
);
comment on table public.workflow_runs is
    '[workflows] Each time a workflow was started, or should have been.';
comment on column public.workflow_runs.version is 'The definition it keeps to, whatever is saved.';
comment on column public.workflow_runs.status is
    'pending → running ⇄ waiting (time, an agent, a person) → completed, failed or cancelled.';
comment on column public.workflow_runs.scheduled_at is 'The moment its schedule meant.';
comment on column public.workflow_runs.depth is
    '1 for an event of a person; 2 where a run caused the event; beyond 5 nothing is done.';
comment on column public.workflow_runs.step is 'Place of the step it is at, from 0.';
comment on column public.workflow_runs.attempt is 'Of this step. Step and attempt only go up.';
comment on column public.workflow_runs.due_at is
    'When a worker is to look at it; null: once somebody decides.';
comment on column public.workflow_runs.agent_run_id is 'The run of an agent it waits for.';
comment on column public.workflow_runs.error_key is
    'Why it failed or was cancelled: a key of app.error_keys, or workflow_step_error, '
    'workflow_too_deep, workflow_rate_limited, workflow_review_refused, workflow_review_expired, '
    'workflow_cancelled.';
comment on column public.workflow_runs.error is '[pii] The same in words.';
create index workflow_runs_workflow_id_idx
on public.workflow_runs (org_id, workflow_id, created_at desc);
create index workflow_runs_version_idx on public.workflow_runs (org_id, workflow_id, version);
create index workflow_runs_created_at_idx on public.workflow_runs (org_id, created_at desc);
create index workflow_runs_due_at_idx on public.workflow_runs (due_at)
where status in ('pending', 'running', 'waiting');
create index workflow_runs_agent_run_id_idx on public.workflow_runs (org_id, agent_run_id)
where agent_run_id is not null;

create table public.workflow_run_steps (
    org_id uuid not null,
    id uuid not null default gen_random_uuid(),
    run_id uuid not null,
    step integer not null,
    attempt integer not null,
    step_id text not null,
    kind text not null,
    status text not null constraint workflow_run_steps_status_check
        check (status in ('waiting', 'completed', 'failed')),
    input jsonb not null,
    output jsonb,
    error_key text,
    error text,
    occurred_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, run_id, step, attempt, status),
    foreign key (org_id, run_id) references public.workflow_runs (org_id, id) on delete cascade
);
comment on table public.workflow_run_steps is
    '[workflows] What became of every attempt of every step. Append only. It may hold whatever a '
    'workflow reads, hence only who writes workflows reads it.';
comment on column public.workflow_run_steps.step is 'Place in the definition, from 0.';
comment on column public.workflow_run_steps.input is '[pii] The step with its values filled in.';
comment on column public.workflow_run_steps.output is '[pii] What steps.<id>.output is later on.';
comment on column public.workflow_run_steps.error is '[pii] Why it failed, in words.';
create unique index workflow_run_steps_once_idx
on public.workflow_run_steps (org_id, run_id, step) where status = 'completed';
comment on index public.workflow_run_steps_once_idx is 'A step is done once.';

create table public.workflow_reviews (
    org_id uuid not null,
    id uuid not null default gen_random_uuid(),
    run_id uuid not null,
    step integer not null,
    attempt integer not null,
    title text not null,
    body text,
    data jsonb not null default '{}',
    person_id uuid,
    role text,
    module text,
    status text not null default 'pending' constraint workflow_reviews_status_check
        check (status in ('pending', 'approved', 'refused', 'expired', 'cancelled')),
    expires_at timestamptz,
    decided_by uuid,
    decided_at timestamptz,
    reason text constraint workflow_reviews_reason_check check (length(reason) <= 1000),
    created_at timestamptz not null default app.now(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, run_id, step, attempt),
    foreign key (org_id, run_id) references public.workflow_runs (org_id, id) on delete cascade,
    constraint workflow_reviews_decided_check
        check ((status in ('approved', 'refused')) = (decided_at is not null)),
    constraint workflow_reviews_reviewer_check check (num_nonnulls(person_id, role, module) > 0)
);
comment on table public.workflow_reviews is
    '[workflows] Runs that wait, or waited, for a person. Whoever may decide sees his by '
    'list_workflow_reviews; the table is for who writes workflows.';
comment on column public.workflow_reviews.title is '[pii] What is to be decided, one line.';
comment on column public.workflow_reviews.body is '[pii] The same at length.';
comment on column public.workflow_reviews.data is '[pii] What it is decided on.';
comment on column public.workflow_reviews.person_id is 'The member who decides; else role, module.';
comment on column public.workflow_reviews.module is 'Who writes all of it may decide.';
comment on column public.workflow_reviews.reason is '[pii] What the person said.';
create index workflow_reviews_status_idx
on public.workflow_reviews (org_id, status, created_at desc);

-- 2. Functions: beginning

create function app.wake_workflow_run(
    org uuid, run uuid, step integer, attempt integer, why text, delay interval default '0'
) returns void
language sql
security definer
set search_path = ''
as $$
    select app.enqueue(
        'workflow.step',
        -- run_id in a payload is a run of the timetable.
        jsonb_build_object('workflow_run_id', run, 'step', step, 'attempt', attempt), org,
        format('workflow/%s/%s/%s/%s', run, step, attempt, why), greatest(delay, interval '0')
    )
$$;
comment on function app.wake_workflow_run(uuid, uuid, integer, integer, text, interval) is
    'Has a worker look at a run. Whatever it asks twice is done once: the job names step and '
    'attempt.';

create function app.begin_workflow_run(
    workflow public.workflows, event public.module_events, scheduled_at timestamptz
) returns uuid
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_depth integer := 1;
    v_error text;
    v_run uuid;
begin
    if event.causation_id is not null then
        with recursive causes as (
            select event.causation_id as id, 2 as depth
            union all
            select e.causation_id, c.depth + 1
            from causes as c
            inner join public.module_events as e on e.org_id = workflow.org_id and e.id = c.id
            where e.causation_id is not null and c.depth < 6
        )

        select max(c.depth) into v_depth from causes as c;
    end if;
    if v_depth > 5 then
        v_error := 'workflow_too_deep';
    elsif (
        select count(*) from (
            select from public.workflow_runs as r
            where
                r.org_id = workflow.org_id and r.workflow_id = workflow.id
                and r.created_at > app.now() - interval '1 hour'
                and r.error_key is distinct from 'workflow_rate_limited'
            limit workflow.runs_per_hour
        ) as recent
    ) >= workflow.runs_per_hour then
        v_error := 'workflow_rate_limited';
    end if;
    insert into public.workflow_runs (
        org_id, workflow_id, version, status, event_id, event_occurred_at, scheduled_at, depth,
        due_at, error_key, error, finished_at
    ) values (
        workflow.org_id, workflow.id, workflow.version,
        case when v_error is null then 'pending' else 'cancelled' end,
        event.id, event.occurred_at, begin_workflow_run.scheduled_at, v_depth,
        case when v_error is null then app.now() end, v_error,
        case v_error
            when 'workflow_too_deep' then 'Workflows caused each other five times in a row.'
            when 'workflow_rate_limited' then 'It has run as often as it may in an hour.'
        end,
        case when v_error is not null then app.now() end
    )
    on conflict do nothing
    returning id into v_run;
    if v_run is not null and v_error is null then
        perform app.wake_workflow_run(workflow.org_id, v_run, 0, 1, 'start');
    end if;
    return v_run;
end;
$$;
comment on function app.begin_workflow_run(public.workflows, public.module_events, timestamptz) is
    'Writes down a run, once per event or fire time, and has its first step done; beyond depth 5 '
    'and runs_per_hour it is cancelled at once. Concurrent transactions do not see each other''s '
    'runs: a burst may pass the limit by as many.';

create function app.workflow_context(org uuid, event public.module_events) returns jsonb
language sql
stable
security definer
set search_path = ''
as $$
    select jsonb_build_object(
        'organization', jsonb_build_object(
            'id', o.id, 'name', o.name, 'slug', o.slug, 'time_zone', o.time_zone,
            'today', app.org_today(o.id)
        ),
        'event', case when event.id is not null then jsonb_build_object(
            'id', event.id, 'type', event.module || '.' || event.event_type,
            'module', event.module, 'event_type', event.event_type,
            'entity_type', event.entity_type, 'entity_id', event.entity_id,
            'occurred_at', event.occurred_at, 'payload', event.payload
        ) end
    )
    from public.organizations as o where o.id = org
$$;
comment on function app.workflow_context(uuid, public.module_events) is
    'What conditions of a workflow may refer to.';

create function app.start_workflow_by_event(
    org uuid, workflow uuid, event uuid, occurred_at timestamptz
) returns uuid
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_workflow public.workflows;
    v_event public.module_events;
begin
    select * into v_workflow from public.workflows as w
    where w.org_id = org and w.id = workflow and w.is_active;
    select * into v_event from public.module_events as e
    where e.org_id = org and e.id = event and e.occurred_at = start_workflow_by_event.occurred_at;
    -- What workflows say of themselves starts none, or * would run for ever. A subscription that
    -- somebody wrote by hand does not widen what a workflow reacts to.
    if v_workflow.id is null or v_event.id is null or v_event.module = 'workflows'
        or (v_event.module || '.' || v_event.event_type) like replace(
            replace(v_workflow.definition #>> '{when,event}', '_', '\_'), '*', '%'
        ) is not true
        or not app.are_workflow_conditions_met(
            v_workflow.definition -> 'if', app.workflow_context(org, v_event)
        ) then
        return null;
    end if;
    return app.begin_workflow_run(v_workflow, v_event, null);
end;
$$;
comment on function app.start_workflow_by_event(uuid, uuid, uuid, timestamptz) is
    'In the transaction of an event: starts a workflow whose conditions hold. Returns its run.';

create function app.start_due_workflows() returns integer
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_workflow public.workflows;
    v_run public.workflow_runs;
    v_zone text;
    v_due timestamptz;
    v_next timestamptz;
    v_started integer := 0;
begin
    for v_workflow in
        select w.* from public.workflows as w
        inner join public.organizations as o on o.id = w.org_id
        where w.is_active and w.next_due_at <= app.now() and o.status = 'active'
        order by w.org_id, w.id
        for no key update of w skip locked
    loop
        v_zone := app.org_time_zone(v_workflow.org_id);
        v_due := v_workflow.next_due_at;
        -- What was missed while nothing ran is caught up once: the last fire time.
        for v_number in 1 .. 100000 loop
            v_next := app.next_workflow_time(v_workflow.definition -> 'when', v_zone, v_due);
            exit when v_next is null or v_next > app.now();
            v_due := v_next;
        end loop;
        update public.workflows as w set next_due_at = v_next
        where w.org_id = v_workflow.org_id and w.id = v_workflow.id;
        if app.are_workflow_conditions_met(
            v_workflow.definition -> 'if', app.workflow_context(v_workflow.org_id, null)
        ) and app.begin_workflow_run(v_workflow, null, v_due) is not null then
            v_started := v_started + 1;
        end if;
    end loop;
    -- Whose job was lost or discarded.
    for v_run in
        select r.* from public.workflow_runs as r
        where
            r.status in ('pending', 'running', 'waiting')
            and r.due_at < app.now() - interval '10 minutes'
        order by r.due_at limit 1000
    loop
        perform app.wake_workflow_run(v_run.org_id, v_run.id, v_run.step, v_run.attempt, 'again');
    end loop;
    return v_started;
end;
$$;
comment on function app.start_due_workflows() is
    'Job: starts the workflows whose schedule is due, each fire time once, and looks again at runs '
    'that are overdue. Returns how many it started.';

-- 2. Functions: functions a step may call

create function app.workflow_case_facts(org uuid, arguments jsonb) returns jsonb
language sql
stable
security definer
set search_path = ''
as $$
    select jsonb_build_object(
        'case_id', c.id, 'slug', c.slug, 'is_published', c.is_published,
        'has_raw_data', coalesce(c.raw_data ~ '\S', false),
        'has_post', exists (
            select from public.public_posts as p where p.org_id = c.org_id and p.case_id = c.id
        )
    )
    from public.success_cases as c
    where c.org_id = workflow_case_facts.org and c.id = (arguments ->> 'case_id')::uuid
$$;
comment on function app.workflow_case_facts(uuid, jsonb) is
    'case_facts: is_published, has_raw_data, has_post of a success case.';

create function app.workflow_publish_post(org uuid, arguments jsonb) returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_post public.public_posts;
begin
    update public.public_posts as p set status = 'published'
    where
        p.org_id = workflow_publish_post.org and p.id = (arguments ->> 'post_id')::uuid
        and p.status <> 'published';
    select p.* into v_post from public.public_posts as p
    where p.org_id = workflow_publish_post.org and p.id = (arguments ->> 'post_id')::uuid;
    if v_post.id is null then
        perform app.raise_error('not_found', 'There is no such post.', null);
    end if;
    return jsonb_build_object('post_id', v_post.id, 'slug', v_post.slug, 'status', v_post.status);
end;
$$;
comment on function app.workflow_publish_post(uuid, jsonb) is 'publish_post: publishes a post.';

create function app.workflow_contract_summary(org uuid, arguments jsonb) returns jsonb
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
    v_facts record;
begin
    select
        c.id, c.number, c.title, c.client_id, k.name as client, c.mrr, c.starts_on, c.ends_on,
        c.renews_on, c.technical_manager_id, c.commercial_manager_id
    into v_facts
    from public.contracts as c
    inner join public.clients as k on k.org_id = c.org_id and k.id = c.client_id
    where
        c.org_id = workflow_contract_summary.org and c.id = (arguments ->> 'contract_id')::uuid;
    if v_facts.id is null then
        perform app.raise_error('not_found', 'There is no such contract.', null);
    end if;
    return jsonb_build_object(
        'contract_id', v_facts.id, 'number', v_facts.number, 'title', v_facts.title,
        'client_id', v_facts.client_id, 'client', v_facts.client, 'mrr', v_facts.mrr,
        'renews_on', v_facts.renews_on, 'ends_on', v_facts.ends_on,
        'manager_id', coalesce(v_facts.commercial_manager_id, v_facts.technical_manager_id),
        'text', format(
            'Contrato %s (%s), cliente %s. Em vigor desde %s%s%s. Valor mensal: R$ %s.',
            v_facts.number, v_facts.title, v_facts.client, to_char(v_facts.starts_on, 'DD/MM/YYYY'),
            ', renova em ' || to_char(v_facts.renews_on, 'DD/MM/YYYY'),
            ', termina em ' || to_char(v_facts.ends_on, 'DD/MM/YYYY'),
            app.format_number_br(v_facts.mrr, 2)
        )
    );
end;
$$;
comment on function app.workflow_contract_summary(uuid, jsonb) is
    'contract_summary: a contract in figures and in a Portuguese sentence; asks no model.';

create function app.workflow_assign_lead(org uuid, arguments jsonb) returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_owner uuid := (arguments ->> 'person_id')::uuid;
    v_found uuid;
begin
    if not exists (
        select from public.memberships as m
        where m.org_id = workflow_assign_lead.org and m.user_id = v_owner
            and m.role not in ('client', 'agent')
    ) then
        perform app.raise_error('user_not_member', 'The person is no member.', null);
    end if;
    update public.leads as l set owner_id = coalesce(l.owner_id, v_owner)
    where l.org_id = workflow_assign_lead.org and l.id = (arguments ->> 'lead_id')::uuid
    returning l.owner_id into v_found;
    if v_found is null then
        perform app.raise_error('not_found', 'There is no such lead.', null);
    end if;
    return jsonb_build_object('owner_id', v_found);
end;
$$;
comment on function app.workflow_assign_lead(uuid, jsonb) is
    'assign_lead: gives a lead that has no owner to a person.';

-- 2. Functions: doing a step

create function app.workflow_people(org uuid, people jsonb) returns uuid[]
language sql
stable
security definer
set search_path = ''
as $$
    select array(
        select m.user_id
        from public.memberships as m
        left join public.role_permissions as p
            on p.role = m.role and p.module = people ->> 'module'
        left join public.org_role_permissions as x
            on x.org_id = m.org_id and x.role = m.role and x.module = people ->> 'module'
        where
            m.org_id = workflow_people.org and m.role not in ('agent', 'client')
            and case
                when people ->> 'person' is not null then m.user_id::text = people ->> 'person'
                else m.role = people ->> 'role' or coalesce(x.write_scope, p.write_scope) = 'all'
            end
        order by m.user_id
    )
$$;
comment on function app.workflow_people(uuid, jsonb) is
    'The staff that {person, role, module} means: the person where one is named, else the role and '
    'who writes the module.';

create function app.tell_of_workflow(
    run public.workflow_runs, people uuid[], template text, step jsonb, body text
) returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_person uuid;
begin
    if cardinality(people) = 0 then
        perform app.raise_error(
            'workflow_no_recipient', 'There is nobody to tell.', 'Name a role or a module, too.'
        );
    end if;
    foreach v_person in array people loop
        perform app.notify(
            run.org_id, v_person, template,
            jsonb_build_object('title', step ->> 'title', 'text', body),
            format('workflow/%s/%s/%s', run.id, run.step, run.attempt), step ->> 'link'
        );
    end loop;
    return jsonb_build_object('told', cardinality(people));
end;
$$;
comment on function app.tell_of_workflow(public.workflow_runs, uuid[], text, jsonb, text) is
    'Tells people what a step says. Errors: workflow_no_recipient, those of app.notify.';

create function app.perform_workflow_step(
    run public.workflow_runs, step jsonb, context jsonb
) returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_org constant uuid := run.org_id;
    v_zone text := app.org_time_zone(run.org_id);
    v_output jsonb := '{}';
    v_people uuid[];
    v_id uuid;
    v_until timestamptz;
begin
    case step ->> 'kind'
        when 'condition' then
            -- Its conditions are met with what is missing as null, hence from the definition.
            v_output := jsonb_build_object('is_met', step -> 'is_met');
            if not (step ->> 'is_met')::boolean then
                return jsonb_build_object(
                    'output', v_output, 'next', coalesce(step ->> 'else', 'end')
                );
            end if;
        when 'delay' then
            if step ? 'for' then
                v_until := ((app.now() at time zone v_zone)
                    + app.workflow_interval(step ->> 'for')) at time zone v_zone;
            else
                v_until := app.workflow_moment(step -> 'until', v_zone);
            end if;
            if v_until is null or v_until > app.now() + interval '400 days' then
                perform app.raise_error(
                    'workflow_value_invalid', 'until is no moment within a year.', null
                );
            elsif v_until > app.now() then
                return jsonb_build_object('wait_until', v_until);
            end if;
        when 'function' then
            -- A name of the catalogue, which only migrations write.
            execute format('select app.%I($1, $2)', 'workflow_' || (
                select f.function from app.workflow_functions as f
                where f.function = step ->> 'function'
            )) into v_output using v_org, coalesce(step -> 'arguments', '{}');
        when 'notify' then
            v_output := app.tell_of_workflow(
                run, app.workflow_people(v_org, step -> 'to'), 'workflow_message', step,
                step ->> 'text'
            );
        when 'message' then
            v_people := array(
                select m.user_id from public.memberships as m
                where m.org_id = v_org and m.client_id::text = step ->> 'client'
                order by m.user_id
            );
            v_output := app.tell_of_workflow(
                run, v_people, 'workflow_message', step, step ->> 'text'
            );
        when 'webhook' then
            v_id := md5(format('%s/%s', run.id, run.step))::uuid;
            perform app.queue_webhook(
                v_org, (step ->> 'endpoint')::uuid, v_id, 'workflows.workflow_run.webhook',
                'workflow_run', run.id, coalesce(step -> 'data', '{}'), app.now()
            );
            v_output := jsonb_build_object('message_id', v_id);
        when 'agent' then
            v_id := app.start_agent_run(
                v_org, step ->> 'agent', step -> 'input', step -> 'contact',
                format('workflow/%s/%s/%s', run.id, run.step, run.attempt)
            );
            return jsonb_build_object(
                'agent_run_id', v_id, 'wait_until', app.now() + interval '2 days'
            );
        when 'human_review' then
            v_people := app.workflow_people(v_org, step -> 'reviewer');
            perform app.tell_of_workflow(
                run, v_people, 'workflow_review', step,
                coalesce(step ->> 'text', 'Aprove ou recuse para continuar.')
            );
            v_until := ((app.now() at time zone v_zone)
                + app.workflow_interval(step ->> 'expires_after')) at time zone v_zone;
            insert into public.workflow_reviews (
                org_id, run_id, step, attempt, title, body, data, person_id, role, module,
                expires_at
            ) values (
                v_org, run.id, run.step, run.attempt, left(step ->> 'title', 300), step ->> 'text',
                coalesce(step -> 'data', '{}'), (step #>> '{reviewer,person}')::uuid,
                step #>> '{reviewer,role}', step #>> '{reviewer,module}', v_until
            );
            return jsonb_build_object('wait_until', v_until, 'is_waiting', true);
        when 'create_task' then
            insert into public.tasks (
                org_id, title, description, assignee_id, due_on, priority, entity_type, entity_id
            ) values (
                v_org, left(btrim(step ->> 'title'), 200), left(step ->> 'description', 10000),
                (
                    select m.user_id from public.memberships as m
                    where m.org_id = v_org and m.user_id::text = step ->> 'assignee'
                        and m.role not in ('client', 'agent')
                ),
                coalesce(
                    (app.workflow_moment(step -> 'due_on', v_zone) at time zone v_zone)::date,
                    app.org_today(v_org) + (step ->> 'due_in_days')::integer
                ),
                coalesce(step ->> 'priority', 'normal'), step ->> 'entity_type',
                (step ->> 'entity_id')::uuid
            )
            returning id into v_id;
            v_output := jsonb_build_object('task_id', v_id);
    end case;
    return jsonb_build_object('output', coalesce(v_output, 'null'));
end;
$$;
comment on function app.perform_workflow_step(public.workflow_runs, jsonb, jsonb) is
    'Does a step, its values filled in: {output, next} when it is done, {wait_until, agent_run_id, '
    'is_waiting} when it waits. Everything it does is in this transaction; what goes out, goes by '
    'its jobs. Errors: workflow_value_invalid, workflow_no_recipient, those of what it calls.';

create function app.workflow_wait_outcome(run public.workflow_runs, step jsonb) returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_agent_run public.agent_runs;
begin
    if run.agent_run_id is not null then
        select r.* into v_agent_run from public.agent_runs as r
        where r.org_id = run.org_id and r.id = run.agent_run_id;
        if v_agent_run.status in ('completed', 'degraded') then
            return jsonb_build_object('output', jsonb_build_object(
                'run_id', v_agent_run.id, 'status', v_agent_run.status,
                'answer', v_agent_run.answer, 'output', v_agent_run.output,
                'suggestion', (
                    select jsonb_build_object(
                        'id', s.id, 'status', s.status, 'output', s.output,
                        'is_template', s.is_template, 'draft_type', s.draft_type,
                        'draft_id', s.draft_id
                    )
                    from public.agent_suggestions as s
                    where s.org_id = run.org_id and s.run_id = v_agent_run.id
                )
            ));
        elsif v_agent_run.status = 'failed' or run.due_at <= app.now() then
            perform app.raise_error(
                'workflow_agent_failed',
                coalesce(v_agent_run.detail, v_agent_run.reason, 'The agent did not come back.'),
                'See the agent''s run.'
            );
        end if;
        return null;
    elsif run.due_at > app.now() or run.due_at is null then
        return null;
    elsif step ->> 'kind' = 'human_review' then
        update public.workflow_reviews as v set status = 'expired'
        where
            v.org_id = run.org_id and v.run_id = run.id and v.step = run.step
            and v.attempt = run.attempt and v.status = 'pending';
        return jsonb_build_object(
            'output', jsonb_build_object('decision', 'expired'),
            'next', coalesce(step ->> 'on_expire', 'cancel'), 'error_key', 'workflow_review_expired'
        );
    end if;
    return jsonb_build_object('output', '{}'::jsonb);
end;
$$;
comment on function app.workflow_wait_outcome(public.workflow_runs, jsonb) is
    'What a waiting step has come to; null while it waits. Errors: workflow_agent_failed.';

create function app.end_workflow_run(
    run public.workflow_runs, status text, error_key text, error text
) returns void
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_workflow public.workflows;
    v_payload jsonb := jsonb_build_object(
        'workflow_id', run.workflow_id, 'error_key', end_workflow_run.error_key
    );
begin
    update public.workflow_runs as r
    set
        status = end_workflow_run.status, error_key = end_workflow_run.error_key,
        error = left(end_workflow_run.error, 1000), finished_at = app.now(), due_at = null,
        agent_run_id = null
    where r.org_id = run.org_id and r.id = run.id;
    if end_workflow_run.status = 'cancelled' then
        perform app.record_event(
            run.org_id, 'workflows', 'workflow_run.cancelled', 'workflow_run', run.id, v_payload
        );
    elsif end_workflow_run.status = 'completed' then
        perform app.record_event(
            run.org_id, 'workflows', 'workflow_run.completed', 'workflow_run', run.id, v_payload
        );
        update public.workflows as w set failures_in_row = 0
        where w.org_id = run.org_id and w.id = run.workflow_id and w.failures_in_row > 0;
    else
        perform app.record_event(
            run.org_id, 'workflows', 'workflow_run.failed', 'workflow_run', run.id, v_payload
        );
        update public.workflows as w set failures_in_row = w.failures_in_row + 1
        where w.org_id = run.org_id and w.id = run.workflow_id
        returning w.* into v_workflow;
        if v_workflow.failures_in_row >= 10 and v_workflow.is_active then
            update public.workflows as w set is_active = false, paused_reason = 'failing'
            where w.org_id = run.org_id and w.id = run.workflow_id;
            perform app.notify(
                run.org_id, p.person, 'workflow_paused',
                jsonb_build_object(
                    'workflow', v_workflow.name,
                    'error', coalesce(nullif(btrim(end_workflow_run.error), ''),
                        end_workflow_run.error_key)
                ),
                format('workflow_paused/%s', run.id), '/workflows/' || run.workflow_id
            )
            from unnest(app.workflow_people(run.org_id, jsonb_build_object(
                'person', (
                    select m.user_id from public.memberships as m
                    where m.org_id = run.org_id and m.user_id = v_workflow.owner_id
                ),
                'module', 'workflows'
            ))) as p (person);
        end if;
    end if;
end;
$$;
comment on function app.end_workflow_run(public.workflow_runs, text, text, text) is
    'Ends a run. The tenth failure in a row pauses the workflow and tells its owner.';

create function app.leave_workflow_step(run public.workflow_runs, outcome jsonb) returns void
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_steps jsonb := (
        select v.definition -> 'then' from public.workflow_versions as v
        where
            v.org_id = run.org_id and v.workflow_id = run.workflow_id and v.version = run.version
    );
    v_next text := coalesce(outcome ->> 'next', v_steps -> run.step ->> 'next');
    v_place integer;
begin
    if v_next = 'cancel' then
        perform app.end_workflow_run(run, 'cancelled', outcome ->> 'error_key', null);
        return;
    end if;
    v_place := case
        when v_next is null then run.step + 1
        when v_next <> 'end' then (
            select (s.place - 1)::integer
            from jsonb_array_elements(v_steps) with ordinality as s (item, place)
            where s.item ->> 'id' = v_next
        )
    end;
    if v_place is null or v_place >= jsonb_array_length(v_steps) then
        perform app.end_workflow_run(run, 'completed', null, null);
        return;
    end if;
    update public.workflow_runs as r
    set status = 'running', step = v_place, attempt = 1, due_at = app.now(), agent_run_id = null
    where r.org_id = run.org_id and r.id = run.id;
    perform app.wake_workflow_run(run.org_id, run.id, v_place, 1, 'step');
end;
$$;
comment on function app.leave_workflow_step(public.workflow_runs, jsonb) is
    'Goes on to what comes after a step that is done, in a job of its own, or ends the run.';

create function app.run_workflow_step(org uuid, run uuid, step integer, attempt integer)
returns text
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_run public.workflow_runs;
    v_event public.module_events;
    v_raw jsonb;
    v_step jsonb;
    v_context jsonb;
    v_outcome jsonb;
    v_state text;
    v_key text;
    v_detail text;
    v_retry jsonb;
begin
    select r.* into v_run from public.workflow_runs as r
    where r.org_id = run_workflow_step.org and r.id = run_workflow_step.run
    for no key update;
    if v_run.id is null or v_run.status not in ('pending', 'running', 'waiting')
        or (v_run.step, v_run.attempt) <> (run_workflow_step.step, run_workflow_step.attempt) then
        return 'done before';
    end if;
    if not exists (
        select from public.organizations as o where o.id = v_run.org_id and o.status = 'active'
    ) then
        -- It goes on when the organisation is active again.
        update public.workflow_runs as r set due_at = app.now() + interval '1 hour'
        where r.org_id = v_run.org_id and r.id = v_run.id;
        return 'the organisation is not active';
    end if;
    select e.* into v_event from public.module_events as e
    where e.org_id = v_run.org_id and e.id = v_run.event_id
        and e.occurred_at = v_run.event_occurred_at;
    v_raw := (
        select v.definition -> 'then' -> v_run.step from public.workflow_versions as v
        where
            v.org_id = v_run.org_id and v.workflow_id = v_run.workflow_id
            and v.version = v_run.version
    );
    v_step := v_raw;
    v_context := app.workflow_context(v_run.org_id, v_event) || jsonb_build_object(
        'run', jsonb_build_object(
            'id', v_run.id, 'workflow_id', v_run.workflow_id, 'version', v_run.version,
            'created_at', v_run.created_at, 'scheduled_at', v_run.scheduled_at
        ),
        'steps', (
            select coalesce(
                jsonb_object_agg(s.step_id, jsonb_build_object('output', s.output)), '{}'
            )
            from public.workflow_run_steps as s
            where s.org_id = v_run.org_id and s.run_id = v_run.id and s.status = 'completed'
        )
    );
    perform set_config('app.causation_id', coalesce(v_run.event_id::text, ''), true);
    begin
        if v_run.status = 'waiting' then
            v_outcome := app.workflow_wait_outcome(v_run, v_raw);
            if v_outcome is null then
                return 'waiting';
            end if;
        else
            if v_raw ->> 'kind' = 'condition' then
                v_step := v_raw || jsonb_build_object(
                    'is_met', app.are_workflow_conditions_met(v_raw -> 'if', v_context)
                );
            else
                v_step := app.resolve_workflow_value(v_raw, v_context);
            end if;
            v_outcome := app.perform_workflow_step(v_run, v_step, v_context);
        end if;
    exception when others then
        get stacked diagnostics v_state = returned_sqlstate, v_key = message_text,
            v_detail = pg_exception_detail;
        -- Not the step's fault: the job is tried again.
        if left(v_state, 2) in ('08', '40', '53', '57', '58', 'XX') or v_state = '55P03' then
            raise;
        end if;
    end;
    if v_state is not null then
        if v_state not like 'PT%' then
            v_detail := v_key;
            v_key := 'workflow_step_error';
        end if;
        insert into public.workflow_run_steps (
            org_id, run_id, step, attempt, step_id, kind, status, input, error_key, error
        ) values (
            v_run.org_id, v_run.id, v_run.step, v_run.attempt, v_raw ->> 'id', v_raw ->> 'kind',
            'failed', v_step, v_key, left(v_detail, 1000)
        );
        -- What a rule refuses it refuses again; only a step that says so is tried nevertheless.
        v_retry := coalesce(
            v_raw -> 'retry',
            case when v_state like 'PT%' then '{"attempts": 1, "wait": "1 minute"}'::jsonb
                else '{"attempts": 3, "wait": "1 minute"}'::jsonb end
        );
        if v_run.attempt < (v_retry ->> 'attempts')::integer then
            update public.workflow_runs as r
            set
                status = 'running', attempt = v_run.attempt + 1, agent_run_id = null,
                due_at = app.now()
                    + app.workflow_interval(v_retry ->> 'wait') * power(2, v_run.attempt - 1)
            where r.org_id = v_run.org_id and r.id = v_run.id
            returning r.* into v_run;
            perform app.wake_workflow_run(
                v_run.org_id, v_run.id, v_run.step, v_run.attempt, 'retry', v_run.due_at - app.now()
            );
            return 'to be tried again: ' || v_key;
        elsif v_raw ? 'on_error' then
            insert into public.workflow_run_steps (
                org_id, run_id, step, attempt, step_id, kind, status, input, output
            ) values (
                v_run.org_id, v_run.id, v_run.step, v_run.attempt, v_raw ->> 'id',
                v_raw ->> 'kind', 'completed', '{}', jsonb_build_object('error', v_key)
            );
            perform app.leave_workflow_step(
                v_run, jsonb_build_object('next', nullif(v_raw ->> 'on_error', 'continue'))
            );
            return 'failed, goes on: ' || v_key;
        end if;
        perform app.end_workflow_run(v_run, 'failed', v_key, v_detail);
        return 'failed: ' || v_key;
    elsif v_outcome ? 'wait_until' then
        update public.workflow_runs as r
        set
            status = 'waiting', started_at = coalesce(r.started_at, app.now()),
            due_at = (v_outcome ->> 'wait_until')::timestamptz,
            agent_run_id = (v_outcome ->> 'agent_run_id')::uuid
        where r.org_id = v_run.org_id and r.id = v_run.id
        returning r.* into v_run;
        insert into public.workflow_run_steps (
            org_id, run_id, step, attempt, step_id, kind, status, input
        ) values (
            v_run.org_id, v_run.id, v_run.step, v_run.attempt, v_raw ->> 'id', v_raw ->> 'kind',
            'waiting', v_step
        );
        if v_run.due_at is not null then
            perform app.wake_workflow_run(
                v_run.org_id, v_run.id, v_run.step, v_run.attempt, 'wake', v_run.due_at - app.now()
            );
        end if;
        return 'waits';
    end if;
    insert into public.workflow_run_steps (
        org_id, run_id, step, attempt, step_id, kind, status, input, output
    ) values (
        v_run.org_id, v_run.id, v_run.step, v_run.attempt, v_raw ->> 'id', v_raw ->> 'kind',
        'completed', v_step, v_outcome -> 'output'
    );
    update public.workflow_runs as r
    set status = 'running', started_at = coalesce(r.started_at, app.now())
    where r.org_id = v_run.org_id and r.id = v_run.id
    returning r.* into v_run;
    perform app.leave_workflow_step(v_run, v_outcome);
    return 'completed ' || (v_raw ->> 'id');
end;
$$;
comment on function app.run_workflow_step(uuid, uuid, integer, integer) is
    'Job workflow.step: does one step of a run and enqueues the next, all in one transaction; '
    'asked again for a step that is done it does nothing. Returns what came of it.';

create function app.wake_workflow_of_agent() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    perform app.wake_workflow_run(r.org_id, r.id, r.step, r.attempt, 'agent')
    from public.workflow_runs as r
    where r.org_id = new.org_id and r.agent_run_id = new.id and r.status = 'waiting';
    return null;
end;
$$;
comment on function app.wake_workflow_of_agent() is
    'Trigger on agent_runs: an agent has come to an end; the run that waits for it goes on.';

-- 2. Functions: what people decide

create function app.can_decide_workflow_review(review public.workflow_reviews) returns boolean
language sql
stable
security definer
set search_path = ''
as $$
    select auth.uid() is not null and app.agent_id() is null and exists (
        select from app.caller_roles() as c
        where
            c.org_id = review.org_id and c.status = 'active' and c.role not in ('agent', 'client')
            and case
                when review.person_id is not null then review.person_id = auth.uid()
                else c.role = review.role or app.can_access(review.org_id, review.module, 'write')
            end
    )
$$;
comment on function app.can_decide_workflow_review(public.workflow_reviews) is
    'Whether the caller is a person a review is meant for: never an agent or the worker.';

create function app.list_workflow_reviews(org uuid, status text)
returns table (
    id uuid, run_id uuid, workflow text, title text, body text, data jsonb, status text,
    expires_at timestamptz, decided_at timestamptz, reason text, created_at timestamptz
)
language sql
stable
security definer
set search_path = ''
as $$
    select
        v.id, v.run_id, w.name, v.title, v.body, v.data, v.status, v.expires_at, v.decided_at,
        v.reason, v.created_at
    from public.workflow_reviews as v
    inner join public.workflow_runs as r on r.org_id = v.org_id and r.id = v.run_id
    inner join public.workflows as w on w.org_id = r.org_id and w.id = r.workflow_id
    where
        v.org_id = list_workflow_reviews.org
        and (list_workflow_reviews.status is null or v.status = list_workflow_reviews.status)
        and app.can_decide_workflow_review(v)
    order by v.created_at desc
    limit 200
$$;
comment on function app.list_workflow_reviews(uuid, text) is
    'Body of public.list_workflow_reviews.';

create function public.list_workflow_reviews(org uuid, status text default 'pending')
returns table (
    id uuid, run_id uuid, workflow text, title text, body text, data jsonb, status text,
    expires_at timestamptz, decided_at timestamptz, reason text, created_at timestamptz
)
language sql
stable
set search_path = ''
as $$ select * from app.list_workflow_reviews(org, status) $$;
comment on function public.list_workflow_reviews(uuid, text) is
    'Reviews the caller may decide, the latest 200; status null: decided ones, too.';

create function app.decide_workflow_review(review uuid, decision text, reason text)
returns public.workflow_reviews
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_review public.workflow_reviews;
    v_run public.workflow_runs;
    v_step jsonb;
    v_caused_by text;
begin
    if decision in ('approve', 'refuse') is not true then
        perform app.raise_error('bad_input', 'A decision is approve or refuse.', null);
    end if;
    select v.* into v_review from public.workflow_reviews as v
    where v.id = decide_workflow_review.review and app.can_decide_workflow_review(v);
    if v_review.id is null then
        perform app.raise_error('not_found', 'There is no such review for you.', null);
    end if;
    -- The run first, as the worker does. A second decision waits here and finds the first.
    select r.* into v_run from public.workflow_runs as r
    where r.org_id = v_review.org_id and r.id = v_review.run_id for no key update;
    update public.workflow_reviews as v
    set
        status = case decision when 'approve' then 'approved' else 'refused' end,
        decided_by = auth.uid(), decided_at = app.now(),
        reason = app.clean_text(decide_workflow_review.reason, 1000)
    where v.org_id = v_review.org_id and v.id = v_review.id and v.status = 'pending'
        and coalesce(v.expires_at > app.now(), true)
    returning v.* into v_review;
    if not found or v_run.status <> 'waiting' then
        perform app.raise_error(
            'workflow_review_decided', 'It was decided before, has expired or was cancelled.', null
        );
    end if;
    v_step := (
        select d.definition -> 'then' -> v_run.step from public.workflow_versions as d
        where
            d.org_id = v_run.org_id and d.workflow_id = v_run.workflow_id
            and d.version = v_run.version
    );
    insert into public.workflow_run_steps (
        org_id, run_id, step, attempt, step_id, kind, status, input, output
    ) values (
        v_run.org_id, v_run.id, v_run.step, v_run.attempt, v_step ->> 'id', 'human_review',
        'completed', '{}', jsonb_build_object(
            'decision', v_review.status, 'reason', v_review.reason,
            'decided_by', v_review.decided_by
        )
    );
    v_caused_by := current_setting('app.causation_id', true);
    perform set_config('app.causation_id', coalesce(v_run.event_id::text, ''), true);
    perform app.leave_workflow_step(v_run, case when v_review.status = 'refused' then
        jsonb_build_object(
            'next', coalesce(v_step ->> 'on_refuse', 'cancel'),
            'error_key', 'workflow_review_refused'
        ) else '{}'::jsonb end);
    perform set_config('app.causation_id', coalesce(v_caused_by, ''), true);
    return v_review;
end;
$$;
comment on function app.decide_workflow_review(uuid, text, text) is
    'Body of public.decide_workflow_review.';

create function public.decide_workflow_review(
    review uuid, decision text, reason text default null
) returns public.workflow_reviews
language sql
set search_path = ''
as $$ select app.decide_workflow_review(review, decision, reason) $$;
comment on function public.decide_workflow_review(uuid, text, text) is
    'Approves or refuses what a run waits for; the run goes on in the same transaction: at the '
    'next step, or at on_refuse, else it is cancelled. The person, role or writers of the module '
    'the step names, never an agent. Errors: not_found, bad_input, workflow_review_decided.';

create function app.locked_workflow_run(run uuid) returns public.workflow_runs
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_run public.workflow_runs;
begin
    select r.* into v_run from public.workflow_runs as r
    where r.id = locked_workflow_run.run
        and (app.claims() is null or r.org_id = any (app.caller_org_ids()));
    if v_run.id is null then
        perform app.raise_error('not_found', 'There is no such run.', null);
    end if;
    perform app.require_access(v_run.org_id, 'workflows', 'write');
    select r.* into v_run from public.workflow_runs as r
    where r.org_id = v_run.org_id and r.id = v_run.id for no key update;
    return v_run;
end;
$$;
comment on function app.locked_workflow_run(uuid) is
    'A run, locked, for who may write workflows. Errors: not_found, not_allowed.';

create function app.cancel_workflow_run(run uuid) returns public.workflow_runs
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_run public.workflow_runs := app.locked_workflow_run(run);
begin
    if v_run.status not in ('pending', 'running', 'waiting') then
        perform app.raise_error('workflow_run_ended', 'The run has come to its end.', null);
    end if;
    update public.workflow_reviews as v set status = 'cancelled'
    where v.org_id = v_run.org_id and v.run_id = v_run.id and v.status = 'pending';
    perform app.end_workflow_run(v_run, 'cancelled', 'workflow_cancelled', null);
    select r.* into v_run from public.workflow_runs as r
    where r.org_id = v_run.org_id and r.id = v_run.id;
    return v_run;
end;
$$;
comment on function app.cancel_workflow_run(uuid) is 'Body of public.cancel_workflow_run.';

create function public.cancel_workflow_run(run uuid) returns public.workflow_runs
language sql
set search_path = ''
as $$ select app.cancel_workflow_run(run) $$;
comment on function public.cancel_workflow_run(uuid) is
    'Ends a run where it is; what it has done stays done. Who writes workflows. Errors: not_found, '
    'not_allowed, workflow_run_ended.';

create function app.retry_workflow_run(run uuid) returns public.workflow_runs
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_run public.workflow_runs := app.locked_workflow_run(run);
begin
    if v_run.status <> 'failed'
        and (v_run.status, v_run.error_key) is distinct from ('cancelled', 'workflow_rate_limited')
    then
        perform app.raise_error(
            'workflow_run_not_retryable',
            'Only a run that failed, or was left out for the limit per hour, can be tried again.',
            null
        );
    end if;
    update public.workflow_runs as r
    set
        status = case r.status when 'failed' then 'running' else 'pending' end,
        attempt = r.attempt + 1, error_key = null, error = null, finished_at = null,
        due_at = app.now()
    where r.org_id = v_run.org_id and r.id = v_run.id
    returning r.* into v_run;
    perform app.wake_workflow_run(v_run.org_id, v_run.id, v_run.step, v_run.attempt, 'retry');
    return v_run;
end;
$$;
comment on function app.retry_workflow_run(uuid) is 'Body of public.retry_workflow_run.';

create function public.retry_workflow_run(run uuid) returns public.workflow_runs
language sql
set search_path = ''
as $$ select app.retry_workflow_run(run) $$;
comment on function public.retry_workflow_run(uuid) is
    'Does the step a run failed at once more, and goes on. Who writes workflows. Errors: '
    'not_found, not_allowed, workflow_run_not_retryable.';

create function app.remove_old_workflow_runs() returns bigint
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_removed bigint;
begin
    delete from public.workflow_runs as r
    using public.organizations as o
    where
        o.id = r.org_id and r.finished_at < app.now() - make_interval(
            days => (app.org_setting(o.id, 'workflow_retention_days'))::integer
        );
    get diagnostics v_removed = row_count;
    return v_removed;
end;
$$;
comment on function app.remove_old_workflow_runs() is
    'Job: removes runs that ended longer ago than workflow_retention_days. Returns how many.';

-- 3. Triggers

create trigger workflow_runs_10_guard_status
before update of status on public.workflow_runs
for each row when (old.status is distinct from new.status)
execute function app.guard_move('workflow_run', 'status');
create trigger agent_runs_75_workflows
after update of status on public.agent_runs
for each row when (
    new.status in ('completed', 'degraded', 'failed') and old.status is distinct from new.status
)
execute function app.wake_workflow_of_agent();

-- 5. Access

select app.protect_table('public.workflow_runs', 'workflows', null, '{select}');
select app.protect_table('public.workflow_run_steps', 'workflows', null, '{select}');
select app.protect_table('public.workflow_reviews', 'workflows', null, '{select}');
create trigger workflow_run_steps_10_append_only
before update on public.workflow_run_steps
for each row execute function app.refuse_change();
-- They may hold what other modules keep to themselves: for who writes workflows.
drop policy workflow_run_steps_select on public.workflow_run_steps;
create policy workflow_run_steps_select on public.workflow_run_steps for select to authenticated
using (org_id = any((select app.org_ids('workflows', 'write'))::uuid[]));
drop policy workflow_reviews_select on public.workflow_reviews;
create policy workflow_reviews_select on public.workflow_reviews for select to authenticated
using (org_id = any((select app.org_ids('workflows', 'write'))::uuid[]));

grant execute on function
app.list_workflow_reviews(uuid, text), public.list_workflow_reviews(uuid, text),
app.decide_workflow_review(uuid, text, text), public.decide_workflow_review(uuid, text, text),
app.cancel_workflow_run(uuid), public.cancel_workflow_run(uuid),
app.retry_workflow_run(uuid), public.retry_workflow_run(uuid)
to authenticated, service_role;
grant execute on function
app.run_workflow_step(uuid, uuid, integer, integer), app.start_due_workflows(),
app.remove_old_workflow_runs()
to service_role;

-- 6. Reference rows

insert into app.allowed_moves (machine, from_state, to_state) values
('workflow_runs', 'pending', 'running'),
('workflow_runs', 'pending', 'waiting'),
('workflow_runs', 'pending', 'completed'),
('workflow_runs', 'pending', 'failed'),
('workflow_runs', 'pending', 'cancelled'),
('workflow_runs', 'running', 'waiting'),
('workflow_runs', 'running', 'completed'),
('workflow_runs', 'running', 'failed'),
('workflow_runs', 'running', 'cancelled'),
('workflow_runs', 'waiting', 'running'),
('workflow_runs', 'waiting', 'completed'),
('workflow_runs', 'waiting', 'failed'),
('workflow_runs', 'waiting', 'cancelled'),
('workflow_runs', 'failed', 'running'),
('workflow_runs', 'cancelled', 'pending');

insert into app.error_keys (key, http, meaning) values
('workflow_run_move_refused', 409, 'A run of a workflow cannot go from this state to that.'),
('workflow_no_recipient', 422, 'A step of a workflow tells nobody.'),
('workflow_value_invalid', 422, 'A value of a step is not of the kind it must be.'),
('workflow_agent_failed', 422, 'The agent a workflow waited for has failed.'),
('workflow_review_decided', 409, 'The review was decided before, has expired or was cancelled.'),
('workflow_run_ended', 409, 'The run of a workflow has come to its end.'),
('workflow_run_not_retryable', 409, 'The run of a workflow cannot be tried again.');

insert into app.event_types (module, event_type, description, payload_keys) values
('workflows', 'workflow_run.completed', 'A workflow did all its steps.', '{workflow_id,error_key}'),
('workflows', 'workflow_run.failed', 'A workflow failed at a step.', '{workflow_id,error_key}'),
('workflows', 'workflow_run.cancelled', 'A workflow ended early.', '{workflow_id,error_key}');

insert into app.job_types (entrypoint, latency_class, description) values
('workflow.step', 'default', 'Does one step of a workflow.');

insert into app.setting_definitions (key, kind, minimum, maximum, default_value, description) values
('workflow_retention_days', 'integer', 7, 730, '180', 'Days for which runs of workflows are kept.');

insert into app.notification_templates (
    template, category, description, title, body, variables
) values
(
    'workflow_message', 'workflows', 'A workflow says something.',
    '{title}', '{text}', '{"title": "text", "text": "paragraph"}'
),
(
    'workflow_review', 'workflows', 'A workflow waits for a decision.',
    'Aprovação pendente: {title}', '{text}', '{"title": "text", "text": "paragraph"}'
),
(
    'workflow_paused', 'workflows', 'Ten runs of a workflow failed in a row.',
    'Automação pausada: {workflow}',
    'A automação {workflow} falhou dez vezes seguidas e foi pausada. Último erro: {error}',
    '{"workflow": "text", "error": "text"}'
);

insert into app.workflow_functions (function, arguments, description) values
('case_facts', '{"case_id": "uuid!"}', 'is_published, has_raw_data and has_post of a case.'),
('publish_post', '{"post_id": "uuid!"}', 'Publishes a post; output: post_id, slug, status.'),
(
    'contract_summary', '{"contract_id": "uuid!"}',
    'A contract in figures and in a Portuguese sentence (text); asks no model.'
),
(
    'assign_lead', '{"lead_id": "uuid!", "person_id": "uuid!"}',
    'Gives a lead that has no owner to a person; output: owner_id.'
);

insert into app.workflow_templates (key, name, description, definition) values
(
    'lead-qualified', 'Lead novo: qualificar e avisar',
    'Quando um lead entra, o agente o qualifica e o responsável (ou quem cuida do CRM) é avisado.',
    '{
        "when": {"event": "growth.lead.created"},
        "then": [
            {
                "id": "qualify", "kind": "agent", "agent": "lead_qualifier",
                "input": {"lead_id": {"$": "event.entity_id"}}, "on_error": "continue"
            },
            {
                "id": "tell", "kind": "notify",
                "to": {
                    "person": {"$": "event.payload.owner_id", "default": null}, "module": "crm"
                },
                "title": "Lead novo para acompanhar",
                "text": {
                    "$": "steps.qualify.output.suggestion.output.next_action.title",
                    "default": "Um lead novo entrou. Abra-o para decidir o próximo passo."
                },
                "link": "/leads/${event.entity_id}"
            }
        ]
    }'
),
(
    'case-published', 'Caso de sucesso: rascunhar, revisar e publicar',
    'Quando os dados de um caso são salvos, o agente escreve um rascunho; aprovado por uma pessoa, '
    'ele é publicado.',
    '{
        "when": {"event": "growth.case.*"},
        "if": [{"changed": "raw_data"}],
        "then": [
            {
                "id": "facts", "kind": "function", "function": "case_facts",
                "arguments": {"case_id": {"$": "event.entity_id"}}
            },
            {
                "id": "is_new", "kind": "condition",
                "if": [
                    {"value": {"$": "steps.facts.output.has_raw_data"}, "equals": true},
                    {"value": {"$": "steps.facts.output.has_post"}, "equals": false}
                ]
            },
            {
                "id": "draft", "kind": "agent", "agent": "case_to_post",
                "input": {"case_id": {"$": "event.entity_id"}}, "on_error": "by_hand"
            },
            {
                "id": "has_draft", "kind": "condition",
                "if": [
                    {
                        "value": {"$": "steps.draft.output.suggestion.draft_id"},
                        "equals": null, "not": true
                    }
                ],
                "else": "by_hand"
            },
            {
                "id": "review", "kind": "human_review",
                "title": "Publicar o post do caso",
                "text": "O rascunho está pronto. Leia, ajuste e decida se ele é publicado.",
                "data": {"post_id": {"$": "steps.draft.output.suggestion.draft_id"}},
                "reviewer": {"module": "growth"}, "expires_after": "14 days"
            },
            {
                "id": "publish", "kind": "function", "function": "publish_post",
                "arguments": {"post_id": {"$": "steps.draft.output.suggestion.draft_id"}},
                "next": "end"
            },
            {
                "id": "by_hand", "kind": "notify", "to": {"module": "growth"},
                "title": "Caso sem rascunho",
                "text": "O agente não conseguiu escrever o post. Escreva-o a partir do caso.",
                "link": "/cases/${event.entity_id}"
            }
        ]
    }'
),
(
    'contract-renewal', 'Contrato perto da renovação: resumir e criar tarefa',
    'Quando um contrato se aproxima da renovação, uma tarefa com o resumo é criada.',
    '{
        "when": {"event": "fin.contract.renewal_near"},
        "then": [
            {
                "id": "summary", "kind": "function", "function": "contract_summary",
                "arguments": {"contract_id": {"$": "event.entity_id"}}
            },
            {
                "id": "task", "kind": "create_task",
                "title": "Renovar o contrato ${steps.summary.output.number}",
                "description": "${steps.summary.output.text} Dias: ${event.payload.days_left}.",
                "assignee": {"$": "steps.summary.output.manager_id"},
                "due_on": {"$": "event.payload.due_on"},
                "entity_type": "contract", "entity_id": {"$": "event.entity_id"}
            }
        ]
    }'
);
