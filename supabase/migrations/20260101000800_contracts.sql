-- Contracts: clients, contracts and items; what a contract was worth, and its state, on any day.
-- Depends on: core, core_access, core_audit, events, data_snapshots, crm, ops_playbooks.
-- Asked for by: domain §5 (contracts), ness-os-data-flow "Integridade referencial".

-- 1. Tables (and the function a check needs)

create function app.are_valid_emails(emails text[]) returns boolean
language sql
immutable
set search_path = ''
as $$
    select coalesce(bool_and(coalesce(app.is_valid_email(email), false)), true)
    from unnest(emails) as email
$$;
comment on function app.are_valid_emails(text[]) is
    'Whether every element is an e-mail address; true for none.';

create table app.number_counters (
    org_id uuid not null references public.organizations (id) on delete cascade,
    kind text not null constraint number_counters_kind_check check (kind ~ '^[a-z_]+$'),
    year integer not null,
    last integer not null constraint number_counters_last_check check (last > 0),
    primary key (org_id, kind, year)
);
comment on table app.number_counters is
    '[contracts] Last number given per organisation, kind and year. A row, not a sequence: a '
    'rolled-back act leaves no gap.';

create table public.clients (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    name text not null constraint clients_name_check check (length(btrim(name)) between 2 and 200),
    trade_name text constraint clients_trade_name_check check (length(trade_name) <= 200),
    document text constraint clients_document_check check (app.is_valid_document(document)),
    emails text[] not null default '{}'
        constraint clients_emails_check
            check (cardinality(emails) <= 20 and app.are_valid_emails(emails)),
    phones text[] not null default '{}'
        constraint clients_phones_check
            check (cardinality(phones) <= 20 and length(array_to_string(phones, '')) <= 600),
    address jsonb not null default '{}'
        constraint clients_address_check
            check (jsonb_typeof(address) = 'object' and length(address::text) <= 4000),
    segment text constraint clients_segment_check check (length(segment) <= 100),
    omie_codigo bigint constraint clients_omie_codigo_check check (omie_codigo > 0),
    omie_inactive_at timestamptz,
    lead_id uuid,
    status text not null default 'active'
        constraint clients_status_check check (status in ('active', 'inactive')),
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, document),
    unique (org_id, omie_codigo),
    foreign key (org_id, lead_id) references public.leads (org_id, id) on delete set null (lead_id)
);
comment on table public.clients is
    '[contracts] Companies and people the organisation sells to by contract.';
comment on column public.clients.name is
    '[pii] Legal name; a person''s where the document is a CPF.';
comment on column public.clients.trade_name is '[pii] Name the client goes by.';
comment on column public.clients.document is
    '[pii] CPF or CNPJ, stored bare; punctuation is dropped on writing. Null while unknown '
    '(abroad, prospect).';
comment on column public.clients.emails is '[pii] E-mail addresses, the main one first.';
comment on column public.clients.phones is '[pii] Phones, the main one first.';
comment on column public.clients.address is '[pii] Street, number, district, city, state, zip.';
comment on column public.clients.omie_codigo is
    'Code of the client in Omie; ERP snapshots are matched by it.';
comment on column public.clients.omie_inactive_at is
    'Since when Omie has the client as inactive, or no more; null while active there. The status '
    'follows when this changes, and is otherwise the organisation''s own.';
comment on column public.clients.lead_id is
    'Lead the client was won from; the first one if there were more.';
create index clients_lead_id_idx on public.clients (org_id, lead_id);
create index clients_status_idx on public.clients (org_id, status);

create table public.contracts (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    number text not null,
    client_id uuid not null,
    title text not null
        constraint contracts_title_check check (length(btrim(title)) between 2 and 200),
    status text not null default 'draft'
        constraint contracts_status_check
            check (status in ('draft', 'active', 'suspended', 'ended', 'cancelled')),
    mrr numeric(14, 2) not null default 0 constraint contracts_mrr_check check (mrr >= 0),
    included_hours numeric(10, 2)
        constraint contracts_included_hours_check check (included_hours >= 0),
    overtime_rate numeric(14, 2)
        constraint contracts_overtime_rate_check check (overtime_rate >= 0),
    starts_on date not null,
    ends_on date,
    renews_on date,
    auto_renews boolean not null default false,
    notice_days integer not null default 30
        constraint contracts_notice_days_check check (notice_days between 0 and 365),
    adjustment_index text not null default 'IPCA'
        constraint contracts_adjustment_index_check
            check (adjustment_index in ('IPCA', 'IGPM', 'INPC', 'fixed', 'none')),
    adjustment_month integer
        constraint contracts_adjustment_month_check check (adjustment_month between 1 and 12),
    fixed_adjustment_pct numeric(7, 4)
        constraint contracts_fixed_adjustment_pct_check
            check (fixed_adjustment_pct between -50 and 200),
    billing_day integer constraint contracts_billing_day_check check (billing_day between 1 and 31),
    due_day integer constraint contracts_due_day_check check (due_day between 1 and 31),
    commercial_manager_id uuid references public.profiles (id),
    technical_manager_id uuid references public.profiles (id),
    proposal_id uuid,
    lead_id uuid,
    storage_included_gb numeric(12, 2)
        constraint contracts_storage_check check (storage_included_gb >= 0),
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, number),
    foreign key (org_id, client_id) references public.clients (org_id, id) deferrable,
    foreign key (org_id, lead_id) references public.leads (org_id, id) on delete set null (lead_id),
    constraint contracts_period_check check (ends_on >= starts_on),
    constraint contracts_renewal_check check (renews_on >= starts_on),
    constraint contracts_ended_check check (status <> 'ended' or ends_on is not null),
    constraint contracts_fixed_check
        check (adjustment_index <> 'fixed' or fixed_adjustment_pct is not null)
);
comment on table public.contracts is
    '[contracts] One row per contract with a client. In force on a day means active then and the '
    'day inside the period; see app.is_contract_in_force.';
comment on column public.contracts.number is
    'CTR-YYYY-nnn, given by trigger, without gaps per organisation and year.';
comment on column public.contracts.mrr is
    'Monthly recurring revenue today, BRL; contract_mrr_history knows every earlier value.';
comment on column public.contracts.included_hours is
    'Hours per month in the price; null when not sold by hours.';
comment on column public.contracts.overtime_rate is
    'Price of an hour beyond the included ones, BRL.';
comment on column public.contracts.ends_on is
    'Last day, itself inside the period; null while open-ended.';
comment on column public.contracts.renews_on is
    'Day on which the contract renews or must be renegotiated.';
comment on column public.contracts.notice_days is 'Days of notice either party owes.';
comment on column public.contracts.adjustment_month is
    'Month (1 to 12) of the yearly adjustment; null: the month of starts_on.';
comment on column public.contracts.fixed_adjustment_pct is
    'Percent per year, used when adjustment_index is fixed.';
comment on column public.contracts.proposal_id is 'Accepted proposal the contract came from.';
comment on column public.contracts.lead_id is
    'Lead whose conversion opened the contract; one contract per lead.';
comment on column public.contracts.storage_included_gb is
    'Storage in the price, in GB; null when not sold by storage.';
create index contracts_client_id_idx on public.contracts (org_id, client_id);
create index contracts_commercial_manager_id_idx
on public.contracts (org_id, commercial_manager_id);
create index contracts_technical_manager_id_idx on public.contracts (org_id, technical_manager_id);
create index contracts_proposal_id_idx on public.contracts (org_id, proposal_id);
create unique index contracts_lead_id_idx on public.contracts (org_id, lead_id);
create index contracts_ends_on_idx on public.contracts (org_id, ends_on) where status = 'active';
create index contracts_renews_on_idx
on public.contracts (org_id, renews_on) where status = 'active';
create index contracts_commercial_profile_idx on public.contracts (commercial_manager_id);
create index contracts_technical_profile_idx on public.contracts (technical_manager_id);

create table public.contract_items (
    org_id uuid not null,
    id uuid not null default gen_random_uuid(),
    contract_id uuid not null,
    service_action_id uuid,
    description text constraint contract_items_description_check check (length(description) <= 500),
    quantity numeric(12, 2) not null default 1
        constraint contract_items_quantity_check check (quantity >= 0.1),
    unit_price numeric(14, 2) constraint contract_items_unit_price_check check (unit_price >= 0),
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    foreign key (org_id, contract_id) references public.contracts (org_id, id) on delete cascade,
    foreign key (org_id, service_action_id)
    references public.service_actions (org_id, id) deferrable,
    constraint contract_items_what_check
        check (
            service_action_id is not null or (description is not null and unit_price is not null)
        )
);
comment on table public.contract_items is
    '[contracts] What a contract delivers each month: service actions and quantities. Its sum is '
    'the contract''s budget; staff only.';
comment on column public.contract_items.unit_price is
    'BRL per unit; null means the estimated cost of the service action.';
comment on column public.contract_items.service_action_id is
    'Service action delivered; null for a free item, which then has description and price.';
create index contract_items_contract_id_idx on public.contract_items (org_id, contract_id);
create index contract_items_service_action_id_idx
on public.contract_items (org_id, service_action_id);

create table public.contract_mrr_history (
    org_id uuid not null,
    id uuid not null default gen_random_uuid(),
    contract_id uuid not null,
    position integer not null,
    mrr_before numeric(14, 2),
    mrr_after numeric(14, 2) not null,
    effective_on date,
    reason text not null,
    changed_at timestamptz not null default app.now(),
    changed_by uuid default auth.uid(),
    primary key (org_id, id),
    unique (org_id, contract_id, position),
    foreign key (org_id, contract_id) references public.contracts (org_id, id) on delete cascade
);
comment on table public.contract_mrr_history is
    '[contracts] Every value contracts.mrr took, with date and reason, written by trigger. The '
    'mrr of a day is the last row effective by then.';
comment on column public.contract_mrr_history.position is
    'Order of the changes of one contract, from 1; effective_on never goes back.';
comment on column public.contract_mrr_history.mrr_before is 'BRL; null for the first value.';
comment on column public.contract_mrr_history.effective_on is
    'First day the value counts; null: since the contract''s start (first value, changes of a '
    'draft).';

create table public.contract_status_history (
    org_id uuid not null,
    id uuid not null default gen_random_uuid(),
    contract_id uuid not null,
    position integer not null,
    status text not null,
    effective_on date,
    changed_at timestamptz not null default app.now(),
    changed_by uuid default auth.uid(),
    primary key (org_id, id),
    unique (org_id, contract_id, position),
    foreign key (org_id, contract_id) references public.contracts (org_id, id) on delete cascade
);
comment on table public.contract_status_history is
    '[contracts] Every status a contract took, written by trigger; keeps past months true after a '
    'contract is suspended or ends.';
comment on column public.contract_status_history.position is
    'Order of the changes of one contract, from 1.';
comment on column public.contract_status_history.effective_on is
    'First day the status counts; null: since the contract''s start (first status, activation of '
    'a draft).';

alter table public.memberships add constraint memberships_client_id_fkey
foreign key (org_id, client_id) references public.clients (org_id, id) deferrable;
alter table public.invitations add constraint invitations_client_id_fkey
foreign key (org_id, client_id) references public.clients (org_id, id) on delete cascade;
create index invitations_client_id_idx on public.invitations (org_id, client_id);

alter table public.erp_revenue_snapshot add constraint erp_revenue_snapshot_client_id_fkey
foreign key (org_id, client_id) references public.clients (org_id, id)
on delete set null (client_id);
alter table public.erp_receivables add constraint erp_receivables_client_id_fkey
foreign key (org_id, client_id) references public.clients (org_id, id)
on delete set null (client_id);

-- 2. Functions: numbers

create function app.next_number(org uuid, kind text, prefix text) returns text
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_year integer := extract(year from app.org_today(org));
    v_last integer;
begin
    if app.is_outsider(org) then -- who would wait for a number, before a policy refuses
        perform app.raise_error(
            'not_allowed', 'You are not a member of this organisation.',
            'Ask an admin of the organisation.'
        );
    end if;
    -- The counter's row stays locked until the transaction ends: the next caller waits, and a
    -- rollback gives the number back.
    insert into app.number_counters as c (org_id, kind, year, last)
    values (org, next_number.kind, v_year, 1)
    on conflict on constraint number_counters_pkey do update set last = c.last + 1
    returning c.last into v_last;
    return format(
        '%s-%s-%s', prefix, v_year, lpad(v_last::text, greatest(3, length(v_last::text)), '0')
    );
end;
$$;
comment on function app.next_number(uuid, text, text) is
    'Next gapless number PREFIX-YYYY-nnn of a kind in an organisation (year in its time zone). '
    'Writers of one organisation and kind queue up until commit.';

-- 2. Functions: in force, the one home of the rule

create function app.is_in_force(status text, starts_on date, ends_on date, day date) returns boolean
language sql
immutable
set search_path = ''
as $$ select status = 'active' and day >= starts_on and (ends_on is null or day <= ends_on) $$;
comment on function app.is_in_force(text, date, date, date) is
    'The rule: a contract with this status on the day and this period is in force on the day. '
    'First and last day count.';

create function app.contract_status_on(org uuid, contract uuid, day date) returns text
language sql
stable
set search_path = ''
as $$
    select h.status
    from public.contract_status_history as h
    where
        h.org_id = org and h.contract_id = contract
        and (h.effective_on is null or h.effective_on <= day)
    order by h.position desc
    limit 1
$$;
comment on function app.contract_status_on(uuid, uuid, date) is
    'Status a contract had on a day, for whoever may read its history; null otherwise. The '
    'activation of a draft counts from the start of the contract.';

create function app.contract_mrr_on(org uuid, contract uuid, day date) returns numeric
language sql
stable
set search_path = ''
as $$
    select h.mrr_after
    from public.contract_mrr_history as h
    where
        h.org_id = org and h.contract_id = contract
        and (h.effective_on is null or h.effective_on <= day)
    order by h.position desc
    limit 1
$$;
comment on function app.contract_mrr_on(uuid, uuid, date) is
    'Monthly value (BRL) of a contract on a day, in force or not, for whoever may read its '
    'history; null otherwise.';

create function app.is_contract_in_force(org uuid, contract uuid, day date) returns boolean
language sql
stable
security definer
set search_path = ''
as $$
    select exists (
        select from public.contracts as c
        where
            c.org_id = org and c.id = contract
            and app.is_in_force(
                app.contract_status_on(org, contract, day), c.starts_on, c.ends_on, day
            )
    )
$$;
comment on function app.is_contract_in_force(uuid, uuid, date) is
    'Whether the organisation''s contract was, is or will be in force on a day. Sees every '
    'contract: for guards and jobs.';

create function app.is_contract_in_force(contract uuid, day date) returns boolean
language sql
stable
set search_path = ''
as $$
    select coalesce(bool_or(app.is_contract_in_force(c.org_id, c.id, day)), false)
    from public.contracts as c
    where c.id = contract
$$;
comment on function app.is_contract_in_force(uuid, date) is
    'The same for a contract the caller may read; false when he may not.';

create function app.contracts_in_force(org uuid, day date)
returns table (contract_id uuid, client_id uuid, mrr numeric)
language sql
stable
set search_path = ''
as $$
    select c.id, c.client_id, app.contract_mrr_on(c.org_id, c.id, day)
    from public.contracts as c
    where
        c.org_id = org and c.starts_on <= day and (c.ends_on is null or c.ends_on >= day)
        and app.is_contract_in_force(c.org_id, c.id, day)
$$;
comment on function app.contracts_in_force(uuid, date) is
    'Contracts in force on a day, as far as the caller may read contracts, with their value (BRL '
    'per month) on that day; the value is null where its history may not be read (portal).';

-- 2. Functions: triggers

create function app.derive_client() returns trigger
language plpgsql
set search_path = ''
as $$
begin
    new.document := app.normalize_document(new.document);
    return new;
end;
$$;
comment on function app.derive_client() is 'Trigger: stores the document without punctuation.';

create function app.link_erp_row() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    new.client_id := (
        select c.id from public.clients as c
        where c.org_id = new.org_id and c.omie_codigo = new.omie_codigo
    );
    return new;
end;
$$;
comment on function app.link_erp_row() is
    'Trigger: finds the client of an ERP row by its omie_codigo.';

create function app.link_erp_client() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    update public.erp_revenue_snapshot as r set omie_codigo = r.omie_codigo
    where r.org_id = new.org_id and (r.omie_codigo = new.omie_codigo or r.client_id = new.id);
    update public.erp_receivables as r set omie_codigo = r.omie_codigo
    where r.org_id = new.org_id and (r.omie_codigo = new.omie_codigo or r.client_id = new.id);
    return null;
end;
$$;
comment on function app.link_erp_client() is
    'Trigger: a client that gets, changes or loses its omie_codigo has its ERP rows linked anew.';

create function app.derive_contract() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    if tg_op = 'INSERT' then
        if new.status not in ('draft', 'active') then
            perform app.raise_error(
                'contract_first_status_refused',
                format('A contract cannot begin as %s.', new.status),
                'Create it as draft or active and move it from there.'
            );
        end if;
        new.number := app.next_number(new.org_id, 'contract', 'CTR');
        return new;
    end if;
    if new.number <> old.number then
        perform app.raise_error(
            'contract_number_fixed', 'The number of a contract does not change.', null
        );
    end if;
    if new.client_id <> old.client_id and old.status <> 'draft' then
        perform app.raise_error(
            'contract_client_fixed', 'Only a draft can be moved to another client.',
            'End it and open a new contract.'
        );
    end if;
    if new.mrr <> old.mrr and old.status in ('ended', 'cancelled') then
        perform app.raise_error(
            'contract_closed', format('The contract is %s; its value does not change.', old.status),
            'Open a new contract.'
        );
    end if;
    if new.status = 'ended' and old.status <> 'ended' and new.ends_on is null then
        new.ends_on := greatest(app.org_today(new.org_id), new.starts_on);
    end if;
    return new;
end;
$$;
comment on function app.derive_contract() is
    'Trigger: gives the number, refuses a wrong first status and changes of what is settled, '
    'dates the end of an open-ended contract.';

create function app.guard_contract_delete() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    -- When the organisation itself goes, its row is gone already and everything goes with it.
    if old.status <> 'draft' and exists (
        select from public.organizations as o where o.id = old.org_id
    ) then
        perform app.raise_error(
            'contract_not_deletable', format('The contract is %s.', old.status),
            'Only a draft can be deleted; end or cancel this one.'
        );
    end if;
    return old;
end;
$$;
comment on function app.guard_contract_delete() is
    'Trigger: only drafts are deleted; the rest is history.';

create function app.guard_contract_item() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_row public.contract_items := coalesce(new, old);
    v_status text;
begin
    if tg_op = 'UPDATE' and new.contract_id <> old.contract_id then
        perform app.raise_error(
            'keys_are_immutable', 'An item stays with its contract.', 'Create a new item there.'
        );
    end if;
    select c.status into v_status from public.contracts as c
    where c.org_id = v_row.org_id and c.id = v_row.contract_id
    for share;
    if v_status in ('ended', 'cancelled') and exists (
        select from public.organizations as o where o.id = v_row.org_id
    ) then
        perform app.raise_error(
            'contract_closed', format('The contract is %s; its items do not change.', v_status),
            'Open a new contract.'
        );
    end if;
    return v_row;
end;
$$;
comment on function app.guard_contract_item() is
    'Trigger: items of an ended or cancelled contract do not change.';

create function app.record_contract_history() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_today date := app.org_today(new.org_id);
begin
    -- The contract's row lock makes writers of one contract queue up, so positions never collide.
    if tg_op = 'INSERT' or new.status is distinct from old.status then
        insert into public.contract_status_history (
            org_id, contract_id, position, status, effective_on
        )
        select
            new.org_id, new.id, coalesce(max(h.position), 0) + 1, new.status,
            case
                when tg_op = 'INSERT' or (old.status = 'draft' and new.status = 'active') then null
                else v_today
            end
        from public.contract_status_history as h
        where h.org_id = new.org_id and h.contract_id = new.id;
    end if;
    if tg_op = 'INSERT' or new.mrr is distinct from old.mrr then
        insert into public.contract_mrr_history (
            org_id, contract_id, position, mrr_before, mrr_after, effective_on, reason
        )
        select
            new.org_id, new.id, coalesce(max(h.position), 0) + 1,
            case when tg_op = 'UPDATE' then old.mrr end, new.mrr,
            case when tg_op = 'UPDATE' and old.status <> 'draft' then greatest(
                coalesce(nullif(current_setting('app.mrr_effective_on', true), '')::date, v_today),
                max(h.effective_on)
            ) end,
            coalesce(
                nullif(current_setting('app.mrr_reason', true), ''),
                case
                    when tg_op = 'INSERT' then 'Valor inicial'
                    when old.status = 'draft' then 'Alteração da minuta'
                    else 'Alteração do valor'
                end
            )
        from public.contract_mrr_history as h
        where h.org_id = new.org_id and h.contract_id = new.id;
    end if;
    return null;
end;
$$;
comment on function app.record_contract_history() is
    'Trigger: appends status and value to their histories. change_contract_mrr and '
    'adjust_contract pass reason and day by settings local to the transaction.';

-- 3. Triggers

create trigger clients_10_guard_status
before update of status on public.clients
for each row when (old.status is distinct from new.status)
execute function app.guard_move('client', 'status');

create trigger clients_50_derive
before insert or update of document on public.clients
for each row execute function app.derive_client();

create trigger clients_60_link_erp_insert
after insert on public.clients
for each row when (new.omie_codigo is not null)
execute function app.link_erp_client();

create trigger clients_60_link_erp
after update of omie_codigo on public.clients
for each row when (old.omie_codigo is distinct from new.omie_codigo)
execute function app.link_erp_client();

create trigger clients_70_emit
after insert or update or delete on public.clients
for each row execute function app.emit_event('contracts', 'client', 'status', 'segment', 'lead_id');

create trigger erp_revenue_snapshot_50_link
before insert or update of omie_codigo on public.erp_revenue_snapshot
for each row execute function app.link_erp_row();

create trigger erp_receivables_50_link
before insert or update of omie_codigo on public.erp_receivables
for each row execute function app.link_erp_row();

create trigger contracts_10_guard_delete
before delete on public.contracts
for each row execute function app.guard_contract_delete();

create trigger contracts_10_guard_status
before update of status on public.contracts
for each row when (old.status is distinct from new.status)
execute function app.guard_move('contract', 'status');

create trigger contracts_10_guard_commercial
before insert or update of commercial_manager_id on public.contracts
for each row execute function app.guard_member('commercial_manager_id');

create trigger contracts_10_guard_technical
before insert or update of technical_manager_id on public.contracts
for each row execute function app.guard_member('technical_manager_id');

create trigger contracts_50_derive
before insert or update on public.contracts
for each row execute function app.derive_contract();

create trigger contracts_60_history
after insert or update of status, mrr on public.contracts
for each row execute function app.record_contract_history();

create trigger contracts_70_emit
after insert or update or delete on public.contracts
for each row execute function
app.emit_event('fin', 'contract', 'status', 'number', 'client_id', 'mrr', 'starts_on', 'ends_on');

create trigger contracts_80_audit
after insert or update or delete on public.contracts
for each row execute function app.audit_row();

create trigger contract_items_10_guard
before insert or update or delete on public.contract_items
for each row execute function app.guard_contract_item();

create trigger contract_items_70_emit
after insert or update or delete on public.contract_items
for each row execute function
app.emit_event(
    'fin', 'contract_item', '', 'contract_id', 'service_action_id', 'quantity', 'unit_price'
);

create trigger contract_items_80_audit
after insert or update or delete on public.contract_items
for each row execute function app.audit_row();

-- 5. Access

alter table app.number_counters enable row level security;

select app.protect_table('public.clients', 'contracts', 'id');
select app.protect_table('public.contracts', 'contracts', 'client_id');
select app.protect_table('public.contract_items', 'contracts', null);
select app.protect_table('public.contract_mrr_history', 'contracts', null, '{select}');
select app.protect_table('public.contract_status_history', 'contracts', null, '{select}');

grant execute on function
app.are_valid_emails(text[]),
app.is_in_force(text, date, date, date), app.contract_status_on(uuid, uuid, date),
app.contract_mrr_on(uuid, uuid, date), app.is_contract_in_force(uuid, uuid, date),
app.is_contract_in_force(uuid, date), app.contracts_in_force(uuid, date)
to authenticated, service_role;

-- 6. Reference rows

insert into app.error_keys (key, http, meaning) values
('client_move_refused', 409, 'The client cannot take this status from the one it has.'),
('contract_move_refused', 409, 'The contract cannot take this status from the one it has.'),
('contract_first_status_refused', 422, 'A contract begins as draft or active.'),
('contract_number_fixed', 422, 'The number of a contract does not change.'),
('contract_client_fixed', 409, 'Only a draft contract can be moved to another client.'),
('contract_closed', 409, 'Value and items of an ended or cancelled contract do not change.'),
('contract_not_deletable', 409, 'Only a draft contract can be deleted.'),
('contract_not_found', 404, 'There is no such contract, or the caller may not see it.');

insert into app.allowed_moves (machine, from_state, to_state) values
('clients', 'active', 'inactive'),
('clients', 'inactive', 'active'),
('contracts', 'draft', 'active'),
('contracts', 'draft', 'cancelled'),
('contracts', 'active', 'suspended'),
('contracts', 'active', 'ended'),
('contracts', 'active', 'cancelled'),
('contracts', 'suspended', 'active'),
('contracts', 'suspended', 'ended'),
('contracts', 'suspended', 'cancelled');

insert into app.event_types (module, event_type, description, payload_keys) values
('contracts', 'client.created', 'A client was registered.', '{segment,lead_id,status}'),
('contracts', 'client.active', 'A client became active again.', '{segment,lead_id,status,changed}'),
('contracts', 'client.inactive', 'A client became inactive.', '{segment,lead_id,status,changed}'),
('contracts', 'client.updated', 'A client''s data changed.', '{segment,lead_id,status,changed}'),
('contracts', 'client.deleted', 'A client was removed.', '{segment,lead_id,status}'),
(
    'fin', 'contract.created', 'A contract was created.',
    '{number,client_id,mrr,starts_on,ends_on,status}'
),
(
    'fin', 'contract.active', 'A contract came into force.',
    '{number,client_id,mrr,starts_on,ends_on,status,changed}'
),
(
    'fin', 'contract.suspended', 'A contract was suspended.',
    '{number,client_id,mrr,starts_on,ends_on,status,changed}'
),
(
    'fin', 'contract.ended', 'A contract ended.',
    '{number,client_id,mrr,starts_on,ends_on,status,changed}'
),
(
    'fin', 'contract.cancelled', 'A contract was cancelled.',
    '{number,client_id,mrr,starts_on,ends_on,status,changed}'
),
(
    'fin', 'contract.updated', 'A contract changed.',
    '{number,client_id,mrr,starts_on,ends_on,status,changed}'
),
(
    'fin', 'contract.deleted', 'A draft contract was deleted.',
    '{number,client_id,mrr,starts_on,ends_on,status}'
),
(
    'fin', 'contract_item.created', 'A contract got an item.',
    '{contract_id,service_action_id,quantity,unit_price}'
),
(
    'fin', 'contract_item.updated', 'An item of a contract changed.',
    '{contract_id,service_action_id,quantity,unit_price,changed}'
),
(
    'fin', 'contract_item.deleted', 'An item of a contract was removed.',
    '{contract_id,service_action_id,quantity,unit_price}'
);
