"""A confined process has lost what it is to lose."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tank_agent.linux import confine

LOWER = """
import resource
from tank_agent.linux.confine import lower_limit
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 2000))
lower_limit(resource.RLIMIT_FSIZE, 1 << 30)
print(resource.getrlimit(resource.RLIMIT_FSIZE))
lower_limit(resource.RLIMIT_CORE, 0)
print(resource.getrlimit(resource.RLIMIT_CORE))
"""


def test_a_limit_that_is_lower_already_stays() -> None:
    shown = subprocess.run([sys.executable, "-c", LOWER], capture_output=True, check=True, text=True).stdout
    assert shown.splitlines() == ["(2000, 2000)", "(0, 0)"]


PRIVILEGES = """
import os
from pathlib import Path
from tank_agent.linux import confine
confine.keep_capabilities({confine.CHOWN, confine.MKNOD})
confine.gain_no_privileges()
confine.limit(memory=1 << 30, cpu_seconds=5, file_size=1000, descriptors=50)
confine.die_with_parent()
wanted = ("CapInh", "CapPrm", "CapEff", "CapBnd", "NoNewPrivs")
for line in Path("/proc/self/status").read_text().splitlines():
    if line.startswith(wanted):
        print(line.replace("\t", " "))
for line in Path("/proc/self/limits").read_text().splitlines():
    if line.startswith(("Max cpu", "Max file size", "Max open", "Max address", "Max core")):
        print(*line.rsplit(None, 3)[-3:-1])
"""


@pytest.mark.machine
def test_capabilities_and_limits_are_given_up_for_good() -> None:
    argv = [sys.executable, "-c", PRIVILEGES]
    shown = subprocess.run(argv, capture_output=True, check=True, text=True).stdout
    kept = f"{1 << confine.CHOWN | 1 << confine.MKNOD:016x}"
    assert shown.splitlines() == [
        "CapInh: 0000000000000000",
        *(f"Cap{kind}: {kept}" for kind in ("Prm", "Eff", "Bnd")),
        "NoNewPrivs: 1",
        *("5 5", "1000 1000", "0 0", "50 50", f"{1 << 30} {1 << 30}"),
    ]


WRITES = """
import errno, os, sys
from pathlib import Path
from tank_agent.linux import confine
given = {name: os.open(sys.argv[1] + "/" + name, os.O_PATH) for name in ("scratch", "objects")}
confine.write_only_to(given, Path("/mnt"), {"scratch"})
Path("/mnt/scratch/new").touch()
for place in ("/mnt/objects", "/etc", sys.argv[1]):
    try:
        Path(place, "new").touch()
    except OSError as error:
        print(errno.errorcode[error.errno])
"""


@pytest.mark.machine
def test_only_the_named_directory_can_be_written(tmp_path: Path) -> None:
    for name in ("scratch", "objects"):
        (tmp_path / name).mkdir()
    argv = [sys.executable, "-c", WRITES, str(tmp_path)]
    shown = subprocess.run(argv, capture_output=True, check=True, text=True).stdout
    assert shown.split() == ["EROFS"] * 3
    assert (tmp_path / "scratch" / "new").exists()
    assert not list((tmp_path / "objects").iterdir())
