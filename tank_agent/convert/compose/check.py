"""The active services of a project, and whether what they name is there."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from tank_agent.convert.compose.paths import is_path
from tank_agent.convert.compose.sections import entries_of
from tank_agent.convert.model import InvalidSource, Remark, Value
from tank_agent.spec.findings import show


def active(
    services: Mapping[str, Value], profiles: Collection[str], remarks: list[Remark]
) -> dict[str, Value]:
    """Return the services without those whose profiles are not asked for, unless an active one needs them.

    Raises:
        InvalidSource: a service depends on one that is not there.
    """
    chosen = [name for name, service in services.items() if _is_asked_for(service, profiles)]
    wanted = set(chosen)
    needed_by: dict[str, str] = {}
    while chosen:
        name = chosen.pop()
        for other, value, is_required in dependencies(services[name]):
            if other not in services and is_required:
                raise InvalidSource(
                    value.place, f"services.{name}: there is no service {show(other)} to depend on"
                )
            if other in services and other not in wanted and is_required:
                wanted.add(other)
                needed_by[other] = name
                chosen.append(other)
    for name, service in services.items():
        asked = ", ".join(_profiles(service))
        if name not in wanted:
            message = f"is left out, since its profiles ({asked}) are not asked for; --profile takes it in"
        elif name in needed_by:
            message = f"has a profile that is not asked for ({asked}), but {needed_by[name]} depends on it"
        else:
            continue
        place = service.plain["profiles"].place if isinstance(service.plain, dict) else service.place
        remarks.append(Remark(kind="note", place=place, key=f"services.{name}.profiles", message=message))
    return {name: _without_missing(service, wanted) for name, service in services.items() if name in wanted}


def _without_missing(service: Value, wanted: Collection[str]) -> Value:
    """Return a service without what it need not wait for, since it is not there."""
    depends = service.plain.get("depends_on") if isinstance(service.plain, dict) else None
    if not isinstance(service.plain, dict) or depends is None or not isinstance(depends.plain, dict):
        return service
    kept = {name: value for name, value in depends.plain.items() if name in wanted}
    return Value({**service.plain, "depends_on": Value(kept, depends.place)}, service.place)


def _profiles(service: Value) -> list[str]:
    found = service.plain.get("profiles") if isinstance(service.plain, dict) else None
    if found is None or not isinstance(found.plain, tuple):
        return []
    return [item.plain for item in found.plain if isinstance(item.plain, str)]


def _is_asked_for(service: Value, profiles: Collection[str]) -> bool:
    own = _profiles(service)
    return not own or "*" in profiles or any(profile in profiles for profile in own)


def dependencies(service: Value) -> list[tuple[str, Value, bool]]:
    """Return the services that one needs, each with its value and whether it can't do without."""
    entries = service.plain if isinstance(service.plain, dict) else {}
    found: list[tuple[str, Value, bool]] = []
    depends = entries.get("depends_on")
    if depends is not None and isinstance(depends.plain, dict):
        found += [(name, value, _is_required(value)) for name, value in depends.plain.items()]
    for key in ("depends_on", "links", "volumes_from"):
        value = entries.get(key)
        if value is not None and isinstance(value.plain, tuple):
            found += [
                (item.plain.partition(":")[0], item, True)
                for item in value.plain
                if isinstance(item.plain, str) and not item.plain.startswith("container:")
            ]
    for key in ("network_mode", "ipc", "pid", "uts", "cgroup"):
        value = entries.get(key)
        if value is not None and isinstance(value.plain, str) and value.plain.startswith("service:"):
            found.append((value.plain.removeprefix("service:"), value, True))
    return found


def _is_required(value: Value) -> bool:
    required = value.plain.get("required") if isinstance(value.plain, dict) else None
    return required is None or required.plain is not False


def check_names(sections: Mapping[str, Value], services: Mapping[str, Value], *, implied: bool) -> None:
    """Check that what active services name is declared; `implied`: volumes need not be.

    Raises:
        InvalidSource: something is not.
    """
    for name, service in services.items():
        entries = service.plain if isinstance(service.plain, dict) else {}
        if not any(key in entries and entries[key].plain not in (None, "") for key in ("image", "build")):
            raise InvalidSource(service.place, f"services.{name} needs image or build; write image: NAME")
        for section, used in (
            ("networks", _names(entries.get("networks"))),
            ("configs", _sources(entries.get("configs"))),
            ("secrets", _sources(entries.get("secrets"))),
            ("volumes", [] if implied else _volumes(entries.get("volumes"))),
        ):
            declared = entries_of(sections, section)
            for what, value in used:
                if what not in declared and (section, what) != ("networks", "default"):
                    is_path_like = section == "volumes" and "/" in what
                    right = (
                        f"write ./{what} if it is a directory"
                        if is_path_like
                        else f"write it below {section}:"
                    )
                    message = f"services.{name}.{section}: {show(what)} is not declared; {right}"
                    raise InvalidSource(value.place, message)


def _names(value: Value | None) -> list[tuple[str, Value]]:
    if value is None:
        return []
    if isinstance(value.plain, dict):
        return list(value.plain.items())
    items = value.plain if isinstance(value.plain, tuple) else ()
    return [(item.plain, item) for item in items if isinstance(item.plain, str)]


def _sources(value: Value | None) -> list[tuple[str, Value]]:
    items = value.plain if value is not None and isinstance(value.plain, tuple) else ()
    found = [(item.plain.get("source") if isinstance(item.plain, dict) else item, item) for item in items]
    return [(name.plain, item) for name, item in found if name is not None and isinstance(name.plain, str)]


def _volumes(value: Value | None) -> list[tuple[str, Value]]:
    items = value.plain if value is not None and isinstance(value.plain, tuple) else ()
    found: list[tuple[str, Value]] = []
    for item in items:
        if isinstance(item.plain, dict):
            kind, source = item.plain.get("type"), item.plain.get("source")
            if (
                kind is not None
                and kind.plain == "volume"
                and source is not None
                and isinstance(source.plain, str)
            ):
                found.append((source.plain, item))
        elif isinstance(item.plain, str) and ":" in item.plain:
            source_name = item.plain.partition(":")[0]
            if not is_path(item.plain):
                found.append((source_name, item))
    return found
