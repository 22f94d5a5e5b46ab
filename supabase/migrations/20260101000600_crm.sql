-- CRM: leads of one funnel, whatever their source, and the door a visitor comes in by.
-- Depends on: core, core_access, core_audit, events.
-- Asked for by: domain §5 (crm), ness-os-data-flow "Fluxo Site ↔ App".

-- 1. Tables (and the function a generated column needs)

create function app.lead_source_page(origin_url text) returns text
language sql
immutable
set search_path = ''
as $$
    -- Only the path speaks: neither the host's name nor a campaign parameter names the page.
    select case
        when origin_url is null or btrim(origin_url) = '' then 'Site'
        when path like '%contato%' or path like '%contact%' then 'Contato'
        when path like '%solucoes%' or path like '%solucao%' or path like '/s/%' then 'Soluções'
        when path like '%blog%' then 'Blog'
        when path like '%casos%' then 'Casos'
        else 'Outros'
    end
    from (
        select regexp_replace(
            regexp_replace(lower(btrim(origin_url)), '^([a-z][a-z0-9+.-]*:)?//[^/?#]*', ''),
            '[?#].*$', ''
        ) as path
    ) as split
$$;
comment on function app.lead_source_page(text) is
    'Page of the site a lead came from, by the path of its origin_url; first rule that matches.';

create table public.leads (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    name text not null constraint leads_name_check check (length(btrim(name)) between 2 and 120),
    email text constraint leads_email_check check (app.is_valid_email(email)),
    company text constraint leads_company_check check (length(company) <= 160),
    phone text constraint leads_phone_check check (length(phone) <= 40),
    message text constraint leads_message_check check (length(message) <= 4000),
    origin_url text constraint leads_origin_url_check check (length(origin_url) <= 2000),
    source_page text not null generated always as (app.lead_source_page(origin_url)) stored,
    source text not null default 'manual'
        constraint leads_source_check check (
            source in (
                'site', 'manual', 'import', 'referral', 'campaign', 'whatsapp', 'hunter', 'sdr',
                'api', 'chat'
            )
        ),
    status text not null default 'new'
        constraint leads_status_check
            check (status in ('new', 'qualified', 'proposal', 'won', 'lost')),
    lost_reason text constraint leads_lost_reason_length_check
        check (length(btrim(lost_reason)) between 2 and 500),
    score integer not null default 0 constraint leads_score_check check (score between 0 and 100),
    segment text
        constraint leads_segment_check check (segment in ('hot', 'warm', 'cold', 'unfit')),
    owner_id uuid references public.profiles (id),
    consent_at timestamptz,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    constraint leads_contact_check check (email is not null or phone is not null),
    constraint leads_lost_reason_check check ((status = 'lost') = (lost_reason is not null))
);
comment on table public.leads is
    '[crm] People who may buy, one funnel for every source. A won lead stays won; a lost one says '
    'why and may come back.';
comment on column public.leads.name is '[pii] Name as the person gave it.';
comment on column public.leads.email is '[pii] E-mail address; null where only a phone is known.';
comment on column public.leads.phone is '[pii] Phone as typed.';
comment on column public.leads.message is '[pii] What the person wrote.';
comment on column public.leads.origin_url is
    '[pii] Address of the page the lead was sent from, whose parameters may name a person; null '
    'when there was none.';
comment on column public.leads.source_page is
    'Site, Contato, Soluções, Blog, Casos or Outros; see app.lead_source_page.';
comment on column public.leads.source is
    'How the lead came in; site means the public form, chat the public chat.';
comment on column public.leads.lost_reason is
    'Present exactly while the lead is lost; cleared when it comes back.';
comment on column public.leads.score is '0 to 100, higher is likelier to buy.';
comment on column public.leads.segment is
    'How the lead was qualified: hot, warm, cold or unfit (no customer for this company); null = '
    'not yet.';
comment on column public.leads.owner_id is
    'Person who works on the lead; null until somebody takes it.';
comment on column public.leads.consent_at is
    'When the person agreed to be contacted (LGPD art. 8); null where somebody else registered '
    'the lead.';
create index leads_owner_id_idx on public.leads (org_id, owner_id);
create index leads_status_idx on public.leads (org_id, status, created_at desc);
create index leads_created_at_idx on public.leads (org_id, created_at desc);
create index leads_email_idx on public.leads (org_id, lower(email));
create index leads_profile_idx on public.leads (owner_id);

create table public.lead_status_history (
    org_id uuid not null,
    id uuid not null default gen_random_uuid(),
    lead_id uuid not null,
    position integer not null,
    status text not null,
    changed_at timestamptz not null default app.now(),
    changed_by uuid default auth.uid(),
    primary key (org_id, id),
    unique (org_id, lead_id, position),
    foreign key (org_id, lead_id) references public.leads (org_id, id) on delete cascade
);
comment on table public.lead_status_history is
    '[crm] Every status a lead took, from its creation, written by trigger; makes a past month''s '
    'funnel reproducible.';
comment on column public.lead_status_history.position is
    '1 is the status the lead was created with.';

-- 2. Functions

create function app.derive_lead() returns trigger
language plpgsql
set search_path = ''
as $$
begin
    new.email := lower(btrim(new.email));
    if tg_op = 'UPDATE' and old.status = 'lost' and new.status <> 'lost' then
        new.lost_reason := null;
    end if;
    return new;
end;
$$;
comment on function app.derive_lead() is
    'Trigger: e-mail in lower case; a lead that comes back from lost loses its reason.';

create function app.own_new_lead() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    if exists (
        select from public.memberships as m where m.org_id = new.org_id and m.user_id = auth.uid()
    ) then
        new.owner_id := auth.uid();
    end if;
    return new;
end;
$$;
comment on function app.own_new_lead() is
    'Trigger: who registers a lead without naming an owner owns it until it is handed over.';

create function app.record_lead_status() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    -- The lead's row lock makes writers of one lead queue up, so positions never collide.
    insert into public.lead_status_history (org_id, lead_id, position, status, changed_at)
    select
        new.org_id, new.id, coalesce(max(h.position), 0) + 1, new.status,
        case when tg_op = 'INSERT' then new.created_at else app.now() end
    from public.lead_status_history as h
    where h.org_id = new.org_id and h.lead_id = new.id;
    return null;
end;
$$;
comment on function app.record_lead_status() is
    'Trigger: appends the lead''s new status to lead_status_history.';

create function app.store_lead(
    org uuid, lead uuid, name text, email text, company text, phone text, message text,
    origin_url text, source text, consent boolean
) returns void
language plpgsql
set search_path = ''
as $$
declare
    v_name text := regexp_replace(app.clean_text(store_lead.name, 120), '\s+', ' ', 'g');
    v_email text := lower(app.clean_text(store_lead.email, 254));
    v_phone text := regexp_replace(app.clean_text(store_lead.phone, 40), '\s+', ' ', 'g');
begin
    if consent is not true then
        perform app.raise_error(
            'lead_consent_required', 'consent is not true.',
            'Ask the person to agree to be contacted.'
        );
    end if;
    if coalesce(length(v_name), 0) < 2 then
        perform app.raise_error(
            'lead_invalid', 'name has fewer than 2 characters.', 'Give the full name.'
        );
    elsif not app.is_valid_email(v_email) then
        perform app.raise_error(
            'lead_invalid', 'email is not an e-mail address.', 'Check the e-mail.'
        );
    elsif v_email is null
        and length(regexp_replace(v_phone, '\D', '', 'g')) not between 8 and 15 then
        perform app.raise_error(
            'lead_invalid', 'phone is not a telephone number.', 'Give it with the area code.'
        );
    elsif v_email is null and v_phone is null then
        perform app.raise_error(
            'lead_invalid', 'There is neither email nor phone.', 'Give one of them.'
        );
    end if;
    insert into public.leads (
        org_id, id, name, email, company, phone, message, origin_url, source, consent_at
    ) values (
        store_lead.org, store_lead.lead, v_name, v_email,
        regexp_replace(app.clean_text(store_lead.company, 160), '\s+', ' ', 'g'), v_phone,
        app.clean_text(store_lead.message, 4000),
        regexp_replace(app.clean_text(store_lead.origin_url, 2000), '\s+', '', 'g'),
        store_lead.source, app.now()
    );
end;
$$;
comment on function app.store_lead(
    uuid, uuid, text, text, text, text, text, text, text, boolean
) is
    'Stores what a visitor gave of himself under the given id. Errors: lead_consent_required, '
    'lead_invalid, bad_input.';

create function app.submit_lead(
    org_slug text, name text, email text, company text, phone text, message text, origin_url text,
    consent boolean, website text
) returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_org record;
    v_receipt uuid := gen_random_uuid();
begin
    perform app.rate_limit('submit_lead:' || app.client_network(), 5, interval '10 minutes');
    -- Only a machine fills the field that people do not see: let it believe it was heard.
    if btrim(coalesce(website, '')) <> '' then
        return jsonb_build_object('receipt', v_receipt);
    end if;
    select o.id, o.status into v_org
    from public.organizations as o where o.slug = lower(btrim(org_slug));
    if v_org.id is null or v_org.status = 'inactive' then
        perform app.raise_error(
            'not_found', 'No open form at this address.', 'Check the address of the site.'
        );
    elsif v_org.status = 'suspended' then
        perform app.raise_error(
            'organization_suspended', 'The form is closed for now.', 'Try again later.'
        );
    end if;
    if nullif(btrim(submit_lead.email), '') is null then
        perform app.raise_error('lead_invalid', 'email is missing.', 'Give an e-mail address.');
    end if;
    perform app.store_lead(
        v_org.id, v_receipt, submit_lead.name, submit_lead.email, submit_lead.company,
        submit_lead.phone, submit_lead.message, submit_lead.origin_url, 'site',
        submit_lead.consent
    );
    return jsonb_build_object('receipt', v_receipt);
end;
$$;
comment on function app.submit_lead(text, text, text, text, text, text, text, boolean, text) is
    'Body of public.submit_lead: a visitor may not insert into leads, so it runs as the owner and '
    'shows nothing.';

create function public.submit_lead(
    org_slug text,
    name text,
    email text,
    company text default null,
    phone text default null,
    message text default null,
    origin_url text default null,
    consent boolean default false,
    website text default null
) returns jsonb
language sql
set search_path = ''
as $$
    select app.submit_lead(
        org_slug, name, email, company, phone, message, origin_url, consent, website
    )
$$;
comment on function public.submit_lead(text, text, text, text, text, text, text, boolean, text) is
    'Contact form of the public site. consent must be true (missing is refused); website is a '
    'honeypot and stays empty. Answers {"receipt": uuid}; 5 per 10 minutes and address.';

-- 3. Triggers

create trigger leads_10_guard_owner
before insert or update of owner_id on public.leads
for each row execute function app.guard_member('owner_id');

create trigger leads_10_guard_status
before update of status on public.leads
for each row when (old.status is distinct from new.status)
execute function app.guard_move('lead', 'status');

create trigger leads_50_derive
before insert or update on public.leads
for each row execute function app.derive_lead();

create trigger leads_50_own
before insert on public.leads
for each row when (new.owner_id is null and current_user = 'authenticated')
execute function app.own_new_lead();

create trigger leads_60_history
after insert on public.leads
for each row execute function app.record_lead_status();

create trigger leads_60_history_status
after update of status on public.leads
for each row when (old.status is distinct from new.status)
execute function app.record_lead_status();

create trigger leads_70_emit
after insert or update or delete on public.leads
for each row execute function
app.emit_event('growth', 'lead', 'status', 'source', 'source_page', 'owner_id', 'score');

-- 4. Views

create view public.inbound_leads
with (security_invoker = true) as
select
    org_id,
    id,
    name,
    email,
    company,
    phone,
    message,
    origin_url,
    source_page,
    source,
    status,
    lost_reason,
    score,
    owner_id,
    consent_at,
    created_at,
    created_by,
    updated_at
from public.leads
where source = 'site'
with local check option;
alter view public.inbound_leads alter column source set default 'site';
comment on view public.inbound_leads is
    '[crm] Leads that came by the public site, under the name ness.OS gave them; insert, update '
    'and delete act on leads.';

-- 5. Access

select app.protect_table('public.leads', 'crm', 'owner_id');
select app.protect_table('public.lead_status_history', 'crm', null, '{select}');
grant select, insert, update, delete on public.inbound_leads to authenticated, service_role;

grant execute on function app.lead_source_page(text) to authenticated, service_role, analyst;
grant execute on function
app.submit_lead(text, text, text, text, text, text, text, boolean, text),
public.submit_lead(text, text, text, text, text, text, text, boolean, text)
to anon, authenticated, service_role;

-- 6. Reference rows

insert into app.error_keys (key, http, meaning) values
('lead_consent_required', 422, 'Without consent the contact form stores nothing.'),
('lead_invalid', 422, 'A lead needs a name of 2 characters, and a valid e-mail address or phone.'),
('lead_move_refused', 409, 'A won lead stays won.');

insert into app.allowed_moves (machine, from_state, to_state)
select
    'leads' as machine,
    before.state as from_state,
    following.state as to_state
from unnest('{new,qualified,proposal,lost}'::text[]) as before (state)
cross join unnest('{new,qualified,proposal,won,lost}'::text[]) as following (state)
where before.state <> following.state;

insert into app.event_types (module, event_type, description, payload_keys) values
('growth', 'lead.created', 'A lead came in.', '{source,source_page,owner_id,score,status}'),
(
    'growth', 'lead.new', 'A lead went back to the start.',
    '{source,source_page,owner_id,score,status,changed}'
),
(
    'growth', 'lead.qualified', 'A lead was qualified.',
    '{source,source_page,owner_id,score,status,changed}'
),
(
    'growth', 'lead.proposal', 'A lead got a proposal.',
    '{source,source_page,owner_id,score,status,changed}'
),
('growth', 'lead.won', 'A lead was won.', '{source,source_page,owner_id,score,status,changed}'),
('growth', 'lead.lost', 'A lead was lost.', '{source,source_page,owner_id,score,status,changed}'),
(
    'growth', 'lead.updated', 'A lead''s data changed.',
    '{source,source_page,owner_id,score,status,changed}'
),
('growth', 'lead.deleted', 'A lead was removed.', '{source,source_page,owner_id,score,status}');
