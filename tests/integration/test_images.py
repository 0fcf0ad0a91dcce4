"""Pods from registries: pull policies, credentials, offline starts, and the verbs of `tank image`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import tank_agent
from tank_agent.errors import ImageInUse, Stalled
from tests.integration.test_image_crash import no_helper_is_left
from tests.support.agent import Agent, ended, wait_for
from tests.support.images import busybox_members, layer, member, write_image
from tests.support.registry import (
    USER,
    FakeRegistry,
    Request,
    docker_registry,
    fake_registry,
    make_certificate,
    skopeo_copy,
    write_auth,
)
from tests.support.trees import big_directory

SAY = ["/bin/sh", "-c", "trap 'exit 0' TERM; cat /version; while :; do sleep 1000 & wait $!; done"]
BUSYBOX = layer(busybox_members())
# Until a pod has been good, what its reference stands for counts at each start.
GOOD_LATER = '[update]\nmin_healthy = "30m"\ndeadline = "1h"\n'
GOOD_SOON = '[update]\nmin_healthy = "100ms"\n'
POINTS = (
    "image:resolved",
    "image:layer-staged",
    "image:layer-chunk",
    "image:layer-fetched",
    "image:layer-unpacked",
    "image:layer-committed",
    "image:layer-committed@2",
    "image:recorded",
    "image:named",
)


@pytest.fixture
def home() -> Iterator[Path]:
    with big_directory() as path:
        yield path


@contextmanager
def agent_with(home: Path, text: str = "", *, start: bool = True) -> Iterator[Agent]:
    """Run an agent with more lines in its agent.toml; passwords of this machine's root are not read."""
    agent = Agent(home)
    if "[image]" not in text:
        text += f'\n[image]\nauth_files = ["{home}/auth.json"]\n'
    agent.config.write_text(agent.config.read_text() + text)
    if start:
        agent.start()
    with ended(agent):
        yield agent


@pytest.fixture
def agent(home: Path) -> Iterator[Agent]:
    with agent_with(home) as running:
        yield running


def build(layout: Path, version: str, *more: bytes) -> str:
    """Add an image to a layout that says its version; return its digest."""
    says = layer([member("version", f"{version}\n")])
    digest = write_image(layout, [BUSYBOX, *more, says], tag=version)["digest"]
    assert isinstance(digest, str)
    return digest


def push(layout: Path, version: str, target: str, *options: str) -> None:
    skopeo_copy(f"oci:{layout}:{version}", f"docker://{target}", *options)


def pod(image: str, *, pull: str = "", head: str = "", extra: str = "") -> str:
    policy = f'pull = "{pull}"\n' if pull else ""
    return (
        f'{head}\n[[containers]]\nname = "app"\nimage = "{image}"\n{policy}command = {json.dumps(SAY)}\n'
        f'stop_grace = "2s"\n{extra}\n'
    )


def restart(agent: Agent, name: str) -> None:
    """End a container as if it had crashed, and wait until it runs again."""
    before = agent.pid(name)
    os.kill(before, signal.SIGKILL)

    def again() -> bool:
        status = agent.status(name)
        return status is not None and status["containers"][0]["pid"] not in (None, before)

    wait_for(again, f"{name} was started again", 60)


def events(agent: Agent, *types: str) -> list[tuple[str, str]]:
    """Return the events about pods; what a person does with images has events of its own."""
    found = [event for event in agent.client.events() if event.pod and event.type in types]
    return [(event.type, event.message) for event in found]


def image_names(agent: Agent) -> set[str]:
    return {image.reference for image in agent.client.images()}


def test_always_asks_before_each_start_and_runs_the_copy_when_nobody_answers(
    agent: Agent, home: Path
) -> None:
    layout = home / "layout"
    first, second = build(layout, "one"), build(layout, "two")
    with docker_registry(home / "registry") as host:
        image = f"{host}/team/app:1"
        push(layout, "one", image)
        agent.write("fresh", pod(image, pull="always"))
        agent.write("kept", pod(image, head=GOOD_LATER))
        for name in ("fresh", "kept"):
            assert agent.wait_phase(name, "running")["containers"][0]["image"] == f"{image}@{first}"
            agent.wait_output(name, "one")
        push(layout, "two", image)
        running = agent.pid("fresh")
        agent.client.sync(wait=10)
        assert agent.pid("fresh") == running
        restart(agent, "fresh")
        restart(agent, "kept")
        wait_for(lambda: agent.output("fresh") == ["one", "two"], "the moved tag runs")
        status = agent.wait_phase("fresh", "running")
        assert status["containers"][0]["image"] == f"{image}@{second}"
        # "missing" takes what the name stands for on this machine, which the other pod has moved.
        wait_for(lambda: agent.output("kept") == ["one", "two"], "the copy runs")
        # A change of the policy alone touches nothing.
        running = agent.pid("kept")
        agent.write("kept", pod(image, pull="always", head=GOOD_LATER))
        wait_for(lambda: (agent.status("kept") or {}).get("generation") == 2, "the edit is taken")
        assert agent.client.plan().pods[1].actions == ()
        assert agent.pid("kept") == running
    # Nobody answers any more.
    restart(agent, "fresh")
    wait_for(lambda: agent.output("fresh") == ["one", "two", "two"], "the copy runs")
    agent.wait_phase("fresh", "running")
    restart(agent, "fresh")
    wait_for(lambda: len(agent.output("fresh")) == 4, "the copy runs again")
    # Told once, however often the copy is used.
    ((_, told),) = events(agent, "image-not-refreshed")
    assert told.startswith(f"{image} could not be looked up, so the copy on this machine is used: ")
    assert "\n" not in told
    agent.kill()
    agent.start()
    agent.wait_phase("fresh", "running")
    restart(agent, "fresh")
    wait_for(lambda: len(agent.output("fresh")) == 5, "the copy runs after a restart of the agent")
    pulled = [message for _, message in events(agent, "pulled")]
    assert sum(first in message for message in pulled) == 2
    assert sum(second in message for message in pulled) == 1
    assert [message for _, message in events(agent, "pulling")] == [f"pulling {image}"] * 2


def test_an_image_that_is_here_needs_no_registry(agent: Agent, home: Path) -> None:
    build(home / "layout", "one")
    with docker_registry(home / "registry") as host:
        image = f"{host}/app:1"
        push(home / "layout", "one", image)
        agent.client.pull_image(image)
    agent.stop()
    agent.start()
    agent.write("web", pod(image))
    agent.wait_phase("web", "running")
    restart(agent, "web")
    assert events(agent, "pulling", "pulled", "pull-failed") == []


def test_never_asks_nobody_until_somebody_pulls(agent: Agent, home: Path) -> None:
    layout = home / "layout"
    build(layout, "one")
    with fake_registry(layout) as registry:
        image = f"{registry.address}/image:one"
        agent.write("web", pod(image, pull="never"))
        status = agent.wait_phase("web", "backing-off")
        assert "may not be fetched" in status["error"]
        assert "tank image pull" in status["error"]
        assert status["next_retry"] is not None
        assert registry.log == []
        done = agent.tank("image", "pull", image)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{image}@sha256:")
        assert done.stderr.count(" done ") == 2
        agent.wait_phase("web", "running")
    # The same failure again and again is told once, and nothing was pulled for the pod.
    assert [kind for kind, _ in events(agent, "pulling", "pulled", "pull-failed")] == ["pull-failed"]


def test_two_pods_pull_an_image_once(agent: Agent, home: Path) -> None:
    build(home / "layout", "one")
    with fake_registry(home / "layout") as registry:
        for name in ("a", "b", "c"):
            agent.write(name, pod(f"{registry.address}/image:one"))
        for name in ("a", "b", "c"):
            agent.wait_phase(name, "running")
        assert registry.count("/blobs/") == 3


def write_held_back(layout: Path) -> tuple[str, int]:
    """Write an image with a layer of 3 MB; return that one's digest, and the size of all."""
    content = layer([member("big", os.urandom(3_000_000)), member("version", "one\n")])
    write_image(layout, [BUSYBOX, content], tag="one")
    manifest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    document = json.loads((layout / "blobs/sha256" / manifest.removeprefix("sha256:")).read_text())
    return document["layers"][1]["digest"], sum(found["size"] for found in document["layers"])


def hold_back(registry: FakeRegistry, digest: str, go_on: threading.Event) -> None:
    """Let a registry send 2 MB of a layer, and the rest when it is told to."""

    def half(request: Request) -> None:
        data = (registry.layout / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()
        request.answer(body=data[:2_000_000], length=len(data))
        assert go_on.wait(60)
        request.write(data[2_000_000:])

    registry.rule(digest, half, times=1)


def test_a_pod_shows_how_many_bytes_are_there(agent: Agent, home: Path) -> None:
    layout = home / "layout"
    held, total = write_held_back(layout)
    go_on = threading.Event()
    with fake_registry(layout) as registry:
        hold_back(registry, held, go_on)
        agent.write("web", pod(f"{registry.address}/image:one"))

        def progress() -> dict[str, Any] | None:
            status = agent.status("web")
            if status is None or status["phase"] != "pulling":
                return None
            found: dict[str, Any] | None = status["containers"][0]["progress"]
            return found if found and found["done"] >= 1_000_000 else None

        try:
            seen = wait_for(progress, "most bytes are there")
            assert seen["total"] == total
            assert seen["done"] < total
            shown = agent.tank("status").stdout
            assert f" of {total / 1e6:.1f} MB (" in shown, shown
        finally:
            go_on.set()
        status = agent.wait_phase("web", "running")
        assert status["containers"][0]["progress"] is None
    assert [kind for kind, _ in events(agent, "pulling", "pulled", "pull-failed")] == ["pulling", "pulled"]


def test_a_pull_is_given_up_with_its_pod(agent: Agent, home: Path) -> None:
    build(home / "layout", "one")
    asked, go_on = threading.Event(), threading.Event()

    def stall(request: Request) -> None:
        asked.set()
        go_on.wait(60)
        request.hang_up()

    with fake_registry(home / "layout") as registry:
        registry.rule("/blobs/", stall)
        file = agent.write("web", pod(f"{registry.address}/image:one"))
        assert asked.wait(60)
        agent.wait_phase("web", "pulling")
        file.unlink()
        agent.wait_gone("web")
        # An agent that waits for a stalled registry ends at once, too.
        agent.write("web", pod(f"{registry.address}/image:one"))
        agent.wait_phase("web", "pulling")
        assert agent.stop() == 0
        go_on.set()
        registry.rules.clear()
        agent.start()
        agent.wait_phase("web", "running")


@pytest.mark.parametrize("where", ["auth.json", "config.json"])
def test_a_private_registry_with_its_own_authority(home: Path, where: str) -> None:
    certificate = make_certificate(home)
    build(home / "layout", "one")
    auth = home / where
    with docker_registry(home / "registry", password=True, tls=certificate) as host:
        login = ["skopeo", "login", "--tls-verify=false", "--authfile", str(home / "push.json")]
        subprocess.run(
            [*login, "--username", USER, "--password", "correct horse", host], check=True, capture_output=True
        )
        push(home / "layout", "one", f"{host}/app:1", "--authfile", str(home / "push.json"))
        text = (
            f'[image]\nauth_files = ["{home}/none.json", "{auth}"]\n'
            f'[registry."{host}"]\nca = "{certificate[0]}"\n'
        )
        with agent_with(home, text) as agent:
            agent.write("web", pod(f"{host}/app:1"))
            status = agent.wait_phase("web", "backing-off")
            assert "wants a login" in status["error"]
            assert status["next_retry"] is not None
            write_auth(auth, host, password="wrong")

            def refused() -> str | None:
                error = (agent.status("web") or {}).get("error")
                return error if error and "refuses our credentials" in error else None

            error = wait_for(refused, "the wrong password is told")
            assert host in error
            assert "wrong" not in error
            told = [message for _, message in events(agent, "pull-failed")]
            assert len(told) == len(set(told)) == 2
            assert "\n" not in "".join(told)
            write_auth(auth, host)
            agent.wait_phase("web", "running", 60)
            assert "correct horse" not in agent.log.read_text()


def test_an_authority_that_nobody_named_is_refused(agent: Agent, home: Path) -> None:
    certificate = make_certificate(home)
    build(home / "layout", "one")
    with fake_registry(home / "layout", tls=certificate) as registry:
        agent.write("web", pod(f"{registry.address}/image:one"))
        status = agent.wait_phase("web", "backing-off")
        assert "can't be trusted" in status["error"]
        assert "ca =" in status["error"]


def test_mirrors_and_blocked_registries(home: Path) -> None:
    build(home / "layout", "one")
    with fake_registry(home / "layout") as registry:
        text = (
            f'[registry."registry.invalid"]\nmirrors = ["{registry.address}"]\n'
            f'[registry."{registry.address}"]\ninsecure = true\n'
            '[registry."evil.invalid"]\nblocked = true\n'
        )
        with agent_with(home, text) as agent:
            agent.write("web", pod("registry.invalid/image:one"))
            agent.write("evil", pod("evil.invalid/image:one"))
            agent.wait_phase("web", "running")
            assert "is blocked in agent.toml" in agent.wait_phase("evil", "backing-off")["error"]


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive", "oci"])
def test_an_image_on_disk_that_is_built_anew_is_taken_at_the_next_start(
    agent: Agent, home: Path, kind: str
) -> None:
    layout, place = home / "layout", home / "images"
    place.mkdir()
    build(layout, "one")
    build(layout, "two")
    image = f"{kind}:{place}/app"

    def make(version: str) -> None:
        target = f"{kind}:{home}/new" if kind != "docker-archive" else f"docker-archive:{home}/new:app:1"
        skopeo_copy(f"oci:{layout}:{version}", target)
        subprocess.run(["rm", "-rf", place / "app"], check=True)
        (home / "new").rename(place / "app")

    make("one")
    agent.write("web", pod(image, head=GOOD_LATER))
    agent.wait_phase("web", "running")
    agent.wait_output("web", "one")
    make("two")
    restart(agent, "web")
    wait_for(lambda: agent.output("web") == ["one", "two"], "the new one runs")
    # What was a step of the way is no failure of the container.
    assert events(agent, "start-failed") == []
    subprocess.run(["rm", "-rf", place / "app"], check=True)
    restart(agent, "web")
    wait_for(lambda: agent.output("web") == ["one", "two", "two"], "the copy runs")


@pytest.mark.parametrize("kind", ["registry", "oci"])
def test_what_was_good_starts_again_from_the_same_image_wherever_its_name_points(
    agent: Agent, home: Path, kind: str
) -> None:
    layout = home / "layout"
    first, second = build(layout, "one"), build(layout, "two")
    with docker_registry(home / "registry") as host:
        image = f"{host}/app:1" if kind == "registry" else f"oci:{home}/app"

        def make(version: str) -> None:
            if kind == "registry":
                push(layout, version, image)
                agent.client.pull_image(image)
            else:
                subprocess.run(["rm", "-rf", home / "app"], check=True)
                skopeo_copy(f"oci:{layout}:{version}", f"oci:{home}/app")

        make("one")
        agent.write("web", pod(image, head=GOOD_SOON))
        wait_for(lambda: (agent.status("web") or {}).get("rollout", {}).get("outcome") == "good", "good")
        make("two")
        restart(agent, "web")
        wait_for(lambda: agent.output("web") == ["one", "one"], "the good one runs")
        found = agent.wait_phase("web", "running")["containers"][0]
        assert found["digest"] == first
        with pytest.raises(ImageInUse, match=r"pod web (is to run|runs) it"):
            agent.client.remove_image(first)
        # Nobody looks for newer images of this pod, but a person.
        assert agent.tank("image", "update", "web").returncode == 0
        wait_for(lambda: agent.output("web") == ["one", "one", "two"], "the newer one runs")
        wait_for(lambda: (agent.status("web") or {})["containers"][0]["digest"] == second, "the status")
        # The way back stays.
        assert first not in agent.client.prune_images().removed


def test_rm_and_prune_leave_what_pods_need(agent: Agent, home: Path) -> None:
    layout = home / "layout"
    digests = {version: build(layout, version) for version in ("one", "two", "three", "four", "five")}
    with docker_registry(home / "registry") as host:
        for version in digests:
            push(layout, version, f"{host}/app:{version}")
        moving = f"{host}/moving:1"
        push(layout, "one", moving)
        client = agent.client
        # One pod runs what its name no longer stands for, the other ran another image before its change.
        agent.write("web", pod(moving, head=GOOD_LATER))
        agent.wait_phase("web", "running")
        push(layout, "two", moving)
        assert client.pull_image(moving).digest == digests["two"]
        agent.write("db", pod(f"{host}/app:three"))
        agent.wait_phase("db", "running")
        agent.wait_output("db", "three")
        agent.write("db", pod(f"{host}/app:four"))
        wait_for(lambda: agent.output("db") == ["three", "four"], "the change runs")
        agent.wait_phase("db", "running")
        spare = client.pull_image(f"{host}/app:five")
        assert spare.pods == ()
        rows = {(image.reference, image.digest): image.pods for image in client.images()}
        assert rows == {
            (f"{host}/app:three", digests["three"]): ("db",),
            (f"{host}/app:four", digests["four"]): ("db",),
            (f"{host}/app:five", digests["five"]): (),
            (moving, digests["two"]): ("web",),
            ("", digests["one"]): ("web",),
        }
        for name, words in (
            (moving, "pod web is to run it"),
            (digests["one"], "pod web runs it"),
            (f"{host}/app:four", "pod db is to run it, pod db runs it"),
            (f"{host}/app:three", "pod db ran it before its last change"),
        ):
            with pytest.raises(ImageInUse, match=words):
                client.remove_image(name)
        with pytest.raises(Stalled, match="there is no image"):
            client.remove_image(f"{host}/app:none")
        done = agent.tank("image", "rm", f"{host}/app:four")
        assert done.returncode == 1
        assert "pod db is to run it" in done.stderr
        pruned = client.prune_images()
        assert pruned.removed == (f"{host}/app:five",)
        assert pruned.freed > 0
        assert {image.digest for image in client.images()} == set(digests.values()) - {digests["five"]}
        assert client.prune_images().removed == ()
    # The way back needs no network.
    agent.write("db", pod(f"{host}/app:three"))
    wait_for(lambda: agent.output("db") == ["three", "four", "three"], "the former image runs")
    restart(agent, "web")
    assert agent.wait_phase("web", "running")["containers"][0]["image"] == f"{moving}@{digests['two']}"
    wait_for(lambda: digests["one"] in client.prune_images().removed, "nobody runs it any more")
    for file in agent.pods.iterdir():
        file.unlink()
    for name in ("web", "db"):
        agent.wait_gone(name)
    assert len(client.prune_images().removed) == 3
    assert client.images() == []
    images = agent.data / "images"
    left = [path for name in ("layers", "staging", "trash", "blobs") for path in (images / name).iterdir()]
    assert left == []


def test_a_name_that_pods_do_not_use_may_go_though_they_use_the_image(agent: Agent, home: Path) -> None:
    build(home / "layout", "one")
    with docker_registry(home / "registry") as host:
        for name in ("a", "b"):
            push(home / "layout", "one", f"{host}/{name}:1")
            agent.client.pull_image(f"{host}/{name}:1")
    agent.write("web", pod(f"{host}/a:1"))
    agent.wait_phase("web", "running")
    agent.client.remove_image(f"{host}/b:1")
    assert image_names(agent) == {f"{host}/a:1"}
    restart(agent, "web")


def test_pull_from_the_command_line(agent: Agent, home: Path) -> None:
    build(home / "layout", "one")
    with fake_registry(home / "layout") as registry:
        image = f"{registry.address}/image:one"
        assert agent.tank("image", "pull", image).returncode == 0
        again = agent.tank("image", "pull", image)
        assert again.returncode == 0
        assert again.stderr.count("here already") == 2
        (found,) = json.loads(agent.tank("image", "pull", image, "-o", "json").stdout)
        assert found["reference"] == image
        assert found["layers"] == 2
        wrong = agent.tank("image", "pull", f"{registry.address}/image:none")
        assert wrong.returncode == 1
        assert "no image" in wrong.stderr
        assert agent.tank("image", "pull", "Nginx").returncode == 1
        (row,) = json.loads(agent.tank("image", "ls", "-o", "json").stdout)
        assert row["reference"] == image
    # That the copy is still here does not make a pull succeed that asked nobody.
    failed = agent.tank("image", "pull", image)
    assert failed.returncode == 1
    assert "did not answer" in failed.stderr
    assert image_names(agent) == {image}


def test_pull_on_a_terminal_shows_every_layer_live(agent: Agent, home: Path) -> None:
    held, _ = write_held_back(home / "layout")
    go_on = threading.Event()
    ours, theirs = os.openpty()
    with fake_registry(home / "layout") as registry, open(ours, "rb", buffering=0):
        hold_back(registry, held, go_on)
        image = f"{registry.address}/image:one"
        pulling = subprocess.Popen(
            [Path(sys.executable).with_name("tank"), "image", "pull", image],
            env={**os.environ, "TERM": "xterm", "TANK_SOCKET": str(agent.run / "tank.sock")},
            stdout=subprocess.PIPE,
            stderr=theirs,
        )
        os.close(theirs)
        seen = b""
        live = f"{held.removeprefix('sha256:')[:12]}  downloading".encode()
        while live not in seen:
            seen += os.read(ours, 4096)
        go_on.set()
        out, _ = pulling.communicate(timeout=60)
        assert (pulling.returncode, out.decode().startswith(f"{image}@sha256:")) == (0, True)
        done = f"{held.removeprefix('sha256:')[:12]}  done".encode()
        while done not in seen:
            seen += os.read(ours, 4096)
        # What was drawn is taken away again.
        assert seen.count(b"\x1b[J") >= 2


def test_a_pull_that_is_interrupted_goes_on_where_it_was(agent: Agent, home: Path) -> None:
    layout = home / "layout"
    write_image(layout, [BUSYBOX], tag="one")
    asked, go_on = threading.Event(), threading.Event()

    def stall(request: Request) -> None:
        asked.set()
        go_on.wait(60)
        request.hang_up()

    with fake_registry(layout) as registry:
        manifest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
        document = json.loads((layout / "blobs/sha256" / manifest.removeprefix("sha256:")).read_text())
        registry.rule(document["layers"][0]["digest"], stall)
        image = f"{registry.address}/image:one"
        pulling = subprocess.Popen(
            ["tank", "image", "pull", image],
            executable=str(Path(sys.executable).with_name("tank")),
            env={**os.environ, "TANK_SOCKET": str(agent.run / "tank.sock")},
            stderr=subprocess.PIPE,
        )
        assert asked.wait(60)
        pulling.send_signal(signal.SIGINT)
        _, said = pulling.communicate(timeout=60)
        assert pulling.returncode == 130, said
        assert b"Traceback" not in said
        go_on.set()
        registry.rules.clear()
        agent.client.pull_image(image)


@pytest.mark.parametrize("point", POINTS)
def test_an_agent_killed_in_a_pull_leaves_it_to_the_next(home: Path, point: str) -> None:
    layout = home / "layout"
    build(layout, "one")
    with fake_registry(layout) as registry, agent_with(home, start=False) as agent:
        agent.write("web", pod(f"{registry.address}/image:one"))
        agent.launch(fault=point)
        assert agent.died() == -signal.SIGKILL
        agent.start()
        status = agent.wait_phase("web", "running")
        wait_for(lambda: agent.output("web") == ["one"], "the image runs")
        assert status["containers"][0]["restarts"] == 0
        images = agent.data / "images"
        wait_for(
            lambda: not [p for name in ("staging", "trash", "partial") for p in (images / name).iterdir()],
            "nothing half done is left",
        )
        assert [path for path in images.rglob(".*") if "layers" not in path.parts] == []
        wait_for(no_helper_is_left, "no helper of the killed agent is left")


def test_every_fault_point_of_a_pull_is_tried() -> None:
    source = "".join(path.read_text() for path in (Path(tank_agent.__file__).parent / "image").rglob("*.py"))
    named = set(re.findall(r'point\("(image:[^"]*)"\)', source))
    # What only prune does is tried by test_image_crash.py, what only updates do by test_image_rollouts.py.
    others = {"image:layer-trashed", "image:named-anew"}
    assert {point.partition("@")[0] for point in POINTS} | others == named


def test_what_a_killed_agent_left_does_not_keep_the_next_from_being_ready(home: Path) -> None:
    with agent_with(home, start=False) as agent:
        agent.write("web", agent.pod_text())
        agent.start()
        agent.wait_phase("web", "running")
        pid = agent.pid("web")
        agent.kill()
        litter = agent.data / "images/staging/left/diff"
        for number in range(200):
            (litter / str(number)).mkdir(parents=True)
            for file in range(50):
                (litter / str(number) / str(file)).touch()
        agent.start()
        assert agent.pid("web") == pid
        wait_for(lambda: not list((agent.data / "images/staging").iterdir()), "the litter is gone")
