"""Reads /etc/tank/agent.toml: what the agent is told about itself (DESIGN section 9).

Precedence, lowest first: defaults, the file, the environment (TANK_DATA_DIR), the command line.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Struct

from tank_agent.errors import InvalidSpec, Problem
from tank_agent.settings.git import GitSettings
from tank_agent.settings.git_table import GitTable, read_git
from tank_agent.settings.image import ImageSettings
from tank_agent.settings.image_table import ImageTable, RegistryTable, read_images
from tank_agent.spec.document import TEXT_MAX, read_toml, without_mark
from tank_agent.spec.file import ABSOLUTE_PATTERN, Duration, FileStruct, Memory, about, text
from tank_agent.spec.findings import Finding, KeyPath, show, to_problems
from tank_agent.spec.lines import find_lines
from tank_agent.spec.network_checks import interface_problem, parse_address
from tank_agent.spec.parse import ParsedPod, parse_inline_pods
from tank_agent.spec.quantities import parse_duration, parse_size
from tank_agent.spec.reference import check_path
from tank_agent.spec.structure import read_table

DEFAULT_FILE = Path("/etc/tank/agent.toml")

# sockaddr_un has 108 bytes with the NUL (unix(7)); "/tank.sock" is part of it.
_RUN_DIR_MAX = 107 - len("/tank.sock")
_WORKERS_MAX = 64
_LOG_SIZE_MIN = 64 << 10
_LOG_SIZE_MAX = 1 << 40
_LOG_FILES_MAX = 100
_DIRECTORIES = ("data_dir", "run_dir", "pods_dir", "seed_dir")
_ADAPTER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)+")


class HostTable(FileStruct):
    """What pods get to know of the host: its uplink and its name servers."""

    adapter: Annotated[
        str,
        about(
            '"auto" reads the default route and the host\'s resolv.conf where uplink and dns are not given, '
            '"static" reads nothing, and a dotted Python path names an adapter of your own.',
            "auto",
        ),
    ] = "auto"
    uplink: Annotated[
        str | None,
        about('The host\'s interface that parent = "auto" means; not with an adapter of your own.', "eno1"),
    ] = None
    dns: Annotated[
        tuple[str, ...],
        about("Name servers of pods that give none; not with an adapter of your own.", ["10.0.0.1"]),
    ] = ()


class ReconcileTable(FileStruct):
    """How the loop paces itself."""

    resync: Annotated[Duration, about("How often everything is looked at again, 100ms to 1h.", "10s")] = "10s"
    backoff_base: Annotated[Duration, about("The delay before the first restart, 0s to 24h.", "10s")] = "10s"
    backoff_cap: Annotated[Duration, about("The longest delay before a restart, up to 24h.", "300s")] = "300s"
    stable_after: Annotated[
        Duration, about("How long a run must last for the delay to start from the base again.", "600s")
    ] = "600s"
    workers: Annotated[int, about("How many pods are worked on at one time, 1 to 64.", 4)] = 4


class LogsTable(FileStruct):
    """How much of what each container prints is kept."""

    max_size: Annotated[
        Memory, about("A file that is larger is put aside and a new one begun, 64K to 1T.", "10M")
    ] = "10M"
    max_files: Annotated[int, about("How many files are kept, the newest included, 1 to 100.", 3)] = 3


class SettingsTable(FileStruct):
    """The agent's own configuration."""

    data_dir: Annotated[
        str,
        text(
            "Images, volumes and the journal; TANK_DATA_DIR wins over it.", "/var/lib/tank", ABSOLUTE_PATTERN
        ),
    ] = "/var/lib/tank"
    run_dir: Annotated[
        str,
        text(
            "Sockets, network namespaces and container state; lost at reboot.", "/run/tank", ABSOLUTE_PATTERN
        ),
    ] = "/run/tank"
    pods_dir: Annotated[
        str, text("The directory of pod files that is mirrored.", "/etc/tank/pods.d", ABSOLUTE_PATTERN)
    ] = "/etc/tank/pods.d"
    seed_dir: Annotated[
        str, text("Pod files that are created once, if absent.", "/etc/tank/seed.d", ABSOLUTE_PATTERN)
    ] = "/etc/tank/seed.d"
    git: Annotated[GitTable | None, about("A git repository as a source of pods.")] = None
    host: Annotated[HostTable | None, about("What pods get to know of the host.")] = None
    reconcile: Annotated[ReconcileTable | None, about("How the loop paces itself.")] = None
    logs: Annotated[LogsTable | None, about("How much of what containers print is kept.")] = None
    image: Annotated[ImageTable | None, about("How images are fetched and unpacked.")] = None
    registry: Annotated[
        dict[str, RegistryTable] | None,
        about("Registries by host, where they differ from others.", {"old.lan:5000": {"insecure": True}}),
    ] = None
    labels: Annotated[
        dict[str, str] | None,
        about("What this machine is called: pods' own labels look at it.", {"site": "edge-1"}),
    ] = None


class HostSettings(Struct, frozen=True, kw_only=True):
    """The host-facts seam: `adapter` is "auto", "static" or a dotted Python path."""

    adapter: str = "auto"
    uplink: str | None = None
    dns: tuple[str, ...] = ()


class ReconcileSettings(Struct, frozen=True, kw_only=True):
    """The loop's pace; all times are in seconds."""

    resync: float = 10.0
    backoff_base: float = 10.0
    backoff_cap: float = 300.0
    stable_after: float = 600.0
    workers: int = 4


class LogsSettings(Struct, frozen=True, kw_only=True):
    """What is kept of each container's output: files of about `max_size` bytes."""

    max_size: int = 10 << 20
    max_files: int = 3


class Settings(Struct, frozen=True, kw_only=True):
    """The agent's configuration, checked. All directories are absolute.

    `file` is where it was read from, None if only defaults apply. `seeds` are the valid pods written in it;
    `seed_problems` are about the others, which keep nobody from starting.
    """

    data_dir: Path = Path("/var/lib/tank")
    run_dir: Path = Path("/run/tank")
    pods_dir: Path = Path("/etc/tank/pods.d")
    seed_dir: Path = Path("/etc/tank/seed.d")
    git: GitSettings | None = None
    host: HostSettings = HostSettings()
    reconcile: ReconcileSettings = ReconcileSettings()
    logs: LogsSettings = LogsSettings()
    image: ImageSettings = ImageSettings()
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    file: Path | None = None
    seeds: tuple[ParsedPod, ...] = ()
    seed_problems: tuple[Problem, ...] = ()


def load_settings(
    path: Path | None, *, environ: Mapping[str, str], overrides: Mapping[str, str | None] | None = None
) -> Settings:
    """Read the agent's configuration.

    Args:
        path: the file that was asked for; None reads the default file if there is one.
        environ: the environment; only TANK_DATA_DIR is read.
        overrides: directories from the command line, by key ("data_dir"); None leaves a key alone.

    Raises:
        InvalidSpec: with every problem of the file, the environment and the command line.
    """
    file = path or DEFAULT_FILE
    content = _read(file, may_be_missing=path is None)
    settings, problems = (Settings(), []) if content is None else _parse(content, file)
    directories, wrong = _chosen_directories(environ, overrides or {})
    settings = msgspec.structs.replace(settings, **directories)
    problems += [*wrong, *_shared_directories(settings, str(file))]
    if problems:
        raise InvalidSpec(tuple(problems))
    return settings


def load_directories(
    path: Path | None, *, environ: Mapping[str, str], overrides: Mapping[str, str | None] | None = None
) -> Settings:
    """Return settings with the directories that can still be told from a file with errors, else defaults.

    For who has to stop what a former agent runs; arguments as of `load_settings`.
    """
    document: dict[str, Any] = {}
    with suppress(InvalidSpec, ValueError, RecursionError):
        document = tomllib.loads(_read(path or DEFAULT_FILE, may_be_missing=True) or "")
    written = {key: document.get(key) for key in _DIRECTORIES}
    valid = {
        key: Path(value)
        for key, value in written.items()
        if isinstance(value, str) and _directory_problem(key, value) is None
    }
    chosen, _ = _chosen_directories(environ, overrides or {})
    return msgspec.structs.replace(Settings(), **{**valid, **chosen})


def _chosen_directories(
    environ: Mapping[str, str], overrides: Mapping[str, str | None]
) -> tuple[dict[str, Path], list[Problem]]:
    """Return the directories that the command line and the environment choose, and the problems of others."""
    chosen = [(key, value, "command line", f"--{key.replace('_', '-')}") for key, value in overrides.items()]
    if environ.get("TANK_DATA_DIR") and overrides.get("data_dir") is None:
        chosen.append(("data_dir", environ["TANK_DATA_DIR"], "environment", "TANK_DATA_DIR"))
    directories: dict[str, Path] = {}
    problems = []
    for key, value, where, name in chosen:
        if value is None:
            continue
        # A relative path is meant from where the user stands; symbolic links in it stay as they are.
        absolute = os.path.abspath(value)  # noqa: PTH100
        wrong = _directory_problem(key, absolute)
        if wrong:
            problems.append(Problem(where, 0, name, wrong))
        else:
            directories[key] = Path(absolute)
    return directories, problems


def _read(file: Path, *, may_be_missing: bool) -> str | None:
    try:
        with file.open("rb") as stream:
            content = stream.read(TEXT_MAX + 1)
    except FileNotFoundError:
        if may_be_missing:
            return None
        raise InvalidSpec((Problem(str(file), 0, "", "there is no such file"),)) from None
    except OSError as error:
        raise InvalidSpec((Problem(str(file), 0, "", f"can't be read: {error.strerror}"),)) from None
    # Bytes that are not UTF-8 become what the reader of the text refuses, with their line.
    return content.decode(errors="surrogateescape")


def _parse(content: str, file: Path) -> tuple[Settings, list[Problem]]:
    document, problem = read_toml(content, str(file))
    if document is None:
        return Settings(), [problem] if problem else []
    lines = find_lines(without_mark(content))
    pods = parse_inline_pods(document.pop("pods", []), content, str(file))
    try:
        table, structure = read_table(document, SettingsTable)
    except RecursionError:
        return Settings(), [Problem(str(file), 0, "", "lists or tables are nested too deep")]
    findings = list(structure.findings)
    checks = _Checks()
    settings = Settings()
    if table is not None:
        settings = checks.settings(table, file)
        findings += [finding for finding in checks.findings if not structure.is_covered(finding.path)]
    problems = sorted(to_problems(findings, file=str(file), lines=lines), key=lambda found: found.line)
    return msgspec.structs.replace(settings, seeds=pods.pods, seed_problems=pods.problems), problems


def _directory_problem(key: str, value: str) -> str | None:
    wrong = check_path(value)
    if wrong:
        return wrong
    if value == "/":
        return "can't be the root directory"
    if key == "run_dir" and len(value.encode()) > _RUN_DIR_MAX:
        return f"is too long for the sockets in it; at most {_RUN_DIR_MAX} bytes"
    return None


def _shared_directories(settings: Settings, file: str) -> list[Problem]:
    seen: dict[Path, str] = {}
    problems = []
    for key in _DIRECTORIES:
        other = seen.setdefault(getattr(settings, key), key)
        if other != key:
            message = f"is the same directory as {other}; each needs one of its own"
            problems.append(Problem(file, 0, key, message))
    return problems


class _Checks:
    """Checks what the values of agent.toml say, and collects what is wrong."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def add(self, path: KeyPath, message: str | None) -> None:
        if message:
            self.findings.append(Finding(path, message))

    def settings(self, table: SettingsTable, file: Path) -> Settings:
        for key in _DIRECTORIES:
            self.add((key,), _directory_problem(key, getattr(table, key)))
        for key, value in (table.labels or {}).items():
            if not key or not (key + value).isprintable():
                self.add(("labels", key), "a label needs a name, and has no control characters")
        images, wrong = read_images(table.image, table.registry)
        self.findings += wrong
        return Settings(
            data_dir=Path(table.data_dir),
            run_dir=Path(table.run_dir),
            pods_dir=Path(table.pods_dir),
            seed_dir=Path(table.seed_dir),
            git=None if table.git is None else self.git(table.git),
            host=self.host(table.host or HostTable()),
            reconcile=self.reconcile(table.reconcile or ReconcileTable()),
            logs=self.logs(table.logs or LogsTable()),
            image=images,
            labels=dict(table.labels or {}),
            file=file,
        )

    def seconds(self, path: KeyPath, value: float | str, low: float, high: float) -> float:
        try:
            return parse_duration(value, low=low, high=high)
        except ValueError as error:
            self.add(path, str(error))
            return low

    def git(self, table: GitTable) -> GitSettings:
        settings, findings = read_git(table)
        self.findings += findings
        return settings

    def host(self, table: HostTable) -> HostSettings:
        if table.adapter not in ("auto", "static") and not _ADAPTER.fullmatch(table.adapter):
            message = (
                f'{show(table.adapter)} is not an adapter; write "auto", "static" or a dotted Python path'
            )
            self.add(("host", "adapter"), message)
        if table.uplink is not None:
            self.add(("host", "uplink"), interface_problem(table.uplink))
        for key, is_given in (("uplink", table.uplink is not None), ("dns", bool(table.dns))):
            if is_given and table.adapter not in ("auto", "static"):
                self.add(("host", key), f"is not asked for with adapter = {show(table.adapter)}; remove it")
        dns = []
        for index, text_ in enumerate(table.dns):
            try:
                dns.append(str(parse_address(text_)))
            except ValueError as error:
                self.add(("host", "dns", index), str(error))
        return HostSettings(adapter=table.adapter, uplink=table.uplink, dns=tuple(dns))

    def reconcile(self, table: ReconcileTable) -> ReconcileSettings:
        base = self.seconds(("reconcile", "backoff_base"), table.backoff_base, 0.0, 86_400.0)
        cap = self.seconds(("reconcile", "backoff_cap"), table.backoff_cap, 0.0, 86_400.0)
        if not 1 <= table.workers <= _WORKERS_MAX:
            self.add(("reconcile", "workers"), f"must be from 1 to {_WORKERS_MAX}")
        return ReconcileSettings(
            resync=self.seconds(("reconcile", "resync"), table.resync, 0.1, 3_600.0),
            backoff_base=base,
            backoff_cap=cap,
            stable_after=self.seconds(("reconcile", "stable_after"), table.stable_after, 0.0, 86_400.0),
            workers=table.workers,
        )

    def logs(self, table: LogsTable) -> LogsSettings:
        try:
            size = parse_size(table.max_size, low=_LOG_SIZE_MIN, high=_LOG_SIZE_MAX)
        except ValueError as error:
            size = _LOG_SIZE_MIN
            self.add(("logs", "max_size"), str(error))
        if not 1 <= table.max_files <= _LOG_FILES_MAX:
            self.add(("logs", "max_files"), f"must be from 1 to {_LOG_FILES_MAX}")
        return LogsSettings(max_size=size, max_files=table.max_files)
