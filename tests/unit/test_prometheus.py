"""Alert rules and dashboard: promtool reads each expression, and all that they name is what the agent has."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tank_agent.api.metrics import FAMILIES, GIT, HEALTH
from tank_agent.reconcile.core.phase import Phase
from tank_agent.reconcile.counters import PROBE_OUTCOMES, UPDATE_OUTCOMES

PLACE = Path(__file__).parents[2] / "packaging" / "prometheus"
RULES = {
    rule["alert"]: rule
    for group in yaml.safe_load((PLACE / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}
DASHBOARD = json.loads((PLACE / "dashboard.json").read_text())
# Of Prometheus itself, and of node-exporter.
OTHERS = {"up": {"job"}, "node_textfile_mtime_seconds": {"file"}}
# What Grafana puts in place of its variables.
VARIABLES = {"$__rate_interval": "5m", "$instance": ".*", "$pod": ".*"}
VALUES = {
    "phase": {*map(str, Phase)},
    "state": {*GIT, *HEALTH},
    "outcome": {*UPDATE_OUTCOMES},
    "result": {*PROBE_OUTCOMES},
}

E1, WEB, APP = 'instance="e1"', 'instance="e1",pod="web"', 'instance="e1",pod="web",container="app"'
CADVISOR = f'{APP},image="nginx:1"'
# Each alert: series from minute 0 on, the minute in which it must fire, the labels of what it is about, and
# series with which it must not fire in that minute.
GENERATION = (f"tank_pod_generation{{{WEB}}}", "1x2000")
PODS = {"instance": "e1", "pod": "web"}
APPS = {**PODS, "container": "app"}
IMAGES = {**APPS, "image": "nginx:1"}
Series = tuple[tuple[str, str], ...]
CASES: dict[str, tuple[Series, int, dict[str, str], Series]] = {
    "TankAgentDown": (
        (('up{job="tank",instance="e1"}', "1 1 0x20"),),
        8,
        {"instance": "e1", "job": "tank"},
        (('up{job="tank",instance="e1"}', "1 0 0 1x20"), ('up{job="other",instance="e1"}', "0x20")),
    ),
    "TankNoAgents": ((("x", "1x20"),), 16, {}, ((f'tank_build_info{{{E1},version="1"}}', "1x20"),)),
    "TankMetricsStale": (
        ((f'node_textfile_mtime_seconds{{{E1},file="/var/lib/x/tank.prom"}}', "0x20"),),
        11,
        {"instance": "e1", "file": "/var/lib/x/tank.prom"},
        ((f'node_textfile_mtime_seconds{{{E1},file="/var/lib/x/apt.prom"}}', "0x20"),),
    ),
    "TankPodNotRunning": (
        (
            # It goes to and fro between two, and is well in none of them.
            (f'tank_pod_phase{{{WEB},phase="backing-off"}}', "1 0 1 0 1 0 1 0 1 0 1 0 1"),
            (f'tank_pod_phase{{{WEB},phase="starting"}}', "0 1 0 1 0 1 0 1 0 1 0 1 0"),
            (f'tank_pod_phase{{{WEB},phase="running"}}', "0x12"),
        ),
        11,
        PODS,
        (
            (f'tank_pod_phase{{{WEB},phase="starting"}}', "1x5 0x10"),
            *(
                (f'tank_pod_phase{{{E1},pod="{one}",phase="{one}"}}', "1x20")
                for one in ("scheduled", "stopped")
            ),
        ),
    ),
    "TankPodUnhealthy": (
        ((f"tank_pod_healthy{{{WEB}}}", "1 0x20"),),
        7,
        PODS,
        ((f"tank_pod_healthy{{{WEB}}}", "0 0 0 1 0 0 0 0"),),
    ),
    "TankContainerRestarts": (
        ((f"tank_container_restarts_total{{{APP}}}", "0+1x40"),),
        30,
        APPS,
        # The agent restarted, and the container was changed: that is no restart.
        ((f"tank_container_restarts_total{{{APP}}}", "90x10 0x20 2x10"),),
    ),
    "TankContainerOutOfMemory": (
        ((f"container_oom_events_total{{{CADVISOR}}}", "0x10 1x30"), GENERATION),
        20,
        IMAGES,
        # One of cAdvisor's.
        ((f'container_oom_events_total{{{E1},pod="kube",container="x"}}', "0+1x40"), GENERATION),
    ),
    "TankContainerNearMemoryLimit": (
        (
            (f"container_memory_working_set_bytes{{{CADVISOR}}}", "99x40"),
            (f"container_spec_memory_limit_bytes{{{CADVISOR}}}", "100x40"),
            GENERATION,
        ),
        16,
        IMAGES,
        (
            (f"container_memory_working_set_bytes{{{CADVISOR}}}", "90x40"),
            (f"container_spec_memory_limit_bytes{{{CADVISOR}}}", "100x40"),
            GENERATION,
        ),
    ),
    "TankUpdateFailed": (
        ((f"tank_pod_update_failed{{{WEB}}}", "0 1x5"),),
        2,
        PODS,
        ((f"tank_pod_update_failed{{{WEB}}}", "0x5"),),
    ),
    "TankRollbackFailed": (
        ((f'tank_update_total{{{WEB},outcome="rollback-failed"}}', "0 0 1x20"),),
        5,
        {**PODS, "outcome": "rollback-failed"},
        ((f'tank_update_total{{{WEB},outcome="rolled-back"}}', "0 0 1x20"),),
    ),
    "TankUpdateBlocked": (
        ((f"tank_pod_update_blocked{{{WEB}}}", "1x60"),),
        31,
        PODS,
        ((f"tank_pod_update_blocked{{{WEB}}}", "1x20 0 1x30"),),
    ),
    "TankPodHeldForLong": (
        ((f"tank_pod_suspended{{{WEB}}}", "1x5000"),),
        4322,
        PODS,
        ((f"tank_pod_suspended{{{WEB}}}", "1x1000 0 1x4000"),),
    ),
    "TankJobFailed": (
        ((f"tank_job_last_run_succeeded{{{WEB}}}", "1 0x5"),),
        2,
        PODS,
        ((f"tank_job_last_run_succeeded{{{WEB}}}", "1x5"),),
    ),
    "TankJobLate": (
        ((f"tank_job_next_run_timestamp_seconds{{{WEB}}}", "60x40"), (f"tank_job_running{{{WEB}}}", "0x40")),
        23,
        PODS,
        (
            (f"tank_job_next_run_timestamp_seconds{{{WEB}}}", "60x40"),
            (f"tank_job_running{{{WEB}}}", "1x40"),
            (f'tank_job_next_run_timestamp_seconds{{{E1},pod="b"}}', "60x40"),
            (f'tank_job_running{{{E1},pod="b"}}', "0x40"),
            (f'tank_pod_phase{{{E1},pod="b",phase="stopped"}}', "1x40"),
        ),
    ),
    "TankGitFails": (
        ((f'tank_git_state{{{E1},state="error"}}', "1x20"),),
        16,
        {"instance": "e1", "state": "error"},
        ((f'tank_git_state{{{E1},state="error"}}', "1x10 0 1x9"),),
    ),
    "TankGitBehind": (
        ((f'tank_git_state{{{E1},state="behind"}}', "1x40"),),
        31,
        {"instance": "e1", "state": "behind"},
        ((f'tank_git_state{{{E1},state="in-sync"}}', "1x40"),),
    ),
    "TankGitSilent": (
        (
            (f"tank_git_last_sync_timestamp_seconds{{{E1}}}", "60x80"),
            (f"tank_sources_suspended{{{E1}}}", "0x80"),
        ),
        62,
        {"instance": "e1"},
        (
            (f"tank_git_last_sync_timestamp_seconds{{{E1}}}", "60x80"),
            (f"tank_sources_suspended{{{E1}}}", "1x80"),
        ),
    ),
    "TankGitHeld": (
        ((f'tank_git_state{{{E1},state="held"}}', "1x80"),),
        61,
        {"instance": "e1", "state": "held"},
        ((f'tank_git_state{{{E1},state="held"}}', "0x80"),),
    ),
    "TankUnusableFiles": (
        ((f"tank_unusable_files{{{E1}}}", "2x20"),),
        16,
        {"instance": "e1"},
        ((f"tank_unusable_files{{{E1}}}", "0x20"),),
    ),
    "TankSourcesSuspended": (
        ((f"tank_sources_suspended{{{E1}}}", "1x1500"),),
        1441,
        {"instance": "e1"},
        ((f"tank_sources_suspended{{{E1}}}", "1x700 0 1x700"),),
    ),
    "TankDiskNearlyFull": (
        (
            (f"tank_data_dir_free_bytes{{{E1}}}", "9x20"),
            (f"tank_data_dir_size_bytes{{{E1}}}", "100x20"),
        ),
        16,
        {"instance": "e1"},
        (
            (f"tank_data_dir_free_bytes{{{E1}}}", "11x20"),
            (f"tank_data_dir_size_bytes{{{E1}}}", "100x20"),
        ),
    ),
    "TankStepsFail": (
        ((f"tank_reconcile_errors_total{{{E1}}}", "0+1x60"),),
        40,
        {"instance": "e1"},
        # A few, and then it went.
        ((f"tank_reconcile_errors_total{{{E1}}}", "0 3x60"),),
    ),
    "TankPullsFail": (
        ((f'tank_image_pull_total{{{E1},result="failed"}}', "0+1x60"),),
        40,
        {"instance": "e1", "result": "failed"},
        ((f'tank_image_pull_total{{{E1},result="successful"}}', "0+1x60"),),
    ),
}


def promtool(*arguments: str, home: Path, text: str) -> subprocess.CompletedProcess[str]:
    file = home / "given.yml"
    file.write_text(text)
    return subprocess.run(
        ["promtool", *arguments, str(file)], capture_output=True, text=True, timeout=120, check=False
    )


def inputs(series: Series) -> list[dict[str, str]]:
    return [{"series": one, "values": values} for one, values in series]


def document(tests: list[dict[str, Any]]) -> str:
    rules = [str(PLACE / "alerts.yml")]
    return yaml.safe_dump({"rule_files": rules, "evaluation_interval": "1m", "tests": tests})


def expressions() -> dict[str, str]:
    """Return all expressions, by where they are."""
    found = {name: rule["expr"] for name, rule in RULES.items()}
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            text = target["expr"]
            for name, value in VARIABLES.items():
                text = text.replace(name, value)
            found[f"{panel['title']} {target['refId']}"] = text
    return found


def selectors(expression: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield the metrics that an expression names, each with its matchers."""
    for name, matchers in re.findall(r"\b([a-z]\w*_\w+|up)\b(?:\{([^}]*)\})?", expression):
        if name not in ("histogram_quantile", "group_left"):
            yield name, re.findall(r'(\w+)[=!~]+"([^"]*)"', matchers)


def family(name: str) -> str:
    """Return the name of the family of a sample."""
    plain = re.sub(r"_(bucket|sum|count)$", "", name)
    return name if name in FAMILIES else plain


def test_each_alert_has_a_case() -> None:
    assert CASES.keys() == RULES.keys()


@pytest.mark.parametrize("name", RULES)
def test_an_alert_says_whom_it_is_about_and_what_to_do(name: str) -> None:
    rule, (_, _, labels, _) = RULES[name], CASES[name]
    said = rule["annotations"]["summary"]
    assert {*re.findall(r"\$labels\.(\w+)", said)} <= labels.keys()
    assert ("pod" in labels, "instance" in labels) == ("$labels.pod" in said, "$labels.instance" in said)
    assert rule["annotations"].keys() == {"summary", "description"}
    assert rule["labels"]["severity"] in ("critical", "warning", "info")


@pytest.mark.machine
@pytest.mark.parametrize("name", CASES)
def test_an_alert_fires_on_what_it_is_for_and_not_on_the_rest(name: str, tmp_path: Path) -> None:
    fires, minute, labels, quiet = CASES[name]

    def case(series: Series, samples: list[dict[str, Any]]) -> dict[str, Any]:
        expression = f'ALERTS{{alertname="{name}",alertstate="firing"}}'
        expected = {"expr": expression, "eval_time": f"{minute}m", "exp_samples": samples}
        return {"interval": "1m", "input_series": inputs(series), "promql_expr_test": [expected]}

    own = {"alertname": name, "alertstate": "firing", **labels, **RULES[name]["labels"]}
    text = ",".join(f'{key}="{value}"' for key, value in own.items())
    tests = [case(fires, [{"labels": f"ALERTS{{{text}}}", "value": 1}]), case(quiet, [])]
    done = promtool("test", "rules", home=tmp_path, text=document(tests))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.machine
def test_what_alerts_say_is_a_sentence_about_their_labels(tmp_path: Path) -> None:
    tests = [
        {
            "interval": "1m",
            "input_series": inputs(fires),
            # It expects none, so that promtool prints the one that it got.
            "alert_rule_test": [{"eval_time": f"{minute}m", "alertname": name, "exp_alerts": []}],
        }
        for name, (fires, minute, _, _) in CASES.items()
    ]
    done = promtool("test", "rules", home=tmp_path, text=document(tests))
    printed = re.compile(r'Labels:\{alertname="(\w+)"[^\n]*\s*Annotations:\{(.*)\}')
    said = dict(printed.findall(done.stdout + done.stderr))
    assert said.keys() == CASES.keys()
    for name, text in said.items():
        assert "error" not in text.lower() or name == "TankGitFails", text
        assert "{{" not in text and "<" not in text and "%!" not in text, text
        assert ('e1"' in text or "e1 " in text) == ("instance" in CASES[name][2]), text
    assert "99%" in said["TankContainerNearMemoryLimit"]


@pytest.mark.machine
def test_promtool_takes_the_rules_and_each_expression_of_the_dashboard(tmp_path: Path) -> None:
    done = promtool("check", "rules", home=tmp_path, text=(PLACE / "alerts.yml").read_text())
    assert done.returncode == 0, done.stderr
    assert f"{len(RULES)} rules found" in done.stdout
    rules = [{"record": f"r{n}", "expr": text} for n, text in enumerate(expressions().values())]
    text = yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]})
    done = promtool("check", "rules", home=tmp_path, text=text)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("place", expressions())
def test_an_expression_names_what_the_agent_has(place: str) -> None:
    found = list(selectors(expressions()[place]))
    assert found
    for name, matchers in found:
        known = OTHERS.get(name)
        if known is None:
            known = {*FAMILIES[family(name)].labels, "instance"}
            kind = FAMILIES[family(name)].kind
            assert (kind in ("histogram", "summary")) == (family(name) != name), name
        for label, value in matchers:
            assert label in known, (name, label)
            values = VALUES.get(label, set())
            if label in VALUES and name != "tank_image_pull_total":
                assert {*value.split("|")} <= values, (name, label, value)


def test_a_counter_is_never_looked_at_without_a_rate() -> None:
    for place, expression in expressions().items():
        for name, _ in selectors(expression):
            if FAMILIES.get(name) is None or FAMILIES[name].kind != "counter":
                continue
            assert re.search(rf"(rate|increase)\({name}\b", expression), (place, name)


def test_the_dashboard_fits_any_installation() -> None:
    variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    assert (DASHBOARD["id"], DASHBOARD["uid"]) == (None, None)
    assert variables["datasource"]["type"] == "datasource"
    places = [one["datasource"] for one in (*DASHBOARD["panels"], *variables.values()) if "datasource" in one]
    places += [target["datasource"] for one in DASHBOARD["panels"] for target in one.get("targets", ())]
    assert all(place == {"type": "prometheus", "uid": "${datasource}"} for place in places)
    text = json.dumps([panel.get("targets") for panel in DASHBOARD["panels"]])
    assert {*re.findall(r"\$(\w+)", text)} - {"datasource"} == {"__rate_interval", *variables} - {
        "datasource"
    }
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(identifiers) == len({*identifiers})


def test_the_package_installs_them_where_the_page_says() -> None:
    root = PLACE.parents[1]
    lines = (root / "packaging/debian/tank-agent.install").read_text().splitlines()
    assert "packaging/prometheus usr/share/tank-agent" in lines
    for page in (root / "docs/metrics.md", PLACE / "README.md"):
        assert "/usr/share/tank-agent/prometheus" in page.read_text()


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
