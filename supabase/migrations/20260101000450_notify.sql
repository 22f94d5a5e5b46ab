-- Notify: what people can be told, their inbox, and how they want to be reached.
-- Depends on: core, core_access, events, jobs, webhooks_outbound; at run time on notify_delivery.
-- Asked for by: RENUM "Notificações Multi-canal", Somos table of fallbacks, domain §1 (notify).

-- 1. Tables

create table app.notification_templates (
    template text primary key
        constraint notification_templates_template_check check (template ~ '^[a-z][a-z0-9_]*$'),
    category text not null
        constraint notification_templates_category_check check (category ~ '^[a-z][a-z0-9_]*$'),
    description text not null,
    title text not null,
    body text not null,
    variables jsonb not null
        constraint notification_templates_variables_check
            check (jsonb_typeof(variables) = 'object')
);
comment on table app.notification_templates is
    '[notify] Catalogue of what people can be told: one outside it is refused. The files of '
    'nessos.messaging lay the same words out for each channel.';
comment on column app.notification_templates.category is 'What a person mutes.';
comment on column app.notification_templates.title is
    'One line, pt-BR; {variable} stands for a value of the data.';
comment on column app.notification_templates.body is 'The whole message, pt-BR; as title.';
comment on column app.notification_templates.variables is
    'What the data must hold: name → text, paragraph, integer, money (BRL), date or moment (ISO '
    '8601, as jsonb_build_object writes them).';

create table public.notifications (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    recipient_id uuid not null references public.profiles (id) on delete cascade,
    template text not null,
    title text not null constraint notifications_title_check check (length(title) <= 300),
    body text not null constraint notifications_body_check check (length(body) <= 4000),
    data jsonb not null
        constraint notifications_data_check check (jsonb_typeof(data) = 'object'),
    link text
        constraint notifications_link_check
            check (
                link ~ '^/([^/\\]|$)' and link !~ '[[:cntrl:][:space:]]' and length(link) <= 500
            ),
    idempotency_key text not null
        constraint notifications_idempotency_key_check
            check (length(idempotency_key) between 1 and 200),
    read_at timestamptz,
    created_at timestamptz not null default app.now(),
    primary key (org_id, id),
    constraint notifications_once_key unique (org_id, recipient_id, idempotency_key)
);
comment on table public.notifications is
    '[notify] The inbox of each member. Written by app.notify only; a person reads and marks '
    'nobody''s but his own, whatever his role.';
comment on column public.notifications.title is '[pii] One line, pt-BR, plain text.';
comment on column public.notifications.body is '[pii] The message, pt-BR, plain text.';
comment on column public.notifications.data is
    '[pii] Values of the template''s variables; other channels are rendered from them.';
comment on column public.notifications.link is 'Where it leads: a path in the frontend.';
comment on column public.notifications.idempotency_key is
    'What happened, in the words of whoever notified: the same key notifies a person once.';
comment on column public.notifications.read_at is
    'Null while unread; what has been read goes out on no further channel.';
create index notifications_recipient_id_idx
on public.notifications (recipient_id, org_id, created_at desc);
create index notifications_unread_idx
on public.notifications (org_id, recipient_id, created_at desc) where read_at is null;

create table public.notification_preferences (
    org_id uuid not null references public.organizations (id) on delete cascade,
    user_id uuid not null references public.profiles (id) on delete cascade,
    channels text[] not null default '{whatsapp,sms,email}'
        constraint notification_preferences_channels_check
            check (channels <@ '{whatsapp,sms,email}' and array_position(channels, null) is null),
    quiet_from time default '22:00',
    quiet_until time default '07:00',
    time_zone text,
    muted_categories text[] not null default '{}',
    created_at timestamptz not null default app.now(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, user_id),
    constraint notification_preferences_quiet_check
        check ((quiet_from is null) = (quiet_until is null) and quiet_from <> quiet_until)
);
comment on table public.notification_preferences is
    '[notify] How a member wants to be reached outside of the inbox. Whoever has no row has the '
    'defaults of the columns.';
comment on column public.notification_preferences.channels is
    'Tried in this order until one succeeds; a channel that is missing is not used.';
comment on column public.notification_preferences.quiet_from is
    'From here to quiet_until nothing but the inbox; over midnight where it is the later one. '
    'Both null: no quiet hours.';
comment on column public.notification_preferences.time_zone is
    'Zone of the quiet hours; null = the organisation''s.';
comment on column public.notification_preferences.muted_categories is
    'Categories of app.notification_templates that stay in the inbox.';
create index notification_preferences_user_id_idx
on public.notification_preferences (user_id, org_id);

-- 2. Functions: words

create function app.format_notification_value(value jsonb, kind text, time_zone text) returns text
language plpgsql
stable
set search_path = ''
as $$
declare
    v_text text := value #>> '{}';
begin
    return case kind
        when 'text' then
            left(btrim(regexp_replace(v_text, '[[:cntrl:][:space:]]+', ' ', 'g')), 200)
        when 'paragraph' then
            left(btrim(regexp_replace(v_text, '[\x01-\x09\x0b-\x1f\x7f]', ' ', 'g')), 3500)
        when 'integer' then v_text
        when 'money' then 'R$ ' || app.format_number_br(v_text::numeric, 2)
        when 'date' then to_char(v_text::date, 'DD/MM/YYYY')
        when 'moment' then
            to_char(v_text::timestamptz at time zone format_notification_value.time_zone,
                'DD/MM/YYYY HH24:MI')
    end;
end;
$$;
comment on function app.format_notification_value(jsonb, text, text) is
    'A value of a notification''s data as it is written in Brazil; text becomes one line of at '
    'most 200 characters, a paragraph keeps its lines.';

create function app.is_notification_value(value jsonb, kind text) returns boolean
language sql
stable
set search_path = ''
as $$
    select coalesce(
        case kind
            when 'text' then jsonb_typeof(value) = 'string' and btrim(value #>> '{}') <> ''
            when 'paragraph' then jsonb_typeof(value) = 'string' and btrim(value #>> '{}') <> ''
            when 'integer' then jsonb_typeof(value) = 'number'
                and (value #>> '{}')::numeric = trunc((value #>> '{}')::numeric)
            when 'money' then jsonb_typeof(value) = 'number'
            when 'date' then value #>> '{}' ~ '^\d{4}-\d\d-\d\d$'
                and pg_catalog.pg_input_is_valid(value #>> '{}', 'date')
            when 'moment' then value #>> '{}'
                ~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)$'
                and pg_catalog.pg_input_is_valid(value #>> '{}', 'timestamptz')
        end,
        false
    )
$$;
comment on function app.is_notification_value(jsonb, text) is
    'Whether a value is of the kind a template''s variable asks for; a missing one is not.';

create function app.render_notification(words text, variables jsonb, data jsonb, time_zone text)
returns text
language sql
stable
set search_path = ''
as $$
    -- One pass over the template: what a value contains is never read as a template again.
    select string_agg(
        coalesce(
            part.found[1],
            app.format_notification_value(
                data -> part.found[2], variables ->> part.found[2], time_zone
            )
        ), '' order by part.place
    )
    from regexp_matches(words, '([^{]+)|\{([a-z0-9_]+)\}', 'g')
        with ordinality as part (found, place)
$$;
comment on function app.render_notification(text, jsonb, jsonb, text) is
    'Words of the catalogue with the data''s values in the place of {variable}.';

-- 2. Functions: preferences

create function app.notification_preferences_of(org uuid, person uuid)
returns public.notification_preferences
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
    v_row public.notification_preferences;
begin
    select * into v_row from public.notification_preferences as p
    where p.org_id = notification_preferences_of.org and p.user_id = person;
    if not found then
        v_row.org_id := notification_preferences_of.org;
        v_row.user_id := person;
        v_row.channels := '{whatsapp,sms,email}';
        v_row.quiet_from := '22:00';
        v_row.quiet_until := '07:00';
        v_row.muted_categories := '{}';
    end if;
    v_row.time_zone := coalesce(v_row.time_zone, app.org_time_zone(org));
    return v_row;
end;
$$;
comment on function app.notification_preferences_of(uuid, uuid) is
    'A member''s preferences as they count: the defaults where he has set none, the '
    'organisation''s time zone where he has named none.';

create function app.quiet_end(quiet_from time, quiet_until time, time_zone text, moment timestamptz)
returns timestamptz
language sql
stable
set search_path = ''
as $$
    -- Cut on the local clock and only then taken back to a moment: right on days of 23 and 25 hours.
    select case
        when quiet_from < quiet_until and local.clock >= quiet_from and local.clock < quiet_until
            then (local.day + quiet_until) at time zone time_zone
        when quiet_from > quiet_until and local.clock >= quiet_from
            then (local.day + 1 + quiet_until) at time zone time_zone
        when quiet_from > quiet_until and local.clock < quiet_until
            then (local.day + quiet_until) at time zone time_zone
    end
    from (
        select
            (moment at time zone time_zone)::time as clock,
            (moment at time zone time_zone)::date as day
    ) as local
$$;
comment on function app.quiet_end(time, time, text, timestamptz) is
    'When the quiet hours a moment lies in are over; null outside of them.';

-- 2. Functions: telling

create function app.notify(
    org uuid,
    recipient uuid,
    template text,
    data jsonb,
    idempotency_key text,
    link text default null
) returns uuid
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_template app.notification_templates;
    v_wrong text;
    v_time_zone text := app.org_time_zone(org);
    v_preferences public.notification_preferences;
    v_id uuid;
begin
    select * into v_template from app.notification_templates as t where t.template = notify.template;
    if v_template.template is null then
        perform app.raise_error(
            'notification_template_unknown', format('%s is not in the catalogue.', notify.template),
            'Add it to app.notification_templates in the module''s migration.'
        );
    end if;
    if not exists (
        select from public.memberships as m where m.org_id = org and m.user_id = recipient
    ) then
        perform app.raise_error(
            'user_not_member', 'The recipient is not a member of the organisation.', null
        );
    end if;
    select string_agg(format('%s (%s)', v.name, v.kind), ', ' order by v.name) into v_wrong
    from jsonb_each_text(v_template.variables) as v (name, kind)
    where not app.is_notification_value(notify.data -> v.name, v.kind);
    if v_wrong is not null then
        perform app.raise_error(
            'notification_data_invalid',
            format('%s lacks, or has of another kind: %s.', notify.template, v_wrong),
            'See app.notification_templates.variables.'
        );
    end if;
    insert into public.notifications (
        org_id, recipient_id, template, title, body, data, link, idempotency_key
    )
    select
        org, recipient, v_template.template,
        left(
            app.render_notification(v_template.title, v_template.variables, notify.data, v_time_zone),
            300
        ),
        left(
            app.render_notification(v_template.body, v_template.variables, notify.data, v_time_zone),
            4000
        ),
        coalesce(jsonb_object_agg(v.name, notify.data -> v.name), '{}'),
        notify.link, notify.idempotency_key
    from jsonb_object_keys(v_template.variables) as v (name)
    on conflict on constraint notifications_once_key do nothing
    returning id into v_id;
    if v_id is null then
        select n.id into v_id from public.notifications as n
        where n.org_id = org and n.recipient_id = recipient
            and n.idempotency_key = notify.idempotency_key;
        return v_id;
    end if;
    insert into public.notification_attempts (
        org_id, notification_id, channel, status, sent_at, delivered_at
    ) values (org, v_id, 'in_app', 'delivered', app.now(), app.now());
    if exists (select from app.notification_routes(org, v_id) as r where r.error_key is null) then
        v_preferences := app.notification_preferences_of(org, recipient);
        perform app.enqueue(
            'notification.deliver', jsonb_build_object('notification_id', v_id), org,
            'notification/' || v_id,
            coalesce(
                app.quiet_end(
                    v_preferences.quiet_from, v_preferences.quiet_until, v_preferences.time_zone,
                    app.now()
                ) - app.now(),
                interval '0'
            )
        );
    end if;
    return v_id;
end;
$$;
comment on function app.notify(uuid, uuid, text, jsonb, text, text) is
    'Tells a member something of the catalogue: in his inbox at once, and by a job on the '
    'channels he wants. The same key tells him once. Returns the notification''s id. Errors: '
    'notification_template_unknown, notification_data_invalid, user_not_member, queue_missing.';

create function app.notify_role(
    org uuid,
    module text,
    action text,
    template text,
    data jsonb,
    idempotency_key text,
    link text default null
) returns integer
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_person uuid;
    v_told integer := 0;
begin
    for v_person in
        select m.user_id
        from public.memberships as m
        left join public.role_permissions as p
            on m.role = p.role and p.module = notify_role.module
        left join public.org_role_permissions as x
            on m.org_id = x.org_id and m.role = x.role and x.module = notify_role.module
        where
            m.org_id = notify_role.org and m.role <> 'agent'
            and case notify_role.action
                when 'read' then coalesce(x.read_scope, p.read_scope)
                when 'write' then coalesce(x.write_scope, p.write_scope)
            end = 'all'
        order by m.user_id
    loop
        perform app.notify(
            notify_role.org, v_person, notify_role.template, notify_role.data,
            notify_role.idempotency_key, notify_role.link
        );
        v_told := v_told + 1;
    end loop;
    return v_told;
end;
$$;
comment on function app.notify_role(uuid, text, text, text, jsonb, text, text) is
    'Tells everybody of the organisation who may read or write all of the module, each once per '
    'key. Returns how many people. Errors: as app.notify.';

create function app.guard_notification_subscription() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    if
        not exists (
            select from app.notification_templates as t where t.template = new.config ->> 'template'
        )
        or (new.config ? 'role') = (new.config ? 'user')
        or new.config ? 'role' and not exists (
            select from public.roles as r
            where r.role = new.config ->> 'role' and r.role <> 'agent'
        )
        or new.config ? 'user' and not exists (
            select from public.memberships as m
            where m.org_id = new.org_id and m.user_id::text = new.config ->> 'user'
        )
    then
        perform app.raise_error(
            'notification_subscription_invalid',
            'config names a template, and a role or a member of the organisation.',
            'As {"template": "event", "title": "Contrato novo", "role": "finance"}.'
        );
    end if;
    return new;
end;
$$;
comment on function app.guard_notification_subscription() is
    'Trigger: a subscription that notifies says what and whom.';

create function app.notify_event(org uuid, subscription uuid, event uuid, occurred_at timestamptz)
returns integer
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_subscription public.event_subscriptions;
    v_event public.module_events;
    v_data jsonb;
    v_person uuid;
    v_told integer := 0;
begin
    select * into v_subscription from public.event_subscriptions as s
    where s.org_id = org and s.id = subscription and s.handler = 'notification' and s.is_active;
    select * into v_event from public.module_events as e
    where e.org_id = org and e.id = event and e.occurred_at = notify_event.occurred_at;
    -- Being told is an event, too: a subscription to everything would tell for ever.
    if v_subscription.id is null or v_event.id is null or v_event.module = 'notify' then
        return 0;
    end if;
    v_data := v_event.payload || jsonb_build_object(
        'event', v_event.module || '.' || v_event.event_type,
        'title', coalesce(
            v_subscription.config ->> 'title', v_event.module || '.' || v_event.event_type
        ),
        'occurred_at', v_event.occurred_at
    );
    for v_person in
        select m.user_id from public.memberships as m
        where
            m.org_id = org
            and (
                m.role = v_subscription.config ->> 'role'
                or m.user_id::text = v_subscription.config ->> 'user'
            )
        order by m.user_id
    loop
        perform app.notify(
            org, v_person, v_subscription.config ->> 'template', v_data,
            format('event/%s/%s', subscription, event), v_subscription.config ->> 'link'
        );
        v_told := v_told + 1;
    end loop;
    return v_told;
end;
$$;
comment on function app.notify_event(uuid, uuid, uuid, timestamptz) is
    'Job event.notification: tells those a subscription names of an event, each once. The data is '
    'the event''s payload with event, occurred_at and the subscription''s title. Returns how many '
    'people. Errors: as app.notify.';

-- 2. Functions: the inbox

create function app.require_recipient(org uuid, action text) returns void
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    if auth.uid() is null or app.agent_id() is not null then
        perform app.raise_error(
            'not_signed_in', 'This concerns a member of the organisation.', 'Sign in.'
        );
    end if;
    if not exists (
        select from public.memberships as m
        where m.org_id = require_recipient.org and m.user_id = auth.uid()
    ) then
        perform app.raise_error('not_found', 'There is no such organisation.', null);
    end if;
    perform app.require_open(require_recipient.org, require_recipient.action);
end;
$$;
comment on function app.require_recipient(uuid, text) is
    'Refuses whoever has no inbox in the organisation: only members have, portal clients too.';

create function app.mark_notification_read(notification uuid) returns public.notifications
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_row public.notifications;
begin
    select * into v_row from public.notifications as n
    where n.id = notification and n.recipient_id = auth.uid();
    if v_row.id is null then
        perform app.raise_error('not_found', 'There is no such notification.', null);
    end if;
    perform app.mark_notifications_read(v_row.org_id, v_row.id);
    select * into v_row from public.notifications as n
    where n.org_id = v_row.org_id and n.id = v_row.id;
    return v_row;
end;
$$;
comment on function app.mark_notification_read(uuid) is 'Body of public.mark_notification_read.';

create function public.mark_notification_read(notification uuid) returns public.notifications
language sql
set search_path = ''
as $$ select app.mark_notification_read(notification) $$;
comment on function public.mark_notification_read(uuid) is
    'Marks a notification of the caller as read, which also keeps it from going out on a further '
    'channel; again changes nothing. Returns it. Errors: not_signed_in, not_found, '
    'organization_suspended, organization_inactive.';

create function app.mark_notifications_read(org uuid, notification uuid) returns integer
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_ids uuid[];
begin
    perform app.require_recipient(org, 'write');
    with marked as (
        update public.notifications as n set read_at = app.now()
        where
            n.org_id = org and n.recipient_id = auth.uid() and n.read_at is null
            and (notification is null or n.id = notification)
        returning n.id
    )

    select coalesce(array_agg(m.id), '{}') into v_ids from marked as m;
    update public.notification_attempts as a set status = 'read', read_at = app.now()
    where
        a.org_id = org and a.notification_id = any (v_ids) and a.channel = 'in_app'
        and a.status = 'delivered';
    return cardinality(v_ids);
end;
$$;
comment on function app.mark_notifications_read(uuid, uuid) is
    'Marks one notification of the caller, or with null all of them, as read. Returns how many '
    'were unread.';

create function public.mark_all_notifications_read(org uuid) returns integer
language sql
set search_path = ''
as $$ select app.mark_notifications_read(org, null) $$;
comment on function public.mark_all_notifications_read(uuid) is
    'Marks everything in the caller''s inbox of the organisation as read. Returns how many were '
    'unread. Errors: not_signed_in, not_found, organization_suspended, organization_inactive.';

create function app.get_notification_preferences(org uuid) returns jsonb
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
    v_row public.notification_preferences;
begin
    perform app.require_recipient(org, 'read');
    v_row := app.notification_preferences_of(org, auth.uid());
    return jsonb_build_object(
        'channels', v_row.channels,
        'quiet_from', to_char(v_row.quiet_from, 'HH24:MI'),
        'quiet_until', to_char(v_row.quiet_until, 'HH24:MI'),
        'time_zone', v_row.time_zone,
        'muted_categories', v_row.muted_categories,
        'categories', (
            select jsonb_agg(distinct t.category order by t.category)
            from app.notification_templates as t
        )
    );
end;
$$;
comment on function app.get_notification_preferences(uuid) is
    'Body of public.get_notification_preferences.';

create function public.get_notification_preferences(org uuid) returns jsonb
language sql
stable
set search_path = ''
as $$ select app.get_notification_preferences(org) $$;
comment on function public.get_notification_preferences(uuid) is
    'The caller''s preferences as they count, with the defaults where he has set none, and the '
    'categories that can be muted. Errors: not_signed_in, not_found, organization_inactive.';

create function app.set_notification_preferences(
    org uuid,
    channels text[],
    quiet_from time,
    quiet_until time,
    time_zone text,
    muted_categories text[]
) returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
begin
    perform app.require_recipient(org, 'write');
    if time_zone is not null and not app.is_time_zone(time_zone) then
        perform app.raise_error(
            'time_zone_unknown', format('%s is not a time zone.', left(time_zone, 100)),
            'Use a name like America/Sao_Paulo.'
        );
    end if;
    if
        (
            select count(distinct c.channel) <> cardinality(set_notification_preferences.channels)
            from unnest(set_notification_preferences.channels) as c (channel)
        )
        or not muted_categories <@ array(
            select t.category from app.notification_templates as t
        )
    then
        perform app.raise_error(
            'bad_input', 'A channel is named twice, or a category is unknown.',
            'get_notification_preferences lists the categories.'
        );
    end if;
    -- What preferences may be is said once, by the constraints of their table.
    begin
        insert into public.notification_preferences as p (
            org_id, user_id, channels, quiet_from, quiet_until, time_zone, muted_categories
        ) values (
            org, auth.uid(), set_notification_preferences.channels,
            set_notification_preferences.quiet_from, set_notification_preferences.quiet_until,
            set_notification_preferences.time_zone,
            set_notification_preferences.muted_categories
        )
        on conflict on constraint notification_preferences_pkey do update set
            channels = excluded.channels,
            quiet_from = excluded.quiet_from,
            quiet_until = excluded.quiet_until,
            time_zone = excluded.time_zone,
            muted_categories = excluded.muted_categories;
    exception when check_violation or not_null_violation then
        perform app.raise_error(
            'bad_input',
            'Channels are whatsapp, sms and email; quiet hours have a beginning and another end.',
            null
        );
    end;
    return app.get_notification_preferences(org);
end;
$$;
comment on function app.set_notification_preferences(uuid, text[], time, time, text, text[]) is
    'Body of public.set_notification_preferences.';

create function public.set_notification_preferences(
    org uuid,
    channels text[] default '{whatsapp,sms,email}',
    quiet_from time default null,
    quiet_until time default null,
    time_zone text default null,
    muted_categories text[] default '{}'
) returns jsonb
language sql
set search_path = ''
as $$
    select app.set_notification_preferences(
        org, channels, quiet_from, quiet_until, time_zone, muted_categories
    )
$$;
comment on function public.set_notification_preferences(
    uuid, text[], time, time, text, text[]
) is
    'Replaces the caller''s preferences: channels in the order they are tried (none: inbox only), '
    'quiet hours (left out: none), their time zone (left out: the organisation''s), categories '
    'that stay in the inbox. Returns them as get_notification_preferences does. Errors: '
    'not_signed_in, not_found, bad_input, time_zone_unknown, organization_suspended, '
    'organization_inactive.';

-- 2. Functions: what is told of by triggers of other modules

create function app.notify_failed_sync() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    -- Once per entity and day: a broken key fails every run of a night.
    perform app.notify_role(
        new.org_id, 'data', 'write', 'sync_failed',
        jsonb_build_object(
            'system', 'Omie', 'entity', new.entity, 'started_at', new.started_at,
            'error', coalesce(nullif(btrim(new.error), ''), 'sem detalhes')
        ),
        format(
            'sync_failed/omie/%s/%s', new.entity,
            (new.started_at at time zone app.org_time_zone(new.org_id))::date
        ),
        '/data'
    );
    return null;
end;
$$;
comment on function app.notify_failed_sync() is
    'Trigger on erp_sync_log: tells who writes data that a synchronisation has failed, once per '
    'entity and day.';

create function app.notify_paused_endpoint() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    -- Its host only: the address may hold a token.
    perform app.notify_role(
        new.org_id, 'admin', 'write', 'webhook_endpoint_paused',
        jsonb_build_object(
            'endpoint', coalesce(
                nullif(btrim(new.description), ''),
                substring(new.url from '^https?://(?:[^/?#@]*@)?([^/?#]+)')
            ),
            'failing_since', coalesce(new.first_failure_at, new.paused_at)
        ),
        format('webhook_endpoint_paused/%s/%s', new.id, new.paused_at),
        '/webhook-endpoints/' || new.id
    );
    return null;
end;
$$;
comment on function app.notify_paused_endpoint() is
    'Trigger on webhook_endpoints: tells admins that a receiver which kept failing was paused.';

create function app.tell_held_jobs(org uuid) returns integer
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_job record;
    v_told integer := 0;
begin
    -- Once per kind and day, however many are held. A delivery that is held is left out: who would
    -- be told of it by another one?
    for v_job in
        select distinct on (f.entrypoint) f.entrypoint, f.error, f.failed_at
        from app.failed_jobs(tell_held_jobs.org, 0, 1000) as f
        where
            f.failed_at > app.now() - interval '1 day'
            and f.entrypoint <> 'notification.deliver'
        order by f.entrypoint, f.failed_at desc
    loop
        v_told := v_told + app.notify_role(
            tell_held_jobs.org, 'admin', 'write', 'job_held',
            jsonb_build_object(
                'job', v_job.entrypoint,
                'error', coalesce(nullif(btrim(v_job.error), ''), 'sem detalhes')
            ),
            format(
                'job_held/%s/%s', v_job.entrypoint,
                (v_job.failed_at at time zone app.org_time_zone(tell_held_jobs.org))::date
            ),
            '/failed-tasks'
        );
    end loop;
    return v_told;
end;
$$;
comment on function app.tell_held_jobs(uuid) is
    'Job: tells admins which kinds of job of the organisation were held within a day, each once a '
    'day. Returns how many times somebody is told, now or before.';

create function app.org_ids_with_held_jobs() returns uuid[]
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    return array(
        select distinct o.id
        from app.failed_jobs(null, 0, 10000) as f
        inner join public.organizations as o on f.org_id = o.id
        where o.status = 'active' and f.failed_at > app.now() - interval '1 day'
    );
end;
$$;
comment on function app.org_ids_with_held_jobs() is
    'Active organisations of which a job was held within a day.';

-- 3. Triggers

create trigger notifications_70_emit
after insert on public.notifications
for each row execute function app.emit_event('notify', 'notification', '', 'template');
create trigger event_subscriptions_10_guard_notification
before insert or update of handler, config on public.event_subscriptions
for each row when (new.handler = 'notification')
execute function app.guard_notification_subscription();

create trigger webhook_endpoints_75_notify
after update of paused_at on public.webhook_endpoints
for each row when (
    old.paused_at is null and new.paused_at is not null and new.paused_reason <> 'manual'
)
execute function app.notify_paused_endpoint();

-- 5. Access

select app.protect_table('public.notifications', 'notify', 'recipient_id', '{select}');
select app.protect_table('public.notification_preferences', 'notify', 'user_id', '{select}');

-- A hosted project tells a browser of new rows over this publication; policies decide which.
do $$
begin
    if exists (select from pg_catalog.pg_publication as p where p.pubname = 'supabase_realtime') then
        alter publication supabase_realtime add table public.notifications;
    end if;
end;
$$;

alter table app.notification_templates enable row level security;
create policy notification_templates_select on app.notification_templates for select
to authenticated, service_role, analyst using (true);
grant select on app.notification_templates to authenticated, service_role, analyst;

grant execute on function
app.notify(uuid, uuid, text, jsonb, text, text),
app.notify_role(uuid, text, text, text, jsonb, text, text),
app.notify_event(uuid, uuid, uuid, timestamptz),
app.tell_held_jobs(uuid), app.org_ids_with_held_jobs()
to service_role;
grant execute on function
app.mark_notification_read(uuid), app.mark_notifications_read(uuid, uuid),
app.get_notification_preferences(uuid),
app.set_notification_preferences(uuid, text[], time, time, text, text[]),
public.mark_notification_read(uuid), public.mark_all_notifications_read(uuid),
public.get_notification_preferences(uuid),
public.set_notification_preferences(uuid, text[], time, time, text, text[])
to authenticated, service_role;

-- 6. Reference rows

insert into app.error_keys (key, http, meaning) values
('notification_template_unknown', 422, 'There is no such template in the catalogue.'),
(
    'notification_data_invalid', 422,
    'The data lacks a variable of the template, or has another kind.'
),
(
    'notification_subscription_invalid', 422,
    'A subscription that notifies lacks its template, or does not say whom it tells.'
);

insert into app.event_types (module, event_type, description, payload_keys) values
('notify', 'notification.created', 'Somebody was told something.', '{template}');

insert into app.job_types (entrypoint, latency_class, description) values
('event.notification', 'default', 'Tells people of an event they are subscribed to.');

insert into app.notification_templates (
    template, category, description, title, body, variables
) values
(
    'contract_renewal_near', 'contracts', 'A contract in force renews within 90, 60 or 30 days.',
    'Contrato {number} renova em {due_on}',
    'O contrato {number} ({contract}), de {client}, renova em {due_on}. Dias restantes: '
    '{days_left}. Valor mensal: {mrr}.',
    '{"number": "text", "contract": "text", "client": "text", "due_on": "date",
    "days_left": "integer", "mrr": "money"}'
),
(
    'contract_end_near', 'contracts', 'A contract in force ends within 90, 60 or 30 days.',
    'Contrato {number} termina em {due_on}',
    'O contrato {number} ({contract}), de {client}, termina em {due_on}. Dias restantes: '
    '{days_left}. Valor mensal: {mrr}.',
    '{"number": "text", "contract": "text", "client": "text", "due_on": "date",
    "days_left": "integer", "mrr": "money"}'
),
(
    'sync_failed', 'data', 'A synchronisation with another system has failed.',
    'Falha na sincronização com {system}',
    'A sincronização com {system} ({entity}), iniciada em {started_at}, falhou: {error}',
    '{"system": "text", "entity": "text", "started_at": "moment", "error": "text"}'
),
(
    'webhook_endpoint_paused', 'integrations', 'Deliveries to an endpoint failed for a day.',
    'Webhook pausado: {endpoint}',
    'As entregas para {endpoint} falham desde {failing_since} e foram pausadas. Corrija o destino '
    'e retome as entregas: até lá elas esperam.',
    '{"endpoint": "text", "failing_since": "moment"}'
),
(
    'job_held', 'operation', 'A job has failed for good and waits for a decision.',
    'Tarefa parada: {job}',
    'A tarefa {job} falhou e aguarda uma decisão: tentar de novo ou descartar. Motivo: {error}',
    '{"job": "text", "error": "text"}'
),
(
    'upsell_alert', 'growth', 'A contract has used most of what it includes.',
    'Oportunidade no contrato {number}',
    'O contrato {number}, de {client}, usou {used_pct} % do que inclui em {month} ({kind}).',
    '{"number": "text", "client": "text", "used_pct": "integer", "month": "text", "kind": "text"}'
),
(
    'event', 'events', 'An event somebody is subscribed to; the subscription gives the title.',
    '{title}',
    '{title}, em {occurred_at} ({event}).',
    '{"title": "text", "event": "text", "occurred_at": "moment"}'
),
(
    'test', 'operation', 'An operator tries the channels of a person.',
    'Teste de notificação',
    'Este é um teste enviado em {sent_at}. Se chegou até você, o canal funciona.',
    '{"sent_at": "moment"}'
);
