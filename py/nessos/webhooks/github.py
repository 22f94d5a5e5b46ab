"""What GitHub sends: pushes and pull requests become events of module ops.

Payloads: https://docs.github.com/webhooks/webhook-events-and-payloads. Only what names
repositories, branches and commits is read; people, titles and messages are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import parse_qs

from pydantic import BaseModel, Field, ValidationError

from nessos.errors import GiveUpError

if TYPE_CHECKING:
    from nessos.jobs.entrypoint import Task
    from nessos.webhooks.inbound import InboundEvent

Name = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00]*$")]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40,64}$")]


class Repository(BaseModel):
    """A repository."""

    full_name: Name


class Push(BaseModel):
    """Event `push`: commits, a branch or a tag. A deletion has no commits."""

    ref: Name
    before: Commit
    after: Commit
    forced: bool = False
    commits: list[object] = []
    repository: Repository


class Branch(BaseModel):
    """An end of a pull request; `repo` is null when the fork has been deleted."""

    ref: Name
    repo: Repository | None


class PullRequest(BaseModel):
    """A pull request. `merged` is missing in the short form that some events carry."""

    number: int = Field(ge=1, lt=2**31)
    merged: bool | None = None
    merge_commit_sha: Commit | None = None
    head: Branch
    base: Branch


class PullRequestEvent(BaseModel):
    """Event `pull_request`."""

    action: Name
    pull_request: PullRequest
    repository: Repository


_PUSH: Final = """
select app.record_push(
    org => %(org)s, webhook_event => %(webhook_event)s, repository => %(repository)s,
    ref => %(ref)s, before => %(before)s, after => %(after)s, commits => %(commits)s,
    is_forced => %(is_forced)s
)
"""
_PULL_REQUEST: Final = """
select app.record_pull_request(
    org => %(org)s, webhook_event => %(webhook_event)s, action => %(action)s,
    is_merged => %(is_merged)s, repository => %(repository)s, number => %(number)s,
    base_ref => %(base_ref)s, head_ref => %(head_ref)s, is_fork => %(is_fork)s,
    merge_commit => %(merge_commit)s
) as is_recorded
"""


async def process(task: Task, event: InboundEvent) -> str:
    """Record a push or a change of a pull request.

    Args:
        task: The job.
        event: What GitHub sent, as JSON or as a form with the JSON in `payload`.

    Returns:
        What was recorded, or `ignored: …`.

    Raises:
        GiveUpError: The payload is not what GitHub documents.
    """
    name = event.headers.get("x-github-event", "")
    try:
        if name == "push":
            return await _push(task, event, Push.model_validate_json(_payload(event)))
        if name == "pull_request":
            change = PullRequestEvent.model_validate_json(_payload(event))
            return await _pull_request(task, event, change)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "payload"
        raise GiveUpError(f"the payload of {name} is unknown: {place}: {first['msg']}") from None
    return f"ignored: event {name[:50]}"


def _payload(event: InboundEvent) -> bytes:
    if "form-urlencoded" not in event.headers.get("content-type", ""):
        return event.body
    return parse_qs(event.body).get(b"payload", [b""])[0]


async def _push(task: Task, event: InboundEvent, push: Push) -> str:
    values = {
        "org": event.org_id,
        "webhook_event": event.id,
        "repository": push.repository.full_name,
        "ref": push.ref,
        "before": push.before,
        "after": push.after,
        "commits": len(push.commits),
        "is_forced": push.forced,
    }
    async with task.pool.connection() as connection:
        await connection.execute(_PUSH, values)
    return f"push to {push.ref} of {push.repository.full_name}"


async def _pull_request(task: Task, event: InboundEvent, change: PullRequestEvent) -> str:
    request = change.pull_request
    head, base = request.head.repo, request.base.repo
    values = {
        "org": event.org_id,
        "webhook_event": event.id,
        "action": change.action,
        "is_merged": request.merged,
        "repository": change.repository.full_name,
        "number": request.number,
        "base_ref": request.base.ref,
        "head_ref": request.head.ref,
        # A deleted repository was not this one.
        "is_fork": head is None or base is None or head.full_name != base.full_name,
        "merge_commit": request.merge_commit_sha,
    }
    async with task.pool.connection() as connection:
        row = await (await connection.execute(_PULL_REQUEST, values)).fetchone()
    if row is None or not row["is_recorded"]:
        return f"ignored: pull request {change.action[:50]}"
    return f"pull request {request.number} of {change.repository.full_name} {change.action}"
