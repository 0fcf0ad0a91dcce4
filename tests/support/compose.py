"""The two programs that people call docker-compose: Debian 13's, and the Python one of Debian 12."""

from __future__ import annotations

import functools
import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tank_agent.convert.compose.project import Project
from tank_agent.convert.model import Value
from tests.support.debian import file_of_package

_PLUGIN = "usr/libexec/docker/cli-plugins/docker-compose"
_PYTHON = "/usr/bin/docker-compose"
_SECONDS = 60


@functools.cache
def compose_2() -> str:
    """Return the path of Debian 13's docker-compose, unpacked where this machine has another."""
    installed = Path("/", _PLUGIN)
    if installed.exists():
        return str(installed)
    return str(file_of_package("docker-compose", _PLUGIN, "docker-compose-2"))


@functools.cache
def compose_1() -> str | None:
    """Return the path of the Python docker-compose, if this machine has it."""
    if not Path(_PYTHON).exists():
        return None
    said = subprocess.run([_PYTHON, "version"], capture_output=True, text=True, check=True, timeout=_SECONDS)
    return _PYTHON if " 1." in said.stdout else None


def variables(program: str, *files: bytes) -> dict[str, str | None] | str:
    """Return the variables that a service gets of env files, or what is said against them."""
    with tempfile.TemporaryDirectory() as name:
        names = []
        for index, content in enumerate(files):
            names.append(f"{index}.env")
            Path(name, names[-1]).write_bytes(content)
        service = {"image": "app", "env_file": names}
        # The old one needs a version, and reads JSON as YAML.
        Path(name, "compose.yml").write_text(json.dumps({"version": "3", "services": {"app": service}}))
        command = [program, "-f", "compose.yml", "-p", "test", "config"]
        done = _run(command if program == _PYTHON else [*command, "--format", "json"], name)
        if done.returncode != 0:
            return done.stderr
        # The old one writes no JSON; the library that it reads YAML with is there with it.
        code = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)"
        if program == _PYTHON:
            done = _run(["/usr/bin/python3", "-c", code], name, done.stdout)
    found = json.loads(done.stdout)["services"]["app"].get("environment") or {}
    # Both write a dollar twice, as in their own files.
    return {key: None if value is None else str(value).replace("$$", "$") for key, value in found.items()}


def config(
    program: str, directory: Path, arguments: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> dict[str, Any] | str:
    """Return the model that compose makes of the files in a directory, or what it says against them."""
    command = [program, *arguments, "config", "--format", "json"]
    done = _run(command, str(directory), environ=environ)
    found: dict[str, Any] | str = json.loads(done.stdout) if done.returncode == 0 else done.stderr
    return found


def plain_file(project: Project) -> str:
    """Return a project as one compose file without variables, anchors and the like."""
    sections = {
        section: {name: _plain(value) for name, value in getattr(project, section).items()}
        for section in ("services", "networks", "volumes", "configs", "secrets")
    }
    for secret in sections["secrets"].values():
        # Compose has no such key there.
        (secret or {}).pop("content", None)
    return json.dumps({"name": project.name, **sections})


def _plain(value: Value) -> Any:
    plain = value.plain
    if isinstance(plain, dict):
        return {key: _plain(item) for key, item in plain.items()}
    if isinstance(plain, tuple):
        return [_plain(item) for item in plain]
    return plain.replace("$", "$$") if isinstance(plain, str) else plain


def _run(
    command: list[str], directory: str, given: str = "", environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        input=given,
        capture_output=True,
        text=True,
        cwd=directory,
        env={"PATH": "/usr/bin:/bin", "HOME": directory, **(environ or {})},
        check=False,
        timeout=_SECONDS,
    )
