"""Make pod files of another tool's: compose, Quadlet. Needs no agent, and starts nothing."""  # noqa: N999 - the verb's name

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path

from tank_agent.cli.importing import add_writing, write_conversion

HELP = "pod files of compose or Quadlet"
EXAMPLES = (
    ("tank import compose compose.yaml", "pod files on standard output"),
    ("tank import compose . -o pods", "each in a file of its own, in pods/"),
    ("tank import compose . --one-pod", "all services in one pod"),
    ("tank import quadlet units -o pods", "of units for podman"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    formats = parser.add_subparsers(metavar="FORMAT", required=True)
    compose = formats.add_parser("compose", help="compose files, or a directory", allow_abbrev=False)
    compose.set_defaults(run=_compose)
    compose.add_argument(
        "paths", nargs="+", metavar="PATH", help="compose files, later ones over earlier ones, or a directory"
    )
    compose.add_argument("--one-pod", action="store_true", help="all services as containers of one pod")
    compose.add_argument(
        "--profile",
        action="append",
        default=[],
        metavar="P",
        help="with the services of a profile; * for all",
    )
    compose.add_argument(
        "--env-file", action="append", default=[], metavar="F", help="variables, in place of .env"
    )
    compose.add_argument("--name", metavar="N", help="the project's name, in place of the directory's")
    add_writing(compose)
    quadlet = formats.add_parser("quadlet", help="units of podman, or directories", allow_abbrev=False)
    quadlet.set_defaults(run=_quadlet)
    quadlet.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help=".container, .pod and others, or directories"
    )
    quadlet.add_argument("--home", metavar="DIR", help="the home directory that %%h means; default yours")
    add_writing(quadlet)


def _compose(arguments: argparse.Namespace) -> int:
    from tank_agent.convert.compose.convert import convert
    from tank_agent.convert.compose.files import read_start
    from tank_agent.convert.compose.read import read_project
    from tank_agent.convert.compose.service import Given
    from tank_agent.spec.beside import FILE_MAX

    project = read_project(
        arguments.paths,
        env_files=arguments.env_file,
        environ=os.environ,
        profiles=arguments.profile,
        name=arguments.name,
    )
    given = Given(
        environment=project.environment,
        home=os.environ.get("HOME") or "/root",
        read=partial(read_start, most=FILE_MAX),
        exists=os.path.lexists,
        real=os.path.realpath,
    )
    return write_conversion(arguments, convert(project, given, one_pod=arguments.one_pod))


def _quadlet(arguments: argparse.Namespace) -> int:
    from tank_agent.convert.quadlet.convert import convert

    home = arguments.home or os.environ.get("HOME") or "/root"
    return write_conversion(arguments, convert(arguments.paths, home, os.path.realpath))
