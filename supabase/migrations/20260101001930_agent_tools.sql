-- Agent tools, the machinery: a tool is a function of schema agent_tools. What a model is told of
-- it and what its arguments are held against is read from the catalog; there is no second list.
-- Depends on: core, core_access, crm, contracts, agents.
-- Asked for by: ai design §4 "Agents and tools", issue 4.

-- 0. Schema

create schema agent_tools;
comment on schema agent_tools is
    'What AI agents may call: each function is a tool. Not exposed over REST. The comment of a '
    'tool: [module] and, where it reaches somebody, [outward], then what it does; after that one '
    'line "argument: what it means" for each of its arguments.';
grant usage on schema agent_tools to authenticated, service_role;

-- 1. Tables

create table app.agent_tool_results (
    org_id uuid not null references public.organizations (id) on delete cascade,
    idempotency_key text not null
        constraint agent_tool_results_idempotency_key_check
            check (length(idempotency_key) between 1 and 200),
    tool text not null,
    arguments_hash text not null,
    result jsonb not null,
    created_at timestamptz not null default app.now(),
    primary key (org_id, idempotency_key)
);
comment on table app.agent_tool_results is
    '[ai] What tools that write have answered: the same call under the same key is done once and '
    'answered alike. Kept for 30 days.';
comment on column app.agent_tool_results.idempotency_key is
    'The setting app.idempotency_key of the call: which call of which run it is.';
comment on column app.agent_tool_results.arguments_hash is 'SHA-256 of the arguments.';
create index agent_tool_results_created_at_idx on app.agent_tool_results (created_at);

-- 2. Functions: from the catalog to a JSON schema

create function app.base_type(kind oid) returns oid
language plpgsql
stable
set search_path = ''
as $$
declare
    v_kind oid := kind;
    v_base oid;
begin
    loop
        select t.typbasetype into v_base from pg_catalog.pg_type as t
        where t.oid = v_kind and t.typtype = 'd';
        if v_base is null then
            return v_kind;
        end if;
        v_kind := v_base;
    end loop;
end;
$$;
comment on function app.base_type(oid) is 'The type under a domain; another type is its own base.';

create function app.domain_schema(kind oid) returns jsonb
language sql
stable
set search_path = ''
as $$
    -- The checks in the words Postgres writes them: lists of values, bounds of lengths and numbers.
    with checks as (
        select pg_catalog.pg_get_constraintdef(k.oid) as words
        from pg_catalog.pg_constraint as k
        where k.contypid = kind and k.contype = 'c'
    ),

    found as (
        select
            case coalesce(part.found[1], '')
                when 'length' then
                    case left(part.found[2], 1) when '<' then 'maxLength' else 'minLength' end
                when 'cardinality' then
                    case left(part.found[2], 1) when '<' then 'maxItems' else 'minItems' end
                else
                    case part.found[2]
                        when '<' then 'exclusiveMaximum' when '<=' then 'maximum'
                        when '>' then 'exclusiveMinimum' else 'minimum'
                    end
            end as key,
            to_jsonb(part.found[3]::numeric) as value
        from checks as c
        cross join lateral regexp_matches(
            c.words,
            '(length|cardinality)?\(?(?:btrim\()?VALUE\)* ([<>]=?) \(?(-?[0-9.]+)', 'g'
        ) as part (found)
        union all
        select 'enum', jsonb_agg(replace(part.found[1], '''''', '''') order by part.place)
        from checks as c
        cross join lateral regexp_matches(c.words, '''((?:[^'']|'''')*)''::text', 'g')
            with ordinality as part (found, place)
        where c.words like '%VALUE = ANY (ARRAY[%'
        group by c.words
    )

    select coalesce(jsonb_object_agg(f.key, f.value), '{}') from found as f
$$;
comment on function app.domain_schema(oid) is
    'What the checks of a domain say, in the words of JSON Schema: enum, lengths, bounds.';

create function app.type_schema(kind oid) returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
    v_type pg_catalog.pg_type;
begin
    select * into v_type from pg_catalog.pg_type as t where t.oid = app.base_type(kind);
    return case
        when v_type.typcategory = 'A' then
            jsonb_build_object('type', 'array', 'items', app.type_schema(v_type.typelem))
        when v_type.typtype = 'c' then
            (
                select app.object_schema(
                    array_agg(a.attname::text order by a.attnum),
                    array_agg(a.atttypid order by a.attnum),
                    array_agg(t.typnotnull order by a.attnum),
                    jsonb_object_agg(
                        a.attname, pg_catalog.col_description(a.attrelid, a.attnum)
                    )
                )
                from pg_catalog.pg_attribute as a
                inner join pg_catalog.pg_type as t on t.oid = a.atttypid
                where a.attrelid = v_type.typrelid and a.attnum > 0 and not a.attisdropped
            )
        else
            case v_type.typname
                when 'text' then '{"type": "string"}'
                when 'uuid' then '{"type": "string", "format": "uuid"}'
                when 'date' then '{"type": "string", "format": "date"}'
                when 'timestamptz' then '{"type": "string", "format": "date-time"}'
                when 'numeric' then '{"type": "number"}'
                when 'int4' then '{"type": "integer"}'
                when 'int8' then '{"type": "integer"}'
                when 'bool' then '{"type": "boolean"}'
                when 'jsonb' then '{"type": "object"}'
            end::jsonb
    end || case when kind <> v_type.oid then app.domain_schema(kind) else '{}' end;
end;
$$;
comment on function app.type_schema(oid) is
    'JSON schema of a type of the catalog: domains with their checks, lists, composite types as '
    'objects (what is a domain not null is required). Null for a type no tool may take.';

create function app.object_schema(
    names text[], kinds oid[], are_required boolean[], descriptions jsonb
) returns jsonb
language sql
stable
set search_path = ''
as $$
    select jsonb_build_object(
        'type', 'object',
        'properties', coalesce(
            jsonb_object_agg(
                given.name,
                app.type_schema(given.kind) || jsonb_strip_nulls(
                    jsonb_build_object('description', descriptions -> given.name)
                )
            ),
            '{}'
        ),
        'required', coalesce(
            jsonb_agg(given.name order by given.place) filter (where given.is_required), '[]'
        ),
        'additionalProperties', false
    )
    from unnest(names, kinds, are_required) with ordinality
        as given (name, kind, is_required, place)
$$;
comment on function app.object_schema(text[], oid[], boolean[], jsonb) is
    'JSON schema of an object with these members.';

create function app.agent_tool_catalog(name text default null)
returns table (
    tool text, oid oid, description text, parameters jsonb, module text, is_outward boolean,
    is_writing boolean
)
language sql
stable
set search_path = ''
as $$
    select
        p.proname::text, p.oid,
        btrim(regexp_replace(words.head, '^(\[[a-z]+\] )+', '')),
        app.object_schema(
            coalesce(p.proargnames, '{}')::text[], p.proargtypes::oid[],
            array(
                select place <= p.pronargs - p.pronargdefaults
                from generate_series(1, p.pronargs::integer) as place
                order by place
            ),
            words.arguments
        ),
        (regexp_match(words.head, '^\[([a-z]+)\]'))[1],
        words.head ~ '^\[[a-z]+\] \[outward\] ',
        -- What may write is volatile to Postgres.
        p.provolatile = 'v'
    from pg_catalog.pg_proc as p
    cross join lateral (
        select
            coalesce(
                string_agg(line.text, ' ' order by line.place) filter (where line.argument is null),
                ''
            ) as head,
            coalesce(
                jsonb_object_agg(line.argument, line.meaning)
                filter (where line.argument is not null),
                '{}'
            ) as arguments
        from (
            select
                given.place, given.text, found.argument,
                btrim(substr(given.text, length(found.argument) + 2)) as meaning
            from regexp_split_to_table(
                pg_catalog.obj_description(p.oid, 'pg_proc'), E'\n'
            ) with ordinality as given (text, place)
            left join lateral (
                select a.name as argument from unnest(p.proargnames) as a (name)
                where given.text like replace(a.name, '_', '\_') || ':%'
            ) as found on true
        ) as line
    ) as words
    where
        p.pronamespace = 'agent_tools'::regnamespace
        and (agent_tool_catalog.name is null or p.proname = agent_tool_catalog.name)
    order by p.proname
$$;
comment on function app.agent_tool_catalog(text) is
    'Every tool, or the one of this name, as the catalog knows it: what it does, the JSON schema '
    'of its arguments, the module whose writers answer for it, whether it reaches somebody, '
    'whether it may write.';

create function app.agent_tool_schemas(org uuid, agent uuid)
returns table (tool text, description text, parameters jsonb, module text, is_outward boolean)
language sql
stable
set search_path = ''
as $$
    -- Left out is what no agent of the organisation could do: neither for it nor for a customer.
    select c.tool, c.description, c.parameters, c.module, c.is_outward
    from app.agent_tool_catalog() as c
    where exists (
        select from public.role_permissions as p
        left join public.org_role_permissions as x
            on
                p.role = x.role and p.module = x.module
                and x.org_id = agent_tool_schemas.org
        where
            p.role in ('agent', 'client') and p.module = c.module
            and (coalesce(x.read_scope, p.read_scope), coalesce(x.write_scope, p.write_scope))
            <> ('none', 'none')
    )
    and exists (
        select from public.agents as a
        where
            a.org_id = agent_tool_schemas.org and a.id = agent_tool_schemas.agent and a.is_active
    )
$$;
comment on function app.agent_tool_schemas(uuid, uuid) is
    'The tools an active agent of the organisation can be given, with the JSON schema of their '
    'arguments. Which of them it was given is said by its grants.';

-- 2. Functions: arguments

create function app.value_problem(value jsonb, kind oid, path text) returns text
language plpgsql
stable
set search_path = ''
as $$
declare
    v_type pg_catalog.pg_type;
    v_schema jsonb := app.type_schema(kind);
    v_text text := value #>> '{}';
    v_is_right boolean;
    v_item jsonb;
    v_problem text;
begin
    select * into v_type from pg_catalog.pg_type as t where t.oid = app.base_type(kind);
    if v_type.typcategory = 'A' then
        if jsonb_typeof(value) <> 'array' then
            return format('%s is a list.', path);
        elsif
            jsonb_array_length(value) not between coalesce((v_schema ->> 'minItems')::integer, 0)
            and coalesce((v_schema ->> 'maxItems')::integer, 100)
        then
            return format(
                '%s has from %s to %s items.', path, coalesce(v_schema ->> 'minItems', '0'),
                coalesce(v_schema ->> 'maxItems', '100')
            );
        end if;
        for v_item in select * from jsonb_array_elements(value) loop
            v_problem := app.value_problem(v_item, v_type.typelem, path || '[]');
            exit when v_problem is not null;
        end loop;
        return v_problem;
    elsif v_type.typtype = 'c' then
        return app.object_problem(
            value, v_schema,
            (
                select jsonb_object_agg(a.attname, a.atttypid)
                from pg_catalog.pg_attribute as a
                where a.attrelid = v_type.typrelid and a.attnum > 0 and not a.attisdropped
            ),
            path || '.'
        );
    end if;
    -- Nobody types them; cleaned away, a text could be shorter than its domain allows.
    if jsonb_typeof(value) = 'string' and v_text ~ '[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]' then
        return format('%s has control characters.', path);
    end if;
    v_is_right := case
        when v_type.typname in ('numeric', 'int4', 'int8') then jsonb_typeof(value) = 'number'
        when v_type.typname = 'bool' then jsonb_typeof(value) = 'boolean'
        when v_type.typname = 'jsonb' then jsonb_typeof(value) = 'object'
        when jsonb_typeof(value) <> 'string' then false
        -- Postgres takes more than JSON Schema allows: today, infinity, braces around a uuid.
        when v_type.typname = 'uuid' then v_text ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
        when v_type.typname = 'date' then v_text ~ '^\d{4}-\d\d-\d\d$'
        when v_type.typname = 'timestamptz' then
            v_text ~ '^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:?\d\d)$'
        else true
    end and pg_catalog.pg_input_is_valid(v_text, pg_catalog.format_type(kind, null));
    return case
        when v_is_right is not true then format('%s does not fit %s.', path, v_schema::text)
    end;
end;
$$;
comment on function app.value_problem(jsonb, oid, text) is
    'What is wrong with a value for a type of the catalog, in words a model can act on; null when '
    'nothing is. The value itself is not repeated.';

create function app.object_problem(value jsonb, schema jsonb, kinds jsonb, path text)
returns text
language plpgsql
stable
set search_path = ''
as $$
declare
    v_key text;
    v_value jsonb;
    v_problem text;
begin
    if jsonb_typeof(value) is distinct from 'object' then
        return format('%s is an object.', coalesce(nullif(btrim(path, '.'), ''), 'The whole'));
    end if;
    for v_key, v_value in select * from jsonb_each(value) order by 1 loop
        if not kinds ? v_key then
            return format(
                '%s is no argument; there are: %s.', path || left(v_key, 60),
                (select string_agg(k, ', ' order by k) from jsonb_object_keys(kinds) as k)
            );
        elsif jsonb_typeof(v_value) <> 'null' then
            v_problem := app.value_problem(v_value, (kinds ->> v_key)::oid, path || v_key);
            if v_problem is not null then
                return v_problem;
            end if;
        end if;
    end loop;
    select string_agg(path || needed.name, ', ' order by needed.name) into v_problem
    from jsonb_array_elements_text(schema -> 'required') as needed (name)
    where coalesce(jsonb_typeof(value -> needed.name), 'null') = 'null';
    return case when v_problem is not null then format('%s is missing.', v_problem) end;
end;
$$;
comment on function app.object_problem(jsonb, jsonb, jsonb, text) is
    'What is wrong with an object: an unknown member, a member of another type, a missing one. '
    'Null in a member counts as left out.';

-- 2. Functions: calling

create function app.recall_tool_result(tool text, arguments jsonb) returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_org uuid := app.agent_claim('agent_org_id');
    v_key text := nullif(current_setting('app.idempotency_key', true), '');
    v_known app.agent_tool_results;
begin
    if v_key is null or v_org is null or app.agent_id() is null then
        return null;
    end if;
    -- The same call twice at once: the second waits here and then finds what the first did.
    perform pg_advisory_xact_lock(hashtextextended('agent_tool/' || v_org || '/' || v_key, 0));
    select * into v_known from app.agent_tool_results as r
    where r.org_id = v_org and r.idempotency_key = v_key;
    if
        v_known.tool <> recall_tool_result.tool
        or v_known.arguments_hash <> app.text_hash(recall_tool_result.arguments::text)
    then
        perform app.raise_error(
            'idempotency_key_reused', 'The key belongs to another call.', 'Use a key per call.'
        );
    end if;
    return v_known.result;
end;
$$;
comment on function app.recall_tool_result(text, jsonb) is
    'What the call under the key app.idempotency_key has answered before; null when it is new. '
    'Errors: idempotency_key_reused.';

create function app.keep_tool_result(tool text, arguments jsonb, result jsonb) returns void
language sql
security definer
set search_path = ''
as $$
    insert into app.agent_tool_results (org_id, idempotency_key, tool, arguments_hash, result)
    select
        o.id, left(current_setting('app.idempotency_key', true), 200), keep_tool_result.tool,
        app.text_hash(keep_tool_result.arguments::text), keep_tool_result.result
    from public.organizations as o
    where
        o.id = app.agent_claim('agent_org_id') and app.agent_id() is not null
        and current_setting('app.idempotency_key', true) <> ''
$$;
comment on function app.keep_tool_result(text, jsonb, jsonb) is
    'Keeps the answer of a tool that writes under the key app.idempotency_key, if there is one.';

create function app.tool_argument_problem(tool text, arguments jsonb) returns text
language sql
stable
set search_path = ''
as $$
    select case
        when octet_length(tool_argument_problem.arguments::text) > 32768
            then 'The arguments are longer than 32 kB.'
        else app.object_problem(
            tool_argument_problem.arguments, c.parameters,
            coalesce(
                (
                    select jsonb_object_agg(a.name, a.kind)
                    from unnest(p.proargnames, p.proargtypes::oid[]) as a (name, kind)
                ),
                '{}'
            ),
            ''
        )
    end
    from app.agent_tool_catalog(coalesce(tool_argument_problem.tool, '')) as c
    inner join pg_catalog.pg_proc as p on p.oid = c.oid
$$;
comment on function app.tool_argument_problem(text, jsonb) is
    'What is wrong with the arguments of a tool, by its catalogue; null when nothing is, or there '
    'is no such tool.';

create function app.call_agent_tool(tool text, arguments jsonb) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
    v_tool record;
    v_function pg_catalog.pg_proc;
    v_problem text := app.tool_argument_problem(call_agent_tool.tool, arguments);
    v_given text[];
    v_result jsonb;
begin
    select c.* into v_tool from app.agent_tool_catalog(coalesce(call_agent_tool.tool, '')) as c;
    if v_tool.oid is null then
        perform app.raise_error(
            'tool_unknown', format('There is no tool %s.', left(call_agent_tool.tool, 60)),
            (
                select 'There are: ' || string_agg(c.tool, ', ') || '.'
                from app.agent_tool_catalog() as c
            )
        );
    end if;
    select * into v_function from pg_catalog.pg_proc as p where p.oid = v_tool.oid;
    if v_problem is not null then
        perform app.raise_error(
            'tool_arguments_invalid', v_problem, 'Call it again with the right arguments.'
        );
    end if;
    if v_tool.is_writing then
        v_result := app.recall_tool_result(call_agent_tool.tool, arguments);
        if v_result is not null then
            return v_result;
        end if;
    end if;

    -- Names and types come from the catalog, values only through the one bound object.
    select array_agg(a.name order by a.place) into v_given
    from unnest(v_function.proargnames) with ordinality as a (name, place)
    where coalesce(jsonb_typeof(arguments -> a.name), 'null') <> 'null';
    execute case
        when v_given is null then format('select agent_tools.%I()', v_function.proname)
        else (
            select format(
                'select agent_tools.%I(%s) from pg_catalog.jsonb_to_record($1) as given (%s)',
                v_function.proname,
                string_agg(format('%1$I => given.%1$I', a.name), ', ' order by a.place),
                string_agg(
                    format('%I %s', a.name, pg_catalog.format_type(a.kind, null)), ', '
                    order by a.place
                )
            )
            from unnest(v_function.proargnames, v_function.proargtypes::oid[]) with ordinality
                as a (name, kind, place)
            where a.name = any (v_given)
        )
    end into v_result using arguments;
    if v_tool.is_writing then
        perform app.keep_tool_result(call_agent_tool.tool, arguments, v_result);
    end if;
    return v_result;
end;
$$;
comment on function app.call_agent_tool(text, jsonb) is
    'Calls a tool with the caller''s rights, once its arguments fit the catalog. With the setting '
    'app.idempotency_key (a key per call) the same call is done once and answered alike. Errors: '
    'tool_unknown, tool_arguments_invalid, idempotency_key_reused, and those of the tool.';

create function app.forget_tool_results() returns bigint
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_removed bigint;
begin
    delete from app.agent_tool_results as r where r.created_at < app.now() - interval '30 days';
    get diagnostics v_removed = row_count;
    return v_removed;
end;
$$;
comment on function app.forget_tool_results() is
    'Job: removes answers of tools older than 30 days. Returns how many.';

-- 2. Functions: what every tool asks

create function app.require_agent(module text, action text) returns uuid
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
    v_org uuid := app.agent_claim('agent_org_id');
    v_scope text;
begin
    select
        case require_agent.action
            when 'read' then coalesce(x.read_scope, p.read_scope)
            when 'write' then coalesce(x.write_scope, p.write_scope)
        end
    into v_scope
    from public.organizations as o
    inner join public.role_permissions as p
        on p.role = 'agent' and p.module = require_agent.module
    left join public.org_role_permissions as x
        on x.org_id = o.id and p.role = x.role and p.module = x.module
    where o.id = v_org and app.agent_id() <> '00000000-0000-0000-0000-000000000000';
    -- A person has no tools, whatever his role.
    if v_scope is null or v_scope = 'none' then
        perform app.raise_error(
            'not_allowed',
            format('Agents may not %s %s here.', require_agent.action, require_agent.module),
            'Ask an admin of the organisation.'
        );
    end if;
    perform app.require_open(v_org, require_agent.action);
    return v_org;
end;
$$;
comment on function app.require_agent(text, text) is
    'The organisation of the calling agent, if its line of the matrix has the module at all; what '
    'it serves a contact with is narrowed further by the tool. Errors: not_allowed, '
    'organization_suspended, organization_inactive.';

create function app.contact_lead(org uuid) returns uuid
language sql
stable
security definer
set search_path = ''
as $$
    select l.id
    from public.leads as l
    where
        l.org_id = contact_lead.org and app.serves_contact()
        and contact_lead.org = app.agent_claim('agent_org_id')
        and l.id = coalesce(
            app.agent_claim('agent_contact', 'lead_id'),
            md5('agent_lead/' || app.agent_claim('agent_contact', 'session_id'))::uuid
        )
$$;
comment on function app.contact_lead(uuid) is
    'The lead an agent talks to: the one of its claims, else the one it wrote in this session. '
    'Null when it serves nobody.';

create function app.require_party(org uuid, client uuid, lead uuid) returns void
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    if client is not null and (
        not exists (
            select from public.clients as c where c.org_id = org and c.id = client
        )
        or app.serves_contact()
        and client is distinct from app.agent_claim('agent_contact', 'client_id')
    ) then
        perform app.raise_error('client_not_found', 'There is no such client.', null);
    end if;
    if lead is not null and (
        not exists (select from public.leads as l where l.org_id = org and l.id = lead)
        or app.serves_contact() and lead is distinct from app.contact_lead(org)
    ) then
        perform app.raise_error('lead_not_found', 'There is no such lead.', null);
    end if;
end;
$$;
comment on function app.require_party(uuid, uuid, uuid) is
    'Refuses a client or lead that the agent''s organisation does not have or, while the agent '
    'serves a contact, that is not this contact: both look alike. Errors: client_not_found, '
    'lead_not_found.';

create function app.account_manager(org uuid, client uuid, lead uuid) returns uuid
language sql
stable
security definer
set search_path = ''
as $$
    select m.user_id
    from (
        select 1 as place, l.owner_id as person
        from public.leads as l
        where l.org_id = account_manager.org and l.id = account_manager.lead
        union all
        (
            select 2, c.commercial_manager_id
            from public.contracts as c
            where
                c.org_id = account_manager.org and c.client_id = account_manager.client
                and c.status = 'active' and c.commercial_manager_id is not null
            order by c.starts_on desc, c.id
            limit 1
        )
        union all
        select 3, l.owner_id
        from public.clients as c
        inner join public.leads as l on l.org_id = c.org_id and l.id = c.lead_id
        where c.org_id = account_manager.org and c.id = account_manager.client
    ) as known
    inner join public.memberships as m
        on m.org_id = account_manager.org and known.person = m.user_id
    where m.role not in ('client', 'agent')
    order by known.place
    limit 1
$$;
comment on function app.account_manager(uuid, uuid, uuid) is
    'Who answers for a lead or client: the lead''s owner, the commercial manager of its latest '
    'active contract, the owner of the lead it was; null when nobody.';

-- 5. Access

alter table app.agent_tool_results enable row level security;

grant execute on function
app.base_type(oid), app.domain_schema(oid), app.type_schema(oid),
app.object_schema(text[], oid[], boolean[], jsonb), app.agent_tool_catalog(text),
app.value_problem(jsonb, oid, text), app.object_problem(jsonb, jsonb, jsonb, text),
app.tool_argument_problem(text, jsonb),
app.recall_tool_result(text, jsonb), app.keep_tool_result(text, jsonb, jsonb),
app.call_agent_tool(text, jsonb)
to authenticated, service_role;
grant execute on function
app.agent_tool_schemas(uuid, uuid), app.forget_tool_results()
to service_role;

-- 6. Reference rows

insert into app.error_keys (key, http, meaning) values
('tool_unknown', 422, 'There is no such tool.'),
('tool_arguments_invalid', 422, 'The arguments are not those the tool takes.'),
('client_not_found', 404, 'There is no such client, or the caller may not see it.');
