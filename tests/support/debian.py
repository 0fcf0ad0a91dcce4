"""Debian 13 root file systems, for testing the package and for images: made by mmdebstrap, kept for a week.

They are tar archives in .dev/cache/debian, named after what is in them. Packages that one of them needed are
kept too, so that nothing is fetched twice. Different ones are made at the same time.
"""

from __future__ import annotations

import datetime
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
SUITE = "trixie"
_CACHE = ROOT / ".dev" / "cache" / "debian"
_MIRROR = "http://deb.debian.org/debian"
_DEADLINE = 1200.0
_ENOUGH = 4 << 30
# Manual pages stay, since the package's own are looked at; apt's lists, so that apt in the file system knows
# Debian's packages without asking the network.
_OF_A_MACHINE = ("--variant=apt", "--skip=cleanup/apt/lists")
# What a program has no use for where it runs. PostgreSQL works without LLVM, which is a quarter of it all.
# The database that its package makes is in no image either.
_UNUSED = ("share/doc/*", "share/man/*", "share/i18n/*", "lib/*/libLLVM*", "lib/postgresql/*/lib/bitcode/*")
OF_AN_IMAGE = (
    "--variant=minbase",
    *(f"--dpkgopt=path-exclude=/usr/{path}" for path in _UNUSED),
    '--customize-hook=rm -rf "$1"/var/lib/postgresql/*/*',
)
# Only whole packages are kept, since two archives that are made at once share what they fetch. $1: the root.
_TAKE = (
    'mkdir -p "$1/var/cache/apt/archives"; '
    'find "{kept}" -name "*.deb" -exec cp -t "$1/var/cache/apt/archives" {{}} +'
)
_KEEP = (
    'cd "$1/var/cache/apt/archives"; for file in *.deb; do test -e "{kept}/$file" || '
    '{{ cp "$file" "{kept}/$file.$$" && mv "{kept}/$file.$$" "{kept}/$file"; }}; done'
)
_UNSHARE = ("unshare", "--mount", "--net", "--ipc", "--pid", "--fork", "--kill-child", "--", "sh", "-c")


def root_archive(name: str, packages: Sequence[str], options: Sequence[str] = _OF_A_MACHINE) -> Path:
    """Return a tar archive of Debian 13 with the packages and what they need; made where it is missing.

    Its name holds the year and the week, so that one gets Debian's security updates; `options` are
    mmdebstrap's.
    """
    year, week, _ = datetime.datetime.now(datetime.UTC).isocalendar()
    digest = hashlib.sha256("\n".join([*sorted(packages), *options]).encode()).hexdigest()[:12]
    archive = _CACHE / f"{name}-{SUITE}-{digest}-{year}w{week:02}.tar"
    _CACHE.mkdir(parents=True, exist_ok=True)
    with locked(_CACHE / f"make-{name}.lock"):
        if not archive.exists():
            _make(archive, packages, options)
            # With what was made of them.
            for old in _CACHE.glob(f"{name}-{SUITE}-*.tar*"):
                if not old.name.startswith(archive.name):
                    old.unlink()
    return archive


def file_of_package(package: str, member: str, name: str) -> Path:
    """Return a file of a package of Debian 13 that may be executed, kept as `name` beside the archives."""
    kept = _CACHE / name
    if not kept.exists():
        archive = root_archive(package, [package], ("--variant=extract",))
        with tarfile.open(archive) as tar:
            found = tar.extractfile(f"./{member}")
            assert found is not None
            partial = kept.with_suffix(f".{os.getpid()}")
            partial.write_bytes(found.read())
        partial.chmod(0o755)
        partial.replace(kept)
    return kept


def _make(archive: Path, packages: Sequence[str], options: Sequence[str]) -> None:
    kept = _CACHE / "packages"
    kept.mkdir(exist_ok=True)
    partial = archive.with_suffix(".partial.tar")
    command = ["mmdebstrap", *options, f"--include={','.join(packages)}"]
    command += ["--dpkgopt=path-exclude=/usr/share/locale/*", '--aptopt=Apt::Install-Recommends "false"']
    command += ["--skip=essential/unlink", f"--setup-hook={_TAKE.format(kept=kept)}"]
    command += [f"--customize-hook={_KEEP.format(kept=kept)}"]
    command += [SUITE, str(partial), _MIRROR]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_DEADLINE,
        # An initial RAM disk is made for the test machine alone, in a fraction of the time.
        env={**os.environ, "INITRD": "No", "TMPDIR": str(scratch_parent())},
        check=False,
    )
    if done.returncode != 0:
        partial.unlink(missing_ok=True)
        raise RuntimeError(f"mmdebstrap failed ({done.returncode}):\n{done.stderr[-4000:]}")
    partial.replace(archive)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold a lock file, so that two builds do not make the same thing at once."""
    fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def scratch_parent() -> Path:
    """Return where to put a tree of a gigabyte: in memory where there is plenty."""
    memory = Path("/dev/shm")
    if memory.is_dir() and min(shutil.disk_usage(memory).free, _available()) > _ENOUGH:
        return memory
    directory = ROOT / ".dev" / "tmp"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _available() -> int:
    """Return how much memory is to be had, in bytes."""
    found = re.search(r"^MemAvailable: *(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


@contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """Unpack an archive for a while and give its root directory."""
    with tempfile.TemporaryDirectory(prefix="tank-debian-", dir=scratch_parent()) as directory:
        root = Path(directory) / "root"
        root.mkdir(mode=0o755)
        command = ["tar", "-C", str(root), "--numeric-owner", "--xattrs", "-xpf", str(archive)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=_DEADLINE)
        yield root


def run_in(
    root: Path, command: Sequence[str], *, env: dict[str, str] | None = None, timeout: float = _DEADLINE
) -> subprocess.CompletedProcess[str]:
    """Run a command in a root file system: own mounts, own processes, no network but loopback.

    Everything that it mounts or starts is gone when it ends.
    """
    script = (
        'mount -t proc proc "$1/proc" && mount -t tmpfs tmpfs "$1/run" && ip link set lo up; '
        'root=$1; shift; exec chroot "$root" "$@"'
    )
    return subprocess.run(
        [
            *_UNSHARE,
            script,
            "sh",
            str(root),
            *command,
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LC_ALL": "C.UTF-8",
            "DEBIAN_FRONTEND": "noninteractive",
            **(env or {}),
        },
        check=False,
    )
