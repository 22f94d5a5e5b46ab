-- Core members: what people do with organisations: found them, invite, join, change roles, leave.
-- Depends on: core, core_access.
-- Asked for by: domain §3, access.md; issue "A company runs on it" §2.

-- 2. Functions

create function app.create_profile() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    insert into public.profiles (id, full_name)
    values (
        new.id,
        left(btrim(coalesce(new.raw_user_meta_data ->> 'full_name',
            new.raw_user_meta_data ->> 'name', '')), 200)
    )
    on conflict (id) do nothing;
    return new;
end;
$$;
comment on function app.create_profile() is
    'Trigger on auth.users: gives every new user a profile.';

create function app.lock_members(org uuid) returns boolean
language plpgsql
security definer
set search_path = ''
as $$
begin
    perform from public.organizations as o where o.id = org for no key update;
    return found;
end;
$$;
comment on function app.lock_members(uuid) is
    'Makes acts on the people of an organisation wait for each other until commit, by its row; '
    'taken before any membership. False when the organisation is gone. Who may act is asked after '
    'it: a caller whom the act before has removed no longer may.';

create function app.guard_owner() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    -- Two owners leaving at once wait for each other.
    if not app.lock_members(old.org_id) then
        return coalesce(new, old); -- the organisation itself is being deleted
    end if;
    if not exists (
        select from public.memberships as m
        where m.org_id = old.org_id and m.role = 'owner' and m.user_id <> old.user_id
    ) then
        perform app.raise_error(
            'last_owner',
            'An organisation always keeps one owner.',
            'Make somebody else owner first.'
        );
    end if;
    return coalesce(new, old);
end;
$$;
comment on function app.guard_owner() is
    'Trigger: the last owner of an organisation can neither leave nor lose the role.';

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
        perform app.raise_error(
            'not_signed_in',
            'This needs a signed-in person.',
            'Sign in and try again.'
        );
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
        perform app.raise_error(
            'not_allowed',
            'Only owners and admins manage people, and only up to their own rank.',
            'Ask an owner.'
        );
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
        perform app.raise_error(
            'role_unknown',
            format('There is no role %s.', role),
            'See public.roles.'
        );
    end if;
    return v_rank;
end;
$$;
comment on function app.role_rank(text) is 'Rank of a role: owner 3, admin 2, all others 1.';

create function app.create_organization(name text, slug text, cnpj text, vertical text,
    time_zone text)
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
        perform app.raise_error(
            'not_signed_in',
            'This needs a signed-in person.',
            'Sign in and try again.'
        );
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
        app.normalize_document(create_organization.cnpj),
            app.clean_text(create_organization.vertical, 100),
        coalesce(create_organization.time_zone, 'America/Sao_Paulo'), v_user
    )
    on conflict on constraint organizations_slug_key do nothing
    returning * into v_row;
    if v_row.id is null then
        perform app.raise_error(
            'slug_taken',
            'This slug belongs to another organisation.',
            'Choose another slug.'
        );
    end if;
    insert into public.memberships (org_id, user_id, role) values (v_row.id, v_user, 'owner');
    return v_row;
end;
$$;
comment on function app.create_organization(text, text, text, text, text) is
    'Body of public.create_organization.';

create function public.create_organization(
    name text, slug text default null, cnpj text default null, vertical text default null,
        time_zone text default null
) returns public.organizations
language sql
set search_path = ''
as $$ select app.create_organization(name, slug, cnpj, vertical, time_zone) $$;
comment on function public.create_organization(text, text, text, text, text) is
    'Creates an organisation with the caller as owner; the slug is made from the name if missing. '
    'Errors: not_signed_in, bad_input, slug_taken, time_zone_unknown, rate_limited.';

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
    if length(btrim(update_organization.name)) not between 2 and 200
        or update_organization.locale !~ '^[a-z]{2}(-[A-Z]{2})?$' then
        perform app.raise_error(
            'bad_input',
            'A name has 2 to 200 characters; a locale looks like pt-BR.',
            null
        );
    end if;
    update public.organizations as o set
        name = coalesce(app.clean_text(update_organization.name, 200), o.name),
        cnpj = coalesce(app.normalize_document(update_organization.cnpj), o.cnpj),
        vertical = coalesce(app.clean_text(update_organization.vertical, 100), o.vertical),
        time_zone = coalesce(update_organization.time_zone, o.time_zone),
        locale = coalesce(update_organization.locale, o.locale),
        settings = jsonb_strip_nulls(o.settings || coalesce(update_organization.settings, '{}'))
    where o.id = org
    returning * into v_row;
    return v_row;
end;
$$;
comment on function app.update_organization(uuid, text, text, text, text, text, jsonb) is
    'Body of public.update_organization.';

create function public.update_organization(
    org uuid, name text default null, cnpj text default null, vertical text default null,
    time_zone text default null, locale text default null, settings jsonb default null
) returns public.organizations
language sql
set search_path = ''
as $$ select app.update_organization(org, name, cnpj, vertical, time_zone, locale, settings) $$;
comment on function public.update_organization(uuid, text, text, text, text, text, jsonb) is
    'Changes what is given; settings are merged, a null value returns a setting to its default. '
    'Owners and admins. Errors: not_allowed, bad_input, setting_invalid, time_zone_unknown, '
    'organization_suspended.';

create function app.set_organization_status(org uuid, status text, plan text)
    returns public.organizations
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_row public.organizations;
begin
    if not exists (select from public.platform_admins as p where p.user_id = auth.uid()) then
        perform app.raise_error(
            'not_allowed',
            'Only operators of the installation change status or plan.',
            null
        );
    end if;
    if status not in ('active', 'inactive', 'suspended') or plan not in (
        'basic', 'pro', 'enterprise') then
        perform app.raise_error(
            'bad_input',
            'Status is active, inactive or suspended; plan basic, pro or enterprise.',
            null
        );
    end if;
    update public.organizations as o set
        status = coalesce(set_organization_status.status, o.status),
        plan = coalesce(set_organization_status.plan, o.plan)
    where o.id = org
    returning * into v_row;
    if v_row.id is null then
        perform app.raise_error('not_found', 'There is no such organisation.', null);
    end if;
    return v_row;
end;
$$;
comment on function app.set_organization_status(uuid, text, text) is
    'Body of public.set_organization_status.';

create function public.set_organization_status(org uuid, status text default null,
    plan text default null)
returns public.organizations
language sql
set search_path = ''
as $$ select app.set_organization_status(org, status, plan) $$;
comment on function public.set_organization_status(uuid, text, text) is
    'Activates, suspends or closes an organisation, or changes its plan. Platform admins. Errors: '
    'not_allowed, bad_input, not_found.';

create function app.invite_member(org uuid, email text, role text, client_id uuid,
    valid_for interval)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_email text := lower(btrim(invite_member.email));
    v_token text := encode(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())),
        'hex');
    v_row public.invitations;
begin
    perform app.require_manager(org, app.role_rank(invite_member.role));
    -- Of two invitations at once the second waits, and replaces the first.
    perform app.lock_members(org);
    perform app.require_manager(org, app.role_rank(invite_member.role));
    if app.is_valid_email(v_email) is not true
        or (invite_member.role = 'client') <> (invite_member.client_id is not null)
        or invite_member.valid_for not between '5 minutes' and '30 days'
    then
        perform app.raise_error(
            'bad_input',
                'An invitation needs an address, a client exactly for role client, 5 minutes to 30 days.',
                null
        );
    end if;
    if exists (
        select from auth.users as u inner join public.memberships as m on m.user_id = u.id
        where lower(u.email) = v_email and m.org_id = org
    ) then
        perform app.raise_error(
            'member_exists',
            'This person is a member already.',
            'Use set_member_role to change the role.'
        );
    end if;
    update public.invitations as i set revoked_at = app.now()
    where i.org_id = org and i.email = v_email and i.accepted_at is null and i.revoked_at is null;
    insert into public.invitations (org_id, email, role, client_id, token_hash, expires_at)
    values (
        org, v_email, invite_member.role, invite_member.client_id,
            sha256(convert_to(v_token, 'UTF8')),
        app.now() + invite_member.valid_for
    )
    returning * into v_row;
    return jsonb_build_object('id', v_row.id, 'email', v_row.email, 'role', v_row.role, 'token',
        v_token, 'expires_at', v_row.expires_at);
end;
$$;
comment on function app.invite_member(uuid, text, text, uuid, interval) is
    'Body of public.invite_member.';

create function public.invite_member(
    org uuid, email text, role text, client_id uuid default null,
        valid_for interval default '7 days'
) returns jsonb
language sql
set search_path = ''
as $$ select app.invite_member(org, email, role, client_id, valid_for) $$;
comment on function public.invite_member(uuid, text, text, uuid, interval) is
    'Invites an address; answers id, email, role, expires_at and the token, which is shown only '
    'now. A new invitation replaces an open one. Owners and admins, up to their own rank. Errors: '
    'not_allowed, bad_input, role_unknown, member_exists, organization_suspended.';

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
        perform app.raise_error(
            'not_signed_in',
            'This needs a signed-in person.',
            'Sign in and try again.'
        );
    end if;
    select * into v_invitation from public.invitations as i
    where i.token_hash = sha256(convert_to(accept_invitation.token, 'UTF8'))
    for update;
    if v_invitation.id is null then
        perform app.raise_error(
            'invitation_not_found',
            'There is no such invitation.',
            'Ask for a new one.'
        );
    end if;
    if not exists (select from auth.users as u where u.id = v_user
        and lower(u.email) = v_invitation.email) then
        perform app.raise_error(
            'invitation_foreign',
            'The invitation is for another e-mail address.',
            'Sign in with the invited address.'
        );
    end if;
    -- Asked now, not when it was sent: an invitation does not outlive the power it was sent with,
    -- or an admin about to be removed would invite himself back.
    if v_invitation.accepted_at is not null or v_invitation.revoked_at is not null
        or v_invitation.created_by is not null and not exists (
            select from public.memberships as m inner join public.roles as r on r.role = m.role
            where m.org_id = v_invitation.org_id and m.user_id = v_invitation.created_by
                and r.rank >= greatest(2, app.role_rank(v_invitation.role))
        ) and not exists (
            select from public.platform_admins as p where p.user_id = v_invitation.created_by
        )
    then
        perform app.raise_error(
            'invitation_used',
            'The invitation has been used or replaced, or its sender may no longer invite.',
            'Ask for a new one.'
        );
    end if;
    if v_invitation.expires_at <= app.now() then
        perform app.raise_error(
            'invitation_expired',
            'The invitation has expired.',
            'Ask for a new one.'
        );
    end if;
    if (select o.status from public.organizations as o
        where o.id = v_invitation.org_id) <> 'active' then
        perform app.raise_error(
            'organization_suspended',
            'The organisation takes no new members.',
            'Ask its operator.'
        );
    end if;
    update public.invitations as i set accepted_at = app.now(), accepted_by = v_user
    where i.org_id = v_invitation.org_id and i.id = v_invitation.id;
    insert into public.memberships (org_id, user_id, role, client_id, invited_by)
    values (v_invitation.org_id, v_user, v_invitation.role, v_invitation.client_id,
        v_invitation.created_by)
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
    'Makes the signed-in person a member, if the invitation is for his e-mail address, open and '
    'in time, and whoever sent it may still invite for that role. Errors: not_signed_in, '
    'invitation_not_found, invitation_foreign, invitation_used, invitation_expired, member_exists, '
    'organization_suspended.';

create function app.set_member_role(org uuid, member uuid, role text, client_id uuid,
    hourly_rate numeric)
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
    perform app.lock_members(org);
    select * into v_row from public.memberships as m where m.org_id = org
        and m.user_id = member for update;
    if v_row.org_id is null then
        perform app.raise_error('not_found', 'The person is not a member.', null);
    end if;
    if member = auth.uid() and v_rank >= app.role_rank(v_row.role)
        and v_row.role <> set_member_role.role then
        perform app.raise_error(
            'self_promotion_refused',
            'Nobody raises his own role.',
            'Ask another owner.'
        );
    end if;
    -- Taking the role of an admin or owner away is an owner's act, but for one's own.
    perform app.require_manager(
        org, case when app.role_rank(v_row.role) >= 2 and member <> auth.uid() then 3 else v_rank
            end
    );
    if (set_member_role.role = 'client') <> (set_member_role.client_id is not null)
        or set_member_role.hourly_rate < 0 then
        perform app.raise_error(
            'bad_input',
            'A client is named exactly for role client; a rate is not negative.',
            null
        );
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
comment on function app.set_member_role(uuid, uuid, text, uuid, numeric) is
    'Body of public.set_member_role.';

create function public.set_member_role(
    org uuid, member uuid, role text, client_id uuid default null, hourly_rate numeric default null
) returns public.memberships
language sql
set search_path = ''
as $$ select app.set_member_role(org, member, role, client_id, hourly_rate) $$;
comment on function public.set_member_role(uuid, uuid, text, uuid, numeric) is
    'Changes a member''s role, and his hourly rate (BRL) where given. Owners and admins, up to '
    'their own rank. Errors: not_allowed, not_found, role_unknown, self_promotion_refused, '
    'last_owner, bad_input.';

create function app.remove_member(org uuid, member uuid) returns void
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_role text;
begin
    perform app.require_manager(org, 1);
    perform app.lock_members(org);
    select m.role into v_role from public.memberships as m where m.org_id = org
        and m.user_id = member for update;
    if v_role is null then
        perform app.raise_error('not_found', 'The person is not a member.', null);
    end if;
    -- Only an owner may remove an admin: the caller must outrank whoever ranks 2, and equal an
    -- owner.
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
    'Removes a member; effective on his next request. Owners and admins; only an owner removes an '
    'admin. Errors: not_allowed, not_found, last_owner.';

create function app.leave_organization(org uuid) returns void
language plpgsql
security definer
set search_path = ''
as $$
begin
    if auth.uid() is null or app.agent_id() is not null then
        perform app.raise_error(
            'not_signed_in',
            'This needs a signed-in person.',
            'Sign in and try again.'
        );
    end if;
    -- A stranger makes nobody wait.
    if exists (
        select from public.memberships as m where m.org_id = org and m.user_id = auth.uid()
    ) then
        perform app.lock_members(org);
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
comment on function public.leave_organization(uuid) is
    'Ends the caller''s own membership. Errors: not_signed_in, not_found, last_owner.';

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
    'Organisations of the caller with his role in each, closed ones too so that a frontend can '
    'say why.';

create function app.list_members(org uuid)
returns table (user_id uuid, full_name text, avatar_url text, role text, client_id uuid,
    joined_at timestamptz)
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    if not exists (select from app.caller_roles() as r where r.org_id = org
        and r.role not in ('client', 'agent') and r.status <> 'inactive') then
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
returns table (user_id uuid, full_name text, avatar_url text, role text, client_id uuid,
    joined_at timestamptz)
language sql
stable
set search_path = ''
as $$ select * from app.list_members(org) $$;
comment on function public.list_members(uuid) is
    'Staff directory without rates, for choosing owners and managers. Staff of the organisation. '
    'Errors: not_found.';

-- 3. Triggers

create trigger memberships_10_guard_owner_update
before update of role on public.memberships
for each row when (old.role = 'owner' and new.role <> 'owner') execute function app.guard_owner();

create trigger memberships_10_guard_owner_delete
before delete on public.memberships
for each row when (old.role = 'owner') execute function app.guard_owner();

create trigger nessos_create_profile
after insert on auth.users
for each row execute function app.create_profile();

-- 5. Access

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

-- 6. Reference rows

insert into app.error_keys (key, http, meaning) values
('last_owner', 409, 'The act would leave the organisation without an owner.'),
('self_promotion_refused', 403, 'Nobody raises his own role.'),
('role_unknown', 422, 'There is no such role.'),
('slug_taken', 409, 'The slug belongs to another organisation.'),
('member_exists', 409, 'The person is a member already.'),
('invitation_not_found', 404, 'No invitation has this token.'),
('invitation_foreign', 403, 'The invitation is for another e-mail address.'),
(
    'invitation_used', 409,
    'The invitation has been accepted or replaced, or its sender may no longer invite.'
),
('invitation_expired', 422, 'The invitation has expired.');
