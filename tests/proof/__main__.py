"""Run the proofs and write their report: `make proof`, or `python -m tests.proof mutations` for one of them.

Each proof leaves its section in `.proof`, so that the page can be written again after one of them was run anew.
"""

import os
import secrets
import sys
import time
from pathlib import Path
from typing import Annotated, Final

import typer

from nessos.settings import ROOT
from tests.proof import border, budgets, interference, races, report, score, suites, upgrades
from tests.proof.section import Proof, Run, Section

FOLDER: Final = ROOT / ".proof"
PROOFS: Final[dict[str, Proof]] = {
    "matrix": suites.matrix,
    "mutations": score.prove,
    "interference": interference.prove,
    "races": races.prove,
    "border": border.prove,
    "upgrades": upgrades.prove,
    "kills": suites.kills,
    "budgets": budgets.budgets,
}


def main(
    *,
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Any of {', '.join(PROOFS)}; all without.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Draw what an earlier run has drawn.")] = None,
    only: Annotated[str, typer.Option(help="Part of the names of the mutations to try.")] = "",
    processes: Annotated[int, typer.Option(min=1, help="At work at a time.")] = os.cpu_count() or 1,
) -> None:
    """Run proofs and write .proof/proof.md and .proof/proof.html; exit code 1 when one is not kept."""
    unknown = set(names or ()) - set(PROOFS)
    if unknown:
        raise typer.BadParameter(f"no such proof: {', '.join(sorted(unknown))}")
    run = Run(secrets.randbelow(2**31) if seed is None else seed, processes, only, _say)
    _say(f"seed {run.seed}")
    FOLDER.mkdir(exist_ok=True)
    for name, prove in PROOFS.items():
        if not names or name in names:
            started = time.monotonic()
            _say(f"· {name}")
            section = prove(run)
            (FOLDER / f"{name}.json").write_text(section.model_dump_json(indent=2))
            minutes = (time.monotonic() - started) / 60
            _say(f"{'✓' if section.is_kept else '✗'} {name}: {section.summary} ({minutes:.1f} min)")
    sections = [_read(path) for name in PROOFS if (path := FOLDER / f"{name}.json").exists()]
    for path in report.write(FOLDER, sections):
        print(path)  # noqa: T201 - the answer of a command
    raise typer.Exit(0 if all(section.is_kept for section in sections) else 1)


def _read(path: Path) -> Section:
    return Section.model_validate_json(path.read_text())


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)  # noqa: T201 - progress of a command


if __name__ == "__main__":
    typer.run(main)
