-- What is wrong with a database of ness.OS, from its catalog alone: part, what, remedy.
-- Reads pg_catalog only, so it also runs where the caller owns nothing.
-- noqa: disable=AL03
with
mine as (
    select
        c.oid,
        c.relname,
        c.relkind,
        c.relowner,
        c.relacl,
        c.relrowsecurity,
        c.relforcerowsecurity,
        c.reloptions
    from pg_class as c
    where
        c.relnamespace = to_regnamespace('public')
        and c.relkind in ('r', 'p', 'v', 'm')
        and not exists (
            select from pg_depend as d
            where d.objid = c.oid and d.deptype = 'e'
        )
),

functions as (
    select
        p.oid,
        n.nspname,
        p.proname,
        p.proowner,
        p.proacl,
        p.prosecdef,
        p.proconfig
    from pg_proc as p
    inner join pg_namespace as n on p.pronamespace = n.oid
    where
        n.nspname in ('public', 'app')
        and not exists (
            select from pg_depend as d
            where d.objid = p.oid and d.deptype = 'e'
        )
),

function_grants as (
    select
        f.nspname,
        f.proname,
        acl.grantee,
        coalesce(acl.grantee::regrole::text, 'public') as grantee_name
    from functions as f
    cross join lateral aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) as acl
    where acl.privilege_type = 'EXECUTE'
),

relation_grants as (
    select
        m.relname,
        m.relkind,
        acl.privilege_type,
        case acl.grantee when 0 then 'public' else acl.grantee::regrole::text end as grantee
    from mine as m
    cross join lateral aclexplode(coalesce(m.relacl, acldefault('r', m.relowner))) as acl
),

findings as (
    select
        'rls' as part,
        format('row level security of %I is not %s', m.relname, case
            when m.relrowsecurity then 'forced' else 'on' end) as what,
        'call app.protect_table in its migration, then nessos db push' as remedy
    from mine as m
    where m.relkind in ('r', 'p') and not (m.relrowsecurity and m.relforcerowsecurity)
    union all
    select
        'rls',
        format('the view %I does not run as its caller', m.relname),
        'create it with (security_invoker = true)'
    from mine as m
    where
        m.relkind = 'v'
        and not coalesce(m.reloptions @> array['security_invoker=true'], false)
    union all
    select
        'rls',
        format('the materialised view %I is exposed: policies do not reach it', m.relname),
        'move it to schema app'
    from mine as m
    where m.relkind = 'm'
    union all
    select
        'grants',
        format('%s may %s on %I', g.grantee, lower(g.privilege_type), g.relname),
        format('revoke %s on public.%I from %s', lower(g.privilege_type), g.relname, g.grantee)
    from relation_grants as g
    where
        g.grantee = 'public'
        or (g.grantee = 'anon' and g.privilege_type <> 'SELECT')
        or (
            g.grantee in ('authenticated', 'analyst')
            and g.privilege_type in ('TRUNCATE', 'REFERENCES', 'TRIGGER')
        )
    union all
    -- A visitor reads a table only where a policy was written for visitors.
    select
        'grants',
        format('anon may select from %I, which has no policy for visitors', m.relname),
        format('revoke select on public.%I from anon', m.relname)
    from mine as m
    where
        to_regrole('anon') is not null
        and has_any_column_privilege('anon', m.oid, 'select')
        and m.relkind in ('r', 'p')
        and not exists (
            select from pg_policy as y
            where y.polrelid = m.oid and to_regrole('anon')::oid = any(y.polroles)
        )
    union all
    select distinct
        'grants',
        format('everybody may execute %s.%s', g.nspname, g.proname),
        format('revoke execute on function %I.%I from public', g.nspname, g.proname)
    from function_grants as g
    where g.grantee = 0
    union all
    -- What a visitor may call: the public forms, and an organisation's public profile.
    select distinct
        'grants',
        format('anon may execute public.%s', g.proname),
        format('revoke execute on function public.%I from anon', g.proname)
    from function_grants as g
    where
        g.grantee_name = 'anon' and g.nspname = 'public'
        and g.proname not like 'submit\_%' and g.proname <> 'get_organization_profile'
    union all
    select
        'grants',
        format(
            'default privileges of %s in %s give %s to %s',
            d.defaclrole::regrole,
            coalesce(d.defaclnamespace::regnamespace::text, 'every schema'),
            lower(acl.privilege_type),
            case acl.grantee when 0 then 'public' else acl.grantee::regrole::text end
        ),
        'revoke them as the first migration does: nessos db push'
    from pg_default_acl as d
    cross join lateral aclexplode(d.defaclacl) as acl
    where
        d.defaclnamespace in (0, to_regnamespace('public'))
        and d.defaclrole = to_regrole(current_user)
        and d.defaclobjtype in ('r', 'S', 'f')
        and acl.grantee in (
            0, coalesce(to_regrole('anon')::oid, 0), coalesce(to_regrole('authenticated')::oid, 0)
        )
    union all
    select
        'grants',
        format('the function public.%s runs as its owner', f.proname),
        'make it security invoker; a definer body belongs into app'
    from functions as f
    where f.nspname = 'public' and f.prosecdef
    union all
    select
        'grants',
        format('the function %s.%s has no fixed search_path', f.nspname, f.proname),
        'set search_path = '''' in its definition'
    from functions as f
    where
        not exists (
            select from unnest(f.proconfig) as setting
            where setting like 'search\_path=%'
        )
    union all
    select
        'roles',
        format('the role %s %s', wanted.name, wanted.trouble),
        wanted.remedy
    from (
        values
        ('anon', 'does not exist', 'use a Supabase database, or nessos db reset'),
        ('authenticated', 'does not exist', 'use a Supabase database, or nessos db reset'),
        ('service_role', 'does not exist', 'use a Supabase database, or nessos db reset'),
        ('authenticator', 'does not exist', 'use a Supabase database, or nessos db reset')
    ) as wanted (name, trouble, remedy)
    where to_regrole(wanted.name) is null
    union all
    select
        'roles',
        format('the role %s passes row level security', r.rolname),
        format('alter role %s nosuperuser nobypassrls', r.rolname)
    from pg_roles as r
    where
        r.rolname in ('anon', 'authenticated', 'authenticator', 'analyst')
        and (r.rolsuper or r.rolbypassrls)
)

select distinct
    part,
    what,
    remedy
from findings
order by part, what
