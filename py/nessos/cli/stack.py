"""`nessos up`, `down`, `status`, `doctor` and `env`."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nessos.cli import output
from nessos.cli.output import JsonOption
from nessos.errors import StackError
from nessos.settings import load

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from nessos.local.stack import Stack


def register(app: typer.Typer) -> None:
    """Add the commands.

    Args:
        app: The command line.
    """
    app.command()(up)
    app.command()(down)
    app.command()(status)
    app.command()(doctor)
    app.command()(env)


def up(
    *,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when healthy; stop with nessos down.")
    ] = False,
) -> None:
    """Start the local stack, wait until it is healthy, print its addresses and logins.

    Stays in the foreground; Ctrl-C, or nessos down from elsewhere, stops everything it started.
    """
    from nessos.local.stack import Stack

    started = time.monotonic()

    def ready(stack: Stack) -> None:
        _welcome(stack)
        output.say(f"healthy after {time.monotonic() - started:.1f} s")
        if not detach:
            output.say("Ctrl-C or make down stops it.")

    if detach:
        ready(_detached())
        return
    Stack(load(), say=output.progress).run(ready)


def down() -> None:
    """Stop the local stack: everything it started, and nothing else."""
    from nessos.local.stack import Stack

    output.say("stopped" if Stack(load(), say=output.progress).down() else "nothing was running")


def status(*, json: JsonOption = False) -> None:
    """Show how every part is; exit code 1 when one is not well."""
    from nessos.checks.status import check
    from nessos.target import resolve

    target = resolve()
    parts = check(target)
    healthy = all(part.is_healthy for part in parts)
    if json:
        output.as_json(
            {
                "healthy": healthy,
                "url": target.supabase_url,
                "parts": [
                    {"part": one.name, "healthy": one.is_healthy, "detail": one.detail}
                    for one in parts
                ],
            }
        )
    else:
        rows = [
            (one.name, "healthy" if one.is_healthy else "NOT WELL", one.detail) for one in parts
        ]
        output.table(None, ("part", "state", "detail"), rows)
        if not healthy:
            output.say("nessos doctor says what to do.")
    raise typer.Exit(0 if healthy else 1)


def doctor(*, json: JsonOption = False) -> None:
    """Look for what is wrong and say how to put it right; exit code 1 when there is something."""
    from nessos.checks.doctor import examine
    from nessos.target import resolve

    findings = examine(resolve())
    if json:
        output.as_json(
            [{"part": one.part, "finding": one.what, "remedy": one.remedy} for one in findings]
        )
    elif findings:
        rows = [(one.part, one.what, one.remedy) for one in findings]
        output.table(None, ("part", "finding", "remedy"), rows)
    else:
        output.say("nothing found")
    raise typer.Exit(1 if findings else 0)


def env() -> None:
    """Print the running stack's addresses and keys: eval "$(nessos env)"."""
    from nessos.local import processes
    from nessos.target import resolve

    settings = load()
    target = resolve()
    if target.is_local and not processes.is_locked(settings.home):
        raise StackError("the stack is not running", "make up")
    values = {
        "DATABASE_URL": target.database_url.get_secret_value(),
        "SUPABASE_URL": target.supabase_url,
        "SUPABASE_PUBLISHABLE_KEY": target.publishable_key.get_secret_value(),
        "SUPABASE_SECRET_KEY": target.secret_key.get_secret_value(),
        "NESSOS_ENCRYPTION_KEYS": target.encryption_keys.get_secret_value(),
    }
    for name, value in values.items():
        output.say(f"export {name}={shlex.quote(value)}")


def _detached() -> Stack:
    """Start the supervisor in the background and wait for its verdict."""
    from nessos.local import database, processes
    from nessos.local.stack import Stack

    settings = load()
    database.node()
    settings.home.mkdir(mode=0o711, parents=True, exist_ok=True)
    (settings.home / "logs").mkdir(mode=0o700, exist_ok=True)
    log = settings.home / "logs" / "supervisor.log"
    with log.open("wb") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "nessos", "up"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    while True:
        if child.poll() is not None:
            lines = log.read_text(errors="replace").strip().splitlines() or [
                "error: no reason given"
            ]
            what, _, way_out = lines[-1].removeprefix("error: ").partition(" → ")
            raise StackError(what, way_out or None)
        state = processes.read_state(settings.home)
        if state and state.is_ready and state.supervisor.pid == child.pid:
            return Stack(settings)
        time.sleep(0.1)


def _welcome(stack: Stack) -> None:
    """Print what a newcomer needs."""
    from nessos.local import demo

    settings, keys = stack.settings, stack.keys
    publishable, secret = keys.publishable, keys.secret
    rows = [
        ("REST", f"{stack.gateway_url}/rest/v1"),
        ("Auth", f"{stack.gateway_url}/auth/v1"),
        ("Functions", f"{stack.gateway_url}/functions/v1"),
        ("Postgres", f"127.0.0.1:{settings.postgres_port} (nessos db psql)"),
        ("Worker, cron", "running (nessos status)"),
        ("Publishable key", publishable.get_secret_value()),
        ("Secret key", secret.get_secret_value()),
        ("Logs", str(stack.home / "logs")),
    ]
    output.table("ness.OS", ("service", "address or key"), rows)
    companies = demo.organizations(stack.owner_url)
    if not companies:
        output.say("No organisation yet: sign up, then create_organization.")
        return
    roles = list(dict.fromkeys(login.role for one in companies for login in one.logins))
    logins = [{login.role: login.email for login in one.logins} for one in companies]
    output.table(
        f"Demo logins (password {demo.PASSWORD})",
        ("role", *(one.name for one in companies)),
        [(role, *(of.get(role) for of in logins)) for role in roles],
    )
    _show_dashboard(companies[0].name, demo.dashboard(stack.owner_url, companies[0]))


def _amount(value: object, unit: str) -> str:
    if not isinstance(value, int | float | Decimal):
        return "" if value is None else str(value)
    return f"{value:,.{0 if unit == 'count' else 2}f}"


def _show_dashboard(company: str, summary: MutableMapping[str, Any]) -> None:
    """Print a company's latest indices and what the database has of it."""
    indices = summary.pop("recent_data_indices", None) or []
    latest = max((one["period"] for one in indices), default=None)
    if latest:
        output.table(
            f"Dashboard of {company}, {latest[:7]}",
            ("index", "value", "unit"),
            [
                (one["title"], _amount(one["value"], one["unit"]), one["unit"])
                for one in indices
                if one["period"] == latest
            ],
            right=("value",),
        )
    facts = [
        f"{name.replace('_', ' ')} {value}"
        for name, value in sorted(summary.items())
        if isinstance(value, str | int)
    ]
    if facts:
        output.say(f"{company}: {', '.join(facts)}.")
