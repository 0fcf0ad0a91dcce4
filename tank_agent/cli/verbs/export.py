"""Write pods as another tool's files: of compose, Quadlet or Kubernetes."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tank_agent.cli.arguments import client_of
from tank_agent.cli.importing import add_writing, say_remarks, write_files
from tank_agent.spec.printable import escape

if TYPE_CHECKING:
    from tank_agent.convert.leaving import Leaving
    from tank_agent.spec.parse import ParsedPod

HELP = "a pod as files of compose, Quadlet or Kubernetes"
EXAMPLES = (
    ("tank export compose web", "a compose file of the pod web"),
    ("tank export quadlet web.toml -o units", "of a pod file, without an agent"),
    ("tank export kubernetes pods -o k8s", "of all pod files of a directory"),
)
_FORMATS = {
    "compose": "one compose file",
    "quadlet": "units for podman and systemd",
    "kubernetes": "a file of objects for each pod",
}
_LOST = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    formats = parser.add_subparsers(metavar="FORMAT", required=True)
    for name, words in _FORMATS.items():
        one = formats.add_parser(name, help=words, allow_abbrev=False)
        one.set_defaults(run=_run, format=name)
        one.add_argument(
            "pods", nargs="+", metavar="NAME|PATH", help="pods of the agent; or pod files, or directories"
        )
        add_writing(one)


def _run(arguments: argparse.Namespace) -> int:
    leaving: list[Leaving] = []
    for word in arguments.pods:
        # A name has neither, and a file of this directory has the end of a pod file.
        is_path = "/" in word or word.endswith(".toml") or word == "." or Path(word).is_dir()
        leaving += _of_path(Path(word)) if is_path else [_of_agent(arguments, word)]
    found = importlib.import_module(f"tank_agent.convert.{arguments.format}.write").write(leaving)
    lost = any(one.kind == "lost" for one in found.remarks)
    if not (arguments.strict and lost):
        if arguments.output is None:
            print(_together(found.files), end="")
        else:
            write_files(arguments.output, found.files, force=arguments.force)
    sys.stdout.flush()
    say_remarks(found.remarks)
    if arguments.strict and lost:
        print("tank: nothing was written (--strict)", file=sys.stderr)
        return _LOST
    return 0


def _together(files: Mapping[str, bytes]) -> str:
    """Return files as one text; those of YAML, a document each."""
    texts = [
        f"# file: {name}\n{content.decode(errors='replace')}" for name, content in files.items() if content
    ]
    between = "---\n" if all(name.endswith(".yaml") for name in files) else "\n"
    return escape(between.join(texts), keep="\n\t")


def _of_agent(arguments: argparse.Namespace, name: str) -> Leaving:
    from tank_agent.convert.leaving import Leaving

    return Leaving(pod=client_of(arguments).get(name).pod, file=f"pod {name}")


def _of_path(path: Path) -> list[Leaving]:
    """Return the pods of a pod file, or of all in a directory.

    Raises:
        InvalidSpec: one of them is wrong.
        TankError: one can't be read, or there is none.
    """
    from tank_agent.api.wire import decode_text
    from tank_agent.cli.files import pod_files
    from tank_agent.client.pod_files import beside, pod_file_name, read_pod_file
    from tank_agent.errors import InvalidSpec, TankError
    from tank_agent.spec.parse import parse_pod_file

    found: list[Leaving] = []
    for file in pod_files(path, below=True):
        name = pod_file_name(file)
        text = decode_text(read_pod_file(file), name)
        parsed = parse_pod_file(text, name, beside=beside(file))
        if parsed.problems:
            raise InvalidSpec(tuple(parsed.problems))
        found += _leaving(parsed.pods, text, name)
    if not found:
        raise TankError("there is no pod file here (*.toml)", where=str(path))
    return found


def _leaving(pods: Sequence[ParsedPod], text: str, file: str) -> list[Leaving]:
    from tank_agent.convert.leaving import Leaving
    from tank_agent.spec.lines import find_lines

    lines = find_lines(text)
    found = []
    for at, one in enumerate(pods):
        own = lines
        if ("pods", 0) in lines:
            own = {path[2:]: line for path, line in lines.items() if path[:2] == ("pods", at)}
        found.append(Leaving(pod=one.pod, file=file, lines=own, selector=one.selector))
    return found
