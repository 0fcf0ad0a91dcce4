"""Print or write the pod files of a conversion, its remarks, and what to do next; for every format."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tank_agent.spec.printable import escape

if TYPE_CHECKING:
    from tank_agent.convert.model import Conversion, Remark

_LOST, _UNUSABLE = 1, 2
_MODE = 0o640


def add_writing(parser: argparse.ArgumentParser) -> None:
    """Add the options that `write_conversion` obeys."""
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="write files there; default standard output"
    )
    parser.add_argument("--force", action="store_true", help="write over files that are there")
    parser.add_argument(
        "--strict", action="store_true", help="write nothing, and return 1, if anything is lost"
    )


def write_conversion(arguments: argparse.Namespace, conversion: Conversion) -> int:
    """Write pod files to DIR or standard output, remarks and a summary to stderr; return the exit code.

    Raises:
        Stalled: a file is there already, or can't be written.
    """
    lost = [one for one in conversion.remarks if one.kind == "lost"]
    strict = arguments.strict and bool(lost)
    if conversion.files and not strict:
        if arguments.output is None:
            _print(conversion)
        else:
            write_files(arguments.output, _contents(conversion), force=arguments.force)
    sys.stdout.flush()
    say_remarks(conversion.remarks)
    _say(_summary(conversion))
    if not conversion.files:
        _say("tank: there is no pod in it, so nothing was written")
        return _UNUSABLE
    if strict:
        _say("tank: nothing was written (--strict)")
        return _LOST
    for line in _next(arguments.output, conversion):
        _say(line)
    return 0


def say_remarks(remarks: Sequence[Remark]) -> None:
    """Print remarks to stderr, the losses last."""
    for kind in ("note", "lost"):
        for one in remarks:
            if one.kind == kind:
                _say(f"{one.place}: {one.key}: {kind}: {one.message}")


def _say(line: str) -> None:
    print(escape(line, keep="\n"), file=sys.stderr)


def _print(conversion: Conversion) -> None:
    from tank_agent.convert.written import text_of

    texts = [f"# file: {file.name}.toml\n{text_of(file)}" for file in conversion.files]
    print(escape("\n".join(texts), keep="\n"), end="")


def _contents(conversion: Conversion) -> dict[str, bytes]:
    from tank_agent.convert.written import text_of

    contents: dict[str, bytes] = {}
    for file in conversion.files:
        contents |= file.beside
    # Last, since an agent that watches the directory takes a pod as soon as its file is there.
    return contents | {f"{file.name}.toml": text_of(file).encode() for file in conversion.files}


def write_files(directory: Path, contents: Mapping[str, bytes], *, force: bool) -> None:
    """Write files into a directory, which is made if need be; all of those that were not there, or none.

    Raises:
        Stalled: one is there already, and `force` is not given, or can't be written.
    """
    from tank_agent.errors import Stalled
    from tank_agent.linux import atomic

    there = [name for name in contents if (directory / name).is_symlink() or (directory / name).exists()]
    if there and not force:
        names = ", ".join(there[:5]) + (f" and {len(there) - 5} more" if len(there) > 5 else "")
        raise Stalled(f"there already: {names}", where=str(directory), hint="--force writes over them")
    written: list[Path] = []
    for name, content in contents.items():
        path = directory / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic.write(path, content, mode=_MODE)
        except OSError as error:
            # Half of a stack would run, and keep the next try from writing.
            for one in written:
                one.unlink(missing_ok=True)
            raise Stalled(f"cannot write: {error.strerror}", where=str(path)) from error
        if name not in there:
            written.append(path)


def _summary(conversion: Conversion) -> str:
    keys: Mapping[str, set[str]] = {"note": set(), "lost": set()}
    for one in conversion.remarks:
        keys[one.kind].add(".".join(one.key.split(".")[:3]))
    lost = len(keys["lost"])
    noted = len(keys["note"] - keys["lost"])
    pods = f"{len(conversion.files)} {'pod' if len(conversion.files) == 1 else 'pods'}"
    if not conversion.keys:
        return f"tank: {pods}; keys noted: {noted}, lost: {lost}"
    mapped = max(conversion.keys - noted - lost, 0)
    return f"tank: {pods} of {conversion.keys} keys: {mapped} mapped, {noted} with a note, {lost} lost"


def _next(output: Path | None, conversion: Conversion) -> list[str]:
    """Return what to do now."""
    beside = sorted({name for file in conversion.files for name in file.beside})
    if output is None:
        lines = [f"files beside, which -o DIR writes: {', '.join(beside)}"] if beside else []
        return [*lines, "next: the same with -o DIR, `tank validate DIR`, and copy it to /etc/tank/pods.d"]
    lines = [f"next: `tank validate {output}`, and `cp -r {output}/. /etc/tank/pods.d/`"]
    images = sorted(
        {
            str(container["image"])
            for file in conversion.files
            for container in _containers(file.pod)
            if "image" in container
        }
    )
    if images:
        lines.append(f"images that will be pulled: {', '.join(images)}")
    return lines


def _containers(pod: Mapping[str, object]) -> list[Mapping[str, object]]:
    found = pod.get("containers")
    return found if isinstance(found, list) else []
