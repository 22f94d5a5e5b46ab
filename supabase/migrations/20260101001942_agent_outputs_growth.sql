-- Agents that write for growth: proposals, texts of the catalogue, posts from success cases.
-- Depends on: crm, contracts, growth (site, proposals), agent_outputs.
-- Asked for by: ai design §4 "ness.OS agents to ship", issue 4 §4.

-- 2. Functions: proposals

create function app.proposal_writer_input(org uuid, request jsonb) returns jsonb
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
    v_client uuid := app.input_uuid(request, 'client_id');
    v_lead uuid := app.input_uuid(request, 'lead_id');
    v_party jsonb;
    v_services jsonb;
begin
    if num_nonnulls(v_client, v_lead) <> 1 then
        perform app.raise_error('bad_input', 'A proposal is for a client or for a lead.', null);
    end if;
    select case
        when v_client is not null then (
            select jsonb_build_object(
                -- Whoever has a CPF is a person, and the text does without a person's name.
                'name', case when length(c.document) = 14 then coalesce(c.trade_name, c.name) end,
                'segment', c.segment, 'city', c.address ->> 'city', 'state', c.address ->> 'state'
            )
            from public.clients as c
            where c.org_id = proposal_writer_input.org and c.id = v_client
        )
        else (
            select jsonb_build_object(
                'name', l.company,
                'message', app.hide_names(l.message, app.names_of_person(l.name), '[contato]')
            )
            from public.leads as l
            where l.org_id = proposal_writer_input.org and l.id = v_lead
        )
    end into v_party;
    if v_party is null and v_client is not null then
        perform app.raise_error('client_not_found', 'There is no such client.', null);
    elsif v_party is null then
        perform app.raise_error('lead_not_found', 'There is no such lead.', null);
    end if;
    if jsonb_typeof(request -> 'service_ids') is distinct from 'array'
        or jsonb_array_length(request -> 'service_ids') not between 1 and 20
        or length(request ->> 'notes') > 4000 then
        perform app.raise_error(
            'bad_input', 'A proposal takes 1 to 20 services and notes of at most 4,000 characters.',
            null
        );
    end if;
    select jsonb_agg(
        jsonb_strip_nulls(jsonb_build_object(
            'ref', 'S' || k.place, 'name', s.name, 'tagline', s.tagline, 'summary', s.summary,
            'description', left(s.description_markdown, 3000),
            'technical_scope', left(s.technical_scope, 3000),
            'hours_per_month', nullif(round(s.total_minutes / 60.0, 1), 0),
            'activities', (
                select jsonb_agg(a.title order by l.sort_order, a.title)
                from public.services_catalog_actions as l
                inner join public.service_actions as a
                    on l.org_id = a.org_id and l.service_action_id = a.id
                where l.org_id = s.org_id and l.service_id = s.id
            )
        )) order by k.place
    ) into v_services
    from jsonb_array_elements_text(request -> 'service_ids') with ordinality as k (id, place)
    inner join public.services_catalog as s
        on s.org_id = proposal_writer_input.org and s.id::text = k.id and s.is_active;
    if coalesce(jsonb_array_length(v_services), 0) <> (
        select count(distinct k.id)
        from jsonb_array_elements_text(request -> 'service_ids') as k (id)
    ) or jsonb_array_length(v_services) <> jsonb_array_length(request -> 'service_ids') then
        perform app.raise_error(
            'service_not_found', 'A service is unknown, inactive or named twice.',
            'Choose among the active services.'
        );
    end if;
    return jsonb_build_object(
        'entity', jsonb_build_object(
            'type', case when v_client is not null then 'client' else 'lead' end,
            'id', coalesce(v_client, v_lead)
        ),
        'data', jsonb_strip_nulls(jsonb_build_object(
            'company', app.company_for_agent(org), 'client', v_party, 'services', v_services,
            'notes', nullif(btrim(request ->> 'notes'), '')
        ))
    );
end;
$$;
comment on function app.proposal_writer_input(uuid, jsonb) is
    'Request {client_id or lead_id, service_ids, notes?} as the proposal writer sees it: services '
    'S1, S2 … without prices, the party without a person''s name. Errors: bad_input, '
    'client_not_found, lead_not_found, service_not_found.';

create function app.store_proposal_draft(org uuid, run uuid, output jsonb) returns void
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_suggestion public.agent_suggestions := app.pending_suggestion(org, run);
    v_proposal uuid;
    v_items integer;
    v_dropped text[];
begin
    insert into public.proposals as p (
        org_id, client_id, lead_id, owner_id, title, scope, assumptions
    )
    select
        v_suggestion.org_id, (v_suggestion.request ->> 'client_id')::uuid,
        (v_suggestion.request ->> 'lead_id')::uuid,
        (
            select m.user_id from public.memberships as m
            where m.org_id = v_suggestion.org_id and m.user_id = v_suggestion.created_by
        ),
        app.output_text(output, 'title', 5, 120),
        app.output_text(output, 'scope_markdown', 60, 8000),
        (
            select string_agg(
                format(E'## %s\n\n%s', part.title, part.lines), E'\n\n' order by part.place
            )
            from (
                select
                    heading.place, heading.title,
                    string_agg(
                        '- ' || app.output_text(
                            jsonb_build_object(heading.name, line.value), heading.name, 3, 400
                        ), E'\n' order by line.place
                    ) as lines
                from (
                    values
                    (1, 'assumptions', 'Premissas'), (2, 'exclusions', 'Fora do escopo'),
                    (3, 'terms', 'Condições')
                ) as heading (place, name, title)
                cross join lateral app.output_list(output, heading.name, 0, 12)
                    with ordinality as line (value, place)
                group by heading.place, heading.title
            ) as part
        )
    returning p.id into v_proposal;

    -- What a service costs is filled in by the catalogue; every service asked for is offered.
    insert into public.proposal_items (
        org_id, proposal_id, service_id, description, quantity, sort_order
    )
    select
        v_suggestion.org_id, v_proposal, s.id,
        case when i.value is not null then app.output_text(i.value, 'description', 3, 500) end,
        case
            when i.value is not null then app.output_number(i.value, 'quantity', 0.1, 100) else 1
        end,
        asked.place
    from jsonb_array_elements_text(v_suggestion.request -> 'service_ids')
        with ordinality as asked (id, place)
    inner join public.services_catalog as s
        on s.org_id = v_suggestion.org_id and s.id::text = asked.id
    left join lateral (
        select e as value from app.output_list(output, 'items', 1, 20) as e
        where e ->> 'ref' = 'S' || asked.place
        limit 1
    ) as i on true;
    get diagnostics v_items = row_count;
    if v_items = 0 then
        perform app.raise_error('service_not_found', 'The services were removed.', null);
    end if;

    select array_agg(format('item %s: não está entre os serviços pedidos', left(e ->> 'ref', 20)))
    into v_dropped
    from app.output_list(output, 'items', 1, 20) as e
    where e ->> 'ref' not in (
        select 'S' || place
        from generate_series(1, jsonb_array_length(v_suggestion.request -> 'service_ids')) as place
    );
    perform app.keep_suggestion(
        v_suggestion, output, coalesce(v_dropped, '{}'), 'proposal', v_proposal
    );
end;
$$;
comment on function app.store_proposal_draft(uuid, uuid, jsonb) is
    'Makes the draft of a proposal: texts and quantities of the answer, services as asked for, '
    'prices and hours of the catalogue. Errors: agent_output_invalid, service_not_found.';

create function app.proposal_template(org uuid, request jsonb) returns jsonb
language sql
stable
security definer
set search_path = ''
as $$
    with asked as (
        select k.place, s.name, coalesce(nullif(btrim(s.summary), ''), s.tagline, s.name) as summary
        from jsonb_array_elements_text(request -> 'service_ids') with ordinality as k (id, place)
        inner join public.services_catalog as s
            on s.org_id = proposal_template.org and s.id::text = k.id
    )

    select jsonb_build_object(
        'title', left('Proposta: ' || string_agg(a.name, ', ' order by a.place), 120),
        'scope_markdown', left(
            E'## Objetivo\n\n[Descrever o resultado esperado.]\n\n## O que será feito\n\n'
            || app.without_links(
                string_agg(format('- **%s:** %s', a.name, a.summary), E'\n' order by a.place)
            ), 8000
        ),
        'items', jsonb_agg(
            jsonb_build_object(
                'ref', 'S' || a.place, 'description', left(app.without_links(a.summary), 500),
                'quantity', 1
            ) order by a.place
        ),
        'assumptions', jsonb_build_array(
            'O cliente indica um responsável e dá os acessos necessários antes do início.',
            'Mudanças de escopo são combinadas por escrito.'
        ),
        'exclusions', '[]'::jsonb,
        'terms', jsonb_build_array(
            'Início na data combinada, depois do aceite desta proposta.',
            'Acompanhamento mensal com registro do que foi feito.'
        )
    )
    from asked as a
$$;
comment on function app.proposal_template(uuid, jsonb) is
    'A proposal from the catalogue''s texts, to be completed by a person.';

create function app.apply_proposal(suggestion public.agent_suggestions) returns void
language plpgsql
security definer
set search_path = ''
as $$
begin
    update public.proposals as p set status = 'review'
    where p.org_id = suggestion.org_id and p.id = suggestion.draft_id and p.status = 'draft';
end;
$$;
comment on function app.apply_proposal(public.agent_suggestions) is
    'An accepted proposal goes to review; a person sends it.';

create function public.draft_proposal_with_ai(
    org uuid,
    services uuid[],
    client uuid default null,
    lead uuid default null,
    notes text default null
) returns public.agent_suggestions
language plpgsql
set search_path = ''
as $$
begin
    perform app.require_access(org, 'growth', 'write');
    if client is not null and not exists (
        select from public.clients as c
        where c.org_id = draft_proposal_with_ai.org and c.id = draft_proposal_with_ai.client
    ) then
        perform app.raise_error('client_not_found', 'There is no such client.', null);
    elsif lead is not null and not exists (
        select from public.leads as l
        where l.org_id = draft_proposal_with_ai.org and l.id = draft_proposal_with_ai.lead
    ) then
        perform app.raise_error('lead_not_found', 'There is no such lead.', null);
    end if;
    return app.start_suggestion(org, 'proposal_writer', jsonb_strip_nulls(jsonb_build_object(
        'client_id', client, 'lead_id', lead, 'service_ids', to_jsonb(services), 'notes', notes
    )));
end;
$$;
comment on function public.draft_proposal_with_ai(uuid, uuid[], uuid, uuid, text) is
    'Has an agent write a proposal to a client or a lead for 1 to 20 active services; it becomes a '
    'draft in proposals with the catalogue''s prices. Follow the returned agent_suggestions row. '
    'Errors: not_allowed, client_not_found, lead_not_found, service_not_found, bad_input, '
    'agent_inactive, suggestion_pending.';

-- 2. Functions: texts of the catalogue

create function app.catalogue_copywriter_input(org uuid, request jsonb) returns jsonb
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
    v_data jsonb;
begin
    if length(request ->> 'notes') > 4000 then
        perform app.raise_error('bad_input', 'Notes have at most 4,000 characters.', null);
    end if;
    select jsonb_strip_nulls(jsonb_build_object(
        'company', app.company_for_agent(s.org_id),
        'service', jsonb_build_object(
            'name', s.name, 'kind', s.delivery_type, 'tagline', s.tagline, 'summary', s.summary,
            'description', left(s.description_markdown, 6000),
            'target_audience', s.target_audience, 'page', s.content_json,
            'activities', (
                select jsonb_agg(a.title order by l.sort_order, a.title)
                from public.services_catalog_actions as l
                inner join public.service_actions as a
                    on l.org_id = a.org_id and l.service_action_id = a.id
                where l.org_id = s.org_id and l.service_id = s.id
            )
        ),
        'notes', nullif(btrim(request ->> 'notes'), '')
    )) into v_data
    from public.services_catalog as s
    where
        s.org_id = catalogue_copywriter_input.org
        and s.id = app.input_uuid(request, 'service_id');
    if v_data is null then
        perform app.raise_error('service_not_found', 'There is no such service.', null);
    end if;
    return jsonb_build_object(
        'entity', jsonb_build_object('type', 'service', 'id', request ->> 'service_id'),
        'data', v_data
    );
end;
$$;
comment on function app.catalogue_copywriter_input(uuid, jsonb) is
    'Request {service_id, notes?} as the copywriter sees it: what is public of the service, no '
    'price, cost or technical scope. Errors: bad_input, service_not_found.';

create function app.service_texts(output jsonb)
returns table (
    tagline text, summary text, description_markdown text, target_audience text, seo_title text,
    seo_description text, content jsonb
)
language sql
stable
set search_path = ''
as $$
    select
        app.output_text(output, 'tagline', 3, 120), app.output_text(output, 'summary', 3, 400),
        app.output_text(output, 'description_markdown', 60, 6000),
        app.output_text(output, 'target_audience', 3, 300),
        app.output_text(output, 'seo_title', 3, 60),
        app.output_text(output, 'seo_description', 3, 160),
        jsonb_build_object(
            'hero', jsonb_build_object(
                'title', app.output_text(output, 'hero.title', 3, 120),
                'subtitle', app.output_text(output, 'hero.subtitle', 3, 240)
            ),
            'whyItMatters', jsonb_build_object(
                'title', app.output_text(output, 'why_it_matters.title', 3, 120),
                'text', app.output_text(output, 'why_it_matters.text', 3, 1200)
            ),
            'useCases', (
                select jsonb_agg(jsonb_build_object(
                    'title', app.output_text(e, 'title', 3, 120),
                    'description', app.output_text(e, 'description', 3, 400)
                )) from app.output_list(output, 'use_cases', 1, 6) as e
            ),
            'process', (
                select jsonb_agg(jsonb_build_object(
                    'title', app.output_text(e, 'title', 3, 120),
                    'description', app.output_text(e, 'description', 3, 400)
                )) from app.output_list(output, 'process', 1, 8) as e
            ),
            'cta', jsonb_build_object(
                'label', app.output_text(output, 'call_to_action', 3, 40)
            )
        )
$$;
comment on function app.service_texts(jsonb) is
    'Texts for a service''s page as the catalogue has them; where the button leads and the '
    'image are not the agent''s. Errors: agent_output_invalid.';

create function app.store_service_copy(org uuid, run uuid, output jsonb) returns void
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_suggestion public.agent_suggestions := app.pending_suggestion(org, run);
begin
    perform app.service_texts(output);
    perform app.keep_suggestion(v_suggestion, output);
end;
$$;
comment on function app.store_service_copy(uuid, uuid, jsonb) is
    'Keeps texts for a service''s page; accepting them writes them there. Errors: '
    'agent_output_invalid.';

create function app.apply_service_copy(suggestion public.agent_suggestions) returns void
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_texts record;
begin
    select t.* into v_texts from app.service_texts(suggestion.output) as t;
    update public.services_catalog as s
    set
        tagline = v_texts.tagline, summary = v_texts.summary,
        description_markdown = v_texts.description_markdown,
        target_audience = v_texts.target_audience, seo_title = v_texts.seo_title,
        seo_description = v_texts.seo_description,
        content_json = s.content_json || v_texts.content || jsonb_build_object(
            'hero', (v_texts.content -> 'hero') || jsonb_strip_nulls(
                jsonb_build_object('image', s.content_json #> '{hero,image}')
            ),
            'cta', (v_texts.content -> 'cta') || jsonb_build_object(
                'href', coalesce(s.content_json #>> '{cta,href}', '/contato')
            )
        )
    where s.org_id = suggestion.org_id and s.id = suggestion.entity_id;
    if not found then
        perform app.raise_error('service_not_found', 'The service was removed.', null);
    end if;
end;
$$;
comment on function app.apply_service_copy(public.agent_suggestions) is
    'Accepted texts go into the catalogue; image, address of the button, metrics and all else '
    'stay. Errors: service_not_found.';

create function public.suggest_service_copy(service uuid, notes text default null)
returns public.agent_suggestions
language plpgsql
set search_path = ''
as $$
declare
    v_org uuid := (
        select s.org_id from public.services_catalog as s where s.id = suggest_service_copy.service
    );
begin
    if v_org is null then
        perform app.raise_error('service_not_found', 'There is no such service.', null);
    end if;
    perform app.require_access(v_org, 'growth', 'write');
    return app.start_suggestion(v_org, 'catalogue_copywriter', jsonb_strip_nulls(
        jsonb_build_object('service_id', service, 'notes', notes)
    ));
end;
$$;
comment on function public.suggest_service_copy(uuid, text) is
    'Has an agent write the texts of a service''s page; accepted, they replace those of the '
    'catalogue. Price, image, button address and is_active stay. Errors: not_allowed, '
    'service_not_found, bad_input, agent_inactive, suggestion_pending.';

-- 2. Functions: posts

create function app.case_names(org uuid, success_case uuid) returns text[]
language sql
stable
security definer
set search_path = ''
as $$
    select array_remove(array[k.name, k.trade_name], null)
    from public.success_cases as c
    inner join public.clients as k on c.org_id = k.org_id and c.client_id = k.id
    where
        c.org_id = case_names.org and c.id = case_names.success_case
        and c.public_client_name is null
$$;
comment on function app.case_names(uuid, uuid) is
    'Names a text made from the case must not hold: those of a client who has not agreed to be '
    'named.';

create function app.case_to_post_input(org uuid, request jsonb) returns jsonb
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
    v_case public.success_cases;
    v_names text[];
begin
    select c.* into v_case from public.success_cases as c
    where c.org_id = case_to_post_input.org and c.id = app.input_uuid(request, 'case_id');
    if v_case.id is null then
        perform app.raise_error('case_not_found', 'There is no such success case.', null);
    elsif concat(v_case.raw_data, v_case.summary, v_case.content_markdown) !~ '\S' then
        perform app.raise_error(
            'case_empty', 'The case holds no notes, summary or text to write from.',
            'Write down what happened in raw_data.'
        );
    elsif exists (
        select from public.public_posts as p
        where p.org_id = case_to_post_input.org and p.case_id = v_case.id
    ) then
        perform app.raise_error(
            'case_has_post', 'There is a post of this case.',
            'Edit that post, or delete its draft to have another one written.'
        );
    end if;
    v_names := coalesce(app.case_names(org, v_case.id), '{}');
    return jsonb_build_object(
        'entity', jsonb_build_object('type', 'case', 'id', v_case.id),
        'data', jsonb_strip_nulls(jsonb_build_object(
            'company', app.company_for_agent(org),
            'client_name', v_case.public_client_name,
            'title', app.hide_names(v_case.title, v_names, '[cliente]'),
            'notes', app.hide_names(left(v_case.raw_data, 20000), v_names, '[cliente]'),
            'summary', app.hide_names(v_case.summary, v_names, '[cliente]'),
            'text', app.hide_names(left(v_case.content_markdown, 20000), v_names, '[cliente]')
        ))
    );
end;
$$;
comment on function app.case_to_post_input(uuid, jsonb) is
    'Request {case_id} as the writer of posts sees it; the client''s name is hidden unless he has '
    'agreed to be named. Errors: bad_input, case_not_found, case_empty, case_has_post.';

create function app.store_case_post(org uuid, run uuid, output jsonb) returns void
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_suggestion public.agent_suggestions := app.pending_suggestion(org, run);
    v_name text;
    v_post uuid;
begin
    foreach v_name in array coalesce(app.case_names(org, v_suggestion.entity_id), '{}') loop
        if length(v_name) >= 3
            and position(app.normalize(v_name) in app.normalize(output::text)) > 0 then
            perform app.raise_error(
                'agent_output_invalid', 'The post names a client who has not agreed to be named.',
                'Nothing was stored.'
            );
        end if;
    end loop;
    insert into public.public_posts as p (
        org_id, title, slug, excerpt, content_markdown, cover_image, tags, case_id, author_id
    )
    select
        c.org_id, app.output_text(output, 'title', 2, 120),
        app.free_slug(
            c.slug,
            array(select q.slug from public.public_posts as q where q.org_id = c.org_id)
        ),
        app.output_text(output, 'excerpt', 3, 1000, true),
        app.output_text(output, 'content_markdown', 20, 40000, true),
        c.cover_image, app.output_tags(output), c.id,
        (
            select m.user_id from public.memberships as m
            where m.org_id = c.org_id and m.user_id = v_suggestion.created_by
        )
    from public.success_cases as c
    where c.org_id = v_suggestion.org_id and c.id = v_suggestion.entity_id
    on conflict (org_id, case_id) do nothing
    returning p.id into v_post;
    if v_post is null then
        perform app.raise_error(
            'case_has_post', 'The case was removed, or got a post meanwhile.', null
        );
    end if;
    perform app.keep_suggestion(v_suggestion, output, '{}', 'post', v_post);
end;
$$;
comment on function app.store_case_post(uuid, uuid, jsonb) is
    'Makes the draft of a post from a success case; a person publishes it. Errors: '
    'agent_output_invalid, case_has_post.';

create function app.post_template(org uuid, request jsonb) returns jsonb
language sql
stable
security definer
set search_path = ''
as $$
    select jsonb_build_object(
        'title', left(app.hide_names(c.title, n.names, 'o cliente'), 120),
        'excerpt', left(app.without_links(app.hide_names(c.summary, n.names, 'o cliente')), 300),
        'content_markdown', app.without_links(app.hide_names(
            concat_ws(E'\n\n', c.summary, c.content_markdown), n.names, 'o cliente'
        )),
        'tags', '[]'::jsonb
    )
    from public.success_cases as c
    cross join lateral (select coalesce(app.case_names(c.org_id, c.id), '{}') as names) as n
    where c.org_id = post_template.org and c.id = (request ->> 'case_id')::uuid
$$;
comment on function app.post_template(uuid, jsonb) is
    'A post from the case''s own summary and text, never from its notes.';

create function public.draft_post_from_case(success_case uuid) returns public.agent_suggestions
language plpgsql
set search_path = ''
as $$
declare
    v_org uuid := (
        select c.org_id from public.success_cases as c
        where c.id = draft_post_from_case.success_case
    );
begin
    if v_org is null then
        perform app.raise_error('case_not_found', 'There is no such success case.', null);
    end if;
    perform app.require_access(v_org, 'growth', 'write');
    return app.start_suggestion(
        v_org, 'case_to_post', jsonb_build_object('case_id', success_case)
    );
end;
$$;
comment on function public.draft_post_from_case(uuid) is
    'Has an agent write a post from a success case and its notes; it becomes a draft in '
    'public_posts. A client who has not agreed to be named is not. Errors: not_allowed, '
    'case_not_found, case_empty, case_has_post, agent_inactive, suggestion_pending.';

-- 5. Access

grant execute on function
public.draft_proposal_with_ai(uuid, uuid[], uuid, uuid, text),
public.suggest_service_copy(uuid, text), public.draft_post_from_case(uuid)
to authenticated, service_role;

-- 6. Reference rows

insert into app.agent_kinds (
    kind, name, description, instructions, purpose, autonomy, max_turns, output_schema,
    store_function, fallback
) values
(
    'proposal_writer', 'Redator de propostas',
    'Escreve escopo, itens, premissas e condições de uma proposta para um cliente e os serviços '
    'escolhidos; os preços vêm do catálogo.',
    $$Você escreve propostas comerciais de uma empresa brasileira de serviços. Quem lê é quem
decide a compra no cliente: quer reconhecer o problema dele, entender o que recebe, e saber o que
depende dele.

A entrada traz o cliente (client), os serviços escolhidos (services, cada um com sua ref S1, S2 …)
e as notas de quem vende (notes).

Como escrever
- title: o resultado que o cliente compra. Não "Proposta comercial", e sem o nome do cliente.
- scope_markdown, nesta ordem, com títulos de nível 2: Contexto (o que se sabe do cliente e da
  necessidade, em um parágrafo), Objetivos (3 a 5, verificáveis), O que será feito (por serviço,
  em atividades concretas), Entregáveis (o que o cliente recebe e com que frequência), Como
  acompanhamos.
- items: exatamente um por serviço da entrada, pela ref. description diz o que aquele item
  entrega. quantity é 1, salvo quando as notas pedem outra (por exemplo, três unidades, dois
  ambientes).
- assumptions: do que a entrega depende (acessos, responsável do cliente, janelas, informações).
  Cada uma deve ser algo que, se falhar, muda prazo ou esforço.
- exclusions: o que um leitor poderia supor incluído e não está.
- terms: início, vigência, forma de acompanhamento, comunicação, mudança de escopo. Nada de preço,
  multa ou cláusula jurídica: isso é do contrato.
- As notas mandam sobre ênfase e quantidade; não sobre preço, desconto ou serviço fora da lista.
- Prefira o verificável ao adjetivo: "relatório mensal com incidentes e tempo de resposta" vale
  mais que "monitoramento completo".$$
    || app.writing_rules(),
    'reasoning', 'approval', 3, 'proposal_writer', 'store_proposal_draft',
    'Deixei um rascunho com os textos do catálogo, para você completar.'
),
(
    'catalogue_copywriter', 'Redator do catálogo',
    'Sugere os textos da página de um serviço: chamada, resumo, descrição, casos de uso, etapas e '
    'busca.',
    $$Você escreve as páginas de serviço do site de uma empresa brasileira. Quem lê tem um
problema e compara fornecedores em abas abertas: em dez segundos precisa saber se está no lugar
certo.

A entrada traz o serviço (service) com o que já existe, as atividades que o compõem e notas
(notes).

Como escrever
- tagline e hero.title: o problema resolvido, nas palavras de quem o tem. Não repita o nome do
  serviço.
- summary: o que é, para quem é, o que muda. Serve sozinho na lista de serviços.
- description_markdown: o que fazemos, como funciona no dia a dia, o que o cliente recebe, o que
  esperamos dele. Títulos de nível 2, parágrafos curtos, listas só para o que é lista.
- why_it_matters: o custo de não resolver, sem alarmismo e sem estatística inventada.
- use_cases: situações reconhecíveis ("a empresa que cresceu e perdeu o controle dos acessos"),
  cada uma com o que o serviço faz nela.
- process: as etapas como o cliente as vive, da primeira conversa à rotina.
- seo_title até 60 e seo_description até 160 caracteres, com a palavra que a pessoa busca no
  começo.
- call_to_action: um verbo e um objeto ("Agendar conversa").
- Aproveite o que já está bom no texto existente; não troque por trocar.$$
    || app.writing_rules(),
    'reasoning', 'approval', 3, 'catalogue_copywriter', 'store_service_copy', null
),
(
    'case_to_post', 'Redator de casos',
    'Transforma as notas de um caso de sucesso em um post, sem nomear cliente que não autorizou.',
    $$Você transforma as notas internas de um projeto em um post do blog da empresa. Quem lê
trabalha numa empresa parecida com a do caso e quer aprender algo, não ler um anúncio.

A entrada traz título, notas (notes), resumo e texto que houver. As notas são internas: nelas há
nomes, valores e horas que não se publicam.

Como escrever
- O cliente só tem nome se a entrada trouxer client_name. Sem ele, diga o ramo e o porte ("uma
  indústria de alimentos do interior") e nada que permita reconhecê-lo. [cliente] é um nome
  oculto: nunca copie o marcador.
- Não publique valores de contrato, preço, margem, horas, nomes de pessoas, endereços de rede nem
  falhas de segurança que ainda possam existir.
- content_markdown com títulos de nível 2, nesta linha: a situação, o desafio, o que foi feito e
  por quê, o resultado, o que fica de aprendizado. Resultado só com o número que as notas trazem.
- Conte uma decisão difícil e o porquê dela: é isso que faz o texto valer a leitura.
- title: o que mudou, não o nome do serviço. excerpt: a pergunta que o texto responde.
- 500 a 1.200 palavras. Feche com um parágrafo que sirva a quem não vai contratar nada.$$
    || app.writing_rules(),
    'reasoning', 'approval', 3, 'case_to_post', 'store_case_post',
    'Deixei um rascunho com o resumo e o texto do caso, para você completar.'
);

insert into app.suggestion_kinds (
    kind, module, input_function, template_function, apply_function, is_internal,
    max_output_tokens
) values
(
    'proposal_writer', 'growth', 'proposal_writer_input', 'proposal_template', 'apply_proposal',
    false, 6000
),
(
    'catalogue_copywriter', 'growth', 'catalogue_copywriter_input', null, 'apply_service_copy',
    false, 5000
),
('case_to_post', 'growth', 'case_to_post_input', 'post_template', null, false, 8000);

insert into app.error_keys (key, http, meaning) values
('case_empty', 422, 'The success case holds nothing to write from.'),
('case_has_post', 409, 'There is a post of this success case already.');
