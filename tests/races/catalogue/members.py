"""Who belongs to an organisation, and what he may do while that changes."""

from typing import Any
from uuid import UUID

from tests.people import WORLD, as_member
from tests.races.race import BOTH_COMMIT, FIRST_GIVES_UP, executed, race, rewritten
from tests.races.sessions import Act, Stage

NOBODY_WAITS = rewritten("app.lock_members(uuid)", ("for no key update", ""))
OWNERS = "select count(*) from public.memberships where org_id = %s and role = 'owner'"
ADD_TASK = "insert into public.tasks (org_id, title) values (%s, 'Ligar') returning 'written'"


def second_owner(stage: Stage) -> UUID:
    """Make the director an owner, too."""
    stage.db.execute(
        "update public.memberships set role = 'owner' where org_id = %s and user_id = %s",
        (stage.a.org, stage.a.member("director")),
    )
    return stage.a.member("director")


def invite(stage: Stage, who: UUID, role: str = "ops") -> Any:
    """Invite a person; gives the token."""
    with stage.db.transaction(), as_member(stage.db, stage.a, "owner"):
        return stage.one(
            "select public.invite_member(%s, %s, %s) ->> 'token'",
            stage.a.org,
            f"{who}@people.test",
            role,
        )


def remove(stage: Stage, who: UUID) -> tuple[str, UUID, UUID]:
    """Give the call that removes a member."""
    return "select public.remove_member(%s, %s)", stage.a.org, who


@race(
    "an invitation accepted twice",
    holds="one membership; the second acceptance finds it used",
    guard="the lock on the invitation",
    without=rewritten("app.accept_invitation(text)", ("for update", "")),
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def accept_twice(stage: Stage, order: str) -> None:
    who = stage.person("stranger")
    token = invite(stage, who)
    accept = stage.as_person(who, "select (public.accept_invitation(%s)).role", token)
    answers = stage.meet(accept, accept, first_gives_up=order == FIRST_GIVES_UP)
    assert answers == ["ops", "ops" if order == FIRST_GIVES_UP else "invitation_used"]
    assert stage.one("select count(*) from public.memberships where user_id = %s", who) == 1


@race(
    "a person invited twice",
    holds="one invitation is open, the later one",
    guard="one act on the people of an organisation at a time",
    without=NOBODY_WAITS,
)
def invite_twice(stage: Stage, _: str) -> None:
    call = "select public.invite_member(%s, 'nova@race.test', %s) ->> 'role'"
    assert stage.meet(
        stage.member("owner", call, stage.a.org, "ops"),
        stage.member("admin", call, stage.a.org, "finance"),
    ) == ["ops", "finance"]
    assert stage.rows(
        "select role from public.invitations where org_id = %s and email = 'nova@race.test' and revoked_at is null",
        stage.a.org,
    ) == [("finance",)]


@race(
    "an admin who loses the role while he invites",
    holds="his invitation is in before, or refused",
    guard="who may invite is asked once the act before has ended",
    without=NOBODY_WAITS,
    orders=("lost first", "invited first"),
)
def demote_inviting(stage: Stage, order: str) -> None:
    demote = stage.member(
        "owner",
        "select (public.set_member_role(%s, %s, 'employee')).role",
        stage.a.org,
        stage.a.member("admin"),
    )
    invite_him = stage.member(
        "admin",
        "select public.invite_member(%s, 'cumplice@race.test', 'admin') ->> 'role'",
        stage.a.org,
    )
    if order == "lost first":
        assert stage.meet(demote, invite_him) == ["employee", "not_allowed"]
    else:
        assert stage.meet(invite_him, demote) == ["admin", "employee"]


def left_of(stage: Stage) -> set[str]:
    """Name the tables that still have rows of the organisation."""
    tables = stage.rows(
        "select c.oid::regclass::text from pg_class as c"
        " inner join pg_namespace as n on n.oid = c.relnamespace and n.nspname in ('public', 'app')"
        " inner join pg_attribute as a on a.attrelid = c.oid and a.attname = 'org_id'"
        " where c.relkind in ('r', 'p') and not c.relispartition"
    )
    query = " union all ".join(
        f"select '{name}' from {name} where org_id = %(org)s" for (name,) in tables
    )
    return {name for (name,) in stage.db.execute(query.encode(), {"org": stage.a.org}).fetchall()}


@race(
    "an organisation erased while it is written",
    holds="nothing of it is left but its audit trail; whoever writes after it is refused",
    guard="every row refers to its organisation",
    without=executed(
        # The event of a row refers to the organisation as well.
        "alter table public.tasks drop constraint tasks_org_id_fkey, disable trigger tasks_70_emit",
        undo=(
            "delete from public.tasks as t where not exists"
            " (select from public.organizations as o where o.id = t.org_id);"
            " alter table public.tasks add constraint tasks_org_id_fkey"
            " foreign key (org_id) references public.organizations (id) on delete cascade,"
            " enable trigger tasks_70_emit"
        ),
    ),
    orders=("erased first", "written first"),
)
def erase_written(stage: Stage, order: str) -> None:
    erase = stage.owner(
        "delete from public.organizations where id = %s returning 'erased'", stage.a.org
    )
    write = stage.member("ops", ADD_TASK, stage.a.org)
    if order == "erased first":
        assert stage.meet(erase, write)[1] in {"23503", "42501"}
    else:
        assert stage.meet(write, erase) == ["written", "erased"]
    assert left_of(stage) == {"audit_log"}


@race(
    "an invitation replaced while it is accepted",
    holds="who holds the replaced one is in by the first of the two acts, or not at all",
    guard="the lock on the invitation",
    without=rewritten("app.accept_invitation(text)", ("for update", "")),
    orders=("replaced first", "accepted first"),
)
def replace_accepted(stage: Stage, order: str) -> None:
    who = stage.person("stranger")
    token = invite(stage, who, "finance")
    accept = stage.as_person(who, "select (public.accept_invitation(%s)).role", token)
    replace = stage.member(
        "owner",
        "select public.invite_member(%s, %s, 'ops') ->> 'role'",
        stage.a.org,
        f"{who}@people.test",
    )
    if order == "replaced first":
        assert stage.meet(replace, accept) == ["ops", "invitation_used"]
    else:
        assert stage.meet(accept, replace) == ["finance", "ops"]
    roles = stage.rows("select role from public.memberships where user_id = %s", who)
    assert roles == ([] if order == "replaced first" else [("finance",)])


@race(
    "the last two owners leave",
    holds="one of them stays",
    guard="one act on the people of an organisation at a time",
    without=NOBODY_WAITS,
    orders=(BOTH_COMMIT, FIRST_GIVES_UP),
)
def leave_both(stage: Stage, order: str) -> None:
    other = second_owner(stage)
    leave = "select public.leave_organization(%s)"
    answers = stage.meet(
        stage.member("owner", leave, stage.a.org),
        stage.as_person(other, leave, stage.a.org),
        first_gives_up=order == FIRST_GIVES_UP,
    )
    if order == BOTH_COMMIT:
        assert answers[1] == "last_owner"
    assert stage.one(OWNERS, stage.a.org) == 1


@race(
    "the last owner removed by two",
    holds="an owner is left; whom the first removed can remove nobody any more",
    guard="one act on the people of an organisation at a time",
    without=NOBODY_WAITS,
)
def remove_each_other(stage: Stage, _: str) -> None:
    other = second_owner(stage)
    answers = stage.meet(
        stage.member("owner", *remove(stage, other)),
        stage.as_person(other, *remove(stage, stage.a.member("owner"))),
    )
    assert answers[1] == "not_found"
    assert stage.one(OWNERS, stage.a.org) == 1


@race(
    "an owner removed by whom he removes, while a third stays",
    holds="one of the two is gone, and his own removal of the other is refused",
    guard="one act on the people of an organisation at a time",
    without=NOBODY_WAITS,
)
def remove_each_other_of_three(stage: Stage, _: str) -> None:
    other = second_owner(stage)
    third = stage.person("third owner")
    stage.db.execute(
        "insert into public.memberships (org_id, user_id, role) values (%s, %s, 'owner')",
        (stage.a.org, third),
    )
    answers = stage.meet(
        stage.member("owner", *remove(stage, other)),
        stage.as_person(other, *remove(stage, stage.a.member("owner"))),
    )
    assert answers[1] == "not_found"
    assert stage.one(OWNERS, stage.a.org) == 2


@race(
    "two owners who take the role from each other",
    holds="one of them is an owner",
    guard="one act on the people of an organisation at a time",
    without=NOBODY_WAITS,
)
def demote_each_other(stage: Stage, _: str) -> None:
    other = second_owner(stage)
    call = "select (public.set_member_role(%s, %s, 'employee')).role"
    answers = stage.meet(
        stage.member("owner", call, stage.a.org, other),
        stage.as_person(other, call, stage.a.org, stage.a.member("owner")),
    )
    assert answers == ["employee", "not_allowed"]
    assert stage.one(OWNERS, stage.a.org) == 1


def write_through(stage: Stage, act: Act) -> tuple[Any, Any, Any]:
    """Have the seller write, another act be committed, and the seller write again in the same transaction."""
    writer, other = stage.session("writer"), stage.session("other")
    write = stage.member("ops", ADD_TASK, stage.a.org)
    first = writer.run(write)
    between = other.run(act)
    assert other.commit() is None
    second = writer.run(write)
    writer.commit()
    return first, between, second


REMEMBERED = rewritten(
    "app.caller_roles()",
    (
        "select m.org_id, m.role, m.client_id, o.status\n",
        """select
            m.org_id,
            coalesce(
                nullif(current_setting('app.known_role', true), ''),
                set_config('app.known_role', m.role, true)
            ),
            m.client_id,
            coalesce(
                nullif(current_setting('app.known_status', true), ''),
                set_config('app.known_status', o.status, true)
            )
""",
    ),
)


@race(
    "a role taken away during a write",
    holds="what begins after it is refused, in the same transaction, too",
    guard="the role is read by every statement, not once a transaction",
    without=REMEMBERED,
    is_of_meeting=False,
)
def demote_writer(stage: Stage, _: str) -> None:
    demote = stage.member(
        "owner",
        "select (public.set_member_role(%s, %s, 'employee')).role",
        stage.a.org,
        stage.a.member("ops"),
    )
    stage.db.execute(
        "insert into public.org_role_permissions (org_id, role, module, read_scope, write_scope)"
        " values (%s, 'employee', 'ops', 'none', 'none')",
        (stage.a.org,),
    )
    assert write_through(stage, demote) == ("written", "employee", "42501")
    assert stage.one("select count(*) from public.tasks where org_id = %s", stage.a.org) == 0


@race(
    "an organisation suspended during a transaction",
    holds="what begins after it is refused, in the same transaction, too",
    guard="the status is read by every statement, not once a transaction",
    without=REMEMBERED,
    is_of_meeting=False,
)
def suspend_writer(stage: Stage, _: str) -> None:
    suspend = stage.as_person(
        WORLD.platform_admin,
        "select (public.set_organization_status(%s, 'suspended')).status",
        stage.a.org,
    )
    assert write_through(stage, suspend) == ("written", "suspended", "organization_suspended")
    assert stage.one("select count(*) from public.tasks where org_id = %s", stage.a.org) == 0


SEND = (
    "select public.ingest_indicators(%s, jsonb_build_object('source', 'Sec', 'metric_type', 'alerts',"
    " 'value', 1), %s) ->> 'status'"
)


def make_key(stage: Stage) -> tuple[UUID, str]:
    """Make a machine's key; gives its id and the key."""
    with stage.db.transaction(), as_member(stage.db, stage.a, "owner"):
        made = stage.one(
            "select public.create_api_key(%s, 'Wazuh', '{indicators:write}')", stage.a.org
        )
    return made["id"], made["key"]


@race(
    "an API key revoked during a request",
    holds="the request that waited is refused",
    guard="the key is read again after the wait",
    without=rewritten(
        "app.use_api_key(text, text)",
        (
            "where k.org_id = v_key.org_id and k.id = v_key.id;\n    end if;",
            "where k.org_id = v_key.org_id and k.id = v_key.id;\n    v_key.revoked_at := null;\n    end if;",
        ),
    ),
    sessions=3,
    is_of_meeting=False,
)
def revoke_used_key(stage: Stage, _: str) -> None:
    key, secret = make_key(stage)
    # Used within this minute, so that the requests leave the row of the key alone.
    assert stage.owner(SEND, secret, "0")(stage.db) == "stored"
    one, another, admin = (stage.session(name) for name in ("one", "another", "admin"))
    assert one.run(stage.owner(SEND, secret, "1")) == "stored"
    another.start(stage.owner(SEND, secret, "2"))
    assert another.waits_for() == {"one"}
    admin.run(stage.member("admin", "select public.revoke_api_key(%s, %s)", stage.a.org, key))
    assert admin.commit() is None
    assert one.commit() is None
    assert another.finish() == "api_key_invalid"
    another.commit()
    assert stage.one("select count(*) from public.indicators where org_id = %s", stage.a.org) == 2
