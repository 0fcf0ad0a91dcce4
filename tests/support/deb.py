"""Build the Debian package, in a Debian 13 of its own and without network.

python -m tests.support.deb [--version V]    # prints the path of the package; `./dev deb` calls it
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.debian import ROOT, locked, root_archive, run_in, unpacked

_CONTROL = ROOT / "packaging" / "debian" / "control"
_OUT = ROOT / ".dev" / "deb"
# As dpkg-buildpackage(1) reads it, for example "nocheck".
_OPTIONS = os.environ.get("DEB_BUILD_OPTIONS", "")
# What the tests of the package's parts need, beside its Build-Depends.
_TOOLS = ("build-essential", "fakeroot", "lintian")
# What a package is made of; the rest of the sources can change without a new one.
_SOURCES = (
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "docs",
    "examples",
    "packaging",
    "pods.d",
    "tank_agent",
    "tests",
)


def build_dependencies() -> list[str]:
    """Return the packages that debian/control names under Build-Depends."""
    field = re.search(r"^Build-Depends:(.*?)^\S", _CONTROL.read_text(), re.MULTILINE | re.DOTALL)
    assert field is not None
    names = re.sub(r"[(<\[][^)>\]]*[)>\]]", "", field.group(1)).replace("\n", " ").split(",")
    # Virtual packages of debhelper.
    real = {"debhelper-compat": "debhelper", "dh-sequence-installsysusers": "debhelper"}
    real["dh-sequence-python3"] = "dh-python"
    return sorted({real.get(name.strip(), name.strip()) for name in names if name.strip()})


def source_files() -> list[Path]:
    """Return the files of the sources, as git knows them or would, relative to the root."""
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "-co", "--exclude-standard", *_SOURCES],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=60,
    )
    names = sorted(set(os.fsdecode(listed.stdout).split("\0")) - {""})
    return [Path(name) for name in names if (ROOT / name).is_symlink() or (ROOT / name).is_file()]


def build(version: str | None = None) -> Path:
    """Return the package of the sources as they stand; `version` replaces the one in the changelog."""
    _OUT.mkdir(parents=True, exist_ok=True)
    with locked(_OUT / "lock"):
        files = source_files()
        digest = hashlib.sha256(f"{version or ''}\0{_OPTIONS}".encode())
        for file in files:
            content = (ROOT / file).read_bytes()
            digest.update(f"\0{file}\0{len(content)}\0".encode() + content)
        kept = _OUT / digest.hexdigest()[:16]
        if not list(kept.glob("*.deb")):
            _build(files, version, kept)
        _forget_old(kept)
        return next(kept.glob("*.deb"))


def version_of(package: Path) -> str:
    """Return a package's version."""
    listed = subprocess.run(
        ["dpkg-deb", "-f", str(package), "Version"], capture_output=True, check=True, timeout=60
    )
    return listed.stdout.decode().strip()


def newer(package: Path) -> Path:
    """Return a package of the same sources that upgrades another one."""
    return build(f"{version_of(package)}+upgrade1")


def _forget_old(kept: Path) -> None:
    others = [path for path in _OUT.iterdir() if path.is_dir() and path != kept]
    for path in sorted(others, key=lambda path: path.stat().st_mtime)[:-4]:
        shutil.rmtree(path)


def _build(files: list[Path], version: str | None, kept: Path) -> None:
    with unpacked(root_archive("build", [*build_dependencies(), *_TOOLS])) as root:
        source = root / "build" / "tank-agent"
        for file in files:
            (source / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, source / file, follow_symlinks=False)
        # Links in packaging/debian lead to its neighbours; copied whole they become files.
        shutil.copytree(source / "packaging" / "debian", source / "debian")
        if version is not None:
            changelog = source / "debian" / "changelog"
            changelog.write_text(re.sub(r"\(.*?\)", f"({version})", changelog.read_text(), count=1))
        # What only differs in its version has been tested and looked through as the other.
        options = {"DEB_BUILD_OPTIONS": _OPTIONS if version is None else "nocheck"}
        build = ["sh", "-c", "cd /build/tank-agent && exec dpkg-buildpackage -us -uc -b"]
        done = run_in(root, build, env=options)
        log = _OUT / "build.log"
        log.write_text(done.stdout + done.stderr)
        if done.returncode != 0:
            raise RuntimeError(f"dpkg-buildpackage failed; {log} ends with:\n{log.read_text()[-6000:]}")
        if version is None:
            _look_through(root)
        partial = kept.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for package in (root / "build").glob("*.deb"):
            shutil.copy2(package, partial)
        shutil.rmtree(kept, ignore_errors=True)
        partial.rename(kept)


def _look_through(root: Path) -> None:
    command = "cd /build && exec lintian --allow-root --fail-on error,warning *.changes"
    found = run_in(root, ["sh", "-c", command])
    (_OUT / "lintian.log").write_text(found.stdout + found.stderr)
    if found.returncode != 0:
        raise RuntimeError(f"lintian is not content:\n{found.stdout}{found.stderr}")


def main() -> None:
    """Build, and print where the package is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", help="instead of the changelog's")
    arguments = parser.parse_args()
    try:
        package = build(arguments.version)
    except RuntimeError as error:
        sys.exit(f"dev: {error}")
    copy = _OUT / package.name
    shutil.copy2(package, copy)
    print(copy)


if __name__ == "__main__":
    main()
