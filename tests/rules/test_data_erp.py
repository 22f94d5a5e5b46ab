"""ERP synchronisation, as its functions judge rows: runs, clients, services, titles, revenue, news of webhooks."""

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.people import Connection, Org, World, refused, set_clock

NOON = "2026-07-15 12:00-03"
CODE = 6289000111
CNPJ, OTHER_CNPJ, CPF = "11222333000181", "11444777000161", "52998224725"
TITLE = {
    "code": "6290000001", "client": str(CODE), "reference": "OS-41 001/003", "issued_on": "02/07/2026",
    "due_on": "20/07/2026", "amount": "1500.50", "status": "A VENCER",
}  # fmt: skip
MOVEMENT = TITLE | {
    "document": "11.222.333/0001-81",
    "settled": "N",
    "paid": "0",
    "open": "1500.50",
    "paid_on": "",
}


@pytest.fixture(autouse=True)
def _noon(db: Connection) -> None:
    set_clock(db, NOON)


def one(db: Connection, query: str, *arguments: object) -> dict[str, Any]:
    """Ask for one row."""
    with db.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(query.encode(), arguments).fetchone()
    assert row
    return row


def start(db: Connection, org: Org, entity: str = "receivables", **given: Any) -> dict[str, Any]:
    """Open a run; mode, month and run may be given."""
    return one(
        db,
        "select * from app.start_erp_sync(%s, %s, %s, %s, %s::date)",
        org.org,
        given.get("run") or uuid4(),
        entity,
        given.get("mode", "full"),
        given.get("month"),
    )


def finish(
    db: Connection, run: dict[str, Any], status: str = "succeeded", **counts: int
) -> dict[str, Any]:
    """Close a run."""
    names = ("seen", "created", "updated", "unchanged", "skipped", "deactivated", "failed")
    given: dict[str, Any] = {name: counts.get(name, 0) for name in names}
    given["failures"] = []
    return one(
        db, "select * from app.finish_erp_sync(%s, %s, %s, %s)", run["org_id"], run["id"], status, json.dumps(given)
    )  # fmt: skip


def stage(db: Connection, run: dict[str, Any], name: str, *rows: dict[str, Any]) -> dict[str, Any]:
    """Keep rows of a list."""
    answer: dict[str, Any] = one(
        db, "select app.stage_erp_rows(%s, %s, %s, %s) as a", run["org_id"], run["id"], name, json.dumps(rows)
    )["a"]  # fmt: skip
    return answer


def merge(
    db: Connection, run: dict[str, Any], *, size: int = 1000, moment: object = None
) -> dict[str, Any]:
    """Merge what was staged, in chunks; gives the sums."""
    total: dict[str, Any] = {"failures": []}
    after: int | None = 0
    while after is not None:
        answer = one(
            db, f"select app.merge_erp_{run['entity']}(%s, %s, %s, %s, %s) as a", run["org_id"], run["id"],
            moment or run["started_at"], after, size,
        )["a"]  # fmt: skip
        after = answer.pop("after")
        total["failures"] += answer.pop("failures")
        for name, count in answer.items():
            total[name] = total.get(name, 0) + count
    return total


def counts(answer: dict[str, Any]) -> dict[str, int]:
    """Give the counts that are not 0."""
    return {
        name: count for name, count in answer.items() if name not in {"after", "failures"} and count
    }


def client_row(code: int = CODE, **fields: Any) -> dict[str, Any]:
    """Write a row of the register."""
    return {
        "code": str(code), "name": f"Cliente {code} Ltda", "trade_name": "", "document": "", "email": "",
        "phones": [], "address": {}, "tags": ["Cliente"], "inactive": "N",
    } | fields  # fmt: skip


def client_of(db: Connection, org: Org, code: int = CODE) -> dict[str, Any]:
    """Give the client with a code."""
    return one(
        db, "select * from public.clients where org_id = %s and omie_codigo = %s", org.org, code
    )


def title_of(db: Connection, org: Org, code: int = 6290000001) -> dict[str, Any]:
    """Give the title with a code."""
    return one(
        db, "select * from public.erp_receivables where org_id = %s and title_number = %s", org.org, code
    )  # fmt: skip


def take_clients(db: Connection, org: Org, *rows: dict[str, Any]) -> dict[str, Any]:
    """Stage and merge clients in a run of their own."""
    run = start(db, org, "clients", run=UUID(int=1))
    stage(db, run, "clients", *rows)
    answer = merge(db, run)
    finish(db, run)
    return answer


def take_titles(db: Connection, org: Org, **lists: list[dict[str, Any]]) -> dict[str, Any]:
    """Stage and merge titles and movements in a run of their own."""
    run = start(db, org, run=UUID(int=1))
    for name, rows in lists.items():
        stage(db, run, name, *rows)
    answer = merge(db, run)
    finish(db, run)
    return answer


# --- Reading what Omie writes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("20/07/2026", date(2026, 7, 20)),
        ("2026-07-20T00:00:00-03:00", date(2026, 7, 20)),
        ("2026-07-20", date(2026, 7, 20)),
        ("29/02/2028", date(2028, 2, 29)),
        ("29/02/2026", None),
        ("00/00/0000", None),
        ("2026-07-20x", None),
        ("7/20/2026", None),
        ("", None),
        (None, None),
    ],
)
def test_a_day_is_the_one_on_omies_calendar(
    db: Connection, text: str | None, day: date | None
) -> None:
    assert one(db, "select app.omie_date(%s) as day", text)["day"] == day


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (
            ("A VENCER", "A vencer", "AVENCER", "a_vencer", "EMABERTO", "VENCE HOJE", "Atrasado"),
            "open",
        ),
        (("PAGTO_PARCIAL", "PAGTO PARCIAL", "Pagto Parcial"), "partial"),
        (("RECEBIDO", "LIQUIDADO", "Pago"), "paid"),
        (("CANCELADO", "Cancelado"), "cancelled"),
        (("SUMIDO", ""), None),
    ],
)
def test_a_status_is_known_however_it_is_written(
    db: Connection, words: tuple[str, ...], status: str | None
) -> None:
    for word in words:
        assert one(db, "select app.omie_title_status(%s) as s", word)["s"] == status, word


@pytest.mark.parametrize(
    ("text", "amount"),
    [("1500.5", Decimal("1500.50")), ("-3", Decimal(-3)), ("0.1000000000000001", Decimal("0.10")), ("NaN", None), ("1.500,50", None)],
)  # fmt: skip
def test_an_amount_keeps_its_cents(db: Connection, text: str, amount: Decimal | None) -> None:
    assert one(db, "select app.omie_amount(%s) as a", text)["a"] == amount


# --- Runs ------------------------------------------------------------------------------------------


def test_the_first_incremental_run_is_a_full_one_and_later_ones_go_two_days_back(
    db: Connection, world: World
) -> None:
    first = start(db, world.a, mode="incremental", run=UUID(int=1))
    assert (first["mode"], first["since"]) == ("full", None)
    finish(db, first)
    second = start(db, world.a, mode="incremental", run=UUID(int=1))
    assert (second["mode"], second["since"]) == ("incremental", date(2026, 7, 13))
    finish(db, second, "failed")
    set_clock(db, "2026-07-18 00:30-03")
    third = start(db, world.a, mode="incremental")
    assert third["since"] == date(2026, 7, 13), "a failed run moves nothing"


def test_a_run_whose_lists_moved_is_not_what_the_next_begins_from(
    db: Connection, world: World
) -> None:
    run = start(db, world.a, run=UUID(int=1))
    one(
        db, "select app.finish_erp_sync(%s, %s, 'partial', %s, 'the lists changed')", run["org_id"], run["id"],
        json.dumps({"seen": 1, "created": 0, "updated": 0, "unchanged": 0, "skipped": 0, "deactivated": 0, "failed": 0, "failures": []}),
    )  # fmt: skip
    assert start(db, world.a, mode="incremental", run=UUID(int=1))["mode"] == "full"


def test_another_run_of_the_organisation_waits_five_minutes(db: Connection, world: World) -> None:
    run = start(db, world.a, "clients")
    done = finish(db, run)
    assert done["next_at"] == datetime(2026, 7, 15, 15, 5, tzinfo=UTC)
    set_clock(db, "2026-07-15 12:04:59-03")
    with refused("erp_sync_cooldown") as answer:
        start(db, world.a, "receivables")
    assert (answer.status, answer.hint) == (
        429,
        "Not before 2026-07-15 12:05:00 (time of the organisation).",
    )
    start(db, world.a, "receivables", run=run["run_id"])
    start(db, world.b, "receivables")
    set_clock(db, "2026-07-15 12:05-03")
    start(db, world.a, "services")


def test_a_wait_the_erp_asked_for_is_kept(db: Connection, world: World) -> None:
    run = start(db, world.a, "clients")
    one(
        db, "select app.finish_erp_sync(%s, %s, 'failed', %s, 'blocked', '2026-07-15 12:30-03')", run["org_id"], run["id"],
        json.dumps({"seen": 0, "created": 0, "updated": 0, "unchanged": 0, "skipped": 0, "deactivated": 0, "failed": 0, "failures": []}),
    )  # fmt: skip
    set_clock(db, "2026-07-15 12:29-03")
    with refused("erp_sync_cooldown"):
        start(db, world.a, "clients")


def test_one_entity_is_read_by_one_process_and_a_dead_ones_run_is_marked_failed(
    own_db_url: str, world: World
) -> None:
    with psycopg.connect(own_db_url, autocommit=True) as other:
        with psycopg.connect(own_db_url, autocommit=True) as first:
            dead = start(first, world.a)
            stage(first, dead, "titles", TITLE)
            with refused("erp_sync_running", other):
                start(other, world.a)
            start(other, world.a, "clients")
        # The connection of the first is gone, as after SIGKILL; the server may take a moment to see it.
        key = f"hashtextextended('erp_sync/{world.a.org}/receivables', 0)"
        other.execute(f"select pg_advisory_lock({key}), pg_advisory_unlock({key})".encode())
        start(other, world.a)
        rows = other.execute(
            "select status, error from public.erp_sync_log where id = %s", (dead["id"],)
        ).fetchall()
        assert rows == [("failed", "interrupted: its process ended")]
        assert other.execute("select count(*) from app.erp_sync_rows").fetchone() == (0,)


def test_of_an_organisation_that_is_not_active_nothing_is_read(
    db: Connection, world: World
) -> None:
    db.execute("update public.organizations set status = 'suspended' where id = %s", (world.a.org,))
    with refused("erp_sync_refused"):
        start(db, world.a)


def test_a_run_tells_the_first_hundred_failures_and_counts_all(
    db: Connection, world: World
) -> None:
    run = start(db, world.a, "clients")
    failures = [{"row": str(n), "reason": "name_missing"} for n in range(150)]
    db.execute(
        "select app.report_erp_sync(%s, %s, %s)",
        (run["org_id"], run["id"], json.dumps({"seen": 150, "created": 0, "updated": 0, "unchanged": 0, "skipped": 0, "deactivated": 0, "failed": 150, "failures": failures})),
    )  # fmt: skip
    row = one(db, "select failed, failures from public.erp_sync_log where id = %s", run["id"])
    assert (row["failed"], len(row["failures"]), row["failures"][99]["row"]) == (150, 100, "99")


def test_a_row_without_a_code_is_a_failure_and_a_row_met_again_is_not_new(
    db: Connection, world: World
) -> None:
    run = start(db, world.a, "clients")
    answer = stage(db, run, "clients", client_row(), client_row(0), client_row() | {"code": "abc"}, client_row(name="Again"))  # fmt: skip
    assert answer == {
        "new": 1,
        "failures": [
            {"row": "0", "reason": "code_invalid"},
            {"row": "abc", "reason": "code_invalid"},
        ],
    }
    assert stage(db, run, "clients", client_row())["new"] == 0


# --- Clients ---------------------------------------------------------------------------------------


def test_a_client_is_created_with_bare_document_and_all_that_is_known(
    db: Connection, world: World
) -> None:
    answer = take_clients(
        db, world.a,
        client_row(
            document="11.222.333/0001-81", email="a@x.example; b@x.example, not-one", trade_name="Flor",
            phones=["+55 11 3333-0001"], address={"city": "SAO PAULO", "state": "SP"},
        ),
    )  # fmt: skip
    assert counts(answer) == {"seen": 1, "created": 1}
    made = client_of(db, world.a)
    assert (made["document"], made["emails"], made["phones"], made["address"], made["status"]) == (
        CNPJ, ["a@x.example", "b@x.example"], ["+55 11 3333-0001"], {"city": "SAO PAULO", "state": "SP"}, "active",
    )  # fmt: skip


def test_again_is_unchanged_and_a_change_is_an_update(db: Connection, world: World) -> None:
    take_clients(db, world.a, client_row(), client_row(CODE + 1))
    assert counts(take_clients(db, world.a, client_row(), client_row(CODE + 1))) == {
        "seen": 2,
        "unchanged": 2,
    }
    answer = take_clients(db, world.a, client_row(name="Outro Nome SA"), client_row(CODE + 1))
    assert counts(answer) == {"seen": 2, "updated": 1, "unchanged": 1}
    assert client_of(db, world.a)["name"] == "Outro Nome SA"


def test_a_client_known_by_document_is_linked_and_what_people_added_stays(
    db: Connection, world: World
) -> None:
    db.execute(
        "update public.clients set document = %s, emails = '{cfo@x.example}', segment = 'Varejo', address = %s"
        " where org_id = %s and id = %s",
        (CNPJ, json.dumps({"note": "portão azul"}), world.a.org, world.a.client),
    )
    answer = take_clients(
        db, world.a, client_row(document=CNPJ, email="nfe@x.example", address={"city": "Santos"})
    )
    assert counts(answer) == {"seen": 1, "updated": 1}
    row = client_of(db, world.a)
    assert row["id"] == world.a.client
    assert (row["emails"], row["segment"]) == (["nfe@x.example", "cfo@x.example"], "Varejo")
    assert row["address"] == {"note": "portão azul", "city": "Santos"}


def test_the_code_counts_before_the_document(db: Connection, world: World) -> None:
    take_clients(db, world.a, client_row(document=CNPJ))
    answer = take_clients(db, world.a, client_row(document=OTHER_CNPJ))
    assert counts(answer) == {"seen": 1, "updated": 1}
    assert client_of(db, world.a)["document"] == OTHER_CNPJ
    assert counts(take_clients(db, world.a, client_row(document=""))) == {"seen": 1, "unchanged": 1}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"document": "11.222.333/0001-80"}, "document_invalid"),
        ({"document": "111.111.111-11"}, "document_invalid"),
        ({"name": " ", "trade_name": ""}, "name_missing"),
        ({"name": "X"}, "name_missing"),
    ],
)
def test_a_bad_row_fails_alone_and_says_why(
    db: Connection, world: World, fields: dict[str, Any], reason: str
) -> None:
    answer = take_clients(db, world.a, client_row(**fields), client_row(CODE + 1, document=CPF))
    assert counts(answer) == {"seen": 2, "created": 1, "failed": 1}
    assert answer["failures"] == [{"row": str(CODE), "reason": reason}]
    assert client_of(db, world.a, CODE + 1)["document"] == CPF


def test_of_two_rows_with_one_document_the_active_one_is_taken_and_stays(
    db: Connection, world: World
) -> None:
    pair = (
        client_row(document=CNPJ, inactive="S"),
        client_row(CODE + 1, document="11.222.333/0001-81"),
    )
    for expected in (
        {"seen": 2, "created": 1, "failed": 1},
        {"seen": 2, "unchanged": 1, "failed": 1},
    ):
        answer = take_clients(db, world.a, *pair)
        assert counts(answer) == expected
        assert answer["failures"] == [{"row": str(CODE), "reason": "document_taken"}]
    assert client_of(db, world.a, CODE + 1)["status"] == "active"


def test_a_document_registered_anew_moves_to_the_new_code_once_the_old_is_gone(
    db: Connection, world: World
) -> None:
    take_clients(db, world.a, client_row(document=CNPJ))
    before = client_of(db, world.a)
    anew = client_row(CODE + 9, document=CNPJ)
    assert take_clients(db, world.a, anew)["failures"] == [
        {"row": str(CODE + 9), "reason": "document_taken"}
    ]
    db.execute("select app.deactivate_erp_clients(%s, %s, app.now())", (world.a.org, [CODE]))
    assert counts(take_clients(db, world.a, anew)) == {"seen": 1, "updated": 1}
    after = client_of(db, world.a, CODE + 9)
    assert (after["id"], after["status"]) == (before["id"], "active")


def test_two_known_clients_do_not_swap_into_one_document(db: Connection, world: World) -> None:
    take_clients(db, world.a, client_row(document=CNPJ), client_row(CODE + 1, document=OTHER_CNPJ))
    answer = take_clients(db, world.a, client_row(CODE + 1, document=CNPJ))
    assert answer["failures"] == [{"row": str(CODE + 1), "reason": "document_taken"}]


@pytest.mark.parametrize(
    ("tags", "outcome"),
    [
        (["Fornecedor"], "skipped"),
        (["fornecedores", "Transportadora"], "skipped"),
        (["Fornecedor", "Cliente"], "created"),
        (["CLIENTE"], "created"),
        (["VIP"], "created"),
        ([], "created"),
    ],
)
def test_a_supplier_that_is_no_customer_is_left_out(
    db: Connection, world: World, tags: list[str], outcome: str
) -> None:
    answer = take_clients(db, world.a, client_row(tags=tags))
    assert counts(answer) == {"seen": 1, outcome: 1}


def test_a_client_that_becomes_a_supplier_too_is_still_followed(
    db: Connection, world: World
) -> None:
    take_clients(db, world.a, client_row())
    answer = take_clients(db, world.a, client_row(tags=["Fornecedor"], name="Novo Nome"))
    assert counts(answer) == {"seen": 1, "updated": 1}


def test_the_status_follows_the_erp_only_when_it_changes_there(
    db: Connection, world: World
) -> None:
    def status() -> str:
        return str(client_of(db, world.a)["status"])

    take_clients(db, world.a, client_row())
    take_clients(db, world.a, client_row(inactive="S"))
    assert status() == "inactive"
    db.execute("update public.clients set status = 'active' where omie_codigo = %s", (CODE,))
    assert counts(take_clients(db, world.a, client_row(inactive="S"))) == {
        "seen": 1,
        "unchanged": 1,
    }
    assert status() == "active", "somebody wanted it so"
    db.execute("update public.clients set status = 'inactive' where omie_codigo = %s", (CODE,))
    take_clients(db, world.a, client_row(inactive="N"))
    assert status() == "active", "the ERP has changed its mind"
    db.execute("update public.clients set status = 'inactive' where omie_codigo = %s", (CODE,))
    take_clients(db, world.a, client_row())
    assert status() == "inactive", "nothing has changed in the ERP"


def test_a_client_not_met_in_a_full_reading_is_vanished_unless_it_is_new(
    db: Connection, world: World
) -> None:
    set_clock(db, "2026-07-14 12:00-03")
    take_clients(db, world.a, *(client_row(CODE + n) for n in range(3)))
    set_clock(db, NOON)
    run = start(db, world.a, "clients", run=UUID(int=1))
    empty = db.execute(
        "select app.vanished_erp_clients(%s, %s)", (run["org_id"], run["id"])
    ).fetchall()
    assert empty == [], "a register that lists nobody at all is not believed"
    stage(db, run, "clients", client_row())
    set_clock(db, "2026-07-15 12:01-03")
    db.execute("update public.clients set segment = 'Novo' where omie_codigo = %s", (CODE + 2,))
    vanished = db.execute(
        "select app.vanished_erp_clients(%s, %s)", (run["org_id"], run["id"])
    ).fetchall()
    assert vanished == [(CODE + 1,)]
    db.execute("select app.deactivate_erp_clients(%s, %s, app.now())", (world.a.org, [CODE + 1]))
    assert client_of(db, world.a, CODE + 1)["status"] == "inactive"
    assert counts(take_clients(db, world.a, client_row(CODE + 1))) == {"seen": 1, "updated": 1}
    assert client_of(db, world.a, CODE + 1)["status"] == "active"


def test_chunks_of_any_size_give_the_same(db: Connection, world: World) -> None:
    run = start(db, world.a, "clients")
    rows = [client_row(CODE + n, document="1" if n == 3 else "") for n in range(7)]
    stage(db, run, "clients", *rows)
    assert counts(merge(db, run, size=2)) == {"seen": 7, "created": 6, "failed": 1}
    assert counts(merge(db, run, size=3)) == {"seen": 7, "unchanged": 6, "failed": 1}


def test_one_organisations_rows_do_not_touch_anothers(db: Connection, world: World) -> None:
    take_clients(db, world.a, client_row(document=CNPJ))
    assert counts(take_clients(db, world.b, client_row(document=CNPJ))) == {"seen": 1, "created": 1}
    take_clients(db, world.b, client_row(document=CNPJ, name="Da Beta"))
    assert client_of(db, world.a)["name"] == f"Cliente {CODE} Ltda"


# --- Services --------------------------------------------------------------------------------------


def take_services(db: Connection, org: Org, *rows: tuple[int, str, str]) -> dict[str, Any]:
    """Stage and merge services."""
    run = start(db, org, "services", run=UUID(int=1))
    stage(db, run, "services", *({"code": str(c), "title": t, "inactive": i} for c, t, i in rows))
    answer = merge(db, run)
    finish(db, run)
    return answer


def test_services_become_service_actions_by_their_code(db: Connection, world: World) -> None:
    first = take_services(db, world.a, (71, "Suporte mensal", "N"), (72, "Suporte mensal", "N"), (73, "Antigo", "S"), (74, " ", "N"))  # fmt: skip
    assert counts(first) == {"seen": 4, "created": 2, "skipped": 1, "failed": 1}
    assert first["failures"] == [{"row": "74", "reason": "title_missing"}]
    again = take_services(db, world.a, (71, "Suporte anual", "N"), (72, "Suporte mensal", "S"))
    assert counts(again) == {"seen": 2, "updated": 1, "unchanged": 1}
    rows = db.execute(
        "select omie_servico_id, title, slug from public.service_actions where org_id = %s order by 1",
        (world.a.org,),
    ).fetchall()
    assert rows == [
        ("71", "Suporte anual", "suporte-mensal"),
        ("72", "Suporte mensal", "suporte-mensal-72"),
    ]


def test_a_service_action_made_by_hand_is_linked_by_its_title(db: Connection, world: World) -> None:
    db.execute(
        "insert into public.service_actions (org_id, title) values (%s, 'Suporte Mensal')",
        (world.a.org,),
    )
    answer = take_services(db, world.a, (71, "Suporte mensal", "N"), (72, "suporte mensal", "N"))
    assert counts(answer) == {"seen": 2, "created": 1, "updated": 1}
    row = one(
        db, "select omie_servico_id from public.service_actions where slug = 'suporte-mensal'"
    )
    assert row["omie_servico_id"] == "71"


# --- Titles ----------------------------------------------------------------------------------------


def test_a_title_takes_its_payment_from_the_movements(db: Connection, world: World) -> None:
    answer = take_titles(
        db, world.a,
        titles=[TITLE | {"status": "PAGTO_PARCIAL"}],
        movements=[MOVEMENT | {"status": "PAGTO_PARCIAL", "paid": "500.25", "open": "1000.25", "paid_on": "10/07/2026"}],
    )  # fmt: skip
    assert counts(answer) == {"seen": 1, "created": 1}
    row = title_of(db, world.a)
    assert (row["status"], row["amount"], row["paid"], row["open"], row["paid_on"]) == (
        "partial", Decimal("1500.50"), Decimal("500.25"), Decimal("1000.25"), date(2026, 7, 10),
    )  # fmt: skip
    assert (row["reference"], row["document"], row["due_on"], row["issued_on"]) == (
        "OS-41 001/003", CNPJ, date(2026, 7, 20), date(2026, 7, 2),
    )  # fmt: skip


def test_a_title_paid_with_a_discount_is_settled(db: Connection, world: World) -> None:
    paid = MOVEMENT | {
        "status": "RECEBIDO",
        "settled": "S",
        "paid": "1400",
        "open": "0",
        "paid_on": "19/07/2026",
    }
    take_titles(db, world.a, titles=[TITLE | {"status": "RECEBIDO"}], movements=[paid])
    row = title_of(db, world.a)
    assert (row["status"], row["paid"], row["open"]) == ("paid", Decimal(1400), Decimal(0))


def test_a_movement_alone_makes_the_title(db: Connection, world: World) -> None:
    take_titles(db, world.a, movements=[MOVEMENT])
    assert title_of(db, world.a)["status"] == "open"


@pytest.mark.parametrize("word", ["LIQUIDADO", "RECEBIDO", "PAGO"])
def test_a_title_cancelled_after_payment_is_cancelled_whatever_the_movement_says(
    db: Connection, world: World, word: str
) -> None:
    paid = MOVEMENT | {
        "status": word,
        "settled": "S",
        "paid": "1500.50",
        "open": "0",
        "paid_on": "19/07/2026",
    }
    take_titles(db, world.a, titles=[TITLE | {"status": "CANCELADO"}], movements=[paid])
    assert title_of(db, world.a)["status"] == "cancelled"
    assert counts(take_titles(db, world.a, movements=[paid])) == {"seen": 1, "unchanged": 1}


def test_what_is_known_of_a_payment_stays_when_only_the_register_is_read(
    db: Connection, world: World
) -> None:
    paid = MOVEMENT | {
        "status": "RECEBIDO",
        "settled": "S",
        "paid": "1510.99",
        "open": "0",
        "paid_on": "19/07/2026",
    }
    take_titles(db, world.a, titles=[TITLE | {"status": "RECEBIDO"}], movements=[paid])
    assert counts(take_titles(db, world.a, titles=[TITLE | {"status": "RECEBIDO"}])) == {
        "seen": 1,
        "unchanged": 1,
    }
    take_titles(db, world.a, titles=[TITLE])
    row = title_of(db, world.a)
    assert (row["status"], row["paid"], row["open"], row["paid_on"]) == (
        "open", Decimal(0), Decimal("1500.50"), None,
    ), "the payment was taken back"  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"client": "0"}, "client_missing"),
        ({"due_on": "31/02/2026"}, "due_date_invalid"),
        ({"amount": "-1"}, "amount_invalid"),
        ({"amount": ""}, "amount_invalid"),
        ({"status": "ESTRANHO"}, "status_unknown"),
        ({"status": ""}, "status_unknown"),
    ],
)
def test_a_bad_title_fails_alone_and_says_why(
    db: Connection, world: World, fields: dict[str, Any], reason: str
) -> None:
    answer = take_titles(db, world.a, titles=[TITLE | fields, TITLE | {"code": "6290000002"}])
    assert counts(answer) == {"seen": 2, "created": 1, "failed": 1}
    assert answer["failures"] == [{"row": "6290000001", "reason": reason}]


def test_a_payment_that_is_no_number_fails(db: Connection, world: World) -> None:
    answer = take_titles(db, world.a, movements=[MOVEMENT | {"paid": "x"}])
    assert answer["failures"] == [{"row": "6290000001", "reason": "payment_invalid"}]


def test_a_title_in_neither_list_of_a_full_reading_is_cancelled_and_may_come_back(
    db: Connection, world: World
) -> None:
    other = {"code": "6290000002"}
    take_titles(db, world.a, titles=[TITLE, TITLE | other])
    run = start(db, world.a, run=UUID(int=1))
    stage(db, run, "movements", MOVEMENT)
    merge(db, run)
    cancel = "select app.cancel_vanished_erp_receivables(%s, %s, %s) as n"
    assert one(db, cancel, run["org_id"], run["id"], run["started_at"])["n"] == 1
    assert one(db, cancel, run["org_id"], run["id"], run["started_at"])["n"] == 0
    finish(db, run)
    row = title_of(db, world.a, 6290000002)
    assert (row["status"], row["open"], row["vanished_at"] is None) == ("cancelled", 0, False)
    take_titles(db, world.a, titles=[TITLE | other])
    row = title_of(db, world.a, 6290000002)
    assert (row["status"], row["open"], row["vanished_at"]) == ("open", Decimal("1500.50"), None)


def test_a_list_without_any_title_cancels_nothing(db: Connection, world: World) -> None:
    take_titles(db, world.a, titles=[TITLE])
    run = start(db, world.a, run=UUID(int=1))
    answer = one(
        db, "select app.cancel_vanished_erp_receivables(%s, %s, %s) as n", run["org_id"], run["id"], run["started_at"]
    )  # fmt: skip
    assert answer["n"] == 0


# --- Revenue ---------------------------------------------------------------------------------------


def line(code: int, day: str, amount: str, client: int = CODE, **fields: str) -> dict[str, Any]:
    """Write a title or receipt as revenue."""
    return {"code": str(code), "client": str(client), "day": day, "amount": amount, "nature": "R", "status": "RECEBIDO"} | fields  # fmt: skip


def take_revenue(db: Connection, org: Org, **lists: list[dict[str, Any]]) -> dict[str, Any]:
    """Stage and merge the revenue of June."""
    run = start(db, org, "revenue", mode="incremental", month="2026-06-10", run=UUID(int=1))
    for name, rows in lists.items():
        stage(db, run, name, *rows)
    answer: dict[str, Any] = one(
        db, "select app.merge_erp_revenue(%s, %s, %s) as a", run["org_id"], run["id"], run["started_at"]
    )["a"]  # fmt: skip
    finish(db, run)
    return answer


def snapshot(db: Connection, org: Org) -> list[tuple[Any, ...]]:
    """Give the snapshot."""
    return db.execute(
        "select month::text, omie_codigo, basis, value from public.erp_revenue_snapshot"
        " where org_id = %s order by omie_codigo, basis", (org.org,)
    ).fetchall()  # fmt: skip


def test_revenue_is_summed_per_client_on_both_bases_by_the_day_of_each_line(
    db: Connection, world: World
) -> None:
    answer = take_revenue(
        db, world.a,
        issued=[
            line(1, "01/06/2026", "0.10"), line(2, "30/06/2026", "0.20"), line(3, "01/07/2026", "9"),
            line(4, "31/05/2026", "9"), line(5, "15/06/2026", "7", CODE + 1),
        ],
        receipts=[line(101, "30/06/2026", "0.15", title="1"), line(102, "01/07/2026", "0.15", title="1")],
    )  # fmt: skip
    assert counts(answer) == {"seen": 7, "created": 3, "skipped": 3}
    assert snapshot(db, world.a) == [
        ("2026-06-01", CODE, "issued", Decimal("0.30")),
        ("2026-06-01", CODE, "received", Decimal("0.15")),
        ("2026-06-01", CODE + 1, "issued", Decimal(7)),
    ]


def test_a_full_run_of_revenue_reads_twelve_months_each_by_itself(
    db: Connection, world: World
) -> None:
    run = start(db, world.a, "revenue", mode="full", run=UUID(int=1))
    assert (run["since"], run["month"]) == (date(2025, 7, 1), date(2026, 6, 1)), "up to last month"
    stage(
        db, run, "issued",
        line(1, "30/06/2025", "1"), line(2, "01/07/2025", "2"), line(3, "31/12/2025", "3"),
        line(4, "30/06/2026", "4"), line(5, "01/07/2026", "5"),
    )  # fmt: skip
    answer = one(
        db, "select app.merge_erp_revenue(%s, %s, %s) as a", run["org_id"], run["id"], run["started_at"]
    )["a"]  # fmt: skip
    assert counts(answer) == {"seen": 5, "created": 3, "skipped": 2}
    finish(db, run)
    assert [row[0] for row in sorted(snapshot(db, world.a))] == [
        "2025-07-01",
        "2025-12-01",
        "2026-06-01",
    ]
    known = "select app.is_erp_month_known(%s, %s) as is_known"
    for month, is_known in (
        ("2025-06-01", False),
        ("2025-08-01", True),
        ("2026-06-01", True),
        ("2026-07-01", False),
    ):
        assert one(db, known, world.a.org, month)["is_known"] is is_known, month
    # A later run of one month leaves the others alone.
    take_revenue(db, world.a, issued=[line(4, "30/06/2026", "40")])
    assert len(snapshot(db, world.a)) == 3


def test_of_a_year_only_months_with_alerts_and_the_last_are_compared(
    db: Connection, world: World
) -> None:
    db.execute("update public.clients set omie_codigo = %s where id = %s", (CODE, world.a.client))
    take_revenue(db, world.a, issued=[line(1, "02/06/2026", "600")])
    run = start(db, world.a, "revenue", mode="full", month="2026-07-01", run=UUID(int=1))
    set_clock(db, "2026-08-02 12:00-03")
    stage(db, run, "issued", line(2, "02/01/2026", "900"), line(3, "02/07/2026", "700"))
    db.execute("select app.merge_erp_revenue(%s, %s, app.now())", (run["org_id"], run["id"]))
    finish(db, run)
    rows = db.execute(
        "select month::text, status, billed from public.reconciliation_alerts order by 1"
    ).fetchall()
    assert rows == [("2026-06-01", "solved", Decimal(0)), ("2026-07-01", "open", Decimal(700))]


def test_what_is_cancelled_counts_on_neither_basis(db: Connection, world: World) -> None:
    take_titles(db, world.a, titles=[TITLE | {"code": "3", "status": "CANCELADO"}])
    answer = take_revenue(
        db, world.a,
        issued=[
            line(1, "02/06/2026", "10", status="LIQUIDADO"), line(2, "02/06/2026", "20", status="CANCELADO"),
            line(3, "02/06/2026", "40"), line(4, "02/06/2026", "80"), line(5, "02/06/2026", "1", nature="P"),
        ],
        receipts=[line(101, "05/06/2026", "10", title="1"), line(102, "05/06/2026", "80", title="4")],
        cancelled=[{"code": "1"}],
    )  # fmt: skip
    assert counts(answer) == {"seen": 7, "created": 2, "skipped": 5}
    assert [row[2:] for row in snapshot(db, world.a)] == [
        ("issued", Decimal(80)),
        ("received", Decimal(80)),
    ]


def test_reading_a_month_again_replaces_it(db: Connection, world: World) -> None:
    take_revenue(db, world.a, issued=[line(1, "02/06/2026", "10"), line(2, "02/06/2026", "5", CODE + 1), line(3, "02/06/2026", "1", CODE + 2)])  # fmt: skip
    answer = take_revenue(
        db, world.a, issued=[line(1, "02/06/2026", "12"), line(3, "02/06/2026", "1", CODE + 2)]
    )
    assert counts(answer) == {"seen": 2, "updated": 1, "unchanged": 1, "deactivated": 1}
    assert [row[1::2] for row in snapshot(db, world.a)] == [
        (CODE, Decimal(12)),
        (CODE + 2, Decimal(1)),
    ]


def test_a_receipt_without_its_own_value_fails_and_is_never_the_titles_sum(
    db: Connection, world: World
) -> None:
    answer = take_revenue(db, world.a, receipts=[line(101, "02/06/2026", "", title="1"), line(102, "xx", "1"), line(103, "02/06/2026", "1", 0)])  # fmt: skip
    assert answer["failures"] == [
        {"row": "101", "reason": "amount_invalid"},
        {"row": "102", "reason": "date_invalid"},
        {"row": "103", "reason": "client_missing"},
    ]
    assert snapshot(db, world.a) == []


def test_alerts_are_compared_anew_after_each_run(db: Connection, world: World) -> None:
    db.execute("update public.clients set omie_codigo = %s where id = %s", (CODE, world.a.client))
    set_clock(db, "2026-05-01 12:00-03")
    db.execute(
        "insert into public.contracts (org_id, client_id, title, status, mrr, starts_on)"
        " values (%s, %s, 'Suporte', 'active', 1000, '2026-05-01')", (world.a.org, world.a.client)
    )  # fmt: skip
    set_clock(db, NOON)
    take_revenue(db, world.a, issued=[line(1, "02/06/2026", "600")])
    alerts = "select status, billed, resolution from public.reconciliation_alerts"
    assert one(db, alerts) == {"status": "open", "billed": Decimal(600), "resolution": None}
    take_revenue(db, world.a, issued=[line(1, "02/06/2026", "1000")])
    assert one(db, alerts) == {"status": "solved", "billed": Decimal(1000), "resolution": "gone"}
    db.execute("update public.clients set omie_codigo = null where id = %s", (world.a.client,))
    take_clients(db, world.a, client_row(CODE + 1))
    assert one(db, alerts) == {"status": "open", "billed": Decimal(0), "resolution": None}


def test_a_comparison_that_fails_leaves_the_run_partial_and_says_so(
    db: Connection, world: World
) -> None:
    db.execute(
        "create or replace function app.is_erp_month_known(org uuid, month date) returns boolean"
        " language sql stable set search_path = '' as $$ select 1 / 0 = 1 $$"
    )
    run = start(db, world.a, "clients")
    stage(db, run, "clients", client_row())
    merge(db, run)
    done = finish(db, run, seen=1)
    assert (done["status"], done["error"], done["seen"]) == (
        "partial",
        "reconciliation: division by zero",
        1,
    )
    assert client_of(db, world.a)


# --- News of webhooks ------------------------------------------------------------------------------


def news(
    db: Connection, org: Org, told_at: str, name: str = "titles", **fields: str
) -> dict[str, Any]:
    """Tell of a title, as a webhook does."""
    row = (TITLE if name == "titles" else MOVEMENT) | fields
    answer: dict[str, Any] = one(
        db, "select app.apply_erp_news(%s, %s, %s, %s) as a", org.org, name, json.dumps([row]), told_at
    )["a"]  # fmt: skip
    return answer


def test_older_news_of_a_title_does_not_undo_newer(db: Connection, world: World) -> None:
    news(db, world.a, "2026-07-15 11:00-03", amount="200")
    news(db, world.a, "2026-07-15 10:00-03", amount="100")
    assert title_of(db, world.a)["amount"] == 200
    again = news(db, world.a, "2026-07-15 11:00-03", amount="200")
    assert counts(again) == {"seen": 1, "unchanged": 1}
    assert db.execute("select count(*) from app.erp_sync_rows").fetchone() == (0,)


def test_news_older_than_the_last_reading_are_superseded(db: Connection, world: World) -> None:
    take_titles(db, world.a, titles=[TITLE])
    assert news(db, world.a, "2026-07-15 11:59-03", amount="1") == {"superseded": True}
    assert news(db, world.a, "2026-07-15 12:01-03", amount="1")["updated"] == 1


def test_a_reading_does_not_undo_what_a_webhook_told_meanwhile(
    db: Connection, world: World
) -> None:
    run = start(db, world.a, run=UUID(int=1))
    stage(db, run, "titles", TITLE)
    news(db, world.a, "2026-07-15 12:01-03", amount="900")
    assert counts(merge(db, run)) == {"seen": 1, "unchanged": 1}
    assert title_of(db, world.a)["amount"] == 900


def test_a_title_removed_in_the_erp_is_cancelled_once(db: Connection, world: World) -> None:
    news(db, world.a, "2026-07-15 11:00-03")
    remove = "select app.cancel_removed_erp_receivables(%s, %s, %s) as n"
    assert one(db, remove, world.a.org, [6290000001], "2026-07-15 10:00-03")["n"] == 0
    assert one(db, remove, world.a.org, [6290000001], "2026-07-15 11:30-03")["n"] == 1
    assert one(db, remove, world.a.org, [6290000001], "2026-07-15 11:45-03")["n"] == 0
    news(db, world.a, "2026-07-15 11:10-03")
    assert title_of(db, world.a)["status"] == "cancelled"


def test_the_moment_of_a_run_is_its_start(db: Connection, world: World) -> None:
    run = start(db, world.a, run=UUID(int=1))
    stage(db, run, "titles", TITLE)
    set_clock(db, "2026-07-15 13:00-03")
    merge(db, run)
    assert title_of(db, world.a)["synced_at"] == run["started_at"]
    assert run["started_at"] + timedelta(hours=1) == one(db, "select app.now() as n")["n"]


def test_a_title_finds_its_client_by_code_whichever_comes_first(
    db: Connection, world: World
) -> None:
    def linked() -> list[Any]:
        return [
            row[0]
            for row in db.execute(
                "select c.name from public.erp_receivables r left join public.clients c"
                " on c.org_id = r.org_id and c.id = r.client_id where r.org_id = %s order by r.title_number",
                (world.a.org,),
            ).fetchall()
        ]

    def title(number: int, code: int) -> None:
        db.execute(
            "insert into public.erp_receivables (org_id, title_number, omie_codigo, amount, open, due_on, status)"
            " values (%s, %s, %s, 10, 10, '2026-03-10', 'open')",
            (world.a.org, number, code),
        )

    def client(name: str, code: int) -> None:
        db.execute(
            "insert into public.clients (org_id, name, omie_codigo) values (%s, %s, %s)",
            (world.a.org, name, code),
        )

    client("Primeira", 71)
    title(1, 71)
    title(2, 72)
    assert linked() == ["Primeira", None]
    client("Segunda", 72)
    assert linked() == ["Primeira", "Segunda"]
