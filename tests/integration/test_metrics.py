"""Metrics of real pods: what the kernel and `tank status` say, as promtool and a real Prometheus read it."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tank_agent.errors import TankError
from tank_agent.runtime.limits import cgroup
from tank_agent.runtime.run import RECORD, RunRecord, read_file
from tests.support.agent import Agent, ended, wait_for
from tests.support.git import free_port
from tests.support.prometheus import prometheus
from tests.support.updates import update_table, word_pod

ALERTS = Path(__file__).parents[2] / "packaging" / "prometheus" / "alerts.yml"
ANSWER = """
[containers.health]
exec = ["/bin/sh", "-c", "exit {code}"]
interval = "1s"
start_interval = "1s"
start_period = "0s"
retries = 1
on_failure = "none"
"""
JOB = 'schedule = "@yearly"\nrestart = "never"\n'
# Its child takes more than it may, again and again; it goes on.
GREEDY = [
    "/bin/sh",
    "-c",
    "while :; do head -c 200m /dev/zero | tail -c 200m > /dev/null; sleep 1000 & wait; done",
]

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Agent, str]]:
    """Return an agent that serves its metrics at an address, too, and that address."""
    agent, port = Agent(tmp_path), free_port()
    with agent.config.open("a") as config:
        config.write(f'[web]\nlisten = "127.0.0.1:{port}"\n')
    with ended(agent):
        agent.start()
        yield agent, f"127.0.0.1:{port}"


def samples(agent: Agent) -> Samples:
    """Return all samples by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(agent.client.metrics())
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float | None:
    """Return the value of the one sample that has these labels; None if there is none."""
    wanted = frozenset(labels.items())
    values = [number for (key, own), number in found.items() if key == name and wanted <= own]
    assert len(values) <= 1, (name, labels, values)
    return values[0] if values else None


def phase(found: Samples, pod: str) -> str:
    (name,) = [
        dict(labels)["phase"]
        for (key, labels), number in found.items()
        if key == "tank_pod_phase" and number == 1 and ("pod", pod) in labels
    ]
    return name


def records(agent: Agent, pod: str) -> list[RunRecord]:
    found = (read_file(one / RECORD, RunRecord) for one in (agent.run / "containers").iterdir())
    return [one for one in found if one is not None and one.pod == pod]


def record(agent: Agent, pod: str) -> RunRecord:
    (found,) = records(agent, pod)
    return found


def kernel(agent: Agent, pod: str, *names: str) -> str:
    """Return a file of a container's group, the first of these names that there is."""
    path = record(agent, pod).cgroup
    for directory in cgroup.detect(agent.run).directories(path):
        for name in names:
            if (directory / name).exists():
                return (directory / name).read_text()
    # Its record is there before its group.
    return ""


def killed(agent: Agent, pod: str) -> int:
    words = kernel(agent, pod, "memory.events", "memory.oom_control").split()
    return int(words[words.index("oom_kill") + 1]) if words else 0


def test_every_kind_of_pod_has_what_status_and_the_kernel_say(agent: Agent) -> None:
    agent.write("well", agent.pod_text(extra=f'{ANSWER.format(code=0)}[containers.limits]\nmemory = "64M"'))
    agent.write("sick", agent.pod_text(extra=ANSWER.format(code=1)))
    agent.write("crash", agent.pod_text(command=["/bin/sh", "-c", "exit 3"]))
    agent.write("nightly", agent.pod_text(command=["/bin/true"], head=JOB))
    agent.write("updated", word_pod(agent, "first"))
    agent.wait_phase("updated", "running")
    wait_for(lambda: agent.client.status("updated").rollout.state == "good", "the first is good")  # type: ignore[union-attr]
    agent.write("updated", word_pod(agent, "second", well=False, update=update_table(deadline="10s")))
    agent.write("broken", "name = 3\n")
    agent.write("there", agent.pod_text(head='hosts = ["nowhere-else"]'))
    agent.wait_phase("nightly", "scheduled")
    agent.client.run("nightly")
    wait_for(lambda: agent.client.status("sick").health == "unhealthy", "sick is unhealthy")
    wait_for(
        lambda: agent.client.status("nightly").job.runs and agent.client.status("nightly").job.run is None,
        "it ran",
    )  # type: ignore[union-attr]
    wait_for(lambda: agent.client.status("updated").hold is not None, "it went back")
    wait_for(
        lambda: value(samples(agent), "tank_update_total", pod="updated", outcome="rolled-back") == 1,
        "it is good",
    )

    text = agent.tank("metrics")
    assert (text.returncode, text.stderr) == (0, "")
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=text.stdout,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")

    found = samples(agent)
    for pod in ("well", "nightly", "updated"):
        status = agent.status(pod)
        assert status is not None
        assert phase(found, pod) == status["phase"], pod
        assert value(found, "tank_pod_generation", pod=pod) == status["generation"]
    assert (value(found, "tank_pod_healthy", pod="well"), value(found, "tank_pod_healthy", pod="sick")) == (
        1,
        0,
    )
    assert value(found, "tank_container_health", pod="sick", state="unhealthy") == 1
    assert value(found, "tank_probe_total", pod="sick", kind="exec", result="failed") > 0  # type: ignore[operator]
    assert value(found, "tank_probe_total", pod="sick", kind="exec", result="successful") == 0
    crash = agent.status("crash")
    assert crash is not None
    assert (
        0 < value(found, "tank_container_restarts_total", pod="crash") <= crash["containers"][0]["restarts"]
    )  # type: ignore[operator]
    assert value(found, "tank_pod_quarantined", pod="updated") == 1
    assert value(found, "tank_pod_update_failed", pod="updated") == 1
    assert value(found, "tank_update_total", pod="updated", outcome="good") == 1
    assert value(found, "tank_update_total", pod="updated", outcome="failed") == 1
    assert value(found, "tank_rollout_duration_seconds_count") == value(
        found, "tank_rollout_duration_seconds_bucket", le="+Inf"
    )
    assert value(found, "tank_job_last_run_succeeded", pod="nightly") == 1
    job = agent.client.status("nightly").job
    assert job is not None
    assert value(found, "tank_job_last_success_timestamp_seconds", pod="nightly") > 1_700_000_000  # type: ignore[operator]
    assert (value(found, "tank_unusable_files"), value(found, "tank_pods_elsewhere")) == (1, 1)
    assert not [labels for _, labels in found if ("pod", "there") in labels or ("pod", "broken") in labels]

    # The kernel's own numbers, before and after.
    before = samples(agent)
    used = int(kernel(agent, "well", "memory.usage_in_bytes", "memory.current"))
    assert value(before, "container_threads", pod="well") == int(kernel(agent, "well", "pids.current"))
    shown = value(before, "container_memory_usage_bytes", pod="well")
    assert shown is not None
    assert abs(shown - used) < 4 << 20
    assert 0 < value(before, "container_memory_working_set_bytes", pod="well") <= shown  # type: ignore[operator]
    assert value(before, "container_spec_memory_limit_bytes", pod="well") == 64 << 20
    assert value(before, "container_cpu_usage_seconds_total", pod="well") <= value(  # type: ignore[operator]
        samples(agent), "container_cpu_usage_seconds_total", pod="well"
    )


def test_killed_processes_are_the_kernels_count_over_runs_and_agents(agent: Agent) -> None:
    limit = '[containers.limits]\nmemory = "24M"\n'
    agent.write("greedy", agent.pod_text(command=GREEDY, extra=limit))

    def shown() -> float | None:
        return value(samples(agent), "container_oom_events_total", pod="greedy", container="app")

    agent.wait_phase("greedy", "running")
    wait_for(lambda: killed(agent, "greedy") > 0, "the kernel kills")
    first = wait_for(
        lambda: shown() if shown() == killed(agent, "greedy") else None, "it is the kernel's count"
    )
    former = record(agent, "greedy").id
    agent.client.restart("greedy")

    def replaced() -> bool:
        ids = [run.id for run in records(agent, "greedy")]
        return len(ids) == 1 and ids != [former]

    wait_for(replaced, "the next run takes its place")
    wait_for(lambda: killed(agent, "greedy") > 0, "the kernel kills in the next run")
    both = wait_for(lambda: shown() if shown() == first + killed(agent, "greedy") else None, "runs add up")
    assert both > first
    agent.kill()
    agent.start()
    # The run that it adopts has the kernel's count, the one before is gone.
    wait_for(lambda: shown() == killed(agent, "greedy"), "the count begins anew")


def test_a_prometheus_scrapes_and_counts_on_over_a_restart(served: tuple[Agent, str], tmp_path: Path) -> None:
    agent, address = served
    agent.write("web", agent.pod_text(extra=ANSWER.format(code=0)))
    agent.write("sick", agent.pod_text(extra=ANSWER.format(code=1)))
    agent.write("there", agent.pod_text(head='hosts = ["nowhere-else"]'))
    agent.wait_phase("web", "running")
    with prometheus(tmp_path, address, rules=ALERTS) as server:
        probes = 'tank_probe_total{pod="web",result="successful"}'
        wait_for(lambda: server.value('tank_pod_phase{pod="web",phase="running"}') == 1, "it runs")
        wait_for(lambda: (server.value(probes) or 0) > 3, "probes are counted")
        assert server.value("count(tank_pod_phase == 1)") == 2
        wait_for(lambda: (server.value("tank_agent_cpu_seconds_total") or 0) > 0, "the agent works")
        agent.kill()
        wait_for(lambda: server.value("up") == 0, "it is away")
        agent.start()
        wait_for(lambda: server.value("up") == 1, "it is back")
        wait_for(lambda: server.value(f"resets({probes}[5m])") == 1, "the counter began anew")
        wait_for(lambda: (server.value(f"increase({probes}[5m])") or 0) > 4, "and goes on")
        assert (server.value(f"rate({probes}[5m])") or 0) < 10
        # Its containers went on, so their CPU time did not begin anew, nor did their restarts.
        assert server.value('resets(container_cpu_usage_seconds_total{pod="web"}[5m])') == 0
        assert server.value('resets(tank_container_restarts_total{pod="web"}[5m])') == 0
        assert server.value('tank_pod_healthy{pod="sick"}') == 0
        wait_for(lambda: server.query('ALERTS{alertname="TankPodUnhealthy"}'), "a person is told soon")
        (alert,) = server.query('ALERTS{alertname="TankPodUnhealthy"}')
        assert json.loads(alert)["pod"] == "sick"
        (agent.pods / "web.toml").unlink()
        agent.wait_gone("web")
        wait_for(lambda: not server.query('tank_pod_phase{pod="web"}'), "its series end")
        assert server.targets() == [("up", "")]


def test_many_scrape_at_once_while_pods_come_and_go(agent: Agent) -> None:
    stop, faults, texts = threading.Event(), list[str](), list[str]()

    def scrape() -> None:
        while not stop.is_set():
            try:
                text = agent.client.metrics()
                names = [family.name for family in text_string_to_metric_families(text)]
                if len(names) != len({*names}) or "tank_build_info" not in names:
                    faults.append(text)
                lines = [line.rpartition(" ")[0] for line in text.splitlines()]
                if len(lines) != len({*lines}):
                    faults.append(text)
                texts.append(text)
            except (TankError, ValueError) as error:
                faults.append(str(error))

    threads = [threading.Thread(target=scrape) for _ in range(20)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(2):
            for number in range(3):
                agent.write(f"pod-{number}", agent.pod_text(extra=ANSWER.format(code=turn)))
            for number in range(3):
                agent.wait_phase(f"pod-{number}", "running")
            for number in range(3):
                (agent.pods / f"pod-{number}.toml").unlink()
            for number in range(3):
                agent.wait_gone(f"pod-{number}")
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert faults == []
    assert len(texts) >= 20
    assert any('pod="pod-2"' in text for text in texts)
    assert 'pod="' not in agent.client.metrics()


def test_a_file_for_node_exporter_and_json(agent: Agent, tmp_path: Path) -> None:
    agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")
    socket, target = agent.run / "tank.sock", tmp_path / "tank.prom"
    # The line of the page.
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    line = next(text for text in page.splitlines() if text.startswith("* * * * * root cd "))
    command = line.removeprefix("* * * * * root ").replace("/var/lib/prometheus/node-exporter", str(tmp_path))

    def written() -> int:
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            env={"PATH": f"{Path(_tank()).parent}:/usr/bin:/bin", "TANK_SOCKET": str(socket)},
            capture_output=True,
            timeout=60,
            check=False,
        )
        return done.returncode

    assert written() == 0
    text = target.read_text()
    assert 'tank_pod_phase{phase="running",pod="web"} 1.0\n' in text
    # node-exporter has these of its own, and would refuse the file.
    assert "\nprocess_" not in text and "\nnode_" not in text
    listed: list[dict[str, Any]] = json.loads(agent.tank("metrics", "-o", "json").stdout)
    (ready,) = [one for one in listed if one["name"] == "tank_pod_ready"]
    assert ready["labels"] == {"pod": "web"}
    agent.stop()
    assert written() == 1
    # What was there is not lost, and half of nothing is not read.
    assert target.read_text() == text
    agent.start()


def _tank() -> str:
    import sys

    return str(Path(sys.executable).with_name("tank"))
