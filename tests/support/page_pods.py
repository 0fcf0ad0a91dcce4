"""What a machine tells the status page: one that looks like somebody's, and pods for one of any size."""

from __future__ import annotations

import math
import random
from typing import Any

import msgspec

from tank_agent.api import reports
from tank_agent.api.reports import ContainerReport, HealthReport, PodReport, RolloutReport
from tank_agent.linux.clock import rfc3339

M = 1 << 20
OLD, NEW = "9b1f04c2d7aa31e6", "e4a7710c5be94f2d"


def pod(name: str, *, now: float, up: float = 3 * 86400 + 2000.0, **more: Any) -> PodReport:
    """Return a pod that runs well since `up` seconds, but for what `more` says; `container` is of its first.

    No time that is shown of it changes within minutes.
    """
    used = more.pop("memory", 40 * M)
    base = {
        "name": "app",
        "phase": "running",
        "pid": 4000 + sum(map(ord, name)),
        "restarts": 0,
        "image": f"registry.lan/{name}:1.4",
        "digest": "sha256:1f2e3d4c5b6a79",
        "usage": reports.UsageReport(memory=used, cpu=814.2, pids=7),
        "memory_limit": 128 * M,
        "started_at": rfc3339(now - up),
    } | more.pop("container", {})
    first = ContainerReport(**base)
    git = reports.PodGitReport(
        state="in-sync",
        error=None,
        commit=OLD,
        author="Ann Berg",
        subject="Give the sensors more memory",
        file=f"pods/{name}.toml",
    )
    fields: dict[str, Any] = {
        "name": name,
        "phase": "running",
        "owner": f"git:pods/{name}.toml",
        "revision": OLD,
        "generation": 4,
        "health": first.health.state,
        "git": git,
        "addresses": ("10.89.0.7/24",),
        "rollout": RolloutReport(state="good", outcome="good", wanted=OLD, running=OLD),
        "usage": first.usage,
        "containers": (first, *more.pop("beside", ())),
        "ready": True,
    }
    return PodReport(**fields | more)


def port(host: int, inside: int, address: str = "127.0.0.1") -> tuple[reports.PortReport, ...]:
    return (reports.PortReport(address=address, host=host, pod=inside, protocol="tcp", count=1),)


def healthy(now: float, ago: float = 86400.0) -> dict[str, Any]:
    return {"health": HealthReport(state="healthy", since=rfc3339(now - ago))}


def household(now: float) -> list[PodReport]:
    """Return pods as somebody's machine has them: most are well, and each kind of trouble is there once."""
    failed = RolloutReport(
        state="rolled-back",
        outcome="failed",
        wanted=NEW,
        running=OLD,
        reason="container app ended with exit code 3",
    )
    runs = tuple(
        reports.JobRunReport(
            number=number,
            cause="schedule",
            due=None,
            begun=rfc3339(now - ago),
            ended=rfc3339(now - ago + 94),
            outcome="succeeded",
        )
        for number, ago in ((40, 2 * 86400 + 22000.0), (41, 86400 + 22000.0), (42, 22000.0))
    )
    job = reports.JobReport(
        schedule="0 3 * * *",
        time_zone="Europe/Berlin",
        next_run=rfc3339(now + 64400),
        runs=runs,
        timeout=3600,
    )
    sick = HealthReport(
        state="unhealthy",
        since=rfc3339(now - 340),
        failing=6,
        message="GET http://127.0.0.1:8000/-/health: 503 Service Unavailable",
    )
    crashed = {
        "phase": "backing-off",
        "pid": None,
        "restarts": 7,
        "usage": None,
        "started_at": None,
        "exit": reports.ExitReport(code=1, signal=None, oom=False, at=rfc3339(now - 31)),
        "last_line": "error: cannot open /dev/ttyUSB0: No such file or directory",
        "memory_limit": 64 * M,
    }
    db = ContainerReport(
        name="db",
        phase="running",
        pid=5511,
        restarts=0,
        image="docker.io/library/postgres:17",
        digest="sha256:77aa10cc90ee41",
        usage=reports.UsageReport(memory=211 * M, cpu=9211.0, pids=14),
        memory_limit=512 * M,
        started_at=rfc3339(now - 12 * 86400),
        **healthy(now),
    )
    pulling = {
        "phase": "pulling",
        "pid": None,
        "usage": None,
        "started_at": None,
        "progress": reports.ProgressReport(done=31 * M, total=74 * M),
    }
    return [
        pod("dashboard", now=now, container=healthy(now), ports=port(3000, 3000, "0.0.0.0"), memory=86 * M),
        pod("api", now=now, up=720, container=healthy(now, 700), ports=port(8080, 80), rollout=failed),
        pod("mosquitto", now=now, up=19 * 86400, ports=port(1883, 1883, "0.0.0.0"), memory=6 * M),
        pod(
            "zigbee",
            now=now,
            phase="backing-off",
            health="none",
            container=crashed,
            ready=False,
            usage=None,
            error="container app ended with exit code 1",
            next_retry=rfc3339(now + 34),
        ),
        pod("backup", now=now, phase="scheduled", container={"phase": "completed", "pid": None, "usage": None,
            "started_at": None}, usage=None, job=job),
        pod("paperless", now=now, container={"health": sick, "memory_limit": 512 * M}, memory=388 * M,
            health="unhealthy", ports=port(8000, 8000, "0.0.0.0")),
        pod("notes", now=now, up=12 * 86400, container={"name": "web", **healthy(now)}, beside=(db,),
            health="healthy", ports=port(8090, 80, "10.0.0.12"), memory=58 * M),
        pod("camera", now=now, phase="pulling", container=pulling, usage=None, ready=False,
            rollout=RolloutReport(state="updating", outcome=None, wanted=NEW, running=OLD)),
        pod("proxy", now=now, up=40 * 86400, container={**healthy(now), "newer": "sha256:0f4419c2"},
            ports=(*port(80, 80, "0.0.0.0"), *port(443, 443, "0.0.0.0")), memory=22 * M),
        pod("metrics", now=now, up=6 * 86400, container=healthy(now), memory=101 * M, ports=port(9090, 9090)),
    ]  # fmt: skip


def household_usage(pods: list[PodReport]) -> dict[str, Any]:
    """Return an hour of CPU and memory for pods, as a machine might have it."""
    found: dict[str, Any] = {}
    for one in pods:
        for container in one.containers:
            if container.usage is None:
                continue
            dice = random.Random(f"{one.name}/{container.name}")
            base, busy = dice.uniform(0.4, 9), dice.uniform(5, 40)
            beats = dice.randrange(9, 30)
            cpu = [
                round(base * dice.uniform(0.7, 1.3) + (busy if at % beats < 2 else 0), 2) for at in range(120)
            ]
            end = container.usage.memory
            growth = 0.45 if one.name == "paperless" else 0.06
            memory = [
                int(end * (1 - growth + growth * at / 119 + 0.02 * math.sin(at / 5) * (at < 119)))
                for at in range(120)
            ]
            found[f"{one.name}/{container.name}"] = {"cpu": cpu, "memory": memory}
    return found


def household_sources(now: float) -> reports.SourcesReport:
    commit = reports.CommitReport(
        id=OLD, author="Ann Berg", subject="Give the sensors more memory", at=rfc3339(now - 8000)
    )
    return reports.SourcesReport(
        suspended=False,
        directories=(reports.DirectoryReport(path="/etc/tank/pods.d"),),
        git=reports.GitReport(
            state="in-sync",
            remote="https://git.lan/home/fleet.git",
            ref="main",
            commit=commit,
            latest=commit,
            looked_at=rfc3339(now - 42),
            pods=9,
        ),
    )


def event(seq: int, at: float, pod: str, kind: str, message: str, container: str = "") -> dict[str, Any]:
    return {
        "seq": seq,
        "at": rfc3339(at),
        "pod": pod,
        "container": container,
        "type": kind,
        "message": message,
        "revision": OLD,
        "cause": "",
    }


def household_events(now: float) -> list[dict[str, Any]]:
    told = (
        (21900, "backup", "app", "exited", "run 42 ended with exit code 0"),
        (900, "api", "", "update-started", "from 9b1f04c2d7aa to e4a7710c5be9 “Cache more” (Ben Ode)"),
        (860, "api", "app", "exited", "ended with exit code 3"),
        (850, "api", "", "update-failed", "container app ended with exit code 3; goes back to 9b1f04c2d7aa"),
        (700, "api", "", "rolled-back", "9b1f04c2d7aa is back and has proved itself"),
        (340, "paperless", "app", "unhealthy", "3 times failed: 503 Service Unavailable"),
        (300, "notes", "web", "restart-asked", "by a person"),
        (31, "zigbee", "app", "exited", "ended with exit code 1"),
        (20, "camera", "", "update-started", "from 9b1f04c2d7aa to e4a7710c5be9 “Newer camera” (Ann Berg)"),
    )
    events = [event(at, now - ago, *rest[:1], *rest[2:], rest[1]) for at, (ago, *rest) in enumerate(told, 1)]
    return [one | ({"by": "ann"} if one["type"] == "restart-asked" else {}) for one in events]


def hello(
    now: float,
    pods: list[PodReport],
    *,
    events: list[dict[str, Any]] | None = None,
    usage: dict[str, Any] | None = None,
    sources: reports.SourcesReport | None = None,
    host: str = "edge-7",
) -> dict[str, Any]:
    """Return the first message of the live stream."""
    found: dict[str, Any] = msgspec.to_builtins(
        {
            "host": host,
            "version": "0.1.0",
            "now": rfc3339(now),
            "started": rfc3339(now - 5 * 86400),
            "sources": sources or household_sources(now),
            "pods": pods,
            "events": events or [],
            "usage": {
                "interval": 30,
                "at": rfc3339(now),
                "points": household_usage(pods) if usage is None else usage,
            },
        }
    )
    return found


def why(now: float, one: PodReport) -> dict[str, Any]:
    """Return the answer on why a pod is as it is; of one that went back, with what failed."""
    back = one.rollout is not None and one.rollout.state == "rolled-back"
    summary = f"{one.name} runs as pods/{one.name}.toml says"
    wanted: tuple[reports.WantedReport, ...] = ()
    unblock: tuple[str, ...] = ()
    if back:
        failed = f"the update to {NEW[:12]} failed: container app ended with exit code 3"
        summary = f"{one.name} runs {OLD[:12]}, since {failed}"
        wanted = (
            reports.WantedReport(
                key="containers[app].image",
                old='"registry.lan/api:1.4"',
                new='"registry.lan/api:1.5"',
                effect="restarts app",
                file="pods/api.toml",
                line=10,
            ),
            reports.WantedReport(
                key="containers[app].limits.memory",
                old='"128M"',
                new='"96M"',
                effect="changed while it runs",
                file="pods/api.toml",
                line=21,
            ),
        )
        unblock = (
            "edit pods/api.toml: another text is tried at once, the same one never again by itself",
            "`tank resume api` tries the failed update again",
        )
    elif one.error:
        summary = f"{one.name} is {one.phase}: {one.error}"
        unblock = (f"`tank logs {one.name}/app` shows what it printed",)
    changes = [
        reports.ChangeReport(
            generation=4,
            at=rfc3339(now - 8000),
            revision=OLD,
            cause=f"commit {OLD[:12]} Give the sensors more memory (Ann Berg)",
            outcome="good",
            reason="it is healthy",
        )
    ]
    if back:
        changes.append(
            reports.ChangeReport(
                generation=5,
                at=rfc3339(now - 900),
                revision=NEW,
                cause=f"commit {NEW[:12]} Cache more (Ben Ode)",
                outcome="failed",
                reason="container app ended with exit code 3",
            )
        )
    events = tuple(
        reports.HappenedReport(
            at=found["at"], container=found["container"], type=found["type"], message=found["message"]
        )
        for found in household_events(now)
        if found["pod"] == one.name
    )
    answer: dict[str, Any] = msgspec.to_builtins(
        reports.WhyReport(
            name=one.name,
            summary=summary,
            status=one,
            file=f"pods/{one.name}.toml",
            line=1,
            commit=OLD,
            wanted=wanted,
            changes=tuple(changes),
            events=events,
            unblock=unblock,
        )
    )
    return answer


def log_lines(now: float, *containers: str) -> list[bytes]:
    """Return lines of a log as they travel."""
    texts = (
        "listening on :80",
        "GET /v1/rooms 200 3ms",
        "GET /v1/rooms/kitchen 200 2ms",
        "POST /v1/rooms/kitchen/lamp 204 11ms",
        "cache: 412 entries, 96 % hits",
        "GET /v1/rooms 200 2ms",
    )
    lines = []
    for at in range(24):
        for container in containers:
            when, text = rfc3339(now - (24 - at) * 7), texts[at % len(texts)]
            stream = "stderr" if at % 11 == 10 else "stdout"
            text = "warning: lamp in the cellar did not answer" if stream == "stderr" else text
            lines.append(f"{when} {stream} F {container} {text}\n".encode())
    return lines
