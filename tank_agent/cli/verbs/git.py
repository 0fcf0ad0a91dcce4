"""Make a repository to push to, and see how far the machine follows the one in agent.toml."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tank_agent.cli.arguments import add_output, client_of
from tank_agent.cli.output import GREEN, RED, YELLOW, ago, colored, say, show
from tank_agent.spec.printable import escape

if TYPE_CHECKING:
    from tank_agent.api.reports import CommitReport, GitReport, PodGitReport

HELP = "make a repository to push to; how far git is"
EXAMPLES = (
    ("tank git init /srv/fleet.git --owner ann", "a repository that ann pushes to"),
    ("tank git status", "how far the machine follows it"),
)

_COLORS = {"in-sync": GREEN, "error": RED, "held": YELLOW, "suspended": YELLOW, "pinned": YELLOW}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    init = verbs.add_parser("init", help="make a bare repository on this machine to push to")
    init.add_argument("path", metavar="PATH", help="a new or empty directory")
    init.add_argument("--owner", metavar="USER", help="who pushes, over ssh; default you")
    init.add_argument("--branch", default="main", metavar="B", help="what HEAD names (default main)")
    init.set_defaults(run=_init, here=True)
    add_output(init)
    status = verbs.add_parser("status", help="how far git is, step by step")
    status.set_defaults(run=_status)
    add_output(status)


def _init(arguments: argparse.Namespace) -> int:
    from tank_agent.control.offline import init_repository

    path = Path(arguments.path).absolute()
    made = init_repository(path, arguments.branch, arguments.owner)
    ready = f"{path} {'is ready for pushes' if made else 'is a repository already'}"
    follow = f'follow it: [git] url = "{path}" in agent.toml, and restart the agent'
    return show(arguments, {"path": str(path), "created": made}, lambda: say(ready, follow))


def _status(arguments: argparse.Namespace) -> int:
    git = client_of(arguments).sources().git
    show(arguments, git, lambda: _print(git))
    return 1 if git is not None and git.state in ("error", "held") else 0


def _print(git: GitReport | None) -> None:
    """Print all that is known of the repository."""
    if git is None:
        print("this agent follows no git repository; see [git] in agent.toml")
        return
    print(f"{'state':<10}{git_line(git)}")
    if git.steps is None:
        return
    say(f"{'remote':<10}{git.remote} {git.ref}")
    for verb, step in (
        ("fetch", git.steps.fetched),
        ("verify", git.steps.verified),
        ("check", git.steps.checked),
        ("apply", git.steps.applied),
    ):
        result = step.error or ("done" if step.revision else "-")
        if verb == "check" and git.unusable and not step.error:
            result = "done, but `tank status` has errors of files"
        say(f"{verb:<10}{(step.revision or '-')[:12]:<14}{result}")
    if git.latest is not None:
        say(f"{'latest':<10}{commit_line(git.latest.id, git.latest)}")
    if git.hint:
        say(f"{'do':<10}{git.hint}")
    if git.status is not None and git.status.commit is not None:
        told = f"{git.status.commit[:12]:<14}{git.status.state}"
        say(f"{'status':<10}{told}, as {git.status.context} of {git.status.project}")
    say(*(f"{'note':<10}{trouble}" for trouble in git.troubles))


def git_line(git: GitReport) -> str:
    """Return how far git is, as one line."""
    what = git.state if git.state != "pending" else "not looked yet"
    color = _COLORS.get(git.state, "0")
    if git.unusable:
        files = "1 file has errors" if git.unusable == 1 else f"{git.unusable} files have errors"
        what, color = f"{what}, but {files}", YELLOW if git.state == "in-sync" else color
    parts = [colored(escape(what), color)]
    if git.commit is not None:
        parts.append(escape(f"at {commit_line(git.commit.id, git.commit)}"))
    trouble = git.error or git.held
    if trouble:
        parts.append(escape(f"- {trouble}"))
    elif git.looked_at:
        parts.append(f"- looked {ago(git.looked_at)}")
    return " ".join(parts)


def commit_line(commit: str, known: CommitReport | PodGitReport) -> str:
    """Return a commit as people know it: by its short id, subject and author."""
    return f'{commit[:12]} "{known.subject}" ({known.author})'
