"""Omie in the worker, at the command line, in several processes, and killed in the middle."""

import json
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from nessos.errors import GiveUpError, WaitError
from tests.integrations.fakes.omie import FIRST_CODE, Call, fault
from tests.integrations.omie import Connected
from tests.people import WORLD

NOW = datetime.now(UTC)


def logged(omie: Connected, columns: str = "entity, mode, status") -> list[dict[str, Any]]:
    """Give the log of runs, oldest first."""
    return omie.rows(f"select {columns} from erp_sync_log order by started_at, id")


def end(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Wait for a command; gives its exit code and what it said."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def fill(omie: Connected, clients: int = 150) -> None:
    """Have Omie hold some of everything."""
    for number in range(clients):
        omie.fake.add_client(number)
    month = (NOW.date().replace(day=1) - timedelta(days=1)).replace(day=1)
    title = omie.fake.add_title(1, FIRST_CODE, "100", issued=month)
    omie.fake.pay(title, "100", month)
    omie.fake.add_service(1, "Suporte")


# --- The worker's jobs -----------------------------------------------------------------------------


def test_without_credentials_a_job_ends_at_once(omie: Connected) -> None:
    assert omie.job("sync.omie.full") == "not connected"
    assert (omie.fake.calls, logged(omie)) == ([], [])


def test_each_job_reads_its_part(omie: Connected) -> None:
    fill(omie)
    omie.connect()
    said = []
    for number, name in enumerate(("clients", "receivables", "revenue")):
        said.append(omie.job(f"sync.omie.{name}", number=number))
        omie.rest()
    assert said == [
        "clients succeeded: 150 seen, services succeeded: 1 seen",
        "receivables succeeded: 1 seen",
        "revenue succeeded: 2 seen",
    ]
    assert omie.rows("select count(*)::int as n from clients where omie_codigo is not null") == [
        {"n": 150}
    ]
    assert omie.rows("select basis, value::int as value from erp_revenue_snapshot order by 1") == [
        {"basis": "issued", "value": 100},
        {"basis": "received", "value": 100},
    ]


def test_the_full_job_reads_everything_and_a_year_of_revenue(omie: Connected) -> None:
    fill(omie, clients=3)
    omie.connect()
    assert "revenue succeeded" in (omie.job("sync.omie.full") or "")
    rows = logged(omie, "entity, mode, status, since, month, run_id")
    assert [row["entity"] for row in rows] == ["clients", "services", "receivables", "revenue"]
    assert {(row["mode"], row["status"]) for row in rows} == {("full", "succeeded")}
    assert len({row["run_id"] for row in rows}) == 1
    first, last = rows[-1]["since"], rows[-1]["month"]
    assert (last.year - first.year) * 12 + last.month - first.month == 11
    assert last == (NOW.date().replace(day=1) - timedelta(days=1)).replace(day=1)


def test_a_job_that_runs_again_goes_on_where_it_failed(omie: Connected) -> None:
    fill(omie, clients=3)
    omie.connect()
    run_id = uuid4()
    omie.fake.faults["ListarContasReceber"].append(fault("Client-1000", "Tag obrigatória"))
    with pytest.raises(GiveUpError):
        omie.job("sync.omie.full", run_id=run_id)
    calls = len(omie.fake.calls)
    said = omie.job("sync.omie.full", run_id=run_id)
    assert said is not None
    assert said.startswith("clients done before, services done before, receivables succeeded")
    assert "ListarClientes" not in {call.method for call in omie.fake.calls[calls:]}


def test_a_job_waits_for_another_run_and_for_the_cooldown(omie: Connected) -> None:
    fill(omie, clients=3)
    omie.connect()
    omie.job("sync.omie.clients", number=1)
    with pytest.raises(WaitError) as caught:
        omie.job("sync.omie.receivables", number=2)
    next_at = max(row["next_at"] for row in logged(omie, "next_at"))
    assert caught.value.until == next_at
    omie.rest()
    with psycopg.connect(omie.url, autocommit=True) as other:
        other.execute(
            "select app.start_erp_sync(%s, %s, 'receivables', 'full')", (omie.org_id, uuid4())
        )
        with pytest.raises(WaitError) as caught:
            omie.job("sync.omie.receivables", number=3)
    assert timedelta(0) < caught.value.until - datetime.now(UTC) <= timedelta(seconds=60)


def test_of_a_suspended_organisation_a_job_reads_nothing(omie: Connected) -> None:
    omie.connect()
    omie.execute("update organizations set status = 'suspended' where id = %s", omie.org_id)
    assert (
        omie.job("sync.omie.receivables") == "receivables not read: the organisation is not active"
    )


def test_the_timetable_runs_for_connected_organisations_only(omie: Connected) -> None:
    assert omie.rows("select app.omie_org_ids() as orgs") == [{"orgs": []}]
    omie.connect()
    omie.connect(WORLD.b.org)
    omie.execute("update organizations set status = 'inactive' where id = %s", WORLD.b.org)
    assert omie.rows("select app.omie_org_ids() as orgs") == [{"orgs": [omie.org_id]}]


def test_a_failed_run_is_told_to_those_who_look_after_the_data(omie: Connected) -> None:
    omie.connect()
    omie.fake.faults["ListarClientes"].append(fault("Client-4", "Chave de acesso inválida"))
    with pytest.raises(GiveUpError):
        omie.job("sync.omie.clients")
    (row,) = logged(omie, "status, error")
    assert row["status"] == "failed"
    assert "Chave de acesso inválida" in row["error"]
    events = omie.rows(
        "select event_type from module_events where entity_type = 'erp_sync' order by 1"
    )
    assert [one["event_type"] for one in events] == ["erp_sync.created", "erp_sync.failed"]
    told = omie.rows("select recipient_id, body from notifications where template = 'sync_failed'")
    assert WORLD.a.member("finance") not in {one["recipient_id"] for one in told}, (
        "reads data, no more"
    )
    assert WORLD.a.member("owner") in {one["recipient_id"] for one in told}
    assert "Omie" in told[0]["body"]


# --- The command line ------------------------------------------------------------------------------


def test_the_command_reads_everything_and_shows_what_it_did(omie: Connected) -> None:
    fill(omie)
    omie.connect()
    code, out, err = end(omie.command("--org", "alfa"))
    assert (code, err.splitlines()[:2]) == (0, ["100/150 clients", "150/150 clients"])
    lines = [line.split() for line in out.splitlines() if " succeeded " in line]
    assert [line[0] for line in lines] == ["clients", "services", "receivables", "revenue"]
    assert lines[0] == ["clients", "full", "succeeded", "150", "150", "0", "0", "0", "0", "0"]


def test_the_command_names_the_rows_that_failed_and_ends_partial(omie: Connected) -> None:
    bad = omie.fake.add_client(1, "123")
    omie.connect()
    code, out, err = end(omie.command("--org", "alfa", "--entity", "clients"))
    assert code == 3
    assert str(bad) in out
    assert "document_invalid" in out
    assert err.splitlines()[-1].startswith(
        "error: some rows could not be taken → mend them in Omie"
    )


def test_a_dry_run_of_the_command_shows_the_same_and_leaves_nothing(omie: Connected) -> None:
    fill(omie)
    omie.connect()
    code, out, _ = end(omie.command("--org", "alfa", "--dry-run", "--json"))
    assert code == 0
    assert [(row["entity"], row["created"]) for row in json.loads(out)] == [
        ("clients", 150), ("services", 1), ("receivables", 1), ("revenue", 2),
    ]  # fmt: skip
    assert logged(omie) == []
    assert omie.rows("select count(*)::int as n from clients where omie_codigo is not null") == [
        {"n": 0}
    ]


def test_what_one_method_refuses_does_not_keep_the_others_from_being_read(omie: Connected) -> None:
    fill(omie, clients=3)
    omie.connect()
    omie.fake.faults["ListarContasReceber"].extend([fault("Client-1000", "Tag obrigatória"), None])
    code, out, err = end(omie.command("--org", "alfa"))
    assert code == 3
    assert "receivables failed: Omie Client-1000: Tag obrigatória" in err
    assert [line.split()[0] for line in out.splitlines() if " succeeded " in line] == [
        "clients", "services", "revenue",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (
            ("--org", "beta"),
            2,
            "beta is not connected with Omie → nessos integrations set omie --org beta",
        ),
        (("--org", "nowhere"), 2, "there is no organisation nowhere"),
        (("--org", "alfa", "--entity", "products"), 2, "there is no products → one of clients, "),
    ],
)
def test_a_mistake_is_one_line_with_the_way_out(
    omie: Connected, arguments: tuple[str, ...], code: int, words: str
) -> None:
    omie.connect()
    ended, _, err = end(omie.command(*arguments))
    assert (ended, err.count("\n")) == (code, 1)
    assert words in err


def test_soon_after_a_run_the_command_is_refused_and_says_until_when(omie: Connected) -> None:
    omie.connect()
    assert end(omie.command("--org", "alfa", "--entity", "services"))[0] == 0
    code, _, err = end(omie.command("--org", "alfa"))
    assert code == 1
    assert err.startswith(
        "error: erp_sync_cooldown: The ERP was asked a moment ago. → Not before 20"
    )


# --- Several processes, and dead ones --------------------------------------------------------------


class Gate:
    """Holds a call of a method back until it is opened."""

    def __init__(self, omie: Connected, method: str, page: int) -> None:
        self.arrived, self.opened = threading.Event(), threading.Event()
        self.page = page
        omie.fake.before[method] = self.hold

    def hold(self, call: Call) -> None:
        """Hold one page."""
        if call.param.get("pagina", call.param.get("nPagina")) == self.page:
            self.arrived.set()
            assert self.opened.wait(120)


def forget_the_dead(omie: Connected) -> None:
    """Let the time pass after which the permits of a dead process lapse."""
    omie.execute("update app.call_slots set call_id = null, free_at = '-infinity'")


def test_a_second_process_is_refused_while_the_first_reads(omie: Connected) -> None:
    fill(omie)
    omie.connect()
    gate = Gate(omie, "ListarClientes", 2)
    first = omie.command("--org", "alfa", "--entity", "clients")
    assert gate.arrived.wait(60)
    code, _, err = end(omie.command("--org", "alfa", "--entity", "clients"))
    gate.opened.set()
    assert code == 1
    assert err.startswith("error: erp_sync_running: clients are being synchronised.")
    assert end(first)[0] == 0
    assert logged(omie, "status, created") == [{"status": "succeeded", "created": 150}]


def test_two_organisations_with_one_application_take_turns_over_processes(omie: Connected) -> None:
    fill(omie, clients=450)
    omie.fake.is_strict = (
        False  # they ask the same within a minute; who runs beside whom still counts
    )
    for org in (WORLD.a.org, WORLD.b.org):
        omie.connect(org)
    both = [omie.command("--org", slug, "--entity", "clients") for slug in ("alfa", "beta")]
    assert [end(one)[0] for one in both] == [0, 0]
    assert omie.fake.most_running == 1
    assert len(omie.fake.calls) == 10, "no call was refused and made again"
    found = omie.rows(
        "select count(*)::int as n from clients where omie_codigo is not null group by org_id"
    )
    assert found == [{"n": 450}, {"n": 450}]


def test_a_process_killed_while_it_reads_leaves_nothing_and_the_next_finds_it_dead(
    omie: Connected,
) -> None:
    fill(omie)
    omie.connect()
    gate = Gate(omie, "ListarClientes", 2)
    dead = omie.command("--org", "alfa", "--entity", "clients")
    assert gate.arrived.wait(60)
    dead.kill()
    dead.communicate()
    gate.opened.set()
    assert omie.rows("select count(*)::int as n from clients where omie_codigo is not null") == [
        {"n": 0}
    ]
    forget_the_dead(omie)
    code, _, err = end(omie.command("--org", "alfa", "--entity", "clients"))
    assert code == 0, err
    assert logged(omie, "status, error, created, next_at is null as is_free") == [
        {
            "status": "failed",
            "error": "interrupted: its process ended",
            "created": 0,
            "is_free": True,
        },
        {"status": "succeeded", "error": None, "created": 150, "is_free": False},
    ]
    assert omie.rows("select count(*)::int as n from app.erp_sync_rows") == [{"n": 0}]


def test_a_process_killed_while_it_writes_has_written_whole_chunks_and_the_next_finds_them(
    omie: Connected,
) -> None:
    for number in range(1100):
        omie.fake.add_client(number)
    omie.connect()
    # A row that another transaction holds: the second chunk waits for it.
    with (
        psycopg.connect(omie.url) as blocker,
        psycopg.connect(omie.url, autocommit=True) as watcher,
    ):
        blocker.execute(
            "insert into clients (org_id, name, omie_codigo) values (%s, 'Bloqueio', %s)",
            (omie.org_id, FIRST_CODE + 1050),
        )
        dead = omie.command("--org", "alfa", "--entity", "clients")
        waiting = "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        while not (found := watcher.execute(waiting).fetchall()):
            assert dead.poll() is None
        dead.kill()
        dead.communicate()
        watcher.execute("select pg_terminate_backend(%s, 30000)", found[0])
        assert watcher.execute(
            "select count(*) from clients where omie_codigo is not null"
        ).fetchone() == (1000,)
        blocker.rollback()
    code, _, err = end(omie.command("--org", "alfa", "--entity", "clients"))
    assert code == 0, err
    assert logged(omie, "status, created, unchanged") == [
        {"status": "failed", "created": 0, "unchanged": 0},
        {"status": "succeeded", "created": 100, "unchanged": 1000},
    ]
