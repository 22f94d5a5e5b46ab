"""A slice of the proof of non-interference, and leaks that it must find."""

from collections.abc import Callable

import pytest

from tests.cluster import Server
from tests.proof.interference import OFTEN, Tally, compare, pairs
from tests.proof.requests import Drawer

SEED = 20260101
# What is planted, and what is asked then.
LEAKS = {
    "a policy that lets everybody read": (
        "alter policy leads_select on public.leads using (true)",
        {"leads"},
    ),
    "a unique that spans tenants": (
        "create unique index on public.playbooks (title)",
        {"playbooks"},
    ),
    "a function that looks at all rows": (
        """
        create function public.is_known(email text) returns boolean
        language sql stable security definer set search_path = ''
        as 'select exists (select from public.leads as l where l.email = is_known.email)';
        grant execute on function public.is_known to authenticated
        """,
        {"is_known"},
    ),
}


@pytest.mark.usefixtures("world_template")
def test_the_other_organisation_makes_no_difference(
    server: Server, proves: Callable[[str], None]
) -> None:
    tally = Tally()
    with pairs(server) as pair:
        compare(pair, Drawer(pair.catalog, OFTEN, SEED), range(500), tally)
    assert tally.failures == []
    assert tally.with_rows > 50
    assert tally.succeeded > 0.35 * tally.total
    proves(f"non-interference: {tally.total} requests compared, {tally.with_rows} with rows")


@pytest.mark.usefixtures("world_template")
def test_planted_leaks_are_found_and_reduced_to_one_request_each(server: Server) -> None:
    with pairs(server, ";".join(damage for damage, _ in LEAKS.values())) as pair:
        for leak, (_, asked) in LEAKS.items():
            pair.renew()
            drawer = Drawer(pair.catalog, {"owner": 1}, SEED, about=asked)
            tally = Tally()
            first = 0
            while not tally.failures and first < 1000:
                compare(pair, drawer, range(first, first + 50), tally, enough=1)
                first += 50
            assert tally.failures, leak
            assert f"/{asked.pop()}" in tally.failures[0]
