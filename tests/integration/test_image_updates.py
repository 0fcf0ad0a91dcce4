"""Images by their digests, and newer images behind the same tag."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import pytest

from tank_agent.errors import Retry, Stalled, TankError
from tank_agent.image.manifest import parse_configuration
from tank_agent.image.registry.client import BusyError
from tank_agent.image.store.store import ImageStore, ImageUse
from tank_agent.settings.image import ImageSettings, RegistrySettings
from tests.support.images import host_platform, layer, member, tag_descriptor, write_blob, write_image
from tests.support.registry import (
    FakeRegistry,
    Request,
    docker_registry,
    fake_registry,
    skopeo_copy,
    write_auth,
)
from tests.support.trees import big_directory


@pytest.fixture
def place() -> Iterator[Path]:
    with big_directory() as path:
        yield path


def settings(place: Path) -> ImageSettings:
    return ImageSettings(attempts=1, auth_files=(str(place / "none.json"),))


def push(place: Path, host: str, content: str, tag: str = "1") -> str:
    """Push an image with one file to a tag, and return its manifest's digest."""
    layout = place / "layout"
    digest: str = write_image(layout, [layer([member("version", content)])], tag="one")["digest"]
    skopeo_copy(f"oci:{layout}:one", f"docker://{host}/app:{tag}")
    return digest


def push_index(
    place: Path,
    host: str,
    content: str,
    others: str = "other",
    below: Sequence[bytes] = (),
    config: Mapping[str, object] | None = None,
) -> tuple[str, str]:
    """Push an image for two platforms to the tag "1"; return the digests of the index and of our manifest."""
    layout, ours = place / "layout", host_platform()
    foreign = {"os": "linux", "architecture": "s390x"}
    entries = []
    for built_for, text in ((ours, content), (foreign, others)):
        layers = [*below, layer([member("version", text)])]
        made = write_image(layout, layers, tag=None, image_platform=built_for, config=config)
        entries.append({**made, "platform": built_for})
    kind = "application/vnd.oci.image.index.v1+json"
    data = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode()
    index = write_blob(layout, data)
    tag_descriptor(layout, {"mediaType": kind, **index}, "many")
    skopeo_copy(f"oci:{layout}:many", f"docker://{host}/app:1", "--all", "--preserve-digests")
    return index["digest"], entries[0]["digest"]


def test_an_image_is_fetched_by_its_digest_though_the_tag_moved(place: Path) -> None:
    with docker_registry(place / "registry") as host:
        name, first, second = f"{host}/app:1", push(place, host, "1"), ""
        with ImageStore(place / "store", settings(place)) as store:
            assert store.cached(name, first) is None
            tagged = store.pull(name)
            assert (tagged.digest, tagged.index) == (first, first)
            second = push(place, host, "2")
            moved = store.pull(name, policy="always")
            assert (moved.digest, moved.index) == (second, second)
            # Both are here; the tag stands for the newer one.
            found = store.cached(name, first)
            assert found is not None
            assert (found.digest, found.index, found.name) == (first, "", f"{name}@{first}")
            assert (found.layers[0] / "version").read_text() == "1"
            assert store.pull(name, digest=first, policy="always") == found
            store.remove(first)
            assert store.cached(name, first) is None
            with pytest.raises(Stalled, match=f"app@{first} is not on this machine, and may not be fetched"):
                store.pull(name, digest=first, policy="never")
            again = store.pull(name, digest=first)
            assert again == found
            tag = store.cached(name)
            assert tag is not None and tag.digest == second
            assert [row.reference for row in store.list()] == [name, ""]
    with ImageStore(place / "store", settings(place)) as store:
        # The registry is gone.
        assert store.pull(name, digest=first) == found
        store.prune([ImageUse(image=first, pod="web", why="goes back to it")])
        assert store.cached(name, first) == found
        assert store.cached(name, second) is None


def test_an_image_that_the_registry_dropped_names_the_way_on(place: Path) -> None:
    with docker_registry(place / "registry") as host:
        push(place, host, "1")
        with ImageStore(place / "store", settings(place)) as store:
            unknown = f"sha256:{'5' * 64}"
            with pytest.raises(Stalled, match=f"{host} no longer has the image {unknown}") as caught:
                store.pull(f"{host}/app:1", digest=unknown)
            assert "`tank image update POD`" in str(caught.value)
            assert store.list() == ()


def test_an_image_of_this_disk_is_taken_by_digest_from_the_store_only(place: Path) -> None:
    layout = place / "layout"
    first: str = write_image(layout, [layer([member("version", "1")])])["digest"]
    with ImageStore(place / "store", settings(place)) as store:
        assert store.pull(f"oci:{layout}").index == first
        second = write_image(layout, [layer([member("version", "2")])])["digest"]
        assert store.cached(f"oci:{layout}") is None
        found = store.pull(f"oci:{layout}", digest=first)
        assert (found.digest, (found.layers[0] / "version").read_text()) == (first, "1")
        assert store.pull(f"oci:{layout}").digest == second
        shutil.rmtree(layout)
        assert store.pull(f"oci:{layout}", digest=first) == found
        store.remove(first)
        with pytest.raises(Stalled, match="is no longer in the store") as caught:
            store.pull(f"oci:{layout}", digest=first)
        assert "`tank image update POD`" in str(caught.value)


def test_an_index_is_not_what_a_container_runs(place: Path) -> None:
    with docker_registry(place / "registry") as host, ImageStore(place / "store", settings(place)) as store:
        index, manifest = push_index(place, host, "1")
        image = store.pull(f"{host}/app:1")
        assert (image.digest, image.index) == (manifest, index)
        with pytest.raises(Stalled, match="is no image for one platform"):
            store.pull(f"{host}/app:1", digest=index)


def test_a_real_registry_says_by_head_what_a_tag_stands_for(place: Path) -> None:
    with docker_registry(place / "registry", password=True) as host:
        auth = write_auth(place / "none.json", host)
        layout = place / "layout"
        made = write_image(layout, [layer([member("version", "1")])], tag="one")
        skopeo_copy(f"oci:{layout}:one", f"docker://{host}/app:1", f"--dest-authfile={auth}")
        with ImageStore(place / "store", settings(place)) as store:
            assert store.stands_for(f"{host}/app:1") == made["digest"]
            found = store.look(f"{host}/app:1")
            assert (found.digest, found.index) == (made["digest"], "")
            assert store.list() == ()
            with pytest.raises(Stalled, match="no image"):
                store.stands_for(f"{host}/app:2")
    with ImageStore(place / "store", settings(place)) as store, pytest.raises(Retry, match="refused"):
        store.stands_for(f"{host}/app:1")


def test_an_index_that_lists_the_same_image_is_noted_and_no_other(place: Path) -> None:
    with docker_registry(place / "registry") as host, ImageStore(place / "store", settings(place)) as store:
        name = f"{host}/app:1"
        index, manifest = push_index(place, host, "1")
        store.pull(name)
        assert store.stands_for(name) == index
        again, same = push_index(place, host, "1", others="rebuilt")
        assert (again != index, same) == (True, manifest)
        assert store.stands_for(name) == again
        found = store.look(name)
        assert (found.index, found.digest) == (again, manifest)
        store.note_index(name, found.index)
        record = store.recorded(name)
        assert record is not None
        assert (record.index, record.digest) == (again, manifest)
        image = store.cached(name)
        assert image is not None
        assert image.index == again


@pytest.fixture
def registry(place: Path) -> Iterator[FakeRegistry]:
    write_image(place / "fake", [layer([member("version", "1")])], tag="latest")
    with fake_registry(place / "fake") as running:
        yield running


def asks(place: Path, registry: FakeRegistry, **fields: object) -> str:
    values: dict[str, object] = {"read_timeout": 0.5, "connect_timeout": 0.5, "minimum_rate": 1 << 20}
    changed = msgspec.structs.replace(settings(place), **{**values, **fields})
    with ImageStore(place / "store", changed) as store:
        return store.stands_for(f"{registry.address}/image")


def requests(registry: FakeRegistry) -> list[str]:
    return [line for line in registry.log if "/manifests/" in line]


HEAD, GET = "HEAD /v2/image/manifests/latest", "GET /v2/image/manifests/latest"


def only_head(answer: Callable[[Request], None]) -> Callable[[Request], bool]:
    def apply(request: Request) -> bool:
        if request.method != "HEAD":
            return False
        answer(request)
        return True

    return apply


@pytest.mark.parametrize(
    "answer",
    [
        lambda request: request.answer(405),
        # It sends a body, which no answer to HEAD has.
        lambda request: (request.answer(405, length=4), request.write(b"oops")),
        lambda request: request.answer(501),
        lambda request: request.answer(400),
        lambda request: request.answer(200),
        lambda request: request.answer(200, Docker_Content_Digest="sha256:nonsense"),
        lambda request: request.answer(200, Docker_Content_Digest="../../etc/passwd"),
    ],
)
def test_without_a_digest_in_the_head_the_manifest_itself_counts(
    place: Path, registry: FakeRegistry, answer: Callable[[Request], None]
) -> None:
    registry.rules.append(only_head(answer))
    entry = json.loads((registry.layout / "index.json").read_text())["manifests"][0]
    assert asks(place, registry) == entry["digest"]
    assert requests(registry) == [HEAD, GET]
    accepted = [found["Accept"] for found in registry.headers if "Accept" in found]
    assert all("application/vnd.oci.image.index.v1+json" in each for each in accepted)


def test_one_head_is_all_that_a_tag_costs_and_a_redirect_is_followed(
    place: Path, registry: FakeRegistry
) -> None:
    entry = json.loads((registry.layout / "index.json").read_text())["manifests"][0]
    assert asks(place, registry) == entry["digest"]
    assert requests(registry) == [HEAD]
    registry.log.clear()
    registry.rule(
        "/manifests/latest",
        lambda request: request.answer(307, Location="/v2/image/manifests/latest?again"),
        times=1,
    )
    registry.rule("?again", lambda request: request.answer(200, Docker_Content_Digest=f"sha256:{'7' * 64}"))
    assert asks(place, registry) == f"sha256:{'7' * 64}"
    assert requests(registry) == [HEAD, f"{HEAD}?again"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda request: request.answer(429, Retry_After="7200"), BusyError),
        (lambda request: request.answer(503), BusyError),
        (lambda request: request.answer(404), Stalled),
        (lambda request: request.answer(403), TankError),
        (lambda request: request.answer(418), Stalled),
        (lambda request: request.hang_up(), Retry),
        (lambda request: request.answer(307, Location="/v2/image/manifests/latest"), Stalled),
        (lambda request: request.answer(307, Location="http://user@evil.example/"), Stalled),
    ],
)
def test_trouble_of_a_registry_is_an_error_after_one_try(
    place: Path, registry: FakeRegistry, answer: Callable[[Request], None], error: type[TankError]
) -> None:
    registry.rule("/manifests/", answer)
    with pytest.raises(error) as caught:
        asks(place, registry)
    if isinstance(caught.value, BusyError) and "429" in caught.value.message:
        assert caught.value.after == 7200
    assert len({line.partition(" ")[0] for line in requests(registry)}) == 1
    assert len(requests(registry)) <= 6


def test_a_slow_registry_is_given_up(place: Path, registry: FakeRegistry) -> None:
    registry.rule("/manifests/", lambda request: (registry.stop.wait(20), request.answer(404))[1])
    with pytest.raises(Retry, match=r"timed out|too slowly"):
        asks(place, registry)
    assert len(requests(registry)) == 1


def test_a_mirror_is_asked_first_as_for_pulls(place: Path, registry: FakeRegistry) -> None:
    mirrored = {"registry.invalid": RegistrySettings(mirrors=(registry.address,))}
    changed = msgspec.structs.replace(settings(place), registries=mirrored, connect_timeout=0.5)
    with ImageStore(place / "store", changed) as store:
        assert store.stands_for("registry.invalid/image").startswith("sha256:")


def test_what_another_image_is_on_disk_shows_as_another_stamp(place: Path) -> None:
    layout = place / "layout"
    write_image(layout, [layer([member("version", "1")])])
    with ImageStore(place / "store", settings(place)) as store:
        image, record = store.pull(f"oci:{layout}"), store.recorded(f"oci:{layout}")
        assert record is not None
        assert store.stands_for(f"oci:{layout}") == record.stamp != ""
        second = write_image(layout, [layer([member("version", "2")])])["digest"]
        assert store.stands_for(f"oci:{layout}") != record.stamp
        assert store.look(f"oci:{layout}").digest == second != image.digest
        shutil.rmtree(layout)
        assert store.stands_for(f"oci:{layout}") == ""


def test_the_date_of_an_image_is_read_and_nonsense_is_none(place: Path) -> None:
    dates = {
        "2024-05-01T12:00:00.123456789Z": 1714564800.123456,
        "2024-05-01T14:00:00+02:00": 1714564800.0,
        "0001-01-01T00:00:00Z": None,
        "1970-01-01T00:00:00Z": None,
        "2024-05-01T12:00:00": None,
        "yesterday": None,
        7: None,
        None: None,
    }
    for written, expected in dates.items():
        data = json.dumps({"created": written, "rootfs": {"diff_ids": []}}).encode()
        assert parse_configuration(data, "test").created == expected, written


def test_a_tag_stands_for_a_newer_image_only_when_it_is_told_so(place: Path) -> None:
    with docker_registry(place / "registry") as host, ImageStore(place / "store", settings(place)) as store:
        name, first = f"{host}/app:1", push(place, host, "1")
        store.pull(name)
        second = push(place, host, "2")
        pulled = time.time()
        assert store.pull_newer(name, second).digest == second

        def stands_for() -> str:
            found = store.cached(name)
            return found.digest if found is not None else ""

        assert stands_for() == first
        # An image that isn't here, and a pull that came later.
        store.name(name, f"sha256:{'4' * 64}", pulled)
        store.name(name, second, 1.0)
        assert stands_for() == first
        store.name(name, second, pulled)
        assert stands_for() == second
        layout = place / "local"
        write_image(layout, [layer([member("version", "1")])])
        store.pull(f"oci:{layout}")
        third = write_image(layout, [layer([member("version", "3")])])["digest"]
        assert store.pull_newer(f"oci:{layout}", third).digest == third
        found = store.cached(f"oci:{layout}")
        assert found is not None and found.digest == third
