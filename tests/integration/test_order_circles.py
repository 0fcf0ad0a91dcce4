"""Order of containers and pods on a real agent: what waits, what runs first, and circles that are refused."""

from __future__ import annotations

from tests.support.agent import Agent, wait_for

REST = "each waits for the next one, so none would start; remove one of these from its after"


def test_a_file_that_closes_a_circle_is_told_at_its_line_and_what_runs_stays(agent: Agent) -> None:
    agent.write("a", agent.pod_text(head='after = ["b"]'))
    file = agent.write("b", agent.pod_text())
    agent.wait_phase("b", "running")
    pid = agent.pid("b")
    agent.write("b", agent.pod_text(head='restart = "always"\nafter = ["a"]', command=["/bin/sleep", "9"]))
    wanted = f"{file}:2: after: b → a → b: {REST}"
    wait_for(lambda: wanted in str(agent.status("b")), "the status of the pod has the problem")
    assert agent.pid("b") == pid
    assert wanted in agent.tank("status", "b").stdout
    # It may be mended at the other end.
    agent.write("a", agent.pod_text())
    wait_for(lambda: wanted not in str(agent.status("b")), "the problem is gone")
    wait_for(lambda: agent.pid("b") != pid, "it follows its file")
    agent.wait_phase("b", "running")


def test_tank_apply_refuses_a_circle_as_a_whole(agent: Agent) -> None:
    pods = agent.home / "pods.toml"
    part = f'[[pods.containers]]\nname = "app"\nrootfs = "{agent.rootfs}"\ncommand = ["/bin/sleep", "99"]\n'
    part += 'stop_grace = "100ms"\n'
    pods.write_text(
        f'[[pods]]\nname = "a"\n{part}[[pods]]\nname = "b"\nafter = [\n"c",\n]\n{part}'
        f'[[pods]]\nname = "c"\nafter = ["b"]\n{part}'
    )
    found = agent.tank("apply", str(pods))
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.splitlines() == [
        f"{pods}:10: after: b → c → b: {REST}",
        f"{pods}:20: after: c → b → c: {REST}",
    ]
    assert agent.statuses() == []
    pods.write_text(pods.read_text().replace('after = ["b"]', ""))
    assert agent.tank("apply", "--wait", str(pods)).returncode == 0
    for name in "abc":
        agent.client.delete(name)
