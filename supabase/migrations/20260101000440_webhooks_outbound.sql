-- Webhooks out: receivers an organisation names are told of its events, in order per entity.
-- Depends on: core, core_access, core_audit, events, jobs; at run time on notify.
-- Asked for by: domain §4 (subscriptions with handler webhook), anchors (webhooks out), Standard
-- Webhooks.

-- 1. Tables

create table public.webhook_endpoints (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    url text not null constraint webhook_endpoints_url_check check (length(url) <= 2000),
    description text not null default ''
        constraint webhook_endpoints_description_check check (length(description) <= 200),
    paused_at timestamptz,
    paused_reason text constraint webhook_endpoints_paused_reason_check
        check (paused_reason in ('manual', 'failing', 'gone')),
    first_failure_at timestamptz,
    next_probe_at timestamptz,
    last_success_at timestamptz,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    constraint webhook_endpoints_paused_check
        check ((paused_at is null) = (paused_reason is null))
);
comment on table public.webhook_endpoints is
    '[events] Receivers outside: each is sent the events its subscriptions (handler webhook) '
    'match. Changed only through the functions.';
comment on column public.webhook_endpoints.url is
    '[pii] Where events are posted to. It may hold a token, hence neither analysts nor the audit '
    'log see it.';
comment on column public.webhook_endpoints.paused_reason is
    'manual; failing: nothing but failures for 24 hours; gone: it answered 410. Deliveries wait '
    'for resume_webhook_endpoint.';
comment on column public.webhook_endpoints.first_failure_at is
    'First failure after the last success; null while it works.';
comment on column public.webhook_endpoints.next_probe_at is
    'A failing receiver is left alone until then: a quarter of the time it has been failing, at '
    'most 15 minutes.';

create table app.webhook_secrets (
    org_id uuid not null,
    endpoint_id uuid not null,
    id uuid not null default gen_random_uuid(),
    secret text not null,
    created_at timestamptz not null default app.now(),
    expires_at timestamptz,
    primary key (org_id, endpoint_id, id),
    foreign key (org_id, endpoint_id)
    references public.webhook_endpoints (org_id, id) on delete cascade
);
comment on table app.webhook_secrets is
    '[events] What deliveries are signed with; the owner of the database alone reaches it. Not '
    'encrypted: whoever reads it could as well write the events that are signed, and so one '
    'transaction makes an endpoint and shows its secret.';
comment on column app.webhook_secrets.expires_at is
    'End of the grace period after a rotation, in which both secrets sign; null for the current '
    'one.';

create sequence app.webhook_sequence;
comment on sequence app.webhook_sequence is
    'Order in which deliveries were caused. No key: gaps and other tenants'' numbers mean nothing.';

create table public.webhook_deliveries (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    endpoint_id uuid not null,
    event_id uuid not null,
    event_type text not null,
    entity_key text not null,
    sequence bigint not null,
    payload text not null,
    is_test boolean not null default false,
    status text not null default 'pending' constraint webhook_deliveries_status_check
        check (status in ('pending', 'delivering', 'delivered', 'exhausted', 'cancelled')),
    is_behind boolean not null default false,
    attempts integer not null default 0
        constraint webhook_deliveries_attempts_check check (attempts >= 0),
    first_attempt_at timestamptz,
    next_attempt_at timestamptz not null default app.now(),
    claim_expires_at timestamptz,
    last_status_code integer,
    last_error text,
    delivered_at timestamptz,
    created_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, endpoint_id, event_id),
    foreign key (org_id, endpoint_id)
    references public.webhook_endpoints (org_id, id) on delete cascade,
    constraint webhook_deliveries_claim_check
        check ((status = 'delivering') = (claim_expires_at is not null)),
    constraint webhook_deliveries_delivered_check
        check ((status = 'delivered') = (delivered_at is not null))
);
comment on table public.webhook_deliveries is
    '[events] One row per event and endpoint, written in the transaction of the event. Sent again '
    'it has the same id and the same bytes.';
comment on column public.webhook_deliveries.event_id is
    'Header webhook-id: the event (a test has none and an id of its own).';
comment on column public.webhook_deliveries.event_type is 'As a subscription matches it: '
    'fin.contract.active.';
comment on column public.webhook_deliveries.entity_key is
    'Entity type and id: of one entity, an event waits for the events before it.';
comment on column public.webhook_deliveries.payload is
    'The body, to the byte: what is signed and sent, whenever.';
comment on column public.webhook_deliveries.status is
    'exhausted: given up after about a day; cancelled: skipped when the endpoint was resumed. '
    'Both can be replayed.';
comment on column public.webhook_deliveries.is_behind is
    'It was found to wait for an earlier event of its entity; looked at again when that is over.';
comment on column public.webhook_deliveries.attempts is
    'Attempts since it was caused, replayed or resumed.';
comment on column public.webhook_deliveries.claim_expires_at is
    'A worker is sending it until then; later it has died, and the delivery is sent again.';
comment on column public.webhook_deliveries.last_error is
    'Why the last attempt failed, in our words; null after an answer of 2xx.';
create index webhook_deliveries_due_idx
on public.webhook_deliveries (org_id, endpoint_id, next_attempt_at, sequence)
where status = 'pending' and not is_behind;
create index webhook_deliveries_entity_idx
on public.webhook_deliveries (org_id, endpoint_id, entity_key, sequence)
where status in ('pending', 'delivering');
create index webhook_deliveries_claimed_idx
on public.webhook_deliveries (org_id, endpoint_id) where status = 'delivering';
create index webhook_deliveries_created_at_idx
on public.webhook_deliveries (org_id, created_at);

create table public.webhook_attempts (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    delivery_id uuid not null,
    attempted_at timestamptz not null default app.now(),
    status_code integer,
    error text,
    duration_ms integer not null,
    primary key (org_id, id),
    foreign key (org_id, delivery_id)
    references public.webhook_deliveries (org_id, id) on delete cascade
);
comment on table public.webhook_attempts is
    '[events] Every attempt to send a delivery. What the receiver answered is not kept: it may '
    'hold secrets of his.';
comment on column public.webhook_attempts.status_code is 'HTTP status; null without an answer.';
comment on column public.webhook_attempts.error is
    'Why it failed, in our words; null after an answer of 2xx.';
create index webhook_attempts_delivery_id_idx
on public.webhook_attempts (org_id, delivery_id, attempted_at);

alter table public.event_subscriptions add constraint event_subscriptions_endpoint_id_fkey
foreign key (org_id, endpoint_id)
references public.webhook_endpoints (org_id, id) on delete cascade;
create index event_subscriptions_endpoint_id_idx
on public.event_subscriptions (org_id, endpoint_id) where endpoint_id is not null;

-- 2. Functions: endpoints

create function app.check_webhook_url(url text) returns text
language plpgsql
immutable
set search_path = ''
as $$
declare
    v_host text;
    v_port integer;
begin
    -- A name, never an address; the worker resolves it and refuses what lies inside. A receiver on
    -- the developer's own machine is taken here, and refused by every worker that is not told
    -- otherwise.
    if length(url) <= 2000 and url ~ '^https://[A-Za-z0-9.-]+(:\d{1,5})?([/?][!-~]*)?$'
        and url !~ '[#\\<>"^`{|}]' then
        v_host := lower(substring(url from '^https://([A-Za-z0-9.-]+)'));
        v_port := coalesce(substring(url from '^https://[A-Za-z0-9.-]+:(\d+)'), '443')::integer;
        if length(v_host) <= 253
            and v_host ~ '^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])$'
            and v_host !~ '\.(localhost|local|internal|arpa)$'
            and (v_port = 443 or v_port between 1024 and 65535) then
            return url;
        end if;
    elsif length(url) <= 2000
        and url ~ '^http://(localhost|127\.0\.0\.1)(:\d{1,5})?([/?][!-~]*)?$'
        and url !~ '[#\\<>"^`{|}]' then
        return url;
    end if;
    perform app.raise_error(
        'webhook_url_refused',
        'A receiver is an https address with a public host name, port 443 or above 1023, '
        'without user, password or fragment.',
        'Use the form https://hooks.example.com/path.'
    );
    return null;
end;
$$;
comment on function app.check_webhook_url(text) is
    'Returns the address if events may be sent there, as far as it can be told without asking '
    'the DNS. Errors: webhook_url_refused.';

create function app.locked_webhook_endpoint(org uuid, endpoint uuid)
returns public.webhook_endpoints
language plpgsql
set search_path = ''
as $$
declare
    v_endpoint public.webhook_endpoints;
begin
    perform app.require_access(org, 'admin', 'write');
    -- Whatever looks at or moves deliveries of an endpoint holds its row. Not against the key: an
    -- event that is being recorded refers to it and must not wait.
    select e.* into v_endpoint from public.webhook_endpoints as e
    where e.org_id = org and e.id = endpoint
    for no key update;
    if v_endpoint.id is null then
        perform app.raise_error('not_found', 'There is no such endpoint.', null);
    end if;
    return v_endpoint;
end;
$$;
comment on function app.locked_webhook_endpoint(uuid, uuid) is
    'The endpoint, locked, for a caller who may write admin. Errors: not_allowed, not_found.';

create function app.set_webhook_patterns(org uuid, endpoint uuid, patterns text[]) returns void
language plpgsql
set search_path = ''
as $$
declare
    v_unknown text;
begin
    if coalesce(cardinality(patterns), 0) not between 1 and 50 then
        perform app.raise_error('bad_input', 'An endpoint has 1 to 50 patterns of events.', null);
    end if;
    delete from public.event_subscriptions as s
    where s.org_id = org and s.endpoint_id = endpoint and s.pattern <> all (patterns);
    begin
        insert into public.event_subscriptions (org_id, pattern, handler, endpoint_id)
        select distinct org, p.pattern, 'webhook', endpoint
        from unnest(patterns) as p (pattern)
        where not exists (
            select from public.event_subscriptions as s
            where s.org_id = org and s.endpoint_id = endpoint and s.pattern = p.pattern
        );
    exception when check_violation or not_null_violation then
        perform app.raise_error(
            'bad_input', 'A pattern is module.entity.change, with * for the rest.',
            'For example fin.contract.* or *.'
        );
    end;
    select min(s.pattern) into v_unknown from public.event_subscriptions as s
    where
        s.org_id = org and s.endpoint_id = endpoint
        and not exists (
            select from app.event_types as t
            where (t.module || '.' || t.event_type) like s.like_pattern
        );
    if v_unknown is not null then
        perform app.raise_error(
            'webhook_pattern_unknown', format('No event is called %s.', v_unknown),
            'The events stand in app.event_types.'
        );
    end if;
end;
$$;
comment on function app.set_webhook_patterns(uuid, uuid, text[]) is
    'Makes the endpoint''s subscriptions these. Errors: bad_input, webhook_pattern_unknown.';

create function app.add_webhook_secret(org uuid, endpoint uuid) returns text
language sql
set search_path = ''
as $$
    insert into app.webhook_secrets (org_id, endpoint_id, secret)
    values (
        org, endpoint,
        'whsec_' || encode(
            sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'base64'
        )
    )
    returning secret
$$;
comment on function app.add_webhook_secret(uuid, uuid) is
    'Makes a secret of 32 random bytes, written as Standard Webhooks has it.';

create function app.create_webhook_endpoint(
    org uuid, url text, patterns text[], description text
) returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_id uuid;
begin
    perform app.require_access(org, 'admin', 'write');
    -- One at a time, so that the limit holds.
    perform from public.organizations as o where o.id = org for no key update;
    if (select count(*) from public.webhook_endpoints as e where e.org_id = org) >= 50 then
        perform app.raise_error(
            'webhook_endpoint_limit', 'An organisation has at most 50 endpoints.',
            'Delete one that is not needed.'
        );
    end if;
    insert into public.webhook_endpoints (org_id, url, description)
    values (
        org, app.check_webhook_url(create_webhook_endpoint.url),
        coalesce(app.clean_text(create_webhook_endpoint.description, 200), '')
    )
    returning id into v_id;
    perform app.set_webhook_patterns(org, v_id, patterns);
    perform app.record_event(org, 'admin', 'webhook_endpoint.created', 'webhook_endpoint', v_id);
    return jsonb_build_object('id', v_id, 'secret', app.add_webhook_secret(org, v_id));
end;
$$;
comment on function app.create_webhook_endpoint(uuid, text, text[], text) is
    'Body of public.create_webhook_endpoint.';

create function public.create_webhook_endpoint(
    org uuid, url text, patterns text[], description text default null
) returns jsonb
language sql
set search_path = ''
as $$ select app.create_webhook_endpoint(org, url, patterns, description) $$;
comment on function public.create_webhook_endpoint(uuid, text, text[], text) is
    'Has events that match the patterns (fin.contract.*) posted to an https address; answers {id, '
    'secret}, the secret is shown only now. Owners and admins. Errors: not_allowed, bad_input, '
    'webhook_url_refused, webhook_pattern_unknown, webhook_endpoint_limit.';

create function app.update_webhook_endpoint(
    org uuid, endpoint uuid, url text, patterns text[], description text
) returns public.webhook_endpoints
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_endpoint public.webhook_endpoints := app.locked_webhook_endpoint(org, endpoint);
begin
    update public.webhook_endpoints as e
    set
        url = case when update_webhook_endpoint.url is null then e.url
            else app.check_webhook_url(update_webhook_endpoint.url) end,
        description = case when update_webhook_endpoint.description is null then e.description
            else coalesce(app.clean_text(update_webhook_endpoint.description, 200), '') end
    where e.org_id = org and e.id = endpoint
    returning e.* into v_endpoint;
    if patterns is not null then
        perform app.set_webhook_patterns(org, endpoint, patterns);
    end if;
    perform app.record_event(org, 'admin', 'webhook_endpoint.updated', 'webhook_endpoint',
        endpoint);
    return v_endpoint;
end;
$$;
comment on function app.update_webhook_endpoint(uuid, uuid, text, text[], text) is
    'Body of public.update_webhook_endpoint.';

create function public.update_webhook_endpoint(
    org uuid,
    endpoint uuid,
    url text default null,
    patterns text[] default null,
    description text default null
) returns public.webhook_endpoints
language sql
set search_path = ''
as $$ select app.update_webhook_endpoint(org, endpoint, url, patterns, description) $$;
comment on function public.update_webhook_endpoint(uuid, uuid, text, text[], text) is
    'Changes what is given of an endpoint; what waits goes to the new address. Owners and admins. '
    'Errors: not_allowed, not_found, bad_input, webhook_url_refused, webhook_pattern_unknown.';

create function app.pause_webhook_endpoint(org uuid, endpoint uuid)
returns public.webhook_endpoints
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_endpoint public.webhook_endpoints := app.locked_webhook_endpoint(org, endpoint);
begin
    if v_endpoint.paused_at is null then
        update public.webhook_endpoints as e set paused_at = app.now(), paused_reason = 'manual'
        where e.org_id = org and e.id = endpoint
        returning e.* into v_endpoint;
        perform app.record_event(org, 'admin', 'webhook_endpoint.paused', 'webhook_endpoint',
            endpoint, jsonb_build_object('reason', 'manual'));
    end if;
    return v_endpoint;
end;
$$;
comment on function app.pause_webhook_endpoint(uuid, uuid) is
    'Body of public.pause_webhook_endpoint.';

create function public.pause_webhook_endpoint(org uuid, endpoint uuid)
returns public.webhook_endpoints
language sql
set search_path = ''
as $$ select app.pause_webhook_endpoint(org, endpoint) $$;
comment on function public.pause_webhook_endpoint(uuid, uuid) is
    'Sends nothing more to the endpoint; its events wait. Again is no error. Owners and admins. '
    'Errors: not_allowed, not_found.';

create function app.resume_webhook_endpoint(org uuid, endpoint uuid, skip_backlog boolean)
returns public.webhook_endpoints
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_endpoint public.webhook_endpoints := app.locked_webhook_endpoint(org, endpoint);
begin
    update public.webhook_endpoints as e
    set paused_at = null, paused_reason = null, first_failure_at = null, next_probe_at = null
    where e.org_id = org and e.id = endpoint
    returning e.* into v_endpoint;
    update public.webhook_deliveries as d
    set
        status = case when skip_backlog then 'cancelled' else 'pending' end,
        attempts = 0, first_attempt_at = null, next_attempt_at = app.now()
    where
        d.org_id = org and d.endpoint_id = endpoint and d.status = 'pending'
        and (skip_backlog or d.attempts > 0);
    perform app.record_event(org, 'admin', 'webhook_endpoint.resumed', 'webhook_endpoint',
        endpoint);
    perform app.wake_webhook_endpoint(org, endpoint, app.now());
    return v_endpoint;
end;
$$;
comment on function app.resume_webhook_endpoint(uuid, uuid, boolean) is
    'Body of public.resume_webhook_endpoint.';

create function public.resume_webhook_endpoint(
    org uuid, endpoint uuid, skip_backlog boolean default false
) returns public.webhook_endpoints
language sql
set search_path = ''
as $$ select app.resume_webhook_endpoint(org, endpoint, skip_backlog) $$;
comment on function public.resume_webhook_endpoint(uuid, uuid, boolean) is
    'Sends to the endpoint again, at once and in order what has waited; with skip_backlog that is '
    'cancelled instead. Owners and admins. Errors: not_allowed, not_found.';

create function app.delete_webhook_endpoint(org uuid, endpoint uuid) returns void
language plpgsql
security definer
set search_path = ''
as $$
begin
    perform app.locked_webhook_endpoint(org, endpoint);
    delete from public.webhook_endpoints as e where e.org_id = org and e.id = endpoint;
    perform app.record_event(org, 'admin', 'webhook_endpoint.deleted', 'webhook_endpoint',
        endpoint);
end;
$$;
comment on function app.delete_webhook_endpoint(uuid, uuid) is
    'Body of public.delete_webhook_endpoint.';

create function public.delete_webhook_endpoint(org uuid, endpoint uuid) returns void
language sql
set search_path = ''
as $$ select app.delete_webhook_endpoint(org, endpoint) $$;
comment on function public.delete_webhook_endpoint(uuid, uuid) is
    'Removes an endpoint with its secrets, its deliveries and what still waits. Owners and admins. '
    'Errors: not_allowed, not_found.';

create function app.rotate_webhook_secret(org uuid, endpoint uuid, grace_hours integer)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_until timestamptz := app.now() + make_interval(hours => grace_hours);
begin
    if grace_hours between 0 and 168 is not true then
        perform app.raise_error('bad_input', 'The grace period is 0 to 168 hours.', null);
    end if;
    perform app.locked_webhook_endpoint(org, endpoint);
    delete from app.webhook_secrets as s
    where s.org_id = org and s.endpoint_id = endpoint and s.expires_at is not null;
    update app.webhook_secrets as s set expires_at = v_until
    where s.org_id = org and s.endpoint_id = endpoint;
    perform app.record_event(org, 'admin', 'webhook_endpoint.secret_rotated', 'webhook_endpoint',
        endpoint);
    return jsonb_build_object(
        'id', endpoint, 'secret', app.add_webhook_secret(org, endpoint), 'previous_until', v_until
    );
end;
$$;
comment on function app.rotate_webhook_secret(uuid, uuid, integer) is
    'Body of public.rotate_webhook_secret.';

create function public.rotate_webhook_secret(
    org uuid, endpoint uuid, grace_hours integer default 24
) returns jsonb
language sql
set search_path = ''
as $$ select app.rotate_webhook_secret(org, endpoint, grace_hours) $$;
comment on function public.rotate_webhook_secret(uuid, uuid, integer) is
    'Gives the endpoint a new secret, shown only now; for grace_hours (0 where the old one has '
    'leaked) both sign. A secret still in grace from an earlier rotation ends. Owners and admins. '
    'Errors: not_allowed, not_found, bad_input.';

-- 2. Functions: what is to be sent

create function app.wake_webhook_endpoint(org uuid, endpoint uuid, at timestamptz) returns bigint
language sql
set search_path = ''
as $$
    select app.enqueue(
        'webhook.deliver', jsonb_build_object('endpoint_id', endpoint), org,
        'webhook.deliver/' || endpoint || '/' || extract(epoch from at),
        greatest(at - app.now(), '0')
    )
$$;
comment on function app.wake_webhook_endpoint(uuid, uuid, timestamptz) is
    'Has a worker look at the endpoint at a moment; asked twice for one moment, it looks once.';

create function app.queue_webhook(
    org uuid,
    endpoint uuid,
    event uuid,
    event_type text,
    entity_type text,
    entity_id uuid,
    payload jsonb,
    occurred_at timestamptz
) returns void
language plpgsql
security definer
set search_path = ''
as $$
begin
    insert into public.webhook_deliveries (
        org_id, endpoint_id, event_id, event_type, entity_key, sequence, payload
    ) values (
        org, endpoint, event, queue_webhook.event_type,
        queue_webhook.entity_type || '/' || coalesce(queue_webhook.entity_id, event),
        nextval('app.webhook_sequence'),
        json_build_object(
            'type', queue_webhook.event_type,
            'timestamp', to_jsonb(queue_webhook.occurred_at at time zone 'UTC') #>> '{}' || 'Z',
            'data', json_build_object(
                'org_id', org,
                'entity_type', queue_webhook.entity_type,
                'entity_id', queue_webhook.entity_id,
                'payload', queue_webhook.payload
            )
        )
    )
    on conflict (org_id, endpoint_id, event_id) do nothing;
    -- Once per transaction, however many events it has; no other transaction has this key, so none
    -- waits for this one.
    perform app.enqueue(
        'webhook.deliver', jsonb_build_object('endpoint_id', endpoint), org,
        'webhook.deliver/' || endpoint || '/' || pg_current_xact_id()
    );
end;
$$;
comment on function app.queue_webhook(
    uuid, uuid, uuid, text, text, uuid, jsonb, timestamptz
) is
    'Writes the delivery of an event to an endpoint, in the transaction of the event.';

create function app.replay_webhook_deliveries(
    org uuid,
    endpoint uuid,
    from_at timestamptz,
    to_at timestamptz,
    events uuid[],
    statuses text[]
) returns integer
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_replayed integer;
begin
    perform app.locked_webhook_endpoint(org, endpoint);
    if events is null and (from_at is null or to_at is null) then
        perform app.raise_error(
            'bad_input', 'A replay needs from_at and to_at, or the events.', null
        );
    end if;
    if statuses <@ '{delivered,exhausted,cancelled}' is not true then
        perform app.raise_error(
            'bad_input', 'Only what is delivered, exhausted or cancelled can be replayed.', null
        );
    end if;
    update public.webhook_deliveries as d
    set
        status = 'pending', is_behind = false, attempts = 0, first_attempt_at = null,
        next_attempt_at = app.now(), delivered_at = null
    where
        d.org_id = org and d.endpoint_id = endpoint and not d.is_test
        and d.status = any (statuses)
        and (from_at is null or d.created_at >= from_at)
        and (to_at is null or d.created_at < to_at)
        and (events is null or d.event_id = any (events));
    get diagnostics v_replayed = row_count;
    if v_replayed > 0 then
        perform app.wake_webhook_endpoint(org, endpoint, app.now());
    end if;
    return v_replayed;
end;
$$;
comment on function app.replay_webhook_deliveries(
    uuid, uuid, timestamptz, timestamptz, uuid[], text[]
) is
    'Body of public.replay_webhook_deliveries.';

create function public.replay_webhook_deliveries(
    org uuid,
    endpoint uuid,
    from_at timestamptz default null,
    to_at timestamptz default null,
    events uuid[] default null,
    statuses text[] default '{delivered,exhausted,cancelled}'
) returns integer
language sql
set search_path = ''
as $$
    select app.replay_webhook_deliveries(org, endpoint, from_at, to_at, events, statuses)
$$;
comment on function public.replay_webhook_deliveries(
    uuid, uuid, timestamptz, timestamptz, uuid[], text[]
) is
    'Sends deliveries of the events from from_at to before to_at, or of the events named, once '
    'more: same id, same bytes, in order; statuses narrows it, {exhausted} repairs a failure. '
    'Returns how many. Owners and admins. Errors: not_allowed, not_found, bad_input.';

create function app.send_test_webhook(org uuid, endpoint uuid) returns uuid
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_id uuid := gen_random_uuid();
    v_delivery uuid;
begin
    perform app.locked_webhook_endpoint(org, endpoint);
    perform app.rate_limit('send_test_webhook/' || endpoint, 10, interval '1 minute');
    insert into public.webhook_deliveries (
        org_id, endpoint_id, event_id, event_type, entity_key, sequence, payload, is_test,
        next_attempt_at
    ) values (
        org, endpoint, v_id, 'webhook.test', 'test/' || v_id, nextval('app.webhook_sequence'),
        json_build_object(
            'type', 'webhook.test',
            'timestamp', to_jsonb(app.now() at time zone 'UTC') #>> '{}' || 'Z',
            'data', json_build_object('org_id', org)
        ),
        true, '-infinity'
    )
    returning id into v_delivery;
    perform app.wake_webhook_endpoint(org, endpoint, app.now());
    return v_delivery;
end;
$$;
comment on function app.send_test_webhook(uuid, uuid) is 'Body of public.send_test_webhook.';

create function public.send_test_webhook(org uuid, endpoint uuid) returns uuid
language sql
set search_path = ''
as $$ select app.send_test_webhook(org, endpoint) $$;
comment on function public.send_test_webhook(uuid, uuid) is
    'Sends {"type": "webhook.test"}, once, also to a paused endpoint; returns the delivery, which '
    'then tells how it went. Owners and admins, 10 a minute. Errors: not_allowed, not_found, '
    'rate_limited.';

-- 2. Functions: what the worker calls

create function app.claim_webhook_deliveries(org uuid, endpoint uuid)
returns table (
    delivery_id uuid, message_id uuid, attempt integer, url text, payload text, secrets text[]
)
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_endpoint public.webhook_endpoints;
    v_due timestamptz;
    v_free integer;
    v_heads uuid[];
    v_behind uuid[];
    v_next timestamptz;
begin
    select e.* into v_endpoint
    from public.webhook_endpoints as e
    inner join public.organizations as o on o.id = e.org_id
    where e.org_id = org and e.id = endpoint and o.status <> 'inactive'
    for no key update of e;
    if v_endpoint.id is null then
        return;
    end if;
    update public.webhook_deliveries as d set status = 'pending', claim_expires_at = null
    where
        d.org_id = org and d.endpoint_id = endpoint and d.status = 'delivering'
        and d.claim_expires_at <= app.now();
    -- A test is due at -infinity: it is sent in any case.
    v_due := case
        when v_endpoint.paused_at is not null or v_endpoint.next_probe_at > app.now()
            then '-infinity'
        else app.now()
    end;
    -- A receiver that fails is probed with one delivery.
    v_free := case when v_endpoint.first_failure_at is null then 5 else 1 end - (
        select count(*) from public.webhook_deliveries as d
        where d.org_id = org and d.endpoint_id = endpoint and d.status = 'delivering'
    );
    while v_free > 0 loop
        select
            (array_agg(c.id order by c.place) filter (where c.is_head))[1:v_free],
            array_agg(c.id) filter (where not c.is_head)
        into v_heads, v_behind
        from (
            select
                d.id,
                row_number() over (order by d.next_attempt_at, d.sequence) as place,
                not exists (
                    select from public.webhook_deliveries as f
                    where
                        f.org_id = org and f.endpoint_id = endpoint
                        and f.entity_key = d.entity_key and f.status in ('pending', 'delivering')
                        and (f.sequence < d.sequence or f.status = 'delivering')
                ) as is_head
            from public.webhook_deliveries as d
            where
                d.org_id = org and d.endpoint_id = endpoint
                and d.status = 'pending' and not d.is_behind and d.next_attempt_at <= v_due
            order by d.next_attempt_at, d.sequence
            limit 100
        ) as c;
        -- What waits for an earlier one leaves the list, so that a long queue of one entity is read
        -- once and does not hide the others.
        update public.webhook_deliveries as d set is_behind = true
        where d.org_id = org and d.id = any (v_behind);
        exit when v_heads is not null or v_behind is null;
    end loop;
    if v_heads is not null then
        return query
        with claimed as (
            update public.webhook_deliveries as d
            set
                status = 'delivering', attempts = d.attempts + 1,
                first_attempt_at = coalesce(d.first_attempt_at, app.now()),
                claim_expires_at = app.now() + interval '30 seconds'
            where d.org_id = org and d.id = any (v_heads)
            returning d.id, d.event_id, d.attempts, d.payload, d.sequence
        )

        select
            c.id, c.event_id, c.attempts, v_endpoint.url, c.payload,
            array(
                select s.secret from app.webhook_secrets as s
                where
                    s.org_id = org and s.endpoint_id = endpoint
                    and coalesce(s.expires_at > app.now(), true)
                order by s.expires_at desc nulls first
            )
        from claimed as c
        order by c.sequence;
        return;
    end if;
    -- Nothing to send now: look again when there is. Where as much as may be is under way, whoever
    -- sends it looks again himself, unless he dies.
    select min(t.at) into v_next
    from (
        (select greatest(d.next_attempt_at, v_endpoint.next_probe_at) as at
        from public.webhook_deliveries as d
        where
            d.org_id = org and d.endpoint_id = endpoint and d.status = 'pending'
            and not d.is_behind and v_endpoint.paused_at is null and v_free > 0
        order by d.next_attempt_at
        limit 1)
        union all
        select d.claim_expires_at from public.webhook_deliveries as d
        where d.org_id = org and d.endpoint_id = endpoint and d.status = 'delivering'
    ) as t;
    if v_next is not null then
        perform app.wake_webhook_endpoint(org, endpoint, v_next);
    end if;
end;
$$;
comment on function app.claim_webhook_deliveries(uuid, uuid) is
    'Job: gives the caller up to five deliveries of the endpoint to send within 30 seconds, one '
    'per entity and the earliest of it; nobody else gets them meanwhile. If there is nothing to '
    'send, the next look is enqueued.';

create function app.note_webhook_attempt(
    org uuid,
    delivery uuid,
    attempt integer,
    status_code integer,
    error text,
    duration_ms integer,
    retry_after_s integer
) returns text
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_endpoint public.webhook_endpoints;
    v_delivery public.webhook_deliveries;
    v_now timestamptz := app.now();
    v_next timestamptz;
    v_pause_at timestamptz;
    v_reason text;
begin
    select e.* into v_endpoint
    from public.webhook_endpoints as e
    inner join public.webhook_deliveries as d on d.org_id = e.org_id and d.endpoint_id = e.id
    where d.org_id = org and d.id = delivery
    for no key update of e;
    if v_endpoint.id is null then
        return 'deleted';
    end if;
    select d.* into v_delivery from public.webhook_deliveries as d
    where d.org_id = org and d.id = delivery;
    insert into public.webhook_attempts (
        org_id, delivery_id, attempted_at, status_code, error, duration_ms
    ) values (
        org, delivery, v_now, note_webhook_attempt.status_code, note_webhook_attempt.error,
        note_webhook_attempt.duration_ms
    );
    -- A worker that was thought dead reports: that it was received is true all the same, that it
    -- was not is for the one who has it now to find.
    if v_delivery.status not in ('pending', 'delivering')
        or error is not null
        and (v_delivery.status <> 'delivering' or v_delivery.attempts <> attempt) then
        return 'late';
    end if;

    if error is null then
        update public.webhook_deliveries as d
        set
            status = 'delivered', claim_expires_at = null, delivered_at = v_now,
            last_status_code = note_webhook_attempt.status_code, last_error = null
        where d.org_id = org and d.id = delivery;
        -- After an outage, what failed in it need not wait for its own next attempt. A receiver
        -- that only refuses one delivery is not let off with this more than once an hour.
        if v_endpoint.first_failure_at <= v_now - interval '1 hour' then
            update public.webhook_deliveries as d set next_attempt_at = v_now
            where
                d.org_id = org and d.endpoint_id = v_endpoint.id and d.status = 'pending'
                and not d.is_behind and d.next_attempt_at > v_now;
        end if;
        update public.webhook_endpoints as e
        set first_failure_at = null, next_probe_at = null, last_success_at = v_now
        where
            e.org_id = org and e.id = v_endpoint.id
            and (
                e.first_failure_at is not null
                or coalesce(e.last_success_at < v_now - interval '1 minute', true)
            );
    else
        v_endpoint.first_failure_at := coalesce(v_endpoint.first_failure_at, v_now);
        v_pause_at := v_endpoint.first_failure_at + interval '24 hours';
        v_next := greatest(
            -- Never past the moment that decides about the receiver.
            least(
                v_now + (array[
                    interval '5 seconds', interval '5 minutes', interval '30 minutes',
                    interval '2 hours', interval '5 hours', interval '10 hours'
                ])[least(attempt, 6)] * (1 + random() * 0.1),
                v_pause_at
            ),
            v_now + make_interval(
                secs => case when retry_after_s > 86400 then 86400 else retry_after_s end
            )
        );
        v_reason := case
            when status_code = 410 then 'gone'
            when v_pause_at <= v_now then 'failing'
        end;
        update public.webhook_deliveries as d
        set
            -- The outage of a receiver exhausts nothing: it is paused, and its deliveries wait.
            status = case
                when d.is_test then 'exhausted'
                when v_reason is null and v_next > d.first_attempt_at + interval '32 hours'
                    then 'exhausted'
                else 'pending'
            end,
            claim_expires_at = null, next_attempt_at = v_next,
            last_status_code = note_webhook_attempt.status_code,
            last_error = note_webhook_attempt.error
        where d.org_id = org and d.id = delivery
        returning d.* into v_delivery;
        if v_delivery.is_test then
            return v_delivery.status;
        end if;
        update public.webhook_endpoints as e
        set
            first_failure_at = v_endpoint.first_failure_at,
            next_probe_at = v_now
                + least((v_now - v_endpoint.first_failure_at) / 4, interval '15 minutes'),
            paused_at = coalesce(e.paused_at, case when v_reason is not null then v_now end),
            paused_reason = coalesce(e.paused_reason, v_reason)
        where e.org_id = org and e.id = v_endpoint.id;
        if v_reason is not null and v_endpoint.paused_at is null then
            perform app.record_event(org, 'admin', 'webhook_endpoint.paused', 'webhook_endpoint',
                v_endpoint.id, jsonb_build_object('reason', v_reason));
        end if;
        if v_delivery.status = 'exhausted' then
            perform app.record_event(org, 'admin', 'webhook_delivery.exhausted',
                'webhook_delivery', delivery,
                jsonb_build_object('endpoint_id', v_endpoint.id, 'event_id', v_delivery.event_id));
        end if;
    end if;
    if v_delivery.status <> 'pending' or error is null then
        update public.webhook_deliveries as d set is_behind = false
        where
            d.org_id = org and d.is_behind and d.id = (
                select f.id from public.webhook_deliveries as f
                where
                    f.org_id = org and f.endpoint_id = v_endpoint.id
                    and f.entity_key = v_delivery.entity_key and f.status = 'pending'
                order by f.sequence
                limit 1
            );
    end if;
    return case when error is null then 'delivered' else v_delivery.status end;
end;
$$;
comment on function app.note_webhook_attempt(uuid, uuid, integer, integer, text, integer, integer)
is
    'Job: writes down how an attempt went and what follows: the next event of the entity, another '
    'attempt (after 5 s, 5 min, 30 min, 2, 5, 10, 10 hours, or what the receiver asks for), the '
    'end, or a pause. Returns the delivery''s state, or late where somebody else has it.';

create function app.return_webhook_delivery(
    org uuid, delivery uuid, attempt integer, wait_s double precision
) returns void
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_until timestamptz := app.now() + make_interval(secs => greatest(wait_s, 1));
    v_endpoint uuid;
begin
    select e.id into v_endpoint
    from public.webhook_endpoints as e
    inner join public.webhook_deliveries as d on d.org_id = e.org_id and d.endpoint_id = e.id
    where d.org_id = org and d.id = delivery
    for no key update of e;
    update public.webhook_deliveries as d
    set
        status = 'pending', claim_expires_at = null, attempts = d.attempts - 1,
        next_attempt_at = case when d.is_test then d.next_attempt_at else v_until end
    where
        d.org_id = org and d.id = delivery and d.status = 'delivering' and d.attempts = attempt;
    if found then
        update public.webhook_endpoints as e
        set next_probe_at = greatest(e.next_probe_at, v_until)
        where e.org_id = org and e.id = v_endpoint;
    end if;
end;
$$;
comment on function app.return_webhook_delivery(uuid, uuid, integer, double precision) is
    'Job: gives a claimed delivery back that was not sent, and leaves its endpoint alone for so '
    'long.';

create function app.wake_webhook_endpoints() returns integer
language sql
security definer
set search_path = ''
as $$
    select count(app.wake_webhook_endpoint(e.org_id, e.id, app.now()))::integer
    from public.webhook_endpoints as e
    inner join public.organizations as o on o.id = e.org_id
    where
        o.status <> 'inactive' and e.paused_at is null and coalesce(e.next_probe_at <= app.now(), true)
        and exists (
            select from public.webhook_deliveries as d
            where
                d.org_id = e.org_id and d.endpoint_id = e.id and d.status = 'pending'
                and not d.is_behind and d.next_attempt_at <= app.now() - interval '1 minute'
        )
$$;
comment on function app.wake_webhook_endpoints() is
    'Job: has a worker look at endpoints whose deliveries are overdue, as when their job was '
    'discarded. Returns how many.';

create function app.remove_old_webhook_deliveries() returns bigint
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_removed bigint;
begin
    with kept as materialized (
        select
            o.id,
            app.now() - make_interval(
                days => (app.org_setting(o.id, 'webhook_retention_days'))::integer
            ) as since_at
        from public.organizations as o
    )

    delete from public.webhook_deliveries as d
    using kept as k
    where d.org_id = k.id and d.created_at < k.since_at and d.status <> 'delivering';
    get diagnostics v_removed = row_count;
    delete from app.webhook_secrets as s where s.expires_at <= app.now();
    return v_removed;
end;
$$;
comment on function app.remove_old_webhook_deliveries() is
    'Job: removes deliveries older than the organisation''s webhook_retention_days, those that '
    'still wait for a paused endpoint too, and secrets whose grace has ended. Returns how many '
    'deliveries.';

-- 3. Triggers

create trigger webhook_endpoints_80_audit
after insert or update of url, description, paused_at, paused_reason or delete
on public.webhook_endpoints
for each row execute function app.audit_row();

-- 5. Access

select app.protect_table('public.webhook_endpoints', 'admin', null, '{select}');
select app.protect_table('public.webhook_deliveries', 'admin', null, '{select}');
select app.protect_table('public.webhook_attempts', 'admin', null, '{select}');
alter table app.webhook_secrets enable row level security;

grant execute on function
app.create_webhook_endpoint(uuid, text, text[], text),
public.create_webhook_endpoint(uuid, text, text[], text),
app.update_webhook_endpoint(uuid, uuid, text, text[], text),
public.update_webhook_endpoint(uuid, uuid, text, text[], text),
app.pause_webhook_endpoint(uuid, uuid), public.pause_webhook_endpoint(uuid, uuid),
app.resume_webhook_endpoint(uuid, uuid, boolean),
public.resume_webhook_endpoint(uuid, uuid, boolean),
app.delete_webhook_endpoint(uuid, uuid), public.delete_webhook_endpoint(uuid, uuid),
app.rotate_webhook_secret(uuid, uuid, integer), public.rotate_webhook_secret(uuid, uuid, integer),
app.replay_webhook_deliveries(uuid, uuid, timestamptz, timestamptz, uuid[], text[]),
public.replay_webhook_deliveries(uuid, uuid, timestamptz, timestamptz, uuid[], text[]),
app.send_test_webhook(uuid, uuid), public.send_test_webhook(uuid, uuid)
to authenticated, service_role;
grant execute on function
app.claim_webhook_deliveries(uuid, uuid),
app.note_webhook_attempt(uuid, uuid, integer, integer, text, integer, integer),
app.return_webhook_delivery(uuid, uuid, integer, double precision),
app.wake_webhook_endpoint(uuid, uuid, timestamptz),
app.wake_webhook_endpoints(), app.remove_old_webhook_deliveries()
to service_role;

-- 6. Reference rows

insert into app.job_types (entrypoint, latency_class, description) values
('webhook.deliver', 'default', 'Sends what is due to one endpoint of an organisation.');

insert into app.setting_definitions (key, kind, minimum, maximum, default_value, description) values
(
    'webhook_retention_days', 'integer', 7, 365, '90',
    'Days for which deliveries to webhook endpoints are kept and can be replayed.'
);

insert into app.error_keys (key, http, meaning) values
('webhook_url_refused', 422, 'Events are only sent to https addresses with a public host name.'),
('webhook_pattern_unknown', 422, 'A pattern matches no event of the catalogue.'),
('webhook_endpoint_limit', 422, 'The organisation has as many endpoints as it may.');

insert into app.event_types (module, event_type, description, payload_keys) values
('admin', 'webhook_endpoint.created', 'Events are sent to a further receiver.', '{}'),
('admin', 'webhook_endpoint.updated', 'A receiver of events was changed.', '{}'),
('admin', 'webhook_endpoint.deleted', 'A receiver of events was removed.', '{}'),
('admin', 'webhook_endpoint.secret_rotated', 'A receiver of events got a new secret.', '{}'),
(
    'admin', 'webhook_endpoint.paused',
    'Nothing more is sent to a receiver: by hand, after a day of failures, or because it is gone.',
    '{reason}'
),
('admin', 'webhook_endpoint.resumed', 'A receiver gets its events again.', '{}'),
(
    'admin', 'webhook_delivery.exhausted',
    'A receiver that takes other events has refused one for about a day.',
    '{endpoint_id,event_id}'
);
