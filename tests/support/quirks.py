"""What registries do that they should not, to be put together: a quirk changes how a test bed answers."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.images import layer, member, write_image
from tests.support.registry import PASSWORD, USER, FakeRegistry, Request, fake_registry

CONTENT = bytes(range(256)) * 1600
BASIC = "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode()
# What the token servers give: to those who know the password, and to everybody.
PRIVATE, PUBLIC = "s3cret-t0ken", "public-t0ken"
BLOBS, MANIFESTS = "/blobs/", "/manifests/"


class Bed:
    """A registry with an image of one layer, another host that has the same, and the client's credentials."""

    def __init__(self, place: Path, registry: FakeRegistry, other: FakeRegistry) -> None:
        self.place = place
        self.registry = registry
        self.other = other
        self.name = registry.address
        self.auth = place / "config.json"
        blobs = (registry.layout / "blobs/sha256").iterdir()
        self.layer = max(blobs, key=lambda path: path.stat().st_size).name

    def fill(self, text: str) -> str:
        """Put the hosts' addresses into a text, for "{registry}", "{other}" and so on."""
        return (
            text.replace("{registry}", self.registry.address)
            .replace("{other}", self.other.address)
            .replace("{port}", self.registry.address.rpartition(":")[2])
            .replace("{layer}", self.layer)
        )

    def sent(self, registry: FakeRegistry) -> list[str]:
        """Return the secrets that a host was sent."""
        return [headers["Authorization"] for headers in registry.headers if "Authorization" in headers]

    def ranges(self) -> list[int]:
        """Return the offsets that the layer was asked from."""
        asked = zip(self.registry.log, self.registry.headers, strict=True)
        found = [headers.get("Range", "bytes=0-") for line, headers in asked if self.layer in line]
        return [int(span.removeprefix("bytes=").rstrip("-")) for span in found]


Quirk = Callable[[Bed], None]


@contextmanager
def bed(place: Path, *, host: str = "127.0.0.1") -> Iterator[Bed]:
    """Run both hosts."""
    layout = place / "layout"
    write_image(layout, [layer([member("big", CONTENT)])], compression="none")
    with fake_registry(layout, host=host) as registry, fake_registry(layout) as other:
        yield Bed(place, registry, other)


def named(name: str) -> Quirk:
    """Call the registry by another name."""

    def apply(bed: Bed) -> None:
        bed.name = bed.fill(name)

    return apply


def answers(part: str, status: int, body: str = "", times: int = 1_000_000, **headers: str) -> Quirk:
    """Let paths with `part` in them be answered so, so many times."""

    def apply(bed: Bed) -> None:
        filled = {name: bed.fill(value) for name, value in headers.items()}
        bed.registry.rule(
            bed.fill(part), lambda request: request.answer(status, body.encode(), **filled), times
        )

    return apply


def raw(part: str, head: str, body: Callable[[bytes], bytes] = bytes) -> Quirk:
    """Let blobs and manifests with `part` in their path come with a head of bytes, and the connection end."""

    def apply(bed: Bed) -> None:
        def answer(request: Request) -> None:
            data = _content(bed.registry, request)
            request.write(head.replace("\n", "\r\n").encode() + b"\r\n" + body(data))
            request.hang_up()

        bed.registry.rule(bed.fill(part), answer)

    return apply


def chunked(data: bytes) -> bytes:
    """Return a body in HTTP's chunks."""
    parts = [data[start : start + 50_000] for start in range(0, len(data), 50_000)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [*parts, b""])


def moved(part: str, location: str, status: int = 307) -> Quirk:
    """Let the registry redirect."""
    return answers(part, status, Location=location)


def other_moves(location: str) -> Quirk:
    """Let the other host redirect all that comes."""

    def apply(bed: Bed) -> None:
        bed.other.rule("/", lambda request: request.answer(307, Location=bed.fill(location)))

    return apply


def has_credentials(bed: Bed) -> None:
    """Give the client the registry's password."""
    configured(auths={"{registry}": {"auth": BASIC.removeprefix("Basic ")}})(bed)


def configured(**content: Any) -> Quirk:
    """Write the client's config.json."""

    def apply(bed: Bed) -> None:
        bed.auth.write_text(bed.fill(json.dumps(content)))

    return apply


def wants_basic(hidden_as: int = 401) -> Quirk:
    """Let the registry want a password, and say to strangers only at its door that it does."""

    def apply(bed: Bed) -> None:
        def guard(request: Request) -> bool:
            if request.headers.get("Authorization") == BASIC:
                return False
            if request.path == "/v2/":
                request.answer(401, WWW_Authenticate='Basic realm="x"')
            else:
                challenge = {"WWW_Authenticate": 'Basic realm="x"'} if hidden_as == 401 else {}
                request.answer(hidden_as, **challenge)
            return True

        bed.registry.rules.append(guard)

    return apply


def wants_token(
    *challenges: str, private: bool = False, hidden_as: int = 401, on: str = "registry", answer: str = ""
) -> Quirk:
    """Let a host want a token, which its /token gives.

    Args:
        challenges: each a WWW-Authenticate header; one that is usual if there is none.
        private: whether a token that lets in costs the password.
        hidden_as: what strangers are told everywhere but at the door.
        on: "registry" or "other".
        answer: what the token server says, with TOKEN for the token.
    """

    def apply(bed: Bed) -> None:
        host: FakeRegistry = getattr(bed, on)
        usual = f'Bearer realm="http://{host.address}/token",service="x",scope="repository:image:pull"'
        headers = [bed.fill(text) for text in challenges] or [usual]

        def guard(request: Request) -> bool:
            if request.path.startswith("/token"):
                token = PRIVATE if request.headers.get("Authorization") == BASIC else PUBLIC
                request.answer(body=(answer or '{"token": "TOKEN"}').replace("TOKEN", token).encode())
                return True
            if request.headers.get("Authorization") == f"Bearer {PRIVATE if private else PUBLIC}":
                return False
            if hidden_as != 401 and request.path != "/v2/":
                request.answer(hidden_as)
                return True
            lines = "".join(f"WWW-Authenticate: {header}\r\n" for header in headers)
            request.write(f"HTTP/1.1 401 Unauthorized\r\n{lines}Content-Length: 0\r\n\r\n".encode())
            return True

        host.rules.append(guard)

    return apply


def breaks_every(size: int, *, reset: bool) -> Quirk:
    """Let the connection break after so many bytes of a blob, orderly or not."""

    def apply(bed: Bed) -> None:
        def answer(request: Request) -> None:
            start, data = _part(bed.registry, request)
            span = {"Content_Range": f"bytes {start}-{start + len(data) - 1}/{start + len(data)}"}
            request.answer(206 if start else 200, data[:size], length=len(data), **(span if start else {}))
            if reset and len(data) > size:
                request.reset()
            request.hang_up()

        bed.registry.rule(bed.layer, answer)

    return apply


def answers_ranges(how: str, size: int = 100_000) -> Quirk:
    """Let the registry break off once, and answer the ranges that are asked for then in a way of its own."""

    def apply(bed: Bed) -> None:
        broken = [False]

        def answer(request: Request) -> None:
            start, data = _part(bed.registry, request)
            whole = _content(bed.registry, request)
            total = len(whole)
            if not start:
                cut = data if broken[0] else data[:size]
                broken[0] = True
                request.answer(200, cut, length=total)
                request.hang_up()
                return
            span, body, status = f"bytes {start}-{total - 1}/{total}", data, 206
            if how == "short":
                body = data[:size]
                span = f"bytes {start}-{start + len(body) - 1}/{total}"
            elif how == "of unknown size":
                span = f"bytes {start}-{total - 1}/*"
            elif how == "earlier":
                span, body = f"bytes {start - 50_000}-{total - 1}/{total}", whole[start - 50_000 :]
            elif how == "later":
                span, body = f"bytes {start + 1}-{total - 1}/{total}", data[1:]
            elif how == "backwards":
                span = f"bytes {total - 1}-{start}/{total}"
            elif how == "of another size":
                span = f"bytes {start}-{total}/{total + 1}"
            elif how == "refused":
                status, span, body = 416, f"bytes */{total}", b""
            elif how == "not understood":
                status, span, body = 200, "", whole
            elif how == "lied about":
                # It says the right place and sends another.
                body = whole[: len(data)]
            headers = {} if how == "unnamed" or not span else {"Content_Range": span}
            request.answer(status, body, **headers)

        bed.registry.rule(bed.layer, answer)

    return apply


def manifest(change: Callable[[dict[str, Any]], Any]) -> Quirk:
    """Let the manifest be another one."""

    def apply(bed: Bed) -> None:
        [entry] = json.loads((bed.registry.layout / "index.json").read_text())["manifests"]
        path = bed.registry.layout / "blobs/sha256" / entry["digest"].removeprefix("sha256:")
        document = json.loads(path.read_text())
        body = json.dumps(change(document) or document).encode()
        kind = json.loads(body).get("mediaType", "application/vnd.oci.image.manifest.v1+json")
        bed.registry.rule("/latest", lambda request: request.answer(body=body, Content_Type=kind))

    return apply


def foreign_layer(media_type: str, *urls: str) -> Quirk:
    """Let the layer be one that the registry need not have."""

    def change(document: dict[str, Any]) -> None:
        document["layers"][0].update({"mediaType": media_type} | ({"urls": urls} if urls else {}))

    return manifest(change)


def without_layer(bed: Bed) -> None:
    """Let the registry not have the layer."""
    bed.registry.rule(bed.layer, lambda request: request.answer(404))


def _content(registry: FakeRegistry, request: Request) -> bytes:
    name = request.path.partition("?")[0].rpartition("/")[2]
    if "sha256:" not in name:
        [entry] = json.loads((registry.layout / "index.json").read_text())["manifests"]
        name = entry["digest"]
    return (registry.layout / "blobs/sha256" / name.removeprefix("sha256:")).read_bytes()


def _part(registry: FakeRegistry, request: Request) -> tuple[int, bytes]:
    wanted = request.headers.get("Range", "bytes=0-")
    start = int(wanted.removeprefix("bytes=").rstrip("-"))
    return start, _content(registry, request)[start:]
