"""Files beside a pod file, which it names: configuration, encrypted secrets, env files.

A source gives the reader of a pod file a `Beside`: of a directory, of a commit, or of what a client sent.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable

from msgspec import Struct

# The most bytes of one file, and of all that one pod names.
FILE_MAX = 256 << 10
POD_MAX = 1 << 20
# The most files that one pod file names, which may have several pods, and their bytes.
FILES_MAX = 256
FILES_SIZE_MAX = 8 << 20
_PATH_MAX = 1024
_PART_MAX = 255

# Ends of sentences about a path, the same for every source.
LINK = "is a symbolic link or behind one, which is never followed; put the file itself there"
DIRECTORY = "is a directory; name a file"

# Returns the content of a file by its path from the pod file's directory, or raises BesideError.
Beside = Callable[[str], bytes]


class BesideError(Exception):
    """A file beside a pod file can't be had; the message says why, as the end of a sentence about it."""


def nothing_beside(_path: str) -> bytes:
    """Raise BesideError: the pod file is in no directory."""
    raise BesideError("can't be read, since this text is in no directory; write its content here instead")


def path_complaint(path: str) -> str | None:
    """Return why a path is not one of a file beside a pod file, as the end of a sentence; None if it is."""
    parts = path.split("/")
    sizes = [len(part.encode(errors="surrogatepass")) for part in parts]
    wrong = None
    if not path or path.startswith("/"):
        wrong = "is no path from the pod file's directory; write a relative one"
    elif ".." in parts:
        wrong = 'leads out of the pod file\'s directory; put the file in it or below, and write no ".."'
    elif sum(sizes) + len(sizes) > _PATH_MAX or max(sizes) > _PART_MAX:
        wrong = "is too long a path"
    elif not path.isprintable() or "\\" in path:
        wrong = "has characters that no such path may have"
    elif posixpath.normpath(path) != path:
        wrong = f'is not the shortest form of the path; write "{posixpath.normpath(path)}"'
    elif any(part.startswith(".") for part in parts):
        wrong = "has a name that starts with a dot, which is never read; rename it"
    return wrong


def too_large(size: str) -> str:
    """Return why a file is not read; `size` is the start of it, such as "has 300000 bytes"."""
    return f"{size}; a file beside a pod file has at most {FILE_MAX}"


class Sent(Struct, frozen=True):
    """What a client found beside a pod file: contents by path, and why others can't be had; a Beside."""

    contents: dict[str, bytes] = {}
    missing: dict[str, str] = {}

    def __call__(self, path: str) -> bytes:
        """Return the content of a file, or raise BesideError."""
        content = self.contents.get(path)
        if content is None:
            raise BesideError(self.missing.get(path, "was not sent with this text"))
        return content


class Reading:
    """A Beside for one pod file: it asks another for each file once, and within limits.

    Attributes:
        found: what was asked for, in that order: contents, or why there is none.
    """

    def __init__(self, beside: Beside) -> None:
        self._beside = beside
        self._left = FILES_SIZE_MAX
        self.found: dict[str, bytes | str] = {}

    def sent(self) -> Sent:
        """Return what was found, to be sent to an agent."""
        return Sent(
            {path: content for path, content in self.found.items() if isinstance(content, bytes)},
            {path: why for path, why in self.found.items() if isinstance(why, str)},
        )

    def __call__(self, path: str) -> bytes:
        """Return the content of a file, or raise BesideError."""
        content = self.found.get(path)
        if content is None:
            if len(self.found) >= FILES_MAX:
                raise BesideError(f"is one too many: a pod file names at most {FILES_MAX} files beside it")
            content = self.found[path] = self._within_limits(self._read(path))
        else:
            # Each pod that names it has a copy, and a short text may have thousands of pods.
            content = self._within_limits(content)
        if isinstance(content, str):
            raise BesideError(content)
        return content

    def _read(self, path: str) -> bytes | str:
        wrong = path_complaint(path)
        if wrong is not None:
            return wrong
        try:
            content = self._beside(path)
        except BesideError as error:
            return str(error)
        if len(content) > FILE_MAX:
            return too_large(f"has {len(content)} bytes")
        return content

    def _within_limits(self, content: bytes | str) -> bytes | str:
        if isinstance(content, bytes):
            self._left -= len(content)
            if self._left < 0:
                most = f"at most {FILES_SIZE_MAX} bytes together, each as often as it is named"
                return f"is too much: the files beside one pod file have {most}"
        return content
