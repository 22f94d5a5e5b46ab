-- Governance: policies, their versions, the evidence that each colleague accepted the current one.
-- Depends on: core, events, people (app.require_staff).
-- Asked for by: domain §5 gov; access (own acceptances); issue 2 §4.

-- 1. Tables

create function app.text_hash(value text) returns text
language sql
immutable
strict
set search_path = ''
as $$ select encode(sha256(convert_to(value, 'UTF8')), 'hex') $$;
comment on function app.text_hash(text) is 'SHA-256 of a text in UTF-8, as 64 hexadecimal digits.';

create table public.policies (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    title text not null
        constraint policies_title_check check (length(btrim(title)) between 2 and 200),
    summary text not null default '',
    status text not null default 'draft'
        constraint policies_status_check check (status in ('draft', 'published', 'archived')),
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, title)
);
comment on table public.policies is
    '[gov] Policies of the organisation. The text stands in policy_versions; everybody who works '
    'here accepts the current version of each published policy.';

create table public.policy_versions (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    policy_id uuid not null,
    version integer not null constraint policy_versions_version_check check (version >= 1),
    content_markdown text not null
        constraint policy_versions_content_markdown_check check (content_markdown ~ '\S'),
    content_hash text not null generated always as (app.text_hash(content_markdown)) stored,
    published_at timestamptz not null default app.now(),
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    primary key (org_id, id),
    unique (org_id, policy_id, version),
    unique (org_id, policy_id, version, content_hash),
    foreign key (org_id, policy_id) references public.policies (org_id, id) deferrable
);
comment on table public.policy_versions is
    '[gov] Texts of a policy, counted from 1; the highest is current. Written by publish_policy '
    'when the text changed, then never changed.';
comment on column public.policy_versions.content_hash is
    'SHA-256 of the text in UTF-8, hexadecimal.';

create table public.policy_acceptances (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    policy_id uuid not null,
    version integer not null,
    content_hash text not null,
    user_id uuid not null references public.profiles (id),
    address text,
    user_agent text,
    accepted_at timestamptz not null default app.now(),
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    primary key (org_id, id),
    unique (org_id, policy_id, version, user_id),
    foreign key (org_id, policy_id, version, content_hash)
    references public.policy_versions (org_id, policy_id, version, content_hash) deferrable
);
comment on table public.policy_acceptances is
    '[gov] Evidence: who accepted which version of a policy, the text''s hash, from where and '
    'when. Written by accept_policy, one per version and person, never changed.';
comment on column public.policy_acceptances.content_hash is
    'Hash of the text that was accepted; by foreign key that of the version.';
comment on column public.policy_acceptances.address is
    '[pii] Network address of the person, as the gateway saw it.';
comment on column public.policy_acceptances.user_agent is
    '[pii] Browser or program the person used.';
create index policy_acceptances_user_id_idx on public.policy_acceptances (user_id, org_id);
create index policy_acceptances_content_hash_idx
on public.policy_acceptances (org_id, policy_id, version, content_hash);

-- 2. Functions

create function app.guard_policy() returns trigger
language plpgsql
set search_path = ''
as $$
begin
    if tg_op = 'INSERT' then
        if new.status <> 'draft' then
            perform app.raise_error(
                'policy_move_refused',
                format('A policy cannot begin as %s.', new.status),
                'Begin as draft, then publish_policy.'
            );
        end if;
    elsif
        new.status = 'published'
        and not exists (
            select from public.policy_versions as v
            where v.org_id = new.org_id and v.policy_id = new.id
        )
    then
        perform app.raise_error(
            'policy_without_text', 'A policy is published with its text.', 'Call publish_policy.'
        );
    end if;
    return new;
end;
$$;
comment on function app.guard_policy() is
    'Trigger: a policy begins as draft and is published only when it has a text.';

create function app.guard_policy_record() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    -- The one way out is the deletion of the whole organisation, whose row is gone by then.
    if
        tg_op = 'DELETE'
        and not exists (select from public.organizations as o where o.id = old.org_id)
    then
        return old;
    end if;
    perform app.raise_error(
        'append_only', format('Rows of %s are never changed.', tg_table_name), null
    );
end;
$$;
comment on function app.guard_policy_record() is
    'Trigger: texts and acceptances of policies are evidence; they go only together with their '
    'organisation.';

create function app.publish_policy(org uuid, policy uuid, content text)
returns public.policy_versions
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_text text := app.clean_text(replace(publish_policy.content, E'\r\n', E'\n'), 500000);
    v_version public.policy_versions;
begin
    perform app.require_access(publish_policy.org, 'gov', 'write');
    if v_text is null then
        perform app.raise_error(
            'policy_without_text', 'The text is empty.', 'Send the text of the policy.'
        );
    end if;
    -- The policy's row is the lock: versions of one policy are made one after the other.
    perform from public.policies as p
    where p.org_id = publish_policy.org and p.id = publish_policy.policy
    for no key update;

    select v.* into v_version
    from public.policy_versions as v
    where v.org_id = publish_policy.org and v.policy_id = publish_policy.policy
    order by v.version desc
    limit 1;
    if v_version.content_markdown is distinct from v_text then
        insert into public.policy_versions as v (org_id, policy_id, version, content_markdown)
        values (
            publish_policy.org, publish_policy.policy, coalesce(v_version.version, 0) + 1, v_text
        )
        returning v.* into v_version;
    end if;

    update public.policies as p set status = 'published'
    where
        p.org_id = publish_policy.org
        and p.id = publish_policy.policy
        and p.status <> 'published';
    return v_version;
end;
$$;
comment on function app.publish_policy(uuid, uuid, text) is
    'Body of public.publish_policy; definer because nobody may write versions by hand.';

create function public.publish_policy(policy uuid, content text) returns public.policy_versions
language plpgsql
set search_path = ''
as $$
declare
    v_org uuid := (select p.org_id from public.policies as p where p.id = publish_policy.policy);
begin
    if v_org is null then
        perform app.raise_error('policy_not_found', null, null);
    end if;
    return app.publish_policy(v_org, publish_policy.policy, publish_policy.content);
end;
$$;
comment on function public.publish_policy(uuid, text) is
    'Publishes a policy with this text (Markdown). A new version is made only when the text '
    'differs from the current one (line ends and outer blanks aside); then everybody has to '
    'accept again. Returns the current version. Errors: policy_not_found, policy_without_text, '
    'not_allowed.';

create function app.accept_policy(policy uuid, expected_hash text) returns public.policy_acceptances
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_policy record;
    v_version record;
    v_row public.policy_acceptances;
begin
    select p.org_id, p.status into v_policy
    from public.policies as p
    inner join public.memberships as m on p.org_id = m.org_id
    where p.id = accept_policy.policy and m.user_id = auth.uid()
    for share of p;
    if not found then
        perform app.raise_error('policy_not_found', null, null);
    end if;
    perform app.require_staff(v_policy.org_id, 'write');
    if v_policy.status <> 'published' then
        perform app.raise_error(
            'policy_not_published',
            format('The policy is %s.', v_policy.status),
            'Only published policies are accepted.'
        );
    end if;

    select v.version, v.content_hash into v_version
    from public.policy_versions as v
    where v.org_id = v_policy.org_id and v.policy_id = accept_policy.policy
    order by v.version desc
    limit 1;
    if accept_policy.expected_hash <> v_version.content_hash then
        perform app.raise_error(
            'policy_text_changed',
            'A newer version was published meanwhile.',
            'Read it with list_pending_policies.'
        );
    end if;

    insert into public.policy_acceptances as a (
        org_id, policy_id, version, content_hash, user_id, address, user_agent
    ) values (
        v_policy.org_id, accept_policy.policy, v_version.version, v_version.content_hash,
        auth.uid(), app.client_address(), left(app.request_header('user-agent'), 500)
    )
    on conflict (org_id, policy_id, version, user_id) do nothing
    returning a.* into v_row;
    if v_row.id is null then
        select a.* into v_row
        from public.policy_acceptances as a
        where
            a.org_id = v_policy.org_id
            and a.policy_id = accept_policy.policy
            and a.version = v_version.version
            and a.user_id = auth.uid();
    end if;
    return v_row;
end;
$$;
comment on function app.accept_policy(uuid, text) is
    'Body of public.accept_policy; definer so that the evidence is what the server saw, never '
    'what the caller says.';

create function public.accept_policy(policy uuid, expected_hash text default null)
returns public.policy_acceptances
language sql
set search_path = ''
as $$ select app.accept_policy(policy, expected_hash) $$;
comment on function public.accept_policy(uuid, text) is
    'The caller accepts the current version of a published policy; again returns the first '
    'acceptance. expected_hash: hash of the text that was on the screen; if another is current, '
    'policy_text_changed. Errors: policy_not_found, policy_not_published, policy_text_changed, '
    'not_allowed.';

-- 4. Views

create view public.current_policies with (security_invoker = true) as
select
    p.org_id,
    p.id as policy_id,
    p.title,
    p.summary,
    v.version,
    v.content_markdown,
    v.content_hash,
    v.published_at
from public.policies as p
cross join lateral (
    select
        w.version,
        w.content_markdown,
        w.content_hash,
        w.published_at
    from public.policy_versions as w
    where w.org_id = p.org_id and w.policy_id = p.id
    order by w.version desc
    limit 1
) as v
where p.status = 'published';
comment on view public.current_policies is '[gov] Published policies with their current text.';

-- 2. Functions: over the view

create function app.list_pending_policies(org uuid)
returns table (
    policy_id uuid,
    title text,
    version integer,
    content_markdown text,
    content_hash text,
    published_at timestamptz
)
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    perform app.require_staff(list_pending_policies.org, 'read');
    return query
    select p.policy_id, p.title, p.version, p.content_markdown, p.content_hash, p.published_at
    from public.current_policies as p
    where
        p.org_id = list_pending_policies.org
        and not exists (
            select from public.policy_acceptances as a
            where
                a.org_id = p.org_id
                and a.policy_id = p.policy_id
                and a.version = p.version
                and a.user_id = auth.uid()
        )
    order by p.published_at, p.policy_id;
end;
$$;
comment on function app.list_pending_policies(uuid) is
    'Body of public.list_pending_policies; definer because policies concern every colleague, '
    'whatever the matrix gives the role.';

create function public.list_pending_policies(org uuid)
returns table (
    policy_id uuid,
    title text,
    version integer,
    content_markdown text,
    content_hash text,
    published_at timestamptz
)
language sql
stable
set search_path = ''
as $$ select * from app.list_pending_policies(org) $$;
comment on function public.list_pending_policies(uuid) is
    'Published policies whose current version the caller has not accepted, oldest first, with the '
    'text to read.';

create function app.get_policy_acceptance_report(org uuid)
returns table (
    policy_id uuid,
    title text,
    version integer,
    published_at timestamptz,
    accepted integer,
    pending integer,
    acceptance_pct numeric
)
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    perform app.require_access(get_policy_acceptance_report.org, 'gov', 'read');
    return query
    select
        p.policy_id,
        p.title,
        p.version,
        p.published_at,
        count(a.user_id)::integer,
        (count(m.user_id) - count(a.user_id))::integer,
        round(100.0 * count(a.user_id) / nullif(count(m.user_id), 0), 1)
    from public.current_policies as p
    left join public.memberships as m
        on p.org_id = m.org_id and m.role not in ('client', 'agent')
    left join public.policy_acceptances as a
        on
            p.org_id = a.org_id
            and p.policy_id = a.policy_id
            and p.version = a.version
            and m.user_id = a.user_id
    where p.org_id = get_policy_acceptance_report.org
    group by p.policy_id, p.title, p.version, p.published_at
    order by p.title, p.policy_id;
end;
$$;
comment on function app.get_policy_acceptance_report(uuid) is
    'Body of public.get_policy_acceptance_report; definer because it counts acceptances of others.';

create function public.get_policy_acceptance_report(org uuid)
returns table (
    policy_id uuid,
    title text,
    version integer,
    published_at timestamptz,
    accepted integer,
    pending integer,
    acceptance_pct numeric
)
language sql
stable
set search_path = ''
as $$ select * from app.get_policy_acceptance_report(org) $$;
comment on function public.get_policy_acceptance_report(uuid) is
    'Per published policy: how many of today''s colleagues accepted the current version, how many '
    'have not, and the percentage. Counts, no names.';

-- 3. Triggers

create trigger policies_10_guard_status
before update of status on public.policies
for each row when (old.status is distinct from new.status)
execute function app.guard_move('policy', 'status');

create trigger policies_10_guard_text
before insert or update of status on public.policies
for each row execute function app.guard_policy();

create trigger policies_70_emit
after insert or update or delete on public.policies
for each row execute function app.emit_event('gov', 'policy', 'status', 'title');

create trigger policies_80_audit
after insert or update or delete on public.policies
for each row execute function app.audit_row();

create trigger policy_versions_10_guard_record
before update or delete on public.policy_versions
for each row execute function app.guard_policy_record();

create trigger policy_versions_70_emit
after insert on public.policy_versions
for each row execute function app.emit_event(
    'gov', 'policy_version', '', 'policy_id', 'version', 'content_hash'
);

create trigger policy_acceptances_10_guard_record
before update or delete on public.policy_acceptances
for each row execute function app.guard_policy_record();

create trigger policy_acceptances_70_emit
after insert on public.policy_acceptances
for each row execute function app.emit_event(
    'gov', 'policy_acceptance', '', 'policy_id', 'version', 'content_hash'
);

create trigger policy_acceptances_80_audit
after insert or delete on public.policy_acceptances
for each row execute function app.audit_row();

-- 5. Access

select app.protect_table('public.policies', 'gov', null);
select app.protect_table('public.policy_versions', 'gov', null, '{select}');

-- Reading gov is not enough for colleagues' addresses: all acceptances are for those who write it.
select app.protect_table('public.policy_acceptances', 'gov', 'user_id', '{}');
create policy policy_acceptances_select on public.policy_acceptances for select to authenticated
using (
    org_id = any((select app.caller_org_ids())::uuid[])
    and (
        org_id = any((select app.org_ids('gov', 'write'))::uuid[])
        or (
            org_id = any((select app.own_org_ids('gov', 'write'))::uuid[])
            and user_id = (select auth.uid())
        )
    )
);
grant select on public.policy_acceptances to authenticated;

grant select on public.current_policies to authenticated, service_role;

grant execute on function
app.text_hash(text),
app.publish_policy(uuid, uuid, text),
app.accept_policy(uuid, text),
app.list_pending_policies(uuid),
app.get_policy_acceptance_report(uuid),
public.publish_policy(uuid, text),
public.accept_policy(uuid, text),
public.list_pending_policies(uuid),
public.get_policy_acceptance_report(uuid)
to authenticated, service_role;

-- 6. Reference rows

insert into app.error_keys (key, http, meaning) values
('policy_not_found', 404, 'There is no such policy, or the caller may not see it.'),
('policy_without_text', 422, 'A policy is published with a text.'),
('policy_not_published', 409, 'Only a published policy can be accepted.'),
('policy_text_changed', 409, 'The text that was read is not the current version.'),
('policy_move_refused', 409, 'The policy cannot go from its status to that one.');

insert into app.allowed_moves (machine, from_state, to_state) values
('policies', 'draft', 'published'),
('policies', 'draft', 'archived'),
('policies', 'published', 'archived'),
('policies', 'archived', 'published');

insert into app.event_types (module, event_type, description, payload_keys) values
('gov', 'policy.created', 'A policy was drafted.', '{title,status}'),
('gov', 'policy.published', 'A policy was published.', '{title,status,changed}'),
('gov', 'policy.archived', 'A policy was archived.', '{title,status,changed}'),
('gov', 'policy.updated', 'A policy was renamed or its summary changed.', '{title,status,changed}'),
('gov', 'policy.deleted', 'A draft policy was removed.', '{title,status}'),
(
    'gov', 'policy_version.created', 'A policy got a new text; everybody accepts again.',
    '{policy_id,version,content_hash}'
),
(
    'gov', 'policy_acceptance.created', 'A person accepted a policy.',
    '{policy_id,version,content_hash}'
);
