"""Compose files and the pod files and remarks that they become: cases/NAME.yaml, cases/NAME.txt.

`TANK_WRITE_CASES=1` writes the second anew, for a look at what changed.
"""

from __future__ import annotations

import os
import posixpath
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tank_agent.convert.compose.convert import convert
from tank_agent.convert.compose.keys import SERVICE
from tank_agent.convert.compose.limits import DEPLOY
from tank_agent.convert.compose.process import HEALTHCHECK
from tank_agent.convert.compose.project import Project
from tank_agent.convert.compose.read import read_project
from tank_agent.convert.compose.service import Given
from tank_agent.convert.model import Conversion, SourcePlace, Value
from tank_agent.convert.written import text_of
from tank_agent.spec.beside import FILE_MAX, Sent
from tank_agent.spec.parse import parse_pod_file

CASES = Path(__file__).with_name("cases")
DIRECTORY, HOME = "/srv/shop", "/root"
ENVIRONMENT = {"GIVEN": "from outside"}
# Beside the compose file; what is not here is not there.
FILES = {
    ".env.app": "A=1\nB=${A}2\n",
    "raw.env": "C='as it is'\nD=$A\n",
    "nginx.conf": "events {}\n",
    "html/index.html": "hello\n",
    "conf/app.conf": "x\n",
    "db_password.txt": "secret",
}


def converted(directory: Path, text: str, *, one_pod: bool = False) -> Conversion:
    """Return what a compose file becomes in a directory that has FILES."""
    for name, content in FILES.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    file = directory / "compose.yaml"
    file.write_text(text)
    project = read_project([os.fspath(file)], name="shop", environ={"HOME": HOME, **ENVIRONMENT})

    def exists(path: str) -> bool:
        return path.startswith(os.fspath(directory)) and os.path.lexists(path)

    around = Given(ENVIRONMENT, HOME, lambda path: Path(path).read_bytes(), exists)
    return convert(project, around, one_pod=one_pod)


def shown(conversion: Conversion, directory: Path) -> str:
    """Return pod files, files beside them, and remarks as one text."""
    parts = [f"# file: {file.name}.toml\n{text_of(file)}" for file in conversion.files]
    beside = {name: content for file in conversion.files for name, content in file.beside.items()}
    parts += [f"# beside: {name}\n{content.decode()}" for name, content in sorted(beside.items())]
    parts += ["\n".join(f"# {one.kind}: {one}" for one in conversion.remarks) + "\n"]
    return "\n".join(parts).replace(os.fspath(directory), DIRECTORY)


def check_valid(conversion: Conversion) -> None:
    for file in conversion.files:
        parsed = parse_pod_file(text_of(file), f"{file.name}.toml", beside=Sent(file.beside))
        assert parsed.problems == ()
        assert [one.pod.name for one in parsed.pods] == [file.name]


@pytest.mark.parametrize("name", sorted(path.stem for path in CASES.glob("*.yaml")))
def test_case(name: str, tmp_path: Path) -> None:
    text = (CASES / f"{name}.yaml").read_text()
    conversion = converted(tmp_path, text, one_pod="--one-pod" in text)
    check_valid(conversion)
    expected = CASES / f"{name}.txt"
    if os.environ.get("TANK_WRITE_CASES"):
        expected.write_text(shown(conversion, tmp_path))
    assert shown(conversion, tmp_path) == expected.read_text()


PLACE = SourcePlace("compose.yaml", 1)
WORDS = [
    *(
        "",
        "a",
        "web",
        "db",
        "default",
        "host",
        "service:web",
        "container:db",
        "none",
        "/a",
        "./a",
        "~/a",
        "/",
        "../a",
    ),
    *(
        "a:/b",
        "/a:/b:ro",
        "./a:/b:rw,z",
        "data:/data",
        "/var/run/docker.sock:/x",
        "80",
        "8080:80",
        "1-3:1-3/udp",
    ),
    *(
        "1g",
        "-1",
        "0",
        "1.5",
        "10s",
        "1m",
        "always",
        "on-failure:3",
        "no",
        "NONE",
        "CMD",
        "nginx:1",
        "A=b",
        "A",
    ),
    *(
        "true",
        "all",
        "service_healthy",
        "service_completed_successfully",
        "\x00",
        "\n",
        '"',
        "é",
        "x" * 200,
        "${A}",
    ),
    *(
        "/dev/null",
        "/dev/dri:/dev/dri:rwm",
        "nvidia.com/gpu=all",
        "no-new-privileges:true",
        "seccomp:unconfined",
    ),
]
NAMES = [
    *(
        "web",
        "db",
        "data",
        "test",
        "interval",
        "disable",
        "condition",
        "limits",
        "resources",
        "reservations",
        "memory",
    ),
    *(
        "devices",
        "path",
        "source",
        "target",
        "type",
        "volume",
        "tmpfs",
        "size",
        "subpath",
        "soft",
        "hard",
        "nofile",
    ),
    *(
        "aliases",
        "ipv4_address",
        "driver",
        "external",
        "name",
        "file",
        "content",
        "environment",
        "published",
        "mode",
    ),
    *(
        "required",
        "format",
        "count",
        "device_ids",
        "capabilities",
        "replicas",
        "restart_policy",
        "x-y",
        "",
        "é",
    ),
]
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-2, 9000),
    st.floats(),
    st.sampled_from(WORDS),
    st.text(max_size=5),
)
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
    ),
    max_leaves=8,
)
keys = st.sampled_from([*SERVICE, "unknown"])
services = st.dictionaries(keys, values, max_size=6)
deploys = st.fixed_dictionaries(
    {"deploy": st.dictionaries(st.sampled_from(list(DEPLOY)), values, max_size=3)}
)
checks = st.fixed_dictionaries(
    {"healthcheck": st.dictionaries(st.sampled_from(list(HEALTHCHECK)), values, max_size=4)}
)
images = st.fixed_dictionaries({"image": st.just("nginx:1")})
tops = st.dictionaries(st.sampled_from(["web", "data", "default", "a"]), values, max_size=3)


def value_of(plain: Any) -> Value:
    """Return what was read as the reader of compose files has it."""
    if isinstance(plain, dict):
        return Value({name: value_of(one) for name, one in plain.items()}, PLACE)
    return Value(tuple(map(value_of, plain)), PLACE) if isinstance(plain, list) else Value(plain, PLACE)


def entries(given: dict[str, Any]) -> dict[str, Value]:
    return {name: value_of(one) for name, one in given.items()}


def read(path: str) -> bytes:
    if posixpath.basename(path) == "a":
        return b"A=$B\n\xff"
    raise FileNotFoundError(2, "No such file or directory", path)


def test_a_service_with_the_name_of_another_and_a_dot_has_its_own_restart(tmp_path: Path) -> None:
    text = """\
services:
  a:
    image: a
    restart: always
  a.b:
    image: b
    restart: "no"
    network_mode: service:a
"""
    found = converted(tmp_path, text)
    (file,) = found.files
    assert file.pod["restart"] == "always"
    (lost,) = [remark for remark in found.remarks if remark.kind == "lost"]
    assert (lost.key, lost.place.line) == ("services.a.b.restart", 7)
    apart = converted(
        tmp_path, text.replace("    network_mode: service:a\n", "    devices: [/dev/x:/dev/y:q]\n")
    )
    heads = {file.name: file.comments for file in apart.files}
    assert not any("lost" in line for line in heads["a"])


def test_volumes_begin_with_what_the_image_has_unless_told_otherwise(tmp_path: Path) -> None:
    text = """\
services:
  a:
    image: a
    volumes:
      - one:/one
      - two:/two:nocopy
      - /three
      - ./four:/four
      - {type: volume, source: five, target: /five, volume: {nocopy: true}}
      - {type: volume, source: six, target: /six, read_only: true}
      - {type: volume, source: six, target: /seven, volume: {subpath: x}}
volumes: {one: , two: , five: , six: }
"""
    (file,) = converted(tmp_path, text).files
    mounts = file.pod["containers"][0]["mounts"]
    assert [one["path"] for one in mounts if one.get("from_image")] == ["/one", "/three", "/six"]


@settings(deadline=None, max_examples=300)
@given(
    found=st.dictionaries(
        st.sampled_from(["web", "db", "My_App", "é"]),
        st.tuples(images, services, st.one_of(deploys, checks, st.just({}))),
        min_size=1,
        max_size=3,
    ),
    others=st.tuples(tops, tops, tops, tops),
    one_pod=st.booleans(),
)
def test_any_service_is_a_valid_pod_or_has_a_remark(
    found: dict[str, tuple[dict[str, Any], ...]], others: tuple[dict[str, Any], ...], one_pod: bool
) -> None:
    volumes, networks, configs, secrets = map(entries, others)
    project = Project(
        name="My shop",
        directory="/srv/shop",
        services=entries({name: {**image, **plain, **more} for name, (image, plain, more) in found.items()}),
        volumes=volumes,
        networks=networks,
        configs=configs,
        secrets=secrets,
    )
    around = Given({"A": "1"}, "/root", read, lambda path: "a" in path)
    conversion = convert(project, around, one_pod=one_pod)
    check_valid(conversion)
    assert conversion.files or conversion.remarks


def test_a_name_that_is_made_valid_takes_none_of_another_service(tmp_path: Path) -> None:
    found = converted(tmp_path, "services: {a_b: {image: x}, a-b: {image: y}, A.b: {image: z}}\n")
    images = {file.name: file.pod["containers"][0]["image"] for file in found.files}  # type: ignore[index]
    assert images == {"a-b": "y", "a-b-2": "x", "a-b-3": "z"}
    named = [file.pod["network"] for file in found.files if file.name != "a-b"]
    assert named == [{"aliases": ["a_b"]}, {"aliases": ["A.b"]}]


def test_a_container_name_is_found_where_only_a_mounted_file_has_it(tmp_path: Path) -> None:
    found = converted(tmp_path, "services: {app: {image: x, container_name: shop.app_1}, web: {image: y}}\n")
    assert found.files[0].pod["network"] == {"aliases": ["shop.app_1"]}


def test_a_host_name_is_no_alias_too(tmp_path: Path) -> None:
    for keys in ("container_name: nas.lan, hostname: NAS.lan", "hostname: nas.lan, container_name: NAS.lan"):
        found = converted(tmp_path, f"services: {{app: {{image: x, {keys}}}}}\n")
        assert found.files[0].pod["hostname"].lower() == "nas.lan"
        assert found.files[0].pod["network"] == "bridge"
        assert not [one for one in found.remarks if one.kind == "lost"]


def test_a_path_of_the_host_is_that_behind_its_links(tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    around = Given({}, HOME, lambda path: b"", lambda path: True, lambda path: path.replace("/etc", "/usr"))
    large = Given({}, HOME, lambda path: b" " * (FILE_MAX + 1), around.exists, around.real)
    bind = "driver_opts: {type: none, o: bind, device: /etc/x}"
    for around_it, keys, table in (
        (around, "volumes: ['/etc/x:/srv:ro']}}", "volumes"),
        (around, f"volumes: ['kept:/srv']}}}}\nvolumes: {{kept: {{{bind}}}}}", "volumes"),
        (around, "secrets: [kept]}}\nsecrets: {kept: {file: /etc/x}}", "secrets"),
        (large, "configs: [kept]}}\nconfigs: {kept: {file: /etc/x}}", "volumes"),
    ):
        file.write_text(f"services: {{app: {{image: x, {keys}\n")
        found = convert(read_project([os.fspath(file)], environ={}), around_it)
        (made,) = found.files[0].pod[table]
        assert made["host"] == "/usr/x", keys
        assert [one.kind for one in found.remarks] == ["note"]
        assert "/etc/x leads to /usr/x" in found.remarks[0].message
