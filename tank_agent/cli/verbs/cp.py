"""Copy files and directories to and from a running container, by the rules of `docker cp`.

A directory is copied with its name; `/.` at its end copies what is in it. An existing directory as target
gets the source inside; any other target is the new name. `-` is a tar archive on standard input or output.
"""

from __future__ import annotations

import argparse
import os
import sys

from tank_agent.client.fast import http

HELP = "copy files to and from a container"
EXAMPLES = (
    ("tank cp web:/etc/nginx/nginx.conf .", "a file from the container"),
    ("tank cp site/. web:/srv/www", "what is in a directory here"),
    ("tank cp -a web/db:/var/lib/data backup", "with its owners; run it as root"),
    ("tank cp web:/srv - | tar -t", "as a tar archive"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    text = "NAME[/CONTAINER]:PATH, a path here, or - for a tar archive on standard input"
    parser.add_argument("source", metavar="SRC", help=text)
    text = "the same, but not both in containers; write ./a:b for a path here with a colon"
    parser.add_argument("target", metavar="DST", help=text)
    text = "keep owners, and set-user-ID bits"
    parser.add_argument("-a", "--archive", action="store_true", help=text)
    parser.add_argument("-L", "--follow-link", action="store_true", help="copy what the link SRC leads to")
    parser.add_argument("-q", "--quiet", action="store_true", help="print no summary")


def run(arguments: argparse.Namespace) -> int:
    from tank_agent.cli.output import print_error
    from tank_agent.client import copying
    from tank_agent.errors import TankError

    place = copying.container_place
    source, target = place(arguments.source), place(arguments.target)
    problem = _problem(arguments, source, target)
    if problem:
        print_error(TankError(problem[0], hint=problem[1]))
        return 2
    socket = http.socket_path(arguments.socket)
    if source is not None and arguments.target == "-":
        with open(os.devnull, "rb") as nothing:
            copying.receive(socket, *source, 1, stdin=nothing.fileno(), follow=arguments.follow_link)
        return 0
    if target is not None and arguments.source == "-":
        copying.send(socket, *target, 0, owners=arguments.archive)
        return 0
    options = {"owners": arguments.archive, "follow": arguments.follow_link}
    copied = copying.copy(socket, arguments.source, arguments.target, note=_note, **options)
    if not arguments.quiet:
        from tank_agent.cli.output import memory

        count = f"{copied.files} {'entry' if copied.files == 1 else 'entries'}"
        print(f"copied {count}, {memory(copied.size)}, to {arguments.target}", file=sys.stderr)
    return 0


def _problem(
    arguments: argparse.Namespace, source: tuple[str, str] | None, target: tuple[str, str] | None
) -> tuple[str, str] | None:
    if source is not None and target is not None:
        hint = f"tank cp {arguments.source} - | tank cp - {arguments.target}"
        return "nothing is copied from container to container in one step", hint
    if source is None and target is None:
        return (
            "neither SRC nor DST is in a container",
            "write NAME:PATH or NAME/CONTAINER:PATH for one of them",
        )
    if arguments.target == "-" and os.isatty(1):
        return "a terminal takes no tar archive", "write `> FILE` or `| tar -t` behind it"
    if arguments.source == "-" and os.isatty(0):
        return "standard input is a terminal and no tar archive", "write `< FILE` behind it"
    return None


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)
