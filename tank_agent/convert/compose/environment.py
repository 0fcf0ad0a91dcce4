"""The variables that a compose project is filled in with: the caller's environment, and .env files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from tank_agent.convert.compose.files import read_file
from tank_agent.convert.model import InvalidSource, Remark, SourcePlace
from tank_agent.spec.env_file import parse_env_file

# What a remark says of a variable without a value.
UNSET = "is not set, so it is blank, as compose has it"


class EnvFile(Struct, frozen=True):
    """A file of variables: its path, its name in messages, and the place that names it."""

    path: str
    shown: str
    place: SourcePlace


def read_environment(
    files: Sequence[EnvFile], environ: Mapping[str, str], remarks: list[Remark]
) -> dict[str, str]:
    """Return the variables of env files and of `environ`, which wins.

    Raises:
        InvalidSource: a file can't be read, or has a mistake.
    """
    found: dict[str, str] = {}
    for file in files:
        found |= variables_of(file.path, file.place, {**found, **environ}, remarks, shown=file.shown)
    return {**found, **environ}


def variables_of(
    path: str,
    place: SourcePlace,
    known: Mapping[str, str],
    remarks: list[Remark],
    *,
    shown: str | None = None,
) -> dict[str, str]:
    """Return the variables of one env file, in which `known` is what references may stand for, too.

    Args:
        path: the file.
        place: the line that names it.
        known: variables of the environment and of earlier files.
        remarks: gets one for each reference to a variable that is not set.
        shown: the file's name in messages.

    Raises:
        InvalidSource: the file can't be read, or has a mistake.
    """

    name_shown = shown or path

    def unset(name: str, line: int) -> None:
        message = f"{name} {UNSET}; set it above, or in the environment"
        remarks.append(Remark(kind="note", place=SourcePlace(name_shown, line), key=name, message=message))

    try:
        return parse_env_file(read_file(path, place), name_shown, known, unset)
    except ValueError as error:
        line, _, message = str(error).removeprefix(f"{name_shown}:").partition(": ")
        at = SourcePlace(name_shown, int(line)) if line.isdecimal() else SourcePlace(name_shown)
        raise InvalidSource(at, message or str(error)) from None
