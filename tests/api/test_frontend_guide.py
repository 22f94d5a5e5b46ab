"""Every block of JavaScript in the frontend guide runs, and prints what it says it prints."""

import re

from nessos.settings import ROOT
from tests.api.stack import Api

GUIDE = ROOT / "docs" / "frontend.md"


def test_the_guide_runs_and_prints_what_it_says(api: Api) -> None:
    blocks = re.findall(r"^```js\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) > 10
    script = "\n".join(blocks)
    assert script.count("console.log(") == script.count("// → ")
    # Its calls come from 127.0.0.1, like those of the other scripts.
    api.db.execute("delete from app.rate_hits where bucket like '%:127.0.0.1'")
    assert api.run_script(script).splitlines() == re.findall(r"// → (.*)", script)


def test_no_block_of_another_form_of_javascript_escapes() -> None:
    fences = re.findall(r"^```(\w+)", GUIDE.read_text(), re.MULTILINE)
    assert set(fences) == {"js"}


def test_every_key_and_code_of_the_guide_exists(api: Api) -> None:
    table = GUIDE.read_text().partition("| status |")[2].partition("\n\n")[0]
    keys = {str(row[0]) for row in api.db.execute("select key from app.error_keys")}
    codes = {"payload_too_large", "internal_error", "message", "code", "details", "hint"}
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", table)) - codes
    assert len(named) > 10
    assert named - keys == set()


def test_every_function_and_relation_of_the_guide_exists(api: Api) -> None:
    text = GUIDE.read_text()
    functions = {
        str(row[0])
        for row in api.db.execute(
            "select proname from pg_proc where pronamespace = 'public'::regnamespace"
        )
    }
    named = text.partition("| for | functions |")[2].partition("\n\n")[0]
    called = set(re.findall(r"`(\w+)`", named)) | set(re.findall(r'\.rpc\("(\w+)"', text))
    assert len(called) > 15
    assert called - functions == set()
    relations = {
        str(row[0])
        for row in api.db.execute(
            "select relname from pg_class where relnamespace = 'public'::regnamespace"
        )
    }
    assert set(re.findall(r'\.from\("(\w+)"', text)) - relations == set()
