"""The groups of a container's program, as it and commands in it see them: its user's, and further ones."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import Agent, running_agent, wait_for

LOOK = ["/bin/sh", "-c", "trap 'exit 0' TERM; id -G; echo done; while :; do sleep 1000 & wait $!; done"]


@pytest.fixture
def open_agent() -> Iterator[Agent]:
    """Return an agent in a directory that root of a user namespace may go through; pytest's it may not."""
    home = Path(tempfile.mkdtemp(prefix="tank-groups-"))
    home.chmod(0o711)
    with running_agent(home) as agent:
        yield agent
    shutil.rmtree(home)


def error(agent: Agent) -> str:
    return str((agent.status("web") or {}).get("error"))


def groups(agent: Agent, extra: str) -> list[str]:
    """Run a pod and return the groups of its program, once a command in it has the same."""
    agent.write("web", agent.pod_text(command=LOOK, extra=extra))
    wait_for(lambda: "done" in agent.output("web"), f"it runs: {error(agent)}")
    own = agent.output("web")[-2].split()
    inside = agent.tank("exec", "web", "--", "/bin/id", "-G")
    assert inside.stdout.split() == own, inside
    (agent.pods / "web.toml").unlink()
    agent.wait_gone("web")
    return own


@pytest.mark.parametrize("userns", ["host", "auto"])
def test_groups_are_added_to_those_of_the_user(open_agent: Agent, userns: str) -> None:
    agent = open_agent
    tail = f'[containers.security]\nuserns = "{userns}"\n'
    assert groups(agent, f'user = "web"\n{tail}') == ["1000", "2000"]
    further = f'groups = ["44", 2000, "root"]\n{tail}'
    assert groups(agent, f'user = "web"\n{further}') == ["1000", "0", "44", "2000"]
    # With a group of its own a user has no others by its name, but still those that the file names.
    assert groups(agent, f'user = "web:web"\n{further}') == ["1000", "0", "44", "2000"]
    assert groups(agent, f'user = "1234:1234"\ngroups = ["extra"]\n{tail}') == ["1234", "2000"]


def test_a_group_opens_what_belongs_to_it(agent: Agent) -> None:
    (agent.rootfs / "held").write_text("secret\n")
    shutil.chown(agent.rootfs / "held", 0, 2000)
    (agent.rootfs / "held").chmod(0o640)
    text = agent.pod_text(extra='user = "1234"\n')
    agent.write("web", text)
    agent.wait_phase("web", "running")
    assert agent.tank("exec", "web", "--", "/bin/cat", "/held").returncode == 1
    pid = agent.pid("web")
    agent.write("web", agent.pod_text(extra='user = "1234"\ngroups = ["extra"]\n'))
    wait_for(lambda: (agent.status("web") or {})["containers"][0]["pid"] not in (None, pid), "it restarts")
    agent.wait_phase("web", "running")
    assert agent.tank("exec", "web", "--", "/bin/cat", "/held").stdout == "secret\n"


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ('groups = ["render"]', ("no group 'render' in the image's /etc/group", "or a number")),
        (
            'groups = ["70000"]\n[containers.security]\nuserns = "auto"',
            ("its user is in group 70000", "only 65536"),
        ),
    ],
)
def test_a_group_that_it_cannot_have_is_one_sentence(
    agent: Agent, extra: str, words: tuple[str, ...]
) -> None:
    agent.write("web", agent.pod_text(extra=extra))
    wait_for(lambda: all(word in error(agent) for word in words), f"it is said: {error(agent)}")
