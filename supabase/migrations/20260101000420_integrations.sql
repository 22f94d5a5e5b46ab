-- Integrations: services outside that ness.OS calls, the credentials for them, and what all worker
-- processes know together about calling them: circuit breakers, limits, who is calling.
-- Depends on: core, core_access, core_audit, events.
-- Asked for by: RENUM's document (idempotency, retries), Somos' document (Omie, BCB), domain §5.

-- 1. Tables

create table app.integration_providers (
    provider text primary key constraint integration_providers_provider_check
        check (provider ~ '^[a-z][a-z0-9_]*$'),
    title text not null,
    has_credentials boolean not null,
    is_service boolean not null
);
comment on table app.integration_providers is
    '[core] Services outside that ness.OS talks to; one that is not here is not called.';
comment on column app.integration_providers.has_credentials is
    'Whether each organisation connects it with credentials of its own.';
comment on column app.integration_providers.is_service is
    'Whether its health is told to the public; false for servers that belong to customers.';

create table public.integration_credentials (
    org_id uuid not null references public.organizations (id) on delete cascade,
    provider text not null references app.integration_providers (provider),
    ciphertext bytea not null constraint integration_credentials_ciphertext_check
        check (octet_length(ciphertext) between 30 and 10000),
    key_id text not null
        constraint integration_credentials_key_id_check check (key_id ~ '^[0-9a-f]{8}$'),
    status text not null default 'connected' constraint integration_credentials_status_check
        check (status in ('connected', 'rejected')),
    stored_at timestamptz not null default app.now(),
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, provider)
);
comment on table public.integration_credentials is
    '[core] With what an organisation signs in at a provider, encrypted by the application: the '
    'database never sees the key. Members see which providers are connected, nothing else.';
comment on column public.integration_credentials.ciphertext is
    '[pii] AES-256-GCM of a JSON object of texts: nonce (12 bytes), ciphertext, tag (16 bytes); '
    'additional data <org_id>/<provider>, so that it cannot be moved to another row.';
comment on column public.integration_credentials.key_id is
    'First 8 hex digits of the SHA-256 of the key it is encrypted with.';
comment on column public.integration_credentials.status is
    'rejected: the provider answered 401 to the latest call made with them.';
comment on column public.integration_credentials.stored_at is
    'When the values were given; a rotation of the key leaves it.';
create index integration_credentials_provider_idx on public.integration_credentials (provider);

create table app.outbound_calls (
    id uuid primary key,
    org_id uuid references public.organizations (id) on delete cascade,
    called_at timestamptz not null,
    provider text not null,
    account_hash text not null,
    method text not null,
    operation text not null
        constraint outbound_calls_operation_check check (length(operation) <= 100),
    attempt integer not null constraint outbound_calls_attempt_check check (attempt >= 1),
    outcome text not null constraint outbound_calls_outcome_check
        check (outcome in ('ok', 'retry', 'wait', 'give_up', 'cancelled')),
    error_kind text constraint outbound_calls_error_kind_check
        check (error_kind in ('timeout', 'connection', 'status', 'fault', 'size', 'refused')),
    status integer,
    duration_ms integer not null,
    bytes bigint,
    idempotency_hash text
);
comment on table app.outbound_calls is
    '[core] Every attempt to call a service outside, without address, secrets and bodies. Append '
    'only; kept 30 days. Clients read public.outbound_calls.';
comment on column app.outbound_calls.org_id is
    'In whose name; null = the installation, as for rates of the central bank.';
comment on column app.outbound_calls.called_at is 'When the request was sent.';
comment on column app.outbound_calls.account_hash is
    'Tells accounts at the provider apart without naming them.';
comment on column app.outbound_calls.operation is
    'What was asked, in the provider''s words; one of a few, never an address.';
comment on column app.outbound_calls.outcome is
    'ok; retry: may work later; wait: the provider named a moment; give_up: would fail again; '
    'cancelled: the worker stopped before the answer came.';
comment on column app.outbound_calls.error_kind is
    'fault: the body said so, whatever the status; refused: the address may not be called; null '
    'for ok and cancelled.';
comment on column app.outbound_calls.status is 'HTTP status; null without an answer.';
comment on column app.outbound_calls.bytes is 'Of the answer''s body; null without an answer.';
comment on column app.outbound_calls.idempotency_hash is
    'Start of the SHA-256 of the idempotency key; null where none was sent.';
create index outbound_calls_org_id_idx on app.outbound_calls (org_id, called_at)
where org_id is not null;
create index outbound_calls_called_at_idx on app.outbound_calls (called_at);

create table app.circuit_breakers (
    provider text not null references app.integration_providers (provider),
    account_hash text not null,
    failures integer not null default 0,
    opened_at timestamptz,
    half_open_at timestamptz,
    probe_call uuid,
    probe_lost_at timestamptz,
    last_success_at timestamptz,
    last_failure_at timestamptz,
    primary key (provider, account_hash)
) with (fillfactor = 50);
comment on table app.circuit_breakers is
    '[core] Per account at a provider: closed while half_open_at is null, open until that moment, '
    'then half open: one call goes as the probe and decides. No index but the key, so that '
    'updates stay in the page.';
comment on column app.circuit_breakers.failures is 'In a row, since the last answer.';
comment on column app.circuit_breakers.probe_lost_at is
    'When the probe under way counts as lost, with the process that made it.';
comment on column app.circuit_breakers.last_success_at is 'To the second.';

create table app.call_slots (
    provider text not null references app.integration_providers (provider),
    account_hash text not null,
    gate text not null,
    slot integer not null,
    call_id uuid,
    free_at timestamptz not null default '-infinity',
    primary key (provider, account_hash, gate, slot)
) with (fillfactor = 50);
comment on table app.call_slots is
    '[core] Permits to call. A gate (a rate of the provider, or one-at-a-time for a method) has a '
    'row per call it lets through in its period. A call takes one, and gives it back so that it '
    'is free a period after the call''s end: the provider never counts more.';
comment on column app.call_slots.call_id is 'The call under way; null between calls.';
comment on column app.call_slots.free_at is
    'While a call is under way: when it counts as lost, with the process that made it, plus the '
    'period.';

-- 2. Functions: calling

create function app.wall_clock() returns timestamptz
language plpgsql
volatile
set search_path = ''
as $$
begin
    return coalesce(
        nullif(current_setting('app.now', true), '')::timestamptz, pg_catalog.clock_timestamp()
    );
end;
$$;
comment on function app.wall_clock() is
    'The moment of the call, not of the transaction''s start; the session setting app.now where a '
    'test has set it. For what competes under locks.';

create function app.find_slot(provider text, account text, gate text, slots integer)
returns integer
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_now timestamptz := app.wall_clock();
    v_slot integer;
begin
    select s.slot into v_slot
    from app.call_slots as s
    where
        s.provider = find_slot.provider and s.account_hash = find_slot.account
        and s.gate = find_slot.gate and s.slot <= find_slot.slots
        and s.free_at <= v_now
    order by s.slot
    limit 1
    for update skip locked;
    if v_slot is null and (
        select count(*) from app.call_slots as s
        where
            s.provider = find_slot.provider and s.account_hash = find_slot.account
            and s.gate = find_slot.gate and s.slot <= find_slot.slots
    ) < slots then
        insert into app.call_slots (provider, account_hash, gate, slot)
        select find_slot.provider, find_slot.account, find_slot.gate, number
        from generate_series(1, find_slot.slots) as number
        on conflict do nothing;
        return app.find_slot(provider, account, gate, slots);
    end if;
    return v_slot;
end;
$$;
comment on function app.find_slot(text, text, text, integer) is
    'Locks a free slot of a gate until the transaction''s end; null when all are taken. Makes the '
    'slots on first use.';

create function app.begin_call(
    call uuid, provider text, account text, gates jsonb, lease_s double precision
) returns table (verdict text, wait_s double precision)
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_half_open_at timestamptz;
    v_probe_lost_at timestamptz;
    v_gate record;
    v_slot integer;
    v_slots integer[] := '{}';
    v_now timestamptz;
    v_wait double precision;
    v_is_probe boolean;
begin
    if not exists (
        select from app.integration_providers as p where p.provider = begin_call.provider
    ) then
        perform app.raise_error(
            'provider_unknown', format('%s is not in the catalogue.', begin_call.provider),
            'Add it to app.integration_providers.'
        );
    end if;
    select b.half_open_at, b.probe_lost_at into v_half_open_at, v_probe_lost_at
    from app.circuit_breakers as b
    where b.provider = begin_call.provider and b.account_hash = begin_call.account;
    v_now := app.wall_clock();
    if v_half_open_at > v_now then
        return query select 'open', extract(epoch from v_half_open_at - v_now)::double precision;
        return;
    end if;
    v_is_probe := v_half_open_at is not null;
    if v_is_probe and v_probe_lost_at > v_now then
        return query select 'probing', 0::double precision;
        return;
    end if;
    -- A locked slot is being taken by somebody else: it is skipped, nobody waits here.
    for v_gate in
        select g.gate, g.slots, make_interval(secs => g.per_s) as per
        from jsonb_to_recordset(gates) as g (gate text, slots integer, per_s double precision)
    loop
        v_slot := app.find_slot(provider, account, v_gate.gate, v_gate.slots);
        if v_slot is null then
            v_now := app.wall_clock();
            select extract(epoch from min(
                -- One that was never used is free since -infinity, from which Postgres 16 subtracts
                -- nothing.
                case
                    when s.call_id is null then greatest(s.free_at, v_now) - v_now
                    else v_gate.per
                end
            )) into v_wait
            from app.call_slots as s
            where
                s.provider = begin_call.provider and s.account_hash = begin_call.account
                and s.gate = v_gate.gate and s.slot <= v_gate.slots;
            return query select 'busy', greatest(v_wait, 0);
            return;
        end if;
        v_slots := v_slots || v_slot;
    end loop;
    v_now := app.wall_clock();
    if v_is_probe then
        update app.circuit_breakers as b
        set probe_call = call, probe_lost_at = v_now + make_interval(secs => lease_s)
        where
            b.provider = begin_call.provider and b.account_hash = begin_call.account
            and b.half_open_at <= v_now and (b.probe_lost_at is null or b.probe_lost_at <= v_now);
        if not found then -- somebody else was faster, or it is open or closed again: ask anew
            return query select 'probing', 0::double precision;
            return;
        end if;
    end if;
    update app.call_slots as s
    set call_id = call, free_at = v_now + make_interval(secs => lease_s + g.per_s)
    from rows from (
        jsonb_to_recordset(gates) as (gate text, slots integer, per_s double precision),
        unnest(v_slots)
    ) as g (gate, slots, per_s, slot)
    where
        s.provider = begin_call.provider and s.account_hash = begin_call.account
        and s.gate = g.gate and s.slot = g.slot;
    return query select 'go', 0::double precision;
end;
$$;
comment on function app.begin_call(uuid, text, text, jsonb, double precision) is
    'Asks whether a call may be made now, and takes its permits. gates: [{gate, slots, per_s}]. '
    'verdict: go; open: the breaker is, for wait_s; probing: another call decides; busy: no '
    'permit, ask again after wait_s. What was taken is free again lease_s from now at the latest '
    '(plus the period of a rate): the caller must have given up by then. Errors: '
    'provider_unknown.';

create function app.end_call(
    call uuid,
    provider text,
    account text,
    gates jsonb,
    org uuid,
    method text,
    operation text,
    attempt integer,
    outcome text,
    error_kind text,
    status integer,
    duration_ms integer,
    bytes bigint,
    idempotency_hash text,
    block_s double precision
) returns void
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_now timestamptz := app.wall_clock();
    v_called_at timestamptz := v_now - make_interval(secs => duration_ms / 1000.0);
begin
    update app.call_slots as s
    set call_id = null, free_at = v_now + make_interval(secs => g.per_s)
    from jsonb_to_recordset(gates) as g (gate text, slots integer, per_s double precision)
    where
        s.provider = end_call.provider and s.account_hash = end_call.account
        and s.gate = g.gate and s.call_id = call;
    perform app.note_outcome(call, provider, account, outcome, block_s);
    insert into app.outbound_calls (
        id, org_id, called_at, provider, account_hash, method, operation, attempt, outcome,
        error_kind, status, duration_ms, bytes, idempotency_hash
    )
    select
        call, org, v_called_at, provider, account, method, operation, attempt, outcome,
        error_kind, status, duration_ms, bytes, idempotency_hash
    where org is null or exists (
        -- It may have been erased while the call was under way.
        select from public.organizations as o where o.id = org for key share
    );
    if org is not null and (outcome = 'ok' or status = 401) then
        update public.integration_credentials as c
        set status = case when end_call.outcome = 'ok' then 'connected' else 'rejected' end
        where
            c.org_id = org and c.provider = end_call.provider
            and (c.status = 'connected') <> (end_call.outcome = 'ok');
    end if;
end;
$$;
comment on function app.end_call(
    uuid, text, text, jsonb, uuid, text, text, integer, text, text, integer, integer, bigint, text,
    double precision
) is
    'Says how a call ended: gives its permits back, moves the breaker, writes the log. block_s: '
    'for wait, the seconds the whole account may not be called; null when only this call must '
    'wait.';

create function app.note_outcome(
    call uuid, provider text, account text, outcome text, block_s double precision
) returns void
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_now timestamptz := app.wall_clock();
    v_breaker app.circuit_breakers;
    v_is_probe boolean;
    v_has_answered boolean := outcome in ('ok', 'give_up') or (outcome = 'wait' and block_s is null);
    v_block_until timestamptz := v_now + make_interval(secs => least(block_s, 86400));
begin
    select b.* into v_breaker from app.circuit_breakers as b
    where b.provider = note_outcome.provider and b.account_hash = note_outcome.account;
    if outcome = 'ok' and v_breaker.failures = 0 and v_breaker.half_open_at is null
        and v_breaker.last_success_at > v_now - interval '1 second' then
        return; -- nothing to say: a busy account is not written for each call
    end if;
    if v_breaker.provider is null then
        insert into app.circuit_breakers (provider, account_hash)
        values (note_outcome.provider, note_outcome.account)
        on conflict do nothing;
    end if;
    select b.* into v_breaker from app.circuit_breakers as b
    where b.provider = note_outcome.provider and b.account_hash = note_outcome.account
    for update;
    v_is_probe := v_breaker.probe_call is not distinct from call;
    if v_is_probe then
        v_breaker.probe_call := null;
        v_breaker.probe_lost_at := null;
    end if;
    if outcome = 'ok' then
        v_breaker.last_success_at := v_now;
    elsif outcome in ('retry', 'wait') then
        v_breaker.last_failure_at := v_now;
    end if;
    -- Of calls under way when it opened, an open breaker hears nothing: the probe decides.
    if v_has_answered and (v_is_probe or v_breaker.half_open_at is null) then
        v_breaker.failures := 0;
        v_breaker.half_open_at := null;
    elsif outcome = 'retry' and (v_is_probe or v_breaker.half_open_at is null) then
        v_breaker.failures := v_breaker.failures + 1;
        if v_is_probe or v_breaker.failures >= 5 then
            v_breaker.opened_at := v_now;
            v_breaker.half_open_at := v_now + interval '60 seconds';
        end if;
    elsif outcome = 'wait' and v_block_until > v_now then
        v_breaker.opened_at := v_now;
        v_breaker.half_open_at := greatest(v_breaker.half_open_at, v_block_until);
    end if;
    update app.circuit_breakers as b
    set
        failures = v_breaker.failures, opened_at = v_breaker.opened_at,
        half_open_at = v_breaker.half_open_at, probe_call = v_breaker.probe_call,
        probe_lost_at = v_breaker.probe_lost_at, last_success_at = v_breaker.last_success_at,
        last_failure_at = v_breaker.last_failure_at
    where b.provider = note_outcome.provider and b.account_hash = note_outcome.account;
end;
$$;
comment on function app.note_outcome(uuid, text, text, text, double precision) is
    'Moves the breaker of an account: the fifth failure in a row, or the failure of the probe, '
    'opens it for 60 seconds; a wait the provider asked of the whole account for that long, at '
    'most a day; any answer to the probe closes it.';

-- 2. Functions: credentials

create function app.store_credentials(
    org uuid, provider text, ciphertext bytea, key_id text
) returns public.integration_credentials
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_row public.integration_credentials;
begin
    if not exists (
        select from app.integration_providers as p
        where p.provider = store_credentials.provider and p.has_credentials
    ) then
        perform app.raise_error(
            'provider_unknown', format('%s is not connected with credentials.', provider),
            'Name a provider of app.integration_providers that needs them.'
        );
    end if;
    insert into public.integration_credentials as c (org_id, provider, ciphertext, key_id)
    values (org, provider, ciphertext, key_id)
    on conflict on constraint integration_credentials_pkey do update
    set
        ciphertext = excluded.ciphertext, key_id = excluded.key_id, status = 'connected',
        stored_at = app.now()
    returning * into v_row;
    return v_row;
end;
$$;
comment on function app.store_credentials(uuid, text, bytea, text) is
    'Connects a provider, or replaces its credentials. Worker and operators. Errors: '
    'provider_unknown.';

create function app.rotate_credentials(
    org uuid, provider text, old_ciphertext bytea, ciphertext bytea, key_id text
) returns boolean
language plpgsql
security definer
set search_path = ''
as $$
begin
    update public.integration_credentials as c
    set ciphertext = rotate_credentials.ciphertext, key_id = rotate_credentials.key_id
    where
        c.org_id = org and c.provider = rotate_credentials.provider
        and c.ciphertext = old_ciphertext;
    return found;
end;
$$;
comment on function app.rotate_credentials(uuid, text, bytea, bytea, text) is
    'Puts the same values under another key; false when somebody else has changed or removed them '
    'in between.';

create function app.remove_credentials(org uuid, provider text) returns boolean
language plpgsql
security definer
set search_path = ''
as $$
begin
    delete from public.integration_credentials as c
    where c.org_id = org and c.provider = remove_credentials.provider;
    return found;
end;
$$;
comment on function app.remove_credentials(uuid, text) is
    'Disconnects a provider; false when it was not connected.';

create function app.emit_integration_event() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_row public.integration_credentials := coalesce(new, old);
    v_org uuid := v_row.org_id;
    v_payload jsonb := jsonb_build_object('provider', v_row.provider);
begin
    if tg_op = 'INSERT' then
        perform app.record_event(
            v_org, 'core', 'integration.connected', 'integration', null, v_payload
        );
    elsif tg_op = 'DELETE' then
        -- A cascade from the organisation itself: nobody is left to tell.
        if exists (select from public.organizations as o where o.id = v_org) then
            perform app.record_event(
                v_org, 'core', 'integration.removed', 'integration', null, v_payload
            );
        end if;
    elsif new.stored_at is distinct from old.stored_at then
        perform app.record_event(
            v_org, 'core', 'integration.replaced', 'integration', null, v_payload
        );
    elsif new.ciphertext is distinct from old.ciphertext then
        perform app.record_event(
            v_org, 'core', 'integration.rotated', 'integration', null, v_payload
        );
    elsif new.status is distinct from old.status and new.status = 'rejected' then
        perform app.record_event(
            v_org, 'core', 'integration.rejected', 'integration', null, v_payload
        );
    elsif new.status is distinct from old.status then
        perform app.record_event(
            v_org, 'core', 'integration.accepted', 'integration', null, v_payload
        );
    end if;
    return null;
end;
$$;
comment on function app.emit_integration_event() is
    'Trigger: records what became of the credentials for a provider.';

-- 2. Functions: health

create function app.breaker_state(half_open_at timestamptz) returns text
language sql
stable
set search_path = ''
as $$
    select case
        when half_open_at is null then 'closed'
        when half_open_at > app.now() then 'open'
        else 'half_open'
    end
$$;
comment on function app.breaker_state(timestamptz) is
    'closed, open or half_open: what a breaker is now, by its half_open_at.';

create function app.health_state(breaker text, calls bigint, errors bigint) returns text
language sql
immutable
set search_path = ''
as $$
    select case
        when breaker = 'open' or errors * 2 > calls then 'down'
        when calls = 0 then 'unknown'
        when breaker = 'half_open' then 'down'
        when errors * 10 > calls then 'degraded'
        else 'up'
    end
$$;
comment on function app.health_state(text, bigint, bigint) is
    'down: the breaker is not closed, or more than half of the calls failed; degraded: more than '
    'a tenth; unknown without calls, unless the breaker is open; else up.';

create function app.integration_health() returns table (
    provider text, account_hash text, state text, breaker text, half_open_at timestamptz,
    calls bigint, errors bigint, last_success_at timestamptz
)
language sql
stable
security definer
set search_path = ''
as $$
    with counted as (
        select
            c.provider,
            c.account_hash,
            count(*) as calls,
            count(*) filter (where c.outcome in ('retry', 'wait')) as errors
        from app.outbound_calls as c
        where c.called_at > app.now() - interval '1 hour'
        group by c.provider, c.account_hash
    ),

    joined as (
        select
            coalesce(b.provider, c.provider) as provider,
            coalesce(b.account_hash, c.account_hash) as account_hash,
            app.breaker_state(b.half_open_at) as breaker,
            b.half_open_at,
            coalesce(c.calls, 0) as calls,
            coalesce(c.errors, 0) as errors,
            b.last_success_at
        from app.circuit_breakers as b
        full join counted as c
            on b.provider = c.provider and b.account_hash = c.account_hash
    )

    select
        j.provider,
        j.account_hash,
        app.health_state(j.breaker, j.calls, j.errors),
        j.breaker,
        j.half_open_at,
        j.calls,
        j.errors,
        j.last_success_at
    from joined as j
    order by j.provider, j.account_hash
$$;
comment on function app.integration_health() is
    'How each account at each provider is: breaker, calls and errors (retry, wait) of the last '
    'hour, last success. Operators.';

create function public.get_integration_health() returns table (
    provider text, title text, state text, breaker text, error_rate numeric,
    last_success_at timestamptz
)
language sql
stable
set search_path = ''
as $$
    select
        p.provider,
        p.title,
        case
            when count(h.account_hash) filter (where h.state <> 'unknown') = 0 then 'unknown'
            when bool_and(h.state = 'down') filter (where h.state <> 'unknown') then 'down'
            when bool_or(h.state in ('down', 'degraded')) then 'degraded'
            else 'up'
        end,
        case
            when bool_or(h.breaker = 'open') then 'open'
            when bool_or(h.breaker = 'half_open') then 'half_open'
            else 'closed'
        end,
        round(sum(h.errors) / nullif(sum(h.calls), 0), 3),
        max(h.last_success_at)
    from app.integration_providers as p
    left join app.integration_health() as h on p.provider = h.provider
    where p.is_service
    group by p.provider, p.title
    order by p.provider
$$;
comment on function public.get_integration_health() is
    'What anybody may know: per provider up, degraded (some accounts), down (all) or unknown (no '
    'call in the last hour); the worst breaker; share of failed calls in the last hour, null '
    'without any. No account, no organisation, no count. Worker and functions.';

create function app.list_integrations(org uuid) returns table (
    provider text, title text, status text, key_id text, stored_at timestamptz, state text,
    breaker text, calls bigint, errors bigint, last_success_at timestamptz
)
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    perform app.require_access(org, 'admin', 'read');
    return query
    with accounts as (
        select
            c.provider, c.account_hash,
            count(*) filter (where c.called_at > app.now() - interval '1 hour') as calls,
            count(*) filter (where c.called_at > app.now() - interval '1 hour'
                and c.outcome in ('retry', 'wait')) as errors,
            max(c.called_at) filter (where c.outcome = 'ok') as last_success_at
        from app.outbound_calls as c
        where c.org_id = org and c.called_at > app.now() - interval '1 day'
        group by c.provider, c.account_hash
    ),

    own as (
        select
            a.provider,
            case
                when bool_or(app.breaker_state(b.half_open_at) = 'open') then 'open'
                when bool_or(app.breaker_state(b.half_open_at) = 'half_open') then 'half_open'
                else 'closed'
            end as breaker,
            sum(a.calls)::bigint as calls,
            sum(a.errors)::bigint as errors,
            max(a.last_success_at) as last_success_at
        from accounts as a
        left join app.circuit_breakers as b
            on b.provider = a.provider and b.account_hash = a.account_hash
        group by a.provider
    )

    select
        p.provider, p.title, coalesce(c.status, 'not_connected'), c.key_id, c.stored_at,
        app.health_state(coalesce(o.breaker, 'closed'), coalesce(o.calls, 0),
            coalesce(o.errors, 0)),
        coalesce(o.breaker, 'closed'), coalesce(o.calls, 0), coalesce(o.errors, 0),
        o.last_success_at
    from app.integration_providers as p
    left join public.integration_credentials as c on c.org_id = org and c.provider = p.provider
    left join own as o on o.provider = p.provider
    where p.has_credentials or o.provider is not null
    order by p.provider;
end;
$$;
comment on function app.list_integrations(uuid) is 'Body of public.list_integrations.';

create function public.list_integrations(org uuid) returns table (
    provider text, title text, status text, key_id text, stored_at timestamptz, state text,
    breaker text, calls bigint, errors bigint, last_success_at timestamptz
)
language sql
stable
set search_path = ''
as $$ select * from app.list_integrations(org) $$;
comment on function public.list_integrations(uuid) is
    'The organisation''s own view: which providers are connected (status connected, rejected or '
    'not_connected), and how its calls of the last hour went. breaker: the worst of the accounts '
    'it called within a day. Owners and admins. Errors: not_allowed.';

create function app.forget_calls() returns bigint
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_calls bigint;
begin
    delete from app.outbound_calls as c where c.called_at < app.now() - interval '30 days';
    get diagnostics v_calls = row_count;
    delete from app.call_slots as s where s.free_at < app.now() - interval '1 day';
    delete from app.circuit_breakers as b
    where greatest(b.last_success_at, b.last_failure_at, b.half_open_at)
        < app.now() - interval '30 days';
    return v_calls;
end;
$$;
comment on function app.forget_calls() is
    'Job: removes calls older than 30 days, and what is known of accounts not called since. '
    'Returns how many calls.';

-- 3. Triggers

create trigger integration_credentials_70_emit
after insert or update or delete on public.integration_credentials
for each row execute function app.emit_integration_event();

create trigger integration_credentials_80_audit
after insert or update or delete on public.integration_credentials
for each row execute function app.audit_row();

-- 4. Views

create view public.outbound_calls with (security_invoker = true) as
select
    c.org_id,
    c.id,
    c.called_at,
    c.provider,
    c.account_hash,
    c.method,
    c.operation,
    c.attempt,
    c.outcome,
    c.error_kind,
    c.status,
    c.duration_ms,
    c.bytes,
    c.idempotency_hash
from app.outbound_calls as c;
comment on view public.outbound_calls is
    '[core] Calls of services outside in the name of the organisations whose administration the '
    'caller reads. The columns are those of app.outbound_calls.';

-- 5. Access

select app.protect_table('public.integration_credentials', 'admin', null, '{select}');
-- Members see which providers are connected; what they are connected with stays with the worker.
revoke select on public.integration_credentials from authenticated;
grant select (org_id, provider, key_id, status, stored_at, created_at, updated_at)
on public.integration_credentials to authenticated;

alter table app.integration_providers enable row level security;
alter table app.outbound_calls enable row level security;
alter table app.circuit_breakers enable row level security;
alter table app.call_slots enable row level security;
create policy integration_providers_select on app.integration_providers for select
to authenticated, service_role, analyst using (true);
grant select on app.integration_providers to authenticated, service_role, analyst;
create policy outbound_calls_select on app.outbound_calls for select to authenticated
using (org_id = any((select app.org_ids('admin', 'read'))::uuid[]));
grant select on app.outbound_calls, public.outbound_calls to authenticated, service_role;

grant execute on function
app.begin_call(uuid, text, text, jsonb, double precision),
app.end_call(
    uuid, text, text, jsonb, uuid, text, text, integer, text, text, integer, integer, bigint, text,
    double precision
),
app.store_credentials(uuid, text, bytea, text),
app.rotate_credentials(uuid, text, bytea, bytea, text), app.remove_credentials(uuid, text),
app.integration_health(), public.get_integration_health(), app.forget_calls()
to service_role;
grant execute on function public.list_integrations(uuid), app.list_integrations(uuid)
to authenticated, service_role;

-- 6. Reference rows

insert into app.integration_providers (provider, title, has_credentials, is_service) values
('bcb', 'Banco Central do Brasil', false, true),
('evolution', 'WhatsApp (Evolution)', true, true),
('github', 'GitHub', true, true),
('omie', 'Omie', true, true),
('resend', 'E-mail (Resend)', true, true),
('twilio', 'SMS (Twilio)', true, true),
('webhook', 'Webhooks', false, false);

insert into app.error_keys (key, http, meaning) values
('provider_unknown', 422, 'The service outside is not in the catalogue of providers.');

insert into app.event_types (module, event_type, description, payload_keys) values
('core', 'integration.connected', 'Credentials for a provider were given.', '{provider}'),
('core', 'integration.replaced', 'Other credentials for a provider were given.', '{provider}'),
('core', 'integration.rotated', 'Credentials were put under another key.', '{provider}'),
('core', 'integration.rejected', 'The provider refused the credentials.', '{provider}'),
('core', 'integration.accepted', 'The provider takes the credentials again.', '{provider}'),
('core', 'integration.removed', 'A provider was disconnected.', '{provider}');
