-- Conversion: a lead becomes a client and, if wished, a draft contract.
-- Depends on: core, core_access, crm, contracts.
-- Asked for by: domain §5 (crm, convert_lead).

-- 1. Tables

alter table public.leads add column client_id uuid;
alter table public.leads add constraint leads_client_id_fkey
foreign key (org_id, client_id) references public.clients (org_id, id)
on delete set null (client_id);
comment on column public.leads.client_id is
    'Client the lead was converted into; set by convert_lead.';
create index leads_client_id_idx on public.leads (org_id, client_id);

-- 2. Functions

create function public.convert_lead(
    lead uuid,
    document text,
    client_name text default null,
    trade_name text default null,
    contract_title text default null,
    contract_mrr numeric default 0,
    contract_starts_on date default null
) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
    v_lead public.leads;
    v_document text := app.normalize_document(convert_lead.document);
    v_client public.clients;
    v_contract public.contracts;
    v_is_new boolean := false;
begin
    select l.* into v_lead from public.leads as l where l.id = lead;
    if v_lead.id is null then
        perform app.raise_error('lead_not_found', 'There is no such lead.', null);
    end if;
    perform app.require_access(v_lead.org_id, 'contracts', 'write');
    -- Two conversions of one lead wait for each other here; the second finds what the first did.
    select l.* into v_lead from public.leads as l
    where l.org_id = v_lead.org_id and l.id = lead
    for update;
    if v_lead.id is null then
        perform app.raise_error(
            'not_allowed', 'Your role may not change this lead.', 'Ask the owner of the lead.'
        );
    end if;
    if not coalesce(app.is_valid_document(v_document), false) then
        perform app.raise_error(
            'client_document_invalid', 'The CPF or CNPJ is not valid.', 'Check the digits.'
        );
    end if;

    if v_lead.client_id is null then
        insert into public.clients as c (
            org_id, name, trade_name, document, emails, phones, lead_id
        )
        values (
            v_lead.org_id,
            coalesce(
                app.clean_text(client_name, 200), nullif(btrim(v_lead.company), ''), v_lead.name
            ),
            app.clean_text(convert_lead.trade_name, 200), v_document,
            array_remove(array[v_lead.email], null), array_remove(array[v_lead.phone], null),
            v_lead.id
        )
        on conflict on constraint clients_org_id_document_key do nothing
        returning c.* into v_client;
        v_is_new := v_client.id is not null;
        if not v_is_new then
            -- Of two leads with one document at once, the second waited above and now sees the
            -- client of the first.
            update public.clients as c set lead_id = coalesce(c.lead_id, v_lead.id)
            where c.org_id = v_lead.org_id and c.document = v_document
            returning c.* into v_client;
        end if;
    else
        select c.* into v_client from public.clients as c
        where c.org_id = v_lead.org_id and c.id = v_lead.client_id;
        if v_client.document is distinct from v_document then
            perform app.raise_error(
                'lead_already_converted', 'The lead became a client with another document.',
                'Change the document of the client.'
            );
        end if;
    end if;

    update public.leads as l set client_id = v_client.id, status = 'won'
    where l.org_id = v_lead.org_id and l.id = v_lead.id
        and (l.client_id, l.status) is distinct from (v_client.id, 'won')
    returning l.* into v_lead;
    if v_lead.id is null then
        select l.* into v_lead from public.leads as l
        where l.org_id = v_client.org_id and l.id = lead;
    end if;

    select c.* into v_contract from public.contracts as c
    where c.org_id = v_lead.org_id and c.lead_id = v_lead.id;
    if v_contract.id is null and contract_title is not null then
        insert into public.contracts as c (
            org_id, client_id, title, mrr, starts_on, lead_id, commercial_manager_id
        )
        values (
            v_lead.org_id, v_client.id,
            app.clean_text(contract_title, 200), coalesce(contract_mrr, 0),
            coalesce(contract_starts_on, app.org_today(v_lead.org_id)), v_lead.id,
            -- An owner who has left the organisation manages nothing.
            (
                select m.user_id from public.memberships as m
                where m.org_id = v_lead.org_id and m.user_id = v_lead.owner_id
            )
        )
        returning c.* into v_contract;
    end if;
    return jsonb_build_object(
        'lead_id', v_lead.id,
        'client_id', v_client.id,
        'contract_id', v_contract.id,
        'is_new_client', v_is_new
    );
end;
$$;
comment on function public.convert_lead(uuid, text, text, text, text, numeric, date) is
    'Turns a lead into a client found or created by CPF/CNPJ, marks it won and, given '
    'contract_title, opens a draft contract: one transaction, and again gives the same. Needs crm '
    'and contracts write. Errors: lead_not_found, not_allowed, client_document_invalid, '
    'lead_already_converted.';

-- 5. Access

-- Columns added after protect_table named the analyst's.
grant select (client_id) on public.leads to analyst;

grant execute on function public.convert_lead(uuid, text, text, text, text, numeric, date)
to authenticated, service_role;

-- 6. Reference rows

insert into app.error_keys (key, http, meaning) values
('lead_not_found', 404, 'There is no such lead, or the caller may not see it.'),
('lead_already_converted', 409, 'The lead became a client with another document.'),
('client_document_invalid', 422, 'The CPF or CNPJ is not valid.');
