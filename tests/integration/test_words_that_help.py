"""What status, events, sync and plan say of crashes, broken files and agents, in the words of users."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from tests.support.agent import ended, running_agent, wait_for
from tests.support.gitops import Fleet

CRASH = ["/bin/sh", "-c", "echo begin; echo 'bind: Address in use' >&2; exit 3"]


def test_a_crash_says_what_the_program_said(tmp_path: Path) -> None:
    with running_agent(tmp_path) as agent:
        agent.write("web", agent.pod_text(command=CRASH))
        line = "app: printed last: bind: Address in use; see `tank logs web`"
        wait_for(lambda: line in agent.tank("status").stdout, "the last line is there")
        wait_for(lambda: line in agent.tank("status", "web").stdout, "in the details, too")
        # crun names no file by itself.
        agent.write("denied", agent.pod_text(command=["/etc/passwd"]))
        denied = "cannot run /etc/passwd: Permission denied"
        wait_for(lambda: denied in agent.tank("status").stdout, "the program is named")
        events = agent.tank("events").stdout
        assert (denied in events, "\\n" in events) == (True, False), events


def test_memory_is_named_in_the_error(tmp_path: Path) -> None:
    with running_agent(tmp_path) as agent:
        # The shell outlives its child, and ends with 137 by itself.
        eat = ["/bin/sh", "-c", "sh -c 'x=a; while :; do x=$x$x; done'; exit $?"]
        agent.write("fat", agent.pod_text(command=eat, extra='[containers.limits]\nmemory = "16M"\n'))

        def error() -> str:
            return str((agent.status("fat") or {}).get("error") or "")

        wait_for(lambda: "ended with exit code 137, out of memory" in error(), "it is named")


def test_git_is_in_sync_but_for_a_file(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    agent = fleet.agent
    fleet.push({"pods/web.toml": fleet.text()}, "begin")
    with ended(agent):
        agent.start()
        agent.wait_phase("web", "running")
        assert agent.tank("sync").returncode == 0
        fleet.push({"pods/web.toml": "nonsense = 1\n" + fleet.text()}, "oops")
        said = "git: in-sync, but 1 file has errors at "
        wait_for(lambda: said in agent.tank("status").stdout, "the line is true")
        state = agent.tank("git", "status").stdout
        assert ("in-sync, but 1 file has errors" in state, "done, but" in state) == (True, True)
        synced = agent.tank("sync")
        assert (synced.returncode, "nonsense" in synced.stdout) == (1, True)
        fleet.push({"pods/web.toml": fleet.text()}, "mended")
        wait_for(lambda: agent.tank("sync").returncode == 0, "all is well again")


def test_a_file_that_is_being_written_is_no_event(tmp_path: Path) -> None:
    with running_agent(tmp_path) as agent:
        with (agent.pods / "web.toml").open("w") as file:
            file.write(agent.pod_text())
            file.flush()
            written = "is being written"
            wait_for(lambda: written in agent.tank("status").stdout, "the status has it")
        agent.wait_phase("web", "running")
        types = [event.type for event in agent.client.events()]
        assert not {"source-error", "source-recovered"} & {*types}
        assert written not in agent.log.read_text()


def test_times_have_both_forms(tmp_path: Path) -> None:
    with running_agent(tmp_path) as agent:
        agent.write("web", agent.pod_text())
        agent.wait_phase("web", "running")
        (pod,) = json.loads(agent.tank("list", "-o", "json").stdout)
        (past,) = json.loads(agent.tank("history", "web", "-o", "json").stdout)
        assert pod["changed_time"] == past["changed_time"]
        assert pod["changed_time"].startswith("20") and pod["changed_time"].endswith("Z")
        assert isinstance(pod["changed_at"], float)


def test_a_configuration_is_checked_before_it_counts(tmp_path: Path) -> None:
    with running_agent(tmp_path) as agent:
        check = ("agent", "--check", "--config", str(agent.config))
        assert agent.tank(*check).returncode == 0
        text = agent.config.read_text()
        agent.config.write_text(f"{text}\n[logs]\nmax_sice = 1\n")
        wrong = agent.tank(*check)
        assert (wrong.returncode, "did you mean max_size?" in wrong.stderr) == (2, True)
        assert agent.process is not None
        agent.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "cannot reload" in agent.log.read_text(), "the agent says so as well")
        agent.config.write_text(text)
