"""The end of the package: apt remove and apt purge leave nothing but the user's own data."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.installed import Installed

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


def test_a_backup_is_restored_after_everything_was_lost(installed: Installed, package: Path) -> None:
    machine = installed
    back_up, restore = re.findall(
        r"test_removal.py runs these lines -->\n```sh\n(.*?)```", OPERATIONS.read_text(), re.S
    )
    machine.pod(
        "web",
        head='[[volumes]]\nname = "data"\n',
        extra='[[containers.mounts]]\nvolume = "data"\npath = "/data"',
    )
    machine.pod("applied")
    machine.sh("mv /etc/tank/pods.d/applied.toml /root/")
    machine.wait("it is no file's", lambda: "applied" not in machine.statuses())
    machine.vm.tank("apply", "/root/applied.toml")
    for name in ("web", "applied"):
        machine.wait_phase(name)
    machine.vm.tank("exec", "-T", "web", "--", "/bin/sh", "-c", "echo precious > /data/file")
    machine.sh(back_up)

    machine.apt("purge", "tank-agent")
    machine.sh("rm -r /var/lib/tank /etc/tank")
    machine.install(package)
    machine.wait_for_agent()
    assert machine.statuses() == {}
    machine.sh(restore)
    machine.wait_for_agent()
    assert machine.wait_phase("applied")["owner"] == "api"
    machine.wait_phase("web")
    assert machine.vm.tank("exec", "-T", "web", "--", "cat", "/data/file").out == "precious\n"
    machine.vm.tank("delete", "applied")
    machine.clean()


def test_remove_stops_everything_and_purge_keeps_volumes(installed: Installed, package: Path) -> None:
    machine = installed
    machine.pod(
        "web",
        head='[network]\n[[network.nics]]\nname = "eth0"\nip = "10.77.0.51/24"\n[[volumes]]\nname = "data"\n',
        extra='[[containers.mounts]]\nvolume = "data"\npath = "/data"',
    )
    machine.pod("other")
    machine.wait_phase("web")
    machine.wait_phase("other")
    machine.vm.tank("exec", "-T", "web", "--", "/bin/sh", "-c", "echo precious > /data/file")

    machine.apt("remove", "tank-agent")
    assert_nothing_runs(machine)
    # Desired state and images wait for the package to come back.
    assert machine.sh("ls /var/lib/tank/journal") != ""
    machine.install(package)
    for name in ("web", "other"):
        machine.wait_phase(name)
    assert machine.vm.tank("exec", "-T", "web", "--", "cat", "/data/file").out == "precious\n"

    machine.apt("purge", "tank-agent")
    assert_nothing_runs(machine)
    assert machine.sh("cat /var/lib/tank/volumes/web/data/file") == "precious"
    assert machine.sh("ls -A /var/lib/tank") == "volumes"
    assert machine.sh("ls /etc/tank/pods.d") == "other.toml\nweb.toml"
    assert machine.sh("test -e /etc/tank/agent.toml || echo gone") == "gone"
    machine.sh("rm -r /var/lib/tank /etc/tank")


def assert_nothing_runs(machine: Installed) -> None:
    assert machine.leftovers() == ""
    assert machine.sh("test -e /run/tank || echo gone") == "gone"
    assert machine.sh("find /sys/fs/cgroup -path '*tank-*' | head -1") == ""
    assert machine.sh("ip netns list; grep -c /run/tank /proc/mounts || true") == "0"
    assert machine.sh("systemctl list-units --all --no-legend --state=active 'tank-*'") == ""
