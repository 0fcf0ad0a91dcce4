"""Every pod can be written as a file that reads back the same, and that editors accept by our schema."""

from __future__ import annotations

import base64
import ipaddress
import math
import sys
import tomllib
from typing import Any

import pytest
import tomlkit
from hypothesis import HealthCheck as Suppressed
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tank_agent.spec.file import PodTable
from tank_agent.spec.model import (
    ConfigFile,
    Container,
    CpuLimit,
    HealthCheck,
    HttpProbe,
    Limits,
    Mount,
    Network,
    Nic,
    Pod,
    Port,
    RestartPolicy,
    Schedule,
    Secret,
    Security,
    Ulimit,
    Update,
    Volume,
)
from tank_agent.spec.parse import parse_pod_file
from tank_agent.spec.printable import escape
from tank_agent.spec.quantities import MEMORY_MAX, MEMORY_MIN
from tank_agent.spec.render import render_pod
from tank_agent.spec.schema import json_schema
from tests.unit.spec.test_ports import ports

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
# Everything that a program can be given: no NUL, and no half of a surrogate pair.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
PATHS = st.lists(
    st.from_regex(r"[A-Za-z0-9 é'\"=][A-Za-z0-9._-]{0,6}", fullmatch=True), min_size=1, max_size=3
).map(lambda parts: "/srv/" + "/".join(parts))
IMAGES = st.sampled_from(
    ["nginx", "docker.io/library/postgres:17", "oci:/srv/app:latest", "docker-archive:/a.tar"]
)
USERS = st.sampled_from(["0", "postgres:postgres", "1000:0", "www-data"])
GROUPS = st.sampled_from(["44", "0", "video", "www-data"])
SIGNALS = st.sampled_from(["SIGTERM", "SIGINT", "SIGRTMIN", "SIGRTMIN+3"])
GRACES = st.one_of(
    st.floats(0, 3600), st.integers(0, 3600).map(float), st.integers(0, 3_600_000).map(lambda ms: ms / 1000)
)
CPUS = st.builds(
    CpuLimit, quota=st.integers(1000, 10**6), period=st.sampled_from([1000, 50_000, 100_000, 1_000_000])
)
MEMORY = st.integers(MEMORY_MIN, MEMORY_MAX) | st.just(2**28)
SETS_OF_CPUS = st.none() | st.sampled_from(["0", "0-3,6", "1,3,5", "0-1"])
FEW_BYTES = st.integers(4096, MEMORY_MIN)
LIMITS = st.builds(
    Limits,
    pids=st.none() | st.integers(1, 4_194_304),
    cpu=st.none() | CPUS,
    cpu_weight=st.none() | st.integers(1, 10_000),
    cpus=SETS_OF_CPUS,
    memory_reservation=st.none() | FEW_BYTES,
    memory=MEMORY,
    swap=st.none() | st.integers(0, MEMORY_MAX),
) | st.builds(Limits, memory=st.none() | MEMORY, memory_reservation=st.none() | FEW_BYTES)


@st.composite
def ulimits(draw: st.DrawFn) -> dict[str, Ulimit]:
    found = {}
    for name in draw(st.lists(st.sampled_from(["nproc", "memlock", "core"]), unique=True)):
        hard = draw(st.integers(0, 2**63) | st.just(-1))
        # Also with less in front of it; what can be drawn depends on nothing that was drawn.
        less, lower = draw(st.integers(0, 5)), draw(st.booleans())
        soft = less if lower and (hard == -1 or hard >= less) else hard
        found[name] = Ulimit(soft=soft, hard=hard)
    return found


ENV = st.dictionaries(TEXT.filter(lambda key: bool(key) and "=" not in key), TEXT, max_size=3)
WORDS = st.lists(TEXT, max_size=3).map(tuple)


def times(low: float, high: float) -> st.SearchStrategy[float]:
    """Return lengths of time, of which some have no exact text."""
    whole = st.integers(math.ceil(low), int(high)).map(float)
    return (
        whole
        | st.integers(int(low * 1000), int(high * 1000)).map(lambda ms: ms / 1000)
        | st.floats(low, high)
    )


AGE = b"age-encryption.org/v1\n"


def armor(content: bytes) -> str:
    text = base64.b64encode(AGE + content).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN AGE ENCRYPTED FILE-----", *lines, "-----END AGE ENCRYPTED FILE-----", ""])


CONTENTS = (
    st.binary(max_size=20) | TEXT.map(str.encode) | st.text('ab"\\\n\r\t\0', max_size=9).map(str.encode)
)
SCHEDULES = st.none() | st.builds(
    Schedule,
    cron=st.sampled_from(["0 3 * * *", "*/5 1-3 * jan,feb mon-fri", "0 0 29 2 *"]),
    time_zone=st.sampled_from(["", "Europe/Berlin", "UTC"]),
    catch_up=st.booleans(),
    timeout=st.none() | times(1, 30 * 86_400),
)
SYSCTLS = st.dictionaries(
    st.sampled_from(["net.core.somaxconn", "kernel.sem", "fs.mqueue.msg_max"]),
    st.sampled_from(["1", "250 32000"]),
)
HEADERS = st.dictionaries(
    st.from_regex(r"X-[A-Za-z!#]{1,6}", fullmatch=True).map(str.title),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8),
    max_size=2,
)
PROBES = st.one_of(
    st.fixed_dictionaries(
        {
            "http": st.builds(
                HttpProbe,
                port=st.integers(1, 65_535),
                path=st.from_regex(r"/[!-\"$-~]{0,9}", fullmatch=True),
                headers=HEADERS,
                tls=st.booleans(),
            )
        }
    ),
    st.fixed_dictionaries({"tcp": st.integers(1, 65_535)}),
    st.fixed_dictionaries({"exec": WORDS.map(lambda words: ("/bin/probe", *words))}),
)
SETTINGS_OF_PROBES = st.fixed_dictionaries(
    {},
    optional={
        "interval": times(1, 86_400),
        "timeout": times(0.1, 3600),
        "retries": st.integers(1, 100),
        "start_period": times(0, 3600),
        "start_interval": times(0.5, 86_400),
        "on_failure": st.sampled_from(["restart", "none"]),
    },
)


@st.composite
def health_checks(draw: st.DrawFn, *, is_image: bool) -> HealthCheck | None:
    if draw(st.booleans()):
        return HealthCheck(**draw(PROBES), **draw(SETTINGS_OF_PROBES))
    if is_image and draw(st.booleans()):
        found = HealthCheck(**draw(SETTINGS_OF_PROBES))
        return HealthCheck(image=False) if found == HealthCheck() else found
    return None


@st.composite
def updates(draw: st.DrawFn, restart: RestartPolicy) -> Update:
    min_healthy = draw(times(0, 3600))
    return Update(
        min_healthy=min_healthy,
        deadline=draw(times(min_healthy + 1, 86_400)),
        max_restarts=draw(st.integers(0, 100)),
        rollback=True if restart is RestartPolicy.NEVER and draw(st.booleans()) else draw(st.booleans()),
        image=draw(st.sampled_from(["pinned", "digest"])),
    )


@st.composite
def mounts(draw: st.DrawFn, path: str, mountable: tuple[Volume | ConfigFile | Secret, ...]) -> Mount:
    found = draw(st.none() | st.sampled_from(mountable)) if mountable else None
    if found is None:
        return Mount(tmpfs=draw(st.integers(4096, MEMORY_MAX)), path=path)
    if isinstance(found, Volume):
        subpath = draw(st.sampled_from(["", "app", "a/b c"]))
        return Mount(volume=found.name, path=path, read_only=draw(st.booleans()), subpath=subpath)
    kind = "secret" if isinstance(found, Secret) else "file"
    return Mount(
        **{kind: found.name},
        path=path,
        on_change=draw(st.sampled_from(["restart", "nothing", "signal:SIGHUP"])),
        mode=draw(st.none() | st.integers(0, 0o777)),
        owner=draw(st.none() | USERS),
    )


@st.composite
def containers(
    draw: st.DrawFn,
    name: str,
    mountable: tuple[Volume | ConfigFile | Secret, ...],
    init: bool,
    after: tuple[str, ...],
) -> Container:
    is_image = draw(st.booleans())
    command = draw(st.none() | WORDS.map(lambda words: ("/bin/app", *words)))
    paths = draw(st.lists(PATHS, max_size=3, unique=True))
    return Container(
        name=name,
        image=draw(IMAGES) if is_image else None,
        pull=draw(st.sampled_from((None, "missing", "always", "never"))) if is_image else None,
        rootfs=None if is_image else draw(PATHS),
        command=command if is_image else command or ("/bin/app",),
        args=draw(st.none() | WORDS),
        env=draw(ENV),
        working_dir=draw(st.none() | PATHS),
        user=draw(st.none() | USERS),
        tty=draw(st.booleans()),
        stop_signal=draw(st.none() | SIGNALS),
        stop_grace=draw(GRACES),
        mounts=tuple(draw(mounts(path, mountable)) for path in paths),
        limits=draw(LIMITS),
        shm_size=draw(st.none() | st.integers(4096, MEMORY_MAX)),
        ulimits=draw(ulimits()),
        groups=tuple(sorted(draw(st.sets(GROUPS, max_size=3)))),
        security=Security(read_only_root=draw(st.booleans())),
        init=init,
        after=after,
        health=None if init else draw(health_checks(is_image=is_image)),
    )


# No name of a pod has "_" in it.
HOST_NAMES = st.from_regex(r"x_[a-z0-9]{0,8}(\.[a-z0-9][a-z0-9-]{0,4}){0,2}", fullmatch=True)
ADDRESSES = st.sampled_from(["192.168.1.3", "10.0.0.9", "fd00::9"])
# Of every pod that has a network of its own.
NAMING = st.fixed_dictionaries(
    {},
    optional={
        "dns": st.sampled_from([("1.1.1.1", "fd00::1"), ("127.0.0.1",)]),
        "dns_search": st.lists(HOST_NAMES, max_size=4, unique=True).map(tuple),
        "dns_options": st.sampled_from([("ndots:2", "rotate"), ("use-vc",), ("timeout:0",)]),
        "extra_hosts": st.dictionaries(HOST_NAMES, ADDRESSES, max_size=3),
    },
)


@st.composite
def published(draw: st.DrawFn) -> tuple[Port, ...]:
    """Return ports that can be had together."""
    found = draw(st.lists(ports(), max_size=5))
    return tuple(port for at, port in enumerate(found) if not any(port.collides(one) for one in found[:at]))


@st.composite
def networks(draw: st.DrawFn) -> Network:
    count = draw(st.integers(-2, 3))
    if count == 0:
        return Network(mode=draw(st.sampled_from(["none", "host"])))
    if count < 0:
        names = st.lists(NAMES, min_size=1, max_size=3, unique=True).map(tuple)
        given = draw(NAMING)
        if draw(st.booleans()):
            given["extra_hosts"] = {**given.get("extra_hosts", {}), "machine_": "host-gateway"}
        given["aliases"] = draw(st.sampled_from([(), ("Alias_", "db.alias_")]))
        return Network(mode="bridge", bridges=draw(st.just(("default",)) | names), **given)
    nics = []
    for index in range(count):
        addresses = draw(st.sampled_from([(), ("4",), ("6",), ("4", "6"), ("4", "4")]))
        ip = tuple(
            f"10.{index}.{place}.5/16" if kind == "4" else str(ipaddress.ip_interface(f"fd00:{index}::5/64"))
            for place, kind in enumerate(addresses)
        )
        gateway = draw(st.sampled_from([(), ("10.0.0.1",)])) if index == 0 and "4" in addresses else ()
        nics.append(
            Nic(name=f"eth{index}", parent=draw(st.sampled_from(["auto", "eno1.5"])), ip=ip, gateway=gateway)
        )
    return Network(mode="nics", nics=tuple(nics), **draw(NAMING))


@st.composite
def pods(draw: st.DrawFn) -> Pod:
    volumes = tuple(
        draw(
            st.builds(Volume, name=st.just(name), host=PATHS)
            | st.builds(Volume, name=st.just(name), snapshot=st.sampled_from([False, True, "reflink"]))
            | st.builds(Volume, name=st.just(name), shared=st.just(True))
        )
        for name in draw(st.lists(NAMES, max_size=3, unique=True))
    )
    files = tuple(
        ConfigFile(name=one, content=draw(CONTENTS)) for one in draw(st.lists(NAMES, max_size=2, unique=True))
    )
    secrets = tuple(
        Secret(name=one, age=armor(draw(st.binary(max_size=99))))
        if draw(st.booleans())
        else Secret(name=one, host=draw(PATHS))
        for one in draw(st.lists(NAMES, max_size=2, unique=True))
    )
    schedule = draw(SCHEDULES)
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    network = draw(networks())
    policies = [policy for policy in RestartPolicy if schedule is None or policy is not RestartPolicy.ALWAYS]
    name, restart = draw(NAMES), draw(st.sampled_from(policies))
    # The first is never init, and the others wait for those before them that are not.
    init = [False, *(draw(st.booleans()) for _ in names[1:])]
    later = [names[at] for at, first in enumerate(init) if not first]
    parts = []
    for one, first in zip(names, init, strict=True):
        before = later[: later.index(one)] if not first else []
        after = draw(st.lists(st.sampled_from(before), unique=True)) if before else []
        parts.append(draw(containers(one, (*volumes, *files, *secrets), first, tuple(after))))
    return Pod(
        name=name,
        containers=tuple(parts),
        restart=restart,
        after=tuple(draw(st.lists(NAMES.filter(lambda other: other != name), max_size=2, unique=True))),
        update=draw(st.just(Update()) | updates(restart)),
        schedule=schedule,
        files=files,
        secrets=secrets,
        sysctls=draw(SYSCTLS) if network.mode != "host" else {},
        hostname=draw(st.sampled_from(["", "Own_.lan", "own_"])),
        network=network,
        ports=draw(published()) if network.mode == "bridge" else (),
        volumes=volumes,
    )


VALIDATOR = Draft202012Validator(json_schema())


@settings(
    max_examples=150, deadline=None, suppress_health_check=[Suppressed.too_slow, Suppressed.data_too_large]
)
@given(pods())
def test_every_pod_reads_back_from_its_text_and_fits_the_schema(pod: Pod) -> None:
    text = render_pod(pod)
    parsed = parse_pod_file(text, "other.toml")
    assert parsed.problems == ()
    assert [read.pod for read in parsed.pods] == [pod]
    document = tomllib.loads(text)
    VALIDATOR.validate(document)
    VALIDATOR.validate({"pods": [document]})


def test_the_text_is_what_a_person_would_write() -> None:
    pod = Pod(
        name="web",
        volumes=(Volume(name="data"),),
        containers=(
            Container(
                name="app",
                image="oci:/srv/app",
                env={"A": "1"},
                mounts=(Mount(volume="data", path="/data"),),
                limits=Limits(memory=2**28, cpu=CpuLimit(quota=50_000)),
            ),
            Container(name="side", rootfs="/srv/side", command=("/bin/side", "-v"), stop_grace=90.0),
        ),
    )
    assert render_pod(pod) == (
        'name = "web"\nrestart = "always"\nnetwork = "none"\n\n'
        '[[volumes]]\nname = "data"\n\n'
        '[[containers]]\nname = "app"\nimage = "oci:/srv/app"\nenv = {A = "1"}\n\n'
        '[[containers.mounts]]\nvolume = "data"\npath = "/data"\n\n'
        '[containers.limits]\nmemory = "256M"\ncpu = 0.5\n\n'
        '[[containers]]\nname = "side"\nrootfs = "/srv/side"\ncommand = ["/bin/side", "-v"]\n'
        'stop_grace = "1m30s"\n'
    )


SMALL: dict[str, Any] = {"containers": [{"name": "a", "image": "b"}]}


def with_container(**keys: object) -> dict[str, Any]:
    return {"containers": [{"name": "a", "image": "b", **keys}]}


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"pods": []},
        {"pods": [SMALL]},
        {"containers": []},
        {**SMALL, "pods": []},
        {**SMALL, "nam": "x"},
        {**SMALL, "name": "No"},
        {**SMALL, "restart": "sometimes"},
        {**SMALL, "network": "bridged"},
        {**SMALL, "network": {"nics": [{"ip": "10.0.0.5/24"}]}},
        {**SMALL, "volumes": [{"name": "a", "host": "relative"}]},
        with_container(env={"A": 1}),
        with_container(stop_grace="soon"),
        with_container(working_dir="relative"),
        with_container(limits={"memory": "1MB"}),
        with_container(limits={"cpu": {"period": 5}}),
        with_container(limits={"cpu": "1"}),
        with_container(limits={"cpus": 1}),
        with_container(ulimits={"nofile": "many"}),
        with_container(ulimits={"nofile": {"soft": 1}}),
        with_container(env_file=[1]),
        with_container(mounts=[{"file": "a", "path": "/a", "mode": "0999"}]),
        with_container(mounts=[{"file": "a", "path": "/a", "on_change": "reload"}]),
        {**SMALL, "files": [{"content": "x"}]},
        {**SMALL, "secrets": [{"name": "a", "host": "relative"}]},
        {**SMALL, "sysctls": {"net.core.somaxconn": 1}},
        {**SMALL, "catch_up": "yes"},
        with_container(mounts=[{"volume": "a", "path": "relative"}]),
    ],
    ids=range(28),
)
def test_the_schema_and_the_parser_refuse_the_same(document: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(document)
    assert parse_pod_file(tomlkit.dumps(document), "web.toml").problems


def test_the_schema_helps_an_editor() -> None:
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    assert schema["title"]
    assert "null" not in str(schema)
    for name, table in schema["$defs"].items():
        assert table["title"], name
        for key, node in table["properties"].items():
            assert node.get("description"), f"{name}.{key}"
    assert schema["$defs"]["ContainerTable"]["properties"]["stop_grace"]["default"] == "10s"
    assert set(schema["$defs"]["PodTable"]["properties"]) == set(PodTable.__struct_fields__)


def test_the_work_grows_as_the_pod_does() -> None:
    def calls(count: int) -> int:
        texts = tuple(f"argument {number}" for number in range(count))
        container = Container(
            name="app",
            image="nginx",
            args=texts,
            env={text.replace(" ", "_"): text for text in texts},
            mounts=tuple(Mount(volume="v", path=f"/{text}") for text in texts),
        )
        pod = Pod(name="web", containers=(container,), volumes=(Volume(name="v"),))
        seen = 0

        def count_call(_frame: object, event: str, _argument: object) -> None:
            nonlocal seen
            seen += event in ("call", "c_call")

        sys.setprofile(count_call)
        try:
            render_pod(pod)
        finally:
            sys.setprofile(None)
        return seen

    assert calls(400) < 4.2 * calls(100)


def test_nothing_in_a_rendered_pod_steers_a_terminal() -> None:
    hostile = "\x1b[31m\x9b31m\u202egnp.exe\u2028\x7f\U000e0041"
    container = Container(name="app", image="nginx", args=(hostile,), env={hostile: hostile})
    pod = Pod(name="web", containers=(container,))
    text = render_pod(pod)
    assert escape(text, keep="\n") == text
    assert parse_pod_file(text, "web.toml").pods[0].pod == pod
