"""Non-interference: what organisation a is answered is the same, whether organisation b is there or not.

Two stacks run side by side on copies of one database, b deleted from the second. Each request goes to both; status, headers,
body and, at the end of a round, the rows of a are compared. The clock of both databases stands still.
"""

import contextlib
import itertools
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import httpx
import jwt
import psycopg

from tests import conftest
from tests.access.actors import ACTORS, A, Actor, B
from tests.access.matrix import PLACES
from tests.access.rows import Place, Rows
from tests.api.stack import Api, Running
from tests.cluster import Server, end_run, new_run_folder
from tests.people import ROLES
from tests.proof import requests
from tests.proof.prepared import prepare
from tests.proof.requests import Drawer, Request
from tests.proof.section import Run, Section, Table

REQUESTS: Final = 20_000
ROUND: Final = 1000  # requests on one copy of the databases
CLOCK: Final = datetime(2031, 5, 14, 15, tzinfo=UTC)
COMPARED: Final = (
    "content-type",
    "content-range",
    "content-profile",
    "location",
    "preference-applied",
    "www-authenticate",
)
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?([+-]\d\d(:\d\d)?|Z)?")
_TRANSACTION: Final = re.compile(r'"xid":\s*"\d+"')
_PREFIX: Final = re.compile(
    r'"[a-z]{2,12}_[0-9a-f]{6,10}"'
)  # by which people tell their tokens apart
_OPAQUE: Final = re.compile(r"\b[A-Za-z0-9_-]{24,}\b")

CALLERS: Final = {
    actor.name: actor
    for actor in ACTORS
    if actor.kind not in {"analyst", "platform admin"} and actor.org != B.org
}
# Those who may read most ask most: an empty list tells little.
OFTEN: Final = {name: 4 if name in {"owner", "admin", "director"} else 1 for name in CALLERS}


@dataclass(frozen=True)
class Answer:
    """What came back, as far as it has to be the same."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: str

    def against(self, other: "Answer") -> str:
        """Say where two answers part."""
        if (self.status, self.headers) != (other.status, other.headers):
            return f"{self.status} {dict(self.headers)} | {other.status} {dict(other.headers)}"
        at = next(
            (
                n
                for n, (one, two) in enumerate(zip(self.body, other.body, strict=False))
                if one != two
            ),
            min(len(self.body), len(other.body)),
        )
        around = slice(max(at - 80, 0), at + 80)
        return f"{self.status} {self.body[around]} | {other.body[around]}"


@dataclass
class Tally:
    """What was asked so far."""

    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    with_rows: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """How many requests were compared."""
        return self.answered.total()

    @property
    def succeeded(self) -> int:
        """How many of them were answered 2xx."""
        return sum(count for status, count in self.answered.items() if status.startswith("2"))


class Pair:
    """Two stacks, with and without organisation b, and what is known of both."""

    def __init__(self, server: Server, stack: ExitStack, damage: str | None = None) -> None:
        """Build the databases and start a gateway on each.

        Args:
            server: Holds the templates of `prepare`.
            stack: Ends what is started.
            damage: SQL that plants a leak in both.
        """
        self._server = server
        self._numbers = itertools.count(1)
        self.templates = _templates(server, damage)
        for side in self.templates:
            self._copy(side)
        with psycopg.connect(server.cluster.url("i_with")) as db:
            self.catalog = requests.read(db, A.org, B.org, withheld=frozenset({B.slug, str(B.org)}))
            self.known = frozenset(
                found
                for org in (A.org, B.org)
                for row in _rows_of(db, org)
                for found in _UUID.findall(row)
            )
        self.apis: dict[str, Api] = {}
        for side in self.templates:
            rest = server.cluster.url(f"i_{side}", user="authenticator")
            running = stack.enter_context(Running(server.cluster.url(f"i_{side}"), rest))
            running.start("gateway")
            owner = stack.enter_context(psycopg.connect(server.cluster.url(), autocommit=True))
            self.apis[side] = running.api(owner)

    def renew(self) -> None:
        """Begin anew with fresh copies; the gateways connect to them as they did."""
        for side in self.templates:
            self._copy(side)

    def _copy(self, side: str) -> None:
        with psycopg.connect(self._server.cluster.url(), autocommit=True) as db:
            db.execute(f"drop database if exists i_{side} with (force)")
            db.execute(f"create database i_{side} template {self.templates[side]}")
            db.execute(f"alter database i_{side} set app.now = '{CLOCK.isoformat()}'")

    def token(self, side: str, actor: Actor) -> str | None:
        """Sign a token as Auth would."""
        if actor.kind == "anon":
            return None
        claims: dict[str, Any] = {
            "role": "authenticated",
            "sub": str(actor.person),
            "exp": int(time.time()) + 86_400,
        }
        if actor.kind == "agent":
            metadata: dict[str, Any] = {
                "agent_id": str(A.member("agent")),
                "agent_org_id": str(A.org),
            }
            if actor.role == "client":
                metadata["agent_contact"] = {"client_id": str(actor.client)} if actor.client else {}
            claims |= {"sub": str(A.member("agent")), "app_metadata": metadata}
        return jwt.encode(claims, self.apis[side].jwt_secret, algorithm="HS256")

    def answer(self, client: httpx.Client, side: str, request: Request) -> Answer:
        """Send a request to one side."""
        token = self.token(side, CALLERS[request.actor])
        headers = [*request.headers, ("x-request-id", "proof")]
        if token:
            headers.append(("authorization", f"Bearer {token}"))
        if request.content is not None:
            headers.append(("content-type", "application/json"))
        came = client.request(request.method, request.url, headers=headers, content=request.content)
        body = self.normal(came.text)
        with contextlib.suppress(ValueError):
            body = json.dumps(_sorted(json.loads(body)), ensure_ascii=False, sort_keys=True)
        compared = tuple(
            (name, self.normal(came.headers[name])) for name in COMPARED if name in came.headers
        )
        return Answer(came.status_code, compared, body)

    @contextmanager
    def clients(self) -> Iterator[dict[str, httpx.Client]]:
        """Give a connection to each gateway."""
        with ExitStack() as stack:
            yield {
                side: stack.enter_context(
                    httpx.Client(
                        base_url=api.url, timeout=30, headers={"apikey": api.publishable_key}
                    )
                )
                for side, api in self.apis.items()
            }

    def states(self) -> dict[str, list[str]]:
        """Return the rows of organisation a on each side, normalised."""
        states = {}
        for side in self.templates:
            with psycopg.connect(self._server.cluster.url(f"i_{side}")) as db:
                states[side] = sorted(map(self.normal, _rows_of(db, A.org)))
        return states

    def normal(self, text: str) -> str:
        """Replace what differs by chance: new ids and tokens, transactions, the moments of now()."""
        text = _PREFIX.sub('"<opaque>"', text)
        text = _TRANSACTION.sub('"xid": "<xid>"', text)
        text = _UUID.sub(lambda m: m[0] if m[0] in self.known else "<new id>", text)
        text = _MOMENT.sub(lambda m: "<now>" if _is_recent(m[0]) else m[0], text)
        return _OPAQUE.sub(lambda m: m[0] if "<" in m[0] or _is_word(m[0]) else "<opaque>", text)


def _sorted(value: Any) -> Any:
    """Put lists into an order of their own: without `order` rows come in any."""
    if isinstance(value, list):
        return sorted(map(_sorted, value), key=lambda one: json.dumps(one, sort_keys=True))
    return {k: _sorted(v) for k, v in value.items()} if isinstance(value, dict) else value


def _is_word(text: str) -> bool:
    """Say whether a long run of letters is a name rather than a secret."""
    return bool(_UUID.fullmatch(text)) or not (
        re.search(r"\d", text) and re.search(r"[A-Za-z]", text)
    )


def _is_recent(text: str) -> bool:
    moment = datetime.fromisoformat(text.replace(" ", "T"))
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return abs(moment - datetime.now(UTC)) < timedelta(days=2)


def _templates(server: Server, damage: str | None) -> dict[str, str]:
    """Build the database of both organisations, and the same without b and its people."""
    with psycopg.connect(server.cluster.url(), autocommit=True) as db:
        for name in ("i_template_with", "i_template_without"):
            db.execute(f"drop database if exists {name} with (force)")
        db.execute(f"create database i_template_with template {conftest.WORLD_TEMPLATE}")
    with psycopg.connect(server.cluster.url("i_template_with")) as db:
        rows = Rows(db)
        for place in PLACES:
            # What b has published is for everybody; here it has published nothing.
            rows.fill(place if place.org == A.org else _unpublished(place))
        if damage:
            db.execute(damage.encode())
    with psycopg.connect(server.cluster.url(), autocommit=True) as db:
        db.execute("create database i_template_without template i_template_with")
    with psycopg.connect(server.cluster.url("i_template_without")) as db:
        db.execute("set constraints all deferred")
        db.execute("set session_replication_role = replica")
        for (table,) in db.execute(
            "select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace"
            " join pg_attribute a on a.attrelid = c.oid and a.attname = 'org_id' and not a.attisdropped"
            " where c.relkind in ('r', 'p') and not c.relispartition and n.nspname in ('public', 'app')"
        ).fetchall():
            db.execute(f"delete from {table} where org_id = %s", (B.org,))
        people = [str(B.member(role)) for role in ROLES]
        db.execute("delete from public.organizations where id = %s", (B.org,))
        db.execute("delete from public.profiles where id = any (%s::uuid[])", (people,))
        db.execute("delete from auth.users where id = any (%s::uuid[])", (people,))
    for name in ("i_template_with", "i_template_without"):
        with psycopg.connect(server.cluster.url(name), autocommit=True) as db:
            db.execute("vacuum (analyze)")
    return {"with": "i_template_with", "without": "i_template_without"}


def _unpublished(place: Place) -> Place:
    return Place(f"other{place.name}", place.org, place.person, place.client)


def _rows_of(db: psycopg.Connection[Any], org: UUID) -> list[str]:
    """Return the rows of an organisation, each as text."""
    tables = db.execute(
        "select c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'org_id'"
        " where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition order by 1"
    ).fetchall()
    return [
        f"{table} {row}"
        for (table,) in tables
        for (row,) in db.execute(
            f"select to_jsonb(t)::text from public.{table} t where org_id = %s", (org,)
        ).fetchall()
    ]


Both = Callable[[Request], list[Answer]]


def compare(pair: Pair, drawer: Drawer, numbers: range, tally: Tally, *, enough: int = 20) -> None:
    """Send requests to both sides and note where the answers differ, until that is enough."""
    with pair.clients() as clients, ThreadPoolExecutor(len(clients)) as threads:

        def both(request: Request) -> list[Answer]:
            return list(
                threads.map(lambda side: pair.answer(clients[side], side, request), clients)
            )

        for number in numbers:
            if len(tally.failures) >= enough:
                return
            request = drawer.draw(number)
            answers = both(request)
            tally.asked[request.actor, request.kind] += 1
            tally.answered[str(answers[0].status)] += 1
            tally.with_rows += answers[0].status < 300 and len(answers[0].body) > 2
            if answers[0] != answers[1]:
                difference = _explain(pair, both, request, answers)
                if difference:
                    tally.failures.append(f"seed {drawer.seed}, request {number}: {difference}")
        states = pair.states()
        if states["with"] != states["without"]:
            more, less = Counter(states["with"]), Counter(states["without"])
            tally.failures.append(
                f"seed {drawer.seed}, requests {numbers}: the rows of a differ, with b there are"
                f" {list((more - less).elements())[:3]}, without {list((less - more).elements())[:3]}"
            )


def _explain(pair: Pair, both: Both, request: Request, answers: list[Answer]) -> str | None:
    """Reduce a request to what makes the difference, on fresh copies, and say what it is.

    Returns:
        Nothing if it was chance: which rows are on a page of rows with new ids.
    """
    pair.renew()
    found = both(request)
    if found[0] == found[1]:
        if request.is_paged:
            return None
        return f"only after those before it, {request} → {answers[0].against(answers[1])}"
    at = 0  # parts before it are needed
    while at < len(parts := list(request.smaller())):
        if parts[at].kind != "read":
            pair.renew()
        answers = both(parts[at])
        if answers[0] == answers[1]:
            at += 1
        else:
            request, found = parts[at], answers
    pair.renew()
    return f"{request} → {found[0].against(found[1])}"


@contextmanager
def pairs(server: Server, damage: str | None = None) -> Iterator[Pair]:
    """Give two running stacks, one of them without organisation b."""
    with ExitStack() as stack:
        yield Pair(server, stack, damage)


def prove(run: Run) -> Section:
    """Send the requests of a proof run."""
    folder = new_run_folder()
    tally = Tally()
    try:
        server = Server(folder, 18)
        prepare(server)
        with pairs(server) as pair:
            drawer = Drawer(pair.catalog, OFTEN, run.seed)
            for first in range(0, REQUESTS, ROUND):
                pair.renew()
                compare(pair, drawer, range(first, first + ROUND), tally)
                run.say(f"  {tally.total:,} of {REQUESTS:,}, {len(tally.failures)} differ")
    finally:
        end_run(folder)
    return section(tally, run.seed)


def section(tally: Tally, seed: int) -> Section:
    """Say what was compared."""
    kinds = sorted({kind for _, kind in tally.asked})
    return Section(
        title="Non-interference",
        summary=f"{tally.total:,} requests compared with and without the other organisation, {len(tally.failures)}"
        f" answered otherwise; {tally.succeeded / max(tally.total, 1):.0%} answered 2xx, {tally.with_rows:,} with rows"
        f" (seed {seed})",
        is_kept=not tally.failures and tally.with_rows > 0,
        tables=(
            Table(
                caption="Requests by who asked and what",
                columns=("who", *kinds),
                rows=tuple(
                    (name, *(tally.asked[name, kind] for kind in kinds)) for name in CALLERS
                ),
            ),
            Table(
                caption="Answers",
                columns=("status", "requests"),
                rows=tuple(sorted(tally.answered.items())),
            ),
        ),
        failures=tuple(tally.failures),
    )
