"""Manifests and configurations: read strictly, and never a crash."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tank_agent.errors import Stalled
from tank_agent.image.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Index,
    Manifest,
    parse_configuration,
    parse_manifest,
)

DIGEST = "sha256:" + "0a" * 32
LAYER = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": DIGEST, "size": 3}
CONFIG = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": DIGEST, "size": 2}
MANIFEST: dict[str, Any] = {"schemaVersion": 2, "config": CONFIG, "layers": [LAYER]}
INDEX: dict[str, Any] = {
    "schemaVersion": 2,
    "manifests": [
        {
            "mediaType": OCI_MANIFEST,
            "digest": DIGEST,
            "size": 9,
            "platform": {"os": "linux", "architecture": "arm"},
        }
    ],
}


def parse(document: object, kind: str = "") -> Index | Manifest:
    return parse_manifest(json.dumps(document).encode(), kind, "test")


@pytest.mark.parametrize("kind", ["", OCI_MANIFEST, DOCKER_MANIFEST])
def test_a_manifest(kind: str) -> None:
    found = parse({**MANIFEST, "mediaType": kind} if kind else MANIFEST, kind)
    assert isinstance(found, Manifest)
    assert (found.config.digest, found.layers[0].size) == (DIGEST, 3)


@pytest.mark.parametrize("kind", ["", OCI_INDEX, DOCKER_LIST])
def test_an_index(kind: str) -> None:
    found = parse(INDEX, kind)
    assert isinstance(found, Index)
    assert str(found.manifests[0].platform) == "linux/arm"


@pytest.mark.parametrize(
    "layer",
    [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ],
)
def test_layer_types(layer: str) -> None:
    assert isinstance(parse({**MANIFEST, "layers": [{**LAYER, "mediaType": layer}]}), Manifest)


@pytest.mark.parametrize(
    ("document", "kind", "message"),
    [
        ({**MANIFEST, "manifests": []}, "", "either manifests or layers"),
        ({**INDEX, "config": CONFIG}, "", "either manifests or layers"),
        ({"schemaVersion": 2}, "", "either manifests or layers"),
        ({"schemaVersion": 1, "fsLayers": []}, "", "schema 1"),
        (MANIFEST, "application/vnd.docker.distribution.manifest.v1+json", "schema 1"),
        ({**MANIFEST, "mediaType": OCI_MANIFEST}, DOCKER_MANIFEST, "at once"),
        (MANIFEST, OCI_INDEX, "not an image"),
        (INDEX, OCI_MANIFEST, "not an image"),
        (MANIFEST, "text/html", "not an image"),
        ({**MANIFEST, "config": {**CONFIG, "mediaType": "application/vnd.cncf.helm"}}, "", "artifact"),
        ({**MANIFEST, "layers": [LAYER] * 128}, "", "128 layers"),
        ({**MANIFEST, "layers": [{**LAYER, "mediaType": "application/x-evil"}]}, "", "unknown type"),
        ({**MANIFEST, "layers": [{**LAYER, "digest": "sha256:../../x"}]}, "", "names content"),
        ({**MANIFEST, "layers": [{**LAYER, "size": -1}]}, "", "negative"),
        ({**MANIFEST, "layers": [{**LAYER, "size": "3"}]}, "", "can't be read"),
        ({**MANIFEST, "layers": "x"}, "", "can't be read"),
        ([], "", "can't be read"),
    ],
)  # fmt: skip
def test_documents_that_are_refused(document: object, kind: str, message: str) -> None:
    with pytest.raises(Stalled, match=message):
        parse(document, kind)


def test_a_configuration() -> None:
    document = {
        "architecture": "arm",
        "os": "linux",
        "variant": "v7",
        "config": {
            "Entrypoint": ["/e"],
            "Cmd": None,
            "Env": ["A=b"],
            "User": "x",
            "WorkingDir": "/w",
            "StopSignal": "SIGQUIT",
        },
        "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
        "history": [{"anything": 1}],
    }
    found = parse_configuration(json.dumps(document).encode(), "test")
    assert (str(found.platform), found.diff_ids) == ("linux/arm/v7", (DIGEST,))
    assert (found.config.entrypoint, found.config.cmd, found.config.user) == (("/e",), (), "x")


def test_old_configurations_have_strings_where_lists_belong_and_gaps() -> None:
    found = parse_configuration(b'{"config": {"Cmd": "run", "Entrypoint": ""}, "rootfs": {}}', "test")
    assert (found.config.cmd, found.config.entrypoint, found.diff_ids) == (("run",), (), ())
    assert parse_configuration(b'{"config": null}', "test").config.env == ()


@pytest.mark.parametrize(
    "data",
    [b"", b"[", b"\xff\xfe", b"[" * 100_000, b'{"rootfs": {"diff_ids": ["x"]}}', b'{"config": {"Env": [1]}}'],
)
def test_configurations_that_are_refused(data: bytes) -> None:
    with pytest.raises(Stalled):
        parse_configuration(data, "test")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.just(DIGEST),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "schemaVersion",
                    "mediaType",
                    "manifests",
                    "layers",
                    "config",
                    "digest",
                    "size",
                    "platform",
                    "rootfs",
                    "diff_ids",
                    "Env",
                    "Cmd",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(JSON, st.sampled_from(["", OCI_INDEX, OCI_MANIFEST, "x"]))
def test_any_json_is_read_or_refused(document: object, kind: str) -> None:
    for read in (
        lambda data: parse_manifest(data, kind, "test"),
        lambda data: parse_configuration(data, "test"),
    ):
        try:
            read(json.dumps(document).encode())
        except Stalled as error:
            assert error.message


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(Stalled):
        parse_manifest(data, "", "test")


def test_more_words_than_a_process_can_have_are_not_kept_in_memory() -> None:
    document = {"config": {"Env": ["A=b"] * 100_001}}
    with pytest.raises(Stalled, match="more variables and arguments"):
        parse_configuration(json.dumps(document).encode(), "test")
