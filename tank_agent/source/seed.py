"""Seeds: pods that the journal writes once, if their name is free (DESIGN section 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from tank_agent.errors import Problem
from tank_agent.settings.settings import Settings
from tank_agent.source.files import Parse, PodFile, PodFiles, apart, parse_bytes, parser_for
from tank_agent.source.follower import Inbox, ReadingFollower
from tank_agent.source.kinds import SEED
from tank_agent.source.snapshot import Declared, Elsewhere, Snapshot
from tank_agent.spec.findings import printable
from tank_agent.spec.model import Host, Pod, content_hash

# Seconds that a reload waits for its seeds.
_PATIENCE = 5.0


def read_seeds(
    directory: Path | None,
    *,
    pods: tuple[Pod, ...] = (),
    problems: tuple[Problem, ...] = (),
    elsewhere: tuple[Elsewhere, ...] = (),
    config_file: str = "",
    parse: Parse = parse_bytes,
) -> Snapshot:
    """Return all seeds; one that can't be read is a problem, and holds up nothing else.

    Args:
        directory: its pod files are seeds; it may be absent.
        pods, problems, elsewhere: of `[[pods]]` in `config_file`.
        parse: makes a PodFile of a file's bytes.
    """
    declared = [
        Declared(pod=pod, owner=SEED.name, revision=content_hash(pod)[:12], file=config_file) for pod in pods
    ]
    files: Mapping[str, PodFile] = {}
    overlooked: Sequence[str] = ()
    try:
        if directory is not None:
            listing = PodFiles(directory.absolute(), parse).list()
            files, overlooked = listing.files, listing.overlooked
    except FileNotFoundError:
        pass
    except OSError as error:
        problems += (Problem(str(directory), 0, "", f"can't be read ({error.strerror})"),)
    not_here = [replace(one, owner=SEED.name) for one in elsewhere]
    for file in files.values():
        declared += file.declared(SEED.name)
        not_here += file.not_here(SEED.name)
        problems += file.problems
    return Snapshot(
        source=SEED.name,
        revision="",
        pods=tuple(declared),
        problems=problems,
        elsewhere=tuple(not_here),
        overlooked=tuple(f"{directory}/{printable(name)}" for name in overlooked),
    )


class SeedFollower(ReadingFollower):
    """Plants seeds at the start and at a reload; tries those that cannot be stored again at each resync."""

    def __init__(self, inbox: Inbox) -> None:
        settings = inbox.settings
        super().__init__(SEED.name, _seeds(settings, inbox.host), inbox)
        self.place = str(settings.seed_dir)
        self._wanted = self._taken = settings

    def reload(self, settings: Settings) -> None:
        """Plant the new seeds of other settings, before this returns if the disk answers."""
        self._wanted = settings
        super().reload(settings)
        self.answered(self.ask(), _PATIENCE)

    def look(self, cause: str) -> float | None:
        """Plant all seeds, unless that is done."""
        wanted = self._wanted
        if wanted is not self._taken:
            self._taken = wanted
            self._read, self._published = _seeds(wanted, self._inbox.host), None
        return super().look("seeded") if self._published is None else None


def _seeds(settings: Settings, host: Host) -> Callable[[], Snapshot]:
    """Return a function that reads the seeds of seed_dir and agent.toml that are for this machine."""
    config_file = str(settings.file or "")
    here, elsewhere = apart(settings.seeds, config_file, host)
    return partial(
        read_seeds,
        settings.seed_dir,
        pods=tuple(seed.pod for seed in here),
        problems=settings.seed_problems,
        elsewhere=elsewhere,
        config_file=config_file,
        parse=parser_for(host),
    )
