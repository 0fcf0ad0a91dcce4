"""Read a compose project: find its files, merge them, and fill in variables."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from tank_agent.convert.compose.check import active, check_names
from tank_agent.convert.compose.environment import UNSET, EnvFile, read_environment
from tank_agent.convert.compose.files import NAMES, default_files, dot_env, first_of
from tank_agent.convert.compose.interpolate import Filling
from tank_agent.convert.compose.load import ComposeFile, Loader, Scope
from tank_agent.convert.compose.paths import Roots
from tank_agent.convert.compose.project import Project
from tank_agent.convert.compose.sections import SECTIONS, entries_of
from tank_agent.convert.model import InvalidSource, Remark, SourcePlace
from tank_agent.spec.findings import show

_NOTHING: Mapping[str, str] = MappingProxyType({})
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


def read_project(
    files: Sequence[str],
    *,
    directory: str | None = None,
    env_files: Sequence[str] = (),
    environ: Mapping[str, str] = _NOTHING,
    profiles: Sequence[str] = (),
    name: str | None = None,
) -> Project:
    """Return the project of compose files, the later ones merged over the earlier ones.

    Args:
        files: their paths; or that of a directory alone, whose files are found as compose finds them. Without
            any, they are looked for in the working directory and those above it.
        directory: where relative paths of the files start; that of the first file if it is not given.
        env_files: files of variables; `.env` of the directory if there are none.
        environ: the variables of the caller's environment, which win.
        profiles: those whose services are active; "*" for all. COMPOSE_PROFILES if there are none.
        name: the project's; else COMPOSE_PROJECT_NAME, the one in the files, or the directory's.

    Raises:
        InvalidSource: a file can't be read or used; it names the file, the line, and what would be right.
        TankError: the library that reads YAML is missing.
    """
    remarks: list[Remark] = []
    typed = _typed(files, directory)
    start = posixpath.abspath(typed)
    try:
        known = _environment(typed, env_files, environ, remarks)
        found = _files(files, start, known, typed)
        base = start if directory is not None or found[0].path == "-" else posixpath.dirname(found[0].path)
        if base != start:
            known = _environment(posixpath.dirname(found[0].shown), env_files, known, remarks)
        roots = Roots(base, environ.get("HOME"))
        return _project(found, roots, known, remarks, profiles=profiles, name=name)
    except InvalidSource as error:
        # A blank that nobody meant is what is wrong with many a volume or port.
        unset = [
            remark.message for remark in remarks if UNSET in remark.message and remark.place == error.place
        ]
        if not unset or error.hint:
            raise
        raise InvalidSource(error.place, error.message, hint="; ".join(unset)) from None


def _project(
    found: Sequence[ComposeFile],
    roots: Roots,
    known: dict[str, str],
    remarks: list[Remark],
    *,
    profiles: Sequence[str],
    name: str | None,
) -> Project:
    shown = {posixpath.dirname(file.path): posixpath.dirname(file.shown) for file in found}
    loader = Loader(remarks, shown)
    project_name = name or known.get("COMPOSE_PROJECT_NAME")
    if project_name:
        _check_name(project_name, found[0])
    else:
        project_name = (
            _name_of(found, loader, known) or _normal(posixpath.basename(roots.directory)) or "project"
        )
    known.setdefault("COMPOSE_PROJECT_NAME", project_name)
    scope = Scope(roots=roots, known=known, filling=Filling(known, remarks))
    sections = loader.model(found, scope)
    asked = profiles or [word.strip() for word in known.get("COMPOSE_PROFILES", "").split(",")]
    services = active(entries_of(sections, "services"), asked, remarks)
    check_names(sections, services, implied=loader.is_first_form)
    if not services:
        left = entries_of(sections, "services")
        right = (
            "ask for their profiles with --profile, or * for all" if left else "write services: and what runs"
        )
        raise InvalidSource(SourcePlace(found[0].shown), f"has no service to run; {right}")
    others = {section: entries_of(sections, section) for section in SECTIONS if section != "services"}
    return Project(
        name=project_name,
        directory=roots.directory,
        services=services,
        environment=known,
        remarks=tuple(dict.fromkeys(remarks)),
        **others,
    )


def _typed(files: Sequence[str], directory: str | None) -> str:
    """Return, as it was typed, the directory of `.env`, which is the project's if no others are named."""
    if directory is not None or not files:
        return directory or ""
    return files[0] if Path(files[0]).is_dir() else posixpath.dirname(files[0])


def _environment(
    directory: str, env_files: Sequence[str], environ: Mapping[str, str], remarks: list[Remark]
) -> dict[str, str]:
    paths = list(env_files)
    is_off = environ.get("COMPOSE_DISABLE_ENV_FILE", "").lower() in ("1", "t", "true")
    if not paths and not is_off and (found := dot_env(directory)) is not None:
        paths = [found]
    return read_environment([EnvFile(path, path, SourcePlace(path)) for path in paths], environ, remarks)


def _files(files: Sequence[str], start: str, known: Mapping[str, str], typed: str) -> list[ComposeFile]:
    """Return the files to read: those named, those of COMPOSE_FILE, or those with compose's own names."""
    if len(files) == 1 and Path(files[0]).is_dir():
        named = _of_variable(known, files[0]) or default_files(files[0], SourcePlace(files[0]))
    elif files:
        named = list(files)
    else:
        named = _of_variable(known, "") or _above(start, typed)
    return [_file(path) for path in named]


def _file(path: str) -> ComposeFile:
    if path == "-":
        return ComposeFile("-", "<stdin>", SourcePlace("<stdin>"))
    return ComposeFile(posixpath.abspath(path), path, SourcePlace(path))


def _of_variable(known: Mapping[str, str], directory: str) -> list[str]:
    paths = known.get("COMPOSE_FILE", "").split(known.get("COMPOSE_PATH_SEPARATOR") or ":")
    return [posixpath.join(directory, path) for path in paths if path]


def _above(start: str, typed: str) -> list[str]:
    """Return the files of a directory, as it was typed, or of the nearest above it that has some."""
    directory = start
    while first_of(directory, NAMES) is None and directory != posixpath.dirname(directory):
        directory = posixpath.dirname(directory)
    return default_files(typed if directory == start else directory, SourcePlace(typed or "."))


def _check_name(name: str, file: ComposeFile) -> None:
    if not _NAME.fullmatch(name):
        right = "write small letters, digits, - and _, a letter or digit first"
        raise InvalidSource(SourcePlace(file.shown), f"{show(name)} is no name of a project; {right}")


def _name_of(files: Sequence[ComposeFile], loader: Loader, known: Mapping[str, str]) -> str:
    """Return the name that the last file with one gives the project."""
    filling = Filling(known, [])
    found = ""
    for file in files:
        for document in loader.documents(file):
            value = document.value.plain.get("name") if isinstance(document.value.plain, dict) else None
            found = _normal(filling.text(value, "name")) if value is not None else found
    return found


def _normal(name: str) -> str:
    return re.sub("[^a-z0-9_-]", "", name.lower()).lstrip("_-")
