"""Print the kept specs of a pod, oldest first."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tank_agent.cli.arguments import add_output, client_of
from tank_agent.cli.output import ago, print_table, show

if TYPE_CHECKING:
    from tank_agent.api.types import ListedRevision

HELP = "the past specs of a pod"
_HEADERS = ("GENERATION", "CHANGED", "OWNER", "REVISION", "WHY", "IMAGES")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    revisions = client_of(arguments).history(arguments.name)
    return show(arguments, revisions, lambda: print_table(_HEADERS, map(_row, revisions)))


def _row(revision: ListedRevision) -> tuple[object, ...]:
    # The reason is a rollback, the subject and author of a commit, or both.
    why = [f"rollback to {revision.restored}"] if revision.restored is not None else []
    why += [f"{revision.subject} ({revision.author})"] if revision.author else []
    images = ", ".join(container.image or container.rootfs or "-" for container in revision.pod.containers)
    changed, name = ago(revision.changed_at), revision.revision[:12] or "-"
    return revision.generation, changed, revision.owner, name, ", ".join(why) or "-", images
