"""The budgets of architecture.md, measured by `python -m bench`, and recall by size of organisation."""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from nessos.settings import ROOT
from tests.proof.section import Run, Section, Table


def budgets(run: Run) -> Section:
    """Measure every subject of the bench beside its baseline."""
    del run  # it draws nothing, and takes the machine for itself
    answer = subprocess.run(
        [sys.executable, "-m", "bench", "--json"],
        cwd=ROOT,
        check=False,
        stdout=subprocess.PIPE,
        text=True,
    )
    return section(json.loads(answer.stdout))


def section(figures: Sequence[dict[str, Any]]) -> Section:
    """Say which budgets are kept; `figures` are those of the bench, as JSON."""
    recalls = [one for one in figures if "recall" in one["what"]]
    missed = [one for one in figures if one["is_kept"] is False]
    judged = [one for one in figures if one["is_kept"] is not None]
    lowest = min((one["value"] for one in recalls), default=0)
    return Section(
        title="Budgets and recall",
        summary=f"{len(judged) - len(missed)} of {len(judged)} budgets kept,"
        f" recall@10 at least {lowest:.3f} in {len(recalls)} bands",
        is_kept=bool(judged) and bool(recalls) and not missed,
        tables=(
            Table(
                caption="Recall@10 against exact search, by passages of the organisation",
                columns=("band", "recall", "budget"),
                rows=tuple((one["what"], f"{one['value']:.3f}", one["budget"]) for one in recalls),
            ),
            Table(
                caption="Figures beside their baselines",
                columns=("what", "figure", "baseline", "is", "ratio", "budget", "kept"),
                rows=tuple(_row(one) for one in figures if one not in recalls),
            ),
        ),
        failures=tuple(
            f"{one['what']}: {one['value']:.4g} {one['unit']}, budget {one['budget']}"
            for one in missed
        ),
    )


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        one["what"],
        f"{one['value']:.4g} {one['unit']}",
        f"{one['baseline']:.4g} {one['unit']}",
        one["against"],
        "" if one["ratio"] is None else f"{one['ratio']:.2f} x",
        one["budget"],
        {True: "yes", False: "no", None: ""}[one["is_kept"]],
    )
