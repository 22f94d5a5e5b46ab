-- Two demo companies with a year of history up to today: vigia (managed security) and claquete
-- (video
-- production). One login per role: <role>@<company>.example, password nessos-demo.
-- Deterministic but for the dates, which are relative to today. Never needed in production.

-- Helpers of this file; they vanish with the session

create function pg_temp.id(words text) returns uuid
language sql
immutable
as $$ select md5('nessos demo ' || words)::uuid $$;

create function pg_temp.today() returns date
language sql
stable
as $$ select (now() at time zone 'America/Sao_Paulo')::date $$;

-- A number in [0, 1) that belongs to these words.
create function pg_temp.share(words text) returns double precision
language sql
immutable
as $$ select ('x' || substr(md5(words), 1, 8))::bit(32)::bigint / 4294967296.0 $$;

create function pg_temp.between_of(words text, low integer, high integer) returns integer
language sql
immutable
as $$ select low + floor(pg_temp.share(words) * (high - low + 1))::integer $$;

create function pg_temp.one_of(words text, choices text[]) returns text
language sql
immutable
as $$ select choices[pg_temp.between_of(words, 1, cardinality(choices))] $$;

create function pg_temp.cpf(number integer) returns text
language sql
immutable
as $$
    select
        base.digits || app.check_digit(base.digits, '{10,9,8,7,6,5,4,3,2}')
        || app.check_digit(
            base.digits || app.check_digit(base.digits, '{10,9,8,7,6,5,4,3,2}'),
            '{11,10,9,8,7,6,5,4,3,2}'
        )
    from (select lpad((101000000 + number * 7919)::text, 9, '0') as digits) as base
$$;

create function pg_temp.cnpj(number integer) returns text
language sql
immutable
as $$
    select
        base.marks || app.check_digit(base.marks, '{5,4,3,2,9,8,7,6,5,4,3,2}')
        || app.check_digit(
            base.marks || app.check_digit(base.marks, '{5,4,3,2,9,8,7,6,5,4,3,2}'),
            '{6,5,4,3,2,9,8,7,6,5,4,3,2}'
        )
    from (
        -- Every fourth company was founded after 07/2026, when numbers took letters.
        select
            case when number % 4 = 0 then 'V7' || lpad(number::text, 6, '0')
                else lpad((11000000 + number * 104729 % 80000000)::text, 8, '0')
            end || '0001' as marks
    ) as base
$$;

-- Sets the clock that every table and event reads, so that history lies where it belongs.
create function pg_temp.clock(day date, hour time default '10:00') returns void
language sql
as $$
    select set_config('app.now', ((day + hour) at time zone 'America/Sao_Paulo')::text, false)
$$;

create function pg_temp.act_as(person uuid) returns void
language sql
as $$
    select set_config(
        'request.jwt.claims',
        case when person is null then ''
            else jsonb_build_object('sub', person, 'role', 'authenticated')::text end,
        false
    )
$$;

create temporary table company (
    slug text primary key,
    name text not null,
    cnpj_number integer not null,
    vertical text not null,
    tagline text not null,
    playbooks text[] not null,
    actions text[] not null,
    services text[] not null,
    segments text[] not null,
    client_words text[] not null,
    client_kinds text[] not null,
    posts text[] not null,
    jobs text[] not null,
    minimum_mrr integer not null,
    maximum_mrr integer not null
);

insert into company values
(
    'vigia', 'Vigia Segurança Gerenciada', 900, 'managed-security',
    'Segurança da informação vigiada dia e noite.',
    '{Resposta a incidente,Gestão de vulnerabilidades,Onboarding de SOC,Backup e restauração,'
    'Revisão de acessos,Teste de intrusão,Campanha de phishing,Relatório mensal de segurança}',
    '{SOC 24x7,Gestão de vulnerabilidades,Resposta a incidentes,Adequação à LGPD,'
    'Pentest contínuo,Backup gerenciado}',
    '{Centro de operações de segurança,Resposta a incidentes,LGPD na prática,Backup blindado}',
    '{Indústria,Saúde,Educação,Varejo,Serviços financeiros}',
    '{Aurora,Horizonte,Cerrado,Atlântica,Paulista,Mineira,Litoral,Planalto,Ipê,Jatobá,Araucária,'
    'Guanabara,Pantanal}',
    '{Logística,Alimentos,Hospitalar,Energia,Educacional,Química,Seguros}',
    '{Como responder ao primeiro incidente,O que muda com o CNPJ alfanumérico,'
    'LGPD para empresas de serviço,Phishing: o que treinar primeiro,Backup que volta,'
    'Cinco sinais de uma conta invadida}',
    '{Analista de SOC,Engenheiro de segurança,Estagiário de resposta a incidentes}', 4000, 28000
),
(
    'claquete', 'Claquete Filmes e Vídeos', 901, 'video-production',
    'Do roteiro ao corte final.',
    '{Pré-produção,Dia de gravação,Edição e cor,Captação de áudio,Entrega em redes,'
    'Cobertura de evento,Roteiro institucional,Arquivo e backup de mídia}',
    '{Vídeo institucional,Cobertura de evento,Pacote de redes sociais,Animação 2D,'
    'Transmissão ao vivo,Treinamento em vídeo}',
    '{Vídeo institucional,Conteúdo mensal para redes,Transmissão ao vivo,Treinamento em vídeo}',
    '{Agência,Indústria,Evento,Educação,Cultura}',
    '{Festival,Galeria,Estúdio,Arena,Teatro,Editora,Museu,Ateliê,Cooperativa,Clínica,Escola,'
    'Livraria,Bistrô}',
    '{Central,das Artes,do Porto,Nova Era,Brasil,da Serra,Contemporânea}',
    '{Quanto custa um vídeo institucional,Roteiro em uma página,Som: metade do filme,'
    'Direitos de imagem em eventos,Vertical ou horizontal,Transmitir ao vivo sem sustos}',
    '{Editor de vídeo,Produtor executivo,Assistente de câmera}', 2500, 16000
);

-- People, organisations, reference rates

select pg_temp.clock((app.month_start(pg_temp.today()) - interval '13 months')::date, '08:00');

insert into auth.users (
    id, aud, role, email, encrypted_password, email_confirmed_at, raw_app_meta_data,
    raw_user_meta_data, created_at, updated_at
)
select
    pg_temp.id(c.slug || ' ' || person.role) as id,
    'authenticated' as aud,
    'authenticated' as role,
    person.role || '@' || c.slug || '.example' as email,
    -- bcrypt of nessos-demo
    '$2a$10$nessosDemoSaltForSeed.J1ApZA3AJA6wN3trJ3Ru6qi42w3Dyfe' as encrypted_password,
    app.now() as email_confirmed_at,
    '{"provider": "email", "providers": ["email"]}' as raw_app_meta_data,
    jsonb_build_object('full_name', person.full_name) as raw_user_meta_data,
    app.now() as created_at,
    app.now() as updated_at
from company as c
cross join (
    values
    ('owner', 'Helena Prado'), ('admin', 'Rui Tavares'), ('director', 'Marta Queiroz'),
    ('sales', 'Caio Lemos'), ('ops', 'Davi Nogueira'), ('finance', 'Bianca Moura'),
    ('legal', 'Otávio Reis'), ('people', 'Lia Campos'), ('employee', 'Igor Fontes'),
    ('agent', 'Assistente'), ('client', 'Portal do Cliente')
) as person (role, full_name);

insert into public.organizations (id, name, slug, cnpj, plan, vertical, settings)
select
    pg_temp.id(c.slug) as id,
    c.name,
    c.slug,
    pg_temp.cnpj(c.cnpj_number) as cnpj,
    'pro' as plan,
    c.vertical,
    jsonb_build_object(
        'site_tagline', c.tagline, 'site_email', 'contato@' || c.slug || '.example',
        'site_phone', '+55 11 4002-8922', 'overhead_method', 'revenue',
        'overhead_monthly_brl', c.maximum_mrr, 'tax_pct', 11.33
    ) as settings
from company as c;

insert into public.memberships (org_id, user_id, role, hourly_rate)
select
    pg_temp.id(c.slug) as org_id,
    pg_temp.id(c.slug || ' ' || person.role) as user_id,
    person.role,
    person.hourly_rate
from company as c
cross join (
    values
    ('owner', 140), ('admin', 110), ('director', 120), ('sales', 65), ('ops', 72), ('finance', 60),
    ('legal', 90), ('people', 58), ('employee', 46), ('agent', null)
) as person (role, hourly_rate);

select pg_temp.clock(pg_temp.today() - 1, '06:00');

-- Price indices in percent per month: IPCA (SGS 433), IGP-M (189), INPC (188); plausible, not
-- official.
insert into public.bcb_rates_snapshot (series, date, value)
select
    i.series,
    (app.month_start(pg_temp.today()) - make_interval(months => month_back))::date as date,
    round((i.middle + (pg_temp.share(i.series || month_back) - 0.5) * i.width)::numeric, 2) as value
from (values ('433', 0.40, 0.5), ('189', 0.35, 1.1), ('188', 0.38, 0.5)) as i (series, middle,
    width)
cross join generate_series(1, 30) as month_back;

-- CDI (12) in percent per bank day, and the closing dollar.
insert into public.bcb_rates_snapshot (series, date, value)
select
    '12' as series,
    bank_day as date,
    0.055131 as value
from app.value_days('daily', pg_temp.today() - 400, pg_temp.today()) as bank_day;

insert into public.bcb_rates_snapshot (series, date, buy, sell)
select
    'USD' as series,
    bank_day as date,
    round((5.30 + pg_temp.share('usd' || (pg_temp.today() - bank_day)) * 0.2)::numeric, 4) as buy,
    round(
        (5.3006 + pg_temp.share('usd' || (pg_temp.today() - bank_day)) * 0.2)::numeric, 4
    ) as sell
from app.value_days('daily', pg_temp.today() - 45, pg_temp.today()) as bank_day;

insert into public.bcb_sync_log (
    run_id, series, from_on, to_on, stored_to, status, rows_read, rows_created, finished_at
)
select
    pg_temp.id('rates') as run_id,
    r.series,
    min(r.date) as from_on,
    pg_temp.today() as to_on,
    pg_temp.today() as stored_to,
    'succeeded' as status,
    count(*) as rows_read,
    count(*) as rows_created,
    app.now() as finished_at
from public.bcb_rates_snapshot as r
group by r.series;

-- What the company knows and sells

create function pg_temp.found_knowledge(org uuid, c company) returns void
language plpgsql
as $$
declare
    v_today date := pg_temp.today();
    v_start date := (app.month_start(v_today) - interval '12 months')::date;
    v_number integer;
    v_task integer;
    v_playbook uuid;
    v_action uuid;
    v_service uuid;
begin
    for v_number in 1 .. cardinality(c.playbooks) loop
        perform pg_temp.clock(v_start + v_number, '09:30');
        v_playbook := pg_temp.id(c.slug || ' playbook ' || v_number);
        insert into public.playbooks (
            org_id, id, title, slug, content_markdown, tags, review_every_days, created_by
        ) values (
            org, v_playbook, c.playbooks[v_number], app.slugify(c.playbooks[v_number]),
            format(
                E'# %s\n\n## Quando usar\n\nSempre que houver contrato em vigor.\n\n'
                '## Passos\n\n1. Preparar\n2. Executar\n3. Registrar\n4. Comunicar o cliente\n',
                c.playbooks[v_number]
            ),
            array[c.vertical, 'padrão'],
            case when v_number % 3 = 0 then 120 else 365 end,
            pg_temp.id(c.slug || ' ops')
        );
        for v_task in 1 .. 3 + v_number % 3 loop
            insert into public.playbook_tasks (org_id, playbook_id, title, sort_order, minutes,
                cost)
            values (
                org, v_playbook,
                (array['Preparar ambiente', 'Executar roteiro', 'Revisar qualidade',
                    'Registrar evidências', 'Comunicar cliente'])[v_task],
                v_task, pg_temp.between_of(c.slug || v_number || 'm' || v_task, 2, 12) * 15,
                pg_temp.between_of(c.slug || v_number || 'c' || v_task, 40, 400)
            );
        end loop;
        update public.playbooks set status = 'published' where org_id = org and id = v_playbook
            and v_number <= 7;
        perform pg_temp.clock(v_today - v_number * 29);
        update public.playbooks set last_reviewed_on = app.org_today(org) where org_id = org
            and id = v_playbook;
    end loop;

    for v_number in 1 .. cardinality(c.actions) loop
        perform pg_temp.clock(v_start + 10 + v_number, '11:00');
        v_action := pg_temp.id(c.slug || ' action ' || v_number);
        insert into public.service_actions (org_id, id, title, slug, complexity_factor)
        values (org, v_action, c.actions[v_number], app.slugify(c.actions[v_number]),
            1 + v_number % 4 * 0.25);
        insert into public.service_action_playbooks (org_id, service_action_id, playbook_id,
            sort_order)
        values
        (org, v_action, pg_temp.id(c.slug || ' playbook ' || v_number), 1),
        (org, v_action, pg_temp.id(c.slug || ' playbook ' || v_number % 6 + 2), 2);
    end loop;

    for v_number in 1 .. cardinality(c.services) loop
        perform pg_temp.clock(v_start + 20 + v_number, '11:00');
        v_service := pg_temp.id(c.slug || ' service ' || v_number);
        insert into public.services_catalog (
            org_id, id, name, slug, delivery_type, tagline, summary, content_json, sort_order,
                base_price, technical_scope
        ) values (
            org, v_service, c.services[v_number], app.slugify(c.services[v_number]),
            case v_number when 4 then 'product' else 'service' end, 'Feito por quem faz todo dia.',
            format('%s, com método e prazo.', c.services[v_number]),
            jsonb_build_object(
                'hero', jsonb_build_object('title', c.services[v_number], 'subtitle', c.tagline),
                'useCases', jsonb_build_array(jsonb_build_object('title',
                    'Empresas em crescimento')),
                'cta', jsonb_build_object('label', 'Fale conosco', 'href', '/contato')
            ),
            v_number, case when v_number = 1 then c.minimum_mrr end,
                'Escopo técnico interno, conforme os playbooks.'
        );
        insert into public.services_catalog_actions (org_id, service_id, service_action_id,
            sort_order)
        values (org, v_service, pg_temp.id(c.slug || ' action ' || v_number), 1);
        update public.services_catalog set is_active = true where org_id = org and id = v_service;
    end loop;

    for v_number in 1 .. cardinality(c.posts) loop
        perform pg_temp.clock(v_today - 330 + v_number * 50, '08:15');
        insert into public.public_posts (org_id, title, slug, excerpt, content_markdown, tags,
            author_id, status, publish_at)
        values (
            org, c.posts[v_number], app.slugify(c.posts[v_number]), 'Um texto curto e útil.',
            format(E'# %s\n\nO que aprendemos atendendo clientes este ano, em três pontos.\n',
                c.posts[v_number]),
            array[c.vertical], pg_temp.id(c.slug || ' director'),
            case when v_number <= 4 then 'published' when v_number = 5 then 'scheduled'
                else 'draft' end,
            case when v_number = 5 then app.now() + interval '400 days' end
        );
    end loop;

    insert into public.static_pages (org_id, slug, title, content_markdown, is_published)
    select
        org, page.slug, page.title, format(E'# %s\n\nTexto de %s.\n', page.title, c.name),
            page.slug <> 'certificacoes'
    from (
        values
        ('privacidade', 'Política de privacidade'), ('termos', 'Termos de uso'), ('lgpd', 'LGPD'),
        ('cookies', 'Cookies'), ('compliance', 'Compliance'), ('certificacoes', 'Certificações')
    ) as page (slug, title);

    insert into public.knowledge_questions (org_id, question, answer_markdown, audience, created_by)
    select org, q.question, q.answer, q.audience, pg_temp.id(c.slug || ' ops')
    from (
        values
        (
            'vigia', 'Qual é o horário de atendimento?', 'public',
            'O centro de operações vigia dia e noite, todos os dias do ano. O atendimento '
            'comercial funciona de segunda a sexta, das 9h às 18h, no horário de Brasília.'
        ),
        (
            'vigia', 'Em quanto tempo vocês respondem a um incidente?', 'public',
            'Um incidente crítico tem a primeira resposta em até 15 minutos, a qualquer hora. '
            'Incidentes de gravidade média são atendidos em até 4 horas.'
        ),
        (
            'vigia', 'Como funciona a adequação à LGPD?', 'public',
            E'A adequação à LGPD começa por um mapeamento dos dados pessoais e leva de 60 a 90 '
            'dias.\n\nNo fim a empresa recebe o registro das operações de tratamento, a política '
            'de privacidade e um plano de resposta a titulares.'
        ),
        (
            'vigia', 'Com que frequência o backup é testado?', 'public',
            'Todo backup gerenciado passa por um teste de restauração por mês, e o relatório do '
            'teste é enviado ao cliente.'
        ),
        (
            'vigia', 'Quem autoriza o isolamento de um servidor de cliente?', 'internal',
            'O isolamento de um servidor em produção é autorizado pelo gestor técnico do contrato; '
            'fora do horário comercial, pelo plantonista sênior.'
        ),
        (
            'claquete', 'Qual é o prazo de entrega de um vídeo institucional?', 'public',
            'Um vídeo institucional fica pronto em 30 dias corridos depois da aprovação do '
            'roteiro, com duas rodadas de ajustes incluídas.'
        ),
        (
            'claquete', 'O que está incluído no pacote de redes sociais?', 'public',
            'O pacote mensal de redes sociais inclui um dia de gravação, oito vídeos verticais com '
            'legenda e a entrega nos formatos de cada rede.'
        ),
        (
            'claquete', 'Vocês fazem transmissão ao vivo fora de São Paulo?', 'public',
            'Sim, a transmissão ao vivo é feita em todo o Brasil. Fora da Grande São Paulo, '
            'deslocamento e hospedagem da equipe são cobrados à parte.'
        ),
        (
            'claquete', 'Por quanto tempo as imagens ficam guardadas?', 'public',
            'O material bruto fica guardado por 12 meses; os vídeos finais, enquanto o cliente '
            'quiser.'
        ),
        (
            'claquete', 'Quem aprova horas extras em dia de gravação?', 'internal',
            'Horas extras em dia de gravação são aprovadas pelo produtor executivo antes de a '
            'diária terminar.'
        )
    ) as q (slug, question, audience, answer)
    where q.slug = c.slug;

    insert into public.brand_assets (org_id, name, kind, content, sort_order) values
    (org, 'Cor principal', 'colour', '#0b5fff', 1),
    (org, 'Cor de apoio', 'colour', '#101828', 2),
    (org, 'Tom de voz', 'tone', 'Direto, calmo e sem jargão.', 3);
end;
$$;

-- Clients, contracts, the funnel

create function pg_temp.found_sales(org uuid, c company) returns void
language plpgsql
as $$
declare
    v_today date := pg_temp.today();
    v_start date := (app.month_start(v_today) - interval '12 months')::date;
    v_number integer;
    v_day date;
    v_id uuid;
    v_client uuid;
    v_action integer;
    v_kind text;
    v_person boolean;
    v_name text;
begin
    for v_number in 1 .. 25 loop
        v_person := v_number % 8 = 0;
        v_name := c.client_words[1 + (v_number - 1) % cardinality(c.client_words)] || ' '
            || c.client_kinds[1 + (v_number - 1) % cardinality(c.client_kinds)];
        perform pg_temp.clock(v_start + v_number * 9, '14:20');
        insert into public.clients (
            org_id, id, name, trade_name, document, emails, phones, address, segment, omie_codigo
        ) values (
            org, pg_temp.id(c.slug || ' client ' || v_number),
            case when v_person then 'Profissional ' || v_name else v_name || ' Ltda.' end, v_name,
            case
                when v_person then pg_temp.cpf(c.cnpj_number + v_number)
                else pg_temp.cnpj(c.cnpj_number % 2 * 500 + v_number)
            end,
            array['financeiro@' || app.slugify(v_name) || '.example'],
                array['+55 11 3' || lpad((v_number * 7919)::text, 7, '0')],
            jsonb_build_object('city', 'São Paulo', 'state', 'SP'),
            c.segments[1 + v_number % cardinality(c.segments)],
                4000000 + c.cnpj_number * 100 + v_number
        );
    end loop;
    insert into public.memberships (org_id, user_id, role, client_id)
    values (org, pg_temp.id(c.slug || ' client'), 'client', pg_temp.id(c.slug || ' client 1'));

    for v_number in 1 .. 30 loop
        v_id := pg_temp.id(c.slug || ' contract ' || v_number);
        v_client := pg_temp.id(c.slug || ' client ' || (1 + (v_number - 1) % 23));
        v_kind := case
            when v_number <= 20 then 'active' when v_number <= 23 then 'ended' when v_number <= 25
                then 'suspended'
            when v_number <= 27 then 'cancelled' else 'draft'
        end;
        -- Half began before the year shown, the rest along it.
        v_day := case when v_kind = 'draft' then v_today - v_number % 20
            else v_start + case
                when v_number > 20 then (v_number - 20) * 7 else greatest(v_number - 8, 0) * 24
            end end;
        perform pg_temp.clock(greatest(v_day - 5, v_start), '15:40');
        insert into public.contracts (
            org_id, id, client_id, title, mrr, included_hours, overtime_rate, starts_on, ends_on,
            renews_on, auto_renews, adjustment_index, adjustment_month, fixed_adjustment_pct,
                billing_day, due_day,
            commercial_manager_id, technical_manager_id, storage_included_gb
        ) values (
            org, v_id, v_client, c.actions[1 + v_number % cardinality(c.actions)] || ' — '
                || extract(year from v_day),
            pg_temp.between_of(c.slug || 'mrr' || v_number, c.minimum_mrr / 100,
                c.maximum_mrr / 100) * 100,
            pg_temp.between_of(c.slug || 'hours' || v_number, 4, 20) * 5, 180, v_day,
            case when v_number % 5 = 0 then v_day + 729 when v_kind = 'active' and v_number in (
                7, 13) then v_today + 5 + v_number * 3 end,
            case when v_number % 3 = 0 then v_today + v_number * 6 when v_number % 5 <> 0
                then v_day + 728 end,
            v_number % 5 <> 0, (array['IPCA', 'IGPM', 'INPC', 'fixed', 'none'])[1 + v_number % 5],
            extract(month from v_day), case when v_number % 5 = 3 then 5.5 end, 1, 10,
            pg_temp.id(c.slug || ' sales'), pg_temp.id(c.slug || ' ops'), 200
        );
        for v_action in 0 .. v_number % 2 loop
            insert into public.contract_items (org_id, contract_id, service_action_id, quantity,
                unit_price)
            values (
                org, v_id, pg_temp.id(c.slug || ' action '
                    || (1 + (v_number + v_action) % cardinality(c.actions))),
                1 + v_number % 3, case when v_number % 4 = 0 then 900 + v_number * 10 end
            );
        end loop;
        if v_kind <> 'draft' then
            perform pg_temp.clock(greatest(v_day - 2, v_start), '16:00');
            update public.contracts set status = 'active' where org_id = org and id = v_id;
        end if;
        if v_kind not in ('draft', 'active') then
            perform pg_temp.clock(least(v_day + 150, v_today - 10), '17:10');
            update public.contracts
            set status = v_kind, ends_on = case when v_kind = 'ended' then app.org_today(org) else
                ends_on end
            where org_id = org and id = v_id;
        end if;
    end loop;

    for v_number in 1 .. 71 loop
        v_day := v_today - 360 + v_number * 5 + v_number % 3;
        v_id := pg_temp.id(c.slug || ' lead ' || v_number);
        perform pg_temp.clock(v_day, make_time(8 + v_number % 11, v_number * 7 % 60, 0));
        insert into public.leads (
            org_id, id, name, email, company, phone, message, origin_url, source, score, owner_id,
                consent_at
        ) values (
            org, v_id,
            pg_temp.one_of(c.slug || 'first' || v_number,
                '{Ana,Bruno,Carla,Diego,Elisa,Fábio,Gisele,Hugo,Iara,João}')
            || ' ' || pg_temp.one_of(c.slug || 'last' || v_number,
                '{Almeida,Barros,Cardoso,Dias,Esteves,Farias,Gomes,Lopes}'),
            'contato' || v_number || '@prospecto.example',
            pg_temp.one_of(c.slug || 'company' || v_number, c.client_words) || ' Prospecto',
            '+55 11 9' || lpad((v_number * 104729 % 100000000)::text, 8, '0'),
            'Gostaria de conhecer o serviço e receber uma proposta.',
            pg_temp.one_of(c.slug || 'url' || v_number,
                '{/,/contato,/solucoes/soc,/blog/lgpd,/casos/industria,/vagas}'),
            case when v_number % 6 = 0 then 'referral' when v_number % 6 = 5 then 'campaign'
                else 'site' end,
            pg_temp.between_of(c.slug || 'score' || v_number, 10, 95),
            case when v_number % 4 <> 0 then pg_temp.id(c.slug || ' sales') end, app.now()
        );
        if v_number % 5 in (1, 2, 3) and v_day + 6 <= v_today then
            perform pg_temp.clock(v_day + 3, '11:00');
            update public.leads set status = 'qualified' where org_id = org and id = v_id;
        end if;
        if v_number % 5 in (1, 2) and v_day + 14 <= v_today then
            perform pg_temp.clock(v_day + 10, '11:00');
            update public.leads set status = 'proposal' where org_id = org and id = v_id;
        end if;
        if v_number % 5 = 1 and v_day + 30 <= v_today then
            perform pg_temp.clock(v_day + 25, '11:00');
            update public.leads set status = 'won' where org_id = org and id = v_id;
        elsif v_number % 5 = 4 and v_day + 20 <= v_today then
            perform pg_temp.clock(v_day + 18, '11:00');
            update public.leads set status = 'lost', lost_reason = 'Sem orçamento neste ano'
                where org_id = org and id = v_id;
        end if;
    end loop;

    for v_number in 1 .. 8 loop
        v_day := v_today - 200 + v_number * 23;
        v_id := pg_temp.id(c.slug || ' proposal ' || v_number);
        perform pg_temp.clock(v_day, '10:10');
        insert into public.proposals (org_id, id, client_id, owner_id, title, scope, assumptions)
        values (
            org, v_id, pg_temp.id(c.slug || ' client ' || v_number), pg_temp.id(c.slug || ' sales'),
            'Proposta de ' || lower(c.services[1 + v_number % cardinality(c.services)]),
            'Execução conforme os playbooks da casa.', 'Acesso aos ambientes em até cinco dias.'
        );
        insert into public.proposal_items (org_id, proposal_id, service_id, description, quantity,
            unit_price, minutes, sort_order)
        values (
            org, v_id, pg_temp.id(c.slug || ' service '
                || (1 + v_number % cardinality(c.services))),
            c.services[1 + v_number % cardinality(c.services)], 1, c.minimum_mrr + v_number * 350,
                1200, 1
        );
        foreach v_kind in array (
            case v_number
                when 1 then '{review,sent,accepted}' when 2 then '{review,sent,negotiation,refused}'
                when 3 then '{review,sent,expired}' when 4 then '{cancelled}'
                when 5 then '{review,sent,accepted}' when 6 then '{review,sent,negotiation}'
                when 7 then '{review,sent}' else '{}'
            end
        )::text[] loop
            perform pg_temp.clock(app.org_today(org) + 1, '10:10');
            update public.proposals
            set status = v_kind, refusal_reason = case when v_kind = 'refused' then 'Preço' end
            where org_id = org and id = v_id;
        end loop;
    end loop;

    perform pg_temp.clock(v_today - 40, '10:00');
    insert into public.success_cases (
        org_id, title, slug, client_id, contract_id, raw_data, summary, content_markdown,
            is_published
    )
    select
        org, 'Caso ' || number || ': ' || c.services[number], 'caso-' || number,
        pg_temp.id(c.slug || ' client ' || number), pg_temp.id(c.slug || ' contract ' || number),
        'Notas internas do projeto: horas, nomes e valores.', 'Resultado em noventa dias.',
        E'# Caso\n\nO problema, o caminho e o resultado.\n', number <= 2
    from generate_series(1, 3) as number;

    perform pg_temp.clock(v_today - 5);
    insert into public.client_nps (org_id, client_id, score, comment, answered_on)
    select
        org, pg_temp.id(c.slug || ' client ' || number),
            pg_temp.between_of(c.slug || 'nps' || number, 5, 10),
        'Resposta da pesquisa trimestral.', v_today - number * 5
    from generate_series(1, 14) as number;
end;
$$;

-- Work done, what it cost, what was billed

create function pg_temp.found_delivery(org uuid, c company) returns void
language plpgsql
as $$
declare
    v_today date := pg_temp.today();
    v_start date := (app.month_start(v_today) - interval '12 months')::date;
    v_day date;
    v_worker text;
    v_half integer;
    v_began timestamptz;
    v_target record;
    v_month date;
begin
    for v_day in
        select day::date from generate_series(v_start, v_today - 1, interval '1 day') as day
        where extract(isodow from day) < 6 and pg_temp.share(c.slug || day) < 0.75
    loop
        perform pg_temp.clock(v_day, '18:30');
        foreach v_worker in array '{ops,employee,director}'::text[] loop
            for v_half in 0 .. case when v_worker = 'director' then 0 else 1 end loop
                select f.contract_id, i.service_action_id into v_target
                from app.contracts_in_force(org, v_day) as f
                inner join public.contract_items as i on i.org_id = org
                    and i.contract_id = f.contract_id
                where i.service_action_id is not null
                order by md5(v_day || v_worker || v_half || i.contract_id::text
                    || i.service_action_id::text)
                limit 1;
                continue when v_target.contract_id is null;
                v_began := (v_day + time '09:00' + v_half * interval '4 hours')
                    at time zone 'America/Sao_Paulo';
                insert into public.time_entries (
                    org_id, user_id, contract_id, service_action_id, started_at, ended_at, note
                ) values (
                    org, pg_temp.id(c.slug || ' ' || v_worker), v_target.contract_id,
                        v_target.service_action_id,
                    v_began,
                    v_began + make_interval(
                        mins => pg_temp.between_of(v_day || v_worker || v_half, 4, 14) * 15
                    ),
                    null
                );
            end loop;
        end loop;
    end loop;

    for v_month in select month::date from generate_series(v_start, app.month_start(v_today),
        interval '1 month') as month loop
        perform pg_temp.clock(least((v_month + interval '1 month' - interval '1 day')::date,
            v_today - 1), '20:00');
        perform public.sync_performance_metrics(org, v_month);
        update public.performance_metrics as m set
            cloud_cost = round(pg_temp.between_of(m.contract_id || 'cloud' || v_month, 100,
                900)::numeric, 2),
            other_cost = round(pg_temp.between_of(m.contract_id || 'other' || v_month, 0,
                300)::numeric, 2),
            sla_achieved = pg_temp.between_of(m.contract_id || 'sla' || v_month, 955, 1000) / 10.0
        where m.org_id = org and m.month = v_month;

        -- One contract loses money; the ERP bills what is contracted, but for a client now and then.
        update public.performance_metrics as m set cloud_cost = k.mrr * 1.1
        from public.contracts as k
        where
            k.org_id = org and k.id = pg_temp.id(c.slug || ' contract 4')
            and m.org_id = k.org_id and m.contract_id = k.id and m.month = v_month;
        continue when v_month = app.month_start(v_today);
        insert into public.erp_revenue_snapshot (org_id, month, omie_codigo, basis, value)
        select
            org, v_month, k.omie_codigo, basis.basis,
            round((
                sum(r.revenue) * basis.share
                * case when pg_temp.share(k.id || 'erp' || v_month) < 0.05 then 0.8 else 1 end
            )::numeric, 2)
        from app.contract_revenue(org, v_month) as r
        inner join public.clients as k on k.org_id = org and k.id = r.client_id
        cross join (values ('issued', 1.0), ('received', 0.97)) as basis (basis, share)
        group by k.id, k.omie_codigo, basis.basis, basis.share;

        insert into public.erp_sync_log (
            org_id, entity, month, status, seen, created, started_at, finished_at
        ) values (
            org, 'revenue', v_month, 'succeeded', 46, 46, app.now(),
            app.now() + interval '41 seconds'
        );
    end loop;

    insert into public.erp_receivables (
        org_id, title_number, reference, omie_codigo, issued_on, due_on, amount, paid, open, status
    )
    select
        org, row_number() over (order by s.month, s.omie_codigo), 'NF '
            || row_number() over (order by s.month, s.omie_codigo),
        s.omie_codigo, s.month, s.month + 9, s.value,
        case when late.is_late then 0 else s.value end, case when late.is_late then s.value else 0
            end,
        case when late.is_late then 'open' else 'paid' end
    from public.erp_revenue_snapshot as s
    cross join lateral (select pg_temp.share(s.omie_codigo || 'late'
        || s.month) < 0.1 as is_late) as late
    where s.org_id = org and s.basis = 'issued' and s.month >= v_start + interval '9 months';
end;
$$;

-- People, law, governance

create function pg_temp.found_people(org uuid, c company) returns void
language plpgsql
as $$
declare
    v_today date := pg_temp.today();
    v_number integer;
    v_day date;
    v_id uuid;
    v_stage text;
    v_role text;
    v_cycle uuid := pg_temp.id(c.slug || ' cycle');
begin
    for v_number in 1 .. cardinality(c.jobs) loop
        perform pg_temp.clock(v_today - 150 + v_number * 20, '09:00');
        insert into public.public_jobs (org_id, id, slug, title, description, department,
            employment_type)
        values (
            org, pg_temp.id(c.slug || ' job ' || v_number), app.slugify(c.jobs[v_number]),
                c.jobs[v_number],
            'Venha trabalhar com gente que gosta do que faz.', 'Operações',
            case v_number when 3 then 'internship' else 'clt' end
        );
    end loop;
    for v_number in 1 .. 18 loop
        v_day := v_today - 120 + v_number * 6;
        v_id := pg_temp.id(c.slug || ' application ' || v_number);
        perform pg_temp.clock(v_day, '21:15');
        insert into public.job_applications (org_id, id, job_id, name, email, linkedin_url,
            message, consent_at)
        values (
            org, v_id, pg_temp.id(c.slug || ' job ' || (1 + v_number % 3)), 'Candidata '
                || v_number,
            'candidatura' || v_number || '@talento.example',
                'https://www.linkedin.com/in/talento-' || v_number,
            'Tenho interesse na vaga.', app.now()
        );
        foreach v_stage in array (
            case v_number % 6
                when 0 then '{screening,interview,offer,hired}' when 1 then '{rejected}' when 2
                    then '{screening}'
                when 3 then '{screening,interview}' when 4 then '{screening,withdrawn}' else '{}'
            end
        )::text[] loop
            perform pg_temp.clock(app.org_today(org) + 2, '10:00');
            update public.job_applications set stage = v_stage where org_id = org and id = v_id;
        end loop;
    end loop;
    perform pg_temp.clock(v_today - 30, '09:00');
    update public.public_jobs set is_open = false where org_id = org
        and id = pg_temp.id(c.slug || ' job 3');

    for v_number in 1 .. 6 loop
        v_id := pg_temp.id(c.slug || ' gap ' || v_number);
        perform pg_temp.clock(v_today - 140 + v_number * 20, '16:00');
        insert into public.training_gaps (org_id, id, user_id, playbook_id, severity, description,
            detected_by)
        values (
            org, v_id, pg_temp.id(c.slug || case when v_number % 2 = 0 then ' ops'
                else ' employee' end),
            pg_temp.id(c.slug || ' playbook ' || v_number),
                (array['low', 'medium', 'high'])[1 + v_number % 3],
            'Passo do playbook não registrado.', pg_temp.id(c.slug || ' people')
        );
        if v_number <= 4 then
            perform pg_temp.clock(app.org_today(org) + 5);
            update public.training_gaps set status = 'training' where org_id = org and id = v_id;
        end if;
        if v_number <= 2 then
            perform pg_temp.clock(app.org_today(org) + 10);
            update public.training_gaps set status = 'solved' where org_id = org and id = v_id;
        end if;
    end loop;

    perform pg_temp.clock(v_today - 60, '09:00');
    insert into public.feedback_cycles (org_id, id, name, starts_on, ends_on, criteria)
    values (org, v_cycle, 'Ciclo anual', v_today - 60, v_today - 30,
        '{Qualidade,Colaboração,Prazo}');
    update public.feedback_cycles set status = 'open' where org_id = org and id = v_cycle;
    insert into public.feedback_360 (org_id, cycle_id, subject_id, rater_id, relation, criterion,
        score)
    select
        org, v_cycle, pg_temp.id(c.slug || ' employee'), pg_temp.id(c.slug || ' ' || rater.role),
            rater.relation,
        criterion, pg_temp.between_of(c.slug || rater.role || criterion, 3, 5)
    from (
        values
        ('employee', 'self'), ('director', 'manager'), ('ops', 'peer'), ('finance', 'peer'),
            ('sales', 'peer'),
        ('legal', 'internal_client'), ('people', 'internal_client'), ('admin', 'internal_client')
    ) as rater (role, relation)
    cross join unnest('{Qualidade,Colaboração,Prazo}'::text[]) as criterion;
    perform pg_temp.clock(v_today - 29, '09:00');
    update public.feedback_cycles set status = 'closed' where org_id = org and id = v_cycle;

    for v_number in 1 .. 3 loop
        v_id := pg_temp.id(c.slug || ' policy ' || v_number);
        perform pg_temp.clock(v_today - 300 + v_number * 30, '09:00');
        insert into public.policies (org_id, id, title, summary)
        values (
            org, v_id, (array['Código de conduta', 'Segurança da informação',
                'Privacidade de dados'])[v_number],
            'O que esperamos uns dos outros.'
        );
        perform pg_temp.act_as(pg_temp.id(c.slug || ' owner'));
        perform public.publish_policy(v_id, format(E'# Política %s\n\nVersão 1.\n', v_number));
        if v_number = 2 then
            perform pg_temp.clock(v_today - 60, '09:00');
            perform public.publish_policy(v_id,
                E'# Política 2\n\nVersão 2, com senhas e segundo fator.\n');
        end if;
        foreach v_role in array '{owner,admin,director,sales,ops,finance,employee}'::text[] loop
            perform pg_temp.clock(v_today - 55 + v_number, '13:00');
            perform pg_temp.act_as(pg_temp.id(c.slug || ' ' || v_role));
            perform public.accept_policy(v_id)
                where not (v_number = 3 and v_role in ('sales', 'employee'));
        end loop;
        perform pg_temp.act_as(null);
    end loop;

    perform pg_temp.clock(v_today - 90, '11:00');
    insert into public.legal_docs (org_id, id, contract_id, doc_type, title, file_path)
    select
        org, pg_temp.id(c.slug || ' doc ' || number), pg_temp.id(c.slug || ' contract ' || number),
        (array['contract', 'nda', 'dpa'])[number], 'Documento ' || number, org
            || '/contratos/documento-' || number || '.pdf'
    from generate_series(1, 3) as number;
    insert into public.contract_risk_analyses (org_id, id, contract_id, doc_id, score, summary)
    select
        org, pg_temp.id(c.slug || ' risk ' || number), pg_temp.id(c.slug || ' contract ' || number),
        pg_temp.id(c.slug || ' doc ' || number), (array[2.1, 5.5, 8.2])[number],
            'Leitura das cláusulas principais.'
    from generate_series(1, 3) as number;
    insert into public.contract_risk_clauses (org_id, analysis_id, clause_type, excerpt, severity,
        suggestion)
    select
        org, pg_temp.id(c.slug || ' risk ' || number), 'Multa', 'Multa de 20% do valor global.',
        (array['low', 'medium', 'high'])[number], 'Reduzir para 10% do saldo.'
    from generate_series(1, 3) as number;
    insert into public.compliance_checks (org_id, framework_key, playbook_id, requirement, status,
        evidence, due_on)
    select
        org, f.key, pg_temp.id(c.slug || ' playbook ' || check_row.number), check_row.requirement,
            check_row.status,
        case check_row.status when 'ok' then 'Registro no playbook.' end,
            v_today + check_row.number * 20
    from public.compliance_frameworks as f
    cross join (
        values (1, 'Registro das operações de tratamento', 'ok'), (2, 'Canal do titular', 'gap'),
            (3, 'Plano de incidentes', 'pending')
    ) as check_row (number, requirement, status);
end;
$$;

do $$
declare
    v_company company;
    v_org uuid;
begin
    for v_company in select * from company order by slug desc loop
        v_org := pg_temp.id(v_company.slug);
        perform pg_temp.found_knowledge(v_org, v_company);
        perform pg_temp.found_sales(v_org, v_company);
        perform pg_temp.found_delivery(v_org, v_company);
        perform pg_temp.found_people(v_org, v_company);
    end loop;
end;
$$;

-- The figures that the jobs would have derived on the first day of each month

do $$
declare
    v_company company;
    v_month date;
begin
    for v_month in
        select month::date
        from generate_series(
            app.month_start(pg_temp.today()) - interval '11 months',
            app.month_start(pg_temp.today()), interval '1 month'
        ) as month
    loop
        perform pg_temp.clock(v_month, '04:00');
        for v_company in select * from company loop
            perform public.reconcile_erp(pg_temp.id(v_company.slug), (v_month - interval '1 month')::date);
            perform public.compute_data_indices(
                pg_temp.id(v_company.slug), (v_month - interval '1 month')::date
            );
        end loop;
    end loop;
    perform set_config('app.now', '', false);
    for v_company in select * from company loop
        perform app.raise_contract_alerts(pg_temp.id(v_company.slug));
        perform app.raise_upsell_alerts(pg_temp.id(v_company.slug));
        perform public.compute_data_indices(pg_temp.id(v_company.slug), app.month_start(pg_temp.today()));
    end loop;
end;
$$;
