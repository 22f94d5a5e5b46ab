"""Hostile input at the border: whatever a stranger sends, the answer is a plain refusal, and the next one is served.

Every function a visitor may call over REST and every edge function gets values and whole bodies that are too long, too deep, too
large, in the wrong encoding, with line breaks, null bytes, HTML, SQL. Hypothesis draws them, and shrinks what it finds.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

import httpx
import psycopg
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests import conftest
from tests.api.stack import Api, Company, Running
from tests.cluster import Server, end_run, new_run_folder
from tests.proof.prepared import prepare
from tests.proof.section import Run, Section, Table

EXAMPLES: Final = 1000  # for each surface
NASTY: Final = (
    "",
    " ",
    "\x00",
    "a\x00b",
    "\ud800",
    "\ufeff",
    "\u202eabc",
    "a\r\nSet-Cookie: x=1",
    "a\nb",
    "=cmd|' /C calc'!A1",
    "+1+1",
    "@SUM(A1)",
    "\t=1",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    "'; drop table public.leads; --",
    "$$ || pg_sleep(9) || $$",
    "{{7*7}}",
    "../../etc/passwd",
    "%00%0d%0a",
    "😀" * 50,
    "x" * 300,
    "x" * 100_000,
    "ação " * 5_000,
    "0" * 400,
    "1e400",
    "NaN",
    "2026-02-30",
    "99999-01-01",
    "00000000-0000-0000-0000-000000000000",
    "a@b",
    "a@b.example\r\nbcc: c@d.example",
)
NUMBERS: Final = (0, -0.0, -1, 2**31, 2**63, 2**64, 10**400, 1e308, 5e-324, 0.1 + 0.2)
# Bodies that are not what they say.
BODIES: Final = (
    b"",
    b"null",
    b"[]",
    b'"text"',
    b"{",
    b'{"a":',
    b"NaN",
    b'{"value": 1e400}',
    b'{"value": -Infinity}',
    b"\xff\xfe\x00",
    b"\xef\xbb\xbf{}",
    '{"name": "é"}'.encode("latin-1"),
    '{"name": "é"}'.encode("utf-16"),
    b'{"name": "\xc0\xaf"}',
    b'{"name": "\\ud800"}',
    b'{"name": "\\u0000"}',
    b'{"name": 1, "name": 2}',
    b"[" * 5_000,
    b"[" * 5_000 + b"]" * 5_000,
    b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    b'{"question": "' + b"x" * 2_000_000 + b'"}',
    b"\x1f\x8b\x08\x00",
    b"a=1&b=2",
    b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--x--",
)
# Values that no encoder of JSON would write.
RAW: Final = (
    "[" * 6_000 + "]" * 6_000,
    '{"a":' * 6_000 + "1" + "}" * 6_000,
    "1e400",
    "-1e400",
    "9" * 5_000,
    '"\\u0000"',
    '"\\ud800"',
)
# What an answer never has: paths of the machine, traces, statements, names of constraints.
INTERNALS: Final = re.compile(
    r"(/(?:usr|home|root|tmp|opt|app|work)/|file://|\bat \w+.*:\d+:\d+|Traceback|node_modules|"
    r"PL/pgSQL|SQL statement|violates \w+ constraint|postgres(?:ql)?://)"
)


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


_RAW: Final = "to be replaced by one of RAW"
texts = st.one_of(st.sampled_from(NASTY), st.text(max_size=50))
values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.sampled_from(NUMBERS),
        st.integers(),
        st.floats(),
        texts,
        st.builds(_nested, st.sampled_from((3, 50, 500))),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=5,
)


@dataclass(frozen=True)
class Surface:
    """One place where strangers' words come in.

    Attributes:
        name: What it is.
        path: Where it is.
        valid: A body that is welcome, asked for anew each time.
        headers: Besides the content type.
    """

    name: str
    path: str
    valid: Callable[[], dict[str, Any]]
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Tally:
    """What a surface answered, and what was wrong with it."""

    answered: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


class Border:
    """The running stack, a company on it, and its surfaces."""

    def __init__(self, api: Api, company: Company) -> None:
        self.api = api
        self.company = company
        self.http = api.http()
        machine = company.owner.client.rpc(
            "create_api_key",
            {"org": str(company.id), "name": "Sonda", "scopes": ["indicators:write"]},
        ).execute()
        source = company.owner.client.rpc(
            "create_webhook_source", {"org": str(company.id), "provider": "evolution"}
        ).execute()
        company.insert("public_jobs", slug="vaga", title="Vaga", description="x", is_open=True)
        self.key = machine.data["key"]
        self.surfaces = [*self._functions(), *self._edges(source.data["path"])]

    def _functions(self) -> Iterator[Surface]:
        """Yield every function that visitors may call, with arguments they may give."""
        for name, arguments in self.api.db.execute(
            "select p.proname, coalesce(p.proargnames[1:p.pronargs], '{}') from pg_proc p"
            " where p.pronamespace = 'public'::regnamespace and has_function_privilege('anon', p.oid, 'execute')"
            " and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)"
            " and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e') order by 1"
        ).fetchall():
            yield Surface(
                f"function {name}",
                f"/rest/v1/rpc/{name}",
                lambda arguments=arguments: {  # type: ignore[misc]
                    argument: self._welcome(argument) for argument in arguments
                },
            )

    def _welcome(self, argument: str) -> Any:
        known: dict[str, Any] = {
            "org_slug": self.company.slug,
            "slug": self.company.slug,
            "job_slug": "vaga",
            "p_org": str(self.company.id),
            "name": "Ana Lima",
            "email": f"{uuid4().hex}@visitors.example",
            "message": "Quero uma proposta.",
            "consent": True,
            "website": "",
            "p_query": "horário",
            "p_limit": 3,
            "p_audience": "public",
            "api_key": self.key,
            "indicators": {"source": "Infra", "metric_type": "uptime_pct", "value": 99.9},
        }
        return known.get(argument)

    def _edges(self, path: str) -> Iterator[Surface]:
        """Yield every edge function, reached with what it asks for first."""
        yield Surface(
            "edge function chat",
            "/functions/v1/chat",
            lambda: {"organization": self.company.slug, "question": "Qual o horário?"},
            {"prefer": "wait=0"},
        )
        yield Surface(
            "edge function ingest",
            "/functions/v1/ingest",
            lambda: {"source": "Infra", "metric_type": "uptime_pct", "value": 99.9},
            {"x-api-key": self.key},
        )
        yield Surface(
            "edge function webhook",
            path,
            lambda: {"event": "messages.update", "instance": "x", "data": {"keyId": uuid4().hex}},
        )
        yield Surface("edge function health", "/functions/v1/health/integrations", dict)
        yield Surface(
            "sign-up",
            "/auth/v1/signup",
            lambda: {"email": f"{uuid4().hex}@people.example", "password": "correct-horse"},
        )
        yield Surface(
            "sign-in",
            "/auth/v1/token?grant_type=password",
            lambda: {"email": self.company.owner.email, "password": "wrong"},
        )

    def send(self, surface: Surface, content: bytes) -> httpx.Response:
        """Send a body, from an address that no limit knows."""
        self.api.db.execute("delete from app.rate_hits")
        return self.http.post(
            surface.path,
            content=content,
            headers={"content-type": "application/json", **surface.headers},
        )

    def verdict(self, surface: Surface, content: bytes, tally: Tally) -> str | None:
        """Send a body and say what is wrong with the answer, or with the one to the next."""
        answer = self.send(surface, content)
        tally.answered[answer.status_code] += 1
        if answer.status_code >= 500:
            return f"answers {answer.status_code} {answer.text[:200]}"
        if found := INTERNALS.search(answer.text):
            return f"tells {found[0]!r}: {answer.text[:300]}"
        after = self.send(surface, json.dumps(surface.valid()).encode())
        if after.status_code >= 500:
            return f"then answers {after.status_code} to what is welcome"
        return None

    def unchecked(self) -> list[str]:
        """Return the check constraints that stored rows break, and texts that no client can read."""
        broken = []
        for table, name, expression in self.api.db.execute(
            "select k.conrelid::regclass::text, k.conname, pg_get_expr(k.conbin, k.conrelid) from pg_constraint k"
            " where k.contype = 'c' and k.conrelid <> 0 and k.connamespace = 'public'::regnamespace"
        ).fetchall():
            query = f"select count(*) from {table} where not ({expression})"
            if self.api.db.execute(query).fetchone() != (0,):
                broken.append(f"{table} has rows that {name} refuses")
        return broken


def attack(border: Border, surface: Surface, *, examples: int, number: int) -> Tally:
    """Draw hostile bodies for a surface until one is not refused as it should be.

    Args:
        border: The running stack.
        surface: Where they go.
        examples: How many.
        number: The seed.

    Returns:
        What was answered; a failure with the smallest body that shows it.
    """
    tally = Tally()

    @st.composite
    def bodies(draw: st.DrawFn) -> bytes:
        kind = draw(st.integers(0, 9))
        if kind == 0:
            return draw(st.one_of(st.sampled_from(BODIES), st.binary(max_size=200)))
        body = surface.valid()
        names = [*body, "extra"] if kind == 1 else list(body) or ["extra"]
        for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=2)):
            body[name] = draw(values)
        if kind == 2:
            body.pop(draw(st.sampled_from(names)), None)
        text = json.dumps(body)
        if kind == 3:
            body[draw(st.sampled_from(names))] = _RAW
            text = json.dumps(body).replace(json.dumps(_RAW), draw(st.sampled_from(RAW)))
        return text.encode("utf-8", "surrogatepass")

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(bodies())
    def refuses(content: bytes) -> None:
        wrong = border.verdict(surface, content, tally)
        shown = content[:300].decode("utf-8", "backslashreplace")
        assert wrong is None, f"{surface.name}, {shown}: {wrong}"

    try:
        refuses()
    except AssertionError as error:
        tally.failures.append(f"seed {number}: {str(error).splitlines()[0]}")
    return tally


@contextmanager
def border_of(server: Server) -> Iterator[Border]:
    """Give the stack with functions on a database of its own, and a company."""
    with ExitStack() as stack:
        url = stack.enter_context(server.clone(conftest.WORLD_TEMPLATE, "b_border"))
        running = stack.enter_context(
            Running(url, server.cluster.url("b_border", user="authenticator"))
        )
        running.start("gateway")
        running.start("functions")
        db = stack.enter_context(psycopg.connect(url, autocommit=True))
        api = running.api(db)
        yield Border(api, api.company())


def prove(run: Run) -> Section:
    """Attack every surface."""
    folder = new_run_folder()
    tallies: dict[str, Tally] = {}
    try:
        server = Server(folder, 18)
        prepare(server)
        with border_of(server) as border:
            for surface in border.surfaces:
                tallies[surface.name] = attack(border, surface, examples=EXAMPLES, number=run.seed)
                run.say(f"  {surface.name}: {len(tallies[surface.name].failures)} failures")
            broken = border.unchecked()
    finally:
        end_run(folder)
    failures = [*(one for tally in tallies.values() for one in tally.failures), *broken]
    sent = sum(tally.answered.total() for tally in tallies.values())
    return Section(
        title="Hostile input at the border",
        summary=f"{sent:,} hostile bodies to {len(tallies)} surfaces, {len(failures)} not refused as they should be"
        f" (seed {run.seed})",
        is_kept=not failures,
        tables=(
            Table(
                caption="What each surface answered",
                columns=("surface", "sent", "2xx", "4xx", "5xx"),
                rows=tuple(
                    (name, tally.answered.total(), *(_share(tally, digit) for digit in (2, 4, 5)))
                    for name, tally in tallies.items()
                ),
            ),
        ),
        failures=tuple(failures),
    )


def _share(tally: Tally, digit: int) -> int:
    return sum(count for status, count in tally.answered.items() if status // 100 == digit)
