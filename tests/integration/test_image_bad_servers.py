"""Servers that ask for tokens, redirect, stall, break off and lie."""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tank_agent.errors import Retry, Stalled, TankError
from tank_agent.image.config import Image, PullProgress
from tank_agent.image.store.store import ImageStore
from tank_agent.settings.image import ImageSettings, RegistrySettings
from tests.support.agent import wait_for
from tests.support.images import layer, member, write_image
from tests.support.registry import FakeRegistry, Request, fake_registry, make_certificate, write_auth
from tests.support.trees import big_directory

CONTENT = os.urandom(3 << 20)
KIND = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture
def place() -> Iterator[Path]:
    with big_directory() as path:
        yield path


@pytest.fixture
def registry(place: Path) -> Iterator[FakeRegistry]:
    layout = place / "layout"
    write_image(layout, [layer([member("small", "x")]), layer([member("big", CONTENT)])], compression="none")
    with fake_registry(layout) as running:
        yield running


@pytest.fixture
def big(registry: FakeRegistry) -> str:
    """The path of the large layer."""
    blobs = (registry.layout / "blobs/sha256").iterdir()
    return f"/v2/image/blobs/sha256:{max(blobs, key=lambda path: path.stat().st_size).name}"


def settings(place: Path, **fields: object) -> ImageSettings:
    values: dict[str, object] = {
        "attempts": 3,
        "auth_files": (str(place / "auth.json"),),
        "connect_timeout": 2.0,
        "read_timeout": 0.5,
        "minimum_rate": 1 << 20,
    }
    return ImageSettings(**{**values, **fields})  # type: ignore[arg-type]


def pull(place: Path, registry: FakeRegistry, **fields: object) -> Image:
    with ImageStore(place / "store", settings(place, **fields)) as store:
        return store.pull(f"{registry.address}/image")


def is_whole(image: Image) -> bool:
    return (image.layers[1] / "big").read_bytes() == CONTENT


def nothing_is_left(place: Path) -> bool:
    images = place / "store/images"
    return not any(list((images / name).iterdir()) for name in ("staging", "trash", "partial"))


def require_token(registry: FakeRegistry, token: str = "t0ken", valid: int = 1_000_000) -> None:
    """Let the registry want a bearer token, handed out at /token, each good for `valid` requests."""
    uses = [0]

    def guard(request: Request) -> bool:
        if request.path.startswith("/token"):
            uses[0] = 0
            request.answer(body=json.dumps({"token": token}).encode())
            return True
        uses[0] += 1
        if request.headers.get("Authorization") == f"Bearer {token}" and uses[0] <= valid:
            return False
        realm = f"http://{registry.address}/token"
        challenge = f'Bearer realm="{realm}",service="test",scope="repository:image:pull"'
        request.answer(401, WWW_Authenticate=challenge)
        return True

    registry.rules.append(guard)


def test_one_token_serves_the_whole_pull(place: Path, registry: FakeRegistry) -> None:
    require_token(registry)
    assert is_whole(pull(place, registry))
    assert registry.count("GET /token") == 1
    asked = next(line for line in registry.log if "/token" in line).split()[1]
    assert parse_qs(urlsplit(asked).query) == {"service": ["test"], "scope": ["repository:image:pull"]}
    # One request without, one for the token, then manifest, configuration and two layers with it.
    assert registry.count("/v2/") == 5


def test_a_token_that_runs_out_is_renewed(place: Path, registry: FakeRegistry) -> None:
    require_token(registry, valid=2)
    assert is_whole(pull(place, registry))
    assert registry.count("GET /token") >= 2


def test_the_token_server_gets_the_password_and_nobody_else(place: Path, registry: FakeRegistry) -> None:
    require_token(registry)
    write_auth(place / "auth.json", registry.address)
    assert is_whole(pull(place, registry))
    for line, headers in zip(registry.log, registry.headers, strict=True):
        sent = headers.get("Authorization", "")
        assert sent.startswith("Basic ") == ("/token" in line), line


def test_an_identity_token_is_exchanged(place: Path, registry: FakeRegistry) -> None:
    bodies: list[str] = []

    def token(request: Request) -> None:
        bodies.append(request.body)
        request.answer(body=b'{"access_token": "t0ken"}')

    registry.rule("/token", token)
    require_token(registry)
    auths = {registry.address: {"auth": base64.b64encode(b"x:").decode(), "identitytoken": "refresh-me"}}
    (place / "auth.json").write_text(json.dumps({"auths": auths}))
    assert is_whole(pull(place, registry))
    assert parse_qs(bodies[0])["refresh_token"] == ["refresh-me"]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"token": "a\\nb"}', b'{"token": "x"', b"x" * (2 << 20)]
)
def test_a_token_server_that_talks_nonsense(place: Path, registry: FakeRegistry, body: bytes) -> None:
    registry.rule("/token", lambda request: request.answer(body=body))
    require_token(registry)
    with pytest.raises((Retry, Stalled), match="token"):
        pull(place, registry)


def test_a_password_never_goes_over_an_unencrypted_line(place: Path, registry: FakeRegistry) -> None:
    tls = make_certificate(place)
    with fake_registry(registry.layout, tls) as encrypted:
        challenge = f'Bearer realm="http://{registry.address}/token",service="x"'
        encrypted.rule("/v2/", lambda request: request.answer(401, WWW_Authenticate=challenge))
        write_auth(place / "auth.json", encrypted.address)
        trusted = {encrypted.address: RegistrySettings(ca=str(tls[0]))}
        with pytest.raises(Stalled, match="not encrypted"):
            pull(place, encrypted, registries=trusted)
        encrypted.rules.clear()
        moved = f"http://127.0.0.2:{registry.address.rpartition(':')[2]}/v2/image/manifests/latest"
        encrypted.rule("/manifests/", lambda request: request.answer(307, Location=moved))
        with pytest.raises(Stalled, match="not encrypted"):
            pull(place, encrypted, registries=trusted)
    assert registry.log == []


def test_a_redirect_to_another_host_does_not_take_the_secret_along(
    place: Path, registry: FakeRegistry, big: str
) -> None:
    with fake_registry(registry.layout) as cdn:
        require_token(registry)
        target = f"http://{cdn.address}{big}?signature=abc"
        cdn.rule("?signature", lambda request: _without_query(cdn, request))
        registry.rules.append(lambda request: request.path == big and _redirect(request, target))
        assert is_whole(pull(place, registry))
        assert cdn.log == [f"GET {big}?signature=abc"]


def _without_query(registry: FakeRegistry, request: Request) -> None:
    request.path = request.path.partition("?")[0]
    registry.serve_truly(request)


def _redirect(request: Request, target: str) -> bool:
    request.answer(307, Location=target)
    return True


def test_redirects_in_a_circle_end(place: Path, registry: FakeRegistry, big: str) -> None:
    registry.rule(big, lambda request: request.answer(302, Location=request.path))
    with pytest.raises(Stalled, match="redirects more than"):
        pull(place, registry)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_transfer_that_breaks_goes_on_where_it_broke(
    place: Path, registry: FakeRegistry, big: str, ranges: bool
) -> None:
    def half(request: Request) -> None:
        data = (registry.layout / "blobs/sha256" / big.rpartition(":")[2]).read_bytes()
        request.answer(body=data[: len(data) // 2], length=len(data))
        request.hang_up()

    registry.rule(big, half, times=1)
    if not ranges:
        registry.rule(big, lambda request: _ignore_range(registry, request))
    assert is_whole(pull(place, registry))
    assert registry.count(big) == 2
    first, second = ranges_asked_for(registry, big)
    assert first is None and second is not None
    assert nothing_is_left(place)


def ranges_asked_for(registry: FakeRegistry, path: str) -> list[str | None]:
    """Return the Range of every request for a path."""
    requests = zip(registry.log, registry.headers, strict=True)
    return [headers.get("Range") for line, headers in requests if path in line]


def _ignore_range(registry: FakeRegistry, request: Request) -> None:
    del request.headers["Range"]
    registry.serve_truly(request)


def test_what_a_broken_pull_brought_is_used_by_the_next(
    place: Path, registry: FakeRegistry, big: str
) -> None:
    def half(request: Request) -> None:
        data = (registry.layout / "blobs/sha256" / big.rpartition(":")[2]).read_bytes()
        request.answer(body=data[: len(data) // 2], length=len(data))
        request.hang_up()

    registry.rule(big, half, times=1)
    with pytest.raises(Retry):
        pull(place, registry, attempts=1)
    # Those of other layers, which came at the same time, may be there, too.
    left = (place / "store/images/partial").iterdir()
    [partial] = (file for file in left if big.rpartition(":")[2] in file.name)
    had = partial.stat().st_size
    assert had > 1 << 20
    assert is_whole(pull(place, registry))
    assert ranges_asked_for(registry, big) == [None, f"bytes={had}-"]
    assert nothing_is_left(place)


def test_damage_in_what_an_earlier_pull_left_is_noticed(
    place: Path, registry: FakeRegistry, big: str
) -> None:
    def wrong_half(request: Request) -> None:
        request.answer(body=CONTENT[: 1 << 20], length=_size(registry, big))
        request.hang_up()

    registry.rule(big, wrong_half)
    with pytest.raises(Retry):
        pull(place, registry, attempts=1)
    registry.rules.clear()
    assert is_whole(pull(place, registry))
    assert nothing_is_left(place)


def _size(registry: FakeRegistry, path: str) -> int:
    return (registry.layout / "blobs/sha256" / path.rpartition(":")[2]).stat().st_size


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_registry_is_asked_again_when_it_said(
    place: Path, registry: FakeRegistry, status: int
) -> None:
    registry.rule("/manifests/", lambda request: request.answer(status, Retry_After="1"), times=1)
    start = time.monotonic()
    assert is_whole(pull(place, registry))
    assert time.monotonic() - start >= 1


def test_a_registry_that_stays_broken_is_given_up(place: Path, registry: FakeRegistry) -> None:
    registry.rule(
        "/manifests/", lambda request: request.answer(500, b'{"errors":[{"code":"X","message":"sick"}]}')
    )
    with pytest.raises(Retry, match="500: x sick"):
        pull(place, registry)
    assert registry.count("/manifests/") == 3


def stall(registry: FakeRegistry) -> None:
    registry.stop.wait(60)


@pytest.mark.parametrize("where", ["before", "headers", "body", "drip"])
def test_a_registry_that_stalls_does_not_hang_the_worker(
    place: Path, registry: FakeRegistry, big: str, where: str
) -> None:
    def answer(request: Request) -> None:
        if where == "headers":
            request.write(b"HTTP/1.1 200 OK\r\n")
            while not registry.stop.wait(0.1):
                request.write(b"X-Drip: 1\r\n")
        if where in ("body", "drip"):
            request.answer(body=CONTENT[:1000], length=len(CONTENT) + 2048)
        while where == "drip" and not registry.stop.wait(0.1):
            request.write(b"x")
        stall(registry)

    registry.rule(big, answer)
    start = time.monotonic()
    with pytest.raises(Retry):
        pull(place, registry, attempts=2)
    assert time.monotonic() - start < 50, "the server stalls for 60 s"


def test_cancelling_ends_a_pull_that_waits_for_the_network(
    place: Path, registry: FakeRegistry, big: str
) -> None:
    waiting = threading.Event()

    def answer(request: Request) -> None:
        waiting.set()
        stall(registry)

    registry.rule(big, answer)
    cancel = threading.Event()
    with ImageStore(place / "store", settings(place, read_timeout=60.0)) as store:
        threading.Thread(target=lambda: cancel.set() if waiting.wait(60) else None).start()
        start = time.monotonic()
        with pytest.raises(Retry, match="cancelled"):
            store.pull(f"{registry.address}/image", cancelled=cancel.is_set)
        assert time.monotonic() - start < 50, "the timeout is 60 s"
        registry.rules.clear()
        # A later pull is not hurt by the one that was given up.
        assert is_whole(store.pull(f"{registry.address}/image"))
    assert nothing_is_left(place)


@pytest.mark.parametrize("how", ["cancelled", "failed"])
def test_a_pull_that_joined_a_layer_outlives_the_one_that_started_it(
    place: Path, registry: FakeRegistry, big: str, how: str
) -> None:
    """Two names of one image: the first pull begins its layers, and ends before they are there."""
    waiting, over = threading.Event(), threading.Event()

    def answer(request: Request) -> None:
        waiting.set()
        if how == "cancelled":
            stall(registry)
        else:
            assert over.wait(60)
            request.answer(404)

    registry.rule(big, answer, times=1)
    cancel = threading.Event()
    joined: list[PullProgress] = []
    with (
        ImageStore(place / "store", settings(place, read_timeout=60.0)) as store,
        ThreadPoolExecutor(2) as pool,
    ):
        first = pool.submit(store.pull, f"{registry.address}/image", cancelled=cancel.is_set)
        assert waiting.wait(60)
        second = pool.submit(
            store.pull, f"{registry.address}/image:latest", policy="always", progress=joined.append
        )
        wait_for(lambda: joined, "the second pull to join")
        (cancel if how == "cancelled" else over).set()
        with pytest.raises(TankError, match="cancelled" if how == "cancelled" else "no layer"):
            first.result(60)
        assert is_whole(second.result(60))
    assert joined[-1].done == joined[-1].total
    assert nothing_is_left(place)


def test_prune_leaves_what_a_pull_under_way_has_brought(
    place: Path, registry: FakeRegistry, big: str
) -> None:
    pruned = threading.Event()
    registry.rules.append(lambda request: request.path == big and not pruned.wait(60))
    with ImageStore(place / "store", settings(place, read_timeout=100.0, parallel=1)) as store:
        images: list[Image] = []
        worker = threading.Thread(target=lambda: images.append(store.pull(f"{registry.address}/image")))
        worker.start()
        layers = place / "store/images/layers"
        wait_for(lambda: list(layers.iterdir()), "the first layer is there")
        store.prune(set())
        assert len(list(layers.iterdir())) == 1
        pruned.set()
        worker.join()
        assert is_whole(images[0])
        assert store.cached(f"{registry.address}/image") == images[0]
        store.prune(set())
        assert list(layers.iterdir()) == []


@pytest.mark.parametrize(
    "lie", ["other content", "shorter", "longer", "endless", "endless, no length", "empty"]
)
def test_a_registry_that_lies_about_a_layer(place: Path, registry: FakeRegistry, big: str, lie: str) -> None:
    true = (registry.layout / "blobs/sha256" / big.rpartition(":")[2]).read_bytes()

    def answer(request: Request) -> None:
        if lie == "other content":
            request.answer(body=bytes(len(true)))
        elif lie == "shorter":
            request.answer(body=true[:-512])
        elif lie == "longer":
            request.answer(body=true + bytes(512))
        elif lie == "empty":
            request.answer(body=b"")
        else:
            request.answer(body=true, length=-1 if "no" in lie else 1 << 40)
            while not registry.stop.is_set():
                request.write(bytes(1 << 16))

    registry.rule(big, answer)
    with pytest.raises(Retry):
        pull(place, registry)
    with ImageStore(place / "store", settings(place)) as store:
        assert store.cached(f"{registry.address}/image") is None
        store.sweep()
    used = sum(path.stat().st_size for path in (place / "store").rglob("*") if path.is_file())
    assert used < len(true) + (1 << 20)


MANIFEST_LIES: dict[str, Callable[[bytes], tuple[bytes, str]]] = {
    "other type": lambda data: (data, "application/vnd.oci.image.index.v1+json"),
    "two types": lambda data: (
        json.dumps({**json.loads(data), "manifests": []}).encode(),
        KIND,
    ),
    "schema 1": lambda data: (
        json.dumps({"schemaVersion": 1, "fsLayers": [], "name": "x"}).encode(),
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    ),
    "not JSON": lambda data: (b"<html>", KIND),
    "deep JSON": lambda data: (b"[" * 100_000, KIND),
    "path for a digest": lambda data: (
        data.replace(b'"digest": "sha256:', b'"digest": "sha256:../../'),
        KIND,
    ),
    "huge": lambda data: (b" " * (5 << 20) + data, KIND),
    "artifact": lambda data: (data.replace(b"image.config.v1", b"artifact.config.v1"), KIND),
    "foreign layers": lambda data: (data.replace(b"layer.v1.tar", b"layer.v1.tar+encrypted"), KIND),
    "negative size": lambda data: (data.replace(b'"size": ', b'"size": -'), KIND),
}


@pytest.mark.parametrize("lie", MANIFEST_LIES)
def test_a_registry_that_lies_about_the_manifest(place: Path, registry: FakeRegistry, lie: str) -> None:
    [name] = {
        entry["digest"] for entry in json.loads((registry.layout / "index.json").read_text())["manifests"]
    }
    data = (registry.layout / "blobs/sha256" / name.removeprefix("sha256:")).read_bytes()
    body, kind = MANIFEST_LIES[lie](data)
    registry.rule("/manifests/", lambda request: request.answer(body=body, Content_Type=kind))
    with pytest.raises(Stalled):
        pull(place, registry)
    assert sorted(path.name for path in place.iterdir()) == ["layout", "store"]


def test_another_manifest_than_the_digest_names_is_refused(place: Path, registry: FakeRegistry) -> None:
    digest = "sha256:" + "0" * 64
    registry.rule("/manifests/", lambda request: _as_tag(registry, request))
    with ImageStore(place / "store", settings(place)) as store, pytest.raises(Retry, match="asked for"):
        store.pull(f"{registry.address}/image@{digest}")


def _as_tag(registry: FakeRegistry, request: Request) -> None:
    request.path = "/v2/image/manifests/latest"
    registry.serve_truly(request)


def test_a_configuration_with_other_layers_is_refused(place: Path, registry: FakeRegistry) -> None:
    layout = place / "liar"
    made = write_image(layout, [layer([member("a", "x")])])
    manifest = layout / "blobs/sha256" / made["digest"].removeprefix("sha256:")
    config = json.loads(manifest.read_text())["config"]["digest"].removeprefix("sha256:")
    document = json.loads((layout / "blobs/sha256" / config).read_text())
    document["rootfs"]["diff_ids"] = ["sha256:" + "1" * 64]
    from tests.support.images import tag_descriptor, write_blob

    changed = json.loads(manifest.read_text())
    changed["config"] = {**changed["config"], **write_blob(layout, json.dumps(document).encode())}
    tag_descriptor(layout, {"mediaType": KIND, **write_blob(layout, json.dumps(changed).encode())}, "latest")
    with ImageStore(place / "store", settings(place)) as store, pytest.raises(Stalled, match="unpacks to"):
        store.pull(f"oci:{layout}")
    assert list((place / "store/images/layers").iterdir()) == []
