"""Reports as they leave over TCP: as on the agent's socket, without what a stranger should not learn.

Left out are the directories of the machine, values of a pod file that may be secret (only those of the keys
below are shown), and the process ids. Lines of logs, and errors, are shown: they are what people look for.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from msgspec import Struct
from msgspec.structs import replace

from tank_agent.api.reports import PodReport, SourcesReport, WantedReport, WhyReport
from tank_agent.settings.settings import Settings
from tank_agent.spec.printable import to_json

# Their values are numbers, sizes, times, names of images and the like. All others may hold a secret, or a
# command line; a key that is new is not shown until it is added here.
_HARMLESS = re.compile(
    r"(restart|schedule|time_zone|catch_up|timeout|network|ports|after"
    r"|update\.\w+"
    r"|containers\[[^\]]*\]\.(image|pull|stop_signal|stop_grace|tty|init|after|read_only|shm_size"
    r"|limits(\.\w+)*|health\.(interval|timeout|retries|start_period|start_interval|on_failure)))"
)

# Of an image that is a directory or a file of this machine.
_DIRECTORIES = re.compile(r"^(oci:|oci-archive:)?/(?:[^/]*/)*")
_IN_LABELS = re.compile(rb'(\bimage="(?:oci:|oci-archive:)?)/(?:[^/"]*/)*')


class WebInfo(Struct, frozen=True, kw_only=True):
    """The agent, as the page names it: the machine's name, its version, and its uptime in seconds."""

    host: str
    version: str
    uptime: float


class Shown:
    """Makes the answers of the web; `settings` names the directories that are left out."""

    def __init__(self, settings: Settings) -> None:
        places = [settings.pods_dir, settings.seed_dir, settings.data_dir, settings.run_dir]
        files = [settings.file, settings.web.token_file if settings.web is not None else None]
        places += [Path(file).absolute() for file in files if file is not None]
        # The longest first: one may be below another.
        self._places = [
            (_inside_json(f"{place}/"), _inside_json(str(place)), _inside_json(place.name))
            for place in sorted(places, key=lambda place: -len(os.fspath(place)))
        ]

    def encode(self, value: object) -> bytes:
        """Return a report, or several, as JSON."""
        data = to_json(value)
        for below, itself, name in self._places:
            data = data.replace(below, b"").replace(itself, name)
        return data

    def metrics(self, text: bytes) -> bytes:
        """Return metrics as they are shown."""
        return _IN_LABELS.sub(rb"\1", text)

    def pod(self, report: PodReport) -> PodReport:
        """Return a pod's status as it is shown."""
        containers = tuple(
            replace(one, pid=None, image=_DIRECTORIES.sub(r"\1", one.image)) for one in report.containers
        )
        return replace(report, containers=containers)

    def pods(self, found: Iterable[PodReport]) -> list[PodReport]:
        """Return the status of several pods as it is shown."""
        return list(map(self.pod, found))

    def sources(self, report: SourcesReport) -> SourcesReport:
        """Return the status of the sources as it is shown."""
        git = report.git
        if git is not None and git.remote.startswith(("/", "file:")):
            # A directory of this machine.
            report = replace(report, git=replace(git, remote=PurePosixPath(git.remote).name))
        return report

    def why(self, report: WhyReport) -> WhyReport:
        """Return why a pod is as it is, as it is shown."""
        status = None if report.status is None else self.pod(report.status)
        return replace(report, status=status, wanted=tuple(map(_wanted, report.wanted)))


def _wanted(report: WantedReport) -> WantedReport:
    if _HARMLESS.fullmatch(report.key):
        return report
    return replace(report, old=_hidden(report.old), new=_hidden(report.new))


def _hidden(text: str) -> str:
    return text if text in ("none", "set") else "set"


def _inside_json(text: str) -> bytes:
    """Return a text as it is within a string of JSON."""
    return json.dumps(text, ensure_ascii=False).encode(errors="backslashreplace")[1:-1]
