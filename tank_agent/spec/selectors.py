"""Selectors: the machines that a pod is for, where many share one tree of files.

A pod file may have `hosts` and `labels`. They stay beside the Pod, never in it, so that a wider selector
restarts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

import msgspec
from msgspec import Struct


class Selector(Struct, frozen=True, kw_only=True):
    """Patterns for the host's name, one of which must match, and for its labels, all of which must.

    An empty one selects every machine.
    """

    hosts: tuple[str, ...] = ()
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)


class Host(Struct, frozen=True, kw_only=True):
    """A machine as selectors see it: its name, and [labels] of agent.toml."""

    name: str
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)


EVERYWHERE = Selector()


def selects(selector: Selector, host: Host) -> bool:
    """Return whether a pod with this selector runs on the host.

    A host's name counts in full and up to its first dot, in either case. Labels' values may be patterns, too.
    """
    full = host.name.lower()
    names, patterns = (full, full.split(".", 1)[0]), selector.hosts or ("*",)
    return any(fnmatchcase(name, pattern.lower()) for pattern in patterns for name in names) and all(
        key in host.labels and fnmatchcase(host.labels[key], pattern)
        for key, pattern in selector.labels.items()
    )
