"""At least one offence against every law: a statement after which the law must name an offender."""

_FUNCTION = "create function {} returns {} language {} {} as $$ {} $$"


def _function(name: str, body: str = "select 1", *, returns: str = "int", language: str = "sql", options: str = "set search_path = ''") -> str:  # fmt: skip
    return _FUNCTION.format(name, returns, language, options, body)


_TABLE = (
    "create table public.offenders (org_id uuid not null references public.organizations (id), id uuid not null,"
    " state text constraint offenders_state_check check (state in ('new', 'old')), primary key (org_id, id));"
    " alter table public.offenders enable row level security; alter table public.offenders force row level security;"
)
_POLICY = "create policy {} on public.offenders {};"

OFFENCES: dict[str, list[str]] = {
    "every_public_table_has_row_level_security_on_and_forced": [
        "alter table public.memberships disable row level security",
        "alter table public.memberships no force row level security",
        "create table public.offenders (id int)",
    ],
    "every_table_a_visitor_can_name_has_row_level_security": [
        "create table app.offenders (id int); grant select on app.offenders to analyst",
        "create materialized view app.offenders as select 1 as one; grant select on app.offenders to authenticated",
    ],
    "nothing_is_granted_to_everybody": [
        "grant select on public.memberships to public",
        "grant select (role) on public.memberships to public",
        "grant execute on function app.rate_limit(text, integer, interval) to public",
        "grant usage on schema partitions to public",
        "grant create on schema public to authenticated",
    ],
    "what_a_migration_creates_next_is_granted_to_nobody": [
        "alter default privileges in schema public grant select on tables to anon",
        "alter default privileges in schema app grant execute on functions to authenticated",
        "alter default privileges in schema public grant usage on sequences to authenticated",
        "alter default privileges grant execute on functions to public",
    ],
    "tables_are_granted_verb_by_verb_and_never_truncate_references_trigger": [
        "grant truncate on public.memberships to authenticated",
        "grant select on public.memberships to authenticated with grant option",
    ],
    "a_visitor_is_only_granted_select": [
        "grant insert on public.memberships to anon",
        "grant update (role) on public.memberships to anon",
        "grant delete on public.memberships to anon",
    ],
    "no_sequence_is_granted": [
        "create sequence public.offenders; grant usage on sequence public.offenders to authenticated"
    ],
    "partitions_are_reached_by_nobody": [
        "grant usage on schema partitions to authenticated",
        (
            "create table partitions.offenders (id int); grant usage on schema partitions to anon;"
            " grant select on partitions.offenders to anon"
        ),
        (
            "create table public.offenders (id int) partition by list (id);"
            " create table public.offenders_1 partition of public.offenders for values in (1)"
        ),
    ],
    "an_analyst_is_granted_no_personal_data": [
        "grant select (full_name) on public.profiles to analyst",
        "comment on column public.memberships.role is '[pii] …'",
    ],
    "an_analyst_only_reads": [
        "grant insert on public.memberships to analyst",
        "grant delete on public.memberships to analyst",
        "grant update (role) on public.memberships to analyst",
    ],
    "policies_take_only_the_forms_of_the_access_design": [
        _TABLE
        + _POLICY.format("offenders_select", f"for select to authenticated using ({expression})")
        for expression in (
            "true",
            "org_id in (select m.org_id from public.memberships as m)",
            "org_id = any (app.org_ids('core', 'read'))",
            "org_id = any ((select app.org_ids('core', 'write'))::uuid[])",
            "org_id = any ((select app.own_org_ids('core', 'read'))::uuid[])",
            "id = (select auth.uid()) or org_id = any ((select app.org_ids('core', 'read'))::uuid[])",
            "org_id = any ((select app.caller_org_ids())::uuid[])",
            (
                "org_id = any ((select app.org_ids('crm', 'read'))::uuid[]) or"
                " (org_id = any ((select app.own_org_ids('crm', 'read'))::uuid[]) and id = (select auth.uid()))"
            ),
            (
                "org_id = any ((select app.caller_org_ids())::uuid[]) and"
                " (org_id = any ((select app.org_ids('fin', 'read'))::uuid[]) or"
                " (org_id = any ((select app.own_org_ids('crm', 'read'))::uuid[]) and id = (select auth.uid())))"
            ),
        )
    ]
    + [
        _TABLE
        + _POLICY.format(
            "offenders_insert",
            "for insert to authenticated with check (org_id = any ((select app.org_ids('core', 'read'))::uuid[]))",
        ),
        _TABLE
        + _POLICY.format("offenders_select_public", "for select to anon using (state = 'new')"),
        _TABLE + _POLICY.format("offenders_select_analyst", "for select to analyst using (true)"),
    ],
    "policies_are_named_after_table_and_command_and_serve_one_command": [
        _TABLE + _POLICY.format("read_it", "for select to authenticated using (true)"),
        _TABLE + _POLICY.format("offenders_all", "for all to authenticated using (true)"),
        _TABLE
        + _POLICY.format("offenders_select", "for select to authenticated, anon using (true)"),
        _TABLE + _POLICY.format("offenders_select", "for select using (true)"),
        _TABLE
        + _POLICY.format(
            "offenders_select", "as restrictive for select to authenticated using (true)"
        ),
    ],
    "no_role_has_two_policies_for_one_command": [
        "create policy second on public.memberships for select to authenticated using (true)"
    ],
    "inserts_and_updates_are_checked": [
        _TABLE + _POLICY.format("offenders_update", "for update to authenticated using (true)"),
        _TABLE + _POLICY.format("offenders_insert", "for insert to authenticated"),
    ],
    "no_policy_stands_without_its_grant_nor_a_grant_without_its_policy": [
        "revoke select on public.memberships from authenticated",
        "drop policy memberships_select on public.memberships",
        "grant update (role) on public.memberships to authenticated",
    ],
    "views_run_with_the_rights_of_their_reader": [
        "create view public.offenders as select 1 as one",
        "create view public.offenders with (security_invoker = false) as select 1 as one",
        "create materialized view public.offenders as select 1 as one",
    ],
    "every_public_table_belongs_to_a_tenant": [
        "create table public.offenders (id uuid primary key)",
        "create table public.offenders (org_id uuid)",
    ],
    "the_primary_key_of_a_tenant_table_starts_with_the_tenant": [
        "create table public.offenders (org_id uuid not null, id uuid primary key)",
        "create table public.offenders (org_id uuid not null, id uuid, primary key (id, org_id))",
        "create table public.offenders (org_id uuid not null)",
        "create table public.offenders (org_id uuid primary key)",
    ],
    "no_unique_of_a_tenant_table_spans_tenants": [
        "alter table public.memberships add constraint offending_key unique (user_id, org_id)",
        "create unique index offending_idx on public.memberships (lower(role), org_id)",
    ],
    "foreign_keys_between_tenant_tables_carry_the_tenant": [
        (
            "create unique index on public.memberships (user_id);"
            " create table public.offenders (org_id uuid not null, id uuid references public.memberships (user_id))"
        ),
        (
            "create unique index on public.memberships (user_id, org_id);"
            " create table public.offenders (org_id uuid not null, id uuid,"
            " foreign key (org_id, id) references public.memberships (user_id, org_id))"
        ),
    ],
    "deleting_a_row_never_takes_the_tenant_from_another": [
        (
            "create table public.offenders (org_id uuid not null, id uuid, foreign key (org_id, id)"
            " references public.memberships (org_id, user_id) on delete set null)"
        ),
        "create table public.offenders (org_id uuid not null references public.organizations (id) on update cascade)",
    ],
    "no_sequence_is_shared_between_tenants": [
        "alter table public.memberships add column number bigint generated always as identity",
        "alter table public.memberships add column number bigserial",
    ],
    "partitions_have_one_level": [
        (
            "create table partitions.offenders (id int) partition by list (id); create table partitions.offenders_1"
            " partition of partitions.offenders for values in (1) partition by list (id)"
        )
    ],
    "the_queue_is_free_of_foreign_keys": [
        "create table pgqueuer.offenders (org_id uuid references public.organizations (id))"
    ],
    "nobody_updates_the_keys_of_a_tenant_row": [
        "drop trigger org_role_permissions_10_guard_keys on public.org_role_permissions",
        "alter table public.org_role_permissions disable trigger org_role_permissions_10_guard_keys",
    ],
    "the_time_of_a_change_is_the_databases": [
        "drop trigger clients_90_touch on public.clients",
        "alter table public.clients disable trigger clients_90_touch",
    ],
    "whoever_a_client_names_is_a_member": [
        "drop trigger public_posts_10_guard_author on public.public_posts",
        "alter table public.training_gaps add column seen_by uuid references public.profiles (id)",
    ],
    "nobody_names_somebody_else_as_creator": [
        "drop trigger clients_10_stamp_creator on public.clients",
    ],
    "every_function_fixes_an_empty_search_path": [
        _function("app.offend()", options=""),
        _function("public.offend()", options="set search_path = public"),
        "alter function app.org_ids(text, text) reset search_path",
    ],
    "no_function_a_client_calls_runs_as_its_owner": [
        _function("public.offend()", options="security definer set search_path = ''")
    ],
    "trigger_functions_live_outside_of_the_api": [
        _function("public.offend()", "begin return new; end", returns="trigger", language="plpgsql")
    ],
    "every_public_function_can_be_called_by_somebody": [
        _function("public.offend()")
        + "; revoke execute on function public.offend() from service_role"
    ],
    "the_worker_may_call_what_a_client_may": [
        _function("public.offend()")
        + "; revoke execute on function public.offend() from service_role;"
        " grant execute on function public.offend() to authenticated"
    ],
    "triggers_are_named_after_their_table_and_place": [
        "create trigger touch before update on public.memberships for each row execute function app.touch()"
    ],
    "every_foreign_key_has_an_index": [
        "drop index public.memberships_role_idx",
        (
            "create table public.offenders (org_id uuid references public.organizations (id));"
            " create index on public.offenders (org_id) where org_id <> '00000000-0000-0000-0000-000000000000'"
        ),
    ],
    "no_two_indexes_are_the_same": ["create index again_idx on public.memberships (role)"],
    "every_table_view_and_function_has_a_comment": [
        "create table public.offenders (id int)",
        "create view app.offenders as select 1 as one",
        _function("app.offend()"),
        "comment on function app.org_ids(text, text) is null",
    ],
    "the_comment_of_a_table_begins_with_its_module": [
        "create table public.offenders (id int)",
        "comment on table public.memberships is 'A person''s role.'",
        "comment on table public.memberships is '[somewhere] A person''s role.'",
        "comment on table public.memberships is null",
    ],
    "columns_avoid_types_that_lose_money_time_or_text": [
        f"alter table public.memberships add column {column}"
        for column in (
            "at_at timestamp",
            "weight real",
            "name varchar(10)",
            "total_brl numeric",
            "bag json",
        )
    ],
    "names_keep_to_the_rules": [
        "alter table public.memberships add constraint positive check (hourly_rate >= 0)",
        "create index foo on public.memberships (created_at)",
        "alter table public.memberships add column active boolean",
        "alter table public.memberships add column moment timestamptz",
        "alter table public.memberships add column left_at date",
    ],
    "every_error_key_that_is_raised_is_registered": [
        _function(
            "app.offend()",
            "begin perform app.raise_error('unheard_of'); end",
            returns="void",
            language="plpgsql",
        ),
        "delete from app.error_keys where key = 'last_owner'",
    ],
    "every_registered_error_key_is_raised": [
        "insert into app.error_keys (key, http, meaning) values ('never_said', 409, 'Never.')"
    ],
    "errors_are_raised_in_one_place": [
        _function(
            "app.offend()", "begin raise exception 'no'; end", returns="void", language="plpgsql"
        ),
        _function(
            "app.offend()", "begin raise sqlstate 'PT409'; end", returns="void", language="plpgsql"
        ),
    ],
    "every_state_machine_is_guarded_and_every_guard_has_its_moves": [
        "insert into app.allowed_moves values ('offenders', 'new', 'old')",
        _TABLE
        + "create trigger offenders_10_guard_state before update on public.offenders for each row"
        " execute function app.guard_move('offender', 'state')",
    ],
    "the_states_of_a_machine_are_those_of_its_check": [
        _TABLE
        + "create trigger offenders_10_guard_state before update on public.offenders for each row"
        " execute function app.guard_move('offender', 'state');"
        " insert into app.allowed_moves values ('offenders', 'new', 'older')",
    ],
    "every_event_that_is_emitted_is_in_the_catalogue": [
        _TABLE + "create trigger offenders_70_emit after insert on public.offenders for each row"
        " execute function app.emit_event('core', 'offender', 'state')",
        _function(
            "app.offend()",
            "begin perform app.record_event(null, 'core', 'offender.noticed', 'offender', null); end",
            returns="void",
            language="plpgsql",
        ),
    ],
    "every_event_of_the_catalogue_is_emitted": [
        (
            "insert into app.event_types (module, event_type, description, payload_keys)"
            " values ('core', 'offender.noticed', 'Never.', '{}')"
        )
    ],
    "events_carry_no_personal_data_and_only_their_columns": [
        (
            "create trigger profiles_70_emit after insert on public.profiles for each row"
            " execute function app.emit_event('core', 'profile', '', 'full_name')"
        ),
        _TABLE + "create trigger offenders_70_emit after insert on public.offenders for each row"
        " execute function app.emit_event('core', 'offender', 'state', 'missing')",
    ],
    "the_catalogue_names_the_payload_of_every_event": [
        _TABLE + "create trigger offenders_70_emit after insert on public.offenders for each row"
        " execute function app.emit_event('core', 'offender', 'state', 'state');"
        " insert into app.event_types (module, event_type, description, payload_keys)"
        " values ('core', 'offender.created', 'One.', '{}')",
        (
            "update app.event_types set payload_keys = payload_keys || '{unheard}'"
            " where event_type = 'lead.created'"
        ),
        (
            "update app.event_types set payload_keys = array_remove(payload_keys, 'changed')"
            " where event_type = 'lead.won'"
        ),
    ],
    "a_tool_takes_named_arguments_of_known_types_and_answers_jsonb": [
        _function("agent_tools.offend()"),
        _function("agent_tools.offend(text)", "select '{}'::jsonb", returns="jsonb"),
        _function("agent_tools.offend(a inet)", "select '{}'::jsonb", returns="jsonb"),
        _function("agent_tools.offend(variadic a text[])", "select '{}'::jsonb", returns="jsonb"),
        _function("agent_tools.find_client(a text)", "select '{}'::jsonb", returns="jsonb"),
        _function("agent_tools.offend()", "select '{}'::jsonb", returns="setof jsonb"),
    ],
    "a_tool_says_module_purpose_and_every_argument": [
        _function("agent_tools.offend(a text)", "select '{}'::jsonb", returns="jsonb"),
        *(
            _function("agent_tools.offend(a text)", "select '{}'::jsonb", returns="jsonb")
            + f"; comment on function agent_tools.offend(text) is E'{comment}'"
            for comment in (
                "Offends.\\na: Text.",
                "[ai] Offends.",
                "[nothing] Offends.\\na: Text.",
                "[ai] Offends.\\na: Text.\\nb: More.",
            )
        ),
    ],
    "a_tool_runs_with_the_rights_of_the_agent": [
        _function("agent_tools.offend()", options="security definer set search_path = ''"),
        _function("agent_tools.offend()", options=""),
    ],
    "tools_are_called_by_agents_and_the_worker_alone": [
        "grant execute on function agent_tools.qualify_lead to anon",
        "grant execute on function agent_tools.qualify_lead to public",
        "revoke execute on function agent_tools.qualify_lead from service_role",
        "grant usage on schema agent_tools to anon",
        "grant create on schema agent_tools to authenticated",
    ],
}
