-- noqa: disable=ST06
-- What the data dictionary shows; each query is named by the line above it and gives its columns in
-- the order they are printed.

-- relations
select
    coalesce(substring(d.description from '^\[([a-z]+)\]'), 'core') as module,
    c.relname as name,
    case when c.relkind = 'v' then 'View' else 'Table' end as kind,
    regexp_replace(coalesce(d.description, ''), '^\[[a-z]+\] ', '') as comment,
    array(
        select pg_get_constraintdef(k.oid) from pg_constraint as k
        where k.conrelid = c.oid and k.contype in ('p', 'u', 'f', 'c')
        order by position(k.contype::text in 'pufc'), k.conname
    ) as keys
from pg_class as c
left join pg_description as d
    on c.oid = d.objoid and d.objsubid = 0 and d.classoid = 'pg_class'::regclass
where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v')
order by module, c.relname;

-- columns
select
    c.relname as relation,
    a.attname as name,
    format_type(a.atttypid, a.atttypmod) as type,
    case when a.attnotnull or c.relkind = 'v' then '' else 'yes' end as nullable,
    pg_get_expr(f.adbin, f.adrelid) as default_value,
    col_description(c.oid, a.attnum) as comment
from pg_class as c
inner join pg_attribute as a on c.oid = a.attrelid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef as f on c.oid = f.adrelid and a.attnum = f.adnum
where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v')
order by c.relname, a.attnum;

-- functions
select
    format('`%s(%s)`', p.proname, pg_get_function_arguments(p.oid)) as signature,
    pg_get_function_result(p.oid) as result,
    array_to_string(array(
        select r.rolname from pg_roles as r
        where
            r.rolname in ('anon', 'authenticated', 'service_role')
            and has_function_privilege(r.oid, p.oid, 'execute')
        order by r.rolname
    ), ', ') as callers,
    obj_description(p.oid, 'pg_proc') as comment
from pg_proc as p
where p.pronamespace = 'public'::regnamespace
order by p.proname, pg_get_function_arguments(p.oid);

-- events
select
    t.module,
    format('`%s`', t.event_type) as event_type,
    array_to_string(t.payload_keys, ', ') as payload,
    t.description
from app.event_types as t
order by t.module, t.event_type;

-- errors
select
    format('`%s`', e.key) as key,
    e.http,
    e.meaning
from app.error_keys as e
order by e.key;

-- moves
select
    m.machine,
    m.from_state,
    string_agg(m.to_state, ', ' order by m.to_state) as to_states
from app.allowed_moves as m
group by m.machine, m.from_state
order by m.machine, m.from_state;

-- settings
select
    format('`%s`', s.key) as key,
    concat_ws(
        ' ', s.kind,
        array_to_string(s.choices, '|'), 'from ' || s.minimum::text, 'to ' || s.maximum::text
    ) as type,
    s.default_value,
    s.description
from app.setting_definitions as s
order by s.key;

-- matrix
select
    p.module,
    string_agg(p.role, ', ' order by p.role) filter (where p.read_scope = 'all') as read_all,
    string_agg(p.role, ', ' order by p.role) filter (where p.read_scope = 'own') as read_own,
    string_agg(p.role, ', ' order by p.role) filter (where p.write_scope = 'all') as write_all,
    string_agg(p.role, ', ' order by p.role) filter (where p.write_scope = 'own') as write_own
from public.role_permissions as p
group by p.module
order by p.module;

-- indices
select
    format('`%s`', i.index_key) as index_key,
    i.module,
    i.unit,
    i.version,
    i.description
from public.index_definitions as i
order by i.index_key;

-- tools
select
    format('`%s`', c.tool) as tool,
    c.module,
    case when c.is_writing then 'yes' else 'no' end as writes,
    case when c.is_outward then 'yes' else 'no' end as reaches,
    c.description
from app.agent_tool_catalog() as c
order by c.tool;

-- arguments
select
    format('`%s`', c.tool) as tool,
    format('`%s`', p.name) as argument,
    case when c.parameters -> 'required' ? p.name then 'yes' else 'no' end as needed,
    format('`%s`', (p.schema - 'description')::text) as schema,
    p.schema ->> 'description' as description
from app.agent_tool_catalog() as c
cross join lateral jsonb_each(c.parameters -> 'properties') as p (name, schema)
order by c.tool asc, c.parameters -> 'required' ? p.name desc, p.name asc;
