"""Podman's generator of Debian 13, which makes services of Quadlet's units: the oracle of the import."""

from __future__ import annotations

import functools
import re
import subprocess
from pathlib import Path

from msgspec import Struct

from tank_agent.convert.quadlet.unit import Entry, parse_unit, words_of
from tests.support.debian import file_of_package

_GENERATOR = "usr/libexec/podman/quadlet"
_MANUAL = "usr/share/man/man5/podman-systemd.unit.5.gz"
_SECONDS = 60


class Generated(Struct, frozen=True):
    """The services of a set of units by their names, and what was said on the way."""

    services: dict[str, list[Entry]]
    said: str

    def command(self, service: str) -> list[str]:
        """Return the words of the command line that starts a service."""
        starts = [one for one in self.services[service] if one.key in ("ExecStart", "ExecStartPre")]
        lines = [one.text for one in starts if " run " in one.text or " pod create " in one.text]
        name = service.removesuffix(".service")
        known = {"%": "%", "h": "/root", "N": name, "p": name, "n": service}
        expanded = re.sub("%(.)", lambda found: known.get(found[1], found[0]), lines[0])
        return [word.replace("$$", "$") for word in words_of(expanded)]


@functools.cache
def generator() -> str:
    """Return the path of Debian 13's generator, unpacked where this machine has another."""
    return str(file_of_package("podman", _GENERATOR, "quadlet-5"))


@functools.cache
def manual() -> bytes:
    """Return the packed manual page of its keys."""
    return file_of_package("podman", _MANUAL, "podman-systemd.unit.5.gz").read_bytes()


def generate(directory: Path) -> Generated:
    """Return what the generator makes of the units of a directory."""
    done = subprocess.run(
        [generator(), "-dryrun", "-no-kmsg-log"],
        capture_output=True,
        text=True,
        env={"QUADLET_UNIT_DIRS": str(directory), "PATH": "/usr/bin:/bin"},
        check=False,
        timeout=_SECONDS,
    )
    services: dict[str, list[Entry]] = {}
    parts = re.split(r"^---(.+)---$", done.stdout, flags=re.MULTILINE)
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        services[name] = parse_unit(text, name)[0]
    return Generated(services, done.stderr)
