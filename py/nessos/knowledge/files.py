"""Reading the text of a file somebody gives to the knowledge: Markdown, plain text or PDF."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nessos.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES: Final = 20_000_000
MAX_PAGES: Final = 500
MAX_CHARACTERS: Final = 2_000_000
"""As the table has it."""

_KINDS: Final = (".md", ".txt", ".pdf")
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_HEADING: Final = re.compile(r"\A\s*#[ \t]+(.+?)[ \t]*#*[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class File:
    """A file as the knowledge takes it.

    Attributes:
        name: Its name, without folders.
        title: Its first heading, or the name in words.
        text: What stands in it.
    """

    name: str
    title: str
    text: str


def read(path: Path) -> File:
    """Read a file.

    Args:
        path: A file that ends in .md, .txt or .pdf.

    Returns:
        Its text.

    Raises:
        UsageError: It is missing, of another kind, too large, broken, encrypted, or has no text.
    """
    kind = path.suffix.lower()
    if kind not in _KINDS:
        raise UsageError(f"{path.name} is neither Markdown, text nor PDF", "give .md, .txt or .pdf")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UsageError(f"{path.name} has more than {MAX_BYTES // 1_000_000} MB", "split it")
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path.name} cannot be read: {error.strerror}") from error
    text = _pdf(content, path.name) if kind == ".pdf" else decoded(content, path.name)
    text = _CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    if not text.strip():
        raise UsageError(
            f"{path.name} holds no text",
            "a scanned PDF needs its text recognised first" if kind == ".pdf" else None,
        )
    if len(text) > MAX_CHARACTERS:
        raise UsageError(f"{path.name} has more than {MAX_CHARACTERS:,} characters", "split it")
    heading = _HEADING.match(text) if kind == ".md" else None
    title = heading[1] if heading else re.sub(r"[-_\s]+", " ", path.stem).strip().capitalize()
    return File(path.name, title[:200], text)


def decoded(content: bytes, name: str) -> str:
    """Decode a text: by its byte order mark, as UTF-8, or as Windows writes Latin letters.

    Args:
        content: The file.
        name: Its name, for the error.

    Returns:
        The text.

    Raises:
        UsageError: It is no text.
    """
    for mark, encoding in ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if content.startswith(mark):
            return content.decode(encoding, errors="replace")
    # Text has no zero bytes but for a stray one; a program or picture is full of them.
    if content.count(0) > len(content) // 100:
        raise UsageError(f"{name} is no text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def _pdf(content: bytes, name: str) -> str:
    from io import BytesIO  # noqa: PLC0415 - with the library it is for

    from pypdf import PdfReader  # noqa: PLC0415 - only who reads a PDF waits for it

    try:
        reader = PdfReader(BytesIO(content))
        is_locked = bool(reader.is_encrypted and not reader.decrypt(""))
        count = 0 if is_locked else len(reader.pages)
        pages = [page.extract_text() for page in reader.pages] if 0 < count <= MAX_PAGES else []
    except Exception as error:  # the library says it in many ways
        raise UsageError(f"{name} is no readable PDF", "open it and save it again") from error
    if is_locked:
        raise UsageError(f"{name} is encrypted", "save it without a password")
    if count > MAX_PAGES:
        raise UsageError(f"{name} has more than {MAX_PAGES} pages", "split it")
    return "\n\n".join(page.strip() for page in pages if page.strip())
