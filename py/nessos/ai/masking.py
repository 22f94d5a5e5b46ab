"""Personal data that no provider of language models sees: stand-ins go, the answer has them back.

What has check digits is told by them. What is taken for personal data by mistake does no harm: it
is restored like everything else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from validate_docbr import CNPJ, CPF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_STAND_IN: Final = re.compile(r"\[(?:CPF|CNPJ|CARTAO|EMAIL|TELEFONE)_\d+\]")
_cpf, _cnpj = CPF(), CNPJ()


def _has_luhn_digit(text: str) -> bool:
    """Check the last digit of a card's number (ISO/IEC 7812-1, annex B)."""
    digits = [int(letter) for letter in text if letter.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return len(set(digits)) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


_KINDS: Final[tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...]] = (
    (
        "EMAIL",
        re.compile(
            r"[A-Za-z0-9][A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{0,63}@"
            r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,63}"
        ),
        lambda _: True,
    ),
    (
        "CNPJ",
        re.compile(
            r"(?<![0-9A-Za-z])[0-9A-Z]{2}[.\s]?[0-9A-Z]{3}[.\s]?[0-9A-Z]{3}[/\s]?[0-9A-Z]{4}"
            r"[-\s]?\d{2}(?!\d)",
            re.ASCII | re.IGNORECASE,
        ),
        lambda text: bool(_cnpj.validate(_bare(text).upper())),
    ),
    ("CARTAO", re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)", re.ASCII), _has_luhn_digit),
    (
        "CPF",
        re.compile(r"(?<!\d)\d{3}[.\s-]?\d{3}[.\s-]?\d{3}[.\s/-]?\d{2}(?!\d)", re.ASCII),
        lambda text: bool(_cpf.validate(_bare(text))),
    ),
    (
        "TELEFONE",
        re.compile(
            # Mobile, with its area code; anything abroad; what is written as a number is.
            r"(?<![\d+])(?:\+?55[\s.-]?)?\(?0?[1-9][1-9]\)?[\s.-]?9\d{4}[\s.-]?\d{4}(?!\d)"
            r"|(?<![\d+])(?:\+?55[\s.-]?\(?[1-9][1-9]\)?[\s.-]?|\(0?[1-9][1-9]\)[\s.-]?|"
            r"[1-9][1-9][\s.])[2-5]\d{3}[\s.-]?\d{4}(?!\d)"
            r"|(?<![\d+])\+[1-9]\d{0,2}(?:[\s.()-]{0,2}\d){7,12}(?!\d)"
            r"|(?<![\d.,/-])9\d{4}-\d{4}(?![\d-])",
            re.ASCII,
        ),
        lambda _: True,
    ),
)


def _bare(text: str) -> str:
    return re.sub(r"[^0-9A-Za-z]", "", text)


@dataclass
class Mask:
    """The stand-ins of one conversation: the same value has the same one, in order of appearance.

    Attributes:
        taken: Stand-ins that the texts themselves contain; they stand for nothing.
    """

    taken: frozenset[str] = frozenset()
    _values: dict[str, str] = field(default_factory=dict)
    _stand_ins: dict[tuple[str, str], str] = field(default_factory=dict)

    @classmethod
    def of(cls, texts: Iterable[str | None]) -> Mask:
        """Make the mask for a conversation.

        Args:
            texts: All its texts.

        Returns:
            The mask.
        """
        return cls(frozenset(found for text in texts for found in _STAND_IN.findall(text or "")))

    def hide(self, text: str) -> str:
        """Put stand-ins for personal data.

        Args:
            text: The text.

        Returns:
            The text without CPF, CNPJ, card numbers, e-mail addresses and telephone numbers.
        """
        for kind, pattern, is_true in _KINDS:
            text = pattern.sub(
                lambda found, kind=kind, is_true=is_true: (  # type: ignore[misc]
                    self._stand_in(kind, found[0]) if is_true(found[0]) else found[0]
                ),
                text,
            )
        return text

    def restore(self, text: str, *, is_partial: bool = False) -> str:
        """Put personal data back for its stand-ins.

        Args:
            text: What the model wrote.
            is_partial: Whether more is to come: the beginning of a stand-in is held back.

        Returns:
            The text.
        """
        if is_partial and (start := text.rfind("[")) >= 0:
            tail = text[start:]
            if any(one.startswith(tail) and one != tail for one in self._values):
                text = text[:start]
        return _STAND_IN.sub(lambda found: self._values.get(found[0], found[0]), text)

    def _stand_in(self, kind: str, value: str) -> str:
        known = self._stand_ins.get((kind, value))
        if known:
            return known
        number = 1
        while (one := f"[{kind}_{number}]") in self._values or one in self.taken:
            number += 1
        self._stand_ins[kind, value] = one
        self._values[one] = value
        return one
