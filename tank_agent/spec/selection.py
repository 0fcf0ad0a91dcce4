"""Say why a pod's selector does not match a machine, and for which machines it is. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from tank_agent.spec.findings import show
from tank_agent.spec.model import EVERYWHERE, Host, Selector, selects
from tank_agent.spec.other_tools import labels as other_labels

_MOST = 3


class Mismatch(NamedTuple):
    """The keys of a selector that do not match a machine, and a sentence about each of them."""

    by: Literal["hosts", "labels", "hosts and labels"]
    why: str


def mismatch(selector: Selector, host: Host) -> Mismatch | None:
    """Return why a pod is not for a machine; None if it is."""
    if selector == EVERYWHERE or selects(selector, host):
        return None
    hosts = _hosts(selector, host)
    labels = _labels(selector, host)
    if hosts and labels:
        return Mismatch("hosts and labels", f"{hosts}; {labels}")
    return Mismatch("hosts", hosts) if hosts else Mismatch("labels", labels)


def machines(selector: Selector) -> str:
    """Return in words for which machines a pod is: "hosts edge-* and labels site=fra"."""
    hosts = [f"hosts {_few(selector.hosts, ', ')}"] if selector.hosts else []
    pairs = [f"{key}={value}" for key, value in selector.labels.items()]
    return " and ".join([*hosts, *([f"labels {_few(pairs, ', ')}"] if pairs else [])])


def warning(selector: Selector) -> str | None:
    """Return a warning about labels that were meant for a container, as other tools have them; else None."""
    meant = [key for key in selector.labels if other_labels.is_of_a_container(key)]
    if not meant:
        return None
    return (
        f"{_few(meant, ', ')} looks like a label of a container, which nothing here reads: labels of a pod"
        " select the machines that run it, by [labels] of their agent.toml; remove it"
    )


def _hosts(selector: Selector, host: Host) -> str:
    if not selector.hosts or selects(Selector(hosts=selector.hosts), host):
        return ""
    named = [show(pattern) for pattern in selector.hosts]
    name = f"{_machine(host)}'s name, {host.name or '(none)'}"
    if len(named) == 1:
        return f"hosts: {named[0]} is not {name}"
    return f"hosts: none of {_few(named, ', ')} is {name}"


def _labels(selector: Selector, host: Host) -> str:
    wrong = {
        key: value
        for key, value in selector.labels.items()
        if not selects(Selector(labels={key: value}), host)
    }
    if not wrong:
        return ""
    pairs = _few([f"{key} = {show(value)}" for key, value in wrong.items()], " and ")
    be, what = ("is", "a label") if len(wrong) == 1 else ("are", "labels")
    near = [f"{key} = {show(host.labels[key])}" for key in wrong if key in host.labels]
    if near:
        known = f"{'there' if host.is_other else 'here'}, {_few(near, ' and ')}"
    else:
        has = "--label says" if host.is_other else "agent.toml has"
        known = f"{has} {_few(sorted(host.labels), ', ') if host.labels else 'none'}"
    return f"labels: {pairs} {be} not {what} of {_machine(host)} ({known})"


def _machine(host: Host) -> str:
    return "that machine" if host.is_other else "this machine"


def _few(words: Iterable[str], between: str) -> str:
    """Join words, the first few of them."""
    found = list(words)
    more = len(found) - _MOST
    return between.join(found[:_MOST]) + (f" and {more} more" if more > 0 else "")
