"""Omie as its clients see it: a real HTTP server with the API's envelope, its two ways of paging and its faults.

Money is kept as text and written into the JSON as a bare number, so that no digit is lost on the way.
"""

import contextlib
import hashlib
import json
import re
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any, Final

from tests.integrations.fakes import server

JsonObject = dict[str, Any]

FIRST_CODE: Final = 6_289_000_000
"""Codes of Omie do not fit 32 bits."""

_REDUNDANT_S: Final = 60
_BLOCK_S: Final = 1789
_ERRORS_BEFORE_BLOCK: Final = 10
_ERROR_MEMORY_S: Final = 1800
_LARGEST_PAGE: Final = 100

_PAGED_A: Final = {"pagina", "registros_por_pagina"}
_PAGED_B: Final = {"nPagina", "nRegPorPagina"}
_PARAMETERS: Final[Mapping[str, set[str]]] = {
    "ListarClientes": _PAGED_A
    | {"apenas_importado_api", "ordenar_por", "ordem_decrescente", "filtrar_apenas_inclusao"}
    | {"filtrar_por_data_de", "filtrar_por_data_ate", "filtrar_por_hora_de", "filtrar_por_hora_ate"}
    | {"filtrar_apenas_alteracao", "clientesFiltro", "clientesPorCodigo", "exibir_obs"},
    "ListarContasReceber": _PAGED_A
    | {"filtrar_por_data_de", "filtrar_por_data_ate", "filtrar_apenas_inclusao", "ordenar_por"}
    | {"filtrar_apenas_alteracao", "filtrar_por_emissao_de", "filtrar_por_emissao_ate"}
    | {"filtrar_por_registro_de", "filtrar_por_registro_ate", "filtrar_cliente", "exibir_obs"}
    | {"filtrar_por_cpf_cnpj", "filtrar_por_status", "filtrar_apenas_titulos_em_aberto"}
    | {"filtrar_conta_corrente", "filtrar_por_projeto", "filtrar_por_vendedor"}
    | {"ordem_descrescente"},
    "ListarMovimentos": _PAGED_B
    | {f"dDt{what}{end}" for what in ("Emis", "Venc", "Pagto", "Prev", "Reg", "Inc", "Alt") for end in ("De", "Ate")}
    | {"nCodTitulo", "nCodCliente", "cCPFCNPJCliente", "nCodCtr", "nCodOS", "nCodCC", "cStatus"}
    | {"cNatureza", "cTipo", "cOperacao", "cCodCateg", "cTpLancamento", "lDadosCad"}
    | {"cExibirDepartamentos"},
    "ListarCadastroServico": _PAGED_B
    | {"cOrdenarPor", "cOrdemDecrescente", "dInclusaoInicial", "dInclusaoFinal", "cDescricao"}
    | {"dAlteracaoInicial", "dAlteracaoFinal", "cCodigo", "inativo", "cExibirProdutos"},
}  # fmt: skip
_PLACES: Final = {
    "ListarClientes": "geral/clientes/",
    "ListarContasReceber": "financas/contareceber/",
    "ListarMovimentos": "financas/mf/",
    "ListarCadastroServico": "servicos/servico/",
}


class Number(str):
    """A number that is written into JSON with exactly these digits."""

    __slots__ = ()


@dataclass
class Clock:
    """Seconds that pass only when a test says so."""

    now: float = 1_000_000.0

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


@dataclass(frozen=True)
class Answer:
    """What goes back over the wire."""

    status: int
    body: bytes
    content_type: str = "application/json"
    location: str | None = None


@dataclass(frozen=True)
class Call:
    """A request that arrived."""

    path: str
    method: str
    app_key: str
    param: JsonObject


def fault(code: str, text: str, status: int = 500) -> Answer:
    """Answer with a fault, as nearly always at HTTP 500."""
    body = {"faultstring": f"ERROR: {text}", "faultcode": f"SOAP-ENV:{code}"}
    return Answer(status, json.dumps(body, ensure_ascii=False).encode())


BROKEN: Final = Answer(
    500, b"<html><body>Broken response from Application Server</body></html>", "text/html"
)
EMPTY: Final = Answer(500, b"")


def day_text(day: date) -> str:
    """Write a day as Omie does."""
    return f"{day:%d/%m/%Y}"


def _day(text: str) -> date:
    day, month, year = text.split("/")
    return date(int(year), int(month), int(day))


@dataclass
class FakeOmie:
    """One application of Omie with its rows; a test changes them as Omie's users would.

    Attributes:
        app_key: The only key that is let in.
        app_secret: Its secret.
        clock: What the limits are counted by.
        clients: The register, customers and suppliers, by code.
        titles: Receivables by code.
        receipts: Write-offs by code.
        entries: Lines of bank accounts that belong to no title.
        services: The register of services by code.
        calls: Every request that arrived, in order.
        faults: What the next requests of a method are answered with instead; None lets one pass.
        before: Called before a method is answered, after the answer's place in line is taken.
        is_strict: Whether identical requests and errors are counted.
        re_serves_first_page: Whether a page beyond the last is the first one again.
        is_frozen: Whether rows change no more: each list is then made once, and pages come fast.
        most_running: The largest number of requests of one method that ran at once.
    """

    app_key: str = "38333295000"
    app_secret: str = "fedcba0123456789"  # noqa: S105 - opens nothing
    clock: Clock = field(default_factory=Clock)
    clients: dict[int, JsonObject] = field(default_factory=dict)
    titles: dict[int, JsonObject] = field(default_factory=dict)
    receipts: dict[int, JsonObject] = field(default_factory=dict)
    entries: list[JsonObject] = field(default_factory=list)
    services: dict[int, JsonObject] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    faults: dict[str, deque[Answer | None]] = field(default_factory=lambda: defaultdict(deque))
    before: dict[str, Callable[[Call], None]] = field(default_factory=dict)
    is_strict: bool = True
    re_serves_first_page: bool = False
    is_frozen: bool = False
    most_running: int = 0
    _running: Counter[tuple[str, str]] = field(default_factory=Counter)
    _seen: dict[tuple[str, str, str], float] = field(default_factory=dict)
    _errors: dict[tuple[str, str], deque[float]] = field(default_factory=lambda: defaultdict(deque))
    _blocked: dict[tuple[str, str], float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _frozen: dict[str, list[JsonObject]] = field(default_factory=dict)

    # --- Rows ------------------------------------------------------------------------------------

    def add_client(self, number: int, document: str = "", **fields: Any) -> int:
        """Register a customer or supplier; gives its code."""
        code = FIRST_CODE + number
        self.clients[code] = {
            "codigo_cliente_omie": code,
            "codigo_cliente_integracao": "",
            "razao_social": f"Cliente {number} Ltda",
            "nome_fantasia": f"Cliente {number}",
            "cnpj_cpf": document,
            "email": f"financeiro@cliente-{number}.example",
            "telefone1_ddd": "11",
            "telefone1_numero": f"3333-{number % 10000:04}",
            "contato": "",
            "endereco": "Rua das Flores",
            "endereco_numero": str(number),
            "bairro": "Centro",
            "complemento": "",
            "cidade": "SAO PAULO (SP)",
            "estado": "SP",
            "cep": "01310-100",
            "codigo_pais": "1058",
            "tags": [{"tag": "Cliente"}],
            "pessoa_fisica": "N",
            "inativo": "N",
            "info": {"dInc": "02/01/2026", "dAlt": "02/01/2026", "cImpAPI": "N"},
            **fields,
        }
        return code

    def add_title(self, number: int, client: int, amount: str, **fields: Any) -> int:
        """Issue a receivable; gives its code. The days `issued`, `due` and `changed` may be given."""
        issued = fields.pop("issued", date(2026, 7, 2))
        due = fields.pop("due", date(2026, 7, 20))
        changed = fields.pop("changed", issued)
        status = fields.pop("status", "A VENCER")
        code = FIRST_CODE + 1_000_000 + number
        self.titles[code] = {
            "codigo_lancamento_omie": code,
            "codigo_lancamento_integracao": "",
            "codigo_cliente_fornecedor": client,
            "numero_documento": f"OS-{number}",
            "numero_parcela": "001/001",
            "numero_documento_fiscal": "",
            "data_emissao": day_text(issued),
            "data_registro": day_text(issued),
            "data_vencimento": day_text(due),
            "data_previsao": day_text(due),
            "valor_documento": Number(amount),
            "status_titulo": status,
            "codigo_categoria": "1.01.02",
            "id_conta_corrente": 6288000001,
            "id_origem": "VENR",
            "info": {"dInc": day_text(issued), "dAlt": day_text(changed), "cImpAPI": "N"},
            **fields,
        }
        return code

    def pay(self, title: int, amount: str, day: date, *, number: int | None = None) -> int:
        """Receive money for a title; gives the write-off's code."""
        code = FIRST_CODE + 2_000_000 + (number or len(self.receipts) + 1)
        row = self.titles[title]
        self.receipts[code] = {"title": title, "amount": amount, "day": day}
        left = self.left(title)
        row["status_titulo"] = "RECEBIDO" if left <= 0 else "PAGTO_PARCIAL"
        row["info"] = row["info"] | {"dAlt": day_text(day)}
        return code

    def cancel(self, title: int, day: date) -> None:
        """Cancel a title; ListarMovimentos goes on calling a paid one paid."""
        row = self.titles[title]
        row["movement_status"] = "LIQUIDADO" if self.paid(title) else "CANCELADO"
        row["status_titulo"] = "CANCELADO"
        row["info"] = row["info"] | {"dAlt": day_text(day)}

    def add_service(self, number: int, description: str, **fields: Any) -> int:
        """Register a service; gives its code."""
        code = FIRST_CODE + 3_000_000 + number
        self.services[code] = {
            "cabecalho": {"cCodigo": f"SRV{number:05}", "cDescricao": description, "nPrecoUnit": 0},
            "descricao": {"cDescrCompleta": description},
            "info": {"inativo": "N", "dInc": "02/01/2026", "dAlt": "02/01/2026"},
            "intListar": {"cCodIntServ": "", "nCodServ": code},
        } | fields
        return code

    def add_entry(self, number: int, amount: str, day: date) -> None:
        """Book a line of a bank account that belongs to no title."""
        code = FIRST_CODE + 4_000_000 + number
        self.entries.append({"code": code, "amount": amount, "day": day})

    def paid(self, title: int) -> Decimal:
        """Say what was received for a title."""
        return sum((Decimal(one["amount"]) for one in self._receipts_of(title)), start=Decimal(0))

    def left(self, title: int) -> Decimal:
        """Say what is still to be received for a title."""
        return Decimal(self.titles[title]["valor_documento"]) - self.paid(title)

    def _receipts_of(self, title: int) -> list[JsonObject]:
        return [one for one in self.receipts.values() if one["title"] == title]

    # --- Serving ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def serving(self) -> Iterator[str]:
        """Serve for the length of a block; gives the address that stands for app.omie.com.br/api/v1."""

        def respond(seen: server.Seen) -> server.Answer:
            answer = self.answer(seen.method, seen.path, seen.body)
            headers = {"Content-Type": answer.content_type}
            if answer.location:
                headers["Location"] = answer.location
            return server.Answer(answer.status, answer.body, headers)

        with server.FakeServer(respond) as running:
            yield f"{running.url}/api/v1"

    def answer(self, verb: str, path: str, body: bytes) -> Answer:
        """Answer one request."""
        if not path.endswith("/"):
            return Answer(301, b"", location=f"{path}/")
        try:
            given = json.loads(body)
            method, key, param = given["call"], given["app_key"], given["param"]
        except (ValueError, KeyError):
            return fault("Client-71", "Não foram informados parâmetros para a requisição!")
        if verb != "POST" or not isinstance(param, list) or len(param) != 1:
            return fault("Client-71", "Não foram informados parâmetros para a requisição!")
        call = Call(path.removeprefix("/api/v1/"), method, str(key), param[0])
        with self._lock:
            self.calls.append(call)
            refusal = self._refusal(call, given, body)
            if refusal is None:
                self._running[call.app_key, method] += 1
                self.most_running = max(self.most_running, self._running[call.app_key, method])
        if refusal:
            return refusal
        try:
            if method in self.before:
                self.before[method](call)
            with self._lock:
                waiting = self.faults[method]
                planned = waiting.popleft() if waiting else None
                answer = planned or self._answer(call)
                if answer.status >= 400 or b'"faultcode"' in answer.body[:400]:
                    self._count_error(call)
                return answer
        finally:
            with self._lock:
                self._running[call.app_key, method] -= 1

    def _refusal(self, call: Call, given: JsonObject, body: bytes) -> Answer | None:
        key, now = (call.app_key, call.method), self.clock.now
        if self._blocked.get(key, 0) > now:
            self._blocked[key] = now + _BLOCK_S
            return fault(
                "MISUSE_API_PROCESS",
                f"API bloqueada por consumo indevido. Tente novamente em {_BLOCK_S} segundos.",
                425,
            )
        if (call.app_key, given.get("app_secret")) != (self.app_key, self.app_secret):
            self._count_error(call)
            return fault("Client-4", "Chave de acesso inválida. Verifique se a chave está correta!")
        if self._running[key]:
            self._count_error(call)
            return fault(
                "Client-1880",
                "Já existe uma requisição desse método sendo executada para o seu aplicativo.",
            )
        if not self.is_strict:
            return None
        digest = hashlib.sha256(body).hexdigest()
        passed = now - self._seen.get((*key, digest), 0)
        if passed < _REDUNDANT_S:
            self._count_error(call)
            return fault(
                "Client-6",
                "Consumo redundante detectado. Aguarde"
                f" {int(_REDUNDANT_S - passed)} segundos para tentar novamente. (REDUNDANT)",
            )
        self._seen[*key, digest] = now
        return None

    def _count_error(self, call: Call) -> None:
        key, now = (call.app_key, call.method), self.clock.now
        errors = self._errors[key]
        errors.append(now)
        while errors and errors[0] < now - _ERROR_MEMORY_S:
            errors.popleft()
        if self.is_strict and len(errors) >= _ERRORS_BEFORE_BLOCK:
            self._blocked[key] = now + _BLOCK_S
            errors.clear()

    def _answer(self, call: Call) -> Answer:
        if _PLACES.get(call.method) != call.path:
            return fault("Client-5000", f'Method "{call.method}" not exists')
        if unknown := set(call.param) - _PARAMETERS[call.method]:
            name = min(unknown)
            return fault(
                "Client-5001", f"Tag [{name.upper()}] não faz parte da estrutura do tipo complexo!"
            )
        rows = self._rows(call)
        if call.method == "ListarClientes":
            return self._page_a(call.param, rows, "clientes_cadastro")
        if call.method == "ListarContasReceber":
            return self._page_a(call.param, rows, "conta_receber_cadastro")
        key = "movimentos" if call.method == "ListarMovimentos" else "cadastros"
        return self._page_b(call.param, rows, key)

    def _rows(self, call: Call) -> list[JsonObject]:
        paging = _PAGED_A | _PAGED_B
        filters = {name: value for name, value in call.param.items() if name not in paging}
        key = f"{call.method} {json.dumps(filters, sort_keys=True)}"
        if key in self._frozen:
            return self._frozen[key]
        lists = {
            "ListarClientes": self._list_clients,
            "ListarContasReceber": self._list_titles,
            "ListarMovimentos": self._list_movements,
            "ListarCadastroServico": self._list_services,
        }
        rows = list(lists[call.method](call.param))
        if self.is_frozen:
            self._frozen[key] = rows
        return rows

    def _page_a(self, param: JsonObject, rows: list[JsonObject], key: str) -> Answer:
        page, shown, pages = self._slice(param["pagina"], param["registros_por_pagina"], rows)
        if not shown:
            return fault("Client-5113", f"Não existem registros para a página [{page}]!")
        return _ok(
            {
                "pagina": page,
                "total_de_paginas": pages,
                "registros": len(shown),
                "total_de_registros": len(rows),
                key: shown,
            }
        )

    def _page_b(self, param: JsonObject, rows: list[JsonObject], key: str) -> Answer:
        page, shown, pages = self._slice(param["nPagina"], param["nRegPorPagina"], rows)
        if not shown:
            return fault("Client-5113", f"Não existem registros para a página [{page}]!")
        return _ok(
            {
                "nPagina": page,
                "nTotPaginas": pages,
                "nRegistros": len(shown),
                "nTotRegistros": len(rows),
                key: shown,
            }
        )

    def _slice(
        self, page: int, asked: int, rows: list[JsonObject]
    ) -> tuple[int, list[JsonObject], int]:
        size = min(asked, _LARGEST_PAGE)
        pages = -(-len(rows) // size)
        if self.re_serves_first_page and page > pages:
            page = 1
        return page, rows[(page - 1) * size : page * size], pages

    # --- Lists -----------------------------------------------------------------------------------

    def _list_clients(self, param: JsonObject) -> Iterator[JsonObject]:
        wanted = {one["codigo_cliente_omie"] for one in param.get("clientesPorCodigo", [])}
        for code in sorted(self.clients):
            row = self.clients[code]
            if (not wanted or code in wanted) and _was_changed(row, param):
                yield row

    def _list_titles(self, param: JsonObject) -> Iterator[JsonObject]:
        orders: dict[str, Callable[[JsonObject], Any]] = {
            "CODIGO": _by_code,
            "DATA_ALTERACAO": _by_change,
        }
        order = orders[param.get("ordenar_por", "CODIGO")]
        for row in sorted(self.titles.values(), key=order):
            status = param.get("filtrar_por_status")
            if status and row["status_titulo"].replace(" ", "") != status:
                continue
            if _was_changed(row, param) and _is_between(
                _day(row["data_emissao"]),
                param,
                "filtrar_por_emissao_de",
                "filtrar_por_emissao_ate",
            ):
                yield {name: value for name, value in row.items() if name != "movement_status"}

    def _list_movements(self, param: JsonObject) -> Iterator[JsonObject]:
        kind = param.get("cTpLancamento")
        received: dict[int, list[JsonObject]] = defaultdict(list)
        for code, receipt in self.receipts.items():
            received[receipt["title"]].append(receipt | {"code": code})
        if kind in {None, "CR", "CPCR"}:
            for title in self.titles.values():
                yield from self._movement(title, received[title["codigo_lancamento_omie"]], param)
        if kind in {None, "BX", "BXCR"}:
            for title in self.titles.values():
                for receipt in received[title["codigo_lancamento_omie"]]:
                    yield from self._receipt(title, receipt, param)
        if kind in {None, "CC", "CCE"}:
            for entry in self.entries:
                yield from self._entry(entry, param)

    def _movement(
        self, title: JsonObject, receipts: list[JsonObject], param: JsonObject
    ) -> Iterator[JsonObject]:
        amount = Decimal(title["valor_documento"])
        paid = sum((Decimal(one["amount"]) for one in receipts), start=Decimal(0))
        last = max((one["day"] for one in receipts), default=None)
        left = amount - paid
        status = title.get("movement_status", title["status_titulo"])
        if _hides(param, title, last):
            return
        yield {
            "detalhes": self._details(title)
            | {
                "cGrupo": "CONTA_A_RECEBER",
                "cStatus": status,
                "dDtPagamento": day_text(last) if last else "",
                "cOrigem": "VENR",
            },
            "resumo": {
                "cLiquidado": "S" if left <= 0 else "N",
                "nValPago": Number(str(paid)),
                "nValAberto": Number(str(max(left, Decimal(0)))),
                "nDesconto": 0,
                "nJuros": 0,
                "nMulta": 0,
                "nValLiquido": Number(str(paid)),
            },
            "departamentos": [],
            "categorias": [],
        }

    def _receipt(
        self, title: JsonObject, receipt: JsonObject, param: JsonObject
    ) -> Iterator[JsonObject]:
        if _hides(param, title, receipt["day"]):
            return
        yield {
            "detalhes": self._details(title)
            | {
                "cGrupo": "CONTA_CORRENTE_REC",
                "cStatus": "RECEBIDO",
                "cOrigem": "BARR",
                "dDtPagamento": day_text(receipt["day"]),
                "nCodBaixa": receipt["code"],
                "nCodMovCC": receipt["code"] + 500_000,
                "nValorMovCC": Number(receipt["amount"]),
            },
            # The title's sum, not the write-off's: who adds it up counts it once per write-off.
            "resumo": {"cLiquidado": "S", "nValPago": Number(str(self.paid(receipt["title"])))},
        }

    def _entry(self, entry: JsonObject, param: JsonObject) -> Iterator[JsonObject]:
        if _is_between(entry["day"], param, "dDtPagtoDe", "dDtPagtoAte"):
            yield {
                "detalhes": {
                    "nCodTitulo": 0,
                    "nCodCliente": 0,
                    "cNatureza": "R",
                    "cGrupo": "CONTA_CORRENTE_REC",
                    "dDtPagamento": day_text(entry["day"]),
                    "nCodMovCC": entry["code"],
                    "nValorMovCC": Number(entry["amount"]),
                },
                "resumo": {"cLiquidado": "S", "nValPago": Number(entry["amount"])},
            }

    def _details(self, title: JsonObject) -> JsonObject:
        client = self.clients.get(title["codigo_cliente_fornecedor"], {})
        return {
            "nCodTitulo": title["codigo_lancamento_omie"],
            "cNumTitulo": title["numero_documento"],
            "cNumParcela": title["numero_parcela"],
            "dDtEmissao": title["data_emissao"],
            "dDtVenc": title["data_vencimento"],
            "nCodCliente": title["codigo_cliente_fornecedor"],
            "cCPFCNPJCliente": client.get("cnpj_cpf", ""),
            "cNatureza": "R",
            "nValorTitulo": title["valor_documento"],
            "dDtAlt": title["info"]["dAlt"],
        }

    def _list_services(self, param: JsonObject) -> Iterator[JsonObject]:
        for code in sorted(self.services):
            if _is_between(
                _day(self.services[code]["info"]["dAlt"]),
                param,
                "dAlteracaoInicial",
                "dAlteracaoFinal",
            ):
                yield self.services[code]


def _ok(body: JsonObject) -> Answer:
    return Answer(200, re.sub(r'"\\u0002([^"]*)"', r"\1", json.dumps(_marked(body))).encode())


def _marked(value: Any) -> Any:
    if isinstance(value, Number):
        return f"\x02{value}"
    if isinstance(value, dict):
        return {name: _marked(one) for name, one in value.items()}
    return [_marked(one) for one in value] if isinstance(value, list) else value


def _by_code(row: JsonObject) -> int:
    code: int = row["codigo_lancamento_omie"]
    return code


def _by_change(row: JsonObject) -> tuple[date, int]:
    return _day(row["info"]["dAlt"]), _by_code(row)


def _was_changed(row: JsonObject, param: JsonObject) -> bool:
    return _is_between(
        _day(row["info"]["dAlt"]), param, "filtrar_por_data_de", "filtrar_por_data_ate"
    )


def _is_between(day: date | None, param: JsonObject, first: str, last: str) -> bool:
    if first not in param and last not in param:
        return True
    if day is None:
        return False
    return (first not in param or day >= _day(param[first])) and (
        last not in param or day <= _day(param[last])
    )


def _hides(param: JsonObject, title: JsonObject, paid_on: date | None) -> bool:
    return not (
        _is_between(_day(title["data_emissao"]), param, "dDtEmisDe", "dDtEmisAte")
        and _is_between(_day(title["data_vencimento"]), param, "dDtVencDe", "dDtVencAte")
        and _is_between(_day(title["info"]["dAlt"]), param, "dDtAltDe", "dDtAltAte")
        and _is_between(paid_on, param, "dDtPagtoDe", "dDtPagtoAte")
        and param.get("nCodTitulo", title["codigo_lancamento_omie"])
        == title["codigo_lancamento_omie"]
    )
