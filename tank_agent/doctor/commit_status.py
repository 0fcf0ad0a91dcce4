"""The question whether the status of the commit arrives at the forge."""

from __future__ import annotations

from tank_agent.doctor import Check, note, ok, warn

_NAME = "commit status"
_NOT_YET = "the agent that runs was started before [git.status] was written"


def of_agent(
    *, on: bool, commit: str | None, state: str | None, place: str, error: str | None, hint: str | None
) -> Check:
    """Say what the forge has, and why it has no more; `place` names the status and the project."""
    if not on:
        return warn(_NAME, _NOT_YET, "systemctl restart tank-agent")
    if error is not None:
        return warn(_NAME, error, hint or "it is tried again by itself")
    if commit is None:
        return note(_NAME, f"{place}: nothing is written yet", "it is with the first look at the repository")
    return ok(_NAME, f"{place}: {state} of {commit[:12]}")
