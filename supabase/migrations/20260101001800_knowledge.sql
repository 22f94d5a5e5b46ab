-- Knowledge: what the company has written, cut into passages that search finds and answers cite.
-- Depends on: core access, jobs, ops_playbooks, growth_site, gov (its sources).
-- Asked for by: ai design §1; AuZap knowledge_base, ness.OS document_embeddings, Somos
-- collections.

-- 0. Extension: a hosted project has it to be switched on

create extension if not exists vector with schema extensions;

-- 1. Tables

create table public.knowledge_questions (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    question text not null
        constraint knowledge_questions_question_check
            check (length(btrim(question)) between 3 and 500),
    answer_markdown text not null
        constraint knowledge_questions_answer_markdown_check
            check (length(btrim(answer_markdown)) between 1 and 20000),
    audience text not null default 'internal'
        constraint knowledge_questions_audience_check check (audience in ('internal', 'public')),
    tags text[] not null default '{}',
    is_active boolean not null default true,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id)
);
comment on table public.knowledge_questions is
    '[knowledge] Questions people ask and the answer the company gives; each is a document of its '
    'own. Visitors meet those of audience public in search and chat only.';

create table public.knowledge_files (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    title text not null
        constraint knowledge_files_title_check check (length(btrim(title)) between 1 and 200),
    file_name text not null
        constraint knowledge_files_file_name_check
            check (file_name ~* '\.(md|txt|pdf)$' and length(file_name) <= 200),
    content_text text not null
        constraint knowledge_files_content_text_check
            check (content_text ~ '\S' and length(content_text) <= 2000000),
    module text not null default 'ops',
    audience text not null default 'internal'
        constraint knowledge_files_audience_check check (audience in ('internal', 'public')),
    scope text not null generated always as (
        org_id::text || '/' || case audience when 'public' then 'public' else module end
    ) stored,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, file_name)
);
comment on table public.knowledge_files is
    '[knowledge] Files somebody has given to the knowledge (Markdown, text, PDF), as the text that '
    'was read from them.';
comment on column public.knowledge_files.module is
    'Whoever may read this module of the matrix finds the file, and reads it.';
comment on column public.knowledge_files.scope is
    'What a reader needs, as in knowledge_documents.';
create index knowledge_files_scope_idx on public.knowledge_files (scope);

create table public.knowledge_documents (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    source_type text not null
        constraint knowledge_documents_source_type_check
            check (
                source_type in (
                    'playbook', 'post', 'case', 'service', 'policy', 'page', 'qa', 'file'
                )
            ),
    source_id uuid not null,
    title text not null,
    url text,
    module text not null,
    audience text not null
        constraint knowledge_documents_audience_check check (audience in ('internal', 'public')),
    scope text not null generated always as (
        org_id::text || '/' || case audience when 'public' then 'public' else module end
    ) stored,
    version integer not null default 1,
    content_hash text not null,
    indexed_hash text,
    indexed_at timestamptz,
    embedding_model text,
    status text not null default 'pending'
        constraint knowledge_documents_status_check
            check (status in ('pending', 'indexed', 'failed', 'withdrawn')),
    error text constraint knowledge_documents_error_check check (length(error) <= 500),
    created_at timestamptz not null default app.now(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, source_type, source_id)
);
comment on table public.knowledge_documents is
    '[knowledge] What search covers: one row per published source, kept true by triggers on the '
    'sources. Withdrawn: no longer published; search forgets it in the same transaction.';
comment on column public.knowledge_documents.source_id is 'Row of the source''s table.';
comment on column public.knowledge_documents.url is
    'Path of the source on the site; null for what only members read.';
comment on column public.knowledge_documents.scope is
    'What a reader needs: organisation/module of the matrix, or organisation/public.';
comment on column public.knowledge_documents.content_hash is
    'SHA-256 of the current title and text; an index of another hash is out of date.';
comment on column public.knowledge_documents.indexed_hash is
    'content_hash the passages were cut from; null = never indexed.';
comment on column public.knowledge_documents.indexed_at is
    'When passages were last stored; while somebody edits, that happens once a minute.';
comment on column public.knowledge_documents.embedding_model is
    'Model of the passages'' vectors; null = text search only.';
comment on column public.knowledge_documents.error is
    'Why the last attempt failed; the text may be found all the same.';
create index knowledge_documents_scope_idx on public.knowledge_documents (scope);
create index knowledge_documents_stale_idx on public.knowledge_documents (updated_at)
where status in ('pending', 'failed');

create table app.knowledge_versions (
    org_id uuid not null,
    document_id uuid not null,
    version integer not null,
    content text not null,
    content_hash text not null,
    created_at timestamptz not null default app.now(),
    primary key (org_id, document_id, version),
    foreign key (org_id, document_id) references public.knowledge_documents (org_id, id)
    on delete cascade
);
comment on table app.knowledge_versions is
    '[knowledge] The exact texts of a document, which citations are checked against. Nobody reads '
    'them over REST: a withdrawn text stays here for the answers that cited it.';

create table public.knowledge_chunks (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    document_id uuid not null,
    version integer not null,
    ordinal integer not null,
    heading_path text not null default '',
    content text not null,
    start_char integer not null
        constraint knowledge_chunks_start_char_check check (start_char >= 0),
    end_char integer not null,
    scope text not null,
    tsv tsvector not null,
    embedding extensions.halfvec(1536),
    primary key (org_id, id),
    unique (org_id, document_id, ordinal),
    foreign key (org_id, document_id) references public.knowledge_documents (org_id, id)
    on delete cascade,
    constraint knowledge_chunks_place_check check (end_char > start_char)
);
comment on table public.knowledge_chunks is
    '[knowledge] Passages of the current version of each document, as search returns them. '
    'Written by the index job only.';
comment on column public.knowledge_chunks.heading_path is
    'Headings the passage stands under, joined by " › ".';
comment on column public.knowledge_chunks.content is
    'Exactly characters start_char to end_char (from 0, end excluded) of the version''s text.';
comment on column public.knowledge_chunks.scope is 'Scope of the document.';
comment on column public.knowledge_chunks.tsv is
    'Portuguese full text without accents: title A, headings B, content C.';
comment on column public.knowledge_chunks.embedding is
    'Unit vector of the passage; null where no provider of embeddings is connected.';
-- Text and its vector of words stay in the row, unpacked; only the embedding lies outside.
alter table public.knowledge_chunks set (toast_tuple_target = 4080);
create index knowledge_chunks_scope_idx on public.knowledge_chunks (scope);
create index knowledge_chunks_tsv_idx on public.knowledge_chunks using gin (tsv);
create index knowledge_chunks_embedding_idx on public.knowledge_chunks
using hnsw (embedding extensions.halfvec_cosine_ops) with (ef_construction = 128);

-- 2. Functions: from the sources to documents

create function app.knowledge_source(source_type text, org uuid, source uuid)
returns table (title text, url text, module text, audience text, content text)
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    case knowledge_source.source_type
        when 'playbook' then return query
            select
                p.title, null::text, 'ops', 'internal',
                p.content_markdown || coalesce(E'\n\n## Etapas\n\n' || (
                    select string_agg(
                        t.sort_order || '. ' || t.title || coalesce(': ' || t.description, ''),
                        E'\n' order by t.sort_order
                    )
                    from public.playbook_tasks as t
                    where t.org_id = p.org_id and t.playbook_id = p.id
                ), '')
            from public.playbooks as p
            where
                p.org_id = knowledge_source.org and p.id = knowledge_source.source
                and p.status = 'published';
        when 'post' then return query
            select
                p.title, '/blog/' || p.slug, 'growth', 'public',
                concat_ws(E'\n\n', p.excerpt, p.content_markdown)
            from public.public_posts as p
            where
                p.org_id = knowledge_source.org and p.id = knowledge_source.source
                and p.status = 'published';
        when 'case' then return query
            select
                c.title, '/casos/' || c.slug, 'growth', 'public',
                concat_ws(E'\n\n', c.summary, c.content_markdown)
            from public.success_cases as c
            where
                c.org_id = knowledge_source.org and c.id = knowledge_source.source
                and c.is_published;
        when 'service' then return query
            select
                s.name, '/solucoes/' || s.slug, 'growth', 'public',
                concat_ws(
                    E'\n\n', s.tagline, s.summary, s.description_markdown, s.target_audience,
                    (
                        select string_agg(leaf.value #>> '{}', E'\n\n' order by leaf.place)
                        from jsonb_path_query(s.content_json, 'strict $.**') with ordinality
                            as leaf (value, place)
                        where
                            jsonb_typeof(leaf.value) = 'string'
                            and not app.is_link(leaf.value #>> '{}')
                    )
                )
            from public.services_catalog as s
            where
                s.org_id = knowledge_source.org and s.id = knowledge_source.source
                and s.is_active;
        when 'policy' then return query
            select
                p.title, null::text, 'gov', 'internal',
                concat_ws(E'\n\n', nullif(p.summary, ''), p.content_markdown)
            from public.current_policies as p
            where p.org_id = knowledge_source.org and p.policy_id = knowledge_source.source;
        when 'page' then return query
            select p.title, '/' || p.slug, 'growth', 'public', p.content_markdown
            from public.static_pages as p
            where
                p.org_id = knowledge_source.org and p.id = knowledge_source.source
                and p.is_published;
        when 'qa' then return query
            select q.question, null::text, 'knowledge', q.audience, q.answer_markdown
            from public.knowledge_questions as q
            where
                q.org_id = knowledge_source.org and q.id = knowledge_source.source
                and q.is_active;
        when 'file' then return query
            select f.title, null::text, f.module, f.audience, f.content_text
            from public.knowledge_files as f
            where f.org_id = knowledge_source.org and f.id = knowledge_source.source;
    end case;
end;
$$;
comment on function app.knowledge_source(text, uuid, uuid) is
    'A source as search may know it: title, path on the site, who may read it, text in Markdown. '
    'No row while it is not published.';

create function app.refresh_knowledge_document(source_type text, org uuid, source uuid)
returns void
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_source record;
    v_hash text;
    v_old public.knowledge_documents;
    v_new public.knowledge_documents;
begin
    select * into v_old from public.knowledge_documents as d
    where
        d.org_id = refresh_knowledge_document.org
        and d.source_type = refresh_knowledge_document.source_type
        and d.source_id = refresh_knowledge_document.source
    for no key update;
    select * into v_source
    from app.knowledge_source(
        refresh_knowledge_document.source_type, refresh_knowledge_document.org,
        refresh_knowledge_document.source
    );
    if not found or v_source.content !~ '\S' then
        if v_old.status <> 'withdrawn' then
            update public.knowledge_documents as d
            set
                status = 'withdrawn', indexed_hash = null, indexed_at = null,
                embedding_model = null, error = null
            where d.org_id = v_old.org_id and d.id = v_old.id;
            delete from public.knowledge_chunks as c
            where c.org_id = v_old.org_id and c.document_id = v_old.id;
        end if;
        return;
    end if;
    v_hash := app.text_hash(v_source.title || E'\n' || v_source.content);
    insert into public.knowledge_documents as d (
        org_id, source_type, source_id, title, url, module, audience, content_hash
    ) values (
        refresh_knowledge_document.org, refresh_knowledge_document.source_type,
        refresh_knowledge_document.source, v_source.title, v_source.url, v_source.module,
        v_source.audience, v_hash
    )
    on conflict on constraint knowledge_documents_org_id_source_type_source_id_key do update
    set
        title = excluded.title, url = excluded.url, module = excluded.module,
        audience = excluded.audience, content_hash = excluded.content_hash,
        version = d.version + (d.content_hash <> excluded.content_hash)::integer,
        status = case
            when d.indexed_hash = excluded.content_hash then 'indexed' else 'pending'
        end,
        error = null
    where
        (d.title, d.url, d.module, d.audience, d.content_hash)
        is distinct from (
            excluded.title, excluded.url, excluded.module, excluded.audience,
            excluded.content_hash
        )
        or d.status = 'withdrawn'
    returning d.* into v_new;
    if v_new.id is null then
        return; -- nothing that search knows has changed
    end if;
    -- What was edited before it was ever indexed was never cited.
    delete from app.knowledge_versions as v
    where
        v.org_id = v_old.org_id and v.document_id = v_old.id and v.version = v_old.version
        and v_old.status = 'pending' and v_old.version < v_new.version
        and not exists (
            select from public.knowledge_chunks as c
            where
                c.org_id = v.org_id and c.document_id = v.document_id and c.version = v.version
        );
    insert into app.knowledge_versions (org_id, document_id, version, content, content_hash)
    values (v_new.org_id, v_new.id, v_new.version, v_source.content, v_hash)
    on conflict do nothing;
    update public.knowledge_chunks as c set scope = v_new.scope
    where c.org_id = v_new.org_id and c.document_id = v_new.id and c.scope <> v_new.scope;
    if v_new.status = 'pending' then
        -- A new text at once; one that is being edited when a minute has gone by
        -- (app.due_knowledge_text).
        perform app.enqueue(
            'knowledge.index',
            jsonb_build_object('document_id', v_new.id, 'content_hash', v_hash),
            v_new.org_id, format('knowledge.index/%s/%s', v_new.id, v_hash),
            case
                when coalesce(v_old.status, 'withdrawn') = 'withdrawn' then interval '0'
                else interval '1 minute'
            end
        );
    end if;
end;
$$;
comment on function app.refresh_knowledge_document(text, uuid, uuid) is
    'Brings the document of a source to what the source says now: new text becomes a version and '
    'a job, an unpublished source is withdrawn with its passages, an unchanged one is left alone.';

create function app.sync_knowledge() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_row jsonb := to_jsonb(case when tg_op = 'DELETE' then old else new end);
    v_old jsonb := case when tg_op = 'UPDATE' then to_jsonb(old) end;
begin
    -- A cascade from the organisation itself takes the documents along.
    if tg_op = 'DELETE' and not exists (
        select from public.organizations as o where o.id = (v_row ->> 'org_id')::uuid
    ) then
        return null;
    end if;
    -- A part waits for whoever publishes the whole, or it would see neither what is published nor
    -- a document, and the document would never say what it has changed.
    if tg_table_name = 'playbook_tasks' then
        perform from public.playbooks as p
        where
            p.org_id = (v_row ->> 'org_id')::uuid
            and p.id in ((v_row ->> tg_argv[1])::uuid, (v_old ->> tg_argv[1])::uuid)
        order by p.id
        for no key update;
    end if;
    perform app.refresh_knowledge_document(
        tg_argv[0], (v_row ->> 'org_id')::uuid, (v_row ->> tg_argv[1])::uuid
    );
    if v_old ->> tg_argv[1] <> v_row ->> tg_argv[1] then
        perform app.refresh_knowledge_document(
            tg_argv[0], (v_old ->> 'org_id')::uuid, (v_old ->> tg_argv[1])::uuid
        );
    end if;
    return null;
end;
$$;
comment on function app.sync_knowledge() is
    'Trigger (source type, column with the source''s id): keeps the document of a source.';

-- 2. Functions: indexing

create function app.store_knowledge_chunks(
    org uuid, document uuid, content_hash text, model text, chunks jsonb
) returns boolean
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_document public.knowledge_documents;
begin
    update public.knowledge_documents as d
    set
        status = 'indexed', indexed_hash = d.content_hash, indexed_at = app.now(),
        embedding_model = store_knowledge_chunks.model, error = null
    where
        d.org_id = store_knowledge_chunks.org and d.id = store_knowledge_chunks.document
        and d.content_hash = store_knowledge_chunks.content_hash and d.status <> 'withdrawn'
    returning d.* into v_document;
    if v_document.id is null then
        return false;
    end if;
    delete from public.knowledge_chunks as c
    where c.org_id = v_document.org_id and c.document_id = v_document.id;
    insert into public.knowledge_chunks (
        org_id, document_id, version, ordinal, heading_path, content, start_char, end_char, scope,
        tsv, embedding
    )
    select
        v_document.org_id, v_document.id, v_document.version, given.ordinal, given.heading_path,
        substr(v.content, given.start_char + 1, given.end_char - given.start_char),
        given.start_char, given.end_char, v_document.scope,
        setweight(to_tsvector('portuguese', app.normalize(v_document.title)), 'A')
        || setweight(to_tsvector('portuguese', app.normalize(given.heading_path)), 'B')
        || setweight(
            to_tsvector(
                'portuguese',
                app.normalize(
                    substr(v.content, given.start_char + 1, given.end_char - given.start_char)
                )
            ),
            'C'
        ),
        given.embedding
    from app.knowledge_versions as v
    cross join lateral jsonb_to_recordset(store_knowledge_chunks.chunks) as given (
        ordinal integer, heading_path text, start_char integer, end_char integer,
        embedding extensions.halfvec
    )
    where
        v.org_id = v_document.org_id and v.document_id = v_document.id
        and v.version = v_document.version;
    return true;
end;
$$;
comment on function app.store_knowledge_chunks(uuid, uuid, text, text, jsonb) is
    'Replaces the passages of a document by [{ordinal, heading_path, start_char, end_char, '
    'embedding}] cut from the text with this hash. False, and nothing changed, when the text is '
    'another by now or the document was withdrawn.';

create function app.fail_knowledge_document(
    org uuid, document uuid, content_hash text, error text
) returns void
language sql
security definer
set search_path = ''
as $$
    update public.knowledge_documents as d
    set status = 'failed', error = left(fail_knowledge_document.error, 500)
    where
        d.org_id = fail_knowledge_document.org and d.id = fail_knowledge_document.document
        and d.content_hash = fail_knowledge_document.content_hash and d.status <> 'withdrawn'
$$;
comment on function app.fail_knowledge_document(uuid, uuid, text, text) is
    'Notes why a text could not be indexed, for members to read: the caller leaves out what is '
    'internal. Nothing changes when the text is another by now. The next edit makes it pending.';

create function app.due_knowledge_text(
    org uuid, document uuid, asked_hash text default null, model text default null
) returns table (title text, content text, content_hash text)
language sql
stable
security definer
set search_path = ''
as $$
    select d.title, v.content, d.content_hash
    from public.knowledge_documents as d
    inner join app.knowledge_versions as v
        on v.org_id = d.org_id and v.document_id = d.id and v.version = d.version
    where
        d.org_id = due_knowledge_text.org and d.id = due_knowledge_text.document
        and d.status <> 'withdrawn'
        and (
            d.indexed_hash is distinct from d.content_hash
            or d.embedding_model <> due_knowledge_text.model
            or (d.embedding_model is null and due_knowledge_text.model is not null)
        )
        -- The job of an older text leaves it to the last one's, but not for longer than a minute.
        and (
            due_knowledge_text.asked_hash is null or due_knowledge_text.asked_hash = d.content_hash
            or d.indexed_at is null or d.indexed_at <= app.now() - interval '1 minute'
        )
$$;
comment on function app.due_knowledge_text(uuid, uuid, text, text) is
    'Current text of a document if its passages are to be made now: they are of another text, or '
    'of another model than the given one. asked_hash: the text the job was enqueued for.';

create function app.enqueue_knowledge(org uuid, documents uuid[], model text default null)
returns integer
language sql
security definer
set search_path = ''
as $$
    select app.enqueue_bulk(
        'knowledge.index',
        array_agg(
            jsonb_build_object('document_id', d.id, 'content_hash', d.content_hash) order by d.id
        ),
        enqueue_knowledge.org,
        array_agg(
            concat_ws(
                '/', 'knowledge.index', d.id, d.content_hash,
                case d.indexed_hash when d.content_hash then enqueue_knowledge.model end
            )
            order by d.id
        )
    )
    from public.knowledge_documents as d
    where d.org_id = enqueue_knowledge.org and d.id = any(enqueue_knowledge.documents)
    having count(*) > 0
$$;
comment on function app.enqueue_knowledge(uuid, uuid[], text) is
    'Enqueues the index job of documents as bulk work, each once per text and model. Returns how '
    'many; null for no document.';

create function app.sweep_knowledge(current_model text default null) returns integer
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_org record;
    v_found integer := 0;
begin
    for v_org in
        select few.org_id, array_agg(few.id) as documents
        from (
            select d.org_id, d.id
            from public.knowledge_documents as d
            inner join public.organizations as o on o.id = d.org_id and o.status = 'active'
            where
                (d.status = 'pending' and d.updated_at < app.now() - interval '5 minutes')
                or (d.status = 'failed' and d.updated_at < app.now() - interval '1 day')
                or (
                    d.status = 'indexed'
                    and d.embedding_model is distinct from sweep_knowledge.current_model
                    and sweep_knowledge.current_model is not null
                )
            order by d.updated_at
            limit 1000
        ) as few
        group by few.org_id
        order by few.org_id
    loop
        v_found := v_found
            + app.enqueue_knowledge(v_org.org_id, v_org.documents, sweep_knowledge.current_model);
    end loop;
    return v_found;
end;
$$;
comment on function app.sweep_knowledge(text) is
    'Enqueues, at most 1,000 at a time, documents that wait for their index without a job, that '
    'failed a day ago, or (given the current model) whose vectors are of another. Returns how '
    'many.';

create function app.reset_knowledge(
    org uuid, current_model text default null, everything boolean default false
) returns setof uuid
language sql
security definer
set search_path = ''
as $$
    with reset as (
        update public.knowledge_documents as d
        set
            status = 'pending', error = null,
            indexed_hash = case when not reset_knowledge.everything then d.indexed_hash end
        where
            d.org_id = reset_knowledge.org and d.status <> 'withdrawn'
            and (
                reset_knowledge.everything or d.status in ('pending', 'failed')
                or (
                    reset_knowledge.current_model is not null
                    and d.embedding_model is distinct from reset_knowledge.current_model
                )
            )
        returning d.id
    )

    select r.id from reset as r order by r.id
$$;
comment on function app.reset_knowledge(uuid, text, boolean) is
    'Makes documents pending: those that failed or whose vectors are of another model than the '
    'given one, or all. Returns every pending one; the caller indexes or enqueues them.';

-- 2. Functions: search

create function app.knowledge_query(question text) returns tsquery
language sql
immutable
set search_path = ''
as $$
    -- Any word may match: rank and fusion decide. Asking for all words finds nothing for a sentence.
    select replace(
        plainto_tsquery('portuguese', app.normalize(question))::text, ' & ', ' | '
    )::tsquery
$$;
comment on function app.knowledge_query(text) is
    'A question as a Portuguese full text query in which any word may match.';

create function app.word_query(lexeme text, weight text default '') returns tsquery
language sql
immutable
set search_path = ''
as $$
    select (
        '''' || replace(replace(lexeme, '\', '\\'), '''', '''''') || ''':' || weight
    )::tsquery
$$;
comment on function app.word_query(text, text) is
    'One word of a text vector as a query; weight A: only where it stands in the title.';

create function app.knowledge_fusion(org uuid)
returns table (k numeric, text_weight numeric, vector_weight numeric)
language sql
stable
security definer
set search_path = ''
as $$
    select
        (app.org_setting(org, 'knowledge_rrf_k') #>> '{}')::numeric,
        (app.org_setting(org, 'knowledge_text_weight') #>> '{}')::numeric,
        (app.org_setting(org, 'knowledge_vector_weight') #>> '{}')::numeric
$$;
comment on function app.knowledge_fusion(uuid) is
    'The organisation''s constants of reciprocal rank fusion, which visitors search with too.';

create function app.searchable_scopes(org uuid, audience text) returns text[]
language sql
stable
security definer
set search_path = ''
as $$
    select case
        when searchable_scopes.audience = 'public' or current_setting('role', true) = 'anon'
            then array[org || '/public']
        else array(
            select s.scope from unnest(app.readable_scopes()) as s (scope)
            where s.scope like org || '/%'
        )
    end
$$;
comment on function app.searchable_scopes(uuid, text) is
    'Scopes of one organisation that the caller may search in. A query that names them stays '
    'within the organisation and tells the planner how little of the table that is.';

create function app.nearest_by_walk(
    scopes text[], embedding extensions.halfvec, depth integer
) returns uuid[]
language sql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
set enable_sort = off
set "hnsw.iterative_scan" = relaxed_order
set "hnsw.ef_search" = 100
set "hnsw.max_scan_tuples" = 40000
as $$
    -- The walk passes by other organisations until it has enough, in about the right order.
    with near as materialized (
        select
            c.id, c.embedding operator(extensions.<=>) nearest_by_walk.embedding as distance
        from public.knowledge_chunks as c
        where c.scope = any(nearest_by_walk.scopes)
        order by c.embedding operator(extensions.<=>) nearest_by_walk.embedding
        limit nearest_by_walk.depth
    )

    select coalesce(array_agg(n.id order by n.distance, n.id), '{}') from near as n
$$;
comment on function app.nearest_by_walk(text[], extensions.halfvec, integer) is
    'Passages of the scopes nearest to a vector, nearest first, found by walking the index.';

create function app.nearest_by_scan(
    scopes text[], embedding extensions.halfvec, depth integer
) returns uuid[]
language sql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
    select coalesce(array_agg(near.id order by near.distance, near.id), '{}')
    from (
        select each_one.id, each_one.distance
        from (
            select
                c.id, c.embedding operator(extensions.<=>) nearest_by_scan.embedding as distance
            from public.knowledge_chunks as c
            where c.scope = any(nearest_by_scan.scopes) and c.embedding is not null
            offset 0 -- or the planner might walk the index after all
        ) as each_one
        order by each_one.distance, each_one.id
        limit nearest_by_scan.depth
    ) as near
$$;
comment on function app.nearest_by_scan(text[], extensions.halfvec, integer) is
    'Passages of the scopes nearest to a vector, nearest first, found by looking at each: exact.';

create function app.weigh_words(org uuid, scopes text[], question text, sample_size integer)
returns table (word tsquery, in_title tsquery, share numeric)
language sql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
set enable_sort = off -- the sample comes in the order of the key, not by sorting all there is
as $$
    -- Keys are drawn at random, so the first ones are a fair sample.
    with sample as materialized (
        select c.tsv from public.knowledge_chunks as c
        where c.org_id = weigh_words.org and c.scope = any(weigh_words.scopes)
        order by c.org_id, c.id
        limit weigh_words.sample_size
    ),

    words as materialized (
        select app.word_query(w.lexeme) as anywhere, app.word_query(w.lexeme, 'A') as in_title
        from unnest(to_tsvector('portuguese', app.normalize(weigh_words.question))) as w
    )

    select
        w.anywhere, w.in_title,
        coalesce(
            (select avg((s.tsv @@ w.anywhere)::integer) from sample as s), 0
        )
    from words as w
    order by 3, w.anywhere
$$;
comment on function app.weigh_words(uuid, text[], text, integer) is
    'Words of a question, the rarest first, and in which share of a sample of the passages of '
    'these scopes each one stands.';

create function app.telling_words(words tsquery[], shares numeric[], passages bigint, most integer)
returns tsquery
language plpgsql
immutable
set search_path = ''
as $$
declare
    v_number integer;
    v_chosen tsquery := words[1];
    v_share numeric := shares[1];
begin
    for v_number in 2 .. coalesce(cardinality(words), 0) loop
        if v_share * passages > most then
            -- Even the rarest word is too common: the next ones must stand beside it.
            v_chosen := v_chosen && words[v_number];
            v_share := v_share * shares[v_number];
        elsif (v_share + shares[v_number]) * passages > most then
            exit;
        else
            v_chosen := v_chosen || words[v_number];
            v_share := v_share + shares[v_number];
        end if;
    end loop;
    return v_chosen;
end;
$$;
comment on function app.telling_words(tsquery[], numeric[], bigint, integer) is
    'Which words of a question, given the rarest first with their shares, to look for so that no '
    'more than about `most` passages match: in a large organisation the rarest ones only. The '
    'others count when what matched is ranked.';

create function app.knowledge_matches(
    org uuid, audience text, question text, embedding extensions.halfvec, depth integer
) returns table (id uuid, text_rank bigint, vector_rank bigint)
language plpgsql
stable
security definer -- a policy would keep the index of words from being used: @@ is not leakproof
set search_path = ''
set plan_cache_mode = force_custom_plan
rows 50
as $$
#variable_conflict use_column
declare
    v_most constant integer := 500; -- passages of which each is ranked by its words
    v_few constant integer := 1000; -- passages looked at without the index of words
    v_scopes text[] := app.searchable_scopes(org, audience);
    v_passages bigint := (
        select count(*) from (
            select from public.knowledge_chunks as c
            where c.scope = any (v_scopes)
            limit 100000
        ) as counted
    );
    v_all real := (
        select greatest(c.reltuples, 0) from pg_catalog.pg_class as c
        where c.oid = 'public.knowledge_chunks'::regclass
    );
    v_words tsquery[];
    v_in_title tsquery[];
    v_shares numeric[];
    v_telling tsquery;
    v_nearest uuid[] := '{}';
begin
    -- Of n passages among N, the walk meets about depth * N / n before it has enough, each at half
    -- again the price of one looked at: below this many, looking at each is no more work, and exact.
    if embedding is not null and v_passages <= greatest(1000, sqrt(1.5 * depth * v_all)) then
        v_nearest := app.nearest_by_scan(v_scopes, embedding, depth);
    elsif embedding is not null then
        v_nearest := app.nearest_by_walk(v_scopes, embedding, depth);
    end if;
    select
        array_agg(w.word), array_agg(w.in_title), array_agg(w.share)
    into v_words, v_in_title, v_shares
    from app.weigh_words(
        org, v_scopes, question, case when v_passages > v_most then 300 else v_most end
    ) as w;
    v_telling := case
        when v_passages > v_most
            then app.telling_words(v_words, v_shares, v_passages, v_most)
        else app.knowledge_query(question)
    end;
    return query
    -- The index of words knows no organisations: a common word costs what all of them wrote.
    with candidates as materialized (
        select few.id, few.tsv
        from (
            select c.id, c.tsv from public.knowledge_chunks as c
            where c.scope = any (v_scopes)
            offset 0
        ) as few
        where v_passages <= v_few and few.tsv @@ v_telling
        union all
        select c.id, c.tsv from public.knowledge_chunks as c
        where v_passages > v_few and c.scope = any (v_scopes) and c.tsv @@ v_telling
    ),

    -- A word that few passages have says more than one that many have.
    words as materialized (
        select
            w.word, w.in_title,
            ln(1 + ((1 - w.share) * v_passages + 0.5) / (w.share * v_passages + 0.5)) as worth
        from unnest(v_words, v_in_title, v_shares) as w (word, in_title, share)
    ),

    by_text as (
        select ranked.id, row_number() over (order by ranked.rank desc, ranked.id) as place
        from (
            select
                c.id,
                sum(
                    w.worth * (
                        case when c.tsv @@ w.in_title then 1.5 else 1.0 end
                        + ts_rank(c.tsv, w.word, 1)
                    )
                ) as rank
            from candidates as c
            inner join words as w on c.tsv @@ w.word
            group by c.id
            order by rank desc, c.id
            limit depth
        ) as ranked
    )

    select coalesce(t.id, v.id), t.place, v.place
    from by_text as t
    full join unnest(v_nearest) with ordinality as v (id, place) on v.id = t.id;
end;
$$;
comment on function app.knowledge_matches(uuid, text, text, extensions.halfvec, integer) is
    'Passages of the organisation that the caller may read with their places, each up to depth, '
    'by text and by nearness of meaning. Gives keys only; who reads their rows is checked again.';

create function public.search_knowledge(
    p_org uuid,
    p_query text,
    p_embedding extensions.halfvec default null,
    p_limit integer default 8,
    p_audience text default 'internal'
) returns table (
    chunk_id uuid, document_id uuid, title text, url text, source_type text, heading_path text,
    content text, score numeric, text_rank integer, vector_rank integer
)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
#variable_conflict use_column
declare
    v_query text := app.clean_text(p_query, 2000);
    v_k numeric;
    v_text_weight numeric;
    v_vector_weight numeric;
begin
    if v_query is null or p_org is null then
        perform app.raise_error('bad_input', 'p_org and p_query are needed.', null);
    elsif p_audience not in ('internal', 'public') then
        perform app.raise_error('bad_input', 'p_audience is internal or public.', null);
    end if;
    select f.k, f.text_weight, f.vector_weight into v_k, v_text_weight, v_vector_weight
    from app.knowledge_fusion(p_org) as f;
    return query
    with fused as (
        select
            m.id,
            coalesce(v_text_weight / (v_k + m.text_rank), 0)
            + coalesce(v_vector_weight / (v_k + m.vector_rank), 0) as score,
            m.text_rank::integer as text_rank,
            m.vector_rank::integer as vector_rank
        from app.knowledge_matches(
            p_org, p_audience, v_query, p_embedding, least(greatest(p_limit, 32), 50)
        ) as m
    ),

    found as (
        select c.*, f.score, f.text_rank, f.vector_rank
        from fused as f
        cross join lateral (
            select c.id, c.document_id, c.ordinal, c.heading_path, c.content
            from public.knowledge_chunks as c
            where c.org_id = p_org and c.id = f.id
            offset 0 -- one by one by their keys: joined, all of the organisation would be read
        ) as c
    )

    select
        f.id, f.document_id, d.title, d.url, d.source_type, f.heading_path, f.content,
        round(f.score, 6), f.text_rank, f.vector_rank
    from found as f
    inner join public.knowledge_documents as d on d.org_id = p_org and d.id = f.document_id
    -- Neighbours share a sentence and mostly a thought: the better one of a pair stands for both.
    where not exists (
        select from found as g
        where
            g.document_id = f.document_id and abs(g.ordinal - f.ordinal) = 1
            and (g.score, f.ordinal) > (f.score, g.ordinal)
    )
    order by f.score desc, f.id
    limit least(greatest(p_limit, 1), 50);
end;
$$;
comment on function public.search_knowledge(uuid, text, extensions.halfvec, integer, text) is
    'Passages of the organisation''s knowledge that fit a question, best first: reciprocal rank '
    'fusion of Portuguese full text and, given p_embedding, nearness of meaning. Only what the '
    'caller may read; visitors and p_audience public: only what is public. At most 50. Errors: '
    'bad_input.';

-- 3. Triggers

create trigger playbooks_60_knowledge
after insert or update or delete on public.playbooks
for each row execute function app.sync_knowledge('playbook', 'id');
create trigger playbook_tasks_60_knowledge
after insert or update or delete on public.playbook_tasks
for each row execute function app.sync_knowledge('playbook', 'playbook_id');
create trigger public_posts_60_knowledge
after insert or update or delete on public.public_posts
for each row execute function app.sync_knowledge('post', 'id');
create trigger success_cases_60_knowledge
after insert or update or delete on public.success_cases
for each row execute function app.sync_knowledge('case', 'id');
create trigger services_catalog_60_knowledge
after insert or update or delete on public.services_catalog
for each row execute function app.sync_knowledge('service', 'id');
create trigger policies_60_knowledge
after insert or update or delete on public.policies
for each row execute function app.sync_knowledge('policy', 'id');
create trigger policy_versions_60_knowledge
after insert on public.policy_versions
for each row execute function app.sync_knowledge('policy', 'policy_id');
create trigger static_pages_60_knowledge
after insert or update or delete on public.static_pages
for each row execute function app.sync_knowledge('page', 'id');
create trigger knowledge_questions_60_knowledge
after insert or update or delete on public.knowledge_questions
for each row execute function app.sync_knowledge('qa', 'id');
create trigger knowledge_files_60_knowledge
after insert or update or delete on public.knowledge_files
for each row execute function app.sync_knowledge('file', 'id');

create trigger knowledge_questions_70_emit
after insert or update or delete on public.knowledge_questions
for each row execute function app.emit_event('knowledge', 'question', '', 'audience');
create trigger knowledge_files_70_emit
after insert or update or delete on public.knowledge_files
for each row execute function app.emit_event('knowledge', 'file', '', 'file_name', 'audience');

-- 5. Access

select app.protect_table('public.knowledge_questions', 'knowledge', null);
select app.protect_table('public.knowledge_files', 'knowledge', null, '{}');
select app.protect_table('public.knowledge_documents', 'knowledge', null, '{}');
select app.protect_table('public.knowledge_chunks', 'knowledge', null, '{}');
alter table app.knowledge_versions enable row level security;

create policy knowledge_files_select on public.knowledge_files for select to authenticated
using (scope = any((select app.readable_scopes())::text[]));
-- Who could move a file that he may not read to a module that he may would read it.
create policy knowledge_files_insert on public.knowledge_files for insert to authenticated
with check (
    org_id = any((select app.org_ids('knowledge', 'write'))::uuid[])
    and scope = any((select app.readable_scopes())::text[])
);
create policy knowledge_files_update on public.knowledge_files for update to authenticated
using (
    org_id = any((select app.org_ids('knowledge', 'write'))::uuid[])
    and scope = any((select app.readable_scopes())::text[])
)
with check (
    org_id = any((select app.org_ids('knowledge', 'write'))::uuid[])
    and scope = any((select app.readable_scopes())::text[])
);
create policy knowledge_files_delete on public.knowledge_files for delete to authenticated
using (
    org_id = any((select app.org_ids('knowledge', 'write'))::uuid[])
    and scope = any((select app.readable_scopes())::text[])
);
grant select, insert, update, delete on public.knowledge_files to authenticated;

create policy knowledge_documents_select on public.knowledge_documents for select to authenticated
using (scope = any((select app.readable_scopes())::text[]));
create policy knowledge_chunks_select on public.knowledge_chunks for select to authenticated
using (scope = any((select app.readable_scopes())::text[]));
create policy knowledge_documents_select_public on public.knowledge_documents for select to anon
using (
    scope = org_id::text || '/public' and status <> 'withdrawn'
    and org_id <> all((select app.inactive_org_ids())::uuid[])
);
create policy knowledge_chunks_select_public on public.knowledge_chunks for select to anon
using (
    scope = org_id::text || '/public'
    and org_id <> all((select app.inactive_org_ids())::uuid[])
);
grant select on public.knowledge_documents, public.knowledge_chunks to anon, authenticated;

grant execute on function
app.knowledge_fusion(uuid),
app.knowledge_matches(uuid, text, text, extensions.halfvec, integer)
to anon, authenticated, service_role;
grant execute on function
public.search_knowledge(uuid, text, extensions.halfvec, integer, text)
to anon, authenticated, service_role;
grant execute on function
app.store_knowledge_chunks(uuid, uuid, text, text, jsonb),
app.fail_knowledge_document(uuid, uuid, text, text),
app.due_knowledge_text(uuid, uuid, text, text), app.enqueue_knowledge(uuid, uuid[], text),
app.sweep_knowledge(text), app.reset_knowledge(uuid, text, boolean),
app.refresh_knowledge_document(text, uuid, uuid)
to service_role;

-- 6. Reference rows

insert into app.job_types (entrypoint, latency_class, description) values
('knowledge.index', 'low_priority', 'Cuts a document into passages and stores their vectors.'),
('knowledge.sweep', 'low_priority', 'Finds documents whose index is missing or out of date.');

insert into app.setting_definitions (key, kind, minimum, maximum, default_value, description) values
(
    'knowledge_rrf_k', 'number', 1, 1000, '1',
    'Constant k of reciprocal rank fusion: the larger, the less the first places weigh.'
),
(
    'knowledge_text_weight', 'number', 0, 10, '1',
    'Weight of full text in hybrid search.'
),
(
    'knowledge_vector_weight', 'number', 0, 10, '0.25',
    'Weight of nearness of meaning in hybrid search.'
);

insert into app.event_types (module, event_type, description, payload_keys) values
('knowledge', 'question.created', 'A question and answer was added.', '{audience}'),
('knowledge', 'question.updated', 'A question and answer changed.', '{audience,changed}'),
('knowledge', 'question.deleted', 'A question and answer was removed.', '{audience}'),
('knowledge', 'file.created', 'A file was given to the knowledge.', '{file_name,audience}'),
('knowledge', 'file.updated', 'A file of the knowledge changed.', '{file_name,audience,changed}'),
('knowledge', 'file.deleted', 'A file of the knowledge was removed.', '{file_name,audience}');
