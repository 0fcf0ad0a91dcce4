"""Pods whose programs write down when they begin and end, for tests of the order in which they do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.agent import Agent, wait_for

# Less than any wait that would be wrong, as the default grace, and enough for a machine that is busy.
LATE = 9.0
_RUN = "while :; do sleep 1000 & wait $!; done"


class Order:
    """A directory that all programs write their lines to, each when it begins and when it ends."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._place = agent.home / "order"
        self._place.mkdir()

    @property
    def lines(self) -> list[str]:
        """Return what has happened until now, such as "app begins"."""
        file = self._place / "lines"
        return file.read_text().splitlines() if file.exists() else []

    def forget(self) -> None:
        """Begin a new list."""
        (self._place / "lines").unlink(missing_ok=True)

    def say(self, word: str) -> None:
        """Make a file that programs wait for."""
        (self._place / word).touch()

    def unsay(self, word: str) -> None:
        """Remove the file again."""
        (self._place / word).unlink(missing_ok=True)

    def wait(self, *lines: str) -> None:
        """Wait until exactly these lines are there."""
        try:
            wait_for(lambda: self.lines == [*lines], "the programs ran in that order")
        except AssertionError:
            told = self._agent.tank("list").stdout + self._agent.log.read_text()[-4000:]
            raise AssertionError(f"{self.lines}, not {[*lines]}\n{told}") from None

    def init(self, name: str, *, until: str = "", then: str = "exit 0", extra: str = "") -> str:
        """Return an init container that waits for a word, and then ends."""
        wait = f"while [ ! -e /order/{until} ]; do sleep 0.02; done; " if until else ""
        script = f"echo {name} begins >> /order/lines; {wait}echo {name} ends >> /order/lines; {then}"
        return self.container(name, script, extra=f"init = true\n{extra}")

    def app(
        self,
        name: str = "app",
        *,
        after: Sequence[str] = (),
        before: str = "",
        last: str = "",
        extra: str = "",
    ) -> str:
        """Return a container that runs until it is asked to end; `before` and `last` are scripts of it."""
        trap = f"trap '{last or 'true'}; echo {name} ends >> /order/lines; exit 0' TERM"
        script = f"{trap}; echo {name} begins >> /order/lines; {before or 'true'}; {_RUN}"
        waits = f"after = {json.dumps([*after])}\n" if after else ""
        # It ends by itself, when it has its turn, and maybe only when the test tells it to.
        grace = "" if "stop_grace" in extra else 'stop_grace = "1m"\n'
        return self.container(name, script, extra=f"{waits}{grace}{extra}")

    def container(self, name: str, script: str, *, extra: str = "") -> str:
        """Return a container with a script, that sees the directory at /order."""
        grace = "" if "stop_grace" in extra else 'stop_grace = "5s"\n'
        mounts = '[[containers.mounts]]\nvolume = "order"\npath = "/order"\n'
        head, table, rest = f"\n{extra}".partition("\n[")
        return (
            f'[[containers]]\nname = "{name}"\nrootfs = "{self._agent.rootfs}"\n'
            f"command = {json.dumps(['/bin/sh', '-c', script])}\n{grace}{head}\n{mounts}{table}{rest}\n"
        )

    def write(self, pod: str, *containers: str, head: str = "") -> Path:
        """Write the file of a pod."""
        volume = f'[[volumes]]\nname = "order"\nhost = "{self._place}"\n'
        return self._agent.write(pod, self.text(*containers, head=head, volume=volume))

    def text(self, *containers: str, head: str = "", volume: str = "") -> str:
        """Return the text of a pod file."""
        return f"{head}\n{volume}\n" + "\n".join(containers)


def container(agent: Agent, name: str, pod: str = "web") -> dict[str, Any]:
    """Return the status of one container of a pod."""
    status = agent.status(pod)
    assert status is not None
    found: dict[str, Any] = next(found for found in status["containers"] if found["name"] == name)
    return found
