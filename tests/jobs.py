"""Jobs as tests need them."""

from tests.people import Connection


def add_job_type(
    db: Connection,
    entrypoint: str,
    *,
    latency_class: str = "default",
    is_subscribable: bool = False,
) -> None:
    """Add a job to the catalogue."""
    db.execute(
        "insert into app.job_types (entrypoint, latency_class, is_subscribable, description)"
        " values (%s, %s, %s, 'Of a test.') on conflict do nothing",
        (entrypoint, latency_class, is_subscribable),
    )
