-- Fin reports: the CFO's summary, reports as rows and as CSV for Brazilian spreadsheets.
-- Depends on: fin.
-- Asked for by: domain §5 (fin), issue 2 §4 and §5.

-- 2. Functions: summary

create function app.index_exposure(org uuid, day date) returns jsonb
language sql
stable
set search_path = ''
as $$
    select coalesce(jsonb_object_agg(b.adjustment_index, b.mrr order by b.adjustment_index), '{}')
    from (
        select k.adjustment_index, sum(k.mrr) as mrr
        from app.contract_book(index_exposure.org, index_exposure.day) as k
        group by k.adjustment_index
    ) as b
$$;
comment on function app.index_exposure(uuid, date) is
    'Monthly value (BRL) of the contracts in force on a day per adjustment index.';

create function app.renewals(org uuid, day date, days integer)
returns table (contracts integer, mrr numeric)
language sql
stable
set search_path = ''
as $$
    select count(*)::integer, coalesce(sum(k.mrr), 0)
    from app.contract_book(renewals.org, renewals.day) as k
    where
        k.renews_on between renewals.day and renewals.day + renewals.days
        or k.ends_on between renewals.day and renewals.day + renewals.days
$$;
comment on function app.renewals(uuid, date, integer) is
    'Contracts in force on a day that renew or end within so many days of it, and their monthly '
    'value (BRL).';

create function app.top_share_pct(org uuid, day date, clients integer) returns numeric
language sql
stable
set search_path = ''
as $$
    select round(
        100 * sum(b.mrr) filter (where b.place <= top_share_pct.clients) / nullif(sum(b.mrr), 0), 2
    )
    from (
        select sum(k.mrr) as mrr, row_number() over (order by sum(k.mrr) desc) as place
        from app.contract_book(top_share_pct.org, top_share_pct.day) as k
        group by k.client_id
    ) as b
$$;
comment on function app.top_share_pct(uuid, date, integer) is
    'Share of the largest clients in the monthly value of a day, percent; null without any value.';

create function public.get_cfo_summary(org uuid, month date default null) returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
    v_today date := app.org_today(get_cfo_summary.org);
    v_month date := app.month_start(coalesce(get_cfo_summary.month, v_today));
    v_day date := least(app.month_end(v_month), greatest(v_today, v_month));
    v_answer jsonb;
begin
    perform app.require_finance_reader(get_cfo_summary.org);
    select
        jsonb_build_object(
            'month', v_month, 'as_of', v_day, 'mrr', coalesce(sum(k.mrr), 0),
            'contracts', count(*), 'active_clients', count(distinct k.client_id)
        )
    into v_answer
    from app.contract_book(get_cfo_summary.org, v_day) as k;

    select
        v_answer || jsonb_build_object(
            'revenue', coalesce(sum(r.revenue), 0),
            'margin', coalesce(sum(r.margin), 0),
            'average_margin_pct', round(100 * sum(r.margin) / nullif(sum(r.revenue), 0), 2),
            'negative_margins', count(*) filter (where r.margin < 0)
        )
    into v_answer
    from app.rentability(get_cfo_summary.org, v_month) as r;

    select
        v_answer || jsonb_build_object(
            'renewals_30_brl', soon.mrr, 'renewals_30_contracts', soon.contracts,
            'renewals_90_brl', later.mrr, 'renewals_90_contracts', later.contracts,
            'top5_share_pct', app.top_share_pct(get_cfo_summary.org, v_day, 5),
            'index_exposure', app.index_exposure(get_cfo_summary.org, v_day)
        )
    into v_answer
    from app.renewals(get_cfo_summary.org, v_day, 30) as soon
    cross join app.renewals(get_cfo_summary.org, v_day, 90) as later;

    select
        v_answer || jsonb_build_object(
            'erp_billed', b.billed, 'erp_delta', b.billed - (v_answer ->> 'revenue')::numeric
        )
    into v_answer
    from (
        select
            case when app.is_erp_month_known(get_cfo_summary.org, v_month)
                then coalesce(sum(r.billed), 0) end as billed
        from app.reconciliation(get_cfo_summary.org, v_month) as r
    ) as b;

    select
        v_answer || jsonb_build_object(
            'budget', coalesce(sum(b.budget), 0), 'actual', coalesce(sum(b.actual), 0),
            'budget_variance', coalesce(sum(b.variance), 0),
            'budget_efficiency_pct',
            round((1 - sum(b.actual) / nullif(sum(b.budget), 0)) * 100, 2)
        )
    into v_answer
    from public.v_contract_budget_vs_actual as b
    where b.org_id = get_cfo_summary.org and b.month = v_month;

    return v_answer || jsonb_build_object(
        'open_reconciliation_alerts', (
            select count(*) from public.reconciliation_alerts as a
            where a.org_id = get_cfo_summary.org and a.status <> 'solved'
        ),
        'last_syncs', (
            select
                coalesce(jsonb_object_agg(l.entity, l.finished_at), '{}')
                || jsonb_build_object(
                    'bcb', (
                        select max(b.finished_at) from public.bcb_sync_log as b
                        where b.status = 'succeeded'
                    )
                )
            from (
                select s.entity, max(s.finished_at) as finished_at
                from public.erp_sync_log as s
                where s.org_id = get_cfo_summary.org and s.status in ('succeeded', 'partial')
                group by s.entity
            ) as l
        )
    );
end;
$$;
comment on function public.get_cfo_summary(uuid, date) is
    'The month in figures (BRL): mrr, contracts and active_clients on as_of (last day of the '
    'month, today for the running one); revenue, margin, average_margin_pct (all margin over all '
    'revenue) and negative_margins of the month; renewals within 30 and 90 days; top5_share_pct; '
    'index_exposure per index; erp_billed and erp_delta (billed - revenue), null while the ERP has '
    'not told of the month; open_reconciliation_alerts of all months; last_syncs; budget and '
    'budget_variance (positive: below budget). Errors: not_allowed.';

-- 2. Functions: reports

create function public.report_mrr_by_client(org uuid, day date default null)
returns table (
    client_id uuid, client_name text, segment text, contracts integer, mrr numeric,
    share_pct numeric
)
language plpgsql
stable
set search_path = ''
as $$
begin
    perform app.require_finance_reader(report_mrr_by_client.org);
    return query
    select
        k.id, k.name, k.segment, count(*)::integer, sum(b.mrr),
        round(100 * sum(b.mrr) / nullif(sum(sum(b.mrr)) over (), 0), 2)
    from app.contract_book(
        report_mrr_by_client.org,
        coalesce(report_mrr_by_client.day, app.org_today(report_mrr_by_client.org))
    ) as b
    inner join public.clients as k on k.org_id = report_mrr_by_client.org and k.id = b.client_id
    group by k.id, k.name, k.segment
    order by sum(b.mrr) desc, k.name, k.id;
end;
$$;
comment on function public.report_mrr_by_client(uuid, date) is
    'Clients with contracts in force on a day (default today), largest monthly value first, with '
    'their share in percent. Errors: not_allowed.';

create function public.report_rentability(org uuid, month date default null)
returns table (
    number text, title text, client_name text, period date, days_in_force integer,
    revenue numeric, hours_worked numeric, labour_cost numeric, cloud_cost numeric,
    other_cost numeric, overhead_cost numeric, tax numeric, total_cost numeric, margin numeric,
    margin_pct numeric, contract_id uuid, client_id uuid
)
language sql
stable
set search_path = ''
as $$
    select
        r.number, r.title, r.client_name, r.period, r.days_in_force, r.revenue, r.hours_worked,
        r.labour_cost, r.cloud_cost, r.other_cost, r.overhead_cost, r.tax, r.total_cost, r.margin,
        r.margin_pct, r.contract_id, r.client_id
    from public.contract_rentability(org, month) as r
$$;
comment on function public.report_rentability(uuid, date) is
    'contract_rentability in the order of the printed report. Errors: not_allowed.';

create function public.report_reconciliation(org uuid, month date default null)
returns table (
    client_name text, omie_codigo bigint, period date, basis text, mrr numeric, billed numeric,
    difference numeric, tolerance numeric, is_divergent boolean, alert_status text,
    client_id uuid, alert_id uuid
)
language plpgsql
stable
set search_path = ''
as $$
declare
    v_month date := app.month_start(
        coalesce(report_reconciliation.month, app.org_today(report_reconciliation.org))
    );
begin
    perform app.require_finance_reader(report_reconciliation.org);
    return query
    select
        r.client_name, r.omie_codigo, v_month, r.basis, r.mrr, r.billed, r.difference, r.tolerance,
        r.is_divergent, a.status, r.client_id, a.id
    from app.reconciliation(report_reconciliation.org, v_month) as r
    left join public.reconciliation_alerts as a
        on
            a.org_id = report_reconciliation.org and a.client_id = r.client_id
            and a.month = v_month
    order by r.is_divergent desc, abs(r.difference) desc, r.client_name, r.omie_codigo;
end;
$$;
comment on function public.report_reconciliation(uuid, date) is
    'Contracted against billed per client in the month a day lies in (default: the running one), '
    'divergent ones first; client_name is null for a billing whose code belongs to no client. '
    'Errors: not_allowed.';

create function public.report_lifecycle(org uuid)
returns table (
    number text, title text, client_name text, status text, is_in_force boolean, mrr numeric,
    starts_on date, ends_on date, renews_on date, notice_by date, days_to_end integer,
    days_to_renewal integer, adjustment_index text, auto_renews boolean, contract_id uuid,
    client_id uuid
)
language plpgsql
stable
set search_path = ''
as $$
declare
    v_today date := app.org_today(report_lifecycle.org);
begin
    perform app.require_finance_reader(report_lifecycle.org);
    return query
    select
        c.number, c.title, k.name, c.status,
        app.is_in_force(c.status, c.starts_on, c.ends_on, v_today), c.mrr, c.starts_on, c.ends_on,
        c.renews_on, least(c.renews_on, c.ends_on) - c.notice_days, c.ends_on - v_today,
        c.renews_on - v_today, c.adjustment_index, c.auto_renews, c.id, c.client_id
    from public.contracts as c
    inner join public.clients as k on k.org_id = c.org_id and k.id = c.client_id
    where c.org_id = report_lifecycle.org
    order by
        c.status not in ('active', 'suspended'),
        least(c.renews_on, c.ends_on) nulls last, c.number;
end;
$$;
comment on function public.report_lifecycle(uuid) is
    'Every contract with where it stands today: running ones first, the next renewal or end on '
    'top; notice_by is the last day to give notice, days count from today. Errors: not_allowed.';

create function public.report_erp_revenue(
    org uuid, from_month date default null, to_month date default null
)
returns table (
    month date, client_name text, omie_codigo bigint, issued numeric, received numeric,
    client_id uuid
)
language plpgsql
stable
set search_path = ''
as $$
declare
    v_to date := app.month_start(
        coalesce(report_erp_revenue.to_month, app.org_today(report_erp_revenue.org))
    );
    v_from date := app.month_start(
        coalesce(report_erp_revenue.from_month, (v_to - interval '11 months')::date)
    );
begin
    perform app.require_finance_reader(report_erp_revenue.org);
    return query
    select
        s.month, k.name, s.omie_codigo,
        coalesce(sum(s.value) filter (where s.basis = 'issued'), 0),
        coalesce(sum(s.value) filter (where s.basis = 'received'), 0),
        k.id
    from public.erp_revenue_snapshot as s
    left join public.clients as k on k.org_id = s.org_id and k.omie_codigo = s.omie_codigo
    where s.org_id = report_erp_revenue.org and s.month between v_from and v_to
    group by s.month, k.name, s.omie_codigo, k.id
    order by s.month, k.name nulls last, s.omie_codigo;
end;
$$;
comment on function public.report_erp_revenue(uuid, date, date) is
    'Revenue of the ERP per month and client, both months included (default: the last twelve), '
    'issued and received side by side. Errors: not_allowed.';

-- 2. Functions: CSV

create function app.csv_cell(cell jsonb) returns text
language sql
immutable
set search_path = ''
as $$
    select case
        when cell is null or cell = 'null' then ''
        when jsonb_typeof(cell) = 'number' then replace(given.value, '.', ',')
        when cell = 'true' then 'sim'
        when cell = 'false' then 'não'
        when safe.value ~ '[;"\r\n]' then '"' || replace(safe.value, '"', '""') || '"'
        else safe.value
    end
    from (select cell #>> '{}' as value) as given
    cross join lateral (
        -- A spreadsheet takes text that begins like this for a formula (OWASP, CSV Injection).
        select case when given.value ~ '^[=+@\t\r\n＝＋＠－-]' then '''' else '' end || given.value as value
    ) as safe
$$;
comment on function app.csv_cell(jsonb) is
    'A value as a CSV cell: decimal comma, sim or não, text quoted where needed and preceded by '
    'an apostrophe where a spreadsheet would take it for a formula.';

create function app.to_csv(columns text[], titles text[], cells jsonb) returns text
language sql
immutable
set search_path = ''
as $$
    select
        chr(65279)
        || (
            select string_agg(app.csv_cell(to_jsonb(t.title)), ';' order by t.place)
            from unnest(titles) with ordinality as t (title, place)
        )
        || E'\r\n'
        || coalesce(
            (
                select string_agg(l.line, '' order by l.place)
                from (
                    select
                        given.place,
                        string_agg(app.csv_cell(given.item -> c.name), ';' order by c.place)
                        || E'\r\n' as line
                    from jsonb_array_elements(cells) with ordinality as given (item, place)
                    cross join unnest(columns) with ordinality as c (name, place)
                    group by given.place
                ) as l
            ), ''
        )
$$;
comment on function app.to_csv(text[], text[], jsonb) is
    'An array of objects as CSV: UTF-8 with byte order mark, semicolons, CRLF.';

create function public.export_report_csv(
    org uuid, report text, from_day date default null, to_day date default null
) returns text
language plpgsql
stable
set search_path = ''
as $$
declare
    v_rows jsonb;
begin
    case report
        when 'cfo' then
            select
                jsonb_agg(
                    jsonb_build_object(
                        'figure', concat_ws(' ', f.title, part.name),
                        'value', coalesce(part.value, s.summary -> f.key)
                    ) order by f.place, part.name
                )
            into v_rows
            from public.get_cfo_summary(export_report_csv.org, from_day) as s (summary)
            cross join (
                values
                (1, 'month', 'Mês'), (2, 'as_of', 'Posição em'), (3, 'mrr', 'MRR'),
                (4, 'contracts', 'Contratos em vigor'), (5, 'active_clients', 'Clientes ativos'),
                (6, 'revenue', 'Receita do mês'), (7, 'margin', 'Margem'),
                (8, 'average_margin_pct', 'Margem média %'),
                (9, 'negative_margins', 'Contratos com margem negativa'),
                (10, 'renewals_30_brl', 'Renovações em 30 dias R$'),
                (11, 'renewals_30_contracts', 'Renovações em 30 dias'),
                (12, 'renewals_90_brl', 'Renovações em 90 dias R$'),
                (13, 'renewals_90_contracts', 'Renovações em 90 dias'),
                (14, 'top5_share_pct', 'Concentração nos 5 maiores %'),
                (15, 'erp_billed', 'Faturado no ERP'), (16, 'erp_delta', 'ERP menos receita'),
                (17, 'open_reconciliation_alerts', 'Alertas de conciliação abertos'),
                (18, 'budget', 'Orçado'), (19, 'actual', 'Realizado'),
                (20, 'budget_variance', 'Variação'), (21, 'budget_efficiency_pct', 'Eficiência %'),
                (22, 'index_exposure', 'MRR por índice'),
                (23, 'last_syncs', 'Última sincronização')
            ) as f (place, key, title)
            left join lateral jsonb_each(
                case when jsonb_typeof(s.summary -> f.key) = 'object' then s.summary -> f.key end
            ) as part (name, value) on true;
            return app.to_csv(array['figure', 'value'], array['Indicador', 'Valor'], v_rows);
        when 'mrr_by_client' then
            select jsonb_agg(to_jsonb(r)) into v_rows
            from public.report_mrr_by_client(export_report_csv.org, from_day) as r;
            return app.to_csv(
                array['client_name', 'segment', 'contracts', 'mrr', 'share_pct'],
                array['Cliente', 'Segmento', 'Contratos', 'MRR', 'Participação %'], v_rows
            );
        when 'rentability' then
            select jsonb_agg(to_jsonb(r)) into v_rows
            from public.report_rentability(export_report_csv.org, from_day) as r;
            return app.to_csv(
                array[
                    'period', 'number', 'title', 'client_name', 'days_in_force', 'revenue',
                    'hours_worked', 'labour_cost', 'cloud_cost', 'other_cost', 'overhead_cost',
                    'tax', 'total_cost', 'margin', 'margin_pct'
                ],
                array[
                    'Mês', 'Contrato', 'Título', 'Cliente', 'Dias em vigor', 'Receita', 'Horas',
                    'Custo de pessoal', 'Custo de nuvem', 'Outros custos', 'Overhead', 'Impostos',
                    'Custo total', 'Margem', 'Margem %'
                ],
                v_rows
            );
        when 'reconciliation' then
            select jsonb_agg(to_jsonb(r)) into v_rows
            from public.report_reconciliation(export_report_csv.org, from_day) as r;
            return app.to_csv(
                array[
                    'period', 'client_name', 'omie_codigo', 'basis', 'mrr', 'billed', 'difference',
                    'tolerance', 'is_divergent', 'alert_status'
                ],
                array[
                    'Mês', 'Cliente', 'Código Omie', 'Base', 'MRR', 'Faturado', 'Diferença',
                    'Tolerância', 'Divergente', 'Alerta'
                ],
                v_rows
            );
        when 'lifecycle' then
            select jsonb_agg(to_jsonb(r)) into v_rows
            from public.report_lifecycle(export_report_csv.org) as r;
            return app.to_csv(
                array[
                    'number', 'title', 'client_name', 'status', 'is_in_force', 'mrr', 'starts_on',
                    'ends_on', 'renews_on', 'notice_by', 'days_to_end', 'days_to_renewal',
                    'adjustment_index', 'auto_renews'
                ],
                array[
                    'Contrato', 'Título', 'Cliente', 'Situação', 'Em vigor', 'MRR', 'Início', 'Fim',
                    'Renovação', 'Aviso até', 'Dias até o fim', 'Dias até a renovação', 'Índice',
                    'Renova sozinho'
                ],
                v_rows
            );
        when 'erp_revenue' then
            select jsonb_agg(to_jsonb(r)) into v_rows
            from public.report_erp_revenue(export_report_csv.org, from_day, to_day) as r;
            return app.to_csv(
                array['month', 'client_name', 'omie_codigo', 'issued', 'received'],
                array['Mês', 'Cliente', 'Código Omie', 'Emitido', 'Recebido'], v_rows
            );
        else
            perform app.raise_error(
                'report_unknown', format('There is no report %s.', report),
                'cfo, mrr_by_client, rentability, reconciliation, lifecycle or erp_revenue.'
            );
    end case;
end;
$$;
comment on function public.export_report_csv(uuid, text, date, date) is
    'A report as CSV for spreadsheets: UTF-8 with byte order mark, ; between cells, decimal comma, '
    'no cell that runs as a formula. report: mrr_by_client (from_day: the day); cfo, rentability '
    'and reconciliation (from_day: a day of the month); lifecycle; erp_revenue (from_day and '
    'to_day: first and last month). Errors: not_allowed, report_unknown.';

-- 5. Access

grant execute on function
app.index_exposure(uuid, date), app.renewals(uuid, date, integer),
app.top_share_pct(uuid, date, integer), app.csv_cell(jsonb), app.to_csv(text[], text[], jsonb),
public.get_cfo_summary(uuid, date), public.report_mrr_by_client(uuid, date),
public.report_rentability(uuid, date), public.report_reconciliation(uuid, date),
public.report_lifecycle(uuid), public.report_erp_revenue(uuid, date, date),
public.export_report_csv(uuid, text, date, date)
to authenticated, service_role;

-- 6. Reference rows

insert into app.error_keys (key, http, meaning) values
('report_unknown', 422, 'There is no report of this name.');
