"""Print the kept specs of a pod, oldest first."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tank_agent.cli.arguments import add_output, client_of

if TYPE_CHECKING:
    from tank_agent.api.types import ListedRevision

HELP = "the past specs of a pod"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("name", metavar="NAME")
    add_output(parser, "json")


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    from tank_agent.cli.output import ago, print_json, print_table

    revisions = client_of(arguments).history(arguments.name)
    if arguments.output == "json":
        print_json(revisions)
        return 0
    rows = [
        (
            revision.generation,
            ago(revision.changed_at),
            revision.owner,
            revision.revision[:12] or "-",
            _why(revision),
            ", ".join(container.image or container.rootfs or "-" for container in revision.pod.containers),
        )
        for revision in revisions
    ]
    print_table(("GENERATION", "CHANGED", "OWNER", "REVISION", "WHY", "IMAGES"), rows)
    return 0


def _why(revision: ListedRevision) -> str:
    """Return the commit's subject and author, and whether somebody went back to it."""
    said = [f"rollback to {revision.restored}"] if revision.restored is not None else []
    said += [f"{revision.subject} ({revision.author})"] if revision.author else []
    return ", ".join(said) or "-"
