"""Questions about the kernel: answered by what it reports, or by an attempt in short-lived namespaces."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from tank_agent.doctor import Check, fail, ok, warn
from tank_agent.linux.mounts import mount
from tank_agent.linux.namespaces import in_thread, leave_mounts, leave_network
from tank_agent.runtime.security.apparmor import DEFAULT as PROFILE
from tank_agent.runtime.security.apparmor import loaded_profiles

_LOOPBACK_INDEX = 1
# The first has mount_setattr(2), which binds volumes; the second has idmapped overlay layers.
_KERNEL_FLOOR = (5, 12)
_KERNEL_GOOD = (5, 19)
_WATCHES, _INSTANCES = 8192, 32
ROOT = Path("/sys/fs/cgroup")
# The controllers of `[containers.limits]`, and those that crun also needs on v1.
_LIMITS, _SPLIT = ("cpu", "memory", "pids"), ("devices", "freezer")
# A hierarchy of several v1 controllers is one directory with links, or one per controller.
_V1 = ("blkio", "cpuacct", "cpuset", *_LIMITS, *_SPLIT)


def root(uid: int) -> Check:
    """Say whether this is root, which the agent needs to be."""
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
    """Say whether overlayfs works; `attempt` is the error of mounting one, if any."""
    if attempt is None:
        return ok("overlayfs", "works")
    if "\toverlay\n" not in file_systems:
        return fail("overlayfs", "not in this kernel", "modprobe overlay; rootfs = … needs it as well")
    return fail("overlayfs", f"can't be mounted: {attempt}", "run as root, outside of other containers")


def try_overlay() -> str | None:
    """Mount an overlay on a tmpfs, in a mount namespace of its own; return why it failed."""

    def attempt() -> None:
        leave_mounts()
        mount("tank-doctor", "/tmp", "tmpfs")  # noqa: S108 - nobody else sees it
        for part in ("lower", "upper", "work", "merged"):
            os.mkdir(f"/tmp/{part}")  # noqa: S108, PTH102 - as above
        options = "lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work"
        mount("overlay", "/tmp/merged", "overlay", 0, options)  # noqa: S108 - as above

    return tried(attempt)


def network_namespaces(attempt: str | None) -> Check:
    """Say whether network namespaces can be made; `attempt` is the error of making one, if any."""
    if attempt is None:
        return ok("network namespaces", "work")
    return fail("network namespaces", f"can't be made: {attempt}", "run as root; see user.max_net_namespaces")


def macvlan(attempt: str | None) -> Check:
    """Say whether the kernel has macvlan; `attempt` is the error of asking for a link, if any."""
    if attempt is None:
        return ok("macvlan", "available")
    fix = "modprobe macvlan; without it pods have no addresses of their own, network none and host work"
    return warn("macvlan", f"not available: {attempt}", fix)


def try_macvlan() -> str | None:
    """Ask for a macvlan link on the loopback of a new network namespace; return the error if there is none.

    No kernel makes one there, but only a kernel that has macvlan (or can load it) looks at the parent.
    """
    from pyroute2 import NetlinkError

    def attempt() -> None:
        leave_network()
        try:
            _add_link("macvlan", _LOOPBACK_INDEX)
        except NetlinkError as error:
            if error.code in (errno.EOPNOTSUPP, errno.EPERM):
                raise OSError(error.code, os.strerror(error.code)) from error

    return tried(attempt)


def _add_link(kind: str, parent: int) -> None:
    from pyroute2 import IPRoute

    with IPRoute() as route:
        route.link("add", ifname="tank-doctor", kind=kind, link=parent)


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


def apparmor(loaded: Callable[[], Mapping[str, str] | None] = loaded_profiles) -> Check:
    """Say whether AppArmor is on, and holds containers."""
    name = "AppArmor"
    try:
        profiles = loaded()
    except OSError as error:
        found = f"on; which profiles are loaded can't be read: {error.strerror}"
        return warn(name, found, "run the doctor as root")
    if profiles is None:
        return ok(name, "off; containers run without a profile")
    mode = profiles.get(PROFILE)
    if mode is None:
        fix = f"apt install apparmor && systemctl restart tank-agent; see /etc/apparmor.d/disable/{PROFILE}"
        return warn(name, f"on, but {PROFILE} is not loaded: containers run without a profile", fix)
    if mode != "enforce":
        return warn(name, f"on; {PROFILE} is in mode {mode}: it stops nothing", f"aa-enforce {PROFILE}")
    return ok(name, f"on; {PROFILE} is loaded")


def inotify(instances: str, watches: str, attempt: str | None = None) -> Check:
    """Say whether pod files can be watched; `attempt` is the error of asking for an instance, if any."""
    found = f"{instances.strip()} instances, {watches.strip()} watches"
    if attempt is not None:
        fix = "sysctl fs.inotify.max_user_instances=1024; root's other programs hold the ones there are"
        return warn("inotify", f"{found}, none is left ({attempt}): changed files are seen late", fix)
    if int(instances) < _INSTANCES or int(watches) < _WATCHES:
        fix = "sysctl fs.inotify.max_user_instances=128 fs.inotify.max_user_watches=65536"
        return warn("inotify", f"{found}: changed files may be seen late", fix)
    return ok("inotify", found)


def control_groups(root: Path = ROOT) -> Check:
    """Say whether the host is v2, hybrid or v1, with which controllers, and whether they can be written."""
    name = "control groups"
    unified = root / "cgroup.controllers"
    if unified.exists():
        kind, there = "v2", set(unified.read_text().split())
        missing = [controller for controller in _LIMITS if controller not in there]
        writable = _writable(root)
    else:
        # An empty directory is a mount point with nothing on it.
        there = {controller for controller in _V1 if (root / controller / "cgroup.procs").exists()}
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
    without = [] if "cpuset" in there else ["cpuset: no pod can have `cpus`"]
    without += [] if _counts_swap(root, kind) else ["limits of swap: boot with swapaccount=1 for `swap`"]
    return ok(name, f"{found}; without {' and '.join(without)}" if without else found)


def _counts_swap(root: Path, kind: str) -> bool:
    """Return whether swap can be limited; on v2 a group below the root shows it, if there is one."""
    if kind != "v2":
        return (root / "memory" / "memory.memsw.limit_in_bytes").exists()
    groups = [file.parent for file in root.glob("*/memory.current")]
    return not groups or any((group / "memory.swap.max").exists() for group in groups)


def _writable(directory: Path) -> bool:
    return not os.statvfs(directory).f_flag & os.ST_RDONLY


def read(path: str) -> str | None:
    """Return a file of the kernel, whatever bytes it holds; None if this kernel lacks it."""
    try:
        return os.fsdecode(Path(path).read_bytes())
    except OSError:
        return None


def tried(attempt: Callable[[], object]) -> str | None:
    """Run something in a thread, with which the namespaces that it makes end; return why it failed."""
    try:
        in_thread(attempt)
    except OSError as error:
        return error.strerror or str(error)
    return None
