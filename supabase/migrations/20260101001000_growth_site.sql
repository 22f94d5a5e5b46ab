-- Growth, the site: services catalogue and its lock, posts, success cases, fixed pages, brand.
-- Depends on: core, events, ops_playbooks (service actions, playbooks), contracts (and clients).
-- Asked for by: domain §5 growth, data-flow "Fluxo Site ↔ App".

-- 1. Tables

create function app.is_text_object(value jsonb, required text[], optional text[] default '{}')
returns boolean
language sql
immutable
set search_path = ''
as $$
    select case
        when jsonb_typeof(value) is distinct from 'object' then false
        when not value ?& required then false
        else not exists (
            select from jsonb_each(value) as entry (name, content)
            where
                entry.name <> all (required || optional)
                or jsonb_typeof(entry.content) <> 'string'
                or entry.content #>> '{}' !~ '\S'
        )
    end
$$;
comment on function app.is_text_object(jsonb, text[], text[]) is
    'Whether a value is an object of non-blank texts: every required key, optional ones, nothing '
    'else.';

create function app.is_text_object_list(value jsonb, required text[], optional text[] default '{}')
returns boolean
language sql
immutable
set search_path = ''
as $$
    select case
        when jsonb_typeof(value) is distinct from 'array' then false
        else jsonb_array_length(value) <= 50 and not exists (
            select from jsonb_array_elements(value) as entry (item)
            where not app.is_text_object(entry.item, required, optional)
        )
    end
$$;
comment on function app.is_text_object_list(jsonb, text[], text[]) is
    'Whether a value is a list of at most 50 objects of the given texts.';

create function app.is_link(value text) returns boolean
language sql
immutable
set search_path = ''
as $$ select value ~ '^(https://[^[:space:]]+|/([^/[:space:]][^[:space:]]*)?|#[^[:space:]]*)$' $$;
comment on function app.is_link(text) is
    'Whether a text may stand in a link or image of the site: https, a path of the site, or an '
    'anchor in the page.';

create function app.is_service_content(content jsonb) returns boolean
language sql
immutable
set search_path = ''
as $$
    select case
        when jsonb_typeof(content) is distinct from 'object' then false
        else
            content - '{hero,whyItMatters,useCases,metrics,process,cta}'::text[] = '{}'::jsonb
            and (
                not content ? 'hero'
                or (
                    app.is_text_object(content -> 'hero', '{title}', '{subtitle,image}')
                    and coalesce(app.is_link(content #>> '{hero,image}'), true)
                )
            )
            and (
                not content ? 'whyItMatters'
                or app.is_text_object(content -> 'whyItMatters', '{text}', '{title}')
            )
            and (
                not content ? 'useCases'
                or app.is_text_object_list(content -> 'useCases', '{title}', '{description}')
            )
            and (
                not content ? 'metrics'
                or app.is_text_object_list(content -> 'metrics', '{label,value}', '{description}')
            )
            and (
                not content ? 'process'
                or app.is_text_object_list(content -> 'process', '{title}', '{description}')
            )
            and (
                not content ? 'cta'
                or (
                    app.is_text_object(content -> 'cta', '{label,href}', '{text}')
                    and app.is_link(content #>> '{cta,href}')
                )
            )
    end
$$;
comment on function app.is_service_content(jsonb) is
    'Whether a value has the shape of a service page: hero {title, subtitle?, image?}, '
    'whyItMatters {text, title?}, useCases and process [{title, description?}], metrics [{label, '
    'value, description?}], cta {label, href, text?}; every section optional, nothing else, texts '
    'never blank, image and href are links (app.is_link).';

create table public.services_catalog (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    name text not null
        constraint services_catalog_name_check check (length(btrim(name)) between 2 and 200),
    slug text not null constraint services_catalog_slug_check check (app.is_slug(slug)),
    delivery_type text not null default 'service'
        constraint services_catalog_delivery_type_check
            check (delivery_type in ('service', 'product', 'vertical')),
    tagline text,
    summary text,
    description_markdown text,
    target_audience text,
    cover_image text
        constraint services_catalog_cover_image_check check (app.is_link(cover_image)),
    seo_title text,
    seo_description text,
    content_json jsonb not null default '{}'
        constraint services_catalog_content_json_check check (app.is_service_content(content_json)),
    sort_order integer not null default 0,
    base_price numeric(14, 2)
        constraint services_catalog_base_price_check check (base_price >= 0),
    technical_scope text,
    total_minutes integer not null default 0,
    total_cost numeric(14, 2) not null default 0,
    effective_price numeric(14, 2) not null
        generated always as (coalesce(base_price, total_cost)) stored,
    is_active boolean not null default false,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, slug)
);
comment on table public.services_catalog is
    '[growth] What the company sells. Catalogue lock: active only while linked to at least one '
    'service action that has at least one published playbook. Visitors read active services '
    'through public_services.';
comment on column public.services_catalog.tagline is 'One line under the name on the site.';
comment on column public.services_catalog.content_json is
    'Sections of the service''s page; the shape stands at app.is_service_content.';
comment on column public.services_catalog.base_price is
    'BRL per month, the company''s own price; null = the sum of the actions (effective_price '
    'decides). Never public.';
comment on column public.services_catalog.technical_scope is
    'How the service is delivered. Never public.';
comment on column public.services_catalog.total_minutes is
    'Sum of total_minutes over the linked service actions; derived, not writable.';
comment on column public.services_catalog.total_cost is
    'Sum of total_cost over the linked service actions, in BRL; derived, not writable. Never '
    'public.';
comment on column public.services_catalog.effective_price is
    'Price to quote, in BRL: base_price, else total_cost. Never public.';
create index services_catalog_active_idx on public.services_catalog (org_id, sort_order, name)
where is_active;

create table public.services_catalog_actions (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    service_id uuid not null,
    service_action_id uuid not null,
    sort_order integer not null default 0,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    primary key (org_id, id),
    unique (org_id, service_id, service_action_id),
    foreign key (org_id, service_id) references public.services_catalog (org_id, id)
    on delete cascade,
    foreign key (org_id, service_action_id) references public.service_actions (org_id, id)
    on delete cascade
);
comment on table public.services_catalog_actions is
    '[growth] The service actions a service of the catalogue consists of, in order.';
create index services_catalog_actions_service_action_id_idx
on public.services_catalog_actions (org_id, service_action_id);

create table app.catalogue_checks (
    org_id uuid primary key references public.organizations (id) on delete cascade,
    checks bigint not null default 1
);
comment on table app.catalogue_checks is
    '[growth] One row per organisation, written by every check of the catalogue lock: two '
    'transactions that would together break it queue here, at every isolation level.';

create table public.success_cases (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    title text not null
        constraint success_cases_title_check check (length(btrim(title)) between 2 and 200),
    slug text not null constraint success_cases_slug_check check (app.is_slug(slug)),
    client_id uuid,
    contract_id uuid,
    public_client_name text
        constraint success_cases_public_client_name_check check (public_client_name ~ '\S'),
    client_consented_on date,
    raw_data text,
    summary text,
    content_markdown text,
    cover_image text
        constraint success_cases_cover_image_check check (app.is_link(cover_image)),
    is_published boolean not null default false,
    published_at timestamptz,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, slug),
    foreign key (org_id, client_id) references public.clients (org_id, id)
    on delete set null (client_id),
    foreign key (org_id, contract_id) references public.contracts (org_id, id)
    on delete set null (contract_id),
    constraint success_cases_consent_check
        check (public_client_name is null or client_consented_on is not null),
    constraint success_cases_published_check
        check (
            not is_published
            or (
                published_at is not null
                and coalesce(summary, '') ~ '\S' and coalesce(content_markdown, '') ~ '\S'
            )
        )
);
comment on table public.success_cases is
    '[growth] Success cases. Visitors read published ones through published_cases, without '
    'raw_data, contract and client.';
comment on column public.success_cases.public_client_name is
    'How the site names the client; null = anonymous. Needs the day of his consent.';
comment on column public.success_cases.client_consented_on is
    'Day the client allowed to be named; null = he has not.';
comment on column public.success_cases.raw_data is
    '[pii] Notes the case is written from. Never public.';
comment on column public.success_cases.published_at is
    'First publication; never changes. Null = never published.';
create index success_cases_client_id_idx on public.success_cases (org_id, client_id);
create index success_cases_contract_id_idx on public.success_cases (org_id, contract_id);
create index success_cases_published_idx on public.success_cases (org_id, published_at desc)
where is_published;

create table public.public_posts (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    title text not null
        constraint public_posts_title_check check (length(btrim(title)) between 2 and 200),
    slug text not null constraint public_posts_slug_check check (app.is_slug(slug)),
    excerpt text,
    content_markdown text not null default '',
    cover_image text
        constraint public_posts_cover_image_check check (app.is_link(cover_image)),
    tags text[] not null default '{}',
    author_id uuid references public.profiles (id) on delete set null,
    case_id uuid,
    status text not null default 'draft'
        constraint public_posts_status_check check (status in ('draft', 'scheduled', 'published')),
    publish_at timestamptz,
    published_at timestamptz,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, slug),
    unique (org_id, case_id),
    foreign key (org_id, case_id) references public.success_cases (org_id, id)
    on delete set null (case_id),
    constraint public_posts_scheduled_check
        check (status <> 'scheduled' or publish_at is not null),
    constraint public_posts_published_check
        check (status <> 'published' or (published_at is not null and content_markdown ~ '\S'))
);
comment on table public.public_posts is
    '[growth] Blog posts. Visitors read published ones through published_posts. A scheduled post '
    'is published by app.publish_scheduled_posts.';
comment on column public.public_posts.case_id is
    'The success case the post was drafted from (case_to_post); null = none.';
comment on column public.public_posts.publish_at is 'When a scheduled post becomes public.';
comment on column public.public_posts.published_at is
    'First publication; set once, never changed, kept when the post is withdrawn. Null = never '
    'published.';
create index public_posts_author_id_idx on public.public_posts (org_id, author_id);
create index public_posts_author_idx on public.public_posts (author_id);
create index public_posts_published_idx on public.public_posts (org_id, published_at desc)
where status = 'published';
create index public_posts_scheduled_idx on public.public_posts (publish_at)
where status = 'scheduled';

create table public.static_pages (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    slug text not null
        constraint static_pages_slug_check
            check (
                slug in ('privacidade', 'termos', 'lgpd', 'cookies', 'compliance', 'certificacoes')
            ),
    title text not null
        constraint static_pages_title_check check (length(btrim(title)) between 2 and 200),
    content_markdown text not null default '',
    is_published boolean not null default false,
    published_at timestamptz,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, slug),
    constraint static_pages_published_check
        check (not is_published or (published_at is not null and content_markdown ~ '\S'))
);
comment on table public.static_pages is
    '[growth] Fixed pages of the site. Visitors read published ones through published_pages.';
comment on column public.static_pages.published_at is
    'First publication; never changes. Null = never published.';

create table public.brand_assets (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    name text not null
        constraint brand_assets_name_check check (length(btrim(name)) between 2 and 200),
    kind text not null
        constraint brand_assets_kind_check
            check (kind in ('logo', 'colour', 'font', 'image', 'template', 'guideline', 'tone')),
    content text,
    storage_path text,
    usage_notes text,
    sort_order integer not null default 0,
    is_current boolean not null default true,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, kind, name),
    constraint brand_assets_content_check check (num_nonnulls(content, storage_path) > 0),
    constraint brand_assets_colour_check
        check (kind <> 'colour' or coalesce(content, '') ~ '^#[0-9a-fA-F]{6}$')
);
comment on table public.brand_assets is
    '[growth] The brand: logos, colours, fonts, templates, guidelines, tone of voice.';
comment on column public.brand_assets.content is
    'The asset itself where it is text: #rrggbb, a font''s name, a guideline.';
comment on column public.brand_assets.storage_path is
    'Path of the file in the bucket os-assets; null = text only.';
comment on column public.brand_assets.is_current is
    'False = kept for the record, no longer to be used.';

-- 2. Functions: totals and catalogue lock

create function app.lock_service_action() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    perform from public.service_actions as a
    where a.org_id = new.org_id and a.id = new.service_action_id
    for share;
    return new;
end;
$$;
comment on function app.lock_service_action() is
    'Trigger: who links an action and who changes its totals wait for each other, so that the one '
    'who comes second sees the other. Definer: linking needs no right to the action.';

create function app.derive_service_totals() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_minutes integer;
    v_cost numeric;
begin
    -- Runs with the service's row locked, and each statement sees what is committed by then:
    -- two writers of different actions of one service cannot lose each other's part.
    select coalesce(sum(a.total_minutes), 0), coalesce(sum(a.total_cost), 0) into v_minutes, v_cost
    from public.services_catalog_actions as l
    inner join public.service_actions as a on l.org_id = a.org_id and l.service_action_id = a.id
    where l.org_id = new.org_id and l.service_id = new.id;
    if
        new.total_minutes not in (v_minutes, coalesce(old.total_minutes, 0))
        or new.total_cost not in (v_cost, coalesce(old.total_cost, 0))
    then
        perform app.raise_error(
            'totals_are_derived',
            format('The actions of service %s add up to other totals.', new.name),
            'Leave total_minutes and total_cost out; link other actions, or set base_price.'
        );
    end if;
    new.total_minutes := v_minutes;
    new.total_cost := v_cost;
    return new;
end;
$$;
comment on function app.derive_service_totals() is
    'Trigger: computes a service''s totals from its actions whenever they are written; refuses '
    'totals typed by a caller. Definer: the writer of a service need not be able to read the '
    'actions.';

create function app.refresh_service_totals() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    if tg_table_name = 'services_catalog_actions' then
        update public.services_catalog as s
        set total_minutes = s.total_minutes, total_cost = s.total_cost
        where
            (tg_op <> 'INSERT' and s.org_id = old.org_id and s.id = old.service_id)
            or (tg_op <> 'DELETE' and s.org_id = new.org_id and s.id = new.service_id);
    else
        perform from public.services_catalog as s
        where s.org_id = new.org_id and s.id in (
            select l.service_id from public.services_catalog_actions as l
            where l.org_id = new.org_id and l.service_action_id = new.id
        )
        order by s.id
        for no key update;
        update public.services_catalog as s
        set total_minutes = s.total_minutes, total_cost = s.total_cost
        where s.org_id = new.org_id and s.id in (
            select l.service_id from public.services_catalog_actions as l
            where l.org_id = new.org_id and l.service_action_id = new.id
        );
    end if;
    return null;
end;
$$;
comment on function app.refresh_service_totals() is
    'Trigger: a link or an action''s totals changed; has the totals of the services concerned '
    'computed anew, in key order. Definer: who changes an action need not be able to write '
    'services.';

create function app.check_catalogue() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_org uuid := coalesce(to_jsonb(new) ->> 'org_id', to_jsonb(old) ->> 'org_id')::uuid;
    v_services text;
begin
    -- Queue behind any other transaction that is checking: what it changed is visible once we go on. An
    -- organisation that is being deleted has no row any more, and nothing to check.
    insert into app.catalogue_checks (org_id)
    select o.id from public.organizations as o where o.id = v_org
    on conflict (org_id) do update set checks = catalogue_checks.checks + 1;

    select string_agg(s.name, ', ' order by s.name) into v_services
    from public.services_catalog as s
    where
        s.org_id = v_org and s.is_active and not exists (
            select from public.services_catalog_actions as l
            inner join public.service_action_playbooks as ap
                on l.org_id = ap.org_id and l.service_action_id = ap.service_action_id
            inner join public.playbooks as p on ap.org_id = p.org_id and ap.playbook_id = p.id
            where l.org_id = s.org_id and l.service_id = s.id and p.status = 'published'
        );
    if v_services is not null then
        perform app.raise_error(
            'catalogue_locked',
            format('Active without a published playbook: %s.', v_services),
            'Link a service action with a published playbook, or deactivate the service first.'
        );
    end if;
    return null;
end;
$$;
comment on function app.check_catalogue() is
    'Deferred constraint trigger, on both ends of the catalogue lock: refuses (catalogue_locked) '
    'a transaction that would leave an active service without a published playbook. Definer: it '
    'must see every row of the organisation.';

create function public.set_service_actions(org uuid, service uuid, service_actions uuid[])
returns setof public.services_catalog_actions
language plpgsql
set search_path = ''
as $$
begin
    perform app.require_access(set_service_actions.org, 'growth', 'write');
    perform from public.services_catalog as s
    where s.org_id = set_service_actions.org and s.id = set_service_actions.service
    for no key update;
    if not found then
        perform app.raise_error(
            'service_not_found', format('No service %s.', set_service_actions.service)
        );
    end if;
    delete from public.services_catalog_actions as l
    where
        l.org_id = set_service_actions.org
        and l.service_id = set_service_actions.service
        and l.service_action_id <> all (set_service_actions.service_actions);
    return query
    insert into public.services_catalog_actions as l (
        org_id, service_id, service_action_id, sort_order
    )
    select
        set_service_actions.org, set_service_actions.service, given.id,
        min(given.place)::integer
    from unnest(set_service_actions.service_actions) with ordinality as given (id, place)
    group by given.id
    order by 4
    on conflict (org_id, service_id, service_action_id) do update set sort_order = excluded.sort_order
    returning l.*;
end;
$$;
comment on function public.set_service_actions(uuid, uuid, uuid[]) is
    'Gives a service exactly these service actions, in this order, in one transaction (the '
    'catalogue lock is checked at its end). Returns the links.';

-- 2. Functions: publication

create function app.stamp_publication() returns trigger
language plpgsql
set search_path = ''
as $$
declare
    v_is_public boolean;
begin
    if tg_table_name = 'public_posts' then
        v_is_public := new.status = 'published';
    else
        v_is_public := new.is_published;
    end if;
    if tg_op = 'UPDATE' then
        if old.published_at is not null then
            if new.published_at is distinct from old.published_at then
                perform app.raise_error(
                    'published_at_fixed',
                    format('First published at %s.', old.published_at),
                    'The moment of first publication is never changed.'
                );
            end if;
            return new;
        end if;
    end if;
    if not v_is_public then
        new.published_at := null;
    elsif new.published_at is null or new.published_at > app.now() then
        new.published_at := app.now();
    end if;
    return new;
end;
$$;
comment on function app.stamp_publication() is
    'Trigger: sets published_at at the first publication (an import may give an earlier moment) '
    'and refuses to change it after.';

create function app.org_ids_with_due_posts() returns uuid[]
language sql
stable
set search_path = ''
as $$
    select array(
        select distinct p.org_id
        from public.public_posts as p
        inner join public.organizations as o on p.org_id = o.id
        where p.status = 'scheduled' and p.publish_at <= app.now() and o.status = 'active'
        order by p.org_id
    )
$$;
comment on function app.org_ids_with_due_posts() is
    'Active organisations with a scheduled post whose moment has come.';

create function app.publish_scheduled_posts(org uuid) returns integer
language plpgsql
set search_path = ''
as $$
declare
    v_published integer;
begin
    update public.public_posts as p set status = 'published'
    where
        p.org_id = publish_scheduled_posts.org
        and p.id in (
            select due.id
            from public.public_posts as due
            where
                due.org_id = publish_scheduled_posts.org
                and due.status = 'scheduled' and due.publish_at <= app.now()
            order by due.id
            for no key update skip locked
        );
    get diagnostics v_published = row_count;
    return v_published;
end;
$$;
comment on function app.publish_scheduled_posts(uuid) is
    'Job: publishes the scheduled posts of an organisation whose moment has come; returns how '
    'many. A post someone is editing waits for the next run.';

create function public.case_to_post(success_case uuid) returns public.public_posts
language plpgsql
set search_path = ''
as $$
declare
    v_case public.success_cases;
    v_post public.public_posts;
    v_slug text;
begin
    select c.* into v_case from public.success_cases as c where c.id = success_case;
    if not found then
        perform app.raise_error('case_not_found', format('No success case %s.', success_case));
    end if;
    perform app.require_access(v_case.org_id, 'growth', 'write');
    -- A second call waits here, and then finds the first one's post.
    perform from public.success_cases as c
    where c.org_id = v_case.org_id and c.id = v_case.id
    for no key update;
    select p.* into v_post from public.public_posts as p
    where p.org_id = v_case.org_id and p.case_id = v_case.id;
    if found then
        return v_post;
    end if;
    select candidate.slug into v_slug
    from (
        select v_case.slug as slug, 1 as place
        union all
        select left(v_case.slug, 110) || '-' || n, n from generate_series(2, 999) as n
    ) as candidate
    where not exists (
        select from public.public_posts as p where p.org_id = v_case.org_id and p.slug = candidate.slug
    )
    order by candidate.place
    limit 1;
    insert into public.public_posts (
        org_id, title, slug, excerpt, content_markdown, cover_image, case_id, author_id
    )
    values (
        v_case.org_id, v_case.title, v_slug, v_case.summary,
        concat_ws(E'\n\n', v_case.summary, v_case.content_markdown), v_case.cover_image, v_case.id,
        (select p.id from public.profiles as p where p.id = auth.uid())
    )
    returning * into v_post;
    return v_post;
end;
$$;
comment on function public.case_to_post(uuid) is
    'Drafts a post from a success case (summary and content, never raw_data). Twice gives the '
    'same post.';

create function app.organization_profile(org_slug text) returns jsonb
language sql
stable
security definer
set search_path = ''
as $$
    select jsonb_build_object(
        'id', o.id,
        'name', o.name,
        'slug', o.slug,
        'vertical', o.vertical,
        'locale', o.locale,
        'settings', (
            select coalesce(jsonb_object_agg(d.key, app.org_setting(o.id, d.key)), '{}'::jsonb)
            from app.setting_definitions as d
            where d.key like 'site\_%'
        )
    )
    from public.organizations as o
    where o.slug = organization_profile.org_slug and o.status <> 'inactive'
$$;
comment on function app.organization_profile(text) is
    'Body of get_organization_profile. Definer: visitors cannot read organizations.';

create function public.get_organization_profile(org_slug text) returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
    v_profile jsonb := app.organization_profile(org_slug);
begin
    if v_profile is null then
        perform app.raise_error('organization_not_found', 'No organisation has this address.');
    end if;
    return v_profile;
end;
$$;
comment on function public.get_organization_profile(text) is
    'Public profile of one organisation by its slug, for the site: id (filter the public views '
    'with it), name, slug, vertical, locale and the settings whose key begins with site_. An '
    'inactive organisation answers as an unknown one (organization_not_found); there is no list.';

-- 3. Triggers

create trigger services_catalog_50_totals
before insert or update of total_minutes, total_cost on public.services_catalog
for each row execute function app.derive_service_totals();
create trigger services_catalog_70_emit
after insert or update or delete on public.services_catalog
for each row execute function app.emit_event(
    'growth', 'service', '', 'slug', 'delivery_type', 'is_active'
);

create trigger services_catalog_actions_10_lock
before insert or update of service_action_id on public.services_catalog_actions
for each row execute function app.lock_service_action();
create trigger services_catalog_actions_50_totals
after insert or update or delete on public.services_catalog_actions
for each row execute function app.refresh_service_totals();
create trigger service_actions_51_service_totals
after update on public.service_actions
for each row when (
    old.total_minutes is distinct from new.total_minutes
    or old.total_cost is distinct from new.total_cost
)
execute function app.refresh_service_totals();

create constraint trigger services_catalog_60_catalogue
after insert or update of is_active on public.services_catalog deferrable initially deferred
for each row when (new.is_active) execute function app.check_catalogue();
create constraint trigger services_catalog_actions_60_catalogue
after update or delete on public.services_catalog_actions deferrable initially deferred
for each row execute function app.check_catalogue();
create constraint trigger service_action_playbooks_60_catalogue
after update or delete on public.service_action_playbooks deferrable initially deferred
for each row execute function app.check_catalogue();
create constraint trigger playbooks_60_catalogue
after update of status on public.playbooks deferrable initially deferred
for each row when (old.status = 'published' and new.status <> 'published')
execute function app.check_catalogue();

create trigger success_cases_50_publication
before insert or update on public.success_cases
for each row execute function app.stamp_publication();
create trigger success_cases_70_emit
after insert or update or delete on public.success_cases
for each row execute function app.emit_event('growth', 'case', '', 'slug', 'is_published');

create trigger public_posts_10_guard_author
before insert or update of author_id on public.public_posts
for each row execute function app.guard_member('author_id');
create trigger public_posts_10_guard_status
before update of status on public.public_posts
for each row when (old.status is distinct from new.status)
execute function app.guard_move('post', 'status');
create trigger public_posts_50_publication
before insert or update on public.public_posts
for each row execute function app.stamp_publication();
create trigger public_posts_70_emit
after insert or update or delete on public.public_posts
for each row execute function app.emit_event('growth', 'post', 'status', 'slug', 'case_id');

create trigger static_pages_50_publication
before insert or update on public.static_pages
for each row execute function app.stamp_publication();
create trigger static_pages_70_emit
after insert or update or delete on public.static_pages
for each row execute function app.emit_event('growth', 'page', '', 'slug', 'is_published');

create trigger brand_assets_70_emit
after insert or update or delete on public.brand_assets
for each row execute function app.emit_event('growth', 'brand_asset', '', 'kind', 'is_current');

-- 4. Views: what the site shows

create view public.public_services with (security_invoker = true) as
select
    s.org_id,
    s.id,
    s.name,
    s.slug,
    s.delivery_type,
    s.tagline,
    s.summary,
    s.description_markdown,
    s.target_audience,
    s.cover_image,
    s.seo_title,
    s.seo_description,
    s.content_json,
    s.sort_order
from public.services_catalog as s
where s.is_active;
comment on view public.public_services is
    '[growth] Active services as the site shows them: no price, cost or technical scope. Filter '
    'by org_id (from get_organization_profile). A member sees those of his own organisation.';

create view public.published_posts with (security_invoker = true) as
select
    p.org_id,
    p.id,
    p.title,
    p.slug,
    p.excerpt,
    p.content_markdown,
    p.cover_image,
    p.tags,
    p.published_at
from public.public_posts as p
where p.status = 'published';
comment on view public.published_posts is
    '[growth] Published posts as the site shows them. Filter by org_id.';

create view public.published_cases with (security_invoker = true) as
select
    c.org_id,
    c.id,
    c.title,
    c.slug,
    c.public_client_name,
    c.summary,
    c.content_markdown,
    c.cover_image,
    c.published_at
from public.success_cases as c
where c.is_published;
comment on view public.published_cases is
    '[growth] Published success cases as the site shows them: no raw data; the client is named '
    'only where he has consented. Filter by org_id.';

create view public.published_pages with (security_invoker = true) as
select
    p.org_id,
    p.id,
    p.slug,
    p.title,
    p.content_markdown,
    p.published_at,
    p.updated_at
from public.static_pages as p
where p.is_published;
comment on view public.published_pages is
    '[growth] Published fixed pages of the site. Filter by org_id.';

-- 5. Access

select app.protect_table('public.services_catalog', 'growth', null);
select app.protect_table('public.services_catalog_actions', 'growth', null);
select app.protect_table('public.success_cases', 'growth', null);
select app.protect_table('public.public_posts', 'growth', null);
select app.protect_table('public.static_pages', 'growth', null);
select app.protect_table('public.brand_assets', 'growth', null);

create policy services_catalog_select_public on public.services_catalog for select to anon
using (is_active and org_id <> all((select app.inactive_org_ids())::uuid[]));
create policy public_posts_select_public on public.public_posts for select to anon
using (status = 'published' and org_id <> all((select app.inactive_org_ids())::uuid[]));
create policy success_cases_select_public on public.success_cases for select to anon
using (is_published and org_id <> all((select app.inactive_org_ids())::uuid[]));
create policy static_pages_select_public on public.static_pages for select to anon
using (is_published and org_id <> all((select app.inactive_org_ids())::uuid[]));

grant select (
    org_id, id, name, slug, delivery_type, tagline, summary, description_markdown, target_audience,
    cover_image, seo_title, seo_description, content_json, sort_order, is_active
) on public.services_catalog to anon;
grant select (
    org_id, id, title, slug, excerpt, content_markdown, cover_image, tags, status, published_at
) on public.public_posts to anon;
grant select (
    org_id, id, title, slug, public_client_name, summary, content_markdown, cover_image,
    is_published, published_at
) on public.success_cases to anon;
grant select (
    org_id, id, slug, title, content_markdown, is_published, published_at, updated_at
) on public.static_pages to anon;
grant select
on public.public_services, public.published_posts, public.published_cases, public.published_pages
to anon, authenticated, service_role;

alter table app.catalogue_checks enable row level security;

grant execute on function
app.is_text_object(jsonb, text[], text[]), app.is_text_object_list(jsonb, text[], text[]),
app.is_link(text), app.is_service_content(jsonb)
to authenticated, service_role;
grant execute on function
public.set_service_actions(uuid, uuid, uuid[]), public.case_to_post(uuid)
to authenticated, service_role;
grant execute on function app.org_ids_with_due_posts(), app.publish_scheduled_posts(uuid)
to service_role;
grant execute on function app.organization_profile(text), public.get_organization_profile(text)
to anon, authenticated, service_role;

-- 6. Reference rows

insert into app.error_keys (key, http, meaning) values
('catalogue_locked', 422, 'An active service would be left without a published playbook.'),
('service_not_found', 404, 'There is no such service in the catalogue.'),
('case_not_found', 404, 'There is no such success case.'),
('organization_not_found', 404, 'No organisation has this address.'),
('published_at_fixed', 422, 'The moment of first publication cannot be changed.'),
('post_move_refused', 409, 'A post cannot go from its state to the one asked for.');

insert into app.setting_definitions (key, kind, minimum, maximum, default_value, description) values
('site_tagline', 'text', null, 200, '""', 'Line under the company''s name on its site. Public.'),
('site_email', 'text', null, 254, '""', 'Contact address shown on the site. Public.'),
('site_phone', 'text', null, 30, '""', 'Telephone shown on the site. Public.'),
('site_address', 'text', null, 300, '""', 'Address shown on the site. Public.'),
('site_url', 'text', null, 200, '""', 'Address of the site itself. Public.'),
('site_linkedin_url', 'text', null, 200, '""', 'The company''s LinkedIn page. Public.');

insert into app.allowed_moves (machine, from_state, to_state) values
('public_posts', 'draft', 'scheduled'),
('public_posts', 'draft', 'published'),
('public_posts', 'scheduled', 'draft'),
('public_posts', 'scheduled', 'published'),
('public_posts', 'published', 'draft');

insert into app.event_types (module, event_type, description, payload_keys) values
('growth', 'service.created', 'A service was added.', '{slug,delivery_type,is_active}'),
('growth', 'service.updated', 'A service changed.', '{slug,delivery_type,is_active,changed}'),
('growth', 'service.deleted', 'A service was removed.', '{slug,delivery_type,is_active}'),
('growth', 'case.created', 'A success case was written.', '{slug,is_published}'),
('growth', 'case.updated', 'A success case changed.', '{slug,is_published,changed}'),
('growth', 'case.deleted', 'A success case was removed.', '{slug,is_published}'),
('growth', 'post.created', 'A post was written.', '{slug,case_id,status}'),
('growth', 'post.draft', 'A post was withdrawn to draft.', '{slug,case_id,status,changed}'),
('growth', 'post.scheduled', 'A post was scheduled.', '{slug,case_id,status,changed}'),
('growth', 'post.published', 'A post was published.', '{slug,case_id,status,changed}'),
('growth', 'post.updated', 'A post changed.', '{slug,case_id,status,changed}'),
('growth', 'post.deleted', 'A post was removed.', '{slug,case_id,status}'),
('growth', 'page.created', 'A fixed page was written.', '{slug,is_published}'),
('growth', 'page.updated', 'A fixed page changed.', '{slug,is_published,changed}'),
('growth', 'page.deleted', 'A fixed page was removed.', '{slug,is_published}'),
('growth', 'brand_asset.created', 'A brand asset was added.', '{kind,is_current}'),
('growth', 'brand_asset.updated', 'A brand asset changed.', '{kind,is_current,changed}'),
('growth', 'brand_asset.deleted', 'A brand asset was removed.', '{kind,is_current}');
