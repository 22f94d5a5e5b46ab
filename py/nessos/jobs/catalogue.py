"""Every kind of job the worker knows; each module lists its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cron import jobs as cron
from nessos import events
from nessos.ai import chat
from nessos.ai import run as agents
from nessos.bcb import jobs as bcb
from nessos.knowledge import jobs as knowledge
from nessos.messaging import delivery
from nessos.omie import jobs as omie
from nessos.webhooks import inbound, outbound
from nessos.workflows import jobs as workflows

if TYPE_CHECKING:
    from nessos.jobs.entrypoint import Entrypoint


def entrypoints() -> tuple[Entrypoint, ...]:
    """Collect the entry points of all modules.

    Returns:
        One per row of `app.job_types`.
    """
    return (
        *events.ENTRYPOINTS,
        *cron.ENTRYPOINTS,
        *bcb.ENTRYPOINTS,
        *omie.ENTRYPOINTS,
        *inbound.ENTRYPOINTS,
        *outbound.ENTRYPOINTS,
        *delivery.ENTRYPOINTS,
        *knowledge.ENTRYPOINTS,
        *chat.ENTRYPOINTS,
        *agents.ENTRYPOINTS,
        *workflows.ENTRYPOINTS,
    )
