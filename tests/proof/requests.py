"""REST requests drawn at random from what the catalog exposes: filters, embeds, orders, ranges, writes, calls, malformed words.

Half of the values drawn belong to another organisation: its keys, names, addresses. Where they make a difference is a leak.
"""

import json
import random
import re
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

MALFORMED: Final = (
    "",
    "'",
    "\\",
    "null",
    "%",
    "*",
    "(",
    "))",
    "{}",
    "-1",
    "1e400",
    "NaN",
    "99999999999999999999",
    "not-a-uuid",
    "2026-13-45",
    "a,b",
    "\u202e",
    "🙂",
    "x" * 300,
)
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DRAWN: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_COMPARED: Final = ("eq", "neq", "gt", "gte", "lt", "lte")
_NUMBERS: Final = ("integer", "bigint", "smallint", "numeric", "double precision", "real")


@dataclass(frozen=True)
class Request:
    """A request of somebody, as it goes over the wire.

    Attributes:
        actor: Whose token it bears.
        method: The verb.
        path: Below /rest/v1.
        params: Of the query, in order.
        headers: Besides those every request has.
        body: What is sent as JSON; text goes as it is; None: nothing.
    """

    actor: str
    method: str
    path: str
    params: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    body: Any = None

    @property
    def kind(self) -> str:
        """What it does, in a word."""
        if self.path.startswith("/rpc/"):
            return "call"
        return {"GET": "read", "HEAD": "read", "POST": "insert", "PATCH": "update"}.get(
            self.method, "delete"
        )

    @property
    def is_paged(self) -> bool:
        """Whether it asks for some rows of many."""
        return any(
            name in {"limit", "offset", "Range"} for name, _ in (*self.params, *self.headers)
        )

    @property
    def url(self) -> str:
        """Path and query."""
        query = "&".join(f"{quote(name, safe='.')}={quote(value)}" for name, value in self.params)
        return f"/rest/v1{self.path}{'?' if query else ''}{query}"

    @property
    def content(self) -> bytes | None:
        """The body as it is sent."""
        if self.body is None:
            return None
        text = self.body if isinstance(self.body, str) else json.dumps(self.body)
        return text.encode("utf-8", "surrogatepass")

    def __str__(self) -> str:
        head = "".join(f" -H '{name}: {value}'" for name, value in self.headers)
        body = "" if self.content is None else f" -d '{self.content.decode(errors='replace')}'"
        return f"as {self.actor}: {self.method} '{self.url}'{head}{body}"

    def smaller(self) -> Iterator["Request"]:
        """Yield the request without one of its parts each."""
        for name in ("params", "headers"):
            parts = getattr(self, name)
            for index in range(len(parts)):
                yield replace(self, **{name: parts[:index] + parts[index + 1 :]})
        if isinstance(self.body, dict):
            for key in self.body:
                yield replace(self, body={k: v for k, v in self.body.items() if k != key})
        for index, (name, value) in enumerate(self.params):
            if name == "select" and "," in value:
                yield replace(
                    self,
                    params=(
                        *self.params[:index],
                        ("select", "*"),
                        *self.params[index + 1 :],
                    ),
                )


@dataclass(frozen=True)
class Link:
    """A foreign key by which one relation embeds another."""

    name: str
    target: str
    columns: tuple[str, ...]


@dataclass
class Relation:
    """A table or view of the API."""

    name: str
    columns: dict[str, str] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    links: list[Link] = field(default_factory=list)
    own: list[dict[str, Any]] = field(default_factory=list)
    foreign: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Argument:
    """An argument of a function."""

    name: str
    type: str
    has_default: bool


@dataclass(frozen=True)
class Function:
    """A function of the API."""

    name: str
    arguments: tuple[Argument, ...]
    is_stable: bool


@dataclass
class Catalog:
    """What the API exposes, and values that stand in it: of the caller's organisation, and of the other."""

    relations: list[Relation]
    functions: list[Function]
    own: UUID
    foreign: UUID
    withheld: frozenset[str]


_COLUMNS = """
select c.relname, a.attname, format_type(a.atttypid, null) as type
from pg_class as c join pg_attribute as a on a.attrelid = c.oid
where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v') and not c.relispartition
    and a.attnum > 0 and not a.attisdropped and a.atttypid <> 'xid8'::regtype
order by c.relname, a.attnum
"""
_KEYS = """
select c.relname, array_agg(a.attname::text order by a.attnum) as columns
from pg_index as i join pg_class as c on c.oid = i.indrelid
join pg_attribute as a on a.attrelid = c.oid and a.attnum = any (i.indkey)
where i.indisprimary and c.relnamespace = 'public'::regnamespace
group by c.relname
"""
_LINKS = """
select c.relname, k.conname, p.relname as target, array(
    select a.attname::text from unnest(k.conkey) as u (n)
    join pg_attribute as a on a.attrelid = k.conrelid and a.attnum = u.n
) as columns
from pg_constraint as k join pg_class as c on c.oid = k.conrelid join pg_class as p on p.oid = k.confrelid
where k.contype = 'f' and k.conparentid = 0 and c.relnamespace = 'public'::regnamespace
    and p.relnamespace = 'public'::regnamespace
order by c.relname, k.conname
"""
_FUNCTIONS = """
select p.proname, p.provolatile <> 'v' as is_stable, p.pronargs - p.pronargdefaults as required,
    coalesce(p.proargnames[1:p.pronargs], '{}') as names,
    array(select format_type(t, null) from unnest(p.proargtypes::oid[]) with ordinality as u (t, i) order by i) as types
from pg_proc as p
where p.pronamespace = 'public'::regnamespace and p.prokind = 'f'
    and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
    and (has_function_privilege('anon', p.oid, 'execute') or has_function_privilege('authenticated', p.oid, 'execute'))
order by p.proname
"""


def read(
    db: psycopg.Connection[Any], own: UUID, foreign: UUID, *, withheld: frozenset[str]
) -> Catalog:
    """Read the catalog and the values of a database in which both organisations have rows.

    Args:
        db: A connection of the owner.
        own: The organisation of those who ask.
        foreign: The other one.
        withheld: Values of it that anybody may know, and that are therefore not drawn.
    """
    with db.cursor(row_factory=dict_row) as cursor:
        relations: dict[str, Relation] = {}
        for row in cursor.execute(_COLUMNS):
            relation = relations.setdefault(row["relname"], Relation(row["relname"]))
            relation.columns[row["attname"]] = row["type"]
        for row in cursor.execute(_KEYS):
            if row["relname"] in relations:
                relations[row["relname"]].key = tuple(row["columns"])
        for row in cursor.execute(_LINKS):
            if row["relname"] in relations:
                link = Link(row["conname"], row["target"], tuple(row["columns"]))
                relations[row["relname"]].links.append(link)
        for relation in relations.values():
            tenant = "org_id" if "org_id" in relation.columns else "id"
            for rows, org in ((relation.own, own), (relation.foreign, foreign)):
                condition = f"t.{tenant}::text = %s" if tenant in relation.columns else "%s <> ''"
                rows += [
                    {name: row["row"][name] for name in relation.columns}
                    for row in cursor.execute(
                        f'select to_jsonb(t) as row from public."{relation.name}" as t where {condition} limit 4',
                        (str(org),),
                    )
                ]
        functions = []
        for row in cursor.execute(_FUNCTIONS):
            arguments = tuple(
                Argument(name, kind, index >= row["required"])
                for index, (name, kind) in enumerate(zip(row["names"], row["types"], strict=True))
            )
            functions.append(Function(row["proname"], arguments, row["is_stable"]))
    return Catalog(list(relations.values()), functions, own, foreign, withheld)


class Drawer:
    """Draws requests; the same seed and number draw the same."""

    def __init__(
        self,
        catalog: Catalog,
        actors: Mapping[str, int],
        seed: int,
        *,
        about: Container[str] | None = None,
    ) -> None:
        """Draw from a catalog.

        Args:
            catalog: What may be asked for, and with which values.
            actors: Who asks, and how often.
            seed: Of everything.
            about: The relations and functions that are asked for; None: all.
        """
        self.relations = [one for one in catalog.relations if about is None or one.name in about]
        self.functions = [one for one in catalog.functions if about is None or one.name in about]
        self.catalog = catalog
        self.actors = actors
        self.seed = seed
        self.by_name = {relation.name: relation for relation in catalog.relations}
        self.of_target: dict[str, list[tuple[Relation, Link]]] = {}
        for relation in catalog.relations:
            for link in relation.links:
                self.of_target.setdefault(link.target, []).append((relation, link))
        self.values = {
            kind: sorted(self._values(kind)) for kind in ("own", "foreign")
        }  # of any column, to be tried where they do not belong

    def _values(self, side: str) -> set[str]:
        return {
            value
            for relation in self.catalog.relations
            for row in getattr(relation, side)
            for value in row.values()
            # Ids drawn at random stand in another place of the list each time.
            if isinstance(value, str)
            and value not in {"", *self.catalog.withheld}
            and not _DRAWN.fullmatch(value)
        }

    def draw(self, number: int) -> Request:
        """Draw the request of this number."""
        self.random = random.Random(f"{self.seed}/{number}")  # noqa: S311 - repeatable, not secret
        actor = self.random.choices(list(self.actors), list(self.actors.values()))[0]
        acts: dict[Callable[[str], Request], int] = {
            self._read: 55,
            self._insert: 10,
            self._update: 9,
            self._delete: 4,
        }
        if not self.relations:
            acts = {}
        if self.functions:
            acts[self._call] = 22
        act = self.random.choices(list(acts), list(acts.values()))[0]
        request = act(actor)
        return self._spoil(request) if self.random.random() < 0.06 else request

    # --- Parts ---

    def _maybe(self, chance: float) -> bool:
        return self.random.random() < chance

    def _relation(self) -> Relation:
        return self.random.choice(self.relations)

    def _value(self, relation: Relation, column: str) -> str:
        """Give a value for a column: one that stands there, of either organisation, or one that never did."""
        if self._maybe(0.05):
            return self.random.choice(MALFORMED)
        rows = relation.foreign if self._maybe(0.45) else relation.own
        values = [row[column] for row in rows if row.get(column) is not None]
        if not values or self._maybe(0.05):
            return self._invented(relation.columns[column])
        value = self.random.choice(values)
        if isinstance(value, bool):
            return str(value).lower()
        text = json.dumps(value) if isinstance(value, dict | list) else str(value)
        return self._invented("text") if text in self.catalog.withheld else text

    def _invented(self, kind: str) -> str:
        if kind == "uuid":
            return str(UUID(int=self.random.getrandbits(128)))
        if kind == "date":
            return f"20{self.random.randint(10, 40)}-{self.random.randint(1, 12):02}-01"
        words: tuple[str, ...] = {
            "boolean": ("true", "false"),
            "jsonb": ('{"a": 1}', "[]", "{}"),
            "timestamp with time zone": ("2026-03-01T12:00:00Z",),
            **dict.fromkeys(_NUMBERS, ("0", "1", "-1", "100", "2026")),
        }.get(kind, ("abc", "Ação", "new", "open", "2026", "a@b.example"))
        return self.random.choice(words)

    def _filter(self, relation: Relation, prefix: str = "") -> tuple[str, str]:
        column = self.random.choice(list(relation.columns))
        return f"{prefix}{column}", self._condition(relation, column)

    def _condition(self, relation: Relation, column: str) -> str:
        kind = relation.columns[column]
        value = self._value(relation, column)
        draw = self.random.random()
        if draw < 0.08:
            word = self.random.choice(("null", "not_null", "true", "unknown"))
            return f"{self.random.choice(('', 'not.'))}is.{word if kind == 'boolean' else 'null'}"
        if draw < 0.2:
            return f"in.({self._quoted(value)},{self._quoted(self._value(relation, column))})"
        if kind == "text" and draw < 0.45:
            operator = self.random.choice(("like", "ilike", "match", "imatch"))
            return f"{operator}.{value[:4]}{'*' if 'like' in operator else ''}"
        if kind.endswith("[]") and draw < 0.8:
            return f"{self.random.choice(('cs', 'cd', 'ov'))}.{{{value[:20]}}}"
        if kind == "jsonb":
            return f"{self.random.choice(('cs', 'cd', 'eq'))}.{value}"
        negation = self.random.choice(("", "", "", "not."))
        # What comes before a new id is chance.
        operators = _COMPARED[:2] if kind == "uuid" else _COMPARED
        return f"{negation}{self.random.choice(operators)}.{value}"

    @staticmethod
    def _quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    def _select(self, relation: Relation, depth: int = 0) -> tuple[str, list[tuple[str, str]]]:
        """Draw the columns to select, with what they embed, and filters on the embedded."""
        if self._maybe(0.35) and depth == 0:
            parts = ["*"]
        else:
            chosen = self.random.sample(
                list(relation.columns), self.random.randint(1, min(4, len(relation.columns)))
            )
            parts = [self._column(relation, column) for column in chosen]
        filters: list[tuple[str, str]] = []
        for place in range(2):
            if depth == 2 or not self._maybe(0.4 - 0.15 * depth):
                break
            embedded = self._embed(relation, depth, f"e{place}:")
            if embedded is None:
                break
            part, more = embedded
            parts.append(part)
            filters += more
        if depth == 0 and self._maybe(0.05):
            parts = [self.random.choice(("count()", f"{parts[0]},count()"))]
        return ",".join(parts), filters

    def _column(self, relation: Relation, column: str) -> str:
        kind = relation.columns[column]
        if kind == "jsonb" and self._maybe(0.5):
            return f"{column}->>a"
        if self._maybe(0.1):
            return f"{column}::text"
        return f"one:{column}" if self._maybe(0.05) else column

    def _embed(
        self, relation: Relation, depth: int, name: str
    ) -> tuple[str, list[tuple[str, str]]] | None:
        out = [(self.by_name.get(link.target), link) for link in relation.links]
        back = self.of_target.get(relation.name, [])
        choices = [(target, link) for target, link in [*out, *back] if target is not None]
        if not choices:
            return None
        target, link = self.random.choice(choices)
        hint = self.random.choice((f"!{link.name}", f"!{link.columns[-1]}", "", f"!{link.name}"))
        inner = "!inner" if self._maybe(0.25) else ""
        select, nested = self._select(target, depth + 1)
        alias = self.random.choice(("", "", name))
        spread = "..." if not alias and self._maybe(0.05) else ""
        name = alias[:-1] or target.name
        filters = [(f"{name}.{column}", value) for column, value in nested]
        if self._maybe(0.2):
            filters.append(self._filter(target, f"{name}."))
        return f"{spread}{alias}{target.name}{hint}{inner}({select})", filters

    # --- Requests ---

    def _read(self, actor: str) -> Request:
        relation = self._relation()
        select, filters = self._select(relation)
        params = [("select", select)] if self._maybe(0.85) else []
        params += filters if params else []
        for _ in range(self.random.choice((0, 0, 0, 0, 1, 1, 2))):
            params.append(self._filter(relation))
        if self._maybe(0.08):
            some = [self._filter(relation) for _ in range(2)]
            word = self.random.choice(("or", "and", "not.or", "not.and"))
            params.append((word, f"({','.join(f'{column}.{value}' for column, value in some)})"))
        headers: list[tuple[str, str]] = []
        if relation.key and self._maybe(0.4):
            by = self.random.choice(list(relation.columns))
            way = self.random.choice(("asc", "desc", "asc.nullsfirst", "desc.nullslast"))
            params.append(("order", ",".join((f"{by}.{way}", *relation.key))))
            if self._maybe(0.6):
                params.append(("limit", str(self.random.choice((0, 1, 2, 5, 1000)))))
                if self._maybe(0.4):
                    params.append(("offset", str(self.random.choice((0, 1, 3)))))
            elif self._maybe(0.4):
                headers.append(("Range", self.random.choice(("0-0", "0-4", "1-2", "5-1"))))
        if self._maybe(0.3):
            headers.append(("Prefer", self.random.choice(("count=exact", "handling=strict"))))
        if self._maybe(0.1):
            accept = self.random.choice(("vnd.pgrst.object+json", "geo+json", "json"))
            headers.append(("Accept", f"application/{accept}"))
        method = "HEAD" if self._maybe(0.05) else "GET"
        return Request(actor, method, f"/{relation.name}", tuple(params), tuple(headers))

    def _row(self, relation: Relation) -> dict[str, Any]:
        """Make a row out of one that stands there, some values exchanged for others."""
        rows = relation.own if self._maybe(0.8) else relation.foreign
        row = dict(self.random.choice(rows)) if rows else {}
        for column in list(row):
            if column in {"id", "created_at", "updated_at", "created_by"} and self._maybe(0.85):
                del row[column]
            elif self._maybe(0.12):
                row[column] = self._typed(relation, column)
        if self._maybe(0.85) and "org_id" in relation.columns:
            row["org_id"] = str(self.catalog.own)
        return row

    def _typed(self, relation: Relation, column: str) -> Any:
        value = self._value(relation, column)
        kind = relation.columns[column]
        is_json = kind.endswith("[]") or kind in {*_NUMBERS, "boolean", "jsonb"}
        return self._parsed(value) if is_json else value

    def _preferences(self) -> list[tuple[str, str]]:
        words = [
            word
            for word, chance in (
                ("return=representation", 0.6),
                ("return=minimal", 0.1),
                ("return=headers-only", 0.1),
                ("missing=default", 0.1),
                ("count=exact", 0.1),
                ("tx=rollback", 0.1),
                ("handling=strict", 0.05),
            )
            if self._maybe(chance)
        ]
        return [("Prefer", ",".join(words))] if words else []

    def _insert(self, actor: str) -> Request:
        relation = self._relation()
        params: list[tuple[str, str]] = []
        headers = self._preferences()
        body: Any = self._row(relation)
        if self._maybe(0.1):
            body = [body, self._row(relation)]
        if self._maybe(0.25):
            headers.append(
                ("Prefer", f"resolution={self.random.choice(('merge', 'ignore'))}-duplicates")
            )
            if relation.key and self._maybe(0.5):
                params.append(("on_conflict", ",".join(relation.key)))
        if self._maybe(0.3):
            params.append(("select", self._select(relation)[0]))
        return Request(actor, "POST", f"/{relation.name}", tuple(params), tuple(headers), body)

    def _update(self, actor: str) -> Request:
        relation = self._relation()
        params = [self._one(relation)]
        row = self._row(relation)
        some = self.random.sample(list(row), min(len(row), self.random.randint(1, 3)))
        body = {column: row[column] for column in some}
        if self._maybe(0.3):
            params.append(("select", self._select(relation)[0]))
        return Request(
            actor, "PATCH", f"/{relation.name}", tuple(params), tuple(self._preferences()), body
        )

    def _delete(self, actor: str) -> Request:
        relation = self._relation()
        params = (self._one(relation), self._filter(relation))
        return Request(actor, "DELETE", f"/{relation.name}", params, tuple(self._preferences()))

    def _one(self, relation: Relation) -> tuple[str, str]:
        """Draw a filter on the last column of the key: about one row."""
        column = relation.key[-1] if relation.key else next(iter(relation.columns))
        return column, f"eq.{self._value(relation, column)}"

    def _call(self, actor: str) -> Request:
        function = self.random.choice(self.functions)
        body = {
            argument.name: self._argument(argument)
            for argument in function.arguments
            if not argument.has_default or self._maybe(0.4)
        }
        path = f"/rpc/{function.name}"
        if function.is_stable and self._maybe(0.4):
            params = tuple(
                (name, value if isinstance(value, str) else json.dumps(value))
                for name, value in body.items()
            )
            return Request(actor, "GET", path, params)
        return Request(actor, "POST", path, (), tuple(self._preferences()), body)

    def _argument(self, argument: Argument) -> Any:
        if self._maybe(0.04):
            return self.random.choice(MALFORMED)
        if argument.name in {"org", "p_org", "org_id", "organization"}:
            return str(self.catalog.foreign if self._maybe(0.3) else self.catalog.own)
        side = "foreign" if self._maybe(0.45) else "own"
        if argument.type == "uuid":
            return self.random.choice(self._ids(argument.name, side))
        if argument.type == "text" and self._maybe(0.6):
            namesakes = self._namesakes(argument.name, side)
            return self.random.choice(namesakes or self.values[side])
        value = self._invented(argument.type.removesuffix("[]"))
        if argument.type.endswith("[]"):
            return [value]
        return self._parsed(value)

    def _namesakes(self, name: str, side: str) -> list[str]:
        """Return the texts that stand in columns called like an argument."""
        return [
            row[name]
            for one in self.catalog.relations
            for row in getattr(one, side)
            if isinstance(row.get(name), str) and row[name] not in self.catalog.withheld
        ]

    def _ids(self, name: str, side: str) -> list[str]:
        """Return ids of the table an argument is named after, or of any."""
        named = [one for one in self.catalog.relations if name in {one.name, one.name[:-1]}]
        ids = [row["id"] for one in named for row in getattr(one, side) if "id" in row]
        return ids or [value for value in self.values[side] if _UUID.fullmatch(value)]

    @staticmethod
    def _parsed(text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            return text

    def _spoil(self, request: Request) -> Request:
        """Break the request somewhere: whatever is answered, it is the same answer."""
        word = self.random.choice(MALFORMED)
        match self.random.randrange(5):
            case 0:
                return replace(request, params=(*request.params, ("select", f"id,{word}(")))
            case 1:
                return replace(request, params=(*request.params, (word or "x", "eq.1")))
            case 2:
                return replace(request, headers=(*request.headers, ("Prefer", "count=what")))
            case 3:
                return replace(request, path=f"{request.path}{quote(word)}")
            case _:
                broken = '{"a": ' + word if request.method in {"POST", "PATCH"} else None
                return replace(request, body=broken)
