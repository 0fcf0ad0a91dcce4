"""Check the files and secrets of a pod's table, and read what is beside the pod file."""

from __future__ import annotations

import base64
import binascii
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from tank_agent.spec import env_file, file, model, run_values
from tank_agent.spec.beside import FILE_MAX, POD_MAX, Beside, BesideError, path_complaint
from tank_agent.spec.document import read_toml
from tank_agent.spec.findings import Finding, KeyPath, show
from tank_agent.spec.keys import checked
from tank_agent.spec.quantities import format_memory
from tank_agent.spec.values import check_once

# age-encryption.org/v1: the first line of a file, and its armor, which is strict PEM.
_AGE_HEADER = b"age-encryption.org/v1\n"
_ARMOR_BEGIN, _ARMOR_END = "-----BEGIN AGE ENCRYPTED FILE-----", "-----END AGE ENCRYPTED FILE-----"
_ARMOR = re.compile(rf"\s*{_ARMOR_BEGIN}([A-Za-z0-9+/=\s]*){_ARMOR_END}\s*")
_ARMOR_LINE = 64


def files_of(table: file.PodTable, beside: Beside, findings: list[Finding]) -> tuple[model.ConfigFile, ...]:
    """Return the pod's files with their content."""
    found = []
    for index, one in enumerate(table.files):
        path: KeyPath = ("files", index)
        given = checked(one, path, findings)
        kinds = {"source": one.source, "content": one.content, "base64": one.base64}
        wanted = 'write source = "nginx.conf", a file beside this one, or content = """…"""'
        key = _only(kinds, path, f"has no content; {wanted}", findings)
        content = b""
        if key == "source":
            content = _read_beside(given["source"], beside, (*path, "source"), findings) or b""
        elif key == "content":
            content = _encoded(one.content or "")
        elif key == "base64":
            content = _decoded(one.base64 or "", (*path, "base64"), findings)
        if key is not None and len(content) > FILE_MAX:
            findings.append(Finding((*path, key), _too_large(len(content), FILE_MAX, "a file")))
        found.append(model.ConfigFile(name=one.name, content=content))
    return tuple(found)


def secrets_of(table: file.PodTable, beside: Beside, findings: list[Finding]) -> tuple[model.Secret, ...]:
    """Return the pod's secrets, encrypted, as they are."""
    found = []
    for index, one in enumerate(table.secrets):
        path: KeyPath = ("secrets", index)
        given = checked(one, path, findings)
        kinds = {"source": one.source, "age": one.age, "host": one.host}
        wanted = (
            'write source = "password.age", a file beside this one, age = """…""" or host = "/etc/keys/x"'
        )
        key = _only(kinds, path, f"has no content; {wanted}", findings)
        armor = ""
        if key == "source":
            content = _read_beside(given["source"], beside, (*path, "source"), findings)
            armor = "" if content is None else _armor(content, (*path, "source"), findings)
        elif key == "age":
            armor = _armor(_encoded(one.age or ""), (*path, "age"), findings)
        found.append(model.Secret(name=one.name, age=armor, host=one.host))
    return tuple(found)


def check_total(
    files: tuple[model.ConfigFile, ...], secrets: tuple[model.Secret, ...], findings: list[Finding]
) -> None:
    """Check how much all of a pod's files and secrets are together."""
    total = sum(len(one.content) for one in files) + sum(len(one.age) for one in secrets)
    if total > POD_MAX:
        findings.append(Finding(("files" if files else "secrets",), _too_large(total, POD_MAX, "a pod")))


class Variables:
    """Reads the variables of a pod's containers. A few lines of a file can make many, for each container."""

    def __init__(self, beside: Beside, findings: list[Finding]) -> None:
        self._beside = beside
        self._findings = findings
        self._left = POD_MAX

    def of(self, container: file.ContainerTable, path: KeyPath) -> dict[str, str]:
        """Return the variables of a container: those of its env files, and its `env` over them."""
        found: dict[str, str] = {}
        several = not isinstance(container.env_file, str)
        if several:
            check_once(_names(container.env_file), (*path, "env_file"), self._findings)
        for index, name in enumerate(dict.fromkeys(_names(container.env_file))):
            where = (*path, "env_file", index) if several else (*path, "env_file")
            try:
                content = _read_beside(run_values.beside(name), self._beside, where, self._findings)
                if content is not None:
                    found |= self._parsed(content, name, found)
            except ValueError as error:
                self._findings.append(Finding(where, str(error)))
        return found | (container.env or {})

    def _parsed(self, content: bytes, name: str, earlier: dict[str, str]) -> dict[str, str]:
        if self._left >= 0:
            found = env_file.parse_env_file(content, name, earlier)
            self._left -= sum(len(key) + len(value) for key, value in found.items())
            if self._left >= 0:
                return found
        most = format_memory(POD_MAX)
        raise ValueError(f"the env files of a pod give its containers at most {most} together; write less")


def named_beside(document: object) -> list[str]:
    """Return the paths of all files beside it that a pod file names, each once, in its order.

    `document` is the parsed TOML, whatever is in it. What is no path of a file beside it is left out, which
    the reader of the file reports.
    """
    found: dict[str, None] = {}
    for name in _named(document):
        if path_complaint(name) is None:
            found[name] = None
    return list(found)


def named_in(text: str) -> list[str]:
    """Return the same of a pod file's text; nothing if that is no TOML."""
    # Most pod files name none, and need not be read for that.
    if "source" not in text and "env_file" not in text:
        return []
    document, _ = read_toml(text, "")
    return named_beside(document)


def _named(document: object) -> Iterator[str]:
    tables = document.get("pods", document) if isinstance(document, dict) else None
    for pod in tables if isinstance(tables, list) else [tables]:
        if isinstance(pod, dict):
            for key in ("files", "secrets"):
                for one in _tables(pod.get(key)):
                    yield from _names(one.get("source"))
            for container in _tables(pod.get("containers")):
                yield from _names(container.get("env_file"))


def _tables(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _names(value: object) -> list[str]:
    several = value if isinstance(value, list | tuple) else [value]
    return [name for name in several if isinstance(name, str)]


def _read_beside(path: str, beside: Beside, key: KeyPath, findings: list[Finding]) -> bytes | None:
    """Return the content of a file beside the pod file; None if it can't be had, which is noted."""
    if path_complaint(path) is not None:
        # It has its finding.
        return None
    try:
        return beside(path)
    except BesideError as error:
        right = ""
        if str(error) == "is not there":
            made = f"make it with `tank secret encrypt -o {shlex.quote(path)}`"
            right = f"; {made if 'secrets' in key else 'put it into the directory of the pod file'}"
        findings.append(Finding(key, f"{show(path)} {error}{right}"))
        return None


def _only(kinds: Mapping[str, object], path: KeyPath, none: str, findings: list[Finding]) -> str | None:
    """Return the one key that is given; what else there is, is noted."""
    given = [key for key, value in kinds.items() if value is not None]
    if not given:
        findings.append(Finding(path, none))
    for key in given[1:]:
        findings.append(Finding((*path, key), f"{given[0]} is given, too; remove one of them"))
    return given[0] if given else None


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _decoded(text: str, path: KeyPath, findings: list[Finding]) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        message = "is not base64; write what the program base64 makes of the file, or content for text"
        findings.append(Finding(path, message))
        return b""


def _too_large(size: int, most: int, what: str) -> str:
    return f"{size} bytes are too much; {what} has at most {format_memory(most)}; put more in a volume"


def _armor(content: bytes, path: KeyPath, findings: list[Finding]) -> str:
    """Return an encrypted file in its one form; what is none is noted, and never shown."""
    encrypted: bytes | None = content
    if not content.startswith(_AGE_HEADER):
        found = _ARMOR.fullmatch(content.decode("latin-1"))
        try:
            encrypted = base64.b64decode("".join(found[1].split()), validate=True) if found else None
        except (binascii.Error, ValueError):
            encrypted = None
    if encrypted is None or not encrypted.startswith(_AGE_HEADER):
        message = _not_age(content)
        findings.append(Finding(path, message))
        return ""
    if len(encrypted) > FILE_MAX:
        findings.append(Finding(path, _too_large(len(encrypted), FILE_MAX, "a secret")))
        return ""
    text = base64.b64encode(encrypted).decode()
    lines = [text[at : at + _ARMOR_LINE] for at in range(0, len(text), _ARMOR_LINE)]
    return "\n".join([_ARMOR_BEGIN, *lines, _ARMOR_END, ""])


def _not_age(content: bytes) -> str:
    if _ARMOR_BEGIN.encode() in content[:200]:
        return "the armor of age is damaged; encrypt the secret again with `tank secret encrypt`"
    if b"-----BEGIN PGP MESSAGE" in content[:200] or content.startswith(b"\x85"):
        return "is encrypted by PGP, which is not read here; encrypt it with `tank secret encrypt`"
    if not content.strip():
        return "is empty; encrypt the secret with `tank secret encrypt`"
    right = "encrypt it with `tank secret encrypt`, and change it if others could read this"
    return f"is not encrypted by age; {right}"
