"""Storage: policies of the buckets, on a stand-in for the storage schema of a Supabase project."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.people import (
    WORLD,
    Connection,
    World,
    as_agent,
    as_anon,
    as_client,
    as_member,
    as_person,
    denied,
)

MIGRATION = (
    Path(__file__).parents[2] / "supabase" / "migrations" / "20260101001700_storage.sql"
).read_text()
STORAGE = """
create schema storage;
create table storage.objects (
    id uuid primary key default gen_random_uuid(),
    bucket_id text,
    name text,
    owner_id text default auth.uid()::text,
    unique (bucket_id, name)
);
alter table storage.objects enable row level security;
grant usage on schema storage to anon, authenticated, service_role;
grant select, insert, update, delete on storage.objects to anon, authenticated, service_role;
"""
UPLOAD = "insert into storage.objects (bucket_id, name) values (%s, %s)"
A, B = WORLD.a.org, WORLD.b.org
CV = "0b0e6a52-4c5e-4a68-9d1e-0f3a5cf0a001"


@pytest.fixture
def files(db: Connection) -> Iterator[Connection]:
    """A database with a storage schema and the migration applied to it; job openings in a only."""
    db.execute(STORAGE)
    db.execute(MIGRATION)
    db.execute(
        "insert into public.public_jobs (org_id, slug, title) values (%s, 'vaga', 'Vaga')", (A,)
    )
    yield db
    db.rollback()


def put(db: Connection, bucket: str, name: str) -> None:
    db.execute(UPLOAD, (bucket, name))


def names(db: Connection, bucket: str) -> list[str]:
    rows = db.execute(
        "select name from storage.objects where bucket_id = %s order by 1", (bucket,)
    ).fetchall()
    return [row[0] for row in rows]


def test_without_a_storage_schema_nothing_happens(db: Connection) -> None:
    assert db.execute("select to_regclass('storage.objects')").fetchone() == (None,)
    before = db.execute("select count(*) from pg_policy").fetchone()
    db.execute(MIGRATION)
    assert db.execute("select count(*) from pg_policy").fetchone() == before


def test_each_command_has_one_policy_per_role(files: Connection) -> None:
    rows = files.execute(
        "select policyname, cmd, roles::text from pg_policies where schemaname = 'storage' order"
        " by 1"
    ).fetchall()
    assert rows == [
        ("objects_delete", "DELETE", "{authenticated}"),
        ("objects_insert", "INSERT", "{authenticated}"),
        ("objects_insert_public", "INSERT", "{anon}"),
        ("objects_select", "SELECT", "{authenticated}"),
        ("objects_update", "UPDATE", "{authenticated}"),
    ]


@pytest.mark.parametrize(
    ("bucket", "path", "readers", "writers"),
    [
        (
            "os-assets",
            "guia.pdf",
            {"owner", "admin", "director", "ops", "employee"},
            {"owner", "admin", "director", "ops"},
        ),
        (
            "os-assets",
            "brand/logo.svg",
            {"owner", "admin", "director", "ops", "employee", "sales"},
            {"owner", "admin", "director", "ops", "sales"},
        ),
        (
            "cvs",
            "entrevista.txt",
            {"owner", "admin", "director", "people"},
            {"owner", "admin", "people"},
        ),
        ("legal", "contratos/c-1.pdf", {"owner", "admin", "legal"}, {"owner", "admin", "legal"}),
    ],
)
def test_a_bucket_follows_the_matrix_of_its_module(
    files: Connection, bucket: str, path: str, readers: set[str], writers: set[str]
) -> None:
    put(files, bucket, f"{A}/{path}")
    put(files, bucket, f"{B}/{path}")
    reading, writing, changing, deleting = set(), set(), set(), set()
    for role in (
        "owner",
        "admin",
        "director",
        "sales",
        "ops",
        "finance",
        "legal",
        "people",
        "employee",
    ):
        with as_member(files, A, role):
            seen = names(files, bucket)
            assert set(seen) <= {f"{A}/{path}"}
            reading |= {role} if seen else set()
            with files.transaction(force_rollback=True):
                if files.execute("update storage.objects set owner_id = 'x'").rowcount:
                    changing.add(role)
            with files.transaction(force_rollback=True):
                if files.execute("delete from storage.objects").rowcount:
                    deleting.add(role)
            try:
                with files.transaction(force_rollback=True):
                    put(files, bucket, f"{A}/{path}-{role}")
                    writing.add(role)
            except psycopg.errors.InsufficientPrivilege:
                pass
    assert (reading, writing, changing, deleting) == (readers, writers, writers, writers)


@pytest.mark.parametrize("bucket", ["os-assets", "cvs", "legal", "other"])
@pytest.mark.parametrize(
    "name", ["{b}/x.pdf", "x.pdf", "{a}", "{a}/", "/{a}/x.pdf", "x/{a}/x.pdf", "not-a-uuid/x.pdf"]
)
def test_nobody_writes_outside_the_folder_of_the_own_organization(
    files: Connection, bucket: str, name: str
) -> None:
    with as_member(files, A, "owner"), denied():
        put(files, bucket, name.format(a=A, b=B))


def test_a_file_is_not_moved_to_another_organization_or_bucket(files: Connection) -> None:
    put(files, "legal", f"{A}/x.pdf")
    with as_member(files, A, "legal"):
        for change in (f"name = '{B}/x.pdf'", "bucket_id = 'other'", "bucket_id = 'os-assets'"):
            with denied():
                files.execute(f"update storage.objects set {change}")
        files.execute(f"update storage.objects set name = '{A}/y.pdf'")


def outsiders(db: Connection, world: World) -> list[AbstractContextManager[object]]:
    return [
        as_client(db, world.a),
        as_agent(db, world.a),
        as_person(db, world.stranger),
        as_person(db, world.removed),
    ]


def test_portal_agents_and_strangers_see_no_file(files: Connection, world: World) -> None:
    for bucket in ("os-assets", "cvs", "legal"):
        put(files, bucket, f"{A}/x.pdf")
    for actor in outsiders(files, world):
        with actor:
            assert files.execute("select * from storage.objects").fetchall() == []
            with denied():
                put(files, "os-assets", f"{A}/y.pdf")


@pytest.mark.parametrize("ending", ["pdf", "doc", "docx"])
def test_a_visitor_uploads_a_cv_and_reads_none(
    files: Connection, world: World, ending: str
) -> None:
    name = f"{A}/{CV}.{ending}"
    with as_anon(files):
        put(files, "cvs", name)
        assert files.execute("select * from storage.objects").fetchall() == []
        assert files.execute("update storage.objects set name = name").rowcount == 0
        assert files.execute("delete from storage.objects").rowcount == 0
    with as_person(files, world.stranger):
        put(files, "cvs", f"{A}/{uuid4()}.{ending}")
        assert names(files, "cvs") == []
    with as_member(files, A, "people"):
        assert name in names(files, "cvs")


@pytest.mark.parametrize(
    ("bucket", "name"),
    [
        ("cvs", f"{A}/{CV}.exe"),
        ("cvs", f"{A}/{CV}.pdf.exe"),
        ("cvs", f"{A}/{CV}.PDF"),
        ("cvs", f"{A}/{CV}"),
        ("cvs", f"{A}/cv.pdf"),
        ("cvs", f"{A}/x/{CV}.pdf"),
        ("cvs", f"{A}/{CV}.pdf\n"),
        ("cvs", f"{CV}.pdf"),
        ("cvs", f"{B}/{CV}.pdf"),
        ("cvs", f"{UUID(int=0)}/{CV}.pdf"),
        ("legal", f"{A}/{CV}.pdf"),
        ("os-assets", f"{A}/{CV}.pdf"),
    ],
)
def test_a_visitor_uploads_nothing_else(files: Connection, bucket: str, name: str) -> None:
    with as_anon(files), denied():
        put(files, bucket, name)


def test_a_visitor_uploads_only_where_a_job_is_open(files: Connection) -> None:
    files.execute("update public.public_jobs set is_open = false")
    with as_anon(files), denied():
        put(files, "cvs", f"{A}/{CV}.pdf")
    files.execute("update public.public_jobs set is_open = true")
    files.execute("update public.organizations set status = 'inactive' where id = %s", (A,))
    with as_anon(files), denied():
        put(files, "cvs", f"{A}/{CV}.pdf")


def test_a_cv_path_taken_by_storage_is_taken_by_the_application(
    files: Connection, world: World
) -> None:
    name = f"{A}/{CV}.docx"
    with as_anon(files):
        put(files, "cvs", name)
        files.execute(
            "select public.submit_application(%s, 'vaga', 'Ana Lima', 'ana@exemplo.com', cv_path"
            " => %s, consent => true)",
            (world.a.slug, name),
        )
    assert files.execute("select cv_path from public.job_applications").fetchone() == (name,)
