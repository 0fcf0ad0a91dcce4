"""Print the kept specs of a pod, oldest first, with the outcome of each."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tank_agent.cli.arguments import add_output, client_of
from tank_agent.cli.output import ago, print_table, say, short_digest, show

if TYPE_CHECKING:
    from tank_agent.api.types import ListedRevision

HELP = "the past specs of a pod, and what came of each"
EXAMPLES = (
    ("tank history web", "the kept revisions of web"),
    ("tank history web -o json", "with their specs and images"),
)
_HEADERS = ("GENERATION", "CHANGED", "OWNER", "REVISION", "OUTCOME", "PLAN", "WHY", "IMAGES")
# What a narrow terminal does without.
_SPARE = ("PLAN", "IMAGES", "OWNER", "WHY", "CHANGED")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    revisions = client_of(arguments).history(arguments.name)
    return show(arguments, revisions, lambda: _print(revisions))


def _print(revisions: Sequence[ListedRevision]) -> None:
    print_table(_HEADERS, map(_row, revisions), spare=_SPARE, cut=("OWNER", "IMAGES", "WHY"))
    # A good revision needs no words.
    ended = [(one.generation, one.verdict) for one in revisions if one.verdict is not None]
    told = [(at, verdict) for at, verdict in ended if verdict.outcome != "good" and verdict.reason]
    if told:
        print()
    say(*(f"{at} {verdict.outcome}, {ago(verdict.at)}: {verdict.reason}" for at, verdict in told))


def _row(revision: ListedRevision) -> tuple[object, ...]:
    # The reason is a rollback, a user who asked for it, the subject and author of a commit, or several.
    what = f"rollback to {revision.restored}" if revision.restored is not None else ""
    if revision.by:
        what = f"{what or 'asked for'} by {revision.by}"
    why = [what] if what else []
    why += [f"{revision.subject} ({revision.author})"] if revision.author else []
    verdict = revision.verdict
    return (
        revision.generation,
        ago(revision.changed_at),
        revision.owner,
        revision.revision[:12] or "-",
        verdict.outcome if verdict is not None else "-" if revision.pod.schedule else "unverified",
        (verdict.proof if verdict is not None else "") or "-",
        ", ".join(why) or "-",
        ", ".join(_images(revision)),
    )


def _images(revision: ListedRevision) -> list[str]:
    """Return what each container ran: its image, and the digest of that if it is known."""
    known = {**revision.images, **(revision.verdict.images if revision.verdict is not None else {})}
    names = {one.name: one.image or one.rootfs or "-" for one in revision.pod.containers}
    return [f"{image}{short_digest(image, known.get(name))}" for name, image in names.items()]
