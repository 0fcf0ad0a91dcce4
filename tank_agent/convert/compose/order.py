"""The order of services: those that share a pod, and those that wait for others."""

from __future__ import annotations

from collections.abc import Iterator

from tank_agent.convert.compose import values
from tank_agent.convert.compose.service import ComposeService, Stack, Table, each, mapped
from tank_agent.convert.model import Value
from tank_agent.spec.findings import show
from tank_agent.spec.order import find_cycle

_COMPLETED = "service_completed_successfully"


def leader_of(stack: Stack, name: str, networks: dict[str, Value | None], names: dict[str, str]) -> str:
    """Return the service whose pod another is in, by `network_mode: service:x`; `names` are of containers."""
    seen = [name]
    while True:
        mode = networks.get(seen[-1])
        word = str(mode.plain) if mode is not None else ""
        kind, _, other = word.partition(":")
        if kind == "container":
            other = names.get(other, "")
        if kind not in ("service", "container") or other not in stack.project.services or other in seen:
            return seen[-1]
        seen.append(other)


def conditions(service: ComposeService) -> list[tuple[str, Value, str]]:
    """Return what a service depends on, with places and conditions; nothing if that can not be read."""
    try:
        return _conditions(service)
    except ValueError:
        return []


def _conditions(service: ComposeService) -> list[tuple[str, Value, str]]:
    given = service.keys.get("depends_on")
    if given is None:
        return []
    started = "service_started"
    if not isinstance(given.plain, dict):
        return [(name, given, started) for name in dict.fromkeys(values.texts(given))]
    found = []
    for name, one in given.plain.items():
        keys = values.mapping(one)
        found.append((name, one, values.text(keys["condition"]) if "condition" in keys else started))
    return found


def depends_on(service: ComposeService, key: str, value: Value) -> None:
    """Wait for other pods, or for other containers of the pod."""
    given = value.plain if isinstance(value.plain, dict) else {}
    for name, one in given.items():
        each(service, f"{key}.{name}", values.mapping(one), DEPENDENCY)
    for name, one, condition in _conditions(service):
        other = service.stack.services.get(name)
        if other is None:
            known = name in service.stack.project.services
            if not known and not _optional(one):
                service.lost(key, one, f"there is no service {show(name)} here, so nothing waits for it")
            continue
        if condition not in ("service_started", "service_healthy", _COMPLETED):
            service.lost(
                key, one, f"{show(condition)} is no condition of compose; it is waited for until ready"
            )
        if other.draft is service.draft:
            _inside(service, key, one, other, condition)
        else:
            service.add_pod(key, one, ("after",), other.draft.name)
            if condition == _COMPLETED and _policy(other) == "always":
                message = f"{name} is restarted whenever it ends, so it is never over: set its restart to no"
                service.note(key, one, message)


def _policy(service: ComposeService) -> object:
    return service.draft.find("restart")


def _optional(value: Value) -> bool:
    return (
        isinstance(value.plain, dict)
        and "required" in value.plain
        and not values.boolean(value.plain["required"])
    )


def _inside(service: ComposeService, key: str, value: Value, other: ComposeService, condition: str) -> None:
    if other is service:
        return
    if other.init:
        # It runs before all others anyway.
        return
    if condition == _COMPLETED:
        message = (
            f"{other.name} waits for containers of this pod itself, so it is no init container: import it "
            "without --one-pod"
        )
        service.lost(key, value, message)
    if service.init:
        return
    service.add(key, value, "after", other.container)


def choose_init(stack: Stack) -> None:
    """Let services run to their end before the others of their pod, where one of these waits for that."""
    for service in stack.services.values():
        for name, _value, condition in conditions(service):
            other = stack.services.get(name)
            if condition == _COMPLETED and other is not None and other.draft is service.draft:
                other.init = all(
                    below is None or below.draft is not other.draft or below.init
                    for below in (stack.services.get(one) for one, _, _ in conditions(other))
                )
    for pod in stack.pods().values():
        if all(service.init for service in pod):
            pod[-1].init = False


def in_order(stack: Stack) -> Iterator[ComposeService]:
    """Yield the services, init containers before others, and after those that they wait for themselves."""
    done: dict[str, None] = {}

    def add(service: ComposeService, above: tuple[str, ...] = ()) -> None:
        if service.name in done or service.name in above:
            return
        for name, _, _ in conditions(service):
            other = stack.services.get(name)
            if other is not None and other.init:
                add(other, (*above, service.name))
        done[service.name] = None

    for service in stack.services.values():
        if service.init:
            add(service)
    leading = [pod.name for services in stack.pods().values() for pod in services if pod.leads]
    for name in (*leading, *stack.services):
        done.setdefault(name)
    return (stack.services[name] for name in done)


def open_circles(stack: Stack) -> None:
    """Let nobody wait in a circle of pods, which services that share a pod can make."""
    while True:
        graph = {
            name: [str(one.value) for one in pod[0].draft.entries if one.path[0] == "after"]
            for name, pod in stack.pods().items()
        }
        circle = find_cycle(graph)
        if circle is None:
            return
        draft = stack.pods()[circle[0]][0].draft
        entry = next(one for one in draft.entries if one.path[0] == "after" and one.value == circle[1])
        draft.entries.remove(entry)
        message = f"{' → '.join(circle)} would wait for each other, so {circle[0]} does not wait"
        stack.remark("lost", entry.origin.key, Value(None, entry.origin.place), message)


def _effectless(service: ComposeService, key: str, value: Value) -> None:
    """Say nothing: the name is waited for."""


def _restart(service: ComposeService, key: str, value: Value) -> None:
    if values.boolean(value):
        service.lost(key, value, "a pod that starts anew restarts no others")


DEPENDENCY: Table = {
    "condition": mapped("`after`", _effectless),
    "required": mapped("a pod that is not there is waited for", _effectless),
    "restart": mapped("lost: a pod that starts anew restarts no others", _restart),
}
