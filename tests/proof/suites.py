"""Proofs that are suites of the ordinary run: they are run again and what they looked at is listed."""

import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from nessos.settings import ROOT
from tests.proof.section import Run, Section, Table


@dataclass(frozen=True)
class Case:
    """A test that was run.

    Attributes:
        file: Where it stands.
        sentence: Its name in words, without its parameters.
        parameters: What stands in brackets behind its name.
        failure: Why it failed; empty if it did not.
        properties: What it recorded.
    """

    file: str
    sentence: str
    parameters: str
    failure: str
    properties: dict[str, str]

    @property
    def again(self) -> str:
        """The failure, and how to see it again."""
        return f"{self.sentence} [{self.parameters}]: {self.failure} (again: .venv/bin/pytest {self.file})"


def cases(run: Run, *arguments: str, spread: str = "loadfile") -> list[Case]:
    """Run tests and return them in their order.

    Args:
        run: How many processes may be at work.
        arguments: Paths and options of pytest.
        spread: How xdist deals them out.

    Returns:
        The tests that were run; none if pytest could not begin.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "report.xml")
        subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-n", str(run.processes)),
                *("--dist", spread, f"--junit-xml={path}", *arguments),
            ],
            cwd=ROOT,
            check=False,
            stdout=subprocess.DEVNULL,
        )
        # Our own report of a moment ago, not something received.
        return read_cases(ET.parse(path).iter("testcase")) if path.exists() else []  # noqa: S314


def read_cases(elements: Iterable[ET.Element]) -> list[Case]:
    """Read the cases of a report of pytest's."""
    found = []
    for element in elements:
        name, _, parameters = element.get("name", "").partition("[")
        # Of several outcomes the first speaks: a failure, then an error while tidying up.
        bad = next((one for one in element if one.tag in {"failure", "error"}), None)
        found.append(
            Case(
                f"{element.get('classname', '').replace('.', '/')}.py",
                name.removeprefix("test_").replace("_", " "),
                parameters.removesuffix("]"),
                "" if bad is None else re.sub(r"\s+", " ", bad.get("message") or "failed")[:200],
                {one.get("name", ""): one.get("value", "") for one in element.iter("property")},
            )
        )
    return found


def matrix(run: Run) -> Section:
    """Execute the access matrix: every relation and function, every actor, every verb."""
    ran = cases(run, "tests/access")
    cells: Counter[str] = Counter()
    for case in ran:
        rule = case.parameters.partition("-")[0] if case.sentence == "cells" else case.sentence
        cells[rule] += int(case.properties.get("cells", 0))
    failures = tuple(case.again for case in ran if case.failure)
    return Section(
        title="Access matrix",
        summary=f"{cells.total():,} cells executed in {len(ran)} tests, {len(failures)} failed",
        is_kept=bool(cells.total()) and not failures,
        tables=(
            Table(
                caption="Cells by what they show",
                columns=("shown", "cells"),
                rows=tuple((name, count) for name, count in cells.items() if count),
            ),
        ),
        failures=failures,
    )


def kills(run: Run) -> Section:
    """Kill workers, runners and databases at every moment the fault suite knows."""
    ran = cases(run, "tests/faults")
    failures = tuple(case.again for case in ran if case.failure)
    return Section(
        title="Kill matrix",
        summary=f"{len(ran)} ways to die or fail, {len(failures)} lost or repeated something",
        is_kept=bool(ran) and not failures,
        tables=(
            Table(
                caption="What is done to it, and whether nothing is lost or done twice",
                columns=("part", "what", "when", "held"),
                rows=tuple(
                    (
                        Path(case.file).stem.removeprefix("test_").replace("_", " "),
                        case.sentence,
                        case.parameters,
                        "no" if case.failure else "yes",
                    )
                    for case in ran
                ),
            ),
        ),
        failures=failures,
    )
