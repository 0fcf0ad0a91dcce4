"""The logs of a job's runs, each apart: `logs/<pod>/runs/<number>/<container>.log` and its rotated files.

No container's own file has such a name: those end in `.log`, or in `.log.` and a number.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from tank_agent.linux.fault import point
from tank_agent.linux.trees import remove_tree
from tank_agent.runtime.run import KEPT_RUNS

_DIRECTORY = "runs"


def log_file(logs: Path, container: str, job_run: int = 0) -> Path:
    """Return the newest log file of a container, given its pod's directory; `job_run` is 0 for a service."""
    return (logs / _DIRECTORY / str(job_run) if job_run else logs) / f"{container}.log"


def kept_runs(logs: Path) -> list[int]:
    """Return the numbers of the runs that printed something, or could have, and whose logs are kept."""
    with suppress(FileNotFoundError):
        names = (entry.name for entry in (logs / _DIRECTORY).iterdir())
        return sorted(int(name) for name in names if name.isdigit())
    return []


def logged_containers(logs: Path, job_run: int) -> list[str]:
    """Return the containers of a run that have a log."""
    with suppress(FileNotFoundError):
        return sorted(path.stem for path in (logs / _DIRECTORY / str(job_run)).glob("*.log"))
    return []


def make_room(logs: Path, job_run: int) -> None:
    """Make the directory of a run's logs, after the removal of those that are too old to be kept.

    It can be repeated after a kill at any point. Runs with greater numbers are of a pod of which the journal
    knows nothing any more, and so is this one, if there are such.
    """
    known = kept_runs(logs)
    later = [number for number in known if number > job_run]
    # This one first: once the later ones are gone, nothing tells that it is not of this run.
    stale = [job_run] if later and job_run in known else []
    for number in (*stale, *later, *(old for old in known if old <= job_run - KEPT_RUNS)):
        remove_tree(logs / _DIRECTORY / str(number))
        point("logs:run-removed")
    (logs / _DIRECTORY / str(job_run)).mkdir(mode=0o700, parents=True, exist_ok=True)
