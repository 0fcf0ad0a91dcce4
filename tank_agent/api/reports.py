"""Structs of the status of pods, containers and sources. Times are RFC 3339 in UTC."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field


class ClientAnswer(Struct, frozen=True, kw_only=True):
    """An answer in the Python API: its fields are attributes, and can be read by `answer["name"]`, too."""

    def __getitem__(self, name: str) -> Any:
        """Return a field by its name.

        Raises:
            KeyError: there is no such field.
        """
        if name not in self.__struct_fields__:
            raise KeyError(name)
        return getattr(self, name)


class UsageReport(ClientAnswer, frozen=True, kw_only=True):
    """Resources in use: `memory` in bytes, `cpu` in seconds since the start, `pids` counts threads, too."""

    memory: int
    cpu: float
    pids: int


class ExitReport(ClientAnswer, frozen=True, kw_only=True):
    """The exit of a run; `reason` is a sentence where the numbers do not suffice."""

    code: int | None
    signal: int | None
    oom: bool
    at: str | None
    reason: str | None = None


class ProgressReport(ClientAnswer, frozen=True, kw_only=True):
    """The progress of the pull of a container's image, in bytes of compressed layers."""

    done: int
    total: int


class ContainerReport(ClientAnswer, frozen=True, kw_only=True):
    """A container in a pod's status: `exit` is the exit of its last run, `usage` null unless it runs."""

    name: str
    phase: str
    pid: int | None
    restarts: int
    image: str
    progress: ProgressReport | None = None
    exit: ExitReport | None = None
    usage: UsageReport | None = None


class PortReport(ClientAnswer, frozen=True, kw_only=True):
    """Ports of the machine that lead to a pod: `count` of them, from `host` on to those from `pod` on."""

    address: str
    host: int
    pod: int
    protocol: Literal["tcp", "udp"]
    count: int

    def __str__(self) -> str:
        """Return it for people: "127.0.0.1:8080→80/tcp"."""
        address = f"[{self.address}]" if ":" in self.address else self.address
        last = self.count - 1
        host, pod = (f"{first}-{first + last}" if last else str(first) for first in (self.host, self.pod))
        return f"{address}:{host}→{pod}/{self.protocol}"


class PodGitReport(ClientAnswer, frozen=True, kw_only=True):
    """A pod of a git repository; `state` is in-sync, behind, held, error, pinned or suspended."""

    state: str
    error: str | None
    commit: str
    author: str
    subject: str
    file: str


class HoldReport(ClientAnswer, frozen=True, kw_only=True):
    """The reason why a pod does not follow its file; `since` is null if all sources are suspended."""

    kind: str
    since: str | None
    generation: int | None


class PodReport(ClientAnswer, frozen=True, kw_only=True):
    """A pod's status (DESIGN section 8).

    `warnings` are about what of the machine keeps others from a pod that runs, each with the line to type.
    `bridges` has the addresses that are the pod's in each of its bridges, `ports` those that lead to it now.
    """

    name: str
    phase: str
    owner: str = ""
    revision: str = ""
    generation: int = 0
    error: str | None = None
    git: PodGitReport | None = None
    hold: HoldReport | None = None
    next_retry: str | None = None
    addresses: tuple[str, ...] = ()
    bridges: dict[str, tuple[str, ...]] = field(default_factory=dict)
    ports: tuple[PortReport, ...] = ()
    warnings: tuple[str, ...] = ()
    usage: UsageReport | None = None
    containers: tuple[ContainerReport, ...] = ()


class DirectoryReport(ClientAnswer, frozen=True, kw_only=True):
    """A directory of pod files or seeds; `error` is about the directory as a whole."""

    path: str
    error: str | None = None


class CommitReport(ClientAnswer, frozen=True, kw_only=True):
    """A commit; `at` is its committer's time."""

    id: str
    author: str
    subject: str
    at: str | None


class StepReport(ClientAnswer, frozen=True, kw_only=True):
    """A step of git: the revision that it last finished, the error since then, and when either changed."""

    revision: str | None = None
    error: str | None = None
    hint: str | None = None
    at: str | None = None


class StepReports(ClientAnswer, frozen=True, kw_only=True):
    """The steps of git in their order."""

    fetched: StepReport
    verified: StepReport
    checked: StepReport
    applied: StepReport


class GitReport(ClientAnswer, frozen=True, kw_only=True):
    """The git repository; `state` is one of a pod's states, or "pending" before the first poll.

    `commit` is applied, `latest` fetched; `held` is why the latter must be confirmed; `pods` is the number of
    pods that the repository owns. Without [git] in agent.toml, only `state`, `error` and `pods` are set.
    """

    state: str
    remote: str = ""
    ref: str = ""
    error: str | None = None
    hint: str | None = None
    held: str | None = None
    commit: CommitReport | None = None
    latest: CommitReport | None = None
    looked_at: str | None = None
    steps: StepReports | None = None
    troubles: tuple[str, ...] = ()
    pods: int = 0


class SourcesReport(ClientAnswer, frozen=True, kw_only=True):
    """The sources; `git` is null if there is no repository."""

    suspended: bool
    directories: tuple[DirectoryReport, ...] = ()
    git: GitReport | None = None
