"""Webhooks of Omie: hints in any order, twice or never, which a reading of Omie puts right."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from nessos import http
from nessos.errors import GiveUpError
from nessos.jobs.entrypoint import Task
from nessos.webhooks import inbound
from tests.integrations.fakes.omie import FIRST_CODE
from tests.integrations.omie import Connected
from tests.integrations.outside import open_pool
from tests.people import WORLD
from tests.rules.test_webhooks_inbound import add_source, receive

CLIENT, TITLE = FIRST_CODE + 111, 6289226831
EVENT = {
    "codigo_lancamento_omie": TITLE,
    "codigo_lancamento_integracao": "",
    "codigo_cliente_fornecedor": CLIENT,
    "numero_documento": "OS-41",
    "numero_parcela": "001/001",
    "data_emissao": "2026-07-02T00:00:00-03:00",
    "data_vencimento": "2026-07-20T00:00:00-03:00",
    "valor_documento": 1500.5,
    "situacao": "A vencer",
}
PAID = {
    "codigo_baixa": 700100, "codigo_baixa_integracao": "", "codigo_cliente_fornecedor": CLIENT,
    "codigo_conta_corrente": 6288000001, "valor": 1500.5, "desconto": 0, "juros": 0, "multa": 0, "tarifa": 0,
    "data": "2026-07-19T00:00:00-03:00", "data_cred": "2026-07-19T00:00:00-03:00",
    "conta_a_receber": [
        {
            "codigo_lancamento_omie": TITLE, "numero_documento": "OS-41", "numero_parcela": "001/001",
            "valor_documento": 1500.5, "data_vencimento": "2026-07-20T00:00:00-03:00",
        }
    ],
}  # fmt: skip


class Hook:
    """The address that Omie sends to, and the worker behind it."""

    def __init__(self, omie: Connected) -> None:
        self.omie = omie
        self.db = psycopg.connect(omie.url, autocommit=True)
        self.source = add_source(self.db, WORLD.a, "omie")

    def arrive(self, topic: str | None, event: object = None, **fields: Any) -> UUID:
        """Have a webhook arrive; gives its id."""
        message = fields.pop("messageId", str(uuid4()))
        body: dict[str, Any] = {
            "messageId": message,
            "topic": topic,
            "event": event,
            "author": {"name": "x", "email": "x@example.com", "userId": 1},
            "appKey": self.omie.fake.app_key,
            "appHash": "slug",
            "origin": "omie-connect-1.6",
        } | fields
        raw = (
            fields.get("raw")
            or json.dumps({k: v for k, v in body.items() if v is not None}).encode()
        )
        self.said = receive(self.db, self.source, message, raw)
        row = self.db.execute(
            "select id from webhook_events where event_key = %s", (message,)
        ).fetchone()
        assert row
        return UUID(str(row[0]))

    def process(self, webhook: UUID) -> str:
        """Process one as the worker does; gives what was said."""

        async def go() -> str:
            async with open_pool(self.omie.url) as pool, http.client(pool) as client:
                return await inbound.process(
                    Task(
                        job_id=1,
                        entrypoint="webhook.process",
                        payload={"webhook_event_id": str(webhook)},
                        org_id=WORLD.a.org,
                        request_id=None,
                        attempt=1,
                        pool=pool,
                        http=client,
                    )
                )

        return asyncio.run(go())

    def send(self, topic: str | None, event: object = None, **fields: Any) -> str:
        """Have a webhook arrive and processed."""
        return self.process(self.arrive(topic, event, **fields))

    def title(self) -> dict[str, Any]:
        """Give the title."""
        (row,) = self.omie.rows("select * from erp_receivables where title_number = %s", TITLE)
        return row

    def waiting(self) -> list[tuple[str, float]]:
        """Give the readings that wait, and in how many minutes they begin."""
        return [
            (row["entrypoint"], row["minutes"])
            for row in self.omie.rows(
                "select entrypoint, round(extract(epoch from due_at - created_at) / 60) as minutes"
                " from app.waiting_jobs order by 1"
            )
        ]


@pytest.fixture
def hook(omie: Connected) -> Iterator[Hook]:
    """The address of organisation a, which is connected."""
    omie.connect()
    hook = Hook(omie)
    yield hook
    hook.db.close()


def test_the_ping_of_the_registration_is_no_failure(hook: Hook) -> None:
    assert hook.process(hook.arrive(None, raw=b'{"ping": "omie"}')) == "ignored: ping"
    assert hook.process(hook.arrive(None, raw=b'{"x": 1}')) == "ignored: no topic"


def test_the_webhook_of_another_application_is_rejected(hook: Hook) -> None:
    for key in ("", "1", None, ["38333295000"]):
        said = hook.send("Financas.ContaReceber.Incluido", EVENT, appKey=key)
        assert said == "rejected: appKey of another application"
    assert hook.omie.rows("select * from erp_receivables") == []
    said = hook.send("Financas.ContaReceber.Incluido", EVENT, appKey=int(hook.omie.fake.app_key))
    assert said == "1 of 1 titles changed"


def test_without_credentials_nothing_is_believed(hook: Hook) -> None:
    hook.omie.execute("delete from integration_credentials")
    assert hook.send("Financas.ContaReceber.Incluido", EVENT) == "ignored: not connected"


def test_a_new_title_is_stored_as_told_and_read_in_a_while_once_for_many(hook: Hook) -> None:
    assert hook.send("Financas.ContaReceber.Incluido", EVENT) == "1 of 1 titles changed"
    row = hook.title()
    assert (row["omie_codigo"], row["due_on"], row["issued_on"]) == (
        CLIENT,
        date(2026, 7, 20),
        date(2026, 7, 2),
    )
    assert (row["amount"], row["open"], row["status"]) == (
        Decimal("1500.50"),
        Decimal("1500.50"),
        "open",
    )
    hook.send("financas.contareceber.ALTERADO", EVENT | {"valor_documento": 900})
    assert hook.title()["amount"] == 900
    assert hook.waiting() == [("sync.omie.receivables", 15)]


def test_the_same_message_twice_has_one_effect(hook: Hook) -> None:
    key = str(uuid4())
    webhook = hook.arrive("Financas.ContaReceber.Incluido", EVENT, messageId=key)
    hook.process(webhook)
    before = hook.title()
    again = hook.arrive("Financas.ContaReceber.Incluido", EVENT, messageId=key)
    assert (again, hook.said) == (webhook, "repeated")
    assert hook.process(webhook) == "nothing left to do"
    assert hook.title() == before
    assert len(hook.waiting()) == 1


def test_a_webhook_processed_after_a_later_one_changes_nothing(hook: Hook) -> None:
    early = hook.arrive("Financas.ContaReceber.Incluido", EVENT | {"valor_documento": 1})
    late = hook.arrive("Financas.ContaReceber.Alterado", EVENT | {"valor_documento": 2})
    assert hook.process(late) == "1 of 1 titles changed"
    assert hook.process(early) == "0 of 1 titles changed"
    assert hook.title()["amount"] == 2


def test_a_webhook_older_than_the_last_reading_is_ignored(hook: Hook) -> None:
    hook.omie.fake.add_title(1, CLIENT, "7")
    early = hook.arrive("Financas.ContaReceber.Incluido", EVENT)
    hook.omie.sync("receivables", "full")
    assert hook.process(early) == "ignored: read since"
    assert hook.omie.rows("select count(*)::int as n from erp_receivables") == [{"n": 1}]


def test_a_write_off_comes_as_a_list_and_settles_its_title(hook: Hook) -> None:
    hook.send("Financas.ContaReceber.Incluido", EVENT)
    assert hook.send("Financas.ContaReceber.BaixaRealizada", [PAID]) == "1 of 1 titles changed"
    row = hook.title()
    assert (row["status"], row["paid"], row["open"], row["paid_on"]) == (
        "paid", Decimal("1500.50"), Decimal(0), date(2026, 7, 19),
    )  # fmt: skip
    assert hook.send("Financas.ContaReceber.BaixaRealizada", [PAID]) == "0 of 1 titles changed"
    assert hook.title()["paid"] == Decimal("1500.50")


def test_a_write_off_of_a_title_never_heard_of_makes_it(hook: Hook) -> None:
    hook.send("Financas.ContaReceber.BaixaRealizada", [PAID | {"valor": 1400, "desconto": 100.5}])
    assert (hook.title()["status"], hook.title()["paid"]) == ("paid", Decimal(1400))


@pytest.mark.parametrize(
    "event",
    [
        PAID | {"valor": 500},
        PAID | {"valor": "x"},
        PAID | {"conta_a_receber": PAID["conta_a_receber"] * 2},  # type: ignore[operator]
        PAID | {"conta_a_receber": None},
        PAID | {"conta_a_receber": ["?"]},
        "?",
    ],
)
def test_what_a_part_payment_leaves_only_a_reading_tells(hook: Hook, event: object) -> None:
    hook.send("Financas.ContaReceber.Incluido", EVENT)
    before = hook.title()
    hook.omie.execute("delete from app.waiting_jobs")
    assert hook.send("Financas.ContaReceber.BaixaRealizada", [event]) == "titles to be read"
    assert hook.title() == before
    assert hook.waiting() == [("sync.omie.receivables", 15)]


def test_a_payment_taken_back_is_read(hook: Hook) -> None:
    assert hook.send("Financas.ContaReceber.BaixaCancelada", [PAID]) == "titles to be read"
    assert hook.waiting() == [("sync.omie.receivables", 15)]


def test_a_deleted_title_is_cancelled(hook: Hook) -> None:
    hook.send("Financas.ContaReceber.Incluido", EVENT)
    assert (
        hook.send("Financas.ContaReceber.Excluido", {"codigo_lancamento_omie": TITLE})
        == "1 titles cancelled"
    )
    row = hook.title()
    assert (row["status"], row["open"], row["vanished_at"] is None) == (
        "cancelled",
        Decimal(0),
        False,
    )
    assert (
        hook.send("Financas.ContaReceber.Excluido", {"codigo_lancamento_omie": TITLE})
        == "0 titles cancelled"
    )
    assert (
        hook.send("Financas.ContaReceber.Excluido", {"codigo_lancamento_omie": "x"})
        == "0 titles cancelled"
    )


def test_clients_are_read_when_told_of_and_inactive_when_deleted(hook: Hook) -> None:
    hook.omie.fake.add_client(111)
    hook.omie.sync("clients", "full")
    for topic in ("ClienteFornecedor.Incluido", "ClienteFornecedor.Alterado"):
        assert hook.send(topic, {"codigo_cliente_omie": CLIENT}) == "clients to be read"
    assert hook.waiting() == [("sync.omie.clients", 15)]
    assert (
        hook.send("ClienteFornecedor.Excluido", {"codigo_cliente_omie": CLIENT})
        == "1 clients made inactive"
    )
    (row,) = hook.omie.rows("select status from clients where omie_codigo = %s", CLIENT)
    assert row["status"] == "inactive"
    assert (
        hook.send("ClienteFornecedor.Excluido", {"codigo_cliente_omie": CLIENT})
        == "0 clients made inactive"
    )


@pytest.mark.parametrize("topic", ["OrdemServico.Faturada", "NFe.NotaAutorizada", "Financas.ContaReceber.BoletoGerado", "Financas.ContaPagar.Incluido"])  # fmt: skip
def test_what_concerns_nothing_here_is_ignored(hook: Hook, topic: str) -> None:
    event = {"idOrdemServico": 1, "dataFaturado": "17/07/2026"}
    assert hook.send(topic, event) == f"ignored: {topic.lower()}"
    assert hook.waiting() == []


@pytest.mark.parametrize("raw", [b"", b"<html>", b"[1]", b"\xff", b"[" * 100_000])
def test_a_body_that_omie_never_sends_is_held(hook: Hook, raw: bytes) -> None:
    with pytest.raises(GiveUpError, match="no JSON object"):
        hook.process(hook.arrive(None, raw=raw or b" "))


def test_the_reading_that_follows_has_the_last_word(hook: Hook) -> None:
    omie = hook.omie
    code = omie.fake.add_title(1, CLIENT, "1000", changed=datetime.now(UTC).date())
    hook.send(
        "Financas.ContaReceber.Alterado",
        EVENT | {"codigo_lancamento_omie": code, "valor_documento": 1},
    )
    (row,) = omie.rows("select amount, synced_at from erp_receivables")
    assert row["amount"] == 1
    assert datetime.now(UTC) - row["synced_at"] < timedelta(minutes=5)
    omie.job("sync.omie.receivables")
    assert omie.rows("select amount::int as amount from erp_receivables") == [{"amount": 1000}]


def test_after_a_replay_of_everything_the_titles_are_the_same(hook: Hook) -> None:
    told = [
        hook.arrive("Financas.ContaReceber.Incluido", EVENT),
        hook.arrive(
            "Financas.ContaReceber.Alterado",
            EVENT | {"valor_documento": 1500.5, "numero_documento": "OS-42"},
        ),
        hook.arrive("Financas.ContaReceber.BaixaRealizada", [PAID]),
    ]
    for webhook in told:
        hook.process(webhook)
    before = hook.title()
    for webhook in reversed(told):
        hook.omie.execute("select app.replay_webhook_event(%s, %s)", WORLD.a.org, webhook)
        hook.process(webhook)
    assert hook.title() == before
