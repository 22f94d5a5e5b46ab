-- People: open jobs and applications, training gaps.
-- Depends on: core, events, ops playbooks, contracts.
-- Asked for by: domain §5 people; ness.OS data flow (jobs, job_applications); issue 2 §4.

-- 1. Tables

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
    foreign key (org_id, job_id) references public.public_jobs (org_id, id) deferrable
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
    foreign key (org_id, playbook_id) references public.playbooks (org_id, id) deferrable,
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

-- 2. Functions

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
    perform app.rate_limit('submit_application:' || app.client_network(), 5, interval '10 minutes');
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
            'There is no open job at this address.',
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

-- 3. Triggers

create trigger public_jobs_70_emit
after insert or update or delete on public.public_jobs
for each row execute function app.emit_event('people', 'job', '', 'slug', 'is_open', 'contract_id');

create trigger job_applications_10_guard_status
before update of stage on public.job_applications
for each row when (old.stage is distinct from new.stage)
execute function app.guard_move('job_application', 'stage');

create trigger job_applications_70_emit
after insert or update or delete on public.job_applications
for each row execute function app.emit_event('people', 'job_application', 'stage', 'job_id');

create trigger training_gaps_10_guard_status
before update of status on public.training_gaps
for each row when (old.status is distinct from new.status)
execute function app.guard_move('training_gap', 'status');

create trigger training_gaps_10_guard_member
before insert or update of user_id on public.training_gaps
for each row execute function app.guard_member('user_id');
create trigger training_gaps_10_guard_detected_by
before insert or update of detected_by on public.training_gaps
for each row execute function app.guard_member('detected_by');

create trigger training_gaps_50_derive_solved_at
before insert or update of status, solved_at on public.training_gaps
for each row execute function app.derive_solved_at();

create trigger training_gaps_70_emit
after insert or update or delete on public.training_gaps
for each row execute function app.emit_event(
    'people', 'training_gap', 'status', 'user_id', 'playbook_id', 'severity'
);

-- 4. Views

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

-- 5. Access

select app.protect_table('public.public_jobs', 'people', null);
select app.protect_table('public.job_applications', 'people', null);
select app.protect_table('public.training_gaps', 'people', 'user_id');

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
-- 6. Reference rows

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
('training_gap_move_refused', 409, 'A gap goes from open to training to solved.');

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
('training_gaps', 'training', 'solved');

insert into app.event_types (module, event_type, description, payload_keys) values
('people', 'job.created', 'A job was announced.', '{slug,is_open,contract_id}'),
(
    'people', 'job.updated', 'A job was changed, opened or closed.',
    '{slug,is_open,contract_id,changed}'
),
('people', 'job.deleted', 'A job was removed.', '{slug,is_open,contract_id}'),
('people', 'job_application.created', 'Somebody applied for a job.', '{job_id,stage}'),
(
    'people', 'job_application.screening', 'An application is being screened.',
    '{job_id,stage,changed}'
),
(
    'people', 'job_application.interview', 'A candidate is invited to an interview.',
    '{job_id,stage,changed}'
),
('people', 'job_application.offer', 'A candidate got an offer.', '{job_id,stage,changed}'),
('people', 'job_application.hired', 'A candidate was hired.', '{job_id,stage,changed}'),
('people', 'job_application.rejected', 'An application was rejected.', '{job_id,stage,changed}'),
('people', 'job_application.withdrawn', 'A candidate withdrew.', '{job_id,stage,changed}'),
('people', 'job_application.updated', 'An application was corrected.', '{job_id,stage,changed}'),
('people', 'job_application.deleted', 'An application was removed.', '{job_id,stage}'),
(
    'people', 'training_gap.created', 'A training gap was detected.',
    '{user_id,playbook_id,severity,status}'
),
(
    'people', 'training_gap.training', 'Training for a gap began.',
    '{user_id,playbook_id,severity,status,changed}'
),
(
    'people', 'training_gap.solved', 'A training gap was solved.',
    '{user_id,playbook_id,severity,status,changed}'
),
(
    'people', 'training_gap.updated', 'A training gap was corrected.',
    '{user_id,playbook_id,severity,status,changed}'
),
(
    'people', 'training_gap.deleted', 'A training gap was removed.',
    '{user_id,playbook_id,severity,status}'
);
