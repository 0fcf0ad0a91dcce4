"""Notifications of a real agent with real pods, to receivers of the test's own on loopback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import SERVE, Agent, ended, wait_for
from tests.support.receivers import Receiver, certificate, quiet_for, receiver

# Ends at once, always.
CRASHES = ["/bin/sh", "-c", "exit 3"]
# For as long, nothing may come that was told.
QUIET = 3.0
CANARY = "canary-webhook-secret"
OTHER_BOOT = Path(__file__).parents[1] / "support/other_boot.py"


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


def with_notify(home: Path, table: str, **reconcile: str) -> Agent:
    """Return an agent, not started, with this [notify]."""
    agent = Agent(home, **reconcile)
    agent.config.write_text(f"{agent.config.read_text()}[notify]\n{table}\n")
    return agent


def table_of(hook: Receiver, after: str = "2s", pause: str = "0s", **more: Any) -> str:
    lines = {"after": after, "pause": pause, "webhook": f"{hook.url}/T0/{CANARY}", **more}
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items())


@contextmanager
def telling(home: Path, table: str, **reconcile: str) -> Iterator[Agent]:
    """Run an agent with this [notify]; it must leave nothing behind, and its log no secret."""
    made = with_notify(home, table, **{"backoff_base": "0.2s", "backoff_cap": "1s", **reconcile})
    with ended(made):
        made.start()
        yield made
    assert CANARY not in made.log.read_text()


@pytest.fixture
def agent(tmp_path: Path, hook: Receiver) -> Iterator[Agent]:
    """Return a running agent that tells of what lasts two seconds, without pauses."""
    with telling(tmp_path, table_of(hook)) as made:
        yield made


def updating(deadline: str = "20s") -> str:
    return f'[update]\nmin_healthy = "1s"\ndeadline = "{deadline}"\nmax_restarts = 1\n'


def good_pod(agent: Agent, words: str = "one") -> str:
    return agent.pod_text(command=SERVE, head=updating(), extra=f'env = {{ WORDS = "{words}" }}')


def bad_pod(agent: Agent, words: str = "bad") -> str:
    return agent.pod_text(command=CRASHES, head=updating(), extra=f'env = {{ WORDS = "{words}" }}')


def outcome(agent: Agent, name: str, state: str = "good") -> None:
    def reached() -> bool:
        found = agent.status(name)
        return found is not None and found["rollout"] is not None and found["rollout"]["state"] == state

    wait_for(reached, f"the rollout of {name} is {state}: {agent.status(name)}")


def test_a_bad_update_gives_one_notification_and_its_mending_one(agent: Agent, hook: Receiver) -> None:
    agent.write("web", good_pod(agent))
    outcome(agent, "web")
    assert hook.titles == []
    agent.write("web", bad_pod(agent))
    wait_for(lambda: hook.told, "the rollback is told")
    outcome(agent, "web", "rolled-back")
    assert quiet_for(QUIET, lambda: len(hook.told) == 1), hook.titles
    told = hook.told[0]
    assert told["title"].endswith("web: its update failed, and was rolled back")
    assert (told["kind"], told["state"], told["event"], told["pod"]) == (
        "update",
        "bad",
        "rolled-back",
        "web",
    )
    assert "exit code 3" in told["message"] and "exit code 3" in told["text"]
    agent.write("web", good_pod(agent, "two"))
    wait_for(lambda: len(hook.told) == 2, "its mending is told")
    assert hook.titles[1] == "web: it is good again"
    assert (hook.told[1]["state"], hook.told[1]["event"]) == ("good", "update-good")
    assert quiet_for(1, lambda: len(hook.told) == 2), hook.titles


def events_of(agent: Agent, kind: str) -> list[dict[str, Any]]:
    lines = agent.tank("events", "-o", "json").stdout.splitlines()
    return [found for found in map(json.loads, lines) if found["type"] == kind]


def flag(agent: Agent) -> Path:
    """Return a directory that a pod of `flagged` looks into."""
    place = agent.home / "flag"
    place.mkdir(exist_ok=True)
    return place


def flagged(agent: Agent, program: str, extra: str = "", head: str = "") -> str:
    """Return a pod whose program finds the test's flags in /flag."""
    volume = f'[[volumes]]\nname = "flag"\nhost = "{flag(agent)}"\n'
    mount = '[[containers.mounts]]\nvolume = "flag"\npath = "/flag"\n'
    return agent.pod_text(
        command=["/bin/sh", "-c", program], head=f"{head}{volume}", extra=f"{extra}\n{mount}"
    )


UNLESS_SICK = "test ! -e /flag/sick || exit 3; trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done"


def pid_of(agent: Agent, name: str) -> int:
    found = agent.status(name)
    return int(found["containers"][0]["pid"] or 0) if found is not None else 0


def make_it_crash(agent: Agent, hook: Receiver, name: str = "web") -> None:
    agent.write(name, flagged(agent, UNLESS_SICK))
    outcome(agent, name)
    (flag(agent) / "sick").touch()
    os.kill(wait_for(lambda: pid_of(agent, name), "it runs"), signal.SIGKILL)
    wait_for(lambda: hook.told, "its crashes are told")


def test_a_pod_that_crashes_again_and_again_is_told_once_and_so_is_that_it_runs(
    agent: Agent, hook: Receiver
) -> None:
    make_it_crash(agent, hook)
    assert hook.titles == ["web is failing"]
    assert hook.told[0]["container"] == "app" and "exit code 3" in hook.told[0]["message"]
    assert quiet_for(QUIET, lambda: len(hook.told) == 1), hook.titles
    (flag(agent) / "sick").unlink()
    wait_for(lambda: len(hook.told) == 2, "that it runs is told")
    assert hook.titles[1] == "web runs again" and hook.told[1]["state"] == "good"


def test_a_first_pod_that_never_works_is_told_once(agent: Agent, hook: Receiver) -> None:
    agent.write("web", bad_pod(agent))
    wait_for(lambda: hook.told, "it is told")
    assert quiet_for(QUIET, lambda: len(hook.told) == 1), hook.titles
    assert hook.told[0]["event"] == "update-failed" and "nothing to go back to" in hook.told[0]["message"]


def test_one_crash_is_not_told(agent: Agent, hook: Receiver) -> None:
    agent.write("web", good_pod(agent))
    outcome(agent, "web")
    os.kill(wait_for(lambda: pid_of(agent, "web"), "it runs"), signal.SIGKILL)
    wait_for(lambda: events_of(agent, "exited"), "its end is seen")
    assert quiet_for(QUIET + 2, lambda: not hook.told), hook.titles


def test_what_stays_unhealthy_is_told_once_and_so_is_its_recovery(agent: Agent, hook: Receiver) -> None:
    health = '[containers.health]\nexec = ["/bin/sh", "-c", "test ! -e /flag/sick"]\ninterval = "1s"\n'
    health += 'start_interval = "500ms"\nretries = 2\non_failure = "none"\ntimeout = "20s"\n'
    agent.write("web", flagged(agent, UNLESS_SICK, health))
    outcome(agent, "web")
    (flag(agent) / "sick").touch()
    wait_for(lambda: hook.told, "it is told")
    assert hook.titles == ["web is unhealthy"]
    assert quiet_for(QUIET, lambda: len(hook.told) == 1), hook.titles
    (flag(agent) / "sick").unlink()
    wait_for(lambda: len(hook.told) == 2, "its recovery is told")
    assert hook.titles[1] == "web is healthy again"


def test_runs_of_a_job_are_told_when_they_begin_to_fail_and_when_they_succeed(
    agent: Agent, hook: Receiver
) -> None:
    job = 'schedule = "@yearly"\nrestart = "never"\n'
    agent.write("backup", flagged(agent, "test ! -e /flag/sick", head=job))
    wait_for(lambda: (agent.status("backup") or {}).get("phase") == "scheduled", "it is arranged")
    (flag(agent) / "sick").touch()
    for _ in range(2):
        agent.tank("run", "backup")
    wait_for(lambda: len(events_of(agent, "job-failed")) == 2, "two runs fail")
    assert quiet_for(1, lambda: len(hook.told) <= 1)
    assert hook.titles == ["backup: a run failed"]
    (flag(agent) / "sick").unlink()
    for _ in range(2):
        agent.tank("run", "backup")
    wait_for(lambda: len(events_of(agent, "job-succeeded")) == 2, "two runs succeed")
    wait_for(lambda: len(hook.told) == 2, "one is told")
    assert quiet_for(1, lambda: len(hook.told) == 2)
    assert hook.titles[1] == "backup: its runs succeed again"


def test_a_repository_that_is_gone_is_told_once_and_so_is_its_return(open_home: Path, hook: Receiver) -> None:
    remote, away, tmp_path = open_home / "fleet.git", open_home / "away.git", open_home
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", remote], check=True)
    work = tmp_path / "work"
    subprocess.run(["git", "clone", "-q", remote, work], check=True, capture_output=True)
    (work / "note.txt").write_text("no pod")
    author = ["-c", "user.name=a", "-c", "user.email=a@example"]
    subprocess.run(["git", "-C", work, "add", "."], check=True)
    subprocess.run(["git", "-C", work, *author, "commit", "-qm", "one"], check=True)
    subprocess.run(["git", "-C", work, "push", "-q", "origin", "HEAD:main"], check=True)
    home = tmp_path / "home"
    home.mkdir()
    git = f'[git]\nurl = "{remote}"\nbranch = "main"\npoll = "1s"\nallow_empty = true\n'
    with telling(home, f"{table_of(hook)}{git}") as agent:
        wait_for(lambda: events_of(agent, "git-applied"), "the repository is followed")
        remote.rename(away)
        wait_for(lambda: hook.told, "it is told")
        assert quiet_for(QUIET, lambda: len(hook.told) == 1), hook.titles
        assert hook.titles == ["the git repository can't be followed"]
        # Another agent, to which it is no news.
        agent.kill()
        agent.start()
        wait_for(lambda: len(events_of(agent, "git-error")) > 1, "it looks in vain")
        assert quiet_for(QUIET + 2, lambda: len(hook.told) == 1), hook.titles
        away.rename(remote)
        agent.tank("sync")
        wait_for(lambda: len(hook.told) == 2, "its return is told")
        assert hook.titles[1] == "the git repository is followed again"


def test_a_file_with_errors_is_told_once_and_so_is_its_mending(agent: Agent, hook: Receiver) -> None:
    file = agent.write("web", "[[containers]]\nimage = 7\n")
    wait_for(lambda: hook.told, "it is told")
    assert hook.titles == [f"{file} has errors"] and hook.told[0]["file"] == str(file)
    assert quiet_for(QUIET, lambda: len(hook.told) == 1), hook.titles
    # Another agent, to which it is no news.
    agent.kill()
    agent.start()
    assert quiet_for(QUIET, lambda: len(hook.told) == 1), hook.titles
    file.unlink()
    wait_for(lambda: len(hook.told) == 2, "its mending is told")
    assert hook.titles[1] == f"{file} has no errors any more"


def test_a_full_disk_is_told_once_and_so_is_its_room(tmp_path: Path, hook: Receiver) -> None:
    data = tmp_path / "data"
    data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", data], check=True)
    try:
        made = with_notify(tmp_path, table_of(hook, after="1s"))
        made.kept_mounts = frozenset((str(data),))
        with ended(made):
            made.start()
            agent = made
            with (data / "ballast").open("wb") as file, pytest.raises(OSError, match="No space"):
                while True:
                    file.write(b"\0" * (1 << 20))
                    file.flush()
            # A new agent looks at once; a running one, within a minute.
            agent.kill()
            agent.start()
            wait_for(lambda: hook.told, "it is told")
            assert hook.titles == ["there is no room left"] and "0 MB left" in hook.told[0]["message"]
            (data / "ballast").unlink()
            wait_for(lambda: len(hook.told) == 2, "its room is told")
            assert hook.titles[1] == "there is room again"
    finally:
        subprocess.run(["umount", "--lazy", data], check=True)


@pytest.mark.parametrize(("fault", "times"), [("notify:remembered@2", 1), ("notify:sent", 2)])
def test_an_agent_that_is_killed_on_the_way_loses_nothing_and_repeats_one(
    tmp_path: Path, hook: Receiver, fault: str, times: int
) -> None:
    made = with_notify(tmp_path, table_of(hook))
    with ended(made):
        made.launch(fault=fault)
        made.write("web", "[[containers]]\nimage = 7\n")
        assert made.died() == -signal.SIGKILL
        made.start()
        wait_for(lambda: len(hook.told) == times, "it is told")
        assert quiet_for(QUIET, lambda: len(hook.told) == times), hook.titles
        assert len(set(hook.titles)) == 1


def test_a_reboot_tells_nothing_that_was_known(tmp_path: Path, hook: Receiver) -> None:
    with telling(tmp_path, table_of(hook)) as agent:
        make_it_crash(agent, hook)
        agent.write("bad", "[[containers]]\nimage = 7\n")
        wait_for(lambda: len(hook.told) == 2, "the bad file is told")
        assert agent.stop() == 0
        shutil.rmtree(agent.run, ignore_errors=True)
        agent.through = [sys.executable, str(OTHER_BOOT), "another"]
        agent.start()
        wait_for(lambda: len(events_of(agent, "exited")) > 3, "it crashes again")
        assert quiet_for(QUIET + 2, lambda: len(hook.told) == 2), hook.titles
        (flag(agent) / "sick").unlink()
        wait_for(lambda: len(hook.told) == 3, "that it runs is told")
        assert hook.titles[2] == "web runs again"


def test_what_happens_while_nobody_can_be_told_is_told_later_with_its_time(
    agent: Agent, hook: Receiver
) -> None:
    hook.default = (500, {})
    begun = time.time()
    agent.write("web", "[[containers]]\nimage = 7\n")
    wait_for(lambda: len(hook.received) == 3, "it is tried three times")
    wait_for(lambda: events_of(agent, "notify-failed"), "that is an event")
    shown = agent.tank("status").stdout
    assert "notifications: webhook can't be told: HTTP 500 Internal Server Error" in shown
    checks = json.loads(agent.tank("doctor", "--config", str(agent.config), "-o", "json").stdout)
    found = next(one["found"] for one in checks if "can't be told" in one["found"])
    assert found.startswith("webhook can't be told, 1 wait: HTTP 500")
    assert CANARY not in shown + json.dumps(checks)
    # Whatever becomes of it, pods come and go.
    agent.write("other", agent.pod_text())
    outcome(agent, "other")
    agent.kill()
    hook.default = (200, {})
    hook.received.clear()
    agent.start()
    wait_for(lambda: hook.told, "it is told")
    at = hook.told[0]["at"]
    assert (
        at.endswith("Z")
        and abs(time.mktime(time.strptime(at[:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone - begun) < 60
    )
    assert quiet_for(QUIET, lambda: len(hook.told) == 1)


def test_a_receiver_that_is_busy_is_left_alone_for_as_long_as_it_asks(agent: Agent, hook: Receiver) -> None:
    hook.answers = [(429, {"Retry-After": "6"}), "close"]
    agent.write("web", "[[containers]]\nimage = 7\n")
    wait_for(lambda: len(hook.received) == 3, "the third try is taken")
    first, second, third = (one.at for one in hook.received)
    assert second - first >= 5.9 and third - second >= 1.9
    assert quiet_for(1, lambda: len(hook.received) == 3)


@pytest.mark.parametrize("answer", ["hang", "drip"])
def test_a_receiver_that_never_answers_stands_in_nobodys_way(
    tmp_path: Path, hook: Receiver, answer: str
) -> None:
    hook.default = answer
    with telling(tmp_path, table_of(hook)) as agent:
        agent.write("bad", "[[containers]]\nimage = 7\n")
        wait_for(lambda: hook.received, "it is tried")
        agent.write("web", good_pod(agent))
        outcome(agent, "web")
        begun = time.monotonic()
        assert agent.stop() == 0
        assert time.monotonic() - begun < 15
        agent.start()


def test_an_agent_that_cannot_start_tells_it_once_and_that_it_works(tmp_path: Path, hook: Receiver) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=700", "tmpfs", data], check=True)
    try:
        made = with_notify(tmp_path, table_of(hook, after="1s", events=["agent"]))
        made.kept_mounts = frozenset((str(data),))
        with ended(made):
            with (data / "ballast").open("wb") as file, pytest.raises(OSError, match="No space"):
                while True:
                    file.write(b"\0" * (1 << 20))
                    file.flush()
            made.launch()
            wait_for(lambda: hook.told, "it is told")
            assert hook.titles == ["the agent can't work"] and hook.told[0]["kind"] == "agent"
            # A start is tried each five seconds.
            assert quiet_for(7, lambda: len(hook.told) == 1), hook.titles
            (data / "ballast").unlink()
            wait_for(lambda: len(hook.told) == 2, "that it works is told")
            assert hook.titles[1] == "the agent works again"
    finally:
        subprocess.run(["umount", "--lazy", data], check=True)


def test_the_verb_says_what_each_receiver_said(tmp_path: Path, hook: Receiver) -> None:
    cert = certificate(tmp_path)
    with receiver(tls=cert) as secure:
        urls = tmp_path / "notify.urls"
        urls.write_text(
            f"# those on call\nntfy://127.0.0.1:{hook.port}/canary-topic\n\noncall=json://127.0.0.1:9/canary-dead\n"
        )
        urls.chmod(0o600)
        home = tmp_path / "home"
        home.mkdir()
        table = f'urls_file = "{urls}"\nwebhook = "{secure.url}/{CANARY}"\n'
        with telling(home, table) as agent:
            done = agent.tank("notify", "test")
            assert done.returncode == 1
            lines = done.stdout.splitlines()
            assert (
                lines[0].startswith("webhook ") and "failed: its certificate is not to be trusted" in lines[0]
            )
            assert lines[1].split() == ["ntfy", "(line", "2)", "sent"]
            assert lines[2].startswith("json (line 4)") and "failed:" in lines[2]
            everything = done.stdout + agent.log.read_text() + agent.tank("events", "-o", "json").stdout
            assert "canary" not in everything
            assert hook.received[-1].path.startswith("/") and b"tank notify test" in hook.received[-1].body
            event = events_of(agent, "notify-test")[-1]
            assert event["by"] == "root" and "sent a test notification" in event["message"]
            # Another file counts at once.
            urls.write_text(f"ntfy://127.0.0.1:{hook.port}/canary-topic\n")
            urls.chmod(0o644)
            assert "is open to others: chmod 600" in agent.tank("notify", "test").stdout
            urls.chmod(0o600)
            agent.config.write_text(agent.config.read_text() + f'webhook_ca_file = "{cert[0]}"\n')
            assert agent.stop() == 0
            agent.start()
            done = agent.tank("notify", "test")
            assert done.returncode == 0, done.stdout
            assert secure.received[-1].json["title"].endswith(": a test notification")


def test_without_a_table_the_verb_says_so(open_agent: Agent) -> None:
    done = open_agent.tank("notify", "test")
    assert done.returncode == 1 and "this agent tells nobody" in done.stderr


def test_what_the_text_of_a_message_says_mentions_and_steers_nobody(agent: Agent, hook: Receiver) -> None:
    file = agent.pods / "evil @everyone <!channel>\x1b[31m.toml"
    file.write_text("x = 1\n")
    wait_for(lambda: hook.told, "it is told")
    text = json.dumps(hook.told[0], ensure_ascii=False)
    assert "\\x1b[31m" in text.replace("\\\\", "\\") and "\x1b" not in text and "@everyone" not in text
    assert "<!channel>" not in hook.told[0]["text"]
