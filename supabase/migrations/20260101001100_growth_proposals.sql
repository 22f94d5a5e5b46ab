-- Growth, selling: proposals and what they turn into, clients' NPS, upsell alerts.
-- Depends on: crm (leads), contracts (clients, contracts, numbers), ops_delivery, growth_site.
-- Asked for by: domain §5 growth "proposals", issue 2 §4.

-- 1. Tables

create table public.proposals (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    number text not null,
    version integer not null default 1 constraint proposals_version_check check (version >= 1),
    previous_id uuid,
    client_id uuid,
    lead_id uuid,
    owner_id uuid references public.profiles (id) on delete set null,
    title text not null
        constraint proposals_title_check check (length(btrim(title)) between 2 and 200),
    scope text,
    assumptions text,
    status text not null default 'draft'
        constraint proposals_status_check
            check (
                status in (
                    'draft', 'review', 'sent', 'negotiation',
                    'accepted', 'refused', 'expired', 'cancelled'
                )
            ),
    valid_until date not null,
    starts_on date,
    total numeric(14, 2) not null default 0,
    total_minutes integer not null default 0,
    refusal_reason text,
    sent_at timestamptz,
    decided_at timestamptz,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, number, version),
    unique (org_id, previous_id),
    foreign key (org_id, previous_id) references public.proposals (org_id, id) deferrable,
    foreign key (org_id, client_id) references public.clients (org_id, id) deferrable,
    foreign key (org_id, lead_id) references public.leads (org_id, id) deferrable,
    constraint proposals_party_check check (num_nonnulls(client_id, lead_id) > 0)
);
comment on table public.proposals is
    '[growth] Proposals to a client or a lead; one row per version. Content is open in draft and '
    'review and locked after (revise_proposal makes the next version). Never deleted, so that '
    'numbers have no gap; a proposal given up is cancelled.';
comment on column public.proposals.number is
    'PROP-YYYY-nnn, gapless per organisation and year; all versions share it. Given by the '
    'database.';
comment on column public.proposals.previous_id is 'The version this one revises; null = version 1.';
comment on column public.proposals.client_id is
    'The client; null while it is for a lead only (accepting converts the lead).';
comment on column public.proposals.owner_id is 'Person who answers for the proposal; a member.';
comment on column public.proposals.valid_until is
    'Last day it can be accepted, in the organisation''s time zone; default 30 days from its '
    'writing.';
comment on column public.proposals.starts_on is
    'Day the work is to begin; becomes the contract''s start. Null = the day it is accepted.';
comment on column public.proposals.total is 'BRL per month: sum of the items'' amounts; derived.';
comment on column public.proposals.total_minutes is
    'Minutes of work per month: sum over the items; derived.';
comment on column public.proposals.decided_at is
    'When it was accepted, refused, cancelled or expired; null = open.';
create unique index proposals_live_idx on public.proposals (org_id, number)
where status in ('draft', 'review', 'sent', 'negotiation', 'accepted');
comment on index public.proposals_live_idx is
    'At most one version of a proposal is open or accepted.';
create index proposals_client_id_idx on public.proposals (org_id, client_id);
create index proposals_lead_id_idx on public.proposals (org_id, lead_id);
create index proposals_owner_id_idx on public.proposals (org_id, owner_id);
create index proposals_owner_idx on public.proposals (owner_id);
create index proposals_validity_idx on public.proposals (org_id, valid_until)
where status in ('sent', 'negotiation');

create table public.proposal_items (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    proposal_id uuid not null,
    service_id uuid not null,
    description text not null
        constraint proposal_items_description_check
            check (description ~ '\S' and length(description) <= 500),
    quantity numeric(10, 2) not null default 1
        constraint proposal_items_quantity_check check (quantity >= 0.1),
    unit_price numeric(14, 2) not null
        constraint proposal_items_unit_price_check check (unit_price >= 0),
    minutes integer not null constraint proposal_items_minutes_check check (minutes >= 0),
    amount numeric(14, 2) not null generated always as (round(quantity * unit_price, 2)) stored,
    sort_order integer not null default 0,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    foreign key (org_id, proposal_id) references public.proposals (org_id, id) on delete cascade,
    foreign key (org_id, service_id) references public.services_catalog (org_id, id) deferrable
);
comment on table public.proposal_items is
    '[growth] What a proposal offers: services of the catalogue. Locked with the proposal.';
comment on column public.proposal_items.description is 'Default: the service''s name.';
comment on column public.proposal_items.unit_price is
    'BRL per month and unit. Default: the service''s effective_price on the day.';
comment on column public.proposal_items.minutes is
    'Work per month and unit. Default: the service''s total_minutes on the day.';
comment on column public.proposal_items.amount is 'BRL per month: quantity × unit_price.';
create index proposal_items_proposal_id_idx
on public.proposal_items (org_id, proposal_id, sort_order);
create index proposal_items_service_id_idx on public.proposal_items (org_id, service_id);

create table public.client_nps (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    client_id uuid not null,
    score smallint not null constraint client_nps_score_check check (score between 0 and 10),
    comment text,
    answered_on date not null,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    foreign key (org_id, client_id) references public.clients (org_id, id) on delete cascade
);
comment on table public.client_nps is
    '[growth] Answers to "would you recommend us?". The last one below 7 keeps upsell alerts '
    'away.';
comment on column public.client_nps.score is '0 (never) to 10 (certainly).';
comment on column public.client_nps.comment is '[pii] What the client wrote with it.';
comment on column public.client_nps.answered_on is 'Day of the answer. Default: today.';
create index client_nps_client_id_idx
on public.client_nps (org_id, client_id, answered_on desc, created_at desc);

create table public.upsell_alerts (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    contract_id uuid not null,
    month date not null constraint upsell_alerts_month_check check (month = app.month_start(month)),
    kind text not null constraint upsell_alerts_kind_check check (kind in ('hours', 'storage')),
    used numeric(14, 2) not null,
    included numeric(14, 2) not null constraint upsell_alerts_included_check check (included > 0),
    used_pct numeric(18, 2) not null
        generated always as (round(100 * used / included, 2)) stored,
    status text not null default 'open'
        constraint upsell_alerts_status_check
            check (status in ('open', 'contacted', 'converted', 'dismissed')),
    created_at timestamptz not null default app.now(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, contract_id, month, kind),
    foreign key (org_id, contract_id) references public.contracts (org_id, id) on delete cascade
);
comment on table public.upsell_alerts is
    '[growth] A contract that outgrows what it includes: hours beyond 90 %, storage beyond 80 %. '
    'Written by app.raise_upsell_alerts, once per contract, month and kind.';
comment on column public.upsell_alerts.month is 'First day of the month.';
comment on column public.upsell_alerts.used is 'Hours or GB used when the alert was raised.';
comment on column public.upsell_alerts.included is 'Hours or GB the contract included then.';

alter table public.contracts
add constraint contracts_proposal_fkey
foreign key (org_id, proposal_id) references public.proposals (org_id, id) deferrable;
comment on constraint contracts_proposal_fkey on public.contracts is
    'The accepted proposal the contract came from; the table is older than proposals.';

-- 2. Functions: proposals

create function app.prepare_proposal() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    if new.status <> 'draft' then
        perform app.raise_error(
            'proposal_move_refused', format('A proposal cannot begin as %s.', new.status),
            'Write it as draft.'
        );
    end if;
    if new.previous_id is null then
        new.version := 1;
        new.number := app.next_number(new.org_id, 'proposal', 'PROP');
    else
        select p.number, p.version + 1 into new.number, new.version
        from public.proposals as p
        where p.org_id = new.org_id and p.id = new.previous_id;
    end if;
    new.valid_until := coalesce(new.valid_until, app.org_today(new.org_id) + 30);
    new.sent_at := null;
    new.decided_at := null;
    return new;
end;
$$;
comment on function app.prepare_proposal() is
    'Trigger: gives a new proposal its number (a revision keeps that of the version before), its '
    'validity and its first state. Definer: nobody else may touch the counter.';

create function app.guard_proposal() returns trigger
language plpgsql
set search_path = ''
as $$
begin
    if
        (new.number, new.version, new.previous_id)
        is distinct from (old.number, old.version, old.previous_id)
    then
        perform app.raise_error(
            'proposal_locked', 'Number and version of a proposal never change.', null
        );
    end if;
    if
        old.status not in ('draft', 'review')
        and (
            new.title, new.scope, new.assumptions, new.valid_until, new.starts_on, new.client_id,
            new.lead_id
        ) is distinct from (
            old.title, old.scope, old.assumptions, old.valid_until, old.starts_on, old.client_id,
            old.lead_id
        )
    then
        perform app.raise_error(
            'proposal_locked',
            format('The proposal is %s; its content is what was sent.', old.status),
            'Make a new version with revise_proposal.'
        );
    end if;
    return new;
end;
$$;
comment on function app.guard_proposal() is
    'Trigger: number and version never change; content only in draft and review.';

create function app.guard_proposal_item() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_row public.proposal_items := coalesce(new, old);
    v_org uuid := v_row.org_id;
    v_before uuid := old.proposal_id;
    v_after uuid := new.proposal_id;
    v_closed text;
begin
    -- Locking the proposal keeps it from being sent between this check and the commit. The state is
    -- read in a second statement: only that one sees what the lock had to wait for.
    perform from public.proposals as p
    where p.org_id = v_org and p.id in (v_before, v_after)
    order by p.id
    for no key update;
    select max(p.status) into v_closed
    from public.proposals as p
    where
        p.org_id = v_org and p.id in (v_before, v_after)
        and p.status not in ('draft', 'review');
    -- An organisation that is being deleted takes its proposals with it.
    if v_closed is not null and exists (select from public.organizations as o where o.id = v_org) then
        perform app.raise_error(
            'proposal_locked',
            format('The proposal is %s; its content is what was sent.', v_closed),
            'Make a new version with revise_proposal.'
        );
    end if;
    return v_row;
end;
$$;
comment on function app.guard_proposal_item() is
    'Trigger: items change only while their proposal is in draft or review. Definer: takes the '
    'lock whatever the caller may update.';

create function app.fill_proposal_item() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    select
        coalesce(new.description, s.name),
        coalesce(new.unit_price, s.effective_price),
        coalesce(new.minutes, s.total_minutes)
    into new.description, new.unit_price, new.minutes
    from public.services_catalog as s
    where s.org_id = new.org_id and s.id = new.service_id;
    return new;
end;
$$;
comment on function app.fill_proposal_item() is
    'Trigger: what an item does not say is taken from the service as it is today.';

create function app.derive_proposal_totals() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_total numeric;
    v_minutes integer;
begin
    select coalesce(sum(i.amount), 0), coalesce(round(sum(i.quantity * i.minutes)), 0)
    into v_total, v_minutes
    from public.proposal_items as i
    where i.org_id = new.org_id and i.proposal_id = new.id;
    if
        new.total not in (v_total, coalesce(old.total, 0))
        or new.total_minutes not in (v_minutes, coalesce(old.total_minutes, 0))
    then
        perform app.raise_error(
            'totals_are_derived', 'The items of the proposal add up to other totals.',
            'Leave total and total_minutes out; change the items.'
        );
    end if;
    new.total := v_total;
    new.total_minutes := v_minutes;
    return new;
end;
$$;
comment on function app.derive_proposal_totals() is
    'Trigger: a proposal''s totals are those of its items; refuses totals typed by a caller.';

create function app.refresh_proposal_totals() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    update public.proposals as p set total = p.total, total_minutes = p.total_minutes
    where
        (tg_op <> 'INSERT' and p.org_id = old.org_id and p.id = old.proposal_id)
        or (tg_op <> 'DELETE' and p.org_id = new.org_id and p.id = new.proposal_id);
    return null;
end;
$$;
comment on function app.refresh_proposal_totals() is
    'Trigger: an item changed; has its proposal''s totals computed anew.';

create function app.guard_proposal_sending() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_missing text;
begin
    select string_agg(reason, ' ') into v_missing
    from (
        select 'It has no item.' as reason
        where not exists (
            select from public.proposal_items as i
            where i.org_id = new.org_id and i.proposal_id = new.id
        )
        union all
        select format('%s is not active.', s.name)
        from public.services_catalog as s
        where
            s.org_id = new.org_id and not s.is_active and s.id in (
                select i.service_id from public.proposal_items as i
                where i.org_id = new.org_id and i.proposal_id = new.id
            )
        union all
        select format('It was valid until %s.', new.valid_until)
        where new.valid_until < app.org_today(new.org_id)
    ) as found;
    if v_missing is not null then
        perform app.raise_error('proposal_incomplete', v_missing, 'Complete it, then send it.');
    end if;
    new.sent_at := app.now();
    return new;
end;
$$;
comment on function app.guard_proposal_sending() is
    'Trigger: what is sent has items, offers only active services and is still valid.';

create function app.open_proposal_contract(proposal public.proposals) returns uuid
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_client uuid := coalesce(
        proposal.client_id,
        (
            select l.client_id from public.leads as l
            where l.org_id = proposal.org_id and l.id = proposal.lead_id
        )
    );
    v_contract uuid;
begin
    perform app.require_access(proposal.org_id, 'contracts', 'write');
    if v_client is null then
        perform app.raise_error(
            'proposal_without_client', 'The lead of the proposal is no client yet.',
            'Call accept_proposal with the client''s CPF or CNPJ, or convert_lead first.'
        );
    end if;
    -- A contract somebody has linked to the proposal by hand is its contract.
    if exists (
        select from public.contracts as c
        where c.org_id = proposal.org_id and c.proposal_id = proposal.id
    ) then
        return v_client;
    end if;
    insert into public.contracts (
        org_id, client_id, title, mrr, included_hours, starts_on, commercial_manager_id, proposal_id
    )
    values (
        proposal.org_id, v_client, proposal.title, proposal.total,
        nullif(round(proposal.total_minutes / 60.0, 2), 0),
        coalesce(proposal.starts_on, app.org_today(proposal.org_id)),
        (
            select m.user_id from public.memberships as m
            where m.org_id = proposal.org_id and m.user_id = proposal.owner_id
        ),
        proposal.id
    )
    returning id into v_contract;

    -- A service's price is spread over its actions in proportion to their cost (evenly where nothing
    -- has a cost); rounding the running sum, not each part, makes the parts add up to the price.
    insert into public.contract_items (
        org_id, contract_id, service_action_id, description, quantity, unit_price
    )
    select
        proposal.org_id, v_contract, part.service_action_id, part.description, part.quantity,
        round(part.unit_price * part.share_until, 2) - round(part.unit_price * part.share_before, 2)
    from (
        select
            weighted.*,
            sum(weighted.share) over through as share_until,
            coalesce(sum(weighted.share) over earlier, 0) as share_before
        from (
            select
                i.id as item_id, l.service_action_id, i.description, i.quantity, i.unit_price,
                i.sort_order,
                row_number() over (partition by i.id order by l.sort_order, l.id) as place,
                case
                    when sum(a.total_cost) over (partition by i.id) > 0
                        then a.total_cost / sum(a.total_cost) over (partition by i.id)
                    else 1.0 / count(*) over (partition by i.id)
                end as share
            from public.proposal_items as i
            left join public.services_catalog_actions as l
                on i.org_id = l.org_id and i.service_id = l.service_id
            left join public.service_actions as a
                on l.org_id = a.org_id and l.service_action_id = a.id
            where i.org_id = proposal.org_id and i.proposal_id = proposal.id
        ) as weighted
        window
            through as (partition by weighted.item_id order by weighted.place),
            earlier as (
                partition by weighted.item_id order by weighted.place
                rows between unbounded preceding and 1 preceding
            )
    ) as part
    order by part.sort_order, part.item_id, part.place;
    return v_client;
end;
$$;
comment on function app.open_proposal_contract(public.proposals) is
    'The draft contract of an accepted proposal: value = total, hours = total_minutes, one item '
    'per service action with its share of the service''s price. Returns the client. Needs '
    'contracts write. Errors: not_allowed, proposal_without_client.';

create function app.decide_proposal() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    if new.status = 'accepted' then
        if new.valid_until < app.org_today(new.org_id) then
            perform app.raise_error(
                'proposal_expired', format('It was valid until %s.', new.valid_until),
                'Make a new version with revise_proposal.'
            );
        end if;
        new.client_id := app.open_proposal_contract(new);
    end if;
    new.decided_at := app.now();
    return new;
end;
$$;
comment on function app.decide_proposal() is
    'Trigger: stamps the decision; an accepted proposal gets its client and draft contract in the '
    'same transaction, whichever way it was accepted. Definer: the parts it copies need not be '
    'readable to who accepts.';

create function app.locked_proposal(proposal uuid) returns public.proposals
language plpgsql
set search_path = ''
as $$
declare
    v_proposal public.proposals;
begin
    select p.* into v_proposal from public.proposals as p where p.id = locked_proposal.proposal;
    if v_proposal.id is null then
        perform app.raise_error('proposal_not_found', 'There is no such proposal.', null);
    end if;
    perform app.require_access(v_proposal.org_id, 'growth', 'write');
    select p.* into v_proposal from public.proposals as p
    where p.org_id = v_proposal.org_id and p.id = v_proposal.id
    for no key update;
    return v_proposal;
end;
$$;
comment on function app.locked_proposal(uuid) is
    'A proposal the caller may change, locked until the end of the transaction: a second call of '
    'an act waits here and then sees what the first did. Errors: proposal_not_found, not_allowed.';

create function public.revise_proposal(proposal uuid) returns public.proposals
language plpgsql
set search_path = ''
as $$
declare
    v_old public.proposals := app.locked_proposal(proposal);
    v_new public.proposals;
begin
    select p.* into v_new from public.proposals as p
    where p.org_id = v_old.org_id and p.previous_id = v_old.id;
    if v_new.id is not null then
        return v_new;
    end if;
    if v_old.status not in ('sent', 'negotiation', 'refused', 'expired') then
        perform app.raise_error(
            'proposal_not_revisable', format('The proposal is %s.', v_old.status),
            'Only a proposal that was sent and not accepted is revised; a draft is edited.'
        );
    end if;
    update public.proposals as p set status = 'cancelled'
    where p.org_id = v_old.org_id and p.id = v_old.id and p.status in ('sent', 'negotiation');
    insert into public.proposals as p (
        org_id, previous_id, client_id, lead_id, owner_id, title, scope, assumptions, starts_on
    )
    values (
        v_old.org_id, v_old.id, v_old.client_id, v_old.lead_id, v_old.owner_id, v_old.title,
        v_old.scope, v_old.assumptions, v_old.starts_on
    )
    returning p.* into v_new;
    insert into public.proposal_items (
        org_id, proposal_id, service_id, description, quantity, unit_price, minutes, sort_order
    )
    select i.org_id, v_new.id, i.service_id, i.description, i.quantity, i.unit_price, i.minutes, i.sort_order
    from public.proposal_items as i
    where i.org_id = v_old.org_id and i.proposal_id = v_old.id
    order by i.sort_order, i.id;
    select p.* into v_new from public.proposals as p where p.org_id = v_new.org_id and p.id = v_new.id;
    return v_new;
end;
$$;
comment on function public.revise_proposal(uuid) is
    'Makes the next version of a proposal that was sent: a draft with the same number and items '
    'and a new validity; the version before, if still open, is cancelled. Twice gives the same '
    'version. Errors: proposal_not_found, not_allowed, proposal_not_revisable.';

create function public.accept_proposal(proposal uuid, document text default null)
returns public.contracts
language plpgsql
set search_path = ''
as $$
declare
    v_proposal public.proposals := app.locked_proposal(proposal);
    v_contract public.contracts;
begin
    perform app.require_access(v_proposal.org_id, 'contracts', 'write');
    if v_proposal.status <> 'accepted' then
        -- Refuse before the lead is converted what the update below would refuse after.
        if
            v_proposal.client_id is null and document is not null
            and app.is_allowed_move('proposals', v_proposal.status, 'accepted')
        then
            perform public.convert_lead(v_proposal.lead_id, document);
        end if;
        update public.proposals as p set status = 'accepted'
        where p.org_id = v_proposal.org_id and p.id = v_proposal.id;
    end if;
    select c.* into v_contract from public.contracts as c
    where c.org_id = v_proposal.org_id and c.proposal_id = v_proposal.id
    order by c.created_at, c.id
    limit 1;
    if v_contract.id is null then
        perform app.raise_error(
            'contract_not_found', 'The draft contract of this proposal was deleted.', null
        );
    end if;
    return v_contract;
end;
$$;
comment on function public.accept_proposal(uuid, text) is
    'Accepts a sent proposal and returns its draft contract; twice gives the same one. For a lead '
    'that is no client yet, document is the CPF or CNPJ to convert it with. Needs growth and '
    'contracts write. Errors: proposal_not_found, not_allowed, proposal_move_refused, '
    'proposal_expired, proposal_without_client, and those of convert_lead.';

create function app.expire_proposals(org uuid) returns integer
language plpgsql
set search_path = ''
as $$
declare
    v_expired integer;
begin
    update public.proposals as p set status = 'expired'
    where
        p.org_id = expire_proposals.org
        and p.id in (
            select due.id
            from public.proposals as due
            where
                due.org_id = expire_proposals.org
                and due.status in ('sent', 'negotiation')
                and due.valid_until < app.org_today(due.org_id)
            order by due.id
            for no key update skip locked
        );
    get diagnostics v_expired = row_count;
    return v_expired;
end;
$$;
comment on function app.expire_proposals(uuid) is
    'Job: expires the open proposals of an organisation whose last day is over there; returns how '
    'many.';

-- 2. Functions: NPS and upsell

create function app.date_nps() returns trigger
language plpgsql
set search_path = ''
as $$
begin
    new.answered_on := coalesce(new.answered_on, app.org_today(new.org_id));
    if new.answered_on > app.org_today(new.org_id) then
        perform app.raise_error(
            'nps_in_future', format('%s has not come yet.', new.answered_on),
            'An answer is dated the day it was given.'
        );
    end if;
    return new;
end;
$$;
comment on function app.date_nps() is
    'Trigger: an answer without a day is from today; none is from the future.';

create function app.notify_upsell_alert() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    perform app.notify_role(
        new.org_id, 'growth', 'write', 'upsell_alert',
        (
            select jsonb_build_object(
                'number', c.number, 'client', k.name, 'used_pct', round(new.used_pct),
                'month', app.format_month_br(new.month),
                'kind', case new.kind when 'hours' then 'horas' else 'armazenamento' end
            )
            from public.contracts as c
            inner join public.clients as k on c.org_id = k.org_id and c.client_id = k.id
            where c.org_id = new.org_id and c.id = new.contract_id
        ),
        format('upsell_alert/%s', new.id), '/upsell-alerts/' || new.id
    );
    return null;
end;
$$;
comment on function app.notify_upsell_alert() is
    'Trigger: tells who writes growth of a new alert.';

create function app.raise_upsell_alerts(org uuid) returns integer
language plpgsql
set search_path = ''
as $$
declare
    v_today date := app.org_today(org);
    v_month date := app.month_start(v_today);
    v_raised integer;
begin
    with in_force as (
        select v_month as month, c.org_id, c.id, c.client_id, c.included_hours,
            c.storage_included_gb
        from app.contracts_in_force(raise_upsell_alerts.org, v_today) as f
        inner join public.contracts as c
            on c.org_id = raise_upsell_alerts.org and f.contract_id = c.id
    ),

    usage as (
        select c.*, 'hours' as kind, m.hours_worked as used, c.included_hours as included, 0.9 as share
        from in_force as c
        inner join public.performance_metrics as m
            on c.org_id = m.org_id and c.id = m.contract_id and c.month = m.month
        union all
        select c.*, 'storage', stored.gb, c.storage_included_gb, 0.8
        from in_force as c
        cross join lateral (
            select least(i.value, 999999999999.99) as gb
            from public.indicators as i
            where
                i.org_id = c.org_id and i.contract_id = c.id and i.metric_type = 'storage_gb'
                and i.period >= c.month and i.period < c.month + interval '1 month'
            order by i.period desc, i.created_at desc
            limit 1
        ) as stored
    )

    insert into public.upsell_alerts as a (org_id, contract_id, month, kind, used, included)
    select u.org_id, u.id, u.month, u.kind, u.used, u.included
    from usage as u
    where
        u.included > 0 and u.used > u.included * u.share
        and 7 <= coalesce(
            (
                select n.score from public.client_nps as n
                where n.org_id = u.org_id and n.client_id = u.client_id
                order by n.answered_on desc, n.created_at desc, n.id desc
                limit 1
            ),
            7
        )
    order by u.org_id, u.id, u.kind
    on conflict on constraint upsell_alerts_org_id_contract_id_month_kind_key do nothing;
    get diagnostics v_raised = row_count;
    return v_raised;
end;
$$;
comment on function app.raise_upsell_alerts(uuid) is
    'Job: alerts for contracts in force whose running month passes 90 % of the included hours '
    'or 80 % of the included storage (last indicator storage_gb of the month), unless the '
    'client''s last NPS is below 7; once per contract, month and kind. Returns how many are '
    'new.';

-- 3. Triggers

create trigger proposals_10_guard_content
before update on public.proposals
for each row execute function app.guard_proposal();
create trigger proposals_10_guard_owner
before insert or update of owner_id on public.proposals
for each row execute function app.guard_member('owner_id');
create trigger proposals_10_guard_status
before update of status on public.proposals
for each row when (old.status is distinct from new.status)
execute function app.guard_move('proposal', 'status');
create trigger proposals_11_prepare
before insert on public.proposals
for each row execute function app.prepare_proposal();
create trigger proposals_50_send
before update of status on public.proposals
for each row when (new.status = 'sent' and old.status <> 'sent')
execute function app.guard_proposal_sending();
create trigger proposals_50_decide
before update of status on public.proposals
for each row when (
    new.status in ('accepted', 'refused', 'expired', 'cancelled') and old.status <> new.status
)
execute function app.decide_proposal();
create trigger proposals_50_totals
before insert or update of total, total_minutes on public.proposals
for each row execute function app.derive_proposal_totals();
create trigger proposals_70_emit
after insert or update or delete on public.proposals
for each row execute function app.emit_event(
    'growth', 'proposal', 'status', 'number', 'version', 'client_id', 'lead_id', 'total'
);
create trigger proposals_80_audit
after insert or update or delete on public.proposals
for each row execute function app.audit_row();

create trigger proposal_items_10_guard
before insert or update or delete on public.proposal_items
for each row execute function app.guard_proposal_item();
create trigger proposal_items_50_fill
before insert or update on public.proposal_items
for each row execute function app.fill_proposal_item();
create trigger proposal_items_60_totals
after insert or update or delete on public.proposal_items
for each row execute function app.refresh_proposal_totals();
create trigger proposal_items_70_emit
after insert or update or delete on public.proposal_items
for each row execute function app.emit_event(
    'growth', 'proposal_item', '', 'proposal_id', 'service_id', 'quantity', 'unit_price'
);
create trigger proposal_items_80_audit
after insert or update or delete on public.proposal_items
for each row execute function app.audit_row();

create trigger client_nps_50_date
before insert or update of answered_on on public.client_nps
for each row execute function app.date_nps();
create trigger client_nps_70_emit
after insert or update or delete on public.client_nps
for each row execute function app.emit_event('growth', 'nps', '', 'client_id', 'score');

create trigger upsell_alerts_10_guard_status
before update of status on public.upsell_alerts
for each row when (old.status is distinct from new.status)
execute function app.guard_move('upsell_alert', 'status');
create trigger upsell_alerts_70_emit
after insert or update or delete on public.upsell_alerts
for each row execute function app.emit_event(
    'growth', 'upsell_alert', 'status', 'contract_id', 'month', 'kind', 'used_pct'
);
create trigger upsell_alerts_75_notify
after insert on public.upsell_alerts
for each row execute function app.notify_upsell_alert();

-- 5. Access

-- Proposals are cancelled, never deleted: a deleted one would leave a gap in the numbers.
select app.protect_table('public.proposals', 'growth', null, '{select,insert,update}');
select app.protect_table('public.proposal_items', 'growth', null);
select app.protect_table('public.client_nps', 'growth', null);
-- Alerts are written by the job; people only answer them.
select app.protect_table('public.upsell_alerts', 'growth', null, '{select}');
create policy upsell_alerts_update on public.upsell_alerts for update to authenticated
using (org_id = any((select app.org_ids('growth', 'write'))::uuid[]))
with check (org_id = any((select app.org_ids('growth', 'write'))::uuid[]));
grant update (status) on public.upsell_alerts to authenticated;

grant execute on function
app.locked_proposal(uuid), public.revise_proposal(uuid), public.accept_proposal(uuid, text)
to authenticated, service_role;
grant execute on function
app.expire_proposals(uuid), app.raise_upsell_alerts(uuid)
to service_role;

-- 6. Reference rows

insert into app.error_keys (key, http, meaning) values
('proposal_not_found', 404, 'There is no such proposal, or the caller may not see it.'),
('proposal_move_refused', 409, 'A proposal cannot go from its state to the one asked for.'),
('proposal_locked', 409, 'What was sent does not change; a revision is a new version.'),
('proposal_incomplete', 422, 'The proposal lacks what it takes to be sent.'),
('proposal_expired', 409, 'The proposal''s last day is over.'),
('proposal_not_revisable', 409, 'Only a proposal that was sent and not accepted is revised.'),
('proposal_without_client', 422, 'The lead of the proposal has not become a client.'),
('nps_in_future', 422, 'An NPS answer is dated in the future.'),
('upsell_alert_move_refused', 409, 'An alert cannot go from its state to the one asked for.');

insert into app.allowed_moves (machine, from_state, to_state) values
('proposals', 'draft', 'review'),
('proposals', 'draft', 'cancelled'),
('proposals', 'review', 'draft'),
('proposals', 'review', 'sent'),
('proposals', 'review', 'cancelled'),
('proposals', 'sent', 'negotiation'),
('proposals', 'sent', 'accepted'),
('proposals', 'sent', 'refused'),
('proposals', 'sent', 'expired'),
('proposals', 'sent', 'cancelled'),
('proposals', 'negotiation', 'accepted'),
('proposals', 'negotiation', 'refused'),
('proposals', 'negotiation', 'expired'),
('proposals', 'negotiation', 'cancelled'),
('upsell_alerts', 'open', 'contacted'),
('upsell_alerts', 'open', 'dismissed'),
('upsell_alerts', 'contacted', 'converted'),
('upsell_alerts', 'contacted', 'dismissed');

insert into app.event_types (module, event_type, description, payload_keys)
select
    'growth' as module,
    'proposal.' || e.name as event_type,
    e.description,
    '{number,version,client_id,lead_id,total,status}'::text[]
    || case when e.name not in ('created', 'deleted') then '{changed}'::text[] else '{}' end
        as payload_keys
from (
    values
    ('created', 'A proposal, or a new version of one, was begun.'),
    ('draft', 'A proposal went back from review to draft.'),
    ('review', 'A proposal was put up for review.'),
    ('sent', 'A proposal was sent.'),
    ('negotiation', 'A proposal is being negotiated.'),
    ('accepted', 'A proposal was accepted.'),
    ('refused', 'A proposal was refused.'),
    ('expired', 'A proposal''s validity ended.'),
    ('cancelled', 'A proposal was withdrawn or revised.'),
    ('updated', 'A proposal changed.'),
    ('deleted', 'A proposal was removed.')
) as e (name, description);

insert into app.event_types (module, event_type, description, payload_keys)
select
    'growth' as module,
    'proposal_item.' || e.name as event_type,
    e.description,
    '{proposal_id,service_id,quantity,unit_price}'::text[]
    || case when e.name not in ('created', 'deleted') then '{changed}'::text[] else '{}' end
        as payload_keys
from (
    values
    ('created', 'A proposal got an item.'),
    ('updated', 'An item of a proposal changed.'),
    ('deleted', 'An item of a proposal was removed.')
) as e (name, description);

insert into app.event_types (module, event_type, description, payload_keys) values
('growth', 'nps.created', 'A client answered the NPS question.', '{client_id,score}'),
('growth', 'nps.updated', 'An NPS answer was corrected.', '{client_id,score,changed}'),
('growth', 'nps.deleted', 'An NPS answer was removed.', '{client_id,score}');

insert into app.event_types (module, event_type, description, payload_keys)
select
    'growth' as module,
    'upsell_alert.' || e.name as event_type,
    e.description,
    '{contract_id,month,kind,used_pct,status}'::text[]
    || case when e.name not in ('created', 'deleted') then '{changed}'::text[] else '{}' end
        as payload_keys
from (
    values
    ('created', 'A contract passed what it includes.'),
    ('contacted', 'The client of an upsell alert was contacted.'),
    ('converted', 'An upsell alert became a sale.'),
    ('dismissed', 'An upsell alert was put aside.'),
    ('updated', 'An upsell alert changed.'),
    ('deleted', 'An upsell alert was removed.')
) as e (name, description);
