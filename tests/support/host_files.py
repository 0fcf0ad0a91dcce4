"""Run in a mount namespace of its own: an agent on a machine whose files in /etc are the test's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.agent import wait_for
from tests.support.lan import LanAgent, lan_agent, nic


def seen(agent: LanAgent, pod: str, file: str) -> str:
    """Return a file of /etc as a pod's container sees it."""
    return Path(f"/proc/{agent.pid(pod)}/root/etc/{file}").read_text()


def hosts(home: Path) -> None:
    """Fail if a pod in the host's network does not follow the host's entries, or follows them for ever."""
    file = home / "hosts"
    file.write_text("127.0.0.1 localhost\n10.0.0.7 nas\n")
    subprocess.run(["mount", "--bind", str(file), "/etc/hosts"], check=True)
    with lan_agent(home) as agent:
        agent.write("web", agent.pod_text(head='network = "host"'))
        agent.write("alone", agent.pod_text())
        for pod in ("web", "alone"):
            agent.wait_phase(pod, "running")
        pid = agent.pid("web")
        own = "127.0.1.1 web\n127.0.0.1 app\n"
        assert seen(agent, "web", "hosts") == f"127.0.0.1 localhost\n10.0.0.7 nas\n{own}"
        assert "nas" not in seen(agent, "alone", "hosts")
        with file.open("a") as opened:
            opened.write("10.0.0.8 printer\n")
        wait_for(lambda: f"10.0.0.8 printer\n{own}" in seen(agent, "web", "hosts"), "it follows")
        with file.open("a") as opened:
            opened.writelines(f"0.0.0.0 advertiser{number}.example\n" for number in range(60_000))
        assert file.stat().st_size > 1 << 20
        whole = file.read_text() + own
        wait_for(lambda: seen(agent, "web", "hosts") == whole, "it has all of it")
        _comes_to_rest(agent, "web")
        assert agent.pid("web") == pid


def _comes_to_rest(agent: LanAgent, pod: str) -> None:
    def changes() -> int:
        return [event.type for event in agent.client.events() if event.pod == pod].count("network-changed")

    agent.client.sync()
    before = changes()
    for _ in range(3):
        agent.client.sync()
    assert changes() == before


def dns(home: Path) -> None:
    """Fail if `auto` hands a caching resolver to who cannot ask it, or keeps it from who can."""
    resolv_conf = home / "resolv.conf"
    resolv_conf.write_text("nameserver 127.0.0.53\noptions edns0\nsearch lan.example\n")
    subprocess.run(["mount", "--bind", str(resolv_conf), "/etc/resolv.conf"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    upstream = Path("/run/systemd/resolve/resolv.conf")
    upstream.parent.mkdir(parents=True)
    upstream.write_text("nameserver 10.0.0.53\nnameserver fd00::53\nsearch lan.example\n")
    with lan_agent(home) as agent:
        agent.write("web", agent.nics_text(nic()))
        agent.write("host", agent.pod_text(head='network = "host"'))
        agent.write("alone", agent.pod_text())
        for pod in ("web", "host", "alone"):
            agent.wait_phase(pod, "running")
        rest = "search lan.example\noptions edns0\n"
        wanted = f"nameserver 10.0.0.53\nnameserver fd00::53\n{rest}"
        assert seen(agent, "web", "resolv.conf") == wanted
        assert seen(agent, "host", "resolv.conf") == f"nameserver 127.0.0.53\n{rest}"
        assert seen(agent, "alone", "resolv.conf") == ""


if __name__ == "__main__":
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    {"hosts": hosts, "dns": dns}[sys.argv[1]](Path(sys.argv[2]))
