"""Run in a mount namespace of its own: an agent whose pods.d is a mount that goes away and comes back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.agent import Agent, ended


def main(home: Path) -> None:
    """Fail with an AssertionError if an unmounted pods.d stops a pod."""
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    agent = Agent(home)
    disk = ["mount", "-t", "tmpfs", "tmpfs", str(agent.pods)]
    subprocess.run(disk, check=True)
    agent.start()
    with ended(agent):
        agent.write = agent_write(agent)  # type: ignore[method-assign]
        agent.write("web", agent.pod_text())
        agent.wait_phase("web", "running")
        pid = agent.pid("web")
        # The watchers of a running agent keep the mount busy, as they would any disk.
        subprocess.run(["umount", "--lazy", str(agent.pods)], check=True)
        assert not any(agent.pods.iterdir())
        agent.client.sync()
        assert agent.pid("web") == pid
        agent.kill()
        agent.start()
        agent.client.sync()
        assert agent.pid("web") == pid, "an agent that starts without the disk must keep the pod too"


def agent_write(agent: Agent):  # type: ignore[no-untyped-def]
    """Return a `write` that works across file systems."""

    def write(name: str, text: str) -> Path:
        target = agent.pods / f"{name}.toml"
        target.write_text(text)
        return target

    return write


if __name__ == "__main__":
    main(Path(sys.argv[1]))
