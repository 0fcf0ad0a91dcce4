"""/etc/tank/agent.toml: its keys, each declared once, and its reader (DESIGN section 9).

Precedence, lowest first: defaults, the file, the environment (TANK_DATA_DIR), the command line.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from tank_agent.errors import InvalidSpec, Problem
from tank_agent.settings.declaration import count, seconds, settings_of, size, table_of
from tank_agent.settings.git import GitSettings
from tank_agent.settings.git import problems as problems_of_git
from tank_agent.settings.image import ImageSettings, RegistrySettings, registry_host
from tank_agent.settings.network import AgentNetworkSettings
from tank_agent.settings.network import problems as problems_of_network
from tank_agent.settings.notify import NotifySettings
from tank_agent.settings.notify import problems as problems_of_notify
from tank_agent.settings.web import WebSettings
from tank_agent.settings.web import problems as problems_of_web
from tank_agent.spec.beside import Beside, Reading
from tank_agent.spec.document import TEXT_MAX, read_toml, without_mark
from tank_agent.spec.findings import Finding, KeyPath, show, to_problems
from tank_agent.spec.keys import ABSOLUTE_PATTERN, declare
from tank_agent.spec.lines import find_lines
from tank_agent.spec.network_values import interface_name, parse_address
from tank_agent.spec.other_tools.vocabularies import AGENT_FILE
from tank_agent.spec.parse import ParsedPod, parse_inline_pods
from tank_agent.spec.paths import absolute
from tank_agent.spec.structure import read_table
from tank_agent.spec.values import label

DEFAULT_FILE = Path("/etc/tank/agent.toml")
# Seconds that a file beside it may still be written.
_WRITER_WITHIN = 1.0

# sockaddr_un has 108 bytes with the NUL (unix(7)); "/tank.sock" is part of it.
_RUN_DIR_MAX = 107 - len("/tank.sock")
_DIRECTORIES = ("data_dir", "run_dir", "pods_dir", "seed_dir")
_ADAPTER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)+")


def _directory(value: str, key: str = "") -> Path:
    absolute(value)
    if value == "/":
        raise ValueError("can't be the root directory")
    if key == "run_dir" and len(value.encode()) > _RUN_DIR_MAX:
        raise ValueError(f"is too long for the sockets in it; at most {_RUN_DIR_MAX} bytes")
    return Path(value)


def _adapter(value: str) -> str:
    if value not in ("auto", "static") and not _ADAPTER.fullmatch(value):
        raise ValueError(f'{show(value)} is not an adapter; write "auto", "static" or a dotted Python path')
    return value


def _address(value: str) -> str:
    return str(parse_address(value))


def _place(
    description: str, example: str, check: Callable[[str], Path] = _directory, **declared: Any
) -> Meta:
    return declare(
        description, example, pattern=ABSOLUTE_PATTERN, check=check, form=str, written=str, **declared
    )


# A key reads as one sentence, which the formatter would spread over a dozen lines.
# fmt: off
class HostSettings(Struct, frozen=True, kw_only=True):
    """The host's uplink and name servers, for pods."""

    adapter: Annotated[str, declare(
        "\"auto\" reads the default route and the host's resolv.conf where uplink and dns are not given, "
        '"static" reads nothing, and a dotted Python path names an adapter of your own.', "auto",
        check=_adapter)] = "auto"
    uplink: Annotated[str | None, declare(
        "The host's interface that parent = \"auto\" means; not with an adapter of your own.", "eno1",
        check=interface_name)] = None
    dns: Annotated[tuple[str, ...], declare(
        "Name servers of pods that give none; not with an adapter of your own.", ["10.0.0.1"], each=_address
    )] = ()


class ReconcileSettings(Struct, frozen=True, kw_only=True):
    """The pace of the loop."""

    resync: Annotated[float, seconds(
        "How often everything is looked at again, 100ms to 1h.", "10s", 0.1, 3600)] = 10.0
    backoff_base: Annotated[float, seconds(
        "The delay before the first restart, 0s to 24h.", "0.5s", 0, 86_400)] = 0.5
    backoff_cap: Annotated[float, seconds(
        "The longest delay before a restart, up to 24h.", "300s", 0, 86_400)] = 300.0
    stable_after: Annotated[float, seconds(
        "How long a run must last for the delay to start from the base again.", "600s", 0, 86_400)] = 600.0
    workers: Annotated[int, count(
        "How many pods are worked on at one time, 1 to 64.", 4, 1, 64, live=False)] = 4


class LogsSettings(Struct, frozen=True, kw_only=True):
    """The limits of the logs of each container."""

    max_size: Annotated[int, size(
        "A file that is larger is put aside and a new one begun, 64K to 1T.", "10M", 64 << 10, 1 << 40
    )] = 10 << 20
    max_files: Annotated[int, count("How many files are kept, the newest included, 1 to 100.", 3, 1, 100)] = 3


class VolumesSettings(Struct, frozen=True, kw_only=True):
    """What is kept of managed volumes."""

    snapshot_keep: Annotated[int, count(
        "How many snapshots of updates, and how much data of failed updates, are kept for each volume, the "
        "newest first, 0 to 100. One that the last good revision needs stays in any case, as do those that "
        "`tank volume snapshot` took.", 5, 0, 100)] = 2


class SecretsSettings(Struct, frozen=True, kw_only=True):
    """The keys with which this machine decrypts secrets of pods."""

    identities: Annotated[tuple[str, ...], declare(
        "Key files of age, or SSH keys without a passphrase: root's, and not open to others. Those that are "
        "not there are left out.", ["/etc/tank/age.key"], each=absolute
    )] = ("/etc/ssh/ssh_host_ed25519_key", "/etc/tank/age.key")


class Settings(Struct, frozen=True, kw_only=True):
    """The agent's own configuration.

    Three fields are no keys: `file` was read, None if only defaults apply; `seeds` are the valid pods written
    in it; `seed_problems` are of the other pods, and do not keep the agent from starting.
    """

    data_dir: Annotated[Path, _place(
        "Images, volumes and the journal; TANK_DATA_DIR wins over it.", "/var/lib/tank"
    )] = Path("/var/lib/tank")
    run_dir: Annotated[Path, _place(
        "Sockets, network namespaces and container state; lost at reboot.", "/run/tank",
        check=partial(_directory, key="run_dir")
    )] = Path("/run/tank")
    pods_dir: Annotated[Path, _place(
        "The directory of pod files that is mirrored.", "/etc/tank/pods.d")] = Path("/etc/tank/pods.d")
    seed_dir: Annotated[Path, _place(
        "Pod files that are created once, if absent.", "/etc/tank/seed.d", live=True
    )] = Path("/etc/tank/seed.d")
    git: Annotated[GitSettings | None, declare("A git repository as a source of pods.")] = None
    host: Annotated[HostSettings, declare("What pods get to know of the host.")] = HostSettings()
    reconcile: Annotated[ReconcileSettings, declare(
        "How the loop paces itself.", live=True)] = ReconcileSettings()
    logs: Annotated[LogsSettings, declare(
        "How much of what containers print is kept.", live=True)] = LogsSettings()
    volumes: Annotated[VolumesSettings, declare(
        "What is kept of managed volumes.", live=True)] = VolumesSettings()
    secrets: Annotated[SecretsSettings, declare(
        "How secrets of pods are decrypted.", live=True)] = SecretsSettings()
    network: Annotated[AgentNetworkSettings, declare(
        "The bridges of this machine, what they publish, and its way to its own pods.", live=True
        )] = AgentNetworkSettings()
    web: Annotated[WebSettings | None, declare(
        "A page for browsers, and metrics for Prometheus. Not given: neither.")] = None
    image: Annotated[ImageSettings, declare("How images are fetched and unpacked.")] = ImageSettings()
    registry: Annotated[dict[str, RegistrySettings], declare(
        "Registries by host, where they differ from others.", {"old.lan:5000": {"insecure": True}},
        each=registry_host)] = msgspec.field(default_factory=dict)
    notify: Annotated[NotifySettings | None, declare(
        "Who is told when this machine needs a person; not given: nobody.")] = None
    labels: Annotated[dict[str, str], declare(
        "What this machine is called: pods' own labels look at it.", {"site": "edge-1"}, each=label
    )] = msgspec.field(default_factory=dict)
    file: Path | None = None
    seeds: tuple[ParsedPod, ...] = ()
    seed_problems: tuple[Problem, ...] = ()


# fmt: on
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
    """Return settings with the directories that a file with errors still gives, else defaults.

    For stopping the pods of a former agent; arguments as of `load_settings`.
    """
    document: dict[str, Any] = {}
    with suppress(InvalidSpec, ValueError, RecursionError):
        document = tomllib.loads(_read(path or DEFAULT_FILE, may_be_missing=True) or "")
    directories: dict[str, Path] = {}
    for key in _DIRECTORIES:
        with suppress(ValueError):
            if isinstance(document.get(key), str):
                directories[key] = _directory(document[key], key)
    chosen, _ = _chosen_directories(environ, overrides or {})
    return msgspec.structs.replace(Settings(), **{**directories, **chosen})


def _chosen_directories(
    environ: Mapping[str, str], overrides: Mapping[str, str | None]
) -> tuple[dict[str, Path], list[Problem]]:
    """Return the directories that the command line and the environment choose, and the problems of others."""
    chosen = [(key, value, "command line", f"--{key.replace('_', '-')}") for key, value in overrides.items()]
    if overrides.get("data_dir") is None:
        chosen.append(("data_dir", environ.get("TANK_DATA_DIR") or None, "environment", "TANK_DATA_DIR"))
    directories: dict[str, Path] = {}
    problems = []
    for key, value, where, name in chosen:
        if value is None:
            continue
        try:
            # A relative path starts at the user's working directory; symbolic links in it stay as they are.
            directories[key] = _directory(os.path.abspath(value), key)  # noqa: PTH100
        except ValueError as error:
            problems.append(Problem(where, 0, name, str(error)))
    return directories, problems


def _read(file: Path, *, may_be_missing: bool) -> str | None:
    try:
        with file.open("rb") as stream:
            # Bytes that are not UTF-8 become surrogates, which the parser refuses with their line.
            return stream.read(TEXT_MAX + 1).decode(errors="surrogateescape")
    except FileNotFoundError:
        if may_be_missing:
            return None
        message = "there is no such file"
    except OSError as error:
        message = f"can't be read: {error.strerror}"
    raise InvalidSpec((Problem(str(file), 0, "", message),))


def _parse(content: str, file: Path) -> tuple[Settings, list[Problem]]:
    document, problem = read_toml(content, str(file))
    if document is None:
        return Settings(), [problem] if problem else []
    lines = find_lines(without_mark(content))
    pods = parse_inline_pods(document.pop("pods", []), content, str(file), beside=Reading(_beside(file)))
    try:
        table, structure = read_table(document, table_of(Settings), AGENT_FILE)
    except RecursionError:
        return Settings(), [Problem(str(file), 0, "", "lists or tables are nested too deep")]
    findings = list(structure.findings)
    settings = Settings()
    if table is not None:
        found: list[Finding] = []
        settings = settings_of(Settings, table, (), found)
        found += _together(settings, {finding.path for finding in found} | structure.covered)
        findings += [finding for finding in found if not structure.is_covered(finding.path)]
        images = msgspec.structs.replace(settings.image, registries=settings.registry)
        settings = msgspec.structs.replace(settings, image=images, file=file)
    problems = sorted(to_problems(findings, file=str(file), lines=lines), key=lambda found: found.line)
    return msgspec.structs.replace(settings, seeds=pods.pods, seed_problems=pods.problems), problems


def _beside(file: Path) -> Beside:
    """Return the reader of the files beside agent.toml, which its `[[pods]]` may name."""

    def read(path: str) -> bytes:
        # It loads ctypes, which nobody should wait for whose pods name no files.
        from tank_agent.linux.whole_files import beside_directory

        return beside_directory(file.absolute().parent, _WRITER_WITHIN)(path)

    return read


def _together(settings: Settings, known: Collection[KeyPath]) -> list[Finding]:
    """Return the errors of settings that contradict each other, without keys that have errors already."""
    found = []
    adapter = settings.host.adapter
    for name in ("uplink", "dns"):
        if adapter not in ("auto", "static") and getattr(settings.host, name):
            message = f"is not asked for with adapter = {show(adapter)}; remove it"
            found.append(Finding(("host", name), message))
    together = (
        [] if settings.git is None else [(f"git.{key}", why) for key, why in problems_of_git(settings.git)]
    )
    if settings.web is not None and not any(path[0] == "web" for path in known):
        together += [(f"web.{key}", why) for key, why in problems_of_web(settings.web)]
        if settings.git is not None and settings.git.webhook.listen == settings.web.listen:
            together.append(("web.listen", "is that of git.webhook, too; each needs a port of its own"))
    # They compare values of several keys, each of which must be right itself.
    if not any(path[0] == "network" for path in known):
        together += [(f"network.{key}", why) for key, why in problems_of_network(settings.network)]
    if settings.notify is not None and not any(path[0] == "notify" for path in known):
        together += [(f"notify.{key}", why) for key, why in problems_of_notify(settings.notify)]
    # What is derived from a forge that is not known would be wrong.
    no_forge = ("git", "status", "forge") in known
    for key, message in together:
        path: KeyPath = tuple(key.split("."))
        if no_forge and key.startswith("git.status."):
            continue
        # One finding a value is enough.
        found += [] if path in known else [Finding(path, message)]
    return found


def _shared_directories(settings: Settings, file: str) -> list[Problem]:
    seen: dict[Path, str] = {}
    problems = []
    for key in _DIRECTORIES:
        other = seen.setdefault(getattr(settings, key), key)
        if other != key:
            message = f"is the same directory as {other}; each needs one of its own"
            problems.append(Problem(file, 0, key, message))
    return problems
