"""agent.toml for `tank validate`: which file is one, what is wrong with it, which machine it makes."""

from __future__ import annotations

import tomllib
from pathlib import Path

from tank_agent.errors import InvalidSpec, Problem
from tank_agent.spec.model import Host

NAME = "agent.toml"


def is_agent_file(path: Path, text: str, *, given: bool) -> bool:
    """Return whether a file is the agent's configuration: by its name, or, if it was `given`, by its keys."""
    if path.name == NAME:
        return True
    if not given:
        return False
    from tank_agent.settings.settings import Settings
    from tank_agent.spec.file import PodTable
    from tank_agent.spec.keys import keys_of

    try:
        keys = tomllib.loads(text).keys()
    except (ValueError, RecursionError):
        return False
    of_agents, of_pods = ({one.name for one in keys_of(kind)} for kind in (Settings, PodTable))
    return bool(keys & (of_agents - of_pods)) and not keys & (of_pods - of_agents)


def problems_of(path: Path) -> tuple[tuple[str, ...], tuple[Problem, ...]]:
    """Return the names of the seeds of an agent.toml, and all that is wrong with it."""
    from tank_agent.settings.settings import load_settings

    try:
        settings = load_settings(path, environ={})
    except InvalidSpec as error:
        return (), error.problems
    return tuple(seed.pod.name for seed in settings.seeds), settings.seed_problems


def this_machine(config: Path | None) -> Host | None:
    """Return this machine as selectors see it; None if it has no agent.toml that can be read."""
    import platform

    from tank_agent.settings.settings import DEFAULT_FILE

    try:
        labels = tomllib.loads((config or DEFAULT_FILE).read_text()).get("labels", {})
    except (OSError, ValueError, RecursionError):
        return None
    known = labels.items() if isinstance(labels, dict) else ()
    return Host(name=platform.node(), labels={key: value for key, value in known if isinstance(value, str)})
