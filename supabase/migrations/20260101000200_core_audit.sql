-- Core audit: the append-only audit log with its sealed hash chain, and API keys.
-- Depends on: core, core_access.
-- Asked for by: domain §3 (audit_log, api_keys); AuZap's immutable audit trail.

-- 1. Tables

create table public.audit_log (
    org_id uuid not null,
    id uuid not null default gen_random_uuid(),
    occurred_at timestamptz not null default app.now(),
    actor_id uuid,
    table_name text not null,
    row_id text not null,
    action text not null constraint audit_log_action_check
        check (action in ('insert', 'update', 'delete')),
    changes jsonb not null,
    request_id text,
    xid xid8 not null default pg_current_xact_id(),
    primary key (org_id, id)
);
comment on table public.audit_log is
    '[core] Who changed what in memberships, permissions, contracts, money, policies and '
    'approvals. Append only; it outlives what it tells of, hence no foreign keys.';
comment on column public.audit_log.actor_id is
    'Person or agent; null for the worker and operators.';
comment on column public.audit_log.row_id is
    'Primary key of the row without org_id, parts joined by /.';
comment on column public.audit_log.changes is
    'Column → [old, new]; personal data and secrets appear as ***.';
comment on column public.audit_log.xid is 'Transaction that wrote the row; seals follow it.';
create index audit_log_xid_idx on public.audit_log (org_id, xid);
create index audit_log_row_idx on public.audit_log (org_id, table_name, row_id, occurred_at);

create table public.audit_seals (
    org_id uuid not null,
    seal_number bigint not null,
    audit_id uuid not null,
    xid xid8 not null,
    row_hash bytea not null,
    chain_hash bytea not null,
    sealed_at timestamptz not null default app.now(),
    primary key (org_id, seal_number),
    unique (org_id, audit_id)
);
comment on table public.audit_seals is
    '[core] Hash chain over an organisation''s audit rows: one seal per row, numbered without '
    'gaps, written by a job.';
comment on column public.audit_seals.row_hash is 'SHA-256 of the audit row as JSON.';
comment on column public.audit_seals.chain_hash is
    'SHA-256 of the previous seal''s chain hash followed by row_hash.';

create table public.api_keys (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    name text not null constraint api_keys_name_check check (length(btrim(name)) between 1 and 100),
    scopes text[] not null
        constraint api_keys_scopes_check check (cardinality(scopes) > 0
            and scopes <@ '{indicators:write}'),
    key_hash bytea not null,
    key_prefix text not null,
    rate_per_minute integer not null default 60
        constraint api_keys_rate_check check (rate_per_minute between 1 and 10000),
    expires_at timestamptz,
    last_used_at timestamptz,
    revoked_at timestamptz,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    primary key (org_id, id)
);
comment on table public.api_keys is
    '[core] Keys of machines that write to an organisation; only the hash is kept.';
comment on column public.api_keys.key_hash is 'SHA-256 of the key that create_api_key showed once.';
comment on column public.api_keys.last_used_at is 'To the minute; null = never used.';
comment on column public.api_keys.key_prefix is 'First characters of the key, to tell keys apart.';
create index api_keys_key_hash_idx on public.api_keys (key_hash);

-- 2. Functions

create function app.masked_columns(target oid) returns text[]
language sql
stable
security definer
set search_path = ''
as $$
    select coalesce(array_agg(a.attname::text), '{}')
    from pg_catalog.pg_attribute as a
    where
        a.attrelid = target and a.attnum > 0 and not a.attisdropped
        and (
            a.attname like '%\_hash'
            or pg_catalog.col_description(a.attrelid, a.attnum) like '[pii]%'
        )
$$;
comment on function app.masked_columns(oid) is
    'Columns of a table that logs never show: those whose comment starts with [pii], and hashes.';

create function app.audit_row() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_old jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) end;
    v_new jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) end;
    v_row jsonb := coalesce(v_new, v_old);
    v_masked text[] := app.masked_columns(tg_relid);
    v_changes jsonb;
begin
    select jsonb_object_agg(
        cell.key,
        case when cell.key = any (v_masked) then '["***", "***"]'::jsonb
            else jsonb_build_array(v_old -> cell.key, v_new -> cell.key) end
    )
    into v_changes
    from jsonb_each(v_row) as cell (key, value)
    where
        cell.key <> 'updated_at'
        and (v_old -> cell.key) is distinct from (v_new -> cell.key)
        and not (coalesce(v_old -> cell.key, 'null') = 'null'
            and coalesce(v_new -> cell.key, 'null') = 'null');
    if v_changes is not null then
        insert into public.audit_log (org_id, actor_id, table_name, row_id, action, changes,
            request_id)
        values (
            (v_row ->> case tg_table_name when 'organizations' then 'id' else 'org_id' end)::uuid,
            coalesce(app.agent_id(), auth.uid()), tg_table_name,
            coalesce(
                v_row ->> 'id', v_row ->> 'user_id',
                concat_ws('/', v_row ->> 'role', v_row ->> 'module')
            ),
            lower(tg_op), v_changes, app.request_id()
        );
    end if;
    return null;
end;
$$;
comment on function app.audit_row() is
    'Trigger: records who changed which columns of the row, from what to what.';

create function app.audit_row_hash(entry public.audit_log) returns bytea
language sql
stable
set search_path = ''
set timezone = 'UTC'
as $$ select sha256(convert_to(to_jsonb(entry)::text, 'UTF8')) $$;
comment on function app.audit_row_hash(public.audit_log) is
    'SHA-256 of an audit row as JSON, moments in UTC.';

create function app.seal_audit_log() returns bigint
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_horizon xid8 := pg_snapshot_xmin(pg_current_snapshot());
    v_entry public.audit_log;
    v_org uuid;
    v_number bigint;
    v_chain bytea;
    v_row_hash bytea;
    v_sealed bigint := 0;
begin
    if not pg_try_advisory_xact_lock(hashtextextended('app.seal_audit_log', 0)) then
        return 0; -- another worker is sealing
    end if;
    for v_entry in
        select a.* from public.audit_log as a
        where
            a.xid < v_horizon
            and not exists (
                select from public.audit_seals as s where s.org_id = a.org_id and s.audit_id = a.id
            )
            and a.xid > coalesce(
                (select s.xid from public.audit_seals as s where s.org_id = a.org_id
                    order by s.seal_number desc limit 1),
                '0'::xid8
            )
        order by a.org_id, a.xid, a.occurred_at, a.id
    loop
        if v_org is distinct from v_entry.org_id then
            v_org := v_entry.org_id;
            select s.seal_number, s.chain_hash into v_number, v_chain
            from public.audit_seals as s where s.org_id = v_org order by s.seal_number desc limit 1;
        end if;
        v_number := coalesce(v_number, 0) + 1;
        v_row_hash := app.audit_row_hash(v_entry);
        v_chain := sha256(coalesce(v_chain, ''::bytea) || v_row_hash);
        insert into public.audit_seals (org_id, seal_number, audit_id, xid, row_hash, chain_hash)
        values (v_org, v_number, v_entry.id, v_entry.xid, v_row_hash, v_chain);
        v_sealed := v_sealed + 1;
    end loop;
    return v_sealed;
end;
$$;
comment on function app.seal_audit_log() is
    'Seals every audit row of finished transactions, in transaction order, outside user '
    'transactions. Returns how many.';

create function app.verify_audit_chain(org uuid)
returns table (problem text, seal_number bigint, audit_id uuid)
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    perform app.require_access(org, 'admin', 'read');
    return query
    with seals as (
        select
            s.*,
            lag(s.chain_hash, 1, ''::bytea) over (order by s.seal_number) as previous_hash,
            row_number() over (order by s.seal_number) as expected_number
        from public.audit_seals as s
        where s.org_id = org
    )
    select
        case
            when s.seal_number <> s.expected_number
                or s.chain_hash <> sha256(s.previous_hash || s.row_hash)
                then 'chain_broken'
            when a.id is null then 'missing'
            else 'altered'
        end,
        s.seal_number, s.audit_id
    from seals as s
    left join public.audit_log as a on a.org_id = s.org_id and a.id = s.audit_id
    where
        s.seal_number <> s.expected_number
        or s.chain_hash <> sha256(s.previous_hash || s.row_hash)
        or a.id is null
        or app.audit_row_hash(a) <> s.row_hash
    union all
    -- A row of an already sealed transaction that has no seal was put in afterwards.
    select 'inserted', null, a.id
    from public.audit_log as a
    where
        a.org_id = org
        and a.xid <= (select max(s.xid) from seals as s)
        and not exists (select from seals as s where s.audit_id = a.id)
    order by 2 nulls last;
end;
$$;
comment on function app.verify_audit_chain(uuid) is 'Body of public.verify_audit_chain.';

create function public.verify_audit_chain(org uuid)
returns table (problem text, seal_number bigint, audit_id uuid)
language sql
stable
set search_path = ''
as $$ select * from app.verify_audit_chain(org) $$;
comment on function public.verify_audit_chain(uuid) is
    'Checks the organisation''s sealed audit rows; no row means intact. problem: altered, '
    'inserted, missing, or chain_broken (a seal was tampered with). Owners and admins. Errors: '
    'not_allowed.';

create function app.create_api_key(
    org uuid, name text, scopes text[], expires_at timestamptz, rate_per_minute integer
) returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_key text := 'nos_' || encode(sha256(uuid_send(gen_random_uuid())
        || uuid_send(gen_random_uuid())), 'hex');
    v_row public.api_keys;
begin
    perform app.require_manager(org, 2);
    if create_api_key.expires_at <= app.now() then
        perform app.raise_error('bad_input', 'A key cannot expire in the past.', null);
    end if;
    -- What a key may be is said once, by the constraints of its table.
    begin
        insert into public.api_keys (
            org_id, name, scopes, key_hash, key_prefix, expires_at, rate_per_minute
        ) values (
            org, btrim(create_api_key.name), create_api_key.scopes,
            sha256(convert_to(v_key, 'UTF8')), left(v_key, 12), create_api_key.expires_at,
            coalesce(create_api_key.rate_per_minute, 60)
        )
        returning * into v_row;
    exception when check_violation or not_null_violation then
        perform app.raise_error(
            'bad_input', 'A key needs a name, known scopes and 1 to 10000 requests a minute.',
            'The scopes stand at api_keys in the data dictionary.'
        );
    end;
    return jsonb_build_object('id', v_row.id, 'key', v_key, 'key_prefix', v_row.key_prefix,
        'scopes', v_row.scopes, 'expires_at', v_row.expires_at);
end;
$$;
comment on function app.create_api_key(uuid, text, text[], timestamptz, integer) is
    'Body of public.create_api_key.';

create function public.create_api_key(
    org uuid, name text, scopes text[], expires_at timestamptz default null,
        rate_per_minute integer default 60
) returns jsonb
language sql
set search_path = ''
as $$ select app.create_api_key(org, name, scopes, expires_at, rate_per_minute) $$;
comment on function public.create_api_key(uuid, text, text[], timestamptz, integer) is
    'Makes a key for a machine; the answer holds the key, which is shown only now. Owners and '
    'admins. Errors: not_allowed, bad_input, organization_suspended.';

create function app.revoke_api_key(org uuid, api_key uuid) returns void
language plpgsql
security definer
set search_path = ''
as $$
begin
    perform app.require_manager(org, 2);
    update public.api_keys as k set revoked_at = coalesce(k.revoked_at, app.now())
    where k.org_id = org and k.id = api_key;
    if not found then
        perform app.raise_error('not_found', 'There is no such key.', null);
    end if;
end;
$$;
comment on function app.revoke_api_key(uuid, uuid) is 'Body of public.revoke_api_key.';

create function public.revoke_api_key(org uuid, api_key uuid) returns void
language sql
set search_path = ''
as $$ select app.revoke_api_key(org, api_key) $$;
comment on function public.revoke_api_key(uuid, uuid) is
    'Ends a key at once; again is no error. Owners and admins. Errors: not_allowed, not_found.';

create function app.use_api_key(api_key text, scope text) returns uuid
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_key public.api_keys;
    v_status text;
begin
    select k.* into v_key from public.api_keys as k
    where k.key_hash = sha256(convert_to(use_api_key.api_key, 'UTF8'));
    if v_key.id is not null then
        -- Requests of one key wait for each other here. What the key is good for is read after: it
        -- may have been revoked meanwhile.
        perform app.rate_limit(
            'api_key/' || v_key.id, v_key.rate_per_minute, interval '1 minute'
        );
        select k.* into v_key from public.api_keys as k
        where k.org_id = v_key.org_id and k.id = v_key.id;
    end if;
    if v_key.id is null or v_key.revoked_at is not null or v_key.expires_at <= app.now() then
        perform app.raise_error(
            'api_key_invalid', 'The key is unknown, revoked or expired.',
            'An owner makes keys with create_api_key.'
        );
    end if;
    if use_api_key.scope = any (v_key.scopes) is not true then
        perform app.raise_error(
            'api_key_scope_missing', format('The key has no scope %s.', use_api_key.scope), null
        );
    end if;
    select o.status into v_status from public.organizations as o where o.id = v_key.org_id;
    if v_status <> 'active' then
        perform app.raise_error('organization_' || v_status, null, null);
    end if;
    update public.api_keys as k set last_used_at = app.now()
    where
        k.org_id = v_key.org_id and k.id = v_key.id
        and (k.last_used_at is null or k.last_used_at < app.now() - interval '1 minute');
    return v_key.org_id;
end;
$$;
comment on function app.use_api_key(text, text) is
    'Organisation a machine''s key writes to, if the key is good for the scope; counts the '
    'request. Errors: api_key_invalid, api_key_scope_missing, organization_suspended, '
    'organization_inactive, rate_limited.';

-- 3. Triggers

create trigger audit_log_10_append_only
before update or delete or truncate on public.audit_log
for each statement execute function app.refuse_change();

create trigger audit_seals_10_append_only
before update or delete or truncate on public.audit_seals
for each statement execute function app.refuse_change();

create trigger organizations_80_audit
after insert or update or delete on public.organizations
for each row execute function app.audit_row();

create trigger memberships_80_audit
after insert or update or delete on public.memberships
for each row execute function app.audit_row();

create trigger invitations_80_audit
after insert or update or delete on public.invitations
for each row execute function app.audit_row();

create trigger org_role_permissions_80_audit
after insert or update or delete on public.org_role_permissions
for each row execute function app.audit_row();

create trigger api_keys_80_audit
after insert or update of name, scopes, rate_per_minute, expires_at, revoked_at or delete
on public.api_keys
for each row execute function app.audit_row();

-- 5. Access

grant execute on function
app.verify_audit_chain(uuid), app.create_api_key(uuid, text, text[], timestamptz, integer),
app.revoke_api_key(uuid, uuid), public.verify_audit_chain(uuid),
public.create_api_key(uuid, text, text[], timestamptz, integer), public.revoke_api_key(uuid, uuid)
to authenticated, service_role;
grant execute on function app.seal_audit_log(), app.use_api_key(text, text) to service_role;

select app.protect_table('public.audit_log', 'admin', null, '{select}');
select app.protect_table('public.audit_seals', 'admin', null, '{select}');
select app.protect_table('public.api_keys', 'admin', null, '{select}');
-- The worker appends through triggers and app.seal_audit_log, never by hand.
revoke insert, update, delete on public.audit_log, public.audit_seals from service_role;

-- 6. Reference rows

insert into app.error_keys (key, http, meaning) values
('api_key_invalid', 401, 'The key of a machine is unknown, revoked or expired.'),
('api_key_scope_missing', 403, 'The key of a machine does not allow this.');
