"""Which pods of a shared repository are meant for this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase


def selected(
    hosts: Sequence[str], labels: Mapping[str, str], hostname: str, agent_labels: Mapping[str, str]
) -> bool:
    """Return whether a pod with these selectors runs on this host.

    `hosts` are patterns (`edge-*`), one of which must match the host's name, full or up to its first dot.
    Every one of `labels` must match agent.toml's label of that key; its value may be a pattern too. What is
    empty selects everything.
    """
    names = (hostname.lower(), hostname.lower().split(".", 1)[0])
    if hosts and not any(fnmatchcase(name, pattern.lower()) for pattern in hosts for name in names):
        return False
    return all(key in agent_labels and fnmatchcase(agent_labels[key], value) for key, value in labels.items())
