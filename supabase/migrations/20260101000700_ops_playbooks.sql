-- Ops, the knowledge: playbooks, their tasks, the service actions made of them, totals, files.
-- Depends on: core, core_access, events.
-- Asked for by: domain §5 ops, data-flow "Integridade referencial" and "Eventos".

-- 1. Tables

create table public.playbooks (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    title text not null
        constraint playbooks_title_check check (length(btrim(title)) between 1 and 200),
    slug text not null default '' constraint playbooks_slug_check check (app.is_slug(slug)),
    content_markdown text not null default '',
    tags text[] not null default '{}',
    version integer not null default 1,
    status text not null default 'draft'
        constraint playbooks_status_check check (status in ('draft', 'published', 'archived')),
    estimated_minutes integer not null default 0
        constraint playbooks_estimated_minutes_check check (estimated_minutes >= 0),
    estimated_cost numeric(14, 2) not null default 0
        constraint playbooks_estimated_cost_check check (estimated_cost >= 0),
    is_manual_estimate boolean not null default false,
    last_reviewed_on date,
    review_every_days integer
        constraint playbooks_review_every_days_check check (review_every_days between 1 and 3650),
    review_due_on date generated always as (last_reviewed_on + review_every_days) stored,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, slug)
);
comment on table public.playbooks is
    '[ops] How work is done. The estimate is the sum of the tasks unless is_manual_estimate.';
comment on column public.playbooks.slug is 'Left empty, it is made from the title.';
comment on column public.playbooks.version is
    'Starts at 1 and grows by 1 with each change of content_markdown; never written by callers.';
comment on column public.playbooks.estimated_minutes is
    'Derived from the tasks and not writable, unless is_manual_estimate.';
comment on column public.playbooks.estimated_cost is
    'BRL. Derived from the tasks and not writable, unless is_manual_estimate.';
comment on column public.playbooks.last_reviewed_on is
    'Last day somebody confirmed the content; the day of creation counts as the first review.';
comment on column public.playbooks.review_every_days is 'Null = no review asked for.';
comment on column public.playbooks.review_due_on is
    'last_reviewed_on + review_every_days; due from that day on. Null = no review asked for.';
create index playbooks_review_due_on_idx on public.playbooks (org_id, review_due_on)
where status = 'published';
create index playbooks_tags_idx on public.playbooks using gin (tags);

create table public.playbook_tasks (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    playbook_id uuid not null,
    title text not null
        constraint playbook_tasks_title_check check (length(btrim(title)) between 1 and 200),
    slug text not null default '' constraint playbook_tasks_slug_check check (app.is_slug(slug)),
    sort_order integer not null default 0
        constraint playbook_tasks_sort_order_check check (sort_order > 0),
    description text,
    minutes integer constraint playbook_tasks_minutes_check check (minutes >= 0),
    cost numeric(14, 2) constraint playbook_tasks_cost_check check (cost >= 0),
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, playbook_id, slug),
    unique (org_id, playbook_id, sort_order) deferrable initially immediate,
    foreign key (org_id, playbook_id) references public.playbooks (org_id, id) on delete cascade,
    constraint playbook_tasks_estimate_check check (minutes is not null or cost is not null)
);
comment on table public.playbook_tasks is
    '[ops] Steps of a playbook, each with minutes, a cost, or both.';
comment on column public.playbook_tasks.slug is 'Left empty, it is made from the title.';
comment on column public.playbook_tasks.sort_order is
    'Place in the playbook from 1 up; 0 or a move to another playbook puts the task at the end.';
comment on column public.playbook_tasks.minutes is 'Estimate; null = the step has a cost only.';
comment on column public.playbook_tasks.cost is 'BRL; null = the step takes time only.';

create table public.service_actions (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    title text not null
        constraint service_actions_title_check check (length(btrim(title)) between 1 and 200),
    slug text not null default '' constraint service_actions_slug_check check (app.is_slug(slug)),
    complexity_factor numeric(3, 2) not null default 1
        constraint service_actions_complexity_factor_check
            check (complexity_factor between 1 and 2),
    total_minutes integer not null default 0,
    total_cost numeric(14, 2) not null default 0,
    omie_servico_id text
        constraint service_actions_omie_servico_id_check
            check (length(omie_servico_id) between 1 and 60),
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, slug),
    unique (org_id, omie_servico_id)
);
comment on table public.service_actions is
    '[ops] Jobs that are sold and done: playbooks in an order, times a complexity.';
comment on column public.service_actions.slug is 'Left empty, it is made from the title.';
comment on column public.service_actions.complexity_factor is
    'From 1.00 (as the playbooks say) to 2.00 (twice the effort).';
comment on column public.service_actions.total_minutes is
    'Sum of the playbooks'' minutes × complexity_factor, rounded; derived, not writable.';
comment on column public.service_actions.total_cost is
    'BRL. Sum of the playbooks'' costs × complexity_factor, rounded; derived, not writable.';
comment on column public.service_actions.omie_servico_id is
    'The service''s code in the ERP (Omie nCodServ); null = not linked.';

create table public.service_action_playbooks (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    service_action_id uuid not null,
    playbook_id uuid not null,
    sort_order integer not null default 0
        constraint service_action_playbooks_sort_order_check check (sort_order > 0),
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, service_action_id, playbook_id),
    unique (org_id, service_action_id, sort_order) deferrable initially immediate,
    foreign key (org_id, service_action_id)
    references public.service_actions (org_id, id) on delete cascade,
    foreign key (org_id, playbook_id) references public.playbooks (org_id, id) on delete cascade
);
comment on table public.service_action_playbooks is
    '[ops] Which playbooks a service action is made of, in which order; each at most once.';
comment on column public.service_action_playbooks.sort_order is
    'Place in the service action from 1 up; 0 puts the playbook at the end.';
create index service_action_playbooks_playbook_id_idx
on public.service_action_playbooks (org_id, playbook_id);

create table public.assets (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    playbook_id uuid,
    title text not null
        constraint assets_title_check check (length(btrim(title)) between 1 and 200),
    path text not null,
    media_type text not null
        constraint assets_media_type_check check (
            media_type in (
                'application/pdf', 'image/jpeg', 'image/png', 'image/svg+xml', 'image/webp',
                'text/markdown', 'text/plain', 'video/mp4'
            )
        ),
    size_bytes integer not null
        constraint assets_size_bytes_check check (size_bytes between 1 and 10485760),
    description text,
    tags text[] not null default '{}',
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, path),
    foreign key (org_id, playbook_id)
    references public.playbooks (org_id, id) on delete set null (playbook_id),
    constraint assets_path_check check (
        starts_with(path, org_id::text || '/') and path !~ '(^|/)\.{1,2}(/|$)|//|/$'
        and length(path) <= 500
    )
);
comment on table public.assets is
    '[ops] What is known of each file in the bucket os-assets; the bytes lie in storage.';
comment on column public.assets.path is
    'Object name in the bucket os-assets; its first folder is the organisation''s id.';
comment on column public.assets.media_type is
    'One of the types that the bucket os-assets takes, as in supabase/config.toml.';
comment on column public.assets.size_bytes is 'At most 10 MB, as the bucket.';
comment on column public.assets.playbook_id is 'The playbook the file belongs to; null = general.';
create index assets_playbook_id_idx on public.assets (org_id, playbook_id);

-- 2. Functions: totals. Whoever changes a part locks the whole (playbook, then action, each level
-- in key order) and sums only then, in a new statement: of two writers, the later sees both parts.

create function app.playbook_totals(org uuid, playbook uuid)
returns table (minutes integer, cost numeric)
language sql
stable
security definer
set search_path = ''
as $$
    select coalesce(sum(t.minutes), 0)::integer, coalesce(sum(t.cost), 0)
    from public.playbook_tasks as t
    where t.org_id = playbook_totals.org and t.playbook_id = playbook_totals.playbook
$$;
comment on function app.playbook_totals(uuid, uuid) is
    'Minutes and cost of a playbook''s tasks. Definer: a total does not depend on who asks.';

create function app.service_action_totals(org uuid, service_action uuid, complexity_factor numeric)
returns table (minutes integer, cost numeric)
language sql
stable
security definer
set search_path = ''
as $$
    select
        round(
            coalesce(sum(p.estimated_minutes), 0) * service_action_totals.complexity_factor
        )::integer,
        round(coalesce(sum(p.estimated_cost), 0) * service_action_totals.complexity_factor, 2)
    from public.service_action_playbooks as l
    inner join public.playbooks as p on l.org_id = p.org_id and l.playbook_id = p.id
    where
        l.org_id = service_action_totals.org
        and l.service_action_id = service_action_totals.service_action
$$;
comment on function app.service_action_totals(uuid, uuid, numeric) is
    'Minutes and cost of a service action''s playbooks times its complexity. '
    'Definer: a total does not depend on who asks.';

create function app.derive_playbook() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_minutes integer;
    v_cost numeric;
begin
    if new.slug = '' then
        new.slug := rtrim(left(app.slugify(new.title), 100), '-');
    end if;

    new.last_reviewed_on := coalesce(new.last_reviewed_on, app.org_today(new.org_id));
    if new.last_reviewed_on is distinct from old.last_reviewed_on
        and new.last_reviewed_on > app.org_today(new.org_id)
    then
        perform app.raise_error(
            'playbook_review_in_future',
            format('%s has not come yet.', new.last_reviewed_on),
            'A review is recorded on the day it was done, or later.'
        );
    end if;

    if new.version <> coalesce(old.version, 1) then
        perform app.raise_error(
            'playbook_version_is_derived',
            format('Version %s was sent, %s is stored.', new.version, coalesce(old.version, 1)),
            'Leave version out; it grows when content_markdown changes.'
        );
    end if;
    if new.content_markdown <> old.content_markdown then
        new.version := old.version + 1;
    end if;

    if not new.is_manual_estimate then
        select t.minutes, t.cost into v_minutes, v_cost
        from app.playbook_totals(new.org_id, new.id) as t;
        if new.estimated_minutes not in (v_minutes, coalesce(old.estimated_minutes, 0))
            or new.estimated_cost not in (v_cost, coalesce(old.estimated_cost, 0))
        then
            perform app.raise_error(
                'totals_are_derived',
                format('The tasks of playbook %s add up to other totals.', new.id),
                'Set is_manual_estimate to type an estimate, or change the tasks.'
            );
        end if;
        new.estimated_minutes := v_minutes;
        new.estimated_cost := v_cost;
    end if;
    return new;
end;
$$;
comment on function app.derive_playbook() is
    'Trigger: slug, day of review, version and estimate of a playbook; refuses values typed into '
    'derived columns. Definer: a total does not depend on who writes.';

create function app.derive_service_action() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_minutes integer;
    v_cost numeric;
begin
    if new.slug = '' then
        new.slug := rtrim(left(app.slugify(new.title), 100), '-');
    end if;
    select t.minutes, t.cost into v_minutes, v_cost
    from app.service_action_totals(new.org_id, new.id, new.complexity_factor) as t;
    if new.total_minutes not in (v_minutes, coalesce(old.total_minutes, 0))
        or new.total_cost not in (v_cost, coalesce(old.total_cost, 0))
    then
        perform app.raise_error(
            'totals_are_derived',
            format('The playbooks of service action %s add up to other totals.', new.id),
            'Leave total_minutes and total_cost out; change the playbooks or the complexity.'
        );
    end if;
    new.total_minutes := v_minutes;
    new.total_cost := v_cost;
    return new;
end;
$$;
comment on function app.derive_service_action() is
    'Trigger: slug and totals of a service action; refuses totals typed by a caller. '
    'Definer: a total does not depend on who writes.';

create function app.refresh_playbooks(orgs uuid[], playbooks uuid[]) returns void
language plpgsql
security definer
set search_path = ''
as $$
begin
    perform from public.playbooks as p
    inner join unnest(orgs, playbooks) as k (org_id, id) using (org_id, id)
    order by p.org_id, p.id
    for no key update of p;

    update public.playbooks as p
    set estimated_minutes = k.minutes, estimated_cost = k.cost
    from (
        select given.org_id, given.id, t.minutes, t.cost
        from unnest(orgs, playbooks) as given (org_id, id)
        cross join lateral app.playbook_totals(given.org_id, given.id) as t
    ) as k
    where
        p.org_id = k.org_id and p.id = k.id and not p.is_manual_estimate
        and (p.estimated_minutes, p.estimated_cost) is distinct from (k.minutes, k.cost);
end;
$$;
comment on function app.refresh_playbooks(uuid[], uuid[]) is
    'Locks the playbooks named by the two parallel lists and sums their tasks anew. '
    'Definer: it follows every change of a task, whoever makes it.';

create function app.refresh_service_actions(orgs uuid[], service_actions uuid[]) returns void
language plpgsql
security definer
set search_path = ''
as $$
begin
    perform from public.service_actions as a
    inner join unnest(orgs, service_actions) as k (org_id, id) using (org_id, id)
    order by a.org_id, a.id
    for no key update of a;

    update public.service_actions as a
    set total_minutes = k.minutes, total_cost = k.cost
    from (
        select s.org_id, s.id, t.minutes, t.cost
        from unnest(orgs, service_actions) as given (org_id, id)
        inner join public.service_actions as s using (org_id, id)
        cross join lateral app.service_action_totals(s.org_id, s.id, s.complexity_factor) as t
    ) as k
    where
        a.org_id = k.org_id and a.id = k.id
        and (a.total_minutes, a.total_cost) is distinct from (k.minutes, k.cost);
end;
$$;
comment on function app.refresh_service_actions(uuid[], uuid[]) is
    'Locks the service actions named by the two parallel lists and sums their playbooks anew. '
    'Definer: it follows every change of a playbook or link, whoever makes it.';

create function app.follow_playbook_tasks() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_orgs uuid[];
    v_playbooks uuid[];
begin
    if tg_op = 'INSERT' then
        select array_agg(k.org_id), array_agg(k.playbook_id) into v_orgs, v_playbooks
        from (select distinct n.org_id, n.playbook_id from new_rows as n) as k;
    elsif tg_op = 'DELETE' then
        select array_agg(k.org_id), array_agg(k.playbook_id) into v_orgs, v_playbooks
        from (select distinct o.org_id, o.playbook_id from old_rows as o) as k;
    else
        select array_agg(k.org_id), array_agg(k.playbook_id) into v_orgs, v_playbooks
        from (
            select distinct c.org_id, c.playbook_id
            from (
                (
                    select o.org_id, o.playbook_id, o.id, o.minutes, o.cost from old_rows as o
                    except
                    select n.org_id, n.playbook_id, n.id, n.minutes, n.cost from new_rows as n
                )
                union all
                (
                    select n.org_id, n.playbook_id, n.id, n.minutes, n.cost from new_rows as n
                    except
                    select o.org_id, o.playbook_id, o.id, o.minutes, o.cost from old_rows as o
                )
            ) as c
        ) as k;
    end if;
    if v_playbooks is not null then
        perform app.refresh_playbooks(v_orgs, v_playbooks);
    end if;
    return null;
end;
$$;
comment on function app.follow_playbook_tasks() is
    'Trigger: after a statement that changed tasks, sums the playbooks they are in or were in. '
    'Definer: calls a helper that no caller may.';

create function app.follow_playbooks() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_orgs uuid[];
    v_service_actions uuid[];
begin
    select array_agg(k.org_id), array_agg(k.service_action_id) into v_orgs, v_service_actions
    from (
        select distinct l.org_id, l.service_action_id
        from old_rows as o
        inner join new_rows as n using (org_id, id)
        inner join public.service_action_playbooks as l
            on n.org_id = l.org_id and n.id = l.playbook_id
        where
            (o.estimated_minutes, o.estimated_cost)
            is distinct from (n.estimated_minutes, n.estimated_cost)
    ) as k;
    if v_service_actions is not null then
        perform app.refresh_service_actions(v_orgs, v_service_actions);
    end if;
    return null;
end;
$$;
comment on function app.follow_playbooks() is
    'Trigger: after a statement that changed estimates, sums the service actions the playbooks '
    'are part of. Definer: calls a helper that no caller may.';

create function app.follow_service_action_playbooks() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_orgs uuid[];
    v_service_actions uuid[];
begin
    if tg_op = 'DELETE' then
        select array_agg(k.org_id), array_agg(k.service_action_id) into v_orgs, v_service_actions
        from (select distinct o.org_id, o.service_action_id from old_rows as o) as k;
    else
        -- Whoever is changing a playbook's estimate right now does not see this link yet: wait.
        perform from public.playbooks as p
        where (p.org_id, p.id) in (select n.org_id, n.playbook_id from new_rows as n)
        order by p.org_id, p.id
        for share;
        if tg_op = 'INSERT' then
            select array_agg(k.org_id), array_agg(k.service_action_id)
            into v_orgs, v_service_actions
            from (select distinct n.org_id, n.service_action_id from new_rows as n) as k;
        else
            select array_agg(k.org_id), array_agg(k.service_action_id)
            into v_orgs, v_service_actions
            from (
                select o.org_id, o.service_action_id from old_rows as o
                union
                select n.org_id, n.service_action_id from new_rows as n
            ) as k;
        end if;
    end if;
    if v_service_actions is not null then
        perform app.refresh_service_actions(v_orgs, v_service_actions);
    end if;
    return null;
end;
$$;
comment on function app.follow_service_action_playbooks() is
    'Trigger: after a statement that changed links, sums the service actions at either end. '
    'Definer: calls a helper that no caller may.';

-- 2. Functions: order and review

create function app.place_playbook_task() returns trigger
language plpgsql
set search_path = ''
as $$
begin
    if new.playbook_id <> old.playbook_id and new.sort_order = old.sort_order then
        new.sort_order := 0;
    end if;
    if new.sort_order = 0 then
        perform from public.playbooks as p
        where p.org_id = new.org_id and p.id in (old.playbook_id, new.playbook_id)
        order by p.id
        for no key update;
        select coalesce(max(t.sort_order), 0) + 1 into new.sort_order
        from public.playbook_tasks as t
        where t.org_id = new.org_id and t.playbook_id = new.playbook_id;
    end if;
    if new.slug = '' then
        new.slug := rtrim(left(app.slugify(new.title), 100), '-');
        if exists (
            select from public.playbook_tasks as t
            where
                t.org_id = new.org_id and t.playbook_id = new.playbook_id
                and t.slug = new.slug and t.id <> new.id
        ) then
            new.slug := new.slug || '-' || new.sort_order;
        end if;
    end if;
    return new;
end;
$$;
comment on function app.place_playbook_task() is
    'Trigger: puts a task without a place at the end of its playbook and gives it a slug.';

create function app.place_service_action_playbook() returns trigger
language plpgsql
set search_path = ''
as $$
begin
    if new.service_action_id <> old.service_action_id and new.sort_order = old.sort_order then
        new.sort_order := 0;
    end if;
    if new.sort_order = 0 then
        -- Playbook before action, as everywhere.
        perform from public.playbooks as p
        where p.org_id = new.org_id and p.id = new.playbook_id
        for share;
        perform from public.service_actions as a
        where a.org_id = new.org_id and a.id in (old.service_action_id, new.service_action_id)
        order by a.id
        for no key update;
        select coalesce(max(l.sort_order), 0) + 1 into new.sort_order
        from public.service_action_playbooks as l
        where l.org_id = new.org_id and l.service_action_id = new.service_action_id;
    end if;
    return new;
end;
$$;
comment on function app.place_service_action_playbook() is
    'Trigger: puts a playbook without a place at the end of its service action.';

create function public.reorder_playbook_tasks(playbook uuid, tasks uuid[])
returns setof public.playbook_tasks
language plpgsql
set search_path = ''
as $$
declare
    v_org uuid;
    v_tasks uuid[];
begin
    select p.org_id into v_org
    from public.playbooks as p where p.id = reorder_playbook_tasks.playbook;
    if v_org is null then
        perform app.raise_error(
            'playbook_not_found', format('No playbook %s.', reorder_playbook_tasks.playbook)
        );
    end if;
    perform app.require_access(v_org, 'ops', 'write');
    perform from public.playbooks as p
    where p.org_id = v_org and p.id = reorder_playbook_tasks.playbook
    for no key update;
    select coalesce(array_agg(t.id order by t.id), '{}') into v_tasks
    from public.playbook_tasks as t
    where t.org_id = v_org and t.playbook_id = reorder_playbook_tasks.playbook;
    if v_tasks is distinct from (
        select coalesce(array_agg(given.id order by given.id), '{}')
        from unnest(reorder_playbook_tasks.tasks) as given (id)
    ) then
        perform app.raise_error(
            'playbook_tasks_mismatch',
            format('The playbook has %s tasks.', cardinality(v_tasks)),
            'Name every task of the playbook exactly once.'
        );
    end if;
    update public.playbook_tasks as t set sort_order = given.place
    from unnest(reorder_playbook_tasks.tasks) with ordinality as given (id, place)
    where t.org_id = v_org and t.id = given.id and t.sort_order <> given.place;
    return query
    select t.* from public.playbook_tasks as t
    where t.org_id = v_org and t.playbook_id = reorder_playbook_tasks.playbook
    order by t.sort_order;
end;
$$;
comment on function public.reorder_playbook_tasks(uuid, uuid[]) is
    'Puts the tasks of a playbook into the order given, which names each exactly once. Errors: '
    'playbook_not_found, not_allowed, playbook_tasks_mismatch.';

create function public.reorder_service_action_playbooks(service_action uuid, playbooks uuid[])
returns setof public.service_action_playbooks
language plpgsql
set search_path = ''
as $$
declare
    v_org uuid;
    v_playbooks uuid[];
begin
    select a.org_id into v_org
    from public.service_actions as a
    where a.id = reorder_service_action_playbooks.service_action;
    if v_org is null then
        perform app.raise_error(
            'service_action_not_found',
            format('No service action %s.', reorder_service_action_playbooks.service_action)
        );
    end if;
    perform app.require_access(v_org, 'ops', 'write');
    perform from public.service_actions as a
    where a.org_id = v_org and a.id = reorder_service_action_playbooks.service_action
    for no key update;
    select coalesce(array_agg(l.playbook_id order by l.playbook_id), '{}') into v_playbooks
    from public.service_action_playbooks as l
    where
        l.org_id = v_org
        and l.service_action_id = reorder_service_action_playbooks.service_action;
    if v_playbooks is distinct from (
        select coalesce(array_agg(given.id order by given.id), '{}')
        from unnest(reorder_service_action_playbooks.playbooks) as given (id)
    ) then
        perform app.raise_error(
            'service_action_playbooks_mismatch',
            format('The service action has %s playbooks.', cardinality(v_playbooks)),
            'Name every playbook of the service action exactly once.'
        );
    end if;
    update public.service_action_playbooks as l set sort_order = given.place
    from unnest(reorder_service_action_playbooks.playbooks) with ordinality as given (id, place)
    where
        l.org_id = v_org
        and l.service_action_id = reorder_service_action_playbooks.service_action
        and l.playbook_id = given.id and l.sort_order <> given.place;
    return query
    select l.* from public.service_action_playbooks as l
    where
        l.org_id = v_org
        and l.service_action_id = reorder_service_action_playbooks.service_action
    order by l.sort_order;
end;
$$;
comment on function public.reorder_service_action_playbooks(uuid, uuid[]) is
    'Puts the playbooks of a service action into the order given, which names each exactly once. '
    'Errors: service_action_not_found, not_allowed, service_action_playbooks_mismatch.';

create function public.list_playbooks_due(org uuid) returns setof public.playbooks
language sql
stable
set search_path = ''
as $$
    select p.* from public.playbooks as p
    where
        p.org_id = list_playbooks_due.org and p.status = 'published'
        and p.review_due_on <= app.org_today(list_playbooks_due.org)
    order by p.review_due_on, p.id
$$;
comment on function public.list_playbooks_due(uuid) is
    'Published playbooks whose review is due today or overdue, the oldest due day first.';

create function public.mark_playbook_reviewed(playbook uuid) returns public.playbooks
language plpgsql
set search_path = ''
as $$
declare
    v_playbook public.playbooks;
begin
    select * into v_playbook
    from public.playbooks as p where p.id = mark_playbook_reviewed.playbook;
    if v_playbook.id is null then
        perform app.raise_error(
            'playbook_not_found', format('No playbook %s.', mark_playbook_reviewed.playbook)
        );
    end if;
    perform app.require_access(v_playbook.org_id, 'ops', 'write');
    update public.playbooks as p set last_reviewed_on = app.org_today(p.org_id)
    where p.org_id = v_playbook.org_id and p.id = v_playbook.id
    returning p.* into v_playbook;
    return v_playbook;
end;
$$;
comment on function public.mark_playbook_reviewed(uuid) is
    'Records that a playbook was reviewed today, in the organisation''s time zone. Errors: '
    'playbook_not_found, not_allowed.';

-- 3. Triggers

create trigger playbooks_10_guard_status
before update of status on public.playbooks
for each row when (old.status is distinct from new.status)
execute function app.guard_move('playbook', 'status');
create trigger playbooks_50_derive
before insert or update on public.playbooks
for each row execute function app.derive_playbook();
create trigger playbooks_51_follow
after update on public.playbooks
referencing old table as old_rows new table as new_rows
for each statement execute function app.follow_playbooks();
create trigger playbooks_70_emit
after insert or update or delete on public.playbooks
for each row execute function app.emit_event('ops', 'playbook', 'status', 'slug', 'version');

create trigger playbook_tasks_50_place
before insert or update of playbook_id, sort_order, slug on public.playbook_tasks
for each row execute function app.place_playbook_task();
create trigger playbook_tasks_51_follow_insert
after insert on public.playbook_tasks
referencing new table as new_rows
for each statement execute function app.follow_playbook_tasks();
create trigger playbook_tasks_51_follow_update
after update on public.playbook_tasks
referencing old table as old_rows new table as new_rows
for each statement execute function app.follow_playbook_tasks();
create trigger playbook_tasks_51_follow_delete
after delete on public.playbook_tasks
referencing old table as old_rows
for each statement execute function app.follow_playbook_tasks();
create trigger playbook_tasks_70_emit
after insert or update or delete on public.playbook_tasks
for each row execute function app.emit_event('ops', 'playbook_task', '', 'playbook_id', 'slug');

create trigger service_actions_50_derive
before insert or update on public.service_actions
for each row execute function app.derive_service_action();
create trigger service_actions_70_emit
after insert or update or delete on public.service_actions
for each row execute function app.emit_event('ops', 'service_action', '', 'slug');

create trigger service_action_playbooks_50_place
before insert or update of service_action_id, sort_order on public.service_action_playbooks
for each row execute function app.place_service_action_playbook();
create trigger service_action_playbooks_51_follow_insert
after insert on public.service_action_playbooks
referencing new table as new_rows
for each statement execute function app.follow_service_action_playbooks();
create trigger service_action_playbooks_51_follow_update
after update on public.service_action_playbooks
referencing old table as old_rows new table as new_rows
for each statement execute function app.follow_service_action_playbooks();
create trigger service_action_playbooks_51_follow_delete
after delete on public.service_action_playbooks
referencing old table as old_rows
for each statement execute function app.follow_service_action_playbooks();
create trigger service_action_playbooks_70_emit
after insert or update or delete on public.service_action_playbooks
for each row execute function app.emit_event(
    'ops', 'service_action_playbook', '', 'service_action_id', 'playbook_id'
);

create trigger assets_70_emit
after insert or update or delete on public.assets
for each row execute function app.emit_event('ops', 'asset', '', 'media_type', 'playbook_id');

-- 5. Access

select app.protect_table('public.playbooks', 'ops', null);
select app.protect_table('public.playbook_tasks', 'ops', null);
select app.protect_table('public.service_actions', 'ops', null);
select app.protect_table('public.service_action_playbooks', 'ops', null);
select app.protect_table('public.assets', 'ops', null);

grant execute on function
public.reorder_playbook_tasks(uuid, uuid[]),
public.reorder_service_action_playbooks(uuid, uuid[]),
public.list_playbooks_due(uuid),
public.mark_playbook_reviewed(uuid)
to authenticated, service_role;

-- 6. Reference rows

insert into app.error_keys (key, http, meaning) values
('playbook_not_found', 404, 'There is no such playbook, or the caller may not see it.'),
('service_action_not_found', 404, 'There is no such service action, or the caller may not see it.'),
('playbook_move_refused', 409, 'A playbook cannot go from its status to the one asked for.'),
('playbook_review_in_future', 422, 'A playbook''s review cannot lie in the future.'),
('playbook_tasks_mismatch', 422, 'An order must name every task of the playbook exactly once.'),
(
    'service_action_playbooks_mismatch', 422,
    'An order must name every playbook of the service action exactly once.'
),
('playbook_version_is_derived', 422, 'A playbook''s version follows its content.'),
('totals_are_derived', 422, 'Minutes and costs that are sums of other rows are not written.');

insert into app.allowed_moves (machine, from_state, to_state) values
('playbooks', 'draft', 'published'),
('playbooks', 'draft', 'archived'),
('playbooks', 'published', 'draft'),
('playbooks', 'published', 'archived'),
('playbooks', 'archived', 'draft');

insert into app.event_types (module, event_type, description, payload_keys) values
('ops', 'playbook.created', 'A playbook was written.', '{slug,version,status}'),
('ops', 'playbook.updated', 'A playbook was changed.', '{slug,version,status,changed}'),
('ops', 'playbook.draft', 'A playbook was taken back into draft.', '{slug,version,status,changed}'),
('ops', 'playbook.published', 'A playbook was published.', '{slug,version,status,changed}'),
('ops', 'playbook.archived', 'A playbook was archived.', '{slug,version,status,changed}'),
('ops', 'playbook.deleted', 'A playbook was deleted.', '{slug,version,status}'),
('ops', 'playbook_task.created', 'A task was added to a playbook.', '{playbook_id,slug}'),
(
    'ops', 'playbook_task.updated', 'A task was changed, moved or reordered.',
    '{playbook_id,slug,changed}'
),
('ops', 'playbook_task.deleted', 'A task was deleted.', '{playbook_id,slug}'),
('ops', 'service_action.created', 'A service action was defined.', '{slug}'),
('ops', 'service_action.updated', 'A service action or its totals changed.', '{slug,changed}'),
('ops', 'service_action.deleted', 'A service action was deleted.', '{slug}'),
(
    'ops', 'service_action_playbook.created', 'A playbook became part of a service action.',
    '{service_action_id,playbook_id}'
),
(
    'ops', 'service_action_playbook.updated', 'A playbook''s place in a service action changed.',
    '{service_action_id,playbook_id,changed}'
),
(
    'ops', 'service_action_playbook.deleted', 'A playbook left a service action.',
    '{service_action_id,playbook_id}'
),
('ops', 'asset.created', 'A file was added.', '{media_type,playbook_id}'),
('ops', 'asset.updated', 'What is known of a file changed.', '{media_type,playbook_id,changed}'),
('ops', 'asset.deleted', 'A file was removed.', '{media_type,playbook_id}');
