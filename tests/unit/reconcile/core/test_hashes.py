"""Cached hashes are right, computed once, and forgotten when they are not used any more."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from tank_agent.journal.records import Exit, PodStatus
from tank_agent.reconcile.core.hashes import (
    Memory,
    container_hash,
    container_status,
    live_contents,
    outdated_contents,
    settings_hash,
    status_to_start,
)
from tank_agent.reconcile.core.observed import Run
from tank_agent.runtime.run import RunState
from tank_agent.spec.model import (
    ConfigFile,
    Container,
    CpuLimit,
    HealthCheck,
    HttpProbe,
    Limits,
    Mount,
    Network,
    Pod,
    RestartPolicy,
    Secret,
    Security,
    Update,
    Volume,
    content_hash,
)


class Spec:
    def __init__(self, word: str) -> None:
        self.word = word


def test_it_asks_once_and_tells_objects_apart_that_are_equal_in_number_only() -> None:
    asked = []

    def word(spec: Spec) -> str:
        asked.append(spec.word)
        return spec.word

    memory, kept = Memory(word), Spec("kept")
    for number in range(1000):
        # Nobody else holds it, so that its number would be used again.
        assert memory(Spec(str(number))) == str(number)
        assert memory(kept) == "kept"
    assert asked.count("kept") == 1


def test_what_is_used_stays_and_the_rest_goes() -> None:
    asked = []

    def word(spec: Spec) -> str:
        asked.append(spec.word)
        return spec.word

    memory, used, unused = Memory(word), Spec("used"), Spec("unused")
    for spec in (used, unused):
        memory(spec)
    for _ in range(3):
        memory.age()
        memory(used)
    memory(unused)
    assert asked == ["used", "unused", "unused"]


PLAIN = Pod(name="web", containers=(Container(name="app", rootfs="/srv/app", command=("/bin/app",)),))
FULL = Pod(
    name="db",
    restart=RestartPolicy.ON_FAILURE,
    network=Network(mode="host"),
    volumes=(Volume(name="data"), Volume(name="config", host="/etc/db"), Volume(name="unused")),
    containers=(
        Container(
            name="postgres",
            image="docker.io/library/postgres:17",
            args=("-c", "fsync=on"),
            env={"LOG_LEVEL": "debug"},
            user="postgres",
            stop_signal="SIGINT",
            stop_grace=30.0,
            mounts=(
                Mount(volume="data", path="/data"),
                Mount(volume="config", path="/etc/db", read_only=True),
            ),
            limits=Limits(memory=2**28, pids=100, cpu=CpuLimit(quota=50_000)),
            security=Security(add=("CAP_NET_ADMIN",), read_only_root=True),
        ),
        Container(name="side", image="oci:/srv/side", pull="never", tty=True),
    ),
)


def hashes(pod: Pod) -> list[tuple[str, str]]:
    return [(container_hash(pod, one)[:16], settings_hash(one)[:16]) for one in pod.containers]


def test_pods_of_older_versions_keep_their_hashes() -> None:
    # As the version computed them that knew neither health nor order: an upgrade restarts nothing.
    assert hashes(PLAIN) == [("2e3b327d32aec6f1", "c2a9cc8069ca110d")]
    assert hashes(FULL) == [
        ("0ea21b2df7279e1f", "a3924950c7620a2c"),
        ("b30af7b1c9690603", "c2a9cc8069ca110d"),
    ]
    assert content_hash(PLAIN)[:16] == "d981a2ee26ad57eb"
    assert content_hash(FULL)[:16] == "db35d305f956e794"


def edit(pod: Pod, at: int, **fields: object) -> Pod:
    containers = list(pod.containers)
    containers[at] = replace(containers[at], **fields)
    return replace(pod, containers=tuple(containers))


PROBE = HealthCheck(http=HttpProbe(port=80, headers={"Host": "web.lan"}), on_failure="none")
SNAPSHOT = tuple(replace(volume, snapshot=volume.host is None) for volume in FULL.volumes)


@pytest.mark.parametrize(
    "new",
    [
        replace(FULL, volumes=SNAPSHOT),
        replace(FULL, volumes=(replace(SNAPSHOT[0], snapshot="reflink"), *SNAPSHOT[1:])),
        edit(FULL, 0, health=PROBE),
        edit(FULL, 0, after=("side",)),
        replace(FULL, after=("web",)),
        replace(FULL, update=Update(min_healthy=1.0, rollback=False, image="digest")),
    ],
    ids=["snapshot", "reflink", "health", "after", "after of the pod", "update"],
)
def test_what_counts_from_the_next_time_on_restarts_nothing(new: Pod) -> None:
    assert content_hash(new) != content_hash(FULL)
    assert hashes(new) == hashes(FULL)


INIT = Container(
    name="migrate", image="oci:/srv/migrate", init=True, mounts=(Mount(volume="config", path="/etc/db"),)
)
ORDERED = replace(FULL, containers=(INIT, *FULL.containers))
RESTARTING: dict[str, Callable[[Pod], Pod]] = {
    "its image": lambda pod: edit(pod, 0, image="oci:/srv/migrate:2"),
    "its volume": lambda pod: replace(pod, volumes=(pod.volumes[0], Volume(name="config", host="/etc/new"))),
    "its name": lambda pod: edit(pod, 0, name="migration"),
    "no init any more": lambda pod: edit(pod, 0, init=False),
    "gone": lambda pod: replace(pod, containers=pod.containers[1:]),
    "one more": lambda pod: replace(pod, containers=(*pod.containers, replace(INIT, name="seed"))),
}


@pytest.mark.parametrize("change", RESTARTING)
def test_who_runs_after_init_containers_restarts_with_them(change: str) -> None:
    new = RESTARTING[change](ORDERED)
    former = {one.name: container_hash(ORDERED, one) for one in ORDERED.containers}
    for container in new.containers:
        if not container.init and container.name in ("postgres", "side"):
            assert container_hash(new, container) != former[container.name]


@pytest.mark.parametrize("code", [0, 1])
def test_more_memory_is_no_reason_to_repeat_what_an_init_container_did_well(code: int) -> None:
    known = replace(
        status_to_start(PodStatus(), ORDERED, INIT), exit=Exit(code=code, at=1.0), ended_boot="boot"
    )
    status = PodStatus(containers={INIT.name: known})
    assert container_status(status, ORDERED, INIT) is known
    for new in (edit(ORDERED, 0, limits=Limits(memory=2**30)), replace(ORDERED, network=Network())):
        # Who moves out of the host's network restarts; what failed may work now.
        kept = code == 0 and new.network == ORDERED.network
        assert (container_status(status, new, new.containers[0]) is known) is kept
    assert (
        container_status(
            status, edit(ORDERED, 0, args=("x",)), edit(ORDERED, 0, args=("x",)).containers[0]
        ).exit
        is None
    )


def test_an_init_container_runs_anew_only_for_its_own_change() -> None:
    two = replace(ORDERED, containers=(*ORDERED.containers, replace(INIT, name="seed")))
    assert container_hash(two, INIT) == container_hash(ORDERED, INIT)
    other = edit(ORDERED, 1, env={})
    assert container_hash(other, INIT) == container_hash(ORDERED, INIT)
    # Limits are set, and settings count, without a restart of anything.
    live = edit(ORDERED, 0, limits=Limits(memory=2**30), stop_grace=1.0)
    assert [one for one, _ in hashes(live)] == [one for one, _ in hashes(ORDERED)]
    turned = replace(two, containers=(two.containers[-1], *two.containers[1:-1], two.containers[0]))
    assert container_hash(turned, turned.containers[1]) != container_hash(two, two.containers[1])


CONF = ConfigFile(name="conf", content=b"a")
KEY = Secret(name="key", age="ciphertext", digest="1" * 64)


def mounting(*mounts: Mount, files: tuple[ConfigFile, ...] = (CONF,), secret: Secret = KEY) -> Pod:
    mounted = Container(name="app", rootfs="/r", mounts=mounts)
    plain = Container(name="plain", rootfs="/r")
    return Pod(name="web", containers=(mounted, plain), files=files, secrets=(secret,))


def test_content_counts_where_it_restarts_and_only_there() -> None:
    for on_change in ("restart", "nothing", "signal:SIGHUP"):
        mounts = (Mount(file="conf", path="/conf", on_change=on_change), Mount(secret="key", path="/key"))
        before = mounting(*mounts)
        after = mounting(*mounts, files=(replace(CONF, content=b"b"),))
        counts = hashes(after)[0] != hashes(before)[0]
        assert counts == (on_change == "restart")
        assert hashes(after)[1] == hashes(before)[1]


def test_a_secret_counts_by_its_digest_and_not_by_its_ciphertext() -> None:
    mounts = (Mount(secret="key", path="/key"),)
    before = mounting(*mounts)
    assert hashes(mounting(*mounts, secret=replace(KEY, age="other"))) == hashes(before)
    assert hashes(mounting(*mounts, secret=replace(KEY, digest="2" * 64))) != hashes(before)
    # Without keys, another ciphertext may be another secret.
    unsealed = replace(KEY, digest="")
    assert hashes(mounting(*mounts, secret=unsealed)) != hashes(
        mounting(*mounts, secret=replace(unsealed, age="other"))
    )


def test_files_that_nobody_mounts_restart_nothing() -> None:
    unused = mounting(files=(), secret=KEY)
    assert hashes(mounting(files=(CONF,))) == hashes(unused)
    assert hashes(unused) == hashes(replace(unused, secrets=()))


def test_what_is_delivered_live_is_compared_with_what_a_run_has() -> None:
    pod = mounting(
        Mount(file="conf", path="/conf", on_change="nothing"),
        Mount(secret="key", path="/key", on_change="signal:SIGHUP"),
        Mount(file="conf", path="/firm"),
    )
    digest = hashlib.sha256(b"a").hexdigest()
    assert live_contents(pod) == {"app": {"/conf": digest, "/key": "1" * 64}}
    run = Run(id="1", container="app", hash="", state=RunState.RUNNING)
    has = {"/conf": digest, "/key": "", "/firm": "x"}
    assert outdated_contents(replace(run, contents=has), pod) == {"/key": "1" * 64}
    assert outdated_contents(replace(run, container="plain"), pod) == {}
    # A file of the host that can't be read is as it was.
    gone = replace(pod, secrets=(Secret(name="key", host="/key"),))
    assert outdated_contents(replace(run, contents=has), gone) == {}
