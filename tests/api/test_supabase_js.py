"""A frontend with supabase-js gets the same answers."""

from tests.api.stack import HERE, Api

STEPS = [
    "sign up",
    "wrong password",
    "sign in",
    "refresh",
    "create an organisation",
    "invite and accept",
    "a visitor's lead",
    "embeds over composite keys",
    "filters, order, pages",
    "upsert, update, delete",
    "settings as JSON",
    "errors",
    "another company is blind",
    "a removed member is denied at once",
    "sign out",
]


def test_supabase_js_goes_the_whole_way(api: Api) -> None:
    # Its calls come from 127.0.0.1, like those of the other scripts.
    api.db.execute("delete from app.rate_hits where bucket like '%:127.0.0.1'")
    assert api.run_script(HERE / "supabase_js.mjs").splitlines() == STEPS
