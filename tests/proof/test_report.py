"""The page says what the proofs found, also that something is missing, and shows no text as HTML."""

from dataclasses import asdict
from pathlib import Path

from bench.measure import Figure
from tests.proof import budgets, report
from tests.proof.section import Section, Table

KEPT = Figure("search p95", 12.5, "ms", 3.1, "exact search", 4.03, "≤ 20 ms", is_kept=True)
RECALL = Figure(
    "band of 200, recall@10", 0.997, "", 1, "exact search", 0.997, "≥ 0.98", is_kept=True
)
MISSED = Figure("list of 50", 9, "ms", 3, "the owner", 3.0, "≤ 1.5 x", is_kept=False)


def test_a_budget_that_is_missed_is_a_failure() -> None:
    kept = budgets.section([asdict(KEPT), asdict(RECALL)])
    assert (kept.is_kept, kept.failures) == (True, ())
    assert kept.summary == "2 of 2 budgets kept, recall@10 at least 0.997 in 1 bands"
    missed = budgets.section([asdict(KEPT), asdict(RECALL), asdict(MISSED)])
    assert not missed.is_kept
    assert missed.failures == ("list of 50: 9 ms, budget ≤ 1.5 x",)


def test_a_bench_that_measured_nothing_keeps_nothing() -> None:
    assert not budgets.section([]).is_kept


def test_the_page_has_every_section_and_says_what_it_ran_on(tmp_path: Path) -> None:
    table = Table(caption="Things", columns=("a", "b"), rows=(("<b>x</b>", 1), ("y | z", 2.5)))
    sections = [
        Section(title="One", summary="1 of 1", is_kept=True, tables=(table,)),
        Section(title="Two", summary="0 of 1", is_kept=False, failures=("<script>: lost",)),
    ]
    markdown, page = report.write(tmp_path, sections)
    assert markdown.read_text().count("| <b>x</b> | 1 |") == 1
    assert "✗ | Two | 0 of 1" in markdown.read_text()
    assert "y \\| z" in markdown.read_text()
    html = page.read_text()
    assert "&lt;script&gt;: lost" in html
    assert "<script>" not in html
    assert html.count("<h2") == 2
    assert "pgqueuer" in html
