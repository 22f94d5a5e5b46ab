-- Data snapshots: what the ERP said, as it said it, and what is missing.
-- Depends on: core, core_access, core_audit, events, notify.
-- Asked for by: domain §5 (data), ness-os-data-massa "Tabelas envolvidas".

-- 1. Tables

create table public.erp_sync_log (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    run_id uuid not null default gen_random_uuid(),
    entity text not null
        constraint erp_sync_log_entity_check
            check (entity in ('clients', 'services', 'receivables', 'revenue')),
    mode text not null default 'full'
        constraint erp_sync_log_mode_check check (mode in ('incremental', 'full')),
    since date,
    month date constraint erp_sync_log_month_check check (month = app.month_start(month)),
    status text not null default 'running'
        constraint erp_sync_log_status_check
            check (status in ('running', 'succeeded', 'partial', 'failed')),
    seen integer not null default 0,
    created integer not null default 0,
    updated integer not null default 0,
    unchanged integer not null default 0,
    skipped integer not null default 0,
    deactivated integer not null default 0,
    failed integer not null default 0,
    failures jsonb not null default '[]'
        constraint erp_sync_log_failures_check
            check (jsonb_typeof(failures) = 'array' and jsonb_array_length(failures) <= 100),
    error text constraint erp_sync_log_error_check check (length(error) <= 2000),
    started_at timestamptz not null default app.now(),
    finished_at timestamptz,
    next_at timestamptz,
    created_at timestamptz not null default app.now(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    constraint erp_sync_log_counts_check
        check (least(seen, created, updated, unchanged, skipped, deactivated, failed) >= 0),
    constraint erp_sync_log_since_check check (mode = 'full' or since is not null),
    constraint erp_sync_log_finished_check
        check ((status = 'running') = (finished_at is null) and finished_at >= started_at)
);
comment on table public.erp_sync_log is
    '[data] One row per synchronisation of one entity with the ERP (Omie): what, when, how much, '
    'how it ended.';
comment on column public.erp_sync_log.run_id is
    'The run it belongs to: one run may synchronise several entities, and may be tried again.';
comment on column public.erp_sync_log.since is
    'Day of change asked for by an incremental run: that of the run before, less two days. Of '
    'revenue: first day of the first month asked for; null as month.';
comment on column public.erp_sync_log.month is
    'First day of the month asked for, the last of several (revenue); else null.';
comment on column public.erp_sync_log.status is
    'partial: rows failed, or the lists changed while they were read and nothing was taken for '
    'vanished; error tells.';
comment on column public.erp_sync_log.seen is
    'Rows of the ERP; each was created, updated, unchanged, skipped or failed. Of revenue those '
    'are the rows of the snapshot, and seen are titles and receipts.';
comment on column public.erp_sync_log.skipped is
    'Not ours: suppliers, inactive services; of revenue lines that do not count.';
comment on column public.erp_sync_log.deactivated is
    'Rows the ERP no longer has: clients made inactive, titles cancelled, revenue removed.';
comment on column public.erp_sync_log.failures is
    'The first 100 rows that failed: [{row, reason}], the row''s code in the ERP and what is '
    'wrong with it.';
comment on column public.erp_sync_log.error is
    'Why it failed or was partial; never a request body.';
comment on column public.erp_sync_log.next_at is
    'No other run of the organisation starts before: five minutes after the end, or later where '
    'the ERP asked for it.';
create index erp_sync_log_entity_idx on public.erp_sync_log (org_id, entity, started_at desc);

create table public.erp_revenue_snapshot (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    month date not null
        constraint erp_revenue_snapshot_month_check check (month = app.month_start(month)),
    omie_codigo bigint not null
        constraint erp_revenue_snapshot_omie_codigo_check check (omie_codigo > 0),
    client_id uuid,
    basis text not null
        constraint erp_revenue_snapshot_basis_check check (basis in ('issued', 'received')),
    value numeric(14, 2) not null,
    synced_at timestamptz not null default app.now(),
    created_at timestamptz not null default app.now(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, month, omie_codigo, basis)
);
comment on table public.erp_revenue_snapshot is
    '[data] Revenue the ERP billed (issued) or received, per month and ERP client. Kept 36 months.';
comment on column public.erp_revenue_snapshot.month is 'First day of the month.';
comment on column public.erp_revenue_snapshot.omie_codigo is
    'Omie''s code of the client; matches clients.omie_codigo.';
comment on column public.erp_revenue_snapshot.client_id is
    'Client with this omie_codigo, kept by trigger; null while no client has it.';
comment on column public.erp_revenue_snapshot.value is 'BRL; negative when returns exceed sales.';
create index erp_revenue_snapshot_omie_codigo_idx
on public.erp_revenue_snapshot (org_id, omie_codigo, month);
create index erp_revenue_snapshot_client_id_idx on public.erp_revenue_snapshot (org_id, client_id);

create table public.erp_receivables (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    title_number bigint not null
        constraint erp_receivables_title_number_check check (title_number > 0),
    reference text constraint erp_receivables_reference_check check (length(reference) <= 120),
    omie_codigo bigint not null
        constraint erp_receivables_omie_codigo_check check (omie_codigo > 0),
    client_id uuid,
    document text constraint erp_receivables_document_check check (app.is_valid_document(document)),
    issued_on date,
    due_on date not null,
    amount numeric(14, 2) not null constraint erp_receivables_amount_check check (amount >= 0),
    paid numeric(14, 2) not null default 0 constraint erp_receivables_paid_check check (paid >= 0),
    open numeric(14, 2) not null constraint erp_receivables_open_check check (open >= 0),
    status text not null
        constraint erp_receivables_status_check
            check (status in ('open', 'partial', 'paid', 'cancelled')),
    paid_on date,
    vanished_at timestamptz,
    synced_at timestamptz not null default app.now(),
    created_at timestamptz not null default app.now(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, title_number),
    constraint erp_receivables_settled_check check (status in ('open', 'partial') or open = 0)
);
comment on table public.erp_receivables is
    '[data] Titles to receive as the ERP shows them. Overdue is not a status: open > 0 and due_on '
    'passed.';
comment on column public.erp_receivables.title_number is 'Omie''s codigo_lancamento_omie.';
comment on column public.erp_receivables.reference is
    'Document number and instalment as printed, such as OS-41 001/003.';
comment on column public.erp_receivables.omie_codigo is
    'Omie''s code of the client; matches clients.omie_codigo.';
comment on column public.erp_receivables.client_id is
    'Client with this omie_codigo, kept by trigger; null while no client has it.';
comment on column public.erp_receivables.document is '[pii] CPF or CNPJ of the debtor, bare.';
comment on column public.erp_receivables.amount is 'Face value, BRL.';
comment on column public.erp_receivables.paid is
    'BRL received so far; with interest or discount, paid + open differs from amount.';
comment on column public.erp_receivables.open is 'BRL still to receive; 0 once paid or cancelled.';
comment on column public.erp_receivables.paid_on is 'Day of the latest payment.';
comment on column public.erp_receivables.vanished_at is
    'When the ERP was found to have the title no more; it counts as cancelled since.';
comment on column public.erp_receivables.synced_at is
    'Moment what stands here was true in the ERP; older news does not change it.';
create index erp_receivables_due_on_idx on public.erp_receivables (org_id, due_on) where open > 0;
create index erp_receivables_omie_codigo_idx on public.erp_receivables (org_id, omie_codigo);
create index erp_receivables_client_id_idx on public.erp_receivables (org_id, client_id);

create table public.data_gaps (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    dataset text not null
        constraint data_gaps_dataset_check check (dataset ~ '^[a-z][a-z0-9_]{1,59}$'),
    period date not null,
    item text not null default '' constraint data_gaps_item_check check (length(item) <= 120),
    detail text constraint data_gaps_detail_check check (length(detail) <= 2000),
    status text not null default 'open'
        constraint data_gaps_status_check check (status in ('open', 'solved')),
    detected_at timestamptz not null default app.now(),
    solved_at timestamptz,
    created_at timestamptz not null default app.now(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, dataset, period, item),
    constraint data_gaps_solved_check check ((status = 'solved') = (solved_at is not null))
);
comment on table public.data_gaps is
    '[data] What a period should hold and does not: a month without ERP revenue, an index value '
    'not published, a client without match.';
comment on column public.data_gaps.dataset is
    'Table or feed that has the gap, such as erp_revenue_snapshot.';
comment on column public.data_gaps.period is 'Day the gap starts, or first day of its month.';
comment on column public.data_gaps.item is
    'Which series, client or title; empty for the whole dataset.';

-- 3. Triggers

create trigger erp_sync_log_10_guard_status
before update of status on public.erp_sync_log
for each row when (old.status is distinct from new.status)
execute function app.guard_move('erp_sync', 'status');

create trigger data_gaps_10_guard_status
before update of status on public.data_gaps
for each row when (old.status is distinct from new.status)
execute function app.guard_move('data_gap', 'status');

create trigger erp_sync_log_70_emit
after insert or update or delete on public.erp_sync_log
for each row execute function app.emit_event('data', 'erp_sync', 'status', 'entity', 'month');

create trigger erp_sync_log_75_notify
after insert or update of status on public.erp_sync_log
for each row when (new.status = 'failed')
execute function app.notify_failed_sync();

create trigger data_gaps_70_emit
after insert or update or delete on public.data_gaps
for each row execute function app.emit_event('data', 'data_gap', 'status', 'dataset', 'period');

-- 5. Access

select app.protect_table('public.erp_sync_log', 'data', null, '{select}');
select app.protect_table('public.erp_revenue_snapshot', 'data', null, '{select}');
select app.protect_table('public.erp_receivables', 'data', null, '{select}');
select app.protect_table('public.data_gaps', 'data', null, '{select}');

-- 6. Reference rows

insert into app.error_keys (key, http, meaning) values
('erp_sync_move_refused', 409,
    'A finished synchronisation run is not reopened; a retry is a new run.'),
('data_gap_move_refused', 409, 'The data gap cannot take this status from the one it has.');

insert into app.allowed_moves (machine, from_state, to_state) values
('erp_sync_log', 'running', 'succeeded'),
('erp_sync_log', 'running', 'partial'),
('erp_sync_log', 'running', 'failed'),
('data_gaps', 'open', 'solved'),
('data_gaps', 'solved', 'open');

insert into app.event_types (module, event_type, description, payload_keys) values
('data', 'erp_sync.created', 'A synchronisation with the ERP began.', '{entity,month,status}'),
(
    'data', 'erp_sync.succeeded', 'A synchronisation with the ERP ended well.',
    '{entity,month,status,changed}'
),
(
    'data', 'erp_sync.partial', 'A synchronisation with the ERP ended with rows left out.',
    '{entity,month,status,changed}'
),
(
    'data', 'erp_sync.failed', 'A synchronisation with the ERP failed.',
    '{entity,month,status,changed}'
),
(
    'data', 'erp_sync.updated', 'A running synchronisation reported progress.',
    '{entity,month,status,changed}'
),
(
    'data', 'erp_sync.deleted', 'A synchronisation run was removed by retention.',
    '{entity,month,status}'
),
('data', 'data_gap.created', 'Something expected is missing.', '{dataset,period,status}'),
('data', 'data_gap.solved', 'The missing data arrived.', '{dataset,period,status,changed}'),
('data', 'data_gap.open', 'The gap is back.', '{dataset,period,status,changed}'),
(
    'data', 'data_gap.updated', 'The description of a gap changed.',
    '{dataset,period,status,changed}'
),
('data', 'data_gap.deleted', 'A gap was removed.', '{dataset,period,status}');
