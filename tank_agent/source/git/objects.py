"""Git's objects as bytes: names, commits, tags and trees. Pure, strict, and short enough to be read whole.

Formats: git's Documentation/gitformat-signature, gitdatamodel and `git cat-file`. SHA-1 repositories only.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from contextlib import suppress
from typing import Literal

from msgspec import Struct

Kind = Literal["commit", "tree", "blob", "tag"]
ID = re.compile(r"[0-9a-f]{40}")
# A pod file that was omitted: its name and its size, 0 if it does not fit into memory.
OMITTED = re.compile(r"([0-9a-f]{40}) (\d{1,18})")
_PERSON = re.compile(r"(.*?) ?<([^<>]*)> (-?\d{1,15}) [+-]\d{4}")
_SIGNATURE = re.compile(rb"^-----BEGIN (?:PGP SIGNATURE|PGP MESSAGE|SSH SIGNATURE)-----$", re.MULTILINE)
# Those of Python's that git hosts and mailers write; others are slow, or no text encodings at all.
_ENCODING = re.compile(
    r"iso-?8859-?(?:[1-9]|1[0134-6])|latin-?[1-9]|(?:windows-|cp)125[0-8]|koi8-[ru]"
    r"|shift_jis|euc-(?:jp|kr)|iso-2022-jp|gb2312|gbk|gb18030|big5",
    re.IGNORECASE,
)
_UNSAFE_NAMES = frozenset((b"", b".", b"..", b".git"))


class BadObjectError(ValueError):
    """An object does not fit its name or its format."""


class CommitInfo(Struct, frozen=True, kw_only=True):
    """A commit as messages show it. `at` is its committer's Unix time; texts are safe to print."""

    id: str
    author: str
    subject: str
    at: float

    def __str__(self) -> str:
        """Return the commit's name in messages."""
        return f'commit {self.id[:12]} ("{self.subject}" by {self.author})'


class Signed(Struct, frozen=True):
    """A signature (armoured, as git stores it) and the signed bytes."""

    signature: bytes
    payload: bytes


class Commit(Struct, frozen=True, kw_only=True):
    """One commit. `signed` is None if it holds no signature."""

    tree: str
    parents: tuple[str, ...]
    info: CommitInfo
    signed: Signed | None = None

    def __str__(self) -> str:
        """Return the commit's name in messages."""
        return str(self.info)


class Tag(Struct, frozen=True, kw_only=True):
    """An annotated tag: the object that it names, and its own name."""

    target: str
    kind: str
    name: str
    signed: Signed | None = None


class TreeEntry(Struct, frozen=True):
    """One line of a tree. `safe` is False for a name that no checkout could hold (`..`, `.git`, a slash)."""

    name: bytes
    mode: int
    id: str

    @property
    def is_directory(self) -> bool:
        """Return whether it is a directory of this tree."""
        return self.mode == 0o40000

    @property
    def is_file(self) -> bool:
        """Return whether it is a regular file."""
        return self.mode & 0o170000 == 0o100000

    @property
    def is_symlink(self) -> bool:
        """Return whether it is a symbolic link."""
        return self.mode == 0o120000

    @property
    def safe(self) -> bool:
        """Return whether the name is one path component."""
        return self.name.lower() not in _UNSAFE_NAMES and b"/" not in self.name and b"\0" not in self.name


def object_id(kind: Kind, data: bytes) -> str:
    """Return an object's name."""
    digest = hashlib.sha1(b"%s %d\0" % (kind.encode(), len(data)), usedforsecurity=False)
    digest.update(data)
    return digest.hexdigest()


def printable(text: bytes | str, limit: int = 120) -> str:
    """Return hostile text as one line without control characters."""
    decoded = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    shown = "".join(character if character.isprintable() else "�" for character in decoded.strip())
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def parse_commit(data: bytes) -> Commit:
    """Read a commit.

    Raises:
        BadObjectError: it is malformed, or has more than one signature.
    """
    headers, _, message = data.partition(b"\n\n")
    fields = _headers(headers)
    names = [name for name, _ in fields]
    if names[:1] != [b"tree"] or names.count(b"tree") != 1 or names.count(b"gpgsig") > 1:
        raise BadObjectError("malformed commit")
    parents = tuple(_name(value) for name, value in fields if name == b"parent")
    if names[1 : 1 + len(parents)] != [b"parent"] * len(parents):
        raise BadObjectError("malformed commit: parents out of place")
    values = dict(fields)
    encoding = _encoding(values.get(b"encoding", b""))
    author, _ = _person(values.get(b"author", b""), encoding)
    _, at = _person(values.get(b"committer", b""), encoding)
    signature = values.get(b"gpgsig")
    return Commit(
        tree=_name(values[b"tree"]),
        parents=parents,
        info=CommitInfo(
            id=object_id("commit", data),
            author=author,
            subject=printable(message.split(b"\n", 1)[0].decode(encoding, "replace")),
            at=at,
        ),
        signed=None if signature is None else Signed(signature + b"\n", _without_signature(data)),
    )


def parse_tag(data: bytes) -> Tag:
    """Read an annotated tag.

    Raises:
        BadObjectError: it is malformed.
    """
    headers, _, _ = data.partition(b"\n\n")
    fields = _headers(headers)
    if [name for name, _ in fields[:3]] != [b"object", b"type", b"tag"]:
        raise BadObjectError("malformed tag")
    found = list(_SIGNATURE.finditer(data))
    start = found[-1].start() if found else 0
    return Tag(
        target=_name(fields[0][1]),
        kind=fields[1][1].decode("ascii", "replace"),
        name=fields[2][1].decode("utf-8", "replace"),
        signed=Signed(data[start:], data[:start]) if found else None,
    )


def parse_tree(data: bytes) -> tuple[TreeEntry, ...]:
    """Read a tree.

    Raises:
        BadObjectError: it is malformed or names one entry twice.
    """
    entries: list[TreeEntry] = []
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 8)
        end = data.find(b"\0", at)
        mode = data[at:space]
        if space < 0 or end < space or len(data) < end + 21 or not re.fullmatch(rb"[0-7]{5,6}", mode):
            raise BadObjectError("malformed tree")
        entries.append(TreeEntry(data[space + 1 : end], int(mode, 8), data[end + 1 : end + 21].hex()))
        at = end + 21
    if len({entry.name for entry in entries}) != len(entries):
        raise BadObjectError("a tree names one entry twice")
    return tuple(entries)


def _headers(block: bytes) -> list[tuple[bytes, bytes]]:
    fields: list[tuple[bytes, bytes]] = []
    for line in block.split(b"\n"):
        if line.startswith(b" "):
            if not fields:
                raise BadObjectError("malformed header")
            fields[-1] = (fields[-1][0], fields[-1][1] + b"\n" + line[1:])
            continue
        name, _, value = line.partition(b" ")
        fields.append((name, value))
    return fields


def _name(value: bytes) -> str:
    text = value.decode("ascii", "replace")
    if not ID.fullmatch(text):
        raise BadObjectError("malformed object name")
    return text


def _encoding(value: bytes) -> str:
    """Return the encoding of a commit's texts (i18n.commitEncoding); UTF-8 if it is unknown."""
    name = value.decode("ascii", "replace")
    with suppress(LookupError):
        if _ENCODING.fullmatch(name):
            return codecs.lookup(name).name
    return "utf-8"


def _person(value: bytes, encoding: str) -> tuple[str, float]:
    matched = _PERSON.fullmatch(value.decode(encoding, "replace"))
    if matched is None:
        return "?", 0.0
    return printable(matched[1] or matched[2], 60), float(matched[3])


def _without_signature(data: bytes) -> bytes:
    kept = []
    skipping = False
    headers, separator, message = data.partition(b"\n\n")
    for line in headers.split(b"\n"):
        if line.startswith(b" ") and skipping:
            continue
        skipping = line.startswith(b"gpgsig ")
        if not skipping:
            kept.append(line)
    return b"\n".join(kept) + separator + message
