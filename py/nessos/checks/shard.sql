-- What stands in the way of sharding a database of ness.OS by org_id: table, what, remedy.
-- A tenant table is a table of public with org_id; the others hold what all tenants share.
-- noqa: disable=AL03
with
tables as (
    select
        c.oid,
        c.relname,
        c.relkind,
        a.attnum as org,
        a.attnotnull
    from pg_class as c
    left join pg_attribute as a
        on c.oid = a.attrelid and a.attname = 'org_id' and not a.attisdropped
    where
        c.relnamespace = to_regnamespace('public')
        and c.relkind in ('r', 'p')
        and not c.relispartition
        and not exists (
            select from pg_depend as d
            where d.objid = c.oid and d.deptype = 'e'
        )
),

findings as (
    select
        t.relname,
        'org_id may be null' as what,
        'declare org_id uuid not null' as remedy
    from tables as t
    where t.org is not null and not t.attnotnull
    union all
    select
        t.relname,
        'has no primary key',
        'primary key (org_id, id)'
    from tables as t
    where not exists (
        select from pg_index as i
        where i.indrelid = t.oid and i.indisprimary
    )
    union all
    select
        t.relname,
        format('%s does not start with org_id', ic.relname),
        'put org_id first'
    from tables as t
    inner join pg_index as i on t.oid = i.indrelid and i.indisunique
    inner join pg_class as ic on i.indexrelid = ic.oid
    where t.org is not null and i.indkey[0] <> t.org
    union all
    select
        t.relname,
        format('%s refers to %s without org_id', k.conname, parent.relname),
        'foreign key (org_id, …) references … (org_id, id)'
    from tables as t
    inner join pg_constraint as k on t.oid = k.conrelid and k.contype = 'f' and k.conparentid = 0
    inner join tables as parent on k.confrelid = parent.oid
    where
        t.org is not null and parent.org is not null
        and not exists (
            select from unnest(k.conkey, k.confkey) as pair (ours, theirs)
            where pair.ours = t.org and pair.theirs = parent.org
        )
    union all
    select
        t.relname,
        format('%s refers from shared rows to tenant rows of %s', k.conname, parent.relname),
        'give the table org_id, or drop the reference'
    from tables as t
    inner join pg_constraint as k on t.oid = k.conrelid and k.contype = 'f' and k.conparentid = 0
    inner join tables as parent on k.confrelid = parent.oid
    where t.org is null and parent.org is not null
    union all
    -- A sequence is one counter for all tenants, and each shard would count for itself.
    select
        t.relname,
        format('%s takes its numbers from a sequence', a.attname),
        'use a uuid, or a counter row per organisation'
    from tables as t
    inner join pg_attribute as a on t.oid = a.attrelid and a.attnum > 0 and not a.attisdropped
    left join pg_attrdef as d on a.attrelid = d.adrelid and a.attnum = d.adnum
    where
        t.org is not null
        and (a.attidentity <> '' or pg_get_expr(d.adbin, d.adrelid) like '%nextval(%')
    union all
    select
        parent.relname,
        format('its partition %s is partitioned again', child.relname),
        'one level of partitions'
    from pg_inherits as h
    inner join pg_class as child on h.inhrelid = child.oid and child.relkind = 'p'
    inner join pg_class as parent on h.inhparent = parent.oid
    union all
    select
        t.relname,
        format('the exclusion %s does not compare org_id', k.conname),
        'exclude using gist (org_id with =, …)'
    from tables as t
    inner join pg_constraint as k on t.oid = k.conrelid and k.contype = 'x'
    where t.org is not null and not (t.org = any(k.conkey))
    union all
    select
        t.relname,
        format('inherits from %s', parent.relname),
        'no table inheritance'
    from tables as t
    inner join pg_inherits as h on t.oid = h.inhrelid
    inner join pg_class as parent on h.inhparent = parent.oid
    union all
    select
        format('pgqueuer.%s', c.relname),
        format('the queue has the foreign key %s', k.conname),
        'the queue stays free of foreign keys'
    from pg_constraint as k
    inner join pg_class as c on k.conrelid = c.oid
    where
        k.contype = 'f'
        and to_regnamespace('pgqueuer') in (
            c.relnamespace, (
                select parent.relnamespace from pg_class as parent
                where parent.oid = k.confrelid
            )
        )
)

select
    relname as subject,
    what,
    remedy
from findings
order by 1, 2
