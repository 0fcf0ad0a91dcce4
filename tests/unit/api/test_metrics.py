"""Metrics of pods that a test makes up; prometheus_client reads them, and promtool where Debian has it."""

from __future__ import annotations

import re
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tank_agent.api import metrics
from tank_agent.control.pods import Service
from tank_agent.journal.records import (
    ContainerStatus,
    DesiredPod,
    Good,
    Health,
    Hold,
    JobRun,
    JobStatus,
    PodStatus,
    Rollout,
)
from tank_agent.reconcile.core.observed import Run
from tank_agent.reconcile.core.phase import ContainerView, Phase, PodView
from tank_agent.reconcile.counters import Counters
from tank_agent.runtime.limits.measure import Measured
from tank_agent.runtime.run import RunState
from tank_agent.spec.model import Pod, content_hash

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"
DIGEST = "sha256:" + "a" * 64


class Machine:
    """An agent whose pods a test makes up; it is also its own loop, journal, containers and sources."""

    def __init__(self, data_dir: Path) -> None:
        self.views: dict[str, PodView] = {}
        self.pods: dict[str, DesiredPod] = {}
        self.known: dict[str, PodStatus] = {}
        self.used: dict[str, dict[str, Measured]] = {}
        self.deaths: dict[str, dict[str, int]] = {}
        self.broken: list[Any] = []
        self.others: dict[str, tuple[str, ...]] = {}
        self.all_suspended = False
        self.counters = Counters()
        self.settings = SimpleNamespace(data_dir=data_dir)
        self.git: Any = None
        self.machine = self.reconciler = self.journal = self.containers = self.sources = self.intake = self

    def add(self, name: str, phase: Phase = Phase.RUNNING, **changes: Any) -> None:
        """Add a pod with a container "app", whose view and spec have these changes."""
        spec: dict[str, Any] = {"image": "nginx:1", **changes.pop("spec", {})}
        head = changes.pop("head", {})
        pod = Pod.new({"name": name, **head, "containers": [{"name": "app", **spec}]})
        hold, self.known[name] = changes.pop("hold", None), changes.pop("status", PodStatus())
        self.pods[name] = DesiredPod(
            name=name,
            pod=pod,
            owner=changes.pop("owner", "api"),
            revision="rev",
            generation=changes.pop("generation", 1),
            hash=content_hash(pod),
            changed_at=0.0,
            hold=hold,
        )
        known = ContainerStatus(hash="", restarts=changes.pop("restarts", 0), started_at=1_780_000_000.25)
        image = changes.pop("image", f"docker.io/library/nginx:1@{DIGEST}")
        run = Run(id="run", container="app", hash="", state=RunState.RUNNING, image=image)
        health = changes.pop("health", None)
        view = ContainerView(name="app", phase=phase, run=run, status=known, health=health)
        state = "none" if health is None else health.state
        fields = {"error": None, "next_retry": None, "health": state, **changes}
        self.views[name] = PodView(phase=phase, containers=(view,), **fields)
        self.used[name] = {"app": Measured(memory=10 << 20, reclaimable=2 << 20, cpu=1.5, threads=3)}

    def known_pods(self) -> tuple[str, ...]:
        return tuple(sorted(self.views))

    def view(self, name: str) -> PodView:
        return self.views[name]

    def get(self, name: str) -> DesiredPod | None:
        return self.pods.get(name)

    def status(self, name: str) -> PodStatus:
        return self.known.get(name, PodStatus())

    def measured(self, name: str, *, again: bool) -> dict[str, Measured]:
        return self.used.get(name, {})

    def killed(self, name: str) -> dict[str, int]:
        return self.deaths.get(name, {})

    def problems(self) -> list[Any]:
        return self.broken

    def elsewhere(self) -> dict[str, tuple[str, ...]]:
        return self.others

    def suspended(self) -> bool:
        return self.all_suspended

    def text(self) -> str:
        return metrics.metrics_text(cast(Service, self))

    def families(self) -> dict[str, Metric]:
        return {family.name: family for family in text_string_to_metric_families(self.text())}

    def value(self, name: str, **labels: str) -> float | None:
        """Return the value of a sample with these labels and no others; None if there is none."""
        found = [
            sample.value
            for family in self.families().values()
            for sample in family.samples
            if sample.name == name and sample.labels == labels
        ]
        assert len(found) <= 1
        return found[0] if found else None


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def full(machine: Machine) -> Machine:
    """Give a machine a pod of each kind, so that there is no metric without a sample."""
    counters = machine.counters
    machine.add("web", health=Health(state="healthy", since=0.0), spec={"limits": {"memory": "64M"}})
    machine.add("api", Phase.DEGRADED, health=Health(state="unhealthy", since=0.0), error="it is down")
    run = JobRun(number=1, cause="schedule", due=100.0, begun=101.5, ended=104.0, outcome="succeeded")
    job = PodStatus(job=JobStatus(next_due=1000.0, runs=(run,), succeeded=104.0))
    machine.add("nightly", Phase.SCHEDULED, status=job, head={"schedule": "@daily", "restart": "never"})
    for kind in ("http", "exec"):
        counters.probe("web", "app", kind, "successful", 0.25)  # type: ignore[arg-type]
    counters.update("web", "good", 12.0)
    counters.turn(0.002)
    counters.pull(good=True)
    status = SimpleNamespace(state="in-sync", looked_at=50.0, commit=SimpleNamespace(at=40.0, id="c0ffee"))
    machine.git = SimpleNamespace(repository=SimpleNamespace(status=status))
    return machine


def test_every_metric_is_declared_and_has_its_labels(machine: Machine) -> None:
    found = full(machine).families()
    endings = ("_total", "_bucket", "_sum", "_count")
    assert {f"{name}_total" if one.type == "counter" else name for name, one in found.items()} == {
        *metrics.FAMILIES
    }
    for family in found.values():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        declared = metrics.FAMILIES[name]
        assert (family.type, family.documentation) == (declared.kind, declared.help)
        for sample in family.samples:
            assert sample.name == name or sample.name.removeprefix(family.name) in endings
            assert sample.labels.keys() - {"le"} == {*declared.labels}, sample


def test_what_is_read_from_the_text_is_written_as_the_same_text(machine: Machine) -> None:
    text = full(machine).text()

    class Collector:
        def collect(self) -> list[Metric]:
            return list(text_string_to_metric_families(text))

    registry = CollectorRegistry(auto_describe=False)
    registry.register(cast(Any, Collector()))
    theirs = generate_latest(registry).decode()
    again = [one for one in text_string_to_metric_families(theirs) if not one.name.endswith("_created")]
    assert [(one.name, one.type, one.samples) for one in again] == [
        (one.name, one.type, one.samples) for one in text_string_to_metric_families(text)
    ]
    # Each line has its place, and none is there twice.
    lines = [line.rsplit(" ", 1)[0] for line in text.splitlines()]
    assert len(lines) == len({*lines})


@pytest.mark.machine
def test_promtool_finds_no_fault(machine: Machine) -> None:
    command = ["promtool", "check", "metrics"]
    done = subprocess.run(
        command, input=full(machine).text(), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_pod_is_in_one_phase_and_a_container_has_one_health(machine: Machine) -> None:
    machine.add("web", Phase.BACKING_OFF, health=Health(state="unhealthy", since=0.0), restarts=7)
    phases = machine.families()["tank_pod_phase"].samples
    assert [sample.labels["phase"] for sample in phases if sample.value == 1] == ["backing-off"]
    assert {sample.labels["phase"] for sample in phases} == {*Phase} - {Phase.ELSEWHERE}
    health = machine.families()["tank_container_health"].samples
    assert {sample.labels["state"]: sample.value for sample in health} == {
        **{"starting": 0, "healthy": 0, "unhealthy": 1}
    }
    assert machine.value("tank_pod_healthy", pod="web") == 0
    assert machine.value("tank_container_restarts_total", pod="web", container="app") == 7


def test_a_pod_without_checks_has_no_health(machine: Machine) -> None:
    machine.add("web")
    assert "tank_pod_healthy" not in machine.families()
    assert "tank_container_health" not in machine.families()


def test_use_has_the_names_of_cadvisor_and_no_digest(machine: Machine) -> None:
    machine.add("web", spec={"limits": {"memory": "64M"}})
    machine.deaths["web"] = {"app": 2}
    labels = {"pod": "web", "container": "app", "image": "docker.io/library/nginx:1"}
    for name, value in {
        "container_cpu_usage_seconds_total": 1.5,
        "container_memory_usage_bytes": 10 << 20,
        "container_memory_working_set_bytes": 8 << 20,
        "container_spec_memory_limit_bytes": 64 << 20,
        "container_threads": 3,
        "container_oom_events_total": 2,
        "container_start_time_seconds": 1_780_000_000.25,
    }.items():
        assert machine.value(name, **labels) == value, name
    assert "sha256" not in machine.text()


def test_what_does_not_run_uses_nothing(machine: Machine) -> None:
    machine.add("web", Phase.FAILED)
    machine.used.clear()
    names = [name for name in machine.families() if name.startswith("container_")]
    assert names == ["container_oom_events"]


def test_what_runs_and_is_not_wanted_has_a_phase_and_its_use(machine: Machine) -> None:
    machine.add("web", Phase.STOPPING)
    del machine.pods["web"]
    assert machine.value("tank_pod_phase", pod="web", phase="stopping") == 1
    image = {"image": "docker.io/library/nginx:1"}
    assert machine.value("container_threads", pod="web", container="app", **image) == 3
    assert "tank_pod_generation" not in machine.families()


@pytest.mark.parametrize(
    ("hold", "quarantined", "suspended"),
    [(None, 0, 0), ("quarantined", 1, 0), ("suspended", 0, 1), ("pinned", 0, 1)],
)
def test_holds(machine: Machine, hold: str | None, quarantined: int, suspended: int) -> None:
    kept = Hold(kind=cast(Any, hold), since=0.0) if hold is not None else None
    machine.add("web", hold=kept)
    assert machine.value("tank_pod_quarantined", pod="web") == quarantined
    assert machine.value("tank_pod_suspended", pod="web") == suspended


def test_all_sources_suspended_concerns_the_pods_of_files(machine: Machine) -> None:
    machine.add("web", owner="dir:/etc/tank/pods.d/web.toml")
    machine.add("api", owner="api")
    assert machine.value("tank_sources_suspended") == 0
    machine.all_suspended = True
    values = [machine.value("tank_pod_suspended", pod=pod) for pod in ("web", "api")]
    assert (machine.value("tank_sources_suspended"), values) == (1, [1, 0])


def test_a_failed_update(machine: Machine) -> None:
    rollout = Rollout(generation=2, kind="update", boot_id="boot", outcome="failed", reason="secret words")
    good = Good(generation=1, hash="", at=0.0)
    machine.add("web", generation=2, status=PodStatus(rollout=rollout, good=good))
    assert machine.value("tank_pod_update_failed", pod="web") == 1
    assert machine.value("tank_pod_update_blocked", pod="web") == 0
    assert machine.value("tank_pod_generation", pod="web") == 2
    assert "secret words" not in machine.text()


def test_a_job_that_never_ran_has_no_times_but_the_next(machine: Machine) -> None:
    head = {"schedule": "@daily", "restart": "never"}
    machine.add("job", Phase.SCHEDULED, head=head, status=PodStatus(job=JobStatus(next_due=1000.0)))
    found = [name for name in machine.families() if name.startswith("tank_job")]
    assert found == ["tank_job_running", "tank_job_next_run_timestamp_seconds"]
    assert "tank_update" not in machine.families()


def test_a_job_whose_kept_runs_all_failed_still_knows_its_last_success(machine: Machine) -> None:
    runs = tuple(
        JobRun(number=n, cause="schedule", due=n, begun=n, ended=n + 1.0, outcome="failed") for n in range(10)
    )
    under_way = replace(runs[-1], ended=None, outcome=None)
    job = JobStatus(runs=(*runs[:-1], under_way), succeeded=42.0)
    head = {"schedule": "@daily", "restart": "never"}
    machine.add("job", head=head, status=PodStatus(job=job))
    expected = {"last_success_timestamp_seconds": 42, "last_run_succeeded": 0, "running": 1}
    assert {name: machine.value(f"tank_job_{name}", pod="job") for name in expected} == expected
    assert machine.value("tank_job_last_run_timestamp_seconds", pod="job") == 9


def test_git_has_one_state_and_no_commit_in_its_labels(machine: Machine) -> None:
    assert not [name for name in machine.families() if name.startswith("tank_git")]
    full(machine)
    states = machine.families()["tank_git_state"].samples
    assert {sample.labels["state"]: sample.value for sample in states} == dict.fromkeys(metrics.GIT, 0) | {
        "in-sync": 1
    }
    assert machine.value("tank_git_last_sync_timestamp_seconds") == 50
    assert machine.value("tank_git_commit_timestamp_seconds") == 40
    assert "c0ffee" not in machine.text()
    machine.all_suspended = True
    assert machine.value("tank_git_state", state="suspended") == 1


def test_pods_elsewhere_and_broken_files_are_counted_and_have_no_series(machine: Machine) -> None:
    machine.broken = [SimpleNamespace(file=f"/etc/tank/pods.d/{name}.toml") for name in ("a", "b", "b")]
    machine.others = {"git": ("one", "two")}
    assert (machine.value("tank_unusable_files"), machine.value("tank_pods_elsewhere")) == (2, 2)
    assert "tank_pod_phase" not in machine.families()


@pytest.mark.parametrize(
    "image",
    [
        'oci:/srv/"},evil="1',
        "oci:/srv/a\\",
        "oci:/srv/a\\n\\\\",
        "oci:/srv/a\nevil 1",
        "oci:/srv/\x1b[2J\x00\x7f\u202e",
        "oci:/srv/\udcff",
        "oci:/srv/{a=~b}#, c",
        "# HELP x",
        "",
    ],
)
def test_no_name_breaks_the_format(machine: Machine, image: str) -> None:
    machine.add("web")
    plain = machine.text().count("\n")
    machine.add("web", image=image)
    text = machine.text()
    assert text.count("\n") == plain
    assert all(line.isprintable() for line in text.split("\n"))
    (sample,) = machine.families()["container_threads"].samples
    assert {*sample.labels} == {"pod", "container", "image"}


def test_a_place_that_does_not_answer_is_left_out(machine: Machine, tmp_path: Path) -> None:
    machine.settings.data_dir = tmp_path / "gone"
    assert "tank_data_dir_free_bytes" not in machine.families()
    assert machine.value("tank_build_info", version=metrics.__version__) == 1


def test_pods_that_are_gone_leave_the_answer(machine: Machine) -> None:
    full(machine)
    machine.views.clear()
    machine.pods.clear()
    assert 'pod="' not in machine.text()


def test_many_ask_at_once_while_counts_go_on(machine: Machine) -> None:
    full(machine)
    stop, texts = threading.Event(), list[str]()

    def count() -> None:
        while not stop.is_set():
            machine.counters.probe("web", "app", "tcp", "failed", 0.1)
            machine.counters.forget("web")

    def ask() -> None:
        for _ in range(10):
            texts.append(machine.text())

    counting, asking = threading.Thread(target=count), [threading.Thread(target=ask) for _ in range(20)]
    counting.start()
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(60)
    stop.set()
    counting.join(60)
    assert len(texts) == 200
    for text in texts[::20]:
        assert len(list(text_string_to_metric_families(text))) > 20


def test_the_page_has_every_metric_with_its_labels_and_no_other() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", PAGE.read_text(), re.MULTILINE)
    told = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert told == {name: (one.kind, one.labels) for name, one in metrics.FAMILIES.items()}
