"""Seeds: pods that the journal writes once, if their name is free (DESIGN section 4)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from tank_agent.errors import Problem
from tank_agent.source.files import PodFile, PodFiles, parse_bytes
from tank_agent.source.snapshot import Declared, Snapshot
from tank_agent.spec.model import Pod, content_hash


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
            Declared(pod=pod, owner="seed", revision=content_hash(pod)[:12], file=self._config_file)
            for pod in self._pods
        ]
        problems = list(self._problems)
        for file in self._read(problems):
            problems += file.problems
            declared += [
                Declared(pod=found.pod, owner="seed", revision=file.revision, file=file.file, line=found.line)
                for found in file.pods
            ]
        return Snapshot(source="seed", revision="", pods=tuple(declared), problems=tuple(problems))

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
