-- Notify, delivery: the way of a notification over WhatsApp, SMS or e-mail, one after the other.
-- Depends on: core, core_access, jobs, integrations (which channels are connected), notify.
-- Asked for by: RENUM "Notificações Multi-canal", Somos table of fallbacks; issue 3 §5.

-- 1. Tables

create table public.notification_attempts (
    org_id uuid not null,
    id uuid not null default gen_random_uuid(),
    notification_id uuid not null,
    channel text not null
        constraint notification_attempts_channel_check
            check (channel in ('in_app', 'whatsapp', 'sms', 'email')),
    status text not null default 'queued'
        constraint notification_attempts_status_check
            check (status in ('queued', 'sent', 'delivered', 'read', 'failed')),
    address text,
    provider_message_id text,
    error_key text
        constraint notification_attempts_error_key_check check (error_key in (
            'address_missing', 'address_undeliverable', 'not_on_channel', 'undelivered',
            'provider_refused', 'provider_unavailable', 'quota_exceeded', 'outcome_unknown'
        )),
    error_detail text
        constraint notification_attempts_error_detail_check check (length(error_detail) <= 500),
    tries integer not null default 0,
    tried_at timestamptz,
    created_at timestamptz not null default app.now(),
    sent_at timestamptz,
    delivered_at timestamptz,
    read_at timestamptz,
    failed_at timestamptz,
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    constraint notification_attempts_channel_key unique (org_id, notification_id, channel),
    foreign key (org_id, notification_id)
    references public.notifications (org_id, id) on delete cascade,
    constraint notification_attempts_error_check
        check ((status = 'failed') = (error_key is not null))
);
comment on table public.notification_attempts is
    '[notify] Each channel a notification was tried on: written before the message is sent, '
    'noted after it was, moved forward by the provider''s receipts.';
comment on column public.notification_attempts.status is
    'queued → sent → delivered → read, each may be skipped; failed instead of delivered, finally.';
comment on column public.notification_attempts.address is
    '[pii] Phone in E.164 form or e-mail address it went to; null for in_app.';
comment on column public.notification_attempts.provider_message_id is
    'The provider''s name for the message; receipts find the attempt by it.';
comment on column public.notification_attempts.error_detail is
    '[pii] What the provider said of a failure.';
comment on column public.notification_attempts.tries is 'How often the provider was called.';
comment on column public.notification_attempts.tried_at is
    'A call whose end is not known: it may be running, or its worker died. Null once known.';
create index notification_attempts_message_idx
on public.notification_attempts (org_id, channel, provider_message_id)
where provider_message_id is not null;
create index notification_attempts_status_idx
on public.notification_attempts (org_id, status, created_at);
create index notification_attempts_sent_idx
on public.notification_attempts (org_id, sent_at) where status = 'sent';

create table public.undeliverable_addresses (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    channel text not null
        constraint undeliverable_addresses_channel_check
            check (channel in ('whatsapp', 'sms', 'email')),
    address text not null,
    reason text not null
        constraint undeliverable_addresses_reason_check
            check (reason in ('hard_bounce', 'complaint', 'opt_out', 'invalid')),
    created_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, channel, address)
);
comment on table public.undeliverable_addresses is
    '[notify] Addresses that refused for good or asked to be left alone: their channel is '
    'skipped. Admins delete a row to try again.';
comment on column public.undeliverable_addresses.address is
    '[pii] Phone in E.164 form, or e-mail address in lower case.';
comment on column public.undeliverable_addresses.reason is
    'hard_bounce and complaint: e-mail; opt_out: STOP; invalid: no such phone, or no mobile one.';

-- 2. Functions: whom to reach where

create function app.phone_e164(phone text) returns text
language sql
immutable
set search_path = ''
as $$
    select case
        when given.phone ~ '^\s*(\+|00)' and given.digits ~ '^[1-9]\d{7,14}$'
            then '+' || given.digits
        when given.digits ~ '^55[1-9]\d{9,10}$' then '+' || given.digits
        when given.digits ~ '^[1-9]\d{9,10}$' then '+55' || given.digits
    end
    from (
        select
            phone_e164.phone,
            ltrim(regexp_replace(phone_e164.phone, '\D', '', 'g'), '0') as digits
    ) as given
$$;
comment on function app.phone_e164(text) is
    'A phone as people type it in E.164 form; area code and number without a country are '
    'Brazilian. Null where it is no phone.';

create function app.channel_provider(channel text) returns text
language sql
immutable
set search_path = ''
as $$
    select case channel
        when 'whatsapp' then 'evolution' when 'sms' then 'twilio' when 'email' then 'resend'
    end
$$;
comment on function app.channel_provider(text) is
    'Service that carries a channel, as integration_credentials names it; null for in_app.';

create function app.notification_routes(org uuid, notification uuid)
returns table (place bigint, channel text, address text, error_key text)
language sql
stable
security definer
set search_path = ''
as $$
    select
        wanted.place, wanted.channel, reached.address,
        case
            when reached.address is null then 'address_missing'
            when exists (
                select from public.undeliverable_addresses as u
                where u.org_id = n.org_id and u.channel = wanted.channel
                    and u.address = reached.address
            ) then 'address_undeliverable'
        end
    from public.notifications as n
    inner join public.memberships as m on n.org_id = m.org_id and n.recipient_id = m.user_id
    inner join public.organizations as o on n.org_id = o.id and o.status = 'active'
    inner join app.notification_templates as t on n.template = t.template
    inner join public.profiles as p on n.recipient_id = p.id
    inner join auth.users as a on n.recipient_id = a.id
    cross join lateral app.notification_preferences_of(n.org_id, n.recipient_id) as preferences
    cross join lateral unnest(preferences.channels) with ordinality as wanted (channel, place)
    cross join lateral (
        select case wanted.channel
            when 'email' then lower(nullif(a.email, '')) else app.phone_e164(p.phone)
        end as address
    ) as reached
    where
        n.org_id = notification_routes.org and n.id = notification_routes.notification
        and not t.category = any (preferences.muted_categories)
        and exists (
            select from public.integration_credentials as c
            where c.org_id = n.org_id and c.provider = app.channel_provider(wanted.channel)
        )
        and not exists (
            select from public.notification_attempts as x
            where x.org_id = n.org_id and x.notification_id = n.id and x.channel = wanted.channel
        )
    order by wanted.place
$$;
comment on function app.notification_routes(uuid, uuid) is
    'Channels a notification may still go out on, in the recipient''s order: connected, not '
    'muted, not tried. error_key says why one cannot be used. None for who is no member any more, '
    'and in an organisation that is not active.';

-- 2. Functions: sending

create function app.claim_notification_attempt(org uuid, notification uuid) returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_row public.notifications;
    v_preferences public.notification_preferences;
    v_attempt public.notification_attempts;
    v_route record;
    v_wait_until timestamptz;
    v_last_tried_at timestamptz;
    v_done constant jsonb := '{"verdict": "done"}';
begin
    -- The notification's row is the lock: no two jobs claim in one moment.
    select * into v_row from public.notifications as n
    where n.org_id = org and n.id = notification
    for update;
    if v_row.id is null or v_row.read_at is not null or not exists (
        select from public.memberships as m
        inner join public.organizations as o on m.org_id = o.id
        where m.org_id = org and m.user_id = v_row.recipient_id and o.status = 'active'
    ) or exists (
        select from public.notification_attempts as a
        where a.org_id = org and a.notification_id = notification and a.channel <> 'in_app'
            and a.status in ('sent', 'delivered', 'read')
    ) then
        return v_done;
    end if;
    v_preferences := app.notification_preferences_of(org, v_row.recipient_id);
    v_wait_until := app.quiet_end(
        v_preferences.quiet_from, v_preferences.quiet_until, v_preferences.time_zone, app.now()
    );
    select * into v_attempt from public.notification_attempts as a
    where a.org_id = org and a.notification_id = notification and a.status = 'queued'
    for update;
    v_last_tried_at := v_attempt.tried_at;
    if v_wait_until is null and v_attempt.channel <> 'email' then
        -- Its call may still be running, or its message not yet be listed. E-mail need not wait: its
        -- provider knows a message it has seen.
        v_wait_until := nullif(greatest(v_last_tried_at + interval '1 minute', app.now()), app.now());
    end if;
    if v_wait_until is not null then
        return jsonb_build_object('verdict', 'wait', 'not_before', v_wait_until);
    end if;
    if v_attempt.id is null then
        for v_route in select * from app.notification_routes(org, notification) loop
            insert into public.notification_attempts as a (
                org_id, notification_id, channel, address, status, error_key, failed_at
            ) values (
                org, notification, v_route.channel, v_route.address,
                case when v_route.error_key is null then 'queued' else 'failed' end,
                v_route.error_key, case when v_route.error_key is not null then app.now() end
            )
            returning a.* into v_attempt;
            exit when v_attempt.status = 'queued';
        end loop;
        if v_attempt.status is distinct from 'queued' then
            return v_done;
        end if;
    end if;
    update public.notification_attempts as a set tries = a.tries + 1, tried_at = app.now()
    where a.org_id = org and a.id = v_attempt.id
    returning a.* into v_attempt;
    return jsonb_build_object(
        'verdict', 'send',
        'attempt_id', v_attempt.id,
        'channel', v_attempt.channel,
        'address', v_attempt.address,
        'tries', v_attempt.tries,
        'first_tried_at', v_attempt.created_at,
        'last_tried_at', v_last_tried_at,
        'has_other', exists (
            select from app.notification_routes(org, notification) as r where r.error_key is null
        ),
        'organization', (select o.name from public.organizations as o where o.id = org),
        'recipient', (select p.full_name from public.profiles as p where p.id = v_row.recipient_id),
        'time_zone', app.org_time_zone(org),
        'template', v_row.template,
        'variables', (
            select t.variables from app.notification_templates as t
            where t.template = v_row.template
        ),
        'title', v_row.title,
        'body', v_row.body,
        'data', v_row.data,
        'link', v_row.link
    );
end;
$$;
comment on function app.claim_notification_attempt(uuid, uuid) is
    'What the worker has to do next for a notification: done; wait, not_before; or send, with all '
    'it takes, the intent being written before it is told. last_tried_at is not null where an '
    'earlier call may have sent the message already. has_other: another channel is left.';

create function app.release_notification_attempt(org uuid, attempt uuid) returns void
language sql
security definer
set search_path = ''
as $$
    update public.notification_attempts as a set tried_at = null, tries = a.tries - 1
    where a.org_id = release_notification_attempt.org and a.id = attempt
$$;
comment on function app.release_notification_attempt(uuid, uuid) is
    'Notes that the call claimed last has certainly sent nothing.';

create function app.pick_message(org uuid, channel text, found text[]) returns text
language sql
stable
security definer
set search_path = ''
as $$
    select f.id
    from unnest(found) with ordinality as f (id, place)
    where not exists (
        select from public.notification_attempts as a
        where
            a.org_id = pick_message.org and a.channel = pick_message.channel
            and a.provider_message_id = f.id
    )
    order by f.place desc
    limit 1
$$;
comment on function app.pick_message(uuid, text, text[]) is
    'Of messages found at a provider, newest first, the oldest that is not noted for another '
    'attempt; null when there is none.';

create function app.note_notification_sent(org uuid, attempt uuid, provider_message_id text)
returns void
language sql
security definer
set search_path = ''
as $$
    -- A receipt may have come first, and have told more.
    update public.notification_attempts as a set
        provider_message_id = coalesce(
            note_notification_sent.provider_message_id, a.provider_message_id
        ),
        tried_at = null,
        status = case a.status when 'queued' then 'sent' else a.status end,
        sent_at = coalesce(a.sent_at, app.now())
    where a.org_id = note_notification_sent.org and a.id = attempt
$$;
comment on function app.note_notification_sent(uuid, uuid, text) is
    'Notes that the provider has taken the message; null where it does not say under which name.';

create function app.fail_notification_attempt(
    org uuid, attempt uuid, error_key text, error_detail text, undeliverable text default null
) returns boolean
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_attempt public.notification_attempts;
    v_notification public.notifications;
begin
    update public.notification_attempts as a set
        status = 'failed', failed_at = app.now(), tried_at = null,
        error_key = fail_notification_attempt.error_key,
        error_detail = left(fail_notification_attempt.error_detail, 500)
    where a.org_id = org and a.id = attempt and a.status in ('queued', 'sent')
    returning a.* into v_attempt;
    if v_attempt.id is null then
        return false;
    end if;
    perform app.mark_undeliverable(org, v_attempt.channel, v_attempt.address, undeliverable);
    select * into v_notification from public.notifications as n
    where n.org_id = org and n.id = v_attempt.notification_id;
    if v_notification.read_at is null and exists (
        select from app.notification_routes(org, v_notification.id) as r where r.error_key is null
    ) then
        perform app.enqueue(
            'notification.deliver', jsonb_build_object('notification_id', v_notification.id), org,
            format('notification/%s/after/%s', v_notification.id, v_attempt.channel)
        );
    end if;
    return true;
end;
$$;
comment on function app.fail_notification_attempt(uuid, uuid, text, text, text) is
    'Ends an attempt and, in the same transaction, enqueues the next channel. undeliverable: '
    'reason for which the address is not to be used again. False where it had ended already, or '
    'the message had arrived.';

create function app.mark_undeliverable(org uuid, channel text, address text, reason text)
returns void
language sql
security definer
set search_path = ''
as $$
    insert into public.undeliverable_addresses (org_id, channel, address, reason)
    select
        mark_undeliverable.org, mark_undeliverable.channel, mark_undeliverable.address,
        mark_undeliverable.reason
    where mark_undeliverable.address is not null and mark_undeliverable.reason is not null
    on conflict do nothing
$$;
comment on function app.mark_undeliverable(uuid, text, text, text) is
    'Has the cascade skip an address from now on; nothing where address or reason is null.';

create function app.lift_opt_out(org uuid, channel text, address text) returns void
language sql
security definer
set search_path = ''
as $$
    delete from public.undeliverable_addresses as u
    where
        u.org_id = lift_opt_out.org and u.channel = lift_opt_out.channel
        and u.address = lift_opt_out.address and u.reason = 'opt_out'
$$;
comment on function app.lift_opt_out(uuid, text, text) is
    'Takes back an opt-out, when its owner answers START.';

create function app.note_notification_receipt(
    org uuid,
    channel text,
    provider_message_id text,
    status text,
    attempt uuid default null,
    error_key text default null,
    error_detail text default null,
    undeliverable text default null
) returns text
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_variable
declare
    v_attempt public.notification_attempts;
begin
    select a.* into v_attempt from public.notification_attempts as a
    where
        a.org_id = org and a.channel = note_notification_receipt.channel
        and (
            a.provider_message_id = note_notification_receipt.provider_message_id
            or a.id = note_notification_receipt.attempt
        )
    limit 1
    for update;
    if v_attempt.id is null then
        return case when exists (
            select from public.notification_attempts as a
            where
                a.org_id = org and a.channel = note_notification_receipt.channel
                and a.status = 'queued' and a.tried_at > app.now() - interval '10 minutes'
        ) then 'early' else 'unknown' end;
    end if;
    update public.notification_attempts as a
    set provider_message_id = note_notification_receipt.provider_message_id
    where a.org_id = org and a.id = v_attempt.id and a.provider_message_id is null;
    perform app.mark_undeliverable(
        org, v_attempt.channel, v_attempt.address, note_notification_receipt.undeliverable
    );
    if
        note_notification_receipt.status is null
        or not app.is_allowed_move(
            'notification_attempts', v_attempt.status, note_notification_receipt.status
        )
    then
        return 'kept';
    end if;
    if note_notification_receipt.status = 'failed' then
        perform app.fail_notification_attempt(
            org, v_attempt.id, note_notification_receipt.error_key,
            note_notification_receipt.error_detail
        );
    else
        update public.notification_attempts as a set
            status = note_notification_receipt.status,
            tried_at = null,
            sent_at = coalesce(a.sent_at, app.now()),
            delivered_at = case
                when note_notification_receipt.status in ('delivered', 'read')
                    then coalesce(a.delivered_at, app.now())
                else a.delivered_at
            end,
            read_at = case when note_notification_receipt.status = 'read' then app.now() end
        where a.org_id = org and a.id = v_attempt.id;
    end if;
    return 'moved';
end;
$$;
comment on function app.note_notification_receipt(uuid, text, text, text, uuid, text, text, text) is
    'Takes a provider''s receipt: moves the attempt forward, never back; a failure goes on with '
    'the next channel. attempt names it where the provider hands our own id back. Returns moved, '
    'kept (it tells nothing new), unknown (no message of ours), or early: no such message is '
    'noted, but one is being sent.';

create function app.list_silent_attempts(org uuid)
returns table (attempt_id uuid, channel text, address text, provider_message_id text)
language sql
stable
security definer
set search_path = ''
as $$
    select a.id, a.channel, a.address, a.provider_message_id
    from public.notification_attempts as a
    where
        a.org_id = list_silent_attempts.org and a.status = 'sent'
        and a.sent_at between app.now() - interval '3 days' and app.now() - interval '1 hour'
        and a.provider_message_id is not null
    order by a.sent_at, a.id
    limit 200
$$;
comment on function app.list_silent_attempts(uuid) is
    'Messages sent more than an hour ago of which no receipt has come: the oldest 200 of three '
    'days. Receipts get lost; the worker asks.';

create function app.org_ids_with_silent_messages() returns uuid[]
language sql
stable
security definer
set search_path = ''
as $$
    select coalesce(array_agg(o.id), '{}')
    from public.organizations as o
    where o.status = 'active' and exists (select from app.list_silent_attempts(o.id))
$$;
comment on function app.org_ids_with_silent_messages() is
    'Active organisations with messages to be asked after.';

-- 3. Triggers

create trigger notification_attempts_10_guard_status
before update of status on public.notification_attempts
for each row when (old.status is distinct from new.status)
execute function app.guard_move('notification_attempt', 'status');
create trigger notification_attempts_70_emit
after insert or update of status on public.notification_attempts
for each row execute function app.emit_event(
    'notify', 'notification_attempt', 'status', 'notification_id', 'channel', 'error_key'
);

-- 5. Access

select app.protect_table('public.notification_attempts', 'admin', null, '{select}');
select app.protect_table('public.undeliverable_addresses', 'admin', null, '{select,delete}');

grant execute on function
app.claim_notification_attempt(uuid, uuid),
app.release_notification_attempt(uuid, uuid),
app.pick_message(uuid, text, text[]),
app.note_notification_sent(uuid, uuid, text),
app.fail_notification_attempt(uuid, uuid, text, text, text),
app.mark_undeliverable(uuid, text, text, text),
app.lift_opt_out(uuid, text, text),
app.note_notification_receipt(uuid, text, text, text, uuid, text, text, text),
app.list_silent_attempts(uuid), app.org_ids_with_silent_messages(),
app.phone_e164(text)
to service_role;

-- 6. Reference rows

insert into app.error_keys (key, http, meaning) values
('notification_attempt_move_refused', 409, 'A delivery attempt only moves forward.');

insert into app.allowed_moves (machine, from_state, to_state) values
('notification_attempts', 'queued', 'sent'),
('notification_attempts', 'queued', 'delivered'),
('notification_attempts', 'queued', 'read'),
('notification_attempts', 'queued', 'failed'),
('notification_attempts', 'sent', 'delivered'),
('notification_attempts', 'sent', 'read'),
('notification_attempts', 'sent', 'failed'),
('notification_attempts', 'delivered', 'read');

insert into app.event_types (module, event_type, description, payload_keys) values
(
    'notify', 'notification_attempt.created', 'A notification is tried on a channel.',
    '{status,notification_id,channel,error_key}'
),
(
    'notify', 'notification_attempt.sent', 'A provider has taken a message.',
    '{status,notification_id,channel,error_key,changed}'
),
(
    'notify', 'notification_attempt.delivered', 'A message has reached its recipient.',
    '{status,notification_id,channel,error_key,changed}'
),
(
    'notify', 'notification_attempt.read', 'A message was read.',
    '{status,notification_id,channel,error_key,changed}'
),
(
    'notify', 'notification_attempt.failed', 'A channel has failed for good.',
    '{status,notification_id,channel,error_key,changed}'
),
(
    'notify', 'notification_attempt.updated', 'Details of an attempt were noted.',
    '{status,notification_id,channel,error_key,changed}'
);

insert into app.job_types (entrypoint, latency_class, description) values
('notification.deliver', 'high_priority', 'Sends a notification on the next channel.'),
('notification.poll', 'low_priority', 'Asks after messages of which no receipt has come.');
