-- Rates of the Banco Central: series and exchange rates, what they accumulate to, their sync.
-- Depends on: core, core_access, jobs.
-- Asked for by: domain §5 (data), §6 (sync.bcb), ness-os-data-massa "Tabelas envolvidas".

-- 1. Tables

create table public.bcb_series (
    series text primary key constraint bcb_series_series_check check (series ~ '^[A-Z0-9]{1,8}$'),
    key text not null unique constraint bcb_series_key_check check (key ~ '^[A-Z][A-Z_]{1,19}$'),
    name text not null,
    source text not null constraint bcb_series_source_check check (source in ('sgs', 'ptax')),
    frequency text not null
        constraint bcb_series_frequency_check check (frequency in ('daily', 'monthly')),
    kind text not null constraint bcb_series_kind_check check (kind in ('level', 'rate')),
    unit text not null,
    first_on date not null
);
comment on table public.bcb_series is
    '[data] The series of the Banco Central that are kept, and what their numbers mean; the same '
    'for every organisation.';
comment on column public.bcb_series.series is
    'Code of the series in SGS, or currency of PTAX; as in bcb_rates_snapshot.';
comment on column public.bcb_series.key is
    'The name it is asked for by, such as IPCA; contracts.adjustment_index uses the same.';
comment on column public.bcb_series.name is 'Name shown to people, pt-BR.';
comment on column public.bcb_series.source is
    'sgs: Sistema Gerenciador de Séries Temporais; ptax: closing bulletin of the exchange rate.';
comment on column public.bcb_series.kind is
    'rate: percent of the day or month, which compounds; level: a state, such as a yearly target '
    'or a price, which does not.';
comment on column public.bcb_series.unit is 'Unit of a value, pt-BR.';
comment on column public.bcb_series.first_on is
    'Day of the oldest value the Banco Central has, or one shortly before.';

create table public.bcb_rates_snapshot (
    series text not null references public.bcb_series (series),
    date date not null,
    value numeric(18, 8),
    buy numeric(18, 8) constraint bcb_rates_snapshot_buy_check check (buy > 0),
    sell numeric(18, 8) constraint bcb_rates_snapshot_sell_check check (sell > 0),
    created_at timestamptz not null default app.now(),
    updated_at timestamptz not null default app.now(),
    primary key (series, date),
    constraint bcb_rates_snapshot_value_check
        check (value is not null or buy is not null or sell is not null)
);
comment on table public.bcb_rates_snapshot is
    '[data] Series (SGS) and exchange rates (PTAX) of the Banco Central. Global: the same for '
    'every organisation. Kept for good: long periods accumulate over them.';
comment on column public.bcb_rates_snapshot.date is
    'Day of the value; monthly series are dated on day 1 of their month.';
comment on column public.bcb_rates_snapshot.value is
    'In the unit of the series; monthly indices in percent of the month. Null for a currency.';
comment on column public.bcb_rates_snapshot.buy is 'BRL per unit of the currency, bought.';
comment on column public.bcb_rates_snapshot.sell is 'BRL per unit of the currency, sold.';
comment on column public.bcb_rates_snapshot.updated_at is 'When the value was last revised.';

create table public.bcb_sync_log (
    run_id uuid not null,
    series text not null references public.bcb_series (series),
    since date,
    from_on date not null,
    to_on date not null,
    stored_to date,
    status text not null default 'running'
        constraint bcb_sync_log_status_check check (status in ('running', 'succeeded', 'failed')),
    rows_read integer not null default 0 constraint bcb_sync_log_read_check check (rows_read >= 0),
    rows_created integer not null default 0
        constraint bcb_sync_log_created_check check (rows_created >= 0),
    rows_revised integer not null default 0
        constraint bcb_sync_log_revised_check check (rows_revised >= 0),
    error text constraint bcb_sync_log_error_check check (length(error) <= 2000),
    started_at timestamptz not null default app.now(),
    finished_at timestamptz,
    primary key (run_id, series),
    constraint bcb_sync_log_period_check check (from_on <= to_on and stored_to <= to_on),
    constraint bcb_sync_log_finished_check
        check ((status = 'running') = (finished_at is null) and finished_at >= started_at),
    constraint bcb_sync_log_failed_check check ((status = 'failed') = (error is not null))
);
comment on table public.bcb_sync_log is
    '[data] One row per series and run of the synchronisation with the Banco Central. '
    'Kept 24 months.';
comment on column public.bcb_sync_log.since is
    'First day asked for; null for a run that goes on from the last stored value.';
comment on column public.bcb_sync_log.stored_to is
    'Everything from from_on to this day is stored; null before the first window. A run that '
    'ended early goes on after it.';
comment on column public.bcb_sync_log.rows_read is
    'Values the Banco Central answered; those neither created nor revised were known.';
comment on column public.bcb_sync_log.rows_revised is
    'Values that had been stored with another number.';
comment on column public.bcb_sync_log.error is 'Why it failed; never a request body.';
create index bcb_sync_log_series_idx on public.bcb_sync_log (series, started_at desc);

-- 2. Functions: bank days

create function app.easter(year integer) returns date
language plpgsql
immutable
set search_path = ''
as $$
declare
    -- The Gregorian computus (Meeus, Astronomical Algorithms, chapter 8).
    v_a integer := year % 19;
    v_b integer := year / 100;
    v_c integer := year % 100;
    v_h integer := (19 * v_a + v_b - v_b / 4 - (v_b - (v_b + 8) / 25 + 1) / 3 + 15) % 30;
    v_l integer := (32 + 2 * (v_b % 4) + 2 * (v_c / 4) - v_h - v_c % 4) % 7;
    v_m integer := (v_a + 11 * v_h + 22 * v_l) / 451;
    v_n integer := v_h + v_l - 7 * v_m + 114;
begin
    return make_date(year, v_n / 31, v_n % 31 + 1);
end;
$$;
comment on function app.easter(integer) is 'Easter Sunday of a year.';

create function app.is_bank_day(day date) returns boolean
language plpgsql
immutable
set search_path = ''
as $$
declare
    v_year integer := extract(year from day);
    v_month_day integer := extract(month from day) * 100 + extract(day from day);
begin
    return extract(isodow from day) < 6
        and v_month_day <> all ('{101,421,501,907,1012,1102,1115,1225}')
        and (v_month_day <> 1120 or v_year < 2024)
        -- Carnival Monday and Tuesday, Good Friday, Corpus Christi.
        and day - app.easter(v_year) <> all ('{-48,-47,-2,60}');
end;
$$;
comment on function app.is_bank_day(date) is
    'Whether banks and markets work on a day in all of Brazil: Monday to Friday without the '
    'national bank holidays (ANBIMA''s calendar since 2001; 20 November since 2024).';

create function app.previous_bank_day(day date) returns date
language plpgsql
immutable
set search_path = ''
as $$
declare
    v_day date := day - 1;
begin
    while not app.is_bank_day(v_day) loop
        v_day := v_day - 1;
    end loop;
    return v_day;
end;
$$;
comment on function app.previous_bank_day(date) is 'The last bank day before a day.';

-- 2. Functions: values and what they accumulate to

create function app.find_bcb_series(series text) returns public.bcb_series
language plpgsql
stable
set search_path = ''
as $$
declare
    v_series public.bcb_series;
begin
    select * into v_series
    from public.bcb_series as s
    where upper(find_bcb_series.series) in (s.key, s.series);
    if v_series.series is null then
        perform app.raise_error(
            'series_not_found', format('There is no series %s.', find_bcb_series.series),
            'One of: ' || (select string_agg(s.key, ', ' order by s.key) from public.bcb_series as s)
        );
    end if;
    return v_series;
end;
$$;
comment on function app.find_bcb_series(text) is
    'A series by its key or its code at the Banco Central. Errors: series_not_found.';

create function app.monthly_index(series text, month date) returns numeric
language sql
stable
set search_path = ''
as $$
    select r.value
    from public.bcb_rates_snapshot as r
    where r.series = monthly_index.series and r.date = app.month_start(monthly_index.month)
$$;
comment on function app.monthly_index(text, date) is
    'Value of a monthly series (percent of the month) for the month a day lies in; null when not '
    'published.';

create function app.value_days(frequency text, from_date date, to_date date) returns setof date
language sql
immutable
set search_path = ''
as $$
    select generate_series(
        app.month_start((from_date + interval '1 month' - interval '1 day')::date)::timestamp,
        (app.month_start(to_date) - 1)::timestamp,
        interval '1 month'
    )::date
    where frequency = 'monthly'
    union all
    select given.day::date
    from generate_series(from_date::timestamp, (to_date - 1)::timestamp, interval '1 day')
        as given (day)
    where frequency = 'daily' and app.is_bank_day(given.day::date)
$$;
comment on function app.value_days(text, date, date) is
    'The dates on which a series has a value of the period [from_date, to_date): every bank day; '
    'or day 1 of every month that lies in it as a whole.';

create function app.period_values(series text, from_date date, to_date date)
returns setof public.bcb_rates_snapshot
language plpgsql
stable
set search_path = ''
as $$
declare
    v_series public.bcb_series := app.find_bcb_series(period_values.series);
    v_days date[];
    v_missing text[];
begin
    if v_series.kind <> 'rate' then
        perform app.raise_error(
            'series_not_a_rate',
            format('%s (series %s) is a level in %s.', v_series.key, v_series.series,
                v_series.unit),
            'Only rates of a day or a month compound: ' || (
                select string_agg(s.key, ', ' order by s.key)
                from public.bcb_series as s where s.kind = 'rate'
            )
        );
    elsif from_date is null or to_date is null or to_date < from_date then
        perform app.raise_error(
            'bad_input', 'The period is not one.', 'to_date is the day after its last.'
        );
    end if;
    v_days := array(select app.value_days(v_series.frequency, from_date, to_date));
    select array_agg(
        to_char(span.first_on, span.pattern)
        || case when span.last_on > span.first_on
            then ' to ' || to_char(span.last_on, span.pattern) else '' end
        order by span.first_on
    )
    into v_missing
    from (
        select
            min(gap.day) as first_on, max(gap.day) as last_on,
            case v_series.frequency when 'monthly' then 'YYYY-MM' else 'YYYY-MM-DD' end as pattern
        from (
            select expected.day, expected.place - row_number() over (order by expected.day) as span
            from unnest(v_days) with ordinality as expected (day, place)
            where not exists (
                select from public.bcb_rates_snapshot as r
                where
                    r.series = v_series.series and r.date = expected.day and r.value is not null
            )
        ) as gap
        group by gap.span
    ) as span;
    if v_missing is not null then
        perform app.raise_error(
            'index_values_missing',
            format(
                '%s (series %s) lacks %s%s.', v_series.key, v_series.series,
                array_to_string(v_missing[:5], ', '),
                case when cardinality(v_missing) > 5
                    then format(' and %s periods more', cardinality(v_missing) - 5) else '' end
            ),
            'Synchronise the rates of the Banco Central, or wait for what is not published yet.'
        );
    end if;
    return query
    select r.* from public.bcb_rates_snapshot as r
    where
        r.series = v_series.series
        and case v_series.frequency
            when 'monthly' then r.date = any (v_days)
            else r.date >= from_date and r.date < to_date
        end
    order by r.date;
end;
$$;
comment on function app.period_values(text, date, date) is
    'The values of a rate that count in the period [from_date, to_date), oldest first: of a '
    'monthly series the closed months in it. Refused where one is missing: a monthly series has a '
    'value every month, a daily one every bank day. Errors: series_not_found, series_not_a_rate, '
    'bad_input, index_values_missing.';

create function app.compound(rates numeric[]) returns numeric
language plpgsql
immutable
set search_path = ''
as $$
declare
    v_rate numeric;
    v_factor numeric := 1;
begin
    -- Products of numerics are exact: no floats, no logarithms.
    foreach v_rate in array rates loop
        v_factor := v_factor * (1 + trim_scale(v_rate) * 0.01);
    end loop;
    return trim_scale(v_factor);
end;
$$;
comment on function app.compound(numeric[]) is
    'Product of (1 + rate / 100), rates in percent; 1 of none. Exact: rounded by Postgres only '
    'beyond 16,383 decimal places, some 8 years of daily rates.';

create function public.accumulated(
    series text,
    from_date date,
    to_date date,
    out factor numeric,
    out accumulated_pct numeric,
    out value_count integer,
    out first_on date,
    out last_on date
)
language sql
stable
set search_path = ''
as $$
    select compounded.factor, round((compounded.factor - 1) * 100, 8), found.value_count,
        found.first_on, found.last_on
    from (
        select
            array_agg(p.value) as rates, count(*)::integer as value_count,
            min(p.date) as first_on, max(p.date) as last_on
        from app.period_values(accumulated.series, from_date, to_date) as p
    ) as found
    cross join lateral (
        select app.compound(coalesce(found.rates, '{}')) as factor
    ) as compounded
$$;
comment on function public.accumulated(text, date, date) is
    'What a rate accumulates to from from_date up to the day before to_date, compounded: a daily '
    'rate (CDI, SELIC_DAILY) over bank days, a monthly one (IPCA, IGPM …) over the closed months '
    'in the period. factor is exact and what an amount is multiplied by; accumulated_pct is '
    '(factor - 1) × 100 to 8 places. Errors: series_not_found, series_not_a_rate, bad_input, '
    'index_values_missing.';

create function public.exchange_rate(
    currency text,
    on_date date default null,
    out quoted_on date,
    out buy numeric,
    out sell numeric
)
language plpgsql
stable
set search_path = ''
as $$
declare
    v_series public.bcb_series := app.find_bcb_series(currency);
    v_today date := app.org_today(null);
    v_day date := coalesce(on_date, v_today);
begin
    if v_series.source <> 'ptax' then
        perform app.raise_error(
            'series_not_found', format('%s is not a currency.', v_series.key),
            'One of: ' || (
                select string_agg(s.key, ', ' order by s.key)
                from public.bcb_series as s where s.source = 'ptax'
            )
        );
    elsif v_day > v_today then
        perform app.raise_error('bad_input', 'on_date lies in the future.', null);
    end if;
    select r.date, r.buy, r.sell into quoted_on, buy, sell
    from public.bcb_rates_snapshot as r
    where r.series = v_series.series and r.date <= v_day
    order by r.date desc
    limit 1;
    -- Today's closing comes after 13:00; until then, and on days without one, the last bank day's
    -- counts.
    if quoted_on is null or quoted_on < app.previous_bank_day(
        case when v_day < v_today then v_day + 1 else v_day end
    ) then
        perform app.raise_error(
            'exchange_rate_missing',
            format(
                'The rate of %s on %s is not known%s.', v_series.key, v_day,
                coalesce('; the last before it is of ' || quoted_on, '')
            ),
            'Synchronise the rates of the Banco Central.'
        );
    end if;
end;
$$;
comment on function public.exchange_rate(text, date) is
    'BRL per unit of a currency by the closing PTAX of a day (today if left out); on a weekend, a '
    'bank holiday, or today before the closing, that of the last bank day: quoted_on says which. '
    'Errors: series_not_found, bad_input, exchange_rate_missing.';

-- 2. Functions: synchronisation

create function public.upsert_bcb_rates(rates jsonb)
returns table (
    series text, date date, value numeric, buy numeric, sell numeric, is_new boolean
)
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
begin
    if rates is null or jsonb_typeof(rates) <> 'array' then
        perform app.raise_error(
            'bad_input', 'rates is not an array.', 'Send [{"series", "date", "value"}].'
        );
    end if;
    begin
        return query
        insert into public.bcb_rates_snapshot as kept (series, date, value, buy, sell)
        select distinct on (given.series, given.date)
            given.series, given.date, given.value, given.buy, given.sell
        from jsonb_array_elements(rates) with ordinality as element (item, place)
        cross join lateral jsonb_to_record(element.item) as given (
            series text, date date, value numeric, buy numeric, sell numeric
        )
        order by given.series, given.date, element.place desc
        on conflict (series, date) do update
            set
                value = excluded.value, buy = excluded.buy, sell = excluded.sell,
                updated_at = app.now()
            where (kept.value, kept.buy, kept.sell)
                is distinct from (excluded.value, excluded.buy, excluded.sell)
        -- A row that was there has been locked by this transaction, which its xmax shows.
        returning kept.series, kept.date, kept.value, kept.buy, kept.sell, kept.xmax = 0;
    exception
        when data_exception or integrity_constraint_violation then
            perform app.raise_error(
                'bad_input', sqlerrm, 'Dates are ISO, numbers have a decimal point.'
            );
    end;
end;
$$;
comment on function public.upsert_bcb_rates(jsonb) is
    'Stores an array of {series, date, value | buy, sell}; a revised value replaces the old one. '
    'Returns only rows that changed; is_new tells created from revised. Worker only.';

create function app.start_bcb_sync(run uuid, since date, only_series text[])
returns setof public.bcb_sync_log
language plpgsql
set search_path = ''
as $$
declare
    v_today date := app.org_today(null);
    v_run uuid := run;
    v_series text[];
begin
    if since > v_today then
        perform app.raise_error('bad_input', 'since lies in the future.', null);
    end if;
    select array_agg(s.series order by s.series) into v_series
    from public.bcb_series as s
    where
        only_series is null
        or s.series in (
            select (app.find_bcb_series(o.name)).series from unnest(only_series) as o (name)
        );

    -- The same backfill, cut short within a day, goes on where it was.
    if v_run is null and since is not null then
        select l.run_id into v_run
        from public.bcb_sync_log as l
        where l.since = start_bcb_sync.since and l.started_at > app.now() - interval '1 day'
        group by l.run_id
        having
            bool_or(l.status <> 'succeeded')
            and array_agg(l.series order by l.series) = v_series
        order by max(l.started_at) desc
        limit 1;
    end if;
    v_run := coalesce(v_run, gen_random_uuid());
    update public.bcb_sync_log as l
    set status = 'failed', error = 'The process ended early.', finished_at = app.now()
    where l.status = 'running' and l.run_id <> v_run;
    update public.bcb_sync_log as l set status = 'running', error = null, finished_at = null
    where l.status = 'failed' and l.run_id = v_run;

    insert into public.bcb_sync_log (run_id, series, since, from_on, to_on)
    select
        v_run, s.series, start_bcb_sync.since,
        case s.frequency when 'monthly' then app.month_start(start.day) else start.day end,
        v_today
    from public.bcb_series as s
    left join lateral (
        select max(r.date) as day from public.bcb_rates_snapshot as r where r.series = s.series
    ) as last on true
    -- Values are revised: the latest are read again. A series begins with two years.
    cross join lateral (
        select greatest(
            s.first_on,
            least(v_today, coalesce(
                start_bcb_sync.since,
                (last.day - case s.frequency
                    when 'monthly' then interval '12 months' else interval '30 days'
                end)::date,
                (v_today - interval '24 months')::date
            ))
        ) as day
    ) as start
    where
        s.series = any (v_series)
        and not exists (select from public.bcb_sync_log as l where l.run_id = v_run)
    order by s.series;
    return query select l.* from public.bcb_sync_log as l where l.run_id = v_run order by l.series;
end;
$$;
comment on function app.start_bcb_sync(uuid, date, text[]) is
    'Opens a run of the synchronisation, a row per series with what is to be read; all series '
    'when only_series is null. A run that exists, or a backfill of the same since left unfinished '
    'within a day, is opened again where it stopped. One run at a time: the caller holds the '
    'lock app.sync_bcb, so that rows still running are of processes that died. '
    'Errors: bad_input, series_not_found.';

create function app.store_bcb_window(run uuid, series text, up_to date, rates jsonb)
returns public.bcb_sync_log
language plpgsql
set search_path = ''
as $$
declare
    v_log public.bcb_sync_log;
    v_created integer;
    v_revised integer;
begin
    select count(*) filter (where u.is_new), count(*) filter (where not u.is_new)
    into v_created, v_revised
    from public.upsert_bcb_rates(rates) as u;
    update public.bcb_sync_log as l
    set
        stored_to = up_to, rows_read = l.rows_read + jsonb_array_length(rates),
        rows_created = l.rows_created + v_created, rows_revised = l.rows_revised + v_revised,
        status = case when up_to < l.to_on then 'running' else 'succeeded' end,
        finished_at = case when up_to < l.to_on then null else app.now() end
    where
        l.run_id = run and l.series = store_bcb_window.series and l.status = 'running'
        and up_to > coalesce(l.stored_to, l.from_on - 1)
    returning * into v_log;
    if v_log.run_id is null then
        perform app.raise_error(
            'bcb_window_stale', format('The run no longer waits for %s.', up_to),
            'Start a new run.'
        );
    end if;
    return v_log;
end;
$$;
comment on function app.store_bcb_window(uuid, text, date, jsonb) is
    'Stores what the Banco Central answered for the next window of a run, whose last day is '
    'up_to, and moves the run on, both or neither. Errors: bad_input, bcb_window_stale.';

create function app.fail_bcb_sync(run uuid, series text, error text) returns public.bcb_sync_log
language sql
set search_path = ''
as $$
    update public.bcb_sync_log as l
    set status = 'failed', error = left(fail_bcb_sync.error, 2000), finished_at = app.now()
    where l.run_id = run and l.series = fail_bcb_sync.series and l.status = 'running'
    returning l.*
$$;
comment on function app.fail_bcb_sync(uuid, text, text) is
    'Closes one series of a run with the reason it failed for; what it has stored stays.';

-- 3. Triggers

create trigger bcb_sync_log_10_guard_status
before update of status on public.bcb_sync_log
for each row when (old.status is distinct from new.status)
execute function app.guard_move('bcb_sync', 'status');

-- 4. Views

create view public.bcb_series_status
with (security_invoker = true) as
select
    s.key,
    s.series,
    s.name,
    s.source,
    s.frequency,
    s.kind,
    s.unit,
    last.date as last_on,
    last.value,
    last.buy,
    last.sell,
    run.status as sync_status,
    run.error as sync_error,
    run.started_at as sync_started_at,
    coalesce(
        last.date < case s.frequency
            when 'monthly'
                then app.month_start(app.month_start(app.org_today(null) - 15) - 1)
            else app.previous_bank_day(app.previous_bank_day(app.org_today(null)))
        end, true
    ) as is_late,
    (
        select max(l.finished_at) from public.bcb_sync_log as l
        where l.series = s.series and l.status = 'succeeded'
    ) as synced_at
from public.bcb_series as s
left join lateral (
    select
        r.date,
        r.value,
        r.buy,
        r.sell
    from public.bcb_rates_snapshot as r
    where r.series = s.series
    order by r.date desc
    limit 1
) as last on true
left join lateral (
    select
        l.status,
        l.error,
        l.started_at
    from public.bcb_sync_log as l
    where l.series = s.series
    order by l.started_at desc
    limit 1
) as run on true;
comment on view public.bcb_series_status is
    '[data] Every series with its last good value and how its last synchronisation went. Late: a '
    'month not known on day 16 of the next, a bank day not known after the next one.';
comment on column public.bcb_series_status.last_on is 'Day of the last value; null before any.';
comment on column public.bcb_series_status.synced_at is
    'When the series was last read to its end, whether or not anything was new.';

-- 5. Access

-- The same for every organisation, so no organisation decides: any signed-in person reads them.
alter table public.bcb_series enable row level security;
alter table public.bcb_series force row level security;
create policy bcb_series_select on public.bcb_series for select
to authenticated using (true);
create policy bcb_series_select_analyst on public.bcb_series for select
to analyst using (true);
alter table public.bcb_rates_snapshot enable row level security;
alter table public.bcb_rates_snapshot force row level security;
create policy bcb_rates_snapshot_select on public.bcb_rates_snapshot for select
to authenticated using (true);
create policy bcb_rates_snapshot_select_analyst on public.bcb_rates_snapshot for select
to analyst using (true);
alter table public.bcb_sync_log enable row level security;
alter table public.bcb_sync_log force row level security;
create policy bcb_sync_log_select on public.bcb_sync_log for select
to authenticated using (true);
create policy bcb_sync_log_select_analyst on public.bcb_sync_log for select
to analyst using (true);
grant select on
public.bcb_series, public.bcb_rates_snapshot, public.bcb_sync_log, public.bcb_series_status
to authenticated, analyst;
grant select on public.bcb_series, public.bcb_series_status to service_role;
grant select, insert, update, delete on public.bcb_rates_snapshot, public.bcb_sync_log
to service_role;

grant execute on function
app.easter(integer), app.is_bank_day(date), app.previous_bank_day(date),
app.find_bcb_series(text), app.monthly_index(text, date), app.value_days(text, date, date),
app.period_values(text, date, date), app.compound(numeric[]),
public.accumulated(text, date, date), public.exchange_rate(text, date)
to authenticated, service_role, analyst;
grant execute on function
public.upsert_bcb_rates(jsonb), app.start_bcb_sync(uuid, date, text[]),
app.store_bcb_window(uuid, text, date, jsonb), app.fail_bcb_sync(uuid, text, text)
to service_role;

-- 6. Reference rows

insert into public.bcb_series (series, key, name, source, frequency, kind, unit, first_on) values
('432', 'SELIC_TARGET', 'Selic, meta do Copom', 'sgs', 'daily', 'level', '% a.a.', '1999-03-05'),
('11', 'SELIC_DAILY', 'Selic efetiva', 'sgs', 'daily', 'rate', '% a.d.', '1986-06-04'),
('12', 'CDI', 'CDI', 'sgs', 'daily', 'rate', '% a.d.', '1986-03-06'),
('433', 'IPCA', 'IPCA', 'sgs', 'monthly', 'rate', '% a.m.', '1980-01-01'),
('10764', 'IPCA_E', 'IPCA-E', 'sgs', 'monthly', 'rate', '% a.m.', '1992-01-01'),
('189', 'IGPM', 'IGP-M', 'sgs', 'monthly', 'rate', '% a.m.', '1989-06-01'),
('188', 'INPC', 'INPC', 'sgs', 'monthly', 'rate', '% a.m.', '1979-04-01'),
('USD', 'USD', 'Dólar dos EUA, PTAX', 'ptax', 'daily', 'level', 'BRL', '1984-11-28'),
('EUR', 'EUR', 'Euro, PTAX', 'ptax', 'daily', 'level', 'BRL', '1999-01-04');

insert into app.job_types (entrypoint, latency_class, description) values
('sync.bcb', 'default', 'Reads the rates of the Banco Central that are new or revised.');

insert into app.error_keys (key, http, meaning) values
('series_not_found', 404, 'The Banco Central series or currency is not one of public.bcb_series.'),
('series_not_a_rate', 422, 'A level, such as a yearly target or a price, does not accumulate.'),
('index_values_missing', 422, 'Not all values that the period needs are known.'),
(
    'exchange_rate_missing', 422,
    'The exchange rate of the day, or of the bank day before, is not known.'
),
('bcb_window_stale', 409, 'The synchronisation has been ended or moved on by another process.'),
('bcb_sync_move_refused', 409, 'A synchronisation that has ended well is not reopened.');

insert into app.allowed_moves (machine, from_state, to_state) values
('bcb_sync_log', 'running', 'succeeded'),
('bcb_sync_log', 'running', 'failed'),
('bcb_sync_log', 'failed', 'running');
