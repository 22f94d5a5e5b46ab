"""`nessos chat "…"`: ask the knowledge of an organisation in the terminal."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

import typer

from nessos.cli import organization, output
from nessos.cli.organization import OrgOption
from nessos.cli.output import JsonOption
from nessos.errors import NessosError, UsageError

if TYPE_CHECKING:
    from nessos.http import Http
    from nessos.jobs.entrypoint import Pool

_PATIENCE_S: Final = 150.0
_POLL_S: Final = 0.1

_ASK: Final = "select public.ask(%s, %s, null, %s) as asked"
_ASK_AS_VISITOR: Final = (
    "select public.ask_as_visitor(%s, %s, %s, %s, null, 'nessos chat') as asked"
)
_WORKERS: Final = """
select exists (
    select from pg_stat_activity
    where application_name = 'nessos worker' and datname = current_database()
) as is_there
"""
_MESSAGE: Final = """
select m.id, m.session_id, m.status, m.kind, m.content, m.citations, m.model, m.cost_brl,
    m.latency_ms
from public.chat_messages as m where m.org_id = %s and m.id = %s
"""


def register(app: typer.Typer) -> None:
    """Add the command.

    Args:
        app: The command line.
    """
    app.command()(chat)


def chat(
    question: Annotated[str, typer.Argument(help="What to ask, in Portuguese.")],
    *,
    org: OrgOption = None,
    session: Annotated[
        UUID | None, typer.Option(help="Go on with a conversation; a new one if left out.")
    ] = None,
    person: Annotated[
        str | None, typer.Option("--as", help="Ask as this member, by e-mail; the owner if not.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Ask as a visitor: only what is public.")
    ] = False,
    token: Annotated[
        str | None, typer.Option(help="Of a visitor's conversation, with --public and --session.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Ask the knowledge of an organisation; the answer comes with its sources.

    The worker answers. Where none is running, this command does it itself.
    """
    from nessos.db import connect
    from nessos.target import resolve

    if public and person:
        raise UsageError("--as and --public exclude each other", "leave one out")
    if public and (session is None) != (token is None):
        raise UsageError("a visitor goes on with --session and --token", "give both, or none")
    with connect(resolve().database_url.get_secret_value()) as connection:
        found = organization.find(connection, org)
        asker = None if public else organization.find_member(connection, found, person)
    message = asyncio.run(_ask(question, found, asker, session, token, is_shown=not json))
    if json:
        output.as_json(message)
    elif message["token"]:
        way = f"--public --session {message['session_id']} --token {message['token']}"
        output.progress(f"go on with: {way}")
    else:
        output.progress(f"go on with: --session {message['session_id']}")
    if message["status"] == "failed":
        raise NessosError("the question was not answered", "see nessos jobs failed")


async def _ask(
    question: str,
    org: dict[str, Any],
    asker: UUID | None,
    session: UUID | None,
    token: str | None,
    *,
    is_shown: bool,
) -> dict[str, Any]:
    from nessos.ai.acting import acting, person_claims
    from nessos.cli.sync import services
    from nessos.db import translated

    async with services() as (pool, http):
        if asker:
            async with acting(pool, claims=person_claims(asker)) as connection:
                asked = await _value(connection, _ASK, session, question, org["id"])
        else:
            with translated():
                async with pool.connection() as connection:
                    given = (org["slug"], question, session, token)
                    asked = await _value(connection, _ASK_AS_VISITOR, *given)
        with translated():
            answer_id = UUID(asked["answer_id"])
            work = await _foreground(pool, http, org["id"], answer_id)
            message = await _follow(pool, org["id"], answer_id, work, is_shown=is_shown)
    return {**message, "token": asked.get("token") or token}


async def _value(connection: Any, query: str, *arguments: object) -> Any:  # noqa: ANN401
    row = await (await connection.execute(query, arguments)).fetchone()
    return row["asked"]


async def _foreground(
    pool: Pool, http: Http, org_id: UUID, answer_id: UUID
) -> asyncio.Task[str] | None:
    """Begin to answer here if no worker is there to do it."""
    from nessos.ai.chat import answer
    from nessos.jobs.entrypoint import Task

    async with pool.connection() as connection:
        row = await (await connection.execute(_WORKERS)).fetchone()
    if row and row["is_there"]:
        return None
    output.progress("no worker is running: answering here")
    task = Task(
        job_id=0,
        entrypoint="chat.answer",
        payload={"message_id": str(answer_id)},
        org_id=org_id,
        request_id=None,
        attempt=sys.maxsize,  # nobody tries again
        pool=pool,
        http=http,
    )
    return asyncio.create_task(answer(task))


async def _follow(
    pool: Pool,
    org_id: UUID,
    answer_id: UUID,
    work: asyncio.Task[str] | None,
    *,
    is_shown: bool,
) -> dict[str, Any]:
    """Show an answer while it grows; outside a terminal when it is finished."""
    until = time.monotonic() + _PATIENCE_S
    is_live = is_shown and sys.stdout.isatty()
    printed = ""
    while True:
        async with pool.connection() as connection:
            row = await (await connection.execute(_MESSAGE, (org_id, answer_id))).fetchone()
        if row is None:
            raise NessosError("the conversation was deleted meanwhile")
        is_over = row["status"] not in {"pending", "streaming"}
        if is_live:
            printed = _print(printed, row["content"])
        if is_over:
            break
        if work and work.done():
            work.result()  # raises what went wrong
        if time.monotonic() > until:
            raise NessosError(
                f"no answer after {_PATIENCE_S:g} s", "see nessos status and nessos jobs failed"
            )
        await asyncio.sleep(_POLL_S)
    if work:
        await work
    if is_shown:
        output.say("" if is_live else row["content"])
        _print_sources(row["citations"], has_quotes=row["kind"] == "excerpt")
    return row


def _print(printed: str, content: str) -> str:
    """Go on printing a text; one that was replaced is printed anew."""
    if not content.startswith(printed):
        output.say()
        printed = ""
    print(content[len(printed) :], end="", flush=True)  # noqa: T201 - as it comes
    return content


def _print_sources(citations: list[dict[str, Any]], *, has_quotes: bool) -> None:
    """Print footnotes; with their quotes, unless these are the text itself."""
    if citations:
        output.say()
    for source in citations:
        place = ", ".join(filter(None, (source["title"], source["heading"])))
        address = f" ({source['url']})" if source["url"] else ""
        output.say(f"[{source['number']}] {place}{address}")
        if not has_quotes:
            output.say(f"    “{' '.join(source['quote'].split())}”")
