"""Seeds: pods that the journal writes once, if their name is free (DESIGN section 4)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from tank_agent.errors import Problem
from tank_agent.settings.settings import Settings
from tank_agent.source.files import PodFile, PodFiles, parse_bytes, parser_for
from tank_agent.source.follower import Inbox, ReadingFollower
from tank_agent.source.kinds import SEED
from tank_agent.source.snapshot import Declared, Snapshot
from tank_agent.spec.model import Pod, content_hash
from tank_agent.spec.selectors import Host, selects

# Seconds that a reload waits for its seeds.
_PATIENCE = 5.0


class SeedSource:
    """Takes snapshots of the seeds: the pod files of `directory`, and `pods` that the agent's file holds.

    Args:
        directory: may be absent, or None.
        pods, problems: what `[[pods]]` of `config_file` hold.
        clock: Unix time in seconds, as files have it.
        parse: makes a PodFile of a file's bytes.
    """

    def __init__(
        self,
        directory: Path | None,
        *,
        pods: tuple[Pod, ...] = (),
        problems: tuple[Problem, ...] = (),
        config_file: str = "",
        clock: Callable[[], float] = time.time,
        parse: Callable[[bytes, str], PodFile] = parse_bytes,
    ) -> None:
        self._directory = directory.absolute() if directory is not None else None
        self._pods = pods
        self._problems = problems
        self._config_file = config_file
        self._clock = clock
        self._parse = parse

    def snapshot(self) -> Snapshot:
        """Return all seeds; a seed that can't be read is a problem, and holds up nothing else."""
        declared = [
            Declared(pod=pod, owner=SEED.name, revision=content_hash(pod)[:12], file=self._config_file)
            for pod in self._pods
        ]
        problems = list(self._problems)
        for file in self._read(problems):
            problems += file.problems
            declared += [
                Declared(
                    pod=found.pod, owner=SEED.name, revision=file.revision, file=file.file, line=found.line
                )
                for found in file.pods
            ]
        return Snapshot(source=SEED.name, revision="", pods=tuple(declared), problems=tuple(problems))

    def settle_after(self) -> None:
        """Return None: seeds are read once."""

    def _read(self, problems: list[Problem]) -> list[PodFile]:
        if self._directory is None:
            return []
        try:
            fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return []
        except OSError as error:
            problems.append(Problem(str(self._directory), 0, "", f"can't be read ({error.strerror})"))
            return []
        try:
            files = PodFiles(self._directory, clock=self._clock, parse=self._parse)
            return list(files.list(fd).files.values())
        except OSError as error:
            problems.append(Problem(str(self._directory), 0, "", f"can't be read ({error.strerror})"))
            return []
        finally:
            os.close(fd)


class SeedFollower(ReadingFollower):
    """Plants seeds at the start and at a reload; what cannot be stored then is tried at each resync."""

    def __init__(self, inbox: Inbox) -> None:
        settings = inbox.settings
        super().__init__(SEED.name, _seeds(settings, inbox.host), inbox)
        self.place = str(settings.seed_dir)
        self._wanted = self._taken = settings

    def reload(self, settings: Settings) -> None:
        """Plant what is new in other settings, before this returns if the disk answers."""
        self._wanted = settings
        super().reload(settings)
        self.answered(self.ask(), _PATIENCE)

    def look(self, cause: str) -> float | None:
        """Plant what was not planted yet."""
        wanted = self._wanted
        if wanted is not self._taken:
            self._taken = wanted
            self._readable, self._published = _seeds(wanted, self._inbox.host), None
        return super().look("seeded") if self._published is None else None


def _seeds(settings: Settings, host: Host) -> SeedSource:
    """Return the seeds of seed_dir and of agent.toml that are for this machine."""
    return SeedSource(
        settings.seed_dir,
        pods=tuple(seed.pod for seed in settings.seeds if selects(seed.selector, host)),
        problems=settings.seed_problems,
        config_file=str(settings.file or ""),
        parse=parser_for(host),
    )
