"""Values of a normalised pod in the form that a pod file has, for keys where both differ.

Each function takes the struct that has the key. None leaves the key out.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from tank_agent.spec import model, quantities


class LongText(str):
    """A text that is written on lines of its own."""

    __slots__ = ()


def time(name: str) -> Callable[[Struct], str | float | None]:
    """Return the writer of a length of time: text, or seconds where no text is exact."""

    def written(table: Struct) -> str | float | None:
        seconds: float | None = getattr(table, name)
        # What no file could say, a pod that was built in Python may: the reader of the text refuses it.
        if seconds is None or not 0 <= seconds < math.inf:
            return seconds
        text = quantities.format_duration(seconds)
        # The few times without an exact text are written as a number of seconds.
        return text if text[-1].isalpha() else seconds

    return written


def http(health: model.HealthCheck) -> dict[str, object] | None:
    """Return a probe's keys that are not at their default."""
    if health.http is None:
        return None
    kept = dict(model.defaults_of(model.HttpProbe))
    return {key: value for key in kept if (value := getattr(health.http, key)) != kept[key]}


def cpu(limits: model.Limits) -> float | dict[str, int] | None:
    """Return cores, or a quota and a period."""
    if limits.cpu is None:
        return None
    cores = limits.cpu.quota / quantities.CPU_PERIOD
    if limits.cpu.period == quantities.CPU_PERIOD and cores <= 1024:
        return cores
    return {"quota": limits.cpu.quota, "period": limits.cpu.period}


def network(pod: model.Pod) -> model.Network | str:
    """Return the mode where that says all."""
    found = pod.network
    plain = found in (
        model.Network(mode=found.mode),
        model.Network(mode="bridge", bridges=model.DEFAULT_BRIDGES),
    )
    return found.mode if plain else found


def bridges(network: model.Network) -> list[str] | None:
    """Return the bridges that are not the default."""
    return None if network.bridges == model.DEFAULT_BRIDGES else list(network.bridges)


def capabilities(security: model.Security) -> dict[str, list[str]] | None:
    """Return the lists that name any."""
    lists = {"add": list(security.add), "drop": list(security.drop)}
    return {name: names for name, names in lists.items() if names} or None


def one_or_more(name: str) -> Callable[[model.Nic], str | list[str]]:
    """Return the writer of a list that is a text if it has one element."""
    return lambda nic: words[0] if len(words := list(getattr(nic, name))) == 1 else words


def size(name: str) -> Callable[[Struct], str | None]:
    """Return the writer of a number of bytes."""

    def written(table: Struct) -> str | None:
        found: int | None = getattr(table, name)
        return None if found is None else quantities.format_memory(found)

    return written


def mode(mount: model.Mount) -> str | None:
    """Return permissions in octal digits."""
    return None if mount.mode is None else f"{mount.mode:04o}"


def ulimits(container: model.Container) -> dict[str, Any] | None:
    """Return each limit as one number, or as two that differ."""

    def word(number: int) -> int | str:
        return "unlimited" if number == model.UNLIMITED else number

    return {
        name: word(one.soft) if one.soft == one.hard else {"soft": word(one.soft), "hard": word(one.hard)}
        for name, one in container.ulimits.items()
    } or None


def security(container: model.Container) -> model.Security | None:
    """Return what differs beside the root file system, which `read_only` is about."""
    found = replace(container.security, read_only_root=False)
    return None if found == model.Security() else found


def read_only(container: model.Container) -> bool | None:
    """Return whether the root file system can't be written."""
    return container.security.read_only_root or None


def schedule(name: str) -> Callable[[model.Pod], Any]:
    """Return the writer of a key of a job."""

    def written(pod: model.Pod) -> Any:
        if pod.schedule is None:
            return None
        return time(name)(pod.schedule) if name == "timeout" else getattr(pod.schedule, name) or None

    return written


def restart(pod: model.Pod) -> str | None:
    """Return the policy; that of a job is known."""
    job = pod.schedule is not None and pod.restart is model.RestartPolicy.NEVER
    return None if job else pod.restart.value


def text(file: model.ConfigFile) -> str | None:
    """Return the content of a file that is text."""
    try:
        found = file.content.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in found else LongText(found)


def binary(file: model.ConfigFile) -> str | None:
    """Return the content of any other file."""
    return None if text(file) is not None else base64.b64encode(file.content).decode()


def armor(secret: model.Secret) -> str | None:
    """Return the encrypted text of a secret."""
    return LongText(secret.age) if secret.age else None


def nothing(_table: Struct) -> None:
    """Return nothing: another key says the same."""
