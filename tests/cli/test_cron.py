"""`nessos cron`: what an operator sees of the timetable, and does about it."""

import psycopg
import pytest

from cron.timetable import load
from tests.cli.test_commands import answer, run


def state(url: str, job: str) -> dict[str, object]:
    rows: list[dict[str, object]] = answer(url, "cron", "list")
    assert [row["job"] for row in rows] == [line.name for line in load().jobs]
    return next(row for row in rows if row["job"] == job)


@pytest.fixture
def url(seeded_url: str) -> str:
    """The demo companies; nothing has been fired."""
    with psycopg.connect(seeded_url) as db:
        db.execute("delete from app.cron_runs")
        db.execute("delete from app.cron_pauses")
        db.execute("delete from pgqueuer.pgqueuer")
    return seeded_url


def test_a_job_is_fired_for_all_its_organisations_or_for_one(url: str) -> None:
    assert state(url, "contracts.alerts")["runs"] is None
    assert answer(url, "cron", "fire", "contracts.alerts", "--org", "vigia") == {
        "job": "contracts.alerts",
        "runs": 1,
    }
    assert answer(url, "cron", "fire", "contracts.alerts")["runs"] == 1
    assert [row["org"] for row in answer(url, "cron", "runs", "contracts.alerts")] == [
        "claquete",
        "vigia",
    ]
    assert state(url, "contracts.alerts")["runs"] == "1 queued"
    assert "waiting or running" in run(url, "cron", "fire", "contracts.alerts").stdout
    assert answer(url, "cron", "fire", "retention.run")["runs"] == 1


def test_the_list_tells_how_the_last_run_went_and_runs_tells_why(url: str) -> None:
    answer(url, "cron", "fire", "contracts.alerts")
    with psycopg.connect(url) as db:
        for slug, end in (
            ("vigia", "finish_cron_run(r.id, 3, null)"),
            ("claquete", "fail_cron_run(r.id, 'no answer', true)"),
        ):
            db.execute(
                f"select app.begin_cron_run(r.id), app.{end} from app.cron_runs as r"
                " inner join public.organizations as o on o.id = r.org_id where o.slug = %s",
                (slug,),
            )
    assert state(url, "contracts.alerts")["runs"] == "1 failed, 1 succeeded"
    assert [
        (row["org"], row["error"], row["attempts"])
        for row in answer(url, "cron", "runs", "--failed")
    ] == [("claquete", "no answer", 1)]
    assert [row["rows"] for row in answer(url, "cron", "runs", "--org", "vigia")] == [3]
    found = run(url, "doctor").stdout
    assert "contracts.alerts failed for 1 in its last run: no answer" in found
    assert "nessos cron runs contracts.alerts --failed" in found


def test_a_pause_is_shown_and_ended(url: str) -> None:
    assert run(url, "cron", "pause", "upsell.alerts").stdout == "upsell.alerts paused\n"
    assert run(url, "cron", "pause", "metrics.sync", "--org", "vigia").returncode == 0
    paused = state(url, "upsell.alerts")
    assert (paused["paused"], paused["next"]) == (True, None)
    assert state(url, "metrics.sync")["paused"] == ["vigia"]
    assert run(url, "cron", "resume", "upsell.alerts").stdout == "upsell.alerts resumed\n"
    assert run(url, "cron", "resume", "upsell.alerts").stdout == "upsell.alerts was not paused\n"
    assert state(url, "upsell.alerts")["paused"] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fire", "no.such"), "there is no job no.such → nessos cron list"),
        (("runs", "no.such"), "there is no job no.such"),
        (("pause", "no.such"), "there is no job no.such"),
        (("fire", "events.rollup", "--org", "vigia"), "runs for the installation"),
        (("fire", "metrics.sync", "--org", "nowhere"), "there is no organisation nowhere"),
    ],
)
def test_a_mistake_is_refused(url: str, arguments: tuple[str, ...], words: str) -> None:
    done = run(url, "cron", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
