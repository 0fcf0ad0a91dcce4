"""An agent that follows a repository on this machine, and ways to push to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.support.agent import Agent
from tests.support.git import Work


def echo(word: str) -> list[str]:
    """Return a command that says a word, and then waits to be ended."""
    return ["/bin/sh", "-c", f"trap 'exit 0' TERM; echo {word}; while :; do sleep 1000 & wait $!; done"]


class Fleet:
    """A work tree, its bare repository, and an agent (not running yet) whose agent.toml names it.

    Args:
        home: a directory for all of it.
        lines: of `[git]`, beside url, branch and path; a line with a table's header may begin other tables.
        agent: one that is made already.
    """

    def __init__(
        self,
        home: Path,
        *lines: str,
        url: str | None = None,
        path: str = "pods",
        agent: Agent | None = None,
    ) -> None:
        self.work = Work(home)
        self.agent = agent or Agent(home)
        self.configure(*lines, url=url, path=path)

    def configure(self, *lines: str, url: str | None = None, path: str = "pods") -> None:
        """Write `[git]` into agent.toml; counts when the agent starts."""
        agent = self.agent
        text = agent.config.read_text().partition("[git]")[0]
        head = f'[git]\nurl = "{url or self.work.bare}"\nbranch = "main"\npath = "{path}"\n'
        agent.config.write_text(text + head + "".join(f"{line}\n" for line in lines))

    def text(self, word: str = "up", **more: str) -> str:
        """Return a pod file whose container says a word."""
        return self.agent.pod_text(command=echo(word), **more)

    def push(self, files: Mapping[str, str | None], subject: str = "change", *options: str) -> str:
        """Write files (None removes one), commit, push, and return the commit."""
        for path, text in files.items():
            if text is None:
                (self.work.path / path).unlink()
            else:
                self.work.write(path, text)
        return self.work.commit(subject, *options)
