"""The command line: one module per sub-app, each registered here.

A command imports what it needs when it runs, so that help and short commands are instant.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from nessos.cli import (
    agents,
    ai,
    chat,
    cron,
    db,
    events,
    indices,
    integrations,
    jobs,
    knowledge,
    notifications,
    organization,
    report,
    stack,
    sync,
    webhooks,
    worker,
    workflows,
)
from nessos.errors import NessosError

app = typer.Typer(
    name="nessos",
    help="ness.OS: the operating system of a service company, in Postgres.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
stack.register(app)
worker.register(app)
chat.register(app)
app.add_typer(agents.app, name="agents")
app.add_typer(ai.app, name="ai")
app.add_typer(db.app, name="db")
app.add_typer(cron.app, name="cron")
app.add_typer(events.app, name="events")
app.add_typer(indices.app, name="indices")
app.add_typer(integrations.app, name="integrations")
app.add_typer(jobs.app, name="jobs")
app.add_typer(knowledge.app, name="knowledge")
app.add_typer(notifications.app, name="notifications")
app.add_typer(organization.app, name="org")
app.add_typer(report.app, name="report")
app.add_typer(sync.app, name="sync")
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(workflows.app, name="workflows")


def main() -> NoReturn:
    """Run the command line; expected failures are one line on standard error."""
    try:
        app()
    except NessosError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the one line
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
    sys.exit(0)
