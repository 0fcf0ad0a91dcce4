"""The disk of the test machine: Debian 13 with its cloud kernel, systemd, and what tank-agent depends on.

Built once a week and kept in .dev/cache/debian; machines write to an overlay of their own. tank-agent itself
is not in it: a test installs the package.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.support.debian import ROOT, locked, root_archive, run_in, unpacked

GUEST = Path(__file__).parent / "guest"
_CONTROL = ROOT / "packaging" / "debian" / "control"
_PYPROJECT = ROOT / "pyproject.toml"
# With what our package recommends, which apt installs on an ordinary machine.
_MACHINE = (
    "age",
    "apparmor",
    "systemd-sysv",
    "udev",
    "dbus",
    "linux-image-cloud-amd64",
    "iproute2",
    "kmod",
    "procps",
    "python3",
    "python3-yaml",
)
# The oracle of what is exported for Kubernetes, with what `podman kube play` needs of its recommendations.
_PODMAN = ("podman", "aardvark-dns", "catatonit", "netavark", "nftables")
_SIZE = "3G"
# The machine's address, and the one of the other side of its network.
ADDRESS = "10.77.0.2/24"
OUTSIDE = "10.77.0.1"


class Image(NamedTuple):
    """A disk, and the kernel that boots from it."""

    disk: Path
    kernel: Path


def packages() -> list[str]:
    """Return what the machine is made of: what an ordinary one has, and what our package depends on."""
    control = _CONTROL.read_text()
    field = re.search(r"^Depends:(.*?)^\S", control, re.MULTILINE | re.DOTALL)
    assert field is not None
    named = re.findall(r"^\s+([a-z][a-z0-9.+-]*)|Depends: *([a-z][a-z0-9.+-]*)", field.group(0), re.MULTILINE)
    depends = [first or second for first, second in named]
    # dh_python3 makes the rest of Depends from these.
    listed = re.search(r"^dependencies = \[(.*?)^\]", _PYPROJECT.read_text(), re.MULTILINE | re.DOTALL)
    assert listed is not None
    depends += [f"python3-{name}" for name in re.findall(r'"([a-z0-9-]+)>=', listed.group(1))]
    return sorted({*_MACHINE, *_PODMAN, *depends, "python3-isal", "busybox-static"})


def image() -> Image:
    """Return the image, made where it is missing."""
    archive = root_archive("machine", packages())
    guest = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(GUEST.iterdir()) if file.is_file()))
    code = hashlib.sha256(Path(__file__).read_bytes() + guest.digest()).hexdigest()[:12]
    disk = archive.with_name(f"{archive.stem}-{code}.ext4")
    kernel = disk.with_suffix(".vmlinuz")
    with locked(archive.with_name("image.lock")):
        if not (disk.exists() and kernel.exists()):
            for old in archive.parent.glob("machine-*.ext4"):
                old.unlink()
                old.with_suffix(".vmlinuz").unlink(missing_ok=True)
            _make(archive, disk, kernel)
    return Image(disk, kernel)


def _make(archive: Path, disk: Path, kernel: Path) -> None:
    with unpacked(archive) as root:
        shutil.copy2(next((root / "boot").glob("vmlinuz-*")), kernel)
        _settle(root)
        _foresee(root)
        partial = disk.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        make = ["mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", str(root), str(partial), _SIZE]
        subprocess.run(make, check=True, capture_output=True, timeout=600)
        partial.replace(disk)


def _foresee(root: Path) -> None:
    """Do what the machine would do once, at its first boot and with its first package, many times slower."""
    done = run_in(root, ["apt-cache", "gencaches"])
    if done.returncode != 0:
        raise RuntimeError(f"apt-cache failed:\n{done.stderr}")
    # Else systemd looks after ldconfig's cache and its own, as after an upgrade of Debian.
    for stamp in ("etc/.updated", "var/.updated"):
        (root / stamp).touch()


def _settle(root: Path) -> None:
    """Make of a root file system one that boots by itself, and does nothing that a test would wait for."""
    (root / "etc" / "fstab").write_text("/dev/root / ext4 errors=remount-ro 0 1\n")
    (root / "etc" / "hostname").write_text("edge\n")
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost edge\n::1 localhost\n")
    (root / "etc" / "resolv.conf").unlink(missing_ok=True)
    (root / "etc" / "resolv.conf").write_text("nameserver 192.0.2.53\n")
    (root / "etc" / "machine-id").write_text("5d1f1c8a1c7c4f37b8f3a4b1c2d3e4f5\n")
    shutil.copy2(GUEST / "agent.py", root / "usr" / "local" / "lib" / "test-agent.py")
    units = root / "etc" / "systemd" / "system"
    shutil.copy2(GUEST / "test-agent.service", units)
    wants = units / "sysinit.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "test-agent.service").symlink_to("../test-agent.service")
    for name in ("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer"):
        (units / name).symlink_to("/dev/null")
    for name in ("systemd-firstboot.service", "getty@tty1.service", "systemd-pcrphase.service"):
        (units / name).symlink_to("/dev/null")
    # No boot waits for podman, which runs what one test asks it to.
    for name in ("auto-update.timer", "auto-update.service", "clean-transient.service", "restart.service"):
        (units / f"podman-{name}").symlink_to("/dev/null")
    for name in ("podman.socket", "netavark-dhcp-proxy.socket", "netavark-dhcp-proxy.service"):
        (units / name).symlink_to("/dev/null")
    # The machine has no display.
    (units / "modprobe@drm.service").symlink_to("/dev/null")
    # Those of a hundred programs that are not here take a minute to compile; that of crun changes labels.
    for profile in (root / "etc" / "apparmor.d").iterdir():
        if profile.is_file() and profile.name != "crun":
            profile.unlink()
    networks = root / "etc" / "systemd" / "network"
    (networks / "eth0.network").write_text(
        f"[Match]\nName=eth0\n[Network]\nAddress={ADDRESS}\nGateway={OUTSIDE}\nLinkLocalAddressing=no\n"
        "IPv6AcceptRA=no\n"
    )
    wants = units / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "systemd-networkd.service").symlink_to("/usr/lib/systemd/system/systemd-networkd.service")
    journal = root / "etc" / "systemd" / "journald.conf.d"
    journal.mkdir(parents=True, exist_ok=True)
    # All of it, on the disk: tests read it after power cuts.
    (journal / "test.conf").write_text("[Journal]\nStorage=persistent\nRateLimitBurst=0\nSystemMaxUse=200M\n")
