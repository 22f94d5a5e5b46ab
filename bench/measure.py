"""How a measurement is taken: variants in turn, warmed up, compared by medians and percentiles."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True)
class Figure:
    """One line of the report.

    Attributes:
        what: What was measured.
        value: The figure, in `unit`.
        unit: Unit of the figure and of its baseline.
        baseline: What it is compared with.
        against: What the baseline is.
        ratio: The figure as a multiple of the baseline; of a gain the other way round; None if 0.
        budget: The budget in words; empty for a figure that only informs.
        is_kept: Whether the budget is kept; None for a figure that only informs.
        notes: How it came about: plans, counts, spread.
    """

    what: str
    value: float
    unit: str
    baseline: float
    against: str
    ratio: float | None
    budget: str
    is_kept: bool | None
    notes: Sequence[str] = ()


def at_most(
    factor: float, what: str, value: float, baseline: float, against: str, *notes: str
) -> Figure:
    """Judge a duration by how many times its baseline it is.

    Args:
        factor: The budget.
        what: What was measured.
        value: The figure, in milliseconds.
        baseline: What it is compared with, in milliseconds.
        against: What the baseline is.
        notes: How it came about.

    Returns:
        The figure.
    """
    ratio = value / baseline
    return Figure(
        what, value, "ms", baseline, against, ratio, f"≤ {factor:g} x", ratio <= factor, notes
    )


def at_least(factor: float, what: str, value: float, baseline: float, against: str) -> Figure:
    """Judge a duration by how many times faster than its baseline it is.

    Args:
        factor: The budget; 0 only informs.
        what: What was measured.
        value: The figure, in milliseconds.
        baseline: What it is compared with, in milliseconds.
        against: What the baseline is.

    Returns:
        The figure; its ratio is the gain.
    """
    gain = baseline / value
    budget = f"≥ {factor:g} x faster" if factor else ""
    kept = gain >= factor if factor else None
    return Figure(what, value, "ms", baseline, against, gain, budget, kept)


def within(
    limit: tuple[float, str], what: str, value: float, baseline: float, against: str, *notes: str
) -> Figure:
    """Judge a duration by a fixed limit; the baseline says what it is made of.

    Args:
        limit: The budget and its unit, which is also that of the figure and of the baseline.
        what: What was measured.
        value: The figure.
        baseline: What it is compared with.
        against: What the baseline is.
        notes: How it came about.

    Returns:
        The figure.
    """
    most, unit = limit
    return Figure(
        what,
        value,
        unit,
        baseline,
        against,
        value / baseline,
        f"≤ {most:g} {unit}",
        value <= most,
        notes,
    )


def in_turn(
    variants: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    calls: int = 1,
    warm_up: int = 0,
    before: Callable[[str], object] | None = None,
) -> dict[str, list[float]]:
    """Time variants in turn, so that a change of the machine's mood meets all of them alike.

    Args:
        variants: What to call, by name.
        rounds: How often every variant has its turn; every other round runs backwards.
        calls: Timed calls per turn.
        warm_up: Calls before them that are not timed.
        before: Called with the variant's name before each of its turns, not timed.

    Returns:
        Seconds of every timed call, by variant.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds):
        for name in sorted(variants, reverse=number % 2 == 1):
            if before:
                before(name)
            call = variants[name]
            for _ in range(warm_up):
                call()
            for _ in range(calls):
                started = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - started)
    return seconds


def median_ms(seconds: Sequence[float]) -> float:
    """Give the median.

    Args:
        seconds: Durations.

    Returns:
        Their median in milliseconds.
    """
    return statistics.median(seconds) * 1000


def p95_ms(seconds: Sequence[float]) -> float:
    """Give the 95th percentile.

    Args:
        seconds: Durations.

    Returns:
        The smallest duration that 95 % of them do not exceed, in milliseconds.
    """
    ordered = sorted(seconds)
    return ordered[-(-len(ordered) * 95 // 100) - 1] * 1000
