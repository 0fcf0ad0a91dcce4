"""The question whether the devices of pods can be had on this machine."""

from __future__ import annotations

from collections.abc import Iterable

from tank_agent.doctor import Check, fail_of, ok
from tank_agent.errors import TankError, one_line
from tank_agent.runtime.container import devices
from tank_agent.spec.devices import is_cdi_name
from tank_agent.spec.model import Pod


def of_pods(pods: Iterable[Pod]) -> Check:
    """Say whether all devices of pods are there, those of CDI with all that their files name."""
    name, wrong, count = "devices of pods", [], 0
    for pod in pods:
        for container in pod.containers:
            for entry in container.security.devices:
                count += 1
                try:
                    _find(entry)
                except TankError as error:
                    wrong.append(f"pod {pod.name}: {one_line(str(error))}")
    if wrong:
        fix = "containers that need them can't start again; they do so by themselves once these are there"
        return fail_of(name, wrong, fix)
    return ok(name, f"all {count} are there")


def _find(entry: str) -> None:
    if not is_cdi_name(entry):
        devices.find([entry])
        return
    from tank_agent.runtime.container import cdi

    cdi.add(devices.Granted(), [entry], (0, 0))
