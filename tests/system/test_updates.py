"""Updates over reboots and power cuts: the wait begins anew, and what takes the machine down is bad."""

from __future__ import annotations

import json
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from tests.support.images import busybox_layout
from tests.support.installed import Installed

# Its image is below /srv/images, which a test may remove; its data is copied before each update.
POD = """
[update]
min_healthy = "{min_healthy}"
deadline = "{deadline}"

[[volumes]]
name = "data"
snapshot = true

[[containers]]
name = "app"
image = "oci:/srv/images:latest"
command = ["/bin/sh", "-c", '''
trap 'exit 0' TERM
cat /data/word; echo {word} > /data/word; echo {word}
while :; do sleep 0.2; done
''']
stop_grace = "2s"
[containers.health]
exec = ["/bin/sh", "-c", "{health}"]
interval = "2s"
start_interval = "500ms"
timeout = "20s"
[[containers.mounts]]
volume = "data"
path = "/data"
"""
WELL, SICK = "true", "echo it has a cold; exit 1"


@pytest.fixture
def images(machine: Installed, tmp_path: Path) -> str:
    """Put an image into the machine and return where it is."""
    archive = BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.add(busybox_layout(tmp_path / "layout"), "images")
    machine.vm.write("/root/images.tar.gz", archive.getvalue())
    machine.sh("tar -C /srv -xzf /root/images.tar.gz")
    return "/srv/images"


def write(
    machine: Installed, word: str, *, min_healthy: str = "1s", deadline: str = "2h", health: str = WELL
) -> None:
    text = POD.format(word=word, min_healthy=min_healthy, deadline=deadline, health=health)
    machine.vm.write("/etc/tank/pods.d/cuts.toml", text)


def wait_state(machine: Installed, state: str, generation: int) -> dict[str, Any]:
    """Wait until a generation of the pod has a rollout in a state, and return its status."""

    def reached() -> dict[str, Any] | None:
        found = machine.statuses().get("cuts")
        there = (
            found is not None
            and found["generation"] == generation
            and found["rollout"]["state"] == state
            and found["containers"][0]["pid"]
        )
        return found if there else None

    return machine.wait(f"generation {generation} is {state}", reached)


def word(machine: Installed) -> str:
    return machine.sh("cat /var/lib/tank/volumes/cuts/data/word")


def test_the_wait_begins_anew_after_a_reboot_and_ends_with_the_third_power_cut(
    machine: Installed, images: str
) -> None:
    write(machine, "first")
    wait_state(machine, "good", 1)
    write(machine, "second", min_healthy="1h")
    wait_state(machine, "updating", 2)
    machine.vm.reboot()
    machine.wait_for_agent()
    wait_state(machine, "updating", 2)
    # The keys of the update count at once, so nobody has to wait for an hour.
    write(machine, "second")
    good = wait_state(machine, "good", 3)
    assert word(machine) == "second"

    # Each boot of this one ends with the power; it never gets the time to fail by itself.
    write(machine, "third", health=SICK)
    wait_state(machine, "updating", 4)
    machine.wait("it has written", lambda: word(machine) == "third")
    for cut in range(1, 4):
        machine.sh("sync")
        machine.vm.cut_power()
        machine.vm.start()
        machine.wait_for_agent()
        if cut < 3:
            wait_state(machine, "updating", 4)
    back = wait_state(machine, "rolled-back", 5)
    assert "3 times" in back["rollout"]["reason"]
    assert back["containers"][0]["image"] == good["containers"][0]["image"]
    assert machine.lines("cuts")[-2:] == ["second", "second"], "its data came back with it"

    # Quarantined, with nobody who could give the image.
    machine.sh(f"rm -r {images}")
    machine.vm.reboot()
    machine.wait_for_agent()
    again = wait_state(machine, "rolled-back", 5)
    assert "generation 4 failed" in again["error"]
    assert (machine.lines("cuts")[-1], word(machine)) == ("second", "second")
    history = json.loads(machine.vm.tank("history", "cuts", "-o", "json").out)
    found = {entry["generation"]: entry["outcome"] for entry in history}
    assert (found[1], found[4]) == ("good", "failed")
    # What is pushed next goes through.
    machine.sh("tar -C /srv -xzf /root/images.tar.gz")
    write(machine, "fourth")
    wait_state(machine, "good", 6)
