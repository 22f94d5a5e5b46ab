"""What a message says on each channel: templates filled with a notification's data.

The words come from the catalogue in the database (`title`, `body`); the files here lay them out.
Data is never a template: it is passed as values, to a sandbox, and escaped where the file is HTML.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote
from zoneinfo import ZoneInfo

from babel.dates import format_date, format_datetime
from babel.numbers import format_currency
from jinja2 import PackageLoader, StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from nessos.errors import GiveUpError

if TYPE_CHECKING:
    from collections.abc import Mapping

LOCALE: Final = "pt_BR"
SMS_LIMIT: Final = 306
"""Two concatenated SMS of 153 characters of the GSM alphabet."""

_GSM_BASIC: Final = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    "ÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_GSM_EXTENDED: Final = frozenset("^{}\\[~]|€")
# Quotation marks, dashes, three dots, the space that does not break.
_PLAIN: Final = str.maketrans(
    dict(zip("\u2018\u2019\u201c\u201d\u2013\u2014\u00a0", "''\"\"-- ", strict=True))
    | {"\u2026": "..."}
)


@dataclass(frozen=True)
class Words:
    """A message as its channel takes it.

    Attributes:
        text: The words.
        subject: The line above them; e-mail only.
        html: The same words laid out; e-mail only.
    """

    text: str
    subject: str = ""
    html: str = ""


def render(channel: str, claim: Mapping[str, Any], *, app_url: str | None) -> Words:
    """Write a notification for a channel. The same claim gives the same words.

    Args:
        channel: whatsapp, sms or email.
        claim: What `app.claim_notification_attempt` gave.
        app_url: Address of the frontend, that links are paths of; None: no link.

    Returns:
        The words.

    Raises:
        GiveUpError: A file asks for what the notification does not have.
    """
    path = quote(claim["link"] or "", safe="/?#&=%:;,@!$'()*+~")
    link = f"{app_url.rstrip('/')}{path}" if app_url and path else None
    zone = ZoneInfo(claim["time_zone"])
    values = {
        "title": claim["title"],
        "body": claim["body"],
        "organization": claim["organization"],
        "recipient": claim["recipient"] or "",
        "link": link,
        "data": {
            name: _value(claim["data"][name], kind, zone)
            for name, kind in claim["variables"].items()
        },
    }

    def fill(file: str) -> str:
        try:
            return (
                _environment()
                .select_template([f"{claim['template']}/{file}", f"default/{file}"])
                .render(values)
                .strip()
            )
        except TemplateError as error:
            raise GiveUpError(
                f"template {claim['template']}/{file}: {error.message}", "correct the file"
            ) from None

    if channel == "sms":
        return Words(_fit(to_gsm(fill("sms.txt")), f" {link}" if link else ""))
    if channel == "whatsapp":
        return Words(fill("whatsapp.txt"))
    return Words(fill("body.txt"), " ".join(fill("subject.txt").split()), fill("body.html"))


def to_gsm(text: str) -> str:
    """Write a text in the alphabet of the SMS (GSM 03.38).

    One letter outside of it, and ã or ç is one, sends the whole message as UCS-2, which holds less
    than half as much: such letters lose their accents; what remains unknown becomes a question
    mark.

    Args:
        text: The text.

    Returns:
        The text in that alphabet.
    """
    letters = []
    for letter in text.translate(_PLAIN):
        if letter in _GSM_BASIC or letter in _GSM_EXTENDED:
            letters.append(letter)
            continue
        plain = "".join(
            one
            for one in unicodedata.normalize("NFKD", letter)
            if one in _GSM_BASIC or one in _GSM_EXTENDED
        )
        letters.append(plain or ("" if unicodedata.combining(letter) else "?"))
    return "".join(letters)


def gsm_length(text: str) -> int:
    """Count the characters a text of the GSM alphabet takes: some take two.

    Args:
        text: The text.

    Returns:
        The number.
    """
    return len(text) + sum(letter in _GSM_EXTENDED for letter in text)


def _fit(text: str, ending: str) -> str:
    """Shorten a text so that it and its ending fit into an SMS; a link cut short leads nowhere."""
    room = SMS_LIMIT - gsm_length(ending)
    if gsm_length(text) > room:
        while gsm_length(text) > room - len("..."):
            text = text[:-1]
        text = f"{text.rstrip()}..."
    return text + ending


def _value(value: Any, kind: str, zone: ZoneInfo) -> str | int | Decimal | date | datetime:  # noqa: ANN401 - JSON
    match kind:
        case "date":
            return date.fromisoformat(value)
        case "moment":
            return datetime.fromisoformat(value).astimezone(zone)
        case "money":
            return Decimal(str(value))
        case "integer":
            return int(value)
    return " ".join(str(value).split())


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        loader=PackageLoader("nessos.messaging"),
        autoescape=lambda name: (name or "").endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["date"] = _date
    environment.filters["money"] = _money
    return environment


def _date(value: date) -> str:
    if isinstance(value, datetime):
        return format_datetime(value, "dd/MM/yyyy HH:mm", locale=LOCALE)
    return format_date(value, "long", locale=LOCALE)


def _money(value: Decimal) -> str:
    return format_currency(value, "BRL", locale=LOCALE)
