"""Volumes that several pods share: written by one and read by another, and removed once no pod names them."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from tank_agent.errors import VolumeInUse
from tests.support.agent import Agent, wait_for

SLEEP = "trap 'exit 0' TERM; sleep 1000 & wait $!"
SHARED = '[[volumes]]\nname = "media"\nshared = true\n'
MOUNT = '[[containers.mounts]]\nvolume = "media"\npath = "/media"\n'


def pod(agent: Agent, script: str, *, extra: str = "", head: str = SHARED, mount: str = MOUNT) -> str:
    command = ["/bin/busybox", "sh", "-c", f"{script}; {SLEEP}"]
    return agent.pod_text(command=command, head=head, extra=f"{extra}{mount}")


def directory(agent: Agent) -> Path:
    return agent.data / "volumes-shared" / "media"


def remove(agent: Agent, name: str) -> None:
    (agent.pods / f"{name}.toml").unlink()
    agent.wait_gone(name)


def listed(agent: Agent) -> list[dict[str, object]]:
    return list(json.loads(agent.tank("volume", "ls", "-o", "json").stdout))


def follow(file: str) -> str:
    return f"while ! busybox test -s /media/{file}; do busybox usleep 10000; done; cat /media/{file}"


def mount_id(pid: int, path: str) -> str:
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    return next((line.split()[0] for line in lines if line.split()[4] == path), "")


def test_two_pods_have_one_volume_until_both_are_gone(agent: Agent) -> None:
    agent.write("web", pod(agent, f"echo of web > /media/web; {follow('backup')}"))
    agent.write("backup", pod(agent, f"{follow('web')}; echo of backup > /media/backup"))
    wait_for(lambda: agent.output("web") == ["of backup"], "web reads what backup wrote")
    wait_for(lambda: agent.output("backup") == ["of web"], "backup reads what web wrote")
    (found,) = listed(agent)
    assert (found["name"], found["pod"], found["shared"], found["in_use"]) == ("media", "", True, True)
    assert (found["pods"], found["path"]) == (["backup", "web"], str(directory(agent)))
    assert "media" in agent.tank("volume", "ls").stdout
    refused = agent.tank("volume", "rm", "media")
    assert refused.returncode == 1
    assert all(f"pod {name} has it (dir:" in refused.stderr for name in ("web", "backup"))
    remove(agent, "web")
    with pytest.raises(VolumeInUse, match="pod backup has it"):
        agent.client.remove_shared_volume("media")
    remove(agent, "backup")
    assert (directory(agent) / "web").read_text() == "of web\n"
    assert listed(agent)[0]["in_use"] is False
    assert agent.tank("volume", "rm", "media").stdout == "media removed\n"
    assert not directory(agent).exists()
    assert agent.tank("volume", "rm", "media").stdout == "media was not there\n"
    assert listed(agent) == []


def test_only_root_enters_and_the_first_user_owns_it(agent: Agent) -> None:
    agent.write("web", pod(agent, "echo x > /media/x && echo wrote", extra='user = "web"\n'))
    wait_for(lambda: agent.output("web") == ["wrote"], "its user writes to it")
    agent.write("other", pod(agent, "echo y > /media/y && echo wrote", extra='user = "2000:2000"\n'))
    wait_for(lambda: any("denied" in line for line in agent.output("other")), "another user may not")
    found = directory(agent).stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1000, 1000, 0o755)
    assert stat.S_IMODE(directory(agent).parent.stat().st_mode) == 0o700


def test_it_is_not_the_pods_own_of_that_name(agent: Agent) -> None:
    agent.write("web", pod(agent, "echo own > /media/file", head='[[volumes]]\nname = "media"\n'))
    agent.write("other", pod(agent, "ls /media; echo over"))
    wait_for(lambda: agent.output("other") == ["over"], "the other is empty")
    wait_for((agent.data / "volumes" / "web" / "media" / "file").exists, "the own one is apart")
    names = {(found["pod"], found["name"], found["shared"]) for found in listed(agent)}
    assert names == {("web", "media", False), ("", "media", True)}
    assert "media" not in agent.tank("volume", "rm", "web/media").stdout
    refused = agent.tank("volume", "rm", "media").stderr
    assert "pod other has it" in refused
    assert "pod web" not in refused


def test_a_change_to_a_shared_one_starts_the_container_again(agent: Agent) -> None:
    agent.write("web", pod(agent, "ls /media; echo began", head='[[volumes]]\nname = "media"\n'))
    wait_for(lambda: agent.output("web") == ["began"], "it runs")
    agent.write("web", pod(agent, "ls /media; echo began"))
    wait_for(lambda: agent.output("web") == ["began", "began"], "it runs with the other")
    wait_for(directory(agent).is_dir, "which is made")
    # What its own one has is still there.
    assert (agent.data / "volumes" / "web" / "media").is_dir()


def test_mounts_in_it_and_drift_of_it_are_as_with_others(agent: Agent, tmp_path: Path) -> None:
    head = f'{SHARED}[[volumes]]\nname = "inner"\nhost = "{tmp_path}/inner"\n'
    (tmp_path / "inner").mkdir()
    inner = '[[containers.mounts]]\nvolume = "inner"\npath = "/media/inner"\n'
    agent.write(
        "web", pod(agent, "echo x > /media/inner/x; echo y > /media/y", head=head, mount=MOUNT + inner)
    )
    wait_for((tmp_path / "inner" / "x").exists, "the inner one is mounted")
    wait_for((directory(agent) / "y").exists, "the shared one, too")
    pid = agent.pid("web")
    before = mount_id(pid, "/media")
    assert before
    subprocess.run(
        ["nsenter", f"--mount=/proc/{pid}/ns/mnt", "/bin/busybox", "umount", "-l", "/media"], check=True
    )
    wait_for(lambda: mount_id(pid, "/media") not in ("", before), "it is mounted again")
    assert agent.pid("web") == pid


def test_a_volume_stays_for_a_run_and_for_the_way_back(agent: Agent) -> None:
    """A container that is slow to end still writes to it, and a bad update goes back to it."""
    agent.write("web", pod(agent, "echo kept > /media/file"))
    wait_for((directory(agent) / "file").exists, "it is written")
    wait_for(lambda: agent.statuses("web")[0]["rollout"]["outcome"] == "good", "it is good")
    bad = agent.pod_text(command=["/bin/false"], head='[update]\nmin_healthy = "60s"\nmax_restarts = 100\n')
    agent.write("web", bad)
    wait_for(lambda: agent.statuses("web")[0]["generation"] == 2, "the update is taken")
    wait_for(
        lambda: "has it in its last good revision" in agent.tank("volume", "rm", "media").stderr,
        "it is needed when nothing runs with it",
    )
    assert (directory(agent) / "file").read_text() == "kept\n"


def test_a_removal_is_finished_after_kill_9(agent: Agent) -> None:
    agent.write("web", pod(agent, "echo x > /media/file"))
    wait_for((directory(agent) / "file").exists, "it is written")
    remove(agent, "web")
    agent.stop()
    agent.launch(fault="volumes:going")
    wait_for(lambda: agent.tank("volume", "ls").returncode == 0, "the agent answers")
    assert agent.tank("volume", "rm", "media").returncode == 1
    assert agent.died() == -signal.SIGKILL
    assert not directory(agent).exists()
    agent.start()
    shared = agent.data / "volumes-shared"
    wait_for(lambda: not shared.exists() or not list(shared.iterdir()), "nothing of it is left")
    assert listed(agent) == []
    agent.write("web", pod(agent, "ls -A /media; echo empty"))
    wait_for(lambda: agent.output("web")[-1:] == ["empty"], "a new one is made")


def test_copies_of_one_are_refused(agent: Agent) -> None:
    agent.write("web", pod(agent, "true"))
    agent.wait_phase("web", "running")
    for verb in (("snapshot", "media"), ("restore", "media", "7")):
        refused = agent.tank("volume", *verb)
        assert refused.returncode == 2
        assert "a volume that pods share has no snapshots" in refused.stderr


def test_in_a_user_namespace_files_have_their_owners(open_agent: Agent) -> None:
    table = '[containers.security]\nuserns = "auto"\n'
    open_agent.write("web", pod(open_agent, "echo x > /media/x; echo wrote", mount=MOUNT + table))
    wait_for(lambda: open_agent.output("web") == ["wrote"], f"it ran: {open_agent.status('web')}")
    open_agent.write("other", pod(open_agent, "busybox stat -c %u /media/x"))
    wait_for(lambda: open_agent.output("other") == ["0"], "root's file is root's in the other, too")
