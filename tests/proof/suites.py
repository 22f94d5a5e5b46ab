"""Proofs that are suites of the ordinary run: they are run again and what they looked at is listed."""

import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
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
        """How to see a failure again."""
        return f".venv/bin/pytest {self.file} -k '{self.sentence.split(' ', 1)[0]}': {self.failure}"


def cases(paths: Sequence[str], run: Run) -> list[Case]:
    """Run tests and return them in their order."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "report.xml")
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-n",
                str(run.processes),
                "--dist",
                "loadfile",
                f"--junit-xml={path}",
                *paths,
            ],
            cwd=ROOT,
            check=False,
            stdout=subprocess.DEVNULL,
        )
        tree = ET.parse(path)  # noqa: S314 - written by the line above
    found = []
    for element in tree.iter("testcase"):
        name, _, parameters = element.get("name", "").partition("[")
        # Of several outcomes the first speaks: a failure, then an error while tidying up.
        bad = next((one for one in element if one.tag in {"failure", "error"}), None)
        found.append(
            Case(
                f"{element.get('classname', '').replace('.', '/')}.py",
                name.removeprefix("test_").replace("_", " "),
                parameters.removesuffix("]"),
                "" if bad is None else re.sub(r"\s+", " ", bad.get("message", "failed"))[:200],
                {one.get("name", ""): one.get("value", "") for one in element.iter("property")},
            )
        )
    return found


def matrix(run: Run) -> Section:
    """Execute the access matrix: every relation and function, every actor, every verb."""
    ran = cases(["tests/access"], run)
    cells: Counter[str] = Counter()
    for case in ran:
        cells[case.sentence] += int(case.properties.get("cells", 0))
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
    ran = cases(["tests/faults"], run)
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
