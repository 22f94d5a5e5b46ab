"""Cutting a Markdown text into passages.

At headings first, then between paragraphs, then between sentences (design ai §1): a passage aims at
800 characters and never exceeds 1,200. It is always exactly a stretch of the text, so that what an
answer quotes can be found again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

AIM: Final = 800
"""Characters a passage aims at."""

LIMIT: Final = 1200
"""Characters a passage never exceeds."""

_HEADING: Final = re.compile(r"^(#{1,6})[ \t]+(.+?)[ \t]*#*[ \t]*$", re.MULTILINE)
_FENCE: Final = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)
HEADING_SEPARATOR: Final = " \u203a "  # a single right-pointing angle quotation mark
_PARAGRAPH: Final = re.compile(r"\n[ \t]*\n\s*")
_SENTENCE: Final = re.compile(r"(?<=[.!?…:;])[\"'\u201d\u2019)\]]*\s+|\n+")


@dataclass(frozen=True)
class Passage:
    """One stretch of a text.

    Attributes:
        heading_path: The headings it stands under, joined as HEADING_SEPARATOR says.
        start: Its first character, from 0.
        end: The character after its last.
    """

    heading_path: str
    start: int
    end: int


def cut(text: str) -> list[Passage]:
    """Cut a text into passages.

    Args:
        text: Markdown.

    Returns:
        Passages in order; a sentence at the seam of two belongs to both. Empty for a blank text.
    """
    return [
        Passage(path, start, end)
        for path, section_start, section_end in _sections(text)
        for start, end in _pack(list(_sentences(text, section_start, section_end)))
    ]


def _sections(text: str) -> Iterator[tuple[str, int, int]]:
    """Give each heading's stretch, the heading's own line left out."""
    fences = [match.span() for match in _FENCE.finditer(text)]
    path: list[tuple[int, str]] = []
    start = 0
    for match in _HEADING.finditer(text):
        if any(first <= match.start() < last for first, last in fences):
            continue
        yield HEADING_SEPARATOR.join(title for _, title in path), start, match.start()
        level = len(match[1])
        path = [*((one, title) for one, title in path if one < level), (level, match[2])]
        start = match.end()
    yield HEADING_SEPARATOR.join(title for _, title in path), start, len(text)


def _sentences(text: str, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """Give the sentences of a stretch, each with whether it begins a paragraph."""
    for first, last in _between(_PARAGRAPH, text, start, end):
        begins = True
        for one, other in _between(_SENTENCE, text, first, last):
            for place in range(one, other, LIMIT // 2):
                yield place, min(place + LIMIT // 2, other), begins
                begins = False


def _between(seam: re.Pattern[str], text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Give the stretches between the matches of a seam, blanks at their ends left out."""
    place = start
    for match in seam.finditer(text, start, end):
        yield from _trimmed(text, place, match.start())
        place = match.end()
    yield from _trimmed(text, place, end)


def _trimmed(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    inner = text[start:end]
    if inner.strip():
        yield (
            start + len(inner) - len(inner.lstrip()),
            end - len(inner) + len(inner.rstrip()),
        )


def _pack(sentences: list[tuple[int, int, bool]]) -> Iterator[tuple[int, int]]:
    """Join neighbouring sentences up to the aim, breaking at a paragraph where one is near."""
    first = 0
    while first < len(sentences):
        start = sentences[first][0]
        last = first
        while last + 1 < len(sentences):
            _, end, begins = sentences[last + 1]
            size = sentences[last][1] - start
            if end - start > LIMIT or size >= AIM or (begins and size >= AIM // 2):
                break
            last += 1
        yield start, sentences[last][1]
        if last + 1 == len(sentences):
            return
        # One sentence of overlap, unless it is all there was or a paragraph begins anyway.
        overlap = sentences[last]
        fits = sentences[last + 1][1] - overlap[0] <= LIMIT
        keeps = last > first and fits and overlap[1] - overlap[0] <= AIM // 2
        first = last if keeps and not sentences[last + 1][2] else last + 1
