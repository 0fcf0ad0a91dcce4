"""Questions about the kernel: answered by what it reports, or tried in namespaces that end with a thread."""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tank_agent.doctor import Check, fail, ok, warn
from tank_agent.linux.mounts import mount
from tank_agent.linux.namespaces import in_thread, leave_mounts, leave_network
from tank_agent.linux.wakeups import open_inotify
from tank_agent.runtime.security.apparmor import DEFAULT as PROFILE
from tank_agent.runtime.security.apparmor import loaded_profiles

# linux/rtnetlink.h, linux/if_link.h, linux/netlink.h
_RTM_NEWLINK = 16
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_CREATE, _NLM_F_EXCL = 0x1, 0x4, 0x400, 0x200
_IFLA_LINK, _IFLA_LINKINFO, _IFLA_INFO_KIND = 5, 18, 1
_LOOPBACK_INDEX = 1

# mount_setattr(2), with which volumes are bound; idmapped overlay layers come with the second.
_KERNEL_FLOOR = (5, 12)
_KERNEL_GOOD = (5, 19)
_WATCHES, _INSTANCES = 8192, 32
ROOT = Path("/sys/fs/cgroup")
# The controllers behind `[containers.limits]`, and what crun needs where each is a hierarchy of its own.
_LIMITS, _SPLIT = ("cpu", "memory", "pids"), ("devices", "freezer")


def root(uid: int) -> Check:
    """Say whether this is root, as which the agent has to run."""
    if uid == 0:
        return ok("root", "yes")
    return fail("root", f"no, this is user {uid}, who can't see all of what follows", "use sudo")


def kernel_version(release: str) -> Check:
    """Say whether the kernel is new enough."""
    match = re.match(r"(\d+)\.(\d+)", release)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    if version < _KERNEL_FLOOR:
        return fail("kernel", f"{release}, older than 5.12", "use Debian 12 or newer")
    if version < _KERNEL_GOOD:
        found = f"{release}, older than 5.19: no user namespaces with images"
        return warn("kernel", found, "use Debian 12 or newer")
    return ok("kernel", release)


def overlay(file_systems: str, attempt: str | None) -> Check:
    """Say whether overlayfs works; `attempt` is why mounting one did not, None if it did."""
    if attempt is None:
        return ok("overlayfs", "works")
    if "\toverlay\n" not in file_systems:
        return fail("overlayfs", "not in this kernel", "modprobe overlay; rootfs = … needs it as well")
    return fail("overlayfs", f"can't be mounted: {attempt}", "run as root, outside of other containers")


def try_overlay() -> str | None:
    """Mount an overlay of two directories on a tmpfs, seen by nobody else; return why it failed."""

    def attempt() -> None:
        leave_mounts()
        mount("tank-doctor", "/tmp", "tmpfs")  # noqa: S108 - our own, in a mount namespace of this thread
        for part in ("lower", "upper", "work", "merged"):
            os.mkdir(f"/tmp/{part}")  # noqa: S108, PTH102 - as above
        options = "lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work"
        mount("overlay", "/tmp/merged", "overlay", 0, options)  # noqa: S108 - as above

    return _tried(attempt)


def network_namespaces(attempt: str | None) -> Check:
    """Say whether network namespaces can be made; `attempt` is why not, None if they can."""
    if attempt is None:
        return ok("network namespaces", "work")
    return fail("network namespaces", f"can't be made: {attempt}", "run as root; see user.max_net_namespaces")


def try_network_namespace() -> str | None:
    """Make a network namespace that ends at once; return why it failed."""
    return _tried(leave_network)


def macvlan(attempt: str | None) -> Check:
    """Say whether the kernel has macvlan; `attempt` is why not, None if it has."""
    if attempt is None:
        return ok("macvlan", "available")
    fix = "modprobe macvlan; without it pods have no addresses of their own, network none and host work"
    return warn("macvlan", f"not available: {attempt}", fix)


def try_macvlan() -> str | None:
    """Ask for a macvlan link in a private network namespace; return why the kernel does not know them.

    It is asked for on the loopback, which no kernel allows, so that none is made; but only a kernel that has
    macvlan (or can load it) gets as far as looking at that.
    """

    def attempt() -> None:
        leave_network()
        error = _new_link("macvlan", _LOOPBACK_INDEX)
        if error in (errno.EOPNOTSUPP, errno.EPERM):
            raise OSError(error, os.strerror(error))

    return _tried(attempt)


def seccomp(status: str) -> Check:
    """Say whether the kernel can filter system calls (proc_pid_status(5))."""
    if re.search(r"^Seccomp_filters:", status, re.MULTILINE) or "\nSeccomp:" in status:
        return ok("seccomp", "available")
    return fail("seccomp", "not in this kernel", "use a kernel with CONFIG_SECCOMP_FILTER, such as Debian's")


def user_namespaces(most: str | None) -> Check:
    """Say whether user namespaces may be made; `most` is user.max_user_namespaces."""
    if most is None:
        fix = "use a kernel with CONFIG_USER_NS, such as Debian's"
        return warn("user namespaces", "not in this kernel", fix)
    if int(most) == 0:
        return warn("user namespaces", "switched off", "sysctl user.max_user_namespaces=65536")
    return ok("user namespaces", f"at most {most.strip()}")


def apparmor(profiles: Mapping[str, str] | OSError | None) -> Check:
    """Say whether AppArmor is on, and holds containers; `profiles` are those loaded, with their modes."""
    name = "AppArmor"
    if profiles is None:
        return ok(name, "off; containers run without a profile")
    if isinstance(profiles, OSError):
        found = f"on; which profiles are loaded can't be read: {profiles.strerror}"
        return warn(name, found, "run the doctor as root")
    mode = profiles.get(PROFILE)
    if mode is None:
        fix = f"apt install apparmor && systemctl restart tank-agent; see /etc/apparmor.d/disable/{PROFILE}"
        return warn(name, f"on, but {PROFILE} is not loaded: containers run without a profile", fix)
    if mode != "enforce":
        return warn(name, f"on; {PROFILE} is in mode {mode}: it stops nothing", f"aa-enforce {PROFILE}")
    return ok(name, f"on; {PROFILE} is loaded")


def try_apparmor() -> Mapping[str, str] | OSError | None:
    """Return the loaded profiles, or why they cannot be read."""
    try:
        return loaded_profiles()
    except OSError as error:
        return error


def inotify(instances: str, watches: str, attempt: str | None = None) -> Check:
    """Say whether there is room to watch the pod files; `attempt` is why no instance is to be had now."""
    found = f"{instances.strip()} instances, {watches.strip()} watches"
    if attempt is not None:
        fix = "sysctl fs.inotify.max_user_instances=1024; root's other programs hold the ones there are"
        return warn("inotify", f"{found}, none is left ({attempt}): changed files are seen late", fix)
    if int(instances) < _INSTANCES or int(watches) < _WATCHES:
        fix = "sysctl fs.inotify.max_user_instances=128 fs.inotify.max_user_watches=65536"
        return warn("inotify", f"{found}: changed files may be seen late", fix)
    return ok("inotify", found)


def try_inotify() -> str | None:
    """Ask for an inotify instance; return why there is none to be had."""
    return _tried(lambda: os.close(open_inotify()))


def control_groups(root: Path = ROOT) -> Check:
    """Say whether the host is v2, hybrid or v1, with which controllers, and whether they can be written."""
    name = "control groups"
    unified = root / "cgroup.controllers"
    if unified.exists():
        kind, there = "v2", set(unified.read_text().split())
        missing = [controller for controller in _LIMITS if controller not in there]
        writable = _writable(root)
    else:
        there = set(_controllers(root))
        if not there:
            fix = "mount them: `mount -t cgroup2 none /sys/fs/cgroup`, or use systemd"
            return fail(name, f"none at {root}", fix)
        kind = "hybrid" if (root / "unified" / "cgroup.controllers").exists() else "v1"
        missing = [controller for controller in (*_LIMITS, *_SPLIT) if controller not in there]
        writable = all(_writable(root / controller) for controller in there)
    found = f"{kind} with {', '.join(sorted(there))}"
    if not writable:
        fix = "remount /sys/fs/cgroup writable; a container needs to be privileged"
        return fail(name, f"{found}; read-only", fix)
    if missing:
        fix = "enable them in the kernel, or delegate them to this group"
        if "memory" in missing:
            fix = "boot with the kernel option cgroup_enable=memory"
        result = warn if kind == "v2" else fail
        return result(name, f"{found}; without {', '.join(missing)}", fix)
    return ok(name, found)


def _controllers(root: Path) -> Iterator[str]:
    """Yield the v1 controllers; a hierarchy of several is one directory with links, or one per controller."""
    for controller in ("blkio", "cpu", "cpuacct", "cpuset", *_SPLIT, "memory", "pids"):
        # An empty directory is a mount point with nothing on it.
        if (root / controller / "cgroup.procs").exists():
            yield controller


def _writable(directory: Path) -> bool:
    return not os.statvfs(directory).f_flag & os.ST_RDONLY


def read(path: str) -> str | None:
    """Return a file of the kernel, whatever bytes are in it; None if this kernel has none such."""
    try:
        return os.fsdecode(Path(path).read_bytes())
    except OSError:
        return None


def _tried(attempt: Callable[[], object]) -> str | None:
    """Run something in a thread that ends with the namespaces that it made; return why it failed."""
    try:
        in_thread(attempt)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _new_link(kind: str, parent: int) -> int:
    """Ask for a new link (rtnetlink(7)) and return the errno of the answer, 0 for none."""
    info = _attribute(_IFLA_LINKINFO, _attribute(_IFLA_INFO_KIND, kind.encode()))
    link = _attribute(_IFLA_LINK, struct.pack("=I", parent))
    payload = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, 0, 0, 0) + link + info
    flags = _NLM_F_REQUEST | _NLM_F_ACK | _NLM_F_CREATE | _NLM_F_EXCL
    head = struct.pack("=IHHII", 16 + len(payload), _RTM_NEWLINK, flags, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(5.0)
        netlink.sendto(head + payload, (0, 0))
        answer = netlink.recv(65536)
    # struct nlmsgerr begins with the negated errno (netlink(7)).
    code: int = struct.unpack_from("=i", answer, 16)[0]
    return -code


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)
