-- Legal: documents with versions, contract risk analyses, compliance of playbooks with frameworks.
-- Depends on: core, events, ops playbooks, contracts.
-- Asked for by: domain §5 legal; issue 2 §4.

-- 1. Tables

create table public.legal_docs (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    contract_id uuid,
    doc_type text not null
        constraint legal_docs_doc_type_check
        check (
            doc_type in (
                'contract',
                'amendment',
                'nda',
                'dpa',
                'sla',
                'power_of_attorney',
                'opinion',
                'other'
            )
        ),
    title text not null
        constraint legal_docs_title_check check (length(btrim(title)) between 2 and 200),
    file_path text not null
        constraint legal_docs_file_path_check
        check (
            starts_with(file_path, org_id::text || '/') and length(file_path) <= 500
            and file_path !~ '(^|/)\.{1,2}(/|$)|//|/$'
        ),
    version integer not null default 1,
    note text constraint legal_docs_note_check check (length(note) <= 2000),
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    foreign key (org_id, contract_id) references public.contracts (org_id, id) deferrable
);
comment on table public.legal_docs is
    '[legal] Legal documents and their current file. Another file_path is a new version; earlier '
    'ones stay in legal_doc_versions.';
comment on column public.legal_docs.contract_id is
    'The contract it belongs to; null for a document of the house.';
comment on column public.legal_docs.file_path is
    'Current file in the bucket legal: <org id>/<anything>.';
comment on column public.legal_docs.version is
    'Number of the current file, counted from 1; kept by trigger.';
comment on column public.legal_docs.note is 'What changed with the current version.';
create index legal_docs_contract_id_idx on public.legal_docs (org_id, contract_id);

create table public.legal_doc_versions (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    doc_id uuid not null,
    version integer not null constraint legal_doc_versions_version_check check (version >= 1),
    file_path text not null,
    note text,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    primary key (org_id, id),
    unique (org_id, doc_id, version),
    foreign key (org_id, doc_id) references public.legal_docs (org_id, id) on delete cascade
);
comment on table public.legal_doc_versions is
    '[legal] Every file a legal document has had, written by trigger; never changed.';

create table public.contract_risk_analyses (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    contract_id uuid,
    doc_id uuid,
    status text not null default 'final'
        constraint contract_risk_analyses_status_check check (status in ('draft', 'final')),
    score numeric(4, 2) not null
        constraint contract_risk_analyses_score_check check (score between 0 and 10),
    verdict text not null generated always as (
        case
            when score < 3 then 'approved' when score <= 7 then 'with_reservations' else 'blocked'
        end
    ) stored
        constraint contract_risk_analyses_verdict_check
        check (verdict in ('approved', 'with_reservations', 'blocked')),
    summary text not null default '',
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    foreign key (org_id, contract_id) references public.contracts (org_id, id) on delete cascade,
    foreign key (org_id, doc_id) references public.legal_docs (org_id, id)
    on delete set null (doc_id)
);
comment on table public.contract_risk_analyses is
    '[legal] Risk analyses of a contract; the newest final one counts.';
comment on column public.contract_risk_analyses.contract_id is
    'Null where the text that was read is no contract of the house yet.';
comment on column public.contract_risk_analyses.status is
    'A draft was written by an agent and has not been looked at by a person.';
comment on column public.contract_risk_analyses.doc_id is
    'The document that was read; null when it is not on file.';
comment on column public.contract_risk_analyses.score is 'Risk from 0 (none) to 10.';
comment on column public.contract_risk_analyses.verdict is
    'From the score: below 3 approved, 3 to 7 with_reservations, above 7 blocked.';
create index contract_risk_analyses_contract_id_idx
on public.contract_risk_analyses (org_id, contract_id, created_at desc);
create index contract_risk_analyses_doc_id_idx on public.contract_risk_analyses (org_id, doc_id);

create table public.contract_risk_clauses (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    analysis_id uuid not null,
    clause_type text not null
        constraint contract_risk_clauses_clause_type_check
        check (length(btrim(clause_type)) between 2 and 100),
    excerpt text not null constraint contract_risk_clauses_excerpt_check check (excerpt ~ '\S'),
    severity text not null
        constraint contract_risk_clauses_severity_check
        check (severity in ('low', 'medium', 'high')),
    explanation text,
    suggestion text,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    foreign key (org_id, analysis_id) references public.contract_risk_analyses (org_id, id)
    on delete cascade
);
comment on table public.contract_risk_clauses is
    '[legal] Clauses a risk analysis found, with what to change.';
comment on column public.contract_risk_clauses.clause_type is
    'Kind of clause: multa, rescisão, exclusividade …';
comment on column public.contract_risk_clauses.excerpt is 'The clause''s words.';
comment on column public.contract_risk_clauses.explanation is 'Why it is a risk.';
comment on column public.contract_risk_clauses.suggestion is
    'Better words; null where the clause may stay.';
create index contract_risk_clauses_analysis_id_idx
on public.contract_risk_clauses (org_id, analysis_id);

create table public.compliance_frameworks (
    key text not null primary key
        constraint compliance_frameworks_key_check check (key ~ '^[a-z][a-z0-9_]*$'),
    name text not null,
    reference text not null,
    description text not null
);
comment on table public.compliance_frameworks is
    '[legal] Laws a playbook is checked against. The same for every organisation, hence a single '
    'key; changed by migration.';
comment on column public.compliance_frameworks.reference is 'Number of the law.';
comment on column public.compliance_frameworks.description is 'What it is about, pt-BR.';

create table public.compliance_checks (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    framework_key text not null references public.compliance_frameworks (key),
    playbook_id uuid,
    requirement text not null
        constraint compliance_checks_requirement_check
        check (length(btrim(requirement)) between 2 and 500),
    status text not null default 'pending'
        constraint compliance_checks_status_check check (status in ('ok', 'gap', 'pending')),
    evidence text,
    due_on date,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique nulls not distinct (org_id, framework_key, playbook_id, requirement),
    foreign key (org_id, playbook_id) references public.playbooks (org_id, id) on delete cascade,
    constraint compliance_checks_evidence_check
    check (status <> 'ok' or coalesce(evidence, '') ~ '\S')
);
comment on table public.compliance_checks is
    '[legal] What a law requires of a playbook and whether it is met. ok needs evidence; the '
    'status follows the latest look and may go back.';
comment on column public.compliance_checks.playbook_id is
    'Null where the requirement concerns the whole organisation.';
comment on column public.compliance_checks.evidence is
    'What shows that the requirement is met; needed for ok.';
comment on column public.compliance_checks.due_on is
    'Until when it has to be ok; null without a date.';
create index compliance_checks_framework_key_idx
on public.compliance_checks (framework_key, org_id);
create index compliance_checks_playbook_id_idx on public.compliance_checks (org_id, playbook_id);
create index compliance_checks_due_on_idx on public.compliance_checks (org_id, due_on)
where status <> 'ok';

-- 2. Functions

create function app.count_legal_doc_version() returns trigger
language plpgsql
set search_path = ''
as $$
begin
    if tg_op = 'INSERT' then
        new.version := 1;
    elsif new.file_path <> old.file_path then
        new.version := old.version + 1;
    else
        new.version := old.version;
    end if;
    return new;
end;
$$;
comment on function app.count_legal_doc_version() is
    'Trigger: the version of a legal document goes up with each new file and in no other way.';

create function app.record_legal_doc_version() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    insert into public.legal_doc_versions (org_id, doc_id, version, file_path, note, created_by)
    values (new.org_id, new.id, new.version, new.file_path, new.note, auth.uid());
    return null;
end;
$$;
comment on function app.record_legal_doc_version() is
    'Trigger: keeps every file of a legal document. Definer because nobody may write versions by '
    'hand.';

-- 3. Triggers

create trigger legal_docs_50_count_version
before insert or update on public.legal_docs
for each row execute function app.count_legal_doc_version();

create trigger legal_docs_60_record_version
after insert on public.legal_docs
for each row execute function app.record_legal_doc_version();

create trigger legal_docs_60_record_new_version
after update on public.legal_docs
for each row when (old.version <> new.version)
execute function app.record_legal_doc_version();

create trigger legal_doc_versions_10_refuse_change
before update on public.legal_doc_versions
for each row execute function app.refuse_change();

create trigger legal_docs_70_emit
after insert or update or delete on public.legal_docs
for each row execute function app.emit_event(
    'legal', 'legal_doc', '', 'contract_id', 'doc_type', 'version'
);

create trigger legal_docs_80_audit
after insert or update or delete on public.legal_docs
for each row execute function app.audit_row();

create trigger contract_risk_analyses_70_emit
after insert or update or delete on public.contract_risk_analyses
for each row execute function app.emit_event(
    'legal', 'contract_risk_analysis', 'verdict', 'contract_id', 'score', 'status'
);

create trigger contract_risk_analyses_80_audit
after insert or update or delete on public.contract_risk_analyses
for each row execute function app.audit_row();

create trigger contract_risk_clauses_70_emit
after insert or update or delete on public.contract_risk_clauses
for each row execute function app.emit_event(
    'legal', 'contract_risk_clause', '', 'analysis_id', 'clause_type', 'severity'
);

create trigger compliance_checks_70_emit
after insert or update or delete on public.compliance_checks
for each row execute function app.emit_event(
    'legal', 'compliance_check', 'status', 'framework_key', 'playbook_id', 'due_on'
);

-- 5. Access

select app.protect_table('public.legal_docs', 'legal', null);
select app.protect_table('public.legal_doc_versions', 'legal', null, '{select}');
select app.protect_table('public.contract_risk_analyses', 'legal', null);
select app.protect_table('public.contract_risk_clauses', 'legal', null);
select app.protect_table('public.compliance_checks', 'legal', null);

-- The same for every organisation, so no organisation decides: any signed-in person reads it.
alter table public.compliance_frameworks enable row level security;
alter table public.compliance_frameworks force row level security;
create policy compliance_frameworks_select on public.compliance_frameworks for select
to authenticated using (true);
create policy compliance_frameworks_select_analyst on public.compliance_frameworks for select
to analyst using (true);
grant select on public.compliance_frameworks to authenticated, analyst;
grant select, insert, update, delete on public.compliance_frameworks to service_role;

-- 6. Reference rows

insert into public.compliance_frameworks (key, name, reference, description) values
(
    'lgpd', 'LGPD',
    'Lei 13.709/2018',
    'Lei Geral de Proteção de Dados Pessoais: bases legais, direitos do titular, segurança e '
    'incidentes.'
),
(
    'marco_civil', 'Marco Civil da Internet',
    'Lei 12.965/2014',
    'Direitos e deveres no uso da internet: guarda de registros, sigilo e responsabilidade.'
),
(
    'clt', 'CLT',
    'Decreto-Lei 5.452/1943',
    'Consolidação das Leis do Trabalho: jornada, contrato de trabalho, saúde e segurança.'
);

insert into app.event_types (module, event_type, description, payload_keys) values
('legal', 'legal_doc.created', 'A legal document was filed.', '{contract_id,doc_type,version}'),
(
    'legal', 'legal_doc.updated', 'A legal document was changed or got a new version.',
    '{contract_id,doc_type,version,changed}'
),
('legal', 'legal_doc.deleted', 'A legal document was removed.', '{contract_id,doc_type,version}'),
(
    'legal', 'contract_risk_analysis.created', 'The risk of a contract was analysed.',
    '{contract_id,score,status,verdict}'
),
(
    'legal', 'contract_risk_analysis.approved', 'A corrected analysis approves a contract.',
    '{contract_id,score,status,verdict,changed}'
),
(
    'legal', 'contract_risk_analysis.with_reservations', 'A corrected analysis has reservations.',
    '{contract_id,score,status,verdict,changed}'
),
(
    'legal', 'contract_risk_analysis.blocked', 'A corrected analysis blocks a contract.',
    '{contract_id,score,status,verdict,changed}'
),
(
    'legal', 'contract_risk_analysis.updated', 'A risk analysis was changed.',
    '{contract_id,score,status,verdict,changed}'
),
(
    'legal', 'contract_risk_analysis.deleted', 'A risk analysis was removed.',
    '{contract_id,score,status,verdict}'
),
(
    'legal', 'contract_risk_clause.created', 'A risky clause was noted.',
    '{analysis_id,clause_type,severity}'
),
(
    'legal', 'contract_risk_clause.updated', 'A risky clause was changed.',
    '{analysis_id,clause_type,severity,changed}'
),
(
    'legal', 'contract_risk_clause.deleted', 'A risky clause was removed.',
    '{analysis_id,clause_type,severity}'
),
(
    'legal', 'compliance_check.created', 'A requirement was listed.',
    '{framework_key,playbook_id,status,due_on}'
),
(
    'legal', 'compliance_check.ok', 'A requirement is met.',
    '{framework_key,playbook_id,status,due_on,changed}'
),
(
    'legal', 'compliance_check.gap', 'A requirement is not met.',
    '{framework_key,playbook_id,status,due_on,changed}'
),
(
    'legal', 'compliance_check.pending', 'A requirement has to be looked at again.',
    '{framework_key,playbook_id,status,due_on,changed}'
),
(
    'legal', 'compliance_check.updated', 'A requirement was changed.',
    '{framework_key,playbook_id,status,due_on,changed}'
),
(
    'legal', 'compliance_check.deleted', 'A requirement was removed.',
    '{framework_key,playbook_id,status,due_on}'
);
