"""Pod files for other machines are never silent: status, events, log, plan, why, sync, apply."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path
from typing import Any

from tests.support.agent import Agent, ended, running_agent, wait_for
from tests.support.gitops import Fleet
from tests.support.updates import events_of

HERE = platform.node()
TRAEFIK = 'labels = { "traefik.enable" = "true" }\n'
WHY = 'labels: traefik.enable = "true" is not a label of this machine (agent.toml has none)'


def rows(agent: Agent, *arguments: str) -> dict[str, Any]:
    found = json.loads(agent.tank("status", *arguments, "-o", "json").stdout)
    return {pod["name"]: pod for pod in found}


def test_a_running_pod_that_labels_take_away_says_why(tmp_path: Path) -> None:
    with running_agent(tmp_path) as agent:
        file = agent.write("lab", agent.pod_text())
        agent.wait_phase("lab", "running")
        agent.write("lab", agent.pod_text(head=TRAEFIK))
        wait_for(lambda: "lab" not in rows(agent), "it is gone")
        place = f"{file}:1"
        found = agent.tank("status")
        assert f"elsewhere: lab - {WHY} (traefik.enable looks like a label of a container" in found.stdout
        assert rows(agent, "-a")["lab"]["phase"] == "elsewhere"
        assert rows(agent, "-a")["lab"]["elsewhere"] == [f"{place}: {WHY}"]
        table = agent.tank("status", "-a").stdout
        assert (f"elsewhere: lab - {WHY}" in table, "lab   elsewhere" in table) == (True, True)
        one = agent.tank("status", "lab")
        assert (one.returncode, f"elsewhere   {place}: {WHY}" in one.stdout) == (0, True), one
        (event,) = [event for event in agent.client.events(pod="lab") if event.type == "elsewhere"]
        assert event.message == f"is for other machines now, so it ends here: {place}: {WHY}"
        wait_for(lambda: "is for other machines now" in agent.log.read_text(), "the log says it")
        plan = agent.tank("plan")
        assert (plan.returncode, f"{place}: lab is for other machines: {WHY}" in plan.stdout) == (0, True)
        why = agent.tank("why", "lab").stdout
        assert (f"lab is not meant for this machine ({HERE})" in why, WHY in why) == (True, True)
        assert f"elsewhere: lab - {WHY}" in agent.tank("sync").stdout
        refused = agent.tank("exec", "lab", "--", "true")
        assert (
            refused.returncode,
            f"{file} declares it for labels traefik.enable=true" in refused.stderr,
        ) == (
            1,
            True,
        )
        late = agent.tank("wait", "lab", "--timeout", "1s")
        assert (
            late.returncode,
            f"lab is elsewhere, not running, after 1 s: {place}: {WHY}" in late.stderr,
        ) == (
            1,
            True,
        )
        assert agent.tank("wait", "lab", "--for", "elsewhere").returncode == 0
        # It comes back as soon as it is meant for this machine.
        agent.write("lab", agent.pod_text())
        agent.wait_phase("lab", "running")
        assert "elsewhere: " not in agent.tank("status").stdout


def test_a_plan_says_that_a_pod_would_go_to_other_machines(tmp_path: Path) -> None:
    with running_agent(tmp_path) as agent:
        agent.write("lab", agent.pod_text())
        agent.wait_phase("lab", "running")
        new = tmp_path / "new"
        new.mkdir()
        (new / "lab.toml").write_text('hosts = ["edge-l"]\n' + agent.pod_text())
        planned = agent.tank("plan", str(new))
        why = f'hosts: "edge-l" is not this machine\'s name, {HERE}'
        assert planned.returncode == 2
        assert f"- lab: remove\n    {why}" in planned.stdout
        assert f"{new}/lab.toml:1: lab is for other machines: {why}" in planned.stdout
        one = agent.tank("plan", str(new / "lab.toml"))
        assert (one.returncode, f"{new}/lab.toml:1: lab is for other machines: {why}" in one.stdout) == (
            0,
            True,
        )
        alone = agent.tank("plan", str(new), "--host", "edge-9")
        assert 'hosts: "edge-l" is not that machine\'s name, edge-9' in alone.stdout


def test_git_seeds_and_a_restart_of_the_agent(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    agent = fleet.agent
    seeds = tmp_path / "seed.d"
    seeds.mkdir()
    text = agent.config.read_text()
    agent.config.write_text(re.sub('seed_dir = "[^"]*"', f'seed_dir = "{seeds}"', text))
    (seeds / "planted.toml").write_text('hosts = ["edge-2"]\n' + agent.pod_text())
    fleet.push({"pods/web.toml": fleet.text(), "pods/db.toml": fleet.text(head='hosts = ["edge-2"]')})
    with ended(agent):
        agent.start()
        agent.wait_phase("web", "running")
        why = f'hosts: "edge-2" is not this machine\'s name, {HERE}'
        assert f"elsewhere: db, planted - {why}" in agent.tank("status").stdout
        agent.stop()
        # What changes while no agent runs is told as well.
        fleet.push({"pods/web.toml": fleet.text(head='hosts = ["edge-2"]')}, "moved away")
        agent.start()
        wait_for(lambda: "web" not in rows(agent), "it is gone")
        assert f"elsewhere: db, planted, web - {why}" in agent.tank("status").stdout
        assert [pod["owner"] for pod in rows(agent, "-a").values()] == [
            "git:pods/db.toml",
            "seed",
            "git:pods/web.toml",
        ]
        assert "elsewhere" in events_of(agent, "web")
        agent.stop()
        agent.start()
        wait_for(lambda: "db, planted, web" in agent.tank("status").stdout, "they are known again")


def test_many_pods_for_others_are_counted(tmp_path: Path) -> None:
    with running_agent(tmp_path) as agent:
        for number in range(7):
            agent.write(f"pod-{number}", f'hosts = ["edge-{number}"]\n{agent.pod_text()}')
        agent.write("lab", TRAEFIK + agent.pod_text())
        assert agent.tank("sync").returncode == 0
        line = f"elsewhere: 8 pods are for other machines than {HERE} (7 by hosts, 1 by labels); "
        assert line in agent.tank("status").stdout
        assert len(rows(agent, "-a")) == 8
        plan = agent.tank("plan").stdout
        assert (plan.count("is for other machines"), "3 more pods are for other machines" in plan) == (
            5,
            True,
        )


def test_apply_names_the_selector_and_labels_of_compose(tmp_path: Path) -> None:
    with running_agent(tmp_path) as agent:
        refused = agent.tank("apply", "-", stdin=agent.pod_text(head=f'name = "x"\n{TRAEFIK}'))
        assert refused.returncode == 2
        assert f"is not meant for this machine ({HERE}): {WHY} (traefik.enable looks like" in refused.stderr


def test_names_that_only_look_like_pod_files_are_told(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    agent = fleet.agent
    fleet.push({"pods/web.toml": fleet.text(), "pods/db.yml": "services: {}\n", "pods/sub/X.TOML": "x"})
    with ended(agent):
        agent.start()
        agent.wait_phase("web", "running")
        (agent.pods / "lab.toml.txt").write_text("x")
        synced = agent.tank("sync")
        line = f"ignored: {agent.pods}/lab.toml.txt, pods/db.yml, pods/sub/X.TOML are no pod files"
        assert (synced.returncode, line in synced.stdout) == (0, True), synced
        assert line in agent.tank("status").stdout
        assert line in agent.tank("plan").stdout
        (agent.pods / "lab.toml.txt").unlink()
        fleet.push({"pods/db.yml": None, "pods/sub/X.TOML": None})
        wait_for(lambda: agent.tank("sync").returncode == 0, "it looks")
        assert "ignored" not in agent.tank("status").stdout
