"""Synchronisation with Omie over the wire: every trap of its contract, and what stands in the database after it."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from nessos.errors import GiveUpError, RetryError, RuleError, WaitError
from nessos.omie import rows, sync
from tests.integrations.fakes.omie import BROKEN, FIRST_CODE, Answer, Call, Number, fault
from tests.integrations.omie import Connected

TODAY = datetime.now(UTC).date()
MONTH = (TODAY.replace(day=1) - timedelta(days=1)).replace(day=1)
OLD = date(2020, 1, 2)


def counted(row: dict[str, Any]) -> dict[str, int]:
    """Give the counts that are not 0."""
    return {name: row[name] for name in sync.COUNTS if row[name]}


def asked(omie: Connected, method: str) -> list[dict[str, Any]]:
    """Give what a method was asked for."""
    return [call.param for call in omie.fake.calls if call.method == method]


def clients(omie: Connected) -> list[dict[str, Any]]:
    """Give the clients that are linked with Omie."""
    return omie.rows("select * from clients where omie_codigo is not null order by omie_codigo")


def titles(omie: Connected) -> list[dict[str, Any]]:
    """Give the titles."""
    return omie.rows("select * from erp_receivables order by title_number")


# --- Pages -----------------------------------------------------------------------------------------


def test_all_pages_are_read_though_none_has_more_than_a_hundred_rows(omie: Connected) -> None:
    for number in range(250):
        omie.fake.add_client(number)
    row = omie.sync("clients", "full")
    assert (row["status"], counted(row)) == ("succeeded", {"seen": 250, "created": 250})
    assert [one["pagina"] for one in asked(omie, "ListarClientes")] == [1, 2, 3]
    assert clients(omie)[0]["omie_codigo"] == FIRST_CODE > 2**31
    omie.rest()
    assert counted(omie.sync("clients", "full")) == {"seen": 250, "unchanged": 250}


def test_an_empty_register_is_no_failure(omie: Connected) -> None:
    for entity in sync.ENTITIES:
        row = omie.sync(entity, "full")
        assert (row["status"], counted(row), row["error"]) == ("succeeded", {}, None)
        omie.rest()


def test_a_server_that_serves_the_first_page_again_ends_the_list(omie: Connected) -> None:
    for number in range(100):
        omie.fake.add_client(number)
    omie.fake.re_serves_first_page = True
    first = omie.fake.answer
    # It also says that there is one page more than there is.
    omie.fake.answer = lambda *given: _promise(first(*given))  # type: ignore[method-assign]
    row = omie.sync("clients", "full")
    assert (row["status"], counted(row)) == ("succeeded", {"seen": 100, "created": 100})


def _promise(answer: Answer) -> Answer:
    return Answer(
        answer.status, answer.body.replace(b'"total_de_paginas": 1', b'"total_de_paginas": 9')
    )


def test_a_row_that_moved_over_a_page_border_is_met_in_a_second_reading(omie: Connected) -> None:
    for number in range(250):
        omie.fake.add_client(number)

    def remove_one(call: Call) -> None:
        if call.param.get("pagina") == 2 and len(omie.fake.clients) == 250:
            del omie.fake.clients[FIRST_CODE + 7]

    omie.fake.before["ListarClientes"] = remove_one
    row = omie.sync("clients", "full")
    assert row["status"] == "succeeded"
    assert {one["omie_codigo"] for one in clients(omie)} == {FIRST_CODE + n for n in range(250)}
    sizes = [one["registros_por_pagina"] for one in asked(omie, "ListarClientes")]
    assert sizes == [100, 100, 100, 99, 99, 99], "the same request again would have been refused"
    omie.rest()
    omie.fake.before.clear()
    assert counted(omie.sync("clients", "full")) == {
        "seen": 249,
        "unchanged": 249,
        "deactivated": 1,
    }


def test_a_register_that_does_not_hold_still_deactivates_nobody(omie: Connected) -> None:
    for number in range(250):
        omie.fake.add_client(number)
    omie.sync("clients", "full")
    omie.rest()
    left = iter(range(250))

    def remove_one(call: Call) -> None:
        if call.param.get("pagina") == 2:
            del omie.fake.clients[FIRST_CODE + next(left)]

    omie.fake.before["ListarClientes"] = remove_one
    row = omie.sync("clients", "full")
    assert (row["status"], row["deactivated"]) == ("partial", 0)
    assert "changed while they were read" in row["error"]
    assert {one["status"] for one in clients(omie)} == {"active"}
    omie.fake.before.clear()
    omie.rest()
    assert counted(omie.sync("clients", "full")) == {
        "seen": 248,
        "unchanged": 248,
        "deactivated": 2,
    }


def test_a_client_skipped_while_another_was_added_is_asked_for_by_code(omie: Connected) -> None:
    for number in range(250):
        omie.fake.add_client(number)
    omie.sync("clients", "full")
    omie.rest()

    def swap(call: Call) -> None:
        # One leaves and one comes: the totals stay the same, and client 100 is on no page.
        if call.param.get("pagina") == 2:
            del omie.fake.clients[FIRST_CODE + 7]
            omie.fake.add_client(999)

    omie.fake.before["ListarClientes"] = swap
    row = omie.sync("clients", "full")
    assert (row["status"], row["deactivated"]) == ("succeeded", 0)
    wanted = asked(omie, "ListarClientes")[-1]["clientesPorCodigo"]
    assert wanted[0] == {"codigo_cliente_omie": FIRST_CODE + 100}
    assert len(wanted) == 2, "one that is there beside it: an empty answer counts as an error"
    assert {one["status"] for one in clients(omie)} == {"active"}


def test_a_broken_answer_in_the_middle_costs_a_minute_and_not_the_run(omie: Connected) -> None:
    for number in range(250):
        omie.fake.add_client(number)
    omie.fake.faults["ListarClientes"].extend([None, BROKEN])
    row = omie.sync("clients", "full")
    assert (row["status"], counted(row)) == ("succeeded", {"seen": 250, "created": 250})
    assert omie.waits == [61]
    assert [one["pagina"] for one in asked(omie, "ListarClientes")] == [1, 2, 2, 3]


def test_what_went_before_within_a_minute_is_waited_for_once(omie: Connected) -> None:
    for number in range(250):
        omie.fake.add_client(number)
    omie.sync("clients", "full")
    omie.rest()
    omie.fake.clock.advance(-55)
    omie.sync("clients", "full")
    assert len(omie.waits) == 1, "the pages after the first are as old as it"
    assert 50 < omie.waits[0] < 60


# --- Rows ------------------------------------------------------------------------------------------


def test_a_client_is_translated_and_a_bad_one_is_named_with_its_reason(omie: Connected) -> None:
    good = omie.fake.add_client(1, "11.222.333/0001-81", complemento="Sala 3")
    bad = omie.fake.add_client(2, "11.222.333/0001-80")
    omie.fake.add_client(3, tags=[{"tag": "Fornecedor"}])
    gone = omie.fake.add_client(4, inativo="S")
    row = omie.sync("clients", "full")
    assert (row["status"], row["error"]) == ("partial", None)
    assert counted(row) == {"seen": 4, "created": 2, "skipped": 1, "failed": 1}
    assert row["failures"] == [{"row": str(bad), "reason": "document_invalid"}]
    first, second = clients(omie)
    assert (first["omie_codigo"], first["document"], first["status"]) == (
        good,
        "11222333000181",
        "active",
    )
    assert (first["emails"], first["phones"]) == (
        ["financeiro@cliente-1.example"],
        ["+55 11 3333-0001"],
    )
    assert first["address"] == {
        "street": "Rua das Flores", "number": "1", "complement": "Sala 3", "district": "Centro",
        "city": "SAO PAULO", "state": "SP", "zip": "01310-100",
    }  # fmt: skip
    assert (second["omie_codigo"], second["status"]) == (gone, "inactive")


def test_a_row_that_is_not_what_it_should_be_fails_alone(omie: Connected) -> None:
    omie.fake.add_client(1)
    omie.fake.clients[2] = {"codigo_cliente_omie": 0, "info": {"dAlt": "02/01/2026"}}
    omie.fake.clients[3] = {
        "codigo_cliente_omie": None,
        "tags": "x",
        "info": {"dAlt": "02/01/2026"},
    }
    row = omie.sync("clients", "full")
    assert (row["status"], row["error"]) == ("partial", None)
    assert counted(row) == {"seen": 3, "created": 1, "failed": 2}
    assert row["failures"] == [
        {"row": "0", "reason": "code_invalid"},
        {"row": "", "reason": "code_invalid"},
    ]
    assert rows.client(["?"]) | {"code": "1"} == rows.client({"codigo_cliente_omie": 1})


def test_texts_that_postgres_does_not_take_are_mended(omie: Connected) -> None:
    omie.fake.add_client(1, razao_social="Padaria\x00 do Zé \ud83c", nome_fantasia="😀 ok")
    omie.sync("clients", "full")
    (row,) = clients(omie)
    assert (row["name"], row["trade_name"]) == ("Padaria do Zé \ufffd", "😀 ok")


def test_only_a_full_reading_finds_who_has_left(omie: Connected) -> None:
    for number in range(3):
        omie.fake.add_client(number)
    omie.sync("clients", "full")
    del omie.fake.clients[FIRST_CODE]
    omie.rest()
    assert counted(omie.sync("clients")) == {}
    assert {one["status"] for one in clients(omie)} == {"active"}
    omie.rest()
    assert counted(omie.sync("clients", "full")) == {"seen": 2, "unchanged": 2, "deactivated": 1}
    assert [one["status"] for one in clients(omie)] == ["inactive", "active", "active"]
    omie.fake.add_client(0)
    omie.rest()
    assert counted(omie.sync("clients", "full")) == {"seen": 3, "updated": 1, "unchanged": 2}


def test_an_incremental_run_asks_from_two_days_before_the_last(omie: Connected) -> None:
    omie.fake.add_client(1, info={"dAlt": f"{OLD:%d/%m/%Y}"})
    first = omie.sync("clients")
    assert (first["mode"], first["since"], first["created"]) == ("full", None, 1)
    omie.fake.add_client(2, info={"dAlt": f"{TODAY:%d/%m/%Y}"})
    omie.rest()
    second = omie.sync("clients")
    zone = timedelta(hours=-3)
    day = (first["started_at"] + zone).date() - timedelta(days=2)
    assert (second["mode"], second["since"], counted(second)) == (
        "incremental", day, {"seen": 1, "created": 1},
    )  # fmt: skip
    assert asked(omie, "ListarClientes")[-1]["filtrar_por_data_de"] == f"{day:%d/%m/%Y}"


def test_the_application_of_another_company_is_found_out_before_it_does_harm(
    omie: Connected,
) -> None:
    judged: tuple[sync.Entity, ...] = ("clients", "receivables")
    client = omie.fake.add_client(1)
    omie.fake.add_title(1, client, "10")
    for entity in judged:
        omie.sync(entity, "full")
        omie.rest()
    before = clients(omie), titles(omie)
    omie.fake.clients.clear()
    omie.fake.titles.clear()
    omie.fake.add_title(500, omie.fake.add_client(500), "10")
    for entity in judged:
        with pytest.raises(sync.StrangerError, match=f"none of the {entity} known here"):
            omie.sync(entity, "full")
        omie.rest()
    assert (clients(omie), titles(omie)) == before
    omie.execute("update clients set omie_codigo = null")
    assert counted(omie.sync("clients", "full")) == {"seen": 1, "created": 1}


def test_services_become_service_actions(omie: Connected) -> None:
    code = omie.fake.add_service(1, "Suporte técnico")
    omie.fake.add_service(2, "Antigo", info={"inativo": "S", "dAlt": "02/01/2026"})
    row = omie.sync("services")
    assert (row["mode"], counted(row)) == ("full", {"seen": 2, "created": 1, "skipped": 1})
    found = omie.rows("select title, slug, omie_servico_id from service_actions")
    assert found == [
        {"title": "Suporte técnico", "slug": "suporte-tecnico", "omie_servico_id": str(code)}
    ]


# --- Titles ----------------------------------------------------------------------------------------


def test_titles_have_status_and_due_day_from_one_list_and_payment_from_the_other(
    omie: Connected,
) -> None:
    client = omie.fake.add_client(1, "11.222.333/0001-81")
    omie.fake.add_title(1, client, "1500.50")
    partly = omie.fake.add_title(2, client, "100.10", status="ATRASADO")
    paid = omie.fake.add_title(3, client, "0.30")
    cancelled = omie.fake.add_title(4, client, "70")
    omie.fake.pay(partly, "50.05", date(2026, 7, 10))
    omie.fake.pay(paid, "0.10", date(2026, 7, 10))
    omie.fake.pay(paid, "0.20", date(2026, 7, 19))
    omie.fake.pay(cancelled, "70", date(2026, 7, 19))
    omie.fake.cancel(cancelled, date(2026, 7, 20))
    omie.fake.add_entry(1, "999", date(2026, 7, 1))
    row = omie.sync("receivables", "full")
    assert (row["status"], counted(row)) == ("succeeded", {"seen": 4, "created": 4})
    assert [(one["status"], one["paid"], one["open"], one["paid_on"]) for one in titles(omie)] == [
        ("open", Decimal(0), Decimal("1500.50"), None),
        ("partial", Decimal("50.05"), Decimal("50.05"), date(2026, 7, 10)),
        ("paid", Decimal("0.30"), Decimal(0), date(2026, 7, 19)),
        ("cancelled", Decimal(70), Decimal(0), date(2026, 7, 19)),
    ]
    assert titles(omie)[0]["due_on"] == date(2026, 7, 20)
    assert {one["cTpLancamento"] for one in asked(omie, "ListarMovimentos")} == {"CR"}
    assert {one["ordenar_por"] for one in asked(omie, "ListarContasReceber")} == {"CODIGO"}


def test_money_keeps_every_cent(omie: Connected) -> None:
    client = omie.fake.add_client(1)
    for number, amount in enumerate(("123456789012.34", "0.01", "4503599627370.49", "1e3")):
        omie.fake.add_title(number, client, "1", valor_documento=Number(amount))
    row = omie.sync("receivables", "full")
    assert [one["amount"] for one in titles(omie)] == [Decimal("123456789012.34"), Decimal("0.01")]
    assert [one["reason"] for one in row["failures"]] == ["amount_invalid", "amount_invalid"]


def test_an_incremental_run_reads_changed_titles_and_recent_payments(omie: Connected) -> None:
    client = omie.fake.add_client(1)
    old = omie.fake.add_title(1, client, "10", issued=OLD)
    late = omie.fake.add_title(2, client, "20", issued=OLD)
    omie.sync("receivables", "full")
    omie.rest()
    omie.fake.pay(late, "20", TODAY)
    # A payment that leaves the title's day of change alone.
    omie.fake.pay(old, "4", MONTH)
    omie.fake.titles[old]["info"] = {"dAlt": f"{OLD:%d/%m/%Y}"}
    omie.fake.add_title(3, client, "30", issued=TODAY)
    row = omie.sync("receivables")
    assert (row["mode"], counted(row)) == ("incremental", {"seen": 3, "created": 1, "updated": 2})
    assert [(one["status"], one["open"]) for one in titles(omie)] == [
        ("partial", Decimal(6)),
        ("paid", Decimal(0)),
        ("open", Decimal(30)),
    ]
    told = [set(one) - {"nPagina", "nRegPorPagina"} for one in asked(omie, "ListarMovimentos")[-2:]]
    assert told == [{"cTpLancamento", "dDtAltDe"}, {"cTpLancamento", "dDtPagtoDe"}]
    omie.fake.receipts.clear()
    for title in omie.fake.titles.values():
        title.update(status_titulo="A VENCER", info={"dAlt": f"{TODAY:%d/%m/%Y}"})
    omie.rest()
    assert counted(omie.sync("receivables")) == {"seen": 3, "updated": 2, "unchanged": 1}
    assert {one["status"] for one in titles(omie)} == {"open"}


def test_a_title_that_omie_deleted_is_cancelled_by_a_full_reading(omie: Connected) -> None:
    client = omie.fake.add_client(1)
    gone = omie.fake.add_title(1, client, "10")
    omie.fake.add_title(2, client, "20")
    omie.sync("receivables", "full")
    del omie.fake.titles[gone]
    omie.rest()
    assert counted(omie.sync("receivables", "full")) == {
        "seen": 1,
        "unchanged": 1,
        "deactivated": 1,
    }
    assert [(one["status"], one["open"]) for one in titles(omie)] == [
        ("cancelled", Decimal(0)),
        ("open", Decimal(20)),
    ]


# --- Revenue ---------------------------------------------------------------------------------------


def test_a_month_of_revenue_counts_each_title_and_each_receipt_once_in_its_own_month(
    omie: Connected,
) -> None:
    client, other = omie.fake.add_client(1), omie.fake.add_client(2)
    first = omie.fake.add_title(1, client, "100.10", issued=date(2026, 6, 30))
    second = omie.fake.add_title(2, client, "50", issued=date(2026, 7, 1))
    third = omie.fake.add_title(3, other, "7", issued=date(2026, 7, 31))
    dead = omie.fake.add_title(4, other, "1000", issued=date(2026, 7, 15))
    omie.fake.pay(first, "60.05", date(2026, 7, 1))
    omie.fake.pay(first, "40.05", date(2026, 7, 31))
    omie.fake.pay(second, "20", date(2026, 8, 1))
    omie.fake.pay(third, "7", date(2026, 6, 30))
    omie.fake.pay(dead, "1000", date(2026, 7, 16))
    omie.fake.cancel(dead, date(2026, 8, 3))
    omie.fake.add_entry(1, "5000", date(2026, 7, 2))
    row = omie.sync("revenue", month=date(2026, 7, 20))
    assert (row["status"], row["month"], counted(row)) == (
        "succeeded", date(2026, 7, 1), {"seen": 6, "created": 3, "skipped": 2},
    )  # fmt: skip
    found = omie.rows("select omie_codigo, basis, value from erp_revenue_snapshot order by 1, 2")
    assert [tuple(one.values()) for one in found] == [
        (client, "issued", Decimal(50)),
        (client, "received", Decimal("100.10")),
        (other, "issued", Decimal(7)),
    ]
    kinds = {one["cTpLancamento"] for one in asked(omie, "ListarMovimentos")}
    assert kinds == {"CR", "BXCR"}
    assert "filtrar_por_emissao_de" not in str(asked(omie, "ListarContasReceber"))


def test_revenue_whose_lists_move_is_not_stored_by_halves(omie: Connected) -> None:
    client = omie.fake.add_client(1)
    for number in range(250):
        omie.fake.add_title(number, client, "1")
    omie.sync("revenue", month=date(2026, 7, 1))
    before = omie.rows("select value, synced_at from erp_revenue_snapshot")
    left = list(omie.fake.titles)

    def remove_one(call: Call) -> None:
        if call.param.get("nPagina") == 2:
            del omie.fake.titles[left.pop(0)]

    omie.fake.before["ListarMovimentos"] = remove_one
    omie.rest()
    with pytest.raises(RetryError, match="changed while they were read"):
        omie.sync("revenue", month=date(2026, 7, 1))
    assert omie.rows("select value, synced_at from erp_revenue_snapshot") == before
    log = omie.rows("select status, error from erp_sync_log order by started_at desc limit 1")
    assert log[0]["status"] == "failed"


def test_a_year_of_revenue_is_few_requests_and_no_empty_one_per_month(omie: Connected) -> None:
    client = omie.fake.add_client(1)
    omie.fake.add_title(1, client, "5", issued=MONTH)
    row = omie.sync("revenue", "full")
    assert counted(row) == {"seen": 1, "created": 1}
    assert (row["since"], row["month"]) == ((MONTH - timedelta(days=334)).replace(day=1), MONTH)
    assert len(omie.fake.calls) == 3


# --- Runs ------------------------------------------------------------------------------------------


def test_a_dry_run_counts_like_a_real_one_and_writes_nothing(omie: Connected) -> None:
    for number in range(120):
        omie.fake.add_client(number)
    client = omie.fake.add_client(200, "11.222.333/0001-81")
    omie.fake.add_client(201, "11.222.333/0001-81")
    paid = omie.fake.add_title(1, client, "10", issued=MONTH)
    omie.fake.pay(paid, "10", MONTH)
    omie.fake.add_service(1, "Suporte")

    def state() -> list[dict[str, Any]]:
        tables = ("clients", "service_actions", "erp_receivables", "erp_revenue_snapshot", "erp_sync_log",
                  "module_events", "app.erp_sync_rows", "pgqueuer.pgqueuer")  # fmt: skip
        return [omie.rows(f"select md5(string_agg(t::text, '|' order by t::text)) as sum from {table} t")[0] for table in tables]  # fmt: skip

    before = state()
    dry = [omie.sync(entity, "full", is_dry_run=True) for entity in sync.ENTITIES]
    assert state() == before
    run_id = uuid4()
    real = [omie.sync(entity, "full", run_id=run_id) for entity in sync.ENTITIES]
    assert [counted(row) for row in dry] == [counted(row) for row in real]
    assert [counted(row) for row in real] == [
        {"seen": 122, "created": 121, "failed": 1},
        {"seen": 1, "created": 1},
        {"seen": 1, "created": 1},
        {"seen": 2, "created": 2},
    ]


def test_a_block_ends_the_run_and_holds_the_next_one_off_until_it_is_over(omie: Connected) -> None:
    for number in range(150):
        omie.fake.add_client(number)
    blocked = fault(
        "MISUSE_API_PROCESS",
        "API bloqueada por consumo indevido. Tente novamente em 1789 segundos.",
        425,
    )
    omie.fake.faults["ListarClientes"].extend([None, blocked])
    with pytest.raises(WaitError):
        omie.sync("clients", "full")
    (log,) = omie.rows("select * from erp_sync_log")
    assert (log["status"], log["error"]) == ("failed", log["error"])
    assert "blocked the method for misuse" in log["error"]
    assert timedelta(minutes=29) < log["next_at"] - log["finished_at"] < timedelta(minutes=30)
    assert clients(omie) == []
    with pytest.raises(RuleError, match="erp_sync_cooldown"):
        omie.sync("clients", "full")
    with pytest.raises(WaitError):
        omie.sync("clients", "full", run_id=log["run_id"])
    assert len(omie.fake.calls) == 2, "nobody calls during the block"
    assert omie.sync("services", run_id=log["run_id"])["status"] == "succeeded"


def test_another_run_is_refused_for_five_minutes_and_the_same_may_go_on(omie: Connected) -> None:
    run_id = uuid4()
    omie.sync("clients", run_id=run_id)
    omie.sync("services", run_id=run_id)
    with pytest.raises(RuleError) as refusal:
        omie.sync("receivables")
    assert (refusal.value.key, refusal.value.status) == ("erp_sync_cooldown", 429)
    assert "Not before" in (refusal.value.hint or "")


def test_a_fault_of_the_client_fails_the_run_without_another_try(omie: Connected) -> None:
    omie.fake.faults["ListarClientes"].append(fault("Client-5001", "Tag [X] não faz parte"))
    with pytest.raises(GiveUpError):
        omie.sync("clients")
    (log,) = omie.rows("select status, error, seen, finished_at from erp_sync_log")
    assert log["status"] == "failed"
    assert log["error"] == "Omie Client-5001: Tag [X] não faz parte"
    assert len(omie.fake.calls) == 1


def test_an_error_of_the_database_fails_the_run_and_frees_its_lock(omie: Connected) -> None:
    omie.fake.add_client(1)
    omie.execute(
        "alter function app.merge_erp_clients(uuid, uuid, timestamptz, bigint, integer) rename to gone"
    )
    with pytest.raises(Exception, match="does not exist"):
        omie.sync("clients")
    assert omie.rows("select status from erp_sync_log") == [{"status": "failed"}]
    assert omie.rows("select count(*) as n from app.erp_sync_rows") == [{"n": 0}]
    omie.execute(
        "alter function app.gone(uuid, uuid, timestamptz, bigint, integer) rename to merge_erp_clients"
    )
    omie.rest()
    assert omie.sync("clients")["status"] == "succeeded"


def test_progress_is_told_page_by_page(omie: Connected) -> None:
    for number in range(250):
        omie.fake.add_client(number)
    told: list[tuple[str, int, int]] = []
    omie.run(
        lambda app, pool: sync.synchronise(
            pool, app, run_id=uuid4(), entity="clients", tell=lambda *step: told.append(step)
        )
    )
    assert told == [("clients", 100, 250), ("clients", 200, 250), ("clients", 250, 250)]
