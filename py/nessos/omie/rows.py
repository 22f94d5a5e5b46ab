"""What is needed of a row of Omie, by the names that the database's functions use.

Everything stays a text as Omie wrote it, money with all its digits: the functions judge it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

Row = dict[str, Any]

_ADDRESS: Final[Mapping[str, str]] = {
    "endereco": "street",
    "endereco_numero": "number",
    "complemento": "complement",
    "bairro": "district",
    "cidade": "city",
    "estado": "state",
    "cep": "zip",
}


def client(raw: object) -> Row:
    """Read a row of the register of customers and suppliers (`clientes_cadastro`).

    Args:
        raw: The row.

    Returns:
        A row of the list `clients`.
    """
    row = _object(raw)
    address = {ours: _text(row.get(theirs)) for theirs, ours in _ADDRESS.items()}
    # "SAO PAULO (SP)" says the state twice.
    address["city"] = re.sub(r"\s*\([A-Z]{2}\)$", "", address["city"])
    area, number = _text(row.get("telefone1_ddd")), _text(row.get("telefone1_numero"))
    tags = row.get("tags")
    return {
        "code": _text(row.get("codigo_cliente_omie")),
        "name": _text(row.get("razao_social")),
        "trade_name": _text(row.get("nome_fantasia")),
        "document": _text(row.get("cnpj_cpf")),
        "email": _text(row.get("email")),
        "phones": [f"+55 {area} {number}" if area else number] if number else [],
        "address": {name: text for name, text in address.items() if text},
        "tags": [_text(_object(tag).get("tag")) for tag in tags] if isinstance(tags, list) else [],
        "inactive": _text(row.get("inativo")),
    }


def service(raw: object) -> Row:
    """Read a row of the register of services (`cadastros`).

    Args:
        raw: The row.

    Returns:
        A row of the list `services`.
    """
    row = _object(raw)
    return {
        "code": _text(_object(row.get("intListar")).get("nCodServ")),
        "title": _text(_object(row.get("cabecalho")).get("cDescricao")),
        "inactive": _text(_object(row.get("info")).get("inativo")),
    }


def title(raw: object) -> Row:
    """Read a receivable (`conta_receber_cadastro`), or the same of a webhook.

    Args:
        raw: The row. Whether anything was paid does not stand in it.

    Returns:
        A row of the list `titles`.
    """
    row = _object(raw)
    return {
        "code": _text(row.get("codigo_lancamento_omie")),
        "client": _text(row.get("codigo_cliente_fornecedor")),
        "reference": _reference(row.get("numero_documento"), row.get("numero_parcela")),
        "issued_on": _text(row.get("data_emissao")),
        "due_on": _text(row.get("data_vencimento")),
        "amount": _text(row.get("valor_documento")),
        "status": _text(row.get("status_titulo") or row.get("situacao")),
    }


def movement(raw: object) -> Row:
    """Read a title in the list of movements (`movimentos` asked for with CR).

    Args:
        raw: The row.

    Returns:
        A row of the list `movements`.
    """
    details, summary = _object(_object(raw).get("detalhes")), _object(_object(raw).get("resumo"))
    return {
        "code": _text(details.get("nCodTitulo")),
        "client": _text(details.get("nCodCliente")),
        "document": _text(details.get("cCPFCNPJCliente")),
        "reference": _reference(details.get("cNumTitulo"), details.get("cNumParcela")),
        "issued_on": _text(details.get("dDtEmissao")),
        "due_on": _text(details.get("dDtVenc")),
        "amount": _text(details.get("nValorTitulo")),
        "status": _text(details.get("cStatus")),
        "settled": _text(summary.get("cLiquidado")),
        "paid": _text(summary.get("nValPago")),
        "open": _text(summary.get("nValAberto")),
        "paid_on": _text(details.get("dDtPagamento")),
    }


def issued(raw: object) -> Row:
    """Read a title as revenue of the day it was issued.

    Args:
        raw: The row, as for `movement`.

    Returns:
        A row of the list `issued`.
    """
    details = _object(_object(raw).get("detalhes"))
    return {
        "code": _text(details.get("nCodTitulo")),
        "client": _text(details.get("nCodCliente")),
        "day": _text(details.get("dDtEmissao")),
        "amount": _text(details.get("nValorTitulo")),
        "nature": _text(details.get("cNatureza")),
        "status": _text(details.get("cStatus")),
    }


def receipt(raw: object) -> Row:
    """Read a write-off (`movimentos` asked for with BXCR) as revenue of the day it was paid.

    Its own value is `nValorMovCC`; the summary beside it is the whole title's and would count each
    part of a payment in full.

    Args:
        raw: The row.

    Returns:
        A row of the list `receipts`.
    """
    details = _object(_object(raw).get("detalhes"))
    return {
        "code": _text(details.get("nCodBaixa")),
        "title": _text(details.get("nCodTitulo")),
        "client": _text(details.get("nCodCliente")),
        "day": _text(details.get("dDtPagamento")),
        "amount": _text(details.get("nValorMovCC")),
        "nature": _text(details.get("cNatureza")),
        "status": _text(details.get("cStatus")),
    }


def cancelled(raw: object) -> Row:
    """Read a cancelled title: that it is one is all there is to know.

    Args:
        raw: The row, as for `title`.

    Returns:
        A row of the list `cancelled`.
    """
    return {"code": _text(_object(raw).get("codigo_lancamento_omie"))}


def _object(raw: object) -> Mapping[str, Any]:
    return raw if isinstance(raw, dict) else {}


def _text(value: object) -> str:
    """Write a value as a text that Postgres takes: no NUL, no half of a surrogate pair."""
    if value is None or isinstance(value, dict | list):
        return ""
    text = str(value).replace("\x00", "").strip()
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _reference(number: object, part: object) -> str:
    return " ".join(text for text in (_text(number), _text(part)) if text)
