-- Webhooks, inbound: which addresses outside services may send to, and what they sent, raw.
-- Depends on: core, core_access, core_members, core_audit, events, jobs, integrations.
-- Asked for by: Somos' document "Webhooks Recebidos", architecture §3 (edge functions).

-- 1. Tables

create table public.webhook_sources (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    provider text not null
        constraint webhook_sources_provider_check
            check (provider in ('evolution', 'github', 'omie', 'resend', 'twilio')),
    account text not null default 'main'
        constraint webhook_sources_account_check check (length(btrim(account)) between 1 and 100),
    token_hash bytea not null,
    token_prefix text not null,
    rate_per_minute integer not null default 600
        constraint webhook_sources_rate_check check (rate_per_minute between 1 and 10000),
    last_used_at timestamptz,
    revoked_at timestamptz,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    primary key (org_id, id)
);
comment on table public.webhook_sources is
    '[core] Addresses that services outside send to: one per account at a provider, known by a '
    'token in the address, of which only the hash is kept.';
comment on column public.webhook_sources.account is
    'Which account at the provider, in the organisation''s words. Sources of one account share '
    'what has been received, so that a token can be replaced.';
comment on column public.webhook_sources.token_hash is
    'SHA-256 of the token that create_webhook_source showed once.';
comment on column public.webhook_sources.token_prefix is
    'First characters of the token, to tell addresses apart.';
comment on column public.webhook_sources.last_used_at is 'To the minute; null = never used.';
create index webhook_sources_token_hash_idx on public.webhook_sources (token_hash);

create table public.webhook_events (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    source_id uuid not null,
    provider text not null,
    account text not null,
    event_key text not null
        constraint webhook_events_event_key_check check (length(event_key) between 1 and 200),
    status text not null default 'received'
        constraint webhook_events_status_check
            check (status in ('received', 'processed', 'ignored', 'failed', 'rejected')),
    headers jsonb not null
        constraint webhook_events_headers_check check (jsonb_typeof(headers) = 'object'),
    byte_count integer not null,
    attempts integer not null default 0,
    outcome text constraint webhook_events_outcome_check check (length(outcome) <= 1000),
    received_at timestamptz not null default app.now(),
    processed_at timestamptz,
    primary key (org_id, id),
    foreign key (org_id, source_id)
    references public.webhook_sources (org_id, id) on delete cascade
);
comment on table public.webhook_events is
    '[core] What services outside sent, before anybody looks into it; the bodies lie in '
    'app.webhook_bodies. Kept 30 days.';
comment on column public.webhook_events.event_key is
    'The provider''s id of the event, or sha256:<of the body> where it gives none.';
comment on column public.webhook_events.status is
    'received: a job is to process it; ignored: understood, and nothing to do; failed: the job '
    'failed and is tried again or held; rejected: not from whom it says, and never processed.';
comment on column public.webhook_events.headers is
    '[pii] Those that tell of the event, names in lower case; never credentials.';
comment on column public.webhook_events.byte_count is 'Of the body as it came.';
comment on column public.webhook_events.outcome is
    'What processing did; of failed and rejected, why.';
comment on column public.webhook_events.processed_at is 'When processing last ended.';
create unique index webhook_events_event_key_key
on public.webhook_events (org_id, provider, account, event_key) where status <> 'rejected';
create index webhook_events_source_id_idx
on public.webhook_events (org_id, source_id, received_at);
create index webhook_events_rejected_idx
on public.webhook_events (org_id, source_id, received_at) where status = 'rejected';
create index webhook_events_received_at_idx on public.webhook_events (received_at);

create table app.webhook_bodies (
    org_id uuid not null,
    webhook_event_id uuid not null,
    body bytea not null,
    primary key (org_id, webhook_event_id),
    foreign key (org_id, webhook_event_id)
    references public.webhook_events (org_id, id) on delete cascade
);
comment on table app.webhook_bodies is
    '[core] Bodies of webhook events, byte for byte. They hold people''s messages and addresses: '
    'the worker alone reads them.';

-- 2. Functions: sources

create function app.create_webhook_source(org uuid, provider text, account text) returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_token text := 'hook_' || encode(sha256(uuid_send(gen_random_uuid())
        || uuid_send(gen_random_uuid())), 'hex');
    v_source public.webhook_sources;
begin
    perform app.require_manager(org, 2);
    -- What a source may be is said once, by the constraints of its table.
    begin
        insert into public.webhook_sources (org_id, provider, account, token_hash, token_prefix)
        values (
            org, create_webhook_source.provider, btrim(create_webhook_source.account),
            sha256(convert_to(v_token, 'UTF8')), left(v_token, 12)
        )
        returning * into v_source;
    exception when check_violation or not_null_violation then
        perform app.raise_error(
            'bad_input', 'A source needs a known provider and a name of its account.',
            'The providers stand at webhook_sources in the data dictionary.'
        );
    end;
    return jsonb_build_object(
        'id', v_source.id, 'provider', v_source.provider, 'account', v_source.account,
        'token', v_token, 'token_prefix', v_source.token_prefix,
        'path', format('/functions/v1/webhook/%s/%s', v_source.provider, v_token)
    );
end;
$$;
comment on function app.create_webhook_source(uuid, text, text) is
    'Body of public.create_webhook_source.';

create function public.create_webhook_source(
    org uuid, provider text, account text default 'main'
) returns jsonb
language sql
set search_path = ''
as $$ select app.create_webhook_source(org, provider, account) $$;
comment on function public.create_webhook_source(uuid, text, text) is
    'Makes an address for a provider to send to: the project''s, followed by the path of the '
    'answer. The token in it is shown only now. Owners and admins. Errors: not_allowed, bad_input.';

create function app.revoke_webhook_source(org uuid, webhook_source uuid) returns void
language plpgsql
security definer
set search_path = ''
as $$
begin
    perform app.require_manager(org, 2);
    update public.webhook_sources as s set revoked_at = coalesce(s.revoked_at, app.now())
    where s.org_id = org and s.id = webhook_source;
    if not found then
        perform app.raise_error('not_found', 'There is no such source.', null);
    end if;
end;
$$;
comment on function app.revoke_webhook_source(uuid, uuid) is
    'Body of public.revoke_webhook_source.';

create function public.revoke_webhook_source(org uuid, webhook_source uuid) returns void
language sql
set search_path = ''
as $$ select app.revoke_webhook_source(org, webhook_source) $$;
comment on function public.revoke_webhook_source(uuid, uuid) is
    'Ends an address at once; what came by it stays. Again is no error. Owners and admins. '
    'Errors: not_allowed, not_found.';

create function app.find_webhook_source(provider text, token text)
returns public.webhook_sources
language sql
stable
set search_path = ''
as $$
    select s from public.webhook_sources as s
    inner join public.organizations as o on s.org_id = o.id
    where
        s.token_hash = sha256(convert_to(find_webhook_source.token, 'UTF8'))
        and s.provider = find_webhook_source.provider
        and s.revoked_at is null and o.status <> 'inactive'
$$;
comment on function app.find_webhook_source(text, text) is
    'The source a token stands for; null when it is unknown, revoked, of another provider or of '
    'an inactive organisation. A suspended one goes on receiving: what it misses nobody repeats.';

create function public.get_webhook_credentials(provider text, token text) returns jsonb
language sql
stable
set search_path = ''
as $$
    select jsonb_build_object(
        'org_id', s.org_id, 'key_id', c.key_id, 'ciphertext', encode(c.ciphertext, 'base64')
    )
    from app.find_webhook_source(get_webhook_credentials.provider,
        get_webhook_credentials.token) as s
    left join public.integration_credentials as c
        on s.org_id = c.org_id and s.provider = c.provider
    where s.id is not null
$$;
comment on function public.get_webhook_credentials(text, text) is
    'What the function that takes a webhook checks its signature with, encrypted: {org_id, '
    'key_id, ciphertext in base64}, the last two null where nothing is stored; null for an '
    'unknown token. The server only.';

-- 2. Functions: receiving

create function public.receive_webhook(
    provider text,
    token text,
    event_key text,
    headers jsonb,
    body text,
    rejection text default null
) returns text
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_source public.webhook_sources := app.find_webhook_source(provider, token);
    v_body bytea := decode(receive_webhook.body, 'base64');
    v_size integer := octet_length(v_body);
    v_event uuid;
begin
    if v_source.id is null then
        return 'unknown';
    end if;
    if receive_webhook.rejection is not null then
        -- Anybody who has seen the address can send these: enough is kept to see why, no more.
        if 50 <= (
            select count(*) from (
                select from public.webhook_events as e
                where
                    e.org_id = v_source.org_id and e.source_id = v_source.id
                    and e.status = 'rejected' and e.received_at > app.now() - interval '1 day'
                limit 50
            ) as kept
        ) then
            return 'rejected';
        end if;
        v_body := substring(v_body from 1 for 65536);
    else
        perform app.rate_limit(
            'webhook/' || v_source.id, v_source.rate_per_minute, interval '1 minute'
        );
    end if;
    insert into public.webhook_events as e (
        org_id, source_id, provider, account, event_key, status, headers, byte_count, outcome
    ) values (
        v_source.org_id, v_source.id, v_source.provider, v_source.account,
        receive_webhook.event_key,
        case when receive_webhook.rejection is null then 'received' else 'rejected' end,
        receive_webhook.headers, v_size, receive_webhook.rejection
    )
    on conflict (org_id, provider, account, event_key) where status <> 'rejected' do nothing
    returning e.id into v_event;
    if v_event is null then
        return 'repeated';
    end if;
    insert into app.webhook_bodies (org_id, webhook_event_id, body)
    values (v_source.org_id, v_event, v_body);
    if receive_webhook.rejection is not null then
        return 'rejected';
    end if;
    update public.webhook_sources as s set last_used_at = app.now()
    where
        s.org_id = v_source.org_id and s.id = v_source.id
        and (s.last_used_at is null or s.last_used_at < app.now() - interval '1 minute');
    perform app.enqueue_webhook_event(v_source.org_id, v_event);
    return 'received';
end;
$$;
comment on function public.receive_webhook(text, text, text, jsonb, text, text) is
    'Stores what a provider sent and has it processed, once per provider, account and event_key. '
    'body: base64. rejection: why it is refused; then it is kept for the operator (50 a day and '
    'source, 64 kB each) and never processed. Returns received, repeated, rejected or, for a token '
    'that stands for nothing, unknown. The server only. Errors: rate_limited, queue_missing.';

-- 2. Functions: processing

create function app.enqueue_webhook_event(org uuid, webhook_event uuid) returns bigint
language sql
set search_path = ''
as $$
    select app.enqueue(
        'webhook.process', jsonb_build_object('webhook_event_id', webhook_event), org,
        'webhook.process/' || webhook_event
    )
$$;
comment on function app.enqueue_webhook_event(uuid, uuid) is
    'Has a webhook event processed; null when that is under way. Errors: queue_missing.';

create function app.start_webhook_event(org uuid, webhook_event uuid)
returns table (provider text, headers jsonb, body bytea, received_at timestamptz)
language sql
set search_path = ''
as $$
    update public.webhook_events as e set attempts = e.attempts + 1
    from app.webhook_bodies as b
    where
        e.org_id = start_webhook_event.org and e.id = webhook_event
        and e.status in ('received', 'failed')
        and b.org_id = e.org_id and b.webhook_event_id = e.id
    returning e.provider, e.headers, b.body, e.received_at
$$;
comment on function app.start_webhook_event(uuid, uuid) is
    'What a worker needs to process an event, and counts the attempt; no row when it has been '
    'processed, was rejected or is gone.';

create function app.finish_webhook_event(
    org uuid, webhook_event uuid, status text, outcome text
) returns void
language sql
set search_path = ''
as $$
    update public.webhook_events as e
    set
        status = finish_webhook_event.status, outcome = left(finish_webhook_event.outcome, 1000),
        processed_at = app.now()
    where
        e.org_id = finish_webhook_event.org and e.id = webhook_event
        and e.status in ('received', 'failed')
$$;
comment on function app.finish_webhook_event(uuid, uuid, text, text) is
    'Notes how processing ended: processed, ignored, rejected or failed. Of two workers that had '
    'the same event the first to end it is believed.';

create function app.replay_webhook_event(org uuid, webhook_event uuid) returns bigint
language plpgsql
set search_path = ''
as $$
begin
    update public.webhook_events as e set status = 'received'
    where e.org_id = replay_webhook_event.org and e.id = webhook_event;
    if not found then
        perform app.raise_error('not_found', 'There is no such webhook event.', null);
    end if;
    return app.enqueue_webhook_event(org, webhook_event);
end;
$$;
comment on function app.replay_webhook_event(uuid, uuid) is
    'Has an event processed again, whatever came of it; null when it waits already. A rejected one '
    'is never processed. Errors: not_found, webhook_event_move_refused, queue_missing.';

create function app.delete_old_webhook_events() returns bigint
language plpgsql
set search_path = ''
as $$
declare
    v_deleted bigint;
begin
    delete from public.webhook_events as e
    where e.received_at < app.now() - interval '30 days' and e.status <> 'received';
    get diagnostics v_deleted = row_count;
    return v_deleted;
end;
$$;
comment on function app.delete_old_webhook_events() is
    'Removes webhook events older than 30 days with their bodies; one that still waits for the '
    'worker stays. Returns how many.';

-- 2. Functions: GitHub

create function app.has_webhook_effect(org uuid, webhook_event uuid) returns boolean
language plpgsql
set search_path = ''
as $$
begin
    perform from public.webhook_events as e
    where e.org_id = has_webhook_effect.org and e.id = webhook_event
    for update;
    return exists (
        select from public.module_events as m
        where
            m.org_id = has_webhook_effect.org
            and m.entity_type in ('repository', 'pull_request') and m.entity_id = webhook_event
    );
end;
$$;
comment on function app.has_webhook_effect(uuid, uuid) is
    'Whether a module event has been recorded for the webhook event, which stays locked until '
    'commit: two workers record it once.';

create function app.record_push(
    org uuid,
    webhook_event uuid,
    repository text,
    ref text,
    before text,
    after text,
    commits integer,
    is_forced boolean
) returns void
language plpgsql
set search_path = ''
as $$
begin
    if app.has_webhook_effect(org, webhook_event) then
        return;
    end if;
    perform app.record_event(
        org, 'ops', 'repository.pushed', 'repository', webhook_event,
        jsonb_build_object(
            'repository', repository, 'ref', ref, 'before', before, 'after', after,
            'commits', commits, 'is_forced', is_forced,
            'is_created', before ~ '^0+$', 'is_deleted', after ~ '^0+$'
        )
    );
end;
$$;
comment on function app.record_push(uuid, uuid, text, text, text, text, integer, boolean) is
    'Records a push to a branch or tag (ref as Git writes it: refs/heads/main), once per webhook '
    'event.';

create function app.record_pull_request(
    org uuid,
    webhook_event uuid,
    action text,
    is_merged boolean,
    repository text,
    number integer,
    base_ref text,
    head_ref text,
    is_fork boolean,
    merge_commit text
) returns boolean
language plpgsql
set search_path = ''
as $$
declare
    v_payload jsonb := jsonb_build_object(
        'repository', repository, 'number', number, 'base_ref', base_ref, 'head_ref', head_ref,
        'is_fork', is_fork
    );
begin
    if action not in ('opened', 'reopened', 'closed') then
        return false;
    end if;
    if app.has_webhook_effect(org, webhook_event) then
        return true;
    end if;
    if action <> 'closed' then
        perform app.record_event(
            org, 'ops', 'pull_request.opened', 'pull_request', webhook_event, v_payload
        );
    elsif is_merged then
        perform app.record_event(
            org, 'ops', 'pull_request.merged', 'pull_request', webhook_event,
            v_payload || jsonb_build_object('merge_commit', merge_commit)
        );
    else
        perform app.record_event(
            org, 'ops', 'pull_request.closed', 'pull_request', webhook_event, v_payload
        );
    end if;
    return true;
end;
$$;
comment on function app.record_pull_request(
    uuid, uuid, text, boolean, text, integer, text, text, boolean, text
) is
    'Records that a pull request was opened (again), merged or closed without, once per webhook '
    'event; merged is what GitHub calls closed with merged true. False for any other action.';

-- 3. Triggers

create trigger webhook_sources_80_audit
after insert or update of account, rate_per_minute, revoked_at or delete
on public.webhook_sources
for each row execute function app.audit_row();

create trigger webhook_events_10_guard_status
before update of status on public.webhook_events
for each row when (old.status is distinct from new.status)
execute function app.guard_move('webhook_event', 'status');

-- 5. Access

select app.protect_table('public.webhook_sources', 'admin', null, '{select}');
select app.protect_table('public.webhook_events', 'admin', null, '{select}');

alter table app.webhook_bodies enable row level security;
grant select, insert, delete on app.webhook_bodies to service_role;

grant execute on function
app.create_webhook_source(uuid, text, text), public.create_webhook_source(uuid, text, text),
app.revoke_webhook_source(uuid, uuid), public.revoke_webhook_source(uuid, uuid)
to authenticated, service_role;
grant execute on function
app.find_webhook_source(text, text), public.get_webhook_credentials(text, text),
app.rate_limit(text, integer, interval),
public.receive_webhook(text, text, text, jsonb, text, text),
app.enqueue_webhook_event(uuid, uuid), app.start_webhook_event(uuid, uuid),
app.finish_webhook_event(uuid, uuid, text, text), app.replay_webhook_event(uuid, uuid),
app.delete_old_webhook_events(),
app.has_webhook_effect(uuid, uuid),
app.record_push(uuid, uuid, text, text, text, text, integer, boolean),
app.record_pull_request(
    uuid, uuid, text, boolean, text, integer, text, text, boolean, text
)
to service_role;

-- 6. Reference rows

insert into app.error_keys (key, http, meaning) values
('webhook_event_move_refused', 409, 'The webhook event cannot go from its state to that one.');

insert into app.allowed_moves (machine, from_state, to_state) values
('webhook_events', 'received', 'processed'),
('webhook_events', 'received', 'ignored'),
('webhook_events', 'received', 'failed'),
('webhook_events', 'received', 'rejected'),
('webhook_events', 'failed', 'processed'),
('webhook_events', 'failed', 'ignored'),
('webhook_events', 'failed', 'rejected'),
('webhook_events', 'failed', 'received'),
('webhook_events', 'processed', 'received'),
('webhook_events', 'ignored', 'received');

insert into app.job_types (entrypoint, latency_class, description) values
('webhook.process', 'default', 'Does what an event sent by a provider asks for.');

insert into app.event_types (module, event_type, description, payload_keys) values
(
    'ops', 'repository.pushed', 'Commits, a branch or a tag were pushed to a repository.',
    '{repository,ref,before,after,commits,is_forced,is_created,is_deleted}'
),
(
    'ops', 'pull_request.opened', 'A pull request was opened, or opened again.',
    '{repository,number,base_ref,head_ref,is_fork}'
),
(
    'ops', 'pull_request.merged', 'A pull request was merged.',
    '{repository,number,base_ref,head_ref,is_fork,merge_commit}'
),
(
    'ops', 'pull_request.closed', 'A pull request was closed without being merged.',
    '{repository,number,base_ref,head_ref,is_fork}'
);
