"""Print how far files and git are: in a line below the pods, or with all steps."""

from __future__ import annotations

import sys

from tank_agent.api.reports import CommitReport, GitReport, PodGitReport, SourcesReport
from tank_agent.cli.output import ago, colored
from tank_agent.spec.printable import escape

_RED, _YELLOW, _GREEN = "31", "33", "32"
_COLORS = {"in-sync": _GREEN, "error": _RED, "held": _YELLOW, "suspended": _YELLOW, "pinned": _YELLOW}


def print_sources(sources: SourcesReport) -> None:
    """Print what a user must know about sources, if anything, after an empty line."""
    lines = [
        f"files: {colored('error', _RED)} - {escape(directory.error)}"
        for directory in sources.directories
        if directory.error
    ]
    git = sources.git
    if git is not None:
        lines.append(f"git: {git_line(git)}")
        lines += [escape(f"git: {trouble}") for trouble in git.troubles]
    if sources.suspended:
        text = "sources are suspended: files and git don't count; `tank resume` follows them again"
        lines.append(colored(text, _YELLOW))
    if lines:
        print("", *lines, sep="\n")


def followed(sources: SourcesReport) -> bool:
    """Return whether all sources can be followed, and nothing in them waits for a nod."""
    git = sources.git
    readable = not any(directory.error for directory in sources.directories)
    return readable and (git is None or git.state not in ("error", "held"))


def git_line(git: GitReport) -> str:
    """Return how far git is, as one line."""
    what = git.state if git.state != "pending" else "not looked yet"
    parts = [colored(escape(what), _COLORS.get(git.state, "0"))]
    if git.commit is not None:
        parts.append(escape(f"at {commit_line(git.commit)}"))
    trouble = git.error or git.held
    if trouble:
        parts.append(escape(f"- {trouble}"))
    elif git.looked_at:
        parts.append(f"- looked {ago(git.looked_at)}")
    return " ".join(parts)


def commit_line(commit: CommitReport | PodGitReport) -> str:
    """Return what people know a commit by."""
    id_ = commit.id if isinstance(commit, CommitReport) else commit.commit
    return f'{id_[:12]} "{commit.subject}" ({commit.author})'


def print_git(git: GitReport | None) -> None:
    """Print all that is known of the repository."""
    if git is None:
        print("this agent follows no git repository; see [git] in agent.toml")
        return
    print(f"{'state':<10}{git_line(git)}")
    if git.steps is None:
        return
    print(escape(f"{'remote':<10}{git.remote} {git.ref}"))
    for step, verb in (
        (git.steps.fetched, "fetch"),
        (git.steps.verified, "verify"),
        (git.steps.checked, "check"),
        (git.steps.applied, "apply"),
    ):
        result = step.error or ("done" if step.revision else "-")
        print(escape(f"{verb:<10}{(step.revision or '-')[:12]:<14}{result}"))
    for label, value in (("latest", git.latest and commit_line(git.latest)), ("do", git.hint)):
        if value:
            print(escape(f"{label:<10}{value}"))
    for trouble in git.troubles:
        print(escape(f"{'note':<10}{trouble}"))
    sys.stdout.flush()
