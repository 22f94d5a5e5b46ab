"""How processes that nobody watches tell what they do: a line per event, JSON off a terminal."""

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

REDACTED: Final = "[redacted]"

_SECRET_FIELD: Final = re.compile(
    r"password|secret|token|api_?key|authorization|cookie", re.IGNORECASE
)
_PERSONAL_FIELD: Final = re.compile(
    r"^(e?mails?|phones?|document|cpf|cnpj|address|full_name)$", re.IGNORECASE
)
_IN_TEXT: Final = re.compile(
    r"(?P<url>(?<=://)[^/\s:@]+:[^/\s@]+(?=@))"
    r"|(?P<key>\b(?:sb_secret|nos)_[\w-]+)"
    r"|(?P<token>\beyJ[\w-]+\.[\w-]+\.[\w-]+)"
    r"|(?P<email>[\w.+-]+@[\w-]+(?:\.[\w-]+)+)"
)


def configure(*, level: int = logging.INFO) -> None:
    """Send the log of this process, and of the libraries in it, to standard error.

    Args:
        level: The least that is told.
    """
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,
    ]
    renderer: Processor = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # It tells the address of every call, and keys travel in addresses.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Take secrets and personal data out of an event, by the name of a field and by their look.

    Args:
        event: The fields, the message among them.

    Returns:
        The event without them.
    """
    for name, value in event.items():
        if _SECRET_FIELD.search(name) or _PERSONAL_FIELD.match(name):
            event[name] = REDACTED
        elif isinstance(value, str):
            event[name] = clean(value)
    return event


def clean(text: str) -> str:
    """Take out of a text what looks like a secret or like personal data.

    Args:
        text: Any text.

    Returns:
        The text without it.
    """
    return _IN_TEXT.sub(REDACTED, text)
