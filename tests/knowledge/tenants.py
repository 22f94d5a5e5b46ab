"""Passages of many organisations in bands of sizes, with synthetic vectors that lie in clusters and synthetic sentences.

Every organisation writes about the same themes, so the passages nearest to a question are mostly somebody else's: what makes search
inside one organisation hard. A vector is the sum of its topic, its theme within it, its document and a remainder of its own; all of
these lie near a space of few dimensions, as the vectors of real models do. Words are as frequent as in a natural text: those of the
golden documents first, then made-up ones. The same seed gives the same corpus.
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

GOLDEN = Path(__file__).parent / "golden"
OF_OPERATIONS = ("ops", "public")

_WORDS = """
create temporary table words as
select place, word from unnest(%s::text[]) with ordinality as w (word, place)
"""
# The place of a word is drawn so that the word at place n is about n times rarer than the first.
_SENTENCES = """
create temporary table sentences as
select drawn.n, string_agg(w.word, ' ' order by drawn.turn) as sentence
from (
    select n, turn, floor(power((select count(*) from words), random()))::integer as place
    from generate_series(0, 4999) as n
    cross join generate_series(1, 12) as turn
) as drawn
inner join words as w on w.place = drawn.place
group by drawn.n
"""
_DIRECTIONS = """
create temporary table directions as
select n, extensions.l2_normalize(
    array(select random_normal() + 0 * n from generate_series(1, 1536))::extensions.vector(1536)
) as v
from generate_series(1, 48) as n
"""
# `far` is how far from the origin, `off` how much of that points out of the space of the directions.
_PLACES = """
create temporary table places as
select kind.name, place.n, (
    select extensions.sum(d.v operator(extensions.*) array_fill(
        (random_normal() * kind.far / sqrt(48) + 0 * place.n)::real, '{1536}'
    )::extensions.vector)
    from directions as d
) operator(extensions.+) array(
    select random_normal() * kind.far * kind.off / sqrt(1536) + 0 * place.n
    from generate_series(1, 1536)
)::extensions.vector as v
from (
    values ('topic', 40, 1.0, 0.0), ('theme', 400, 0.7, 0.2), ('document', 2000, 0.6, 0.3),
    ('own', 2000, 0.3, 0.5)
) as kind (name, many, far, off)
cross join lateral generate_series(0, kind.many - 1) as place (n)
"""
_DOCUMENTS = """
create temporary table papers as
select
    row_number() over (order by t.place, document.n) as n, t.org, gen_random_uuid() as id,
    least(8, t.passages - 8 * document.n) as passages,
    (array['ops', 'ops', 'ops', 'growth', 'legal'])[1 + document.n %% 5] as module,
    hashint8(t.place * 100003 + document.n) & 1073741823 as hash
from unnest(%s::uuid[], %s::integer[]) with ordinality as t (org, passages, place)
cross join lateral generate_series(0, (t.passages - 1) / 8) as document (n)
"""
_STORE_DOCUMENTS = """
insert into public.knowledge_documents (
    org_id, id, source_type, source_id, title, module, audience, content_hash, indexed_hash, status
)
select
    p.org, p.id, 'file', p.id, initcap(s.sentence), p.module,
    case p.module when 'growth' then 'public' else 'internal' end, 'synthetic', 'synthetic',
    'indexed'
from papers as p inner join sentences as s on s.n = p.hash % 5000
"""
_STORE_CHUNKS = """
insert into public.knowledge_chunks (
    org_id, document_id, version, ordinal, content, start_char, end_char, scope, tsv, embedding
)
select
    p.org, p.id, 1, piece.ordinal, text.content, 0, length(text.content),
    p.org || '/' || case p.module when 'growth' then 'public' else p.module end,
    setweight(to_tsvector('portuguese', app.normalize(title.sentence)), 'A')
    || setweight(to_tsvector('portuguese', app.normalize(text.content)), 'C'),
    extensions.l2_normalize(
        topic.v operator(extensions.+) theme.v operator(extensions.+) document.v
        operator(extensions.+) one.v operator(extensions.+) other.v
    )::extensions.halfvec
from papers as p
inner join sentences as title on title.n = p.hash % 5000
inner join places as topic on topic.name = 'topic' and topic.n = p.hash % 40
inner join places as theme on theme.name = 'theme' and theme.n = p.hash % 400
inner join places as document on document.name = 'document' and document.n = p.hash / 400 % 2000
cross join lateral (
    select ordinal, hashint8(p.n * 8 + ordinal) & 1073741823 as hash
    from generate_series(1, p.passages) as ordinal
) as piece
inner join places as one on one.name = 'own' and one.n = piece.hash % 2000
inner join places as other on other.name = 'own' and other.n = piece.hash / 2000 % 2000
cross join lateral (
    select string_agg(s.sentence, '. ' order by place.n) as content
    from generate_series(0, 9) as place (n)
    inner join sentences as s on s.n = (piece.hash / 7 + place.n * 1117) % 5000
) as text
"""


_QUESTIONS = """
select
    array_to_string((string_to_array(replace(c.content, '.', ''), ' '))[14:21], ' '),
    extensions.l2_normalize(
        c.embedding::extensions.vector operator(extensions.+) array(
            select random_normal() * 0.6 / sqrt(1536) + 0 * c.ordinal
            from generate_series(1, 1536)
        )::extensions.vector
    )::extensions.halfvec::text
from public.knowledge_chunks as c
where c.org_id = %s and c.scope = any(%s)
order by hashtextextended(c.content, 4)
limit %s
"""
_EXACT = """
select each_one.id
from (
    select c.id, c.embedding operator(extensions.<=>) %s::extensions.halfvec as distance
    from public.knowledge_chunks as c where c.org_id = %s and c.scope = any(%s) offset 0
) as each_one
order by each_one.distance limit 10
"""


@dataclass(frozen=True)
class Question:
    """What somebody asks: eight words of a passage, and a vector near it."""

    words: str
    vector: str


def fill(owner: psycopg.Connection[Any], tenants: Mapping[UUID, int], *, seed: float = 0.4) -> None:
    """Write passages, documents of up to eight each; indexes are built at the end, as a restore does.

    Three documents of five are of module ops, one is public, one of module legal.

    Args:
        owner: An autocommit connection of the database's owner.
        tenants: How many passages each organisation has.
        seed: Of everything random.
    """
    owner.execute("set session_replication_role = replica")
    owner.execute("set maintenance_work_mem = '1GB'")
    owner.execute("select setseed(%s)", [seed])
    indexes = owner.execute(
        "select c.relname, pg_get_indexdef(i.indexrelid) from pg_index as i"
        " inner join pg_class as c on c.oid = i.indexrelid"
        " where i.indrelid = 'public.knowledge_chunks'::regclass and not i.indisunique"
    ).fetchall()
    for name, _ in indexes:
        owner.execute(sql.SQL("drop index public.{}").format(sql.Identifier(name)))
    owner.execute(_WORDS, [_words()])
    for statement in (_SENTENCES, _DIRECTIONS, _PLACES):
        owner.execute(statement)
    owner.execute(_DOCUMENTS, [list(tenants), list(tenants.values())])
    for table in ("sentences", "places", "papers"):
        owner.execute(sql.SQL("analyze {}").format(sql.Identifier(table)))
    owner.execute(_STORE_DOCUMENTS)
    owner.execute(_STORE_CHUNKS)
    for _, definition in indexes:
        owner.execute(definition)
    for table in ("knowledge_documents", "knowledge_chunks"):
        owner.execute(sql.SQL("vacuum (analyze) public.{}").format(sql.Identifier(table)))
    owner.execute("set session_replication_role = origin")
    owner.execute("drop table words, sentences, directions, places, papers")


def questions(
    owner: psycopg.Connection[Any], org: UUID, many: int, modules: Sequence[str] = OF_OPERATIONS
) -> list[Question]:
    """Draw questions that passages of these modules of an organisation answer."""
    owner.execute("select setseed(0.3)")
    asked = owner.execute(_QUESTIONS, [org, _scopes(org, modules), many]).fetchall()
    return [Question(*row) for row in asked]


def nearest(
    owner: psycopg.Connection[Any],
    org: UUID,
    question: Question,
    modules: Sequence[str] = OF_OPERATIONS,
) -> list[UUID]:
    """Give the ten passages of an organisation that are nearest to a question, by looking at each."""
    rows = owner.execute(_EXACT, [question.vector, org, _scopes(org, modules)]).fetchall()
    return [row[0] for row in rows]


def _scopes(org: UUID, modules: Sequence[str]) -> list[str]:
    return [f"{org}/{module}" for module in modules]


def _words() -> list[str]:
    """Give 20,000 words, the most frequent first."""
    lines = (GOLDEN / "documents.jsonl").read_text().splitlines()
    text = " ".join(json.loads(line)["text"] for line in lines)
    known = [word for word, _ in Counter(re.findall(r"[a-zà-ÿ]+", text.lower())).most_common()]
    syllables = [a + b for a, b in itertools.product("bcdfglmnprstv", "aeiou")]
    made_up = ("".join(word) for word in itertools.product(syllables, repeat=3))
    return [*known, *itertools.islice(made_up, 20_000 - len(known))]
