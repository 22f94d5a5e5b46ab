"""What messages say: every template on every channel, formats of Brazil, and data that attacks."""

import html
import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import nh3
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.rows import dict_row

from nessos.errors import GiveUpError
from nessos.messaging.render import SMS_LIMIT, Words, gsm_length, render, to_gsm
from tests.integrations.fakes.twilio import segments

SAMPLES: dict[str, object] = {
    "text": "Café São João & Filhos",
    "integer": 30,
    "money": 12345.6,
    "date": "2026-03-31",
    "moment": "2026-03-10T02:30:00+00:00",
    "paragraph": "Uma linha.\nE outra, mais longa.",
}


@pytest.fixture(scope="module")
def catalogue(empty_db_url: str) -> dict[str, dict[str, Any]]:
    """The templates of the catalogue, with a claim for each."""
    with psycopg.connect(empty_db_url, row_factory=dict_row) as db:
        claims = {}
        for row in db.execute("select * from app.notification_templates").fetchall():
            data = {name: SAMPLES[kind] for name, kind in row["variables"].items()}
            texts = db.execute(
                "select app.render_notification(%(title)s, %(variables)s, %(data)s, 'America/Sao_Paulo') as title,"
                " app.render_notification(%(body)s, %(variables)s, %(data)s, 'America/Sao_Paulo') as body",
                {
                    **row,
                    "variables": json.dumps(row["variables"]),
                    "data": json.dumps(data),
                },
            ).fetchone()
            assert texts
            claims[row["template"]] = {
                "template": row["template"],
                "variables": row["variables"],
                "data": data,
                "organization": "Alfa Serviços",
                "recipient": "Ana",
                "time_zone": "America/Sao_Paulo",
                "link": "/contracts/1",
                **texts,
            }
    return claims


@pytest.fixture(scope="module")
def renewal(catalogue: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The claim of a contract that renews."""
    return catalogue["contract_renewal_near"]


def written(claim: dict[str, Any], channel: str = "email") -> Words:
    """Render with links to a frontend."""
    return render(channel, claim, app_url="https://app.example/")


class Reader(HTMLParser):
    """Reads a page as a browser would: its tags and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag and its attributes' names."""
        self.tags += [tag, *(f"{tag} {name}" for name, _ in attrs)]

    def handle_data(self, data: str) -> None:
        """Note a text."""
        self.text += data


def test_every_template_of_the_catalogue_is_written_on_every_channel(
    catalogue: dict[str, dict[str, Any]],
) -> None:
    assert len(catalogue) >= 8
    for claim in catalogue.values():
        for channel in ("whatsapp", "sms", "email"):
            words = written(claim, channel)
            assert "https://app.example/contracts/1" in words.text
            assert not re.search(r"[{}]|None", words.text + words.subject)
        assert claim["title"] in words.subject
        assert "\n" not in words.subject
        assert words.html.startswith("<!doctype html>")


def test_every_folder_of_templates_belongs_to_one_of_the_catalogue(
    catalogue: dict[str, dict[str, Any]],
) -> None:
    folders = {
        file.name for file in (files("nessos.messaging") / "templates").iterdir() if file.is_dir()
    }
    assert folders - {"default"} <= set(catalogue)
    assert "default" in folders


def test_a_mail_about_a_contract_names_its_day_and_value_as_people_write_them(
    renewal: dict[str, Any],
) -> None:
    text = Reader(written(renewal).html).text
    assert "31 de março de 2026" in text
    assert "R$\u00a012.345,60" in text
    assert "Café São João & Filhos" in text


def test_the_same_claim_gives_the_same_words(renewal: dict[str, Any]) -> None:
    assert written(renewal) == written(json.loads(json.dumps(renewal)))


def test_without_a_frontend_there_are_no_links(renewal: dict[str, Any]) -> None:
    for channel in ("whatsapp", "sms", "email"):
        words = render(channel, renewal, app_url=None)
        assert "http" not in words.text + words.html


ATTACKS = [
    "<script>alert(1)</script>",
    "{{ 7 * 7 }}{% for x in range(9) %}x{% endfor %}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    '"><img src=x onerror=alert(1)>',
    "a\r\nBcc: victim@example.com",
    "{title} {number}",
    "&lt;b&gt; ' \" `",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_data_is_shown_not_run(renewal: dict[str, Any], attack: str) -> None:
    calm = Reader(written(renewal).html)
    hostile = {
        **renewal,
        "organization": attack,
        "recipient": attack,
        "title": attack,
        "body": attack,
    }
    hostile["data"] = {**renewal["data"], "client": attack, "number": attack, "contract": attack}
    words = written(hostile)
    page = Reader(words.html)
    assert page.tags == calm.tags
    shown = " ".join(attack.split())
    assert page.text.count(shown) >= 3
    # A second opinion, by the parser of a browser: without tags and scripts nothing of it is gone.
    assert html.unescape(nh3.clean(words.html, tags=set())).count(shown) >= 3
    assert words.subject == shown
    assert attack.partition("\n")[0].strip() in written(hostile, "whatsapp").text
    assert "49" not in words.text + words.html


@given(text=st.text(max_size=200))
def test_no_text_changes_the_tags_of_a_mail(renewal: dict[str, Any], text: str) -> None:
    hostile = {**renewal, "title": text, "body": text, "organization": text}
    assert Reader(written(hostile).html).tags == Reader(written(renewal).html).tags


def test_a_file_that_asks_for_what_is_not_there_says_so(renewal: dict[str, Any]) -> None:
    poor = {**renewal, "variables": {"number": "text"}}
    with pytest.raises(GiveUpError, match=r"contract_renewal_near/sms\.txt: .*client"):
        written(poor, "sms")


# --- SMS -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("São João: renovação às 10h", "Sao Joao: renovacao às 10h"),
        ("É já \u2013 \u201cnão\u201d \u2026 nº 5", 'É ja - "nao" ... no 5'),
        ("Ñandú €5 [ok]", "Ñandu €5 [ok]"),
        ("日本 🎉", "?? ?"),
    ],
)
def test_an_sms_is_written_in_its_own_alphabet(text: str, plain: str) -> None:
    assert to_gsm(text) == plain


@given(text=st.text(max_size=500))
def test_no_text_makes_an_sms_of_more_than_two_parts(renewal: dict[str, Any], text: str) -> None:
    words = written({**renewal, "organization": text or "x"}, "sms")
    assert gsm_length(words.text) <= SMS_LIMIT
    assert segments(words.text) <= 2
    assert words.text.endswith(" https://app.example/contracts/1")
