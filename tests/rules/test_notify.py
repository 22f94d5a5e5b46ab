"""Notify: who is told what, once; the inbox is its owner's; preferences and quiet hours."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.people import (
    Connection,
    Org,
    World,
    as_agent,
    as_analyst,
    as_client,
    as_member,
    as_person,
    denied,
    refused,
    set_clock,
)

SYNC = {
    "system": "Omie",
    "entity": "clients",
    "started_at": "2026-03-10T08:00:00Z",
    "error": "a chave foi recusada",
}


def tell(db: Connection, org: Org, role: str = "ops", **more: Any) -> UUID:
    """Notify the organisation's member with this role; `more` are arguments of app.notify."""
    words = {"template": "sync_failed", "data": SYNC, "idempotency_key": "key", **more}
    words["data"] = json.dumps(words["data"])
    named = ", ".join(f"{name} => %({name})s" for name in words)
    row = db.execute(
        f"select app.notify(org => %(org)s, recipient => %(recipient)s, {named})",
        {"org": org.org, "recipient": org.member(role), **words},
    ).fetchone()
    assert row
    return UUID(str(row[0]))


def inbox(db: Connection) -> list[str]:
    """The titles the caller sees."""
    return [
        title
        for (title,) in db.execute("select title from notifications order by title").fetchall()
    ]


def connect(db: Connection, org: Org, *providers: str) -> None:
    """Have the organisation connect these providers."""
    for provider in providers:
        db.execute(
            "insert into public.integration_credentials (org_id, provider, ciphertext, key_id)"
            " values (%s, %s, decode(repeat('00', 40), 'hex'), '00000000')",
            (org.org, provider),
        )


def jobs(db: Connection) -> list[tuple[str, Any]]:
    """The deliveries to come: of which notification, and when; None for at once."""
    return db.execute(
        "select convert_from(q.payload, 'UTF8')::jsonb ->> 'notification_id', null from pgqueuer.pgqueuer q"
        " where q.entrypoint = 'notification.deliver'"
        " union all select w.payload ->> 'notification_id', w.due_at from app.waiting_jobs w"
        " where w.entrypoint = 'notification.deliver'"
    ).fetchall()


def attempts(db: Connection, notification: UUID) -> dict[str, str]:
    """The status of each channel of a notification."""
    return dict(
        db.execute(
            "select channel, coalesce(error_key, status) from public.notification_attempts where notification_id = %s",
            (notification,),
        ).fetchall()
    )


def claim(db: Connection, org: Org, notification: UUID) -> dict[str, Any]:
    """Ask what the worker has to do next."""
    row = db.execute(
        "select app.claim_notification_attempt(%s, %s)", (org.org, notification)
    ).fetchone()
    assert row
    answer: dict[str, Any] = row[0]
    return answer


# --- Telling -------------------------------------------------------------------------------------


def test_a_notification_is_in_the_inbox_at_once_in_the_words_of_the_catalogue(
    db: Connection, world: World
) -> None:
    notification = tell(db, world.a, link="/data")
    with as_member(db, world.a, "ops"):
        row = db.execute("select title, body, link, read_at, data from notifications").fetchone()
    assert row == (
        "Falha na sincronização com Omie",
        "A sincronização com Omie (clients), iniciada em 10/03/2026 05:00, falhou: a chave foi recusada",
        "/data",
        None,
        SYNC,
    )
    assert attempts(db, notification) == {"in_app": "delivered"}
    assert jobs(db) == []


def test_money_and_dates_are_written_as_in_brazil(db: Connection, world: World) -> None:
    tell(
        db,
        world.a,
        template="contract_end_near",
        data={
            "number": "CT-2026-001",
            "contract": "Suporte",
            "client": "Zé & Filhos",
            "due_on": "2026-05-01",
            "days_left": 30,
            "mrr": 12345.6,
        },
    )
    with as_member(db, world.a, "ops"):
        row = db.execute("select body from notifications").fetchone()
    assert row
    assert row[0].startswith(
        "O contrato CT-2026-001 (Suporte), de Zé & Filhos, termina em 01/05/2026."
    )
    assert row[0].endswith("Dias restantes: 30. Valor mensal: R$ 12.345,60.")


def test_the_same_key_tells_a_person_once_and_another_person_too(
    db: Connection, world: World
) -> None:
    first = tell(db, world.a)
    assert tell(db, world.a, data={**SYNC, "error": "outra vez"}) == first
    assert tell(db, world.a, "sales") != first
    assert tell(db, world.a, idempotency_key="another") != first
    with as_member(db, world.a, "ops"):
        assert len(inbox(db)) == 2


def test_data_is_not_a_template_and_comes_as_one_line(db: Connection, world: World) -> None:
    tell(db, world.a, data={**SYNC, "error": "{system} {{ 7 * 7 }} <b>\n\x1b[31m" + "x" * 500})
    with as_member(db, world.a, "ops"):
        row = db.execute("select body from notifications").fetchone()
    assert row
    assert row[0].endswith("falhou: " + ("{system} {{ 7 * 7 }} <b> [31m" + "x" * 500)[:200])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"error": None}, "error (text)"),
        ({"error": "  "}, "error (text)"),
        ({"error": 7}, "error (text)"),
        ({"started_at": "yesterday"}, "started_at (moment)"),
        ({"started_at": "2026-02-30T08:00:00Z"}, "started_at (moment)"),
        ({"started_at": "2026-03-10T08:00:00"}, "started_at (moment)"),
        ({"started_at": "infinity"}, "started_at (moment)"),
        ({"started_at": None, "system": None}, "started_at (moment), system (text)"),
    ],
)
def test_data_that_lacks_a_variable_is_refused_by_its_name(
    db: Connection, world: World, change: dict[str, Any], named: str
) -> None:
    data = {name: value for name, value in {**SYNC, **change}.items() if value is not None}
    with refused("notification_data_invalid") as answer:
        tell(db, world.a, data=data)
    assert answer.detail == f"sync_failed lacks, or has of another kind: {named}."


def test_what_the_template_does_not_ask_for_is_not_kept(db: Connection, world: World) -> None:
    tell(db, world.a, data={**SYNC, "api_key": "segredo"})
    assert db.execute("select data ? 'api_key' from public.notifications").fetchone() == (False,)


def test_an_unknown_template_and_a_stranger_are_refused(db: Connection, world: World) -> None:
    with refused("notification_template_unknown"):
        tell(db, world.a, template="no_such")
    with refused("user_not_member"):
        db.execute(
            "select app.notify(%s, %s, 'sync_failed', %s, 'key')",
            (world.a.org, world.b.member("ops"), json.dumps(SYNC)),
        )


@pytest.mark.parametrize("link", ["https://evil.example", "//evil.example", "/\\evil", "x", "/a b"])
def test_a_link_that_leaves_the_frontend_is_refused(
    db: Connection, world: World, link: str
) -> None:
    with pytest.raises(Exception, match="notifications_link_check"):
        tell(db, world.a, link=link)


def test_a_role_means_whoever_may_do_it_by_the_organisations_own_matrix(
    db: Connection, world: World
) -> None:
    def told(key: str) -> set[str]:
        db.execute(
            "select app.notify_role(%s, 'contracts', 'write', 'sync_failed', %s, %s)",
            (world.a.org, json.dumps(SYNC), key),
        )
        return {
            role
            for (role,) in db.execute(
                "select m.role from public.notifications n join public.memberships m"
                " on m.org_id = n.org_id and m.user_id = n.recipient_id where n.idempotency_key = %s",
                (key,),
            ).fetchall()
        }

    assert told("before") == {"owner", "admin", "director", "finance"}
    db.execute(
        "insert into public.org_role_permissions (org_id, role, module, read_scope, write_scope)"
        " values (%s, 'sales', 'contracts', 'all', 'all'), (%s, 'finance', 'contracts', 'all', 'none')",
        (world.a.org, world.a.org),
    )
    assert told("after") == {"owner", "admin", "director", "sales"}


# --- The inbox -----------------------------------------------------------------------------------


def test_nobody_reads_anothers_inbox_whatever_his_role(db: Connection, world: World) -> None:
    tell(db, world.a, "ops")
    tell(db, world.a, "client")
    for role in ("owner", "admin", "director", "sales"):
        with as_member(db, world.a, role):
            assert inbox(db) == []
    with as_person(db, world.platform_admin):
        assert inbox(db) == []
    with as_agent(db, world.a):
        assert inbox(db) == []
    with as_member(db, world.b, "owner"):
        assert inbox(db) == []
    with as_client(db, world.a):
        assert len(inbox(db)) == 1
    with as_analyst(db), denied():
        db.execute("select title from notifications")


def test_an_organisation_cannot_open_its_inboxes_by_its_own_matrix(
    db: Connection, world: World
) -> None:
    with (
        as_member(db, world.a, "owner"),
        pytest.raises(Exception, match="org_role_permissions_reserved_check"),
    ):
        db.execute(
            "insert into org_role_permissions (org_id, role, module, read_scope, write_scope)"
            " values (%s, 'director', 'notify', 'all', 'none')",
            (world.a.org,),
        )


def test_who_is_no_member_any_more_reads_nothing(db: Connection, world: World) -> None:
    tell(db, world.a, "ops")
    db.execute("delete from public.memberships where user_id = %s", (world.a.member("ops"),))
    with as_person(db, world.a.member("ops")):
        assert inbox(db) == []


def test_a_person_marks_his_own_as_read_one_or_all(db: Connection, world: World) -> None:
    first = tell(db, world.a)
    for key in ("b", "c"):
        tell(db, world.a, idempotency_key=key)
    tell(db, world.a, "sales")
    with as_member(db, world.a, "ops"):
        marked = db.execute(
            "select (public.mark_notification_read(%s)).read_at is not null", (first,)
        )
        assert marked.fetchone() == (True,)
        count = "select public.mark_all_notifications_read(%s)"
        assert db.execute(count, (world.a.org,)).fetchone() == (2,)
        assert db.execute(count, (world.a.org,)).fetchone() == (0,)
    assert attempts(db, first) == {"in_app": "read"}
    assert db.execute(
        "select count(*) from public.notifications where read_at is null"
    ).fetchone() == (1,)


def test_marking_anothers_is_not_found_and_writing_is_denied(db: Connection, world: World) -> None:
    notification = tell(db, world.a)
    for role in ("owner", "client"):
        with as_member(db, world.a, role), refused("not_found"):
            db.execute("select public.mark_notification_read(%s)", (notification,))
    with as_member(db, world.b, "owner"), refused("not_found"):
        db.execute("select public.mark_all_notifications_read(%s)", (world.a.org,))
    with as_agent(db, world.a), refused("not_signed_in"):
        db.execute("select public.mark_all_notifications_read(%s)", (world.a.org,))
    with as_member(db, world.a, "ops"), denied():
        db.execute("update notifications set title = 'x'")
    with as_member(db, world.a, "owner"), denied():
        db.execute(
            "select app.notify(%s, %s, 'test', '{}', 'x')", (world.a.org, world.a.member("ops"))
        )


def test_a_suspended_organisation_is_read_not_marked(db: Connection, world: World) -> None:
    tell(db, world.a)
    db.execute("update public.organizations set status = 'suspended' where id = %s", (world.a.org,))
    with as_member(db, world.a, "ops"):
        assert len(inbox(db)) == 1
        with refused("organization_suspended"):
            db.execute("select public.mark_all_notifications_read(%s)", (world.a.org,))


def test_admins_see_how_it_went_and_lift_an_address_others_see_neither(
    db: Connection, world: World
) -> None:
    tell(db, world.a)
    db.execute(
        "insert into public.undeliverable_addresses (org_id, channel, address, reason)"
        " values (%s, 'email', 'x@people.test', 'hard_bounce')",
        (world.a.org,),
    )
    with as_member(db, world.a, "ops"):
        assert db.execute("select count(*) from notification_attempts").fetchone() == (0,)
        assert db.execute("delete from undeliverable_addresses").rowcount == 0
    with as_member(db, world.a, "admin"):
        assert db.execute("select count(*) from notification_attempts").fetchone() == (1,)
        assert db.execute("delete from undeliverable_addresses").rowcount == 1


# --- Preferences ---------------------------------------------------------------------------------

DEFAULTS = {
    "channels": ["whatsapp", "sms", "email"],
    "quiet_from": "22:00",
    "quiet_until": "07:00",
    "time_zone": "America/Sao_Paulo",
    "muted_categories": [],
}


def preferences(
    db: Connection, org: Org, call: str = "public.get_notification_preferences(%s)"
) -> Any:
    """What the caller's preferences are, without the categories there are."""
    row = db.execute(f"select {call}", (org.org,)).fetchone()
    assert row
    assert {"contracts", "data"} <= set(row[0].pop("categories"))
    return row[0]


def test_preferences_are_the_defaults_until_set_and_then_replaced_whole(
    db: Connection, world: World
) -> None:
    with as_client(db, world.a):
        assert preferences(db, world.a) == DEFAULTS
        told = preferences(
            db,
            world.a,
            "public.set_notification_preferences(%s, '{email,whatsapp}', '21:30', '06:00', 'America/Manaus', '{data}')",
        )
        assert told == preferences(db, world.a)
        assert told == {
            "channels": ["email", "whatsapp"],
            "quiet_from": "21:30",
            "quiet_until": "06:00",
            "time_zone": "America/Manaus",
            "muted_categories": ["data"],
        }
        assert preferences(db, world.a, "public.set_notification_preferences(%s)") == {
            **DEFAULTS,
            "quiet_from": None,
            "quiet_until": None,
        }
    with as_member(db, world.a, "owner"):
        assert db.execute("select count(*) from notification_preferences").fetchone() == (0,)


def test_the_defaults_of_the_table_are_those_that_count(db: Connection, world: World) -> None:
    db.execute(
        "insert into public.notification_preferences (org_id, user_id) values (%s, %s)",
        (world.a.org, world.a.member("ops")),
    )
    same = db.execute(
        "select to_jsonb(a) - '{user_id,created_at,updated_at}'::text[] = to_jsonb(b) - '{user_id,created_at,updated_at}'::text[]"
        " from app.notification_preferences_of(%(org)s, %(ops)s) a, app.notification_preferences_of(%(org)s, %(sales)s) b",
        {"org": world.a.org, "ops": world.a.member("ops"), "sales": world.a.member("sales")},
    )
    assert same.fetchone() == (True,)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ("'{pigeon}'", "bad_input"),
        ("'{in_app}'", "bad_input"),
        ("'{sms,sms}'", "bad_input"),
        ("'{sms,null}'", "bad_input"),
        ("null", "bad_input"),
        ("'{sms}', '22:00'", "bad_input"),
        ("'{sms}', '22:00', '22:00'", "bad_input"),
        ("'{sms}', '22:00', '07:00', 'Mars/Olympus'", "time_zone_unknown"),
        ("'{sms}', null, null, null, '{no_such}'", "bad_input"),
        ("'{sms}', null, null, null, null", "bad_input"),
    ],
)
def test_preferences_that_make_no_sense_are_refused(
    db: Connection, world: World, arguments: str, key: str
) -> None:
    with as_member(db, world.a, "ops"), refused(key):
        db.execute(f"select public.set_notification_preferences(%s, {arguments})", (world.a.org,))


def test_strangers_and_agents_have_no_preferences(db: Connection, world: World) -> None:
    with as_person(db, world.stranger), refused("not_found"):
        preferences(db, world.a)
    with as_agent(db, world.a), refused("not_signed_in"):
        preferences(db, world.a, "public.set_notification_preferences(%s)")


def quiet_end(db: Connection, hours: tuple[str, str], zone: str, moment: datetime) -> Any:
    """When the quiet hours of a moment end."""
    row = db.execute(
        "select app.quiet_end(%s::time, %s::time, %s, %s)", (*hours, zone, moment)
    ).fetchone()
    assert row
    return row[0]


@pytest.mark.parametrize(
    ("zone", "local", "end"),
    [
        ("America/Sao_Paulo", "2026-03-10 23:30", "2026-03-11 07:00"),
        ("America/Sao_Paulo", "2026-12-31 23:30", "2027-01-01 07:00"),
        ("America/Sao_Paulo", "2026-03-10 06:59", "2026-03-10 07:00"),
        ("America/Sao_Paulo", "2026-03-10 07:00", None),
        ("America/Sao_Paulo", "2026-03-10 21:59", None),
        ("America/Sao_Paulo", "2026-03-10 22:00", "2026-03-11 07:00"),
        # The clocks of New York jump from 2 to 3 on 8 March and back on 1 November.
        ("America/New_York", "2026-03-07 23:30", "2026-03-08 07:00"),
        ("America/New_York", "2026-10-31 23:30", "2026-11-01 07:00"),
        ("Asia/Kolkata", "2026-03-10 02:15", "2026-03-10 07:00"),
    ],
)
def test_quiet_hours_end_on_the_clock_of_the_person(
    db: Connection, zone: str, local: str, end: str | None
) -> None:
    moment = datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(zone))
    expected = end and datetime.fromisoformat(end).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    assert quiet_end(db, ("22:00", "07:00"), zone, moment) == expected


def test_nights_before_the_clocks_change_have_their_own_length(db: Connection) -> None:
    zone = ZoneInfo("America/New_York")
    for day, hours in ((datetime(2026, 3, 7, 22, tzinfo=zone), 8), (datetime(2026, 10, 31, 22, tzinfo=zone), 10)):  # fmt: skip
        end = quiet_end(db, ("22:00", "07:00"), zone.key, day)
        assert end - day.astimezone(UTC) == timedelta(hours=hours)


SAME_DB = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
CLOCKS = st.times().map(lambda clock: clock.replace(microsecond=0, second=0))


@SAME_DB
@given(
    hours=st.tuples(CLOCKS, CLOCKS).filter(lambda pair: pair[0] != pair[1]),
    moment=st.integers(1735689600, 1830297600).map(lambda s: datetime.fromtimestamp(s, UTC)),
    zone=st.sampled_from(
        ["America/Sao_Paulo", "America/New_York", "Europe/Lisbon", "Asia/Kolkata"]
    ),
)
def test_the_end_of_quiet_hours_comes_within_a_day_and_is_not_quiet(
    db: Connection, hours: tuple[Any, Any], moment: datetime, zone: str
) -> None:
    texts = (hours[0].isoformat(), hours[1].isoformat())
    end = quiet_end(db, texts, zone, moment)
    clock = moment.astimezone(ZoneInfo(zone)).time()
    first, last = hours
    is_quiet = first <= clock < last if first < last else clock >= first or clock < last
    assert (end is not None) == is_quiet
    if end is not None:
        assert moment < end <= moment + timedelta(hours=25)
        assert quiet_end(db, texts, zone, end) is None


# --- Whom to reach where -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "phone"),
    [
        ("(11) 98888-7777", "+5511988887777"),
        ("011 98888-7777", "+5511988887777"),
        ("55 11 98888-7777", "+5511988887777"),
        ("+55 11 98888 7777", "+5511988887777"),
        ("0055 11 98888-7777", "+5511988887777"),
        ("(31) 3333-4444", "+553133334444"),
        ("55 98888-7777", "+5555988887777"),
        ("+1 (415) 867-5309", "+14158675309"),
        ("98888-7777", None),
        ("ramal 12", None),
        ("", None),
        (None, None),
    ],
)
def test_a_phone_as_people_type_it(db: Connection, typed: str | None, phone: str | None) -> None:
    assert db.execute("select app.phone_e164(%s)", (typed,)).fetchone() == (phone,)


def reach(db: Connection, org: Org, role: str = "ops", phone: str = "(11) 98888-7777") -> None:
    """Give the member a phone."""
    db.execute("update public.profiles set phone = %s where id = %s", (phone, org.member(role)))


NOON = "2026-03-10T12:00:00-03:00"


def test_a_delivery_is_enqueued_only_where_a_channel_is_connected(
    db: Connection, world: World
) -> None:
    set_clock(db, NOON)
    reach(db, world.a)
    connect(db, world.a, "omie")
    tell(db, world.a, idempotency_key="1")
    assert jobs(db) == []
    connect(db, world.b, "resend")
    tell(db, world.a, idempotency_key="2")
    assert jobs(db) == []
    connect(db, world.a, "resend")
    notification = tell(db, world.a, idempotency_key="3")
    assert jobs(db) == [(str(notification), None)]


def test_a_delivery_in_quiet_hours_is_put_off_to_their_end(db: Connection, world: World) -> None:
    connect(db, world.a, "resend")
    set_clock(db, "2026-03-10T23:30:00-03:00")
    notification = tell(db, world.a)
    assert jobs(db) == [(str(notification), datetime(2026, 3, 11, 10, tzinfo=UTC))]
    assert claim(db, world.a, notification) == {
        "verdict": "wait",
        "not_before": "2026-03-11T10:00:00+00:00",
    }
    set_clock(db, "2026-03-11T07:00:00-03:00")
    assert claim(db, world.a, notification)["verdict"] == "send"


def test_a_muted_category_stays_in_the_inbox(db: Connection, world: World) -> None:
    connect(db, world.a, "resend")
    with as_member(db, world.a, "ops"):
        preferences(
            db, world.a, "public.set_notification_preferences(%s, muted_categories => '{data}')"
        )
    notification = tell(db, world.a)
    assert jobs(db) == []
    assert claim(db, world.a, notification) == {"verdict": "done"}


def test_the_cascade_follows_the_persons_order_and_says_why_it_skips(
    db: Connection, world: World
) -> None:
    set_clock(db, NOON)
    connect(db, world.a, "evolution", "twilio", "resend")
    with as_member(db, world.a, "ops"):
        preferences(db, world.a, "public.set_notification_preferences(%s, '{sms,email,whatsapp}')")
    notification = tell(db, world.a)
    got = claim(db, world.a, notification)
    assert (got["channel"], got["has_other"]) == ("email", False)
    assert got["address"] == f"{world.a.member('ops')}@people.test"
    assert attempts(db, notification) == {
        "in_app": "delivered",
        "sms": "address_missing",
        "email": "queued",
    }


def test_a_failure_hands_over_to_the_next_channel_in_the_same_transaction(
    db: Connection, world: World
) -> None:
    set_clock(db, NOON)
    reach(db, world.a)
    connect(db, world.a, "evolution", "twilio")
    notification = tell(db, world.a)
    first = claim(db, world.a, notification)
    assert (first["channel"], first["address"], first["has_other"]) == (
        "whatsapp",
        "+5511988887777",
        True,
    )
    fail = "select app.fail_notification_attempt(%s, %s, 'not_on_channel', 'x')"
    assert db.execute(fail, (world.a.org, first["attempt_id"])).fetchone() == (True,)
    assert len(jobs(db)) == 2
    assert db.execute(fail, (world.a.org, first["attempt_id"])).fetchone() == (False,)
    assert len(jobs(db)) == 2
    second = claim(db, world.a, notification)
    assert (second["channel"], second["has_other"]) == ("sms", False)
    db.execute(fail, (world.a.org, second["attempt_id"]))
    assert len(jobs(db)) == 2
    assert claim(db, world.a, notification) == {"verdict": "done"}


def test_nothing_goes_out_once_it_was_read_or_sent_or_the_person_has_left(
    db: Connection, world: World
) -> None:
    set_clock(db, NOON)
    connect(db, world.a, "resend")
    read, sent, left = (tell(db, world.a, role) for role in ("ops", "sales", "finance"))
    with as_member(db, world.a, "ops"):
        db.execute("select public.mark_notification_read(%s)", (read,))
    attempt = claim(db, world.a, sent)["attempt_id"]
    db.execute("select app.note_notification_sent(%s, %s, 'id')", (world.a.org, attempt))
    db.execute("delete from public.memberships where user_id = %s", (world.a.member("finance"),))
    assert [claim(db, world.a, one) for one in (read, sent, left)] == [{"verdict": "done"}] * 3


def test_an_address_that_refused_for_good_is_skipped_until_an_admin_lifts_it(
    db: Connection, world: World
) -> None:
    set_clock(db, NOON)
    reach(db, world.a)
    connect(db, world.a, "twilio", "resend")
    first = claim(db, world.a, tell(db, world.a, idempotency_key="1"))
    assert first["channel"] == "sms"
    db.execute(
        "select app.fail_notification_attempt(%s, %s, 'address_undeliverable', 'STOP', 'opt_out')",
        (world.a.org, first["attempt_id"]),
    )
    second = tell(db, world.a, idempotency_key="2")
    assert claim(db, world.a, second)["channel"] == "email"
    assert attempts(db, second)["sms"] == "address_undeliverable"
    with as_member(db, world.a, "admin"):
        db.execute("delete from undeliverable_addresses")
    assert claim(db, world.a, tell(db, world.a, idempotency_key="3"))["channel"] == "sms"


def test_a_call_whose_end_is_not_known_is_not_repeated_before_it_shows(
    db: Connection, world: World
) -> None:
    set_clock(db, NOON)
    reach(db, world.a)
    connect(db, world.a, "twilio")
    notification = tell(db, world.a)
    first = claim(db, world.a, notification)
    assert (first["last_tried_at"], first["tries"]) == (None, 1)
    assert claim(db, world.a, notification) == {
        "verdict": "wait",
        "not_before": "2026-03-10T15:01:00+00:00",
    }
    set_clock(db, "2026-03-10T12:01:00-03:00")
    again = claim(db, world.a, notification)
    assert again["attempt_id"] == first["attempt_id"]
    assert (again["last_tried_at"], again["tries"]) == ("2026-03-10T15:00:00+00:00", 2)
    db.execute(
        "select app.release_notification_attempt(%s, %s)", (world.a.org, first["attempt_id"])
    )
    released = claim(db, world.a, notification)
    assert (released["last_tried_at"], released["tries"]) == (None, 2)


# --- Receipts ------------------------------------------------------------------------------------

RANK = {"queued": 0, "sent": 1, "delivered": 2, "read": 3}


def sent_by_mail(db: Connection, org: Org, key: str = "key") -> tuple[UUID, str]:
    """Send a notification by mail under the name `message`; gives it and its attempt."""
    set_clock(db, NOON)
    db.execute("delete from public.integration_credentials where org_id = %s", (org.org,))
    connect(db, org, "resend")
    notification = tell(db, org, idempotency_key=key)
    attempt = claim(db, org, notification)["attempt_id"]
    db.execute(
        "select app.note_notification_sent(%s, %s, %s)", (org.org, attempt, f"message-{key}")
    )
    return notification, attempt


def receive(
    db: Connection, org: Org, status: str | None, message: str = "message-key", **more: Any
) -> str:
    """Take a receipt."""
    words = {
        "org": org.org, "channel": "email", "provider_message_id": message, "status": status,
        **({"error_key": "undelivered"} if status == "failed" else {}), **more,
    }  # fmt: skip
    named = ", ".join(f"{name} => %({name})s" for name in words)
    row = db.execute(f"select app.note_notification_receipt({named})", words).fetchone()
    assert row
    return str(row[0])


@SAME_DB
@given(statuses=st.lists(st.sampled_from(["sent", "delivered", "read", "failed"]), max_size=8))
def test_receipts_in_any_order_and_number_only_move_forward(
    db: Connection, world: World, statuses: list[str]
) -> None:
    with db.transaction(force_rollback=True):
        notification, _ = sent_by_mail(db, world.a)
        state = "sent"
        for status in statuses:
            may = (status == "failed" and state == "sent") or (
                state != "failed" and RANK.get(status, 0) > RANK[state]
            )
            assert receive(db, world.a, status) == ("moved" if may else "kept")
            state = status if may else state
            assert attempts(db, notification)["email"] == (
                "undelivered" if state == "failed" else state
            )


def test_a_receipt_of_a_stranger_or_of_another_organisation_is_ignored(
    db: Connection, world: World
) -> None:
    notification, _ = sent_by_mail(db, world.a)
    assert receive(db, world.a, "delivered", "nobody's") == "unknown"
    assert receive(db, world.b, "delivered") == "unknown"
    assert receive(db, world.a, "delivered", channel="sms") == "unknown"
    assert attempts(db, notification)["email"] == "sent"


def test_a_receipt_that_overtakes_the_answer_waits_or_finds_the_attempt_by_our_own_name(
    db: Connection, world: World
) -> None:
    set_clock(db, NOON)
    connect(db, world.a, "resend")
    notification = tell(db, world.a)
    attempt = claim(db, world.a, notification)["attempt_id"]
    assert receive(db, world.a, "delivered", "new") == "early"
    assert receive(db, world.a, "delivered", "new", attempt=attempt) == "moved"
    db.execute("select app.note_notification_sent(%s, %s, 'new')", (world.a.org, attempt))
    assert attempts(db, notification)["email"] == "delivered"
    assert receive(db, world.a, "sent", "new") == "kept"


def test_a_receipt_waits_for_nobody_once_the_call_is_long_past(
    db: Connection, world: World
) -> None:
    set_clock(db, NOON)
    connect(db, world.a, "resend")
    claim(db, world.a, tell(db, world.a))
    set_clock(db, "2026-03-10T12:11:00-03:00")
    assert receive(db, world.a, "delivered", "new") == "unknown"


def test_a_bounce_fails_the_mail_marks_the_address_and_goes_on(
    db: Connection, world: World
) -> None:
    reach(db, world.a)
    notification, _ = sent_by_mail(db, world.a)
    connect(db, world.a, "twilio")
    before = len(jobs(db))
    assert receive(db, world.a, "failed", undeliverable="hard_bounce") == "moved"
    assert len(jobs(db)) == before + 1
    assert claim(db, world.a, notification)["channel"] == "sms"
    assert db.execute("select address, reason from public.undeliverable_addresses").fetchall() == [
        (f"{world.a.member('ops')}@people.test", "hard_bounce")
    ]


def test_a_complaint_after_delivery_marks_the_address_and_keeps_the_status(
    db: Connection, world: World
) -> None:
    notification, _ = sent_by_mail(db, world.a)
    receive(db, world.a, "delivered")
    assert receive(db, world.a, None, undeliverable="complaint") == "kept"
    assert attempts(db, notification)["email"] == "delivered"
    assert claim(db, world.a, tell(db, world.a, idempotency_key="2")) == {"verdict": "done"}


def test_an_attempt_never_goes_back(db: Connection, world: World) -> None:
    _, attempt = sent_by_mail(db, world.a)
    receive(db, world.a, "read")
    with refused("notification_attempt_move_refused"):
        db.execute(
            "update public.notification_attempts set status = 'sent' where id = %s", (attempt,)
        )


def test_messages_without_a_receipt_after_an_hour_are_asked_after(
    db: Connection, world: World
) -> None:
    _, attempt = sent_by_mail(db, world.a)
    silent = "select attempt_id::text, provider_message_id from app.list_silent_attempts(%s)"
    assert db.execute(silent, (world.a.org,)).fetchall() == []
    set_clock(db, "2026-03-10T13:01:00-03:00")
    assert db.execute(silent, (world.a.org,)).fetchall() == [(attempt, "message-key")]
    receive(db, world.a, "delivered")
    assert db.execute(silent, (world.a.org,)).fetchall() == []


# --- What tells people ---------------------------------------------------------------------------


def subscribe(db: Connection, org: Org, pattern: str, config: dict[str, Any]) -> None:
    """Subscribe to events, as the organisation's admin."""
    with as_member(db, org, "admin"):
        db.execute(
            "insert into event_subscriptions (org_id, pattern, handler, config) values (%s, %s, 'notification', %s)",
            (org.org, pattern, json.dumps(config)),
        )


def run_event_jobs(db: Connection, org: Org) -> int:
    """Do what the worker does with the jobs event.notification; gives how many people were told."""
    row = db.execute(
        "select coalesce(sum(app.notify_event(%s, (p ->> 'subscription_id')::uuid, (p ->> 'event_id')::uuid,"
        " (p ->> 'occurred_at')::timestamptz)), 0)"
        " from (select convert_from(payload, 'UTF8')::jsonb p from pgqueuer.pgqueuer where entrypoint = 'event.notification') j",
        (org.org,),
    ).fetchone()
    assert row
    return int(row[0])


def test_a_subscription_tells_a_role_of_an_event_once(db: Connection, world: World) -> None:
    subscribe(
        db,
        world.a,
        "growth.lead.created",
        {"template": "event", "title": "Chegou um lead", "role": "sales", "link": "/leads"},
    )
    db.execute(
        "insert into public.leads (org_id, name, email) values (%s, 'Rita', 'r@leads.test')",
        (world.a.org,),
    )
    assert run_event_jobs(db, world.a) == 1
    assert run_event_jobs(db, world.a) == 1
    with as_member(db, world.a, "sales"):
        assert inbox(db) == ["Chegou um lead"]
    with as_member(db, world.a, "admin"):
        assert inbox(db) == []


def test_a_subscription_to_everything_does_not_tell_of_its_own_telling(
    db: Connection, world: World
) -> None:
    subscribe(db, world.a, "*", {"template": "event", "user": str(world.a.member("ops"))})
    tell(db, world.a, "sales")
    assert run_event_jobs(db, world.a) == 0
    with as_member(db, world.a, "ops"):
        assert inbox(db) == []


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"template": "event"},
        {"template": "no_such", "role": "sales"},
        {"template": "event", "role": "king"},
        {"template": "event", "role": "agent"},
        {"template": "event", "role": "sales", "user": str(World().a.member("ops"))},
        {"template": "event", "user": str(World().b.member("ops"))},
        {"template": "event", "user": "me"},
    ],
)
def test_a_subscription_that_does_not_say_what_or_whom_is_refused(
    db: Connection, world: World, config: dict[str, Any]
) -> None:
    with refused("notification_subscription_invalid"):
        subscribe(db, world.a, "fin.*", config)


def test_a_contract_near_its_end_tells_its_writers_and_its_managers_once(
    db: Connection, world: World
) -> None:
    set_clock(db, NOON)
    db.execute(
        "insert into public.contracts (org_id, client_id, title, status, mrr, starts_on, ends_on, technical_manager_id)"
        " values (%s, %s, 'Suporte', 'draft', 1500, '2025-04-01', '2026-04-05', %s)",
        (world.a.org, world.a.client, world.a.member("ops")),
    )
    db.execute("update public.contracts set status = 'active'")
    for _ in range(2):
        db.execute("select app.raise_contract_alerts(%s)", (world.a.org,))
    told = db.execute(
        "select m.role, n.template, n.link ~ '^/contracts/' from public.notifications n join public.memberships m"
        " on m.org_id = n.org_id and m.user_id = n.recipient_id order by m.role"
    ).fetchall()
    assert told == [
        (role, "contract_end_near", True)
        for role in ("admin", "director", "finance", "ops", "owner")
    ]
    with as_member(db, world.a, "ops"):
        row = db.execute("select body from notifications").fetchone()
    assert row
    assert "termina em 05/04/2026. Dias restantes: 26. Valor mensal: R$ 1.500,00." in row[0]


def test_a_failed_sync_tells_who_writes_data_once_a_day(db: Connection, world: World) -> None:
    for started in ("2026-03-10T05:00:00-03:00", "2026-03-10T23:30:00-03:00", "2026-03-11T05:00:00-03:00"):  # fmt: skip
        db.execute(
            "insert into public.erp_sync_log (org_id, entity, status, started_at) values (%s, 'clients', 'running', %s)",
            (world.a.org, started),
        )
    db.execute(
        "update public.erp_sync_log set status = 'failed', error = 'a chave foi recusada', finished_at = started_at"
    )
    for role, count in (("owner", 2), ("admin", 2), ("director", 0)):
        with as_member(db, world.a, role):
            assert len(inbox(db)) == count


def test_an_upsell_alert_tells_who_writes_growth(db: Connection, world: World) -> None:
    contract = db.execute(
        "insert into public.contracts (org_id, client_id, title, starts_on) values (%s, %s, 'Suporte', '2026-01-01') returning id",
        (world.a.org, world.a.client),
    ).fetchone()
    assert contract
    db.execute(
        "insert into public.upsell_alerts (org_id, contract_id, month, kind, used, included)"
        " values (%s, %s, '2026-03-01', 'hours', 19, 20)",
        (world.a.org, contract[0]),
    )
    with as_member(db, world.a, "sales"):
        row = db.execute("select body from notifications").fetchone()
    assert row
    assert "usou 95 % do que inclui em mar/2026 (horas)" in row[0]


def test_held_jobs_tell_the_admins_once_per_kind_and_day(db: Connection, world: World) -> None:
    def hold(entrypoint: str) -> None:
        row = db.execute("select app.enqueue(%s, '{}', %s)", (entrypoint, world.a.org)).fetchone()
        assert row
        db.execute(
            "update pgqueuer.pgqueuer set status = 'failed', updated = app.now() where id = %s", row
        )

    orgs = "select app.org_ids_with_held_jobs()"
    assert db.execute(orgs).fetchone() == ([],)
    for entrypoint in ("event.job", "event.job", "event.notification", "notification.deliver"):
        hold(entrypoint)
    assert db.execute(orgs).fetchone() == ([world.a.org],)
    for _ in range(2):
        db.execute("select app.tell_held_jobs(%s)", (world.a.org,))
    for role in ("owner", "admin"):
        with as_member(db, world.a, role):
            assert inbox(db) == ["Tarefa parada: event.job", "Tarefa parada: event.notification"]
    with as_member(db, world.a, "director"):
        assert inbox(db) == []


@pytest.mark.parametrize(("reason", "told"), [("failing", 1), ("gone", 1), ("manual", 0)])
def test_a_receiver_paused_for_its_failures_tells_the_admins_without_its_address(
    db: Connection, world: World, reason: str, told: int
) -> None:
    db.execute(
        "insert into public.webhook_endpoints (org_id, url, first_failure_at)"
        " values (%s, 'https://hooks.example/in?token=secret', app.now())",
        (world.a.org,),
    )
    db.execute(
        "update public.webhook_endpoints set paused_at = app.now(), paused_reason = %s", (reason,)
    )
    with as_member(db, world.a, "admin"):
        assert inbox(db) == ["Webhook pausado: hooks.example"] * told
        assert db.execute(
            "select count(*) from notifications where body ~ 'secret' or data::text ~ 'secret'"
        ).fetchone() == (0,)
