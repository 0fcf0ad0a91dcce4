"""A newer image behind a tag becomes an update, which undoes itself without a registry, and is remembered."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.integration.test_image_updates import push_index
from tests.support.agent import Agent, ended, wait_for
from tests.support.images import busybox_layout, busybox_members, layer, member, write_image
from tests.support.registry import Request, docker_registry, fake_registry, free_port, skopeo_copy
from tests.support.trees import big_directory
from tests.support.updates import events_of, generation, outcomes, program, rollout, untouched, wait_state

BUSYBOX = layer(busybox_members())
UPDATE = '[update]\nmin_healthy = "1s"\ndeadline = "60s"\nmax_restarts = 1\nimage = "{image}"\n'


class World:
    """A registry that comes and goes at one address, and an agent that looks at it often."""

    def __init__(self, home: Path, agent: Agent) -> None:
        self.home, self.agent, self.port = home, agent, free_port()
        self.layout = home / "layout"
        self._registry = ExitStack()

    @property
    def image(self) -> str:
        return f"127.0.0.1:{self.port}/app:1"

    def registry(self) -> None:
        self._registry.enter_context(docker_registry(self.home / "registry", port=self.port))

    def registry_gone(self) -> None:
        self._registry.close()

    def push(self, word: str, tag: str = "1", *, well: bool = True) -> str:
        """Push an image that says a word and runs, or else ends, and return its digest."""
        command = program(word) if well else ["/bin/sh", "-c", f"echo {word}; exit 3"]
        layers = [BUSYBOX, layer([member("word", word)])]
        config = {"Cmd": command, "Env": ["PATH=/bin"]}
        digest: str = write_image(self.layout, layers, tag=word, config=config)["digest"]
        skopeo_copy(f"oci:{self.layout}:{word}", f"docker://127.0.0.1:{self.port}/app:{tag}")
        return digest

    def pod(self, *names: str, follows: str = "digest") -> str:
        containers = (
            f'[[containers]]\nname = "{name}"\nimage = "{self.image}"\nstop_grace = "2s"\n'
            for name in names or ("app",)
        )
        return UPDATE.format(image=follows) + "".join(containers)

    def named(self) -> str:
        """Return the digest that the reference stands for on this machine."""
        rows = self.agent.client.images()
        return next(row.digest for row in rows if row.reference == self.image)

    def looks(self) -> int:
        """Return how often the registry was asked by HEAD since it is there."""
        return self.log().count('"HEAD /v2/app/manifests/1 ')

    def log(self) -> str:
        return (self.home / "registry/log").read_text(errors="replace")

    def digests(self, name: str = "web") -> list[str]:
        status = self.agent.status(name)
        assert status is not None
        return [found["digest"] for found in status["containers"]]


@contextmanager
def world_of(home: Path, check: str) -> Iterator[World]:
    agent = Agent(home)
    lines = f'\n[image]\nauth_files = ["{home}/auth.json"]\nattempts = 1\ncheck = "{check}"\n'
    agent.config.write_text(agent.config.read_text() + lines)
    agent.start()
    world = World(home, agent)
    world.registry()
    with ended(agent):
        try:
            yield world
        finally:
            world.registry_gone()


@pytest.fixture
def world() -> Iterator[World]:
    with big_directory() as home, world_of(home, "1s") as made:
        yield made


@pytest.fixture
def still() -> Iterator[World]:
    """As `world`, but nobody looks by himself."""
    with big_directory() as home, world_of(home, "off") as made:
        yield made


def test_a_newer_image_is_rolled_out_and_a_bad_one_undone_without_the_registry_and_never_tried_again(
    world: World,
) -> None:
    agent, first = world.agent, world.push("one")
    agent.write("other", agent.pod_text())
    agent.wait_phase("other", "running")
    agent.write("web", world.pod())
    wait_state(agent, "web", "first", "good")
    wait_for(lambda: rollout(agent, "web")["outcome"] == "good", "the first verdict")
    assert world.digests() == [first]
    with untouched(agent, "other"):
        second = world.push("two")
        wait_state(agent, "web", "good", after=1)
        assert world.digests() == [second]
        agent.wait_output("web", "one", "two")

        world.push("three", well=False)
        wait_for(lambda: generation(agent, "web") == 3, "the move to the bad image")
        world.registry_gone()
        wait_for(lambda: generation(agent, "web") == 4 and world.digests() == [second], "the way back", 60)
        wait_for(lambda: outcomes(agent, "web")[-1] == "good", "the verdict of the way back")
    assert outcomes(agent, "web") == ["good", "good", "failed", "good"]
    assert events_of(agent, "web").count("image-moved") == 2

    # The bad one is behind the tag still, also for another agent.
    agent.kill()
    world.registry()
    agent.start()
    wait_for(lambda: agent.status("web") is not None, "the pod")
    done = agent.tank("image", "update", "web")
    assert done.returncode == 1
    assert "tank image update web --force" in done.stderr
    before = world.looks()
    wait_for(lambda: world.looks() >= before + 2, "two more looks")
    assert (generation(agent, "web"), world.digests()) == (4, [second])

    # A tag that is gone is no news, but is told.
    blobs = world.home / "registry/data/docker/registry/v2/repositories/app/_manifests/tags"
    blobs.rename(world.home / "tags")

    def error() -> str:
        return str((agent.status("web") or {})["containers"][0]["newer_error"])

    wait_for(lambda: f"no image {world.image}" in error(), "the trouble is told")
    assert "no newer image could be looked for" in agent.tank("status", "web").stdout
    assert (generation(agent, "web"), world.digests()) == (4, [second])
    (world.home / "tags").rename(blobs)
    fifth = world.push("five")
    wait_state(agent, "web", "good", after=4)
    assert world.digests() == [fifth]
    assert outcomes(agent, "web")[-1] == "good"
    assert agent.tank("image", "update", "web").stdout == "web: already the newest\n"


def test_containers_with_one_tag_move_in_one_update(world: World) -> None:
    agent = world.agent
    world.push("one")
    agent.write("web", world.pod("app", "side"))
    wait_for(lambda: rollout_is_good(agent), "the first verdict")
    second = world.push("two")
    wait_state(agent, "web", "good", after=1)
    assert (generation(agent, "web"), world.digests()) == (2, [second, second])


def rollout_is_good(agent: Agent) -> bool:
    return agent.status("web") is not None and rollout(agent, "web")["outcome"] == "good"


def test_a_person_updates_a_pod_that_follows_no_tag_and_forces_a_bad_image(still: World) -> None:
    agent, first = still.agent, still.push("one")
    agent.write("web", still.pod(follows="pinned"))
    wait_for(lambda: rollout_is_good(agent), "the first verdict")
    second = still.push("two")
    done = agent.tank("image", "update", "web", "-o", "json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert (found["generation"], found["moved"][0]["before"], found["moved"][0]["after"]) == (
        2,
        first,
        second,
    )
    wait_state(agent, "web", "good", after=1)
    assert still.digests() == [second]
    bad = still.push("three", well=False)
    done = agent.tank("image", "update", "web")
    assert done.stdout == f"web/app: {still.image} {second[7:19]} → {bad[7:19]}\n"
    wait_for(lambda: generation(agent, "web") == 4 and still.digests() == [second], "the way back", 60)
    wait_for(lambda: outcomes(agent, "web")[-1] == "good", "the verdict of the way back")
    done = agent.tank("image", "update", "web")
    assert (done.returncode, done.stdout) == (1, "")
    assert "failed in pod web before" in done.stderr
    assert "tank image update web --force" in done.stderr
    assert agent.tank("image", "update", "web", "--force").returncode == 0
    wait_for(lambda: generation(agent, "web") == 6 and still.digests() == [second], "the way back", 60)
    # What failed is nobody's: a change of the pod goes on with what was good.
    assert still.named() == second
    agent.write("web", still.pod(follows="pinned") + 'env = { A = "1" }\n')
    wait_state(agent, "web", "good", after=6)
    assert (generation(agent, "web"), still.digests()) == (7, [second])
    # What it went back to stays, with nothing but the journal that names it.
    agent.tank("image", "prune")
    assert second in {image.digest for image in agent.client.images()}
    still.registry_gone()
    done = agent.tank("image", "update", "web")
    assert done.returncode == 1
    assert "refused" in done.stderr
    assert still.digests() == [second]
    assert agent.tank("image", "update", "nobody").returncode == 1


def test_a_layout_on_disk_that_is_built_anew_is_an_update_too(world: World) -> None:
    agent, place = world.agent, world.home / "local"
    for word in ("one", "two"):
        layers, config = [BUSYBOX, layer([member("word", word)])], {"Cmd": program(word)}
        digest = write_image(place, layers, config=config)["digest"]
        if word == "one":
            text = world.pod().replace(world.image, f"oci:{place}")
            agent.write("web", text)
            wait_for(lambda: rollout_is_good(agent), "the first verdict")
        else:
            wait_state(agent, "web", "good", after=1)
        assert world.digests() == [digest]


POINTS = ("looks-recorded", "layer-fetched", "recorded", "moved", "named-anew")


@pytest.mark.parametrize(
    "point", [*(f"image:{name}" for name in POINTS), "update:followed", "update:decided"]
)
def test_an_agent_killed_on_the_way_to_a_newer_image_leaves_it_to_the_next(world: World, point: str) -> None:
    agent = world.agent
    first = world.push("one")
    agent.write("web", world.pod())
    wait_for(lambda: rollout_is_good(agent), "the first verdict")
    agent.stop()
    second = world.push("two")
    agent.launch(fault=point)
    assert agent.died() == -signal.SIGKILL
    agent.start()
    wait_for(lambda: world.digests() == [second] and rollout_is_good(agent), "the newer image is good", 60)
    assert (generation(agent, "web"), outcomes(agent, "web")) == (2, ["good", "good"])
    assert events_of(agent, "web").count("image-moved") == 1
    assert world.named() == second
    kept = agent.client.history("web")[0]
    assert kept.verdict is not None and kept.verdict.images == {"app": first}


def test_an_index_that_lists_our_image_still_is_no_update_and_costs_one_look(world: World) -> None:
    agent, config = world.agent, {"Cmd": program("one"), "Env": ["PATH=/bin"]}
    host = world.image.partition("/")[0]
    push_index(world.home, host, "one", others="1", below=[BUSYBOX], config=config)
    agent.write("web", world.pod())
    wait_for(lambda: rollout_is_good(agent), "the first verdict")
    agent.stop()
    push_index(world.home, host, "one", others="2", below=[BUSYBOX], config=config)
    agent.launch(fault="image:index-noted")
    assert agent.died() == -signal.SIGKILL
    agent.start()
    before = world.looks()
    wait_for(lambda: world.looks() >= before + 2, "two looks")
    gets = '"GET /v2/app/manifests/1 '
    asked = world.log().count(gets)
    before = world.looks()
    wait_for(lambda: world.looks() >= before + 2, "two more looks")
    assert world.log().count(gets) == asked
    assert generation(agent, "web") == 1


def test_looks_begin_and_end_with_a_reload_of_the_agent(still: World) -> None:
    agent = still.agent
    still.push("one")
    agent.write("web", still.pod())
    wait_for(lambda: rollout_is_good(agent), "the first verdict")
    second = still.push("two")
    assert still.looks() == 0
    text = agent.config.read_text()
    agent.config.write_text(text.replace('check = "off"', 'check = "1s"'))
    assert agent.process is not None
    agent.process.send_signal(signal.SIGHUP)
    wait_for(lambda: still.digests() == [second] and rollout_is_good(agent), "the newer image is good")
    agent.config.write_text(text)
    agent.process.send_signal(signal.SIGHUP)
    wait_for(lambda: agent.log.read_text().count('"needs_restart": []') == 2, "two reloads without a restart")
    agent.client.sync(wait=10)
    before = still.looks()
    still.push("three")
    for _ in range(2):
        agent.client.sync(wait=10)
    assert (still.looks(), generation(agent, "web")) == (before, 2)
    # It is shown all the same, once somebody has looked.
    done = agent.tank("image", "update", "web")
    assert done.returncode == 0, done.stderr


def test_an_image_that_is_lost_here_and_there_is_named_and_a_person_has_a_way_on(still: World) -> None:
    agent, first = still.agent, still.push("one")
    agent.write("web", still.pod(follows="pinned"))
    wait_for(lambda: rollout_is_good(agent), "the first verdict")
    # Somebody's hand, and a registry that was cleaned.
    still.registry_gone()
    shutil.rmtree(still.home / "registry")
    (agent.data / f"images/images/{first.removeprefix('sha256:')}.json").unlink()
    still.registry()
    second = still.push("two")
    os.kill(agent.pid("web"), signal.SIGKILL)

    def error() -> str:
        return str((agent.status("web") or {}).get("error") or "")

    wait_for(lambda: "`tank image update POD`" in error(), "the way on is named")
    assert f"no longer has the image {first}" in error()
    assert agent.tank("image", "update", "web").returncode == 0
    wait_for(lambda: still.digests() == [second] and rollout_is_good(agent), "the newer image is good")


def test_an_init_container_runs_again_from_the_newer_image_before_the_others_do(world: World) -> None:
    agent = world.agent
    world.push("one")
    prepare = ["/bin/sh", "-c", "echo $(cat /word)"]
    init = f'\n[[containers]]\nname = "prepare"\nimage = "{world.image}"\ninit = true\n'
    agent.write("web", world.pod() + init + f"command = {json.dumps(prepare)}\n")
    wait_for(lambda: rollout_is_good(agent), "the first verdict")
    second = world.push("two")
    wait_state(agent, "web", "good", after=1)
    assert (generation(agent, "web"), world.digests()) == (2, [second, second])
    agent.wait_output("web", "one", "two", container="prepare")
    agent.wait_output("web", "one", "two")


# --- while images are pulled, what ran before runs --------------------------------------------------------


def reboot(agent: Agent) -> None:
    """Let the machine go down in order, and come up with nothing of it running."""
    if agent.process is not None:
        assert agent.stop() == 0
    agent.start("--stop-pods")
    assert agent.stop() == 0
    shutil.rmtree(agent.run)
    agent.through = [sys.executable, str(Path(__file__).parents[1] / "support/other_boot.py"), "another"]
    agent.start()


def runs_as(world: World, digest: str) -> bool:
    status = world.agent.status("web")
    return status is not None and status["containers"][0]["pid"] is not None and world.digests() == [digest]


def crash(agent: Agent) -> None:
    """Kill the container, and wait for its next run."""
    pid = agent.pid("web")
    os.kill(pid, signal.SIGKILL)
    another = (None, pid)
    wait_for(lambda: (agent.status("web") or {})["containers"][0]["pid"] not in another, "it runs again")


def good_one(world: World) -> str:
    """Let the pod be good with its first image, and return the digest of that."""
    first = world.push("one")
    world.agent.write("web", world.pod(follows="pinned"))
    wait_for(lambda: rollout_is_good(world.agent), "the first verdict")
    return first


def want_tag_2(world: World) -> None:
    """Declare an image that is not to be had, and wait until that is known."""
    agent, before = world.agent, generation(world.agent, "web")
    agent.write("web", world.pod(follows="pinned").replace("app:1", "app:2"))
    wait_for(lambda: generation(agent, "web") == before + 1, "the update")
    wait_for(lambda: (agent.status("web") or {})["error"], "its error is shown")


def check_told(agent: Agent, image: str) -> None:
    """Check that the update is shown, and what it waits for, though something else runs."""
    status = agent.status("web")
    assert status is not None
    assert status["rollout"]["state"] == "updating"
    assert any(f"waits for image {image}" in text for text in status["waits"]), status
    assert image in agent.tank("status", "web").stdout
    assert f"waits for image {image}" in agent.tank("why", "web").stdout
    planned = agent.tank("plan").stdout
    assert f"pull image {image}" in planned, planned
    assert "start container app" in planned


def test_after_a_reboot_the_good_revision_runs_until_the_update_has_its_image(still: World) -> None:
    agent, first = still.agent, good_one(still)
    still.registry_gone()
    want_tag_2(still)
    image = still.image.replace("app:1", "app:2")
    reboot(agent)
    wait_for(lambda: runs_as(still, first), "the good one runs after the reboot")
    check_told(agent, image)
    crash(agent)
    assert runs_as(still, first)
    assert rollout(agent, "web")["state"] == "updating"
    still.registry()
    second = still.push("two", tag="2")
    wait_for(lambda: runs_as(still, second) and rollout_is_good(agent), "the update", 60)
    assert outcomes(agent, "web") == ["good", "good"]
    # Nobody counted a pull, or the ends of the old one, against the update.
    assert "update-failed" not in events_of(agent, "web")


def test_a_crash_of_the_old_container_is_mended_while_a_registry_stalls(still: World) -> None:
    agent, first = still.agent, good_one(still)
    with fake_registry(busybox_layout(still.home / "stalling")) as stalling:

        def hold(request: Request) -> None:
            stalling.stop.wait(60)
            request.answer(503)

        stalling.rule("/blobs/", hold)
        image = f"{stalling.address}/image:latest"
        new = still.pod(follows="pinned").replace(still.image, image)
        agent.write("web", new + f"command = {json.dumps(program('new'))}\n")
        wait_for(lambda: stalling.count("/blobs/"), "it is pulled")
        crash(agent)
        assert runs_as(still, first)
        check_told(agent, image)
        # Also if the agent is killed, and the container ends without it.
        pid = agent.pid("web")
        agent.kill()
        os.kill(pid, signal.SIGKILL)
        agent.start()
        wait_for(lambda: runs_as(still, first) and agent.pid("web") != pid, "the old one runs again")
        reboot(agent)
        wait_for(lambda: runs_as(still, first), "the old one runs after a reboot")
        check_told(agent, image)
        stalling.rules.clear()
        stalling.stop.set()
        wait_for(lambda: rollout_is_good(agent) and generation(agent, "web") == 2, "the update", 60)
    assert agent.output("web")[-1] == "new"


def test_an_image_that_is_lost_meanwhile_is_fetched_for_what_ran_before(still: World) -> None:
    agent, first = still.agent, good_one(still)
    want_tag_2(still)
    (agent.data / f"images/images/{first.removeprefix('sha256:')}.json").unlink()
    # Another image behind the tag is not what was good.
    still.push("other")
    crash(agent)
    assert runs_as(still, first)


def test_a_revision_that_failed_goes_on_until_the_good_one_has_its_image(still: World) -> None:
    agent, first = still.agent, good_one(still)
    bad = still.push("bad", tag="2", well=False)
    # Fetched before, so that the way back is all that waits.
    assert agent.tank("image", "pull", still.image.replace("app:1", "app:2")).returncode == 0
    still.registry_gone()
    (agent.data / f"images/images/{first.removeprefix('sha256:')}.json").unlink()
    agent.write("web", still.pod(follows="pinned").replace("app:1", "app:2"))
    wait_for(lambda: generation(agent, "web") == 3, "the way back", 60)
    before = agent.output("web").count("bad")
    wait_for(lambda: agent.output("web").count("bad") > before, "something runs meanwhile")
    assert still.digests() == [bad]
    still.registry()
    wait_state(agent, "web", "rolled-back", deadline=60)
    assert runs_as(still, first)
    assert outcomes(agent, "web") == ["good", "failed", "good"]
