"""`nessos knowledge …`: give files to the knowledge, index it, search it, measure the search."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

import typer

from nessos.cli import organization, output
from nessos.cli.organization import OrgOption
from nessos.cli.output import DryRunOption, JsonOption, YesOption
from nessos.errors import NessosError, PartialError, UsageError

if TYPE_CHECKING:
    from nessos.ai.acting import Connection
    from nessos.ai.gateway import Gateway
    from nessos.jobs.entrypoint import Pool
    from nessos.knowledge.evaluation import Score

app = typer.Typer(help="Knowledge: files, index, search.", no_args_is_help=True)

AsOption = Annotated[
    str | None, typer.Option("--as", help="As this member, by e-mail; the owner if left out.")
]
PublicOption = Annotated[bool, typer.Option("--public", help="As a visitor: only what is public.")]

_AT_ONCE: Final = 4
_EXCERPT: Final = 160

_RESET: Final = "select d as id from app.reset_knowledge(%s, %s, %s) as d"
_ENQUEUE: Final = "select app.enqueue_knowledge(%s, %s, %s) as enqueued"
_ADD: Final = """
insert into public.knowledge_files as f (org_id, title, file_name, content_text, module, audience)
values (%(org)s, %(title)s, %(name)s, %(text)s, %(module)s, %(audience)s)
on conflict (org_id, file_name) do update
set
    title = excluded.title, content_text = excluded.content_text, module = excluded.module,
    audience = excluded.audience
returning f.id, f.file_name, f.title, f.module, f.audience, length(f.content_text) as characters
"""
_STATUS: Final = """
select
    d.source_type, d.status, d.embedding_model as model, count(*)::int as documents,
    (
        select count(*) from public.knowledge_chunks as c
        where c.org_id = %(org)s and c.document_id = any(array_agg(d.id))
    )::int as passages
from public.knowledge_documents as d
where d.org_id = %(org)s
group by d.source_type, d.status, d.embedding_model
order by d.source_type, d.status, d.embedding_model
"""
_PROBLEMS: Final = """
select d.id, d.source_type, d.title, d.status, d.error, d.updated_at
from public.knowledge_documents as d
where d.org_id = %s and d.status in ('pending', 'failed')
order by d.updated_at
limit 100
"""


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="Markdown, text or PDF.")],
    *,
    org: OrgOption = None,
    title: Annotated[
        str | None, typer.Option(help="Its title; the first heading or the file's name if not.")
    ] = None,
    module: Annotated[
        str, typer.Option(help="Who reads this module of the matrix finds the file.")
    ] = "ops",
    public: Annotated[bool, typer.Option("--public", help="Visitors find it, too.")] = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Give a file to the knowledge; one of the same name is replaced. The worker indexes it."""
    from nessos.db import connect
    from nessos.knowledge import files
    from nessos.target import resolve

    given = files.read(file)
    with connect(resolve().database_url.get_secret_value(), autocommit=False) as connection:
        found = organization.find(connection, org)
        row = connection.execute(
            _ADD,
            {
                "org": found["id"],
                "title": title or given.title,
                "name": given.name,
                "text": given.text,
                "module": module,
                "audience": "public" if public else "internal",
            },
        ).fetchone()
        if dry_run:
            connection.rollback()
    if json:
        output.as_json(row)
    elif row:
        output.say(
            f"{row['file_name']}: {row['title']}, {row['characters']} characters"
            + (" (nothing stored)" if dry_run else "")
        )


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="The file's name, as it was given.")],
    *,
    org: OrgOption = None,
    yes: YesOption = False,
) -> None:
    """Take a file from the knowledge; search forgets it at once."""
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        found = organization.find(connection, org)
        if not yes:
            typer.confirm(f"Remove {name} from the knowledge of {found['slug']}?", abort=True)
        gone = connection.execute(
            "delete from public.knowledge_files as f where f.org_id = %s and f.file_name = %s",
            (found["id"], Path(name).name),
        )
    if not gone.rowcount:
        raise UsageError(f"there is no file {name}", "see nessos knowledge status")
    output.say(f"{name} removed")


@app.command()
def index(
    *,
    org: OrgOption = None,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Also what is up to date; vectors of unchanged text are kept."),
    ] = False,
    enqueue: Annotated[
        bool, typer.Option("--enqueue", help="Leave the work to the worker.")
    ] = False,
) -> None:
    """Index what waits, has failed, or has vectors of another model than the current one."""
    found = _organization(org)
    done, failures = asyncio.run(_index(found["id"], everything=everything, enqueue=enqueue))
    output.say(f"{done} documents {'enqueued' if enqueue else 'indexed'}")
    if failures:
        raise PartialError(
            f"{len(failures)} documents failed, one of them for: {failures[0]}",
            "see nessos knowledge status; run it again",
        )


async def _index(org_id: UUID, *, everything: bool, enqueue: bool) -> tuple[int, list[str]]:
    from nessos.cli.sync import progress_bar
    from nessos.knowledge.index import index_document, index_text_only

    failures: list[str] = []
    done = 0
    async with _opened() as (pool, gateway):
        model = await gateway.embedding_model()
        async with pool.connection() as connection:
            cursor = await connection.execute(_RESET, (org_id, model, everything))
            documents = [row["id"] async for row in cursor]
            if enqueue:
                await connection.execute(_ENQUEUE, (org_id, documents, model))
                return len(documents), []
        places = asyncio.Semaphore(_AT_ONCE)
        with progress_bar() as report:

            async def one(document_id: UUID) -> None:
                nonlocal done
                async with places:
                    try:
                        await index_document(pool, gateway, org_id=org_id, document_id=document_id)
                    except NessosError as error:
                        failures.append(error.message)
                        await index_text_only(
                            pool, org_id=org_id, document_id=document_id, asked_hash=None,
                            error=f"no vectors: {error.message}",
                        )  # fmt: skip
                    done += 1
                    report(done, len(documents), "documents")

            await asyncio.gather(*map(one, documents))
    return done - len(failures), failures


@app.command()
def search(
    question: Annotated[str, typer.Argument(help="What to look for, in Portuguese.")],
    *,
    org: OrgOption = None,
    person: AsOption = None,
    public: PublicOption = False,
    limit: Annotated[int, typer.Option(min=1, max=50, help="How many passages.")] = 8,
    json: JsonOption = False,
) -> None:
    """Find passages, as a member or a visitor finds them."""
    from nessos.knowledge import search as searching

    found = _organization(org)

    async def run() -> searching.Results:
        async with _asking(found, person, is_public=public) as (connection, gateway):
            return await searching.search(
                connection, gateway, org_id=found["id"], query=question, limit=limit,
                audience="public" if public else "internal",
            )  # fmt: skip

    results = asyncio.run(run())
    if results.problem:
        output.progress(f"searched by text only: {results.problem}")
    if json:
        output.as_json({"mode": results.mode, "hits": [asdict(hit) for hit in results.hits]})
    elif not results.hits:
        output.say("nothing")
    else:
        output.table(
            None,
            ["score", "title", "heading", "text", "meaning", "excerpt"],
            [
                [
                    f"{hit.score:.4f}", hit.title, hit.heading_path, hit.text_rank,
                    hit.vector_rank, _excerpt(hit.content),
                ]
                for hit in results.hits
            ],
            right=["score", "text", "meaning"],
        )  # fmt: skip


@app.command("eval")
def evaluate(
    file: Annotated[
        Path, typer.Argument(help="A JSON object a line: question, relevant (titles or ids).")
    ],
    *,
    org: OrgOption = None,
    person: AsOption = None,
    public: PublicOption = False,
    json: JsonOption = False,
) -> None:
    """Measure the search with questions whose answers are known: by text, by meaning, hybrid.

    Without a provider of embeddings only the search by text is measured.
    """
    from nessos.cli.sync import progress_bar
    from nessos.knowledge import evaluation

    if not file.is_file():
        raise UsageError(f"there is no file {file.name}")
    questions = evaluation.read(file)
    found = _organization(org)

    async def run() -> list[Score]:
        async with _asking(found, person, is_public=public) as (connection, gateway):
            with progress_bar() as report:
                return await evaluation.evaluate(
                    connection, gateway, questions, org_id=found["id"],
                    audience="public" if public else "internal",
                    report=lambda done, total: report(done, total, "questions"),
                )  # fmt: skip

    scores = asyncio.run(run())
    if json:
        output.as_json({"questions": len(questions), "scores": [asdict(one) for one in scores]})
        return
    output.table(
        f"{len(questions)} questions",
        ["search", *(f"recall@{cut}" for cut in evaluation.CUTS), "MRR", "nDCG@10"],
        [
            [
                one.way,
                *(f"{one.recall[cut]:.3f}" for cut in evaluation.CUTS),
                f"{one.mrr:.3f}",
                f"{one.ndcg:.3f}",
            ]
            for one in scores
        ],
    )
    if len(scores) == 1:
        output.progress("no provider of embeddings is set up: only text was measured")


@app.command()
def status(*, org: OrgOption = None, json: JsonOption = False) -> None:
    """Show what search covers, what waits for its index, and what failed."""
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        found = organization.find(connection, org)
        counts = connection.execute(_STATUS, {"org": found["id"]}).fetchall()
        problems = connection.execute(_PROBLEMS, (found["id"],)).fetchall()
    if json:
        output.as_json({"documents": counts, "waiting": problems})
        return
    output.records(counts, title=f"Knowledge of {found['name']}")
    if problems:
        output.records(
            [{name: row[name] for name in row if name != "id"} for row in problems],
            title="Waiting and failed",
        )


def _organization(org: str | None) -> dict[str, Any]:
    from nessos.db import connect
    from nessos.target import resolve

    with connect(resolve().database_url.get_secret_value()) as connection:
        return organization.find(connection, org)


def _excerpt(content: str) -> str:
    words = " ".join(content.split())
    return words if len(words) <= _EXCERPT else words[: _EXCERPT - 1].rstrip() + "…"


@contextlib.asynccontextmanager
async def _opened() -> AsyncIterator[tuple[Pool, Gateway]]:
    from nessos.ai.gateway import Gateway
    from nessos.cli.sync import services
    from nessos.db import translated

    with translated():
        async with services() as (pool, http):
            yield pool, Gateway(pool, http)


@contextlib.asynccontextmanager
async def _asking(
    org: dict[str, Any], person: str | None, *, is_public: bool
) -> AsyncIterator[tuple[Connection, Gateway]]:
    """Act as who searches."""
    from nessos.ai.acting import acting, person_claims
    from nessos.db import connect
    from nessos.target import resolve

    if is_public and person:
        raise UsageError("--as and --public exclude each other", "leave one out")
    claims: dict[str, Any] = {"role": "anon"}
    if not is_public:
        with connect(resolve().database_url.get_secret_value()) as connection:
            claims = person_claims(organization.find_member(connection, org, person))
    async with (
        _opened() as (pool, gateway),
        acting(pool, claims=claims) as connection,
    ):
        yield connection, gateway
