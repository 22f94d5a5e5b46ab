-- Core: schemas, default privileges, clock, error keys, allowed moves, checks of Brazilian
-- documents and text.
-- Depends on: a Supabase database (roles anon, authenticated, service_role; schema auth).
-- Asked for by: architecture §4, access "The only policy forms", domain §3.

-- 0. Schemas and default privileges: nothing is reachable until a migration grants it by name

create schema app;
comment on schema app is
    'Machinery behind the API: helpers, triggers, catalogues. Not exposed over REST.';
create schema partitions;
comment on schema partitions is
    'Partitions of the append-only tables. Nobody but the owner reaches them.';

do $$
begin
    if to_regrole('analyst') is null then
        create role analyst nologin noinherit;
    end if;
end;
$$;
comment on role analyst is
    'Group of the read-only SQL logins; what a login sees stands in app.analyst_grants.';

alter default privileges revoke execute on functions from public;
alter default privileges in schema public revoke all on tables from anon, authenticated, public;
alter default privileges in schema public revoke all on sequences from anon, authenticated, public;
alter default privileges in schema public revoke all on functions from anon, authenticated, public;
revoke create on schema public from public;
grant usage on schema public to anon, authenticated, service_role, analyst;
grant usage on schema app to anon, authenticated, service_role, analyst;

-- 1. Tables

create table app.error_keys (
    key text primary key constraint error_keys_key_check check (key ~ '^[a-z][a-z0-9_]*$'),
    http integer not null constraint error_keys_http_check check (http between 400 and 599),
    meaning text not null
);
comment on table app.error_keys is
    '[core] Every error a caller can meet: the message of the answer, its HTTP status, what it '
    'means.';

create table app.allowed_moves (
    machine text not null,
    from_state text not null,
    to_state text not null,
    primary key (machine, from_state, to_state)
);
comment on table app.allowed_moves is
    '[core] State machines as data: a row of the table named machine may go from from_state to '
    'to_state.';

create table app.rate_hits (
    bucket text not null,
    hit_at timestamptz not null,
    id uuid not null default gen_random_uuid(),
    primary key (bucket, hit_at, id)
);
comment on table app.rate_hits is
    '[core] Recent hits of rate-limited doors, per bucket; rows older than the limit''s window '
    'are removed on the next hit.';
create index rate_hits_hit_at_idx on app.rate_hits (hit_at);

-- 2. Functions: clock. What runs for every row or request is plpgsql here, also where it is one
-- expression: Postgres keeps its plan for the session, whereas an SQL function that cannot be
-- inlined (a fixed search_path forbids it) is parsed and planned again by each statement.

create function app.now() returns timestamptz
language plpgsql
stable
set search_path = ''
as $$
begin
    return coalesce(
        nullif(current_setting('app.now', true), '')::timestamptz, pg_catalog.now()
    );
end;
$$;
comment on function app.now() is
    'The current moment: the transaction''s start, or the session setting app.now where a test '
    'has set it. No API caller can set it.';

create function app.month_start(day date) returns date
language sql
immutable
set search_path = ''
as $$ select pg_catalog.date_trunc('month', day::timestamp)::date $$;
comment on function app.month_start(date) is 'First day of the month a day lies in.';

-- 2. Functions: errors

create function app.raise_error(key text, detail text default null, hint text default null)
returns void
language plpgsql
set search_path = ''
as $$
declare
    v_http integer;
begin
    select e.http into v_http from app.error_keys as e where e.key = raise_error.key;
    if v_http is null then
        raise exception 'error key % is not registered in app.error_keys', raise_error.key;
    end if;
    raise exception using
        errcode = 'PT' || v_http,
        message = raise_error.key,
        detail = coalesce(raise_error.detail, ''),
        hint = coalesce(raise_error.hint, '');
end;
$$;
comment on function app.raise_error(text, text, text) is
    'Raises a registered error: SQLSTATE PT + HTTP status, the key as message. The one way to '
    'refuse.';

-- 2. Functions: state machines

create function app.is_allowed_move(machine text, from_state text, to_state text) returns boolean
language sql
stable
set search_path = ''
as $$
    select exists (
        select from app.allowed_moves as m
        where
            m.machine = is_allowed_move.machine
            and m.from_state = is_allowed_move.from_state
            and m.to_state = is_allowed_move.to_state
    )
$$;
comment on function app.is_allowed_move(text, text, text) is
    'Whether a row of the named table may go from one state to the other.';

create function app.guard_move() returns trigger
language plpgsql
set search_path = ''
as $$
declare
    v_from text := to_jsonb(old) ->> tg_argv[1];
    v_to text := to_jsonb(new) ->> tg_argv[1];
begin
    if not app.is_allowed_move(tg_table_name, v_from, v_to) then
        perform app.raise_error(
            tg_argv[0] || '_move_refused',
            format('A %s cannot go from %s to %s.', replace(tg_argv[0], '_', ' '), v_from, v_to),
            (
                select 'Allowed from here: ' || coalesce(string_agg(m.to_state, ', '), 'nothing')
                    || '.'
                from app.allowed_moves as m
                where m.machine = tg_table_name and m.from_state = v_from
            )
        );
    end if;
    return new;
end;
$$;
comment on function app.guard_move() is
    'Trigger (entity, state column): refuses a move that app.allowed_moves does not list, as '
    '<entity>_move_refused.';

-- 2. Functions: checks of text and documents

create function app.normalize(value text) returns text
language sql
immutable
set search_path = ''
as $$
    select translate(
        lower(value),
        'áàâãäåéèêëíìîïóòôõöúùûüçñýÿ',
        'aaaaaaeeeeiiiiooooouuuucnyy'
    )
$$;
comment on function app.normalize(text) is 'Lower case without accents, for comparison and search.';

create function app.slugify(value text) returns text
language sql
immutable
set search_path = ''
as $$ select trim(both '-' from regexp_replace(app.normalize(value), '[^a-z0-9]+', '-', 'g')) $$;
comment on function app.slugify(text) is
    'A title as a slug: lower case, no accents, words joined by hyphens.';

create function app.is_slug(value text) returns boolean
language sql
immutable
set search_path = ''
as $$ select value ~ '^[a-z0-9]+(-[a-z0-9]+)*$' and length(value) <= 120 $$;
comment on function app.is_slug(text) is 'Whether a text is a slug of at most 120 characters.';

create function app.clean_text(value text, max_length integer) returns text
language plpgsql
immutable
set search_path = ''
as $$
declare
    v_clean text := nullif(
        btrim(regexp_replace(value, '[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]', '', 'g'), E' \t\r\n'), ''
    );
begin
    if length(v_clean) > max_length then
        perform app.raise_error(
            'bad_input', format('A text is longer than %s characters.', max_length), 'Shorten it.'
        );
    end if;
    return v_clean;
end;
$$;
comment on function app.clean_text(text, integer) is
    'A text typed by a stranger: control characters removed, trimmed, empty as null; too long is '
    'bad_input.';

create function app.is_valid_email(value text) returns boolean
language sql
immutable
set search_path = ''
as $$
    select
        length(value) <= 254
        and split_part(value, '@', 1) ~ '^[A-Za-z0-9.!#$%&''*+/=?^_`{|}~-]{1,64}$'
        and split_part(value, '@', 2)
            ~ '^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z0-9-]{1,62}[A-Za-z0-9]$'
        and split_part(value, '@', 3) = ''
        and value !~ '(^\.|\.\.|\.@|@$|@.*@)'
$$;
comment on function app.is_valid_email(text) is
    'Whether a text is an e-mail address as the HTML standard defines it, with a dotted domain '
    'and no stray dots.';

create function app.is_time_zone(value text) returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
    if value !~ '^[A-Za-z]+(/[A-Za-z0-9_+-]+)+$' and value <> 'UTC' then
        return false;
    end if;
    perform pg_catalog.timezone(value, timestamptz '2026-01-01 00:00+00');
    return true;
exception when invalid_parameter_value then
    return false;
end;
$$;
comment on function app.is_time_zone(text) is
    'Whether a text names a zone of the tz database (Area/City, or UTC).';

create function app.normalize_document(value text) returns text
language sql
immutable
set search_path = ''
as $$ select nullif(upper(regexp_replace(value, '[^A-Za-z0-9]', '', 'g')), '') $$;
comment on function app.normalize_document(text) is
    'A CPF or CNPJ without punctuation, upper case; empty as null.';

create function app.check_digit(value text, weights integer[]) returns integer
language plpgsql
immutable
strict
set search_path = ''
as $$
declare
    v_total integer := 0;
begin
    -- A digit counts as itself, a letter as its ASCII code minus 48 (Receita Federal, IN RFB
    -- 2.229/2024).
    for v_place in 1 .. cardinality(weights) loop
        v_total := v_total + (ascii(substr(value, v_place, 1)) - 48) * weights[v_place];
    end loop;
    return case when v_total % 11 < 2 then 0 else 11 - v_total % 11 end;
end;
$$;
comment on function app.check_digit(text, integer[]) is
    'Modulus-11 check digit of the leading characters of a CPF or CNPJ for the given weights.';

create function app.is_valid_cpf(value text) returns boolean
language plpgsql
immutable
strict
set search_path = ''
as $$
begin
    return case
        when value !~ '^\d{11}$' or value ~ '^(\d)\1{10}$' then false
        else
            app.check_digit(value, '{10,9,8,7,6,5,4,3,2}') = substr(value, 10, 1)::integer
            and app.check_digit(value, '{11,10,9,8,7,6,5,4,3,2}') = substr(value, 11, 1)::integer
    end;
end;
$$;
comment on function app.is_valid_cpf(text) is
    'Whether a text is a CPF: 11 bare digits with right check digits, not all the same.';

create function app.is_valid_cnpj(value text) returns boolean
language plpgsql
immutable
strict
set search_path = ''
as $$
begin
    return case
        when value !~ '^[0-9A-Z]{12}\d{2}$' or value ~ '^(.)\1{13}$' then false
        else
            app.check_digit(value, '{5,4,3,2,9,8,7,6,5,4,3,2}') = substr(value, 13, 1)::integer
            and app.check_digit(value, '{6,5,4,3,2,9,8,7,6,5,4,3,2}')
            = substr(value, 14, 1)::integer
    end;
end;
$$;
comment on function app.is_valid_cnpj(text) is
    'Whether a text is a CNPJ: 12 bare upper-case letters or digits and two right check digits '
    '(alphanumeric since 07/2026, IN RFB 2.229/2024).';

create function app.is_valid_document(value text) returns boolean
language plpgsql
immutable
strict
set search_path = ''
as $$
begin
    return app.is_valid_cpf(value) or app.is_valid_cnpj(value);
end;
$$;
comment on function app.is_valid_document(text) is 'Whether a text is a bare CPF or CNPJ.';

-- 2. Functions: the caller of a request

create function app.claims() returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
    return nullif(current_setting('request.jwt.claims', true), '')::jsonb;
end;
$$;
comment on function app.claims() is 'Claims of the request''s token; null outside a request.';

create function app.agent_id() returns uuid
language plpgsql
stable
set search_path = ''
as $$
declare
    v_id text := app.claims() #>> '{app_metadata,agent_id}';
begin
    -- A malformed id is an agent still, and nobody: never the person the token may also name.
    if v_id is not null and not pg_catalog.pg_input_is_valid(v_id, 'uuid') then
        return '00000000-0000-0000-0000-000000000000';
    end if;
    return v_id::uuid;
end;
$$;
comment on function app.agent_id() is
    'The AI agent a request acts as, from app_metadata, which only the server can write; null for '
    'people, zeros for a malformed id.';

create function app.agent_claim(variadic path text[]) returns uuid
language plpgsql
stable
set search_path = ''
as $$
declare
    v_id text := app.claims() -> 'app_metadata' #>> path;
begin
    return case when pg_catalog.pg_input_is_valid(v_id, 'uuid') then v_id::uuid end;
end;
$$;
comment on function app.agent_claim(text[]) is
    'An id an AI agent''s request carries in app_metadata: agent_org_id, or agent_contact with '
    'client_id, lead_id or session_id. Null where there is none or it is malformed.';

create function app.serves_contact() returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
    return app.agent_id() is not null and app.claims() -> 'app_metadata' ? 'agent_contact';
end;
$$;
comment on function app.serves_contact() is
    'Whether the request is of an AI agent that talks to a customer or visitor: whatever stands in '
    'agent_contact, such an agent reaches what that contact could reach, and no more.';

create function app.request_header(name text) returns text
language plpgsql
stable
set search_path = ''
as $$
begin
    return nullif(current_setting('request.headers', true), '')::jsonb ->> lower(name);
end;
$$;
comment on function app.request_header(text) is
    'A header of the request (names in lower case); null outside a request.';

create function app.request_id() returns text
language plpgsql
stable
set search_path = ''
as $$
begin
    return left(
        coalesce(
            nullif(current_setting('app.request_id', true), ''),
            nullif(current_setting('request.headers', true), '')::jsonb ->> 'x-request-id'
        ), 100
    );
end;
$$;
comment on function app.request_id() is
    'Correlation id of the request or job; null where there is none.';

create function app.client_address() returns text
language sql
stable
set search_path = ''
as $$
    -- The last entry of x-forwarded-for is the one our own edge appended; earlier ones are the
    -- caller's word.
    select coalesce(
        app.request_header('cf-connecting-ip'),
        nullif(btrim(split_part(app.request_header('x-forwarded-for'), ',', -1)), ''),
        'unknown'
    )
$$;
comment on function app.client_address() is
    'Network address of the caller as the gateway saw it; unknown outside a request.';

create function app.network_of(address text) returns text
language plpgsql
immutable
set search_path = ''
as $$
declare
    v_address text := regexp_replace(address, '^::ffff:(?=[0-9.]+$)', '');
begin
    -- Not one expression: the planner works out a cast of a known text before the check beside it.
    if not pg_catalog.pg_input_is_valid(v_address, 'inet') then
        return v_address;
    elsif family(v_address::inet) = 4 then
        return v_address;
    end if;
    -- One IPv6 line has 2^64 addresses: as many tries as one likes, if each were counted alone.
    return host(network(set_masklen(v_address::inet, 64)));
end;
$$;
comment on function app.network_of(text) is
    'What a limit per address counts by: the IPv4 address, or the /64 network of an IPv6 address.';

create function app.client_network() returns text
language sql
stable
set search_path = ''
as $$ select app.network_of(app.client_address()) $$;
comment on function app.client_network() is
    'What a limit per caller counts by; see app.network_of.';

create function app.rate_limit(bucket text, max_hits integer, per interval) returns void
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_blocking timestamptz;
begin
    perform pg_advisory_xact_lock(hashtextextended(rate_limit.bucket, 0));
    delete from app.rate_hits as h
    where h.bucket = rate_limit.bucket and h.hit_at <= app.now() - rate_limit.per;
    select h.hit_at into v_blocking from app.rate_hits as h
    where h.bucket = rate_limit.bucket
    order by h.hit_at desc
    limit 1 offset rate_limit.max_hits - 1;
    if found then
        perform app.raise_error(
            'rate_limited', format('More than %s in %s.', rate_limit.max_hits, rate_limit.per),
            format(
                'Try again in %s s.',
                ceil(extract(epoch from v_blocking + rate_limit.per - app.now()))
            )
        );
    end if;
    insert into app.rate_hits (bucket, hit_at) values (rate_limit.bucket, app.now());
end;
$$;
comment on function app.rate_limit(text, integer, interval) is
    'Counts a hit of the bucket; raises rate_limited (429) when the sliding window already holds '
    'max_hits.';

create function app.refuse_change() returns trigger
language plpgsql
set search_path = ''
as $$
begin
    perform app.raise_error(
        'append_only',
        format('Rows of %s are never changed.', tg_table_name),
        null
    );
end;
$$;
comment on function app.refuse_change() is
    'Trigger: refuses update, delete and truncate of an append-only table.';

create function app.touch() returns trigger
language plpgsql
set search_path = ''
as $$
begin
    new.updated_at := app.now();
    return new;
end;
$$;
comment on function app.touch() is 'Trigger: keeps updated_at.';

-- 5. Access

alter table app.error_keys enable row level security;
alter table app.allowed_moves enable row level security;
alter table app.rate_hits enable row level security;
create policy error_keys_select on app.error_keys for select
to anon, authenticated, service_role, analyst using (true);
create policy allowed_moves_select on app.allowed_moves for select
to anon, authenticated, service_role, analyst using (true);
grant select on app.error_keys, app.allowed_moves to anon, authenticated, service_role, analyst;

grant execute on function
app.now(), app.month_start(date), app.raise_error(text, text, text),
    app.is_allowed_move(text, text, text),
app.normalize(text), app.slugify(text), app.is_slug(text), app.clean_text(text, integer),
app.is_valid_email(text), app.is_time_zone(text), app.normalize_document(text),
app.check_digit(text, integer[]), app.is_valid_cpf(text), app.is_valid_cnpj(text),
app.is_valid_document(text), app.claims(), app.agent_id(), app.agent_claim(text[]),
app.serves_contact(), app.request_header(text), app.request_id(),
app.client_address(), app.network_of(text), app.client_network()
to anon, authenticated, service_role, analyst;

-- 6. Reference rows

insert into app.error_keys (key, http, meaning) values
('bad_input', 400, 'An argument is missing, malformed or too long.'),
('not_signed_in', 401, 'The act needs a signed-in person.'),
('not_allowed', 403, 'The caller''s role does not allow the act in this organisation.'),
('organization_inactive', 403, 'The organisation is inactive: nothing of it is served.'),
('organization_suspended', 403, 'The organisation is suspended: it may be read, not written.'),
('not_found', 404, 'There is no such row, or the caller may not see it.'),
('append_only', 409, 'The row belongs to a record that is never changed.'),
('user_not_member', 422, 'The person named is not a member of the organisation.'),
('keys_are_immutable', 422, 'org_id, id, created_at and created_by of a row cannot be changed.'),
('event_type_unknown', 422, 'The event is not in the catalogue app.event_types.'),
('rate_limited', 429, 'Too many requests; wait.'),
('queue_missing', 500, 'The job queue''s schema is not installed; run nessos db push.');
