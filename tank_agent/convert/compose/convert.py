"""Make pod files of a compose project: one service a pod, or all of them one."""

from __future__ import annotations

from msgspec.structs import replace

from tank_agent.convert.compose import network, order, storage
from tank_agent.convert.compose.keys import SERVICE
from tank_agent.convert.compose.project import Project
from tank_agent.convert.compose.service import ComposeService, Given, Stack, each
from tank_agent.convert.draft import Origin, PodEntries, PodEntry, finished
from tank_agent.convert.model import Conversion, NewPodFile, Remark, Value
from tank_agent.convert.names import free, valid

# Others look at what these set; `deploy` wins over the older keys for the same thing.
_FIRST = ("network_mode", "networks")
_NETWORKS = (("network",), ("network", "bridges"), ("network", "nics"))
_POLICIES = ("never", "on-failure", "always")


def convert(project: Project, given: Given, *, one_pod: bool = False) -> Conversion:
    """Return the pod files of a project, and remarks on all that is not in them."""
    stack = Stack(project, given, one_pod=one_pod)
    _make_services(stack)
    stack.look_around(storage.named_volumes)
    order.choose_init(stack)
    services = list(order.in_order(stack))
    for service in services:
        _name(service)
        _restart(service)
    for service in services:
        keys = {name: service.keys[name] for name in _FIRST if name in service.keys}
        last = {"deploy": service.keys["deploy"]} if "deploy" in service.keys else {}
        others = {name: value for name, value in service.keys.items() if name not in (*keys, *last)}
        _each(service, {**keys, **others, **last})
    for service in services:
        if network.is_in_default(service):
            _in_default(service)
    network.choose_ports(stack)
    order.open_circles(stack)
    network.top_level(stack)
    storage.top_level(stack)
    files = []
    for pod in stack.pods().values():
        network.name_clashes(pod)
        _network(pod)
        file, remarks = finished(pod[0].draft)
        stack.remarks += remarks
        if file is not None:
            files.append(_with_head(_shortened(file), pod, stack))
    return Conversion(files=tuple(files), remarks=tuple(_by_place(stack.remarks)), keys=_count(project))


def _by_place(remarks: list[Remark]) -> list[Remark]:
    files = list(dict.fromkeys(one.place.file for one in remarks))
    return sorted(remarks, key=lambda one: (files.index(one.place.file), one.place.line))


def _make_services(stack: Stack) -> None:
    project = stack.project
    given = {
        name: value.plain if isinstance(value.plain, dict) else {} for name, value in project.services.items()
    }
    modes = {name: keys.get("network_mode") for name, keys in given.items()}
    names = {
        str(keys["container_name"].plain): name for name, keys in given.items() if "container_name" in keys
    }
    stack.by_container = names
    # Others find these services by that name: one whose name is made valid does not take it.
    unchanged = {name for name in given if valid(name, "pod") == name}
    drafts: dict[str, PodEntries] = {}
    for name, value in project.services.items():
        leader = project.name if stack.one_pod else order.leader_of(stack, name, modes, names)
        if leader not in drafts:
            place = value if stack.one_pod else project.services[leader]
            origin = Origin("services" if stack.one_pod else f"services.{leader}", place.place)
            taken = {draft.name for draft in drafts.values()} | (unchanged - {leader})
            drafts[leader] = PodEntries(free(valid(leader, "pod"), taken), origin)
        service = ComposeService(stack, name, value, drafts[leader])
        service.leads = leader == name
        stack.services[name] = service
        taken = {one.container for one in service.companions() if one is not service}
        service.container = free(service.container, taken)
        if not service.keys:
            stack.remark("lost", f"services.{name}", value, "has no keys; nothing was made of it")
            del stack.services[name]


def _each(service: ComposeService, keys: dict[str, Value]) -> None:
    each(service, "", keys, SERVICE)
    if service.init:
        service.put("depends_on", service.value, "init", True)
        service.draft.entries = [
            one
            for one in service.draft.entries
            if one.path[:3] != ("containers", service.container, "health")
        ]


def _name(service: ComposeService) -> None:
    """Let others go on to find a service by its name, where no pod can have that."""
    if service.stack.one_pod or (service.leads and service.name != service.draft.name):
        network.add_alias(service, "", service.value, service.name)


def _restart(service: ComposeService) -> None:
    """Take compose's policy for services that name none; a pod of several has the one that keeps most up."""
    if "restart" not in service.keys:
        service.put_pod("restart", service.value, ("restart",), "never")


def _in_default(service: ComposeService) -> None:
    bridge = network.bridge_of(service.stack, "default")
    known = service.draft.find("network", "bridges")
    together = list(dict.fromkeys([*(known if isinstance(known, list) else []), bridge]))
    if service.draft.find("network") not in ("host", "none"):
        service.put_pod("networks", service.value, ("network", "bridges"), together)


def _network(pod: list[ComposeService]) -> None:
    """Write the network in its shortest form, and take one policy for all containers of a pod."""
    draft = pod[0].draft
    if not any(one.path[:2] in _NETWORKS for one in draft.entries):
        _in_default(pod[0])
    modes = [one for one in draft.entries if one.path == ("network",)]
    tables = [one for one in draft.entries if one.path[0] == "network" and len(one.path) > 1]
    if modes:
        for one in tables:
            draft.entries.remove(one)
            if one.path[1] not in ("bridges", "aliases"):
                message = f'has no effect with network = "{modes[-1].value}"'
                pod[0].stack.remark("lost", one.origin.key, Value(None, one.origin.place), message)
    elif any(one.path[1] == "nics" for one in tables):
        draft.entries = [one for one in draft.entries if one.path != ("network", "bridges")]
    else:
        last = [one for one in draft.entries if one.path == ("network", "bridges")][-1:]
        draft.entries = [one for one in draft.entries if one.path != ("network", "bridges") or one in last]
    policies = [one for one in draft.entries if one.path == ("restart",)]
    own: dict[str, PodEntry] = {}
    for one in policies:
        own |= {service.name: one for service in pod if _service_of(one.origin.key, service.stack) is service}
    chosen = max((_POLICIES.index(str(one.value)) for one in own.values()), default=0)
    for service in pod:
        found = own.get(service.name)
        if found is not None and found.value != _POLICIES[chosen] and not service.init:
            message = f'containers of a pod have one policy, "{_POLICIES[chosen]}" here, not "{found.value}"'
            service.stack.remark("lost", found.origin.key, Value(None, found.origin.place), message)
    draft.put(("restart",), _POLICIES[chosen], draft.origin)


def _shortened(file: NewPodFile) -> NewPodFile:
    """Write a network that is the usual one in a word; ports say it, too."""
    pod, network = dict(file.pod), file.pod.get("network")
    if isinstance(network, dict) and network.get("bridges") == ["default"]:
        rest = {key: value for key, value in network.items() if key != "bridges"}
        pod["network"] = rest or "bridge"
        if not rest and pod.get("ports"):
            del pod["network"]
    return replace(file, pod=pod)


def _with_head(file: NewPodFile, pod: list[ComposeService], stack: Stack) -> NewPodFile:
    """Say in the file where it comes from, and what it has not of there."""
    place = pod[0].value.place
    names = ", ".join(service.name for service in pod)
    lines = [f"From {place.file} by `tank import compose`: {names}."]
    for remark in stack.remarks:
        if remark.kind == "lost" and _is_of(remark, pod):
            lines.append(f"lost: {remark.key.partition('.')[2]}: {remark.message}")
        elif remark.kind == "note" and "mkdir -p " in remark.message and _is_of(remark, pod):
            lines.append(f"first: {remark.message}")
    return replace(file, comments=tuple(lines))


def _is_of(remark: Remark, pod: list[ComposeService]) -> bool:
    return _service_of(remark.key, pod[0].stack) in pod


def _service_of(key: str, stack: Stack) -> ComposeService | None:
    """Return the service that a key is of; names have dots, so that of the longest name."""
    names = [name for name in stack.services if f"{key}.".startswith(f"services.{name}.")]
    return stack.services[max(names, key=len)] if names else None


def _count(project: Project) -> int:
    """Return how many keys there are: those of services, and of what is beside them."""
    tables = (project.services, project.volumes, project.networks, project.configs, project.secrets)
    return sum(
        max(len(value.plain) if isinstance(value.plain, dict) else 0, 1)
        for table in tables
        for value in table.values()
    )
