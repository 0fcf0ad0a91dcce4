"""A file in pods.d becomes a running container, changes with it, and goes with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from tests.support.agent import Agent, running_agent, wait_for
from tests.support.private_mounts import run_with_private_mounts


def echo(word: str) -> list[str]:
    return ["/bin/sh", "-c", f"trap 'exit 0' TERM; echo {word}; while :; do sleep 1000 & wait $!; done"]


def test_a_file_becomes_a_container_and_goes_with_it(agent: Agent) -> None:
    file = agent.write("web", agent.pod_text())
    status = agent.wait_phase("web", "running")
    assert status["owner"] == f"dir:{file}"
    assert status["generation"] == 1
    pid = agent.pid("web")
    assert Path(f"/proc/{pid}/root/bin/busybox").exists()
    file.unlink()
    agent.wait_gone("web")
    assert not Path(f"/proc/{pid}").exists()


def test_an_edit_by_rename_replaces_the_container(agent: Agent) -> None:
    agent.write("web", agent.pod_text(command=echo("one")))
    agent.wait_phase("web", "running")
    agent.wait_output("web", "one")
    first = agent.pid("web")
    agent.write("web", agent.pod_text(command=echo("two")))
    wait_for(lambda: agent.output("web") == ["one", "two"], "the new container runs")
    assert agent.wait_phase("web", "running")["generation"] == 2
    assert agent.pid("web") != first
    assert not Path(f"/proc/{first}").exists()


def test_a_file_is_not_read_while_it_is_being_written(agent: Agent) -> None:
    text = agent.pod_text(command=echo("whole"))
    half = agent.pod_text(command=echo("half"))
    with (agent.pods / "web.toml").open("w") as file:
        # Valid as far as it goes: only the open descriptor tells that more is to come.
        file.write(half)
        file.flush()
        agent.client.sync()
        status = agent.status("web")
        assert status is None or status["containers"] == [], status
        file.seek(0)
        file.truncate()
        file.write(text)
    agent.wait_phase("web", "running")
    wait_for(lambda: agent.output("web"), "it printed")
    assert agent.output("web") == ["whole"]


def test_editor_leftovers_are_not_pods(agent: Agent) -> None:
    text = agent.pod_text()
    for name in (".web.toml.swp", "web.toml~", ".web.toml", "4913", "web.toml.bak", "#web.toml#", "web.tml"):
        (agent.pods / name).write_text(text)
    agent.client.sync()
    assert agent.statuses() == []
    agent.write("web", text)
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    # As vim saves: the old file moves away, the new one is written, the backup is removed.
    file = agent.pods / "web.toml"
    file.rename(agent.pods / "web.toml~")
    file.write_text(text)
    (agent.pods / "web.toml~").unlink()
    agent.client.sync()
    assert agent.pid("web") == pid


def test_two_edits_within_10_ms_end_at_the_second(agent: Agent) -> None:
    agent.write("web", agent.pod_text(command=echo("one")))
    agent.wait_phase("web", "running")
    agent.write("web", agent.pod_text(command=echo("two")))
    time.sleep(0.01)
    agent.write("web", agent.pod_text(command=echo("three")))
    wait_for(lambda: "three" in agent.output("web"), "the last edit runs")
    agent.wait_phase("web", "running")
    wait_for(lambda: len(agent.conmons()) == 1, "nothing else runs")


def test_the_same_content_again_changes_nothing(agent: Agent) -> None:
    text = agent.pod_text()
    agent.write("web", text)
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    agent.write("web", "# a comment\n" + text)
    agent.client.sync()
    status = agent.wait_phase("web", "running")
    assert (agent.pid("web"), status["generation"]) == (pid, 1)


def test_a_bad_edit_keeps_the_pod_and_shows_file_and_line(agent: Agent) -> None:
    file = agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    file.write_text(agent.pod_text(extra='colour = "red"'))
    agent.client.sync()
    status = wait_for(
        lambda: (agent.status("web") or {}).get("error") and agent.status("web"), "the error shows"
    )
    assert f"{file}:6: containers[0].colour" in status["error"], status
    assert (status["phase"], agent.pid("web"), status["generation"]) == ("running", pid, 1)
    file.write_text(agent.pod_text())
    wait_for(lambda: (agent.status("web") or {}).get("error") is None, "the error goes")
    assert agent.pid("web") == pid


def test_a_new_bad_file_is_seen_in_status_and_stops_nobody(agent: Agent) -> None:
    agent.write("good", agent.pod_text())
    bad = agent.write("bad", "containers = 3\n")
    agent.wait_phase("good", "running")
    status = agent.wait_phase("bad", "failed")
    assert f"{bad}:1: containers" in status["error"]


def test_an_image_that_cannot_be_had_is_waited_for_and_said(agent: Agent) -> None:
    text = agent.pod_text().replace("rootfs", "# rootfs")
    # Nobody listens on the port that discards.
    text = text.replace('name = "app"', 'name = "app"\nimage = "127.0.0.1:9/web:1"')
    agent.write("web", text)
    status = agent.wait_phase("web", "backing-off", 60)
    assert "127.0.0.1:9" in status["error"]
    assert status["next_retry"] is not None
    agent.write("web", agent.pod_text())
    assert agent.wait_phase("web", "running")["error"] is None


def test_pods_d_deleted_as_a_whole_stops_nobody(agent: Agent) -> None:
    agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    shutil.rmtree(agent.pods)
    done = agent.tank("sync", "--wait")
    assert (done.returncode, f"files: error - {agent.pods}: is not there" in done.stdout) == (1, True)
    # It is no pod, but its pods say so, and so does an event.
    (status,) = agent.statuses()
    assert (status["name"], status["phase"], agent.pid("web")) == ("web", "running", pid)
    assert status["error"].startswith(f"{agent.pods}: is not there")
    assert done.stdout.count("is not there") == 1
    assert ("source-error", status["error"]) in [(e.type, e.message) for e in agent.client.events()]
    agent.pods.mkdir()
    agent.client.sync()
    assert agent.pid("web") == pid
    problems = agent.tank("plan").stdout + agent.tank("plan").stderr
    assert "unmounted or replaced" in problems
    agent.write("web", agent.pod_text(command=echo("again")))
    wait_for(lambda: "again" in agent.output("web"), "the directory counts again")
    assert agent.statuses()[0]["error"] is None
    assert "source-recovered" in [event.type for event in agent.client.events()]


def test_a_sync_looks_at_what_runs_too(tmp_path: Path) -> None:
    with running_agent(tmp_path, resync="1h") as agent:
        agent.write("web", agent.pod_text())
        agent.wait_phase("web", "running")
        inside = ["nsenter", "-t", str(agent.pid("web")), "-n", "ip"]
        subprocess.run([*inside, "link", "set", "lo", "down"], check=True)
        assert agent.tank("sync", "--wait").returncode == 0
        shown = subprocess.run([*inside, "-o", "link", "show", "lo"], capture_output=True, check=True)
        assert b"UP" in shown.stdout


def test_pods_d_unmounted_stops_nobody(tmp_path: Path) -> None:
    """The disk with pods.d is unmounted under a running agent: in a mount namespace of its own."""
    run_with_private_mounts("unmounted.py", str(tmp_path))


def test_one_name_in_two_files_runs_once(agent: Agent) -> None:
    first = agent.write("a", agent.pod_text(command=echo("a"), head='name = "web"'))
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    second = agent.write("b", agent.pod_text(command=echo("b"), head='name = "web"'))
    agent.client.sync()
    status = agent.wait_phase("web", "running")
    assert (agent.pid("web"), status["owner"]) == (pid, f"dir:{first}")
    assert str(second) in (status["error"] or ""), status
    first.unlink()
    wait_for(lambda: agent.output("web")[-1] == "b", "the other file takes over")
    assert agent.wait_phase("web", "running")["owner"] == f"dir:{second}"


def test_a_renamed_file_with_the_same_name_inside_restarts_nothing(agent: Agent) -> None:
    first = agent.write("a", agent.pod_text(head='name = "web"'))
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    second = agent.pods / "b.toml"
    first.rename(second)
    wait_for(lambda: (agent.status("web") or {}).get("owner") == f"dir:{second}", "the owner moves")
    assert agent.pid("web") == pid


def test_many_pods_of_one_file(agent: Agent) -> None:
    one = agent.pod_text().replace("[[containers]]", "[[pods.containers]]")
    agent.write("many", f'[[pods]]\nname = "one"\n{one}\n[[pods]]\nname = "two"\n{one}')
    agent.wait_phase("one", "running")
    agent.wait_phase("two", "running")
    agent.write("many", f'[[pods]]\nname = "two"\n{one}')
    agent.wait_gone("one")
    assert agent.wait_phase("two", "running")["generation"] == 1


def test_a_restart_policy_edit_restarts_nothing(agent: Agent) -> None:
    agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    agent.write("web", agent.pod_text(head='restart = "never"'))
    wait_for(lambda: (agent.status("web") or {}).get("generation") == 2, "the edit is taken")
    assert agent.pid("web") == pid


def test_only_the_changed_container_of_a_pod_restarts(agent: Agent) -> None:
    def text(word: str) -> str:
        return agent.pod_text() + agent.pod_text(command=echo(word)).replace('"app"', '"other"')

    agent.write("web", text("one"))
    agent.wait_phase("web", "running")
    agent.wait_output("web", "one", container="other")
    kept, changed = agent.pid("web", 0), agent.pid("web", 1)
    agent.write("web", text("two"))
    wait_for(lambda: agent.output("web", "other") == ["one", "two"], "the change runs")
    agent.wait_phase("web", "running")
    assert agent.pid("web", 0) == kept
    assert agent.pid("web", 1) != changed


def test_the_root_directory_looks_as_in_the_image(agent: Agent) -> None:
    agent.rootfs.chmod(0o555)
    os.chown(agent.rootfs, 0, 1000)
    agent.write("web", agent.pod_text(extra='user = "web"'))
    agent.wait_phase("web", "running")
    status = Path(f"/proc/{agent.pid('web')}/root").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o555, 0, 1000)
