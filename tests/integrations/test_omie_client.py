"""Omie's faults, each at its own status, and what a client makes of them."""

import asyncio
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import httpx
import pytest

from nessos.errors import GiveUpError, RetryError, UpstreamError, WaitError
from nessos.omie import client
from nessos.omie.client import DuplicateError, EmptyError, NotFoundError
from tests.integrations.fakes.omie import BROKEN, EMPTY, Answer, fault
from tests.integrations.omie import Connected

REDUNDANT = fault("Client-6", "Consumo redundante detectado. Aguarde 42 segundos. (REDUNDANT)")
CONCURRENT = fault("Client-1880", "Já existe uma requisição desse método sendo executada")
MISUSE = fault(
    "MISUSE_API_PROCESS",
    "API bloqueada por consumo indevido. Tente novamente em 1789 segundos.",
    425,
)


def verdict(answer: Answer) -> UpstreamError | None:
    """Judge an answer."""
    return client.judge(httpx.Response(answer.status, content=answer.body))


def wait_s(error: UpstreamError | None) -> float:
    """Say how long an error asks to wait."""
    assert isinstance(error, WaitError)
    return (error.until - datetime.now(UTC)).total_seconds()


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        ("Client-5113", "Não existem registros para a página [3]!", EmptyError),
        ("Client-101", "Nenhuma OS foi encontrada", NotFoundError),
        ("Client-103", "Não encontrado", NotFoundError),
        ("Client-105", "Cliente não cadastrado para o Código [1]", NotFoundError),
        ("Client-5002", "Não encontrado", NotFoundError),
        ("Client-102", "Cliente já cadastrado", DuplicateError),
        ("Client-9", "Cliente já cadastrado para o CPF/CNPJ [1] com o Id [2]", DuplicateError),
        ("Client-5001", "Tag [X] não faz parte da estrutura", GiveUpError),
        ("Client-1000", "Tag obrigatória", GiveUpError),
        ("Client-1002", "Tag obrigatória", GiveUpError),
        ("Client-71", "Não foram informados parâmetros", GiveUpError),
        ("Client-4", "Chave de acesso inválida", GiveUpError),
        ("Server", "Broken response from Application Server", RetryError),
        ("Client-6", "Consumo redundante detectado. Aguarde 42 segundos", WaitError),
        ("Client-1880", "Já existe uma requisição desse método sendo executada", WaitError),
        ("Client-8020", "está sendo processada, tentar novamente às 10:00:00", WaitError),
        ("Client-1100", "está sendo processada, tentar novamente às 10:00:00", WaitError),
    ],
)
def test_a_fault_is_read_from_the_body_whatever_the_status(
    status: int, code: str, text: str, kind: type[UpstreamError]
) -> None:
    error = verdict(fault(code, text, status))
    assert type(error) is kind
    assert code in str(error)


def test_the_waits_are_those_omie_names() -> None:
    assert 41 < wait_s(verdict(REDUNDANT)) < 44
    assert 4 < wait_s(verdict(CONCURRENT)) < 10
    assert 1780 < wait_s(verdict(MISUSE)) < 1791
    assert 1700 < wait_s(verdict(Answer(425, b"<html>"))) < 1801
    assert 50 < wait_s(verdict(fault("Client-429", "Too many requests", 429))) < 61
    assert 50 < wait_s(verdict(Answer(429, b"{}"))) < 61


def test_only_a_block_or_a_limit_stops_everybody_else() -> None:
    answers = {REDUNDANT: False, CONCURRENT: False, MISUSE: True, Answer(429, b"{}"): True}
    for answer, is_account_wide in answers.items():
        error = verdict(answer)
        assert isinstance(error, WaitError)
        assert error.is_account_wide is is_account_wide


def test_a_time_of_day_is_sao_paulos_and_never_past() -> None:
    soon = datetime.fromtimestamp(datetime.now(UTC).timestamp() + 90, ZoneInfo("America/Sao_Paulo"))
    assert 80 < wait_s(verdict(fault("Client-8020", f"novamente às {soon:%H:%M:%S}"))) < 91
    past = datetime.fromtimestamp(datetime.now(UTC).timestamp() - 90, ZoneInfo("America/Sao_Paulo"))
    assert 0 < wait_s(verdict(fault("Client-8020", f"novamente às {past:%H:%M:%S}"))) < 2
    assert 0 < wait_s(verdict(fault("Client-8020", "novamente às 99:99:99"))) < 10


@pytest.mark.parametrize("answer", [BROKEN, EMPTY, Answer(200, b"<html>"), Answer(502, b"[]"), Answer(200, b"\xff\xfe")])  # fmt: skip
def test_what_is_no_json_object_may_work_later(answer: Answer) -> None:
    assert isinstance(verdict(answer), RetryError)


def test_a_refusal_in_a_good_answer_is_one() -> None:
    refused = Answer(200, b'{"codigo_status": "3", "descricao_status": "n\\u00e3o 52998224725"}')
    error = verdict(refused)
    assert isinstance(error, GiveUpError)
    assert "52998224725" not in str(error)
    assert verdict(Answer(200, b'{"codigo_status": "0"}')) is None
    assert verdict(Answer(200, b'{"cCodStatus": "0"}')) is None


def test_an_error_quotes_no_document() -> None:
    text = "Cliente já cadastrado para o CPF/CNPJ [11.222.333/0001-81] com o Id [6289000111]"
    error = verdict(fault("Client-102", text))
    assert "11.222.333" not in str(error)
    assert "com o Id" in str(error)


def call(omie: Connected, **param: object) -> dict[str, object]:
    """List clients."""
    return omie.run(
        lambda app, _pool: app.call(
            path="geral/clientes/",
            method="ListarClientes",
            param={"pagina": 1, "registros_por_pagina": 50, **param},
        )
    )


def test_a_path_without_its_slash_is_redirected_and_the_post_is_lost(omie: Connected) -> None:
    omie.fake.add_client(1)
    assert call(omie)["total_de_registros"] == 1
    with pytest.raises(GiveUpError, match="301"):
        omie.run(
            lambda app, _pool: app.call(path="geral/clientes", method="ListarClientes", param={})
        )


def test_an_unknown_parameter_is_an_error_and_not_tried_again(omie: Connected) -> None:
    with pytest.raises(GiveUpError, match="5001"):
        call(omie, cidade="SAO PAULO")
    assert len(omie.fake.calls) == 1
    assert omie.waits == []


def test_the_same_request_within_a_minute_waits_as_long_as_omie_says(omie: Connected) -> None:
    omie.fake.add_client(1)
    call(omie)
    omie.fake.clock.advance(18)
    assert call(omie)["total_de_registros"] == 1
    assert [42 <= wait <= 44 for wait in omie.waits] == [True]


def test_after_a_broken_answer_the_same_request_waits_until_it_is_not_redundant(
    omie: Connected,
) -> None:
    omie.fake.add_client(1)
    omie.fake.faults["ListarClientes"].extend([BROKEN, EMPTY])
    assert call(omie)["total_de_registros"] == 1
    assert omie.waits == [61, 61]
    assert len(omie.fake.calls) == 3, "no try was wasted on a redundant request"


def test_patience_has_an_end(omie: Connected) -> None:
    omie.fake.faults["ListarClientes"].extend([BROKEN] * 9)
    with pytest.raises(RetryError):
        call(omie)
    assert len(omie.fake.calls) == 4


def test_a_concurrent_request_is_waited_for(omie: Connected) -> None:
    omie.fake.add_client(1)
    omie.fake.faults["ListarClientes"].append(CONCURRENT)
    omie.fake.is_strict = False
    assert call(omie)["total_de_registros"] == 1
    assert [5 <= wait <= 10 for wait in omie.waits] == [True]


def test_a_block_opens_the_circuit_of_the_method_for_all_and_nobody_calls_meanwhile(
    omie: Connected,
) -> None:
    omie.fake.add_service(1, "Suporte")
    with pytest.raises(GiveUpError):
        call(omie, cidade="X")
    for number in range(9):
        with pytest.raises(GiveUpError):
            call(omie, cidade=f"X {number}")
    for _ in range(3):
        with pytest.raises(WaitError) as caught:
            call(omie)
        assert 1700 < wait_s(caught.value) < 2000
    assert len(omie.fake.calls) == 11, "each call would have made the block longer"
    services = omie.run(
        lambda app, _pool: app.call(
            path="servicos/servico/",
            method="ListarCadastroServico",
            param={"nPagina": 1, "nRegPorPagina": 50},
        )
    )
    assert services["nTotRegistros"] == 1


def test_a_wrong_key_is_not_tried_again(omie: Connected) -> None:
    omie.fake.app_secret = "another"  # noqa: S105 - opens nothing
    seen: list[object] = []

    async def go(app: client.Omie, _pool: object) -> None:
        omie.fake.app_key, key = "1", omie.fake.app_key
        try:
            await app.call(path="geral/clientes/", method="ListarClientes", param={})
        except GiveUpError as error:
            seen.append(error)
        omie.fake.app_key = key

    omie.run(go)
    assert "nessos integrations set omie" in str(seen[0])
    assert len(omie.fake.calls) == 1


def test_two_callers_of_one_method_take_turns(omie: Connected) -> None:
    omie.fake.add_client(1)

    async def go(app: client.Omie, _pool: object) -> None:
        await asyncio.gather(
            *(
                app.call(
                    path="geral/clientes/",
                    method="ListarClientes",
                    param={"pagina": 1, "registros_por_pagina": size},
                )
                for size in range(1, 9)
            )
        )

    omie.run(go)
    assert (len(omie.fake.calls), omie.fake.most_running) == (8, 1)


def test_pages_end_with_the_last_whatever_comes_after(omie: Connected) -> None:
    for number in range(250):
        omie.fake.add_client(number)
    omie.fake.re_serves_first_page = True

    async def read(app: client.Omie, _pool: object) -> list[tuple[int, int]]:
        return [
            (page.number, len(page.rows)) async for page in app.pages(client.CLIENTS, {}, size=500)
        ]

    assert omie.run(read) == [(1, 100), (2, 100), (3, 50)]
    assert {one.param["registros_por_pagina"] for one in omie.fake.calls} == {500}


def test_an_empty_list_has_no_pages(omie: Connected) -> None:
    async def read(app: client.Omie, _pool: object) -> list[object]:
        return [page async for page in app.pages(client.MOVEMENTS, {"cTpLancamento": "CR"})]

    assert omie.run(read) == []
    omie.fake.faults["ListarMovimentos"].append(
        Answer(200, b'{"nTotPaginas": 1, "movimentos": []}')
    )
    omie.fake.clock.advance(61)
    assert omie.run(read) == []


def test_neither_key_nor_secret_nor_rows_are_logged(
    omie: Connected, capsys: pytest.CaptureFixture[str]
) -> None:
    omie.fake.add_client(1)
    omie.fake.faults["ListarClientes"].append(BROKEN)
    call(omie)
    out = capsys.readouterr()
    text = out.out + out.err + str(omie.rows("select * from outbound_calls"))
    assert "ListarClientes" in text
    for secret in (omie.fake.app_key, omie.fake.app_secret, "Cliente 1"):
        assert secret not in text
