-- Workflows: what an organisation wants done when something happens, and whether that can be meant.
-- Depends on: core, core_access, core_audit, events, jobs, notify, webhooks_outbound, agents; at
-- run time on workflow_runs.
-- Asked for by: ai design §5, RENUM "workflows", Somos "automações".

-- 1. Tables

create table app.workflow_step_kinds (
    kind text primary key,
    fields jsonb not null,
    description text not null
);
comment on table app.workflow_step_kinds is
    '[workflows] What a step can be, and the fields each kind takes beside id, kind, next, '
    'on_error and retry.';
comment on column app.workflow_step_kinds.fields is
    'Field → what it holds; with ! it must be there. See app.workflow_field_problem.';

create table app.workflow_functions (
    function text primary key
        constraint workflow_functions_function_check check (function ~ '^[a-z][a-z0-9_]*$'),
    arguments jsonb not null,
    description text not null
);
comment on table app.workflow_functions is
    '[workflows] Functions a step may call: app.workflow_<function>(org uuid, arguments jsonb). '
    'Only migrations write here.';
comment on column app.workflow_functions.arguments is
    'Argument → uuid, text, integer or date; with ! it must be there.';

create table app.workflow_templates (
    key text primary key,
    name text not null,
    description text not null,
    definition jsonb not null
);
comment on table app.workflow_templates is
    '[workflows] Workflows that ship; install_workflow_template copies one.';
comment on column app.workflow_templates.name is 'Shown to people, pt-BR.';
comment on column app.workflow_templates.description is 'Shown to people, pt-BR.';

create table public.workflows (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    key text not null
        constraint workflows_key_check check (app.is_slug(key) and length(key) between 2 and 60),
    name text not null
        constraint workflows_name_check check (length(btrim(name)) between 2 and 120),
    definition jsonb not null
        constraint workflows_definition_check check (length(definition::text) <= 100000),
    version integer not null default 1,
    is_active boolean not null default true,
    paused_reason text constraint workflows_paused_reason_check
        check (paused_reason in ('manual', 'failing')),
    runs_per_hour integer not null default 100
        constraint workflows_runs_per_hour_check check (runs_per_hour between 1 and 10000),
    owner_id uuid default auth.uid() references public.profiles (id) on delete set null,
    failures_in_row integer not null default 0,
    next_due_at timestamptz,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, key),
    constraint workflows_paused_check check (is_active = (paused_reason is null))
);
comment on table public.workflows is
    '[workflows] What is done when something happens. definition: {when, if, then}, see '
    'docs/workflows.md; one that cannot be meant is refused.';
comment on column public.workflows.version is 'Counts the definitions; a run keeps the one it has.';
comment on column public.workflows.paused_reason is
    'Why it is not active. failing: ten runs in a row failed.';
comment on column public.workflows.runs_per_hour is
    'Beyond it, runs are written down as cancelled and do nothing.';
comment on column public.workflows.owner_id is
    'Member who is told when it is paused; null = whoever writes workflows.';
comment on column public.workflows.next_due_at is 'When its schedule starts it next; else null.';
create index workflows_owner_id_idx on public.workflows (owner_id);
create index workflows_next_due_at_idx on public.workflows (next_due_at)
where is_active and next_due_at is not null;

create table public.workflow_versions (
    org_id uuid not null,
    workflow_id uuid not null,
    version integer not null,
    definition jsonb not null,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    primary key (org_id, workflow_id, version),
    foreign key (org_id, workflow_id) references public.workflows (org_id, id) on delete cascade
);
comment on table public.workflow_versions is
    '[workflows] Every definition a workflow has had. Written by trigger.';

alter table public.event_subscriptions
add constraint event_subscriptions_workflow_id_fkey
foreign key (org_id, workflow_id) references public.workflows (org_id, id) on delete cascade;
create unique index event_subscriptions_workflow_id_idx
on public.event_subscriptions (org_id, workflow_id) where workflow_id is not null;

-- 2. Functions: values

create function app.render_workflow_text(words text, context jsonb, is_strict boolean) returns text
language plpgsql
immutable
set search_path = ''
as $$
declare
    v_part record;
    v_value jsonb;
    v_text text := '';
begin
    -- One pass: what a value contains is never read as a reference again.
    for v_part in
        select p.found from regexp_matches(words, '([^$]+|\$(?!\{))|\$\{([^}]*)\}', 'g') as p (found)
    loop
        if v_part.found[1] is not null then
            v_text := v_text || v_part.found[1];
            continue;
        end if;
        v_value := context #> string_to_array(v_part.found[2], '.');
        if v_value is null and is_strict then
            perform app.raise_error(
                'workflow_path_missing', format('There is no %s.', left(v_part.found[2], 200)),
                'Correct the path, or write {"$": "…", "default": …}.'
            );
        end if;
        v_text := v_text || coalesce(v_value #>> '{}', '');
    end loop;
    return v_text;
end;
$$;
comment on function app.render_workflow_text(text, jsonb, boolean) is
    'A text with the values of its ${paths}; null is empty. Errors, where strict: '
    'workflow_path_missing.';

create function app.resolve_workflow_value(
    value jsonb, context jsonb, is_strict boolean default true
) returns jsonb
language plpgsql
immutable
set search_path = ''
as $$
declare
    v_found jsonb;
begin
    if jsonb_typeof(value) = 'string' then
        return to_jsonb(app.render_workflow_text(value #>> '{}', context, is_strict));
    elsif jsonb_typeof(value) = 'array' then
        return coalesce((
            select jsonb_agg(app.resolve_workflow_value(e.item, context, is_strict) order by e.place)
            from jsonb_array_elements(value) with ordinality as e (item, place)
        ), '[]');
    elsif jsonb_typeof(value) is distinct from 'object' then
        return value;
    elsif not value ? '$' then
        return coalesce((
            select jsonb_object_agg(
                e.key, app.resolve_workflow_value(e.item, context, is_strict)
            )
            from jsonb_each(value) as e (key, item)
        ), '{}');
    end if;
    v_found := context #> string_to_array(value ->> '$', '.');
    if value ? 'default' and coalesce(v_found, 'null') = 'null' then
        return value -> 'default';
    elsif v_found is null and is_strict then
        perform app.raise_error(
            'workflow_path_missing', format('There is no %s.', left(value ->> '$', 200)),
            'Correct the path, or give it a default.'
        );
    end if;
    return coalesce(v_found, 'null');
end;
$$;
comment on function app.resolve_workflow_value(jsonb, jsonb, boolean) is
    'A value of a definition with its references taken from the context: {"$": "path"} is the '
    'value itself, ${path} in a text its words. What does not exist is its default, else refused; '
    'in conditions (not strict) it is null. Errors: workflow_path_missing.';

create function app.workflow_references(value jsonb) returns setof text
language sql
immutable
set search_path = ''
as $$
    select v.part ->> '$' from jsonb_path_query(value, 'strict $.**') as v (part)
    where jsonb_typeof(v.part) = 'object' and v.part ? '$'
    union
    select m.found[1]
    from jsonb_path_query(value, 'strict $.**') as v (part)
    cross join lateral regexp_matches(v.part #>> '{}', '\$\{([^}]*)\}', 'g') as m (found)
    where jsonb_typeof(v.part) = 'string'
$$;
comment on function app.workflow_references(jsonb) is 'The paths a part of a definition refers to.';

create function app.workflow_interval(duration text) returns interval
language sql
immutable
set search_path = ''
as $$
    select case
        when duration ~ '^[1-9]\d{0,4} (second|minute|hour|day|week|month)s?$'
            then duration::interval
    end
$$;
comment on function app.workflow_interval(text) is
    'A duration as definitions write it: a number and second, minute, hour, day, week or month; '
    'else null.';

create function app.workflow_moment(value jsonb, time_zone text) returns timestamptz
language plpgsql
stable
set search_path = ''
as $$
declare
    v_text text := value #>> '{}';
begin
    if jsonb_typeof(value) is distinct from 'string' or v_text !~ '^\d{4}-\d\d-\d\d' then
        return null;
    elsif v_text ~ '(Z|[+-]\d\d(:?\d\d)?)$' and v_text ~ '\d:\d'
        and pg_catalog.pg_input_is_valid(v_text, 'timestamptz') then
        return v_text::timestamptz;
    elsif pg_catalog.pg_input_is_valid(v_text, 'timestamp') then
        return v_text::timestamp at time zone time_zone;
    end if;
    return null;
end;
$$;
comment on function app.workflow_moment(jsonb, text) is
    'A date (its first moment) or a moment in ISO 8601; without an offset in the time zone. Else '
    'null.';

create function app.is_workflow_condition_met(condition jsonb, context jsonb) returns boolean
language plpgsql
stable
set search_path = ''
as $$
declare
    v_zone text := coalesce(context #>> '{organization,time_zone}', 'UTC');
    v_left jsonb := app.resolve_workflow_value(condition -> 'value', context, false);
    v_right jsonb;
    v_order integer;
begin
    if condition ? 'changed' then
        -- Of what is new, everything has changed.
        return (context #>> '{event,event_type}') like '%.created'
            or coalesce(
                context #> '{event,payload,changed}' ? (condition ->> 'changed'), false
            );
    elsif condition ? 'elapsed' then
        return coalesce(
            app.workflow_moment(v_left, v_zone)
            <= app.now() - app.workflow_interval(condition ->> 'elapsed'), false
        );
    elsif condition ? 'equals' then
        return v_left = app.resolve_workflow_value(condition -> 'equals', context, false);
    elsif condition ? 'in' then
        v_right := app.resolve_workflow_value(condition -> 'in', context, false);
        return jsonb_typeof(v_right) = 'array' and exists (
            select from jsonb_array_elements(v_right) as e (item) where e.item = v_left
        );
    elsif condition ? 'contains' then
        v_right := app.resolve_workflow_value(condition -> 'contains', context, false);
        return case jsonb_typeof(v_left)
            when 'array' then exists (
                select from jsonb_array_elements(v_left) as e (item) where e.item = v_right
            )
            when 'string' then
                strpos(app.normalize(v_left #>> '{}'), app.normalize(v_right #>> '{}')) > 0
            else false
        end;
    end if;
    v_right := app.resolve_workflow_value(
        coalesce(condition -> 'greater', condition -> 'less'), context, false
    );
    v_order := case
        when pg_catalog.pg_input_is_valid(v_left #>> '{}', 'numeric')
            and pg_catalog.pg_input_is_valid(v_right #>> '{}', 'numeric')
            then sign((v_left #>> '{}')::numeric - (v_right #>> '{}')::numeric)
        else sign(extract(
            epoch from app.workflow_moment(v_left, v_zone) - app.workflow_moment(v_right, v_zone)
        ))
    end;
    return coalesce(v_order = case when condition ? 'greater' then 1 else -1 end, false);
end;
$$;
comment on function app.is_workflow_condition_met(jsonb, jsonb) is
    'Whether one condition holds. It never fails: what is missing is null, what cannot be compared '
    'does not hold.';

create function app.are_workflow_conditions_met(conditions jsonb, context jsonb) returns boolean
language sql
stable
set search_path = ''
as $$
    select coalesce(bool_and(
        app.is_workflow_condition_met(c.condition, context)
        is distinct from coalesce((c.condition ->> 'not')::boolean, false)
    ), true)
    from jsonb_array_elements(coalesce(conditions, '[]')) as c (condition)
$$;
comment on function app.are_workflow_conditions_met(jsonb, jsonb) is
    'Whether all conditions of a list hold; "not": true turns one round.';

-- 2. Functions: schedules

create function app.cron_values(field text, low integer, high integer, names text[])
returns integer[]
language plpgsql
immutable
set search_path = ''
as $$
declare
    v_part text;
    v_found text[];
    v_from integer;
    v_to integer;
    v_values integer[] := '{}';
begin
    field := lower(field);
    for v_place in 1 .. coalesce(cardinality(names), 0) loop
        field := replace(field, names[v_place], (v_place - 1 + low)::text);
    end loop;
    foreach v_part in array string_to_array(field, ',') loop
        v_found := regexp_match(v_part, '^(\*|(\d{1,2})(-(\d{1,2}))?)(/(\d{1,2}))?$');
        if v_found is null then
            return null;
        end if;
        v_from := coalesce(v_found[2]::integer, low);
        v_to := coalesce(
            v_found[4]::integer,
            case when v_found[2] is null or v_found[6] is not null then high else v_from end
        );
        if v_from not between low and high or v_to not between v_from and high
            or v_found[6]::integer = 0 then
            return null;
        end if;
        v_values := v_values || array(
            select g.n from generate_series(v_from, v_to, coalesce(v_found[6]::integer, 1)) as g (n)
        );
    end loop;
    return v_values;
end;
$$;
comment on function app.cron_values(text, integer, integer, text[]) is
    'The values one field of a crontab line means; null where it means none.';

create function app.workflow_timetable(schedule jsonb) returns jsonb
language plpgsql
immutable
set search_path = ''
as $$
declare
    v_days constant text[] := '{sun,mon,tue,wed,thu,fri,sat}';
    v_months constant text[] := '{jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec}';
    v_fields text[];
    v_at text[];
    v_table jsonb;
begin
    if schedule ? 'cron' then
        v_fields := regexp_split_to_array(btrim(schedule ->> 'cron'), '\s+');
        if cardinality(v_fields) <> 5 or (v_fields[3] <> '*' and v_fields[5] <> '*') then
            return null;
        end if;
        v_table := jsonb_build_object(
            'minutes', app.cron_values(v_fields[1], 0, 59, null),
            'hours', app.cron_values(v_fields[2], 0, 23, null),
            'days', app.cron_values(v_fields[3], 1, 31, null),
            'months', app.cron_values(v_fields[4], 1, 12, v_months),
            'weekdays', app.cron_values(v_fields[5], 0, 6, v_days)
        );
        return case when not jsonb_path_exists(v_table, '$.* ? (@ == null)') then v_table end;
    end if;
    v_at := regexp_match(schedule ->> 'at', '^([01]\d|2[0-3]):([0-5]\d)$');
    if v_at is null then
        return null;
    end if;
    v_table := jsonb_build_object(
        'hours', array[v_at[1]::integer], 'minutes', array[v_at[2]::integer]
    );
    if schedule ->> 'every' = 'day' and not schedule ? 'on' then
        return v_table;
    elsif schedule ->> 'every' = 'week' and schedule ->> 'on' = any (v_days) then
        return v_table || jsonb_build_object(
            'weekdays', array[array_position(v_days, schedule ->> 'on') - 1]
        );
    elsif schedule ->> 'every' = 'month' and schedule ->> 'on' ~ '^([1-9]|[12]\d|3[01])$' then
        return v_table || jsonb_build_object('day', (schedule ->> 'on')::integer);
    end if;
    return null;
end;
$$;
comment on function app.workflow_timetable(jsonb) is
    'A schedule ({cron}, or {every, on, at}) as lists of values; null where it cannot be read. '
    'day: of the month, its last one where the month is shorter.';

create function app.next_workflow_time(schedule jsonb, time_zone text, after timestamptz)
returns timestamptz
language plpgsql
stable
set search_path = ''
as $$
declare
    v_table jsonb := app.workflow_timetable(schedule);
    v_day date := (after at time zone time_zone)::date;
    v_last integer;
    v_moment timestamptz;
begin
    if v_table is null then
        return null;
    end if;
    -- Nine years hold a 29 February whatever year it is.
    for v_number in 0 .. 3300 loop
        v_last := extract(day from app.month_start(v_day) + interval '1 month' - interval '1 day');
        if
            coalesce(v_table -> 'months' @> to_jsonb(extract(month from v_day)::integer), true)
            and coalesce(v_table -> 'days' @> to_jsonb(extract(day from v_day)::integer), true)
            and coalesce(v_table -> 'weekdays' @> to_jsonb(extract(dow from v_day)::integer), true)
            and (
                not v_table ? 'day'
                or least((v_table ->> 'day')::integer, v_last) = extract(day from v_day)
            )
        then
            select min(m.moment) into v_moment
            from (
                select (v_day + make_time(h.n::integer, t.n::integer, 0)) at time zone time_zone
                    as moment
                from jsonb_array_elements_text(v_table -> 'hours') as h (n)
                cross join jsonb_array_elements_text(v_table -> 'minutes') as t (n)
            ) as m
            where m.moment > after;
            if v_moment is not null then
                return v_moment;
            end if;
        end if;
        v_day := v_day + 1;
    end loop;
    return null;
end;
$$;
comment on function app.next_workflow_time(jsonb, text, timestamptz) is
    'When a schedule is due next, on the clock of the time zone: an hour that the clock repeats '
    'counts once, one that it leaves out is as much later. Null: never.';

-- 2. Functions: whether a definition can be meant

create function app.workflow_field_problem(
    step jsonb, field text, kind text, later text[], org uuid
) returns text
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
    v_value jsonb := step -> field;
    v_text text := step ->> field;
    v_type text := jsonb_typeof(step -> field);
begin
    return case kind
        when 'value' then null
        when 'text' then case
            when v_type = 'object' and v_value ? '$' then null
            when v_type <> 'string' or btrim(v_text) = '' then 'must be a text' end
        when 'object' then case when v_type <> 'object' then 'must be an object' end
        when 'number' then case
            when v_type <> 'number' or v_text !~ '^\d{1,4}$'
                then 'must be a whole number from 0 to 9999' end
        when 'conditions' then app.workflow_conditions_problem(v_value)
        when 'step' then case
            when v_type <> 'string' or not v_text = any (later || '{end}'::text[])
                then 'must name a later step, or end' end
        when 'duration' then case
            when v_type <> 'string' or app.workflow_interval(v_text) is null
                or app.workflow_interval(v_text) > interval '366 days'
                then 'must be a duration of at most a year, as "2 days"' end
        when 'moment' then case
            when v_type = 'object' and v_value ? '$' then null
            when app.workflow_moment(v_value, 'UTC') is null
                then 'must be a date or a moment, or a reference to one' end
        when 'people' then case
            when v_type <> 'object' or not v_value ?| '{person,role,module}'
                or exists (
                    select from jsonb_object_keys(v_value) as k (key)
                    where k.key not in ('person', 'role', 'module')
                )
                then 'must name a person, a role or a module'
            when v_value ? 'role' and not exists (
                select from public.roles as r
                where r.role = v_value ->> 'role' and r.role not in ('agent', 'client')
            ) then 'names a role that does not exist'
            when v_value ? 'module' and not exists (
                select from public.role_permissions as p where p.module = v_value ->> 'module'
            ) then 'names a module that does not exist' end
        when 'endpoint' then case
            when v_type <> 'string' or not pg_catalog.pg_input_is_valid(v_text, 'uuid')
                then 'must be the id of a webhook endpoint'
            when org is not null and not exists (
                select from public.webhook_endpoints as e
                where e.org_id = org and e.id = v_text::uuid
            ) then 'names a webhook endpoint that does not exist' end
        when 'agent' then case
            when v_type <> 'string'
                or not exists (select from app.agent_kinds as k where k.kind = v_text)
                and (org is null or not exists (
                    select from public.agents as a where a.org_id = org and a.key = v_text
                )) then 'names an agent that does not exist' end
        when 'function' then case
            when v_type <> 'string' or not exists (
                select from app.workflow_functions as f where f.function = v_text
            ) then 'is not a function of app.workflow_functions' end
        when 'on_error' then case
            when v_type <> 'string' or not v_text = any (later || '{end,continue}'::text[])
                then 'must be continue, end or a later step' end
        when 'retry' then case
            when v_type <> 'object' or coalesce(v_value ->> 'attempts', '') !~ '^([1-9]|10)$'
                or coalesce(app.workflow_interval(v_value ->> 'wait') > interval '1 day', true)
                or (select count(*) from jsonb_object_keys(v_value)) <> 2
                then 'must be {"attempts": 1 to 10, "wait": at most "1 day"}' end
    end;
end;
$$;
comment on function app.workflow_field_problem(jsonb, text, text, text[], uuid) is
    'What is wrong with a field of a step; null = nothing.';

create function app.workflow_conditions_problem(conditions jsonb) returns text
language plpgsql
immutable
set search_path = ''
as $$
declare
    v_condition jsonb;
    v_number integer := 0;
    v_tests constant text[] := '{equals,contains,greater,less,changed,elapsed,in}';
begin
    if jsonb_typeof(conditions) <> 'array' or jsonb_array_length(conditions) > 50 then
        return 'must be a list of at most 50 conditions';
    end if;
    for v_condition in select c.item from jsonb_array_elements(conditions) as c (item) loop
        v_number := v_number + 1;
        if jsonb_typeof(v_condition) <> 'object'
            or (select count(*) from unnest(v_tests) as t (test) where v_condition ? t.test) <> 1
            or exists (
                select from jsonb_object_keys(v_condition) as k (key)
                where k.key <> all (v_tests || '{value,not}'::text[])
            ) then
            return format('condition %s must have exactly one of %s', v_number,
                array_to_string(v_tests, ', '));
        elsif v_condition ? 'value' = v_condition ? 'changed' then
            return format(
                'condition %s must have a value, or name in changed what has changed', v_number
            );
        elsif v_condition ? 'changed' and jsonb_typeof(v_condition -> 'changed') <> 'string'
            or v_condition ? 'elapsed'
            and app.workflow_interval(v_condition ->> 'elapsed') is null
            or v_condition ? 'not' and jsonb_typeof(v_condition -> 'not') <> 'boolean'
            or v_condition ? 'in'
            and jsonb_typeof(v_condition -> 'in') not in ('array', 'object') then
            return format(
                'condition %s: changed is a name, elapsed a duration, in a list, not true or false',
                v_number
            );
        end if;
    end loop;
    return null;
end;
$$;
comment on function app.workflow_conditions_problem(jsonb) is
    'What is wrong with a list of conditions; null = nothing.';

create function app.workflow_problems(definition jsonb, org uuid default null)
returns table (step text, field text, problem text)
language plpgsql
stable
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_when jsonb := definition -> 'when';
    v_steps jsonb := definition -> 'then';
    v_step jsonb;
    v_ids text[] := '{}';
    v_place integer := 0;
    v_kind app.workflow_step_kinds;
    v_fields jsonb;
    v_function app.workflow_functions;
    v_common constant jsonb :=
        '{"id": "value!", "kind": "value!", "next": "step", "on_error": "on_error",
        "retry": "retry"}';
begin
    if jsonb_typeof(definition) is distinct from 'object' then
        return query values (null::text, null::text, 'must be an object with when, if and then');
        return;
    end if;
    return query
    select null::text, k.key, 'is not a part of a workflow'
    from jsonb_object_keys(definition) as k (key) where k.key not in ('when', 'if', 'then');
    if jsonb_typeof(v_when) is distinct from 'object' then
        return query values (
            null::text, 'when', 'must be {"event": …}, {"cron": …} or {"every", "on", "at"}'
        );
    elsif v_when ? 'event' then
        if coalesce(v_when ->> 'event', '')
            !~ '^[a-z]+\.(\*|[a-z][a-z0-9_]*\.(\*|[a-z][a-z0-9_]*))$'
            or (select count(*) from jsonb_object_keys(v_when)) > 1 or not exists (
                select from app.event_types as t
                where t.module <> 'workflows' and (t.module || '.' || t.event_type)
                    like replace(replace(v_when ->> 'event', '_', '\_'), '*', '%')
            ) then
            return query values (null::text, 'when', 'names no event of the catalogue');
        end if;
    elsif app.workflow_timetable(v_when) is null or exists (
        select from jsonb_object_keys(v_when) as k (key)
        where k.key not in ('cron', 'every', 'on', 'at')
    ) then
        return query values (
            null::text, 'when',
            'is no schedule: {"cron": "0 9 * * mon"} (a day of the month or of the week, not both), '
            '{"every": "day", "at": "09:00"}, week on mon … sun, month on 1 … 31'
        );
    elsif app.next_workflow_time(v_when, 'UTC', now()) is null then
        return query values (null::text, 'when', 'is a schedule that is never due');
    end if;
    if definition ? 'if' then
        return query
        select null::text, 'if', p.problem
        from app.workflow_conditions_problem(definition -> 'if') as p (problem)
        where p.problem is not null;
        return query
        select null::text, 'if', format('refers to %s, which is not known yet', left(r.path, 100))
        from app.workflow_references(definition -> 'if') as r (path)
        where r.path !~ '^(event|organization)(\.[a-z0-9_]+)+$';
    end if;
    if jsonb_typeof(v_steps) is distinct from 'array'
        or jsonb_array_length(v_steps) not between 1 and 50 then
        return query values (null::text, 'then', 'must be a list of 1 to 50 steps');
        return;
    end if;
    for v_step in select s.item from jsonb_array_elements(v_steps) as s (item) loop
        v_place := v_place + 1;
        step := coalesce(v_step ->> 'id', '#' || v_place);
        if jsonb_typeof(v_step) <> 'object'
            or coalesce(v_step ->> 'id', '') !~ '^[a-z][a-z0-9_]{0,39}$'
            or v_step ->> 'id' in ('end', 'continue') or v_step ->> 'id' = any (v_ids) then
            return query values (step, 'id', 'must be a name of its own: small letters, digits, _');
            continue;
        end if;
        select k.* into v_kind from app.workflow_step_kinds as k where k.kind = v_step ->> 'kind';
        if v_kind.kind is null then
            return query values (step, 'kind', 'must be one of ' || (
                select string_agg(k.kind, ', ' order by k.kind) from app.workflow_step_kinds as k
            ));
            continue;
        end if;
        v_fields := v_common || v_kind.fields;
        return query
        select step, k.key, 'is not a field of ' || v_kind.kind
        from jsonb_object_keys(v_step) as k (key) where not v_fields ? k.key;
        return query
        select step, f.key, case when v_step ? f.key then p.problem else 'is missing' end
        from jsonb_each_text(v_fields) as f (key, kind)
        cross join lateral app.workflow_field_problem(
            v_step, f.key, rtrim(f.kind, '!'),
            array(
                select l.item ->> 'id'
                from jsonb_array_elements(v_steps) with ordinality as l (item, place)
                where l.place > v_place and l.item ? 'id'
            ),
            org
        ) as p (problem)
        where case when v_step ? f.key then p.problem is not null else f.kind like '%!' end;
        if v_kind.kind = 'delay' and v_step ? 'for' = v_step ? 'until' then
            return query values (step, 'for', 'must be given, or until instead');
        elsif v_kind.kind = 'function' and jsonb_typeof(v_step -> 'arguments') = 'object' then
            select f.* into v_function from app.workflow_functions as f
            where f.function = v_step ->> 'function';
            return query
            select step, 'arguments', format('lacks %s', a.key)
            from jsonb_each_text(v_function.arguments) as a (key, kind)
            where a.kind like '%!' and not v_step -> 'arguments' ? a.key
            union all
            select step, 'arguments', format('%s is not taken by %s', k.key, v_function.function)
            from jsonb_object_keys(v_step -> 'arguments') as k (key)
            where not v_function.arguments ? k.key;
        end if;
        return query
        select step, f.key, format('refers to %s, which is nothing known here', left(r.path, 100))
        from jsonb_each(v_step) as f (key, value)
        cross join lateral app.workflow_references(f.value) as r (path)
        where
            r.path !~ '^(event|organization|run|steps)(\.[a-z0-9_]+)+$'
            or r.path like 'event.%' and not coalesce(v_when ? 'event', false)
            or r.path like 'steps.%' and not split_part(r.path, '.', 2) = any (v_ids);
        v_ids := v_ids || (v_step ->> 'id');
    end loop;
end;
$$;
comment on function app.workflow_problems(jsonb, uuid) is
    'Everything wrong with a definition: which step (null: the workflow itself), which field, '
    'what. org: also whether its endpoints and agents exist there.';

create function public.validate_workflow(definition jsonb, org uuid default null)
returns table (step text, field text, problem text)
language plpgsql
stable
set search_path = ''
as $$
begin
    if org is not null then
        perform app.require_access(org, 'workflows', 'read');
    end if;
    return query select p.* from app.workflow_problems(definition, org) as p;
end;
$$;
comment on function public.validate_workflow(jsonb, uuid) is
    'Everything wrong with a definition, one row each: the step (null: the workflow itself), the '
    'field, the problem; no row: it can be saved. With org, endpoints and agents are looked up '
    'there. Errors: not_allowed.';

create function app.guard_workflow() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_problem record;
begin
    if tg_op = 'INSERT' or new.definition is distinct from old.definition then
        select p.* into v_problem from app.workflow_problems(new.definition, new.org_id) as p limit 1;
        if found then
            perform app.raise_error(
                'workflow_invalid',
                concat_ws(' ', 'Step ' || v_problem.step || ':', v_problem.field, v_problem.problem)
                || '.',
                'validate_workflow lists everything that is wrong.'
            );
        end if;
        new.version := case tg_op when 'INSERT' then 1 else old.version + 1 end;
    else
        new.version := old.version;
    end if;
    if new.is_active then
        new.paused_reason := null;
        if tg_op = 'UPDATE' and not old.is_active then
            new.failures_in_row := 0;
        end if;
        if tg_op = 'INSERT' or not old.is_active or new.version <> old.version then
            new.next_due_at := app.next_workflow_time(
                new.definition -> 'when', app.org_time_zone(new.org_id), app.now()
            );
        end if;
    else
        new.paused_reason := coalesce(new.paused_reason, 'manual');
        new.next_due_at := null;
    end if;
    return new;
end;
$$;
comment on function app.guard_workflow() is
    'Trigger: refuses a definition that cannot be meant, counts versions, knows when it is due. '
    'Errors: workflow_invalid.';

create function app.follow_workflow() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    insert into public.workflow_versions (org_id, workflow_id, version, definition)
    values (new.org_id, new.id, new.version, new.definition)
    on conflict do nothing;
    delete from public.event_subscriptions as s
    where s.org_id = new.org_id and s.workflow_id = new.id;
    if new.is_active and new.definition -> 'when' ? 'event' then
        insert into public.event_subscriptions (org_id, pattern, handler, workflow_id)
        values (new.org_id, new.definition #>> '{when,event}', 'workflow', new.id);
    end if;
    return null;
end;
$$;
comment on function app.follow_workflow() is
    'Trigger: keeps the definition and subscribes the workflow to its event.';

create function app.reschedule_workflows() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    update public.workflows as w
    set next_due_at = app.next_workflow_time(w.definition -> 'when', new.time_zone, app.now())
    where w.org_id = new.id and w.next_due_at is not null;
    return null;
end;
$$;
comment on function app.reschedule_workflows() is
    'Trigger: schedules are of the organisation''s clock.';

create function public.install_workflow_template(org uuid, key text) returns public.workflows
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_template app.workflow_templates;
    v_workflow public.workflows;
begin
    perform app.require_access(org, 'workflows', 'write');
    select t.* into v_template from app.workflow_templates as t
    where t.key = install_workflow_template.key;
    if v_template.key is null then
        perform app.raise_error(
            'workflow_template_not_found', 'There is no such template.',
            'They stand in app.workflow_templates.'
        );
    end if;
    insert into public.workflows (org_id, key, name, definition)
    values (org, v_template.key, v_template.name, v_template.definition)
    on conflict (org_id, key) do nothing;
    select w.* into v_workflow from public.workflows as w
    where w.org_id = org and w.key = v_template.key;
    return v_workflow;
end;
$$;
comment on function public.install_workflow_template(uuid, text) is
    'Copies a shipped workflow into the organisation, where it can be changed; again gives the one '
    'that is there. Who writes workflows. Errors: not_allowed, workflow_template_not_found.';

-- 3. Triggers

create trigger workflows_10_guard
before insert or update on public.workflows
for each row execute function app.guard_workflow();
create trigger workflows_10_guard_owner
before insert or update of owner_id on public.workflows
for each row execute function app.guard_member('owner_id');
create trigger workflows_60_follow_insert
after insert on public.workflows
for each row execute function app.follow_workflow();
create trigger workflows_60_follow_update
after update on public.workflows
for each row when (
    old.definition is distinct from new.definition or old.is_active is distinct from new.is_active
)
execute function app.follow_workflow();
create trigger workflows_80_audit
after insert or update of name, definition, is_active, runs_per_hour, owner_id or delete
on public.workflows
for each row execute function app.audit_row();
create trigger organizations_75_workflows
after update of time_zone on public.organizations
for each row when (old.time_zone is distinct from new.time_zone)
execute function app.reschedule_workflows();

-- 5. Access

select app.protect_table('public.workflows', 'workflows', null);
select app.protect_table('public.workflow_versions', 'workflows', null, '{select}');

alter table app.workflow_step_kinds enable row level security;
alter table app.workflow_functions enable row level security;
alter table app.workflow_templates enable row level security;
create policy workflow_step_kinds_select on app.workflow_step_kinds for select
to authenticated, service_role using (true);
create policy workflow_functions_select on app.workflow_functions for select
to authenticated, service_role using (true);
create policy workflow_templates_select on app.workflow_templates for select
to authenticated, service_role using (true);
grant select on app.workflow_step_kinds, app.workflow_functions, app.workflow_templates
to authenticated, service_role;

grant execute on function
app.workflow_problems(jsonb, uuid), public.validate_workflow(jsonb, uuid),
public.install_workflow_template(uuid, text)
to authenticated, service_role;

-- 6. Reference rows

insert into app.error_keys (key, http, meaning) values
('workflow_invalid', 422, 'The definition of a workflow cannot be meant; the detail says where.'),
('workflow_template_not_found', 404, 'There is no such template of a workflow.'),
('workflow_path_missing', 422, 'A value a step refers to does not exist.');

insert into app.workflow_step_kinds (kind, fields, description) values
(
    'condition', '{"if": "conditions!", "else": "step"}',
    'Goes on where all conditions hold, else to the step else names (default end).'
),
(
    'delay', '{"for": "duration", "until": "moment"}',
    'Waits for a time, or until a date or moment; one that has passed is not waited for.'
),
(
    'function', '{"function": "function!", "arguments": "object"}',
    'Calls a function of app.workflow_functions; its output is what that returns.'
),
(
    'notify', '{"to": "people!", "title": "text!", "text": "text!", "link": "text"}',
    'Tells a member, or everybody of a role, or who writes a module: in the inbox and on their '
    'channels.'
),
(
    'message', '{"client": "value!", "title": "text!", "text": "text!", "link": "text"}',
    'Tells the people of a client who have a login of the portal.'
),
(
    'webhook', '{"endpoint": "endpoint!", "data": "object"}',
    'Sends data to a webhook endpoint, signed and repeated like every delivery.'
),
(
    'agent', '{"agent": "agent!", "input": "object!", "contact": "object"}',
    'Has an agent do something and waits for it; output: run_id, status, output, answer, '
    'suggestion.'
),
(
    'human_review',
    '{"title": "text!", "text": "text", "data": "object", "reviewer": "people!", '
    '"expires_after": "duration", "on_refuse": "step", "on_expire": "step"}',
    'Waits until a person decides; refused, it goes to on_refuse, or the run is cancelled.'
),
(
    'create_task',
    '{"title": "text!", "description": "text", "assignee": "value", "due_in_days": "number", '
    '"due_on": "moment", "priority": "text", "entity_type": "text", "entity_id": "value"}',
    'Writes a task; output: task_id.'
);
