"""Read what a user wants to apply: a pod file, the files that it names beside it, or a pod."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tank_agent.api import types
from tank_agent.errors import InvalidSpec, Problem
from tank_agent.spec.beside import Beside, Reading, Sent, nothing_beside
from tank_agent.spec.model import Pod

_STDIN = "<stdin>"
# Seconds that a file beside a pod file may still be written.
_WRITER_WITHIN = 2.0


def pod_text(
    pods: Pod | Mapping[str, object] | os.PathLike[str] | str | bytes,
) -> tuple[bytes, str, Sent | None]:
    """Return the TOML to send, its name in messages, and the files beside it; None if it names none."""
    if isinstance(pods, bytes):
        return pods, "<text>", None
    if isinstance(pods, str) and ("\n" in pods or "=" in pods):
        return pods.encode(), "<text>", None
    if isinstance(pods, str | os.PathLike):
        path = Path(pods)
        text = read_pod_file(path)
        return text, os.fspath(pods), files_beside(text, beside(path))
    from tank_agent.spec.parse import checked_pod, pod_from_mapping
    from tank_agent.spec.render import render_pod

    pod = checked_pod(pods) if isinstance(pods, Pod) else pod_from_mapping(dict(pods))
    return render_pod(pod).encode(), f"<pod {pod.name}>", None


def read_pod_file(path: Path) -> bytes:
    """Read a pod file; `-` is standard input.

    Raises:
        TankError: it can't be read.
        InvalidSpec: it is larger than a pod file may be.
    """
    # It loads ctypes, which commands that read no file should not wait for.
    from tank_agent.linux.given_files import read_given, read_stdin

    name = pod_file_name(path)
    content = read_given(path, types.MAX_POD_FILE) if name != _STDIN else read_stdin(types.MAX_POD_FILE)
    if len(content) > types.MAX_POD_FILE:
        message = f"is larger than the {types.MAX_POD_FILE >> 20} MiB of a pod file"
        raise InvalidSpec((Problem(name, 0, "", message),))
    return content


def pod_file_name(path: Path) -> str:
    """Return the name in messages of a pod file that a user gave."""
    name = os.fspath(path)
    return _STDIN if name == "-" else name


def beside(path: Path) -> Beside:
    """Return the reader of the files beside a pod file; there are none beside standard input or a pipe."""
    from tank_agent.linux.whole_files import beside_directory

    if not path.is_file() or os.fspath(path).startswith(("/dev/fd/", "/dev/std", "/proc/")):
        return nothing_beside
    return beside_directory(path.parent, _WRITER_WITHIN)


def files_beside(text: bytes, read: Beside) -> Sent | None:
    """Return the files that a pod file names beside it, and why some can't be had; None if it names none."""
    # Most pod files name none, and no parser has to be loaded for them.
    if b"source" not in text and b"env_file" not in text:
        return None
    from tank_agent.spec.beside import BesideError
    from tank_agent.spec.contents import named_in

    reading = Reading(read)
    for path in named_in(text.decode(errors="replace")):
        try:
            reading(path)
        except BesideError:
            # The agent says so, with the line of the key that names it.
            continue
    return reading.sent() if reading.found else None
