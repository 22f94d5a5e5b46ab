-- Chat: questions of members and visitors, answered from the knowledge with checked quotes.
-- Depends on: core access, events, jobs, notify, crm (leads), growth_site (profile), knowledge.
-- Asked for by: ai design §2; ness.OS chat on playbooks and on the public site.

-- 1. Tables

create table public.chat_sessions (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    channel text not null
        constraint chat_sessions_channel_check
            check (channel in ('internal', 'public', 'whatsapp')),
    user_id uuid references public.profiles (id) on delete cascade,
    token_hash bytea,
    title text not null constraint chat_sessions_title_check check (length(title) <= 120),
    status text not null default 'open'
        constraint chat_sessions_status_check check (status in ('open', 'handed_off')),
    lead_id uuid,
    last_message_at timestamptz not null default app.now(),
    created_at timestamptz not null default app.now(),
    primary key (org_id, id),
    foreign key (org_id, lead_id) references public.leads (org_id, id)
    on delete set null (lead_id),
    constraint chat_sessions_asker_check check ((channel = 'internal') = (user_id is not null)),
    constraint chat_sessions_token_check check ((channel = 'public') = (token_hash is not null))
);
comment on table public.chat_sessions is
    '[chat] Conversations with the knowledge. A member sees and deletes his own; owners and admins '
    'read all, those of visitors among them. Opened by open_chat, ask and the public chat.';
comment on column public.chat_sessions.user_id is 'The member who asks; null for visitors.';
comment on column public.chat_sessions.token_hash is
    'SHA-256 of the token with which a visitor goes on; it was shown once.';
comment on column public.chat_sessions.title is '[pii] The first question, shortened.';
comment on column public.chat_sessions.status is
    'handed_off: the last answer passed the question on to a person.';
comment on column public.chat_sessions.lead_id is
    'The lead a visitor became in this conversation; null while he has left no data.';
create index chat_sessions_user_id_idx
on public.chat_sessions (user_id, org_id, last_message_at desc);
create index chat_sessions_lead_id_idx on public.chat_sessions (org_id, lead_id);
create index chat_sessions_channel_idx
on public.chat_sessions (org_id, channel, last_message_at desc);

create table public.chat_messages (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    session_id uuid not null,
    user_id uuid references public.profiles (id) on delete cascade,
    position integer not null,
    role text not null
        constraint chat_messages_role_check check (role in ('user', 'assistant')),
    content text not null default ''
        constraint chat_messages_content_check check (length(content) <= 20000),
    status text not null default 'pending'
        constraint chat_messages_status_check
            check (status in ('pending', 'streaming', 'done', 'failed', 'abstained')),
    kind text constraint chat_messages_kind_check check (kind in ('answer', 'excerpt', 'handoff')),
    citations jsonb not null default '[]'
        constraint chat_messages_citations_check check (jsonb_typeof(citations) = 'array'),
    idempotency_key text
        constraint chat_messages_idempotency_key_check
            check (length(idempotency_key) between 1 and 200),
    attempts integer not null default 0,
    model text,
    prompt_tokens integer not null default 0,
    completion_tokens integer not null default 0,
    cost_brl numeric(14, 6) not null default 0
        constraint chat_messages_cost_brl_check check (cost_brl >= 0),
    first_text_at timestamptz,
    finished_at timestamptz,
    latency_ms integer,
    created_at timestamptz not null default app.now(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, session_id, position),
    foreign key (org_id, session_id) references public.chat_sessions (org_id, id)
    on delete cascade,
    constraint chat_messages_cited_check
        check (citations = '[]' or (role = 'assistant' and kind in ('answer', 'excerpt')))
);
comment on table public.chat_messages is
    '[chat] Questions (role user) and, at the next position, the answer to each. The content of an '
    'answer grows while it is streaming and is final only when its status is another: what was '
    'streamed and turned out to have no source is replaced.';
comment on column public.chat_messages.user_id is 'As in the session: whose conversation it is.';
comment on column public.chat_messages.position is 'From 1, without gaps.';
comment on column public.chat_messages.content is '[pii] Markdown as asked or answered, pt-BR.';
comment on column public.chat_messages.status is
    'abstained: nothing in the knowledge answers it. failed: it could not be answered; asking '
    'again may help.';
comment on column public.chat_messages.kind is
    'answer: written by a model; excerpt: passages as they stand, no model was asked; handoff: '
    'passed on to a person. Null for questions and while or where there is no answer.';
comment on column public.chat_messages.citations is
    'Sources, each checked: [{number, document_id, version, source_type, title, url, heading, '
    'quote, start_char, end_char}]; the quote stands at these characters of that version.';
comment on column public.chat_messages.attempts is
    'How often a worker has begun the answer; only the latest may write it.';
comment on column public.chat_messages.cost_brl is 'What the models cost, in BRL.';
comment on column public.chat_messages.first_text_at is 'When the first text could be seen.';
comment on column public.chat_messages.latency_ms is
    'Milliseconds from the question to the finished answer.';
create index chat_messages_user_id_idx on public.chat_messages (user_id);
create unique index chat_messages_open_key on public.chat_messages (org_id, session_id)
where status in ('pending', 'streaming');
create unique index chat_messages_idempotency_key
on public.chat_messages (org_id, (coalesce(user_id, session_id)), idempotency_key)
where idempotency_key is not null;
create index chat_messages_stale_idx on public.chat_messages (updated_at)
where status in ('pending', 'streaming');

create table app.chat_passages (
    org_id uuid not null,
    message_id uuid not null,
    number integer not null,
    document_id uuid not null,
    version integer not null,
    heading_path text not null,
    start_char integer not null,
    end_char integer not null,
    primary key (org_id, message_id, number),
    foreign key (org_id, message_id) references public.chat_messages (org_id, id)
    on delete cascade,
    foreign key (org_id, document_id) references public.knowledge_documents (org_id, id)
    on delete cascade
);
comment on table app.chat_passages is
    '[chat] What a model was shown for an answer, and so all that the answer may cite. The '
    'passages themselves may have been cut anew since.';
comment on column app.chat_passages.number is 'p1, p2 … in what the model is sent.';
create index chat_passages_document_id_idx on app.chat_passages (org_id, document_id);

-- 2. Functions: words and checks

create function app.chat_sentence(key text) returns text
language sql
immutable
set search_path = ''
as $$
    select case key
        when 'abstained' then
            'Não encontrei essa informação no conteúdo disponível, então prefiro não responder.'
        when 'excerpt' then
            'Estes são os trechos do nosso conteúdo mais próximos da sua pergunta:'
        when 'failed' then
            'Não consegui responder agora. Tente de novo em alguns instantes.'
        when 'refused' then
            'Você não tem mais acesso a este conteúdo.'
        when 'handoff_internal' then
            'Passei sua pergunta a quem administra o sistema na empresa; a resposta virá de uma '
            'pessoa.'
        when 'handoff_public' then
            'Para isso é melhor falar com uma pessoa da nossa equipe. Deixe seu nome e seu e-mail '
            'ou telefone no formulário de contato.'
        when 'invitation' then
            'Quer conversar com a gente? Deixe seu contato.'
    end
$$;
comment on function app.chat_sentence(text) is
    'The fixed sentences of the chat, pt-BR, by key: abstained, excerpt, failed, refused, '
    'handoff_internal, handoff_public, invitation.';

create function app.chat_question(question text) returns text
language plpgsql
immutable
set search_path = ''
as $$
declare
    v_question text := app.clean_text(question, 2000);
begin
    if v_question is null then
        perform app.raise_error('bad_input', 'The question is empty.', 'Write a question.');
    end if;
    return v_question;
end;
$$;
comment on function app.chat_question(text) is
    'A question as it is stored. Errors: bad_input for an empty one or one over 2,000 characters.';

create function app.chat_scopes(org uuid, person uuid) returns text[]
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_before text := coalesce(current_setting('request.jwt.claims', true), '');
    v_scopes text[];
begin
    if person is null then
        return (
            select array[o.id || '/public'] from public.organizations as o
            where o.id = chat_scopes.org and o.status = 'active'
        );
    end if;
    begin
        perform set_config(
            'request.jwt.claims',
            jsonb_build_object('sub', person, 'role', 'authenticated')::text, true
        );
        if org = any(app.org_ids('chat', 'write') || app.own_org_ids('chat', 'write')) then
            v_scopes := app.readable_scopes();
        end if;
    exception when sqlstate 'PT403' then
        v_scopes := null; -- the organisation is suspended or inactive
    end;
    perform set_config('request.jwt.claims', v_before, true);
    return v_scopes;
end;
$$;
comment on function app.chat_scopes(uuid, uuid) is
    'What an asker reads now, as app.readable_scopes says it: a member, or (person null) a visitor '
    'of the organisation. Null when he may not chat there any more.';

create function app.find_quote(content text, quote text)
returns table (start_char integer, end_char integer)
language plpgsql
immutable
set search_path = ''
as $$
declare
    v_blank constant text := '[\s\u00a0\u2007\u202f\ufeff]+';
    v_words text[] := array_remove(regexp_split_to_array(find_quote.quote, v_blank), '');
    v_pattern text;
begin
    -- Less than this could stand anywhere and proves nothing.
    if
        length(array_to_string(v_words, '')) < 10 or length(find_quote.quote) > 2000
        or v_words is null
    then
        return;
    end if;
    select string_agg(regexp_replace(w.word, '[][\\.^$*+?(){}|]', '\\\&', 'g'), v_blank
        order by w.place)
    into v_pattern
    from unnest(v_words) with ordinality as w (word, place);
    start_char := regexp_instr(find_quote.content, v_pattern) - 1;
    if start_char < 0 then
        return;
    end if;
    end_char := regexp_instr(find_quote.content, v_pattern, 1, 1, 1) - 1;
    return next;
end;
$$;
comment on function app.find_quote(text, text) is
    'Where a quote stands in a text, white space aside and case kept: characters from 0, end '
    'excluded. No row when it does not, or has fewer than 10 characters or more than 2,000.';

create function app.check_citations(org uuid, message uuid, scopes text[], quotes jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_citations jsonb;
begin
    -- Whoever withdraws one of these waits until the answer is stored, or was first.
    perform from public.knowledge_documents as d
    inner join app.chat_passages as p on p.org_id = d.org_id and p.document_id = d.id
    where p.org_id = check_citations.org and p.message_id = check_citations.message
    order by d.id
    for share of d;
    with given as (
        select
            q.place,
            case when q.value ->> 'passage' ~ '^\d{1,4}$' then (q.value ->> 'passage')::integer end
                as number,
            q.value ->> 'quote' as quote
        from jsonb_array_elements(quotes) with ordinality as q (value, place)
        where q.place <= 20
    ),

    found as (
        select distinct on (d.id, p.start_char + f.start_char, p.start_char + f.end_char)
            g.place, d.id, p.version, d.source_type, d.title, d.url, p.heading_path,
            p.start_char + f.start_char as start_char, p.start_char + f.end_char as end_char,
            substr(v.content, p.start_char + f.start_char + 1, f.end_char - f.start_char) as quote
        from given as g
        inner join app.chat_passages as p
            on p.org_id = check_citations.org and p.message_id = check_citations.message
            and p.number = g.number
        inner join public.knowledge_documents as d
            on d.org_id = p.org_id and d.id = p.document_id
            and d.status <> 'withdrawn' and d.scope = any(check_citations.scopes)
        inner join app.knowledge_versions as v
            on v.org_id = p.org_id and v.document_id = p.document_id and v.version = p.version
        cross join lateral app.find_quote(
            substr(v.content, p.start_char + 1, p.end_char - p.start_char), g.quote
        ) as f
        order by
            d.id, p.start_char + f.start_char, p.start_char + f.end_char, g.place
    )

    select coalesce(jsonb_agg(
        jsonb_build_object(
            'number', f.number, 'document_id', f.id, 'version', f.version,
            'source_type', f.source_type, 'title', f.title, 'url', f.url,
            'heading', f.heading_path, 'quote', f.quote, 'start_char', f.start_char,
            'end_char', f.end_char
        ) order by f.number
    ), '[]') into v_citations
    from (
        select found.*, row_number() over (order by found.place) as number from found
    ) as f
    where f.number <= 8;
    return v_citations;
end;
$$;
comment on function app.check_citations(uuid, uuid, text[], jsonb) is
    'Of the quotes [{passage, quote}] of an answer those that hold, as they are stored: the '
    'passage was shown for this message, its document is not withdrawn and within the scopes, and '
    'the quote stands in it. At most 8.';

-- 2. Functions: asking

create function app.require_chat(org uuid) returns void
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    if auth.uid() is null or app.agent_id() is not null then
        perform app.raise_error(
            'not_signed_in', 'This needs a signed-in person.', 'Sign in and try again.'
        );
    end if;
    perform app.require_open(require_chat.org, 'write');
    if org = any(app.org_ids('chat', 'write') || app.own_org_ids('chat', 'write')) is not true then
        perform app.raise_error(
            'not_allowed', 'Your role may not chat here.', 'Ask an admin of the organisation.'
        );
    end if;
end;
$$;
comment on function app.require_chat(uuid) is
    'Raises not_signed_in, organization_inactive, organization_suspended or not_allowed unless the '
    'caller is a person who may chat in the organisation.';

create function app.open_chat(p_org uuid) returns public.chat_sessions
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_session public.chat_sessions;
begin
    perform app.require_chat(p_org);
    insert into public.chat_sessions (org_id, channel, user_id, title)
    values (p_org, 'internal', auth.uid(), '')
    returning * into v_session;
    return v_session;
end;
$$;
comment on function app.open_chat(uuid) is 'Body of public.open_chat.';

create function public.open_chat(p_org uuid) returns public.chat_sessions
language sql
set search_path = ''
as $$ select app.open_chat(p_org) $$;
comment on function public.open_chat(uuid) is
    'Opens a conversation of the caller with the knowledge of his organisation. ask does it by '
    'itself when it is given no session. Errors: not_signed_in, not_allowed, '
    'organization_suspended, organization_inactive.';

create function app.add_question(
    org uuid, session uuid, question text, idempotency_key text
) returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_session public.chat_sessions;
    v_position integer;
    v_question uuid;
    v_answer uuid;
begin
    select * into v_session from public.chat_sessions as s
    where s.org_id = add_question.org and s.id = add_question.session
    for update;
    if exists (
        select from public.chat_messages as m
        where
            m.org_id = add_question.org and m.session_id = add_question.session
            and m.status in ('pending', 'streaming')
    ) then
        perform app.raise_error(
            'answer_pending', 'The question before this one is being answered.',
            'Wait for its answer, or open another conversation.'
        );
    end if;
    select coalesce(max(m.position), 0) into v_position from public.chat_messages as m
    where m.org_id = add_question.org and m.session_id = add_question.session;
    insert into public.chat_messages (
        org_id, session_id, user_id, position, role, content, status, idempotency_key
    ) values (
        add_question.org, add_question.session, v_session.user_id, v_position + 1, 'user',
        add_question.question, 'done', add_question.idempotency_key
    )
    returning id into v_question;
    insert into public.chat_messages (org_id, session_id, user_id, position, role, status)
    values (
        add_question.org, add_question.session, v_session.user_id, v_position + 2, 'assistant',
        'pending'
    )
    returning id into v_answer;
    update public.chat_sessions as s
    set
        last_message_at = app.now(), status = 'open',
        title = case
            when s.title = ''
                then left(regexp_replace(add_question.question, '\s+', ' ', 'g'), 80)
            else s.title
        end
    where s.org_id = add_question.org and s.id = add_question.session;
    perform app.record_event(
        add_question.org, 'chat', 'question.asked', 'chat_message', v_question,
        jsonb_build_object('channel', v_session.channel)
    );
    perform app.enqueue(
        'chat.answer', jsonb_build_object('message_id', v_answer), add_question.org,
        'chat.answer/' || v_answer
    );
    return jsonb_build_object(
        'session_id', add_question.session, 'question_id', v_question, 'answer_id', v_answer
    );
end;
$$;
comment on function app.add_question(uuid, uuid, text, text) is
    'Stores a question and its pending answer in a session, and has it answered. Errors: '
    'answer_pending.';

create function app.asked_before(
    org uuid, asker uuid, session uuid, question text, idempotency_key text
) returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_question public.chat_messages;
begin
    if idempotency_key is null then
        return null;
    end if;
    perform pg_advisory_xact_lock(
        hashtextextended(format('chat/%s/%s/%s', org, asker, asked_before.idempotency_key), 0)
    );
    select * into v_question from public.chat_messages as m
    where
        m.org_id = asked_before.org and coalesce(m.user_id, m.session_id) = asked_before.asker
        and m.idempotency_key = asked_before.idempotency_key;
    if not found then
        return null;
    elsif v_question.content <> question or session <> v_question.session_id then
        perform app.raise_error(
            'idempotency_key_reused', 'Another question was asked with this idempotency key.',
            'Use a new key for each question.'
        );
    end if;
    return jsonb_build_object(
        'session_id', v_question.session_id, 'question_id', v_question.id,
        'answer_id', (
            select m.id from public.chat_messages as m
            where
                m.org_id = v_question.org_id and m.session_id = v_question.session_id
                and m.position = v_question.position + 1
        )
    );
end;
$$;
comment on function app.asked_before(uuid, uuid, uuid, text, text) is
    'The ids of a question that the asker (a member, or a visitor''s session) has asked with this '
    'key; null when there is none, and then nobody else asks with it until commit. Errors: '
    'idempotency_key_reused.';

create function app.ask(p_session uuid, p_question text, p_idempotency_key text, p_org uuid)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_question text := app.chat_question(p_question);
    v_key text := app.clean_text(p_idempotency_key, 200);
    v_org uuid := p_org;
    v_session uuid := p_session;
    v_asked jsonb;
begin
    if p_session is not null then
        select s.org_id into v_org from public.chat_sessions as s
        where
            s.id = p_session and s.user_id = auth.uid() and s.org_id = coalesce(p_org, s.org_id);
        if not found then
            perform app.raise_error('not_found', 'There is no such conversation of yours.', null);
        end if;
    elsif p_org is null then
        perform app.raise_error(
            'bad_input', 'Neither p_session nor p_org is given.',
            'Name the conversation, or the organisation to open one in.'
        );
    end if;
    perform app.require_chat(v_org);
    v_asked := app.asked_before(v_org, auth.uid(), p_session, v_question, v_key);
    if v_asked is not null then
        return v_asked;
    end if;
    perform app.rate_limit('chat/' || auth.uid(), 60, interval '1 minute');
    if v_session is null then
        v_session := (app.open_chat(v_org)).id;
    end if;
    return app.add_question(v_org, v_session, v_question, v_key);
end;
$$;
comment on function app.ask(uuid, text, text, uuid) is 'Body of public.ask.';

create function public.ask(
    p_session uuid, p_question text, p_idempotency_key text default null, p_org uuid default null
) returns jsonb
language sql
set search_path = ''
as $$ select app.ask(p_session, p_question, p_idempotency_key, p_org) $$;
comment on function public.ask(uuid, text, text, uuid) is
    'Asks the knowledge of the organisation: {session_id, question_id, answer_id}. The answer '
    'grows in chat_messages: follow it by Realtime or get_answer. p_session null opens a '
    'conversation in p_org. The same idempotency key gives the same ids. At most 2,000 '
    'characters, one question at a time per conversation, 60 per minute and person. Errors: '
    'bad_input, not_found, not_signed_in, not_allowed, answer_pending, idempotency_key_reused, '
    'rate_limited, organization_suspended, organization_inactive.';

create function public.get_answer(p_message uuid) returns public.chat_messages
language plpgsql
stable
set search_path = ''
as $$
declare
    v_message public.chat_messages;
begin
    select * into v_message from public.chat_messages as m where m.id = p_message;
    if not found then
        perform app.raise_error('not_found', 'There is no such message.', null);
    end if;
    return v_message;
end;
$$;
comment on function public.get_answer(uuid) is
    'A message of a conversation the caller may read, as far as it is written. Errors: not_found.';

-- 2. Functions: visitors, whom the function chat serves

create function app.find_visitor_chat(p_session uuid, p_token text) returns public.chat_sessions
language plpgsql
stable
set search_path = ''
as $$
declare
    v_session public.chat_sessions;
begin
    select s.* into v_session
    from public.chat_sessions as s
    inner join public.organizations as o on o.id = s.org_id
    where
        s.id = p_session and s.channel = 'public'
        and s.token_hash = sha256(convert_to(p_token, 'UTF8')) and o.status <> 'inactive';
    if not found then
        perform app.raise_error(
            'not_found', 'There is no such conversation, or its token is another.',
            'Begin a new one: leave out session and token.'
        );
    end if;
    return v_session;
end;
$$;
comment on function app.find_visitor_chat(uuid, text) is
    'The conversation a visitor''s token is for. Errors: not_found.';

create function app.visitor_message(message public.chat_messages) returns jsonb
language sql
stable
set search_path = ''
as $$
    select jsonb_build_object(
        'id', message.id, 'role', message.role, 'status', message.status, 'kind', message.kind,
        'content', message.content,
        'citations', (
            select coalesce(jsonb_agg(c.value - '{document_id,version}'::text[]), '[]')
            from jsonb_array_elements(message.citations) as c
        ),
        'invitation', case
            when message.role = 'assistant' and message.status not in ('pending', 'streaming')
                then jsonb_build_object(
                    'text', app.chat_sentence('invitation'),
                    'url', app.org_setting(message.org_id, 'site_contact_path')
                )
        end,
        'created_at', message.created_at
    )
$$;
comment on function app.visitor_message(public.chat_messages) is
    'A message as a visitor gets it; a finished answer ends with the way to the contact form.';

create function public.ask_as_visitor(
    p_organization text, p_question text, p_session uuid, p_token text, p_idempotency_key text,
    p_address text
) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
    v_question text := app.chat_question(p_question);
    v_key text := app.clean_text(p_idempotency_key, 200);
    v_org record;
    v_session public.chat_sessions;
    v_token text;
    v_asked jsonb;
begin
    perform app.rate_limit('chat/' || app.network_of(p_address), 20, interval '60 seconds');
    select o.id, o.status into v_org from public.organizations as o
    where lower(btrim(p_organization)) in (o.slug, o.id::text);
    if v_org.id is null or v_org.status = 'inactive' then
        perform app.raise_error('organization_not_found', 'No organisation has this address.');
    elsif v_org.status = 'suspended' then
        perform app.raise_error(
            'organization_suspended', 'The chat is closed for now.', 'Try again later.'
        );
    end if;
    if p_session is null then
        v_token := 'chat_' || encode(sha256(uuid_send(gen_random_uuid())
            || uuid_send(gen_random_uuid())), 'hex');
        insert into public.chat_sessions (org_id, channel, token_hash, title)
        values (v_org.id, 'public', sha256(convert_to(v_token, 'UTF8')), '')
        returning * into v_session;
    else
        v_session := app.find_visitor_chat(p_session, p_token);
        if v_session.org_id <> v_org.id then
            perform app.raise_error(
                'not_found', 'There is no such conversation, or its token is another.',
                'Begin a new one: leave out session and token.'
            );
        end if;
        v_asked := app.asked_before(v_org.id, v_session.id, v_session.id, v_question, v_key);
    end if;
    return coalesce(v_asked, app.add_question(v_org.id, v_session.id, v_question, v_key))
        || jsonb_build_object('token', v_token);
end;
$$;
comment on function public.ask_as_visitor(text, text, uuid, text, text, text) is
    'Asks what is public of an organisation (slug or id): {session_id, question_id, answer_id, '
    'token}. Without a session one is opened, and its token is shown only now; else token is null. '
    '20 per 60 s and address. The server only. Errors: bad_input, not_found, '
    'organization_not_found, organization_suspended, answer_pending, idempotency_key_reused, '
    'rate_limited.';

create function public.get_visitor_answer(p_session uuid, p_token text, p_message uuid)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
    v_session public.chat_sessions := app.find_visitor_chat(p_session, p_token);
    v_message public.chat_messages;
begin
    select * into v_message from public.chat_messages as m
    where m.org_id = v_session.org_id and m.session_id = v_session.id and m.id = p_message;
    if not found then
        perform app.raise_error('not_found', 'There is no such message.', null);
    end if;
    return app.visitor_message(v_message);
end;
$$;
comment on function public.get_visitor_answer(uuid, text, uuid) is
    'A message of a visitor''s conversation, as far as it is written. The server only. Errors: '
    'not_found.';

create function public.get_visitor_chat(p_session uuid, p_token text) returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
    v_session public.chat_sessions := app.find_visitor_chat(p_session, p_token);
begin
    return jsonb_build_object(
        'session_id', v_session.id, 'has_lead', v_session.lead_id is not null,
        'messages', (
            select coalesce(jsonb_agg(app.visitor_message(m) order by m.position), '[]')
            from (
                select n.* from public.chat_messages as n
                where n.org_id = v_session.org_id and n.session_id = v_session.id
                order by n.position desc limit 100
            ) as m
        )
    );
end;
$$;
comment on function public.get_visitor_chat(uuid, text) is
    'A visitor''s conversation with its last 100 messages. The server only. Errors: not_found.';

create function public.submit_chat_lead(
    p_session uuid, p_token text, p_name text, p_email text, p_phone text, p_company text,
    p_message text, p_origin_url text, p_consent boolean, p_address text
) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
    v_session public.chat_sessions;
    v_lead uuid := gen_random_uuid();
begin
    -- One limit for both ways in.
    perform app.rate_limit('submit_lead:' || app.network_of(p_address), 5, interval '10 minutes');
    v_session := app.find_visitor_chat(p_session, p_token);
    select * into v_session from public.chat_sessions as s
    where s.org_id = v_session.org_id and s.id = v_session.id
    for update;
    if v_session.lead_id is not null then
        return jsonb_build_object('receipt', v_session.lead_id);
    end if;
    if exists (
        select from public.organizations as o
        where o.id = v_session.org_id and o.status = 'suspended'
    ) then
        perform app.raise_error(
            'organization_suspended', 'The chat is closed for now.', 'Try again later.'
        );
    end if;
    perform app.store_lead(
        v_session.org_id, v_lead, p_name, p_email, p_company, p_phone,
        coalesce(app.clean_text(p_message, 4000), 'Pelo chat: ' || v_session.title),
        p_origin_url, 'chat', p_consent
    );
    update public.chat_sessions as s set lead_id = v_lead
    where s.org_id = v_session.org_id and s.id = v_session.id;
    return jsonb_build_object('receipt', v_lead);
end;
$$;
comment on function public.submit_chat_lead(
    uuid, text, text, text, text, text, text, text, boolean, text
) is
    'A visitor leaves his data in a conversation: a lead of source chat, once per conversation; '
    'again gives the same {receipt}. Name, e-mail or phone, and consent are needed. The server '
    'only. Errors: not_found, lead_invalid, lead_consent_required, bad_input, rate_limited, '
    'organization_suspended.';

-- 2. Functions: answering

create function app.end_answer(
    org uuid, message uuid, status text, kind text, content text, citations jsonb
) returns void
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_channel text;
begin
    update public.chat_messages as m
    set
        status = end_answer.status, kind = end_answer.kind, content = end_answer.content,
        citations = end_answer.citations, finished_at = app.now(), updated_at = app.now(),
        first_text_at = coalesce(m.first_text_at, app.now()),
        latency_ms = least(
            extract(epoch from app.now() - m.created_at) * 1000, 2147483647
        )::integer
    where m.org_id = end_answer.org and m.id = end_answer.message;
    select s.channel into v_channel
    from public.chat_messages as m
    inner join public.chat_sessions as s on s.org_id = m.org_id and s.id = m.session_id
    where m.org_id = end_answer.org and m.id = end_answer.message;
    if end_answer.status = 'done' then
        perform app.record_event(
            end_answer.org, 'chat', 'answer.done', 'chat_message', end_answer.message,
            jsonb_build_object(
                'channel', v_channel, 'kind', end_answer.kind,
                'citations', jsonb_array_length(end_answer.citations)
            )
        );
    elsif end_answer.status = 'abstained' then
        perform app.record_event(
            end_answer.org, 'chat', 'answer.abstained', 'chat_message', end_answer.message,
            jsonb_build_object('channel', v_channel)
        );
    else
        perform app.record_event(
            end_answer.org, 'chat', 'answer.failed', 'chat_message', end_answer.message,
            jsonb_build_object('channel', v_channel)
        );
    end if;
end;
$$;
comment on function app.end_answer(uuid, uuid, text, text, text, jsonb) is
    'Writes how an answer ended, in place of what was streamed, and records it.';

create function app.begin_answer(org uuid, message uuid)
returns table (
    attempt integer, person uuid, audience text, organization text, question text, history jsonb,
    agent_id uuid, is_agent_active boolean, purpose text, persona text
)
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_message public.chat_messages;
    v_agent record;
begin
    select * into v_message from public.chat_messages as m
    where
        m.org_id = begin_answer.org and m.id = begin_answer.message and m.role = 'assistant'
        and m.status in ('pending', 'streaming')
    for update;
    if not found then
        return;
    end if;
    if app.chat_scopes(v_message.org_id, v_message.user_id) is null then
        perform app.end_answer(
            v_message.org_id, v_message.id, 'failed', null, app.chat_sentence('refused'), '[]'
        );
        return;
    end if;
    update public.chat_messages as m
    set attempts = m.attempts + 1, content = '', updated_at = app.now()
    where m.org_id = v_message.org_id and m.id = v_message.id
    returning m.attempts into attempt;
    person := v_message.user_id;
    audience := case when person is null then 'public' else 'internal' end;
    select o.name into organization from public.organizations as o where o.id = v_message.org_id;
    -- Who answers is an agent of the organisation, with the instructions it has there.
    select a.* into v_agent
    from app.agent_for(
        org, case audience when 'public' then 'public_assistant' else 'playbook_assistant' end
    ) as a;
    agent_id := v_agent.id;
    is_agent_active := v_agent.is_active;
    select coalesce(v_agent.purpose, k.purpose), coalesce(v_agent.instructions, k.instructions)
    into purpose, persona
    from app.agent_kinds as k where k.kind = v_agent.kind;
    select m.content into question from public.chat_messages as m
    where
        m.org_id = v_message.org_id and m.session_id = v_message.session_id
        and m.position = v_message.position - 1;
    -- The last turns that were answered, as many as fit.
    select coalesce(
        jsonb_agg(
            jsonb_build_object('question', t.question, 'answer', t.answer) order by t.position
        ), '[]'
    ) into history
    from (
        select
            q.position, q.content as question, left(a.content, 1000) as answer,
            sum(length(q.content) + least(length(a.content), 1000)) over (
                order by q.position desc
            ) as characters
        from public.chat_messages as q
        inner join public.chat_messages as a
            on a.org_id = q.org_id and a.session_id = q.session_id and a.position = q.position + 1
        where
            q.org_id = v_message.org_id and q.session_id = v_message.session_id
            and q.role = 'user' and a.status = 'done'
            and q.position between v_message.position - 13 and v_message.position - 2
    ) as t
    where t.characters <= 6000;
    return next;
end;
$$;
comment on function app.begin_answer(uuid, uuid) is
    'Hands a pending answer to a worker: its attempt, who asks (null: a visitor) and of what '
    'audience, the question, the last turns that were answered (at most 6, 6,000 characters), and '
    'the assistant that answers, playbook_assistant or public_assistant, with its instructions. '
    'What an earlier attempt streamed is dropped. No row when the answer is finished or gone, or '
    'the asker may not chat any more, which ends it.';

create function app.note_passages(org uuid, message uuid, attempt integer, chunks uuid[])
returns table (number integer, title text, heading text, content text)
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_message public.chat_messages;
    v_scopes text[];
begin
    select * into v_message from public.chat_messages as m
    where
        m.org_id = note_passages.org and m.id = note_passages.message
        and m.attempts = note_passages.attempt and m.status in ('pending', 'streaming')
    for update;
    v_scopes := app.chat_scopes(v_message.org_id, v_message.user_id);
    delete from app.chat_passages as p
    where p.org_id = v_message.org_id and p.message_id = v_message.id;
    insert into app.chat_passages (
        org_id, message_id, number, document_id, version, heading_path, start_char, end_char
    )
    select
        v_message.org_id, v_message.id, row_number() over (order by g.place), c.document_id,
        c.version, c.heading_path, c.start_char, c.end_char
    from unnest(note_passages.chunks) with ordinality as g (id, place)
    inner join public.knowledge_chunks as c on c.org_id = v_message.org_id and c.id = g.id
    where c.scope = any(v_scopes);
    return query
    select
        p.number, d.title, p.heading_path,
        substr(v.content, p.start_char + 1, p.end_char - p.start_char)
    from app.chat_passages as p
    inner join public.knowledge_documents as d
        on d.org_id = p.org_id and d.id = p.document_id
    inner join app.knowledge_versions as v
        on v.org_id = p.org_id and v.document_id = p.document_id and v.version = p.version
    where p.org_id = v_message.org_id and p.message_id = v_message.id
    order by p.number;
end;
$$;
comment on function app.note_passages(uuid, uuid, integer, uuid[]) is
    'Notes the passages found for an answer, which are all it may cite, and gives them as they are '
    'shown to the model. Of those found, what the asker may not read is left out.';

create function app.stream_answer(org uuid, message uuid, attempt integer, content text)
returns boolean
language plpgsql
security definer
set search_path = ''
as $$
begin
    update public.chat_messages as m
    set
        status = 'streaming', content = left(stream_answer.content, 20000),
        updated_at = clock_timestamp(),
        first_text_at = coalesce(m.first_text_at, clock_timestamp())
    where
        m.org_id = stream_answer.org and m.id = stream_answer.message
        and m.attempts = stream_answer.attempt and m.status in ('pending', 'streaming');
    return found;
end;
$$;
comment on function app.stream_answer(uuid, uuid, integer, text) is
    'Shows an answer as far as it has come. False when it is another''s by now, or gone.';

create function app.finish_answer(
    org uuid, message uuid, attempt integer, action text, content text, quotes jsonb,
    model text, prompt_tokens integer, completion_tokens integer, cost_brl numeric
) returns text
language plpgsql
security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_message public.chat_messages;
    v_scopes text[];
    v_citations jsonb := '[]';
    v_content text := app.clean_text(left(finish_answer.content, 20000), 20000);
    v_action text := finish_answer.action;
begin
    select * into v_message from public.chat_messages as m
    where
        m.org_id = finish_answer.org and m.id = finish_answer.message
        and m.attempts = finish_answer.attempt and m.status in ('pending', 'streaming')
    for update;
    if not found then
        return 'superseded';
    end if;
    update public.chat_messages as m
    set
        model = finish_answer.model, prompt_tokens = finish_answer.prompt_tokens,
        completion_tokens = finish_answer.completion_tokens, cost_brl = finish_answer.cost_brl
    where m.org_id = v_message.org_id and m.id = v_message.id;
    v_scopes := app.chat_scopes(v_message.org_id, v_message.user_id);
    if v_scopes is null then
        perform app.end_answer(
            v_message.org_id, v_message.id, 'failed', null, app.chat_sentence('refused'), '[]'
        );
        return 'refused';
    end if;
    if v_action in ('answer', 'excerpt') then
        v_citations := app.check_citations(v_message.org_id, v_message.id, v_scopes, quotes);
        if v_action = 'excerpt' then
            -- Its text is its quotes: what does not hold is not shown either.
            select app.chat_sentence('excerpt') || E'\n\n' || string_agg(
                format(
                    E'> %s\n\n— %s [%s]', replace(c.value ->> 'quote', E'\n', E'\n> '),
                    c.value ->> 'title', c.value ->> 'number'
                ), E'\n\n' order by c.place
            ) into v_content
            from jsonb_array_elements(v_citations) with ordinality as c (value, place);
        end if;
        if v_citations = '[]' or v_content is null then
            v_action := 'abstain';
        end if;
    end if;
    if v_action in ('answer', 'excerpt') then
        perform app.end_answer(
            v_message.org_id, v_message.id, 'done', v_action, v_content, v_citations
        );
    elsif v_action = 'handoff' then
        perform app.hand_off(v_message);
    else
        perform app.end_answer(
            v_message.org_id, v_message.id, 'abstained', null, app.chat_sentence('abstained'), '[]'
        );
    end if;
    return v_action;
end;
$$;
comment on function app.finish_answer(
    uuid, uuid, integer, text, text, jsonb, text, integer, integer, numeric
) is
    'Stores an answer (action answer, excerpt, abstain or handoff) with those of its quotes '
    '[{passage, quote}] that hold; with none it abstains. Returns what was stored; refused when '
    'the asker may not chat any more, superseded when the answer is another''s by now.';

create function app.hand_off(message public.chat_messages) returns void
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_question text;
    v_channel text;
begin
    update public.chat_sessions as s set status = 'handed_off'
    where s.org_id = message.org_id and s.id = message.session_id
    returning s.channel into v_channel;
    perform app.end_answer(
        message.org_id, message.id, 'done', 'handoff',
        app.chat_sentence(
            case v_channel when 'internal' then 'handoff_internal' else 'handoff_public' end
        ),
        '[]'
    );
    perform app.record_event(
        message.org_id, 'chat', 'handoff.requested', 'chat_session', message.session_id,
        jsonb_build_object('channel', v_channel)
    );
    if v_channel <> 'internal' then
        return; -- a visitor is somebody to answer once he has left his contact
    end if;
    select m.content into v_question from public.chat_messages as m
    where
        m.org_id = message.org_id and m.session_id = message.session_id
        and m.position = message.position - 1;
    perform app.notify_role(
        message.org_id, 'chat', 'read', 'chat_handoff',
        jsonb_build_object(
            'person', coalesce(
                (select p.full_name from public.profiles as p where p.id = message.user_id),
                'um membro'
            ),
            'question', left(v_question, 300)
        ),
        'chat_handoff/' || message.id, '/chat/' || message.session_id
    );
end;
$$;
comment on function app.hand_off(public.chat_messages) is
    'Passes a question on to a person: a member''s to whoever reads all conversations, a visitor '
    'is shown the way to the contact form.';

create function app.fail_answer(org uuid, message uuid, attempt integer) returns boolean
language plpgsql
security definer
set search_path = ''
as $$
begin
    perform from public.chat_messages as m
    where
        m.org_id = fail_answer.org and m.id = fail_answer.message
        and m.attempts = fail_answer.attempt and m.status in ('pending', 'streaming')
    for update;
    if not found then
        return false;
    end if;
    perform app.end_answer(
        fail_answer.org, fail_answer.message, 'failed', null, app.chat_sentence('failed'), '[]'
    );
    return true;
end;
$$;
comment on function app.fail_answer(uuid, uuid, integer) is
    'Says that a question could not be answered; false when the answer is another''s by now.';

create function app.fail_abandoned_answers() returns integer
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_message record;
    v_failed integer := 0;
begin
    for v_message in
        select m.org_id, m.id, m.attempts from public.chat_messages as m
        where
            m.status in ('pending', 'streaming')
            and m.updated_at < app.now() - interval '2 minutes'
            and not exists (
                select from pgqueuer.pgqueuer as q
                where q.dedupe_key = 'chat.answer/' || m.id and q.status in ('queued', 'picked')
            )
        order by m.updated_at
        limit 1000
    loop
        if app.fail_answer(v_message.org_id, v_message.id, v_message.attempts) then
            v_failed := v_failed + 1;
        end if;
    end loop;
    return v_failed;
end;
$$;
comment on function app.fail_abandoned_answers() is
    'Job: ends answers that no job is at any more, because it was held or discarded. Returns how '
    'many.';

create function app.remove_old_visitor_chats() returns bigint
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_removed bigint;
begin
    delete from public.chat_sessions as s
    using public.organizations as o
    where
        o.id = s.org_id and s.channel <> 'internal'
        and s.last_message_at < app.now() - make_interval(
            days => (app.org_setting(o.id, 'chat_visitor_retention_days'))::integer
        );
    get diagnostics v_removed = row_count;
    return v_removed;
end;
$$;
comment on function app.remove_old_visitor_chats() is
    'Removes the conversations of visitors nobody has written in for '
    'chat_visitor_retention_days. Returns how many.';

-- 3. Triggers

create trigger chat_messages_10_guard_status
before update of status on public.chat_messages
for each row when (old.status is distinct from new.status)
execute function app.guard_move('chat_message', 'status');

-- 5. Access

select app.protect_table('public.chat_sessions', 'chat', 'user_id', '{select,delete}');
select app.protect_table('public.chat_messages', 'chat', 'user_id', '{select}');
alter table app.chat_passages enable row level security;

-- A hosted project tells a browser how an answer grows over this publication; policies decide whom.
do $$
begin
    if exists (select from pg_catalog.pg_publication as p where p.pubname = 'supabase_realtime') then
        alter publication supabase_realtime add table public.chat_messages;
    end if;
end;
$$;

grant execute on function
app.open_chat(uuid), public.open_chat(uuid), app.ask(uuid, text, text, uuid),
public.ask(uuid, text, text, uuid), public.get_answer(uuid)
to authenticated, service_role;
grant execute on function
app.chat_sentence(text), app.chat_question(text), app.find_visitor_chat(uuid, text),
app.visitor_message(public.chat_messages),
app.asked_before(uuid, uuid, uuid, text, text), app.add_question(uuid, uuid, text, text),
app.store_lead(uuid, uuid, text, text, text, text, text, text, text, boolean),
public.ask_as_visitor(text, text, uuid, text, text, text),
public.get_visitor_answer(uuid, text, uuid), public.get_visitor_chat(uuid, text),
public.submit_chat_lead(uuid, text, text, text, text, text, text, text, boolean, text),
app.begin_answer(uuid, uuid), app.note_passages(uuid, uuid, integer, uuid[]),
app.stream_answer(uuid, uuid, integer, text),
app.finish_answer(
    uuid, uuid, integer, text, text, jsonb, text, integer, integer, numeric
),
app.fail_answer(uuid, uuid, integer), app.fail_abandoned_answers(),
app.remove_old_visitor_chats()
to service_role;

-- 6. Reference rows

insert into app.error_keys (key, http, meaning) values
('answer_pending', 409, 'The question before is still being answered.'),
('chat_message_move_refused', 409, 'The answer is finished and stays as it is.');

insert into app.allowed_moves (machine, from_state, to_state) values
('chat_messages', 'pending', 'streaming'),
('chat_messages', 'pending', 'done'),
('chat_messages', 'pending', 'failed'),
('chat_messages', 'pending', 'abstained'),
('chat_messages', 'streaming', 'done'),
('chat_messages', 'streaming', 'failed'),
('chat_messages', 'streaming', 'abstained');

insert into app.job_types (entrypoint, latency_class, description) values
('chat.answer', 'high_priority', 'Answers a question from the knowledge.');

insert into app.setting_definitions (key, kind, minimum, maximum, default_value, description) values
(
    'chat_visitor_retention_days', 'integer', 1, 730, '90',
    'Days after which a visitor''s conversation is removed; a lead he left stays.'
),
(
    'site_contact_path', 'text', null, 200, '"/contato"',
    'Page of the site with the contact form, to which the chat leads. Public.'
);

insert into app.event_types (module, event_type, description, payload_keys) values
('chat', 'question.asked', 'Somebody asked the knowledge.', '{channel}'),
('chat', 'answer.done', 'A question was answered.', '{channel,kind,citations}'),
('chat', 'answer.abstained', 'The knowledge did not hold an answer.', '{channel}'),
('chat', 'answer.failed', 'A question could not be answered.', '{channel}'),
('chat', 'handoff.requested', 'A question was passed on to a person.', '{channel}');

insert into app.notification_templates (
    template, category, description, title, body, variables
) values
(
    'chat_handoff', 'chat', 'A member asked the chat for a person.',
    'Pergunta de {person} no chat',
    '{person} pediu uma resposta de uma pessoa: {question}',
    '{"person": "text", "question": "text"}'
);
