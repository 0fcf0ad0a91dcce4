"""Look at files and git now instead of at their next turn; with --wait, until all pods are settled.

Exit code 1: a directory or git could not be followed, a file has errors, a commit waits for --confirm, or
with --wait a pod is not well.
"""

from __future__ import annotations

import argparse

from tank_agent.cli.arguments import add_output, client_of, duration
from tank_agent.cli.output import show
from tank_agent.cli.verbs.status import print_all

HELP = "look at files and git now, and make it so"
EXAMPLES = (
    ("tank sync", "look at files and git now"),
    ("tank sync --wait", "and wait until every pod runs"),
    ("tank sync --confirm", "let a commit through that was held"),
)

_WAIT = 120.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait", action="store_true", help="until all pods are settled; 1 if one is not well"
    )
    parser.add_argument(
        "--timeout", type=duration, metavar="T", help="of all of it (default 30s, with --wait 2m)"
    )
    text = "let a commit through that would change too many pods: REV, or the one that waits now"
    parser.add_argument("--confirm", nargs="?", const="", metavar="REV", help=text)
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from tank_agent.api.types import MAX_SYNC_WAIT

    client = client_of(arguments)
    limit = None if arguments.timeout is None else min(arguments.timeout, MAX_SYNC_WAIT)
    if arguments.wait:
        pods = client.sync(_WAIT if limit is None else limit, confirm=arguments.confirm)
    else:
        pods = client.sync(confirm=arguments.confirm, within=limit)
    sources = client.sources()
    show(arguments, pods, lambda: print_all(pods, sources))
    git_follows = sources.git is None or sources.git.state not in ("error", "held")
    if not git_follows or sources.unusable or any(directory.error for directory in sources.directories):
        return 1
    well = all(pod.phase in ("running", "completed", "scheduled") and not pod.error for pod in pods)
    return 0 if well or not arguments.wait else 1
