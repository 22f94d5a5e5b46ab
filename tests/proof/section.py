"""What a proof is given and what it has to say: one section of the report."""

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict


class Table(BaseModel):
    """Rows under a caption.

    Attributes:
        caption: What the rows are.
        columns: Their headings.
        rows: Cells, as the page shows them.
    """

    model_config = ConfigDict(frozen=True)

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float, ...], ...]


class Section(BaseModel):
    """The outcome of one proof.

    Attributes:
        title: Its heading.
        summary: One line with its figures.
        is_kept: Whether it shows what it has to.
        tables: What it measured, in full.
        failures: What speaks against it, each in a line that says how to see it again.
    """

    model_config = ConfigDict(frozen=True)

    title: str
    summary: str
    is_kept: bool
    tables: tuple[Table, ...] = ()
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """How a proof is run.

    Attributes:
        seed: Of everything drawn at random; the same seed draws the same.
        processes: How many may work at a time.
        only: What a proof that consists of many is limited to; empty: nothing.
        say: Tells the person who waits how far it is.
    """

    seed: int
    processes: int
    only: str
    say: Callable[[str], None]


Proof = Callable[[Run], Section]
