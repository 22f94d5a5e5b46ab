"""What Omie's webhooks ("omie-connect") tell, taken as hints.

They are not signed, carry no version, come twice or late, and a deletion comes nowhere else. So
what one says is stored as of the moment it came, older news never undoes newer, and a reading of
Omie follows a quarter of an hour later, not more often, and has the last word.
"""

from __future__ import annotations

import hmac
import re
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final

from psycopg.types.json import Jsonb

from nessos import credentials
from nessos.errors import GiveUpError
from nessos.omie import rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from nessos.jobs.entrypoint import Task
    from nessos.webhooks.inbound import InboundEvent

    Events = Sequence[Mapping[str, Any]]

_NEWS: Final = "select app.apply_erp_news(%s, %s, %s, %s) as answer"
_REMOVE_TITLES: Final = "select app.cancel_removed_erp_receivables(%s, %s, %s) as answer"
_REMOVE_CLIENTS: Final = "select app.deactivate_erp_clients(%s, %s, %s) as answer"
_READ_LATER: Final = "select app.enqueue(%s, '{}', %s, %s, interval '15 minutes') as answer"


async def process(task: Task, event: InboundEvent) -> str:
    """Take what a webhook of Omie tells.

    Args:
        task: The job.
        event: The request.

    Returns:
        What was done; `ignored: …` for a ping and for what concerns nothing here, `rejected: …` for
        the webhook of another application.

    Raises:
        GiveUpError: The body is not what Omie sends.
    """
    body = event.json_object()
    if body is None:
        raise GiveUpError("the body is no JSON object")
    topic = str(body.get("topic") or "")
    if not topic:
        # Registering the address sends {"ping": "omie"}, without a topic or a key.
        return "ignored: ping" if "ping" in body else "ignored: no topic"
    values = await credentials.read(task.pool, org_id=event.org_id, provider="omie")
    if values is None:
        return "ignored: not connected"
    key = values["app_key"].get_secret_value()
    if not hmac.compare_digest(
        str(body.get("appKey") or "").encode(errors="replace"), key.encode()
    ):
        return "rejected: appKey of another application"
    given = body.get("event")
    told = [one for one in (given if isinstance(given, list) else [given]) if isinstance(one, dict)]
    return await _take(task, event, topic.lower(), told)


async def _take(task: Task, event: InboundEvent, topic: str, told: Events) -> str:
    match topic:
        case "financas.contareceber.incluido" | "financas.contareceber.alterado":
            said = await _titles(task, event, "titles", [rows.title(one) for one in told])
        case "financas.contareceber.baixarealizada":
            paid = [row for one in told if (row := _settled(one))]
            said = await _titles(task, event, "movements", paid)
        case "financas.contareceber.baixacancelada":
            said = await _titles(task, event, "movements", [])
        case "financas.contareceber.excluido":
            codes = _codes(rows.title(one) for one in told)
            count = await _answer(task, _REMOVE_TITLES, event.org_id, codes, event.received_at)
            said = f"{count} titles cancelled"
        case "clientefornecedor.incluido" | "clientefornecedor.alterado":
            await _read_later(task, event, "clients")
            said = "clients to be read"
        case "clientefornecedor.excluido":
            codes = _codes(rows.client(one) for one in told)
            count = await _answer(task, _REMOVE_CLIENTS, event.org_id, codes, event.received_at)
            said = f"{count} clients made inactive"
        case _:
            said = f"ignored: {topic[:60]}"
    return said


async def _titles(task: Task, event: InboundEvent, name: str, given: list[rows.Row]) -> str:
    said = "titles to be read"
    if given:
        answer = await _answer(task, _NEWS, event.org_id, name, Jsonb(given), event.received_at)
        if answer["superseded"]:
            return "ignored: read since"
        said = f"{answer['created'] + answer['updated']} of {len(given)} titles changed"
    await _read_later(task, event, "receivables")
    return said


async def _read_later(task: Task, event: InboundEvent, entity: str) -> None:
    """Have the entity read in a while: once for many webhooks."""
    job = f"sync.omie.{entity}"
    await _answer(task, _READ_LATER, job, event.org_id, f"{job}/webhook/{event.org_id}")


async def _answer(task: Task, query: str, *arguments: object) -> Any:  # noqa: ANN401 - JSON
    async with task.pool.connection() as connection:
        row = await (await connection.execute(query.encode(), arguments)).fetchone()
    return row["answer"] if row else None


def _settled(told: Mapping[str, Any]) -> rows.Row | None:
    """Read a write-off that pays one title whole; what any other pays, only a reading can tell."""
    titles = told.get("conta_a_receber")
    if not isinstance(titles, list) or len(titles) != 1 or not isinstance(titles[0], dict):
        return None
    row = rows.title({**told, **titles[0]})
    try:
        paid, left_off = Decimal(str(told.get("valor"))), Decimal(str(told.get("desconto") or 0))
        if paid + left_off < Decimal(row["amount"]):
            return None
    except InvalidOperation:
        return None
    return row | {
        "status": "RECEBIDO",
        "settled": "S",
        "paid": str(paid),
        "open": "0",
        "paid_on": str(told.get("data") or ""),
    }


def _codes(read: Iterable[rows.Row]) -> list[int]:
    return [int(row["code"]) for row in read if re.fullmatch(r"[1-9]\d{0,17}", row["code"])]
