"""How fast, and in how much memory, an organisation's clients and titles come from Omie."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, Final

from bench.measure import Figure, within
from tests.integrations.fakes.omie import FakeOmie

if TYPE_CHECKING:
    from bench.subject import Bench

_CLIENTS: Final = 10_000
_TITLES: Final = 50_000
_MOST_MB: Final = 200


def synchronisation(bench: Bench) -> list[Figure]:
    """Read everything once into an empty organisation, and once more when nothing has changed.

    The fake serves from this process, the reading is a process of its own. Omie's limit of 240
    requests a minute is off: it would be all there is to measure.

    Args:
        bench: Where.

    Returns:
        Rows per second of the first and of a later reading, and the peak of memory.
    """
    bench.owner().close()
    fake = _filled()
    with fake.serving() as address:
        bare = _read(bench, fake, address, "fetch")
        first = _read(bench, fake, address, "sync")
        again = _read(bench, fake, address, "sync")
    rows = _CLIENTS + _TITLES
    assert first["created"] == rows, first
    assert again["unchanged"] == rows, again
    return [
        _speed("Omie: 10,000 clients and 50,000 titles, first time", first, bare),
        _speed("Omie: the same again, nothing changed", again, bare),
        within(
            (_MOST_MB, "MB"),
            "Omie: peak memory of the process that reads them",
            max(first["peak_mb"], again["peak_mb"]),
            bare["peak_mb"],
            "the same pages fetched and dropped",
        ),
    ]


def _speed(what: str, done: dict[str, Any], bare: dict[str, Any]) -> Figure:
    rows = _CLIENTS + _TITLES
    value, baseline = rows / done["seconds"], rows / bare["seconds"]
    note = (
        f"{done['seconds']:.1f} s, of which fetching {bare['seconds']:.1f} s;"
        f" {bare['pages']:,} pages, a title being on two lists"
    )
    against = "the same pages fetched and dropped"
    return Figure(what, value, "rows/s", baseline, against, baseline / value, "", None, (note,))


def _filled() -> FakeOmie:
    fake = FakeOmie(is_strict=False, is_frozen=True)
    day = date(2026, 1, 5)
    codes = [fake.add_client(n, _cnpj(n)) for n in range(_CLIENTS)]
    for n in range(_TITLES):
        issued = day + timedelta(days=n % 180)
        title = fake.add_title(
            n, codes[n % _CLIENTS], f"{100 + n % 9000}.{n % 100:02}", issued=issued, due=issued
        )
        if n % 2:
            fake.pay(title, str(fake.titles[title]["valor_documento"]), issued, number=n)
    return fake


def _cnpj(number: int) -> str:
    digits = f"{number:08}0001"
    for weights in ((5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2), (6, 5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2)):
        rest = sum(int(d) * w for d, w in zip(digits, weights, strict=True)) % 11
        digits += "0" if rest < 2 else str(11 - rest)  # noqa: PLR2004 - modulus 11
    return f"{digits[:2]}.{digits[2:5]}.{digits[5:8]}/{digits[8:12]}-{digits[12:]}"


def _read(bench: Bench, fake: FakeOmie, address: str, what: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.omie_reader", what, address, str(bench.tenant(1))],
        env={**os.environ, "DATABASE_URL": bench.url},
        input=json.dumps([fake.app_key, fake.app_secret]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
