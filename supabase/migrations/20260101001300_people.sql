-- People: open jobs and applications, training gaps, 360-degree feedback.
-- Depends on: core, events, ops playbooks, contracts.
-- Asked for by: domain §5 people; ness.OS data flow (jobs, job_applications); issue 2 §4.

-- 1 Tables

create table public.public_jobs (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    slug text not null constraint public_jobs_slug_check check (app.is_slug(slug)),
    title text not null
        constraint public_jobs_title_check check (length(btrim(title)) between 2 and 200),
    description text not null default '',
    department text,
    employment_type text
        constraint public_jobs_employment_type_check
        check (employment_type in ('clt', 'contractor', 'internship', 'temporary')),
    contract_id uuid,
    is_open boolean not null default true,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    unique (org_id, slug),
    foreign key (org_id, contract_id) references public.contracts (org_id, id)
    on delete set null (contract_id)
);
comment on table public.public_jobs is
    '[people] Jobs of the organisation. Visitors see the open ones through open_jobs; a closed '
    'one disappears from the site.';
comment on column public.public_jobs.slug is
    'Address of the job on the site, unique per organisation.';
comment on column public.public_jobs.contract_id is
    'The client''s contract the job staffs; null for the house. Never shown to visitors.';
create index public_jobs_contract_id_idx on public.public_jobs (org_id, contract_id);

create table public.job_applications (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    job_id uuid not null,
    name text not null
        constraint job_applications_name_check check (length(btrim(name)) between 2 and 200),
    email text not null
        constraint job_applications_email_check check (app.is_valid_email(email)),
    linkedin_url text
        constraint job_applications_linkedin_url_check check (
            linkedin_url ~* '^https://([a-z0-9-]+\.)*linkedin\.com/[^[:space:]<>"]+$'
            and length(linkedin_url) <= 300
        ),
    cv_path text
        constraint job_applications_cv_path_check check (
            cv_path
            ~ ('^' || org_id::text || '/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.(pdf|doc|docx)$')
        ),
    message text constraint job_applications_message_check check (length(message) <= 5000),
    consent_at timestamptz not null,
    stage text not null default 'received'
        constraint job_applications_stage_check
        check (
            stage in (
                'received', 'screening', 'interview', 'offer', 'hired', 'rejected', 'withdrawn'
            )
        ),
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    foreign key (org_id, job_id) references public.public_jobs (org_id, id)
);
comment on table public.job_applications is
    '[people] Applications, one per job and e-mail. Visitors write through submit_application; '
    'nobody outside people reads one.';
comment on column public.job_applications.name is '[pii] Name of the candidate.';
comment on column public.job_applications.email is
    '[pii] E-mail of the candidate; its lower case is the identity of a person per job.';
comment on column public.job_applications.linkedin_url is
    '[pii] Profile of the candidate, https at linkedin.com.';
comment on column public.job_applications.cv_path is
    '[pii] File in the bucket cvs: <org id>/<uuid>.<pdf, doc or docx>; null without one.';
comment on column public.job_applications.message is '[pii] What the candidate wrote.';
comment on column public.job_applications.consent_at is
    'When the candidate agreed to the processing of the data (LGPD art. 7 I).';
create unique index job_applications_email_idx
on public.job_applications (org_id, job_id, lower(email));
create index job_applications_stage_idx on public.job_applications (org_id, stage);

create table public.training_gaps (
    org_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    user_id uuid not null references public.profiles (id),
    playbook_id uuid not null,
    severity text not null default 'medium'
        constraint training_gaps_severity_check check (severity in ('low', 'medium', 'high')),
    description text not null default '',
    detected_by uuid default auth.uid() references public.profiles (id),
    detected_at timestamptz not null default app.now(),
    status text not null default 'open'
        constraint training_gaps_status_check check (status in ('open', 'training', 'solved')),
    solved_at timestamptz,
    created_at timestamptz not null default app.now(),
    created_by uuid default auth.uid(),
    updated_at timestamptz not null default app.now(),
    primary key (org_id, id),
    foreign key (org_id, playbook_id) references public.playbooks (org_id, id),
    constraint training_gaps_solved_check check ((status = 'solved') = (solved_at is not null)),
    constraint training_gaps_period_check check (solved_at >= detected_at)
);
comment on table public.training_gaps is
    '[people] A person who worked against a playbook, until trained. The person concerned sees '
    'the own gaps.';
comment on column public.training_gaps.user_id is 'The person who has the gap.';
comment on column public.training_gaps.playbook_id is 'The playbook that was violated.';
comment on column public.training_gaps.detected_by is 'Who noticed; null when a rule or job did.';
comment on column public.training_gaps.solved_at is 'Set by the move to solved.';
create index training_gaps_user_id_idx on public.training_gaps (user_id, org_id);
create index training_gaps_playbook_id_idx on public.training_gaps (org_id, playbook_id);
create index training_gaps_detected_by_idx on public.training_gaps (detected_by, org_id);
create index training_gaps_open_idx on public.training_gaps (org_id, severity)
where status <> 'solved';

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

-- 2 Functions

create function app.require_staff(org uuid, action text) returns void
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
    v_status text;
begin
    if auth.uid() is null then
        perform app.raise_error(
            'not_signed_in', 'This concerns a member of the organisation.', 'Sign in.'
        );
    end if;
    select o.status
    into v_status
    from public.memberships as m
    inner join public.organizations as o on m.org_id = o.id
    where
        m.org_id = require_staff.org
        and m.user_id = auth.uid()
        and m.role not in ('client', 'agent')
        and app.agent_id() is null;
    if v_status is null then
        perform app.raise_error(
            'not_allowed', 'Only for people who work in the organisation.', null
        );
    elsif v_status = 'inactive' then
        perform app.raise_error('organization_inactive', null, null);
    elsif v_status = 'suspended' and require_staff.action = 'write' then
        perform app.raise_error('organization_suspended', null, null);
    end if;
end;
$$;
comment on function app.require_staff(uuid, text) is
    'Refuses a caller who does not work in the organisation (no member, a portal client or an AI '
    'agent), and writing in a suspended one. For acts every colleague has whatever his role: '
    'feedback, accepting policies.';

create function app.hiring_org_ids() returns uuid[]
language sql
stable
security definer
set search_path = ''
as $$
    select coalesce(array_agg(distinct j.org_id), '{}')
    from public.public_jobs as j
    inner join public.organizations as o on j.org_id = o.id
    where j.is_open and o.status = 'active'
$$;
comment on function app.hiring_org_ids() is
    'Active organisations with an open job: the folders of the bucket cvs that visitors may '
    'upload to.';

create function app.submit_application(
    org_slug text,
    job_slug text,
    name text,
    email text,
    linkedin_url text,
    message text,
    cv_path text,
    consent boolean,
    website text
) returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
    v_job record;
    v_receipt uuid;
    v_constraint text;
begin
    perform app.rate_limit('submit_application:' || app.client_address(), 5, interval '10 minutes');
    if submit_application.website ~ '\S' then
        return jsonb_build_object('receipt', gen_random_uuid());
    end if;
    if submit_application.consent is not true then
        perform app.raise_error(
            'application_consent_required',
            'The data of an application may only be kept with the consent of the person.',
            'Send consent = true.'
        );
    end if;

    select j.org_id, j.id, o.status into v_job
    from public.public_jobs as j
    inner join public.organizations as o on j.org_id = o.id
    where
        o.slug = lower(btrim(submit_application.org_slug))
        and j.slug = lower(btrim(submit_application.job_slug))
        and j.is_open
        and o.status <> 'inactive'
    for share of j;
    if not found then
        perform app.raise_error(
            'job_not_open',
            format(
                '%s has no open job %s.', submit_application.org_slug, submit_application.job_slug
            ),
            'Look at open_jobs.'
        );
    elsif v_job.status = 'suspended' then
        perform app.raise_error(
            'organization_suspended', 'Applications are not taken at the moment.', null
        );
    end if;

    begin
        insert into public.job_applications (
            org_id, job_id, name, email, linkedin_url, message, cv_path, consent_at
        ) values (
            v_job.org_id,
            v_job.id,
            coalesce(
                regexp_replace(app.clean_text(submit_application.name, 200), '\s+', ' ', 'g'), ''
            ),
            coalesce(lower(app.clean_text(submit_application.email, 254)), ''),
            app.clean_text(submit_application.linkedin_url, 300),
            app.clean_text(submit_application.message, 5000),
            app.clean_text(submit_application.cv_path, 200),
            app.now()
        )
        on conflict do nothing
        returning id into v_receipt;
    exception when check_violation then
        get stacked diagnostics v_constraint = constraint_name;
        case v_constraint
            when 'job_applications_name_check' then
                perform app.raise_error(
                    'application_name_invalid',
                    'A name has at least two characters.',
                    'Send the full name.'
                );
            when 'job_applications_email_check' then
                perform app.raise_error(
                    'application_email_invalid',
                    'This is not an e-mail address.',
                    'Check the e-mail.'
                );
            when 'job_applications_linkedin_url_check' then
                perform app.raise_error(
                    'application_linkedin_invalid',
                    'The profile is not an https address at linkedin.com.',
                    'Use the form https://www.linkedin.com/in/name, or leave it out.'
                );
            when 'job_applications_cv_path_check' then
                perform app.raise_error(
                    'application_cv_invalid',
                    'The file is not in the organisation''s folder of the bucket cvs.',
                    'Upload to <org id>/<uuid>.pdf (doc, docx) and send that path.'
                );
            else
                raise;
        end case;
    end;

    if v_receipt is null then
        perform app.raise_error(
            'application_already_received',
            'There already is an application for this job with this e-mail.',
            'It is being looked at; nothing was stored again.'
        );
    end if;
    return jsonb_build_object('receipt', v_receipt);
end;
$$;
comment on function app.submit_application(
    text, text, text, text, text, text, text, boolean, text
) is
    'Body of public.submit_application; definer because visitors may not read applications.';

create function public.submit_application(
    org_slug text,
    job_slug text,
    name text,
    email text,
    linkedin_url text default null,
    message text default null,
    cv_path text default null,
    consent boolean default false,
    website text default null
) returns jsonb
language sql
set search_path = ''
as $$
    select app.submit_application(
        org_slug, job_slug, name, email, linkedin_url, message, cv_path, consent, website
    )
$$;
comment on function public.submit_application(
    text, text, text, text, text, text, text, boolean, text
) is
    'A visitor applies for an open job; answers {"receipt": uuid}, nothing can be read back. Five '
    'calls per 10 minutes and address. website is a trap for robots: filled in, the answer is a '
    'receipt and nothing is stored. A second application of one e-mail for one job is refused '
    '(application_already_received), not swallowed: whoever sends a corrected CV must learn that '
    'it was not taken. What a stranger learns from that costs him a stored application per wrong '
    'guess, within the rate limit.';

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
        having sum(g.raters) filter (where g.relation <> 'self') >= 3
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
    'the subject up (below: no row). The cycle''s weights of relations without raters fall away '
    'and the rest is scaled to 100. A relation is shown apart only with three raters of its own '
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

create function app.derive_solved_at() returns trigger
language plpgsql
set search_path = ''
as $$
begin
    if new.status <> 'solved' then
        new.solved_at := null;
    elsif tg_op = 'UPDATE' and old.status = 'solved' then
        new.solved_at := old.solved_at;
    else
        new.solved_at := coalesce(new.solved_at, app.now());
    end if;
    return new;
end;
$$;
comment on function app.derive_solved_at() is
    'Trigger: solved_at is the moment of the move to solved and stays.';

-- 3 Triggers

create trigger public_jobs_70_emit
after insert or update or delete on public.public_jobs
for each row execute function app.emit_event('people', 'job', '', 'slug', 'is_open', 'contract_id');

create trigger job_applications_10_guard_status
before update of stage on public.job_applications
for each row when (old.stage is distinct from new.stage)
execute function app.guard_move('job_application', 'stage');

create trigger job_applications_70_emit
after insert or update or delete on public.job_applications
for each row execute function app.emit_event(
    'people', 'job_application', 'stage', 'job_id', 'stage'
);

create trigger training_gaps_10_guard_status
before update of status on public.training_gaps
for each row when (old.status is distinct from new.status)
execute function app.guard_move('training_gap', 'status');

create trigger training_gaps_10_guard_member
before insert or update of user_id on public.training_gaps
for each row execute function app.guard_member('user_id');

create trigger training_gaps_50_derive_solved_at
before insert or update of status, solved_at on public.training_gaps
for each row execute function app.derive_solved_at();

create trigger training_gaps_70_emit
after insert or update or delete on public.training_gaps
for each row execute function app.emit_event(
    'people', 'training_gap', 'status', 'user_id', 'playbook_id', 'severity', 'status'
);

create trigger feedback_cycles_10_guard_status
before update of status on public.feedback_cycles
for each row when (old.status is distinct from new.status)
execute function app.guard_move('feedback_cycle', 'status');

create trigger feedback_cycles_10_guard_terms
before insert or update on public.feedback_cycles
for each row execute function app.guard_feedback_cycle();

create trigger feedback_cycles_70_emit
after insert or update or delete on public.feedback_cycles
for each row execute function app.emit_event('people', 'feedback_cycle', 'status', 'status');

create trigger feedback_360_10_guard_terms
before insert or update on public.feedback_360
for each row execute function app.guard_feedback_360();

-- 4 Views

create view public.open_jobs with (security_invoker = true) as
select
    j.org_id,
    j.id,
    j.slug,
    j.title,
    j.description,
    j.department,
    j.employment_type,
    j.created_at
from public.public_jobs as j
where j.is_open;
comment on view public.open_jobs is
    '[people] Open jobs as the site shows them; filter by org_id. A member sees those of the own '
    'organisation if people is open to the role.';

-- 5 Access

select app.protect_table('public.public_jobs', 'people', null);
select app.protect_table('public.job_applications', 'people', null);
select app.protect_table('public.training_gaps', 'people', 'user_id');
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

create policy public_jobs_select_public on public.public_jobs for select to anon
using (is_open and org_id <> all((select app.inactive_org_ids())::uuid[]));
grant select (
    org_id, id, slug, title, description, department, employment_type, is_open, created_at
) on public.public_jobs to anon;
grant select on public.open_jobs to anon, authenticated, service_role;

grant execute on function app.hiring_org_ids() to anon, authenticated, service_role;
grant execute on function app.require_staff(uuid, text) to authenticated, service_role;
grant execute on function
app.submit_application(text, text, text, text, text, text, text, boolean, text),
public.submit_application(text, text, text, text, text, text, text, boolean, text)
to anon, authenticated, service_role;
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

-- 6 Reference rows

insert into app.error_keys (key, http, meaning) values
('job_not_open', 404, 'There is no open job at this address.'),
('application_consent_required', 422, 'Without consent an application is not stored.'),
('application_name_invalid', 422, 'An application needs a name of at least two characters.'),
('application_email_invalid', 422, 'An application needs a valid e-mail address.'),
('application_linkedin_invalid', 422, 'The profile must be an https address at linkedin.com.'),
(
    'application_cv_invalid', 422,
    'The CV must be <org id>/<uuid>.pdf, doc or docx in the bucket cvs.'
),
(
    'application_already_received', 409,
    'There already is an application for this job with this e-mail.'
),
('job_application_move_refused', 409, 'The application cannot go from its stage to that one.'),
('training_gap_move_refused', 409, 'A gap goes from open to training to solved.'),
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
('job_applications', 'received', 'screening'),
('job_applications', 'received', 'rejected'),
('job_applications', 'received', 'withdrawn'),
('job_applications', 'screening', 'interview'),
('job_applications', 'screening', 'rejected'),
('job_applications', 'screening', 'withdrawn'),
('job_applications', 'interview', 'offer'),
('job_applications', 'interview', 'rejected'),
('job_applications', 'interview', 'withdrawn'),
('job_applications', 'offer', 'hired'),
('job_applications', 'offer', 'rejected'),
('job_applications', 'offer', 'withdrawn'),
('training_gaps', 'open', 'training'),
('training_gaps', 'training', 'solved'),
('feedback_cycles', 'draft', 'open'),
('feedback_cycles', 'open', 'closed');

insert into app.event_types (module, event_type, description, payload_keys) values
('people', 'job.created', 'A job was announced.', '{slug,is_open,contract_id}'),
('people', 'job.updated', 'A job was changed, opened or closed.', '{slug,is_open,contract_id}'),
('people', 'job.deleted', 'A job was removed.', '{slug,is_open,contract_id}'),
('people', 'job_application.created', 'Somebody applied for a job.', '{job_id,stage}'),
('people', 'job_application.screening', 'An application is being screened.', '{job_id,stage}'),
(
    'people', 'job_application.interview',
    'A candidate is invited to an interview.',
    '{job_id,stage}'
),
('people', 'job_application.offer', 'A candidate got an offer.', '{job_id,stage}'),
('people', 'job_application.hired', 'A candidate was hired.', '{job_id,stage}'),
('people', 'job_application.rejected', 'An application was rejected.', '{job_id,stage}'),
('people', 'job_application.withdrawn', 'A candidate withdrew.', '{job_id,stage}'),
('people', 'job_application.updated', 'An application was corrected.', '{job_id,stage}'),
('people', 'job_application.deleted', 'An application was removed.', '{job_id,stage}'),
(
    'people', 'training_gap.created',
    'A training gap was detected.',
    '{user_id,playbook_id,severity,status}'
),
(
    'people', 'training_gap.training',
    'Training for a gap began.',
    '{user_id,playbook_id,severity,status}'
),
(
    'people', 'training_gap.solved',
    'A training gap was solved.',
    '{user_id,playbook_id,severity,status}'
),
(
    'people', 'training_gap.updated',
    'A training gap was corrected.',
    '{user_id,playbook_id,severity,status}'
),
(
    'people', 'training_gap.deleted',
    'A training gap was removed.',
    '{user_id,playbook_id,severity,status}'
),
('people', 'feedback_cycle.created', 'A feedback cycle was prepared.', '{status}'),
('people', 'feedback_cycle.open', 'A feedback cycle was opened.', '{status}'),
('people', 'feedback_cycle.closed', 'A feedback cycle was closed; results exist.', '{status}'),
('people', 'feedback_cycle.updated', 'A feedback cycle was changed.', '{status}'),
('people', 'feedback_cycle.deleted', 'A feedback cycle was removed.', '{status}');
