"""`tank import compose` over files of others: how many are mapped whole, and what is lost of the rest.

Takes directories with repositories, such as clones of github.com/docker/awesome-compose and
github.com/Dokploy/templates; without any it says so, and does nothing. A directory with a template.toml
of Dokploy has the variables and files that this names, as Dokploy makes them.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from tank_agent.convert.compose.convert import convert
from tank_agent.convert.compose.environment import UNSET
from tank_agent.convert.compose.read import read_project
from tank_agent.convert.compose.service import Given
from tank_agent.convert.model import Conversion
from tank_agent.convert.written import text_of
from tank_agent.errors import TankError
from tank_agent.spec.beside import Sent
from tank_agent.spec.parse import parse_pod_file

_COMPOSE = re.compile(r"(docker-)?compose[^/]*\.ya?ml")
_REASONS = int(os.environ.get("TANK_BENCH_REASONS", "25"))


class Result(Struct):
    """The answer for one compose file."""

    file: str
    builds: bool
    conversion: Conversion | None
    error: str = ""

    @property
    def kind(self) -> str:
        if self.conversion is None or not self.conversion.files:
            return "refused"
        lost = any(one.kind == "lost" for one in self.conversion.remarks)
        return "with losses" if lost else "mapped"


def compose_files(directory: Path) -> Iterator[Path]:
    """Yield the compose files of a tree that are the first of their directory."""
    for path, directories, names in os.walk(directory):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        found = sorted(name for name in names if _COMPOSE.fullmatch(name) and "override" not in name)
        yield from (Path(path, name) for name in found)


def imported(file: Path, copy: Path) -> Result:
    """Return the answer for a compose file: where it is, or in a copy for what Dokploy makes."""
    code = file.parent
    if (code / "template.toml").exists():
        code = copy / code.name
        shutil.copytree(file.parent, code, symlinks=True)
        _dokploy(code)
    text = (code / file.name).read_text(errors="replace")
    builds = re.search(r"^\s+build\s*:", text, re.MULTILINE) is not None
    try:
        project = read_project([os.fspath(code / file.name)], environ={"HOME": "/root"}, profiles=["*"])
        given = Given({}, "/root", lambda path: Path(path).read_bytes(), os.path.lexists)
        for one_pod in (True, False):
            conversion = convert(project, given, one_pod=one_pod)
            _check(conversion)
    except TankError as error:
        return Result(os.fspath(file), builds, None, error.message)
    return Result(os.fspath(file), builds, conversion)


def _check(conversion: Conversion) -> None:
    for file in conversion.files:
        parsed = parse_pod_file(text_of(file), f"{file.name}.toml", beside=Sent(file.beside))
        if parsed.problems or len(parsed.pods) != 1:
            raise AssertionError(f"{file.name}: {parsed.problems}")


def _dokploy(code: Path) -> None:
    """Write `.env` and the files of a template, with something in place of what Dokploy chooses."""
    try:
        given: dict[str, Any] = tomllib.loads((code / "template.toml").read_text())
    except tomllib.TOMLDecodeError:
        return
    variables = {name: str(value) for name, value in given.get("variables", {}).items()}
    config = given.get("config", {})
    env = config.get("env", [])
    rows = [f"{name}={value}" for name, value in env.items()] if isinstance(env, dict) else env
    rows = [str(row) for row in rows if isinstance(row, str)]
    (code / ".env").write_text("".join(f"{_filled(row, variables)}\n" for row in rows))
    for mount in config.get("mounts", []):
        if isinstance(mount, dict) and "filePath" in mount:
            file = code.parent / "files" / str(mount["filePath"]).lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                file.write_text(str(mount.get("content", "")))


def _filled(text: str, variables: dict[str, str], depth: int = 0) -> str:
    def value(found: re.Match[str]) -> str:
        name = found[1]
        if name in variables and depth < 5:
            return _filled(variables[name], variables, depth + 1)
        return "8123" if "port" in name.lower() else "x1"

    return re.sub(r"\$\{([^}]*)\}", value, text)


def report(title: str, results: list[Result]) -> None:
    """Print the shares and the most frequent reasons, as Markdown."""
    print(f"\n### {title}: {len(results)} files\n")
    if not results:
        return
    kinds = Counter(one.kind for one in results)
    print("| mapped whole | with named losses | refused |")
    print("|---|---|---|")
    print("| " + " | ".join(f"{kinds[kind]} ({kinds[kind] / len(results):.1%})" for kind in _KINDS) + " |")
    for kind in ("lost", "note"):
        reasons: Counter[str] = Counter()
        for one in results:
            found = one.conversion.remarks if one.conversion else ()
            reasons.update(
                {
                    _reason(remark.key, remark.message)
                    for remark in found
                    if remark.kind == kind and UNSET not in remark.message
                }
            )
        _print(f"files with “{kind}”", reasons)
    _print("refused", Counter(one.error for one in results if one.kind == "refused"))


_KINDS = ("mapped", "with losses", "refused")


def _reason(key: str, message: str) -> str:
    top, *rest = key.split(".")
    where = ".".join(rest[1:3]) or "(whole)"
    return f"{where if top == 'services' else f'{top}: {where}'}: {_general(message)}"


def _general(message: str) -> str:
    return re.sub(r'"[^"]*"|/[^\s,;:]+|[0-9]+', "…", message)[:110]


def _print(title: str, reasons: Counter[str]) -> None:
    if reasons:
        print(f"\n{title}:\n")
    for reason, count in reasons.most_common(_REASONS):
        print(f"- {count}: {reason}")


def main() -> None:
    directories = [Path(one) for one in sys.argv[1:]]
    if not directories:
        print("import_share: name directories with clones of repositories that have compose files")
    for directory in directories:
        results = []
        for file in compose_files(directory):
            with tempfile.TemporaryDirectory(prefix="tank-import-") as copy:
                results.append(imported(file, Path(copy)))
        report(f"{directory.name}, without build:", [one for one in results if not one.builds])
        report(f"{directory.name}, with build:", [one for one in results if one.builds])


if __name__ == "__main__":
    main()
