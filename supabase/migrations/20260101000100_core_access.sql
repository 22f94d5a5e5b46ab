-- Core access: organisations, people, roles, the matrix, and the words every policy is made of.
-- Depends on: core.
-- Asked for by: access.md, domain §3; matrix of the Somos document (2.1) and the ness.OS areas.

-- 1. Tables

create table app.setting_definitions (
    key text primary key,
    kind text not null constraint setting_definitions_kind_check
        check (kind in ('number', 'integer', 'text', 'boolean', 'choice')),
    minimum numeric,
    maximum numeric,
    choices text[],
    default_value jsonb not null,
    description text not null
);
comment on table app.setting_definitions is
    '[core] Schema of organizations.settings: every key, its type, bounds and default. Text is '
    'bounded by maximum characters.';

create table public.organizations (
    id uuid not null default gen_random_uuid() primary key,
    name text not null constraint organizations_name_check
        check (length(btrim(name)) between 2 and 200),
    slug text not null unique constraint organizations_slug_check check (app.is_slug(slug)),
    cnpj text constraint organizations_cnpj_check check (app.is_valid_cnpj(cnpj)),
    plan text not null default 'basic'
        constraint organizations_plan_check check (plan in ('basic', 'pro', 'enterprise')),
    status text not null default 'active'
        constraint organizations_status_check check (status in ('active', 'inactive', 'suspended')),
    vertical text constraint organizations_vertical_check check (length(vertical) <= 100),
    time_zone text not null default 'America/Sao_Paulo',
    locale text not null default 'pt-BR'
        constraint organizations_locale_check check (locale ~ '^[a-z]{2}(-[A-Z]{2})?$'),
    settings jsonb not null default '{}',
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now()
);
comment on table public.organizations is
    '[core] The tenants. A suspended organisation is read-only, an inactive one answers 403.';
comment on column public.organizations.slug is
    'Public address of the organisation; unique in the installation.';
comment on column public.organizations.time_zone is
    'Zone of the tz database in which days and months are cut.';
comment on column public.organizations.settings is
    'Overrides of app.setting_definitions; a missing key has its default.';
create index organizations_status_idx on public.organizations (id) where status <> 'active';

create table public.profiles (
    id uuid not null primary key references auth.users (id) on delete cascade,
    full_name text constraint profiles_full_name_check check (length(full_name) <= 200),
    avatar_url text constraint profiles_avatar_url_check
        check (avatar_url ~ '^https://' and length(avatar_url) <= 500),
    phone text constraint profiles_phone_check check (length(phone) <= 30),
    created_at timestamptz not null default app.now(),
    updated_at timestamptz not null default app.now()
);
comment on table public.profiles is
    '[core] One row per Auth user, made by trigger on sign-up. No role stands here.';
comment on column public.profiles.full_name is '[pii] Name the person goes by.';
comment on column public.profiles.avatar_url is '[pii] Picture, an https address.';
comment on column public.profiles.phone is '[pii] Phone in E.164 form.';

create table public.roles (
    role text primary key,
    rank integer not null,
    title text not null
);
comment on table public.roles is
    '[core] Roles a membership can have. Rank 3 may remove rank 2; only ranks 2 and 3 manage '
    'people.';
comment on column public.roles.title is 'Name shown to people, pt-BR.';

create table public.role_permissions (
    role text not null references public.roles (role),
    module text not null constraint role_permissions_module_check check (module ~ '^[a-z]+$'),
    read_scope text not null
        constraint role_permissions_read_scope_check check (read_scope in ('none', 'own', 'all')),
    write_scope text not null
        constraint role_permissions_write_scope_check check (write_scope in ('none', 'own', 'all')),
    primary key (role, module)
);
comment on table public.role_permissions is
    '[core] The permission matrix: what a role reads and writes of a module. A missing line means '
    'none.';

create table public.memberships (
    org_id uuid not null references public.organizations (id) on delete cascade,
    user_id uuid not null references public.profiles (id) on delete cascade,
    role text not null references public.roles (role),
    hourly_rate numeric(14, 2) constraint memberships_hourly_rate_check check (hourly_rate >= 0),
    client_id uuid,
    invited_by uuid,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, user_id),
    constraint memberships_client_check check ((role = 'client') = (client_id is not null))
);
comment on table public.memberships is
    '[core] A person''s one role in an organisation. Changed only through the functions; '
    'effective on the next request.';
comment on column public.memberships.hourly_rate is
    'Cost of an hour of work, BRL; copied into each time entry.';
comment on column public.memberships.client_id is
    'Client a portal login belongs to; set exactly for role client.';
comment on column public.memberships.invited_by is
    'Person whose invitation was accepted; null for the founder.';
create index memberships_user_id_idx on public.memberships (user_id, org_id);
create index memberships_client_id_idx on public.memberships (org_id, client_id);
create index memberships_role_idx on public.memberships (role);

create table public.invitations (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    email text not null constraint invitations_email_check
        check (app.is_valid_email(email) and email = lower(email)),
    role text not null references public.roles (role),
    client_id uuid,
    token_hash bytea not null,
    expires_at timestamptz not null,
    accepted_at timestamptz,
    accepted_by uuid,
    revoked_at timestamptz,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    primary key (org_id, id),
    constraint invitations_client_check check ((role = 'client') = (client_id is not null))
);
comment on table public.invitations is
    '[core] Invitations by e-mail: single use, expiring; only the token''s hash is kept.';
comment on column public.invitations.email is '[pii] Address that may accept, lower case.';
comment on column public.invitations.token_hash is
    'SHA-256 of the token that invite_member showed once.';
create index invitations_token_hash_idx on public.invitations (token_hash);
create index invitations_role_idx on public.invitations (role);

create table public.org_role_permissions (
    org_id uuid not null references public.organizations (id) on delete cascade,
    role text not null references public.roles (role)
        constraint org_role_permissions_role_check check (role not in ('owner', 'admin')),
    module text not null constraint org_role_permissions_module_check check (module ~ '^[a-z]+$'),
    read_scope text not null
        constraint org_role_permissions_read_scope_check
            check (read_scope in ('none', 'own', 'all')),
    write_scope text not null
        constraint org_role_permissions_write_scope_check
            check (write_scope in ('none', 'own', 'all')),
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, role, module),
    constraint org_role_permissions_reserved_check check (module not in ('core', 'admin', 'notify'))
);
comment on table public.org_role_permissions is
    '[core] One organisation''s own lines of the matrix; they replace role_permissions. Owners '
    'and admins cannot be cut, and an inbox is its owner''s alone.';
create index org_role_permissions_role_idx on public.org_role_permissions (role);

create table public.platform_admins (
    user_id uuid not null primary key references public.profiles (id) on delete cascade,
    created_at timestamptz not null default app.now()
);
comment on table public.platform_admins is
    '[core] Operators of the installation: act in every organisation. Written by the operator at '
    'the database only.';

create table app.analyst_grants (
    login name not null,
    org_id uuid not null references public.organizations (id) on delete cascade,
    created_at timestamptz not null default app.now(),
    primary key (login, org_id)
);
comment on table app.analyst_grants is '[core] Organisations an analyst login may read.';
create index analyst_grants_org_id_idx on app.analyst_grants (org_id);

create table app.protected_tables (
    table_name text primary key,
    module text not null,
    own_column text,
    commands text[] not null
);
comment on table app.protected_tables is
    '[core] What app.protect_table was called with: module and own column of each table, for '
    'tests and nessos doctor.';

-- 2. Functions: settings and time of an organisation

create function app.org_time_zone(org uuid) returns text
language sql
stable
security definer
set search_path = ''
as $$ select coalesce((select o.time_zone from public.organizations as o where o.id = org),
    'America/Sao_Paulo') $$;
comment on function app.org_time_zone(uuid) is
    'Zone of the tz database in which the organisation cuts days and months.';

create function app.org_today(org uuid) returns date
language sql
stable
set search_path = ''
as $$ select (app.now() at time zone app.org_time_zone(org))::date $$;
comment on function app.org_today(uuid) is 'Today''s date in the organisation''s time zone.';

create function app.org_setting(org uuid, key text) returns jsonb
language sql
stable
security definer
set search_path = ''
as $$
    select coalesce(
        (select o.settings -> org_setting.key from public.organizations as o where o.id = org),
        (select d.default_value from app.setting_definitions as d where d.key = org_setting.key)
    )
$$;
comment on function app.org_setting(uuid, text) is 'A setting of the organisation, or its default.';

create function app.guard_organization() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_key text;
    v_value jsonb;
    v_rule app.setting_definitions;
begin
    if not app.is_time_zone(new.time_zone) then
        perform app.raise_error(
            'time_zone_unknown',
            format('%s is not a time zone.', new.time_zone),
            'Use a name like America/Sao_Paulo.'
        );
    end if;
    if jsonb_typeof(new.settings) <> 'object' then
        perform app.raise_error('setting_invalid', 'Settings are a JSON object.', null);
    end if;
    for v_key, v_value in select * from jsonb_each(new.settings) loop
        select * into v_rule from app.setting_definitions as d where d.key = v_key;
        if v_rule.key is null or not (case v_rule.kind
            when 'number' then jsonb_typeof(v_value) = 'number'
                and v_value::numeric between coalesce(v_rule.minimum, '-infinity')
                    and coalesce(v_rule.maximum, 'infinity')
            when 'integer' then jsonb_typeof(v_value) = 'number'
                and v_value::numeric = trunc(v_value::numeric)
                and v_value::numeric between coalesce(v_rule.minimum, '-infinity')
                    and coalesce(v_rule.maximum, 'infinity')
            when 'text' then jsonb_typeof(v_value) = 'string'
                and length(v_value #>> '{}') <= coalesce(v_rule.maximum, 500)
            when 'boolean' then jsonb_typeof(v_value) = 'boolean'
            else jsonb_typeof(v_value) = 'string' and v_value #>> '{}' = any (v_rule.choices)
        end) then
            perform app.raise_error(
                'setting_invalid', format('Setting %s does not take the value %s.', v_key,
                    left(v_value::text, 100)),
                'See app.setting_definitions for the keys, types and bounds.'
            );
        end if;
    end loop;
    return new;
end;
$$;
comment on function app.guard_organization() is
    'Trigger: a time zone must exist, settings must follow app.setting_definitions.';

-- 2. Functions: what the caller may reach (the words of every policy; in plpgsql for the reason
-- given at app.now)

create function app.caller_roles() returns table (org_id uuid, role text, client_id uuid,
    status text)
language plpgsql
stable
security definer
set search_path = ''
rows 5
as $$
begin
    -- An agent has one role in one organisation, from claims only the server can set, and none of a
    -- person's. Talking to a customer it is what the customer is in the portal; to a visitor, nobody.
    if app.agent_id() is not null then
        return query
        select
            o.id,
            case when app.serves_contact() then 'client' else 'agent' end,
            app.agent_claim('agent_contact', 'client_id'),
            o.status
        from public.organizations as o
        where
            o.id = app.agent_claim('agent_org_id')
            and app.agent_id() <> '00000000-0000-0000-0000-000000000000';
        return;
    end if;
    return query
    select m.org_id, m.role, m.client_id, o.status
    from public.memberships as m inner join public.organizations as o on o.id = m.org_id
    where m.user_id = (select auth.uid());
    if exists (select from public.platform_admins as p where p.user_id = (select auth.uid())) then
        return query
        select o.id, 'owner', null::uuid, 'active' from public.organizations as o
        where not exists (
            select from public.memberships as m where m.user_id = (select auth.uid())
                and m.org_id = o.id
        );
    end if;
end;
$$;
comment on function app.caller_roles() is
    'Organisations of the caller with role, client and status: memberships, an agent''s claims '
    '(role client while it serves a contact), or every organisation for a platform admin.';

create function app.caller_orgs(module text, action text, scope text) returns uuid[]
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
    v_open uuid[];
    v_is_any_open boolean;
    v_blocked text;
begin
    -- No line of an organisation's own opens a whole module to whoever talks to its agent.
    if caller_orgs.scope = 'all' and app.serves_contact() then
        return '{}';
    end if;
    select
        array_agg(c.org_id) filter (where c.is_open and c.scope = caller_orgs.scope),
        bool_or(c.is_open),
        min(c.status) filter (where not c.is_open and c.scope = caller_orgs.scope)
    into v_open, v_is_any_open, v_blocked
    from (
        select
            r.org_id,
            r.status,
            r.status = 'active' or (r.status = 'suspended' and action = 'read') as is_open,
            case action
                when 'read' then coalesce(x.read_scope, p.read_scope)
                when 'write' then coalesce(x.write_scope, p.write_scope)
            end as scope
        from app.caller_roles() as r
        left join public.role_permissions as p
            on p.role = r.role and p.module = caller_orgs.module
        left join public.org_role_permissions as x
            on x.org_id = r.org_id and x.role = r.role and x.module = caller_orgs.module
    ) as c
    where c.scope in ('own', 'all');
    -- An open organisation with the other scope is served: policies ask for both in turn.
    if v_blocked is not null and not v_is_any_open then
        perform app.raise_error(
            'organization_' || v_blocked, format('The organisation is %s.', v_blocked),
                'Ask the operator of the installation.'
        );
    end if;
    return coalesce(v_open, '{}');
end;
$$;
comment on function app.caller_orgs(text, text, text) is
    'Organisations where the caller has the scope; all of a module is never an agent''s that '
    'serves a contact. If nothing of the module is left to him only because of their status, '
    'that is raised.';

create function app.org_ids(module text, action text) returns uuid[]
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    return app.caller_orgs(module, action, 'all');
end;
$$;
comment on function app.org_ids(text, text) is
    'Organisations in which the caller may read or write all rows of the module. Use as = any '
    '((select …)::uuid[]).';

create function app.own_org_ids(module text, action text) returns uuid[]
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    return app.caller_orgs(module, action, 'own');
end;
$$;
comment on function app.own_org_ids(text, text) is
    'Organisations in which the caller may read or write only his own rows of the module.';

create function app.caller_org_ids() returns uuid[]
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
    v_orgs uuid[];
    v_is_operator boolean;
begin
    if app.agent_id() is null then
        select
            array_agg(m.org_id),
            exists (select from public.platform_admins as p where p.user_id = auth.uid())
        into v_orgs, v_is_operator
        from public.memberships as m
        where m.user_id = auth.uid();
        if not v_is_operator then
            return coalesce(v_orgs, '{}');
        end if;
    end if;
    return array(select r.org_id from app.caller_roles() as r);
end;
$$;
comment on function app.caller_org_ids() is
    'Organisations in which the caller is anything at all. It allows nothing: policies with a '
    'choice name it first, because an or alone keeps the planner from reading a page of a list '
    'in the order of an index.';

create function app.is_outsider(org uuid) returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
    return current_setting('role', true) in ('anon', 'authenticated')
        and not is_outsider.org = any(app.caller_org_ids());
end;
$$;
comment on function app.is_outsider(uuid) is
    'Whether a client asks who is nothing at all in the organisation. Triggers run before the '
    'policies refuse: one that looks at other rows of the organisation asks this first, or its '
    'answer would tell strangers about them.';

create function app.client_ids() returns uuid[]
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    -- Policies compare organisation and client apart. An id is unique in one organisation only, and
    -- whoever inserts a client may choose it: an accomplice could give a client of his own the id
    -- of somebody else's and link the caller to that. Such an id opens nothing.
    return array(
        select r.client_id
        from app.caller_roles() as r
        where
            r.client_id is not null
            and not exists (
                select from app.caller_roles() as o
                inner join public.clients as c on c.org_id = o.org_id and c.id = r.client_id
                where o.org_id <> r.org_id and o.client_id is distinct from r.client_id
            )
    );
end;
$$;
comment on function app.client_ids() is
    'Clients the caller''s portal logins belong to, but for an id that also names a client he is '
    'not linked to in another of his organisations.';

create function app.readable_scopes() returns text[]
language sql
stable
security definer
set search_path = ''
as $$
    select coalesce(array_agg(r.org_id || '/' || p.module), '{}')
    from app.caller_roles() as r
    inner join (
        select p.role, p.module, p.read_scope from public.role_permissions as p
        union all
        -- What every visitor may read, everybody of the organisation may.
        select o.role, 'public', 'all' from public.roles as o
    ) as p on p.role = r.role
    left join public.org_role_permissions as x
        on x.org_id = r.org_id and x.role = r.role and x.module = p.module
    where
        r.status <> 'inactive' and coalesce(x.read_scope, p.read_scope) = 'all'
        and (p.module = 'public' or not app.serves_contact())
$$;
comment on function app.readable_scopes() is
    'What the caller may read in full, as organisation/module, and organisation/public; for '
    'tables whose rows belong to different modules.';

create function app.colleague_ids() returns uuid[]
language sql
stable
security definer
set search_path = ''
as $$
    select coalesce(array_agg(distinct m.user_id), '{}')
    from app.caller_roles() as r
    inner join public.memberships as m on m.org_id = r.org_id
    -- An AI agent talks to strangers: it could be talked into telling names and phones.
    where r.role not in ('client', 'agent') and r.status <> 'inactive'
$$;
comment on function app.colleague_ids() is
    'People of the organisations in which the caller is staff, which portal clients and AI agents '
    'are not.';

create function app.inactive_org_ids() returns uuid[]
language sql
stable
security definer
set search_path = ''
as $$ select coalesce(array_agg(o.id), '{}') from public.organizations as o
    where o.status = 'inactive' $$;
comment on function app.inactive_org_ids() is
    'Inactive organisations, whose public pages are not served.';

create function app.analyst_org_ids() returns uuid[]
language sql
stable
security definer
set search_path = ''
as $$
    select coalesce(array_agg(g.org_id), '{}') from app.analyst_grants as g
        where g.login = session_user
$$;
comment on function app.analyst_org_ids() is
    'Organisations granted to the analyst login of this session.';

create function app.grant_analyst(login name, org uuid) returns void
language plpgsql
set search_path = ''
as $$
begin
    if not exists (
        select from pg_catalog.pg_roles as r
        where
            r.rolname = grant_analyst.login and not r.rolsuper and not r.rolbypassrls
            and pg_has_role(r.oid, 'analyst', 'member')
    ) then
        perform app.raise_error(
            'bad_input', format('%s is not a login of the group analyst.', grant_analyst.login),
            'create role … login password … in role analyst'
        );
    end if;
    -- Settings of a group do not reach its members, so each login gets its own.
    execute format('alter role %I set statement_timeout = %L', grant_analyst.login, '60s');
    execute format('alter role %I set default_transaction_read_only = on', grant_analyst.login);
    insert into app.analyst_grants (login, org_id) values (grant_analyst.login, org)
    on conflict do nothing;
end;
$$;
comment on function app.grant_analyst(name, uuid) is
    'Lets an analyst''s login read an organisation; read only, a statement ends after 60 seconds. '
    'Operators at the database. Errors: bad_input.';

create function app.can_access(org uuid, module text, action text) returns boolean
language sql
stable
security definer
set search_path = ''
as $$ select org = any (app.org_ids(module, action)) $$;
comment on function app.can_access(uuid, text, text) is
    'Whether the caller may read or write all rows of the module in the organisation.';

create function app.require_access(org uuid, module text, action text) returns void
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    if current_setting('role', true) = 'service_role' or app.claims() is null
        and auth.uid() is null then
        return; -- the worker or an operator at the database
    end if;
    if auth.uid() is null and app.agent_id() is null then
        perform app.raise_error(
            'not_signed_in',
            'This needs a signed-in person.',
            'Sign in and try again.'
        );
    end if;
    perform app.require_open(org, action);
    if not app.can_access(org, module, action) then
        perform app.raise_error(
            'not_allowed', format('Your role may not %s %s here.', action, module),
                'Ask an admin of the organisation.'
        );
    end if;
end;
$$;
comment on function app.require_access(uuid, text, text) is
    'Raises not_signed_in, organization_inactive, organization_suspended or not_allowed unless '
    'the caller has the whole module. The worker passes.';

create function app.require_open(org uuid, action text) returns void
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
    v_status text := (select r.status from app.caller_roles() as r where r.org_id = org);
begin
    if v_status = 'inactive' or (v_status = 'suspended' and action = 'write') then
        perform app.raise_error(
            'organization_' || v_status, format('The organisation is %s.', v_status),
                'Ask the operator of the installation.'
        );
    end if;
end;
$$;
comment on function app.require_open(uuid, text) is
    'Raises organization_inactive or organization_suspended where the caller''s organisation does '
    'not take the act.';

-- 2. Functions: guards that app.protect_table attaches

create function app.guard_keys() returns trigger
language plpgsql
set search_path = ''
as $$
begin
    perform app.raise_error(
        'keys_are_immutable',
        format('Keys of %s cannot be changed.', tg_table_name),
        'Create a new row instead.'
    );
end;
$$;
comment on function app.guard_keys() is
    'Trigger: fires only when a key column would change, and refuses.';

create function app.stamp_creator() returns trigger
language plpgsql
set search_path = ''
as $$
begin
    new.created_by := auth.uid();
    return new;
end;
$$;
comment on function app.stamp_creator() is
    'Trigger: fires only when a signed-in caller, or an agent, names somebody else as creator, and '
    'corrects it.';

create function app.guard_member() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_user uuid := (to_jsonb(new) ->> tg_argv[0])::uuid;
begin
    if v_user is not null and not app.is_outsider(new.org_id) and not exists (
        select from public.memberships as m where m.org_id = new.org_id and m.user_id = v_user
    ) then
        perform app.raise_error(
            'user_not_member',
            format('%s is not a member of the organisation.', tg_argv[0]),
            'Invite the person first.'
        );
    end if;
    return new;
end;
$$;
comment on function app.guard_member() is
    'Trigger (column): the person named in the column must be a member of the row''s organisation.';

create function app.protect_table(
    target regclass,
    module text,
    own_column name,
    commands text[] default '{select,insert,update,delete}'
) returns void
language plpgsql
set search_path = ''
as $$
declare
    v_table text := (select c.relname from pg_catalog.pg_class as c where c.oid = target);
    v_columns name[] := (
        select array_agg(a.attname) from pg_catalog.pg_attribute as a
        where a.attrelid = target and a.attnum > 0 and not a.attisdropped
    );
    v_command text;
    v_action text;
    v_own text;
    v_rule text;
    v_readable text;
    v_moved text;
begin
    execute format('alter table %s enable row level security', target);
    execute format('alter table %s force row level security', target);
    foreach v_command in array commands loop
        v_action := case v_command when 'select' then 'read' else 'write' end;
        v_rule := format('org_id = any ((select app.org_ids(%L, %L))::uuid[])', module, v_action);
        if own_column is not null then
            v_own := case when own_column in ('client_id', 'id')
                then format('%I = any ((select app.client_ids())::uuid[])', own_column)
                else format('%I = (select auth.uid())', own_column)
            end;
            v_rule := format(
                'org_id = any ((select app.caller_org_ids())::uuid[]) '
                'and (%s or (org_id = any ((select app.own_org_ids(%L, %L))::uuid[]) and %s))',
                v_rule, module, v_action, v_own
            );
        end if;
        execute format(
            'create policy %I on %s for %s to authenticated %s',
            v_table || '_' || v_command, target, v_command,
            case v_command
                when 'insert' then format('with check (%s)', v_rule)
                when 'update' then format('using (%s) with check (%s)', v_rule, v_rule)
                else format('using (%s)', v_rule)
            end
        );
        execute format('grant %s on %s to authenticated', v_command, target);
    end loop;
    execute format('grant select, insert, update, delete on %s to service_role', target);

    -- Analysts read the organisations granted to their login, without the columns marked as
    -- personal data.
    execute format(
        'create policy %I on %s for select to analyst using (org_id = any ((select '
        'app.analyst_org_ids())::uuid[]))',
        v_table || '_select_analyst', target
    );
    select string_agg(format('%I', a.attname), ', ' order by a.attnum) into v_readable
    from pg_catalog.pg_attribute as a
    where
        a.attrelid = target and a.attnum > 0 and not a.attisdropped
        and coalesce(pg_catalog.col_description(a.attrelid, a.attnum), '') not like '[pii]%';
    execute format('grant select (%s) on %s to analyst', v_readable, target);

    select string_agg(format('old.%1$I is distinct from new.%1$I', name), ' or ') into v_moved
    from unnest('{org_id,id,created_at,created_by}'::name[]) as name
    where name = any (v_columns);
    execute format(
        'create trigger %I before update on %s for each row when (%s) execute function '
        'app.guard_keys()',
        v_table || '_10_guard_keys', target, v_moved
    );
    if 'created_by' = any (v_columns) then
        execute format(
            'create trigger %I before insert on %s for each row '
            'when (coalesce(auth.uid(), app.agent_id()) is not null '
            'and new.created_by is distinct from auth.uid()) execute '
            'function app.stamp_creator()',
            v_table || '_10_stamp_creator', target
        );
    end if;
    if 'updated_at' = any (v_columns) then
        execute format(
            'create trigger %I before update on %s for each row execute function app.touch()',
            v_table || '_90_touch', target
        );
    end if;
    insert into app.protected_tables (table_name, module, own_column, commands)
    values (v_table, module, own_column, commands);
end;
$$;
comment on function app.protect_table(regclass, text, name, text[]) is
    'Makes a tenant table reachable: forced RLS, one policy per command in the house form, '
    'grants, key guard, touch, analyst columns. own_column: null; client_id or id for the portal; '
    'else a person''s column.';

-- 3. Triggers

create trigger organizations_10_guard
before insert or update on public.organizations
for each row execute function app.guard_organization();

create trigger organizations_90_touch
before update on public.organizations
for each row execute function app.touch();

create trigger profiles_90_touch
before update on public.profiles
for each row execute function app.touch();

-- 5. Access

grant execute on function
app.org_ids(text, text), app.own_org_ids(text, text), app.caller_org_ids(), app.client_ids(),
app.readable_scopes(),
app.colleague_ids(), app.can_access(uuid, text, text), app.require_access(uuid, text, text),
app.org_time_zone(uuid), app.org_today(uuid), app.org_setting(uuid, text)
to authenticated, service_role;
grant execute on function app.inactive_org_ids() to anon, authenticated, service_role;
grant execute on function app.analyst_org_ids() to analyst;
grant execute on function app.org_time_zone(uuid), app.org_today(uuid) to analyst;

alter table app.setting_definitions enable row level security;
alter table app.analyst_grants enable row level security;
alter table app.protected_tables enable row level security;
create policy setting_definitions_select on app.setting_definitions for select
to authenticated, service_role using (true);
grant select on app.setting_definitions to authenticated, service_role;

-- What has no org_id is written out by hand.
alter table public.organizations enable row level security;
alter table public.organizations force row level security;
create policy organizations_select on public.organizations for select to authenticated
using (
    id = any((select app.org_ids('core', 'read'))::uuid[])
    or id = any((select app.own_org_ids('core', 'read'))::uuid[])
);
create policy organizations_select_analyst on public.organizations for select to analyst
using (id = any((select app.analyst_org_ids())::uuid[]));
grant select on public.organizations to authenticated, analyst;
grant select, insert, update, delete on public.organizations to service_role;

alter table public.profiles enable row level security;
alter table public.profiles force row level security;
create policy profiles_select on public.profiles for select to authenticated
using (
    id = (select auth.uid()) or id = any((select app.colleague_ids())::uuid[])
);
create policy profiles_update on public.profiles for update to authenticated
using (id = (select auth.uid())) with check (id = (select auth.uid()));
grant select on public.profiles to authenticated;
grant update (full_name, avatar_url, phone) on public.profiles to authenticated;
grant select, insert, update, delete on public.profiles to service_role;

alter table public.roles enable row level security;
alter table public.roles force row level security;
create policy roles_select on public.roles for select to authenticated using (true);
alter table public.role_permissions enable row level security;
alter table public.role_permissions force row level security;
create policy role_permissions_select on public.role_permissions for select to authenticated
    using (true);
grant select on public.roles, public.role_permissions to authenticated, service_role;

alter table public.platform_admins enable row level security;
alter table public.platform_admins force row level security;
create policy platform_admins_select on public.platform_admins for select to authenticated
using (user_id = (select auth.uid()));
grant select on public.platform_admins to authenticated, service_role;

select app.protect_table('public.memberships', 'core', 'user_id', '{select}');
select app.protect_table('public.invitations', 'admin', null, '{select}');
select app.protect_table('public.org_role_permissions', 'admin', null);

-- 6. Reference rows

insert into public.roles (role, rank, title) values
('owner', 3, 'Proprietário'),
('admin', 2, 'Administrador'),
('director', 1, 'Diretor'),
('sales', 1, 'Comercial'),
('ops', 1, 'Operações'),
('finance', 1, 'Financeiro'),
('legal', 1, 'Jurídico'),
('people', 1, 'Pessoas'),
('employee', 1, 'Colaborador'),
('agent', 1, 'Agente de IA'),
('client', 1, 'Cliente');

-- Scopes: r reads all, rw reads and writes all, ro reads all and writes own, o and oo own rows,
-- -w writes all and reads none.
insert into public.role_permissions (role, module, read_scope, write_scope)
select
    cell.role,
    matrix.module,
    case left(cell.scopes, 1) when 'r' then 'all' when 'o' then 'own' else 'none' end as read_scope,
    case right(cell.scopes, -1)
        when 'w' then 'all' when 'o' then 'own' else 'none'
    end as write_scope
from (
    values
    -- module, owner, admin, director, sales, ops, finance, legal, people, employee, agent, client
    ('core', 'r', 'r', 'r', 'o', 'o', 'r', 'o', 'r', 'o', '-', '-'),
    ('admin', 'rw', 'rw', '-', '-', '-', '-', '-', '-', '-', '-', '-'),
    ('hunter', 'rw', 'rw', 'rw', 'r', '-', '-', '-', '-', '-', 'rw', '-'),
    ('sdr', 'rw', 'rw', 'rw', 'r', '-', '-', '-', '-', '-', 'rw', '-'),
    ('crm', 'rw', 'rw', 'rw', 'oo', '-', '-', '-', '-', '-', 'r', '-'),
    ('contracts', 'rw', 'rw', 'rw', 'r', 'r', 'rw', 'r', '-', '-', '-', 'o'),
    ('projects', 'rw', 'rw', 'rw', 'r', 'r', '-', '-', '-', '-', '-', 'o'),
    ('fin', 'rw', 'rw', 'r', '-', '-', 'rw', '-', '-', '-', '-', 'o'),
    ('inventory', 'rw', 'rw', 'rw', 'r', '-', '-', '-', '-', '-', '-', '-'),
    ('suppliers', 'rw', 'rw', 'rw', 'r', '-', '-', '-', '-', '-', '-', '-'),
    ('budgets', 'rw', 'rw', 'rw', 'rw', '-', '-', '-', '-', '-', 'rw', 'o'),
    ('content', 'rw', 'rw', 'rw', 'r', '-', '-', '-', '-', '-', 'rw', 'o'),
    ('social', 'rw', 'rw', 'rw', 'r', '-', '-', '-', '-', '-', 'rw', '-'),
    ('people', 'rw', 'rw', 'r', '-', '-', '-', '-', 'rw', 'o', '-', '-'),
    ('intel', 'rw', 'rw', 'rw', 'r', '-', '-', '-', '-', '-', 'rw', '-'),
    ('analytics', 'rw', 'rw', 'rw', 'r', '-', '-', '-', '-', '-', 'r', 'o'),
    ('mobile', 'rw', 'rw', 'rw', 'rw', '-', '-', '-', '-', '-', '-', 'oo'),
    ('ops', 'rw', 'rw', 'rw', '-', 'rw', '-', '-', '-', 'r', '-', '-'),
    ('time', 'rw', 'rw', 'rw', 'oo', 'rw', 'ro', 'oo', 'oo', 'oo', '-', '-'),
    ('growth', 'rw', 'rw', 'rw', 'rw', '-', '-', '-', '-', '-', '-', '-'),
    ('legal', 'rw', 'rw', '-', '-', '-', '-', 'rw', '-', '-', '-', '-'),
    ('gov', 'rw', 'rw', 'ro', 'ro', 'ro', 'ro', 'rw', 'ro', 'ro', '-', '-'),
    ('data', 'rw', 'rw', 'r', '-', 'r', 'r', '-', '-', '-', '-', '-'),
    ('notify', 'oo', 'oo', 'oo', 'oo', 'oo', 'oo', 'oo', 'oo', 'oo', '-', 'oo'),
    ('knowledge', 'rw', 'rw', 'rw', 'r', 'rw', 'r', 'r', 'r', 'r', 'r', '-'),
    ('chat', 'ro', 'ro', 'oo', 'oo', 'oo', 'oo', 'oo', 'oo', 'oo', '-', '-'),
    ('ai', 'rw', 'rw', 'rw', '-', '-', '-', '-', '-', '-', '-', '-'),
    ('tasks', 'rw', 'rw', 'rw', 'oo', 'rw', 'oo', 'oo', 'oo', 'oo', '-w', '-'),
    ('workflows', 'rw', 'rw', 'rw', '-', 'r', '-', '-', '-', '-', '-', '-')
) as matrix (module, owner, admin, director, sales, ops, finance, legal, people, employee, agent,
    client)
cross join lateral (
    values
    ('owner', matrix.owner), ('admin', matrix.admin), ('director', matrix.director),
        ('sales', matrix.sales),
    ('ops', matrix.ops), ('finance', matrix.finance), ('legal', matrix.legal),
        ('people', matrix.people),
    ('employee', matrix.employee), ('agent', matrix.agent), ('client', matrix.client)
) as cell (role, scopes);

insert into app.error_keys (key, http, meaning) values
('time_zone_unknown', 422, 'The time zone is not in the tz database.'),
('setting_invalid', 422, 'A setting is unknown, of the wrong type or out of bounds.');
