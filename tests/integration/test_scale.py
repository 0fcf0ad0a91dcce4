"""Many pods of many images: what works for ten works for hundreds, on a machine where others run as many."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.agent import Agent, running_agent, wait_for
from tests.support.images import busybox_members, layer, member, write_image
from tests.support.registry import docker_registry, skopeo_copy

pytestmark = pytest.mark.alone

PODS, IMAGES = 300, 20
COMMAND = "trap 'exit 0' TERM; cat /which; while :; do sleep 1000 & wait $!; done"


def push_images(directory: Path, registry: str) -> None:
    """Push images that share their base, and each of which has a layer of its own."""
    layout = directory / "layout"
    base = layer(busybox_members())
    for number in range(IMAGES):
        write_image(layout, [base, layer([member("which", f"image {number}\n")])], tag=f"v{number}")
        skopeo_copy(f"oci:{layout}:v{number}", f"docker://{registry}/app:v{number}")


def phases(agent: Agent) -> dict[str, int]:
    """Count the pods by phase."""
    found: dict[str, int] = {}
    for pod in agent.statuses():
        found[pod["phase"]] = found.get(pod["phase"], 0) + 1
    return found


def wait_phases(agent: Agent, wanted: dict[str, int]) -> None:
    """Wait as long as anything goes on."""
    while (seen := phases(agent)) != wanted:
        wait_for(lambda seen=seen: phases(agent) != seen, f"{wanted} follows {seen}")


def test_three_hundred_pods_run_while_twenty_images_are_pulled(tmp_path: Path) -> None:
    """The pipes of so many monitors use up what the kernel grants a user, and pulls go on all the same."""
    with docker_registry(tmp_path / "registry") as registry, running_agent(tmp_path, resync="10s") as agent:
        push_images(tmp_path, registry)
        for begin, end in ((0, PODS * 2 // 3), (PODS * 2 // 3, PODS)):
            # The later images are pulled when the monitors of the earlier pods hold most pipes.
            for number in range(begin, end):
                image = f'image = "{registry}/app:v{number * IMAGES // PODS}"'
                text = agent.pod_text(command=["/bin/sh", "-c", COMMAND])
                agent.write(f"pod-{number}", text.replace(f'rootfs = "{agent.rootfs}"', image))
            wait_phases(agent, {"running": end})
        wait_for(lambda: all(agent.output(f"pod-{number}") for number in range(PODS)), "all have begun")
        assert {agent.output(f"pod-{number}")[0] for number in range(PODS)} == {
            f"image {number}" for number in range(IMAGES)
        }
        before = {pod["name"]: pod["containers"][0]["pid"] for pod in agent.statuses()}
        agent.kill()
        agent.start()
        after = {pod["name"]: pod["containers"][0]["pid"] for pod in agent.statuses()}
        assert after == before
        for file in agent.pods.iterdir():
            file.unlink()
        wait_phases(agent, {})
