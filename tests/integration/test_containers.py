"""What a container's own keys do: user, directory, environment, stopping; what containers of a pod share."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.support.agent import Agent, wait_for

SLEEP = "trap 'exit 0' TERM; sleep 1000 & wait $!"


def shell(text: str) -> list[str]:
    return ["/bin/busybox", "sh", "-c", text]


def test_user_directory_and_environment(agent: Agent) -> None:
    extra = 'user = "web"\nworking_dir = "/srv/new/place"\nenv = { GREETING = "hi there" }\n'
    script = "busybox id; busybox pwd; echo $GREETING $HOME $HOSTNAME; busybox touch mine && echo wrote"
    agent.write("web", agent.pod_text(command=shell(f"{script}; {SLEEP}"), extra=extra))
    wait_for(lambda: agent.output("web")[-1:] == ["wrote"], "it ran")
    lines = agent.output("web")
    assert lines[0] == "uid=1000(web) gid=1000(web) groups=1000(web),2000(extra)"
    assert lines[1:3] == ["/srv/new/place", "hi there /home/web web"]


def test_numbers_need_no_user_file(agent: Agent) -> None:
    agent.write("web", agent.pod_text(command=shell(f"busybox id; {SLEEP}"), extra='user = "4321:8765"'))
    wait_for(lambda: agent.output("web") == ["uid=4321 gid=8765 groups=8765"], "it runs as these")


def test_an_unknown_user_is_said(agent: Agent) -> None:
    agent.write("web", agent.pod_text(extra='user = "nobody-here"'))
    wait_for(lambda: "nobody-here" in str((agent.status("web") or {}).get("error")), "it is said")


def test_the_stop_signal_comes_first_and_sigkill_after_the_grace(agent: Agent) -> None:
    script = "trap 'echo int' INT; trap 'echo term' TERM; echo ready; while :; do busybox sleep 0.05; done"
    extra = 'stop_signal = "SIGINT"\nstop_grace = "1s"'
    file = agent.write("web", agent.pod_text(command=shell(script), extra=extra))
    wait_for(lambda: agent.output("web") == ["ready"], "it runs")
    log = agent.data / "logs" / "web" / "app.log"
    kept = os.open(log, os.O_RDONLY)
    begin = time.monotonic()
    file.unlink()
    agent.wait_gone("web")
    took = time.monotonic() - begin
    printed = os.read(kept, 4096).decode()
    os.close(kept)
    assert "int" in printed
    assert "term" not in printed
    # The agent's own grace, had it counted, is 10 s.
    assert 0.9 < took < 9


def test_a_changed_stop_signal_and_grace_count_for_the_run_that_goes_on(agent: Agent) -> None:
    traps = "trap 'echo usr1' USR1; trap 'exit 0' TERM"
    script = f"{traps}; echo ready; while :; do busybox sleep 0.05; done"
    agent.write("web", agent.pod_text(command=shell(script)))
    wait_for(lambda: agent.output("web") == ["ready"], "it runs")
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    extra = 'stop_signal = "USR1"\nstop_grace = "2s"'
    agent.write("web", agent.pod_text(command=shell(script), extra=extra))
    wait_for(lambda: any(event.type == "changed" for event in agent.client.events()), "it is changed live")
    assert agent.pid("web") == pid
    begin = time.monotonic()
    agent.write("web", agent.pod_text(command=shell(f"{script}; true"), extra=extra))
    wait_for(lambda: "usr1" in agent.output("web"), "the new signal is sent")
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "it is killed")
    # It began with a grace of 0.3 s.
    assert time.monotonic() - begin >= 2


def test_the_whole_process_tree_is_gone_after_a_stop(agent: Agent) -> None:
    daemon = "(busybox setsid sh -c 'trap \"\" TERM INT HUP; (sleep 4321 & sleep 4321) & sleep 4321' &) &"
    file = agent.write("web", agent.pod_text(command=shell(f"{daemon} echo started; {SLEEP}")))

    def processes() -> list[int]:
        inode = Path(f"/proc/{pid}/ns/pid").readlink()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    found += [int(entry.name)] if (entry / "ns" / "pid").readlink() == inode else []
                except OSError:
                    continue
        return found

    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    tree = wait_for(lambda: len(processes()) >= 5 and processes(), "daemons run")
    file.unlink()
    agent.wait_gone("web")
    assert [one for one in tree if Path(f"/proc/{one}").exists()] == []


def test_containers_of_a_pod_share_the_network_and_nothing_else(agent: Agent) -> None:
    server = "while :; do echo hello | busybox nc -l -p 8080; done"
    client = "until busybox nc -w 2 127.0.0.1 8080; do busybox sleep 0.1; done"
    look = "busybox ps | busybox wc -l; busybox touch /seen; busybox ls /"
    text = agent.pod_text(command=shell(server)) + agent.pod_text(
        command=shell(f"{client}; {look}; {SLEEP}")
    ).replace('"app"', '"client"')
    agent.write("web", text)
    wait_for(lambda: "seen" in agent.output("web", "client"), "the client ran")
    assert agent.output("web", "client")[0] == "hello"
    assert int(agent.output("web", "client")[1]) <= 5
    agent.wait_phase("web", "running")
    one, other = agent.pid("web", 0), agent.pid("web", 1)

    def namespace(pid: int, kind: str) -> str:
        return str(Path(f"/proc/{pid}/ns/{kind}").readlink())

    assert namespace(one, "net") == namespace(other, "net") != namespace(os.getpid(), "net")
    for kind in ("mnt", "pid", "ipc", "uts", "cgroup"):
        assert len({namespace(one, kind), namespace(other, kind), namespace(os.getpid(), kind)}) == 3, kind
    assert not Path(f"/proc/{one}/root/seen").exists()


def test_security_opt_outs(agent: Agent) -> None:
    look = "busybox grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status"

    def seen(table: str, script: str = "true", extra: str = "") -> dict[str, str]:
        text = agent.pod_text(
            command=shell(f"exec 2>&1; {look}; {script}; echo over: yes"),
            head='restart = "never"',
            extra=f"{extra}\n[containers.security]\n{table}",
        )
        (agent.pods / "sec.toml").unlink(missing_ok=True)
        agent.wait_gone("sec")
        agent.write("sec", text)
        agent.wait_phase("sec", "completed")
        return {key: value.strip() for key, _, value in (line.partition(":") for line in agent.output("sec"))}

    assert seen('capabilities = { drop = ["ALL"] }')["CapEff"] == "0" * 16
    net = seen('capabilities = { add = ["NET_ADMIN"] }', "busybox ip link set lo up && echo up: yes")
    assert net["up"] == "yes"
    bit = f"{1 << 12:016x}"
    assert seen('capabilities = { add = ["NET_ADMIN"] }', extra='user = "1000"')["CapEff"] == bit
    ro = seen("read_only_root = true", "busybox touch /x && echo wrote: yes")
    assert "wrote" not in ro
    assert seen('seccomp = "unconfined"')["Seccomp"] == "0"
    profile = agent.home / "profile.json"
    rule = '{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}'
    profile.write_text(f'{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{rule}]}}')
    own = seen(f'seccomp = "{profile}"', "busybox mkdir /tmp/x && echo made: yes")
    assert own["Seccomp"] == "2"
    assert "made" not in own
    every = seen("privileged = true", "busybox mknod /tmp/null c 1 3 && : > /tmp/null && echo opened: yes")
    assert (every["NoNewPrivs"], every["Seccomp"], every["opened"]) == ("0", "0", "yes")
    assert int(every["CapEff"], 16) > 0x800405FB


def test_a_device_of_the_host(agent: Agent) -> None:
    script = "busybox test -c /dev/kmsg && : >> /dev/kmsg && echo opened"
    table = '[containers.security]\ndevices = ["/dev/kmsg"]\n'
    agent.write("dev", agent.pod_text(command=shell(script), head='restart = "never"', extra=table))
    agent.wait_phase("dev", "completed")
    assert agent.output("dev") == ["opened"]
    agent.write("no", agent.pod_text(extra='[containers.security]\ndevices = ["/dev/not-there"]\n'))
    wait_for(lambda: "/dev/not-there" in str((agent.status("no") or {}).get("error")), "it is said")


def test_a_profile_that_is_none_is_said(agent: Agent) -> None:
    profile = agent.home / "profile.json"
    profile.write_text('{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x"}')
    agent.write("web", agent.pod_text(extra=f'[containers.security]\nseccomp = "{profile}"\n'))
    wait_for(lambda: str(profile) in str((agent.status("web") or {}).get("error")), "it is said")


def test_an_apparmor_profile_that_cannot_be_had_is_said(agent: Agent) -> None:
    """Who asks for one by name never goes without; "default" asks for nothing, as every other test shows."""
    agent.write("web", agent.pod_text(extra='[containers.security]\napparmor = "no-such-profile"\n'))
    error = str(wait_for(lambda: (agent.status("web") or {}).get("error"), "it is refused"))
    assert "AppArmor profile no-such-profile" in error
    assert "is off on this machine" in error or "is not loaded" in error
    status = agent.status("web")
    assert status is not None and all(one["pid"] is None for one in status["containers"])
