-- Agents: who they are, which tools they may call, what they did, and what a person has to decide.
-- Depends on: core, core_access, core_audit, events, jobs, notify, crm, contracts; at run time on
-- agent_tools.
-- Asked for by: ai design §4, Somos 2.4 "Segurança dos Agentes", RENUM sub_agents and tools.

-- 1. Tables

create table app.agent_kinds (
    kind text primary key constraint agent_kinds_kind_check
        check (kind ~ '^[a-z][a-z0-9_]{1,59}$'),
    name text not null,
    description text not null,
    instructions text not null,
    purpose text not null constraint agent_kinds_purpose_check
        check (purpose in ('reasoning', 'scoring', 'extraction', 'long_context')),
    autonomy text not null default 'approval' constraint agent_kinds_autonomy_check
        check (autonomy in ('automatic', 'approval', 'sandbox')),
    max_turns integer not null default 8
        constraint agent_kinds_max_turns_check check (max_turns between 1 and 50),
    output_schema text,
    store_function text,
    fallback text,
    constraint agent_kinds_store_check check (store_function is null or output_schema is not null)
);
comment on table app.agent_kinds is
    '[ai] Kinds of agents that ship: an organisation has one of a kind as soon as it runs it.';
comment on column app.agent_kinds.name is 'Name shown to people, pt-BR.';
comment on column app.agent_kinds.description is 'What it is for, pt-BR.';
comment on column app.agent_kinds.instructions is 'What the model is told, pt-BR.';
comment on column app.agent_kinds.purpose is 'Route of the model gateway.';
comment on column app.agent_kinds.output_schema is
    'Name in nessos.ai.outputs of what it must answer with; null = text.';
comment on column app.agent_kinds.store_function is
    'Function of schema app (org uuid, run uuid, output jsonb) that stores the answer in the '
    'transaction that completes the run; null = only the run keeps it.';
comment on column app.agent_kinds.fallback is
    'What it answers when it cannot think, for want of budget or of a provider; pt-BR.';

create table app.agent_kind_grants (
    kind text not null references app.agent_kinds (kind),
    tool text not null,
    mode text not null constraint agent_kind_grants_mode_check
        check (mode in ('automatic', 'approval', 'denied')),
    daily_limit integer
        constraint agent_kind_grants_daily_limit_check check (daily_limit > 0),
    threshold_argument text,
    threshold_amount numeric(14, 2),
    primary key (kind, tool),
    constraint agent_kind_grants_threshold_check
        check ((threshold_argument is null) = (threshold_amount is null))
);
comment on table app.agent_kind_grants is
    '[ai] Tools each shipped kind may call where an organisation has no line of its own in '
    'agent_tool_grants; columns as there.';

create table public.agents (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    key text not null
        constraint agents_key_check check (key ~ '^[a-z][a-z0-9_-]{1,59}$'),
    kind text not null references app.agent_kinds (kind),
    name text not null
        constraint agents_name_check check (length(btrim(name)) between 2 and 120),
    parent_id uuid,
    instructions text
        constraint agents_instructions_check check (length(instructions) between 1 and 20000),
    purpose text constraint agents_purpose_check
        check (purpose in ('reasoning', 'scoring', 'extraction', 'long_context')),
    autonomy text not null constraint agents_autonomy_check
        check (autonomy in ('automatic', 'approval', 'sandbox')),
    max_turns integer not null
        constraint agents_max_turns_check check (max_turns between 1 and 50),
    daily_token_limit integer not null default 200000
        constraint agents_daily_token_limit_check check (daily_token_limit >= 0),
    config jsonb not null default '{}',
    is_active boolean not null default true,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, key),
    foreign key (org_id, parent_id) references public.agents (org_id, id),
    constraint agents_parent_check check (parent_id <> id)
);
comment on table public.agents is
    '[ai] The agents of an organisation. What is left out on insert is taken from the kind.';
comment on column public.agents.key is 'Name by which it is run; default: the kind.';
comment on column public.agents.parent_id is
    'The agent it answers to; for people''s overview only.';
comment on column public.agents.instructions is 'Instead of the kind''s; null = the kind''s.';
comment on column public.agents.purpose is 'Route of the model gateway; null = the kind''s.';
comment on column public.agents.autonomy is
    'automatic: acts as its grants say; approval: a person decides on every call that writes; '
    'sandbox: what would reach somebody outside is recorded, not done.';
comment on column public.agents.max_turns is 'Answers of the model in one run.';
comment on column public.agents.daily_token_limit is
    'Tokens per day of the organisation''s time zone; no turn begins beyond it.';
comment on column public.agents.config is
    'max_output_tokens (64 to 16384, default 1024): length of an answer; max_minutes (1 to 14, '
    'default 10): how long a run may work, waiting for people not counted.';
create index agents_kind_idx on public.agents (kind);
create index agents_parent_id_idx on public.agents (org_id, parent_id);

create table public.agent_tool_grants (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    agent_id uuid,
    kind text references app.agent_kinds (kind),
    tool text not null,
    mode text not null constraint agent_tool_grants_mode_check
        check (mode in ('automatic', 'approval', 'denied')),
    daily_limit integer
        constraint agent_tool_grants_daily_limit_check check (daily_limit > 0),
    threshold_argument text,
    threshold_amount numeric(14, 2),
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, agent_id, tool),
    unique (org_id, kind, tool),
    foreign key (org_id, agent_id) references public.agents (org_id, id) on delete cascade,
    constraint agent_tool_grants_holder_check check (num_nonnulls(agent_id, kind) = 1),
    constraint agent_tool_grants_threshold_check
        check ((threshold_argument is null) = (threshold_amount is null))
);
comment on table public.agent_tool_grants is
    '[ai] Which tools an agent, or every agent of a kind, may call. The agent''s line counts '
    'before the kind''s, that before the shipped one; without any the tool is denied.';
comment on column public.agent_tool_grants.mode is
    'automatic; approval: a person decides on each call; denied.';
comment on column public.agent_tool_grants.daily_limit is
    'Calls per agent and day of the organisation''s time zone; null = no limit.';
comment on column public.agent_tool_grants.threshold_argument is
    'A number among the tool''s arguments: above threshold_amount, or missing, a person decides.';
comment on column public.agent_tool_grants.threshold_amount is
    'In the unit of the argument, BRL for money.';
create index agent_tool_grants_kind_idx on public.agent_tool_grants (kind);

create table public.agent_runs (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    agent_id uuid not null,
    input jsonb not null
        constraint agent_runs_input_check
            check (jsonb_typeof(input) = 'object' and length(input::text) <= 100000),
    contact jsonb,
    idempotency_key text
        constraint agent_runs_idempotency_key_check
            check (length(idempotency_key) between 1 and 200),
    causation_id uuid,
    status text not null default 'queued' constraint agent_runs_status_check
        check (status in ('queued', 'running', 'waiting', 'completed', 'degraded', 'failed')),
    reason text constraint agent_runs_reason_check
        check (reason in (
            'budget', 'tokens', 'no_provider', 'turns', 'time', 'loop', 'output', 'length',
            'refused', 'inactive', 'stalled'
        )),
    detail text constraint agent_runs_detail_check check (length(detail) <= 1000),
    answer text,
    output jsonb,
    turns integer not null default 0,
    prompt_tokens bigint not null default 0,
    completion_tokens bigint not null default 0,
    cost_brl numeric(14, 6) not null default 0,
    worked_ms bigint not null default 0,
    started_at timestamptz,
    finished_at timestamptz,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, idempotency_key),
    foreign key (org_id, agent_id) references public.agents (org_id, id),
    constraint agent_runs_reason_status_check
        check ((status in ('degraded', 'failed')) = (reason is not null)),
    constraint agent_runs_finished_check
        check ((status in ('completed', 'degraded', 'failed')) = (finished_at is not null))
);
comment on table public.agent_runs is
    '[ai] Each time an agent was asked to do something. Its job can die at any point: the next one '
    'goes on from the steps that are stored.';
comment on column public.agent_runs.input is '[pii] What it was given, as data.';
comment on column public.agent_runs.contact is
    '[pii] client_id, lead_id, session_id of whom it serves, to whose rows it is limited; null = '
    'it works for the organisation.';
comment on column public.agent_runs.causation_id is 'Event that caused it; null = a person.';
comment on column public.agent_runs.status is
    'queued → running ⇄ waiting (for a person) → completed, degraded (it could not think and gave '
    'its kind''s fallback) or failed.';
comment on column public.agent_runs.reason is 'Why it ended without a result of its own.';
comment on column public.agent_runs.detail is '[pii] The reason in words.';
comment on column public.agent_runs.answer is '[pii] The text it ended with.';
comment on column public.agent_runs.output is '[pii] The answer as its kind''s output_schema.';
comment on column public.agent_runs.cost_brl is 'BRL, sum of the turns.';
comment on column public.agent_runs.worked_ms is 'Milliseconds of work, without waiting.';
comment on column public.agent_runs.created_by is
    'Person who asked for it, and who cannot approve its calls; null = the system.';
create index agent_runs_agent_id_idx on public.agent_runs (org_id, agent_id, created_at desc);
create index agent_runs_created_at_idx on public.agent_runs (org_id, created_at desc);
create index agent_runs_open_idx on public.agent_runs (updated_at)
where status in ('queued', 'running');

create table public.agent_steps (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    run_id uuid not null,
    agent_id uuid not null,
    ordinal integer not null,
    kind text not null
        constraint agent_steps_kind_check check (kind in ('turn', 'call', 'message')),
    content text,
    tool_calls jsonb not null default '[]',
    finish text,
    model text,
    ai_call_id uuid,
    prompt_tokens integer not null default 0,
    completion_tokens integer not null default 0,
    cost_brl numeric(14, 6) not null default 0,
    turn integer,
    call_index integer,
    tool text,
    arguments jsonb,
    outcome text constraint agent_steps_outcome_check
        check (outcome in (
            'done', 'refused', 'failed', 'invalid', 'denied', 'limited', 'simulated', 'rejected',
            'expired', 'skipped'
        )),
    duration_ms integer not null default 0,
    created_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, run_id, ordinal),
    unique (org_id, run_id, turn, call_index),
    foreign key (org_id, run_id) references public.agent_runs (org_id, id) on delete cascade,
    foreign key (org_id, agent_id) references public.agents (org_id, id),
    constraint agent_steps_call_check
        check ((kind = 'call') = (num_nulls(turn, call_index, tool, arguments, outcome) = 0))
);
comment on table public.agent_steps is
    '[ai] What happened in a run, in order: turn (the model answered), call (what came of one tool '
    'call), message (we asked it to correct its answer). Append only.';
comment on column public.agent_steps.content is
    '[pii] turn: what the model said; call: the result as the model gets it, cut at 8,000 '
    'characters; message: what it was told.';
comment on column public.agent_steps.tool_calls is
    '[pii] turn: the calls it asked for: id, name, arguments as the model wrote them.';
comment on column public.agent_steps.ai_call_id is 'Row of the gateway''s ledger ai_calls.';
comment on column public.agent_steps.turn is 'call: ordinal of the turn it belongs to.';
comment on column public.agent_steps.call_index is 'call: its place in the turn, from 0.';
comment on column public.agent_steps.arguments is
    '[pii] call: an object, or the model''s words as a string where they are none.';
comment on column public.agent_steps.outcome is
    'done; refused by a rule of the database; failed; invalid: no such tool, or arguments that are '
    'no JSON object; denied: no grant; limited: daily_limit; simulated in the sandbox; rejected by '
    'a person; expired: nobody decided; skipped: the run ended before.';
create index agent_steps_agent_id_idx on public.agent_steps (org_id, agent_id, created_at);

create table public.agent_approvals (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    run_id uuid not null,
    agent_id uuid not null,
    turn integer not null,
    call_index integer not null,
    tool text not null,
    module text not null,
    arguments jsonb not null,
    cause text not null constraint agent_approvals_cause_check
        check (cause in ('autonomy', 'grant', 'threshold')),
    status text not null default 'pending' constraint agent_approvals_status_check
        check (status in ('pending', 'approved', 'refused', 'expired')),
    requested_by uuid,
    expires_at timestamptz not null,
    decided_at timestamptz,
    decided_by uuid,
    decision_reason text
        constraint agent_approvals_decision_reason_check check (length(decision_reason) <= 1000),
    created_at timestamptz not null default app.now(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, run_id, turn, call_index),
    foreign key (org_id, run_id) references public.agent_runs (org_id, id) on delete cascade,
    foreign key (org_id, agent_id) references public.agents (org_id, id),
    constraint agent_approvals_decided_check
        check ((status = 'pending') = (decided_at is null))
);
comment on table public.agent_approvals is
    '[ai] Tool calls that wait for a person who writes the tool''s module, or waited. Exactly the '
    'stored call is done, once.';
comment on column public.agent_approvals.turn is 'Ordinal of the step it belongs to.';
comment on column public.agent_approvals.call_index is 'Its place in the turn, from 0.';
comment on column public.agent_approvals.arguments is '[pii] What the tool is called with.';
comment on column public.agent_approvals.cause is
    'Why a person decides: the agent''s autonomy, the grant''s mode, or its threshold.';
comment on column public.agent_approvals.requested_by is
    'Person who started the run, and so cannot decide; null = the system.';
comment on column public.agent_approvals.decided_by is
    'Null while pending, when expired, or when an operator decided at the database.';
comment on column public.agent_approvals.decision_reason is
    '[pii] What the person said; the model is told.';
create index agent_approvals_agent_id_idx on public.agent_approvals (org_id, agent_id);
create index agent_approvals_pending_idx on public.agent_approvals (expires_at)
where status = 'pending';
create index agent_approvals_status_idx
on public.agent_approvals (org_id, status, created_at desc);

-- 2. Functions: agents and grants

create function app.prepare_agent() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_kind app.agent_kinds;
begin
    select * into v_kind from app.agent_kinds as k where k.kind = new.kind;
    new.key := coalesce(new.key, v_kind.kind);
    new.name := coalesce(new.name, v_kind.name);
    new.autonomy := coalesce(new.autonomy, v_kind.autonomy);
    new.max_turns := coalesce(new.max_turns, v_kind.max_turns);
    return new;
end;
$$;
comment on function app.prepare_agent() is
    'Trigger: what a new agent does not say is taken from its kind.';

create function app.guard_agent() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_key text;
    v_value jsonb;
    v_is_right boolean;
begin
    if jsonb_typeof(new.config) <> 'object' then
        perform app.raise_error('agent_config_invalid', 'config is a JSON object.', null);
    end if;
    for v_key, v_value in select * from jsonb_each(new.config) loop
        v_is_right := case
            when jsonb_typeof(v_value) <> 'number' then false
            when v_value::numeric <> trunc(v_value::numeric) then false
            when v_key = 'max_output_tokens' then v_value::numeric between 64 and 16384
            when v_key = 'max_minutes' then v_value::numeric between 1 and 14
            else false
        end;
        if not v_is_right then
            perform app.raise_error(
                'agent_config_invalid',
                format('config does not take %s = %s.', left(v_key, 60), left(v_value::text, 60)),
                'max_output_tokens from 64 to 16384, max_minutes from 1 to 14, whole numbers.'
            );
        end if;
    end loop;
    if new.parent_id is not null and exists (
        with recursive above as (
            select a.id, a.parent_id from public.agents as a
            where a.org_id = new.org_id and a.id = new.parent_id
            union
            select a.id, a.parent_id from public.agents as a
            inner join above as b on b.parent_id = a.id
            where a.org_id = new.org_id
        )

        select from above where above.id = new.id
    ) then
        perform app.raise_error(
            'agent_parent_invalid', 'An agent cannot answer to one that answers to it.', null
        );
    end if;
    return new;
end;
$$;
comment on function app.guard_agent() is
    'Trigger: config takes two keys within bounds; agents do not answer to each other in a circle.';

create function app.guard_agent_grant() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_arguments text[];
begin
    -- One function per tool, so that its name is enough.
    select p.proargnames into v_arguments
    from pg_catalog.pg_proc as p
    inner join pg_catalog.pg_namespace as n on n.oid = p.pronamespace
    where n.nspname = 'agent_tools' and p.proname = new.tool;
    if not found then
        perform app.raise_error(
            'agent_grant_invalid', format('%s is not a tool.', left(new.tool, 60)),
            'Tools are the functions of schema agent_tools.'
        );
    elsif
        new.threshold_argument is not null
        and new.threshold_argument <> all (coalesce(v_arguments, '{}'))
    then
        perform app.raise_error(
            'agent_grant_invalid',
            format('%s has no argument %s.', new.tool, left(new.threshold_argument, 60)), null
        );
    end if;
    return new;
end;
$$;
comment on function app.guard_agent_grant() is
    'Trigger: a grant names a tool that exists, and a threshold one of its arguments.';

create function app.agent_grant(org uuid, agent uuid, tool text) returns app.agent_kind_grants
language sql
stable
security definer
set search_path = ''
as $$
    select (g.kind, g.tool, g.mode, g.daily_limit, g.threshold_argument, g.threshold_amount)
        ::app.agent_kind_grants
    from public.agents as a
    cross join lateral (
        select
            1 as place, a.kind, t.tool, t.mode, t.daily_limit, t.threshold_argument,
            t.threshold_amount
        from public.agent_tool_grants as t
        where t.org_id = a.org_id and t.agent_id = a.id and t.tool = agent_grant.tool
        union all
        select 2, t.kind, t.tool, t.mode, t.daily_limit, t.threshold_argument, t.threshold_amount
        from public.agent_tool_grants as t
        where t.org_id = a.org_id and t.kind = a.kind and t.tool = agent_grant.tool
        union all
        select 3, t.kind, t.tool, t.mode, t.daily_limit, t.threshold_argument, t.threshold_amount
        from app.agent_kind_grants as t
        where t.kind = a.kind and t.tool = agent_grant.tool
    ) as g
    where a.org_id = agent_grant.org and a.id = agent_grant.agent
    order by g.place
    limit 1
$$;
comment on function app.agent_grant(uuid, uuid, text) is
    'The line that counts for an agent and a tool: its own, else its kind''s in the organisation, '
    'else the shipped one. Null: denied.';

create function app.agent_tools(org uuid, agent uuid)
returns table (
    tool text, description text, parameters jsonb, module text, mode text, is_writing boolean,
    is_outward boolean
)
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    return query
    select
        s.tool, s.description, s.parameters, s.module, g.mode, c.is_writing, s.is_outward
    from app.agent_tool_schemas(agent_tools.org, agent_tools.agent) as s
    inner join app.agent_tool_catalog() as c on c.tool = s.tool
    cross join lateral app.agent_grant(agent_tools.org, agent_tools.agent, s.tool) as g
    order by s.tool;
end;
$$;
comment on function app.agent_tools(uuid, uuid) is
    'Every tool as it is for an agent; mode is null or denied where it may not call it.';

create function public.list_agent_kinds()
returns table (kind text, name text, description text, purpose text, autonomy text)
language sql
stable
set search_path = ''
as $$
    select k.kind, k.name, k.description, k.purpose, k.autonomy from app.agent_kinds as k
    order by k.name
$$;
comment on function public.list_agent_kinds() is
    'Kinds of agents an organisation can have; running one by its kind makes it.';

create function app.agent_for(org uuid, agent_key text) returns public.agents
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_agent public.agents;
begin
    insert into public.agents (org_id, kind)
    select agent_for.org, k.kind from app.agent_kinds as k
    where
        k.kind = agent_for.agent_key
        and not exists (
            select from public.agents as a
            where a.org_id = agent_for.org and a.key = agent_for.agent_key
        )
    on conflict (org_id, key) do nothing;
    select * into v_agent from public.agents as a
    where a.org_id = agent_for.org and a.key = agent_for.agent_key;
    if not found then
        perform app.raise_error(
            'agent_not_found', format('There is no agent %s.', left(agent_for.agent_key, 60)),
            'See public.agents and list_agent_kinds.'
        );
    end if;
    return v_agent;
end;
$$;
comment on function app.agent_for(uuid, text) is
    'The organisation''s agent with this key; a shipped kind''s is made when first asked for. '
    'Errors: agent_not_found.';

-- 2. Functions: starting

create function app.check_agent_contact(org uuid, contact jsonb) returns void
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
    v_problem text;
begin
    if contact is null then
        return;
    elsif jsonb_typeof(contact) <> 'object' then
        v_problem := 'A contact is a JSON object.';
    elsif exists (
        select from jsonb_each(contact) as c
        where c.key not in ('client_id', 'lead_id', 'session_id')
            or jsonb_typeof(c.value) <> 'null'
            and not coalesce(pg_catalog.pg_input_is_valid(c.value #>> '{}', 'uuid'), false)
    ) then
        v_problem := 'A contact holds client_id, lead_id and session_id, each a uuid or null.';
    elsif contact ->> 'client_id' is not null and not exists (
        select from public.clients as c
        where c.org_id = check_agent_contact.org and c.id = (contact ->> 'client_id')::uuid
    ) then
        v_problem := 'The client is not one of the organisation.';
    elsif contact ->> 'lead_id' is not null and not exists (
        select from public.leads as l
        where l.org_id = check_agent_contact.org and l.id = (contact ->> 'lead_id')::uuid
    ) then
        v_problem := 'The lead is not one of the organisation.';
    end if;
    if v_problem is not null then
        perform app.raise_error('agent_contact_invalid', v_problem, null);
    end if;
end;
$$;
comment on function app.check_agent_contact(uuid, jsonb) is
    'Raises agent_contact_invalid unless a contact is of the organisation, or nobody known.';

create function app.start_agent_run(
    org uuid,
    agent_key text,
    input jsonb,
    contact jsonb default null,
    idempotency_key text default null
) returns uuid
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_agent public.agents := app.agent_for(org, agent_key);
    v_causation text := nullif(current_setting('app.causation_id', true), '');
    v_run uuid;
begin
    if not v_agent.is_active then
        perform app.raise_error(
            'agent_inactive', format('The agent %s is switched off.', v_agent.key),
            'Set is_active of the agent.'
        );
    end if;
    if jsonb_typeof(start_agent_run.input) is distinct from 'object'
        or length(start_agent_run.input::text) > 100000
        or length(start_agent_run.idempotency_key) not between 1 and 200 then
        perform app.raise_error(
            'bad_input',
            'The input of a run is a JSON object of at most 100,000 characters, its idempotency '
            'key a text of at most 200.', null
        );
    end if;
    perform app.check_agent_contact(org, start_agent_run.contact);
    insert into public.agent_runs (
        org_id, agent_id, input, contact, idempotency_key, causation_id
    ) values (
        org, v_agent.id, start_agent_run.input, start_agent_run.contact,
        start_agent_run.idempotency_key, v_causation::uuid
    )
    on conflict (org_id, idempotency_key) do nothing
    returning id into v_run;
    if v_run is null then
        select r.id into v_run from public.agent_runs as r
        where r.org_id = org and r.idempotency_key = start_agent_run.idempotency_key;
        return v_run;
    end if;
    perform app.enqueue_agent_run(org, v_run, v_causation);
    return v_run;
end;
$$;
comment on function app.start_agent_run(uuid, text, jsonb, jsonb, text) is
    'Has an agent do something, in a job of the caller''s transaction. The same idempotency key '
    'starts one run. Returns its id. Errors: agent_not_found, agent_inactive, '
    'agent_contact_invalid, bad_input.';

create function app.enqueue_agent_run(org uuid, run uuid, causation text) returns void
language sql
security definer
set search_path = ''
as $$
    -- No dedupe key: a run is resumed while the job that made it wait may not have ended yet. And
    -- run_id in a payload is a run of the timetable.
    select app.enqueue(
        'agent.run',
        jsonb_strip_nulls(jsonb_build_object('agent_run_id', run, 'event_id', causation)),
        org
    )
$$;
comment on function app.enqueue_agent_run(uuid, uuid, text) is
    'Has a worker go on with a run. Two jobs of one run do no harm: what each stores is compared '
    'and set.';

create function app.run_agent(
    org uuid, agent_key text, input jsonb, contact jsonb, idempotency_key text
) returns uuid
language plpgsql
security definer
set search_path = ''
as $$
begin
    perform app.require_access(run_agent.org, 'ai', 'write');
    return app.start_agent_run(
        run_agent.org, run_agent.agent_key, run_agent.input, run_agent.contact,
        run_agent.idempotency_key
    );
end;
$$;
comment on function app.run_agent(uuid, text, jsonb, jsonb, text) is 'Body of public.run_agent.';

create function public.run_agent(
    org uuid,
    agent_key text,
    input jsonb,
    contact jsonb default null,
    idempotency_key text default null
) returns uuid
language sql
set search_path = ''
as $$ select app.run_agent(org, agent_key, input, contact, idempotency_key) $$;
comment on function public.run_agent(uuid, text, jsonb, jsonb, text) is
    'Has an agent of the organisation, by its key or its kind, do something; follow the run in '
    'agent_runs. contact limits it to a client''s rows. Who writes ai. Errors: not_allowed, '
    'agent_not_found, agent_inactive, agent_contact_invalid, bad_input.';

-- 2. Functions: running. Each locks the run, and does nothing when another job has gone on with it.

create function app.locked_agent_run(org uuid, run uuid) returns public.agent_runs
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_run public.agent_runs;
begin
    select * into v_run from public.agent_runs as r
    where r.org_id = locked_agent_run.org and r.id = locked_agent_run.run
    for no key update;
    if not found then
        perform app.raise_error('agent_run_not_found', 'There is no such run.', null);
    end if;
    return v_run;
end;
$$;
comment on function app.locked_agent_run(uuid, uuid) is
    'A run, locked to the end of the transaction. Errors: agent_run_not_found.';

create function app.last_agent_step(org uuid, run uuid) returns integer
language sql
stable
security definer
set search_path = ''
as $$
    select coalesce(max(s.ordinal), 0) from public.agent_steps as s
    where s.org_id = last_agent_step.org and s.run_id = last_agent_step.run
$$;
comment on function app.last_agent_step(uuid, uuid) is 'Ordinal of a run''s last step; 0 = none.';

create function app.agent_day_start(org uuid) returns timestamptz
language sql
stable
set search_path = ''
as $$ select app.org_today(org)::timestamp at time zone app.org_time_zone(org) $$;
comment on function app.agent_day_start(uuid) is
    'When the day that daily limits count began in the organisation''s time zone.';

create function app.next_agent_step(org uuid, run uuid) returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_run public.agent_runs := app.locked_agent_run(org, run);
    v_agent public.agents;
    v_kind app.agent_kinds;
    v_last integer := app.last_agent_step(org, run);
    v_turn public.agent_steps;
    v_index integer;
    v_reason text;
begin
    if v_run.status not in ('queued', 'running') then
        return jsonb_build_object('do', 'rest', 'status', v_run.status, 'reason', v_run.reason);
    end if;
    select * into v_agent from public.agents as a
    where a.org_id = next_agent_step.org and a.id = v_run.agent_id;
    select * into v_kind from app.agent_kinds as k where k.kind = v_agent.kind;
    if v_run.status = 'queued' then
        update public.agent_runs as r set status = 'running', started_at = app.now()
        where r.org_id = next_agent_step.org and r.id = next_agent_step.run;
    end if;
    v_reason := case
        when not v_agent.is_active or not exists (
            select from public.organizations as o
            where o.id = next_agent_step.org and o.status = 'active'
        ) then 'inactive'
        when v_run.worked_ms >= 60000 * coalesce((v_agent.config ->> 'max_minutes')::integer, 10)
            then 'time'
    end;
    select * into v_turn from public.agent_steps as s
    where s.org_id = next_agent_step.org and s.run_id = next_agent_step.run and s.kind = 'turn'
    order by s.ordinal desc limit 1;
    if found and v_reason is null then
        select min(c.place) into v_index
        from generate_series(0, jsonb_array_length(v_turn.tool_calls) - 1) as c (place)
        where not exists (
            select from public.agent_steps as s
            where s.org_id = next_agent_step.org and s.run_id = next_agent_step.run
                and s.turn = v_turn.ordinal and s.call_index = c.place
        );
        if v_index is not null then
            return jsonb_build_object('do', 'call', 'turn', v_turn.ordinal, 'call_index', v_index);
        elsif v_turn.ordinal = v_last then
            v_reason := case
                when v_turn.finish in ('refusal', 'content_filter') then 'refused'
                when v_turn.finish = 'length' then 'length'
            end;
            if v_reason is null then
                return jsonb_build_object(
                    'do', 'finish', 'after', v_last, 'text', v_turn.content,
                    'output_schema', v_kind.output_schema,
                    'is_repaired', exists (
                        select from public.agent_steps as s
                        where s.org_id = next_agent_step.org and s.run_id = next_agent_step.run
                            and s.kind = 'message'
                    )
                );
            end if;
        end if;
    end if;
    v_reason := coalesce(v_reason, case
        when v_run.turns >= v_agent.max_turns then 'turns'
        when (
            select coalesce(sum(s.prompt_tokens + s.completion_tokens), 0)
            from public.agent_steps as s
            where s.org_id = next_agent_step.org and s.agent_id = v_agent.id
                and s.created_at >= app.agent_day_start(next_agent_step.org)
        ) >= v_agent.daily_token_limit then 'tokens'
    end);
    if v_reason is not null then
        perform app.end_agent_run(org, run, v_reason);
        return jsonb_build_object('do', 'rest', 'status', 'ended', 'reason', v_reason);
    end if;
    return jsonb_build_object(
        'do', 'think', 'after', v_last, 'agent_id', v_agent.id,
        'purpose', coalesce(v_agent.purpose, v_kind.purpose),
        'instructions', coalesce(v_agent.instructions, v_kind.instructions),
        'max_tokens', coalesce((v_agent.config ->> 'max_output_tokens')::integer, 1024),
        'output_schema', v_kind.output_schema,
        'organization', (
            select o.name from public.organizations as o where o.id = next_agent_step.org
        ),
        'today', app.org_today(org),
        'input', v_run.input,
        'tools', (
            select coalesce(
                jsonb_agg(jsonb_build_object(
                    'tool', t.tool, 'description', t.description, 'parameters', t.parameters
                ) order by t.tool), '[]'
            )
            from app.agent_tools(next_agent_step.org, v_agent.id) as t
            where t.mode in ('automatic', 'approval')
        ),
        'steps', (
            select coalesce(
                jsonb_agg(jsonb_build_object(
                    'ordinal', s.ordinal, 'kind', s.kind, 'content', s.content,
                    'tool_calls', s.tool_calls, 'turn', s.turn, 'call_index', s.call_index
                ) order by s.ordinal), '[]'
            )
            from public.agent_steps as s
            where s.org_id = next_agent_step.org and s.run_id = next_agent_step.run
        )
    );
end;
$$;
comment on function app.next_agent_step(uuid, uuid) is
    'What the worker does next: think (with all the model is to see), call (a tool), finish (judge '
    'the answer) or rest. Ends a run that has reached a limit. Errors: agent_run_not_found.';

create function app.store_agent_turn(org uuid, run uuid, after integer, turn jsonb)
returns boolean
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_run public.agent_runs := app.locked_agent_run(org, run);
begin
    if v_run.status <> 'running' or app.last_agent_step(org, run) <> after then
        return false;
    end if;
    insert into public.agent_steps (
        org_id, run_id, agent_id, ordinal, kind, content, tool_calls, finish, model, ai_call_id,
        prompt_tokens, completion_tokens, cost_brl, duration_ms
    )
    select
        store_agent_turn.org, store_agent_turn.run, v_run.agent_id, after + 1, 'turn', t.content,
        t.tool_calls, t.finish, t.model, t.ai_call_id, t.prompt_tokens, t.completion_tokens,
        t.cost_brl, t.duration_ms
    from jsonb_to_record(store_agent_turn.turn) as t (
        content text, tool_calls jsonb, finish text, model text, ai_call_id uuid,
        prompt_tokens integer, completion_tokens integer, cost_brl numeric, duration_ms integer
    );
    update public.agent_runs as r
    set
        turns = r.turns + 1,
        prompt_tokens = r.prompt_tokens + (turn ->> 'prompt_tokens')::integer,
        completion_tokens = r.completion_tokens + (turn ->> 'completion_tokens')::integer,
        cost_brl = r.cost_brl + (turn ->> 'cost_brl')::numeric,
        worked_ms = r.worked_ms + (turn ->> 'duration_ms')::integer
    where r.org_id = store_agent_turn.org and r.id = store_agent_turn.run;
    return true;
end;
$$;
comment on function app.store_agent_turn(uuid, uuid, integer, jsonb) is
    'Keeps what the model answered, before anything is made of it. False: another job was faster.';

create function app.store_agent_message(org uuid, run uuid, after integer, content text)
returns boolean
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_run public.agent_runs := app.locked_agent_run(org, run);
begin
    if v_run.status <> 'running' or app.last_agent_step(org, run) <> after then
        return false;
    end if;
    insert into public.agent_steps (org_id, run_id, agent_id, ordinal, kind, content)
    values (
        store_agent_message.org, store_agent_message.run, v_run.agent_id, after + 1, 'message',
        left(store_agent_message.content, 8000)
    );
    return true;
end;
$$;
comment on function app.store_agent_message(uuid, uuid, integer, text) is
    'Tells the model something in its next turn: what is wrong with its answer. False: another job '
    'was faster.';

create function app.answer_agent_call(
    org uuid, run uuid, turn integer, call_index integer, outcome text, result jsonb,
    duration_ms integer default 0
) returns void
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_run public.agent_runs := app.locked_agent_run(org, run);
    v_call jsonb;
    v_result text := coalesce(result::text, 'null');
begin
    select s.tool_calls -> answer_agent_call.call_index into v_call
    from public.agent_steps as s
    where s.org_id = answer_agent_call.org and s.run_id = answer_agent_call.run
        and s.ordinal = answer_agent_call.turn;
    insert into public.agent_steps (
        org_id, run_id, agent_id, ordinal, kind, turn, call_index, tool, arguments, outcome,
        content, duration_ms
    ) values (
        answer_agent_call.org, answer_agent_call.run, v_run.agent_id,
        app.last_agent_step(org, run) + 1, 'call', answer_agent_call.turn,
        answer_agent_call.call_index, coalesce(v_call ->> 'name', ''),
        app.agent_call_arguments(v_call), answer_agent_call.outcome,
        case
            when length(v_result) > 8000 then format(
                '%s … [cut: %s of %s characters]', left(v_result, 8000), 8000, length(v_result)
            )
            else v_result
        end,
        answer_agent_call.duration_ms
    );
    update public.agent_runs as r
    set worked_ms = r.worked_ms + answer_agent_call.duration_ms
    where r.org_id = answer_agent_call.org and r.id = answer_agent_call.run;
end;
$$;
comment on function app.answer_agent_call(
    uuid, uuid, integer, integer, text, jsonb, integer
) is
    'Keeps what came of a tool call, in the transaction of its effect; the model gets at most '
    '8,000 characters of it.';

create function app.agent_call_arguments(call jsonb) returns jsonb
language plpgsql
immutable
set search_path = ''
as $$
declare
    v_words text := coalesce(nullif(btrim(call ->> 'arguments'), ''), '{}');
begin
    if length(v_words) <= 50000 and pg_catalog.pg_input_is_valid(v_words, 'jsonb')
        and jsonb_typeof(v_words::jsonb) = 'object' then
        return v_words::jsonb;
    end if;
    return to_jsonb(left(v_words, 2000));
end;
$$;
comment on function app.agent_call_arguments(jsonb) is
    'Arguments of a call as the model wrote them: an object, or a string where they are none.';

create function app.open_agent_call(org uuid, run uuid, turn integer, call_index integer)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_run public.agent_runs := app.locked_agent_run(org, run);
    v_agent public.agents;
    v_call jsonb;
    v_name text;
    v_arguments jsonb;
    v_tool record;
    v_grant app.agent_kind_grants;
    v_approval public.agent_approvals;
    v_threshold jsonb;
    v_outcome text;
    v_error text;
    v_message text;
    v_cause text;
begin
    if v_run.status <> 'running' or exists (
        select from public.agent_steps as s
        where s.org_id = open_agent_call.org and s.run_id = open_agent_call.run
            and s.turn = open_agent_call.turn and s.call_index = open_agent_call.call_index
    ) then
        return jsonb_build_object('verdict', 'answered');
    end if;
    select * into v_agent from public.agents as a
    where a.org_id = open_agent_call.org and a.id = v_run.agent_id;
    select s.tool_calls -> open_agent_call.call_index into v_call from public.agent_steps as s
    where s.org_id = open_agent_call.org and s.run_id = open_agent_call.run
        and s.ordinal = open_agent_call.turn;
    v_name := v_call ->> 'name';
    v_arguments := app.agent_call_arguments(v_call);
    if (
        select count(*) from public.agent_steps as s
        where s.org_id = open_agent_call.org and s.run_id = open_agent_call.run
            and s.kind = 'call' and s.tool = v_name and s.arguments = v_arguments
    ) >= 2 then
        perform app.end_agent_run(
            org, run, 'loop', format('%s was called for the third time with the same arguments.',
                left(v_name, 60))
        );
        return jsonb_build_object('verdict', 'answered');
    end if;
    select * into v_tool from app.agent_tools(open_agent_call.org, v_agent.id) as t
    where t.tool = v_name;
    v_grant := app.agent_grant(org, v_agent.id, v_name);
    select * into v_approval from public.agent_approvals as p
    where p.org_id = open_agent_call.org and p.run_id = open_agent_call.run
        and p.turn = open_agent_call.turn and p.call_index = open_agent_call.call_index;
    if v_tool.tool is null then
        v_outcome := 'invalid';
        v_error := 'tool_unknown';
        v_message := 'There is no such tool. Use only the tools you were given.';
    elsif v_grant.mode is null or v_grant.mode = 'denied' then
        v_outcome := 'denied';
        v_error := 'tool_denied';
        v_message := 'You may not use this tool.';
    elsif jsonb_typeof(v_arguments) <> 'object' then
        v_outcome := 'invalid';
        v_error := 'tool_arguments_invalid';
        v_message := 'The arguments are not a JSON object.';
    elsif v_approval.status = 'refused' then
        v_outcome := 'rejected';
        v_error := 'refused_by_person';
        v_message := coalesce(v_approval.decision_reason, 'A person refused this call.');
    elsif v_approval.status = 'expired' then
        v_outcome := 'expired';
        v_error := 'approval_expired';
        v_message := 'Nobody approved this call in time. Do not repeat it.';
    elsif v_agent.autonomy = 'sandbox' and v_tool.is_outward then
        perform app.answer_agent_call(
            org, run, turn, call_index, 'simulated', jsonb_build_object('simulated', true)
        );
        return jsonb_build_object('verdict', 'answered');
    end if;
    if v_outcome is null and v_grant.daily_limit is not null then
        -- Runs of one agent count one after the other.
        perform pg_advisory_xact_lock(
            hashtextextended('agent_tool/' || v_agent.id || '/' || v_name, 0)
        );
        if (
            select count(*) from public.agent_steps as s
            where s.org_id = open_agent_call.org and s.agent_id = v_agent.id
                and s.tool = v_name and s.outcome = 'done'
                and s.created_at >= app.agent_day_start(open_agent_call.org)
        ) >= v_grant.daily_limit then
            v_outcome := 'limited';
            v_error := 'tool_limit_reached';
            v_message := 'This tool was used as often as it may be today.';
        end if;
    end if;
    if v_outcome is not null then
        perform app.answer_agent_call(
            org, run, turn, call_index, v_outcome,
            jsonb_build_object('error', v_error, 'message', v_message)
        );
        return jsonb_build_object('verdict', 'answered');
    end if;
    v_threshold := v_arguments -> v_grant.threshold_argument;
    v_cause := case
        when v_approval.status = 'approved' then null
        when v_grant.mode = 'approval' then 'grant'
        when v_agent.autonomy = 'approval' and v_tool.is_writing then 'autonomy'
        when v_grant.threshold_argument is null then null
        when jsonb_typeof(v_threshold) is distinct from 'number' then 'threshold'
        when v_threshold::numeric > v_grant.threshold_amount then 'threshold'
    end;
    -- Nobody is asked to approve what cannot be done.
    v_message := case
        when v_cause is not null then app.tool_argument_problem(v_name, v_arguments)
    end;
    if v_message is not null then
        perform app.answer_agent_call(
            org, run, turn, call_index, 'invalid',
            jsonb_build_object('error', 'tool_arguments_invalid', 'message', v_message)
        );
    elsif v_cause is not null then
        perform app.request_agent_approval(
            v_run, v_agent, turn, call_index, v_name, v_tool.module, v_arguments, v_cause
        );
    end if;
    if v_cause is not null then
        return jsonb_build_object('verdict', 'answered');
    end if;
    return jsonb_build_object(
        'verdict', 'execute', 'tool', v_name,
        'arguments', coalesce(v_approval.arguments, v_arguments),
        'agent_id', v_agent.id, 'contact', v_run.contact
    );
end;
$$;
comment on function app.open_agent_call(uuid, uuid, integer, integer) is
    'Decides on a tool call: execute, in the same transaction and as the agent; else it has been '
    'answered here (denied, limited, simulated …), waits for a person, or ended the run.';

create function app.end_agent_run(
    org uuid, run uuid, reason text, detail text default null
) returns void
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_run public.agent_runs := app.locked_agent_run(org, run);
    v_agent public.agents;
    v_is_degraded boolean := end_agent_run.reason in ('budget', 'tokens', 'no_provider');
    v_call record;
begin
    if v_run.status not in ('queued', 'running', 'waiting') then
        return;
    end if;
    select * into v_agent from public.agents as a
    where a.org_id = end_agent_run.org and a.id = v_run.agent_id;
    for v_call in
        select t.ordinal, c.place
        from public.agent_steps as t
        cross join lateral generate_series(0, jsonb_array_length(t.tool_calls) - 1) as c (place)
        where
            t.org_id = end_agent_run.org and t.run_id = end_agent_run.run and t.kind = 'turn'
            and not exists (
                select from public.agent_steps as s
                where s.org_id = t.org_id and s.run_id = t.run_id and s.turn = t.ordinal
                    and s.call_index = c.place
            )
        order by t.ordinal, c.place
    loop
        perform app.answer_agent_call(
            org, run, v_call.ordinal, v_call.place, 'skipped',
            jsonb_build_object('error', 'run_ended', 'message', 'The run ended before this call.')
        );
    end loop;
    update public.agent_runs as r
    set
        status = case when v_is_degraded then 'degraded' else 'failed' end,
        reason = end_agent_run.reason,
        detail = left(end_agent_run.detail, 1000),
        answer = case
            when v_is_degraded then (
                select k.fallback from app.agent_kinds as k where k.kind = v_agent.kind
            )
        end,
        finished_at = app.now()
    where r.org_id = end_agent_run.org and r.id = end_agent_run.run;
    perform app.record_event(
        org, 'ai', 'agent_run.failed', 'agent_run', run,
        jsonb_build_object(
            'agent_id', v_agent.id, 'kind', v_agent.kind, 'reason', end_agent_run.reason
        )
    );
    -- Whoever looks after agents hears of each reason once a day and agent.
    perform app.notify_role(
        org, 'ai', 'write', 'agent_stopped',
        jsonb_build_object('agent', v_agent.name, 'reason', case end_agent_run.reason
            when 'budget' then 'o orçamento de IA acabou'
            when 'tokens' then 'o limite diário de tokens foi atingido'
            when 'no_provider' then 'nenhum provedor de IA está configurado'
            when 'turns' then 'o limite de passos foi atingido'
            when 'time' then 'o tempo máximo de trabalho acabou'
            when 'loop' then 'a mesma ferramenta foi chamada três vezes com os mesmos dados'
            when 'inactive' then 'o agente ou a organização está inativa'
            when 'stalled' then 'a execução ficou parada por um dia'
            when 'refused' then 'o modelo se recusou a responder'
            when 'length' then 'a resposta ficou longa demais'
            else 'a resposta não veio no formato pedido'
        end),
        format('agent_stopped/%s/%s/%s', v_agent.id, end_agent_run.reason, app.org_today(org)),
        '/ai/runs/' || end_agent_run.run
    );
end;
$$;
comment on function app.end_agent_run(uuid, uuid, text, text) is
    'Ends a run without a result of its own: degraded for want of budget, tokens or provider, else '
    'failed. Calls that were left get their answer, those who write ai are told.';

create function app.complete_agent_run(
    org uuid, run uuid, after integer, answer text, output jsonb
) returns boolean
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_run public.agent_runs := app.locked_agent_run(org, run);
    v_kind app.agent_kinds;
begin
    if v_run.status <> 'running' or app.last_agent_step(org, run) <> after then
        return false;
    end if;
    select k.* into v_kind from public.agents as a
    inner join app.agent_kinds as k on k.kind = a.kind
    where a.org_id = complete_agent_run.org and a.id = v_run.agent_id;
    update public.agent_runs as r
    set
        status = 'completed', answer = complete_agent_run.answer,
        output = complete_agent_run.output, finished_at = app.now()
    where r.org_id = complete_agent_run.org and r.id = complete_agent_run.run;
    if v_kind.store_function is not null then
        -- A name of the catalogue, which only migrations write.
        execute format('select app.%I($1, $2, $3)', v_kind.store_function) using org, run, output;
    end if;
    perform app.record_event(
        org, 'ai', 'agent_run.completed', 'agent_run', run,
        jsonb_build_object('agent_id', v_run.agent_id, 'kind', v_kind.kind)
    );
    return true;
end;
$$;
comment on function app.complete_agent_run(uuid, uuid, integer, text, jsonb) is
    'Ends a run with its result, which its kind''s store_function stores in the same transaction. '
    'False: another job was faster. Errors: those of the store_function.';

-- 2. Functions: approvals

create function app.request_agent_approval(
    run public.agent_runs, agent public.agents, turn integer, call_index integer, tool text,
    module text, arguments jsonb, cause text
) returns void
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_id uuid;
begin
    insert into public.agent_approvals (
        org_id, run_id, agent_id, turn, call_index, tool, module, arguments, cause, requested_by,
        expires_at
    ) values (
        run.org_id, run.id, agent.id, request_agent_approval.turn,
        request_agent_approval.call_index, request_agent_approval.tool,
        request_agent_approval.module, request_agent_approval.arguments,
        request_agent_approval.cause, run.created_by,
        app.now() + make_interval(
            hours => (app.org_setting(run.org_id, 'agent_approval_hours'))::integer
        )
    )
    returning id into v_id;
    update public.agent_runs as r set status = 'waiting'
    where r.org_id = run.org_id and r.id = run.id;
    perform app.record_event(
        run.org_id, 'ai', 'agent_run.waiting', 'agent_run', run.id,
        jsonb_build_object('agent_id', agent.id, 'kind', agent.kind)
    );
    perform app.record_event(
        run.org_id, 'ai', 'approval.requested', 'agent_approval', v_id,
        jsonb_build_object('run_id', run.id, 'tool', request_agent_approval.tool,
            'module', request_agent_approval.module)
    );
    perform app.notify_role(
        run.org_id, request_agent_approval.module, 'write', 'agent_approval',
        jsonb_build_object('agent', agent.name, 'tool', request_agent_approval.tool),
        'agent_approval/' || v_id, '/ai/approvals/' || v_id
    );
end;
$$;
comment on function app.request_agent_approval(
    public.agent_runs, public.agents, integer, integer, text, text, jsonb, text
) is
    'Stores a call for a person to decide on, has its run wait and tells those who write the '
    'tool''s module.';

create function app.settle_agent_approval(
    approval public.agent_approvals, status text, reason text
) returns public.agent_approvals
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_run public.agent_runs := app.locked_agent_run(approval.org_id, approval.run_id);
    v_approval public.agent_approvals;
begin
    update public.agent_approvals as p
    set
        status = settle_agent_approval.status, decided_at = app.now(), decided_by = auth.uid(),
        decision_reason = settle_agent_approval.reason
    where p.org_id = approval.org_id and p.id = approval.id
    returning p.* into v_approval;
    perform app.record_event(
        approval.org_id, 'ai', 'approval.decided', 'agent_approval', approval.id,
        jsonb_build_object('run_id', approval.run_id, 'tool', approval.tool,
            'decision', settle_agent_approval.status)
    );
    if v_run.status = 'waiting' then
        update public.agent_runs as r set status = 'running'
        where r.org_id = v_run.org_id and r.id = v_run.id;
        perform app.enqueue_agent_run(v_run.org_id, v_run.id, v_run.causation_id::text);
    end if;
    return v_approval;
end;
$$;
comment on function app.settle_agent_approval(public.agent_approvals, text, text) is
    'Ends an approval, locked by the caller, and has its run go on in a new job.';

create function app.decide_agent_approval(
    org uuid, approval uuid, decision text, reason text
) returns public.agent_approvals
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_approval public.agent_approvals;
    v_reason text := app.clean_text(decide_agent_approval.reason, 1000);
begin
    if coalesce(decision, '') not in ('approve', 'refuse') then
        perform app.raise_error('bad_input', 'A decision is approve or refuse.', null);
    end if;
    -- The run before its approval, as everybody who goes on with a run locks.
    perform from public.agent_runs as r
    where r.org_id = decide_agent_approval.org and r.id = (
        select p.run_id from public.agent_approvals as p
        where p.org_id = decide_agent_approval.org and p.id = decide_agent_approval.approval
    )
    for no key update;
    select * into v_approval from public.agent_approvals as p
    where p.org_id = decide_agent_approval.org and p.id = decide_agent_approval.approval
    for no key update;
    if not found then
        perform app.require_access(decide_agent_approval.org, 'ai', 'write');
        perform app.raise_error('agent_approval_not_found', 'There is no such approval.', null);
    end if;
    perform app.require_access(v_approval.org_id, v_approval.module, 'write');
    if app.agent_id() is not null or v_approval.requested_by = auth.uid() then
        perform app.raise_error(
            'agent_approval_own', 'Who started the run does not decide on its calls.',
            'Ask somebody else who may write the module.'
        );
    elsif v_approval.status <> 'pending' or v_approval.expires_at <= app.now() then
        perform app.raise_error(
            'agent_approval_decided',
            case
                when v_approval.status in ('approved', 'refused')
                    then format('The call was %s already.', v_approval.status)
                else 'The approval has expired.'
            end,
            null
        );
    end if;
    return app.settle_agent_approval(
        v_approval, case decision when 'approve' then 'approved' else 'refused' end, v_reason
    );
end;
$$;
comment on function app.decide_agent_approval(uuid, uuid, text, text) is
    'Body of public.decide_agent_approval.';

create function public.decide_agent_approval(
    org uuid, approval uuid, decision text, reason text default null
) returns public.agent_approvals
language sql
set search_path = ''
as $$ select app.decide_agent_approval(org, approval, decision, reason) $$;
comment on function public.decide_agent_approval(uuid, uuid, text, text) is
    'approve or refuse a tool call that waits. Approved, exactly the stored call is done once, in '
    'a new job; refused, the model is told, with the reason. Who writes the tool''s module and did '
    'not start the run. Errors: agent_approval_not_found, agent_approval_decided, '
    'agent_approval_own, bad_input, not_allowed.';

create function app.list_agent_approvals(org uuid) returns setof public.agent_approvals
language sql
stable
security definer
set search_path = ''
as $$
    select p.* from public.agent_approvals as p
    where
        p.org_id = list_agent_approvals.org and p.status = 'pending'
        and p.expires_at > app.now()
        and p.requested_by is distinct from auth.uid() and app.agent_id() is null
        and app.can_access(p.org_id, p.module, 'write')
    order by p.created_at, p.id
    limit 1000
$$;
comment on function app.list_agent_approvals(uuid) is 'Body of public.list_agent_approvals.';

create function public.list_agent_approvals(org uuid) returns setof public.agent_approvals
language sql
stable
set search_path = ''
as $$ select * from app.list_agent_approvals(org) $$;
comment on function public.list_agent_approvals(uuid) is
    'Calls that wait for the caller: of tools whose module he writes, in runs he did not start. '
    'Oldest first.';

create function app.sweep_agent_runs() returns integer
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_row record;
    v_approval public.agent_approvals;
    v_swept integer := 0;
begin
    -- Locked in the order of everybody else: the run, then its approval.
    for v_row in
        select r.org_id, r.id as run_id, p.id
        from public.agent_approvals as p
        inner join public.agent_runs as r on r.org_id = p.org_id and r.id = p.run_id
        where p.status = 'pending' and p.expires_at <= app.now()
        order by r.org_id, r.id
        for no key update of r skip locked
    loop
        select * into v_approval from public.agent_approvals as p
        where p.org_id = v_row.org_id and p.id = v_row.id and p.status = 'pending'
        for no key update;
        if found then
            perform app.settle_agent_approval(v_approval, 'expired', null);
            v_swept := v_swept + 1;
        end if;
    end loop;
    for v_row in
        select r.org_id, r.id from public.agent_runs as r
        where r.status in ('queued', 'running') and r.updated_at < app.now() - interval '1 day'
        order by r.org_id, r.id
        for no key update skip locked
    loop
        perform app.end_agent_run(v_row.org_id, v_row.id, 'stalled');
        v_swept := v_swept + 1;
    end loop;
    return v_swept;
end;
$$;
comment on function app.sweep_agent_runs() is
    'Job: approvals nobody decided on in time expire, and their runs go on with that answer; runs '
    'without a step for a day, whose job is lost or held, fail. Returns how many.';

-- 3. Triggers

create trigger agents_50_prepare
before insert on public.agents
for each row execute function app.prepare_agent();

create trigger agents_10_guard
before insert or update of config, parent_id on public.agents
for each row execute function app.guard_agent();

create trigger agents_80_audit
after insert or update or delete on public.agents
for each row execute function app.audit_row();

create trigger agent_tool_grants_10_guard
before insert or update of tool, threshold_argument on public.agent_tool_grants
for each row execute function app.guard_agent_grant();

create trigger agent_tool_grants_80_audit
after insert or update or delete on public.agent_tool_grants
for each row execute function app.audit_row();

create trigger agent_runs_10_guard_status
before update of status on public.agent_runs
for each row when (old.status is distinct from new.status)
execute function app.guard_move('agent_run', 'status');

create trigger agent_steps_10_append_only
before update or truncate on public.agent_steps
for each statement execute function app.refuse_change();

create trigger agent_approvals_80_audit
after insert or update or delete on public.agent_approvals
for each row execute function app.audit_row();

-- 5. Access

select app.protect_table('public.agents', 'ai', null);
select app.protect_table('public.agent_tool_grants', 'ai', null);
select app.protect_table('public.agent_runs', 'ai', null, '{select}');
select app.protect_table('public.agent_steps', 'ai', null, '{select}');
select app.protect_table('public.agent_approvals', 'ai', null, '{select}');
-- Written by the functions above, by nobody else.
revoke insert, update, delete
on public.agent_runs, public.agent_steps, public.agent_approvals from service_role;

alter table app.agent_kinds enable row level security;
alter table app.agent_kind_grants enable row level security;
create policy agent_kinds_select on app.agent_kinds for select
to authenticated, service_role using (true);
grant select on app.agent_kinds to authenticated, service_role;

grant execute on function
app.run_agent(uuid, text, jsonb, jsonb, text), public.run_agent(uuid, text, jsonb, jsonb, text),
app.decide_agent_approval(uuid, uuid, text, text),
public.decide_agent_approval(uuid, uuid, text, text),
app.list_agent_approvals(uuid), public.list_agent_approvals(uuid), public.list_agent_kinds()
to authenticated, service_role;
grant execute on function
app.start_agent_run(uuid, text, jsonb, jsonb, text), app.agent_grant(uuid, uuid, text),
app.agent_tools(uuid, uuid), app.next_agent_step(uuid, uuid),
app.store_agent_turn(uuid, uuid, integer, jsonb),
app.store_agent_message(uuid, uuid, integer, text),
app.open_agent_call(uuid, uuid, integer, integer),
app.answer_agent_call(uuid, uuid, integer, integer, text, jsonb, integer),
app.end_agent_run(uuid, uuid, text, text),
app.complete_agent_run(uuid, uuid, integer, text, jsonb), app.sweep_agent_runs()
to service_role;

-- 6. Reference rows

insert into app.agent_kinds (kind, name, description, instructions, purpose, fallback) values
(
    'custom', 'Agente próprio', 'Faz o que a organização escreve em suas instruções.',
    'Ajude a equipe com o que for pedido, usando as ferramentas disponíveis.', 'reasoning', null
);

insert into app.allowed_moves (machine, from_state, to_state) values
('agent_runs', 'queued', 'running'),
('agent_runs', 'queued', 'failed'),
('agent_runs', 'running', 'waiting'),
('agent_runs', 'running', 'completed'),
('agent_runs', 'running', 'degraded'),
('agent_runs', 'running', 'failed'),
('agent_runs', 'waiting', 'running'),
('agent_runs', 'waiting', 'failed');

insert into app.setting_definitions (key, kind, minimum, maximum, default_value, description) values
(
    'agent_approval_hours', 'integer', 1, 720, '72',
    'How long a tool call of an agent waits for a person; then it is not done.'
);

insert into app.job_types (entrypoint, latency_class, description) values
('agent.run', 'default', 'Goes on with a run of an agent: model, tools, answer.');

insert into app.notification_templates (
    template, category, description, title, body, variables
) values
(
    'agent_approval', 'ai', 'A tool call of an agent waits for a decision.',
    'Um agente aguarda aprovação: {agent}',
    'O agente {agent} quer usar a ferramenta {tool} e aguarda sua decisão. Veja os dados da '
    'chamada antes de aprovar ou recusar.',
    '{"agent": "text", "tool": "text"}'
),
(
    'agent_stopped', 'ai', 'A run of an agent ended without a result; once a day and reason.',
    'O agente {agent} parou',
    'O agente {agent} parou sem concluir: {reason}.',
    '{"agent": "text", "reason": "text"}'
);

insert into app.event_types (module, event_type, description, payload_keys) values
('ai', 'agent_run.completed', 'A run of an agent ended with its result.', '{agent_id,kind}'),
(
    'ai', 'agent_run.failed', 'A run of an agent ended without a result of its own.',
    '{agent_id,kind,reason}'
),
('ai', 'agent_run.waiting', 'A run of an agent waits for a person.', '{agent_id,kind}'),
('ai', 'approval.requested', 'A tool call waits for a decision.', '{run_id,tool,module}'),
('ai', 'approval.decided', 'A tool call was approved, refused or has expired.',
    '{run_id,tool,decision}');

insert into app.error_keys (key, http, meaning) values
('agent_not_found', 404, 'There is no such agent in the organisation, and no such kind.'),
('agent_inactive', 409, 'The agent is switched off.'),
('agent_config_invalid', 422, 'config of an agent has an unknown key or a value out of bounds.'),
('agent_parent_invalid', 422, 'Agents would answer to each other in a circle.'),
('agent_grant_invalid', 422, 'A grant names no tool, or no argument of it.'),
('agent_contact_invalid', 422, 'The contact of a run is not of the organisation, or malformed.'),
('agent_run_not_found', 404, 'There is no such run.'),
('agent_run_move_refused', 409, 'A run of an agent cannot go from this state to that.'),
('agent_approval_not_found', 404, 'There is no such approval.'),
('agent_approval_decided', 409, 'The call was decided on already, or the approval has expired.'),
('agent_approval_own', 403, 'Who started a run does not decide on its calls, nor does an agent.');
