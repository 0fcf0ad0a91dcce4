"""Read images from registries (OCI distribution-spec v1.1, "pull"; Docker Registry HTTP API V2).

A reference's mirrors and its registry are endpoints, asked in turn. One may finish what another began, since
content is named by its digest, and the store checks that.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TypeVar

import msgspec
import structlog
from msgspec import Struct

from tank_agent.errors import Retry, Stalled, TankError
from tank_agent.image.config import Cancelled
from tank_agent.image.jobs import CancelledError
from tank_agent.image.manifest import ACCEPTED, MANIFEST_LIMIT, Descriptor, digest_of
from tank_agent.image.pull import DamagedError, Document, MissingError, ReadChunk
from tank_agent.image.registry.endpoint import Endpoint, endpoints_of
from tank_agent.image.registry.http import Http, Response
from tank_agent.retry import Pace, retry_after
from tank_agent.settings.image import ImageSettings
from tank_agent.spec.reference import Reference, is_digest

_ERROR_LIMIT = 1 << 16
_PACE = Pace(base=0.4, cap=10.0, jitter=0.5)
# Of a request that is tried again; what is not urgent waits as long as a registry asks for, at most a day.
_LONGEST_WAIT = 60.0
_DAY = 86_400.0
# The statuses by which servers say that they know no HEAD.
_NO_HEAD = (400, 405, 501)
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/(?:([0-9]{1,18})|\*)")
# An attempt that brings so many bytes is progress, after which all attempts are left again.
_ENOUGH = 16 << 10
_log = structlog.get_logger()
_Result = TypeVar("_Result")
# Told the error of a request that is tried again, and "" when it worked.
Trouble = Callable[[str], None]


class BusyError(Retry):
    """The registry wants the next request `after` so many seconds."""

    def __init__(self, message: str, after: float) -> None:
        super().__init__(message)
        self.after = after


class _Problem(Struct):
    code: str = ""
    message: str = ""


class _Problems(Struct):
    errors: tuple[_Problem, ...] = ()


class RegistryContent:
    """One image in a registry. Implements ImageContent."""

    local = False

    def __init__(
        self, reference: Reference, settings: ImageSettings, cancelled: Cancelled, trouble: Trouble
    ) -> None:
        self._trouble, self._settings = trouble, settings
        self._reference, self._where = reference, str(reference)
        self._http = Http(settings, cancelled)
        self._endpoints = endpoints_of(reference, settings, self._http)

    def manifest(self, digest: str = "") -> Document:
        """Return the manifest of the tag or digest."""
        return self._ask_all(lambda endpoint: self._manifest(endpoint, digest))

    def digest(self) -> str:
        """Return the digest that the registry names for the tag now; nothing proves it.

        By HEAD, which registries do not count as a pull; from the manifest itself where that does not say it.
        """

        def ask(endpoint: Endpoint) -> str:
            with self._open_manifest(endpoint, "", head=True) as answer:
                if answer.status not in _NO_HEAD:
                    self._check(endpoint, answer, f"no image {self._where}")
                    stated: str = answer.headers.get("Docker-Content-Digest", "").strip()
                    if is_digest(stated):
                        return stated
            return digest_of(self._manifest(endpoint, "").data)

        return self._ask_all(ask)

    def document(self, descriptor: Descriptor, limit: int) -> bytes:
        """Return a small blob whole."""
        if descriptor.size > limit:
            wrong = f"a document of {descriptor.size} bytes; at most {limit} are read"
            raise Stalled(wrong, where=self._where)
        with self.open(descriptor, 0) as read:
            return b"".join(iter(lambda: read(1 << 16), b""))

    @contextmanager
    def open(self, descriptor: Descriptor, offset: int) -> Iterator[ReadChunk]:
        """Open a blob; resume a broken transfer."""
        with closing(_Transfer(self, descriptor, offset)) as transfer:
            yield transfer.read

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._http.close()

    def open_at(self, descriptor: Descriptor, offset: int) -> Response:
        """Open a blob at an offset, from the first endpoint that has it."""

        def ask(endpoint: Endpoint) -> Response:
            path, part = f"/blobs/{descriptor.digest}", {"Range": f"bytes={offset}-"} if offset else {}
            with ExitStack() as opened:
                answer = opened.enter_context(endpoint.get(path, part))
                if offset and (answer.status == 416 or _start_of(answer, descriptor) > offset):
                    # The server answers with a wrong part: ask for the whole blob.
                    answer.close()
                    answer = opened.enter_context(endpoint.get(path, {}))
                self._check(endpoint, answer, f"{endpoint.name} has no layer {descriptor.digest}")
                _skip_to(offset, answer, descriptor)
                opened.pop_all()
            return answer

        return self._ask_all(ask)

    def _open_manifest(self, endpoint: Endpoint, digest: str, *, head: bool = False) -> Response:
        name = digest or self._reference.digest or self._reference.tag
        return endpoint.get(f"/manifests/{name}", {"Accept": ", ".join(ACCEPTED)}, head=head)

    def _manifest(self, endpoint: Endpoint, digest: str) -> Document:
        with self._open_manifest(endpoint, digest) as answer:
            self._check(endpoint, answer, f"no image {self._where}")
            kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            data = answer.read_all(MANIFEST_LIMIT, "the manifest")
            # Small or old servers do not know the type; the document itself names it.
            generic = kind in ("application/json", "application/octet-stream", "text/plain")
            return Document(data=data, media_type="" if generic else kind)

    def pause(self, attempt: int, error: Retry) -> None:
        """Wait before the next attempt, counted from 1; raise the error when it was the last."""
        if attempt >= self._settings.attempts or isinstance(error, (CancelledError, DamagedError)):
            raise error
        self._trouble(f"attempt {attempt} of {self._settings.attempts}: {error}")
        after = min(error.after, _LONGEST_WAIT) if isinstance(error, BusyError) else 0.0
        self._http.sleep(max(after, _PACE.delay(attempt - 1, random.random())))  # noqa: S311 (no secret)

    def _ask_all(self, ask: Callable[[Endpoint], _Result]) -> _Result:
        """Ask each mirror once, and then the registry as often as settings allow."""
        for mirror in self._endpoints[:-1]:
            try:
                return ask(mirror)
            except TankError as error:
                if isinstance(error, CancelledError):
                    raise
                _log.info("a mirror can't serve an image", image=self._where, error=str(error))
        attempt = 1
        while True:
            try:
                answer = ask(self._endpoints[-1])
            except Retry as error:
                self.pause(attempt, error)
                attempt += 1
            else:
                if attempt > 1:
                    self._trouble("")
                return answer

    def _check(self, endpoint: Endpoint, answer: Response, missing: str) -> None:
        """Raise an error with a hint for every status but success."""
        if answer.status in (200, 206):
            return
        if answer.status in (401, 403):
            raise endpoint.denied(answer)
        reason = _reason(answer)
        if answer.status == 404:
            hint = f"{endpoint.name} says: {reason}" if reason else "check the name and the tag"
            raise MissingError(missing, hint=hint)
        message = f"{endpoint.name} answers with status {answer.status}" + (f": {reason}" if reason else "")
        if answer.status in (408, 425, 429) or answer.status >= 500:
            asked = retry_after(answer.headers.get("Retry-After", ""), time.time(), _DAY)
            raise BusyError(message, asked or 0.0)
        raise Stalled(message, where=self._where)


class _Transfer:
    """A transfer of a blob, resumed after failures until too many in a row make no progress."""

    def __init__(self, content: RegistryContent, descriptor: Descriptor, offset: int) -> None:
        self._content, self._descriptor, self._offset = content, descriptor, offset
        self._answer: Response | None = None
        self._attempt = self._came = 0

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes, b"" at the end; never more in all than the descriptor has."""
        digest, left = self._descriptor.digest, self._descriptor.size - self._offset
        while True:
            if self._answer is None:
                # This has attempts of its own.
                self._answer = self._content.open_at(self._descriptor, self._offset)
                self._came = 0
            try:
                # One byte more than expected shows an endless body.
                data = self._answer.read(min(size, left + 1))
                if len(data) > left:
                    raise DamagedError(f"{digest} is larger than its manifest says")
                if not data and left and self._answer.status == 206 and self._came >= _ENOUGH:
                    # The server may send less than what was asked for.
                    self.close()
                    continue
                if not data and left:
                    raise Retry(f"the transfer of {digest} ended early")
            except Retry as error:
                if not left and not isinstance(error, (CancelledError, DamagedError)):
                    # The blob is complete, however the connection ended.
                    return b""
                self.close()
                self._attempt = 1 if self._came >= _ENOUGH else self._attempt + 1
                self._content.pause(self._attempt, error)
            else:
                self._came += len(data)
                self._offset += len(data)
                return data

    def close(self) -> None:
        """Close the connection."""
        if self._answer is not None:
            self._answer.close()
        self._answer = None


def _start_of(answer: Response, descriptor: Descriptor) -> int:
    """Return where in the blob a body begins; the blob's end if the answer is unclear."""
    # A part may be shorter than what was asked for (RFC 9110, section 15.3.7).
    start, size = 0, answer.headers.get("Content-Length", "") if answer.status == 200 else ""
    if answer.status == 206:
        found = _RANGE.match(answer.headers.get("Content-Range", ""))
        if not found or int(found[1]) > int(found[2]):
            return descriptor.size
        start, size = int(found[1]), found[3] or ""
    if size.isdigit() and int(size) != descriptor.size:
        raise DamagedError(f"{descriptor.digest} has {size} bytes, and its manifest says {descriptor.size}")
    return start


def _skip_to(offset: int, answer: Response, descriptor: Descriptor) -> None:
    """Read the body up to the offset, as a server that knows no ranges sends all of it."""
    start = _start_of(answer, descriptor)
    if start > offset:
        raise Retry("a registry answers with another range than the one it was asked for")
    while start < offset:
        data = answer.read(min(1 << 18, offset - start))
        if not data:
            raise Retry(f"the transfer of {descriptor.digest} ended early")
        start += len(data)


def _reason(answer: Response) -> str:
    """Return the reason that the registry gives for an error, in printable characters."""
    try:
        problems = msgspec.json.decode(answer.read_all(_ERROR_LIMIT, "the error"), type=_Problems).errors
    except (TankError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    text = "; ".join(f"{problem.code.lower()} {problem.message}".strip() for problem in problems[:3])
    return "".join(letter for letter in text if letter.isprintable())[:300]
