-- Storage: who reads and writes files of os-assets, cvs and legal, by the organisation's folder.
-- Depends on: core access, people (app.hiring_org_ids); a no-op without the schema storage.
-- Asked for by: access "Files", issue 2 §4. The buckets are declared in supabase/config.toml.

-- 5. Access

do $$
declare
    -- Growth keeps its brand files in os-assets too, in the folder <org id>/brand.
    -- The first folder is compared as text: a name that is no uuid is refused, not an error.
    v_folder constant text := 'split_part(name, ''/'', 1)';
    v_cv constant text :=
        '(bucket_id = ''cvs'' and name ~ '
        '''^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}'
        '/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.(pdf|doc|docx)$'' '
        'and ' || v_folder || ' = any((select app.hiring_org_ids())::text[]))';
    v_read constant text := (
        select string_agg(
            format(
                '(bucket_id = %L and name like %L and %s '
                '= any((select app.org_ids(%L, ''read''))::text[]))',
                f.bucket, f.path, v_folder, f.module
            ), ' or '
        )
        from (
            values
            ('os-assets', '%/_%', 'ops'),
            ('os-assets', '________-____-____-____-____________/brand/_%', 'growth'),
            ('cvs', '%/_%', 'people'),
            ('legal', '%/_%', 'legal')
        ) as f (bucket, path, module)
    );
    v_write constant text := replace(v_read, '''read''', '''write''');
    v_policy record;
begin
    if to_regclass('storage.objects') is null then
        return;
    end if;
    for v_policy in
        select * from (
            values
            ('objects_select', 'select', 'authenticated', v_read, null),
            ('objects_insert', 'insert', 'authenticated', null, v_write || ' or ' || v_cv),
            ('objects_update', 'update', 'authenticated', v_write, v_write),
            ('objects_delete', 'delete', 'authenticated', v_write, null),
            ('objects_insert_public', 'insert', 'anon', null, v_cv)
        ) as p (name, command, role, using_rule, check_rule)
    loop
        execute format(
            'create policy %I on storage.objects for %s to %I',
            v_policy.name,
            v_policy.command,
            v_policy.role
        )
        || coalesce(' using (' || v_policy.using_rule || ')', '')
        || coalesce(' with check (' || v_policy.check_rule || ')', '');
    end loop;
end;
$$;
