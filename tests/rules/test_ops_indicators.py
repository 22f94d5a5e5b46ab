"""Ops, indicators: measurements by API key, one by one or in batches, each stored once."""

import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.people import (
    Connection,
    Org,
    World,
    as_anon,
    as_member,
    as_worker,
    denied,
    refused,
    set_clock,
)
from tests.rules.test_ops_delivery import add_contract
from tests.rules.test_ops_playbooks import add, one


def make_key(db: Connection, organization: Org, rate: int = 60) -> str:
    with as_member(db, organization, "owner"):
        return str(
            one(
                db,
                "select public.create_api_key(%s, 'Zabbix', '{indicators:write}',"
                " rate_per_minute => %s) ->> 'key'",
                organization.org, rate,
            )
        )  # fmt: skip


def ingest(db: Connection, key: str, indicators: object, idempotency_key: str | None = None) -> Any:
    """Send measurements as a machine does: as a visitor, with nothing but the key."""
    with as_anon(db):
        return one(
            db,
            "select public.ingest_indicators(%s, %s, %s)",
            key,
            Jsonb(indicators),
            idempotency_key,
        )


def measured(key: str, **more: object) -> dict[str, object]:
    return {
        "source": "Infra", "metric_type": "availability", "value": 99.95, "unit": "%",
        "period": "2026-03-30", "idempotency_key": key, **more,
    }  # fmt: skip


def outcomes(answer: dict[str, Any]) -> list[str]:
    return [result["status"] for result in answer["results"]]


@pytest.fixture(autouse=True)
def _noon(db: Connection) -> None:
    """It is noon of 31 March 2026 in São Paulo."""
    set_clock(db, "2026-03-31T12:00:00-03:00")


@pytest.fixture
def contract(db: Connection, world: World) -> UUID:
    """A contract of organisation a."""
    return add_contract(db, world.a)


def test_indicators_are_written_by_the_server_once_per_key_and_read_by_ops(
    db: Connection, world: World, contract: UUID
) -> None:
    values = {
        "source": "Infra",
        "contract_id": contract,
        "metric_type": "availability",
        "value": "99.95",
        "unit": "%",
        "period": "2026-03-30",
        "idempotency_key": "zabbix/1",
    }
    with as_worker(db):
        indicator = add(db, "indicators", world.a, **values)
        with pytest.raises(psycopg.errors.UniqueViolation), db.transaction():
            add(db, "indicators", world.a, **values)
        for wrong in (
            {"source": "Other"},
            {"value": "NaN"},
            {"value": "1e60"},
            {"metadata": "[]"},
            {"metadata": Jsonb({"note": "x" * 10000})},
        ):
            with pytest.raises(psycopg.errors.CheckViolation), db.transaction():
                add(
                    db, "indicators", world.a,
                    **{**values, "idempotency_key": "zabbix/2", **wrong},
                )  # fmt: skip
    count = "select count(*) from public.indicators where id = %s"
    with as_member(db, world.a, "ops"):
        assert one(db, count, indicator) == 1
        with denied():
            add(db, "indicators", world.a, **{**values, "idempotency_key": "zabbix/3"})
        with denied():
            db.execute("update public.indicators set value = 100")
        with denied():
            db.execute("delete from public.indicators")
    with as_member(db, world.b, "owner"):
        assert one(db, count, indicator) == 0


def test_the_payload_of_the_requirement_is_stored_as_it_is(
    db: Connection, world: World, contract: UUID
) -> None:
    key = make_key(db, world.a)
    payload = {
        "source": "Infra",
        "metric_type": "uptime_pct",
        "value": 99.9,
        "contract_id": str(contract),
        "period": "2025-02-01",
        "metadata": {"environment": "prod"},
    }
    answers = [ingest(db, key, payload) for _ in range(2)]
    assert [(answer["ok"], answer["status"]) for answer in answers] == [(True, "stored")] * 2
    # It names no key: each is a measurement of its own.
    assert db.execute(
        "select id::text, source, metric_type, value::text, contract_id, period::text, metadata"
        " from public.indicators order by created_at, id"
    ).fetchall() == sorted(
        (answer["id"], "Infra", "uptime_pct", "99.9", contract, "2025-02-01", payload["metadata"])
        for answer in answers
    )
    least = {"source": "Custom", "metric_type": " visits ", "value": "12", "metadata": None}
    assert ingest(db, key, least)["ok"]
    assert db.execute(
        "select metric_type, value, unit, contract_id, period::text, metadata"
        " from public.indicators where source = 'Custom'"
    ).fetchone() == ("visits", 12, None, None, "2026-03-31", {})


def test_a_batch_sent_twice_is_stored_once_in_the_organisation_of_its_key(
    db: Connection, world: World, contract: UUID
) -> None:
    key = make_key(db, world.a)
    number = one(db, "select number from public.contracts where id = %s", contract)
    batch = [measured("z/1", contract=number), measured("z/2", source="Sec"), measured("z/0")]
    first = ingest(db, key, batch)
    assert (first["ok"], first["stored"], first["repeated"], first["rejected"]) == (True, 3, 0, 0)
    again = ingest(db, key, [*batch, measured("z/3"), measured("z/3")])
    assert (again["stored"], again["repeated"]) == (1, 4)
    assert [result["id"] for result in again["results"][:3]] == [
        result["id"] for result in first["results"]
    ]
    assert [result["index"] for result in again["results"]] == [0, 1, 2, 3, 4]
    assert db.execute(
        "select org_id, contract_id, source from public.indicators order by idempotency_key"
    ).fetchall() == [
        (world.a.org, None, "Infra"),
        (world.a.org, contract, "Infra"),
        (world.a.org, None, "Sec"),
        (world.a.org, None, "Infra"),
    ]
    assert one(db, "select last_used_at is not null from public.api_keys")
    assert one(db, "select count(*) from public.audit_log where table_name = 'api_keys'") == 1
    other = make_key(db, world.b)
    assert outcomes(ingest(db, other, [measured("z/1"), measured("z/2", contract=number)])) == [
        "stored",
        "rejected",
    ]


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"source": "Other"}, ("bad_input", "source")),
        ({"source": "infra"}, ("bad_input", "source")),
        ({"source": None}, ("bad_input", "source")),
        ({"metric_type": "  "}, ("bad_input", "metric_type")),
        ({"metric_type": None}, ("bad_input", "metric_type")),
        ({"metric_type": "x" * 101}, ("bad_input", "metric_type")),
        ({"value": "many"}, ("bad_input", "value")),
        ({"value": None}, ("bad_input", "value")),
        ({"value": ""}, ("bad_input", "value")),
        ({"value": [1]}, ("bad_input", "value")),
        ({"value": True}, ("bad_input", "value")),
        ({"value": "NaN"}, ("bad_input", "value")),
        ({"value": "Infinity"}, ("bad_input", "value")),
        ({"value": "1e200"}, ("bad_input", "value")),
        ({"unit": ""}, ("bad_input", "unit")),
        ({"period": "30/03/2026"}, ("bad_input", "period")),
        ({"period": "2026-02-30"}, ("bad_input", "period")),
        ({"period": "yesterday"}, ("bad_input", "period")),
        ({"period": "infinity"}, ("bad_input", "period")),
        ({"period": "2026-03-30T10:00:00Z"}, ("bad_input", "period")),
        ({"metadata": []}, ("bad_input", "metadata")),
        ({"metadata": "text"}, ("bad_input", "metadata")),
        ({"idempotency_key": ""}, ("bad_input", "idempotency_key")),
        ({"idempotency_key": "k" * 201}, ("bad_input", "idempotency_key")),
        ({"contract_id": "C-1"}, ("bad_input", "contract_id")),
        ({"contract_id": str(UUID(int=0))}, ("contract_not_found", "contract_id")),
        ({"contract": "CTR-1900-001"}, ("contract_not_found", "contract")),
    ],
)
def test_what_is_wrong_with_a_measurement_is_named_by_its_field(
    db: Connection, world: World, wrong: dict[str, object], expected: tuple[str, str]
) -> None:
    key = make_key(db, world.a)
    error, field = expected
    with refused(error) as answer:
        ingest(db, key, measured("z/1", **wrong))
    assert answer.detail.startswith(f"{field}: ")
    batch = [measured("z/0"), measured("z/1", **wrong), measured("z/2")]
    answers = ingest(db, key, batch)
    assert (answers["ok"], outcomes(answers)) == (False, ["stored", "rejected", "stored"])
    result = answers["results"][1]
    assert (result["index"], result["error"], result["field"]) == (1, error, field)
    assert result["details"] == answer.detail
    assert one(db, "select count(*) from public.indicators") == 2


def test_what_is_no_measurement_is_rejected_alone(db: Connection, world: World) -> None:
    key = make_key(db, world.a)
    answer = ingest(db, key, ["text", 5, None, [], {}, measured("z/1")])
    assert outcomes(answer) == ["rejected"] * 5 + ["stored"]
    assert {result["error"] for result in answer["results"][:5]} == {"bad_input"}
    nothings: list[object] = ["text", 5, None, {}, []]
    for nothing in nothings:
        with refused("bad_input"):
            ingest(db, key, nothing)


def test_a_batch_has_at_most_a_thousand_measurements(db: Connection, world: World) -> None:
    key = make_key(db, world.a)
    with refused("batch_too_large") as answer:
        ingest(db, key, [measured(f"z/{number}") for number in range(1001)])
    assert answer.status == 413
    assert ingest(db, key, [measured(f"z/{number}") for number in range(1000)])["stored"] == 1000


def test_a_contract_of_another_organisation_does_not_exist(db: Connection, world: World) -> None:
    foreign = add_contract(db, world.b)
    with refused("contract_not_found"):
        ingest(db, make_key(db, world.a), measured("z/1", contract_id=str(foreign)))


def test_a_key_used_for_another_measurement_is_refused_and_nothing_lost_silently(
    db: Connection, world: World, contract: UUID
) -> None:
    key = make_key(db, world.a)
    given = measured("z/1", contract_id=str(contract), metadata={"host": "a"})
    assert ingest(db, key, given)["status"] == "stored"
    assert ingest(db, key, {**given, "value": "99.950"})["status"] == "repeated"
    for change in (
        {"value": 99.96}, {"source": "Sec"}, {"metric_type": "uptime"}, {"unit": None},
        {"period": "2026-03-31"}, {"metadata": {"host": "b"}}, {"contract_id": None},
    ):  # fmt: skip
        with refused("idempotency_key_reused") as answer:
            ingest(db, key, {**given, **change})
        assert answer.detail.startswith("idempotency_key: ")
    today = {**given, "idempotency_key": "z/2", "period": None}
    assert ingest(db, key, today)["status"] == "stored"
    set_clock(db, "2026-04-01T00:30:00-03:00")
    assert ingest(db, key, today)["status"] == "repeated"


def test_the_key_of_a_call_names_the_measurements_that_have_none(
    db: Connection, world: World
) -> None:
    key = make_key(db, world.a)
    nameless = [{**measured(""), "value": value} for value in (1, 2)]
    for one_of in nameless:
        del one_of["idempotency_key"]
    batch = [nameless[0], measured("own"), nameless[1]]
    assert outcomes(ingest(db, key, batch, "call-7")) == ["stored"] * 3
    assert outcomes(ingest(db, key, batch, "call-7")) == ["repeated"] * 3
    assert outcomes(ingest(db, key, batch, "call-8")) == ["stored", "repeated", "stored"]
    assert outcomes(ingest(db, key, batch[::-1], "call-7"))[::2] == ["rejected"] * 2
    keys = db.execute("select idempotency_key from public.indicators order by 1").fetchall()
    assert keys == [("call-7/0",), ("call-7/2",), ("call-8/0",), ("call-8/2",), ("own",)]
    assert ingest(db, key, nameless[0], "call-9")["status"] == "stored"
    assert ingest(db, key, nameless[0], "call-9")["status"] == "repeated"
    for wrong in ("", "k" * 191):
        with refused("bad_input") as answer:
            ingest(db, key, nameless[0], wrong)
        assert answer.detail.startswith("idempotency_key: ")


def test_a_key_that_is_unknown_revoked_expired_or_too_busy_writes_nothing(
    db: Connection, world: World
) -> None:
    key = make_key(db, world.a, rate=2)
    with refused("api_key_invalid"):
        ingest(db, key + "0", measured("z/1"))
    with refused("api_key_invalid"):
        ingest(db, "", measured("z/1"))
    with as_worker(db), refused("api_key_scope_missing"):
        db.execute("select app.use_api_key(%s, 'contracts:write')", (key,))
    ingest(db, key, measured("z/1"))
    set_clock(db, "2026-03-31T12:00:20-03:00")
    ingest(db, key, [measured("z/2"), "rejected ones count too"])
    set_clock(db, "2026-03-31T12:00:47.5-03:00")
    with refused("rate_limited") as answer:
        ingest(db, key, measured("z/3"))
    assert (answer.status, answer.hint) == (429, "Try again in 13 s.")
    set_clock(db, "2026-03-31T12:01:00-03:00")
    ingest(db, key, measured("z/3"))
    db.execute("delete from app.rate_hits")
    for status in ("suspended", "inactive"):
        db.execute(
            "update public.organizations set status = %s where id = %s", (status, world.a.org)
        )
        with refused(f"organization_{status}"):
            ingest(db, key, measured("z/3"))
    db.execute("update public.organizations set status = 'active' where id = %s", (world.a.org,))
    for change in ("expires_at = app.now()", "revoked_at = app.now()"):
        with db.transaction(force_rollback=True):
            db.execute(f"update public.api_keys set {change}")
            with refused("api_key_invalid"):
                ingest(db, key, measured("z/3"))


def test_the_machine_writes_whoever_carries_its_key(db: Connection, world: World) -> None:
    key = make_key(db, world.a)
    call = "select public.ingest_indicators(%s, %s)"
    with as_member(db, world.b, "owner"):
        db.execute(call, (key, Jsonb(measured("z/1"))))
        assert one(db, "select count(*) from public.indicators") == 0
    with as_anon(db):
        db.execute(call, (key, Jsonb(measured("z/2"))))
        with denied():
            db.execute("select app.store_indicator(%s, '{}', 'k')", (world.a.org,))
    with as_worker(db):
        db.execute(call, (key, Jsonb(measured("z/3"))))
    assert db.execute(
        "select distinct org_id, actor_kind, actor_id from public.module_events"
        " where event_type = 'indicator.created'"
    ).fetchall() == [(world.a.org, "system", None)]


def test_batches_of_two_keys_in_opposite_order_store_each_measurement_once(own_db_url: str) -> None:
    with psycopg.connect(own_db_url, autocommit=True) as db:
        world = World()
        keys = [make_key(db, world.a) for _ in range(2)]
        names = [f"z/{number}" for number in range(200)]
        answers: list[dict[str, Any]] = []

        def send(key: str, batch: list[dict[str, object]]) -> Callable[[], None]:
            def act() -> None:
                with psycopg.connect(own_db_url, autocommit=True) as machine:
                    answers.append(ingest(machine, key, batch))

            return act

        batch = [measured(name) for name in names]
        threads = [
            threading.Thread(target=send(keys[0], batch)),
            threading.Thread(target=send(keys[1], batch[::-1])),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted((a["stored"], a["repeated"], a["rejected"]) for a in answers) == [
            (0, 200, 0),
            (200, 0, 0),
        ]
        assert one(db, "select count(*) from public.indicators") == 200
