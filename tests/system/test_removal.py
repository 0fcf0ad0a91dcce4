"""The end of the package: apt remove and apt purge leave nothing but the user's own data."""

from __future__ import annotations

from pathlib import Path

from tests.support.installed import Installed


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
