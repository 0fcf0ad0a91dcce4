"""Encrypt secrets of pods by age, try them with this machine's keys, and show these keys. Needs no agent."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tank_agent.cli.arguments import add_action
from tank_agent.cli.output import say, show
from tank_agent.spec.printable import escape

if TYPE_CHECKING:
    from tank_agent.control.secret_files import CheckedSecret
    from tank_agent.errors import Problem
    from tank_agent.settings.settings import Settings

HELP = "secrets of pods: encrypt and check them, and show for which keys"
EXAMPLES = (
    ("tank secret encrypt key -o key.age", "for this repository"),
    ("tank secret encrypt -o key.age < key", "from standard input"),
    ("tank secret check pods", "can this machine decrypt them"),
    ("tank secret recipients >> recipients.txt", "the public keys of this machine"),
)

_WRONG = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    sealing = actions.add_parser("encrypt", help="encrypt a file, or standard input", allow_abbrev=False)
    sealing.set_defaults(run=_encrypt)
    sealing.add_argument("file", nargs="?", default="-", metavar="FILE|-", help="the plain text")
    sealing.add_argument(
        "-r", "--recipient", action="append", default=[], metavar="R", help="age1… or ssh-ed25519 …"
    )
    sealing.add_argument(
        "-R",
        "--recipients-file",
        action="append",
        default=[],
        type=Path,
        metavar="F",
        help="a file of recipients, one a line; default recipients.txt, here or above in the repository",
    )
    sealing.add_argument("-o", "--output", type=Path, metavar="OUT", help="default standard output")
    sealing.add_argument("--force", action="store_true", help="write over OUT if it is there")
    checking = add_action(
        actions, "check", _check, "can this machine decrypt the secrets of pod files, or .age files"
    )
    checking.add_argument(
        "paths", nargs="+", metavar="PATH", type=Path, help="files, or directories with them"
    )
    listing = add_action(actions, "recipients", _recipients, "the public keys of this machine")
    for action in (checking, listing):
        action.add_argument(
            "--config", type=Path, metavar="F", help="default /etc/tank/agent.toml, if there is one"
        )
        action.add_argument(
            "-i",
            "--identity",
            action="append",
            metavar="F",
            help="a key file, instead of those in agent.toml",
        )


def _settings(arguments: argparse.Namespace) -> Settings:
    import os

    from tank_agent.settings.settings import load_settings

    return load_settings(arguments.config, environ=os.environ)


def _encrypt(arguments: argparse.Namespace) -> int:
    from tank_agent.control.secret_files import RECIPIENTS, default_recipients, encrypt
    from tank_agent.errors import Stalled
    from tank_agent.linux import atomic
    from tank_agent.linux.given_files import read_given, read_stdin
    from tank_agent.spec.beside import FILE_MAX

    files, out = list(arguments.recipients_file), arguments.output
    if not (arguments.recipient or files):
        found = default_recipients(Path.cwd())
        if found is None:
            hint = (
                f"name them by -r or -R, or in {RECIPIENTS}; `tank secret recipients` prints a machine's own"
            )
            raise Stalled("for whom? No recipients are given", hint=hint)
        files = [found]
        print(escape(f"tank: for the recipients in {found}"), file=sys.stderr)
    if out is not None and not arguments.force and (out.exists() or out.is_symlink()):
        raise Stalled(f"{out} is there already", hint="--force writes over it")
    if out is not None and not out.parent.is_dir():
        raise Stalled(f"there is no directory {out.parent}", hint=f"mkdir -p {shlex.quote(str(out.parent))}")
    if arguments.file == "-":
        if sys.stdin is not None and sys.stdin.isatty():
            print("tank: type the secret; Ctrl-D twice ends it, Enter is a part of it", file=sys.stderr)
        plaintext = read_stdin(FILE_MAX)
    else:
        plaintext = read_given(Path(arguments.file), FILE_MAX)
    armor = encrypt(plaintext, arguments.recipient, files)
    if not plaintext:
        print("tank: the secret is empty", file=sys.stderr)
    if plaintext.endswith(b"\n") and plaintext.count(b"\n") == 1:
        print(
            "tank: the secret ends with a new line, which is a part of it; printf has none", file=sys.stderr
        )
    if out is None:
        sys.stdout.write(armor.decode())
    else:
        # Only those that it is encrypted for can read it, so it needs no protection.
        atomic.write(out, armor, mode=0o644)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from tank_agent.control.secret_files import check
    from tank_agent.errors import Problem

    settings = _settings(arguments)
    identities = arguments.identity or settings.secrets.identities
    own = (settings.data_dir, settings.run_dir)
    checked: list[CheckedSecret] = []
    problems: list[Problem] = []
    for path in arguments.paths:
        files = _files(path)
        if not files:
            print(
                escape(f"tank: {path}: no pod files (*.toml) and no encrypted files (*.age)"), file=sys.stderr
            )
        for found in (one for file in files for one in check(file, identities, own)):
            if isinstance(found, Problem):
                problems.append(found)
            else:
                checked.append(found)
    show(arguments, checked, lambda: _print(checked))
    sys.stdout.flush()
    for problem in problems:
        print(escape(str(problem)), file=sys.stderr)
    return _WRONG if problems or any(one.error is not None for one in checked) else 0


def _files(path: Path) -> list[Path]:
    from tank_agent.cli.files import pod_files

    if not path.is_dir():
        return [path]
    encrypted = (one for one in path.rglob("*.age") if one.is_file())
    seen = (one for one in encrypted if not any(part.startswith(".") for part in one.relative_to(path).parts))
    return sorted({*pod_files(path, below=True), *seen})


def _print(checked: Sequence[CheckedSecret]) -> None:
    for one in checked:
        what = f"{one.file}: {one.secret}" if one.pod else one.file
        if one.error is None:
            say(f"{what}: ok")
    sys.stdout.flush()
    for one in checked:
        if one.error is not None:
            print(escape(f"{one.file}: {one.error}", keep="\n"), file=sys.stderr)


def _recipients(arguments: argparse.Namespace) -> int:
    from tank_agent.control.secret_files import recipients_of
    from tank_agent.errors import Stalled

    identities = arguments.identity or _settings(arguments).secrets.identities
    found, wrong = recipients_of(identities)
    for sentence in wrong:
        print(escape(f"tank: {sentence}"), file=sys.stderr)
    if not found:
        files = ", ".join(identities)
        hint = "`age-keygen -o /etc/tank/age.key` makes one; [secrets] identities in agent.toml names others"
        raise Stalled(f"this machine has no key for secrets ({files})", hint=hint)
    return show(arguments, found, lambda: say(*(one.recipient for one in found)))
