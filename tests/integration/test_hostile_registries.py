"""Registries with a quirk each: a new report is one more row here.

A row is what hosts and configuration do (tests/support/quirks.py), and how the pull must end: with the image,
or with a sentence. After every row: a host that the registry only redirects to has seen none of its secrets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tank_agent.errors import TankError
from tank_agent.image.config import Image
from tank_agent.image.manifest import digest_of
from tank_agent.image.registry import client as registry_module
from tank_agent.image.registry.http import Http
from tank_agent.image.registry.url import parse_url
from tank_agent.image.store.store import ImageStore
from tank_agent.retry import Pace
from tank_agent.settings.image import ImageSettings, RegistrySettings
from tests.support import quirks
from tests.support.images import layer, member, tag_descriptor, write_blob, write_image
from tests.support.quirks import (
    BASIC,
    BLOBS,
    CONTENT,
    MANIFESTS,
    PRIVATE,
    PUBLIC,
    Bed,
    Quirk,
    answers,
    answers_ranges,
    breaks_every,
    chunked,
    configured,
    foreign_layer,
    has_credentials,
    manifest,
    moved,
    named,
    other_moves,
    raw,
    wants_basic,
    wants_token,
    without_layer,
)
from tests.support.registry import fake_registry, make_certificate
from tests.support.trees import big_directory

Check = Callable[[Bed], Any]
BEARER = 'Bearer realm="http://{registry}/token",service="x",scope="repository:image:pull"'
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar"
NONDISTRIBUTABLE = "application/vnd.oci.image.layer.nondistributable.v1.tar"
ORDINARY = "application/vnd.oci.image.layer.v1.tar"
KEPT_ELSEWHERE = "foreign layer, kept elsewhere"
REFUSED = "not an address that we follow"
URL = "http://{other}/v2/image/blobs/sha256:{layer}"


class Row(NamedTuple):
    """What is odd, the sentence that the pull ends with ("" if it brings the image), what is true then."""

    quirks: tuple[Quirk, ...]
    ends: str = ""
    check: Check = bool
    other_is_trusted: bool = False


def row(*quirks: Quirk, ends: str = "", check: Check = bool, other_is_trusted: bool = False) -> Row:
    return Row(quirks, ends, check, other_is_trusted)


def sent_to_registry(*secrets: str) -> Check:
    return lambda bed: set(bed.sent(bed.registry)) == set(secrets)


def asked_other(*secrets: str) -> Check:
    return lambda bed: bed.other.log and set(bed.sent(bed.other)) == set(secrets)


def asked_nothing_of_other(bed: Bed) -> bool:
    return bed.other.log == []


def went_on(bed: Bed) -> bool:
    """Each request for the layer began further on than the one before."""
    ranges = bed.ranges()
    return len(ranges) > 1 and all(one < two for one, two in pairwise(ranges))


def asked_times(part: str, times: int) -> Check:
    return lambda bed: bed.registry.count(part) == times


SECRETS: dict[str, Row] = {
    "a redirect of a blob to a host that wants a token": row(
        has_credentials,
        wants_token(private=True),
        moved("/blobs/sha256:", "http://{other}/v2/image/blobs/sha256:{layer}"),
        wants_token(on="other", private=True),
        ends="redirects to http://127.0.0.1:[0-9]+, which wants a login",
        check=asked_other(f"Bearer {PUBLIC}"),
    ),
    "a redirect of a manifest to a host that wants the password": row(
        has_credentials,
        wants_basic(),
        moved(MANIFESTS, "http://{other}/v2/image/manifests/latest"),
        lambda bed: bed.other.rule("/", lambda asked: asked.answer(401, WWW_Authenticate='Basic realm="x"')),
        ends="which wants a login",
        check=asked_other(),
    ),
    "a redirect to a host with its own token server for everybody": row(
        has_credentials,
        wants_token(private=True),
        moved(MANIFESTS, "http://{other}/v2/image/manifests/latest"),
        wants_token(on="other"),
        check=asked_other(f"Bearer {PUBLIC}"),
    ),
    "a blob at a host with its own token server for everybody": row(
        moved("sha256:{layer}", "http://{other}/v2/image/blobs/sha256:{layer}"),
        wants_token(on="other"),
        check=asked_other(f"Bearer {PUBLIC}"),
    ),
    "a redirect to a host that names the registry's token server": row(
        has_credentials,
        wants_token(private=True),
        moved(MANIFESTS, "http://{other}/v2/image/manifests/latest"),
        wants_token('Bearer realm="http://{registry}/token"', on="other", private=True),
        ends="which wants a login",
    ),
    "a redirect there and back": row(
        has_credentials,
        wants_basic(),
        moved("/v2/image/manifests/latest", "http://{other}/back"),
        other_moves("http://{registry}/v2/image/manifests/again"),
        ends="redirects to http://127.0.0.1:[0-9]+, which wants a login",
        check=lambda bed: not any("again auth" in line for line in bed.registry.log),
    ),
    "a backslash in Location": row(
        has_credentials,
        wants_basic(),
        moved(BLOBS, "http://{other}\\@{registry}/x"),
        ends=REFUSED,
        check=asked_nothing_of_other,
    ),
    "a backslash in the second Location": row(
        has_credentials,
        wants_basic(),
        moved(BLOBS, "http://{other}/x"),
        other_moves("http://127.0.0.3:9\\@{registry}/x"),
        ends=REFUSED,
    ),
    "a user name in Location": row(moved(BLOBS, "http://a:b@{other}/x"), ends=REFUSED),
    "a backslash in realm": row(
        has_credentials,
        wants_token('Bearer realm="http://{other}\\\\@{registry}/token"'),
        ends=REFUSED,
        check=asked_nothing_of_other,
    ),
    "a user name in realm": row(
        has_credentials, wants_token('Bearer realm="http://{registry}@{other}/token"'), ends=REFUSED
    ),
    "no realm": row(has_credentials, wants_token("Bearer service=x"), ends=REFUSED),
    "a realm that is no address": row(has_credentials, wants_token('Bearer realm="/token"'), ends=REFUSED),
    "a realm that redirects": row(
        has_credentials,
        answers("/token", 307, Location="http://{other}/token"),
        wants_token(private=True),
        lambda bed: bed.other.rule("/token", lambda asked: asked.answer(body=b'{"token": "x"}')),
        ends="refuses our credentials",
        check=asked_other(),
    ),
    "a token server at another host that the registry names": row(
        has_credentials,
        wants_token('Bearer realm="http://{other}/token"', private=True),
        lambda bed: bed.other.rule(
            "/token", lambda asked: asked.answer(body=f'{{"token":"{PRIVATE}"}}'.encode())
        ),
        check=asked_other(BASIC),
        other_is_trusted=True,
    ),
}

LOGINS: dict[str, Row] = {
    "hidden as 404": row(has_credentials, wants_basic(404), check=sent_to_registry(BASIC)),
    "hidden as 403": row(has_credentials, wants_basic(403), check=sent_to_registry(BASIC)),
    "hidden as 404, token": row(
        has_credentials,
        wants_token(private=True, hidden_as=404),
        check=sent_to_registry(BASIC, f"Bearer {PRIVATE}"),
    ),
    "hidden from those without a token for everybody": row(wants_token(hidden_as=403)),
    "hidden, and we have no password": row(
        wants_basic(404), ends="wants a login for this image, or has no such"
    ),
    "not there, and nothing to log in for": row(
        has_credentials,
        answers(MANIFESTS, 404),
        ends="(?s)no image .*check the name",
        check=sent_to_registry(),
    ),
    "not there, and a door that fails": row(
        answers("/v2/image/manifests", 404),
        answers("/v2/", 500),
        ends="no image",
        check=asked_times("GET /v2/", 2),
    ),
    "no scheme that we know, but one at the door": row(
        has_credentials,
        lambda bed: bed.registry.rules.append(
            lambda asked: (
                "Authorization" not in asked.headers
                and asked.path != "/v2/"
                and (asked.answer(401, WWW_Authenticate="Negotiate"), True)[1]
            )
        ),
        wants_basic(),
    ),
    "three challenges in headers of their own": row(wants_token("Negotiate", BEARER, 'Basic realm="x"')),
    "three challenges in one header": row(wants_token(f'Negotiate, Basic realm="x", {BEARER}')),
    "an unquoted realm": row(wants_token("Bearer realm=http://{registry}/token,service=x")),
    "a realm with a query": row(wants_token('Bearer realm="http://{registry}/token?a=b",service="x"')),
    "a realm with a fragment": row(wants_token('Bearer realm="http://{registry}/token#part",service="x"')),
    "a realm in capitals": row(wants_token('bearer REALM="HTTP://{registry}/token"')),
    "odd fields in the token": row(
        wants_token(answer='{"access_token": "TOKEN", "expires_in": 9, "issued_at": "x", "scope": ["x"]}')
    ),
    "an empty token beside the other": row(wants_token(answer='{"token": "", "access_token": "TOKEN"}')),
    "a helper that is missing, for a public image": row(
        configured(auths={}, credsStore="tank-none"), wants_token()
    ),
    "a helper that is missing, for a private image": row(
        configured(auths={}, credsStore="tank-none"),
        wants_basic(),
        ends="(?s)wants a login .*docker-credential-tank-none: not installed.*config.json names it",
    ),
    "a key with a slash, and a line end in auth": row(
        configured(auths={"{registry}/": {"auth": f"{BASIC.removeprefix('Basic ')}\n"}}), wants_basic()
    ),
    "an empty config.json": row(lambda bed: bed.auth.write_text("") and None, wants_token()),
}

REDIRECTS: dict[str, Row] = {
    "to a file": row(moved(BLOBS, "file:///etc/passwd"), ends=REFUSED),
    "to broken IPv6": row(moved(BLOBS, "http://[::1/x"), ends=REFUSED),
    "to a port that is none": row(moved(BLOBS, "http://127.0.0.1:99999999/x"), ends=REFUSED),
    "to itself": row(moved(BLOBS, ""), ends="answers with status 307"),
    "in a circle": row(moved(BLOBS, "?again"), ends="redirects more than"),
    "without a scheme": row(
        moved("sha256:{layer}", "//{other}/v2/image/blobs/sha256:{layer}"), check=asked_other()
    ),
    "with a signature": row(
        moved("sha256:{layer}", "http://{other}/v2/image/blobs/sha256:{layer}?X-Sig=a%2Fb%2Bc+d&e=~x%20y"),
        lambda bed: bed.other.rule("X-Sig=a%2Fb%2Bc+d&e=~x%20y", lambda asked: _unsigned(bed, asked)),
        check=lambda bed: (
            bed.other.log == [f"GET /v2/image/blobs/sha256:{bed.layer}?X-Sig=a%2Fb%2Bc+d&e=~x%20y"]
        ),
    ),
    "with a signature that has run out": row(
        moved("sha256:{layer}", URL),
        lambda bed: bed.other.rule("/", lambda asked: asked.answer(403), times=1),
    ),
    "302 of the manifest, with credentials": row(
        has_credentials,
        wants_basic(),
        moved(MANIFESTS, "http://{other}/v2/image/manifests/latest", 302),
        check=asked_other(),
    ),
}

TRANSFERS: dict[str, Row] = {
    "reset each 100 kB": row(breaks_every(100_000, reset=True), check=went_on),
    "ended each 100 kB": row(breaks_every(100_000, reset=False), check=went_on),
    "reset each 1 kB, for ever": row(
        breaks_every(1000, reset=True), ends="cannot read", check=lambda bed: len(bed.ranges()) == 3
    ),
    "a shorter range than asked for": row(
        answers_ranges("short"), check=lambda bed: went_on(bed) and len(bed.ranges()) > 3
    ),
    "a range of unknown size": row(answers_ranges("of unknown size"), check=went_on),
    "a range that begins earlier": row(answers_ranges("earlier"), check=went_on),
    "a range that begins later": row(
        answers_ranges("later"), check=lambda bed: bed.ranges() == [0, 100_000, 0]
    ),
    "a range that ends before it begins": row(answers_ranges("backwards")),
    "a range that is not named": row(answers_ranges("unnamed")),
    "a range of another size": row(answers_ranges("of another size"), ends="its manifest says"),
    "a range that is refused": row(answers_ranges("refused")),
    "a range that is not understood": row(answers_ranges("not understood"), check=went_on),
    "a range that is lied about": row(answers_ranges("lied about"), ends="came as sha256:"),
    "HTTP/1.0": row(raw("/v2/image/", "HTTP/1.0 200 OK\n")),
    "chunks": row(raw("sha256:{layer}", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n", chunked)),
    "chunks without an end": row(
        raw(BLOBS, "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n", lambda data: chunked(data)[:-5]),
        check=lambda bed: len(bed.ranges()) == 1,
    ),
    "a manifest in text/plain": row(raw(MANIFESTS, "HTTP/1.1 200 OK\nContent-Type: text/plain\n")),
    "busy twice": row(answers("/v2/", 429, times=1), answers("/v2/", 502, times=1)),
    "busy, and then a reset": row(answers(BLOBS, 503, times=2), breaks_every(200_000, reset=True)),
    "broken for good": row(
        answers("sha256:{layer}", 500), ends="status 500", check=lambda bed: len(bed.ranges()) == 3
    ),
    **{
        f"Retry-After: {value}": row(answers(MANIFESTS, 503, times=1, Retry_After=value))
        for value in ("0", "soon", "-5", "1.5", "Wed, 21 Oct 2015 07:28:00 GMT", "9" * 400)
    },
}

IMAGES: dict[str, Row] = {
    "a foreign layer": row(foreign_layer(FOREIGN, URL), without_layer, ends=KEPT_ELSEWHERE),
    "a nondistributable layer": row(foreign_layer(NONDISTRIBUTABLE, URL), without_layer, ends=KEPT_ELSEWHERE),
    "a foreign layer without urls": row(foreign_layer(FOREIGN), without_layer, ends=KEPT_ELSEWHERE),
    "an ordinary layer with urls": row(
        foreign_layer(ORDINARY, "http://127.0.0.1:1/", URL), without_layer, ends=KEPT_ELSEWHERE
    ),
    "a foreign layer that is there": row(
        foreign_layer(FOREIGN, "http://127.0.0.1:1/"), check=asked_nothing_of_other
    ),
    "a layer that is not there": row(without_layer, ends="has no layer"),
    "an index to an empty blob": row(
        manifest(
            lambda document: _index({"digest": digest_of(b""), "size": 0, "mediaType": document["mediaType"]})
        ),
        ends="no image",
    ),
    "sha512": row(
        manifest(lambda document: document["layers"][0].update(digest="sha512:" + "0" * 128)),
        ends="names content by",
    ),
    "a size of 2^63": row(
        manifest(lambda document: document["layers"][0].update(size=2**63)), ends="size|bytes|range"
    ),
    "a manifest and an index at once": row(
        manifest(lambda document: document.update(manifests=[])), ends="either manifests or layers"
    ),
    "schema 1 beside it": row(manifest(lambda document: document.update(fsLayers=[])), ends="schema 1"),
}

NAMES: dict[str, Row] = {
    "localhost": row(named("localhost:{port}"), wants_token()),
    "LOCALHOST": row(named("LOCALHOST:{port}"), wants_token()),
}

TABLES = {
    "secrets": SECRETS,
    "logins": LOGINS,
    "redirects": REDIRECTS,
    "transfers": TRANSFERS,
    "images": IMAGES,
    "names": NAMES,
}


def _index(descriptor: dict[str, Any]) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [descriptor],
    }


def _unsigned(bed: Bed, asked: quirks.Request) -> None:
    asked.path = asked.path.partition("?")[0]
    bed.other.serve_truly(asked)


@pytest.fixture
def place() -> Iterator[Path]:
    with big_directory() as path:
        yield path


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait long between two attempts."""
    monkeypatch.setattr(registry_module, "_PACE", Pace(base=0.02, cap=10.0))
    monkeypatch.setattr(registry_module, "_LONGEST_WAIT", 0.1)


def pull(bed: Bed) -> Image:
    settings = ImageSettings(
        attempts=3, auth_files=(str(bed.auth),), connect_timeout=30.0, read_timeout=30.0, minimum_rate=1 << 20
    )
    with ImageStore(bed.place / "store", settings) as store:
        return store.pull(f"{bed.name}/image")


@pytest.mark.parametrize("name", [f"{table}: {name}" for table, rows in TABLES.items() for name in rows])
def test_a_registry_with_a_quirk(place: Path, name: str) -> None:
    table, _, key = name.partition(": ")
    found = TABLES[table][key]
    with quirks.bed(place) as bed:
        for apply in found.quirks:
            apply(bed)
        if found.ends:
            with pytest.raises(TankError, match=found.ends):
                pull(bed)
        else:
            image = pull(bed)
            assert (image.layers[0] / "big").read_bytes() == CONTENT
        assert found.check(bed), (bed.registry.log, bed.other.log)
        if not found.other_is_trusted:
            assert not [secret for secret in bed.sent(bed.other) if secret in (BASIC, f"Bearer {PRIVATE}")]


def test_a_secret_does_not_follow_where_encryption_ends(place: Path) -> None:
    """Also where the plain host may be spoken to, as it is another registry of the same configuration."""
    tls = make_certificate(place)
    with quirks.bed(place) as bed, fake_registry(bed.registry.layout, tls) as encrypted:
        encrypted.rule("/", lambda asked: asked.answer(307, Location=f"http://{bed.other.address}/x"))
        client = Http(ImageSettings(), lambda: False)
        client.trust(f"https://{encrypted.address}", RegistrySettings(ca=str(tls[0])))
        client.trust(f"http://{bed.other.address}", RegistrySettings(insecure=True))
        start = parse_url(f"https://{encrypted.address}/x")
        with client.request(start, headers={}, authorization=BASIC) as answer:
            assert answer.strayed
        client.close()
        assert encrypted.log == ["GET /x auth"]
        assert bed.other.log == ["GET /x"]


@pytest.mark.parametrize(
    "location", ["http://{other}/x", "//{other}/x", "HTTP://{other}:/x", "HTTP://{other}/x"]
)
def test_what_a_redirect_led_to_is_watched_as_well(place: Path, location: str) -> None:
    with quirks.bed(place) as bed:

        def drip(asked: quirks.Request) -> None:
            asked.write(b"HTTP/1.1 200 OK\r\n")
            while not bed.other.stop.wait(0.05):
                asked.write(b"X-Drip: 1\r\n")

        bed.other.rule("/", drip)
        moved("/x", location)(bed)
        client = Http(ImageSettings(connect_timeout=0.5, read_timeout=0.2), lambda: False)
        start = parse_url(f"http://{bed.registry.address}/x")
        with (
            pytest.raises(TankError, match=f"too slowly|{REFUSED}"),
            client.request(start, headers={}, authorization=BASIC),
        ):
            pass
        client.close()
        assert bed.sent(bed.other) == []


def test_a_registry_on_ipv6(place: Path) -> None:
    with quirks.bed(place, host="::1") as bed:
        wants_token()(bed)
        assert (pull(bed).layers[0] / "big").read_bytes() == CONTENT


def test_a_foreign_layer_of_a_layout_is_said_to_be_kept_elsewhere(place: Path) -> None:
    layout = place / "layout"
    write_image(layout, [layer([member("big", CONTENT)])], compression="none")
    [entry] = json.loads((layout / "index.json").read_text())["manifests"]
    document = json.loads((layout / "blobs/sha256" / entry["digest"].removeprefix("sha256:")).read_text())
    gone = document["layers"][0]
    gone.update(mediaType=FOREIGN, urls=["http://127.0.0.1:1/"])
    (layout / "blobs/sha256" / gone["digest"].removeprefix("sha256:")).unlink()
    made = {"mediaType": document["mediaType"], **write_blob(layout, json.dumps(document).encode())}
    tag_descriptor(layout, made, "latest")
    with (
        ImageStore(place / "store", ImageSettings()) as store,
        pytest.raises(TankError, match=KEPT_ELSEWHERE),
    ):
        store.pull(f"oci:{layout}")
