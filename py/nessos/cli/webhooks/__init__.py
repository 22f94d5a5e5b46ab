"""`nessos webhooks …`: what other systems tell us, and what we tell them."""

from __future__ import annotations

import typer

from nessos.cli.webhooks import endpoint, inbound, outbound, source

app = typer.Typer(
    help="Webhooks: endpoints that are told of events, deliveries to them, and what came in.",
    no_args_is_help=True,
)
app.add_typer(endpoint.app, name="endpoint")
app.add_typer(source.app, name="source")
outbound.register(app)
inbound.register(app)
