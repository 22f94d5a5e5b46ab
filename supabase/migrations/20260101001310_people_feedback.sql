-- People, feedback: cycles, scores of raters, and the averages that give no rater away.
-- Depends on: core, events, people (app.require_staff).
-- Asked for by: domain §5 people (feedback_360); issue 2 §4.

-- 1. Tables

create table public.feedback_cycles (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    name text not null
        constraint feedback_cycles_name_check check (length(btrim(name)) between 2 and 120),
    starts_on date not null,
    ends_on date not null,
    status text not null default 'draft'
        constraint feedback_cycles_status_check check (status in ('draft', 'open', 'closed')),
    criteria text[] not null default '{entrega,qualidade,colaboracao,comunicacao,lideranca}'
        constraint feedback_cycles_criteria_check
        check (cardinality(criteria) between 1 and 30 and array_position(criteria, null) is null),
    self_weight_pct integer not null default 15,
    manager_weight_pct integer not null default 40,
    peer_weight_pct integer not null default 25,
    internal_client_weight_pct integer not null default 20,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, name),
    constraint feedback_cycles_period_check check (ends_on >= starts_on),
    constraint feedback_cycles_weights_check check (
        self_weight_pct between 0 and 50
        and manager_weight_pct between 0 and 50
        and peer_weight_pct between 0 and 50
        and internal_client_weight_pct between 0 and 50
        and self_weight_pct + manager_weight_pct + peer_weight_pct + internal_client_weight_pct
        = 100
    )
);
comment on table public.feedback_cycles is
    '[people] Rounds of 360-degree feedback. Raters write while open; results exist once closed, '
    'so that nobody can watch an average move.';
comment on column public.feedback_cycles.status is
    'draft → open → closed; criteria and weights are fixed from open on.';
comment on column public.feedback_cycles.criteria is 'What raters score, each from 1 to 5.';
comment on column public.feedback_cycles.self_weight_pct is
    'Weights sum to 100; none above 50, so that no average is in truth the score of one relation.';

create table public.feedback_360 (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    cycle_id uuid not null,
    subject_id uuid not null references public.profiles (id),
    rater_id uuid not null references public.profiles (id),
    relation text not null
        constraint feedback_360_relation_check
        check (relation in ('self', 'manager', 'peer', 'internal_client')),
    criterion text not null,
    score integer not null constraint feedback_360_score_check check (score between 1 and 5),
    comment text constraint feedback_360_comment_check check (length(comment) <= 2000),
    created_at timestamptz not null default app.now(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    constraint feedback_360_rater_key
    unique (org_id, cycle_id, subject_id, rater_id, criterion),
    foreign key (org_id, cycle_id) references public.feedback_cycles (org_id, id) on delete cascade,
    constraint feedback_360_self_check check ((relation = 'self') = (rater_id = subject_id))
);
comment on table public.feedback_360 is
    '[people] Scores of raters about a subject. A rater reads the own rows only; everybody else, '
    'people and admins included, sees what get_feedback_360_result releases. Emits no events and '
    'is not audited: both would name the rater.';
comment on column public.feedback_360.relation is
    'What the rater is to the subject; one per rater, subject and cycle. self if and only if '
    'rater and subject are one person.';
comment on column public.feedback_360.criterion is 'One of the cycle''s criteria.';
comment on column public.feedback_360.score is '1 (worst) to 5 (best).';
comment on column public.feedback_360.comment is '[pii] Free words of the rater.';
create index feedback_360_rater_id_idx on public.feedback_360 (rater_id, org_id);
create index feedback_360_subject_id_idx on public.feedback_360 (subject_id, org_id);

-- 2. Functions

create function app.guard_feedback_cycle() returns trigger
language plpgsql
set search_path = ''
as $$
begin
    if tg_op = 'INSERT' then
        if new.status <> 'draft' then
            perform app.raise_error(
                'feedback_cycle_move_refused',
                format('A feedback cycle cannot begin as %s.', new.status),
                'Begin as draft.'
            );
        end if;
    elsif
        old.status <> 'draft'
        and (
            new.criteria, new.self_weight_pct, new.manager_weight_pct, new.peer_weight_pct,
            new.internal_client_weight_pct
        ) is distinct from (
            old.criteria, old.self_weight_pct, old.manager_weight_pct, old.peer_weight_pct,
            old.internal_client_weight_pct
        )
    then
        perform app.raise_error(
            'feedback_cycle_fixed',
            'Criteria and weights are fixed once a cycle is open: changing a weight would show '
            'single scores.',
            'Make a new cycle.'
        );
    end if;
    return new;
end;
$$;
comment on function app.guard_feedback_cycle() is
    'Trigger: a cycle begins as draft and keeps criteria and weights from open on.';

create function app.guard_feedback_360() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_cycle record;
begin
    select c.status, c.criteria into v_cycle
    from public.feedback_cycles as c
    where c.org_id = new.org_id and c.id = new.cycle_id
    for share;
    if v_cycle.status is distinct from 'open' then
        perform app.raise_error(
            'feedback_cycle_not_open', 'Feedback is written while its cycle is open.', null
        );
    end if;
    if not new.criterion = any (v_cycle.criteria) then
        perform app.raise_error(
            'feedback_criterion_unknown',
            format('The cycle has no criterion %s.', new.criterion),
            'Criteria: ' || array_to_string(v_cycle.criteria, ', ') || '.'
        );
    end if;
    -- Two criteria rated at once would not see each other's relation.
    perform pg_advisory_xact_lock(
        hashtextextended(
            format('feedback_360/%s/%s/%s', new.cycle_id, new.subject_id, new.rater_id), 0
        )
    );
    if exists (
        select from public.feedback_360 as f
        where
            f.org_id = new.org_id
            and f.cycle_id = new.cycle_id
            and f.subject_id = new.subject_id
            and f.rater_id = new.rater_id
            and f.criterion <> new.criterion
            and f.relation <> new.relation
    ) then
        perform app.raise_error(
            'feedback_relation_invalid', 'A rater has one relation to a subject in a cycle.', null
        );
    end if;
    return new;
end;
$$;
comment on function app.guard_feedback_360() is
    'Trigger: open cycle, known criterion, one relation per rater and subject. Definer: the rater '
    'may not read cycles or other rows.';

create function app.submit_feedback_360(
    org uuid, cycle uuid, subject uuid, relation text, criterion text, score integer, comment text
) returns public.feedback_360
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_row public.feedback_360;
begin
    perform app.require_staff(submit_feedback_360.org, 'write');
    if not exists (
        select from public.feedback_cycles as c
        where c.org_id = submit_feedback_360.org and c.id = submit_feedback_360.cycle
    ) then
        perform app.raise_error('feedback_cycle_not_found', null, null);
    end if;
    if not exists (
        select from public.memberships as m
        where
            m.org_id = submit_feedback_360.org
            and m.user_id = submit_feedback_360.subject
            and m.role not in ('client', 'agent')
    ) then
        perform app.raise_error(
            'user_not_member', 'The person rated does not work in the organisation.', null
        );
    end if;
    if
        submit_feedback_360.relation is null
        or submit_feedback_360.relation not in ('self', 'manager', 'peer', 'internal_client')
        or (submit_feedback_360.relation = 'self') <> (submit_feedback_360.subject = auth.uid())
    then
        perform app.raise_error(
            'feedback_relation_invalid',
            'One rates oneself as self, and only oneself; others as manager, peer or '
            'internal_client.',
            null
        );
    end if;
    if submit_feedback_360.score is null or submit_feedback_360.score not between 1 and 5 then
        perform app.raise_error(
            'feedback_score_invalid', 'A score is a whole number from 1 to 5.', null
        );
    end if;

    insert into public.feedback_360 as f (
        org_id, cycle_id, subject_id, rater_id, relation, criterion, score, comment
    ) values (
        submit_feedback_360.org,
        submit_feedback_360.cycle,
        submit_feedback_360.subject,
        auth.uid(),
        submit_feedback_360.relation,
        submit_feedback_360.criterion,
        submit_feedback_360.score,
        app.clean_text(submit_feedback_360.comment, 2000)
    )
    on conflict on constraint feedback_360_rater_key do update
    set relation = excluded.relation, score = excluded.score, comment = excluded.comment
    returning f.* into v_row;
    return v_row;
end;
$$;
comment on function app.submit_feedback_360(uuid, uuid, uuid, text, text, integer, text) is
    'Body of public.submit_feedback_360; definer because every colleague may rate, whatever his '
    'role.';

create function public.submit_feedback_360(
    org uuid,
    cycle uuid,
    subject uuid,
    relation text,
    criterion text,
    score integer,
    comment text default null
) returns public.feedback_360
language sql
set search_path = ''
as $$ select app.submit_feedback_360(org, cycle, subject, relation, criterion, score, comment) $$;
comment on function public.submit_feedback_360(uuid, uuid, uuid, text, text, integer, text) is
    'The caller scores a colleague (or himself as self) on one criterion of an open cycle; again '
    'replaces. Returns the row.';

create function app.list_feedback_cycles(org uuid)
returns table (
    cycle_id uuid, name text, status text, starts_on date, ends_on date, criteria text[]
)
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    perform app.require_staff(list_feedback_cycles.org, 'read');
    return query
    select c.id, c.name, c.status, c.starts_on, c.ends_on, c.criteria
    from public.feedback_cycles as c
    where c.org_id = list_feedback_cycles.org and c.status <> 'draft'
    order by c.starts_on desc, c.id;
end;
$$;
comment on function app.list_feedback_cycles(uuid) is
    'Body of public.list_feedback_cycles; definer because every colleague takes part, whatever '
    'his role.';

create function public.list_feedback_cycles(org uuid)
returns table (
    cycle_id uuid, name text, status text, starts_on date, ends_on date, criteria text[]
)
language sql
stable
set search_path = ''
as $$ select * from app.list_feedback_cycles(org) $$;
comment on function public.list_feedback_cycles(uuid) is
    'Open and closed feedback cycles of the organisation, newest first, for every colleague.';

create function app.require_feedback_release(org uuid, cycle uuid, subject uuid) returns void
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
    v_status text;
begin
    if auth.uid() is distinct from require_feedback_release.subject then
        perform app.require_access(require_feedback_release.org, 'people', 'read');
    else
        perform app.require_staff(require_feedback_release.org, 'read');
    end if;
    select c.status into v_status
    from public.feedback_cycles as c
    where c.org_id = require_feedback_release.org and c.id = require_feedback_release.cycle;
    if v_status is null then
        perform app.raise_error('feedback_cycle_not_found', null, null);
    elsif v_status <> 'closed' then
        perform app.raise_error(
            'feedback_cycle_not_closed',
            'Results exist once the cycle is closed; before, a moving average would show single '
            'scores.',
            null
        );
    end if;
end;
$$;
comment on function app.require_feedback_release(uuid, uuid, uuid) is
    'Refuses a result to anybody but the subject and readers of all of people, and before the '
    'cycle is closed.';

create function app.get_feedback_360_result(org uuid, cycle uuid, subject uuid)
returns table (criterion text, relation text, rater_count integer, average numeric)
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    perform app.require_feedback_release(
        get_feedback_360_result.org, get_feedback_360_result.cycle, get_feedback_360_result.subject
    );
    return query
    with groups as (
        select
            f.criterion,
            f.relation,
            count(*)::integer as raters,
            avg(f.score) as mean,
            case f.relation
                when 'self' then c.self_weight_pct
                when 'manager' then c.manager_weight_pct
                when 'peer' then c.peer_weight_pct
                else c.internal_client_weight_pct
            end as weight
        from public.feedback_360 as f
        inner join public.feedback_cycles as c on f.org_id = c.org_id and f.cycle_id = c.id
        where
            f.org_id = get_feedback_360_result.org
            and f.cycle_id = get_feedback_360_result.cycle
            and f.subject_id = get_feedback_360_result.subject
        group by f.criterion, f.relation, weight
    ),
    released as (
        select
            g.criterion,
            (sum(g.raters) filter (where g.relation <> 'self'))::integer as raters,
            round(sum(g.mean * g.weight) / sum(g.weight), 1) as mean
        from groups as g
        where g.weight > 0
        group by g.criterion
        having
            sum(g.raters) filter (where g.relation <> 'self') >= 3
            -- Nor with a rater who is nearly the whole average: the subject knows his own score,
            -- and what the few others could have said would not hide that one's.
            and max(g.weight::numeric / g.raters) filter (where g.relation <> 'self')
            <= 0.75 * sum(g.weight) filter (where g.relation <> 'self')
    ),
    -- Largest group first: one is shown while those not yet shown are nobody or at least three.
    shown as (
        select
            g.criterion,
            g.relation,
            g.raters,
            round(g.mean, 1) as mean,
            r.raters - sum(g.raters) over (
                partition by g.criterion order by g.raters desc, g.weight, g.relation
                rows unbounded preceding
            ) as others
        from groups as g
        inner join released as r on g.criterion = r.criterion
        where g.relation <> 'self' and g.weight > 0
    )
    select null::text, null::text, min(r.raters), round(avg(r.mean), 1)
    from released as r
    having count(*) > 0
    union all
    select r.criterion, null, r.raters, r.mean
    from released as r
    union all
    select s.criterion, s.relation, s.raters, s.mean
    from shown as s
    where s.raters >= 3 and (s.others = 0 or s.others >= 3)
    order by 1 nulls first, 2 nulls first;
end;
$$;
comment on function app.get_feedback_360_result(uuid, uuid, uuid) is
    'Body of public.get_feedback_360_result; definer because nobody reads other people''s scores.';

create function public.get_feedback_360_result(org uuid, cycle uuid, subject uuid)
returns table (criterion text, relation text, rater_count integer, average numeric)
language sql
stable
set search_path = ''
as $$ select * from app.get_feedback_360_result(org, cycle, subject) $$;
comment on function public.get_feedback_360_result(uuid, uuid, uuid) is
    'Averages of a closed cycle for the subject and for people; criterion null is the mean of the '
    'criteria, relation null the weighted total. A criterion counts from three raters other than '
    'the subject up, none of them with more than three quarters of their weight (else: no row). '
    'The cycle''s weights of relations without raters fall away and the rest is scaled to 100. A '
    'relation is shown apart only with three raters of its own '
    'and if the relations not shown have none or three together, so that no subtraction leads to '
    'fewer than three people; one decimal for the same reason. rater_count leaves the subject out.';

create function app.list_feedback_360_comments(org uuid, cycle uuid, subject uuid)
returns table (criterion text, comment text)
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    perform app.require_feedback_release(
        list_feedback_360_comments.org,
        list_feedback_360_comments.cycle,
        list_feedback_360_comments.subject
    );
    return query
    select f.criterion, f.comment
    from public.feedback_360 as f
    where
        f.org_id = list_feedback_360_comments.org
        and f.cycle_id = list_feedback_360_comments.cycle
        and f.subject_id = list_feedback_360_comments.subject
        and f.relation <> 'self'
        and f.comment is not null
        and (
            select count(*) >= 3
            from public.feedback_360 as o
            where
                o.org_id = f.org_id
                and o.cycle_id = f.cycle_id
                and o.subject_id = f.subject_id
                and o.criterion = f.criterion
                and o.relation <> 'self'
        )
    order by f.criterion, md5(f.id::text);
end;
$$;
comment on function app.list_feedback_360_comments(uuid, uuid, uuid) is
    'Body of public.list_feedback_360_comments; definer because nobody reads other people''s rows.';

create function public.list_feedback_360_comments(org uuid, cycle uuid, subject uuid)
returns table (criterion text, comment text)
language sql
stable
set search_path = ''
as $$ select * from app.list_feedback_360_comments(org, cycle, subject) $$;
comment on function public.list_feedback_360_comments(uuid, uuid, uuid) is
    'Words of the raters of a closed cycle, without name, relation or order of arrival; per '
    'criterion from three raters other than the subject up.';

-- 3. Triggers

create trigger feedback_cycles_10_guard_status
before update of status on public.feedback_cycles
for each row when (old.status is distinct from new.status)
execute function app.guard_move('feedback_cycle', 'status');

create trigger feedback_cycles_10_guard_terms
before insert or update on public.feedback_cycles
for each row execute function app.guard_feedback_cycle();

create trigger feedback_cycles_70_emit
after insert or update or delete on public.feedback_cycles
for each row execute function app.emit_event('people', 'feedback_cycle', 'status');

create trigger feedback_360_10_guard_terms
before insert or update on public.feedback_360
for each row execute function app.guard_feedback_360();

-- 5. Access

select app.protect_table('public.feedback_cycles', 'people', null);

-- Not protect_table: whoever reads all of people, and analysts, would see who gave which score.
-- Written by submit_feedback_360 alone; every colleague (core, read) reads the rows he wrote.
alter table public.feedback_360 enable row level security;
alter table public.feedback_360 force row level security;
create policy feedback_360_select on public.feedback_360 for select to authenticated using (
    rater_id = (select auth.uid())
    and (
        org_id = any((select app.org_ids('core', 'read'))::uuid[])
        or org_id = any((select app.own_org_ids('core', 'read'))::uuid[])
    )
);
grant select on public.feedback_360 to authenticated;
grant select, insert, update, delete on public.feedback_360 to service_role;
create trigger feedback_360_10_guard_keys
before update on public.feedback_360
for each row when (
    old.org_id <> new.org_id or old.id <> new.id or old.created_at <> new.created_at
    or old.cycle_id <> new.cycle_id or old.subject_id <> new.subject_id
    or old.rater_id <> new.rater_id
)
execute function app.guard_keys();
create trigger feedback_360_90_touch
before update on public.feedback_360
for each row execute function app.touch();

grant execute on function
app.submit_feedback_360(uuid, uuid, uuid, text, text, integer, text),
app.list_feedback_cycles(uuid),
app.get_feedback_360_result(uuid, uuid, uuid),
app.list_feedback_360_comments(uuid, uuid, uuid),
public.submit_feedback_360(uuid, uuid, uuid, text, text, integer, text),
public.list_feedback_cycles(uuid),
public.get_feedback_360_result(uuid, uuid, uuid),
public.list_feedback_360_comments(uuid, uuid, uuid)
to authenticated, service_role;

-- 6. Reference rows

insert into app.error_keys (key, http, meaning) values
('feedback_cycle_not_found', 404, 'There is no such feedback cycle.'),
('feedback_cycle_move_refused', 409, 'A feedback cycle goes from draft to open to closed.'),
(
    'feedback_cycle_fixed', 409,
    'Criteria and weights of a feedback cycle are fixed once it is open.'
),
('feedback_cycle_not_open', 409, 'Feedback is written while its cycle is open.'),
('feedback_cycle_not_closed', 409, 'Results exist once the feedback cycle is closed.'),
('feedback_criterion_unknown', 422, 'The cycle does not ask for this criterion.'),
(
    'feedback_relation_invalid', 422,
    'One rates oneself as self only, others in one other relation per cycle.'
),
('feedback_score_invalid', 422, 'A score is a whole number from 1 to 5.');

insert into app.allowed_moves (machine, from_state, to_state) values
('feedback_cycles', 'draft', 'open'),
('feedback_cycles', 'open', 'closed');

insert into app.event_types (module, event_type, description, payload_keys) values
('people', 'feedback_cycle.created', 'A feedback cycle was prepared.', '{status}'),
('people', 'feedback_cycle.open', 'A feedback cycle was opened.', '{status,changed}'),
(
    'people', 'feedback_cycle.closed', 'A feedback cycle was closed; results exist.',
    '{status,changed}'
),
('people', 'feedback_cycle.updated', 'A feedback cycle was changed.', '{status,changed}'),
('people', 'feedback_cycle.deleted', 'A feedback cycle was removed.', '{status}');
