-- Core access: organisations, people, roles, the permission matrix, and the helpers every policy is made of.
-- Depends on: core.
-- Asked for by: access.md, domain §3; matrix of the Somos document (2.1) and the ness.OS areas.

-- Tables

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
    '[core] Schema of organizations.settings: every key, its type, bounds and default. Text is bounded by maximum characters.';

create table public.organizations (
    id uuid not null default gen_random_uuid() primary key,
    name text not null constraint organizations_name_check check (length(btrim(name)) between 2 and 200),
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
comment on column public.organizations.slug is 'Public address of the organisation; unique in the installation.';
comment on column public.organizations.time_zone is 'Zone of the tz database in which days and months are cut.';
comment on column public.organizations.settings is 'Overrides of app.setting_definitions; a missing key has its default.';
create index organizations_status_idx on public.organizations (id) where status <> 'active';

create table public.profiles (
    id uuid not null primary key references auth.users (id) on delete cascade,
    full_name text constraint profiles_full_name_check check (length(full_name) <= 200),
    avatar_url text constraint profiles_avatar_url_check check (avatar_url ~ '^https://' and length(avatar_url) <= 500),
    phone text constraint profiles_phone_check check (length(phone) <= 30),
    created_at timestamptz not null default app.now(),
    updated_at timestamptz not null default app.now()
);
comment on table public.profiles is '[core] One row per Auth user, made by trigger on sign-up. No role stands here.';
comment on column public.profiles.full_name is '[pii] Name the person goes by.';
comment on column public.profiles.avatar_url is '[pii] Picture, an https address.';
comment on column public.profiles.phone is '[pii] Phone in E.164 form.';

create table public.roles (
    role text primary key,
    rank integer not null,
    title text not null
);
comment on table public.roles is
    '[core] Roles a membership can have. Rank 3 may remove rank 2; only ranks 2 and 3 manage people.';
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
    '[core] The permission matrix: what a role reads and writes of a module. A missing line means none.';

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
    '[core] A person''s one role in an organisation. Changed only through the functions; effective on the next request.';
comment on column public.memberships.hourly_rate is 'Cost of an hour of work, BRL; copied into each time entry.';
comment on column public.memberships.client_id is 'Client a portal login belongs to; set exactly for role client.';
comment on column public.memberships.invited_by is 'Person whose invitation was accepted; null for the founder.';
create index memberships_user_id_idx on public.memberships (user_id, org_id);
create index memberships_client_id_idx on public.memberships (org_id, client_id);
create index memberships_role_idx on public.memberships (role);

create table public.invitations (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    email text not null constraint invitations_email_check check (app.is_valid_email(email) and email = lower(email)),
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
comment on table public.invitations is '[core] Invitations by e-mail: single use, expiring; only the token''s hash is kept.';
comment on column public.invitations.email is '[pii] Address that may accept, lower case.';
comment on column public.invitations.token_hash is 'SHA-256 of the token that invite_member showed once.';
create index invitations_token_hash_idx on public.invitations (token_hash);
create index invitations_role_idx on public.invitations (role);

create table public.org_role_permissions (
    org_id uuid not null references public.organizations (id) on delete cascade,
    role text not null references public.roles (role)
        constraint org_role_permissions_role_check check (role not in ('owner', 'admin')),
    module text not null constraint org_role_permissions_module_check check (module ~ '^[a-z]+$'),
    read_scope text not null
        constraint org_role_permissions_read_scope_check check (read_scope in ('none', 'own', 'all')),
    write_scope text not null
        constraint org_role_permissions_write_scope_check check (write_scope in ('none', 'own', 'all')),
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, role, module),
    constraint org_role_permissions_reserved_check check (module not in ('core', 'admin'))
);
comment on table public.org_role_permissions is
    '[core] One organisation''s own lines of the matrix; they replace role_permissions. Owners and admins cannot be cut.';
create index org_role_permissions_role_idx on public.org_role_permissions (role);

create table public.platform_admins (
    user_id uuid not null primary key references public.profiles (id) on delete cascade,
    created_at timestamptz not null default app.now()
);
comment on table public.platform_admins is
    '[core] Operators of the installation: act in every organisation. Written by the operator at the database only.';

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
    '[core] What app.protect_table was called with: module and own column of each table, for tests and nessos doctor.';

-- Functions: settings and time of an organisation

create function app.org_time_zone(org uuid) returns text
language sql
stable
security definer
set search_path = ''
as $$ select coalesce((select o.time_zone from public.organizations as o where o.id = org), 'America/Sao_Paulo') $$;
comment on function app.org_time_zone(uuid) is 'Zone of the tz database in which the organisation cuts days and months.';

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
        perform app.raise_error('time_zone_unknown', format('%s is not a time zone.', new.time_zone), 'Use a name like America/Sao_Paulo.');
    end if;
    if jsonb_typeof(new.settings) <> 'object' then
        perform app.raise_error('setting_invalid', 'Settings are a JSON object.', null);
    end if;
    for v_key, v_value in select * from jsonb_each(new.settings) loop
        select * into v_rule from app.setting_definitions as d where d.key = v_key;
        if v_rule.key is null or not (case v_rule.kind
            when 'number' then jsonb_typeof(v_value) = 'number'
                and v_value::numeric between coalesce(v_rule.minimum, '-infinity') and coalesce(v_rule.maximum, 'infinity')
            when 'integer' then jsonb_typeof(v_value) = 'number' and v_value::numeric = trunc(v_value::numeric)
                and v_value::numeric between coalesce(v_rule.minimum, '-infinity') and coalesce(v_rule.maximum, 'infinity')
            when 'text' then jsonb_typeof(v_value) = 'string'
                and length(v_value #>> '{}') <= coalesce(v_rule.maximum, 500)
            when 'boolean' then jsonb_typeof(v_value) = 'boolean'
            else jsonb_typeof(v_value) = 'string' and v_value #>> '{}' = any (v_rule.choices)
        end) then
            perform app.raise_error(
                'setting_invalid', format('Setting %s does not take the value %s.', v_key, left(v_value::text, 100)),
                'See app.setting_definitions for the keys, types and bounds.'
            );
        end if;
    end loop;
    return new;
end;
$$;
comment on function app.guard_organization() is
    'Trigger: a time zone must exist, settings must follow app.setting_definitions.';

-- Functions: what the caller may reach (the words of every policy)

create function app.caller_roles() returns table (org_id uuid, role text, client_id uuid, status text)
language plpgsql
stable
security definer
set search_path = ''
rows 5
as $$
begin
    -- An agent has one role in one organisation, from claims only the server can set, and none of a person's.
    if app.agent_id() is not null then
        return query
        select o.id, 'agent', null::uuid, o.status from public.organizations as o
        where o.id = (app.claims() #>> '{app_metadata,agent_org_id}')::uuid;
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
            select from public.memberships as m where m.user_id = (select auth.uid()) and m.org_id = o.id
        );
    end if;
end;
$$;
comment on function app.caller_roles() is
    'Organisations of the caller with role, client and status: memberships, an agent''s claims, or every organisation for a platform admin.';

create function app.caller_orgs(module text, action text, scope text) returns uuid[]
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
    v_open uuid[];
    v_blocked text;
begin
    select
        array_agg(r.org_id) filter (where r.status = 'active' or (r.status = 'suspended' and action = 'read')),
        min(r.status) filter (where r.status = 'inactive' or (r.status = 'suspended' and action = 'write'))
    into v_open, v_blocked
    from app.caller_roles() as r
    left join public.role_permissions as p on p.role = r.role and p.module = caller_orgs.module
    left join public.org_role_permissions as x
        on x.org_id = r.org_id and x.role = r.role and x.module = caller_orgs.module
    where case action
        when 'read' then coalesce(x.read_scope, p.read_scope)
        when 'write' then coalesce(x.write_scope, p.write_scope)
    end = scope;
    if v_open is null and v_blocked is not null then
        perform app.raise_error(
            'organization_' || v_blocked, format('The organisation is %s.', v_blocked), 'Ask the operator of the installation.'
        );
    end if;
    return coalesce(v_open, '{}');
end;
$$;
comment on function app.caller_orgs(text, text, text) is
    'Organisations where the caller has the scope. If none is left only because of their status, that is raised.';

create function app.org_ids(module text, action text) returns uuid[]
language sql
stable
security definer
set search_path = ''
as $$ select app.caller_orgs(module, action, 'all') $$;
comment on function app.org_ids(text, text) is
    'Organisations in which the caller may read or write all rows of the module. Use as = any ((select …)::uuid[]).';

create function app.own_org_ids(module text, action text) returns uuid[]
language sql
stable
security definer
set search_path = ''
as $$ select app.caller_orgs(module, action, 'own') $$;
comment on function app.own_org_ids(text, text) is
    'Organisations in which the caller may read or write only his own rows of the module.';

create function app.client_ids() returns uuid[]
language sql
stable
security definer
set search_path = ''
as $$
    select coalesce(array_agg(r.client_id) filter (where r.client_id is not null), '{}') from app.caller_roles() as r
$$;
comment on function app.client_ids() is 'Clients the caller''s portal logins belong to.';

create function app.readable_scopes() returns text[]
language sql
stable
security definer
set search_path = ''
as $$
    select coalesce(array_agg(r.org_id || '/' || p.module), '{}')
    from app.caller_roles() as r
    inner join public.role_permissions as p on p.role = r.role
    left join public.org_role_permissions as x
        on x.org_id = r.org_id and x.role = r.role and x.module = p.module
    where r.status <> 'inactive' and coalesce(x.read_scope, p.read_scope) = 'all'
$$;
comment on function app.readable_scopes() is
    'What the caller may read in full, as organisation/module; for tables whose rows belong to different modules.';

create function app.colleague_ids() returns uuid[]
language sql
stable
security definer
set search_path = ''
as $$
    select coalesce(array_agg(distinct m.user_id), '{}')
    from app.caller_roles() as r
    inner join public.memberships as m on m.org_id = r.org_id
    where r.role <> 'client' and r.status <> 'inactive'
$$;
comment on function app.colleague_ids() is 'People of the organisations in which the caller is staff.';

create function app.inactive_org_ids() returns uuid[]
language sql
stable
security definer
set search_path = ''
as $$ select coalesce(array_agg(o.id), '{}') from public.organizations as o where o.status = 'inactive' $$;
comment on function app.inactive_org_ids() is 'Inactive organisations, whose public pages are not served.';

create function app.analyst_org_ids() returns uuid[]
language sql
stable
security definer
set search_path = ''
as $$
    select coalesce(array_agg(g.org_id), '{}') from app.analyst_grants as g where g.login = session_user
$$;
comment on function app.analyst_org_ids() is 'Organisations granted to the analyst login of this session.';

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
    if current_setting('role', true) = 'service_role' or app.claims() is null and auth.uid() is null then
        return; -- the worker or an operator at the database
    end if;
    if auth.uid() is null and app.agent_id() is null then
        perform app.raise_error('not_signed_in', 'This needs a signed-in person.', 'Sign in and try again.');
    end if;
    perform app.require_open(org, action);
    if not app.can_access(org, module, action) then
        perform app.raise_error(
            'not_allowed', format('Your role may not %s %s here.', action, module), 'Ask an admin of the organisation.'
        );
    end if;
end;
$$;
comment on function app.require_access(uuid, text, text) is
    'Raises not_signed_in, organization_inactive, organization_suspended or not_allowed unless the caller has the whole module. The worker passes.';

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
            'organization_' || v_status, format('The organisation is %s.', v_status), 'Ask the operator of the installation.'
        );
    end if;
end;
$$;
comment on function app.require_open(uuid, text) is
    'Raises organization_inactive or organization_suspended where the caller''s organisation does not take the act.';

-- Functions: guards that app.protect_table attaches

create function app.guard_keys() returns trigger
language plpgsql
set search_path = ''
as $$
begin
    perform app.raise_error('keys_are_immutable', format('Keys of %s cannot be changed.', tg_table_name), 'Create a new row instead.');
end;
$$;
comment on function app.guard_keys() is 'Trigger: fires only when a key column would change, and refuses.';

create function app.stamp_creator() returns trigger
language plpgsql
set search_path = ''
as $$
begin
    new.created_by := auth.uid();
    return new;
end;
$$;
comment on function app.stamp_creator() is 'Trigger: fires only when a signed-in caller names somebody else as creator, and corrects it.';

create function app.guard_member() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_user uuid := (to_jsonb(new) ->> tg_argv[0])::uuid;
begin
    if v_user is not null and not exists (
        select from public.memberships as m where m.org_id = new.org_id and m.user_id = v_user
    ) then
        perform app.raise_error('user_not_member', format('%s is not a member of the organisation.', tg_argv[0]), 'Invite the person first.');
    end if;
    return new;
end;
$$;
comment on function app.guard_member() is 'Trigger (column): the person named in the column must be a member of the row''s organisation.';

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
                '%s or (org_id = any ((select app.own_org_ids(%L, %L))::uuid[]) and %s)', v_rule, module, v_action, v_own
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

    -- Analysts read the organisations granted to their login, without the columns marked as personal data.
    execute format(
        'create policy %I on %s for select to analyst using (org_id = any ((select app.analyst_org_ids())::uuid[]))',
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
        'create trigger %I before update on %s for each row when (%s) execute function app.guard_keys()',
        v_table || '_10_guard_keys', target, v_moved
    );
    if 'created_by' = any (v_columns) then
        execute format(
            'create trigger %I before insert on %s for each row '
            'when (auth.uid() is not null and new.created_by is distinct from auth.uid()) execute function app.stamp_creator()',
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
    'Makes a tenant table reachable: forced RLS, one policy per command in the house form, grants, key guard, touch, analyst columns. own_column: null; client_id or id for the portal; else a person''s column.';

-- Functions: people and organisations

create function app.create_profile() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    insert into public.profiles (id, full_name)
    values (
        new.id,
        left(btrim(coalesce(new.raw_user_meta_data ->> 'full_name', new.raw_user_meta_data ->> 'name', '')), 200)
    )
    on conflict (id) do nothing;
    return new;
end;
$$;
comment on function app.create_profile() is 'Trigger on auth.users: gives every new user a profile.';

create function app.guard_owner() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    -- The organisation's row is the lock: two owners leaving at once wait for each other.
    perform from public.organizations as o where o.id = old.org_id for no key update;
    if not found then
        return coalesce(new, old); -- the organisation itself is being deleted
    end if;
    if not exists (
        select from public.memberships as m
        where m.org_id = old.org_id and m.role = 'owner' and m.user_id <> old.user_id
    ) then
        perform app.raise_error('last_owner', 'An organisation always keeps one owner.', 'Make somebody else owner first.');
    end if;
    return coalesce(new, old);
end;
$$;
comment on function app.guard_owner() is 'Trigger: the last owner of an organisation can neither leave nor lose the role.';

create function app.caller_rank(org uuid) returns integer
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
    v_rank integer;
begin
    if auth.uid() is null or app.agent_id() is not null then
        perform app.raise_error('not_signed_in', 'This needs a signed-in person.', 'Sign in and try again.');
    end if;
    select s.rank into v_rank
    from app.caller_roles() as r inner join public.roles as s on s.role = r.role
    where r.org_id = org;
    if v_rank is null then
        perform app.raise_error('not_found', 'There is no such organisation.', null);
    end if;
    perform app.require_open(org, 'write');
    return v_rank;
end;
$$;
comment on function app.caller_rank(uuid) is
    'Rank of the caller''s role in an organisation open for writing; a stranger gets not_found.';

create function app.require_manager(org uuid, rank integer) returns void
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
    v_own integer := app.caller_rank(org);
begin
    if v_own < 2 or v_own < rank then
        perform app.raise_error('not_allowed', 'Only owners and admins manage people, and only up to their own rank.', 'Ask an owner.');
    end if;
end;
$$;
comment on function app.require_manager(uuid, integer) is
    'Raises not_allowed unless the caller is owner or admin and ranks at least as high as given.';

create function app.role_rank(role text) returns integer
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
    v_rank integer := (select r.rank from public.roles as r where r.role = role_rank.role);
begin
    if v_rank is null then
        perform app.raise_error('role_unknown', format('There is no role %s.', role), 'See public.roles.');
    end if;
    return v_rank;
end;
$$;
comment on function app.role_rank(text) is 'Rank of a role: owner 3, admin 2, all others 1.';

create function app.create_organization(name text, slug text, cnpj text, vertical text, time_zone text)
returns public.organizations
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_user uuid := auth.uid();
    v_name text := app.clean_text(create_organization.name, 200);
    v_row public.organizations;
begin
    if v_user is null or app.agent_id() is not null then
        perform app.raise_error('not_signed_in', 'This needs a signed-in person.', 'Sign in and try again.');
    end if;
    if length(v_name) >= 2 is not true then
        perform app.raise_error('bad_input', 'A name has at least two characters.', null);
    end if;
    if not app.is_slug(coalesce(create_organization.slug, app.slugify(v_name))) then
        perform app.raise_error('bad_input', 'A slug is lower-case words joined by hyphens.', null);
    end if;
    if not app.is_valid_cnpj(app.normalize_document(create_organization.cnpj)) then
        perform app.raise_error('bad_input', 'The CNPJ''s check digits are wrong.', null);
    end if;
    perform app.rate_limit('create_organization:' || v_user, 20, '1 day');
    insert into public.organizations (name, slug, cnpj, vertical, time_zone, created_by)
    values (
        v_name, coalesce(create_organization.slug, app.slugify(v_name)),
        app.normalize_document(create_organization.cnpj), app.clean_text(create_organization.vertical, 100),
        coalesce(create_organization.time_zone, 'America/Sao_Paulo'), v_user
    )
    on conflict on constraint organizations_slug_key do nothing
    returning * into v_row;
    if v_row.id is null then
        perform app.raise_error('slug_taken', 'This slug belongs to another organisation.', 'Choose another slug.');
    end if;
    insert into public.memberships (org_id, user_id, role) values (v_row.id, v_user, 'owner');
    return v_row;
end;
$$;
comment on function app.create_organization(text, text, text, text, text) is 'Body of public.create_organization.';

create function public.create_organization(
    name text, slug text default null, cnpj text default null, vertical text default null, time_zone text default null
) returns public.organizations
language sql
set search_path = ''
as $$ select app.create_organization(name, slug, cnpj, vertical, time_zone) $$;
comment on function public.create_organization(text, text, text, text, text) is
    'Creates an organisation with the caller as owner; the slug is made from the name if missing. Errors: not_signed_in, bad_input, slug_taken, time_zone_unknown, rate_limited.';

create function app.update_organization(
    org uuid, name text, cnpj text, vertical text, time_zone text, locale text, settings jsonb
) returns public.organizations
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_row public.organizations;
begin
    perform app.require_manager(org, 2);
    if not app.is_valid_cnpj(app.normalize_document(update_organization.cnpj)) then
        perform app.raise_error('bad_input', 'The CNPJ''s check digits are wrong.', null);
    end if;
    if length(btrim(update_organization.name)) not between 2 and 200 or update_organization.locale !~ '^[a-z]{2}(-[A-Z]{2})?$' then
        perform app.raise_error('bad_input', 'A name has 2 to 200 characters; a locale looks like pt-BR.', null);
    end if;
    update public.organizations as o set
        name = coalesce(app.clean_text(update_organization.name, 200), o.name),
        cnpj = coalesce(app.normalize_document(update_organization.cnpj), o.cnpj),
        vertical = coalesce(app.clean_text(update_organization.vertical, 100), o.vertical),
        time_zone = coalesce(update_organization.time_zone, o.time_zone),
        locale = coalesce(update_organization.locale, o.locale),
        settings = jsonb_strip_nulls(o.settings || coalesce(update_organization.settings, '{}')),
        updated_at = app.now()
    where o.id = org
    returning * into v_row;
    return v_row;
end;
$$;
comment on function app.update_organization(uuid, text, text, text, text, text, jsonb) is 'Body of public.update_organization.';

create function public.update_organization(
    org uuid, name text default null, cnpj text default null, vertical text default null,
    time_zone text default null, locale text default null, settings jsonb default null
) returns public.organizations
language sql
set search_path = ''
as $$ select app.update_organization(org, name, cnpj, vertical, time_zone, locale, settings) $$;
comment on function public.update_organization(uuid, text, text, text, text, text, jsonb) is
    'Changes what is given; settings are merged, a null value returns a setting to its default. Owners and admins. Errors: not_allowed, bad_input, setting_invalid, time_zone_unknown, organization_suspended.';

create function app.set_organization_status(org uuid, status text, plan text) returns public.organizations
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_row public.organizations;
begin
    if not exists (select from public.platform_admins as p where p.user_id = auth.uid()) then
        perform app.raise_error('not_allowed', 'Only operators of the installation change status or plan.', null);
    end if;
    if status not in ('active', 'inactive', 'suspended') or plan not in ('basic', 'pro', 'enterprise') then
        perform app.raise_error('bad_input', 'Status is active, inactive or suspended; plan basic, pro or enterprise.', null);
    end if;
    update public.organizations as o set
        status = coalesce(set_organization_status.status, o.status),
        plan = coalesce(set_organization_status.plan, o.plan),
        updated_at = app.now()
    where o.id = org
    returning * into v_row;
    if v_row.id is null then
        perform app.raise_error('not_found', 'There is no such organisation.', null);
    end if;
    return v_row;
end;
$$;
comment on function app.set_organization_status(uuid, text, text) is 'Body of public.set_organization_status.';

create function public.set_organization_status(org uuid, status text default null, plan text default null)
returns public.organizations
language sql
set search_path = ''
as $$ select app.set_organization_status(org, status, plan) $$;
comment on function public.set_organization_status(uuid, text, text) is
    'Activates, suspends or closes an organisation, or changes its plan. Platform admins. Errors: not_allowed, bad_input, not_found.';

create function app.invite_member(org uuid, email text, role text, client_id uuid, valid_for interval)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_email text := lower(btrim(invite_member.email));
    v_token text := encode(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'hex');
    v_row public.invitations;
begin
    perform app.require_manager(org, app.role_rank(invite_member.role));
    if app.is_valid_email(v_email) is not true
        or (invite_member.role = 'client') <> (invite_member.client_id is not null)
        or invite_member.valid_for not between '5 minutes' and '30 days'
    then
        perform app.raise_error(
            'bad_input', 'An invitation needs an e-mail address, a client exactly for role client, and 5 minutes to 30 days.', null
        );
    end if;
    if exists (
        select from auth.users as u inner join public.memberships as m on m.user_id = u.id
        where lower(u.email) = v_email and m.org_id = org
    ) then
        perform app.raise_error('member_exists', 'This person is a member already.', 'Use set_member_role to change the role.');
    end if;
    update public.invitations as i set revoked_at = app.now()
    where i.org_id = org and i.email = v_email and i.accepted_at is null and i.revoked_at is null;
    insert into public.invitations (org_id, email, role, client_id, token_hash, expires_at)
    values (
        org, v_email, invite_member.role, invite_member.client_id, sha256(convert_to(v_token, 'UTF8')),
        app.now() + invite_member.valid_for
    )
    returning * into v_row;
    return jsonb_build_object('id', v_row.id, 'email', v_row.email, 'role', v_row.role, 'token', v_token, 'expires_at', v_row.expires_at);
end;
$$;
comment on function app.invite_member(uuid, text, text, uuid, interval) is 'Body of public.invite_member.';

create function public.invite_member(
    org uuid, email text, role text, client_id uuid default null, valid_for interval default '7 days'
) returns jsonb
language sql
set search_path = ''
as $$ select app.invite_member(org, email, role, client_id, valid_for) $$;
comment on function public.invite_member(uuid, text, text, uuid, interval) is
    'Invites an address; answers id, email, role, expires_at and the token, which is shown only now. A new invitation replaces an open one. Owners and admins, up to their own rank. Errors: not_allowed, bad_input, role_unknown, member_exists, organization_suspended.';

create function app.accept_invitation(token text) returns public.memberships
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_user uuid := auth.uid();
    v_invitation public.invitations;
    v_row public.memberships;
begin
    if v_user is null or app.agent_id() is not null then
        perform app.raise_error('not_signed_in', 'This needs a signed-in person.', 'Sign in and try again.');
    end if;
    select * into v_invitation from public.invitations as i
    where i.token_hash = sha256(convert_to(accept_invitation.token, 'UTF8'))
    for update;
    if v_invitation.id is null then
        perform app.raise_error('invitation_not_found', 'There is no such invitation.', 'Ask for a new one.');
    end if;
    if not exists (select from auth.users as u where u.id = v_user and lower(u.email) = v_invitation.email) then
        perform app.raise_error('invitation_foreign', 'The invitation is for another e-mail address.', 'Sign in with the invited address.');
    end if;
    if v_invitation.accepted_at is not null or v_invitation.revoked_at is not null then
        perform app.raise_error('invitation_used', 'The invitation has been used or replaced.', 'Ask for a new one.');
    end if;
    if v_invitation.expires_at <= app.now() then
        perform app.raise_error('invitation_expired', 'The invitation has expired.', 'Ask for a new one.');
    end if;
    if (select o.status from public.organizations as o where o.id = v_invitation.org_id) <> 'active' then
        perform app.raise_error('organization_suspended', 'The organisation takes no new members.', 'Ask its operator.');
    end if;
    update public.invitations as i set accepted_at = app.now(), accepted_by = v_user
    where i.org_id = v_invitation.org_id and i.id = v_invitation.id;
    insert into public.memberships (org_id, user_id, role, client_id, invited_by)
    values (v_invitation.org_id, v_user, v_invitation.role, v_invitation.client_id, v_invitation.created_by)
    on conflict (org_id, user_id) do nothing
    returning * into v_row;
    if v_row.org_id is null then
        perform app.raise_error('member_exists', 'You are a member already.', null);
    end if;
    return v_row;
end;
$$;
comment on function app.accept_invitation(text) is 'Body of public.accept_invitation.';

create function public.accept_invitation(token text) returns public.memberships
language sql
set search_path = ''
as $$ select app.accept_invitation(token) $$;
comment on function public.accept_invitation(text) is
    'Makes the signed-in person a member, if the invitation is for his e-mail address, open and in time. Errors: not_signed_in, invitation_not_found, invitation_foreign, invitation_used, invitation_expired, member_exists, organization_suspended.';

create function app.set_member_role(org uuid, member uuid, role text, client_id uuid, hourly_rate numeric)
returns public.memberships
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_rank integer := app.role_rank(set_member_role.role);
    v_row public.memberships;
begin
    perform app.require_manager(org, 1);
    select * into v_row from public.memberships as m where m.org_id = org and m.user_id = member for update;
    if v_row.org_id is null then
        perform app.raise_error('not_found', 'The person is not a member.', null);
    end if;
    if member = auth.uid() and v_rank >= app.role_rank(v_row.role) and v_row.role <> set_member_role.role then
        perform app.raise_error('self_promotion_refused', 'Nobody raises his own role.', 'Ask another owner.');
    end if;
    -- Taking the role of an admin or owner away is an owner's act, but for one's own.
    perform app.require_manager(
        org, case when app.role_rank(v_row.role) >= 2 and member <> auth.uid() then 3 else v_rank end
    );
    if (set_member_role.role = 'client') <> (set_member_role.client_id is not null) or set_member_role.hourly_rate < 0 then
        perform app.raise_error('bad_input', 'A client is named exactly for role client; a rate is not negative.', null);
    end if;
    update public.memberships as m set
        role = set_member_role.role,
        client_id = set_member_role.client_id,
        hourly_rate = coalesce(set_member_role.hourly_rate, m.hourly_rate)
    where m.org_id = org and m.user_id = member
    returning * into v_row;
    return v_row;
end;
$$;
comment on function app.set_member_role(uuid, uuid, text, uuid, numeric) is 'Body of public.set_member_role.';

create function public.set_member_role(
    org uuid, member uuid, role text, client_id uuid default null, hourly_rate numeric default null
) returns public.memberships
language sql
set search_path = ''
as $$ select app.set_member_role(org, member, role, client_id, hourly_rate) $$;
comment on function public.set_member_role(uuid, uuid, text, uuid, numeric) is
    'Changes a member''s role, and his hourly rate (BRL) where given. Owners and admins, up to their own rank. Errors: not_allowed, not_found, role_unknown, self_promotion_refused, last_owner, bad_input.';

create function app.remove_member(org uuid, member uuid) returns void
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_role text;
begin
    perform app.require_manager(org, 1);
    select m.role into v_role from public.memberships as m where m.org_id = org and m.user_id = member for update;
    if v_role is null then
        perform app.raise_error('not_found', 'The person is not a member.', null);
    end if;
    -- Only an owner may remove an admin: the caller must outrank whoever ranks 2, and equal an owner.
    perform app.require_manager(org, case when app.role_rank(v_role) >= 2 then 3 else 1 end);
    delete from public.memberships as m where m.org_id = org and m.user_id = member;
end;
$$;
comment on function app.remove_member(uuid, uuid) is 'Body of public.remove_member.';

create function public.remove_member(org uuid, member uuid) returns void
language sql
set search_path = ''
as $$ select app.remove_member(org, member) $$;
comment on function public.remove_member(uuid, uuid) is
    'Removes a member; effective on his next request. Owners and admins; only an owner removes an admin. Errors: not_allowed, not_found, last_owner.';

create function app.leave_organization(org uuid) returns void
language plpgsql
security definer
set search_path = ''
as $$
begin
    if auth.uid() is null or app.agent_id() is not null then
        perform app.raise_error('not_signed_in', 'This needs a signed-in person.', 'Sign in and try again.');
    end if;
    delete from public.memberships as m where m.org_id = org and m.user_id = auth.uid();
    if not found then
        perform app.raise_error('not_found', 'There is no such organisation.', null);
    end if;
end;
$$;
comment on function app.leave_organization(uuid) is 'Body of public.leave_organization.';

create function public.leave_organization(org uuid) returns void
language sql
set search_path = ''
as $$ select app.leave_organization(org) $$;
comment on function public.leave_organization(uuid) is 'Ends the caller''s own membership. Errors: not_signed_in, not_found, last_owner.';

create function app.list_my_organizations()
returns table (id uuid, name text, slug text, plan text, status text, role text, client_id uuid)
language sql
stable
security definer
set search_path = ''
as $$
    select o.id, o.name, o.slug, o.plan, o.status, r.role, r.client_id
    from app.caller_roles() as r inner join public.organizations as o on o.id = r.org_id
    order by o.name, o.id
$$;
comment on function app.list_my_organizations() is 'Body of public.list_my_organizations.';

create function public.list_my_organizations()
returns table (id uuid, name text, slug text, plan text, status text, role text, client_id uuid)
language sql
stable
set search_path = ''
as $$ select * from app.list_my_organizations() $$;
comment on function public.list_my_organizations() is
    'Organisations of the caller with his role in each, closed ones too so that a frontend can say why.';

create function app.list_members(org uuid)
returns table (user_id uuid, full_name text, avatar_url text, role text, client_id uuid, joined_at timestamptz)
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    if not exists (select from app.caller_roles() as r where r.org_id = org and r.role <> 'client' and r.status <> 'inactive') then
        perform app.raise_error('not_found', 'There is no such organisation.', null);
    end if;
    return query
    select m.user_id, p.full_name, p.avatar_url, m.role, m.client_id, m.created_at
    from public.memberships as m inner join public.profiles as p on p.id = m.user_id
    where m.org_id = org
    order by p.full_name, m.user_id;
end;
$$;
comment on function app.list_members(uuid) is 'Body of public.list_members.';

create function public.list_members(org uuid)
returns table (user_id uuid, full_name text, avatar_url text, role text, client_id uuid, joined_at timestamptz)
language sql
stable
set search_path = ''
as $$ select * from app.list_members(org) $$;
comment on function public.list_members(uuid) is
    'Staff directory without rates, for choosing owners and managers. Staff of the organisation. Errors: not_found.';

-- Triggers

create trigger organizations_10_guard
before insert or update on public.organizations
for each row execute function app.guard_organization();

create trigger memberships_10_guard_owner_update
before update of role on public.memberships
for each row when (old.role = 'owner' and new.role <> 'owner') execute function app.guard_owner();

create trigger memberships_10_guard_owner_delete
before delete on public.memberships
for each row when (old.role = 'owner') execute function app.guard_owner();

create trigger nessos_create_profile
after insert on auth.users
for each row execute function app.create_profile();

create trigger profiles_90_touch
before update on public.profiles
for each row execute function app.touch();

-- Access

grant execute on function
app.org_ids(text, text), app.own_org_ids(text, text), app.client_ids(), app.readable_scopes(),
app.colleague_ids(), app.can_access(uuid, text, text), app.require_access(uuid, text, text),
app.org_time_zone(uuid), app.org_today(uuid), app.org_setting(uuid, text)
to authenticated, service_role;
grant execute on function app.inactive_org_ids() to anon, authenticated, service_role;
grant execute on function app.analyst_org_ids() to analyst;
grant execute on function app.org_time_zone(uuid), app.org_today(uuid) to analyst;

grant execute on function
app.create_organization(text, text, text, text, text),
app.update_organization(uuid, text, text, text, text, text, jsonb),
app.set_organization_status(uuid, text, text),
app.invite_member(uuid, text, text, uuid, interval), app.accept_invitation(text),
app.set_member_role(uuid, uuid, text, uuid, numeric), app.remove_member(uuid, uuid),
app.leave_organization(uuid), app.list_my_organizations(), app.list_members(uuid),
public.create_organization(text, text, text, text, text),
public.update_organization(uuid, text, text, text, text, text, jsonb),
public.set_organization_status(uuid, text, text),
public.invite_member(uuid, text, text, uuid, interval), public.accept_invitation(text),
public.set_member_role(uuid, uuid, text, uuid, numeric), public.remove_member(uuid, uuid),
public.leave_organization(uuid), public.list_my_organizations(), public.list_members(uuid)
to authenticated, service_role;

alter table app.setting_definitions enable row level security;
alter table app.analyst_grants enable row level security;
alter table app.protected_tables enable row level security;
create policy setting_definitions_select on app.setting_definitions for select
to authenticated, service_role using (true);
grant select on app.setting_definitions to authenticated, service_role;

-- Tables without org_id, or whose rows are changed only by the functions above, are written out by hand.
alter table public.organizations enable row level security;
alter table public.organizations force row level security;
create policy organizations_select on public.organizations for select to authenticated using (
    id = any ((select app.org_ids('core', 'read'))::uuid[])
    or id = any ((select app.own_org_ids('core', 'read'))::uuid[])
);
create policy organizations_select_analyst on public.organizations for select to analyst
using (id = any ((select app.analyst_org_ids())::uuid[]));
grant select on public.organizations to authenticated, analyst;
grant select, insert, update, delete on public.organizations to service_role;

alter table public.profiles enable row level security;
alter table public.profiles force row level security;
create policy profiles_select on public.profiles for select to authenticated using (
    id = (select auth.uid()) or id = any ((select app.colleague_ids())::uuid[])
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
create policy role_permissions_select on public.role_permissions for select to authenticated using (true);
grant select on public.roles, public.role_permissions to authenticated, service_role;

alter table public.platform_admins enable row level security;
alter table public.platform_admins force row level security;
create policy platform_admins_select on public.platform_admins for select to authenticated
using (user_id = (select auth.uid()));
grant select on public.platform_admins to authenticated, service_role;

select app.protect_table('public.memberships', 'core', 'user_id', '{select}');
select app.protect_table('public.invitations', 'admin', null, '{select}');
select app.protect_table('public.org_role_permissions', 'admin', null);

-- Reference rows

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

-- One row per module, one pair of scopes per role: r = reads all, rw = reads and writes all, o = own rows.
insert into public.role_permissions (role, module, read_scope, write_scope)
select
    cell.role,
    matrix.module,
    case when cell.scopes like 'o%' then 'own' when cell.scopes like 'r%' then 'all' else 'none' end,
    case
        when cell.scopes in ('oo', 'ro') then 'own'
        when cell.scopes = 'rw' then 'all'
        else 'none'
    end
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
    ('data', 'rw', 'rw', 'r', '-', 'r', 'r', '-', '-', '-', '-', '-')
) as matrix (module, owner, admin, director, sales, ops, finance, legal, people, employee, agent, client)
cross join lateral (
    values
    ('owner', matrix.owner), ('admin', matrix.admin), ('director', matrix.director), ('sales', matrix.sales),
    ('ops', matrix.ops), ('finance', matrix.finance), ('legal', matrix.legal), ('people', matrix.people),
    ('employee', matrix.employee), ('agent', matrix.agent), ('client', matrix.client)
) as cell (role, scopes);

insert into app.error_keys (key, http, meaning) values
('last_owner', 409, 'The act would leave the organisation without an owner.'),
('self_promotion_refused', 403, 'Nobody raises his own role.'),
('role_unknown', 422, 'There is no such role.'),
('slug_taken', 409, 'The slug belongs to another organisation.'),
('time_zone_unknown', 422, 'The time zone is not in the tz database.'),
('setting_invalid', 422, 'A setting is unknown, of the wrong type or out of bounds.'),
('member_exists', 409, 'The person is a member already.'),
('invitation_not_found', 404, 'No invitation has this token.'),
('invitation_foreign', 403, 'The invitation is for another e-mail address.'),
('invitation_used', 409, 'The invitation has been accepted or replaced.'),
('invitation_expired', 422, 'The invitation has expired.');
